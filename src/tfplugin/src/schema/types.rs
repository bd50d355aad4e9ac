//! What an attribute can hold, and how it is read and written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};

use super::Object;
use crate::{Attr, Diagnostics, Path, Value};

/// Terraform's type of an attribute.
#[derive(Clone, Debug)]
pub enum Type {
    /// True or false.
    Bool,
    /// Any number.
    Number,
    /// A text.
    String,
    /// An ordered list.
    List(Box<Type>),
    /// A set.
    Set(Box<Type>),
    /// A map with strings as keys.
    Map(Box<Type>),
    /// An object with attributes of its own.
    Object(Object),
}

/// Why a value can't be read.
#[derive(Clone, Debug, PartialEq)]
pub enum Issue {
    /// Something inside isn't known yet, and the type has no place for that.
    Unknown,
    /// It isn't what is wanted there.
    Invalid(Diagnostics),
}

impl Issue {
    /// The error of a value that is of another kind than the one wanted.
    pub fn mismatch(path: &Path, wanted: &str, found: &Value) -> Self {
        let detail = format!("{path} has to be {wanted}, not {}.", found.kind());
        Self::Invalid(Diagnostics::error_at(
            path.clone(),
            "Wrong type of value",
            detail,
        ))
    }

    /// The error of a value of the right kind that doesn't make sense.
    pub fn invalid(path: &Path, reason: impl Display) -> Self {
        let reason = reason.to_string();
        let detail = format!("{path}: {}.", reason.trim_end_matches('.'));
        Self::Invalid(Diagnostics::error_at(path.clone(), "Invalid value", detail))
    }
}

/// A type that an attribute can have.
pub trait AttributeType: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// What checks see of it: `str` of a `String`.
    type View: ?Sized;

    /// Shows it to a check.
    fn view(&self) -> &Self::View;

    /// Terraform's type for it.
    fn attribute_type() -> Type;

    /// Reads a value; `path` names it in errors.
    fn decode(value: &Value, path: &Path) -> Result<Self, Issue>;

    /// Writes it.
    fn encode(&self) -> Value;
}

impl<T: AttributeType> AttributeType for Attr<T> {
    type View = Self;

    fn view(&self) -> &Self::View {
        self
    }

    fn attribute_type() -> Type {
        T::attribute_type()
    }

    fn decode(value: &Value, path: &Path) -> Result<Self, Issue> {
        match value {
            Value::Null => Ok(Self::Null),
            Value::Unknown => Ok(Self::Unknown),
            known => match T::decode(known, path) {
                Ok(value) => Ok(Self::Known(value)),
                Err(Issue::Unknown) => Ok(Self::Unknown),
                Err(invalid) => Err(invalid),
            },
        }
    }

    fn encode(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Unknown => Value::Unknown,
            Self::Known(value) => value.encode(),
        }
    }
}

/// The error for a value that isn't of the wanted kind; unknown is no error but a state.
pub(super) fn unfit<T>(value: &Value, path: &Path, wanted: &str) -> Result<T, Issue> {
    match value {
        Value::Unknown => Err(Issue::Unknown),
        other => Err(Issue::mismatch(path, wanted, other)),
    }
}

impl AttributeType for String {
    type View = str;

    fn view(&self) -> &Self::View {
        self
    }

    fn attribute_type() -> Type {
        Type::String
    }

    fn decode(value: &Value, path: &Path) -> Result<Self, Issue> {
        match value {
            Value::String(text) => Ok(text.clone()),
            other => unfit(other, path, "a string"),
        }
    }

    fn encode(&self) -> Value {
        Value::String(self.clone())
    }
}

impl AttributeType for bool {
    type View = Self;

    fn view(&self) -> &Self::View {
        self
    }

    fn attribute_type() -> Type {
        Type::Bool
    }

    fn decode(value: &Value, path: &Path) -> Result<Self, Issue> {
        match value {
            Value::Bool(truth) => Ok(*truth),
            other => unfit(other, path, "a bool"),
        }
    }

    fn encode(&self) -> Value {
        Value::Bool(*self)
    }
}

impl AttributeType for i64 {
    type View = Self;

    fn view(&self) -> &Self::View {
        self
    }

