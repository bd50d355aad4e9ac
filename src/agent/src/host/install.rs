//! The agent on the host: its folder, its service, and what it asks of systemd for the host.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use protocol::{Failure, FailureKind, desired::Host};

use crate::{
    command::Program,
    context::Context,
    failure::Context as _,
    system::{
        files::{self, HEADER},
        systemd::{JobEnd, Systemd},
    },
};

/// Where the provider puts the agent.
pub const FOLDER: &str = "/usr/local/lib/nspawn-agent";
/// The name by which units call the agent in force.
pub const BINARY: &str = "/usr/local/lib/nspawn-agent/nspawn-agent";
/// The agent's service.
pub const UNIT: &str = "nspawn-agent.service";
/// Its file.
pub const UNIT_PATH: &str = "/etc/systemd/system/nspawn-agent.service";
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants/nspawn-agent.service";

/// The agent's service. The containers' units are ordered after it one by one, because
/// systemd-nspawn@.service itself is before machines.target.
pub fn unit() -> String {
    format!(
        "{HEADER}[Unit]
Description=Restores and keeps containers and their public addresses
Documentation=https://github.com/terraform-provider-nspawn/terraform-provider-nspawn
After=local-fs.target systemd-sysctl.service systemd-modules-load.service dbus.service network-pre.target
Wants=dbus.service
Before=machines.target

[Service]
Type=notify
ExecStart={BINARY} resident
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=1s
TimeoutStartSec=5min
OOMScoreAdjust=-900
Slice=system.slice

[Install]
WantedBy=multi-user.target
"
    )
}

/// Makes this very binary the one in force.
pub fn switch() -> Result<(), Failure> {
    let this = env::current_exe().doing(|| "find the agent's own file")?;
    if this.parent() != Some(Path::new(FOLDER)) || this == Path::new(BINARY) {
        return Ok(());
    }
    let deed = || format!("make {} the agent in force", this.display());
    if fs::read_link(BINARY).is_ok_and(|target| Path::new(FOLDER).join(target) == this) {
        return Ok(());
    }
    let temporary = format!("{BINARY}.new");
    files::remove_file(Path::new(&temporary))?;
    let name = PathBuf::from(this.file_name().unwrap_or_default());
    symlink(name, &temporary).doing(deed)?;
    fs::rename(&temporary, BINARY).doing(deed)?;
    remove_others(&this)
}

