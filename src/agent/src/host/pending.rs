//! Commit-confirmed: a change of the host is undone unless it is confirmed over a new connection.

use std::{fs, time::Duration};

use protocol::{Failure, FailureKind, desired::Host, name::OwnerToken};
use serde::{Deserialize, Serialize};

use crate::{context::Context, failure::Context as _, store::Stored};

const FILE: &str = "pending.json";

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
}

impl Pending {
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

fn boot_id() -> Result<String, Failure> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path)
        .map(|id| id.trim().to_owned())
        .doing(|| format!("read {path}"))
}

/// Whether a change can cut the operator off, or the guests.
fn matters(host: &Host, previous: Option<&Host>) -> bool {
    previous.is_none_or(|previous| {
        previous.bridge != host.bridge
            || previous.uplink != host.uplink
            || previous.isolation != host.isolation
            || previous.nesting != host.nesting
    })
}

/// Notes the state to go back to, before anything is changed.
pub fn arm(context: &Context, host: &Host, previous: Option<&Stored<Host>>) -> Result<(), Failure> {
    let time = host.rollback_after.duration();
    if time.is_zero() || !matters(host, previous.map(|stored| &stored.desired)) {
        return Ok(());
    }
    // A change on top of an unconfirmed one goes back to the last confirmed state.
    let former = match read(context)? {
        Some(earlier) => earlier.former,
        None => previous.cloned(),
    };
    let armed = clock();
    context.store.put_beside(
        FILE,
        &Pending {
            former,
            armed,
            deadline: armed + time,
            boot_id: boot_id()?,
        },
    )
}

/// The change that waits, if any.
pub fn read(context: &Context) -> Result<Option<Pending>, Failure> {
    context.store.get_beside(FILE)
}

/// Keeps what is.
pub fn disarm(context: &Context) -> Result<(), Failure> {
    context.store.remove_beside(FILE)
}

/// Keeps a change for good, when a connection that began after it says so.
pub fn confirm(context: &Context, token: &OwnerToken, began: Duration) -> Result<(), Failure> {
    let Some(pending) = read(context)? else {
        return Ok(());
    };
    let stored = context.store.get::<Host>("host")?;
    if stored.is_none_or(|stored| stored.owner.token != *token) {
        return Err(Failure::new(
            FailureKind::NotOwner,
            "this host belongs to another Terraform state, which alone can confirm its change",
        ));
    }
    if began <= pending.armed {
        return Err(Failure::new(
            FailureKind::Protocol,
            "a change of the host is confirmed by a connection that was made after it",
        ));
    }
    disarm(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_up_at_the_deadline_and_with_the_next_boot() {
        let pending = Pending {
            former: None,
            armed: Duration::from_secs(10),
            deadline: Duration::from_secs(40),
            boot_id: "one".to_owned(),
        };
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
    }
}
