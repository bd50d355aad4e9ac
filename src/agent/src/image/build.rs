//! Builds a tree: from a tarball or by debootstrap(8), then customised and without an identity.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use protocol::{
    Failure, FailureKind,
    desired::{Debootstrap, Image, ImageSource, Tarball},
};
use sha2::{Digest as _, Sha256};

use super::{Assigned, fetch, identity, incoming::Incoming, unpack};
use crate::{
    command::{Program, off_thread},
    container,
    context::Context,
    failure::Context as _,
    guest::root::GuestRoot,
    host::packages,
    system::{files, netlink::hexadecimal},
};

/// The digest of a tree that is known before it is made: a tarball's.
pub fn digest_known(image: &Image) -> Option<String> {
    match &image.source {
        ImageSource::Debootstrap(_) => None,
        ImageSource::Tarball(tarball) => {
            Some(digest(tarball.sha256.as_bytes(), image, &tarball.sha256))
        }
    }
}

/// A tarball that nothing was done to keeps its own sum, so that a person recognises it.
fn digest(content: &[u8], image: &Image, plain: &str) -> String {
    let commands = image.customize.as_deref().unwrap_or_default();
    if commands.is_empty() && !plain.is_empty() {
        return format!("sha256:{plain}");
    }
    let mut hash = Sha256::new();
    for part in std::iter::once(content).chain(commands.iter().map(String::as_bytes)) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("sha256:{}", hexadecimal(&hash.finalize()))
}

/// Builds the tree of an image in a folder beside the others. What was made goes when it fails.
pub async fn build(context: &Context, image: &Image) -> Result<(Incoming, Assigned), Failure> {
    let incoming = Incoming::new()?;
    match fill(context, image, &incoming).await {
        Ok(assigned) => Ok((incoming, assigned)),
        Err(failure) => {
            off_thread(incoming, |incoming| {
                drop(incoming);
                Ok(())
            })
            .await?;
            Err(explain_full_disk(failure))
        }
    }
}

/// Programs say it in their own words.
fn explain_full_disk(failure: Failure) -> Failure {
    if failure.kind != FailureKind::DiskFull && !failure.message.contains("No space left on device")
    {
        return failure;
    }
    Failure::new(
        FailureKind::DiskFull,
        "the host's disk is full: the image was not unpacked, and nothing of it was left",
    )
    .help("Make room below /var/lib/nspawn-agent on the host, or remove images that nothing needs.")
}

async fn fill(context: &Context, image: &Image, incoming: &Incoming) -> Result<Assigned, Failure> {
    let root = incoming.root();
    match &image.source {
        ImageSource::Tarball(tarball) => unpacked(context, tarball, incoming).await?,
        ImageSource::Debootstrap(recipe) => debootstrap(context, recipe, &root).await?,
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755))
        .doing(|| format!("let all look into {}", root.display()))?;
    let tree = GuestRoot::open(&root, 0).doing(|| format!("open {}", root.display()))?;
    if !identity::is_root(&tree) {
        return Err(Failure::new(
            FailureKind::Invalid,
            format!(
                "the image {} is not a root file system: it has no folder /usr",
                image.name
            ),
        )
        .help("The tarball must hold usr, etc and so on at its top, not within a folder."));
    }
    customize(context, image, incoming).await?;
    let digest = match digest_known(image) {
        Some(digest) => digest,
        None => digest(&installed(image, &root)?, image, ""),
    };
    let clearing = || format!("clear the identity of the image {}", image.name);
    identity::clear(&tree).doing(clearing)?;
    let os = identity::os(&tree).doing(clearing)?;
    let size_bytes = off_thread(root, |root| {
        let size = super::tree::clean_and_measure(&root)
            .doing(|| format!("remove device nodes from {}", root.display()))?;
        super::tree::sync(&root).doing(|| format!("bring {} to the disk", root.display()))?;
        Ok(size)
    })
    .await?;
    context.progress(format!(
        "image {}: {os}, {} MB unpacked",
        image.name,
        size_bytes / 1_000_000
    ));
    Ok(Assigned {
        digest,
        os,
        size_bytes,
    })
}

async fn unpacked(
    context: &Context,
    tarball: &Tarball,
    incoming: &Incoming,
) -> Result<(), Failure> {
    let file = incoming.tarball();
    fetch::fetch(context, tarball, &file).await?;
    unpack::unpack(context, &file, &incoming.root()).await?;
    files::remove_file(&file)
}

async fn debootstrap(context: &Context, recipe: &Debootstrap, root: &Path) -> Result<(), Failure> {
    packages::ensure(context, &["debootstrap", "ca-certificates"]).await?;
    packages::ensure(context, &missing_keyrings(&recipe.suite)).await?;
    for (word, attribute) in [(&recipe.suite, "suite"), (&recipe.variant, "variant")] {
        if word.is_empty() || word.starts_with('-') {
            return Err(Failure::new(
                FailureKind::Invalid,
                format!("{word:?} is no {attribute} of debootstrap"),
            )
            .at(format!("debootstrap.{attribute}")));
        }
    }
    context.progress(format!("debootstrap {} begins", recipe.suite));
    // It mounts within the tree, and leaves dpkg running when only its shell is killed.
    let mut program =
        Program::contained("debootstrap").arg(format!("--variant={}", recipe.variant));
    // Without the suite's keyring it would only warn, and take what anybody on the way sends. debootstrap(8)
    program = program.arg("--force-check-gpg");
    for (option, values) in [
        ("include", &recipe.include),
        ("components", &recipe.components),
    ] {
        if let Some(values) = values.as_ref().filter(|values| !values.is_empty()) {
            program = program.arg(format!("--{option}={}", values.join(",")));
        }
    }
    let program = program.arg(&recipe.suite).arg(root).args(&recipe.mirror);
    program.run(context).await.map(drop).map_err(|failure| {
        let log = fs::read(root.join("debootstrap/debootstrap.log")).unwrap_or_default();
        let last = crate::command::tail(&log);
        Failure::new(failure.kind, format!("{}\n{last}", failure.message))
            .help(
                "Check suite, mirror and package names, that the host reaches the mirror, and that the mirror's Release is \
                 signed by a key in the keyring of the suite's distribution, below /usr/share/keyrings on the host.",
            )
            .at("debootstrap")
    })
}

