//! Two runs of Terraform with states of their own on one host, at the same time: neither disturbs the
//! other, and of two who want the same, one gets it and the other is told whose it is.

#[path = "takes_turns/visits.rs"]
mod visits;

use std::time::{Duration, Instant};

use acceptance_tests::{
    Hosts, Lab, Terraform,
    command::{Output, Process, wait_until},
    configuration,
    images::Guest,
    promise::{Cases, Effort, Promise},
};
use anyhow::{Result, anyhow, ensure};

use self::visits::Visits;

const APPLY: &[&str] = &["apply", "-auto-approve", "-input=false"];
const DESTROY: &[&str] = &["destroy", "-auto-approve", "-input=false"];

/// How long one run may take on a busy machine.
const RUN: Duration = Duration::from_mins(4);

/// How many containers each state has.
const EACH: usize = 3;

#[test]
fn two_runs_take_turns() -> Result<()> {
    let effort = Effort::of_this_run();
    let mut cases = Cases::of(Promise::TakesTurns)?;
    let lab = Lab::start(Hosts::one())?;
    let owner = lab.terraform(
        &(configuration::host(lab.vps1(), "")
            + &configuration::image(Guest::Debian)?
            + &configuration::container("third", "")
            + &configuration::address("third4", "203.0.113.2", "third")),
    )?;
    owner.apply()?;
    lab.answers_as("203.0.113.2", "third")?;
    let ground = Ground {
        lab: &lab,
        alone: listing(&lab)?,
    };
    let third = Visits::start(lab.client(), "203.0.113.2", "third")?;

    let (alice, bob) = (State::new(&lab, "alice", 10)?, State::new(&lab, "bob", 20)?);
    for round in 1..=effort.choose(4, 20) {
        cases.case(format!("round {round} of two runs at once"), || {
            at_once(&ground, &alice, &bob, round)
        });
    }
    for round in 1..=effort.choose(2, 8) {
        for wanted in [Wanted::Name, Wanted::Address] {
            cases.case(format!("the same {wanted:?}, round {round}"), || {
                one_of_two(&ground, &alice, &bob, wanted)
            });
        }
    }
    cases.case("a line that drops while its run is busy elsewhere", || {
        a_dropped_line(&ground, &alice, &bob)
    });
    cases.case(
        "whoever waits for the host's lock is told who holds it",
        || the_lock_has_a_name(&ground, &alice, &bob),
    );
    cases.case("a third party's container answered all the while", || {
        third.finish()
    });
    cases.case("nothing is left of the two", || ground.is_clear());
    owner.destroy()?;
    cases.finish()
}

/// One of the two states, and who runs Terraform on it.
struct State {
    who: &'static str,
    terraform: Terraform,
    /// The last byte of its first address.
    first: usize,
}

impl State {
    fn new(lab: &Lab, who: &'static str, first: usize) -> Result<Self> {
        Ok(Self {
            who,
            terraform: lab.terraform("")?,
            first,
        })
    }

    fn name(&self, number: usize) -> String {
        format!("{}{number}", self.who)
    }

    fn address(&self, number: usize) -> String {
        format!("203.0.113.{}", self.first + number)
    }

    /// All containers of this state, each with its address; the addresses may have moved on by some places.
    fn whole(&self, moved: usize, more: &str) -> String {
        (0..EACH)
            .map(|number| {
                container(&self.name(number), more)
                    + &address(
                        &format!("address{number}"),
                        &self.address(number),
                        &self.name((number + moved) % EACH),
                    )
            })
            .collect()
    }

    fn start(&self, words: &[&str]) -> Result<Process> {
        self.terraform.start_with(words, &[("USER", self.who)])
    }

    fn answers(&self, lab: &Lab, moved: usize) -> Result<()> {
        (0..EACH).try_for_each(|number| {
            lab.answers_as(&self.address(number), &self.name((number + moved) % EACH))
        })
    }
}

fn container(name: &str, more: &str) -> String {
    format!(
        "resource \"nspawn_container\" \"{name}\" {{\n  host = {{ address = \"203.0.113.1\" }}\n  \
         name = \"{name}\"\n  image = \"debian\"\n  {more}\n}}\n"
    )
}

fn address(label: &str, address: &str, container: &str) -> String {
    format!(
        "resource \"nspawn_public_address\" \"{label}\" {{\n  host = {{ address = \"203.0.113.1\" }}\n  \
         address = \"{address}\"\n  container = nspawn_container.{container}.name\n}}\n"
    )
}

