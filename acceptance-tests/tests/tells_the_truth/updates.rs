//! An update that fails leaves a state that tells the truth, and a plan of what is still to do.

use std::{fs, time::Duration};

use acceptance_tests::{
    Terraform,
    command::wait_until,
    configuration::{address_with, container},
    images::Guest,
    promise::{Cases, Promise},
};
use anyhow::{Result, ensure};

use crate::{ADDRESS, ALL, HOST, IMAGE, MENDED, REFUSED_AT_START, Site, WEB, says, state_holds};

#[test]
fn an_update_that_fails_leaves_the_truth() -> Result<()> {
    let site = Site::start()?;
    let terraform = site.terraform(&Wanted::default().text(&site)?)?;
    terraform.apply()?;
    let mut cases = Cases::of(Promise::TellsTheTruth)?;
    cases.case("update: a container that doesn't start any more", || {
        failed_restart(&site, &terraform)
    });
    cases.case(
        "update: a container whose settings can't be written",
        || unwritten_settings(&site, &terraform),
    );
    cases.case("update: a container that isn't ready in time", || {
        not_ready_in_time(&site, &terraform)
    });
    cases.case("update: an image with another sha256", || {
        wrong_sum(&site, &terraform)
    });
    cases.case("update: an address on an uplink that isn't there", || {
        refused_uplink(&site, &terraform)
    });
    cases.case("update: a host with an uplink that isn't there", || {
        refused_host(&site, &terraform)
    });
    cases.case("update: another bridge for a host in use", || {
        bridge_in_use(&site, &terraform)
    });
    cases.case("a server that can't be reached", || {
        unreachable(&site, &terraform)
    });
    cases.case("update: all of it destroyed", || {
        site.ends_clean(&terraform)
    });
    cases.finish()
}

/// What is configured, with more attributes for each resource.
#[derive(Default)]
struct Wanted<'a> {
    host: &'a str,
    sum: Option<&'a str>,
    container: &'a str,
    address: &'a str,
}

impl Wanted<'_> {
    fn text(&self, site: &Site) -> Result<String> {
        let tarball = Guest::Debian.tarball()?;
        fs::copy(&tarball.path, site.files().join("guest.tar.zst"))?;
        Ok(format!(
            "{}resource \"nspawn_image\" \"debian\" {{\n  host = nspawn_host.vps1\n  name = \"debian\"\n  \
             tarball = {{ url = \"{}\", sha256 = \"{}\" }}\n}}\n{}{}",
            site.host(self.host),
            site.file_url("guest.tar.zst"),
            self.sum.unwrap_or(&tarball.sha256),
            container("web", self.container),
            address_with("web4", "203.0.113.2", "web", self.address),
        ))
    }
}

/// Applies a change that fails; its error names the resource, and nothing leaves the state.
fn fails(site: &Site, terraform: &Terraform, wanted: &Wanted<'_>, words: &[&str]) -> Result<()> {
    terraform.configure(&wanted.text(site)?)?;
    says(&terraform.apply_fails()?, words)?;
    state_holds(terraform, &ALL)
}

/// The former configuration is applied again, and nothing is left to do.
fn converges(site: &Site, terraform: &Terraform) -> Result<()> {
    terraform.configure(&Wanted::default().text(site)?)?;
    terraform.apply()?;
    site.answers_as("203.0.113.2", "web")?;
    terraform.assert_plan_is_empty()
}

fn failed_restart(site: &Site, terraform: &Terraform) -> Result<()> {
    let wanted = Wanted {
        container: REFUSED_AT_START,
        ..Wanted::default()
    };
    let words = [
        "Changing container web",
        "did not start",
        "nothing-there",
        "with nspawn_container.web",
    ];
    fails(site, terraform, &wanted, &words)?;
    // The host has the new settings, and the guest is down: both stand in the state.
    let told = terraform.resource(WEB)?;
    ensure!(told["status"] == "failed", "{told}");
    // systemd tries again for a while.
    site.wait_for("systemctl is-failed -q systemd-nspawn@web")?;
    ensure!(
        told["nspawn_config"]["Files"]["Bind"][0] == "/var/lib/nothing-there",
        "{told}"
    );
    ensure!(
        site.root("cat /etc/systemd/nspawn/web.nspawn")?
            .contains("nothing-there")
    );
    says(
        &terraform.plan()?,
        &["systemd-nspawn@web.service is failed", "1 to change"],
    )?;
    converges(site, terraform)
}

/// The guest goes on with settings of before, also when the resident has written the new ones since.
fn unwritten_settings(site: &Site, terraform: &Terraform) -> Result<()> {
    let run = site.run_of("web")?;
    site.root("mount -t tmpfs -o ro tmpfs /etc/systemd/nspawn")?;
    let wanted = Wanted {
        container: "  hostname = \"www\"",
        ..Wanted::default()
    };
    let failed = fails(
        site,
        terraform,
        &wanted,
        &["Changing container web", "/etc/systemd/nspawn", "Read-only"],
    );
    site.root("umount --lazy /etc/systemd/nspawn")?;
    failed?;
    site.wait_for("grep -qx Hostname=www /etc/systemd/nspawn/web.nspawn")?;
    ensure!(site.run_of("web")? == run, "the guest was restarted");
    ensure!(site.vps1().guest("web", "uname -n")?.trim() == "web");
    says(&terraform.plan()?, &["settings of before", "1 to change"])?;
    terraform.apply()?;
    site.answers_as("203.0.113.2", "www")?;
    terraform.assert_plan_is_empty()?;
    converges(site, terraform)
}

