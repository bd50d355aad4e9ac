//! `nspawn_image`: a tree that containers share, kept by its digest.

mod build;
mod content;
mod fetch;
mod identity;
mod incoming;
mod room;
pub mod tree;
mod unpack;

use std::collections::BTreeMap;

use protocol::{
    Failure,
    desired::{ContainerSecrets, Image, ObjectKey},
    name::ImageName,
    observed::ImageState,
};
use serde::{Deserialize, Serialize};

use self::incoming::Incoming;
use crate::{
    context::Context,
    object::Object,
    reconcile::{Observation, Scope},
    store::{Inventory, Stored},
};

/// What is known of an image once its tree is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// Identifies the tree: "sha256:…".
    pub digest: String,
    /// PRETTY_NAME of its os-release(5)
    pub os: String,
    /// Disk used by the tree. Bytes.
    pub size_bytes: u64,
}

/// Which trees are there.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    has_tree: BTreeMap<ImageName, bool>,
    /// Whether there is what nothing needs: a change was killed before it had cleared up.
    has_leftovers: bool,
}

/// One step, as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Set aside the trees that nothing needs, and what was left half-made.
    Collect,
}

/// Looks at the images.
#[allow(
    clippy::unused_async,
    reason = "every kind of object is observed alike"
)]
pub async fn observe(
    _context: &Context,
    inventory: &Inventory,
    scope: &Scope,
) -> Result<Observed, Failure> {
    let images = inventory.images.iter();
    let has_tree =
        images.map(|(name, stored)| (name.clone(), tree::folder(&stored.assigned.digest).is_dir()));
    let concerns = !matches!(scope, Scope::Host | Scope::Address(_));
    Ok(Observed {
        has_tree: has_tree.collect(),
        has_leftovers: concerns && tree::has_leftovers(inventory)?,
    })
}

/// What has to be done. A tree is built before the lock is taken; one that went missing since is said
/// in drift, and the next change builds it again.
pub fn plan(_inventory: &Inventory, observation: &Observation, _scope: &Scope) -> Vec<Step> {
    let collect = observation.images.has_leftovers.then_some(Step::Collect);
    collect.into_iter().collect()
}

/// Does one step.
#[allow(clippy::unused_async, reason = "every kind of object performs alike")]
pub async fn perform(context: &Context, step: &Step) -> Result<(), Failure> {
    match step {
        Step::Collect => tree::collect(&context.store.inventory()?),
    }
}

/// What was wrong before a step.
pub fn sentence(step: &Step) -> String {
    match step {
        Step::Collect => "trees that no image and no container needs were left over".to_owned(),
    }
}

/// How an image is, and what deviates: a sentence each.
pub fn state(stored: &Stored<Image>, observation: &Observation) -> (ImageState, Vec<String>) {
    let name = &stored.desired.name;
    let Assigned {
        digest,
        os,
        size_bytes,
    } = stored.assigned.clone();
    let mut drift = Vec::new();
    if observation.images.has_tree.get(name) == Some(&false) {
        drift.push(format!(
            "the tree of the image {name} is missing: {}",
            tree::folder(&digest).display()
        ));
    }
    (
        ImageState {
            digest,
            os,
            size_bytes,
        },
        drift,
    )
}

impl Object for Image {
    /// The tree, unless it is there already, and what is known of it.
    type Prepared = (Option<Incoming>, Assigned);

    const KEPT_WHEN_CREATE_FAILS: bool = false;

    fn key(&self) -> ObjectKey {
        ObjectKey::Image(self.name.clone())
    }

    fn what(&self) -> String {
        format!("the image {:?}", self.name.as_str())
    }

    async fn prepare(
        &self,
        context: &Context,
        previous: Option<&Stored<Self>>,
        _secrets: &ContainerSecrets,
    ) -> Result<Self::Prepared, Failure> {
        if let Some(assigned) = known(context, self, previous)?
            && tree::folder(&assigned.digest).is_dir()
        {
            return Ok((None, assigned));
        }
        // There may be little room, and much that nobody needs.
        tree::clear_away(context).await;
        let (incoming, assigned) = build::build(context, self).await?;
        Ok((Some(incoming), assigned))
    }

    /// The tree of another image may have gone with it: one that is just renamed has one of the same content.
    fn is_prepared(&self, (incoming, assigned): &Self::Prepared) -> bool {
        incoming.is_some() || tree::folder(&assigned.digest).is_dir()
    }

    async fn admit(
        &self,
        _context: &Context,
        inventory: &Inventory,
        _previous: Option<&Stored<Self>>,
        (incoming, assigned): Self::Prepared,
    ) -> Result<Assigned, Failure> {
        if let Some(incoming) = incoming {
            incoming.put_in_place(&assigned.digest, inventory)?;
        }
        Ok(assigned)
    }

    async fn settle(context: &Context, _stored: &Stored<Self>) -> Result<(), Failure> {
        tree::clear_away(context).await;
        Ok(())
    }

    async fn remove(
        _context: &Context,
        _inventory: &Inventory,
        _stored: &Stored<Self>,
    ) -> Result<(), Failure> {
        // Containers keep the tree that they stand on; the name may go before them. The reconcile collects
        // what nothing needs any more.
        Ok(())
    }

    async fn clear_away(context: &Context, _stored: &Stored<Self>) -> Result<(), Failure> {
        tree::clear_away(context).await;
        Ok(())
    }
}

/// What is known of this image's tree without building it: from before, or from another image
/// with the same content.
fn known(
    context: &Context,
    image: &Image,
    previous: Option<&Stored<Image>>,
) -> Result<Option<Assigned>, Failure> {
    let same = |stored: &&Stored<Image>| {
        stored.desired.source == image.source
            && stored.desired.customize.as_deref().unwrap_or_default()
                == image.customize.as_deref().unwrap_or_default()
    };
    if let Some(previous) = previous.filter(same) {
        return Ok(Some(previous.assigned.clone()));
    }
    let Some(digest) = build::digest_known(image) else {
        return Ok(None);
    };
    let images = context.store.all::<Image>()?;
    let twin = images
        .into_values()
        .find(|stored| stored.assigned.digest == digest);
    Ok(twin.map(|twin| twin.assigned))
}
