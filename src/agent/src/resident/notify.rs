//! Tells systemd that the service is ready. sd_notify(3)

use std::{env, os::unix::net::UnixDatagram};

use protocol::Failure;

use crate::failure::Context as _;

/// Ready; nothing happens where nobody waits.
pub fn ready() -> Result<(), Failure> {
    let Ok(path) = env::var("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let send = || -> std::io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        if let Some(name) = path.strip_prefix('@') {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(b"READY=1", &address)?;
        } else {
            socket.send_to(b"READY=1", &path)?;
        }
        Ok(())
    };
    send().doing(|| "tell systemd that the agent is ready")
}
