//! nspawn_host between Terraform and the wire.

use protocol::{
    desired,
    observed::{Facts, HostState, Observed},
};
use tfplugin::{Attr, Diagnostics, Parsed, path};

use super::schema::Host;
use crate::{connection::Target, host_reference::HostReference, timeouts};

impl Host {
    /// How the server is reached, once that is known.
    pub fn target(&self) -> Option<Target> {
        self.reference().target()
    }

    /// The attributes that say how the server is reached.
    pub fn reference(&self) -> HostReference {
        HostReference {
            address: self.address.clone(),
            port: self.port.clone(),
            user: self.user.clone(),
            host_key: self.host_key.clone(),
            bastion: self.bastion.clone(),
        }
    }

    /// Takes them from a target.
    pub fn locate(&mut self, target: &Target) {
        let HostReference {
            address,
            port,
            user,
            host_key,
            bastion,
        } = target.into();
        self.id = target.to_string().into();
        *self = Self {
            address,
            port,
            user,
            host_key,
            bastion,
            ..std::mem::take(self)
        };
    }

    /// As the server keeps it. An uplink that the user didn't write is the server's own choice.
    pub fn desired(&self, config: &Self) -> Result<desired::Host, Diagnostics> {
        Ok(desired::Host {
            bridge: self.bridge.require(path!("bridge"))?.value().clone(),
            uplink: config.uplink.cloned().map(Parsed::into_value),
            install_packages: *self.install_packages.require(path!("install_packages"))?,
            nesting: *self.nesting.require(path!("nesting"))?,
            isolation: *self.isolation.require(path!("isolation"))?,
            rollback_after: self
                .rollback_after
                .require(path!("rollback_after"))?
                .value()
                .clone(),
            timeouts: timeouts::to_desired(&self.timeouts),
        })
    }

    /// What the server says of itself.
    pub fn observe(&mut self, facts: &Facts, host: &Observed<desired::Host, HostState>) {
        let Observed {
            desired,
            state,
            drift,
            ..
        } = host;
        self.bridge = Parsed::new(desired.bridge.clone()).into();
        self.uplink = state.uplink.parse().ok().into();
        self.install_packages = desired.install_packages.into();
        self.nesting = desired.nesting.into();
        self.isolation = desired.isolation.into();
        self.rollback_after = Parsed::new(desired.rollback_after.clone()).into();
        self.timeouts = timeouts::from_desired(desired.timeouts.as_ref());
        self.observe_facts(facts);
        self.drift = drift.clone().into();
        self.id = self.target().map(|target| target.to_string()).into();
    }

    fn observe_facts(&mut self, facts: &Facts) {
        self.machine_id = facts.machine_id.clone().into();
        self.os = facts.os.clone().into();
        self.kernel = facts.kernel.clone().into();
        self.architecture = facts.architecture.clone().into();
        self.systemd_version = facts.systemd_version.clone().into();
        self.cpus = i64::from(facts.cpus).into();
        self.memory_bytes = i64::try_from(facts.memory_bytes).unwrap_or(i64::MAX).into();
        self.ipv4_address = facts.ipv4_address.map(|ip| ip.to_string()).into();
        self.ipv6_address = facts.ipv6_address.map(|ip| ip.to_string()).into();
        self.agent_version = Attr::Known(facts.agent_version.clone());
    }
}
