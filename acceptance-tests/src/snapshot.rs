//! What a host looks like, to be compared before and after.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{command::wait_until, vps::Vps};

const SCRIPT: &str = include_str!("snapshot.sh");

/// The section of the machine's own sysctls.
const SHARED: &str = "sysctl-machine";

/// How long systemd and the kernel may take to end what was stopped, on a busy machine.
const SETTLED: Duration = Duration::from_secs(30);

/// A listing of a host: sections of lines, in no order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    sections: BTreeMap<String, BTreeSet<String>>,
}

/// The lines in which two snapshots differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Differences {
    /// What only the first has, with its section.
    pub gone: Vec<String>,
    /// What only the second has, with its section.
    pub new: Vec<String>,
}

impl Snapshot {
    /// Takes a listing of a running server.
    pub fn take(vps: &Vps) -> Result<Self> {
        // Without -e: a search that finds nothing is no failure.
        Ok(Self::parse(
            &vps.root(&format!("set +e\n{SCRIPT}\nexit 0"))?,
        ))
    }

    /// Leaves out what is shared with the other labs on this machine: its sysctls, and what an agent has noted of them,
    /// which is another thing when another lab has put them back meanwhile.
    #[must_use]
    pub fn without_shared(mut self) -> Self {
        self.sections.remove(SHARED);
        self.map(|_, line| {
            let is_note = line.starts_with("/etc/nspawn-agent/former-sysctls.json ");
            Some(if is_note { without_sum(line) } else { line }.to_owned())
        })
    }

    /// Adds a section: what a command prints on the server.
    pub fn with(mut self, section: &str, vps: &Vps, script: &str) -> Result<Self> {
        let lines = vps.root(script)?.lines().map(str::to_owned).collect();
        self.sections.insert(section.to_owned(), lines);
        Ok(self)
    }

    /// Rewrites each line, or leaves it out; the section is told along with it.
    #[must_use]
    pub fn map(mut self, change: impl Fn(&str, &str) -> Option<String>) -> Self {
        for (name, lines) in &mut self.sections {
            *lines = lines.iter().filter_map(|line| change(name, line)).collect();
        }
        self
    }

    /// Returns the lines of a section.
    pub fn section(&self, name: &str) -> impl Iterator<Item = &str> {
        self.sections
            .get(name)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// Returns the names of the sections.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str)
    }

    /// Tells in what a later snapshot differs from this one.
    pub fn differences(&self, later: &Self) -> Differences {
        Differences {
            gone: self.lines_missing_in(later),
            new: later.lines_missing_in(self),
        }
    }

    /// Fails unless a server comes to look like this, in the sections that this has.
    pub fn comes_back(&self, vps: &Vps) -> Result<()> {
        self.comes_back_within(SETTLED, || Self::take(vps))
    }

    /// The same with another patience, and with a look of one's own.
    pub fn comes_back_within(
        &self,
        patience: Duration,
        look: impl Fn() -> Result<Self>,
    ) -> Result<()> {
        wait_until("the server looks as it did", patience, || {
            let differences = self.differences(&self.sections_of(look()?));
            ensure!(differences.is_empty(), "it differs:\n{differences}");
            Ok(())
        })
    }

    /// What was left out here is left out there.
    fn sections_of(&self, mut later: Self) -> Self {
        if !self.sections.contains_key(SHARED) {
            later = later.without_shared();
        }
        later
            .sections
            .retain(|name, _| self.sections.contains_key(name));
        later
    }

    fn lines_missing_in(&self, other: &Self) -> Vec<String> {
        self.sections
            .iter()
            .flat_map(|(name, lines)| lines.iter().map(move |line| (name, line)))
            .filter(|(name, line)| {
                !other
                    .sections
                    .get(*name)
                    .is_some_and(|lines| lines.contains(*line))
            })
            .map(|(name, line)| format!("{name}: {line}"))
            .collect()
    }

    fn parse(text: &str) -> Self {
        let mut sections: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("@@ ") {
                name.clone_into(&mut current);
                sections.entry(current.clone()).or_default();
            } else if let Some(lines) = sections.get_mut(&current) {
                let words: Vec<&str> = line.split_whitespace().collect();
                let line = words.join(" ");
                // What is there twice, such as a mount, is another thing than what is there once.
                let numbered = |number| match number {
                    1 => line.clone(),
                    _ => format!("{line} [{number}]"),
                };
                let new = (1..=lines.len() + 1)
                    .map(numbered)
                    .find(|line| !lines.contains(line));
                lines.extend(new);
            }
        }
        Self { sections }
    }
}

/// A line of a listing without the beginning of a file's SHA-256 at its end.
pub(crate) fn without_sum(line: &str) -> &str {
    let is_sum = |word: &str| word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    match line.rsplit_once(' ') {
        Some((rest, last)) if is_sum(last) => rest,
        _ => line,
    }
}

impl Differences {
    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.new.is_empty()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.gone {
            writeln!(formatter, "- {line}")?;
        }
        for line in &self.new {
            writeln!(formatter, "+ {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_the_section() {
        let before = Snapshot::parse("@@ links\nlo  up\n@@ routes\ndefault\n");
        let after = Snapshot::parse("@@ links\nlo up\nbr0\n@@ routes\n");
        let differences = before.differences(&after);
        assert_eq!(differences.to_string(), "- routes: default\n+ links: br0\n");
        assert!(before.differences(&before).is_empty());
        let twice = Snapshot::parse("@@ links\nlo up\nlo up\n@@ routes\ndefault\n");
        assert_eq!(
            before.differences(&twice).to_string(),
            "+ links: lo up [2]\n"
        );
        let without = |snapshot: &Snapshot, section: &str| {
            let mut snapshot = snapshot.clone();
            snapshot.sections.remove(section);
            snapshot
        };
        let routes = without(&before, "links");
        let differences = routes.differences(&routes.sections_of(after.clone()));
        assert_eq!(differences.to_string(), "- routes: default\n");
        let differences = without(&before, "routes").differences(&without(&after, "links"));
        assert_eq!(differences.gone.len(), 1);
    }

    #[test]
    fn what_labs_share_is_left_out() {
        let note = |sum: &str| {
            let text = format!(
                "@@ sysctl-machine\nkernel.x = {sum}\n@@ files-etc\n/etc/x -rw {sum}\n\
                 /etc/nspawn-agent/former-sysctls.json -rw 0:0 {sum}\n"
            );
            Snapshot::parse(&text)
        };
        let (before, after) = (
            note(&"1".repeat(16)).without_shared(),
            note(&"2".repeat(16)),
        );
        let differences = before.differences(&before.sections_of(after)).to_string();
        let lines: Vec<&str> = differences.lines().collect();
        assert!(
            lines.len() == 2 && lines.iter().all(|line| line.contains("/etc/x")),
            "{differences}"
        );
        assert_eq!(before.clone().without_shared(), before);
    }
}
