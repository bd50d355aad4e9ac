//! A guest's network: the .network file that it gets bound in, and its own network namespace.

use std::{collections::BTreeMap, fmt::Write as _, fs::File, net::IpAddr, path::PathBuf, thread};

use ipnet::IpNet;
use protocol::{Failure, FailureKind, address::PublicAddress, name::MachineName};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{runtime, sync::oneshot, task::LocalSet};

use crate::{
    container,
    context::Context,
    failure::Context as _,
    reconcile::Scope,
    store::Inventory,
    system::{
        files::{self, HEADER},
        netlink::{Netlink, Network},
    },
};

/// The guest's end of its link.
const LINK: &str = "host0";
/// Sorts before 80-container-host0.network of systemd.
const FILE: &str = "10-nspawn-agent.network";

/// What each of a guest's tables may hold: its root can fill them with millions of routes.
const LIMIT: usize = 10_000;

/// The networks of guests that were looked at, by container.
pub type Observed = BTreeMap<MachineName, Guest>;

/// What a guest should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its own addresses.
    pub addresses: Vec<IpNet>,
    /// Its ways out, one a family.
    pub gateways: Vec<IpAddr>,
}

/// How a guest's network is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Guest {
    /// Its init process, when it runs.
    pub leader: Option<u32>,
    /// The file that it gets.
    pub file: Option<String>,
    /// Its own namespace, when it runs.
    pub network: Option<Network>,
}

/// How to bring a guest's network to what it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The container.
    pub container: MachineName,
    /// Its init process, when it runs.
    pub leader: Option<u32>,
    /// Addresses that it had and must not have any more.
    pub remove: Vec<IpNet>,
    /// The file's new contents, when they differ.
    pub file: Option<String>,
    /// Whether its link is down.
    pub down: bool,
    /// Addresses that it lacks.
    pub add: Vec<IpNet>,
    /// Ways out that it lacks.
    pub gateways: Vec<IpAddr>,
}

/// The address that the guest itself has: of a prefix the first after the network's own.
pub fn own_address(address: &PublicAddress) -> IpNet {
    if address.is_single() {
        return address.network();
    }
    let first = match address.ip() {
        IpAddr::V4(ip) => IpAddr::V4(u32::from(ip).wrapping_add(1).into()),
        IpAddr::V6(ip) => IpAddr::V6(u128::from(ip).wrapping_add(1).into()),
    };
    IpNet::from(first)
}

impl Wanted {
    /// The file for the guest's networkd. systemd.network(5)
    pub fn render(&self) -> String {
        let mut text = format!(
            "{HEADER}[Match]\nName={LINK}\n\n[Network]\nDHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=ipv6\n"
        );
        for net in &self.addresses {
            // Nobody else can have it: the host's filter sees to that. Without the wait it works at once.
            let _ = write!(
                text,
                "\n[Address]\nAddress={net}\nDuplicateAddressDetection=none\n"
            );
        }
        for gateway in &self.gateways {
            let _ = write!(text, "\n[Route]\nGateway={gateway}\nGatewayOnLink=yes\n");
        }
        text
    }
}

/// The addresses in a file of ours.
fn addresses_in(file: &str) -> Vec<IpNet> {
    file.lines()
        .filter_map(|line| line.strip_prefix("Address=")?.parse().ok())
        .collect()
}

impl Guest {
    /// Whether the running guest has renamed or removed its link, or given it another MAC address: then nothing
    /// reaches it any more.
    pub fn has_lost_link(&self, mac: [u8; 6]) -> bool {
        let network = self.network.as_ref();
        network.is_some_and(|network| lacks_link(network, mac))
    }

    /// Whether the running guest has an address on its link.
    pub fn has_address(&self, net: IpNet) -> bool {
        self.network.as_ref().is_some_and(|network| {
            network.link(LINK).is_some_and(|link| {
                network
                    .addresses
                    .iter()
                    .any(|address| address.index == link.index && address.net.addr() == net.addr())
            })
        })
    }

