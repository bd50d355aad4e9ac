//! The mounts beneath a container's root, made by system calls: Debian 12's mount(8) knows no
//! X-mount.idmap, and a detached mount is set up in full before anybody can see it.

#![expect(clippy::disallowed_methods, reason = "its steps have fault points")]

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::mount::{
    self, FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags,
};

use super::user_ids::COUNT;
use crate::system::mounts::is_mount_root;

/// A detached, private, read-only bind mount of a folder on which user id 0 shows as `base`.
pub fn idmapped(folder: &Path, base: Option<u32>) -> io::Result<OwnedFd> {
    let tree = mount::open_tree(
        rustix::fs::CWD,
        folder,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let mut attributes = MountAttributes {
        set: libc::MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: libc::MS_PRIVATE,
        user_namespace: 0,
    };
    let namespace = base.map(user_namespace).transpose()?;
    if let Some(namespace) = &namespace {
        attributes.set |= libc::MOUNT_ATTR_IDMAP;
        attributes.user_namespace =
            u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    }
    set_attributes(&tree, &attributes)?;
    Ok(tree)
}

/// Puts a detached mount in place and keeps it private: with a shared one, a second mount on the
/// same folder would show up on the image itself, too (measured).
pub fn attach(mount: &OwnedFd, at: &Path) -> io::Result<()> {
    fault::point(|| format!("before: mount at {}", at.display()));
    mount::move_mount(
        mount,
        "",
        rustix::fs::CWD,
        at,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    fault::point(|| format!("mount at {}, not private yet", at.display()));
    Ok(mount::mount_change(at, MountPropagationFlags::PRIVATE)?)
}

/// A detached overlay. <https://docs.kernel.org/filesystems/overlayfs.html>
pub fn overlay(lower: &Path, upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    let context = mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, path) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        mount::fsconfig_set_string(context.as_fd(), key, path)?;
    }
    mount::fsconfig_set_string(context.as_fd(), "source", "nspawn-agent")?;
    mount::fsconfig_create(context.as_fd())?;
    Ok(mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

/// A detached, writable bind mount of a folder.
pub fn bind(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(mount::open_tree(rustix::fs::CWD, folder, flags)?)
}

/// Whether something is mounted there.
pub fn is_mounted(at: &Path) -> bool {
    is_mount_root(rustix::fs::CWD, at, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
}

/// struct mount_attr of linux/mount.h
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn set_attributes(mount: &OwnedFd, attributes: &MountAttributes) -> io::Result<()> {
    #[allow(unsafe_code, reason = "mount_setattr(2) has no wrapper in rustix")]
    // SAFETY: the descriptor is open, the path is a terminated string, and the structure lives
    // through the call and has the length that is passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A user namespace in which the ids 0 to 65535 are the host's from `base` on.
fn user_namespace(base: u32) -> io::Result<OwnedFd> {
    // The child lives until the writing end is closed.
    let (hold, release) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    #[allow(
        unsafe_code,
        reason = "clone(2) with a namespace flag has no safe wrapper"
    )]
    // SAFETY: without CLONE_VM the child has its own copy of everything; it makes system calls
    // only, which is all that is allowed after a fork of a process that may have threads.
    let child = unsafe {
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        let child = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
        if child == 0 {
            let mut byte = 0_u8;
            libc::close(release.as_raw_fd());
            libc::read(hold.as_raw_fd(), std::ptr::from_mut(&mut byte).cast(), 1);
            libc::_exit(0);
        }
        child
    };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    let namespace = map_ids(child, base);
    drop(release);
    let child = i32::try_from(child)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::waitpid(child, rustix::process::WaitOptions::empty())?;
    namespace
}

fn map_ids(child: libc::c_long, base: u32) -> io::Result<OwnedFd> {
    for map in ["uid_map", "gid_map"] {
        let mut file = File::options()
            .write(true)
            .open(format!("/proc/{child}/{map}"))?;
        file.write_all(format!("0 {base} {COUNT}").as_bytes())?;
    }
    Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, chown},
    };

    use crate::system::mounts::detach_all;

    use super::*;

    const BASE: u32 = 700_000;

    /// Runs in a child with a mount namespace of its own, so that nothing can be left on this machine.
    fn in_own_mount_namespace(test: impl FnOnce()) {
        #[allow(unsafe_code, reason = "fork(2) for a namespace of the test's own")]
        // SAFETY: the child runs the test alone and leaves with _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                #[allow(unsafe_code, reason = "rustix marks unshare as unsafe")]
                // SAFETY: only this process is moved, and it shares no descriptors by threads.
                unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
                    .unwrap();
                let shared = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
                mount::mount_change("/", shared).unwrap();
                test();
            }))
            .is_ok();
            #[allow(unsafe_code, reason = "_exit(2) runs none of the parent's handlers")]
            // SAFETY: ends this process.
            unsafe {
                libc::_exit(i32::from(!passed))
            }
        }
        let child = rustix::process::Pid::from_raw(child).unwrap();
        let (_, status) =
            rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())
                .unwrap()
                .unwrap();
        assert_eq!(
            status.exit_status(),
            Some(0),
            "the test in the child failed, see above"
        );
    }

    fn folder(parent: &Path, name: &str) -> std::path::PathBuf {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn an_overlay_on_an_idmapped_tree_shifts_owners_and_leaves_the_tree_alone() {
        in_own_mount_namespace(|| {
            let top = tempfile::tempdir().unwrap();
            let [tree, lower, upper, work, merged] =
                ["tree", "lower", "upper", "work", "merged"].map(|name| folder(top.path(), name));
            fs::write(tree.join("file"), "image").unwrap();
            chown(tree.join("file"), Some(7), Some(42)).unwrap();
            for path in [&upper, &work] {
                chown(path, Some(BASE), Some(BASE)).unwrap();
            }
            attach(&idmapped(&tree, Some(BASE)).unwrap(), &lower).unwrap();
            attach(&overlay(&lower, &upper, &work).unwrap(), &merged).unwrap();
            assert!(is_mounted(&merged) && is_mounted(&lower) && !is_mounted(&tree));

            let found = fs::metadata(merged.join("file")).unwrap();
            assert_eq!((found.uid(), found.gid()), (BASE + 7, BASE + 42));
            fs::write(merged.join("file"), "guest").unwrap();
            assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), "image");
            assert_eq!(fs::metadata(upper.join("file")).unwrap().uid(), BASE + 7);
            assert!(
                fs::write(lower.join("file"), "x").is_err(),
                "the lower layer is read-only"
            );

            // A mount on the lower one doesn't spread to the image that others share.
            attach(&bind(&upper).unwrap(), &lower).unwrap();
            assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), "image");

            detach_all(&merged).unwrap();
            detach_all(&lower).unwrap();
            detach_all(&top.path().join("never")).unwrap();
            assert!(!is_mounted(&merged) && !is_mounted(&lower));
        });
    }

    #[test]
    fn without_private_users_owners_stay() {
        in_own_mount_namespace(|| {
            let top = tempfile::tempdir().unwrap();
            let [tree, lower] = ["tree", "lower"].map(|name| folder(top.path(), name));
            chown(&tree, Some(7), Some(42)).unwrap();
            attach(&idmapped(&tree, None).unwrap(), &lower).unwrap();
            assert_eq!(fs::metadata(&lower).unwrap().uid(), 7);
        });
    }
}
