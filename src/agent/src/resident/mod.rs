//! nspawn-agent.service: restores at boot, heals within a second, rolls back what isn't confirmed.

mod carriers;
mod files;
mod glance;
mod notify;
mod pace;
mod patience;
mod signals;
mod watch;

use std::time::Duration;

use protocol::{Failure, FailureKind, desired::Host};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, sleep_until, timeout},
};

use self::{carriers::Carriers, pace::Pace, patience::Patience, signals::Signals, watch::Watch};
use crate::{
    container,
    context::Context,
    discarded, given_up, host,
    host::{pending, rollback},
    left_over,
    lock::{self, HostLock, Presence},
    reconcile::{Look, ROUNDS, Scope, Step, Tried, look},
    system::{self, netlink::Netlink},
};

/// How long one reconcile may take, waiting for the lock included.
const TIME: Duration = Duration::from_mins(2);
/// How long the step may take that is under way when that time is up.
const LAST_STEP: Duration = Duration::from_secs(30);
/// How often it looks, while it waits for the lock, whether a change is to be undone.
const LOCK_SLICE: Duration = Duration::from_millis(500);
/// When to try once more what could not be undone.
const GO_BACK_AGAIN: Duration = Duration::from_secs(1);
/// When to try once more to end a removal that could not be ended: after this, or so many times as long as it took.
const FINISH_AGAIN: (Duration, u32) = (Duration::from_secs(30), 10);
/// When to start again after an end that nobody asked for, with nothing to undo.
const START_AGAIN: Duration = Duration::from_secs(5);
/// How long others may hold the lock when a change should have been undone.
const LOCK_GRACE: Duration = Duration::from_secs(3);

/// Stays, until the service is stopped or the host is ours no more.
pub async fn run(netlink: Netlink) -> Result<(), Failure> {
    let context = Context::new(netlink, "nspawn-agent.service", TIME);
    let result = stay(context.clone()).await;
    sleep(pause_after(&context, &result)).await;
    result
}

/// systemd starts it again at once, which a change that is to be undone needs. Its own RestartSteps= would go on growing
/// over all restarts of a boot. systemd#43813
fn pause_after(context: &Context, result: &Result<(), Failure>) -> Duration {
    match (result, pending::read(context)) {
        (Err(_), Ok(None)) => START_AGAIN,
        _ => Duration::ZERO,
    }
}

async fn stay(context: Context) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    // From here on a change can count on being undone, whatever else can't be begun.
    let make_folder = || system::files::create_folder(&context.run_folder, 0o755);
    let _presence = Presence::show(&host::install::presence(&context), make_folder)?;
    let lock = signals.unless(take_lock(&context)).await?;
    let cannot_go_back = go_back_if_due(&context, None).await;
    let mut healer = Healer::start(context.clone(), cannot_go_back)?;
    healer.heal().await;
    // A file that is right needs no writing, so that nothing else takes up what a killed process has left of it.
    let cleared = left_over::clear(&context);
    tell(cleared.err().map(|failure| failure.to_string()));
    healer.clear_away();
    drop(lock);
    notify::ready()?;
    loop {
        // What can't be read is told by the look below; ending would be a loop.
        if is_left(&context).unwrap_or_default() {
            match signals.unless(take_lock(&context)).await {
                Ok(_lock) if is_left(&context)? => return leave(&context).await,
                // Somebody has just begun to make it a host again.
                Ok(_) => {}
                Err(failure) => healer.could_not(failure),
            }
        }
        let next = async {
            tokio::select! {
                () = healer.until_rollback() => {}
                () = healer.watch.changed() => sleep(healer.pace.after_event()).await,
                () = sleep(healer.until_next_look()) => {}
            }
            take_lock(&context).await
        };
        // Whoever stops the service may hold the lock: that wait must not outlast the stop.
        match signals.unless(next).await {
            Ok(_lock) => {
                healer.go_back_if_due().await;
                healer.heal().await;
                healer.clear_away();
            }
            Err(failure) => healer.could_not(failure),
        }
    }
}

