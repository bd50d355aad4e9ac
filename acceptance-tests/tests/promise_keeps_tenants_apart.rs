//! "Tenants are kept apart": a guest that attacks, on a host whose other guests notice nothing.
//!
//! Each attack is made twice: with isolation, where nobody may see it, and without, where it has to show.

mod tenants;

use std::time::{Duration, Instant};

use acceptance_tests::{
    Flavour, Hosts, Lab, Terraform,
    command::wait_until,
    promise::{Cases, Effort, Promise},
};
use anyhow::{Result, bail, ensure};
use tenants::{
    attacks::{self, Attack},
    honest::Honest,
    links, tables, tries,
    watch::Watch,
    world::{PREFIX_V4, PREFIX_V6, Prefix, World, configuration},
};

#[test]
fn a_guest_reaches_nobody_but_by_its_own_addresses() -> Result<()> {
    let mut cases = Cases::of(Promise::KeepsTenantsApart)?;
    on_a_host(Hosts::one(), "", &mut cases)?;
    // nft 1.0.6 and systemd 252.
    if Effort::of_this_run() == Effort::Long {
        on_a_host(
            Hosts::one().flavour(Flavour::Bookworm),
            "on Debian 12: ",
            &mut cases,
        )?;
    }
    cases.finish()
}

fn on_a_host(hosts: Hosts, prefix: &str, cases: &mut Cases) -> Result<()> {
    let lab = Lab::start(hosts)?;
    let terraform = lab.terraform(&configuration(lab.vps1(), "")?)?;
    terraform.apply()?;
    terraform.assert_plan_is_empty()?;
    let world = World::look(&lab)?;
    let watch = Watch::start(&world)?;
    let attacks = attacks::all();
    with_isolation(&world, &watch, &attacks, prefix, cases)?;
    cases.case(
        format!("{prefix}isolation is turned off, and the plan says so"),
        || turn_off(&lab, &terraform),
    );
    without_isolation(&world, &watch, &attacks, prefix, cases)?;
    cases.case(
        format!("{prefix}isolation is turned on again while the guests run"),
        || {
            turn_on(&world, &terraform)?;
            for (attack, number) in attacks.iter().step_by(7).zip(2000..) {
                tries::has_no_effect(&world, &watch, attack, number)?;
            }
            Ok(())
        },
    );
    drop(watch);
    cases.case(
        format!("{prefix}the filter is there before the first guest starts at boot"),
        || filter_comes_before_guests(&lab),
    );
    cases.case(
        format!("{prefix}without the filter no guest starts at boot"),
        || no_filter_no_guest(&lab),
    );
    terraform.destroy().map(drop)
}

fn with_isolation(
    world: &World,
    watch: &Watch,
    attacks: &[Attack],
    prefix: &str,
    cases: &mut Cases,
) -> Result<()> {
    let honest = Honest::start(world)?;
    for (attack, number) in attacks.iter().zip(1..) {
        cases.case(format!("{prefix}{}", attack.name), || {
            tries::has_no_effect(world, watch, attack, number)
        });
    }
    cases.case(
        format!("{prefix}a guest gives itself addresses that aren't attached to it"),
        || {
            ensure!(
                !tries::claim_addresses(world, watch)?,
                "they left the uplink"
            );
            Ok(())
        },
    );
    cases.case(
        format!("{prefix}a fragment in another's name is put together with none of its own"),
        || {
            ensure!(
                !tries::forged_fragment_joins(world, watch)?,
                "the host has joined them"
            );
            Ok(())
        },
    );
    for block in [PREFIX_V4, PREFIX_V6] {
        cases.case(
            format!(
                "{prefix}a guest asks from hundreds of addresses of {}",
                block.net
            ),
            || asks_are_limited(world, watch, &block),
        );
        cases.case(
            format!(
                "{prefix}hundreds of addresses of {} are asked for from outside",
                block.net
            ),
            || {
                let before = tables::in_prefix(world, &block)?;
                let places = tries::scan_the_prefix(world, &block)?;
                ensure!(
                    places <= before,
                    "{before} places were taken, {places} are now"
                );
                Ok(())
            },
        );
    }
    links::join_private_network(world, true)?;
    for block in &links::ON_LINK {
        cases.case(
            format!(
                "{prefix}a guest sends to hundreds of addresses of {} on the uplink",
                block.net
            ),
            || links::are_limited(world, block),
        );
    }
    links::leave_private_network(world)?;
    cases.case(
        format!("{prefix}honest traffic lost nothing meanwhile"),
        || {
            eprintln!("         {} answers", honest.finish()?);
            Ok(())
        },
    );
    cases.case(
        format!("{prefix}a neighbour's packets stay its own when the bridge forgets it"),
        || tries::sniff_without_an_entry(world, watch),
    );
    cases.case(
        format!("{prefix}the attacker never saw what is for others"),
        || {
            let frames = watch.check_attacker(world)?;
            ensure!(frames > 100, "only {frames} frames were seen");
            Ok(())
        },
    );
    cases.case(
        format!("{prefix}nothing left the uplink in another name"),
        || {
            let frames = watch.check_uplink(world)?;
            ensure!(frames > 100, "only {frames} frames were seen");
            Ok(())
        },
    );
    cases.case(
        format!("{prefix}a port that still learns takes no neighbour's place"),
        || tries::steal_from_a_port_that_learns(world, watch),
    );
    Ok(())
}

