//! Commit-confirmed: a change of the host is undone unless it is confirmed over a new connection.

use std::time::Duration;

use protocol::{
    Failure, FailureKind,
    desired::Host,
    name::{OwnerToken, SessionId},
};
use serde::{Deserialize, Serialize};

use super::{facts::boot_id, rollback, way_in::WayIn};
use crate::{context::Context, store::Stored};

const FILE: &str = "pending.json";

/// How often the way in is put back while something of it is missing.
const TRIES: u32 = 10;

/// A change that waits to be confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The last confirmed state; none when the host was not made yet.
    pub former: Option<Stored<Host>>,
    /// When it was changed, on the clock of [`clock`].
    armed: Duration,
    /// When it is undone.
    deadline: Duration,
    /// The boot that it was changed in: boot restores confirmed state only.
    boot_id: String,
    /// What it was to become.
    pub asked: Option<Host>,
    /// Who asked for it.
    pub session: Option<SessionId>,
    /// How the host was reached before it.
    #[serde(default)]
    pub way_in: WayIn,
    /// How often it was undone with something of the way in still missing.
    #[serde(default)]
    tries: u32,
}

impl Pending {
    /// Whether it was undone, and only its way in is still to be put back.
    pub fn is_undone(&self) -> bool {
        self.tries > 0
    }

    /// Whether its way in is worth another try. Only the resident service makes those; it isn't there any more once
    /// somebody else has removed a host that was never confirmed.
    pub fn may_try_again(&self, is_resident: bool) -> bool {
        self.tries + 1 < TRIES && (is_resident || self.former.is_some())
    }

    /// Whether only the resident service goes on with it: other requests would use up its tries.
    pub fn is_left_to_resident(&self) -> bool {
        self.is_undone() && self.former.is_some()
    }

    /// Whether it was made before the last boot.
    pub fn is_of_another_boot(&self) -> Result<bool, Failure> {
        Ok(self.boot_id != boot_id()?)
    }

    /// For how long it should have been undone already; none while its time isn't up.
    pub fn overdue(&self) -> Result<Option<Duration>, Failure> {
        Ok(match self.left()? {
            // Nobody is ended for the way in alone.
            None if self.is_undone() => None,
            Some(_) => None,
            None => Some(clock().saturating_sub(self.deadline)),
        })
    }

    /// How long until it is undone; none at once: its time is up, or the host was rebooted since.
    pub fn left(&self) -> Result<Option<Duration>, Failure> {
        Ok(left(self, clock(), &boot_id()?))
    }
}

fn left(pending: &Pending, now: Duration, boot_id: &str) -> Option<Duration> {
    if pending.boot_id != boot_id {
        return None;
    }
    pending
        .deadline
        .checked_sub(now)
        .filter(|left| !left.is_zero())
}

/// Time since boot, suspension included: the same for all processes, and never set back.
pub fn clock() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Whether a change can cut the operator off, or the guests.
fn matters(host: &Host, uplink: &str, previous: Option<&Stored<Host>>) -> bool {
    previous.is_none_or(|stored| {
        let previous = &stored.desired;
        previous.bridge != host.bridge
            || previous.uplink != host.uplink
            || super::uplink(stored) != uplink
            || previous.isolation != host.isolation
            || previous.nesting != host.nesting
    })
}

/// Whether a change has to be confirmed: also the same again while it waits for that.
pub fn is_needed(
    context: &Context,
    host: &Host,
    uplink: &str,
    previous: Option<&Stored<Host>>,
) -> Result<bool, Failure> {
    if host.rollback_after.duration().is_zero() {
        return Ok(false);
    }
    Ok(matters(host, uplink, previous) || read(context)?.is_some())
}

