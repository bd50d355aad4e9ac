//! An sshd of the test's own, and a wire to it that can be cut.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use protocol::{desired::ObjectKey, message::Request, secret::Secret};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{
    super::{
        Bastion, Call, Credentials, Host, HostKey, Pool, Target, embedded::Agent, known_hosts,
    },
    fake_agent::NOTES,
};

/// An sshd with a folder of its own: host keys, client keys, notes, the agent's folder.
pub(super) struct Server {
    pub(super) folder: TempDir,
    pub(super) port: u16,
    sshd: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

/// Runs a program that must succeed; its stdout.
pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// As sha256sum shows it.
pub(super) fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

/// Makes a key pair; the path of the private key.
pub(super) fn make_key(path: &Path, kind: &str, passphrase: &str) -> PathBuf {
    let text = path.to_str().unwrap();
    run(
        "ssh-keygen",
        &["-q", "-t", kind, "-N", passphrase, "-f", text, "-C", "test"],
    );
    path.to_owned()
}

pub(super) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Waits until something is so.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

impl Server {
    pub(super) fn new() -> Self {
        Self::with("")
    }

    /// With more lines of sshd_config; FOLDER stands for the server's folder.
    pub(super) fn with(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for kind in ["ed25519", "ecdsa", "rsa"] {
            make_key(&at(&format!("host_{kind}")), kind, "");
        }
        make_key(&at("client"), "ed25519", "");
        fs::create_dir(at("notes")).unwrap();
        let public = read(&at("client.pub"));
        fs::write(at("authorized_keys"), public).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let path = folder.path().to_str().unwrap();
        // The privilege separation folder of Debian's sshd, which its unit makes otherwise.
        fs::create_dir_all("/run/sshd").unwrap();
        let keys = if more.contains("HostKey ") {
            ""
        } else {
            "HostKey FOLDER/host_ed25519\nHostKey FOLDER/host_ecdsa\nHostKey FOLDER/host_rsa\n"
        };
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nPidFile none\nStrictModes no\nUsePAM no\nLogLevel VERBOSE\n\
             AuthorizedKeysFile FOLDER/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin yes\nTrustedUserCAKeys FOLDER/authority.pub\n{keys}{more}\n"
        )
        .replace("FOLDER", path);
        fs::write(at("authority.pub"), "").unwrap();
        fs::write(at("sshd_config"), config).unwrap();
        let log = File::create(at("log")).unwrap();
        let sshd = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", at("sshd_config").to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self { folder, port, sshd };
        until("sshd listens", || server.log().contains("Server listening"));
        server
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn log(&self) -> String {
        read(&self.path("log"))
    }

    /// How many connections sshd has seen.
    pub(super) fn connections(&self) -> usize {
        self.log().matches("Connection from ").count()
    }

    pub(super) fn host_key(&self, kind: &str) -> HostKey {
        read(&self.path(&format!("host_{kind}.pub")))
            .parse()
            .unwrap()
    }

    /// This server, with its ed25519 key pinned.
    pub(super) fn target(&self) -> Target {
        Target {
            port: self.port,
            host_key: Some(self.host_key("ed25519")),
            ..Target::new("127.0.0.1")
        }
    }

    /// A listener before this server, and how it is reached.
    pub(super) fn gate(&self) -> (TcpListener, Target) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target {
            port: listener.local_addr().unwrap().port(),
            ..self.target()
        };
        (listener, target)
    }

    /// This server behind another one, whose key of this kind is pinned.
    pub(super) fn behind(&self, bastion: &Self, kind: &str) -> Target {
        Target {
            bastion: Some(Bastion {
                address: "127.0.0.1".to_owned(),
                port: bastion.port,
                user: "root".to_owned(),
                host_key: Some(bastion.host_key(kind)),
            }),
            ..self.target()
        }
    }

    /// A key that the server takes, and a known_hosts file of its own.
    pub(super) fn credentials(&self) -> Credentials {
        Credentials {
            private_key: Some(Secret::new(read(&self.path("client")))),
            known_hosts_file: Some(self.path("known_hosts")),
            agent: false,
            ..Credentials::default()
        }
    }

    /// The stand-in, as a program to be uploaded.
    pub(super) fn agent(&self) -> Agent {
        self.agent_with(&[])
    }

