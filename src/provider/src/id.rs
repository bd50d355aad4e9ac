//! Ids and import strings: `root@203.0.113.1:22`, `root@[2001:db8::1]:22/203.0.113.2`,
//! `root@203.0.113.1:22/web?host_key=SHA256:…&bastion=jump@198.51.100.9:22`.

use std::{fmt, iter, str::FromStr};

use protocol::desired::ObjectKey;

use crate::connection::{
    Bastion, HostKey, Target,
    host_key::InvalidHostKey,
    target::{DEFAULT_PORT, DEFAULT_USER},
};

/// A text that is not an import id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// There is no address, or what stands around it makes no sense.
    #[error(
        "{0:?} is not a host: write user@address:port, such as root@203.0.113.1:22 or root@[2001:db8::1]:22"
    )]
    Endpoint(String),
    /// The part after the colon is no port.
    #[error("{0:?} is not a port: write a number from 1 to 65535")]
    Port(String),
    /// Something after the question mark that has no meaning.
    #[error(
        "{0:?} is not an option of an import id: those are host_key, bastion and bastion_host_key"
    )]
    Option(String),
    /// A host key that is none.
    #[error("{option}: {reason}")]
    HostKey {
        /// The option that it stands in.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A bastion's host key without a bastion.
    #[error("bastion_host_key has no bastion beside it: add &bastion=user@address:port")]
    NoBastion,
}

/// Where an object is, and which one it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id {
    /// Its host.
    pub target: Target,
    /// Its name there; none for the host itself.
    pub name: Option<String>,
}

/// The id of a named object of a host.
pub fn object_id(target: &Target, name: impl fmt::Display) -> String {
    format!("{target}/{name}")
}

/// What `terraform import` takes for an object of a host, with all that is needed to reach it.
pub fn import_id(target: &Target, key: &ObjectKey) -> String {
    let mut id = match key {
        ObjectKey::Host => target.to_string(),
        ObjectKey::Image(name) => object_id(target, name),
        ObjectKey::Container(name) => object_id(target, name),
        ObjectKey::Address(address) => object_id(target, address),
    };
    let bastion = target.bastion.as_ref();
    let options = [
        (
            "host_key",
            target.host_key.as_ref().map(HostKey::fingerprint),
        ),
        ("bastion", bastion.map(ToString::to_string)),
        (
            "bastion_host_key",
            bastion.and_then(|bastion| bastion.host_key.as_ref().map(HostKey::fingerprint)),
        ),
    ];
    let options = options
        .into_iter()
        .filter_map(|(option, value)| value.map(|value| (option, value)));
    for ((option, value), separator) in options.zip(iter::once('?').chain(iter::repeat('&'))) {
        id = format!("{id}{separator}{option}={value}");
    }
    id
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (location, options) = text.split_once('?').unwrap_or((text, ""));
        // No endpoint has a slash, but the prefix 2001:db8::/64 has one.
        let (endpoint, name) = match location.split_once('/') {
            Some((endpoint, name)) if !name.is_empty() => (endpoint, Some(name.to_owned())),
            Some((endpoint, _)) => (endpoint, None),
            None => (location, None),
        };
        let Endpoint {
            user,
            address,
            port,
        } = endpoint.parse()?;
        let mut target = Target {
            address,
            port,
            user,
            host_key: None,
            bastion: None,
        };
        apply_options(&mut target, options)?;
        Ok(Self { target, name })
    }
}

fn apply_options(target: &mut Target, options: &str) -> Result<(), InvalidId> {
    let mut bastion_key = None;
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let unknown = || InvalidId::Option(option.to_owned());
        let (key, value) = option.split_once('=').ok_or_else(unknown)?;
        let value = percent_decoded(value).ok_or_else(unknown)?;
        match key {
            "host_key" => target.host_key = Some(host_key("host_key", &value)?),
            "bastion_host_key" => bastion_key = Some(host_key("bastion_host_key", &value)?),
            "bastion" => {
                let Endpoint {
                    user,
                    address,
                    port,
                } = value.parse()?;
                target.bastion = Some(Bastion {
                    address,
                    port,
                    user,
                    host_key: None,
                });
            }
            _ => return Err(unknown()),
        }
    }
    match (&mut target.bastion, bastion_key) {
        (Some(bastion), key) => bastion.host_key = key,
        (None, Some(_)) => return Err(InvalidId::NoBastion),
        (None, None) => {}
    }
    Ok(())
}

fn host_key(option: &'static str, text: &str) -> Result<HostKey, InvalidId> {
    text.parse()
        .map_err(|error: InvalidHostKey| InvalidId::HostKey {
            option,
            reason: error.to_string(),
        })
}

/// A `+` stays what it is, for it is base64 here and no space.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

struct Endpoint {
    user: String,
    address: String,
    port: u16,
}

