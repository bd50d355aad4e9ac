//! What addresses need: pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use protocol::{
    desired::{Address, Host},
    name::{InterfaceName, MachineName},
};

use super::Step;
use crate::{
    container::mac::{mac_address, parse_machine_id},
    filter::link_local,
    guest::network::{Wanted, own_address},
    host,
    reconcile::{Observation, Scope},
    store::{Inventory, Stored},
    system::netlink::{Link, Network, PROTOCOL},
};

/// The host as guests know it. [`host::BRIDGE_ADDRESS`]
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// A guest's way out for this family.
pub fn gateway(inventory: &Inventory, network: &Network, address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(_) => host::ipv4(inventory.host.as_ref()?, network),
        IpAddr::V6(_) => Some(GATEWAY_V6),
    }
}

/// What a container's guest should have.
pub fn guest(inventory: &Inventory, network: &Network, name: &MachineName) -> Wanted {
    let addresses: Vec<IpNet> = inventory
        .addresses_of(name)
        .map(|stored| own_address(&stored.desired.address))
        .collect();
    let mut gateways: Vec<IpAddr> = addresses
        .iter()
        .filter_map(|net| gateway(inventory, network, net.addr()))
        .collect();
    gateways.dedup();
    Wanted {
        addresses,
        gateways,
    }
}

/// What has to be done for the addresses.
pub fn plan(inventory: &Inventory, observed: &Observation, scope: &Scope) -> Vec<Step> {
    let mut steps = leftovers(inventory, observed, scope);
    if let Some(host) = &inventory.host {
        let network = &observed.network;
        // Nothing is led to somebody else's bridge in its place.
        let bridge = host::bridge::of_host(host, network, &observed.facts.machine_id);
        for stored in inventory
            .addresses
            .values()
            .filter(|stored| scope.has_address(stored))
        {
            let via = via(inventory, observed, &stored.desired);
            steps.extend(bridge.and_then(|bridge| route(network, bridge, stored, via)));
            let uplink = network.link(uplink(host, &stored.desired));
            steps.extend(uplink.and_then(|uplink| proxy(network, uplink, stored)));
        }
        steps.extend(guests(inventory, observed));
        if let Some(bridge) = bridge {
            steps.extend(stale(inventory, observed, scope, bridge));
        }
    }
    steps
}

/// A prefix of either family is routed to its guest, because every address of it that the host has to ask for is a
/// place in the table of neighbours, which others need. Without isolation a guest may have another MAC address.
fn via(inventory: &Inventory, observed: &Observation, address: &Address) -> Option<Ipv6Addr> {
    let isolation = inventory.host.as_ref()?.desired.isolation;
    let prefix = !address.address.is_single();
    let id = parse_machine_id(&observed.facts.machine_id)?;
    let mac = mac_address(id, address.container.as_str());
    (isolation && prefix).then(|| link_local(mac))
}

fn route(
    network: &Network,
    bridge: &Link,
    stored: &Stored<Address>,
    gateway: Option<Ipv6Addr>,
) -> Option<Step> {
    let destination = stored.desired.address.network();
    let there = network.routes.iter().any(|route| {
        route.destination == destination
            && route.index == bridge.index
            && route.protocol == PROTOCOL
            && route.gateway == gateway.map(IpAddr::V6)
    });
    // A bridge that is down takes no routes; the host's own plan sets it up first.
    (!there && bridge.up).then_some(Step::AddRoute {
        destination,
        index: bridge.index,
        gateway,
    })
}

fn uplink<'a>(host: &'a Stored<Host>, address: &'a Address) -> &'a str {
    let own = address.uplink.as_ref().map(InterfaceName::as_str);
    own.unwrap_or_else(|| host::uplink(host))
}

/// Whether the host is to answer for an address itself.
fn is_proxied(address: &Address) -> bool {
    address.proxy && address.address.is_single()
}

/// What keeps an address from its guest, which no step can mend.
pub fn hindrances(
    inventory: &Inventory,
    network: &Network,
    stored: &Stored<Address>,
) -> Vec<String> {
    let of_proxy = hindrance_of_proxy(inventory, network, &stored.desired);
    let of_guest = taken_by_host(network, &stored.desired);
    of_proxy.into_iter().chain(of_guest).collect()
}

fn hindrance_of_proxy(
    inventory: &Inventory,
    network: &Network,
    address: &Address,
) -> Option<String> {
    let host = inventory.host.as_ref()?;
    let (name, canonical) = (uplink(host, address), address.address.canonical());
    if !is_proxied(address) {
        return None;
    }
    let Some(link) = network.link(name) else {
        return Some(format!("the uplink {name} of {canonical} is missing"));
    };
    if !link.up {
        return Some(format!("the uplink {name} of {canonical} is down"));
    }
    // What comes in by a port is the bridge's. bridge(8)
    let controller = network
        .links
        .iter()
        .find(|other| Some(other.index) == link.bridge)?;
    (controller.kind.as_deref() == Some("bridge")).then(|| {
        format!(
            "the uplink {name} of {canonical} is a port of the bridge {bridge}, and answers for no address as such: set \
             uplink = \"{bridge}\", or take it out of the bridge (ip link set {name} nomaster)",
            bridge = controller.name
        )
    })
}

