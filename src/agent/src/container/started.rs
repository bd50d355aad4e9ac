//! What a guest was started with: its own unit notes it before the start, and drops it after a stop.

use protocol::{Failure, desired::Container};
use serde_json::{Map, Value, json};

use super::paths::Paths;
use crate::system::files;

/// Stands beside the settings; no setting has this name.
const AFTER_FAILURE: &str = "after_failure";

/// What was noted; `None` of a guest that isn't started, or was so by another program.
#[derive(Debug, Clone, Default)]
pub struct Started(Option<Map<String, Value>>);

impl Started {
    /// Reads the note.
    pub fn read(paths: &Paths) -> Result<Self, Failure> {
        let text = files::read(&paths.started())?;
        Ok(text.map_or_else(Self::default, |text| {
            Self::parse(&String::from_utf8_lossy(&text))
        }))
    }

    fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).ok())
    }

    /// Notes that a guest is being started now; with nothing that it is started with, where that isn't what it should be.
    pub fn note(paths: &Paths, container: &Container, is_current: bool) -> Result<(), Failure> {
        if let Some(folder) = paths.started().parent() {
            files::create_folder(folder, 0o700)?;
        }
        // What is there was left by a start that failed.
        let is_after_failure = Self::read(paths)?.0.is_some();
        let mut note = noted(container, is_current);
        note.insert(AFTER_FAILURE.to_owned(), is_after_failure.into());
        write(paths, note)
    }

    /// After a stop. What failed is started again by systemd, whose own record of the failure ends there.
    pub fn end(paths: &Paths, ended_well: bool) -> Result<(), Failure> {
        if ended_well {
            return files::remove_file(&paths.started());
        }
        // It is told as failing until the next start has got so far as to note it.
        let Some(mut note) = Self::read(paths)?.0 else {
            return Ok(());
        };
        note.insert(AFTER_FAILURE.to_owned(), true.into());
        write(paths, note)
    }

    /// Whether the run before this one failed, or this one when it is over.
    pub fn is_after_failure(&self) -> bool {
        let note = self.0.as_ref();
        note.and_then(|note| note.get(AFTER_FAILURE)) == Some(&Value::Bool(true))
    }

    /// Whether a guest was started with the settings that it should have. The note may be an agent's of another
    /// release: what that didn't know is null, and what this one doesn't know, or can't read, is passed over.
    pub fn is_as_it_should(&self, container: &Container) -> bool {
        let Some(started) = &self.0 else {
            return true;
        };
        let null = Value::Null;
        settings(container)
            .iter()
            .all(|(key, value)| started.get(key).unwrap_or(&null) == value)
    }
}

fn noted(container: &Container, is_current: bool) -> Map<String, Value> {
    if is_current {
        settings(container)
    } else {
        Map::new()
    }
}

/// The settings that take effect at a start only. One that a release adds is null or absent where it changes
/// nothing: an upgrade is no reason to restart a guest.
fn settings(container: &Container) -> Map<String, Value> {
    let settings = json!({
        "hostname": container.hostname,
        "ephemeral": container.ephemeral,
        "nspawn_config": container.nspawn_config,
    });
    match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    }
}

#[cfg(test)]
impl Started {
    /// As if a guest was started with these settings.
    pub fn with(container: &Container) -> Self {
        Self(Some(settings(container)))
    }
}

fn write(paths: &Paths, note: Map<String, Value>) -> Result<(), Failure> {
    let text = Value::from(note).to_string();
    files::replace(&paths.started(), text.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::container;

    #[test]
    fn an_agent_of_another_release_is_no_reason_to_restart() {
        let desired = container("web");
        let mut note = settings(&desired);
        let runs =
            |note: &Map<String, Value>| Started(Some(note.clone())).is_as_it_should(&desired);
        assert!(runs(&note));
        note.insert("of_a_later_release".to_owned(), 1.into());
        assert!(runs(&note));
        assert_eq!(note.remove("nspawn_config"), Some(Value::Null));
        assert!(runs(&note), "an earlier release didn't know it");
        assert!(Started::default().is_as_it_should(&desired));
        assert!(Started::parse("[\"of another form\"]").is_as_it_should(&desired));
        note.insert("hostname".to_owned(), "other".into());
        assert!(!runs(&note));
    }

    #[test]
    fn a_guest_that_was_started_with_settings_of_before_is_not_as_it_should_be() {
        let desired = container("web");
        for is_current in [true, false] {
            let started = Started(Some(noted(&desired, is_current)));
            assert_eq!(started.is_as_it_should(&desired), is_current);
        }
    }

    #[test]
    fn a_failure_is_remembered_until_a_run_ends_well() {
        assert!(!Started::parse("{}").is_after_failure());
        assert!(!Started::default().is_after_failure());
        assert!(Started::parse(r#"{"after_failure":true}"#).is_after_failure());
    }
}
