//! An attribute's value: null, unknown or known.

use crate::{Diagnostics, Path};

/// The value of an attribute.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Attr<T> {
    /// Not set.
    #[default]
    Null,
    /// Known after apply.
    Unknown,
    /// Set, and known.
    Known(T),
}

impl<T> Attr<T> {
    /// Whether it is not set.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether it is known after apply only.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// Whether it is set and known.
    pub fn is_known(&self) -> bool {
        matches!(self, Self::Known(_))
    }

    /// Whether it is set, known or not. What isn't known yet may come to be null: an either/or of two
    /// attributes asks [`Self::both_or_neither`] and [`Self::just_one`], which say nothing of that.
    pub fn is_set(&self) -> bool {
        !self.is_null()
    }

    /// Whether it is certain that both are set or that neither is: what `exactly one of` refuses.
    pub fn both_or_neither<U>(&self, other: &Attr<U>) -> bool {
        (self.is_known() && other.is_known()) || (self.is_null() && other.is_null())
    }

    /// Whether it is certain that one of them is set and the other isn't: what `both or neither` refuses.
    pub fn just_one<U>(&self, other: &Attr<U>) -> bool {
        (self.is_known() && other.is_null()) || (self.is_null() && other.is_known())
    }

    /// The value, when it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Null | Self::Unknown => None,
        }
    }

    /// The value for changing it in place, when it is known.
    pub fn known_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Null | Self::Unknown => None,
        }
    }

    /// The value itself, when it is known.
    pub fn into_known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Null | Self::Unknown => None,
        }
    }

    /// A copy of the value, when it is known.
    pub fn cloned(&self) -> Option<T>
    where
        T: Clone,
    {
        self.known().cloned()
    }

    /// The value, or another one when it is null or unknown.
    pub fn known_or(&self, otherwise: T) -> T
    where
        T: Clone,
    {
        self.known().cloned().unwrap_or(otherwise)
    }

    /// The value as what it derefs to (`&str` of a `String`), when it is known.
    pub fn as_deref(&self) -> Option<&T::Target>
    where
        T: std::ops::Deref,
    {
        self.known().map(T::deref)
    }

    /// Changes a known value; null and unknown stay what they are.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Attr<U> {
        match self {
            Self::Null => Attr::Null,
            Self::Unknown => Attr::Unknown,
            Self::Known(value) => Attr::Known(change(value)),
        }
    }

    /// A view of the value.
    pub fn as_ref(&self) -> Attr<&T> {
        match self {
            Self::Null => Attr::Null,
            Self::Unknown => Attr::Unknown,
            Self::Known(value) => Attr::Known(value),
        }
    }

    /// The value, or an error that names the attribute: `model.name.require(path!("name"))?`.
    pub fn require(&self, path: Path) -> Result<&T, Diagnostics> {
        let state = match self {
            Self::Known(value) => return Ok(value),
            Self::Null => "is not set",
            Self::Unknown => "is not known yet",
        };
        let detail = format!("The attribute {path} {state}, but this operation needs its value.");
        Err(Diagnostics::error_at(path, "Missing value", detail))
    }
}

impl<T> From<T> for Attr<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T> From<Option<T>> for Attr<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::Known)
    }
}

impl From<&str> for Attr<String> {
    fn from(value: &str) -> Self {
        Self::Known(value.to_owned())
    }
}
