//! Files of the host: replaced as a whole, never followed through a symbolic link.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use protocol::{Failure, FailureKind};

use crate::failure::Context as _;

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
    remove_file(&temporary)?;
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        remove_file(&temporary)?;
    }
    written.doing(deed)
}

/// Removes a file; nothing happens when it isn't there.
pub fn remove_file(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Err(error).doing(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Makes a folder and those above it.
pub fn create_folder(path: &Path, mode: u32) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .doing(|| format!("make the folder {}", path.display()))
}

/// Removes a folder that is empty; any other is left.
pub fn remove_empty_folder(path: &Path) -> Result<(), Failure> {
    match fs::remove_dir(path) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(error).doing(|| format!("remove the folder {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a file or a folder with all that is in it; nothing happens when it isn't there.
pub fn remove_tree(path: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
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
