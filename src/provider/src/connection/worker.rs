//! The one thread that touches a host's session: logs in, starts the agent, moves bytes.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use ssh2::Channel;
use tokio::sync::oneshot;

use super::{
    credentials::Credentials,
    embedded::Agent,
    error::{ConnectionError, ConnectionErrorKind},
    host_key::PublicKey,
    install,
    link::{Ended, Shared},
    output::{Output, Progress},
    pump::Pump,
    session::{self, LoggedIn, Ssh, StepError},
    ssh_config::{self, Hop},
    target::Target,
    transport::ready,
    upload::Outgoing,
    wire::Decoder,
};

/// How much of the agent's stderr is kept for errors. Bytes.
const STDERR_KEPT: usize = 8 * 1024;

/// How much a turn takes in, so that output without end doesn't keep us from looking at it. Bytes.
const TURN_LIMIT: usize = 256 * 1024;

/// How long the agent may take to end once its stdin has.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(3);

/// What a thread is started with.
pub(super) struct Job {
    pub(super) target: Target,
    pub(super) credentials: Arc<Credentials>,
    pub(super) agents: Arc<[Agent]>,
    pub(super) folder: Arc<str>,
    pub(super) shared: Arc<Shared>,
    pub(super) outgoing: mpsc::Receiver<Outgoing>,
    pub(super) ready: oneshot::Sender<Result<PublicKey, ConnectionError>>,
}

/// Lets nobody wait for a thread that is gone, whatever it died of.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end(ended("the connection's thread ended"));
    }
}

fn ended(reason: &str) -> Ended {
    Ended {
        reason: reason.to_owned(),
        stderr: String::new(),
        is_cut: false,
    }
}

/// The thread, from the first packet to the last.
pub(super) fn run(job: Job) {
    let Job {
        target,
        credentials,
        agents,
        folder,
        shared,
        outgoing,
        ready,
    } = job;
    let _ending = Ending(&shared);
    let started = start(&target, &credentials, &agents, &folder, &shared);
    match started {
        Ok((mut pump, server_key)) => {
            let _ = ready.send(Ok(server_key));
            let result = pump.run(&outgoing);
            let is_cut = result.is_err() || pump.pipe.was_shut_down();
            shared.end(Ended {
                reason: result.unwrap_or_else(|error| error.to_string()),
                stderr: pump.pipe.stderr_text(),
                is_cut,
            });
        }
        Err(error) => {
            shared.end(ended(&error.to_string()));
            let _ = ready.send(Err(error));
        }
    }
}

fn start<'a>(
    target: &Target,
    credentials: &Credentials,
    agents: &[Agent],
    folder: &str,
    shared: &'a Arc<Shared>,
) -> Result<(Pump<'a>, PublicKey), ConnectionError> {
    let hops = ssh_config::route(target, credentials)?;
    fault::point(|| "before: log in");
    let LoggedIn { ssh, server_key } = session::open(&hops, credentials, &shared.wake)
        .map_err(|error| credentials.explain(error))?;
    fault::done(|| "log in");
    let Some(hop) = hops.last() else {
        return Err(failed(&target.to_string(), &StepError::Stopped));
    };
    let mut pipe = Pipe::open(ssh, hop, credentials, agents, folder)?;
    fault::done(|| "start the agent");
    let first_word = credentials.connect_timeout * install::FIRST_WORD;
    let rest = pipe.become_agent(hop, agents, first_word)?;
    fault::done(|| "wait for the agent");
    let mut pump = Pump {
        pipe,
        shared,
        decoder: Decoder::default(),
    };
    pump.decoder.extend(&rest);
    Ok((pump, server_key))
}

fn failed(host: &str, error: &StepError) -> ConnectionError {
    let kind = match error.kind(ConnectionErrorKind::Protocol) {
        ConnectionErrorKind::NotReady => ConnectionErrorKind::Lost,
        kind => kind,
    };
    ConnectionError::new(kind, host, "running a command over SSH", error.to_string())
}

/// What a turn has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing can be moved just now.
    Idle,
    /// There is more to move.
    More,
    /// The command's output has ended.
    Ended,
}

/// A command's stdin, stdout and stderr.
pub(super) struct Pipe {
    pub(super) ssh: Ssh,
    pub(super) channel: Channel,
    pub(super) outgoing: VecDeque<Outgoing>,
    /// How much of the first of `outgoing` has gone.
    gone: usize,
    stderr: Vec<u8>,
}

impl Pipe {
    fn open(
        mut ssh: Ssh,
        hop: &Hop,
        credentials: &Credentials,
        agents: &[Agent],
        folder: &str,
    ) -> Result<Self, ConnectionError> {
        let failed = |error| failed(&hop.label, &error);
        let deadline = || Instant::now() + credentials.connect_timeout;
        let mut channel = ssh
            .step(deadline(), |session| session.channel_session())
            .map_err(failed)?;
        let command = install::command(&hop.user, agents, folder);
        ssh.step(deadline(), |_| channel.exec(&command))
            .map_err(failed)?;
        Ok(Self {
            ssh,
            channel,
            outgoing: VecDeque::new(),
            gone: 0,
            stderr: Vec::new(),
        })
    }

