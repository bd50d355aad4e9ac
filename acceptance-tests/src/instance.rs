//! One running lab among others: its name, what belongs to it, and how all of it goes away again.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::{
    fs::{FlockOperation, flock},
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{cache, command::wait_until, limits, namespace::Namespace};

/// Where the running labs are registered, a locked file each.
const REGISTRY: &str = "/run/nspawn-lab";
/// The control group that holds a group for each lab.
const CONTROL_GROUP: &str = "nspawn-lab";

/// A lab that is or was running. What belongs to it is found by its id alone.
#[derive(Debug, Clone)]
pub struct Instance {
    id: String,
    folder: PathBuf,
}

/// Keeps an instance registered; the lock on its file tells others that its owner lives.
#[derive(Debug)]
pub struct Registration {
    /// The instance.
    pub instance: Arc<Instance>,
    _lock: File,
}

impl Instance {
    /// Registers a new instance, after removing those whose owners are gone.
    pub fn register() -> Result<Registration> {
        fs::create_dir_all(REGISTRY).with_context(|| format!("create {REGISTRY}"))?;
        let _registry = cache::lock(&Path::new(REGISTRY).join(".lock"))?;
        Self::remove_dead()?;
        limits::raise()?;
        let labs = cache::folder().join("labs");
        fs::create_dir_all(&labs).with_context(|| format!("create {}", labs.display()))?;
        let id = new_id(Path::new(REGISTRY), &labs)?;
        let folder = labs.join(&id);
        let mut lock = cache::lock(&registered(&id))?;
        writeln!(lock, "{}\n{}", std::process::id(), folder.display())?;
        fs::create_dir(&folder)?;
        let instance = Arc::new(Self { id, folder });
        clean_up_at_signals()?;
        OURS.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&instance));
        Ok(Registration {
            instance,
            _lock: lock,
        })
    }

    /// Removes what labs whose owners are gone have left.
    pub fn remove_leftovers() -> Result<()> {
        fs::create_dir_all(REGISTRY).with_context(|| format!("create {REGISTRY}"))?;
        let _registry = cache::lock(&Path::new(REGISTRY).join(".lock"))?;
        Self::remove_dead()
    }

    /// Lists the labs that are running.
    pub fn running() -> Result<Vec<Self>> {
        let registered = Self::registered()?;
        Ok(registered.into_iter().filter(Self::is_alive).collect())
    }

    /// Returns the id, which is in the name of all that belongs to the lab.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the folder with the lab's files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Names one of the lab's network namespaces.
    pub fn namespace_name(&self, name: &str) -> String {
        format!("lab-{}-{name}", self.id)
    }

    /// Makes a control group for one server and returns its path below the hierarchy's root.
    pub fn control_group(&self, name: &str) -> Result<String> {
        let root = control_groups()?;
        let mut group = root.join(CONTROL_GROUP);
        for part in ["", &self.id, name] {
            if !part.is_empty() {
                group = group.join(part);
            }
            fs::create_dir_all(&group).with_context(|| format!("create {}", group.display()))?;
            if part != name {
                delegate_controllers(&group);
            }
        }
        Ok(format!("{CONTROL_GROUP}/{}/{name}", self.id))
    }

    /// Kills all that runs in a server's control group, as a power cut does.
    pub fn kill_control_group(&self, name: &str) -> Result<()> {
        kill_group(
            &control_groups()?
                .join(CONTROL_GROUP)
                .join(&self.id)
                .join(name),
        )
    }

    /// Ends all processes and removes all namespaces, control groups and files of this lab.
    ///
    /// It goes on when a part fails, and tells all that failed.
    pub fn remove(&self) -> Result<()> {
        static REMOVING: Mutex<()> = Mutex::new(());
        // A signal and a failing test may both want it; the second finds nothing to do.
        let _one = REMOVING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failures = Vec::new();
        let mut note =
            |result: Result<()>| failures.extend(result.err().map(|error| format!("{error:#}")));
        if let Ok(root) = control_groups() {
            note(kill_group(&root.join(CONTROL_GROUP).join(&self.id)));
        }
        for namespace in Namespace::with_prefix(&self.namespace_name("")) {
            note(namespace.remove());
        }
        note(unmount_below(&self.folder));
        let what = format!("{} is gone", self.folder.display());
        note(wait_until(&what, Duration::from_secs(30), || {
            remove_folder(&self.folder)
        }));
        if failures.is_empty() {
            return remove_file(&registered(&self.id));
        }
        // It stays registered, so that the next lab tries again.
        bail!(
            "lab {} is not wholly removed: {}",
            self.id,
            failures.join("; ")
        )
    }

    /// Asks the owner of this lab to end it, and waits until it is gone.
    pub fn stop(&self) -> Result<()> {
        let text = fs::read_to_string(registered(&self.id)).unwrap_or_default();
        let owner = text
            .lines()
            .next()
            .and_then(|pid| pid.parse().ok())
            .and_then(Pid::from_raw);
        if let Some(owner) = owner.filter(|_| self.is_alive()) {
            kill_process(owner, Signal::TERM).context("signal the owner of the lab")?;
        }
        let what = format!("lab {} has ended", self.id);
        wait_until(&what, Duration::from_secs(30), || {
            if self.is_alive() {
                Err(anyhow!("its owner still runs"))
            } else {
                Ok(())
            }
        })?;
        Self::remove_leftovers()
    }

    /// What can't be removed is tried again by the next; it keeps no lab from being started.
    fn remove_dead() -> Result<()> {
        for instance in Self::registered()? {
            if !instance.is_alive()
                && let Err(error) = instance.remove()
            {
                eprintln!("lab: {error:#}");
            }
        }
        Ok(())
    }

    fn registered() -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(REGISTRY).into_iter().flatten() {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".lab")) else {
                continue;
            };
            let text = fs::read_to_string(registered(id)).unwrap_or_default();
            let default = cache::folder().join("labs").join(id);
            let folder = text.lines().nth(1).map_or(default, PathBuf::from);
            found.push(Self {
                id: id.to_owned(),
                folder,
            });
        }
        Ok(found)
    }

    fn is_alive(&self) -> bool {
        File::open(registered(&self.id))
            .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Err(error) = self.instance.remove() {
            eprintln!("lab: {error:#}");
        }
        OURS.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|ours| !Arc::ptr_eq(ours, &self.instance));
    }
}

