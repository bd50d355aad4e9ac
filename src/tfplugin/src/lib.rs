//! Terraform's plugin protocol, version 6, on tonic: typed resources out of one declaration.
//!
//! This room knows Terraform and nothing of what a provider manages.

mod attr;
mod context;
mod data_source;
mod diagnostics;
mod docs;
mod provider;
mod registry;
mod resource;
pub mod schema;
mod serve;
mod server;
mod service;
mod value;

pub use attr::Attr;
pub use context::Context;
pub use data_source::DataSource;
pub use diagnostics::{Diagnostic, Diagnostics, Severity};
pub use provider::Provider;
pub use resource::{Create, Failed, Plan, Resource, State, Update};
pub use schema::{Model, Parsed, Secret, Timeouts};
pub use server::Server;
pub use tokio_util::sync::CancellationToken;
pub use value::Value;
pub use value::path::{Path, Step, key};

/// Values on the wire; public for tests that speak the protocol.
#[doc(hidden)]
pub mod wire {
    pub use crate::value::dynamic::{decode, encode};
}

/// The generated messages and services; public for tests that speak the protocol.
#[doc(hidden)]
#[allow(missing_docs, clippy::pedantic, reason = "generated code")]
pub mod proto {
    tonic::include_proto!("tfplugin6");

    /// go-plugin's own services.
    pub mod plugin {
        tonic::include_proto!("plugin");
    }
}
