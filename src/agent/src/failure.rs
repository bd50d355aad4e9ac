//! Turns errors of the kernel, systemd and the disk into failures that say what was being done.

use std::io;

use protocol::{Failure, FailureKind};

/// Adds what was being done to an error.
pub trait Context<T> {
    /// Names the deed: "write /etc/sysctl.d/90-nspawn-agent.conf".
    fn doing<S: Into<String>>(self, deed: impl FnOnce() -> S) -> Result<T, Failure>;
}

impl<T> Context<T> for io::Result<T> {
    fn doing<S: Into<String>>(self, deed: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::DiskFull,
                _ => FailureKind::System,
            };
            Failure::new(kind, format!("could not {}: {error}", deed().into()))
        })
    }
}

impl<T> Context<T> for Result<T, rustix::io::Errno> {
    fn doing<S: Into<String>>(self, deed: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(io::Error::from).doing(deed)
    }
}

impl<T> Context<T> for Result<T, rtnetlink::Error> {
    fn doing<S: Into<String>>(self, deed: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(|error| {
            Failure::new(
                FailureKind::System,
                format!("could not {}: {error}", deed().into()),
            )
        })
    }
}

impl<T> Context<T> for zbus::Result<T> {
    fn doing<S: Into<String>>(self, deed: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(|error| {
            Failure::new(
                FailureKind::System,
                format!("could not {}: {error}", deed().into()),
            )
        })
    }
}
