//! Objects that the tests of containers share.

use protocol::{
    desired::{Container, Host, Storage, WaitFor},
    observed::Owner,
};

use super::{Assigned, inside::Inside, observe::Machine};
use crate::{
    store::{Kept, Stored},
    system::{files::OwnFile, systemd::UnitState},
};

/// A container with every default.
pub fn container(name: &str) -> Container {
    Container {
        name: name.parse().unwrap(),
        image: "debian".parse().unwrap(),
        hostname: name.parse().unwrap(),
        running: true,
        autostart: true,
        ephemeral: false,
        storage: Storage::Overlay,
        private_users: true,
        cpus: None,
        memory: None,
        memory_swap: None,
        tasks: None,
        wait_for: WaitFor {
            boot: true,
            port: None,
            timeout: "2m".parse().unwrap(),
            configured: false,
        },
        root_password_version: None,
        ssh_authorized_keys: None,
        dns_servers: None,
        delete_protection: false,
        labels: None,
        nspawn_config: None,
        timeouts: None,
    }
}

/// A machine that is all as it should be.
pub fn machine() -> Machine {
    Machine {
        has_folder: true,
        settings: OwnFile::Same,
        drop_in: OwnFile::Same,
        is_outdated: false,
        autostart: true,
        unit: UnitState {
            active: "active".to_owned(),
            sub: "running".to_owned(),
        },
        is_masked: false,
        keeps_failing: false,
        has_port: true,
        is_mounted: true,
        has_mounts: true,
        system_state: None,
        inside: Inside::Changed(Vec::new()),
        lacks_tree: false,
        has_lost_root: false,
        runs_as_it_should: true,
        has_other_passwords: false,
    }
}

/// The container as it is kept.
pub fn stored(desired: Container) -> Stored<Container> {
    keep(
        desired,
        Assigned {
            uid_base: 524_288,
            image_digest: format!("sha256:{}", "0".repeat(64)),
        },
    )
}

/// A host as it is kept.
pub fn host() -> Stored<Host> {
    let desired = Host {
        bridge: "br0".parse().unwrap(),
        uplink: None,
        install_packages: true,
        nesting: false,
        isolation: true,
        rollback_after: "30s".parse().unwrap(),
        timeouts: None,
    };
    keep(desired, crate::host::Assigned::default())
}

fn keep<D: Kept>(desired: D, assigned: D::Assigned) -> Stored<D> {
    Stored {
        owner: Owner {
            token: "a".repeat(32).parse().unwrap(),
            claimed: false,
            holder: None,
        },
        session: "b".repeat(32).parse().unwrap(),
        desired,
        assigned,
    }
}

#[test]
fn only_a_removal_that_is_asked_for_is_refused() {
    use crate::object::Object as _;
    let protected = Container {
        delete_protection: true,
        ..container("web")
    };
    let failure = protected.admit_removal().unwrap_err();
    assert_eq!(failure.attribute.as_deref(), Some("delete_protection"));
    assert!(container("web").admit_removal().is_ok());
}

#[test]
fn what_a_killed_run_left_is_made_anew_when_what_is_chosen_once_differs() {
    use crate::{object::Object as _, store::Inventory};
    let left = stored(container("web"));
    let mut inventory = Inventory::default();
    let anew = |change: fn(&mut Container), inventory: &Inventory| {
        let mut desired = container("web");
        change(&mut desired);
        desired.must_be_made_anew(&left, inventory)
    };
    assert!(!anew(|_| (), &inventory));
    assert!(!anew(|desired| desired.cpus = Some(1.0), &inventory));
    assert!(anew(
        |desired| desired.image = "other".parse().unwrap(),
        &inventory
    ));
    assert!(anew(|desired| desired.storage = Storage::Copy, &inventory));
    assert!(anew(|desired| desired.private_users = false, &inventory));
    let image = crate::testing::image("debian", &left.assigned.image_digest);
    inventory.images.insert("debian".parse().unwrap(), image);
    assert!(!anew(|_| (), &inventory));
    let image = crate::testing::image("debian", "sha256:1");
    inventory.images.insert("debian".parse().unwrap(), image);
    assert!(anew(|_| (), &inventory), "the image has moved on");
}
