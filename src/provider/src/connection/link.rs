//! The async end of one connection.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc as thread_channel,
    },
    thread,
};

use protocol::{
    FailureKind, VERSION,
    message::{Answer, Event, Request},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Duration, Instant, sleep_until},
};

use super::{
    call::{Call, CallError},
    error::{ConnectionError, ConnectionErrorKind},
    host::Welcome,
    host_key::PublicKey,
    pool::Connector,
    target::Target,
    upload::{Outgoing, Upload, next_piece},
    wake::Wake,
    wire,
    worker::{self, Job},
};

/// For the agent's answer to a request to stop, once the deadline is past.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) reason: String,
    /// The agent's last words.
    pub(super) stderr: String,
    /// The line was cut, or the host shuts down, rather than the agent ended by itself.
    pub(super) is_cut: bool,
}

/// What the thread and the calls share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) wake: Arc<Wake>,
    calls: Mutex<HashMap<u32, mpsc::UnboundedSender<Event>>>,
    ended: watch::Sender<Option<Ended>>,
}

impl Shared {
    /// A lock that a panic poisoned is as good as before: each change of the map is one step.
    fn calls(&self) -> MutexGuard<'_, HashMap<u32, mpsc::UnboundedSender<Event>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an event to whoever asked. Nobody does any more after a call was dropped.
    pub(super) fn deliver(&self, id: u32, event: Event) {
        if let Some(call) = self.calls().get(&id) {
            let _ = call.send(event);
        }
    }

    /// Tells all calls that no answer will come. The first reason counts.
    pub(super) fn end(&self, how: Ended) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(how);
            first
        });
        self.calls().clear();
    }
}

/// One connection; it ends with its last owner.
#[derive(Debug)]
pub(super) struct Link {
    host: String,
    shared: Arc<Shared>,
    outgoing: thread_channel::Sender<Outgoing>,
    next_id: AtomicU32,
    server_key: PublicKey,
    welcome: Welcome,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.wake.close();
    }
}

/// Ends the thread of a connection whose maker lost interest.
struct Abandon<'a>(Option<&'a Shared>);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.wake.close();
        }
    }
}

impl Link {
    /// Connects, logs in, starts the agent and greets it.
    pub(super) async fn open(
        target: &Target,
        connector: &Connector,
    ) -> Result<Self, ConnectionError> {
        let failed = |reason: String| {
            ConnectionError::new(
                ConnectionErrorKind::Lost,
                target,
                "starting a thread for the connection",
                reason,
            )
        };
        let shared = Arc::new(Shared {
            wake: Arc::new(Wake::new().map_err(|error| failed(error.to_string()))?),
            calls: Mutex::default(),
            ended: watch::Sender::new(None),
        });
        let (outgoing, receiver) = thread_channel::channel();
        let (ready, answer) = oneshot::channel();
        let job = Job {
            target: target.clone(),
            credentials: Arc::clone(&connector.credentials),
            agents: Arc::clone(&connector.agents),
            folder: Arc::clone(&connector.folder),
            shared: Arc::clone(&shared),
            outgoing: receiver,
            ready,
        };
        thread::Builder::new()
            .name(target.to_string())
            .spawn(move || worker::run(job))
            .map_err(|error| failed(error.to_string()))?;
        let mut abandon = Abandon(Some(&shared));
        let server_key = answer
            .await
            .map_err(|_| failed("the thread ended".to_owned()))??;
        abandon.0 = None;
        drop(abandon);
        let mut link = Self {
            host: target.to_string(),
            shared,
            outgoing,
            next_id: AtomicU32::new(1),
            server_key,
            welcome: Welcome::default(),
        };
        link.welcome = link.greet(connector).await?;
        Ok(link)
    }

