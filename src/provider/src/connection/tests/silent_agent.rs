//! An SSH agent that never answers, beside a real sshd.

use std::{
    io::Read as _,
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use super::{
    super::{ConnectionErrorKind, Credentials},
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
