//! Read, update and delete, the same for every object of a host.

use std::{collections::BTreeMap, time::Instant};

use protocol::{
    desired::{ContainerSecrets, ObjectKey},
    message::Intent,
    observed::{Object, Owner, Snapshot},
};
use tfplugin::{
    Context, Diagnostics, Failed, Path, Plan, State, Update, Value, schema::AttributeType,
};

use super::{
    Managed, Private, Standing,
    machine::{elsewhere, goes_to_another_machine},
    ownership::{find_lost, finish_import, owner, take_over},
};
use crate::{
    connection::Target,
    failure::{diagnostics, failure_diagnostic},
    hosts::{Change, Changed, Fate, same_machine},
    marks::Marks,
};

/// Changes the object in place.
pub async fn update<R: Managed>(
    resource: &R,
    request: Update<R>,
    context: &Context,
) -> Result<State<R>, Failed<R>> {
    let Update {
        prior,
        planned,
        config,
        mut private,
    } = request;
    let doing = format!("Changing {}", R::label(&planned));
    let target = required_target::<R>(&planned)?;
    let key = required_key::<R>(&planned)?;
    let (begun, limit) = (Instant::now(), R::LIMITS.with(R::timeouts(&planned)).update);
    finish_import(resource, &target, &key, &mut private, limit)
        .await
        .map_err(|error| diagnostics(&doing, &error, R::PLACE))?;
    let mut change = Change {
        target: target.clone(),
        machine_id: private.machine_id.clone(),
        desired: R::desired(&planned, &config)?,
        token: owner::<R>(&prior, &private)?,
        intent: Intent::Update,
        limit: limit.saturating_sub(begun.elapsed()),
        wait: false,
        secrets: ContainerSecrets::default(),
        upload: None,
        rolled_back_at: private.rolled_back_at,
    };
    R::accompany(&mut change, Some(&prior), &planned, &config);
    let changed = Box::pin(resource.hosts().put(change, context))
        .await
        .map_err(|error| {
            let error = elsewhere::<R>(error, &prior, &target);
            diagnostics(&doing, &error, R::PLACE)
        })?;
    private.machine_id = Some(changed.machine_id.clone());
    let Some(failure) = &changed.failure else {
        let model = settled::<R>(&planned, &mut private, &changed, context)?;
        return Ok(State::new(model, private));
    };
    let diagnostic = failure_diagnostic(&doing, failure);
    if changed.fate != Fate::Kept {
        return Err(Diagnostics::from(diagnostic).into());
    }
    // The state tells what is there now, which is neither the former state nor all of the plan.
    let mut model = planned;
    if let Some(object) = &changed.object {
        R::observe(&mut model, object);
        R::remember(&mut private, object);
    }
    Err(Failed::with_partial(State::new(model, private), diagnostic))
}

/// Notes what is planned, and where that is. The same object twice is an error.
pub fn register<R: Managed>(
    resource: &R,
    plan: &mut Plan<R>,
) -> Result<Option<(Target, ObjectKey)>, Diagnostics> {
    let planned = &resource.hosts().planned;
    let object = R::target(&plan.planned).zip(R::key(&plan.planned));
    // Only the second half of a replacement has a token.
    let replaces = plan.private.token.is_some();
    if plan.is_create() {
        let handed = std::mem::take(&mut plan.private);
        plan.private = planned.replaced(R::NAME, object.as_ref(), handed);
    }
    let Some((target, key)) = object else {
        return Ok(None);
    };
    let moves = goes_to_another_machine(resource, plan, &target);
    if moves {
        plan.require_replace(Path::root().then("host"));
    }
    let free = match &plan.prior {
        Some(prior) if !moves && R::key(prior).as_ref() == Some(&key) => {
            planned.keep(&target, key.clone())
        }
        Some(_) => {
            planned.rename(&target, key.clone());
            true
        }
        None => planned.create(&target, key.clone(), replaces),
    };
    if !free {
        let label = R::label(&plan.planned);
        return Err(Diagnostics::error_at(
            Path::root().then(R::IDENTITY),
            format!("The {label} twice on {target}"),
            format!(
                "Another {} of this configuration has the same {} on the same host. Keep one of them, or change it.",
                R::NAME,
                R::IDENTITY
            ),
        ));
    }
    Ok(Some((target, key)))
}

