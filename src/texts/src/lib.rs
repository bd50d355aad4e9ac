//! Texts that others write, some of them to harm: read and written here without any I/O, so that
//! each can be fuzzed by itself.
//!
//! - [`known_hosts`], [`host_key`]: whom a server of this name may be.
//! - [`nspawn`]: the settings of a container.
//! - [`os_release`]: what an image or a host calls itself.
//! - [`printable`]: what may be shown on a person's terminal.

pub mod host_key;
pub mod known_hosts;
pub mod nspawn;
pub mod os_release;
mod printable;

pub use printable::printable;
