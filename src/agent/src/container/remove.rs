//! The removal of a container: begun, it is brought to its end by whoever comes next.

use std::path::Path;

use protocol::{Failure, desired::Container};

use super::{paths::Paths, run, secret, storage};
use crate::{
    command::off_thread,
    context::Context,
    store::{Inventory, Stored},
    system::{files, systemd::Systemd},
};

/// Brings the removals to their end that were begun and cut off. The host's lock is held by the caller.
pub async fn finish(context: &Context) -> Result<(), Failure> {
    let removals = context.store.removals()?;
    if removals.is_empty() {
        return context.store.end_removals();
    }
    let inventory = context.store.inventory()?;
    let systemd = Systemd::of_host(context).await?;
    for stored in removals {
        let name = &stored.desired.name;
        // It never went, or has been made anew.
        if inventory.containers.contains_key(name) {
            context.store.end_removal(name)?;
            continue;
        }
        eprintln!("the container {name} is being removed: a run that was cut off has begun it");
        // Its link may have been there when the host booted.
        let job = systemd.stop(&Paths::of(name).unit()).await?;
        job.end(run::CLEAR_UP).await?;
        run::end(&systemd, &stored.desired).await?;
        finish_one(context, &inventory, &stored).await?;
    }
    Ok(())
}

/// Removes all that was made for a container that is stopped, and then its record.
pub(super) async fn finish_one(
    context: &Context,
    inventory: &Inventory,
    stored: &Stored<Container>,
) -> Result<(), Failure> {
    let container = &stored.desired;
    let paths = Paths::of(&container.name);
    // What starts it first. None of it may come back with a power cut that finds the record gone.
    for file in [paths.autostart(), paths.drop_in(), paths.settings()] {
        files::remove_for_good(&file)?;
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
    secret::forget(&container.name, None)?;
    secret::sweep(inventory)?;
    let systemd = Systemd::of_host(context).await?;
    systemd.forget_unit(&paths.unit()).await?;
    context.store.end_removal(&container.name)
}
