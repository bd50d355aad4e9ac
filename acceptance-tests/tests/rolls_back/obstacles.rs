//! What stands in the way of going back, or was changed by somebody else meanwhile.

use anyhow::{Result, ensure};

use super::{
    drills::on_the_host,
    range::{BOUND, Range},
};

impl Range {
    /// A host's create that nobody waits for any more when its filter is loaded, which is among the last steps.
    pub fn cancelled_late(&self) -> Result<()> {
        let drill = on_the_host(
            "the provider is killed late",
            "until nft list table bridge nspawn_agent > /dev/null 2>&1; do :; done; pkill -STOP -f 'SERVE'; struck; \
             touch /dev/shm/fired; until [ -e /dev/shm/go ]; do sleep 0.01; done; pkill -CONT -f 'SERVE'",
            "",
        );
        self.terraform.destroy()?;
        let former = self.snapshot()?;
        self.terraform.configure(&self.configuration(&drill, "")?)?;
        self.lie_in_wait(&drill, "true")?;
        let apply = self.start()?;
        self.has_fired()?;
        self.kill_provider(&apply)?;
        let output = apply.wait(BOUND)?;
        ensure!(!output.success(), "nobody was told:\n{}", output.stdout);
        self.create_is_undone(&former)
    }
}
