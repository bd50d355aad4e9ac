//! What is compared after each case of the kill sweep.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::SETTLED;
use crate::{Snapshot, Vps, command::wait_until, snapshot::without_sum};

/// The agent's files. Of the trees, and of what a running guest doesn't change of a copy, the contents, owners and modes
/// in one sum each: a power cut may leave files empty. Of a tree that debootstrap makes, logs and caches hold times, and
/// /etc/shadow the day. Of a guest's own layer, what is left of files that were being written, and those that are
/// always Terraform's: the others stay as they are when they are asked for no more. A running guest's files come and go
/// meanwhile.
const OWN: &str = "
    for folder in /var/lib/nspawn-agent /run/nspawn-agent /usr/local/lib/nspawn-agent; do
        if [ -e $folder ]; then find $folder -xdev -maxdepth 3 -printf '%p %y %m %U:%G\\n'; fi
    done
    for tree in /var/lib/nspawn-agent/images/trees/* /var/lib/nspawn-agent/containers/*/root/usr; do
        if [ -e $tree ]; then
            cd $tree
            printf '%s: %s empty files, contents %s, owners %s\\n' $tree \
                $(find . -xdev -type f -empty | wc -l) \
                $({ find . -xdev -type f ! -path './var/log/*' ! -path './var/cache/*' ! -path './etc/shadow*' -exec cksum {} +
                    if [ -f etc/shadow ]; then cut -d : -f 1,2 etc/shadow; fi; } | sort | cksum | tr ' ' -) \
                $(find . -xdev -printf '%p %y %m %U:%G %l\\n' | sort | cksum | tr ' ' -)
        fi
    done
    for layer in /var/lib/nspawn-agent/containers/*/upper /var/lib/nspawn-agent/containers/*/root; do
        if [ -e $layer ]; then
            { find $layer -xdev -name '.nspawn-agent.*' -printf '%p is left\\n' || true; } 2> /dev/null
            for file in $layer/etc/hostname $layer/etc/hosts; do
                if [ -f $file ]; then cksum $file; fi
            done
        fi
    done";

/// What the sysctls were before; none is a secret.
const FORMER_SYSCTLS: &str = "
    { tr -d '\n' < /etc/nspawn-agent/former-sysctls.json && echo; } 2> /dev/null || true";

pub(super) fn settled(vps: &Vps) -> Result<Snapshot> {
    wait_until("the host's network is settled", SETTLED, || listing(vps))
}

/// How a host is, but for what differs after each apply, and what all labs on this machine share.
pub(super) fn listing(vps: &Vps) -> Result<Snapshot> {
    let listing = Snapshot::take(vps)?
        .without_shared()
        .with("files-of-the-agent", vps, OWN)?
        .with("former-sysctls", vps, FORMER_SYSCTLS)?;
    let verified = listing
        .section("addresses")
        .all(|line| !line.contains(" tentative "));
    ensure!(verified, "an address is still being verified");
    Ok(listing.map(steady))
}

/// A line without what differs after each apply.
fn steady(section: &str, line: &str) -> Option<String> {
    let without_first = || line.split_once(' ').map_or(line, |(_, rest)| rest);
    Some(match section {
        // The first boot has more to do than the others.
        "units" if line.ends_with(" loaded active exited") => return None,
        "files-etc" if line.starts_with("/etc/.updated ") => return None,
        // The contents hold tokens, sessions, salts and process ids.
        "files-etc" if line.starts_with("/etc/nspawn-agent/") => without_sum(line).to_owned(),
        "former-sysctls" => former_sysctls(line),
        "files-of-systemd" if line.starts_with("/run/systemd/machines/") => {
            without_sum(line).to_owned()
        }
        "files-of-systemd" if line.starts_with("/run/systemd/nspawn/locks/inode-") => {
            "the lock of a machine's root".to_owned()
        }
        "bridge" if line.contains(": <") => without_first().to_owned(),
        "links" => without_history(line),
        // The kernel gives the bridge one with its first guest.
        "addresses" if line.starts_with("br0 ") && line.contains(" kernel_ll ") => return None,
        "routes" if line.starts_with("local fe80::") && line.contains(" dev br0 ") => return None,
        // Whether the last guest's link was gone when the listing was made.
        "routes" => line.replace(" linkdown", ""),
        // Made with the first guest since the boot.
        "files-of-the-agent"
            if line.starts_with("/run/nspawn-agent/network d ")
                || line.starts_with("/run/nspawn-agent/started d ") =>
        {
            return None;
        }
        // The kernel lists the elements of a set in an order of its own.
        "nftables" => line
            .trim_start_matches("elements = { ")
            .trim_end_matches([',', ' ', '}'])
            .to_owned(),
        // Only the first mount of an upper layer has it. overlayfs.rst, uuid
        "mounts" => line.replace(",uuid=on", ""),
        _ => line.to_owned(),
    })
}

/// A bridge's timers run, it remembers what its ports could do, and it numbers them as they come.
fn without_history(line: &str) -> String {
    let mut words = line.split(' ');
    let mut kept = Vec::new();
    // Whether a bridge has a carrier says whether the last guest's link was gone already.
    let is_bridge = line.starts_with("br0: ");
    while let Some(word) = words.next() {
        let is_history = ["tso_max_size", "port_id", "port_no", "designated_port"].contains(&word);
        if word.ends_with("_timer") || is_history || (is_bridge && word == "state") {
            words.next();
        } else if is_bridge && word.starts_with('<') {
            kept.push("<>");
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

/// Without those that all labs on this machine share.
fn former_sysctls(text: &str) -> String {
    let Ok(former) = serde_json::from_str::<Value>(text) else {
        return format!("no JSON: {text}");
    };
    let is_own = |key: &str| key.starts_with("net/ipv4/") || key.starts_with("net/ipv6/");
    let of = |name: &str| {
        let entries = former[name].as_object().into_iter().flatten();
        entries
            .filter(|(key, _)| is_own(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<serde_json::Map<_, _>>()
    };
    let order: Vec<&str> = former["order"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|key| is_own(key))
        .collect();
    json!({ "order": order, "values": of("values"), "along": of("along") }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_sysctls_keep_their_order_and_values() {
        let text = r#"{"values":{"net/ipv4/ip_forward":"0","vm/x":"1"},"order":["vm/x","net/ipv4/ip_forward"],"along":{}}"#;
        let expected =
            r#"{"along":{},"order":["net/ipv4/ip_forward"],"values":{"net/ipv4/ip_forward":"0"}}"#;
        assert_eq!(former_sysctls(text), expected);
        assert_ne!(
            former_sysctls(&text.replace(r#":"0""#, r#":"1""#)),
            expected
        );
        assert!(former_sysctls("{").starts_with("no JSON"));
    }
}
