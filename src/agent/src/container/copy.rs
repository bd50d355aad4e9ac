//! A copy of an image's tree with the guest's own user ids.

#![expect(clippy::disallowed_methods, reason = "its steps have fault points")]

use std::{
    collections::HashSet,
    ffi::{CStr, CString},
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, lchown},
    },
    path::Path,
    process::Command,
};

use protocol::{Failure, FailureKind};

use super::user_ids::COUNT;
use crate::{command, failure::Context as _};

/// The extended attribute of file capabilities. capabilities(7)
const CAPABILITY: &CStr = c"security.capability";
/// Those of access control lists. acl(5)
const LISTS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];
/// The longest extended attribute. Bytes; linux/limits.h, XATTR_SIZE_MAX
const LONGEST: usize = 64 * 1024;

/// Copies a tree, sharing blocks where the file system can, and shifts its owners.
pub fn copy_tree(tree: &Path, to: &Path, uid_base: u32) -> Result<(), Failure> {
    let deed = || format!("copy {} to {}", tree.display(), to.display());
    let mut program = Command::new("cp");
    program
        .args(["--archive", "--reflink=auto", "--"])
        .args([tree, to])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8");
    command::end_with_parent(&mut program);
    let output = program.output().doing(deed)?;
    if !output.status.success() {
        let complaint = command::tail(&output.stderr);
        let is_full = complaint.contains("No space left on device");
        let kind = if is_full {
            FailureKind::DiskFull
        } else {
            FailureKind::Command
        };
        return Err(Failure::new(
            kind,
            format!("could not {}: {complaint}", deed()),
        ));
    }
    if uid_base == 0 {
        Ok(())
    } else {
        shift(to, uid_base).doing(deed)
    }
}

/// Adds `base` to the owners of a tree. A file with several names is shifted once.
fn shift(path: &Path, base: u32) -> io::Result<()> {
    shift_beneath(path, base, &mut HashSet::new())
}

fn shift_beneath(path: &Path, base: u32, done: &mut HashSet<u64>) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_dir() || found.nlink() == 1 || done.insert(found.ino()) {
        let capability = get_attribute(path, CAPABILITY);
        lchown(
            path,
            Some(shifted(found.uid(), base)),
            Some(shifted(found.gid(), base)),
        )?;
        if !found.is_symlink() {
            // chown(2) takes set-user-id bits and capabilities away.
            fs::set_permissions(path, found.permissions())?;
        }
        fault::point(|| "change the owner of a file of a copy");
        if let Some(capability) = capability.and_then(|bytes| with_root_id(&bytes, base)) {
            set_attribute(path, CAPABILITY, &capability)?;
        }
        for name in LISTS {
            if let Some(list) = get_attribute(path, name) {
                set_attribute(path, name, &with_shifted_ids(list, base))?;
            }
        }
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            shift_beneath(&entry?.path(), base, done)?;
        }
    }
    Ok(())
}

/// An id that the guest can't have would be another guest's, or the host's own: it becomes nobody's.
fn shifted(id: u32, base: u32) -> u32 {
    const NOBODY: u32 = 65_534;
    base + if id < COUNT { id } else { NOBODY }
}

/// A capability that holds in the user namespace whose root is `base`. struct vfs_ns_cap_data
fn with_root_id(capability: &[u8], base: u32) -> Option<Vec<u8>> {
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    const EFFECTIVE: u32 = 1;
    let (magic, sets) = capability.split_first_chunk::<4>()?;
    let magic = u32::from_le_bytes(*magic);
    let is_revision_2 = magic & !EFFECTIVE == REVISION_2 && sets.len() == 16;
    is_revision_2.then(|| {
        let magic = REVISION_3 | (magic & EFFECTIVE);
        [magic.to_le_bytes().as_slice(), sets, &base.to_le_bytes()].concat()
    })
}

