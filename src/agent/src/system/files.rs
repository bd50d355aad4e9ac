//! Files of the host: replaced as a whole, never followed through a symbolic link.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use protocol::{Failure, FailureKind};
use rustix::fs::{FlockOperation, flock};

use super::remove;
use crate::{failure::Context as _, lock};

/// The first line of every file of ours outside /etc/nspawn-agent.
pub const HEADER: &str =
    "# Written by nspawn-agent for terraform-provider-nspawn; changes are overwritten.\n";

/// A file's contents; none when it isn't there.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let deed = || format!("read {}", path.display());
    let mut file = match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).doing(deed),
    };
    let mut contents = Vec::new();
    file.read_to_end(&mut contents).doing(deed)?;
    Ok(Some(contents))
}

/// Replaces a file as a whole and makes it last: a crash leaves the old or the new one.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> Result<(), Failure> {
    let deed = || format!("write {}", path.display());
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Failure::new(
            FailureKind::System,
            format!("{} names no file", path.display()),
        ));
    };
    let temporary = folder.join(format!(".{}.nspawn-agent", name.to_string_lossy()));
    let mut file = take_temporary(&temporary, mode).doing(deed)?;
    let written = (|| {
        fault::point(|| format!("make {}", temporary.display()));
        file.write_all(contents)?;
        fault::point(|| format!("fill {}", temporary.display()));
        file.sync_all()?;
        fault::point(|| format!("sync {}", temporary.display()));
        fs::rename(&temporary, path)?;
        fault::point(|| format!("rename {}", temporary.display()));
        File::open(folder)?.sync_all()
    })();
    // Once it is renamed, another process may have one of that name.
    if written.is_err() && lock::is_at(&temporary, &file).doing(deed)? {
        remove_file(&temporary)?;
    }
    written.doing(deed)
}

/// An empty file that is locked, so that another process which replaces the same file waits: a container's own unit
/// writes without the host's lock. One that a killed process has left is taken up.
fn take_temporary(path: &Path, mode: u32) -> io::Result<File> {
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        // The other one has put it in place, or given up.
        if lock::is_at(path, &file)? {
            file.set_len(0)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            return Ok(file);
        }
    }
}

/// Removes what killed processes have left of the files in a folder that they were replacing; one that is just being
/// written is locked.
pub fn clear_temporaries(folder: &Path) -> Result<(), Failure> {
    let is_temporary = |name: &&String| name.starts_with('.') && name.ends_with(".nspawn-agent");
    for name in names(folder)?.iter().filter(is_temporary) {
        lock::Presence::clear(&folder.join(name))?;
    }
    Ok(())
}

/// Writes a file in its place, which takes no room on the disk when it grows by little. A power cut may leave half
/// of it.
pub fn overwrite(path: &Path, contents: &[u8]) -> Result<(), Failure> {
    let write = || {
        let mut file = File::options().write(true).open(path)?;
        file.write_all(contents)?;
        file.set_len(contents.len() as u64)?;
        file.sync_all()
    };
    write().doing(|| format!("write {} in its place", path.display()))
}

/// Removes a file; nothing happens when it isn't there.
pub fn remove_file(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(())
        }
        removed => removed.doing(|| format!("remove {}", path.display())),
    }
}

/// Removes a file, which a power cut must not bring back.
pub fn remove_for_good(path: &Path) -> Result<(), Failure> {
    remove_file(path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Brings to the disk what has come to a folder, and what has gone from it. Without the folder nothing can come back.
pub fn sync_folder(folder: &Path) -> Result<(), Failure> {
    let deed = || format!("bring the folder {} to the disk", folder.display());
    match File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened.and_then(|folder| folder.sync_all()).doing(deed),
    }
}

/// Makes a folder and those above it.
pub fn create_folder(path: &Path, mode: u32) -> Result<(), Failure> {
    /// Another process may remove one that is empty still.
    const TRIES: usize = 10;
    let make = || {
        if path.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(mode).create(path)
    };
    let mut result = make();
    for _ in 1..TRIES {
        match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => result = make(),
            _ => break,
        }
    }
    result.doing(|| format!("make the folder {}", path.display()))
}

/// What is in a folder; nothing when it isn't there.
pub fn names(folder: &Path) -> Result<Vec<String>, Failure> {
    let deed = || format!("list {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing(deed)?,
    };
    entries
        .map(|entry| {
            let name = entry.doing(deed)?.file_name();
            Ok(name.to_string_lossy().into_owned())
        })
        .collect()
}

