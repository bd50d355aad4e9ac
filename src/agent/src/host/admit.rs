//! What stands in the way of a host, each by its name.

use std::path::Path;

use protocol::{Failure, FailureKind, desired::Host, observed::Owner};
use serde_json::Value;

use super::{Assigned, bridge, facts};
use crate::{
    context::Context,
    store::{Inventory, Stored},
    system::{
        files::{self, OwnFile},
        netlink::Network,
        nft,
    },
};

/// Debian 12 has 252; older ones lack idmapped mounts and NotifyReady= in .nspawn files.
const OLDEST_SYSTEMD: (u32, u32) = (252, 0);
/// Bridge port isolation, neighbour proxies with a protocol, concatenated intervals in nftables.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

fn unsupported(message: impl Into<String>, help: &str) -> Failure {
    Failure::new(FailureKind::Unsupported, message).help(help)
}

/// Whether this machine can be a host at all; before packages are installed.
pub async fn check_system(context: &Context) -> Result<(), Failure> {
    // sd_booted(3)
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(unsupported(
            "this machine doesn't run systemd",
            "Use a Debian 12 or 13 (or Ubuntu 24.04) whose first process is systemd.",
        ));
    }
    // As with ipv6.disable=1 on the kernel's command line; the sysctl disable_ipv6 does no harm. ipv6.rst
    if !Path::new("/proc/sys/net/ipv6").is_dir() {
        return Err(unsupported(
            "the kernel of this machine has IPv6 turned off altogether, which the bridge of its guests needs",
            "Remove ipv6.disable=1 from the kernel's command line (in Debian, GRUB_CMDLINE_LINUX of /etc/default/grub, then update-grub), and reboot.",
        ));
    }
    let network = Network::dump(&context.netlink).await?;
    let facts = facts::gather(context, &network).await?;
    if !facts::at_least(&facts.systemd_version, OLDEST_SYSTEMD) {
        return Err(unsupported(
            format!(
                "systemd {} is too old: 252 is needed",
                facts.systemd_version
            ),
            "Upgrade the host to Debian 12 or later.",
        ));
    }
    if !facts::at_least(&facts.kernel, OLDEST_KERNEL) {
        return Err(unsupported(
            format!("Linux {} is too old: 5.10 is needed", facts.kernel),
            "Upgrade the host's kernel and reboot.",
        ));
    }
    Ok(())
}

/// Whether the network lets us in; gives what the host chooses.
pub async fn admit(
    context: &Context,
    host: &Host,
    previous: Option<&Stored<Host>>,
) -> Result<Assigned, Failure> {
    let network = Network::dump(&context.netlink).await?;
    let uplink = uplink(host, previous, &network)?;
    check_bridge(host, previous, &network)?;
    check_files(host)?;
    check_forwarding(context, host).await?;
    let index = network.link(&uplink).map(|link| link.index);
    let kept = previous.filter(|previous| previous.assigned.uplink == uplink);
    Ok(Assigned {
        ipv4: index
            .and_then(|index| facts::host_address(&network, index, false))
            .or_else(|| kept?.assigned.ipv4),
        uplink,
        brought_bridge_filter: brings_bridge_filter(host, previous)?,
    })
}

/// Known with the change that turns nesting on: whoever had br_netfilter before, and on, wants its bridges filtered. That
/// of a former change is there still, and off.
fn brings_bridge_filter(host: &Host, previous: Option<&Stored<Host>>) -> Result<bool, Failure> {
    match previous.filter(|previous| previous.desired.nesting) {
        _ if !host.nesting => Ok(false),
        Some(previous) => Ok(previous.assigned.brought_bridge_filter),
        None => Ok(!super::sysctls::is_bridge_filter_on()?),
    }
}

fn uplink(
    host: &Host,
    previous: Option<&Stored<Host>>,
    network: &Network,
) -> Result<String, Failure> {
    let Some(name) = &host.uplink else {
        // Another one would move every guest's addresses there: that has to be asked for by name.
        let kept = previous
            .filter(|previous| previous.desired.uplink.is_none())
            .map(|previous| &previous.assigned.uplink)
            .filter(|name| network.link(name).is_some());
        return kept
            .cloned()
            .or_else(|| facts::uplink(network))
            .or_else(|| Some(previous?.assigned.uplink.clone()))
            .ok_or_else(|| {
                unsupported(
                    "this host has no default route, so its uplink is not known",
                    "Set uplink to the interface that leads to the internet.",
                )
                .at("uplink")
            });
    };
    let Some(link) = network.link(name.as_str()) else {
        let names: Vec<_> = network
            .links
            .iter()
            .map(|link| link.name.as_str())
            .collect();
        return Err(Failure::new(
            FailureKind::Invalid,
            format!("there is no interface {name} on this host"),
        )
        .help(format!("Its interfaces are: {}.", names.join(", ")))
        .at("uplink"));
    };
    let has_default = network
        .routes
        .iter()
        .any(|route| route.index == link.index && route.destination.prefix_len() == 0);
    if !has_default {
        return Err(unsupported(
            format!("no default route leads over {name}"),
            "Choose the interface of the default route, or leave uplink out.",
        )
        .at("uplink"));
    }
    Ok(link.name.clone())
}

