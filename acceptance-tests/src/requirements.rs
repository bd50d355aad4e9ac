//! What the machine must have, said at once rather than when it is first missed.

use std::path::Path;

use anyhow::{Result, bail};

/// Each program and the Debian package that has it.
const PROGRAMS: [(&str, &str); 14] = [
    ("debootstrap", "debootstrap"),
    ("gpg", "gnupg"),
    ("ip", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mount", "mount"),
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

fn missing_packages() -> Vec<&'static str> {
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
            "packages are missing: run `apt-get install {}`",
            missing.join(" ")
        );
    }
    Ok(())
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| Path::new(&folder).join(program).exists())
}
