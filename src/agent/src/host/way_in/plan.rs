//! What has to be done for the operator to get in as before: pure.

use std::net::IpAddr;

use super::{Link, WayIn, rules};
use crate::system::netlink::{KeptAddress, KeptRoute};

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nftables first: it is what cuts most often.
    Rules(rules::Step),
    /// A route that has come since and leads the operator's packets astray.
    RemoveRoute(KeptRoute),
    /// An interface that was set down.
    SetUp(Link),
    /// An address that is gone.
    PutAddress(KeptAddress),
    /// A route that is gone.
    PutRoute(KeptRoute),
}

/// What is missing of the rules, and which are in the way.
pub fn of_rules(before: &WayIn, now: &rules::Rules) -> Vec<Step> {
    rules::plan(&before.rules, now, &way(before))
        .into_iter()
        .map(Step::Rules)
        .collect()
}

fn way(before: &WayIn) -> rules::Way<'_> {
    // Nobody comes in by 127.0.0.1, and Docker drops what others send there.
    let own = before.addresses.iter().map(|address| address.net.addr());
    let own = own.filter(|address| !address.is_loopback());
    let addresses = match before.peer {
        Some(_) => own.chain(on_the_way(before)).collect(),
        None => Vec::new(),
    };
    rules::Way {
        interfaces: before.links.iter().map(|link| link.name.as_str()).collect(),
        addresses,
    }
}

/// The operator, and the routers on the way.
fn on_the_way(before: &WayIn) -> Vec<IpAddr> {
    let routers = before.routes.iter().filter_map(|route| route.gateway);
    before.peer.into_iter().chain(routers).collect()
}

/// What is missing of the rest, and what is in the way.
pub fn of_network(before: &WayIn, now: &WayIn) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let is_there = |route: &KeptRoute| before.routes.iter().any(|other| same(other, route));
    steps.extend(
        now.routes
            .iter()
            .filter(|route| !is_there(route) && leads_astray(before, route))
            .cloned()
            .map(Step::RemoveRoute),
    );
    let found = |index: u32| now.links.iter().find(|link| link.index == index);
    // An interface that is gone for good can't be made again.
    let ours: Vec<&Link> = before
        .links
        .iter()
        .filter(|link| link.up && found(link.index).is_some())
        .collect();
    steps.extend(
        ours.iter()
            .filter(|link| found(link.index).is_some_and(|found| !found.up))
            .map(|link| Step::SetUp((*link).clone())),
    );
    let is_ours = |index: u32| ours.iter().any(|link| link.index == index);
    steps.extend(
        before
            .addresses
            .iter()
            .filter(|address| is_ours(address.index))
            .filter(|address| {
                !now.addresses
                    .iter()
                    .any(|other| (other.index, other.net) == (address.index, address.net))
            })
            .cloned()
            .map(Step::PutAddress),
    );
    let mut missing: Vec<&KeptRoute> = before
        .routes
        .iter()
        .filter(|route| route.index.is_some_and(is_ours))
        .filter(|route| !now.routes.iter().any(|other| same(other, route)))
        .collect();
    // The router of a route has to be reachable before that route.
    missing.sort_by_key(|route| route.gateway.is_some());
    steps.extend(missing.into_iter().cloned().map(Step::PutRoute));
    steps
}

/// The same route, whoever made it and however it was told.
fn same(one: &KeptRoute, other: &KeptRoute) -> bool {
    let key = |route: &KeptRoute| {
        (
            route.kind,
            route.destination,
            route.index,
            route.gateway,
            route.metric,
        )
    };
    key(one) == key(other)
}

/// Whether a new route is one that packets to the operator, or to a router on the way, would take.
fn leads_astray(before: &WayIn, route: &KeptRoute) -> bool {
    let best = |address: &IpAddr| {
        before
            .routes
            .iter()
            .filter(|other| other.destination.contains(address))
            .map(|other| {
                (
                    other.destination.prefix_len(),
                    std::cmp::Reverse(other.metric),
                )
            })
            .max()
    };
    on_the_way(before).iter().any(|address| {
        // fe80::1 is on every link.
        let is_link_local = matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local());
        !is_link_local
            && route.destination.contains(address)
            && Some((
                route.destination.prefix_len(),
                std::cmp::Reverse(route.metric),
            )) >= best(address)
    })
}

