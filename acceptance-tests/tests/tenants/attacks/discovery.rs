//! Lies about who is where, and about who is the router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use acceptance_tests::frames::{
    BROADCAST, FRAGMENT, HOP_BY_HOP, ICMPV6, IPV4, IPV6, advertisement, arp, ethernet, fragment,
    icmpv6, padded, redirect, router_advertisement, solicitation, udp,
};

use super::{ALL_NODES, ALL_NODES_MAC, Attack, FOREIGN_V6, Shows, at_victim, attack};
use crate::tenants::world::World;

/// A message of neighbour discovery with the mark in an option that nobody knows and everybody skips.
fn with(message: Vec<u8>, mark: &[u8]) -> Vec<u8> {
    [message, vec![253, 2], mark.to_vec(), vec![0; 6]].concat()
}

pub fn arp_messages() -> Vec<Attack> {
    vec![
        attack(
            "an ARP reply to the host: the victim is here",
            |w| Shows::Neighbour(w.victim.v4.into(), w.attacker.mac),
            |w, m| vec![w.arp(w.bridge, 2, (w.attacker.mac, w.victim.v4), w.gateway_v4, m)],
        ),
        attack(
            "an ARP request to the host in the victim's name",
            |w| Shows::Neighbour(w.victim.v4.into(), w.attacker.mac),
            |w, m| vec![w.arp(BROADCAST, 1, (w.attacker.mac, w.victim.v4), w.gateway_v4, m)],
        ),
        attack(
            "an ARP request that says that the attacker's address is at the bystander",
            |w| Shows::Neighbour(w.attacker.v4.into(), w.bystander.mac),
            |w, m| {
                vec![w.arp(
                    w.bridge,
                    1,
                    (w.bystander.mac, w.attacker.v4),
                    w.gateway_v4,
                    m,
                )]
            },
        ),
        at_victim("an ARP reply to the victim: the gateway is here", |w, m| {
            let sender = (w.attacker.mac, w.gateway_v4);
            [w.victim.mac, BROADCAST]
                .map(|to| w.arp(to, 2, sender, w.victim.v4, m))
                .to_vec()
        }),
        at_victim(
            "gratuitous ARP for the victim, for a nobody and for the router",
            |w, m| {
                [w.victim.v4, w.unattached_v4, Ipv4Addr::new(172, 31, 1, 1)]
                    .iter()
                    .flat_map(|ip| {
                        [1, 2].map(|operation| {
                            w.arp(BROADCAST, operation, (w.attacker.mac, *ip), *ip, m)
                        })
                    })
                    .collect()
            },
        ),
        at_victim("an ARP probe for the victim's address", |w, m| {
            vec![w.arp(
                BROADCAST,
                1,
                (w.attacker.mac, Ipv4Addr::UNSPECIFIED),
                w.victim.v4,
                m,
            )]
        }),
        attack(
            "an ARP reply whose frame is the attacker's and whose message is the victim's",
            |_| Shows::Never("it tells the truth"),
            |w, _| {
                let says = arp(2, (w.victim.mac, w.victim.v4), (w.bridge, w.gateway_v4));
                vec![ethernet(
                    w.bridge,
                    w.attacker.mac,
                    acceptance_tests::frames::ARP,
                    &says,
                )]
            },
        ),
    ]
}

pub fn advertisements() -> Vec<Attack> {
    vec![
        attack(
            "a neighbour advertisement to the host: the victim is here",
            |w| Shows::Neighbour(w.victim.v6.into(), w.attacker.mac),
            |w, _| {
                let says = advertisement(w.victim.v6, w.attacker.mac);
                [w.attacker.v6, w.attacker.link_local(), w.victim.v6]
                    .map(|from| w.icmpv6(w.bridge, (from, w.gateway_v6), says.clone()))
                    .to_vec()
            },
        ),
        attack(
            "a neighbour advertisement behind an extension header",
            |w| Shows::Neighbour(w.victim.v6.into(), w.attacker.mac),
            |w, _| {
                let says = advertisement(w.victim.v6, w.attacker.mac);
                let says = icmpv6(w.attacker.v6.into(), w.gateway_v6.into(), says);
                vec![w.ipv6(
                    w.bridge,
                    (w.attacker.v6, w.gateway_v6),
                    HOP_BY_HOP,
                    &padded(ICMPV6, &says),
                )]
            },
        ),
        attack(
            "a neighbour advertisement in fragments",
            |_| Shows::Never("the kernel takes no fragments of neighbour discovery (RFC 6980)"),
            |w, _| {
                let says = advertisement(w.victim.v6, w.attacker.mac);
                in_fragments(w, w.bridge, (w.attacker.v6, w.gateway_v6), says)
            },
        ),
        at_victim(
            "a neighbour advertisement to the victim: the gateway is here",
            |w, m| {
                let says = with(advertisement(w.gateway_v6, w.attacker.mac), m);
                vec![
                    w.icmpv6(w.victim.mac, (w.gateway_v6, w.victim.v6), says.clone()),
                    w.icmpv6(ALL_NODES_MAC, (w.attacker.v6, ALL_NODES), says),
                ]
            },
        ),
        attack(
            "an advertisement that says that the attacker's address is at the bystander",
            |w| Shows::Neighbour(w.attacker.v6.into(), w.bystander.mac),
            |w, _| {
                let says = advertisement(w.attacker.v6, w.bystander.mac);
                vec![w.icmpv6(w.bridge, (w.attacker.v6, w.gateway_v6), says)]
            },
        ),
    ]
}

