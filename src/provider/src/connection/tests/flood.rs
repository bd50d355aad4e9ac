//! A server that sends without end what says nothing.

use std::{io::Write as _, net::TcpStream, thread, time::Duration};

use tokio::time::timeout;

use super::{
    super::{ConnectionError, ConnectionErrorKind, Credentials},
    server::Server,
};

/// SSH_MSG_IGNORE with nothing in it, not encrypted, as before the keys are agreed on. RFC 4253, 6 and 11.2
const IGNORE: [u8; 16] = [0, 0, 0, 12, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A connection to a server that begins so, and then says this again and again.
async fn connect(beginning: &'static str, again: &[u8]) -> ConnectionError {
    let server = Server::new();
    let (listener, target) = server.gate();
    let flood = again.repeat(4096);
    thread::spawn(move || {
        let mut caller: TcpStream = listener.accept().unwrap().0;
        caller.write_all(beginning.as_bytes()).unwrap();
        while caller.write_all(&flood).is_ok() {}
    });
    let credentials = Credentials {
        connect_timeout: Duration::from_secs(1),
        agent_patience: Duration::from_secs(1),
        ..server.credentials()
    };
    let pool = server.pool(credentials);
    let connection = pool.get(&target, None);
    let answer = timeout(Duration::from_secs(15), connection).await;
    answer.expect("it goes on past the deadline").unwrap_err()
}

#[tokio::test]
async fn a_flood_of_packets_ends_with_the_deadline() {
    let error = connect("SSH-2.0-flood\r\n", &IGNORE).await;
    assert_eq!(error.kind, ConnectionErrorKind::NotReady, "{error}");
    assert!(error.reason.contains("no answer in time"), "{error}");
}

#[tokio::test]
async fn a_flood_of_lines_ends_with_the_deadline() {
    let error = connect("", b"not yet\r\n").await;
    assert_eq!(error.kind, ConnectionErrorKind::NotReady, "{error}");
    assert!(error.reason.contains("no answer in time"), "{error}");
}
