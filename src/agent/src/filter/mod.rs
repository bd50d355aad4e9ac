//! The nftables table that keeps guests apart: who may send what from which port of the bridge.

mod elements;
mod neighbours;
mod on_link;
pub mod plan;
pub mod port;
mod table;

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use protocol::{Failure, FailureKind, name::MachineName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    context::Context,
    failure::Context as _,
    system::{
        files,
        netlink::{PortFlags, hexadecimal, mac_text},
        nft,
    },
};

pub use elements::{Elements, link_local};

/// The table.
pub const TABLE: &str = "nspawn_agent";

/// The families that have one of that name; the bridge's has all but what passes it by.
pub const FAMILIES: [&str; 3] = ["bridge", "inet", "arp"];

/// How the table is.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Identifies what the kernel has; none without a table.
    pub digest: Option<String>,
    /// What was loaded last.
    pub loaded: Option<Loaded>,
}

/// What was loaded last, kept below /run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// Identifies the rules of the agent that loaded it.
    rules: String,
    /// Who may send what.
    elements: Elements,
    /// Identifies what the kernel had right after.
    digest: String,
}

impl Observed {
    /// What is in force, when the kernel has what was loaded, and these are this agent's rules.
    pub fn in_force(&self) -> Option<&Elements> {
        let loaded = self.loaded.as_ref()?;
        let same = self.digest.as_ref() == Some(&loaded.digest) && loaded.rules == rules_digest();
        same.then_some(&loaded.elements)
    }
}

/// One step of the filter.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Load the table anew, in one transaction.
    Load(Elements),
    /// Change who may send what.
    Change {
        /// What is in force.
        from: Elements,
        /// What should be.
        to: Elements,
    },
    /// Remove the table.
    Remove,
    /// Make a guest's link a port of the bridge again, which was made anew.
    JoinBridge {
        /// The link's number.
        index: u32,
        /// Its name.
        name: String,
        /// The bridge's number.
        bridge: u32,
    },
    /// Set a port up.
    SetUp {
        /// Its number.
        index: u32,
        /// Its name.
        name: String,
    },
    /// Set the flags of a port.
    SetPort {
        /// Its number.
        index: u32,
        /// Its name.
        name: String,
        /// How it should behave.
        flags: PortFlags,
    },
    /// Say for good which guest is behind a port.
    AddForwarding {
        /// The port's number.
        index: u32,
        /// Its name.
        name: String,
        /// The guest.
        mac: [u8; 6],
    },
    /// Say for good where a guest is.
    FixNeighbour {
        /// Its address.
        address: IpAddr,
        /// The bridge's number.
        index: u32,
        /// The guest.
        mac: [u8; 6],
        /// Its port's number, another one each time that it starts: a guest that restarts often is not taken for
        /// somebody who removes the entry again and again.
        port: u32,
    },
    /// Take that back.
    DeleteNeighbour {
        /// Its address.
        address: IpAddr,
        /// The bridge's number.
        index: u32,
    },
    /// Let the bridge learn that by itself.
    DeleteForwarding {
        /// The port's number.
        index: u32,
        /// Its name.
        name: String,
        /// The guest.
        mac: [u8; 6],
    },
}

/// Where it is noted what was loaded last.
pub fn loaded_path(context: &Context) -> PathBuf {
    context.run_folder.join("filter.json")
}

fn rules_digest() -> String {
    hexadecimal(&Sha256::digest(table::text()))
}

/// Looks at the table.
pub async fn observe(context: &Context) -> Result<Observed, Failure> {
    let loaded =
        files::read(&loaded_path(context))?.and_then(|text| serde_json::from_slice(&text).ok());
    Ok(Observed {
        digest: kernel_digest(context).await?,
        loaded,
    })
}

/// What the kernel had when it was listed last.
pub type Listed = Option<Listing>;

/// What the kernel had.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The ruleset's generation by then.
    generation: u32,
    /// The time of the note of what was loaded by then, which is another one once somebody asks for a listing anew.
    noted: Option<SystemTime>,
    digest: Option<String>,
}

