//! The protocol's RPCs: decoding, dispatch, encoding. No RPC fails; errors are diagnostics.

mod guard;
mod provider;
mod resource;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::registry::{AnyDataSource, Registry};
use crate::resource::erased::AnyResource;
use crate::value::dynamic;
use crate::{Context, Diagnostics, Value, proto};

/// The provider service.
#[derive(Clone)]
pub struct Service {
    pub registry: Arc<Registry>,
    /// Cancelled by StopProvider and when the parent is gone.
    pub stop: CancellationToken,
    /// The operations under way.
    pub tasks: TaskTracker,
    /// Told of each operation.
    pub observe: fn(&str),
}

impl Service {
    fn context(&self) -> Context {
        Context::new(self.stop.clone())
    }

    fn resource(&self, name: &str) -> Result<Arc<dyn AnyResource>, Diagnostics> {
        self.registry
            .resources
            .get(name)
            .cloned()
            .ok_or_else(|| missing("resource", name))
    }

    fn data_source(&self, name: &str) -> Result<Arc<dyn AnyDataSource>, Diagnostics> {
        self.registry
            .data_sources
            .get(name)
            .cloned()
            .ok_or_else(|| missing("data source", name))
    }
}

fn missing(kind: &str, name: &str) -> Diagnostics {
    Diagnostics::error(
        format!("Unknown {kind}"),
        format!("This provider has no {kind} {name}; a newer version may."),
    )
}

/// Reads a message's value.
fn read(value: Option<&proto::DynamicValue>) -> Result<Value, Diagnostics> {
    dynamic::decode(value).map_err(|error| {
        Diagnostics::error(
            "Unreadable value",
            format!("Terraform sent a value that is {error}."),
        )
    })
}

/// Puts the warnings of a context before the errors of a result.
fn with_warnings<T>(context: &Context, result: Result<T, Diagnostics>) -> (Option<T>, Diagnostics) {
    let mut diagnostics = context.take_warnings();
    match result {
        Ok(value) => (Some(value), diagnostics),
        Err(errors) => {
            diagnostics.extend(errors);
            (None, diagnostics)
        }
    }
}
