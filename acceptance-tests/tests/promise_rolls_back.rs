//! Lock-out drills: a change of the host that cuts the operator off is undone in time, exactly, and said.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use acceptance_tests::{
    Hosts, Lab, Snapshot,
    command::{Output, Process, wait_until},
    configuration,
    promise::{Cases, Effort, Promise},
    proxy::{Line, Proxy},
    terraform::Terraform,
};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

/// What the drills set as `rollback_after`.
const ROLLBACK_AFTER: Duration = Duration::from_secs(10);

/// "A few seconds": for the host to go back, on a machine that does many other things meanwhile.
const FEW_SECONDS: Duration = Duration::from_secs(8);

/// The longest time that a run may take: the host's time, and twice the patience of the provider.
const BOUND: Duration = Duration::from_mins(2);

/// A table that was not there before and lets nobody in.
const CUT: &str = "nft 'add table inet evil; add chain inet evil in { type filter hook input priority -5; }; \
                   add rule inet evil in tcp dport 22 drop'";

/// The operator's own firewall.
const FIREWALL: &str = "\
table inet operator {
    chain in {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ip saddr 192.0.2.66 drop
        meta l4proto { 1, 58 } accept
        tcp dport 22 accept
    }
    chain out {
        type filter hook output priority 0; policy accept;
    }
}
";

const PROVIDER: &str = "terraform-provider-nspawn";

/// The processes of the agent, by what they do.
const SERVE: &str = "nspawn-agent-[0-9a-f]* serve";
const RESIDENT: &str = "nspawn-agent resident";

/// How a drill goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The host itself does it.
    OnTheHost(&'static str),
    /// The provider is killed.
    ProviderKilled,
    /// The line carries nothing any more, and stays open.
    Frozen,
    /// The host reboots, cut off.
    Rebooted,
    /// Its power is cut.
    PowerCut,
}

#[derive(Debug, Clone, Copy)]
struct Drill {
    name: &'static str,
    way: Way,
    /// What the error says was put back.
    says: &'static str,
}

const fn on_the_host(name: &'static str, script: &'static str, says: &'static str) -> Drill {
    Drill {
        name,
        way: Way::OnTheHost(script),
        says,
    }
}

const fn beside(name: &'static str, way: Way) -> Drill {
    Drill {
        name,
        way,
        says: "",
    }
}

/// The list of the promise; every run of CI tries these.
const LIST: [Drill; 7] = [
    on_the_host(
        "the route to the operator is dropped",
        "ip route del default; ip -6 route del default",
        "the default route via 172.31.1.1 on eth0 is back",
    ),
    on_the_host(
        "an nft rule cuts port 22",
        CUT,
        "the nftables table inet evil, which had come since, is gone",
    ),
    beside(
        "the provider is killed before it confirms",
        Way::ProviderKilled,
    ),
    beside("the connection is frozen, not closed", Way::Frozen),
    beside(
        "the host is rebooted while a change is pending",
        Way::Rebooted,
    ),
    on_the_host(
        "the agent is killed while a change is pending",
        "CUT; pkill -KILL -f 'RESIDENT'; pkill -KILL -f 'SERVE'",
        "the nftables table inet evil",
    ),
    on_the_host(
        "the agent hangs with the host's lock while a change is pending",
        "CUT; pkill -STOP -f 'SERVE'",
        "the nftables table inet evil",
    ),
];

/// More of each kind.
const MORE: [Drill; 9] = [
    on_the_host(
        "the rules that let the operator in are deleted",
        "nft flush chain inet operator in",
        "a rule that was gone from the chain in (table inet operator) is back",
    ),
    on_the_host(
        "the uplink loses its addresses",
        "ip addr flush dev eth0",
        "the address 203.0.113.1/32 is back on eth0",
    ),
    on_the_host(
        "the uplink is set down",
        "ip link set eth0 down",
        "eth0 is up again",
    ),
    on_the_host(
        "a policy that was there becomes drop",
        "nft 'add chain inet operator out { policy drop; }'",
        "the policy of the chain out (table inet operator) is accept again",
    ),
    on_the_host(
        "a rule in a chain that was there cuts port 22",
        "nft 'insert rule inet operator in tcp dport 22 drop'",
        "a rule of the chain in (table inet operator) that drops packets",
    ),
    on_the_host(
        "another route leads the operator's packets astray",
        "ip route add 198.51.100.0/24 dev lo",
        "the route to 198.51.100.0/24, which had come since, is gone",
    ),
    on_the_host(
        "the resident service is killed again and again",
        "CUT; for i in 1 2 3 4 5 6; do pkill -KILL -f 'RESIDENT' || true; sleep 0.3; done",
        "the nftables table inet evil",
    ),
    on_the_host(
        "the resident service is told to end by a stray signal",
        "CUT; pkill -TERM -f 'RESIDENT'",
        "the nftables table inet evil",
    ),
    beside("the power is cut while a change is pending", Way::PowerCut),
];

