//! A host's public key, and how it is pinned.

use std::{fmt, str::FromStr};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use sha2::{Digest as _, Sha256};

/// A text that pins no host key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is not a host key: write an OpenSSH public key line such as \"ssh-ed25519 AAAAC3…\", or a fingerprint such as \"SHA256:…\" (43 characters, as ssh-keygen -l shows it)",
    shown(.0)
)]
pub struct InvalidHostKey(pub String);

/// The text, unless it may be a private key that landed here by mistake.
fn shown(text: &str) -> String {
    if text.contains(['\n', '\r']) || text.contains("PRIVATE KEY") {
        "this text, which may be secret and is not shown,".to_owned()
    } else {
        format!("{text:?}")
    }
}

/// A public key as it crosses the wire. RFC 4253 6.6
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// Takes a key's bytes.
    pub fn new(blob: impl Into<Vec<u8>>) -> Self {
        Self(blob.into())
    }

    /// The key's bytes.
    pub fn blob(&self) -> &[u8] {
        &self.0
    }

    /// The type that the key's bytes begin with: "ssh-ed25519".
    pub fn algorithm(&self) -> &str {
        leading_text(&self.0).unwrap_or("unknown")
    }

    /// `SHA256:…`, as ssh-keygen -l shows it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.0)))
    }

    /// Reads the two words of a public key line, type and base64.
    pub fn parse(algorithm: &str, base64: &str) -> Option<Self> {
        let blob = STANDARD.decode(base64).ok()?;
        (leading_text(&blob)? == algorithm).then_some(Self(blob))
    }
}

impl fmt::Display for PublicKey {
    /// A public key line without a comment.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {}",
            self.algorithm(),
            STANDARD.encode(&self.0)
        )
    }
}

/// The first string of a key's bytes: a length of four bytes, then text. RFC 4251 5
fn leading_text(blob: &[u8]) -> Option<&str> {
    let (length, rest) = blob.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    str::from_utf8(rest.get(..length)?)
        .ok()
        .filter(|text| !text.is_empty())
}

/// A pinned host key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostKey {
    /// The key itself.
    Key(PublicKey),
    /// `SHA256:…` and 43 characters of base64.
    Fingerprint(String),
}

impl HostKey {
    /// Whether this is the key that was pinned.
    pub fn matches(&self, key: &PublicKey) -> bool {
        match self {
            Self::Key(pinned) => pinned == key,
            Self::Fingerprint(pinned) => *pinned == key.fingerprint(),
        }
    }

    /// `SHA256:…` of the pinned key.
    pub fn fingerprint(&self) -> String {
        match self {
            Self::Key(key) => key.fingerprint(),
            Self::Fingerprint(fingerprint) => fingerprint.clone(),
        }
    }
}

impl FromStr for HostKey {
    type Err = InvalidHostKey;

    fn from_str(text: &str) -> Result<Self, InvalidHostKey> {
        let invalid = || InvalidHostKey(text.to_owned());
        if let Some(digest) = text.strip_prefix("SHA256:") {
            let unpadded = digest.trim_end_matches('=');
            let bytes = STANDARD_NO_PAD.decode(unpadded).map_err(|_| invalid())?;
            return if bytes.len() == Sha256::output_size() {
                Ok(Self::Fingerprint(format!("SHA256:{unpadded}")))
            } else {
                Err(invalid())
            };
        }
        let mut words = text.split_ascii_whitespace();
        let (Some(algorithm), Some(base64)) = (words.next(), words.next()) else {
            return Err(invalid());
        };
        PublicKey::parse(algorithm, base64)
            .map(Self::Key)
            .ok_or_else(invalid)
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(formatter),
            Self::Fingerprint(fingerprint) => formatter.write_str(fingerprint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // ssh-keygen -t ed25519; ssh-keygen -l
    const LINE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPmFIqQZmPJWF4yVjBXlGG1kHIzVtQXGo0RZ5HnLYAnQ";

    #[test]
    fn a_key_line_and_its_fingerprint_pin_the_same_key() {
        let HostKey::Key(key) = format!("{LINE} root@vps").parse().unwrap() else {
            panic!("not a key");
        };
        let by_fingerprint: HostKey = key.fingerprint().parse().unwrap();
        assert_eq!(key.algorithm(), "ssh-ed25519");
        assert_eq!(key.to_string(), LINE);
        assert!(by_fingerprint.matches(&key) && HostKey::Key(key.clone()).matches(&key));
        assert!(!by_fingerprint.matches(&PublicKey::new(b"other".to_vec())));
    }

    #[test]
    fn what_pins_no_key_is_refused() {
        for text in [
            "",
            "SHA256:",
            "SHA256:short",
            "MD5:00:11",
            "ssh-ed25519",
            "ssh-ed25519 !!!",
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIPmFIqQZmPJWF4yVjBXlGG1kHIzVtQXGo0RZ5HnLYAnQ",
        ] {
            assert_eq!(
                text.parse::<HostKey>(),
                Err(InvalidHostKey(text.to_owned()))
            );
        }
    }

    #[test]
    fn a_private_key_is_not_shown() {
        for (text, is_shown) in [
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n", false),
            ("-----BEGIN PRIVATE KEY-----b3BlbnNz", false),
            ("b3BlbnNz\r\n", false),
            ("MD5:b3BlbnNz", true),
        ] {
            let error = text.parse::<HostKey>().unwrap_err().to_string();
            assert_eq!(error.contains("b3BlbnNz"), is_shown, "{error}");
            assert!(error.contains("is not a host key: write"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,80}", blob: Vec<u8>) {
            let _ = text.parse::<HostKey>();
            let _ = PublicKey::new(blob).to_string();
        }
    }
}