/// Removes a folder that is empty; any other is left, and so is one that is a file system of its own.
pub fn remove_empty_folder(path: &Path) -> Result<(), Failure> {
    match fs::remove_dir(path) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
            ) =>
        {
            Ok(())
        }
        removed => removed.doing(|| format!("remove the folder {}", path.display())),
    }
}

/// Removes a file or a folder with all that is in it; nothing happens when it isn't there.
pub fn remove_tree(path: &Path) -> Result<(), Failure> {
    remove::remove_tree(path).doing(|| format!("remove {}", path.display()))
}

/// How a file of ours stands to what it should hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnFile {
    /// As it should be.
    Same,
    /// Ours, with other contents.
    Differs,
    /// Not there.
    Missing,
    /// Somebody else's: the header is missing.
    Foreign,
}

/// Compares a file with what it should hold; `contents` carry the [`HEADER`].
pub fn compare(path: &Path, contents: &str) -> Result<OwnFile, Failure> {
    // A link or a folder in its place must not keep all else from being looked at.
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return Ok(OwnFile::Foreign);
    }
    Ok(match read(path)? {
        None => OwnFile::Missing,
        Some(found) if found == contents.as_bytes() => OwnFile::Same,
        Some(found) if is_ours(&found) => OwnFile::Differs,
        Some(_) => OwnFile::Foreign,
    })
}

/// Whether a file's contents carry our header.
pub fn is_ours(contents: &[u8]) -> bool {
    contents
        .split(|byte| *byte == b'\n')
        .next()
        .is_some_and(|line| String::from_utf8_lossy(line).contains("nspawn-agent"))
}

/// Writes a file of ours, header and all, unless somebody else's is in its place.
pub fn write_own(path: &Path, contents: &str, mode: u32) -> Result<(), Failure> {
    if compare(path, contents)? == OwnFile::Foreign {
        return Err(Failure::new(
            FailureKind::Conflict,
            format!(
                "{} is there and was not made by nspawn-agent",
                path.display()
            ),
        )
        .help("Move the file away, or choose another name."));
    }
    if let Some(folder) = path.parent() {
        create_folder(folder, 0o755)?;
    }
    replace(path, contents.as_bytes(), mode)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_file_is_replaced_by_several_at_once() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("file");
        // A killed process has left it.
        fs::write(top.path().join(".file.nspawn-agent"), "rest of another").unwrap();
        std::thread::scope(|scope| {
            for text in ["one", "another"] {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..200 {
                        replace(path, text.as_bytes(), 0o600).unwrap();
                    }
                });
            }
        });
        let left = fs::read_to_string(&path).unwrap();
        assert!(["one", "another"].contains(&left.as_str()), "{left}");
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_process_has_left_of_a_file_goes_and_what_is_being_written_stays() {
        let top = tempfile::tempdir().unwrap();
        for name in [".left.nspawn-agent", ".busy.nspawn-agent", ".other", "file"] {
            fs::write(top.path().join(name), "half").unwrap();
        }
        let busy = File::open(top.path().join(".busy.nspawn-agent")).unwrap();
        flock(&busy, FlockOperation::LockExclusive).unwrap();
        clear_temporaries(top.path()).unwrap();
        let mut left = names(top.path()).unwrap();
        left.sort();
        assert_eq!(left, [".busy.nspawn-agent", ".other", "file"]);
        clear_temporaries(&top.path().join("nothing")).unwrap();
    }

    #[test]
    fn a_folder_is_made_while_another_process_tidies_up() {
        const ROUNDS: usize = 2000;
        let top = tempfile::tempdir().unwrap();
        let (outer, inner) = (top.path().join("outer"), top.path().join("outer/inner"));
        // Others tidy up a few times meanwhile, and not in a loop without an end.
        let together = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    together.wait();
                    for folder in [&inner, &outer].repeat(4) {
                        remove_empty_folder(folder).unwrap();
                    }
                }
            });
            let round = |_| {
                together.wait();
                create_folder(&inner, 0o700)
            };
            let failures: Vec<_> = (0..ROUNDS).filter_map(|at| round(at).err()).collect();
            assert!(failures.is_empty(), "{failures:?}");
        });
    }
}
