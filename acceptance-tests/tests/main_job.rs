//! The main job: three containers with public addresses from one apply, and a server as it was after destroy.

use std::{net::SocketAddr, time::Duration};

use acceptance_tests::{
    Hosts, Lab, configuration, images::Guest, probe::Probe, snapshot::Snapshot,
};
use anyhow::{Context, Result, ensure};

const GUESTS: [(&str, &str, &str); 3] = [
    ("web", "203.0.113.2", "2001:db8:1::2"),
    ("db", "203.0.113.3", "2001:db8:1::3"),
    (
        "a-guest-with-a-name-longer-than-a-link",
        "203.0.113.4",
        "2001:db8:1::4",
    ),
];

fn whole_configuration(lab: &Lab) -> Result<String> {
    let mut text = configuration::host(lab.vps1(), "") + &configuration::image(Guest::Debian)?;
    for (name, ipv4, ipv6) in GUESTS {
        text += &configuration::container(name, "");
        text += &configuration::address(&format!("{name}-4"), ipv4, name);
        text += &configuration::address(&format!("{name}-6"), ipv6, name);
    }
    Ok(text)
}

/// Every address answers from outside; the guests leave with their own address as source.
fn assert_reachable(lab: &Lab) -> Result<()> {
    for (name, ipv4, ipv6) in GUESTS {
        for address in [ipv4, ipv6] {
            lab.ping(address)?;
            let banner = lab.tcp(address, 7777)?;
            ensure!(
                banner.starts_with(name),
                "{address} answers as {banner:?}, not as {name}"
            );
            // The guest saw the operator's own address: nothing on the way rewrites it.
            let peer = if address.contains(':') {
                "2001:db8:ffff::2"
            } else {
                "198.51.100.2"
            };
            ensure!(
                banner.contains(peer),
                "{address} saw {banner:?} as its peer, not {peer}"
            );
        }
    }
    let ruleset = lab.vps1().root("nft list ruleset")?;
    ensure!(
        ruleset.contains("table bridge"),
        "the filter is missing:\n{ruleset}"
    );
    for word in ["type nat", "masquerade", "snat", "dnat to"] {
        ensure!(!ruleset.contains(word), "there is a nat rule:\n{ruleset}");
    }
    Ok(())
}

/// A connection from the guest to the operator arrives with the guest's own public address.
fn assert_source_is_own(lab: &Lab) -> Result<()> {
    for (name, ipv4, ipv6) in GUESTS {
        for (own, peer) in [(ipv4, "198.51.100.2"), (ipv6, "2001:db8:ffff::2")] {
            let listener = lab.client().listen(SocketAddr::new(peer.parse()?, 0))?;
            let port = listener.local_addr()?.port();
            let seen = std::thread::spawn(move || {
                listener.accept().map(|(_, from)| from.ip().to_string())
            });
            lab.vps1()
                .guest(name, &format!("bash -c \"exec 3<>/dev/tcp/{peer}/{port}\""))?;
            let seen = seen
                .join()
                .map_err(|_| anyhow::anyhow!("the listener panicked"))??;
            ensure!(seen == own, "{name} came as {seen}, not as {own}");
        }
    }
    Ok(())
}

#[test]
fn three_containers_come_and_go_and_leave_nothing() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    // The machine-wide sysctls are shared with the labs of other tests; promise_is_dense, which runs alone, compares them.
    let before = Snapshot::take(lab.vps1())?.without_shared();
    let probe = Probe::start(lab.vps1(), Duration::from_millis(200))?;
    let terraform = lab.terraform(&whole_configuration(&lab)?)?;

    terraform.apply()?;
    assert_reachable(&lab)?;
    assert_source_is_own(&lab)?;
    terraform
        .assert_plan_is_empty()
        .context("the second plan")?;

    let mut imports = vec![
        (
            "nspawn_host.vps1".to_owned(),
            "root@203.0.113.1:22".to_owned(),
        ),
        (
            "nspawn_image.debian".to_owned(),
            "root@203.0.113.1:22/debian".to_owned(),
        ),
    ];
    for (name, ipv4, ipv6) in GUESTS {
        imports.push((
            format!("nspawn_container.{name}"),
            format!("root@203.0.113.1:22/{name}"),
        ));
        imports.push((
            format!("nspawn_public_address.{name}-4"),
            format!("root@203.0.113.1:22/{ipv4}"),
        ));
        imports.push((
            format!("nspawn_public_address.{name}-6"),
            format!("root@203.0.113.1:22/{ipv6}"),
        ));
    }
    for (resource, id) in &imports {
        terraform.forget(resource)?;
        terraform.import(resource, id)?;
    }
    terraform
        .assert_plan_is_empty()
        .context("the plan after all was imported")?;

    terraform.destroy()?;
    let seen = probe.finish()?;
    ensure!(
        seen.logins > 10 && seen.echoes > 10,
        "the probe saw too little: {seen:?}"
    );
    before.comes_back(lab.vps1())
}

#[test]
fn a_reboot_brings_everything_back_without_a_provider() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(&whole_configuration(&lab)?)?;
    terraform.apply()?;
    lab.vps1().reboot()?;
    assert_reachable(&lab)?;
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}
