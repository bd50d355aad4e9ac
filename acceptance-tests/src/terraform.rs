//! Terraform, run by the operator, with the provider that was just built.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    command::{Output, Process, command, run},
    namespace::Namespace,
};

/// How long a run may take.
const DEADLINE: Duration = Duration::from_mins(5);

/// A working directory with its own state; the program is `NSPAWN_TERRAFORM`, or `terraform`.
#[derive(Debug)]
pub struct Terraform {
    folder: TempDir,
    namespace: Namespace,
    environment: Vec<(String, String)>,
}

impl Terraform {
    /// Makes a working directory below a folder; runs happen in the namespace, with this provider.
    pub fn create(parent: &Path, namespace: &Namespace, provider: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("terraform-")
            .tempdir_in(parent)?;
        let binaries = provider
            .parent()
            .context("the provider's binary is in no folder")?;
        let settings = format!(
            "provider_installation {{\n  dev_overrides {{\n    \"nspawn/nspawn\" = \"{}\"\n  }}\n  direct {{}}\n}}\n",
            binaries.display()
        );
        let terraform = Self {
            folder,
            namespace: namespace.clone(),
            environment: Vec::new(),
        };
        terraform.write("terraform.rc", &settings)?;
        Ok(terraform)
    }

    /// Returns the program: `NSPAWN_TERRAFORM`, or `terraform`.
    pub fn program() -> String {
        std::env::var("NSPAWN_TERRAFORM").unwrap_or_else(|_| "terraform".to_owned())
    }

    /// Returns the working directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into the working directory.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.folder().join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))
    }

    /// Replaces the configuration.
    pub fn configure(&self, configuration: &str) -> Result<()> {
        self.write("main.tf", configuration)
    }

    /// Sets an environment variable for all runs from now on.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Runs `terraform apply`, which has to succeed.
    pub fn apply(&self) -> Result<String> {
        self.run(&["apply", "-auto-approve", "-input=false"])?
            .checked()
    }

    /// Runs `terraform apply`, which has to fail, and returns what it printed.
    pub fn apply_fails(&self) -> Result<String> {
        self.fails(&["apply", "-auto-approve", "-input=false"])
    }

    /// Runs `terraform plan`, which has to fail, and returns what it printed.
    pub fn plan_fails(&self) -> Result<String> {
        self.fails(&["plan", "-input=false"])
    }

    /// Runs `terraform plan` and returns what it printed.
    pub fn plan(&self) -> Result<String> {
        self.run(&["plan", "-input=false"])?.checked()
    }

    /// Fails with the plan when there is something to change.
    pub fn assert_plan_is_empty(&self) -> Result<()> {
        let output = self.run(&["plan", "-input=false", "-detailed-exitcode"])?;
        if output.status.code() == Some(2) {
            bail!("the plan is not empty:\n{}{}", output.stdout, output.stderr);
        }
        output.checked().map(drop)
    }

    /// Runs `terraform destroy`, which has to succeed.
    pub fn destroy(&self) -> Result<String> {
        self.run(&["destroy", "-auto-approve", "-input=false"])?
            .checked()
    }

    /// Runs `terraform import`.
    pub fn import(&self, resource: &str, id: &str) -> Result<String> {
        self.run(&["import", "-input=false", resource, id])?
            .checked()
    }

    /// Runs `terraform state rm`.
    pub fn forget(&self, resource: &str) -> Result<String> {
        self.run(&["state", "rm", resource])?.checked()
    }

    /// Returns the state as `terraform show -json` tells it.
    pub fn state(&self) -> Result<Value> {
        let text = self.run(&["show", "-json"])?.checked()?;
        serde_json::from_str(&text).context("read what `terraform show -json` printed")
    }

    /// Returns the attributes of one resource of the root module, such as `nspawn_container.web`.
    pub fn resource(&self, address: &str) -> Result<Value> {
        let state = self.state()?;
        state["values"]["root_module"]["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|resource| resource["address"] == address)
            .map(|resource| resource["values"].clone())
            .ok_or_else(|| anyhow!("{address} is not in the state"))
    }

    /// Runs terraform with any arguments to its end, whatever its exit status.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut output = run(&mut self.command(arguments), DEADLINE)?;
        output.stdout = without_notice(&output.stdout);
        Ok(output)
    }

    /// Starts terraform, to be watched, interrupted and waited for.
    pub fn start(&self, arguments: &[&str]) -> Result<Process> {
        Process::spawn(&mut self.command(arguments))
    }

    fn fails(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        if output.success() {
            bail!(
                "`{}` should have failed, but:\n{}",
                output.command,
                output.stdout
            );
        }
        Ok(output.stdout + &output.stderr)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let program = Self::program();
        let mut terraform = self.namespace.command(&program);
        terraform
            .arg(format!("-chdir={}", self.folder().display()))
            .args(without_color(arguments))
            .env("TF_CLI_CONFIG_FILE", self.folder().join("terraform.rc"))
            .env("CHECKPOINT_DISABLE", "1")
            .env("TF_IN_AUTOMATION", "1")
            // Neither the keys nor the known hosts of the person who runs the tests.
            .env("HOME", self.folder())
            .env_remove("SSH_AUTH_SOCK")
            .env_remove("TF_LOG")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        terraform
    }
}

/// Leaves out Terraform's own warning about `dev_overrides`, so that a test sees the provider's.
fn without_notice(text: &str) -> String {
    const START: &str = "\nWarning: Provider development overrides are in effect";
    const END: &str = "releases.\n";
    let found = text.split_once(START).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some(format!("{before}{after}"))
    });
    found.unwrap_or_else(|| text.to_owned())
}

/// Puts -no-color where flags have to be: after the subcommand and before resources and ids.
fn without_color<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut words = arguments.to_vec();
    let knows = ["apply", "plan", "destroy", "import", "show", "validate"];
    if words.first().is_some_and(|first| knows.contains(first)) {
        words.insert(1, "-no-color");
    }
    words
}

/// Returns the provider's binary: `NSPAWN_PROVIDER_BINARY`, or what `cargo build` makes of this checkout.
pub fn provider_binary() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| find_or_build().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!(error))
}

fn find_or_build() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("NSPAWN_PROVIDER_BINARY") {
        let path = PathBuf::from(path);
        return path
            .canonicalize()
            .with_context(|| format!("NSPAWN_PROVIDER_BINARY: {}", path.display()));
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let words = [
        "build",
        "--locked",
        "-p",
        "terraform-provider-nspawn",
        "--message-format=json-render-diagnostics",
    ];
    let output = run(
        command("cargo", words).current_dir(workspace),
        Duration::from_mins(15),
    )?;
    output
        .checked()?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "terraform-provider-nspawn")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo has built no terraform-provider-nspawn")
}
