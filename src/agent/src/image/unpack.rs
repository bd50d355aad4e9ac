//! Unpacks a tarball with tar(1), which itself keeps members within the folder: it strips leading
//! slashes, refuses "..", and makes links that lead outside last.

use std::{fs::File, io::Read as _, path::Path};

use protocol::Failure;

use crate::{command::Program, context::Context, failure::Context as _, host::packages};

/// How a tarball is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Xz,
    Zstd,
}

impl Packing {
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    fn option(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Gzip => Some("--gzip"),
            Self::Xz => Some("--xz"),
            Self::Zstd => Some("--zstd"),
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Gzip => &["tar"],
            Self::Xz => &["tar", "xz-utils"],
            Self::Zstd => &["tar", "zstd"],
        }
    }
}

/// Unpacks a tarball into a folder.
pub async fn unpack(context: &Context, tarball: &Path, into: &Path) -> Result<(), Failure> {
    let mut start = Vec::new();
    let read = File::open(tarball).and_then(|file| file.take(6).read_to_end(&mut start));
    read.doing(|| format!("read {}", tarball.display()))?;
    let packing = Packing::of(&start);
    packages::ensure(context, packing.packages()).await?;
    let run = Program::new("tar")
        // A file may ask for 4 GB to be unpacked. xz(1)
        .env("XZ_DEFAULTS", "--memlimit-decompress=1GiB")
        .arg("--extract")
        .args(packing.option())
        .arg("--file")
        .arg(tarball)
        .arg("--directory")
        .arg(into)
        // The image's own owners, and of the attributes none that steers an overlay.
        .args([
            "--numeric-owner",
            "--same-owner",
            "--preserve-permissions",
            "--acls",
            "--xattrs",
        ])
        .args([
            "--xattrs-include=user.*",
            "--xattrs-include=security.capability",
        ])
        .args(["--delay-directory-restore", "--warning=no-timestamp"])
        .run(context)
        .await;
    run.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packings_are_known_by_their_first_bytes() {
        for (start, packing) in [
            (&[0x1f, 0x8b, 8, 0][..], Packing::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Packing::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd, 4], Packing::Zstd),
            (b"./usr/", Packing::Plain),
            (b"", Packing::Plain),
        ] {
            assert_eq!(Packing::of(start), packing);
        }
    }
}