/// The packages of the keyrings that a suite's script wants, and that aren't there: those of another distribution.
fn missing_keyrings(suite: &str) -> Vec<&'static str> {
    const KEYRINGS: [(&str, &str); 2] = [
        (
            "/usr/share/keyrings/debian-archive-keyring.gpg",
            "debian-archive-keyring",
        ),
        (
            "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
            "ubuntu-keyring",
        ),
    ];
    let script = Path::new("/usr/share/debootstrap/scripts").join(suite);
    // debootstrap itself says what is wrong with a suite that it has no script for.
    let script = fs::read_to_string(script).unwrap_or_default();
    let is_missing = |(file, _): &&(&str, &str)| script.contains(file) && !Path::new(file).exists();
    let missing = KEYRINGS.iter().filter(is_missing);
    missing.map(|(_, package)| *package).collect()
}

/// What debootstrap and the commands installed, to tell this build from another of the same recipe.
fn installed(image: &Image, root: &Path) -> Result<Vec<u8>, Failure> {
    let mut content = serde_json::to_vec(&image.source).unwrap_or_default();
    content.extend(files::read(&root.join("var/lib/dpkg/status"))?.unwrap_or_default());
    Ok(content)
}

/// Runs the image's commands inside it, with the host's network and resolver.
async fn customize(context: &Context, image: &Image, incoming: &Incoming) -> Result<(), Failure> {
    for (index, line) in image.customize.iter().flatten().enumerate() {
        context.progress(format!("image {}: customize {}", image.name, index + 1));
        let machine = incoming.machine();
        // Killed alone, systemd-nspawn leaves what runs within. A scope would be asked for by the number that a
        // process has in the namespace.
        let run = Program::contained("systemd-nspawn")
            // As process 1 it would tell the kernel's log what is wrong, and nobody here.
            .env("SYSTEMD_LOG_TARGET", "console")
            .args([
                "--quiet",
                "--settings=no",
                "--register=no",
                "--keep-unit",
                "--as-pid2",
                "--console=pipe",
            ])
            .args([
                "--resolv-conf=bind-host",
                "--timezone=off",
                "--link-journal=no",
            ])
            .args(["--setenv=DEBIAN_FRONTEND=noninteractive"])
            .arg(format!("--machine={machine}"))
            .arg("--directory")
            .arg(incoming.root())
            // A command may hold what nobody else is to read: arguments are everybody's. All of it is read before it is run.
            .args(["/bin/sh", "-c", "line=$(cat) && eval \"$line\""])
            .input(line.as_bytes())
            .run(context)
            .await;
        let cleared = container::clear_after_nspawn(&machine, &incoming.root());
        run.map_err(|failure| {
            let complaint = failure
                .message
                .split_once(" failed: ")
                .map_or(failure.message.as_str(), |(_, tail)| tail);
            let message = format!(
                "command {} of customize failed in the image {}: {complaint}",
                index + 1,
                image.name
            );
            Failure::new(failure.kind, message).at("customize")
        })?;
        cleared?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::desired::TarballLocation;

    use super::*;

    fn image(customize: Option<&[&str]>) -> Image {
        Image {
            name: "debian".parse().unwrap(),
            source: ImageSource::Tarball(Tarball {
                location: TarballLocation::Path("/tmp/debian.tar".to_owned()),
                sha256: "a".repeat(64),
            }),
            customize: customize.map(|lines| lines.iter().map(|line| (*line).to_owned()).collect()),
            timeouts: None,
        }
    }

    #[test]
    fn a_full_disk_is_called_that() {
        for (kind, text, found) in [
            (
                FailureKind::Command,
                "tar failed: ./x: Cannot write: No space left on device",
                FailureKind::DiskFull,
            ),
            (
                FailureKind::DiskFull,
                "could not write x",
                FailureKind::DiskFull,
            ),
            (
                FailureKind::Digest,
                "x has another sum",
                FailureKind::Digest,
            ),
        ] {
            assert_eq!(explain_full_disk(Failure::new(kind, text)).kind, found);
        }
    }

    #[test]
    fn a_digest_tells_trees_apart() {
        let plain = digest_known(&image(None)).unwrap();
        assert_eq!(plain, format!("sha256:{}", "a".repeat(64)));
        assert_eq!(digest_known(&image(Some(&[]))).unwrap(), plain);
        let one = digest_known(&image(Some(&["ab", "c"]))).unwrap();
        let other = digest_known(&image(Some(&["a", "bc"]))).unwrap();
        assert_ne!(one, other);
        assert_eq!(one.len(), plain.len());
    }
}
