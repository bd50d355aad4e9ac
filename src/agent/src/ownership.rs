//! Whose an object is, and who may do what to it. Pure rules of design.md, decision 13.

use std::time::{SystemTime, UNIX_EPOCH};

use protocol::{
    Failure, FailureKind,
    message::Intent,
    name::{OwnerToken, SessionId},
    observed::{Holder, Owner},
};

/// What is known of an object that is there.
#[derive(Debug, Clone, Copy)]
pub struct Existing<'a> {
    /// Whose it is.
    pub owner: &'a Owner,
    /// The provider process that made it.
    pub session: &'a SessionId,
    /// Whether that process is still connected.
    pub session_alive: bool,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The owner's token.
    pub token: &'a OwnerToken,
    /// The provider process.
    pub session: &'a SessionId,
}

/// What a permitted change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Nothing of that name is there.
    Create,
    /// It is there, made by a run that was killed before its state was saved: it gets a new owner.
    Adopt,
    /// It is there and the asker's own.
    Update,
}

/// Whether a put is permitted. `what` names the object: "the container \"web\"".
pub fn put(
    what: &str,
    intent: Intent,
    existing: Option<Existing<'_>>,
    asking: Asking<'_>,
) -> Result<Permit, Failure> {
    match (intent, existing) {
        (Intent::Create, None) => Ok(Permit::Create),
        (Intent::Create, Some(existing)) if may_adopt(existing, asking) => Ok(Permit::Adopt),
        (Intent::Create, Some(existing)) if is_twice_in_one_run(existing, asking) => {
            Err(named_twice(what))
        }
        (Intent::Create, Some(existing)) => Err(already_there(what, existing)),
        (Intent::Update, None) => Err(Failure::new(
            FailureKind::NotFound,
            format!("{what} is not on this host any more"),
        )
        .help("Run terraform plan again: the refresh notices, and the next apply creates it.")),
        (Intent::Update, Some(existing)) if existing.owner.token == *asking.token => {
            Ok(Permit::Update)
        }
        (Intent::Update, Some(existing)) => Err(not_owner(what, existing.owner)),
    }
}

/// Whether a removal is permitted of an object that is there.
pub fn remove(what: &str, owner: &Owner, token: &OwnerToken) -> Result<(), Failure> {
    if owner.token == *token {
        Ok(())
    } else {
        Err(not_owner(what, owner))
    }
}

fn may_adopt(existing: Existing<'_>, asking: Asking<'_>) -> bool {
    if existing.owner.token == *asking.token {
        return true;
    }
    !existing.owner.claimed && !existing.session_alive
}

/// A request that is sent again has the same token; another one of the same run is another resource's.
fn is_twice_in_one_run(existing: Existing<'_>, asking: Asking<'_>) -> bool {
    !existing.owner.claimed && existing.session == asking.session
}

fn named_twice(what: &str) -> Failure {
    Failure::new(
        FailureKind::Conflict,
        format!("{what} was made by another resource in this very run of Terraform"),
    )
    .help(
        "Two resources of this configuration have the same name on the same host, which may be spelled in two ways: \
         give one of them another name, or remove it.",
    )
}

fn already_there(what: &str, existing: Existing<'_>) -> Failure {
    let owner = existing.owner;
    if owner.claimed {
        let message = match &owner.holder {
            Some(Holder { name, since }) => format!(
                "{what} is on this host already and belongs to the Terraform state of {name}, who made it or took it over {}",
                ago(*since)
            ),
            None => format!("{what} is on this host already and belongs to a Terraform state"),
        };
        Failure::new(FailureKind::Conflict, message)
            .help("Import it to manage it from this state, or choose another name.")
    } else {
        let by = match &owner.holder {
            Some(Holder { name, since }) => format!(", of {name}, begun {}", ago(*since)),
            None => String::new(),
        };
        Failure::new(
            FailureKind::Busy,
            format!("{what} is being made by another run of Terraform right now{by}"),
        )
        .help("Wait until that run has ended, then apply again.")
    }
}

fn not_owner(what: &str, owner: &Owner) -> Failure {
    let whose = match &owner.holder {
        Some(Holder { name, since }) => {
            format!(
                ", that of {name}, who took it over or made it anew {}",
                ago(*since)
            )
        }
        None => ", which took it over or made it anew".to_owned(),
    };
    Failure::new(
        FailureKind::NotOwner,
        format!("{what} belongs to another Terraform state{whose}"),
    )
    .help("Remove it from this state (terraform state rm), or import it to take it over.")
}

