//! Lock-out drills: a change of the host that cuts the operator off is undone in time, exactly, and said.

#[path = "rolls_back/beside.rs"]
mod beside;
#[path = "rolls_back/drills.rs"]
mod drills;
#[path = "rolls_back/obstacles.rs"]
mod obstacles;
#[path = "rolls_back/range.rs"]
mod range;

use acceptance_tests::{
    Snapshot,
    command::wait_until,
    promise::{Cases, Effort, Promise},
};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use self::{
    drills::{Drill, FIREWALLS, LIST, MORE, Way, on_the_host},
    range::{BOUND, PROVIDER, Range, UNDISTURBED, words},
};

/// The resource whose changes are rolled back.
const RESOURCE: &str = "nspawn_host.vps1";

impl Range {
    /// A change of a host that was made and confirmed before.
    fn update(&self, drill: &Drill, change: &Change) -> Result<()> {
        let Change { asks, told, .. } = *change;
        let configure = |more: &str| self.terraform.configure(&self.configuration(drill, more)?);
        configure("")?;
        self.terraform.apply()?;
        if matches!(drill.way, Way::Rebooted | Way::PowerCut) {
            // What comes of a boot is compared with what came of one.
            self.lab.vps1().reboot()?;
        }
        self.terraform.assert_plan_is_empty()?;
        let former = self.snapshot()?;

        configure(asks)?;
        let output = self.apply_through(drill, change.made)?;
        let said = words(&output.stderr);
        ensure!(!output.success(), "nobody was told:\n{said}");
        let provider_lives = drill.way != Way::ProviderKilled;
        if provider_lives {
            for part in ["rolled back, because", told, drill.says] {
                ensure!(said.contains(part), "{part:?} is not in\n{said}");
            }
        }
        self.is_as_before(&former, &[ROLLED_BACK])?;
        let state = self.terraform.resource(RESOURCE)?;
        ensure!(
            state[change.attribute] == change.former,
            "the state doesn't hold the former values: {state}"
        );

        let plan = words(&self.terraform.plan()?);
        for part in ["was rolled back", told, drill.says] {
            ensure!(plan.contains(part), "{part:?} is not in\n{plan}");
        }
        self.terraform.apply().context("the change, once more")?;
        self.terraform.assert_plan_is_empty()
    }

