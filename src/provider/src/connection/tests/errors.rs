//! Hosts that don't let the agent start, and what is said about each.

use std::{env::consts::ARCH, fs, os::unix::fs::symlink, sync::atomic::Ordering, time::Duration};

use protocol::message::Answer;

use super::{
    super::{
        ConnectionError, ConnectionErrorKind, Credentials, HostKeyChecking, KNOWN_HOSTS_FILE,
        Target, embedded::Agent,
    },
    server::{Server, Wire, ask, hex_digest, make_program, until},
};

async fn connect(server: &Server) -> Result<(), ConnectionError> {
    let pool = server.pool(server.credentials());
    pool.get(&server.target(), None).await.map(drop)
}

#[tokio::test]
async fn a_login_shell_may_print() {
    let server = Server::with(
        "ForceCommand echo Welcome; echo to stderr >&2; eval \"$SSH_ORIGINAL_COMMAND\"",
    );
    let pool = server.pool(server.credentials());
    for _ in 0..2 {
        let host = pool.new_connection(&server.target()).await.unwrap();
        assert_eq!(host.call(ask("x")).await.unwrap(), Answer::Removed);
    }
}

#[tokio::test]
async fn other_shells_hand_the_command_on() {
    let server = Server::with("ForceCommand exec dash -c \"$SSH_ORIGINAL_COMMAND\"");
    connect(&server).await.unwrap();
}

#[tokio::test]
async fn a_shell_that_runs_nothing_is_shown() {
    let server = Server::with("ForceCommand echo This account is currently not available.; exit 1");
    let error = connect(&server).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Shell);
    assert!(error.reason.contains("status 1"), "{error}");
    assert!(error.reason.contains("not available"), "{error}");
}

#[tokio::test]
async fn a_shell_that_prints_without_end_is_left() {
    let server = Server::with("ForceCommand yes");
    let error = connect(&server).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Shell);
    assert!(error.reason.contains("prints without end"), "{error}");
    assert!(error.reason.len() < 4096);
}

#[tokio::test]
async fn a_host_that_asks_for_the_agent_again_and_again_gets_it_once() {
    let ask = format!("printf '\\000nspawn-agent install need {ARCH}\\n'");
    let server = Server::with(&format!("ForceCommand {ask}; {ask}; exec cat >&2"));
    let error = connect(&server).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Shell);
    assert!(error.reason.contains("asks for it again"), "{error}");
}

#[tokio::test]
async fn sudo_that_asks_says_what_to_change() {
    for (said, help) in [
        ("sudo: a password is required", "NOPASSWD"),
        ("sudo: sorry, you must have a tty to run sudo", "requiretty"),
    ] {
        let server = Server::with(&format!("ForceCommand echo {said:?} >&2; exit 1"));
        let error = connect(&server).await.unwrap_err();
        assert_eq!(error.kind, ConnectionErrorKind::Sudo);
        assert!(error.reason.contains(said), "{error}");
        assert!(error.help.as_ref().unwrap().contains(help), "{error:?}");
    }
}

#[tokio::test]
async fn a_user_who_is_not_root_is_named() {
    let server = Server::with(
        "ForceCommand exec setpriv --reuid=65534 --clear-groups sh -c \"$SSH_ORIGINAL_COMMAND\"",
    );
    let error = connect(&server).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Sudo);
    assert!(error.reason.contains("nobody"), "{error}");
}

#[tokio::test]
async fn an_architecture_without_an_agent_is_named() {
    let server = Server::new();
    let pool = server.pool_with(
        server.credentials(),
        &[Agent {
            architecture: "pdp11",
            ..server.agent()
        }],
    );
    let error = pool.get(&server.target(), None).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Architecture);
    assert!(error.reason.contains(std::env::consts::ARCH), "{error}");
}

#[tokio::test]
async fn an_unsafe_folder_is_refused() {
    let server = Server::new();
    let folder = server.agent_folder();
    fs::create_dir(folder.parent().unwrap()).unwrap();
    for mode in ["0775", "0757"] {
        make_folder(&folder, mode);
        assert_unsafe(&server).await;
        fs::remove_dir(&folder).unwrap();
    }
    make_folder(&folder, "0755");
    std::os::unix::fs::chown(&folder, Some(65534), None).unwrap();
    assert_unsafe(&server).await;
    fs::remove_dir(&folder).unwrap();
    symlink("/tmp", &folder).unwrap();
    assert_unsafe(&server).await;
    fs::remove_file(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    assert_unsafe(&server).await;
}

fn make_folder(folder: &std::path::Path, mode: &str) {
    super::server::run("mkdir", &["-m", mode, folder.to_str().unwrap()]);
}

async fn assert_unsafe(server: &Server) {
    let error = connect(server).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Install);
    assert!(error.reason.contains("others than root"), "{error}");
}

