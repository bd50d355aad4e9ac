//! What a host looks like, as one reply tells it.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    desired::{Address, Container, Host, Image},
    name::{ImageName, MachineName, OwnerToken},
};

/// Everything that a refresh needs to know of one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What the machine is, whether or not it is ours yet.
    pub facts: Facts,
    /// The host object, when it has been made.
    pub host: Option<Observed<Host, HostState>>,
    /// Images by name.
    pub images: BTreeMap<ImageName, Observed<Image, ImageState>>,
    /// Containers by name.
    pub containers: BTreeMap<MachineName, Observed<Container, ContainerState>>,
    /// Public addresses by their canonical form.
    pub addresses: BTreeMap<String, Observed<Address, AddressState>>,
    /// Names in /var/lib/machines, /etc/systemd/nspawn or machined's list that aren't ours.
    pub foreign_machines: Vec<String>,
}

/// One object of any kind, as the answer to its change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// The host itself, and what the machine is.
    Host(Box<Facts>, Observed<Host, HostState>),
    /// An image.
    Image(Observed<Image, ImageState>),
    /// A container.
    Container(Box<Observed<Container, ContainerState>>),
    /// A public address.
    Address(Observed<Address, AddressState>),
}

/// One object: as it should be, whose it is, how it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed<D, S> {
    /// As it should be.
    pub desired: D,
    /// Whose it is.
    pub owner: Owner,
    /// How it is.
    pub state: S,
    /// What deviates and was not healed: a sentence each, empty when all is well.
    pub drift: Vec<String>,
}

/// Whose an object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The word that is in the owner's state, too.
    pub token: OwnerToken,
    /// Whether a state is known to hold the token.
    pub claimed: bool,
    /// Who has made it or taken it over; unknown of what an older release has made.
    #[serde(default)]
    pub holder: Option<Holder>,
}

/// Who ran Terraform, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// As the operator's machine knows them: "alice@laptop".
    pub name: String,
    /// Seconds since 1970.
    pub since: u64,
}

/// What the machine is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// machine-id(5)
    pub machine_id: String,
    /// PRETTY_NAME of os-release(5)
    pub os: String,
    /// uname -r
    pub kernel: String,
    /// uname -m
    pub architecture: String,
    /// Of the running manager.
    pub systemd_version: String,
    /// Processors online.
    pub cpus: u32,
    /// Memory of the machine. Bytes.
    pub memory_bytes: u64,
    /// The interface of the default route.
    pub uplink: Option<String>,
    /// The uplink's first global IPv4 address.
    pub ipv4_address: Option<IpAddr>,
    /// The uplink's first global IPv6 address.
    pub ipv6_address: Option<IpAddr>,
    /// Every address of the host, with its prefix.
    pub addresses: Vec<IpNet>,
    /// The gateways of its default routes.
    pub gateways: Vec<IpAddr>,
    /// Where this connection comes from. SSH_CONNECTION of sshd(8)
    pub ssh_peer: Option<IpAddr>,
    /// Whether overlays on idmapped mounts work here. Kernel 5.19
    pub idmapped_overlay: bool,
    /// The agent that answers.
    pub agent_version: String,
}

/// How the host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// The uplink in use.
    pub uplink: String,
    /// Set after a change that will be undone unless it is confirmed over a new connection. Seconds.
    pub confirm_within: Option<u64>,
    /// The last change, when it was undone; until the next one is kept.
    #[serde(default)]
    pub rolled_back: Option<RolledBack>,
}

/// A change of the host that was undone because nobody confirmed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// When. Seconds since 1970.
    pub at: u64,
    /// Why: "it was not confirmed within 30s".
    pub reason: String,
    /// What is as before again: "isolation true -> false".
    pub changes: Vec<String>,
    /// What others had changed meanwhile and was put back, a sentence each.
    pub put_back: Vec<String>,
}

/// How an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageState {
    /// Identifies the tree: "sha256:…".
    pub digest: String,
    /// PRETTY_NAME of its os-release(5)
    pub os: String,
    /// Disk used by the tree. Bytes.
    pub size_bytes: u64,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Up, and its own service manager content.
    Running,
    /// Down.
    Stopped,
    /// Its unit failed.
    Failed,
    /// Up, with failed units inside.
    Degraded,
}

impl Status {
    /// As it stands in Terraform's state.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Degraded => "degraded",
        }
    }
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// What it is doing.
    pub status: Status,
    /// The tree that it stands on.
    pub image_digest: String,
    /// The guest's end of its link.
    pub mac_address: String,
    /// The host's user id that is root inside; 0 without private users.
    pub uid_base: u32,
}

/// How an address is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressState {
    /// The guest's way out: the host's own IPv4 address, or fe80::1.
    pub gateway: Option<IpAddr>,
    /// Whether a running container has it now.
    pub attached: bool,
}
