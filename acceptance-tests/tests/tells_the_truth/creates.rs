//! A create that fails half-way returns a tainted resource, or leaves nothing; never something that the state
//! doesn't know.

use std::{fs, time::Duration};

use acceptance_tests::{
    Terraform,
    command::wait_until,
    configuration::{address_with, container},
    images::Guest,
    promise::{Cases, Promise},
};
use anyhow::{Result, bail, ensure};

use crate::{
    ALL, HOST, IMAGE, MENDED, NEVER_READY, REFUSED_AT_START, Site, WEB, says, state_holds,
};

const HOST_TAINTED: &str = "nspawn_host.vps1!";
const WEB_TAINTED: &str = "nspawn_container.web!";
/// A second image, and a second address.
const OTHER: &str = "nspawn_image.other";

#[test]
fn a_create_that_fails_is_tainted_or_leaves_nothing() -> Result<()> {
    let site = Site::start()?;
    let terraform = site.terraform(&site.with_image("")?)?;
    let mut cases = Cases::of(Promise::TellsTheTruth)?;
    let tainted: [(_, _, &[&str]); 2] = [
        (
            "is never ready",
            NEVER_READY,
            &["took longer", "81", "wait_for"],
        ),
        (
            "doesn't start",
            REFUSED_AT_START,
            &["did not start", "nothing-there"],
        ),
    ];
    for (name, more, words) in tainted {
        cases.case(format!("create: a container that {name}"), || {
            a_container_is_tainted(&site, &terraform, more, words)
        });
    }
    cases.case("create: a container that fills the disk", || {
        full_disk_of_a_container(&site, &terraform)
    });
    cases.case("create: a container whose agent is killed, twice", || {
        killed_agent(&site, &terraform)
    });
    cases.case("create: an image with another sha256", || {
        let wrong = format!(
            "  tarball = {{ url = \"{}\", sha256 = \"{}\" }}",
            served(&site)?,
            "0".repeat(64)
        );
        an_image_leaves_nothing(&site, &terraform, &wrong, &["tarball.sha256"])
    });
    cases.case("create: an image that fills the disk", || {
        full_disk_of_an_image(&site, &terraform)
    });
    cases.case("create: an image whose customize fails", || {
        let failing = format!(
            "  tarball = {{ url = \"{}\", sha256 = \"{}\" }}\n  customize = [\"echo no luck >&2; exit 3\"]",
            served(&site)?,
            Guest::Debian.tarball()?.sha256
        );
        an_image_leaves_nothing(&site, &terraform, &failing, &["customize", "no luck"])
    });
    cases.case("create: an address on an uplink that isn't there", || {
        refused_address(&site, &terraform)
    });
    cases.case("create: all of it destroyed", || {
        terraform.configure(&site.with_image("")?)?;
        site.ends_clean(&terraform)
    });
    cases.case("create: a host with a foreign bridge", || {
        let harm = ("ip link add br0 type bridge", "ip link del br0");
        a_host_leaves_nothing(&site, harm, &["br0", "bridge ="])
    });
    // It fails at the second of its files, when sysctls are set and the bridge isn't made yet.
    cases.case("create: a host whose files can't be written", || {
        let folder = "/etc/systemd/network";
        let harm = (
            // Read-only, and as it is: networkd, which is told to read its files again, still finds the uplink's.
            format!("mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}"),
            format!("umount --lazy {folder}"),
        );
        a_host_leaves_nothing(&site, (&harm.0, &harm.1), &[folder, "Read-only"])
    });
    cases.case(
        "create: a host that can't be made, and not be taken back",
        || what_stays_is_known(&site),
    );
    cases.finish()
}

/// Applies with one more resource, which fails and is named.
fn fails(site: &Site, terraform: &Terraform, more: &str, words: &[&str]) -> Result<()> {
    terraform.configure(&site.with_image("")?)?;
    terraform.apply()?;
    terraform.configure(&site.with_image(more)?)?;
    says(&terraform.apply_fails()?, words)
}

