//! A state as it is stored: encoded attributes, and the provider's own part.

use super::{Resource, State};
use crate::schema::Issue;
use crate::{Diagnostics, Model, Path, Value};

/// A value of the state with the provider's own part.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    pub value: Value,
    pub private: Vec<u8>,
}

/// Reads both parts of a state.
pub fn load<R: Resource>(stored: &Stored) -> Result<State<R>, Diagnostics> {
    Ok(State {
        model: decode(&stored.value)?,
        private: read_private::<R>(&stored.private)?,
    })
}

/// Reads a model; what it can't hold at all becomes an error that names the attribute.
pub fn decode<M: Model>(value: &Value) -> Result<M, Diagnostics> {
    M::decode(value, &Path::root()).map_err(|issue| match issue {
        Issue::Invalid(errors) => errors,
        Issue::Unknown => {
            Diagnostics::error("Value not known yet", "The object is unknown as a whole.")
        }
    })
}

/// Reads a model that may be null.
pub fn decode_optional<M: Model>(value: &Value) -> Result<Option<M>, Diagnostics> {
    if *value == Value::Null {
        Ok(None)
    } else {
        decode(value).map(Some)
    }
}

/// Reads the provider's own part; none yet is its default.
pub fn read_private<R: Resource>(bytes: &[u8]) -> Result<R::Private, Diagnostics> {
    if bytes.is_empty() {
        return Ok(R::Private::default());
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let detail = format!(
            "The private part of the state of {} can't be read: {error}.",
            R::NAME
        );
        Diagnostics::error("Unreadable private state", detail)
    })
}

/// Writes the provider's own part.
pub fn write_private<R: Resource>(private: &R::Private) -> Result<Vec<u8>, Diagnostics> {
    serde_json::to_vec(private).map_err(|error| {
        let detail = format!(
            "The private part of the state of {} can't be written: {error}.",
            R::NAME
        );
        Diagnostics::error("Unwritable private state", detail)
    })
}
