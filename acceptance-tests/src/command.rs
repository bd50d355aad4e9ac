//! Runs programs with a deadline and keeps what they print.

use std::{
    io::Read,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

/// What a program printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The program and its arguments, for messages.
    pub command: String,
    /// How the program ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// Tells whether the program ended with status 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Returns the standard output of a program that succeeded, or an error with all it printed.
    pub fn checked(self) -> Result<String> {
        if self.success() {
            return Ok(self.stdout);
        }
        bail!(
            "`{}` failed ({})\n{}{}",
            self.command,
            self.status,
            self.stdout,
            self.stderr
        )
    }
}

/// A program that runs in a process group of its own; it is killed when dropped.
#[derive(Debug)]
pub struct Process {
    command: String,
    child: Child,
    stdout: Collector,
    stderr: Collector,
}

impl Process {
    /// Starts a program with its output captured and nothing on its standard input.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let shown = describe(command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("start `{shown}`"))?;
        let stdout = Collector::start(child.stdout.take());
        let stderr = Collector::start(child.stderr.take());
        Ok(Self {
            command: shown,
            child,
            stdout,
            stderr,
        })
    }

    /// Sends a signal to this program alone, as `kill` does.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::kill_process(pid_of(&self.child)?, signal)
            .with_context(|| format!("signal `{}`", self.command))
    }

    /// Sends a signal to the programs of this name that it has started, and they in turn; tells to how many.
    pub fn signal_below(&self, program: &str, signal: Signal) -> Result<usize> {
        let mut signalled = 0;
        let mut next = vec![self.child.id()];
        while let Some(pid) = next.pop() {
            let name = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            if name.file_name().is_some_and(|name| name == program)
                && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
            {
                rustix::process::kill_process(pid, signal)
                    .with_context(|| format!("signal {program}"))?;
                signalled += 1;
            }
            // Each thread has children of its own. proc_pid_tid_children(5)
            for task in std::fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten()
                .flatten()
            {
                let text = std::fs::read_to_string(task.path().join("children"));
                let children = text.unwrap_or_default();
                next.extend(
                    children
                        .split_whitespace()
                        .filter_map(|pid| pid.parse::<u32>().ok()),
                );
            }
        }
        Ok(signalled)
    }

    /// Returns what the program has printed so far, standard output first.
    pub fn printed(&self) -> String {
        self.stdout.text() + &self.stderr.text()
    }

    /// Tells whether the program still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end of the program; one that is still there at the deadline is killed, which is an error.
    pub fn wait(mut self, deadline: Duration) -> Result<Output> {
        if self.is_running() && !ends_within(&self.child, deadline)? {
            let printed = self.printed();
            bail!(
                "`{}` still ran after {deadline:?} and was killed; so far:\n{printed}",
                self.command
            );
        }
        let status = self
            .child
            .wait()
            .with_context(|| format!("wait for `{}`", self.command))?;
        Ok(Output {
            command: self.command.clone(),
            status,
            stdout: self.stdout.finish(),
            stderr: self.stderr.finish(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running()
            && let Ok(pid) = pid_of(&self.child)
        {
            // Failing means that it ended by itself in between.
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Runs a program to its end, whatever its exit status.
pub fn run(command: &mut Command, deadline: Duration) -> Result<Output> {
    Process::spawn(command)?.wait(deadline)
}

/// Runs a program that has to succeed and returns its standard output. The longest is a copy of a root or of a disk.
pub fn check(command: &mut Command) -> Result<String> {
    run(command, Duration::from_mins(3))?.checked()
}

/// Builds a command from a program and its arguments.
pub fn command<S: AsRef<std::ffi::OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// How long [`wait_until`] pauses between two questions: as long as one takes, within these.
const LEAST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Asks again and again until there is an answer; the error of the last try is told at the deadline.
pub fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut ask: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let asked = Instant::now();
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() > deadline => {
                return Err(error.context(format!("waited {deadline:?} until {what}")));
            }
            // A question that takes a second of the processor would keep busy what is waited for.
            Err(_) => std::thread::sleep(asked.elapsed().clamp(LEAST_PAUSE, LONGEST_PAUSE)),
        }
    }
}

/// Tells whether a child ends before the deadline, without reaping it.
pub(crate) fn ends_within(child: &Child, deadline: Duration) -> Result<bool> {
    let pidfd = pidfd_open(pid_of(child)?, PidfdFlags::empty())?;
    let until = Instant::now() + deadline;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

pub(crate) fn pid_of(child: &Child) -> Result<Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("the child has no process id")
}

/// Tells whether a status means the death by a signal, which a shell shows as 128 plus its number.
pub fn killed_by_signal(status: ExitStatus) -> bool {
    status.signal().is_some()
}

fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(std::ffi::OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Reads a pipe to its end in a thread of its own, so that a full pipe never blocks the writer.
#[derive(Debug)]
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    fn start(pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let thread = pipe.map(|mut pipe| {
            std::thread::spawn(move || {
                let mut chunk = [0; 8192];
                while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                    shared
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend_from_slice(&chunk[..length]);
                }
            })
        });
        Self { bytes, thread }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
            .into_owned()
    }

    /// Waits for the end of the pipe, but not for a grandchild that keeps it open.
    fn finish(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            let until = Instant::now() + Duration::from_secs(2);
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_question_is_not_asked_without_a_pause() {
        let mut gaps = Vec::new();
        let mut last: Option<(Instant, Duration)> = None;
        let answer = wait_until("the fifth time", Duration::from_mins(1), || {
            let asked = Instant::now();
            gaps.extend(last.map(|(ended, took)| (asked - ended, took)));
            std::thread::sleep(Duration::from_millis(60));
            last = Some((Instant::now(), asked.elapsed()));
            anyhow::ensure!(gaps.len() == 4, "not yet");
            Ok(())
        });
        answer.unwrap();
        for (pause, took) in gaps {
            assert!(pause >= took.min(LONGEST_PAUSE), "{pause:?} after {took:?}");
        }
    }

    #[test]
    fn the_last_error_is_told_at_the_deadline() {
        let answer = wait_until("never", Duration::ZERO, || -> Result<()> {
            bail!("not yet")
        });
        let error = format!("{:#}", answer.unwrap_err());
        assert!(error.ends_with("until never: not yet"), "{error}");
    }
}
