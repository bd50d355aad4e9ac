//! What the filter and the ports need: pure.

use ipnet::IpNet;

use super::{Elements, Step, neighbours, on_link, port};
use crate::{
    container::mac::{mac_address, parse_machine_id},
    host::bridge,
    reconcile::{Observation, Scope},
    store::Inventory,
    system::netlink::{Link, Network, PortFlags},
};

/// Who may send what.
pub fn elements(inventory: &Inventory, observed: &Observation) -> Elements {
    let mut elements = Elements::default();
    let (Some(id), Some(host)) = (
        parse_machine_id(&observed.facts.machine_id),
        &inventory.host,
    ) else {
        return elements;
    };
    let bridge = own_bridge(inventory, observed);
    let prefixes = on_link::prefixes(&observed.network, bridge);
    elements.limit(host.desired.bridge.as_str(), &prefixes);
    for name in inventory.containers.keys() {
        let addresses: Vec<IpNet> = inventory
            .addresses_of(name)
            .map(|stored| stored.desired.address.network())
            .collect();
        // A later systemd may name ports in another way: what is there counts.
        let found = bridge.and_then(|bridge| port::find(&observed.network, bridge, name));
        let port = found.map_or_else(|| port::name(name), |link| link.name.clone());
        elements.admit(&port, mac_address(id, name.as_str()), &addresses);
    }
    elements
}

/// What has to be done for the filter and the ports.
pub fn plan(inventory: &Inventory, observed: &Observation, scope: &Scope) -> Vec<Step> {
    let mut steps = Vec::new();
    let isolation = inventory
        .host
        .as_ref()
        .is_some_and(|host| host.desired.isolation);
    if isolation {
        let wanted = elements(inventory, observed);
        match observed.filter.in_force() {
            None => steps.push(Step::Load(wanted)),
            Some(found) if *found != wanted => steps.push(Step::Change {
                from: found.clone(),
                to: wanted,
            }),
            Some(_) => {}
        }
    } else if observed.filter.digest.is_some() {
        steps.push(Step::Remove);
    }
    // Guests aren't put on somebody else's bridge, nor is anything told to it.
    let (Some(id), Some(bridge)) = (
        parse_machine_id(&observed.facts.machine_id),
        own_bridge(inventory, observed),
    ) else {
        return steps;
    };
    let looked_after = inventory
        .containers
        .keys()
        .filter(|name| scope.has_port(name));
    for name in looked_after {
        if let Some(link) = port::find_stray(&observed.network, bridge, name) {
            steps.push(Step::JoinBridge {
                index: link.index,
                name: link.name.clone(),
                bridge,
            });
        }
        if let Some(link) = port::find(&observed.network, bridge, name) {
            let mac = mac_address(id, name.as_str());
            steps.extend(port_steps(&observed.network, link, mac, isolation));
        }
    }
    steps.extend(neighbours::plan(inventory, observed, id, scope));
    steps
}

fn own_bridge(inventory: &Inventory, observed: &Observation) -> Option<u32> {
    let machine_id = &observed.facts.machine_id;
    bridge::of(inventory, &observed.network, machine_id).map(|link| link.index)
}

fn port_steps(network: &Network, link: &Link, mac: [u8; 6], isolation: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if !link.up {
        steps.push(Step::SetUp {
            index: link.index,
            name: link.name.clone(),
        });
    }
    let flags = if isolation {
        PortFlags::APART
    } else {
        PortFlags::TOGETHER
    };
    if link.port != Some(flags) {
        steps.push(Step::SetPort {
            index: link.index,
            name: link.name.clone(),
            flags,
        });
    }
    let entry = network
        .forwarding
        .iter()
        .any(|entry| entry.index == link.index && entry.mac == mac && entry.fixed);
    let (index, name) = (link.index, link.name.clone());
    match (isolation, entry) {
        (true, false) => steps.push(Step::AddForwarding { index, name, mac }),
        (false, true) => steps.push(Step::DeleteForwarding { index, name, mac }),
        _ => {}
    }
    steps
}

#[cfg(test)]
mod tests;
