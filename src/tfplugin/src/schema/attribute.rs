//! The declaration of an attribute.

use std::fmt::{self, Debug, Display};
use std::sync::Arc;

use super::{AttributeType, Issue, Type, text::refused};
use crate::{Path, Value};

/// Who sets an attribute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// The user has to.
    Required,
    /// The user may.
    #[default]
    Optional,
    /// The user may; otherwise the provider does.
    OptionalComputed,
    /// The provider does.
    Computed,
}

type Check = Arc<dyn Fn(&Value, &Path) -> Result<(), Issue> + Send + Sync>;
type TypedCheck<T> = Box<dyn Fn(&T) -> Result<(), String> + Send + Sync>;
type Equivalence = Arc<dyn Fn(&Value, &Value) -> bool + Send + Sync>;

/// An attribute of a schema, its type erased.
#[derive(Clone)]
#[allow(clippy::struct_excessive_bools, reason = "the protocol's own flags")]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// What it is for, in markdown.
    pub description: String,
    /// What it holds.
    pub kind: Type,
    /// Who sets it.
    pub presence: Presence,
    /// Terraform doesn't print it.
    pub sensitive: bool,
    /// In the configuration only; never in plan or state.
    pub write_only: bool,
    /// What to use instead.
    pub deprecated: Option<String>,
    /// A change replaces the resource.
    pub replace: bool,
    /// What is planned when the user sets nothing.
    pub default: Option<Value>,
    /// Planned in every plan, whatever the state says.
    pub always_planned: Option<Value>,
    /// Computed anew by every update.
    pub unknown_on_update: bool,
    pub(crate) check: Option<Check>,
    pub(crate) equivalent: Option<Equivalence>,
    pub(crate) default_problem: Option<String>,
}

impl Attribute {
    /// Whether the provider may set it.
    pub fn is_computed(&self) -> bool {
        matches!(
            self.presence,
            Presence::Computed | Presence::OptionalComputed
        )
    }
}

impl Debug for Attribute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Attribute")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("presence", &self.presence)
            .finish_non_exhaustive()
    }
}

/// What [`model!`](crate::model) says of an attribute after the `=>`.
pub struct Declaration<T> {
    attribute: Attribute,
    presence: Option<Presence>,
    checks: Vec<TypedCheck<T>>,
}

impl<T: AttributeType> Declaration<T> {
    #[doc(hidden)]
    pub fn new(name: &str, description: String) -> Self {
        let attribute = Attribute {
            name: name.to_owned(),
            description,
            kind: T::attribute_type(),
            presence: Presence::default(),
            sensitive: false,
            write_only: false,
            deprecated: None,
            replace: false,
            default: None,
            always_planned: None,
            unknown_on_update: false,
            check: None,
            equivalent: None,
            default_problem: None,
        };
        Self {
            attribute,
            presence: None,
            checks: Vec::new(),
        }
    }

    /// The user has to set it.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.presence = Some(Presence::Required);
        self
    }

    /// The user may set it.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.presence = Some(Presence::Optional);
        self
    }

    /// The provider sets it; after [`optional`](Self::optional): where the user doesn't.
    ///
    /// Unknown in the plan of a create; keeps its value in the plan of an update.
    #[must_use]
    pub fn computed(mut self) -> Self {
        self.presence = match self.presence {
            None | Some(Presence::Computed) => Some(Presence::Computed),
            Some(_) => Some(Presence::OptionalComputed),
        };
        self
    }

    /// A change replaces the resource.
    #[must_use]
    pub fn replace(mut self) -> Self {
        self.attribute.replace = true;
        self
    }

    /// Terraform doesn't print it.
    #[must_use]
    pub fn sensitive(mut self) -> Self {
        self.attribute.sensitive = true;
        self
    }

    /// In the configuration only, for create and update to see; never in plan or state.
    #[must_use]
    pub fn write_only(mut self) -> Self {
        self.attribute.write_only = true;
        self
    }

    /// Warns when it is set, with what to use instead.
    #[must_use]
    pub fn deprecated(mut self, instead: impl Into<String>) -> Self {
        self.attribute.deprecated = Some(instead.into());
        self
    }

    /// What is planned when the user sets nothing. Makes it optional and computed on the wire.
    #[must_use]
    pub fn default(mut self, value: impl Into<Value>) -> Self {
        let value = value.into();
        if let Err(issue) = T::decode(&value, &Path::root().then(self.attribute.name.as_str())) {
            self.attribute.default_problem = Some(format!("{issue:?}"));
        }
        self.attribute.default = Some(value);
        self.presence = Some(Presence::OptionalComputed);
        self
    }

    /// For a nested object: where the user leaves it out, one with its attributes' defaults.
    #[must_use]
    pub fn default_object(self) -> Self {
        self.default(Value::Object(std::collections::BTreeMap::new()))
    }

    /// A computed attribute that every update computes anew.
    #[must_use]
    pub fn unknown_on_update(mut self) -> Self {
        self.attribute.unknown_on_update = true;
        self
    }

    /// A computed list that every plan sets to `[]`: what Read puts there is what the next apply
    /// will mend.
    #[must_use]
    pub fn planned_empty(mut self) -> Self {
        self.attribute.always_planned = Some(Value::List(Vec::new()));
        self
    }

    /// Checks a known value (`&str` of a text, `&T` of a `Parsed<T>`); the error's text says what is wrong with it and what is right.
    #[must_use]
    pub fn validate<E: Display>(
        mut self,
        check: impl Fn(&T::View) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push(Box::new(move |value| {
            check(value.view()).map_err(|error| error.to_string())
        }));
        self
    }

    /// Says when another spelling means the same, so that the state's is kept.
    #[must_use]
    pub fn same_when(mut self, same: impl Fn(&T, &T) -> bool + Send + Sync + 'static) -> Self {
        self.attribute.equivalent = Some(Arc::new(move |left, right| {
            let path = Path::root();
            match (T::decode(left, &path), T::decode(right, &path)) {
                (Ok(left), Ok(right)) => same(&left, &right),
                _ => false,
            }
        }));
        self
    }

    #[doc(hidden)]
    pub fn finish(self) -> Attribute {
        let mut attribute = self.attribute;
        attribute.presence = self.presence.unwrap_or_default();
        let checks = self.checks;
        attribute.check = Some(Arc::new(move |value, path| {
            let decoded = match T::decode(value, path) {
                Ok(decoded) => decoded,
                Err(Issue::Unknown) => return Ok(()),
                Err(invalid) => return Err(invalid),
            };
            for check in &checks {
                check(&decoded).map_err(|reason| refused(path, value, &reason))?;
            }
            Ok(())
        }));
        attribute
    }
}
