//! Starting, being let in, and ending.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use support::{Identity, LIMIT, Plugin, environment, errors, object, packed, provider_binary};
use tfplugin::proto;

#[tokio::test]
async fn the_handshake_names_a_private_socket_and_it_is_removed_at_the_end() {
    let mut plugin = Plugin::start();
    let fields = plugin.fields();
    assert_eq!(
        (fields[0], fields[1], fields[2], fields[4]),
        ("1", "6", "unix", "grpc")
    );
    let folder = plugin.socket().parent().unwrap().to_owned();
    assert_eq!(Plugin::mode(&folder), 0o700);

    let _client = plugin.configured().await;
    plugin.shutdown().await;
    assert!(plugin.wait().success());
    assert!(!folder.exists(), "{} is left behind", folder.display());
    let hook = std::fs::read_to_string(plugin.folder.path().join("shutdown")).unwrap();
    assert_eq!(hook, "orderly");
    assert_eq!(plugin.stderr(), "");
}

#[tokio::test]
async fn nobody_else_is_let_in() {
    let plugin = Plugin::start();
    for identity in [None, Some(Identity::new())] {
        // TLS 1.3 tells a client that it is refused only once it reads.
        let answer = match plugin.channel_as(identity.as_ref()).await {
            Err(_) => continue,
            Ok(channel) => {
                let mut client = proto::provider_client::ProviderClient::new(channel);
                client.get_functions(proto::get_functions::Request {}).await
            }
        };
        assert!(
            answer.is_err(),
            "served a client with a certificate of its own or none"
        );
    }
    let answer = plugin
        .client()
        .await
        .get_functions(proto::get_functions::Request {})
        .await;
    answer.unwrap();
}

#[test]
fn started_by_hand_it_says_what_it_is() {
    let output = Command::new(provider_binary())
        .env_remove("TF_PLUGIN_MAGIC_COOKIE")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    assert!(
        text.contains("example/notes 1.2.3: this is a provider for Terraform"),
        "{text}"
    );
}

#[tokio::test]
async fn ctrl_c_is_left_to_terraform() {
    let plugin = Plugin::start();
    let mut client = plugin.configured().await;
    kill_process(Pid::from_child(&plugin.child), Signal::INT).unwrap();
    for _ in 0..3 {
        client
            .get_metadata(proto::get_metadata::Request {})
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn sigterm_ends_it_and_leaves_nothing() {
    let mut plugin = Plugin::start();
    let folder = plugin.socket().parent().unwrap().to_owned();
    kill_process(Pid::from_child(&plugin.child), Signal::TERM).unwrap();
    plugin.wait();
    assert!(!folder.exists());
}

#[test]
fn it_ends_when_terraform_is_gone() {
    // A shell in between is the Terraform that dies.
    let mut plugin = {
        let identity = Identity::new();
        let mut plugin = Plugin::start_with(|command| {
            *command = Command::new("sh");
            environment(command, &identity);
            command.args(["-c", "\"$0\" & echo $! >&2; exec sleep 1000"]);
            command
                .arg(provider_binary())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
        });
        plugin.identity = identity;
        plugin
    };
    let provider = {
        use std::io::BufRead;
        let stderr = plugin.child.stderr.take().unwrap();
        let mut line = String::new();
        std::io::BufReader::new(stderr)
            .read_line(&mut line)
            .unwrap();
        line.trim().parse::<u32>().unwrap()
    };
    let folder = plugin.socket().parent().unwrap().to_owned();
    assert!(folder.exists() && is_running(provider));
    plugin.child.kill().unwrap();
    plugin.child.wait().unwrap();
    let deadline = Instant::now() + LIMIT;
    while is_running(provider) {
        assert!(Instant::now() < deadline, "the provider outlives Terraform");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(!folder.exists());
}

/// Whether a process runs; one that nobody has reaped yet doesn't.
fn is_running(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat"));
    status.is_ok_and(|status| {
        !status
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}

#[tokio::test]
async fn log_lines_are_hclogs() {
    let mut plugin = Plugin::start_with(|command| {
        command.env("TF_LOG", "info");
    });
    let mut client = plugin.configured().await;
    let planned = object(&[("name", "logged".into()), ("text", "x".into())]);
    let request = proto::apply_resource_change::Request {
        type_name: "notes_note".into(),
        config: packed(&planned),
        planned_state: packed(&planned),
        ..Default::default()
    };
    let response = client
        .apply_resource_change(request)
        .await
        .unwrap()
        .into_inner();
    // The plan above left the computed attributes null, which isn't what the provider returns.
    assert!(errors(&response.diagnostics).contains("id"));
    plugin.shutdown().await;
    plugin.wait();
    let stderr = plugin.stderr();
    let lines = stderr
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let written = lines
        .into_iter()
        .find(|line| line["@message"] == "written")
        .unwrap();
    assert_eq!(written["@level"], "info");
    assert_eq!(written["@module"], "notes");
    assert!(written["note"].as_str().unwrap().ends_with("logged.note"));
    let decimals = written["@timestamp"]
        .as_str()
        .unwrap()
        .split(['.', 'Z'])
        .nth(1)
        .unwrap()
        .len();
    assert_eq!(decimals, 6);
}
