//! `nspawn_container`: a unit, its settings, a root laid over a shared image, and what is inside.

mod assign;
mod copy;
mod inside;
mod listeners;
pub mod mac;
mod mount;
mod observe;
mod paths;
mod plan;
mod remove;
mod run;
mod secret;
mod settings;
mod started;
mod storage;
mod unit;
mod user_ids;

use std::path::{Path, PathBuf};

use protocol::{
    Failure, FailureKind,
    desired::{Container, ContainerSecrets, Host, ObjectKey},
    name::MachineName,
};
use serde::{Deserialize, Serialize};

use self::{inside::Found, paths::Paths, started::Started};
pub use self::{
    inside::{Deed, work as work_inside},
    observe::{Observed, observe, state},
    paths::{STATE_FOLDER, storages},
    plan::Step,
    remove::finish,
    storage::clear_after_nspawn,
};
use crate::{
    address,
    command::off_thread,
    context::Context,
    discarded,
    failure::Context as _,
    filter, guest, image,
    object::Object,
    reconcile::{Observation, Scope},
    store::{Inventory, Stored},
    system::{files, systemd::Systemd},
};

/// What the host chooses for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The host's user id that is root inside; 0 without private users.
    pub uid_base: u32,
    /// The tree that it stands on.
    pub image_digest: String,
}

/// What has to be done.
pub fn plan(inventory: &Inventory, observation: &Observation, scope: &Scope) -> Vec<Step> {
    plan::plan(inventory, &observation.containers, scope)
}

/// Does one step.
pub async fn perform(context: &Context, step: &Step) -> Result<(), Failure> {
    match step {
        Step::MakeFolder(name) => Paths::of(name).make_machine(),
        Step::WriteSettings(name, text) => settings::write(&Paths::of(name).settings(), text),
        Step::WriteDropIn(name, text) => {
            let paths = Paths::of(name);
            files::create_folder(&paths.drop_ins(), 0o755)?;
            files::write_own(&paths.drop_in(), text, 0o644)
        }
        Step::RefreshUnits(names) => {
            let units: Vec<_> = names.iter().map(|name| Paths::of(name).unit()).collect();
            Systemd::of_host(context).await?.refresh_units(&units).await
        }
        Step::SetAutostart(name, starts) => set_autostart(&Paths::of(name), *starts),
        Step::WriteGuestFiles(name) => inside::write(name).await,
        Step::TakeDown(name) => run::take_down(context, name).await,
        Step::ForgetPasswords(_) => secret::sweep(&context.store.inventory()?),
    }
}

/// What was wrong before a step.
pub fn sentence(step: &Step) -> String {
    match step {
        Step::MakeFolder(name) => {
            format!(
                "the folder {} is missing",
                Paths::of(name).machine().display()
            )
        }
        Step::WriteSettings(name, _) => wrong_file(&Paths::of(name).settings()),
        Step::WriteDropIn(name, _) => wrong_file(&Paths::of(name).drop_in()),
        Step::RefreshUnits(names) => {
            let units: Vec<_> = names.iter().map(|name| Paths::of(name).unit()).collect();
            format!("systemd holds former files of {}", units.join(", "))
        }
        Step::SetAutostart(name, true) => {
            format!("the container {name} does not start with the host")
        }
        Step::SetAutostart(name, false) => format!("the container {name} starts with the host"),
        Step::WriteGuestFiles(name) => format!("files in the guest {name} were changed"),
        Step::TakeDown(name) => {
            format!("the container {name} is stopped, and its root is mounted still")
        }
        Step::ForgetPasswords(name) => {
            format!("the hash of a former root password of {name} is kept still")
        }
    }
}

fn wrong_file(path: &Path) -> String {
    format!("the file {} is missing or was changed", path.display())
}

/// The files of a container to watch.
pub fn watched(name: &MachineName) -> [PathBuf; 4] {
    let paths = Paths::of(name);
    [
        paths.settings(),
        paths.drop_in(),
        paths.autostart(),
        paths.machine(),
    ]
}

