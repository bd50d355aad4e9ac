//! known_hosts, as anybody may have written it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use texts::{
    host_key::PublicKey,
    known_hosts::{KnownHosts, written_name},
};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    // The first line is the host that is looked for.
    let (host, lines) = text.split_once('\n').unwrap_or((&text, ""));
    let port = if host.len() % 2 == 0 { 22 } else { 2222 };
    let known = KnownHosts::parse(lines);
    let found = known.lookup(host, port);
    for key in found.keys.iter().chain(&found.revoked) {
        assert!(!key.blob().is_empty());
        let shown = key.to_string();
        let (algorithm, base64) = shown.split_once(' ').expect("a type and its key");
        assert_eq!(PublicKey::parse(algorithm, base64).as_ref(), Some(key));
    }

    // One file or two: nothing that a line says depends on the lines before it.
    let middle = lines
        .match_indices('\n')
        .nth(lines.len() % 3)
        .map_or(0, |(at, _)| at + 1);
    let (first, second) = lines.split_at(middle);
    let mut both = KnownHosts::parse(first);
    both.extend(KnownHosts::parse(second));
    assert_eq!(both.lookup(host, port), found);

    // A revoked key stays revoked, whatever else stands there.
    let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
    blob.extend([7; 32]);
    let key = PublicKey::new(blob);
    let mut revoked = known.clone();
    revoked.extend(KnownHosts::parse(&format!("@revoked * {key}")));
    assert!(revoked.lookup(host, port).revoked.contains(&key));

    // What is written of a host is found again under its name.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:-".contains(&byte);
    if !host.is_empty() && host.bytes().all(plain) {
        let mut more = known;
        let name = written_name(&host.to_ascii_lowercase(), port);
        more.extend(KnownHosts::parse(&format!("{name} {key}\n")));
        assert!(more.lookup(host, port).keys.contains(&key));
    }
});
