//! `nspawn_container`: each attribute on the running thing, and what a change of it does.

use std::time::Duration;

use acceptance_tests::{
    Hosts, Lab, command::wait_until, configuration, images::Guest, shared::Shared,
};
use anyhow::{Result, ensure};

fn base(lab: &Lab) -> Result<String> {
    Ok(configuration::host(lab.vps1(), "") + &configuration::image(Guest::Debian)?)
}

/// When the guest was started, by which a restart shows.
fn started(lab: &Lab) -> Result<String> {
    lab.vps1().root(
        "systemctl show --value -p ExecMainStartTimestampMonotonic systemd-nspawn@web.service",
    )
}

fn property(lab: &Lab, name: &str) -> Result<String> {
    let text = lab.vps1().root(&format!(
        "systemctl show --value -p {name} systemd-nspawn@web.service"
    ))?;
    Ok(text.trim().to_owned())
}

fn reconfigure(site: &Shared, more: &str) -> Result<String> {
    site.configure(&configuration::container("web", more))?;
    let plan = site.terraform.plan()?;
    site.terraform.apply()?;
    site.terraform.assert_plan_is_empty()?;
    Ok(plan)
}

#[test]
fn each_attribute_shows_on_the_running_guest() -> Result<()> {
    Shared::start(base)?.try_each(&[
        ("limits, keys and name servers change live", live_changes),
        (
            "a change that restarts the guest warns and names it",
            restarting_changes,
        ),
        (
            "a guest stops and starts by running and by the host's own commands",
            stops_and_starts,
        ),
        (
            "an ephemeral guest forgets and a lasting one remembers",
            ephemeral_or_lasting,
        ),
        (
            "a root password reaches the guest and nothing else",
            root_password,
        ),
        ("a protected container is not destroyed", protected),
        (
            "waiting says what it waited for and keeps what was made",
            waiting,
        ),
        ("many are made at once and all answer", many_at_once),
    ])
}

fn live_changes(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    site.configure(&configuration::container("web", ""))?;
    terraform.apply()?;
    let start = started(lab)?;
    let plan = reconfigure(
        site,
        "  cpus = 0.3\n  memory = \"512M\"\n  memory_swap = \"1G\"\n  tasks = 500\n  \
         ssh_authorized_keys = [\"ssh-ed25519 AAAA alice\"]\n  dns_servers = [\"192.0.2.53\", \"2001:db8::53\"]\n  \
         labels = { team = \"blue\" }",
    )?;
    ensure!(!plan.contains("Warning"), "a live change warns:\n{plan}");
    ensure!(started(lab)? == start, "a live change restarted the guest");
    ensure!(property(lab, "CPUQuotaPerSecUSec")?.starts_with("300ms"));
    ensure!(property(lab, "MemoryMax")? == (512 << 20).to_string());
    ensure!(property(lab, "MemorySwapMax")? == (1_u64 << 30).to_string());
    ensure!(property(lab, "TasksMax")? == "500");
    let keys = lab.vps1().guest(
        "web",
        "stat -c '%a %u' /root/.ssh /root/.ssh/authorized_keys; cat /root/.ssh/authorized_keys",
    )?;
    ensure!(
        keys.contains("700 0\n600 0\n") && keys.contains("ssh-ed25519 AAAA alice"),
        "{keys}"
    );
    let resolver = lab.vps1().guest("web", "cat /etc/resolv.conf")?;
    ensure!(
        resolver.contains("192.0.2.53") && resolver.contains("2001:db8::53"),
        "{resolver}"
    );

    reconfigure(site, "  memory = \"1G\"")?;
    ensure!(started(lab)? == start, "a live change restarted the guest");
    ensure!(property(lab, "MemoryMax")? == (1_u64 << 30).to_string());
    ensure!(
        property(lab, "TasksMax")? != "500",
        "a limit that was taken away is still there"
    );
    Ok(())
}

/// Where systemd is given another limit of starts.
const LIMIT: &str = "/etc/systemd/system/systemd-nspawn@web.service.d/zz-limit.conf";

fn restarting_changes(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    site.configure(&configuration::container("web", ""))?;
    terraform.apply()?;
    ensure!(lab.vps1().guest("web", "uname -n")?.trim() == "web");
    // What is asked for doesn't count for it.
    lab.vps1().root(&format!(
        "printf '[Unit]\nStartLimitBurst=2\n' > {LIMIT}; systemctl daemon-reload"
    ))?;
    for (more, script, wanted) in [
        (
            "  hostname = \"www.example.org\"",
            "uname -n",
            "www.example.org",
        ),
        (
            "  nspawn_config = { Exec = { Environment = [\"COLOUR=green\", \"SIZE=big\"] } }",
            "tr '\\0' '\\n' < /proc/1/environ | grep -c -e COLOUR=green -e SIZE=big",
            "2",
        ),
    ] {
        let start = started(lab)?;
        let plan = reconfigure(site, more)?;
        ensure!(
            plan.contains("Warning") && plan.contains("web"),
            "no warning:\n{plan}"
        );
        ensure!(started(lab)? != start, "the guest was not restarted");
        let said = lab.vps1().guest("web", script)?;
        ensure!(said.trim() == wanted, "{said:?} instead of {wanted:?}");
    }
    lab.vps1()
        .root(&format!("rm {LIMIT}; systemctl daemon-reload"))
        .map(drop)
}

