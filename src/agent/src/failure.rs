//! Turns errors of the kernel, systemd and the disk into failures that say what was being done.

use std::{fmt::Display, io};

use protocol::{Failure, FailureKind};

/// Adds what was being done to an error. What succeeds is a fault point, so that the kill sweep tries what is
/// added, too.
pub trait Context<T> {
    /// Names the deed: "write /etc/sysctl.d/90-nspawn-agent.conf".
    fn doing<S: Into<String>>(self, deed: impl FnOnce() -> S) -> Result<T, Failure>;
}

impl<T> Context<T> for io::Result<T> {
    fn doing<S: Into<String>>(self, deed: impl FnOnce() -> S) -> Result<T, Failure> {
        let kind = |error: &io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::DiskFull,
            _ => FailureKind::System,
        };
        told(self, deed, kind)
    }
}

impl<T> Context<T> for Result<T, rustix::io::Errno> {
    fn doing<S: Into<String>>(self, deed: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(io::Error::from).doing(deed)
    }
}

impl<T> Context<T> for Result<T, rtnetlink::Error> {
    fn doing<S: Into<String>>(self, deed: impl FnOnce() -> S) -> Result<T, Failure> {
        told(self, deed, |_| FailureKind::System)
    }
}

impl<T> Context<T> for zbus::Result<T> {
    fn doing<S: Into<String>>(self, deed: impl FnOnce() -> S) -> Result<T, Failure> {
        told(self, deed, |_| FailureKind::System)
    }
}

fn told<T, E: Display, S: Into<String>>(
    result: Result<T, E>,
    deed: impl FnOnce() -> S,
    kind: impl FnOnce(&E) -> FailureKind,
) -> Result<T, Failure> {
    match result {
        Ok(value) => {
            fault::done(deed);
            Ok(value)
        }
        Err(error) => Err(Failure::new(
            kind(&error),
            format!("could not {}: {error}", deed().into()),
        )),
    }
}
