//! One request a change. Each is well when things are so already.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags},
    link::{BridgeStpState, LinkAttribute},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteVia},
};
use protocol::Failure;
use rtnetlink::{
    AddressMessageBuilder, Error, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec,
    NeighbourAddRequest, RouteMessageBuilder,
};

use super::{Netlink, model::PROTOCOL};
use crate::failure::Context as _;

/// A bridge to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBridge {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub alias: String,
    /// Its address, which stays whatever ports come and go.
    pub mac: [u8; 6],
    /// The uplink's.
    pub mtu: u32,
}

/// What a bridge does beside passing frames on; ours does none of it. ip-link(8), bridge
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwitchFlags {
    /// Looks for loops, and keeps a new port shut meanwhile.
    pub spanning_tree: bool,
    /// Passes frames for groups on to members alone.
    pub snooping: bool,
}

/// How a port of a bridge behaves. ip-link(8), bridge_slave
#[allow(clippy::struct_excessive_bools, reason = "the kernel's own flags")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortFlags {
    /// Sends nothing to other isolated ports.
    pub isolated: bool,
    /// Learns who is behind it from what it sends.
    pub learning: bool,
    /// Gets frames for stations nobody knows.
    pub unicast_flood: bool,
    /// Gets frames for groups.
    pub multicast_flood: bool,
    /// Gets frames for all.
    pub broadcast_flood: bool,
    /// The bridge answers for stations behind it.
    pub neighbour_suppress: bool,
}

impl PortFlags {
    /// A guest that is kept apart: the host reaches it, other guests don't.
    pub const APART: Self = Self {
        isolated: true,
        learning: false,
        unicast_flood: false,
        multicast_flood: true,
        broadcast_flood: true,
        neighbour_suppress: false,
    };
    /// The kernel's own defaults.
    pub const TOGETHER: Self = Self {
        isolated: false,
        learning: true,
        unicast_flood: true,
        multicast_flood: true,
        broadcast_flood: true,
        neighbour_suppress: false,
    };
}

