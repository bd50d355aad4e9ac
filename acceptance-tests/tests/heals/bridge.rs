//! What is done to the bridge itself, and somebody else's bridge in its place.

use std::time::Duration;

use acceptance_tests::command::wait_until;
use anyhow::{Result, ensure};

use super::{
    Server,
    meddling::{Meddling, of},
};

const OTHER_SETTINGS: &str = "the bridge br0 has another MAC address";

/// What somebody may set another way.
pub const BRIDGE: &[Meddling] = &[
    // Its MAC address tells that it is ours.
    of(
        "the bridge loses its alias",
        "ip link set br0 alias ''",
        "the bridge br0 isn't marked as ours",
    ),
    of(
        "the bridge is renamed",
        "ip link set br0 name br7",
        "the bridge br0 was renamed to br7",
    ),
    of(
        "the bridge's MAC address is changed",
        "ip link set br0 address 02:00:00:00:00:99",
        OTHER_SETTINGS,
    ),
    of(
        "spanning tree is turned on",
        "ip link set br0 type bridge stp_state 1",
        OTHER_SETTINGS,
    ),
    of(
        "multicast snooping is turned on",
        "ip link set br0 type bridge mcast_snooping 1",
        OTHER_SETTINGS,
    ),
];

/// The service is held still, for it would make its own bridge in between.
const REPLACE: &str = "systemctl kill -s STOP nspawn-agent.service
    ip link del br0; ip link add br0 type bridge; ip link set br0 up
    systemctl kill -s CONT nspawn-agent.service";

/// Ports, routes, neighbours, addresses and forwarding entries of ours.
const JOINED: &str = "ip -o link show master br0
    ip -4 route show dev br0 proto 78
    ip -6 route show dev br0 proto 78
    ip neigh show dev br0 nud permanent | grep -v 'ff0[0-9a-f]:' || true
    ip -o -6 addr show dev br0 | grep fe80::1/64 || true
    bridge fdb show br br0 | grep static || true";

/// How the plan names it.
const NAMED: &str = "somebody else's interface br0 is in the bridge's place";

impl Server {
    /// Somebody else's bridge in place of ours gets nothing of ours, and is named; once it is gone, ours is back.
    pub fn leaves_a_foreign_bridge_alone(&self) -> Result<()> {
        let started = self.started()?;
        self.shell(REPLACE)?;
        let left_alone = self.has_nothing_on_a_foreign_bridge();
        self.shell("ip link del br0")?;
        left_alone?;
        wait_until("all of ours is back", Duration::from_secs(30), || {
            self.shell("ours > /dev/shm/now 2>&1 || true; diff /dev/shm/ours /dev/shm/now >&2")
        })?;
        ensure!(started == self.started()?, "a guest was started anew");
        self.answers()?;
        self.shell("set_up_foreign; set_up_foreign_on_bridge")?;
        self.terraform.assert_plan_is_empty()
    }

    fn has_nothing_on_a_foreign_bridge(&self) -> Result<()> {
        // What is mended a second time is mended by a look that began after all else was seen.
        for _ in 0..2 {
            self.proxy_is_dark_for()?;
        }
        let joined = self.shell(JOINED)?;
        ensure!(joined.is_empty(), "it has of ours:\n{joined}");
        let plan = self.terraform.plan()?;
        ensure!(plan.contains(NAMED), "{NAMED:?} is not in\n{plan}");
        let joined = self.shell(JOINED)?;
        ensure!(joined.is_empty(), "after a plan, it has of ours:\n{joined}");
        Ok(())
    }
}
