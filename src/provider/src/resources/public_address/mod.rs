//! nspawn_public_address: a public address or prefix of a container, attached while it runs.

mod convert;
mod plan;
mod schema;

use std::sync::Arc;

use protocol::{
    address,
    desired::{Desired, ObjectKey},
    observed::Object,
};
use tfplugin::{Attr, Context, Diagnostics, Parsed, Plan, Resource};

pub use schema::PublicAddress;

use super::{Managed, Private};
use crate::{
    connection::Target,
    failure::Place,
    hosts::Hosts,
    id::object_id,
    timeouts::{Limits, Timeouts, minutes},
};

/// nspawn_public_address
#[derive(Debug)]
pub struct PublicAddressResource {
    /// What this run knows of its hosts.
    pub hosts: Arc<Hosts>,
}

impl Managed for PublicAddressResource {
    const PLACE: Place = Place::Host;
    const IDENTITY: &str = "address";
    const LIMITS: Limits = Limits {
        create: minutes(2),
        read: minutes(2),
        update: minutes(2),
        delete: minutes(2),
    };

    fn hosts(&self) -> &Arc<Hosts> {
        &self.hosts
    }

    fn label(model: &PublicAddress) -> String {
        format!(
            "address {}",
            model
                .address
                .known()
                .map_or("(not known yet)", Parsed::text)
        )
    }

    fn target(model: &PublicAddress) -> Option<Target> {
        model.host.known()?.target()
    }

    fn key(model: &PublicAddress) -> Option<ObjectKey> {
        Some(ObjectKey::Address(
            model.address.known()?.value().canonical(),
        ))
    }

    fn import_key(name: Option<&str>) -> Result<ObjectKey, String> {
        let name = name.ok_or("the address is missing: write root@203.0.113.1:22/203.0.113.2")?;
        name.parse()
            .map(|address: address::PublicAddress| ObjectKey::Address(address.canonical()))
            .map_err(|error| error.to_string())
    }

    fn timeouts(model: &PublicAddress) -> &Attr<Timeouts> {
        &model.timeouts
    }

    fn desired(planned: &PublicAddress, _: &PublicAddress) -> Result<Desired, Diagnostics> {
        planned.desired().map(Desired::Address)
    }

    fn observe(model: &mut PublicAddress, object: &Object) {
        if let Object::Address(address) = object {
            model.observe(address);
        }
    }

    fn locate(model: &mut PublicAddress, target: &Target, key: &ObjectKey) {
        model.host = Attr::Known(target.into());
        if let ObjectKey::Address(canonical) = key {
            model.id = object_id(target, canonical).into();
        }
    }
}

impl Resource for PublicAddressResource {
    type Model = PublicAddress;
    type Private = Private;
    const NAME: &'static str = "nspawn_public_address";

    fn validate(&self, config: &PublicAddress, diagnostics: &mut Diagnostics) {
        plan::validate(config, diagnostics);
    }

    async fn plan(&self, plan: &mut Plan<Self>, context: &Context) -> Result<(), Diagnostics> {
        self.adjust(plan, context)
    }

    same_for_every_object!();
}
