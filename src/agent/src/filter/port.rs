//! The host's end of a guest's link.

use std::{hash::Hasher as _, path::Path};

use protocol::name::MachineName;
use siphasher::sip::SipHasher24;

use crate::system::netlink::{Link, Network};

/// SHORTEN_IFNAME_HASH_KEY of systemd's src/nspawn/nspawn-network.c
const SHORTEN_IFNAME_HASH_KEY: [u8; 16] = [
    0xe1, 0x90, 0xa4, 0x04, 0xa8, 0xef, 0x4b, 0x51, 0x8c, 0xcc, 0xc3, 0x3a, 0x9f, 0x11, 0xfc, 0xa2,
];

/// The longest name of an interface. Bytes.
const LONGEST: usize = 15;

fn full_name(container: &MachineName) -> String {
    format!("vb-{container}")
}

/// The name that systemd-nspawn gives to the port of this container, known before its first start.
///
/// shorten_ifname() of systemd's src/nspawn/nspawn-network.c
pub fn name(container: &MachineName) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let full = full_name(container);
    if full.len() <= LONGEST {
        return full;
    }
    let mut hasher = SipHasher24::new_with_key(&SHORTEN_IFNAME_HASH_KEY);
    hasher.write(full.as_bytes());
    let hash = hasher.finish();
    // Names of machines are ASCII.
    let mut short: String = full.chars().take(LONGEST - 4).collect();
    for shift in [18, 12, 6, 0] {
        short.push(char::from(
            DIGITS[usize::try_from(hash >> shift & 63).unwrap_or(0)],
        ));
    }
    short
}

/// Whether the host's end of a running container's link is there, on whatever bridge.
pub fn exists(container: &MachineName) -> bool {
    Path::new("/sys/class/net").join(name(container)).exists()
}

/// The port of a container on the bridge of this number, when it is there.
pub fn find<'a>(network: &'a Network, bridge: u32, container: &MachineName) -> Option<&'a Link> {
    of(network, container).find(|link| link.bridge == Some(bridge))
}

/// The link of a container that lost this bridge, or was put into another.
pub fn find_stray<'a>(
    network: &'a Network,
    bridge: u32,
    container: &MachineName,
) -> Option<&'a Link> {
    of(network, container)
        .find(|link| link.bridge != Some(bridge) && link.kind.as_deref() == Some("veth"))
}

fn of<'a>(network: &'a Network, container: &MachineName) -> impl Iterator<Item = &'a Link> {
    let (short, full) = (name(container), full_name(container));
    network.links.iter().filter(move |link| {
        link.name == short || link.name == full || link.alternative_names.contains(&full)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_stay_and_long_ones_are_told_apart() {
        let name_of = |text: &str| name(&text.parse().unwrap());
        assert_eq!(name_of("web"), "vb-web");
        assert_eq!(name_of("twelve-bytes"), "vb-twelve-bytes");
        let (one, two) = (name_of("thirteen-byte1"), name_of("thirteen-byte2"));
        assert_ne!(one, two);
        assert_eq!((one.len(), &one[..11]), (15, "vb-thirteen"));
    }
}
