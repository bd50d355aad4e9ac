//! The attributes of nspawn_image.

use protocol::{
    name::ImageName,
    value::{commands, script, sha256, url, words},
};
use tfplugin::{Attr, Parsed, schema::validators::not_empty};

use crate::{host_reference::HostReference, timeouts::Timeouts};

tfplugin::model! {
    /// A root file system on a host, unpacked or built once and shared by all containers made from it.
    /// Its identity (machine-id, SSH host keys, host name and the like) is cleared, so that each
    /// container gets its own.
    ///
    /// A container keeps the very tree that it was made from: when the image changes, containers go
    /// on with the former tree, which is kept until the last of them is gone, and the plan warns.
    ///
    /// Time limits where `timeouts` is silent: create and update 20 minutes, read 2 minutes, delete 5
    /// minutes.
    pub struct Image {
        /// How the host is reached: `nspawn_host.x`, or an object. A change is made in place as long as it leads to the same machine; another machine that the plan has seen is a replacement, and one that it has not seen is refused in the apply.
        host: Attr<HostReference> => required(),
        /// Name of the image on the host, by which containers refer to it.
        name: Attr<Parsed<ImageName>> => required().replace(),
        /// Build the image with debootstrap(8), on the host. Exactly one of `debootstrap` and `tarball` is needed.
        debootstrap: Attr<Debootstrap> => optional(),
        /// Unpack the image from a tarball: tar, plain or packed with gzip, xz or zstd. A change builds the new tree beside the former one.
        tarball: Attr<Tarball> => optional(),
        /// Shell commands that are run inside the new tree, once, in this order. A change builds the tree anew. So does a replacement (`-replace`), for what they fetch may be newer by then.
        customize: Attr<Vec<String>> => optional().validate(commands),
        /// How long each operation may take.
        timeouts: Attr<Timeouts> => optional(),
        /// The host's id and the image's name: `root@203.0.113.1:22/debian-13`.
        id: Attr<String> => computed(),
        /// Digest that identifies the tree: `sha256:…`.
        digest: Attr<String> => computed(),
        /// Name and release of the operating system in it.
        os: Attr<String> => computed(),
        /// Disk used by the tree, in bytes.
        size_bytes: Attr<i64> => computed(),
        /// What deviates on the host and was not healed, a sentence each; empty when all is well. The next apply mends it.
        drift: Attr<Vec<String>> => computed().planned_empty(),
    }

    /// What debootstrap(8) is told.
    pub struct Debootstrap {
        /// Code name of the release, such as `trixie`.
        suite: Attr<String> => required().validate(script),
        /// Archive to take packages from, signed by the distribution of the suite. Without it, debootstrap's own default.
        mirror: Attr<String> => optional().validate(url),
        /// Variant of the bootstrap.
        variant: Attr<String> => optional().default("minbase").validate(script),
        /// Packages to add.
        include: Attr<Vec<String>> => optional().validate(words),
        /// Components of the archive to use.
        components: Attr<Vec<String>> => optional().validate(words),
    }

    /// Where a tarball comes from, and what it must be.
    pub struct Tarball {
        /// URL that the host fetches it from: http, https or file. Exactly one of `url` and `path` is needed.
        url: Attr<String> => optional().validate(url),
        /// File beside this configuration, sent to the host over the same connection. Exactly one of `url` and `path` is needed.
        path: Attr<String> => optional().validate(not_empty),
        /// SHA-256 of the tarball: 64 lower-case hexadecimal digits. Nothing is unpacked before it is checked. For a `path`, `filesha256(…)` gives it, and the plan checks it.
        sha256: Attr<String> => required().validate(sha256),
    }
}
