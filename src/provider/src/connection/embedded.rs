//! The agents that this provider carries, one an architecture (build.rs puts them here).

/// One agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agent {
    /// As `uname -m` says it.
    pub(super) architecture: &'static str,
    /// Of the program itself, in hexadecimal digits.
    pub(super) sha256: &'static str,
    /// The program, compressed by gzip, which every Debian has.
    pub(super) gzip: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
