//! The kill sweep: an operation of Terraform, ended at each of its fault points, and taken up again.

use std::{fmt, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    Lab, Snapshot, Terraform, Vps,
    command::{Process, wait_until},
    faults::{Action, Faults, Point},
};

/// How long a host may take until its addresses are verified, and the resident has mended what is left to it.
const SETTLED: Duration = Duration::from_mins(1);
/// How long an apply may take that something is ended in.
const DISTURBED: Duration = Duration::from_mins(5);

/// A configuration, and the guests that answer when it is applied: their addresses and names.
#[derive(Debug, Clone)]
pub struct Stage {
    /// What is applied.
    pub configuration: String,
    /// Who answers then.
    pub guests: Vec<(&'static str, &'static str)>,
}

/// What is ended at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A process of the agent, by SIGKILL.
    Agent,
    /// The provider, by SIGKILL.
    Provider,
    /// The whole server, as by a power cut, at a point of the agent; Terraform goes on, and meets it again.
    Power,
    /// The same, and the operator's machine along with it.
    PowerEverywhere,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Agent => "kill",
            Self::Provider => "kill the provider",
            Self::Power => "cut the power",
            Self::PowerEverywhere => "cut the power everywhere",
        })
    }
}

/// What an undisturbed apply came by, and what it left.
#[derive(Debug)]
pub struct Recording {
    /// The points of the agent's processes.
    pub agent: Vec<Point>,
    /// The points of the provider.
    pub provider: Vec<Point>,
    /// How the host is then.
    pub host: Snapshot,
}

/// A lab in which operations are swept.
#[derive(Debug)]
pub struct Sweep {
    // Before the lab, whose folder it is in.
    terraform: Terraform,
    providers: Faults,
    /// How the host was before anything was applied.
    before: Snapshot,
    lab: Lab,
}

