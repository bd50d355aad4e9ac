//! A change of a host that is undone unless it is confirmed, and what is told of it when it isn't.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use protocol::{
    Failure, FailureKind,
    desired::{Desired, Host},
    message::{Intent, Put},
    name::OwnerToken,
    observed::{HostState, Object, RolledBack},
};
use tokio_util::sync::CancellationToken;

use super::{Changed, Fate};
use crate::connection::Target;

/// How long after the time of a change it is still asked about.
const AFTERWARDS: Duration = Duration::from_secs(20);

/// How long a confirmation that is on its way may go on when Terraform wishes to stop: to break it off
/// undoes the change.
const LAST_TRY: Duration = Duration::from_secs(10);

/// A change that is undone unless it is confirmed.
#[derive(Debug)]
pub(super) struct Venture {
    pub(super) target: Target,
    pub(super) desired: Host,
    pub(super) token: OwnerToken,
    pub(super) creates: bool,
    /// When the host was asked for it.
    pub(super) asked: Instant,
    /// How long it stays unconfirmed.
    pub(super) time: Duration,
    /// When this provider no more asks about it.
    ends: Instant,
    /// Terraform's wish to stop.
    cancellation: CancellationToken,
    /// When the host undid a change before this one, as the state knows. Seconds since 1970.
    former: Option<u64>,
}

/// What has become of a change.
pub(super) enum Outcome {
    /// It is there, for good.
    Kept(Box<Object>),
    /// The host is as before.
    Undone(Option<RolledBack>),
    /// The first look finds nothing of it: it was undone by then, or never begun.
    Absent,
    /// Nobody could say.
    Unknown(String),
    /// Nobody asks any more.
    GivenUp(&'static str),
}

impl Venture {
    /// A put that is one. It `ends` when it has taken all of the time that it has, and `former` is when the host
    /// undid the change before it.
    pub(super) fn new(
        target: &Target,
        put: &Put,
        ends: Instant,
        cancellation: &CancellationToken,
        former: Option<u64>,
    ) -> Option<Self> {
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
            ends: ends + AFTERWARDS,
            cancellation: cancellation.clone(),
            former,
        })
    }

    /// Waits until it is no more asked about, and says why.
    pub(super) async fn given_up(&self) -> &'static str {
        let stopped = async {
            self.cancellation.cancelled().await;
            tokio::time::sleep(LAST_TRY).await;
        };
        tokio::select! {
            () = stopped => "Terraform asked to stop",
            () = tokio::time::sleep_until(self.ends.into()) => "The time of `timeouts` is up",
        }
    }

    /// The record of a change that the host undid, when it is this one's.
    pub(super) fn own_record(&self, host: &HostState) -> Option<RolledBack> {
        let record = host.rolled_back.as_ref();
        record
            .filter(|record| Some(record.at) != self.former)
            .cloned()
    }
}

impl Venture {
    /// What a change that isn't known to be there for good came to.
    pub(super) fn failed(&self, outcome: Outcome, why: &str, machine_id: &str) -> Changed {
        let (fate, failure) = match outcome {
            Outcome::Undone(record) => (Fate::Undone, Some(self.undone(why, record.as_ref()))),
            Outcome::Absent => (Fate::Undone, Some(self.undone(why, None))),
            Outcome::Unknown(said) => (Fate::BeingUndone, Some(self.unknown(why, &said))),
            Outcome::GivenUp(reason) => (Fate::BeingUndone, Some(self.unconfirmed(reason, why))),
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

    fn unconfirmed(&self, reason: &str, why: &str) -> Failure {
        let text = format!(
            "{reason}, and it isn't known whether the change of {} was confirmed: {why}.",
            self.target
        );
        Failure::new(FailureKind::Timeout, text).help(format!(
            "A change that was not confirmed the server undoes by itself {} after it (rollback_after), also when it is rebooted. \
             Apply again after that: the refresh shows what has become of it.",
            self.desired.rollback_after
        ))
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn venture(creates: bool) -> Venture {
        Venture {
            target: Target::new("203.0.113.1"),
            desired: crate::fixture::desired_host(),
            token: crate::fixture::token('a'),
            creates,
            asked: Instant::now(),
            time: Duration::from_secs(30),
            ends: Instant::now() + Duration::from_mins(1),
            cancellation: CancellationToken::new(),
            former: None,
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

    #[test]
    fn an_error_of_one_who_gave_up_says_what_the_server_does_by_itself() {
        let changed = venture(true).failed(
            Outcome::GivenUp("Terraform asked to stop"),
            "no answer so far",
            "1",
        );
        assert_eq!(changed.fate, Fate::BeingUndone);
        let failure = changed.failure.unwrap();
        for part in ["Terraform asked to stop", "no answer so far"] {
            assert!(failure.message.contains(part), "{failure}");
        }
        assert!(failure.help.unwrap().contains("by itself 30s after it"));
    }

    #[tokio::test]
    async fn the_end_of_the_time_ends_the_wait_and_a_wish_to_stop_leaves_a_last_try() {
        let mut late = venture(false);
        late.ends = Instant::now();
        assert!(late.given_up().await.contains("timeouts"));
        let stopped = venture(false);
        stopped.cancellation.cancel();
        let at_once = stopped.given_up().now_or_never();
        assert_eq!(at_once, None, "a confirmation under way goes on");
    }

    #[test]
    fn the_record_of_a_former_change_is_not_this_ones() {
        let state = |at| HostState {
            uplink: "eth0".into(),
            confirm_within: None,
            rolled_back: Some(RolledBack {
                at,
                reason: String::new(),
                changes: vec![],
                put_back: vec![],
            }),
        };
        let mut venture = venture(false);
        assert!(venture.own_record(&state(5)).is_some());
        venture.former = Some(5);
        assert!(venture.own_record(&state(5)).is_none());
        assert!(venture.own_record(&state(6)).is_some());
    }
}
