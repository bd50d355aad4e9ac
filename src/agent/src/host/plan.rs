//! What the host itself needs: pure.

use ipnet::IpNet;
use protocol::desired::Host;

use super::{Assigned, BRIDGE_ADDRESS, OwnedFile, Step, bridge, install, sysctls};
use crate::{
    reconcile::{Observation, Scope},
    store::{Inventory, Stored},
    system::{
        files::{HEADER, OwnFile},
        netlink::{NewBridge, SwitchFlags},
    },
};

/// Where networkd looks for files of the administrator.
pub const NETWORKD_FOLDER: &str = "/etc/systemd/network";
/// modules-load.d(5)
pub const MODULES_FILE: &str = "/etc/modules-load.d/nspawn-agent.conf";

/// Read by dbus-daemon(1) as soon as it changes.
const BUS_FILE: &str = "/etc/dbus-1/system.d/nspawn-agent.conf";
/// Each systemd-nspawn has a connection of root's, of which the bus lets in 256: with some more guests
/// than that, "Failed to register machine: No buffer space available".
const BUS_LIMIT: &str = "<!-- Written by nspawn-agent for terraform-provider-nspawn; changes are overwritten. -->
<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">
<busconfig>
  <limit name=\"max_connections_per_user\">8192</limit>
  <limit name=\"max_completed_connections\">16384</limit>
</busconfig>
";

const NESTING_MODULES: &[&str] = &["overlay", "br_netfilter", "nf_conntrack", "ip_tables"];

/// The modules that this host should have loaded.
pub fn modules(host: &Host) -> &'static [&'static str] {
    if host.nesting { NESTING_MODULES } else { &[] }
}

/// The files that this host should have.
pub fn files(host: &Host, assigned: &Assigned, wishes: &sysctls::Wishes) -> Vec<OwnedFile> {
    let mut files = vec![
        OwnedFile {
            path: sysctls::FILE.to_owned(),
            contents: sysctls::file(wishes, assigned.brought_bridge_filter),
        },
        // networkd drops foreign addresses and routes of links that it manages. systemd#25451
        OwnedFile {
            path: format!("{NETWORKD_FOLDER}/00-nspawn-agent-{}.network", host.bridge),
            contents: format!(
                "{HEADER}[Match]\nName={}\n\n[Link]\nUnmanaged=yes\n",
                host.bridge
            ),
        },
        OwnedFile {
            path: BUS_FILE.to_owned(),
            contents: BUS_LIMIT.to_owned(),
        },
        OwnedFile {
            path: install::UNIT_PATH.to_owned(),
            contents: install::unit(),
        },
    ];
    if host.nesting {
        files.push(OwnedFile {
            path: MODULES_FILE.to_owned(),
            contents: format!("{HEADER}{}\n", NESTING_MODULES.join("\n")),
        });
    }
    files
}

/// What has to be done for the host itself.
pub fn plan(inventory: &Inventory, observed: &Observation, scope: &Scope) -> Vec<Step> {
    let Some(stored) = &inventory.host else {
        return Vec::new();
    };
    let mut steps = Vec::new();
    if scope.has_host() {
        // Before what is in them, which others could change again.
        let open = observed.host.open_folders.iter().cloned();
        steps.extend(open.map(|(path, mode)| Step::CloseFolder(path, mode)));
    }
    // An address on an uplink of its own needs that uplink's sysctls.
    if scope.has_host() || matches!(scope, Scope::Address(_)) {
        steps.extend(sysctl_steps(observed));
    }
    if !scope.has_host() {
        return steps;
    }
    steps.extend(
        observed
            .host
            .missing_modules
            .iter()
            .cloned()
            .map(Step::LoadModule),
    );
    let others = wrong_files(observed).filter(|file| file.path != sysctls::FILE);
    steps.extend(others.cloned().map(Step::WriteFile));
    steps.extend(
        observed
            .host
            .superfluous_files
            .iter()
            .cloned()
            .map(Step::RemoveFile),
    );
    let unit_is_written = steps
        .iter()
        .any(|step| matches!(step, Step::WriteFile(file) if file.path == install::UNIT_PATH));
    // Writing the unit enables it.
    if observed.host.is_disabled && !unit_is_written {
        steps.push(Step::Enable);
    }
    if observed.host.is_without_program {
        steps.push(Step::PutBackProgram);
    }
    steps.extend(bridge_steps(stored, observed));
    steps.extend(second_bridges(stored, inventory, observed));
    steps
}

