//! The attributes of nspawn_public_address.

use protocol::{
    address::PublicAddress as Address,
    name::{InterfaceName, MachineName},
};
use tfplugin::{Attr, Parsed};

use crate::{host_reference::HostReference, timeouts::Timeouts};

tfplugin::model! {
    /// A public IPv4 or IPv6 address, or a routed IPv6 prefix, of a container: without NAT, the guest
    /// has the address itself. It is attached, detached and moved to another container while the
    /// guests run, with no restart.
    ///
    /// It is bound to its container by name: it may be there before its container, takes effect when
    /// that starts, and survives its replacement. Addresses that belong to the host, to its gateway or
    /// to the machine that Terraform runs on are refused.
    ///
    /// Time limits where `timeouts` is silent: 2 minutes for each operation.
    pub struct PublicAddress {
        /// How the host is reached: `nspawn_host.x`, or an object. A change is made in place as long as it leads to the same machine; another machine that the plan has seen is a replacement, and one that it has not seen is refused in the apply.
        host: Attr<HostReference> => required(),
        /// The address (`203.0.113.2`, `2001:db8:1::10`), or a prefix such as `2001:db8:1:5::/80` with `proxy = false`. May be unknown until the apply.
        address: Attr<Parsed<Address>> => required().same_when(same_address).replace(),
        /// Name of the container that has the address. A change moves it within a second, while both guests run.
        container: Attr<Parsed<MachineName>> => required(),
        /// Whether the host answers ARP and neighbour solicitations for the address on its uplink. `false` where the provider of the network routes the address to the host.
        proxy: Attr<bool> => optional().default(true),
        /// Interface that the address is reached through. Without it, the host's uplink.
        uplink: Attr<Parsed<InterfaceName>> => optional(),
        /// How long each operation may take.
        timeouts: Attr<Timeouts> => optional(),
        /// The host's id and the address: `root@203.0.113.1:22/203.0.113.2`.
        id: Attr<String> => computed(),
        /// `ipv4` or `ipv6`.
        family: Attr<String> => computed(),
        /// The guest's way out: the host's own IPv4 address, or `fe80::1`.
        gateway: Attr<String> => computed(),
        /// Whether a running container has the address now.
        attached: Attr<bool> => computed(),
        /// What deviates on the host and was not healed, a sentence each; empty when all is well. The next apply mends it.
        drift: Attr<Vec<String>> => computed().planned_empty(),
    }
}

fn same_address(left: &Parsed<Address>, right: &Parsed<Address>) -> bool {
    left.value() == right.value()
}
