//! Links that lose their carrier, and all their neighbour proxies with it: nobody undoes what was mended there.

use std::collections::{BTreeMap, BTreeSet};

use crate::{address, reconcile::Step, system::netlink::Network};

/// How often each link had lost or found its carrier, by its number, at the last look.
#[derive(Debug, Default)]
pub struct Carriers(BTreeMap<u32, u32>);

impl Carriers {
    /// The links whose carrier came or went since the last look.
    pub fn changed(&mut self, network: &Network) -> BTreeSet<u32> {
        let counts: BTreeMap<u32, u32> = network
            .links
            .iter()
            .map(|link| (link.index, link.carrier_changes))
            .collect();
        let before = std::mem::replace(&mut self.0, counts);
        let has_changed =
            |(index, count): &(&u32, &u32)| before.get(*index).is_some_and(|known| known != *count);
        let changed = self.0.iter().filter(has_changed);
        changed.map(|(index, _)| *index).collect()
    }
}

/// Whether a step only follows from one of these links.
pub fn follows(step: &Step, changed: &BTreeSet<u32>) -> bool {
    matches!(step, Step::Address(address::Step::AddProxy { link, .. }) if changed.contains(&link.index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::network;

    #[test]
    fn a_link_that_flaps_is_nobody_who_undoes_what_was_mended() {
        let mut network = network();
        let uplink = network.links.iter().position(|link| link.name == "eth0");
        let uplink = uplink.unwrap();
        let add = Step::Address(address::Step::AddProxy {
            address: "203.0.113.2".parse().unwrap(),
            link: network.links[uplink].clone(),
        });
        let mut carriers = Carriers::default();
        assert!(
            !follows(&add, &carriers.changed(&network)),
            "the first look"
        );
        network.links[uplink].carrier_changes += 2;
        assert!(follows(&add, &carriers.changed(&network)));
        assert!(!follows(&add, &carriers.changed(&network)), "it holds");
    }
}
