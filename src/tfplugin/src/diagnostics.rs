//! Errors and warnings as Terraform shows them.

use std::fmt;

use crate::{Path, proto};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The operation fails.
    Error,
    /// The operation goes on.
    Warning,
}

/// One error or warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// One line; Terraform folds warnings of the same summary, so name the object in it.
    pub summary: String,
    /// What happened to what, and what to do about it.
    pub detail: String,
    /// The attribute at fault.
    pub attribute: Option<Path>,
}

impl Diagnostic {
    /// An error about the object as a whole.
    pub fn error(summary: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            summary: summary.into(),
            detail: detail.into(),
            attribute: None,
        }
    }

    /// An error about one attribute.
    pub fn error_at(path: Path, summary: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            attribute: Some(path),
            ..Self::error(summary, detail)
        }
    }

    /// A warning about the object as a whole.
    pub fn warning(summary: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(summary, detail)
        }
    }

    /// A warning about one attribute.
    pub fn warning_at(path: Path, summary: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error_at(path, summary, detail)
        }
    }

    fn into_proto(self) -> proto::Diagnostic {
        let severity = match self.severity {
            Severity::Error => proto::diagnostic::Severity::Error,
            Severity::Warning => proto::diagnostic::Severity::Warning,
        };
        proto::Diagnostic {
            severity: severity.into(),
            detail: self.located_detail(),
            summary: self.summary,
            attribute: self.attribute.map(|path| path.outermost().to_proto()),
        }
    }

    /// Terraform finds the line of an attribute of the resource itself only, so the attribute is named
    /// in the text as well.
    fn located_detail(&self) -> String {
        let Some(path) = self
            .attribute
            .as_ref()
            .map(Path::to_string)
            .filter(|path| !path.is_empty())
        else {
            return self.detail.clone();
        };
        if self.summary.contains(&path) || self.detail.contains(&path) {
            return self.detail.clone();
        }
        format!("Attribute {path}: {}", self.detail)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.summary, self.located_detail())
    }
}

/// The errors and warnings of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One error about the object as a whole.
    pub fn error(summary: impl Into<String>, detail: impl Into<String>) -> Self {
        Diagnostic::error(summary, detail).into()
    }

    /// One error about one attribute.
    pub fn error_at(path: Path, summary: impl Into<String>, detail: impl Into<String>) -> Self {
        Diagnostic::error_at(path, summary, detail).into()
    }

    /// One warning about the object as a whole.
    pub fn warning(summary: impl Into<String>, detail: impl Into<String>) -> Self {
        Diagnostic::warning(summary, detail).into()
    }

    /// One warning about one attribute.
    pub fn warning_at(path: Path, summary: impl Into<String>, detail: impl Into<String>) -> Self {
        Diagnostic::warning_at(path, summary, detail).into()
    }

    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Adds an error about one attribute.
    pub fn add_error_at(
        &mut self,
        path: Path,
        summary: impl Into<String>,
        detail: impl Into<String>,
    ) {
        self.push(Diagnostic::error_at(path, summary, detail));
    }

    /// Adds a warning about one attribute.
    pub fn add_warning_at(
        &mut self,
        path: Path,
        summary: impl Into<String>,
        detail: impl Into<String>,
    ) {
        self.push(Diagnostic::warning_at(path, summary, detail));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }

    /// `Err` when there is an error among them; warnings alone are dropped.
    pub fn into_result(self) -> Result<(), Self> {
        if self.has_errors() { Err(self) } else { Ok(()) }
    }

    pub(crate) fn into_proto(self) -> Vec<proto::Diagnostic> {
        self.0.into_iter().map(Diagnostic::into_proto).collect()
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, diagnostics: I) {
        self.0.extend(diagnostics);
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, diagnostic) in self.0.iter().enumerate() {
            if position > 0 {
                formatter.write_str("\n")?;
            }
            diagnostic.fmt(formatter)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{key, path};

    #[test]
    fn the_attribute_is_named_once() {
        let named = Diagnostic::error_at(path!("wait_for", "port"), "Bad", "Take another.");
        assert_eq!(
            named.to_string(),
            "Bad: Attribute wait_for.port: Take another."
        );
        let already = Diagnostic::error_at(path!("port"), "Bad", "port is too big.");
        assert_eq!(already.to_string(), "Bad: port is too big.");
    }

    /// Given `bastion.port`, Terraform 1.11 shows the line of the resource's own `port`.
    #[test]
    fn a_nested_attribute_is_shown_at_the_outermost() {
        let nested = Diagnostic::error_at(path!("bastion", "port"), "Bad", "Take another.");
        let sent = nested.into_proto();
        assert_eq!(sent.attribute, Some(path!("bastion").to_proto()));
        assert!(sent.detail.contains("bastion.port"));
        let element = Diagnostic::error_at(path!("servers", 1), "Bad", "Take another.");
        assert_eq!(
            element.into_proto().attribute,
            Some(path!("servers", 1).to_proto())
        );
    }

    #[test]
    fn paths_read_like_terraforms() {
        let path = path!("hosts", 0, "labels", key("a b"));
        assert_eq!(path.to_string(), "hosts[0].labels[\"a b\"]");
    }

    #[test]
    fn warnings_alone_are_no_failure() {
        let mut diagnostics = Diagnostics::warning("w", "w");
        assert_eq!(diagnostics.clone().into_result(), Ok(()));
        diagnostics.extend(Diagnostics::error("e", "e"));
        assert!(diagnostics.into_result().is_err());
    }
}