/// Gives an id that no lab has had since this machine was started: what is left of one is never taken for another's.
/// The registry has to be locked.
fn new_id(registry: &Path, labs: &Path) -> Result<String> {
    let file = registry.join(".next");
    let next = fs::read_to_string(&file).unwrap_or_default();
    let next = u32::from_str_radix(next.trim(), 16).unwrap_or_default();
    let is_free =
        |id: &str| !registry.join(format!("{id}.lab")).exists() && !labs.join(id).exists();
    let (number, id) = (next..u32::MAX)
        .map(|number| (number, format!("{number:x}")))
        .find(|(_, id)| is_free(id))
        .context("all names of labs are taken")?;
    fs::write(&file, format!("{:x}\n", number + 1))
        .with_context(|| format!("write {}", file.display()))?;
    Ok(id)
}

fn registered(id: &str) -> PathBuf {
    Path::new(REGISTRY).join(format!("{id}.lab"))
}

/// Finds where the cgroup v2 hierarchy is mounted, alone or beside the older one.
fn control_groups() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .context("no cgroup v2 hierarchy is mounted: run `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`")
}

/// Hands down each controller that there is; on a hybrid machine most are missing.
fn delegate_controllers(group: &Path) {
    for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
        let _ = fs::write(
            group.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

fn kill_group(group: &Path) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    fs::write(group.join("cgroup.kill"), "1")
        .with_context(|| format!("kill {}", group.display()))?;
    let what = format!("{} is empty", group.display());
    wait_until(&what, Duration::from_secs(30), || {
        let events = fs::read_to_string(group.join("cgroup.events"))?;
        if events.contains("populated 0") {
            Ok(())
        } else {
            Err(anyhow!("processes are left"))
        }
    })?;
    wait_until(&what, Duration::from_secs(30), || remove_group(group))
}

fn remove_group(group: &Path) -> Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    fs::remove_dir(group).with_context(|| format!("remove {}", group.display()))
}

/// Takes the disks of servers away; their loop devices go along.
fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    for mount in mounts.lines().rev() {
        // Labs' folders have no character that this table would escape.
        let at = Path::new(mount.split(' ').nth(1).unwrap_or_default());
        if at.starts_with(folder) {
            unmount(at, UnmountFlags::DETACH)
                .with_context(|| format!("unmount {}", at.display()))?;
        }
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn remove_file(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Kills the programs that this process has started and that may still write into a lab's folder.
fn kill_children() {
    for task in fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in children
            .split_whitespace()
            .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        {
            // One that has ended needs no signal.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Tells that a signal has come.
static ENDING: AtomicBool = AtomicBool::new(false);

/// The labs of this process.
static OURS: Mutex<Vec<Arc<Instance>>> = Mutex::new(Vec::new());

/// Ctrl-C and `kill` run no destructors: from now on a thread cleans up before the process ends.
pub fn clean_up_at_signals() -> Result<()> {
    static WATCH: Once = Once::new();
    let mut failed = None;
    WATCH.call_once(|| match Signals::new([SIGHUP, SIGINT, SIGTERM]) {
        Ok(mut signals) => {
            std::thread::spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    clean_up();
                    std::process::exit(128 + signal);
                }
            });
        }
        Err(error) => failed = Some(error),
    });
    failed.map_or(Ok(()), |error| Err(error).context("watch for signals"))
}

/// Waits for the end of the process when a signal has come: what fails meanwhile fails for that reason.
pub fn wait_if_ending() {
    while ENDING.load(Ordering::Relaxed) {
        std::thread::park();
    }
}

fn clean_up() {
    ENDING.store(true, Ordering::Relaxed);
    kill_children();
    cache::remove_unfinished();
    for instance in OURS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        if let Err(error) = instance.remove() {
            eprintln!("lab: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_lab_that_is_gone_is_not_given_again() {
        let (registry, labs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let new = || new_id(registry.path(), labs.path()).unwrap();
        assert_eq!(new(), "0");
        assert_eq!(new(), "1");
        // What an earlier start of the machine, or an earlier release of the lab, has left.
        fs::create_dir(labs.path().join("2")).unwrap();
        fs::write(registry.path().join("3.lab"), "").unwrap();
        assert_eq!(new(), "4");
        fs::remove_dir(labs.path().join("2")).unwrap();
        assert_eq!(new(), "5");
        for _ in 6..=16 {
            new();
        }
        assert_eq!(new(), "11");
    }
}
