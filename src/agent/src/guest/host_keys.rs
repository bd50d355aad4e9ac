//! A guest's SSH host keys: cleared from the image, because guests must not share them, and made
//! anew before the first start, because Debian's sshd makes none by itself and would not start.

use std::{fs, io, path::Path, process::Command};

use protocol::name::HostName;

use super::root::{Access, GuestRoot};

/// What sshd(8) and every client of the last decade know; RSA keys take long to make.
const TYPES: [&str; 2] = ["ed25519", "ecdsa"];

/// Makes host keys where there is an sshd without any. `scratch` is a folder of the host's root alone.
pub fn ensure(root: &GuestRoot, hostname: &HostName, scratch: &Path) -> io::Result<()> {
    // A guest that has put something else in their place has no sshd to start.
    let has_sshd = matches!(root.access("usr/sbin/sshd"), Ok(Some(_)));
    let lacks_keys = root.names("etc/ssh").is_ok_and(|names| !has_key(&names));
    if !has_sshd || !lacks_keys {
        return Ok(());
    }
    for kind in TYPES {
        let file = scratch.join(format!("{hostname}.{kind}"));
        let public = file.with_added_extension("pub");
        let made = make(kind, hostname, &file).and_then(|()| {
            let path = format!("etc/ssh/ssh_host_{kind}_key");
            root.write(
                &path,
                &fs::read_to_string(&file)?,
                Access {
                    mode: 0o600,
                    group: 0,
                },
            )?;
            let path = format!("{path}.pub");
            root.write(
                &path,
                &fs::read_to_string(&public)?,
                Access {
                    mode: 0o644,
                    group: 0,
                },
            )
        });
        for file in [&file, &public] {
            // It may not have been made.
            let _ = fs::remove_file(file);
        }
        made?;
    }
    Ok(())
}

fn has_key(names: &[String]) -> bool {
    names
        .iter()
        .any(|name| name.starts_with("ssh_host_") && name.ends_with("_key"))
}

fn make(kind: &str, hostname: &HostName, file: &Path) -> io::Result<()> {
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", "", "-C"])
        .arg(format!("root@{hostname}"))
        .arg("-f")
        .arg(file)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = crate::command::tail(&output.stderr);
    Err(io::Error::other(format!("ssh-keygen failed: {complaint}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_guest_with_sshd_gets_keys_of_its_own_once() {
        let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = GuestRoot::open(folder.path(), 0).unwrap();
        let hostname = "web".parse().unwrap();
        ensure(&root, &hostname, scratch.path()).unwrap();
        assert_eq!(root.names("etc/ssh").unwrap(), [""; 0], "no sshd, no keys");
        fs::create_dir_all(folder.path().join("usr/sbin")).unwrap();
        fs::write(folder.path().join("usr/sbin/sshd"), "").unwrap();
        ensure(&root, &hostname, scratch.path()).unwrap();
        let key = folder.path().join("etc/ssh/ssh_host_ed25519_key");
        let first = fs::read_to_string(&key).unwrap();
        assert_eq!(
            fs::metadata(&key).unwrap().permissions().mode() & 0o777,
            0o600
        );
        ensure(&root, &hostname, scratch.path()).unwrap();
        assert_eq!(fs::read_to_string(&key).unwrap(), first);
        assert_eq!(
            fs::read_dir(scratch.path()).unwrap().count(),
            0,
            "no key stays on the host"
        );
    }
}
