//! Which settings of systemd.nspawn(5) a user may add.

use std::collections::BTreeMap;

/// The sections of a .nspawn file.
const SECTIONS: [&str; 3] = ["Exec", "Files", "Network"];

/// What the agent writes itself, and which attribute or resource governs it.
const OWN: [(&str, &str, &str); 13] = [
    ("Exec", "Boot", "a container always boots"),
    ("Exec", "ProcessTwo", "a container always boots"),
    ("Exec", "Ephemeral", "use the attribute ephemeral"),
    ("Exec", "NotifyReady", "use wait_for.boot"),
    ("Exec", "Hostname", "use the attribute hostname"),
    ("Exec", "PrivateUsers", "use the attribute private_users"),
    (
        "Files",
        "PrivateUsersOwnership",
        "use the attribute private_users",
    ),
    (
        "Files",
        "PrivateUsersChown",
        "use the attribute private_users",
    ),
    (
        "Network",
        "Private",
        "every container has a network of its own",
    ),
    (
        "Network",
        "VirtualEthernet",
        "every container has one virtual link to the host's bridge",
    ),
    (
        "Network",
        "Bridge",
        "use the attribute bridge of nspawn_host",
    ),
    ("Network", "Zone", "use the attribute bridge of nspawn_host"),
    (
        "Network",
        "Port",
        "use an nspawn_public_address: there is no NAT",
    ),
];

/// `nspawn_config`
pub type Settings = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// Checks sections, keys and values.
pub fn settings(settings: &Settings) -> Result<(), String> {
    for (section, keys) in settings {
        if !SECTIONS.contains(&section.as_str()) {
            return Err(format!(
                "{section:?} is not a section of systemd.nspawn(5): those are {}",
                SECTIONS.join(", ")
            ));
        }
        for (key, values) in keys {
            if let Some((.., instead)) = OWN
                .iter()
                .find(|(own, name, _)| own == section && name == key)
            {
                return Err(format!("{section}.{key} is the provider's own: {instead}"));
            }
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(format!(
                    "{key:?} in section {section} is not a key of systemd.nspawn(5)"
                ));
            }
            if values
                .iter()
                .any(|value| value.contains(['\n', '\r', '\0']) || value.ends_with('\\'))
            {
                return Err(format!(
                    "{section}.{key} has a value of more than one line: write one list element a line"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(section: &str, key: &str, value: &str) -> Settings {
        BTreeMap::from([(
            section.into(),
            BTreeMap::from([(key.into(), vec![value.into()])]),
        )])
    }

    #[test]
    fn a_user_may_add_what_the_provider_does_not_set() {
        assert_eq!(
            settings(&one("Exec", "Capability", "CAP_NET_ADMIN")),
            Ok(())
        );
        assert_eq!(settings(&one("Files", "Bind", "/srv/data")), Ok(()));
        for (section, key, value, part) in [
            ("Service", "Restart", "always", "not a section"),
            ("Network", "Bridge", "br1", "nspawn_host"),
            ("Exec", "PrivateUsers", "no", "private_users"),
            ("Exec", "A=b\nBoot", "no", "not a key"),
            ("Exec", "Environment", "A=b\n[Network]", "one line"),
            ("Exec", "Environment", "A=b\\", "one line"),
        ] {
            let error = settings(&one(section, key, value)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
