//! What the plan of an nspawn_host says beside what follows from its attributes.

use protocol::observed::Snapshot;
use tfplugin::{Attr, Context, Diagnostics, Plan, path};

use super::{Host, HostResource};
use crate::{
    host_reference::{settle_bastion, settle_key},
    resources::{Managed, lifecycle},
};

impl HostResource {
    pub(super) fn adjust(
        &self,
        plan: &mut Plan<Self>,
        context: &Context,
    ) -> Result<(), Diagnostics> {
        if turns_isolation_off(plan.prior.as_ref(), &plan.planned) {
            context.warn_at(
                path!("isolation"),
                format!("The guests of the {} are not kept apart", Self::label(&plan.planned)),
                "With isolation = false every guest can speak in the name of every other and of the server, \
                 read what is sent to its neighbours and take their addresses over. That is for guests \
                 that trust each other, and it leaves their sources on the uplink unchecked, too.",
            );
        }
        settle(
            &mut plan.planned,
            &plan.config,
            plan.private.uplink_configured,
        );
        if let Some(prior) = &plan.prior {
            keep_absent_addresses(prior, &mut plan.planned);
            if plan.is_replace() {
                self.warn_of_another_bridge(prior, context);
            }
        }
        lifecycle::register(self, plan).map(|_| ())
    }

    /// The bridge is the one attribute that makes a host anew.
    fn warn_of_another_bridge(&self, prior: &Host, context: &Context) {
        let snapshot = prior.target().and_then(|target| self.hosts.peek(&target));
        let Some(standing) = snapshot.and_then(|snapshot| standing_on(&snapshot)) else {
            return;
        };
        context.warn_at(
            path!("bridge"),
            format!("The {} can't be made anew while anything stands on it", Self::label(prior)),
            format!(
                "Another bridge takes the host away and makes it anew, which it refuses until these are gone: {standing}. \
                 Unless this plan replaces all of them, too, write into each of their resources: \
                 lifecycle {{ replace_triggered_by = [nspawn_host.x.bridge] }}"
            ),
        );
    }
}

/// What keeps a host from being destroyed; none when nothing does.
fn standing_on(snapshot: &Snapshot) -> Option<String> {
    let containers = snapshot.containers.keys();
    let addresses = snapshot.addresses.keys();
    let images = snapshot.images.keys();
    let all: Vec<_> = containers
        .map(|name| format!("container {name}"))
        .chain(addresses.map(|address| format!("address {address}")))
        .chain(images.map(|name| format!("image {name}")))
        .collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// That a server has no address of a family is a fact, too: a `count` may hang on it. One that it gets later is seen
/// by the next read.
fn keep_absent_addresses(prior: &Host, planned: &mut Host) {
    if !prior.machine_id.is_known() {
        return;
    }
    if prior.ipv4_address.is_null() {
        planned.ipv4_address = Attr::Null;
    }
    if prior.ipv6_address.is_null() {
        planned.ipv6_address = Attr::Null;
    }
}

/// Told once, in the plan that turns it off.
fn turns_isolation_off(prior: Option<&Host>, planned: &Host) -> bool {
    let off = |host: &Host| host.isolation.known() == Some(&false);
    off(planned) && !prior.is_some_and(off)
}

fn settle(planned: &mut Host, config: &Host, uplink_was_configured: bool) {
    settle_key(&mut planned.host_key, &config.host_key);
    settle_bastion(&mut planned.bastion, &config.bastion);
    planned.id = planned
        .target()
        .map_or(Attr::Unknown, |target| Attr::Known(target.to_string()));
    // The agent of this provider takes over; another release's is seen in the plan.
    planned.agent_version = Attr::Known(protocol::RELEASE.to_owned());
    // An uplink that is no longer configured is the host's choice again.
    if config.uplink.is_null() && uplink_was_configured {
        planned.uplink = Attr::Unknown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn planned() -> Host {
        Host {
            address: "203.0.113.1".into(),
            port: 22.into(),
            user: "root".into(),
            uplink: Attr::Known("eth0".parse().unwrap()),
            id: Attr::Unknown,
            host_key: Attr::Unknown,
            ..Host::default()
        }
    }

    #[test]
    fn an_id_is_known_as_soon_as_the_address_is() {
        let mut known = planned();
        settle(&mut known, &Host::default(), false);
        assert_eq!(known.id.as_deref(), Some("root@203.0.113.1:22"));
        let mut unknown = Host {
            address: Attr::Unknown,
            ..planned()
        };
        settle(&mut unknown, &Host::default(), false);
        assert!(unknown.id.is_unknown());
    }

    #[test]
    fn a_plan_that_turns_isolation_off_says_so() {
        let with = |isolation: bool| Host {
            isolation: isolation.into(),
            ..planned()
        };
        for (prior, planned, told) in [
            (None, false, true),
            (None, true, false),
            (Some(true), false, true),
            (Some(false), false, false),
            (Some(false), true, false),
        ] {
            let prior = prior.map(with);
            let found = turns_isolation_off(prior.as_ref(), &with(planned));
            assert_eq!(found, told, "{prior:?} {planned}");
        }
    }

    #[test]
    fn a_server_without_an_address_stays_so_in_an_update() {
        let read = Host {
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            ipv4_address: "203.0.113.1".into(),
            ..planned()
        };
        let never_read = Host {
            machine_id: Attr::Null,
            ..read.clone()
        };
        for (prior, absent) in [(&read, true), (&never_read, false)] {
            let mut planned = Host {
                ipv6_address: Attr::Unknown,
                ..prior.clone()
            };
            keep_absent_addresses(prior, &mut planned);
            assert_eq!(planned.ipv6_address.is_null(), absent);
            assert_eq!(planned.ipv4_address, prior.ipv4_address);
        }
    }

    #[test]
    fn what_keeps_a_host_is_named() {
        let mut snapshot = fixture::snapshot();
        assert_eq!(
            standing_on(&snapshot),
            None,
            "others' machines hinder nothing"
        );
        let image = fixture::image("debian", "sha256:a");
        snapshot.images.insert(image.desired.name.clone(), image);
        assert_eq!(standing_on(&snapshot).as_deref(), Some("image debian"));
    }

    #[test]
    fn another_release_of_the_agent_is_a_change() {
        let mut upgraded = Host {
            agent_version: "0.0.9".into(),
            ..planned()
        };
        settle(&mut upgraded, &Host::default(), false);
        assert_eq!(upgraded.agent_version.as_deref(), Some(protocol::RELEASE));
    }

    #[test]
    fn an_uplink_that_is_no_longer_configured_is_the_hosts_choice_again() {
        let mut kept = planned();
        settle(&mut kept, &Host::default(), false);
        assert!(kept.uplink.is_known());
        settle(&mut kept, &Host::default(), true);
        assert!(kept.uplink.is_unknown());
    }
}
