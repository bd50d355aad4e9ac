//! Where a container's parts lie on the host.

use std::path::PathBuf;

use protocol::name::MachineName;

use crate::system::systemd::INSTANCE_OF;

/// All that the agent unpacks and lays beneath guests.
pub const STATE_FOLDER: &str = "/var/lib/nspawn-agent";

/// The paths of one container.
#[derive(Debug, Clone)]
pub struct Paths {
    name: String,
}

impl Paths {
    /// Of this container.
    pub fn of(name: &MachineName) -> Self {
        Self {
            name: name.to_string(),
        }
    }

    /// Its root, as systemd-nspawn finds it.
    pub fn machine(&self) -> PathBuf {
        PathBuf::from("/var/lib/machines").join(&self.name)
    }

    /// All of its storage.
    pub fn storage(&self) -> PathBuf {
        PathBuf::from(STATE_FOLDER)
            .join("containers")
            .join(&self.name)
    }

    /// The overlay's lower layer: the image, idmapped.
    pub fn lower(&self) -> PathBuf {
        self.storage().join("lower")
    }

    /// The overlay's upper layer: what the guest changed.
    pub fn upper(&self) -> PathBuf {
        self.storage().join("upper")
    }

    /// The overlay's own work folder.
    pub fn work(&self) -> PathBuf {
        self.storage().join("work")
    }

    /// The root of a container that has a copy of its own.
    pub fn copy(&self) -> PathBuf {
        self.storage().join("root")
    }

    /// systemd.nspawn(5); beside the image, privileged settings would be ignored.
    pub fn settings(&self) -> PathBuf {
        PathBuf::from("/etc/systemd/nspawn").join(format!("{}.nspawn", self.name))
    }

    /// The container's unit.
    pub fn unit(&self) -> String {
        format!("{INSTANCE_OF}{}.service", self.name)
    }

    /// The folder of the unit's drop-ins.
    pub fn drop_ins(&self) -> PathBuf {
        PathBuf::from("/etc/systemd/system").join(format!("{}.d", self.unit()))
    }

    /// Our drop-in of the unit.
    pub fn drop_in(&self) -> PathBuf {
        self.drop_ins().join("nspawn-agent.conf")
    }

    /// The link that starts it with the host. machinectl(1) enable
    pub fn autostart(&self) -> PathBuf {
        PathBuf::from("/etc/systemd/system/machines.target.wants").join(self.unit())
    }

    /// What it was started with.
    pub fn started(&self) -> PathBuf {
        PathBuf::from("/run/nspawn-agent/started").join(&self.name)
    }

    /// The hash of its root password.
    pub fn secret(&self) -> PathBuf {
        PathBuf::from(crate::store::FOLDER)
            .join("secrets")
            .join(&self.name)
    }

    /// What systemd-nspawn leaves behind when it is killed, and then refuses to start over.
    pub fn stale_export(&self) -> PathBuf {
        PathBuf::from("/run/systemd/nspawn/unix-export").join(&self.name)
    }
}