pub fn claims() -> Vec<Attack> {
    vec![
        attack(
            "a solicitation in the victim's name",
            |w| Shows::Neighbour(w.victim.v6.into(), w.attacker.mac),
            |w, _| {
                let asks = solicitation(w.gateway_v6, w.attacker.mac);
                vec![w.icmpv6(w.bridge, (w.victim.v6, w.gateway_v6), asks)]
            },
        ),
        attack(
            "a solicitation that says that the attacker's address is at the bystander",
            |w| Shows::Neighbour(w.attacker.v6.into(), w.bystander.mac),
            |w, _| {
                let asks = solicitation(w.gateway_v6, w.bystander.mac);
                vec![w.icmpv6(w.bridge, (w.attacker.v6, w.gateway_v6), asks)]
            },
        ),
        attack(
            "a solicitation that says so in its second option",
            |w| Shows::Neighbour(w.attacker.v6.into(), w.bystander.mac),
            |w, _| {
                let mut asks = solicitation(w.gateway_v6, w.attacker.mac);
                asks.extend(&solicitation(w.gateway_v6, w.bystander.mac)[24..]);
                // The kernel takes the first of a kind: another kind hides the lie.
                asks[24] = 14;
                vec![w.icmpv6(w.bridge, (w.attacker.v6, w.gateway_v6), asks)]
            },
        ),
        at_victim(
            "a duplicate address probe for the victim's address",
            |w, m| {
                let asks = with(solicitation(w.victim.v6, w.attacker.mac)[..24].to_vec(), m);
                vec![w.icmpv6(ALL_NODES_MAC, (Ipv6Addr::UNSPECIFIED, ALL_NODES), asks)]
            },
        ),
    ]
}

/// The kind of message is in the second: the first has nothing but padding.
fn in_fragments(
    w: &World,
    to: [u8; 6],
    addresses: (Ipv6Addr, Ipv6Addr),
    message: Vec<u8>,
) -> Vec<Vec<u8>> {
    const DESTINATION_OPTIONS: u8 = 60;
    let message = padded(
        ICMPV6,
        &icmpv6(addresses.0.into(), addresses.1.into(), message),
    );
    [(0, true, &message[..8]), (8, false, &message[8..])]
        .map(|(offset, more, part)| {
            w.ipv6(
                to,
                addresses,
                FRAGMENT,
                &fragment(DESTINATION_OPTIONS, offset, more, part),
            )
        })
        .to_vec()
}

pub fn routers() -> Vec<Attack> {
    fn says(w: &World, mark: &[u8]) -> Vec<u8> {
        let prefix = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0);
        with(router_advertisement(prefix, w.attacker.mac), mark)
    }
    vec![
        at_victim("router advertisements", |w, m| {
            [w.attacker.link_local(), w.gateway_v6, w.attacker.v6]
                .map(|from| w.icmpv6(ALL_NODES_MAC, (from, ALL_NODES), says(w, m)))
                .to_vec()
        }),
        at_victim(
            "a router advertisement behind an extension header",
            |w, m| {
                let from = w.attacker.link_local();
                let says = icmpv6(from.into(), ALL_NODES.into(), says(w, m));
                vec![w.ipv6(
                    ALL_NODES_MAC,
                    (from, ALL_NODES),
                    HOP_BY_HOP,
                    &padded(ICMPV6, &says),
                )]
            },
        ),
        at_victim("a router advertisement in fragments", |w, m| {
            in_fragments(
                w,
                ALL_NODES_MAC,
                (w.attacker.link_local(), ALL_NODES),
                says(w, m),
            )
        }),
        at_victim("a redirect of the gateway's traffic", |w, m| {
            let says = with(redirect(w.attacker.link_local(), FOREIGN_V6), m);
            [w.gateway_v6, w.attacker.link_local()]
                .map(|from| w.icmpv6(w.victim.mac, (from, w.victim.v6), says.clone()))
                .to_vec()
        }),
    ]
}

pub fn servers() -> Vec<Attack> {
    fn dhcp(w: &World, from: IpAddr, kind: u8, ports: (u16, u16), mark: &[u8]) -> Vec<u8> {
        let to: IpAddr = Ipv4Addr::BROADCAST.into();
        let message = [&[kind, 1, 6, 0][..], &[0; 24], &w.attacker.mac, mark].concat();
        let packet = udp((from, ports.0), (to, ports.1), &message);
        ethernet(BROADCAST, w.attacker.mac, IPV4, &packet)
    }
    vec![
        at_victim("a DHCP server's offers", |w, m| {
            [w.attacker.v4.into(), w.host_v4]
                .map(|from| dhcp(w, from, 2, (67, 68), m))
                .to_vec()
        }),
        at_victim("a DHCP client's requests", |w, m| {
            vec![dhcp(w, Ipv4Addr::UNSPECIFIED.into(), 1, (68, 67), m)]
        }),
        at_victim("a DHCPv6 server's answers", |w, m| {
            let from = w.attacker.link_local().into();
            let answer = [&[7, 1, 2, 3][..], m].concat();
            let packet = udp((from, 547), (ALL_NODES.into(), 546), &answer);
            vec![ethernet(ALL_NODES_MAC, w.attacker.mac, IPV6, &packet)]
        }),
    ]
}
