//! What stands in the way of going back, or was changed by somebody else meanwhile.

use anyhow::{Context, Result, ensure};

use super::{
    CHANGES, ROLLED_BACK,
    drills::{Drill, on_the_host},
    range::{BOUND, Range, words},
};

/// A firewall beside the operator's own, whose policies somebody changes.
const OFFICE: &str = "\
table inet office {
    chain early {
        type filter hook input priority -10; policy drop;
        iif lo accept
        meta l4proto { 1, 58 } accept
        tcp dport 22 accept
    }
    chain forward {
        type filter hook forward priority 0; policy accept;
    }
}
";

impl Range {
    /// A host's create that nobody waits for any more when its filter is loaded, which is among the last steps.
    pub fn cancelled_late(&self) -> Result<()> {
        let drill = on_the_host(
            "the provider is killed late",
            "until nft list table bridge nspawn_agent > /dev/null 2>&1; do :; done; must pkill -STOP -f 'SERVE'; struck; \
             touch /dev/shm/fired; until [ -e /dev/shm/go ]; do sleep 0.01; done; pkill -CONT -f 'SERVE'",
            "",
        );
        self.terraform.destroy()?;
        let former = self.snapshot()?;
        self.terraform.configure(&self.configuration(&drill, "")?)?;
        self.lie_in_wait(&drill, "true")?;
        let apply = self.start()?;
        self.has_fired()?;
        self.kill_provider(&drill, &apply)?;
        let output = apply.wait(BOUND)?;
        ensure!(!output.success(), "nobody was told:\n{}", output.stdout);
        self.create_is_undone(&former)
    }

    /// What is open by now is not closed, and what only forwards or is about guests is left alone, while the way in comes
    /// back.
    pub fn found_open(&self) -> Result<()> {
        let drill = on_the_host(
            "a firewall is opened, and emptied",
            "must nft 'add chain inet office early { policy accept; }; add chain inet office forward { policy drop; }; \
             flush chain inet operator in; \
             add table ip raw; add chain ip raw PREROUTING { type filter hook prerouting priority raw; }; \
             add rule ip raw PREROUTING ip daddr 172.17.0.2 iifname != \"docker0\" counter drop'",
            "a rule that was gone from the chain in (table inet operator) is back",
        );
        let vps = self.lab.vps1();
        vps.root(&format!("nft -f - <<'END'\n{OFFICE}END"))?;
        let undone = self.undone_beside_open_chains(&drill);
        // Nothing that is forwarded would pass it, so that the host would be refused.
        vps.root("nft delete table inet office; nft delete table ip raw 2>/dev/null || true")?;
        undone?;
        self.terraform.apply().context("the change, once more")?;
        self.terraform.assert_plan_is_empty()
    }

    fn undone_beside_open_chains(&self, drill: &Drill) -> Result<()> {
        self.terraform.configure(&self.configuration(drill, "")?)?;
        self.terraform.apply()?;
        let said = self.struck_by(drill, &CHANGES[0])?;
        for part in ["rolled back, because", drill.says] {
            ensure!(said.contains(part), "{part:?} is not in\n{said}");
        }
        ensure!(!said.contains("the policy of"), "{said}");
        for (chain, holds) in [
            ("inet office early", "policy accept"),
            ("inet office forward", "policy drop"),
            ("inet operator in", "policy drop"),
            ("inet operator in", "jump services"),
            ("ip raw PREROUTING", "ip daddr 172.17.0.2"),
        ] {
            let listed = self.lab.vps1().root(&format!("nft list chain {chain}"))?;
            ensure!(listed.contains(holds), "{holds:?} is not in\n{listed}");
        }
        self.lab.vps1().ssh("true")?.checked().map(drop)
    }

    /// Routes come back while nft can't be run, and the rest once it can.
    pub fn without_nft(&self) -> Result<()> {
        let change = &CHANGES[0];
        // Without a program of that name there would be no rules to look at.
        let drill = on_the_host(
            "nft can't be run",
            "must ip route del default; must ip -6 route del default; struck; until MADE; do sleep 0.01; done; \
             must chmod a-x /usr/sbin/nft",
            "the default route via 172.31.1.1 on eth0 is back",
        );
        self.terraform.configure(&self.configuration(&drill, "")?)?;
        self.terraform.apply()?;
        self.terraform.assert_plan_is_empty()?;
        let former = self.snapshot()?;

        let asked = self.configuration(&drill, change.asks)?;
        self.terraform.configure(&asked)?;
        self.lie_in_wait(&drill, change.made)?;
        let apply = self.start()?;
        let drilled = self.drill(&drill, &apply);
        self.lab.vps1().root("chmod a+x /usr/sbin/nft")?;
        let output = apply.wait(BOUND)?;
        drilled.with_context(|| words(&(output.stdout.clone() + &output.stderr)))?;
        ensure!(!output.success(), "nobody was told:\n{}", output.stdout);
        self.is_as_before(&former, &[ROLLED_BACK])?;
        self.take_time()?;
        let plan = words(&self.terraform.plan()?);
        for part in ["was rolled back", change.told, drill.says] {
            ensure!(plan.contains(part), "{part:?} is not in\n{plan}");
        }
        self.terraform.apply().context("the change, once more")?;
        self.terraform.assert_plan_is_empty()
    }
}