/// Identifies what the kernel has. On a full host listing takes long, and is needed only after somebody
/// has changed something, or has asked for it.
async fn kernel_digest(context: &Context) -> Result<Option<String>, Failure> {
    let (generation, noted) = (nft::generation(), noted_at(context));
    let known = context.filter_listed.borrow().clone();
    if let (Some(generation), Some(known)) = (generation, known)
        && (generation, noted) == (known.generation, known.noted)
    {
        return Ok(known.digest);
    }
    let mut digests = String::new();
    for family in FAMILIES {
        let listed = nft::list(context, &["table", family, TABLE]).await?;
        digests += &listed.as_ref().map(digest).unwrap_or_default();
    }
    let digest = (!digests.is_empty()).then_some(digests);
    let unchanged = nft::generation().filter(|later| Some(*later) == generation);
    *context.filter_listed.borrow_mut() = unchanged.map(|generation| Listing {
        generation,
        noted,
        digest: digest.clone(),
    });
    Ok(digest)
}

/// When it was noted what was loaded, or a listing was asked for since.
fn noted_at(context: &Context) -> Option<SystemTime> {
    fs::metadata(loaded_path(context)).ok()?.modified().ok()
}

/// Has the resident service list the table anew, which watches that file: another nft than the one that it has asked
/// lists the same rules in another way, and it would take its own listing for what there is.
fn ask_for_listing(context: &Context) -> Result<(), Failure> {
    let path = loaded_path(context);
    let touched = fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&path)
        .and_then(|file| file.set_modified(SystemTime::now()));
    match touched {
        // Nothing was loaded yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        touched => touched.doing(|| format!("touch {}", path.display())),
    }
}

/// The commands that remove whatever is there.
fn removal() -> String {
    FAMILIES
        .map(|family| format!("table {family} {TABLE}\ndelete table {family} {TABLE}\n"))
        .concat()
}

/// Removes what the kernel has.
pub async fn clear(context: &Context) -> Result<(), Failure> {
    if kernel_digest(context).await?.is_some() {
        nft::apply(context, &removal()).await?;
    }
    Ok(())
}

/// Identifies a listing, whatever the order of elements, the kernel's own numbers, and what packets put into sets.
fn digest(listing: &Value) -> String {
    hexadecimal(&Sha256::digest(normal(listing, "").to_string()))
}

fn normal(value: &Value, key: &str) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(key, _)| !matches!(key.as_str(), "handle" | "metainfo" | "index"))
                // nft 1.0.6 doesn't say that a set is dynamic.
                .filter(|(key, _)| *key != "elem" || !map.contains_key("timeout"))
                .map(|(key, value)| (key.clone(), normal(value, key)))
                .collect(),
        ),
        Value::Array(values) => {
            let mut values: Vec<_> = values.iter().map(|value| normal(value, key)).collect();
            if key == "elem" {
                values.sort_by_cached_key(Value::to_string);
            }
            Value::Array(values)
        }
        other => other.clone(),
    }
}

/// Does one step.
pub async fn perform(context: &Context, step: &Step) -> Result<(), Failure> {
    match step {
        Step::Load(elements) => load(context, whole(elements), elements).await,
        Step::Change { from, to } => {
            // It was changed since it was looked at, and perhaps by somebody else.
            let commands = if nft::generation() == listed_at(context) {
                to.removed_from(from) + &to.added_to(from)
            } else {
                whole(to)
            };
            load(context, commands, to).await
        }
        Step::Remove => {
            files::remove_file(&loaded_path(context))?;
            nft::apply(context, &removal()).await
        }
        Step::JoinBridge { index, bridge, .. } => {
            context.netlink.join_bridge(*index, *bridge).await
        }
        Step::SetUp { index, .. } => context.netlink.set_link(*index, None).await,
        Step::SetPort { index, flags, .. } => context.netlink.set_port(*index, *flags).await,
        Step::AddForwarding { index, mac, .. } => context.netlink.add_forwarding(*index, mac).await,
        Step::DeleteForwarding { index, mac, .. } => {
            context.netlink.delete_forwarding(*index, mac).await
        }
        Step::FixNeighbour {
            address,
            index,
            mac,
            ..
        } => context.netlink.fix_neighbour(*index, *address, mac).await,
        Step::DeleteNeighbour { address, index } => {
            context.netlink.delete_neighbour(*index, *address).await
        }
    }
}

/// The commands that put everything in the place of what is there.
fn whole(elements: &Elements) -> String {
    removal() + &table::text() + &elements.added_to(&Elements::default())
}

