//! Keeps room on the disk for the guests that run: an image may be larger than it was thought to be, and no tarball
//! says how large it is unpacked.

use std::{path::Path, pin::pin, time::Duration};

use protocol::{Failure, FailureKind};
use rustix::fs::statvfs;
use tokio::time::sleep;

use crate::context::Context;

/// A twentieth of the disk stays free.
const PART: u64 = 20;

/// And no more than that: bytes, and files.
const BYTES: u64 = 1 << 30;
const FILES: u64 = 10_000;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_millis(500);

/// Does what fills a place on the disk, and stops it when too little is left.
pub async fn keep<T>(
    context: &Context,
    place: &Path,
    work: impl AsyncFnOnce(&Context) -> Result<T, Failure>,
) -> Result<T, Failure> {
    watched(context, || is_left(place), work).await
}

async fn watched<T>(
    context: &Context,
    is_left: impl Fn() -> Result<(), Failure>,
    work: impl AsyncFnOnce(&Context) -> Result<T, Failure>,
) -> Result<T, Failure> {
    is_left()?;
    let mut stoppable = context.clone();
    stoppable.cancel = context.cancel.child_token();
    let mut work = pin!(work(&stoppable));
    let short = async {
        loop {
            sleep(INTERVAL).await;
            if let Err(failure) = is_left() {
                break failure;
            }
        }
    };
    tokio::select! {
        biased;
        done = &mut work => done,
        failure = short => {
            // It ends by itself, with all that it has started.
            stoppable.cancel.cancel();
            work.await.map_err(|_| failure)
        }
    }
}

/// Fails when too little is left.
pub fn is_left(place: &Path) -> Result<(), Failure> {
    let disk = statvfs(place).map_err(|error| {
        let message = format!("could not see how full {} is: {error}", place.display());
        Failure::new(FailureKind::System, message)
    })?;
    let megabytes = |bytes: u64| format!("{} MB", bytes / 1_000_000);
    let (free, total) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
    let what = if is_short(free, total, BYTES) {
        format!("{} of {} are free", megabytes(free), megabytes(total))
    } else if is_short(disk.f_favail, disk.f_files, FILES) {
        format!("{} of {} inodes are free", disk.f_favail, disk.f_files)
    } else {
        return Ok(());
    };
    Err(Failure::new(
        FailureKind::DiskFull,
        format!(
            "{FULL}, and nothing of it was left: {what}, and a twentieth (at most 1 GiB) is kept for what runs"
        ),
    )
    .help(HELP))
}

/// How it begins.
pub const FULL: &str = "the host's disk is full: the image was not unpacked";

/// What to do about it.
pub const HELP: &str =
    "Make room below /var/lib/nspawn-agent on the host, or remove images that nothing needs.";

/// Some file systems have no limit, and say none.
fn is_short(free: u64, total: u64, most: u64) -> bool {
    total > 0 && free < most.min(total / PART)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::testing;

    #[test]
    fn a_twentieth_stays_free_and_no_more_than_enough() {
        for (free, total, is) in [
            (0, 0, false),
            (4, 100, true),
            (5, 100, false),
            (9, 1000, true),
            (10, 1000, false),
        ] {
            assert_eq!(is_short(free, total, 10), is, "{free} of {total}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_fills_the_disk_is_stopped_and_told_so() {
        testing::within(Duration::from_mins(1), async |context| {
            let looks = Cell::new(0);
            let look = || {
                looks.set(looks.get() + 1);
                if looks.get() < 3 {
                    Ok(())
                } else {
                    Err(Failure::new(FailureKind::DiskFull, "short"))
                }
            };
            let ended = Cell::new(false);
            let failure = watched(&context, look, async |context| {
                let stopped = context
                    .within(std::future::pending::<Result<(), _>>())
                    .await;
                ended.set(true);
                stopped
            });
            assert_eq!(failure.await.unwrap_err().message, "short");
            assert!(ended.get() && context.check().is_ok());
        })
        .await;
    }
}
