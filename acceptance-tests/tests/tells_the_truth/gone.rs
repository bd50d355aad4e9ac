//! Delete of what is already gone succeeds; read of what is gone plans a create.

use std::fs;

use acceptance_tests::{
    Terraform,
    configuration::{address, container},
    promise::{Cases, Promise},
};
use anyhow::{Result, ensure};

use crate::{ADDRESS, ALL, HOST, IMAGE, Site, WEB, says, state_holds};

/// Everything that the agent keeps or has put onto the host, but its bridge, filter and sysctls.
const REMOVE_BY_HAND: &str = "\
    systemctl stop systemd-nspawn@web.service
    systemctl disable -q --now nspawn-agent.service
    rm -rf /etc/nspawn-agent /usr/local/lib/nspawn-agent /run/nspawn-agent /var/lib/nspawn-agent
    rm -rf /etc/systemd/system/nspawn-agent.service /etc/systemd/system/systemd-nspawn@web.service.d
    rm -rf /etc/systemd/system/machines.target.wants /etc/systemd/nspawn /var/lib/machines/web
    systemctl daemon-reload";

/// Doesn't look first.
const BLIND_DESTROY: [&str; 4] = ["destroy", "-auto-approve", "-input=false", "-refresh=false"];

#[test]
fn what_is_gone_is_made_again_and_destroyed_without_an_error() -> Result<()> {
    let site = Site::start()?;
    let terraform = site.terraform(&everything(&site)?)?;
    let mut cases = Cases::of(Promise::TellsTheTruth)?;
    for (what, resource, gone) in [
        ("an address", ADDRESS, 1),
        ("a container", WEB, 1),
        ("an image and what stands on it", IMAGE, 2),
        ("everything", HOST, 4),
    ] {
        cases.case(format!("gone: {what}"), || {
            is_gone(&site, &terraform, resource, gone)
        });
    }
    cases.case("gone: the record of the host alone", || {
        record_of_the_host(&site, &terraform)
    });
    cases.case("gone: all of it destroyed", || site.ends_clean(&terraform));
    cases.case("gone: everything, the agent removed by hand", || {
        removed_by_hand(&site, &terraform)
    });
    cases.finish()
}

fn everything(site: &Site) -> Result<String> {
    site.with_image(&(container("web", "") + &address("web4", "203.0.113.2", "web")))
}

/// Destroys resources behind the back of a state, by a copy of it.
fn destroy_elsewhere(site: &Site, terraform: &Terraform, resource: &str) -> Result<()> {
    let copy = site.terraform(&everything(site)?)?;
    let state = "terraform.tfstate";
    fs::copy(terraform.folder().join(state), copy.folder().join(state))?;
    let target = format!("-target={resource}");
    copy.run(&["destroy", "-auto-approve", "-input=false", &target])?
        .checked()?;
    Ok(())
}

/// Looked for, it is made again; not looked for, it is destroyed without an error.
fn is_gone(site: &Site, terraform: &Terraform, resource: &str, gone: usize) -> Result<()> {
    terraform.apply()?;
    destroy_elsewhere(site, terraform, resource)?;
    let created = format!("{resource} will be created");
    let counts = format!("{gone} to add, 0 to change, 0 to destroy");
    says(&terraform.plan()?, &[&created, &counts])?;
    terraform.apply()?;
    site.answers_as("203.0.113.2", "web")?;

    destroy_elsewhere(site, terraform, resource)?;
    let target = format!("-target={resource}");
    terraform
        .run(&[&BLIND_DESTROY[..], &[&target]].concat())?
        .checked()?;
    let left = terraform.resources_and_taints()?;
    ensure!(left.len() == ALL.len() - gone, "the state holds {left:?}");
    if left.is_empty() {
        site.is_as_before()?;
    }
    Ok(())
}

/// The guest stays, and is not even restarted.
fn record_of_the_host(site: &Site, terraform: &Terraform) -> Result<()> {
    terraform.apply()?;
    let run = site.run_of("web")?;
    site.root("rm /etc/nspawn-agent/host.json")?;
    let words = [
        "nspawn_host.vps1 will be created",
        "1 to add, ",
        " 0 to destroy",
    ];
    says(&terraform.plan()?, &words)?;
    terraform.apply()?;
    site.answers_as("203.0.113.2", "web")?;
    ensure!(site.run_of("web")? == run, "the guest was restarted");
    terraform.assert_plan_is_empty()
}

/// Also what nothing on the host knows of any more.
fn removed_by_hand(site: &Site, terraform: &Terraform) -> Result<()> {
    for arguments in [&BLIND_DESTROY[..], &BLIND_DESTROY[..3]] {
        terraform.apply()?;
        site.root(REMOVE_BY_HAND)?;
        terraform.run(arguments)?.checked()?;
        state_holds(terraform, &[])?;
    }
    terraform.apply()?;
    site.root(REMOVE_BY_HAND)?;
    says(&terraform.plan()?, &["4 to add, 0 to change, 0 to destroy"])?;
    terraform.apply()?;
    site.answers_as("203.0.113.2", "web")?;
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    let left = site.root("find / -xdev -name '*nspawn-agent*' -o -xdev -name '*nspawn_agent*'; ip link show br0 2>/dev/null || true; nft list tables")?;
    ensure!(left.is_empty(), "something is left:\n{left}");
    Ok(())
}
