//! The attributes of nspawn_host.

use protocol::{name::InterfaceName, text::TimeSpan};
use tfplugin::{
    Attr, Parsed,
    schema::validators::{between, not_empty},
};

use crate::{
    connection::HostKey,
    host_reference::{BastionReference, address, same_key},
    timeouts::Timeouts,
};

tfplugin::model! {
    /// A Debian server, made ready for containers with public addresses: forwarding, a bridge without
    /// ports, a filter table that keeps the guests apart, and a small service that restores all of it
    /// at boot and mends it within a second. The configuration of the server's own uplink is never
    /// touched. A change that would cut off the server is undone by the server itself, unless the
    /// provider confirms it over a new connection.
    ///
    /// Destroying it puts the server back to how it was; Debian packages that were installed stay.
    /// That is refused while containers or addresses are left. One state manages a server; others
    /// reach it by a literal `host` object in their resources.
    ///
    /// Time limits where `timeouts` is silent: create 10 minutes, which includes waiting for the SSH
    /// server of a machine made in the same apply; update 5 minutes, read 2 minutes, delete 5 minutes.
    pub struct Host {
        /// IP address or name by which the server is reached over SSH. A change is made in place, and refused when the new address leads to a different machine.
        address: Attr<String> => required().validate(address),
        /// Port of its SSH server.
        port: Attr<i64> => optional().default(22).validate(between(1..=65535)),
        /// User to log in as. Any other than root needs passwordless sudo, for everything is done through `sudo -n`.
        user: Attr<String> => optional().default("root").validate(not_empty),
        /// The server's public key, as an OpenSSH public key line (`ssh-ed25519 AAAA…`) or a fingerprint (`SHA256:…`). Without it, known_hosts decides.
        host_key: Attr<Parsed<HostKey>> => optional().computed().same_when(same_key),
        /// A host to go through.
        bastion: Attr<BastionReference> => optional(),
        /// Name of the bridge that the guests stand on; it is made, and has no port to the outside. A change makes the host anew, which is refused while images, containers or addresses are on it: have them replaced along with it, by `lifecycle { replace_triggered_by = [nspawn_host.x.bridge] }` in each of their resources.
        bridge: Attr<Parsed<InterfaceName>> => optional().default("br0").replace(),
        /// Interface to the world. Without it, the one of the default route when the host is made; that stays, as long as the interface is there.
        uplink: Attr<Parsed<InterfaceName>> => optional().computed(),
        /// Whether missing Debian packages (systemd-container, nftables; debootstrap when an image needs it) are installed. If not, an error names them.
        install_packages: Attr<bool> => optional().default(true),
        /// Whether kernel modules, sysctls and limits for Kubernetes inside guests are set.
        nesting: Attr<bool> => optional().default(false),
        /// Whether guests are kept apart: a filter keeps them from forging addresses and from reaching each other but through the server. `false` takes all of that away, for guests that trust each other.
        isolation: Attr<bool> => optional().default(true),
        /// How long the server waits for a change of its network to be confirmed over a new connection, before it undoes that change. With `0s` it never does.
        rollback_after: Attr<Parsed<TimeSpan>> => optional().default("30s"),
        /// How long each operation may take.
        timeouts: Attr<Timeouts> => optional(),
        /// User, address and port: `root@203.0.113.1:22`. Changes with them.
        id: Attr<String> => computed(),
        /// The server's machine-id, by which the provider knows that an address still leads to the same machine.
        machine_id: Attr<String> => computed(),
        /// Name and release of the operating system.
        os: Attr<String> => computed(),
        /// Release of the running kernel.
        kernel: Attr<String> => computed(),
        /// Processor architecture, such as `x86_64`.
        architecture: Attr<String> => computed(),
        /// Version of the running systemd.
        systemd_version: Attr<String> => computed(),
        /// Number of processors.
        cpus: Attr<i64> => computed(),
        /// Memory in bytes.
        memory_bytes: Attr<i64> => computed(),
        /// First global IPv4 address of the uplink; the gateway of its guests.
        ipv4_address: Attr<String> => computed(),
        /// First global IPv6 address of the uplink.
        ipv6_address: Attr<String> => computed(),
        /// Release of the agent in force on the server. After an upgrade of the provider the plan shows the agent's, which restarts no container; an older provider than the agent is refused.
        agent_version: Attr<String> => computed(),
        /// What deviates on the server and was not healed, a sentence each; empty when all is well. The next apply mends it.
        drift: Attr<Vec<String>> => computed().planned_empty(),
    }
}
