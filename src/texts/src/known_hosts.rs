//! known_hosts files, as sshd(8) describes them under SSH_KNOWN_HOSTS FILE FORMAT.
//!
//! libssh2's own reader knows neither wildcards nor `@revoked`, and ssh2 passes it no key type.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

use crate::host_key::PublicKey;

/// The port that needs no mention. RFC 4253 4.2
const DEFAULT_PORT: u16 = 22;

/// What a line says of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    /// It is the host's.
    None,
    /// It must never be accepted.
    Revoked,
    /// It signs host certificates, which libssh2 can't check.
    CertificateAuthority,
}

/// Which hosts a line is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    /// `|1|salt|HMAC-SHA1 of the name`
    Hashed { salt: Vec<u8>, digest: Vec<u8> },
    /// Names and patterns, in lower case.
    Patterns(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    marker: Marker,
    hosts: Hosts,
    key: PublicKey,
}

/// The lines of any number of known_hosts files.
#[derive(Debug, Clone, Default)]
pub struct KnownHosts {
    lines: Vec<Line>,
}

/// What is known of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Any of these is right.
    pub keys: Vec<PublicKey>,
    /// None of these ever is.
    pub revoked: Vec<PublicKey>,
    /// Whether a certificate authority is named for the host.
    pub certificate_authority: bool,
}

impl KnownHosts {
    /// Reads lines; those that make no sense are passed over, as ssh does.
    pub fn parse(text: &str) -> Self {
        Self {
            lines: text.lines().filter_map(parse_line).collect(),
        }
    }

    /// Adds the lines of another file.
    pub fn extend(&mut self, other: Self) {
        self.lines.extend(other.lines);
    }

    /// What is known of the host. A port of its own is written `[host]:port`; a key that is known
    /// for the bare name is good on any port, as with ssh.
    pub fn lookup(&self, host: &str, port: u16) -> Known {
        let host = host.to_ascii_lowercase();
        let name = written_name(&host, port);
        let mut known = Known::default();
        for line in &self.lines {
            let exact = line.hosts.matches(&name);
            if !exact && !line.hosts.matches(&host) {
                continue;
            }
            match line.marker {
                Marker::Revoked => known.revoked.push(line.key.clone()),
                Marker::CertificateAuthority => known.certificate_authority = true,
                Marker::None if exact => known.keys.push(line.key.clone()),
                Marker::None => {}
            }
        }
        if known.keys.is_empty() {
            known.keys = self
                .lines
                .iter()
                .filter(|line| line.marker == Marker::None && line.hosts.matches(&host))
                .map(|line| line.key.clone())
                .collect();
        }
        known
    }
}

impl Hosts {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Hashed { salt, digest } => Hmac::<Sha1>::new_from_slice(salt)
                .is_ok_and(|mac| mac.chain_update(name).verify_slice(digest).is_ok()),
            Self::Patterns(patterns) => {
                let mut found = false;
                for pattern in patterns {
                    match pattern.strip_prefix('!') {
                        Some(negated) if matches_pattern(negated.as_bytes(), name.as_bytes()) => {
                            return false;
                        }
                        Some(_) => {}
                        None => found |= matches_pattern(pattern.as_bytes(), name.as_bytes()),
                    }
                }
                found
            }
        }
    }
}

/// The name of a host in a known_hosts file.
pub fn written_name(host: &str, port: u16) -> String {
    if port == DEFAULT_PORT {
        host.to_owned()
    } else {
        format!("[{host}]:{port}")
    }
}

fn parse_line(line: &str) -> Option<Line> {
    let mut words = line.split_ascii_whitespace().peekable();
    let marker = match words.peek()? {
        first if first.starts_with('#') => return None,
        first if first.starts_with('@') => match words.next()? {
            "@revoked" => Marker::Revoked,
            "@cert-authority" => Marker::CertificateAuthority,
            _ => return None,
        },
        _ => Marker::None,
    };
    let hosts = parse_hosts(words.next()?)?;
    let key = PublicKey::parse(words.next()?, words.next()?)?;
    Some(Line { marker, hosts, key })
}

fn parse_hosts(text: &str) -> Option<Hosts> {
    let Some(hashed) = text.strip_prefix("|1|") else {
        let patterns = text.split(',').map(str::to_ascii_lowercase).collect();
        return Some(Hosts::Patterns(patterns));
    };
    let (salt, digest) = hashed.split_once('|')?;
    Some(Hosts::Hashed {
        salt: STANDARD.decode(salt).ok()?,
        digest: STANDARD.decode(digest).ok()?,
    })
}

