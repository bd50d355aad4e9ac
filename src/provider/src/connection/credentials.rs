//! With what to reach a host: the provider block, the environment or `~/.ssh`.

use std::{
    env,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use protocol::secret::Secret;

use super::error::{ConnectionError, ConnectionErrorKind};

/// What the keys of unknown hosts get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HostKeyChecking {
    /// An error.
    #[default]
    Strict,
    /// A line in the known_hosts file; a changed key is an error all the same.
    AcceptNew,
}

/// A text that names no way of checking.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to check host keys: write \"strict\" or \"accept-new\"")]
pub struct InvalidHostKeyChecking(pub String);

impl FromStr for HostKeyChecking {
    type Err = InvalidHostKeyChecking;

    fn from_str(text: &str) -> Result<Self, InvalidHostKeyChecking> {
        match text {
            "strict" => Ok(Self::Strict),
            "accept-new" => Ok(Self::AcceptNew),
            _ => Err(InvalidHostKeyChecking(text.to_owned())),
        }
    }
}

/// Of the provider block: the file that new host keys go to.
pub const KNOWN_HOSTS_FILE: &str = "known_hosts_file";

/// With what to reach a host.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The text of a private key.
    pub private_key: Option<Secret>,
    /// A private key; `~` is the home folder. Without any, the usual ones in `~/.ssh` are tried.
    pub private_key_file: Option<PathBuf>,
    /// Of the private key.
    pub passphrase: Option<Secret>,
    /// A certificate for the private key.
    pub certificate_file: Option<PathBuf>,
    /// Whether to ask the SSH agent.
    pub agent: bool,
    /// Where the SSH agent listens, if not at SSH_AUTH_SOCK.
    pub agent_socket: Option<PathBuf>,
    /// How long that may take at least for each answer: a person may have to unlock it, or touch a key. sshd(8) waits for two
    /// minutes.
    pub agent_patience: Duration,
    /// Without one, `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`.
    pub known_hosts_file: Option<PathBuf>,
    /// Read for HostName, Port, User, IdentityFile and ProxyJump, when given.
    pub ssh_config_file: Option<PathBuf>,
    /// What the keys of unknown hosts get.
    pub host_key_checking: HostKeyChecking,
    /// For TCP and for each step of SSH until the session is up.
    pub connect_timeout: Duration,
    /// How long a host may be silent before it is asked whether it is there; three times that long
    /// ends the connection.
    pub keepalive_interval: Duration,
    /// Settings of the provider block that this plan doesn't know yet: they are left out.
    pub unknown: Vec<&'static str>,
}

impl Credentials {
    /// What becomes of unknown host keys: they are taken down in the file that the user has named, or nowhere.
    pub(super) fn checking(&self) -> HostKeyChecking {
        if self.unknown.contains(&KNOWN_HOSTS_FILE) {
            return HostKeyChecking::Strict;
        }
        self.host_key_checking
    }

    /// How long the SSH agent has for each answer.
    pub(super) fn patience(&self) -> Duration {
        self.connect_timeout.max(self.agent_patience)
    }

    /// Names the settings that were left out, beside an error that they may be the cause of.
    pub(super) fn explain(&self, mut error: ConnectionError) -> ConnectionError {
        use ConnectionErrorKind as Kind;
        let may_be_the_cause = matches!(
            error.kind,
            Kind::HostKeyUnknown
                | Kind::HostKeyChanged
                | Kind::Credentials
                | Kind::AuthenticationRefused
                | Kind::UnknownName
                | Kind::Unreachable
        );
        if may_be_the_cause && !self.unknown.is_empty() {
            let note = format!(
                "Of the provider block, this plan doesn't know yet, and leaves out: {}. Make first what that comes from: terraform apply -target=ADDRESS",
                self.unknown.join(", ")
            );
            error.help = Some(match error.help {
                Some(help) => format!("{note}\n{help}"),
                None => note,
            });
        }
        error
    }
}

impl Default for Credentials {
    fn default() -> Self {
        Self {
            private_key: None,
            private_key_file: None,
            passphrase: None,
            certificate_file: None,
            agent: env::var_os("SSH_AUTH_SOCK").is_some(),
            agent_socket: None,
            agent_patience: Duration::from_secs(30),
            known_hosts_file: None,
            ssh_config_file: None,
            host_key_checking: HostKeyChecking::Strict,
            connect_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(15),
            unknown: Vec::new(),
        }
    }
}

/// Expands a leading `~` to the home folder.
pub(crate) fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}
