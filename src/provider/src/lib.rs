//! terraform-provider-nspawn: the thin, typed path between Terraform and the hosts' agents.
//!
//! A resource's way: its attributes and what the plan says of them are in [`resources`], a folder
//! each; [`resources::lifecycle`] turns a plan into a change and its answer into state; [`hosts`] is
//! what one run knows and asks of its hosts; [`connection`] carries it. Nothing here works on a host
//! by itself.

mod claims;
pub mod connection;
pub mod documentation;
pub mod failure;
#[cfg(test)]
mod fixture;
pub mod host_reference;
pub mod hosts;
pub mod id;
pub mod marks;
pub mod planned;
pub mod provider;
mod random;
pub mod removals;
pub mod resources;
mod snapshot;
pub mod timeouts;