/// What is tried on.
struct Range {
    lab: Lab,
    terraform: Terraform,
    proxy: Proxy,
}

impl Range {
    fn new() -> Result<Self> {
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
    fn configuration(&self, drill: &Drill, more: &str) -> Result<String> {
        let vps = self.lab.vps1();
        let more = format!(
            "  rollback_after = \"{}s\"\n{more}",
            ROLLBACK_AFTER.as_secs()
        );
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
    fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::take(self.lab.vps1())?.without("sysctl-machine"))
    }

    /// Runs a script on the host as soon as a change is pending, and notes that in a file.
    fn lie_in_wait(&self, script: &str) -> Result<()> {
        let script = script
            .replace("CUT", CUT)
            .replace("SERVE", SERVE)
            .replace("RESIDENT", RESIDENT);
        let vps = self.lab.vps1();
        vps.root(&format!(
            "rm -f /dev/shm/fired /dev/shm/go; cat >/dev/shm/drill <<'END'\n\
             until [ -e /etc/nspawn-agent/pending.json ]; do sleep 0.005; done\n{script}\ntouch /dev/shm/fired\nEND\n\
             systemctl stop run-drill.service 2>/dev/null || true\n\
             systemctl reset-failed run-drill.service 2>/dev/null || true\n\
             systemd-run -q --collect --unit=run-drill sh -u /dev/shm/drill"
        ))
        .map(drop)
    }

    fn has_fired(&self) -> Result<()> {
        wait_until("the drill begins", BOUND, || {
            self.lab.vps1().root("test -e /dev/shm/fired").map(drop)
        })
    }

    /// Whether SSH's greeting comes within a moment.
    fn greets(&self) -> Result<String> {
        let address = SocketAddr::from((self.lab.vps1().block().ipv4, 22));
        self.lab
            .client()
            .banner(address, Duration::from_millis(700))
    }

