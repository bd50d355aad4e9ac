//! The service stands by before a change that it may have to undo.

use std::{path::Path, time::Duration};

use protocol::{Failure, FailureKind};

use super::install::{self, UNIT, UNIT_PATH};
use crate::{
    context::Context,
    lock::Presence,
    system::{
        files, journal,
        systemd::{Systemd, UnitState},
    },
};

/// How long the service may take to come up, before anything else is changed.
const STAND_BY_TIME: Duration = Duration::from_secs(20);

/// Makes sure that the service is there before a change that it may have to undo: this very process
/// may be killed, hang or be cut off at any moment from now on. The service waits for the host's
/// lock, which the caller holds.
pub async fn make_sure(context: &Context) -> Result<(), Failure> {
    let contents = install::unit();
    if files::compare(Path::new(UNIT_PATH), &contents)? != files::OwnFile::Same {
        files::write_own(Path::new(UNIT_PATH), &contents, 0o644)?;
    }
    install::enable(context).await?;
    let systemd = Systemd::of_host(context).await?;
    match way_up(
        &systemd.unit_state(UNIT).await?,
        install::running(&systemd).await?.as_deref(),
        install::in_force().as_deref(),
    ) {
        WayUp::None => {}
        WayUp::Reload => install::reload(context).await?,
        WayUp::Restart => drop(systemd.restart(UNIT).await?),
        WayUp::Start => {
            systemd.reset_failed(UNIT).await?;
            systemd.start(UNIT).await?;
        }
    }
    let presence = install::presence(context);
    let until = tokio::time::Instant::now() + STAND_BY_TIME;
    // In this order: what a former program shows goes with it. execve(2), open(2) O_CLOEXEC
    while !(install::is_taken_up(&systemd).await? && Presence::is_shown(&presence)) {
        context.check()?;
        if tokio::time::Instant::now() > until {
            return Err(Failure::new(
                FailureKind::System,
                format!(
                    "{UNIT}, which would undo a change that cuts you off, did not come up within {STAND_BY_TIME:?}, so that nothing was changed: {}",
                    journal::last_lines(&systemd, UNIT, context.deadline).await
                ),
            )
            .help(format!("Look at the host's journal: journalctl -u {UNIT}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// What brings up the service with the program in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WayUp {
    /// It is up.
    None,
    /// It becomes another program.
    Reload,
    /// The same of one that is still coming up, which systemd doesn't reload.
    Restart,
    /// It isn't there.
    Start,
}

/// One that is up with the program in force is left alone: while it becomes the same once more, nobody stands by.
fn way_up(state: &UnitState, runs: Option<&Path>, in_force: Option<&Path>) -> WayUp {
    let is_in_force = in_force.is_none() || runs == in_force;
    match state.active.as_str() {
        "active" | "reloading" if is_in_force => WayUp::None,
        "active" | "reloading" => WayUp::Reload,
        "activating" if runs.is_some() && !is_in_force => WayUp::Restart,
        _ => WayUp::Start,
    }
}

/// Lets the service run again that was stopped for a removal which has failed: it goes on with what is due. How that
/// ends changes nothing about the failure.
pub async fn again(context: &Context) {
    if let Err(failure) = make_sure(&context.undisturbed(STAND_BY_TIME)).await {
        context.progress(format!("{UNIT} could not be started again: {failure}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_service_of_another_program_is_told_to_become_the_one_in_force() {
        let this = Some(Path::new("/usr/local/lib/nspawn-agent/nspawn-agent-2"));
        let other = Some(Path::new("/usr/local/lib/nspawn-agent/nspawn-agent-1"));
        for (active, runs, expected) in [
            ("active", this, WayUp::None),
            ("active", other, WayUp::Reload),
            ("reloading", other, WayUp::Reload),
            ("activating", this, WayUp::Start),
            ("activating", other, WayUp::Restart),
            // It waits for its restart.
            ("activating", None, WayUp::Start),
            ("deactivating", this, WayUp::Start),
            ("failed", None, WayUp::Start),
        ] {
            let state = UnitState {
                active: active.to_owned(),
                sub: String::new(),
            };
            assert_eq!(way_up(&state, runs, this), expected, "{active} {runs:?}");
        }
    }
}
