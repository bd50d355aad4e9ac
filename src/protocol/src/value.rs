//! Rules for texts, lists and numbers that are no types of their own. The provider applies them in
//! the plan, where an attribute can be named; the agent while it decodes, whoever has sent it.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{address::PublicAddress, text::LONGEST_SPAN};

/// What a rule says of a value.
pub type Checked = Result<(), String>;

/// No list is longer.
const MOST_ELEMENTS: usize = 4096;

/// No line, url or path is longer. Bytes.
const LONGEST_LINE: usize = 16 * 1024;

/// No list has more in all: what a resource has has to fit into one request. Bytes.
const LONGEST_LIST: usize = 512 * 1024;

/// What one argument of a program may be on Linux. execve(2), MAX_ARG_STRLEN. Bytes.
const LONGEST_COMMAND: usize = 128 * 1024 - 1;

/// A plain word, such as a package or a component of an archive.
pub fn word(text: &str) -> Checked {
    let plain = |character: char| {
        character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.' | '+' | ':' | '/')
    };
    let first = text.starts_with(|first: char| first.is_ascii_alphanumeric());
    if first && text.len() <= 200 && text.chars().all(plain) {
        Ok(())
    } else {
        Err(format!(
            "{text:?} is not a plain word of letters, digits, '-', '_', '.', '+', ':' and '/'"
        ))
    }
}

/// A word that names one of debootstrap's own scripts, which run as root: no path to another.
pub fn script(text: &str) -> Checked {
    word(text)?;
    if text.contains('/') {
        return Err(format!("{text:?} has a '/', which no suite or variant has"));
    }
    Ok(())
}

/// Plain words.
pub fn words(texts: &[String]) -> Checked {
    each(texts, word)
}

/// A url that the host can fetch from.
pub fn url(text: &str) -> Checked {
    let known = ["http://", "https://", "file:///"]
        .iter()
        .any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
    let hostile = |character: char| character.is_whitespace() || character.is_control();
    let server = text
        .split("://")
        .nth(1)
        .and_then(|rest| rest.split(['/', '?', '#']).next());
    if server.is_some_and(|server| server.contains('@')) {
        Err(
            "this URL has a user name or a password, which would stand in the state, and the host's users would see it among its processes: \
             let the host reach the file without one, or give tarball.path"
                .to_owned(),
        )
    } else if known && text.len() <= LONGEST_LINE && !text.contains(hostile) {
        Ok(())
    } else {
        Err(format!(
            "{:?} is not a URL: write one that begins with http://, https:// or file:///",
            without_secrets(text)
        ))
    }
}

/// A url, or what was meant to be one, without what may be a password or a signature in it.
fn without_secrets(text: &str) -> &str {
    // Whatever stands before an @ may be a password, with any letter in it.
    let end: &[char] = if text.contains('@') {
        &[':']
    } else {
        &['?', '#']
    };
    text.split(end).next().unwrap_or_default()
}

/// A SHA-256 sum, which names a folder on the host.
pub fn sha256(text: &str) -> Checked {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() == 64 && text.bytes().all(digit) {
        Ok(())
    } else {
        Err(format!(
            "{text:?} is not a SHA-256: write its 64 lower-case hexadecimal digits, as sha256sum or filesha256(…) gives them"
        ))
    }
}

/// Lines of authorized_keys.
pub fn key_lines(texts: &[String]) -> Checked {
    each_numbered(texts, |index, text| {
        if text.trim().is_empty() || text.contains(['\n', '\r', '\0']) || text.len() > LONGEST_LINE
        {
            // The text is not told: it may be a private key by mistake.
            return Err(format!(
                "element {index} is not one line of authorized_keys: write one public key an element, and trimspace(…) around file(…)"
            ));
        }
        Ok(())
    })
}

/// Commands for sh(1), each an argument of it.
pub fn commands(texts: &[String]) -> Checked {
    each(texts, |text| {
        if text.contains('\0') || text.len() > LONGEST_COMMAND {
            return Err(format!(
                "a command must have no zero byte and at most {LONGEST_COMMAND} bytes"
            ));
        }
        Ok(())
    })
}

