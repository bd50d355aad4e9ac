//! A change of one object: who may, is it possible, write the desired file, reconcile, look.

use std::{
    fs::File,
    time::{Duration, SystemTime},
};

use protocol::{
    Failure, FailureKind,
    desired::{Address, Container, ContainerSecrets, Host, Image, ObjectKey},
    message::{Answer, Intent},
    name::{OwnerToken, SessionId},
    observed::{Holder, Owner},
};
use tokio::time::{Instant, sleep};

use super::{session, snapshot};
use crate::{
    container,
    context::Context,
    given_up,
    host::{in_force, install, rollback},
    lock::HostLock,
    object::Object,
    ownership::{self, Asking, Existing, Permit},
    reconcile::{Scope, reconcile},
    store::Stored,
};

/// How often it is looked whether another session has ended or was heard.
const LISTENING: Duration = Duration::from_millis(100);

/// How long it may take to take back a create that failed and to gather the answer, when the change's own time is up.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// How long the resident service may take to become the agent that a change has put in force.
const TAKE_OVER_TIME: Duration = Duration::from_mins(1);

/// What a put brings beside the object.
pub struct Asked {
    /// The owner.
    pub token: OwnerToken,
    /// Whether it must be new.
    pub intent: Intent,
    /// For a container.
    pub secrets: ContainerSecrets,
}

/// A change as it is once the lock is let go.
struct Begun<O: Object> {
    stored: Stored<O>,
    /// Its file, as it was written.
    record: File,
    is_new: bool,
    /// Whether this agent was put in force with it.
    takes_over: bool,
    made: Result<(), Failure>,
}

/// Makes or changes one object.
pub async fn put<O: Object>(
    context: &Context,
    desired: O,
    asked: Asked,
) -> Result<Answer, Failure> {
    let previous = permitted(context, &desired, &asked).await?;
    require_host(context, &desired)?;
    in_force::admit(context, &desired.key())?;
    let begun = loop {
        let prepared = desired
            .prepare(context, previous.as_ref(), &asked.secrets)
            .await?;
        if let Some(begun) = begin(context, desired.clone(), &asked, prepared).await? {
            break begun;
        }
    };
    let Begun {
        stored,
        record,
        is_new,
        takes_over,
        made,
    } = begun;
    let may_go = is_new && !O::KEPT_WHEN_CREATE_FAILS;
    let is_to_go = may_go && made.is_ok();
    let made = match made {
        Ok(()) => settle(context, &stored).await,
        // Whether it can be looked at doesn't matter: the first failure is the answer.
        Err(failure)
            if context.check().is_ok()
                && O::settles_anyway(context, &stored).await.unwrap_or(false) =>
        {
            settle(context, &stored).await.map_err(|_| failure)
        }
        Err(failure) => Err(failure),
    };
    // A host that was taken back has no service any more.
    let made = if takes_over && matches!(in_force::of_host(context), Ok(Some(_))) {
        // A change of the host that went well has told the service already.
        let told = stored.desired.key() == ObjectKey::Host && made.is_ok();
        let context = context.within_time(TAKE_OVER_TIME);
        made.and(in_force::take_over(&context, told).await)
    } else {
        made
    };
    // Also of a change that was stopped: what it made is taken back, or told.
    let context = context.undisturbed(ANSWER_TIME);
    let failure = match made {
        Err(failure) if is_to_go => Some(take_back(&context, &stored, &record, failure).await),
        made => made.err(),
    };
    match failure {
        Some(failure) if may_go && !is_still_there(&context, &stored, &record).unwrap_or(true) => {
            Err(failure)
        }
        // What stays has to be known to the state.
        failure => Ok(Answer::Changed {
            object: Box::new(snapshot::object(&context, &stored.desired.key()).await?),
            failure,
        }),
    }
}

/// All of a change that needs the lock; none when it has to be prepared anew. A create that fails here is taken back
/// before anybody else can build on it.
async fn begin<O: Object>(
    context: &Context,
    desired: O,
    asked: &Asked,
    prepared: O::Prepared,
) -> Result<Option<Begun<O>>, Failure> {
    let _lock = take_turn(context).await?;
    if !desired.is_prepared(&prepared) {
        return Ok(None);
    }
    // It may have changed hands while this waited, and the host may be gone or another agent's.
    let takes_over = in_force::admit(context, &desired.key())?;
    require_host(context, &desired)?;
    let previous = what_stays(context, &desired, asked).await?;
    let inventory = context.store.inventory()?;
    let assigned = desired
        .admit(context, &inventory, previous.as_ref(), prepared)
        .await?;
    install::switch(context)?;
    let stored = Stored {
        owner: owner(context, previous.as_ref(), asked),
        session: session_of(context)?,
        desired,
        assigned,
    };
    given_up::forget(context)?;
    let is_new = previous.is_none();
    if !is_new && stored.desired.may_free_the_disk() {
        context.store.put_even_when_full(&stored)?;
    } else {
        context.store.put(&stored)?;
    }
    let record = context.store.open::<O>(&stored.desired.name())?;
    let made = match reconcile(context, &Scope::from(stored.desired.key())).await {
        Err(failure) if is_new && !O::KEPT_WHEN_CREATE_FAILS => {
            let context = context.undisturbed(ANSWER_TIME);
            Err(take_back_locked(&context, &stored, failure).await)
        }
        made => made,
    };
    Ok(Some(Begun {
        stored,
        record,
        is_new,
        takes_over,
        made,
    }))
}

