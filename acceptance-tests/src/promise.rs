//! The promises of docs/guides/reliability.md: which cases were tried for each, and which failed.
//!
//! A test makes [`Cases`] of its promise and tries them one by one; a case that fails doesn't keep the
//! others from being tried. `lab promises` prints the table of a run.

mod report;

use std::{
    fmt::Display,
    fs::{self, File},
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;

pub use self::report::Report;

/// Names the folder that a run of the tests reports to.
const REPORT: &str = "NSPAWN_PROMISES_REPORT";
/// `long` tries all cases.
const EFFORT: &str = "NSPAWN_PROMISES";

/// A promise, in the guide's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Promise {
    /// What goes missing is put back within a second, and nothing else is touched.
    Heals,
    /// A change of the host that cuts the operator off is undone.
    RollsBack,
    /// A kill or a power cut at any step is mended by the next apply.
    SurvivesKills,
    /// A bad line at any byte is mended by the next apply.
    SurvivesCuts,
    /// Two runs on one host don't disturb each other.
    TakesTurns,
    /// A hostile guest reaches nobody but by its own addresses.
    KeepsTenantsApart,
    /// The agent can't be turned against its host, and secrets stay secret.
    IsNoWayIn,
    /// Hundreds of guests on one host.
    IsDense,
    /// The state tells the truth, whatever fails.
    TellsTheTruth,
}

impl Promise {
    /// The name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The test that tries it: a file in acceptance-tests/tests.
    pub fn test(self) -> String {
        format!("promise_{}", self.name().replace('-', "_"))
    }

    /// The heading in the guide.
    pub fn title(self) -> &'static str {
        match self {
            Self::Heals => "It heals itself",
            Self::RollsBack => "It rolls back what locks you out",
            Self::SurvivesKills => "It can be killed at any step",
            Self::SurvivesCuts => "The line can be cut at any byte",
            Self::TakesTurns => "Two runs take turns",
            Self::KeepsTenantsApart => "Tenants are kept apart",
            Self::IsNoWayIn => "The agent is no way in",
            Self::IsDense => "Hundreds of guests on one host",
            Self::TellsTheTruth => "The state tells the truth",
        }
    }
}

/// How many of the cases are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Some of each kind, for every run of CI.
    Quick,
    /// All.
    Long,
}

impl Effort {
    /// What this run was asked for.
    pub fn of_this_run() -> Self {
        if std::env::var(EFFORT).is_ok_and(|effort| effort == "long") {
            Self::Long
        } else {
            Self::Quick
        }
    }

    /// All of them, or so many, spread evenly, the first and the last included.
    pub fn pick<T>(self, all: Vec<T>, quick: usize) -> Vec<T> {
        let (count, last) = (all.len(), quick.saturating_sub(1).max(1));
        if self == Self::Long || count <= quick {
            return all;
        }
        let chosen: Vec<usize> = (0..quick).map(|place| place * (count - 1) / last).collect();
        all.into_iter()
            .enumerate()
            .filter(|(place, _)| chosen.contains(place))
            .map(|(_, item)| item)
            .collect()
    }

    /// One number for each effort.
    pub fn choose<T>(self, quick: T, long: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Long => long,
        }
    }
}

/// The cases that one test tries.
#[derive(Debug)]
pub struct Cases {
    promise: Promise,
    tried: usize,
    taken_back: usize,
    failures: Vec<String>,
    report: Option<File>,
}

impl Cases {
    /// Tries cases of this promise, for this run's report.
    pub fn of(promise: Promise) -> Result<Self> {
        let mut cases = Self::without_report(promise);
        if let Some(folder) = std::env::var_os(REPORT) {
            fs::create_dir_all(&folder)?;
            let name = format!("{}-{}", promise.name(), std::process::id());
            let path = PathBuf::from(folder).join(name);
            let file = File::options().create(true).append(true).open(&path);
            cases.report = Some(file.with_context(|| format!("write {}", path.display()))?);
        }
        Ok(cases)
    }

    fn without_report(promise: Promise) -> Self {
        Self {
            promise,
            tried: 0,
            taken_back: 0,
            failures: Vec::new(),
            report: None,
        }
    }

