//! What is neither ARP nor IP, what hides it, and what a bridge lets by.

use std::net::IpAddr;

use acceptance_tests::frames::{
    ARP, ICMPV6, IPV4, IPV6, arp, ethernet, icmpv6, kind_of, packet, ping, solicitation, tagged,
};

use super::{Attack, BRIDGE_GROUP, FOREIGN_V4, FOREIGN_V6, Shows, at_router, at_victim, attack};

pub fn of_other_kinds() -> Vec<Attack> {
    vec![
        at_victim("VLAN-tagged frames, once and twice", |w, m| {
            let inner = w.datagram(w.victim.mac, (w.bystander.v4, w.victim.v4), m);
            [(0x8100, 0), (0x8100, 1), (0x8100, 7), (0x88a8, 7)]
                .iter()
                .flat_map(|(kind, vlan)| {
                    let once = tagged(&inner, *kind, *vlan);
                    [tagged(&once, 0x8100, 9), tagged(&once, 0x88a8, 9), once]
                })
                .collect()
        }),
        at_router(
            "a VLAN tag in front of a forged source, to the outside",
            |w, m| {
                let inner = w.datagram(w.bridge, (w.victim.v4, w.client_v4), m);
                vec![tagged(&inner, 0x8100, 0), tagged(&inner, 0x88a8, 0)]
            },
        ),
        at_victim("EtherTypes of all kinds", |w, m| {
            // PPPoE, MPLS, PTP, EtherCAT, FCoE, loopback, wake-on-LAN, EAPOL, ATA, MACsec, IPX, RARP, Cisco's, nobody's.
            [
                0x8863, 0x8864, 0x8847, 0x88f7, 0x88a4, 0x8906, 0x9000, 0x0842, 0x888e, 0x88a2,
                0x88e5, 0x8137, 0x8035, 0x2000, 0xffff,
            ]
            .map(|kind| ethernet(w.victim.mac, w.attacker.mac, kind, m))
            .to_vec()
        }),
        at_victim("802.3 frames: LLC, SNAP and a spanning tree's", |w, m| {
            let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], m].concat();
            let tree = [&[0x42, 0x42, 3, 0, 0, 0, 0, 0][..], &[0; 31], m].concat();
            vec![
                ethernet(w.victim.mac, w.attacker.mac, 16, &snap),
                ethernet([1, 0x80, 0xc2, 0, 0, 0], w.attacker.mac, 47, &tree),
                ethernet([1, 0, 0x0c, 0xcc, 0xcc, 0xcd], w.attacker.mac, 47, &tree),
            ]
        }),
        attack(
            "frames to the bridge's own groups: pause, LACP, LLDP",
            |_| Shows::Never("a bridge forwards none of its own groups (IEEE 802.1D)"),
            |w, m| {
                [
                    (1, 0x8808),
                    (2, 0x8809),
                    (3, 0x888e),
                    (0x0e, 0x88cc),
                    (0x0f, 0x88f7),
                ]
                .map(|(last, kind)| ethernet([1, 0x80, 0xc2, 0, 0, last], w.attacker.mac, kind, m))
                .to_vec()
            },
        ),
    ]
}

/// A bridge hands frames to its own groups to the host before any rule of prerouting.
pub fn past_the_bridge() -> Vec<Attack> {
    vec![
        at_victim(
            "a ping of the host in the victim's name, through the bridge's own groups",
            |w, m| {
                let from = w.victim.v4.into();
                vec![ethernet(
                    BRIDGE_GROUP,
                    w.attacker.mac,
                    IPV4,
                    &ping(from, w.host_v4, m),
                )]
            },
        ),
        at_router(
            "a ping of the host in a foreign name, through the bridge's own groups",
            |w, m| {
                [
                    (IpAddr::V4(FOREIGN_V4), w.host_v4),
                    (FOREIGN_V6.into(), w.host_v6),
                ]
                .map(|(from, to)| {
                    ethernet(
                        BRIDGE_GROUP,
                        w.attacker.mac,
                        kind_of(from),
                        &ping(from, to, m),
                    )
                })
                .to_vec()
            },
        ),
        attack(
            "IPv4 neighbours made up, through the bridge's own groups",
            |w| Shows::Neighbour(FOREIGN_V4.into(), w.attacker.mac),
            |w, _| {
                let asks = arp(1, (w.attacker.mac, FOREIGN_V4), ([0; 6], w.gateway_v4));
                vec![ethernet(BRIDGE_GROUP, w.attacker.mac, ARP, &asks)]
            },
        ),
        attack(
            "IPv6 neighbours made up, through the bridge's own groups",
            |_| Shows::Never("a port of a bridge has no IPv6 address that could be asked for"),
            |w, _| {
                let (from, to) = (FOREIGN_V6.into(), w.gateway_v6.into());
                let asks = icmpv6(from, to, solicitation(w.gateway_v6, w.attacker.mac));
                vec![ethernet(
                    BRIDGE_GROUP,
                    w.attacker.mac,
                    IPV6,
                    &packet(from, to, ICMPV6, &asks),
                )]
            },
        ),
        attack(
            "the victim's MAC address as source, through the bridge's own groups",
            |w| Shows::Forwarding(w.victim.mac),
            |w, m| vec![ethernet(BRIDGE_GROUP, w.victim.mac, 0x88cc, m)],
        ),
    ]
}
