//! Traffic that goes on all the time, and of which nothing may be lost.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use acceptance_tests::{
    command::{Process, command},
    pings,
};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::world::World;

/// Pings and connections that run until they are finished.
pub struct Honest {
    streams: Vec<Stream>,
}

struct Stream {
    name: String,
    process: Process,
    is_ping: bool,
}

/// Connects again and again, and says how it went.
const CONNECTIONS: &str = r#"
    trap 'exit 0' INT
    while :; do
        if exec 3<>"/dev/tcp/$0/7777" && read -r -t 30 line <&3; then echo "ok $line"; else echo "LOST $line"; fi
        exec 3<&- 3>&-
        read -r -t 0.1 <> <(:) || :
    done
"#;

impl Honest {
    /// Starts it: between all guests, from outside, and to the outside.
    pub fn start(world: &World) -> Result<Self> {
        let (attacker, victim, bystander) = (&world.attacker, &world.victim, &world.bystander);
        let client = world.lab.client().path();
        let pairs: [(&str, &Path, IpAddr, IpAddr); 6] = [
            (
                "attacker to victim",
                &attacker.namespace,
                victim.v4.into(),
                victim.v6.into(),
            ),
            (
                "victim to bystander",
                &victim.namespace,
                bystander.v4.into(),
                bystander.v6.into(),
            ),
            (
                "bystander to attacker",
                &bystander.namespace,
                attacker.v4.into(),
                attacker.v6.into(),
            ),
            (
                "outside to victim",
                &client,
                victim.v4.into(),
                victim.v6.into(),
            ),
            (
                "outside to bystander",
                &client,
                bystander.v4.into(),
                bystander.v6.into(),
            ),
            (
                "victim to outside",
                &victim.namespace,
                world.client_v4,
                world.client_v6,
            ),
        ];
        let mut streams = Vec::new();
        for (name, from, v4, v6) in pairs {
            for to in [v4, v6] {
                streams.push(Stream::ping(name, from, to)?);
            }
        }
        for (name, from) in [
            ("bystander to victim", &bystander.namespace),
            ("outside to victim", &client),
        ] {
            for to in [IpAddr::V4(victim.v4), victim.v6.into()] {
                streams.push(Stream::connections(name, from, to)?);
            }
        }
        Ok(Self { streams })
    }

    /// Ends it; fails when anything was lost. Gives how much came through.
    pub fn finish(self) -> Result<usize> {
        let mut total = 0;
        for stream in self.streams {
            stream.process.signal(Signal::INT)?;
            let name = stream.name;
            let output = stream.process.wait(Duration::from_secs(30))?;
            let came = if stream.is_ping {
                pings::answers(&output.stdout)
            } else {
                connections(&output.stdout)
            };
            total += came.with_context(|| name)?;
        }
        Ok(total)
    }
}

impl Stream {
    fn ping(name: &str, from: &Path, to: IpAddr) -> Result<Self> {
        let to = to.to_string();
        Self::start(
            format!("pings from {name}: {to}"),
            from,
            &["ping", "-n", "-i", "0.1", &to],
            true,
        )
    }

    fn connections(name: &str, from: &Path, to: IpAddr) -> Result<Self> {
        let to = to.to_string();
        Self::start(
            format!("connections from {name}: {to}"),
            from,
            &["bash", "-c", CONNECTIONS, &to],
            false,
        )
    }

    fn start(name: String, from: &Path, words: &[&str], is_ping: bool) -> Result<Self> {
        let network = PathBuf::from(from);
        let mut enter = command("nsenter", [format!("--net={}", network.display())]);
        let process = Process::spawn(enter.args(words))?;
        Ok(Self {
            name,
            process,
            is_ping,
        })
    }
}

fn connections(printed: &str) -> Result<usize> {
    let lost = printed
        .lines()
        .filter(|line| line.starts_with("LOST"))
        .count();
    let good = printed
        .lines()
        .filter(|line| line.starts_with("ok "))
        .count();
    ensure!(lost == 0, "{lost} connections failed, {good} did not");
    ensure!(good > 5, "only {good} connections were tried");
    Ok(good)
}
