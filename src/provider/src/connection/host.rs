//! A host, over whatever connection it has just now.

use std::{
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use protocol::message::{Answer, Request};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    call::{Call, CallError},
    error::{ConnectionError, ConnectionErrorKind, MACHINE_REPLACED},
    link::Link,
    pool::Connector,
    target::Target,
    trust,
};

/// How long the error of a host that can't be reached stands for further calls: a refresh of
/// hundreds of its resources doesn't wait for the same timeout again and again.
const ERROR_STANDS: Duration = Duration::from_secs(30);

/// How much longer somebody may have wanted to wait for a host than the one whose error he is told.
const AS_LONG: Duration = Duration::from_secs(10);

/// How long a name that can't be looked up is tried: its record may be as new as the host. A typo is not waited for.
const NAME_PATIENCE: Duration = Duration::from_secs(30);

/// The first and the longest pause between attempts to make a connection again that nobody waits for.
const RENEWED_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The first and the longest pause between attempts to reach a booting host.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// What the agent said of itself and of the machine when the connection was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Welcome {
    /// The agent's release.
    pub agent_version: String,
    /// machine-id(5)
    pub machine_id: String,
    /// Which boot of it this is; nothing from an agent that doesn't say so.
    pub boot_id: String,
}

/// A place for one connection, taken by whoever connects first.
#[derive(Debug)]
pub(super) struct Slot {
    connector: Arc<Connector>,
    state: Mutex<State>,
    /// The newest connection's.
    welcome: StdMutex<Welcome>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Arc<Link>>,
    failed: Option<Failed>,
}

/// The last attempt, which came to nothing.
#[derive(Debug)]
struct Failed {
    at: Instant,
    target: Target,
    /// For how long a booting host was waited for.
    until: Instant,
    error: ConnectionError,
}

impl Failed {
    /// Whether a call, made at this time, is told the same without an attempt of its own: the attempt was made while it
    /// waited for its turn, or just before.
    fn stands(&self, target: &Target, asked: Instant, wait: Option<Duration>) -> bool {
        let is_of_now = self.at > asked;
        self.target == *target
            && match wait {
                None => is_of_now || self.at.elapsed() < ERROR_STANDS,
                Some(wait) => {
                    let as_long = asked + wait <= self.until + AS_LONG;
                    is_of_now && (as_long || !self.error.kind.may_be_booting())
                }
            }
    }
}

impl Slot {
    pub(super) fn new(connector: Arc<Connector>) -> Arc<Self> {
        Arc::new(Self {
            connector,
            state: Mutex::default(),
            welcome: StdMutex::default(),
        })
    }

