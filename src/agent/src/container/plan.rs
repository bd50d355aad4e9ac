//! What has to be done for containers: pure functions of what is wanted and what is seen.

use std::collections::BTreeSet;

use protocol::{
    desired::{Container, Host},
    name::MachineName,
};

use super::{
    observe::{Machine, Observed},
    settings,
    started::Started,
    unit,
};
use crate::{
    reconcile::Scope,
    store::{Inventory, Stored},
    system::{files::OwnFile, systemd::UnitState},
};

/// One step, as data.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Makes the folder that systemd-nspawn finds the root at.
    MakeFolder(MachineName),
    /// Writes the systemd.nspawn(5) file.
    WriteSettings(MachineName, String),
    /// Writes the unit's drop-in.
    WriteDropIn(MachineName, String),
    /// Makes systemd read these units' files again; running guests' limits follow at once.
    RefreshUnits(Vec<MachineName>),
    /// Makes or removes the link that starts it with the host.
    SetAutostart(MachineName, bool),
    /// Writes the files that Terraform owns into a running guest.
    WriteGuestFiles(MachineName),
    /// Takes the root of a stopped container away, which its own unit does when it isn't killed.
    TakeDown(MachineName),
    /// Forgets the hashes of its root passwords that are asked for no more.
    ForgetPasswords(MachineName),
}

/// What is done to a unit after its files are right, and without the host's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Nothing.
    Leave,
    /// Start it.
    Start,
    /// It runs with settings of before.
    Restart,
    /// Stop it.
    Stop,
}

/// What has to be done, in order.
pub fn plan(inventory: &Inventory, observed: &Observed, scope: &Scope) -> Vec<Step> {
    let Some(host) = &inventory.host else {
        return Vec::new();
    };
    let containers = inventory
        .containers
        .iter()
        .filter(|(name, _)| scope.has_container(name));
    let planned = containers.filter_map(|(name, stored)| {
        let machine = observed.machines.get(name)?;
        Some(plan_one(stored, &host.desired, machine, scope))
    });
    let mut steps: Vec<Step> = planned.flatten().collect();
    let outdated = outdated(&steps, observed);
    if !outdated.is_empty() {
        // Before anything is done in guests, which may take long.
        let at = steps
            .iter()
            .position(|step| matches!(step, Step::WriteGuestFiles(_)));
        steps.insert(at.unwrap_or(steps.len()), Step::RefreshUnits(outdated));
    }
    steps
}

/// The units that systemd holds former files of once these steps are done. It reads all of them again at once, which
/// takes long on a full host.
fn outdated(steps: &[Step], observed: &Observed) -> Vec<MachineName> {
    let written = steps.iter().filter_map(|step| match step {
        Step::WriteDropIn(name, _) => Some(name),
        _ => None,
    });
    let outdated = observed.machines.iter();
    let outdated = outdated.filter(|(_, machine)| machine.is_outdated);
    let names: BTreeSet<_> = written.chain(outdated.map(|(name, _)| name)).collect();
    names.into_iter().cloned().collect()
}

fn plan_one(
    stored: &Stored<Container>,
    host: &Host,
    machine: &Machine,
    scope: &Scope,
) -> Vec<Step> {
    let container = &stored.desired;
    let name = || container.name.clone();
    // A restore leaves foreign files and the guest's inside alone: both are said in drift, and
    // mended by the next change of this container.
    let is_change = *scope == Scope::Container(name());
    let wrong = |file| match file {
        OwnFile::Same => false,
        OwnFile::Foreign => is_change,
        OwnFile::Differs | OwnFile::Missing => true,
    };
    let mut steps = Vec::new();
    if machine.has_mounts && !machine.unit.is_up() {
        steps.push(Step::TakeDown(name()));
    }
    if !machine.has_folder {
        steps.push(Step::MakeFolder(name()));
    }
    if wrong(machine.settings) {
        let text = settings::render(container, &stored.assigned, &host.bridge);
        steps.push(Step::WriteSettings(name(), text));
    }
    if wrong(machine.drop_in) {
        steps.push(Step::WriteDropIn(name(), unit::render(container)));
    }
    if machine.autostart != container.autostart {
        steps.push(Step::SetAutostart(name(), container.autostart));
    }
    // A guest that is to stop may refuse its files, and needs them no more.
    let stays = container.running && machine.unit.is_up();
    if is_change && stays && !machine.inside.is_well() {
        steps.push(Step::WriteGuestFiles(name()));
    }
    if machine.has_other_passwords {
        steps.push(Step::ForgetPasswords(name()));
    }
    steps
}

