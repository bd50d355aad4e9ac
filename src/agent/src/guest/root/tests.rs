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

/// A guest's root may hold a lease on each of its files, which an open(2) that blocks would wait for: 45 seconds.
/// fcntl(2), Leases
#[test]
#[allow(unsafe_code, reason = "rustix has neither F_SETLEASE nor signal(2)")]
fn a_file_under_lease_does_not_hold_us_up() {
    let case = Case::new();
    fs::write(case.path("leased"), "web\n").unwrap();
    let holder = File::options()
        .write(true)
        .open(case.path("leased"))
        .unwrap();
    // SAFETY: neither touches memory of ours. SIGIO asks for the lease, and would end this program.
    let leased = unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
        libc::fcntl(holder.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK)
    };
    assert_eq!(leased, 0, "{}", io::Error::last_os_error());
    let error = case.root.read("leased").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    // Replacing it needs no open of what is there.
    case.root.write("leased", "new\n", PUBLIC).unwrap();
    assert_eq!(case.root.read("leased").unwrap().unwrap(), "new\n");
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
    let error = case.root.read("big").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    let file = File::options().write(true).open(case.path("big")).unwrap();
    file.set_len(READ_LIMIT).unwrap();
    let text = case.root.read("big").unwrap().unwrap();
    assert_eq!(text.len() as u64, READ_LIMIT);
}