fn check_bridge(
    host: &Host,
    previous: Option<&Stored<Host>>,
    network: &Network,
) -> Result<(), Failure> {
    let former = previous.map(|stored| &stored.desired.bridge);
    if let Some(former) = former.filter(|former| **former != host.bridge) {
        return Err(Failure::new(
            FailureKind::InUse,
            format!(
                "guests of this host stand on its bridge {former}, so that it can't become {}",
                host.bridge
            ),
        )
        .help(format!(
            "Set bridge = \"{former}\", or destroy the containers, addresses and images of this host first."
        ))
        .at("bridge"));
    }
    let Some(link) = network.link(host.bridge.as_str()) else {
        return Ok(());
    };
    let was_ours = former.is_some();
    if bridge::is_ours(link, &facts::machine_id()?, host)
        || was_ours && link.kind.as_deref() == Some("bridge")
    {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Conflict,
        format!(
            "an interface {} is on this host already, and nspawn-agent didn't make it",
            host.bridge
        ),
    )
    .help("Choose another name: bridge = \"br-nspawn\". The existing one is left as it is.")
    .at("bridge"))
}

fn check_files(host: &Host) -> Result<(), Failure> {
    for file in super::plan::files(host, &Assigned::default(), &Vec::new()) {
        if files::compare(Path::new(&file.path), &file.contents)? == OwnFile::Foreign {
            return Err(Failure::new(
                FailureKind::Conflict,
                format!("{} is there and was not made by nspawn-agent", file.path),
            )
            .help("Move the file away."));
        }
    }
    Ok(())
}

