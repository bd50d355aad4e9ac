//! What is mounted on the host, and taking it off.

#![expect(clippy::disallowed_methods, reason = "here are the fault points")]

use std::{
    fs, io,
    os::fd::AsFd,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, StatxAttributes, StatxFlags, statx},
    io::Errno,
    mount::{UnmountFlags, unmount},
    path::Arg,
};

/// Whether this is the root of a mount. statx(2)
pub fn is_mount_root(folder: impl AsFd, path: impl Arg, flags: AtFlags) -> bool {
    statx(folder, path, flags, StatxFlags::TYPE)
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Takes every mount off a folder; none there, or no folder, is fine.
pub fn detach_all(at: &Path) -> io::Result<()> {
    loop {
        // Lazily: a process of the host that looks in must not keep a container from stopping.
        match unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => fault::point(|| format!("take a mount off {}", at.display())),
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes every mount off all that is in a folder: what is removed there would be the host's own, or busy.
pub fn detach_below(folder: &Path) -> io::Result<()> {
    // The kernel knows no links.
    let folder = match fs::canonicalize(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let table = fs::read("/proc/self/mountinfo")?;
    // The last one mounted lies on top.
    let points: Vec<_> = points(&table).collect();
    points
        .iter()
        .rev()
        .filter(|point| **point != folder && point.starts_with(&folder))
        .try_for_each(|point| detach_all(point))
}

/// The mount points of a table as of `proc_pid_mountinfo(5)`.
fn points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|point| PathBuf::from(std::ffi::OsString::from_vec(unescaped(point))))
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        let code = || {
            let digits = std::str::from_utf8(behind.get(..3)?).ok()?;
            u8::from_str_radix(digits, 8).ok()
        };
        if *first == b'\\'
            && let Some(code) = code()
        {
            bytes.push(code);
            rest = behind.get(3..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        let table = b"22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                      23 22 0:20 / /a\\040b\\134c rw - tmpfs tmpfs rw\nshort\n";
        let found: Vec<_> = points(table).collect();
        assert_eq!(found, [Path::new("/"), Path::new("/a b\\c")]);
        for odd in ["\\", "\\04", "\\999", "\\777"] {
            assert_eq!(unescaped(odd.as_bytes()), odd.as_bytes());
        }
    }
}
