//! Replacements under another name: the former object is destroyed, and nothing of it is left.

use acceptance_tests::{Hosts, Lab, Snapshot, configuration, images::Guest};
use anyhow::{Result, ensure};

/// The host, its image, and one container with one address, under names that may change.
fn site(lab: &Lab, name: &str, address: &str, more: &str) -> Result<String> {
    let container = configuration::container("web", more);
    Ok(configuration::host(lab.vps1(), "")
        + &configuration::image(Guest::Debian)?
        + &container.replace("name  = \"web\"", &format!("name  = \"{name}\""))
        + &configuration::address("web4", address, name))
}

/// Fails unless the host has just these containers and addresses.
fn assert_is_all(lab: &Lab, expected: &str) -> Result<()> {
    let found = lab.vps1().root(
        "cd /etc/nspawn-agent; for file in containers/* addresses/*; do basename $file .json; done
        ls /etc/systemd/nspawn | sed 's/\\.nspawn$//'
        ip -o route show proto 78 | awk '/^203/ { print $1 }'",
    )?;
    let mut found: Vec<&str> = found.split_whitespace().collect();
    found.sort_unstable();
    found.dedup();
    ensure!(
        found.join(" ") == expected,
        "the host has {found:?}, not {expected:?}"
    );
    Ok(())
}

#[test]
fn a_replacement_under_another_name_leaves_nothing_of_the_former() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    // The machine-wide sysctls are shared with the labs of other tests.
    let before = Snapshot::take(lab.vps1())?.without_shared();
    let terraform = lab.terraform(&site(&lab, "web", "203.0.113.2", "")?)?;
    terraform.apply()?;
    lab.answers_as("203.0.113.2", "web")?;

    // Container and address get another identity in one apply.
    terraform.configure(&site(&lab, "site", "203.0.113.3", "")?)?;
    let plan = terraform.plan()?;
    ensure!(
        plan.contains("2 to add, 0 to change, 2 to destroy"),
        "{plan}"
    );
    terraform.apply()?;
    lab.answers_as("203.0.113.3", "site")?;
    assert_is_all(&lab, "203.0.113.3 site")?;
    terraform.assert_plan_is_empty()?;

    // The same without a refresh, in which the provider reads nothing before.
    terraform.configure(&site(&lab, "shop", "203.0.113.4", "")?)?;
    let unrefreshed = ["apply", "-auto-approve", "-input=false", "-refresh=false"];
    terraform.run(&unrefreshed)?.checked()?;
    lab.answers_as("203.0.113.4", "shop")?;
    assert_is_all(&lab, "203.0.113.4 shop")?;
    terraform.assert_plan_is_empty()?;

    terraform.destroy()?;
    before.comes_back(lab.vps1())
}

#[test]
fn a_tainted_container_that_is_renamed_is_destroyed() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let never_ready = "  wait_for = { port = 81, timeout = \"2s\" }";
    let terraform = lab.terraform(&site(&lab, "web", "203.0.113.2", never_ready)?)?;
    terraform.apply_fails()?;
    let taints = terraform.resources_and_taints()?;
    let tainted = ("nspawn_container.web".to_owned(), true);
    ensure!(taints.contains(&tainted), "the state holds {taints:?}");

    terraform.configure(&site(&lab, "site", "203.0.113.2", "")?)?;
    // A destroy that fails leaves the state what it needs.
    let unrefreshed = ["apply", "-auto-approve", "-input=false", "-refresh=false"];
    let refused = terraform.run(&unrefreshed)?;
    ensure!(!refused.success(), "{}", refused.stdout);
    let told = terraform.apply()?;
    ensure!(!told.contains("taken over anew"), "{told}");
    lab.answers_as("203.0.113.2", "site")?;
    assert_is_all(&lab, "203.0.113.2 site")?;
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}

#[test]
fn a_tainted_container_whose_new_name_is_not_known_yet_is_destroyed() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let named = |name: &str| -> Result<String> {
        let source = format!("resource \"terraform_data\" \"name\" {{\n  input = \"{name}\"\n}}\n");
        let site = site(&lab, "${terraform_data.name.output}", "203.0.113.2", "")?;
        Ok(source + &site)
    };
    let terraform = lab.terraform(&named("web")?)?;
    terraform.apply()?;
    terraform
        .run(&["taint", "nspawn_container.web"])?
        .checked()?;

    // The output of a terraform_data whose input changes is known after the apply.
    terraform.configure(&named("site")?)?;
    terraform.apply()?;
    lab.answers_as("203.0.113.2", "site")?;
    assert_is_all(&lab, "203.0.113.2 site")?;
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}
