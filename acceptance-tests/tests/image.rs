//! `nspawn_image`: where trees come from, that they are shared, and what a change does.

use std::time::Duration;

use acceptance_tests::{
    Hosts, Lab, Terraform, command::wait_until, configuration, images::Guest, promise::Effort,
};
use anyhow::{Result, ensure};
use rustix::process::Signal;

fn image(name: &str, source: &str) -> String {
    format!(
        "resource \"nspawn_image\" \"{name}\" {{\n  host = nspawn_host.vps1\n  name = \"{name}\"\n{source}\n}}\n"
    )
}

#[test]
fn tarballs_come_in_every_compression_from_a_path_or_a_url() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let mut text = configuration::host(lab.vps1(), "");
    for compression in ["zst", "xz", "gz"] {
        let tarball = Guest::Debian.tarball_as(compression)?;
        text += &image(
            &format!("path-{compression}"),
            &format!(
                "  tarball = {{ path = \"{}\", sha256 = \"{}\" }}",
                tarball.path.display(),
                tarball.sha256
            ),
        );
    }
    let tarball = Guest::WithoutNetworkd.tarball()?;
    std::fs::copy(&tarball.path, lab.files().join("guest.tar.zst"))?;
    text += &image(
        "url",
        &format!(
            "  tarball = {{ url = \"{}\", sha256 = \"{}\" }}",
            lab.file_url("guest.tar.zst"),
            tarball.sha256
        ),
    );
    let terraform = lab.terraform(&text)?;
    terraform.apply()?;
    for name in ["path-zst", "path-xz", "path-gz", "url"] {
        let made = terraform.resource(&format!("nspawn_image.{name}"))?;
        ensure!(
            made["os"]
                .as_str()
                .is_some_and(|os| os.starts_with("Debian GNU/Linux 13")),
            "{made}"
        );
        ensure!(made["size_bytes"].as_u64() > Some(50 << 20), "{made}");
    }
    terraform.assert_plan_is_empty()?;

    // A wrong sum of a url is found before anything is unpacked.
    terraform.configure(
        &(configuration::host(lab.vps1(), "")
            + &image(
                "wrong",
                &format!(
                    "  tarball = {{ url = \"{}\", sha256 = \"{}\" }}",
                    lab.file_url("guest.tar.zst"),
                    "0".repeat(64)
                ),
            )),
    )?;
    let failed = terraform.apply_fails()?;
    ensure!(
        failed.contains("sha256") && failed.contains(&tarball.sha256[..12]),
        "{failed}"
    );
    terraform.destroy()?;
    Ok(())
}

#[test]
fn debootstrap_makes_an_image_and_customize_runs_inside() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let source = format!(
        "  debootstrap = {{ suite = \"trixie\", mirror = \"{}\", include = [\"systemd\", \"systemd-sysv\", \"dbus\"] }}\n  \
         customize = [\"echo made > /etc/made\", \"test \\\"$(id -u)\\\" = 0\"]",
        lab.mirror_url()
    );
    let whole = configuration::host(lab.vps1(), "")
        + &image("debian", &source)
        + &configuration::container("web", "");
    let terraform = lab.terraform("")?;
    for signal in Effort::of_this_run().pick(vec![Signal::KILL, Signal::INT], 1) {
        debootstrap_is_interrupted(&lab, &terraform, &whole, signal)?;
    }
    terraform.configure(&whole)?;
    terraform.apply()?;
    ensure!(lab.vps1().guest("web", "cat /etc/made")?.trim() == "made");
    terraform.assert_plan_is_empty()?;
    terraform.forget("nspawn_image.debian")?;
    terraform.import("nspawn_image.debian", "root@203.0.113.1:22/debian")?;
    terraform.assert_plan_is_empty()?;

    // From a tarball, for another debootstrap would take as long as all the rest.
    let tarball = Guest::WithoutNetworkd.tarball()?;
    let failing = format!(
        "  tarball = {{ path = \"{}\", sha256 = \"{}\" }}\n  customize = [\"echo no luck >&2; exit 3\"]",
        tarball.path.display(),
        tarball.sha256
    );
    terraform.configure(&(configuration::host(lab.vps1(), "") + &image("broken", &failing)))?;
    let failed = terraform.apply_fails()?;
    ensure!(
        failed.contains("no luck") && failed.contains("customize"),
        "{failed}"
    );
    unsigned(&lab, &terraform)?;
    terraform.destroy()?;
    let left = lab.vps1().root("find / -xdev -path '*nspawn-agent*'")?;
    ensure!(left.is_empty(), "something is left:\n{left}");
    Ok(())
}

/// Without the keyring, debootstrap would take what anybody has signed.
fn unsigned(lab: &Lab, terraform: &Terraform) -> Result<()> {
    const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let move_it = |from: &str, to: &str| lab.vps1().root(&format!("mv {from} {to}"));
    move_it(KEYRING, "/root/keyring")?;
    let source = format!(
        "  debootstrap = {{ suite = \"trixie\", mirror = \"{}\" }}",
        lab.mirror_url()
    );
    terraform.configure(&(configuration::host(lab.vps1(), "") + &image("unsigned", &source)))?;
    let failed = terraform.apply_fails()?;
    move_it("/root/keyring", KEYRING)?;
    ensure!(
        failed.contains(KEYRING) && failed.contains("debootstrap"),
        "{failed}"
    );
    Ok(())
}

