//! Where guests are, told to the kernel for good: pure.
//!
//! What the host has to ask for, somebody else may answer, and a table of neighbours that one guest
//! fills up (gc_thresh3) has no room for those of another. A fixed entry is neither asked for nor counted.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Step, elements::link_local, port};
use crate::{
    container::mac::mac_address,
    host::bridge,
    reconcile::{Observation, Scope},
    store::Inventory,
    system::netlink::Network,
};

/// A guest that has a port.
#[derive(Clone, Copy, PartialEq)]
struct Guest {
    mac: [u8; 6],
    port: u32,
}

/// Single addresses of guests that have a port, and the guests' own ones of the link.
fn wanted(
    inventory: &Inventory,
    network: &Network,
    bridge: u32,
    id: [u8; 16],
) -> BTreeMap<IpAddr, Guest> {
    let mut wanted = BTreeMap::new();
    if inventory
        .host
        .as_ref()
        .is_none_or(|host| !host.desired.isolation)
    {
        return wanted;
    }
    for name in inventory.containers.keys() {
        let Some(port) = port::find(network, bridge, name) else {
            continue;
        };
        let guest = Guest {
            mac: mac_address(id, name.as_str()),
            port: port.index,
        };
        wanted.insert(link_local(guest.mac).into(), guest);
        let single = inventory
            .addresses_of(name)
            .map(|stored| &stored.desired.address)
            .filter(|address| address.is_single());
        wanted.extend(single.map(|address| (address.ip(), guest)));
    }
    wanted
}

/// Whether a change of this scope looks after where this guest is.
fn concerns(
    scope: &Scope,
    inventory: &Inventory,
    address: IpAddr,
    mac: [u8; 6],
    id: [u8; 16],
) -> bool {
    let mut names = inventory.containers.keys();
    let guest = names.any(|name| scope.has_port(name) && mac_address(id, name.as_str()) == mac);
    guest
        || inventory
            .addresses
            .values()
            .any(|stored| stored.desired.address.ip() == address && scope.has_address(stored))
}

/// What has to be done for the neighbours on the bridge.
pub fn plan(
    inventory: &Inventory,
    observed: &Observation,
    id: [u8; 16],
    scope: &Scope,
) -> Vec<Step> {
    let network = &observed.network;
    let bridge = bridge::of(inventory, network, &observed.facts.machine_id);
    let Some(bridge) = bridge.filter(|bridge| bridge.up && !matches!(scope, Scope::Image(_)))
    else {
        return Vec::new();
    };
    let wanted = wanted(inventory, network, bridge.index, id);
    let fixed: BTreeMap<IpAddr, &[u8]> = network
        .neighbours
        .iter()
        .filter(|found| found.index == bridge.index && found.fixed)
        .map(|found| (found.address, found.mac.as_slice()))
        .collect();
    let left_over = fixed.keys().filter(|address| !wanted.contains_key(address));
    let mut steps: Vec<Step> = left_over
        .map(|address| Step::DeleteNeighbour {
            address: *address,
            index: bridge.index,
        })
        .collect();
    for (address, Guest { mac, port }) in wanted {
        if fixed.get(&address) != Some(&&mac[..]) && concerns(scope, inventory, address, mac, id) {
            steps.push(Step::FixNeighbour {
                address,
                index: bridge.index,
                mac,
                port,
            });
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        container::mac::parse_machine_id,
        system::netlink::{Link, Neighbour},
        testing::{MACHINE_ID, inventory, network, observation},
    };

    #[test]
    fn a_guest_with_a_port_is_fixed_and_one_without_is_not() {
        let id = parse_machine_id(MACHINE_ID).unwrap();
        let mut inventory = inventory(
            &["db", "web"],
            &[
                ("203.0.113.2", "web"),
                ("2001:db8:1:5::/80", "web"),
                ("203.0.113.3", "db"),
            ],
        );
        let mut network = network();
        network.links.push(Link {
            index: 9,
            name: "vb-web".to_owned(),
            bridge: Some(3),
            ..Link::default()
        });
        let mac = mac_address(id, "web");
        let fix = |address: IpAddr| Step::FixNeighbour {
            address,
            index: 3,
            mac,
            port: 9,
        };
        let web: IpAddr = "203.0.113.2".parse().unwrap();
        let all = [fix(web), fix(link_local(mac).into())];
        assert_eq!(
            plan(&inventory, &observation(network.clone()), id, &Scope::All),
            all
        );
        let scope = Scope::Address("203.0.113.2".to_owned());
        assert_eq!(
            plan(&inventory, &observation(network.clone()), id, &scope),
            [fix(web)]
        );
        let scope = Scope::Container("db".parse().unwrap());
        assert_eq!(
            plan(&inventory, &observation(network.clone()), id, &scope),
            []
        );

        let entry = |address: IpAddr, mac: [u8; 6], fixed| Neighbour {
            index: 3,
            address,
            mac: mac.to_vec(),
            fixed,
        };
        network.neighbours = vec![
            entry(web, [2; 6], true),
            entry(link_local(mac).into(), mac, true),
            entry("203.0.113.3".parse().unwrap(), [3; 6], true),
            entry("203.0.113.4".parse().unwrap(), [3; 6], false),
        ];
        let delete = |address: IpAddr| Step::DeleteNeighbour { address, index: 3 };
        let db = delete("203.0.113.3".parse().unwrap());
        assert_eq!(
            plan(&inventory, &observation(network.clone()), id, &Scope::All),
            [db, fix(web)]
        );
        if let Some(host) = &mut inventory.host {
            host.desired.isolation = false;
        }
        assert_eq!(
            plan(&inventory, &observation(network.clone()), id, &Scope::Host).len(),
            3
        );
    }
}
