//! Trees by digest: shared by every container made from them, and kept until the last one is gone.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use protocol::Failure;
use rustix::fs::{FlockOperation, flock};

use crate::{
    container::STATE_FOLDER, failure::Context as _, lock, store::Inventory, system::files,
};

/// Marks a folder that is being filled; its maker holds a lock on it.
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
        let deed = || format!("make a folder in {}", trees.display());
        let mut number = 0;
        let (folder, lock) = loop {
            files::create_folder(trees, 0o700)?;
            sweep(trees)?;
            let folder = trees.join(format!("{INCOMING}{}-{number}", std::process::id()));
            match fs::create_dir(&folder).and_then(|()| lock::try_folder(&folder)) {
                Ok(Some(lock)) => break (folder, lock),
                // Somebody sweeps it: nobody has locked it yet.
                Ok(None) => number += 1,
                Err(error) if is_contended(&error) => number += 1,
                Err(error) => return Err(error).doing(deed),
            }
        };
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
        let _ = files::remove_tree(&self.folder);
    }
}

/// Whether there is a folder of that name, or somebody has just cleared away the one it is to be in.
fn is_contended(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
    )
}

/// Whether there is what [`collect`] would remove.
pub fn has_leftovers(inventory: &Inventory) -> Result<bool, Failure> {
    let (trees, state) = (trees(), Path::new(STATE_FOLDER));
    let names = names(&trees)?;
    let is_empty = |folder: &str| is_removable(&state.join(folder));
    let half_made = names
        .iter()
        .filter(|name| name.starts_with(INCOMING))
        .any(|name| is_abandoned(&trees.join(name)));
    Ok(half_made
        || !unneeded(inventory, &names).is_empty()
        // While there are others, one that is just being made may be about to use it.
        || (inventory.containers.is_empty() && FOLDERS.into_iter().any(is_empty)))
}

/// Whether a folder is empty and can go: one that the administrator has mounted something on, or has
/// linked to another place, stays.
fn is_removable(folder: &Path) -> bool {
    let (Ok(found), Some(Ok(above))) = (
        fs::symlink_metadata(folder),
        folder.parent().map(fs::symlink_metadata),
    ) else {
        return false;
    };
    found.is_dir()
        && found.dev() == above.dev()
        && fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Whether the maker of a half-made tree is gone. Looks only.
fn is_abandoned(folder: &Path) -> bool {
    File::open(folder).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_ok())
}

/// The folders that go when they are empty, each before the one that it is in.
const FOLDERS: [&str; 4] = ["images/trees", "images", "containers", ""];

/// Removes what a killed agent left half-made.
fn sweep(trees: &Path) -> Result<(), Failure> {
    for name in names(trees)? {
        if !name.starts_with(INCOMING) {
            continue;
        }
        let folder = trees.join(&name);
        let deed = || format!("lock {}", folder.display());
        // Held until it is gone: its maker may be just about to lock it.
        if let Some(_lock) = lock::try_folder(&folder).doing(deed)? {
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
    let state = Path::new(STATE_FOLDER);
    for folder in FOLDERS.map(|folder| state.join(folder)) {
        if is_removable(&folder) {
            files::remove_empty_folder(&folder)?;
        }
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

/// No root file system is nested deeper; each level takes an open file while a tree is walked.
const DEEPEST: usize = 256;

/// Removes device nodes, which no guest may use, and gives the disk used by the rest. Bytes.
pub fn clean_and_measure(folder: &Path) -> io::Result<u64> {
    clean_and_measure_at(folder, 0)
}

fn clean_and_measure_at(path: &Path, depth: usize) -> io::Result<u64> {
    let found = fs::symlink_metadata(path)?;
    let kind = found.file_type();
    if kind.is_block_device() || kind.is_char_device() {
        fs::remove_file(path)?;
        return Ok(0);
    }
    if depth > DEEPEST {
        return Err(io::Error::other(format!(
            "its folders are nested deeper than {DEEPEST}"
        )));
    }
    // A file with several names counts once; a folder's links are its subfolders.
    let names = if kind.is_dir() {
        1
    } else {
        found.nlink().max(1)
    };
    let mut bytes = found.blocks() * 512 / names;
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += clean_and_measure_at(&entry?.path(), depth + 1)?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Barrier};

    use super::*;
    use crate::container::tests::{container, stored};

    #[test]
    fn an_empty_folder_goes_but_no_link_to_one() {
        let top = tempfile::tempdir().unwrap();
        let [empty, full] = ["empty", "full"].map(|name| top.path().join(name));
        fs::create_dir_all(full.join("x")).unwrap();
        fs::create_dir(&empty).unwrap();
        let link = top.path().join("link");
        std::os::unix::fs::symlink(&empty, &link).unwrap();
        assert!(is_removable(&empty));
        for stays in [&full, &link, &top.path().join("never")] {
            assert!(!is_removable(stays), "{}", stays.display());
        }
    }

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
    fn a_tree_is_begun_while_others_sweep() {
        const ROUNDS: usize = 300;
        let top = tempfile::tempdir().unwrap();
        let trees = top.path().join("trees");
        let fill = || {
            let incoming = Incoming::within(&trees)?;
            fs::write(incoming.tarball(), "x").doing(|| "fill a tree")
        };
        // Others sweep a few times meanwhile, and not in a loop without an end.
        let tidy_up = || {
            (0..8).try_for_each(|_| {
                sweep(&trees)?;
                files::remove_empty_folder(&trees)
            })
        };
        let together = Barrier::new(2);
        let failures = |work: &dyn Fn() -> Result<(), Failure>| -> Vec<Failure> {
            let round = |_| {
                together.wait();
                work().err()
            };
            (0..ROUNDS).filter_map(round).collect()
        };
        let (swept, begun) = std::thread::scope(|scope| {
            let swept = scope.spawn(|| failures(&tidy_up));
            let begun = failures(&fill);
            (swept.join().unwrap(), begun)
        });
        assert!(swept.is_empty() && begun.is_empty(), "{swept:?} {begun:?}");
        sweep(&trees).unwrap();
        assert_eq!(names(&trees).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_swept_is_locked_until_it_is_gone() {
        const FILES: usize = 3000;
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join(format!("{INCOMING}1-0"));
        fs::create_dir(&folder).unwrap();
        for number in 0..FILES {
            fs::write(folder.join(number.to_string()), "").unwrap();
        }
        let left = || fs::read_dir(&folder).map_or(0, Iterator::count);
        std::thread::scope(|scope| {
            let sweeping = scope.spawn(|| sweep(top.path()));
            while left() == FILES {
                std::thread::yield_now();
            }
            while folder.exists() {
                assert!(lock::try_folder(&folder).unwrap().is_none());
            }
            sweeping.join().unwrap().unwrap();
        });
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

    #[test]
    fn a_tree_without_bottom_is_refused_and_goes() {
        let top = tempfile::tempdir().unwrap();
        let incoming = Incoming::within(top.path()).unwrap();
        let deep = incoming.root().join("d/".repeat(1500));
        fs::create_dir_all(&deep).unwrap();
        let error = clean_and_measure(&incoming.root()).unwrap_err();
        assert!(error.to_string().contains("nested"), "{error}");
        drop(incoming);
        assert_eq!(names(top.path()).unwrap(), [""; 0]);
    }
}
