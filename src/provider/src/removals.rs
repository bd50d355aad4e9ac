//! The destroys of this run. A create that meets what one of them is about to remove waits for it: Terraform puts the
//! two in no order when they are of different resources, as when two swap their names.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::connection::{Identity, Target};

/// How long a destroy is waited for that has not begun yet, in a run that destroys something on that host: what depends
/// on the object is destroyed before, by whatever provider.
const LIKELY: Duration = Duration::from_secs(15);

/// The same in a run that has destroyed nothing there so far: Terraform starts at once all that it can.
const UNLIKELY: Duration = Duration::from_secs(1);

/// The destroys of this run, by host.
#[derive(Debug, Default)]
pub struct Removals {
    hosts: Mutex<HashMap<Identity, Count>>,
    changed: Notify,
}

/// How many destroys there were on one host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    begun: usize,
    ended: usize,
}

/// A destroy that is under way for as long as this lives.
#[derive(Debug)]
pub struct Removal<'a> {
    removals: &'a Removals,
    host: Identity,
}

impl Removals {
    /// Notes that a destroy begins.
    pub fn begin(&self, target: &Target) -> Removal<'_> {
        let host = target.identity();
        self.change(&host, |count| count.begun += 1);
        Removal {
            removals: self,
            host,
        }
    }

    /// How many there were so far.
    pub fn count(&self, target: &Target) -> Count {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(&target.identity()).copied().unwrap_or_default()
    }

    /// Waits until one more has ended than there were at the count. Whether one has, and there is reason to try again.
    pub async fn one_more(&self, target: &Target, before: Count) -> bool {
        let patience = if self.count(target).begun > 0 {
            LIKELY
        } else {
            UNLIKELY
        };
        let until = Instant::now() + patience;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // What changes from here on is noticed.
            changed.as_mut().enable();
            let now = self.count(target);
            if now.ended != before.ended {
                return true;
            }
            if now.begun != now.ended {
                changed.await;
            } else if timeout_at(until, changed).await.is_err() {
                return false;
            }
        }
    }

    fn change(&self, host: &Identity, change: impl FnOnce(&mut Count)) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        change(hosts.entry(host.clone()).or_default());
        drop(hosts);
        self.changed.notify_waiters();
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.removals.change(&self.host, |count| count.ended += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it takes to know, and what is known then, when a destroy of this host runs from one second to another.
    async fn waited(removal: Option<(&str, u64, u64)>, earlier: bool) -> (bool, Duration) {
        let (removals, target) = (Removals::default(), Target::new("a"));
        if earlier {
            drop(removals.begin(&target));
        }
        let (before, begun) = (removals.count(&target), Instant::now());
        let destroy = async {
            if let Some((host, from, to)) = removal {
                tokio::time::sleep_until(begun + Duration::from_secs(from)).await;
                let _removal = removals.begin(&Target::new(host));
                tokio::time::sleep_until(begun + Duration::from_secs(to)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = destroy => unreachable!(),
            is_one_more = removals.one_more(&target, before) => (is_one_more, begun.elapsed()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_destroy_is_waited_for_while_it_is_under_way_or_likely() {
        for (removal, earlier, expected) in [
            (None, false, (false, 1)),
            (None, true, (false, 15)),
            (Some(("a", 0, 60)), false, (true, 60)),
            (Some(("a", 10, 60)), true, (true, 60)),
            (Some(("a", 2, 60)), false, (false, 1)),
            (Some(("a", 20, 60)), true, (false, 15)),
            (Some(("b", 0, 60)), false, (false, 1)),
            (Some(("b", 0, 5)), true, (false, 15)),
        ] {
            let (found, time) = waited(removal, earlier).await;
            assert_eq!((found, time.as_secs()), expected, "{removal:?} {earlier}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_destroy_that_ended_since_the_count_is_not_waited_for() {
        let (removals, target) = (Removals::default(), Target::new("a"));
        let under_way = removals.begin(&target);
        let before = removals.count(&target);
        drop(under_way);
        let begun = Instant::now();
        assert!(removals.one_more(&target, before).await);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
