//! Host keys and client keys, as sshd and ssh-keygen make them.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use protocol::secret::Secret;

use super::{
    super::{ConnectionError, ConnectionErrorKind, Credentials, HostKey, HostKeyChecking, Target},
    server::{Server, make_key, read, run, until},
};

async fn connect(
    server: &Server,
    target: &Target,
    credentials: Credentials,
) -> Result<(), ConnectionError> {
    server.pool(credentials).get(target, None).await.map(drop)
}

async fn log_in(server: &Server, credentials: Credentials) -> Result<(), ConnectionError> {
    connect(server, &server.target(), credentials).await
}

/// No key at all; tests add theirs.
fn bare(server: &Server) -> Credentials {
    Credentials {
        private_key: None,
        ..server.credentials()
    }
}

/// Puts this key alone into authorized_keys.
fn authorize(server: &Server, private: &Path) {
    let public = read(&private.with_extension("pub"));
    fs::write(server.path("authorized_keys"), public).unwrap();
}

/// A server like ours whose keys are other ones.
fn stranger(kind: &str) -> HostKey {
    let folder = tempfile::tempdir().unwrap();
    make_key(&folder.path().join("key"), kind, "");
    read(&folder.path().join("key.pub")).parse().unwrap()
}

#[tokio::test]
async fn a_pinned_key_is_found_whatever_its_type() {
    let server = Server::new();
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let key = server.host_key(kind);
        let fingerprint = key.fingerprint().parse().unwrap();
        for pin in [key, fingerprint] {
            let target = Target {
                host_key: Some(pin),
                ..server.target()
            };
            connect(&server, &target, server.credentials())
                .await
                .unwrap();
        }
    }
    assert!(!server.path("known_hosts").exists());
}

#[tokio::test]
async fn another_key_than_the_pinned_one_is_refused_with_both_fingerprints() {
    let server = Server::new();
    let fingerprint = stranger("ed25519").fingerprint().parse().unwrap();
    for pin in [stranger("ed25519"), stranger("rsa"), fingerprint] {
        let shown = pin.fingerprint();
        let target = Target {
            host_key: Some(pin),
            ..server.target()
        };
        let error = connect(&server, &target, server.credentials())
            .await
            .unwrap_err();
        assert_eq!(error.kind, ConnectionErrorKind::HostKeyChanged);
        assert!(error.reason.contains(&shown), "{error}");
        assert!(error.reason.matches("SHA256:").count() == 2, "{error}");
        assert!(error.help.unwrap().contains("-refresh=false"));
    }
    // The pin of a live connection counts as well.
    let pool = server.pool(server.credentials());
    pool.get(&server.target(), None).await.unwrap();
    let target = Target {
        host_key: Some(stranger("ed25519")),
        ..server.target()
    };
    let error = pool.get(&target, None).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::HostKeyChanged);
}

#[tokio::test]
async fn a_key_in_known_hosts_is_found_whatever_its_type() {
    for kinds in [&["ed25519"][..], &["ecdsa"], &["rsa"], &["rsa", "ed25519"]] {
        let server = Server::new();
        server.know(kinds);
        let target = Target {
            host_key: None,
            ..server.target()
        };
        connect(&server, &target, server.credentials())
            .await
            .unwrap();
        // As ssh itself hashes them.
        let file = server.path("known_hosts");
        run("ssh-keygen", &["-q", "-H", "-f", file.to_str().unwrap()]);
        assert!(read(&file).starts_with("|1|"));
        connect(&server, &target, server.credentials())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn unknown_changed_and_revoked_keys_are_refused() {
    let server = Server::new();
    let target = Target {
        host_key: None,
        ..server.target()
    };
    let error = connect(&server, &target, server.credentials())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::HostKeyUnknown);
    let key = server.host_key("ed25519");
    assert!(error.reason.contains(&key.fingerprint()), "{error}");
    let help = error.help.unwrap();
    assert!(
        help.contains(&format!("[127.0.0.1]:{} {}", server.port, key)),
        "{help}"
    );

    let other = stranger("ed25519");
    fs::write(
        server.path("known_hosts"),
        format!("[127.0.0.1]:{} {other}\n", server.port),
    )
    .unwrap();
    let accepting = Credentials {
        host_key_checking: HostKeyChecking::AcceptNew,
        ..server.credentials()
    };
    for credentials in [server.credentials(), accepting] {
        let error = connect(&server, &target, credentials).await.unwrap_err();
        assert_eq!(error.kind, ConnectionErrorKind::HostKeyChanged);
        assert!(error.reason.contains(&other.fingerprint()), "{error}");
        assert!(error.help.as_ref().unwrap().contains("-refresh=false"));
        assert!(error.reason.contains(&key.fingerprint()), "{error}");
    }

    fs::write(server.path("known_hosts"), format!("@revoked * {key}\n")).unwrap();
    let error = connect(&server, &target, server.credentials())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::HostKeyRevoked);
}

#[tokio::test]
async fn a_new_key_is_accepted_once() {
    let server = Server::new();
    let target = Target {
        host_key: None,
        ..server.target()
    };
    let accepting = Credentials {
        host_key_checking: HostKeyChecking::AcceptNew,
        ..server.credentials()
    };
    connect(&server, &target, accepting).await.unwrap();
    connect(&server, &target, server.credentials())
        .await
        .unwrap();
    assert_eq!(read(&server.path("known_hosts")).lines().count(), 1);
}

