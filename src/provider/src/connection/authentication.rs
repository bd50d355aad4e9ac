//! Logging in with keys, and saying what was tried when none is taken.

use std::{
    env, fs, io, mem,
    path::{Path, PathBuf},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use protocol::secret::Secret;
use ssh2::ErrorCode;

use super::{
    credentials::{Credentials, expand_home},
    error::{ConnectionError, ConnectionErrorKind, REFRESH_USES_THE_STATE},
    host_key::PublicKey,
    session::{Ssh, StepError, is_unanswered},
    ssh_agent::SshAgent,
    ssh_config::Hop,
};

const DOING: &str = "logging in over SSH";

/// What ssh tries when nothing is said.
const USUAL_KEYS: [&str; 3] = ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"];

/// A private key that may be tried.
struct Candidate {
    /// For the list of what was tried.
    label: String,
    text: Secret,
    /// A certificate for it, as text.
    certificate: Option<String>,
    /// Named by the user: trouble with it is an error, not a note.
    named: bool,
}

/// Logs in, with the keys that the user named before the agent's and the usual ones.
pub(super) fn log_in(
    ssh: &mut Ssh,
    hop: &Hop,
    credentials: &Credentials,
) -> Result<(), ConnectionError> {
    let mut attempt = Attempt {
        ssh,
        hop,
        credentials,
        tried: Vec::new(),
    };
    let named = candidates(hop, credentials)?;
    let allowed = attempt.allowed()?;
    if attempt.ssh.session.authenticated() {
        return Ok(());
    }
    if !allowed.split(',').any(|method| method == "publickey") {
        return Err(attempt.refused(&allowed));
    }
    for candidate in named.iter().filter(|candidate| candidate.named) {
        if attempt.key(candidate)? {
            return Ok(());
        }
    }
    if credentials.agent && attempt.agent()? {
        return Ok(());
    }
    for candidate in named.iter().filter(|candidate| !candidate.named) {
        if attempt.key(candidate)? {
            return Ok(());
        }
    }
    Err(attempt.refused(&allowed))
}

struct Attempt<'a> {
    ssh: &'a mut Ssh,
    hop: &'a Hop,
    credentials: &'a Credentials,
    tried: Vec<String>,
}

