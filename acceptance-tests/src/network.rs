//! The links between the operator, the router and the servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::{
    command::{check, command},
    hosts::Block,
    instance::Instance,
    namespace::Namespace,
};

/// The operator's IPv4 address, where the lab's own servers listen too.
pub(crate) const CLIENT_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
/// The operator's IPv6 address.
pub(crate) const CLIENT_IPV6: IpAddr =
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 2));

/// The parts of the network that every lab has.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) client: Namespace,
    pub(crate) router: Namespace,
}

impl Network {
    pub(crate) fn create(instance: &Instance) -> Result<Self> {
        let client = Namespace::create(&instance.namespace_name("client"))?;
        let router = Namespace::create(&instance.namespace_name("router"))?;
        link(&client, "eth0", &router, "client")?;
        client.ip(&format!("addr add {CLIENT_IPV4}/24 dev eth0"))?;
        client.ip(&format!("addr add {CLIENT_IPV6}/64 dev eth0 nodad"))?;
        router.ip("addr add 198.51.100.1/24 dev client")?;
        router.ip("addr add 2001:db8:ffff::1/64 dev client nodad")?;
        client.ip("link set eth0 up")?;
        router.ip("link set client up")?;
        client.ip("route add default via 198.51.100.1")?;
        client.ip("route add default via 2001:db8:ffff::1")?;
        check(router.command("sysctl").args([
            "-qw",
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
        ]))?;
        Ok(Self { client, router })
    }

    /// Plugs a server in, as a cloud's router sees it: its whole block is on the link, so that the
    /// router asks ARP and NDP for every address.
    pub(crate) fn plug(
        &self,
        server: &Namespace,
        uplink: &str,
        name: &str,
        block: Block,
    ) -> Result<()> {
        link(server, uplink, &self.router, name)?;
        // Only fe80::1, so that no other link-local address answers.
        self.router
            .ip(&format!("link set {name} addrgenmode none"))?;
        self.router.ip(&format!("link set {name} up"))?;
        self.router
            .ip(&format!("addr add 172.31.1.1/32 dev {name}"))?;
        self.router
            .ip(&format!("addr add fe80::1/64 dev {name} nodad"))?;
        self.router
            .ip(&format!("route add {} dev {name}", block.ipv4_network()))?;
        self.router
            .ip(&format!("route add {} dev {name}", block.ipv6_network()))?;
        Ok(())
    }

    /// Pulls a server's plug.
    pub(crate) fn unplug(&self, name: &str) -> Result<()> {
        self.router.ip(&format!("link del {name}")).map(drop)
    }
}

fn link(left: &Namespace, left_name: &str, right: &Namespace, right_name: &str) -> Result<()> {
    let words = [
        "link",
        "add",
        left_name,
        "netns",
        left.name(),
        "type",
        "veth", //
        "peer",
        "name",
        right_name,
        "netns",
        right.name(),
    ];
    check(&mut command("ip", words)).map(drop)
}
