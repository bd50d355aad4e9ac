//! What a host should look like: one type an object, with every configured attribute but the
//! secrets, so that an import finds them all.

use std::fmt;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    address::PublicAddress,
    name::{HostName, ImageName, InterfaceName, MachineName},
    secret::Secret,
    text::{Size, TimeSpan},
    value::decode,
};

/// Names one object of a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKey {
    /// The host itself.
    Host,
    /// An image.
    Image(ImageName),
    /// A container.
    Container(MachineName),
    /// A public address, in its canonical form.
    Address(#[serde(deserialize_with = "decode::canonical")] String),
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => formatter.write_str("host"),
            Self::Image(name) => write!(formatter, "image {name}"),
            Self::Container(name) => write!(formatter, "container {name}"),
            Self::Address(address) => write!(formatter, "address {address}"),
        }
    }
}

/// One object, as it should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// The host itself.
    Host(Host),
    /// An image.
    Image(Image),
    /// A container.
    Container(Box<Container>),
    /// A public address.
    Address(Address),
}

impl Desired {
    /// The name of this object.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Host(_) => ObjectKey::Host,
            Self::Image(image) => ObjectKey::Image(image.name.clone()),
            Self::Container(container) => ObjectKey::Container(container.name.clone()),
            Self::Address(address) => ObjectKey::Address(address.address.canonical()),
        }
    }
}

/// Terraform's `timeouts`, kept so that an import finds them. The agent doesn't act upon them:
/// each change carries its own deadline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    /// For making it.
    pub create: Option<TimeSpan>,
    /// For looking at it.
    pub read: Option<TimeSpan>,
    /// For changing it.
    pub update: Option<TimeSpan>,
    /// For removing it.
    pub delete: Option<TimeSpan>,
}

/// `nspawn_host`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The bridge without ports that the guests stand on.
    pub bridge: InterfaceName,
    /// The interface to the world; the default route's when absent.
    pub uplink: Option<InterfaceName>,
    /// Whether missing Debian packages may be installed.
    pub install_packages: bool,
    /// Whether modules, sysctls and limits for Kubernetes in guests are set.
    pub nesting: bool,
    /// Whether the filter table keeps guests apart.
    pub isolation: bool,
    /// How long an unconfirmed change of the host stays.
    pub rollback_after: TimeSpan,
    /// Terraform's time limits.
    pub timeouts: Option<Timeouts>,
}

/// `nspawn_image`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Its name on the host.
    pub name: ImageName,
    /// Where its tree comes from.
    pub source: ImageSource,
    /// Shell commands that are run inside, once.
    #[serde(default, deserialize_with = "decode::maybe_commands")]
    pub customize: Option<Vec<String>>,
    /// Terraform's time limits.
    pub timeouts: Option<Timeouts>,
}

/// Where an image's tree comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// debootstrap(8)
    Debootstrap(Debootstrap),
    /// A packed root file system: tar, plain or with gzip, xz or zstd.
    Tarball(Tarball),
}

/// debootstrap(8)
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Debootstrap {
    /// Such as "trixie".
    #[serde(deserialize_with = "decode::script")]
    pub suite: String,
    /// The archive to take packages from; debootstrap's own default when absent.
    #[serde(default, deserialize_with = "decode::maybe_url")]
    pub mirror: Option<String>,
    /// debootstrap's --variant.
    #[serde(deserialize_with = "decode::script")]
    pub variant: String,
    /// More packages.
    #[serde(default, deserialize_with = "decode::maybe_words")]
    pub include: Option<Vec<String>>,
    /// debootstrap's --components.
    #[serde(default, deserialize_with = "decode::maybe_words")]
    pub components: Option<Vec<String>>,
}

/// A packed root file system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tarball {
    /// Where it comes from.
    pub location: TarballLocation,
    /// What it must hash to: 64 lower-case hexadecimal digits, checked before anything is unpacked.
    #[serde(deserialize_with = "decode::sha256")]
    pub sha256: String,
}

/// Where a tarball comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TarballLocation {
    /// The host fetches it: http, https or file.
    Url(#[serde(deserialize_with = "decode::url")] String),
    /// A file beside Terraform, streamed up in data frames; kept here for import only.
    Path(String),
}

/// How a container's root is made from its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// An overlay on an idmapped mount of the shared tree.
    Overlay,
    /// A copy of its own; shares blocks where the file system can.
    Copy,
}

/// `nspawn_container`
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an attribute of its own"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// The machine's name.
    pub name: MachineName,
    /// The image that it is made from.
    pub image: ImageName,
    /// The guest's own name.
    pub hostname: HostName,
    /// Whether it should run now.
    pub running: bool,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Whether its changes are thrown away at every stop.
    pub ephemeral: bool,
    /// How its root is made.
    pub storage: Storage,
    /// Whether it has user ids of its own.
    pub private_users: bool,
    /// Processors' worth of time. systemd.resource-control(5), CPUQuota=
    #[serde(default, deserialize_with = "decode::maybe_processors")]
    pub cpus: Option<f64>,
    /// systemd.resource-control(5), MemoryMax=
    pub memory: Option<Size>,
    /// systemd.resource-control(5), MemorySwapMax=
    pub memory_swap: Option<Size>,
    /// systemd.resource-control(5), TasksMax=
    #[serde(default, deserialize_with = "decode::maybe_tasks")]
    pub tasks: Option<u64>,
    /// What a change waits for.
    pub wait_for: WaitFor,
    /// Rises when the root password changes; the password itself is in [`ContainerSecrets`].
    pub root_password_version: Option<i64>,
    /// Lines for root's authorized_keys; absent: the file is left alone.
    #[serde(default, deserialize_with = "decode::maybe_key_lines")]
    pub ssh_authorized_keys: Option<Vec<String>>,
    /// Name servers for the guest; absent: systemd-nspawn's own way.
    #[serde(default, deserialize_with = "decode::maybe_servers")]
    pub dns_servers: Option<Vec<std::net::IpAddr>>,
    /// Whether destroy is refused.
    pub delete_protection: bool,
    /// A user's own notes.
    #[serde(default, deserialize_with = "decode::maybe_labels")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Raw lines for systemd.nspawn(5): section, key, values.
    pub nspawn_config: Option<BTreeMap<String, BTreeMap<String, Vec<String>>>>,
    /// Terraform's time limits.
    pub timeouts: Option<Timeouts>,
}

/// What a change of a container waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitFor {
    /// Until the guest's own service manager says that it has booted.
    pub boot: bool,
    /// Until something listens on this TCP port in the guest's own network namespace.
    pub port: Option<u16>,
    /// How long.
    pub timeout: TimeSpan,
    /// Whether the user wrote any of this, for import.
    pub configured: bool,
}

/// What a container's change brings that is not kept in its desired state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSecrets {
    /// Only its hash is kept, in a file of root's own, because an ephemeral root needs it at every start.
    pub root_password: Option<Secret>,
}

/// `nspawn_public_address`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Address {
    /// The address or prefix.
    pub address: PublicAddress,
    /// The container that has it; need not exist.
    pub container: MachineName,
    /// Whether the host answers ARP and neighbour solicitations for it.
    pub proxy: bool,
    /// The interface it is reached through; the host's uplink when absent.
    pub uplink: Option<InterfaceName>,
    /// Terraform's time limits.
    pub timeouts: Option<Timeouts>,
}
