//! A guest's own D-Bus, reached from the host.
//!
//! The bus of a guest with private users takes only callers whose user id exists there, and reads
//! that id when the connection is made. So a child enters the guest's user namespace, connects the
//! socket that it inherited, and ends; the conversation itself is the agent's. unix(7), SO_PEERCRED
//!
//! What answers there may be anything: how long it may take and how much it may say is bounded.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use protocol::{Failure, FailureKind};
use rustix::{
    fs::{self, FlockOperation, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    thread::{self, LinkNameSpaceType},
};
use tokio::time::timeout;
use zbus::Connection;

use super::{bounded, child::Child};
use crate::{
    command::end_with,
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
    let of_guest = |name: &str| format!("/proc/{leader}/{name}");
    // The link itself is the kernel's; what lies beneath is looked up by the child, which may hang there.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = fs::open(of_guest("root"), flags, Mode::empty())?;
    let users = File::open(of_guest("ns/user"))?;
    let own = std::fs::metadata("/proc/self/ns/user")?;
    let users = (!is_same(&own, &users.metadata()?)).then_some(users);
    let turn = File::open(of_guest("ns/mnt"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let mut keep = vec![root.as_fd(), turn.as_fd(), socket.as_fd()];
    keep.extend(users.as_ref().map(File::as_fd));
    let child = Child::fork(&keep, |parent| {
        // While the last child still hangs in this guest, no other one gets that far.
        fs::flock(&turn, FlockOperation::LockExclusive)?;
        if let Some(users) = &users {
            become_root_of(users.as_fd())?;
            end_with(parent)?;
        }
        connect_beneath(&root, &socket)
    })?;
    child.ended().await?;
    if socket_is_connected(&socket) {
        Ok(socket)
    } else {
        Err(io::Error::from(io::ErrorKind::ConnectionRefused))
    }
}

/// Enters a user namespace for good.
fn become_root_of(users: BorrowedFd<'_>) -> rustix::io::Result<()> {
    thread::move_into_link_name_space(users, Some(LinkNameSpaceType::User))?;
    thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

/// Connects a socket to the bus beneath a guest's root, where a link must not lead to the host's own. In a child:
/// nothing here allocates.
fn connect_beneath(root: &OwnedFd, socket: &OwnedFd) -> rustix::io::Result<()> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let bus = fs::openat2(
        root,
        c"run/dbus/system_bus_socket",
        flags,
        Mode::empty(),
        resolve,
    )?;
    let mut path = [0; 32];
    // Longer than any number makes it, and ended by a zero.
    write!(&mut path[..], "/proc/self/fd/{}", bus.as_raw_fd()).map_err(|_| Errno::NAMETOOLONG)?;
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| Errno::INVAL)?;
    rustix::net::connect(socket, &SocketAddrUnix::new(path)?)
}

fn socket_is_connected(socket: &OwnedFd) -> bool {
    rustix::net::getpeername(socket).is_ok_and(|peer| peer.is_some())
}

fn is_same(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
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
