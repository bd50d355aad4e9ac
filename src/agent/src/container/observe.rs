//! How containers are, and what deviates.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use futures_util::{StreamExt as _, stream};
use protocol::{
    Failure,
    desired::Container,
    name::MachineName,
    observed::{ContainerState, Status},
};

use super::{
    inside::{self, Inside},
    mac, mount,
    paths::{Paths, machined_record},
    secret, settings,
    started::Started,
    storage, unit,
};
use crate::{
    context::Context,
    filter::port,
    guest,
    image::tree,
    reconcile::{Observation, Scope},
    store::{Inventory, Stored},
    system::{
        files::{self, OwnFile},
        netlink::mac_text,
        systemd::{self, INSTANCE_OF, Systemd, UnitState},
    },
};

/// How many guests are asked at once: each takes five descriptors, and under sshd a process may have 1024.
const ASKED_AT_ONCE: usize = 32;

/// Every container of ours, and the names of the others.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Ours, as far as they are looked after.
    pub machines: BTreeMap<MachineName, Machine>,
    /// The host's process ids of all running guests' inits.
    pub leaders: BTreeMap<MachineName, u32>,
    /// Names in use that aren't ours.
    pub foreign: Vec<String>,
}

impl Observed {
    /// The host's process id of a running guest's init.
    pub fn leader(&self, name: &MachineName) -> Option<u32> {
        self.leaders.get(name).copied()
    }
}

/// One container.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a finding of its own"
)]
#[derive(Debug, Clone)]
pub struct Machine {
    /// Whether the folder under /var/lib/machines is there.
    pub has_folder: bool,
    /// The systemd.nspawn(5) file.
    pub settings: OwnFile,
    /// The unit's drop-in.
    pub drop_in: OwnFile,
    /// Whether systemd holds older files of the unit, where it was asked.
    pub is_outdated: bool,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// The unit.
    pub unit: UnitState,
    /// Whether somebody keeps systemd from starting it.
    pub is_masked: bool,
    /// Whether it fails, and is started again.
    pub keeps_failing: bool,
    /// Whether the host's end of its link is there.
    pub has_port: bool,
    /// Whether its root is mounted.
    pub is_mounted: bool,
    /// Whether that is, or what lies beneath.
    pub has_mounts: bool,
    /// What the guest's service manager says of itself, where it was asked.
    pub system_state: Option<String>,
    /// The files inside a running guest, where they were looked at.
    pub inside: Inside,
    /// Whether the image's tree is gone, which its next start needs.
    pub lacks_tree: bool,
    /// Whether the files that its mounted root stands on were removed.
    pub has_lost_root: bool,
    /// Whether it was started with the settings that it should have, as far as that is known.
    pub runs_as_it_should: bool,
    /// Whether hashes of other root passwords than its own are kept.
    pub has_other_passwords: bool,
}

/// Looks at the containers.
pub async fn observe(
    context: &Context,
    inventory: &Inventory,
    scope: &Scope,
) -> Result<Observed, Failure> {
    let systemd = Systemd::of_host(context).await?;
    let units = systemd.units(&format!("{INSTANCE_OF}*.service")).await?;
    let passwords = secret::Kept::look()?;
    let mut observed = Observed::default();
    for (name, stored) in &inventory.containers {
        let unit = units.get(&Paths::of(name).unit()).cloned();
        let unit = unit.unwrap_or_else(UnitState::not_loaded);
        if unit.is_up()
            && let Some(leader) = leader(name)?
        {
            observed.leaders.insert(name.clone(), leader);
        }
        // On a full host, looking at every file of every container would make each change slow.
        if scope.has_container(name) {
            let mut machine = look_at(inventory, stored, unit, &passwords)?;
            // A change that was killed may have written them, and no more.
            if *scope == Scope::Container(name.clone()) {
                machine.is_outdated = systemd.is_outdated(&Paths::of(name).unit()).await?;
            }
            observed.machines.insert(name.clone(), machine);
        }
    }
    // The resident service heals the host, and has no use for what is inside guests.
    if context.session.is_some() {
        ask_guests(inventory, &mut observed).await;
        look_into_guests(inventory, &mut observed).await?;
    }
    if matches!(scope, Scope::All | Scope::Container(_)) {
        observed.foreign = foreign_names(&systemd, inventory).await?;
    }
    Ok(observed)
}

/// The host's process id of a running guest's init, from where sd-login(3) has it, too: asking
/// systemd-machined takes two calls for each guest.
pub(super) fn leader(name: &MachineName) -> Result<Option<u32>, Failure> {
    let text = files::read(&machined_record(name))?;
    Ok(text.and_then(|text| parse_leader(&String::from_utf8_lossy(&text))))
}

