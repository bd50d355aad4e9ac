//! Builds a tree: from a tarball or by debootstrap(8), then customised and without an identity.

use std::{fs, path::Path};

use protocol::{
    Failure, FailureKind,
    desired::{Debootstrap, Image, ImageSource, Tarball},
};
use sha2::{Digest as _, Sha256};

use super::{Assigned, content, fetch, identity, incoming::Incoming, room, unpack};
use crate::{
    command::{Program, off_thread, proxy},
    container,
    context::Context,
    failure::Context as _,
    guest::root::GuestRoot,
    host::packages,
    system::{files, netlink::hexadecimal},
};

/// The digest of a tree that is known before it is made: a tarball's that nothing is done to. It keeps its own sum, so
/// that a person recognises it.
pub fn digest_known(image: &Image) -> Option<String> {
    match &image.source {
        ImageSource::Tarball(tarball) if commands(image).is_empty() => {
            Some(format!("sha256:{}", tarball.sha256))
        }
        ImageSource::Tarball(_) | ImageSource::Debootstrap(_) => None,
    }
}

fn commands(image: &Image) -> &[String] {
    image.customize.as_deref().unwrap_or_default()
}

/// The digest of a tree that is made: of the recipe, and of what came of it.
fn digest_made(image: &Image, root: &Path) -> Result<String, Failure> {
    let (source, mut made) = match &image.source {
        // Where it comes from makes no difference.
        ImageSource::Tarball(tarball) => (tarball.sha256.as_bytes().to_vec(), Vec::new()),
        ImageSource::Debootstrap(recipe) => (installed(recipe, root)?, Vec::new()),
    };
    // The same commands fetch something else tomorrow.
    if !commands(image).is_empty() {
        made = content::sum(root).doing(|| format!("read what is in {}", root.display()))?;
    }
    Ok(digest(&source, image, &made))
}

fn digest(source: &[u8], image: &Image, made: &[u8]) -> String {
    let mut hash = Sha256::new();
    let commands = commands(image).iter().map(String::as_bytes);
    let made = (!made.is_empty()).then_some(made);
    for part in std::iter::once(source).chain(commands).chain(made) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("sha256:{}", hexadecimal(&hash.finalize()))
}

/// Builds the tree of an image in a folder beside the others. What was made goes when it fails.
pub async fn build(context: &Context, image: &Image) -> Result<(Incoming, Assigned), Failure> {
    let incoming = Incoming::new()?;
    let root = incoming.root();
    let fill = async |context: &Context| fill(context, image, &incoming).await;
    match room::keep(context, &root, fill).await {
        Ok(assigned) => Ok((incoming, assigned)),
        Err(failure) => {
            let is_full = room::is_left(&root).is_err();
            off_thread(incoming, |incoming| {
                incoming.remove();
                Ok(())
            })
            .await?;
            Err(explain_full_disk(failure, is_full))
        }
    }
}

/// Programs say it in their own words, and also of what isn't the disk: /tmp is in memory while `customize` runs.
fn explain_full_disk(failure: Failure, is_full: bool) -> Failure {
    let says_so = failure.message.contains("No space left on device");
    match failure.kind {
        FailureKind::DiskFull if failure.message.starts_with(room::FULL) => failure,
        FailureKind::Command if says_so && !is_full => failure.help(
            "The host's disk has room. /tmp is in memory while the commands run: write what is large to /var/tmp.",
        ),
        FailureKind::DiskFull | FailureKind::Command if says_so || failure.kind == FailureKind::DiskFull => {
            let message = format!("{}, and nothing of it was left: {}", room::FULL, failure.message);
            Failure { message, ..Failure::new(FailureKind::DiskFull, "") }.help(room::HELP)
        }
        _ => failure,
    }
}

