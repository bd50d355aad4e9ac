//! Files of ours: who may write and who may read them.

use acceptance_tests::{Lab, promise::Cases};
use anyhow::{Result, ensure};

/// Everything that we make on a host; guests' and images' own files are theirs.
const OURS: &str = "/usr/local/lib/nspawn-agent /etc/nspawn-agent /etc/systemd/nspawn /etc/systemd/system \
    /etc/systemd/network /etc/sysctl.d /etc/modules-load.d /etc/dbus-1/system.d /run/nspawn-agent /var/lib/machines";

/// Tries the case on a host with a running container "good" that has a password.
pub fn cases(cases: &mut Cases, lab: &Lab) {
    cases.case(
        "nothing of ours may others write, nor read what is secret",
        || nothing_is_others(lab),
    );
}

fn nothing_is_others(lab: &Lab) -> Result<()> {
    let vps = lab.vps1();
    let writable = vps.root(&format!(
        "find {OURS} -xdev ! -type l -perm /022; find /var/lib/nspawn-agent -maxdepth 2 ! -type l -perm /022"
    ))?;
    ensure!(writable.is_empty(), "others may write:\n{writable}");
    let seen =
        vps.root("ls /etc/nspawn-agent/secrets /var/lib/nspawn-agent /var/lib/machines/good")?;
    ensure!(seen.contains("good"), "there is something to read: {seen}");
    for path in [
        "/etc/nspawn-agent",
        "/etc/nspawn-agent/secrets/good.*",
        "/etc/nspawn-agent/containers/good.json",
        "/etc/systemd/nspawn/good.nspawn",
        "/var/lib/nspawn-agent",
        "/var/lib/nspawn-agent/images",
        "/var/lib/machines/good/etc/passwd",
        "/run/nspawn-agent/started/good",
        "/run/nspawn-agent/sessions",
    ] {
        let test = format!("setpriv --reuid=65534 --regid=65534 --clear-groups test -r {path}");
        let readable = vps.root(&format!("test -e {path}; if {test}; then echo yes; fi"))?;
        ensure!(readable.is_empty(), "nobody may read {path}");
    }
    let modes = vps.root(
        "stat -c %a /etc/nspawn-agent/secrets/good.* /etc/nspawn-agent/containers/good.json",
    )?;
    ensure!(modes == "600\n600\n", "{modes}");
    Ok(())
}