/// Starts both at the same time; both have to succeed.
fn both((alice, alices): (&State, &[&str]), (bob, bobs): (&State, &[&str])) -> Result<()> {
    let (first, second) = (alice.start(alices)?, bob.start(bobs)?);
    let (first, second) = (first.wait(RUN)?, second.wait(RUN)?);
    first.checked()?;
    second.checked().map(drop)
}

/// Both create, one changes and moves while the other destroys and creates anew, both destroy.
fn at_once(ground: &Ground, alice: &State, bob: &State, round: usize) -> Result<()> {
    let lab = ground.lab;
    // Who is disturbed while changing takes turns, too.
    let (one, other) = if round % 2 == 1 {
        (alice, bob)
    } else {
        (bob, alice)
    };
    for state in [one, other] {
        state.terraform.configure(&state.whole(0, ""))?;
    }
    both((one, APPLY), (other, APPLY))?;
    one.answers(lab, 0)?;
    other.answers(lab, 0)?;
    one.terraform
        .configure(&one.whole(1, "memory = \"256M\""))?;
    both((one, APPLY), (other, DESTROY))?;
    one.answers(lab, 1)?;
    one.terraform.assert_plan_is_empty()?;
    both((one, DESTROY), (other, APPLY))?;
    other.answers(lab, 0)?;
    one.terraform.configure("")?;
    both((one, APPLY), (other, DESTROY))?;
    ground.is_clear()
}

/// The lab, and what is on its host when only the third party is.
struct Ground<'a> {
    lab: &'a Lab,
    alone: String,
}

impl Ground<'_> {
    /// Nothing but the third party is there.
    fn is_clear(&self) -> Result<()> {
        wait_until("nothing is left over", Duration::from_secs(30), || {
            let now = listing(self.lab)?;
            ensure!(
                now == self.alone,
                "there is\n{now}\nand not\n{}",
                self.alone
            );
            Ok(())
        })
    }
}

fn listing(lab: &Lab) -> Result<String> {
    lab.vps1().root(
        "cd /etc; ls nspawn-agent/containers nspawn-agent/addresses systemd/nspawn
         ls /var/lib/machines; machinectl --no-legend list | cut -d ' ' -f 1; ls /sys/class/net
         ip neigh show proxy | sort; ip route show dev br0; ip -6 route show dev br0 proto 78",
    )
}

/// What both want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// A container of the same name.
    Name,
    /// The same address, each for a container of its own.
    Address,
}

/// Both want the same at the same time: one gets it, the other is told whose it is, and gets it later.
fn one_of_two(ground: &Ground, alice: &State, bob: &State, wanted: Wanted) -> Result<()> {
    for state in [alice, bob] {
        let name = match wanted {
            Wanted::Name => "both".to_owned(),
            Wanted::Address => state.name(0),
        };
        state.terraform.configure(
            &(container(&name, "")
                + &address(
                    "it",
                    &format!(
                        "203.0.113.{}",
                        if wanted == Wanted::Name {
                            state.first
                        } else {
                            30
                        }
                    ),
                    &name,
                )),
        )?;
    }
    let (first, second) = (alice.start(APPLY)?, bob.start(APPLY)?);
    let (first, second) = (first.wait(RUN)?, second.wait(RUN)?);
    let (winner, loser, refused) = match (first.success(), second.success()) {
        (true, false) => (alice, bob, second),
        (false, true) => (bob, alice, first),
        _ => return Err(neither_or_both(&first, &second)),
    };
    let what = match wanted {
        Wanted::Name => "both",
        Wanted::Address => "203.0.113.30",
    };
    // The plan, which names all of it, is on the other side.
    let printed = refused.stderr;
    // Terraform breaks lines at spaces.
    let words = printed
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace("│ ", "");
    ensure!(
        words.contains(what)
            && words.contains(&format!("{}@", winner.who))
            && (words.contains("terraform import") || words.contains("right now")),
        "the error doesn't say whose it is:\n{printed}"
    );
    winner.terraform.assert_plan_is_empty()?;
    winner.terraform.destroy()?;
    loser.terraform.apply()?;
    loser.terraform.assert_plan_is_empty()?;
    loser.terraform.destroy()?;
    ground.is_clear()
}

