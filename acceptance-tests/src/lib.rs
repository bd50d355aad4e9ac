//! A cloud in a box: an operator's machine, a router that plays the provider of the servers, and
//! servers booted with systemd-nspawn, each in a network namespace of its own.
//!
//! All parts are real: the kernel's network, OpenSSH, systemd and Terraform. What may not enter
//! here: anything of the provider but its binary. The tests see what a user sees.

pub mod agent_files;
pub mod behind;
pub mod cache;
pub mod command;
pub mod configuration;
pub mod cuts;
pub mod faults;
pub mod frames;
pub mod hosts;
pub mod images;
pub mod instance;
mod lab;
pub mod limits;
pub mod namespace;
mod network;
pub mod pings;
pub mod probe;
pub mod promise;
pub mod provider;
pub mod proxy;
pub mod quickstart;
mod requirements;
pub mod servers;
pub mod shared;
pub mod snapshot;
pub mod sweep;
pub mod terraform;
mod vps;

pub use hosts::{Flavour, HostOptions, Hosts, User};
pub use lab::Lab;
pub use snapshot::Snapshot;
pub use terraform::Terraform;
pub use vps::Vps;