fn parse_leader(text: &str) -> Option<u32> {
    let value = text.lines().find_map(|line| line.strip_prefix("LEADER="))?;
    value.parse().ok().filter(|leader| *leader > 1)
}

/// The guests that are to go on running: what is inside the others doesn't matter any more.
fn staying<'a>(
    inventory: &'a Inventory,
    machines: impl IntoIterator<Item = (&'a MachineName, &'a mut Machine)>,
) -> impl Iterator<Item = (&'a Stored<Container>, &'a mut Machine)> {
    let machines = machines.into_iter();
    let known =
        machines.filter_map(|(name, machine)| Some((inventory.containers.get(name)?, machine)));
    known.filter(|(stored, machine)| stored.desired.running && machine.unit.is_up())
}

async fn ask_guests(inventory: &Inventory, observed: &mut Observed) {
    let leaders = &observed.leaders;
    let asked = staying(inventory, &mut observed.machines);
    let asked =
        asked.filter_map(|(stored, machine)| Some((leaders.get(&stored.desired.name)?, machine)));
    stream::iter(asked)
        .for_each_concurrent(ASKED_AT_ONCE, async |(leader, machine)| {
            machine.system_state = guest::bus::system_state(*leader).await;
        })
        .await;
}

async fn look_into_guests(inventory: &Inventory, observed: &mut Observed) -> Result<(), Failure> {
    let mounted =
        staying(inventory, &mut observed.machines).filter(|(_, machine)| machine.is_mounted);
    let names = mounted.map(|(stored, _)| stored.desired.name.clone());
    for (name, inside) in inside::look(names.collect()).await? {
        if let Some(machine) = observed.machines.get_mut(&name) {
            machine.inside = inside;
        }
    }
    Ok(())
}

fn look_at(
    inventory: &Inventory,
    stored: &Stored<Container>,
    unit: UnitState,
    passwords: &secret::Kept,
) -> Result<Machine, Failure> {
    let (container, assigned) = (&stored.desired, &stored.assigned);
    let paths = Paths::of(&container.name);
    let settings = match &inventory.host {
        Some(host) => {
            let text = settings::render(container, assigned, &host.desired.bridge);
            files::compare(&paths.settings(), &text)?
        }
        None => OwnFile::Same,
    };
    let started = Started::read(&paths)?;
    let is_mounted = mount::is_mounted(&paths.machine());
    Ok(Machine {
        has_folder: paths.machine().is_dir(),
        settings,
        drop_in: files::compare(&paths.drop_in(), &unit::render(container))?,
        is_outdated: false,
        autostart: fs::symlink_metadata(paths.autostart()).is_ok(),
        // Between two tries, and in the next one until it is up.
        keeps_failing: unit.awaits_restart() || (unit.is_starting() && started.is_after_failure()),
        unit,
        is_masked: systemd::is_masked(&paths.unit()),
        has_port: port::exists(&container.name),
        is_mounted,
        has_mounts: is_mounted || mount::is_mounted(&paths.lower()),
        system_state: None,
        inside: Inside::Changed(Vec::new()),
        lacks_tree: storage::needs_tree(container, &paths.copy())
            && !tree::folder(&assigned.image_digest).is_dir(),
        has_lost_root: storage::has_lost_root(&paths),
        runs_as_it_should: started.is_as_it_should(container),
        has_other_passwords: passwords.has_others(container),
    })
}

/// Names in /var/lib/machines, /etc/systemd/nspawn or machined's list that aren't ours.
async fn foreign_names(systemd: &Systemd, inventory: &Inventory) -> Result<Vec<String>, Failure> {
    let mut names: BTreeSet<String> = systemd.machine_names().await?.into_iter().collect();
    names.extend(entries("/var/lib/machines", ".raw")?);
    names.extend(entries("/etc/systemd/nspawn", ".nspawn")?);
    for name in inventory.containers.keys() {
        names.remove(name.as_str());
    }
    // What of ours has outlived its record is in nobody's way.
    names.retain(|name| !is_left_over(name));
    Ok(names.into_iter().collect())
}

/// Whether nothing is there of a machine but settings that are ours.
fn is_left_over(name: &str) -> bool {
    let settings = Path::new("/etc/systemd/nspawn").join(format!("{name}.nspawn"));
    let is_ours =
        || files::read(&settings).is_ok_and(|text| text.is_some_and(|text| files::is_ours(&text)));
    let is_there = |path: String| fs::symlink_metadata(path).is_ok();
    is_ours()
        && !is_there(format!("/var/lib/machines/{name}"))
        && !is_there(format!("/var/lib/machines/{name}.raw"))
        && !is_there(format!("/run/systemd/machines/{name}"))
}

