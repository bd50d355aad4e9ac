//! Leaves alone for a while what keeps being undone or can't be done, thing by thing: pure.
//!
//! All others are healed at once meanwhile. Each thing is told once, and again when it holds.

use std::time::Duration;

use tokio::time::Instant;

/// So many mends mean that something undoes them; one is forgotten each [`FORGET`].
const LIMIT: u32 = 20;
const FORGET: Duration = Duration::from_mins(1);
/// A thing that was mended and stays so for this long is tried at once the next time.
const HOLDS: Duration = Duration::from_mins(1);
/// The pauses of a thing that is undone double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_mins(30);
/// The same of a thing that fails, which may pass in a moment: its link comes up just now.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Its cause may go without a word, as a full disk's: then it isn't to last for long, nor to be told of.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// A failure that has lasted for so many tries is no passing one.
const LASTING: u32 = 6;

/// What is known of the things that were mended lately.
#[derive(Debug)]
pub struct Patience<K> {
    things: Vec<Thing<K>>,
}

#[derive(Debug)]
struct Thing<K> {
    key: K,
    /// What was wrong with it.
    sentence: String,
    /// How often it was mended, and since when.
    mends: u32,
    since: Instant,
    /// When the last mend was forgotten.
    forgot: Instant,
    /// When it was found wrong last.
    wrong: Instant,
    /// How often it failed in a row, and with what.
    failures: u32,
    failure: String,
    /// It is left alone until then.
    until: Option<Instant>,
    pause: Duration,
    /// What was told of it.
    told: Option<String>,
}

impl<K: PartialEq> Patience<K> {
    /// Nothing was mended yet.
    pub fn new() -> Self {
        Self { things: Vec::new() }
    }

    /// Forgets everything: somebody has changed what is wanted.
    pub fn try_all_afresh(&mut self) {
        self.things.clear();
    }

    /// Whether a thing may be mended now.
    pub fn allows(&self, key: &K, now: Instant) -> bool {
        let thing = self.things.iter().find(|thing| thing.key == *key);
        thing
            .and_then(|thing| thing.until)
            .is_none_or(|until| until <= now)
    }

    /// When a thing that is left alone is due again.
    pub fn next_try(&self) -> Option<Instant> {
        self.things.iter().filter_map(|thing| thing.until).min()
    }

    /// Takes in what a look found wrong; gives what is to be told of things that hold again.
    pub fn looked(&mut self, is_wrong: impl Fn(&K) -> bool, now: Instant) -> Vec<String> {
        for thing in &mut self.things {
            if is_wrong(&thing.key) {
                thing.wrong = now;
            } else {
                thing.failures = 0;
                // Whoever put it back: there is nothing to wait for.
                thing.until = thing.until.filter(|until| *until > now);
            }
            while thing.mends > 0 && now - thing.forgot >= FORGET {
                thing.mends -= 1;
                thing.forgot += FORGET;
            }
        }
        let mut lines = Vec::new();
        self.things.retain(|thing| {
            // Nobody undoes what only failed.
            let holds =
                now - thing.wrong >= HOLDS || (!thing.failure.is_empty() && thing.wrong < now);
            if let (true, Some(_)) = (holds, &thing.told) {
                lines.push(format!("this is over: {}", thing.sentence));
            }
            !holds || (thing.told.is_none() && thing.mends > 0)
        });
        lines
    }