    /// Waits until the operator gets in again, and tells how long after the drill began that was.
    fn is_back(&self, begun: Instant, limit: Duration) -> Result<()> {
        wait_until("SSH greets again", limit, || self.greets())?;
        self.lab.vps1().ssh("true")?.checked()?;
        eprintln!(
            "        SSH was back after {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Does what the drill is about while the apply runs; then SSH has to be back in time.
    fn drill(&self, drill: &Drill, apply: &Process) -> Result<()> {
        let vps = self.lab.vps1();
        self.has_fired()?;
        let begun = Instant::now();
        let limit = ROLLBACK_AFTER + FEW_SECONDS;
        match drill.way {
            Way::OnTheHost(_) => {
                ensure!(self.greets().is_err(), "SSH was never cut");
                self.is_back(begun, limit)
            }
            Way::ProviderKilled => {
                let killed = apply.signal_below(PROVIDER, Signal::KILL)?;
                ensure!(killed == 1, "{killed} providers were killed");
                vps.root("touch /dev/shm/go")?;
                self.is_gone_back(begun, limit)
            }
            Way::Frozen => {
                self.proxy.freeze();
                vps.root("touch /dev/shm/go")?;
                self.is_gone_back(begun, limit)?;
                self.proxy.thaw();
                Ok(())
            }
            Way::Rebooted => {
                wait_until("the host reboots", BOUND, || {
                    ensure!(vps.restart_if_rebooted()?, "it doesn't yet");
                    Ok(())
                })?;
                vps.wait_until_up()?;
                self.is_back(begun, limit)
            }
            Way::PowerCut => {
                vps.power_off_hard()?;
                vps.power_on()?;
                vps.wait_until_up()?;
                self.is_back(begun, limit)
            }
        }
    }

    /// The operator was never cut off from this host: only its own change has to go in time.
    fn is_gone_back(&self, begun: Instant, limit: Duration) -> Result<()> {
        wait_until("nothing is pending", limit, || {
            self.lab
                .vps1()
                .root("test ! -e /etc/nspawn-agent/pending.json")
        })?;
        self.is_back(begun, limit)
    }

    fn script(drill: &Drill) -> &'static str {
        match drill.way {
            Way::OnTheHost(script) => script,
            // It waits in the middle of the change, and then goes on with it.
            Way::ProviderKilled | Way::Frozen => {
                "pkill -STOP -f 'SERVE'; touch /dev/shm/fired; until [ -e /dev/shm/go ]; do sleep 0.01; done; \
                 pkill -CONT -f 'SERVE'"
            }
            Way::Rebooted => {
                "CUT; until [ -e /etc/nspawn-agent/host.json ]; do sleep 0.01; done; sync; touch /dev/shm/fired; systemctl reboot --force"
            }
            Way::PowerCut => {
                "CUT; until [ -e /etc/nspawn-agent/host.json ]; do sleep 0.01; done; sync"
            }
        }
    }

    fn apply_through(&self, drill: &Drill) -> Result<Output> {
        self.lie_in_wait(Self::script(drill))?;
        let apply = self.start()?;
        let drilled = self.drill(drill, &apply);
        self.proxy.thaw();
        let output = apply.wait(BOUND)?;
        drilled.with_context(|| words(&(output.stdout.clone() + &output.stderr)))?;
        Ok(output)
    }

    /// A change of a host that was made and confirmed before.
    fn update(&self, drill: &Drill, change: &str, told: &str) -> Result<()> {
        let configure = |more: &str| self.terraform.configure(&self.configuration(drill, more)?);
        configure("")?;
        self.terraform.apply()?;
        if matches!(drill.way, Way::Rebooted | Way::PowerCut) {
            // What comes of a boot is compared with what came of one.
            self.lab.vps1().reboot()?;
        }
        self.terraform.assert_plan_is_empty()?;
        let former = self.snapshot()?;

        configure(change)?;
        let output = self.apply_through(drill)?;
        let said = words(&output.stderr);
        ensure!(!output.success(), "nobody was told:\n{said}");
        let provider_lives = drill.way != Way::ProviderKilled;
        if provider_lives {
            for part in ["rolled back, because", told, drill.says] {
                ensure!(said.contains(part), "{part:?} is not in\n{said}");
            }
        }
        self.is_as_before(&former, &[ROLLED_BACK])?;

        let plan = words(&self.terraform.plan()?);
        for part in ["was rolled back", told, drill.says] {
            ensure!(plan.contains(part), "{part:?} is not in\n{plan}");
        }
        self.terraform.apply().context("the change, once more")?;
        self.terraform.assert_plan_is_empty()?;
        configure("")?;
        self.terraform.apply().map(drop)
    }

    /// A change on top of one that waits to be confirmed: both go.
    fn on_top(&self) -> Result<()> {
        let killed = &LIST[2];
        let after = Drill {
            way: Way::OnTheHost(
                "until grep -q '\"nesting\": true' /etc/nspawn-agent/pending.json; do sleep 0.005; done; \
                 ip route del default; ip -6 route del default",
            ),
            ..LIST[0]
        };
        self.terraform.configure(&self.configuration(killed, "")?)?;
        self.terraform.apply()?;
        self.terraform.assert_plan_is_empty()?;
        let former = self.snapshot()?;

        let first = self.configuration(killed, "  isolation = false")?;
        let long = first.replace(&format!("\"{}s\"", ROLLBACK_AFTER.as_secs()), "\"60s\"");
        self.terraform.configure(&long)?;
        self.lie_in_wait(Self::script(killed))?;
        let apply = self.start()?;
        self.has_fired()?;
        apply.signal_below(PROVIDER, Signal::KILL)?;
        self.lab.vps1().root("touch /dev/shm/go")?;
        apply.wait(BOUND)?;

        let second = self.configuration(&after, "  isolation = false\n  nesting = true")?;
        self.terraform.configure(&second)?;
        let said = words(&self.apply_through(&after)?.stderr);
        for part in ["isolation true -> false, nesting false -> true", after.says] {
            ensure!(said.contains(part), "{part:?} is not in\n{said}");
        }
        // A provider that is killed loses what Terraform kept for it: the next run took the host over.
        self.is_as_before(&former, &[ROLLED_BACK, HOST])?;
        let desired = self.lab.vps1().root(&format!("cat {HOST}"))?;
        for former in ["\"isolation\": true", "\"nesting\": false", "\"10s\""] {
            ensure!(desired.contains(former), "{former} is not in\n{desired}");
        }
        self.terraform.apply().context("the changes, once more")?;
        self.terraform.assert_plan_is_empty()
    }

    /// Another bridge is another host in the same place: the new one goes, and the old one was destroyed.
    fn replace(&self, drill: &Drill) -> Result<()> {
        self.terraform.destroy()?;
        let former = self.snapshot()?;
        self.terraform.configure(&self.configuration(drill, "")?)?;
        self.terraform.apply()?;
        let another = self.configuration(drill, "  bridge = \"br1\"")?;
        self.terraform.configure(&another)?;
        let output = self.apply_through(drill)?;
        let said = words(&output.stderr);
        ensure!(said.contains("rolled back, because"), "{said}");
        self.is_as_before(&former, &[])?;
        self.terraform.apply().context("once more")?;
        self.terraform.assert_plan_is_empty()
    }

    fn start(&self) -> Result<Process> {
        self.terraform
            .start(&["apply", "-auto-approve", "-input=false"])
    }

    /// A host that was not ours before.
    fn create(&self, drill: &Drill) -> Result<()> {
        self.terraform.destroy()?;
        if matches!(drill.way, Way::Rebooted | Way::PowerCut) {
            self.lab.vps1().reboot()?;
        }
        let former = self.snapshot()?;
        self.terraform.configure(&self.configuration(drill, "")?)?;
        let output = self.apply_through(drill)?;
        let said = words(&output.stderr);
        ensure!(!output.success(), "nobody was told:\n{said}");
        if drill.way != Way::ProviderKilled {
            ensure!(said.contains("rolled back"), "{said}");
        }
        self.is_as_before(&former, &[])?;
        self.terraform.apply().context("once more")?;
        self.terraform.assert_plan_is_empty()
    }

    fn is_as_before(&self, former: &Snapshot, but: &[&str]) -> Result<()> {
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

/// The note by which the host tells the next run what it undid.
const ROLLED_BACK: &str = "/etc/nspawn-agent/rolled-back.json";

/// What the host should be like.
const HOST: &str = "/etc/nspawn-agent/host.json";

/// What Terraform printed, without its frames and line breaks.
fn words(text: &str) -> String {
    text.replace(['│', '╷', '╵'], " ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

const CHANGES: [(&str, &str); 2] = [
    ("  isolation = false", "isolation true -> false"),
    ("  nesting = true", "nesting false -> true"),
];

#[test]
fn a_change_that_locks_the_operator_out_is_undone() -> Result<()> {
    let effort = Effort::of_this_run();
    let range = Range::new()?;
    let mut cases = Cases::of(Promise::RollsBack)?;
    let mut drills = LIST.to_vec();
    if effort == Effort::Long {
        drills.extend(MORE);
    }
    for drill in &drills {
        for (change, told) in effort.pick(CHANGES.to_vec(), 1) {
            let name = format!("update, {told}: {}", drill.name);
            cases.case(name, || range.update(drill, change, told));
        }
    }
    for drill in drills
        .iter()
        .filter(|drill| effort == Effort::Long || on_create_always(drill))
    {
        cases.case(format!("create: {}", drill.name), || range.create(drill));
    }
    if effort == Effort::Long {
        cases.case("update on top of an unconfirmed one", || range.on_top());
        cases.case("another bridge", || range.replace(&LIST[0]));
    }
    cases.finish()
}

fn on_create_always(drill: &Drill) -> bool {
    drill.name == LIST[0].name || drill.name == LIST[5].name
}
