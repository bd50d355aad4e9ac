//! How the host is, told to the provider: state and drift.

use protocol::{Failure, desired::Host, observed::HostState};

use super::{
    Step, bridge,
    in_force::{self, InForce},
    install, pending, plan, rollback, uplink,
};
use crate::{
    context::Context,
    filter, given_up,
    reconcile::{Observation, Scope},
    store::{Inventory, Stored},
};

/// The host's state, and what deviates.
pub async fn state(
    context: &Context,
    stored: &Stored<Host>,
    inventory: &Inventory,
    observed: &Observation,
) -> Result<(HostState, Vec<String>), Failure> {
    let confirm_within = match pending::read(context)? {
        Some(pending) if !pending.is_undone() => {
            Some(pending.left()?.map_or(0, |left| left.as_secs().max(1)))
        }
        _ => None,
    };
    let state = HostState {
        uplink: uplink(stored).to_owned(),
        confirm_within,
        rolled_back: rollback::last(context)?,
    };
    let mut drift = drift(stored, inventory, observed);
    drift.extend(given_up::read(context)?);
    let in_force = in_force::of_host(context)?;
    if in_force == Some(InForce::This) && install::is_left_behind(context).await? {
        drift.push(format!(
            "{} still runs another build of nspawn-agent than the one in force",
            install::UNIT
        ));
    }
    drift.extend(in_force.and_then(|in_force| in_force.sentence()));
    Ok((state, drift))
}

/// Every deviation is a step that the next reconcile would do.
fn drift(stored: &Stored<Host>, inventory: &Inventory, observed: &Observation) -> Vec<String> {
    let mut drift: Vec<String> = plan::plan(inventory, observed, &Scope::Host)
        .iter()
        .map(|step| sentence(step, inventory, observed))
        .collect();
    drift.extend(
        filter::plan::plan(inventory, observed, &Scope::All)
            .iter()
            .map(filter::sentence),
    );
    let name = stored.desired.bridge.as_str();
    let found = observed.network.link(name);
    if found.is_some_and(|link| !bridge::is_ours(link, &observed.facts.machine_id, &stored.desired))
    {
        drift.push(format!(
            "somebody else's interface {name} is in the bridge's place"
        ));
    }
    drift.extend(foreign_ports(stored, inventory, observed));
    if observed.network.link(uplink(stored)).is_none() {
        drift.push(format!("the uplink {} is missing", uplink(stored)));
    }
    // It reloads when it takes up another binary.
    if !matches!(observed.host.service.as_str(), "active" | "reloading") {
        drift.push(format!(
            "{} is {}",
            install::UNIT,
            if observed.host.service.is_empty() {
                "unknown to systemd"
            } else {
                &observed.host.service
            }
        ));
    }
    drift
}

/// What is on our bridges, and no guest's; it is its owner's to take away.
fn foreign_ports(
    stored: &Stored<Host>,
    inventory: &Inventory,
    observed: &Observation,
) -> Vec<String> {
    let network = &observed.network;
    let own = bridge::of_host(stored, network, &observed.facts.machine_id);
    own.into_iter()
        .chain(bridge::others_of_ours(stored, network))
        .flat_map(|bridge| {
            let ports = bridge::foreign_ports(inventory, network, bridge.index);
            ports.map(|port| {
                format!(
                    "the interface {} is a port of the bridge {}, where only guests of this host belong: take it out (ip link \
                     set {} nomaster)",
                    port.name, bridge.name, port.name
                )
            })
        })
        .collect()
}

/// What was wrong before a step.
pub fn sentence(step: &Step, inventory: &Inventory, observed: &Observation) -> String {
    let bridge = inventory
        .host
        .as_ref()
        .map_or("", |stored| stored.desired.bridge.as_str());
    match step {
        Step::WriteFile(file) => format!("{} is missing or was changed", file.path),
        Step::RemoveFile(path) => format!("{path} is needed no more and still there"),
        Step::Enable => format!("{} does not start with the host", install::UNIT),
        Step::PutBackProgram => {
            format!(
                "the agent's program {} is missing or was changed",
                install::BINARY
            )
        }
        Step::CloseFolder(path, _) => {
            format!("others than root may write to {}", path.display())
        }
        Step::LoadModule(name) => format!("the kernel module {name} is not loaded"),
        Step::NoteSysctls(keys) => {
            format!(
                "the values that {} had before are not known",
                keys.join(", ")
            )
        }
        Step::SetSysctl(key, value) => format!(
            "the sysctl {key} is {}, not {value}",
            observed
                .host
                .sysctls
                .get(key)
                .map_or("unknown", String::as_str)
        ),
        Step::RestoreSysctls(_) => "sysctls that are needed no more are still set".to_owned(),
        Step::MakeBridge(_) => format!("the bridge {bridge} is missing"),
        Step::RenameBridge { from, to, .. } => format!("the bridge {to} was renamed to {from}"),
        Step::RemoveBridge { name, .. } => {
            format!("the bridge {name} is there beside {bridge}, though it is ours")
        }
        Step::NameBridge(name) => format!("the bridge {name} isn't marked as ours"),
        Step::MendBridge { name, .. } => format!(
            "the bridge {name} has another MAC address, or spanning tree or multicast snooping on"
        ),
        Step::SetBridge { mtu: Some(mtu), .. } => {
            format!("the MTU of the bridge {bridge} is not the uplink's {mtu}")
        }
        Step::SetBridge { mtu: None, .. } => format!("the bridge {bridge} is down"),
        Step::AddAddress { net, .. } => format!("the address {net} is missing on {bridge}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        system::netlink::Link,
        testing::{inventory, network, observation},
    };

    #[test]
    fn a_port_of_somebody_else_is_told() {
        let inventory = inventory(&["web"], &[]);
        let stored = inventory.host.as_ref().unwrap();
        let mut network = network();
        for (index, name) in [(8, "vb-web"), (9, "eth1")] {
            network.links.push(Link {
                index,
                name: name.to_owned(),
                bridge: Some(3),
                ..Link::default()
            });
        }
        let mut told = drift(stored, &inventory, &observation(network));
        told.retain(|text| text.contains("nomaster"));
        let expected = "the interface eth1 is a port of the bridge br0, where only guests of this host belong: take it out \
             (ip link set eth1 nomaster)";
        assert_eq!(told, [expected]);
    }
}
