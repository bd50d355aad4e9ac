//! Programs that are run on the host: argument vectors, never a shell; bounded output and time.

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read as _, Seek as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::Stdio,
    time::Duration,
};

use protocol::{Failure, FailureKind};
use rustix::{
    fs::MemfdFlags,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};

use crate::{context::Context, failure::Context as _};

pub mod proxy;

/// How much of a program's output is kept. Bytes.
const OUTPUT_LIMIT: usize = 16 * 1024 * 1024;

/// How much of a program's complaint goes into a failure. Bytes.
const TAIL: usize = 2000;

/// How long what is contained may take to end once it is killed.
const ENDING: Duration = Duration::from_secs(20);

/// A program to run on the host.
#[derive(Debug)]
pub struct Program {
    command: Command,
    line: String,
    input: Vec<u8>,
    /// What an error calls it.
    verb: &'static str,
    when_left: WhenLeft,
}

/// What becomes of a program that nobody waits for any more, also because the agent was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenLeft {
    /// It is killed.
    Killed,
    /// It is killed with all that it has started and mounted.
    KilledWithAll,
    /// It goes on to its end.
    GoesOn,
}

impl Program {
    /// A program, found in the system's own folders.
    pub fn new(name: &str) -> Self {
        let mut command = Command::new(name);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", "/root")
            .current_dir("/")
            .kill_on_drop(true);
        Self {
            command,
            line: name.to_owned(),
            input: Vec::new(),
            verb: "run",
            when_left: WhenLeft::Killed,
        }
    }

    /// A program that starts and mounts what must not outlive it: with its first process a process namespace
    /// ends, and with the last one the mounts are gone that only they see. unshare(1), `pid_namespaces(7)`
    pub fn contained(name: &str) -> Self {
        let mut program = Self::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            // What is unmounted on the host meanwhile must not stay in use here.
            .args(["--propagation", "slave"])
            .args(["--", name]);
        name.clone_into(&mut program.line);
        program.when_left = WhenLeft::KilledWithAll;
        program
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.line.push(' ');
        self.line.push_str(&argument.as_ref().to_string_lossy());
        self.command.arg(argument);
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = S>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Sets one variable of its environment, which is empty otherwise.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// It fetches something, through the proxy that the host has been given. None of that is in its arguments.
    #[must_use]
    pub fn through_proxy(mut self) -> Self {
        self.command.envs(proxy::variables());
        self
    }

    /// It changes nothing.
    #[must_use]
    pub fn only_looking(mut self) -> Self {
        self.verb = "read from";
        self
    }

    /// It goes on to its end when the caller asks to stop, the time is up or the agent is killed, because half
    /// of it is worse. It reads nothing.
    #[must_use]
    pub fn outliving(mut self) -> Self {
        // A terminal's Ctrl-C goes to a whole process group.
        self.command.kill_on_drop(false).process_group(0);
        self.when_left = WhenLeft::GoesOn;
        self
    }

    /// What it reads.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Runs it until it ends well, the caller asks to stop, or the time is up; gives its output.
    pub async fn run(self, context: &Context) -> Result<Vec<u8>, Failure> {
        let is_contained = self.when_left == WhenLeft::KilledWithAll;
        let mut running = self.start()?;
        let ended = context.within(running.end()).await;
        if is_contained {
            running.end_all().await;
        }
        ended
    }

    /// Runs it with no limit of time; it is killed when this is dropped.
    pub async fn run_unbounded(self) -> Result<Vec<u8>, Failure> {
        self.start()?.end().await
    }

    fn start(mut self) -> Result<Running, Failure> {
        let deed = || format!("{} {}", self.verb, self.line);
        let files = if self.when_left == WhenLeft::GoesOn {
            // It would end by a pipe that nobody reads any more.
            let files = (
                memory("output").doing(deed)?,
                memory("complaint").doing(deed)?,
            );
            self.command
                .stdin(Stdio::null())
                .stdout(files.0.try_clone().doing(deed)?)
                .stderr(files.1.try_clone().doing(deed)?);
            Some(files)
        } else {
            end_with_parent(self.command.as_std_mut());
            self.command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            None
        };
        Ok(Running {
            child: self.command.spawn().doing(deed)?,
            files,
            line: self.line,
            input: self.input,
            verb: self.verb,
        })
    }
}

/// A file that goes with the last who has it open. memfd_create(2)
fn memory(name: &str) -> std::io::Result<File> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// A program that runs.
#[derive(Debug)]
struct Running {
    child: Child,
    /// Where it writes, unless that is pipes.
    files: Option<(File, File)>,
    line: String,
    input: Vec<u8>,
    verb: &'static str,
}

impl Running {
    /// Waits for its end; gives its output.
    async fn end(&mut self) -> Result<Vec<u8>, Failure> {
        let (stdin, stdout, stderr) = (
            self.child.stdin.take(),
            self.child.stdout.take(),
            self.child.stderr.take(),
        );
        let write = async {
            if let Some(mut stdin) = stdin {
                // A program that ends without reading all says why itself.
                let _ = stdin.write_all(&self.input).await;
            }
        };
        let ((), mut output, mut complaint, status) =
            tokio::join!(write, collect(stdout), collect(stderr), self.child.wait());
        let deed = || format!("{} {}", self.verb, self.line);
        let status = status.doing(deed)?;
        if let Some((written, complained)) = &self.files {
            output = contents(written).doing(deed)?;
            complaint = contents(complained).doing(deed)?;
        }
        if status.success() {
            return Ok(output);
        }
        let complaint = if complaint.is_empty() {
            output
        } else {
            complaint
        };
        Err(Failure::new(
            FailureKind::Command,
            format!("{} failed: {}", self.line, tail(&complaint)),
        ))
    }

