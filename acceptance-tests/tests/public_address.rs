//! `nspawn_public_address`: attached, moved and detached while the guests run.

use std::time::{Duration, SystemTime};

use acceptance_tests::{
    Lab, Terraform,
    command::{Process, wait_until},
    configuration,
    images::Guest,
    pings,
    shared::Shared,
};
use anyhow::{Result, ensure};
use rustix::process::Signal;

#[test]
fn addresses_come_move_and_go_while_the_guests_run() -> Result<()> {
    let two_guests = |lab: &Lab| -> Result<String> {
        Ok(configuration::host(lab.vps1(), "")
            + &configuration::image(Guest::Debian)?
            + &configuration::container("blue", "")
            + &configuration::container("green", ""))
    };
    Shared::start(two_guests)?.try_each(&[
        ("it moves to another running guest within a second", moves),
        (
            "it waits for its container and survives its replacement",
            waits_and_survives,
        ),
        (
            "a guest without networkd keeps its addresses over a restart",
            without_networkd,
        ),
        (
            "a guest with networkd keeps its addresses when networkd restarts",
            networkd_restarts,
        ),
        (
            "two resources change places in one apply",
            two_change_places,
        ),
        ("a routed prefix needs no proxy", routed_prefix),
        (
            "honest traffic between guests loses nothing",
            honest_traffic,
        ),
        ("it may be unknown in the plan", unknown_in_the_plan),
    ])
}

/// When the guest was started, by which a restart shows.
fn started(lab: &Lab, guest: &str) -> Result<String> {
    lab.vps1().root(&format!(
        "systemctl show -p ExecMainStartTimestampMonotonic systemd-nspawn@{guest}.service"
    ))
}

const FLOATING: [&str; 2] = ["203.0.113.50", "2001:db8:1::50"];

/// A busy machine may be late; a host that moves an address in time once can.
const TRIES: usize = 3;

/// Pings an address until it is ended.
fn ping(lab: &Lab, address: &str) -> Result<Process> {
    let mut ping = lab.client().command("ping");
    let ping = Process::spawn(ping.args(["-n", "-D", "-i", "0.02", address]))?;
    let what = format!("{address} answers a ping");
    wait_until(&what, Duration::from_secs(30), || {
        ensure!(ping.printed().contains(" bytes from "), "it doesn't");
        Ok(())
    })?;
    Ok(ping)
}

/// Moves both addresses; for how long the one was dark that was longer. By pings, for systemd's socket in the guests
/// takes a rest from those who connect without a pause. systemd.socket(5), PollLimitIntervalSec=
fn move_both(lab: &Lab, terraform: &Terraform, to: &str) -> Result<Duration> {
    let pings = FLOATING.map(|address| ping(lab, address));
    let pings = pings.into_iter().collect::<Result<Vec<_>>>()?;
    terraform.apply()?;
    let mut longest = Duration::ZERO;
    for (address, ping) in FLOATING.into_iter().zip(pings) {
        lab.answers_as(address, to)?;
        let until = SystemTime::now();
        ping.signal(Signal::INT)?;
        let printed = ping.wait(Duration::from_secs(30))?.stdout;
        longest = longest.max(pings::longest_gap(&printed, until)?);
    }
    Ok(longest)
}

fn moves(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    let with_addresses_at = |container: &str| {
        configuration::address("floating-4", FLOATING[0], container)
            + &configuration::address("floating-6", FLOATING[1], container)
    };
    site.configure(&with_addresses_at("blue"))?;
    terraform.apply()?;
    for address in FLOATING {
        lab.answers_as(address, "blue")?;
    }
    let before = (started(lab, "blue")?, started(lab, "green")?);
    let (mut to, mut next, mut dark) = ("green", "blue", Vec::new());
    while dark
        .last()
        .is_none_or(|dark| *dark >= Duration::from_secs(1))
    {
        ensure!(dark.len() < TRIES, "the addresses were dark for {dark:?}");
        site.configure(&with_addresses_at(to))?;
        let plan = terraform.plan()?;
        ensure!(
            plan.contains("2 to change") && plan.contains("0 to destroy"),
            "not in place:\n{plan}"
        );
        ensure!(
            plan.contains("Warning"),
            "no warning that an address moves:\n{plan}"
        );
        dark.push(move_both(lab, terraform, to)?);
        (to, next) = (next, to);
    }
    eprintln!("the addresses were dark for {dark:?}");
    ensure!(
        before == (started(lab, "blue")?, started(lab, "green")?),
        "a guest was restarted"
    );
    terraform.assert_plan_is_empty()
}

