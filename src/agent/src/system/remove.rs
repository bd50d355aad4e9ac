//! Removes a tree that a guest has filled.
//!
//! A guest may nest folders deeper than a process may have open files, or than its stack is high; so
//! deep folders are moved up before they are looked into. Nothing changes the tree meanwhile: its
//! guest has ended.

#![expect(
    clippy::disallowed_methods,
    reason = "each entry that goes has a fault point"
)]

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, IFlags, Mode, OFlags},
    io::Errno,
    ioctl::{Getter, Opcode, Setter, ioctl, opcode},
    path::Arg,
};

use super::mounts;

/// Removes a file or a folder with all that is in it; fine when it isn't there.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("it names no file"));
    };
    let parent = match fs::open(parent, PLACE, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let top = match open(&parent, name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        // A file, or a link, which isn't followed.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return unlink(&parent, name, AtFlags::empty());
        }
        Err(error) => return Err(error.into()),
    };
    empty(&top, None, &mut 0)?;
    unlink(&parent, name, AtFlags::REMOVEDIR)
}

/// A folder of ours, which the administrator may have linked to another place.
const PLACE: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

const FOLDER: OFlags = PLACE.union(OFlags::NOFOLLOW);

/// Opens a folder to empty it. What is mounted on it is somebody else's.
fn open(parent: &OwnedFd, name: impl Arg) -> Result<OwnedFd, Errno> {
    let folder = fs::openat(parent, name, FOLDER, Mode::empty())?;
    if mounts::is_mount_root(&folder, c"", AtFlags::EMPTY_PATH) {
        return Err(Errno::BUSY);
    }
    Ok(folder)
}

/// How many folders of one folder are known at once: a guest may have made millions of them.
const FOLDERS_AT_ONCE: usize = 10_000;

/// Removes everything in a folder; `above` is the one that a subvolume is in which this is.
fn empty(top: &OwnedFd, above: Option<&OwnedFd>, moved: &mut u64) -> io::Result<()> {
    loop {
        let mut folders = Vec::new();
        remove_files(top, |name| folders.push(name))?;
        if folders.is_empty() {
            return Ok(());
        }
        for name in folders {
            let folder = open(top, &name)?;
            remove_files(&folder, |_| {})?;
            match move_all_up(&folder, top, moved) {
                Ok(()) => unlink(top, &name, AtFlags::REMOVEDIR)?,
                // Out of a subvolume of btrfs nothing can be moved but other subvolumes: those that are nested
                // come beside each other.
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    if let Some(above) = above {
                        move_to(top, &name, above, moved)?;
                    } else {
                        empty(&folder, Some(top), moved)?;
                        unlink(top, &name, AtFlags::REMOVEDIR)?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Removes a folder's files, and tells of its folders; of the first ones alone when they are many.
fn remove_files(folder: &OwnedFd, mut found: impl FnMut(CString)) -> io::Result<()> {
    // A listing need not show all when entries vanish meanwhile, so it is repeated until it has none.
    loop {
        let mut removed = false;
        let mut folders = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if is_folder(folder, entry.file_type(), name)? {
                folders.push(name.to_owned());
                if folders.len() == FOLDERS_AT_ONCE {
                    removed = false;
                    break;
                }
            } else {
                unlink(folder, name, AtFlags::empty())?;
                removed = true;
            }
        }
        if !removed {
            folders.into_iter().for_each(&mut found);
            return Ok(());
        }
    }
}

fn is_folder(folder: &OwnedFd, known: FileType, name: &CStr) -> io::Result<bool> {
    let kind = match known {
        FileType::Unknown => {
            let found = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            FileType::from_raw_mode(found.st_mode)
        }
        known => known,
    };
    Ok(kind == FileType::Directory)
}

/// Removes the empty ones of a folder's folders, and moves the others to the top.
fn move_all_up(from: &OwnedFd, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        let mut names = Vec::new();
        remove_files(from, |name| names.push(name))?;
        if names.is_empty() {
            return Ok(());
        }
        for name in &names {
            // What stands for a subvolume in a snapshot of what it is in can be removed, and not be moved.
            match unlink(from, name, AtFlags::REMOVEDIR) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    move_to(from, name, top, moved)?;
                }
                removed => removed?,
            }
        }
    }
}

/// Moves a folder to the top, under a name that nothing has.
fn move_to(from: impl AsFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match rename_to_new(&from, name, top, &format!(".nspawn-agent-{moved}")) {
            // The guest has a folder of that name.
            Err(Errno::EXIST) => {}
            renamed => return Ok(renamed?),
        }
    }
}

