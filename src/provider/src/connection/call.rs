//! One request, with all that goes with it.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use protocol::{Failure, message::Request};
use tokio_util::sync::CancellationToken;

use super::error::ConnectionError;

/// Takes the agent's lines of progress.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// Why a call gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The agent could not be spoken to.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The agent could not do it.
    #[error(transparent)]
    Failure(#[from] Failure),
}

impl CallError {
    /// What to do about it, where that is known.
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Connection(error) => error.help.as_deref(),
            Self::Failure(failure) => failure.help.as_deref(),
        }
    }
}

/// One request, with all that goes with it.
#[derive(Clone)]
pub struct Call {
    pub(super) request: Request,
    pub(super) deadline: Duration,
    pub(super) cancellation: CancellationToken,
    pub(super) progress: Option<Progress>,
    pub(super) upload: Option<PathBuf>,
    /// For how long after the first attempt it is sent again when the connection drops; always, without.
    pub(super) repeat_within: Option<Duration>,
    /// The only machine that it may be sent to; the first one that it was sent to, without.
    pub(super) machine_id: Option<String>,
    /// How long a host that reboots is waited for.
    pub(super) wait: Duration,
}

/// How much longer than the agent the provider waits, so that the agent's own, better error arrives.
const AGENT_HEADROOM: Duration = Duration::from_secs(15);

/// For requests that carry no deadline of their own.
const DEFAULT_DEADLINE: Duration = Duration::from_mins(2);

impl Call {
    /// A call of this request. The request's own deadline, and some, is the call's.
    pub fn new(request: Request) -> Self {
        let deadline = match &request {
            Request::Put(put) => Duration::from_secs(put.deadline) + AGENT_HEADROOM,
            Request::Remove { deadline, .. } | Request::Snapshot { deadline } => {
                Duration::from_secs(*deadline) + AGENT_HEADROOM
            }
            _ => DEFAULT_DEADLINE,
        };
        Self {
            request,
            deadline,
            cancellation: CancellationToken::new(),
            progress: None,
            upload: None,
            repeat_within: None,
            machine_id: None,
            wait: Duration::ZERO,
        }
    }

    /// Lets a connection that drops later than that, or by a reboot, be the end: the host may have undone by then what
    /// it was asked for, and why it dropped.
    #[must_use]
    pub fn repeat_within(mut self, time: Duration) -> Self {
        self.repeat_within = Some(time);
        self
    }

    /// Sends it to this machine alone, whatever the host's address leads to by then.
    #[must_use]
    pub fn machine(mut self, machine_id: impl Into<String>) -> Self {
        self.machine_id = Some(machine_id.into());
        self
    }

    /// For how long from its beginning a host that is rebooting is waited for.
    #[must_use]
    pub fn wait(mut self, time: Duration) -> Self {
        self.wait = time;
        self
    }

    /// How long the whole call may take.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Once cancelled, the agent is asked to stop; the call then waits for its answer.
    #[must_use]
    pub fn cancellation(mut self, cancellation: CancellationToken) -> Self {
        self.cancellation = cancellation;
        self
    }

    /// Who is told the agent's lines of progress.
    #[must_use]
    pub fn progress(mut self, progress: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// The file that is sent if the agent asks for data.
    #[must_use]
    pub fn upload(mut self, file: impl Into<PathBuf>) -> Self {
        self.upload = Some(file.into());
        self
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Call")
            .field("request", &self.request)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
