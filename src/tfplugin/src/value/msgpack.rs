//! MessagePack, Terraform's usual encoding of values.

use rmpv::Value as Packed;

use super::Value;

/// Unknown, and unknown with what is known about it (refinements, which nothing here needs).
const UNKNOWN: i8 = 0;
const REFINED_UNKNOWN: i8 = 12;

/// Deeper nesting than any schema has; guards the stack.
const MAX_DEPTH: usize = 256;

/// Why bytes aren't a value.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not MessagePack.
    #[error("not MessagePack: {0}")]
    Encoding(#[from] rmpv::decode::Error),
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// MessagePack, but no value of Terraform's.
    #[error("no Terraform value: {0}")]
    Content(&'static str),
}

/// Reads a value.
pub fn decode(mut bytes: &[u8]) -> Result<Value, DecodeError> {
    let packed = rmpv::decode::read_value_with_max_depth(&mut bytes, MAX_DEPTH)?;
    if !bytes.is_empty() {
        return Err(DecodeError::Content("bytes follow the value"));
    }
    from_packed(packed)
}

fn from_packed(packed: Packed) -> Result<Value, DecodeError> {
    Ok(match packed {
        Packed::Nil => Value::Null,
        Packed::Boolean(truth) => Value::Bool(truth),
        Packed::Integer(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::Integer(number),
            (None, Some(number)) => Value::number(number),
            (None, None) => return Err(DecodeError::Content("a number out of range")),
        },
        Packed::F32(number) => Value::number(number.into()),
        Packed::F64(number) => Value::number(number),
        Packed::String(text) => match text.into_str() {
            Some(text) => Value::String(text),
            None => return Err(DecodeError::Content("a text that isn't UTF-8")),
        },
        Packed::Array(items) => Value::List(
            items
                .into_iter()
                .map(from_packed)
                .collect::<Result<_, _>>()?,
        ),
        Packed::Map(fields) => {
            Value::Object(fields.into_iter().map(field).collect::<Result<_, _>>()?)
        }
        Packed::Ext(UNKNOWN | REFINED_UNKNOWN, _) => Value::Unknown,
        Packed::Ext(..) => return Err(DecodeError::Content("an extension of an unknown kind")),
        Packed::Binary(_) => return Err(DecodeError::Content("binary data")),
    })
}

fn field((name, value): (Packed, Packed)) -> Result<(String, Value), DecodeError> {
    match name {
        Packed::String(name) if name.is_str() => {
            Ok((name.into_str().unwrap_or_default(), from_packed(value)?))
        }
        _ => Err(DecodeError::Content("a key that isn't a text")),
    }
}

/// Writes a value.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing into memory fails only where memory does, and that aborts.
    let _infallible = rmpv::encode::write_value(&mut bytes, &to_packed(value));
    bytes
}

fn to_packed(value: &Value) -> Packed {
    match value {
        Value::Null => Packed::Nil,
        Value::Unknown => Packed::Ext(UNKNOWN, vec![0]),
        Value::Bool(truth) => Packed::Boolean(*truth),
        Value::Integer(number) => Packed::from(*number),
        Value::Float(number) => Packed::F64(*number),
        Value::String(text) => Packed::from(text.as_str()),
        Value::List(items) => Packed::Array(items.iter().map(to_packed).collect()),
        Value::Object(fields) => {
            let fields = fields.iter();
            Packed::Map(
                fields
                    .map(|(name, value)| (name.as_str().into(), to_packed(value)))
                    .collect(),
            )
        }
    }
}
