//! Ethernet frames as an attacker makes them, byte by byte, honest or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A MAC address.
pub type Mac = [u8; 6];

/// Everybody on the link.
pub const BROADCAST: Mac = [0xff; 6];
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Next header: the options that every router looks at.
pub const HOP_BY_HOP: u8 = 0;
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Next header: a fragment.
pub const FRAGMENT: u8 = 44;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// A frame; `kind` is its EtherType.
pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// The same frame with a VLAN tag of this kind in front.
pub fn tagged(frame: &[u8], kind: u16, vlan: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &kind.to_be_bytes(), &vlan.to_be_bytes(), rest].concat()
}

/// An ARP message: 1 asks, 2 answers.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    [
        &[0, 1, 8, 0, 6, 4],
        &operation.to_be_bytes()[..],
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
    ]
    .concat()
}

/// A packet of IPv4 or IPv6; `protocol` is what is inside.
pub fn packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(from, to, protocol, payload),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from, to, protocol, payload),
        // A frame without a packet: nothing will take it for one.
        _ => Vec::new(),
    }
}

/// The EtherType that goes with an address.
pub fn kind_of(address: IpAddr) -> u16 {
    if address.is_ipv4() { IPV4 } else { IPV6 }
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = [
        &[0x45, 0, 0, 0],
        &[0, 0, 0, 0, 64, protocol, 0, 0][..],
        &from.octets(),
        &to.octets(),
    ]
    .concat();
    headed(header, payload)
}

/// A payload behind an IPv4 header, into which its length and checksum are put.
fn headed(mut header: Vec<u8>, payload: &[u8]) -> Vec<u8> {
    header[2..4].copy_from_slice(&length(20 + payload.len()));
    header[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    [&header[..], payload].concat()
}

/// More fragments follow. RFC 791
const MORE: u16 = 0x2000;

/// An IPv4 packet in two fragments, of which the first has this much of the payload (a multiple of 8); `number` tells
/// which belong together.
pub fn fragments(packet: &[u8], first: usize, number: u16) -> [Vec<u8>; 2] {
    let (header, payload) = packet.split_at(20);
    let (start, end) = payload.split_at(first);
    let part = |payload: &[u8], place: u16| {
        let mut header = header.to_vec();
        header[4..6].copy_from_slice(&number.to_be_bytes());
        header[6..8].copy_from_slice(&place.to_be_bytes());
        headed(header, payload)
    };
    let place = u16::try_from(first / 8).unwrap_or(u16::MAX);
    [part(start, MORE), part(end, place)]
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    [
        &[0x60, 0, 0, 0],
        &length(payload.len())[..],
        // Neighbour discovery is only taken with 255.
        &[next, 255],
        &from.octets(),
        &to.octets(),
        payload,
    ]
    .concat()
}

/// A datagram.
pub fn udp(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = [
        &from.1.to_be_bytes()[..],
        &to.1.to_be_bytes(),
        &length(8 + payload.len()),
        &[0, 0],
        payload,
    ]
    .concat();
    let sum = transport_checksum(from.0, to.0, UDP, &datagram);
    datagram[6..8].copy_from_slice(&sum);
    packet(from.0, to.0, UDP, &datagram)
}

/// A ping that carries something; its answer carries it back.
pub fn ping(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let request = |kind: u8| [&[kind, 0, 0, 0, 0, 7, 0, 7][..], payload].concat();
    if from.is_ipv4() {
        let mut message = request(8);
        let sum = checksum(&[&message]);
        message[2..4].copy_from_slice(&sum);
        packet(from, to, ICMP, &message)
    } else {
        packet(from, to, ICMPV6, &icmpv6(from, to, request(128)))
    }
}

/// A message of ICMPv6 with its checksum put in.
pub fn icmpv6(from: IpAddr, to: IpAddr, mut message: Vec<u8>) -> Vec<u8> {
    message[2..4].copy_from_slice(&[0, 0]);
    let sum = transport_checksum(from, to, ICMPV6, &message);
    message[2..4].copy_from_slice(&sum);
    message
}

/// A neighbour solicitation for an address, with the sender's MAC address.
pub fn solicitation(target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    [
        &[135, 0, 0, 0, 0, 0, 0, 0][..],
        &target.octets(),
        &[1, 1],
        &mac,
    ]
    .concat()
}

/// A neighbour advertisement that overrides what was known.
pub fn advertisement(target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    [
        &[136, 0, 0, 0, 0x60, 0, 0, 0][..],
        &target.octets(),
        &[2, 1],
        &mac,
    ]
    .concat()
}

/// A router advertisement: a default route, and a prefix to take an address of.
pub fn router_advertisement(prefix: Ipv6Addr, mac: Mac) -> Vec<u8> {
    [
        &[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1][..],
        &mac,
        &[3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0],
        &prefix.octets(),
    ]
    .concat()
}

/// A redirect of a destination to a neighbour.
pub fn redirect(to: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    [
        &[137, 0, 0, 0, 0, 0, 0, 0][..],
        &to.octets(),
        &destination.octets(),
    ]
    .concat()
}

/// An extension header of padding in front of something.
pub fn padded(next: u8, payload: &[u8]) -> Vec<u8> {
    [&[next, 0, 1, 4, 0, 0, 0, 0][..], payload].concat()
}

/// One fragment of a payload; `offset` counts bytes.
pub fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let place = (offset | u16::from(more)).to_be_bytes();
    [&[next, 0][..], &place, &[0, 0, 0, 99], payload].concat()
}

fn length(bytes: usize) -> [u8; 2] {
    // A packet is never longer than its own field can say.
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> [u8; 2] {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (from, to) = (octets(from), octets(to));
    let rest = [&[0, protocol][..], &length(payload.len())].concat();
    checksum(&[&from, &to, &rest, payload])
}

/// RFC 1071; all parts but the last have an even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum: u32 = 0;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(u16::MAX)).to_be_bytes()
}

/// Who claims to have sent a frame: its MAC address, and the address of ARP, IPv4 or IPv6.
pub fn source(frame: &[u8]) -> Option<(Mac, Option<IpAddr>)> {
    let mac = frame.get(6..12)?.try_into().ok()?;
    let kind = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    let address = match kind {
        ARP => four(frame.get(28..32)?),
        IPV4 => four(frame.get(26..30)?),
        IPV6 => {
            let octets: [u8; 16] = frame.get(22..38)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    };
    Some((mac, address))
}

fn four(octets: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 4] = octets.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

/// Bytes as hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Hexadecimal digits as bytes; none when they aren't.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_rfc() {
        assert_eq!(
            checksum(&[&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]]),
            [0x22, 0x0d]
        );
        let (from, to) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert_eq!(checksum(&[&packet(from, to, UDP, &[])]), [0, 0]);
    }

    #[test]
    fn a_frame_tells_its_source() {
        let (from, to): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "::1".parse().unwrap());
        let frame = ethernet(BROADCAST, [2; 6], IPV6, &ping(from, to, b"x"));
        assert_eq!(source(&frame), Some(([2; 6], Some(from))));
        let asks = arp(
            1,
            ([2; 6], Ipv4Addr::LOCALHOST),
            ([0; 6], Ipv4Addr::BROADCAST),
        );
        let frame = ethernet(BROADCAST, [3; 6], ARP, &asks);
        assert_eq!(
            source(&frame),
            Some(([3; 6], Some(Ipv4Addr::LOCALHOST.into())))
        );
        assert_eq!(source(&[0; 9]), None);
        assert_eq!(from_hex(&to_hex(&frame)), Some(frame));
    }
}
