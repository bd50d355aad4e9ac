//! Keeps a change of a host for good, over a connection that proves that the host can still be
//! reached (decision 5); or finds out what has become of it.

use std::time::{Duration, Instant};

use protocol::{
    Failure, FailureKind,
    desired::ObjectKey,
    message::{Answer, Request},
    observed::{Object, Snapshot},
};

use super::{
    Changed, Fate, Hosts,
    venture::{Outcome, Venture},
};
use crate::{
    connection::{Call, CallError, ConnectionErrorKind},
    resources::lifecycle::find,
};

/// How long the host may take to go back, and to be reached again, once its time is up.
const SLACK: Duration = Duration::from_secs(30);

/// Between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one look at the host may take.
const LOOK: Duration = Duration::from_secs(15);

impl Hosts {
    /// Confirms a change, if that is needed.
    pub(super) async fn confirm(
        &self,
        venture: Venture,
        object: Object,
        failure: Option<Failure>,
        machine_id: String,
    ) -> Changed {
        let kept = |object| Changed {
            object: Some(object),
            failure: failure.clone(),
            fate: Fate::Kept,
            machine_id: machine_id.clone(),
        };
        let Object::Host(_, host) = &object else {
            return kept(object);
        };
        let outcome = |outcome, why: &str| match outcome {
            Outcome::Kept(object) => kept(*object),
            other => venture.failed(other, why, &machine_id),
        };
        // The answer came after the host had gone back.
        if let Some(record) = venture.own_record(&host.state) {
            let why = "it could not be confirmed in time";
            return outcome(Outcome::Undone(Some(record)), why);
        }
        let Some(left) = host.state.confirm_within else {
            return kept(object);
        };
        // No host waits longer than it was told to.
        let until = Instant::now() + Duration::from_secs(left).min(venture.time);
        let confirmed = async {
            let error = match self.keep_confirming(&venture, &machine_id, until).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let why = format!("it could not be confirmed over a new connection: {error}");
            let end = self.outcome(&venture, &machine_id, until + SLACK).await;
            Err((end, why))
        };
        let confirmed = tokio::select! {
            biased;
            confirmed = confirmed => confirmed,
            reason = venture.given_up() => {
                Err((Outcome::GivenUp(reason), "no answer over a new connection has come".to_owned()))
            }
        };
        match confirmed {
            Ok(()) => kept(object),
            Err((end, why)) => outcome(end, &why),
        }
    }

