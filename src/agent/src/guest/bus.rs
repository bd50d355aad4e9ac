//! A guest's own D-Bus, reached from the host.
//!
//! The bus of a guest with private users takes only callers whose user id exists there, and reads
//! that id when the connection is made. So a child enters the guest's user namespace, connects the
//! socket that it inherited, and ends; the conversation itself is the agent's. unix(7), SO_PEERCRED
//!
//! What answers there may be anything: how long it may take and how much it may say is bounded.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use protocol::{Failure, FailureKind};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};
use tokio::{io::AsyncReadExt as _, net::unix::pipe, time::timeout};
use zbus::Connection;

use super::{bounded, root::GuestRoot};
use crate::{
    context::Context,
    failure::Context as _,
    system::systemd::{Systemd, is_error},
};

/// How long a guest may take to answer. A guest that doesn't is passed over.
const PATIENCE: Duration = Duration::from_secs(2);

#[zbus::proxy(
    interface = "org.freedesktop.network1.Manager",
    default_service = "org.freedesktop.network1",
    default_path = "/org/freedesktop/network1"
)]
trait NetworkManager {
    fn reload(&self) -> zbus::Result<()>;
}

/// The state of a guest's service manager: "running", "degraded", …; `None` when it doesn't say.
pub async fn system_state(leader: u32) -> Option<String> {
    let ask = async {
        let guest = Systemd::over(connect(leader).await.ok()?);
        guest.system_state().await.ok()
    };
    timeout(PATIENCE, ask)
        .await
        .ok()?
        .filter(|state| is_word(state))
}

/// Whether this can be one of systemd's words; a guest may say anything, and it is shown to people.
fn is_word(state: &str) -> bool {
    (1..=32).contains(&state.len())
        && state
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

/// Makes a guest's systemd-networkd read its files again; well also when it has none.
pub async fn reload_network(context: &Context, leader: u32) -> Result<(), Failure> {
    let deed = || "reload a guest's systemd-networkd";
    let ask = async {
        let Ok(bus) = connect(leader).await else {
            return Ok(());
        };
        let reloaded = NetworkManagerProxy::new(&bus)
            .await
            .doing(deed)?
            .reload()
            .await;
        match reloaded {
            Err(error) if has_no_networkd(&error) => Ok(()),
            other => other.doing(deed),
        }
    };
    let limited = async {
        timeout(PATIENCE, ask).await.unwrap_or_else(|_| {
            Err(Failure::new(
                FailureKind::Timeout,
                format!(
                    "could not {}: it did not answer within {PATIENCE:?}",
                    deed()
                ),
            ))
        })
    };
    context.within(limited).await
}

fn has_no_networkd(error: &zbus::Error) -> bool {
    let names = [
        "org.freedesktop.DBus.Error.ServiceUnknown",
        "org.freedesktop.DBus.Error.NameHasNoOwner",
        "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.systemd1.UnitMasked",
    ];
    is_error(error, &names)
}

async fn connect(leader: u32) -> Result<Connection, Failure> {
    let deed = || "connect to a guest's system bus";
    let stream = UnixStream::from(connect_as_guest_root(leader).await.doing(deed)?);
    stream.set_nonblocking(true).doing(deed)?;
    bounded::talk(stream).await.doing(deed)
}

async fn connect_as_guest_root(leader: u32) -> io::Result<OwnedFd> {
    // Resolved beneath the guest's root: a link there must not lead to the host's own bus.
    let root = GuestRoot::open(Path::new(&format!("/proc/{leader}/root")), 0)?;
    let bus = root.resolve("run/dbus/system_bus_socket")?;
    let users = File::open(format!("/proc/{leader}/ns/user"))?;
    let own = std::fs::metadata("/proc/self/ns/user")?;
    let enter = !is_same(&own, &users.metadata()?);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = socket_address(bus.as_raw_fd())?;
    let users = enter.then(|| users.as_raw_fd());
    let (ending, end) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = Child(Some(fork_and_connect(socket.as_raw_fd(), users, &address)?));
    drop(end);
    child.ended(ending).await?;
    if socket_is_connected(&socket) {
        Ok(socket)
    } else {
        Err(io::Error::from(io::ErrorKind::ConnectionRefused))
    }
}

fn socket_is_connected(socket: &OwnedFd) -> bool {
    rustix::net::getpeername(socket).is_ok_and(|peer| peer.is_some())
}

/// A child that may hang in a system call on what the guest has put in the socket's place.
struct Child(Option<Pid>);

impl Child {
    /// Waits for its end, which closes the pipe that it inherited.
    async fn ended(mut self, ending: OwnedFd) -> io::Result<()> {
        let mut ending = pipe::Receiver::from_owned_fd(ending)?;
        ending.read_to_end(&mut Vec::new()).await?;
        let child = self.0.take();
        waitpid(child, WaitOptions::empty())?;
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(child) = self.0 {
            let _ = kill_process(child, Signal::KILL);
            // Reaped when it is gone, so that no zombie stays with the resident service.
            std::thread::spawn(move || waitpid(Some(child), WaitOptions::empty()));
        }
    }
}

fn is_same(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn socket_address(bus: RawFd) -> io::Result<libc::sockaddr_un> {
    let path = format!("/proc/self/fd/{bus}");
    let mut address = libc::sockaddr_un {
        sun_family: libc::sa_family_t::try_from(libc::AF_UNIX).map_err(io::Error::other)?,
        sun_path: [0; 108],
    };
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from.cast_signed();
    }
    Ok(address)
}

#[allow(
    unsafe_code,
    reason = "fork(2), because setns(2) takes only a process with one thread"
)]
fn fork_and_connect(
    socket: RawFd,
    users: Option<RawFd>,
    address: &libc::sockaddr_un,
) -> io::Result<Pid> {
    // SAFETY: the child makes system calls on inherited descriptors and a copied address only, and
    // leaves with _exit: all that is allowed after a fork of a process with threads.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            let entered = users.is_none_or(|users| {
                libc::setns(users, libc::CLONE_NEWUSER) == 0
                    && libc::syscall(libc::SYS_setresgid, 0, 0, 0) == 0
                    && libc::syscall(libc::SYS_setresuid, 0, 0, 0) == 0
            });
            let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).unwrap_or(0);
            if entered {
                libc::connect(socket, std::ptr::from_ref(address).cast(), length);
            }
            libc::_exit(0);
        }
        child
    };
    Pid::from_raw(child)
        .filter(|_| child > 0)
        .ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_systemds_words_are_believed() {
        for word in ["running", "degraded", "not-answering"] {
            assert!(is_word(word), "{word}");
        }
        for text in ["", "run\n", "\x1b[2J", "Running", &"a".repeat(33)] {
            assert!(!is_word(text), "{text}");
        }
    }
}
