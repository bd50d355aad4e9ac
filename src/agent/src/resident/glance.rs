//! A cheap look, some times a second, at what the kernel changes without telling: a neighbour
//! proxy that is deleted by hand, and most sysctls.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use protocol::Failure;
use tokio::{sync::Notify, task::spawn_local, time::sleep};

use crate::{
    reconcile::Observation,
    system::{
        netlink::{Netlink, Network, Proxy},
        sysctl,
    },
};

/// How often. One look takes some 0.2 ms.
const INTERVAL: Duration = Duration::from_millis(300);

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    proxies: Vec<Proxy>,
    sysctls: BTreeMap<String, String>,
}

impl Seen {
    /// What a whole look has seen.
    pub fn of(observed: &Observation) -> Self {
        Self {
            proxies: observed.network.proxies.clone(),
            sysctls: observed.host.sysctls.clone(),
        }
    }

    async fn still_holds(&self, netlink: &Netlink) -> bool {
        let same = |(key, value): (&String, &String)| {
            sysctl::read(key).is_ok_and(|found| found.as_ref() == Some(value))
        };
        self.sysctls.iter().all(same)
            // A dump that fails tells nothing.
            && Network::dump_proxies(netlink).await.is_ok_and(|found| found == self.proxies)
    }
}

/// Compares what is with what was seen last.
#[derive(Debug)]
pub struct Glance {
    seen: Rc<RefCell<Option<Seen>>>,
}

impl Glance {
    /// Begins to look, and tells of the first difference.
    pub fn start(changed: Rc<Notify>) -> Result<Self, Failure> {
        // The kernel dumps one table at a time to a socket: this has one of its own.
        let netlink = Netlink::open()?;
        let seen: Rc<RefCell<Option<Seen>>> = Rc::default();
        let shared = Rc::clone(&seen);
        spawn_local(async move {
            loop {
                sleep(INTERVAL).await;
                let Some(seen) = shared.borrow().clone() else {
                    continue;
                };
                if !seen.still_holds(&netlink).await && shared.borrow().as_ref() == Some(&seen) {
                    shared.borrow_mut().take();
                    changed.notify_one();
                }
            }
        });
        Ok(Self { seen })
    }

    /// Takes what a whole look has seen; nothing while one is under way.
    pub fn expect(&self, seen: Option<Seen>) {
        *self.seen.borrow_mut() = seen;
    }
}
