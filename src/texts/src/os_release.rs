//! os-release(5), which an image's maker or a guest's root has written.

use crate::printable;

/// No value that is shown is longer. Characters.
const LONGEST: usize = 200;

/// One value, without its quotes and without what could move a terminal's cursor.
pub fn value(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let value = line.trim().strip_prefix(key)?.strip_prefix('=')?;
        let value: String = value
            .trim_matches(['"', '\''])
            .chars()
            .take(LONGEST)
            .collect();
        Some(printable(&value).replace(['\n', '\t'], " "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_lose_their_quotes() {
        let text = "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n";
        let name = value(text, "PRETTY_NAME");
        assert_eq!(name.as_deref(), Some("Debian GNU/Linux 13"));
        assert_eq!(value(text, "NAME"), None);
    }

    #[test]
    fn a_hostile_name_is_harmless_text() {
        let text = format!("NAME=\"\x1b]0;owned\x07\u{202e}{}\"", "x".repeat(100_000));
        let name = value(&text, "NAME").unwrap();
        assert!(!name.contains(['\x1b', '\x07', '\u{202e}']), "{name:?}");
        assert!(name.len() < 4 * LONGEST, "{}", name.len());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,60}") {
            let _ = value(&text, "A");
        }
    }
}
