//! A container's root: brought up before each start and dropped after each stop, by the unit itself.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use protocol::{
    Failure, FailureKind,
    desired::{Container, Storage},
    name::MachineName,
};

use super::{Assigned, copy, mount, paths, paths::Paths};
use crate::{
    discarded,
    failure::Context as _,
    image::tree,
    store::Stored,
    system::{files, mounts},
};

/// Lays the container's root at its place under /var/lib/machines.
pub fn bring_up(stored: &Stored<Container>) -> Result<(), Failure> {
    let (container, assigned) = (&stored.desired, &stored.assigned);
    let paths = Paths::of(&container.name);
    take_down(container)?;
    clear_stale_export(container.name.as_str())?;
    let tree = tree::folder(&assigned.image_digest);
    if needs_tree(container, &paths.copy()) && !tree.is_dir() {
        return Err(Failure::new(
            FailureKind::NotFound,
            format!(
                "the tree of the image of {} is gone: {}",
                container.name,
                tree.display()
            ),
        )
        .help(
            "Run terraform apply to have it unpacked again; where the image has another digest by now, replace the container.",
        ));
    }
    files::create_folder(&paths.storage(), 0o700)?;
    paths.make_machine()?;
    match container.storage {
        Storage::Overlay => overlay(&paths, &tree, assigned),
        Storage::Copy => own_copy(&paths, &tree, assigned),
    }
}

/// Whether its next start stands on the image's tree: a root of its own that is made needs it no more.
pub fn needs_tree(container: &Container, copy: &Path) -> bool {
    container.storage == Storage::Overlay || container.ephemeral || !copy.is_dir()
}

/// Whether the files that a mounted root stands on were removed beneath it: what is in their place by now isn't what the
/// guest sees. A folder that is removed has no links. stat(2)
pub fn has_lost_root(paths: &Paths) -> bool {
    let is_removed = |folder: &Path| fs::metadata(folder).is_ok_and(|found| found.nlink() == 0);
    let (machine, lower) = (paths.machine(), paths.lower());
    let is_overlay = mount::is_mounted(&lower);
    is_overlay && (is_removed(&lower) || !paths.upper().is_dir())
        || mount::is_mounted(&machine) && is_removed(&machine)
}

/// Takes the container's root away, and what an ephemeral one changed.
pub fn take_down(container: &Container) -> Result<(), Failure> {
    let paths = Paths::of(&container.name);
    clear_stale_lock(&paths.machine())?;
    for folder in [paths.machine(), paths.lower()] {
        mounts::detach_all(&folder).doing(|| format!("unmount {}", folder.display()))?;
    }
    if container.ephemeral {
        for folder in [paths.upper(), paths.work(), paths.copy()] {
            discarded::set_aside(&paths::storages(), container.name.as_str(), &folder)?;
        }
    }
    Ok(())
}

fn overlay(paths: &Paths, tree: &Path, assigned: &Assigned) -> Result<(), Failure> {
    let deed = || {
        format!(
            "lay an overlay on {} for {}",
            tree.display(),
            paths.machine().display()
        )
    };
    let (lower, upper, work) = (paths.lower(), paths.upper(), paths.work());
    files::create_folder(&lower, 0o755)?;
    for folder in [&upper, &work] {
        files::create_folder(folder, 0o755)?;
        files::give_folder(folder, assigned.uid_base).doing(deed)?;
    }
    let base = Some(assigned.uid_base).filter(|base| *base != 0);
    let idmapped = mount::idmapped(tree, base).map_err(|error| not_supported(&error, &deed()))?;
    mount::attach(&idmapped, &lower).doing(deed)?;
    let overlay =
        mount::overlay(&lower, &upper, &work).map_err(|error| not_supported(&error, &deed()))?;
    mount::attach(&overlay, &paths.machine()).doing(deed)
}

fn not_supported(error: &io::Error, deed: &str) -> Failure {
    let failure = Failure::new(
        FailureKind::Unsupported,
        format!("could not {deed}: {error}"),
    );
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::EPERM) => failure
            .help("This needs Linux 5.19 and a file system with idmapped mounts: set storage = \"copy\".")
            .at("storage"),
        _ => Failure { kind: FailureKind::System, ..failure },
    }
}

