//! Files of the host: replaced as a whole, never followed through a symbolic link.

#![expect(clippy::disallowed_methods, reason = "here are the fault points")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
        fchown, symlink,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use protocol::{Failure, FailureKind};
use rustix::{
    fs::{FallocateFlags, FlockOperation, fallocate, flock},
    io::Errno,
    process::geteuid,
};

use super::{
    remove,
    systemd::{is_mask, masked},
};
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
    let Some(folder) = path.parent() else {
        return Err(Failure::new(
            FailureKind::System,
            format!("{} names no file", path.display()),
        ));
    };
    clear_left_of(path)?;
    let (temporary, mut file) = make_temporary(path).doing(deed)?;
    let written = (|| {
        file.write_all(contents)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fault::point(|| format!("fill {}", temporary.display()));
        file.sync_all()?;
        fault::point(|| format!("sync {}", temporary.display()));
        fs::rename(&temporary, path)?;
        fault::point(|| format!("rename {}", temporary.display()));
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        unlink(&temporary)?;
    }
    written.doing(deed)
}

/// What a file is called while it is written; a number of its writer's own follows, for a container's own unit writes
/// without the host's lock.
fn temporary_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}{TEMPORARY}")
}

const TEMPORARY: &str = ".nspawn-agent";

/// Whether a file of this name was being written, after this much of it: also by an earlier agent, without a number.
fn is_temporary(rest: &str) -> bool {
    rest.chars()
        .all(|letter| letter.is_ascii_digit() || letter == '-')
}

/// An empty file that is locked, so that nobody clears it away, and that root alone can open until it is put in place.
/// A lock is never waited for: in a folder that a guest is shown, the guest may have taken it.
fn make_temporary(path: &Path) -> io::Result<(PathBuf, File)> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    const TRIES: usize = 100;
    let name = temporary_name(path);
    for _ in 0..TRIES {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!("{name}{}-{number}", std::process::id()));
        // A killed process that had this number may have left it.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&temporary)?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        // Whoever clears up may just have had it.
        if locked.is_ok() && lock::is_at(&temporary, &file)? {
            return Ok((temporary, file));
        }
        let _ = fs::remove_file(&temporary);
    }
    Err(io::Error::other(
        "somebody locks each file that is to be written there",
    ))
}

/// Removes what killed processes have left of a file that they were replacing; one that is just being written is locked.
fn clear_left_of(path: &Path) -> Result<(), Failure> {
    let own = temporary_name(path);
    clear_temporaries_in(path.parent(), |name| {
        name.strip_prefix(&own).is_some_and(is_temporary)
    })
}

/// The same of these files, each of which may never have come to be: each folder is listed once.
pub fn clear_left_of_all(paths: &[PathBuf]) -> Result<(), Failure> {
    let mut folders: BTreeMap<&Path, BTreeSet<String>> = BTreeMap::new();
    for path in paths {
        if let Some(folder) = path.parent() {
            folders
                .entry(folder)
                .or_default()
                .insert(temporary_name(path));
        }
    }
    // What can't be cleared away in one folder keeps no other from it.
    let mut cleared = Ok(());
    for (folder, own) in folders {
        cleared = cleared.and(clear_temporaries_in(Some(folder), |name| {
            let end = name.rfind(TEMPORARY).map(|at| at + TEMPORARY.len());
            let parts = end.map(|end| name.split_at(end));
            parts.is_some_and(|(name, rest)| own.contains(name) && is_temporary(rest))
        }));
    }
    cleared
}

/// The same of all files in a folder.
pub fn clear_temporaries(folder: &Path) -> Result<(), Failure> {
    clear_temporaries_in(Some(folder), |name| {
        let rest = name.rsplit_once(TEMPORARY).map(|(_, rest)| rest);
        name.starts_with('.') && rest.is_some_and(is_temporary)
    })
}

fn clear_temporaries_in(
    folder: Option<&Path>,
    is_to_go: impl Fn(&str) -> bool,
) -> Result<(), Failure> {
    let Some(folder) = folder.filter(|folder| folder.is_dir()) else {
        return Ok(());
    };
    for name in names(folder)?.iter().filter(|name| is_to_go(name)) {
        lock::Presence::clear(&folder.join(name))?;
    }
    Ok(())
}

/// Writes a text in its file's place, which takes no room on the disk when it grows by little; it stays as it is when there
/// is none. Line ends fill it up to its former length: it is never one text with the rest of another behind it. A power
/// cut may leave half of one that is longer than a block.
pub fn overwrite(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let write = || {
        let mut file = File::options().write(true).open(path)?;
        let former = file.metadata()?.len();
        match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, text.len() as u64) {
            // Of its own length it has room. fallocate(2)
            Err(Errno::OPNOTSUPP) if text.len() as u64 <= former => {}
            reserved => reserved?,
        }
        fault::point(|| format!("make room in {}", path.display()));
        let mut filled = text.to_vec();
        filled.resize(text.len().max(usize::try_from(former).unwrap_or(0)), b'\n');
        file.write_all(&filled)?;
        fault::point(|| format!("fill {} in its place", path.display()));
        file.sync_all()
    };
    write().doing(|| format!("write {} in its place", path.display()))
}

