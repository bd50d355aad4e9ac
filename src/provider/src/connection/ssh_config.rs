//! The way to a host, hop by hop, after ssh_config(5) has had its say.

use std::{fs::File, io::BufReader, path::PathBuf};

use ssh2_config::{HostParams, ParseRule, SshConfig};

use super::{
    credentials::{Credentials, expand_home},
    error::{ConnectionError, ConnectionErrorKind},
    host_key::HostKey,
    target::{Bastion, DEFAULT_PORT, DEFAULT_USER, Target},
};

/// One SSH server on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hop {
    /// As in ids, with what the user wrote.
    pub(super) label: String,
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) host_key: Option<HostKey>,
    /// Of ssh_config.
    pub(super) identity_files: Vec<PathBuf>,
}

/// How many bastions may stand in a row: ends a ProxyJump that leads back to itself.
const HOP_LIMIT: usize = 8;

/// The servers to go through, the host itself last.
pub(super) fn route(
    target: &Target,
    credentials: &Credentials,
) -> Result<Vec<Hop>, ConnectionError> {
    let config = read(target, credentials)?;
    let (hop, jump) = apply(endpoint(target), config.as_ref());
    let mut hops = vec![hop];
    let mut next = match (&target.bastion, jump) {
        (Some(bastion), _) => vec![bastion_endpoint(bastion)],
        (None, jumps) => jumps,
    };
    while let Some(endpoint) = next.pop() {
        if hops.len() == HOP_LIMIT {
            return Err(ConnectionError::new(
                ConnectionErrorKind::Credentials,
                target,
                "following ProxyJump of the ssh_config file",
                format!("more than {HOP_LIMIT} hosts to go through"),
            ));
        }
        let (mut hop, jump) = apply(endpoint, config.as_ref());
        if hop.user.is_empty() {
            hop.user.clone_from(&hops[0].user);
        }
        hops.insert(0, hop);
        if next.is_empty() {
            next = jump;
        }
    }
    Ok(hops)
}

fn read(target: &Target, credentials: &Credentials) -> Result<Option<SshConfig>, ConnectionError> {
    let Some(path) = &credentials.ssh_config_file else {
        return Ok(None);
    };
    let path = expand_home(path);
    let failed = |reason: String| {
        ConnectionError::new(
            ConnectionErrorKind::Credentials,
            target,
            format!("reading the ssh_config file {}", path.display()),
            reason,
        )
        .help("Correct the file, or set `ssh_config_file` in the provider block to another.")
    };
    let file = File::open(&path).map_err(|error| failed(error.to_string()))?;
    SshConfig::default()
        .parse(
            &mut BufReader::new(file),
            ParseRule::ALLOW_UNKNOWN_FIELDS | ParseRule::ALLOW_UNSUPPORTED_FIELDS,
        )
        .map(Some)
        .map_err(|error| failed(error.to_string()))
}

fn endpoint(target: &Target) -> Hop {
    Hop {
        label: target.to_string(),
        address: target.address.clone(),
        port: target.port,
        user: target.user.clone(),
        host_key: target.host_key.clone(),
        identity_files: Vec::new(),
    }
}

fn bastion_endpoint(bastion: &Bastion) -> Hop {
    Hop {
        label: bastion.to_string(),
        address: bastion.address.clone(),
        port: bastion.port,
        user: bastion.user.clone(),
        host_key: bastion.host_key.clone(),
        identity_files: Vec::new(),
    }
}

