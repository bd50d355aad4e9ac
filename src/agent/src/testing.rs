//! Made-up hosts for the tests of planning.

use std::{collections::BTreeMap, io, path::Path, process::Command, time::Duration};

use protocol::{
    desired::{
        Address, Container, Host, Image, ImageSource, Storage, Tarball, TarballLocation, WaitFor,
    },
    observed::{Facts, Owner},
};
use tokio::task::LocalSet;

use crate::{
    container,
    context::Context,
    filter, guest, host, image,
    reconcile::Observation,
    store::{Inventory, Kept, Store, Stored},
    system::netlink::{Link, Netlink, Network},
};

pub const MACHINE_ID: &str = "0123456789abcdef0123456789abcdef";

/// Does something that takes this long at most, with the context of a request.
pub async fn within<T>(time: Duration, work: impl AsyncFnOnce(Context) -> T) -> T {
    let work = async { work(Context::new(Netlink::open().unwrap(), "test", time)).await };
    LocalSet::new().run_until(work).await
}

/// The same for a provider's request, with a store and a lock of its own in this folder.
pub fn in_folder(mut context: Context, folder: &Path) -> Context {
    context.store = Store::new(folder.join("etc"));
    context.run_folder = folder.join("run");
    context.session = "b".repeat(32).parse().ok();
    context
}

/// Does something in a thread with a network and mounts of its own, with a folder on a disk of 64 kB.
#[allow(unsafe_code, reason = "rustix calls every unshare(2) unsafe")]
pub fn on_small_disk(work: impl FnOnce(&Path) + Send + 'static) {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).status();
        assert!(status.unwrap().success(), "{program} {arguments:?}");
    };
    let thread = std::thread::spawn(move || {
        // SAFETY: neither touches memory or descriptors; no other thread shares this one's folder.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
        run("mount", &["--make-rprivate", "/"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=64k", "none", path]);
        work(folder.path());
        run("umount", &["--lazy", path]);
    });
    thread.join().unwrap();
}

/// Leaves no room on such a disk.
pub fn fill(folder: &Path) {
    let filled = std::fs::write(folder.join("filler"), vec![1; 1 << 20]);
    assert_eq!(filled.unwrap_err().kind(), io::ErrorKind::StorageFull);
}

/// An object that belongs to somebody.
pub fn stored<D: Kept>(desired: D, assigned: D::Assigned) -> Stored<D> {
    Stored {
        owner: Owner {
            token: "a".repeat(32).parse().unwrap(),
            claimed: true,
            holder: None,
        },
        session: "b".repeat(32).parse().unwrap(),
        desired,
        assigned,
    }
}

/// An image with a tree of this digest.
pub fn image(name: &str, digest: &str) -> Stored<Image> {
    let source = ImageSource::Tarball(Tarball {
        location: TarballLocation::Url("file:///image.tar".to_owned()),
        sha256: "0".repeat(64),
    });
    let desired = Image {
        name: name.parse().unwrap(),
        source,
        customize: None,
        timeouts: None,
    };
    let assigned = image::Assigned {
        digest: digest.to_owned(),
        ..image::Assigned::default()
    };
    stored(desired, assigned)
}

/// An address of a container.
pub fn address(text: &str, container: &str) -> Address {
    Address {
        address: text.parse().unwrap(),
        container: container.parse().unwrap(),
        proxy: true,
        uplink: None,
        timeouts: None,
    }
}

fn container(name: &str) -> Container {
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

/// A host with these containers, and these addresses of theirs.
pub fn inventory(containers: &[&str], addresses: &[(&str, &str)]) -> Inventory {
    let host = Host {
        bridge: "br0".parse().unwrap(),
        uplink: None,
        install_packages: true,
        nesting: false,
        isolation: true,
        rollback_after: "30s".parse().unwrap(),
        timeouts: None,
    };
    let assigned = host::Assigned {
        uplink: "eth0".to_owned(),
        ipv4: None,
        brought_bridge_filter: false,
    };
    Inventory {
        host: Some(stored(host, assigned)),
        images: BTreeMap::new(),
        containers: containers
            .iter()
            .map(|name| {
                let container = container(name);
                let assigned = container::Assigned::default();
                (container.name.clone(), stored(container, assigned))
            })
            .collect(),
        addresses: addresses
            .iter()
            .map(|(text, name)| {
                let address = address(text, name);
                let assigned = crate::address::Assigned::default();
                (address.address.canonical(), stored(address, assigned))
            })
            .collect(),
    }
}

/// A host whose uplink is eth0, number 2, and whose bridge is br0, number 3.
pub fn network() -> Network {
    let link = |index, name: &str, alias: Option<&str>| Link {
        index,
        name: name.to_owned(),
        alias: alias.map(str::to_owned),
        up: true,
        mtu: 1500,
        ..Link::default()
    };
    let bridge = Link {
        mac: host::bridge::mac(MACHINE_ID, "br0").to_vec(),
        ..link(3, "br0", Some(host::bridge::ALIAS))
    };
    Network {
        links: vec![link(2, "eth0", None), bridge],
        addresses: [
            (2, "203.0.113.1/32"),
            (2, "2001:db8:1::1/64"),
            (3, host::BRIDGE_ADDRESS),
        ]
        .into_iter()
        .map(|(index, net)| crate::system::netlink::Address {
            index,
            net: net.parse().unwrap(),
            global: index == 2,
            expires: false,
        })
        .collect(),
        routes: vec![crate::system::netlink::Route {
            destination: "fe80::/64".parse().unwrap(),
            index: 3,
            gateway: None,
            protocol: libc::RTPROT_KERNEL,
            metric: 256,
        }],
        ..Network::default()
    }
}

/// What is seen of such a host.
pub fn observation(network: Network) -> Observation {
    Observation {
        facts: Facts {
            machine_id: MACHINE_ID.to_owned(),
            os: String::new(),
            kernel: "6.12".to_owned(),
            architecture: "x86_64".to_owned(),
            systemd_version: "257".to_owned(),
            cpus: 2,
            memory_bytes: 1,
            uplink: Some("eth0".to_owned()),
            ipv4_address: "203.0.113.1".parse().ok(),
            ipv6_address: "2001:db8:1::1".parse().ok(),
            addresses: network
                .addresses
                .iter()
                .map(|address| address.net)
                .collect(),
            gateways: vec!["172.31.1.1".parse().unwrap(), "fe80::1".parse().unwrap()],
            ssh_peer: "198.51.100.2".parse().ok(),
            idmapped_overlay: true,
            agent_version: String::new(),
        },
        network,
        host: host::Observed::default(),
        filter: filter::Observed::default(),
        images: image::Observed::default(),
        containers: container::Observed::default(),
        guests: guest::network::Observed::new(),
    }
}
