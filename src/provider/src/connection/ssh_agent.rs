//! The SSH agent, with a deadline for each of its answers. libssh2 waits with a recv(2) that has none
//! (agent_transact_unix()), on the thread that has to notice when it is to end: so it asks by way of a proxy.

use std::{
    fs::Permissions,
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};

use super::{
    session::{Ssh, StepError, poll_until},
    transport::ready,
    wake::Wake,
};

/// How long an agent whose queue is full is left alone.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest message that libssh2 takes (AGENT_MAX_MSGLEN). Bytes.
const MESSAGE_LIMIT: usize = 256 * 1024;

/// An agent that has told its keys.
pub(super) struct SshAgent {
    pub(super) agent: ssh2::Agent,
    pub(super) identities: Vec<ssh2::PublicKey>,
    seen: Arc<Seen>,
}

/// What the proxy has seen of the agent.
#[derive(Default)]
struct Seen {
    answers: AtomicUsize,
    is_late: AtomicBool,
}

impl SshAgent {
    /// Asks the agent for its keys. It has so long for each answer, this one and the later ones.
    pub(super) fn open(ssh: &Ssh, socket: &Path, patience: Duration) -> Result<Self, StepError> {
        let stream = reach(ssh, socket, Instant::now() + patience)?;
        let seen = Arc::new(Seen::default());
        let mut agent = ssh.session.agent().map_err(StepError::Ssh)?;
        // Nobody else may enter the folder, which goes once libssh2 has connected.
        let folder = tempfile::Builder::new()
            .prefix("nspawn-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).map_err(|error| {
            let hint = "TMPDIR may name a shorter path";
            io::Error::other(format!("{}: {error}; {hint}", path.display()))
        })?;
        agent.set_identity_path(&path).map_err(StepError::Ssh)?;
        agent.connect().map_err(StepError::Ssh)?;
        let (libssh2, _) = listener.accept()?;
        drop(folder);
        let proxy = Proxy {
            libssh2,
            agent: stream,
            wake: ssh.wake(),
            patience,
            seen: Arc::clone(&seen),
        };
        thread::Builder::new()
            .name("ssh-agent".to_owned())
            .spawn(move || proxy.run())?;
        let identities = agent.list_identities().and_then(|()| agent.identities());
        let identities = identities.map_err(|error| {
            if seen.is_late.load(Ordering::Acquire) {
                StepError::Timeout
            } else {
                StepError::Ssh(error)
            }
        })?;
        Ok(Self {
            agent,
            identities,
            seen,
        })
    }

    /// Whether the agent was given up because it didn't answer in time.
    pub(super) fn is_late(&self) -> bool {
        self.seen.is_late.load(Ordering::Acquire)
    }

    /// How often the agent has answered.
    pub(super) fn answers(&self) -> usize {
        self.seen.answers.load(Ordering::Acquire)
    }
}

/// Connects to the agent, which has until the deadline to take the connection.
fn reach(ssh: &Ssh, socket: &Path, deadline: Instant) -> Result<UnixStream, StepError> {
    let address = SocketAddrUnix::new(socket).map_err(io::Error::from)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let stream = stream.map_err(io::Error::from)?;
    loop {
        match connect(&stream, &address) {
            Ok(()) => return Ok(stream.into()),
            Err(Errno::AGAIN) if Instant::now() < deadline => {
                ssh.pause(Instant::now() + PAUSE)?;
            }
            Err(Errno::AGAIN) => return Err(StepError::Timeout),
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}

/// Carries libssh2's questions to the agent, and its answers back.
struct Proxy {
    libssh2: UnixStream,
    agent: UnixStream,
    wake: Arc<Wake>,
    patience: Duration,
    seen: Arc<Seen>,
}

impl Proxy {
    /// Until either hangs up, or an answer comes too late. libssh2 learns of the end when the sockets are dropped.
    fn run(self) {
        loop {
            match self.turn() {
                Ok(()) => {}
                Err(error) => {
                    let is_late = error.kind() == io::ErrorKind::TimedOut;
                    return self.seen.is_late.store(is_late, Ordering::Release);
                }
            }
        }
    }

    /// One question and its answer.
    fn turn(&self) -> io::Result<()> {
        let question = message(|buffer| (&self.libssh2).read_exact(buffer))?;
        (&self.agent).write_all(&question)?;
        let deadline = Instant::now() + self.patience;
        let answer = message(|buffer| self.read_answer(buffer, deadline))?;
        self.seen.answers.fetch_add(1, Ordering::Release);
        (&self.libssh2).write_all(&answer)
    }

    fn read_answer(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match ready((&self.agent).read(&mut buffer[done..]))? {
                None => self.wait(deadline)?,
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(length) => done += length,
            }
        }
        Ok(())
    }

    /// Waits until the agent says something. Before a session is up, only its end wakes its thread.
    fn wait(&self, deadline: Instant) -> io::Result<()> {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut descriptors = [
            PollFd::new(&self.agent, PollFlags::IN),
            PollFd::new(&*self.wake, PollFlags::IN),
        ];
        poll_until(&mut descriptors, deadline)
            .map_err(|error| io::Error::other(error.to_string()))?;
        if descriptors[1].revents().is_empty() && !self.wake.is_closing() {
            Ok(())
        } else {
            Err(io::ErrorKind::ConnectionAborted.into())
        }
    }
}

/// One message, behind its length. draft-ietf-sshm-ssh-agent, 3
pub(super) fn message(mut read: impl FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    read(&mut length)?;
    let end = length.len() + u32::from_be_bytes(length) as usize;
    if end > MESSAGE_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = length.to_vec();
    message.resize(end, 0);
    read(&mut message[length.len()..])?;
    Ok(message)
}
