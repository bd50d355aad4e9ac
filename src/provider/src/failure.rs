//! What went wrong on a host, as Terraform shows it: at the right attribute, with what to do.

use protocol::Failure;
use tfplugin::{Diagnostic, Diagnostics, Path, Step};

use crate::connection::{CallError, ConnectionError, ConnectionErrorKind};

/// Where a resource says how its host is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In attributes of its own: nspawn_host.
    Own,
    /// In its `host` object.
    Host,
}

impl Place {
    fn path(self, attribute: &str) -> Path {
        match self {
            Self::Own => Path::root().then(attribute),
            Self::Host => Path::root().then("host").then(attribute),
        }
    }
}

/// One error for what a call to a host came to. `doing` is the summary: "Creating container web".
pub fn diagnostics(doing: &str, error: &CallError, place: Place) -> Diagnostics {
    match error {
        CallError::Failure(failure) => failure_diagnostic(doing, failure).into(),
        CallError::Connection(error) => connection_diagnostic(doing, error, place).into(),
    }
}

/// One error for what the agent could not do.
pub fn failure_diagnostic(doing: &str, failure: &Failure) -> Diagnostic {
    let detail = with_help(failure.message.clone(), failure.help.as_deref());
    match &failure.attribute {
        Some(attribute) => {
            let detail = if detail.contains(attribute) {
                detail
            } else {
                format!("{attribute}: {detail}")
            };
            Diagnostic::error_at(attribute_path(attribute), doing, detail)
        }
        None => Diagnostic::error(doing, detail),
    }
}

fn connection_diagnostic(doing: &str, error: &ConnectionError, place: Place) -> Diagnostic {
    use ConnectionErrorKind as Kind;
    let detail = with_help(error.to_string(), error.help.as_deref());
    match error.kind {
        Kind::HostKeyUnknown | Kind::HostKeyChanged | Kind::HostKeyRevoked => {
            Diagnostic::error_at(place.path("host_key"), doing, detail)
        }
        Kind::Unreachable | Kind::NotReady | Kind::AnotherMachine => {
            Diagnostic::error_at(place.path("address"), doing, detail)
        }
        Kind::Sudo | Kind::Shell => Diagnostic::error_at(place.path("user"), doing, detail),
        _ => Diagnostic::error(doing, detail),
    }
}

/// The text as a sentence, and the help behind it.
fn with_help(mut text: String, help: Option<&str>) -> String {
    if !text.ends_with(['.', '\n']) {
        text.push('.');
    }
    match help {
        Some(help) => format!("{text}\n\n{help}"),
        None => text,
    }
}

/// "tarball.sha256" as a path.
fn attribute_path(dotted: &str) -> Path {
    dotted
        .split('.')
        .fold(Path::root(), |path, name| match name.parse::<usize>() {
            Ok(index) => path.then(Step::from(index)),
            Err(_) => path.then(name),
        })
}

#[cfg(test)]
mod tests {
    use protocol::FailureKind;
    use tfplugin::path;

    use super::*;

    #[test]
    fn an_agents_failure_stands_at_its_attribute_which_the_text_names_too() {
        let failure = Failure::new(FailureKind::Digest, "the tarball hashes to 12, not to 34")
            .at("tarball.sha256")
            .help("Correct it.");
        let diagnostic = failure_diagnostic("Creating image debian", &failure);
        assert_eq!(diagnostic.attribute, Some(path!("tarball", "sha256")));
        assert_eq!(
            diagnostic.detail,
            "tarball.sha256: the tarball hashes to 12, not to 34.\n\nCorrect it."
        );
    }

    #[test]
    fn connection_errors_stand_where_the_host_is_described() {
        use ConnectionErrorKind as Kind;
        for (kind, place, path) in [
            (Kind::HostKeyChanged, Place::Own, Some(path!("host_key"))),
            (
                Kind::HostKeyUnknown,
                Place::Host,
                Some(path!("host", "host_key")),
            ),
            (
                Kind::Unreachable,
                Place::Host,
                Some(path!("host", "address")),
            ),
            (Kind::AuthenticationRefused, Place::Host, None),
        ] {
            let error = ConnectionError {
                kind,
                host: "root@a:22".into(),
                doing: "connecting".into(),
                reason: "no".into(),
                help: None,
            };
            let found = diagnostics("Reading", &error.into(), place);
            assert_eq!(found.iter().next().unwrap().attribute, path);
        }
    }
}
