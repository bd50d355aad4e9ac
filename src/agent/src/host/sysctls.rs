//! The sysctls that the host needs, and the values they had before.

mod asked;
mod former;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use ipnet::IpNet;
use protocol::Failure;

pub use self::former::{note, restore, set, superfluous, unnoted};
use crate::{
    store::Store,
    system::{files::HEADER, netlink::Network, sysctl},
};

/// The file that brings them back at boot, before the agent runs.
pub const FILE: &str = "/etc/sysctl.d/90-nspawn-agent.conf";

/// What a sysctl should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// This very value.
    Exactly(u64),
    /// This value or more; a higher one of the host stays.
    AtLeast(u64),
}

impl Wanted {
    /// Whether a value will do.
    pub fn holds(self, value: &str) -> bool {
        match (self, value.parse::<u64>()) {
            (Self::Exactly(wanted), Ok(value)) => value == wanted,
            (Self::AtLeast(wanted), Ok(value)) => value >= wanted,
            (_, Err(_)) => false,
        }
    }

    /// The value to set.
    pub fn value(self) -> u64 {
        match self {
            Self::Exactly(value) | Self::AtLeast(value) => value,
        }
    }
}

/// Sysctls by key, in the order in which they are set.
pub type Wishes = Vec<(String, Wanted)>;

/// What decides which sysctls a host needs.
#[derive(Debug)]
pub struct Needs<'a> {
    /// The bridge.
    pub bridge: &'a str,
    /// The uplink of the host.
    pub uplink: &'a str,
    /// Uplinks that single addresses name.
    pub other_uplinks: BTreeSet<&'a str>,
    /// Whether guests run Kubernetes.
    pub nesting: bool,
    /// The interfaces that the kernel itself configures by router advertisement.
    pub advertised: BTreeSet<String>,
}

/// Everything that this host needs.
pub fn wishes(needs: &Needs<'_>) -> Wishes {
    let mut wishes = Vec::new();
    // Before forwarding is on: the kernel drops the default route it learned when it isn't. ip-sysctl.rst, accept_ra
    for name in &needs.advertised {
        wishes.push((accept_ra(name), Wanted::Exactly(2)));
    }
    wishes.push(exactly("net/ipv4/ip_forward", 1));
    wishes.push(exactly("net/ipv6/conf/all/forwarding", 1));
    // Without it a router's unicast probe for a proxied address is forwarded to the guest, whose
    // answer is void: a hole every 15 to 20 seconds. ip6_forward() of the kernel, lxd#6668
    wishes.push(exactly("net/ipv6/conf/all/proxy_ndp", 1));
    wishes.extend(of_uplink(needs.uplink));
    for name in needs
        .other_uplinks
        .iter()
        .filter(|name| **name != needs.uplink)
    {
        wishes.extend(of_uplink(name));
        // Its answers leave over the default route's interface. ip-sysctl.rst, rp_filter
        wishes.push((
            format!("net/ipv4/conf/{name}/rp_filter"),
            Wanted::Exactly(2),
        ));
    }
    for conf in ["net/ipv4/conf", "net/ipv6/conf"] {
        wishes.push((
            format!("{conf}/{}/forwarding", needs.bridge),
            Wanted::Exactly(1),
        ));
    }
    // Off where the host has IPv6 turned off for its interfaces: the bridge's own address is refused then.
    wishes.push(exactly(
        &format!("net/ipv6/conf/{}/disable_ipv6", needs.bridge),
        0,
    ));
    // Without isolation the host would tell guests to talk to each other directly, which they would go on trying for
    // five minutes after it is turned on. Each interface has its own switch beside `all`. ip-sysctl.rst, send_redirects
    for name in ["all", needs.bridge] {
        wishes.push(exactly(&format!("net/ipv4/conf/{name}/send_redirects"), 0));
    }
    wishes.extend(density());
    if needs.nesting {
        wishes.extend(nesting());
    }
    wishes
}

fn exactly(key: &str, value: u64) -> (String, Wanted) {
    (key.to_owned(), Wanted::Exactly(value))
}

fn at_least(key: &str, value: u64) -> (String, Wanted) {
    (key.to_owned(), Wanted::AtLeast(value))
}

fn of_uplink(name: &str) -> Wishes {
    vec![
        (
            format!("net/ipv4/conf/{name}/forwarding"),
            Wanted::Exactly(1),
        ),
        (
            format!("net/ipv6/conf/{name}/forwarding"),
            Wanted::Exactly(1),
        ),
        (
            format!("net/ipv6/conf/{name}/proxy_ndp"),
            Wanted::Exactly(1),
        ),
        // The default adds up to 0.8 s to each resolution.
        (
            format!("net/ipv4/neigh/{name}/proxy_delay"),
            Wanted::Exactly(0),
        ),
        (
            format!("net/ipv6/neigh/{name}/proxy_delay"),
            Wanted::Exactly(0),
        ),
    ]
}