impl Sweep {
    /// Nothing is applied yet.
    pub fn new(lab: Lab) -> Result<Self> {
        let mut terraform = lab.terraform_with_faults("")?;
        let providers = Faults::of_providers(&mut terraform)?;
        let before = settled(lab.vps1())?;
        Ok(Self {
            terraform,
            providers,
            before,
            lab,
        })
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The server.
    pub fn vps(&self) -> &Vps {
        self.lab.vps1()
    }

    /// Applies a stage without any fault, and tells what it came by.
    pub fn record(&self, stage: &Stage) -> Result<Recording> {
        let agents = Faults::of_agents(self.vps())?;
        agents.record()?;
        self.providers.record()?;
        self.apply(stage)?;
        let (agent, provider) = (agents.recorded()?, self.providers.recorded()?);
        self.check_guests(stage)?;
        let host = settled(self.vps())?;
        Ok(Recording {
            agent,
            provider,
            host,
        })
    }

    /// Applies a stage without any fault.
    pub fn apply(&self, stage: &Stage) -> Result<()> {
        self.terraform.configure(&stage.configuration)?;
        self.terraform.apply().map(drop)
    }

    /// Removes everything; the host must then be as it was before.
    pub fn destroy(&self) -> Result<()> {
        self.terraform.destroy()?;
        self.check(&self.before)
    }

    /// Applies a stage while something is ended at a point, and then once more as anybody would. The host must
    /// then be as after an apply that nothing happened to. Whether the point was reached: what runs side by
    /// side comes by in another order each time.
    pub fn strike(
        &self,
        fault: Fault,
        point: &Point,
        stage: &Stage,
        expected: &Snapshot,
    ) -> Result<bool> {
        self.terraform.configure(&stage.configuration)?;
        let reached = match fault {
            Fault::Agent => self.kill(&Faults::of_agents(self.vps())?, point)?,
            Fault::Provider => self.kill(&self.providers, point)?,
            Fault::Power | Fault::PowerEverywhere => self.cut_power(fault, point)?,
        };
        self.terraform.apply().context("the apply after it")?;
        self.terraform.assert_plan_is_empty()?;
        self.check_guests(stage)?;
        self.check(expected)?;
        Ok(reached)
    }

    /// Fails unless the host comes to look like this.
    pub fn check(&self, expected: &Snapshot) -> Result<()> {
        expected
            .comes_back_within(SETTLED, || listing(self.vps()))
            .context("after an undisturbed apply")
    }

    fn check_guests(&self, stage: &Stage) -> Result<()> {
        stage
            .guests
            .iter()
            .try_for_each(|(address, name)| self.lab.answers_as(address, name))
    }

    fn kill(&self, faults: &Faults, point: &Point) -> Result<bool> {
        faults.arm(point, Action::Kill)?;
        // It may fail, or succeed over a new connection.
        self.start()?.wait(DISTURBED)?;
        let reached = faults.reached();
        faults.disarm()?;
        Ok(reached)
    }

    fn cut_power(&self, fault: Fault, point: &Point) -> Result<bool> {
        // What was done before is on the disk, as after some time; what the operation does is not.
        self.vps().root("sync -f /")?;
        let agents = Faults::of_agents(self.vps())?;
        agents.arm(point, Action::Freeze)?;
        let mut apply = self.start()?;
        let what = "the point is reached or the apply ends";
        wait_until(what, DISTURBED, || {
            let over = agents.reached() || !apply.is_running();
            ensure!(over, "so far:\n{}", apply.printed());
            Ok(())
        })?;
        if !agents.reached() {
            agents.disarm()?;
            return Ok(false);
        }
        self.vps().cut_power()?;
        if fault == Fault::PowerEverywhere {
            // Ends the provider along with Terraform.
            drop(apply);
            self.boot()?;
        } else {
            self.boot()?;
            // It may have failed, or have taken up its work when the server was back.
            apply.wait(DISTURBED)?;
        }
        Ok(true)
    }

    fn boot(&self) -> Result<()> {
        self.vps().power_on()?;
        self.vps().wait_until_reachable()
    }

    fn start(&self) -> Result<Process> {
        self.terraform
            .start(&["apply", "-auto-approve", "-input=false"])
    }
}

fn settled(vps: &Vps) -> Result<Snapshot> {
    wait_until("the host's network is settled", SETTLED, || listing(vps))
}

/// How a host is, but for what differs after each apply, and what all labs on this machine share.
fn listing(vps: &Vps) -> Result<Snapshot> {
    const OWN: &str = "
        for folder in /var/lib/nspawn-agent /run/nspawn-agent /usr/local/lib/nspawn-agent; do
            if [ -e $folder ]; then find $folder -xdev -maxdepth 3 -printf '%p %y %m %U:%G\\n'; fi
        done";
    let listing =
        Snapshot::take(vps)?
            .without("sysctl-machine")
            .with("files-of-the-agent", vps, OWN)?;
    let verified = listing
        .section("addresses")
        .all(|line| !line.contains(" tentative "));
    ensure!(verified, "an address is still being verified");
    Ok(listing.map(steady))
}

/// A line without what differs after each apply.
fn steady(section: &str, line: &str) -> Option<String> {
    let without_last = || line.rsplit_once(' ').map_or(line, |(rest, _)| rest);
    let without_first = || line.split_once(' ').map_or(line, |(_, rest)| rest);
    Some(match section {
        // The first boot has more to do than the others.
        "units" if line.ends_with(" loaded active exited") => return None,
        "files-etc" if line.starts_with("/etc/.updated ") => return None,
        // The contents hold tokens, sessions, salts and process ids.
        "files-etc" if line.starts_with("/etc/nspawn-agent/") => without_last().to_owned(),
        "files-of-systemd" if line.starts_with("/run/systemd/machines/") => {
            without_last().to_owned()
        }
        "files-of-systemd" if line.starts_with("/run/systemd/nspawn/locks/inode-") => {
            "the lock of a machine's root".to_owned()
        }
        "bridge" if line.contains(": <") => without_first().to_owned(),
        "links" => without_history(line),
        // The kernel gives the bridge one with its first guest.
        "addresses" if line.starts_with("br0 ") && line.contains(" kernel_ll ") => return None,
        "routes" if line.starts_with("local fe80::") && line.contains(" dev br0 ") => return None,
        // Whether the last guest's link was gone when the listing was made.
        "routes" => line.replace(" linkdown", ""),
        // Made with the first guest since the boot.
        "files-of-the-agent"
            if line.starts_with("/run/nspawn-agent/network d ")
                || line.starts_with("/run/nspawn-agent/started d ") =>
        {
            return None;
        }
        // The kernel lists the elements of a set in an order of its own.
        "nftables" => line
            .trim_start_matches("elements = { ")
            .trim_end_matches([',', ' ', '}'])
            .to_owned(),
        // Only the first mount of an upper layer has it. overlayfs.rst, uuid
        "mounts" => line.replace(",uuid=on", ""),
        _ => line.to_owned(),
    })
}

/// A bridge's timers run, it remembers what its ports could do, and it numbers them as they come.
fn without_history(line: &str) -> String {
    let mut words = line.split(' ');
    let mut kept = Vec::new();
    // Whether a bridge has a carrier says whether the last guest's link was gone already.
    let is_bridge = line.starts_with("br0: ");
    while let Some(word) = words.next() {
        let is_history = ["tso_max_size", "port_id", "port_no", "designated_port"].contains(&word);
        if word.ends_with("_timer") || is_history || (is_bridge && word == "state") {
            words.next();
        } else if is_bridge && word.starts_with('<') {
            kept.push("<>");
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}
