//! `nspawn_host`: facts, packages, sysctls, the bridge without ports, and the agent's own service.

pub mod admit;
pub mod bridge;
pub mod facts;
pub mod in_force;
pub mod install;
pub mod leave;
pub mod packages;
pub mod pending;
pub mod plan;
mod program;
pub mod rollback;
mod slice;
mod stand_by;
pub mod sysctls;
mod told;
mod way_in;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use protocol::{
    Failure,
    desired::{ContainerSecrets, Host, ObjectKey},
};
use serde::{Deserialize, Serialize};

use crate::{
    command::off_thread,
    container,
    context::Context,
    discarded, image,
    object::Object,
    store::{Inventory, Stored},
    system::{
        files::{self, OwnFile},
        netlink::{Network, NewBridge},
    },
};

pub use told::{sentence, state};

/// The address by which guests know the host on their link.
pub const BRIDGE_ADDRESS: &str = "fe80::1/64";

/// What the host chose for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The uplink, as it was when the host was made: a lost default route must not move it.
    pub uplink: String,
    /// The host's IPv4 address, which is the guests' gateway; it may be away with its link.
    pub ipv4: Option<IpAddr>,
    /// Whether nesting brought br_netfilter, which must not filter the bridges of others then.
    #[serde(default)]
    pub brought_bridge_filter: bool,
}

/// How the host is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The sysctls it needs.
    pub wishes: sysctls::Wishes,
    /// Their values.
    pub sysctls: BTreeMap<String, String>,
    /// Those that hold already, and aren't known to have been so before.
    pub unnoted_sysctls: Vec<String>,
    /// Whether sysctls are set that are wished for no more.
    pub superfluous_sysctls: bool,
    /// Our files, and how they stand to what they should hold.
    pub files: Vec<(OwnedFile, OwnFile)>,
    /// Our files that are needed no more.
    pub superfluous_files: Vec<String>,
    /// Modules that should be loaded and aren't.
    pub missing_modules: Vec<String>,
    /// Whether the agent's service doesn't start with the host.
    pub is_disabled: bool,
    /// Whether units don't find the agent's program, as it was uploaded.
    pub is_without_program: bool,
    /// Folders of ours that others than root may write to, and the modes that they should have.
    pub open_folders: Vec<(PathBuf, u32)>,
    /// How the agent's service is, in systemd's words.
    pub service: String,
}

/// A file of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedFile {
    /// Where.
    pub path: String,
    /// What it should hold.
    pub contents: String,
}

/// One step of the host.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Write one of our files.
    WriteFile(OwnedFile),
    /// Remove one that is needed no more.
    RemoveFile(String),
    /// Let the agent's service start with the host.
    Enable,
    /// Put the agent's program, which is running, back to where units find it.
    PutBackProgram,
    /// Leave a folder of ours to root alone, with this mode.
    CloseFolder(PathBuf, u32),
    /// Load a module of the kernel.
    LoadModule(String),
    /// Keep the former values of sysctls that hold already.
    NoteSysctls(Vec<String>),
    /// Set a sysctl, keeping its former value.
    SetSysctl(String, u64),
    /// Put back the sysctls that are wished for no more.
    RestoreSysctls(sysctls::Wishes),
    /// Make the bridge.
    MakeBridge(NewBridge),
    /// Give the bridge its name back.
    RenameBridge {
        index: u32,
        from: String,
        to: String,
    },
    /// Remove another one of ours.
    RemoveBridge { index: u32, name: String },
    /// Mark the bridge as ours.
    NameBridge(String),
    /// Give the bridge the MAC address and the settings that it was made with.
    MendBridge { name: String, mac: [u8; 6] },
    /// Set the bridge up, with this MTU.
    SetBridge { index: u32, mtu: Option<u32> },
    /// Give the bridge its address.
    AddAddress { index: u32, net: IpNet },
}

/// The uplink in use.
pub fn uplink(stored: &Stored<Host>) -> &str {
    match &stored.desired.uplink {
        Some(name) => name.as_str(),
        None => &stored.assigned.uplink,
    }
}

/// The uplink's own name, by which the kernel has its sysctls, and not one of its other names; the last one known
/// while it is away.
fn uplink_name<'a>(stored: &'a Stored<Host>, network: &'a Network) -> &'a str {
    let link = network.link(uplink(stored));
    link.map_or(&stored.assigned.uplink, |link| &link.name)
}

/// The host's IPv4 address on its uplink, or any other, now or when it was last seen.
pub fn ipv4(stored: &Stored<Host>, network: &Network) -> Option<IpAddr> {
    let bridge = network
        .link(stored.desired.bridge.as_str())
        .map(|link| link.index);
    let on_uplink = network
        .link(uplink(stored))
        .and_then(|link| facts::host_address(network, link.index, false));
    on_uplink.or(stored.assigned.ipv4).or_else(|| {
        network
            .addresses
            .iter()
            .filter(|address| address.global && Some(address.index) != bridge)
            .map(|address| address.net.addr())
            .find(|ip| matches!(ip, IpAddr::V4(ip) if !ip.is_loopback()))
    })
}

