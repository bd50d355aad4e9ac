//! Lines that are cut and hosts that go down while a connection is made: no refusal, and worth another attempt.

use std::{
    fs,
    net::TcpStream,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use protocol::{message::Answer, secret::Secret};
use tokio::task::JoinSet;

use super::{
    super::{CallError, ConnectionError, ConnectionErrorKind, Credentials},
    server::{Server, Wire, ask, join, make_key, read, stay_while, until},
};

/// A login needs fewer bytes than this, in one direction.
const LOGIN: usize = 4000;

/// Keeps an sshd that knows of penalties from refusing whoever is cut off again and again.
fn lenient() -> &'static str {
    let option = "PerSourcePenalties no";
    let asked = ["-T", "-f", "/dev/null", "-o", option];
    let output = Command::new("/usr/sbin/sshd").args(asked).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("Bad configuration option") {
        ""
    } else {
        option
    }
}

#[tokio::test]
async fn a_line_that_is_cut_at_any_byte_of_a_login_is_no_refusal() {
    let server = Arc::new(Server::with(&format!("MaxStartups 500\n{}", lenient())));
    let mut attempts = JoinSet::new();
    for allowance in (0..LOGIN).step_by(150) {
        let server = Arc::clone(&server);
        attempts.spawn(async move {
            let wire = Wire::to(&server);
            wire.allowance.store(allowance, Ordering::SeqCst);
            let hasty = Credentials {
                connect_timeout: Duration::from_secs(4),
                ..server.credentials()
            };
            let target = wire.target(&server);
            server.pool(hasty).get(&target, None).await.err()
        });
    }
    let errors: Vec<_> = attempts.join_all().await.into_iter().flatten().collect();
    let login = |error: &ConnectionError| error.doing.contains("logging in");
    for error in errors.iter().filter(|error| login(error)) {
        assert_eq!(error.kind, ConnectionErrorKind::NotReady, "{error}");
    }
    let offers = errors
        .iter()
        .filter(|error| login(error) && error.reason.contains("offering private_key"));
    assert_ne!(offers.count(), 0, "{errors:#?}");
}

#[tokio::test]
async fn a_server_that_takes_no_more_keys_has_refused_them() {
    for tries in [1, 2] {
        let server = Server::with(&format!("MaxAuthTries {tries}"));
        let wrong = |name: &str| make_key(&server.path(name), "ed25519", "");
        let credentials = Credentials {
            private_key: Some(Secret::new(read(&wrong("one")))),
            private_key_file: Some(wrong("two")),
            ..server.credentials()
        };
        let error = server
            .pool(credentials)
            .get(&server.target(), None)
            .await
            .unwrap_err();
        assert_eq!(
            error.kind,
            ConnectionErrorKind::AuthenticationRefused,
            "{error}"
        );
        assert!(
            error
                .reason
                .contains(if tries == 1 { "private_key" } else { "two" }),
            "{error}"
        );
        assert!(
            error.help.as_ref().unwrap().contains("MaxAuthTries"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_server_behind_a_bastion_that_takes_no_more_keys_has_refused_them() {
    let (bastion, server) = (Server::new(), Server::with("MaxAuthTries 1"));
    let target = server.behind(&bastion, "ed25519");
    // The bastion's key, which the server doesn't know.
    let pool = server.pool(bastion.credentials());
    for _ in 0..5 {
        let error = pool.new_connection(&target).await.unwrap_err();
        assert_eq!(
            error.kind,
            ConnectionErrorKind::AuthenticationRefused,
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_agent_that_is_ended_before_its_greeting_is_that_of_a_host_that_shuts_down() {
    let server = Server::new();
    fs::write(server.path("notes/shut-down"), "").unwrap();
    let pool = server.pool(server.credentials());
    let error = pool.get(&server.target(), None).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Lost, "{error}");
}

#[tokio::test]
async fn a_shell_that_is_killed_is_that_of_a_host_that_shuts_down() {
    let server = Server::with("ForceCommand kill -KILL $$");
    let pool = server.pool(server.credentials());
    let error = pool.get(&server.target(), None).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Lost, "{error}");
}

#[tokio::test]
async fn whoever_stays_goes_on_past_a_shell_that_runs_nothing_for_a_while() {
    let server = Server::with(
        "ForceCommand if [ -e FOLDER/down ]; then exit 1; fi; touch FOLDER/up; eval \"$SSH_ORIGINAL_COMMAND\"",
    );
    let wire = Wire::to(&server);
    let host = server.pool(server.credentials());
    let host = host.get(&wire.target(&server), None).await.unwrap();
    fs::remove_file(server.path("up")).unwrap();
    fs::write(server.path("down"), "").unwrap();
    wire.cut();
    let is_wanted = AtomicBool::new(true);
    let back = async {
        wire.has_carried(3).await;
        fs::remove_file(server.path("down")).unwrap();
        while !server.path("up").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        is_wanted.store(false, Ordering::SeqCst);
        assert_eq!(host.call(ask("x")).await.unwrap(), Answer::Removed);
        wire.cut();
    };
    stay_while(&host, &is_wanted, back).await;
}

#[tokio::test]
async fn whoever_waits_for_a_host_is_not_told_the_error_of_one_who_does_not() {
    let server = Server::new();
    let (listener, target) = server.gate();
    let credentials = Credentials {
        connect_timeout: Duration::from_secs(1),
        ..server.credentials()
    };
    let pool = Arc::new(server.pool(credentials));
    let get = |wait| {
        let (pool, target) = (Arc::clone(&pool), target.clone());
        tokio::spawn(async move { pool.get(&target, wait).await })
    };
    let hasty = get(None);
    // It has begun, and is first. Nothing is said to it.
    let silent = tokio::task::spawn_blocking(move || (listener.accept().unwrap(), listener));
    let (silent, listener) = silent.await.unwrap();
    let patient = get(Some(Duration::from_secs(20)));
    let error = hasty.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::NotReady, "{error}");
    let port = server.port;
    std::thread::spawn(move || {
        while let Ok((near, _)) = listener.accept() {
            join(near, TcpStream::connect(("127.0.0.1", port)).unwrap());
        }
    });
    patient.await.unwrap().unwrap();
    drop(silent);
}

#[tokio::test]
async fn an_agent_that_asks_for_a_file_again_gets_it_once() {
    let server = Server::new();
    let pool = server.pool(server.credentials());
    let host = pool.get(&server.target(), None).await.unwrap();
    fs::write(server.path("tarball"), vec![0; 8 << 20]).unwrap();
    let call = ask("uploads-twice").upload(server.path("tarball"));
    let Err(CallError::Connection(error)) = host.call(call).await else {
        panic!("it got it twice");
    };
    assert_eq!(error.kind, ConnectionErrorKind::Protocol, "{error}");
    until("the agent is asked to stop", || {
        server.path("notes/cancelled").exists()
    });
}
