//! What the plan of an nspawn_public_address says beside what follows from its attributes.

use std::net::IpAddr;

use ipnet::IpNet;
use protocol::{address, observed::Facts};
use tfplugin::{Attr, Context, Diagnostics, Parsed, Plan, path};

use super::{PublicAddress, PublicAddressResource, convert::family};
use crate::{
    connection::Target,
    id::object_id,
    resources::{Managed as _, lifecycle},
};

/// The guests' way out for IPv6, on the bridge of every host.
const IPV6_GATEWAY: &str = "fe80::1";

/// Checks what single attributes can't.
pub(super) fn validate(config: &PublicAddress, diagnostics: &mut Diagnostics) {
    let proxied = matches!(config.proxy, Attr::Null | Attr::Known(true));
    if let Some(address) = config.address.known()
        && !address.value().is_single()
        && proxied
    {
        diagnostics.add_error_at(
            path!("proxy"),
            "A prefix can't be proxied",
            format!("{address} is a prefix, and a host answers neighbour requests for single addresses only. Write proxy = false and have the prefix routed to the host, or write single addresses."),
        );
    }
}

impl PublicAddressResource {
    pub(super) fn adjust(
        &self,
        plan: &mut Plan<Self>,
        context: &Context,
    ) -> Result<(), Diagnostics> {
        let mut problems = Diagnostics::new();
        // The address may have become known since validation.
        validate(&plan.planned, &mut problems);
        problems.into_result()?;
        if let Some(host) = plan.planned.host.known_mut() {
            host.settle(&plan.config.host);
        }
        settle(plan.prior.as_ref(), &mut plan.planned);
        if let Some(prior) = &plan.prior {
            warn_of_move(prior, &plan.planned, context);
        }
        let registered = lifecycle::register(self, plan)?;
        match (registered, plan.planned.address.known()) {
            (Some((target, _)), Some(address)) if plan.is_create() => {
                let snapshot = self.hosts.peek(&target);
                let facts = snapshot.as_ref().map(|snapshot| &snapshot.facts);
                check_address(&target, address.value(), facts)
            }
            _ => Ok(()),
        }
    }
}

/// What follows from the attributes alone. Terraform plans once more in the apply, when no snapshot
/// may be at hand, and what was known has to stay so: an IPv4 gateway, the host's to say, is unknown.
fn settle(prior: Option<&PublicAddress>, planned: &mut PublicAddress) {
    let address = planned.address.known().map(Parsed::value);
    planned.id = match (PublicAddressResource::target(planned), address) {
        (Some(target), Some(address)) => object_id(&target, address.canonical()).into(),
        _ => Attr::Unknown,
    };
    let Some(address) = address else {
        planned.family = Attr::Unknown;
        planned.gateway = Attr::Unknown;
        return;
    };
    planned.family = family(address).into();
    if prior.is_none() && address.ip().is_ipv6() {
        planned.gateway = IPV6_GATEWAY.into();
    }
    if prior.is_some_and(|prior| prior.container != planned.container) {
        planned.attached = Attr::Unknown;
    }
}

fn warn_of_move(prior: &PublicAddress, planned: &PublicAddress, context: &Context) {
    let (Some(address), Some(from)) = (prior.address.known(), prior.container.known()) else {
        return;
    };
    if prior.address == planned.address && prior.container != planned.container {
        let to = planned
            .container
            .known()
            .map_or("a container that is not known yet", Parsed::text);
        context.warn(
            format!("Address {address} moves away from container {from}"),
            format!("It goes to {to} while both run; connections over it to {from} end."),
        );
    }
}

