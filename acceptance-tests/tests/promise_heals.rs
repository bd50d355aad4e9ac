//! It heals itself: what of ours goes missing is put back within a second, and nothing else is touched.

#[path = "heals/bridge.rs"]
mod bridge;
#[path = "heals/giving_up.rs"]
mod giving_up;
#[path = "heals/meddling.rs"]
mod meddling;

use std::{fs, time::Duration};

use acceptance_tests::{
    Flavour, Hosts, Lab, Snapshot, Terraform,
    command::wait_until,
    configuration,
    images::Guest,
    promise::{Cases, Effort, Promise},
};
use anyhow::{Context, Result, bail, ensure};

use self::{
    bridge::BRIDGE,
    meddling::{MORE, Meddling, NAMED},
};

const LISTING: &str = include_str!("heals/listing.sh");

/// The promise.
const SECOND: u64 = 1000;
/// A guest boots, or the agent starts.
const RESTART: u64 = 30_000;
/// A busy machine may be late; a host that heals in time once can.
const TRIES: usize = 3;

const ADDRESSES: [(&str, &str); 4] = [
    ("203.0.113.2", "web"),
    ("2001:db8:1::2", "web"),
    ("203.0.113.3", "db"),
    ("2001:db8:1::3", "db"),
];

/// A server with two guests, and with somebody else's things that were there first.
struct Server {
    lab: Lab,
    terraform: Terraform,
    before: Snapshot,
    foreign: String,
}

impl Server {
    fn start(hosts: Hosts) -> Result<Self> {
        let lab = Lab::start(hosts)?;
        // In memory, where no snapshot looks.
        let functions = format!("cat > /dev/shm/listing.sh << 'FUNCTIONS'\n{LISTING}FUNCTIONS");
        lab.vps1().root(&functions)?;
        shell(&lab, "set_up_foreign")?;
        let tarball = lab.vps1().root_folder().join("root/stranger.tar.zst");
        fs::copy(&Guest::Debian.tarball()?.path, tarball)?;
        shell(&lab, "start_stranger /root/stranger.tar.zst")?;
        // The machine-wide sysctls are shared with the labs of other tests.
        let before = Snapshot::take(lab.vps1())?.without_shared();
        let mut text = configuration::host(lab.vps1(), "")
            + &configuration::image(Guest::Debian)?
            + &configuration::container("web", "")
            + &configuration::container("db", "");
        for (number, (address, container)) in ADDRESSES.iter().enumerate() {
            text += &configuration::address(&format!("a{number}"), address, container);
        }
        let terraform = lab.terraform(&text)?;
        terraform.apply()?;
        shell(&lab, "set_up_foreign_on_bridge")?;
        let foreign = shell(&lab, "foreign")?;
        let server = Self {
            lab,
            terraform,
            before,
            foreign,
        };
        server.answers()?;
        server.shell("ours > /dev/shm/ours 2>&1 || true; is_whole /dev/shm/ours")?;
        Ok(server)
    }

    fn shell(&self, script: &str) -> Result<String> {
        shell(&self.lab, script)
    }

    fn answers(&self) -> Result<()> {
        for (address, container) in ADDRESSES {
            self.lab.ping(address)?;
            self.lab.answers_as(address, container)?;
        }
        Ok(())
    }

    /// How long the agent's journal is. A cursor won't do: Debian 12 leaves out the line after it.
    fn journal_place(&self) -> Result<usize> {
        Ok(self.journal_since(0)?.lines().count())
    }

    fn journal_since(&self, place: usize) -> Result<String> {
        let journal = self.shell("journalctl -q -u nspawn-agent.service -o cat")?;
        let lines: Vec<&str> = journal.lines().skip(place).collect();
        Ok(lines.join("\n"))
    }

    fn started(&self) -> Result<String> {
        self.shell("systemctl show -p ExecMainStartTimestampMonotonic systemd-nspawn@web systemd-nspawn@db")
    }

