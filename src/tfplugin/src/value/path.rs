//! Where in a configuration an attribute stands.

use std::fmt;

use crate::proto;

/// One step of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// An attribute of an object.
    Attribute(String),
    /// An element of a map.
    Key(String),
    /// An element of a list.
    Index(i64),
}

impl From<&str> for Step {
    fn from(name: &str) -> Self {
        Self::Attribute(name.to_owned())
    }
}

impl From<i32> for Step {
    fn from(index: i32) -> Self {
        Self::Index(index.into())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(i64::try_from(index).unwrap_or(i64::MAX))
    }
}

/// A map's element as a [`Path`] step: `path!("labels", key("env"))`.
pub fn key(name: impl Into<String>) -> Step {
    Step::Key(name.into())
}

/// The way to an attribute: `wait_for.port`, `hosts[0].name`, `labels["env"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Vec<Step>);

impl Path {
    /// The object as a whole.
    pub fn root() -> Self {
        Self::default()
    }

    /// One step further.
    #[must_use]
    pub fn then(&self, step: impl Into<Step>) -> Self {
        let mut steps = self.0.clone();
        steps.push(step.into());
        Self(steps)
    }

    /// The steps from the root.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The attribute of the object itself that this is in, or its element.
    pub(crate) fn outermost(&self) -> Self {
        let nested = |step: &Step| matches!(step, Step::Attribute(_));
        let end = self.0.iter().skip(1).position(nested);
        Self(self.0[..end.map_or(self.0.len(), |end| end + 1)].to_vec())
    }

    pub(crate) fn to_proto(&self) -> proto::AttributePath {
        use proto::attribute_path::{Step as Wire, step::Selector};
        let selector = |step: &Step| match step {
            Step::Attribute(name) => Selector::AttributeName(name.clone()),
            Step::Key(name) => Selector::ElementKeyString(name.clone()),
            Step::Index(index) => Selector::ElementKeyInt(*index),
        };
        let steps = self.0.iter().map(|step| Wire {
            selector: Some(selector(step)),
        });
        proto::AttributePath {
            steps: steps.collect(),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Attribute(name) if position == 0 => formatter.write_str(name)?,
                Step::Attribute(name) => write!(formatter, ".{name}")?,
                Step::Key(name) => write!(formatter, "[{name:?}]")?,
                Step::Index(index) => write!(formatter, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Builds a [`Path`](crate::Path): `path!("wait_for", "port")`, `path!("hosts", 0, "name")`,
/// `path!("labels", key("env"))`.
#[macro_export]
macro_rules! path {
    ($($step:expr),* $(,)?) => {
        $crate::Path::root()$(.then($step))*
    };
}
