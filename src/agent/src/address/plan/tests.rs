use super::*;
use crate::{
    guest::network::Guest,
    system::netlink::{Neighbour, Proxy, Route},
    testing::{MACHINE_ID, inventory, network, observation},
};

const V4: &str = "203.0.113.2";
const V6: &str = "2001:db8:1::10";

fn route(destination: &str, index: u32, protocol: u8) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        index,
        gateway: None,
        protocol,
        metric: 0,
    }
}

fn proxy(address: &str, protocol: u8) -> Proxy {
    Proxy {
        index: 2,
        address: address.parse().unwrap(),
        protocol,
    }
}

fn healthy() -> Network {
    Network {
        routes: vec![
            route("203.0.113.2/32", 3, PROTOCOL),
            route("2001:db8:1::10/128", 3, PROTOCOL),
        ],
        proxies: vec![proxy(V4, PROTOCOL), proxy(V6, PROTOCOL)],
        ..network()
    }
}

fn steps(network: Network, addresses: &[(&str, &str)], scope: &Scope) -> Vec<Step> {
    plan(&inventory(&[], addresses), &observation(network), scope)
}

#[test]
fn nothing_is_done_where_all_is_well() {
    let addresses = [(V4, "web"), (V6, "web")];
    assert_eq!(steps(healthy(), &addresses, &Scope::All), []);
}

#[test]
fn what_is_missing_is_added() {
    let found = steps(network(), &[(V4, "web")], &Scope::All);
    assert!(matches!(
        &found[..],
        [Step::AddRoute { index: 3, .. }, Step::AddProxy { link, .. }] if link.name == "eth0"
    ));
}

#[test]
fn ours_goes_when_nothing_asks_for_it_and_others_stay() {
    let mut network = healthy();
    network.routes.push(route("203.0.113.9/32", 3, 4));
    network.proxies.push(proxy("203.0.113.9", 0));
    let found = steps(network, &[(V6, "web")], &Scope::All);
    assert_eq!(
        found,
        [
            Step::DeleteRoute {
                destination: "203.0.113.2/32".parse().unwrap(),
                index: 3
            },
            Step::DeleteProxy {
                address: V4.parse().unwrap(),
                index: 2
            },
        ]
    );
}

#[test]
fn the_scope_of_one_address_leaves_the_others() {
    let scope = Scope::Address(V4.to_owned());
    assert_eq!(steps(healthy(), &[(V4, "web")], &scope), []);
    assert_eq!(steps(healthy(), &[], &scope).len(), 2);
    assert_eq!(
        steps(network(), &[(V4, "web"), (V6, "web")], &scope).len(),
        2
    );
}

#[test]
fn a_prefix_is_routed_to_its_guest() {
    let mac = mac_address(parse_machine_id(MACHINE_ID).unwrap(), "web");
    for prefix in ["2001:db8:1:5::/80", "192.0.2.0/24"] {
        let mut network = network();
        network.routes.push(route(prefix, 3, PROTOCOL));
        let add = |network: &Network| {
            let mut found = steps(network.clone(), &[(prefix, "web")], &Scope::All);
            found.retain(|step| matches!(step, Step::AddRoute { .. }));
            found
        };
        let found = add(&network);
        let [
            Step::AddRoute {
                gateway: Some(gateway),
                ..
            },
        ] = found[..]
        else {
            panic!("{found:?}");
        };
        assert_eq!(gateway, link_local(mac));
        network.routes.last_mut().unwrap().gateway = Some(gateway.into());
        assert_eq!(add(&network), []);
    }
}

#[test]
fn a_link_that_is_down_gets_nothing() {
    let mut network = network();
    for link in &mut network.links {
        link.up = false;
    }
    assert_eq!(steps(network, &[(V4, "web")], &Scope::All), []);
}

