//! `nspawn_host`: other Debians, other users, other names of the uplink, and what it installs.

use acceptance_tests::{Flavour, Hosts, Lab, Snapshot, User, configuration, images::Guest};
use anyhow::{Result, ensure};

fn one_guest(lab: &Lab) -> Result<String> {
    Ok(configuration::host(lab.vps1(), "")
        + &configuration::image(Guest::Debian)?
        + &configuration::container("web", "")
        + &configuration::address("web4", "203.0.113.2", "web")
        + &configuration::address("web6", "2001:db8:1::2", "web"))
}

fn comes_and_goes(lab: &Lab) -> Result<()> {
    let before = Snapshot::take(lab.vps1())?;
    let terraform = lab.terraform(&one_guest(lab)?)?;
    terraform.apply()?;
    for address in ["203.0.113.2", "2001:db8:1::2"] {
        lab.ping(address)?;
        ensure!(lab.tcp(address, 7777)?.starts_with("web"));
    }
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    let differences = before.differences(&Snapshot::take(lab.vps1())?);
    ensure!(
        differences.is_empty(),
        "destroy left the server changed:\n{differences}"
    );
    Ok(())
}

#[test]
fn debian_12_with_another_uplink_and_a_user_with_sudo() -> Result<()> {
    let lab = Lab::start(
        Hosts::one()
            .flavour(Flavour::Bookworm)
            .uplink("enp1s0")
            .user(User::Admin),
    )?;
    comes_and_goes(&lab)
}

#[test]
fn debian_13_with_a_user_with_sudo() -> Result<()> {
    let lab = Lab::start(Hosts::one().uplink("ens3").user(User::Admin))?;
    comes_and_goes(&lab)
}

#[test]
fn missing_packages_are_installed_or_named() -> Result<()> {
    let lab = Lab::start(Hosts::one().flavour(Flavour::Bare))?;
    let terraform = lab.terraform(&configuration::host(
        lab.vps1(),
        "  install_packages = false",
    ))?;
    let refused = terraform.apply_fails()?;
    ensure!(
        refused.contains("systemd-container") && refused.contains("install_packages"),
        "{refused}"
    );
    terraform.configure(&one_guest(&lab)?)?;
    terraform.apply()?;
    ensure!(lab.tcp("203.0.113.2", 7777)?.starts_with("web"));
    terraform.destroy()?;
    let left = lab
        .vps1()
        .root("find / -xdev -name '*nspawn-agent*' -o -xdev -name '*nspawn_agent*'")?;
    ensure!(left.is_empty(), "something is left:\n{left}");
    Ok(())
}

#[test]
fn facts_are_the_machines_own() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(&configuration::host(lab.vps1(), ""))?;
    terraform.apply()?;
    let host = terraform.resource("nspawn_host.vps1")?;
    let told = lab.vps1().root(
        "cat /etc/machine-id; uname -r; uname -m; . /etc/os-release; echo \"$PRETTY_NAME\"; nproc",
    )?;
    let told: Vec<&str> = told.lines().collect();
    let said = ["machine_id", "kernel", "architecture", "os"]
        .map(|name| host[name].as_str().unwrap_or_default().to_owned());
    ensure!(
        said.iter().map(String::as_str).collect::<Vec<_>>() == told[..4],
        "{said:?} is not {told:?}"
    );
    ensure!(host["cpus"].to_string() == told[4]);
    ensure!(
        host["ipv4_address"] == "203.0.113.1" && host["ipv6_address"] == "2001:db8:1::1",
        "{host}"
    );
    terraform.destroy()?;
    Ok(())
}

#[test]
fn destroy_is_refused_while_containers_of_others_are_left() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(&one_guest(&lab)?)?;
    terraform.apply()?;
    terraform.forget("nspawn_container.web")?;
    let refused = terraform.run(&["destroy", "-auto-approve", "-input=false"])?;
    ensure!(
        !refused.success() && refused.stderr.contains("web"),
        "{}",
        refused.stderr
    );
    ensure!(
        lab.vps1()
            .root("systemctl is-active systemd-nspawn@web.service")?
            .trim()
            == "active"
    );
    terraform.configure(&one_guest(&lab)?)?;
    terraform.import("nspawn_container.web", "root@203.0.113.1:22/web")?;
    terraform.destroy()?;
    Ok(())
}
