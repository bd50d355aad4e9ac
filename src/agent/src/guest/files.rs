//! The files inside a guest that Terraform owns: applied before every start, and live.

use std::{io, time::SystemTime};

use protocol::desired::Container;

use super::{
    accounts::{root_password, with_own_name, with_root_password},
    host_keys,
    root::{Access, GuestRoot},
};

const PUBLIC: Access = Access {
    mode: 0o644,
    group: 0,
};
const PRIVATE: Access = Access {
    mode: 0o600,
    group: 0,
};
const AUTHORIZED_KEYS: &str = "root/.ssh/authorized_keys";

/// All that is ever written in a guest, its host keys apart.
const WRITTEN: [&str; 5] = [
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
    AUTHORIZED_KEYS,
    "etc/shadow",
];

/// One file that isn't as it should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Beneath the guest's root.
    pub path: String,
    wanted: Wanted,
}

/// What should be in a file's place.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    File(String, Access),
    /// It is too long to be edited.
    Unknown,
    /// Nothing: a killed process has left it.
    Nothing,
}

/// What the guest's files lack. `password_hash` is root's, where Terraform sets one. Whatever stands
/// in a file's place and can't be read as one, such as a FIFO, counts as missing and is replaced.
pub fn changes(
    root: &GuestRoot,
    container: &Container,
    password_hash: Option<&str>,
) -> Vec<Change> {
    let mut changes = left(root);
    let read = |path| root.read(path).ok().flatten();
    let access_of = |path| root.access(path).ok().flatten();
    let mut want = |path, content: String, access: Access| {
        if read(path).as_ref() != Some(&content) || access_of(path) != Some(access) {
            changes.push(Change {
                path: path.to_owned(),
                wanted: Wanted::File(content, access),
            });
        }
    };
    want("etc/hostname", format!("{}\n", container.hostname), PUBLIC);
    // A list of a million names to block stays as it is.
    if let Some(hosts) = to_edit(root, "etc/hosts") {
        want(
            "etc/hosts",
            with_own_name(&hosts, container.hostname.as_str()),
            PUBLIC,
        );
    }
    if let Some(servers) = &container.dns_servers {
        let lines: Vec<String> = servers
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect();
        want("etc/resolv.conf", lines.concat(), PUBLIC);
    }
    if let Some(keys) = &container.ssh_authorized_keys {
        let lines: Vec<String> = keys
            .iter()
            .map(|key| format!("{}\n", key.trim_end()))
            .collect();
        want(AUTHORIZED_KEYS, lines.concat(), PRIVATE);
    }
    let Some(hash) = password_hash else {
        return changes;
    };
    let access = access_of("etc/shadow").unwrap_or(PRIVATE);
    match to_edit(root, "etc/shadow") {
        Some(shadow) if root_password(&shadow) == Some(hash) => {}
        Some(shadow) => want(
            "etc/shadow",
            with_root_password(&shadow, hash, today()),
            access,
        ),
        None => changes.push(Change {
            path: "etc/shadow".to_owned(),
            wanted: Wanted::Unknown,
        }),
    }
    changes
}

/// What killed processes have left of any file that is ever written here: a change that is regretted wants none of them
/// changed.
fn left(root: &GuestRoot) -> Vec<Change> {
    let host_keys = host_keys::paths();
    let written = WRITTEN
        .into_iter()
        .chain(host_keys.iter().map(String::as_str));
    let change = |path| Change {
        path,
        wanted: Wanted::Nothing,
    };
    written
        .filter_map(|path| root.left_of(path))
        .map(change)
        .collect()
}

/// What is in a file of which a part is changed; None when it is longer than is read.
fn to_edit(root: &GuestRoot, path: &str) -> Option<String> {
    match root.read(path) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => None,
        text => Some(text.ok().flatten().unwrap_or_default()),
    }
}

/// Makes a guest's files as they should be.
pub fn apply(root: &GuestRoot, changes: &[Change]) -> io::Result<()> {
    for change in changes {
        let path = change.path.as_str();
        let made = match &change.wanted {
            Wanted::File(content, access) => root.write(path, content, *access).and_then(|()| {
                // sshd(8), StrictModes: the folder must be root's alone.
                if path == AUTHORIZED_KEYS {
                    root.make_folder("root/.ssh", 0o700)
                } else {
                    Ok(())
                }
            }),
            Wanted::Unknown => Err(io::ErrorKind::FileTooLarge.into()),
            Wanted::Nothing => root.remove(path),
        };
        named(path, made)?;
    }
    Ok(())
}

fn named<T>(path: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("/{path} of the guest: {error}")))
}

