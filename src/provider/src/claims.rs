//! Tells hosts which of their objects a Terraform state is known to hold (decision 13).
//!
//! A later read that shows an object's token claims it at once, many in one request. What this
//! process made is claimed by its orderly shutdown only: before, the state may not be saved. Nor may it
//! be afterwards, when Terraform was asked to stop or has had no answer yet: then the next read claims it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use protocol::{desired::ObjectKey, name::OwnerToken};

use crate::connection::{Identity, Target};

/// An object and the token that the state holds.
pub type Claim = (ObjectKey, OwnerToken);

/// What is still to be claimed, by host.
#[derive(Debug, Default)]
pub struct Claims {
    hosts: Mutex<HashMap<Identity, HostClaims>>,
}

#[derive(Debug)]
struct HostClaims {
    target: Target,
    read: Vec<Claim>,
    /// What is being made.
    begun: Vec<Claim>,
    /// What was made and told to Terraform.
    made: Vec<Claim>,
    seen: HashSet<Claim>,
    sending: bool,
    /// Whether somebody sees to it that this process stays connected.
    staying: bool,
}

impl Claims {
    /// Notes an object that was read with this token. Whether the caller is to send what
    /// [`Self::take_read`] gives until it gives nothing.
    pub fn add_read(&self, target: &Target, claim: Claim) -> bool {
        self.with(target, |host| {
            if !host.seen.insert(claim.clone()) {
                return false;
            }
            host.read.push(claim);
            !std::mem::replace(&mut host.sending, true)
        })
    }

    /// What reads have added since; nothing ends the sender's turn.
    pub fn take_read(&self, target: &Target) -> Vec<Claim> {
        self.with(target, |host| {
            let claims = std::mem::take(&mut host.read);
            host.sending = !claims.is_empty();
            claims
        })
    }

    /// Notes an object that this process begins to make.
    pub fn begin(&self, target: &Target, claim: Claim) {
        self.with(target, |host| host.begun.push(claim));
    }

    /// Notes what Terraform is told of an object that was begun: that it is there, or not.
    pub fn end(&self, target: &Target, claim: Claim, is_there: bool) {
        self.with(target, |host| {
            host.begun.retain(|begun| *begun != claim);
            if is_there {
                host.made.push(claim);
            }
        });
    }

    /// Whether the caller is to see to it that this process stays connected while it [`Self::is_maker`].
    pub fn begin_staying(&self, target: &Target) -> bool {
        self.with(target, |host| !std::mem::replace(&mut host.staying, true))
    }

    /// Nobody sees to it any more, until the next one who is told to.
    pub fn end_staying(&self, target: &Target) {
        self.with(target, |host| host.staying = false);
    }

    /// Whether something of this process is there that no state is known to hold yet. What isn't so any more is not
    /// stayed for.
    pub fn is_maker(&self, target: &Target) -> bool {
        self.with(target, |host| {
            host.staying = !host.made.is_empty();
            host.staying
        })
    }

    /// Whether this process made, or began to make, an object with this token.
    pub fn has_made(&self, target: &Target, claim: &Claim) -> bool {
        self.with(target, |host| {
            host.begun.contains(claim) || host.made.contains(claim)
        })
    }

    /// Takes back an object that this process has removed again.
    pub fn remove(&self, target: &Target, key: &ObjectKey) {
        self.with(target, |host| {
            host.made.retain(|(made, _)| made != key);
            host.read.retain(|(read, _)| read != key);
        });
    }