    /// With more bytes after its end.
    pub(super) fn agent_with(&self, padding: &[u8]) -> Agent {
        let program = std::env::current_exe().unwrap();
        let script = format!(
            "#!/bin/sh\n{NOTES}='{}' exec '{}' --ignored --exact --nocapture connection::tests::fake_agent::serve\n",
            self.path("notes").display(),
            program.display(),
        );
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let script = [script.as_bytes(), padding].concat();
        encoder.write_all(&script).unwrap();
        let sha256 = hex_digest(&script);
        Agent {
            architecture: std::env::consts::ARCH,
            sha256: sha256.leak(),
            gzip: encoder.finish().unwrap().leak(),
        }
    }

    pub(super) fn agent_folder(&self) -> PathBuf {
        self.path("lib/nspawn-agent")
    }

    pub(super) fn pool(&self, credentials: Credentials) -> Pool {
        self.pool_with(credentials, &[self.agent()])
    }

    pub(super) fn pool_with(&self, credentials: Credentials, agents: &[Agent]) -> Pool {
        let folder = self.agent_folder();
        let session = "0123456789abcdef0123456789abcdef".parse().unwrap();
        Pool::with_agents(
            credentials,
            session,
            "test@here".to_owned(),
            agents,
            folder.to_str().unwrap(),
        )
    }

    /// Writes the server's keys of these kinds into the known_hosts file.
    pub(super) fn know(&self, kinds: &[&str]) {
        for kind in kinds {
            let HostKey::Key(key) = self.host_key(kind) else {
                panic!("not a key");
            };
            known_hosts::append(&self.path("known_hosts"), "127.0.0.1", self.port, &key).unwrap();
        }
    }
}

/// A request by whose name the stand-in knows what to do.
pub(super) fn ask(what: &str) -> Call {
    Call::new(Request::Remove {
        key: ObjectKey::Image(what.parse().unwrap()),
        token: "00000000000000000000000000000000".parse().unwrap(),
        deadline: 30,
    })
}

/// Stays connected while something is done, until its end says that this is not wanted any more.
pub(super) async fn stay_while(
    host: &Host,
    is_wanted: &AtomicBool,
    deed: impl Future<Output = ()>,
) {
    let staying = host.stay(|| is_wanted.load(Ordering::SeqCst));
    let both = Box::pin(async { tokio::join!(staying, deed) });
    let (stayed, ()) = tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .unwrap();
    stayed.unwrap();
}

/// A wire to the server that can be cut, and that counts its connections.
pub(super) struct Wire {
    pub(super) port: u16,
    pub(super) connections: Arc<AtomicUsize>,
    /// How many bytes go up before a connection is cut.
    pub(super) allowance: Arc<AtomicUsize>,
    frozen: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    pub(super) fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
            allowance: Arc::new(AtomicUsize::new(usize::MAX)),
            frozen: Arc::default(),
            ends: Arc::default(),
        };
        let limits = Limits {
            allowance: Arc::clone(&wire.allowance),
            frozen: Arc::clone(&wire.frozen),
        };
        let (port, ends, connections) = (
            server.port,
            Arc::clone(&wire.ends),
            Arc::clone(&wire.connections),
        );
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                ends.lock().unwrap().push(near.try_clone().unwrap());
                let back = Limits {
                    frozen: Arc::clone(&limits.frozen),
                    ..Limits::none()
                };
                carry(
                    near.try_clone().unwrap(),
                    far.try_clone().unwrap(),
                    limits.clone(),
                );
                carry(far, near, back);
            }
        });
        wire
    }

    /// The server, by way of this.
    pub(super) fn target(&self, server: &Server) -> Target {
        Target {
            port: self.port,
            ..server.target()
        }
    }

    /// Waits until so many connections have come.
    pub(super) async fn has_carried(&self, connections: usize) {
        while self.connections.load(Ordering::SeqCst) < connections {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Carries nothing more, and says nothing about it, as a host that lost its power.
    pub(super) fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    pub(super) fn cut(&self) {
        for end in self.ends.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// What a wire doesn't carry.
#[derive(Clone)]
struct Limits {
    allowance: Arc<AtomicUsize>,
    frozen: Arc<AtomicBool>,
}

impl Limits {
    fn none() -> Self {
        Self {
            allowance: Arc::new(AtomicUsize::new(usize::MAX)),
            frozen: Arc::default(),
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, limits: Limits) {
    thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        let mut carried = 0;
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            carried += length;
            if carried > limits.allowance.load(Ordering::SeqCst) {
                break;
            }
            if !limits.frozen.load(Ordering::SeqCst) && to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}

/// Joins two connections.
pub(super) fn join(near: TcpStream, far: TcpStream) {
    carry(
        near.try_clone().unwrap(),
        far.try_clone().unwrap(),
        Limits::none(),
    );
    carry(far, near, Limits::none());
}

/// Makes a file that root may run.
pub(super) fn make_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
