//! What one run of Terraform knows and asks of its hosts: the connections, what was seen, what is
//! planned, what is to be claimed. All resources share it.

mod claiming;
mod confirm;
mod venture;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use protocol::{
    Failure, FailureKind,
    desired::{ContainerSecrets, Desired, ObjectKey},
    message::{Answer, Intent, Put, Request},
    name::{OwnerToken, SessionId},
    observed::{Object, Snapshot},
};
use tfplugin::{CancellationToken, Context};

use self::venture::Venture;
pub use self::venture::told;
use crate::{
    claims::Claims,
    connection::{
        Call, CallError, ConnectionError, ConnectionErrorKind, Host, MACHINE_REPLACED, Pool, Target,
    },
    planned::Planned,
    removals::Removals,
    snapshot::Snapshots,
};

/// How much of a change's limit is not waited for a host, so that its own, better error arrives.
const HEADROOM: Duration = Duration::from_secs(1);

/// What one run of Terraform knows and asks of its hosts.
#[derive(Debug)]
pub struct Hosts {
    pool: OnceLock<Pool>,
    /// Terraform's wish to stop.
    stop: OnceLock<CancellationToken>,
    session: SessionId,
    snapshots: Snapshots,
    claims: Claims,
    /// What this run plans.
    pub planned: Planned,
    /// What this run destroys.
    pub removals: Removals,
}

/// One object, to be made or changed.
#[derive(Debug)]
pub struct Change {
    /// Its host.
    pub target: Target,
    /// The machine that must be found there; any, when absent.
    pub machine_id: Option<String>,
    /// How the object should be.
    pub desired: Desired,
    /// Its owner.
    pub token: OwnerToken,
    /// Whether it must be new or must be there.
    pub intent: Intent,
    /// How long it may take in all.
    pub limit: Duration,
    /// Whether a host that isn't up yet is waited for.
    pub wait: bool,
    /// What is not kept in the desired state.
    pub secrets: ContainerSecrets,
    /// A file that the agent may ask for.
    pub upload: Option<PathBuf>,
    /// When a host undid its last change, as far as the state knows.
    pub rolled_back_at: Option<u64>,
}

/// What a change came to.
#[derive(Debug)]
pub struct Changed {
    /// The object as it is now, where it is.
    pub object: Option<Object>,
    /// What was begun and could not be finished.
    pub failure: Option<Failure>,
    /// Whether it lasts.
    pub fate: Fate,
    /// The machine that it was made on.
    pub machine_id: String,
}

/// Whether a change lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It does.
    Kept,
    /// The host has gone back to how it was.
    Undone,
    /// The host goes back by itself, and could not be asked yet.
    BeingUndone,
}

impl Hosts {
    /// Knows nothing yet. `session` is this process's.
    pub fn new(session: SessionId) -> Self {
        Self {
            pool: OnceLock::new(),
            stop: OnceLock::new(),
            session,
            snapshots: Snapshots::default(),
            claims: Claims::default(),
            planned: Planned::default(),
            removals: Removals::default(),
        }
    }

    /// Takes the connections; once, when the provider is configured in this context.
    pub fn connect_with(&self, pool: Pool, context: &Context) {
        // Terraform configures a provider once a process; a second time, the first pool stays.
        let _ = self.pool.set(pool);
        let _ = self.stop.set(context.cancellation().clone());
    }

    /// This process's id.
    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// What the host looks like, when that is at hand: never a connection.
    pub fn peek(&self, target: &Target) -> Option<Arc<Snapshot>> {
        self.snapshots.peek(target)
    }

    /// What the host looks like; asked once a run.
    pub async fn snapshot(
        &self,
        target: &Target,
        limit: Duration,
    ) -> Result<Arc<Snapshot>, CallError> {
        let deadline = limit.as_secs().max(1);
        let fetch = || async {
            let host = self.host(target, None).await?;
            match host.call(Call::new(Request::Snapshot { deadline })).await? {
                Answer::Snapshot(snapshot) => Ok(*snapshot),
                _ => Err(unfitting(target)),
            }
        };
        let asked = Box::pin(self.snapshots.get(target, fetch));
        self.read_within(limit, target, "reading the host", asked)
            .await
    }

