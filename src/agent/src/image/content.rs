//! The sum of all that is in a tree: what commands make of a recipe isn't known from the recipe.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::Path,
};

use rustix::{fs::SeekFrom as Place, io::Errno};
use sha2::{Digest as _, Sha256};

/// How much of a file is read at once. Bytes.
const PIECE: u64 = 256 * 1024;

/// Names, kinds, modes, owners, extended attributes and contents, and no times: what is made twice alike is the same.
/// The tree is no deeper than `clean_and_measure` lets it be.
pub fn sum(root: &Path) -> io::Result<Vec<u8>> {
    let mut hash = Sha256::new();
    add(&mut hash, root)?;
    Ok(hash.finalize().to_vec())
}

fn add(hash: &mut Sha256, path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    for number in [found.mode(), found.uid(), found.gid()] {
        hash.update(number.to_le_bytes());
    }
    let kind = found.file_type();
    if kind.is_symlink() {
        part(hash, fs::read_link(path)?.as_os_str().as_bytes());
    } else if kind.is_dir() {
        let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort();
        hash.update((names.len() as u64).to_le_bytes());
        for name in names {
            part(hash, name.as_bytes());
            add(hash, &path.join(name))?;
        }
    } else if kind.is_file() {
        add_contents(hash, &mut File::open(path)?, found.len())?;
    }
    // A link, a FIFO and a socket have none that an image could bring along.
    if kind.is_fifo() || kind.is_socket() || kind.is_symlink() {
        return Ok(());
    }
    add_attributes(hash, path)
}

/// What makes no difference between a hole and zeros; a hole of terabytes takes no time.
fn add_contents(hash: &mut Sha256, file: &mut File, length: u64) -> io::Result<()> {
    hash.update(length.to_le_bytes());
    let (mut at, mut piece) = (0, Vec::new());
    while at < length {
        match rustix::fs::seek(&*file, Place::Data(at)) {
            // Pieces begin where they would without holes.
            Ok(data) => at = data - data % PIECE,
            Err(Errno::NXIO) => break,
            // This file system knows no holes.
            Err(_) => {}
        }
        piece.clear();
        file.seek(SeekFrom::Start(at))?;
        file.by_ref().take(PIECE).read_to_end(&mut piece)?;
        if piece.iter().any(|byte| *byte != 0) {
            hash.update(at.to_le_bytes());
            part(hash, &piece);
        }
        at += PIECE;
    }
    Ok(())
}

/// Such as capabilities(7) of programs, and acl(5).
fn add_attributes(hash: &mut Sha256, path: &Path) -> io::Result<()> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        length => length?,
    };
    let listed = names.get(..length).unwrap_or_default();
    let mut names: Vec<_> = listed.split_inclusive(|byte| *byte == 0).collect();
    names.sort_unstable();
    let mut value = vec![0; 64 * 1024];
    for name in names {
        let name = std::ffi::CStr::from_bytes_with_nul(name).map_err(io::Error::other)?;
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        part(hash, name.to_bytes());
        part(hash, value.get(..length).unwrap_or_default());
    }
    Ok(())
}

fn part(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_le_bytes());
    hash.update(part);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn tree(change: impl FnOnce(&Path)) -> Vec<u8> {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("etc")).unwrap();
        fs::write(top.path().join("etc/file"), "x").unwrap();
        symlink("file", top.path().join("etc/link")).unwrap();
        change(top.path());
        sum(top.path()).unwrap()
    }

    #[test]
    fn what_differs_has_another_sum() {
        let plain = tree(|_| {});
        assert_eq!(plain, tree(|_| {}));
        let file = |top: &Path| top.join("etc/file");
        let changed = [
            tree(|top| fs::write(file(top), "y").unwrap()),
            tree(|top| fs::rename(file(top), top.join("etc/other")).unwrap()),
            tree(|top| fs::set_permissions(file(top), fs::Permissions::from_mode(0o4755)).unwrap()),
            tree(|top| std::os::unix::fs::chown(file(top), Some(7), None).unwrap()),
            tree(|top| {
                fs::remove_file(top.join("etc/link")).unwrap();
                symlink("other", top.join("etc/link")).unwrap();
            }),
            tree(|top| {
                let flags = rustix::fs::XattrFlags::empty();
                // An empty set of capabilities, as the kernel writes it.
                let none = [1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                let path = file(top);
                rustix::fs::setxattr(path, "security.capability", &none, flags).unwrap();
            }),
        ];
        for (number, other) in changed.iter().enumerate() {
            assert_ne!(plain, *other, "{number}");
        }
    }

    #[test]
    fn a_hole_is_what_zeros_are_and_takes_no_time() {
        let length = 3 * PIECE + 7;
        let with = |write: fn(&mut File, u64)| {
            tree(|top| {
                let mut file = File::create(top.join("holes")).unwrap();
                file.set_len(length).unwrap();
                write(&mut file, length);
            })
        };
        let hole = with(|_, _| {});
        let zeros = with(|file, length| {
            io::copy(&mut io::repeat(0).take(length), file)
                .map(drop)
                .unwrap();
        });
        assert_eq!(hole, zeros);
        let late = with(|file, length| {
            file.seek(SeekFrom::Start(length - 1)).unwrap();
            io::Write::write_all(file, b"x").unwrap();
        });
        assert_ne!(hole, late);
        let huge = tree(|top| {
            File::create(top.join("huge"))
                .unwrap()
                .set_len(1 << 43)
                .unwrap();
        });
        assert_ne!(hole, huge);
    }
}
