//! Which bridge is ours: pure.

use protocol::desired::Host;
use sha2::{Digest as _, Sha256};

use crate::{
    filter::port,
    store::{Inventory, Stored},
    system::netlink::{Link, Network},
};

/// What marks the bridge as ours. ip-link(8), alias
pub const ALIAS: &str = "nspawn-agent";

/// A MAC address of our own for the bridge: the same at each boot, and different on every host.
pub fn mac(machine_id: &str, name: &str) -> [u8; 6] {
    let digest = Sha256::digest(format!("nspawn-agent bridge {machine_id} {name}"));
    let [b0, b1, b2, b3, b4, b5, ..]: [u8; 32] = digest.into();
    [(b0 & 0xfe) | 0x02, b1, b2, b3, b4, b5]
}

/// Whether the interface in the bridge's place is ours.
pub fn is_ours(link: &Link, machine_id: &str, host: &Host) -> bool {
    is_named(link) || is_unnamed(link, machine_id, host)
}

/// Whether it says so.
pub fn is_named(link: &Link) -> bool {
    link.alias.as_deref() == Some(ALIAS)
}

/// The kernel takes no alias with a new interface, so that an agent may be killed before it has named it. The MAC
/// address, which a new one does take, is nobody else's.
fn is_unnamed(link: &Link, machine_id: &str, host: &Host) -> bool {
    link.alias.as_deref().is_none_or(str::is_empty)
        && link.kind.as_deref() == Some("bridge")
        && link.mac == mac(machine_id, host.bridge.as_str())
}

/// The bridge of this host, when it is there; not somebody else's in its place.
pub fn of<'a>(inventory: &Inventory, network: &'a Network, machine_id: &str) -> Option<&'a Link> {
    of_host(inventory.host.as_ref()?, network, machine_id)
}

/// The same.
pub fn of_host<'a>(
    stored: &Stored<Host>,
    network: &'a Network,
    machine_id: &str,
) -> Option<&'a Link> {
    let host = &stored.desired;
    network
        .link(host.bridge.as_str())
        .filter(|link| is_ours(link, machine_id, host))
}

/// Bridges of ours that have another name than the host's: somebody has renamed them.
pub fn others_of_ours<'a>(
    stored: &'a Stored<Host>,
    network: &'a Network,
) -> impl Iterator<Item = &'a Link> {
    let own = network
        .link(stored.desired.bridge.as_str())
        .map(|link| link.index);
    network.links.iter().filter(move |link| {
        is_named(link) && link.kind.as_deref() == Some("bridge") && Some(link.index) != own
    })
}

/// The ports of a bridge that belong to none of our guests.
pub fn foreign_ports<'a>(
    inventory: &'a Inventory,
    network: &'a Network,
    bridge: u32,
) -> impl Iterator<Item = &'a Link> {
    let guests: Vec<u32> = inventory
        .containers
        .keys()
        .filter_map(|name| port::find(network, bridge, name))
        .map(|link| link.index)
        .collect();
    network
        .links
        .iter()
        .filter(move |link| link.bridge == Some(bridge) && !guests.contains(&link.index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MACHINE_ID, inventory, network};

    #[test]
    fn a_bridge_is_ours_by_its_alias_or_before_it_has_one_by_its_address() {
        let inventory = inventory(&[], &[]);
        let bridge = |alias: Option<&str>, kind: &str, mac: [u8; 6]| Link {
            alias: alias.map(str::to_owned),
            kind: Some(kind.to_owned()),
            mac: mac.to_vec(),
            ..network().link("br0").unwrap().clone()
        };
        let own = mac(MACHINE_ID, "br0");
        for (link, ours) in [
            (bridge(Some(ALIAS), "bridge", [2; 6]), true),
            (bridge(None, "bridge", own), true),
            (bridge(Some(""), "bridge", own), true),
            (bridge(None, "bridge", [2; 6]), false),
            (bridge(None, "bridge", mac(MACHINE_ID, "br1")), false),
            (bridge(None, "dummy", own), false),
            (bridge(Some("another's"), "bridge", own), false),
        ] {
            let network = Network {
                links: vec![link.clone()],
                ..Network::default()
            };
            let found = of(&inventory, &network, MACHINE_ID);
            assert_eq!(found.is_some(), ours, "{link:?}");
        }
    }
}
