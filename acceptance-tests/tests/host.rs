//! `nspawn_host`: other Debians, other users, other names of the uplink, and what it installs.

use std::time::Duration;

use acceptance_tests::{
    Flavour, Hosts, Lab, Snapshot, User, command::wait_until, configuration, images::Guest,
};
use anyhow::{Result, ensure};
use serde_json::Value;

fn one_guest(lab: &Lab) -> Result<String> {
    one_guest_on(lab, "")
}

fn one_guest_on(lab: &Lab, more: &str) -> Result<String> {
    Ok(configuration::host(lab.vps1(), more)
        + &configuration::image(Guest::Debian)?
        + &configuration::container("web", "")
        + &configuration::address("web4", "203.0.113.2", "web")
        + &configuration::address("web6", "2001:db8:1::2", "web"))
}

/// What the kernel sets along with forwarding for all, set another way by an administrator.
const HARDENED: &str = "ip link add internal address 02:00:00:00:00:07 type bridge
    sysctl -qw net.ipv4.conf.all.accept_redirects=0 \
        net.ipv4.conf.internal.forwarding=1 net.ipv6.conf.internal.forwarding=1";

/// How that shows in a listing.
const HARDENED_LISTED: [&str; 3] = [
    "net.ipv4.conf.all.accept_redirects = 0",
    "net.ipv4.conf.internal.forwarding = 1",
    "net.ipv6.conf.internal.forwarding = 1",
];

fn comes_and_goes(lab: &Lab) -> Result<()> {
    lab.vps1().root(HARDENED)?;
    // The machine-wide sysctls are shared with the labs of other tests.
    let before = Snapshot::take(lab.vps1())?.without_shared();
    for line in HARDENED_LISTED {
        let mut listed = before.section("sysctl-network");
        ensure!(listed.any(|found| found == line), "{line:?} is not listed");
    }
    let terraform = lab.terraform(&one_guest(lab)?)?;
    terraform.apply()?;
    for address in ["203.0.113.2", "2001:db8:1::2"] {
        lab.ping(address)?;
        lab.answers_as(address, "web")?;
    }
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    before.comes_back(lab.vps1())
}

#[test]
fn debian_12_with_another_uplink_and_a_user_with_sudo() -> Result<()> {
    let lab = Lab::start(
        Hosts::one()
            .flavour(Flavour::Bookworm)
            .uplink("enp1s0")
            .user(User::Admin),
    )?;
    comes_and_goes(&lab)
}

#[test]
fn debian_13_with_a_user_with_sudo() -> Result<()> {
    let lab = Lab::start(Hosts::one().uplink("ens3").user(User::Admin))?;
    comes_and_goes(&lab)
}

#[test]
fn missing_packages_are_installed_or_named() -> Result<()> {
    let lab = Lab::start(Hosts::one().flavour(Flavour::Bare))?;
    let terraform = lab.terraform(&configuration::host(
        lab.vps1(),
        "  install_packages = false",
    ))?;
    let refused = terraform.apply_fails()?;
    ensure!(
        refused.contains("systemd-container") && refused.contains("install_packages"),
        "{refused}"
    );
    terraform.configure(&one_guest(&lab)?)?;
    terraform.apply()?;
    lab.answers_as("203.0.113.2", "web")?;
    terraform.destroy()?;
    let left = lab
        .vps1()
        .root("find / -xdev -name '*nspawn-agent*' -o -xdev -name '*nspawn_agent*'")?;
    ensure!(left.is_empty(), "something is left:\n{left}");
    Ok(())
}

#[test]
fn a_server_that_still_boots_is_waited_for() -> Result<()> {
    let lab = Lab::prepare(Hosts::one())?;
    let terraform = lab.terraform(&configuration::host(lab.vps1(), ""))?;
    let apply = terraform.start(&["apply", "-auto-approve", "-input=false"])?;
    wait_until("the apply begins", Duration::from_mins(1), || {
        ensure!(apply.printed().contains("nspawn_host.vps1: Creating..."));
        Ok(())
    })?;
    lab.vps1().power_on()?;
    apply.wait(Duration::from_mins(2))?.checked()?;
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}

