//! What containers leave behind: moved aside while the host's lock is held, and removed without it.
//!
//! A guest can fill its root with what takes minutes to remove, and nobody else is to wait for that.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use protocol::{Failure, name::MachineName};

use super::paths::STATE_FOLDER;
use crate::{failure::Context as _, lock, system::files};

/// No container's name begins with a dot.
const PREFIX: &str = ".removed-";

/// Moves a container's folder aside; fine when it isn't there.
pub fn set_aside(container: &MachineName, folder: &Path) -> Result<(), Failure> {
    let deed = || format!("move {} aside", folder.display());
    for number in 0_u32.. {
        let aside = place().join(format!("{PREFIX}{container}.{number}"));
        match fs::rename(folder, aside) {
            // Somebody is removing one.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            moved => return moved.doing(deed),
        }
    }
    Ok(())
}

/// Removes what was set aside of a container, or waits for whoever does already.
pub fn clear_of(container: &MachineName) -> Result<(), Failure> {
    for (name, folder) in all()? {
        if name == container.as_str() {
            clear(&folder, lock::wait_for_folder)?;
        }
    }
    Ok(())
}

/// Removes what was set aside of any container, or waits for whoever does already.
pub fn clear_all() -> Result<(), Failure> {
    all()?
        .iter()
        .try_for_each(|(_, folder)| clear(folder, lock::wait_for_folder))
}

/// Removes what was set aside by somebody who has ended since, or had no time to remove it.
pub fn clear_abandoned() -> Result<(), Failure> {
    all()?
        .iter()
        .try_for_each(|(_, folder)| clear(folder, lock::try_folder))
}

/// The lock says that somebody removes it; it ends with him.
fn clear(folder: &Path, lock: fn(&Path) -> io::Result<Option<File>>) -> Result<(), Failure> {
    let deed = || format!("take {} to remove it", folder.display());
    match lock(folder).doing(deed)? {
        Some(_lock) => files::remove_tree(folder),
        None => Ok(()),
    }
}

fn place() -> PathBuf {
    Path::new(STATE_FOLDER).join("containers")
}

/// Each with its container's name.
fn all() -> Result<Vec<(String, PathBuf)>, Failure> {
    let deed = || format!("list {}", place().display());
    let entries = match fs::read_dir(place()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing(deed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.doing(deed)?.file_name();
        let name = name.to_string_lossy();
        if let Some(container) = container_of(&name) {
            found.push((container.to_owned(), place().join(&*name)));
        }
    }
    Ok(found)
}

fn container_of(entry: &str) -> Option<&str> {
    let (container, _) = entry.strip_prefix(PREFIX)?.rsplit_once('.')?;
    Some(container)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_name_their_container() {
        assert_eq!(container_of(".removed-web.0"), Some("web"));
        assert_eq!(container_of(".removed-a.b.12"), Some("a.b"));
        for other in ["web", ".removed-", ".other.0", "removed-web.0"] {
            assert_eq!(container_of(other), None, "{other}");
        }
    }
}
