//! Trees by digest: shared by every container made from them, and kept until the last one is gone.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use protocol::Failure;
use rustix::fs::{FlockOperation, flock};

use crate::{container::STATE_FOLDER, failure::Context as _, store::Inventory, system::files};

/// Marks a folder that is being filled; its maker holds a lock on the file "lock" in it.
const INCOMING: &str = ".incoming-";

fn trees() -> PathBuf {
    Path::new(STATE_FOLDER).join("images/trees")
}

/// Where the tree of this digest lies.
pub fn folder(digest: &str) -> PathBuf {
    trees().join(digest.strip_prefix("sha256:").unwrap_or(digest))
}

/// A tree in the making. What is in it is gone when this is dropped before it was put in place.
#[derive(Debug)]
pub struct Incoming {
    folder: PathBuf,
    _lock: File,
}

impl Incoming {
    /// A fresh folder.
    pub fn new() -> Result<Self, Failure> {
        Self::within(&trees())
    }

    fn within(trees: &Path) -> Result<Self, Failure> {
        files::create_folder(trees, 0o700)?;
        sweep(trees)?;
        let deed = || format!("make a folder in {}", trees.display());
        let (folder, lock) = (0..u32::MAX)
            .map(|number| trees.join(format!("{INCOMING}{}-{number}", std::process::id())))
            .find_map(|folder| match fs::create_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                made => Some(made.and_then(|()| Ok((lock_in(&folder)?, folder)))),
            })
            .unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()))
            .map(|(lock, folder)| (folder, lock))
            .doing(deed)?;
        fs::create_dir(folder.join("root")).doing(deed)?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    /// Where the tree is put together.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Tells it from others that are made at the same time: "PROCESS-NUMBER".
    pub fn number(&self) -> String {
        let name = self
            .folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        name.trim_start_matches(INCOMING).to_owned()
    }

    /// Where its tarball may lie meanwhile.
    pub fn tarball(&self) -> PathBuf {
        self.folder.join("tarball")
    }

    /// Puts the tree at its place, unless it is there already. The host's lock is held by the caller.
    pub fn put_in_place(self, digest: &str) -> Result<(), Failure> {
        let to = folder(digest);
        if to.is_dir() {
            return Ok(());
        }
        fs::rename(self.root(), &to).doing(|| format!("put {} in place", to.display()))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // What can't be removed now is swept by the next change.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn lock_in(folder: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(folder.join("lock"))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Removes what a killed agent left half-made.
fn sweep(trees: &Path) -> Result<(), Failure> {
    for name in names(trees)? {
        let folder = trees.join(&name);
        if name.starts_with(INCOMING) && lock_in(&folder).is_ok() {
            files::remove_tree(&folder)?;
        }
    }
    Ok(())
}

/// Removes trees that no image and no container needs. The host's lock is held by the caller.
pub fn collect(inventory: &Inventory) -> Result<(), Failure> {
    for digest in unneeded(inventory, &names(&trees())?) {
        files::remove_tree(&trees().join(digest))?;
    }
    sweep(&trees())?;
    for folder in ["images/trees", "images", "containers", ""] {
        files::remove_empty_folder(&Path::new(STATE_FOLDER).join(folder))?;
    }
    Ok(())
}

fn unneeded(inventory: &Inventory, trees: &[String]) -> Vec<String> {
    let images = inventory
        .images
        .values()
        .map(|stored| &stored.assigned.digest);
    let containers = inventory
        .containers
        .values()
        .map(|stored| &stored.assigned.image_digest);
    let needed: BTreeSet<_> = images
        .chain(containers)
        .map(|digest| digest.strip_prefix("sha256:").unwrap_or(digest))
        .collect();
    let is_unneeded = |name: &&String| !name.starts_with('.') && !needed.contains(name.as_str());
    trees.iter().filter(is_unneeded).cloned().collect()
}

fn names(folder: &Path) -> Result<Vec<String>, Failure> {
    let deed = || format!("list {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing(deed)?,
    };
    entries
        .map(|entry| {
            Ok(entry
                .doing(deed)?
                .file_name()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}

/// Brings a tree to the disk before it gets its name: a rename may get there before the data, and
/// a power cut would leave a tree of this digest whose files are empty. syncfs(2)
pub fn sync(root: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(root)?)?)
}

/// Removes device nodes, which no guest may use, and gives the disk used by the rest. Bytes.
pub fn clean_and_measure(folder: &Path) -> io::Result<u64> {
    let found = fs::symlink_metadata(folder)?;
    let kind = found.file_type();
    if kind.is_block_device() || kind.is_char_device() {
        fs::remove_file(folder)?;
        return Ok(0);
    }
    // A file with several names counts once; a folder's links are its subfolders.
    let names = if kind.is_dir() {
        1
    } else {
        found.nlink().max(1)
    };
    let mut bytes = found.blocks() * 512 / names;
    if kind.is_dir() {
        for entry in fs::read_dir(folder)? {
            bytes += clean_and_measure(&entry?.path())?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::container::tests::{container, stored};

    #[test]
    fn what_is_dropped_or_killed_leaves_nothing() {
        let top = tempfile::tempdir().unwrap();
        let trees = top.path().join("trees");
        let first = Incoming::within(&trees).unwrap();
        fs::write(first.root().join("file"), "x").unwrap();
        // A second one at the same time leaves the first alone, and sweeps what nobody holds.
        fs::create_dir(trees.join(".incoming-1-0")).unwrap();
        let second = Incoming::within(&trees).unwrap();
        assert!(first.root().join("file").exists());
        assert_eq!(names(&trees).unwrap().len(), 2);
        drop((first, second));
        assert_eq!(names(&trees).unwrap().len(), 0);
    }

    #[test]
    fn a_tree_stays_until_its_last_container_is_gone() {
        let mut inventory = Inventory {
            containers: BTreeMap::from([("web".parse().unwrap(), stored(container("web")))]),
            ..Inventory::default()
        };
        let trees = ["0".repeat(64), "1".repeat(64), ".incoming-1-0".to_owned()];
        assert_eq!(unneeded(&inventory, &trees), ["1".repeat(64)]);
        inventory.containers.clear();
        assert_eq!(unneeded(&inventory, &trees), trees[..2]);
    }

    #[test]
    fn devices_go_and_the_rest_is_measured() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("file"), vec![7; 100_000]).unwrap();
        let null = top.path().join("null");
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        let device = rustix::fs::makedev(1, 3);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, &null, kind, mode, device).unwrap();
        let bytes = clean_and_measure(top.path()).unwrap();
        assert!((100_000..200_000).contains(&bytes), "{bytes}");
        assert!(!null.exists() && top.path().join("file").exists());
    }
}