    /// All that is left to claim, for the shutdown; of what was made nothing, when that may not be saved.
    pub fn take_all(&self, saves_made: bool) -> Vec<(Target, Vec<Claim>)> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts
            .drain()
            .map(|(_, mut host)| {
                if saves_made {
                    host.read.append(&mut host.made);
                }
                (host.target, host.read)
            })
            .filter(|(_, claims)| !claims.is_empty())
            .collect()
    }

    fn with<T>(&self, target: &Target, change: impl FnOnce(&mut HostClaims) -> T) -> T {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        change(
            hosts
                .entry(target.identity())
                .or_insert_with(|| HostClaims {
                    target: target.clone(),
                    read: Vec::new(),
                    begun: Vec::new(),
                    made: Vec::new(),
                    seen: HashSet::new(),
                    sending: false,
                    staying: false,
                }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{connection::Bastion, fixture::token};

    fn claim(name: &str) -> Claim {
        (ObjectKey::Container(name.parse().unwrap()), token('a'))
    }

    #[test]
    fn one_sender_takes_what_the_others_read() {
        let (claims, target) = (Claims::default(), Target::new("a"));
        assert!(claims.add_read(&target, claim("one")));
        assert!(!claims.add_read(&target, claim("two")));
        assert!(!claims.add_read(&target, claim("two")));
        assert_eq!(claims.take_read(&target), [claim("one"), claim("two")]);
        assert!(!claims.add_read(&target, claim("three")));
        assert_eq!(claims.take_read(&target), [claim("three")]);
        assert_eq!(claims.take_read(&target), []);
        assert!(
            !claims.add_read(&target, claim("three")),
            "claimed once is enough"
        );
        assert!(claims.add_read(&target, claim("four")));
    }

    #[test]
    fn what_could_not_be_made_is_not_claimed_and_another_of_that_name_is() {
        let (claims, target) = (Claims::default(), Target::new("a"));
        let (kept, failed) = (claim("web"), (claim("web").0, token('b')));
        claims.begin(&target, kept.clone());
        claims.begin(&target, failed.clone());
        assert!(claims.has_made(&target, &kept) && claims.has_made(&target, &failed));
        claims.end(&target, kept.clone(), true);
        claims.end(&target, failed.clone(), false);
        assert!(claims.has_made(&target, &kept) && !claims.has_made(&target, &failed));
        assert_eq!(claims.take_all(true), [(target, vec![kept])]);
    }

    #[test]
    fn two_hosts_of_one_private_address_are_claimed_apart() {
        let claims = Claims::default();
        for address in ["198.51.100.8", "198.51.100.9"] {
            let bastion = Some(Bastion {
                address: address.to_owned(),
                port: 22,
                user: "jump".to_owned(),
                host_key: None,
            });
            let target = Target {
                bastion,
                ..Target::new("10.0.0.2")
            };
            assert!(claims.add_read(&target, claim("web")), "{address}");
        }
    }

    #[test]
    fn what_was_made_waits_for_the_shutdown() {
        let (claims, target) = (Claims::default(), Target::new("a"));
        for name in ["one", "two"] {
            claims.begin(&target, claim(name));
            claims.end(&target, claim(name), true);
        }
        claims.remove(&target, &claim("two").0);
        assert_eq!(claims.take_read(&target), []);
        assert_eq!(claims.take_all(true), [(target, vec![claim("one")])]);
        assert_eq!(claims.take_all(true), []);
    }

    #[test]
    fn whoever_has_made_something_stays_until_it_is_claimed() {
        let (claims, target) = (Claims::default(), Target::new("a"));
        claims.begin(&target, claim("web"));
        claims.end(&target, claim("web"), true);
        assert!(claims.begin_staying(&target) && !claims.begin_staying(&target));
        assert!(claims.is_maker(&target) && !claims.begin_staying(&target));
        claims.take_all(true);
        assert!(!claims.is_maker(&target));
        assert!(claims.begin_staying(&target), "for what is made next");
        claims.end_staying(&target);
        assert!(claims.begin_staying(&target), "after an error that lasts");
    }

    #[test]
    fn what_may_not_be_saved_is_not_claimed() {
        let (claims, target) = (Claims::default(), Target::new("a"));
        claims.begin(&target, claim("begun"));
        assert_eq!(claims.take_all(true), []);
        claims.begin(&target, claim("made"));
        claims.end(&target, claim("made"), true);
        claims.add_read(&target, claim("read"));
        assert_eq!(claims.take_all(false), [(target, vec![claim("read")])]);
    }
}