/// What a change does to the unit; a link or root that is gone comes back with a start only.
pub fn run(container: &Container, unit: &UnitState, started: &Started, is_whole: bool) -> Run {
    let changed = unit.is_ready() && !is_whole || !started.is_as_it_should(container);
    match (container.running, unit.is_up()) {
        (true, false) => Run::Start,
        (true, true) if unit.is_stopping() || unit.awaits_restart() => Run::Start,
        (true, true) if changed => Run::Restart,
        (false, true) => Run::Stop,
        _ => Run::Leave,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::container::{
        inside::Inside,
        tests::{container, host, machine, stored},
    };

    fn up() -> UnitState {
        UnitState {
            active: "active".to_owned(),
            sub: "running".to_owned(),
        }
    }

    fn down() -> UnitState {
        UnitState {
            active: "inactive".to_owned(),
            sub: "dead".to_owned(),
        }
    }

    fn steps(change: impl FnOnce(&mut Machine), scope: &Scope) -> Vec<&'static str> {
        steps_of(container("web"), change, scope)
    }

    fn steps_of(
        container: Container,
        change: impl FnOnce(&mut Machine),
        scope: &Scope,
    ) -> Vec<&'static str> {
        let mut machine = machine();
        change(&mut machine);
        let inventory = Inventory {
            host: Some(host()),
            containers: BTreeMap::from([("web".parse().unwrap(), stored(container))]),
            ..Inventory::default()
        };
        let observed = Observed {
            machines: BTreeMap::from([("web".parse().unwrap(), machine)]),
            ..Observed::default()
        };
        let planned = plan(&inventory, &observed, scope);
        planned
            .iter()
            .map(|step| match step {
                Step::MakeFolder(_) => "folder",
                Step::WriteSettings(..) => "settings",
                Step::WriteDropIn(..) => "drop-in",
                Step::RefreshUnits(_) => "refresh",
                Step::SetAutostart(_, true) => "enable",
                Step::SetAutostart(_, false) => "disable",
                Step::WriteGuestFiles(_) => "guest",
                Step::TakeDown(_) => "take down",
                Step::ForgetPasswords(_) => "passwords",
            })
            .collect()
    }

    #[test]
    fn each_deviation_has_its_step() {
        let own = Scope::Container("web".parse().unwrap());
        assert_eq!(steps(|_| (), &Scope::All), [""; 0]);
        let missing = |machine: &mut Machine| {
            machine.has_folder = false;
            machine.settings = OwnFile::Missing;
            machine.drop_in = OwnFile::Missing;
            machine.autostart = false;
            machine.unit = down();
            machine.has_mounts = false;
        };
        assert_eq!(
            steps(missing, &own),
            ["folder", "settings", "drop-in", "enable", "refresh"]
        );
        assert_eq!(
            steps(missing, &Scope::All),
            ["folder", "settings", "drop-in", "enable", "refresh"]
        );
        let killed = |machine: &mut Machine| {
            machine.unit = down();
            machine.has_mounts = true;
        };
        assert_eq!(steps(killed, &Scope::All), ["take down"]);
        let outdated = |machine: &mut Machine| machine.is_outdated = true;
        assert_eq!(steps(outdated, &own), ["refresh"]);
        let former = |machine: &mut Machine| machine.has_other_passwords = true;
        assert_eq!(steps(former, &Scope::All), ["passwords"]);
        assert_eq!(steps(former, &own), ["passwords"]);
        assert_eq!(
            steps(missing, &Scope::Container("db".parse().unwrap())),
            [""; 0]
        );
        assert_eq!(steps(missing, &Scope::Host), [""; 0]);
    }

    #[test]
    fn systemd_reads_units_again_once_all_of_them_are_written() {
        let names = ["db", "mail", "web"].map(|name| name.parse::<MachineName>().unwrap());
        let inventory = Inventory {
            host: Some(host()),
            containers: names
                .each_ref()
                .map(|name| (name.clone(), stored(container(name.as_str()))))
                .into(),
            ..Inventory::default()
        };
        let lacking = |drop_in| Machine {
            drop_in,
            ..machine()
        };
        let machines = [OwnFile::Missing, OwnFile::Same, OwnFile::Differs].map(lacking);
        let observed = Observed {
            machines: names.clone().into_iter().zip(machines).collect(),
            ..Observed::default()
        };
        let text = unit::render(&container("web"));
        let [db, mail, web] = names;
        let written = [&db, &web].map(|name| Step::WriteDropIn(name.clone(), text.clone()));
        let refreshed = Step::RefreshUnits(vec![db, web.clone()]);
        let steps = plan(&inventory, &observed, &Scope::All);
        assert_eq!(steps, [&written[..], &[refreshed]].concat());
        assert_eq!(plan(&inventory, &observed, &Scope::Container(mail)), []);
    }

    #[test]
    fn a_restore_leaves_what_only_a_change_may_touch() {
        let own = Scope::Container("web".parse().unwrap());
        let foreign = |machine: &mut Machine| machine.settings = OwnFile::Foreign;
        assert_eq!(steps(foreign, &Scope::All), [""; 0]);
        assert_eq!(steps(foreign, &own), ["settings"]);
        let changed = || Inside::Changed(vec!["etc/hostname".to_owned()]);
        let inside = |machine: &mut Machine| machine.inside = changed();
        assert_eq!(steps(inside, &Scope::All), [""; 0]);
        assert_eq!(steps(inside, &own), ["guest"]);
        let hangs = |machine: &mut Machine| machine.inside = Inside::Hangs;
        assert_eq!(steps(hangs, &own), ["guest"], "its error says so");
        let to_stop = Container {
            running: false,
            ..container("web")
        };
        assert_eq!(steps_of(to_stop, inside, &own), [""; 0], "it is to stop");
        let stopped = |machine: &mut Machine| {
            machine.unit = down();
            machine.has_mounts = false;
            machine.inside = changed();
        };
        assert_eq!(steps(stopped, &own), [""; 0], "a start applies them anyway");
    }

    #[test]
    fn runs() {
        let desired = container("web");
        let (with, unknown) = (Started::with(&desired), Started::default());
        let failed = UnitState {
            active: "failed".to_owned(),
            sub: "failed".to_owned(),
        };
        let stopping = UnitState {
            active: "deactivating".to_owned(),
            sub: "stop-sigterm".to_owned(),
        };
        let crashed = UnitState {
            active: "activating".to_owned(),
            sub: "auto-restart".to_owned(),
        };
        let stopped = Container {
            running: false,
            ..desired.clone()
        };
        let renamed = Container {
            hostname: "www".parse().unwrap(),
            ..desired.clone()
        };
        let ephemeral = Container {
            ephemeral: true,
            ..desired.clone()
        };
        let live = Container {
            cpus: Some(1.0),
            autostart: false,
            ..desired.clone()
        };
        for (container, unit, started, run_action) in [
            (&desired, &down(), &unknown, Run::Start),
            (&desired, &failed, &with, Run::Start),
            (&desired, &up(), &with, Run::Leave),
            (&desired, &stopping, &with, Run::Start),
            (&desired, &crashed, &with, Run::Start),
            (&stopped, &crashed, &unknown, Run::Stop),
            (&stopped, &stopping, &unknown, Run::Stop),
            (&desired, &up(), &unknown, Run::Leave),
            (&renamed, &up(), &with, Run::Restart),
            (&ephemeral, &up(), &with, Run::Restart),
            (&live, &up(), &with, Run::Leave),
            (&stopped, &up(), &with, Run::Stop),
            (&stopped, &down(), &unknown, Run::Leave),
            (&stopped, &failed, &unknown, Run::Leave),
        ] {
            assert_eq!(
                run(container, unit, started, true),
                run_action,
                "{container:?} {unit:?}"
            );
        }
        assert_eq!(run(&desired, &up(), &with, false), Run::Restart);
        assert_eq!(run(&desired, &crashed, &with, false), Run::Start);
        assert_eq!(run(&stopped, &up(), &with, false), Run::Stop);
    }
}