    /// What has to be changed, if anything.
    pub fn change(&self, container: &MachineName, wanted: &Wanted) -> Option<Change> {
        let text = wanted.render();
        let mut change = Change {
            container: container.clone(),
            leader: self.leader,
            remove: self
                .file
                .as_deref()
                .map(addresses_in)
                .unwrap_or_default()
                .into_iter()
                .filter(|net| !wanted.addresses.contains(net))
                .collect(),
            file: (self.file.as_ref() != Some(&text)).then_some(text),
            down: false,
            add: Vec::new(),
            gateways: Vec::new(),
        };
        if let Some(network) = &self.network
            && let Some(link) = network.link(LINK)
        {
            change.down = !link.up;
            let lacks = |net: &&IpNet| !self.has_address(**net);
            change.add = wanted.addresses.iter().filter(lacks).copied().collect();
            let has_way = |gateway: IpAddr| {
                network.routes.iter().any(|route| {
                    route.destination.prefix_len() == 0 && route.gateway == Some(gateway)
                })
            };
            change.gateways = wanted
                .gateways
                .iter()
                .copied()
                .filter(|gateway| !has_way(*gateway))
                .collect();
        }
        let nothing = change.file.is_none()
            && !change.down
            && change.add.is_empty()
            && change.gateways.is_empty();
        (!nothing).then_some(change)
    }
}

impl Change {
    /// Whether the guest loses an address.
    pub fn takes_away(&self) -> bool {
        !self.remove.is_empty()
    }

    /// What of this concerns one address of a container, told to a person.
    pub fn sentence_about(&self, own: IpNet, container: &MachineName) -> Option<String> {
        let only = |nets: &[IpNet]| {
            if nets.contains(&own) {
                vec![own]
            } else {
                Vec::new()
            }
        };
        let about = Self {
            add: only(&self.add),
            remove: only(&self.remove),
            ..self.clone()
        };
        let elsewhere = self.container != *container;
        let nothing = about.add.is_empty() && about.remove.is_empty();
        let others = !(self.add.is_empty() && self.remove.is_empty());
        (!nothing || !elsewhere && !others).then(|| about.sentence())
    }

    /// What deviates, told to a person.
    pub fn sentence(&self) -> String {
        let container = &self.container;
        let list = |nets: &[IpNet]| {
            let texts: Vec<_> = nets.iter().map(|net| net.addr().to_string()).collect();
            texts.join(", ")
        };
        if !self.add.is_empty() {
            format!(
                "{} is missing inside the container {container}",
                list(&self.add)
            )
        } else if !self.remove.is_empty() {
            format!(
                "{} is still inside the container {container}",
                list(&self.remove)
            )
        } else if self.file.is_some() {
            format!("the network file of the container {container} is missing or was changed")
        } else if self.down {
            format!("{LINK} is down inside the container {container}")
        } else {
            format!("a default route is missing inside the container {container}")
        }
    }
}

/// The file that a guest gets.
pub fn file(context: &Context, name: &MachineName) -> PathBuf {
    folder(context, name).join(FILE)
}

fn folder(context: &Context, name: &MachineName) -> PathBuf {
    context.run_folder.join("network").join(name.as_str())
}

/// Looks at the guests of a scope.
pub async fn observe(
    context: &Context,
    inventory: &Inventory,
    containers: &container::Observed,
    scope: &Scope,
) -> Result<Observed, Failure> {
    let mut names: Vec<MachineName> = inventory.containers.keys().cloned().collect();
    names.extend(left_over(context, inventory)?);
    let mut observed = Observed::new();
    for name in names {
        let file = files::read(&file(context, &name))?
            .map(|text| String::from_utf8_lossy(&text).into_owned());
        if !concerns(scope, inventory, &name, file.as_deref()) {
            continue;
        }
        let leader = containers
            .leader(&name)
            .filter(|_| !is_to_stop(scope, inventory, &name));
        let network = match leader {
            // A guest that ends at this very moment has no network any more.
            Some(leader) => in_namespace(leader, look).await.ok(),
            None => None,
        };
        observed.insert(
            name,
            Guest {
                leader,
                file,
                network,
            },
        );
    }
    Ok(observed)
}

/// Whether a change stops the guest: what is inside needs no network any more, and its root may keep it from one.
fn is_to_stop(scope: &Scope, inventory: &Inventory, name: &MachineName) -> bool {
    let stored = inventory.containers.get(name);
    *scope == Scope::Container(name.clone()) && stored.is_some_and(|stored| !stored.desired.running)
}

fn concerns(scope: &Scope, inventory: &Inventory, name: &MachineName, file: Option<&str>) -> bool {
    match scope {
        Scope::All => true,
        Scope::Container(container) => container == name,
        Scope::Address(address) => {
            let now = inventory
                .addresses
                .get(address)
                .is_some_and(|stored| stored.desired.container == *name);
            let own = address
                .parse::<PublicAddress>()
                .ok()
                .map(|address| own_address(&address));
            now || file
                .is_some_and(|file| addresses_in(file).into_iter().any(|net| Some(net) == own))
        }
        Scope::Host | Scope::Image(_) => false,
    }
}