/// An access control list whose named users and groups are the guest's. struct posix_acl_xattr_entry
fn with_shifted_ids(mut list: Vec<u8>, base: u32) -> Vec<u8> {
    const HEADER: usize = 4;
    const ENTRY: usize = 8;
    /// ACL_USER and ACL_GROUP; the other kinds have no id.
    const NAMED: [u16; 2] = [2, 8];
    for entry in list
        .get_mut(HEADER..)
        .unwrap_or_default()
        .chunks_exact_mut(ENTRY)
    {
        if let [kind_low, kind_high, _, _, id @ ..] = entry
            && NAMED.contains(&u16::from_le_bytes([*kind_low, *kind_high]))
            && let Some(id) = id.first_chunk_mut::<4>()
        {
            *id = shifted(u32::from_le_bytes(*id), base).to_le_bytes();
        }
    }
    list
}

/// None also where there are no attributes.
fn get_attribute(path: &Path, name: &CStr) -> Option<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // Nearly all are short.
    [128, LONGEST].into_iter().find_map(|room| {
        let mut bytes = vec![0; room];
        let length = rustix::fs::lgetxattr(path.as_c_str(), name, &mut bytes[..]).ok()?;
        bytes.truncate(length);
        Some(bytes)
    })
}

fn set_attribute(path: &Path, name: &CStr, value: &[u8]) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = rustix::fs::XattrFlags::empty();
    Ok(rustix::fs::lsetxattr(path.as_c_str(), name, value, flags)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn owners_shift_once_and_rights_stay() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let file = tree.join("file");
        fs::write(&file, "x").unwrap();
        fs::hard_link(&file, tree.join("again")).unwrap();
        symlink("/nowhere", tree.join("link")).unwrap();
        lchown(&file, Some(7), Some(8)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
        // cap_net_raw=ep, as ping has it.
        let mut capability = [0_u8; 20];
        capability[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
        capability[5] = 0x20;
        set_attribute(&file, CAPABILITY, &capability).unwrap();
        let list = |user: u32, group: u32| {
            let entry = |kind: u16, rights: u16, id: u32| {
                [
                    &kind.to_le_bytes()[..],
                    &rights.to_le_bytes(),
                    &id.to_le_bytes(),
                ]
                .concat()
            };
            let all = [
                2_u32.to_le_bytes().to_vec(),
                entry(1, 7, u32::MAX),
                entry(2, 6, user),
                entry(4, 5, u32::MAX),
                entry(8, 4, group),
                entry(0x10, 5, u32::MAX),
                entry(0x20, 5, u32::MAX),
            ];
            all.concat()
        };
        set_attribute(&tree, LISTS[1], &list(7, 70_000)).unwrap();

        let copy = folder.path().join("copy");
        copy_tree(&tree, &copy, 600_000).unwrap();
        let found = fs::metadata(copy.join("again")).unwrap();
        assert_eq!(
            (found.uid(), found.gid(), found.mode() & 0o7777),
            (600_007, 600_008, 0o4755)
        );
        assert_eq!(
            fs::symlink_metadata(copy.join("link")).unwrap().uid(),
            600_000
        );
        assert_eq!(fs::metadata(&copy).unwrap().uid(), 600_000);
        let inherited = get_attribute(&copy, LISTS[1]).unwrap();
        assert_eq!(inherited, list(600_007, 665_534));
        let shifted = get_attribute(&copy.join("file"), CAPABILITY).unwrap();
        assert_eq!(shifted[..4], 0x0300_0001_u32.to_le_bytes());
        assert_eq!(shifted[20..], 600_000_u32.to_le_bytes());
        assert_eq!(
            fs::metadata(&file).unwrap().uid(),
            7,
            "the image stays as it is"
        );
    }

    #[test]
    fn what_is_no_capability_is_left_out() {
        for bytes in [&[][..], &[1, 2, 3], &[0; 20], &[0; 64]] {
            assert_eq!(with_root_id(bytes, 1), None);
        }
    }

    #[test]
    fn what_is_no_list_stays() {
        for bytes in [&[][..], &[2, 0, 0, 0], &[2, 0, 0, 0, 2, 0, 6], &[1, 2, 3]] {
            assert_eq!(with_shifted_ids(bytes.to_vec(), 1), bytes);
        }
    }

    #[test]
    fn nobody_gets_the_ids_of_another_guest() {
        for (id, to) in [
            (0, 0),
            (65_535, 65_535),
            (65_536, 65_534),
            (u32::MAX, 65_534),
        ] {
            assert_eq!(shifted(id, 600_000), 600_000 + to, "{id}");
        }
    }
}
