//! An SSH session in non-blocking mode: a step that can't go on waits for the socket, a deadline or
//! a wake, whichever comes first.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use ssh2::{BlockDirections, ErrorCode, MethodType, Session};

use super::{
    authentication,
    credentials::Credentials,
    error::{ConnectionError, ConnectionErrorKind},
    host_key::PublicKey,
    ssh_config::Hop,
    transport::{self, Socket},
    trust::Trust,
    wake::Wake,
    watchdog::{Watch, Watchdog},
};

/// How many unanswered questions end a connection.
const KEEPALIVES_MISSED: u32 = 3;

/// How much longer than it may take a step may stay in libssh2, before the connection is cut.
const GRACE: Duration = Duration::from_secs(5);

/// No code of libssh2's own.
const STOPPED: ErrorCode = ErrorCode::Session(i32::MAX);

/// Why a step came to no end of its own.
#[derive(Debug)]
pub(super) enum StepError {
    /// The deadline passed.
    Timeout,
    /// The caller lost interest.
    Stopped,
    /// Nothing came for so long, in spite of [`KEEPALIVES_MISSED`] keepalives.
    Silent(Duration),
    /// libssh2 or the socket failed.
    Ssh(ssh2::Error),
    /// Another call of the system failed.
    System(io::Error),
}

impl fmt::Display for StepError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => formatter.write_str("no answer in time"),
            Self::Stopped => formatter.write_str("stopped"),
            Self::Silent(time) => {
                write!(
                    formatter,
                    "the host has been silent for {} seconds",
                    time.as_secs()
                )
            }
            Self::Ssh(error) => formatter.write_str(error.message()),
            Self::System(error) => error.fmt(formatter),
        }
    }
}

impl StepError {
    /// Whether the other end closed or fell silent, rather than said something wrong.
    fn is_absence(&self) -> bool {
        match self {
            Self::Timeout | Self::Silent(_) => true,
            Self::Ssh(error) => {
                matches!(
                    error.code(),
                    ErrorCode::Session(
                        libssh2_sys::LIBSSH2_ERROR_BANNER_RECV
                            | libssh2_sys::LIBSSH2_ERROR_BANNER_SEND
                            | libssh2_sys::LIBSSH2_ERROR_SOCKET_DISCONNECT
                            | libssh2_sys::LIBSSH2_ERROR_SOCKET_RECV
                            | libssh2_sys::LIBSSH2_ERROR_SOCKET_SEND
                            | libssh2_sys::LIBSSH2_ERROR_TIMEOUT
                    )
                ) || is_unanswered(error)
            }
            Self::Stopped | Self::System(_) => false,
        }
    }

    /// The kind of a connection's error that this is, where `otherwise` is what a wrong answer means.
    pub(super) fn kind(&self, otherwise: ConnectionErrorKind) -> ConnectionErrorKind {
        match self {
            Self::Stopped => ConnectionErrorKind::Cancelled,
            error if error.is_absence() => ConnectionErrorKind::NotReady,
            _ => otherwise,
        }
    }
}