#[tokio::test]
async fn keys_of_each_type_and_format_log_in() {
    let server = Server::new();
    for kind in ["ed25519", "ecdsa", "rsa"] {
        for passphrase in ["", "correct horse"] {
            let path = make_key(
                &server.path(&format!("{kind}{}", passphrase.len())),
                kind,
                passphrase,
            );
            authorize(&server, &path);
            let secret = (!passphrase.is_empty()).then(|| Secret::new(passphrase));
            let by_file = Credentials {
                private_key_file: Some(path.clone()),
                passphrase: secret.clone(),
                ..bare(&server)
            };
            log_in(&server, by_file).await.unwrap();
            let text = Secret::new(read(&path).trim());
            let by_text = Credentials {
                private_key: Some(text),
                passphrase: secret,
                ..bare(&server)
            };
            log_in(&server, by_text).await.unwrap();
        }
    }
    let pem = make_key(&server.path("pem"), "rsa", "");
    run(
        "ssh-keygen",
        &[
            "-q",
            "-p",
            "-m",
            "PEM",
            "-N",
            "",
            "-f",
            pem.to_str().unwrap(),
        ],
    );
    authorize(&server, &pem);
    log_in(
        &server,
        Credentials {
            private_key_file: Some(pem),
            ..bare(&server)
        },
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_key_without_its_passphrase_says_so() {
    let server = Server::new();
    let path = make_key(&server.path("locked"), "ed25519", "secret");
    authorize(&server, &path);
    let missing = Credentials {
        private_key_file: Some(path.clone()),
        ..bare(&server)
    };
    let error = log_in(&server, missing.clone()).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Credentials);
    assert!(error.reason.contains("no passphrase is set"), "{error}");
    assert!(error.doing.contains("locked"), "{error}");
    let wrong = Credentials {
        passphrase: Some(Secret::new("wrong")),
        ..missing
    };
    let error = log_in(&server, wrong).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Credentials);
    assert!(
        error.help.as_ref().unwrap().contains("passphrase is right"),
        "{error:?}"
    );
    assert!(!format!("{error:?}").contains("wrong"), "{error:?}");
}

#[tokio::test]
async fn what_is_no_key_says_so() {
    let server = Server::new();
    let text = Credentials {
        private_key: Some(Secret::new("no key")),
        ..bare(&server)
    };
    let error = log_in(&server, text).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Credentials);
    let file = Credentials {
        private_key_file: Some("/nonexistent/key".into()),
        ..bare(&server)
    };
    let error = log_in(&server, file).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/key"), "{error}");
}

#[tokio::test]
async fn a_refused_key_lists_what_was_tried() {
    let server = Server::new();
    let path = make_key(&server.path("other"), "ed25519", "");
    let error = log_in(
        &server,
        Credentials {
            private_key_file: Some(path.clone()),
            ..bare(&server)
        },
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::AuthenticationRefused);
    assert!(error.reason.contains(path.to_str().unwrap()), "{error}");
    assert!(
        error.reason.contains("the server allows: publickey"),
        "{error}"
    );
}

#[tokio::test]
async fn a_certificate_logs_in() {
    let server = Server::new();
    let authority = make_key(&server.path("ca"), "ed25519", "");
    fs::copy(
        authority.with_extension("pub"),
        server.path("authority.pub"),
    )
    .unwrap();
    fs::write(server.path("authorized_keys"), "").unwrap();
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let path = make_key(&server.path(&format!("certified_{kind}")), kind, "");
        let public = path.with_extension("pub");
        run(
            "ssh-keygen",
            &[
                "-q",
                "-s",
                authority.to_str().unwrap(),
                "-I",
                "test",
                "-n",
                "root",
                public.to_str().unwrap(),
            ],
        );
        // Beside the key, where ssh looks as well.
        log_in(
            &server,
            Credentials {
                private_key_file: Some(path.clone()),
                ..bare(&server)
            },
        )
        .await
        .unwrap();
        let certificate = server.path("elsewhere");
        fs::rename(
            server.path(&format!("certified_{kind}-cert.pub")),
            &certificate,
        )
        .unwrap();
        let named = Credentials {
            private_key: Some(Secret::new(read(&path))),
            certificate_file: Some(certificate),
            ..bare(&server)
        };
        log_in(&server, named).await.unwrap();
    }
}

/// An ssh-agent of the test's own.
pub(super) struct SshAgent(Child);

impl SshAgent {
    pub(super) fn new(socket: &Path) -> Self {
        let mut command = Command::new("ssh-agent");
        command.args(["-D", "-a", socket.to_str().unwrap()]);
        let agent = Self(command.stdout(Stdio::null()).spawn().unwrap());
        until("ssh-agent listens", || socket.exists());
        agent
    }

    pub(super) fn add(socket: &Path, key: &Path) {
        let mut command = Command::new("ssh-add");
        command.args(["-q", key.to_str().unwrap()]);
        let added = command.env("SSH_AUTH_SOCK", socket).status().unwrap();
        assert!(added.success());
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_ssh_agents_keys_log_in() {
    let server = Server::new();
    let socket = server.path("agent.socket");
    let _agent = SshAgent::new(&socket);
    let credentials = Credentials {
        agent: true,
        agent_socket: Some(socket.clone()),
        ..bare(&server)
    };
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let path = make_key(&server.path(&format!("agents_{kind}")), kind, "");
        authorize(&server, &path);
        let error = log_in(&server, credentials.clone()).await.unwrap_err();
        assert_eq!(error.kind, ConnectionErrorKind::AuthenticationRefused);
        assert!(error.reason.contains("the SSH agent"), "{error}");
        SshAgent::add(&socket, &path);
        log_in(&server, credentials.clone()).await.unwrap();
    }
    let nobody = Credentials {
        agent_socket: Some("/nonexistent/socket".into()),
        ..credentials
    };
    let error = log_in(&server, nobody).await.unwrap_err();
    assert!(
        error.reason.contains("the SSH agent (not usable"),
        "{error}"
    );
}
