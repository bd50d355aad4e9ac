//! A create that fails, of a kind of which nothing half-made may remain.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;

use super::*;
use crate::{
    store::{Inventory, Kept},
    system::netlink::Netlink,
    testing,
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Thing;

impl Kept for Thing {
    type Assigned = ();
    const FOLDER: &'static str = "things";
    fn name(&self) -> String {
        "thing".to_owned()
    }
}

impl Object for Thing {
    /// Whether it is still there.
    type Prepared = bool;
    const KEPT_WHEN_CREATE_FAILS: bool = false;

    fn key(&self) -> ObjectKey {
        ObjectKey::Host
    }

    fn what(&self) -> String {
        "the thing".to_owned()
    }

    async fn prepare(
        &self,
        _: &Context,
        _: Option<&Stored<Self>>,
        _: &ContainerSecrets,
    ) -> Result<bool, Failure> {
        Ok(true)
    }

    fn is_prepared(&self, prepared: &bool) -> bool {
        *prepared
    }

    async fn admit(
        &self,
        _: &Context,
        _: &Inventory,
        _: Option<&Stored<Self>>,
        _: bool,
    ) -> Result<(), Failure> {
        Ok(())
    }

    async fn settle(_: &Context, _: &Stored<Self>) -> Result<(), Failure> {
        Ok(())
    }

    async fn remove(_: &Context, _: &Inventory, _: &Stored<Self>) -> Result<(), Failure> {
        Ok(())
    }
}

fn failure() -> Failure {
    Failure::new(FailureKind::System, "it failed")
}

/// With a kernel that answers nothing any more: every reconcile fails before it has touched anything.
async fn on_a_dead_host(work: impl AsyncFnOnce(Context)) {
    let folder = tempfile::tempdir().unwrap();
    let netlink = {
        let local = LocalSet::new();
        let _entered = local.enter();
        Netlink::open().unwrap()
    };
    let context = Context::new(netlink, "test", Duration::from_secs(20));
    work(testing::in_folder(context, folder.path())).await;
}

#[tokio::test(flavor = "current_thread")]
async fn it_is_taken_back_before_anybody_else_gets_the_lock() {
    on_a_dead_host(async |context| {
        let asked = Asked {
            token: "a".repeat(32).parse().unwrap(),
            intent: Intent::Create,
            secrets: ContainerSecrets::default(),
        };
        let begun = begin(&context, Thing, &asked, false).await.unwrap();
        assert!(begun.is_none() && !context.store.folder().exists());
        let begun = begin(&context, Thing, &asked, true).await.unwrap().unwrap();
        assert!(begun.made.is_err() && begun.is_new);
        assert!(context.store.get::<Thing>("thing").unwrap().is_none());
    })
    .await;
}

#[tokio::test(flavor = "current_thread")]
async fn whoever_has_put_it_meanwhile_keeps_it() {
    on_a_dead_host(async |context| {
        let made = testing::stored(Thing, ());
        let mut adopted = made.clone();
        adopted.owner.token = "c".repeat(32).parse().unwrap();
        let mut anew = made.clone();
        anew.session = "c".repeat(32).parse().unwrap();
        // The same request over a new connection, with the same token and session.
        let sent_again = made.clone();
        let put = |stored: &Stored<Thing>| {
            context.store.put(stored).unwrap();
            context.store.open::<Thing>("thing").unwrap()
        };
        for others in [adopted, anew, sent_again] {
            let record = put(&made);
            put(&others);
            let told = take_back(&context, &made, &record, failure()).await;
            assert_eq!(told.message, "it failed");
            assert!(!is_still_there(&context, &made, &record).unwrap());
            let kept = context.store.get::<Thing>("thing").unwrap();
            assert_eq!(kept, Some(others));
        }
        let record = put(&made);
        take_back(&context, &made, &record, failure()).await;
        assert!(context.store.get::<Thing>("thing").unwrap().is_none());
    })
    .await;
}