/// The ruleset's generation when it was listed last.
fn listed_at(context: &Context) -> Option<u32> {
    let listed = context.filter_listed.borrow();
    listed.as_ref().map(|listed| listed.generation)
}

/// How often somebody else may change a table between a load and its listing.
const LOADS: usize = 5;

/// Loads what the commands say, and notes how the kernel lists that. A listing is only ours when nobody has changed
/// anything since: it would make somebody else's rule among ours, or the table's absence, what should be there.
async fn load(context: &Context, mut commands: String, elements: &Elements) -> Result<(), Failure> {
    for _ in 0..LOADS {
        let before = nft::generation();
        nft::apply(context, &commands).await?;
        let digest = kernel_digest(context).await?.unwrap_or_default();
        let own = before.map(|before| before.wrapping_add(1));
        if own.is_none() || listed_at(context) == own {
            return note(context, elements, digest);
        }
        commands = whole(elements);
    }
    files::remove_file(&loaded_path(context))?;
    Err(Failure::new(
        FailureKind::Busy,
        format!("somebody changes nftables all the time, so that it can't be seen whether the table {TABLE} is as it should be"),
    )
    .help("Look what does on the host: nft monitor"))
}

fn note(context: &Context, elements: &Elements, digest: String) -> Result<(), Failure> {
    let loaded = Loaded {
        rules: rules_digest(),
        elements: elements.clone(),
        digest,
    };
    let text = serde_json::to_vec(&loaded)
        .map_err(std::io::Error::other)
        .doing(|| "note what the filter holds")?;
    files::create_folder(&context.run_folder, 0o755)?;
    files::replace(&loaded_path(context), &text, 0o600)?;
    // The note of a listing is no wish for another one.
    if let Some(listed) = context.filter_listed.borrow_mut().as_mut() {
        listed.noted = noted_at(context);
    }
    Ok(())
}

/// How long a container's start waits for the filter to let its port in.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fails when a container's port is not in the filter: a guest doesn't start unfiltered.
pub async fn admit_port(context: &Context, name: &MachineName) -> Result<(), Failure> {
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut has_asked = false;
    loop {
        let inventory = context.store.inventory()?;
        let isolated = inventory
            .host
            .as_ref()
            .is_some_and(|host| host.desired.isolation);
        let observed = observe(context).await?;
        let port = port::name(name);
        if !isolated
            || observed
                .in_force()
                .is_some_and(|elements| elements.has_port(&port))
        {
            return Ok(());
        }
        if tokio::time::Instant::now() >= end {
            return Err(Failure::new(
                FailureKind::System,
                format!(
                    "the filter that keeps guests apart doesn't know {name}, so it is not started"
                ),
            )
            .help("Look at the host's journal: journalctl -u nspawn-agent.service"));
        }
        if !has_asked && observed.in_force().is_none() {
            ask_for_listing(context)?;
            has_asked = true;
        }
        // The resident service loads it; there is nothing to be told by.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What deviates, told to a person.
pub fn sentence(step: &Step) -> String {
    match step {
        Step::Load(_) => format!("the nftables table {TABLE} is missing or was changed"),
        Step::Change { .. } => {
            format!("the nftables table {TABLE} doesn't hold what the containers need")
        }
        Step::Remove => {
            format!("the nftables table {TABLE} is there, though isolation is off")
        }
        Step::JoinBridge { name, .. } => format!("{name} is not a port of the bridge"),
        Step::SetUp { name, .. } => format!("the bridge port {name} is down"),
        Step::SetPort { name, .. } => format!("the bridge port {name} has other flags"),
        Step::AddForwarding { name, mac, .. } => {
            format!(
                "the forwarding entry of {} on the bridge port {name} is missing",
                mac_text(mac)
            )
        }
        Step::FixNeighbour { address, .. } => {
            format!("the neighbour entry of {address} on the bridge is missing or another's")
        }
        Step::DeleteNeighbour { address, .. } => {
            format!("a former neighbour entry of {address} is still on the bridge")
        }
        Step::DeleteForwarding { name, mac, .. } => format!(
            "the forwarding entry of {} on the bridge port {name} is there, though isolation is off",
            mac_text(mac)
        ),
    }
}

#[cfg(test)]
mod tests;
