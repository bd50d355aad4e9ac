//! A tree in the making, and what is left of one whose maker was killed.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use protocol::Failure;
use rustix::fs::{FlockOperation, flock};
use tokio::runtime::Handle;

use super::tree;
use crate::{container, discarded, failure::Context as _, lock, store::Inventory, system::files};

/// Marks a folder that is being filled; its maker holds a lock on it.
const INCOMING: &str = ".incoming-";

/// Where the tree is put together in it.
const ROOT: &str = "root";

/// A tree in the making. What is in it is gone when this is dropped before it was put in place.
#[derive(Debug)]
pub struct Incoming {
    folder: PathBuf,
    /// None once it is removed.
    lock: Option<File>,
}

impl Incoming {
    /// A fresh folder.
    pub fn new() -> Result<Self, Failure> {
        Self::within(&tree::trees())
    }

    fn within(trees: &Path) -> Result<Self, Failure> {
        let deed = || format!("make a folder in {}", trees.display());
        let mut number = 0;
        let (folder, lock) = loop {
            files::create_folder(trees, 0o700)?;
            sweep(trees)?;
            let folder = trees.join(format!("{INCOMING}{}-{number}", std::process::id()));
            match files::make_folder(&folder, 0o777).and_then(|()| lock::try_folder(&folder)) {
                Ok(Some(lock)) => break (folder, lock),
                // Somebody sweeps it: nobody has locked it yet.
                Ok(None) => number += 1,
                Err(error) if is_contended(&error) => number += 1,
                Err(error) => return Err(error).doing(deed),
            }
        };
        files::make_folder(&folder.join(ROOT), 0o777).doing(deed)?;
        Ok(Self {
            folder,
            lock: Some(lock),
        })
    }

    /// Where the tree is put together.
    pub fn root(&self) -> PathBuf {
        self.folder.join(ROOT)
    }

    /// The machine that commands run as within it; no other that is made at the same time has its name.
    pub fn machine(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        machine(&name.to_string_lossy())
    }

    /// Where its tarball may lie meanwhile.
    pub fn tarball(&self) -> PathBuf {
        self.folder.join("tarball")
    }

    /// Puts the tree at its place, unless a whole one is there: one that is recorded. The host's lock is held by
    /// the caller, and what is surplus is only set aside.
    pub fn put_in_place(self, digest: &str, inventory: &Inventory) -> Result<(), Failure> {
        self.put_within(&tree::trees(), digest, inventory)?;
        self.remove();
        Ok(())
    }

    fn put_within(&self, trees: &Path, digest: &str, inventory: &Inventory) -> Result<(), Failure> {
        let name = tree::name_of(digest);
        let to = trees.join(name);
        if tree::needed(inventory).contains(name) && to.is_dir() {
            return discarded::set_aside(trees, name, &self.root());
        }
        discarded::set_aside(trees, name, &to)?;
        files::rename(&self.root(), &to).doing(|| format!("put {} in place", to.display()))?;
        // Its record comes next, and may be on another disk.
        files::sync_folder(trees)
    }

    /// Removes it, which may take its time.
    pub fn remove(mut self) {
        if let Some(lock) = self.lock.take() {
            remove(&self.folder, lock);
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else {
            return;
        };
        let folder = std::mem::take(&mut self.folder);
        // The one thread that answers requests has no time for it.
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(&folder, lock))),
            Err(_) => remove(&folder, lock),
        }
    }
}

/// What can't be removed now is swept by the next change, as it is once nobody has the lock.
fn remove(folder: &Path, lock: File) {
    let _ = files::remove_tree(folder);
    drop(lock);
}

fn machine(folder: &str) -> String {
    format!("image-{}", folder.trim_start_matches(INCOMING))
}

/// Whether there is a folder of that name, or somebody has just cleared away the one it is to be in.
fn is_contended(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
    )
}

/// Sets aside what a killed agent left half-made.
pub fn sweep(trees: &Path) -> Result<(), Failure> {
    for name in files::names(trees)? {
        if !name.starts_with(INCOMING) {
            continue;
        }
        let folder = trees.join(&name);
        let deed = || format!("lock {}", folder.display());
        // Held until it has another name: its maker may be just about to lock it.
        if let Some(_lock) = lock::try_folder(&folder).doing(deed)? {
            container::clear_after_nspawn(&machine(&name), &folder.join(ROOT))?;
            discarded::set_aside(trees, name.trim_start_matches('.'), &folder)?;
        }
    }
    Ok(())
}

/// Whether there is what [`sweep`] would set aside.
pub fn has_abandoned(trees: &Path) -> Result<bool, Failure> {
    let names = files::names(trees)?;
    let mut half_made = names.iter().filter(|name| name.starts_with(INCOMING));
    Ok(half_made.any(|name| is_abandoned(&trees.join(name))))
}

/// Whether the maker of a half-made tree is gone. Looks only.
fn is_abandoned(folder: &Path) -> bool {
    File::open(folder).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_ok())
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Barrier};

    use super::*;
    use crate::testing;

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
        discarded::clear_abandoned_in(&trees).unwrap();
        assert_eq!(files::names(&trees).unwrap().len(), 2);
        drop((first, second));
        assert_eq!(files::names(&trees).unwrap().len(), 0);
    }

    #[test]
    fn what_is_dropped_is_removed_beside_the_agents_thread() {
        let top = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let incoming = Incoming::within(top.path()).unwrap();
        runtime.unwrap().block_on(async {
            drop(incoming);
            while fs::read_dir(top.path()).unwrap().count() > 0 {
                tokio::task::yield_now().await;
            }
        });
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
                discarded::clear_abandoned_in(&trees)?;
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
        discarded::clear_abandoned_in(&trees).unwrap();
        assert_eq!(files::names(&trees).unwrap(), [""; 0]);
    }

    #[test]
    fn part_of_a_tree_is_never_taken_for_the_whole() {
        let top = tempfile::tempdir().unwrap();
        let digest = format!("sha256:{}", "7".repeat(64));
        let place = top.path().join("7".repeat(64));
        // An agent of before was killed while it removed it.
        fs::create_dir(&place).unwrap();
        let put = |content, inventory: &Inventory| {
            let incoming = Incoming::within(top.path()).unwrap();
            fs::write(incoming.root().join("file"), content).unwrap();
            incoming.put_within(top.path(), &digest, inventory).unwrap();
        };
        let mut inventory = Inventory::default();
        put("whole", &inventory);
        let image = testing::image("debian", &digest);
        inventory.images.insert("debian".parse().unwrap(), image);
        put("surplus", &inventory);
        assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "whole");
        discarded::clear_abandoned_in(top.path()).unwrap();
        assert_eq!(files::names(top.path()).unwrap(), ["7".repeat(64)]);
    }

    #[test]
    fn a_tree_without_bottom_is_refused_and_goes() {
        let top = tempfile::tempdir().unwrap();
        let incoming = Incoming::within(top.path()).unwrap();
        let deep = incoming.root().join("d/".repeat(1500));
        fs::create_dir_all(&deep).unwrap();
        let error = tree::clean_and_measure(&incoming.root()).unwrap_err();
        assert!(error.to_string().contains("nested"), "{error}");
        drop(incoming);
        assert_eq!(files::names(top.path()).unwrap(), [""; 0]);
    }
}