/// Name servers.
pub fn servers(servers: &[IpAddr]) -> Checked {
    if servers.len() <= MOST_ELEMENTS {
        Ok(())
    } else {
        Err(format!(
            "{} servers are more than {MOST_ELEMENTS}",
            servers.len()
        ))
    }
}

/// A user's own notes.
pub fn labels(labels: &BTreeMap<String, String>) -> Checked {
    let lengths = labels
        .iter()
        .flat_map(|(key, value)| [key.len(), value.len()]);
    short_enough(lengths.clone().sum())?;
    if labels.len() > MOST_ELEMENTS || lengths.max().unwrap_or_default() > LONGEST_LINE {
        return Err(format!(
            "at most {MOST_ELEMENTS} labels, each of at most {LONGEST_LINE} bytes"
        ));
    }
    Ok(())
}

/// Processors' worth of time.
pub fn processors(count: f64) -> Checked {
    if (0.01..=8192.0).contains(&count) {
        Ok(())
    } else {
        Err(format!(
            "{count} is not a number of processors between 0.01 and 8192"
        ))
    }
}

/// How many tasks a container may have: pid_max of a 64-bit kernel.
pub fn tasks(count: u64) -> Checked {
    if (1..=4_194_304).contains(&count) {
        Ok(())
    } else {
        Err(format!("{count} is not between 1 and 4194304"))
    }
}

/// Who somebody is, for another person's eyes.
pub fn holder(text: &str) -> Checked {
    if text.len() <= 255 && !text.contains(char::is_control) {
        Ok(())
    } else {
        Err("who is at work is told in one line of at most 255 bytes".to_owned())
    }
}

fn each(texts: &[String], check: impl Fn(&str) -> Checked) -> Checked {
    each_numbered(texts, |_, text| check(text))
}

fn each_numbered(texts: &[String], check: impl Fn(usize, &str) -> Checked) -> Checked {
    if texts.len() > MOST_ELEMENTS {
        return Err(format!(
            "{} elements are more than {MOST_ELEMENTS}",
            texts.len()
        ));
    }
    short_enough(texts.iter().map(String::len).sum())?;
    let mut numbered = texts.iter().enumerate();
    numbered.try_for_each(|(index, text)| check(index, text))
}

fn short_enough(length: usize) -> Checked {
    if length <= LONGEST_LIST {
        Ok(())
    } else {
        Err(format!(
            "{length} bytes in all are more than {LONGEST_LIST}"
        ))
    }
}

/// The form in which an address is a key.
fn canonical(text: &str) -> Checked {
    let address: PublicAddress = text.parse().map_err(|error| format!("{error}"))?;
    if address.canonical() == text {
        Ok(())
    } else {
        Err(format!("{text:?} is written {}", address.canonical()))
    }
}

fn seconds(count: u64) -> Checked {
    if count <= LONGEST_SPAN.as_secs() {
        Ok(())
    } else {
        Err(format!("{count} seconds are more than a year"))
    }
}

/// Decoders that apply the rules, for serde's `deserialize_with`.
pub(crate) mod decode {
    use super::{BTreeMap, Checked, Deserializer, IpAddr};

    macro_rules! decoders {
        ($($name:ident: $type:ty, $check:expr;)*) => {$(
            pub(crate) fn $name<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                super::checked(from, $check)
            }
        )*};
    }

    fn some<T, R: ?Sized>(check: impl Fn(&R) -> Checked) -> impl Fn(&Option<T>) -> Checked
    where
        T: std::borrow::Borrow<R>,
    {
        move |value| value.as_ref().map_or(Ok(()), |value| check(value.borrow()))
    }

    decoders! {
        script: String, |text: &String| super::script(text);
        url: String, |text: &String| super::url(text);
        maybe_url: Option<String>, some::<String, str>(super::url);
        maybe_words: Option<Vec<String>>, some::<Vec<String>, [String]>(super::words);
        sha256: String, |text: &String| super::sha256(text);
        maybe_key_lines: Option<Vec<String>>, some::<Vec<String>, [String]>(super::key_lines);
        maybe_commands: Option<Vec<String>>, some::<Vec<String>, [String]>(super::commands);
        maybe_labels: Option<BTreeMap<String, String>>, some::<_, BTreeMap<String, String>>(super::labels);
        maybe_servers: Option<Vec<IpAddr>>, some::<Vec<IpAddr>, [IpAddr]>(super::servers);
        maybe_processors: Option<f64>, |count: &Option<f64>| count.map_or(Ok(()), super::processors);
        maybe_tasks: Option<u64>, |count: &Option<u64>| count.map_or(Ok(()), super::tasks);
        holder: String, |text: &String| super::holder(text);
        canonical: String, |text: &String| super::canonical(text);
        seconds: u64, |count: &u64| super::seconds(*count);
    }
}

