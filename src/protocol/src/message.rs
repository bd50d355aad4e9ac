//! Requests, and what comes back.

use serde::{Deserialize, Serialize};

use crate::{
    desired::{ContainerSecrets, Desired, ObjectKey},
    failure::{Failure, FailureKind},
    frame::REQUEST_LIMIT,
    name::{OwnerToken, SessionId},
    observed::{Object, Owner, Snapshot},
    value::decode,
};

/// What the provider asks. Each has an id of its own in its frame's header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The first request of a connection; answered with [`Answer::Welcome`].
    Hello {
        /// [`crate::VERSION`]
        version: u32,
        /// The provider process, the same over reconnects.
        session: SessionId,
        /// Who that is, for the message to whoever waits for the lock: "alice@laptop".
        #[serde(deserialize_with = "decode::holder")]
        holder: String,
    },
    /// The whole host, in one reply. Changes nothing.
    Snapshot {
        /// How long it may take. Seconds.
        #[serde(deserialize_with = "decode::seconds")]
        deadline: u64,
    },
    /// Makes or changes one object; answered with [`Answer::Changed`].
    Put(Box<Put>),
    /// Removes one object; answered with [`Answer::Removed`], also when it is gone already.
    Remove {
        /// What to remove.
        key: ObjectKey,
        /// Must be the object's own.
        token: OwnerToken,
        /// How long it may take. Seconds.
        #[serde(deserialize_with = "decode::seconds")]
        deadline: u64,
    },
    /// Notes that a state holds these tokens; unknown ones are passed over.
    Claim {
        /// Objects and the tokens that the state holds.
        objects: Vec<(ObjectKey, OwnerToken)>,
    },
    /// Gives an object a new owner; answered with [`Answer::TakenOver`].
    TakeOver {
        /// What to take over.
        key: ObjectKey,
        /// Its new owner.
        token: OwnerToken,
        /// Must be the object's own until then; any, when absent.
        #[serde(default)]
        former: Option<OwnerToken>,
    },
    /// Keeps a change of the host for good; only a connection newer than the change may say so.
    Confirm {
        /// The host's owner.
        token: OwnerToken,
    },
    /// Asks another request to stop at its next safe point; that request answers as usual.
    Cancel {
        /// The request to stop.
        id: u32,
    },
}

impl Request {
    /// Reads a request, and checks every value in it.
    ///
    /// # Errors
    /// When it is longer than a request may be, none of ours, or when a value breaks its rule.
    pub fn decode(payload: &[u8]) -> Result<Self, Failure> {
        if payload.len() > REQUEST_LIMIT {
            return Err(Failure::new(
                FailureKind::Protocol,
                format!("a request of {} bytes is over the limit", payload.len()),
            ));
        }
        serde_json::from_slice(payload).map_err(|error| {
            Failure::new(
                FailureKind::Protocol,
                format!("the agent doesn't understand this request: {error}"),
            )
        })
    }

    /// What it asks, for a log: "put container web".
    pub fn name(&self) -> String {
        match self {
            Self::Hello { .. } => "hello".to_owned(),
            Self::Snapshot { .. } => "snapshot".to_owned(),
            Self::Put(put) => format!("put {}", put.desired.key()),
            Self::Remove { key, .. } => format!("remove {key}"),
            Self::Claim { .. } => "claim".to_owned(),
            Self::TakeOver { key, .. } => format!("take over {key}"),
            Self::Confirm { .. } => "confirm".to_owned(),
            Self::Cancel { .. } => "cancel".to_owned(),
        }
    }
}

/// Makes or changes one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Put {
    /// The object as it should be.
    pub desired: Desired,
    /// Its owner.
    pub token: OwnerToken,
    /// Whether it must be new or must be there.
    pub intent: Intent,
    /// How long it may take, waiting for the lock included. Seconds.
    #[serde(deserialize_with = "decode::seconds")]
    pub deadline: u64,
    /// For a container.
    #[serde(default)]
    pub secrets: ContainerSecrets,
}

/// Whether an object must be new or must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Fails when it is there, unless it is unclaimed and its session is gone, or this session's own.
    Create,
    /// Fails when it isn't there or is another's.
    Update,
}

/// What the agent says about a request: any number of [`Event::Progress`] and the like, then one [`Event::Done`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A line for the log, with sizes and times.
    Progress(String),
    /// The agent has no copy of the image's tarball: send it in data frames, the last one empty.
    WantData,
    /// So many bytes of data have been taken in all.
    Received(u64),
    /// The end of this request.
    Done(Result<Answer, Failure>),
}

