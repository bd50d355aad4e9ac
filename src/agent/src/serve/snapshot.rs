//! The whole host in one reply, and one object as the answer to its change. Reading heals nothing.

use std::time::Duration;

use protocol::{
    Failure, FailureKind,
    desired::ObjectKey,
    observed::{Object, Observed, Snapshot},
};

use tokio::time::{Instant, sleep};

use crate::{
    address, container,
    context::Context,
    given_up, host, image,
    reconcile::{Observation, Scope, observe, plan},
    store::{Inventory, Kept, Stored},
};

/// How long the resident service may take to mend something, such as the port of a guest that starts just now, on a
/// machine that is busy; and how long while it has given something up.
const MENDED_WITHIN: Duration = Duration::from_secs(5);
const HARDLY_MENDED: Duration = Duration::from_secs(1);

/// How often it is looked at meanwhile.
const INTERVAL: Duration = Duration::from_millis(100);

/// Looks at the host. What the resident service is about to mend is no drift.
async fn look(context: &Context) -> Result<(Inventory, Observation), Failure> {
    let begun = Instant::now();
    loop {
        let inventory = context.store.inventory()?;
        let observed = context
            .within(observe(context, &inventory, &Scope::All))
            .await?;
        let is_being_mended = observed.host.service == "active"
            && !plan(&inventory, &observed, &Scope::All).is_empty();
        let patience = if given_up::read(context)?.is_empty() {
            MENDED_WITHIN
        } else {
            HARDLY_MENDED
        };
        if !is_being_mended || begun.elapsed() >= patience {
            return Ok((inventory, observed));
        }
        sleep(INTERVAL).await;
    }
}

/// The whole host.
pub async fn snapshot(context: &Context) -> Result<Snapshot, Failure> {
    let (inventory, mut observed) = look(context).await?;
    host::in_force::pass_over_differences(context, &mut observed)?;
    let host = match &inventory.host {
        Some(stored) => {
            let (state, drift) = host::state(context, stored, &inventory, &observed).await?;
            let mut told = told(stored, state, drift);
            // What isn't confirmed goes back by itself. Told as what is, it would keep the next apply, after one
            // that was killed, from making and confirming it.
            if let Some(former) = host::pending::read(context)?.and_then(|pending| pending.former) {
                told.desired = former.desired;
            }
            Some(told)
        }
        None => None,
    };
    Ok(Snapshot {
        host,
        images: inventory
            .images
            .iter()
            .map(|(name, stored)| {
                let (state, drift) = image::state(stored, &observed);
                (name.clone(), told(stored, state, drift))
            })
            .collect(),
        containers: inventory
            .containers
            .iter()
            .map(|(name, stored)| {
                let (state, drift) = container::state(stored, &observed);
                (name.clone(), told(stored, state, drift))
            })
            .collect(),
        addresses: inventory
            .addresses
            .iter()
            .map(|(name, stored)| {
                let (state, drift) = address::state(stored, &inventory, &observed);
                (name.clone(), told(stored, state, drift))
            })
            .collect(),
        foreign_machines: container::foreign(&inventory, &observed.containers),
        facts: observed.facts,
    })
}

fn told<D: Kept, S>(stored: &Stored<D>, state: S, drift: Vec<String>) -> Observed<D, S> {
    Observed {
        desired: stored.desired.clone(),
        owner: stored.owner.clone(),
        state,
        drift,
    }
}

/// One object, as it is now.
pub async fn object(context: &Context, key: &ObjectKey) -> Result<Object, Failure> {
    let inventory = context.store.inventory()?;
    let scope = Scope::from(key.clone());
    let observed = observe(context, &inventory, &scope).await?;
    of(context, key, &inventory, observed)
        .await?
        .ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                "the object was removed while it was being changed",
            )
        })
}

async fn of(
    context: &Context,
    key: &ObjectKey,
    inventory: &Inventory,
    observed: Observation,
) -> Result<Option<Object>, Failure> {
    Ok(match key {
        ObjectKey::Host => match &inventory.host {
            Some(stored) => {
                let (state, drift) = host::state(context, stored, inventory, &observed).await?;
                let told = told(stored, state, drift);
                Some(Object::Host(Box::new(observed.facts), told))
            }
            None => None,
        },
        ObjectKey::Image(name) => inventory.images.get(name).map(|stored| {
            let (state, drift) = image::state(stored, &observed);
            Object::Image(told(stored, state, drift))
        }),
        ObjectKey::Container(name) => inventory.containers.get(name).map(|stored| {
            let (state, drift) = container::state(stored, &observed);
            Object::Container(Box::new(told(stored, state, drift)))
        }),
        ObjectKey::Address(name) => inventory.addresses.get(name).map(|stored| {
            let (state, drift) = address::state(stored, inventory, &observed);
            Object::Address(told(stored, state, drift))
        }),
    })
}