fn without_isolation(
    world: &World,
    watch: &Watch,
    attacks: &[Attack],
    prefix: &str,
    cases: &mut Cases,
) -> Result<()> {
    let vps = world.lab.vps1();
    tries::forget(world)?;
    // It would take back some of them before anybody has looked.
    vps.root("systemctl stop nspawn-agent")?;
    for (attack, number) in attacks.iter().zip(1000..) {
        cases.case(
            format!("{prefix}without isolation it shows: {}", attack.name),
            || tries::has_its_effect(world, watch, attack, number),
        );
    }
    vps.root("systemctl start nspawn-agent")?;
    cases.case(
        format!("{prefix}without isolation it shows: addresses, fragments, prefix and sniffing"),
        || {
            ensure!(
                tries::forged_fragment_joins(world, watch)?,
                "a forged fragment was not joined"
            );
            ensure!(
                tries::claim_addresses(world, watch)?,
                "no claimed address left the uplink"
            );
            for block in [PREFIX_V4, PREFIX_V6] {
                let asked = tries::ask_from_everywhere(world, watch, &block)?;
                ensure!(asked > 200, "the host took in {asked} who asked");
                world.lab.vps1().root("ip neigh flush dev br0")?;
                let sought = tries::scan_the_prefix(world, &block)?;
                ensure!(sought > 100, "the host asked for {sought}");
                world.lab.vps1().root("ip neigh flush dev br0")?;
            }
            links::join_private_network(world, false)?;
            for block in &links::ON_LINK {
                links::are_not_limited(world, block)?;
            }
            links::leave_private_network(world)?;
            tries::sniffs_without_an_entry(world, watch)
        },
    );
    tries::forget(world)
}

/// How often it is asked until that is fast enough.
const TRIES: usize = 5;

/// Each place is a message that was let in: 20 a second, and 100 at once.
fn asks_are_limited(world: &World, watch: &Watch, block: &Prefix) -> Result<()> {
    // On a busy machine it may take so long to ask that as many may be heard.
    for _ in 0..TRIES {
        let flush = format!("ip neigh flush to {} dev br0", block.net);
        world.lab.vps1().root(&flush)?;
        let (before, begun) = (tables::in_prefix(world, block)?, Instant::now());
        let places = tries::ask_from_everywhere(world, watch, block)?;
        let let_in = 100 + 20 * (begun.elapsed().as_secs() + 1);
        if let_in >= u64::from(tries::MANY) {
            continue;
        }
        ensure!(
            places <= before + usize::try_from(let_in)?,
            "{places} places of the host's table of neighbours are taken, and {let_in} messages may come in"
        );
        return Ok(());
    }
    bail!("it took so long to ask each time that as many may be heard")
}

/// When the guests were started, by which a restart shows.
fn started(lab: &Lab) -> Result<String> {
    lab.vps1()
        .root("systemctl show -p Id,ExecMainStartTimestampMonotonic 'systemd-nspawn@*.service'")
}

/// So many tables, isolated ports, fixed forwarding entries and fixed neighbours.
const STATE: &str = "count() { wc -l; }; nft list tables | sed -n /nspawn_agent/p | count; \
     bridge -d link show dev vb-victim | sed -n '/isolated on/p' | count; \
     bridge fdb show dev vb-victim | sed -n /sticky/p | count; ip neigh show dev br0 nud permanent | count";