/// Looks at the object. None when it is gone or another state's; an error when its host can't be asked.
pub async fn read<R: Managed>(
    resource: &R,
    state: State<R>,
    context: &Context,
) -> Result<Option<State<R>>, Diagnostics> {
    let State {
        mut model,
        mut private,
    } = state;
    let label = R::label(&model);
    let doing = format!("Reading {label}");
    let (target, key) = (required_target::<R>(&model)?, required_key::<R>(&model)?);
    private = private.about(&target, &key);
    let (begun, limit) = (Instant::now(), R::LIMITS.with(R::timeouts(&model)).read);
    let snapshot = resource
        .hosts()
        .snapshot(&target, limit)
        .await
        .map_err(|error| diagnostics(&doing, &error, R::PLACE))?;
    same_machine(
        &target,
        private.machine_id.as_deref(),
        &snapshot.facts.machine_id,
    )
    .map_err(|error| diagnostics(&doing, &error, R::PLACE))?;
    let Some(object) = find(&snapshot, &key) else {
        return Ok(None);
    };
    let found = owner_of(&object);
    if private.excludes(&key, &found.token) {
        return Ok(gone_to_another(&label, &target, context));
    }
    // What was left of a destroy that failed.
    private = Private {
        refreshed: false,
        read_of: None,
        marks: Marks::default(),
        ..private
    };
    if private.token.is_none() {
        // Killed in the middle of a change, a provider gives no answer, and Terraform keeps the values alone.
        private = Private::taking_over(found, resource.hosts().session())
            .map_err(|error| Diagnostics::error(doing.clone(), error.to_string()))?;
        context.warn(
            format!("The {label} on {target} is taken over anew"),
            "The last change of it was cut off, and this state has lost the token that makes the object its own. \
             The next apply gives it a new one. If another Terraform state has imported it since, take it out of this one.",
        );
    }
    let token = owner::<R>(&model, &private)?;
    // Whoever has imported it in another process has saved that by now.
    let saved = private.session.as_ref() != Some(resource.hosts().session());
    let standing = private.standing(&found.token, saved);
    if standing == Standing::Imported {
        let left = limit.saturating_sub(begun.elapsed());
        take_over(resource, &target, &key, &mut private, left)
            .await
            .map_err(|error| diagnostics(&doing, &error, R::PLACE))?;
    }
    if standing == Standing::Stranger {
        return Ok(gone_to_another(&label, &target, context));
    }
    if !found.claimed && standing == Standing::Owner {
        resource.hosts().claim(&target, key.clone(), token);
    }
    private.machine_id = Some(snapshot.facts.machine_id.clone());
    R::observe(&mut model, &object);
    R::remember(&mut private, &object);
    R::warn(&label, &object, context);
    let planned = &resource.hosts().planned;
    planned.read(R::NAME, &target, key, private.clone());
    Ok(Some(State::new(model, private)))
}

/// No state, for an object that another one has.
fn gone_to_another<R: Managed>(
    label: &str,
    target: &Target,
    context: &Context,
) -> Option<State<R>> {
    context.warn(
        format!("The {label} on {target} belongs to another state"),
        "Another Terraform state has made or imported it since. It is gone from this one, as if it had been destroyed; \
         take it out of the configuration, or take it back with `terraform import`.",
    );
    None
}

/// Removes the object.
pub async fn delete<R: Managed>(
    resource: &R,
    state: State<R>,
    context: &Context,
) -> Result<(), Failed<R>> {
    let State { model, mut private } = state;
    R::destroyable(&model)?;
    let (target, key) = (required_target::<R>(&model)?, required_key::<R>(&model)?);
    let doing = format!("Destroying {}", R::label(&model));
    let _under_way = resource.hosts().removals.begin(&target);
    private = private.about(&target, &key);
    let (begun, limit) = (Instant::now(), R::LIMITS.with(R::timeouts(&model)).delete);
    let left = || limit.saturating_sub(begun.elapsed());
    // Without a look before the plan, what has this name now may be anybody's.
    if private.token.is_none() && private.refreshed {
        let lost = find_lost(resource, &target, &key, &private.marks, left()).await;
        match lost.map_err(|error| diagnostics(&doing, &error, R::PLACE))? {
            Some(found) => private = found,
            None => return Ok(()),
        }
    }
    finish_import(resource, &target, &key, &mut private, left())
        .await
        .map_err(|error| diagnostics(&doing, &error, R::PLACE))?;
    let token = owner::<R>(&model, &private)?;
    let planned = &resource.hosts().planned;
    planned.destroy(&target, key.clone(), token.clone());
    let removed = resource
        .hosts()
        .remove(
            &target,
            private.machine_id.as_deref(),
            key,
            token,
            left(),
            context,
        )
        .await;
    removed.map_err(|error| diagnostics(&doing, &error, R::PLACE).into())
}

