//! What keeps being undone is given up, one thing at a time; and what the resident service costs.

use std::time::Duration;

use acceptance_tests::{command::wait_until, promise::Effort};
use anyhow::{Context, Result, ensure};

use super::{SECOND, Server, TRIES};

/// Removes a route each time that it comes back.
const UNDOER: &str = "systemd-run -q --unit=undoer --collect sh -c \
    'while :; do if ip route show proto 78 | grep -q ^203.0.113.2; then ip route del 203.0.113.2/32; fi; sleep 0.05; done'";
/// How the journal tells that something is given up, and how it tells the end of that.
const TOLD: &str = "nspawn-agent mended this 20 times within";
const OVER: &str = "this is over: the route to 203.0.113.2/32";
/// Share of one processor that the service may use: 0.5 and 0.25 % were measured; a busy machine takes longer for the same.
const BUSY: f64 = 0.02;
const IDLE: f64 = 0.006;
/// How long it may take until it has nothing left to mend.
const QUIET: Duration = Duration::from_mins(5);
/// Kilobytes of memory of its own, of which 1600 were measured.
const MEMORY: u64 = 4_000;
/// With the pages of the program: this build's, which is five times as large as the released one, took 10,500, and the
/// released one 6,100.
const MEMORY_IN_ALL: u64 = 13_000;

/// Somebody who undoes a mend all the time, until this is dropped.
struct Undoer<'a>(&'a Server);

impl<'a> Undoer<'a> {
    fn start(server: &'a Server) -> Result<Self> {
        server.shell(UNDOER)?;
        Ok(Self(server))
    }
}

impl Drop for Undoer<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.shell("systemctl stop undoer.service") {
            eprintln!("the undoer goes on: {error:#}");
        }
    }
}

impl Server {
    /// How often the journal has a line since a place.
    fn told(&self, place: usize, line: &str) -> Result<usize> {
        let journal = self.journal_since(place)?;
        Ok(journal.lines().filter(|found| found.contains(line)).count())
    }

    fn wait_until_told(&self, place: usize, line: &str) -> Result<()> {
        wait_until(
            &format!("the journal tells: {line}"),
            Duration::from_mins(5),
            || {
                ensure!(
                    self.told(place, line)? > 0,
                    "it has\n{}",
                    self.journal_since(place)?
                );
                Ok(())
            },
        )
    }

    fn resident(&self, more: &str) -> Result<String> {
        self.shell(&format!(
            "cd /proc/$(systemctl show -p MainPID --value nspawn-agent.service)\n{more}"
        ))
    }

    /// Share of one processor that the service uses over some seconds, all its threads and what it starts. The group
    /// has its statistics whatever is accounted. cgroup-v2.rst, cpu.stat
    fn load(&self, seconds: u32) -> Result<f64> {
        let text = self.shell(&format!(
            "used() {{ awk '/^usage_usec/ {{ print $2 }}' /sys/fs/cgroup/system.slice/nspawn-agent.service/cpu.stat; }}
             begun=$(used); sleep {seconds}; echo $(($(used) - begun))"
        ))?;
        let used: f64 = text.trim().parse().context("cpu.stat")?;
        Ok(used / 1e6 / f64::from(seconds))
    }

    /// For how many milliseconds a proxy is missing that is deleted.
    pub fn proxy_is_dark_for(&self) -> Result<u64> {
        let text = self.shell(
            "ip neigh del proxy 203.0.113.3 dev $UPLINK\nbegun=$(milliseconds)\n\
             until ip neigh show proxy | grep -q '^203.0.113.3 '; do :; done\necho $(($(milliseconds) - begun))",
        )?;
        text.trim().parse().context("milliseconds")
    }

    /// Somebody removes a route each time; an apply after that ended mends it at once.
    pub fn gives_up_loudly(&self) -> Result<()> {
        let place = self.journal_place()?;
        let undoer = Undoer::start(self)?;
        self.wait_until_told(place, TOLD)?;
        let mends = self.told(place, "mended: the route to 203.0.113.2/32")?;
        let plan = self.terraform.plan()?;
        ensure!(
            plan.contains(TOLD) && plan.contains("the route to 203.0.113.2/32"),
            "the plan doesn't name it:\n{plan}"
        );
        let load = self.load(Effort::of_this_run().choose(5, 10))?;
        eprintln!(
            "while a thing is given up: {:.2} % of a processor",
            load * 100.0
        );
        ensure!(load < BUSY, "it uses {load} of a processor");
        let mut dark = Vec::new();
        while dark.last().is_none_or(|dark| *dark > SECOND) {
            ensure!(dark.len() < TRIES, "another thing was dark for {dark:?} ms");
            dark.push(self.proxy_is_dark_for()?);
        }
        eprintln!("healed in {dark:?} ms: another thing, while one is given up");
        wait_until("it tries again", Duration::from_mins(1), || {
            let now = self.told(place, "mended: the route to 203.0.113.2/32")?;
            ensure!(now > mends, "{now} mends");
            Ok(())
        })?;
        let told = self.told(place, TOLD)?;
        ensure!(told == 1, "it was told {told} times");
        drop(undoer);
        self.terraform.apply()?;
        self.answers()?;
        self.terraform.assert_plan_is_empty()
    }

    /// The same without an apply: a later try mends it, and the journal says that it is over.
    pub fn recovers_by_itself(&self) -> Result<()> {
        let place = self.journal_place()?;
        let undoer = Undoer::start(self)?;
        self.wait_until_told(place, TOLD)?;
        drop(undoer);
        self.wait_until_told(place, OVER)?;
        self.answers()?;
        self.terraform.assert_plan_is_empty()
    }

    /// Nothing happens, and the service takes next to nothing.
    pub fn costs_nothing(&self) -> Result<()> {
        let seconds = Effort::of_this_run().choose(20, 60);
        let load = wait_until("nothing is mended for a while", QUIET, || {
            let place = self.journal_place()?;
            let load = self.load(seconds)?;
            let mends = self.journal_since(place)?;
            ensure!(!mends.contains("mended: "), "meanwhile:\n{mends}");
            Ok(load)
        })?;
        let memory = self.resident("cat smaps_rollup")?;
        let of = |key: &str| -> Result<u64> {
            let line = memory.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next());
            number
                .context("smaps_rollup")?
                .parse()
                .context("smaps_rollup")
        };
        let (all, own) = (of("Pss:")?, of("Pss_Anon:")?);
        eprintln!(
            "idle: {:.3} % of a processor, {all} kB, {own} kB of its own",
            load * 100.0
        );
        ensure!(load < IDLE, "it uses {load} of a processor");
        ensure!(own < MEMORY, "it uses {own} kB of its own");
        ensure!(all < MEMORY_IN_ALL, "it uses {all} kB in all");
        Ok(())
    }
}
