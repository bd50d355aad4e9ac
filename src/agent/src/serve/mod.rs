//! `nspawn-agent serve`: answers a provider's requests on stdin and stdout.
//!
//! Each request is a task of its own; many are under way at once over the one channel.

mod change;
mod claim;
mod frames;
pub mod session;
mod snapshot;
pub mod upload;

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use protocol::{
    Failure, FailureKind,
    desired::{Desired, ObjectKey},
    frame::{MAGIC, SILENCE},
    message::{Answer, Event, Put, Request},
};
use tokio::{
    io::{AsyncRead, AsyncWriteExt as _, stdin, stdout},
    sync::mpsc,
    task::{JoinSet, spawn_local},
};
use tokio_util::sync::CancellationToken;

use self::{
    frames::Incoming,
    session::Session,
    upload::{EventSender, Intake},
};
use crate::{context::Context, failure::Context as _, host, lock::HostLock};

/// How long a request may take that doesn't say so itself.
const QUESTION_TIME: Duration = Duration::from_mins(1);

/// How long a change may go on after its provider is gone: until its next safe point, and until a create is taken
/// back.
const GRACE: Duration = Duration::from_secs(40);

/// How long what is still to be said may take to go out: a frozen line takes nothing.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Terraform's parallelism is 10 unless asked otherwise.
const MOST_REQUESTS: usize = 4096;

/// A request under way.
struct UnderWay {
    cancel: CancellationToken,
    intake: Intake,
}

/// One connection.
struct Connection {
    context: Context,
    /// Closed before its time when the host was removed.
    session: Rc<RefCell<Option<Session>>>,
    /// When this connection began, on the clock that a pending change is dated by.
    began: Duration,
    events: EventSender,
    under_way: Rc<RefCell<HashMap<u32, UnderWay>>>,
    tasks: JoinSet<()>,
}

/// Serves one provider until it closes stdin.
pub async fn run(context: Context) -> Result<(), Failure> {
    let mut output = stdout();
    let greeted = async {
        output.write_all(MAGIC).await?;
        output.flush().await
    };
    greeted.await.doing(|| "greet the provider")?;
    let (events, queue) = mpsc::unbounded_channel();
    let writer = spawn_local(frames::write_all(output, queue));
    let mut connection = Connection {
        context,
        session: Rc::default(),
        began: host::pending::clock(),
        events,
        under_way: Rc::default(),
        tasks: JoinSet::new(),
    };
    let result = connection.listen(stdin()).await;
    connection.end().await;
    // The queue is closed by now; what is still in it goes out.
    drop(tokio::time::timeout(LAST_WORDS, writer).await);
    result
}