    fn attribute_type() -> Type {
        Type::Number
    }

    fn decode(value: &Value, path: &Path) -> Result<Self, Issue> {
        match value {
            Value::Integer(number) => Ok(*number),
            Value::Float(_) => Err(Issue::invalid(
                path,
                "a whole number is wanted, without a fraction",
            )),
            other => unfit(other, path, "a whole number"),
        }
    }

    fn encode(&self) -> Value {
        Value::Integer(*self)
    }
}

impl AttributeType for f64 {
    type View = Self;

    fn view(&self) -> &Self::View {
        self
    }

    fn attribute_type() -> Type {
        Type::Number
    }

    fn decode(value: &Value, path: &Path) -> Result<Self, Issue> {
        match value {
            #[allow(
                clippy::cast_precision_loss,
                reason = "Terraform's own numbers round too"
            )]
            Value::Integer(number) => Ok(*number as Self),
            Value::Float(number) => Ok(*number),
            // Numbers that no binary type holds exactly travel as decimal text.
            Value::String(text) => text
                .parse()
                .map_err(|_| Issue::mismatch(path, "a number", value)),
            other => unfit(other, path, "a number"),
        }
    }

    fn encode(&self) -> Value {
        Value::number(*self)
    }
}

/// Decodes every item and reports the errors of all of them.
fn decode_items<'v, K, T: AttributeType>(
    items: impl Iterator<Item = (K, &'v Value, Path)>,
) -> Result<Vec<(K, T)>, Issue> {
    let mut decoded = Vec::new();
    let mut errors = Diagnostics::new();
    let mut unknown = false;
    for (key, item, path) in items {
        match T::decode(item, &path) {
            Ok(item) => decoded.push((key, item)),
            Err(Issue::Unknown) => unknown = true,
            Err(Issue::Invalid(more)) => errors.extend(more),
        }
    }
    if !errors.is_empty() {
        return Err(Issue::Invalid(errors));
    }
    if unknown {
        Err(Issue::Unknown)
    } else {
        Ok(decoded)
    }
}

impl<T: AttributeType> AttributeType for Vec<T> {
    type View = [T];

    fn view(&self) -> &Self::View {
        self
    }

    fn attribute_type() -> Type {
        Type::List(Box::new(T::attribute_type()))
    }

    fn decode(value: &Value, path: &Path) -> Result<Self, Issue> {
        let Value::List(items) = value else {
            return unfit(value, path, "a list");
        };
        let items = items.iter().enumerate();
        let items = decode_items(items.map(|(index, item)| ((), item, path.then(index))))?;
        Ok(items.into_iter().map(|((), item)| item).collect())
    }

    fn encode(&self) -> Value {
        Value::List(self.iter().map(T::encode).collect())
    }
}

impl<T: AttributeType + Ord> AttributeType for BTreeSet<T> {
    type View = Self;

    fn view(&self) -> &Self::View {
        self
    }

    fn attribute_type() -> Type {
        Type::Set(Box::new(T::attribute_type()))
    }

    fn decode(value: &Value, path: &Path) -> Result<Self, Issue> {
        let Value::List(items) = value else {
            return unfit(value, path, "a set");
        };
        // A set's elements have no position; the set itself is named.
        let items = decode_items(items.iter().map(|item| ((), item, path.clone())))?;
        Ok(items.into_iter().map(|((), item)| item).collect())
    }

    fn encode(&self) -> Value {
        Value::List(self.iter().map(T::encode).collect())
    }
}

impl<T: AttributeType> AttributeType for BTreeMap<String, T> {
    type View = Self;

    fn view(&self) -> &Self::View {
        self
    }

    fn attribute_type() -> Type {
        Type::Map(Box::new(T::attribute_type()))
    }

    fn decode(value: &Value, path: &Path) -> Result<Self, Issue> {
        let Value::Object(items) = value else {
            return unfit(value, path, "a map");
        };
        let items = items.iter();
        let items = items.map(|(name, item)| (name.clone(), item, path.then(crate::key(name))));
        Ok(decode_items(items)?.into_iter().collect())
    }

    fn encode(&self) -> Value {
        Value::Object(
            self.iter()
                .map(|(name, item)| (name.clone(), item.encode()))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests;
