//! Who may send what: the elements of the table's sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv6Addr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{FAMILIES, TABLE};
use crate::system::netlink::mac_text;

/// The elements of each set, in nft's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elements(BTreeMap<String, BTreeSet<String>>);

/// The names of the sets; table.rs declares them.
pub const SETS: [&str; 11] = [
    "ports",
    "bridges",
    "on_link4",
    "on_link6",
    "macs",
    "v4",
    "v6",
    "link_local",
    "targets",
    "options",
    "discovery",
];

impl Elements {
    /// Lets a guest in: its MAC address, its link-local address, and what is attached to it.
    pub fn admit(&mut self, port: &str, mac: [u8; 6], addresses: &[IpNet]) {
        let quoted = format!("\"{port}\"");
        self.insert("ports", quoted.clone());
        self.insert("discovery", quoted.clone());
        self.insert("macs", format!("{quoted} . {}", mac_text(&mac)));
        for option in link_layer_options(mac) {
            self.insert("options", format!("{quoted} . 0x{option:016x}"));
        }
        let link_local = link_local(mac);
        self.insert("link_local", format!("{quoted} . {link_local}"));
        self.insert("targets", format!("{quoted} . {}", number(link_local)));
        for net in addresses {
            match net {
                IpNet::V4(_) => self.insert("v4", format!("{quoted} . {}", net_text(*net))),
                IpNet::V6(v6) => {
                    self.insert("v6", format!("{quoted} . {}", net_text(*net)));
                    let (first, last) = (number(v6.network()), number(v6.broadcast()));
                    let range = if first == last {
                        first
                    } else {
                        format!("{first}-{last}")
                    };
                    self.insert("targets", format!("{quoted} . {range}"));
                }
            }
        }
    }

    /// Limits how many addresses of these prefixes a guest may have the host look for, over this bridge.
    pub fn limit(&mut self, bridge: &str, prefixes: &[IpNet]) {
        self.insert("bridges", format!("\"{bridge}\""));
        for net in prefixes {
            let set = match net {
                IpNet::V4(_) => "on_link4",
                IpNet::V6(_) => "on_link6",
            };
            self.insert(set, net_text(*net));
        }
    }

    fn insert(&mut self, set: &str, element: String) {
        self.0.entry(set.to_owned()).or_default().insert(element);
    }

    /// Whether a port is let in.
    pub fn has_port(&self, port: &str) -> bool {
        self.of("ports")
            .any(|element| *element == format!("\"{port}\""))
    }

    fn of(&self, set: &str) -> impl Iterator<Item = &String> {
        self.0.get(set).into_iter().flatten()
    }

    /// The commands that add what these have and those lack.
    pub fn added_to(&self, others: &Self) -> String {
        commands("add", self, others)
    }

    /// The commands that remove what those have and these lack.
    pub fn removed_from(&self, others: &Self) -> String {
        commands("delete", others, self)
    }
}

fn commands(verb: &str, of: &Elements, but: &Elements) -> String {
    let mut commands = String::new();
    for set in SETS {
        let kept: BTreeSet<_> = but.of(set).collect();
        let elements: Vec<_> = of
            .of(set)
            .filter(|element| !kept.contains(element))
            .map(String::as_str)
            .collect();
        if elements.is_empty() {
            continue;
        }
        let list = elements.join(", ");
        let families = match set {
            "ports" => &FAMILIES[..],
            "bridges" | "on_link4" | "on_link6" => &["inet"],
            _ => &["bridge"],
        };
        for family in families {
            // Writing into a String can't fail.
            let _ = writeln!(
                commands,
                "{verb} element {family} {TABLE} {set} {{ {list} }}"
            );
        }
    }
    commands
}

fn net_text(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

/// A raw payload is compared as a number: nft 1.0.6 has no name for the target of neighbour discovery.
fn number(address: Ipv6Addr) -> String {
    format!("0x{:032x}", u128::from(address))
}

/// The options of neighbour discovery that say who is speaking. RFC 4861, 4.6.1
fn link_layer_options(mac: [u8; 6]) -> [u64; 2] {
    let address = mac
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    [0x0101 << 48 | address, 0x0201 << 48 | address]
}

/// The address that the kernel makes from a MAC address. RFC 4291, appendix A
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        pair(mac[0] ^ 2, mac[1]),
        pair(mac[2], 0xff),
        pair(0xfe, mac[3]),
        pair(mac[4], mac[5]),
    )
}
