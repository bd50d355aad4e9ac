//! Debian packages that the host needs.

use std::{path::Path, time::Duration};

use protocol::{Failure, FailureKind, desired::Host};
use tokio::time::{Instant, sleep};

use crate::{command::Program, context::Context, system::files};

/// What every host needs.
pub const BASE: &[&str] = &["systemd-container", "nftables"];

/// Installs what is missing of these packages.
pub async fn ensure(context: &Context, packages: &[&str]) -> Result<(), Failure> {
    let may_install = context
        .store
        .get::<Host>("host")?
        .is_none_or(|stored| stored.desired.install_packages);
    ensure_with(context, packages, may_install).await
}

/// The same, where the host's desired state is not written yet.
pub async fn ensure_with(
    context: &Context,
    packages: &[&str],
    may_install: bool,
) -> Result<(), Failure> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !may_install {
        return Err(Failure::new(
            FailureKind::Unsupported,
            format!("the host lacks the packages {list}, and install_packages is false"),
        )
        .help(format!(
            "Run on the host: apt-get install --no-install-recommends {list}"
        ))
        .at("install_packages"));
    }
    context.progress(format!("installing {list}"));
    if install(context, &missing).await.is_err() {
        // The lists may be older than the archive.
        unlocked(context, RETRY, || apt().args(["update", "-qq"])).await?;
        install(context, &missing).await.map_err(|failure| {
            Failure::new(FailureKind::Command, failure.message).help(format!(
                "Check the host's APT sources, or run on it: apt-get install --no-install-recommends {list}"
            ))
        })?;
    }
    context.progress(format!("installed {list}"));
    Ok(())
}

/// How long another apt may have what this one needs, such as the one that a new server begins with.
const PATIENCE: Duration = Duration::from_mins(2);

/// How often it is tried again meanwhile.
const RETRY: Duration = Duration::from_secs(2);

/// Runs apt until nobody else has a lock that it needs: DPkg::Lock::Timeout is about dpkg's own, and not about those of
/// the lists and archives.
async fn unlocked(
    context: &Context,
    retry: Duration,
    program: impl Fn() -> Program,
) -> Result<(), Failure> {
    let end = Instant::now() + PATIENCE;
    loop {
        match program().run(context).await {
            Err(failure) if is_locked(&failure.message) && Instant::now() < end => {
                context.progress("waiting for another apt to end");
                let pause = async {
                    sleep(retry).await;
                    Ok(())
                };
                context.within(pause).await?;
            }
            run => return run.map(drop),
        }
    }
}

fn is_locked(complaint: &str) -> bool {
    complaint.contains("Could not get lock") || complaint.contains("Unable to lock")
}

fn apt() -> Program {
    Program::new("apt-get")
        .through_proxy()
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_MODE", "l")
        .args(["-o", "DPkg::Lock::Timeout=120"])
}

async fn install(context: &Context, packages: &[&str]) -> Result<(), Failure> {
    let program = || {
        apt()
            .args([
                "install",
                "-y",
                "-qq",
                "--no-install-recommends",
                "--no-remove",
            ])
            // Nobody is there to be asked about a file that the administrator has changed. dpkg(1)
            .args(["-o", "Dpkg::Options::=--force-confdef"])
            .args(["-o", "Dpkg::Options::=--force-confold"])
            .args(packages)
            // dpkg in the middle of a package would have to be told to go on by a person. The next one waits for its
            // lock; apt waits for none of the lists, so that an update must not go on.
            .outliving()
    };
    unlocked(context, RETRY, program).await
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>, Failure> {
    let status = files::read(Path::new("/var/lib/dpkg/status"))?.ok_or_else(|| {
        Failure::new(
            FailureKind::Unsupported,
            "this host has no dpkg database: it is not a Debian system",
        )
        .help("Use Debian 12 or 13, or Ubuntu 24.04 or later.")
    })?;
    let installed = installed(&String::from_utf8_lossy(&status));
    Ok(packages
        .iter()
        .copied()
        .filter(|package| !installed.iter().any(|name| name == package))
        .collect())
}

/// The names of the packages that dpkg's status file calls installed.
fn installed(status: &str) -> Vec<String> {
    status
        .split("\n\n")
        .filter(|paragraph| {
            paragraph
                .lines()
                .any(|line| line.starts_with("Status: ") && line.ends_with(" ok installed"))
        })
        .filter_map(|paragraph| {
            paragraph
                .lines()
                .find_map(|line| line.strip_prefix("Package: "))
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test(flavor = "current_thread")]
    async fn a_lock_of_another_apt_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let script = "cat \"$0\" > /dev/null 2>&1 && exit 0; echo x > \"$0\"; \
                      echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1 (apt-get)' >&2; exit 100";
        let locked = || {
            Program::new("sh")
                .args(["-c", script])
                .arg(folder.path().join("ran"))
        };
        let broken = || Program::new("sh").args(["-c", "echo 'E: no network' >&2; exit 100"]);
        testing::within(Duration::from_secs(20), async |context| {
            let retry = Duration::from_millis(1);
            unlocked(&context, retry, locked).await.unwrap();
            let failure = unlocked(&context, retry, broken).await.unwrap_err();
            assert!(failure.message.contains("no network"), "{failure}");
        })
        .await;
    }

    #[test]
    fn only_what_is_installed_counts() {
        let status = "Package: nftables\nStatus: install ok installed\n\n\
                      Package: debootstrap\nStatus: deinstall ok config-files\n\n\
                      Package: systemd-container\nStatus: hold ok installed\n";
        assert_eq!(installed(status), ["nftables", "systemd-container"]);
    }
}
