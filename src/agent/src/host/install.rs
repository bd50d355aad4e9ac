//! The agent on the host: its folder, its service, and what it asks of systemd for the host.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use protocol::{Failure, FailureKind};

use super::{
    in_force::{self, InForce},
    program,
};
use crate::{
    command::Program,
    context::Context,
    failure::Context as _,
    system::{
        files::{self, HEADER},
        journal,
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
/// How often the service is looked at while it takes up another binary.
const TAKE_UP_INTERVAL: Duration = Duration::from_millis(20);
/// How long it may run another one than the one in force, which an upgrade tells it a moment later.
const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(5);
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants/nspawn-agent.service";

/// How the service ends when it is told to: as a shell shows SIGTERM.
pub const STOPPED: i32 = 143;

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
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={BINARY} resident
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
# A stray signal doesn't end it for good; `systemctl stop` does. Nor does a reload that comes before it listens to that.
RestartForceExitStatus={STOPPED} SIGHUP
SuccessExitStatus={STOPPED}
RestartSec=300ms
TimeoutStartSec=5min
OOMScoreAdjust=-900
Slice=system.slice

[Install]
WantedBy=multi-user.target
"
    )
}

/// Whether the service doesn't start with the host.
pub fn is_disabled() -> bool {
    fs::symlink_metadata(WANTS).is_err()
}

/// The running program, where it was uploaded to; none elsewhere, as in tests.
pub(super) fn uploaded() -> Option<PathBuf> {
    let this = without_end(&env::current_exe().ok()?);
    (this.parent() == Some(Path::new(FOLDER))).then_some(this)
}

/// A program's path without what the kernel adds where the file was removed since. proc_pid_exe(5)
fn without_end(program: &Path) -> PathBuf {
    let text = program.to_string_lossy();
    PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(&text))
}

/// Whether units don't find the agent, neither this one nor a newer, as it was uploaded.
pub fn is_without_program() -> bool {
    uploaded().is_some() && !program::is_whole_behind(Path::new(BINARY), Path::new(FOLDER))
}

/// The folders of ours in which others than root may make and remove files, with the modes that they are made with:
/// whoever may, has a way in.
pub fn open_folders(context: &Context) -> Vec<(PathBuf, u32)> {
    let folders = [(Path::new(FOLDER), 0o755), (context.store.folder(), 0o700)];
    let is_open = |folder: &Path| {
        fs::metadata(folder).is_ok_and(|found| found.is_dir() && files::is_open_to_others(&found))
    };
    folders
        .into_iter()
        .filter(|(folder, _)| is_open(folder))
        .map(|(folder, mode)| (folder.to_owned(), mode))
        .collect()
}

/// Puts the running program back to where units find it.
pub fn put_back_program() -> Result<(), Failure> {
    let Some(this) = uploaded() else {
        return Ok(());
    };
    if !program::is_whole(&this) {
        let name = this.file_name().unwrap_or_default().to_string_lossy();
        let program = program::running(&name)?;
        files::create_folder(Path::new(FOLDER), 0o755)?;
        files::replace(&this, &program, 0o755)?;
    }
    link(&this)
}

/// The files of the service to watch.
pub fn watched() -> Vec<PathBuf> {
    let mut watched = vec![PathBuf::from(WANTS), PathBuf::from(BINARY)];
    watched.extend(uploaded());
    watched
}

/// Whether the units run this very binary; so it is taken where it runs from elsewhere, as in a test.
pub fn is_in_force() -> bool {
    uploaded().is_none_or(|this| is_target(&this))
}

fn is_target(this: &Path) -> bool {
    target().is_some_and(|target| target == this)
}

fn target() -> Option<PathBuf> {
    let target = fs::read_link(BINARY).ok()?;
    Some(Path::new(FOLDER).join(target))
}

/// The program that units run; none where this runs from elsewhere, as in a test.
pub(super) fn in_force() -> Option<PathBuf> {
    uploaded().and_then(|_| target())
}

/// Makes this very binary the one in force.
pub fn switch(context: &Context) -> Result<(), Failure> {
    let Some(this) = uploaded() else {
        return Ok(());
    };
    if in_force::of_host(context)? == Some(InForce::This) && program::is_whole(&this) {
        return Ok(());
    }
    in_force::record(context)?;
    // Another build that took over while this one is connected has removed its file.
    if !is_target(&this) || !program::is_whole(&this) {
        put_back_program()?;
    }
    // Also of a switch that was killed.
    remove_others(&this)
}

