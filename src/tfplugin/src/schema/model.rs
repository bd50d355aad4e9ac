//! Structs whose fields are attributes, and the macro that declares them.

use std::collections::BTreeMap;

use super::{AttributeType, Issue, Object};
use crate::{Attr, Diagnostics, Path, Value};

/// A struct declared by [`model!`](crate::model): an object with typed attributes.
pub trait Model: AttributeType + Default {
    /// The attributes, built anew at each call.
    fn object() -> Object;
}

/// The type of a model's field.
pub trait Field {
    /// What the field holds when it is known.
    type Inner: AttributeType;
}

impl<T: AttributeType> Field for Attr<T> {
    type Inner = T;
}

/// Reads an object's attributes and gathers the errors of all of them.
#[doc(hidden)]
pub struct Reader<'v> {
    fields: &'v BTreeMap<String, Value>,
    path: &'v Path,
    errors: Diagnostics,
    unknown: bool,
}

impl<'v> Reader<'v> {
    /// Opens an object.
    pub fn open(value: &'v Value, path: &'v Path) -> Result<Self, Issue> {
        match value {
            Value::Object(fields) => Ok(Self {
                fields,
                path,
                errors: Diagnostics::new(),
                unknown: false,
            }),
            Value::Unknown => Err(Issue::Unknown),
            other => Err(Issue::mismatch(path, "an object", other)),
        }
    }

    /// Reads one attribute; null where it is missing or wrong, which [`Self::close`] reports.
    pub fn field<T: AttributeType>(&mut self, name: &str) -> Attr<T> {
        let value = self.fields.get(name).unwrap_or(&Value::Null);
        Attr::decode(value, &self.path.then(name)).unwrap_or_else(|issue| {
            match issue {
                Issue::Unknown => self.unknown = true,
                Issue::Invalid(errors) => self.errors.extend(errors),
            }
            Attr::Null
        })
    }

    /// The errors met on the way.
    pub fn close(self) -> Result<(), Issue> {
        if !self.errors.is_empty() {
            return Err(Issue::Invalid(self.errors));
        }
        if self.unknown {
            Err(Issue::Unknown)
        } else {
            Ok(())
        }
    }
}

/// A doc comment's lines as one markdown text.
#[doc(hidden)]
pub fn documentation(lines: &[&str]) -> String {
    let lines = lines
        .iter()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end());
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// A field's name as an attribute's: `r#type` is `type`.
#[doc(hidden)]
pub fn text_of(identifier: &'static str) -> &'static str {
    identifier.strip_prefix("r#").unwrap_or(identifier)
}

/// Declares structs whose fields are attributes.
///
/// One line gives an attribute's field, type, docs (its doc comment, in markdown), presence, default,
/// validation, decoding and encoding. What stands after `=>` are the methods of
/// [`Declaration`](crate::schema::Declaration).
///
/// ```
/// tfplugin::model! {
///     /// A machine.
///     pub struct Machine {
///         /// Its name.
///         name: Attr<String> => required().replace(),
///         /// Its port.
///         port: Attr<i64> => optional().default(22),
///     }
/// }
/// # use tfplugin::Attr;
/// let machine = Machine { name: "web".into(), ..Machine::default() };
/// assert!(machine.port.is_null());
/// ```
#[macro_export]
macro_rules! model {
    ($(
        $(#[doc = $doc:expr])*
        $visibility:vis struct $model:ident {
            $(
                $(#[doc = $field_doc:expr])*
                $field:ident : $type:ty => $first:ident ( $($argument:tt)* )
                    $( . $next:ident ( $($more:tt)* ) )*
            ),* $(,)?
        }
    )+) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        $visibility struct $model {
            $(
                $(#[doc = $field_doc])*
                pub $field: $type,
            )*
        }

        impl $crate::Model for $model {
            fn object() -> $crate::schema::Object {
                $crate::schema::Object {
                    description: $crate::schema::documentation(&[$($doc),*]),
                    attributes: ::std::vec![$({
                        let name = $crate::schema::text_of(stringify!($field));
                        let description = $crate::schema::documentation(&[$($field_doc),*]);
                        $crate::schema::Declaration::<<$type as $crate::schema::Field>::Inner>::new(
                            name, description,
                        )
                        .$first($($argument)*)
                        $(.$next($($more)*))*
                        .finish()
                    }),*],
                }
            }
        }

        impl $crate::schema::AttributeType for $model {
            type View = Self;

            fn view(&self) -> &Self {
                self
            }

            fn attribute_type() -> $crate::schema::Type {
                $crate::schema::Type::Object(<Self as $crate::Model>::object())
            }

            fn decode(
                value: &$crate::Value,
                path: &$crate::Path,
            ) -> ::std::result::Result<Self, $crate::schema::Issue> {
                let mut reader = $crate::schema::Reader::open(value, path)?;
                let model = Self {
                    $($field: reader.field($crate::schema::text_of(stringify!($field))),)*
                };
                reader.close()?;
                Ok(model)
            }

            fn encode(&self) -> $crate::Value {
                let mut fields = ::std::collections::BTreeMap::new();
                $(
                    fields.insert(
                        $crate::schema::text_of(stringify!($field)).to_owned(),
                        $crate::schema::AttributeType::encode(&self.$field),
                    );
                )*
                $crate::Value::Object(fields)
            }
        }
    )+};
}
