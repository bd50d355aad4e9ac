//! Removes a tree that a guest has filled.
//!
//! A guest may nest folders deeper than a process may have open files, or than its stack is high; so
//! deep folders are moved up before they are looked into. Nothing changes the tree meanwhile: its
//! guest has ended.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, IFlags, Mode, OFlags},
    io::Errno,
    path::Arg,
};

/// Removes a file or a folder with all that is in it; fine when it isn't there.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("it names no file"));
    };
    let parent = match fs::open(parent, FOLDER, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let top = match fs::openat(&parent, name, FOLDER, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        // A file, or a link, which isn't followed.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return unlink(&parent, name, AtFlags::empty());
        }
        Err(error) => return Err(error.into()),
    };
    empty(&top)?;
    unlink(&parent, name, AtFlags::REMOVEDIR)
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// How many folders of one folder are known at once: a guest may have made millions of them.
const FOLDERS_AT_ONCE: usize = 10_000;

/// Removes everything in a folder.
fn empty(top: &OwnedFd) -> io::Result<()> {
    let mut moved = 0_u64;
    loop {
        let mut folders = Vec::new();
        remove_files(top, |name| folders.push(name))?;
        if folders.is_empty() {
            return Ok(());
        }
        for name in folders {
            let folder = fs::openat(top, &name, FOLDER, Mode::empty())?;
            remove_files(&folder, |_| {})?;
            while move_one_up(&folder, top, &mut moved)? {}
            unlink(top, &name, AtFlags::REMOVEDIR)?;
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

fn is_folder(folder: &OwnedFd, known: FileType, name: &std::ffi::CStr) -> io::Result<bool> {
    let kind = match known {
        FileType::Unknown => {
            let found = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            FileType::from_raw_mode(found.st_mode)
        }
        known => known,
    };
    Ok(kind == FileType::Directory)
}

/// Moves the folders of a folder to the top; tells whether there were any.
fn move_one_up(from: &OwnedFd, top: &OwnedFd, moved: &mut u64) -> io::Result<bool> {
    let mut names = Vec::new();
    remove_files(from, |name| names.push(name))?;
    for name in &names {
        loop {
            *moved += 1;
            let to = format!(".nspawn-agent-{moved}");
            match rename_to_new(from, name, top, &to) {
                Ok(()) => break,
                // The guest has a folder of that name.
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(!names.is_empty())
}

/// Moves something to a path where nothing is; EEXIST otherwise. Unlike a plain rename it replaces no empty folder.
pub fn move_to_new(from: &Path, to: &Path) -> Result<(), Errno> {
    let (Some(parent), Some(name)) = (from.parent(), from.file_name()) else {
        return Err(Errno::INVAL);
    };
    let parent = fs::open(parent, FOLDER, Mode::empty())?;
    rename_to_new(&parent, name, fs::CWD, to)
}

/// The same within open folders. A guest without private users may have made it immutable.
fn rename_to_new(
    from: impl AsFd,
    name: impl Arg + Copy,
    to: impl AsFd,
    new: impl Arg + Copy,
) -> Result<(), Errno> {
    let (from, to) = (from.as_fd(), to.as_fd());
    match rename_noreplace(from, name, to, new) {
        Err(Errno::PERM) => {
            make_mutable(from, name).map_err(|_| Errno::PERM)?;
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

/// A guest without private users may have made its files immutable. chattr(1)
fn unlink(folder: &OwnedFd, name: impl Arg + Copy, flags: AtFlags) -> io::Result<()> {
    fault::point(|| "before: remove an entry of a tree");
    match fs::unlinkat(folder, name, flags) {
        Err(Errno::PERM) => {
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
    let fixed = IFlags::IMMUTABLE | IFlags::APPEND;
    let flags = fs::ioctl_getflags(file)?;
    if flags.intersects(fixed) {
        fs::ioctl_setflags(file, flags - fixed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs as std_fs, os::unix::fs::symlink};

    use super::*;

    /// Deeper than the stack is high and than files may be open.
    const DEEP: usize = 5_000;

    #[test]
    fn a_tree_deeper_than_files_may_be_open_goes() {
        let top = tempfile::tempdir().unwrap();
        let tree = top.path().join("tree");
        std_fs::create_dir(&tree).unwrap();
        let mut folder = fs::open(&tree, FOLDER, Mode::empty()).unwrap();
        for level in 0..DEEP {
            for name in ["d", "e"] {
                if name == "d" || level % 100 == 0 {
                    fs::mkdirat(&folder, name, Mode::from_raw_mode(0o700)).unwrap();
                }
            }
            folder = fs::openat(&folder, "d", FOLDER, Mode::empty()).unwrap();
        }
        drop(folder);
        // The guest may know how folders are called that are moved up.
        std_fs::create_dir_all(tree.join(".nspawn-agent-1/.nspawn-agent-2")).unwrap();
        std_fs::write(tree.join(".nspawn-agent-1/.nspawn-agent-2/file"), "x").unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn of_many_folders_a_part_is_known_at_once() {
        let top = tempfile::tempdir().unwrap();
        let tree = top.path().join("tree");
        for number in 0..=FOLDERS_AT_ONCE {
            std_fs::create_dir_all(tree.join(format!("a/{number}"))).unwrap();
        }
        std_fs::write(tree.join("a/file"), "x").unwrap();
        let folder = fs::open(tree.join("a"), FOLDER, Mode::empty()).unwrap();
        let mut known = 0;
        remove_files(&folder, |_| known += 1).unwrap();
        assert_eq!(known, FOLDERS_AT_ONCE);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let path = |path: &str| top.path().join(path);
        std_fs::create_dir_all(path("outside/folder")).unwrap();
        std_fs::write(path("outside/file"), "x").unwrap();
        std_fs::create_dir_all(path("tree/a/b")).unwrap();
        symlink(path("outside"), path("tree/a/link")).unwrap();
        symlink(path("outside/folder"), path("tree/link")).unwrap();
        symlink(path("outside"), path("link")).unwrap();
        for tree in ["tree", "link", "never", "never/there"] {
            remove_tree(&path(tree)).unwrap();
            assert!(std_fs::symlink_metadata(path(tree)).is_err(), "{tree}");
        }
        assert!(path("outside/file").exists() && path("outside/folder").exists());
    }

    #[test]
    fn what_the_guest_made_immutable_goes() {
        let top = tempfile::tempdir().unwrap();
        let tree = top.path().join("tree");
        std_fs::create_dir_all(tree.join("a/b")).unwrap();
        std_fs::write(tree.join("a/file"), "x").unwrap();
        for fixed in ["a/file", "a/b", "a", ""] {
            let file = fs::open(tree.join(fixed), OFlags::RDONLY, Mode::empty()).unwrap();
            let set = fs::ioctl_setflags(&file, IFlags::IMMUTABLE);
            if set.is_err() {
                // This file system has no such flag, so no guest can set it either.
                return;
            }
        }
        let aside = top.path().join("aside");
        move_to_new(&tree, &aside).unwrap();
        std_fs::create_dir(&tree).unwrap();
        assert_eq!(move_to_new(&tree, &aside), Err(Errno::EXIST));
        remove_tree(&aside).unwrap();
        assert!(!aside.exists() && tree.exists());
    }
}
