//! The `host` object that every resource but nspawn_host has: how its host is reached.

use std::net::IpAddr;

use protocol::name::InvalidName;
use tfplugin::{
    Attr, Parsed,
    schema::validators::{between, not_empty},
};

use crate::connection::{Bastion, HostKey, Target};

tfplugin::model! {
    /// How a host is reached: `host = nspawn_host.x`, or an object of these attributes for a host
    /// that another configuration manages. A change is made in place as long as the new address leads
    /// to the same machine.
    pub struct HostReference {
        /// IP address or name of the host.
        address: Attr<String> => required().validate(address),
        /// Port of its SSH server.
        port: Attr<i64> => optional().default(22).validate(between(1..=65535)),
        /// User to log in as. Any other than root needs passwordless sudo, for everything is done through `sudo -n`.
        user: Attr<String> => optional().default("root").validate(not_empty),
        /// The host's public key, as an OpenSSH public key line (`ssh-ed25519 AAAA…`) or a fingerprint (`SHA256:…`). Without it, known_hosts decides.
        host_key: Attr<Parsed<HostKey>> => optional().computed().same_when(same_key),
        /// A host to go through.
        bastion: Attr<BastionReference> => optional(),
    }

    /// A host to go through, as `ssh -J` does.
    pub struct BastionReference {
        /// IP address or name of the bastion.
        address: Attr<String> => required().validate(address),
        /// Port of its SSH server.
        port: Attr<i64> => optional().default(22).validate(between(1..=65535)),
        /// User to log in as; needs no rights but to forward connections.
        user: Attr<String> => optional().default("root").validate(not_empty),
        /// The bastion's public key, as an OpenSSH public key line or a fingerprint. Without it, known_hosts decides.
        host_key: Attr<Parsed<HostKey>> => optional().computed().same_when(same_key),
    }
}

/// A key line and its fingerprint pin the same key.
pub fn same_key(left: &Parsed<HostKey>, right: &Parsed<HostKey>) -> bool {
    left.value().fingerprint() == right.value().fingerprint()
}

/// What can be connected to; ssh_config's aliases included.
pub fn address(text: &str) -> Result<(), InvalidName> {
    let odd = |character: char| {
        !(character.is_ascii_alphanumeric() || matches!(character, '.' | ':' | '-' | '_' | '%'))
    };
    if text.is_empty() || text.starts_with('-') || text.contains(odd) {
        return Err(InvalidName {
            text: text.to_owned(),
            what: "host address",
            rule: "write an IP address or a host name, without user, port or brackets",
        });
    }
    // Nobody names a host like that: it is an IP address with a typing error.
    let last = text.rsplit('.').next().unwrap_or_default();
    let numeric = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    let bare = text.split_once('%').map_or(text, |(bare, _)| bare);
    if (numeric || text.contains(':')) && bare.parse::<IpAddr>().is_err() {
        return Err(InvalidName {
            text: text.to_owned(),
            what: "IP address",
            rule: "write one such as 203.0.113.1 or 2001:db8::1, without port or brackets",
        });
    }
    Ok(())
}

impl HostReference {
    /// Whom that is, once all of it is known.
    pub fn target(&self) -> Option<Target> {
        if self.host_key.is_unknown() || self.bastion.is_unknown() {
            return None;
        }
        Some(Target {
            address: self.address.cloned()?,
            port: port(&self.port)?,
            user: self.user.cloned()?,
            host_key: self.host_key.cloned().map(Parsed::into_value),
            bastion: match self.bastion.known() {
                Some(bastion) => Some(bastion.bastion()?),
                None => None,
            },
        })
    }

    /// As the plan has it: a key that the configuration doesn't give is none, whatever the state says.
    pub fn settle(&mut self, config: &Attr<Self>) {
        let Some(config) = config.known() else { return };
        settle_key(&mut self.host_key, &config.host_key);
        settle_bastion(&mut self.bastion, &config.bastion);
    }
}

/// A key that the configuration doesn't give is none, whatever the state says.
pub fn settle_key(planned: &mut Attr<Parsed<HostKey>>, config: &Attr<Parsed<HostKey>>) {
    if config.is_null() {
        *planned = Attr::Null;
    }
}

/// The same for a bastion's key.
pub fn settle_bastion(planned: &mut Attr<BastionReference>, config: &Attr<BastionReference>) {
    if let (Some(planned), Some(config)) = (planned.known_mut(), config.known()) {
        settle_key(&mut planned.host_key, &config.host_key);
    }
}

impl BastionReference {
    fn bastion(&self) -> Option<Bastion> {
        if self.host_key.is_unknown() {
            return None;
        }
        Some(Bastion {
            address: self.address.cloned()?,
            port: port(&self.port)?,
            user: self.user.cloned()?,
            host_key: self.host_key.cloned().map(Parsed::into_value),
        })
    }
}

impl From<&Target> for HostReference {
    fn from(target: &Target) -> Self {
        Self {
            address: target.address.clone().into(),
            port: i64::from(target.port).into(),
            user: target.user.clone().into(),
            host_key: target.host_key.clone().map(Parsed::new).into(),
            bastion: target.bastion.as_ref().map(BastionReference::from).into(),
        }
    }
}

impl From<&Bastion> for BastionReference {
    fn from(bastion: &Bastion) -> Self {
        Self {
            address: bastion.address.clone().into(),
            port: i64::from(bastion.port).into(),
            user: bastion.user.clone().into(),
            host_key: bastion.host_key.clone().map(Parsed::new).into(),
        }
    }
}

fn port(port: &Attr<i64>) -> Option<u16> {
    port.known().and_then(|port| u16::try_from(*port).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINGERPRINT: &str = "SHA256:ohD8VZEXGWo6Ez8GSEJQ9WpafgLFsOfLOtGGQCQo6Og";

    fn reference() -> HostReference {
        HostReference::from(&Target {
            host_key: Some(FINGERPRINT.parse().unwrap()),
            bastion: Some(Bastion {
                address: "2001:db8::9".into(),
                port: 2222,
                user: "jump".into(),
                host_key: None,
            }),
            ..Target::new("203.0.113.1")
        })
    }

    #[test]
    fn a_target_goes_into_the_state_and_comes_back() {
        let target = reference().target().unwrap();
        assert_eq!(HostReference::from(&target), reference());
        assert_eq!(
            target.bastion.unwrap().to_string(),
            "jump@[2001:db8::9]:2222"
        );
    }

    #[test]
    fn there_is_no_target_before_all_is_known() {
        let mut unknown = reference();
        unknown.host_key = Attr::Unknown;
        assert_eq!(unknown.target(), None);
        let mut unknown = reference();
        unknown.bastion.known_mut().unwrap().address = Attr::Unknown;
        assert_eq!(unknown.target(), None);
    }

    #[test]
    fn a_key_that_is_no_longer_configured_is_dropped() {
        let mut planned = reference();
        planned.settle(&Attr::Known(HostReference {
            host_key: Attr::Null,
            ..reference()
        }));
        assert_eq!(planned.host_key, Attr::Null);
        let mut planned = reference();
        planned.settle(&Attr::Known(reference()));
        assert_eq!(planned, reference());
    }

    #[test]
    fn addresses() {
        for text in [
            "203.0.113.1",
            "2001:db8::1",
            "vps.example",
            "fe80::1%eth0",
            "my_alias",
            "vps1",
            "10.example",
        ] {
            assert!(address(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "-oProxyCommand=x",
            "root@a",
            "[2001:db8::1]",
            "a b",
            "a/b",
            "203.0.113.300",
            "203.0.113",
            "203.0.113.1:22",
            "2001:db8::1::2",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
