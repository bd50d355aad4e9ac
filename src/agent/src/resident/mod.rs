//! nspawn-agent.service: restores at boot, heals within a second, rolls back what isn't confirmed.

mod notify;
mod watch;

use std::{os::unix::process::CommandExt as _, process::Command, time::Duration};

use protocol::{Failure, desired::Host};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};

use self::watch::Watch;
use crate::{
    context::Context,
    failure::Context as _,
    host,
    host::pending,
    lock::HostLock,
    reconcile::{Scope, reconcile},
    store::Stored,
    system::netlink::Netlink,
};

/// How long one reconcile may take, waiting for the lock included.
const TIME: Duration = Duration::from_mins(2);
/// Events come in bursts: a link that comes up, its addresses, its routes. Guests are dark meanwhile.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The same on a full host, where one look takes long.
const LONGEST_DEBOUNCE: Duration = Duration::from_millis(500);
/// The same while there is always something.
const STORM_DEBOUNCE: Duration = Duration::from_millis(700);
/// Sysctls and files change without an event.
const PATROL: Duration = Duration::from_secs(30);
/// The longest pause after failures in a row.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// So many reconciles with something to do, within [`STORM`], mean that somebody else undoes it.
const STORM_LIMIT: u32 = 20;
const STORM: Duration = Duration::from_mins(1);

/// Stays, until the service is stopped or the host is ours no more.
pub async fn run(netlink: Netlink) -> Result<(), Failure> {
    let context = Context::new(netlink, "nspawn-agent.service", TIME);
    let deed = || "listen for signals";
    let mut hangup = signal(SignalKind::hangup()).doing(deed)?;
    let mut terminate = signal(SignalKind::terminate()).doing(deed)?;
    let mut watch = Watch::start(&context)?;
    let mut pace = Pace::default();
    let lock = HostLock::take(&context.within_time(TIME)).await?;
    roll_back_if_due(&context).await?;
    pace.after(&heal(&context).await);
    drop(lock);
    notify::ready()?;
    loop {
        if context.store.get::<Host>("host")?.is_none() {
            return host::install::leave_if_unused(&context);
        }
        let deadline = rollback_at(&context)?;
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Err(take_up_new_binary()),
            () = sleep_until(deadline) => {}
            () = watch.changed() => tokio::time::sleep(pace.after_event()).await,
            () = tokio::time::sleep(pace.until_next_look()) => {}
        }
        watch.forget();
        // Whoever stops the service may hold the lock: that wait must not outlast the stop.
        let waiting = context.within_time(TIME);
        let lock = tokio::select! {
            _ = terminate.recv() => return Ok(()),
            lock = HostLock::take(&waiting) => lock,
        };
        match lock {
            Ok(_lock) => {
                roll_back_if_due(&context).await?;
                let began = Instant::now();
                pace.after(&heal(&context).await);
                pace.took = began.elapsed();
            }
            Err(failure) => pace.after(&Err(failure)),
        }
    }
}

/// How fast it reacts: at once, and slower when that doesn't help. A guest that fidgets, or one
/// object that can't be mended, must not keep the others waiting for more than a second.
#[derive(Debug, Default)]
struct Pace {
    /// Until the next try after a failure.
    pause: Duration,
    /// Since when it has been busy.
    began: Option<Instant>,
    /// How often it has had something to do since.
    busy: u32,
    /// What was told last.
    told: String,
    /// How long the last reconcile took.
    took: Duration,
}

impl Pace {
    /// How long to wait after an event for those that come along with it.
    fn after_event(&self) -> Duration {
        if self.pause.is_zero() && self.busy < STORM_LIMIT {
            // A full host that changes all the time is not looked at all the time, and a change that
            // waits for the lock gets its turn; yet all is mended within a second.
            DEBOUNCE.max(self.took.min(LONGEST_DEBOUNCE))
        } else {
            STORM_DEBOUNCE
        }
    }

    /// When to look again without an event: soon after a failure, now and then otherwise.
    fn until_next_look(&self) -> Duration {
        if self.pause.is_zero() {
            PATROL
        } else {
            self.pause
        }
    }

    /// Takes in how a reconcile ended: how many steps it did, or why it failed.
    fn after(&mut self, result: &Result<usize, Failure>) {
        let now = Instant::now();
        if self.began.is_none_or(|began| now - began > STORM) {
            self.began = Some(now);
            self.busy = 0;
        }
        match result {
            Ok(steps) => {
                self.pause = Duration::ZERO;
                self.busy += u32::from(*steps > 0);
                if self.busy == STORM_LIMIT {
                    self.tell("something on this host keeps undoing what nspawn-agent does; look for another program that manages the same interfaces, files or rules".to_owned());
                }
            }
            Err(failure) => {
                self.pause = (self.pause * 2).clamp(Duration::from_secs(1), LONGEST_PAUSE);
                self.tell(format!(
                    "could not bring the host to its desired state, trying again: {failure}"
                ));
            }
        }
    }

