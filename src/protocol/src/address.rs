//! A public address or prefix, as a person writes it.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A text that is not a public address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Neither an address nor a prefix.
    #[error(
        "{0:?} is not an address: write one such as \"203.0.113.2\", \"2001:db8:1::10\", or a prefix such as \"2001:db8:1:5::/80\""
    )]
    NotAnAddress(String),
    /// Bits are set behind the prefix.
    #[error("{text:?} has bits set behind its prefix length: the prefix is written {network}")]
    HostBits {
        /// The text as given.
        text: String,
        /// The prefix that it lies in.
        network: IpNet,
    },
    /// Loopback, multicast, link-local or unspecified.
    #[error("{text:?} is {what}, which no router delivers to a container")]
    NotUnicast {
        /// The text as given.
        text: String,
        /// What it is instead.
        what: &'static str,
    },
}

/// A container's address or prefix. Keeps its text, which goes back to Terraform on import.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicAddress {
    text: String,
    network: IpNet,
}

impl PublicAddress {
    /// The address with its prefix length, /32 or /128 for a single one.
    pub fn network(&self) -> IpNet {
        self.network
    }

    /// The single address, or the prefix's first.
    pub fn ip(&self) -> IpAddr {
        self.network.addr()
    }

    /// Whether this is one address, not a prefix of several.
    pub fn is_single(&self) -> bool {
        self.network.prefix_len() == self.network.max_prefix_len()
    }

    /// The one form in which the address stands in ids and file names: "203.0.113.2", "2001:db8:1:5::/80".
    pub fn canonical(&self) -> String {
        if self.is_single() {
            self.ip().to_string()
        } else {
            self.network.to_string()
        }
    }
}

/// Two spellings of one address are equal.
impl PartialEq for PublicAddress {
    fn eq(&self, other: &Self) -> bool {
        self.network == other.network
    }
}
impl Eq for PublicAddress {}

impl FromStr for PublicAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let network = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| InvalidAddress::NotAnAddress(text.to_owned()))?;
        if network.trunc() != network {
            return Err(InvalidAddress::HostBits {
                text: text.to_owned(),
                network: network.trunc(),
            });
        }
        if let Some(what) = not_unicast(network) {
            return Err(InvalidAddress::NotUnicast {
                text: text.to_owned(),
                what,
            });
        }
        Ok(Self {
            text: text.to_owned(),
            network,
        })
    }
}

fn not_unicast(network: IpNet) -> Option<&'static str> {
    if network.prefix_len() == 0 {
        return Some("the default route");
    }
    match network.addr() {
        ip if ip.is_unspecified() => Some("the unspecified address"),
        ip if ip.is_loopback() => Some("a loopback address"),
        ip if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(ip) if ip.is_link_local() => Some("a link-local address"),
        IpAddr::V4(ip) if ip.octets()[0] == 0 || ip.octets()[0] >= 240 => {
            Some("a reserved address")
        }
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
        _ => None,
    }
}

impl TryFrom<String> for PublicAddress {
    type Error = InvalidAddress;
    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<PublicAddress> for String {
    fn from(address: PublicAddress) -> String {
        address.text
    }
}

impl fmt::Display for PublicAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_one_canonical_form_and_keeps_its_text() {
        for (text, canonical) in [
            ("203.0.113.2", "203.0.113.2"),
            ("203.0.113.2/32", "203.0.113.2"),
            ("2001:DB8:1::10", "2001:db8:1::10"),
            ("2001:db8:1:5::/80", "2001:db8:1:5::/80"),
        ] {
            let address: PublicAddress = text.parse().unwrap();
            assert_eq!(
                (address.canonical().as_str(), address.to_string().as_str()),
                (canonical, text)
            );
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, part) in [
            ("203.0.113", "not an address"),
            ("hello", "not an address"),
            ("203.0.113.2/33", "not an address"),
            ("203.0.113.2/24", "203.0.113.0/24"),
            ("127.0.0.1", "loopback"),
            ("ff02::1", "multicast"),
            ("fe80::1", "link-local"),
            ("0.0.0.0/0", "default route"),
            ("255.255.255.255", "reserved"),
        ] {
            let message = text.parse::<PublicAddress>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
