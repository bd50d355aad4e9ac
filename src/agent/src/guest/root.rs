//! Files beneath a guest's root, whose content is hostile: links, FIFOs and devices may stand
//! anywhere, and may change while we look.
//!
//! Every path is resolved by the kernel beneath an O_PATH handle. openat2(2), RESOLVE_IN_ROOT

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

/// No file that we read in a guest is longer. Bytes.
const READ_LIMIT: u64 = 1 << 20;

/// No folder that we look into in a guest holds more files.
const NAMES_LIMIT: usize = 10_000;

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
        File::from(file).take(READ_LIMIT).read_to_end(&mut bytes)?;
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
        let temporary = format!(".nspawn-agent.{name}");
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
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    const PUBLIC: Access = Access {
        mode: 0o644,
        group: 0,
    };

    struct Case {
        folder: tempfile::TempDir,
        root: GuestRoot,
    }

    impl Case {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("root")).unwrap();
            let root = GuestRoot::open(&folder.path().join("root"), 600_000).unwrap();
            Self { folder, root }
        }

        fn path(&self, path: &str) -> std::path::PathBuf {
            self.folder.path().join("root").join(path)
        }
    }

    #[test]
    fn a_file_is_made_with_its_folders_and_owner() {
        let case = Case::new();
        case.root
            .write(
                "root/.ssh/authorized_keys",
                "key\n",
                Access {
                    mode: 0o600,
                    group: 5,
                },
            )
            .unwrap();
        let found = fs::metadata(case.path("root/.ssh/authorized_keys")).unwrap();
        assert_eq!(
            (found.uid(), found.gid(), found.mode() & 0o777),
            (600_000, 600_005, 0o600)
        );
        assert_eq!(fs::metadata(case.path("root")).unwrap().uid(), 600_000);
        assert_eq!(
            case.root
                .read("/root/.ssh/authorized_keys")
                .unwrap()
                .unwrap(),
            "key\n"
        );
        let access = case
            .root
            .access("root/.ssh/authorized_keys")
            .unwrap()
            .unwrap();
        assert_eq!(
            access,
            Access {
                mode: 0o600,
                group: 5
            }
        );
        case.root.make_folder("root/.ssh", 0o700).unwrap();
        assert_eq!(
            fs::metadata(case.path("root/.ssh")).unwrap().mode() & 0o777,
            0o700
        );
        assert_eq!(
            fs::read_dir(case.path("root/.ssh")).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let case = Case::new();
        let outside = case.folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("hostname"), "host").unwrap();
        // A folder that is an absolute link, one that climbs, and a file that is a link.
        symlink(&outside, case.path("etc")).unwrap();
        symlink("../../../../../../../../../../tmp", case.path("root")).unwrap();
        symlink(outside.join("hostname"), case.path("hostname")).unwrap();
        assert!(
            case.root.write("etc/hostname", "web\n", PUBLIC).is_err(),
            "its target isn't in the guest"
        );
        case.root.write("hostname", "web\n", PUBLIC).unwrap();
        assert_eq!(
            fs::read_to_string(outside.join("hostname")).unwrap(),
            "host"
        );
        assert!(
            !fs::symlink_metadata(case.path("hostname"))
                .unwrap()
                .is_symlink()
        );
        // Where the target exists inside the guest, the guest's own link is honoured.
        fs::create_dir(case.path("tmp")).unwrap();
        case.root.write("root/x", "in\n", PUBLIC).unwrap();
        assert_eq!(fs::read_to_string(case.path("tmp/x")).unwrap(), "in\n");
        assert!(!Path::new("/tmp/x").exists());
    }

    #[test]
    fn etc_that_is_the_hosts_root() {
        let case = Case::new();
        symlink("/", case.path("etc")).unwrap();
        assert_eq!(case.root.read("etc/etc/passwd").unwrap(), None);
        symlink("/proc/self/root", case.path("magic")).unwrap();
        assert_eq!(case.root.read("magic/etc/passwd").unwrap(), None);
    }

    #[test]
    fn what_is_no_file_neither_hangs_nor_is_opened() {
        let case = Case::new();
        let fifo = |path: &str| {
            let mode = Mode::from_raw_mode(0o666);
            rustix::fs::mknodat(rustix::fs::CWD, case.path(path), FileType::Fifo, mode, 0).unwrap();
        };
        fifo("etc");
        fifo("fifo");
        fs::create_dir(case.path("folder")).unwrap();
        assert!(case.root.write("etc/hostname", "web\n", PUBLIC).is_err());
        assert!(case.root.read("fifo").is_err());
        assert!(case.root.read("folder").is_err());
        assert!(case.root.write("folder", "web\n", PUBLIC).is_err());
        assert_eq!(
            fs::read_dir(case.path("")).unwrap().count(),
            3,
            "no temporary file is left"
        );
        case.root.write("fifo", "web\n", PUBLIC).unwrap();
        assert_eq!(fs::read_to_string(case.path("fifo")).unwrap(), "web\n");
        assert_eq!(
            fs::metadata(case.path("fifo"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o644
        );
    }

    #[test]
    fn a_folder_without_end_is_read_to_a_bound() {
        let case = Case::new();
        fs::create_dir(case.path("ssh")).unwrap();
        for number in 0..=NAMES_LIMIT {
            File::create(case.path(&format!("ssh/{number}"))).unwrap();
        }
        let error = case.root.names("ssh").unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }

    /// The guest's root exchanges a folder for a link to the host's while we write, again and again.
    #[test]
    fn a_folder_that_becomes_a_link_meanwhile_leads_nowhere_outside() {
        let case = Case::new();
        let outside = case.folder.path().join("outside");
        fs::create_dir_all(outside.join("ssh")).unwrap();
        fs::create_dir_all(case.path("etc/ssh")).unwrap();
        symlink(&outside, case.path("link")).unwrap();
        symlink("../../../../../../../../../outside", case.path("climbing")).unwrap();
        let (etc, links) = (case.path("etc"), [case.path("link"), case.path("climbing")]);
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&stop);
        let flip = std::thread::spawn(move || {
            let mut flips = 0_u32;
            while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                for link in &links {
                    let exchange = rustix::fs::RenameFlags::EXCHANGE;
                    let here = rustix::fs::CWD;
                    rustix::fs::renameat_with(here, &etc, here, link, exchange).unwrap();
                    rustix::fs::renameat_with(here, &etc, here, link, exchange).unwrap();
                    flips += 1;
                }
            }
            flips
        });
        let mut written = 0;
        for _ in 0..20_000 {
            // Either well, or an error: never outside.
            written += u32::from(case.root.write("etc/ssh/key", "secret\n", PUBLIC).is_ok());
            let _ = case.root.make_folder("etc/ssh", 0o700);
            let _ = case.root.remove("etc/ssh/key");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let flips = flip.join().unwrap();
        assert!(
            written > 0 && flips > 100,
            "{written} writes, {flips} flips"
        );
        assert_eq!(fs::read_dir(outside.join("ssh")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(
            fs::metadata(outside.join("ssh")).unwrap().mode() & 0o777,
            0o755
        );
    }

    #[test]
    fn a_file_that_never_ends_is_read_to_a_bound() {
        let case = Case::new();
        File::create(case.path("big"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        assert_eq!(
            case.root.read("big").unwrap().unwrap().len() as u64,
            READ_LIMIT
        );
    }
}
