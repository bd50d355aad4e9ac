//! The host's lock: one change at a time, whoever makes it.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{Failure, FailureKind};
use rustix::fs::{FlockOperation, flock};
use tokio::time::{Instant, sleep};

use crate::{context::Context, failure::Context as _, system::files};

/// Held for one change; let go when dropped, also by the kernel when the process dies.
#[derive(Debug)]
pub struct HostLock {
    _file: File,
}

/// How often a held lock is tried again: flock(2) can't wait with a time limit.
const RETRY: Duration = Duration::from_millis(20);

impl HostLock {
    /// Waits for the lock until the context's deadline.
    pub async fn take(context: &Context) -> Result<Self, Failure> {
        let path = context.run_folder.join("lock");
        files::create_folder(&context.run_folder, 0o755)?;
        Self::take_at(&path, &context.holder, context.deadline, || context.check()).await
    }

    async fn take_at(
        path: &PathBuf,
        holder: &str,
        deadline: Instant,
        check: impl Fn() -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let deed = || format!("open the host's lock {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)
            .doing(deed)?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).doing(deed),
            }
            if Instant::now() >= deadline {
                return Err(busy(path));
            }
            check()?;
            sleep(RETRY).await;
        }
        let written = (|| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(holder.as_bytes())
        })();
        written.doing(|| "write the lock's holder")?;
        Ok(Self { _file: file })
    }
}

fn busy(path: &Path) -> Failure {
    let mut holder = String::new();
    let read = File::open(path).and_then(|file| file.take(256).read_to_string(&mut holder));
    if read.is_err() || holder.is_empty() {
        "somebody".clone_into(&mut holder);
    }
    Failure::new(
        FailureKind::Busy,
        format!("another change of this host is under way, by {holder}"),
    )
    .help("Wait until it is done, or raise this resource's timeouts.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_second_waits_and_says_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let soon = || Instant::now() + Duration::from_millis(60);
        let first = HostLock::take_at(&path, "alice@laptop", soon(), || Ok(()))
            .await
            .unwrap();
        let failure = HostLock::take_at(&path, "bob@ci", soon(), || Ok(()))
            .await
            .unwrap_err();
        assert_eq!(failure.kind, FailureKind::Busy);
        assert!(failure.message.contains("alice@laptop"), "{failure}");
        drop(first);
        HostLock::take_at(&path, "bob@ci", soon(), || Ok(()))
            .await
            .unwrap();
    }
}
