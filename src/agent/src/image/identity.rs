//! What one machine has and another must not: cleared from an image, so that guests made from it
//! don't share it.

use std::{fs, io};

use texts::os_release;

use crate::guest::root::{Access, GuestRoot};

const EMPTY_AND_READABLE: Access = Access {
    mode: 0o444,
    group: 0,
};

/// Clears a tree's identity. machine-id(5): the file stays, empty, for the guest to fill.
pub fn clear(root: &GuestRoot) -> io::Result<()> {
    root.write("etc/machine-id", "", EMPTY_AND_READABLE)?;
    for file in [
        "var/lib/dbus/machine-id",
        "var/lib/systemd/random-seed",
        "var/lib/systemd/credential.secret",
        "etc/hostname",
    ] {
        root.remove(file)?;
    }
    // A link, to systemd-resolved's file, is the image's own way; a file is its builder's.
    if root.is_file("etc/resolv.conf")? {
        root.remove("etc/resolv.conf")?;
    }
    for name in root.names("etc/ssh")? {
        if name.starts_with("ssh_host_") && (name.ends_with("_key") || name.ends_with("_key.pub")) {
            root.remove(&format!("etc/ssh/{name}"))?;
        }
    }
    Ok(())
}

/// PRETTY_NAME of a tree's os-release(5).
pub fn os(root: &GuestRoot) -> io::Result<String> {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        if let Some(text) = root.read(path)?
            && let Some(name) = os_release::value(&text, "PRETTY_NAME")
        {
            return Ok(name);
        }
    }
    Ok("unknown".to_owned())
}

/// Whether a tree can be a root: systemd-nspawn(1) asks for no more than /usr.
pub fn is_root(root: &GuestRoot) -> bool {
    root.resolve("usr")
        .and_then(|usr| Ok(fs::File::from(usr).metadata()?.is_dir()))
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_one_machines_own_goes_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |path: &str| folder.path().join(path);
        for parent in ["etc/ssh", "var/lib/dbus", "var/lib/systemd", "usr/lib"] {
            fs::create_dir_all(path(parent)).unwrap();
        }
        for file in [
            "etc/machine-id",
            "etc/hostname",
            "etc/resolv.conf",
            "etc/ssh/ssh_host_ed25519_key",
            "etc/ssh/ssh_host_rsa_key.pub",
            "etc/ssh/sshd_config",
            "var/lib/systemd/random-seed",
        ] {
            fs::write(path(file), "x").unwrap();
        }
        symlink("/etc/machine-id", path("var/lib/dbus/machine-id")).unwrap();
        fs::write(
            path("usr/lib/os-release"),
            "PRETTY_NAME=\"Debian GNU/Linux 13\"\n",
        )
        .unwrap();
        let root = GuestRoot::open(folder.path(), 0).unwrap();
        clear(&root).unwrap();
        clear(&root).unwrap();
        assert_eq!(fs::read_to_string(path("etc/machine-id")).unwrap(), "");
        for gone in [
            "etc/hostname",
            "etc/resolv.conf",
            "etc/ssh/ssh_host_ed25519_key",
            "etc/ssh/ssh_host_rsa_key.pub",
        ] {
            assert!(!path(gone).exists(), "{gone}");
        }
        assert!(fs::symlink_metadata(path("var/lib/dbus/machine-id")).is_err());
        assert!(path("etc/ssh/sshd_config").exists());
        assert_eq!(os(&root).unwrap(), "Debian GNU/Linux 13");
        assert!(is_root(&root));
    }

    #[test]
    fn a_link_to_a_resolver_stays() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        symlink(
            "../run/systemd/resolve/stub-resolv.conf",
            folder.path().join("etc/resolv.conf"),
        )
        .unwrap();
        let root = GuestRoot::open(folder.path(), 0).unwrap();
        clear(&root).unwrap();
        assert!(fs::symlink_metadata(folder.path().join("etc/resolv.conf")).is_ok());
        assert_eq!(os(&root).unwrap(), "unknown");
        assert!(!is_root(&root));
    }
}
