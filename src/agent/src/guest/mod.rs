//! What is done inside a guest: its files beneath its root, its service manager, its network.
//!
//! A guest's content is hostile; nothing here follows it out, hangs on it, or believes it.

pub mod accounts;
mod bounded;
pub mod bus;
mod child;
pub mod files;
pub mod host_keys;
pub mod network;
pub mod root;

pub use bus::reload_network;