/// Removes a file, and what killed processes have left of it; nothing happens when it isn't there.
pub fn remove_file(path: &Path) -> Result<(), Failure> {
    unlink(path)?;
    clear_left_of(path)
}

/// Removes a file; nothing happens when it isn't there.
pub fn unlink(path: &Path) -> Result<(), Failure> {
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

/// Moves a file to another folder of the same disk, and what killed processes have left of it goes. A power cut leaves it
/// in one of both.
pub fn move_for_good(from: &Path, to: &Path) -> Result<(), Failure> {
    rename(from, to).doing(|| format!("move {} to {}", from.display(), to.display()))?;
    sync_parent(to)?;
    sync_parent(from)?;
    clear_left_of(from)
}

/// Renames a file or folder, which replaces a file or an empty folder of the new name.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fault::point(|| format!("before: move {}", from.display()));
    fs::rename(from, to)?;
    fault::point(|| format!("after: move {}", from.display()));
    Ok(())
}

/// Makes a symbolic link where nothing is.
pub fn make_link(target: &Path, link: &Path) -> io::Result<()> {
    fault::point(|| format!("before: make the link {}", link.display()));
    symlink(target, link)
}

/// Makes one folder where nothing is.
pub fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    fault::point(|| format!("before: make the folder {}", path.display()));
    DirBuilder::new().mode(mode).create(path)
}

/// Gives a folder to a user and the group of the same number.
pub fn give_folder(path: &Path, id: u32) -> io::Result<()> {
    fault::point(|| format!("before: give {} to its user", path.display()));
    chown(path, Some(id), Some(id))
}

/// Sets the permissions of a file or folder.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fault::point(|| format!("before: set the mode of {}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Removes a file, which a power cut must not bring back.
pub fn remove_for_good(path: &Path) -> Result<(), Failure> {
    remove_file(path)?;
    sync_parent(path)
}

/// The same of a file of ours, and nothing to somebody else's in its place; what killed processes have left of it goes
/// in any case.
pub fn remove_own_for_good(path: &Path) -> Result<(), Failure> {
    match compare(path, "")? {
        OwnFile::Foreign => clear_left_of(path),
        // Nothing is asked of a folder that can't be written. unlink(2), EROFS
        OwnFile::Missing => {
            clear_left_of(path)?;
            sync_parent(path)
        }
        OwnFile::Same | OwnFile::Differs => remove_for_good(path),
    }
}

/// Brings to the disk what has come to a folder, and what has gone from it. Without the folder nothing can come back.
pub fn sync_folder(folder: &Path) -> Result<(), Failure> {
    let deed = || format!("bring the folder {} to the disk", folder.display());
    match File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened.and_then(|folder| folder.sync_all()).doing(deed),
    }
}

/// The same of the folder that a file or link is in.
pub fn sync_parent(path: &Path) -> Result<(), Failure> {
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes a folder and those above it.
pub fn create_folder(path: &Path, mode: u32) -> Result<(), Failure> {
    /// Another process may remove one that is empty still.
    const TRIES: usize = 10;
    // One that is there is no step: the kill sweep has nothing to strike.
    if path.is_dir() {
        return Ok(());
    }
    let make = || DirBuilder::new().recursive(true).mode(mode).create(path);
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
    let entry = fs::symlink_metadata(path).ok();
    // A link or a folder in its place must not keep all else from being looked at.
    if entry.as_ref().is_some_and(|entry| !entry.is_file()) {
        return Ok(OwnFile::Foreign);
    }
    let is_open = entry.is_some_and(|entry| is_open_to_others(&entry));
    Ok(match read(path)? {
        None => OwnFile::Missing,
        Some(found) if found == contents.as_bytes() && !is_open => OwnFile::Same,
        // What is empty is nobody's, and is what a torn write leaves.
        Some(found) if found.is_empty() || is_ours(&found) => OwnFile::Differs,
        Some(_) => OwnFile::Foreign,
    })
}

/// Whether others than root may change something: its owner may at any time. Where this doesn't run as root, it is asked
/// of who does.
pub fn is_open_to_others(found: &fs::Metadata) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    found.permissions().mode() & OTHERS_WRITE != 0 || found.uid() != geteuid().as_raw()
}

