//! A host that is struck while a change of it waits to be confirmed, and how it is looked at.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use acceptance_tests::{
    Hosts, Lab, Snapshot,
    command::{Output, Process, wait_until},
    configuration,
    proxy::{Line, Proxy},
    terraform::Terraform,
};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::drills::{Drill, SERVE, Way};

/// That of a change that is to succeed, on a machine that does many other things meanwhile.
pub const UNDISTURBED: &str = "rollback_after = \"60s\"";

/// "A few seconds": for the host to go back, on a machine that does many other things meanwhile.
pub const FEW_SECONDS: Duration = Duration::from_secs(15);

/// For the host to boot.
const BOOT: Duration = Duration::from_mins(2);

/// The longest time that a run may take: the host's time, and twice the patience of the provider.
pub const BOUND: Duration = Duration::from_mins(2);

pub const PROVIDER: &str = "terraform-provider-nspawn";

/// The operator's own firewall.
const FIREWALL: &str = "\
table inet operator {
    set outside {
        type ifname
        elements = { eth0 }
    }
    chain refuse {
        drop
    }
    chain services {
        tcp dport 22 accept
    }
    chain in {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ip saddr 192.0.2.66 drop
        meta l4proto { 1, 58 } accept
        jump services
        meta l4proto 17 jump refuse
        drop
    }
    chain out {
        type filter hook output priority 0; policy accept;
    }
}
";

/// What is tried on.
pub struct Range {
    pub lab: Lab,
    pub terraform: Terraform,
    proxy: Proxy,
}

impl Range {
    /// A host that is not ours yet.
    pub fn new() -> Result<Self> {
        let lab = Lab::start(Hosts::one())?;
        let target = SocketAddr::from((lab.vps1().block().ipv4, 22));
        let proxy = Proxy::start(lab.client(), target, Line::default())?;
        let terraform = lab.terraform("")?;
        // The operator's own firewall, which is none of ours.
        lab.vps1().root(&format!(
            "cat >/etc/nftables.conf <<'END'\n{FIREWALL}END\nsystemctl enable -q --now nftables"
        ))?;
        Ok(Self {
            lab,
            terraform,
            proxy,
        })
    }

    /// A host with more attributes, reached over the line that can freeze, or past it.
    pub fn configuration(&self, drill: &Drill, more: &str) -> Result<String> {
        let vps = self.lab.vps1();
        let more = format!("  {UNDISTURBED}\n{more}");
        if drill.way != Way::Frozen {
            return Ok(configuration::host(vps, &more));
        }
        let line = self.proxy.address();
        Ok(configuration::host(
            vps,
            &format!(
                "{more}\n  port = {}\n  host_key = \"{}\"",
                line.port(),
                vps.host_key()?
            ),
        )
        .replace(&vps.block().ipv4.to_string(), "127.0.0.1"))
    }

