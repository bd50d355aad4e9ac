//! nspawn_container between Terraform and the wire.

use std::net::IpAddr;

use protocol::{
    desired::{self, Storage},
    observed::{ContainerState, Observed},
};
use tfplugin::{Attr, Diagnostics, Parsed, path};

use super::schema::{Container, WaitFor};
use crate::timeouts;

impl Container {
    /// As the host keeps it. `waits` says whether the user wrote `wait_for`.
    pub fn desired(&self, waits: bool) -> Result<desired::Container, Diagnostics> {
        let name = self.name.require(path!("name"))?.value();
        Ok(desired::Container {
            name: name.clone(),
            image: self.image.require(path!("image"))?.value().clone(),
            hostname: self.hostname.require(path!("hostname"))?.value().clone(),
            running: *self.running.require(path!("running"))?,
            autostart: *self.autostart.require(path!("autostart"))?,
            ephemeral: *self.ephemeral.require(path!("ephemeral"))?,
            storage: match self.storage.require(path!("storage"))?.as_str() {
                "copy" => Storage::Copy,
                _ => Storage::Overlay,
            },
            private_users: *self.private_users.require(path!("private_users"))?,
            cpus: self.cpus.cloned(),
            memory: self.memory.cloned().map(Parsed::into_value),
            memory_swap: self.memory_swap.cloned().map(Parsed::into_value),
            tasks: self
                .tasks
                .known()
                .and_then(|tasks| u64::try_from(*tasks).ok()),
            wait_for: self.wait_for.require(path!("wait_for"))?.desired(waits)?,
            root_password_version: self.root_password_wo_version.cloned(),
            ssh_authorized_keys: self.ssh_authorized_keys.cloned(),
            dns_servers: self
                .dns_servers
                .known()
                .map(|servers| servers.iter().map(|server| *server.value()).collect()),
            delete_protection: *self.delete_protection.require(path!("delete_protection"))?,
            labels: self.labels.cloned(),
            nspawn_config: self.nspawn_config.cloned(),
            timeouts: timeouts::to_desired(&self.timeouts),
        })
    }

    /// What the host says of it.
    pub fn observe(&mut self, container: &Observed<desired::Container, ContainerState>) {
        let Observed {
            desired,
            state,
            drift,
            ..
        } = container;
        self.observe_desired(desired);
        self.status = state.status.as_str().into();
        self.image_digest = state.image_digest.clone().into();
        self.mac_address = state.mac_address.clone().into();
        self.uid_base = i64::from(state.uid_base).into();
        self.drift = drift.clone().into();
    }

    fn observe_desired(&mut self, desired: &desired::Container) {
        self.name = Parsed::new(desired.name.clone()).into();
        self.image = Parsed::new(desired.image.clone()).into();
        self.hostname = Parsed::new(desired.hostname.clone()).into();
        self.running = desired.running.into();
        self.autostart = desired.autostart.into();
        self.ephemeral = desired.ephemeral.into();
        self.storage = match desired.storage {
            Storage::Overlay => "overlay".into(),
            Storage::Copy => "copy".into(),
        };
        self.private_users = desired.private_users.into();
        self.cpus = desired.cpus.into();
        self.memory = desired.memory.clone().map(Parsed::new).into();
        self.memory_swap = desired.memory_swap.clone().map(Parsed::new).into();
        self.tasks = desired
            .tasks
            .and_then(|tasks| i64::try_from(tasks).ok())
            .into();
        self.wait_for = Attr::Known((&desired.wait_for).into());
        self.root_password_wo = Attr::Null;
        self.root_password_wo_version = desired.root_password_version.into();
        self.ssh_authorized_keys = desired.ssh_authorized_keys.clone().into();
        self.observe_dns_servers(desired.dns_servers.as_deref());
        self.delete_protection = desired.delete_protection.into();
        self.labels = desired.labels.clone().into();
        self.nspawn_config = desired.nspawn_config.clone().into();
        self.timeouts = timeouts::from_desired(desired.timeouts.as_ref());
    }

    /// The host keeps addresses, not their spelling: the state's stays while it means the same.
    fn observe_dns_servers(&mut self, servers: Option<&[IpAddr]>) {
        let spelled = self.dns_servers.known().map(|known| {
            known
                .iter()
                .map(|server| *server.value())
                .collect::<Vec<_>>()
        });
        if spelled.as_deref() != servers {
            let servers = servers.map(|servers| servers.iter().copied().map(Parsed::new).collect());
            self.dns_servers = Attr::from(servers);
        }
    }
}