impl From<io::Error> for StepError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Waits until one of these is ready, the time is over, or a signal came.
pub(super) fn poll_until(descriptors: &mut [PollFd], until: Instant) -> Result<(), StepError> {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(|_| StepError::Timeout)?;
    match poll(descriptors, Some(&left)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// Whether libssh2 wants to be asked again when the socket is ready.
pub(super) fn would_block(error: &ssh2::Error) -> bool {
    error.code() == ErrorCode::Session(libssh2_sys::LIBSSH2_ERROR_EAGAIN)
}

/// Whether the line ended before the server said whether it takes a key: libssh2 has the code of a refusal for that,
/// too, and tells them apart in its message alone (userauth.c).
pub(super) fn is_unanswered(error: &ssh2::Error) -> bool {
    error.code() == ErrorCode::Session(libssh2_sys::LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED)
        && error.message().starts_with("Waiting for")
}

/// A session and what it takes to wait for it. Only one thread touches it.
pub(super) struct Ssh {
    pub(super) session: Session,
    socket: OwnedFd,
    wake: Arc<Wake>,
    watchdog: Watchdog,
    /// How long a step may stay in libssh2 after its deadline: it may be asking the SSH agent.
    patience: Duration,
    heard: Instant,
    keepalive: Duration,
}

/// What else to wait for besides the session's socket.
#[derive(Clone, Copy)]
pub(super) struct Also<'a> {
    pub(super) descriptor: &'a OwnedFd,
    pub(super) flags: PollFlags,
}

impl Ssh {
    fn over(socket: Socket, wake: Arc<Wake>, credentials: &Credentials) -> Result<Self, StepError> {
        let session = Session::new().map_err(StepError::Ssh)?;
        let watched = socket.try_clone()?;
        let mut ssh = Self {
            session,
            socket: socket.try_clone()?,
            wake,
            watchdog: Watchdog::over(watched)?,
            patience: credentials.patience(),
            heard: Instant::now(),
            keepalive: credentials.keepalive_interval,
        };
        ssh.session.set_blocking(false);
        ssh.session.set_tcp_stream(socket);
        Ok(ssh)
    }

    /// Repeats a step of libssh2 until it is done.
    pub(super) fn step<T>(
        &mut self,
        deadline: Instant,
        mut step: impl FnMut(&mut Session) -> Result<T, ssh2::Error>,
    ) -> Result<T, StepError> {
        let wake = Arc::clone(&self.wake);
        self.finish(deadline, |session| {
            if wake.is_closing() {
                return Err(ssh2::Error::new(STOPPED, "stopped"));
            }
            step(session)
        })
        .map_err(|error| match error {
            StepError::Ssh(error) if error.code() == STOPPED => StepError::Stopped,
            error => error,
        })
    }

    /// Leaves the wake to the session inside this one: what one thread takes, the other would miss.
    pub(super) fn detach(&mut self) -> Result<(), StepError> {
        self.wake = Arc::new(Wake::new().map_err(io::Error::from)?);
        Ok(())
    }

    /// Cuts the connection when what may take until the deadline stays in libssh2.
    pub(super) fn watch(&self, deadline: Instant) -> Watch {
        self.watchdog.watch(deadline + self.patience + GRACE)
    }

    /// What interrupts this session's thread.
    pub(super) fn wake(&self) -> Arc<Wake> {
        Arc::clone(&self.wake)
    }

    /// Whether the thread is to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.wake.is_closing()
    }

    /// Repeats a step of libssh2 until it is done, also while the thread is ending.
    pub(super) fn finish<T>(
        &mut self,
        deadline: Instant,
        mut step: impl FnMut(&mut Session) -> Result<T, ssh2::Error>,
    ) -> Result<T, StepError> {
        let _watch = self.watch(deadline);
        loop {
            match step(&mut self.session) {
                Err(error) if would_block(&error) => {}
                Err(error) if error.code() != STOPPED && self.watchdog.has_cut() => {
                    return Err(StepError::Timeout);
                }
                result => return result.map_err(StepError::Ssh),
            }
            if Instant::now() >= deadline {
                return Err(StepError::Timeout);
            }
            self.wait(deadline, None)?;
        }
    }

    /// Tells the server that this is the end, for it to log no broken connection.
    pub(super) fn disconnect(&mut self, deadline: Instant) {
        let _ = self.finish(deadline, |session| session.disconnect(None, "done", None));
    }

    /// Waits until the socket is ready, somebody wakes us, or it is time for a keepalive.
    pub(super) fn wait(&mut self, until: Instant, also: Option<Also<'_>>) -> Result<(), StepError> {
        let flags = match self.session.block_directions() {
            BlockDirections::Outbound | BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
            BlockDirections::None | BlockDirections::Inbound => PollFlags::IN,
        };
        let mut descriptors = vec![
            PollFd::from_borrowed_fd(self.socket.as_fd(), flags),
            PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
        ];
        if let Some(also) = &also {
            descriptors.push(PollFd::from_borrowed_fd(
                also.descriptor.as_fd(),
                also.flags,
            ));
        }
        poll_until(&mut descriptors, until)?;
        if descriptors[0].revents().contains(PollFlags::IN) {
            self.heard = Instant::now();
        }
        if !descriptors[1].revents().is_empty() {
            self.wake.take();
        }
        Ok(())
    }

    /// Waits for so long, unless the thread is to end.
    pub(super) fn pause(&self, until: Instant) -> Result<(), StepError> {
        while Instant::now() < until {
            if self.wake.is_closing() {
                return Err(StepError::Stopped);
            }
            poll_until(&mut [PollFd::new(&*self.wake, PollFlags::IN)], until)?;
            self.wake.take();
        }
        Ok(())
    }

    /// Asks a silent host whether it is there, and says when to ask again.
    pub(super) fn keep_alive(&mut self) -> Result<Instant, StepError> {
        let silence = self.heard.elapsed();
        if silence > self.keepalive * KEEPALIVES_MISSED {
            return Err(StepError::Silent(silence));
        }
        match self.session.keepalive_send() {
            Ok(seconds) => Ok(Instant::now() + Duration::from_secs(u64::from(seconds.max(1)))),
            Err(error) if would_block(&error) => Ok(Instant::now() + Duration::from_secs(1)),
            Err(error) => Err(StepError::Ssh(error)),
        }
    }
}

