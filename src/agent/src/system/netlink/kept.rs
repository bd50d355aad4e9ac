//! Addresses and routes as the kernel tells them, kept to be put back exactly as they were: with
//! their scopes, flags, metrics and lifetimes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_route::{
    address::AddressMessage,
    route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType},
};
use protocol::{Failure, FailureKind};
use rtnetlink::RouteMessageBuilder;
use serde::{Deserialize, Serialize};

use super::{
    Netlink,
    change::{GONE, THERE, unless},
    dump,
    model::hexadecimal,
};
use crate::failure::Context as _;

/// A message of the kernel, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Message(String);

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAddress {
    /// The interface.
    pub index: u32,
    /// The address with its prefix.
    pub net: IpNet,
    /// All of it.
    pub message: Message,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRoute {
    /// Where to.
    pub destination: IpNet,
    /// The interface; a route into the void has none.
    pub index: Option<u32>,
    /// The next router.
    pub gateway: Option<IpAddr>,
    /// The lower, the better.
    pub metric: u32,
    /// Unicast, blackhole, … rtnetlink(7)
    pub kind: u8,
    /// Who made it.
    pub protocol: u8,
    /// All of it.
    pub message: Message,
}

impl Message {
    fn of(message: &impl Emitable) -> Self {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        Self(hexadecimal(&bytes))
    }

    fn read<T: Parseable<[u8]>>(&self) -> Result<T, Failure> {
        let digits = self.0.as_bytes().chunks(2);
        let bytes: Option<Vec<u8>> = digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        bytes
            .and_then(|bytes| T::parse(&bytes).ok())
            .ok_or_else(|| Failure::new(FailureKind::System, "a kept message is broken"))
    }
}

impl Netlink {
    /// Every address of the host.
    pub async fn kept_addresses(&self) -> Result<Vec<KeptAddress>, Failure> {
        let list = async || {
            let addresses = self.handle.address().get().execute();
            let listed: Result<Vec<AddressMessage>, _> = addresses.try_collect().await;
            listed.doing(|| "list the host's addresses")
        };
        let messages = dump::repeated(self, list).await?;
        let kept = messages.iter().filter_map(|message| {
            let address = dump::address(message)?;
            Some(KeptAddress {
                index: address.index,
                net: address.net,
                message: Message::of(message),
            })
        });
        Ok(kept.collect())
    }

    /// Every route of the main table.
    pub async fn kept_routes(&self) -> Result<Vec<KeptRoute>, Failure> {
        let mut kept = Vec::new();
        for question in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let list = async || {
                let routes = self.handle.route().get(question.clone()).execute();
                let listed: Result<Vec<RouteMessage>, _> = routes.try_collect().await;
                listed.doing(|| "list the host's routes")
            };
            let messages = dump::repeated(self, list).await?;
            kept.extend(messages.iter().filter_map(kept_route));
        }
        Ok(kept)
    }

    /// Puts an address back; fine when it is there.
    pub async fn put_address_back(&self, address: &KeptAddress) -> Result<(), Failure> {
        let (index, net) = (address.index, address.net);
        let mut request = self
            .handle
            .address()
            .add(index, net.addr(), net.prefix_len());
        *request.message_mut() = address.message.read()?;
        unless(request.execute().await, THERE).doing(|| format!("add the address {net}"))
    }

    /// Puts a route back; fine when it is there.
    pub async fn put_route_back(&self, route: &KeptRoute) -> Result<(), Failure> {
        let result = self
            .handle
            .route()
            .add(route.message.read()?)
            .execute()
            .await;
        unless(result, THERE).doing(|| format!("add the route to {}", route.destination))
    }

    /// Removes a route, whoever made it.
    pub async fn remove_route(&self, route: &KeptRoute) -> Result<(), Failure> {
        let result = self
            .handle
            .route()
            .del(route.message.read()?)
            .execute()
            .await;
        unless(result, GONE).doing(|| format!("remove the route to {}", route.destination))
    }
}

fn kept_route(message: &RouteMessage) -> Option<KeptRoute> {
    let told = dump::parts(message)?;
    let kinds = [
        RouteType::Unicast,
        RouteType::BlackHole,
        RouteType::Unreachable,
        RouteType::Prohibit,
    ];
    if told.table != u32::from(RouteHeader::RT_TABLE_MAIN) || !kinds.contains(&message.header.kind)
    {
        return None;
    }
    let mut message = message.clone();
    // The rest tells how it is, and the kernel takes it in no request.
    message.header.flags &= RouteFlags::Onlink;
    message
        .attributes
        .retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
    Some(KeptRoute {
        destination: told.destination,
        index: told.index,
        gateway: told.gateway,
        metric: told.metric,
        kind: message.header.kind.into(),
        protocol: message.header.protocol.into(),
        message: Message::of(&message),
    })
}