impl Connection {
    async fn listen(&mut self, input: impl AsyncRead + Unpin) -> Result<(), Failure> {
        let (mut input, last_heard) = frames::heard(input);
        loop {
            let incoming = tokio::select! {
                biased;
                incoming = frames::read(&mut input) => incoming?,
                time = last_heard.silent_for(SILENCE) => {
                    self.context.unheard.set(Some(time));
                    None
                }
            };
            let Some(incoming) = incoming else {
                return Ok(());
            };
            if let Some(session) = &mut *self.session.borrow_mut() {
                session.show_life()?;
            }
            match incoming {
                Incoming::Heartbeat => {}
                Incoming::Data(id, piece) => {
                    if let Some(request) = self.under_way.borrow_mut().get_mut(&id) {
                        request.intake.put(piece)?;
                    }
                }
                Incoming::Request(id, Err(failure)) => self.done(id, Err(failure)),
                Incoming::Request(id, Ok(request)) => self.begin(id, *request),
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn done(&self, id: u32, result: Result<Answer, Failure>) {
        // Nobody is left to hear it when the writer is gone.
        drop(self.events.send((id, Event::Done(result))));
    }

    fn begin(&mut self, id: u32, request: Request) {
        fault::point(|| format!("before: {}", request.name()));
        match request {
            Request::Hello {
                version,
                session,
                holder,
            } => {
                let answer = self.hello(version, &session, holder);
                self.done(id, answer);
            }
            Request::Cancel { id: other } => {
                if let Some(request) = self.under_way.borrow().get(&other) {
                    request.cancel.cancel();
                }
                self.done(id, Ok(Answer::Noted));
            }
            _ if self.context.session.is_none() => self.done(
                id,
                Err(Failure::new(
                    FailureKind::Protocol,
                    "the first request of a connection has to be hello",
                )),
            ),
            _ if self.under_way.borrow().contains_key(&id) => self.done(
                id,
                Err(Failure::new(
                    FailureKind::Protocol,
                    format!("another request has the number {id}, and is under way"),
                )),
            ),
            _ if self.under_way.borrow().len() >= MOST_REQUESTS => self.done(
                id,
                Err(Failure::new(
                    FailureKind::Busy,
                    format!("{MOST_REQUESTS} requests are under way on this connection"),
                )),
            ),
            request => match self.show_up() {
                Ok(()) => self.spawn(id, request),
                Err(failure) => self.done(id, Err(failure)),
            },
        }
    }

    /// Notes that this provider is connected, also after its removal of the host.
    fn show_up(&self) -> Result<(), Failure> {
        let mut session = self.session.borrow_mut();
        if let (None, Some(id)) = (&*session, &self.context.session) {
            *session = Some(Session::open(&self.context.run_folder, id)?);
        }
        Ok(())
    }

    fn hello(
        &mut self,
        version: u32,
        session: &protocol::name::SessionId,
        holder: String,
    ) -> Result<Answer, Failure> {
        if version != protocol::VERSION {
            return Err(Failure::new(
                FailureKind::Protocol,
                format!(
                    "the provider speaks version {version} of the protocol, and nspawn-agent {} version {}",
                    protocol::RELEASE,
                    protocol::VERSION
                ),
            )
            .help("Use a provider with the agent that it was released with, without NSPAWN_AGENT_X86_64 or NSPAWN_AGENT_AARCH64 at its build."));
        }
        if let Err(failure) = host::in_force::refuse_newer(&self.context) {
            host::install::withdraw()?;
            return Err(failure);
        }
        self.context.session = Some(session.clone());
        self.context.holder = holder;
        self.show_up()?;
        Ok(Answer::Welcome {
            version: protocol::VERSION,
            agent_version: protocol::RELEASE.to_owned(),
            machine_id: host::facts::machine_id()?,
            boot_id: host::facts::boot_id()?,
        })
    }

    fn spawn(&mut self, id: u32, request: Request) {
        let cancel = CancellationToken::new();
        let (upload, intake) = upload::upload(id, self.events.clone());
        let (progress, mut lines) = mpsc::unbounded_channel();
        let time = match &request {
            Request::Put(put) => Duration::from_secs(put.deadline),
            Request::Remove { deadline, .. } | Request::Snapshot { deadline } => {
                Duration::from_secs(*deadline)
            }
            _ => QUESTION_TIME,
        };
        let mut context = self.context.for_request(time, cancel.clone(), progress);
        context.upload = Some(upload);
        let began = self.began;
        let is_last = matches!(
            &request,
            Request::Remove {
                key: ObjectKey::Host,
                ..
            }
        );
        let session = is_last.then(|| Rc::clone(&self.session));
        let events = self.events.clone();
        let under_way = Rc::clone(&self.under_way);
        under_way
            .borrow_mut()
            .insert(id, UnderWay { cancel, intake });
        self.tasks.spawn_local(async move {
            let forward = async {
                while let Some(line) = lines.recv().await {
                    drop(events.send((id, Event::Progress(line))));
                }
            };
            // The lines end when the request's context, which holds their sender, is dropped.
            let answered = async move {
                let answer = answer(&context, request, began).await;
                match (answer, session) {
                    // Before the answer: Terraform, once it has that, doesn't come back to go on with it.
                    (Ok(answer), Some(session)) => leave(&context, &session).await.map(|()| answer),
                    (answer, _) => answer,
                }
            };
            let (result, ()) = tokio::join!(answered, forward);
            under_way.borrow_mut().remove(&id);
            drop(events.send((id, Event::Done(result))));
        });
    }

    /// Brings what is under way to its next safe point, and leaves nothing on a host that isn't ours.
    async fn end(mut self) {
        for request in self.under_way.borrow().values() {
            request.cancel.cancel();
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            self.tasks.abort_all();
        }
        if let Err(failure) = leave(&self.context, &self.session).await {
            eprintln!("nspawn-agent: {failure}");
        }
    }
}

/// Ends the session, and leaves nothing on a host that isn't ours.
async fn leave(context: &Context, session: &RefCell<Option<Session>>) -> Result<(), Failure> {
    if let Some(session) = session.take() {
        session.close()?;
    }
    // Also of a line that ended before hello. A later release's host is not this one's to look at.
    if host::in_force::refuse_newer(context).is_err() {
        return Ok(());
    }
    host::leave::if_nobody_uses_it(context).await
}

async fn answer(context: &Context, request: Request, began: Duration) -> Result<Answer, Failure> {
    match request {
        Request::Snapshot { .. } => snapshot::snapshot(context)
            .await
            .map(|snapshot| Answer::Snapshot(Box::new(snapshot))),
        Request::Put(put) => {
            let Put {
                desired,
                token,
                intent,
                secrets,
                ..
            } = *put;
            let asked = change::Asked {
                token,
                intent,
                secrets,
            };
            match desired {
                Desired::Host(host) => change::put(context, host, asked).await,
                Desired::Image(image) => change::put(context, image, asked).await,
                Desired::Container(container) => change::put(context, *container, asked).await,
                Desired::Address(address) => change::put(context, address, asked).await,
            }
        }
        Request::Remove { key, token, .. } => change::remove(context, key, &token).await,
        Request::Claim { objects } => claim::claim(context, &objects).await,
        Request::TakeOver { key, token, former } => {
            claim::take_over(context, &key, token, former.as_ref()).await
        }
        Request::Confirm { token } => {
            // The change is undone when this comes too late.
            let _lock = HostLock::take(&context.in_haste()).await?;
            host::pending::confirm(context, &token, began)?;
            Ok(Answer::Noted)
        }
        Request::Hello { .. } | Request::Cancel { .. } => Ok(Answer::Noted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn connection(context: Context) -> (Connection, mpsc::UnboundedReceiver<(u32, Event)>) {
        let (events, queue) = mpsc::unbounded_channel();
        let connection = Connection {
            context,
            session: Rc::default(),
            began: Duration::ZERO,
            events,
            under_way: Rc::default(),
            tasks: JoinSet::new(),
        };
        (connection, queue)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_line_that_ends_before_hello_leaves_nothing_unless_somebody_is_there() {
        let top = tempfile::tempdir().unwrap();
        testing::within(Duration::from_secs(20), async |context| {
            let mut context = testing::in_folder(context, top.path());
            context.session = None;
            let end = async || connection(context.clone()).0.end().await;
            let another = Session::open(&context.run_folder, &"c".repeat(32).parse().unwrap());
            end().await;
            assert!(session::any_alive(&context.run_folder).unwrap());
            drop(another);
            end().await;
            assert!(!context.run_folder.exists());
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn what_is_stopped_because_nobody_was_heard_says_so() {
        let top = tempfile::tempdir().unwrap();
        testing::within(Duration::from_mins(5), async |context| {
            let context = testing::in_folder(context, top.path());
            let _another = HostLock::take(&context).await.unwrap();
            let (mut connection, mut queue) = connection(context);
            let request = Request::TakeOver {
                key: ObjectKey::Host,
                token: "a".repeat(32).parse().unwrap(),
                former: None,
            };
            connection.begin(1, request);
            let (_open, input) = tokio::io::duplex(64);
            connection.listen(input).await.unwrap();
            connection.end().await;
            let Some((1, Event::Done(Err(failure)))) = queue.recv().await else {
                panic!("not a failure of the request");
            };
            assert_eq!(failure.kind, FailureKind::Cancelled);
            assert!(failure.message.contains("20 seconds"), "{failure}");
            assert!(failure.help.unwrap().contains("apply again"));
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_number_of_a_request_under_way_is_not_taken_again() {
        let top = tempfile::tempdir().unwrap();
        testing::within(Duration::from_secs(20), async |context| {
            let (mut connection, mut queue) =
                connection(testing::in_folder(context, top.path()));
            for _ in 0..2 {
                connection.begin(1, Request::Snapshot { deadline: 5 });
            }
            let (id, event) = queue.recv().await.unwrap();
            let is_refused =
                matches!(&event, Event::Done(Err(failure)) if failure.kind == FailureKind::Protocol);
            assert!(id == 1 && is_refused, "{event:?}");
            assert_eq!(connection.under_way.borrow().len(), 1, "the first goes on");
        })
        .await;
    }
}
