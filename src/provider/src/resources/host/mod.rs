//! nspawn_host: a server, made ready for containers with public addresses.

mod convert;
mod plan;
mod schema;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use protocol::{
    desired::{Desired, ObjectKey},
    observed::Object,
};
use tfplugin::{Attr, Context, Diagnostics, Plan, Resource};

pub use schema::Host;

use super::{Managed, Private};
use crate::{
    connection::Target,
    failure::Place,
    hosts::{Hosts, told},
    timeouts::{Limits, Timeouts, minutes},
};

/// nspawn_host
#[derive(Debug)]
pub struct HostResource {
    /// What this run knows of its hosts.
    pub hosts: Arc<Hosts>,
}

impl Managed for HostResource {
    const PLACE: Place = Place::Own;
    const IDENTITY: &str = "address";
    const LIMITS: Limits = Limits {
        create: minutes(10),
        read: minutes(2),
        update: minutes(5),
        delete: minutes(5),
    };

    fn hosts(&self) -> &Arc<Hosts> {
        &self.hosts
    }

    fn label(model: &Host) -> String {
        format!(
            "host {}",
            model
                .address
                .as_deref()
                .unwrap_or("(address not known yet)")
        )
    }

    fn target(model: &Host) -> Option<Target> {
        model.target()
    }

    fn key(_: &Host) -> Option<ObjectKey> {
        Some(ObjectKey::Host)
    }

    fn import_key(name: Option<&str>) -> Result<ObjectKey, String> {
        match name {
            None => Ok(ObjectKey::Host),
            Some(name) => Err(format!(
                "{name:?} is too much: the id of a host is user@address:port, such as root@203.0.113.1:22"
            )),
        }
    }

    fn timeouts(model: &Host) -> &Attr<Timeouts> {
        &model.timeouts
    }

    fn desired(planned: &Host, config: &Host) -> Result<Desired, Diagnostics> {
        planned.desired(config).map(Desired::Host)
    }

    fn observe(model: &mut Host, object: &Object) {
        if let Object::Host(facts, host) = object {
            model.observe(facts, host);
        }
    }

    fn locate(model: &mut Host, target: &Target, _: &ObjectKey) {
        model.locate(target);
    }

    fn remember(private: &mut Private, object: &Object) {
        if let Object::Host(_, host) = object {
            private.uplink_configured = host.desired.uplink.is_some();
            private.rolled_back_at = host.state.rolled_back.as_ref().map(|record| record.at);
        }
    }

    fn warn(label: &str, object: &Object, context: &Context) {
        let Object::Host(_, host) = object else {
            return;
        };
        if let Some(record) = &host.state.rolled_back {
            context.warn(
                format!("The last change of the {label} was rolled back"),
                format!(
                    "The server undid it{}, because {}.\n{}\n\nApply again to make the change once more, or take it out of the \
                     configuration. This is told until the next change of nspawn_host, for a week at most.",
                    when(record.at),
                    record.reason,
                    told(record),
                ),
            );
        }
    }
}

/// When something was, as a host says, which may say anything. humantime shows the years up to 9999.
pub(super) fn when(seconds: u64) -> String {
    let year_10000 = 253_402_300_800;
    if seconds >= year_10000 {
        return String::new();
    }
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    at.map_or_else(String::new, |at| {
        format!(" at {}", humantime::format_rfc3339_seconds(at))
    })
}

impl Resource for HostResource {
    type Model = Host;
    type Private = Private;
    const NAME: &'static str = "nspawn_host";

    async fn plan(&self, plan: &mut Plan<Self>, context: &Context) -> Result<(), Diagnostics> {
        self.adjust(plan, context)
    }

    same_for_every_object!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_say_any_time() {
        assert_eq!(when(0), " at 1970-01-01T00:00:00Z");
        assert_eq!(
            (when(u64::MAX), when(1 << 40)),
            (String::new(), String::new())
        );
    }
}