/// The files of a container that are written, whatever becomes of them.
pub fn written(name: &MachineName) -> [PathBuf; 3] {
    let paths = Paths::of(name);
    [paths.settings(), paths.drop_in(), paths.started()]
}

fn set_autostart(paths: &Paths, starts: bool) -> Result<(), Failure> {
    let link = paths.autostart();
    files::remove_file(&link)?;
    if starts {
        if let Some(folder) = link.parent() {
            files::create_folder(folder, 0o755)?;
        }
        let template = Path::new("/usr/lib/systemd/system/systemd-nspawn@.service");
        files::make_link(template, &link).doing(|| format!("make the link {}", link.display()))?;
    }
    files::sync_parent(&link)
}

fn write_guest_files(stored: &Stored<Container>) -> Result<(), Failure> {
    let found = Found::look(stored.clone())?;
    let found = found.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound));
    let found = found.doing(|| format!("write the files of the guest {}", stored.desired.name))?;
    found.write()
}

fn give_host_keys(stored: &Stored<Container>, scratch: &Path) -> Result<(), Failure> {
    let (container, base) = (&stored.desired, stored.assigned.uid_base);
    let root = guest::root::GuestRoot::open(&Paths::of(&container.name).machine(), base);
    let made = root.and_then(|root| guest::host_keys::ensure(&root, &container.hostname, scratch));
    made.doing(|| format!("make SSH host keys for the guest {}", container.name))
}

/// Brings up what a container needs before its start; run by its own unit.
pub async fn prepare_start(context: &Context, name: &MachineName) -> Result<(), Failure> {
    let stored = known(context, name)?;
    forget_last_run(context, name).await?;
    address::write_guest_files(context, name).await?;
    filter::admit_port(context, name).await?;
    storage::bring_up(&stored)?;
    write_guest_files(&stored)?;
    let paths = Paths::of(name);
    Started::note(&paths, &stored.desired, has_settings(context, &stored)?)?;
    give_host_keys(&stored, &paths.scratch())
}

/// Brings the settings file up to date: a guest that reboots by itself may come between an update's record and that
/// file. On a disk that takes nothing the guest starts all the same, with settings of before.
fn has_settings(context: &Context, stored: &Stored<Container>) -> Result<bool, Failure> {
    let Some(host) = context.store.get::<Host>("host")? else {
        return Ok(true);
    };
    let text = settings::render(&stored.desired, &stored.assigned, &host.desired.bridge);
    let path = Paths::of(&stored.desired.name).settings();
    let written = settings::bring_up_to_date(&path, &text);
    if let Err(failure) = &written {
        eprintln!("the guest starts with settings of before: {failure}");
    }
    Ok(written.is_ok())
}

/// systemd-machined misses the end of a guest when the bus was restarted, or itself, at the wrong moment. It then
/// refuses the next start: "Machine already exists".
async fn forget_last_run(context: &Context, name: &MachineName) -> Result<(), Failure> {
    let record = files::read(&paths::machined_record(name))?;
    let record = String::from_utf8_lossy(record.as_deref().unwrap_or_default());
    let scope = format!("SCOPE={}", Paths::of(name).unit());
    if record.lines().any(|line| line == scope) {
        let systemd = Systemd::of_host(context).await?;
        systemd.unregister(name.as_str()).await?;
    }
    Ok(())
}

/// Drops what a container needed after its stop; run by its own unit.
#[allow(clippy::unused_async, reason = "the counterpart of prepare_start")]
pub async fn release_stopped(context: &Context, name: &MachineName) -> Result<(), Failure> {
    // systemd.exec(5), $SERVICE_RESULT
    let ended_well = std::env::var("SERVICE_RESULT").is_ok_and(|result| result == "success");
    Started::end(&Paths::of(name), ended_well)?;
    storage::take_down(&known(context, name)?.desired)
}

fn known(context: &Context, name: &MachineName) -> Result<Stored<Container>, Failure> {
    context
        .store
        .get::<Container>(name.as_str())?
        .ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                format!(
                    "nspawn-agent knows no container {name}: its file in /etc/nspawn-agent is gone"
                ),
            )
        })
}

