//! nspawn_container: a machine of systemd-nspawn on a host.

mod check;
mod convert;
mod plan;
mod schema;

use std::sync::Arc;

use protocol::{
    desired::{Desired, ObjectKey},
    name::InvalidName,
    observed::Object,
    secret,
};
use tfplugin::{Attr, Context, Diagnostics, Parsed, Plan, Resource, State};

pub use schema::{Container, WaitFor};

use super::{Managed, Private};
use crate::{
    connection::Target,
    failure::Place,
    hosts::{Change, Hosts},
    id::object_id,
    timeouts::{Limits, Timeouts, minutes},
};

/// nspawn_container
#[derive(Debug)]
pub struct ContainerResource {
    /// What this run knows of its hosts.
    pub hosts: Arc<Hosts>,
}

impl Managed for ContainerResource {
    const PLACE: Place = Place::Host;
    const IDENTITY: &str = "name";
    const LIMITS: Limits = Limits {
        create: minutes(5),
        read: minutes(2),
        update: minutes(5),
        delete: minutes(5),
    };

    fn hosts(&self) -> &Arc<Hosts> {
        &self.hosts
    }

    fn label(model: &Container) -> String {
        format!(
            "container {}",
            model
                .name
                .known()
                .map_or("(name not known yet)", Parsed::text)
        )
    }

    fn target(model: &Container) -> Option<Target> {
        model.host.known()?.target()
    }

    fn key(model: &Container) -> Option<ObjectKey> {
        Some(ObjectKey::Container(model.name.known()?.value().clone()))
    }

    fn import_key(name: Option<&str>) -> Result<ObjectKey, String> {
        let name = name.ok_or("the container's name is missing: write root@203.0.113.1:22/web")?;
        name.parse()
            .map(ObjectKey::Container)
            .map_err(|error: InvalidName| error.to_string())
    }

    fn timeouts(model: &Container) -> &Attr<Timeouts> {
        &model.timeouts
    }

    fn desired(planned: &Container, config: &Container) -> Result<Desired, Diagnostics> {
        let desired = planned.desired(config.wait_for.is_set())?;
        Ok(Desired::Container(Box::new(desired)))
    }

    fn accompany(
        change: &mut Change,
        prior: Option<&Container>,
        planned: &Container,
        config: &Container,
    ) {
        let anew = prior
            .is_none_or(|prior| prior.root_password_wo_version != planned.root_password_wo_version);
        if anew {
            change.secrets.root_password = config
                .root_password_wo
                .known()
                .map(|password| secret::Secret::new(password.expose()));
        }
    }

    fn observe(model: &mut Container, object: &Object) {
        if let Object::Container(container) = object {
            model.observe(container);
        }
    }

    fn locate(model: &mut Container, target: &Target, key: &ObjectKey) {
        model.host = Attr::Known(target.into());
        if let ObjectKey::Container(name) = key {
            model.id = object_id(target, name).into();
        }
    }

    fn remember(private: &mut Private, object: &Object) {
        if let Object::Container(container) = object {
            private.protected = container.desired.delete_protection;
        }
    }

    fn destroyable(model: &Container) -> Result<(), Diagnostics> {
        plan::destroyable(model)
    }
}

impl Resource for ContainerResource {
    type Model = Container;
    type Private = Private;
    const NAME: &'static str = "nspawn_container";

    fn validate(&self, config: &Container, diagnostics: &mut Diagnostics) {
        plan::validate(config, diagnostics);
    }

    async fn plan(&self, plan: &mut Plan<Self>, context: &Context) -> Result<(), Diagnostics> {
        self.adjust(plan, context)
    }

    async fn plan_destroy(&self, prior: &State<Self>, _: &Context) -> Result<(), Diagnostics> {
        plan::destroyable(&prior.model)
    }

    same_for_every_object!();
}
