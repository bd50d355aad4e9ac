//! The hash of a container's root password: the one secret that is kept, because an ephemeral
//! root needs it at every start.

use std::path::Path;

use protocol::{Failure, FailureKind, desired::Container, name::MachineName, secret::Secret};
use sha_crypt::{PasswordHasher as _, ShaCrypt};

use super::paths::Paths;
use crate::{
    store::{self, Inventory},
    system::files,
};

/// The crypt(5) hash of a password, with a salt of its own. SHA-512: every image's libcrypt knows it.
pub fn hash(password: &Secret) -> Result<String, Failure> {
    let hash = ShaCrypt::default().hash_password(password.expose().as_bytes());
    hash.map(|hash| hash.as_str().to_owned()).map_err(|error| {
        Failure::new(
            FailureKind::Invalid,
            format!("could not hash the root password: {error}"),
        )
        .at("root_password_wo")
    })
}

/// Keeps a container's hash.
pub fn keep(name: &MachineName, hash: &str) -> Result<(), Failure> {
    let path = Paths::of(name).secret();
    files::create_folder(store::FOLDER.as_ref(), 0o700)?;
    if let Some(folder) = path.parent() {
        files::create_folder(folder, 0o700)?;
    }
    files::replace(&path, hash.as_bytes(), 0o600)
}

/// A container's hash, where it wants one.
pub fn password_hash(container: &Container) -> Result<Option<String>, Failure> {
    if container.root_password_version.is_none() {
        return Ok(None);
    }
    let bytes = files::read(&Paths::of(&container.name).secret())?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Forgets a container's hash.
pub fn forget(name: &MachineName) -> Result<(), Failure> {
    files::remove_file(&Paths::of(name).secret())
}

/// Forgets the hashes of containers that nothing is recorded of. The host's lock is held by the caller.
pub fn sweep(inventory: &Inventory) -> Result<(), Failure> {
    sweep_in(&Path::new(store::FOLDER).join("secrets"), inventory)
}

fn sweep_in(folder: &Path, inventory: &Inventory) -> Result<(), Failure> {
    for name in files::names(folder)? {
        let is_recorded = |known: &MachineName| known.as_str() == name;
        if !inventory.containers.keys().any(is_recorded) {
            files::remove_file(&folder.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing;

    #[test]
    fn hashes_without_a_record_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["web", "gone", ".web.nspawn-agent"] {
            fs::write(folder.path().join(name), "$6$x").unwrap();
        }
        for _ in 0..2 {
            sweep_in(folder.path(), &testing::inventory(&["web"], &[])).unwrap();
        }
        assert!(folder.path().join("web").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        sweep_in(&folder.path().join("never"), &Inventory::default()).unwrap();
    }

    #[test]
    fn a_hash_is_salted_and_fits_a_shadow_file() {
        let password = Secret::new("correct horse");
        let (one, other) = (hash(&password).unwrap(), hash(&password).unwrap());
        assert_ne!(one, other);
        for hash in [one, other] {
            assert!(
                hash.starts_with("$6$") && !hash.contains([':', '\n']),
                "{hash}"
            );
            assert!(hash.len() > 90, "{hash}");
        }
    }
}