    /// Waits for the agent's first line, uploading the agent if need be. What came after that line.
    fn become_agent(
        &mut self,
        hop: &Hop,
        agents: &[Agent],
        first_word: Duration,
    ) -> Result<Vec<u8>, ConnectionError> {
        let host = hop.label.as_str();
        // The login shell comes first, and says nothing while it waits for somebody to type.
        let mut deadline = Instant::now() + first_word;
        let (mut output, mut is_uploaded) = (Output::default(), false);
        loop {
            let turn = self
                .turn(&mut |bytes| output.extend(bytes))
                .map_err(|error| failed(host, &error))?;
            match output.progress() {
                Progress::Serving(at) => return Ok(output.after(at)),
                Progress::Failed(reason) => {
                    return Err(install::refusal(host, reason, &self.stderr_text()));
                }
                Progress::Noise => return Err(install::noise(host, output.bytes())),
                Progress::Need { .. } if is_uploaded => return Err(install::asks_again(host)),
                Progress::Need {
                    architecture,
                    taken,
                } => {
                    let agent = agents
                        .iter()
                        .find(|agent| agent.architecture == architecture);
                    let Some(agent) = agent else {
                        return Err(install::refusal(
                            host,
                            &format!("architecture {architecture}"),
                            "",
                        ));
                    };
                    tracing::info!(
                        host,
                        architecture,
                        bytes = agent.gzip.len(),
                        "uploading the agent"
                    );
                    fault::point(|| "before: upload the agent");
                    self.outgoing.push_back(agent.gzip.to_vec().into());
                    is_uploaded = true;
                    deadline = Instant::now() + install::START_TIMEOUT;
                    output.take(taken);
                    continue;
                }
                Progress::Waiting => {}
            }
            if turn == Turn::Ended {
                let status = self.status();
                if self.was_shut_down() {
                    return Err(install::shut_down(host, &self.stderr_text()));
                }
                return Err(install::early_end(
                    host,
                    &hop.user,
                    status,
                    output.bytes(),
                    &self.stderr_text(),
                ));
            }
            if self.ssh.is_stopped() {
                return Err(failed(host, &StepError::Stopped));
            }
            if Instant::now() >= deadline {
                return Err(install::too_slow(
                    host,
                    &hop.user,
                    is_uploaded,
                    output.bytes(),
                    &self.stderr_text(),
                ));
            }
            if turn == Turn::Idle {
                self.wait(deadline).map_err(|error| failed(host, &error))?;
            }
        }
    }

    /// The command's exit status, once its output has ended.
    pub(super) fn status(&mut self) -> i32 {
        let deadline = Instant::now() + END_TIMEOUT;
        let _ = self.ssh.step(deadline, |_| self.channel.wait_close());
        self.channel.exit_status().unwrap_or(-1)
    }

    /// Whether the command ended as all do on a host that shuts down: by a signal that somebody sent. sshd tells it
    /// instead of a status; RFC 4254, 6.10
    pub(super) fn was_shut_down(&self) -> bool {
        let signal = self.channel.exit_signal().ok();
        let signal = signal.and_then(|signal| signal.exit_signal);
        matches!(signal.as_deref(), Some("HUP" | "KILL" | "TERM"))
    }

    /// Moves the bytes that can be moved, up to [`TURN_LIMIT`].
    pub(super) fn turn(&mut self, take: &mut dyn FnMut(&[u8])) -> Result<Turn, StepError> {
        let _watch = self.ssh.watch(Instant::now());
        let mut buffer = vec![0; 64 * 1024];
        let (mut total, mut was_still) = (0, false);
        loop {
            let mut moved = false;
            while let Some(length) = read(&mut self.channel, &mut buffer)? {
                take(&buffer[..length]);
                moved = true;
                total += length;
                if total >= TURN_LIMIT {
                    return Ok(Turn::More);
                }
            }
            while let Some(length) = read(&mut self.channel.stderr(), &mut buffer)? {
                self.keep_stderr(&buffer[..length]);
                moved = true;
                total += length;
                if total >= TURN_LIMIT {
                    return Ok(Turn::More);
                }
            }
            moved |= self.write()?;
            // Each of the three reads packets for the others, about which the socket stays silent. What
            // is queued and comes in no second round either is nothing that this thread could take.
            if !moved && (was_still || self.channel.read_window().available == 0) {
                return Ok(if self.channel.eof() {
                    Turn::Ended
                } else {
                    Turn::Idle
                });
            }
            was_still = !moved;
        }
    }

    fn write(&mut self) -> Result<bool, StepError> {
        let mut moved = false;
        while let Some(Outgoing { bytes, .. }) = self.outgoing.front() {
            match ready(self.channel.write(&bytes[self.gone..]))
                .map_err(|error| step_error(&error))?
            {
                None | Some(0) => break,
                Some(length) => self.gone += length,
            }
            moved = true;
            fault::done(|| "write to the host");
            if self.gone == bytes.len() {
                self.outgoing.pop_front();
                self.gone = 0;
            }
        }
        Ok(moved)
    }

    pub(super) fn wait(&mut self, until: Instant) -> Result<(), StepError> {
        let keepalive = self.ssh.keep_alive()?;
        self.ssh.wait(until.min(keepalive), None)
    }

    fn keep_stderr(&mut self, bytes: &[u8]) {
        self.stderr.extend_from_slice(bytes);
        let over = self.stderr.len().saturating_sub(STDERR_KEPT);
        self.stderr.drain(..over);
    }

    fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
}

/// None where nothing is there to read, at the end as well.
fn read(stream: &mut impl io::Read, buffer: &mut [u8]) -> Result<Option<usize>, StepError> {
    ready(stream.read(buffer))
        .map(|length| length.filter(|length| *length > 0))
        .map_err(|error| step_error(&error))
}

fn step_error(error: &io::Error) -> StepError {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<ssh2::Error>())
    {
        Some(inner) => StepError::Ssh(ssh2::Error::from_errno(inner.code())),
        None => StepError::Ssh(ssh2::Error::new(
            ssh2::ErrorCode::Session(libssh2_sys::LIBSSH2_ERROR_SOCKET_DISCONNECT),
            "the connection was cut",
        )),
    }
}
