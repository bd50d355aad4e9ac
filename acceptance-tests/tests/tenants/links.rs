//! What a guest may have the host look for on its links.

use std::time::{Duration, Instant};

use acceptance_tests::command::wait_until;
use anyhow::{Result, ensure};

use super::{
    tables,
    tries::inside,
    world::{Prefix, World},
};

/// How many addresses are tried.
const MANY: u64 = 400;
/// How long the service may take to see a prefix.
const PATIENCE: Duration = Duration::from_secs(30);

/// The host's address in the private network.
pub const HOST_V4: &str = "10.77.0.1";

/// On the host's uplink, where nobody has any of these addresses.
pub const ON_LINK: [Prefix; 2] = [
    Prefix {
        net: "10.77.0.0/22",
        start: "10.77.",
    },
    Prefix {
        net: "2001:db8:1:0:77::/80",
        start: "2001:db8:1:0:77:",
    },
];

/// Gives the uplink a private network of IPv4; its own of IPv6 it has.
pub fn join_private_network(world: &World, is_isolated: bool) -> Result<()> {
    let vps = world.lab.vps1();
    vps.root(&format!(
        "ip addr add {HOST_V4}/22 dev {}",
        vps.options().uplink
    ))?;
    if is_isolated {
        wait_until("the filter knows the private network", PATIENCE, || {
            let listed = vps.root("nft list set inet nspawn_agent on_link4")?;
            ensure!(listed.contains("10.77.0.0/22"), "{listed}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Takes it back, and with it the places in the table.
pub fn leave_private_network(world: &World) -> Result<()> {
    let vps = world.lab.vps1();
    let uplink = &vps.options().uplink;
    vps.root(&format!(
        "ip addr del {HOST_V4}/22 dev {uplink}; ip neigh flush to {} dev {uplink}",
        ON_LINK[1].net
    ))
    .map(drop)
}

/// Sends from inside the attacker to addresses that nobody has; gives how many places of the host's table that takes,
/// and how many it may take.
pub fn flood(world: &World, prefix: &Prefix) -> Result<(u64, u64)> {
    let places: Vec<String> = (1..=MANY)
        .map(|number| {
            if prefix.start.contains(':') {
                format!("{}:{number:x}", prefix.start)
            } else {
                format!("{}{}.{}", prefix.start, 1 + number / 200, 1 + number % 200)
            }
        })
        .collect();
    let script = format!(
        "bash -c 'for place in {}; do echo > /dev/udp/$place/9; done' 2> /dev/null || true",
        places.join(" ")
    );
    let begun = Instant::now();
    inside(&world.attacker, &script)?;
    // After the last of them.
    inside(
        &world.attacker,
        &format!("ping -n -q -c 1 -W 5 {}", world.victim.v4),
    )?;
    let taken = u64::try_from(tables::in_prefix(world, prefix)?)?;
    Ok((taken, 100 + 20 * (begun.elapsed().as_secs() + 1)))
}

/// Fails when it takes more than that.
pub fn are_limited(world: &World, prefix: &Prefix) -> Result<()> {
    let (taken, limit) = flood(world, prefix)?;
    ensure!(
        limit < MANY,
        "it took so long to send that as many may be looked for"
    );
    // The flood before may have used up what is let through at once.
    ensure!(taken > 0, "the host looked for none: nothing was tried");
    ensure!(taken <= limit, "the host looked for {taken}, not {limit}");
    Ok(())
}

/// Fails when there is a limit.
pub fn are_not_limited(world: &World, prefix: &Prefix) -> Result<()> {
    let (taken, _) = flood(world, prefix)?;
    ensure!(taken > 200, "the host looked for {taken}");
    Ok(())
}
