//! Releases: which one this is, and how it stands to the one that a host has.

use std::cmp::Ordering;

use semver::Version;

/// The release of this provider and of the agent that it brings.
pub const RELEASE: &str = if cfg!(feature = "later-release") {
    concat!(
        env!("CARGO_PKG_VERSION_MAJOR"),
        ".",
        env!("CARGO_PKG_VERSION_MINOR"),
        ".999"
    )
} else {
    env!("CARGO_PKG_VERSION")
};

/// How another release stands to [`RELEASE`], in the order of semver.org. One that can't be read was
/// written by a release that is yet to come.
pub fn compared(other: &str) -> Ordering {
    order(other, RELEASE)
}

fn order(other: &str, ours: &str) -> Ordering {
    match (Version::parse(other), Version::parse(ours)) {
        (Ok(other), Ok(ours)) => other.cmp_precedence(&ours),
        _ if other == ours => Ordering::Equal,
        _ => Ordering::Greater,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn releases_have_the_order_of_semver() {
        use Ordering::{Equal, Greater, Less};
        for (other, ours, expected) in [
            ("0.1.0", "0.1.0", Equal),
            ("0.9.0", "0.10.0", Less),
            ("0.10.0", "0.9.9", Greater),
            ("1.0.0", "0.99.99", Greater),
            ("1.0.0-rc.1", "1.0.0", Less),
            ("1.0.0-rc.10", "1.0.0-rc.9", Greater),
            ("1.0.0+build.7", "1.0.0", Equal),
            ("2", "1.0.0", Greater),
            ("", "1.0.0", Greater),
        ] {
            assert_eq!(order(other, ours), expected, "{other} {ours}");
        }
        assert_eq!(compared(RELEASE), Equal);
    }

    proptest! {
        #[test]
        fn any_text_has_a_place(text in ".{0,40}") {
            let _ = compared(&text);
        }
    }
}
