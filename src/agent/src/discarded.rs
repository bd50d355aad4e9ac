//! What containers and images leave behind: moved aside while the host's lock is held, and removed without it.
//!
//! A guest can fill its root with what takes minutes to remove, and nobody else is to wait for that. Part of what
//! is removed never has the name of the whole.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use protocol::{Failure, name::MachineName};
use rustix::io::Errno;

use crate::{
    container,
    failure::Context as _,
    image::tree,
    lock,
    system::{files, mounts, remove},
};

/// No container's name begins with a dot, and no tree's.
const PREFIX: &str = ".removed-";

/// Moves a folder aside within its place; fine when it isn't there.
pub fn set_aside(place: &Path, name: &str, folder: &Path) -> Result<(), Failure> {
    let deed = || format!("move {} aside", folder.display());
    for number in 0_u32.. {
        let aside = place.join(format!("{PREFIX}{name}.{number}"));
        // Whoever is just removing an empty one would remove this.
        match remove::move_to_new(folder, &aside) {
            // Somebody is removing one.
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => break,
            moved => return moved.map_err(io::Error::from).doing(deed),
        }
    }
    Ok(())
}

/// Removes what was set aside of a container, or waits for whoever does already.
pub fn clear_of(container: &MachineName) -> Result<(), Failure> {
    let mut all = all(&container::storages())?;
    all.retain(|(name, _)| name == container.as_str());
    clear(&all, lock::wait_for_folder)
}

/// Removes what was set aside of any container and image, or waits for whoever does already.
pub fn clear_all() -> Result<(), Failure> {
    clear(&everywhere()?, lock::wait_for_folder)
}

/// Removes what was set aside by somebody who has ended since, or had no time to remove it.
pub fn clear_abandoned() -> Result<(), Failure> {
    clear(&everywhere()?, lock::try_folder)
}

/// The same in one place only.
pub fn clear_abandoned_in(place: &Path) -> Result<(), Failure> {
    clear(&all(place)?, lock::try_folder)
}

/// What can't be removed keeps nothing else from it; the first failure is the answer.
fn clear(
    all: &[(String, PathBuf)],
    lock: fn(&Path) -> io::Result<Option<File>>,
) -> Result<(), Failure> {
    let cleared: Vec<_> = all
        .iter()
        .map(|(_, folder)| clear_one(folder, lock))
        .collect();
    cleared.into_iter().collect()
}

/// The lock says that somebody removes it; it ends with him.
fn clear_one(folder: &Path, lock: fn(&Path) -> io::Result<Option<File>>) -> Result<(), Failure> {
    let deed = || format!("take {} to remove it", folder.display());
    let Some(_lock) = lock(folder).doing(deed)? else {
        return Ok(());
    };
    mounts::detach_below(folder).doing(|| format!("unmount what is in {}", folder.display()))?;
    files::remove_tree(folder)
}

fn everywhere() -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut found = all(&container::storages())?;
    found.extend(all(&tree::trees())?);
    Ok(found)
}

/// What was set aside in a place, each with its name of before.
fn all(place: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let entries = files::names(place)?.into_iter();
    Ok(entries
        .filter_map(|entry| Some((name_of(&entry)?.to_owned(), place.join(&entry))))
        .collect())
}

fn name_of(entry: &str) -> Option<&str> {
    let (name, _) = entry.strip_prefix(PREFIX)?.rsplit_once('.')?;
    Some(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn entries_have_a_name_of_before() {
        assert_eq!(name_of(".removed-web.0"), Some("web"));
        assert_eq!(name_of(".removed-a.b.12"), Some("a.b"));
        for other in ["web", ".removed-", ".other.0", "removed-web.0"] {
            assert_eq!(name_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_set_aside_never_takes_the_place_of_what_is_being_removed() {
        let top = tempfile::tempdir().unwrap();
        let path = |path: &str| top.path().join(path);
        // A remover is about to take away its empty folder.
        fs::create_dir(path(".removed-web.0")).unwrap();
        fs::create_dir_all(path("web/etc")).unwrap();
        for _ in 0..2 {
            set_aside(top.path(), "web", &path("web")).unwrap();
        }
        assert_eq!(fs::read_dir(path(".removed-web.0")).unwrap().count(), 0);
        assert!(path(".removed-web.1/etc").is_dir() && !path("web").exists());
    }

    #[test]
    fn what_is_removed_is_locked_until_it_is_gone() {
        const FILES: usize = 3000;
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join(format!("{PREFIX}web.0"));
        fs::create_dir(&folder).unwrap();
        for number in 0..FILES {
            fs::write(folder.join(number.to_string()), "").unwrap();
        }
        let left = || fs::read_dir(&folder).map_or(0, Iterator::count);
        std::thread::scope(|scope| {
            let removing = scope.spawn(|| clear_abandoned_in(top.path()));
            while left() == FILES {
                std::thread::yield_now();
            }
            while folder.exists() {
                assert!(lock::try_folder(&folder).unwrap().is_none());
            }
            removing.join().unwrap().unwrap();
        });
    }

    #[test]
    fn what_is_mounted_within_goes_before_and_what_cannot_go_hinders_nothing() {
        let top = tempfile::tempdir().unwrap();
        let path = |path: &str| top.path().join(path);
        for folder in ["busy", "mounted/a b/deep", "outside", "empty"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        fs::write(path("outside/file"), "x").unwrap();
        let bind = |from: PathBuf, to: PathBuf| rustix::mount::mount_bind(from, to).unwrap();
        bind(path("outside"), path("mounted/a b"));
        // It is a mount itself: an administrator's.
        bind(path("empty"), path("busy"));
        let each = ["busy", "mounted", "never"].map(|name| (name.to_owned(), path(name)));
        let failure = clear(&each, lock::try_folder).unwrap_err();
        mounts::detach_all(&path("busy")).unwrap();
        assert!(failure.message.contains("/busy"), "{failure}");
        assert!(!path("mounted").exists() && path("outside/file").exists());
    }
}
