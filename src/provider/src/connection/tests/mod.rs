//! The connection against a real sshd on this machine. Needs root, as sshd and the agent's folder do.

mod bastion;
mod changes;
mod cuts;
mod errors;
mod fake_agent;
mod flood;
mod keys;
mod lost;
mod requests;
mod server;
mod silent_agent;
