//! The builds of the provider that tests try.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use crate::command::{command, run};

/// Returns the provider under test: `NSPAWN_PROVIDER_BINARY`, or what `cargo build` makes of this checkout.
pub fn under_test() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let found = named("NSPAWN_PROVIDER_BINARY");
            let found = found.and_then(|found| found.map_or_else(build, Ok));
            found.map_err(|error| format!("{error:#}"))
        })
        .clone()
        .map_err(|error| anyhow!(error))
}

/// Returns the provider of a later release, for upgrades.
pub fn of_a_later_release() -> Result<PathBuf> {
    built_by("NSPAWN_LATER_PROVIDER_BINARY", "build_later_provider")
}

/// Returns the provider that can be ended at any step, and so can its agent.
pub fn with_fault_points() -> Result<PathBuf> {
    built_by("NSPAWN_FAULT_PROVIDER_BINARY", "build_with_fault_points")
}

/// What scripts/test and scripts/promises build: each build takes the place of another in the target folder.
fn built_by(variable: &str, function: &str) -> Result<PathBuf> {
    named(variable)?.with_context(|| {
        format!("{variable} is not set: `. scripts/common.sh; {function}` builds one and sets it")
    })
}

fn named(variable: &str) -> Result<Option<PathBuf>> {
    std::env::var_os(variable)
        .map(|path| {
            let path = PathBuf::from(path);
            let found = path.canonicalize();
            found.with_context(|| format!("{variable}: {}", path.display()))
        })
        .transpose()
}

fn build() -> Result<PathBuf> {
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
