//! Keeps a panic within its operation.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::Service;
use crate::Diagnostics;

impl Service {
    /// Runs an operation on a task of its own, so that neither a panic nor a caller that hangs up
    /// ends it halfway.
    pub(super) async fn guard<T: Send + 'static>(
        &self,
        operation: &str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Diagnostics> {
        (self.observe)(&format!("before: {operation}"));
        let caught = self
            .tasks
            .spawn(AssertUnwindSafe(task).catch_unwind())
            .await;
        (self.observe)(&format!("after: {operation}"));
        let reason = match caught {
            Ok(Ok(result)) => return Ok(result),
            Ok(Err(payload)) => message(payload.as_ref()),
            Err(stopped) => stopped.to_string(),
        };
        tracing::error!(operation, reason, "the provider panicked");
        let detail = format!(
            "{operation} ended in a panic of the provider: {reason}. This is a bug in the provider. \
             The prior state is kept; what was being done may be half done, and the next plan shows it."
        );
        Err(Diagnostics::error(
            "The provider failed unexpectedly",
            detail,
        ))
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no reason given").to_owned()
}
