//! A change of one object: who may, is it possible, write the desired file, reconcile, look.

use std::time::Duration;

use protocol::{
    Failure, FailureKind,
    desired::{Address, Container, ContainerSecrets, Host, Image, ObjectKey},
    message::{Answer, Intent},
    name::{OwnerToken, SessionId},
    observed::Owner,
};

use super::{session, snapshot};
use crate::{
    context::Context,
    lock::HostLock,
    object::Object,
    ownership::{self, Asking, Existing, Permit},
    reconcile::{Scope, reconcile},
    store::Stored,
};

/// How long the answer to a change may take to be gathered when the change's own time is up.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// What a put brings beside the object.
pub struct Asked {
    /// The owner.
    pub token: OwnerToken,
    /// Whether it must be new.
    pub intent: Intent,
    /// For a container.
    pub secrets: ContainerSecrets,
}

/// Makes or changes one object.
pub async fn put<O: Object>(
    context: &Context,
    desired: O,
    asked: Asked,
) -> Result<Answer, Failure> {
    let name = desired.name();
    let previous = context.store.get::<O>(&name)?;
    permit(context, &desired, previous.as_ref(), &asked)?;
    require_host(context, &desired)?;
    let prepared = desired
        .prepare(context, previous.as_ref(), &asked.secrets)
        .await?;
    let (stored, is_new, made) = {
        let _lock = HostLock::take(context).await?;
        // It may have changed hands while this waited.
        let previous = context.store.get::<O>(&name)?;
        let permit = permit(context, &desired, previous.as_ref(), &asked)?;
        let previous = match previous {
            Some(left)
                if permit == Permit::Adopt
                    && desired.must_be_made_anew(&left, &context.store.inventory()?) =>
            {
                context.progress(format!(
                    "{} was left by a run that was killed and is made anew",
                    desired.what()
                ));
                remove_locked(context, &left).await?;
                None
            }
            previous => previous,
        };
        let inventory = context.store.inventory()?;
        let assigned = desired
            .admit(context, &inventory, previous.as_ref(), prepared)
            .await?;
        let stored = Stored {
            owner: owner(previous.as_ref(), &asked),
            session: session_of(context)?,
            desired,
            assigned,
        };
        context.store.put(&stored)?;
        let scope = Scope::from(stored.desired.key());
        (stored, previous.is_none(), reconcile(context, &scope).await)
    };
    let made = match made {
        Ok(_) => settle(context, &stored).await,
        Err(failure) => Err(failure),
    };
    let context = context.within_time(ANSWER_TIME);
    if let (Err(failure), true, false) = (&made, is_new, O::KEPT_WHEN_CREATE_FAILS) {
        take_back(&context, &stored).await?;
        return Err(failure.clone());
    }
    Ok(Answer::Changed {
        object: Box::new(snapshot::object(&context, &stored.desired.key()).await?),
        failure: made.err(),
    })
}

async fn settle<O: Object>(context: &Context, stored: &Stored<O>) -> Result<(), Failure> {
    O::settle(context, stored).await?;
    // A guest that has booted has a network now: one without networkd gets its addresses here.
    if let scope @ Scope::Container(_) = Scope::from(stored.desired.key()) {
        let _lock = HostLock::take(context).await?;
        reconcile(context, &scope).await?;
    }
    Ok(())
}

fn session_of(context: &Context) -> Result<SessionId, Failure> {
    context
        .session
        .clone()
        .ok_or_else(|| Failure::new(FailureKind::Protocol, "no session"))
}

fn permit<O: Object>(
    context: &Context,
    desired: &O,
    previous: Option<&Stored<O>>,
    asked: &Asked,
) -> Result<Permit, Failure> {
    let existing = previous.map(|stored| Existing {
        owner: &stored.owner,
        session: &stored.session,
        session_alive: session::is_alive(&context.run_folder, &stored.session),
    });
    let asking = Asking {
        token: &asked.token,
        session: &session_of(context)?,
    };
    ownership::put(&desired.what(), asked.intent, existing, asking)
}

/// An update keeps what is known of the owner; a create, also one that adopts, is unclaimed yet.
fn owner<O: Object>(previous: Option<&Stored<O>>, asked: &Asked) -> Owner {
    match previous {
        Some(stored) if stored.owner.token == asked.token => stored.owner.clone(),
        _ => Owner {
            token: asked.token.clone(),
            claimed: false,
        },
    }
}

