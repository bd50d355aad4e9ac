//! What each host looks like, asked once a run: the first read fetches, the others are answered
//! from it, a change drops it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use protocol::observed::Snapshot;
use tokio::sync::OnceCell;

use crate::connection::{CallError, Identity, Target};

/// How long a host that could not be read is not asked again, so that a thousand resources on an
/// unreachable host don't each wait for the connection's timeout.
const FAILURE_IS_KEPT: Duration = Duration::from_secs(15);

type Fetched = Result<Arc<Snapshot>, (CallError, Instant)>;

/// The snapshots of this run, by host.
#[derive(Debug, Default)]
pub struct Snapshots {
    slots: Mutex<HashMap<Identity, Arc<OnceCell<Fetched>>>>,
}

impl Snapshots {
    /// The host's snapshot; fetched by the first who asks, awaited by all who ask meanwhile.
    pub async fn get<F>(
        &self,
        target: &Target,
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<Snapshot>, CallError>
    where
        F: Future<Output = Result<Snapshot, CallError>>,
    {
        let slot = self.slot(target);
        let fetched = slot
            .get_or_init(|| async {
                fetch()
                    .await
                    .map(Arc::new)
                    .map_err(|error| (error, Instant::now()))
            })
            .await;
        fetched.clone().map_err(|(error, _)| error)
    }

    /// The host's snapshot, when it is at hand: never a connection.
    pub fn peek(&self, target: &Target) -> Option<Arc<Snapshot>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(&target.identity())?.get()?.as_ref().ok().cloned()
    }

    /// Forgets the host's snapshot, one that is being fetched just now included.
    pub fn forget(&self, target: &Target) {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&target.identity());
    }

    fn slot(&self, target: &Target) -> Arc<OnceCell<Fetched>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(target.identity()).or_default();
        if matches!(slot.get(), Some(Err((_, when))) if when.elapsed() > FAILURE_IS_KEPT) {
            *slot = Arc::default();
        }
        Arc::clone(slot)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use protocol::{Failure, FailureKind};

    use super::*;
    use crate::fixture::snapshot;

    #[tokio::test]
    async fn many_readers_share_one_fetch_until_a_change() {
        let (snapshots, fetches) = (Snapshots::default(), AtomicUsize::new(0));
        let target = Target::new("a");
        let read = || {
            snapshots.get(&target, || async {
                fetches.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(snapshot())
            })
        };
        assert!(snapshots.peek(&target).is_none());
        let (first, second, third) = tokio::join!(read(), read(), read());
        assert!(first.is_ok() && second.is_ok() && third.is_ok());
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        assert!(snapshots.peek(&target).is_some() && snapshots.peek(&Target::new("b")).is_none());
        snapshots.forget(&target);
        assert!(snapshots.peek(&target).is_none());
        read().await.unwrap();
        assert_eq!(fetches.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_failure_is_shared_too_and_is_no_snapshot() {
        let (snapshots, fetches) = (Snapshots::default(), AtomicUsize::new(0));
        let target = Target::new("a");
        let read = || {
            snapshots.get(&target, || async {
                fetches.fetch_add(1, Ordering::Relaxed);
                Err(Failure::new(FailureKind::System, "broken").into())
            })
        };
        assert!(read().await.is_err() && read().await.is_err());
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        assert!(snapshots.peek(&target).is_none());
    }
}
