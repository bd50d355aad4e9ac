//! What an operation is given beside its values.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::{Diagnostic, Diagnostics, Path};

/// Handed to every operation: cancellation, and a place for warnings.
///
/// For progress, use `tracing`: the lines go to Terraform's log at their level.
#[derive(Clone, Debug, Default)]
pub struct Context {
    cancellation: CancellationToken,
    warnings: Arc<Mutex<Diagnostics>>,
}

impl Context {
    /// A context that the given token cancels; for tests too.
    pub fn new(cancellation: CancellationToken) -> Self {
        Self {
            cancellation,
            warnings: Arc::default(),
        }
    }

    /// Resolves when the user has asked Terraform to stop (Ctrl-C). An operation then ends soon, and
    /// returns what exists so far as [`Failed::partial`](crate::Failed::partial).
    pub async fn cancelled(&self) {
        self.cancellation.cancelled().await;
    }

    /// Whether the user has asked Terraform to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// The token itself, to hand on.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancellation
    }

    /// Shows a warning with the operation's result.
    pub fn warn(&self, summary: impl Into<String>, detail: impl Into<String>) {
        self.push(Diagnostic::warning(summary, detail));
    }

    /// Shows a warning about one attribute with the operation's result.
    pub fn warn_at(&self, path: Path, summary: impl Into<String>, detail: impl Into<String>) {
        self.push(Diagnostic::warning_at(path, summary, detail));
    }

    fn push(&self, diagnostic: Diagnostic) {
        self.warnings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(diagnostic);
    }

    pub(crate) fn take_warnings(&self) -> Diagnostics {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
