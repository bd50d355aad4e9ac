//! Two states on one host: whose is whose.

use acceptance_tests::{Hosts, Lab, configuration, images::Guest};
use anyhow::{Result, ensure};

#[test]
fn two_states_share_a_host_and_never_an_object() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let first = lab.terraform(
        &(configuration::host(lab.vps1(), "")
            + &configuration::image(Guest::Debian)?
            + &configuration::container("web", "")
            + &configuration::address("web4", "203.0.113.2", "web")),
    )?;
    first.apply()?;
    first.plan()?;
    let literal = |text: String| {
        text.replace(
            "host  = nspawn_host.vps1",
            "host  = { address = \"203.0.113.1\" }",
        )
        .replace(
            "host      = nspawn_host.vps1",
            "host      = { address = \"203.0.113.1\" }",
        )
        .replace("nspawn_image.debian.name", "\"debian\"")
    };
    let second = lab.terraform(&literal(configuration::container("db", "")))?;
    second.apply()?;
    second.assert_plan_is_empty()?;

    // The same name, and the same address, in both.
    second.configure(&literal(
        configuration::container("db", "") + &configuration::container("web", ""),
    ))?;
    let refused = second.apply_fails()?;
    ensure!(
        refused.contains("web") && refused.contains("terraform import"),
        "{refused}"
    );
    second.configure(&literal(
        configuration::container("db", "") + &configuration::address("mine", "203.0.113.2", "db"),
    ))?;
    let refused = second.apply_fails()?;
    ensure!(
        refused.contains("203.0.113.2") && refused.contains("terraform import"),
        "{refused}"
    );
    lab.answers_as("203.0.113.2", "web")?;

    // An import takes over: the first state no longer has it.
    second.configure(&literal(
        configuration::container("db", "") + &configuration::container("web", ""),
    ))?;
    second.import("nspawn_container.web", "root@203.0.113.1:22/web")?;
    second.assert_plan_is_empty()?;
    let plan = first.plan()?;
    ensure!(plan.contains("nspawn_container.web"), "{plan}");
    let refused = first.apply_fails()?;
    ensure!(refused.contains("web"), "{refused}");
    second.destroy()?;
    first.destroy()?;
    Ok(())
}