async fn fill(context: &Context, image: &Image, incoming: &Incoming) -> Result<Assigned, Failure> {
    let root = incoming.root();
    match &image.source {
        ImageSource::Tarball(tarball) => unpacked(context, tarball, incoming).await?,
        ImageSource::Debootstrap(recipe) => debootstrap(context, recipe, &root).await?,
    }
    files::set_mode(&root, 0o755).doing(|| format!("let all look into {}", root.display()))?;
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
    let clearing = || format!("clear the identity of the image {}", image.name);
    identity::clear(&tree).doing(clearing)?;
    let os = identity::os(&tree).doing(clearing)?;
    let made = image.clone();
    let (digest, size_bytes) = off_thread(root, move |root| {
        let size = super::tree::clean_and_measure(&root)
            .doing(|| format!("remove device nodes from {}", root.display()))?;
        super::tree::sync(&root).doing(|| format!("bring {} to the disk", root.display()))?;
        let digest = digest_known(&made).map_or_else(|| digest_made(&made, &root), Ok)?;
        Ok((digest, size))
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
    let mut program = Program::contained("debootstrap")
        .through_proxy()
        .arg(format!("--variant={}", recipe.variant));
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
        if failure.kind != FailureKind::Command {
            return failure;
        }
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

/// What debootstrap installed, to tell this build from another of the same recipe.
fn installed(recipe: &Debootstrap, root: &Path) -> Result<Vec<u8>, Failure> {
    let mut content = serde_json::to_vec(recipe).unwrap_or_default();
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
            .through_proxy()
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
            // With the value of its own: it may hold a password. systemd-nspawn(1)
            .args(proxy::variables().map(|(name, _)| format!("--setenv={name}")))
            .arg(format!("--machine={machine}"))
            .arg("--directory")
            .arg(incoming.root())
            // A command may hold what nobody else is to read: arguments are everybody's. All of it is read before it is run.
            .args(["/bin/sh", "-c", "line=$(cat) && eval \"$line\""])
            .input(line.as_bytes())
            .run(context)
            .await;
        let cleared = container::clear_after_nspawn(&machine, &incoming.root());
        run.map_err(|failure| of_command(failure, index + 1, image, line))?;
        cleared?;
    }
    Ok(())
}

fn of_command(failure: Failure, number: usize, image: &Image, line: &str) -> Failure {
    let complaint = match failure.message.split_once(" failed: ") {
        Some((_, tail)) => without_command(tail, line),
        None => failure.message,
    };
    let message = format!(
        "command {number} of customize failed in the image {}: {complaint}",
        image.name
    );
    Failure { message, ..failure }.at("customize")
}

/// Where sh is bash, it repeats the line that it doesn't understand, and the word: commands may hold secrets.
fn without_command(complaint: &str, command: &str) -> String {
    let commands = command
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let lines = complaint.lines().filter(|line| {
        !commands.clone().any(|command| {
            line.split_once('`')
                .is_some_and(|(_, shown)| shown.trim_start().starts_with(command))
        })
    });
    let lines = lines.map(|line| match line.split_once("unexpected token") {
        Some((before, _)) => format!("{before}unexpected token"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
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
    fn a_full_disk_is_called_that_and_a_full_tmp_is_not() {
        use FailureKind::{Command, Digest, DiskFull};
        let full = "tar failed: ./x: Cannot write: No space left on device";
        for (kind, text, is_full, found) in [
            (Command, full, true, DiskFull),
            (Command, full, false, Command),
            (Command, "tar failed: it is damaged", true, Command),
            (DiskFull, "could not write x", false, DiskFull),
            (Digest, "x has another sum", true, Digest),
        ] {
            let explained = explain_full_disk(Failure::new(kind, text), is_full);
            assert_eq!(explained.kind, found);
            assert!(explained.message.contains(text), "{explained}");
        }
    }

    #[test]
    fn a_digest_tells_trees_apart() {
        let plain = digest_known(&image(None)).unwrap();
        assert_eq!(plain, format!("sha256:{}", "a".repeat(64)));
        assert_eq!(digest_known(&image(Some(&[]))).unwrap(), plain);
        let made = |commands: &[&str], file: &str| {
            let root = tempfile::tempdir().unwrap();
            fs::write(root.path().join("file"), file).unwrap();
            digest_made(&image(Some(commands)), root.path()).unwrap()
        };
        let one = made(&["ab", "c"], "x");
        assert_eq!(one, made(&["ab", "c"], "x"));
        assert_ne!(one, made(&["a", "bc"], "x"));
        assert_eq!(one.len(), plain.len());
    }

    #[test]
    fn what_the_same_commands_made_otherwise_is_another_tree() {
        let customised = image(Some(&["apt-get upgrade"]));
        assert_eq!(digest_known(&customised), None);
        let root = tempfile::tempdir().unwrap();
        let digest = |contents| {
            fs::write(root.path().join("file"), contents).unwrap();
            digest_made(&customised, root.path()).unwrap()
        };
        assert_ne!(digest("today"), digest("tomorrow"));
    }

    #[test]
    fn what_failed_does_not_repeat_the_command() {
        let command = "echo 'a'\n curl -u me:secret)";
        let complaint = "/bin/sh: eval: line 2: syntax error near unexpected token `me:secret)'\n\
                         /bin/sh: eval: line 2: ` curl -u me:secret)'\nother";
        let shown = without_command(complaint, command);
        assert_eq!(
            shown,
            "/bin/sh: eval: line 2: syntax error near unexpected token\nother"
        );
        let late = Failure::new(FailureKind::Timeout, "the time is up").help("Raise it.");
        let told = of_command(late, 1, &image(None), command);
        assert_eq!(told.help.as_deref(), Some("Raise it."));
    }
}
