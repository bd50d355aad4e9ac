//! Who sees what: listeners at the victim, the bystander and the router, and the tables of all.

use std::{net::IpAddr, path::Path, time::Duration};

use acceptance_tests::{
    command::{Process, command, wait_until},
    frames::{from_hex, source, to_hex},
};
use anyhow::{Result, bail, ensure};

use super::world::{FRAMES, World};

/// Every mark begins with it.
pub const MAGIC: &[u8; 6] = b"TENANT";

/// What tells one attempt from all others.
pub fn mark(number: u16) -> Vec<u8> {
    [&MAGIC[..], &number.to_be_bytes()].concat()
}

/// A place where frames are listened to.
pub struct Listener {
    /// Where.
    pub place: &'static str,
    process: Process,
}

impl Listener {
    /// Listens on an interface of a network namespace to frames that hold something.
    pub fn start(
        place: &'static str,
        namespace: &Path,
        interface: &str,
        holding: &[u8],
    ) -> Result<Self> {
        let network = format!("--net={}", namespace.display());
        let mut sniff = command("nsenter", [network.as_str(), FRAMES, "sniff", interface]);
        let process = Process::spawn(sniff.args(["--holding", &to_hex(holding)]))?;
        wait_until(
            &format!("a listener at the {place}"),
            Duration::from_secs(30),
            || {
                ensure!(
                    process.printed().starts_with("listening"),
                    "{}",
                    process.printed()
                );
                Ok(())
            },
        )?;
        Ok(Self { place, process })
    }

    /// The frames with a mark in them.
    pub fn seen(&self, mark: &[u8]) -> Vec<String> {
        let digits = to_hex(mark);
        let printed = self.process.printed();
        printed
            .lines()
            .filter(|line| line.contains(&digits))
            .map(str::to_owned)
            .collect()
    }

    /// All frames.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.process
            .printed()
            .lines()
            .filter_map(from_hex)
            .collect()
    }
}

/// The listeners.
pub struct Watch {
    /// In the victim.
    pub victim: Listener,
    /// In the bystander.
    pub bystander: Listener,
    /// At the far end of the uplink.
    pub router: Listener,
    /// All that leaves the uplink.
    pub uplink: Listener,
    /// All that comes to the attacker.
    pub attacker: Listener,
}

impl Watch {
    /// Starts them.
    pub fn start(world: &World) -> Result<Self> {
        let router = world.lab.router().path();
        let link = world.lab.vps1().name();
        Ok(Self {
            victim: Listener::start("victim", &world.victim.namespace, "host0", MAGIC)?,
            bystander: Listener::start("bystander", &world.bystander.namespace, "host0", MAGIC)?,
            router: Listener::start("router", &router, link, MAGIC)?,
            uplink: Listener::start("uplink", &router, link, &[])?,
            attacker: Listener::start("attacker", &world.attacker.namespace, "host0", &[])?,
        })
    }

    /// Those to whom nothing forged may come.
    pub fn others(&self) -> [&Listener; 3] {
        [&self.victim, &self.bystander, &self.router]
    }

    /// Fails when a mark was seen anywhere.
    pub fn saw_nothing_of(&self, mark: &[u8]) -> Result<()> {
        for listener in self.others() {
            let seen = listener.seen(mark);
            ensure!(
                seen.is_empty(),
                "{} frames came to the {}:\n{}",
                seen.len(),
                listener.place,
                seen.join("\n")
            );
        }
        Ok(())
    }

    /// Fails when a frame left the uplink in the name of somebody who isn't there; gives how many left.
    pub fn check_uplink(&self, world: &World) -> Result<usize> {
        let frames = self.uplink.frames();
        let mut honest: Vec<IpAddr> = vec![world.host_v4, world.host_v6];
        honest.extend(
            ["::", &link_local(world)?, super::links::HOST_V4]
                .iter()
                .flat_map(|text| text.parse::<IpAddr>()),
        );
        let is_honest = |address| {
            honest.contains(&address) || world.guests().iter().any(|guest| guest.has(address))
        };
        for frame in &frames {
            match source(frame) {
                Some((mac, Some(address))) if mac == world.uplink && is_honest(address) => {}
                other => bail!("{other:?} left the uplink: {}", to_hex(frame)),
            }
        }
        Ok(frames.len())
    }
}

impl Watch {
    /// Fails when the attacker was sent what is for somebody else; gives how much it was sent.
    pub fn check_attacker(&self, world: &World) -> Result<usize> {
        let frames = self.attacker.frames();
        for frame in &frames {
            let group = frame.first().is_some_and(|byte| byte & 1 == 1);
            ensure!(
                group || frame.starts_with(&world.attacker.mac),
                "the attacker saw {}",
                to_hex(frame)
            );
        }
        Ok(frames.len())
    }
}

fn link_local(world: &World) -> Result<String> {
    let vps = world.lab.vps1();
    let script = format!(
        "ip -6 -o addr show dev {} scope link | sed -E 's/.*inet6 ([^/]+).*/\\1/'",
        vps.options().uplink
    );
    Ok(vps.root(&script)?.trim().to_owned())
}
