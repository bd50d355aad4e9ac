//! terraform-provider-nspawn: the thin, typed path between Terraform and the hosts' agents.

pub mod connection;
