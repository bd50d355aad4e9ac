//! Bringing a value into the shape of its schema.

use std::collections::BTreeMap;

use super::{Attribute, Object, Type};
use crate::value::msgpack;
use crate::{Path, Value};

impl Type {
    /// Gives a value exactly the attributes of its type (missing ones null, others dropped) and its
    /// sets one order, so that equal values compare as equal.
    pub(crate) fn conform(&self, value: Value) -> Value {
        match (self, value) {
            (Self::Object(object), Value::Object(fields)) => object.conform_fields(fields),
            (Self::List(inner), Value::List(items)) => {
                Value::List(items.into_iter().map(|item| inner.conform(item)).collect())
            }
            (Self::Set(inner), Value::List(items)) => {
                let mut items: Vec<_> = items.into_iter().map(|item| inner.conform(item)).collect();
                items.sort_by_cached_key(msgpack::encode);
                Value::List(items)
            }
            (Self::Map(inner), Value::Object(fields)) => {
                let fields = fields.into_iter();
                Value::Object(
                    fields
                        .map(|(name, item)| (name, inner.conform(item)))
                        .collect(),
                )
            }
            (_, other) => other,
        }
    }
}

impl Object {
    /// [`Type::conform`] for an object as a whole.
    pub(crate) fn conform(&self, value: Value) -> Value {
        match value {
            Value::Object(fields) => self.conform_fields(fields),
            other => other,
        }
    }

    fn conform_fields(&self, mut fields: BTreeMap<String, Value>) -> Value {
        let attributes = self.attributes.iter();
        let fields = attributes.map(|attribute| {
            let value = fields.remove(&attribute.name).unwrap_or_default();
            (attribute.name.clone(), attribute.kind.conform(value))
        });
        Value::Object(fields.collect())
    }

    /// Sets write-only attributes to null: they never enter plan or state.
    pub(crate) fn without_write_only(&self, value: Value) -> Value {
        self.rewrite(value, &|attribute, value| {
            if attribute.write_only {
                Value::Null
            } else {
                value
            }
        })
    }

    /// Puts defaults where nothing is set, for a provider's or data source's configuration.
    pub(crate) fn with_defaults(&self, value: Value) -> Value {
        self.rewrite(
            value,
            &|attribute, value| match (&attribute.default, value) {
                (Some(default), Value::Null) => attribute.kind.conform(default.clone()),
                (_, value) => value,
            },
        )
    }

    /// Changes the value of every attribute, outer ones first.
    fn rewrite(&self, value: Value, change: &dyn Fn(&Attribute, Value) -> Value) -> Value {
        let Value::Object(mut fields) = value else {
            return value;
        };
        for attribute in &self.attributes {
            let field = change(
                attribute,
                fields.remove(&attribute.name).unwrap_or_default(),
            );
            let field = match attribute.kind.nested() {
                Some((object, _)) => object.rewrite_each(&attribute.kind, field, change),
                None => field,
            };
            fields.insert(attribute.name.clone(), field);
        }
        Value::Object(fields)
    }

    fn rewrite_each(
        &self,
        kind: &Type,
        value: Value,
        change: &dyn Fn(&Attribute, Value) -> Value,
    ) -> Value {
        match (kind, value) {
            (Type::Map(_), Value::Object(items)) => {
                let items = items.into_iter();
                Value::Object(
                    items
                        .map(|(key, item)| (key, self.rewrite(item, change)))
                        .collect(),
                )
            }
            (_, Value::List(items)) => Value::List(
                items
                    .into_iter()
                    .map(|item| self.rewrite(item, change))
                    .collect(),
            ),
            (_, object) => self.rewrite(object, change),
        }
    }
}

impl Attribute {
    /// The nested objects in this attribute's value, with their paths.
    pub(crate) fn nested_values<'v>(
        &'v self,
        value: &'v Value,
        path: &Path,
    ) -> Vec<(&'v Object, &'v Value, Path)> {
        let Some((object, _)) = self.kind.nested() else {
            return Vec::new();
        };
        match (&self.kind, value) {
            (Type::Object(_), Value::Object(_)) => vec![(object, value, path.clone())],
            (Type::Map(_), Value::Object(items)) => {
                let items = items.iter();
                items
                    .map(|(name, item)| (object, item, path.then(crate::key(name))))
                    .collect()
            }
            (_, Value::List(items)) => {
                let items = items.iter().enumerate();
                items
                    .map(|(index, item)| (object, item, path.then(index)))
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}
