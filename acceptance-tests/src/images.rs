//! The roots of the servers, the guests' images and the mirror: each made once.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{cache::Recipe, hosts::Flavour};

const MIRROR_SCRIPT: &str = include_str!("../images/mirror.sh");
const ROOT_SCRIPT: &str = include_str!("../images/root.sh");
const GUEST_SCRIPT: &str = include_str!("../images/guest.sh");

/// What a stock image of a server has.
const BASE: &str = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,udev,iproute2,\
    iputils-ping,openssh-server,procps,sudo,kmod,zstd,xz-utils,ca-certificates,wget";
/// What the provider needs on top.
const CONTAINERS: &str = "systemd-container,nftables,debootstrap";
/// What a guest has.
const GUEST: &str = "systemd,systemd-sysv,dbus,iproute2,iputils-ping";
/// What a member of the cluster has on top.
const ETCD: &str = "etcd-server,etcd-client";

/// A guest's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// Debian 13 with systemd-networkd, in all three compressions.
    Debian,
    /// Debian 13 without systemd-networkd.
    WithoutNetworkd,
    /// Debian 13 with etcd, which is not started.
    Etcd,
}

/// A tarball and its digest.
#[derive(Debug, Clone)]
pub struct Tarball {
    /// Where the tarball is.
    pub path: PathBuf,
    /// Its sha256 in hexadecimal.
    pub sha256: String,
}

impl Guest {
    /// Returns the tarball of this image, zstd-compressed.
    pub fn tarball(self) -> Result<Tarball> {
        self.tarball_as("zst")
    }

    /// Returns the tarball in a compression: `zst`, and for [`Guest::Debian`] `xz` and `gz` too.
    pub fn tarball_as(self, compression: &str) -> Result<Tarball> {
        let path = self
            .folder()?
            .join(format!("{}.tar.{compression}", self.name()));
        let sum = path.with_extension(format!("{compression}.sha256"));
        let sha256 = fs::read_to_string(&sum).with_context(|| format!("read {}", sum.display()))?;
        Ok(Tarball {
            path,
            sha256: sha256.trim().to_owned(),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian-13",
            Self::WithoutNetworkd => "debian-13-without-networkd",
            Self::Etcd => "debian-13-etcd",
        }
    }

    fn folder(self) -> Result<PathBuf> {
        let (packages, networkd, compressions): (String, &str, &[&str]) = match self {
            Self::Debian => (GUEST.to_owned(), "yes", &["zst", "xz", "gz"]),
            Self::WithoutNetworkd => (GUEST.to_owned(), "no", &["zst"]),
            Self::Etcd => (format!("{GUEST},{ETCD}"), "yes", &["zst"]),
        };
        let (url, keyring) = mirror_for_debootstrap()?;
        let mut arguments = vec![
            self.name().to_owned(),
            packages,
            url,
            keyring,
            networkd.to_owned(),
        ];
        arguments.extend(compressions.iter().map(ToString::to_string));
        Recipe {
            name: self.name(),
            script: GUEST_SCRIPT,
            arguments,
        }
        .ensure()
    }
}

/// Returns the signed mirror of Debian 13's packages that the lab needs; a folder `dists` and `pool`.
pub fn mirror() -> Result<PathBuf> {
    let packages = format!("{BASE},{CONTAINERS},{GUEST},{ETCD},gpgv");
    let arguments = vec!["trixie".to_owned(), packages];
    Recipe {
        name: "mirror",
        script: MIRROR_SCRIPT,
        arguments,
    }
    .ensure()
}

/// Returns the keyring that the mirror is signed with.
pub fn mirror_keyring(mirror: &Path) -> PathBuf {
    mirror.join("lab-keyring.gpg")
}

/// Returns the root of a server, to be copied.
pub fn root(flavour: Flavour) -> Result<PathBuf> {
    let everything = format!("{BASE},{CONTAINERS}");
    let (name, suite, packages) = match flavour {
        Flavour::Trixie => ("trixie", "trixie", everything.as_str()),
        Flavour::Bare => ("bare", "trixie", BASE),
        Flavour::Bookworm => ("bookworm", "bookworm", everything.as_str()),
    };
    let mut arguments = vec![suite.to_owned(), packages.to_owned()];
    if flavour == Flavour::Bookworm {
        let debian = std::env::var("NSPAWN_LAB_MIRROR");
        arguments.push(debian.unwrap_or_else(|_| "http://deb.debian.org/debian".to_owned()));
    } else {
        let (url, keyring) = mirror_for_debootstrap()?;
        arguments.extend([url, keyring]);
    }
    Recipe {
        name,
        script: ROOT_SCRIPT,
        arguments,
    }
    .ensure()
}

fn mirror_for_debootstrap() -> Result<(String, String)> {
    let mirror = mirror()?;
    Ok((
        format!("file://{}", mirror.display()),
        mirror_keyring(&mirror).display().to_string(),
    ))
}