#[test]
fn another_way_to_the_same_machine_is_an_update_in_place() -> Result<()> {
    let lab = Lab::start(Hosts::two())?;
    let text = one_guest(&lab)?;
    let terraform = lab.terraform(&text)?;
    terraform.apply()?;
    let created = lab
        .vps1()
        .root("systemctl show --value -p ExecMainStartTimestampMonotonic systemd-nspawn@web")?;

    // Its IPv6 address, and through the other server as a bastion.
    let bastion = format!(
        "bastion = {{ address = \"192.0.2.1\", host_key = \"{}\" }}",
        lab.vps2().host_key()?
    );
    let moved = text.replace(
        "address = \"203.0.113.1\"",
        &format!("address = \"2001:db8:1::1\"\n  {bastion}"),
    );
    terraform.configure(&moved)?;
    let output = terraform.run(&["apply", "-auto-approve", "-input=false", "-refresh=false"])?;
    ensure!(
        output.success() && output.stdout.contains("0 destroyed"),
        "{}{}",
        output.stdout,
        output.stderr
    );
    terraform.assert_plan_is_empty()?;
    let id = terraform.resource("nspawn_container.web")?["id"].clone();
    ensure!(id == "root@[2001:db8:1::1]:22/web", "{id}");
    let now = lab
        .vps1()
        .root("systemctl show --value -p ExecMainStartTimestampMonotonic systemd-nspawn@web")?;
    ensure!(now == created, "the guest was restarted");

    // Another machine is not the same host.
    terraform.configure(&text.replace("203.0.113.1", "192.0.2.1"))?;
    let refused = terraform.run(&["apply", "-auto-approve", "-input=false", "-refresh=false"])?;
    ensure!(
        !refused.success() && refused.stderr.contains("machine"),
        "{}",
        refused.stderr
    );
    terraform.configure(&moved)?;
    terraform.destroy()?;
    Ok(())
}

#[test]
fn nesting_and_isolation_are_switched_live_and_taken_back() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let guest = configuration::image(Guest::Debian)? + &configuration::container("web", "");
    let host = |more: &str| configuration::host(lab.vps1(), more) + &guest;
    let terraform = lab.terraform(&host("  nesting = true\n  isolation = false"))?;
    terraform.apply()?;
    ensure!(
        lab.vps1().root("nft list tables")?.trim().is_empty(),
        "the filter is there"
    );
    ensure!(
        lab.vps1()
            .root("cat /etc/sysctl.d/90-nspawn-agent.conf")?
            .contains("overcommit_memory")
    );
    terraform.assert_plan_is_empty()?;
    terraform.configure(&host(""))?;
    terraform.apply()?;
    ensure!(
        lab.vps1()
            .root("nft list tables")?
            .contains("bridge nspawn_agent")
    );
    ensure!(
        !lab.vps1()
            .root("cat /etc/sysctl.d/90-nspawn-agent.conf")?
            .contains("overcommit_memory")
    );
    ensure!(lab.vps1().guest("web", "echo alive")?.trim() == "alive");
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}

/// As a VPN brings its own; the operator is still reached over the uplink.
const ANOTHER_DEFAULT_ROUTE: &str = "ip link add vpn0 type veth peer name vpn1
    for link in vpn0 vpn1; do ip link set $link addrgenmode none; ip link set $link up; done
    ip route add 198.51.100.0/24 via 172.31.1.1 dev eth0 onlink
    ip -6 route add 2001:db8:ffff::/64 via fe80::1 dev eth0
    ip route prepend default dev vpn0
    ip -6 route add default dev vpn0 metric 1
    ip -4 route get 192.0.2.9; ip -6 route get 2001:db8:2::9";

#[test]
fn another_default_route_does_not_move_the_uplink() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(&one_guest(&lab)?)?;
    terraform.apply()?;
    let ways = lab.vps1().root(ANOTHER_DEFAULT_ROUTE)?;
    ensure!(
        ways.matches("dev vpn0").count() == 2,
        "the other default routes aren't better:\n{ways}"
    );
    terraform.configure(&one_guest_on(&lab, "  install_packages = false")?)?;
    terraform.apply()?;
    let host = terraform.resource("nspawn_host.vps1")?;
    ensure!(host["uplink"] == "eth0", "{host}");
    let moved = lab.vps1().root("ip neigh show proxy dev vpn0")?;
    ensure!(moved.is_empty(), "guests' addresses moved:\n{moved}");
    for address in ["203.0.113.2", "2001:db8:1::2"] {
        lab.ping(address)?;
        lab.answers_as(address, "web")?;
    }
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}