/// How long debootstrap, or its end, may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(5);

/// Succeeds once debootstrap installs packages, in whatever mount namespace.
const INSTALLS: &str = "grep -qs '[.]incoming-[^ ]*/root/proc ' /proc/[0-9]*/mountinfo";

/// What is left of a build. The patterns don't match this text itself, which is among the arguments of a process.
const LEFT: &str = "grep -ls '[.]incoming-' /proc/[0-9]*/mountinfo || true
    find /proc/[0-9]*/root /proc/[0-9]*/cwd -maxdepth 0 -printf '%p %l\\n' 2> /dev/null | grep '/[.]incoming-' || true
    pgrep -af '[d]ebootstrap|/[.]incoming-' || true
    find /var/lib/nspawn-agent -maxdepth 4 -name '*incoming-*'";

/// Ends an apply, or its provider, while debootstrap has things mounted and runs dpkg in the tree: all of that
/// ends, too, and others' changes go on.
fn debootstrap_is_interrupted(
    lab: &Lab,
    terraform: &Terraform,
    whole: &str,
    signal: Signal,
) -> Result<()> {
    let other = |more: &str| -> Result<String> {
        let container = configuration::container("other", more);
        Ok(configuration::image_on("tarball", "vps1", Guest::Debian)?
            + &container.replace("nspawn_image.debian", "nspawn_image.tarball"))
    };
    let host = configuration::host(lab.vps1(), "");
    terraform.configure(&(host.clone() + &other("")?))?;
    terraform.apply()?;

    terraform.configure(&(whole.to_owned() + &other("")?))?;
    let mut apply = terraform.start(&["apply", "-auto-approve", "-input=false"])?;
    wait_until("packages are installed", PATIENCE, || {
        if !apply.is_running() {
            return Ok(());
        }
        lab.vps1().root(INSTALLS).map(drop)
    })?;
    ensure!(
        apply.is_running(),
        "the apply ended by itself:\n{}",
        apply.printed()
    );
    if signal == Signal::KILL {
        let killed = apply.signal_below("terraform-provider-nspawn", signal)?;
        ensure!(killed == 1, "{killed} providers were killed");
    } else {
        apply.signal(signal)?;
    }
    let output = apply.wait(PATIENCE)?;
    ensure!(!output.success(), "it was made:\n{}", output.stdout);
    wait_until("nothing is left of the build", PATIENCE, || {
        let left = lab.vps1().root(LEFT)?;
        ensure!(left.is_empty(), "there is:\n{left}");
        Ok(())
    })?;
    terraform.configure(&(host + &other("  tasks = 200")?))?;
    terraform.apply()?;
    terraform.assert_plan_is_empty()?;
    ensure!(lab.vps1().guest("other", "echo alive")?.trim() == "alive");
    Ok(())
}

#[test]
fn containers_of_one_image_share_its_tree_and_differ_in_identity() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(
        &(configuration::host(lab.vps1(), "")
            + &configuration::image(Guest::Debian)?
            + &configuration::container("one", "")
            + &configuration::container("two", "")),
    )?;
    terraform.apply()?;
    let id = |guest: &str| lab.vps1().guest(guest, "cat /etc/machine-id");
    ensure!(id("one")? != id("two")?, "both have the same machine-id");
    ensure!(id("one")?.trim().len() == 32);
    let used = lab
        .vps1()
        .root("du -sm --exclude=lower --exclude=root /var/lib/nspawn-agent/containers | cut -f1")?;
    ensure!(
        used.trim().parse::<u32>()? < 60,
        "two containers take {used} MB"
    );

    // A new tarball builds a new tree; the running guests keep theirs, and the plan says so.
    let digest = terraform.resource("nspawn_container.one")?["image_digest"].clone();
    let other = configuration::image(Guest::WithoutNetworkd)?;
    terraform.configure(
        &(configuration::host(lab.vps1(), "")
            + &other
            + &configuration::container("one", "")
            + &configuration::container("three", "")),
    )?;
    terraform.apply()?;
    ensure!(terraform.resource("nspawn_container.one")?["image_digest"] == digest);
    ensure!(terraform.resource("nspawn_container.three")?["image_digest"] != digest);
    let plan = terraform.plan()?;
    ensure!(
        plan.contains("No changes") && plan.contains("Warning") && plan.contains("one"),
        "{plan}"
    );
    let trees = || {
        lab.vps1()
            .root("ls /var/lib/nspawn-agent/images/trees | wc -l")
    };
    ensure!(trees()?.trim() == "2");

    // The old tree goes with the last container that stands on it.
    terraform.configure(
        &(configuration::host(lab.vps1(), "") + &other + &configuration::container("three", "")),
    )?;
    terraform.apply()?;
    ensure!(trees()?.trim() == "1", "the old tree is still there");
    terraform.destroy()?;
    Ok(())
}
