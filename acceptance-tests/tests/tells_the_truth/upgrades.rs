//! An upgrade of the provider while containers run disturbs none of them; an older provider gets a clear answer.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use acceptance_tests::{
    Terraform,
    configuration::{address, container},
    pings,
    promise::{Cases, Promise},
    provider,
};
use anyhow::{Context, Result, ensure};

use crate::{HOST, Site, says, state_holds};

const FOLDER: &str = "/usr/local/lib/nspawn-agent";
/// An echo on port 7070 inside a guest.
const ECHO: &str = "\
    printf '[Socket]\\nListenStream=7070\\nAccept=yes\\n' > /run/systemd/system/echo.socket
    printf '[Service]\\nExecStart=/bin/cat\\nStandardInput=socket\\nStandardOutput=socket\\n' > /run/systemd/system/echo@.service
    systemctl daemon-reload
    systemctl start echo.socket";

#[test]
fn an_upgrade_disturbs_nobody_and_an_older_provider_is_refused() -> Result<()> {
    let site = Site::start()?;
    let (this, later) = (provider::under_test()?, provider::of_a_later_release()?);
    let terraform = site.terraform(&everything(&site, "")?)?;
    terraform.apply()?;
    site.vps1().guest("web", ECHO)?;
    let release = terraform.resource(HOST)?["agent_version"].clone();
    let release = release.as_str().context("no agent_version")?;
    let mut cases = Cases::of(Promise::TellsTheTruth)?;
    cases.case(
        "upgrade: another build of the same release takes over",
        || other_build(&site, &terraform),
    );
    cases.case(
        "upgrade: another build takes over while a change waits",
        || two_builds(&site, &terraform),
    );
    cases.case(
        "upgrade: a later provider changes nothing before the host is upgraded",
        || not_before_the_host(&site, &later, release),
    );
    let upgraded = cases.case("upgrade: with running guests", || {
        terraform.use_provider(&later)?;
        upgrade(&site, &terraform, release)
    });
    if upgraded {
        cases.case("upgrade: an older provider gets a clear answer", || {
            refused(&site, &terraform, &this, release)
        });
        cases.case("upgrade: back on purpose", || {
            back(&site, &terraform, &this, release)
        });
    }
    cases.case("upgrade: all of it destroyed", || {
        site.ends_clean(&terraform)
    });
    cases.finish()
}

fn everything(site: &Site, more: &str) -> Result<String> {
    site.with_image(
        &(container("web", "")
            + &container("db", more)
            + &address("web4", "203.0.113.2", "web")
            + &address("web6", "2001:db8:1::2", "web")),
    )
}

/// What runs, and must go on.
fn runs(site: &Site) -> Result<[String; 3]> {
    let service =
        site.root("systemctl show -P MainPID -P ExecMainStartTimestampMonotonic nspawn-agent")?;
    Ok([service, site.run_of("web")?, site.run_of("db")?])
}

fn in_force(site: &Site) -> Result<String> {
    site.root(&format!("readlink {FOLDER}/nspawn-agent"))
}

/// Fails unless the resident is the agent in force, alone in its folder.
fn resident_is_in_force(site: &Site) -> Result<()> {
    let told = site.root(&format!(
        "readlink /proc/$(systemctl show -P MainPID nspawn-agent)/exe; readlink -f {FOLDER}/nspawn-agent; ls {FOLDER} | wc -l"
    ))?;
    let told: Vec<&str> = told.lines().collect();
    ensure!(told[0] == told[1] && told[2] == "2", "{told:?}");
    Ok(())
}

/// As a developer's build puts itself in force: a file with other contents, and the same release.
fn puts_another_build_in_force(site: &Site) -> Result<()> {
    site.root(&format!(
        "cd {FOLDER}
        cp nspawn-agent-* .other && echo >> .other
        name=nspawn-agent-$(sha256sum .other | cut -d' ' -f1)
        mv .other $name && ln -sfn $name nspawn-agent
        find . -name 'nspawn-agent-*' ! -name $name -delete
        systemctl reload nspawn-agent"
    ))?;
    site.wait_for(&format!(
        "[ $(readlink /proc/$(systemctl show -P MainPID nspawn-agent)/exe) = $(readlink -f {FOLDER}/nspawn-agent) ]"
    ))
}

