//! The nftables table that keeps guests apart: who may send what from which port of the bridge.

mod elements;
pub mod plan;
pub mod port;
mod table;

use std::{path::PathBuf, time::Duration};

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

pub use elements::Elements;

/// The table, in the bridge family.
pub const TABLE: &str = "nspawn_agent";

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
}

fn loaded_path(context: &Context) -> PathBuf {
    context.run_folder.join("filter.json")
}

fn rules_digest() -> String {
    hexadecimal(&Sha256::digest(table::text()))
}

/// Looks at the table.
pub async fn observe(context: &Context) -> Result<Observed, Failure> {
    let loaded =
        files::read(&loaded_path(context))?.and_then(|text| serde_json::from_slice(&text).ok());
    let listed = nft::list(context, &["table", "bridge", TABLE]).await?;
    Ok(Observed {
        digest: listed.as_ref().map(digest),
        loaded,
    })
}

/// Identifies a listing, whatever the order of elements and the kernel's own numbers.
fn digest(listing: &Value) -> String {
    hexadecimal(&Sha256::digest(normal(listing, "").to_string()))
}

fn normal(value: &Value, key: &str) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(key, _)| !matches!(key.as_str(), "handle" | "metainfo" | "index"))
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
        Step::Load(elements) => {
            let commands = format!(
                "table bridge {TABLE}\ndelete table bridge {TABLE}\n{}{}",
                table::text(),
                elements.added_to(&Elements::default())
            );
            load(context, &commands, elements).await
        }
        Step::Change { from, to } => {
            let commands = format!("{}{}", to.removed_from(from), to.added_to(from));
            load(context, &commands, to).await
        }
        Step::Remove => {
            files::remove_file(&loaded_path(context))?;
            nft::apply(context, &format!("delete table bridge {TABLE}\n")).await
        }
        Step::JoinBridge { index, bridge, .. } => {
            context.netlink.join_bridge(*index, *bridge).await
        }
        Step::SetUp { index, .. } => context.netlink.set_link(*index, None).await,
        Step::SetPort { index, flags, .. } => context.netlink.set_port(*index, *flags).await,
        Step::AddForwarding { index, mac, .. } => context.netlink.add_forwarding(*index, mac).await,
    }
}

async fn load(context: &Context, commands: &str, elements: &Elements) -> Result<(), Failure> {
    nft::apply(context, commands).await?;
    let listed = nft::list(context, &["table", "bridge", TABLE]).await?;
    let loaded = Loaded {
        rules: rules_digest(),
        elements: elements.clone(),
        digest: listed.as_ref().map(digest).unwrap_or_default(),
    };
    let text = serde_json::to_vec(&loaded)
        .map_err(std::io::Error::other)
        .doing(|| "note what the filter holds")?;
    files::create_folder(&context.run_folder, 0o755)?;
    files::replace(&loaded_path(context), &text, 0o600)
}

/// How long a container's start waits for the filter to let its port in.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fails when a container's port is not in the filter: a guest doesn't start unfiltered.
pub async fn admit_port(context: &Context, name: &MachineName) -> Result<(), Failure> {
    let end = tokio::time::Instant::now() + PATIENCE;
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
        // The resident service loads it; there is nothing to be told by.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What deviates, told to a person.
pub fn sentence(step: &Step) -> String {
    match step {
        Step::Load(_) => format!("the nftables table bridge {TABLE} is missing or was changed"),
        Step::Change { .. } => {
            format!("the nftables table bridge {TABLE} doesn't hold what the containers need")
        }
        Step::Remove => {
            format!("the nftables table bridge {TABLE} is there, though isolation is off")
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
    }
}

#[cfg(test)]
mod tests;
