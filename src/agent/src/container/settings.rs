//! The container's systemd.nspawn(5) file.

use std::{collections::BTreeMap, fmt::Write as _};

use protocol::{
    Failure, FailureKind,
    desired::Container,
    name::{InterfaceName, MachineName},
};

use super::{Assigned, user_ids::COUNT};
use crate::system::files::HEADER;

/// Keys that the agent writes itself, and what to use in their place.
const OWNED: &[(&str, &str, &str)] = &[
    ("Exec", "Boot", "containers always boot"),
    ("Exec", "ProcessTwo", "containers always boot"),
    ("Exec", "Ephemeral", "use the attribute ephemeral"),
    ("Exec", "Hostname", "use the attribute hostname"),
    ("Exec", "NotifyReady", "use wait_for.boot"),
    ("Exec", "PrivateUsers", "use the attribute private_users"),
    (
        "Files",
        "PrivateUsersOwnership",
        "use the attribute private_users",
    ),
    (
        "Network",
        "Private",
        "guests stand on the host's bridge; use nspawn_public_address",
    ),
    (
        "Network",
        "VirtualEthernet",
        "guests stand on the host's bridge; use nspawn_public_address",
    ),
    (
        "Network",
        "Bridge",
        "use the attribute bridge of nspawn_host",
    ),
    (
        "Network",
        "Zone",
        "guests stand on the host's bridge; use nspawn_public_address",
    ),
    (
        "Network",
        "Port",
        "guests have addresses of their own; use nspawn_public_address",
    ),
];

type Sections = BTreeMap<&'static str, Vec<(String, String)>>;

/// Refuses raw settings that are none, or that the agent owns.
pub fn check(container: &Container) -> Result<(), Failure> {
    for (section, keys) in container.nspawn_config.iter().flatten() {
        let refuse =
            |text: String| Err(Failure::new(FailureKind::Invalid, text).at("nspawn_config"));
        if section_name(section).is_none() {
            return refuse(format!(
                "nspawn_config has a section {section:?}; systemd.nspawn(5) has Exec, Files and Network"
            ));
        }
        for (key, values) in keys {
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return refuse(format!(
                    "nspawn_config has a key {key:?} in {section}, which is none"
                ));
            }
            if values
                .iter()
                .any(|value| value.contains(['\n', '\r', '\0']) || value.ends_with('\\'))
            {
                return refuse(format!(
                    "the value of {section}.{key} in nspawn_config must be one line"
                ));
            }
            if let Some(instead) = instead_of(container, section, key) {
                return refuse(format!(
                    "{section}.{key} in nspawn_config is written by the provider itself: {instead}"
                ));
            }
        }
    }
    Ok(())
}

fn instead_of(container: &Container, section: &str, key: &str) -> Option<&'static str> {
    if (section, key) == ("Exec", "ResolvConf") && container.dns_servers.is_some() {
        return Some("it is off because dns_servers is set");
    }
    let owned = OWNED
        .iter()
        .find(|owned| (owned.0, owned.1) == (section, key));
    owned.map(|owned| owned.2)
}

fn section_name(section: &str) -> Option<&'static str> {
    ["Exec", "Files", "Network"]
        .into_iter()
        .find(|known| *known == section)
}

