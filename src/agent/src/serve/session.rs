//! A provider process's session: a locked file for as long as the process is connected.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use protocol::{Failure, name::SessionId};
use rustix::fs::{FlockOperation, flock};

use crate::{failure::Context as _, system::files};

/// One connection of a session. The kernel lets its lock go when the process dies.
#[derive(Debug)]
pub struct Session {
    path: PathBuf,
    _file: File,
}

fn folder(run_folder: &Path) -> PathBuf {
    run_folder.join("sessions")
}

impl Session {
    /// Notes that this session is connected; a session may be connected twice while it reconnects.
    pub fn open(run_folder: &Path, id: &SessionId) -> Result<Self, Failure> {
        let path = folder(run_folder).join(id.as_str());
        files::create_folder(&folder(run_folder), 0o700)?;
        let deed = || format!("open the session {}", path.display());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path)
            .doing(deed)?;
        flock(&file, FlockOperation::NonBlockingLockShared).doing(deed)?;
        Ok(Self { path, _file: file })
    }

    /// Ends this connection's part of the session.
    pub fn close(self) -> Result<(), Failure> {
        let path = self.path.clone();
        drop(self);
        if is_free(&path) {
            files::remove_file(&path)?;
        }
        Ok(())
    }
}

/// Whether a session is connected.
pub fn is_alive(run_folder: &Path, id: &SessionId) -> bool {
    !is_free(&folder(run_folder).join(id.as_str()))
}

/// Whether any session is connected; removes the files of those that died.
pub fn any_alive(run_folder: &Path) -> Result<bool, Failure> {
    let Ok(entries) = fs::read_dir(folder(run_folder)) else {
        return Ok(false);
    };
    let mut alive = false;
    for entry in entries.flatten() {
        if is_free(&entry.path()) {
            files::remove_file(&entry.path())?;
        } else {
            alive = true;
        }
    }
    Ok(alive)
}

fn is_free(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lives_as_long_as_one_of_its_connections() {
        let folder = tempfile::tempdir().unwrap();
        let id: SessionId = "a".repeat(32).parse().unwrap();
        assert!(!is_alive(folder.path(), &id));
        let first = Session::open(folder.path(), &id).unwrap();
        let second = Session::open(folder.path(), &id).unwrap();
        first.close().unwrap();
        assert!(is_alive(folder.path(), &id) && any_alive(folder.path()).unwrap());
        drop(second);
        assert!(!is_alive(folder.path(), &id) && !any_alive(folder.path()).unwrap());
    }
}
