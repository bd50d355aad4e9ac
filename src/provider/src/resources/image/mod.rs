//! nspawn_image: a root file system on a host, shared by all containers made from it.

mod convert;
mod plan;
mod schema;

use std::sync::Arc;

use protocol::{
    desired::{Desired, ImageSource, ObjectKey, TarballLocation},
    name::InvalidName,
    observed::Object,
};
use tfplugin::{Attr, Context, Diagnostics, Parsed, Plan, Resource};

pub use schema::Image;

use super::{Managed, Private};
use crate::{
    connection::Target,
    failure::Place,
    hosts::{Change, Hosts},
    id::object_id,
    timeouts::{Limits, Timeouts, minutes},
};

/// nspawn_image
#[derive(Debug)]
pub struct ImageResource {
    /// What this run knows of its hosts.
    pub hosts: Arc<Hosts>,
}

impl Managed for ImageResource {
    const PLACE: Place = Place::Host;
    const IDENTITY: &str = "name";
    const LIMITS: Limits = Limits {
        create: minutes(20),
        read: minutes(2),
        update: minutes(20),
        delete: minutes(5),
    };

    fn hosts(&self) -> &Arc<Hosts> {
        &self.hosts
    }

    fn label(model: &Image) -> String {
        format!(
            "image {}",
            model
                .name
                .known()
                .map_or("(name not known yet)", Parsed::text)
        )
    }

    fn target(model: &Image) -> Option<Target> {
        model.host.known()?.target()
    }

    fn key(model: &Image) -> Option<ObjectKey> {
        plan::key(model)
    }

    fn import_key(name: Option<&str>) -> Result<ObjectKey, String> {
        let name =
            name.ok_or("the image's name is missing: write root@203.0.113.1:22/debian-13")?;
        name.parse()
            .map(ObjectKey::Image)
            .map_err(|error: InvalidName| error.to_string())
    }

    fn timeouts(model: &Image) -> &Attr<Timeouts> {
        &model.timeouts
    }

    fn desired(planned: &Image, _: &Image) -> Result<Desired, Diagnostics> {
        planned.desired().map(Desired::Image)
    }

    fn accompany(change: &mut Change, _: Option<&Image>, _: &Image, _: &Image) {
        if let Desired::Image(image) = &change.desired
            && let ImageSource::Tarball(tarball) = &image.source
            && let TarballLocation::Path(file) = &tarball.location
        {
            change.upload = Some(file.into());
        }
    }

    fn observe(model: &mut Image, object: &Object) {
        if let Object::Image(image) = object {
            model.observe(image);
        }
    }

    fn locate(model: &mut Image, target: &Target, key: &ObjectKey) {
        model.host = Attr::Known(target.into());
        if let ObjectKey::Image(name) = key {
            model.id = object_id(target, name).into();
        }
    }
}

impl Resource for ImageResource {
    type Model = Image;
    type Private = Private;
    const NAME: &'static str = "nspawn_image";

    fn validate(&self, config: &Image, diagnostics: &mut Diagnostics) {
        plan::validate(config, diagnostics);
    }

    async fn plan(&self, plan: &mut Plan<Self>, _: &Context) -> Result<(), Diagnostics> {
        self.adjust(plan).await
    }

    same_for_every_object!();
}
