//! One dump a table.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures_util::{Stream, TryStreamExt as _};
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{
        BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoPortData, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage, Prop,
    },
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia},
};
use protocol::{Failure, FailureKind};
use rtnetlink::RouteMessageBuilder;
use tokio::time::sleep;

use super::{
    Netlink, PortFlags, SwitchFlags,
    change::GONE,
    model::{Address, ForwardingEntry, Link, Neighbour, Network, PROTOCOL, Proxy, Route},
};
use crate::failure::Context as _;

/// A dump that the kernel had to break off is asked for again so many times.
const TRIES: usize = 5;
/// What the connection has until then, to read what is left of it.
const PAUSE: Duration = Duration::from_millis(20);

impl Network {
    /// Reads every table once.
    pub async fn dump(netlink: &Netlink) -> Result<Self, Failure> {
        repeated(netlink, || Self::dump_once(netlink)).await
    }

    /// The link of this name, and the addresses and routes, in a namespace that somebody may have filled without
    /// end: neither table may hold more than this.
    pub async fn dump_of_link(
        netlink: &Netlink,
        name: &str,
        limit: usize,
    ) -> Result<Self, Failure> {
        repeated(netlink, || Self::dump_of_link_once(netlink, name, limit)).await
    }

    /// Reads the neighbour proxies alone, once.
    pub async fn dump_proxies(netlink: &Netlink) -> Result<Vec<Proxy>, Failure> {
        repeated(netlink, || proxies(netlink)).await
    }

    async fn dump_of_link_once(
        netlink: &Netlink,
        name: &str,
        limit: usize,
    ) -> Result<Self, Failure> {
        let handle = &netlink.handle;
        let link_of_name = handle.link().get().match_name(name.to_owned());
        let links = match std::pin::pin!(link_of_name.execute()).try_next().await {
            Ok(found) => found.iter().map(link).collect(),
            // The guest may have renamed it.
            Err(rtnetlink::Error::NetlinkError(message))
                if GONE.contains(&message.raw_code().wrapping_neg()) =>
            {
                Vec::new()
            }
            Err(error) => return Err(error).doing(|| format!("look at the link {name}")),
        };
        let addresses = handle.address().get().execute();
        Ok(Self {
            links,
            addresses: all(limit, "addresses", addresses, address).await?,
            routes: routes(netlink, limit).await?,
            ..Self::default()
        })
    }

    /// Asks for each table when the one before it was read: execute() sends at once, and the kernel refuses with EBUSY what
    /// comes while it is still at the last one, as with a full table of neighbours.
    async fn dump_once(netlink: &Netlink) -> Result<Self, Failure> {
        let (handle, limit) = (&netlink.handle, usize::MAX);
        let links = handle.link().get().execute();
        let links = all(limit, "links", links, |message| Some(link(message))).await?;
        let addresses = handle.address().get().execute();
        let addresses = all(limit, "addresses", addresses, address).await?;
        let neighbours = handle.neighbours().get().execute();
        let neighbours = all(limit, "neighbours", neighbours, neighbour).await?;
        let forwarding = handle
            .neighbours()
            .get()
            .set_address_family(AddressFamily::Bridge)
            .execute();
        let forwarding = all(limit, "forwarding entries", forwarding, forwarding_entry).await?;
        Ok(Self {
            links,
            addresses,
            routes: routes(netlink, limit).await?,
            neighbours,
            proxies: proxies(netlink).await?,
            forwarding,
        })
    }
}

/// Reads tables one after the other, and anew when the kernel had to break a dump off.
pub(super) async fn repeated<T>(
    netlink: &Netlink,
    dump: impl AsyncFn() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let _one_at_a_time = netlink.dumping.lock().await;
    let mut tries = 0;
    loop {
        tries += 1;
        match dump().await {
            Err(_) if tries < TRIES => sleep(PAUSE).await,
            result => return result,
        }
    }
}

async fn proxies(netlink: &Netlink) -> Result<Vec<Proxy>, Failure> {
    let request = netlink.handle.neighbours().get().proxies();
    all(usize::MAX, "neighbour proxies", request.execute(), proxy).await
}

async fn routes(netlink: &Netlink, limit: usize) -> Result<Vec<Route>, Failure> {
    let get = |family| netlink.handle.route().get(family).execute();
    let four = get(RouteMessageBuilder::<Ipv4Addr>::new().build());
    let mut routes = all(limit, "routes", four, route).await?;
    let six = get(RouteMessageBuilder::<Ipv6Addr>::new().build());
    routes.extend(all(limit, "routes", six, route).await?);
    Ok(routes)
}