/// Takes the lock. When a change should have been undone, whoever still holds it is ended.
async fn take_lock(context: &Context) -> Result<HostLock, Failure> {
    let until = Instant::now() + TIME;
    loop {
        let mut slice = context.within_time(LOCK_SLICE);
        if is_due(context) {
            slice = slice.in_haste();
        }
        match HostLock::take(&slice).await {
            Err(failure) if failure.kind == FailureKind::Busy => {
                let overdue = match pending::read(context)? {
                    Some(pending) => pending.overdue()?,
                    None => None,
                };
                if overdue.is_some_and(|overdue| overdue > LOCK_GRACE) {
                    let ended = lock::end_holders(context)?;
                    eprintln!(
                        "a change is to be undone: ended {ended} processes of the agent that held the host's lock"
                    );
                } else if Instant::now() > until {
                    return Err(failure);
                }
            }
            result => return result,
        }
    }
}

/// Whether a change is to be undone now. What can't be read is told by whoever goes back.
fn is_due(context: &Context) -> bool {
    let pending = pending::read(context).ok().flatten();
    pending.is_some_and(|pending| matches!(pending.left(), Ok(None)))
}

/// What can't be undone is told once, and tried again with the next look: healing goes on. Gives why, as it was told.
async fn go_back_if_due(context: &Context, told: Option<String>) -> Option<String> {
    let line = match rollback::if_due(context).await {
        Ok(missing) if missing.is_empty() => None,
        Ok(missing) => Some(format!(
            "the host can't be reached as before yet, trying again: {}",
            missing.join("; ")
        )),
        Err(failure) => Some(format!("could not undo a change, trying again: {failure}")),
    };
    tell_once(line.as_deref(), told.as_deref());
    line
}

/// Whether nothing of this host is ours, nor about to be.
fn is_left(context: &Context) -> Result<bool, Failure> {
    Ok(context.store.get::<Host>("host")?.is_none() && pending::read(context)?.is_none())
}

/// Leaves a host that is ours no more, also where a change was cut off before it began. The host's lock is held by
/// the caller.
async fn leave(context: &Context) -> Result<(), Failure> {
    host::install::remove_service(context).await?;
    context.store.remove_if_empty()?;
    host::leave::if_unused(context)
}

/// What keeps the host as it should be.
struct Healer {
    context: Context,
    watch: Watch,
    pace: Pace,
    patience: Patience<Step>,
    carriers: Carriers,
    clearing: Option<JoinHandle<()>>,
    /// Why the last try to undo a change failed, as it was told.
    cannot_go_back: Option<String>,
    /// Why files of ours can't all be watched, as it was told.
    unwatched: Option<String>,
    /// Why removals that were cut off can't be ended, as it was told, and when that is tried again.
    unfinished: Option<String>,
    finish_at: Instant,
}

impl Healer {
    fn start(context: Context, cannot_go_back: Option<String>) -> Result<Self, Failure> {
        // What an earlier run has given up is tried anew.
        given_up::forget(&context)?;
        Ok(Self {
            watch: Watch::start()?,
            context,
            pace: Pace::new(Instant::now()),
            patience: Patience::new(),
            carriers: Carriers::default(),
            clearing: None,
            cannot_go_back,
            unwatched: None,
            unfinished: None,
            finish_at: Instant::now(),
        })
    }

    /// Until the next look without an event.
    fn until_next_look(&self) -> Duration {
        let patrol = self.pace.until_next_look(self.unwatched.is_some());
        let next_try = self.patience.next_try();
        let next_try = next_try.map(|next| next.saturating_duration_since(Instant::now()));
        if self.pace.has_failed() {
            patrol
        } else {
            next_try.map_or(patrol, |next| patrol.min(next))
        }
    }

    async fn go_back_if_due(&mut self) {
        let told = self.cannot_go_back.take();
        self.cannot_go_back = go_back_if_due(&self.context, told).await;
    }

