//! `nspawn_public_address`: attached, moved and detached while the guests run.

use std::time::{Duration, Instant};

use acceptance_tests::{Hosts, Lab, configuration, images::Guest};
use anyhow::{Result, ensure};

fn two_guests(lab: &Lab, image: Guest) -> Result<String> {
    Ok(configuration::host(lab.vps1(), "")
        + &configuration::image(image)?
        + &configuration::container("blue", "")
        + &configuration::container("green", ""))
}

/// When the guest was started, by which a restart shows.
fn started(lab: &Lab, guest: &str) -> Result<String> {
    lab.vps1().root(&format!(
        "systemctl show -p ExecMainStartTimestampMonotonic systemd-nspawn@{guest}.service"
    ))
}

#[test]
fn an_address_moves_to_another_running_guest_within_a_second() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let guests = two_guests(&lab, Guest::Debian)?;
    let with_addresses_at = |container: &str| {
        guests.clone()
            + &configuration::address("floating-4", "203.0.113.50", container)
            + &configuration::address("floating-6", "2001:db8:1::50", container)
    };
    let terraform = lab.terraform(&with_addresses_at("blue"))?;
    terraform.apply()?;
    for address in ["203.0.113.50", "2001:db8:1::50"] {
        let banner = lab.tcp(address, 7777)?;
        ensure!(
            banner.starts_with("blue"),
            "{address} answers as {banner:?}"
        );
    }
    let before = (started(&lab, "blue")?, started(&lab, "green")?);

    terraform.configure(&with_addresses_at("green"))?;
    let plan = terraform.plan()?;
    ensure!(
        plan.contains("2 to change") && plan.contains("0 to destroy"),
        "not in place:\n{plan}"
    );
    ensure!(
        plan.contains("Warning"),
        "no warning that an address moves:\n{plan}"
    );
    let apply = terraform.start(&["apply", "-auto-approve", "-input=false"])?;
    // The last answer as blue and the first as green, by connections tried without a pause.
    let deadline = Instant::now() + Duration::from_mins(1);
    for address in ["203.0.113.50", "2001:db8:1::50"] {
        let socket = std::net::SocketAddr::new(address.parse()?, 7777);
        let mut last_blue = Instant::now();
        loop {
            ensure!(
                Instant::now() < deadline,
                "{address} never answered as green"
            );
            match lab.client().banner(socket, Duration::from_millis(200)) {
                Ok(banner) if banner.starts_with("blue") => last_blue = Instant::now(),
                Ok(banner) if banner.starts_with("green") => break,
                _ => {}
            }
        }
        let dark = last_blue.elapsed();
        ensure!(
            dark < Duration::from_secs(1),
            "{address} was dark for {dark:?}"
        );
    }
    apply.wait(Duration::from_mins(1))?.checked()?;
    ensure!(
        before == (started(&lab, "blue")?, started(&lab, "green")?),
        "a guest was restarted"
    );
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}

#[test]
fn an_address_waits_for_its_container_and_survives_its_replacement() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let base = configuration::host(lab.vps1(), "") + &configuration::image(Guest::Debian)?;
    let address = configuration::address("early", "203.0.113.60", "late");
    let terraform = lab.terraform(&(base.clone() + &address))?;
    terraform.apply()?;
    ensure!(terraform.resource("nspawn_public_address.early")?["attached"] == false);
    terraform.assert_plan_is_empty()?;

    terraform.configure(&(base.clone() + &address + &configuration::container("late", "")))?;
    terraform.apply()?;
    lab.answers_as("203.0.113.60", "late")?;
    terraform.assert_plan_is_empty()?;

    // Another storage replaces the container; the address stays and answers from the new one.
    terraform.configure(
        &(base + &address + &configuration::container("late", "  storage = \"copy\"")),
    )?;
    let plan = terraform.plan()?;
    ensure!(
        plan.contains("must be replaced") && plan.contains("1 to add, 0 to change, 1 to destroy"),
        "{plan}"
    );
    terraform.apply()?;
    lab.answers_as("203.0.113.60", "late")?;
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}

