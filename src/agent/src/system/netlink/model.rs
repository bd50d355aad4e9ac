//! The network as plain data, for planning.

use std::net::IpAddr;

use ipnet::IpNet;

/// The protocol number that marks routes, neighbours and neighbour proxies as ours. rtnetlink(7)
pub const PROTOCOL: u8 = 78;

/// The network of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Interfaces.
    pub links: Vec<Link>,
    /// Addresses of the host itself.
    pub addresses: Vec<Address>,
    /// Routes of the main table.
    pub routes: Vec<Route>,
    /// Neighbour proxies of both families.
    pub proxies: Vec<Proxy>,
    /// Neighbours of both families.
    pub neighbours: Vec<Neighbour>,
    /// Forwarding entries of bridges.
    pub forwarding: Vec<ForwardingEntry>,
}

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its other names.
    pub alternative_names: Vec<String>,
    /// What whoever made it calls it.
    pub alias: Option<String>,
    /// "bridge", "veth", …; none for a real one.
    pub kind: Option<String>,
    /// Whether it is set up.
    pub up: bool,
    /// How often it lost or found its carrier.
    pub carrier_changes: u32,
    /// The longest packet.
    pub mtu: u32,
    /// Its address.
    pub mac: Vec<u8>,
    /// The bridge that it is a port of.
    pub bridge: Option<u32>,
    /// Its flags as a port of a bridge.
    pub port: Option<super::PortFlags>,
    /// What it does as a bridge beside passing frames on.
    pub switch: super::SwitchFlags,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub index: u32,
    /// The address with its prefix.
    pub net: IpNet,
    /// Whether it is good beyond the link.
    pub global: bool,
    /// Whether it was given for some time only, as by router advertisement.
    pub expires: bool,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// The interface.
    pub index: u32,
    /// The next router.
    pub gateway: Option<IpAddr>,
    /// Who made it. rtnetlink(7)
    pub protocol: u8,
    /// The lower, the better.
    pub metric: u32,
}

/// An address that the host answers for on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// The interface.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Who made it.
    pub protocol: u8,
}

/// A neighbour that the kernel knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface.
    pub index: u32,
    /// Its address.
    pub address: IpAddr,
    /// Where it is.
    pub mac: Vec<u8>,
    /// Whether that was said by us, for good.
    pub fixed: bool,
}

/// Behind which port of a bridge a station is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardingEntry {
    /// The port.
    pub index: u32,
    /// The station.
    pub mac: Vec<u8>,
    /// Whether it was set by hand, and stays whatever the bridge learns.
    pub fixed: bool,
}

impl Network {
    /// The interface of this name or other name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links
            .iter()
            .find(|link| link.name == name)
            .or_else(|| {
                self.links
                    .iter()
                    .find(|link| link.alternative_names.iter().any(|other| other == name))
            })
    }

    /// The default route of a family that is taken.
    pub fn default_route(&self, v6: bool) -> Option<&Route> {
        self.routes
            .iter()
            .filter(|route| {
                route.destination.prefix_len() == 0
                    && matches!(route.destination, IpNet::V6(_)) == v6
            })
            .min_by_key(|route| route.metric)
    }

    /// The name of an interface.
    pub fn name(&self, index: u32) -> Option<&str> {
        self.links
            .iter()
            .find(|link| link.index == index)
            .map(|link| link.name.as_str())
    }
}

/// A MAC address as people write it.
pub fn mac_text(mac: &[u8]) -> String {
    mac.iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

/// Bytes in hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    mac_text(bytes).replace(':', "")
}
