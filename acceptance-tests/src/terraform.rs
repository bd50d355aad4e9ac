//! Terraform, run by the operator, with the provider that was just built.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    command::{Output, Process, run},
    namespace::Namespace,
};

/// How long a run may take.
const DEADLINE: Duration = Duration::from_mins(10);

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
        let terraform = Self {
            folder,
            namespace: namespace.clone(),
            environment: Vec::new(),
        };
        terraform.use_provider(provider)?;
        Ok(terraform)
    }

    /// Takes another build of the provider from now on.
    pub fn use_provider(&self, provider: &Path) -> Result<()> {
        let binaries = provider
            .parent()
            .context("the provider's binary is in no folder")?;
        let settings = format!(
            "provider_installation {{\n  dev_overrides {{\n    \"nspawn/nspawn\" = \"{}\"\n  }}\n  direct {{}}\n}}\n",
            binaries.display()
        );
        self.write("terraform.rc", &settings)
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

    /// Returns the configuration.
    pub fn configuration(&self) -> Result<String> {
        let file = self.folder().join("main.tf");
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
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
        let found = self.resources()?.into_iter();
        found
            .map(|mut resource| (resource["address"] == address).then(|| resource["values"].take()))
            .find_map(|values| values)
            .ok_or_else(|| anyhow!("{address} is not in the state"))
    }

    /// Returns the addresses of the resources in the state's root module, each with whether it is tainted.
    pub fn resources_and_taints(&self) -> Result<Vec<(String, bool)>> {
        let told = self.resources()?.into_iter().map(|resource| {
            let address = resource["address"].as_str().unwrap_or_default();
            (address.to_owned(), resource["tainted"] == true)
        });
        Ok(told.collect())
    }

    fn resources(&self) -> Result<Vec<Value>> {
        let mut state = self.state()?;
        let resources = state["values"]["root_module"]["resources"].take();
        Ok(serde_json::from_value::<Option<_>>(resources)?.unwrap_or_default())
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

    /// Runs terraform to its end, which may take as long as a test needs that has hundreds of resources.
    pub fn run_within(&self, arguments: &[&str], deadline: Duration) -> Result<String> {
        let output = run(&mut self.command(arguments), deadline)?;
        output.checked()
    }

    /// Starts terraform with environment variables of this run alone.
    pub fn start_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Process> {
        Process::spawn(self.command(arguments).envs(environment.iter().copied()))
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