/// Moves something to a path where nothing is; EEXIST otherwise. Unlike a plain rename it replaces no empty folder.
pub fn move_to_new(from: &Path, to: &Path) -> Result<(), Errno> {
    let (Some(parent), Some(name)) = (from.parent(), from.file_name()) else {
        return Err(Errno::INVAL);
    };
    let parent = fs::open(parent, PLACE, Mode::empty())?;
    rename_to_new(&parent, name, fs::CWD, to)
}

/// The same within open folders. A guest without private users may have made it immutable; any, a read-only snapshot.
fn rename_to_new(
    from: impl AsFd,
    name: impl Arg + Copy,
    to: impl AsFd,
    new: impl Arg + Copy,
) -> Result<(), Errno> {
    let (from, to) = (from.as_fd(), to.as_fd());
    match rename_noreplace(from, name, to, new) {
        Err(error @ (Errno::PERM | Errno::ROFS)) => {
            make_mutable(from, name).map_err(|_| error)?;
            rename_noreplace(from, name, to, new)
        }
        renamed => renamed,
    }
}

fn rename_noreplace(
    from: BorrowedFd<'_>,
    name: impl Arg + Copy,
    to: BorrowedFd<'_>,
    new: impl Arg + Copy,
) -> Result<(), Errno> {
    match fs::renameat_with(from, name, to, new, fs::RenameFlags::NOREPLACE) {
        // Older ZFS, and NFS. rename(2)
        Err(Errno::INVAL) => match fs::statat(to, new, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => fs::renameat(from, name, to, new),
            found => Err(found.err().unwrap_or(Errno::EXIST)),
        },
        renamed => renamed,
    }
}

/// A guest without private users may have made its files immutable; any, a read-only snapshot. chattr(1), ioctl_btrfs(2)
fn unlink(folder: &OwnedFd, name: impl Arg + Copy, flags: AtFlags) -> io::Result<()> {
    fault::point(|| "before: remove an entry of a tree");
    match fs::unlinkat(folder, name, flags) {
        Err(Errno::PERM | Errno::ROFS) => {
            make_mutable(folder.as_fd(), name)?;
            Ok(fs::unlinkat(folder, name, flags)?)
        }
        other => Ok(other?),
    }
}

fn make_mutable(folder: BorrowedFd<'_>, name: impl Arg) -> io::Result<()> {
    clear_flags(&fs::openat(folder, ".", FOLDER, Mode::empty())?)?;
    // Only files and folders have such flags; opening anything else may hang.
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let handle = fs::openat(
        folder,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let kind = FileType::from_raw_mode(fs::fstat(&handle)?.st_mode);
    if matches!(kind, FileType::RegularFile | FileType::Directory) {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
        clear_flags(&fs::open(path, flags - OFlags::NOFOLLOW, Mode::empty())?)?;
    }
    Ok(())
}

fn clear_flags(file: &OwnedFd) -> io::Result<()> {
    // Anything but a subvolume of btrfs refuses, and isn't read-only by itself.
    let _ = make_writable(file);
    let fixed = IFlags::IMMUTABLE | IFlags::APPEND;
    let flags = fs::ioctl_getflags(file)?;
    if flags.intersects(fixed) {
        fs::ioctl_setflags(file, flags - fixed)?;
    }
    Ok(())
}

/// BTRFS_IOC_SUBVOL_GETFLAGS and BTRFS_IOC_SUBVOL_SETFLAGS. ioctl_btrfs(2)
const GET_FLAGS: Opcode = opcode::read::<u64>(0x94, 25);
const SET_FLAGS: Opcode = opcode::write::<u64>(0x94, 26);

/// BTRFS_SUBVOL_RDONLY
const READ_ONLY: u64 = 1 << 1;

/// Makes a snapshot writable that was made read-only.
#[allow(unsafe_code, reason = "rustix has no function for this ioctl")]
fn make_writable(subvolume: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: both ioctls take a pointer to these 64 bits, and keep it no longer.
    unsafe {
        let flags = ioctl(subvolume, Getter::<GET_FLAGS, u64>::new())?;
        if flags & READ_ONLY != 0 {
            ioctl(subvolume, Setter::<SET_FLAGS, u64>::new(flags & !READ_ONLY))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
