//! The hash of a container's root password: the one secret that is kept, because an ephemeral
//! root needs it at every start.

use std::path::{Path, PathBuf};

use protocol::{Failure, FailureKind, desired::Container, name::MachineName, secret::Secret};
use sha_crypt::{PasswordHasher as _, ShaCrypt};

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

/// Keeps the hash of a container's new password. Each version has a file of its own: until the record asks for the new
/// one, that of before holds.
pub fn keep(container: &Container, hash: &str) -> Result<(), Failure> {
    let Some(version) = container.root_password_version else {
        return Ok(());
    };
    let folder = folder();
    files::create_folder(store::FOLDER.as_ref(), 0o700)?;
    files::create_folder(&folder, 0o700)?;
    let path = folder.join(file_name(&container.name, version));
    files::replace(&path, hash.as_bytes(), 0o600)
}

/// A container's hash, where it wants one.
pub fn password_hash(container: &Container) -> Result<Option<String>, Failure> {
    let Some(version) = container.root_password_version else {
        return Ok(None);
    };
    let bytes = files::read(&folder().join(file_name(&container.name, version)))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Forgets the hashes that no record asks for. The host's lock is held by the caller.
pub fn sweep(inventory: &Inventory) -> Result<(), Failure> {
    sweep_in(&folder(), inventory)
}

fn sweep_in(folder: &Path, inventory: &Inventory) -> Result<(), Failure> {
    let is_asked_for = |(of, version): (&str, i64)| {
        inventory.containers.iter().any(|(name, stored)| {
            name.as_str() == of && stored.desired.root_password_version == Some(version)
        })
    };
    for file in files::names(folder)? {
        // What a killed writer has left is none.
        if !parse(&file).is_some_and(is_asked_for) {
            files::remove_file(&folder.join(file))?;
        }
    }
    Ok(())
}

/// The containers of which hashes are kept, and the versions.
#[derive(Debug, Default)]
pub struct Kept(Vec<(String, i64)>);

impl Kept {
    /// Looks at what is kept.
    pub fn look() -> Result<Self, Failure> {
        Ok(Self::of(&files::names(&folder())?))
    }

    fn of(files: &[impl AsRef<str>]) -> Self {
        let parsed = files.iter().filter_map(|file| parse(file.as_ref()));
        Self(
            parsed
                .map(|(of, version)| (of.to_owned(), version))
                .collect(),
        )
    }

    /// Whether there are others of a container than the one that it asks for.
    pub fn has_others(&self, container: &Container) -> bool {
        self.0.iter().any(|(of, version)| {
            of == container.name.as_str() && Some(*version) != container.root_password_version
        })
    }
}

fn folder() -> PathBuf {
    Path::new(store::FOLDER).join("secrets")
}

fn file_name(name: &MachineName, version: i64) -> String {
    format!("{name}.{version}")
}

/// Whose hash it is, and of which version. A machine's name may have dots in it, too.
fn parse(file: &str) -> Option<(&str, i64)> {
    let (of, version) = file.rsplit_once('.')?;
    Some((of, version.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{container::tests::container, testing};

    #[test]
    fn hashes_that_no_record_asks_for_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "web.2",
            "web.1",
            "web.2.2",
            "gone.2",
            ".web.2.nspawn-agent7-1",
        ] {
            fs::write(folder.path().join(name), "$6$x").unwrap();
        }
        let mut inventory = testing::inventory(&["web"], &[]);
        for stored in inventory.containers.values_mut() {
            stored.desired.root_password_version = Some(2);
        }
        for _ in 0..2 {
            sweep_in(folder.path(), &inventory).unwrap();
        }
        assert_eq!(files::names(folder.path()).unwrap(), ["web.2"]);
        sweep_in(&folder.path().join("never"), &inventory).unwrap();
    }

    #[test]
    fn others_than_the_one_asked_for() {
        let kept = |files: &[&str]| Kept::of(files);
        let mut web = container("web");
        assert!(!kept(&["web.1.1", "db.1", ".web.1.nspawn-agent7-1"]).has_others(&web));
        assert!(kept(&["web.1"]).has_others(&web));
        web.root_password_version = Some(-3);
        assert!(!kept(&["web.-3"]).has_others(&web));
        assert!(kept(&["web.-3", "web.4"]).has_others(&web));
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
