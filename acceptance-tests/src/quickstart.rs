//! The main job, shown: a server in the lab, `examples/quickstart` applied, both guests answering from outside.

use std::{fs, io::Read as _, path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};

use crate::{Hosts, Lab, Terraform, command::Output, images::Guest};

/// The guests of the example, and where they answer.
const GUESTS: [(&str, &str); 4] = [
    ("alpha", "203.0.113.2"),
    ("alpha", "2001:db8:1::2"),
    ("beta", "203.0.113.3"),
    ("beta", "2001:db8:1::3"),
];

/// Applies the example in a lab of its own, shows it, waits for Enter when somebody is there, destroys it.
///
/// Ctrl-C ends it at any moment; the lab removes itself.
pub fn show() -> Result<()> {
    println!(
        "==> Booting a cloud in a box: an operator, a router, a Debian server (the first run builds its disks)"
    );
    let started = Instant::now();
    let lab = Lab::start(Hosts::one())?;
    let terraform = prepare(&lab)?;
    println!("    up after {:.1} s", started.elapsed().as_secs_f64());

    println!("==> terraform apply   (examples/quickstart/main.tf)");
    let started = Instant::now();
    let output = terraform.run(&["apply", "-auto-approve", "-input=false"])?;
    show_progress(&output);
    output.checked()?;
    println!("    applied in {:.1} s", started.elapsed().as_secs_f64());

    println!("==> From outside, over the router:");
    for (name, address) in GUESTS {
        lab.ping(address)?;
        let banner = lab.tcp(address, 7777)?;
        ensure!(
            banner.starts_with(name),
            "{address} answers as {banner:?}, not as {name}"
        );
        println!("    {address:<15} answers ping, and on port 7777: {banner}");
    }
    how_to_look_around(&lab, &terraform);
    wait_for_enter()?;

    println!("==> terraform destroy");
    terraform.destroy()?;
    println!("    the server is as it was; the lab is being removed");
    Ok(())
}

fn prepare(lab: &Lab) -> Result<Terraform> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/main.tf");
    let text =
        fs::read_to_string(&example).with_context(|| format!("read {}", example.display()))?;
    let mut terraform = lab.terraform(&text)?;
    // The example names the provider's source itself.
    fs::remove_file(terraform.folder().join("versions.tf"))?;
    let image = Guest::Debian.tarball()?.path;
    terraform.set_environment("TF_VAR_image", &image.display().to_string());
    Ok(terraform)
}

fn show_progress(output: &Output) {
    for line in output
        .stdout
        .lines()
        .filter(|line| line.contains(": Creation complete") || line.starts_with("Apply complete"))
    {
        println!("    {line}");
    }
}

fn how_to_look_around(lab: &Lab, terraform: &Terraform) {
    let client = lab.client().name();
    println!("==> Look around, in another terminal of this machine (as root):");
    println!("    ip netns exec {client} ping 203.0.113.2");
    println!(
        "    ip netns exec {client} ssh -F {}/ssh_config vps1      # then: machinectl; ip neigh show proxy; ip route",
        lab.folder().display()
    );
    println!(
        "    TF_CLI_CONFIG_FILE={folder}/terraform.rc TF_VAR_image=/dev/null ip netns exec {client} {program} -chdir={folder} show",
        folder = terraform.folder().display(),
        program = Terraform::program()
    );
}

/// Waits until Enter is pressed; where nobody is there to press it, goes on at once.
fn wait_for_enter() -> Result<()> {
    let stdin = std::io::stdin();
    if !rustix::termios::isatty(&stdin) {
        return Ok(());
    }
    println!(
        "==> Enter destroys everything (terraform destroy), Ctrl-C drops the whole lab at once."
    );
    poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None).context("wait for Enter")?;
    stdin.lock().read_exact(&mut [0]).context("read Enter")?;
    Ok(())
}
