//! Checking a configuration, and checking a schema itself.

use super::{Issue, Object, Presence};
use crate::{Diagnostics, Path, Value};

impl Object {
    /// Checks every attribute's type and value, and warns of deprecated ones.
    pub(crate) fn check(&self, value: &Value, path: &Path) -> Diagnostics {
        let mut diagnostics = Diagnostics::new();
        for attribute in &self.attributes {
            let field = value.field(&attribute.name);
            let path = path.then(attribute.name.as_str());
            if *field == Value::Null {
                continue;
            }
            // Terraform 1.11 prints nothing for a deprecated attribute of itself.
            if let Some(instead) = &attribute.deprecated {
                let summary = format!("{path} is deprecated");
                diagnostics.add_warning_at(path.clone(), summary, instead.as_str());
            }
            if *field == Value::Unknown {
                continue;
            }
            let mut inner = Diagnostics::new();
            for (object, value, path) in attribute.nested_values(field, &path) {
                inner.extend(object.check(value, &path));
            }
            // What is wrong inside is told there, with its own path.
            if !inner.has_errors()
                && let Some(check) = &attribute.check
                && let Err(Issue::Invalid(errors)) = check(field, &path)
            {
                inner.extend(errors);
            }
            diagnostics.extend(inner);
        }
        diagnostics
    }

    /// The errors of write-only attributes under a Terraform that knows none and would store them.
    pub(crate) fn refuse_write_only(&self, value: &Value, path: &Path) -> Diagnostics {
        let mut diagnostics = Diagnostics::new();
        for attribute in &self.attributes {
            let field = value.field(&attribute.name);
            let path = path.then(attribute.name.as_str());
            if attribute.write_only && *field != Value::Null {
                let detail = format!(
                    "{path} is write-only, which needs Terraform 1.11 or OpenTofu 1.11: this version \
                     would store it in the state."
                );
                diagnostics.add_error_at(path, "Write-only attributes not supported", detail);
                continue;
            }
            for (object, value, path) in attribute.nested_values(field, &path) {
                diagnostics.extend(object.refuse_write_only(value, &path));
            }
        }
        diagnostics
    }

    /// Mistakes in the declaration itself, for the developer.
    pub(crate) fn mistakes(&self, owner: &str) -> Vec<String> {
        let mut mistakes = Vec::new();
        for attribute in &self.attributes {
            let name = format!("{owner}.{}", attribute.name);
            if let Some(problem) = &attribute.default_problem {
                mistakes.push(format!(
                    "the default of {name} doesn't fit its type: {problem}"
                ));
            }
            if attribute.write_only && attribute.presence == Presence::Computed {
                mistakes.push(format!("{name} can't be both computed and write-only"));
            }
            if attribute.description.is_empty() {
                mistakes.push(format!("{name} has no description"));
            }
            if let Some((object, _)) = attribute.kind.nested() {
                mistakes.extend(object.mistakes(&name));
            }
        }
        mistakes
    }
}