/// Names in use that aren't ours.
pub fn foreign(_inventory: &Inventory, observed: &Observed) -> Vec<String> {
    observed.foreign.clone()
}

impl Object for Container {
    /// The new root password's hash.
    type Prepared = Option<String>;

    const KEPT_WHEN_CREATE_FAILS: bool = true;

    fn key(&self) -> ObjectKey {
        ObjectKey::Container(self.name.clone())
    }

    fn what(&self) -> String {
        format!("the container {:?}", self.name.as_str())
    }

    fn must_be_made_anew(&self, left: &Stored<Self>, inventory: &Inventory) -> bool {
        let image = inventory.images.get(&self.image);
        self.image != left.desired.image
            || self.storage != left.desired.storage
            || self.private_users != left.desired.private_users
            || image.is_some_and(|image| image.assigned.digest != left.assigned.image_digest)
    }

    async fn prepare(
        &self,
        _context: &Context,
        _previous: Option<&Stored<Self>>,
        secrets: &ContainerSecrets,
    ) -> Result<Self::Prepared, Failure> {
        settings::check(self)?;
        secrets.root_password.as_ref().map(secret::hash).transpose()
    }

    async fn admit(
        &self,
        context: &Context,
        inventory: &Inventory,
        previous: Option<&Stored<Self>>,
        prepared: Self::Prepared,
    ) -> Result<Assigned, Failure> {
        let assigned = if let Some(previous) = previous {
            // A container pins its digest; image, storage and users can't change under it.
            previous.assigned.clone()
        } else {
            remove::finish_of(context, &self.name).await?;
            let assigned = assign::assign(context, inventory, self).await?;
            storage::set_left_aside(&paths::storages(), &self.name)?;
            assigned
        };
        // A killed change may have kept one that no record asks for.
        secret::sweep(inventory)?;
        // It is sent only when it changes.
        if let Some(hash) = prepared {
            secret::keep(self, &hash)?;
        }
        Ok(assigned)
    }

    fn may_free_the_disk(&self) -> bool {
        !self.running
    }

    async fn settles_anyway(context: &Context, stored: &Stored<Self>) -> Result<bool, Failure> {
        run::ends_anyway(context, stored).await
    }

    async fn settle(context: &Context, stored: &Stored<Self>) -> Result<(), Failure> {
        run::settle(context, stored).await
    }

    fn admit_removal(&self) -> Result<(), Failure> {
        if !self.delete_protection {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::InUse,
            format!("the container {} is protected from deletion", self.name),
        )
        .help("Set delete_protection = false and apply, then destroy it.")
        .at("delete_protection"))
    }

    async fn end(context: &Context, stored: &Stored<Self>) -> Result<(), Failure> {
        let systemd = Systemd::of_host(context).await?;
        context.within(run::end(&systemd, &stored.desired)).await
    }

    async fn remove(
        context: &Context,
        _: &Inventory,
        stored: &Stored<Self>,
    ) -> Result<(), Failure> {
        let systemd = Systemd::of_host(context).await?;
        run::end(&systemd, &stored.desired).await?;
        context.store.begin_removal(&stored.desired.name)?;
        remove::finish_just_begun(context, stored).await
    }

    async fn finish_removal(context: &Context, name: &str) -> Result<(), Failure> {
        match name.parse() {
            Ok(name) => remove::finish_of(context, &name).await,
            Err(_) => Ok(()),
        }
    }

    async fn clear_away(context: &Context, stored: &Stored<Self>) -> Result<(), Failure> {
        let name = stored.desired.name.clone();
        let clear = off_thread(name.clone(), |name| discarded::clear_of(&name));
        let cleared = context.within(clear).await;
        // It may have been the last one on its tree.
        image::tree::clear_away(context).await;
        match cleared {
            Err(failure) if failure.kind == FailureKind::Timeout => {
                context.progress(format!("{name}: its files are still being removed"));
                Ok(())
            }
            cleared => cleared,
        }
    }
}

#[cfg(test)]
pub mod tests;