/// Takes an answer for well that only says that things are so already.
pub(super) fn unless(result: Result<(), Error>, well: &[i32]) -> Result<(), Error> {
    match result {
        Err(Error::NetlinkError(ref message))
            if well.contains(&message.raw_code().wrapping_neg()) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn is_busy(result: &Result<(), Error>) -> bool {
    matches!(result, Err(Error::NetlinkError(message)) if message.raw_code() == -libc::EBUSY)
}

pub(super) const GONE: &[i32] = &[libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL];
pub(super) const THERE: &[i32] = &[libc::EEXIST];

impl Netlink {
    /// Makes a bridge, set up.
    pub async fn add_bridge(&self, bridge: &NewBridge) -> Result<(), Failure> {
        let message = plain(&bridge.name, bridge.mac)
            .mtu(bridge.mtu)
            .forward_delay(0)
            .up()
            .build();
        let made = self.handle.link().add(message).execute().await;
        made.doing(|| format!("make the bridge {}", bridge.name))?;
        // The kernel takes an alias only for a link that is there: until then its MAC address tells whose it is.
        self.name_link(&bridge.name, &bridge.alias).await
    }

    /// Makes a bridge again what it was made as.
    pub async fn mend_bridge(&self, name: &str, mac: [u8; 6]) -> Result<(), Failure> {
        let message = plain(name, mac).build();
        // RTM_SETLINK takes no settings of a kind of interface.
        let set = self.handle.link().change(message).execute().await;
        set.doing(|| format!("set the MAC address and the settings of the bridge {name}"))
    }

    /// Says whose a bridge is.
    pub async fn name_link(&self, name: &str, alias: &str) -> Result<(), Failure> {
        let message = LinkUnspec::new_with_name(name)
            .append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned()))
            .build();
        let set = self.handle.link().set(message).execute().await;
        set.doing(|| format!("name the bridge {name} ours"))
    }

    /// Gives an interface another name. Before Linux 6.2 one that is up keeps its own; planning sets it up again.
    pub async fn rename_link(&self, index: u32, name: &str) -> Result<(), Failure> {
        let rename = || LinkUnspec::new_with_index(index).name(name);
        let mut result = self.handle.link().set(rename().build()).execute().await;
        if is_busy(&result) {
            result = self
                .handle
                .link()
                .set(rename().down().build())
                .execute()
                .await;
        }
        result.doing(|| format!("give the interface number {index} the name {name}"))
    }

    /// Removes an interface.
    pub async fn delete_link(&self, index: u32) -> Result<(), Failure> {
        let result = self.handle.link().del(index).execute().await;
        unless(result, GONE).doing(|| format!("remove the interface number {index}"))
    }

    /// Sets an interface up, with this MTU.
    pub async fn set_link(&self, index: u32, mtu: Option<u32>) -> Result<(), Failure> {
        let mut message = LinkUnspec::new_with_index(index).up();
        if let Some(mtu) = mtu {
            message = message.mtu(mtu);
        }
        let result = self.handle.link().set(message.build()).execute().await;
        result.doing(|| format!("set the interface number {index} up"))
    }

    /// Makes an interface a port of a bridge.
    pub async fn join_bridge(&self, index: u32, bridge: u32) -> Result<(), Failure> {
        let message = LinkUnspec::new_with_index(index).controller(bridge).build();
        let result = self.handle.link().set(message).execute().await;
        result.doing(|| format!("make the interface number {index} a port of the bridge"))
    }

    /// Sets a port's flags.
    pub async fn set_port(&self, index: u32, flags: PortFlags) -> Result<(), Failure> {
        let message = LinkBridgePort::new(index)
            .isolated(flags.isolated)
            .learning(flags.learning)
            .flood(flags.unicast_flood)
            .mcast_flood(flags.multicast_flood)
            .bcast_flood(flags.broadcast_flood)
            .neigh_suppress(flags.neighbour_suppress)
            .build();
        let result = self.handle.link().set_port(message).execute().await;
        result.doing(|| format!("set the flags of the port number {index}"))
    }

    /// Says for good behind which port a station is.
    pub async fn add_forwarding(&self, port: u32, mac: &[u8]) -> Result<(), Failure> {
        let result = self
            .handle
            .neighbours()
            .add_bridge(port, mac)
            // NUD_PERMANENT would be the bridge's own station. bridge(8), "static"
            .state(NeighbourState::Noarp)
            // Sticky: else the entry goes with the first frame from another port that still learns,
            // as one does that has just come. br_fdb_update() of the kernel
            .flags(NeighbourFlags::Controller | NeighbourFlags::Sticky)
            .replace()
            .execute()
            .await;
        result.doing(|| format!("add a forwarding entry to the port number {port}"))
    }

    /// Lets the bridge learn by itself behind which port a station is.
    pub async fn delete_forwarding(&self, port: u32, mac: &[u8]) -> Result<(), Failure> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = port;
        message.header.flags = NeighbourFlags::Controller;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let result = self.handle.neighbours().del(message).execute().await;
        unless(result, GONE)
            .doing(|| format!("remove a forwarding entry from the port number {port}"))
    }

    /// Adds an address that is used at once, without asking around for duplicates.
    pub async fn add_address(&self, index: u32, net: IpNet) -> Result<(), Failure> {
        let mut request = self
            .handle
            .address()
            .add(index, net.addr(), net.prefix_len())
            .replace();
        if matches!(net, IpNet::V6(_)) {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        unless(request.execute().await, THERE).doing(|| format!("add the address {net}"))
    }

    /// Removes an address.
    pub async fn delete_address(&self, index: u32, net: IpNet) -> Result<(), Failure> {
        let message = match net {
            IpNet::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new()
                .index(index)
                .address(net.addr(), net.prefix_len())
                .build(),
            IpNet::V6(net) => AddressMessageBuilder::<Ipv6Addr>::new()
                .index(index)
                .address(net.addr(), net.prefix_len())
                .build(),
        };
        let result = self.handle.address().del(message).execute().await;
        unless(result, GONE).doing(|| format!("remove the address {net}"))
    }

    /// Adds a route of ours to an interface, where everything is on the link, or to a router there.
    pub async fn add_route(
        &self,
        destination: IpNet,
        index: u32,
        gateway: Option<Ipv6Addr>,
    ) -> Result<(), Failure> {
        let mut message = link_route(destination, index, RouteScope::Link);
        if let Some(gateway) = gateway {
            // An IPv4 route over an IPv6 router. RTA_VIA, rtnetlink(7)
            message.attributes.push(match destination {
                IpNet::V4(_) => RouteAttribute::Via(RouteVia::Inet6(gateway)),
                IpNet::V6(_) => RouteAttribute::Gateway(RouteAddress::Inet6(gateway)),
            });
        }
        let result = self.handle.route().add(message).replace().execute().await;
        result.doing(|| format!("add the route to {destination}"))
    }

    /// Removes a route of ours.
    pub async fn delete_route(&self, destination: IpNet, index: u32) -> Result<(), Failure> {
        let message = link_route(destination, index, RouteScope::NoWhere);
        let result = self.handle.route().del(message).execute().await;
        unless(result, GONE).doing(|| format!("remove the route to {destination}"))
    }

    /// Sets the default route over a router on the link, whether or not its address is in a prefix of ours.
    pub async fn set_default_route(&self, index: u32, gateway: IpAddr) -> Result<(), Failure> {
        let message = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(gateway)
                .output_interface(index)
                .onlink()
                .protocol(RouteProtocol::Static)
                .build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
                .gateway(gateway)
                .output_interface(index)
                .onlink()
                .protocol(RouteProtocol::Static)
                .build(),
        };
        let result = self.handle.route().add(message).replace().execute().await;
        result.doing(|| format!("set the default route over {gateway}"))
    }

    /// Lets the host answer for an address on an interface.
    pub async fn add_proxy(&self, index: u32, address: IpAddr) -> Result<(), Failure> {
        let request = self.handle.neighbours().add(index, address);
        let result = put_own(request.flags(NeighbourFlags::Proxy)).await;
        result.doing(|| format!("add the neighbour proxy for {address}"))
    }

    /// Ends that.
    pub async fn delete_proxy(&self, index: u32, address: IpAddr) -> Result<(), Failure> {
        let message = neighbour(index, address, NeighbourFlags::Proxy);
        let result = self.handle.neighbours().del(message).execute().await;
        unless(result, GONE).doing(|| format!("remove the neighbour proxy for {address}"))
    }

    /// Says for good where a neighbour is: it is never asked for, and what it says changes nothing.
    pub async fn fix_neighbour(
        &self,
        index: u32,
        address: IpAddr,
        mac: &[u8],
    ) -> Result<(), Failure> {
        let request = self.handle.neighbours().add(index, address);
        let request = request
            .state(NeighbourState::Permanent)
            .link_layer_address(mac);
        let result = put_own(request).await;
        result.doing(|| format!("fix the neighbour entry of {address}"))
    }

    /// Forgets where a neighbour is.
    pub async fn delete_neighbour(&self, index: u32, address: IpAddr) -> Result<(), Failure> {
        let message = neighbour(index, address, NeighbourFlags::empty());
        let result = self.handle.neighbours().del(message).execute().await;
        unless(result, GONE).doing(|| format!("flush the neighbour entry of {address}"))
    }
}

/// A bridge that does nothing but pass frames on.
fn plain(name: &str, mac: [u8; 6]) -> LinkMessageBuilder<LinkBridge> {
    LinkBridge::new(name)
        .address(mac.to_vec())
        .stp_state(BridgeStpState::Disabled)
        // Without a querier, snooping loses the groups that neighbour discovery needs.
        .mcast_snooping(false)
}

fn link_route(destination: IpNet, index: u32, v4_scope: RouteScope) -> RouteMessage {
    match destination {
        IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .output_interface(index)
            .protocol(RouteProtocol::Other(PROTOCOL))
            .scope(v4_scope)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .output_interface(index)
            .protocol(RouteProtocol::Other(PROTOCOL))
            .build(),
    }
}

/// Puts an entry in the place of any other, marked as ours.
async fn put_own(request: NeighbourAddRequest) -> Result<(), Error> {
    let mut request = request.replace();
    request
        .message_mut()
        .attributes
        .push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    request.execute().await
}

fn neighbour(index: u32, address: IpAddr, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.flags = flags;
    let (family, destination) = match address {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    message.header.family = family;
    message
        .attributes
        .push(NeighbourAttribute::Destination(destination));
    message
}