/// The whole file.
pub fn render(container: &Container, assigned: &Assigned, bridge: &InterfaceName) -> String {
    let mut sections = Sections::new();
    let mut add = |section, key: &str, value: String| {
        sections
            .entry(section)
            .or_default()
            .push((key.to_owned(), value));
    };
    let users = match assigned.uid_base {
        0 => "no".to_owned(),
        base => format!("{base}:{COUNT}"),
    };
    add("Exec", "PrivateUsers", users);
    add("Exec", "Hostname", container.hostname.to_string());
    add("Exec", "NotifyReady", yes_or_no(container.wait_for.boot));
    if container.dns_servers.is_some() {
        add("Exec", "ResolvConf", "off".to_owned());
    }
    // Its link in the host's /var/log/journal would outlive the container.
    if !has(container, "Exec", "LinkJournal") {
        add("Exec", "LinkJournal", "no".to_owned());
    }
    add("Files", "PrivateUsersOwnership", "off".to_owned());
    // systemd-nspawn 252 would make the folders above the next mount the host's root's, where the
    // guest may write nothing: its PID 1 then fails. A file system of the guest's own has no such parents.
    add(
        "Files",
        "TemporaryFileSystem",
        "/run/systemd:mode=0755,size=64M,nr_inodes=64k".to_owned(),
    );
    add("Files", "BindReadOnly", network_files(&container.name));
    add("Network", "Bridge", bridge.to_string());
    for (section, keys) in container.nspawn_config.iter().flatten() {
        let Some(section) = section_name(section) else {
            continue;
        };
        for (key, values) in keys {
            for value in values {
                add(section, key, value.clone());
            }
        }
    }
    text(&sections)
}

fn text(sections: &Sections) -> String {
    let mut text = HEADER.to_owned();
    for (section, lines) in sections {
        let _ = writeln!(text, "\n[{section}]");
        for (key, value) in lines {
            let _ = writeln!(text, "{key}={value}");
        }
    }
    text
}

fn has(container: &Container, section: &str, key: &str) -> bool {
    let keys = container
        .nspawn_config
        .as_ref()
        .and_then(|config| config.get(section));
    keys.is_some_and(|keys| keys.contains_key(key))
}

/// The guest's network files, shown live; systemd-networkd reads them before /etc.
fn network_files(name: &MachineName) -> String {
    format!("/run/nspawn-agent/network/{name}:/run/systemd/network")
}

fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::container;

    fn config(section: &str, key: &str, values: &[&str]) -> Container {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let keys = BTreeMap::from([(key.to_owned(), values)]);
        Container {
            nspawn_config: Some(BTreeMap::from([(section.to_owned(), keys)])),
            ..container("web")
        }
    }

    fn rendered(container: &Container, uid_base: u32) -> String {
        let assigned = Assigned {
            uid_base,
            image_digest: String::new(),
        };
        render(container, &assigned, &"br0".parse().unwrap())
    }

    #[test]
    fn the_whole_file() {
        let mut desired = config("Exec", "Environment", &["A=1", "B=2"]);
        desired.dns_servers = Some(Vec::new());
        let text = rendered(&desired, 524_288);
        let expected = "
[Exec]
PrivateUsers=524288:65536
Hostname=web
NotifyReady=yes
ResolvConf=off
LinkJournal=no
Environment=A=1
Environment=B=2

[Files]
PrivateUsersOwnership=off
TemporaryFileSystem=/run/systemd:mode=0755,size=64M,nr_inodes=64k
BindReadOnly=/run/nspawn-agent/network/web:/run/systemd/network

[Network]
Bridge=br0
";
        assert_eq!(text, format!("{HEADER}{expected}"));
    }

    #[test]
    fn what_differs() {
        let mut desired = config("Exec", "LinkJournal", &["try-guest"]);
        desired.wait_for.boot = false;
        let text = rendered(&desired, 0);
        for line in [
            "PrivateUsers=no\n",
            "NotifyReady=no\n",
            "LinkJournal=try-guest\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("LinkJournal=no"), "{text}");
        assert!(!text.contains("ResolvConf"), "{text}");
    }

    #[test]
    fn what_is_refused_names_the_key() {
        check(&config("Files", "Bind", &["/srv:/srv", "/data"])).unwrap();
        for (section, key, value, part) in [
            ("Exec", "PrivateUsers", "no", "Exec.PrivateUsers"),
            ("Network", "Bridge", "br1", "Network.Bridge"),
            ("Unit", "Wants", "x", "\"Unit\""),
            ("Exec", "A=b", "x", "\"A=b\""),
            ("Exec", "Environment", "A=1\nBoot=no", "Exec.Environment"),
            ("Exec", "Environment", "A=1\\", "Exec.Environment"),
        ] {
            let failure = check(&config(section, key, &[value])).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Invalid);
            assert!(failure.message.contains(part), "{failure}");
        }
    }
}
