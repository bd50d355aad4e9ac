//! os-release, as a hostile image's maker may have written it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use texts::{os_release, printable};

fuzz_target!(|bytes: &[u8]| {
    // As the agent reads it.
    let text = String::from_utf8_lossy(bytes);
    for key in ["PRETTY_NAME", "ID"] {
        let Some(value) = os_release::value(&text, key) else {
            continue;
        };
        assert!(text.contains(key));
        // 200 characters, each written out in 10 at most.
        assert!(value.chars().count() <= 200 * 10, "{}", value.len());
        assert!(!value.contains(char::is_control), "{value:?}");
        assert_eq!(printable(&value), value);
        // What comes out goes in again.
        let kept: String = value.chars().take(200).collect();
        let plain = kept.trim_matches(['"', '\'']);
        let again = os_release::value(&format!("{key}=\"{plain}\"\n"), key);
        assert_eq!(again.as_deref(), Some(plain));
    }
});
