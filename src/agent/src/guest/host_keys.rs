//! A guest's SSH host keys: cleared from the image, because guests must not share them, and made
//! anew before the first start, because Debian's sshd makes none by itself and would not start.

#![expect(clippy::disallowed_methods, reason = "its steps have fault points")]

use std::{fs, io, os::unix::fs::DirBuilderExt as _, path::Path, process::Command};

use protocol::name::HostName;

use super::root::{Access, GuestRoot};

/// What sshd(8) and every client of the last decade know; RSA keys take long to make.
const TYPES: [&str; 2] = ["ed25519", "ecdsa"];

/// Makes host keys where there is an sshd without any. `scratch` is a folder of this guest's own,
/// made for the time being: hostnames may be shared, and a killed start must not stop the next.
pub fn ensure(root: &GuestRoot, hostname: &HostName, scratch: &Path) -> io::Result<()> {
    // A start that was killed in the middle has left it, and perhaps one of the keys.
    let is_taken_up = match fs::remove_dir_all(scratch) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        removed => removed.map(|()| true)?,
    };
    fault::point(|| "clear what was left of host keys");
    // A guest that has put something else in their place has no sshd to start.
    let has_sshd = matches!(root.access("usr/sbin/sshd"), Ok(Some(_)));
    let Ok(names) = root.names("etc/ssh") else {
        return Ok(());
    };
    if !has_sshd || (has_key(&names) && !is_taken_up) {
        return Ok(());
    }
    fs::DirBuilder::new().mode(0o700).create(scratch)?;
    fault::point(|| "make a folder for host keys");
    let missing = TYPES.iter().filter(|kind| !names.contains(&file_of(kind)));
    let made = make_all(root, hostname, scratch, missing);
    fs::remove_dir_all(scratch)?;
    fault::point(|| "clear the folder for host keys");
    made
}

/// All files that are ever made, beneath the guest's root.
pub fn paths() -> Vec<String> {
    let private = TYPES.map(|kind| format!("etc/ssh/{}", file_of(kind)));
    let public = private.each_ref().map(|path| format!("{path}.pub"));
    [private, public].concat()
}

fn file_of(kind: &str) -> String {
    format!("ssh_host_{kind}_key")
}

fn make_all<'a>(
    root: &GuestRoot,
    hostname: &HostName,
    scratch: &Path,
    kinds: impl Iterator<Item = &'a &'a str>,
) -> io::Result<()> {
    for kind in kinds {
        let private = scratch.join(kind);
        let public = private.with_added_extension("pub");
        make(kind, hostname, &private)?;
        fault::point(|| format!("make a host key of type {kind}"));
        let path = format!("etc/ssh/{}", file_of(kind));
        // The private one last: where it is, all is.
        for (file, path, mode) in [
            (&public, format!("{path}.pub"), 0o644),
            (&private, path, 0o600),
        ] {
            let access = Access { mode, group: 0 };
            root.write(&path, &fs::read_to_string(file)?, access)?;
        }
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
        let (folder, parent) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let scratch = parent.path().join(".web");
        let root = GuestRoot::open(folder.path(), 0).unwrap();
        let hostname = "web".parse().unwrap();
        ensure(&root, &hostname, &scratch).unwrap();
        assert_eq!(root.names("etc/ssh").unwrap(), [""; 0], "no sshd, no keys");
        fs::create_dir_all(folder.path().join("usr/sbin")).unwrap();
        fs::write(folder.path().join("usr/sbin/sshd"), "").unwrap();
        // What a start that was killed has left.
        fs::create_dir(&scratch).unwrap();
        fs::write(scratch.join("ed25519"), "").unwrap();
        ensure(&root, &hostname, &scratch).unwrap();
        let key = folder.path().join("etc/ssh/ssh_host_ed25519_key");
        let first = fs::read_to_string(&key).unwrap();
        assert_eq!(
            fs::metadata(&key).unwrap().permissions().mode() & 0o777,
            0o600
        );
        ensure(&root, &hostname, &scratch).unwrap();
        assert_eq!(fs::read_to_string(&key).unwrap(), first);
        assert_eq!(
            fs::read_dir(parent.path()).unwrap().count(),
            0,
            "no key stays on the host"
        );
    }
}
