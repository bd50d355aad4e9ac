//! Requests over one connection: many at once, uploads, cancellation, cuts.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use protocol::{
    FailureKind,
    message::{Answer, Request},
};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{
    super::{Call, CallError, ConnectionErrorKind, Credentials, Target},
    server::{Server, Wire, ask, make_key, stay_while, until},
};

/// A call's lines of progress.
fn listen(call: Call) -> (Call, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    (
        call.progress(move |line| sink.lock().unwrap().push(line.to_owned())),
        lines,
    )
}

#[tokio::test]
async fn fifty_requests_share_one_connection() {
    let server = Server::new();
    let pool = Arc::new(server.pool(server.credentials()));
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..50 {
        let (pool, target) = (Arc::clone(&pool), server.target());
        calls.spawn(async move {
            let host = pool.get(&target, None).await.unwrap();
            let (call, lines) = listen(ask(&format!("image-{number}")));
            assert_eq!(host.call(call).await.unwrap(), Answer::Removed);
            assert_eq!(*lines.lock().unwrap(), [format!("removing image-{number}")]);
        });
    }
    while let Some(result) = calls.join_next().await {
        result.unwrap();
    }
    let welcome = pool.get(&server.target(), None).await.unwrap().welcome();
    assert_eq!(welcome.agent_version, "fake");
    pool.close_all().await;
    assert_eq!(server.connections(), 1);
    assert!(
        server.path("notes/ended").exists(),
        "the agent saw no end of its stdin"
    );
}

