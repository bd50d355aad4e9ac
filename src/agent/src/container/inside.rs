//! The files inside running guests, looked at and written by a process of its own.
//!
//! The root of a guest can take its folders' locks for ever: whoever looks a name up there then hangs beyond
//! SIGKILL. A thread of the agent would keep the host's lock meanwhile; another program keeps nothing of it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write as _},
    process::Stdio,
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use protocol::{Failure, FailureKind, desired::Container, name::MachineName};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use super::{paths::Paths, secret};
use crate::{
    command::end_with_parent,
    failure::Context as _,
    guest::{
        files::{self, Change},
        root::{GuestRoot, TEMPORARY},
    },
    store::{self, Store, Stored},
};

/// How long looking at one guest's files may take, on a disk that is busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same for guests beside one that hangs already: a tenant may have many of them.
const LITTLE_PATIENCE: Duration = Duration::from_secs(1);

/// How long writing one guest's files may take: each is brought to the disk.
const WRITING: Duration = Duration::from_secs(10);

/// How many guests one process looks into, one after the other.
const GUESTS_EACH: usize = 16;

/// How many such processes there are at once.
const PROCESSES: usize = 4;

/// What the other process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Deed {
    /// Tell what isn't as it should be.
    Look,
    /// Mend it, too.
    Write,
}

/// How the files inside a guest are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inside {
    /// These aren't as they should be.
    Changed(Vec<String>),
    /// Looking at them came to no end.
    Hangs,
}

impl Inside {
    /// Whether nothing is known to be wrong, nor unknown.
    pub fn is_well(&self) -> bool {
        *self == Self::Changed(Vec::new())
    }

    /// What deviates: a sentence each.
    pub fn sentences(&self, name: &MachineName) -> Vec<String> {
        let changed = |file: &String| {
            let name = file.rsplit('/').next().unwrap_or_default();
            if name.starts_with(TEMPORARY) {
                format!("the file /{file} in the guest was left by a change that was cut off")
            } else {
                format!("the file /{file} in the guest was changed")
            }
        };
        match self {
            Self::Changed(files) => files.iter().map(changed).collect(),
            Self::Hangs => vec![format!(
                "the files in the guest {name} can't be looked at: whoever looks one up there hangs"
            )],
        }
    }
}

/// What the other process says, one a line.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    Changed(Vec<String>),
    Written,
    Failed(Failure),
}