/// Past about 100 guests the defaults run out: systemd#17992, nixpkgs#36214, lxd#2252.
fn density() -> Wishes {
    vec![
        at_least("fs/inotify/max_user_instances", 8192),
        at_least("fs/inotify/max_user_watches", 524_288),
        at_least("kernel/keys/maxkeys", 20_000),
        at_least("kernel/keys/maxbytes", 2_000_000),
        at_least("net/ipv4/neigh/default/gc_thresh3", 16_384),
        at_least("net/ipv4/neigh/default/gc_thresh2", 8192),
        at_least("net/ipv4/neigh/default/gc_thresh1", 2048),
        at_least("net/ipv6/neigh/default/gc_thresh3", 16_384),
        at_least("net/ipv6/neigh/default/gc_thresh2", 8192),
        at_least("net/ipv6/neigh/default/gc_thresh1", 2048),
    ]
}

/// What kubelet checks for and can't set from a guest.
fn nesting() -> Wishes {
    vec![
        exactly("vm/overcommit_memory", 1),
        exactly("vm/panic_on_oom", 0),
        exactly("kernel/panic", 10),
        exactly("kernel/panic_on_oops", 1),
        at_least("kernel/keys/root_maxkeys", 1_000_000),
        at_least("kernel/keys/root_maxbytes", 25_000_000),
    ]
}

fn accept_ra(name: &str) -> String {
    format!("net/ipv6/conf/{name}/accept_ra")
}

