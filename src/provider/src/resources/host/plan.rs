//! What the plan of an nspawn_host says beside what follows from its attributes.

use tfplugin::{Attr, Diagnostics, Plan};

use super::{Host, HostResource};
use crate::{
    host_reference::{settle_bastion, settle_key},
    resources::lifecycle,
};

impl HostResource {
    pub(super) fn adjust(&self, plan: &mut Plan<Self>) -> Result<(), Diagnostics> {
        settle(
            &mut plan.planned,
            &plan.config,
            plan.private.uplink_configured,
        );
        lifecycle::register(self, plan).map(|_| ())
    }
}

fn settle(planned: &mut Host, config: &Host, uplink_was_configured: bool) {
    settle_key(&mut planned.host_key, &config.host_key);
    settle_bastion(&mut planned.bastion, &config.bastion);
    planned.id = planned
        .target()
        .map_or(Attr::Unknown, |target| Attr::Known(target.to_string()));
    // An uplink that is no longer configured is the host's choice again.
    if config.uplink.is_null() && uplink_was_configured {
        planned.uplink = Attr::Unknown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_uplink_that_is_no_longer_configured_is_the_hosts_choice_again() {
        let mut kept = planned();
        settle(&mut kept, &Host::default(), false);
        assert!(kept.uplink.is_known());
        settle(&mut kept, &Host::default(), true);
        assert!(kept.uplink.is_unknown());
    }
}
