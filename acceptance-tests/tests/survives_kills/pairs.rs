//! What is gone through: pairs of stages, each of which changes several things at once.

use acceptance_tests::{
    Lab,
    configuration::{self, address, address_with, container, image},
    images::Guest,
    sweep::{Deed, Stage},
};
use anyhow::Result;

/// Two stages: going from the first to the second is an operation, and going back another.
pub struct Pair {
    pub name: &'static str,
    pub stages: [Stage; 2],
}

/// What the stages are made of.
pub struct Parts {
    plain: String,
    nesting: String,
    other_bridge: String,
    hasty: String,
    hasty_together: String,
    imaged: String,
    other_image: String,
    debootstrapped: String,
    web: String,
    db: String,
    v4: String,
    v6: String,
    own: String,
    web_image: String,
}

impl Parts {
    pub fn of(lab: &Lab) -> Result<Self> {
        let host = |more: &str| configuration::host(lab.vps1(), more);
        let debian = image(Guest::Debian)?;
        Ok(Self {
            plain: host(""),
            nesting: host("  isolation = false\n  nesting = true\n  rollback_after = \"20s\""),
            other_bridge: host("  bridge = \"br1\""),
            hasty: host("  rollback_after = \"15s\""),
            hasty_together: host("  rollback_after = \"15s\"\n  isolation = false"),
            imaged: host("") + &debian,
            web_image: debian,
            other_image: host("") + &fetched(lab, &Guest::WithoutNetworkd.tarball()?.sha256),
            debootstrapped: host("") + &debootstrapped(lab),
            web: container("web", ""),
            db: container("db", ""),
            v4: address("v4", "203.0.113.2", "web"),
            v6: address("v6", "2001:db8:1::2", "web"),
            own: address("own", "203.0.113.3", "db"),
        })
    }
}

/// Lays what is fetched where each lab serves it.
pub fn serve(lab: &Lab) -> Result<()> {
    let tarball = Guest::WithoutNetworkd.tarball()?;
    std::fs::copy(&tarball.path, lab.files().join(FETCHED))?;
    Ok(())
}

const FETCHED: &str = "guest.tar.zst";

/// An image that the host fetches and changes. A guest with an sshd gets host keys.
fn fetched(lab: &Lab, sha256: &str) -> String {
    of_debian(&format!(
        "  tarball = {{ url = \"{}\", sha256 = \"{sha256}\" }}\n  \
         customize = [\"touch /customized /usr/sbin/sshd\", \"mkdir -p /etc/ssh\"]",
        lab.file_url(FETCHED),
    ))
}

fn debootstrapped(lab: &Lab) -> String {
    of_debian(&format!(
        "  debootstrap = {{ suite = \"trixie\", mirror = \"{}\" }}",
        lab.mirror_url()
    ))
}

fn of_debian(source: &str) -> String {
    format!(
        "resource \"nspawn_image\" \"debian\" {{\n  host = nspawn_host.vps1\n  name = \"debian\"\n{source}\n}}\n"
    )
}

fn stage(configuration: &[&str], guests: &[(&'static str, &'static str)]) -> Stage {
    Stage {
        configuration: configuration.concat(),
        guests: guests.to_vec(),
    }
}

fn pair(name: &'static str, from: Stage, to: Stage) -> Pair {
    Pair {
        name,
        stages: [from, to],
    }
}

pub fn of_hosts(of: &Parts) -> Vec<Pair> {
    let plain = || stage(&[&of.plain], &[]);
    vec![
        pair("host", stage(&[], &[]), plain()),
        pair(
            "host's isolation and nesting",
            plain(),
            stage(&[&of.nesting], &[]),
        ),
        pair("host's bridge", plain(), stage(&[&of.other_bridge], &[])),
    ]
}

pub fn of_images(of: &Parts) -> Vec<Pair> {
    let imaged = || stage(&[&of.imaged], &[]);
    vec![
        pair("image", stage(&[&of.plain], &[]), imaged()),
        pair(DEBOOTSTRAP, imaged(), stage(&[&of.debootstrapped], &[])),
        pair(
            "image's content",
            imaged(),
            stage(&[&of.other_image, &of.web], &[]),
        ),
    ]
}

/// The pair of which each case takes long.
pub const DEBOOTSTRAP: &str = "image by debootstrap";

pub fn of_containers(of: &Parts) -> Vec<Pair> {
    let both = [WEB4, ("2001:db8:1::2", "web")];
    let copy = container("web", "  storage = \"copy\"\n  ephemeral = true");
    vec![
        pair(
            "container and addresses",
            stage(&[&of.imaged], &[]),
            stage(&[&of.imaged, &of.web, &of.v4, &of.v6], &both),
        ),
        settings_and_address(of),
        pair(
            "container's kind of root",
            stage(&[&of.imaged, &of.web, &of.v4], &[WEB4]),
            stage(&[&of.imaged, &copy, &of.v4], &[WEB4]),
        ),
        limits_and_stop(of),
        users_and_prefix(of),
    ]
}

const WEB4: (&str, &str) = ("203.0.113.2", "web");

fn settings_and_address(of: &Parts) -> Pair {
    let changed = container(
        "web",
        "  hostname = \"www\"\n  memory = \"256M\"\n  dns_servers = [\"192.0.2.53\"]\n  ephemeral = true\n  \
         root_password_wo = \"secret\"\n  root_password_wo_version = 1",
    );
    let moved = address("v4", "203.0.113.2", "db");
    pair(
        "container's settings and address",
        stage(
            &[&of.imaged, &of.web, &of.db, &of.v4, &of.own],
            &[WEB4, ("203.0.113.3", "db")],
        ),
        stage(
            &[&of.imaged, &changed, &of.db, &moved, &of.own],
            &[("203.0.113.2", "db"), ("203.0.113.3", "db")],
        ),
    )
}

fn limits_and_stop(of: &Parts) -> Pair {
    let stopped = container(
        "web",
        "  running = false\n  autostart = false\n  cpus = 0.5\n  tasks = 200\n  \
         ssh_authorized_keys = [\"ssh-ed25519 AAAA alice\"]\n  \
         nspawn_config = { Exec = { Environment = [\"COLOUR=green\"] } }",
    );
    pair(
        "container's limits and stop",
        stage(&[&of.imaged, &of.web, &of.v4], &[WEB4]),
        stage(&[&of.imaged, &stopped, &of.v4], &[]),
    )
}

fn users_and_prefix(of: &Parts) -> Pair {
    let without = container("web", "  private_users = false");
    let prefix = address_with("block", "2001:db8:1:0:5::/80", "web", "  proxy = false");
    pair(
        "container's users and a prefix",
        stage(&[&of.imaged, &of.web, &of.v4], &[WEB4]),
        stage(&[&of.imaged, &without, &of.v4, &prefix], &[WEB4]),
    )
}

/// What the resident service does by itself, and the stage at which.
pub fn of_the_resident(of: &Parts) -> (Stage, [Deed; 3]) {
    let rest = [&of.web_image, &of.web, &of.v4, &of.v6].map(String::as_str);
    let with = |host: &str| [&[host], &rest[..]].concat().concat();
    let stage = Stage {
        configuration: with(&of.hasty),
        guests: vec![WEB4, ("2001:db8:1::2", "web")],
    };
    let unconfirmed = with(&of.hasty_together);
    (stage, [Deed::RollBack(unconfirmed), Deed::Heal, Deed::Boot])
}
