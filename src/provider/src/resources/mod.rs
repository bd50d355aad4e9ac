//! The resources, a folder each: schema, conversion, planning. What they have in common, the way
//! from a plan to a change on a host and back into the state, is in [`lifecycle`] and [`import`].

pub mod container;
pub mod host;
pub mod image;
pub mod import;
pub mod lifecycle;
pub mod public_address;

use std::sync::Arc;

use protocol::{
    desired::{Desired, ObjectKey},
    name::{OwnerToken, SessionId},
    observed::Object,
};
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Diagnostics, Resource};

use crate::{
    connection::Target,
    failure::Place,
    hosts::{Change, Hosts},
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

    /// Refuses to destroy a protected object.
    fn destroyable(_model: &Self::Model) -> Result<(), Diagnostics> {
        Ok(())
    }
}