/// Notes the state to go back to, before anything is changed.
pub async fn arm(
    context: &Context,
    host: &Host,
    previous: Option<&Stored<Host>>,
    uplink: &str,
) -> Result<(), Failure> {
    // A change on top of an unconfirmed one, also the same again, goes back to the last confirmed state.
    let (former, way_in) = match read(context)? {
        Some(earlier) => (earlier.former, earlier.way_in),
        None => (previous.cloned(), WayIn::observe(context, uplink).await?),
    };
    let armed = clock();
    let pending = Pending {
        former,
        armed,
        deadline: armed + host.rollback_after.duration(),
        boot_id: boot_id()?,
        asked: Some(host.clone()),
        session: context.session.clone(),
        way_in,
        tries: 0,
    };
    context.store.put_beside(FILE, &pending)
}

/// The change that waits, if any.
pub fn read(context: &Context) -> Result<Option<Pending>, Failure> {
    context.store.get_beside(FILE)
}

/// Lets the way in be put back once more, which isn't whole yet.
pub fn try_again(context: &Context, pending: &Pending) -> Result<(), Failure> {
    let next = Pending {
        tries: pending.tries + 1,
        ..pending.clone()
    };
    context.store.put_beside(FILE, &next)
}

/// Keeps what is.
pub fn disarm(context: &Context) -> Result<(), Failure> {
    context.store.remove_beside(FILE)
}

/// Keeps a change for good, when a connection that began after it says so.
pub fn confirm(context: &Context, token: &OwnerToken, began: Duration) -> Result<(), Failure> {
    let Some(stored) = context.store.get::<Host>("host")? else {
        return Err(undone());
    };
    if stored.owner.token != *token {
        return Err(Failure::new(
            FailureKind::NotOwner,
            "this host belongs to another Terraform state, which alone can confirm its change",
        ));
    }
    let Some(pending) = read(context)? else {
        // Confirmed already, by a request whose answer was lost; or too late.
        return match rollback::last(context)? {
            Some(_) => Err(undone()),
            None => Ok(()),
        };
    };
    // Nor is what the last boot has not brought into force, or what is about to be undone, kept by being reachable now.
    if pending.is_undone() || pending.left()?.is_none() {
        return Err(undone());
    }
    if began <= pending.armed {
        return Err(Failure::new(
            FailureKind::Protocol,
            "a change of the host is confirmed by a connection that was made after it",
        ));
    }
    disarm(context)
}

