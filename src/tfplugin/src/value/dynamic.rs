//! The protocol's wrapper around an encoded value.

use super::msgpack::DecodeError;
use super::{Value, json, msgpack};
use crate::proto::DynamicValue;

/// Reads a value in whichever encoding it came; an absent one is null.
pub fn decode(dynamic: Option<&DynamicValue>) -> Result<Value, DecodeError> {
    match dynamic {
        Some(dynamic) if !dynamic.msgpack.is_empty() => msgpack::decode(&dynamic.msgpack),
        Some(dynamic) if !dynamic.json.is_empty() => {
            Ok(json::from_json(serde_json::from_slice(&dynamic.json)?))
        }
        _ => Ok(Value::Null),
    }
}

/// Writes a value as Terraform prefers it.
pub fn encode(value: &Value) -> DynamicValue {
    DynamicValue {
        msgpack: msgpack::encode(value),
        json: Vec::new(),
    }
}
