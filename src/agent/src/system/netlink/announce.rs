//! Tells the routers on a link where an address is now: gratuitous ARP (RFC 5227, 3) and
//! unsolicited neighbour advertisement (RFC 4861, 7.2.6).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use protocol::Failure;

use super::model::Link;
use crate::failure::Context as _;

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Announces an address on an Ethernet link; any other kind of link has nobody to tell.
pub fn announce(link: &Link, address: IpAddr) -> Result<(), Failure> {
    let Ok(mac) = <[u8; 6]>::try_from(link.mac.as_slice()) else {
        return Ok(());
    };
    let (ether_type, frame) = match address {
        IpAddr::V4(address) => (ARP, gratuitous_arp(mac, address)),
        IpAddr::V6(address) => (IPV6, unsolicited_advertisement(mac, address)),
    };
    send(link.index, ether_type, &frame).doing(|| format!("announce {address} on {}", link.name))
}

fn gratuitous_arp(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], mac, ARP);
    // Ethernet, IPv4, their lengths, request: the form that every router takes.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

fn unsolicited_advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    // Router and override flags; a target link-layer address option.
    let mut message = vec![136, 0, 0, 0, 0xa0, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let sum = checksum(address, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, IPV6);
    // Version 6; next header ICMPv6; hop limit 255, which proves that it comes from the link.
    frame.extend([0x60, 0, 0, 0, 0, length, 58, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: [u8; 6], from: [u8; 6], ether_type: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(to);
    frame.extend(from);
    frame.extend(ether_type.to_be_bytes());
    frame
}

/// The Internet checksum over the pseudo header and an ICMPv6 message. RFC 8200, 8.1
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|pair| match *pair {
                [high, low] => u32::from(u16::from_be_bytes([high, low])),
                [high] => u32::from(high) << 8,
                _ => 0,
            })
            .sum()
    };
    let length = u32::try_from(message.len()).unwrap_or(0);
    let mut sum = words(&from.octets()) + words(&to.octets()) + length + 58 + words(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[allow(
    unsafe_code,
    reason = "packet(7) sockets have no safe wrapper in rustix or std"
)]
fn send(index: u32, ether_type: u16, frame: &[u8]) -> io::Result<()> {
    // SAFETY: socket(2) takes no pointers; the descriptor is ours alone when it is not negative.
    let socket = unsafe {
        let descriptor = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = ether_type.to_be();
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    // SAFETY: both pointers lead to live values of the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default(),
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_their_lengths_and_a_checksum_that_adds_up() {
        let mac = [2, 0, 0, 0, 0, 1];
        assert_eq!(gratuitous_arp(mac, Ipv4Addr::new(203, 0, 113, 2)).len(), 42);
        let address = "2001:db8:1::10".parse().unwrap();
        let frame = unsolicited_advertisement(mac, address);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[18..20], [0, 32]);
        // Summed over a message with its checksum in place, the result is zero.
        assert_eq!(checksum(address, ALL_NODES, &frame[54..]), 0);
    }
}