/// The interfaces that the kernel itself configures by router advertisement: with forwarding on, it would listen no
/// more. Once the agent has seen to one, this stays so while what was learned is away.
pub fn advertised(
    store: &Store,
    network: &Network,
    uplink: &str,
) -> Result<BTreeSet<String>, Failure> {
    let mut names: BTreeSet<String> = former::keys(store)?
        .iter()
        .filter_map(|key| {
            key.strip_prefix("net/ipv6/conf/")?
                .strip_suffix("/accept_ra")
                .map(str::to_owned)
        })
        .collect();
    for name in learned(network, uplink) {
        // 0: a network manager listens to advertisements itself, and the kernel must not.
        if sysctl::read(&accept_ra(name))?.is_some_and(|value| value != "0") {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

/// Interfaces with routes or addresses that were learned; but for the uplink, which may be of any kind, none where a
/// guest, ours or somebody else's, could be the teacher.
fn learned<'a>(network: &'a Network, uplink: &str) -> BTreeSet<&'a str> {
    const OF_GUESTS: [&str; 3] = ["bridge", "tun", "veth"];
    const RTPROT_RA: u8 = 9;
    let routes = network.routes.iter();
    let routes = routes.filter(|route| route.protocol == RTPROT_RA);
    let addresses = network
        .addresses
        .iter()
        .filter(|address| address.expires && address.global && matches!(address.net, IpNet::V6(_)));
    let learned: BTreeSet<u32> = routes
        .map(|route| route.index)
        .chain(addresses.map(|address| address.index))
        .collect();
    network
        .links
        .iter()
        .filter(|link| learned.contains(&link.index))
        .filter(|link| {
            let kind = link.kind.as_deref();
            link.name == uplink || kind.is_none_or(|kind| !OF_GUESTS.contains(&kind))
        })
        .map(|link| link.name.as_str())
        .collect()
}

/// On in each network namespace as soon as br_netfilter is there: what passes any bridge of the host goes through its
/// rules for forwarding from then on. Guests have their own, which Kubernetes needs on.
const BRIDGE_FILTER: [&str; 3] = [
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-arptables",
];

/// Whether br_netfilter is there and filters.
pub fn is_bridge_filter_on() -> Result<bool, Failure> {
    Ok(sysctl::read(BRIDGE_FILTER[0])?.is_some_and(|value| value != "0"))
}

/// Has br_netfilter filter no bridge of the host, until somebody wants it to.
pub fn leave_bridges_alone() -> Result<(), Failure> {
    for key in BRIDGE_FILTER {
        if sysctl::read(key)?.is_some() {
            sysctl::write(key, "0")?;
        }
    }
    Ok(())
}

/// The file for sysctl.d(5).
pub fn file(wishes: &Wishes, leaves_bridges_alone: bool) -> String {
    let mut text = HEADER.to_owned();
    for (key, wanted) in wishes {
        // A host's own higher limit must not be lowered at boot; the agent sees to these itself.
        if let Wanted::Exactly(value) = wanted {
            // "-": an interface may be missing that early.
            let _ = writeln!(text, "-{key} = {value}");
        }
    }
    // Not mended: an administrator may want it otherwise by now.
    if leaves_bridges_alone {
        for key in BRIDGE_FILTER {
            let _ = writeln!(text, "-{key} = 0");
        }
    }
    text
}

/// What is there: the value of each wish, where the kernel has the setting.
pub fn read(wishes: &Wishes) -> Result<BTreeMap<String, String>, Failure> {
    let mut values = BTreeMap::new();
    for (key, _) in wishes {
        if let Some(value) = sysctl::read(key)? {
            values.insert(key.clone(), value);
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs() -> Needs<'static> {
        Needs {
            bridge: "br0",
            uplink: "eth0",
            other_uplinks: BTreeSet::new(),
            nesting: false,
            advertised: BTreeSet::new(),
        }
    }

    #[test]
    fn limits_of_the_host_that_are_higher_stay() {
        for (wanted, value, holds) in [
            (Wanted::AtLeast(10), "9", false),
            (Wanted::AtLeast(10), "11", true),
            (Wanted::Exactly(1), "2", false),
            (Wanted::Exactly(0), "0", true),
            (Wanted::Exactly(0), "", false),
        ] {
            assert_eq!(wanted.holds(value), holds, "{wanted:?} {value}");
        }
    }

    #[test]
    fn the_neighbour_tables_have_room_for_hundreds_of_guests() {
        let wishes = wishes(&needs());
        for family in ["ipv4", "ipv6"] {
            for (number, least) in [(1, 2048), (2, 8192), (3, 16_384)] {
                let wish = at_least(
                    &format!("net/{family}/neigh/default/gc_thresh{number}"),
                    least,
                );
                assert!(wishes.contains(&wish), "{wish:?}");
            }
        }
    }

    #[test]
    fn the_bridge_has_ipv6_where_it_is_off_for_new_interfaces() {
        crate::testing::on_small_disk(|folder| {
            let store = Store::new(folder);
            let host = crate::testing::inventory(&[], &[]).host.unwrap();
            store.put(&host).unwrap();
            let ip = |arguments: &[&str]| {
                let done = std::process::Command::new("ip").args(arguments).status();
                done.unwrap().success()
            };
            sysctl::write("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            assert!(ip(&["link", "add", "br0", "type", "bridge"]));
            for (key, wanted) in wishes(&needs()) {
                if key.contains("/br0/") {
                    set(&store, &key, wanted.value()).unwrap();
                }
            }
            let address = crate::host::BRIDGE_ADDRESS;
            assert!(ip(&["-6", "address", "add", address, "dev", "br0"]));
        });
    }

    #[test]
    fn who_learns_by_advertisement_is_told_by_routes_and_addresses() {
        let mut network = crate::testing::network();
        let link = |index, name: &str, kind: Option<&str>| crate::system::netlink::Link {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            ..crate::system::netlink::Link::default()
        };
        network.links[1].kind = Some("bridge".to_owned());
        network.links.push(link(4, "eth1", None));
        network.links.push(link(5, "ve-guest", Some("veth")));
        assert!(learned(&network, "eth0").is_empty());
        for index in [3, 5] {
            network.addresses.push(crate::system::netlink::Address {
                index,
                net: "2001:db8:9::5/64".parse().unwrap(),
                global: true,
                expires: true,
            });
        }
        assert!(
            learned(&network, "eth0").is_empty(),
            "a guest may tell them"
        );
        network.addresses[1].expires = true;
        network.routes.push(crate::system::netlink::Route {
            destination: "2001:db8:7::/48".parse().unwrap(),
            index: 4,
            gateway: "fe80::9".parse().ok(),
            protocol: 9,
            metric: 1024,
        });
        assert_eq!(learned(&network, "eth0"), ["eth0", "eth1"].into());
        let in_a_container = learned(&network, "ve-guest");
        assert!(in_a_container.contains("ve-guest"), "{in_a_container:?}");
    }

    #[test]
    fn the_file_carries_the_header_and_no_limits() {
        let wishes = vec![
            exactly("net/ipv4/ip_forward", 1),
            at_least("kernel/keys/maxkeys", 5),
        ];
        let text = file(&wishes, false);
        assert_eq!(text, format!("{HEADER}-net/ipv4/ip_forward = 1\n"));
        assert!(!text.contains("bridge-nf"));
        assert!(file(&wishes, true).contains("-net/bridge/bridge-nf-call-iptables = 0\n"));
    }
}
