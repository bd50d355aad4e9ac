//! The fault points of the test build: which are reached, and at which the process is to be ended.
//!
//! The other side is src/fault.

use std::{collections::BTreeMap, fmt, fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{lab::Lab, provider, terraform::Terraform, vps::Vps};

/// Where the agent of the test build looks on its host.
const AGENT_FOLDER: &str = "dev/shm/nspawn-agent-fault";

/// A place between two changes of one process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// What process it is, a tab, and what was done last or is to be done next.
    line: String,
    /// The how manieth time.
    time: usize,
}

impl Point {
    /// The first time that a process of this kind comes to this.
    pub(crate) fn first(kind: &str, name: &str) -> Self {
        Self {
            line: format!("{kind}\t{name}"),
            time: 1,
        }
    }

    /// Whether it is of this kind of process.
    pub(crate) fn is_of(&self, kind: &str) -> bool {
        self.line.split('\t').next() == Some(kind)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.line.replace('\t', " "))?;
        if self.time > 1 {
            write!(formatter, " ({})", self.time)?;
        }
        Ok(())
    }
}

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, so that the power can be cut exactly there.
    Freeze,
}

/// Where processes of the test build are told what to do.
#[derive(Debug)]
pub struct Faults {
    folder: PathBuf,
}

impl Faults {
    /// Of the agents on a server, until it is switched off.
    pub fn of_agents(vps: &Vps) -> Result<Self> {
        Self::in_folder(vps.path(AGENT_FOLDER)?)
    }

    /// Of the providers that this Terraform starts from now on.
    pub fn of_providers(terraform: &mut Terraform) -> Result<Self> {
        let folder = terraform.folder().join("faults");
        terraform.set_environment("NSPAWN_FAULT_FOLDER", &folder.display().to_string());
        Self::in_folder(folder)
    }

    fn in_folder(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Notes the points that are reached from now on.
    pub fn record(&self) -> Result<()> {
        self.write("record", "")
    }

    /// The points that were reached since [`Self::record`]. Of one that was reached again and again, such as
    /// each piece of a file, those in the middle are left out but for a few.
    pub fn recorded(&self) -> Result<Vec<Point>> {
        let file = self.folder.join("record");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        fs::remove_file(&file)?;
        Ok(points(&text))
    }

    /// Says what is to happen at a point.
    pub fn arm(&self, point: &Point, action: Action) -> Result<()> {
        self.disarm()?;
        let action = match action {
            Action::Kill => "kill",
            Action::Freeze => "freeze",
        };
        // Renamed into place: a process must not see half of it.
        self.write(
            "arming",
            &format!("{action}\t{}\t{}", point.time, point.line),
        )?;
        Ok(fs::rename(
            self.folder.join("arming"),
            self.folder.join("armed"),
        )?)
    }

    /// Whether the point was reached that was armed last.
    pub fn reached(&self) -> bool {
        self.folder.join("reached").exists()
    }

    /// Takes back what was armed.
    pub fn disarm(&self) -> Result<()> {
        for name in ["armed", "reached"] {
            match fs::remove_file(self.folder.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.folder.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))
    }
}

/// What is struck of a record: of a line that comes again and again the first, the last and one in the middle. What is
/// before a step of an agent that has just done the one before it is no place of its own: nothing lies between them.
fn points(record: &str) -> Vec<Point> {
    let mut total: BTreeMap<&str, usize> = BTreeMap::new();
    for line in record.lines() {
        *total.entry(line).or_default() += 1;
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    let mut points = Vec::new();
    for line in record.lines() {
        let (all, time) = (total[line], seen.entry(line).or_default());
        *time += 1;
        let (kind, name) = line.split_once('\t').unwrap_or((line, ""));
        let former = last.insert(kind, name).unwrap_or_default();
        let is_same_place = name.starts_with("before: ") && ends_a_step(kind, former);
        if [1, all.div_ceil(2), all].contains(time) && !is_same_place {
            points.push(Point {
                line: line.to_owned(),
                time: *time,
            });
        }
    }
    points
}

/// Whether whoever comes by this goes on to its next step at once: not after an answer, nor where Terraform notes meanwhile
/// what an operation has done.
fn ends_a_step(kind: &str, name: &str) -> bool {
    kind != "provider" && name.starts_with("after: ") && !name.starts_with("after: send ")
}

impl Lab {
    /// Makes a working directory for Terraform with the test build of the provider.
    pub fn terraform_with_faults(&self, configuration: &str) -> Result<Terraform> {
        self.terraform_with(&provider::with_fault_points()?, configuration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(record: &str) -> Vec<String> {
        points(record).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_comes_again_and_again_is_thinned() {
        let record = "serve\ta\n".to_owned() + &"serve\tb\n".repeat(100) + "serve\ta\n";
        let expected = [
            "serve a",
            "serve b",
            "serve b (50)",
            "serve b (100)",
            "serve a (2)",
        ];
        assert_eq!(shown(&record), expected);
    }

    #[test]
    fn one_place_is_struck_once() {
        let record = "serve\tbefore: a\nserve\tafter: a\nresident\tbefore: c\nserve\tbefore: b\n\
            serve\tafter: send b\nserve\tbefore: d\nprovider\tafter: e\nprovider\tbefore: f\n";
        let expected = [
            "serve before: a",
            "serve after: a",
            "resident before: c",
            "serve after: send b",
            "serve before: d",
            "provider after: e",
            "provider before: f",
        ];
        assert_eq!(shown(record), expected);
    }
}
