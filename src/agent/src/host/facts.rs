//! What the machine is.

use std::{env, fs, net::IpAddr, path::Path};

use ipnet::IpNet;
use protocol::{Failure, FailureKind, desired::Host, observed::Facts};

use crate::{
    context::Context,
    failure::Context as _,
    store::Stored,
    system::{files, netlink::Network, systemd::Systemd},
};

/// Gathers what the machine is.
pub async fn gather(context: &Context, network: &Network) -> Result<Facts, Failure> {
    let names = rustix::system::uname();
    let kernel = names.release().to_string_lossy().into_owned();
    // What can't be read is told by whoever changes it.
    let stored = context.store.get::<Host>("host").unwrap_or_default();
    let uplink = uplink(network);
    let (ipv4_address, ipv6_address) = public(stored.as_ref(), network);
    // No systemd, or no bus: the facts say so with an empty version, and a change refuses.
    let systemd_version = match Systemd::of_host(context).await {
        Ok(systemd) => systemd.version().await.unwrap_or_default(),
        Err(_) => String::new(),
    };
    Ok(Facts {
        machine_id: machine_id()?,
        os: os_name(),
        architecture: names.machine().to_string_lossy().into_owned(),
        systemd_version,
        cpus: std::thread::available_parallelism()
            .ok()
            .and_then(|count| u32::try_from(count.get()).ok())
            .unwrap_or(1),
        memory_bytes: memory()?,
        ipv4_address,
        ipv6_address,
        addresses: network
            .addresses
            .iter()
            .map(|address| address.net)
            .collect(),
        gateways: [false, true]
            .into_iter()
            .filter_map(|v6| network.default_route(v6)?.gateway)
            .collect(),
        ssh_peer: ssh_peer(),
        idmapped_overlay: at_least(&kernel, (5, 19)),
        agent_version: super::in_force::release(context)?,
        kernel,
        uplink,
    })
}

/// The host's addresses on its uplink, of which guests have the first as their gateway; before it has one, on the
/// default route's interface.
fn public(stored: Option<&Stored<Host>>, network: &Network) -> (Option<IpAddr>, Option<IpAddr>) {
    let name = stored.map(|stored| super::uplink(stored).to_owned());
    let link = name.or_else(|| uplink(network));
    let link = link.and_then(|name| network.link(&name));
    let on_link = |v6| host_address(network, link?.index, v6);
    let ipv4 = match stored {
        Some(stored) => super::ipv4(stored, network),
        None => on_link(false),
    };
    (ipv4, on_link(true))
}

/// The interface of the default route.
pub fn uplink(network: &Network) -> Option<String> {
    let route = network
        .default_route(false)
        .or_else(|| network.default_route(true))?;
    network.name(route.index).map(str::to_owned)
}

/// The host's own address on an interface; of several the first, as the kernel lists them.
pub fn host_address(network: &Network, index: u32, v6: bool) -> Option<IpAddr> {
    network
        .addresses
        .iter()
        .filter(|address| address.index == index && address.global)
        .map(|address| address.net)
        .find(|net| matches!(net, IpNet::V6(_)) == v6)
        .map(|net| net.addr())
}

/// Which boot of the host this is. random(4), boot_id
pub fn boot_id() -> Result<String, Failure> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path)
        .map(|id| id.trim().to_owned())
        .doing(|| format!("read {path}"))
}

/// machine-id(5)
pub fn machine_id() -> Result<String, Failure> {
    let text = files::read(Path::new("/etc/machine-id"))?.unwrap_or_default();
    let id = String::from_utf8_lossy(&text).trim().to_owned();
    if crate::container::mac::parse_machine_id(&id).is_none() {
        return Err(Failure::new(
            FailureKind::Unsupported,
            "this host has no machine id in /etc/machine-id",
        )
        .help("Run systemd-machine-id-setup on the host."));
    }
    Ok(id)
}