    /// Until an unconfirmed change is to be undone.
    async fn until_rollback(&self) {
        // Also where the lock could not be taken.
        let pause = if self.cannot_go_back.is_some() || self.pace.has_failed() {
            GO_BACK_AGAIN
        } else {
            Duration::ZERO
        };
        match rollback_at(&self.context) {
            Ok(at) => sleep_until(at.max(Instant::now() + pause)).await,
            Err(_) => sleep(GO_BACK_AGAIN).await,
        }
    }

    /// Takes in that there was no look.
    fn could_not(&mut self, failure: Failure) {
        tell(
            self.pace
                .after(&Err(failure), Duration::ZERO, Instant::now()),
        );
    }

    /// Beside all else, removes what nobody removes any more of containers and images that are gone.
    fn clear_away(&mut self) {
        if self.clearing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.clearing = Some(spawn_blocking(|| {
                tell(
                    discarded::clear_abandoned()
                        .err()
                        .map(|failure| failure.to_string()),
                );
            }));
        }
    }

    /// Brings everything to its desired state, under the lock; what goes wrong is told and tried again.
    async fn heal(&mut self) {
        self.watch.forget();
        let began = Instant::now();
        let result = match rollback_at(&self.context) {
            // It was tried a moment ago.
            Ok(_) if self.cannot_go_back.is_some() => self.heal_in_time().await,
            Ok(rollback) => tokio::select! {
                result = self.heal_in_time() => result,
                // What hangs must not keep a change from being undone.
                () = sleep_until(rollback) => return,
            },
            Err(failure) => Err(failure),
        };
        if result.is_err() {
            // It may be the bus that was restarted.
            self.context = self.context.reconnected();
        }
        let now = Instant::now();
        let told = self.pace.after(&result, now - began, now);
        tell(told);
    }

    /// What hangs must not keep the host's lock either.
    async fn heal_in_time(&mut self) -> Result<(), Failure> {
        timeout(TIME + LAST_STEP, self.try_to_heal())
            .await
            .unwrap_or_else(|_| Err(hung()))
    }

    /// Brings removals to their end that were cut off. What can't be ended is told once, and keeps nothing from being healed.
    async fn finish_removals(&mut self, context: &Context) {
        let began = Instant::now();
        let is_over = || context.store.removals().is_ok_and(|left| left.is_empty());
        if began < self.finish_at && !is_over() {
            return;
        }
        let failure = container::finish(context).await.err();
        let line = failure.map(|failure| failure.to_string());
        if line.is_some() {
            let (least, times) = FINISH_AGAIN;
            self.finish_at = Instant::now() + least.max(began.elapsed() * times);
        }
        tell_once(line.as_deref(), self.unfinished.as_deref());
        self.unfinished = line;
    }

    /// Watches for what differs from this look. What can't be watched is told once, and looked at more often instead.
    fn follow(&mut self, context: &Context, look: &Look) {
        let failure = self.watch.follow(context, look).err();
        let line = failure.map(|failure| {
            format!(
                "not all files of ours can be watched, so that they are looked at each second instead: {failure}; a \
                 guest may have used up what root may have (fs.inotify.max_user_instances and max_user_watches)"
            )
        });
        tell_once(line.as_deref(), self.unwatched.as_deref());
        self.unwatched = line;
    }

    async fn try_to_heal(&mut self) -> Result<(), Failure> {
        if self.context.store.get::<Host>("host")?.is_none() {
            return Ok(());
        }
        if self.watch.desired_has_changed() {
            self.patience.try_all_afresh();
        }
        let context = self.context.within_time(TIME);
        for _ in 0..ROUNDS {
            let look = look(&context, &Scope::All).await?;
            self.follow(&context, &look);
            let flapped = self.carriers.changed(&look.observed.network);
            let now = Instant::now();
            tell(self.patience.looked(|step| look.steps.contains(step), now));
            let may = |step: &Step| self.patience.allows(step, now);
            let tried = look.act(&context, may).await?;
            let is_done = tried.is_empty();
            for tried in tried {
                let is_expected =
                    tried.step.follows_a_stop() || carriers::follows(&tried.step, &flapped);
                tell(note(&mut self.patience, tried, is_expected, Instant::now()));
            }
            if is_done {
                break;
            }
        }
        self.finish_removals(&context).await;
        let mut given_up = self.patience.given_up();
        given_up.extend(self.unfinished.clone());
        given_up.extend(self.unwatched.clone());
        // A change has everything tried again, and has forgotten what was noted.
        if given_up != given_up::read(&context)? {
            given_up::write(&context, &given_up)?;
        }
        Ok(())
    }
}

