use super::*;
use crate::testing::{address, inventory, network, observation};

fn refusal(text: &str, proxy: bool, network: &Network) -> Option<(FailureKind, String)> {
    let inventory = inventory(
        &["web"],
        &[("203.0.113.8/30", "web"), ("2001:db8:1::10", "web")],
    );
    let facts = observation(network.clone()).facts;
    let address = Address {
        proxy,
        ..address(text, "web")
    };
    admit(&address, &inventory, network, &facts)
        .err()
        .map(|failure| (failure.kind, failure.message))
}

#[test]
fn what_would_cut_somebody_off_is_refused_by_its_reason() {
    use FailureKind::{Conflict, Invalid};
    for (text, proxy, kind, part) in [
        ("198.51.100.2", true, Invalid, "this very connection"),
        ("198.51.100.0/24", false, Invalid, "this very connection"),
        ("172.31.1.1", true, Invalid, "gateway"),
        ("203.0.113.1", true, Invalid, "of the host itself"),
        ("2001:db8:1::/64", false, Invalid, "of the host itself"),
        ("2001:db8:1:5::/80", true, Invalid, "prefix"),
        ("203.0.113.9", true, Conflict, "overlaps"),
        ("203.0.113.8/29", false, Conflict, "overlaps"),
    ] {
        let (found, message) = refusal(text, proxy, &network()).unwrap();
        assert!(found == kind && message.contains(part), "{text}: {message}");
    }
}

#[test]
fn what_is_free_is_admitted() {
    for (text, proxy) in [
        ("203.0.113.2", true),
        ("2001:db8:1::10", true),
        ("2001:db8:1:5::/80", false),
    ] {
        assert_eq!(refusal(text, proxy, &network()), None, "{text}");
    }
}

#[test]
fn ipv4_needs_a_gateway() {
    let mut network = network();
    network
        .addresses
        .retain(|address| matches!(address.net, IpNet::V6(_)));
    let (kind, message) = refusal("203.0.113.2", true, &network).unwrap();
    assert!(
        kind == FailureKind::Unsupported && message.contains("gateway"),
        "{message}"
    );
    assert_eq!(refusal("2001:db8:1::11", true, &network), None);
}

/// The administrator's. RTPROT_STATIC
fn foreign_route(destination: &str, index: u32) -> crate::system::netlink::Route {
    crate::system::netlink::Route {
        destination: destination.parse().unwrap(),
        index,
        gateway: None,
        protocol: 4,
        metric: 0,
    }
}

#[test]
fn a_foreign_route_is_left_alone() {
    let mut network = network();
    network.routes.push(foreign_route("203.0.113.2/32", 2));
    let (kind, message) = refusal("203.0.113.2", true, &network).unwrap();
    assert!(
        kind == FailureKind::Conflict && message.contains("eth0"),
        "{message}"
    );
}

#[test]
fn an_address_on_a_foreign_bridge_is_left_alone() {
    let mut network = network();
    let mut bridge = network.links[0].clone();
    (bridge.index, bridge.name, bridge.kind) = (9, "docker0".to_owned(), Some("bridge".to_owned()));
    network.links.push(bridge);
    network.routes.push(foreign_route("203.0.113.64/26", 9));
    let (kind, message) = refusal("203.0.113.65", true, &network).unwrap();
    assert!(
        kind == FailureKind::Conflict && message.contains("docker0"),
        "{message}"
    );
    assert_eq!(refusal("203.0.113.2", true, &network), None);
}
