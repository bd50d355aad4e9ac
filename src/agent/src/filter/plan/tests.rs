use super::*;
use crate::testing::{inventory, network, observation};

#[test]
fn a_container_is_let_in_before_its_port_is_there() {
    let inventory = inventory(&["web"], &[("203.0.113.2", "web")]);
    let found = plan(&inventory, &observation(network()));
    let [Step::Load(elements)] = &found[..] else {
        panic!("{found:?}");
    };
    assert!(elements.has_port("vb-web"));
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
    let found = plan(&inventory, &observation(network.clone()));
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
            Step::AddForwarding { index: 9, .. }
        ]
    ));
    if let Some(host) = &mut inventory.host {
        host.desired.isolation = false;
    }
    if let Some(link) = network.links.last_mut() {
        link.up = true;
    }
    assert_eq!(plan(&inventory, &observation(network.clone())), []);
    if let Some(link) = network.links.last_mut() {
        link.bridge = None;
    }
    let found = plan(&inventory, &observation(network));
    assert!(matches!(
        &found[..],
        [Step::JoinBridge {
            index: 9,
            bridge: 3,
            ..
        }]
    ));
}