fn own_copy(paths: &Paths, tree: &Path, assigned: &Assigned) -> Result<(), Failure> {
    let copy = paths.copy();
    if !copy.exists() {
        let temporary = paths.storage().join("root.new");
        files::remove_tree(&temporary)?;
        let made = copy::copy_tree(tree, &temporary, assigned.uid_base);
        if let Err(failure) = made {
            files::remove_tree(&temporary)?;
            return Err(failure);
        }
        tree::sync(&temporary).doing(|| format!("bring {} to the disk", temporary.display()))?;
        files::rename(&temporary, &copy).doing(|| format!("put {} in place", copy.display()))?;
    }
    let deed = || format!("bind {} to {}", copy.display(), paths.machine().display());
    let bound = mount::bind(&copy).doing(deed)?;
    mount::attach(&bound, &paths.machine()).doing(deed)
}

/// Clears what a systemd-nspawn leaves of a machine that has no unit, when it was killed.
pub fn clear_after_nspawn(machine: &str, root: &Path) -> Result<(), Failure> {
    clear_stale_lock(root)?;
    clear_stale_export(machine)?;
    files::remove_empty_folder(&Path::new("/run/systemd/nspawn/propagate").join(machine))
}

/// A systemd-nspawn that was killed leaves the lock of its root, which nobody removes later.
fn clear_stale_lock(root: &Path) -> Result<(), Failure> {
    match fs::metadata(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        found => {
            let found = found.doing(|| format!("look at {}", root.display()))?;
            files::remove_file(&Paths::lock_of_root(found.dev(), found.ino()))
        }
    }
}

/// After SIGKILL of systemd-nspawn its next start fails with "Mount point … exists already,
/// refusing" (measured, 3 of 3).
fn clear_stale_export(machine: &str) -> Result<(), Failure> {
    let export = Path::new("/run/systemd/nspawn/unix-export").join(machine);
    mounts::detach_all(&export).doing(|| format!("unmount {}", export.display()))?;
    files::remove_empty_folder(&export)
}

/// Removes a container's root, and sets its storage aside to be removed; it must be stopped.
pub fn remove(container: &Container) -> Result<(), Failure> {
    take_down(container)?;
    let paths = Paths::of(&container.name);
    clear_stale_export(container.name.as_str())?;
    set_left_aside(&paths::storages(), &container.name)?;
    files::remove_empty_folder(&paths.machine())?;
    // Its record goes next, and may be on another disk: a power cut must not bring back any of this without it.
    for folder in [paths::storages(), Paths::machines()] {
        files::sync_folder(&folder)?;
    }
    Ok(())
}

/// Sets a container's storage aside to be removed, if any is there. A new container has none: what a removed one of
/// its name has left, as on a disk that has lost a rename, is not the new one's.
pub fn set_left_aside(storages: &Path, name: &MachineName) -> Result<(), Failure> {
    discarded::set_aside(storages, name.as_str(), &storages.join(name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::container;

    #[test]
    fn a_new_container_does_not_begin_with_what_one_of_its_name_has_left() {
        let top = tempfile::tempdir().unwrap();
        let name: MachineName = "web".parse().unwrap();
        set_left_aside(top.path(), &name).unwrap();
        fs::create_dir_all(top.path().join("web/upper/etc")).unwrap();
        fs::create_dir_all(top.path().join("web2/upper")).unwrap();
        set_left_aside(top.path(), &name).unwrap();
        assert!(!top.path().join("web").exists());
        discarded::clear_abandoned_in(top.path()).unwrap();
        assert_eq!(files::names(top.path()).unwrap(), ["web2"]);
    }

    #[test]
    fn a_root_of_its_own_needs_the_images_tree_only_until_it_is_made() {
        let top = tempfile::tempdir().unwrap();
        let made = top.path().join("root");
        fs::create_dir(&made).unwrap();
        let missing = top.path().join("missing");
        let mut container = container("web");
        assert!(needs_tree(&container, &made), "an overlay stands on it");
        container.storage = Storage::Copy;
        assert!(needs_tree(&container, &missing));
        assert!(!needs_tree(&container, &made));
        container.ephemeral = true;
        assert!(
            needs_tree(&container, &made),
            "it is made anew at each start"
        );
    }
}
