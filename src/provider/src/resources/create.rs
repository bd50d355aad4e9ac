//! Create, the same for every object of a host: whatever it comes to, the state tells what is there.

use std::time::Instant;

use protocol::{
    Failure, FailureKind,
    desired::{ContainerSecrets, ObjectKey},
    message::Intent,
    name::OwnerToken,
};
use tfplugin::{Context, Create, Diagnostics, Failed, State};

use super::{
    Managed, Private,
    import::with_import,
    lifecycle::{required_key, required_target, settled},
    ownership::may_have_been_made,
};
use crate::{
    connection::{CallError, Target},
    failure::{Place, diagnostics, failure_diagnostic},
    hosts::{Change, Changed, Fate},
    random,
    removals::Count,
};

/// Makes the object.
pub async fn create<R: Managed>(
    resource: &R,
    request: Create<R>,
    context: &Context,
) -> Result<State<R>, Failed<R>> {
    let planned = &request.planned;
    let doing = format!("Creating {}", R::label(planned));
    let (target, key) = (required_target::<R>(planned)?, required_key::<R>(planned)?);
    let token = random::owner_token()
        .map_err(|error| Diagnostics::error(doing.clone(), error.to_string()))?;
    let object = (&target, &key, &token);
    let made = make(resource, request, &doing, object, context).await;
    let has_state = match &made {
        Ok(_) => true,
        Err(failed) => failed.partial.is_some(),
    };
    resource.hosts().end_create(&target, key, token, has_state);
    made
}

/// Makes the object on this host, of this name and token.
async fn make<R: Managed>(
    resource: &R,
    request: Create<R>,
    doing: &str,
    (target, key, token): (&Target, &ObjectKey, &OwnerToken),
    context: &Context,
) -> Result<State<R>, Failed<R>> {
    let Create {
        planned, config, ..
    } = request;
    let mut private = Private {
        token: Some(token.clone()),
        session: Some(resource.hosts().session().clone()),
        ..Private::default()
    };
    let change = |limit| {
        let mut change = Change {
            target: target.clone(),
            machine_id: None,
            desired: R::desired(&planned, &config)?,
            token: token.clone(),
            intent: Intent::Create,
            limit,
            wait: R::PLACE == Place::Own,
            secrets: ContainerSecrets::default(),
            upload: None,
            rolled_back_at: None,
        };
        R::accompany(&mut change, None, &planned, &config);
        Ok::<_, Diagnostics>(change)
    };
    let ends = Instant::now() + R::LIMITS.with(R::timeouts(&planned)).create;
    let changed = loop {
        let before = resource.hosts().removals.count(target);
        let change = change(ends.saturating_duration_since(Instant::now()))?;
        let put = Box::pin(resource.hosts().put(change, context)).await;
        let Some(conflict) = in_the_way(&put) else {
            break put;
        };
        tracing::info!(host = %target, "{}", waits(doing, conflict));
        if !is_vacated(resource, target, before, ends, context).await {
            break put;
        }
    };
    let changed = match changed {
        Ok(changed) => changed,
        Err(error) => {
            let error = with_import(resource, error, target, key).await;
            let diagnostics = diagnostics(doing, &error, R::PLACE);
            let made = match may_have_been_made(&error) {
                Some(made) => made,
                None => resource.hosts().was_made(target, key, token).await,
            };
            return Err(if made {
                Failed::with_partial(State::new(planned, private), diagnostics)
            } else {
                diagnostics.into()
            });
        }
    };
    private.machine_id = Some(changed.machine_id.clone());
    let undone = |failure| failure_diagnostic(doing, failure);
    match (changed.fate, &changed.failure) {
        (Fate::Undone, Some(failure)) => return Err(Diagnostics::from(undone(failure)).into()),
        (Fate::BeingUndone, Some(failure)) => {
            let state = State::new(planned, private);
            return Err(Failed::with_partial(state, undone(failure)));
        }
        _ => {}
    }
    let model = settled::<R>(&planned, &mut private, &changed, context)?;
    match &changed.failure {
        Some(failure) => Err(Failed::with_partial(
            State::new(model, private),
            failure_diagnostic(doing, failure),
        )),
        None => Ok(State::new(model, private)),
    }
}

/// Why it can't be made, when something else has the name, or what else there can be once only.
fn in_the_way(put: &Result<Changed, CallError>) -> Option<&Failure> {
    match put {
        Err(CallError::Failure(failure)) if failure.kind == FailureKind::Conflict => Some(failure),
        _ => None,
    }
}

fn waits(doing: &str, conflict: &Failure) -> String {
    format!(
        "{doing}: {}; waiting in case this run destroys it",
        conflict.message
    )
}

/// Waits for what this very run may still remove from the host. Whether it has, and there is reason to try again.
async fn is_vacated<R: Managed>(
    resource: &R,
    target: &Target,
    before: Count,
    ends: Instant,
    context: &Context,
) -> bool {
    let removed = resource.hosts().removals.one_more(target, before);
    let removed = tokio::time::timeout_at(ends.into(), removed);
    let stopped = context.cancellation();
    matches!(stopped.run_until_cancelled(removed).await, Some(Ok(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_that_waits_names_what_is_in_its_way() {
        let message =
            "203.0.113.0/28 overlaps with 203.0.113.2, which belongs to the container web";
        let conflict = Failure::new(FailureKind::Conflict, message);
        let line = waits("Creating address 203.0.113.0/28", &conflict);
        assert!(
            line.contains("Creating address 203.0.113.0/28") && line.contains(message),
            "{line}"
        );
    }
}
