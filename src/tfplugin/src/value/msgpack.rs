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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            Just(Value::Unknown),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Integer),
            any::<f64>()
                .prop_filter("no NaN", |number| !number.is_nan())
                .prop_map(Value::number),
            ".*".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::List),
                prop::collection::btree_map(".*", inner, 0..8).prop_map(Value::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in values()) {
            prop_assert_eq!(decode(&encode(&value)).unwrap(), value);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }

        #[test]
        fn json_says_the_same(value in values()) {
            prop_assume!(value.is_wholly_known());
            prop_assume!(!has_infinity(&value));
            prop_assert_eq!(crate::value::json::from_json(to_json(&value)), value);
        }
    }

    fn has_infinity(value: &Value) -> bool {
        match value {
            Value::Float(number) => !number.is_finite(),
            Value::List(items) => items.iter().any(has_infinity),
            Value::Object(fields) => fields.values().any(has_infinity),
            _ => false,
        }
    }

    fn to_json(value: &Value) -> serde_json::Value {
        match value {
            Value::Null | Value::Unknown => serde_json::Value::Null,
            Value::Bool(truth) => (*truth).into(),
            Value::Integer(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::String(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(to_json).collect(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| (name.clone(), to_json(value)))
                .collect(),
        }
    }

    #[test]
    fn both_kinds_of_unknown_are_read() {
        assert_eq!(decode(&[0xd4, 0, 0]).unwrap(), Value::Unknown);
        assert_eq!(
            decode(&[0xc7, 3, 12, 0x81, 1, 0xc2]).unwrap(),
            Value::Unknown
        );
        assert!(decode(&[0xd4, 5, 0]).is_err());
    }

    #[test]
    fn unknown_is_written_as_terraform_writes_it() {
        assert_eq!(encode(&Value::Unknown), [0xd4, 0, 0]);
    }

    #[test]
    fn whole_floats_are_integers() {
        assert_eq!(
            decode(&encode(&Value::Float(22.0))).unwrap(),
            Value::Integer(22)
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [
            &[0x81_u8][..],
            &[0x01, 0x02],
            &[0xc4, 1, 0],
            &[0x81, 1, 1],
            &[0xa1, 0xff],
        ] {
            assert!(decode(bytes).is_err(), "{bytes:x?}");
        }
        assert!(decode(&vec![0x91; 100_000]).is_err());
    }
}
