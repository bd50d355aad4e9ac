//! What the machine must have, said at once rather than when it is first missed.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::command;

/// Each program and the Debian package that has it.
const PROGRAMS: [(&str, &str); 12] = [
    ("debootstrap", "debootstrap"),
    ("gpg", "gnupg"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    ("setpriv", "util-linux"),
    ("ssh", "openssh-client"),
    ("systemctl", "systemd"),
    ("systemd-nspawn", "systemd-container"),
    ("unshare", "util-linux"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// Returns the Debian packages that are missing.
pub fn missing_packages() -> Vec<&'static str> {
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    missing
}

/// Fails with what to do when the machine can't run a lab.
pub fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the lab makes network namespaces and mounts: run it as root (sudo)");
    }
    let missing = missing_packages();
    if !missing.is_empty() {
        bail!(
            "packages are missing: run `apt-get install {}` or `lab setup`",
            missing.join(" ")
        );
    }
    Ok(())
}

/// Installs what is missing with apt, and says so.
pub fn install() -> Result<()> {
    let missing = missing_packages();
    if missing.is_empty() {
        println!("All packages that the lab needs are installed.");
        return Ok(());
    }
    println!("Installing {}", missing.join(" "));
    for words in [
        &["update", "-q"][..],
        &["install", "-q", "-y", "--no-install-recommends"],
    ] {
        let packages: &[&str] = if words[0] == "install" { &missing } else { &[] };
        let status = command("apt-get", words)
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .status()
            .context("run apt-get; the lab needs Debian or a system made from it")?;
        if !status.success() {
            bail!("`apt-get {}` failed ({status})", words[0]);
        }
    }
    Ok(())
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| Path::new(&folder).join(program).exists())
}