#[test]
fn every_attribute_has_a_description() -> Result<()> {
    fn undescribed(path: &str, attributes: &Value, found: &mut Vec<String>) {
        for (name, attribute) in attributes.as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if attribute["description"].as_str().unwrap_or_default().len() < 10 {
                found.push(path.clone());
            }
            undescribed(&path, &attribute["nested_type"]["attributes"], found);
        }
    }
    let lab = Lab::prepare(Hosts(Vec::new()))?;
    let terraform = lab.terraform("")?;
    let text = terraform
        .run(&["providers", "schema", "-json"])?
        .checked()?;
    let schema: Value = serde_json::from_str(&text)?;
    let provider = &schema["provider_schemas"]
        .as_object()
        .and_then(|all| all.values().next())
        .cloned()
        .unwrap_or_default();
    let mut found = Vec::new();
    undescribed(
        "provider",
        &provider["provider"]["block"]["attributes"],
        &mut found,
    );
    let resources = provider["resource_schemas"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    ensure!(resources.len() == 4, "{:?}", resources.keys());
    for (name, resource) in &resources {
        undescribed(name, &resource["block"]["attributes"], &mut found);
    }
    ensure!(found.is_empty(), "without a description: {found:?}");
    Ok(())
}

#[test]
fn facts_are_the_machines_own() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(&configuration::host(lab.vps1(), ""))?;
    terraform.apply()?;
    let host = terraform.resource("nspawn_host.vps1")?;
    let told = lab.vps1().root(
        "cat /etc/machine-id; uname -r; uname -m; . /etc/os-release; echo \"$PRETTY_NAME\"; nproc",
    )?;
    let told: Vec<&str> = told.lines().collect();
    let said = ["machine_id", "kernel", "architecture", "os"]
        .map(|name| host[name].as_str().unwrap_or_default().to_owned());
    ensure!(
        said.iter().map(String::as_str).collect::<Vec<_>>() == told[..4],
        "{said:?} is not {told:?}"
    );
    ensure!(host["cpus"].to_string() == told[4]);
    ensure!(
        host["ipv4_address"] == "203.0.113.1" && host["ipv6_address"] == "2001:db8:1::1",
        "{host}"
    );
    terraform.destroy()?;
    Ok(())
}

#[test]
fn destroy_is_refused_while_containers_of_others_are_left() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(&one_guest(&lab)?)?;
    terraform.apply()?;
    terraform.forget("nspawn_container.web")?;
    let refused = terraform.run(&["destroy", "-auto-approve", "-input=false"])?;
    ensure!(
        !refused.success() && refused.stderr.contains("web"),
        "{}",
        refused.stderr
    );
    ensure!(
        lab.vps1()
            .root("systemctl is-active systemd-nspawn@web.service")?
            .trim()
            == "active"
    );
    terraform.configure(&one_guest(&lab)?)?;
    terraform.import("nspawn_container.web", "root@203.0.113.1:22/web")?;
    terraform.destroy()?;
    Ok(())
}

/// A machine of somebody else's that failed, and has no process while it waits for its restart.
const WAITS: &str =
    "systemd-run -q --unit=waits --slice=machine.slice -p Restart=always -p RestartSec=1h false";

#[test]
fn destroy_leaves_what_others_have_come_to_rely_on() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let vps = lab.vps1();
    vps.root("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")?;
    let terraform = lab.terraform(&configuration::host(vps, ""))?;
    terraform.apply()?;
    vps.root("echo 'net.ipv4.ip_forward = 1' > /etc/sysctl.d/99-vpn.conf")?;
    vps.root(WAITS)?;
    let waits = || {
        let state = vps.root("systemctl show --value -p SubState waits.service")?;
        ensure!(state.trim().starts_with("auto-restart"), "it is {state}");
        Ok(())
    };
    wait_until("it waits", Duration::from_secs(20), waits)?;
    terraform.destroy()?;
    waits()?;
    let forwarding = vps.root("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding")?;
    ensure!(forwarding.split_whitespace().eq(["1", "0"]), "{forwarding}");
    Ok(())
}