    /// Kills what is contained, and waits until nothing of it is left: its first process is gone last.
    async fn end_all(&mut self) {
        let Some(outer) = self.child.id() else {
            return;
        };
        let is_killed =
            first_within(outer).is_some_and(|first| pidfd_send_signal(first, Signal::KILL).is_ok());
        if !is_killed {
            // It has started nothing yet, or has just ended.
            let _ = self.child.start_kill();
        }
        // What a process in an uninterruptible state holds is cleared away by a later change.
        let _ = tokio::time::timeout(ENDING, self.child.wait()).await;
    }
}

/// The first process within a namespace, which unshare(1) waits for.
fn first_within(outer: u32) -> Option<OwnedFd> {
    let child = || -> Option<Pid> {
        let path = format!("/proc/{outer}/task/{outer}/children");
        let children = std::fs::read_to_string(path).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    };
    let found = child()?;
    let process = pidfd_open(found, PidfdFlags::empty()).ok()?;
    // Its number may have become another's before it was opened.
    (child() == Some(found)).then_some(process)
}

/// What a program has written into a file.
fn contents(file: &File) -> std::io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    let mut file = file;
    file.rewind()?;
    file.take(OUTPUT_LIMIT as u64).read_to_end(&mut contents)?;
    Ok(contents)
}

/// Lets a program end when the thread that starts it does, also by SIGKILL: nothing must go on working on what
/// the next agent takes up or clears away. prctl(2), PR_SET_PDEATHSIG
pub fn end_with_parent(command: &mut std::process::Command) {
    let parent = rustix::process::getpid();
    #[allow(
        unsafe_code,
        reason = "what runs between fork(2) and execve(2) is marked unsafe"
    )]
    // SAFETY: it makes two system calls, and neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || Ok(end_with(parent)?));
    }
}

/// Lets the calling process end when its parent does, which is this one: two system calls. A change of its user id
/// undoes that. prctl(2), PR_SET_PDEATHSIG
pub fn end_with(parent: rustix::process::Pid) -> rustix::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // It died before that was set.
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        Err(rustix::io::Errno::SRCH)
    }
}

async fn collect(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut collected = Vec::new();
    let Some(mut stream) = stream else {
        return collected;
    };
    let mut piece = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        // Read on past the limit, so that the program never blocks on a full pipe.
        if collected.len() + length <= OUTPUT_LIMIT {
            collected.extend_from_slice(&piece[..length]);
        }
    }
    collected
}

/// Does slow work on the disk beside the one thread that answers requests.
pub async fn off_thread<I: Send + 'static, O: Send + 'static>(
    input: I,
    work: impl FnOnce(I) -> Result<O, Failure> + Send + 'static,
) -> Result<O, Failure> {
    let done = tokio::task::spawn_blocking(move || work(input)).await;
    done.map_err(std::io::Error::other)
        .doing(|| "work beside the agent's thread")?
}

/// The end of a program's output, as text for a person.
pub fn tail(output: &[u8]) -> String {
    let start = output.len().saturating_sub(TAIL);
    let text = String::from_utf8_lossy(&output[start..]);
    texts::printable(proxy::without_passwords(text.trim()).as_ref())
}

#[cfg(test)]
mod tests;
