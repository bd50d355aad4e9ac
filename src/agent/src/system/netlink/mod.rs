//! The kernel's network over rtnetlink: one dump a table to observe, one request a change.

mod announce;
mod change;
mod dump;
mod kept;
mod model;

use protocol::Failure;
use rtnetlink::Handle;
use tokio::{
    sync::Mutex,
    task::{AbortHandle, spawn_local},
};

use std::rc::Rc;

use crate::failure::Context as _;

pub use announce::announce;
pub use change::{NewBridge, PortFlags, SwitchFlags};
#[cfg(test)]
pub use kept::Message;
pub use kept::{KeptAddress, KeptRoute};
#[cfg(test)]
pub use model::{Address, ForwardingEntry, Neighbour, Route};
pub use model::{Link, Network, PROTOCOL, Proxy, hexadecimal, mac_text};

/// A connection to the kernel's network of one network namespace. Cheap to clone.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
    /// The kernel dumps one table at a time to a socket, and refuses a second one with EBUSY.
    dumping: Rc<Mutex<()>>,
    _connection: Rc<Connection>,
}

#[derive(Debug)]
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Netlink {
    /// Connects to the network namespace of the calling thread.
    pub fn open() -> Result<Self, Failure> {
        let (connection, handle, _) =
            rtnetlink::new_connection().doing(|| "open a netlink socket")?;
        Ok(Self {
            handle,
            dumping: Rc::new(Mutex::new(())),
            _connection: Rc::new(Connection(spawn_local(connection).abort_handle())),
        })
    }
}

#[cfg(test)]
mod tests;
