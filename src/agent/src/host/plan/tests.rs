use super::*;
use crate::{
    host::sysctls::Wanted,
    system::netlink::Network,
    testing::{inventory, network, observation},
};

fn steps(network: Network) -> Vec<Step> {
    plan(&inventory(&[], &[]), &observation(network), &Scope::All)
}

#[test]
fn nothing_is_done_where_all_is_well() {
    assert_eq!(steps(network()), []);
}

#[test]
fn the_bridge_is_made_with_the_uplinks_mtu_and_its_address_comes_back() {
    let mut without = network();
    without.links.retain(|link| link.name != "br0");
    without.links[0].mtu = 1450;
    assert!(matches!(
        &steps(without)[..],
        [Step::MakeBridge(bridge)] if bridge.mtu == 1450 && bridge.mac[0] & 3 == 2
    ));
    let mut bare = network();
    bare.addresses.retain(|address| address.index != 3);
    bare.links[1].up = false;
    assert!(matches!(
        &steps(bare)[..],
        [
            Step::SetBridge {
                index: 3,
                mtu: None
            },
            Step::AddAddress { index: 3, .. }
        ]
    ));
}

#[test]
fn the_route_that_came_with_the_bridges_address_comes_back() {
    let mut flushed = network();
    flushed.routes.retain(|route| route.index != 3);
    assert!(matches!(
        &steps(flushed)[..],
        [Step::AddAddress { index: 3, .. }]
    ));
}

#[test]
fn what_the_service_needs_is_put_back() {
    let mut observed = observation(network());
    observed.host.is_disabled = true;
    observed.host.is_without_program = true;
    let found = plan(&inventory(&[], &[]), &observed, &Scope::All);
    assert_eq!(found, [Step::Enable, Step::PutBackProgram]);
    let unit = OwnedFile {
        path: install::UNIT_PATH.to_owned(),
        contents: String::new(),
    };
    observed.host.files = vec![(unit.clone(), OwnFile::Missing)];
    let found = plan(&inventory(&[], &[]), &observed, &Scope::All);
    assert_eq!(found, [Step::WriteFile(unit), Step::PutBackProgram]);
}

#[test]
fn somebody_elses_bridge_is_left_alone() {
    let mut network = network();
    network.links[1].alias = None;
    network.links[1].up = false;
    assert_eq!(steps(network), []);
}

#[test]
fn a_bridge_that_was_not_named_before_the_agent_was_killed_is_named() {
    let mut network = network();
    network.links[1] = crate::system::netlink::Link {
        alias: None,
        kind: Some("bridge".to_owned()),
        ..network.links[1].clone()
    };
    assert_eq!(steps(network), [Step::NameBridge("br0".to_owned())]);
}

#[test]
fn a_bridge_that_was_changed_is_what_it_was_made_as() {
    let mend = Step::MendBridge {
        name: "br0".to_owned(),
        mac: bridge::mac(crate::testing::MACHINE_ID, "br0"),
    };
    let mut other_mac = network();
    other_mac.links[1].mac = vec![2; 6];
    assert_eq!(steps(other_mac), std::slice::from_ref(&mend));
    let mut snooping = network();
    snooping.links[1].switch.snooping = true;
    assert_eq!(steps(snooping), [mend]);
}

#[test]
fn sysctls_that_deviate_are_set_and_those_the_kernel_lacks_are_passed_over() {
    let mut observed = observation(network());
    observed.host.wishes = vec![
        ("a".to_owned(), Wanted::Exactly(1)),
        ("b".to_owned(), Wanted::AtLeast(5)),
        ("c".to_owned(), Wanted::Exactly(1)),
    ];
    observed.host.sysctls = [("a", "0"), ("b", "7")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let found = plan(&inventory(&[], &[]), &observed, &Scope::Host);
    assert_eq!(found, [Step::SetSysctl("a".to_owned(), 1)]);
    assert_eq!(
        plan(
            &inventory(&[], &[]),
            &observed,
            &Scope::Image("x".parse().unwrap())
        ),
        []
    );
}

#[test]
fn the_file_of_sysctls_never_sets_one_whose_former_value_is_not_known() {
    let mut observed = observation(network());
    observed.host.wishes = vec![("a".to_owned(), Wanted::Exactly(1))];
    observed.host.sysctls = [("a".to_owned(), "0".to_owned())].into();
    observed.host.superfluous_sysctls = true;
    let file = OwnedFile {
        path: sysctls::FILE.to_owned(),
        contents: String::new(),
    };
    observed.host.files = vec![(file.clone(), OwnFile::Differs)];
    let own = Scope::Address("203.0.113.2".to_owned());
    for scope in [Scope::Host, own] {
        assert_eq!(
            plan(&inventory(&[], &[]), &observed, &scope),
            [
                Step::SetSysctl("a".to_owned(), 1),
                Step::WriteFile(file.clone()),
                Step::RestoreSysctls(observed.host.wishes.clone()),
            ],
            "{scope:?}"
        );
    }
}

#[test]
fn a_bridge_that_was_renamed_gets_its_name_back_and_a_second_one_goes() {
    let mut renamed = network();
    renamed.links[1].name = "br7".to_owned();
    renamed.links[1].kind = Some("bridge".to_owned());
    let rename = Step::RenameBridge {
        index: 3,
        from: "br7".to_owned(),
        to: "br0".to_owned(),
    };
    assert_eq!(steps(renamed.clone()), [rename]);
    let mut two = network();
    let mut second = renamed.links[1].clone();
    second.index = 7;
    two.links.push(second);
    let remove = Step::RemoveBridge {
        index: 7,
        name: "br7".to_owned(),
    };
    assert_eq!(steps(two.clone()), [remove]);
    two.links.push(crate::system::netlink::Link {
        index: 8,
        name: "eth1".to_owned(),
        bridge: Some(7),
        ..crate::system::netlink::Link::default()
    });
    assert_eq!(steps(two), [], "others use it");
    let mut foreign = renamed;
    foreign.links[1].alias = None;
    assert!(matches!(&steps(foreign)[..], [Step::MakeBridge(_)]));
}

#[test]
fn a_folder_that_others_may_write_to_is_closed_before_what_is_in_it_is_mended() {
    let mut observed = observation(network());
    observed.host.is_without_program = true;
    observed.host.open_folders = vec![(install::FOLDER.into(), 0o755)];
    let found = plan(&inventory(&[], &[]), &observed, &Scope::All);
    assert_eq!(
        found,
        [
            Step::CloseFolder(install::FOLDER.into(), 0o755),
            Step::PutBackProgram
        ]
    );
}