fn today() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() / (24 * 60 * 60))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::container::tests::container;

    #[test]
    fn what_is_missing_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        fs::write(
            folder.path().join("etc/shadow"),
            "root:*:1:0:99999:7:::\nbin:*:1::::::\n",
        )
        .unwrap();
        let root = GuestRoot::open(folder.path(), 0).unwrap();
        let mut desired = container("web");
        desired.dns_servers = Some(vec!["192.0.2.53".parse().unwrap()]);
        desired.ssh_authorized_keys = Some(vec!["ssh-ed25519 AAAA me\n".to_owned()]);
        let found = changes(&root, &desired, Some("$6$h"));
        let paths: Vec<_> = found.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "etc/hostname",
                "etc/hosts",
                "etc/resolv.conf",
                AUTHORIZED_KEYS,
                "etc/shadow"
            ]
        );
        apply(&root, &found).unwrap();
        assert_eq!(changes(&root, &desired, Some("$6$h")), []);
        let read = |path: &str| fs::read_to_string(folder.path().join(path)).unwrap();
        assert_eq!(read("etc/hostname"), "web\n");
        assert_eq!(read("etc/resolv.conf"), "nameserver 192.0.2.53\n");
        assert_eq!(read(AUTHORIZED_KEYS), "ssh-ed25519 AAAA me\n");
        assert!(read("etc/shadow").starts_with("root:$6$h:"));
        let mode = fs::metadata(folder.path().join("root/.ssh"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
        // Keys that somebody may read are no longer root's alone.
        let keys = folder.path().join(AUTHORIZED_KEYS);
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(changes(&root, &desired, None).len(), 1);
    }

    #[test]
    fn what_terraform_does_not_own_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let root = GuestRoot::open(folder.path(), 0).unwrap();
        let found = changes(&root, &container("web"), None);
        let paths: Vec<_> = found.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, ["etc/hostname", "etc/hosts"]);
    }

    #[test]
    fn what_a_killed_process_has_left_of_a_file_goes_though_nobody_wants_it_written_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = |path: &str| folder.path().join(path);
        fs::create_dir_all(path("etc/ssh")).unwrap();
        let root = GuestRoot::open(folder.path(), 0).unwrap();
        apply(&root, &changes(&root, &container("web"), None)).unwrap();
        let left = [
            "etc/.nspawn-agent.resolv.conf",
            "etc/ssh/.nspawn-agent.ssh_host_ecdsa_key",
        ];
        let others = ["etc/.nspawn-agent.passwd", "etc/resolv.conf"];
        for name in [&left[..], &others[..]].concat() {
            fs::write(path(name), "half").unwrap();
        }
        // Not by way of a link, nor what is no file.
        std::os::unix::fs::symlink("passwd", path("etc/.nspawn-agent.hosts")).unwrap();
        fs::create_dir(path("etc/.nspawn-agent.shadow")).unwrap();
        let found = changes(&root, &container("web"), None);
        let paths: Vec<_> = found.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, left);
        apply(&root, &found).unwrap();
        assert_eq!(changes(&root, &container("web"), None), []);
        assert!(left.iter().all(|left| !path(left).exists()));
        assert!(others.iter().all(|other| path(other).is_file()));
    }

    #[test]
    fn what_is_too_long_is_never_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = |path: &str| folder.path().join(path);
        fs::create_dir_all(path("etc")).unwrap();
        let long = "0.0.0.0 ads.example\n".repeat(100_000);
        for name in ["etc/hosts", "etc/shadow"] {
            fs::write(path(name), &long).unwrap();
        }
        let root = GuestRoot::open(folder.path(), 0).unwrap();
        apply(&root, &changes(&root, &container("web"), None)).unwrap();
        assert_eq!(changes(&root, &container("web"), None), []);
        let with_password = changes(&root, &container("web"), Some("$6$h"));
        let error = apply(&root, &with_password).unwrap_err().to_string();
        assert!(error.contains("/etc/shadow of the guest"), "{error}");
        for name in ["etc/hosts", "etc/shadow"] {
            assert!(fs::read_to_string(path(name)).unwrap() == long, "{name}");
        }
    }

    #[test]
    fn what_the_guest_put_in_a_files_place_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |path: &str| folder.path().join(path);
        fs::create_dir_all(path("etc")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path("etc/hostname"), fifo, mode, 0).unwrap();
        std::os::unix::fs::symlink("/proc/self/root/etc/hosts", path("etc/hosts")).unwrap();
        let root = GuestRoot::open(folder.path(), 0).unwrap();
        apply(&root, &changes(&root, &container("web"), None)).unwrap();
        assert_eq!(fs::read_to_string(path("etc/hostname")).unwrap(), "web\n");
        assert!(
            !fs::symlink_metadata(path("etc/hosts"))
                .unwrap()
                .is_symlink()
        );
        assert_eq!(changes(&root, &container("web"), None), []);
    }
}
