//! Leaves nothing on a machine that is no host of ours.

use std::{path::Path, time::Duration};

use protocol::{Failure, FailureKind, desired::Host};

use super::{
    in_force,
    install::{self, FOLDER},
    pending,
};
use crate::{context::Context, image::tree, lock::HostLock, serve::session, system::files};

/// After the host's removal, a refresh or a create that failed. Whoever has the host's lock uses the machine, and leaves
/// it itself.
pub async fn if_nobody_uses_it(context: &Context) -> Result<(), Failure> {
    let is_left = !context.run_folder.exists() && !is_installed();
    if is_left || is_used(context)? {
        return Ok(());
    }
    match HostLock::take(&context.undisturbed(Duration::ZERO)).await {
        Ok(_lock) => if_unused(context),
        Err(failure) if failure.kind == FailureKind::Busy => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// The same with the host's lock, which is held by the caller, and goes with the rest.
pub fn if_unused(context: &Context) -> Result<(), Failure> {
    // Another run may have been building an image while the host was removed.
    if_unused_once(context, tree::clear_half_made)
}

fn if_unused_once(
    context: &Context,
    cleared: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    if is_used(context)? {
        return Ok(());
    }
    cleared()?;
    // That may take seconds, and somebody may have come meanwhile.
    if is_used(context)? {
        return Ok(());
    }
    files::remove_tree(&context.run_folder)?;
    in_force::forget(context)?;
    context.store.remove_if_empty()?;
    let mut left = vec![context.store.folder()];
    if is_installed() {
        files::remove_tree(Path::new(FOLDER))?;
        left.push(Path::new(FOLDER));
    }
    // A power cut must not bring them back: nobody would come to remove them again.
    left.iter()
        .filter_map(|folder| folder.parent())
        .try_for_each(files::sync_folder)
}

/// Whether the agent's own folder is there, and this program from it.
fn is_installed() -> bool {
    install::uploaded().is_some() && Path::new(FOLDER).exists()
}

fn is_used(context: &Context) -> Result<bool, Failure> {
    Ok(context.store.get::<Host>("host")?.is_some()
        || pending::read(context)?.is_some()
        || session::any_alive(&context.run_folder)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{serve::session::Session, testing};

    #[tokio::test(flavor = "current_thread")]
    async fn a_machine_is_not_left_that_somebody_came_to_meanwhile() {
        let top = tempfile::tempdir().unwrap();
        testing::within(Duration::from_secs(20), async |context| {
            let context = testing::in_folder(context, top.path());
            let id = "c".repeat(32).parse().unwrap();
            let mut came = None;
            let clear = || {
                came = Some(Session::open(&context.run_folder, &id)?);
                Ok(())
            };
            if_unused_once(&context, clear).unwrap();
            assert!(session::is_alive(&context.run_folder, &id));
            came.take().unwrap().close().unwrap();
            if_unused(&context).unwrap();
            assert!(!context.run_folder.exists());
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_machine_is_not_left_while_somebody_makes_it_a_host() {
        let top = tempfile::tempdir().unwrap();
        testing::within(Duration::from_secs(20), async |context| {
            let context = testing::in_folder(context, top.path());
            let another = HostLock::take(&context).await.unwrap();
            if_nobody_uses_it(&context).await.unwrap();
            assert!(context.run_folder.join("lock").exists());
            drop(another);
            if_nobody_uses_it(&context).await.unwrap();
            assert!(!context.run_folder.exists());
        })
        .await;
    }
}
