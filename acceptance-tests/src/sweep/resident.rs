//! What the resident service does by itself, ended at each of its points.

use std::fmt;

use anyhow::{Context, Result, ensure};

use super::{DISTURBED, SETTLED, Stage, Sweep, listing::listing};
use crate::{
    Snapshot,
    command::wait_until,
    faults::{Action, Faults, Point},
};

/// What the agent calls itself there.
const RESIDENT: &str = "resident";

/// What is kept of a change that was undone, to be told; and what is made when a provider comes.
const PASSING: [&str; 2] = [
    "/etc/nspawn-agent/rolled-back.json ",
    "/run/nspawn-agent/sessions ",
];

/// What goes missing at once.
const DAMAGE: &str = "nft flush ruleset; ip link del br0
    rm /etc/sysctl.d/90-nspawn-agent.conf /etc/systemd/nspawn/web.nspawn";

/// What the resident service is brought to do.
#[derive(Debug, Clone)]
pub enum Deed {
    /// To undo a change that isn't confirmed: to this configuration.
    RollBack(String),
    /// To put back what goes missing.
    Heal,
    /// To bring the host up after it was switched off.
    Boot,
}

impl fmt::Display for Deed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::RollBack(_) => "way back",
            Self::Heal => "healing",
            Self::Boot => "boot",
        })
    }
}

impl Sweep {
    /// Has it done at a stage that is applied, and tells which points the resident came by.
    pub fn record_deed(&self, deed: &Deed, stage: &Stage, host: &Snapshot) -> Result<Vec<Point>> {
        let agents = self.do_deed(deed, Faults::record)?;
        self.holds_after(stage, host)?;
        let mut points = agents.recorded()?;
        points.retain(|point| point.is_of(RESIDENT));
        Ok(points)
    }

    /// Has it done while the resident is killed at a point: the host must come to look as without that. Whether the
    /// point was reached.
    pub fn strike_deed(
        &self,
        deed: &Deed,
        point: &Point,
        stage: &Stage,
        host: &Snapshot,
    ) -> Result<bool> {
        let agents = self.do_deed(deed, |agents| agents.arm(point, Action::Kill))?;
        self.holds_after(stage, host)?;
        let reached = agents.reached();
        agents.disarm()?;
        Ok(reached)
    }

    fn do_deed(&self, deed: &Deed, prepare: impl Fn(&Faults) -> Result<()>) -> Result<Faults> {
        let vps = self.vps();
        if matches!(deed, Deed::Boot) {
            vps.power_off_hard()?;
            vps.power_on()?;
            // Before that, /dev may still be this machine's.
            wait_until("systemd boots", DISTURBED, || {
                vps.root("test -d /run/systemd/system")
            })?;
        }
        let agents = Faults::of_agents(vps)?;
        prepare(&agents)?;
        match deed {
            Deed::RollBack(configuration) => self.change_and_vanish(configuration)?,
            Deed::Heal => vps.root(DAMAGE).map(drop)?,
            Deed::Boot => vps.wait_until_reachable()?,
        }
        Ok(agents)
    }

    /// Applies a change of the host, and kills the provider before it confirms.
    fn change_and_vanish(&self, configuration: &str) -> Result<()> {
        let confirms = Point::first("provider", "before: send confirm");
        self.terraform.configure(configuration)?;
        self.providers.arm(&confirms, Action::Kill)?;
        let output = self.start(false)?.wait(DISTURBED)?;
        ensure!(
            self.providers.reached(),
            "nothing was to be confirmed:\n{}",
            output.stdout
        );
        self.providers.disarm()
    }

    /// By itself, and then with nothing left to do for Terraform.
    fn holds_after(&self, stage: &Stage, host: &Snapshot) -> Result<()> {
        self.looks_as(host).context("by itself")?;
        self.check_guests(stage)?;
        self.apply(stage)?;
        self.terraform.assert_plan_is_empty()?;
        self.looks_as(host)
    }

    /// Fails unless the host comes to look like this, but for what passes.
    pub(super) fn looks_as(&self, host: &Snapshot) -> Result<()> {
        let stays = |line: &str| !PASSING.iter().any(|passing| line.starts_with(passing));
        let plain = |host: Snapshot| host.map(|_, line| stays(line).then(|| line.to_owned()));
        plain(host.clone()).comes_back_within(SETTLED, || Ok(plain(listing(self.vps())?)))
    }
}
