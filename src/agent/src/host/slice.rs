//! The slice of all machines of a host, also of those that are none of ours.

use std::{fs, io, path::Path};

use protocol::Failure;

use super::install::time_left;
use crate::{
    context::Context,
    system::systemd::{Systemd, UnitState},
};

/// Stops machine.slice when nobody needs it any more: systemd starts it with the first machine, and
/// never stops it by itself. systemd.special(7)
pub async fn stop_empty(context: &Context) -> Result<(), Failure> {
    const SLICE: &str = "machine.slice";
    let systemd = Systemd::of_host(context).await?;
    // Without a machine since the boot it may be active all the same: systemd-machined wants it.
    if !systemd.unit_state(SLICE).await?.is_up() {
        return Ok(());
    }
    let along = systemd.stopped_along(SLICE).await;
    let groups = fs::read_dir(Path::new("/sys/fs/cgroup").join(SLICE))
        .map(|entries| entries.flatten().any(|entry| entry.path().is_dir()));
    if is_needed(along, groups) {
        return Ok(());
    }
    let job = systemd.stop(SLICE).await?;
    job.end(time_left(context)).await.map(drop)
}

/// Whether a slice holds anything, or may: all units in it would be stopped along with it. Control groups alone don't
/// tell: they lie elsewhere on a host with those of version 1, and a unit that waits for its restart has none.
fn is_needed(along: Result<Vec<UnitState>, Failure>, groups: io::Result<bool>) -> bool {
    let has_groups = match groups {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        groups => groups.unwrap_or(true),
    };
    has_groups || along.map_or(true, |states| states.iter().any(UnitState::is_up))
}

#[cfg(test)]
mod tests {
    use protocol::FailureKind;

    use super::*;

    #[test]
    fn the_slice_of_others_machines_is_needed_wherever_their_control_groups_are() {
        let missing = || Err(io::ErrorKind::NotFound.into());
        let state = |active: &str, sub: &str| UnitState {
            active: active.to_owned(),
            sub: sub.to_owned(),
        };
        let dead = || state("inactive", "dead");
        let unanswered = || Err(Failure::new(FailureKind::System, "no answer"));
        for (along, groups, needed) in [
            (Ok(vec![]), missing(), false),
            (
                Ok(vec![dead(), state("failed", "failed")]),
                Ok(false),
                false,
            ),
            (Ok(vec![dead()]), Ok(true), true),
            (
                Ok(vec![dead(), state("active", "running")]),
                missing(),
                true,
            ),
            (
                Ok(vec![state("activating", "auto-restart")]),
                Ok(false),
                true,
            ),
            (
                Ok(vec![]),
                Err(io::ErrorKind::PermissionDenied.into()),
                true,
            ),
            (unanswered(), missing(), true),
        ] {
            let case = format!("{along:?} {groups:?}");
            assert_eq!(is_needed(along, groups), needed, "{case}");
        }
    }
}
