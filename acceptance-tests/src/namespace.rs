//! Named network namespaces, and how to act inside one.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::command::{check, command, run, wait_until};

/// Where iproute2 keeps the named namespaces.
const FOLDER: &str = "/run/netns";

/// A network namespace with a name, as `ip netns` knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with nothing but a loopback that is up.
    pub fn create(name: &str) -> Result<Self> {
        check(&mut command("ip", ["netns", "add", name]))?;
        let namespace = Self::named(name);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Names a namespace that is there already.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// Lists the namespaces whose name starts with a prefix.
    pub fn with_prefix(prefix: &str) -> Vec<Self> {
        std::fs::read_dir(FOLDER)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .map(|name| Self { name })
            .collect()
    }

    /// Returns the name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the file that stands for the namespace, for `nsenter --net=`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.name)
    }

    /// Runs `ip` with the given words inside the namespace.
    pub fn ip(&self, words: &str) -> Result<String> {
        let arguments = ["-n", &self.name]
            .into_iter()
            .chain(words.split_whitespace());
        check(&mut command("ip", arguments))
    }

    /// Builds a command that runs inside the namespace; its process id is that of the program itself.
    pub fn command(&self, program: &str) -> Command {
        command("ip", ["netns", "exec", &self.name, program])
    }

    /// Does something in a thread that has moved into the namespace; sockets made there stay there.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.path();
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    let file =
                        File::open(&path).with_context(|| format!("open {}", path.display()))?;
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                        .with_context(|| format!("enter {}", path.display()))?;
                    act()
                })
                .join()
                .map_err(|_| anyhow!("a thread inside {} panicked", self.name))?
        })
    }

    /// Opens a listening socket inside the namespace.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        self.enter(|| TcpListener::bind(address).with_context(|| format!("listen on {address}")))
    }

    /// Opens a connection from inside the namespace.
    pub fn connect(&self, address: SocketAddr, deadline: Duration) -> Result<TcpStream> {
        self.enter(|| {
            TcpStream::connect_timeout(&address, deadline)
                .with_context(|| format!("connect to {address}"))
        })
    }

    /// Connects and returns the first line that the other side says.
    pub fn banner(&self, address: SocketAddr, deadline: Duration) -> Result<String> {
        let stream = self.connect(address, deadline)?;
        stream.set_read_timeout(Some(deadline))?;
        let mut line = String::new();
        BufReader::new(stream)
            .read_line(&mut line)
            .with_context(|| format!("read the first line from {address}"))?;
        Ok(line.trim_end().to_owned())
    }

    /// Sends one ping and waits for its answer.
    pub fn ping(&self, address: IpAddr, deadline: Duration) -> Result<()> {
        let seconds = format!("{:.3}", deadline.as_secs_f64());
        let mut ping = self.command("ping");
        ping.args(["-n", "-c", "1", "-W", &seconds, &address.to_string()]);
        run(&mut ping, deadline + Duration::from_secs(2))?
            .checked()
            .map(drop)
    }

    /// Kills what runs inside and removes the namespace with its links.
    pub fn remove(&self) -> Result<()> {
        wait_until(
            &format!("{} is empty", self.name),
            Duration::from_secs(30),
            || self.kill_all(),
        )?;
        check(&mut command("ip", ["netns", "del", &self.name])).map(drop)
    }

    fn kill_all(&self) -> Result<()> {
        let own = std::process::id().to_string();
        let listing = check(&mut command("ip", ["netns", "pids", &self.name]))?;
        let others: Vec<&str> = listing
            .split_whitespace()
            .filter(|pid| *pid != own)
            .collect();
        for pid in &others {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                // One that is gone already needs no signal.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if others.is_empty() {
            Ok(())
        } else {
            Err(anyhow!("{others:?} still run in {}", self.name))
        }
    }
}
