//! The removal of a container: begun, it is brought to its end by whoever comes next.

use std::path::Path;

use protocol::{Failure, desired::Container, name::MachineName};

use super::{paths::Paths, run, secret, storage};
use crate::{
    command::off_thread,
    context::Context,
    store::Stored,
    system::{files, systemd::Systemd},
};

/// Brings the removals to their end that were begun and cut off. One that can't be ended keeps no other from it; the first
/// failure is the answer. The host's lock is held by the caller.
pub async fn finish(context: &Context) -> Result<(), Failure> {
    let mut finished = Ok(());
    for stored in context.store.removals()? {
        let ended = finish_begun(context, &stored).await;
        finished = finished.and(ended);
    }
    finished
}

/// The same of one container, where its removal was begun.
pub async fn finish_of(context: &Context, name: &MachineName) -> Result<(), Failure> {
    match context.store.being_removed(name)? {
        Some(stored) => finish_begun(context, &stored).await,
        None => Ok(()),
    }
}

async fn finish_begun(context: &Context, stored: &Stored<Container>) -> Result<(), Failure> {
    let name = &stored.desired.name;
    if context.store.get::<Container>(name.as_str())?.is_some() {
        // It has been made anew.
        return context.store.end_removal(name);
    }
    let end = async {
        let systemd = Systemd::of_host(context).await?;
        // Its link may have been there when the host booted.
        let job = systemd.stop(&Paths::of(name).unit()).await?;
        job.end(run::CLEAR_UP).await?;
        run::end(&systemd, &stored.desired).await?;
        finish_one(context, stored).await
    };
    end.await.map_err(|failure| unfinished(name, failure))
}

/// The same, once its removal was begun.
pub(super) async fn finish_just_begun(
    context: &Context,
    stored: &Stored<Container>,
) -> Result<(), Failure> {
    let finished = finish_one(context, stored).await;
    finished.map_err(|failure| unfinished(&stored.desired.name, failure))
}

fn unfinished(name: &MachineName, failure: Failure) -> Failure {
    let message = format!(
        "the container {name} is being removed, and that can't be brought to its end: {failure}"
    );
    Failure { message, ..failure }.help(
        "Clear what hinders it away: the host tries again by itself, and with the next apply or destroy of that name.",
    )
}

/// Removes all that was made for a container that is stopped, and then its record.
async fn finish_one(context: &Context, stored: &Stored<Container>) -> Result<(), Failure> {
    let container = &stored.desired;
    let paths = Paths::of(&container.name);
    // What starts it first. None of it may come back with a power cut that finds the record gone.
    // Somebody else's in their place stays.
    let autostart = paths.autostart();
    if autostart.is_symlink() {
        files::remove_file(&autostart)?;
    }
    files::sync_parent(&autostart)?;
    for file in [paths.drop_in(), paths.settings()] {
        files::remove_own_for_good(&file)?;
    }
    files::remove_empty_folder(&paths.drop_ins())?;
    for shared in [
        "/etc/systemd/system/machines.target.wants",
        "/etc/systemd/nspawn",
    ] {
        files::remove_empty_folder(Path::new(shared))?;
    }
    files::sync_folder(Path::new("/etc/systemd/system"))?;
    off_thread(container.clone(), |container| storage::remove(&container)).await?;
    files::remove_file(&paths.started())?;
    files::remove_tree(&paths.scratch())?;
    secret::sweep(&context.store.inventory()?)?;
    let systemd = Systemd::of_host(context).await?;
    systemd.forget_unit(&paths.unit()).await?;
    context.store.end_removal(&container.name)
}