/// Fails, is tainted, is replaced by the next apply, and can be destroyed as it is.
fn a_container_is_tainted(
    site: &Site,
    terraform: &Terraform,
    more: &str,
    words: &[&str],
) -> Result<()> {
    let failing = container("web", more);
    fails(site, terraform, &failing, words)?;
    state_holds(terraform, &[WEB_TAINTED, HOST, IMAGE])?;
    terraform.configure(&site.with_image(&container("web", ""))?)?;
    says(
        &terraform.plan()?,
        &["web is tainted, so must be replaced", "1 to add"],
    )?;
    terraform.apply()?;
    state_holds(terraform, &[WEB, HOST, IMAGE])?;
    ensure!(site.vps1().guest("web", "echo up")?.trim() == "up");
    terraform.assert_plan_is_empty()?;
    let named = ["Creating container web", "with nspawn_container.web"];
    fails(site, terraform, &failing, &named)?;
    nothing_is_left(site, terraform)
}

/// Destroys what is tainted, and more than the host and its image.
fn nothing_is_left(site: &Site, terraform: &Terraform) -> Result<()> {
    terraform.configure(&site.with_image("")?)?;
    terraform.apply()?;
    state_holds(terraform, &[HOST, IMAGE])?;
    let left = site.root(
        "find /var/lib/machines /etc/systemd/nspawn -mindepth 1 2>/dev/null || true
        cd /etc/nspawn-agent; find containers addresses secrets -type f 2>/dev/null || true
        cd /var/lib/nspawn-agent; ls containers 2>/dev/null || true; ls images/trees | tail -n +2",
    )?;
    ensure!(left.is_empty(), "something is left:\n{left}");
    terraform.assert_plan_is_empty()
}

/// A file system of its own for the agent's folder, which is filled up to so many megabytes.
fn with_full_disk(
    site: &Site,
    terraform: &Terraform,
    left: u32,
    run: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let folder = "/var/lib/nspawn-agent";
    terraform.destroy()?;
    site.root(&format!(
        "mkdir -p {folder} && mount -t tmpfs -o size=400M tmpfs {folder}"
    ))?;
    let result = (|| {
        terraform.configure(&site.with_image("")?)?;
        terraform.apply()?;
        site.root(&format!(
            "fallocate -l $(($(df --output=avail -B1M {folder} | tail -1) - {left}))M {folder}/full"
        ))?;
        run()?;
        site.root(&format!("rm {folder}/full"))?;
        nothing_is_left(site, terraform)
    })();
    terraform.destroy()?;
    site.root(&format!("umount --lazy {folder} && rmdir {folder}"))?;
    result
}

fn full_disk_of_a_container(site: &Site, terraform: &Terraform) -> Result<()> {
    with_full_disk(site, terraform, 20, || {
        let words = [
            "Creating container web",
            "No space left",
            "with nspawn_container.web",
        ];
        fails(
            site,
            terraform,
            &container("web", "  storage = \"copy\""),
            &words,
        )?;
        state_holds(terraform, &[WEB_TAINTED, HOST, IMAGE])
    })
}

fn full_disk_of_an_image(site: &Site, terraform: &Terraform) -> Result<()> {
    with_full_disk(site, terraform, 20, || {
        let image = format!(
            "  tarball = {{ url = \"{}\", sha256 = \"{}\" }}\n  customize = [\"true\"]",
            served(site)?,
            Guest::Debian.tarball()?.sha256
        );
        fails(
            site,
            terraform,
            &other(&image),
            &["Creating image other", "disk is full"],
        )?;
        state_holds(terraform, &[HOST, IMAGE])
    })
}

fn killed_agent(site: &Site, terraform: &Terraform) -> Result<()> {
    terraform.configure(&site.with_image("")?)?;
    terraform.apply()?;
    let slow = "  wait_for = { port = 81, timeout = \"90s\" }";
    terraform.configure(&site.with_image(&container("web", slow))?)?;
    let mut apply = terraform.start(&["apply", "-auto-approve", "-input=false"])?;
    wait_until("the guest is up", MENDED, || {
        site.root("systemctl is-active -q systemd-nspawn@web")
    })?;
    // The provider connects again once, and asks again; a second time it gives up.
    wait_until("the provider gives up", Duration::from_secs(80), || {
        if !apply.is_running() {
            return Ok(());
        }
        site.root("pkill -9 -f 'nspawn-agent-[0-9a-f]* serve$'")?;
        bail!("it goes on")
    })?;
    let output = apply.wait(MENDED)?;
    ensure!(!output.success(), "{}", output.stdout);
    let words = [
        "Creating container web",
        "outcome is unknown",
        "Run apply again",
    ];
    says(&output.stderr, &words)?;
    state_holds(terraform, &[WEB_TAINTED, HOST, IMAGE])?;
    nothing_is_left(site, terraform)
}

