//! The state tells the truth, whatever fails: creates, updates and deletes that fail half-way, what is gone
//! already, and upgrades of the provider.

#[path = "tells_the_truth/creates.rs"]
mod creates;
#[path = "tells_the_truth/gone.rs"]
mod gone;
#[path = "tells_the_truth/removals.rs"]
mod removals;
#[path = "tells_the_truth/updates.rs"]
mod updates;
#[path = "tells_the_truth/upgrades.rs"]
mod upgrades;

use std::{ops::Deref, time::Duration};

use acceptance_tests::{
    Hosts, Lab, Snapshot, Terraform, command::wait_until, configuration, images::Guest,
};
use anyhow::{Result, ensure};

const HOST: &str = "nspawn_host.vps1";
const IMAGE: &str = "nspawn_image.debian";
const WEB: &str = "nspawn_container.web";
const ADDRESS: &str = "nspawn_public_address.web4";
const ALL: [&str; 4] = [WEB, HOST, IMAGE, ADDRESS];

/// How long the resident service may take to mend something, on a busy machine.
const MENDED: Duration = Duration::from_mins(1);

/// A lab with one server, and how that was at first.
struct Site {
    lab: Lab,
    before: Snapshot,
}

impl Deref for Site {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Site {
    fn start() -> Result<Self> {
        Self::with(Hosts::one())
    }

    fn with(hosts: Hosts) -> Result<Self> {
        let lab = Lab::start(hosts)?;
        // The machine-wide sysctls are shared with the labs of other tests.
        let before = Snapshot::take(lab.vps1())?.without_shared();
        Ok(Self { lab, before })
    }

    /// The host and the image, and what is added.
    fn with_image(&self, more: &str) -> Result<String> {
        Ok(self.host("") + &configuration::image(Guest::Debian)? + more)
    }

    fn host(&self, more: &str) -> String {
        configuration::host(self.vps1(), more)
    }

    fn root(&self, script: &str) -> Result<String> {
        self.vps1().root(script)
    }

    /// Fails unless the server is as it was at first.
    fn is_as_before(&self) -> Result<()> {
        self.before.comes_back(self.vps1())
    }

    /// Ends a case: what the state knows is all that there is.
    fn ends_clean(&self, terraform: &Terraform) -> Result<()> {
        terraform.destroy()?;
        self.is_as_before()
    }

    /// What tells one run of a guest from the next.
    fn run_of(&self, guest: &str) -> Result<String> {
        self.root(&format!(
            "systemctl show -P MainPID -P ExecMainStartTimestampMonotonic systemd-nspawn@{guest}"
        ))
    }

    /// Waits until something holds on the server.
    fn wait_for(&self, script: &str) -> Result<()> {
        wait_until(script, MENDED, || self.root(script).map(drop))
    }
}

/// A guest whose start is waited for until it listens on a port that it never listens on.
const NEVER_READY: &str = "  wait_for = { port = 81, timeout = \"2s\" }";

/// Settings that systemd-nspawn refuses at the start.
const REFUSED_AT_START: &str =
    "  nspawn_config = { Files = { Bind = [\"/var/lib/nothing-there\"] } }";

/// Fails unless an error names each of these, says what to do, and is no backtrace.
fn says(printed: &str, words: &[&str]) -> Result<()> {
    // Terraform breaks lines and draws a frame around them.
    let text: Vec<&str> = printed
        .split_whitespace()
        .filter(|word| !matches!(*word, "│" | "╷" | "╵"))
        .collect();
    let text = text.join(" ");
    for word in words {
        ensure!(text.contains(word), "{word:?} is not in:\n{printed}");
    }
    for word in ["panicked", "RUST_BACKTRACE", "stack backtrace", "unwrap()"] {
        ensure!(!text.contains(word), "{word:?} is in:\n{printed}");
    }
    Ok(())
}

/// Fails unless the state holds just these, the tainted ones with a `!` behind.
fn state_holds(terraform: &Terraform, expected: &[&str]) -> Result<()> {
    let mut found: Vec<String> = terraform
        .resources_and_taints()?
        .into_iter()
        .map(|(address, tainted)| address + if tainted { "!" } else { "" })
        .collect();
    found.sort_unstable();
    ensure!(
        found == expected,
        "the state holds {found:?}, not {expected:?}"
    );
    Ok(())
}
