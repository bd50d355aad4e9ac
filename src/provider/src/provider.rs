//! The provider block: with what hosts are reached. Everything in it comes from the environment too.

use std::{env, fmt::Display, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use protocol::{secret, text::TimeSpan};
use tfplugin::{
    Attr, Context, Diagnostic, Diagnostics, Parsed, Path, Provider, Secret, Server,
    schema::{NOT_SHOWN, tells_a_key},
};

use crate::{
    connection::{Credentials, HostKeyChecking, KNOWN_HOSTS_FILE, Pool},
    hosts::Hosts,
    random::{self, RandomError},
    resources::{
        container::ContainerResource, host::HostResource, image::ImageResource,
        public_address::PublicAddressResource,
    },
};

/// Where Terraform finds this provider.
pub const ADDRESS: &str = "registry.terraform.io/nspawn/nspawn";

tfplugin::model! {
    /// Runs containers of systemd-nspawn on Debian servers that you reach over SSH: many on one host,
    /// kept apart from each other, each with public IPv4 and IPv6 addresses of its own, without NAT.
    ///
    /// The provider brings a small agent with it, which it puts onto a host over the same SSH connection;
    /// there is nothing to install by hand. How a host is reached is said by each resource; the block
    /// says with what. None of it enters the state. An upgrade of the provider shows the new agent in the
    /// plan of each `nspawn_host` and disturbs no container; a provider older than a host's agent is
    /// refused, and says so.
    pub struct Config {
        /// Text of the SSH private key. Also from the environment: `NSPAWN_SSH_PRIVATE_KEY`.
        private_key: Attr<Secret> => optional().sensitive(),
        /// File with the SSH private key; `~` is your home folder. Without any key, the usual ones in `~/.ssh` are tried. Also from the environment: `NSPAWN_SSH_PRIVATE_KEY_FILE`.
        private_key_file: Attr<String> => optional(),
        /// Passphrase of the private key. Also from the environment: `NSPAWN_SSH_PASSPHRASE`.
        passphrase: Attr<Secret> => optional().sensitive(),
        /// File with an OpenSSH certificate for the private key. Also from the environment: `NSPAWN_SSH_CERTIFICATE_FILE`.
        certificate_file: Attr<String> => optional(),
        /// Whether keys of the SSH agent are tried. By default, if `SSH_AUTH_SOCK` is set. Also from the environment: `NSPAWN_SSH_AGENT` (`true` or `false`).
        agent: Attr<bool> => optional(),
        /// File with the hosts' known keys. By default, `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`. Also from the environment: `NSPAWN_SSH_KNOWN_HOSTS_FILE`.
        known_hosts_file: Attr<String> => optional(),
        /// OpenSSH configuration to read HostName, Port, User, IdentityFile and ProxyJump from. By default, none is read. Also from the environment: `NSPAWN_SSH_CONFIG_FILE`.
        ssh_config_file: Attr<String> => optional(),
        /// What becomes of unknown host keys: `strict` (the default) refuses them, `accept-new` takes them down in the known_hosts file. A changed key is always refused. Also from the environment: `NSPAWN_SSH_HOST_KEY_CHECKING`.
        host_key_checking: Attr<Parsed<HostKeyChecking>> => optional(),
        /// How long connecting may take, at each step until the session is up. A host that falls silent for three times as long (45 seconds at most) is given up. By default `10s`. Also from the environment: `NSPAWN_SSH_CONNECT_TIMEOUT`.
        connect_timeout: Attr<Parsed<TimeSpan>> => optional(),
    }
}

/// The provider as Terraform speaks to it.
#[derive(Debug)]
pub struct Nspawn {
    hosts: Arc<Hosts>,
}

/// The provider with all its resources.
pub fn server() -> Result<Server, RandomError> {
    let hosts = Arc::new(Hosts::new(random::session_id()?));
    Ok(Server::new(
        ADDRESS,
        protocol::RELEASE,
        Nspawn {
            hosts: Arc::clone(&hosts),
        },
    )
    .observe(fault::operation)
    .resource(HostResource {
        hosts: Arc::clone(&hosts),
    })
    .resource(ImageResource {
        hosts: Arc::clone(&hosts),
    })
    .resource(ContainerResource {
        hosts: Arc::clone(&hosts),
    })
    .resource(PublicAddressResource { hosts }))
}

impl Provider for Nspawn {
    type Config = Config;

    async fn configure(&self, config: Config, context: &Context) -> Result<(), Diagnostics> {
        let credentials = credentials(&config, |name| env::var(name).ok())?;
        let pool = Pool::new(credentials, self.hosts.session().clone(), holder());
        self.hosts.connect_with(pool, context);
        Ok(())
    }

    async fn shutdown(&self) {
        self.hosts.shut_down().await;
    }
}

/// The block's values, where it is silent the environment's. What isn't known yet at plan time is left out, and named
/// by the errors that this may lead to.
fn credentials(
    config: &Config,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Credentials, Diagnostics> {
    let mut given = Given {
        environment,
        problems: Diagnostics::new(),
        unknown: Vec::new(),
    };
    let key = exposed(&config.private_key);
    let passphrase = exposed(&config.passphrase);
    let checking = config.host_key_checking.clone().map(Parsed::into_value);
    let timeout = config.connect_timeout.clone().map(Parsed::into_value);
    let defaults = Credentials::default();
    let connect_timeout = given
        .get(timeout, "connect_timeout", "NSPAWN_SSH_CONNECT_TIMEOUT")
        .map_or(defaults.connect_timeout, |span: TimeSpan| span.duration());
    let credentials = Credentials {
        private_key: given
            .get(key, "private_key", "NSPAWN_SSH_PRIVATE_KEY")
            .map(hidden),
        private_key_file: given.file(
            &config.private_key_file,
            "private_key_file",
            "NSPAWN_SSH_PRIVATE_KEY_FILE",
        ),
        passphrase: given
            .get(passphrase, "passphrase", "NSPAWN_SSH_PASSPHRASE")
            .map(hidden),
        certificate_file: given.file(
            &config.certificate_file,
            "certificate_file",
            "NSPAWN_SSH_CERTIFICATE_FILE",
        ),
        agent: given
            .get(config.agent.clone(), "agent", "NSPAWN_SSH_AGENT")
            .unwrap_or(defaults.agent),
        known_hosts_file: given.file(
            &config.known_hosts_file,
            KNOWN_HOSTS_FILE,
            "NSPAWN_SSH_KNOWN_HOSTS_FILE",
        ),
        ssh_config_file: given.file(
            &config.ssh_config_file,
            "ssh_config_file",
            "NSPAWN_SSH_CONFIG_FILE",
        ),
        host_key_checking: given
            .get(
                checking,
                "host_key_checking",
                "NSPAWN_SSH_HOST_KEY_CHECKING",
            )
            .unwrap_or(defaults.host_key_checking),
        connect_timeout,
        keepalive_interval: connect_timeout
            .clamp(Duration::from_secs(1), defaults.keepalive_interval),
        ..defaults
    };
    given.problems.into_result()?;
    Ok(Credentials {
        unknown: given.unknown,
        ..credentials
    })
}

/// Where settings come from, and what was wrong with them.
struct Given<E> {
    environment: E,
    problems: Diagnostics,
    unknown: Vec<&'static str>,
}

impl<E: Fn(&str) -> Option<String>> Given<E> {
    /// The value of the block, or of the environment's variable.
    fn get<T: FromStr<Err: Display>>(
        &mut self,
        value: Attr<T>,
        attribute: &'static str,
        variable: &str,
    ) -> Option<T> {
        if value.is_unknown() {
            self.unknown.push(attribute);
        }
        if !value.is_null() {
            return value.into_known();
        }
        let text = (self.environment)(variable).filter(|text| !text.is_empty())?;
        let parsed = text.parse().map_err(|error: T::Err| error.to_string());
        parsed
            .map_err(|reason| {
                let is_told = tells_a_key(&reason, &text);
                let reason = if is_told { NOT_SHOWN } else { &reason };
                self.refuse(attribute, variable, reason);
            })
            .ok()
    }

    fn file(
        &mut self,
        value: &Attr<String>,
        attribute: &'static str,
        variable: &str,
    ) -> Option<PathBuf> {
        let path = self.get(value.clone(), attribute, variable)?;
        // What reads the file tells its path.
        if !path.contains(['\n', '\r']) && !path.contains("-----BEGIN") {
            return Some(PathBuf::from(path));
        }
        let place = if value.is_null() { variable } else { attribute };
        let text = place.trim_end_matches("_file").trim_end_matches("_FILE");
        let instead = if attribute == "private_key_file" {
            format!("; the text of a key belongs into {text}")
        } else {
            String::new()
        };
        let reason = format!(
            "{place} is the path of a file, which has no line end, and not its text{instead}"
        );
        if value.is_null() {
            self.refuse(attribute, variable, &reason);
        } else {
            let path = Path::root().then(attribute);
            let summary = "Text in place of a path";
            self.problems
                .push(Diagnostic::error_at(path, summary, reason + "."));
        }
        None
    }

    /// Not at the attribute: there is no line of the configuration to show.
    fn refuse(&mut self, attribute: &str, variable: &str, reason: &str) {
        let detail = format!(
            "The environment variable {variable}, which stands in for {attribute}: {reason}."
        );
        let summary = format!("Invalid value in {variable}");
        self.problems.push(Diagnostic::error(summary, detail));
    }
}

fn exposed(value: &Attr<Secret>) -> Attr<String> {
    value.clone().map(|secret| secret.expose().to_owned())
}

fn hidden(text: String) -> secret::Secret {
    secret::Secret::new(text)
}

/// Who this is, for whoever waits for the host's lock: "alice@laptop".
fn holder() -> String {
    let user = env::var("USER").or_else(|_| env::var("LOGNAME"));
    let user = user.unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    // The agent takes one line of 255 bytes.
    let plain = |text: String| {
        text.chars()
            .filter(|character| matches!(character, ' '..='~'))
            .take(120)
            .collect::<String>()
    };
    format!("{}@{}", plain(user), plain(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declarations_have_no_mistakes() {
        assert_eq!(server().unwrap().mistakes(), Vec::<String>::new());
    }

    #[test]
    fn the_block_wins_over_the_environment() {
        let environment = |name: &str| {
            let value = match name {
                "NSPAWN_SSH_PRIVATE_KEY_FILE" => "~/.ssh/environment",
                "NSPAWN_SSH_PRIVATE_KEY" => "key",
                "NSPAWN_SSH_PASSPHRASE" => "passphrase",
                "NSPAWN_SSH_AGENT" => "false",
                "NSPAWN_SSH_HOST_KEY_CHECKING" => "accept-new",
                "NSPAWN_SSH_CONNECT_TIMEOUT" => "3s",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let config = Config {
            private_key_file: "block".into(),
            passphrase: Attr::Unknown,
            ..Config::default()
        };
        let credentials = credentials(&config, environment).unwrap();
        assert_eq!(credentials.private_key_file, Some("block".into()));
        assert_eq!(credentials.private_key.unwrap().expose(), "key");
        assert_eq!(
            credentials.passphrase, None,
            "not known yet is not the environment's"
        );
        assert_eq!(credentials.unknown, ["passphrase"]);
        assert_eq!(credentials.connect_timeout, Duration::from_secs(3));
        assert_eq!(credentials.keepalive_interval, Duration::from_secs(3));
        assert_eq!(credentials.host_key_checking, HostKeyChecking::AcceptNew);
        assert!(!credentials.agent);
    }

    #[test]
    fn a_private_key_in_place_of_a_path_is_not_told() {
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n";
        let of = |config: &Config, variable: &'static str| {
            let environment = |name: &str| (name == variable).then(|| key.to_owned());
            let error = credentials(config, environment).unwrap_err().to_string();
            assert!(!error.contains("b3BlbnNzaC1"), "{error}");
            error
        };
        let config = Config {
            private_key_file: key.into(),
            known_hosts_file: key.into(),
            ..Config::default()
        };
        let error = of(&config, "");
        assert!(
            error.contains("the text of a key belongs into private_key."),
            "{error}"
        );
        assert!(
            error.contains("known_hosts_file is the path of a file"),
            "{error}"
        );
        let error = of(&Config::default(), "NSPAWN_SSH_PRIVATE_KEY_FILE");
        assert!(
            error.contains("belongs into NSPAWN_SSH_PRIVATE_KEY."),
            "{error}"
        );
        of(&Config::default(), "NSPAWN_SSH_HOST_KEY_CHECKING");
        of(&Config::default(), "NSPAWN_SSH_CONNECT_TIMEOUT");
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let environment = |name: &str| (name == "NSPAWN_SSH_AGENT").then(|| "perhaps".to_owned());
        let error = credentials(&Config::default(), environment)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("NSPAWN_SSH_AGENT") && error.contains("agent"),
            "{error}"
        );
    }
}
