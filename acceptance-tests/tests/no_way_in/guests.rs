//! Hostile guests: what their root does, and what becomes of changes, refreshes and removals meanwhile.

use std::{
    fs,
    time::{Duration, Instant},
};

use acceptance_tests::{
    Hosts, Lab, Snapshot, Terraform,
    command::{Output, wait_until},
    configuration,
    images::Guest,
    promise::{Cases, Effort, Promise},
};
use anyhow::{Context, Result, anyhow, ensure};

use super::{
    deeds::{HANGING_LOOKS, deeds},
    modes,
};

/// What guests are to reach, and must not.
const CANARY: &str = "only root of the host has written this";

/// The most memory that any of the agent's processes may ever have had. kB
const MEMORY_LIMIT: u64 = 96 * 1024;

/// How long a run with hostile guests may take; each change of theirs has a limit of a minute, and they go side by side.
/// Seconds.
const RUN_LIMIT: u64 = 180;

/// How long systemd may take to end a unit whose guest answered nothing until it was killed.
const ENDED: Duration = Duration::from_mins(1);

/// The same of a guest that is restarted, which systemd gives 90 seconds to shut down. systemd.service(5), TimeoutStopSec=
const RESTARTED: Duration = Duration::from_mins(5);

/// Waits in a guest that boots, which may take longer than its change.
const BUS_IS_UP: &str = "i=0; while [ ! -S /run/dbus/system_bus_socket ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i + 1)); done";

/// What is in the configuration of all guests, and what of the hostile ones alone.
#[derive(Clone, Copy, Default)]
struct More<'a> {
    all: &'a str,
    hostile: &'a str,
}

/// A configuration with a guest that is well and the hostile ones; `round` changes all of them.
fn guests(lab: &Lab, names: &[&str], round: u32, more: More<'_>) -> Result<String> {
    let mut text = configuration::host(lab.vps1(), "") + &configuration::image(Guest::Debian)?;
    for name in std::iter::once(&"good").chain(names) {
        // Whoever isn't hostile, or not yet, gets as long as a busy machine may need.
        let is_slow = *name == "init-says-escapes";
        let (ready, update) = if *name == "good" || round == 1 || is_slow {
            ("100s", "2m")
        } else {
            ("20s", "1m")
        };
        let hostile = if *name == "good" { "" } else { more.hostile };
        let all = more.all;
        text += &configuration::container(
            name,
            &format!(
                "  ssh_authorized_keys = [\"ssh-ed25519 AAAA{round} operator\"]\n  dns_servers = [\"192.0.2.{round}\"]\n  \
                 root_password_wo = \"round{round}\"\n  root_password_wo_version = {round}\n  \
                 wait_for = {{ timeout = \"{ready}\" }}\n  timeouts = {{ create = \"4m\", update = \"{update}\", delete = \"1m\" }}\n{all}{hostile}"
            ),
        );
    }
    Ok(text)
}

/// Runs Terraform within the bound. Its errors, by the line that names what failed.
fn run(terraform: &Terraform, arguments: &[&str]) -> Result<(Output, Vec<String>)> {
    let begun = Instant::now();
    let output = terraform.run(arguments)?;
    let seconds = begun.elapsed().as_secs();
    eprintln!("terraform {arguments:?} took {seconds} s");
    ensure!(seconds < RUN_LIMIT, "it took {seconds} s");
    let text = output.stdout.clone() + &output.stderr;
    ensure!(
        !text.contains(['\x1b', '\x07']),
        "it steers the terminal: {text:?}"
    );
    ensure!(!text.contains("panicked"), "{text}");
    let errors = text.lines().filter_map(|line| line.split_once("Error: "));
    let errors: Vec<String> = errors.map(|(_, error)| error.to_owned()).collect();
    ensure!(
        output.success() || !errors.is_empty(),
        "it failed without an error:\n{text}"
    );
    Ok((output, errors))
}

/// "Changing the container etc-fifo"
fn names_container(error: &str, name: &str) -> bool {
    error
        .split([' ', '"', ':', ','])
        .any(|word| word.trim_end_matches('.') == name)
}

/// Runs a script as the guest's root, past its own D-Bus, as an intruder there would.
fn in_guest(lab: &Lab, name: &str, script: &str) -> Result<String> {
    let file = format!("/run/deed-{name}");
    fs::write(lab.folder().join("deed"), script)?;
    let text = fs::read_to_string(lab.folder().join("deed"))?.replace('\'', r"'\''");
    lab.vps1().root(&format!(
        "printf '%s\\n' '{text}' > {file}; nsenter -a -t $(machinectl show --value -p Leader {name}) \
         env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -eu < {file}; rm {file}"
    ))
}

