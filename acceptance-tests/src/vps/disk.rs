//! A server's disk of its own: an ext4 in a file, so that a power cut loses what was not brought to the disk.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result};

use crate::command::{check, command};

/// Bytes; the file is sparse.
const SIZE: u64 = 4 << 30;

/// Makes an empty file system in a file and mounts it.
pub(super) fn make(disk: &Path, root: &Path) -> Result<()> {
    File::create(disk)
        .and_then(|file| file.set_len(SIZE))
        .with_context(|| format!("make {}", disk.display()))?;
    check(
        command(
            "mkfs.ext4",
            ["-q", "-E", "lazy_itable_init=1,lazy_journal_init=1"],
        )
        .arg(disk),
    )?;
    fs::create_dir(root)?;
    mount(disk, root)
}

/// Brings all that is on it to the disk.
pub(super) fn sync(root: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(root)?)?)
}

/// Commits by itself as late as can be, and never just because of a rename: ext4 forgives by default what other
/// file systems don't. ext4(5), auto_da_alloc. The loop device goes with the mount.
fn mount(disk: &Path, root: &Path) -> Result<()> {
    let options = [
        "-t",
        "ext4",
        "-o",
        "loop,noatime,commit=600,noauto_da_alloc",
    ];
    check(command("mount", options).args([disk, root])).map(drop)
}

/// Stops a file system as a power cut does: nothing that is on its way gets to the disk any more. What is on the
/// disk is then mounted anew; no process may be left.
pub(super) fn cut(disk: &Path, root: &Path) -> Result<()> {
    shut_down(&File::open(root)?).with_context(|| format!("shut {} down", root.display()))?;
    check(command("umount", ["--lazy"]).arg(root))?;
    // Labs that have been started since may have a copy of the mount, which keeps the former file system.
    let after = disk.with_extension("after-a-cut");
    check(command("cp", ["--sparse=always", "--reflink=auto"]).args([disk, &after]))?;
    fs::rename(&after, disk)?;
    mount(disk, root)
}

#[allow(unsafe_code, reason = "rustix marks every ioctl(2) as unsafe")]
fn shut_down(root: &File) -> rustix::io::Result<()> {
    use rustix::ioctl::{Setter, ioctl, opcode};
    /// EXT4_IOC_SHUTDOWN of fs/ext4/ext4.h
    const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
    /// EXT4_GOING_FLAGS_NOLOGFLUSH: the journal is not written out either.
    const WITHOUT_JOURNAL: u32 = 2;
    // SAFETY: the kernel reads one u32 from the pointer that Setter passes.
    unsafe { ioctl(root, Setter::<SHUTDOWN, u32>::new(WITHOUT_JOURNAL)) }
}
