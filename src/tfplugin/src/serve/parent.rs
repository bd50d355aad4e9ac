//! Noticing that Terraform is gone.

use std::time::Duration;

use rustix::process::{Pid, getppid};

/// PR_SET_PDEATHSIG won't do: it fires when the thread that forked ends, and Go's threads do.
const INTERVAL: Duration = Duration::from_millis(250);

/// The process that started us, as it was at the start.
///
/// One that ends before this is noticed too: nobody reads the handshake then, and writing it fails.
pub struct Parent(Option<Pid>);

impl Parent {
    pub fn now() -> Self {
        Self(getppid())
    }

    /// Resolves when it has ended.
    pub async fn gone(self) {
        while getppid() == self.0 {
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
