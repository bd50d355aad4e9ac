//! What a guest, a program or a server said, for a person's terminal.

use std::fmt::Write as _;

/// The text with control characters, which could move a terminal's cursor or rename its window, and
/// those that turn the direction of writing, written out as `\u{1b}`. Line ends and tabs stay.
pub fn printable(text: &str) -> String {
    if !text.contains(is_hostile) {
        return text.to_owned();
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hostile(character) {
            // Writing into a String can't fail.
            let _ = write!(plain, "{}", character.escape_unicode());
        } else {
            plain.push(character);
        }
    }
    plain
}

/// Unicode TR 36, 2.2 and 3.1: bidirectional controls; and every control character, DEL and C1 included.
fn is_hostile(character: char) -> bool {
    character.is_control() && !matches!(character, '\n' | '\t')
        || matches!(
            character,
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_steers_a_terminal_is_written_out() {
        for (text, plain) in [
            ("two\nlines\tand ümläute", "two\nlines\tand ümläute"),
            ("\x1b[2J", "\\u{1b}[2J"),
            ("a\rb\u{9b}c\x7f", "a\\u{d}b\\u{9b}c\\u{7f}"),
            ("\u{202e}txt", "\\u{202e}txt"),
        ] {
            assert_eq!(printable(text), plain);
        }
    }

    proptest! {
        #[test]
        fn nothing_hostile_is_left(text: String) {
            let plain = printable(&text);
            prop_assert!(!plain.contains(is_hostile));
            prop_assert_eq!(printable(&plain), plain.clone());
        }
    }
}
