//! The bytes beneath SSH: TCP, or a channel of the session with a bastion.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
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
    let mut reason = "the name has no address".to_owned();
    for address in addresses {
        let stream = TcpStream::connect_timeout(&address, timeout).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => return Ok(Socket::Tcp(stream)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                reason = format!("nobody answered within {timeout:?}");
            }
            Err(error) => reason = error.to_string(),
        }
    }
    Err(failed(reason))
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
    theirs.set_nonblocking(true).map_err(local)?;
    let descriptor = theirs.as_fd().try_clone_to_owned().map_err(local)?;
    thread::Builder::new()
        .name(format!("bastion {through}"))
        .spawn(move || {
            let bridge = Bridge {
                bastion,
                channel,
                local: theirs,
                descriptor,
                to_channel: Vec::new(),
                to_local: Vec::new(),
            };
            bridge.run();
        })
        .map_err(local)?;
    Ok(Socket::Bridge(ours))
}

/// Carries bytes between a socket pair and a channel until either ends.
struct Bridge {
    bastion: Ssh,
    channel: Channel,
    local: UnixStream,
    descriptor: OwnedFd,
    to_channel: Vec<u8>,
    to_local: Vec<u8>,
}

impl Bridge {
    /// Dropping the socket pair's end is how the session inside learns of the end.
    fn run(mut self) {
        while let Ok(true) = self.turn() {}
    }

    /// Moves what can be moved, then waits. False when either side has ended.
    fn turn(&mut self) -> io::Result<bool> {
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