fn checked<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
    check: impl Fn(&T) -> Checked,
) -> Result<T, D::Error> {
    let value = T::deserialize(from)?;
    check(&value).map_err(D::Error::custom)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_urls_and_digests() {
        for (check, good, bad) in [
            (word as fn(&str) -> Checked, "trixie", "--foreign"),
            (word, "libstdc++6", "a b"),
            (word, "main/debian-installer", ""),
            (script, "trixie", "trixie/../../../../tmp/evil"),
            (url, "https://deb.debian.org/x.tar.xz", "ftp://a/b"),
            (url, "file:///srv/x.tar", "https://"),
            (url, "http://a/?b=c", "http://a/\u{1b}[2J"),
            (url, "http://a/b@c", "http://bob:secret@a/b"),
            (sha256, &"0a".repeat(32), &"0A".repeat(32)),
            (
                sha256,
                &"0a".repeat(32),
                "../../../../../../../../../../../../../../../../../../../../etc/",
            ),
            (holder, "alice@laptop", "alice\nroot"),
            (canonical, "2001:db8::1", "2001:DB8::1"),
            (canonical, "203.0.113.2", "../../etc/shadow"),
        ] {
            assert!(check(good).is_ok(), "{good}");
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_tells_no_secret() {
        for (bad, shown) in [
            ("ftp://a/b?sig=secret", "\"ftp://a/b\""),
            ("htps://a/b?X-Amz-Signature=secret", "\"htps://a/b\""),
            ("a/b#secret", "\"a/b\""),
            ("bob:p/secret@a/b", "\"bob\""),
            ("htps://bob:secret?secret@a/b", "\"htps\""),
            ("https://a/secret@b\n", "\"https\""),
        ] {
            let error = url(bad).unwrap_err();
            assert!(
                !error.contains("secret") && error.contains(shown),
                "{error}"
            );
        }
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n".to_owned();
        let error = key_lines(&["ssh-ed25519 AAAA a".to_owned(), key]).unwrap_err();
        assert!(
            !error.contains("secret") && error.contains("element 1"),
            "{error}"
        );
    }

    #[test]
    fn lists_and_numbers_have_bounds() {
        let one = |text: &str| vec![text.to_owned()];
        assert!(key_lines(&one("ssh-ed25519 AAAA a")).is_ok());
        for bad in ["a\nb", "", "a\0", &"a".repeat(20_000)] {
            assert!(key_lines(&one(bad)).is_err(), "{bad:.9}");
        }
        assert!(commands(&one("true\nfalse")).is_ok() && commands(&one("a\0")).is_err());
        assert!(words(&vec!["a".to_owned(); 5000]).is_err());
        let long = |count| vec!["a".repeat(10_000); count];
        assert!(key_lines(&long(50)).is_ok() && key_lines(&long(60)).is_err());
        let many = |count: usize| (0..count).map(|key| (key.to_string(), "b".repeat(10_000)));
        assert!(labels(&many(50).collect()).is_ok() && labels(&many(60).collect()).is_err());
        assert!(
            processors(0.5).is_ok() && processors(0.0).is_err() && processors(f64::NAN).is_err()
        );
        assert!(tasks(0).is_err() && tasks(1).is_ok() && tasks(u64::MAX).is_err());
        assert!(seconds(3600).is_ok() && seconds(u64::MAX).is_err());
        let label = |text: &str| BTreeMap::from([("a".to_owned(), text.to_owned())]);
        assert!(labels(&label("b")).is_ok() && labels(&label(&"b".repeat(20_000))).is_err());
    }
}