impl FromStr for Endpoint {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId::Endpoint(text.to_owned());
        let (user, place) = text.rsplit_once('@').unwrap_or((DEFAULT_USER, text));
        let (address, port) = if let Some(bracketed) = place.strip_prefix('[') {
            let (address, tail) = bracketed.split_once(']').ok_or_else(invalid)?;
            let port = match tail.strip_prefix(':') {
                Some(port) => Some(port),
                None if tail.is_empty() => None,
                None => return Err(invalid()),
            };
            (address, port)
        } else {
            match place.split_once(':') {
                Some((_, tail)) if tail.contains(':') => return Err(invalid()),
                Some((address, port)) => (address, Some(port)),
                None => (place, None),
            }
        };
        if user.is_empty() || address.is_empty() || address.contains(char::is_whitespace) {
            return Err(invalid());
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| InvalidId::Port(port.to_owned()))?,
        };
        Ok(Self {
            user: user.to_owned(),
            address: address.to_owned(),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FINGERPRINT: &str = "SHA256:ohD8VZEXGWo6Ez8GSEJQ9WpafgLFsOfLOtGGQCQo6Og";

    #[test]
    fn an_import_id_says_where_and_what() {
        for (text, endpoint, name) in [
            ("root@203.0.113.1:22", "root@203.0.113.1:22", None),
            ("203.0.113.1", "root@203.0.113.1:22", None),
            (
                "admin@vps.example:2222/web",
                "admin@vps.example:2222",
                Some("web"),
            ),
            (
                "root@[2001:db8::1]:22/203.0.113.2",
                "root@[2001:db8::1]:22",
                Some("203.0.113.2"),
            ),
            (
                "[2001:db8::1]/2001:db8:1:5::/80",
                "root@[2001:db8::1]:22",
                Some("2001:db8:1:5::/80"),
            ),
        ] {
            let id: Id = text.parse().unwrap();
            assert_eq!(
                (id.target.to_string().as_str(), id.name.as_deref()),
                (endpoint, name)
            );
        }
    }

    #[test]
    fn options_pin_keys_and_name_a_bastion() {
        let text = format!(
            "root@203.0.113.1:22/web?host_key={FINGERPRINT}&bastion=jump@[2001:db8::9]:23&bastion_host_key={FINGERPRINT}"
        );
        let id: Id = text.parse().unwrap();
        let bastion = id.target.bastion.unwrap();
        assert_eq!(id.target.host_key.unwrap().to_string(), FINGERPRINT);
        assert_eq!(
            (
                bastion.to_string().as_str(),
                bastion.host_key.unwrap().to_string().as_str()
            ),
            ("jump@[2001:db8::9]:23", FINGERPRINT)
        );
        let line =
            "ssh-ed25519%20AAAAC3NzaC1lZDI1NTE5AAAAIPmFIqQZmPJWF4yVjBXlGG1kHIzVtQXGo0RZ5HnLYAnQ";
        assert!(format!("h?host_key={line}").parse::<Id>().is_ok());
    }

    #[test]
    fn what_is_advised_for_an_import_can_be_imported() {
        let key = ObjectKey::Container("web".parse().unwrap());
        for text in [
            "root@203.0.113.1:22/web".to_owned(),
            format!("root@203.0.113.1:22/web?host_key={FINGERPRINT}"),
            format!(
                "root@203.0.113.1:22/web?bastion=jump@[2001:db8::9]:23&bastion_host_key={FINGERPRINT}"
            ),
        ] {
            let id: Id = text.parse().unwrap();
            assert_eq!(import_id(&id.target, &key), text);
        }
        assert_eq!(import_id(&Target::new("a"), &ObjectKey::Host), "root@a:22");
    }

    #[test]
    fn what_is_no_import_id_says_why() {
        for (text, part) in [
            ("", "user@address:port"),
            ("@h", "user@address:port"),
            ("root@", "user@address:port"),
            ("2001:db8::1", "user@address:port"),
            ("[2001:db8::1", "user@address:port"),
            ("h:0", "is not a port"),
            ("h:ssh", "is not a port"),
            ("h?key=x", "not an option"),
            ("h?host_key", "not an option"),
            ("h?host_key=MD5:0", "host_key: "),
            (
                "h?bastion_host_key=SHA256:ohD8VZEXGWo6Ez8GSEJQ9WpafgLFsOfLOtGGQCQo6Og",
                "no bastion",
            ),
        ] {
            let message = text.parse::<Id>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn ids_come_back(user in "[a-z][a-z0-9_-]{0,8}", address in "[a-z0-9.]{1,12}|[0-9a-f]{1,4}::[0-9a-f]{1,4}", port in 1..=u16::MAX, name in "[a-z0-9:.]{1,8}(/[0-9]{1,3})?") {
            let target = Target { port, user, ..Target::new(address) };
            let id: Id = object_id(&target, &name).parse().unwrap();
            prop_assert_eq!(id, Id { target, name: Some(name) });
        }

        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Id>();
        }
    }
}
