//! What a guest tries on its neighbours, its host and the uplink.

mod discovery;
mod frames;
mod sources;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use acceptance_tests::frames::{ARP, Mac, arp, ethernet, icmpv6, kind_of, packet, udp};

use super::world::World;

/// How an attack shows where nothing stands against it.
#[derive(Debug, Clone)]
pub enum Shows {
    /// The frame, or the host's answer to it, comes to the victim.
    AtVictim,
    /// It leaves the host.
    AtRouter,
    /// The host takes this neighbour to be where the MAC address is.
    Neighbour(IpAddr, Mac),
    /// The bridge takes this MAC address to be the attacker's.
    Forwarding(Mac),
    /// The kernel lets it have none, and why.
    Never(&'static str),
}

type Frames = fn(&World, &[u8]) -> Vec<Vec<u8>>;

/// One attack.
pub struct Attack {
    /// What it is.
    pub name: &'static str,
    /// How it shows without isolation.
    pub shows: fn(&World) -> Shows,
    /// Its frames, with the mark in those that may come to others.
    pub frames: Frames,
}

/// All of them.
pub fn all() -> Vec<Attack> {
    [
        sources::to_the_outside(),
        sources::to_the_victim(),
        sources::of_hardware(),
        discovery::arp_messages(),
        discovery::advertisements(),
        discovery::claims(),
        discovery::routers(),
        discovery::servers(),
        frames::of_other_kinds(),
        frames::past_the_bridge(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn at_victim(name: &'static str, frames: Frames) -> Attack {
    attack(name, |_| Shows::AtVictim, frames)
}

fn at_router(name: &'static str, frames: Frames) -> Attack {
    attack(name, |_| Shows::AtRouter, frames)
}

fn attack(name: &'static str, shows: fn(&World) -> Shows, frames: Frames) -> Attack {
    Attack {
        name,
        shows,
        frames,
    }
}

/// Addresses of nobody in the lab.
const FOREIGN_V4: Ipv4Addr = Ipv4Addr::new(192, 88, 99, 9);
const FOREIGN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 9);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
/// The last byte of the groups that a bridge keeps to itself varies. IEEE 802.1D, table 7-10
pub const BRIDGE_GROUP: Mac = [0x01, 0x80, 0xc2, 0, 0, 0x0e];

/// Frames of the attacker, from its own MAC address.
impl World<'_> {
    fn datagram(
        &self,
        to: Mac,
        addresses: (impl Into<IpAddr>, impl Into<IpAddr>),
        mark: &[u8],
    ) -> Vec<u8> {
        datagram_from(self.attacker.mac, to, addresses, mark)
    }

    fn arp(
        &self,
        to: Mac,
        operation: u16,
        sender: (Mac, Ipv4Addr),
        target: Ipv4Addr,
        mark: &[u8],
    ) -> Vec<u8> {
        // What comes after the message is padding to everybody.
        let message = [arp(operation, sender, ([0; 6], target)), mark.to_vec()].concat();
        ethernet(to, self.attacker.mac, ARP, &message)
    }

    fn icmpv6(&self, to: Mac, addresses: (Ipv6Addr, Ipv6Addr), message: Vec<u8>) -> Vec<u8> {
        let (from, destination) = (addresses.0.into(), addresses.1.into());
        let message = icmpv6(from, destination, message);
        self.ipv6(to, addresses, acceptance_tests::frames::ICMPV6, &message)
    }

    fn ipv6(&self, to: Mac, addresses: (Ipv6Addr, Ipv6Addr), next: u8, payload: &[u8]) -> Vec<u8> {
        let packet = packet(addresses.0.into(), addresses.1.into(), next, payload);
        ethernet(
            to,
            self.attacker.mac,
            acceptance_tests::frames::IPV6,
            &packet,
        )
    }
}

fn datagram_from(
    from: Mac,
    to: Mac,
    addresses: (impl Into<IpAddr>, impl Into<IpAddr>),
    mark: &[u8],
) -> Vec<u8> {
    let (source, destination) = (addresses.0.into(), addresses.1.into());
    let packet = udp((source, 4444), (destination, 5555), mark);
    ethernet(to, from, kind_of(source), &packet)
}
