//! The provider as Terraform starts it.

fn main() {}
