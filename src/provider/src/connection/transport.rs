//! The bytes beneath SSH: TCP, or a channel of the session with a bastion.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use ssh2::Channel;

use super::{
    credentials::Credentials,
    error::{ConnectionError, ConnectionErrorKind, GONE},
    session::{Also, Ssh, StepError},
    ssh_config::Hop,
};

/// How much may wait for a slow end before we stop taking more for it. Bytes.
const BRIDGE_LIMIT: usize = 256 * 1024;

/// How long the session inside has for its last words when a bastion's connection has ended.
const LINGER: Duration = Duration::from_secs(5);

/// A refresh knows of the state alone, and a plan begins with one.
const MOVED: &str = "If the host has moved to a new address or port, change it in the configuration and run: terraform apply -refresh=false";

/// What a session runs over.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Bridge(UnixStream),
}

impl Socket {
    pub(super) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Bridge(stream) => stream.as_fd(),
        }
    }
}

/// Connects over TCP, trying each of the name's addresses.
pub(super) fn connect(hop: &Hop, timeout: Duration) -> Result<Socket, ConnectionError> {
    let failed = |reason: String| {
        ConnectionError::new(
            ConnectionErrorKind::Unreachable,
            &hop.label,
            format!("connecting to {} port {}", hop.address, hop.port),
            reason,
        )
        .help(format!(
            "Check that the host is up, and that its firewall lets SSH through. {MOVED}\n{GONE}"
        ))
    };
    let addresses = (hop.address.as_str(), hop.port).to_socket_addrs().map_err(|error| ConnectionError {
        kind: ConnectionErrorKind::UnknownName,
        ..failed(error.to_string()).help(format!("Check the spelling of `address`, and that this machine can look the name up: getent hosts NAME. {MOVED}\n{GONE}"))
    })?;
    reach(&addresses.collect::<Vec<_>>(), timeout)
        .map(Socket::Tcp)
        .map_err(failed)
}

/// Tries one address after another. When none takes the connection: why, of each.
fn reach(addresses: &[SocketAddr], timeout: Duration) -> Result<TcpStream, String> {
    let deadline = Instant::now() + timeout;
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let mut failures = Vec::new();
    for (address, untried) in addresses.iter().zip((1..=count).rev()) {
        // What is left of the time is shared: a silent address leaves the others theirs. None at all is an error of std's.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = (left / untried).max(Duration::from_millis(1));
        let stream = TcpStream::connect_timeout(address, share).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        failures.push(match stream {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => (
                address,
                format!("nobody answered within {:.1} seconds", share.as_secs_f64()),
            ),
            Err(error) => (address, error.to_string()),
        });
    }
    Err(match &failures[..] {
        [] => "the name has no address".to_owned(),
        [(_, failure)] => failure.clone(),
        _ => failures.iter().fold(
            "none of the name's addresses took the connection".to_owned(),
            |text, (address, failure)| format!("{text}\n{}: {failure}", address.ip()),
        ),
    })
}

/// Connects through the session with a bastion, which lives on in a thread of its own.
pub(super) fn connect_through(
    mut bastion: Ssh,
    before: &[Hop],
    hop: &Hop,
    credentials: &Credentials,
) -> Result<Socket, ConnectionError> {
    let through = before.last().map_or("", |bastion| bastion.label.as_str());
    let failed = |kind, reason: String| {
        ConnectionError::new(
            kind,
            &hop.label,
            format!("connecting to {} port {} through {through}", hop.address, hop.port),
            reason,
        )
        .help(format!("Check that the host is up and can be reached from the bastion, and that the bastion forwards connections (AllowTcpForwarding in sshd_config). {MOVED}\n{GONE}"))
    };
    let local = |error: io::Error| failed(ConnectionErrorKind::Unreachable, error.to_string());
    let deadline = Instant::now() + credentials.connect_timeout;
    let channel = bastion
        .step(deadline, |session| {
            session.channel_direct_tcpip(&hop.address, hop.port, None)
        })
        .map_err(|error| {
            let kind = match error {
                StepError::Stopped => ConnectionErrorKind::Cancelled,
                _ => ConnectionErrorKind::Unreachable,
            };
            failed(kind, error.to_string())
        })?;
    bastion
        .detach()
        .map_err(|error| failed(ConnectionErrorKind::Unreachable, error.to_string()))?;
    let (ours, theirs) = UnixStream::pair().map_err(local)?;
    ours.set_nonblocking(true).map_err(local)?;
    let bridge = Bridge::new(bastion, channel, theirs).map_err(local)?;
    thread::Builder::new()
        .name(format!("bastion {through}"))
        .spawn(move || bridge.run())
        .map_err(local)?;
    Ok(Socket::Bridge(ours))
}

/// Carries bytes between a socket pair and a channel until either ends.
pub(super) struct Bridge {
    bastion: Ssh,
    channel: Channel,
    local: UnixStream,
    descriptor: OwnedFd,
    to_channel: Vec<u8>,
    to_local: Vec<u8>,
}