fn other_build(site: &Site, terraform: &Terraform) -> Result<()> {
    let before = runs(site)?;
    let ours = in_force(site)?;
    puts_another_build_in_force(site)?;
    let plan = terraform.plan()?;
    says(
        &plan,
        &[
            "not this provider's build",
            "nspawn_host.vps1 will be updated in-place",
            "0 to add, 1 to change, 0 to destroy",
        ],
    )?;
    terraform.apply()?;
    ensure!(in_force(site)? == ours, "the other build is still in force");
    resident_is_in_force(site)?;
    terraform.assert_plan_is_empty()?;
    ensure!(runs(site)? == before, "something was restarted");
    Ok(())
}

/// Both are connected, and each puts itself in force: the one that comes last has lost its file by then.
fn two_builds(site: &Site, terraform: &Terraform) -> Result<()> {
    let (before, ours) = (runs(site)?, in_force(site)?);
    terraform.configure(&everything(site, "  cpus = 2")?)?;
    ensure!(
        terraform.run(&["plan", "-out=planned"])?.success(),
        "no plan"
    );
    site.root(
        "systemd-run -q --collect --unit=holds-the-lock flock /run/nspawn-agent/lock sleep infinity",
    )?;
    site.wait_for("! flock -n /run/nspawn-agent/lock true")?;
    let apply = terraform.start(&["apply", "planned"])?;
    let swapped = site
        .wait_for("[ -n \"$(ls /run/nspawn-agent/sessions)\" ]")
        .and_then(|()| puts_another_build_in_force(site));
    site.root("systemctl stop holds-the-lock")?;
    let output = apply.wait(Duration::from_mins(2))?;
    swapped?;
    ensure!(output.success(), "{}", output.stderr);
    ensure!(in_force(site)? == ours, "the other build is still in force");
    resident_is_in_force(site)?;
    ensure!(runs(site)? == before, "something was restarted");
    terraform.configure(&everything(site, "")?)?;
    terraform.apply()?;
    terraform.assert_plan_is_empty()
}

/// Another state on the same host, which has no nspawn_host of its own.
fn not_before_the_host(site: &Site, later: &Path, release: &str) -> Result<()> {
    let tenant = |more: &str| {
        container("tenant", more)
            .replace("nspawn_host.vps1", "{ address = \"203.0.113.1\" }")
            .replace("nspawn_image.debian.name", "\"debian\"")
    };
    let terraform = site.terraform(&tenant(""))?;
    terraform.apply()?;
    terraform.use_provider(later)?;
    terraform.assert_plan_is_empty()?;
    terraform.configure(&tenant("  cpus = 1"))?;
    let printed = terraform.apply_fails()?;
    says(
        &printed,
        &[
            &format!("managed by nspawn-agent {release}"),
            "Apply the nspawn_host",
            "nspawn_container.tenant",
        ],
    )?;
    ensure!(
        !site
            .root("cat /etc/systemd/system/systemd-nspawn@tenant.service.d/*")?
            .contains("CPUQuota")
    );
    // What is to go may go.
    terraform.destroy().map(drop)
}

/// A conversation through a guest, and pings of it, that must not be interrupted.
fn undisturbed(site: &Site, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let over = AtomicBool::new(false);
    let session = site.client().connect(
        "203.0.113.2:7070".parse::<SocketAddr>()?,
        Duration::from_secs(30),
    )?;
    let mut ping = site.client().command("ping");
    // As many as fit into the longest apply; the report comes with the signal.
    ping.args(["-n", "-i", "0.05", "203.0.113.2"]);
    let ping = acceptance_tests::command::Process::spawn(&mut ping)?;
    let changed = thread::scope(|scope| {
        let talk = scope.spawn(|| converse(session, &over));
        let changed = change();
        over.store(true, Ordering::Relaxed);
        let lines = talk
            .join()
            .map_err(|_| anyhow::anyhow!("the conversation panicked"))??;
        ensure!(lines > 0, "nothing was said meanwhile");
        changed
    });
    ping.signal(rustix::process::Signal::INT)?;
    let report = ping.wait(Duration::from_secs(30))?.stdout;
    changed?;
    pings::answers(&report).map(drop)
}

