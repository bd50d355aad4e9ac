//! Whether a server is the one that it should be.

use std::path::PathBuf;

use texts::known_hosts::{Known, KnownHosts, written_name};

use super::{
    credentials::{Credentials, HostKeyChecking, expand_home},
    error::{ConnectionError, ConnectionErrorKind, REFRESH_USES_THE_STATE},
    host_key::{HostKey, PublicKey},
    known_hosts,
    ssh_config::Hop,
};

const DOING: &str = "checking the host key";

/// Key types and the methods that use them, the ones to prefer first. SHA-1 signatures are left out.
const METHODS: [(&str, &str); 5] = [
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ssh-rsa", "rsa-sha2-512,rsa-sha2-256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
];

/// What is known of one server before it shows its key.
#[derive(Debug)]
pub(super) struct Trust<'a> {
    hop: &'a Hop,
    known: Known,
    checking: HostKeyChecking,
    /// The file that new keys go to.
    file: PathBuf,
}

impl<'a> Trust<'a> {
    pub(super) fn new(hop: &'a Hop, credentials: &Credentials) -> Result<Self, ConnectionError> {
        let (file, others) = match &credentials.known_hosts_file {
            Some(file) => (expand_home(file), Vec::new()),
            None => (
                expand_home("~/.ssh/known_hosts".as_ref()),
                vec![
                    expand_home("~/.ssh/known_hosts2".as_ref()),
                    PathBuf::from("/etc/ssh/ssh_known_hosts"),
                ],
            ),
        };
        let mut all = KnownHosts::default();
        // A pinned key needs no file, so a broken one doesn't stand in its way.
        if hop.host_key.is_none() {
            for path in std::iter::once(&file).chain(&others) {
                all.extend(known_hosts::read(path).map_err(|error| {
                    ConnectionError::new(
                        ConnectionErrorKind::Credentials,
                        &hop.label,
                        format!("reading {}", path.display()),
                        error.to_string(),
                    )
                })?);
            }
        }
        Ok(Self {
            hop,
            known: all.lookup(&hop.address, hop.port),
            checking: credentials.checking(),
            file,
        })
    }

    /// Lists of host-key methods, each for a connection of its own, until one shows the right key.
    /// A server shows one key a connection, so a fingerprint, which tells no type, may take several.
    pub(super) fn method_lists(&self) -> Vec<String> {
        match &self.hop.host_key {
            Some(HostKey::Key(key)) => vec![methods(&[key.algorithm()])],
            Some(HostKey::Fingerprint(_)) => METHODS[..3]
                .iter()
                .map(|(algorithm, _)| methods(&[algorithm]))
                .collect(),
            None => {
                let known: Vec<_> = self.known.keys.iter().map(PublicKey::algorithm).collect();
                vec![methods(&known)]
            }
        }
    }

    /// Accepts the key or says what to do about it.
    pub(super) fn judge(&self, key: &PublicKey) -> Result<(), ConnectionError> {
        if let Some(pinned) = &self.hop.host_key {
            return if pinned.matches(key) {
                Ok(())
            } else {
                Err(changed_pin(&self.hop.label, pinned, key))
            };
        }
        if self.known.revoked.contains(key) {
            return Err(self.error(
                ConnectionErrorKind::HostKeyRevoked,
                format!("the host's key {} is marked as revoked", key.fingerprint()),
                format!(
                    "Give the host a new key, or correct {}.",
                    self.file.display()
                ),
            ));
        }
        if self.known.keys.contains(key) {
            return Ok(());
        }
        if !self.known.keys.is_empty() {
            return Err(self.changed(key));
        }
        match self.checking {
            HostKeyChecking::AcceptNew => self.remember(key),
            HostKeyChecking::Strict => Err(self.unknown(key)),
        }
    }

    fn changed(&self, key: &PublicKey) -> ConnectionError {
        let known: Vec<_> = self.known.keys.iter().map(PublicKey::fingerprint).collect();
        let name = written_name(&self.hop.address, self.hop.port);
        self.error(
            ConnectionErrorKind::HostKeyChanged,
            format!(
                "the host shows the {} key {}, but {} is known of it: somebody may stand in between, or the host was installed anew",
                key.algorithm(),
                key.fingerprint(),
                known.join(" or "),
            ),
            format!(
                "If the host was installed anew, compare the fingerprint on its console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then run: ssh-keygen -R '{name}' -f {}; or set host_key = \"{}\".\n{REFRESH_USES_THE_STATE}",
                self.file.display(),
                key.fingerprint(),
            ),
        )
    }

    fn unknown(&self, key: &PublicKey) -> ConnectionError {
        let name = written_name(&self.hop.address, self.hop.port);
        let authority = if self.known.certificate_authority {
            " (a @cert-authority line names the host, but host certificates can't be checked here)"
        } else {
            ""
        };
        self.error(
            ConnectionErrorKind::HostKeyUnknown,
            format!(
                "the host's {} key {} is not known{authority}",
                key.algorithm(),
                key.fingerprint(),
            ),
            format!(
                "Compare the fingerprint on the host's console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then set host_key = \"{key}\", or add this line to {}:\n{name} {key}\n{REFRESH_USES_THE_STATE}",
                self.file.display(),
            ),
        )
    }

    fn remember(&self, key: &PublicKey) -> Result<(), ConnectionError> {
        tracing::info!(
            host = self.hop.label,
            fingerprint = key.fingerprint(),
            "the host's key is new and accepted"
        );
        known_hosts::append(&self.file, &self.hop.address, self.hop.port, key).map_err(|error| {
            self.error(
                ConnectionErrorKind::Credentials,
                format!(
                    "can't add the host's key to {}: {error}",
                    self.file.display()
                ),
                "Make the file writable, or set host_key.".to_owned(),
            )
        })
    }

    fn error(&self, kind: ConnectionErrorKind, reason: String, help: String) -> ConnectionError {
        ConnectionError::new(kind, &self.hop.label, DOING, reason).help(help)
    }
}

/// The server's key is not the pinned one.
pub(super) fn changed_pin(host: &str, pinned: &HostKey, key: &PublicKey) -> ConnectionError {
    ConnectionError::new(
        ConnectionErrorKind::HostKeyChanged,
        host,
        DOING,
        format!(
            "the host shows the {} key {}, but host_key is {}: somebody may stand in between, or the host was installed anew",
            key.algorithm(),
            key.fingerprint(),
            pinned.fingerprint(),
        ),
    )
    .help(format!(
        "If the host was installed anew, compare the fingerprint on its console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then set host_key = \"{}\".\n{REFRESH_USES_THE_STATE}",
        key.fingerprint(),
    ))
}

/// All methods, those of these key types first: a type that isn't known may still be shown, for
/// the error to name.
fn methods(preferred: &[&str]) -> String {
    let (mut first, rest): (Vec<_>, Vec<_>) = METHODS
        .iter()
        .partition(|(algorithm, _)| preferred.contains(algorithm));
    first.extend(rest);
    let names: Vec<_> = first.iter().map(|(_, methods)| *methods).collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_types_come_first() {
        let rest = "ssh-ed25519,ecdsa-sha2-nistp256";
        assert!(methods(&[]).starts_with(rest));
        assert!(methods(&["ssh-rsa"]).starts_with("rsa-sha2-512,rsa-sha2-256,ssh-ed25519"));
        assert!(methods(&["ssh-rsa", "ssh-ed25519"]).starts_with("ssh-ed25519,rsa-sha2-512"));
        assert!(methods(&["ssh-dss"]).starts_with(rest));
    }
}
