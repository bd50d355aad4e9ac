//! The example provider under real Terraform.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use support::provider_binary;
use tempfile::TempDir;

/// A folder with a configuration, its state, the notes, and Terraform's own settings.
struct Workspace(TempDir);

impl Workspace {
    fn new(resources: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("plugins")).unwrap();
        std::fs::create_dir(path("notes")).unwrap();
        let binary = path("plugins").join("terraform-provider-notes");
        std::os::unix::fs::symlink(provider_binary(), binary).unwrap();
        let settings = format!(
            "provider_installation {{\n dev_overrides {{\n \"example/notes\" = \"{}\"\n }}\n direct {{}}\n}}\n",
            path("plugins").display()
        );
        std::fs::write(path("terraform.rc"), settings).unwrap();
        let workspace = Self(folder);
        workspace.configure(resources);
        workspace
    }

    fn configure(&self, resources: &str) {
        let notes = self.0.path().join("notes");
        let text = format!(
            "terraform {{\n required_providers {{\n notes = {{ source = \"example/notes\" }}\n }}\n}}\n\
             provider \"notes\" {{\n folder = \"{}\"\n}}\n{resources}",
            notes.display()
        );
        std::fs::write(self.0.path().join("main.tf"), text).unwrap();
    }

    fn note(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join("notes").join(format!("{name}.note"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("terraform");
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env("TF_CLI_CONFIG_FILE", self.0.path().join("terraform.rc"))
            .env("CHECKPOINT_DISABLE", "1")
            .env("TF_CLI_ARGS", "-no-color")
            .env_remove("TF_LOG")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(arguments).output().unwrap();
        let text = [stdout, stderr].concat();
        // Terraform breaks lines and draws a rule beside them.
        let text = String::from_utf8_lossy(&text).replace(['│', '╷', '╵'], " ");
        (
            status.code(),
            text.split_whitespace().collect::<Vec<_>>().join(" "),
        )
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let (status, text) = self.run(arguments);
        assert_eq!(status, Some(0), "{arguments:?}: {text}");
        text
    }

    fn assert_empty_plan(&self) {
        let (status, text) = self.run(&["plan", "-detailed-exitcode"]);
        assert_eq!(status, Some(0), "the plan isn't empty: {text}");
    }
}

const APPLY: &[&str] = &["apply", "-auto-approve"];

#[test]
fn notes_are_applied_planned_empty_changed_replaced_and_destroyed() {
    let config = r#"
resource "notes_shelf" "s" {
  address = "there"
}
resource "notes_note" "a" {
  name        = "a"
  text        = "one"
  shelf       = notes_shelf.s
  size        = "2K"
  labels      = { plain = {}, heavy = { color = "blue", weight = 0.3 } }
  pages       = [{}, { stamp = "mine" }]
  lines       = ["x", notes_shelf.s.id]
  sections    = { Network = { Port = ["1", "2"] } }
  password_wo = "geheim"
  timeouts    = { create = "1m30s" }
}
resource "notes_note" "b" {
  name  = "b"
  text  = notes_note.a.id
  shelf = { address = notes_note.a.id, port = 2222 }
}
data "notes_note" "a" {
  name = notes_note.a.name
}
output "text" {
  value = data.notes_note.a.text
}
"#;
    let workspace = Workspace::new(config);
    workspace.succeed(APPLY);
    workspace.assert_empty_plan();
    assert_eq!(std::fs::read_to_string(workspace.note("a")).unwrap(), "one");
    let state = std::fs::read_to_string(workspace.0.path().join("terraform.tfstate")).unwrap();
    assert!(
        !state.contains("geheim"),
        "the write-only value is in the state"
    );

    workspace.configure(&config.replace("\"one\"", "\"two\""));
    let text = workspace.succeed(APPLY);
    assert!(text.contains("0 added, 1 changed, 0 destroyed"), "{text}");
    assert!(
        text.contains("is rewritten"),
        "the plan hook's warning is missing: {text}"
    );
    workspace.assert_empty_plan();

    workspace.configure(&config.replace("name        = \"a\"", "name        = \"c\""));
    let text = workspace.succeed(&["plan"]);
    assert!(text.contains("notes_note.a must be replaced"), "{text}");
    workspace.succeed(APPLY);
    workspace.assert_empty_plan();

    workspace.succeed(&["destroy", "-auto-approve"]);
    assert!(!workspace.note("c").exists() && !workspace.note("b").exists());
}

#[test]
fn a_note_is_imported_and_drift_is_mended() {
    let workspace =
        Workspace::new("resource \"notes_note\" \"a\" {\n name = \"a\"\n text = \"t\"\n}\n");
    workspace.succeed(APPLY);
    workspace.succeed(&["state", "rm", "notes_note.a"]);
    workspace.succeed(&["import", "notes_note.a", "a"]);
    workspace.assert_empty_plan();

    std::fs::write(workspace.note("a"), "other").unwrap();
    let text = workspace.succeed(&["plan"]);
    assert!(text.contains("- \"the text was changed\""), "{text}");
    workspace.succeed(APPLY);
    workspace.assert_empty_plan();

    std::fs::remove_file(workspace.note("a")).unwrap();
    let text = workspace.succeed(APPLY);
    assert!(text.contains("1 added, 0 changed"), "{text}");
}

#[test]
fn mistakes_are_told_with_the_attributes_name() {
    let workspace = Workspace::new(
        "resource \"notes_note\" \"a\" {\n name = \"a\"\n size = \"12 potatoes\"\n content = \"x\"\n \
         shelf = { address = \"x\", port = 0 }\n}\n",
    );
    let (status, text) = workspace.run(&["plan"]);
    assert_eq!(status, Some(1));
    assert!(
        text.contains("size: \"12 potatoes\" is not a size such as \"2K\""),
        "{text}"
    );
    assert!(
        text.contains("shelf.port: 0 is not between 1 and 65535"),
        "{text}"
    );
    assert!(
        text.contains("content is deprecated") && text.contains("Use text instead."),
        "{text}"
    );
}

#[test]
fn a_kept_note_is_not_destroyed() {
    let workspace =
        Workspace::new("resource \"notes_note\" \"a\" {\n name = \"a\"\n keep = true\n}\n");
    workspace.succeed(APPLY);
    let (status, text) = workspace.run(&["destroy", "-auto-approve"]);
    assert_eq!(status, Some(1));
    assert!(text.contains("Set keep to false first"), "{text}");
    assert!(workspace.note("a").exists());
}

#[test]
fn a_tainted_note_whose_destroy_fails_keeps_its_private_part() {
    for name in ["fail-delete", "panic-delete"] {
        let note =
            |name: &str| format!("resource \"notes_note\" \"a\" {{\n name = \"{name}\"\n}}\n");
        let workspace = Workspace::new(&note(name));
        workspace.succeed(APPLY);
        workspace.succeed(&["taint", "notes_note.a"]);
        // Terraform plans a replacement under another name with nothing of what is replaced.
        workspace.configure(&note("b"));
        let (status, text) = workspace.run(APPLY);
        assert_eq!(status, Some(1), "{text}");
        let state = std::fs::read_to_string(workspace.0.path().join("terraform.tfstate")).unwrap();
        // {"token":"secret token"}
        let private = "\"private\": \"eyJ0b2tlbiI6InNlY3JldCB0b2tlbiJ9\"";
        assert!(state.contains(private), "{name}: {state}");
        assert!(state.contains("\"status\": \"tainted\""), "{name}: {state}");
    }
}

#[test]
fn ctrl_c_during_a_create_leaves_a_tainted_resource_in_the_state() {
    let workspace =
        Workspace::new("resource \"notes_note\" \"a\" {\n name = \"a\"\n text = \"slow\"\n}\n");
    let mut child = workspace
        .command(APPLY)
        .env("TF_LOG", "info")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let waiting = log
        .find(|line| line.contains("waiting to be cancelled"))
        .unwrap();
    assert!(
        waiting.contains("[INFO]"),
        "the provider's level is lost: {waiting}"
    );
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let rest: Vec<String> = log.collect();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(
        rest.iter().any(|line| line.contains("Interrupted")),
        "{rest:#?}"
    );
    let text = workspace.succeed(&["state", "show", "notes_note.a"]);
    assert!(text.contains("# notes_note.a: (tainted)"), "{text}");
}

#[test]
fn every_attribute_is_described_in_the_schema() {
    let workspace = Workspace::new("");
    let output = workspace
        .command(&["providers", "schema", "-json"])
        .output()
        .unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let provider = &schema["provider_schemas"]["registry.terraform.io/example/notes"];
    let note = &provider["resource_schemas"]["notes_note"]["block"]["attributes"];
    assert_eq!(
        note["shelf"]["nested_type"]["attributes"]["port"]["description"],
        "Its port."
    );
    assert_eq!(note["password_wo"]["write_only"], true);
}
