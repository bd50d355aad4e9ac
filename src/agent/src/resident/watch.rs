//! What tells the resident service that something may have changed: the kernel's network and
//! nftables over netlink, files over inotify, and a glance at what neither tells.

use std::{cell::Cell, rc::Rc};

use futures_util::StreamExt as _;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use protocol::Failure;
use rtnetlink::MulticastGroup;
use tokio::{sync::Notify, task::spawn_local};

use super::{
    files::Files,
    glance::{Glance, Seen},
};
use crate::{
    container, context::Context, failure::Context as _, filter, guest, host, reconcile::Look,
};

/// NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h
const NFTABLES_GROUP: u32 = 7;
/// NETLINK_NETFILTER of linux/netlink.h
const NETLINK_NETFILTER: isize = 12;

/// A flag that something may have changed.
#[derive(Debug)]
pub struct Watch {
    changed: Rc<Notify>,
    /// The bridge's index, when it was seen last.
    bridge: Rc<Cell<Option<u32>>>,
    files: Files,
    glance: Glance,
}

impl Watch {
    /// Starts to listen.
    pub fn start() -> Result<Self, Failure> {
        let changed = Rc::new(Notify::new());
        let bridge = Rc::default();
        listen_to_network(Rc::clone(&changed), Rc::clone(&bridge))?;
        listen_to_nftables(Rc::clone(&changed))?;
        Ok(Self {
            files: Files::new(Rc::clone(&changed)),
            glance: Glance::start(Rc::clone(&changed))?,
            changed,
            bridge,
        })
    }

    /// Waits until something may have changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether a desired file was changed since this was asked last.
    pub fn desired_has_changed(&self) -> bool {
        self.files.desired_has_changed()
    }

    /// Looks out for differences from what was seen, and for all files of ours; fails where some can't be watched.
    pub fn follow(&self, context: &Context, look: &Look) -> Result<(), Failure> {
        self.glance.expect(Some(Seen::of(&look.observed)));
        let host = look.inventory().host.as_ref();
        let bridge = host.and_then(|host| look.observed.network.link(host.desired.bridge.as_str()));
        self.bridge.set(bridge.map(|link| link.index));
        let mut files = vec![filter::loaded_path(context)];
        files.extend(host::watched(&look.observed.host));
        for name in look.inventory().containers.keys() {
            files.extend(container::watched(name));
            files.push(guest::network::file(context, name));
        }
        self.files.follow(context, &files)
    }

    /// Forgets what has come in so far: the look that follows sees it all.
    pub fn forget(&self) {
        self.glance.expect(None);
        let pending = self.changed.notified();
        futures_util::FutureExt::now_or_never(pending);
    }
}

fn listen_to_network(changed: Rc<Notify>, bridge: Rc<Cell<Option<u32>>>) -> Result<(), Failure> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        // Forwarding and proxy_ndp.
        MulticastGroup::Ipv4Netconf,
        MulticastGroup::Ipv6Netconf,
    ];
    let (connection, _, mut messages) =
        rtnetlink::new_multicast_connection(&groups).doing(|| "listen to the kernel's network")?;
    spawn_local(connection);
    spawn_local(async move {
        while let Some((message, _)) = messages.next().await {
            if matters(&message.payload, bridge.get()) {
                changed.notify_one();
            }
        }
    });
    Ok(())
}

/// Neighbours come and go all the time: only proxies, a bridge's entries and what is on our bridge matter, where all
/// are fixed.
fn matters(payload: &NetlinkPayload<RouteNetlinkMessage>, bridge: Option<u32>) -> bool {
    use netlink_packet_route::{AddressFamily, neighbour::NeighbourFlags};
    match payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message),
        ) => {
            message.header.flags.contains(NeighbourFlags::Proxy)
                || message.header.family == AddressFamily::Bridge
                || Some(message.header.ifindex) == bridge
        }
        _ => true,
    }
}

fn listen_to_nftables(changed: Rc<Notify>) -> Result<(), Failure> {
    let deed = || "listen to nftables";
    let mut socket = TokioSocket::new(NETLINK_NETFILTER).doing(deed)?;
    socket
        .socket_mut()
        .bind(&SocketAddr::new(0, 0))
        .doing(deed)?;
    // A kernel without nftables has nothing to tell.
    if socket.socket_mut().add_membership(NFTABLES_GROUP).is_err() {
        return Ok(());
    }
    spawn_local(async move {
        loop {
            let mut buffer = Vec::with_capacity(64 * 1024);
            match socket.recv_from(&mut buffer).await {
                // An overrun is a change that was lost.
                Ok(_) => changed.notify_one(),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed.notify_one(),
                Err(_) => return,
            }
        }
    });
    Ok(())
}