/// Folders of containers that are gone.
fn left_over(context: &Context, inventory: &Inventory) -> Result<Vec<MachineName>, Failure> {
    let names = files::names(&context.run_folder.join("network"))?;
    let containers = names.iter().filter_map(|name| name.parse().ok());
    Ok(containers
        .filter(|name| !inventory.containers.contains_key(name))
        .collect())
}

/// The same of the guest of this init process alone; one that can't be looked at has lost nothing.
pub async fn has_lost_link(leader: u32, mac: [u8; 6]) -> bool {
    let network = in_namespace(leader, look).await;
    network.is_ok_and(|network| lacks_link(&network, mac))
}

fn lacks_link(network: &Network, mac: [u8; 6]) -> bool {
    network.link(LINK).is_none_or(|link| link.mac != mac)
}

async fn look(netlink: Netlink) -> Result<Network, Failure> {
    Network::dump_of_link(&netlink, LINK, LIMIT).await
}

/// Brings a guest's network to what it should be.
pub async fn apply(context: &Context, change: &Change) -> Result<(), Failure> {
    // A guest that holds on to an address must not keep its file, which its next start goes by.
    let taken_away = match change.leader {
        Some(leader) if !change.remove.is_empty() => {
            let remove = change.remove.clone();
            let work = async move |netlink: Netlink| take_away(&netlink, &remove).await;
            in_namespace(leader, work).await
        }
        _ => Ok(()),
    };
    if let Some(text) = &change.file {
        write_file(context, &change.container, text)?;
        if let Some(leader) = change.leader {
            super::reload_network(context, leader).await?;
        }
    }
    if let Some(leader) = change.leader {
        let change = change.clone();
        in_namespace(leader, async move |netlink| add(&netlink, &change).await).await?;
    }
    taken_away
}

async fn take_away(netlink: &Netlink, nets: &[IpNet]) -> Result<(), Failure> {
    let network = Network::dump_of_link(netlink, LINK, LIMIT).await?;
    let Some(link) = network.link(LINK) else {
        return Ok(());
    };
    for address in network
        .addresses
        .iter()
        .filter(|address| address.index == link.index)
    {
        if nets.iter().any(|net| net.addr() == address.net.addr()) {
            netlink.delete_address(link.index, address.net).await?;
        }
    }
    Ok(())
}

async fn add(netlink: &Netlink, change: &Change) -> Result<(), Failure> {
    let network = Network::dump_of_link(netlink, LINK, LIMIT).await?;
    let Some(link) = network.link(LINK) else {
        return Ok(());
    };
    if !link.up {
        netlink.set_link(link.index, None).await?;
    }
    for net in &change.add {
        netlink.add_address(link.index, *net).await?;
    }
    for gateway in &change.gateways {
        netlink.set_default_route(link.index, *gateway).await?;
    }
    Ok(())
}

/// Writes the file that a guest gets.
pub fn write_file(context: &Context, name: &MachineName, text: &str) -> Result<(), Failure> {
    let folder = folder(context, name);
    files::create_folder(&folder, 0o755)?;
    let path = folder.join(FILE);
    if files::read(&path)?.as_deref() == Some(text.as_bytes()) {
        return Ok(());
    }
    files::replace(&path, text.as_bytes(), 0o644)
}

/// Removes the files of a container that is gone.
pub fn remove_files(context: &Context, name: &MachineName) -> Result<(), Failure> {
    files::remove_tree(&folder(context, name))
}

/// Does something with netlink in the network namespace of a process. In a thread of its own,
/// because a thread can't be trusted to find its way back.
async fn in_namespace<T: Send + 'static>(
    leader: u32,
    work: impl AsyncFnOnce(Netlink) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let path = format!("/proc/{leader}/ns/net");
    let namespace = File::open(&path).doing(|| format!("open {path}"))?;
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        let result = (|| {
            move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(LinkNameSpaceType::Network),
            )
            .doing(|| "enter the guest's network namespace")?;
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .doing(|| "look into the guest's network namespace")?;
            LocalSet::new().block_on(&runtime, async { work(Netlink::open()?).await })
        })();
        // Whoever waited may have been stopped.
        drop(sender.send(result));
    });
    receiver.await.unwrap_or_else(|_| {
        Err(Failure::new(
            FailureKind::System,
            "the thread in the guest's network namespace ended early",
        ))
    })
}

#[cfg(test)]
mod tests;