/// What matters of a table's messages. Converted one by one: a message takes ten times the memory.
async fn all<T, U>(
    limit: usize,
    what: &str,
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
    convert: impl Fn(&T) -> Option<U>,
) -> Result<Vec<U>, Failure> {
    let mut stream = std::pin::pin!(stream);
    let (mut found, mut seen) = (Vec::new(), 0);
    while let Some(item) = stream
        .try_next()
        .await
        .doing(|| format!("list the {what}"))?
    {
        if seen >= limit {
            return Err(Failure::new(
                FailureKind::System,
                format!("there are more than {limit} {what}"),
            ));
        }
        seen += 1;
        found.extend(convert(&item));
    }
    Ok(found)
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::CarrierChanges(count) => link.carrier_changes = *count,
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Controller(index) => link.bridge = Some(*index),
            LinkAttribute::PropList(properties) => {
                link.alternative_names = properties
                    .iter()
                    .filter_map(|property| match property {
                        Prop::AltIfName(name) => Some(name.clone()),
                        _ => None,
                    })
                    .collect();
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Bridge(flags)) => {
                            link.switch = switch_flags(flags);
                        }
                        LinkInfo::PortData(InfoPortData::BridgePort(flags)) => {
                            link.port = Some(port_flags(flags));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn switch_flags(infos: &[InfoBridge]) -> SwitchFlags {
    let mut flags = SwitchFlags::default();
    for info in infos {
        match info {
            InfoBridge::StpState(state) => flags.spanning_tree = *state != BridgeStpState::Disabled,
            InfoBridge::MulticastSnooping(on) => flags.snooping = *on,
            _ => {}
        }
    }
    flags
}

fn port_flags(infos: &[InfoBridgePort]) -> PortFlags {
    let mut flags = PortFlags::default();
    for info in infos {
        match info {
            InfoBridgePort::Isolated(on) => flags.isolated = *on,
            InfoBridgePort::Learning(on) => flags.learning = *on,
            InfoBridgePort::UnicastFlood(on) => flags.unicast_flood = *on,
            InfoBridgePort::MulticastFlood(on) => flags.multicast_flood = *on,
            InfoBridgePort::BroadcastFlood(on) => flags.broadcast_flood = *on,
            InfoBridgePort::NeighSupress(on) => flags.neighbour_suppress = *on,
            _ => {}
        }
    }
    flags
}

pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    // On a point-to-point link ADDRESS is the other end; LOCAL is ours.
    let find = |local: bool| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(ip) if local => Some(*ip),
                AddressAttribute::Address(ip) if !local => Some(*ip),
                _ => None,
            })
    };
    let ip = find(true).or_else(|| find(false))?;
    Some(Address {
        index: message.header.index,
        net: IpNet::new(ip, message.header.prefix_len).ok()?,
        global: message.header.scope == AddressScope::Universe,
        expires: !message.header.flags.contains(AddressHeaderFlags::Permanent),
    })
}

/// What a route's message says.
pub(super) struct RouteParts {
    pub(super) table: u32,
    pub(super) destination: IpNet,
    pub(super) index: Option<u32>,
    pub(super) gateway: Option<IpAddr>,
    pub(super) metric: u32,
}

pub(super) fn parts(message: &RouteMessage) -> Option<RouteParts> {
    let mut table = u32::from(message.header.table);
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut index, mut gateway, mut metric) = (None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet6(router)) => gateway = Some((*router).into()),
            RouteAttribute::Oif(number) => index = Some(*number),
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::MultiPath(hops) => {
                index = hops.first().map(|hop| hop.interface_index);
            }
            _ => {}
        }
    }
    Some(RouteParts {
        table,
        destination: IpNet::new(destination, message.header.destination_prefix_length).ok()?,
        index,
        gateway,
        metric,
    })
}

fn route(message: &RouteMessage) -> Option<Route> {
    let parts = parts(message)?;
    if parts.table != u32::from(RouteHeader::RT_TABLE_MAIN)
        || message.header.kind != RouteType::Unicast
    {
        return None;
    }
    Some(Route {
        destination: parts.destination,
        index: parts.index?,
        gateway: parts.gateway.or_else(|| first_router(message)),
        protocol: message.header.protocol.into(),
        metric: parts.metric,
    })
}

/// Of a route that leads over several.
fn first_router(message: &RouteMessage) -> Option<IpAddr> {
    let hops = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => hops.first(),
            _ => None,
        })?;
    hops.attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => ip(address),
            RouteAttribute::Via(RouteVia::Inet6(router)) => Some((*router).into()),
            _ => None,
        })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
            _ => None,
        })
}

fn mac(message: &NeighbourMessage) -> Option<Vec<u8>> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(mac) => Some(mac.clone()),
            _ => None,
        })
}

fn proxy(message: &NeighbourMessage) -> Option<Proxy> {
    // A kernel that doesn't filter the dump sends real neighbours along.
    if !message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    Some(Proxy {
        index: message.header.ifindex,
        address: destination(message)?,
        protocol: protocol(message),
    })
}

fn protocol(message: &NeighbourMessage) -> u8 {
    let mut attributes = message.attributes.iter();
    let protocol = attributes.find_map(|attribute| match attribute {
        NeighbourAttribute::Protocol(protocol) => Some(u8::from(*protocol)),
        _ => None,
    });
    protocol.unwrap_or(0)
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    Some(Neighbour {
        index: message.header.ifindex,
        address: destination(message)?,
        mac: mac(message)?,
        fixed: message.header.state == NeighbourState::Permanent && protocol(message) == PROTOCOL,
    })
}

fn forwarding_entry(message: &NeighbourMessage) -> Option<ForwardingEntry> {
    if message.header.family != AddressFamily::Bridge {
        return None;
    }
    Some(ForwardingEntry {
        index: message.header.ifindex,
        mac: mac(message)?,
        fixed: message.header.state == NeighbourState::Noarp
            && message.header.flags.contains(NeighbourFlags::Sticky),
    })
}
