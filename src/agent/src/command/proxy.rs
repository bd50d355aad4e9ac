//! The proxies that the administrator has set for programs of the host, such as in /etc/environment.

use std::{borrow::Cow, env, ffi::OsString};

/// Programs differ in which they read.
const NAMES: [&str; 8] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// Those that are set.
pub fn variables() -> impl Iterator<Item = (&'static str, OsString)> {
    NAMES
        .into_iter()
        .filter_map(|name| Some((name, env::var_os(name)?)))
}

/// A text without the users and passwords of the proxies.
pub fn without_passwords(text: &str) -> Cow<'_, str> {
    let values = variables().filter_map(|(_, value)| value.into_string().ok());
    values.fold(text.into(), |text, value| match user_of(&value) {
        Some(user) if text.contains(user) => text.replace(user, "…").into(),
        _ => text,
    })
}

fn user_of(proxy: &str) -> Option<&str> {
    let rest = proxy.split_once("://").map_or(proxy, |(_, rest)| rest);
    let (user, _) = rest.rsplit_once('@')?;
    (!user.is_empty()).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_user_is_found() {
        for (proxy, user) in [
            ("http://user:p@ss@proxy:3128/", Some("user:p@ss")),
            ("user:pass@proxy:3128", Some("user:pass")),
            ("http://proxy:3128", None),
            ("http://@proxy", None),
            ("localhost,10.0.0.0/8", None),
        ] {
            assert_eq!(user_of(proxy), user);
        }
    }
}
