//! Noticing that Terraform is gone.

use std::time::Duration;

use rustix::process::getppid;

/// PR_SET_PDEATHSIG won't do: it fires when the thread that forked ends, and Go's threads do.
const INTERVAL: Duration = Duration::from_millis(250);

/// Resolves when the process that started us has ended.
pub async fn gone() {
    let parent = getppid();
    while getppid() == parent {
        tokio::time::sleep(INTERVAL).await;
    }
}