/// Looks at the host itself.
pub async fn observe(
    context: &Context,
    inventory: &Inventory,
    network: &Network,
) -> Result<Observed, Failure> {
    let Some(stored) = &inventory.host else {
        return Ok(Observed::default());
    };
    let uplink = uplink_name(stored, network);
    let wishes = sysctls::wishes(&sysctls::Needs {
        bridge: stored.desired.bridge.as_str(),
        uplink,
        other_uplinks: other_uplinks(inventory, network),
        nesting: stored.desired.nesting,
        advertised: sysctls::advertised(&context.store, network, uplink)?,
    });
    let mut compared = Vec::new();
    for file in plan::files(&stored.desired, &stored.assigned, &wishes) {
        let found = files::compare(Path::new(&file.path), &file.contents)?;
        compared.push((file, found));
    }
    let sysctls = sysctls::read(&wishes)?;
    Ok(Observed {
        unnoted_sysctls: sysctls::unnoted(
            &context.store,
            stored.desired.bridge.as_str(),
            &wishes,
            &sysctls,
        )?,
        sysctls,
        superfluous_sysctls: sysctls::superfluous(&context.store, &wishes)?,
        files: compared,
        superfluous_files: superfluous_files(&stored.desired)?,
        missing_modules: plan::modules(&stored.desired)
            .iter()
            .filter(|module| !is_loaded(module))
            .map(|module| (*module).to_owned())
            .collect(),
        is_disabled: install::is_disabled(),
        is_without_program: install::is_without_program(),
        open_folders: install::open_folders(context),
        service: install::service_state(context).await,
        wishes,
    })
}

/// The uplinks that single addresses name, by their own names.
fn other_uplinks<'a>(inventory: &'a Inventory, network: &'a Network) -> BTreeSet<&'a str> {
    let addresses = inventory.addresses.values();
    let named = addresses.filter_map(|address| address.desired.uplink.as_ref());
    named
        .map(|name| {
            let link = network.link(name.as_str());
            link.map_or(name.as_str(), |link| &link.name)
        })
        .collect()
}

fn superfluous_files(host: &Host) -> Result<Vec<String>, Failure> {
    let path = Path::new(plan::MODULES_FILE);
    let left = !host.nesting && files::read(path)?.is_some_and(|text| files::is_ours(&text));
    Ok(left
        .then(|| plan::MODULES_FILE.to_owned())
        .into_iter()
        .collect())
}

/// The files to watch.
pub fn watched(observed: &Observed) -> Vec<PathBuf> {
    let files = observed.files.iter().map(|(file, _)| (&file.path).into());
    files.chain(install::watched()).collect()
}

/// Whether a module is loaded or built in: both have a folder, unless it has no parameters.
fn is_loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).exists() || install::module_is_unavailable(module)
}

/// Does one step.
pub async fn perform(context: &Context, step: &Step) -> Result<(), Failure> {
    match step {
        Step::WriteFile(file) => {
            files::write_own(Path::new(&file.path), &file.contents, 0o644)?;
            if file.path.starts_with(plan::NETWORKD_FOLDER) {
                install::reload_networkd(context).await?;
            } else if file.path == install::UNIT_PATH {
                install::enable(context).await?;
            }
            Ok(())
        }
        Step::RemoveFile(path) => files::remove_file(Path::new(path)),
        Step::Enable => install::enable(context).await,
        Step::PutBackProgram => install::put_back_program(),
        Step::CloseFolder(path, mode) => files::close_folder(path, *mode),
        Step::LoadModule(name) => {
            install::load_module(context, name).await?;
            let host = context.store.get::<Host>("host")?;
            if host.is_some_and(|host| host.assigned.brought_bridge_filter) {
                sysctls::leave_bridges_alone()?;
            }
            Ok(())
        }
        Step::NoteSysctls(keys) => sysctls::note(&context.store, keys),
        Step::SetSysctl(key, value) => sysctls::set(&context.store, key, *value),
        Step::RestoreSysctls(wishes) => sysctls::restore(&context.store, wishes),
        Step::MakeBridge(bridge) => context.netlink.add_bridge(bridge).await,
        Step::RenameBridge { index, to, .. } => context.netlink.rename_link(*index, to).await,
        Step::RemoveBridge { index, .. } => context.netlink.delete_link(*index).await,
        Step::NameBridge(name) => context.netlink.name_link(name, bridge::ALIAS).await,
        Step::MendBridge { name, mac } => context.netlink.mend_bridge(name, *mac).await,
        Step::SetBridge { index, mtu } => context.netlink.set_link(*index, *mtu).await,
        Step::AddAddress { index, net } => context.netlink.add_address(*index, *net).await,
    }
}

impl Object for Host {
    type Prepared = ();

    const KEPT_WHEN_CREATE_FAILS: bool = false;

    fn key(&self) -> ObjectKey {
        ObjectKey::Host
    }

    fn what(&self) -> String {
        "nspawn_host of this machine".to_owned()
    }

