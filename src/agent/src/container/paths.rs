//! Where a container's parts lie on the host.

use std::path::{Path, PathBuf};

use protocol::{Failure, name::MachineName};

use crate::system::{files, systemd::INSTANCE_OF};

/// Where systemd-nspawn looks for machines.
const MACHINES: &str = "/var/lib/machines";

/// All that the agent unpacks and lays beneath guests.
pub const STATE_FOLDER: &str = "/var/lib/nspawn-agent";

/// Where the containers' storage lies.
pub fn storages() -> PathBuf {
    Path::new(STATE_FOLDER).join("containers")
}

/// What systemd-machined has noted of a machine that it knows; sd-login(3) reads it, too.
pub fn machined_record(name: &MachineName) -> PathBuf {
    Path::new("/run/systemd/machines").join(name.as_str())
}

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
        PathBuf::from(MACHINES).join(&self.name)
    }

    /// The folder of all roots.
    pub fn machines() -> PathBuf {
        PathBuf::from(MACHINES)
    }

    /// Makes the folder of its root. Nobody but root gets into the folder above, as systemd makes it,
    /// too: guests' programs with set-user-id bits are none of the host's users'.
    pub fn make_machine(&self) -> Result<(), Failure> {
        files::create_folder(Path::new(MACHINES), 0o700)?;
        files::create_folder(&self.machine(), 0o755)
    }

    /// All of its storage.
    pub fn storage(&self) -> PathBuf {
        storages().join(&self.name)
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

    /// Where its host keys are made. No container's name begins with a dot.
    pub fn scratch(&self) -> PathBuf {
        self.started().with_file_name(format!(".{}", self.name))
    }

    /// systemd-nspawn's lock of a root, by its file system and inode, while it runs.
    pub fn lock_of_root(device: u64, inode: u64) -> PathBuf {
        PathBuf::from(format!("/run/systemd/nspawn/locks/inode-{device}:{inode}"))
    }
}
