//! Why a host could not be spoken to.

use std::fmt;

/// What went wrong, coarsely: decides whether to wait and try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionErrorKind {
    /// No TCP connection: refused, no route, or nobody answered in time.
    Unreachable,
    /// The name of the host has no address.
    UnknownName,
    /// Connected, but the other end closed or said nothing before SSH was up, as a booting sshd does.
    NotReady,
    /// The host's key is in no known_hosts file and not pinned.
    HostKeyUnknown,
    /// The host's key is not the one that is known or pinned.
    HostKeyChanged,
    /// The host's key is marked as revoked.
    HostKeyRevoked,
    /// A key, certificate, known_hosts or ssh_config file on this machine can't be used.
    Credentials,
    /// The server took none of the keys.
    AuthenticationRefused,
    /// sudo didn't let us become root.
    Sudo,
    /// The account has no shell that runs commands, or prints without end.
    Shell,
    /// The provider carries no agent for the host's architecture.
    Architecture,
    /// The agent could not be put in place or started.
    Install,
    /// The two ends don't understand each other.
    Protocol,
    /// The address leads to a machine other than the one that is asked.
    AnotherMachine,
    /// The connection was lost.
    Lost,
    /// The connection was lost while a change was on its way, twice.
    OutcomeUnknown,
    /// The call took longer than allowed.
    Timeout,
    /// The provider is shutting down, or the caller asked to stop.
    Cancelled,
}

impl ConnectionErrorKind {
    /// Whether a host that is still booting, or reboots once more, looks like this.
    pub fn may_be_booting(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::UnknownName | Self::NotReady | Self::Lost
        )
    }

    /// Whether it stays so until somebody changes something. Trying a refused login again and again would have the server
    /// refuse this address altogether: PerSourcePenalties in sshd_config(5).
    pub fn is_lasting(self) -> bool {
        matches!(
            self,
            Self::HostKeyUnknown
                | Self::HostKeyChanged
                | Self::HostKeyRevoked
                | Self::Credentials
                | Self::AuthenticationRefused
                | Self::Sudo
                | Self::Architecture
                | Self::Protocol
        )
    }
}

/// What to do when an address leads to another machine than before.
pub const MACHINE_REPLACED: &str = "Correct the address. If the machine was replaced by a new one, what was on it is gone: take the nspawn_host and all resources on it out of the state (terraform state list, then terraform state rm ADDRESS…), and apply again. Where Terraform itself replaces the server, write lifecycle { replace_triggered_by = [hcloud_server.x.id] }, or what its resource is, into all of them beforehand.";

/// What to do when nobody answers.
pub(super) const GONE: &str = "If the server is gone for good, take the nspawn_host and all resources on it out of the state (terraform state list, then terraform state rm ADDRESS…).";

/// A refresh, and so a plan, knows of the state alone.
pub(super) const REFRESH_USES_THE_STATE: &str = "A refresh reaches a host as the state says. If that was corrected in the configuration already (user, port, host_key, bastion), run: terraform apply -refresh=false";

/// Why a host could not be spoken to: what was being done, on which host, what happened, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConnectionError {
    /// What kind of error this is.
    pub kind: ConnectionErrorKind,
    /// The host, as in ids: `root@203.0.113.1:22`.
    pub host: String,
    /// What was being done: "connecting over TCP".
    pub doing: String,
    /// What happened.
    pub reason: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            doing,
            reason,
            ..
        } = self;
        write!(formatter, "{host}: {doing}: {reason}")
    }
}

impl ConnectionError {
    pub(crate) fn new(
        kind: ConnectionErrorKind,
        host: impl fmt::Display,
        doing: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            host: host.to_string(),
            doing: doing.into(),
            // What a server or a login shell says may hold anything.
            reason: texts::printable(&reason.into()),
            help: None,
        }
    }

    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        // It may name the key that a server has shown.
        self.help = Some(texts::printable(&help.into()));
        self
    }
}
