use super::*;
use crate::{
    container::tests::{container, machine},
    guest,
    system::netlink::{Link, Network},
    testing,
};

#[test]
fn each_deviation_is_a_sentence() {
    let desired = container("web");
    assert_eq!(drift(&desired, &machine()), [""; 0]);
    let wrong = Machine {
        settings: OwnFile::Differs,
        drop_in: OwnFile::Missing,
        autostart: false,
        is_masked: true,
        has_port: false,
        is_mounted: false,
        inside: Inside::Changed(vec!["etc/hostname".to_owned()]),
        lacks_tree: true,
        has_lost_root: true,
        runs_as_it_should: false,
        ..machine()
    };
    assert_eq!(
        drift(&desired, &wrong),
        [
            "the file /etc/systemd/nspawn/web.nspawn was changed",
            "the file /etc/systemd/system/systemd-nspawn@web.service.d/nspawn-agent.conf is missing",
            "the container web does not start with the host",
            "systemd-nspawn@web.service is masked by somebody, so that it doesn't start; undo that on the host: \
             systemctl unmask systemd-nspawn@web.service",
            "the image's tree that web stands on is missing",
            "the files that the container web stands on were removed; the next apply restarts it",
            "the container web runs with settings of before its last change; the next apply restarts it",
            "the interface vb-web of the container web is gone, and its network with it; the next apply restarts it",
            "the mount at /var/lib/machines/web is missing",
            "the file /etc/hostname in the guest was changed",
        ]
    );
    let down = Machine {
        unit: UnitState::not_loaded(),
        is_mounted: false,
        ..machine()
    };
    assert_eq!(
        drift(&desired, &down),
        ["systemd-nspawn@web.service is inactive"]
    );
    let hanging = Machine {
        inside: Inside::Hangs,
        ..machine()
    };
    assert_eq!(
        drift(&desired, &hanging),
        ["the files in the guest web can't be looked at: whoever looks one up there hangs"]
    );
    let failing = Machine {
        unit: UnitState {
            active: "activating".to_owned(),
            sub: "start".to_owned(),
        },
        keeps_failing: true,
        is_mounted: false,
        ..machine()
    };
    assert_eq!(status(&desired, &failing), Status::Failed);
    assert_eq!(
        drift(&desired, &failing),
        ["systemd-nspawn@web.service fails, and is started again"]
    );
    let going = Machine {
        unit: UnitState {
            active: "deactivating".to_owned(),
            sub: "stop-post".to_owned(),
        },
        is_mounted: false,
        ..machine()
    };
    assert_eq!(
        drift(&desired, &going),
        ["systemd-nspawn@web.service is deactivating"]
    );
}

#[test]
fn only_guests_that_go_on_running_are_looked_into() {
    let mut inventory = testing::inventory(&["down", "to-stop", "web"], &[]);
    let name = |text: &str| text.parse::<MachineName>().unwrap();
    let to_stop = inventory.containers.get_mut(&name("to-stop")).unwrap();
    to_stop.desired.running = false;
    let mut machines: BTreeMap<MachineName, Machine> = ["down", "to-stop", "unknown", "web"]
        .map(|text| (name(text), machine()))
        .into();
    machines.get_mut(&name("down")).unwrap().unit = UnitState::not_loaded();
    let found: Vec<_> = staying(&inventory, &mut machines)
        .map(|(stored, _)| stored.desired.name.to_string())
        .collect();
    assert_eq!(found, ["web"]);
}

#[test]
fn leaders() {
    let text = "# This is private data. Do not parse.\nNAME=web\nLEADER=248\nCLASS=container\n";
    assert_eq!(parse_leader(text), Some(248));
    for text in ["", "LEADER=\n", "LEADER=-1", "LEADER=1", "OLEADER=7"] {
        assert_eq!(parse_leader(text), None, "{text}");
    }
}

#[test]
fn statuses() {
    let mut desired = container("web");
    let machine = |active: &str, sub: &str| Machine {
        unit: UnitState {
            active: active.to_owned(),
            sub: sub.to_owned(),
        },
        ..machine()
    };
    let of = |active: &str, system: Option<&str>| {
        let mut machine = machine(active, "");
        machine.system_state = system.map(str::to_owned);
        status(&desired, &machine)
    };
    assert_eq!(of("active", Some("running")), Status::Running);
    assert_eq!(of("activating", None), Status::Running);
    assert_eq!(of("active", Some("degraded")), Status::Degraded);
    assert_eq!(of("failed", None), Status::Failed);
    assert_eq!(of("inactive", None), Status::Stopped);
    let going = |sub| machine("deactivating", sub);
    for sub in ["stop-post", "final-sigterm"] {
        assert_eq!(status(&desired, &going(sub)), Status::Stopped, "{sub}");
    }
    let shuts_down = going("stop-sigterm");
    assert_eq!(status(&desired, &shuts_down), Status::Running);
    desired.running = false;
    for machine in [
        going("stop-post"),
        machine("activating", "auto-restart"),
        shuts_down,
    ] {
        assert_eq!(status(&desired, &machine), Status::Running, "it isn't down");
    }
    assert_eq!(
        status(&desired, &machine("failed", "failed")),
        Status::Failed
    );
}

#[test]
fn a_link_that_a_guest_renamed_or_gave_another_address_is_told() {
    let inventory = testing::inventory(&["web"], &[]);
    let name = "web".parse::<MachineName>().unwrap();
    let mac = mac::mac_address(
        mac::parse_machine_id(testing::MACHINE_ID).unwrap(),
        name.as_str(),
    );
    let link = |name: &str, mac: [u8; 6]| Link {
        index: 2,
        name: name.to_owned(),
        mac: mac.to_vec(),
        ..Link::default()
    };
    let told = |links: Option<Vec<Link>>| {
        let mut observed = testing::observation(testing::network());
        observed.facts.machine_id = testing::MACHINE_ID.to_owned();
        observed.containers.machines = [(name.clone(), machine())].into();
        let guest = guest::network::Guest {
            leader: Some(7),
            file: None,
            network: links.map(|links| Network {
                links,
                ..Network::default()
            }),
        };
        observed.guests = [(name.clone(), guest)].into();
        state(&inventory.containers[&name], &observed).1
    };
    assert_eq!(told(None), [""; 0], "it ends just now");
    assert_eq!(told(Some(vec![link("host0", mac)])), [""; 0]);
    for links in [vec![], vec![link("eth0", mac)], vec![link("host0", [2; 6])]] {
        let told = told(Some(links));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("host0 is gone inside the container web"));
    }
}