/// What was done, for the operator.
pub fn sentence(step: &Step, before: &WayIn) -> String {
    let name = |index: u32| {
        before
            .links
            .iter()
            .find(|link| link.index == index)
            .map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    };
    match step {
        Step::Rules(step) => step.sentence.clone(),
        Step::RemoveRoute(route) => format!(
            "the route to {}, which had come since, is gone",
            route.destination
        ),
        Step::SetUp(link) => format!("the interface {} is up again", link.name),
        Step::PutAddress(address) => format!(
            "the address {} is back on {}",
            address.net,
            name(address.index)
        ),
        Step::PutRoute(route) => {
            let over = route.index.map(name).unwrap_or_default();
            let via = route
                .gateway
                .map(|gateway| format!(" via {gateway}"))
                .unwrap_or_default();
            if route.destination.prefix_len() == 0 {
                format!("the default route{via} on {over} is back")
            } else {
                format!("the route to {}{via} on {over} is back", route.destination)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::netlink::Message;

    fn route(destination: &str, index: u32, gateway: Option<&str>) -> KeptRoute {
        KeptRoute {
            destination: destination.parse().unwrap(),
            index: Some(index),
            gateway: gateway.map(|text| text.parse().unwrap()),
            metric: 0,
            kind: 1,
            protocol: 4,
            message: Message::default(),
        }
    }

    fn address(net: &str, index: u32) -> KeptAddress {
        KeptAddress {
            index,
            net: net.parse().unwrap(),
            message: Message::default(),
        }
    }

    fn link(index: u32, name: &str, up: bool) -> Link {
        Link {
            index,
            name: name.to_owned(),
            up,
        }
    }

    fn before() -> WayIn {
        WayIn {
            peer: Some("198.51.100.2".parse().unwrap()),
            links: vec![link(2, "eth0", true)],
            addresses: vec![address("203.0.113.1/32", 2), address("172.17.0.1/16", 5)],
            routes: vec![
                route("0.0.0.0/0", 2, Some("172.31.1.1")),
                route("172.31.1.1/32", 2, None),
                route("172.17.0.0/16", 5, None),
            ],
            rules: rules::Rules::default(),
        }
    }

    fn sentences(now: &WayIn) -> Vec<String> {
        of_network(&before(), now)
            .iter()
            .map(|step| sentence(step, &before()))
            .collect()
    }

    #[test]
    fn what_is_as_before_is_left_alone() {
        let mut now = before();
        now.links.push(link(5, "docker0", false));
        now.routes.push(route("10.0.0.0/8", 5, None));
        now.addresses.push(address("10.0.0.1/8", 5));
        assert!(sentences(&now).is_empty(), "{:?}", sentences(&now));
    }

    #[test]
    fn what_is_missing_of_the_uplink_is_put_back_in_the_order_in_which_it_works() {
        let now = WayIn {
            links: vec![link(2, "eth0", false)],
            ..WayIn::default()
        };
        assert_eq!(
            sentences(&now),
            [
                "the interface eth0 is up again",
                "the address 203.0.113.1/32 is back on eth0",
                "the route to 172.31.1.1/32 on eth0 is back",
                "the default route via 172.31.1.1 on eth0 is back",
            ]
        );
    }

    #[test]
    fn an_interface_that_is_gone_can_not_be_put_back() {
        assert!(of_network(&before(), &WayIn::default()).is_empty());
    }

    #[test]
    fn a_route_that_leads_the_operator_astray_is_removed() {
        let mut now = before();
        now.routes.push(route("198.51.100.0/24", 7, None));
        now.routes.push(route("172.31.1.1/32", 7, None));
        now.routes.push(route("192.0.2.0/24", 7, None));
        assert_eq!(
            sentences(&now),
            [
                "the route to 198.51.100.0/24, which had come since, is gone",
                "the route to 172.31.1.1/32, which had come since, is gone",
            ]
        );
    }

    #[test]
    fn the_way_in_is_not_known_without_the_operator() {
        let mut before = before();
        before.addresses.push(address("127.0.0.1/8", 1));
        let known = way(&before).addresses;
        let expected = ["203.0.113.1", "172.17.0.1", "198.51.100.2", "172.31.1.1"];
        assert_eq!(known, expected.map(|text| text.parse::<IpAddr>().unwrap()));
        before.peer = None;
        assert_eq!(way(&before).addresses, Vec::<IpAddr>::new());
    }
}