fn other(source: &str) -> String {
    format!(
        "resource \"nspawn_image\" \"other\" {{\n  host = nspawn_host.vps1\n  name = \"other\"\n{source}\n}}\n"
    )
}

/// The guest's tarball, from where the host fetches it itself.
fn served(site: &Site) -> Result<String> {
    fs::copy(
        Guest::Debian.tarball()?.path,
        site.files().join("guest.tar.zst"),
    )?;
    Ok(site.file_url("guest.tar.zst"))
}

/// An image that can't be made leaves nothing, and is made when that is mended.
fn an_image_leaves_nothing(
    site: &Site,
    terraform: &Terraform,
    source: &str,
    words: &[&str],
) -> Result<()> {
    fails(site, terraform, &other(source), words)?;
    state_holds(terraform, &[HOST, IMAGE])?;
    let named = ["Creating image other", "with nspawn_image.other"];
    says(&terraform.apply_fails()?, &named)?;
    nothing_is_left(site, terraform)?;
    let good = format!(
        "  tarball = {{ url = \"{}\", sha256 = \"{}\" }}",
        served(site)?,
        Guest::Debian.tarball()?.sha256
    );
    terraform.configure(&site.with_image(&other(&good))?)?;
    terraform.apply()?;
    state_holds(terraform, &[HOST, IMAGE, OTHER])
}

fn refused_address(site: &Site, terraform: &Terraform) -> Result<()> {
    let with =
        |more: &str| container("web", "") + &address_with("web4", "203.0.113.2", "web", more);
    let words = [
        "Creating address 203.0.113.2",
        "eth7",
        "with nspawn_public_address.web4",
    ];
    fails(site, terraform, &with("  uplink = \"eth7\""), &words)?;
    state_holds(terraform, &[WEB, HOST, IMAGE])?;
    let left =
        site.root("ls /etc/nspawn-agent/addresses 2>/dev/null || true; ip route show 203.0.113.2")?;
    ensure!(left.is_empty(), "something is left:\n{left}");
    terraform.configure(&site.with_image(&with(""))?)?;
    terraform.apply()?;
    site.answers_as("203.0.113.2", "web")?;
    state_holds(terraform, &ALL)
}

/// A host that can't be made leaves nothing, and is made when the harm is mended.
fn a_host_leaves_nothing(site: &Site, (harm, mend): (&str, &str), words: &[&str]) -> Result<()> {
    let terraform = site.terraform(&site.host(""))?;
    site.root(harm)?;
    let printed = terraform.apply_fails();
    site.root(mend)?;
    let printed = printed?;
    says(
        &printed,
        &["Creating host 203.0.113.1", "with nspawn_host.vps1"],
    )?;
    says(&printed, words)?;
    state_holds(&terraform, &[])?;
    site.is_as_before()?;
    terraform.apply()?;
    site.ends_clean(&terraform)
}

/// A file of ours that can neither be written nor removed, nor can the host be taken back then.
fn what_stays_is_known(site: &Site) -> Result<()> {
    let file = "/etc/sysctl.d/90-nspawn-agent.conf";
    let terraform = site.terraform(&site.host(""))?;
    site.root(&format!(
        "echo '# left by nspawn-agent' > {file} && mount --bind {file} {file}"
    ))?;
    let printed = terraform.apply_fails();
    site.root(&format!("umount --lazy {file}"))?;
    says(
        &printed?,
        &[
            "Creating host 203.0.113.1",
            file,
            "could not be removed",
            "with nspawn_host.vps1",
        ],
    )?;
    state_holds(&terraform, &[HOST_TAINTED])?;
    terraform.apply()?;
    state_holds(&terraform, &[HOST])?;
    terraform.assert_plan_is_empty()?;
    site.ends_clean(&terraform)
}