fn entries(folder: &str, suffix: &str) -> Result<Vec<String>, Failure> {
    let names = files::names(Path::new(folder))?.into_iter();
    // Hidden ones are systemd's own lock files and downloads.
    let shown = names.filter(|name| !name.starts_with('.'));
    Ok(shown
        .map(|name| name.strip_suffix(suffix).unwrap_or(&name).to_owned())
        .collect())
}

/// How a container is, and what deviates: a sentence each.
pub fn state(
    stored: &Stored<Container>,
    observation: &Observation,
) -> (ContainerState, Vec<String>) {
    let machine = observation.containers.machines.get(&stored.desired.name);
    let machine_id = mac::parse_machine_id(&observation.facts.machine_id).unwrap_or_default();
    let mac = mac::mac_address(machine_id, stored.desired.name.as_str());
    let state = ContainerState {
        status: machine.map_or(Status::Stopped, |machine| status(&stored.desired, machine)),
        image_digest: stored.assigned.image_digest.clone(),
        mac_address: mac_text(&mac),
        uid_base: stored.assigned.uid_base,
    };
    let mut drift = machine
        .map(|machine| drift(&stored.desired, machine))
        .unwrap_or_default();
    if has_lost_link(stored, observation, mac) {
        drift.push(format!(
            "host0 is gone inside the container {}, or has another name or MAC address, so that nothing reaches the \
             container; the next apply restarts it",
            stored.desired.name
        ));
    }
    (state, drift)
}

fn has_lost_link(stored: &Stored<Container>, observation: &Observation, mac: [u8; 6]) -> bool {
    let name = &stored.desired.name;
    let is_ready = |machine: &Machine| machine.unit.is_ready() && machine.has_port;
    stored.desired.running
        && observation
            .containers
            .machines
            .get(name)
            .is_some_and(is_ready)
        && observation
            .guests
            .get(name)
            .is_some_and(|guest| guest.has_lost_link(mac))
}

fn status(container: &Container, machine: &Machine) -> Status {
    match &machine.unit {
        // What should be down is not settled before it is.
        unit if !container.running && unit.is_up() => Status::Running,
        unit if machine.keeps_failing || unit.is_failed() => Status::Failed,
        unit if !unit.is_up() || unit.is_clearing_up() => Status::Stopped,
        _ if machine.system_state.as_deref() == Some("degraded") => Status::Degraded,
        _ => Status::Running,
    }
}

fn drift(container: &Container, machine: &Machine) -> Vec<String> {
    let paths = Paths::of(&container.name);
    let mut drift = Vec::new();
    for (path, file) in [
        (paths.settings(), machine.settings),
        (paths.drop_in(), machine.drop_in),
    ] {
        let path = path.display();
        match file {
            OwnFile::Same => {}
            OwnFile::Differs => drift.push(format!("the file {path} was changed")),
            OwnFile::Missing => drift.push(format!("the file {path} is missing")),
            OwnFile::Foreign => {
                drift.push(format!("the file {path} was replaced by somebody else's"));
            }
        }
    }
    let name = &container.name;
    if machine.autostart != container.autostart {
        let deviates = if container.autostart {
            "does not start"
        } else {
            "starts"
        };
        drift.push(format!("the container {name} {deviates} with the host"));
    }
    if machine.is_masked {
        let unit = paths.unit();
        drift.push(format!(
            "{unit} is masked by somebody, so that it doesn't start; undo that on the host: systemctl unmask {unit}"
        ));
    }
    if machine.lacks_tree {
        drift.push(format!("the image's tree that {name} stands on is missing"));
    }
    if container.running && machine.unit.is_up() && machine.has_lost_root {
        drift.push(format!(
            "the files that the container {name} stands on were removed; the next apply restarts it"
        ));
    }
    if container.running && machine.unit.is_up() && !machine.runs_as_it_should {
        drift.push(format!(
            "the container {name} runs with settings of before its last change; the next apply restarts it"
        ));
    }
    if container.running && machine.unit.is_ready() && !machine.has_port {
        drift.push(format!(
            "the interface {} of the container {name} is gone, and its network with it; the next apply restarts it",
            port::name(name)
        ));
    }
    let unit_is = || format!("{} is {}", paths.unit(), machine.unit.active);
    match (container.running, machine.unit.is_up()) {
        (true, true) if machine.keeps_failing => {
            drift.push(format!("{} fails, and is started again", paths.unit()));
        }
        (true, false) => drift.push(unit_is()),
        (_, true) if machine.unit.is_stopping() => drift.push(unit_is()),
        (false, true) => drift.push(format!("{} is running", paths.unit())),
        (true, true) if !machine.is_mounted => {
            drift.push(format!(
                "the mount at {} is missing",
                paths.machine().display()
            ));
        }
        _ => {}
    }
    drift.extend(machine.inside.sentences(name));
    drift
}

#[cfg(test)]
mod tests;