/// Looks at the files inside these guests.
pub async fn look(names: Vec<MachineName>) -> Result<BTreeMap<MachineName, Inside>, Failure> {
    let some = names.chunks(GUESTS_EACH).map(<[MachineName]>::to_vec);
    let looks: Vec<_> = some.map(look_into).collect();
    let found: Vec<Vec<_>> = stream::iter(looks)
        .buffer_unordered(PROCESSES)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

async fn look_into(names: Vec<MachineName>) -> Result<Vec<(MachineName, Inside)>, Failure> {
    let mut found = Vec::new();
    let mut patience = PATIENCE;
    while found.len() < names.len() {
        let mut worker = Worker::start(Deed::Look, &names[found.len()..])?;
        // Another one goes on after a guest at which this one hangs.
        let mut hangs = false;
        while let (false, Some(name)) = (hangs, names.get(found.len())) {
            let inside = match timeout(patience, worker.word()).await {
                Ok(word) => Inside::Changed(changed(word?)?),
                Err(_) => Inside::Hangs,
            };
            hangs = inside == Inside::Hangs;
            found.push((name.clone(), inside));
        }
        if hangs {
            patience = LITTLE_PATIENCE;
        }
    }
    Ok(found)
}

/// Makes the files inside a running guest as they should be.
pub async fn write(name: &MachineName) -> Result<(), Failure> {
    let mut worker = Worker::start(Deed::Write, std::slice::from_ref(name))?;
    let hangs = |_| hangs(name);
    changed(timeout(PATIENCE, worker.word()).await.map_err(hangs)??)?;
    match timeout(WRITING, worker.word()).await.map_err(hangs)?? {
        Word::Failed(failure) => Err(failure),
        Word::Written | Word::Changed(_) => Ok(()),
    }
}

fn hangs(name: &MachineName) -> Failure {
    Failure::new(
        FailureKind::Timeout,
        format!(
            "could not write the files of the guest {name}: whoever looks a file up there hangs"
        ),
    )
    .help(format!(
        "A program inside holds a folder such as /etc, as only a hostile or broken one does. Stop or restart {name}."
    ))
}

fn changed(word: Word) -> Result<Vec<String>, Failure> {
    match word {
        Word::Changed(files) => Ok(files),
        Word::Written => Ok(Vec::new()),
        Word::Failed(failure) => Err(failure),
    }
}

/// The other process, which is killed when this is dropped, or the agent dies.
struct Worker {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn start(deed: Deed, names: &[MachineName]) -> Result<Self, Failure> {
        let starting = || "reach into guests from a process of their own";
        let mut command = Command::new("/proc/self/exe");
        let word = match deed {
            Deed::Look => "look",
            Deed::Write => "write",
        };
        command
            .arg0("nspawn-agent")
            .args(["guest-files", word])
            .args(names.iter().map(MachineName::as_str))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // The provider's line must not stay open for it.
            .stderr(Stdio::null())
            .kill_on_drop(true);
        end_with_parent(command.as_std_mut());
        let mut child = command.spawn().doing(starting)?;
        let stdout = child.stdout.take();
        let stdout = stdout
            .ok_or(io::ErrorKind::BrokenPipe)
            .map_err(io::Error::from);
        Ok(Self {
            lines: BufReader::new(stdout.doing(starting)?).lines(),
            _child: child,
        })
    }

    async fn word(&mut self) -> Result<Word, Failure> {
        let listening = || "listen to the process that reaches into guests";
        let line = self.lines.next_line().await.doing(listening)?;
        let line = line
            .ok_or(io::ErrorKind::UnexpectedEof)
            .map_err(io::Error::from);
        let word = serde_json::from_str(&line.doing(listening)?);
        word.map_err(io::Error::from).doing(listening)
    }
}

/// The other process's own part: says what it finds, guest by guest.
pub fn work(deed: Deed, names: &[MachineName]) -> Result<(), Failure> {
    let store = Store::new(store::FOLDER);
    for name in names {
        let _turn = take_turn(name).doing(|| format!("reach into the guest {name}"))?;
        // One that isn't there was removed a moment ago.
        let found = store.get::<Container>(name.as_str()).and_then(|stored| {
            let found = stored.map(Found::look).transpose()?;
            Ok(found.flatten())
        });
        work_at(deed, found).doing(|| format!("note how the files of the guest {name} are"))?;
    }
    Ok(())
}

/// Says one word of a guest that is looked at, or that failed; two of one that is written.
fn work_at(deed: Deed, found: Result<Option<Found>, Failure>) -> io::Result<()> {
    let found = match found {
        Ok(found) => found,
        Err(failure) => return say(&Word::Failed(failure)),
    };
    let changes = found.iter().flat_map(|found| &found.changes);
    let paths = changes.map(|change| change.path.clone());
    say(&Word::Changed(paths.collect()))?;
    if deed == Deed::Look {
        return Ok(());
    }
    match found.map_or(Ok(()), |found| found.write()) {
        Ok(()) => say(&Word::Written),
        Err(failure) => say(&Word::Failed(failure)),
    }
}

fn say(word: &Word) -> io::Result<()> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    let mut stdout = io::stdout();
    stdout.write_all(&line)?;
    stdout.flush()
}

/// A guest's root and what its files lack.
pub struct Found {
    stored: Stored<Container>,
    root: GuestRoot,
    changes: Vec<Change>,
}

impl Found {
    /// None when it isn't mounted.
    pub fn look(stored: Stored<Container>) -> Result<Option<Self>, Failure> {
        let hash = secret::password_hash(&stored.desired)?;
        let root = Paths::of(&stored.desired.name).machine();
        match GuestRoot::open(&root, stored.assigned.uid_base) {
            // It has stopped since, and its start writes them.
            Ok(root) if !root.is_mounted() => Ok(None),
            Ok(root) => {
                let changes = files::changes(&root, &stored.desired, hash.as_deref());
                Ok(Some(Self {
                    stored,
                    root,
                    changes,
                }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing(|| format!("open {}", root.display())),
        }
    }

    /// Makes them as they should be.
    pub fn write(&self) -> Result<(), Failure> {
        let written = files::apply(&self.root, &self.changes);
        written.doing(|| format!("write the files of the guest {}", self.stored.desired.name))
    }
}

/// Waits for its turn: while another process still hangs in a guest, no other one gets that far. The file is
/// another one after each start of the guest.
fn take_turn(name: &MachineName) -> io::Result<Option<File>> {
    let file = match File::open(Paths::of(name).started()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(Some(file))
}
