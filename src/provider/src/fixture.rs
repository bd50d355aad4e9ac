//! What several unit tests need.

use std::collections::BTreeMap;

use protocol::{
    desired::{Host, Image, ImageSource, Tarball, TarballLocation},
    name::OwnerToken,
    observed::{Facts, ImageState, Observed, Owner, Snapshot},
};
use tfplugin::Attr;

use crate::{connection::Target, resources::container::Container};

/// A token that consists of this digit.
pub fn token(digit: char) -> OwnerToken {
    digit.to_string().repeat(32).parse().unwrap()
}

/// A host of the lab, with nothing on it.
pub fn snapshot() -> Snapshot {
    Snapshot {
        facts: facts(),
        host: None,
        images: BTreeMap::new(),
        containers: BTreeMap::new(),
        addresses: BTreeMap::new(),
        foreign_machines: vec!["pet".into()],
    }
}

/// A host of the lab.
pub fn facts() -> Facts {
    Facts {
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        os: "Debian GNU/Linux 13 (trixie)".into(),
        kernel: "6.12.0".into(),
        architecture: "x86_64".into(),
        systemd_version: "257".into(),
        cpus: 2,
        memory_bytes: 4 << 30,
        uplink: Some("eth0".into()),
        ipv4_address: Some("203.0.113.1".parse().unwrap()),
        ipv6_address: Some("2001:db8:1::1".parse().unwrap()),
        addresses: vec![
            "203.0.113.1/32".parse().unwrap(),
            "2001:db8:1::1/64".parse().unwrap(),
        ],
        gateways: vec!["172.31.1.1".parse().unwrap(), "fe80::1".parse().unwrap()],
        ssh_peer: Some("198.51.100.2".parse().unwrap()),
        idmapped_overlay: true,
        agent_version: "0.1.0".into(),
    }
}

/// An image there, as whoever has made it has claimed it.
pub fn image(name: &str, digest: &str) -> Observed<Image, ImageState> {
    Observed {
        desired: Image {
            name: name.parse().unwrap(),
            source: ImageSource::Tarball(Tarball {
                location: TarballLocation::Path("a".into()),
                sha256: "0".repeat(64),
            }),
            customize: None,
            timeouts: None,
        },
        owner: Owner {
            token: token('b'),
            claimed: true,
            holder: None,
        },
        state: ImageState {
            digest: digest.into(),
            os: String::new(),
            size_bytes: 0,
        },
        drift: vec![],
    }
}

/// What is asked of it, with every default.
pub fn desired_host() -> Host {
    Host {
        bridge: "br0".parse().unwrap(),
        uplink: None,
        install_packages: true,
        nesting: false,
        isolation: true,
        rollback_after: "30s".parse().unwrap(),
        timeouts: None,
    }
}

/// A container that runs there.
pub fn web() -> Container {
    Container {
        host: Attr::Known((&Target::new("203.0.113.1")).into()),
        name: Attr::Known("web".parse().unwrap()),
        image: Attr::Known("debian".parse().unwrap()),
        hostname: Attr::Known("web".parse().unwrap()),
        running: true.into(),
        storage: "overlay".into(),
        status: "running".into(),
        image_digest: "sha256:old".into(),
        ..Container::default()
    }
}
