//! What interrupts a thread that waits for its sockets.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::{Errno, read, write},
};

/// An eventfd(2), and whether the thread is to end.
#[derive(Debug)]
pub(super) struct Wake {
    descriptor: OwnedFd,
    closing: AtomicBool,
}

impl Wake {
    pub(super) fn new() -> Result<Self, Errno> {
        Ok(Self {
            descriptor: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            closing: AtomicBool::new(false),
        })
    }

    /// Makes a poll return. A full counter already does.
    pub(super) fn notify(&self) {
        let _ = write(&self.descriptor, &1_u64.to_ne_bytes());
    }

    /// Takes the notifications so far.
    pub(super) fn take(&self) {
        let _ = read(&self.descriptor, &mut [0; 8]);
    }

    /// Tells the thread to end.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.notify();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