impl Event {
    /// What it tells, for a log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Progress(_) => "progress",
            Self::WantData => "the wish for data",
            Self::Received(_) => "the receipt of data",
            Self::Done(Ok(_)) => "the answer",
            Self::Done(Err(_)) => "the failure",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Hello`].
    Welcome {
        /// [`crate::VERSION`] of the agent.
        version: u32,
        /// The agent's release.
        agent_version: String,
        /// machine-id(5), by which a provider knows that an address still leads to the same host.
        machine_id: String,
        /// Of the kernel that runs: another one after each boot. random(4)
        #[serde(default)]
        boot_id: String,
    },
    /// To [`Request::Snapshot`].
    Snapshot(Box<Snapshot>),
    /// To [`Request::Put`].
    Changed {
        /// The object as it is now; there also when `failure` is set and a part of it was made.
        object: Box<Object>,
        /// What was begun and could not be finished: Terraform keeps the object, tainted.
        failure: Option<Failure>,
    },
    /// To [`Request::Remove`].
    Removed,
    /// To [`Request::Claim`], [`Request::Confirm`] and [`Request::Cancel`].
    Noted,
    /// To [`Request::TakeOver`].
    TakenOver {
        /// The object's owner from now on.
        owner: Owner,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "\"token\":\"0123456789abcdef0123456789abcdef\"";

    fn remove(key: &str, deadline: &str) -> Result<Request, Failure> {
        let text = format!("{{\"remove\":{{\"key\":{key},{TOKEN},\"deadline\":{deadline}}}}}");
        Request::decode(text.as_bytes())
    }

    /// Whatever the provider has checked, the agent checks anew.
    #[test]
    fn every_value_is_checked_while_it_is_decoded() {
        remove("\"host\"", "60").unwrap();
        remove("{\"address\":\"203.0.113.2\"}", "60").unwrap();
        for (key, deadline) in [
            ("{\"address\":\"../../etc/shadow\"}", "60"),
            ("{\"address\":\"2001:DB8::1\"}", "60"),
            ("{\"container\":\"../web\"}", "60"),
            ("\"host\"", "18446744073709551615"),
        ] {
            assert!(remove(key, deadline).is_err(), "{key} {deadline}");
        }
    }

    #[test]
    fn an_image_with_values_that_would_run_or_write_elsewhere_is_refused() {
        let put = |source: &str, customize: &str| {
            let text = format!(
                "{{\"put\":{{\"desired\":{{\"image\":{{\"name\":\"debian\",\"source\":{source},\
                 \"customize\":{customize}}}}},{TOKEN},\"intent\":\"create\",\"deadline\":60}}}}"
            );
            Request::decode(text.as_bytes())
        };
        let debootstrap = |suite: &str, more: &str| {
            format!("{{\"debootstrap\":{{\"suite\":{suite:?},\"variant\":\"minbase\"{more}}}}}")
        };
        let tarball = |url: &str, sha256: &str| {
            format!("{{\"tarball\":{{\"location\":{{\"url\":{url:?}}},\"sha256\":{sha256:?}}}}}")
        };
        let sum = "0a".repeat(32);
        for (source, customize) in [
            (debootstrap("trixie", ""), "null"),
            (
                debootstrap("trixie", ",\"include\":[\"dbus\"]"),
                "[\"true\"]",
            ),
            (tarball("https://a/b", &sum), "null"),
        ] {
            put(&source, customize).unwrap();
        }
        for (source, customize) in [
            (debootstrap("../../../../tmp/evil", ""), "null"),
            (debootstrap("x/../../../../tmp/evil", ""), "null"),
            (debootstrap("--foreign", ""), "null"),
            (debootstrap("trixie", ",\"mirror\":\"--arch=x\""), "null"),
            (debootstrap("trixie", ",\"include\":[\"a b\"]"), "null"),
            (debootstrap("trixie", ",\"components\":[\"--x\"]"), "null"),
            (tarball("https://a/b", "../../../etc"), "null"),
            (tarball("-o/etc/passwd", &sum), "null"),
            (debootstrap("trixie", ""), "[\"a\\u0000b\"]"),
        ] {
            assert!(put(&source, customize).is_err(), "{source} {customize}");
        }
    }

    #[test]
    fn an_object_is_taken_over_from_a_certain_owner_or_from_any() {
        let decoded = |more: &str| {
            let text = format!("{{\"take_over\":{{\"key\":\"host\",{TOKEN}{more}}}}}");
            match Request::decode(text.as_bytes()) {
                Ok(Request::TakeOver { former, .. }) => former.map(|token| token.to_string()),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(decoded(""), None, "as an earlier provider says it");
        let former = "f".repeat(32);
        assert_eq!(decoded(&format!(",\"former\":\"{former}\"")), Some(former));
    }

    #[test]
    fn a_look_at_the_host_says_how_long_it_may_take() {
        let request = Request::decode(br#"{"snapshot":{"deadline":600}}"#).unwrap();
        assert_eq!(request, Request::Snapshot { deadline: 600 });
        assert!(Request::decode(br#"{"snapshot":{"deadline":99999999999}}"#).is_err());
    }

    #[test]
    fn a_request_without_end_is_refused() {
        let failure = Request::decode(&vec![b' '; REQUEST_LIMIT + 1]).unwrap_err();
        assert!(failure.message.contains("over the limit"), "{failure}");
    }
}