    /// Takes in that a thing was mended; gives what is to be told when that happens too often.
    pub fn mended(&mut self, key: K, sentence: &str, now: Instant) -> Option<String> {
        let thing = self.thing(key, sentence, now);
        thing.failures = 0;
        thing.until = None;
        if !thing.failure.is_empty() {
            thing.failure.clear();
            thing.told = None;
        }
        if thing.mends == 0 {
            (thing.since, thing.forgot) = (now, now);
        }
        thing.mends += 1;
        let was_told = thing.told.is_some();
        if thing.mends < LIMIT && !was_told {
            return None;
        }
        thing.pause = (thing.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        thing.until = Some(now + thing.pause);
        if was_told {
            return None;
        }
        let line = format!(
            "nspawn-agent mended this {} times within {}, and something undid it each time: {sentence}. It now \
             tries again less and less often, in the end every {}; look for another program that manages it",
            thing.mends,
            words(now - thing.since),
            words(LONGEST_PAUSE),
        );
        thing.told = Some(line.clone());
        Some(line)
    }

    /// Takes in that a thing could not be mended; gives what is to be told of a lasting failure.
    pub fn failed(
        &mut self,
        key: K,
        sentence: &str,
        failure: &str,
        now: Instant,
    ) -> Option<String> {
        let thing = self.thing(key, sentence, now);
        thing.failures += 1;
        let doubled = FIRST_RETRY.saturating_mul(1 << (thing.failures - 1).min(20));
        thing.until = Some(now + doubled.min(LONGEST_RETRY));
        if thing.failures < LASTING || (thing.told.is_some() && thing.failure == failure) {
            return None;
        }
        failure.clone_into(&mut thing.failure);
        let line = format!(
            "nspawn-agent can't mend this, and tries again less and less often, in the end every {}: {sentence}: {failure}",
            words(LONGEST_RETRY)
        );
        thing.told = Some(line.clone());
        Some(line)
    }

    /// What is left alone at the moment, or was until just now: a sentence each.
    pub fn given_up(&self) -> Vec<String> {
        let told = self.things.iter().filter_map(|thing| thing.told.clone());
        told.collect()
    }

    fn thing(&mut self, key: K, sentence: &str, now: Instant) -> &mut Thing<K> {
        let place = self.things.iter().position(|thing| thing.key == key);
        let place = place.unwrap_or_else(|| {
            self.things.push(Thing {
                key,
                sentence: sentence.to_owned(),
                mends: 0,
                since: now,
                forgot: now,
                wrong: now,
                failures: 0,
                failure: String::new(),
                until: None,
                pause: Duration::ZERO,
                told: None,
            });
            self.things.len() - 1
        });
        &mut self.things[place]
    }
}

/// A span of time as people say it.
fn words(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..=119 => format!("{} s", seconds.max(1)),
        seconds => format!("{} minutes", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody undoes "a" a moment after each mend, from the beginning to `end`.
    struct Fight {
        patience: Patience<&'static str>,
        mends: Vec<Duration>,
        told: Vec<String>,
        now: Instant,
        began: Instant,
    }

    impl Fight {
        fn begin() -> Self {
            let now = Instant::now();
            Self {
                patience: Patience::new(),
                mends: Vec::new(),
                told: Vec::new(),
                now,
                began: now,
            }
        }

        fn go_on(&mut self, interval: Duration, span: Duration) {
            let end = self.now + span;
            while self.now < end {
                self.told
                    .extend(self.patience.looked(|key| *key == "a", self.now));
                if self.patience.allows(&"a", self.now) {
                    self.told
                        .extend(self.patience.mended("a", "a is missing", self.now));
                    self.mends.push(self.now - self.began);
                }
                self.now += interval;
            }
        }

        fn is_left_in_peace(&mut self, span: Duration) {
            let end = self.now + span;
            while self.now < end {
                self.told.extend(self.patience.looked(|_| false, self.now));
                self.now += Duration::from_secs(1);
            }
        }
    }

    #[test]
    fn a_thing_that_is_undone_all_the_time_is_told_once_and_tried_ever_less() {
        let mut fight = Fight::begin();
        fight.go_on(Duration::from_millis(500), Duration::from_hours(3));
        let later: Vec<u64> = fight.mends[19..].iter().map(Duration::as_secs).collect();
        assert_eq!(later[..5], [9, 19, 39, 79, 159]);
        assert!(later.len() < 16, "{later:?}");
        assert_eq!(fight.told.len(), 1, "{:?}", fight.told);
        assert!(
            fight.told[0].contains("20 times within 9 s") && fight.told[0].contains("a is missing")
        );
        assert_eq!(fight.patience.given_up(), fight.told);
    }

    #[test]
    fn another_thing_is_mended_at_once_meanwhile() {
        let mut fight = Fight::begin();
        fight.go_on(Duration::from_millis(100), Duration::from_mins(5));
        assert!(!fight.patience.allows(&"a", fight.now));
        assert!(fight.patience.allows(&"b", fight.now));
    }

    #[test]
    fn a_slow_undoer_is_noticed_too_and_a_rare_one_is_not() {
        for (interval, told) in [(10, 1), (50, 1), (90, 0)] {
            let mut fight = Fight::begin();
            fight.go_on(Duration::from_secs(interval), Duration::from_hours(2));
            assert_eq!(fight.told.len(), told, "each {interval} s");
        }
    }

    #[test]
    fn a_thing_that_holds_again_is_tried_at_once_the_next_time() {
        let mut fight = Fight::begin();
        fight.go_on(Duration::from_millis(100), Duration::from_mins(1));
        assert_eq!(fight.patience.given_up().len(), 1);
        fight.is_left_in_peace(Duration::from_secs(30));
        assert_eq!(
            fight.patience.given_up().len(),
            1,
            "it may be a pause of the undoer's"
        );
        fight.is_left_in_peace(Duration::from_secs(90));
        assert_eq!(fight.patience.given_up(), [""; 0]);
        assert_eq!(fight.told.len(), 2, "{:?}", fight.told);
        assert_eq!(fight.patience.next_try(), None);
        let before = fight.mends.len();
        fight.go_on(Duration::from_millis(100), Duration::from_secs(1));
        assert_eq!(fight.mends.len() - before, 10);
    }

    #[test]
    fn a_change_of_what_is_wanted_tries_afresh() {
        let mut fight = Fight::begin();
        fight.go_on(Duration::from_millis(100), Duration::from_mins(1));
        assert!(!fight.patience.allows(&"a", fight.now));
        assert!(fight.patience.next_try().is_some());
        fight.patience.try_all_afresh();
        assert!(fight.patience.allows(&"a", fight.now));
        assert_eq!(fight.patience.given_up(), [""; 0]);
    }

    #[test]
    fn a_failure_is_tried_again_soon_and_told_when_it_lasts() {
        let mut now = Instant::now();
        let mut patience = Patience::new();
        let (mut told, mut pauses) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            assert!(patience.allows(&"a", now));
            told.extend(patience.failed("a", "a is missing", "no such device", now));
            let next = patience.next_try().unwrap();
            pauses.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[19], 30_000);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("a is missing: no such device"), "{told:?}");
        assert_eq!(patience.given_up(), told);
        assert_eq!(patience.mended("a", "a is missing", now), None);
        assert!(patience.allows(&"a", now) && patience.given_up().is_empty());
    }

    #[test]
    fn a_failure_that_is_over_without_a_mend_of_ours_is_told_no_more() {
        let mut now = Instant::now();
        let mut patience = Patience::new();
        for _ in 0..20 {
            patience.failed("a", "a is missing", "no such device", now);
            now = patience.next_try().unwrap();
            assert_eq!(patience.looked(|_| true, now), [""; 0]);
        }
        assert_eq!(patience.given_up().len(), 1);
        now += Duration::from_millis(1);
        let told = patience.looked(|_| false, now);
        assert_eq!(told, ["this is over: a is missing"]);
        assert_eq!(patience.given_up(), [""; 0]);
        assert_eq!(patience.next_try(), None);
    }

    #[test]
    fn what_was_mended_once_is_soon_forgotten() {
        let now = Instant::now();
        let mut patience = Patience::new();
        for key in 0..1000 {
            assert_eq!(patience.mended(key, "", now), None);
        }
        assert!(patience.looked(|_| false, now + FORGET).is_empty());
        assert!(patience.things.is_empty());
    }
}