/// What the file says of this server, and the servers that it names to go through, in the order of
/// travel.
/// Port and user of the file stand in for the defaults only.
fn apply(mut hop: Hop, config: Option<&SshConfig>) -> (Hop, Vec<Hop>) {
    let Some(config) = config else {
        return (hop, Vec::new());
    };
    let params: HostParams = config.query(&hop.address);
    if let Some(name) = params.host_name {
        hop.address = name.replace("%h", &hop.address);
    }
    if let Some(port) = params.port.filter(|_| hop.port == DEFAULT_PORT) {
        hop.port = port;
    }
    let unsaid = hop.user.is_empty() || hop.user == DEFAULT_USER;
    if let Some(user) = params.user.filter(|_| unsaid) {
        hop.user = user;
    }
    hop.identity_files = params.identity_file.unwrap_or_default();
    let jumps = params
        .proxy_jump
        .unwrap_or_default()
        .iter()
        .filter(|jump| *jump != "none")
        .map(|jump| jump_endpoint(jump))
        .collect();
    (hop, jumps)
}

/// `[user@]host[:port]`, as ProxyJump has it; without a user, an empty one.
fn jump_endpoint(text: &str) -> Hop {
    let text = text.strip_prefix("ssh://").unwrap_or(text);
    let (user, place) = text.rsplit_once('@').unwrap_or(("", text));
    let (address, port) = match place.rsplit_once(':') {
        Some((address, port)) if !address.contains(':') || address.ends_with(']') => {
            (address, port.parse().unwrap_or(DEFAULT_PORT))
        }
        _ => (place, DEFAULT_PORT),
    };
    bastion_endpoint(&Bastion {
        address: address.trim_matches(['[', ']']).to_owned(),
        port,
        user: user.to_owned(),
        host_key: None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn shown(target: &Target, config: &str) -> Vec<String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(config.as_bytes()).unwrap();
        let credentials = Credentials {
            ssh_config_file: Some(file.path().to_owned()),
            ..Credentials::default()
        };
        route(target, &credentials)
            .unwrap()
            .iter()
            .map(|hop| format!("{}@{}:{}", hop.user, hop.address, hop.port))
            .collect()
    }

    const CONFIG: &str = "\
Host vps
  HostName 203.0.113.1
  Port 2222
  User admin
  IdentityFile /keys/vps
  ProxyJump gate
Host gate
  HostName 198.51.100.1
  User jump
Host chained
  ProxyJump one@first:1,two@second:2
Host plain
  User deploy
  ProxyJump [2001:db8::9]:2200
";

    #[test]
    fn an_alias_is_resolved_with_its_bastion() {
        assert_eq!(
            shown(&Target::new("vps"), CONFIG),
            ["jump@198.51.100.1:22", "admin@203.0.113.1:2222"]
        );
        assert_eq!(
            shown(&Target::new("chained"), CONFIG),
            ["one@first:1", "two@second:2", "root@chained:22"]
        );
        assert_eq!(
            shown(&Target::new("plain"), CONFIG),
            ["deploy@2001:db8::9:2200", "deploy@plain:22"]
        );
        assert_eq!(shown(&Target::new("other"), CONFIG), ["root@other:22"]);
    }

    #[test]
    fn what_terraform_says_goes_before_the_file() {
        let mut target = Target::new("vps");
        (target.port, target.user) = (2200, "deploy".to_owned());
        target.bastion = Some(Bastion {
            address: "2001:db8::9".to_owned(),
            port: 22,
            user: "b".to_owned(),
            host_key: None,
        });
        assert_eq!(
            shown(&target, CONFIG),
            ["b@2001:db8::9:22", "deploy@203.0.113.1:2200"]
        );
    }

    #[test]
    fn a_circle_of_bastions_ends() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"Host *\n ProxyJump round\n").unwrap();
        let credentials = Credentials {
            ssh_config_file: Some(file.path().to_owned()),
            ..Credentials::default()
        };
        let error = route(&Target::new("vps"), &credentials).unwrap_err();
        assert_eq!(error.kind, ConnectionErrorKind::Credentials);
    }

    #[test]
    fn a_missing_file_says_so() {
        let credentials = Credentials {
            ssh_config_file: Some("/nonexistent/config".into()),
            ..Credentials::default()
        };
        let error = route(&Target::new("vps"), &credentials).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/config"), "{error}");
    }
}
