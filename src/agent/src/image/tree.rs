//! Trees by digest: shared by every container made from them, and kept until the last one is gone.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use protocol::Failure;

use super::incoming;
use crate::{
    command::off_thread, container::STATE_FOLDER, context::Context, discarded, store::Inventory,
    system::files,
};

/// Where the trees lie.
pub fn trees() -> PathBuf {
    Path::new(STATE_FOLDER).join("images/trees")
}

/// Where the tree of this digest lies.
pub fn folder(digest: &str) -> PathBuf {
    trees().join(name_of(digest))
}

/// What the folder of this digest's tree is called.
pub fn name_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// Whether there is what [`collect`] would remove.
pub fn has_leftovers(inventory: &Inventory) -> Result<bool, Failure> {
    let (trees, state) = (trees(), Path::new(STATE_FOLDER));
    let names = files::names(&trees)?;
    let is_empty = |folder: &str| is_removable(&state.join(folder));
    Ok(incoming::has_abandoned(&trees)?
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

/// The folders that go when they are empty, each before the one that it is in.
const FOLDERS: [&str; 4] = ["images/trees", "images", "containers", ""];

/// Sets trees aside that no image and no container needs. The host's lock is held by the caller.
pub fn collect(inventory: &Inventory) -> Result<(), Failure> {
    let trees = trees();
    for digest in unneeded(inventory, &files::names(&trees)?) {
        discarded::set_aside(&trees, &digest, &trees.join(&digest))?;
    }
    incoming::sweep(&trees)?;
    remove_empty_folders()
}

/// Removes what was set aside, without the host's lock. What can't be removed is told, and tried again by the
/// resident service.
pub async fn clear_away(context: &Context) {
    let clear = off_thread((), |()| {
        discarded::clear_abandoned_in(&trees())?;
        remove_empty_folders()
    });
    if let Err(failure) = context.within(clear).await {
        context.progress(format!(
            "unneeded trees of images are removed later: {failure}"
        ));
    }
}

/// Removes what builds have left that ended after their host was removed.
pub fn clear_half_made() -> Result<(), Failure> {
    let trees = trees();
    incoming::sweep(&trees)?;
    discarded::clear_abandoned_in(&trees)?;
    remove_empty_folders()
}

/// Removes those of the agent's folders that nothing is in.
pub fn remove_empty_folders() -> Result<(), Failure> {
    let state = Path::new(STATE_FOLDER);
    for folder in FOLDERS.map(|folder| state.join(folder)) {
        if is_removable(&folder) {
            files::remove_empty_folder(&folder)?;
        }
    }
    Ok(())
}

fn unneeded(inventory: &Inventory, trees: &[String]) -> Vec<String> {
    let needed = needed(inventory);
    let is_unneeded = |name: &&String| !name.starts_with('.') && !needed.contains(name.as_str());
    trees.iter().filter(is_unneeded).cloned().collect()
}

/// The trees that an image or a container stands on, as their folders are called.
pub fn needed(inventory: &Inventory) -> BTreeSet<&str> {
    let images = inventory
        .images
        .values()
        .map(|stored| &stored.assigned.digest);
    let containers = inventory
        .containers
        .values()
        .map(|stored| &stored.assigned.image_digest);
    images
        .chain(containers)
        .map(|digest| name_of(digest))
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
        files::unlink(path).map_err(|failure| io::Error::other(failure.message))?;
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
    use std::collections::BTreeMap;

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