fn stops_and_starts(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    let text =
        configuration::container("web", "") + &configuration::address("web4", "203.0.113.2", "web");
    site.configure(&text)?;
    terraform.apply()?;
    for script in [
        "machinectl poweroff web; until systemctl is-active systemd-nspawn@web | grep -qxE 'inactive|failed'; do :; done; systemctl start systemd-nspawn@web",
        "machinectl terminate web; until systemctl is-active systemd-nspawn@web | grep -qxE 'inactive|failed'; do :; done; machinectl start web",
        "systemctl restart systemd-nspawn@web",
        "former=$(systemctl show --value -p MainPID systemd-nspawn@web); machinectl reboot web; \
         until process=$(systemctl show --value -p MainPID systemd-nspawn@web); [ $process != 0 ] && [ $process != $former ] \
         && systemctl is-active -q systemd-nspawn@web; do :; done",
    ] {
        lab.vps1().root(script)?;
        lab.answers_as("203.0.113.2", "web")?;
    }
    // After SIGKILL of systemd-nspawn itself the next start has to work, too: systemd tries it at once.
    lab.vps1().root("process() { systemctl show --value -p MainPID systemd-nspawn@web; }; killed=$(process); kill -KILL $killed; \
         until [ \"$(process)\" != $killed ] && systemctl is-active -q systemd-nspawn@web; do :; done; \
         test \"$(systemctl show --value -p NRestarts systemd-nspawn@web)\" -le 2")?;
    lab.answers_as("203.0.113.2", "web")?;
    terraform.assert_plan_is_empty()?;

    // As in the middle of an update: the record is new already, and nobody else has written the file yet.
    let settings = lab.vps1().root(
        "agent=$(systemctl show --value -p MainPID nspawn-agent); kill -STOP $agent
         sed -i 's/\"hostname\": \"web\"/\"hostname\": \"www\"/' /etc/nspawn-agent/containers/web.json
         systemctl restart systemd-nspawn@web; cat /etc/systemd/nspawn/web.nspawn; kill -CONT $agent",
    )?;
    ensure!(settings.contains("Hostname=www"), "{settings}");
    lab.answers_as("203.0.113.2", "www")?;
    terraform.apply()?;
    lab.answers_as("203.0.113.2", "web")?;

    site.configure(&text.replace("name  = \"web\"", "name  = \"web\"\n  running = false"))?;
    terraform.apply()?;
    let state = terraform.resource("nspawn_container.web")?;
    ensure!(state["status"] == "stopped", "{state}");
    let mounts = lab
        .vps1()
        .root("findmnt -rn -o TARGET | grep -c /web || true")?;
    ensure!(
        mounts.trim() == "0",
        "mounts of a stopped container remain: {mounts}"
    );
    terraform.assert_plan_is_empty()?;
    site.configure(&text)?;
    terraform.apply()?;
    lab.answers_as("203.0.113.2", "web")?;
    Ok(())
}

fn ephemeral_or_lasting(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    for (more, remembers) in [
        ("", true),
        ("  ephemeral = true", false),
        ("  storage = \"copy\"", true),
        ("  private_users = false", true),
    ] {
        site.clear()?;
        site.configure(&configuration::container("web", more))?;
        terraform.apply()?;
        lab.vps1().guest("web", "echo me > /etc/mark")?;
        lab.vps1().root("systemctl restart systemd-nspawn@web")?;
        let mark = lab
            .vps1()
            .guest("web", "cat /etc/mark 2>/dev/null || true")?;
        ensure!((mark.trim() == "me") == remembers, "{more}: {mark:?}");
        let base = terraform.resource("nspawn_container.web")?["uid_base"]
            .as_u64()
            .unwrap_or_default();
        ensure!(
            (base == 0) == more.contains("private_users"),
            "{more}: uid_base is {base}"
        );
        let root = lab
            .vps1()
            .root("stat -c %u /proc/$(machinectl show --value -p Leader web)")?;
        ensure!(
            root.trim() == base.to_string(),
            "{more}: the guest's root is {root}"
        );
        terraform.assert_plan_is_empty()?;
    }
    Ok(())
}