impl Attempt<'_> {
    fn deadline(&self) -> Instant {
        Instant::now() + self.credentials.connect_timeout
    }

    /// The methods that the server allows.
    fn allowed(&mut self) -> Result<String, ConnectionError> {
        let (deadline, user) = (self.deadline(), &self.hop.user);
        self.ssh
            .step(deadline, |session| {
                session.auth_methods(user).map(str::to_owned)
            })
            .map_err(|error| {
                let kind = error.kind(ConnectionErrorKind::Protocol);
                ConnectionError::new(kind, &self.hop.label, DOING, error.to_string())
            })
    }

    /// Tries one key, with its certificate first where it has one. True when logged in.
    fn key(&mut self, candidate: &Candidate) -> Result<bool, ConnectionError> {
        let passphrase = self.credentials.passphrase.as_ref().map(Secret::expose);
        if passphrase.is_none() && is_encrypted(candidate.text.expose()) {
            if candidate.named {
                return Err(self
                    .unusable(&candidate.label, "it is encrypted and no passphrase is set")
                    .help("Set `passphrase` in the provider block or NSPAWN_SSH_PASSPHRASE, or add the key to an SSH agent (ssh-add)."));
            }
            self.tried.push(format!(
                "{} (encrypted, no passphrase is set)",
                candidate.label
            ));
            return Ok(false);
        }
        let certificates = candidate.certificate.iter().map(Some).chain([None]);
        for certificate in certificates {
            let certificate = certificate.map(String::as_str);
            let (deadline, user) = (self.deadline(), &self.hop.user);
            let result = self.ssh.step(deadline, |session| {
                let key = candidate.text.expose();
                session.userauth_pubkey_memory(user, certificate, key, passphrase)
            });
            let with = if certificate.is_some() {
                " with its certificate"
            } else {
                ""
            };
            match result {
                Ok(()) => return Ok(true),
                Err(StepError::Ssh(error)) if is_refusal(&error) => {
                    self.tried
                        .push(format!("{}{with} (refused)", candidate.label));
                }
                Err(StepError::Ssh(error)) if is_unusable(&error) => {
                    let reason = error.message().to_owned();
                    if candidate.named {
                        return Err(self.unusable(&candidate.label, &reason).help(
                            "Check that this is a private key (OpenSSH or PEM) and that the passphrase is right.",
                        ));
                    }
                    self.tried.push(format!("{} ({reason})", candidate.label));
                }
                Err(error) => {
                    return Err(self.lost(&error, &format!("offering {}{with}", candidate.label)));
                }
            }
        }
        Ok(false)
    }

    /// Tries all keys of the SSH agent. True when logged in.
    fn agent(&mut self) -> Result<bool, ConnectionError> {
        let socket = self.credentials.agent_socket.clone();
        let Some(socket) = socket.or_else(|| env::var_os("SSH_AUTH_SOCK").map(PathBuf::from))
        else {
            self.tried
                .push("the SSH agent (not usable: SSH_AUTH_SOCK is not set)".to_owned());
            return Ok(false);
        };
        let agent = match SshAgent::open(self.ssh, &socket, self.credentials.patience()) {
            Ok(agent) => agent,
            Err(StepError::Timeout) => return Ok(self.agent_is_late(&socket, "tell its keys")),
            Err(error @ StepError::Stopped) => {
                return Err(self.lost(&error, "asking the SSH agent"));
            }
            Err(error) => {
                let asking = asking(&socket);
                self.tried
                    .push(format!("the SSH agent (not usable: {asking}: {error})"));
                return Ok(false);
            }
        };
        if agent.identities.is_empty() {
            self.tried.push("the SSH agent (holds no keys)".to_owned());
        }
        for identity in &agent.identities {
            let result = self.agents_key(&agent, identity);
            let key = PublicKey::new(identity.blob());
            let label = format!(
                "the SSH agent's {} {} {}",
                identity.comment(),
                key.algorithm(),
                key.fingerprint()
            );
            match result {
                Ok(()) => return Ok(true),
                Err(_) if agent.is_late() => {
                    return Ok(self.agent_is_late(&socket, &format!("sign with {label}")));
                }
                Err(StepError::Ssh(error)) if is_refusal(&error) || is_unusable(&error) => {
                    // Nobody confirmed it, or the agent is gone. userauth.c of libssh2
                    let is_signed = !error.message().starts_with("Callback returned error");
                    let by = if is_signed {
                        "refused"
                    } else {
                        "the agent didn't sign"
                    };
                    self.tried.push(format!("{label} ({by})"));
                }
                Err(error) => return Err(self.lost(&error, &format!("offering {label}"))),
            }
        }
        Ok(false)
    }

    /// Tries one key of the SSH agent.
    fn agents_key(
        &mut self,
        agent: &SshAgent,
        identity: &ssh2::PublicKey,
    ) -> Result<(), StepError> {
        let (user, mut answers) = (&self.hop.user, agent.answers());
        loop {
            let deadline = self.deadline();
            let result = self
                .ssh
                .step(deadline, |_| agent.agent.userauth(user, identity));
            // What the agent, or a person whom it asked, took of the time was not the server's.
            let former = mem::replace(&mut answers, agent.answers());
            if !matches!(result, Err(StepError::Timeout)) || answers == former {
                return result;
            }
        }
    }

    /// Takes down what the SSH agent didn't do in time. False: not logged in.
    fn agent_is_late(&mut self, socket: &Path, what: &str) -> bool {
        let label = format!(
            "the SSH agent ({}, to {what}: no answer in time; give it what it waits for, such as a passphrase or a touch, or set `agent = false`)",
            asking(socket)
        );
        tracing::warn!(host = self.hop.label, "going on without {label}");
        self.tried.push(label);
        false
    }

    fn unusable(&self, label: &str, reason: &str) -> ConnectionError {
        ConnectionError::new(
            ConnectionErrorKind::Credentials,
            &self.hop.label,
            format!("using {label}"),
            reason,
        )
    }

    /// The connection ended in the middle.
    fn lost(&mut self, error: &StepError, doing: &str) -> ConnectionError {
        let host = &self.hop.label;
        let kind = error.kind(ConnectionErrorKind::Protocol);
        let before = match &self.tried[..] {
            [] => String::new(),
            tried => format!("; tried before: {}", tried.join("; ")),
        };
        if !matches!(error, StepError::Ssh(_)) || !self.is_dismissed() {
            return ConnectionError::new(kind, host, DOING, format!("{doing}: {error}{before}"))
                .help("If it stays so, the server's log says why: journalctl -u ssh");
        }
        let kind = ConnectionErrorKind::AuthenticationRefused;
        let reason = format!("the server ended the connection after {doing}{before}");
        ConnectionError::new(kind, host, DOING, reason).help(
            "A server takes only a few keys a connection (MaxAuthTries in sshd_config): name the right one with `private_key_file`, or take others out of the SSH agent.",
        )
    }

    /// Whether the server has said that it ends the connection, as it does after MaxAuthTries refused keys. A line that is
    /// cut says nothing; libssh2 tells the two apart only when it is asked for more.
    fn is_dismissed(&mut self) -> bool {
        let (deadline, user) = (self.deadline(), &self.hop.user);
        let more = self
            .ssh
            .step(deadline, |session| session.auth_methods(user).map(drop));
        let dismissed = ErrorCode::Session(libssh2_sys::LIBSSH2_ERROR_SOCKET_DISCONNECT);
        matches!(more, Err(StepError::Ssh(error)) if error.code() == dismissed)
    }

    fn refused(&self, allowed: &str) -> ConnectionError {
        let tried = if self.tried.is_empty() {
            "nothing: no key is set, no usual key is there, and no SSH agent is used".to_owned()
        } else {
            self.tried.join("; ")
        };
        let user = &self.hop.user;
        ConnectionError::new(
            ConnectionErrorKind::AuthenticationRefused,
            &self.hop.label,
            DOING,
            format!("the server took no key for the user {user:?}; tried: {tried}; the server allows: {allowed}"),
        )
        .help(format!(
            "Add the public key to ~{user}/.ssh/authorized_keys on the host, or set `private_key`, `private_key_file` or `agent` in the provider block (NSPAWN_SSH_PRIVATE_KEY, NSPAWN_SSH_PRIVATE_KEY_FILE, NSPAWN_SSH_AGENT).\n{REFRESH_USES_THE_STATE}"
        ))
    }
}