    /// Makes or changes an object.
    pub async fn put(&self, change: Change, context: &Context) -> Result<Changed, CallError> {
        let Change {
            target,
            machine_id,
            desired,
            token,
            intent,
            limit,
            wait,
            secrets,
            upload,
            rolled_back_at,
        } = change;
        let (started, key) = (Instant::now(), desired.key());
        let patience = wait.then(|| limit.saturating_sub(HEADROOM));
        let host = self.host_within(&target, patience, limit, context).await?;
        let found = host.welcome().machine_id;
        same_machine(&target, machine_id.as_deref(), &found)?;
        let left = limit.saturating_sub(started.elapsed());
        let deadline = left.as_secs().max(1);
        let put = Put {
            desired,
            token: token.clone(),
            intent,
            deadline,
            secrets,
        };
        let (ends, cancellation) = (started + limit, context.cancellation());
        let venture = Venture::new(&target, &put, ends, cancellation, rolled_back_at);
        let mut call = call(Request::Put(Box::new(put)), &target, context).machine(found.clone());
        if let Some(venture) = &venture {
            call = call.repeat_within(venture.time);
        }
        if wait {
            // Later than that it isn't sent again, but asked about: the host may have undone it.
            let repeated = venture.as_ref().map_or(left, |venture| venture.time);
            call = call.wait(left.min(repeated));
        }
        if let Some(file) = upload {
            call = call.upload(file);
        }
        if intent == Intent::Create {
            self.claims.begin(&target, (key, token.clone()));
        }
        self.snapshots.forget(&target);
        let answer = host.call(call).await;
        self.snapshots.forget(&target);
        let (object, failure) = match (answer, venture) {
            (Ok(Answer::Changed { object, failure }), None) => (*object, failure),
            (Ok(Answer::Changed { object, failure }), Some(venture)) => {
                return Ok(self.confirm(venture, *object, failure, found).await);
            }
            (Ok(_), _) => return Err(unfitting(&target)),
            (Err(error), Some(venture)) => {
                return self.find_out(venture, error, found).await;
            }
            (Err(error), None) => return Err(error),
        };
        Ok(Changed {
            object: Some(object),
            failure,
            fate: Fate::Kept,
            machine_id: found,
        })
    }

    /// Removes an object.
    pub async fn remove(
        &self,
        target: &Target,
        machine_id: Option<&str>,
        key: ObjectKey,
        token: OwnerToken,
        limit: Duration,
        context: &Context,
    ) -> Result<(), CallError> {
        let started = Instant::now();
        let host = self.host_within(target, None, limit, context).await?;
        let found = host.welcome().machine_id;
        same_machine(target, machine_id, &found)?;
        let request = Request::Remove {
            key: key.clone(),
            token,
            deadline: limit.saturating_sub(started.elapsed()).as_secs().max(1),
        };
        self.snapshots.forget(target);
        let call = call(request, target, context).machine(found);
        let answer = host.call(call).await;
        self.snapshots.forget(target);
        answer?;
        self.claims.remove(target, &key);
        Ok(())
    }

    /// Gives an object a new owner, in the place of the `former` one.
    pub async fn take_over(
        &self,
        target: &Target,
        key: ObjectKey,
        token: OwnerToken,
        former: Option<OwnerToken>,
        limit: Duration,
    ) -> Result<(), CallError> {
        let request = Request::TakeOver { key, token, former };
        let asked = Box::pin(async {
            let host = self.host(target, None).await?;
            host.call(Call::new(request)).await
        });
        let answer = self
            .read_within(limit, target, "taking an object over", asked)
            .await;
        self.snapshots.forget(target);
        answer.map(|_| ())
    }

