//! Watches over a server's SSH: one session that stays open with traffic, and new ones all the time.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{Output, run},
    vps::Vps,
};

/// How long an answer over the open session, or a new login, may take on a busy machine; what is refused fails at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a probe has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How many lines came back over the open session.
    pub echoes: usize,
    /// How many new logins succeeded.
    pub logins: usize,
    /// The longest wait for a line over the open session.
    pub longest_echo: Duration,
    /// The longest login.
    pub longest_login: Duration,
    /// What failed, with the time since the start.
    pub failures: Vec<String>,
}

/// A probe that runs until it is finished.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
    session: Child,
}

impl Probe {
    /// Opens the session, and starts logging in again and again with a pause in between.
    pub fn start(vps: &Vps, pause: Duration) -> Result<Self> {
        let patience = format!("-oConnectTimeout={}", PATIENCE.as_secs());
        let mut session = vps
            .ssh_command()
            .args([&patience, "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start ssh")?;
        let to = session.stdin.take().context("ssh has no standard input")?;
        let from = session
            .stdout
            .take()
            .context("ssh has no standard output")?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let watch = Watch {
            stop: Arc::clone(&stop),
            seen: Arc::clone(&seen),
            start: Instant::now(),
        };
        let logins = watch.clone();
        let mut login = vps.ssh_command();
        login.args([&patience, "true"]);
        let (lines, received) = mpsc::channel();
        let threads = vec![
            std::thread::spawn(move || {
                for line in BufReader::new(from).lines().map_while(Result::ok) {
                    if lines.send(line).is_err() {
                        break;
                    }
                }
            }),
            std::thread::spawn(move || watch.keep_talking(to, &received)),
            std::thread::spawn(move || logins.keep_logging_in(&mut login, pause)),
        ];
        Ok(Self {
            stop,
            seen,
            threads,
            session,
        })
    }

    /// Returns what was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends the probe; fails when SSH was interrupted at any moment, or when nothing was tried.
    pub fn finish(mut self) -> Result<Seen> {
        self.end();
        let seen = self.seen();
        if !seen.failures.is_empty() {
            bail!("SSH was interrupted: {}", seen.failures.join("; "));
        }
        if seen.echoes == 0 || seen.logins == 0 {
            bail!("the probe ended before it could try anything: {seen:?}");
        }
        Ok(seen)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(1..).rev() {
            // A thread that panicked has noted nothing more, which finish() sees.
            let _ = thread.join();
        }
        // It ended by itself when its standard input was closed, or is ended here.
        let _ = self.session.kill();
        let _ = self.session.wait();
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if !self.threads.is_empty() && !self.stop.load(Ordering::Relaxed) {
            self.end();
        }
    }
}

#[derive(Debug, Clone)]
struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    start: Instant,
}

impl Watch {
    fn keep_talking(&self, mut to: ChildStdin, received: &mpsc::Receiver<String>) {
        for number in 0_u64.. {
            if self.is_stopped() {
                return;
            }
            let sent = Instant::now();
            if writeln!(to, "{number}").is_err() {
                self.failed("the open session broke");
                return;
            }
            match received.recv_timeout(PATIENCE) {
                Ok(line) if line == number.to_string() => self.note(|seen| {
                    seen.echoes += 1;
                    seen.longest_echo = seen.longest_echo.max(sent.elapsed());
                }),
                other => {
                    self.failed(&format!(
                        "the open session answered {other:?}, not {number}"
                    ));
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn keep_logging_in(&self, login: &mut std::process::Command, pause: Duration) {
        while !self.is_stopped() {
            let started = Instant::now();
            match run(login, PATIENCE).and_then(Output::checked) {
                Ok(_) => self.note(|seen| {
                    seen.logins += 1;
                    seen.longest_login = seen.longest_login.max(started.elapsed());
                }),
                Err(error) => self.failed(&format!("a login failed: {error:#}")),
            }
            std::thread::sleep(pause);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn failed(&self, what: &str) {
        let at = self.start.elapsed().as_secs_f64();
        self.note(|seen| seen.failures.push(format!("after {at:.1} s {what}")));
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