impl Bridge {
    pub(super) fn new(bastion: Ssh, channel: Channel, local: UnixStream) -> io::Result<Self> {
        local.set_nonblocking(true)?;
        Ok(Self {
            bastion,
            channel,
            descriptor: local.as_fd().try_clone_to_owned()?,
            local,
            to_channel: Vec::new(),
            to_local: Vec::new(),
        })
    }

    /// Dropping the socket pair's end is how the session inside learns of the end.
    fn run(mut self) {
        while let Ok(true) = self.turn() {}
        // It reads the other end's last words before it writes again: that would fail first, and look like a cut line.
        let _ = self.local.shutdown(Shutdown::Write);
        let _ = self.local.set_nonblocking(false);
        let _ = self.local.set_read_timeout(Some(LINGER));
        let mut unwanted = [0; 1024];
        while self
            .local
            .read(&mut unwanted)
            .is_ok_and(|length| length > 0)
        {}
        // What has come meanwhile is left unread, so that the end of the socket alone would be a reset.
        self.bastion.disconnect(Instant::now() + LINGER);
    }

    /// Moves what can be moved, then waits. False when either side has ended.
    pub(super) fn turn(&mut self) -> io::Result<bool> {
        let _watch = self.bastion.watch(Instant::now());
        let mut buffer = vec![0; 32 * 1024];
        while self.to_local.len() < BRIDGE_LIMIT {
            match ready(self.channel.read(&mut buffer))? {
                None | Some(0) => break,
                Some(length) => self.to_local.extend_from_slice(&buffer[..length]),
            }
        }
        while self.to_channel.len() < BRIDGE_LIMIT {
            match ready((&self.local).read(&mut buffer))? {
                None => break,
                Some(0) => return Ok(false),
                Some(length) => self.to_channel.extend_from_slice(&buffer[..length]),
            }
        }
        // No part of the connection, but unread it would count as something to be moved for ever.
        ready(self.channel.stderr().read(&mut buffer))?;
        drain(&mut self.to_local, |bytes| (&self.local).write(bytes))?;
        drain(&mut self.to_channel, |bytes| self.channel.write(bytes))?;
        // A write reads as well, for the window's sake, and the socket stays silent about that.
        if self.channel.read_window().available > 0 && self.to_local.len() < BRIDGE_LIMIT {
            return Ok(true);
        }
        if self.channel.eof() && self.to_local.is_empty() {
            return Ok(false);
        }
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.to_channel.len() < BRIDGE_LIMIT);
        flags.set(PollFlags::OUT, !self.to_local.is_empty());
        let until = self.bastion.keep_alive().map_err(|error| broken(&error))?;
        let also = Also {
            descriptor: &self.descriptor,
            flags,
        };
        self.bastion
            .wait(until, Some(also))
            .map_err(|error| broken(&error))?;
        Ok(true)
    }
}

fn broken(error: &StepError) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error.to_string())
}

/// None where it would block.
pub(super) fn ready(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes as much as can be written.
fn drain(
    buffer: &mut Vec<u8>,
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match ready(write(&buffer[done..]))? {
            None | Some(0) => break,
            Some(length) => done += length,
        }
    }
    buffer.drain(..done);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A port that nobody listens at.
    fn closed(address: &str) -> SocketAddr {
        TcpListener::bind((address, 0))
            .unwrap()
            .local_addr()
            .unwrap()
    }

    /// A port whose queue is full, which answers nobody; and what fills it.
    fn silent(address: &str) -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let listener = TcpListener::bind((address, 0)).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut callers = Vec::new();
        while let Ok(caller) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            callers.push(caller);
        }
        (address, listener, callers)
    }

    #[test]
    fn each_address_that_fails_is_told() {
        let addresses = [closed("127.0.0.2"), closed("127.0.0.3")];
        let reason = reach(&addresses, Duration::from_secs(1)).unwrap_err();
        let lines: Vec<_> = reason.lines().collect();
        let [_, first, second] = lines[..] else {
            panic!("{reason}");
        };
        assert!(
            first.starts_with("127.0.0.2: Connection refused"),
            "{reason}"
        );
        assert!(
            second.starts_with("127.0.0.3: Connection refused"),
            "{reason}"
        );
        let alone = reach(&addresses[..1], Duration::from_secs(1)).unwrap_err();
        assert!(alone.starts_with("Connection refused"), "{alone}");
    }

    #[test]
    fn the_timeout_is_for_all_addresses_together() {
        let silent = ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(silent);
        let addresses = silent.each_ref().map(|(address, ..)| *address);
        let begun = Instant::now();
        let reason = reach(&addresses, Duration::from_secs(3)).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(5), "{reason}");
        assert!(
            reason.contains("127.0.0.3: nobody answered within"),
            "{reason}"
        );

        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [addresses[0], server.local_addr().unwrap()];
        reach(&addresses, Duration::from_secs(1)).unwrap();
    }
}
