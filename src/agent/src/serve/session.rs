//! A provider process's session: a locked file for as long as the process is connected.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use protocol::{Failure, name::SessionId};

use crate::{failure::Context as _, lock::Presence, system::files};

/// One connection of a session. The kernel lets its lock go when the process dies.
#[derive(Debug)]
pub struct Session {
    run_folder: PathBuf,
    path: PathBuf,
    presence: Presence,
}

fn folder(run_folder: &Path) -> PathBuf {
    run_folder.join("sessions")
}

/// The file that the connections of a session hold.
pub fn path(run_folder: &Path, id: &SessionId) -> PathBuf {
    folder(run_folder).join(id.as_str())
}

impl Session {
    /// Notes that this session is connected; a session may be connected twice while it reconnects.
    pub fn open(run_folder: &Path, id: &SessionId) -> Result<Self, Failure> {
        // Of processes that were killed.
        any_alive(run_folder)?;
        let path = path(run_folder, id);
        let mut session = Self {
            run_folder: run_folder.to_owned(),
            presence: show(run_folder, &path)?,
            path,
        };
        session.show_life()?;
        Ok(session)
    }

    /// Notes that the provider was heard just now. Whoever left the host a moment ago may have removed the file with it.
    pub fn show_life(&mut self) -> Result<(), Failure> {
        let deed = || format!("note the time in {}", self.path.display());
        if !self.presence.is_at(&self.path).doing(deed)? {
            self.presence = show(&self.run_folder, &self.path)?;
        }
        self.presence.renew().doing(deed)
    }

    /// Ends this connection's part of the session.
    pub fn close(self) -> Result<(), Failure> {
        let path = self.path.clone();
        drop(self);
        Presence::clear(&path).map(drop)
    }
}

fn show(run_folder: &Path, path: &Path) -> Result<Presence, Failure> {
    Presence::show(path, || {
        files::create_folder(run_folder, 0o755)?;
        files::create_folder(&folder(run_folder), 0o700)
    })
}

/// Whether a session is connected.
pub fn is_alive(run_folder: &Path, id: &SessionId) -> bool {
    Presence::is_shown(&path(run_folder, id))
}

/// Whether a session that is connected was heard after this time: one that was not may be frozen.
pub fn was_heard_since(run_folder: &Path, id: &SessionId, time: SystemTime) -> bool {
    let modified = fs::metadata(path(run_folder, id)).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified > time)
}

/// Whether any session is connected; removes the files of those that died.
pub fn any_alive(run_folder: &Path) -> Result<bool, Failure> {
    let Ok(entries) = fs::read_dir(folder(run_folder)) else {
        return Ok(false);
    };
    let mut alive = false;
    for entry in entries.flatten() {
        alive |= !Presence::clear(&entry.path())?;
    }
    Ok(alive)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_session_shows_when_it_was_heard() {
        let folder = tempfile::tempdir().unwrap();
        let id: SessionId = "a".repeat(32).parse().unwrap();
        let mut session = Session::open(folder.path(), &id).unwrap();
        let hour = std::time::Duration::from_hours(1);
        let now = SystemTime::now();
        let file = fs::File::open(path(folder.path(), &id)).unwrap();
        file.set_modified(now - hour).unwrap();
        assert!(!was_heard_since(folder.path(), &id, now));
        session.show_life().unwrap();
        assert!(was_heard_since(folder.path(), &id, now - hour / 2));
    }

    #[test]
    fn a_session_whose_file_went_with_the_host_is_shown_anew() {
        let top = tempfile::tempdir().unwrap();
        let run_folder = top.path().join("run");
        let id: SessionId = "a".repeat(32).parse().unwrap();
        let mut session = Session::open(&run_folder, &id).unwrap();
        files::remove_tree(&run_folder).unwrap();
        session.show_life().unwrap();
        assert!(is_alive(&run_folder, &id));
        session.close().unwrap();
        assert!(!is_alive(&run_folder, &id));
    }

    #[test]
    fn a_session_is_shown_while_others_leave_the_host() {
        const ROUNDS: usize = 300;
        let top = tempfile::tempdir().unwrap();
        let run_folder = top.path().join("run");
        let id: SessionId = "a".repeat(32).parse().unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // One that is just being filled can't be removed, as it can't on a host.
                    drop(fs::remove_dir_all(&run_folder));
                }
            });
            let open = |_| {
                Session::open(&run_folder, &id)
                    .and_then(Session::close)
                    .err()
            };
            let failures: Vec<Failure> = (0..ROUNDS).filter_map(open).collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(failures.is_empty(), "{} {failures:?}", failures.len());
        });
    }

    #[test]
    fn a_session_lives_as_long_as_one_of_its_connections() {
        let folder = tempfile::tempdir().unwrap();
        let id: SessionId = "a".repeat(32).parse().unwrap();
        assert!(!is_alive(folder.path(), &id));
        let first = Session::open(folder.path(), &id).unwrap();
        let second = Session::open(folder.path(), &id).unwrap();
        first.close().unwrap();
        assert!(is_alive(folder.path(), &id) && any_alive(folder.path()).unwrap());
        // Another run clears away what died, and only that.
        std::fs::write(folder.path().join("sessions").join("b".repeat(32)), "").unwrap();
        let third = Session::open(folder.path(), &"c".repeat(32).parse().unwrap()).unwrap();
        let left = std::fs::read_dir(folder.path().join("sessions")).unwrap();
        assert_eq!(left.count(), 2);
        third.close().unwrap();
        drop(second);
        assert!(!is_alive(folder.path(), &id) && !any_alive(folder.path()).unwrap());
    }
}
