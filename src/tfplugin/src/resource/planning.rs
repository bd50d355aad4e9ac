//! The framework's plan, a pure function of the schema, the prior state and the configuration.

use std::collections::BTreeMap;

use crate::schema::{Attribute, AttributeType as _, Object, Type};
use crate::{Path, Value};

/// What the framework plans before the resource's own hook.
pub struct Proposal {
    /// The state to be.
    pub planned: Value,
    /// Whether it differs from the prior state.
    pub changed: bool,
    /// The changed attributes that replace the resource.
    pub requires_replace: Vec<Path>,
}

/// What becomes of computed attributes that the user leaves out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Create,
    /// Nothing seems to change: they keep their value.
    Keep,
    /// Something changes: those that it may change become unknown.
    Update,
}

/// Plans a create (`prior` is null) or an update.
pub fn propose(object: &Object, prior: &Value, config: &Value) -> Proposal {
    if *prior == Value::Null {
        let planned = plan_object(object, prior, config, Mode::Create);
        return Proposal {
            planned,
            changed: true,
            requires_replace: Vec::new(),
        };
    }
    let kept = plan_object(object, prior, config, Mode::Keep);
    if kept == *prior {
        return Proposal {
            planned: kept,
            changed: false,
            requires_replace: Vec::new(),
        };
    }
    let planned = plan_object(object, prior, config, Mode::Update);
    let mut requires_replace = Vec::new();
    collect_replacements(
        object,
        prior,
        &planned,
        &Path::root(),
        &mut requires_replace,
    );
    Proposal {
        planned,
        changed: true,
        requires_replace,
    }
}

fn plan_object(object: &Object, prior: &Value, config: &Value, mode: Mode) -> Value {
    if !matches!(config, Value::Object(_)) {
        return config.clone();
    }
    let fields = object.attributes.iter().map(|attribute| {
        let name = &attribute.name;
        let value = plan_attribute(attribute, prior.field(name), config.field(name), mode);
        (name.clone(), value)
    });
    Value::Object(fields.collect())
}

fn plan_attribute(attribute: &Attribute, prior: &Value, config: &Value, mode: Mode) -> Value {
    if attribute.write_only {
        return Value::Null;
    }
    if let Some(value) = &attribute.always_planned {
        // Null after an import: nothing deviates, and that alone is no change.
        let unset = mode == Mode::Keep && *prior == Value::Null;
        return if unset { Value::Null } else { value.clone() };
    }
    match config {
        Value::Unknown => Value::Unknown,
        Value::Null => plan_unset(attribute, prior, mode),
        set => plan_set(attribute, prior, set, mode),
    }
}

fn plan_unset(attribute: &Attribute, prior: &Value, mode: Mode) -> Value {
    if let Some(default) = &attribute.default {
        return plan_set(
            attribute,
            prior,
            &attribute.kind.conform(default.clone()),
            mode,
        );
    }
    if !attribute.is_computed() {
        return Value::Null;
    }
    match mode {
        Mode::Create => Value::Unknown,
        // Null so far: an attribute that the schema has gained, or one in a new nested object.
        Mode::Update if attribute.unknown_on_update || *prior == Value::Null => Value::Unknown,
        Mode::Keep | Mode::Update => prior.clone(),
    }
}

fn plan_set(attribute: &Attribute, prior: &Value, set: &Value, mode: Mode) -> Value {
    if let Some(equivalent) = &attribute.equivalent
        && *prior != Value::Null
        && set.is_wholly_known()
        && equivalent(prior, set)
    {
        return prior.clone();
    }
    if are_same_numbers(&attribute.kind, prior, set) {
        return prior.clone();
    }
    let Some((object, _)) = attribute.kind.nested() else {
        return set.clone();
    };
    match (&attribute.kind, set) {
        (Type::Map(_), Value::Object(items)) => {
            let items = items.iter().map(|(key, item)| {
                (
                    key.clone(),
                    plan_object(object, prior.field(key), item, mode),
                )
            });
            Value::Object(items.collect::<BTreeMap<_, _>>())
        }
        (Type::List(_), Value::List(items)) => {
            let items = items
                .iter()
                .enumerate()
                .map(|(index, item)| plan_object(object, element(prior, index), item, mode));
            Value::List(items.collect())
        }
        _ => plan_object(object, prior, set, mode),
    }
}

