//! How fast the resident service looks again: pure.

use std::time::Duration;

use protocol::Failure;
use tokio::time::Instant;

/// Events come in bursts: a link that comes up, its addresses, its routes. Guests are dark meanwhile.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The same on a full host, where one look takes long, and while there is always something.
const LONGEST_DEBOUNCE: Duration = Duration::from_millis(500);
/// So many looks in quick succession, of which one is forgotten in each second without one, mean that there is.
const BURST: f64 = 20.0;
/// What no event tells of, such as an address that is deleted inside a guest.
const PATROL: Duration = Duration::from_secs(30);
/// The same while files can't be watched, so that what is mended within a second is mended then, too.
const BLIND_PATROL: Duration = Duration::from_secs(1);
/// The pause after a look that failed: what went missing along with the bus is back within a second, too.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause after looks in a row that failed, whose cause may go without a word.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When to look again: at once after an event, and slower when events never end, yet so that all is
/// mended within a second.
#[derive(Debug)]
pub struct Pace {
    /// Until the next try after a look that failed.
    pause: Duration,
    /// How many looks there were in quick succession, up to `counted`.
    looks: f64,
    counted: Instant,
    /// How long the last look took, what it did included.
    took: Duration,
    /// The last failure that was told.
    told: String,
}

impl Pace {
    /// A host that nothing has happened on yet.
    pub fn new(now: Instant) -> Self {
        Self {
            pause: Duration::ZERO,
            looks: 0.0,
            counted: now,
            took: Duration::ZERO,
            told: String::new(),
        }
    }

    /// How long to wait after an event for those that come along with it.
    pub fn after_event(&self) -> Duration {
        if self.looks < BURST {
            // A change that waits for the lock gets its turn on a full host that changes all the time.
            DEBOUNCE.max(self.took.min(LONGEST_DEBOUNCE))
        } else {
            // A guest may flap its own link for ever: half of the time is others' at least.
            LONGEST_DEBOUNCE.max(self.took)
        }
    }

    /// When to look again without an event: soon after a failure or when some can't come, now and then otherwise.
    pub fn until_next_look(&self, is_blind: bool) -> Duration {
        match (self.has_failed(), is_blind) {
            (true, _) => self.pause,
            (false, true) => BLIND_PATROL.max(self.took),
            (false, false) => PATROL,
        }
    }

    /// Whether the last look failed.
    pub fn has_failed(&self) -> bool {
        !self.pause.is_zero()
    }

    /// Takes in how a look ended; gives what is to be told, which is no line twice in a row.
    pub fn after(
        &mut self,
        result: &Result<(), Failure>,
        took: Duration,
        now: Instant,
    ) -> Option<String> {
        // Counted in the time between looks, or slow ones would never be many.
        let idle = (now - self.counted).saturating_sub(took).as_secs_f64();
        let forgotten = idle / took.as_secs_f64().max(1.0);
        self.looks = (self.looks - forgotten).clamp(0.0, BURST) + 1.0;
        self.counted = now;
        self.took = took;
        let Err(failure) = result else {
            self.pause = Duration::ZERO;
            self.told.clear();
            return None;
        };
        self.pause = (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        let line =
            format!("could not bring the host to its desired state, trying again: {failure}");
        if line == self.told {
            return None;
        }
        self.told.clone_from(&line);
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use protocol::FailureKind;

    use super::*;

    #[test]
    fn a_full_host_is_looked_at_less_often_but_within_a_second() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for (took, debounce) in [(1, 50), (200, 200), (5000, 500)] {
            pace.after(&Ok(()), Duration::from_millis(took), now);
            assert_eq!(pace.after_event(), Duration::from_millis(debounce));
        }
    }

    #[test]
    fn events_without_end_are_looked_at_twice_a_second() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..40 {
            pace.after(&Ok(()), Duration::ZERO, now);
            now += pace.after_event();
        }
        assert_eq!(pace.after_event(), LONGEST_DEBOUNCE);
        pace.after(&Ok(()), Duration::ZERO, now + Duration::from_secs(5));
        assert_eq!(pace.after_event(), DEBOUNCE, "it was quiet for a while");
    }

    #[test]
    fn events_without_end_take_half_of_the_time_at_most() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let took = Duration::from_millis(900);
        let (mut looking, mut pausing) = (Duration::ZERO, Duration::ZERO);
        for look in 0..80 {
            now += took;
            pace.after(&Ok(()), took, now);
            now += pace.after_event();
            if look >= 60 {
                looking += took;
                pausing += pace.after_event();
            }
        }
        assert!(pausing >= looking, "{pausing:?} for {looking:?}");
    }

    #[test]
    fn looks_that_fail_are_repeated_less_and_less_often_and_told_once() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let failed = Err(Failure::new(FailureKind::System, "no"));
        let (mut pauses, mut told) = (Vec::new(), 0);
        for _ in 0..12 {
            told += usize::from(pace.after(&failed, Duration::ZERO, now).is_some());
            pauses.push(pace.until_next_look(false).as_millis());
        }
        assert_eq!(
            (&pauses[..4], pauses[11], told),
            (&[250, 500, 1000, 2000][..], 30_000, 1)
        );
        assert_eq!(pace.after(&Ok(()), Duration::ZERO, now), None);
        assert_eq!(pace.until_next_look(false), PATROL);
        assert_eq!(pace.until_next_look(true), BLIND_PATROL);
        let slow = Duration::from_secs(3);
        pace.after(&Ok(()), slow, now);
        assert_eq!(
            pace.until_next_look(true),
            slow,
            "half of the time is others'"
        );
        assert!(pace.after(&failed, Duration::ZERO, now).is_some());
    }
}
