//! Schemas: one declaration of an attribute gives its type, docs, validation and coding.

mod attribute;
mod check;
mod conform;
mod model;
mod text;
mod timeouts;
mod types;
pub mod validators;
mod wire;

pub use attribute::{Attribute, Declaration, Presence};
pub use model::{Field, Model};
#[doc(hidden)]
pub use model::{Reader, documentation, text_of};
pub use text::{NOT_SHOWN, Parsed, Secret, tells_a_key};
pub use timeouts::Timeouts;
pub use types::{AttributeType, Issue, Type};

/// An object's attributes.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// What it is for, in markdown.
    pub description: String,
    /// In the order of their declaration.
    pub attributes: Vec<Attribute>,
}

/// The schema of a provider, resource or data source.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// Raised when a state of the former schema needs [`Resource::upgrade`](crate::Resource::upgrade).
    pub version: i64,
    /// The attributes.
    pub object: Object,
}
