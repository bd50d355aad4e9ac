//! What a unit last wrote to the host's journal.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::systemd::Systemd;
use crate::command::{Program, tail};

/// journald takes lines up after they were written. systemd's verdict on a unit comes after the unit's own lines: when
/// that can be read, so can they. systemd.journal-fields(7); systemd's src/systemd/sd-messages.h
const VERDICT: &str = "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c";

/// How long the verdict on a unit that failed is waited for; one that never ran gets none.
const LATENESS: Duration = Duration::from_secs(3);

/// How old a verdict may be that is on what failed just now, after it was waited for.
const RECENT: Duration = Duration::from_secs(30);

/// How often the journal is looked at, which a program does.
const INTERVAL: Duration = Duration::from_millis(50);

/// The last lines of a unit's newest run, as text for a person; none where they can't be read by the end of the time.
pub async fn last_lines(systemd: &Systemd, unit: &str, deadline: Instant) -> String {
    let look = async {
        let run = systemd.invocation(unit).await.ok().flatten();
        lines_of(unit, run).await
    };
    timeout_at(deadline, look).await.unwrap_or_default()
}

/// The same for a unit that failed just now, whose last lines are the reason.
pub async fn last_lines_of_failed(systemd: &Systemd, unit: &str, deadline: Instant) -> String {
    let look = async {
        let mut run = systemd.invocation(unit).await.ok().flatten();
        if let Some(newest) = &run
            && timeout(LATENESS, verdict_on(newest)).await.is_err()
            && is_running_again(systemd, unit).await
        {
            // Without one, what is there is better than nothing.
            run = last_failed_run(unit).await.or(run);
        }
        lines_of(unit, run).await
    };
    timeout_at(deadline, look).await.unwrap_or_default()
}

async fn lines_of(unit: &str, run: Option<String>) -> String {
    let matches = match run {
        Some(run) => vec![
            format!("_SYSTEMD_INVOCATION_ID={run}"),
            "+".to_owned(),
            format!("INVOCATION_ID={run}"),
        ],
        None => vec![format!("--unit={unit}")],
    };
    tail(&read(&matches).await)
}

async fn verdict_on(run: &str) {
    let matches = [format!("INVOCATION_ID={run}"), VERDICT.to_owned()];
    while read(&matches).await.is_empty() {
        sleep(INTERVAL).await;
    }
}

/// Whether systemd has begun a new run after the one that failed (Restart=), so that the newest isn't that.
async fn is_running_again(systemd: &Systemd, unit: &str) -> bool {
    let state = systemd.unit_state(unit).await;
    state.is_ok_and(|state| state.is_ready() || state.is_starting() && !state.awaits_restart())
}

async fn last_failed_run(unit: &str) -> Option<String> {
    let matches = [
        // Before systemd 254, what --since finds first would be the oldest. systemd PR 26669
        "--reverse".to_owned(),
        "--lines=1".to_owned(),
        format!("--since=-{}s", RECENT.as_secs()),
        "--output-fields=INVOCATION_ID".to_owned(),
        format!("UNIT={unit}"),
        VERDICT.to_owned(),
    ];
    let run = String::from_utf8_lossy(&read(&matches).await)
        .trim()
        .to_owned();
    (!run.is_empty()).then_some(run)
}

async fn read(matches: &[String]) -> Vec<u8> {
    let program = Program::new("journalctl")
        .args(["--lines=15", "--output=cat", "--no-pager", "--quiet"])
        .args(matches)
        .only_looking();
    program.run_unbounded().await.unwrap_or_default()
}
