//! What every kind of object brings along: the four moments of a change.

use protocol::{
    Failure,
    desired::{ContainerSecrets, ObjectKey},
};

use crate::{
    context::Context,
    store::{Inventory, Kept, Stored},
};

/// A kind of object. A change runs through `prepare`, `admit`, the reconcile, and `settle`.
pub trait Object: Kept {
    /// What the preparation hands on.
    type Prepared;

    /// Whether a create that failed leaves the object there, tainted, for Terraform to destroy.
    /// Otherwise its record goes and the failure alone is the answer.
    const KEPT_WHEN_CREATE_FAILS: bool;

    /// The object's key.
    fn key(&self) -> ObjectKey;

    /// The object as a person calls it: `the container "web"`.
    fn what(&self) -> String;

    /// Whether an object that a killed run left can't become the one that is asked for now, because
    /// what differs is chosen once: it is removed and made anew then, as a replacement would.
    fn must_be_made_anew(&self, _left: &Stored<Self>, _inventory: &Inventory) -> bool {
        false
    }

    /// Long work, done without the host's lock: an image is fetched and unpacked here.
    async fn prepare(
        &self,
        context: &Context,
        previous: Option<&Stored<Self>>,
        secrets: &ContainerSecrets,
    ) -> Result<Self::Prepared, Failure>;

    /// Under the lock: whether what was prepared is still there. Otherwise it is prepared anew, without the lock.
    fn is_prepared(&self, _prepared: &Self::Prepared) -> bool {
        true
    }

    /// Whether an update has to go through on a full disk: it may stop what fills it.
    fn may_free_the_disk(&self) -> bool {
        false
    }

    /// Under the lock, before anything is written: refuses what can't be, and chooses what the
    /// host chooses.
    async fn admit(
        &self,
        context: &Context,
        inventory: &Inventory,
        previous: Option<&Stored<Self>>,
        prepared: Self::Prepared,
    ) -> Result<Self::Assigned, Failure>;

    /// Whether it is settled though the reconcile failed, because that may be what the object itself wants.
    async fn settles_anyway(_context: &Context, _stored: &Stored<Self>) -> Result<bool, Failure> {
        Ok(false)
    }

    /// After the reconcile, without the lock: waits for what takes its time, such as a boot.
    async fn settle(context: &Context, stored: &Stored<Self>) -> Result<(), Failure>;

    /// Refuses a removal that was asked for; one that a killed run left may be made anew all the same.
    fn admit_removal(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Before a removal that was asked for, without the lock: ends what may take its time to end.
    async fn end(_context: &Context, _stored: &Stored<Self>) -> Result<(), Failure> {
        Ok(())
    }

    /// Under the lock: refuses, or undoes all that was made. The record is removed afterwards.
    async fn remove(
        context: &Context,
        inventory: &Inventory,
        stored: &Stored<Self>,
    ) -> Result<(), Failure>;

    /// Under the lock, when there is no record of that name: brings to its end what a removal that was cut off has left.
    async fn finish_removal(_context: &Context, _name: &str) -> Result<(), Failure> {
        Ok(())
    }

    /// After a removal, without the lock: removes what takes its time.
    async fn clear_away(_context: &Context, _stored: &Stored<Self>) -> Result<(), Failure> {
        Ok(())
    }

    /// Under the lock, after the record is gone: clears what only its absence allows to clear.
    async fn removed(_context: &Context, _stored: &Stored<Self>) -> Result<(), Failure> {
        Ok(())
    }
}