fn undone() -> Failure {
    Failure::new(
        FailureKind::Timeout,
        "the change is undone, because its time was up or the host was rebooted",
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn another_uplink_matters_also_when_nobody_asked_for_it() {
        let stored = crate::testing::inventory(&[], &[]).host.unwrap();
        let host = &stored.desired;
        assert!(matters(host, "eth0", None));
        assert!(!matters(host, "eth0", Some(&stored)));
        assert!(matters(host, "eth1", Some(&stored)));
    }

    fn pending(former: Option<Stored<Host>>, boot_id: &str) -> Pending {
        Pending {
            former,
            armed: Duration::from_secs(10),
            deadline: Duration::from_secs(40),
            boot_id: boot_id.to_owned(),
            asked: None,
            session: None,
            way_in: WayIn::default(),
            tries: 0,
        }
    }

    #[test]
    fn only_the_resident_makes_another_try() {
        let mut pending = pending(crate::testing::inventory(&[], &[]).host, "one");
        // Whoever serves a provider may be the first to go back; the resident goes on from there.
        assert!(pending.may_try_again(false) && !pending.is_left_to_resident());
        pending.tries = 1;
        assert!(pending.is_left_to_resident());
        // A host that was never confirmed is removed with its service.
        pending.former = None;
        assert!(!pending.may_try_again(false) && pending.may_try_again(true));
        assert!(!pending.is_left_to_resident());
    }

    async fn asked_meanwhile() {
        let netlink = crate::system::netlink::Netlink::open().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let context = Context::new(netlink, "test", Duration::from_mins(1));
        let context = crate::testing::in_folder(context, folder.path());
        let former = crate::testing::inventory(&[], &[]).host;
        let undone = Pending {
            tries: 1,
            ..pending(former, "an earlier one")
        };
        context.store.put_beside(FILE, &undone).unwrap();
        // Going back would fail here, before it touches the machine of this test.
        fs::create_dir(context.store.folder().join("host.json")).unwrap();
        assert_eq!(rollback::if_due(&context).await.unwrap(), [""; 0]);
        assert_eq!(read(&context).unwrap(), Some(undone));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_what_this_boot_has_made_and_still_has_time_is_confirmed() {
        crate::testing::within(Duration::from_secs(20), async |context| {
            let folder = tempfile::tempdir().unwrap();
            let context = crate::testing::in_folder(context, folder.path());
            let host = crate::testing::inventory(&[], &[]).host.unwrap();
            context.store.put(&host).unwrap();
            let (boot, long) = (boot_id().unwrap(), Duration::from_hours(1));
            for (boot_id, armed, deadline, is_kept) in [
                ("an earlier one", Duration::ZERO, clock() + long, false),
                (&boot, Duration::ZERO, clock(), false),
                (&boot, clock() + long, clock() + long, false),
                (&boot, Duration::ZERO, clock() + long, true),
            ] {
                let waiting = Pending {
                    armed,
                    deadline,
                    ..pending(None, boot_id)
                };
                context.store.put_beside(FILE, &waiting).unwrap();
                let confirmed = confirm(&context, &host.owner.token, clock());
                assert_eq!(confirmed.is_ok(), is_kept, "{waiting:?}");
                assert_eq!(read(&context).unwrap().is_none(), is_kept);
            }
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_destroyed_since_is_not_gone_back_to() {
        crate::testing::within(Duration::from_secs(20), async |context| {
            let folder = tempfile::tempdir().unwrap();
            let context = crate::testing::in_folder(context, folder.path());
            let former = crate::testing::inventory(&[], &[]).host;
            let waiting = Pending {
                deadline: clock() + Duration::from_hours(1),
                ..pending(former.clone(), &boot_id().unwrap())
            };
            for (host, is_kept) in [(former, true), (None, false)] {
                context.store.put_beside(FILE, &waiting).unwrap();
                match &host {
                    Some(host) => context.store.put(host).unwrap(),
                    None => context.store.remove::<Host>("host").unwrap(),
                }
                let missing = Box::pin(rollback::if_due(&context)).await.unwrap();
                assert_eq!(missing, [""; 0]);
                assert_eq!(read(&context).unwrap().is_some(), is_kept);
                assert_eq!(context.store.get::<Host>("host").unwrap(), host);
            }
        })
        .await;
    }

    /// In a network namespace of its own, in which nothing can be put back by mistake.
    #[test]
    #[allow(unsafe_code, reason = "rustix calls every unshare(2) unsafe")]
    fn a_providers_request_uses_up_no_try() {
        use rustix::thread::{UnshareFlags, unshare_unsafe};
        let thread = std::thread::spawn(|| {
            // SAFETY: CLONE_NEWNET leaves memory and descriptors as they are.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, asked_meanwhile());
        });
        thread.join().unwrap();
    }

    #[test]
    fn the_time_is_up_at_the_deadline_and_with_the_next_boot() {
        let mut pending = pending(None, "one");
        for (now, boot, expected) in [
            (10, "one", Some(30)),
            (39, "one", Some(1)),
            (40, "one", None),
            (90, "one", None),
            (11, "two", None),
        ] {
            let found = left(&pending, Duration::from_secs(now), boot);
            assert_eq!(found, expected.map(Duration::from_secs), "{now} {boot}");
        }
        for (tries, is_undone, may_try_again) in
            [(0, false, true), (1, true, true), (9, true, false)]
        {
            pending.tries = tries;
            let found = (pending.is_undone(), pending.may_try_again(true));
            assert_eq!(found, (is_undone, may_try_again), "{tries}");
        }
    }
}
