//! How a unit is.

/// A unit's state in systemd's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// "active", "activating", "inactive", "failed", …
    pub active: String,
    /// "running", "start", "dead", …
    pub sub: String,
}

impl UnitState {
    /// Of a unit that systemd has had no reason to load.
    pub fn not_loaded() -> Self {
        Self {
            active: "inactive".to_owned(),
            sub: "dead".to_owned(),
        }
    }

    /// Whether processes of it may be there.
    pub fn is_up(&self) -> bool {
        !matches!(self.active.as_str(), "inactive" | "failed")
    }

    /// Whether it is up and running.
    pub fn is_ready(&self) -> bool {
        self.active == "active"
    }

    /// Whether it is on its way up.
    pub fn is_starting(&self) -> bool {
        self.active == "activating"
    }

    /// Whether it is on its way down: a start now waits until it is.
    pub fn is_stopping(&self) -> bool {
        self.active == "deactivating"
    }

    /// Whether nothing of it runs any more, and systemd clears up behind it. systemd.service(5), ExecStopPost=
    pub fn is_clearing_up(&self) -> bool {
        self.sub == "stop-post" || self.sub.starts_with("final-")
    }

    /// Whether it failed, and is started again in a moment or not at all.
    pub fn is_failed(&self) -> bool {
        self.active == "failed" || self.awaits_restart()
    }

    /// Whether it failed and is started again in a moment; nothing of it runs.
    pub fn awaits_restart(&self) -> bool {
        self.sub.starts_with("auto-restart")
    }
}
