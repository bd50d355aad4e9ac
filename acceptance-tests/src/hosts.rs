//! What the servers of a lab are to look like.

use std::net::{Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;

/// What is installed on a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Flavour {
    /// Debian 13 with systemd-container, nftables and debootstrap.
    Trixie,
    /// Debian 12 with systemd-container, nftables and debootstrap.
    Bookworm,
    /// Debian 13 without them; they can be installed from the lab's own mirror.
    Bare,
}

/// Who logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum User {
    /// root itself.
    Root,
    /// `admin`, whose sudo asks nothing.
    Admin,
    /// `admin`, whose sudo asks for the password `admin`.
    AdminWithPassword,
}

impl User {
    /// Returns the login name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Admin | Self::AdminWithPassword => "admin",
        }
    }
}

/// One server.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// What is installed.
    pub flavour: Flavour,
    /// The name of the network card that leads outside.
    pub uplink: String,
    /// Who logs in.
    pub user: User,
    /// Whether its root is a file system of its own, whose unsaved state a power cut drops.
    pub own_disk: bool,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            flavour: Flavour::Trixie,
            uplink: "eth0".to_owned(),
            user: User::Root,
            own_disk: false,
        }
    }
}

/// The servers of a lab; the first is `vps1`.
#[derive(Debug, Clone)]
pub struct Hosts(pub Vec<HostOptions>);

impl Hosts {
    /// One Debian 13 server with root's login.
    pub fn one() -> Self {
        Self(vec![HostOptions::default()])
    }

    /// Two of them.
    pub fn two() -> Self {
        Self(vec![HostOptions::default(); 2])
    }

    /// Sets what is installed on all of them.
    #[must_use]
    pub fn flavour(mut self, flavour: Flavour) -> Self {
        self.0.iter_mut().for_each(|host| host.flavour = flavour);
        self
    }

    /// Sets the name of their network card, such as `ens3` or `enp1s0`.
    #[must_use]
    pub fn uplink(mut self, uplink: &str) -> Self {
        self.0
            .iter_mut()
            .for_each(|host| uplink.clone_into(&mut host.uplink));
        self
    }

    /// Gives each a disk of its own, whose unsaved state a power cut drops.
    #[must_use]
    pub fn own_disks(mut self) -> Self {
        self.0.iter_mut().for_each(|host| host.own_disk = true);
        self
    }

    /// Sets who logs in.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.0.iter_mut().for_each(|host| host.user = user);
        self
    }
}

/// The addresses of one server: its own, and the block that the router sends to its link.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// The server's own address, a /32 whose gateway 172.31.1.1 is on the link.
    pub ipv4: Ipv4Addr,
    /// The server's own address in its /64; the gateway is fe80::1.
    pub ipv6: Ipv6Addr,
}

impl Block {
    /// Returns the block of a server by its place, from 0; there are two blocks for documentation.
    pub fn of(index: usize) -> Option<Self> {
        let (ipv4, subnet) = match index {
            0 => (Ipv4Addr::new(203, 0, 113, 1), 1),
            1 => (Ipv4Addr::new(192, 0, 2, 1), 2),
            _ => return None,
        };
        Some(Self {
            ipv4,
            ipv6: Ipv6Addr::new(0x2001, 0xdb8, subnet, 0, 0, 0, 0, 1),
        })
    }

    /// Returns the /24 that the router sends to the server's link.
    pub fn ipv4_network(self) -> String {
        let [a, b, c, _] = self.ipv4.octets();
        format!("{a}.{b}.{c}.0/24")
    }

    /// Returns the /64 that the router sends to the server's link.
    pub fn ipv6_network(self) -> String {
        let [a, b, c, d, ..] = self.ipv6.segments();
        format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
    }
}
