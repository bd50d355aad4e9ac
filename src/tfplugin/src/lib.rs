//! Terraform plugin protocol.
