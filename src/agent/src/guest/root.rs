//! Files beneath a guest's root, whose content is hostile: links, FIFOs and devices may stand
//! anywhere, and may change while we look.
//!
//! Every path is resolved by the kernel beneath an O_PATH handle. openat2(2), RESOLVE_IN_ROOT

#![expect(clippy::disallowed_methods, reason = "its steps have fault points")]

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::system::mounts::is_mount_root;

/// No file that we read in a guest is longer. Bytes.
const READ_LIMIT: u64 = 1 << 20;

/// No folder that we look into in a guest holds more files.
const NAMES_LIMIT: usize = 10_000;

/// How the name of a file begins while it is written.
pub const TEMPORARY: &str = ".nspawn-agent.";

/// The root folder of a guest.
#[derive(Debug)]
pub struct GuestRoot {
    root: OwnedFd,
    /// The host's user id that is root inside.
    uid_base: u32,
}

/// Whose a file is and who may read it, in the guest's own terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The permission bits.
    pub mode: u32,
    /// The group; the user is always root.
    pub group: u32,
}

impl GuestRoot {
    /// Opens a guest's root; the path itself is the host's and may be a magic link.
    pub fn open(path: &Path, uid_base: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty())?;
        Ok(Self { root, uid_base })
    }

    /// Whether it is the root of a mount: what is beneath is the host's own otherwise.
    pub fn is_mounted(&self) -> bool {
        is_mount_root(&self.root, "", AtFlags::EMPTY_PATH)
    }

    /// A handle on a file or folder that follows the guest's links within its root.
    pub fn resolve(&self, path: &str) -> io::Result<OwnedFd> {
        self.open_beneath(path, OFlags::PATH)
    }

    /// The text of a regular file; `None` when there is none.
    pub fn read(&self, path: &str) -> io::Result<Option<String>> {
        let handle = match self.resolve(path) {
            Ok(handle) => handle,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Looked at before it is opened: opening a FIFO hangs, opening a device may do anything.
        let found = FileType::from_raw_mode(fs::fstat(&handle)?.st_mode);
        if found != FileType::RegularFile {
            return Err(io::Error::other(format!(
                "it is not a regular file but {found:?}"
            )));
        }
        let file = reopen(&handle, OFlags::RDONLY)?;
        let mut bytes = Vec::new();
        File::from(file)
            .take(READ_LIMIT + 1)
            .read_to_end(&mut bytes)?;
        // Half of one would be taken for all of it, and written back.
        if bytes.len() as u64 > READ_LIMIT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The group and permission bits of a file in the guest's own terms; `None` when there is none.
    pub fn access(&self, path: &str) -> io::Result<Option<Access>> {
        match self.resolve(path) {
            Ok(handle) => {
                let found = fs::fstat(&handle)?;
                Ok(Some(Access {
                    mode: found.st_mode & 0o7777,
                    group: found.st_gid.saturating_sub(self.uid_base),
                }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a file in place, whole or not at all. What stood there, a link included, is replaced;
    /// a folder in its place is an error.
    pub fn write(&self, path: &str, content: &str, access: Access) -> io::Result<()> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = self.make_folders(folder)?;
        let temporary = format!("{TEMPORARY}{name}");
        match fs::unlinkat(&folder, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(fs::openat(
            &folder,
            &temporary,
            flags,
            Mode::from_raw_mode(0o600),
        )?);
        fault::point(|| format!("make {temporary} in a guest"));
        let written = file.write_all(content.as_bytes()).and_then(|()| {
            self.give(&file, access.group)?;
            fs::fchmod(&file, Mode::from_raw_mode(access.mode))?;
            fault::point(|| format!("fill {temporary} in a guest"));
            // A power cut must not leave an empty /etc/shadow where there was one with accounts.
            fs::fdatasync(&file)?;
            fs::renameat(&folder, &temporary, &folder, name)?;
            fault::point(|| format!("rename {temporary} in a guest"));
            Ok(())
        });
        if written.is_err() {
            let _ = fs::unlinkat(&folder, &temporary, AtFlags::empty());
        }
        written
    }

    /// What a killed process has left of a file that it was writing; none where nothing is, or no file.
    pub fn left_of(&self, path: &str) -> Option<String> {
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        let left = format!("{folder}/{TEMPORARY}{name}");
        self.is_file(&left)
            .is_ok_and(|is_file| is_file)
            .then_some(left)
    }

    /// Removes a file or link; fine when it isn't there.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        let folder = match self.resolve(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        fault::point(|| format!("before: remove {path} in a guest"));
        match fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a regular file is there, and not a link to one.
    pub fn is_file(&self, path: &str) -> io::Result<bool> {
        match self.open_beneath(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(handle) => {
                Ok(FileType::from_raw_mode(fs::fstat(&handle)?.st_mode) == FileType::RegularFile)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The names in a folder; none when it isn't there.
    pub fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let handle = match self.open_beneath(path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(handle) => handle,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let folder = reopen(&handle, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(folder)? {
            if names.len() >= NAMES_LIMIT {
                return Err(io::Error::other(format!(
                    "it holds more than {NAMES_LIMIT} files"
                )));
            }
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Makes a folder with these permission bits, and its parents.
    pub fn make_folder(&self, path: &str, mode: u32) -> io::Result<()> {
        let handle = self.make_folders(path)?;
        fault::point(|| format!("before: give {path} in a guest its mode"));
        let folder = reopen(&handle, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.give(&folder, 0)?;
        Ok(fs::fchmod(&folder, Mode::from_raw_mode(mode))?)
    }

    fn make_folders(&self, path: &str) -> io::Result<OwnedFd> {
        let mut done = String::new();
        let mut folder = self.open_beneath(".", OFlags::PATH | OFlags::DIRECTORY)?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let parent = folder;
            // Resolved from the root each time: within a subfolder, RESOLVE_IN_ROOT would take
            // that subfolder for the root of the guest's links.
            done = format!("{done}/{part}");
            let open = || self.open_beneath(&done, OFlags::PATH | OFlags::DIRECTORY);
            folder = match open() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::mkdirat(&parent, part, Mode::from_raw_mode(0o755))?;
                    fault::point(|| format!("make {done} in a guest"));
                    let made = open()?;
                    self.give(&reopen(&made, OFlags::RDONLY | OFlags::DIRECTORY)?, 0)?;
                    made
                }
                other => other?,
            };
        }
        Ok(folder)
    }

    fn open_beneath(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let open = || {
            fs::openat2(
                &self.root,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            )
        };
        // The kernel gives up with EAGAIN when something was renamed while it looked.
        for _ in 0..16 {
            match open() {
                Err(Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
        Ok(open()?)
    }

    fn give(&self, file: &impl AsFd, group: u32) -> io::Result<()> {
        let user = fs::Uid::from_raw(self.uid_base);
        let group = fs::Gid::from_raw(self.uid_base.saturating_add(group));
        Ok(fs::fchown(file, Some(user), Some(group))?)
    }
}

/// Opens for real what an O_PATH handle stands for: exactly that file, whatever its name is now.
fn reopen(handle: &OwnedFd, flags: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests;
