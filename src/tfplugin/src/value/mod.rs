//! Terraform's dynamic values, and their encodings on the wire and in state files.

pub(crate) mod dynamic;
pub(crate) mod json;
pub(crate) mod msgpack;
pub(crate) mod path;

use std::collections::BTreeMap;

/// A value of Terraform's type system. Lists, sets and tuples are `List`; maps and objects `Object`.
///
/// Whether a value fits an attribute is for the attribute's type to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Not set.
    #[default]
    Null,
    /// Known after apply.
    Unknown,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction, or one too big for an `i64`.
    Float(f64),
    /// A text; also a number that neither `i64` nor `f64` holds exactly.
    String(String),
    /// A list, set or tuple.
    List(Vec<Value>),
    /// A map or object.
    Object(BTreeMap<String, Value>),
}

impl Value {
    /// A number in its one canonical form, so that equal numbers compare as equal.
    pub fn number(number: f64) -> Self {
        // 2^53: below it every whole f64 is exactly one i64.
        if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
            #[allow(clippy::cast_possible_truncation, reason = "whole and in range")]
            return Self::Integer(number as i64);
        }
        Self::Float(number)
    }

    /// Whether this value and everything inside it is known.
    pub fn is_wholly_known(&self) -> bool {
        match self {
            Self::Unknown => false,
            Self::List(items) => items.iter().all(Self::is_wholly_known),
            Self::Object(fields) => fields.values().all(Self::is_wholly_known),
            _ => true,
        }
    }

    /// The field of an object or map; null when there is none.
    pub fn field(&self, name: &str) -> &Value {
        static NULL: Value = Value::Null;
        match self {
            Self::Object(fields) => fields.get(name).unwrap_or(&NULL),
            _ => &NULL,
        }
    }

    /// What kind of value this is, for an error's text; never the value itself, which may be secret.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Unknown => "a value not yet known",
            Self::Bool(_) => "a bool",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::String(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::number(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(value: Vec<T>) -> Self {
        Self::List(value.into_iter().map(Into::into).collect())
    }
}