    /// Meddles once; gives for how many milliseconds not all of ours was as before.
    fn meddle(&self, meddling: &Meddling) -> Result<u64> {
        let (place, started) = (self.journal_place()?, self.started()?);
        let measured = self.shell(&format!(
            "meddle() {{\n{}\n}}\nSETTLE=1500\nmeasure",
            meddling.script
        ))?;
        let (dark, at_most) = measured
            .lines()
            .find_map(|line| line.strip_prefix("dark ")?.split_once(' '))
            .with_context(|| format!("it was not measured: {measured}"))?;
        eprintln!("healed in {dark} ms, at most {at_most}: {}", meddling.name);
        let dark = dark.parse()?;
        self.answers()?;
        if let Some(word) = meddling.told {
            wait_until("the journal tells of it", Duration::from_secs(30), || {
                let journal = self.journal_since(place)?;
                let mut lines = journal.lines();
                let told = lines.any(|line| line.starts_with("mended: ") && line.contains(word));
                ensure!(told, "{word:?} is not in the agent's journal:\n{journal}");
                Ok(())
            })?;
        }
        if !meddling.restarts {
            ensure!(started == self.started()?, "a guest was started anew");
        }
        if !meddling.takes_foreign.is_empty() {
            let left = self.shell("set +e\nforeign\ntrue")?;
            let gone = lines_missing(&self.foreign, &left);
            let was_taken = |line: &str| {
                meddling
                    .takes_foreign
                    .iter()
                    .any(|word| line.contains(word))
            };
            if let Some(gone) = gone.lines().find(|line| !was_taken(line)) {
                bail!("of somebody else's things this is gone along with others: {gone}");
            }
            self.shell("set_up_foreign; set_up_foreign_on_bridge")?;
        }
        let foreign = self.shell("foreign")?;
        let gone = lines_missing(&self.foreign, &foreign);
        let new = lines_missing(&foreign, &self.foreign);
        ensure!(
            foreign == self.foreign,
            "of somebody else's things these are gone:\n{gone}and these are new:\n{new}"
        );
        Ok(dark)
    }

    fn heals(&self, meddling: &Meddling) -> Result<()> {
        let bound = if meddling.restarts { RESTART } else { SECOND };
        let mut seen = Vec::new();
        while seen.len() < TRIES {
            let dark = self.meddle(meddling)?;
            if dark <= bound {
                return Ok(());
            }
            seen.push(dark);
        }
        bail!("it took {seen:?} ms")
    }

    /// Nothing of ours is left, and all of the others' is.
    fn goes(&self) -> Result<()> {
        self.terraform.assert_plan_is_empty()?;
        self.terraform.destroy()?;
        self.before.comes_back(self.lab.vps1())
    }
}

/// The lines of one text that another lacks.
fn lines_missing(text: &str, other: &str) -> String {
    let missing = text
        .lines()
        .filter(|line| !line.is_empty() && !other.lines().any(|found| found == *line));
    missing.fold(String::new(), |all, line| all + line + "\n")
}

fn shell(lab: &Lab, script: &str) -> Result<String> {
    let uplink = &lab.vps1().options().uplink;
    let functions = ". /dev/shm/listing.sh";
    lab.vps1()
        .root(&format!("UPLINK={uplink}\n{functions}\n{script}"))
}

/// What the promise doesn't name.
fn more() -> impl Iterator<Item = &'static Meddling> {
    MORE.iter().chain(BRIDGE)
}

/// Of the others those that a quick run tries, too.
const QUICK: [&str; 7] = [
    "the bridge loses its alias",
    "the bridge is renamed",
    "a guest's settings are deleted",
    "the agent's program is deleted",
    "the agent's program is replaced under its own name",
    "others may write to the agent's program, its folder and the service's file",
    "everything at once",
];

#[test]
fn a_quick_run_finds_what_it_wants() {
    for name in QUICK {
        assert!(more().any(|more| more.name == name), "{name}");
    }
}

fn tries_all(flavour: Flavour, meddlings: &[&Meddling], gives_up: bool) -> Result<()> {
    let mut cases = Cases::of(Promise::Heals)?;
    let mut server = None;
    cases.case(
        format!("{flavour:?}: it is set up beside others' things"),
        || {
            server = Some(Server::start(Hosts::one().flavour(flavour))?);
            Ok(())
        },
    );
    let Some(server) = server else {
        return cases.finish();
    };
    for meddling in meddlings {
        cases.case(format!("{flavour:?}: {}", meddling.name), || {
            server.heals(meddling)
        });
    }
    if Effort::of_this_run() == Effort::Long {
        let name = format!("{flavour:?}: somebody else's bridge in place of ours");
        cases.case(name, || server.leaves_a_foreign_bridge_alone());
    }
    if gives_up {
        let mut case = |name: &str, case: fn(&Server) -> Result<()>| {
            cases.case(format!("{flavour:?}: {name}"), || case(&server))
        };
        case("it gives up loudly", Server::gives_up_loudly);
        case("a later try mends it", Server::recovers_by_itself);
        case("it costs next to nothing", Server::costs_nothing);
    }
    cases.case(
        format!("{flavour:?}: destroy leaves others' things and nothing else"),
        || server.goes(),
    );
    cases.finish()
}

#[test]
fn what_goes_missing_is_put_back_within_a_second() -> Result<()> {
    let effort = Effort::of_this_run();
    let more = more().filter(|more| effort == Effort::Long || QUICK.contains(&more.name));
    let all: Vec<&Meddling> = NAMED.iter().chain(more).collect();
    tries_all(Flavour::Trixie, &all, true)
}

#[test]
fn debian_12_heals_as_well() -> Result<()> {
    let effort = Effort::of_this_run();
    let all: Vec<&Meddling> = NAMED.iter().chain(more()).collect();
    tries_all(
        Flavour::Bookworm,
        &effort.pick(all, 4),
        effort == Effort::Long,
    )
}
