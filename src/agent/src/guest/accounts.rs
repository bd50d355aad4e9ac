//! Texts of a guest's /etc, edited without touching what isn't ours: shadow(5), hosts(5).

/// The shadow file with root's password hash set; days since 1970 is when that was.
pub fn with_root_password(shadow: &str, hash: &str, days: u64) -> String {
    let mut found = false;
    let mut lines: Vec<String> = shadow
        .lines()
        .map(|line| {
            let mut fields: Vec<&str> = line.split(':').collect();
            if fields.first() != Some(&"root") || fields.len() < 2 {
                return line.to_owned();
            }
            found = true;
            fields[1] = hash;
            let changed = days.to_string();
            if let Some(field) = fields.get_mut(2) {
                *field = &changed;
            }
            fields.join(":")
        })
        .collect();
    if !found {
        lines.insert(0, format!("root:{hash}:{days}:0:99999:7:::"));
    }
    lines.join("\n") + "\n"
}

/// Root's password hash in a shadow file.
pub fn root_password(shadow: &str) -> Option<&str> {
    shadow
        .lines()
        .find_map(|line| line.strip_prefix("root:")?.split(':').next())
}

/// The hosts file with the guest's own name in it, as Debian's installer writes it, so that
/// programs which look up their own name find it without a resolver.
pub fn with_own_name(hosts: &str, hostname: &str) -> String {
    let short = hostname.split('.').next().unwrap_or(hostname);
    let own = if short == hostname {
        format!("127.0.1.1\t{hostname}")
    } else {
        format!("127.0.1.1\t{hostname} {short}")
    };
    let mut lines: Vec<&str> = hosts
        .lines()
        .filter(|line| line.split_whitespace().next() != Some("127.0.1.1"))
        .collect();
    if lines.is_empty() {
        lines = vec![
            "127.0.0.1\tlocalhost",
            "::1\tlocalhost ip6-localhost ip6-loopback",
        ];
    }
    lines.push(&own);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn root_gets_a_password_and_nobody_else() {
        for (before, after) in [
            (
                "root:*:19000:0:99999:7:::\nbin:*:19000:0:99999:7:::\n",
                "root:$6$x:20000:0:99999:7:::\nbin:*:19000:0:99999:7:::\n",
            ),
            ("", "root:$6$x:20000:0:99999:7:::\n"),
            (
                "rooty:*:1::::::\n",
                "root:$6$x:20000:0:99999:7:::\nrooty:*:1::::::\n",
            ),
            ("a:b\nroot:!", "a:b\nroot:$6$x\n"),
            ("root", "root:$6$x:20000:0:99999:7:::\nroot\n"),
        ] {
            assert_eq!(with_root_password(before, "$6$x", 20000), after);
            assert_eq!(root_password(after), Some("$6$x"));
        }
    }

    #[test]
    fn the_own_name_stands_in_hosts_once() {
        let once = with_own_name("", "web.example.org");
        assert_eq!(
            once,
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tweb.example.org web\n"
        );
        assert_eq!(
            with_own_name("127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.1 db\n", "web"),
            "127.0.0.1 localhost\n10.0.0.1 db\n127.0.1.1\tweb\n"
        );
    }

    proptest! {
        #[test]
        fn editing_is_idempotent(text in "([a-z0-9:*.\t]{0,12}\n){0,6}") {
            let once = with_root_password(&text, "$6$h", 7);
            prop_assert_eq!(with_root_password(&once, "$6$h", 7), once.clone());
            prop_assert_eq!(root_password(&once), Some("$6$h"));
            let once = with_own_name(&text, "web");
            prop_assert_eq!(with_own_name(&once, "web"), once);
        }
    }
}
