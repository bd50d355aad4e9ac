//! The provider itself.

use crate::{Context, Diagnostics, Model};

/// A provider: its configuration, and what happens at its start and end.
pub trait Provider: Send + Sync + 'static {
    /// The provider block. Its attributes' defaults are filled in before [`Self::configure`].
    type Config: Model;

    /// Checks what single attributes can't; some values may be unknown.
    fn validate(&self, _config: &Self::Config, _diagnostics: &mut Diagnostics) {}

    /// Takes the configuration; called once, before any operation on a resource. Values may be
    /// unknown at plan time: that is no error yet.
    fn configure(
        &self,
        config: Self::Config,
        context: &Context,
    ) -> impl Future<Output = Result<(), Diagnostics>> + Send;

    /// Called at an orderly shutdown, after the last operation; has a few seconds.
    fn shutdown(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}