/// Whether these are the same numbers, however they have travelled: 0.1, which no binary type holds, comes as text
/// from a configuration, and as an f64 where an import or a read has just told it. Core takes either for the plan.
fn are_same_numbers(kind: &Type, prior: &Value, set: &Value) -> bool {
    match (kind, prior, set) {
        // Those past 2^53 are more than an f64 tells apart.
        (Type::Number, Value::Integer(prior), Value::Integer(set)) => prior == set,
        (Type::Number, prior, set) => {
            let number = |value| f64::decode(value, &Path::root()).ok();
            number(prior).is_some_and(|prior| number(set) == Some(prior))
        }
        (Type::List(inner) | Type::Set(inner), Value::List(prior), Value::List(set)) => {
            let mut pairs = prior.iter().zip(set);
            prior.len() == set.len()
                && pairs.all(|(prior, set)| are_same_numbers(inner, prior, set))
        }
        (Type::Map(inner), Value::Object(prior), Value::Object(set)) => {
            let mut pairs = prior.iter().zip(set);
            prior.len() == set.len()
                && pairs.all(|((name, prior), (key, set))| {
                    name == key && are_same_numbers(inner, prior, set)
                })
        }
        _ => false,
    }
}

fn element(list: &Value, index: usize) -> &Value {
    static NULL: Value = Value::Null;
    match list {
        Value::List(items) => items.get(index).unwrap_or(&NULL),
        _ => &NULL,
    }
}

fn collect_replacements(
    object: &Object,
    prior: &Value,
    planned: &Value,
    path: &Path,
    found: &mut Vec<Path>,
) {
    for attribute in &object.attributes {
        let (before, after) = (prior.field(&attribute.name), planned.field(&attribute.name));
        if before == after {
            continue;
        }
        let path = path.then(attribute.name.as_str());
        if attribute.replace {
            found.push(path);
        } else if let Type::Object(inner) = &attribute.kind {
            collect_replacements(inner, before, after, &path, found);
        }
    }
}

/// Carries the changes from `before` to `after`, which have gone through typed decoding, over to
/// `original`, which holds what types can't (such as a list with one unknown element).
pub fn carry_over(original: &Value, before: &Value, after: &Value) -> Value {
    if before == after {
        return original.clone();
    }
    match (original, before, after) {
        (Value::Object(original), Value::Object(_), Value::Object(fields)) => {
            let fields = fields.iter().map(|(name, after)| {
                let original = original.get(name).unwrap_or(&Value::Null);
                (
                    name.clone(),
                    carry_over(original, before.field(name), after),
                )
            });
            Value::Object(fields.collect())
        }
        _ => after.clone(),
    }
}

/// Where a result differs from what the plan promised, and where it is unknown still.
pub fn broken_promises(planned: &Value, result: &Value, path: &Path) -> Vec<Path> {
    match (planned, result) {
        (_, Value::Unknown) => vec![path.clone()],
        (Value::Unknown, result) if result.is_wholly_known() => Vec::new(),
        (Value::Object(planned), Value::Object(result)) if planned.len() == result.len() => {
            let fields = result.iter().map(|(name, value)| {
                let promised = planned.get(name).unwrap_or(&Value::Null);
                broken_promises(promised, value, &path.then(name.as_str()))
            });
            fields.flatten().collect()
        }
        (Value::List(planned), Value::List(result)) if planned.len() == result.len() => {
            let items = planned.iter().zip(result).enumerate();
            items
                .flat_map(|(index, (left, right))| broken_promises(left, right, &path.then(index)))
                .collect()
        }
        (planned, result) if planned == result => Vec::new(),
        _ => vec![path.clone()],
    }
}

/// Puts null where something is unknown still: a state can't hold that.
pub fn without_unknown(value: Value) -> Value {
    match value {
        Value::Unknown => Value::Null,
        Value::List(items) => Value::List(items.into_iter().map(without_unknown).collect()),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            Value::Object(
                fields
                    .map(|(name, value)| (name, without_unknown(value)))
                    .collect(),
            )
        }
        known => known,
    }
}

#[cfg(test)]
mod tests;
