//! What the provider and its agent say to each other: plain data, no I/O.
//!
//! Every type that crosses the wire is validated while it is deserialised, so that the agent
//! never trusts a provider (or whoever speaks in its place) to have checked anything.
//!
//! - [`frame`]: how messages and bulk data are laid out on the agent's stdin and stdout.
//! - [`message`]: requests, events and outcomes.
//! - [`desired`]: what a host should look like; it is also what the host keeps on disk.
//! - [`observed`]: what a host looks like.
//! - [`release`]: which release this is, and how two compare.
//! - [`name`], [`address`], [`text`]: validated words, addresses, sizes and times.
//! - [`value`]: rules for what has no type of its own.

pub mod address;
pub mod desired;
pub mod failure;
pub mod frame;
pub mod message;
pub mod name;
pub mod observed;
pub mod release;
pub mod secret;
pub mod text;
pub mod value;

pub use failure::{Failure, FailureKind};
pub use release::RELEASE;

/// The version of this protocol; both ends refuse any other.
pub const VERSION: u32 = 1;