    /// Tries until the host's time is up: one login that fails is no reason to undo anything.
    async fn keep_confirming(
        &self,
        venture: &Venture,
        machine_id: &str,
        until: Instant,
    ) -> Result<(), CallError> {
        let mut last: Option<CallError> = None;
        loop {
            let attempt = async {
                let host = self
                    .pool(&venture.target)?
                    .new_connection(&venture.target)
                    .await?;
                let token = venture.token.clone();
                let confirm = Call::new(Request::Confirm { token });
                host.call(confirm.machine(machine_id)).await
            };
            let attempt = tokio::time::timeout_at(until.into(), attempt);
            match attempt.await {
                Ok(Ok(_)) => return Ok(()),
                // The host has decided.
                Ok(Err(CallError::Failure(failure))) if !failure.kind.can_retry() => {
                    return Err(failure.into());
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the change is not confirmed yet");
                    last = Some(error);
                }
                Err(_) => return Err(last.unwrap_or_else(|| unanswered(venture))),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// After a change whose answer never came, or says that it failed.
    pub(super) async fn find_out(
        &self,
        venture: Venture,
        error: CallError,
        machine_id: String,
    ) -> Result<Changed, CallError> {
        if !may_be_undone(&error) {
            return Err(error);
        }
        let armed = venture.asked + venture.time;
        let end = self.outcome(&venture, &machine_id, armed.max(Instant::now()) + SLACK);
        let end = tokio::select! {
            biased;
            end = end => end,
            reason = venture.given_up() => Outcome::GivenUp(reason),
        };
        match end {
            // An update leaves a record; without one it never reached the host.
            Outcome::Undone(None) | Outcome::Absent if !venture.creates => Err(error),
            // It failed before anything was made, or took it back itself.
            Outcome::Absent if has_failed(&error) => Err(error),
            undone @ (Outcome::Undone(_) | Outcome::Absent) => {
                let why = if has_failed(&error) {
                    format!("it failed before it could be confirmed: {error}")
                } else {
                    format!("the connection was lost before it could be confirmed: {error}")
                };
                Ok(venture.failed(undone, &why, &machine_id))
            }
            given_up @ Outcome::GivenUp(_) => {
                Ok(venture.failed(given_up, &error.to_string(), &machine_id))
            }
            Outcome::Kept(_) | Outcome::Unknown(_) => Err(error),
        }
    }

    /// Asks the host until it has decided.
    async fn outcome(&self, venture: &Venture, machine_id: &str, until: Instant) -> Outcome {
        let target = &venture.target;
        let mut was_kept = false;
        let mut is_first = true;
        loop {
            let look = async {
                let host = self.pool(target)?.new_connection(target).await?;
                let deadline = LOOK.as_secs();
                let look = Call::new(Request::Snapshot { deadline });
                host.call(look.machine(machine_id)).await
            };
            let said = match tokio::time::timeout(LOOK, look).await {
                Ok(Ok(Answer::Snapshot(snapshot))) => match decided(venture, &snapshot) {
                    // A look that the host's going back overlaps sees its object and nothing pending.
                    Some(Outcome::Kept(_)) if !was_kept => {
                        was_kept = true;
                        "the change is there".to_owned()
                    }
                    Some(Outcome::Undone(None)) if is_first => return Outcome::Absent,
                    Some(outcome) => return outcome,
                    None => "the change is still waiting to be confirmed".to_owned(),
                },
                Ok(Ok(_)) => "the agent's answer doesn't fit the question".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("{target}: no answer within {LOOK:?}"),
            };
            is_first = false;
            if Instant::now() > until {
                return Outcome::Unknown(said);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What a host that can be asked says; none while it is still waiting.
fn decided(venture: &Venture, snapshot: &Snapshot) -> Option<Outcome> {
    let Some(host) = &snapshot.host else {
        return Some(Outcome::Undone(None));
    };
    if host.owner.token != venture.token {
        return Some(Outcome::Undone(None));
    }
    if let Some(record) = venture.own_record(&host.state) {
        return Some(Outcome::Undone(Some(record)));
    }
    if host.state.confirm_within.is_some() {
        return None;
    }
    if host.desired != venture.desired {
        return Some(Outcome::Undone(None));
    }
    find(snapshot, &ObjectKey::Host).map(|object| Outcome::Kept(Box::new(object)))
}

/// Whether the host may have gone back since.
fn may_be_undone(error: &CallError) -> bool {
    use ConnectionErrorKind as Kind;
    match error {
        // Also of an agent that finds nothing of the change when it looks for its answer.
        CallError::Failure(failure) => {
            matches!(failure.kind, FailureKind::Timeout | FailureKind::NotFound)
                || has_failed(error)
        }
        CallError::Connection(error) => matches!(
            error.kind,
            Kind::Lost | Kind::OutcomeUnknown | Kind::Timeout | Kind::Unreachable
        ),
    }
}

/// Whether the host itself failed at it. That says nothing of whether it had begun: a host that shuts down may lose
/// systemd, and with it the answer, once all is made.
fn has_failed(error: &CallError) -> bool {
    use FailureKind as Kind;
    matches!(error, CallError::Failure(failure)
        if matches!(failure.kind, Kind::System | Kind::Command | Kind::DiskFull))
}

fn unanswered(venture: &Venture) -> CallError {
    let target = &venture.target;
    Failure::new(
        FailureKind::Timeout,
        format!("{target}: no answer over a new connection within its time"),
    )
    .into()
}
