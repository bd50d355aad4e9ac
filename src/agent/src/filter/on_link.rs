//! Where packets of guests make the host look for neighbours: pure.
//!
//! The host resolves each address of a prefix on a link before it forwards to it, and one that nobody answers for takes
//! a place in its table of neighbours meanwhile.

use ipnet::IpNet;

use crate::system::netlink::{Network, PROTOCOL};

/// The prefixes on links of the host but for this one; those within others are left out, which a set takes no two of.
pub fn prefixes(network: &Network, bridge: Option<u32>) -> Vec<IpNet> {
    let is_link_local =
        |net: &IpNet| matches!(net, IpNet::V6(v6) if v6.network().is_unicast_link_local());
    let on_link = network.routes.iter().filter(|route| {
        let net = &route.destination;
        let is_single = net.prefix_len() == net.max_prefix_len();
        route.gateway.is_none()
            && Some(route.index) != bridge
            && route.protocol != PROTOCOL
            // One address takes one place. A default route has no prefix of its own: most of what it leads to is
            // behind routers, of whose proxies there may be thousands in honest use.
            && !is_single
            && net.prefix_len() > 0
            // Never forwarded.
            && !is_link_local(net)
    });
    IpNet::aggregate(&on_link.map(|route| route.destination).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::netlink::Route;

    #[test]
    fn prefixes_on_links_are_told_from_what_is_behind_routers() {
        let route = |destination: &str, index, gateway: Option<&str>, protocol| Route {
            destination: destination.parse().unwrap(),
            index,
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            protocol,
            metric: 0,
        };
        let mut network = crate::testing::network();
        network.routes.extend([
            route("0.0.0.0/0", 2, Some("172.31.1.1"), 3),
            route("0.0.0.0/0", 4, None, 3),
            route("172.31.1.1/32", 2, None, 3),
            route("2001:db8:1::/64", 2, None, libc::RTPROT_KERNEL),
            route("2001:db8:1::5/128", 3, None, PROTOCOL),
            route("2001:db8:1:5::/80", 3, Some("fe80::5"), PROTOCOL),
            route("fe80::/64", 2, None, libc::RTPROT_KERNEL),
            route("10.0.0.0/24", 4, None, libc::RTPROT_KERNEL),
            route("10.0.0.0/25", 5, None, libc::RTPROT_KERNEL),
            route("10.9.0.0/16", 4, Some("10.0.0.1"), 3),
            route("10.8.0.0/24", 3, None, libc::RTPROT_KERNEL),
        ]);
        let expected: Vec<IpNet> = ["10.0.0.0/24", "2001:db8:1::/64"]
            .map(|net| net.parse().unwrap())
            .into();
        let mut found = prefixes(&network, Some(3));
        found.sort();
        assert_eq!(found, expected);
    }
}