#[tokio::test]
async fn the_agent_is_uploaded_once_and_repaired() {
    let server = Server::new();
    let installed = server
        .agent_folder()
        .join(format!("nspawn-agent-{}", server.agent().sha256));
    for round in 0..3 {
        let pool = server.pool(server.credentials());
        pool.get(&server.target(), None).await.unwrap();
        pool.close_all().await;
        let metadata = fs::metadata(&installed).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
        match round {
            // A leftover that nobody may run.
            0 => fs::set_permissions(&installed, fs::Permissions::from_mode(0o777)).unwrap(),
            1 => fs::write(&installed, "#!/bin/sh\necho half").unwrap(),
            _ => {}
        }
    }
    let mode = fs::metadata(server.agent_folder())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert_eq!(fs::read_dir(server.agent_folder()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_upload_goes_beside_other_requests() {
    let server = Server::new();
    let pool = server.pool(server.credentials());
    let host = pool.get(&server.target(), None).await.unwrap();
    let contents: Vec<u8> = (0..20_000_003_u32)
        .map(|number| number.to_le_bytes()[0] ^ 0x5a)
        .collect();
    fs::write(server.path("tarball"), &contents).unwrap();
    let (call, lines) = listen(ask("uploads").upload(server.path("tarball")));
    let upload = tokio::spawn({
        let host = host.clone();
        async move { host.call(call).await }
    });
    for _ in 0..20 {
        assert_eq!(host.call(ask("other")).await.unwrap(), Answer::Removed);
    }
    assert_eq!(upload.await.unwrap().unwrap(), Answer::Removed);
    let expected = format!("{} bytes {:x?}", contents.len(), Sha256::digest(&contents));
    assert_eq!(*lines.lock().unwrap(), [expected]);

    let missing = host
        .call(ask("uploads").upload("/nonexistent/tarball"))
        .await
        .unwrap_err();
    assert!(
        missing.to_string().contains("/nonexistent/tarball"),
        "{missing}"
    );
    let none = host.call(ask("uploads")).await.unwrap_err();
    assert!(matches!(none, CallError::Failure(failure) if failure.kind == FailureKind::Protocol));
}

#[tokio::test]
async fn a_cancelled_call_waits_for_the_agents_answer() {
    let server = Server::new();
    let pool = server.pool(server.credentials());
    let host = pool.get(&server.target(), None).await.unwrap();
    let token = CancellationToken::new();
    let cancel = token.clone();
    let call = ask("waits")
        .cancellation(token)
        .progress(move |_| cancel.cancel());
    let Err(CallError::Failure(failure)) = host.call(call).await else {
        panic!("not cancelled");
    };
    assert_eq!(failure.kind, FailureKind::Cancelled);
}

#[tokio::test]
async fn a_dropped_call_is_cancelled() {
    let server = Server::new();
    let pool = server.pool(server.credentials());
    let host = pool.get(&server.target(), None).await.unwrap();
    let (begun, waiting) = tokio::sync::oneshot::channel();
    let begun = Mutex::new(Some(begun));
    let call = ask("waits").progress(move |_| {
        let _ = begun.lock().unwrap().take().unwrap().send(());
    });
    tokio::select! {
        _ = host.call(call) => panic!("answered"),
        _ = waiting => {}
    }
    until("the agent is asked to stop", || {
        server.path("notes/cancelled").exists()
    });
}

#[tokio::test]
async fn a_late_call_ends_at_its_deadline() {
    let server = Server::new();
    let pool = server.pool(server.credentials());
    let host = pool.get(&server.target(), None).await.unwrap();
    let call = ask("waits").deadline(Duration::from_millis(200));
    let Err(CallError::Connection(error)) = host.call(call).await else {
        panic!("no error");
    };
    assert_eq!(error.kind, ConnectionErrorKind::Timeout);
    assert!(server.path("notes/cancelled").exists());
}

#[tokio::test]
async fn a_connection_cut_between_requests_is_made_again() {
    let server = Server::new();
    let wire = Wire::to(&server);
    let target = wire.target(&server);
    let pool = server.pool(server.credentials());
    let host = pool.get(&target, None).await.unwrap();
    for _ in 0..3 {
        assert_eq!(host.call(ask("x")).await.unwrap(), Answer::Removed);
        wire.cut();
    }
    let look = Call::new(Request::Snapshot { deadline: 60 });
    let seen = host.call(look).await.unwrap();
    assert!(matches!(seen, Answer::Snapshot(_)), "{seen:?}");
    assert_eq!(wire.connections.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn whoever_stays_is_connected_again_without_being_asked() {
    let server = Server::new();
    let wire = Wire::to(&server);
    let target = wire.target(&server);
    let pool = server.pool(server.credentials());
    let host = pool.get(&target, None).await.unwrap();
    let is_wanted = AtomicBool::new(true);
    let dropped = async {
        for number in 2..4 {
            wire.cut();
            wire.has_carried(number).await;
        }
        // One that is whole, whoever made it.
        assert_eq!(host.call(ask("x")).await.unwrap(), Answer::Removed);
        is_wanted.store(false, Ordering::SeqCst);
        wire.cut();
    };
    stay_while(&host, &is_wanted, dropped).await;
}

#[tokio::test]
async fn whoever_stays_does_not_insist_where_he_is_refused() {
    let server = Server::new();
    let wire = Wire::to(&server);
    let target = wire.target(&server);
    let refused = Credentials {
        private_key: None,
        private_key_file: Some(make_key(&server.path("other"), "ed25519", "")),
        ..server.credentials()
    };
    let host = server.pool(refused).at_hand(&target);
    let staying = Box::pin(host.stay(|| true));
    let stayed = tokio::time::timeout(Duration::from_secs(30), staying)
        .await
        .unwrap();
    assert_eq!(
        stayed.unwrap_err().kind,
        ConnectionErrorKind::AuthenticationRefused
    );
    assert_eq!(wire.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_silent_host_is_given_up() {
    let server = Server::new();
    let wire = Wire::to(&server);
    let target = wire.target(&server);
    let credentials = Credentials {
        keepalive_interval: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(1),
        ..server.credentials()
    };
    let pool = server.pool(credentials);
    let host = pool.get(&target, None).await.unwrap();
    wire.freeze();
    let begun = Instant::now();
    let Err(CallError::Connection(error)) = host.call(ask("x")).await else {
        panic!("no error");
    };
    assert_eq!(error.kind, ConnectionErrorKind::OutcomeUnknown);
    assert!(begun.elapsed() < Duration::from_secs(15), "{error}");
}

#[tokio::test]
async fn an_idle_connection_lives_on() {
    let server = Server::new();
    let interval = Duration::from_secs(1);
    let credentials = Credentials {
        keepalive_interval: interval,
        ..server.credentials()
    };
    let pool = server.pool(credentials);
    let host = pool.get(&server.target(), None).await.unwrap();
    let call = ask("waits").deadline(interval * 6);
    let error = host.call(call).await.unwrap_err();
    assert!(
        error.to_string().contains("none within 6 seconds"),
        "{error}"
    );
    assert_eq!(server.connections(), 1);
    assert!(
        server.path("notes/heartbeat").exists(),
        "the agent can't know that the provider is still there"
    );
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_booting_host() {
    let server = Server::new();
    let pool = Arc::new(server.pool(server.credentials()));
    let target = Target {
        port: 1,
        ..server.target()
    };
    let waiting = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.get(&target, Some(Duration::from_mins(10))).await }
    });
    tokio::task::yield_now().await;
    pool.close_all().await;
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Cancelled);
}

#[tokio::test]
async fn a_request_on_its_way_is_sent_again_once() {
    let server = Server::new();
    let pool = server.pool(server.credentials());
    let host = pool.get(&server.target(), None).await.unwrap();
    assert_eq!(host.call(ask("dies-once")).await.unwrap(), Answer::Removed);
    assert_eq!(server.connections(), 2);
    let Err(CallError::Connection(error)) = host.call(ask("dies")).await else {
        panic!("no error");
    };
    assert_eq!(error.kind, ConnectionErrorKind::OutcomeUnknown);
    assert!(error.reason.contains("the agent's dying words"), "{error}");
    assert!(error.reason.contains("status 3"), "{error}");
    assert!(error.reason.len() < 10_000, "all of stderr is in the error");
    assert!(error.help.unwrap().contains("Run apply again"));
}

#[tokio::test]
async fn nonsense_ends_the_connection() {
    let server = Server::new();
    let pool = server.pool(server.credentials());
    let host = pool.get(&server.target(), None).await.unwrap();
    let error = host.call(ask("nonsense")).await.unwrap_err();
    assert!(error.to_string().contains("makes no sense"), "{error}");
}

#[tokio::test]
async fn a_new_connection_is_one_of_its_own() {
    let server = Server::new();
    let pool = server.pool(server.credentials());
    let _host = pool.get(&server.target(), None).await.unwrap();
    let fresh = pool.new_connection(&server.target()).await.unwrap();
    assert_eq!(fresh.call(ask("x")).await.unwrap(), Answer::Removed);
    assert_eq!(server.connections(), 2);
    drop(fresh);
    until("the agent ends", || server.path("notes/ended").exists());
}

#[tokio::test]
async fn requests_go_through_bastions() {
    let (bastion, server) = (Server::new(), Server::new());
    let key = fs::read(bastion.path("client.pub")).unwrap();
    fs::write(server.path("authorized_keys"), key).unwrap();
    let target = server.behind(&bastion, "rsa");
    let pool = server.pool(bastion.credentials());
    let host = pool.get(&target, None).await.unwrap();
    let contents = vec![7; 9_000_000];
    fs::write(server.path("tarball"), &contents).unwrap();
    assert_eq!(
        host.call(ask("uploads").upload(server.path("tarball")))
            .await
            .unwrap(),
        Answer::Removed
    );
    pool.close_all().await;
    assert!(server.path("notes/ended").exists());
    assert_eq!((bastion.connections(), server.connections()), (1, 1));
    until("the bastion's connection ends", || {
        bastion.log().contains("Disconnected from")
            || bastion.log().contains("Connection closed by")
    });
}

#[tokio::test]
async fn a_server_that_closes_before_a_word_is_tried_again() {
    let server = Server::new();
    let (listener, target) = server.gate();
    let port = server.port;
    let short = std::thread::spawn(move || {
        for _ in 0..2 {
            drop(listener.accept().unwrap());
        }
        let (near, _) = listener.accept().unwrap();
        let far = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        super::server::join(near, far);
    });
    let pool = server.pool(server.credentials());
    let host = pool.get(&target, None).await.unwrap();
    assert_eq!(host.call(ask("x")).await.unwrap(), Answer::Removed);
    short.join().unwrap();
}

#[tokio::test]
async fn a_host_that_is_still_booting_is_waited_for() {
    let server = Server::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Closed during the banner at first, then refused, then up.
    let booting = std::thread::spawn(move || {
        drop(listener.accept().unwrap());
        drop(listener);
    });
    let target = Target {
        port,
        ..server.target()
    };
    let hasty = Credentials {
        connect_timeout: Duration::from_millis(100),
        ..server.credentials()
    };
    let error = server.pool(hasty).new_connection(&target).await;
    assert_eq!(error.unwrap_err().kind, ConnectionErrorKind::NotReady);
    let pool = server.pool(server.credentials());
    booting.join().unwrap();
    let error = pool.new_connection(&target).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Unreachable);
    let help = error.help.as_ref().unwrap();
    assert!(
        help.contains("terraform apply -refresh=false") && help.contains("terraform state rm"),
        "{error:?}"
    );

    let waiting = pool.get(&target, Some(Duration::from_secs(20)));
    let up = tokio::task::spawn_blocking(move || {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        drop(listener.accept().unwrap());
        let (near, _) = listener.accept().unwrap();
        (near, listener)
    });
    let far = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let carrying = tokio::spawn(async move {
        let (near, listener) = up.await.unwrap();
        super::server::join(near, far);
        listener
    });
    waiting.await.unwrap();
    drop(carrying.await.unwrap());
}