    /// All but what is shared with other labs, and the note of what was rolled back.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::take(self.lab.vps1())?.without_shared())
    }

    /// Gives what is applied from now on its time again.
    pub fn take_time(&self) -> Result<()> {
        let text = self.terraform.configuration()?;
        let its_own = text.lines().find(|line| line.contains("rollback_after ="));
        let its_own = its_own.context("it sets no rollback_after")?.trim();
        self.terraform
            .configure(&text.replace(its_own, UNDISTURBED))
    }

    /// Lets a drill strike as soon as a change is pending, however busy the machine is; the host has to go back soon.
    pub fn lie_in_wait(&self, drill: &Drill, made: &str) -> Result<()> {
        let text = self.terraform.configuration()?;
        let soon = format!("rollback_after = \"{}s\"", drill.rollback_after().as_secs());
        self.terraform
            .configure(&text.replace(UNDISTURBED, &soon))?;
        let script = drill.script(made);
        self.lab
            .vps1()
            .root(&format!(
                "rm -f /dev/shm/fired /dev/shm/go /var/log/drill /var/log/drill-failed; cat >/dev/shm/drill <<'END'\n{script}END\n\
                 systemctl stop run-drill.service 2>/dev/null || true\n\
                 systemctl reset-failed run-drill.service 2>/dev/null || true\n\
                 systemd-run -q --collect -p Nice=-20 -p CPUWeight=10000 --unit=run-drill sh -u /dev/shm/drill"
            ))
            .map(drop)
    }

    /// Waits until the drill goes on.
    pub fn has_fired(&self) -> Result<()> {
        wait_until("the drill begins", BOUND, || {
            self.lab.vps1().root("test -e /dev/shm/fired").map(drop)
        })
    }

    /// When the drill struck; fails when nothing was pending any more, or when what it does to the host failed.
    pub fn struck(&self) -> Result<SystemTime> {
        // The host may be down, or be cut off from its own processes.
        let log = self.lab.vps1().root_folder().join("var/log");
        let failed = fs::read_to_string(log.join("drill-failed")).unwrap_or_default();
        ensure!(
            failed.is_empty(),
            "what the drill does didn't happen:\n{failed}"
        );
        let noted = fs::read_to_string(log.join("drill")).context("the drill has not struck")?;
        let (at, when) = noted
            .trim()
            .split_once(' ')
            .with_context(|| format!("the drill noted {noted:?}"))?;
        ensure!(
            when == "pending",
            "the drill struck too late: the change was confirmed already, so that nothing was to be rolled back"
        );
        Ok(UNIX_EPOCH + Duration::from_secs_f64(at.parse()?))
    }

    /// Whether SSH's greeting comes within a moment.
    pub fn greets(&self) -> Result<String> {
        let address = SocketAddr::from((self.lab.vps1().block().ipv4, 22));
        self.lab
            .client()
            .banner(address, Duration::from_millis(700))
    }

    /// Waits until the operator gets in again, so long after the drill struck at the latest.
    pub fn is_back(&self, limit: Duration) -> Result<()> {
        let struck = self.struck()?;
        wait_until("SSH greets again", left(struck, limit), || self.greets())?;
        let took = struck.elapsed().unwrap_or_default();
        ensure!(took <= limit, "SSH was back after {took:?}, not {limit:?}");
        self.lab.vps1().ssh("true")?.checked()?;
        eprintln!("        SSH was back after {:.1} s", took.as_secs_f64());
        Ok(())
    }

    /// Does what the drill is about while the apply runs; then SSH has to be back in time.
    pub fn drill(&self, drill: &Drill, apply: &Process) -> Result<()> {
        let vps = self.lab.vps1();
        let limit = drill.rollback_after() + FEW_SECONDS;
        // A host that reboots takes the sign along.
        if drill.way != Way::Rebooted {
            self.has_fired()?;
            self.struck()?;
        }
        match drill.way {
            Way::OnTheHost(_) => {
                ensure!(self.greets().is_err(), "SSH was never cut");
                self.is_back(limit)
            }
            Way::ProviderKilled => self.kill_provider(drill, apply),
            Way::Frozen => {
                self.proxy.freeze();
                vps.root("touch /dev/shm/go")?;
                self.is_gone_back(limit)?;
                self.proxy.thaw();
                Ok(())
            }
            Way::Rebooted => {
                wait_until("the host reboots", BOUND, || {
                    ensure!(vps.restart_if_rebooted()?, "it doesn't yet");
                    Ok(())
                })?;
                vps.wait_until_up()?;
                self.is_back(limit + BOOT)
            }
            Way::PowerCut => {
                vps.power_off_hard()?;
                vps.power_on()?;
                vps.wait_until_up()?;
                self.is_back(limit + BOOT)
            }
        }
    }

    /// Ends the provider of a change that a drill holds still; once that goes on, the host has to go back in time.
    pub fn kill_provider(&self, drill: &Drill, apply: &Process) -> Result<()> {
        let killed = apply.signal_below(PROVIDER, Signal::KILL)?;
        ensure!(killed == 1, "{killed} providers were killed");
        self.lab.vps1().root("touch /dev/shm/go")?;
        self.is_gone_back(drill.rollback_after() + FEW_SECONDS)
    }

    /// The operator was never cut off from this host: only its own change has to go in time.
    fn is_gone_back(&self, limit: Duration) -> Result<()> {
        let left = left(self.struck()?, limit);
        wait_until("nothing is pending", left, || {
            self.lab
                .vps1()
                .root("test ! -e /etc/nspawn-agent/pending.json")
        })?;
        self.is_back(limit)
    }

    /// Applies a change that a drill strikes; `made` succeeds on the host once the change itself is there.
    pub fn apply_through(&self, drill: &Drill, made: &str) -> Result<Output> {
        self.lie_in_wait(drill, made)?;
        // A line that is frozen is given up after three times as long.
        let apply = match drill.way {
            Way::Frozen => self.start_with(&[("NSPAWN_SSH_CONNECT_TIMEOUT", "3s")])?,
            _ => self.start()?,
        };
        let drilled = self.drill(drill, &apply);
        self.proxy.thaw();
        let output = apply.wait(BOUND)?;
        drilled.with_context(|| words(&(output.stdout.clone() + &output.stderr)))?;
        self.take_time()?;
        Ok(output)
    }

    pub fn start(&self) -> Result<Process> {
        self.start_with(&[])
    }

    fn start_with(&self, environment: &[(&str, &str)]) -> Result<Process> {
        self.terraform
            .start_with(&["apply", "-auto-approve", "-input=false"], environment)
    }

    /// Ends whatever a drill may have left, when this is dropped, so that the next one begins with nothing of it.
    pub fn cleans_up(&self) -> CleanUp<'_> {
        CleanUp(self)
    }

    /// Fails unless the host comes to look as it did, but for lines that have such words.
    pub fn is_as_before(&self, former: &Snapshot, but: &[&str]) -> Result<()> {
        // Addresses are verified, and units end, a moment after SSH is back.
        wait_until(
            "the former state is restored",
            Duration::from_secs(30),
            || {
                let mut differences = former.differences(&self.snapshot()?);
                // The note of an earlier drill may be replaced by another.
                for lines in [&mut differences.gone, &mut differences.new] {
                    lines.retain(|line| !but.iter().any(|but| line.contains(but)));
                }
                ensure!(differences.is_empty(), "\n{differences}");
                Ok(())
            },
        )
    }
}

fn left(struck: SystemTime, limit: Duration) -> Duration {
    limit.saturating_sub(struck.elapsed().unwrap_or_default())
}

pub struct CleanUp<'a>(&'a Range);

impl Drop for CleanUp<'_> {
    fn drop(&mut self) {
        self.0.proxy.thaw();
        let cleaned = self.0.lab.vps1().root(&format!(
            "systemctl stop run-drill.service 2>/dev/null || true; touch /dev/shm/go; rm -f /var/log/drill /var/log/drill-failed
             pkill -CONT -f '{SERVE}' || true; nft delete table inet evil 2>/dev/null || true"
        ));
        if let Err(error) = cleaned {
            eprintln!("what the drill has left stays: {error:#}");
        }
    }
}

/// What Terraform printed, without its frames and line breaks.
pub fn words(text: &str) -> String {
    text.replace(['│', '╷', '╵'], " ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}
