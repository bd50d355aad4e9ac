//! systemd.nspawn(5): which settings a user may add to a container's, and the file's text.

use std::{collections::BTreeMap, fmt::Write as _, ops::Range};

/// The sections of a .nspawn file.
const SECTIONS: [&str; 3] = ["Exec", "Files", "Network"];

/// systemd gives a file up whose lines are longer than a megabyte; no setting comes near this. Bytes.
const LONGEST_VALUE: usize = 16 * 1024;

/// How many lines a user may add.
const MOST_VALUES: usize = 1024;

/// What they may have in all, as for any list: a container has to fit into one request. Bytes.
const LONGEST_SETTINGS: usize = 512 * 1024;

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

/// `nspawn_config`: section, key, values.
pub type Settings = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// Checks sections, keys and values that a user adds.
///
/// # Errors
/// When one is none, is the provider's own, or would be more than one line in the file; or when they are too many.
pub fn check(settings: &Settings) -> Result<(), String> {
    for (section, keys) in settings {
        if !SECTIONS.contains(&section.as_str()) {
            return Err(format!(
                "{section:?} is not a section of systemd.nspawn(5): those are {}",
                SECTIONS.join(", ")
            ));
        }
        for (key, values) in keys {
            check_key(section, key)?;
            if !values.iter().all(|value| is_one_line(value)) {
                return Err(format!(
                    "{section}.{key} has a value of more than one line: write one list element a line"
                ));
            }
        }
    }
    let keys = || settings.values().flatten();
    let count: usize = keys().map(|(_, values)| values.len()).sum();
    if count > MOST_VALUES {
        return Err(format!("{count} settings are more than {MOST_VALUES}"));
    }
    let lengths =
        keys().flat_map(|(key, values)| values.iter().map(String::len).chain([key.len()]));
    let length: usize = lengths.sum();
    if length > LONGEST_SETTINGS {
        return Err(format!(
            "{length} bytes in all are more than {LONGEST_SETTINGS}"
        ));
    }
    Ok(())
}

fn check_key(section: &str, key: &str) -> Result<(), String> {
    if let Some((.., instead)) = OWN
        .iter()
        .find(|(own, name, _)| *own == section && *name == key)
    {
        return Err(format!("{section}.{key} is the provider's own: {instead}"));
    }
    if key.is_empty() || key.len() > 64 || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(format!(
            "{key:?} in section {section} is not a key of systemd.nspawn(5)"
        ));
    }
    Ok(())
}

/// A backslash at the end would make the next line a part of this one. systemd.syntax(7)
fn is_one_line(value: &str) -> bool {
    value.len() <= LONGEST_VALUE && !value.contains(['\n', '\r', '\0']) && !value.ends_with('\\')
}

/// The sections of a file in the making.
#[derive(Debug, Clone, Default)]
pub struct File {
    sections: BTreeMap<String, Vec<(String, String)>>,
}

impl File {
    /// Adds one line.
    pub fn add(&mut self, section: &str, key: &str, value: impl Into<String>) {
        let lines = self.sections.entry(section.to_owned()).or_default();
        lines.push((key.to_owned(), value.into()));
    }

    /// Adds what a user adds, as far as [`check`] lets it pass: what lies on the disk may have been
    /// changed since.
    pub fn add_settings(&mut self, settings: &Settings) {
        for (section, keys) in settings {
            let is_section = SECTIONS.contains(&section.as_str());
            for (key, values) in keys {
                if is_section && check_key(section, key).is_ok() {
                    for value in values.iter().filter(|value| is_one_line(value)) {
                        self.add(section, key, value.as_str());
                    }
                }
            }
        }
    }

    /// The text, behind a first line of its own.
    pub fn text(&self, header: &str) -> String {
        let mut text = header.to_owned();
        for (section, lines) in &self.sections {
            // Writing into a String can't fail.
            let _ = writeln!(text, "\n[{section}]");
            for (key, value) in lines {
                let _ = writeln!(text, "{key}={value}");
            }
        }
        text
    }
}

/// The range of user ids that a file takes with PrivateUsers=, where it names one.
pub fn private_users(text: &str) -> Option<Range<u32>> {
    let value = text
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("PrivateUsers")?
                .trim_start()
                .strip_prefix('=')
        })
        .next_back()?
        .trim();
    let (start, count) = value.split_once(':').unwrap_or((value, "65536"));
    let start: u32 = start.trim().parse().ok()?;
    let count: u32 = count.trim().parse().ok()?;
    (start > 0).then(|| start..start.saturating_add(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(section: &str, key: &str, value: &str) -> Settings {
        BTreeMap::from([(
            section.into(),
            BTreeMap::from([(key.into(), vec![value.into()])]),
        )])
    }

    #[test]
    fn a_user_may_add_what_the_provider_does_not_set() {
        assert_eq!(check(&one("Exec", "Capability", "CAP_NET_ADMIN")), Ok(()));
        assert_eq!(check(&one("Files", "Bind", "/srv/data")), Ok(()));
        for (section, key, value, part) in [
            ("Service", "Restart", "always", "not a section"),
            ("Network", "Bridge", "br1", "nspawn_host"),
            ("Exec", "PrivateUsers", "no", "private_users"),
            ("Files", "PrivateUsersChown", "yes", "private_users"),
            ("Exec", "A=b\nBoot", "no", "not a key"),
            ("Exec", "Environment", "A=b\n[Network]", "one line"),
            ("Exec", "Environment", "A=b\\", "one line"),
            ("Exec", "Environment", &"a".repeat(20_000), "one line"),
        ] {
            let settings = one(section, key, value);
            let error = check(&settings).unwrap_err();
            assert!(error.contains(part), "{error}");
            let mut file = File::default();
            file.add_settings(&settings);
            assert_eq!(file.text("#\n"), "#\n", "it isn't written either");
        }
        let many = vec![String::new(); MOST_VALUES + 1];
        let many = BTreeMap::from([(
            "Exec".into(),
            BTreeMap::from([("Environment".into(), many)]),
        )]);
        assert!(check(&many).is_err());
    }

    #[test]
    fn settings_that_would_not_fit_into_one_request_are_refused() {
        let with = |keys: &[String], values: usize| {
            let values = vec!["a".repeat(LONGEST_VALUE); values];
            let keys = keys.iter().map(|key| (key.clone(), values.clone()));
            check(&BTreeMap::from([("Exec".into(), keys.collect())]))
        };
        let fitting = LONGEST_SETTINGS / LONGEST_VALUE - 1;
        assert_eq!(with(&["Environment".into()], fitting), Ok(()));
        let error = with(&["Environment".into()], fitting + 1).unwrap_err();
        assert!(error.contains("bytes in all"), "{error}");
        // A key may stand there without a value.
        let keys: Vec<_> = (0..10_000).map(|number| format!("{number:064}")).collect();
        assert!(with(&keys, 0).is_err());
    }

    #[test]
    fn the_range_of_a_file() {
        for (text, range) in [
            (
                "[Exec]\nPrivateUsers=524288:65536\n",
                Some(524_288..589_824),
            ),
            ("[Exec]\n PrivateUsers = 524288\n", Some(524_288..589_824)),
            ("[Exec]\nPrivateUsers=pick\n", None),
            ("[Exec]\nPrivateUsersOwnership=off\n", None),
            ("PrivateUsers=0:65536", None),
            ("PrivateUsers=1:2\nPrivateUsers=no", None),
        ] {
            assert_eq!(private_users(text), range, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,80}") {
            let _ = private_users(&text);
        }
    }
}