#[test]
fn what_hinders_a_proxy_is_told() {
    let inventory = inventory(&[], &[(V4, "web")]);
    let stored = &inventory.addresses[V4];
    let told = |network: &Network| hindrances(&inventory, network, stored);
    let mut network = network();
    assert!(told(&network).is_empty());
    let mut bridged = network.clone();
    bridged.links[0].bridge = Some(7);
    let mut controller = Link {
        index: 7,
        name: "br7".to_owned(),
        kind: Some("bridge".to_owned()),
        ..Link::default()
    };
    bridged.links.push(controller.clone());
    let found = told(&bridged);
    assert!(
        matches!(&found[..], [text] if text.contains("is a port of the bridge br7") && text.contains("nomaster")),
        "{found:?}"
    );
    controller.kind = Some("vrf".to_owned());
    bridged.links.pop();
    bridged.links.push(controller);
    assert!(told(&bridged).is_empty());
    for link in &mut network.links {
        link.up = false;
    }
    let down = "the uplink eth0 of 203.0.113.2 is down".to_owned();
    assert_eq!(told(&network), [down]);
    network.links.clear();
    let missing = "the uplink eth0 of 203.0.113.2 is missing".to_owned();
    assert_eq!(told(&network), [missing]);
    let mut unproxied = stored.clone();
    unproxied.desired.proxy = false;
    assert!(hindrances(&inventory, &network, &unproxied).is_empty());
}

#[test]
fn an_address_that_the_server_itself_has_is_told() {
    let prefix = "2001:db8:1:5::/80";
    let inventory = inventory(&[], &[(V4, "web"), (prefix, "web")]);
    let mut network = network();
    for (address, net) in [(V4, "203.0.113.2/24"), (prefix, "2001:db8:1:5::1/64")] {
        let stored = &inventory.addresses[address];
        assert!(hindrances(&inventory, &network, stored).is_empty());
        network.addresses.push(crate::system::netlink::Address {
            index: 2,
            net: net.parse().unwrap(),
            global: true,
            expires: false,
        });
        let found = hindrances(&inventory, &network, stored);
        let what_to_do = format!("ip addr del {net} dev eth0");
        assert!(
            matches!(&found[..], [text] if text.contains(&what_to_do)),
            "{found:?}"
        );
    }
}

#[test]
fn routes_over_our_bridge_stay_while_it_has_another_name() {
    let mut network = healthy();
    network.links[1].name = "br7".to_owned();
    network.links[1].kind = Some("bridge".to_owned());
    assert_eq!(steps(network, &[(V4, "web"), (V6, "web")], &Scope::All), []);
}

#[test]
fn a_neighbour_that_is_not_the_owner_is_flushed() {
    let id = parse_machine_id(MACHINE_ID).unwrap();
    let neighbour = |container: &str, index| Neighbour {
        index,
        address: V4.parse().unwrap(),
        mac: mac_address(id, container).to_vec(),
        fixed: false,
    };
    for (found, flushed) in [
        (neighbour("web", 3), false),
        (neighbour("db", 3), true),
        (neighbour("db", 2), false),
    ] {
        let network = Network {
            neighbours: vec![found],
            ..healthy()
        };
        let found = steps(network, &[(V4, "web"), (V6, "web")], &Scope::All);
        assert_eq!(matches!(found[..], [Step::FlushNeighbour { .. }]), flushed);
    }
}

#[test]
fn the_former_guest_lets_go_before_the_new_one_takes() {
    let inventory = inventory(&["a", "b"], &[(V4, "a")]);
    let mut observed = observation(healthy());
    let had = |address: &str| {
        let wanted = Wanted {
            addresses: vec![address.parse().unwrap()],
            gateways: Vec::new(),
        };
        Guest {
            file: Some(wanted.render()),
            ..Guest::default()
        }
    };
    observed
        .guests
        .insert("a".parse().unwrap(), Guest::default());
    observed
        .guests
        .insert("b".parse().unwrap(), had("203.0.113.2/32"));
    let changes: Vec<_> = plan(&inventory, &observed, &Scope::Address(V4.to_owned()))
        .into_iter()
        .filter_map(|step| match step {
            Step::Guest(change) => Some((change.container.to_string(), change.takes_away())),
            _ => None,
        })
        .collect();
    assert_eq!(changes, [("b".to_owned(), true), ("a".to_owned(), false)]);
}

#[test]
fn nothing_is_led_to_somebody_elses_bridge() {
    let mut network = network();
    network.links[1].alias = None;
    network.neighbours.push(Neighbour {
        index: 3,
        address: V4.parse().unwrap(),
        mac: vec![2; 6],
        fixed: false,
    });
    let found = steps(network, &[(V4, "web")], &Scope::All);
    assert!(matches!(&found[..], [Step::AddProxy { .. }]), "{found:?}");
}