/// Refuses what would cut off the host: its own addresses, its gateway, and whoever is speaking to it.
fn check_address(
    target: &Target,
    address: &address::PublicAddress,
    facts: Option<&Facts>,
) -> Result<(), Diagnostics> {
    let reached_at = target.address.parse::<IpAddr>().ok();
    let own = facts
        .into_iter()
        .flat_map(|facts| facts.addresses.iter().map(IpNet::addr));
    let gateways = facts
        .into_iter()
        .flat_map(|facts| facts.gateways.iter().copied());
    let peer = facts.and_then(|facts| facts.ssh_peer);
    let endangered = reached_at
        .into_iter()
        .chain(own)
        .map(|ip| (ip, "one of the host's own addresses"))
        .chain(gateways.map(|ip| (ip, "the host's gateway")))
        .chain(peer.map(|ip| (ip, "the address that Terraform reaches the host from")));
    for (ip, what) in endangered {
        if address.network().contains(&ip) {
            let is = if address.is_single() {
                "is"
            } else {
                "contains"
            };
            let which = if address.is_single() {
                what.to_owned()
            } else {
                format!("{ip}, {what}")
            };
            return Err(Diagnostics::error_at(
                path!("address"),
                format!("Address {address} can't go to a container"),
                format!(
                    "{address} {is} {which}: {target} could no longer be reached. Use an address that is routed to the host beside its own."
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::facts;

    fn address(text: &str) -> PublicAddress {
        PublicAddress {
            host: Attr::Known((&Target::new("203.0.113.1")).into()),
            address: Attr::Known(text.parse().unwrap()),
            container: Attr::Known("web".parse().unwrap()),
            gateway: Attr::Unknown,
            ..PublicAddress::default()
        }
    }

    #[test]
    fn a_prefix_is_not_proxied() {
        for (text, proxy, errors) in [
            ("203.0.113.2", Attr::Null, false),
            ("203.0.113.2/32", true.into(), false),
            ("2001:db8:1:5::/80", Attr::Null, true),
            ("2001:db8:1:5::/80", true.into(), true),
            ("2001:db8:1:5::/80", Attr::Unknown, false),
            ("2001:db8:1:5::/80", false.into(), false),
        ] {
            let mut diagnostics = Diagnostics::new();
            validate(
                &PublicAddress {
                    proxy,
                    ..address(text)
                },
                &mut diagnostics,
            );
            assert_eq!(diagnostics.has_errors(), errors, "{text}");
        }
    }

    #[test]
    fn what_would_cut_off_the_host_is_refused() {
        let target = Target::new("203.0.113.1");
        for (text, part) in [
            ("203.0.113.1", "host's own"),
            ("2001:db8:1::1", "host's own"),
            ("2001:db8:1::/64", "host's own"),
            ("172.31.1.1", "gateway"),
            ("198.51.100.2", "Terraform"),
            ("198.51.100.0/24", "Terraform"),
        ] {
            let error = check_address(&target, &text.parse().unwrap(), Some(&facts()))
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(check_address(&target, &"203.0.113.2".parse().unwrap(), Some(&facts())).is_ok());
        assert!(check_address(&target, &"172.31.1.1".parse().unwrap(), None).is_ok());
        assert!(check_address(&target, &"203.0.113.1".parse().unwrap(), None).is_err());
    }

    #[test]
    fn what_follows_from_the_address_is_in_the_plan() {
        for (text, family, gateway, id) in [
            (
                "2001:DB8:1::10",
                "ipv6",
                Some("fe80::1"),
                "root@203.0.113.1:22/2001:db8:1::10",
            ),
            (
                "203.0.113.2/32",
                "ipv4",
                None,
                "root@203.0.113.1:22/203.0.113.2",
            ),
        ] {
            let mut planned = address(text);
            settle(None, &mut planned);
            assert_eq!(planned.family.as_deref(), Some(family));
            assert_eq!(planned.gateway.as_deref(), gateway);
            assert_eq!(planned.id.as_deref(), Some(id));
        }
        let mut unknown = PublicAddress {
            address: Attr::Unknown,
            ..address("203.0.113.2")
        };
        settle(None, &mut unknown);
        assert!(
            unknown.id.is_unknown() && unknown.family.is_unknown() && unknown.gateway.is_unknown()
        );
    }

    #[test]
    fn whether_it_is_attached_is_open_while_it_moves() {
        let prior = PublicAddress {
            attached: true.into(),
            ..address("203.0.113.2")
        };
        let mut same = prior.clone();
        settle(Some(&prior), &mut same);
        assert!(same.attached.is_known());
        let mut moved = PublicAddress {
            container: Attr::Known("other".parse().unwrap()),
            ..prior.clone()
        };
        settle(Some(&prior), &mut moved);
        assert!(moved.attached.is_unknown());
    }
}
