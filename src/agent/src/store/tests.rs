use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use super::*;

fn address(text: &str) -> Stored<Address> {
    Stored {
        owner: Owner {
            token: "a".repeat(32).parse().unwrap(),
            claimed: false,
            holder: None,
        },
        session: "b".repeat(32).parse().unwrap(),
        desired: Address {
            address: text.parse().unwrap(),
            container: "web".parse().unwrap(),
            proxy: true,
            uplink: None,
            timeouts: None,
        },
        assigned: crate::address::Assigned::default(),
    }
}

#[test]
fn what_is_put_comes_back_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().join("etc"));
    assert!(store.all::<Address>().unwrap().is_empty());
    for text in ["203.0.113.2", "2001:db8:1:5::/80"] {
        store.put(&address(text)).unwrap();
        assert_eq!(store.get::<Address>(text).unwrap(), Some(address(text)));
    }
    assert_eq!(store.inventory().unwrap().addresses.len(), 2);
    let mode = |path: &str| {
        fs::metadata(folder.path().join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("etc"), mode("etc/addresses/203.0.113.2.json")),
        (0o700, 0o600)
    );
    for text in ["203.0.113.2", "2001:db8:1:5::/80", "203.0.113.2"] {
        store.remove::<Address>(text).unwrap();
    }
    store.remove_if_empty().unwrap();
    assert!(!folder.path().join("etc").exists());
}

#[test]
fn a_crash_before_the_rename_leaves_the_old_object() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    store.put(&address("203.0.113.2")).unwrap();
    fs::write(
        folder
            .path()
            .join("addresses/.203.0.113.3.json.nspawn-agent"),
        "{\"ow",
    )
    .unwrap();
    assert_eq!(store.all::<Address>().unwrap().len(), 1);
    store.put(&address("203.0.113.3")).unwrap();
    assert_eq!(store.all::<Address>().unwrap().len(), 2);
}

#[test]
fn what_is_left_of_a_killed_create_goes_with_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().join("etc"));
    store.put(&address("203.0.113.2")).unwrap();
    store.remove::<Address>("203.0.113.2").unwrap();
    let left = "etc/addresses/.203.0.113.3.json.nspawn-agent4711-0";
    fs::write(folder.path().join(left), "{\"ow").unwrap();
    store.remove_if_empty().unwrap();
    assert!(!folder.path().join("etc").exists());
}

#[test]
fn a_container_that_is_being_removed_is_none_and_is_not_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().join("etc"));
    let inventory = crate::testing::inventory(&["web"], &[]);
    let web = inventory.containers.values().next().unwrap();
    store.put(web).unwrap();
    // A disk without room for another file lets it be moved, and no more.
    let folders: Vec<_> = ["etc/containers", "etc/removals"]
        .map(|path| fs::metadata(folder.path().join(path)).unwrap().is_dir())
        .into();
    assert_eq!(folders, [true, true]);
    store.begin_removal(&web.desired.name).unwrap();
    assert_eq!(
        store.being_removed(&web.desired.name).unwrap().as_ref(),
        Some(web)
    );
    assert!(store.inventory().unwrap().containers.is_empty());
    store.remove_if_empty().unwrap();
    assert_eq!(store.removals().unwrap(), std::slice::from_ref(web));
    store.end_removal(&web.desired.name).unwrap();
    assert!(store.removals().unwrap().is_empty());
    store.remove_if_empty().unwrap();
    assert!(!folder.path().join("etc").exists());
}

#[test]
fn a_link_in_a_files_place_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().join("etc"));
    store.put(&address("203.0.113.2")).unwrap();
    let target = folder.path().join("target");
    fs::write(&target, "precious").unwrap();
    let path = folder.path().join("etc/addresses/203.0.113.2.json");
    fs::remove_file(&path).unwrap();
    symlink(&target, &path).unwrap();
    assert!(store.get::<Address>("203.0.113.2").is_err());
    store.put(&address("203.0.113.2")).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}

#[test]
fn what_is_no_object_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("host.json"), "{").unwrap();
    let failure = Store::new(folder.path()).inventory().unwrap_err();
    assert!(failure.message.contains("host.json"), "{failure}");
}
