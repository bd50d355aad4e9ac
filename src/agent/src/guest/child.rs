//! A child of the agent that reaches into a guest, where a system call may hang beyond SIGKILL.
//!
//! So it keeps nothing of the agent's: neither the host's lock, which it would hold after the agent is gone, nor
//! the line to the provider, which would stay open.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid},
};
use tokio::{io::AsyncReadExt as _, net::unix::pipe};

use crate::command::end_with;

/// Such a child.
pub struct Child {
    pid: Option<Pid>,
    /// Closed with its end.
    ending: Option<OwnedFd>,
}

impl Child {
    /// Forks a child that does this with these descriptors, and ends; with its parent, too, which the deed is told.
    /// It may make system calls only: another thread of the agent may have held the allocator's lock.
    pub fn fork(
        keep: &[BorrowedFd<'_>],
        deed: impl FnOnce(Pid) -> rustix::io::Result<()>,
    ) -> io::Result<Self> {
        let (ending, end) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut kept: Vec<RawFd> = keep.iter().map(BorrowedFd::as_raw_fd).collect();
        kept.push(end.as_fd().as_raw_fd());
        kept.sort_unstable();
        let parent = getpid();
        #[allow(
            unsafe_code,
            reason = "fork(2), because setns(2) takes only a process with one thread"
        )]
        // SAFETY: the child makes system calls only, and leaves with _exit: all that is allowed after a fork of a
        // process with threads.
        let child = unsafe {
            let child = libc::fork();
            if child == 0 {
                if close_others(&kept) && end_with(parent).is_ok() {
                    let _ = deed(parent);
                }
                libc::_exit(0);
            }
            child
        };
        let pid = Pid::from_raw(child).filter(|_| child > 0);
        Ok(Self {
            pid: Some(pid.ok_or_else(io::Error::last_os_error)?),
            ending: Some(ending),
        })
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> io::Result<()> {
        if let Some(ending) = self.ending.take() {
            let mut ending = pipe::Receiver::from_owned_fd(ending)?;
            ending.read_to_end(&mut Vec::new()).await?;
        }
        waitpid(self.pid.take(), WaitOptions::empty())?;
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(child) = self.pid {
            let _ = kill_process(child, Signal::KILL);
            // Reaped when it is gone, so that no zombie stays with the resident service.
            std::thread::spawn(move || waitpid(Some(child), WaitOptions::empty()));
        }
    }
}

/// Closes all descriptors but these, which are in order.
fn close_others(kept: &[RawFd]) -> bool {
    let mut first = 0;
    for kept in kept.iter().map(|kept| kept.cast_unsigned()) {
        if first < kept && !close_range(first, kept - 1) {
            return false;
        }
        first = kept + 1;
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> bool {
    #[allow(unsafe_code, reason = "close_range(2) has no wrapper in rustix")]
    // SAFETY: called in a child that ends without using what is closed.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, last, 0) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        time::{Duration, Instant},
    };

    use rustix::fs::{FlockOperation, flock};

    use super::*;

    fn descriptors(child: &Child) -> Vec<String> {
        let folder = format!("/proc/{}/fd", child.pid.unwrap().as_raw_nonzero());
        let files = fs::read_dir(folder).unwrap().flatten();
        let mut files: Vec<String> = files
            .filter_map(|file| Some(fs::read_link(file.path()).ok()?.display().to_string()))
            .collect();
        files.sort();
        files
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_child_that_hangs_keeps_nothing_of_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = File::create(&path).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let (hang, release) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let child = Child::fork(&[hang.as_fd()], |_| {
            rustix::io::read(&hang, &mut [0; 1]).map(drop)
        })
        .unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let mut left = descriptors(&child);
        while left.len() != 2 && Instant::now() < until {
            tokio::task::yield_now().await;
            left = descriptors(&child);
        }
        assert!(
            left.len() == 2 && left.iter().all(|file| file.starts_with("pipe:")),
            "{left:?}"
        );
        drop(lock);
        let other = File::open(&path).unwrap();
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
        drop(release);
        child.ended().await.unwrap();
    }
}
