//! One SSH connection a host and provider process, over which any number of requests are in flight.
//!
//! The path of a request: [`Pool`] finds or makes the [`Host`], [`Host::call`] sends the request
//! over its connection (and makes a new one, once, where the old one dropped), a dedicated thread
//! moves the bytes.
//!
//! - [`target`], [`credentials`], [`host_key`], `ssh_config`: whom to reach, and with what.
//! - [`known_hosts`], `trust`: whom to believe.
//! - `transport`, `session`, `authentication`, `ssh_agent`: TCP, bastions and SSH up to a logged-in session.
//! - `install`, `embedded`, `output`: the agent's way onto the host.
//! - `wire`, `harmless`, `worker`, `link`, `upload`: frames, the thread that moves them, the async end of it.

mod authentication;
mod call;
pub mod credentials;
mod embedded;
mod error;
mod harmless;
mod host;
mod install;
pub mod known_hosts;
mod link;
mod output;
mod pool;
mod pump;
mod session;
mod ssh_agent;
mod ssh_config;
pub mod target;
#[cfg(test)]
mod tests;
mod transport;
mod trust;
mod upload;
mod wake;
mod watchdog;
mod wire;
mod worker;

pub use call::{Call, CallError, Progress};
pub use credentials::{Credentials, HostKeyChecking, KNOWN_HOSTS_FILE};
pub use error::{ConnectionError, ConnectionErrorKind, MACHINE_REPLACED};
pub use host::{Host, Welcome};
pub use pool::Pool;
pub use target::{Bastion, Identity, Target};
pub use texts::host_key::{self, HostKey};