    /// Tries one case, and goes on when it fails; tells whether it held.
    pub fn case(&mut self, name: impl Display, case: impl FnOnce() -> Result<()>) -> bool {
        let (name, begun) = (one_line(&name), Instant::now());
        self.tried += 1;
        self.note(&format!("begun\t{name}"));
        let result = catch_unwind(AssertUnwindSafe(case))
            .unwrap_or_else(|panic| Err(anyhow!("it panicked: {}", message_of(&*panic))));
        let seconds = begun.elapsed().as_secs_f64();
        let held = result.is_ok();
        eprintln!(
            "{} {} ({seconds:.1} s)",
            if held { "held:  " } else { "BROKEN:" },
            name
        );
        self.note(&format!("{}\t{name}", if held { "held" } else { "broken" }));
        if let Err(error) = result {
            eprintln!("{error:#}");
            self.failures.push(format!("{name}: {error:#}"));
        }
        held
    }

    /// Takes back a case that held, because it didn't come to what was to be tried; the table tells of it.
    pub fn untried(&mut self, name: impl Display) {
        self.tried -= 1;
        self.taken_back += 1;
        self.note(&format!("untried\t{}", one_line(&name)));
    }

    /// The same for a case that came to another place instead: that one held.
    pub fn tried_instead(&mut self, name: impl Display, instead: impl Display) {
        self.untried(name);
        let instead = one_line(&instead);
        self.tried += 1;
        self.note(&format!("begun\t{instead}\nheld\t{instead}"));
        eprintln!("held:   {instead}, instead of the one above");
    }

    /// How many cases were tried so far.
    pub fn tried(&self) -> usize {
        self.tried
    }

    /// How many cases were taken back so far.
    pub fn taken_back(&self) -> usize {
        self.taken_back
    }

    /// Fails when a case did, or when none was tried.
    pub fn finish(mut self) -> Result<()> {
        self.note("finished\t");
        if self.tried == 0 {
            bail!("no case was tried of: {}", self.promise.title());
        }
        if self.failures.is_empty() {
            return Ok(());
        }
        bail!(
            "{} of {} cases failed:\n{}",
            self.failures.len(),
            self.tried,
            self.failures.join("\n")
        )
    }

    fn note(&mut self, line: &str) {
        if let Some(report) = &mut self.report {
            // The table counts what is missing in it as a failure.
            let _ = writeln!(report, "{line}");
        }
    }
}

/// The report has a line for each note.
fn one_line(name: &impl Display) -> String {
    name.to_string().replace(['\t', '\n'], " ")
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_broken_case_does_not_keep_the_others_from_being_tried() {
        let mut cases = Cases::without_report(Promise::Heals);
        assert!(!cases.case("one", || panic!("oh")));
        assert!(cases.case("two", || Ok(())));
        let error = cases.finish().unwrap_err().to_string();
        assert!(
            error.starts_with("1 of 2") && error.contains("oh"),
            "{error}"
        );
        assert!(Cases::without_report(Promise::Heals).finish().is_err());
    }

    #[test]
    fn a_quick_run_spreads_over_all() {
        let all: Vec<u32> = (0..100).collect();
        assert_eq!(Effort::Quick.pick(all.clone(), 4), [0, 33, 66, 99]);
        assert_eq!(Effort::Quick.pick(all.clone(), 1), [0]);
        assert_eq!(Effort::Long.pick(all, 4).len(), 100);
        assert_eq!(Effort::Quick.pick(vec![1, 2], 4), [1, 2]);
    }

    /// Each promise stands in the guide, with the test that shows it.
    #[test]
    fn the_guide_states_every_promise_and_its_test() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let guide = fs::read_to_string(top.join("../docs/guides/reliability.md")).unwrap();
        for promise in Promise::value_variants() {
            let (title, test) = (promise.title(), promise.test());
            assert!(guide.contains(&format!("## {title}\n")), "{title}");
            assert!(
                guide.contains(&format!("acceptance-tests/tests/{test}.rs")),
                "{test}"
            );
            assert!(top.join(format!("tests/{test}.rs")).is_file(), "{test}");
        }
    }
}
