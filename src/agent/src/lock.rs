//! The host's lock: one change at a time, whoever makes it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use protocol::{Failure, FailureKind};
use rustix::{
    fs::{FlockOperation, flock, major, minor},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal},
};
use tokio::time::{Instant, sleep};

use crate::{context::Context, failure::Context as _, host::install::FOLDER, system::files};

/// Held for one change; let go when dropped, also by the kernel when the process dies.
#[derive(Debug)]
pub struct HostLock {
    _file: File,
}

/// How often a held lock is tried again: flock(2) can't wait with a time limit.
pub const INTERVAL: Duration = Duration::from_millis(20);
/// The same of whoever is not to wait for its turn among many: it looks first when the lock is let go.
pub const HASTY_INTERVAL: Duration = Duration::from_millis(1);

impl HostLock {
    /// Waits for the lock until the context's deadline.
    pub async fn take(context: &Context) -> Result<Self, Failure> {
        let (path, interval) = (path(context), context.lock_interval);
        let check = || context.check();
        Self::take_at(&path, &context.holder, context.deadline, interval, check).await
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "only the error of whoever waits tells what is written there"
    )]
    async fn take_at(
        path: &Path,
        holder: &str,
        deadline: Instant,
        interval: Duration,
        check: impl Fn() -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let mut file = loop {
            if let Some(file) = try_file(path)? {
                break file;
            }
            if Instant::now() >= deadline {
                return Err(busy(path));
            }
            check()?;
            sleep(interval).await;
        };
        let written = (|| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(holder.as_bytes())
        })();
        // It is held all the same, also where the disk is full; only who holds it can't be told then.
        if let Err(error) = written {
            eprintln!(
                "could not write to {} who holds it: {error}",
                path.display()
            );
        }
        Ok(Self { _file: file })
    }
}

/// Tries the lock. Opened anew each time, because whoever leaves a host removes the file with the lock held.
fn try_file(path: &Path) -> Result<Option<File>, Failure> {
    let deed = || format!("take the host's lock {}", path.display());
    if let Some(folder) = path.parent() {
        files::create_folder(folder, 0o755)?;
    }
    let file = match open(path) {
        // Its folder went at this very moment.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.doing(|| format!("open the host's lock {}", path.display()))?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(is_at(path, &file).doing(deed)?.then_some(file)),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
        Err(error) => Err(error).doing(deed),
    }
}

fn path(context: &Context) -> PathBuf {
    context.run_folder.join("lock")
}

/// A file that is locked for as long as this lives, which tells others that its holder is there.
#[derive(Debug)]
pub struct Presence {
    file: File,
}

impl Presence {
    /// Shows that somebody is there; several may share it. Its folder goes whenever a host is left, and is made each time.
    pub fn show(
        path: &Path,
        make_folder: impl Fn() -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        loop {
            make_folder()?;
            match share(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                shared => {
                    if let Some(file) = shared.doing(|| format!("lock {}", path.display()))? {
                        return Ok(Self { file });
                    }
                }
            }
        }
    }

    /// Whether others see it: its file may have gone with a host that was left.
    pub fn is_at(&self, path: &Path) -> io::Result<bool> {
        is_at(path, &self.file)
    }

    /// Shows that somebody is there still: the file's time is now.
    pub fn renew(&self) -> io::Result<()> {
        self.file.set_modified(SystemTime::now())
    }

