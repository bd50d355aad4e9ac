//! Cuts a connection on which libssh2 stays past its time: as long as something comes, whatever that is, it reads on and
//! looks at no clock.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Instant,
};

use rustix::net::{Shutdown, shutdown};

/// Watches over one socket, until it is dropped.
pub(super) struct Watchdog {
    deadlines: mpsc::Sender<Option<Instant>>,
    has_cut: Arc<AtomicBool>,
}

impl Watchdog {
    pub(super) fn over(socket: OwnedFd) -> io::Result<Self> {
        let (sender, deadlines) = mpsc::channel();
        let has_cut = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&has_cut);
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                if is_overdue(&deadlines) {
                    cut.store(true, Ordering::Release);
                    let _ = shutdown(&socket, Shutdown::Both);
                }
            })?;
        Ok(Self {
            deadlines: sender,
            has_cut,
        })
    }

    /// Cuts the connection at the deadline, unless the result is dropped before.
    pub(super) fn watch(&self, deadline: Instant) -> Watch {
        let _ = self.deadlines.send(Some(deadline));
        Watch(self.deadlines.clone())
    }

    /// Whether it had to cut the connection.
    pub(super) fn has_cut(&self) -> bool {
        self.has_cut.load(Ordering::Acquire)
    }
}

/// Calls the watchdog off.
pub(super) struct Watch(mpsc::Sender<Option<Instant>>);

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.send(None);
    }
}

/// Waits until a deadline passes, true, or nobody can set one any more.
fn is_overdue(deadlines: &mpsc::Receiver<Option<Instant>>) -> bool {
    let mut deadline = None;
    loop {
        let next = match deadline {
            None => deadlines.recv().map_err(RecvTimeoutError::from),
            Some(deadline) => deadlines.recv_timeout(Instant::saturating_duration_since(
                &deadline,
                Instant::now(),
            )),
        };
        match next {
            Ok(next) => deadline = next,
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}