/// How long ago that was, in the largest whole unit.
fn ago(since: u64) -> String {
    let seconds = now().saturating_sub(since);
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(digit: char) -> OwnerToken {
        digit.to_string().repeat(32).parse().unwrap()
    }
    fn session(digit: char) -> SessionId {
        digit.to_string().repeat(32).parse().unwrap()
    }

    /// (owner's token, claimed, session, alive)
    type There = Option<(char, bool, char, bool)>;

    #[test]
    fn who_may_put() {
        use FailureKind::{Busy, Conflict, NotFound, NotOwner};
        let asker = ('a', '1');
        let cases: &[(Intent, There, Result<Permit, FailureKind>)] = &[
            (Intent::Create, None, Ok(Permit::Create)),
            (Intent::Create, Some(('b', true, '2', false)), Err(Conflict)),
            (Intent::Create, Some(('b', true, '1', true)), Err(Conflict)),
            (Intent::Create, Some(('b', false, '2', true)), Err(Busy)),
            (
                Intent::Create,
                Some(('b', false, '2', false)),
                Ok(Permit::Adopt),
            ),
            (Intent::Create, Some(('b', false, '1', true)), Err(Conflict)),
            (
                Intent::Create,
                Some(('a', false, '1', true)),
                Ok(Permit::Adopt),
            ),
            (
                Intent::Create,
                Some(('a', true, '2', true)),
                Ok(Permit::Adopt),
            ),
            (Intent::Update, None, Err(NotFound)),
            (
                Intent::Update,
                Some(('a', true, '2', true)),
                Ok(Permit::Update),
            ),
            (
                Intent::Update,
                Some(('a', false, '2', false)),
                Ok(Permit::Update),
            ),
            (
                Intent::Update,
                Some(('b', false, '2', false)),
                Err(NotOwner),
            ),
            (Intent::Update, Some(('b', true, '1', false)), Err(NotOwner)),
        ];
        for (intent, there, expected) in cases {
            let kept = there.map(|(owner, claimed, by, alive)| {
                (
                    Owner {
                        token: token(owner),
                        claimed,
                        holder: Some(Holder {
                            name: "alice@laptop".to_owned(),
                            since: 0,
                        }),
                    },
                    session(by),
                    alive,
                )
            });
            let existing = kept
                .as_ref()
                .map(|(owner, session, session_alive)| Existing {
                    owner,
                    session,
                    session_alive: *session_alive,
                });
            let (token, session) = (token(asker.0), session(asker.1));
            let asking = Asking {
                token: &token,
                session: &session,
            };
            let found = put("it", *intent, existing, asking).map_err(|failure| failure.kind);
            assert_eq!(found, *expected, "{intent:?} {there:?}");
        }
    }

    #[test]
    fn a_refusal_says_whose_it_is_and_since_when() {
        for (claimed, words) in [(true, "belongs to"), (false, "is being made")] {
            let owner = Owner {
                token: token('b'),
                claimed,
                holder: Some(Holder {
                    name: "alice@laptop".to_owned(),
                    since: now() - 3 * 3600 - 5,
                }),
            };
            let existing = Existing {
                owner: &owner,
                session: &session('2'),
                session_alive: true,
            };
            let asking = Asking {
                token: &token('a'),
                session: &session('1'),
            };
            for intent in [Intent::Create, Intent::Update] {
                let message = put("it", intent, Some(existing), asking)
                    .unwrap_err()
                    .message;
                assert!(
                    message.contains("alice@laptop") && message.contains("3 hours ago"),
                    "{message}"
                );
                assert!(
                    intent == Intent::Update || message.contains(words),
                    "{message}"
                );
            }
        }
    }

    #[test]
    fn only_the_owner_removes() {
        let owner = Owner {
            token: token('a'),
            claimed: false,
            holder: None,
        };
        assert!(remove("it", &owner, &token('a')).is_ok());
        assert_eq!(
            remove("it", &owner, &token('b')).unwrap_err().kind,
            FailureKind::NotOwner
        );
    }
}
