//! Ctrl-C in the middle of an apply, and an apply that was killed: the next apply ends in the full state.

use std::time::Duration;

use acceptance_tests::{Hosts, Lab, Snapshot, command::wait_until, configuration, images::Guest};
use anyhow::{Result, ensure};
use rustix::process::Signal;

/// How long a part of an apply may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(4);

fn whole(lab: &Lab) -> Result<String> {
    let mut text = configuration::host(lab.vps1(), "") + &configuration::image(Guest::Debian)?;
    for number in 2..8 {
        let name = format!("guest{number}");
        text += &configuration::container(&name, "");
        text +=
            &configuration::address(&format!("{name}-4"), &format!("203.0.113.{number}"), &name);
    }
    Ok(text)
}

fn interrupted_by(signal: Signal, marks: &[&str]) -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    // The machine-wide sysctls are shared with the labs of other tests.
    let before = Snapshot::take(lab.vps1())?.without_shared();
    let terraform = lab.terraform(&whole(&lab)?)?;
    for mark in marks {
        let apply = terraform.start(&["apply", "-auto-approve", "-input=false", "-lock=false"])?;
        wait_until(&format!("the apply prints {mark:?}"), PATIENCE, || {
            ensure!(
                apply.printed().contains(mark),
                "so far:\n{}",
                apply.printed()
            );
            Ok(())
        })?;
        apply.signal(signal)?;
        let output = apply.wait(PATIENCE)?;
        ensure!(
            !output.success(),
            "the apply was not interrupted at {mark:?}"
        );
        ensure!(!output.stderr.contains("panicked"), "{}", output.stderr);
    }
    terraform.apply()?;
    for number in 2..8 {
        lab.answers_as(&format!("203.0.113.{number}"), &format!("guest{number}"))?;
    }
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    before.comes_back(lab.vps1())
}

#[test]
fn ctrl_c_in_the_middle_of_an_apply_loses_nothing() -> Result<()> {
    interrupted_by(
        Signal::INT,
        &[
            "nspawn_host.vps1: Creating...",
            "nspawn_image.debian: Creating...",
            "nspawn_container.guest2: Creating...",
        ],
    )
}

#[test]
fn an_apply_that_was_killed_is_taken_up_by_the_next() -> Result<()> {
    interrupted_by(
        Signal::KILL,
        &[
            "nspawn_host.vps1: Creating...",
            "nspawn_image.debian: Creating...",
            "nspawn_container.guest2: Creating...",
        ],
    )
}