#[test]
fn a_guest_without_networkd_keeps_its_addresses_over_a_restart() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(
        &(two_guests(&lab, Guest::WithoutNetworkd)?
            + &configuration::address("plain-4", "203.0.113.70", "blue")
            + &configuration::address("plain-6", "2001:db8:1::70", "blue")),
    )?;
    terraform.apply()?;
    for restart in [false, true] {
        if restart {
            lab.vps1()
                .root("systemctl restart systemd-nspawn@blue.service")?;
        }
        for address in ["203.0.113.70", "2001:db8:1::70"] {
            let banner = lab.tcp(address, 7777)?;
            ensure!(
                banner.starts_with("blue"),
                "{address} answers as {banner:?}"
            );
        }
    }
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}

#[test]
fn a_guest_with_networkd_keeps_its_addresses_when_networkd_restarts() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(
        &(two_guests(&lab, Guest::Debian)?
            + &configuration::address("plain-4", "203.0.113.70", "blue")
            + &configuration::address("plain-6", "2001:db8:1::70", "blue")),
    )?;
    terraform.apply()?;
    lab.vps1().guest(
        "blue",
        "systemctl restart systemd-networkd && networkctl reconfigure host0",
    )?;
    lab.vps1().guest("blue", "/usr/lib/systemd/systemd-networkd-wait-online --interface=host0 --timeout=20 || networkctl status host0")?;
    for address in ["203.0.113.70", "2001:db8:1::70"] {
        lab.ping(address)?;
    }
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}

#[test]
fn a_routed_prefix_needs_no_proxy() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(
        &(two_guests(&lab, Guest::Debian)?
            + &configuration::address_with(
                "block",
                "2001:db8:1:0:5::/80",
                "blue",
                "  proxy = false",
            )),
    )?;
    terraform.apply()?;
    let proxies = lab.vps1().root("ip neigh show proxy")?;
    ensure!(
        proxies.trim().is_empty(),
        "there are neighbour proxies:\n{proxies}"
    );
    let routes = lab.vps1().root("ip -6 route show 2001:db8:1:0:5::/80")?;
    ensure!(
        routes.contains("br0"),
        "the prefix is not routed to the bridge: {routes:?}"
    );
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}

#[test]
fn honest_traffic_between_guests_loses_nothing() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let mut text = two_guests(&lab, Guest::Debian)?;
    for (label, address, guest) in [
        ("b4", "203.0.113.80", "blue"),
        ("b6", "2001:db8:1::80", "blue"),
        ("g4", "203.0.113.81", "green"),
        ("g6", "2001:db8:1::81", "green"),
    ] {
        text += &configuration::address(label, address, guest);
    }
    let terraform = lab.terraform(&text)?;
    terraform.apply()?;
    for (from, to) in [
        ("blue", "203.0.113.81"),
        ("blue", "2001:db8:1::81"),
        ("green", "203.0.113.80"),
        ("green", "2001:db8:1::80"),
        ("green", "203.0.113.1"),
    ] {
        let report = lab
            .vps1()
            .guest(from, &format!("ping -n -q -c 50 -i 0.02 -W 1 {to} || true"))?;
        ensure!(
            report.contains(" 0% packet loss"),
            "{from} to {to}:\n{report}"
        );
    }
    terraform.destroy()?;
    Ok(())
}

#[test]
fn an_address_may_be_unknown_in_the_plan() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    // As hcloud_floating_ip.x.ip_address is: known only after something else was made.
    let bought = "resource \"terraform_data\" \"floating\" {\n  input = \"203.0.113.90\"\n}\n";
    let address = configuration::address("bought", "X", "blue")
        .replace("\"X\"", "terraform_data.floating.output");
    let terraform = lab.terraform(&(two_guests(&lab, Guest::Debian)? + bought + &address))?;
    let plan = terraform.plan()?;
    ensure!(plan.contains("address   = (known after apply)"), "{plan}");
    terraform.apply()?;
    lab.answers_as("203.0.113.90", "blue")?;
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}
