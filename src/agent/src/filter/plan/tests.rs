use super::*;
use crate::{
    system::netlink::ForwardingEntry,
    testing::{MACHINE_ID, inventory, network, observation},
};

#[test]
fn a_container_is_let_in_before_its_port_is_there() {
    let inventory = inventory(&["web"], &[("203.0.113.2", "web")]);
    let found = plan(&inventory, &observation(network()), &Scope::All);
    let [Step::Load(elements)] = &found[..] else {
        panic!("{found:?}");
    };
    assert!(elements.has_port("vb-web"));
}

#[test]
fn a_prefix_that_comes_to_a_link_changes_the_filter() {
    let inventory = inventory(&["web"], &[]);
    let before = elements(&inventory, &observation(network()));
    let mut network = network();
    network.routes.push(crate::system::netlink::Route {
        destination: "10.0.0.0/24".parse().unwrap(),
        index: 2,
        gateway: None,
        protocol: libc::RTPROT_KERNEL,
        metric: 0,
    });
    let after = elements(&inventory, &observation(network));
    assert_eq!(
        after.added_to(&before),
        "add element inet nspawn_agent on_link4 { 10.0.0.0/24 }\n"
    );
}

#[test]
fn a_port_gets_its_flags_and_its_guest() {
    let mut inventory = inventory(&["web"], &[]);
    let mut network = network();
    network.links.push(Link {
        index: 9,
        name: "vb-web".to_owned(),
        kind: Some("veth".to_owned()),
        bridge: Some(3),
        port: Some(PortFlags::TOGETHER),
        ..Link::default()
    });
    let found = plan(&inventory, &observation(network.clone()), &Scope::All);
    assert!(matches!(
        &found[..],
        [
            Step::Load(_),
            Step::SetUp { index: 9, .. },
            Step::SetPort {
                index: 9,
                flags: PortFlags::APART,
                ..
            },
            Step::AddForwarding { index: 9, .. },
            Step::FixNeighbour { index: 3, .. }
        ]
    ));
    if let Some(host) = &mut inventory.host {
        host.desired.isolation = false;
    }
    if let Some(link) = network.links.last_mut() {
        link.up = true;
    }
    assert_eq!(
        plan(&inventory, &observation(network.clone()), &Scope::All),
        []
    );
    network.forwarding.push(ForwardingEntry {
        index: 9,
        mac: mac_address(parse_machine_id(MACHINE_ID).unwrap(), "web").to_vec(),
        fixed: true,
    });
    assert!(matches!(
        &plan(&inventory, &observation(network.clone()), &Scope::All)[..],
        [Step::DeleteForwarding { index: 9, .. }]
    ));
    network.forwarding.clear();
    if let Some(link) = network.links.last_mut() {
        link.bridge = None;
    }
    let found = plan(&inventory, &observation(network), &Scope::All);
    assert!(matches!(
        &found[..],
        [Step::JoinBridge {
            index: 9,
            bridge: 3,
            ..
        }]
    ));
}

#[test]
fn a_change_leaves_the_ports_of_other_containers_to_their_own() {
    let inventory = inventory(&["db", "web"], &[]);
    let mut network = network();
    network.links.push(Link {
        index: 9,
        name: "vb-web".to_owned(),
        kind: Some("veth".to_owned()),
        bridge: Some(3),
        ..Link::default()
    });
    let observed = observation(network);
    let has_port_step = |scope: &Scope| {
        let found = plan(&inventory, &observed, scope);
        found
            .iter()
            .any(|step| matches!(step, Step::SetPort { index: 9, .. }))
    };
    assert!(has_port_step(&Scope::Container("web".parse().unwrap())));
    assert!(has_port_step(&Scope::All) && has_port_step(&Scope::Host));
    assert!(!has_port_step(&Scope::Container("db".parse().unwrap())));
}

#[test]
fn no_guest_is_put_on_somebody_elses_bridge() {
    let inventory = inventory(&["web"], &[("203.0.113.2", "web")]);
    let mut network = network();
    network.links.push(Link {
        index: 9,
        name: "vb-web".to_owned(),
        kind: Some("veth".to_owned()),
        ..Link::default()
    });
    let joins = |network: &Network| {
        plan(&inventory, &observation(network.clone()), &Scope::All)
            .iter()
            .any(|step| matches!(step, Step::JoinBridge { .. }))
    };
    assert!(joins(&network));
    network.links[1].alias = None;
    assert!(!joins(&network));
    network.links[2].bridge = Some(3);
    let found = plan(&inventory, &observation(network), &Scope::All);
    assert!(matches!(&found[..], [Step::Load(_)]), "{found:?}");
}