    /// The connection, made if there is none.
    pub(super) async fn live(
        &self,
        target: &Target,
        wait: Option<Duration>,
    ) -> Result<Arc<Link>, ConnectionError> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(link) = state.link.as_ref().filter(|link| link.is_alive()) {
            return match &target.host_key {
                Some(pin) if !pin.matches(link.server_key()) => Err(trust::changed_pin(
                    &target.to_string(),
                    pin,
                    link.server_key(),
                )),
                _ => Ok(Arc::clone(link)),
            };
        }
        if let Some(failed) = &state.failed
            && failed.stands(target, asked, wait)
        {
            return Err(failed.error.clone());
        }
        let until = asked + wait.unwrap_or_default();
        match self.connect(target, until).await {
            Ok(link) => Ok(self.take(&mut state, link)),
            Err(error) => {
                let failed = Failed {
                    at: Instant::now(),
                    target: target.clone(),
                    until,
                    error: error.clone(),
                };
                *state = State {
                    link: None,
                    failed: Some(failed),
                };
                Err(error)
            }
        }
    }

    fn take(&self, state: &mut State, link: Link) -> Arc<Link> {
        let link = Arc::new(link);
        *self.welcome.lock().unwrap_or_else(PoisonError::into_inner) = link.welcome().clone();
        *state = State {
            link: Some(Arc::clone(&link)),
            failed: None,
        };
        link
    }

    /// Waits until there is no connection, or no more is to be made; whether there may be another.
    async fn dropped(&self) -> bool {
        let link = self.state.lock().await.link.clone();
        let ended = link.map(|link| link.ended());
        let closed = &self.connector.closed;
        if let Some(ended) = ended {
            closed.run_until_cancelled(ended).await;
        }
        !closed.is_cancelled()
    }

    /// Connects once, where nobody else has. Who asks for something meanwhile isn't kept waiting, nor told how it ends.
    async fn renew(&self, target: &Target) -> Result<(), ConnectionError> {
        let is_alive = |state: &State| state.link.as_ref().is_some_and(|link| link.is_alive());
        if self.state.try_lock().map_or(true, |state| is_alive(&state)) {
            return Ok(());
        }
        let link = self.connect(target, Instant::now()).await?;
        let mut state = self.state.lock().await;
        if !is_alive(&state) {
            self.take(&mut state, link);
        }
        Ok(())
    }

    /// Connects, unless the provider is shutting down meanwhile.
    async fn connect(&self, target: &Target, until: Instant) -> Result<Link, ConnectionError> {
        let closed = &self.connector.closed;
        closed
            .run_until_cancelled(self.try_until(target, until))
            .await
            .unwrap_or_else(|| Err(cancelled(target, "the provider is shutting down")))
    }

    /// Connects; a host that seems to be booting is tried until the time is over. A server that closes
    /// before a word was said is short of connections, more often than not, and takes the next one:
    /// MaxStartups and PerSourcePenalties in sshd_config(5).
    async fn try_until(&self, target: &Target, until: Instant) -> Result<Link, ConnectionError> {
        let mut pause = PAUSES.0;
        let mut again = true;
        let mut last = None;
        let soon = until.max(Instant::now() + self.connector.credentials.connect_timeout);
        let begun = Instant::now();
        let patience = |kind: ConnectionErrorKind| match kind {
            ConnectionErrorKind::UnknownName => until.min(begun + NAME_PATIENCE),
            ConnectionErrorKind::NotReady => soon,
            _ => until,
        };
        loop {
            let attempt = Link::open(target, &self.connector);
            let result = match last.take() {
                // What the host said before says more than that the time is up.
                Some(error) if until > begun => {
                    timeout_at(until, attempt).await.unwrap_or(Err(error))
                }
                _ => attempt.await,
            };
            match result {
                Err(error)
                    if error.kind.may_be_booting()
                        && Instant::now() + pause < patience(error.kind) =>
                {
                    tracing::info!(%error, "waiting for the host");
                    sleep_until(Instant::now() + pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                    last = Some(error);
                }
                // Another session's end may have just removed the agent's folder.
                Err(error) if error.kind == ConnectionErrorKind::Install && again => again = false,
                result => return result,
            }
        }
    }

    /// The connection, if there is one.
    pub(super) async fn close(&self) {
        let link = self.state.lock().await.link.take();
        if let Some(link) = link {
            link.close().await;
        }
    }
}

/// A host, over whatever connection it has just now. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    target: Arc<Target>,
    slot: Arc<Slot>,
}

impl Host {
    pub(super) fn new(target: &Target, slot: Arc<Slot>) -> Self {
        Self {
            target: Arc::new(target.clone()),
            slot,
        }
    }