    /// A change on top of one that waits to be confirmed: both go.
    fn on_top(&self) -> Result<()> {
        let killed = &LIST[2];
        let after = Drill {
            way: Way::OnTheHost(
                "until grep -q '\"nesting\": true' /etc/nspawn-agent/pending.json; do sleep 0.005; done; \
                 must ip route del default; must ip -6 route del default",
            ),
            ..LIST[0]
        };
        self.terraform.configure(&self.configuration(killed, "")?)?;
        self.terraform.apply()?;
        self.terraform.assert_plan_is_empty()?;
        let former = self.snapshot()?;

        let first = self.configuration(killed, "  isolation = false")?;
        let long = first.replace(UNDISTURBED, "rollback_after = \"90s\"");
        self.terraform.configure(&long)?;
        self.lie_in_wait(killed, "true")?;
        let apply = self.start()?;
        self.has_fired()?;
        apply.signal_below(PROVIDER, Signal::KILL)?;
        self.lab.vps1().root("touch /dev/shm/go")?;
        apply.wait(BOUND)?;

        let second = self.configuration(&after, "  isolation = false\n  nesting = true")?;
        self.terraform.configure(&second)?;
        let said = words(&self.apply_through(&after, "true")?.stderr);
        for part in ["isolation true -> false, nesting false -> true", after.says] {
            ensure!(said.contains(part), "{part:?} is not in\n{said}");
        }
        // A provider that is killed loses what Terraform kept for it: the next run took the host over.
        self.is_as_before(&former, &[ROLLED_BACK, HOST])?;
        let desired = self.lab.vps1().root(&format!("cat {HOST}"))?;
        for former in ["\"isolation\": true", "\"nesting\": false", "\"60s\""] {
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
        let output = self.apply_through(drill, "true")?;
        let said = words(&output.stderr);
        ensure!(said.contains("rolled back, because"), "{said}");
        self.is_as_before(&former, &[])?;
        self.terraform.apply().context("once more")?;
        self.terraform.assert_plan_is_empty()
    }

    /// A host that was not ours before.
    fn create(&self, drill: &Drill) -> Result<()> {
        self.terraform.destroy()?;
        if matches!(drill.way, Way::Rebooted | Way::PowerCut) {
            self.lab.vps1().reboot()?;
        }
        let former = self.snapshot()?;
        self.terraform.configure(&self.configuration(drill, "")?)?;
        let output = self.apply_through(drill, "[ -e /sys/class/net/br0 ]")?;
        let said = words(&output.stderr);
        ensure!(!output.success(), "nobody was told:\n{said}");
        if drill.way != Way::ProviderKilled {
            ensure!(said.contains("rolled back"), "{said}");
        }
        self.create_is_undone(&former)
    }

    /// Nothing of a create is left, at most a tainted host in the state; the next apply makes it.
    fn create_is_undone(&self, former: &Snapshot) -> Result<()> {
        self.is_as_before(former, &[])?;
        let state = self.terraform.resources_and_taints()?;
        ensure!(
            state.is_empty() || state == [(RESOURCE.to_owned(), true)],
            "the state holds what is not there: {state:?}"
        );
        self.take_time()?;
        self.terraform.apply().context("once more")?;
        self.terraform.assert_plan_is_empty()
    }

    /// With `rollback_after = "0s"` nothing ever waits to be confirmed.
    fn turned_off(&self) -> Result<()> {
        let configure = |more: &str| {
            let text = self.configuration(&LIST[0], more)?;
            let off = "rollback_after = \"0s\"";
            self.terraform.configure(&text.replace(UNDISTURBED, off))
        };
        configure("")?;
        self.terraform.apply()?;
        self.lie_in_wait(&on_the_host("nothing is done", "true", ""), "true")?;
        configure("  isolation = false")?;
        self.terraform.apply()?;
        self.terraform.assert_plan_is_empty()?;
        self.lab
            .vps1()
            .root("systemctl -q is-active run-drill; test ! -e /dev/shm/fired")
            .context("the change was pending")?;
        configure("")?;
        self.terraform.apply().map(drop)
    }

    /// Lets a drill strike a change, which fails; gives what was printed.
    fn struck_by(&self, drill: &Drill, change: &Change) -> Result<String> {
        let asked = self.configuration(drill, change.asks)?;
        self.terraform.configure(&asked)?;
        let output = self.apply_through(drill, change.made)?;
        ensure!(!output.success(), "nobody was told:\n{}", output.stdout);
        Ok(words(&output.stderr))
    }

    /// The disk with the agent's files is full when the time is up.
    fn full_disk(&self) -> Result<()> {
        let vps = self.lab.vps1();
        let change = &CHANGES[0];
        let drill = on_the_host(
            "the disk is full",
            "CUT; until MADE; do sleep 0.01; done; cat /dev/zero > /etc/nspawn-agent/filling || true",
            "",
        );
        self.terraform.configure(&self.configuration(&drill, "")?)?;
        self.terraform.apply()?;
        vps.root(
            "systemctl stop nspawn-agent; cp -a /etc/nspawn-agent /run/kept
             mount -t tmpfs -o size=256k,mode=700 tmpfs /etc/nspawn-agent
             cp -a /run/kept/. /etc/nspawn-agent; rm -r /run/kept; systemctl start nspawn-agent",
        )?;
        let undone = self.undone_on_a_full_disk(&drill, change);
        vps.root(
            "systemctl stop nspawn-agent; rm -f /etc/nspawn-agent/filling; cp -a /etc/nspawn-agent /run/kept
             umount /etc/nspawn-agent; find /etc/nspawn-agent -mindepth 1 -delete
             cp -a /run/kept/. /etc/nspawn-agent; rm -r /run/kept; systemctl start nspawn-agent",
        )?;
        undone?;
        self.terraform.apply().context("the change, once more")?;
        self.terraform.assert_plan_is_empty()
    }

    fn undone_on_a_full_disk(&self, drill: &Drill, change: &Change) -> Result<()> {
        self.struck_by(drill, change)?;
        let went_back = format!(
            "test ! -e /etc/nspawn-agent/pending.json; grep -q '\"isolation\": true' {HOST}
             if {}; then exit 1; fi",
            change.made
        );
        wait_until("the host has gone back", BOUND, || {
            self.lab.vps1().root(&went_back)
        })
        .map(drop)
    }
}

/// The note by which the host tells the next run what it undid.
const ROLLED_BACK: &str = "/etc/nspawn-agent/rolled-back.json";

/// What the host should be like.
const HOST: &str = "/etc/nspawn-agent/host.json";

/// A change of a host that was made before.
#[derive(Clone, Copy)]
struct Change {
    asks: &'static str,
    /// How errors and plans tell it.
    told: &'static str,
    /// What succeeds on the host once it is made.
    made: &'static str,
    /// What it changes, and what that was before.
    attribute: &'static str,
    former: bool,
}

const CHANGES: [Change; 2] = [
    Change {
        asks: "  isolation = false",
        told: "isolation true -> false",
        made: "! nft list table bridge nspawn_agent > /dev/null 2>&1",
        attribute: "isolation",
        former: true,
    },
    Change {
        asks: "  nesting = true",
        told: "nesting false -> true",
        made: "grep -qs overcommit_memory /etc/sysctl.d/90-nspawn-agent.conf",
        attribute: "nesting",
        former: false,
    },
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
    // Words of the drills to try, by hand.
    let only = std::env::var("NSPAWN_DRILL").unwrap_or_default();
    let mut try_one = |name: String, case: &dyn Fn() -> Result<()>| {
        if !name.contains(&only) {
            return;
        }
        cases.case(name, || {
            let _cleaned = range.cleans_up();
            case()
        });
    };
    for drill in &drills {
        for change in effort.pick(CHANGES.to_vec(), 1) {
            let name = format!("update, {}: {}", change.told, drill.name);
            try_one(name, &|| range.update(drill, &change));
        }
    }
    for drill in drills
        .iter()
        .filter(|drill| effort == Effort::Long || on_create_always(drill))
    {
        let name = format!("create: {}", drill.name);
        try_one(name, &|| range.create(drill));
    }
    try_one("create: cancelled late".to_owned(), &|| {
        range.cancelled_late()
    });
    try_one("Ctrl-C while nobody can confirm".to_owned(), &|| {
        range.interrupted()
    });
    if effort == Effort::Long {
        for drill in &FIREWALLS {
            try_one(drill.name.to_owned(), &|| range.update(drill, &CHANGES[0]));
        }
        let name = "update on top of an unconfirmed one".to_owned();
        try_one(name, &|| range.on_top());
        try_one("another bridge".to_owned(), &|| range.replace(&LIST[0]));
        try_one("the disk is full".to_owned(), &|| range.full_disk());
        try_one("a firewall is opened, and emptied".to_owned(), &|| {
            range.found_open()
        });
        try_one("nft fails".to_owned(), &|| range.without_nft());
        try_one("create: a container stands on it".to_owned(), &|| {
            range.stays_for_a_container()
        });
        try_one("another uplink".to_owned(), &|| range.another_uplink());
    }
    let name = "rollback_after = \"0s\" turns it off".to_owned();
    try_one(name, &|| range.turned_off());
    cases.finish()
}

fn on_create_always(drill: &Drill) -> bool {
    drill.name == LIST[0].name || drill.name == LIST[5].name
}
