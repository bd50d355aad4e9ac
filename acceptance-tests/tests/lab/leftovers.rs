//! A lab leaves nothing, however it ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Child, Command, Stdio},
};

use acceptance_tests::{Hosts, Lab, cache, instance::Instance, namespace::Namespace};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_panic_leaves_nothing() -> Result<()> {
    let mut id = String::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::start(Hosts::one()).expect("the lab starts");
        lab.id().clone_into(&mut id);
        panic!("a test that fails");
    }));
    assert!(panicked.is_err());
    nothing_is_left(&id)
}

#[test]
fn ctrl_c_leaves_nothing() -> Result<()> {
    let (mut lab, id) = lab_up()?;
    signal(&lab, Signal::INT)?;
    assert_eq!(lab.wait()?.code(), Some(130));
    nothing_is_left(&id)
}

#[test]
fn what_a_killed_lab_has_left_is_removed_by_the_next() -> Result<()> {
    let (mut killed, id) = lab_up()?;
    // Another test's lab would remove it before it is looked at.
    let registry = cache::lock(Path::new("/run/nspawn-lab/.lock"))?;
    signal(&killed, Signal::KILL)?;
    killed.wait()?;
    assert!(
        nothing_is_left(&id).is_err(),
        "a killed lab can't clean up after itself"
    );
    drop(registry);
    Instance::remove_leftovers()?;
    nothing_is_left(&id)
}

fn lab_up() -> Result<(Child, String)> {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_lab"))
        .arg("up")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut id = None;
    for line in BufReader::new(lab.stdout.take().context("it is piped")?).lines() {
        let line = line?;
        if let Some(rest) = line.strip_prefix("Lab ") {
            id = rest.split(' ').next().map(str::to_owned);
        }
        if let (Some(id), true) = (&id, line.starts_with("Ctrl-C")) {
            return Ok((lab, id.clone()));
        }
    }
    bail!("`lab up` ended with {}", lab.wait()?)
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("a child has an id")?;
    Ok(kill_process(pid, signal)?)
}

/// Looks for processes, namespaces, mounts, control groups and files of a lab.
fn nothing_is_left(id: &str) -> Result<()> {
    let namespaces = Namespace::with_prefix(&format!("lab-{id}-"));
    ensure!(namespaces.is_empty(), "{namespaces:?}");
    let folder = cache::folder().join("labs").join(id);
    ensure!(!folder.exists(), "{} is there", folder.display());
    let folder = folder.display().to_string();
    ensure!(
        !fs::read_to_string("/proc/mounts")?.contains(&folder),
        "{folder} is mounted"
    );
    for process in fs::read_dir("/proc")?.flatten() {
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        ensure!(
            !arguments.contains(&format!("{folder}/")),
            "{arguments} is running"
        );
        // One that has ended and waits for its parent to notice is no process any more.
        let status = fs::read_to_string(process.path().join("status")).unwrap_or_default();
        if status.contains("State:\tZ") {
            continue;
        }
        let groups = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        ensure!(
            !groups.contains(&format!("/nspawn-lab/{id}/")),
            "{arguments} is running"
        );
    }
    let registered = format!("/run/nspawn-lab/{id}.lab");
    ensure!(!Path::new(&registered).exists(), "{registered} is there");
    Ok(())
}