fn os_name() -> String {
    let read = |path: &str| fs::read_to_string(path).ok();
    let text = read("/etc/os-release")
        .or_else(|| read("/usr/lib/os-release"))
        .unwrap_or_default();
    texts::os_release::value(&text, "PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned())
}

fn memory() -> Result<u64, Failure> {
    let text = files::read(Path::new("/proc/meminfo"))?.unwrap_or_default();
    Ok(memory_total(&String::from_utf8_lossy(&text)).unwrap_or(0))
}

fn memory_total(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Where this connection comes from. sudo drops SSH_CONNECTION, so the processes above are asked, too.
pub fn ssh_peer() -> Option<IpAddr> {
    if let Ok(connection) = env::var("SSH_CONNECTION") {
        return first_address(&connection);
    }
    let mut process = std::os::unix::process::parent_id();
    for _ in 0..8 {
        if process <= 1 {
            return None;
        }
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        let found = environment.split(|byte| *byte == 0).find_map(|variable| {
            let value = variable.strip_prefix(b"SSH_CONNECTION=")?;
            first_address(&String::from_utf8_lossy(value))
        });
        if found.is_some() {
            return found;
        }
        process = parent(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)?;
    }
    None
}

fn first_address(connection: &str) -> Option<IpAddr> {
    let text = connection.split(' ').next()?;
    // A link-local peer carries its interface: fe80::1%eth0.
    text.split('%').next()?.parse().ok()
}

/// The parent in /proc/PID/stat; the name before it may hold spaces and brackets. proc_pid_stat(5)
fn parent(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a release such as "6.12.48+deb13-amd64" or "257.8-1" is at least this one.
pub fn at_least(release: &str, (major, minor): (u32, u32)) -> bool {
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    let found: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    found >= (major, minor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hosts_addresses_are_those_of_its_uplink() {
        use crate::system::netlink::{Address, Link, Route};
        let mut network = crate::testing::network();
        network.links.push(Link {
            index: 4,
            name: "eth1".to_owned(),
            ..Link::default()
        });
        for net in ["198.51.100.7/24", "2001:db8:7::7/64"] {
            network.addresses.push(Address {
                index: 4,
                net: net.parse().unwrap(),
                global: true,
                expires: false,
            });
        }
        for destination in ["0.0.0.0/0", "::/0"] {
            network.routes.push(Route {
                destination: destination.parse().unwrap(),
                index: 2,
                gateway: None,
                protocol: libc::RTPROT_STATIC,
                metric: 0,
            });
        }
        let addresses = |v4: &str, v6: &str| (v4.parse().ok(), v6.parse().ok());
        let of_default_route = addresses("203.0.113.1", "2001:db8:1::1");
        assert_eq!(public(None, &network), of_default_route);
        let mut host = crate::testing::inventory(&[], &[]).host.unwrap();
        assert_eq!(public(Some(&host), &network), of_default_route);
        host.desired.uplink = "eth1".parse().ok();
        let of_uplink = addresses("198.51.100.7", "2001:db8:7::7");
        assert_eq!(public(Some(&host), &network), of_uplink);
    }

    #[test]
    fn texts_of_the_system() {
        assert_eq!(
            memory_total("MemFree: 1 kB\nMemTotal:   2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(parent("7 (a) b) S 42 7 7"), Some(42));
        assert_eq!(
            first_address("fe80::1%eth0 1 fe80::2%eth0 22"),
            "fe80::1".parse().ok()
        );
        for (release, least, expected) in [
            ("6.12.48+deb13-amd64", (5, 19), true),
            ("5.10.0", (5, 19), false),
            ("257.8-1~deb13u2", (252, 0), true),
            ("247", (252, 0), false),
            ("", (1, 0), false),
        ] {
            assert_eq!(at_least(release, least), expected, "{release}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,60}") {
            let _ = (parent(&text), first_address(&text), memory_total(&text));
            let _ = at_least(&text, (1, 1));
        }
    }
}
