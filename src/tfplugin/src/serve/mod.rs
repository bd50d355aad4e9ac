//! Being a plugin: the handshake with Terraform, and the server until its end.

mod handshake;
mod log;
mod parent;
mod plugin;
mod run;
mod tls;

pub use run::run;