    async fn greet(&self, connector: &Connector) -> Result<Welcome, ConnectionError> {
        let hello = Request::Hello {
            version: VERSION,
            session: connector.session.clone(),
            holder: connector.holder.clone(),
        };
        let failed = |reason: String| {
            let kind = ConnectionErrorKind::Protocol;
            ConnectionError::new(kind, &self.host, "greeting the agent", reason)
        };
        let call =
            Call::new(hello).deadline(connector.credentials.connect_timeout.max(CANCEL_GRACE));
        match self.call(&call, Instant::now() + call.deadline).await {
            Ok(Answer::Welcome {
                version: VERSION,
                agent_version,
                machine_id,
                boot_id,
            }) => Ok(Welcome {
                agent_version,
                machine_id,
                boot_id,
            }),
            Ok(Answer::Welcome {
                version,
                agent_version,
                ..
            }) => Err(failed(format!(
                "nspawn-agent {agent_version} speaks version {version} of the protocol, and this provider version {VERSION}"
            ))
            .help("Use a provider with the agent that it was released with, without NSPAWN_AGENT_X86_64 or NSPAWN_AGENT_AARCH64 at its build.")),
            Ok(other) => Err(failed(format!("it answered {other:?}"))),
            Err(CallError::Failure(failure)) => Err(ConnectionError {
                help: failure.help,
                ..failed(failure.message)
            }),
            Err(CallError::Connection(error)) => Err(ConnectionError {
                // An agent that ends instead of a greeting won't greet later either.
                kind: match error.kind {
                    ConnectionErrorKind::Lost if !self.is_cut() => ConnectionErrorKind::Install,
                    kind => kind,
                },
                doing: "greeting the agent".to_owned(),
                help: match error.kind {
                    ConnectionErrorKind::Timeout => Some(
                        "Raise `connect_timeout` in the provider block, or look at what keeps the host busy."
                            .to_owned(),
                    ),
                    _ => error.help,
                },
                ..error
            }),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.shared.ended.borrow().is_none() && !self.shared.wake.is_closing()
    }

    fn is_cut(&self) -> bool {
        self.shared
            .ended
            .borrow()
            .as_ref()
            .is_some_and(|ended| ended.is_cut)
    }

    /// Ends when the connection has; it keeps none from ending with its last owner.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut ended = self.shared.ended.subscribe();
        async move {
            let _ = ended.wait_for(Option::is_some).await;
        }
    }

    pub(super) fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    pub(super) fn server_key(&self) -> &PublicKey {
        &self.server_key
    }

    /// Ends the connection in good order, and waits until that is done.
    pub(super) async fn close(&self) {
        self.shared.wake.close();
        self.ended().await;
    }

    /// Asks the agent, and waits for its answer.
    pub(super) async fn call(&self, call: &Call, deadline: Instant) -> Result<Answer, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = mpsc::unbounded_channel();
        self.shared.calls().insert(id, sender);
        let mut flight = Flight {
            link: self,
            id,
            events,
            answered: false,
            cancelled: false,
        };
        // Ended between the check and the insertion: nobody would ever answer.
        if !self.is_alive() {
            return Err(self.lost().into());
        }
        fault::point(|| format!("before: send {}", call.request.name()));
        self.send(wire::request(id, &call.request))?;
        fault::done(|| format!("send {}", call.request.name()));
        flight.land(call, deadline).await
    }

    fn send(
        &self,
        bytes: Result<impl Into<Outgoing>, wire::WireError>,
    ) -> Result<(), ConnectionError> {
        let bytes = bytes.map_err(|error| {
            let kind = ConnectionErrorKind::Protocol;
            ConnectionError::new(kind, &self.host, "asking the agent", error.to_string())
        })?;
        self.outgoing.send(bytes.into()).map_err(|_| self.lost())?;
        self.shared.wake.notify();
        Ok(())
    }

    fn lost(&self) -> ConnectionError {
        let ended = self.shared.ended.borrow().clone();
        let reason = match ended {
            Some(Ended { reason, stderr, .. }) if stderr.is_empty() => reason,
            Some(Ended { reason, stderr, .. }) => {
                format!("{reason}; the agent's last words: {stderr}")
            }
            None => "the connection is being closed".to_owned(),
        };
        ConnectionError::new(
            ConnectionErrorKind::Lost,
            &self.host,
            "waiting for the agent's answer",
            reason,
        )
        .help("Run apply again: what is done already is not done twice.")
    }
}