/// `*` is any run of characters, `?` is one. Linear in the name for each star, so that no pattern
/// takes long.
fn matches_pattern(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at_pattern, mut at_name) = (0, 0);
    let mut last_star = None;
    while at_name < name.len() {
        match pattern.get(at_pattern) {
            Some(b'*') => {
                last_star = Some((at_pattern, at_name));
                at_pattern += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[at_name] => {
                at_pattern += 1;
                at_name += 1;
            }
            _ => {
                let Some((star, taken)) = last_star else {
                    return false;
                };
                last_star = Some((star, taken + 1));
                at_pattern = star + 1;
                at_name = taken + 1;
            }
        }
    }
    pattern[at_pattern..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u8) -> PublicKey {
        let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
        blob.extend([number; 32]);
        PublicKey::new(blob)
    }

    fn keys(known: &KnownHosts, host: &str, port: u16) -> Vec<PublicKey> {
        known.lookup(host, port).keys
    }

    #[test]
    fn lines_match_hosts_as_ssh_matches_them() {
        let (one, two) = (key(1), key(2));
        for (hosts, host, port, matches) in [
            ("vps.example", "vps.example", 22, true),
            ("vps.example", "VPS.example", 22, true),
            ("VPS.example", "vps.example", 22, true),
            ("vps.example", "vps.example.org", 22, false),
            ("a,vps.example,b", "vps.example", 22, true),
            ("[vps.example]:2222", "vps.example", 2222, true),
            ("[vps.example]:2222", "vps.example", 22, false),
            ("[vps.example]:2222", "vps.example", 2223, false),
            ("vps.example", "vps.example", 2222, true),
            ("*.example", "vps.example", 22, true),
            ("*.example", "example", 22, false),
            ("vps?.example", "vps1.example", 22, true),
            ("vps?.example", "vps.example", 22, false),
            ("*.example,!vps.example", "vps.example", 22, false),
            ("!vps.example,*.example", "other.example", 22, true),
            ("!vps.example", "other.example", 22, false),
            ("2001:db8::1", "2001:db8::1", 22, true),
            ("[2001:db8::1]:2222", "2001:db8::1", 2222, true),
            ("*", "203.0.113.1", 22, true),
        ] {
            let known = KnownHosts::parse(&format!("other {two}\n{hosts} {one} comment\n"));
            let found = keys(&known, host, port) == [one.clone()];
            assert_eq!(found, matches, "{hosts:?} against {host:?} {port}");
        }
    }

    #[test]
    fn hashed_names_match() {
        // printf 'vps.example ssh-ed25519 …' > known_hosts; ssh-keygen -H -f known_hosts
        let mac = Hmac::<Sha1>::new_from_slice(b"saltsaltsaltsaltsalt").unwrap();
        let digest = mac.chain_update("[vps.example]:2222").finalize();
        let hosts = format!(
            "|1|{}|{}",
            STANDARD.encode("saltsaltsaltsaltsalt"),
            STANDARD.encode(digest.into_bytes())
        );
        let known = KnownHosts::parse(&format!("{hosts} {}", key(1)));
        assert_eq!(keys(&known, "vps.example", 2222), [key(1)]);
        assert_eq!(keys(&known, "vps.example", 22), []);
        assert_eq!(keys(&known, "other.example", 2222), []);
    }

    #[test]
    fn markers_are_kept_apart() {
        let text = format!(
            "# comment\n\n@revoked * {}\n@cert-authority *.example {}\n@unknown * {}\nvps.example {}\nbroken\nvps.example ssh-rsa {}",
            key(1),
            key(2),
            key(3),
            key(4),
            "AAAA"
        );
        let known = KnownHosts::parse(&text).lookup("vps.example", 22);
        let expected = Known {
            keys: vec![key(4)],
            revoked: vec![key(1)],
            certificate_authority: true,
        };
        assert_eq!(known, expected);
    }

    #[test]
    fn a_key_on_a_port_of_its_own_goes_before_the_bare_name() {
        let known = KnownHosts::parse(&format!("vps {}\n[vps]:2222 {}", key(1), key(2)));
        assert_eq!(keys(&known, "vps", 2222), [key(2)]);
    }

    #[test]
    fn many_stars_take_no_time() {
        let name = "a".repeat(2000);
        assert!(!matches_pattern(
            "*a*b".repeat(200).as_bytes(),
            name.as_bytes()
        ));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[@!|\\[\\]*?,:a-z0-9 =\n]{0,80}", host in ".{0,20}", port: u16) {
            let _ = KnownHosts::parse(&text).lookup(&host, port);
        }

        #[test]
        fn a_name_matches_itself(name in "[a-z0-9.:-]{1,30}") {
            prop_assert!(matches_pattern(name.as_bytes(), name.as_bytes()));
        }
    }
}