    async fn prepare(
        &self,
        context: &Context,
        _: Option<&Stored<Self>>,
        _: &ContainerSecrets,
    ) -> Result<(), Failure> {
        admit::check_system(context).await?;
        packages::ensure_with(context, packages::BASE, self.install_packages).await
    }

    async fn admit(
        &self,
        context: &Context,
        _: &Inventory,
        previous: Option<&Stored<Self>>,
        (): (),
    ) -> Result<Assigned, Failure> {
        rollback::refuse_repetition(context)?;
        let assigned = admit::admit(context, self, previous).await?;
        install::switch(context)?;
        let uplink = match &self.uplink {
            Some(name) => name.as_str(),
            None => &assigned.uplink,
        };
        rollback::forget(context)?;
        if pending::is_needed(context, self, uplink, previous)? {
            stand_by::make_sure(context).await?;
            pending::arm(context, self, previous, &assigned.uplink).await?;
        } else {
            // rollback_after = "0s" keeps whatever waits.
            pending::disarm(context)?;
        }
        Ok(assigned)
    }

    /// The bridge is chosen once; guests that stand on the former one keep it there.
    fn must_be_made_anew(&self, left: &Stored<Self>, inventory: &Inventory) -> bool {
        left.desired.bridge != self.bridge && admit::check_unused(inventory).is_ok()
    }

    async fn settle(context: &Context, _: &Stored<Self>) -> Result<(), Failure> {
        install::start(context).await
    }

    async fn remove(
        context: &Context,
        inventory: &Inventory,
        stored: &Stored<Self>,
    ) -> Result<(), Failure> {
        admit::check_unused(inventory)?;
        container::finish(context).await?;
        clear(context, stored).await
    }

    async fn removed(context: &Context, _: &Stored<Self>) -> Result<(), Failure> {
        pending::disarm(context)?;
        rollback::forget(context)
    }
}

/// Removes all that was made for the host, and puts back what was changed.
pub async fn clear(context: &Context, stored: &Stored<Host>) -> Result<(), Failure> {
    install::stop_service(context).await?;
    let cleared = clear_but_service(context, stored).await;
    if cleared.is_err() {
        stand_by::again(context).await;
    }
    cleared
}

/// The same for the resident service itself, which ends by itself afterwards.
pub async fn clear_but_service(context: &Context, stored: &Stored<Host>) -> Result<(), Failure> {
    in_force::forget(context)?;
    crate::filter::clear(context).await?;
    let network = Network::dump(&context.netlink).await?;
    if let Some(link) = bridge::of_host(stored, &network, &facts::machine_id()?) {
        context.netlink.delete_link(link.index).await?;
    }
    clear_renamed_bridges(context, stored, &network).await?;
    for file in plan::files(&stored.desired, &stored.assigned, &Vec::new()) {
        if file.path != install::UNIT_PATH {
            files::remove_own_for_good(Path::new(&file.path))?;
        }
    }
    // Once their file is gone for good: a boot that still found it would set them, and nobody knew the former values.
    sysctls::restore(&context.store, &Vec::new())?;
    // A later change may have left the file of a host that had nesting on.
    files::remove_own_for_good(Path::new(plan::MODULES_FILE))?;
    install::reload_networkd(context).await?;
    // What an image that could not be made has left, too; check_unused() has seen that nobody needs it.
    image::tree::collect(&Inventory::default())?;
    off_thread((), |()| discarded::clear_all()).await?;
    image::tree::remove_empty_folders()?;
    slice::stop_empty(context).await?;
    files::remove_tree(&context.run_folder.join("network"))?;
    // The last, so that the next boot goes on with a removal that was cut off.
    install::remove_service(context).await
}

/// A bridge of ours that somebody has renamed goes, too, but for one that others use by now.
async fn clear_renamed_bridges(
    context: &Context,
    stored: &Stored<Host>,
    network: &Network,
) -> Result<(), Failure> {
    for link in bridge::others_of_ours(stored, network) {
        let none = Inventory::default();
        let port = bridge::foreign_ports(&none, network, link.index).next();
        match port {
            None => context.netlink.delete_link(link.index).await?,
            Some(port) => eprintln!(
                "nspawn-agent: the bridge {} is left, which was made as {}: {} is a port of it, which is somebody else's",
                link.name, stored.desired.bridge, port.name
            ),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn sysctls_go_by_an_uplinks_own_name() {
        let mut network = testing::network();
        network.links[0].alternative_names = vec!["wan".to_owned()];
        let mut inventory = testing::inventory(&["web"], &[("203.0.113.2", "web")]);
        for address in inventory.addresses.values_mut() {
            address.desired.uplink = "wan".parse().ok();
        }
        assert_eq!(other_uplinks(&inventory, &network), ["eth0"].into());
        let mut host = inventory.host.unwrap();
        host.desired.uplink = "wan".parse().ok();
        assert_eq!(uplink_name(&host, &network), "eth0");
        network.links.clear();
        assert_eq!(uplink_name(&host, &network), "eth0", "it is away");
    }
}