/// Beside the one that has the host's name, another is left over: it was renamed, and this one made in its place. One
/// that others use by now stays; the drift says so.
fn second_bridges(
    stored: &Stored<Host>,
    inventory: &Inventory,
    observed: &Observation,
) -> Vec<Step> {
    let network = &observed.network;
    if bridge::of_host(stored, network, &observed.facts.machine_id).is_none() {
        return Vec::new();
    }
    bridge::others_of_ours(stored, network)
        .filter(|link| {
            bridge::foreign_ports(inventory, network, link.index)
                .next()
                .is_none()
        })
        .map(|link| Step::RemoveBridge {
            index: link.index,
            name: link.name.clone(),
        })
        .collect()
}

/// Our files that don't hold what they should.
fn wrong_files(observed: &Observation) -> impl Iterator<Item = &OwnedFile> {
    let files = observed.host.files.iter();
    files
        .filter(|(_, found)| *found != OwnFile::Same)
        .map(|(file, _)| file)
}

/// What a boot finds in the file is always among the settings of which the former values are known: it comes after those
/// are kept, and before they are forgotten.
fn sysctl_steps(observed: &Observation) -> Vec<Step> {
    let host = &observed.host;
    let mut steps = Vec::new();
    // Before a switch changes others along with it.
    if !host.unnoted_sysctls.is_empty() {
        steps.push(Step::NoteSysctls(host.unnoted_sysctls.clone()));
    }
    let wrong = host.wishes.iter().filter(|(key, wanted)| {
        let value = host.sysctls.get(key);
        value.is_some_and(|value| !wanted.holds(value))
    });
    steps.extend(wrong.map(|(key, wanted)| Step::SetSysctl(key.clone(), wanted.value())));
    let file = wrong_files(observed).filter(|file| file.path == sysctls::FILE);
    steps.extend(file.cloned().map(Step::WriteFile));
    if host.superfluous_sysctls {
        steps.push(Step::RestoreSysctls(host.wishes.clone()));
    }
    steps
}

fn bridge_steps(stored: &Stored<Host>, observed: &Observation) -> Vec<Step> {
    let (host, uplink) = (&stored.desired, super::uplink(stored));
    let (network, machine_id) = (&observed.network, observed.facts.machine_id.as_str());
    let mtu = network.link(uplink).map(|link| link.mtu);
    let mac = bridge::mac(machine_id, host.bridge.as_str());
    let Some(link) = network.link(host.bridge.as_str()) else {
        // With its ports and routes.
        if let Some(renamed) = bridge::others_of_ours(stored, network).next() {
            return vec![Step::RenameBridge {
                index: renamed.index,
                from: renamed.name.clone(),
                to: host.bridge.to_string(),
            }];
        }
        return vec![Step::MakeBridge(NewBridge {
            name: host.bridge.to_string(),
            alias: bridge::ALIAS.to_owned(),
            mac,
            mtu: mtu.unwrap_or(1500),
        })];
    };
    // Somebody else's bridge of that name is left alone; the drift says so.
    if !bridge::is_ours(link, machine_id, host) {
        return Vec::new();
    }
    let mut steps = Vec::new();
    if !bridge::is_named(link) {
        steps.push(Step::NameBridge(host.bridge.to_string()));
    }
    if link.mac != mac || link.switch != SwitchFlags::default() {
        steps.push(Step::MendBridge {
            name: host.bridge.to_string(),
            mac,
        });
    }
    let mtu = mtu.filter(|mtu| *mtu != link.mtu);
    if !link.up || mtu.is_some() {
        steps.push(Step::SetBridge {
            index: link.index,
            mtu,
        });
    }
    if let Ok(net) = BRIDGE_ADDRESS.parse::<IpNet>() {
        let there = network
            .addresses
            .iter()
            .any(|address| address.index == link.index && address.net == net);
        // Its prefix's route comes back with the address. ip-route(8) flush
        let routed = network
            .routes
            .iter()
            .any(|route| route.index == link.index && route.destination == net.trunc());
        if !there || (link.up && !routed) {
            steps.push(Step::AddAddress {
                index: link.index,
                net,
            });
        }
    }
    steps
}

#[cfg(test)]
mod tests;
