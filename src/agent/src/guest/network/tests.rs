use super::*;

fn wanted() -> Wanted {
    Wanted {
        addresses: vec!["203.0.113.2/32".parse().unwrap()],
        gateways: vec!["203.0.113.1".parse().unwrap()],
    }
}

#[test]
fn the_file_of_a_guest() {
    assert_eq!(
        wanted().render(),
        "# Written by nspawn-agent for terraform-provider-nspawn; changes are overwritten.\n\
         [Match]\nName=host0\n\n\
         [Network]\nDHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=ipv6\n\n\
         [Address]\nAddress=203.0.113.2/32\nDuplicateAddressDetection=none\n\n\
         [Route]\nGateway=203.0.113.1\nGatewayOnLink=yes\n"
    );
    assert_eq!(addresses_in(&wanted().render()), wanted().addresses);
}

#[test]
fn of_a_prefix_the_guest_has_the_first_address() {
    for (text, expected) in [
        ("203.0.113.2", "203.0.113.2/32"),
        ("203.0.113.8/30", "203.0.113.9/32"),
        ("2001:db8:1:5::/80", "2001:db8:1:5::1/128"),
    ] {
        assert_eq!(
            own_address(&text.parse().unwrap()),
            expected.parse().unwrap()
        );
    }
}

#[test]
fn only_the_change_that_stops_a_guest_leaves_its_inside_alone() {
    let mut inventory = crate::testing::inventory(&["web"], &[]);
    let name: MachineName = "web".parse().unwrap();
    let own = Scope::Container(name.clone());
    assert!(!is_to_stop(&own, &inventory, &name));
    inventory.containers.get_mut(&name).unwrap().desired.running = false;
    assert!(is_to_stop(&own, &inventory, &name));
    assert!(!is_to_stop(&Scope::All, &inventory, &name));
}

#[test]
fn only_what_differs_is_changed() {
    let name: MachineName = "web".parse().unwrap();
    let file = Some(wanted().render());
    let same = Guest {
        file: file.clone(),
        ..Guest::default()
    };
    assert_eq!(same.change(&name, &wanted()), None);
    let running = Guest {
        leader: Some(7),
        file: file.clone(),
        network: Some(Network {
            links: vec![crate::system::netlink::Link {
                index: 2,
                name: LINK.to_owned(),
                up: true,
                ..Default::default()
            }],
            ..Network::default()
        }),
    };
    let change = running.change(&name, &wanted()).unwrap();
    assert_eq!(change.add, wanted().addresses);
    assert_eq!(change.gateways, wanted().gateways);
    assert!(change.file.is_none() && !change.takes_away());
    let change = same.change(&name, &Wanted::default()).unwrap();
    assert_eq!(change.remove, wanted().addresses);
    assert!(change.sentence().contains("203.0.113.2 is still inside"));
}

#[test]
fn an_address_tells_of_its_own_trouble_only() {
    let (web, db): (MachineName, MachineName) = ("web".parse().unwrap(), "db".parse().unwrap());
    let [one, two]: [IpNet; 2] =
        ["203.0.113.2/32", "203.0.113.3/32"].map(|net| net.parse().unwrap());
    let change = |add: &[IpNet], remove: &[IpNet], down| Change {
        container: web.clone(),
        leader: None,
        remove: remove.to_vec(),
        file: None,
        down,
        add: add.to_vec(),
        gateways: Vec::new(),
    };
    for (change, own, container, told) in [
        (change(&[one, two], &[], false), one, &web, true),
        (change(&[two], &[], false), one, &web, false),
        (change(&[], &[one], false), one, &db, true),
        (change(&[], &[two], false), one, &db, false),
        (change(&[], &[], true), one, &web, true),
        (change(&[], &[], true), one, &db, false),
    ] {
        let sentence = change.sentence_about(own, container);
        assert_eq!(sentence.is_some(), told, "{sentence:?}");
        assert!(!sentence.unwrap_or_default().contains("203.0.113.3"));
    }
}
