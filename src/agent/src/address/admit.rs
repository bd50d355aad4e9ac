//! Which addresses are refused, each by its reason: pure.

use std::net::IpAddr;

use ipnet::IpNet;
use protocol::{Failure, FailureKind, desired::Address, observed::Facts};

use super::plan;
use crate::{
    store::Inventory,
    system::netlink::{Network, PROTOCOL},
};

fn invalid(message: String, help: &str) -> Failure {
    Failure::new(FailureKind::Invalid, message)
        .help(help)
        .at("address")
}

/// Whether an address may be given to a container of this host.
pub fn admit(
    address: &Address,
    inventory: &Inventory,
    network: &Network,
    facts: &Facts,
) -> Result<(), Failure> {
    let net = address.address.network();
    let text = address.address.canonical();
    if address.proxy && !address.address.is_single() {
        return Err(invalid(
            format!("{text} is a prefix, and neighbour proxies are for single addresses"),
            "Set proxy = false when the provider routes the prefix to this host; otherwise list single addresses.",
        ));
    }
    let contains = |ip: IpAddr| net.contains(&ip);
    if let Some(peer) = facts.ssh_peer.filter(|peer| contains(*peer)) {
        return Err(invalid(
            format!("{text} contains {peer}, from which this very connection comes"),
            "A route to the bridge would cut it off. Choose an address that was assigned to this host.",
        ));
    }
    if let Some(gateway) = facts.gateways.iter().find(|gateway| contains(**gateway)) {
        return Err(invalid(
            format!("{text} contains {gateway}, the host's gateway"),
            "A route to the bridge would cut the host off. Choose an address that was assigned to this host.",
        ));
    }
    if let Some(own) = facts.addresses.iter().find(|own| contains(own.addr())) {
        return Err(invalid(
            format!(
                "{text} contains {}, an address of the host itself",
                own.addr()
            ),
            "Choose another address, or remove that one from the host's own network configuration.",
        ));
    }
    check_others(net, &text, inventory, network)?;
    check_uplink(address, network)?;
    if matches!(net, IpNet::V4(_)) && plan::gateway(inventory, network, net.addr()).is_none() {
        return Err(Failure::new(
            FailureKind::Unsupported,
            format!("{text} needs a gateway for the guest, and this host has no IPv4 address"),
        )
        .help("Give the host an IPv4 address on its uplink, or attach IPv6 addresses only.")
        .at("address"));
    }
    Ok(())
}

fn check_others(
    net: IpNet,
    text: &str,
    inventory: &Inventory,
    network: &Network,
) -> Result<(), Failure> {
    for (other, stored) in &inventory.addresses {
        let taken = stored.desired.address.network();
        if taken != net && (taken.contains(&net) || net.contains(&taken)) {
            return Err(Failure::new(
                FailureKind::Conflict,
                format!(
                    "{text} overlaps with {other}, which belongs to the container {}",
                    stored.desired.container
                ),
            )
            .help("Attach addresses that don't overlap.")
            .at("address"));
        }
    }
    if let Some(bridge) = foreign_bridge(net, inventory, network) {
        return Err(Failure::new(
            FailureKind::Conflict,
            format!("{text} is in the network of the bridge {bridge}, which nspawn-agent didn't make: whoever has it there would be cut off"),
        )
        .help("Choose an address that belongs to no other bridge of this host.")
        .at("address"));
    }
    let foreign = network
        .routes
        .iter()
        .find(|route| route.destination == net && route.protocol != PROTOCOL);
    match foreign {
        None => Ok(()),
        Some(route) => Err(Failure::new(
            FailureKind::Conflict,
            format!(
                "this host has a route to {text} over {} already, and nspawn-agent didn't make it",
                network.name(route.index).unwrap_or("another interface")
            ),
        )
        .help("Remove that route from the host's own network configuration, or choose another address.")
        .at("address")),
    }
}

/// The bridge of others, say Docker's, that the host looks for an address on.
fn foreign_bridge<'a>(net: IpNet, inventory: &Inventory, network: &'a Network) -> Option<&'a str> {
    let own = inventory
        .host
        .as_ref()
        .map(|host| host.desired.bridge.as_str());
    let links = network
        .links
        .iter()
        .filter(|link| link.kind.as_deref() == Some("bridge") && Some(link.name.as_str()) != own);
    let mut of = links.filter(|link| {
        network.routes.iter().any(|route| {
            let is_on_link = route.gateway.is_none() && route.destination.prefix_len() > 0;
            route.index == link.index && is_on_link && route.destination.contains(&net)
        })
    });
    of.next().map(|link| link.name.as_str())
}

fn check_uplink(address: &Address, network: &Network) -> Result<(), Failure> {
    match &address.uplink {
        Some(name) if network.link(name.as_str()).is_none() => Err(Failure::new(
            FailureKind::Invalid,
            format!("there is no interface {name} on this host"),
        )
        .help("Name the interface that the address is reached through, or leave uplink out.")
        .at("uplink")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
