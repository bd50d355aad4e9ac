//! Guests that freeze a folder: whoever looks a name up there hangs beyond SIGKILL. One freezes its files, one the
//! place of its D-Bus; what becomes of everybody else, and of them when they are to stop.

use std::{fs, time::Duration};

use acceptance_tests::{
    Hosts, Lab, Snapshot, Terraform,
    command::wait_until,
    configuration,
    images::Guest,
    promise::{Cases, Promise},
};
use anyhow::{Context, Result, ensure};

use super::guests::{in_guest, names_container, run};

/// What freezes a folder.
const FREEZE: &str = env!("CARGO_BIN_EXE_freeze");
/// Where it is in the hostile guests.
const INSIDE: &str = "/usr/local/bin/freeze";

/// The hostile guests, and what their root does.
const DEEDS: [(&str, &str); 2] = [
    ("frozen-etc", "mv /etc /former; mkdir /etc; freeze /etc"),
    (
        "frozen-bus",
        "mkdir /run/one /run/other; mount -t overlay -o lowerdir=/run/one:/run/other frozen /run/dbus; freeze /run/dbus",
    ),
];

/// How long healing may take beside guests that hang, on a busy machine.
const HEALS_WITHIN: Duration = Duration::from_secs(10);

/// How long the host's lock may be held by somebody's change.
const LOCK_WITHIN: Duration = Duration::from_secs(10);

fn guests(lab: &Lab, round: u32, hostile: &str) -> Result<String> {
    let mut text = configuration::host(lab.vps1(), "") + &configuration::image(Guest::Debian)?;
    for (number, name) in [(2, "good"), (3, "frozen-etc"), (4, "frozen-bus")] {
        let more = if name == "good" { "" } else { hostile };
        text += &configuration::container(
            name,
            &format!(
                "  ssh_authorized_keys = [\"ssh-ed25519 AAAA{round} operator\"]\n  \
                 timeouts = {{ create = \"2m\", update = \"1m\", delete = \"2m\" }}\n{more}"
            ),
        );
        // Another one in each round, so that each guest's networkd has to read its files again.
        let address = format!("203.0.113.{}", round * 10 + number);
        text += &configuration::address(&format!("{name}-4"), &address, name);
    }
    Ok(text)
}

fn freeze(lab: &Lab) -> Result<()> {
    let vps = lab.vps1();
    fs::copy(FREEZE, vps.root_folder().join("root/freeze"))?;
    for (name, script) in DEEDS {
        let leader = vps.root(&format!("machinectl show --value -p Leader {name}"))?;
        let tool = format!("/proc/{}/root{INSIDE}", leader.trim());
        vps.root(&format!("cp /root/freeze {tool} && chmod 755 {tool}"))?;
        in_guest(
            lab,
            name,
            &script.replace("freeze /", &format!("{INSIDE} /")),
        )
        .with_context(|| format!("the deed of {name}"))?;
    }
    vps.root("rm /root/freeze").map(drop)
}

fn heals(lab: &Lab, address: &str) -> Result<()> {
    let vps = lab.vps1();
    vps.root(&format!("ip route del {address}/32 dev br0"))?;
    wait_until("the route is back", HEALS_WITHIN, || {
        let routes = vps.root(&format!("ip route show {address}/32"))?;
        ensure!(!routes.is_empty(), "there is no route to {address}");
        Ok(())
    })
}

fn lock_is_free(lab: &Lab) -> Result<()> {
    wait_until("nobody holds the host's lock", LOCK_WITHIN, || {
        lab.vps1().root("flock -n /run/nspawn-agent/lock true")
    })
    .map(drop)
}

fn refresh_tells(terraform: &Terraform) -> Result<()> {
    let (output, errors) = run(terraform, &["plan", "-input=false"])?;
    ensure!(output.success() && errors.is_empty(), "{}", output.stderr);
    let sentence = "the files in the guest frozen-etc can't be looked at";
    ensure!(output.stdout.contains(sentence), "{}", output.stdout);
    Ok(())
}

fn others_are_changed(lab: &Lab, terraform: &Terraform) -> Result<()> {
    let arguments = ["apply", "-auto-approve", "-input=false", "-parallelism=20"];
    let (output, errors) = run(terraform, &arguments)?;
    let keys = lab.vps1().guest("good", "cat /root/.ssh/authorized_keys")?;
    ensure!(keys.contains("AAAA2 operator"), "{keys}");
    lab.ping("203.0.113.22")?;
    let frozen = |error: &&String| names_container(error, "frozen-etc");
    ensure!(
        errors.iter().any(|error| frozen(&error)),
        "{}",
        output.stderr
    );
    let hostile = |error: &String| error.contains("frozen-") || error.contains("203.0.113.2");
    ensure!(errors.iter().all(hostile), "{}", output.stderr);
    Ok(())
}

fn they_are_stopped(lab: &Lab, terraform: &Terraform) -> Result<()> {
    terraform.configure(&guests(lab, 2, "  running = false")?)?;
    let (output, errors) = run(terraform, &["apply", "-auto-approve", "-input=false"])?;
    ensure!(output.success() && errors.is_empty(), "{}", output.stderr);
    let running = lab.vps1().root("machinectl list --no-legend")?;
    ensure!(
        running.contains("good") && !running.contains("frozen"),
        "{running}"
    );
    Ok(())
}

#[test]
fn a_guest_that_freezes_its_folders_stops_nobody_else() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let mut cases = Cases::of(Promise::IsNoWayIn)?;
    let before = Snapshot::take(lab.vps1())?.without("sysctl-machine");
    let terraform = lab.terraform(&guests(&lab, 1, "")?)?;
    terraform.apply()?;
    freeze(&lab)?;
    cases.case(
        "a refresh beside a frozen guest ends well, and tells of it",
        || refresh_tells(&terraform),
    );
    cases.case("the host heals beside frozen guests", || {
        heals(&lab, "203.0.113.12")
    });
    terraform.configure(&guests(&lab, 2, "")?)?;
    cases.case(
        "others are changed beside frozen guests, whose own changes fail in time",
        || others_are_changed(&lab, &terraform),
    );
    cases.case(
        "no process that hangs in a guest holds the host's lock",
        || lock_is_free(&lab),
    );
    cases.case("the host heals after changes of frozen guests", || {
        heals(&lab, "203.0.113.22")
    });
    cases.case("a frozen guest is stopped", || {
        they_are_stopped(&lab, &terraform)
    });
    cases.case(
        "all of them are destroyed, and the host is as it was",
        || {
            terraform.destroy()?;
            before.comes_back(lab.vps1())
        },
    );
    cases.finish()
}
