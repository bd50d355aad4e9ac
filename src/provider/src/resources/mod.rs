//! The resources, a folder each: schema, conversion, planning. What they have in common, the way
//! from a plan to a change on a host and back into the state, is in [`create`], [`lifecycle`] and [`import`].

/// The operations of [`tfplugin::Resource`] that are done in one way for every object of a host.
macro_rules! same_for_every_object {
    () => {
        async fn create(
            &self,
            request: tfplugin::Create<Self>,
            context: &tfplugin::Context,
        ) -> Result<tfplugin::State<Self>, tfplugin::Failed<Self>> {
            $crate::resources::create::create(self, request, context).await
        }

        async fn read(
            &self,
            state: tfplugin::State<Self>,
            context: &tfplugin::Context,
        ) -> Result<Option<tfplugin::State<Self>>, tfplugin::Diagnostics> {
            $crate::resources::lifecycle::read(self, state, context).await
        }

        async fn update(
            &self,
            request: tfplugin::Update<Self>,
            context: &tfplugin::Context,
        ) -> Result<tfplugin::State<Self>, tfplugin::Failed<Self>> {
            $crate::resources::lifecycle::update(self, request, context).await
        }

        async fn delete(
            &self,
            state: tfplugin::State<Self>,
            context: &tfplugin::Context,
        ) -> Result<(), tfplugin::Failed<Self>> {
            $crate::resources::lifecycle::delete(self, state, context).await
        }

        async fn import(
            &self,
            id: &str,
            _: &tfplugin::Context,
        ) -> Result<tfplugin::State<Self>, tfplugin::Diagnostics> {
            $crate::resources::import::import(self, id).await
        }
    };
}

pub mod container;
pub mod create;
pub mod host;
pub mod image;
pub mod import;
pub mod lifecycle;
mod machine;
mod ownership;
pub mod public_address;

use std::sync::Arc;

use protocol::{
    desired::{Desired, ObjectKey},
    name::{OwnerToken, SessionId},
    observed::{Object, Owner},
};
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Context, Diagnostics, Resource};

use crate::{
    connection::{Identity, Target},
    failure::Place,
    hosts::{Change, Hosts},
    marks::Marks,
    random::{self, RandomError},
    timeouts::{Limits, Timeouts},
};

/// What the state holds beside the attributes, never shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Private {
    /// By which the host knows that the object is this state's.
    pub token: Option<OwnerToken>,
    /// The provider process that made it.
    pub session: Option<SessionId>,
    /// machine-id(5) of the host, by which a changed address is checked.
    pub machine_id: Option<String>,
    /// Whether nspawn_host's `uplink` was written by the user; otherwise the host chose it.
    pub uplink_configured: bool,
    /// When nspawn_host undid its last change, by which a later one is told from it. Seconds since 1970.
    pub rolled_back_at: Option<u64>,
    /// Whose an imported object was, until this state's saved token is the host's as well.
    pub taken_from: Option<OwnerToken>,
    /// Whether nspawn_container's `delete_protection` is on: of a replacement that the user asks for, a plan sees the
    /// second half alone, which has no former attributes.
    pub protected: bool,
    /// Of a plan alone: whether it looked at the host first, so that what is in the state was there and its own.
    pub refreshed: bool,
    /// Of a plan alone: the object that this was read of, when Terraform has not said which one is replaced.
    pub read_of: Option<(Identity, ObjectKey)>,
    /// Of a plan alone: what was read of the same kind on any host, of which one may be what is replaced.
    #[serde(skip_serializing_if = "Marks::is_empty")]
    pub marks: Marks,
}

/// How a state stands to an object on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is this state's.
    Owner,
    /// It is being imported, in a plan that may never be applied: the host must not change yet.
    Importing,
    /// It was imported into a saved state, and the host doesn't know yet.
    Imported,
    /// It is another state's.
    Stranger,
}

impl Private {
    /// Of an object that gets a new token, as soon as this is known to be saved.
    pub fn taking_over(owner: &Owner, session: &SessionId) -> Result<Self, RandomError> {
        Ok(Self {
            token: Some(random::owner_token()?),
            taken_from: Some(owner.token.clone()),
            session: Some(session.clone()),
            ..Self::default()
        })
    }

    /// The same for this object: a tainted one that gets the name or the host of another is planned with what was read
    /// of that, whose token doesn't open this.
    #[must_use]
    pub fn about(self, target: &Target, key: &ObjectKey) -> Self {
        match &self.read_of {
            Some((host, read)) if read != key || *host != target.identity() => Self {
                refreshed: self.refreshed,
                marks: self.marks,
                ..Self::default()
            },
            _ => self,
        }
    }