/// A request on its way; asks the agent to stop when it is dropped without an answer.
struct Flight<'a> {
    link: &'a Link,
    id: u32,
    events: mpsc::UnboundedReceiver<Event>,
    answered: bool,
    cancelled: bool,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.link.shared.calls().remove(&self.id);
        if !self.answered {
            self.cancel();
        }
    }
}

impl Flight<'_> {
    /// Asks the agent to stop, once. Its answer to that goes to nobody.
    fn cancel(&mut self) {
        if !self.cancelled && self.link.is_alive() {
            let id = self.link.next_id.fetch_add(1, Ordering::Relaxed);
            let _ = self
                .link
                .send(wire::request(id, &Request::Cancel { id: self.id }));
        }
        self.cancelled = true;
    }

    async fn land(&mut self, call: &Call, deadline: Instant) -> Result<Answer, CallError> {
        let mut upload: Option<Upload> = None;
        let mut deadline = deadline;
        let mut timed_out = false;
        loop {
            tokio::select! {
                event = self.events.recv() => match noted(call, event) {
                    None => {
                        self.answered = true;
                        return Err(self.link.lost().into());
                    }
                    Some(Event::Done(result)) => {
                        self.answered = true;
                        return match result {
                            Err(failure) if timed_out && failure.kind == FailureKind::Cancelled => {
                                Err(self.timeout(call).into())
                            }
                            result => Ok(result?),
                        };
                    }
                    Some(Event::Progress(line)) => {
                        if let Some(progress) = &call.progress {
                            progress(&line);
                        }
                    }
                    Some(Event::Received(bytes)) => {
                        if let Some(upload) = &mut upload {
                            upload.acknowledge(bytes);
                        }
                    }
                    // Each upload has a window of its own: without end of them, memory would have none.
                    Some(Event::WantData) if upload.is_some() => return Err(self.asked_twice().into()),
                    Some(Event::WantData) => upload = Some(Upload::open(call.upload.as_deref()).await?),
                },
                piece = next_piece(upload.as_mut()) => {
                    let (piece, place) = piece?;
                    fault::point(|| "before: send a piece of a file");
                    let frame = wire::data(self.id, piece);
                    self.link.send(frame.map(|bytes| Outgoing::piece(bytes, place)))?;
                }
                () = call.cancellation.cancelled(), if !self.cancelled => self.cancel(),
                () = sleep_until(deadline) => {
                    if timed_out {
                        return Err(self.timeout(call).into());
                    }
                    timed_out = true;
                    deadline = Instant::now() + CANCEL_GRACE;
                    self.cancel();
                }
            }
        }
    }

    fn asked_twice(&self) -> ConnectionError {
        ConnectionError::new(
            ConnectionErrorKind::Protocol,
            &self.link.host,
            "sending a file",
            "the agent asked for the same file twice",
        )
    }

    fn timeout(&self, call: &Call) -> ConnectionError {
        ConnectionError::new(
            ConnectionErrorKind::Timeout,
            &self.link.host,
            "waiting for the agent's answer",
            format!("none within {} seconds", call.deadline.as_secs()),
        )
        .help("Raise the resource's `timeouts`, or look at what keeps the host busy; then run apply again.")
    }
}

/// A fault point, for what is killed with an answer that nobody has seen.
fn noted(call: &Call, event: Option<Event>) -> Option<Event> {
    if let Some(event) = &event {
        fault::done(|| format!("get {} to {}", event.name(), call.request.name()));
    }
    event
}