fn root_password(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    let secret = "correct horse battery staple";
    let more = format!(
        "  root_password_wo = \"{secret}\"\n  root_password_wo_version = 1\n  ephemeral = true"
    );
    site.configure(&configuration::container("web", &more))?;
    let apply = ["apply", "-auto-approve", "-input=false"];
    let output = terraform.start_with(&apply, &[("TF_LOG", "trace")])?;
    let output = output.wait(Duration::from_mins(5))?;
    ensure!(output.success(), "{}", output.stderr);
    // Terraform itself logs the configuration's bytes at trace level; what counts are our lines.
    let ours: Vec<&str> = output
        .stderr
        .lines()
        .filter(|line| line.contains("provider.terraform-provider-nspawn"))
        .collect();
    ensure!(
        !ours.is_empty() && !ours.iter().any(|line| line.contains(secret)),
        "the password is in the log"
    );
    ensure!(
        !terraform.state()?.to_string().contains(secret),
        "the password is in the state"
    );
    let check =
        "line=$(grep ^root: /etc/shadow); echo \"$line\" | grep -q '^root:\\$[56y]\\$' && echo set";
    for _ in 0..2 {
        ensure!(lab.vps1().guest("web", check)?.trim() == "set");
        let found = lab.vps1().root(&format!("grep -rlF '{secret}' /etc /var/lib/nspawn-agent /run --exclude-dir=nspawn 2>/dev/null || true"))?;
        ensure!(found.is_empty(), "the password is written in {found}");
        lab.vps1().root("systemctl restart systemd-nspawn@web")?;
    }
    terraform.assert_plan_is_empty()?;
    // What a change leaves that was killed before its record: that of before is in force, and the next change clears up.
    let kept = "cd /etc/nspawn-agent/secrets; printf '$6$never' > web.2; systemctl restart systemd-nspawn@web; cat web.1";
    let hash = lab.vps1().root(kept)?;
    let line = lab.vps1().guest("web", "grep ^root: /etc/shadow")?;
    ensure!(line.contains(hash.trim()), "{line} hasn't {hash}");
    let changed = more.replace("_version = 1", "_version = 3");
    site.configure(&configuration::container("web", &changed))?;
    terraform.apply()?;
    let kept = lab.vps1().root("ls /etc/nspawn-agent/secrets")?;
    ensure!(kept == "web.3\n", "{kept}");
    Ok(())
}

fn protected(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    site.configure(&configuration::container(
        "web",
        "  delete_protection = true",
    ))?;
    terraform.apply()?;
    for command in [
        &["destroy", "-auto-approve", "-input=false"][..],
        &["plan", "-input=false", "-replace=nspawn_container.web"],
    ] {
        let refused = terraform.run(command)?;
        ensure!(
            !refused.success() && refused.stderr.contains("delete_protection"),
            "{command:?}: {}",
            refused.stderr
        );
    }
    ensure!(lab.vps1().guest("web", "echo alive")?.trim() == "alive");
    reconfigure(site, "").map(drop)
}

fn waiting(site: &Shared) -> Result<()> {
    let terraform = &site.terraform;
    let waits =
        |port: u16, time: &str| format!("  wait_for = {{ port = {port}, timeout = \"{time}\" }}");
    site.configure(&configuration::container("web", &waits(9999, "4s")))?;
    let failed = terraform.apply_fails()?;
    ensure!(failed.contains("9999") && failed.contains("4s"), "{failed}");
    // Tainted, not lost: the next apply replaces it.
    ensure!(
        terraform.resource("nspawn_container.web").is_ok(),
        "the container is not in the state"
    );
    site.configure(&configuration::container("web", &waits(7777, "60s")))?;
    terraform.apply()?;
    terraform.assert_plan_is_empty()
}

fn many_at_once(site: &Shared) -> Result<()> {
    let (lab, terraform) = (&site.lab, &site.terraform);
    let mut text = String::new();
    for number in 1..=24 {
        let name = format!("guest{number}");
        text += &configuration::container(&name, "  wait_for = { boot = false }");
        text += &configuration::address(&name, &format!("203.0.113.{}", 100 + number), &name);
    }
    site.configure(&text)?;
    let apply = ["apply", "-auto-approve", "-input=false", "-parallelism=48"];
    terraform.run(&apply)?.checked()?;
    for number in 1..=24 {
        lab.answers_as(
            &format!("203.0.113.{}", 100 + number),
            &format!("guest{number}"),
        )?;
    }
    terraform.assert_plan_is_empty()
}

#[test]
fn autostart_decides_what_a_reboot_brings_back() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(
        &(base(&lab)?
            + &configuration::container("web", "")
            + &configuration::container("manual", "  autostart = false")),
    )?;
    terraform.apply()?;
    lab.vps1().reboot()?;
    wait_until("web runs", Duration::from_mins(1), || {
        lab.vps1().guest("web", "true")
    })?;
    let manual = lab
        .vps1()
        .root("systemctl is-active systemd-nspawn@manual || true")?;
    ensure!(manual.trim() == "inactive", "manual is {manual}");
    // It should run, says the configuration: the plan says so and the apply starts it.
    let plan = terraform.plan()?;
    ensure!(plan.contains("manual"), "{plan}");
    terraform.apply()?;
    ensure!(lab.vps1().guest("manual", "echo alive")?.trim() == "alive");
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}
