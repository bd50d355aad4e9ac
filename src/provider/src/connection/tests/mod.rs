//! The connection against a real sshd on this machine. Needs root, as sshd and the agent's folder do.

mod changes;
mod errors;
mod fake_agent;
mod keys;
mod lost;
mod requests;
mod server;
mod silent_agent;
