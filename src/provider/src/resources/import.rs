//! Import, the same for every object of a host, and advice to use it.

use protocol::{FailureKind, desired::ObjectKey, observed::Snapshot};
use tfplugin::{Diagnostics, State};

use super::{
    Managed, Private,
    lifecycle::{find, owner_of},
};
use crate::{
    connection::{CallError, Target},
    failure::diagnostics,
    id::{Id, InvalidId, import_id},
};

/// Finds the object by its id, to be taken over.
///
/// Terraform imports in a plan too, which must not change anything: the host learns of its new owner
/// from the first process that has this from a saved state or plan.
pub async fn import<R: Managed>(resource: &R, id: &str) -> Result<State<R>, Diagnostics> {
    let doing = format!("Importing {} {id}", R::NAME);
    let refused = |reason: String| Diagnostics::error(doing.clone(), format!("{reason}."));
    let Id { target, name } = id
        .parse()
        .map_err(|error: InvalidId| refused(error.to_string()))?;
    let key = R::import_key(name.as_deref()).map_err(refused)?;
    let failed = |error: CallError| diagnostics(&doing, &error, R::PLACE);
    let snapshot = resource
        .hosts()
        .snapshot(&target, R::LIMITS.read)
        .await
        .map_err(failed)?;
    let Some(object) = find(&snapshot, &key) else {
        return Err(refused(format!(
            "{target} has no such object. {}",
            what_is_there(&snapshot, &key)
        )));
    };
    let mut private = Private::taking_over(owner_of(&object), resource.hosts().session())
        .map_err(|error| refused(error.to_string()))?;
    private.machine_id = Some(snapshot.facts.machine_id.clone());
    let mut model = R::Model::default();
    R::locate(&mut model, &target, &key);
    R::observe(&mut model, &object);
    R::remember(&mut private, &object);
    Ok(State::new(model, private))
}

/// What to do when the one object of two addresses of a configuration is destroyed and made at once.
const RENAMED: &str = "This very run destroys it under another address: its resource or its for_each key was renamed. Terraform puts \
     these two in no order, so apply once more. A moved block, written before the apply, says that it is the same object, which is \
     then kept with all that is in it.";

/// Says how to import an object that is there already and another state's.
pub async fn with_import<R: Managed>(
    resource: &R,
    error: CallError,
    target: &Target,
    key: &ObjectKey,
) -> CallError {
    let CallError::Failure(failure) = error else {
        return error;
    };
    if failure.kind != FailureKind::Conflict {
        return failure.into();
    }
    let hosts = resource.hosts();
    let snapshot = hosts.snapshot(target, R::LIMITS.read).await.ok();
    let found = snapshot.and_then(|snapshot| find(&snapshot, key));
    let token = found.as_ref().map(|object| &owner_of(object).token);
    if hosts.planned.destroys(target, key, token) {
        return failure.help(RENAMED).into();
    }
    if !found.is_some_and(|object| owner_of(&object).claimed) {
        return failure.into();
    }
    let (name, id) = (R::NAME, import_id(target, key));
    // Terraform wraps no line that begins with a space, so that the command can be copied.
    let help = format!(
        "To manage it from this state instead of the other, take it over:\n\n  terraform import {name}.NAME '{id}'\n\n\
         When this state has had it under another address, because its resource or its for_each key was renamed, apply once more, \
         or say so with a moved block. When it has it under this one, its lifecycle rule create_before_destroy is in the way: two of one name can't be on \
         one host at once. Take that rule away."
    );
    failure.help(help).into()
}

/// What an import could have meant.
fn what_is_there(snapshot: &Snapshot, key: &ObjectKey) -> String {
    fn list<T: ToString>(what: &str, names: impl Iterator<Item = T>) -> String {
        let names: Vec<_> = names.map(|name| name.to_string()).collect();
        if names.is_empty() {
            format!("It has no {what} that this provider made")
        } else {
            format!("Its {what}: {}", names.join(", "))
        }
    }
    match key {
        ObjectKey::Host => {
            "It has not been set up by this provider: create an nspawn_host".to_owned()
        }
        ObjectKey::Image(_) => list("images", snapshot.images.keys()),
        ObjectKey::Container(_) => list("containers", snapshot.containers.keys()),
        ObjectKey::Address(_) => list("addresses", snapshot.addresses.keys()),
    }
}
