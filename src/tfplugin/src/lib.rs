//! Terraform's plugin protocol, version 6, on tonic: typed resources out of one declaration.
//!
//! This room knows Terraform and nothing of what a provider manages.
//!
//! A provider declares the attributes of its resources with [`model!`], implements [`Resource`] (and
//! [`DataSource`]) for them and [`Provider`] for itself, and hands all to a [`Server`].
//! `examples/notes/` is a complete one, which the tests run under real Terraform.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::time::Duration;
//!
//! use tfplugin::schema::validators::between;
//! use tfplugin::{
//!     Attr, Context, Create, Diagnostics, Failed, Plan, Provider, Resource, Secret, Server, State,
//!     Timeouts, Update, path,
//! };
//!
//! tfplugin::model! {
//!     /// The provider's block.
//!     pub struct Settings {
//!         /// A private key.
//!         private_key: Attr<Secret> => optional().sensitive(),
//!     }
//!
//!     /// How a host is reached.
//!     pub struct Host {
//!         /// Its address.
//!         address: Attr<String> => required(),
//!         /// Its SSH port.
//!         port: Attr<i64> => optional().default(22).validate(between(1..=65535)),
//!     }
//!
//!     /// A machine. Doc comments are the descriptions, in markdown.
//!     pub struct Machine {
//!         /// Its name.
//!         name: Attr<String> => required().replace(),
//!         /// The host: an object, or a whole resource, as in `host = example_host.x`.
//!         host: Attr<Host> => required(),
//!         /// The password; never in the state.
//!         password_wo: Attr<Secret> => optional().write_only().sensitive(),
//!         /// How long operations may take.
//!         timeouts: Attr<Timeouts> => optional(),
//!         /// Known after the first apply, and kept.
//!         id: Attr<String> => computed(),
//!         /// What deviates: Read fills it in, every plan sets it to `[]`.
//!         drift: Attr<Vec<String>> => computed().planned_empty(),
//!     }
//! }
//!
//! struct MachineResource;
//!
//! impl Resource for MachineResource {
//!     type Model = Machine;
//!     type Private = ();
//!     const NAME: &'static str = "example_machine";
//!
//!     async fn plan(&self, plan: &mut Plan<Self>, context: &Context) -> Result<(), Diagnostics> {
//!         if plan.prior.as_ref().is_some_and(|prior| prior.host != plan.planned.host) {
//!             context.warn_at(path!("host"), "The machine moves", "It is restarted on the way.");
//!         }
//!         Ok(())
//!     }
//!
//!     async fn create(
//!         &self,
//!         request: Create<Self>,
//!         context: &Context,
//!     ) -> Result<State<Self>, Failed<Self>> {
//!         let Create { planned, config, private } = request;
//!         let name = planned.name.require(path!("name"))?.clone();
//!         let _password = config.password_wo.known().map(Secret::expose);
//!         let _limit = planned.timeouts.create_or(Duration::from_secs(600));
//!         let state = State::new(Machine { id: name.into(), ..planned }, private);
//!         if context.is_cancelled() {
//!             // What exists goes into the state as tainted.
//!             let interrupted = Diagnostics::error("Interrupted", "The machine is half made.");
//!             return Err(Failed::with_partial(state, interrupted));
//!         }
//!         Ok(state)
//!     }
//!
//!     async fn read(
//!         &self,
//!         state: State<Self>,
//!         _context: &Context,
//!     ) -> Result<Option<State<Self>>, Diagnostics> {
//!         Ok(Some(state)) // None: it is gone
//!     }
//!
//!     async fn update(
//!         &self,
//!         request: Update<Self>,
//!         _context: &Context,
//!     ) -> Result<State<Self>, Failed<Self>> {
//!         Ok(State::new(request.planned, request.private))
//!     }
//!
//!     async fn delete(&self, _state: State<Self>, _context: &Context) -> Result<(), Failed<Self>> {
//!         Ok(())
//!     }
//! }
//!
//! struct Example;
//!
//! impl Provider for Example {
//!     type Config = Settings;
//!
//!     async fn configure(&self, _config: Settings, _context: &Context) -> Result<(), Diagnostics> {
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     Server::new("registry.terraform.io/example/example", env!("CARGO_PKG_VERSION"), Example)
//!         .resource(MachineResource)
//!         .serve()
//! }
//! ```

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