/// Takes in how a step ended; gives what is to be told of it. What was to be expected is no sign of somebody who undoes it.
fn note(
    patience: &mut Patience<Step>,
    tried: Tried,
    is_expected: bool,
    now: Instant,
) -> Option<String> {
    let Tried {
        step,
        sentence,
        result,
    } = tried;
    match result {
        Ok(()) => {
            eprintln!("mended: {sentence}");
            if is_expected {
                return None;
            }
            patience.mended(step, &sentence, now)
        }
        Err(failure) => patience.failed(step, &sentence, &failure.to_string(), now),
    }
}

fn hung() -> Failure {
    Failure::new(
        FailureKind::Timeout,
        "something that this host was asked gave no answer, so that the look at it was broken off",
    )
}

/// Writes lines to the journal.
fn tell(lines: impl IntoIterator<Item = String>) {
    for line in lines {
        eprintln!("{line}");
    }
}

/// Writes a line to the journal that isn't what was told last.
fn tell_once(line: Option<&str>, told: Option<&str>) {
    if line != told {
        tell(line.map(str::to_owned));
    }
}

/// When an unconfirmed change is undone; far away when there is none.
fn rollback_at(context: &Context) -> Result<Instant, Failure> {
    let left = match pending::read(context)? {
        None => Duration::from_hours(24),
        Some(pending) => pending.left()?.unwrap_or(Duration::ZERO),
    };
    Ok(Instant::now() + left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Step::{DeleteNeighbour, FixNeighbour};

    #[tokio::test(flavor = "current_thread")]
    async fn only_with_nothing_to_undo_the_next_start_may_wait() {
        crate::testing::within(TIME, async |context| {
            let folder = tempfile::tempdir().unwrap();
            let context = crate::testing::in_folder(context, folder.path());
            let failed = Err(hung());
            assert_eq!(pause_after(&context, &failed), START_AGAIN);
            assert_eq!(pause_after(&context, &Ok(())), Duration::ZERO);
            let torn = "what can't be read may be one";
            context.store.put_beside("pending.json", &torn).unwrap();
            assert_eq!(pause_after(&context, &failed), Duration::ZERO);
        })
        .await;
    }

    #[test]
    fn a_guest_that_restarts_often_is_nobody_who_undoes_what_was_mended() {
        let address = "203.0.113.2".parse().unwrap();
        let mut patience = Patience::new();
        let mut now = Instant::now();
        let mut tell = |port, also_stops| {
            now += Duration::from_secs(1);
            let fixed = Step::Filter(FixNeighbour {
                address,
                index: 3,
                mac: [2; 6],
                port,
            });
            let deleted = Step::Filter(DeleteNeighbour { address, index: 3 });
            let steps = [Some(fixed), Some(deleted).filter(|_| also_stops)];
            let tried = steps.into_iter().flatten().map(|step| Tried {
                step,
                sentence: "the entry is missing".to_owned(),
                result: Ok(()),
            });
            let told = tried.filter_map(|tried| {
                let is_expected = tried.step.follows_a_stop();
                note(&mut patience, tried, is_expected, now)
            });
            told.collect::<Vec<_>>()
        };
        for port in 10..50 {
            assert_eq!(tell(port, true), [""; 0]);
        }
        let told: Vec<String> = (0..40).flat_map(|_| tell(99, false)).collect();
        assert_eq!(told.len(), 1, "somebody removes the entry of one port");
    }
}