/// What is there and becomes what is asked for; what can't is removed.
async fn what_stays<O: Object>(
    context: &Context,
    desired: &O,
    asked: &Asked,
) -> Result<Option<Stored<O>>, Failure> {
    let previous = context.store.get::<O>(&desired.name())?;
    let permit = permit(context, desired, previous.as_ref(), asked)?;
    match previous {
        Some(left)
            if permit == Permit::Adopt
                && desired.must_be_made_anew(&left, &context.store.inventory()?) =>
        {
            context.progress(format!(
                "{} was left by a run that was killed and is made anew",
                desired.what()
            ));
            remove_locked(context, &left).await?;
            Ok(None)
        }
        previous => Ok(previous),
    }
}

/// Takes the host's lock, unless an agent of a later release has taken over by then; what should have been
/// undone is undone first.
pub(super) async fn take_turn(context: &Context) -> Result<HostLock, Failure> {
    let lock = HostLock::take(context).await?;
    in_force::refuse_newer(context)?;
    rollback::if_due(context).await?;
    // Where it fails, it is tried again by the next one, and keeps nobody but the host's own removal from going on.
    if let Err(failure) = container::finish(context).await {
        eprintln!("nspawn-agent: {failure}");
    }
    Ok(lock)
}

async fn settle<O: Object>(context: &Context, stored: &Stored<O>) -> Result<(), Failure> {
    O::settle(context, stored).await?;
    // A guest that has booted has a network now: one without networkd gets its addresses here.
    if let scope @ Scope::Container(_) = Scope::from(stored.desired.key()) {
        let _lock = take_turn(context).await?;
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

/// What is there, once it is known that the asker may put it. A session that looks connected while
/// its line is frozen ends by itself before long; one that is heard meanwhile is another run's.
async fn permitted<O: Object>(
    context: &Context,
    desired: &O,
    asked: &Asked,
) -> Result<Option<Stored<O>>, Failure> {
    let (name, begun) = (desired.name(), SystemTime::now());
    loop {
        let previous = context.store.get::<O>(&name)?;
        let Err(failure) = permit(context, desired, previous.as_ref(), asked) else {
            return Ok(previous);
        };
        let heard = previous.as_ref().is_some_and(|stored| {
            session::was_heard_since(&context.run_folder, &stored.session, begun)
        });
        if failure.kind != FailureKind::Busy || heard || Instant::now() >= context.deadline {
            return Err(failure);
        }
        context.check()?;
        sleep(LISTENING).await;
    }
}

/// An update keeps what is known of the owner; a create, also one that adopts, is unclaimed yet.
fn owner<O: Object>(context: &Context, previous: Option<&Stored<O>>, asked: &Asked) -> Owner {
    match previous {
        Some(stored) if stored.owner.token == asked.token => stored.owner.clone(),
        _ => Owner {
            token: asked.token.clone(),
            claimed: false,
            holder: Some(holder(context)),
        },
    }
}

/// Who asks, as of now.
pub(super) fn holder(context: &Context) -> Holder {
    Holder {
        name: context.holder.clone(),
        since: ownership::now(),
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

/// Undoes a create that failed, for kinds of which nothing half-made may remain; gives the failure to tell. The lock
/// was let go since: who adopted it meanwhile, or made it anew, keeps it.
async fn take_back<O: Object>(
    context: &Context,
    stored: &Stored<O>,
    record: &File,
    failure: Failure,
) -> Failure {
    let turn = async {
        let lock = take_turn(context).await?;
        Ok::<_, Failure>(is_still_there(context, stored, record)?.then_some(lock))
    };
    match turn.await {
        Ok(Some(_lock)) => take_back_locked(context, stored, failure).await,
        Ok(None) => failure,
        Err(left) => left_behind(failure, &left),
    }
}

async fn take_back_locked<O: Object>(
    context: &Context,
    stored: &Stored<O>,
    failure: Failure,
) -> Failure {
    match remove_locked(context, stored).await {
        Ok(()) => failure,
        Err(left) => left_behind(failure, &left),
    }
}

/// Whether what was made is there, and nobody has put it since: the same request, sent again over a new connection, has the
/// same token and session, and is to find it there.
fn is_still_there<O: Object>(
    context: &Context,
    stored: &Stored<O>,
    record: &File,
) -> Result<bool, Failure> {
    context.store.is_record::<O>(&stored.desired.name(), record)
}

fn left_behind(mut failure: Failure, left: &Failure) -> Failure {
    failure.message = format!("{failure}; and what was made could not be removed: {left}");
    failure
}

async fn remove_locked<O: Object>(context: &Context, stored: &Stored<O>) -> Result<(), Failure> {
    let inventory = context.store.inventory()?;
    O::remove(context, &inventory, stored).await?;
    context.store.remove::<O>(&stored.desired.name())?;
    O::removed(context, stored).await?;
    // Routes, proxies, filter elements and trees of ours that nothing asks for any more go with it.
    reconcile(context, &Scope::from(stored.desired.key())).await?;
    context.store.remove_if_empty()
}

/// Removes one object; well also when it is gone already.
pub async fn remove(
    context: &Context,
    key: ObjectKey,
    token: &OwnerToken,
) -> Result<Answer, Failure> {
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
    let removable = || {
        let stored = context.store.get::<O>(name)?;
        if let Some(stored) = &stored {
            ownership::remove(&stored.desired.what(), &stored.owner, token)?;
            stored.desired.admit_removal()?;
        }
        Ok::<_, Failure>(stored)
    };
    in_force::refuse_newer(context)?;
    if let Some(stored) = removable()? {
        O::end(context, &stored).await?;
    }
    let removed = {
        let _lock = take_turn(context).await?;
        let stored = removable()?;
        match &stored {
            Some(stored) => remove_locked(context, stored).await?,
            None => O::finish_removal(context, name).await?,
        }
        stored
    };
    if let Some(stored) = removed {
        O::clear_away(context, &stored).await?;
    }
    Ok(Answer::Removed)
}

#[cfg(test)]
mod tests;
