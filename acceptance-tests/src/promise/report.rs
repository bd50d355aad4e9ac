//! What a run of the promises has come to: the table that `lab promises` prints.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::Promise;

/// What a run has come to, a promise a line.
#[derive(Debug, Default)]
pub struct Report {
    counts: BTreeMap<Promise, Count>,
}

#[derive(Debug, Default)]
struct Count {
    tried: usize,
    /// Begun, and not held: a test that was ended in the middle counts, too.
    failed: Vec<String>,
    /// What was to be tried at a place that no try came to.
    unreached: Vec<String>,
}

impl Report {
    /// Reads what the tests have written; a promise that was asked for and not tried is a failure.
    pub fn read(folder: &Path, asked: &[Promise]) -> Result<Self> {
        let mut report = Self::default();
        for promise in asked {
            report.counts.insert(*promise, Count::default());
        }
        let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let (promise, _) = name.rsplit_once('-').unwrap_or_default();
            if let Ok(promise) = Promise::from_str(promise, false) {
                let text = fs::read_to_string(&path)?;
                report.counts.entry(promise).or_default().add(&text);
            }
        }
        Ok(report)
    }

    /// Whether every promise was tried and held.
    pub fn holds(&self) -> bool {
        self.counts
            .values()
            .all(|count| count.tried > 0 && count.failed.is_empty())
    }

    /// The table, and below it what failed, and what was not reached.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<36} {:>6} {:>8} {:>12}\n{}\n",
            "promise",
            "cases",
            "failures",
            "not reached",
            "─".repeat(65)
        );
        let mut below = String::new();
        for (promise, count) in &self.counts {
            let failed = if count.tried == 0 {
                "untried".to_owned()
            } else {
                count.failed.len().to_string()
            };
            // Writing into a String can't fail.
            let _ = writeln!(
                text,
                "{:<36} {:>6} {failed:>8} {:>12}",
                promise.title(),
                count.tried,
                count.unreached.len()
            );
            for (what, names) in [("failed", &count.failed), ("not reached", &count.unreached)] {
                for name in names {
                    let _ = writeln!(below, "{what}: {}: {name}", promise.title());
                }
            }
        }
        text + &below
    }
}

impl Count {
    fn add(&mut self, text: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut has_finished = false;
        for line in text.lines() {
            match line.split_once('\t') {
                Some(("begun", name)) => {
                    self.tried += 1;
                    open.push(name);
                }
                // Several cases may have one name: each end is that of the one that began last.
                Some((end @ ("held" | "broken"), name)) => {
                    if let Some(place) = open.iter().rposition(|begun| *begun == name) {
                        open.remove(place);
                    }
                    if end == "broken" {
                        self.failed.push(name.to_owned());
                    }
                }
                Some(("untried", name)) => {
                    self.tried = self.tried.saturating_sub(1);
                    self.unreached.push(name.to_owned());
                }
                Some(("finished", _)) => has_finished = true,
                _ => {}
            }
        }
        if !has_finished && open.is_empty() {
            self.failed
                .push("a test failed between its cases".to_owned());
        }
        self.failed.extend(open.into_iter().map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_never_ended_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let lines =
            "begun\ta\nheld\ta\nbegun\tb\nbroken\tb\nbegun\td\nheld\td\nuntried\td\nbegun\tc\n";
        fs::write(folder.path().join("rolls-back-1"), lines).unwrap();
        let report = Report::read(folder.path(), &[Promise::Heals]).unwrap();
        assert!(!report.holds());
        let table = report.table();
        let words = |promise: Promise| -> Vec<String> {
            let line = table.lines().find(|line| line.starts_with(promise.title()));
            let words = line.unwrap().split_whitespace().rev().take(3);
            words.map(str::to_owned).collect()
        };
        assert_eq!(words(Promise::RollsBack), ["1", "2", "3"]);
        assert_eq!(words(Promise::Heals), ["0", "untried", "0"]);
        assert!(table.contains("failed: It rolls back what locks you out: c"));
        assert!(table.contains("not reached: It rolls back what locks you out: d"));
    }

    #[test]
    fn a_case_that_held_does_not_stand_for_another_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let lines = "begun\ta\nbroken\ta\nbegun\ta\nheld\ta\nbegun\tb\nbegun\tb\nheld\tb\n";
        fs::write(folder.path().join("heals-1"), lines).unwrap();
        let report = Report::read(folder.path(), &[Promise::Heals]).unwrap();
        assert!(!report.holds());
        let failed = &report.counts[&Promise::Heals].failed;
        assert_eq!(failed, &["a", "b"]);
    }
    #[test]
    fn a_test_that_ends_between_its_cases_has_failed() {
        for (end, holds) in [("", false), ("finished\t\n", true)] {
            let folder = tempfile::tempdir().unwrap();
            let lines = format!("begun\ta\nheld\ta\n{end}");
            fs::write(folder.path().join("heals-1"), lines).unwrap();
            let report = Report::read(folder.path(), &[Promise::Heals]).unwrap();
            assert_eq!(report.holds(), holds, "{}", report.table());
        }
    }
}
