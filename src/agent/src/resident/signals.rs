//! What the service is told by signals: to end, and to become another binary.

use std::{future::Future, os::unix::process::CommandExt as _, process::Command};

use protocol::{Failure, FailureKind};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{failure::Context as _, host};

/// The signals that it acts upon.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    /// What it becomes when it is told to take up a new binary.
    program: &'static str,
}

impl Signals {
    /// From now on.
    pub fn listen() -> Result<Self, Failure> {
        let deed = || "listen for signals";
        Ok(Self {
            hangup: signal(SignalKind::hangup()).doing(deed)?,
            terminate: signal(SignalKind::terminate()).doing(deed)?,
            program: host::install::BINARY,
        })
    }

    /// Does something that may be dropped at any moment, unless the service is told to end or to
    /// take up a new binary. One that can't be taken up is no reason to leave the host alone.
    pub async fn unless<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                _ = self.terminate.recv() => std::process::exit(host::install::STOPPED),
                _ = self.hangup.recv() => {
                    let failure = take_up_new_binary(self.program);
                    eprintln!("going on as before: {failure}");
                }
                done = &mut work => return done,
            }
        }
    }
}

/// Becomes the binary in force, as the same process: a restart would reach the guests' units.
#[allow(
    unsafe_code,
    reason = "no crate here has a safe signal(2) that ignores"
)]
fn take_up_new_binary(program: &str) -> Failure {
    let error = Command::new(program).arg("resident").exec();
    // exec() has made it deadly, so that a line for a journal that restarts would end the service.
    // SAFETY: nothing handles this signal, and none of this process's threads sets it.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let failed: Result<(), Failure> = Err(error).doing(|| format!("take up the agent {program}"));
    failed
        .err()
        .unwrap_or_else(|| Failure::new(FailureKind::System, "the new agent did not start"))
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_new_binary_that_is_gone_again_does_not_end_the_service() {
        let mut signals = Signals {
            program: "/nonexistent/nspawn-agent",
            ..Signals::listen().unwrap()
        };
        let mut later = signal(SignalKind::hangup()).unwrap();
        kill_process(getpid(), Signal::HUP).unwrap();
        // The work is done only after the signal has come.
        let work = async {
            later.recv().await;
            std::fs::read_to_string("/proc/self/status").unwrap()
        };
        let status = signals.unless(work).await;
        let ignored = status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap();
        assert!(ignored & 1 << (libc::SIGPIPE - 1) != 0, "{ignored:x}");
    }
}
