//! Keeps a change of a host for good, over a connection that proves that the host can still be
//! reached (decision 5); or finds out what has become of it.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use protocol::{
    Failure, FailureKind,
    desired::{Desired, Host, ObjectKey},
    message::{Answer, Intent, Put, Request},
    name::OwnerToken,
    observed::{Object, RolledBack, Snapshot},
};

use super::{Changed, Fate, Hosts};
use crate::{
    connection::{Call, CallError, ConnectionErrorKind, Target},
    resources::lifecycle::find,
};

/// How long the host may take to go back, and to be reached again, once its time is up.
const SLACK: Duration = Duration::from_secs(30);

/// Between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one look at the host may take.
const LOOK: Duration = Duration::from_secs(15);

/// A change that is undone unless it is confirmed.
#[derive(Debug)]
pub(super) struct Venture {
    target: Target,
    desired: Host,
    token: OwnerToken,
    creates: bool,
    /// When the host was asked for it.
    asked: Instant,
    /// How long it stays unconfirmed.
    pub(super) time: Duration,
}

/// What has become of a change.
enum Outcome {
    /// It is there, for good.
    Kept(Box<Object>),
    /// The host is as before.
    Undone(Option<RolledBack>),
    /// Nobody could say.
    Unknown(String),
}

impl Venture {
    pub(super) fn new(target: &Target, put: &Put) -> Option<Self> {
        let Desired::Host(desired) = &put.desired else {
            return None;
        };
        let time = desired.rollback_after.duration();
        (!time.is_zero()).then(|| Self {
            target: target.clone(),
            desired: desired.clone(),
            token: put.token.clone(),
            creates: put.intent == Intent::Create,
            asked: Instant::now(),
            time,
        })
    }
}

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
        if let Some(record) = host.state.rolled_back.clone() {
            let why = "it could not be confirmed in time";
            return outcome(Outcome::Undone(Some(record)), why);
        }
        let Some(left) = host.state.confirm_within else {
            return kept(object);
        };
        let until = Instant::now() + Duration::from_secs(left);
        match self.keep_confirming(&venture, until).await {
            Ok(()) => kept(object),
            Err(error) => {
                let why = format!("it could not be confirmed over a new connection: {error}");
                let end = self.outcome(&venture, until + SLACK).await;
                outcome(end, &why)
            }
        }
    }

    /// Tries until the host's time is up: one login that fails is no reason to undo anything.
    async fn keep_confirming(&self, venture: &Venture, until: Instant) -> Result<(), CallError> {
        let mut last: Option<CallError> = None;
        loop {
            let attempt = async {
                let host = self
                    .pool(&venture.target)?
                    .new_connection(&venture.target)
                    .await?;
                let token = venture.token.clone();
                host.call(Call::new(Request::Confirm { token })).await
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

    /// After a change whose answer never came.
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
        let end = self.outcome(&venture, armed.max(Instant::now()) + SLACK);
        match end.await {
            // An update leaves a record; without one it never reached the host.
            Outcome::Undone(None) if !venture.creates => Err(error),
            undone @ Outcome::Undone(_) => {
                let why = format!("the connection was lost before it could be confirmed: {error}");
                Ok(venture.failed(undone, &why, &machine_id))
            }
            _ => Err(error),
        }
    }

    /// Asks the host until it has decided.
    async fn outcome(&self, venture: &Venture, until: Instant) -> Outcome {
        let target = &venture.target;
        let mut was_kept = false;
        loop {
            let look = async {
                let host = self.pool(target)?.new_connection(target).await?;
                host.call(Call::new(Request::Snapshot)).await
            };
            let said = match tokio::time::timeout(LOOK, look).await {
                Ok(Ok(Answer::Snapshot(snapshot))) => match decided(venture, &snapshot) {
                    // A look that the host's going back overlaps sees its object and nothing pending.
                    Some(Outcome::Kept(_)) if !was_kept => {
                        was_kept = true;
                        "the change is there".to_owned()
                    }
                    Some(outcome) => return outcome,
                    None => "the change is still waiting to be confirmed".to_owned(),
                },
                Ok(Ok(_)) => "the agent's answer doesn't fit the question".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("{target}: no answer within {LOOK:?}"),
            };
            if Instant::now() > until {
                return Outcome::Unknown(said);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Venture {
    fn failed(&self, outcome: Outcome, why: &str, machine_id: &str) -> Changed {
        let (fate, failure) = match outcome {
            Outcome::Undone(record) => (Fate::Undone, Some(self.undone(why, record.as_ref()))),
            Outcome::Unknown(said) => (Fate::BeingUndone, Some(self.unknown(why, &said))),
            Outcome::Kept(_) => (Fate::Kept, None),
        };
        Changed {
            object: None,
            failure,
            fate,
            machine_id: machine_id.to_owned(),
        }
    }

    fn undone(&self, why: &str, record: Option<&RolledBack>) -> Failure {
        let mut text = format!("The change was rolled back, because {why}.");
        // Writing into a String can't fail.
        let _ = match record {
            Some(record) => write!(text, "\n{}", told(record)),
            None if self.creates => write!(
                text,
                "\nRolled back: all that was made for nspawn_host. The server is as it was before."
            ),
            None => write!(text, "\nThe server is as it was before."),
        };
        let _ = write!(text, "\n{} answers over SSH again.", self.target);
        Failure::new(FailureKind::Timeout, text).help(
            "Find out what cut the connection (on the server: journalctl -u nspawn-agent.service), and apply again. \
             If the server only needs longer, raise rollback_after.",
        )
    }

    fn unknown(&self, why: &str, said: &str) -> Failure {
        let text = format!(
            "The change is being rolled back, because {why}.\n{} has not answered over SSH since: {said}.",
            self.target
        );
        Failure::new(FailureKind::Timeout, text).help(format!(
            "The server goes back by itself {} after the change (rollback_after), also when it is rebooted. \
             If it stays away, look at it over its console; once it answers, apply again.",
            self.desired.rollback_after
        ))
    }
}

/// What a host tells of a change that it undid, for the user.
pub fn told(record: &RolledBack) -> String {
    let mut text = format!(
        "Rolled back: {}.",
        list(&record.changes, "nothing of the configuration")
    );
    if !record.put_back.is_empty() {
        let _ = write!(text, "\nPut back as well: {}.", record.put_back.join("; "));
    }
    text
}

fn list(items: &[String], none: &str) -> String {
    if items.is_empty() {
        none.to_owned()
    } else {
        items.join(", ")
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
    if let Some(record) = &host.state.rolled_back {
        return Some(Outcome::Undone(Some(record.clone())));
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
        }
        CallError::Connection(error) => matches!(
            error.kind,
            Kind::Lost | Kind::OutcomeUnknown | Kind::Timeout | Kind::Unreachable
        ),
    }
}

fn unanswered(venture: &Venture) -> CallError {
    let target = &venture.target;
    Failure::new(
        FailureKind::Timeout,
        format!("{target}: no answer over a new connection within its time"),
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn venture(creates: bool) -> Venture {
        Venture {
            target: Target::new("203.0.113.1"),
            desired: Host {
                bridge: "br0".parse().unwrap(),
                uplink: None,
                install_packages: true,
                nesting: false,
                isolation: true,
                rollback_after: "30s".parse().unwrap(),
                timeouts: None,
            },
            token: crate::fixture::token('a'),
            creates,
            asked: Instant::now(),
            time: Duration::from_secs(30),
        }
    }

    #[test]
    fn an_error_says_what_was_rolled_back_and_why_and_what_to_do() {
        let record = RolledBack {
            at: 0,
            reason: "it was not confirmed within 30s".into(),
            changes: vec!["isolation true -> false".into()],
            put_back: vec!["the address 203.0.113.1/32 is back on eth0".into()],
        };
        let failure = venture(false).undone("nobody answered", Some(&record));
        for part in [
            "because nobody answered",
            "Rolled back: isolation true -> false",
            "203.0.113.1/32 is back",
            "answers over SSH again",
        ] {
            assert!(failure.message.contains(part), "{failure}");
        }
        assert!(failure.help.unwrap().contains("rollback_after"));
        let failure = venture(true).undone("nobody answered", None);
        assert!(
            failure
                .message
                .contains("all that was made for nspawn_host"),
            "{failure}"
        );
        let failure = venture(true).unknown("nobody answered", "no route");
        assert!(failure.message.contains("no route") && failure.help.unwrap().contains("30s"));
    }
}
