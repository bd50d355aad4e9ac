//! By what an object is a state's: its token, how it changes hands, and what to do when it is lost.

use std::time::{Duration, Instant};

use protocol::{
    Failure, FailureKind,
    desired::ObjectKey,
    name::OwnerToken,
    observed::{Holder, Owner},
};
use tfplugin::Diagnostics;

use super::{
    Managed, Private, Standing,
    host::when,
    lifecycle::{find, owner_of},
};
use crate::{
    connection::{CallError, ConnectionErrorKind, Target},
    marks::Marks,
};

/// The token by which the host knows the object as this state's.
pub(super) fn owner<R: Managed>(
    model: &R::Model,
    private: &Private,
) -> Result<OwnerToken, Diagnostics> {
    private.token.clone().ok_or_else(|| {
        Diagnostics::error(
            format!("The state of {} has no owner token", R::label(model)),
            "Without it, its host can't know whose it is. Apply without -refresh=false, which takes the object over anew.",
        )
    })
}

/// What opens an object to a destroy that has no token: Terraform plans the replacement of a
/// tainted one, and hands nothing of its prior state to the destroy when the new one has another name.
/// None when there is nothing left to destroy, or only what this very run has made under that name. `read` is what the
/// plan has seen: whatever has that name since is somebody else's.
pub(super) async fn find_lost<R: Managed>(
    resource: &R,
    target: &Target,
    key: &ObjectKey,
    read: &Marks,
    limit: Duration,
) -> Result<Option<Private>, CallError> {
    let hosts = resource.hosts();
    let snapshot = hosts.snapshot(target, limit).await?;
    let Some(object) = find(&snapshot, key) else {
        return Ok(None);
    };
    let found = owner_of(&object);
    if hosts.has_made(target, key, &found.token) {
        return Ok(None);
    }
    if !read.contain(key, &found.token) {
        return Err(not_owner(target, key, found).into());
    }
    // Not taken over: should the destroy fail, the state has this token still, and no other.
    Ok(Some(Private {
        token: Some(found.token.clone()),
        ..Private::default()
    }))
}

/// As the agent says it of an object with another token.
fn not_owner(target: &Target, key: &ObjectKey, owner: &Owner) -> Failure {
    let whose = match &owner.holder {
        Some(Holder { name, since }) => format!(
            ", that of {name}, who took it over or made it anew{}",
            when(*since)
        ),
        None => ", which took it over or made it anew".to_owned(),
    };
    Failure::new(
        FailureKind::NotOwner,
        format!("{target}: the {key} belongs to another Terraform state{whose}"),
    )
    .help("Remove it from this state (terraform state rm), or import it to take it over.")
}

/// Makes an object that the plan has imported this state's, before it is changed.
pub(super) async fn finish_import<R: Managed>(
    resource: &R,
    target: &Target,
    key: &ObjectKey,
    private: &mut Private,
    limit: Duration,
) -> Result<(), CallError> {
    if private.taken_from.is_none() {
        return Ok(());
    }
    let begun = Instant::now();
    let snapshot = resource.hosts().snapshot(target, limit).await?;
    let Some(object) = find(&snapshot, key) else {
        return Ok(());
    };
    if private.standing(&owner_of(&object).token, true) == Standing::Imported {
        let left = limit.saturating_sub(begun.elapsed());
        take_over(resource, target, key, private, left).await?;
    }
    Ok(())
}

/// Tells the host that an imported object is this state's from now on.
pub(super) async fn take_over<R: Managed>(
    resource: &R,
    target: &Target,
    key: &ObjectKey,
    private: &mut Private,
    limit: Duration,
) -> Result<(), CallError> {
    if let Some(token) = private.token.clone() {
        let (hosts, former) = (resource.hosts(), private.taken_from.clone());
        let taken = hosts.take_over(target, key.clone(), token, former, limit);
        taken.await?;
        private.taken_from = None;
    }
    Ok(())
}

/// Whether a part of the object may be there although the agent didn't say so: then the state keeps
/// its token, and the next refresh finds out. None when the host has to be asked: the agent has answered,
/// but what it did may have been all but the look for its answer, or it was asked for the second time, over
/// a new connection, and had done it the first time.
pub(super) fn may_have_been_made(error: &CallError) -> Option<bool> {
    use ConnectionErrorKind as Kind;
    match error {
        // An earlier attempt over a connection that dropped may be at work still.
        CallError::Failure(failure) => match failure.kind {
            FailureKind::Timeout | FailureKind::Cancelled => Some(true),
            // It was refused before anything was done, and would have been the first time.
            FailureKind::Conflict | FailureKind::NotOwner | FailureKind::Invalid => Some(false),
            _ => None,
        },
        CallError::Connection(error) => Some(matches!(
            error.kind,
            Kind::Lost | Kind::OutcomeUnknown | Kind::Timeout | Kind::Cancelled
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::ConnectionError;

    #[test]
    fn a_create_that_failed_may_have_been_made_all_the_same() {
        let failure = |kind| CallError::from(Failure::new(kind, "no"));
        let connection = |kind| {
            let target = Target::new("a");
            CallError::from(ConnectionError::new(
                kind,
                &target,
                "asking",
                "no".to_owned(),
            ))
        };
        for (error, expected) in [
            (failure(FailureKind::System), None),
            (failure(FailureKind::Command), None),
            (failure(FailureKind::Busy), None),
            (failure(FailureKind::Unsupported), None),
            (failure(FailureKind::Timeout), Some(true)),
            (failure(FailureKind::Conflict), Some(false)),
            (connection(ConnectionErrorKind::OutcomeUnknown), Some(true)),
            (connection(ConnectionErrorKind::Unreachable), Some(false)),
        ] {
            assert_eq!(may_have_been_made(&error), expected, "{error:?}");
        }
    }
}
