//! Requests, and what comes back.

use serde::{Deserialize, Serialize};

use crate::{
    desired::{ContainerSecrets, Desired, ObjectKey},
    failure::Failure,
    name::{OwnerToken, SessionId},
    observed::{Object, Owner, Snapshot},
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
        holder: String,
    },
    /// The whole host, in one reply. Changes nothing.
    Snapshot,
    /// Makes or changes one object; answered with [`Answer::Changed`].
    Put(Box<Put>),
    /// Removes one object; answered with [`Answer::Removed`], also when it is gone already.
    Remove {
        /// What to remove.
        key: ObjectKey,
        /// Must be the object's own.
        token: OwnerToken,
        /// How long it may take. Seconds.
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
