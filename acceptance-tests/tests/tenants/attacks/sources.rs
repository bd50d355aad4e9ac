//! Packets and frames with a source that isn't the sender's.

use std::net::{IpAddr, Ipv4Addr};

use acceptance_tests::frames::{BROADCAST, HOP_BY_HOP, UDP, ethernet, kind_of, padded, ping, udp};

use super::{
    ALL_NODES, ALL_NODES_MAC, Attack, FOREIGN_V4, FOREIGN_V6, Shows, at_router, at_victim, attack,
    datagram_from,
};

pub fn to_the_outside() -> Vec<Attack> {
    vec![
        at_router(
            "the victim's IPv4 address as source, to the outside",
            |w, m| vec![w.datagram(w.bridge, (w.victim.v4, w.client_v4), m)],
        ),
        at_router("a foreign IPv4 source, to the outside", |w, m| {
            vec![w.datagram(w.bridge, (FOREIGN_V4, w.client_v4), m)]
        }),
        at_router(
            "an IPv4 address of the host's block that is nobody's",
            |w, m| vec![w.datagram(w.bridge, (w.unattached_v4, w.client_v4), m)],
        ),
        at_router(
            "the victim's IPv6 address as source, to the outside",
            |w, m| vec![w.datagram(w.bridge, (w.victim.v6, w.client_v6), m)],
        ),
        at_router("a foreign IPv6 source, to the outside", |w, m| {
            vec![w.datagram(w.bridge, (FOREIGN_V6, w.client_v6), m)]
        }),
        at_router(
            "a foreign IPv6 source behind an extension header",
            |w, m| {
                let datagram = udp((FOREIGN_V6.into(), 4444), (w.client_v6, 5555), m);
                let IpAddr::V6(client) = w.client_v6 else {
                    return Vec::new();
                };
                vec![w.ipv6(
                    w.bridge,
                    (FOREIGN_V6, client),
                    HOP_BY_HOP,
                    &padded(UDP, &datagram[40..]),
                )]
            },
        ),
        at_router("the victim's MAC and IPv4 address as source", |w, m| {
            vec![datagram_from(
                w.victim.mac,
                w.bridge,
                (w.victim.v4, w.client_v4),
                m,
            )]
        }),
    ]
}

pub fn to_the_victim() -> Vec<Attack> {
    vec![
        at_victim(
            "the bystander's IPv4 address as source, to the victim",
            |w, m| vec![w.datagram(w.bridge, (w.bystander.v4, w.victim.v4), m)],
        ),
        at_victim(
            "the bystander's IPv6 address as source, to the victim",
            |w, m| vec![w.datagram(w.bridge, (w.bystander.v6, w.victim.v6), m)],
        ),
        at_victim(
            "the gateway's addresses as source, straight to the victim",
            |w, m| {
                vec![
                    w.datagram(w.victim.mac, (w.gateway_v6, w.victim.v6), m),
                    w.datagram(w.victim.mac, (w.gateway_v4, w.victim.v4), m),
                ]
            },
        ),
        at_victim("a ping of the host in the victim's name", |w, m| {
            [
                (IpAddr::V4(w.victim.v4), w.host_v4),
                (w.victim.v6.into(), w.host_v6),
            ]
            .map(|(from, to)| ethernet(w.bridge, w.attacker.mac, kind_of(from), &ping(from, to, m)))
            .to_vec()
        }),
        at_victim(
            "own addresses, straight to the victim's MAC address",
            |w, m| {
                vec![
                    w.datagram(w.victim.mac, (w.attacker.v4, w.victim.v4), m),
                    w.datagram(w.victim.mac, (w.attacker.v6, w.victim.v6), m),
                ]
            },
        ),
        at_victim("own addresses, to everybody and to groups", |w, m| {
            let group = Ipv4Addr::new(224, 0, 0, 251);
            vec![
                w.datagram(BROADCAST, (w.attacker.v4, Ipv4Addr::BROADCAST), m),
                w.datagram([1, 0, 0x5e, 0, 0, 251], (w.attacker.v4, group), m),
                w.datagram(ALL_NODES_MAC, (w.attacker.v6, ALL_NODES), m),
            ]
        }),
        attack(
            "the host's own IPv4 address as source",
            |_| Shows::Never("the kernel takes no packet from an address of its own"),
            |w, m| vec![w.datagram(w.bridge, (w.host_v4, w.victim.v4), m)],
        ),
        attack(
            "127.0.0.1 as source and as destination",
            |_| Shows::Never("the kernel takes no 127.0.0.0/8 from outside"),
            |w, m| {
                vec![
                    w.datagram(w.bridge, (Ipv4Addr::LOCALHOST, w.victim.v4), m),
                    w.datagram(w.bridge, (w.attacker.v4, Ipv4Addr::LOCALHOST), m),
                ]
            },
        ),
    ]
}

pub fn of_hardware() -> Vec<Attack> {
    vec![
        attack(
            "the victim's MAC address as source",
            |w| Shows::Forwarding(w.victim.mac),
            |w, m| {
                vec![datagram_from(
                    w.victim.mac,
                    w.bridge,
                    (w.attacker.v4, w.host_v4),
                    m,
                )]
            },
        ),
        attack(
            "a MAC address made up",
            |_| Shows::Forwarding([2, 0, 0, 9, 9, 9]),
            |w, m| {
                vec![datagram_from(
                    [2, 0, 0, 9, 9, 9],
                    w.bridge,
                    (w.attacker.v4, w.host_v4),
                    m,
                )]
            },
        ),
        at_victim("the bridge's MAC address as source", |w, m| {
            vec![datagram_from(
                w.bridge,
                BROADCAST,
                (w.attacker.v4, w.victim.v4),
                m,
            )]
        }),
    ]
}
