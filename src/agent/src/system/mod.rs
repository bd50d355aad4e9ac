//! The narrow door behind which kernel, systemd and disk stand.

pub mod files;
pub mod netlink;
pub mod nft;
pub mod sysctl;
pub mod systemd;