/// Terraform puts the destroy of the one and the create of the other in no order.
fn two_change_places(site: &Shared) -> Result<()> {
    let (addresses, names) = (["203.0.113.70", "203.0.113.71"], ["left", "right"]);
    let at = |turn: usize| {
        let (one, other) = (turn % 2, (turn + 1) % 2);
        let containers = [("one", names[one]), ("other", names[other])].map(|(label, name)| {
            configuration::container(name, "").replacen(
                &format!("\"nspawn_container\" \"{name}\""),
                &format!("\"nspawn_container\" \"{label}\""),
                1,
            )
        });
        containers.concat()
            + &configuration::address("one", addresses[one], "left")
            + &configuration::address("other", addresses[other], "right")
    };
    for turn in 0..5 {
        site.configure(&at(turn))?;
        site.terraform.apply()?;
        site.lab.answers_as(addresses[turn % 2], "left")?;
        site.lab.answers_as(addresses[(turn + 1) % 2], "right")?;
        site.terraform.assert_plan_is_empty()?;
    }
    Ok(())
}

fn waits_and_survives(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    let address = configuration::address("early", "203.0.113.60", "late");
    site.configure(&address)?;
    terraform.apply()?;
    ensure!(terraform.resource("nspawn_public_address.early")?["attached"] == false);
    terraform.assert_plan_is_empty()?;

    site.configure(&(address.clone() + &configuration::container("late", "")))?;
    terraform.apply()?;
    lab.answers_as("203.0.113.60", "late")?;
    terraform.assert_plan_is_empty()?;

    // Another storage replaces the container; the address stays and answers from the new one.
    site.configure(&(address + &configuration::container("late", "  storage = \"copy\"")))?;
    let plan = terraform.plan()?;
    ensure!(
        plan.contains("must be replaced") && plan.contains("1 to add, 0 to change, 1 to destroy"),
        "{plan}"
    );
    terraform.apply()?;
    lab.answers_as("203.0.113.60", "late")?;
    terraform.assert_plan_is_empty()
}

fn without_networkd(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    let plain = configuration::container("plain", "");
    site.configure(
        &(configuration::image_on("other", "vps1", Guest::WithoutNetworkd)?
            + &plain.replace("nspawn_image.debian", "nspawn_image.other")
            + &configuration::address("plain-4", "203.0.113.70", "plain")
            + &configuration::address("plain-6", "2001:db8:1::70", "plain")),
    )?;
    terraform.apply()?;
    for restart in [false, true] {
        if restart {
            lab.vps1()
                .root("systemctl restart systemd-nspawn@plain.service")?;
        }
        for address in ["203.0.113.70", "2001:db8:1::70"] {
            let banner = lab.tcp(address, 7777)?;
            ensure!(
                banner.starts_with("plain"),
                "{address} answers as {banner:?}"
            );
        }
    }
    terraform.assert_plan_is_empty()
}

fn networkd_restarts(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    site.configure(
        &(configuration::address("plain-4", "203.0.113.70", "blue")
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
    terraform.assert_plan_is_empty()
}

fn routed_prefix(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    site.configure(&configuration::address_with(
        "block",
        "2001:db8:1:0:5::/80",
        "blue",
        "  proxy = false",
    ))?;
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
    terraform.assert_plan_is_empty()
}

fn honest_traffic(site: &Shared) -> Result<()> {
    let mut text = String::new();
    for (label, address, guest) in [
        ("b4", "203.0.113.80", "blue"),
        ("b6", "2001:db8:1::80", "blue"),
        ("g4", "203.0.113.81", "green"),
        ("g6", "2001:db8:1::81", "green"),
    ] {
        text += &configuration::address(label, address, guest);
    }
    site.configure(&text)?;
    site.terraform.apply()?;
    for (from, to) in [
        ("blue", "203.0.113.81"),
        ("blue", "2001:db8:1::81"),
        ("green", "203.0.113.80"),
        ("green", "2001:db8:1::80"),
        ("green", "203.0.113.1"),
    ] {
        let report = site
            .lab
            .vps1()
            .guest(from, &format!("ping -n -q -c 50 -i 0.02 -W 5 {to} || true"))?;
        ensure!(
            report.contains(" 0% packet loss"),
            "{from} to {to}:\n{report}"
        );
    }
    Ok(())
}

fn unknown_in_the_plan(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    // As hcloud_floating_ip.x.ip_address is: known only after something else was made.
    let bought = "resource \"terraform_data\" \"floating\" {\n  input = \"203.0.113.90\"\n}\n";
    let address = configuration::address("bought", "X", "blue")
        .replace("\"X\"", "terraform_data.floating.output");
    site.configure(&(bought.to_owned() + &address))?;
    let plan = terraform.plan()?;
    ensure!(plan.contains("address   = (known after apply)"), "{plan}");
    terraform.apply()?;
    lab.answers_as("203.0.113.90", "blue")?;
    terraform.assert_plan_is_empty()
}