/// Lets units find this program.
fn link(program: &Path) -> Result<(), Failure> {
    let deed = || format!("make {} the agent in force", program.display());
    let temporary = format!("{BINARY}.new");
    files::remove_file(Path::new(&temporary))?;
    let name = PathBuf::from(program.file_name().unwrap_or_default());
    files::make_link(&name, Path::new(&temporary)).doing(deed)?;
    files::rename(Path::new(&temporary), Path::new(BINARY)).doing(deed)?;
    files::sync_parent(Path::new(BINARY))
}

/// Removes this binary from a host that another one is in force on, and that it may not speak for.
pub fn withdraw() -> Result<(), Failure> {
    match uploaded() {
        Some(this) if !is_target(&this) => files::remove_file(&this),
        _ => Ok(()),
    }
}

/// Removes earlier versions, of which running ones keep their file until they end, and what uploads left when
/// the power was cut.
fn remove_others(this: &Path) -> Result<(), Failure> {
    let entries = fs::read_dir(FOLDER).doing(|| format!("list {FOLDER}"))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_version = program::promised(&name.to_string_lossy()).is_some();
        let is_upload = name.to_string_lossy().starts_with(".upload-")
            && entry
                .metadata()
                .is_ok_and(|found| is_of_an_earlier_boot(&found));
        if is_upload || (is_version && entry.path() != this) {
            files::remove_file(&entry.path())?;
        }
    }
    Ok(())
}

fn is_of_an_earlier_boot(file: &fs::Metadata) -> bool {
    let boot = SystemTime::now().checked_sub(super::pending::clock());
    let changed = file.modified().ok();
    changed
        .zip(boot)
        .is_some_and(|(changed, boot)| changed < boot)
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
        match files::make_link(Path::new(UNIT_PATH), wants) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.doing(|| format!("enable {UNIT}"))?,
        }
        files::sync_parent(wants)?;
    }
    Systemd::of_host(context).await?.reload().await
}

/// What the resident service holds for as long as it runs.
pub fn presence(context: &Context) -> PathBuf {
    context.run_folder.join("resident")
}

/// The program of the service's process, while it has one; its name tells its content.
pub(super) async fn running(systemd: &Systemd) -> Result<Option<PathBuf>, Failure> {
    let process = systemd.main_process(UNIT).await?;
    let program = fs::read_link(format!("/proc/{process}/exe")).ok();
    Ok(program.map(|program| without_end(&program)))
}

/// Whether the service's process is the program in force; it is taken so where this runs from elsewhere, as in a test.
pub(super) async fn is_taken_up(systemd: &Systemd) -> Result<bool, Failure> {
    match in_force() {
        Some(program) => Ok(running(systemd).await? == Some(program)),
        None => Ok(true),
    }
}

/// Whether the service is still another program than the one in force: whoever put that in force was killed before the
/// service was told. Looked at for as long as it may take to become this one.
pub async fn is_left_behind(context: &Context) -> Result<bool, Failure> {
    let systemd = Systemd::of_host(context).await?;
    let until = tokio::time::Instant::now() + LEFT_BEHIND_AFTER;
    while service_state(context).await == "active" && !is_taken_up(&systemd).await? {
        if tokio::time::Instant::now() > until {
            return Ok(true);
        }
        tokio::time::sleep(TAKE_UP_INTERVAL).await;
    }
    Ok(false)
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
                journal::last_lines_of_failed(&systemd, UNIT, context.deadline).await
            ),
        )
        .help(format!("Look at the host's journal: journalctl -u {UNIT}"))),
    }
}

/// SIGHUP: the resident takes up the binary in force without a restart, which would reach the guests.
pub(super) async fn reload(context: &Context) -> Result<(), Failure> {
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

/// Waits until the running service is the binary in force: until then, it writes files as another one does.
pub async fn taken_up(context: &Context) -> Result<(), Failure> {
    let systemd = Systemd::of_host(context).await?;
    while !is_taken_up(&systemd).await? {
        context.check()?;
        // The kernel tells nobody of an exec(2).
        tokio::time::sleep(TAKE_UP_INTERVAL).await;
    }
    Ok(())
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
    // Without its program, which goes next, a power cut must not bring it back.
    files::remove_for_good(Path::new(WANTS))?;
    files::remove_own_for_good(Path::new(UNIT_PATH))?;
    Systemd::of_host(context).await?.reload().await
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

pub(super) fn time_left(context: &Context) -> std::time::Duration {
    context
        .deadline
        .saturating_duration_since(tokio::time::Instant::now())
}