    /// Removes the file of somebody who is gone, while its lock is held, so that nobody shows up meanwhile.
    /// Whether it is gone.
    pub fn clear(path: &Path) -> Result<bool, Failure> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            opened => opened.doing(|| format!("open {}", path.display()))?,
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        Self::clear_locked(path, &file)
    }

    /// The same once it is locked. Somebody else may have cleared it, and its owner be back with a new one.
    fn clear_locked(path: &Path, file: &File) -> Result<bool, Failure> {
        if !is_at(path, file).doing(|| format!("look at {}", path.display()))? {
            return Ok(false);
        }
        files::unlink(path)?;
        Ok(true)
    }

    /// Whether somebody is there, or may be: that it can't be looked at tells of nobody's end.
    pub fn is_shown(path: &Path) -> bool {
        match File::open(path) {
            Ok(file) => flock(&file, FlockOperation::NonBlockingLockExclusive).is_err(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

/// Opens a file that is there to be locked, or makes it.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}

/// Shares the lock of a file. None when somebody has just cleared the file away.
fn share(path: &Path) -> io::Result<Option<File>> {
    let file = open(path)?;
    // Whoever looks whether somebody is there has it locked for a moment.
    flock(&file, FlockOperation::LockShared)?;
    Ok(is_at(path, &file)?.then_some(file))
}

/// Whether an open file is still the one of that name: its lock keeps nobody from another one.
pub fn is_at(path: &Path, file: &File) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Locks a folder that its holder fills or removes. None when somebody else has it, or it is gone.
pub fn try_folder(path: &Path) -> io::Result<Option<File>> {
    folder(path, FlockOperation::NonBlockingLockExclusive)
}

/// The same, but waits for whoever has it.
pub fn wait_for_folder(path: &Path) -> io::Result<Option<File>> {
    folder(path, FlockOperation::LockExclusive)
}

fn folder(path: &Path, operation: FlockOperation) -> io::Result<Option<File>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match flock(&file, operation) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        locked => {
            locked?;
            Ok(is_at(path, &file)?.then_some(file))
        }
    }
}

/// Ends whoever holds the host's lock: an agent that hangs must not keep a change from being undone.
pub fn end_holders(context: &Context) -> Result<usize, Failure> {
    end_processes(&path(context))
}

/// Ends the agent's other processes that have this file locked; tells how many.
pub fn end_processes(path: &Path) -> Result<usize, Failure> {
    end_processes_when(path, |pid| {
        // Also of a version whose file is gone: "(deleted)" stands at the end. proc_pid_exe(5)
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|binary| binary.starts_with(FOLDER))
    })
}

fn end_processes_when(path: &Path, is_ours: impl Fn(Pid) -> bool) -> Result<usize, Failure> {
    let Ok(metadata) = fs::metadata(path) else {
        return Ok(0);
    };
    let device = (major(metadata.dev()), minor(metadata.dev()));
    let mut ended = 0;
    for pid in processes()? {
        if pid == getpid() || !is_ours(pid) {
            continue;
        }
        // The number can't come to mean another process once this is open. pidfd_open(2)
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(Errno::SRCH) => continue,
            Err(error) => return Err(error).doing(|| format!("open the process {pid}")),
        };
        if is_ours(pid) && has_locked(pid, device, metadata.ino()) {
            match pidfd_send_signal(&process, Signal::KILL) {
                Ok(()) => ended += 1,
                Err(Errno::SRCH) => {}
                Err(error) => return Err(error).doing(|| format!("end the process {pid}")),
            }
        }
    }
    Ok(ended)
}

fn processes() -> Result<Vec<Pid>, Failure> {
    let names = files::names(Path::new("/proc"))?;
    let pid = |name: &String| Pid::from_raw(name.parse().ok()?);
    Ok(names.iter().filter_map(pid).collect())
}

/// Whether a process has a flock(2) on a file. Not looked up in /proc/locks: guests may have millions there, through which
/// the kernel goes from the start again with each piece that is read.
fn has_locked(pid: Pid, device: (u32, u32), inode: u64) -> bool {
    let folder = PathBuf::from(format!("/proc/{}/fdinfo", pid.as_raw_nonzero()));
    let descriptors = fs::read_dir(folder).into_iter().flatten().flatten();
    descriptors
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .any(|about| tells_of_lock(&about, device, inode))
}

/// Whether what the kernel says of a descriptor names a flock(2) on a file. proc_pid_fdinfo(5), proc_locks(5)
fn tells_of_lock(about: &str, (major, minor): (u32, u32), inode: u64) -> bool {
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    about.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words[..], ["lock:", _, "FLOCK", _, _, _, at, ..] if at == place)
    })
}

fn busy(path: &Path) -> Failure {
    let mut holder = String::new();
    let read = File::open(path).and_then(|file| file.take(256).read_to_string(&mut holder));
    if read.is_err() || holder.is_empty() {
        "somebody".clone_into(&mut holder);
    }
    Failure::new(
        FailureKind::Busy,
        format!("another change of this host is under way, by {holder}"),
    )
    .help("Wait until it is done, or raise this resource's timeouts.")
}

#[cfg(test)]
mod tests;