/// Removes earlier versions; running ones keep their file until they end.
fn remove_others(this: &Path) -> Result<(), Failure> {
    let entries = fs::read_dir(FOLDER).doing(|| format!("list {FOLDER}"))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_version = name
            .to_string_lossy()
            .strip_prefix("nspawn-agent-")
            .is_some_and(|hash| {
                hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
        if is_version && entry.path() != this {
            files::remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// Leaves nothing on a machine that is no host of ours: a refresh or a create that failed.
pub fn leave_if_unused(context: &Context) -> Result<(), Failure> {
    if context.store.get::<Host>("host")?.is_some()
        || crate::serve::session::any_alive(&context.run_folder)?
    {
        return Ok(());
    }
    files::remove_tree(&context.run_folder)?;
    let installed = env::current_exe().is_ok_and(|this| this.parent() == Some(Path::new(FOLDER)));
    if installed {
        files::remove_tree(Path::new(FOLDER))?;
    }
    Ok(())
}

/// How the service is, in systemd's words; empty when systemd can't be asked.
pub async fn service_state(context: &Context) -> String {
    let asked = async { Systemd::of_host(context).await?.unit_state(UNIT).await };
    asked.await.map(|state| state.active).unwrap_or_default()
}

/// Lets systemd know the unit, and start it at boot.
pub async fn enable(context: &Context) -> Result<(), Failure> {
    let wants = Path::new(WANTS);
    if fs::symlink_metadata(wants).is_err() {
        if let Some(folder) = wants.parent() {
            files::create_folder(folder, 0o755)?;
        }
        match symlink(UNIT_PATH, wants) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).doing(|| format!("enable {UNIT}"));
            }
            _ => {}
        }
    }
    Systemd::of_host(context).await?.reload().await
}

/// Starts the service, or lets a running one take the binary in force; waits until it is ready.
pub async fn start(context: &Context) -> Result<(), Failure> {
    let systemd = Systemd::of_host(context).await?;
    if service_state(context).await == "active" {
        return reload(context).await;
    }
    systemd.reset_failed(UNIT).await?;
    let job = systemd.start(UNIT).await?;
    match job.end(time_left(context)).await? {
        JobEnd::Done => Ok(()),
        end => Err(Failure::new(
            FailureKind::System,
            format!(
                "{UNIT} did not start ({end:?}): {}",
                last_lines(context).await
            ),
        )
        .help(format!("Look at the host's journal: journalctl -u {UNIT}"))),
    }
}

async fn last_lines(context: &Context) -> String {
    let lines = Program::new("journalctl")
        .args(["-u", UNIT, "-n", "5", "-o", "cat", "--no-pager"])
        .run(context)
        .await;
    lines
        .map(|lines| crate::command::tail(&lines))
        .unwrap_or_default()
}

/// SIGHUP: the resident takes up the binary in force without a restart, which would reach the guests.
async fn reload(context: &Context) -> Result<(), Failure> {
    context
        .bus()
        .await?
        .call_method(
            Some("org.freedesktop.systemd1"),
            "/org/freedesktop/systemd1",
            Some("org.freedesktop.systemd1.Manager"),
            "ReloadUnit",
            &(UNIT, "replace"),
        )
        .await
        .map(drop)
        .doing(|| format!("reload {UNIT}"))
}

/// Stops the service.
pub async fn stop_service(context: &Context) -> Result<(), Failure> {
    let systemd = Systemd::of_host(context).await?;
    if systemd.unit_state(UNIT).await?.is_up() {
        let end = systemd.stop(UNIT).await?.end(time_left(context)).await?;
        if end != JobEnd::Done {
            return Err(Failure::new(
                FailureKind::System,
                format!("{UNIT} did not stop ({end:?})"),
            ));
        }
    }
    systemd.reset_failed(UNIT).await
}

/// Removes the service's files.
pub async fn remove_service(context: &Context) -> Result<(), Failure> {
    files::remove_file(Path::new(WANTS))?;
    let path = Path::new(UNIT_PATH);
    if files::read(path)?.is_some_and(|contents| files::is_ours(&contents)) {
        files::remove_file(path)?;
    }
    Systemd::of_host(context).await?.reload().await
}

/// Stops machine.slice when nothing is left in it: systemd starts it with the first machine, and
/// never stops it by itself. systemd.special(7)
pub async fn stop_empty_slice(context: &Context) -> Result<(), Failure> {
    const SLICE: &str = "machine.slice";
    let Ok(entries) = fs::read_dir(Path::new("/sys/fs/cgroup").join(SLICE)) else {
        return Ok(());
    };
    if entries.flatten().any(|entry| entry.path().is_dir()) {
        return Ok(());
    }
    let job = Systemd::of_host(context).await?.stop(SLICE).await?;
    job.end(time_left(context)).await.map(drop)
}

/// Lets networkd read its files again, where it runs.
pub async fn reload_networkd(context: &Context) -> Result<(), Failure> {
    let bus = context.bus().await?;
    let proxy = zbus::fdo::DBusProxy::new(bus)
        .await
        .doing(|| "reach the system bus")?;
    let name = zbus::names::BusName::try_from("org.freedesktop.network1");
    let running = match name {
        Ok(name) => proxy.name_has_owner(name).await.unwrap_or(false),
        Err(_) => false,
    };
    if !running {
        return Ok(());
    }
    bus.call_method(
        Some("org.freedesktop.network1"),
        "/org/freedesktop/network1",
        Some("org.freedesktop.network1.Manager"),
        "Reload",
        &(),
    )
    .await
    .map(drop)
    .doing(|| "let systemd-networkd read its files")
}

/// Loads a module of the kernel.
pub async fn load_module(context: &Context, name: &str) -> Result<(), Failure> {
    Program::new("modprobe")
        .arg(name)
        .run(context)
        .await
        .map(drop)
}

/// Whether a module is built in without a trace in /sys, or can't be had on this kernel at all:
/// then there is nothing to load, and a guest says what it misses.
pub fn module_is_unavailable(name: &str) -> bool {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let folder = Path::new("/lib/modules").join(release);
    let listed = |file: &str| {
        fs::read_to_string(folder.join(file))
            .is_ok_and(|text| text.contains(&format!("/{name}.ko")))
    };
    listed("modules.builtin") || !listed("modules.dep")
}

fn time_left(context: &Context) -> std::time::Duration {
    context
        .deadline
        .saturating_duration_since(tokio::time::Instant::now())
}
