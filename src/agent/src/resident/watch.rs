//! What tells the resident service that something may have changed: the kernel's network and
//! nftables over netlink, the desired files over inotify.

use std::{mem::MaybeUninit, os::fd::OwnedFd, rc::Rc};

use futures_util::StreamExt as _;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use protocol::Failure;
use rtnetlink::MulticastGroup;
use rustix::fs::inotify;
use tokio::{io::unix::AsyncFd, sync::Notify, task::spawn_local};

use crate::{context::Context, failure::Context as _, system::files};

/// NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h
const NFTABLES_GROUP: u32 = 7;
/// NETLINK_NETFILTER of linux/netlink.h
const NETLINK_NETFILTER: isize = 12;

/// A flag that something may have changed.
pub struct Watch {
    changed: Rc<Notify>,
}

impl Watch {
    /// Starts to listen.
    pub fn start(context: &Context) -> Result<Self, Failure> {
        let changed = Rc::new(Notify::new());
        listen_to_network(Rc::clone(&changed))?;
        listen_to_nftables(Rc::clone(&changed))?;
        listen_to_files(context, Rc::clone(&changed))?;
        Ok(Self { changed })
    }

    /// Waits until something may have changed.
    pub async fn changed(&mut self) {
        self.changed.notified().await;
    }

    /// Forgets what has come in so far: the look that follows sees it all.
    pub fn forget(&mut self) {
        let pending = self.changed.notified();
        futures_util::FutureExt::now_or_never(pending);
    }
}

fn listen_to_network(changed: Rc<Notify>) -> Result<(), Failure> {
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
            if matters(&message.payload) {
                changed.notify_one();
            }
        }
    });
    Ok(())
}

/// Neighbours come and go all the time: only proxies and what is lost of a bridge's entries matter.
fn matters(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    use netlink_packet_route::{AddressFamily, neighbour::NeighbourFlags};
    match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
            message.header.flags.contains(NeighbourFlags::Proxy)
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
            message.header.flags.contains(NeighbourFlags::Proxy)
                || message.header.family == AddressFamily::Bridge
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

fn listen_to_files(context: &Context, changed: Rc<Notify>) -> Result<(), Failure> {
    let deed = || "watch the desired files";
    let descriptor = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .doing(deed)?;
    for kind in ["", "images", "containers", "addresses"] {
        let folder = context.store.folder().join(kind);
        files::create_folder(&folder, 0o700)?;
        inotify::add_watch(
            &descriptor,
            &folder,
            inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE,
        )
        .doing(deed)?;
    }
    let descriptor = readable(descriptor).doing(deed)?;
    spawn_local(async move {
        while let Ok(mut guard) = descriptor.readable().await {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(guard.get_inner(), &mut buffer);
            while reader.next().is_ok() {
                changed.notify_one();
            }
            guard.clear_ready();
        }
    });
    Ok(())
}

#[allow(
    unsafe_code,
    reason = "tokio has no safe way to wait for a descriptor of this kind"
)]
fn readable(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the owned descriptor is valid, and moves in, so that nobody else closes it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