    /// What a read asks of a host, until its time is up or Terraform is asked to stop.
    async fn read_within<T>(
        &self,
        limit: Duration,
        target: &Target,
        doing: &str,
        asked: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let never = CancellationToken::new();
        let stop = self.stop.get().unwrap_or(&never);
        let answer = tokio::time::timeout(limit, asked);
        match stop.run_until_cancelled(answer).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => {
                let message = format!("{target}: {doing} took longer than {}", seconds(limit));
                Err(Failure::new(FailureKind::Timeout, message)
                    .at("timeouts.read")
                    .into())
            }
            None => {
                let reason = "stopped, as Terraform asked".to_owned();
                let kind = ConnectionErrorKind::Cancelled;
                Err(ConnectionError::new(kind, target, doing, reason).into())
            }
        }
    }

    async fn host(&self, target: &Target, wait: Option<Duration>) -> Result<Host, CallError> {
        Ok(self.pool(target)?.get(target, wait).await?)
    }

    /// The same, for a change that may take so long in all, and may be stopped.
    async fn host_within(
        &self,
        target: &Target,
        wait: Option<Duration>,
        limit: Duration,
        context: &Context,
    ) -> Result<Host, CallError> {
        let failed = |kind, reason: String| {
            CallError::from(ConnectionError::new(kind, target, "connecting", reason))
        };
        let reached = tokio::time::timeout(limit, self.host(target, wait));
        match context.cancellation().run_until_cancelled(reached).await {
            None => Err(failed(
                ConnectionErrorKind::NotReady,
                "stopped, as Terraform asked".to_owned(),
            )),
            Some(Err(_)) => Err(failed(
                ConnectionErrorKind::NotReady,
                format!("no connection within {}", seconds(limit)),
            )),
            Some(Ok(result)) => result,
        }
    }

    fn pool(&self, target: &Target) -> Result<&Pool, CallError> {
        self.pool.get().ok_or_else(|| {
            let message = format!("{target}: the provider is not configured");
            Failure::new(FailureKind::Protocol, message).into()
        })
    }
}

/// Refuses a machine other than the one that the state knows.
pub fn same_machine(target: &Target, known: Option<&str>, found: &str) -> Result<(), CallError> {
    match known {
        Some(known) if known != found => Err(ConnectionError::new(
            ConnectionErrorKind::AnotherMachine,
            target,
            "comparing machines",
            format!("the address leads to a machine with machine-id {found}, but this object is on the one with {known}"),
        )
        .help(MACHINE_REPLACED)
        .into()),
        _ => Ok(()),
    }
}

fn call(request: Request, target: &Target, context: &Context) -> Call {
    let host = target.to_string();
    Call::new(request)
        .cancellation(context.cancellation().clone())
        .progress(move |line| tracing::info!(host, "{line}"))
}

fn unfitting(target: &Target) -> CallError {
    Failure::new(
        FailureKind::Protocol,
        format!("{target}: the agent's answer doesn't fit the question"),
    )
    .into()
}

fn seconds(limit: Duration) -> String {
    format!("{} s", limit.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_read_ends_when_its_time_is_up_or_terraform_is_asked_to_stop() {
        let hosts = Hosts::new("0".repeat(32).parse().unwrap());
        let target = Target::new("203.0.113.1");
        let asked = async |limit| {
            let unanswered = std::future::pending::<Result<(), CallError>>();
            let asked = hosts.read_within(limit, &target, "reading the host", unanswered);
            asked.await.unwrap_err().to_string()
        };
        let late = asked(Duration::from_millis(1)).await;
        assert!(late.contains("took longer than"), "{late}");
        let stop = CancellationToken::new();
        hosts.stop.set(stop.clone()).unwrap();
        stop.cancel();
        let stopped = asked(Duration::from_mins(2)).await;
        assert!(stopped.contains("stopped, as Terraform asked"), "{stopped}");
    }

    #[test]
    fn another_machine_at_the_same_address_is_refused() {
        let target = Target::new("203.0.113.1");
        assert!(same_machine(&target, None, "b").is_ok());
        assert!(same_machine(&target, Some("b"), "b").is_ok());
        let error = same_machine(&target, Some("a"), "b").unwrap_err();
        assert!(error.to_string().contains("machine-id b") && error.help().is_some());
    }
}