/// A logged-in session, and the key that the server showed.
pub(super) struct LoggedIn {
    pub(super) ssh: Ssh,
    pub(super) server_key: PublicKey,
}

/// Goes through all hops and logs in at the last one.
pub(super) fn open(
    hops: &[Hop],
    credentials: &Credentials,
    wake: &Arc<Wake>,
) -> Result<LoggedIn, ConnectionError> {
    let Some((hop, before)) = hops.split_last() else {
        return Err(ConnectionError::new(
            ConnectionErrorKind::Unreachable,
            "",
            "connecting",
            "there is no host to connect to",
        ));
    };
    let trust = Trust::new(hop, credentials)?;
    let mut refusal = None;
    for methods in trust.method_lists() {
        let socket = match before {
            [] => transport::connect(hop, credentials.connect_timeout)?,
            _ => transport::connect_through(
                open(before, credentials, wake)?.ssh,
                before,
                hop,
                credentials,
            )?,
        };
        let (mut ssh, server_key) = shake_hands(hop, socket, &methods, credentials, wake)?;
        match trust.judge(&server_key) {
            Ok(()) => {
                authentication::log_in(&mut ssh, hop, credentials)?;
                let seconds = u32::try_from(ssh.keepalive.as_secs()).unwrap_or(u32::MAX);
                ssh.session.set_keepalive(true, seconds);
                return Ok(LoggedIn { ssh, server_key });
            }
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| {
        ConnectionError::new(
            ConnectionErrorKind::HostKeyUnknown,
            &hop.label,
            "checking the host key",
            "the host showed no key",
        )
    }))
}

fn shake_hands(
    hop: &Hop,
    socket: Socket,
    methods: &str,
    credentials: &Credentials,
    wake: &Arc<Wake>,
) -> Result<(Ssh, PublicKey), ConnectionError> {
    let failed = |error: StepError| {
        ConnectionError::new(
            error.kind(ConnectionErrorKind::Protocol),
            &hop.label,
            "agreeing on keys with the SSH server",
            error.to_string(),
        )
        .help("Check that an SSH server listens on this port; one that is short of connections (MaxStartups in sshd_config) or still starting looks like this, too.")
    };
    let deadline = Instant::now() + credentials.connect_timeout;
    let mut ssh = Ssh::over(socket, Arc::clone(wake), credentials).map_err(failed)?;
    ssh.session
        .method_pref(MethodType::HostKey, methods)
        .map_err(|error| failed(StepError::Ssh(error)))?;
    ssh.step(deadline, Session::handshake).map_err(failed)?;
    let key = ssh
        .session
        .host_key()
        .map(|(blob, _)| PublicKey::new(blob))
        .ok_or_else(|| failed(StepError::Ssh(ssh2::Error::unknown())))?;
    Ok((ssh, key))
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.as_fd().as_raw_fd()
    }
}