fn converse(session: TcpStream, over: &AtomicBool) -> Result<usize> {
    session.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (mut to, mut from) = (session.try_clone()?, BufReader::new(session));
    let mut lines = 0;
    while !over.load(Ordering::Relaxed) {
        writeln!(to, "{lines}")?;
        let mut echo = String::new();
        from.read_line(&mut echo)
            .context("the session through the guest broke")?;
        ensure!(echo.trim() == lines.to_string(), "{echo:?} is not {lines}");
        lines += 1;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(lines)
}

fn upgrade(site: &Site, terraform: &Terraform, release: &str) -> Result<()> {
    let (before, older) = (runs(site)?, in_force(site)?);
    // The later agent may write a file differently: here, the earlier one did.
    site.root("echo '# of an earlier release' >> /etc/systemd/nspawn/web.nspawn")?;
    terraform.configure(&everything(site, "  cpus = 1")?)?;
    let plan = terraform.plan()?;
    says(
        &plan,
        &[
            &format!("agent_version = \"{release}\" ->"),
            "0 to add, 2 to change, 0 to destroy",
        ],
    )?;
    ensure!(!plan.contains("web.nspawn"), "{plan}");
    undisturbed(site, || terraform.apply().map(drop))?;
    ensure!(
        in_force(site)? != older,
        "the earlier agent is still in force"
    );
    resident_is_in_force(site)?;
    ensure!(runs(site)? == before, "something was restarted");
    ensure!(
        !site
            .root("cat /etc/systemd/nspawn/web.nspawn")?
            .contains("earlier")
    );
    ensure!(
        site.root("systemctl show -P CPUQuotaPerSecUSec systemd-nspawn@db")?
            .trim()
            == "1s"
    );
    let now = terraform.resource(HOST)?["agent_version"].clone();
    ensure!(
        site.root("cat /etc/nspawn-agent/release")?.trim() == now && now != release,
        "{now}"
    );
    terraform.assert_plan_is_empty()?;
    // The units' own calls are the new agent's, too.
    site.root("systemctl restart systemd-nspawn@db.service")?;
    terraform.assert_plan_is_empty()
}

fn refused(site: &Site, terraform: &Terraform, older: &Path, release: &str) -> Result<()> {
    let (before, state) = (runs(site)?, terraform.resources_and_taints()?);
    let files = || {
        site.root(&format!(
            "ls {FOLDER} /etc/nspawn-agent; cat /etc/nspawn-agent/release"
        ))
    };
    let left = files()?;
    let later = terraform.resource(HOST)?["agent_version"].clone();
    let later = later.as_str().unwrap_or_default();
    terraform.use_provider(older)?;
    for arguments in [
        &["plan"][..],
        &["apply", "-auto-approve"],
        &["destroy", "-auto-approve"],
        &["destroy", "-auto-approve", "-refresh=false"],
    ] {
        let output = terraform.run(arguments)?;
        ensure!(
            !output.success(),
            "{arguments:?} succeeded:\n{}",
            output.stdout
        );
        let words = [
            &format!(
                "root@203.0.113.1:22: greeting the agent: this host is managed by nspawn-agent {later}"
            )[..],
            &format!("brings the older {release}"),
            &format!("version = \">= {later}\""),
            "/etc/nspawn-agent/release",
        ];
        says(&output.stderr, &words)?;
        ensure!(
            terraform.resources_and_taints()? == state,
            "the state has changed"
        );
    }
    // A new state is refused alike.
    let other = site.terraform(&site.host(""))?;
    says(
        &other.apply_fails()?,
        &[
            "Creating host 203.0.113.1",
            "this host is managed by nspawn-agent",
        ],
    )?;
    state_holds(&other, &[])?;
    ensure!(
        files()? == left,
        "the older provider has changed {}",
        files()?
    );
    ensure!(runs(site)? == before, "something was restarted");
    Ok(())
}

/// As the error and the guide say.
fn back(site: &Site, terraform: &Terraform, older: &Path, release: &str) -> Result<()> {
    let before = runs(site)?;
    terraform.use_provider(older)?;
    site.root("rm /etc/nspawn-agent/release")?;
    says(
        &terraform.plan()?,
        &[
            "not this provider's build",
            "0 to add, 1 to change, 0 to destroy",
        ],
    )?;
    undisturbed(site, || terraform.apply().map(drop))?;
    resident_is_in_force(site)?;
    ensure!(runs(site)? == before, "something was restarted");
    ensure!(site.root("cat /etc/nspawn-agent/release")?.trim() == release);
    terraform.assert_plan_is_empty()
}