/// What was planned, with all that was unknown filled in from what is there.
pub(super) fn settled<R: Managed>(
    planned: &R::Model,
    private: &mut Private,
    changed: &Changed,
    context: &Context,
) -> Result<R::Model, Diagnostics> {
    let Some(object) = &changed.object else {
        return Ok(planned.clone());
    };
    R::remember(private, object);
    let drift = drift_of(object);
    if !drift.is_empty() && changed.failure.is_none() {
        context.warn(
            format!("Not all is well with {}", R::label(planned)),
            drift.join("\n"),
        );
    }
    let mut seen = planned.clone();
    R::observe(&mut seen, object);
    let merged = filled(planned.encode(), &seen.encode());
    R::Model::decode(&merged, &Path::root()).map_err(|issue| {
        Diagnostics::error(
            format!("State of {}", R::label(planned)),
            format!("{issue:?}"),
        )
    })
}

/// The value, with all that is unknown in it taken from the other one.
fn filled(value: Value, from: &Value) -> Value {
    match value {
        Value::Unknown => from.clone(),
        Value::Object(fields) => {
            let fill = |(name, field): (String, Value)| {
                let field = filled(field, from.field(&name));
                (name, field)
            };
            Value::Object(fields.into_iter().map(fill).collect::<BTreeMap<_, _>>())
        }
        other => other,
    }
}

/// One object of a snapshot, as a change would have answered it.
pub fn find(snapshot: &Snapshot, key: &ObjectKey) -> Option<Object> {
    match key {
        ObjectKey::Host => snapshot
            .host
            .clone()
            .map(|host| Object::Host(Box::new(snapshot.facts.clone()), host)),
        ObjectKey::Image(name) => snapshot.images.get(name).cloned().map(Object::Image),
        ObjectKey::Container(name) => snapshot
            .containers
            .get(name)
            .cloned()
            .map(|container| Object::Container(Box::new(container))),
        ObjectKey::Address(address) => snapshot
            .addresses
            .get(address)
            .cloned()
            .map(Object::Address),
    }
}

/// Whose an object is.
pub fn owner_of(object: &Object) -> &Owner {
    match object {
        Object::Host(_, host) => &host.owner,
        Object::Image(image) => &image.owner,
        Object::Container(container) => &container.owner,
        Object::Address(address) => &address.owner,
    }
}

fn drift_of(object: &Object) -> &[String] {
    match object {
        Object::Host(_, host) => &host.drift,
        Object::Image(image) => &image.drift,
        Object::Container(container) => &container.drift,
        Object::Address(address) => &address.drift,
    }
}

pub(super) fn required_target<R: Managed>(model: &R::Model) -> Result<Target, Diagnostics> {
    R::target(model).ok_or_else(|| incomplete::<R>(model, "how its host is reached"))
}

pub(super) fn required_key<R: Managed>(model: &R::Model) -> Result<ObjectKey, Diagnostics> {
    R::key(model).ok_or_else(|| incomplete::<R>(model, "its name"))
}

fn incomplete<R: Managed>(model: &R::Model, what: &str) -> Diagnostics {
    Diagnostics::error(
        format!("The values of {} are incomplete", R::label(model)),
        format!(
            "They don't say {what}. Take it out of the state with `terraform state rm`, and import it."
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_unknown_is_filled_in() {
        let object = |fields: &[(&str, Value)]| {
            Value::Object(
                fields
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect(),
            )
        };
        let planned = object(&[
            ("a", Value::Unknown),
            ("b", "kept".into()),
            ("c", object(&[("d", Value::Unknown), ("e", Value::Null)])),
        ]);
        let seen = object(&[
            ("a", 1.into()),
            ("b", "other".into()),
            ("c", object(&[("d", true.into()), ("e", true.into())])),
        ]);
        let filled = filled(planned, &seen);
        assert_eq!(
            filled,
            object(&[
                ("a", 1.into()),
                ("b", "kept".into()),
                ("c", object(&[("d", true.into()), ("e", Value::Null)]))
            ])
        );
    }
}
