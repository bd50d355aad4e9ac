//! Schemas as messages of the protocol.

use serde_json::json;

use super::{Attribute, Object, Presence, Schema, Type};
use crate::proto;
use crate::proto::schema::object::NestingMode;

impl Schema {
    pub(crate) fn to_proto(&self) -> proto::Schema {
        let block = proto::schema::Block {
            version: self.version,
            attributes: attributes(&self.object),
            block_types: Vec::new(),
            description: self.object.description.clone(),
            description_kind: proto::StringKind::Markdown.into(),
            deprecated: false,
        };
        proto::Schema {
            version: self.version,
            block: Some(block),
        }
    }
}

fn attributes(object: &Object) -> Vec<proto::schema::Attribute> {
    object.attributes.iter().map(attribute).collect()
}

fn attribute(attribute: &Attribute) -> proto::schema::Attribute {
    let presence = attribute.presence;
    let nested = nested(&attribute.kind);
    // Type and NestedType exclude each other.
    let r#type = match nested {
        Some(_) => Vec::new(),
        None => attribute.kind.to_json().to_string().into_bytes(),
    };
    proto::schema::Attribute {
        name: attribute.name.clone(),
        r#type,
        nested_type: nested,
        description: attribute.description.clone(),
        description_kind: proto::StringKind::Markdown.into(),
        required: presence == Presence::Required,
        optional: matches!(presence, Presence::Optional | Presence::OptionalComputed),
        computed: matches!(presence, Presence::Computed | Presence::OptionalComputed),
        sensitive: attribute.sensitive,
        deprecated: attribute.deprecated.is_some(),
        write_only: attribute.write_only,
    }
}

fn nested(kind: &Type) -> Option<proto::schema::Object> {
    let (object, nesting) = kind.nested()?;
    Some(proto::schema::Object {
        attributes: attributes(object),
        nesting: nesting.into(),
    })
}

impl Type {
    /// The object of an attribute that has attributes of its own, and how many of it there are.
    pub(crate) fn nested(&self) -> Option<(&Object, NestingMode)> {
        let (inner, nesting) = match self {
            Self::Object(object) => return Some((object, NestingMode::Single)),
            Self::List(inner) => (inner, NestingMode::List),
            Self::Set(inner) => (inner, NestingMode::Set),
            Self::Map(inner) => (inner, NestingMode::Map),
            Self::Bool | Self::Number | Self::String => return None,
        };
        match inner.as_ref() {
            Self::Object(object) => Some((object, nesting)),
            _ => None,
        }
    }

    /// Terraform's JSON notation of a type.
    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Bool => json!("bool"),
            Self::Number => json!("number"),
            Self::String => json!("string"),
            Self::List(inner) => json!(["list", inner.to_json()]),
            Self::Set(inner) => json!(["set", inner.to_json()]),
            Self::Map(inner) => json!(["map", inner.to_json()]),
            Self::Object(object) => {
                let fields = object.attributes.iter();
                let fields = fields.map(|field| (field.name.clone(), field.kind.to_json()));
                json!(["object", fields.collect::<serde_json::Map<_, _>>()])
            }
        }
    }
}
