//! Undoes a change of the host that nobody has confirmed in time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::{Failure, FailureKind, desired::Host, name::SessionId, observed::RolledBack};
use serde::{Deserialize, Serialize};

use super::{
    admit, clear, clear_but_service, install,
    pending::{self, Pending},
    way_in::Restored,
};
use crate::{
    context::Context,
    lock,
    reconcile::{Scope, reconcile},
    serve::session,
    store::Stored,
};

const RECORD: &str = "rolled-back.json";

/// How long going back may take.
const TIME: Duration = Duration::from_mins(2);

/// For how long it is told, to whoever doesn't try again.
const TOLD: u64 = 7 * 24 * 60 * 60;

/// The last change, when it was undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    /// Who had asked for it.
    session: Option<SessionId>,
    told: RolledBack,
}

/// The last change, when it was undone, and is worth telling still.
pub fn last(context: &Context) -> Result<Option<RolledBack>, Failure> {
    let record = context.store.get_beside::<Record>(RECORD)?;
    Ok(record
        .map(|record| record.told)
        .filter(|told| now().saturating_sub(told.at) < TOLD))
}

/// Another change begins.
pub fn forget(context: &Context) -> Result<(), Failure> {
    context.store.remove_beside(RECORD)
}

/// Refuses a request that its provider sends once more after the change was undone: it would cut off
/// the operator again.
pub fn refuse_repetition(context: &Context) -> Result<(), Failure> {
    match context.store.get_beside::<Record>(RECORD)? {
        Some(record) if record.session.is_some() && record.session == context.session => {
            Err(Failure::new(
                FailureKind::Timeout,
                format!("the change was undone: {}", record.told.reason),
            ))
        }
        _ => Ok(()),
    }
}

/// Goes back to the last confirmed state when the time of an unconfirmed change is up. The host's
/// lock is held by the caller. Tells what of the way in is still missing, and will be tried again.
pub async fn if_due(context: &Context) -> Result<Vec<String>, Failure> {
    let Some(pending) = pending::read(context)? else {
        return Ok(Vec::new());
    };
    if pending.former.is_some() && matches!(context.store.get::<Host>("host"), Ok(None)) {
        // Destroyed since, by an agent that was killed before it took note: who makes the host anew owns it.
        pending::disarm(context)?;
        return Ok(Vec::new());
    }
    let is_resident = context.session.is_none();
    if pending.left()?.is_some() || (!is_resident && pending.is_left_to_resident()) {
        return Ok(Vec::new());
    }
    // Whoever finds it due may have been told to stop.
    let context = &context.undisturbed(TIME);
    if !pending.is_undone() {
        eprintln!("the last change of nspawn_host was not confirmed: going back");
        // Whoever made it must not go on with it.
        if let Some(id) = &pending.session {
            lock::end_processes(&session::path(&context.run_folder, id))?;
        }
    }
    let Restored { put_back, missing } = if pending.is_of_another_boot()? {
        Restored::default()
    } else {
        // First of all, for this is what the operator waits for.
        pending.way_in.restore(context).await
    };
    let again = !missing.is_empty() && pending.may_try_again(is_resident);
    match &pending.former {
        Some(former) => go_back(context, former, &pending, put_back, again).await?,
        None => remove_unconfirmed(context, &pending, again).await?,
    }
    if again && pending::read(context)?.is_some() {
        return Ok(missing);
    }
    if !missing.is_empty() {
        eprintln!(
            "gave up putting back how this host was reached before the change: {}",
            missing.join("; ")
        );
    }
    Ok(Vec::new())
}

/// What is left undone from here on is done by the next look at the host.
fn done(context: &Context, pending: &Pending, again: bool) -> Result<(), Failure> {
    // On a full disk it can't be counted, and is given up.
    if again && pending::try_again(context, pending).is_ok() {
        return Ok(());
    }
    pending::disarm(context)
}