/// The host takes what is sent to an address of its own, and answers in the guest's place.
fn taken_by_host(network: &Network, address: &Address) -> Option<String> {
    let net = address.address.network();
    let own = network
        .addresses
        .iter()
        .find(|own| net.contains(&own.net.addr()))?;
    let (interface, own) = (network.name(own.index)?, own.net);
    Some(format!(
        "the server itself has {} on {interface}, and answers in the guest's place: remove it there (ip addr del {own} dev \
         {interface})",
        own.addr()
    ))
}

fn proxy(network: &Network, uplink: &Link, stored: &Stored<Address>) -> Option<Step> {
    let address = stored.desired.address.ip();
    let there = network
        .proxies
        .iter()
        .any(|proxy| proxy.address == address && proxy.index == uplink.index);
    // The kernel drops the proxies of a link that goes down.
    (is_proxied(&stored.desired) && !there && uplink.up).then(|| Step::AddProxy {
        address,
        // The same step, however often its link has lost its carrier.
        link: Link {
            carrier_changes: 0,
            ..uplink.clone()
        },
    })
}

/// Routes and proxies of ours that nothing asks for any more.
fn leftovers(inventory: &Inventory, observed: &Observation, scope: &Scope) -> Vec<Step> {
    let network = &observed.network;
    let concerned = |net: IpNet| match scope {
        Scope::All | Scope::Container(_) => true,
        Scope::Address(address) => {
            *address == net.to_string() || *address == net.addr().to_string()
        }
        Scope::Host | Scope::Image(_) => false,
    };
    let bridge = inventory
        .host
        .as_ref()
        .and_then(|host| {
            let link = network.link(host.desired.bridge.as_str());
            link.or_else(|| host::bridge::others_of_ours(host, network).next())
        })
        .map(|link| link.index);
    let mut steps = Vec::new();
    for route in network
        .routes
        .iter()
        .filter(|route| route.protocol == PROTOCOL)
    {
        let wanted = Some(route.index) == bridge
            && inventory
                .addresses
                .values()
                .any(|stored| stored.desired.address.network() == route.destination);
        if !wanted && concerned(route.destination) {
            steps.push(Step::DeleteRoute {
                destination: route.destination,
                index: route.index,
            });
        }
    }
    for proxy in network
        .proxies
        .iter()
        .filter(|proxy| proxy.protocol == PROTOCOL)
    {
        let wanted = inventory.addresses.values().any(|stored| {
            stored.desired.proxy
                && stored.desired.address.ip() == proxy.address
                && uplink_index(inventory, network, &stored.desired) == Some(proxy.index)
        });
        if !wanted && concerned(IpNet::from(proxy.address)) {
            steps.push(Step::DeleteProxy {
                address: proxy.address,
                index: proxy.index,
            });
        }
    }
    steps
}

fn uplink_index(inventory: &Inventory, network: &Network, address: &Address) -> Option<u32> {
    let name = match &address.uplink {
        Some(name) => name.as_str(),
        None => host::uplink(inventory.host.as_ref()?),
    };
    network.link(name).map(|link| link.index)
}

/// The guests that were looked at are those of the scope.
fn guests(inventory: &Inventory, observed: &Observation) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, guest) in &observed.guests {
        if inventory.containers.contains_key(name) {
            let wanted = self::guest(inventory, &observed.network, name);
            steps.extend(guest.change(name, &wanted).map(Step::Guest));
        } else {
            steps.push(Step::RemoveGuestFiles(name.clone()));
        }
    }
    // The former guest lets an address go before the new one takes it.
    steps.sort_by_key(|step| match step {
        Step::Guest(change) => !change.takes_away(),
        _ => true,
    });
    steps
}

/// Neighbours on the bridge that are not where the address now is: 7 s of darkness otherwise.
fn stale(inventory: &Inventory, observed: &Observation, scope: &Scope, bridge: &Link) -> Vec<Step> {
    let Some(id) = parse_machine_id(&observed.facts.machine_id) else {
        return Vec::new();
    };
    let isolation = inventory
        .host
        .as_ref()
        .is_some_and(|host| host.desired.isolation);
    let mut seen = BTreeSet::new();
    let mut steps = Vec::new();
    for neighbour in observed
        .network
        .neighbours
        .iter()
        .filter(|found| found.index == bridge.index && !found.fixed)
    {
        let owner = inventory.addresses.values().find(|stored| {
            scope.has_address(stored)
                && stored
                    .desired
                    .address
                    .network()
                    .contains(&neighbour.address)
        });
        let elsewhere = owner.is_some_and(|stored| {
            let is = |name: &MachineName| neighbour.mac == mac_address(id, name.as_str());
            // Without the filter a guest may have given itself another MAC address.
            !is(&stored.desired.container) && (isolation || inventory.containers.keys().any(is))
        });
        if elsewhere && seen.insert(neighbour.address) {
            steps.push(Step::FlushNeighbour {
                address: neighbour.address,
                index: bridge.index,
            });
        }
    }
    steps
}

#[cfg(test)]
mod tests;
