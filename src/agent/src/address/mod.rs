//! `nspawn_public_address`: a route to the bridge, a neighbour proxy on the uplink, and the guest's side.

mod admit;
pub mod plan;

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use protocol::{
    Failure,
    desired::{Address, ContainerSecrets, ObjectKey},
    name::MachineName,
    observed::AddressState,
};
use serde::{Deserialize, Serialize};

use crate::{
    context::Context,
    guest::network,
    object::Object,
    reconcile::{Observation, Scope},
    store::{Inventory, Stored},
    system::netlink::{Link, Network, announce},
};

/// What the host chose for an address: nothing so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {}

/// One step of an address.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Add the route to the bridge.
    AddRoute {
        destination: IpNet,
        index: u32,
        gateway: Option<Ipv6Addr>,
    },
    /// Remove a route of ours that is needed no more.
    DeleteRoute { destination: IpNet, index: u32 },
    /// Answer for an address on an uplink, and tell its routers.
    AddProxy { address: IpAddr, link: Link },
    /// End that.
    DeleteProxy { address: IpAddr, index: u32 },
    /// Bring the guest's network to what is attached.
    Guest(network::Change),
    /// Remove the network files of a container that is gone.
    RemoveGuestFiles(MachineName),
    /// Forget where an address was: it moved.
    FlushNeighbour { address: IpAddr, index: u32 },
}

/// Does one step.
pub async fn perform(context: &Context, step: &Step) -> Result<(), Failure> {
    let netlink = &context.netlink;
    match step {
        Step::AddRoute {
            destination,
            index,
            gateway,
        } => netlink.add_route(*destination, *index, *gateway).await,
        Step::DeleteRoute { destination, index } => {
            netlink.delete_route(*destination, *index).await
        }
        Step::AddProxy { address, link } => {
            netlink.add_proxy(link.index, *address).await?;
            announce(link, *address)
        }
        Step::DeleteProxy { address, index } => netlink.delete_proxy(*index, *address).await,
        Step::Guest(change) => network::apply(context, change).await,
        Step::RemoveGuestFiles(name) => network::remove_files(context, name),
        Step::FlushNeighbour { address, index } => netlink.delete_neighbour(*index, *address).await,
    }
}

/// Writes a container's network files before its start: /run forgets them.
pub async fn write_guest_files(context: &Context, name: &MachineName) -> Result<(), Failure> {
    let inventory = context.store.inventory()?;
    let network = Network::dump(&context.netlink).await?;
    let wanted = plan::guest(&inventory, &network, name);
    network::write_file(context, name, &wanted.render())
}

/// An address's state, and what deviates.
pub fn state(
    stored: &Stored<Address>,
    inventory: &Inventory,
    observed: &Observation,
) -> (AddressState, Vec<String>) {
    let own = network::own_address(&stored.desired.address);
    let attached = observed
        .guests
        .get(&stored.desired.container)
        .is_some_and(|guest| guest.has_address(own));
    let state = AddressState {
        gateway: plan::gateway(inventory, &observed.network, own.addr()),
        attached,
    };
    let scope = Scope::Address(stored.desired.address.canonical());
    let drift = plan::plan(inventory, observed, &scope)
        .iter()
        .filter_map(|step| match step {
            // A snapshot looks at every guest; another's trouble is not this address's.
            Step::Guest(change) => change.sentence_about(own, &stored.desired.container),
            Step::RemoveGuestFiles(_) => None,
            step => Some(sentence(step, observed)),
        })
        .chain(plan::hindrances(inventory, &observed.network, stored))
        .collect();
    (state, drift)
}

/// What was wrong before a step.
pub fn sentence(step: &Step, observed: &Observation) -> String {
    let name = |index: u32| {
        observed
            .network
            .name(index)
            .unwrap_or("a missing interface")
    };
    match step {
        Step::AddRoute {
            destination, index, ..
        } => {
            format!(
                "the route to {destination} over {} is missing",
                name(*index)
            )
        }
        Step::DeleteRoute { destination, index } => {
            format!(
                "a former route to {destination} over {} is still there",
                name(*index)
            )
        }
        Step::AddProxy { address, link } => {
            format!(
                "the neighbour proxy for {address} on {} is missing",
                link.name
            )
        }
        Step::DeleteProxy { address, index } => {
            format!(
                "a former neighbour proxy for {address} on {} is still there",
                name(*index)
            )
        }
        Step::Guest(change) => change.sentence(),
        Step::RemoveGuestFiles(container) => format!("network files of {container} are left over"),
        Step::FlushNeighbour { address, index } => format!(
            "a former guest is still known as the place of {address} on {}",
            name(*index)
        ),
    }
}

impl Object for Address {
    type Prepared = ();

    const KEPT_WHEN_CREATE_FAILS: bool = false;

    fn key(&self) -> ObjectKey {
        ObjectKey::Address(self.address.canonical())
    }

    fn what(&self) -> String {
        format!("the address {}", self.address.canonical())
    }

    async fn prepare(
        &self,
        _: &Context,
        _: Option<&Stored<Self>>,
        _: &ContainerSecrets,
    ) -> Result<(), Failure> {
        Ok(())
    }

    async fn admit(
        &self,
        context: &Context,
        inventory: &Inventory,
        _: Option<&Stored<Self>>,
        (): (),
    ) -> Result<Assigned, Failure> {
        let network = Network::dump(&context.netlink).await?;
        let facts = crate::host::facts::gather(context, &network).await?;
        admit::admit(self, inventory, &network, &facts)?;
        Ok(Assigned {})
    }

    async fn settle(_: &Context, _: &Stored<Self>) -> Result<(), Failure> {
        Ok(())
    }

    async fn remove(_: &Context, _: &Inventory, _: &Stored<Self>) -> Result<(), Failure> {
        Ok(())
    }
}
