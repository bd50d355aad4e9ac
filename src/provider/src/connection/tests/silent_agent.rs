//! An SSH agent that never answers, or too late, beside a real sshd.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::{
    super::{ConnectionErrorKind, Credentials, ssh_agent},
    keys::SshAgent,
    server::Server,
};

/// An agent that never answers, and nothing else to log in with.
fn silent(server: &Server) -> (UnixListener, Credentials) {
    let socket = server.path("agent.socket");
    let agent = UnixListener::bind(&socket).unwrap();
    let credentials = Credentials {
        private_key: None,
        agent: true,
        agent_socket: Some(socket),
        ..server.credentials()
    };
    (agent, credentials)
}

#[tokio::test]
async fn an_ssh_agent_that_never_answers_is_told_and_holds_nobody_up() {
    let server = Server::new();
    let (_agent, credentials) = silent(&server);
    let credentials = Credentials {
        connect_timeout: Duration::from_secs(2),
        agent_patience: Duration::from_secs(3),
        ..credentials
    };
    let begun = Instant::now();
    let pool = server.pool(credentials);
    let error = pool.get(&server.target(), None).await.unwrap_err();
    assert_eq!(
        error.kind,
        ConnectionErrorKind::AuthenticationRefused,
        "{error}"
    );
    for part in [
        "asking the SSH agent at",
        "agent.socket",
        "SSH_AUTH_SOCK",
        "no answer in time",
    ] {
        assert!(error.reason.contains(part), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_thread_that_waits_for_a_silent_ssh_agent_ends_when_nobody_waits_for_it() {
    let server = Server::new();
    let (agent, credentials) = silent(&server);
    let credentials = Credentials {
        connect_timeout: Duration::from_mins(1),
        ..credentials
    };
    let (pool, target) = (server.pool(credentials), server.target());
    let asking = tokio::spawn(async move { pool.get(&target, None).await.map(drop) });
    let asked = tokio::task::spawn_blocking(move || agent.accept().unwrap().0);
    let mut asked = asked.await.unwrap();
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    asked
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut question = Vec::new();
    asked.read_to_end(&mut question).unwrap();
    assert_eq!(question, [0, 0, 0, 1, 11]);
}

/// A real ssh-agent that holds the client's key, and a way to it on which questions for a signature are held up.
struct SlowSigner {
    _agent: SshAgent,
    credentials: Credentials,
}

/// SSH_AGENTC_SIGN_REQUEST. draft-ietf-sshm-ssh-agent, 6.1
const SIGN: u8 = 13;

impl SlowSigner {
    fn new(server: &Server, delay: Duration) -> Self {
        let (real, slow) = (server.path("real.socket"), server.path("agent.socket"));
        let agent = SshAgent::new(&real);
        SshAgent::add(&real, &server.path("client"));
        let listener = UnixListener::bind(&slow).unwrap();
        thread::spawn(move || {
            for asker in listener.incoming() {
                let (asker, real) = (asker.unwrap(), real.clone());
                thread::spawn(move || hold_up(&asker, &real, delay));
            }
        });
        let credentials = Credentials {
            private_key: None,
            agent: true,
            agent_socket: Some(slow),
            ..server.credentials()
        };
        Self {
            _agent: agent,
            credentials,
        }
    }
}

fn hold_up(asker: &UnixStream, real: &Path, delay: Duration) -> io::Result<()> {
    let real = UnixStream::connect(real)?;
    loop {
        let question = read_message(asker)?;
        if question[4] == SIGN {
            thread::sleep(delay);
        }
        (&real).write_all(&question)?;
        let answer = read_message(&real)?;
        (&*asker).write_all(&answer)?;
    }
}

fn read_message(mut stream: &UnixStream) -> io::Result<Vec<u8>> {
    ssh_agent::message(|buffer| stream.read_exact(buffer))
}

#[tokio::test]
async fn an_ssh_agent_that_never_signs_is_told_and_holds_nobody_up() {
    let server = Server::new();
    let signer = SlowSigner::new(&server, Duration::from_mins(10));
    let credentials = Credentials {
        connect_timeout: Duration::from_secs(2),
        agent_patience: Duration::from_secs(3),
        ..signer.credentials.clone()
    };
    let pool = server.pool(credentials);
    let target = server.target();
    let answer = timeout(Duration::from_secs(20), pool.get(&target, None));
    let error = answer.await.expect("it is held up").unwrap_err();
    let kind = ConnectionErrorKind::AuthenticationRefused;
    assert_eq!(error.kind, kind, "{error}");
    for part in [
        "agent.socket",
        "SSH_AUTH_SOCK",
        "to sign with the SSH agent's test ssh-ed25519 SHA256:",
        "no answer in time",
        "`agent = false`",
        "the server allows: publickey",
    ] {
        assert!(error.reason.contains(part), "{error}");
    }
}

#[tokio::test]
async fn the_time_that_an_ssh_agent_takes_to_sign_is_not_the_servers() {
    let server = Server::new();
    let signer = SlowSigner::new(&server, Duration::from_secs(3));
    let credentials = Credentials {
        connect_timeout: Duration::from_secs(2),
        ..signer.credentials.clone()
    };
    let pool = server.pool(credentials);
    pool.get(&server.target(), None).await.unwrap();
}
