//! The narrow door behind which kernel, systemd and disk stand.

pub mod files;
pub mod journal;
pub mod mounts;
pub mod netlink;
pub mod nft;
pub mod remove;
pub mod sysctl;
pub mod systemd;