fn asking(socket: &Path) -> String {
    format!(
        "asking the SSH agent at {}, which SSH_AUTH_SOCK names",
        socket.display()
    )
}

/// The keys to try; those that the user named must be readable.
fn candidates(hop: &Hop, credentials: &Credentials) -> Result<Vec<Candidate>, ConnectionError> {
    let unreadable = |path: &Path, error: &io::Error| {
        ConnectionError::new(
            ConnectionErrorKind::Credentials,
            &hop.label,
            format!("reading {}", path.display()),
            error.to_string(),
        )
        .help("Correct the path in the provider block, or make the file readable.")
    };
    let certificate = match &credentials.certificate_file {
        None => None,
        Some(path) => {
            let path = expand_home(path);
            Some(fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?)
        }
    };
    let mut found = Vec::new();
    if let Some(text) = &credentials.private_key {
        found.push(Candidate {
            label: "private_key".to_owned(),
            // Terraform's heredocs and CI variables lose the last newline, which OpenSSL wants.
            text: Secret::new(format!("{}\n", text.expose().trim())),
            certificate: certificate.clone(),
            named: true,
        });
    }
    let named = credentials.private_key_file.iter().map(PathBuf::as_path);
    for path in named.map(expand_home) {
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        found.push(from_file(&path, text, certificate.clone(), true));
    }
    if found.is_empty() {
        let usual = USUAL_KEYS.iter().map(|path| expand_home(path.as_ref()));
        let configured = hop.identity_files.iter().map(|path| expand_home(path));
        for path in configured.chain(usual) {
            if let Ok(text) = fs::read_to_string(&path) {
                found.push(from_file(&path, text, certificate.clone(), false));
            }
        }
    }
    Ok(found)
}

/// A key file, with the certificate that ssh would find beside it.
fn from_file(path: &Path, text: String, certificate: Option<String>, named: bool) -> Candidate {
    let mut beside = path.as_os_str().to_owned();
    beside.push("-cert.pub");
    Candidate {
        label: path.display().to_string(),
        text: Secret::new(text),
        certificate: certificate.or_else(|| fs::read_to_string(beside).ok()),
        named,
    }
}

/// The server said no.
fn is_refusal(error: &ssh2::Error) -> bool {
    !is_unanswered(error)
        && matches!(
            error.code(),
            ErrorCode::Session(
                libssh2_sys::LIBSSH2_ERROR_AUTHENTICATION_FAILED
                    | libssh2_sys::LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED
            )
        )
}

/// The key itself is no good: no key, a wrong passphrase, a type that libssh2 doesn't know.
fn is_unusable(error: &ssh2::Error) -> bool {
    matches!(
        error.code(),
        ErrorCode::Session(
            libssh2_sys::LIBSSH2_ERROR_FILE
                | libssh2_sys::LIBSSH2_ERROR_KEYFILE_AUTH_FAILED
                | libssh2_sys::LIBSSH2_ERROR_METHOD_NOT_SUPPORTED
                | libssh2_sys::LIBSSH2_ERROR_METHOD_NONE
                | libssh2_sys::LIBSSH2_ERROR_ALGO_UNSUPPORTED
                | libssh2_sys::LIBSSH2_ERROR_INVAL
                | libssh2_sys::LIBSSH2_ERROR_PROTO
                | libssh2_sys::LIBSSH2_ERROR_AGENT_PROTOCOL
                | libssh2_sys::LIBSSH2_ERROR_ALLOC
        )
    )
}

/// Whether a private key needs a passphrase. PROTOCOL.key of OpenSSH: magic, then the cipher's name.
fn is_encrypted(text: &str) -> bool {
    const MAGIC: &[u8] = b"openssh-key-v1\0";
    let body: String = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("-----"))
        .collect();
    if text.contains("BEGIN OPENSSH PRIVATE KEY") {
        return STANDARD
            .decode(body)
            .ok()
            .and_then(|bytes| {
                let cipher = bytes.strip_prefix(MAGIC)?.get(4..8)?;
                Some(cipher != b"none")
            })
            .unwrap_or(false);
    }
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}
