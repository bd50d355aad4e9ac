//! Whether the SSH agent answers at all. libssh2 asks it with a recv(2) that has no deadline (agent_transact_unix()),
//! on the thread that has to notice when it is to end.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    io::{Errno, write},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};

use super::session::{Ssh, StepError};

/// SSH_AGENTC_REQUEST_IDENTITIES behind its length, which asks nobody for a passphrase. draft-ietf-sshm-ssh-agent, 3.2
const REQUEST: [u8; 5] = [0, 0, 0, 1, 11];

/// How long an agent whose queue is full is left alone.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks the agent for its keys, and waits until it begins to answer or hangs up.
pub(super) fn wait_for_answer(
    ssh: &Ssh,
    socket: &Path,
    deadline: Instant,
) -> Result<(), StepError> {
    let address = SocketAddrUnix::new(socket).map_err(StepError::Poll)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let stream = stream.map_err(StepError::Poll)?;
    loop {
        match connect(&stream, &address) {
            Ok(()) => break,
            Err(Errno::AGAIN) if Instant::now() < deadline => {
                match ssh.wait_for(None, Instant::now() + PAUSE) {
                    Ok(()) | Err(StepError::Timeout) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(Errno::AGAIN) => return Err(StepError::Timeout),
            Err(error) => return Err(StepError::Poll(error)),
        }
    }
    write(&stream, &REQUEST).map_err(StepError::Poll)?;
    ssh.wait_for(Some(&stream), deadline)
}
