//! The hash of a container's root password: the one secret that is kept, because an ephemeral
//! root needs it at every start.

use protocol::{Failure, FailureKind, name::MachineName, secret::Secret};
use sha_crypt::{PasswordHasher as _, ShaCrypt};

use super::paths::Paths;
use crate::{store, system::files};

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

/// A container's hash, where there is one.
pub fn password_hash(name: &MachineName) -> Result<Option<String>, Failure> {
    let bytes = files::read(&Paths::of(name).secret())?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Forgets a container's hash.
pub fn forget(name: &MachineName) -> Result<(), Failure> {
    files::remove_file(&Paths::of(name).secret())
}

#[cfg(test)]
mod tests {
    use super::*;

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
