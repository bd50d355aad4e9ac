//! What the kernels of the host, the guests and the router believe.

use std::{net::IpAddr, path::Path};

use acceptance_tests::{
    command::{check, command},
    frames::Mac,
};
use anyhow::{Result, ensure};

use super::world::{self, Prefix, World};

/// One line of a table of neighbours.
pub struct Neighbour {
    /// On which interface.
    pub interface: String,
    /// Who.
    pub address: IpAddr,
    /// Where.
    pub mac: Option<Mac>,
}

fn neighbours(listing: &str) -> Vec<Neighbour> {
    listing.lines().filter_map(neighbour).collect()
}

fn neighbour(line: &str) -> Option<Neighbour> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |name: &str| {
        let place = words.iter().position(|word| *word == name)?;
        words.get(place + 1).copied()
    };
    Some(Neighbour {
        interface: after("dev")?.to_owned(),
        address: words.first()?.parse().ok()?,
        mac: after("lladdr").and_then(|mac| world::mac(mac).ok()),
    })
}

fn in_namespace(namespace: &Path, script: &str) -> Result<String> {
    let network = format!("--net={}", namespace.display());
    check(&mut command("nsenter", [&network, "sh", "-ec", script]))
}

/// The host's neighbours, those included that it only asks for.
pub fn of_host(world: &World) -> Result<Vec<Neighbour>> {
    Ok(neighbours(&world.lab.vps1().root("ip -o neigh show")?))
}

/// How many addresses of a prefix the host has in its table.
pub fn in_prefix(world: &World, prefix: &Prefix) -> Result<usize> {
    let of_host = of_host(world)?;
    let in_prefix = of_host
        .iter()
        .filter(|entry| entry.address.to_string().starts_with(prefix.start));
    Ok(in_prefix.count())
}

/// Fails when anybody takes somebody to be where they aren't.
pub fn are_true(world: &World) -> Result<()> {
    for entry in of_host(world)? {
        let Some(mac) = entry.mac else { continue };
        let owner = world
            .guests()
            .into_iter()
            .find(|guest| guest.has(entry.address));
        let true_on_bridge =
            entry.interface == "br0" && owner.is_some_and(|guest| guest.mac == mac);
        ensure!(
            true_on_bridge || entry.interface == world.lab.vps1().options().uplink,
            "the host takes {} to be at {mac:02x?} on {}",
            entry.address,
            entry.interface
        );
    }
    for guest in [&world.victim, &world.bystander] {
        for entry in neighbours(&in_namespace(&guest.namespace, "ip -o neigh show")?) {
            let known = entry.mac.is_none_or(|mac| mac == world.bridge);
            ensure!(
                known,
                "{} takes {} to be at {:02x?}",
                guest.name,
                entry.address,
                entry.mac
            );
        }
    }
    let link = world.lab.vps1().name();
    for entry in neighbours(&world.lab.router().ip("-o neigh show")?) {
        let known = entry.interface != link || entry.mac.is_none_or(|mac| mac == world.uplink);
        ensure!(
            known,
            "the router takes {} to be at {:02x?}",
            entry.address,
            entry.mac
        );
    }
    Ok(())
}

/// The addresses, routes, forwarding entries and rules of the host, but for what packets put into sets for some time;
/// addresses and routes of the neighbours.
pub fn all(world: &World) -> Result<String> {
    let script = "ip -o addr | sed -E 's/(valid|preferred)_lft [^ ]+//g'; ip route show table all; \
         ip -6 route show table all | sed -E 's/ expires [0-9]+sec//'; bridge fdb show | sort; nft list ruleset | sed '/ expires /d'";
    let mut text = world.lab.vps1().root(script)?;
    for guest in [&world.victim, &world.bystander] {
        text += &in_namespace(&guest.namespace, "ip -o addr; ip route; ip -6 route")?;
    }
    Ok(text)
}

/// Fails when a table is not what it was, and names the lines.
pub fn are_unchanged(world: &World, before: &str) -> Result<()> {
    let after = all(world)?;
    let only_in = |one: &str, other: &str| -> Vec<String> {
        one.lines()
            .filter(|line| !other.lines().any(|found| found == *line))
            .map(str::to_owned)
            .collect()
    };
    let (gone, new) = (only_in(before, &after), only_in(&after, before));
    ensure!(
        gone.is_empty() && new.is_empty(),
        "gone: {gone:#?}\nnew: {new:#?}"
    );
    Ok(())
}

/// A MAC address as iproute2 writes it.
pub fn words(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Whether the bridge takes a MAC address to be the attacker's.
pub fn bridge_has_it_at_the_attacker(world: &World, mac: Mac) -> Result<bool> {
    let text = words(mac);
    let listing = world.lab.vps1().root("bridge fdb show dev vb-attacker")?;
    Ok(listing.lines().any(|line| line.starts_with(&text)))
}
