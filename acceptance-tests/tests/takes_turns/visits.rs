//! A third party's container is visited all the while, and must not miss anything.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use acceptance_tests::{command::Process, namespace::Namespace, pings};
use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::Signal;

/// How long a visit may take to be connected: a packet that is lost on the way is sent again after a second.
const CONNECTED: Duration = Duration::from_secs(1);

/// Visits a container all the time: pings that must not be lost, and new connections, each of which starts a unit there.
pub struct Visits {
    ping: Process,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

#[derive(Default)]
struct Seen {
    count: usize,
    longest: Duration,
    failures: Vec<String>,
}

impl Visits {
    pub fn start(client: &Namespace, address: &str, name: &'static str) -> Result<Self> {
        let to = SocketAddr::new(address.parse().context("an address")?, 7777);
        let mut ping = client.command("ping");
        let ping = Process::spawn(ping.args(["-n", "-i", "0.02", address]))?;
        let (stop, client) = (Arc::new(AtomicBool::new(false)), client.clone());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                match visit(&client, to) {
                    Ok((banner, connected)) => {
                        seen.longest = seen.longest.max(connected);
                        if banner.split(' ').next() != Some(name) {
                            seen.failures.push(format!("it said {banner:?}"));
                        }
                    }
                    Err(error) => seen.failures.push(format!("{error:#}")),
                }
                seen.count += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            seen
        });
        Ok(Self { ping, stop, thread })
    }

    pub fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self
            .thread
            .join()
            .map_err(|_| anyhow!("the visitor panicked"))?;
        self.ping.signal(Signal::INT)?;
        let report = self.ping.wait(Duration::from_secs(30))?.stdout;
        let pings = pings::answers(&report)?;
        let Seen { count, longest, .. } = seen;
        eprintln!("{pings} pings, {count} visits, connected after {longest:?} at the latest");
        ensure!(count > 0, "nobody has visited it");
        ensure!(
            seen.failures.is_empty(),
            "{} of {count} visits failed, the first: {:?}",
            seen.failures.len(),
            seen.failures.first()
        );
        ensure!(
            longest < CONNECTED,
            "one of {count} visits was connected after {longest:?} only"
        );
        Ok(())
    }
}

/// What the guest says to a new connection, and how long it took to be connected.
fn visit(client: &Namespace, to: SocketAddr) -> Result<(String, Duration)> {
    let patience = Duration::from_secs(10);
    let (stream, connected) = client.enter(|| {
        let begun = Instant::now();
        let stream = TcpStream::connect_timeout(&to, patience)
            .with_context(|| format!("connect to {to}"))?;
        Ok((stream, begun.elapsed()))
    })?;
    stream.set_read_timeout(Some(patience))?;
    let mut banner = String::new();
    BufReader::new(stream)
        .read_line(&mut banner)
        .with_context(|| format!("read the first line from {to}"))?;
    Ok((banner.trim_end().to_owned(), connected))
}
