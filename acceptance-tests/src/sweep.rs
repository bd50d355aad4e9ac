//! The kill sweep: an operation of Terraform, ended at each of its fault points, and taken up again.

mod listing;
mod resident;

use std::{fmt, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use self::listing::{listing, settled};
pub use self::resident::Deed;
use crate::{
    Lab, Snapshot, Terraform, Vps,
    command::{Process, wait_until},
    faults::{Action, Faults, Point},
};

/// How long a host may take until its addresses are verified, and the resident has mended what is left to it.
const SETTLED: Duration = Duration::from_mins(1);
/// How long an apply may take that something is ended in.
const DISTURBED: Duration = Duration::from_mins(5);

/// The provider's program.
const PROVIDER: &str = "terraform-provider-nspawn";

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
    /// The whole server at a point of the provider, which goes on when the server is back.
    PowerAtProvider,
}

/// What is ended, where, and how Terraform runs meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Strike<'a> {
    /// What is ended.
    pub fault: Fault,
    /// The point at which.
    pub point: &'a Point,
    /// Whether Terraform takes one resource after the other: what runs side by side comes by in another order each
    /// time.
    pub in_turn: bool,
    /// What is applied first afterwards, and how the host is then: somebody wants what was before after all.
    pub regretted: Option<(&'a Stage, &'a Snapshot)>,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Agent => "kill",
            Self::Provider => "kill the provider",
            Self::Power => "cut the power",
            Self::PowerEverywhere => "cut the power everywhere",
            Self::PowerAtProvider => "cut the power at",
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

    /// Applies a stage while something is ended at a point, and then once more as anybody would, perhaps after what was
    /// before. The host must then be as after an apply that nothing happened to. Whether the point was reached.
    pub fn strike(&self, strike: &Strike, stage: &Stage, expected: &Snapshot) -> Result<bool> {
        self.terraform.configure(&stage.configuration)?;
        let point = strike.point;
        let struck = match strike.fault {
            Fault::Agent => self.kill(&Faults::of_agents(self.vps())?, strike),
            Fault::Provider => self.kill(&self.providers, strike),
            _ => self.cut_power(strike),
        };
        let reached = struck.with_context(|| format!("at {point}"))?;
        let converges = || -> Result<()> {
            if let Some((former, expected)) = strike.regretted {
                self.converges(former)?;
                self.looks_as(expected).context("as it was before")?;
            }
            self.converges(stage)?;
            self.check(expected)
        };
        converges().with_context(|| format!("struck at {point}"))?;
        Ok(reached)
    }

    /// A plain apply brings a stage about.
    fn converges(&self, stage: &Stage) -> Result<()> {
        self.apply(stage).context("the apply after it")?;
        self.terraform.assert_plan_is_empty()?;
        self.check_guests(stage)
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

    fn kill(&self, faults: &Faults, strike: &Strike) -> Result<bool> {
        faults.arm(strike.point, Action::Kill)?;
        // It may fail, or succeed over a new connection.
        self.start(strike.in_turn)?.wait(DISTURBED)?;
        let reached = faults.reached();
        faults.disarm()?;
        Ok(reached)
    }

    fn cut_power(&self, strike: &Strike) -> Result<bool> {
        // What was done before is on the disk, as after some time; what the operation does is not.
        self.vps().root("sync -f /")?;
        let agents = Faults::of_agents(self.vps())?;
        let is_at_provider = strike.fault == Fault::PowerAtProvider;
        let faults = if is_at_provider {
            &self.providers
        } else {
            &agents
        };
        faults.arm(strike.point, Action::Freeze)?;
        let mut apply = self.start(strike.in_turn)?;
        let what = "the point is reached or the apply ends";
        wait_until(what, DISTURBED, || {
            let over = faults.reached() || !apply.is_running();
            ensure!(over, "so far:\n{}", apply.printed());
            Ok(())
        })?;
        if !faults.reached() {
            faults.disarm()?;
            return Ok(false);
        }
        self.vps().cut_power()?;
        if strike.fault == Fault::PowerEverywhere {
            // Ends the provider along with Terraform.
            drop(apply);
            self.boot()?;
            return Ok(true);
        }
        self.boot()?;
        if is_at_provider {
            faults.disarm()?;
            apply.signal_below(PROVIDER, Signal::CONT)?;
        }
        // It may have failed, or have taken up its work when the server was back.
        apply.wait(DISTURBED)?;
        Ok(true)
    }

    fn boot(&self) -> Result<()> {
        self.vps().power_on()?;
        self.vps().wait_until_reachable()
    }

    fn start(&self, in_turn: bool) -> Result<Process> {
        let mut arguments = vec!["apply", "-auto-approve", "-input=false"];
        if in_turn {
            arguments.push("-parallelism=1");
        }
        self.terraform.start(&arguments)
    }
}
