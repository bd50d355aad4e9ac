//! Why something could not be done, in a form that both ends can act upon.

use serde::{Deserialize, Serialize};

/// What went wrong, coarsely: decides whether to try again and which attribute to show it at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// A value that can never work.
    Invalid,
    /// Something of that name is there, and it isn't ours.
    Conflict,
    /// The object belongs to another Terraform state.
    NotOwner,
    /// Nothing of that name is there.
    NotFound,
    /// Others still need it.
    InUse,
    /// The host can't do this: kernel, systemd or a package is missing or too old.
    Unsupported,
    /// Somebody else holds the host's lock.
    Busy,
    /// It took longer than allowed.
    Timeout,
    /// The caller asked to stop.
    Cancelled,
    /// No room is left on the device.
    DiskFull,
    /// Contents don't have the promised digest.
    Digest,
    /// A program that was run on the host or in a guest failed.
    Command,
    /// The kernel, systemd or the disk refused.
    System,
    /// The two ends don't understand each other.
    Protocol,
}

impl FailureKind {
    /// Whether the same request may succeed a little later.
    pub fn can_retry(self) -> bool {
        matches!(self, Self::Busy)
    }
}

/// Why a request could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure this is.
    pub kind: FailureKind,
    /// What was being done, to what, and what happened; a sentence for a person.
    pub message: String,
    /// What to do about it, where that is known.
    pub help: Option<String>,
    /// The attribute that caused it, dotted ("tarball.sha256"), where there is one.
    pub attribute: Option<String>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            help: None,
            attribute: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Names the attribute that caused it.
    #[must_use]
    pub fn at(mut self, attribute: impl Into<String>) -> Self {
        self.attribute = Some(attribute.into());
        self
    }
}
