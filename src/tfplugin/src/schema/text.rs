//! Texts that mean something: parsed ones, and secrets.

use std::collections::HashSet;
use std::fmt::{self, Debug, Display};
use std::ops::Deref;
use std::str::FromStr;

use super::types::unfit;
use super::{AttributeType, Issue, Type};
use crate::{Path, Value};

/// A string that has to parse as `T`, and keeps the user's spelling.
///
/// `Attr<Parsed<Size>>` takes any `Size: FromStr`; its error's text becomes the diagnostic's detail.
/// Derefs to `T`. Two are equal when their texts are.
#[derive(Clone)]
pub struct Parsed<T> {
    text: String,
    value: T,
}

impl<T> Parsed<T> {
    /// The value that the text stands for.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The text as the user wrote it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value itself.
    pub fn into_value(self) -> T {
        self.value
    }
}

impl<T: Display> Parsed<T> {
    /// Spells a value in its own way.
    pub fn new(value: T) -> Self {
        Self {
            text: value.to_string(),
            value,
        }
    }
}

impl<T: FromStr> FromStr for Parsed<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        Ok(Self {
            text: text.to_owned(),
            value: text.parse()?,
        })
    }
}

impl<T> Deref for Parsed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> PartialEq for Parsed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<T> Eq for Parsed<T> {}

impl<T> Debug for Parsed<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(&self.text, formatter)
    }
}

impl<T> Display for Parsed<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.text, formatter)
    }
}

impl<T> AttributeType for Parsed<T>
where
    T: FromStr<Err: Display> + Clone + Send + Sync + 'static,
{
    type View = T;

    fn view(&self) -> &Self::View {
        &self.value
    }

    fn attribute_type() -> Type {
        Type::String
    }

    fn decode(value: &Value, path: &Path) -> Result<Self, Issue> {
        let Value::String(text) = value else {
            return unfit(value, path, "a string");
        };
        text.parse().map_err(|error: T::Err| {
            let reason = error.to_string();
            // Not every error of a library says what it is about.
            if reason.contains(text.as_str()) || may_be_a_key(text) {
                refused(path, value, &reason)
            } else {
                Issue::invalid(path, format!("{text:?}: {reason}"))
            }
        })
    }

    fn encode(&self) -> Value {
        Value::String(self.text.clone())
    }
}

/// So many bytes of a text give something of it away. The first ones of each key of a kind are the same.
const TELLING: usize = 20;

/// Stands for a reason that would tell a secret.
pub const NOT_SHOWN: &str = "what stands here is none of the values that it can have, and is not shown: it has a line end, or the words PRIVATE KEY, and may be a secret; trimspace(file(…)) takes a line end away";

/// Whether a text may be a private key, put by mistake where another is wanted.
fn may_be_a_key(text: &str) -> bool {
    text.contains(['\n', '\r']) || text.contains("PRIVATE KEY")
}

/// Whether a reason repeats something of a text that may be a private key.
pub fn tells_a_key(reason: &str, text: &str) -> bool {
    if !may_be_a_key(text) {
        return false;
    }
    let runs: HashSet<&[u8]> = text.as_bytes().windows(TELLING).collect();
    let mut told = reason.as_bytes().windows(TELLING);
    told.any(|run| runs.contains(run))
}

/// The error of a value that doesn't make sense, without what may be a private key in it.
pub(super) fn refused(path: &Path, value: &Value, reason: &str) -> Issue {
    if any_text(value, &|text| tells_a_key(reason, text)) {
        Issue::invalid(path, NOT_SHOWN)
    } else {
        Issue::invalid(path, reason)
    }
}

fn any_text(value: &Value, is: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is(text),
        Value::List(items) => items.iter().any(|item| any_text(item, is)),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, field)| is(name) || any_text(field, is)),
        _ => false,
    }
}

/// A text that does not print: passwords and keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secret]")
    }
}

impl AttributeType for Secret {
    type View = str;

    fn view(&self) -> &Self::View {
        &self.0
    }

    fn attribute_type() -> Type {
        Type::String
    }

    fn decode(value: &Value, path: &Path) -> Result<Self, Issue> {
        String::decode(value, path).map(Self)
    }

    fn encode(&self) -> Value {
        Value::String(self.0.clone())
    }
}
