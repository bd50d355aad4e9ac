//! Names that are safe as file names, unit instances and interface names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A text that can't be used as a name of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct InvalidName {
    /// The text as given.
    pub text: String,
    /// What it should have named.
    pub what: &'static str,
    /// What a name of this kind looks like.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $valid:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                if $valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(InvalidName { text, what: $what, rule: $rule })
                }
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a container. machine_name_is_valid() of systemd, which is a host name.
    MachineName,
    "container name",
    "use 1 to 64 letters, digits, '-' and '.', with a letter or digit at both ends of each part",
    is_host_name
);
name!(
    /// The name of an image, which names a folder; the same rule as for a container, with '_' beside it.
    ImageName,
    "image name",
    "use 1 to 64 letters, digits, '-', '_' and '.', with a letter or digit at both ends of each part",
    is_image_name
);
name!(
    /// The host name of a guest. hostname(7)
    HostName,
    "host name",
    "use 1 to 64 letters, digits, '-' and '.', with a letter or digit at both ends of each part",
    is_host_name
);
name!(
    /// The name of a network interface. dev_valid_name() of the kernel, narrower.
    InterfaceName,
    "interface name",
    "use 1 to 15 letters, digits, '-', '_' and '.'",
    is_interface_name
);
name!(
    /// The random word by which an object knows its owner.
    OwnerToken,
    "owner token",
    "it is 32 lower-case hexadecimal digits",
    is_token
);
name!(
    /// The random word of one provider process.
    SessionId,
    "session id",
    "it is 32 lower-case hexadecimal digits",
    is_token
);

/// systemd-nspawn refuses a '_'. hostname_is_valid() of systemd
fn is_host_name(text: &str) -> bool {
    !text.contains('_') && is_image_name(text)
}

fn is_image_name(text: &str) -> bool {
    text.len() <= 64
        && text.split('.').all(|part| {
            let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
            let bytes = part.as_bytes();
            alphanumeric(bytes.first())
                && alphanumeric(bytes.last())
                && bytes
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !matches!(text, "." | ".." | "all" | "default" | "lo")
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn is_token(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_names() {
        for text in ["web", "web-1", "a", "k0s.node-2", "A1"] {
            assert!(text.parse::<MachineName>().is_ok(), "{text}");
        }
        let long = "a".repeat(65);
        for text in [
            "",
            ".host",
            "-a",
            "a-",
            "a..b",
            "a/b",
            "../a",
            "a b",
            "ä",
            "a\n",
            "a.",
            "a_b",
            long.as_str(),
        ] {
            assert!(text.parse::<MachineName>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_underscore_is_for_images_alone() {
        assert!("debian_13".parse::<ImageName>().is_ok());
        assert!("_debian".parse::<ImageName>().is_err());
        let error = "web_1".parse::<MachineName>().unwrap_err().to_string();
        assert!(!error.contains("'_'"), "{error}");
        assert!("web_1".parse::<HostName>().is_err());
    }

    #[test]
    fn interface_names() {
        for text in ["br0", "eth0.5", "enp1s0", "vb-web"] {
            assert!(text.parse::<InterfaceName>().is_ok(), "{text}");
        }
        for text in ["", "..", "all", "sixteen-bytes-xx", "a/b", "a b", "br0:1"] {
            assert!(text.parse::<InterfaceName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_wire_value_is_checked_while_it_is_decoded() {
        assert!(serde_json::from_str::<MachineName>("\"../etc\"").is_err());
        assert!(serde_json::from_str::<OwnerToken>("\"x\"").is_err());
    }
}