/// It is restarted all the same, and runs as the state says: nothing is left to do.
fn not_ready_in_time(site: &Site, terraform: &Terraform) -> Result<()> {
    let wanted = Wanted {
        container: "  hostname = \"www\"\n  wait_for = { port = 81, timeout = \"5m\" }\n  timeouts = { update = \"20s\" }",
        ..Wanted::default()
    };
    let words = [
        "Changing container web",
        "than this change may take",
        "Raise timeouts",
        "with nspawn_container.web",
    ];
    fails(site, terraform, &wanted, &words)?;
    let told = terraform.resource(WEB)?;
    ensure!(
        told["hostname"] == "www" && told["status"] == "running",
        "{told}"
    );
    wait_until("the guest has its new name", MENDED, || {
        let name = site.vps1().guest("web", "uname -n")?;
        ensure!(name.trim() == "www", "it is {name}");
        Ok(())
    })?;
    terraform.assert_plan_is_empty()?;
    converges(site, terraform)
}

fn wrong_sum(site: &Site, terraform: &Terraform) -> Result<()> {
    let before = terraform.resource(IMAGE)?;
    let wrong = "0".repeat(64);
    let wanted = Wanted {
        sum: Some(&wrong),
        ..Wanted::default()
    };
    fails(
        site,
        terraform,
        &wanted,
        &[
            "Changing image debian",
            "tarball.sha256",
            "with nspawn_image.debian",
        ],
    )?;
    let after = terraform.resource(IMAGE)?;
    ensure!(after == before, "{after}\nis not\n{before}");
    says(&terraform.plan()?, &[&wrong, "1 to change"])?;
    converges(site, terraform)
}

fn refused_uplink(site: &Site, terraform: &Terraform) -> Result<()> {
    let before = terraform.resource(ADDRESS)?;
    let wanted = Wanted {
        address: "  uplink = \"eth7\"",
        ..Wanted::default()
    };
    fails(
        site,
        terraform,
        &wanted,
        &["eth7", "203.0.113.2", "with nspawn_public_address.web4"],
    )?;
    let after = terraform.resource(ADDRESS)?;
    ensure!(after == before, "{after}\nis not\n{before}");
    site.answers_as("203.0.113.2", "web")?;
    says(&terraform.plan()?, &["eth7", "1 to change"])?;
    converges(site, terraform)
}

fn refused_host(site: &Site, terraform: &Terraform) -> Result<()> {
    let before = terraform.resource(HOST)?;
    let wanted = Wanted {
        host: "  uplink = \"eth7\"\n  nesting = true",
        ..Wanted::default()
    };
    fails(
        site,
        terraform,
        &wanted,
        &[
            "Changing host 203.0.113.1",
            "eth7",
            "eth0",
            "with nspawn_host.vps1",
        ],
    )?;
    let after = terraform.resource(HOST)?;
    ensure!(after == before, "{after}\nis not\n{before}");
    says(&terraform.plan()?, &["eth7", "nesting", "1 to change"])?;
    converges(site, terraform)
}

/// Another bridge is another host, and this one is in use: nothing is touched before that is known.
fn bridge_in_use(site: &Site, terraform: &Terraform) -> Result<()> {
    let run = site.run_of("web")?;
    let wanted = Wanted {
        host: "  bridge = \"br7\"",
        ..Wanted::default()
    };
    fails(
        site,
        terraform,
        &wanted,
        &[
            "Destroying host 203.0.113.1",
            "the container web",
            "the address 203.0.113.2",
        ],
    )?;
    ensure!(site.run_of("web")? == run, "the guest was restarted");
    converges(site, terraform)
}

fn unreachable(site: &Site, terraform: &Terraform) -> Result<()> {
    let mut before = terraform.state()?;
    site.run("ip route add unreachable 203.0.113.1")?
        .checked()?;
    let seen = cut_off(terraform);
    site.run("ip route del unreachable 203.0.113.1")?
        .checked()?;
    seen?;
    let mut after = terraform.state()?;
    let resources =
        |state: &mut serde_json::Value| state["values"]["root_module"]["resources"].take();
    ensure!(
        resources(&mut after) == resources(&mut before),
        "the state has changed"
    );
    site.answers_as("203.0.113.2", "web")?;
    terraform.assert_plan_is_empty()
}

fn cut_off(terraform: &Terraform) -> Result<()> {
    // It is tried again for as long.
    let environment = [("NSPAWN_SSH_CONNECT_TIMEOUT", "3s")];
    let run = |arguments: &[&str]| {
        let run = terraform.start_with(arguments, &environment)?;
        run.wait(Duration::from_mins(2))
    };
    let look = ["plan", "apply", "destroy"].map(|verb| match verb {
        "plan" => vec![verb, "-input=false"],
        _ => vec![verb, "-input=false", "-auto-approve"],
    });
    for arguments in look {
        let output = run(&arguments)?;
        ensure!(
            !output.success(),
            "{arguments:?} succeeded:\n{}",
            output.stdout
        );
        says(
            &output.stderr,
            &["root@203.0.113.1:22", "-refresh=false", "with nspawn_"],
        )?;
        state_holds(terraform, &ALL)?;
    }
    // A run that doesn't look first fails at what it would change, and keeps what it can't.
    let blind = run(&["destroy", "-input=false", "-auto-approve", "-refresh=false"])?;
    ensure!(!blind.success(), "{}", blind.stdout);
    says(&blind.stderr, &["root@203.0.113.1:22"])?;
    state_holds(terraform, &ALL)
}