/// Leaves a folder to root alone, with the mode that it was made with.
pub fn close_folder(path: &Path, mode: u32) -> Result<(), Failure> {
    let deed = || format!("leave the folder {} to root alone", path.display());
    let folder = File::open(path).doing(|| format!("open {}", path.display()))?;
    fchown(&folder, Some(geteuid().as_raw()), None).doing(deed)?;
    folder
        .set_permissions(fs::Permissions::from_mode(mode))
        .doing(deed)
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
        if is_mask(path) {
            let unit = path.file_name().unwrap_or_default();
            return Err(masked(&unit.to_string_lossy()));
        }
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
    use std::sync::{Barrier, atomic::AtomicBool};

    use super::*;

    #[test]
    fn a_text_in_its_place_is_whole_whatever_was_there() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("file");
        for (former, expected) in [("", "{\"a\":1}"), ("{\"a\":1234}\n", "{\"a\":1}\n\n\n\n")] {
            fs::write(&path, former).unwrap();
            overwrite(&path, b"{\"a\":1}").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        }
    }

    #[test]
    fn a_file_is_replaced_by_several_at_once() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("file");
        // Killed processes have left them, one of which an earlier agent's.
        for left in [".file.nspawn-agent", ".file.nspawn-agent4711-0"] {
            fs::write(top.path().join(left), "rest of another").unwrap();
        }
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
    fn a_file_or_folder_that_others_may_write_to_counts_as_changed_until_it_is_put_back() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("file");
        let contents = format!("{HEADER}text\n");
        for (mode, expected) in [
            (0o644, OwnFile::Same),
            (0o600, OwnFile::Same),
            (0o664, OwnFile::Differs),
            (0o646, OwnFile::Differs),
        ] {
            write_own(&path, &contents, 0o644).unwrap();
            assert_eq!(compare(&path, &contents).unwrap(), OwnFile::Same);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(compare(&path, &contents).unwrap(), expected, "{mode:o}");
        }
        let unit = top.path().join("nspawn-agent.service");
        std::os::unix::fs::symlink("/dev/null", &unit).unwrap();
        let failure = write_own(&unit, &contents, 0o644).unwrap_err();
        let told = failure.to_string();
        assert!(told.contains("nspawn-agent.service is masked"), "{told}");
        let is_open = || is_open_to_others(&fs::metadata(top.path()).unwrap());
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(is_open());
        close_folder(top.path(), 0o700).unwrap();
        assert!(!is_open());
        if geteuid().is_root() {
            write_own(&path, &contents, 0o644).unwrap();
            for owned in [path.as_path(), top.path()] {
                std::os::unix::fs::chown(owned, Some(4711), None).unwrap();
            }
            assert!(is_open());
            assert_eq!(compare(&path, &contents).unwrap(), OwnFile::Differs);
            close_folder(top.path(), 0o700).unwrap();
            write_own(&path, &contents, 0o644).unwrap();
            assert_eq!(compare(&path, &contents).unwrap(), OwnFile::Same);
            assert!(!is_open());
        }
    }

    #[test]
    fn whoever_locks_all_that_is_there_holds_nobody_up() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("file");
        let left = top.path().join(".file.nspawn-agent");
        fs::write(&left, "half").unwrap();
        let left = File::open(left).unwrap();
        flock(&left, FlockOperation::LockShared).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut locked = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let open = |name: &String| File::open(top.path().join(name)).ok();
                    for file in names(top.path()).unwrap().iter().filter_map(open) {
                        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
                            locked.push(file);
                        }
                    }
                }
            });
            for _ in 0..50 {
                replace(&path, b"whole", 0o644).unwrap();
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    }

    #[test]
    fn with_a_file_goes_what_was_left_of_it_and_nothing_else() {
        let top = tempfile::tempdir().unwrap();
        let others = [".file.nspawn-agent.json", ".file2.nspawn-agent1-0", "file2"];
        let own = ["file", ".file.nspawn-agent", ".file.nspawn-agent12-3"];
        for name in [&others[..], &own[..]].concat() {
            fs::write(top.path().join(name), "half").unwrap();
        }
        remove_file(&top.path().join("file")).unwrap();
        let mut left = names(top.path()).unwrap();
        left.sort();
        assert_eq!(left, others);
        remove_file(&top.path().join("nothing/file")).unwrap();
    }

    #[test]
    fn what_a_killed_process_has_left_of_a_file_goes_and_what_is_being_written_stays() {
        let top = tempfile::tempdir().unwrap();
        for name in [
            ".left.nspawn-agent",
            ".left.nspawn-agent1-2",
            ".busy.nspawn-agent",
            ".other",
            "file",
        ] {
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
    fn what_was_left_of_several_files_goes_and_nothing_else() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        let (own, others) = (
            [
                ".a.conf.nspawn-agent391-2",
                ".b.nspawn-agent",
                ".b.nspawn-agent1-0",
            ],
            [".a.conf.nspawn-agent.json", ".c.nspawn-agent1-0", "a.conf"],
        );
        for name in [&own[..], &others[..]].concat() {
            fs::write(path(name), "half").unwrap();
        }
        clear_left_of_all(&[path("a.conf"), path("b"), path("nothing/d")]).unwrap();
        let mut left = names(top.path()).unwrap();
        left.sort();
        assert_eq!(left, others);
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
