//! What else goes on while a change waits to be confirmed: somebody stops waiting, or has put something on it already.

use std::time::{Duration, Instant};

use acceptance_tests::{command::wait_until, images::Guest};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{
    CHANGES, Change, ROLLED_BACK,
    drills::{Drill, LIST},
    range::{BOUND, FEW_SECONDS, PROVIDER, Range, UNDISTURBED, words},
};

/// A `rollback_after` that lasts longer than what is tried meanwhile.
const LATER: Duration = Duration::from_secs(90);

/// An apply that is stopped ends within 20 seconds; and a moment for Terraform itself.
const STOPPED: Duration = Duration::from_secs(25);

/// Another uplink, with a default route that nothing takes.
const ANOTHER_UPLINK: &str = "\
    ip link add eth1 type veth peer name far1; ip link set eth1 addrgenmode none; ip link set far1 addrgenmode none
    ip link set eth1 up; ip link set far1 up
    ip addr add 192.0.2.130/25 dev eth1; ip route add default via 192.0.2.129 dev eth1 metric 5000";

/// The record of what sysctls were: those of an uplink are noted anew when it comes back, so that the text differs.
/// What it is for shows at destroy.
const FORMER_SYSCTLS: &str = "/etc/nspawn-agent/former-sysctls.json";

impl Range {
    fn configure_later(&self, drill: &Drill, more: &str) -> Result<()> {
        let later = format!("rollback_after = \"{}s\"", LATER.as_secs());
        let text = self.configuration(drill, more)?;
        ensure!(
            text.contains(UNDISTURBED),
            "{UNDISTURBED} is not in\n{text}"
        );
        self.terraform.configure(&text.replace(UNDISTURBED, &later))
    }

    /// Ctrl-C while nobody can confirm the change: the apply ends soon, and says what the host does by itself.
    pub fn interrupted(&self) -> Result<()> {
        let (drill, change) = (&LIST[1], &CHANGES[0]);
        self.configure_later(drill, "")?;
        self.terraform.apply()?;
        self.terraform.assert_plan_is_empty()?;
        let former = self.snapshot()?;
        self.configure_later(drill, change.asks)?;
        self.lie_in_wait(drill, change.made)?;
        let apply = self.start()?;
        self.has_fired()?;
        self.struck()?;
        ensure!(self.greets().is_err(), "SSH was never cut");
        let stopped = Instant::now();
        apply.signal(Signal::INT)?;
        let output = apply.wait(STOPPED)?;
        eprintln!(
            "        it ended {:.1} s after Ctrl-C",
            stopped.elapsed().as_secs_f64()
        );
        let said = words(&output.stderr);
        ensure!(!output.success(), "nobody was told:\n{said}");
        let by_itself = format!("by itself {}s after", LATER.as_secs());
        ensure!(said.contains(&by_itself), "{by_itself:?} is not in\n{said}");
        ensure!(self.greets().is_err(), "the host went back meanwhile");
        self.is_back(LATER + FEW_SECONDS)?;
        self.is_as_before(&former, &[ROLLED_BACK])?;
        self.terraform.apply().context("the change, once more")?;
        self.terraform.assert_plan_is_empty()
    }

    /// A host that was never confirmed stays when another state has put a container on it meanwhile.
    pub fn stays_for_a_container(&self) -> Result<()> {
        let drill = &LIST[2];
        self.terraform.destroy()?;
        self.configure_later(drill, "")?;
        self.lie_in_wait(drill, "true")?;
        let apply = self.start()?;
        self.has_fired()?;
        // Not killed yet: what a create has not brought to its end is undone with its session.
        let held_up = apply.signal_below(PROVIDER, Signal::STOP)?;
        ensure!(held_up == 1, "{held_up} providers were stopped");
        let vps = self.lab.vps1();
        vps.root("touch /dev/shm/go")?;
        wait_until("the host is made", BOUND, || {
            vps.root("test -e /etc/nspawn-agent/host.json && flock -n /run/nspawn-agent/lock true")
        })?;

        let other = self.lab.terraform(&of_another_state()?)?;
        other.apply()?;
        vps.root("test -e /etc/nspawn-agent/pending.json")
            .context("the container came too late")?;
        wait_until("nothing is pending", LATER + FEW_SECONDS, || {
            vps.root("test ! -e /etc/nspawn-agent/pending.json")
        })?;
        vps.root("journalctl -q -b -u nspawn-agent -o cat | grep -q 'containers or addresses stand on it: kept'")?;
        ensure!(vps.guest("other", "echo alive")?.trim() == "alive");
        other.assert_plan_is_empty()?;
        other.destroy()?;
        apply.signal_below(PROVIDER, Signal::KILL)?;
        ensure!(!apply.wait(BOUND)?.success(), "nobody was told");
        self.terraform.apply().context("once more")?;
        self.terraform.assert_plan_is_empty()
    }

    /// Another uplink is a change like others.
    pub fn another_uplink(&self) -> Result<()> {
        let vps = self.lab.vps1();
        self.terraform.destroy()?;
        vps.root(ANOTHER_UPLINK)?;
        let undone = self.undone_on_another_uplink(&LIST[1]);
        vps.root("ip link del eth1")?;
        undone
    }

    fn undone_on_another_uplink(&self, drill: &Drill) -> Result<()> {
        let change = Change {
            asks: "  uplink = \"eth1\"",
            told: "uplink the default route's -> eth1",
            made: "grep -q '\"uplink\": \"eth1\"' /etc/nspawn-agent/host.json",
            ..CHANGES[0]
        };
        let without = self.snapshot()?;
        self.terraform.configure(&self.configuration(drill, "")?)?;
        self.terraform.apply()?;
        self.terraform.assert_plan_is_empty()?;
        let former = self.snapshot()?;
        let said = self.struck_by(drill, &change)?;
        for part in ["rolled back, because", change.told, drill.says] {
            ensure!(said.contains(part), "{part:?} is not in\n{said}");
        }
        self.is_as_before(&former, &[ROLLED_BACK, FORMER_SYSCTLS])?;
        self.terraform.apply().context("the change, once more")?;
        self.terraform.assert_plan_is_empty()?;
        self.terraform.destroy()?;
        self.is_as_before(&without, &[])
    }
}

/// An image and a container of a state without a host.
fn of_another_state() -> Result<String> {
    let text = acceptance_tests::configuration::image(Guest::Debian)?
        + &acceptance_tests::configuration::container("other", "");
    Ok(text.replace("nspawn_host.vps1", "{ address = \"203.0.113.1\" }"))
}