impl WaitFor {
    fn desired(&self, configured: bool) -> Result<desired::WaitFor, Diagnostics> {
        Ok(desired::WaitFor {
            boot: *self.boot.require(path!("wait_for", "boot"))?,
            port: self.port.known().and_then(|port| u16::try_from(*port).ok()),
            timeout: self
                .timeout
                .require(path!("wait_for", "timeout"))?
                .value()
                .clone(),
            configured,
        })
    }
}

impl From<&desired::WaitFor> for WaitFor {
    fn from(wait_for: &desired::WaitFor) -> Self {
        Self {
            boot: wait_for.boot.into(),
            port: wait_for.port.map(i64::from).into(),
            timeout: Parsed::new(wait_for.timeout.clone()).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use protocol::observed::{Object, Owner, Status};

    use super::*;
    use crate::{
        fixture::token,
        resources::{Managed as _, Private, container::ContainerResource},
    };

    fn known<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> Attr<T> {
        Attr::Known(text.parse().unwrap())
    }

    fn full() -> Container {
        Container {
            name: known("web"),
            image: known("debian-13"),
            hostname: known("www.example"),
            running: true.into(),
            autostart: false.into(),
            ephemeral: true.into(),
            storage: "copy".into(),
            private_users: false.into(),
            cpus: 1.5.into(),
            memory: known("2048M"),
            memory_swap: known("1G"),
            tasks: 100.into(),
            wait_for: Attr::Known(WaitFor {
                boot: true.into(),
                port: 80.into(),
                timeout: known("90s"),
            }),
            root_password_wo_version: 3.into(),
            ssh_authorized_keys: vec!["ssh-ed25519 AAAA".to_owned()].into(),
            dns_servers: vec!["2001:db8::53".parse().unwrap()].into(),
            delete_protection: true.into(),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]).into(),
            nspawn_config: BTreeMap::from([("Exec".to_owned(), BTreeMap::new())]).into(),
            ..Container::default()
        }
    }

    fn observed(container: &Container) -> Observed<desired::Container, ContainerState> {
        Observed {
            desired: container.desired(true).unwrap(),
            owner: Owner {
                token: token('a'),
                claimed: true,
                holder: None,
            },
            state: ContainerState {
                status: Status::Degraded,
                image_digest: "sha256:0".into(),
                mac_address: "02:00:00:00:00:01".into(),
                uid_base: 524_288,
            },
            drift: vec![],
        }
    }

    #[test]
    fn a_state_says_beside_its_attributes_whether_the_container_is_protected() {
        let mut private = Private::default();
        for protected in [true, false] {
            let container = Container {
                delete_protection: protected.into(),
                ..full()
            };
            let object = Object::Container(Box::new(observed(&container)));
            ContainerResource::remember(&mut private, &object);
            assert_eq!(private.protected, protected);
        }
    }

    #[test]
    fn every_configured_attribute_comes_back_from_the_host() {
        for container in [
            full(),
            Container {
                cpus: Attr::Null,
                memory: Attr::Null,
                dns_servers: Attr::Null,
                labels: Attr::Null,
                ..full()
            },
        ] {
            let mut seen = Container::default();
            seen.observe(&observed(&container));
            let computed = Container {
                status: "degraded".into(),
                image_digest: "sha256:0".into(),
                mac_address: "02:00:00:00:00:01".into(),
                uid_base: 524_288.into(),
                drift: vec![].into(),
                ..container
            };
            assert_eq!(seen, computed);
        }
    }

    #[test]
    fn a_name_servers_spelling_stays_while_it_means_the_same() {
        let spelled = Attr::Known(vec!["2001:db8:0::53".parse().unwrap()]);
        let mut container = Container {
            dns_servers: spelled.clone(),
            ..full()
        };
        container.observe(&observed(&full()));
        assert_eq!(container.dns_servers, spelled);
    }

    #[test]
    fn a_value_that_is_not_known_yet_is_named() {
        let error = Container {
            image: Attr::Unknown,
            ..full()
        }
        .desired(false)
        .unwrap_err();
        assert!(error.to_string().contains("image"));
    }
}
