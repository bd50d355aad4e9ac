//! .nspawn files: what a user adds can't become another setting, and what others wrote is read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use texts::nspawn::{File, Settings, check, private_users};

/// Between section, key and value in the input; no text in UTF-8 has this byte.
const SEPARATOR: u8 = 0xff;

fuzz_target!(|bytes: &[u8]| {
    if let Some(range) = private_users(&String::from_utf8_lossy(bytes)) {
        assert!(range.start > 0 && range.start <= range.end);
    }
    let settings = settings(bytes);
    let checked = check(&settings);
    let mut file = File::default();
    for (section, key, value) in OWN {
        file.add(section, key, value);
    }
    file.add_settings(&settings);
    let text = file.text("# Written by nspawn-agent\n");
    assert_eq!(private_users(&text), Some(600_000..665_536));

    let read = read_as_systemd_does(&text);
    let own = |section: &str, key: &str| OWN.iter().find(|own| (own.0, own.1) == (section, key));
    for (section, key, value) in OWN {
        let found: Vec<_> = read
            .iter()
            .filter(|line| (line.0.as_str(), line.1.as_str()) == (section, key))
            .collect();
        assert!(found.len() == 1 && found[0].2 == value, "{text}");
    }
    // Exactly what was asked for, in its section and by its key, or less where that was refused.
    let mut wanted: Vec<_> = Vec::new();
    for (section, keys) in &settings {
        for (key, values) in keys {
            for value in values {
                wanted.push((
                    section.clone(),
                    key.clone(),
                    value.trim_matches(WHITESPACE).to_owned(),
                ));
            }
        }
    }
    let mut added: Vec<_> = read
        .into_iter()
        .filter(|line| own(&line.0, &line.1).is_none())
        .collect();
    wanted.sort();
    added.sort();
    if checked.is_ok() {
        assert_eq!(added, wanted, "{text}");
    } else {
        assert!(added.iter().all(|line| wanted.contains(line)), "{text}");
    }
});

const OWN: [(&str, &str, &str); 3] = [
    ("Exec", "PrivateUsers", "600000:65536"),
    ("Files", "PrivateUsersOwnership", "off"),
    ("Network", "Bridge", "br0"),
];

fn settings(bytes: &[u8]) -> Settings {
    let mut settings = Settings::new();
    let mut words = bytes
        .split(|byte| *byte == SEPARATOR)
        .map(String::from_utf8_lossy);
    while let (Some(section), Some(key), Some(value)) = (words.next(), words.next(), words.next()) {
        let keys = settings.entry(section.into_owned()).or_default();
        keys.entry(key.into_owned())
            .or_default()
            .push(value.into_owned());
    }
    settings
}

/// WHITESPACE of systemd's src/fundamental/string-util-fundamental.h
const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// config_parse() of systemd's src/shared/conf-parser.c: its lines, continuations and comments.
fn read_as_systemd_does(text: &str) -> Vec<(String, String, String)> {
    let (mut read, mut section, mut before) = (Vec::new(), String::new(), String::new());
    for line in text.split(['\n', '\r', '\0']) {
        let line = line.trim_start_matches(WHITESPACE);
        if line.starts_with(['#', ';']) {
            continue;
        }
        let whole = before.clone() + line;
        let mut escaped = false;
        for character in whole.chars() {
            escaped = !escaped && character == '\\';
        }
        if escaped {
            before = whole[..whole.len() - 1].to_owned() + " ";
            continue;
        }
        before.clear();
        let whole = whole.trim_matches(WHITESPACE);
        if let Some(name) = whole.strip_prefix('[') {
            section = name.strip_suffix(']').expect("a section ends").to_owned();
        } else if let Some((key, value)) = whole.split_once('=') {
            let trimmed = |text: &str| text.trim_matches(WHITESPACE).to_owned();
            read.push((section.clone(), trimmed(key), trimmed(value)));
        } else {
            assert!(whole.is_empty(), "a line that is none: {whole:?}");
        }
    }
    read
}