/// What was put back now and by earlier tries.
fn all_put_back(
    context: &Context,
    pending: &Pending,
    mut now: Vec<String>,
) -> Result<Vec<String>, Failure> {
    if !pending.is_undone() {
        return Ok(now);
    }
    let earlier = context.store.get_beside::<Record>(RECORD)?;
    let mut all = earlier.map_or_else(Vec::new, |record| record.told.put_back);
    now.retain(|line| !all.contains(line));
    all.append(&mut now);
    Ok(all)
}

async fn go_back(
    context: &Context,
    former: &Stored<Host>,
    pending: &Pending,
    put_back: Vec<String>,
    again: bool,
) -> Result<(), Failure> {
    // Half of it may be there when an earlier try met a full disk, and then a power cut.
    let current = context.store.get::<Host>("host").unwrap_or_default();
    let changes = pending
        .asked
        .as_ref()
        .map(|asked| changes(&former.desired, asked))
        .unwrap_or_default();
    let record = Record {
        session: pending.session.clone(),
        told: RolledBack {
            at: now(),
            reason: reason(pending)?,
            changes,
            put_back: all_put_back(context, pending, put_back)?,
        },
    };
    // Going back matters more than telling of it: the disk may be full.
    if let Err(failure) = context.store.put_beside(RECORD, &record) {
        eprintln!("the next run can't be told what was undone: {failure}");
    }
    // Whose it is doesn't go back: a state may have taken it over or claimed it since.
    let owner = current.map_or_else(|| former.owner.clone(), |current| current.owner);
    context.store.put_even_when_full(&Stored {
        owner,
        ..former.clone()
    })?;
    done(context, pending, again)?;
    reconcile(context, &Scope::All).await
}

fn reason(pending: &Pending) -> Result<String, Failure> {
    Ok(if pending.is_of_another_boot()? {
        "the host was rebooted before it was confirmed".to_owned()
    } else {
        match &pending.asked {
            Some(asked) => format!("it was not confirmed within {}", asked.rollback_after),
            None => "it was not confirmed in time".to_owned(),
        }
    })
}

/// A host that was never confirmed is no host; but what stands on it already is not pulled away.
async fn remove_unconfirmed(
    context: &Context,
    pending: &Pending,
    again: bool,
) -> Result<(), Failure> {
    let inventory = context.store.inventory()?;
    if admit::check_unused(&inventory).is_err() {
        eprintln!("nspawn_host was not confirmed, but containers or addresses stand on it: kept");
        return done(context, pending, again);
    }
    eprintln!("nspawn_host was not confirmed: removing what was made for it");
    let is_resident = context.session.is_none();
    match &inventory.host {
        Some(stored) if is_resident => clear_but_service(context, stored).await?,
        Some(stored) => clear(context, stored).await?,
        // It was cut off before anything was made but the service.
        None => {
            if !is_resident {
                install::stop_service(context).await?;
            }
            install::remove_service(context).await?;
        }
    }
    context.store.remove::<Host>("host")?;
    done(context, pending, again)?;
    context.store.remove_if_empty()
}

/// What a change would have made of the former state, in the words of the configuration.
fn changes(former: &Host, asked: &Host) -> Vec<String> {
    let uplink = |host: &Host| {
        host.uplink
            .as_ref()
            .map_or_else(|| "the default route's".to_owned(), ToString::to_string)
    };
    [
        (
            "bridge",
            former.bridge.to_string(),
            asked.bridge.to_string(),
        ),
        ("uplink", uplink(former), uplink(asked)),
        (
            "isolation",
            former.isolation.to_string(),
            asked.isolation.to_string(),
        ),
        (
            "nesting",
            former.nesting.to_string(),
            asked.nesting.to_string(),
        ),
    ]
    .into_iter()
    .filter(|(_, before, after)| before != after)
    .map(|(name, before, after)| format!("{name} {before} -> {after}"))
    .collect()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_change_is_told_in_the_words_of_the_configuration() {
        let former = testing::inventory(&[], &[]).host.unwrap().desired;
        let asked = Host {
            isolation: false,
            uplink: Some("eth1".parse().unwrap()),
            install_packages: false,
            ..former.clone()
        };
        assert_eq!(
            changes(&former, &asked),
            [
                "uplink the default route's -> eth1",
                "isolation true -> false"
            ]
        );
    }
}
