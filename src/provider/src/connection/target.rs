//! Whom to reach.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::host_key::HostKey;

/// The port of sshd.
pub const DEFAULT_PORT: u16 = 22;

/// The user that needs no sudo.
pub const DEFAULT_USER: &str = "root";

/// A host over SSH.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name, an alias of ssh_config, an IPv4 or an IPv6 address.
    pub address: String,
    /// Of sshd.
    pub port: u16,
    /// Any other than root goes through `sudo -n`.
    pub user: String,
    /// What the host's key must be; otherwise known_hosts decides.
    pub host_key: Option<HostKey>,
    /// A host to go through.
    pub bastion: Option<Bastion>,
}

/// A host to go through.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bastion {
    /// A name, an alias of ssh_config, an IPv4 or an IPv6 address.
    pub address: String,
    /// Of sshd.
    pub port: u16,
    /// Needs no rights but to forward connections.
    pub user: String,
    /// What the bastion's key must be; otherwise known_hosts decides.
    pub host_key: Option<HostKey>,
}

/// What makes two targets the same host: a private address means another host behind another bastion.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    endpoint: Endpoint,
    bastion: Option<Endpoint>,
}

type Endpoint = (String, String, u16);

impl Target {
    /// Which host it is, whatever keys are expected on the way.
    pub fn identity(&self) -> Identity {
        let bastion = self.bastion.as_ref();
        Identity {
            endpoint: (self.user.clone(), self.address.clone(), self.port),
            bastion: bastion
                .map(|bastion| (bastion.user.clone(), bastion.address.clone(), bastion.port)),
        }
    }

    /// root at port 22 of this address, directly.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            port: DEFAULT_PORT,
            user: DEFAULT_USER.to_owned(),
            host_key: None,
            bastion: None,
        }
    }
}

impl fmt::Display for Target {
    /// As in ids: `root@203.0.113.1:22`, `root@[2001:db8::1]:22`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_endpoint(formatter, &self.user, &self.address, self.port)
    }
}

impl fmt::Display for Bastion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_endpoint(formatter, &self.user, &self.address, self.port)
    }
}

fn write_endpoint(
    formatter: &mut fmt::Formatter<'_>,
    user: &str,
    address: &str,
    port: u16,
) -> fmt::Result {
    if address.contains(':') {
        write!(formatter, "{user}@[{address}]:{port}")
    } else {
        write!(formatter, "{user}@{address}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_address_behind_another_bastion_is_another_host() {
        let behind = |address: &str, host_key: Option<HostKey>| Target {
            bastion: Some(Bastion {
                address: address.to_owned(),
                port: DEFAULT_PORT,
                user: "jump".to_owned(),
                host_key,
            }),
            ..Target::new("10.0.0.2")
        };
        let key = "SHA256:ohD8VZEXGWo6Ez8GSEJQ9WpafgLFsOfLOtGGQCQo6Og";
        let identity = behind("198.51.100.9", None).identity();
        assert_ne!(identity, behind("198.51.100.8", None).identity());
        assert_ne!(identity, Target::new("10.0.0.2").identity());
        let pinned = behind("198.51.100.9", Some(key.parse().unwrap()));
        assert_eq!(identity, pinned.identity(), "a key is no part of it");
    }

    #[test]
    fn endpoints_read_like_ids() {
        for (address, shown) in [
            ("203.0.113.1", "root@203.0.113.1:22"),
            ("2001:db8::1", "root@[2001:db8::1]:22"),
            ("vps.example", "root@vps.example:22"),
        ] {
            assert_eq!(Target::new(address).to_string(), shown);
        }
    }
}