/// Notes the most memory of each of the agent's processes until [`Watch::end`].
struct Watch<'a>(&'a Lab);

impl<'a> Watch<'a> {
    fn memory(lab: &'a Lab) -> Result<Self> {
        lab.vps1().root(
            "setsid sh -c 'while [ ! -e /run/watch-end ]; do \
             for p in $(pgrep nspawn-agent); do cat /proc/$p/status 2>/dev/null; done | grep VmHWM; sleep 0.05; done' \
             > /run/watch 2>/dev/null < /dev/null & echo $! > /run/watch-pid",
        )?;
        Ok(Self(lab))
    }

    fn end(self) -> Result<u64> {
        let text = self.0.vps1().root(
            "touch /run/watch-end; while kill -0 $(cat /run/watch-pid) 2>/dev/null; do sleep 0.05; done; \
             cat /run/watch; rm /run/watch /run/watch-pid /run/watch-end",
        )?;
        let most = text
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok());
        most.max().context("no process of the agent was seen")
    }
}

/// Changes all guests in one run; what is hostile may fail, by itself.
fn change(
    cases: &mut Cases,
    lab: &Lab,
    terraform: &Terraform,
    names: &[&str],
    (what, round, more): (&str, u32, More<'_>),
) -> Result<()> {
    terraform.configure(&guests(lab, names, round, more)?)?;
    let result = run(
        terraform,
        &["apply", "-auto-approve", "-input=false", "-parallelism=20"],
    );
    // Shown when a case fails that one of these errors explains.
    if let Ok((output, _)) = &result {
        eprintln!("{}", output.stderr);
    }
    let ended = || result.as_ref().map_err(|error| anyhow!("{error:#}"));
    for name in names {
        cases.case(
            format!("{name}: {what} ends in time, well or with an error of its own"),
            || {
                let (output, errors) = ended()?;
                let own = errors.iter().filter(|error| names_container(error, name));
                let own = own.count();
                eprintln!("{name}: {own} errors");
                ensure!(own <= 1, "{}", output.stderr);
                Ok(())
            },
        );
    }
    cases.case(
        format!("{what}: the guest that is well was changed"),
        || {
            let (output, errors) = ended()?;
            for error in errors {
                let hostile = names.iter().any(|name| names_container(error, name));
                ensure!(
                    hostile,
                    "an error that names no hostile guest: {error}\n{}",
                    output.stderr
                );
            }
            let keys = lab.vps1().guest("good", "cat /root/.ssh/authorized_keys")?;
            ensure!(keys.contains(&format!("AAAA{round} operator")), "{keys}");
            Ok(())
        },
    );
    Ok(())
}

/// A property of a guest's unit.
fn property(lab: &Lab, name: &str, property: &str) -> Result<String> {
    let unit = format!("systemd-nspawn@{name}.service");
    let shown = lab
        .vps1()
        .root(&format!("systemctl show --value -p {property} {unit}"))?;
    Ok(shown.trim().to_owned())
}

/// The run of each guest's unit. One that its own files keep from starting has a new one all the same, and no process.
fn runs(lab: &Lab, names: &[&str]) -> Result<Vec<String>> {
    let runs = names.iter().map(|name| property(lab, name, "InvocationID"));
    runs.collect()
}

fn each_has_restarted(cases: &mut Cases, lab: &Lab, names: &[&str], before: &[String]) {
    for (name, before) in names.iter().zip(before) {
        cases.case(format!("{name}: whatever it did, it was restarted"), || {
            wait_until("it has a new run", RESTARTED, || {
                let run = property(lab, name, "InvocationID")?;
                let state = property(lab, name, "SubState")?;
                ensure!(run != *before, "its run is {run} still, and {state}");
                Ok(())
            })
        });
    }
}

fn each_has_stopped(cases: &mut Cases, lab: &Lab, names: &[&str]) {
    for name in names {
        cases.case(format!("{name}: whatever it did, it was stopped"), || {
            wait_until("its unit is inactive", ENDED, || {
                let state = property(lab, name, "ActiveState")?;
                ensure!(state == "inactive", "it is {state}");
                Ok(())
            })
        });
    }
}

/// From here on, what clears up behind a guest takes its time, so that it is met there. The folder that makes it so.
fn slow_to_clear_up(lab: &Lab, name: &str) -> Result<String> {
    let unit = format!("systemd-nspawn@{name}.service");
    let folder = format!("/run/systemd/system/{unit}.d");
    lab.vps1().root(&format!(
        "mkdir -p {folder}; printf '[Service]\\nExecStopPost=/bin/sleep 7\\n' > {folder}/zz-slow.conf; \
         systemctl daemon-reload; systemctl reset-failed {unit}; systemctl start --no-block {unit}"
    ))?;
    Ok(folder)
}

fn is_told_while_it_clears_up(lab: &Lab, terraform: &Terraform, name: &str) -> Result<()> {
    let target = format!("-target=nspawn_container.{name}");
    let is_told = wait_until("a plan was made while it cleared up", ENDED, || {
        let state = || property(lab, name, "SubState");
        let (before, run) = (state()?, property(lab, name, "InvocationID")?);
        ensure!(before == "stop-post", "it is {before}");
        let plan = terraform.run(&["plan", "-input=false", &target])?;
        let (after, same) = (state()?, property(lab, name, "InvocationID")? == run);
        ensure!(after == "stop-post" && same, "it is {after}, no longer");
        let text = plan.stdout + &plan.stderr;
        Ok(text.contains("~ status"))
    })?;
    ensure!(is_told, "it is told as running");
    Ok(())
}

#[test]
fn a_hostile_guest_harms_itself_alone() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let vps = lab.vps1();
    let mut cases = Cases::of(Promise::IsNoWayIn)?;
    vps.root(&format!(
        "echo '{CANARY}' > /root/canary; chmod 600 /root/canary"
    ))?;
    let before = Snapshot::take(vps)?.without_shared();
    let deeds = deeds(Effort::of_this_run());
    let names: Vec<&str> = deeds.iter().map(|(name, _)| *name).collect();
    let terraform = lab.terraform(&guests(&lab, &names, 1, More::default())?)?;
    terraform.apply()?;
    modes::cases(&mut cases, &lab);

    let watch = Watch::memory(&lab)?;
    for (name, script) in &deeds {
        in_guest(&lab, name, script).with_context(|| format!("the deed of {name}"))?;
    }
    cases.case("a refresh with hostile guests ends well", || {
        let (output, errors) = run(&terraform, &["plan", "-input=false"])?;
        ensure!(output.success() && errors.is_empty(), "{}", output.stderr);
        Ok(())
    });
    cases.case("who looked into a frozen folder hangs there", || {
        in_guest(&lab, "bus-frozen", &format!("test -s {HANGING_LOOKS}")).map(drop)
    });
    let live = ("a live change", 2, More::default());
    change(&mut cases, &lab, &terraform, &names, live)?;
    let former_runs = runs(&lab, &names)?;
    let mut more = More {
        all: "  nspawn_config = { Exec = { Environment = [\"A=1\"] } }\n",
        ..More::default()
    };
    let restart = ("a restart", 3, more);
    change(&mut cases, &lab, &terraform, &names, restart)?;
    each_has_restarted(&mut cases, &lab, &names, &former_runs);
    let slow = slow_to_clear_up(&lab, "init-says-escapes")?;
    cases.case(
        "what fails is not told as running while its unit clears up",
        || is_told_while_it_clears_up(&lab, &terraform, "init-says-escapes"),
    );
    cases.case("a hostile init's words come without its escapes", || {
        let target = "-target=nspawn_container.init-says-escapes";
        let output = terraform.run(&["apply", "-auto-approve", "-input=false", target])?;
        let text = output.stdout + &output.stderr;
        ensure!(
            text.contains("a hostile init") && text.contains("\\u{1b}"),
            "{text}"
        );
        ensure!(!text.contains('\x1b'), "{text:?}");
        Ok(())
    });
    vps.root(&format!("rm -r {slow}; systemctl daemon-reload"))?;
    // What lies in /run is gone with the restart.
    for (name, script) in deeds.iter().filter(|(name, _)| name.starts_with("bus-")) {
        let script = format!("{BUS_IS_UP}\n{script}");
        in_guest(&lab, name, &script).with_context(|| format!("the deed of {name}, again"))?;
    }
    more.hostile = "  running = false\n";
    change(&mut cases, &lab, &terraform, &names, ("a stop", 4, more))?;
    each_has_stopped(&mut cases, &lab, &names);
    cases.case("all of them are destroyed", || {
        let destroy = [
            "destroy",
            "-auto-approve",
            "-input=false",
            "-parallelism=20",
        ];
        run(&terraform, &destroy)?.0.checked().map(drop)
    });
    let most = watch.end();
    cases.case("the agent's memory stayed within its bound", || {
        let most = most?;
        eprintln!("at most {most} kB");
        ensure!(most < MEMORY_LIMIT, "{most} kB");
        Ok(())
    });
    cases.case("the host is as it was, the canary included", || {
        before.comes_back(vps)?;
        ensure!(vps.root("cat /root/canary")?.trim() == CANARY);
        Ok(())
    });
    cases.finish()
}