    /// Whether an object with that token can't be this state's: a destroy that failed may have left what its plan had read
    /// in the place of the token.
    pub fn excludes(&self, key: &ObjectKey, found: &OwnerToken) -> bool {
        self.token.is_none() && self.refreshed && !self.marks.contain(key, found)
    }

    /// How this state stands to the object with that token. `saved`: whether what this holds comes
    /// from a state or plan that was written down.
    pub fn standing(&self, found: &OwnerToken, saved: bool) -> Standing {
        if self.token.as_ref() == Some(found) {
            Standing::Owner
        } else if self.taken_from.as_ref() != Some(found) {
            Standing::Stranger
        } else if saved {
            Standing::Imported
        } else {
            Standing::Importing
        }
    }
}

/// A resource that is one object of a host.
pub trait Managed: Resource<Private = Private> {
    /// Where it says how its host is reached.
    const PLACE: Place;

    /// The attribute that tells it from others of its kind on the same host.
    const IDENTITY: &'static str;

    /// How long its operations may take.
    const LIMITS: Limits;

    /// What this run knows of its hosts.
    fn hosts(&self) -> &Arc<Hosts>;

    /// The object for a person: "container web".
    fn label(model: &Self::Model) -> String;

    /// Its host, once that is known.
    fn target(model: &Self::Model) -> Option<Target>;

    /// Its name on the host, once that is known.
    fn key(model: &Self::Model) -> Option<ObjectKey>;

    /// The name on the host that stands in an import id.
    fn import_key(name: Option<&str>) -> Result<ObjectKey, String>;

    /// The user's time limits.
    fn timeouts(model: &Self::Model) -> &Attr<Timeouts>;

    /// How it should be.
    fn desired(planned: &Self::Model, config: &Self::Model) -> Result<Desired, Diagnostics>;

    /// Adds what a change brings beside the desired state.
    fn accompany(
        _change: &mut Change,
        _prior: Option<&Self::Model>,
        _planned: &Self::Model,
        _config: &Self::Model,
    ) {
    }

    /// Puts what is known of the object into all attributes but those that say how its host is reached.
    fn observe(model: &mut Self::Model, object: &Object);

    /// Puts the host, and the id that follows from it, into an imported object.
    fn locate(model: &mut Self::Model, target: &Target, key: &ObjectKey);

    /// Keeps what the next plan needs beside the attributes.
    fn remember(_private: &mut Private, _object: &Object) {}

    /// Warns of what the user should know of it and no attribute says.
    fn warn(_label: &str, _object: &Object, _context: &Context) {}

    /// Refuses to destroy a protected object.
    fn destroyable(_model: &Self::Model) -> Result<(), Diagnostics> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::token;

    #[test]
    fn what_was_read_of_another_object_opens_none() {
        let (target, same) = (Target::new("a"), ObjectKey::Address("203.0.113.3".into()));
        let read = Private {
            token: Some(token('a')),
            refreshed: true,
            read_of: Some((target.identity(), same.clone())),
            marks: Marks::of([(&ObjectKey::Host, &token('b'))].into_iter()),
            ..Private::default()
        };
        for (target, key) in [(&target, &ObjectKey::Host), (&Target::new("b"), &same)] {
            let other = read.clone().about(target, key);
            assert!(other.token.is_none() && other.refreshed, "{target} {key}");
            assert_eq!(other.marks, read.marks);
        }
        assert_eq!(read.clone().about(&target, &same), read);
        let text = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<Private>(&text).unwrap(), read);
    }

    #[test]
    fn what_a_failed_destroy_has_left_is_no_strangers() {
        let (key, own) = (ObjectKey::Host, token('a'));
        let left = Private {
            refreshed: true,
            marks: Marks::of([(&key, &own)].into_iter()),
            ..Private::default()
        };
        assert!(!left.excludes(&key, &own) && left.excludes(&key, &token('b')));
        let cut_off = Private::default();
        assert!(!cut_off.excludes(&key, &own), "killed in a change");
        let kept = Private {
            token: Some(own),
            ..left
        };
        assert!(!kept.excludes(&key, &token('b')), "its token decides");
    }

    #[test]
    fn an_import_waits_until_it_is_saved() {
        let made = Private {
            token: Some(token('a')),
            ..Private::default()
        };
        let imported = Private {
            taken_from: Some(token('b')),
            ..made.clone()
        };
        for (private, found, saved, standing) in [
            (&made, 'a', false, Standing::Owner),
            (&made, 'b', true, Standing::Stranger),
            (&imported, 'b', false, Standing::Importing),
            (&imported, 'b', true, Standing::Imported),
            (&imported, 'a', true, Standing::Owner),
            (&imported, 'c', true, Standing::Stranger),
        ] {
            assert_eq!(private.standing(&token(found), saved), standing);
        }
    }
}