/// What one run has made stays its own while its line drops, and it has nothing to ask of the host.
fn a_dropped_line(ground: &Ground, alice: &State, bob: &State) -> Result<()> {
    let vps = ground.lab.vps1();
    let (waits, goes_on) = ["waits", "goes-on"]
        .map(|file| alice.terraform.folder().join(file))
        .into();
    // What comes last keeps the provider from being ended before.
    let last = address("last", &alice.address(0), "both");
    let last = last.replace("\n}", "\n  depends_on = [terraform_data.elsewhere]\n}");
    alice.terraform.configure(
        &(container("both", "")
            + &last
            + &format!(
                "resource \"terraform_data\" \"elsewhere\" {{\n  depends_on = [nspawn_container.both]\n  \
                 provisioner \"local-exec\" {{\n    command = \"touch {}; until [ -e {} ]; do sleep 0.1; done\"\n  }}\n}}\n",
                waits.display(),
                goes_on.display()
            )),
    )?;
    let first = alice.start(APPLY)?;
    wait_until("alice is busy elsewhere", RUN, || {
        ensure!(waits.exists());
        Ok(())
    })?;
    let serving = "pgrep -f '[n]spawn-agent[^ ]* serve'";
    let dropped = vps.root(serving)?;
    vps.root(&format!("kill -KILL {}", dropped.trim()))?;
    wait_until("alice is connected again", Duration::from_mins(1), || {
        let now = vps.root(serving)?;
        ensure!(now != dropped, "still {now}");
        Ok(())
    })?;
    bob.terraform
        .configure(&container("both", "autostart = false"))?;
    let refused = bob.terraform.apply_fails()?;
    ensure!(
        refused.contains("alice@") && refused.contains("right now"),
        "the error doesn't say whose it is:\n{refused}"
    );
    std::fs::write(&goes_on, "")?;
    first.wait(RUN)?.checked()?;
    alice.terraform.assert_plan_is_empty()?;
    alice.terraform.destroy()?;
    ground.is_clear()
}

fn neither_or_both(first: &Output, second: &Output) -> anyhow::Error {
    anyhow!(
        "exactly one should succeed; the first: {}\n{}{}\nthe second: {}\n{}{}",
        first.status,
        first.stdout,
        first.stderr,
        second.status,
        second.stdout,
        second.stderr
    )
}

/// Stops the first session that holds the lock, while it does; prints its process id.
const STOP_HOLDER: &str = r#"
    until=$(($(date +%s) + 60))
    while [ "$(date +%s)" -lt $until ]; do
        grep -q '^alice@' /run/nspawn-agent/lock || continue
        inode=$(stat -c %i /run/nspawn-agent/lock)
        pid=$(awk -v inode="$inode" '$2 == "FLOCK" && $4 == "WRITE" && $6 ~ ":" inode "$" { print $5; exit }' /proc/locks)
        [ -n "$pid" ] && [ "$pid" -gt 1 ] && kill -STOP "$pid" 2>/dev/null || continue
        if ! flock -n /run/nspawn-agent/lock true && grep -q serve /proc/$pid/cmdline && grep -q '^alice@' /run/nspawn-agent/lock; then
            echo "$pid"
            exit 0
        fi
        kill -CONT "$pid"
    done
    exit 1
"#;

/// One run stands still while it holds the lock: the other's error names it, and both get through afterwards.
fn the_lock_has_a_name(ground: &Ground, alice: &State, bob: &State) -> Result<()> {
    let vps = ground.lab.vps1();
    alice.terraform.configure(&alice.whole(0, ""))?;
    bob.terraform
        .configure(&container("bob0", "timeouts = { create = \"10s\" }"))?;
    let running = alice.start(APPLY)?;
    let stopped = vps.root(STOP_HOLDER)?;
    let begun = Instant::now();
    let refused = bob.start(APPLY)?.wait(RUN);
    let took = begun.elapsed();
    vps.root(&format!("kill -CONT {}", stopped.trim()))?;
    let refused = refused?;
    let printed = &refused.stderr;
    ensure!(
        !refused.success()
            && printed.contains("alice@")
            && printed.contains("another change of this host"),
        "the error doesn't say who holds the lock:\n{printed}"
    );
    ensure!(
        took < Duration::from_mins(1),
        "it waited {took:?} instead of 10 s"
    );
    running.wait(RUN)?.checked()?;
    bob.terraform.configure(&container("bob0", ""))?;
    both((alice, APPLY), (bob, APPLY))?;
    both((alice, DESTROY), (bob, DESTROY))?;
    ground.is_clear()
}