#[tokio::test]
async fn a_changed_upload_is_never_run() {
    let server = Server::new();
    let other = Agent {
        sha256: "0000000000000000000000000000000000000000000000000000000000000000",
        ..server.agent()
    };
    let pool = server.pool_with(server.credentials(), &[other]);
    let error = pool.get(&server.target(), None).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Install);
    assert!(error.reason.contains("incomplete or changed"), "{error}");
    assert!(!server.agent_folder().exists());
}

#[tokio::test]
async fn an_upload_that_was_cut_leaves_nothing_and_is_begun_again() {
    let server = Server::new();
    // Noise that gzip can't shrink.
    let mut state = 1_u64;
    let padding: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(2_000_000)
    .collect();
    let agent = server.agent_with(&padding);
    assert!(agent.gzip.len() > 1_500_000);
    let wire = Wire::to(&server);
    let target = wire.target(&server);
    wire.allowance.store(1_000_000, Ordering::SeqCst);
    let pool = server.pool_with(server.credentials(), &[agent]);
    let error = pool.get(&target, None).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Lost);
    let folder = server.agent_folder();
    until("the half upload and its folder are removed", || {
        !folder.exists()
    });
    wire.allowance.store(usize::MAX, Ordering::SeqCst);
    let host = pool
        .get(&target, Some(Duration::from_secs(5)))
        .await
        .unwrap();
    assert_eq!(host.call(ask("x")).await.unwrap(), Answer::Removed);
}

#[tokio::test]
async fn an_agent_that_does_not_start_is_shown() {
    let server = Server::new();
    let folder = server.agent_folder();
    fs::create_dir_all(&folder).unwrap();
    let program = "#!/bin/sh\necho /usr/local/lib/nspawn-agent/x: cannot execute >&2; exit 126\n";
    let sha256 = hex_digest(program.as_bytes());
    make_program(&folder.join(format!("nspawn-agent-{sha256}")), program);
    let agent = Agent {
        sha256: sha256.leak(),
        ..server.agent()
    };
    let pool = server.pool_with(server.credentials(), &[agent]);
    let error = pool.get(&server.target(), None).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Install);
    assert!(error.reason.contains("cannot execute"), "{error}");
}

#[tokio::test]
async fn a_login_shell_that_hangs_is_not_waited_for_as_an_upload_is() {
    let server = Server::with("ForceCommand echo 'Your choice?'; sleep 1000");
    let credentials = Credentials {
        connect_timeout: Duration::from_secs(2),
        ..server.credentials()
    };
    let begun = std::time::Instant::now();
    let error = server.pool(credentials).get(&server.target(), None).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Install);
    assert!(error.reason.contains("the login shell of "), "{error}");
    assert!(error.reason.contains("Your choice?"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn an_unreachable_hosts_error_stands_for_all() {
    let server = Server::new();
    // Accepts and says nothing: as slow as a host that is gone.
    let (_listener, target) = server.gate();
    let credentials = Credentials {
        connect_timeout: Duration::from_millis(500),
        ..server.credentials()
    };
    let pool = server.pool(credentials);
    let gets = (0..20).map(|_| pool.get(&target, None));
    let begun = std::time::Instant::now();
    for result in futures_join(gets).await {
        assert_eq!(result.unwrap_err().kind, ConnectionErrorKind::NotReady);
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// All of them at once.
async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in &mut pending {
            if output.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *output = Some(value);
            }
        }
        if pending.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    pending
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}

#[tokio::test]
async fn nothing_connects_after_the_end() {
    let server = Server::new();
    let pool = server.pool(server.credentials());
    pool.get(&server.target(), None).await.unwrap();
    pool.close_all().await;
    let error = pool.get(&server.target(), None).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::Cancelled);
}

#[tokio::test]
async fn a_name_without_an_address_is_not_waited_for_as_a_booting_host_is() {
    let server = Server::new();
    let target = Target {
        // RFC 6761: it never has one.
        address: "typo.invalid".into(),
        ..server.target()
    };
    let pool = server.pool(server.credentials());
    let error = pool.new_connection(&target).await.unwrap_err();
    assert_eq!(error.kind, ConnectionErrorKind::UnknownName);
    assert!(error.help.unwrap().contains("spelling"));
}

#[tokio::test]
async fn no_file_stands_in_for_one_that_is_not_known_yet() {
    let server = Server::new();
    let credentials = Credentials {
        host_key_checking: HostKeyChecking::AcceptNew,
        private_key: None,
        unknown: vec![KNOWN_HOSTS_FILE, "private_key"],
        ..server.credentials()
    };
    let pool = server.pool(credentials);
    let target = Target {
        host_key: None,
        ..server.target()
    };
    for (target, kind) in [
        (target, ConnectionErrorKind::HostKeyUnknown),
        (server.target(), ConnectionErrorKind::AuthenticationRefused),
    ] {
        let error = pool.get(&target, None).await.unwrap_err();
        assert_eq!(error.kind, kind);
        let help = error.help.unwrap();
        for part in [
            "leaves out: known_hosts_file, private_key",
            "-refresh=false",
        ] {
            assert!(help.contains(part), "{help}");
        }
    }
    assert!(!server.path("known_hosts").exists());
}
