use std::{fs as std_fs, os::unix::fs::symlink, process::Command};

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

/// Does something with a folder of btrfs that goes with its mount namespace; nothing where none can be had.
#[allow(unsafe_code, reason = "rustix calls every unshare(2) unsafe")]
fn on_btrfs(work: impl FnOnce(&Path) + Send + 'static) {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .status()
            .is_ok_and(|status| status.success())
    };
    let thread = std::thread::spawn(move || {
        // SAFETY: only this thread moves into the namespace.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        let top = tempfile::tempdir().unwrap();
        let (disk, place) = (top.path().join("disk"), top.path().join("place"));
        let file = std_fs::File::create(&disk).unwrap();
        file.set_len(128 << 20).unwrap();
        std_fs::create_dir(&place).unwrap();
        let [disk, at] = [&disk, &place].map(|path| path.to_str().unwrap());
        if run("mount", &["--make-rprivate", "/"])
            && run("mkfs.btrfs", &["--quiet", disk])
            && run("mount", &["-o", "loop", disk, at])
        {
            work(&place);
            mounts::detach_all(&place).unwrap();
        }
    });
    thread.join().unwrap();
}

#[test]
fn subvolumes_and_snapshots_that_the_guest_made_go() {
    const NESTED: usize = 40;
    on_btrfs(|place| {
        let btrfs = |arguments: &[&str], at: &Path| {
            let mut command = Command::new("btrfs");
            let done = command.arg("subvolume").args(arguments).arg(at).status();
            assert!(done.unwrap().success(), "{arguments:?}");
        };
        let tree = place.join("tree");
        std_fs::create_dir_all(tree.join("a/b")).unwrap();
        let mut folder = tree.join("a/b");
        for _ in 0..NESTED {
            folder.push("subvolume");
            btrfs(&["create"], &folder);
            folder.push("d/e");
            std_fs::create_dir_all(&folder).unwrap();
            std_fs::write(folder.join("file"), "x").unwrap();
        }
        let first = tree.join("a/b/subvolume");
        let first = first.to_str().unwrap();
        for snapshot in ["a/snapshot", "a/b/subvolume/d/e/snapshot", "top"] {
            btrfs(&["snapshot", "-r", first], &tree.join(snapshot));
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    });
}

#[test]
fn what_is_mounted_within_stays() {
    on_btrfs(|place| {
        let path = |path: &str| place.join(path);
        std_fs::create_dir_all(path("tree/a/mounted")).unwrap();
        std_fs::create_dir_all(path("outside/folder")).unwrap();
        rustix::mount::mount_bind(path("outside"), path("tree/a/mounted")).unwrap();
        let error = remove_tree(&path("tree")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        let error = remove_tree(&path("tree/a/mounted")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert!(path("outside/folder").exists());
        mounts::detach_all(&path("tree/a/mounted")).unwrap();
    });
}

#[test]
fn what_is_in_a_place_that_is_linked_elsewhere_goes() {
    let top = tempfile::tempdir().unwrap();
    let path = |path: &str| top.path().join(path);
    std_fs::create_dir_all(path("disk/web/a")).unwrap();
    symlink(path("disk"), path("containers")).unwrap();
    move_to_new(&path("containers/web"), &path("containers/aside")).unwrap();
    remove_tree(&path("containers/aside")).unwrap();
    assert_eq!(std_fs::read_dir(path("disk")).unwrap().count(), 0);
}