/// A policy of DROP in a forward chain kills every packet to a guest, whatever our own table says.
async fn check_forwarding(context: &Context, host: &Host) -> Result<(), Failure> {
    match blocked_by(&nft::list_rules(context).await?, host.bridge.as_str()) {
        None => Ok(()),
        Some(blocker) => Err(Failure::new(
            FailureKind::Unsupported,
            format!(
                "packets to and from containers would be dropped by {}",
                blocker.whose
            ),
        )
        .help(blocker.help)),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Blocker {
    whose: String,
    help: String,
}

/// Who drops forwarded packets and lets none of the bridge's pass.
fn blocked_by(ruleset: &Value, bridge: &str) -> Option<Blocker> {
    let objects: Vec<&Value> = ruleset.get("nftables")?.as_array()?.iter().collect();
    let chain_names: Vec<&str> = objects
        .iter()
        .filter_map(|object| object.get("chain")?.get("name")?.as_str())
        .collect();
    let passes = objects
        .iter()
        .filter_map(|object| object.get("rule"))
        .any(|rule| {
            let text = rule.to_string();
            text.contains(&format!("\"{bridge}\"")) && text.contains("\"accept\"")
        });
    let drops = objects
        .iter()
        .filter_map(|object| object.get("chain"))
        .find(|chain| {
            let is = |key: &str, value: &str| chain.get(key).and_then(Value::as_str) == Some(value);
            is("hook", "forward") && is("policy", "drop") && !is("family", "bridge")
        })?;
    if passes {
        return None;
    }
    let named = |key: &str| drops.get(key).and_then(Value::as_str).unwrap_or_default();
    let (family, table, chain) = (named("family"), named("table"), named("name"));
    let place = format!("the policy DROP of the chain {chain} (table {family} {table})");
    Some(if chain_names.contains(&"DOCKER-USER") {
        Blocker {
            whose: format!("Docker: {place}"),
            help: format!(
                "Let the bridge pass: iptables -I DOCKER-USER -i {bridge} -j ACCEPT; iptables -I DOCKER-USER -o {bridge} -j ACCEPT (and the same with ip6tables), and make it last; or set \"iptables\": false in Docker's daemon.json."
            ),
        }
    } else if chain_names.iter().any(|name| name.starts_with("ufw-")) {
        Blocker {
            whose: format!("ufw: {place}"),
            help: format!(
                "Let the bridge pass: ufw route allow in on {bridge}; ufw route allow out on {bridge}; or set DEFAULT_FORWARD_POLICY=\"ACCEPT\" in /etc/default/ufw."
            ),
        }
    } else {
        Blocker {
            whose: place,
            help: format!("Accept forwarding from and to {bridge} there, or change the policy."),
        }
    })
}

/// Whether nothing of ours stands on this host any more.
pub fn check_unused(inventory: &Inventory) -> Result<(), Failure> {
    let containers = inventory.containers.iter();
    let addresses = inventory.addresses.iter();
    let images = inventory.images.iter();
    let left: Vec<(String, &Owner)> = containers
        .map(|(name, stored)| (format!("the container {name}"), &stored.owner))
        .chain(addresses.map(|(name, stored)| (format!("the address {name}"), &stored.owner)))
        .chain(images.map(|(name, stored)| (format!("the image {name}"), &stored.owner)))
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let named = |(what, owner): &(String, &Owner)| match &owner.holder {
        Some(holder) if !owner.claimed => format!(
            "{what} (made by a run of {} that has not ended)",
            holder.name
        ),
        _ => what.clone(),
    };
    let all: Vec<String> = left.iter().map(named).collect();
    let failure = Failure::new(
        FailureKind::InUse,
        format!(
            "the host can't be removed while these are left on it: {}",
            all.join(", ")
        ),
    );
    Err(if left.iter().any(|(_, owner)| !owner.claimed) {
        failure.help(
            "A run that was killed leaves what it made in no state. Apply the same configuration once more, which takes it \
             up, and then destroy it; or import it.",
        )
    } else {
        failure.help("Destroy them first, or refer to the host as host = nspawn_host.example, so that Terraform keeps the order.")
    })
}

#[cfg(test)]
mod tests {
    use protocol::observed::Holder;
    use serde_json::json;

    use super::*;
    use crate::{
        system::netlink::{Link, Route},
        testing,
    };

    #[test]
    fn what_a_killed_run_has_left_is_called_that() {
        let mut inventory = testing::inventory(&["db", "web"], &[]);
        for stored in inventory.containers.values_mut() {
            stored.owner.claimed = true;
        }
        let failure = check_unused(&inventory).unwrap_err();
        assert!(
            failure
                .message
                .ends_with("the container db, the container web"),
            "{failure}"
        );
        let web = inventory.containers.values_mut().last().unwrap();
        web.owner.claimed = false;
        web.owner.holder = Some(Holder {
            name: "alice@laptop".to_owned(),
            since: 0,
        });
        let failure = check_unused(&inventory).unwrap_err();
        let ending = "the container db, the container web (made by a run of alice@laptop that has not ended)";
        assert!(failure.message.ends_with(ending), "{failure}");
        assert!(
            failure
                .help
                .unwrap()
                .contains("Apply the same configuration")
        );
    }

    #[test]
    fn the_bridge_under_guests_stays() {
        let stored = testing::inventory(&["web"], &[]).host.unwrap();
        let network = testing::network();
        let mut host = stored.desired.clone();
        check_bridge(&host, Some(&stored), &network).unwrap();
        host.bridge = "br1".parse().unwrap();
        let failure = check_bridge(&host, Some(&stored), &network).unwrap_err();
        assert_eq!(failure.kind, FailureKind::InUse);
        assert!(failure.message.contains("br0"), "{failure}");
    }

    #[test]
    fn the_uplink_stays_while_it_is_there() {
        let mut stored = testing::inventory(&[], &[]).host.unwrap();
        let mut network = testing::network();
        network.links.push(Link {
            index: 7,
            name: "vpn0".to_owned(),
            ..Link::default()
        });
        network.routes.push(Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            index: 7,
            gateway: None,
            protocol: 4,
            metric: 0,
        });
        let host = stored.desired.clone();
        let found = |previous: Option<&Stored<Host>>, network: &Network| {
            uplink(&host, previous, network).unwrap()
        };
        assert_eq!(found(None, &network), "vpn0");
        assert_eq!(found(Some(&stored), &network), "eth0");
        stored.desired.uplink = Some("eth0".parse().unwrap());
        assert_eq!(found(Some(&stored), &network), "vpn0", "it was unset");
        stored.desired.uplink = None;
        network.links.retain(|link| link.name != "eth0");
        assert_eq!(found(Some(&stored), &network), "vpn0", "it is gone");
    }

    fn ruleset(chains: &[(&str, &str)], accepted: Option<&str>) -> Value {
        let mut objects: Vec<Value> = chains
            .iter()
            .map(|(name, policy)| {
                let mut chain = json!({"family": "ip", "table": "filter", "name": name});
                if !policy.is_empty() {
                    chain["hook"] = json!("forward");
                    chain["policy"] = json!(policy);
                }
                json!({ "chain": chain })
            })
            .collect();
        if let Some(bridge) = accepted {
            objects
                .push(json!({"rule": {"expr": [{"match": {"right": bridge}}, {"accept": null}]}}));
        }
        json!({ "nftables": objects })
    }

    #[test]
    fn who_drops_what_is_forwarded_is_named() {
        let cases = [
            (vec![("FORWARD", "accept")], None, None),
            (vec![("FORWARD", "drop")], Some("br0"), None),
            (
                vec![("FORWARD", "drop")],
                Some("br1"),
                Some("the policy DROP of the chain FORWARD"),
            ),
            (
                vec![("FORWARD", "drop"), ("DOCKER-USER", "")],
                None,
                Some("Docker: "),
            ),
            (
                vec![("FORWARD", "drop"), ("ufw-user-forward", "")],
                None,
                Some("ufw: "),
            ),
        ];
        for (chains, accepted, expected) in cases {
            let found = blocked_by(&ruleset(&chains, accepted), "br0").map(|blocker| blocker.whose);
            match expected {
                None => assert_eq!(found, None, "{chains:?}"),
                Some(start) => assert!(found.unwrap().starts_with(start), "{chains:?}"),
            }
        }
    }
}
