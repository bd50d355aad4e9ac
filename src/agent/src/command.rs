//! Programs that are run on the host: argument vectors, never a shell; bounded output and time.

use std::{ffi::OsStr, os::unix::process::CommandExt as _, process::Stdio};

use protocol::{Failure, FailureKind};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use crate::{context::Context, failure::Context as _};

/// How much of a program's output is kept. Bytes.
const OUTPUT_LIMIT: usize = 16 * 1024 * 1024;

/// How much of a program's complaint goes into a failure. Bytes.
const TAIL: usize = 2000;

/// A program to run on the host.
#[derive(Debug)]
pub struct Program {
    command: Command,
    line: String,
    input: Vec<u8>,
    /// What an error calls it.
    verb: &'static str,
    /// Whether it goes on when the agent is killed.
    outlives: bool,
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
            outlives: false,
        }
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

    /// It changes nothing.
    #[must_use]
    pub fn only_looking(mut self) -> Self {
        self.verb = "read from";
        self
    }

    /// It goes on to its end when the agent is killed, because half of it is worse.
    #[must_use]
    pub fn outliving(mut self) -> Self {
        self.outlives = true;
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
        context.within(self.run_unbounded()).await
    }

    /// Runs it with no limit of time; it is killed when this is dropped.
    pub async fn run_unbounded(mut self) -> Result<Vec<u8>, Failure> {
        if !self.outlives {
            end_with_parent(self.command.as_std_mut());
        }
        let (line, verb) = (self.line, self.verb);
        let deed = || format!("{verb} {line}");
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .doing(deed)?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A program that ends without reading all says why itself.
                let _ = stdin.write_all(&self.input).await;
            }
        };
        let ((), output, complaint, status) =
            tokio::join!(write, collect(stdout), collect(stderr), child.wait());
        if status.doing(deed)?.success() {
            return Ok(output);
        }
        let complaint = if complaint.is_empty() {
            output
        } else {
            complaint
        };
        Err(Failure::new(
            FailureKind::Command,
            format!("{line} failed: {}", tail(&complaint)),
        ))
    }
}

/// Lets a program end when the thread that starts it does, also by SIGKILL: nothing must go on working on what
/// the next agent takes up or clears away. prctl(2), PR_SET_PDEATHSIG
pub fn end_with_parent(command: &mut std::process::Command) {
    let parent = rustix::process::getpid();
    let end = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // It died before that was set.
        if rustix::process::getppid() != Some(parent) {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    #[allow(
        unsafe_code,
        reason = "what runs between fork(2) and execve(2) is marked unsafe"
    )]
    // SAFETY: it makes two system calls, and neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(end);
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
    texts::printable(String::from_utf8_lossy(&output[start..]).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn output_comes_back_and_a_failure_carries_the_complaint() {
        let output = Program::new("cat")
            .input("hello")
            .run_unbounded()
            .await
            .unwrap();
        assert_eq!(output, b"hello");
        let failure = Program::new("ls")
            .arg("/nonexistent-file")
            .run_unbounded()
            .await
            .unwrap_err();
        assert_eq!(failure.kind, FailureKind::Command);
        assert!(failure.message.contains("/nonexistent-file"), "{failure}");
        assert_eq!(tail(b"tar: \x1b[2Jx\n"), "tar: \\u{1b}[2Jx");
    }
}
