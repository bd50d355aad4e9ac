//! What is tried on the guests, and how it is judged.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use acceptance_tests::{
    command::{check, command, wait_until},
    frames::{
        ARP, BROADCAST, ICMPV6, IPV4, IPV6, arp, ethernet, fragments, icmpv6, kind_of, packet,
        ping, solicitation, source, to_hex,
    },
};
use anyhow::{Result, ensure};

use super::{
    attacks::{Attack, BRIDGE_GROUP, Shows},
    tables,
    watch::{Listener, Watch, mark},
    world::{FRAMES, Guest, Prefix, World},
};

/// How often each forged frame is sent.
const TIMES: u32 = 5;
/// How long anything honest may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An honest packet to each place, after which all that was sent before has arrived or never will.
fn last(world: &World, mark: &[u8]) -> Vec<Vec<u8>> {
    let from = world.attacker.v4.into();
    let to = [
        world.victim.v4.into(),
        world.bystander.v4.into(),
        world.client_v4,
    ];
    to.map(|to| {
        ethernet(
            world.bridge,
            world.attacker.mac,
            kind_of(from),
            &ping(from, to, mark),
        )
    })
    .to_vec()
}

/// Sends frames, and waits until an honest packet that was sent behind them has come to these places.
fn send_and_wait(
    world: &World,
    frames: &[Vec<u8>],
    times: u32,
    places: &[&Listener],
) -> Result<()> {
    // Above those of all attacks.
    static NEXT: AtomicU16 = AtomicU16::new(0x8000);
    let mark = mark(NEXT.fetch_add(1, Ordering::Relaxed));
    let mut all: Vec<Vec<u8>> = (0..times).flat_map(|_| frames.to_vec()).collect();
    all.extend(last(world, &mark));
    world.send(&all, 1)?;
    for listener in places {
        wait_until(
            &format!("the {} sees the honest packet", listener.place),
            PATIENCE,
            || {
                ensure!(!listener.seen(&mark).is_empty());
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// With isolation: nobody sees any of it, and nobody's tables change.
pub fn has_no_effect(world: &World, watch: &Watch, attack: &Attack, number: u16) -> Result<()> {
    let before = tables::all(world)?;
    let forged = mark(number);
    let frames = (attack.frames)(world, &forged);
    send_and_wait(world, &frames, TIMES, &watch.others())?;
    watch.saw_nothing_of(&forged)?;
    tables::are_true(world)?;
    tables::are_unchanged(world, &before)
}

/// Without isolation: it has to show, or the case above proves nothing.
pub fn has_its_effect(world: &World, watch: &Watch, attack: &Attack, number: u16) -> Result<()> {
    let forged = mark(number);
    let frames = (attack.frames)(world, &forged);
    let shows = (attack.shows)(world);
    if let Shows::Never(why) = shows {
        eprintln!("         not even without isolation: {why}");
        send_and_wait(world, &frames, TIMES, &watch.others())?;
        watch.saw_nothing_of(&forged)?;
        return forget(world);
    }
    let seen = || {
        world.send(&frames, TIMES)?;
        let is_seen = match &shows {
            Shows::AtVictim => !watch.victim.seen(&forged).is_empty(),
            Shows::AtRouter => !watch.router.seen(&forged).is_empty(),
            Shows::Neighbour(address, mac) => {
                let mut known = tables::of_host(world)?;
                // One that is only asked for, or sought on the uplink, is not known.
                let uplink = &world.lab.vps1().options().uplink;
                known.retain(|entry| {
                    entry.address == *address && entry.mac.is_some() && entry.interface != *uplink
                });
                if known.is_empty() {
                    // An advertisement changes what is known, and makes no entry.
                    forget(world)?;
                }
                known.iter().any(|entry| entry.mac == Some(*mac))
            }
            Shows::Forwarding(mac) => tables::bridge_has_it_at_the_attacker(world, *mac)?,
            Shows::Never(_) => false,
        };
        ensure!(is_seen, "no effect: {shows:?}");
        Ok(())
    };
    wait_until("it shows", PATIENCE, seen)?;
    forget(world)
}

/// What an attack has taught is forgotten, and what is so is known again.
pub fn forget(world: &World) -> Result<()> {
    world
        .lab
        .vps1()
        .root("ip neigh flush dev br0; ip neigh flush dev vb-attacker")?;
    for guest in world.guests() {
        world.lab.ping(&guest.v4.to_string())?;
        world.lab.ping(&guest.v6.to_string())?;
    }
    Ok(())
}

/// The victim talks to the attacker. The host must not have told it, or anybody before, to do so directly over IPv4:
/// that outlasts the time without isolation by five minutes. (The kernel has no switch for IPv6.)
pub fn guests_talk(world: &World) -> Result<()> {
    const REDIRECTS: &str = "awk '/^Icmp:/ { if (!names) { names = split($0, name); next } \
                             for (i in name) if (name[i] == \"OutRedirects\") print $i }' /proc/net/snmp";
    for address in [world.attacker.v4.to_string(), world.attacker.v6.to_string()] {
        inside(
            &world.victim,
            &format!("ping -n -q -c 20 -i 0.1 -W 1 {address}"),
        )?;
    }
    let redirects = world.lab.vps1().root(REDIRECTS)?;
    ensure!(
        redirects.trim() == "0",
        "the host has sent redirects: {redirects}"
    );
    Ok(())
}

/// Runs a script in a guest's network.
pub fn inside(guest: &Guest, script: &str) -> Result<String> {
    let network = format!("--net={}", guest.namespace.display());
    check(&mut command("nsenter", [&network, "sh", "-ec", script]))
}

/// How long a guest may go on with what it was told without isolation, by the host (to talk to another guest directly) or
/// by an attacker: its neighbour counts as reachable for up to 45 seconds, then comes a delay of 5, and 6 of probes.
/// RFC 4861 6.3.2 and 10
const MISLED: Duration = Duration::from_mins(2);

/// The victim finds the attacker through the host again.
pub fn guests_meet_again(world: &World) -> Result<()> {
    let began = Instant::now();
    for address in [world.attacker.v4.to_string(), world.attacker.v6.to_string()] {
        wait_until(&format!("the victim reaches {address}"), MISLED, || {
            inside(&world.victim, &format!("ping -n -q -c 1 -W 1 {address}"))
        })?;
        eprintln!(
            "         the victim reached {address} after {:.1?}",
            began.elapsed()
        );
    }
    // What is left of that are entries that nobody uses any more.
    for guest in [&world.victim, &world.bystander] {
        inside(guest, "ip neigh flush dev host0")?;
    }
    Ok(())
}

/// The guest's own kernel takes addresses that aren't attached to it; tells whether any left the uplink.
pub fn claim_addresses(world: &World, watch: &Watch) -> Result<bool> {
    let client = [world.client_v4.to_string(), world.client_v6.to_string()];
    let taken = ["203.0.113.99", "203.0.113.98", "2001:db8:1::99"];
    for address in taken {
        let to = &client[usize::from(address.contains(':'))];
        let script = format!(
            "ip addr add {address} dev host0 nodad 2>&1 || ip addr add {address} dev host0; \
             ping -n -c 2 -i 0.2 -W 1 -I {address} {to} && echo ANSWERED; ip addr del {address} dev host0"
        );
        let printed = world.lab.vps1().guest("attacker", &script)?;
        ensure!(
            !printed.contains("ANSWERED"),
            "{address} is answered:\n{printed}"
        );
    }
    let left = watch.uplink.frames().iter().any(|frame| {
        let from = source(frame).and_then(|(_, address)| address);
        from.is_some_and(|from| taken.iter().any(|address| from.to_string() == *address))
    });
    Ok(left)
}

/// Asks from many addresses of a prefix of the attacker's own; gives how many places of the host's table that takes.
pub fn ask_from_everywhere(world: &World, watch: &Watch, prefix: &Prefix) -> Result<usize> {
    let frames = (1..=MANY).map(|number| question(world, &place(prefix, number)));
    let frames = frames.collect::<Result<Vec<_>>>()?;
    send_and_wait(world, &frames, 1, &watch.others())?;
    tables::in_prefix(world, prefix)
}

/// How many addresses of a prefix are tried: a /24 has no more.
pub const MANY: u16 = 250;

fn place(prefix: &Prefix, number: u16) -> String {
    let start = prefix.start;
    if start.contains(':') {
        format!("{start}:{number:x}")
    } else {
        format!("{start}{number}")
    }
}

/// Who has the gateway's address?
fn question(world: &World, from: &str) -> Result<Vec<u8>> {
    let mac = world.attacker.mac;
    let (kind, message) = match from.parse()? {
        IpAddr::V4(from) => {
            let asks = arp(1, (mac, from), ([0; 6], world.gateway_v4));
            (ARP, asks)
        }
        from @ IpAddr::V6(_) => {
            let to = world.gateway_v6.into();
            let asks = icmpv6(from, to, solicitation(world.gateway_v6, mac));
            (IPV6, packet(from, to, ICMPV6, &asks))
        }
    };
    Ok(ethernet(world.bridge, mac, kind, &message))
}

/// Sends something to many addresses of the attacker's prefix; gives how many places of the host's table that takes.
pub fn scan_the_prefix(world: &World, prefix: &Prefix) -> Result<usize> {
    let (host, last) = if prefix.start.contains(':') {
        (world.host_v6, world.victim.v6.to_string())
    } else {
        (world.host_v4, world.victim.v4.to_string())
    };
    let places: Vec<String> = (1..=MANY).map(|number| place(prefix, number)).collect();
    let script = format!(
        "for place in {}; do echo > /dev/udp/$place/9; done 2>/dev/null || true",
        places.join(" ")
    );
    world.lab.router().ip(&format!(
        "route replace {} via {host} dev {}",
        prefix.net,
        world.lab.vps1().name()
    ))?;
    let mut scan = world.lab.client().command("bash");
    check(scan.args(["-c", &script]))?;
    // After the last of them.
    world.lab.ping(&last)?;
    tables::in_prefix(world, prefix)
}

/// With br_netfilter, the bridge would put together what comes over it by itself, apart from what comes past it.
const TRACK: &str = "nft 'table ip tracked { chain prerouting { type filter hook prerouting priority 0; ct state invalid counter; }; }'
    cd /proc/sys/net/bridge 2> /dev/null || exit 0
    cat bridge-nf-call-iptables > /run/bridge-nf; echo 0 > bridge-nf-call-iptables";
const TRACK_NO_MORE: &str = "nft delete table ip tracked
    cd /proc/sys/net/bridge 2> /dev/null || exit 0
    cat /run/bridge-nf > bridge-nf-call-iptables; rm /run/bridge-nf";

/// Past the bridge, the attacker sends the first half of a ping of the host in the victim's name, and the victim a last
/// half of its own that would go with it; tells whether the host has put them together. It tracks connections, for which
/// it puts fragments together before nearly all else.
pub fn forged_fragment_joins(world: &World, watch: &Watch) -> Result<bool> {
    // Above those of what is sent behind each attack.
    static NEXT: AtomicU16 = AtomicU16::new(0xf000);
    let next = || NEXT.fetch_add(2, Ordering::Relaxed);
    let (number, honest) = (next(), mark(next()));
    let forged = mark(number);
    let (from, to) = (world.victim.v4.into(), world.host_v4);
    let whole = ping(from, to, &[&forged[..], &[0; 8]].concat());
    // The first has the message's header and the mark.
    let [first, last] = fragments(&whole, 16, number);
    let vps = world.lab.vps1();
    vps.root(TRACK)?;
    let first = ethernet(BRIDGE_GROUP, world.attacker.mac, IPV4, &first);
    send_and_wait(world, &[first], 1, &[&watch.router])?;
    let last = ethernet(world.bridge, world.victim.mac, IPV4, &last);
    inside(
        &world.victim,
        &format!(
            "{FRAMES} send host0 --times 1 {}; ping -n -q -c 1 -W 5 -p {} {to}",
            to_hex(&last),
            to_hex(&honest)
        ),
    )?;
    wait_until("the victim's own ping is answered", PATIENCE, || {
        ensure!(!watch.victim.seen(&honest).is_empty());
        Ok(())
    })?;
    vps.root(TRACK_NO_MORE)?;
    Ok(!watch.victim.seen(&forged).is_empty())
}

/// With the bridge's entry of the victim gone and nobody there to put it back, its packets are nobody's.
pub fn sniff_without_an_entry(world: &World, watch: &Watch) -> Result<()> {
    let vps = world.lab.vps1();
    let victim = tables::words(world.victim.mac);
    let before = watch.attacker.frames().len();
    vps.root(&format!(
        "systemctl stop nspawn-agent; bridge fdb del {victim} dev vb-victim master"
    ))?;
    let (v4, v6) = (world.victim.v4, world.victim.v6);
    let pings =
        format!("ping -n -q -c 10 -i 0.02 -W 1 {v4}; ping -n -q -c 10 -i 0.02 -W 1 {v6}; true");
    world.lab.run(&pings)?;
    // What is still sent comes before this.
    world.lab.ping(&world.attacker.v4.to_string())?;
    watch.check_attacker(world)?;
    ensure!(
        watch.attacker.frames().len() > before,
        "the attacker saw nothing at all"
    );
    vps.root("systemctl start nspawn-agent")?;
    let (v4, v6) = (v4.to_string(), v6.to_string());
    world.lab.ping(&v4).and_then(|()| world.lab.ping(&v6))
}

/// A port learns until its flags are set, and frames to the bridge's own groups teach it past all hooks:
/// what is fixed has to stay. Fixed in the bridge's ordinary way, it doesn't.
pub fn steal_from_a_port_that_learns(world: &World, watch: &Watch) -> Result<()> {
    let vps = world.lab.vps1();
    let victim = tables::words(world.victim.mac);
    let steals = |prepare: &str| -> Result<bool> {
        vps.root(&format!(
            "systemctl stop nspawn-agent; bridge link set dev vb-attacker learning on; {prepare}"
        ))?;
        let lldp = ethernet(
            [1, 0x80, 0xc2, 0, 0, 0x0e],
            world.victim.mac,
            0x88cc,
            b"LLDP",
        );
        // What is for the victim may not come any more.
        send_and_wait(world, &[lldp], TIMES, &[&watch.router])?;
        let stolen = tables::bridge_has_it_at_the_attacker(world, world.victim.mac)?;
        vps.root("systemctl start nspawn-agent")?;
        Ok(stolen)
    };
    ensure!(
        !steals("true")?,
        "the attacker took the victim's forwarding entry over"
    );
    let ordinary = format!(
        "bridge fdb del {victim} dev vb-victim master; bridge fdb add {victim} dev vb-victim master static"
    );
    ensure!(
        steals(&ordinary)?,
        "an ordinary entry stays, too: this shows nothing"
    );
    let (v4, v6) = (world.victim.v4.to_string(), world.victim.v6.to_string());
    world.lab.ping(&v4).and_then(|()| world.lab.ping(&v6))?;
    ensure!(
        !tables::bridge_has_it_at_the_attacker(world, world.victim.mac)?,
        "it was not taken back"
    );
    Ok(())
}

/// Without isolation the attacker does see them.
pub fn sniffs_without_an_entry(world: &World, watch: &Watch) -> Result<()> {
    let victim = tables::words(world.victim.mac);
    let before = watch.attacker.frames().len();
    let script = format!(
        "bridge fdb del {victim} dev vb-victim master; ping -n -c 1 -W 1 {}",
        world.victim.v4
    );
    wait_until("the attacker sees what is for the victim", PATIENCE, || {
        world.lab.vps1().root(&format!("{script} || true"))?;
        let sees = |frame: &Vec<u8>| {
            frame.starts_with(&world.victim.mac) && !frame.starts_with(&BROADCAST)
        };
        ensure!(watch.attacker.frames().iter().skip(before).any(sees));
        Ok(())
    })
}