    /// Whom this is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What the agent said when the newest connection was made.
    pub fn welcome(&self) -> Welcome {
        let welcome = self.slot.welcome.lock();
        welcome.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a connection that drops again at once, for as long as it is wanted: the host takes who is not connected for
    /// dead. An error that lasts ends it.
    pub async fn stay(&self, is_wanted: impl Fn() -> bool) -> Result<(), ConnectionError> {
        let mut pause = RENEWED_AFTER.0;
        while self.slot.dropped().await && is_wanted() {
            match self.slot.renew(&self.target).await {
                Ok(()) => pause = RENEWED_AFTER.0,
                Err(error) if error.kind.is_lasting() => return Err(error),
                Err(error) => {
                    tracing::info!(%error, "connecting again later");
                    pause = (pause * 2).min(RENEWED_AFTER.1);
                }
            }
            sleep(pause).await;
        }
        Ok(())
    }

    /// Asks the agent, and waits for its answer. Many calls may be in flight at once.
    ///
    /// A connection that has dropped is made again, once; a request that was on its way then is sent
    /// again, for the agent knows the same token and session as its own. It goes to one machine only:
    /// another one, behind the same address, would answer for what it never had.
    pub async fn call(&self, mut call: Call) -> Result<Answer, CallError> {
        let begun = Instant::now();
        let deadline = begun + call.deadline;
        let link = self.connected(&call, begun).await?;
        call.machine_id
            .get_or_insert_with(|| link.welcome().machine_id.clone());
        let first = match link.call(&call, deadline).await {
            Err(CallError::Connection(error)) if error.kind == ConnectionErrorKind::Lost => error,
            other => return other,
        };
        let boot_id = link.welcome().boot_id.clone();
        drop(link);
        if call.cancellation.is_cancelled() {
            return Err(uncertain(&call, first).into());
        }
        tracing::warn!(error = %first, "connecting again");
        let link = self
            .connected(&call, begun)
            .await
            .map_err(|error| uncertain(&call, error))?;
        let is_undone =
            |limit: Duration| begun.elapsed() >= limit || link.welcome().boot_id != boot_id;
        if call.repeat_within.is_some_and(is_undone) {
            return Err(uncertain(&call, first).into());
        }
        match link.call(&call, deadline).await {
            Err(CallError::Connection(error)) => Err(uncertain(&call, error).into()),
            other => other,
        }
    }

    /// The connection to the call's machine, unless the call is cancelled or late meanwhile.
    async fn connected(&self, call: &Call, begun: Instant) -> Result<Arc<Link>, ConnectionError> {
        let left = call.wait.saturating_sub(begun.elapsed());
        let live = self
            .slot
            .live(&self.target, (!left.is_zero()).then_some(left));
        let live = timeout_at(begun + call.deadline, live);
        let link = match call.cancellation.run_until_cancelled(live).await {
            None => return Err(cancelled(&self.target, "the call was cancelled")),
            Some(Ok(result)) => result?,
            Some(Err(_)) => {
                return Err(ConnectionError::new(
                    ConnectionErrorKind::Timeout,
                    &*self.target,
                    "connecting",
                    format!("no connection within {} seconds", call.deadline.as_secs()),
                ));
            }
        };
        let found = &link.welcome().machine_id;
        match &call.machine_id {
            Some(asked) if asked != found => Err(another_machine(&self.target, asked, found)),
            _ => Ok(link),
        }
    }
}

fn another_machine(target: &Target, asked: &str, found: &str) -> ConnectionError {
    ConnectionError::new(
        ConnectionErrorKind::AnotherMachine,
        target,
        "asking the agent",
        format!("the address leads to a machine with machine-id {found} now, but the one with {asked} is asked"),
    )
    .help(MACHINE_REPLACED)
}

fn cancelled(target: &Target, reason: &str) -> ConnectionError {
    ConnectionError::new(ConnectionErrorKind::Cancelled, target, "connecting", reason)
}

/// The error of a request whose first attempt was on its way when the connection dropped.
fn uncertain(call: &Call, mut error: ConnectionError) -> ConnectionError {
    let changes = matches!(
        call.request,
        Request::Put(_)
            | Request::Remove { .. }
            | Request::TakeOver { .. }
            | Request::Confirm { .. }
    );
    if changes {
        error.reason = format!(
            "the connection dropped while a change was on its way, and its outcome is unknown; then, {}: {}",
            error.doing, error.reason
        );
        "changing the host".clone_into(&mut error.doing);
        if error.kind != ConnectionErrorKind::AnotherMachine {
            error.help = Some(
                "Run apply again once the host can be reached: what is done already is not done twice."
                    .to_owned(),
            );
        }
        error.kind = ConnectionErrorKind::OutcomeUnknown;
    }
    error
}
