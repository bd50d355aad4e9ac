//! `benchmark`: how long it takes until N new containers answer on their public addresses, by this provider,
//! by a shell script with the same overlay, and the old way. Side by side on one server, in one run.

use std::{
    fmt::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use acceptance_tests::{Hosts, Lab, Terraform, command::wait_until, configuration, images::Guest};
use anyhow::{Context, Result};
use clap::Parser;

/// Prints the times and their ratios; a third of the time is the guests' own boot, which all ways share.
#[derive(Parser)]
struct Arguments {
    /// How many containers, one run for each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    counts: Vec<u32>,
    /// The largest count that the old way (a copy of the image for each) is tried with.
    #[arg(long, default_value_t = 10)]
    copies: u32,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benchmark: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(&configured(&lab, 0)?)?;
    terraform.apply()?;
    println!(
        "{:>10} {:>12} {:>16} {:>10} {:>14} {:>10}",
        "containers", "provider", "script, overlay", "ratio", "script, copy", "ratio"
    );
    for count in arguments.counts.iter().copied() {
        let provider = by_provider(&lab, &terraform, count)?;
        let overlay = by_script(&lab, "overlay", count)?;
        let copy = (count <= arguments.copies)
            .then(|| by_script(&lab, "copy", count))
            .transpose()?;
        let ratio =
            |other: Duration| format!("{:.2}", provider.as_secs_f64() / other.as_secs_f64());
        println!(
            "{count:>10} {:>10.2} s {:>14.2} s {:>10} {:>14} {:>10}",
            provider.as_secs_f64(),
            overlay.as_secs_f64(),
            ratio(overlay),
            copy.map_or("-".to_owned(), |copy| format!(
                "{:.2} s",
                copy.as_secs_f64()
            )),
            copy.map_or("-".to_owned(), ratio),
        );
    }
    terraform.destroy().map(drop)
}

/// A host and an image, and so many containers with an address each.
fn configured(lab: &Lab, count: u32) -> Result<String> {
    let mut text = configuration::host(lab.vps1(), "") + &configuration::image(Guest::Debian)?;
    for number in 1..=count {
        let name = format!("guest{number}");
        text += &configuration::container(&name, "  wait_for = { boot = false }");
        write!(
            text,
            "{}",
            configuration::address(&name, &address(number), &name)
        )?;
    }
    Ok(text)
}

fn address(number: u32) -> String {
    format!("203.0.113.{}", 100 + number)
}

fn by_provider(lab: &Lab, terraform: &Terraform, count: u32) -> Result<Duration> {
    terraform.configure(&configured(lab, count)?)?;
    let started = Instant::now();
    terraform
        .run(&["apply", "-auto-approve", "-input=false", "-parallelism=20"])?
        .checked()?;
    wait_until_all_answer(lab, count)?;
    let taken = started.elapsed();
    terraform.configure(&configured(lab, 0)?)?;
    terraform.apply()?;
    Ok(taken)
}

fn by_script(lab: &Lab, way: &str, count: u32) -> Result<Duration> {
    let tree = lab
        .vps1()
        .root("echo /var/lib/nspawn-agent/images/trees/*/")?;
    let script = include_str!("../../benchmarks/create.sh");
    // The filter and the bridge of ours stay out of the script's way: it has a bridge of its own.
    lab.vps1().root(&format!(
        "cat > /root/create.sh <<'SCRIPT'\n{script}\nSCRIPT"
    ))?;
    let started = Instant::now();
    lab.vps1()
        .ssh(&format!(
            "bash /root/create.sh {way} {} {count}",
            tree.trim().trim_end_matches('/')
        ))?
        .checked()?;
    wait_until_all_answer(lab, count)?;
    let taken = started.elapsed();
    lab.vps1().root(&format!(
        "cat > /root/remove.sh <<'SCRIPT'\n{}\nSCRIPT\nbash /root/remove.sh {count}; rm /root/remove.sh /root/create.sh",
        include_str!("../../benchmarks/remove.sh")
    ))?;
    Ok(taken)
}

/// From outside, on each public address.
fn wait_until_all_answer(lab: &Lab, count: u32) -> Result<()> {
    for number in 1..=count {
        let address = address(number);
        let socket = format!("{address}:7777")
            .parse()
            .context("an address of the benchmark")?;
        wait_until(
            &format!("{address} answers"),
            Duration::from_mins(5),
            || lab.client().banner(socket, Duration::from_secs(1)),
        )?;
    }
    Ok(())
}