fn turn_off(lab: &Lab, terraform: &Terraform) -> Result<()> {
    let before = started(lab)?;
    terraform.configure(&configuration(lab.vps1(), "  isolation = false")?)?;
    let plan = terraform.plan()?;
    ensure!(
        plan.contains("Warning") && plan.contains("are not kept apart"),
        "the plan doesn't say so:\n{plan}"
    );
    terraform.apply()?;
    let state = lab.vps1().root(STATE)?;
    ensure!(state == "0\n0\n0\n0\n", "it is not all off: {state:?}");
    terraform.assert_plan_is_empty()?;
    ensure!(started(lab)? == before, "a guest was restarted");
    Ok(())
}

fn turn_on(world: &World, terraform: &Terraform) -> Result<()> {
    let before = started(world.lab)?;
    // What the host tells guests who talk to each other while it keeps nobody apart must not outlast that.
    tries::guests_talk(world)?;
    terraform.configure(&configuration(world.lab.vps1(), "")?)?;
    terraform.apply()?;
    let state = world.lab.vps1().root(STATE)?;
    // Three guests with two addresses and one of the link each.
    ensure!(state == "3\n1\n1\n9\n", "it is not all on: {state:?}");
    terraform.assert_plan_is_empty()?;
    ensure!(started(world.lab)? == before, "a guest was restarted");
    tries::guests_meet_again(world)?;
    tables::are_true(world)
}

/// How long guests may take to boot side by side on a busy machine.
const BOOTED: Duration = Duration::from_mins(5);

/// Each guest's start finds the filter with its own port in it, and the service has been ready before.
fn filter_comes_before_guests(lab: &Lab) -> Result<()> {
    let vps = lab.vps1();
    vps.root(
        "mkdir -p /etc/systemd/system/systemd-nspawn@.service.d && \
         printf '[Service]\\nExecStartPre=+sh -c \"nft list set bridge nspawn_agent ports > /run/witness-%%i\"\\n' \
         > /etc/systemd/system/systemd-nspawn@.service.d/95-witness.conf",
    )?;
    vps.reboot()?;
    let moment = |unit: &str, which: &str| -> Result<u64> {
        let text = vps.root(&format!("systemctl show --value -p {which} {unit}"))?;
        Ok(text.trim().parse()?)
    };
    let ready = moment("nspawn-agent.service", "ActiveEnterTimestampMonotonic")?;
    for name in ["attacker", "victim", "bystander"] {
        wait_until(&format!("{name} runs"), BOOTED, || vps.guest(name, "true"))?;
        let start = moment(
            &format!("systemd-nspawn@{name}"),
            "ExecMainStartTimestampMonotonic",
        )?;
        ensure!(
            0 < ready && ready < start,
            "{name} started at {start}, the service was ready at {ready}"
        );
        let witness = vps.root(&format!("cat /run/witness-{name}"))?;
        ensure!(
            witness.contains(&format!("\"vb-{name}\"")),
            "at the start of {name} there was:\n{witness}"
        );
    }
    vps.root("rm -r /etc/systemd/system/systemd-nspawn@.service.d && systemctl daemon-reload")
        .map(drop)
}

/// The service is kept from starting: the guests stay off, and say why.
fn no_filter_no_guest(lab: &Lab) -> Result<()> {
    const DROP_IN: &str = "/etc/systemd/system/nspawn-agent.service.d";
    let vps = lab.vps1();
    vps.root(&format!(
        "mkdir -p {DROP_IN} && printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' > {DROP_IN}/broken.conf"
    ))?;
    vps.power_off()?;
    vps.power_on()?;
    let names = ["attacker", "victim", "bystander"];
    for name in names {
        let what = format!("{name} says why it is not started");
        wait_until(&what, BOOTED, || {
            let journal = vps.root(&format!("journalctl -b -u systemd-nspawn@{name} -o cat"))?;
            ensure!(journal.contains("so it is not started"), "{journal}");
            Ok(())
        })?;
    }
    let left = vps.root(
        "machinectl list --no-legend; ls /sys/class/net | grep ^vb- || true; \
         systemctl show --value -p ExecMainStartTimestampMonotonic 'systemd-nspawn@*.service' | grep -vx -e 0 -e '' || true",
    )?;
    ensure!(left.trim().is_empty(), "a guest was started:\n{left}");
    // With the filter they come by themselves.
    vps.root(&format!(
        "rm -r {DROP_IN} && systemctl daemon-reload && systemctl restart nspawn-agent"
    ))?;
    for name in names {
        wait_until(&format!("{name} runs"), BOOTED, || vps.guest(name, "true"))?;
    }
    Ok(())
}