fn require_host<O: Object>(context: &Context, desired: &O) -> Result<(), Failure> {
    if desired.key() == ObjectKey::Host || context.store.get::<Host>("host")?.is_some() {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::NotFound,
        format!(
            "this host has no nspawn_host resource yet, which {} needs",
            desired.what()
        ),
    )
    .help("Create nspawn_host for this machine first and refer to it: host = nspawn_host.example")
    .at("host"))
}

/// Undoes a create that failed, for kinds of which nothing half-made may remain.
async fn take_back<O: Object>(context: &Context, stored: &Stored<O>) -> Result<(), Failure> {
    let _lock = HostLock::take(context).await?;
    remove_locked(context, stored).await
}

async fn remove_locked<O: Object>(context: &Context, stored: &Stored<O>) -> Result<(), Failure> {
    let inventory = context.store.inventory()?;
    O::remove(context, &inventory, stored).await?;
    context.store.remove::<O>(&stored.desired.name())?;
    O::removed(context, stored).await?;
    // Routes, proxies and filter elements of ours that nothing asks for any more go with it.
    reconcile(context, &Scope::from(stored.desired.key())).await?;
    context.store.remove_if_empty()
}

/// Removes one object; well also when it is gone already.
pub async fn remove(
    context: &Context,
    key: ObjectKey,
    token: &OwnerToken,
) -> Result<Answer, Failure> {
    let _lock = HostLock::take(context).await?;
    match key {
        ObjectKey::Host => remove_one::<Host>(context, "host", token).await,
        ObjectKey::Image(name) => remove_one::<Image>(context, name.as_str(), token).await,
        ObjectKey::Container(name) => remove_one::<Container>(context, name.as_str(), token).await,
        ObjectKey::Address(name) => remove_one::<Address>(context, &name, token).await,
    }
}

async fn remove_one<O: Object>(
    context: &Context,
    name: &str,
    token: &OwnerToken,
) -> Result<Answer, Failure> {
    if let Some(stored) = context.store.get::<O>(name)? {
        ownership::remove(&stored.desired.what(), &stored.owner, token)?;
        remove_locked(context, &stored).await?;
    }
    Ok(Answer::Removed)
}

/// Notes that a state holds these tokens.
pub async fn claim(
    context: &Context,
    objects: &[(ObjectKey, OwnerToken)],
) -> Result<Answer, Failure> {
    let _lock = HostLock::take(context).await?;
    for (key, token) in objects {
        let claimed = Owner {
            token: token.clone(),
            claimed: true,
        };
        set_owner(context, key, &claimed, |owner| owner.token == *token)?;
    }
    Ok(Answer::Noted)
}

/// Gives an object a new owner, who holds it in a state from now on.
pub async fn take_over(
    context: &Context,
    key: &ObjectKey,
    token: OwnerToken,
) -> Result<Answer, Failure> {
    let _lock = HostLock::take(context).await?;
    let owner = Owner {
        token,
        claimed: true,
    };
    if set_owner(context, key, &owner, |_| true)? {
        Ok(Answer::TakenOver { owner })
    } else {
        Err(Failure::new(
            FailureKind::NotFound,
            "nothing of that name is on this host, or nspawn-agent didn't make it",
        ))
    }
}

fn set_owner(
    context: &Context,
    key: &ObjectKey,
    owner: &Owner,
    when: impl Fn(&Owner) -> bool,
) -> Result<bool, Failure> {
    match key {
        ObjectKey::Host => set_owner_of::<Host>(context, "host", owner, when),
        ObjectKey::Image(name) => set_owner_of::<Image>(context, name.as_str(), owner, when),
        ObjectKey::Container(name) => {
            set_owner_of::<Container>(context, name.as_str(), owner, when)
        }
        ObjectKey::Address(name) => set_owner_of::<Address>(context, name, owner, when),
    }
}

fn set_owner_of<O: Object>(
    context: &Context,
    name: &str,
    owner: &Owner,
    when: impl Fn(&Owner) -> bool,
) -> Result<bool, Failure> {
    let Some(mut stored) = context.store.get::<O>(name)? else {
        return Ok(false);
    };
    if !when(&stored.owner) {
        return Ok(false);
    }
    if stored.owner != *owner {
        stored.owner = owner.clone();
        context.store.put(&stored)?;
    }
    Ok(true)
}