    /// The same line again and again tells nothing.
    fn tell(&mut self, line: String) {
        if self.told != line {
            eprintln!("{line}");
            self.told = line;
        }
    }
}

/// Brings everything to its desired state, under the lock; gives how many steps that took.
async fn heal(context: &Context) -> Result<usize, Failure> {
    let context = context.within_time(TIME);
    if context.store.get::<Host>("host")?.is_none() {
        return Ok(0);
    }
    let steps = reconcile(&context, &Scope::All).await?;
    for sentence in &steps {
        eprintln!("mended: {sentence}");
    }
    Ok(steps.len())
}

/// When an unconfirmed change is undone; far away when there is none.
fn rollback_at(context: &Context) -> Result<Instant, Failure> {
    let left = match pending::read(context)? {
        None => Duration::from_hours(24),
        Some(pending) => pending.left()?.unwrap_or(Duration::ZERO),
    };
    Ok(Instant::now() + left)
}

async fn roll_back_if_due(context: &Context) -> Result<(), Failure> {
    let context = context.within_time(TIME);
    let Some(pending) = pending::read(&context)? else {
        return Ok(());
    };
    if pending.left()?.is_some() {
        return Ok(());
    }
    match pending.former {
        Some(former) => {
            eprintln!("the last change of nspawn_host was not confirmed: going back");
            go_back(&context, &former).await
        }
        None => remove_unconfirmed(&context).await,
    }
}

async fn go_back(context: &Context, former: &Stored<Host>) -> Result<(), Failure> {
    context.store.put(former)?;
    pending::disarm(context)?;
    reconcile(context, &Scope::All).await.map(drop)
}

/// A host that was never confirmed is no host; but what stands on it already is not pulled away.
async fn remove_unconfirmed(context: &Context) -> Result<(), Failure> {
    let inventory = context.store.inventory()?;
    let Some(stored) = &inventory.host else {
        return pending::disarm(context);
    };
    if host::admit::check_unused(&inventory).is_err() {
        eprintln!("nspawn_host was not confirmed, but containers or addresses stand on it: kept");
        return pending::disarm(context);
    }
    eprintln!("nspawn_host was not confirmed: removing what was made for it");
    host::clear_but_service(context, stored).await?;
    context.store.remove::<Host>("host")?;
    context.store.remove_if_empty()
}

/// Becomes the binary in force, as the same process: a restart would reach the guests' units.
fn take_up_new_binary() -> Failure {
    let error = Command::new(host::install::BINARY).arg("resident").exec();
    let failed: Result<(), Failure> = Err(error).doing(|| "take up the new agent");
    failed.err().unwrap_or_else(|| {
        Failure::new(protocol::FailureKind::System, "the new agent did not start")
    })
}

#[cfg(test)]
mod tests {
    use protocol::FailureKind;

    use super::*;

    #[test]
    fn a_full_host_is_looked_at_less_often_but_within_a_second() {
        let mut pace = Pace::default();
        for (took, debounce) in [(1, 50), (200, 200), (5000, 500)] {
            pace.took = Duration::from_millis(took);
            pace.after(&Ok(0));
            assert_eq!(pace.after_event(), Duration::from_millis(debounce));
        }
    }

    #[test]
    fn it_slows_down_when_that_does_not_help_and_recovers() {
        let mut pace = Pace::default();
        let failed = Err(Failure::new(FailureKind::System, "no"));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            pace.after(&failed);
            pauses.push(pace.pause.as_secs());
        }
        assert_eq!(pauses[..4], [1, 2, 4, 8]);
        assert_eq!(pauses[11], 300);
        assert_eq!(
            (pace.until_next_look(), pace.after_event()),
            (LONGEST_PAUSE, STORM_DEBOUNCE)
        );
        pace.after(&Ok(0));
        assert_eq!(
            (pace.until_next_look(), pace.after_event()),
            (PATROL, DEBOUNCE)
        );
        for _ in 1..STORM_LIMIT {
            pace.after(&Ok(1));
            assert_eq!(pace.after_event(), DEBOUNCE);
        }
        pace.after(&Ok(1));
        assert_eq!(pace.after_event(), STORM_DEBOUNCE);
    }
}
