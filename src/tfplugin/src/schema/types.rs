//! What an attribute can hold, and how it is read and written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug, Display};
use std::ops::Deref;
use std::str::FromStr;

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
fn unfit<T>(value: &Value, path: &Path, wanted: &str) -> Result<T, Issue> {
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
        text.parse().map_err(|error| Issue::invalid(path, error))
    }

    fn encode(&self) -> Value {
        Value::String(self.text.clone())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path;

    crate::model! {
        /// Everything that an attribute can be.
        struct Everything {
            /// A text.
            text: Attr<String> => optional(),
            /// Raw.
            r#type: Attr<bool> => optional(),
            /// Whole.
            whole: Attr<i64> => optional(),
            /// Broken.
            broken: Attr<f64> => optional(),
            /// Parsed.
            parsed: Attr<Parsed<u8>> => optional(),
            /// Secret.
            secret: Attr<Secret> => optional().sensitive(),
            /// Some known.
            partly: Attr<Vec<Attr<String>>> => optional(),
            /// A set.
            set: Attr<BTreeSet<i64>> => optional(),
            /// Deep.
            deep: Attr<BTreeMap<String, BTreeMap<String, Vec<String>>>> => optional(),
        }
    }

    fn attr<T: Clone + Debug>(known: impl Strategy<Value = T>) -> impl Strategy<Value = Attr<T>> {
        prop_oneof![
            Just(Attr::Null),
            Just(Attr::Unknown),
            known.prop_map(Attr::Known)
        ]
    }

    prop_compose! {
        fn everything()(
            text in attr(".*"),
            r#type in attr(any::<bool>()),
            whole in attr(any::<i64>()),
            broken in attr(-1e300..1e300_f64),
            parsed in attr("0{0,3}[0-9]".prop_map(|text| text.parse().unwrap())),
            secret in attr(".*".prop_map(Secret)),
            partly in attr(prop::collection::vec(attr(".*"), 0..4)),
            set in attr(prop::collection::btree_set(any::<i64>(), 0..4)),
            deep in attr(prop::collection::btree_map(
                ".*",
                prop::collection::btree_map(".*", prop::collection::vec(".*", 0..3), 0..3),
                0..3,
            )),
        ) -> Everything {
            Everything { text, r#type, whole, broken, parsed, secret, partly, set, deep }
        }
    }

    proptest! {
        #[test]
        fn a_model_survives_the_wire(model in everything()) {
            let bytes = crate::value::msgpack::encode(&model.encode());
            let value = crate::value::msgpack::decode(&bytes).unwrap();
            prop_assert_eq!(Everything::decode(&value, &Path::root()), Ok(model));
        }
    }

    fn texts(issue: Issue) -> Vec<String> {
        let Issue::Invalid(errors) = issue else {
            unreachable!("{issue:?}")
        };
        errors.iter().map(|error| error.detail.clone()).collect()
    }

    #[test]
    fn every_wrong_value_is_named() {
        let value = Value::Object(
            [
                ("text", Value::Bool(true)),
                ("whole", Value::Float(1.5)),
                ("parsed", "300".into()),
                ("set", vec!["x"].into()),
                (
                    "deep",
                    Value::Object([("a".into(), Value::List(vec![]))].into()),
                ),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        );
        let errors = texts(Everything::decode(&value, &path!("outer")).unwrap_err());
        assert_eq!(
            errors,
            [
                "outer.text has to be a string, not a bool.",
                "outer.whole: a whole number is wanted, without a fraction.",
                "outer.parsed: number too large to fit in target type.",
                "outer.set has to be a whole number, not a string.",
                "outer.deep[\"a\"] has to be a map, not a list.",
            ]
        );
    }

    #[test]
    fn one_unknown_element_makes_a_plain_list_unknown() {
        let list = Value::List(vec!["a".into(), Value::Unknown]);
        let plain = Attr::<Vec<String>>::decode(&list, &Path::root());
        assert_eq!(plain, Ok(Attr::Unknown));
        let partly = Attr::<Vec<Attr<String>>>::decode(&list, &Path::root());
        assert_eq!(partly, Ok(vec!["a".into(), Attr::Unknown].into()));
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(
            format!("{:?}", Attr::from(Secret::new("x"))),
            "Known([secret])"
        );
        let error = Secret::decode(&Value::Integer(12_345), &path!("password")).unwrap_err();
        assert!(!format!("{error:?}").contains("12345"));
    }

    #[test]
    fn mistakes_in_a_declaration_are_found() {
        crate::model! {
            /// Wrong.
            struct Wrong {
                /// A default of another type.
                port: Attr<i64> => optional().default("ssh"),
                undescribed: Attr<i64> => optional(),
                /// Both.
                both: Attr<i64> => computed().write_only(),
            }
        }
        let mistakes = <Wrong as crate::Model>::object().mistakes("wrong");
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    }
}
