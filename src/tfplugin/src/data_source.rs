//! Data sources.

use crate::{Context, Diagnostics, Model};

/// A data source: reads, and changes nothing.
pub trait DataSource: Send + Sync + 'static {
    /// Configuration and result in one.
    type Model: Model;

    /// The full type name, such as `nspawn_host`.
    const NAME: &'static str;

    /// Checks what single attributes can't; some values may be unknown.
    fn validate(&self, _config: &Self::Model, _diagnostics: &mut Diagnostics) {}

    /// Fills in the computed attributes; defaults are there already.
    fn read(
        &self,
        config: Self::Model,
        context: &Context,
    ) -> impl Future<Output = Result<Self::Model, Diagnostics>> + Send;
}
