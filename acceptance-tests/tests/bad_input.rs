//! Bad input: each gets an error that names the attribute and says what to do, at plan time where it can be known.

use std::time::Duration;

use acceptance_tests::{
    Hosts, Lab, Snapshot, User, command::wait_until, configuration, images::Guest,
};
use anyhow::{Result, ensure};

fn assert_says(output: &str, words: &[&str]) -> Result<()> {
    // Terraform folds long lines and frames them.
    let flat = output
        .replace(['│', '\n'], " ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    for word in words {
        ensure!(flat.contains(word), "{word:?} is missing in:\n{output}");
    }
    ensure!(
        !flat.contains("panicked") && !flat.contains("stack backtrace"),
        "a backtrace:\n{output}"
    );
    Ok(())
}

#[test]
fn what_can_be_known_from_the_text_fails_in_the_plan() -> Result<()> {
    let lab = Lab::prepare(Hosts::one())?;
    let host = configuration::host(lab.vps1(), "");
    let image = configuration::image(Guest::Debian)?;
    let container = |more: &str| configuration::container("web", more);
    let terraform = lab.terraform("")?;
    let cases: [(String, &[&str]); 19] = [
        (configuration::address("a", "203.0.113", "web"), &["address", "\"203.0.113\" is not an address"]),
        (configuration::address("a", "203.0.113.2/24", "web"), &["address", "203.0.113.0/24"]),
        (configuration::address("a", "127.0.0.1", "web"), &["address", "loopback"]),
        (configuration::address("a", "2001:db8:1:5::/80", "web"), &["proxy", "prefix"]),
        (
            configuration::address("a", "203.0.113.2", "web") + &configuration::address("b", "203.0.113.2/32", "web"),
            &["address", "203.0.113.2", "twice"],
        ),
        (configuration::address("a", "203.0.113.1", "web"), &["address", "203.0.113.1", "host's own"]),
        ((image.clone() + &configuration::container("-web", "")).replace("\"nspawn_container\" \"-web\"", "\"nspawn_container\" \"web\""), &["name", "-web"]),
        (image.clone() + &container("  memory = \"12 potatoes\""), &["memory", "12 potatoes", "512M"]),
        (image.clone() + &container("  storage = \"zfs\""), &["storage", "overlay", "copy"]),
        (image.clone() + &container("  wait_for = { timeout = \"soon\" }"), &["timeout", "soon"]),
        (image.clone() + &container("  wait_for = { port = 70000 }"), &["port", "70000"]),
        (image.clone() + &container("  dns_servers = [\"one.one.one.one\"]"), &["dns_servers", "one.one.one.one"]),
        (image.clone() + &container("  nspawn_config = { Exec = { PrivateUsers = [\"no\"] } }"), &["nspawn_config", "PrivateUsers", "private_users"]),
        (image.clone() + &container("  root_password_wo = \"x\""), &["root_password_wo_version"]),
        ("resource \"nspawn_image\" \"i\" {\n host = nspawn_host.vps1\n name = \"i\"\n}\n".to_owned(), &["debootstrap", "tarball"]),
        (
            "resource \"nspawn_image\" \"i\" {\n host = nspawn_host.vps1\n name = \"i\"\n tarball = { path = \"/nowhere.tar\", sha256 = \"00\" }\n}\n".to_owned(),
            &["sha256", "64"],
        ),
        (
            format!("resource \"nspawn_image\" \"i\" {{\n host = nspawn_host.vps1\n name = \"i\"\n tarball = {{ path = \"/nowhere.tar\", sha256 = \"{}\" }}\n}}\n", "0".repeat(64)),
            &["path", "/nowhere.tar"],
        ),
        // Known in the plan only.
        (
            format!("variable \"place\" {{\n default = \"https://debian.example/a.tar\"\n}}\nresource \"nspawn_image\" \"i\" {{\n host = nspawn_host.vps1\n name = \"i\"\n tarball = {{ url = var.place, path = var.place, sha256 = \"{}\" }}\n}}\n", "0".repeat(64)),
            &["tarball.url", "tarball.path", "exactly one"],
        ),
        (
            {
                let tarball = Guest::Debian.tarball()?;
                configuration::image(Guest::Debian)?.replace(&tarball.sha256, &"0".repeat(64))
            },
            &["sha256", "0000000000000000", &Guest::Debian.tarball()?.sha256[..16]],
        ),
    ];
    for (text, words) in cases {
        terraform.configure(&(host.clone() + &text))?;
        assert_says(&terraform.plan_fails()?, words)?;
    }

    // In validation, all of a variable is unknown.
    let one_of_two = image.replace(
        "tarball = {",
        "debootstrap = var.build ? { suite = \"trixie\" } : null\n  tarball = var.build ? null : {",
    );
    let build = "variable \"build\" {\n default = false\n}\n";
    terraform.configure(&(host + build + &one_of_two))?;
    terraform.plan()?;
    Ok(())
}

#[test]
fn what_only_the_host_knows_fails_with_the_attribute_and_a_way_out() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    // The machine-wide sysctls are shared with the labs of other tests.
    let before = Snapshot::take(lab.vps1())?.without_shared();
    let host = configuration::host(lab.vps1(), "");
    let image = configuration::image(Guest::Debian)?;
    let base = host.clone() + &image;

    // A bridge that somebody else made.
    lab.vps1().root("ip link add br0 type bridge")?;
    let terraform = lab.terraform(&host)?;
    assert_says(&terraform.apply_fails()?, &["bridge", "br0"])?;
    ensure!(
        lab.vps1().root("ip link show br0")?.contains("br0"),
        "somebody's bridge is gone"
    );
    lab.vps1().root("ip link del br0")?;

    // A container that somebody else made.
    lab.vps1().root("mkdir -p /var/lib/machines/theirs")?;
    terraform.configure(&(base.clone() + &configuration::container("theirs", "")))?;
    assert_says(&terraform.apply_fails()?, &["theirs", "name"])?;
    lab.vps1()
        .root("test -d /var/lib/machines/theirs && rmdir /var/lib/machines/theirs")?;

    // The host is set up now: these fail in the plan already.
    for (text, words) in [
        (
            configuration::address("a", "198.51.100.2", "web"),
            &["address", "198.51.100.2"][..],
        ),
        (
            configuration::address_with("a", "198.51.100.0/24", "web", "  proxy = false"),
            &["address", "198.51.100.2"],
        ),
        (
            configuration::address("a", "172.31.1.1", "web"),
            &["address", "gateway"],
        ),
        (
            configuration::address("a", "2001:db8:1::1", "web"),
            &["address", "own"],
        ),
        (
            configuration::container("web", "").replace("nspawn_image.debian.name", "\"debain\""),
            &["image", "debain"],
        ),
    ] {
        terraform.configure(&(base.clone() + text.as_str()))?;
        assert_says(&terraform.plan_fails()?, words)?;
    }
    terraform.configure(&base)?;
    terraform.destroy()?;
    before.comes_back(lab.vps1())
}

#[test]
fn a_full_disk_leaves_nothing_half_made() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(&configuration::host(lab.vps1(), ""))?;
    terraform.apply()?;
    // The resident service removes that folder while it is empty.
    wait_until("the small disk is mounted", Duration::from_secs(30), || {
        lab.vps1().root(
            "mkdir -p /var/lib/nspawn-agent && mount -t tmpfs -o size=60M tmpfs /var/lib/nspawn-agent",
        )
    })?;
    terraform.configure(
        &(configuration::host(lab.vps1(), "") + &configuration::image(Guest::Debian)?),
    )?;
    assert_says(&terraform.apply_fails()?, &["debian", "disk is full"])?;
    let left = lab
        .vps1()
        .root("find /var/lib/nspawn-agent -type f | head -n 5")?;
    ensure!(left.is_empty(), "half-made things remain:\n{left}");
    // Lazily: the resident service may be looking at it.
    lab.vps1().root("umount --lazy /var/lib/nspawn-agent")?;
    terraform.apply()?;
    terraform.destroy()?;
    Ok(())
}

#[test]
fn who_cannot_get_in_is_told_why() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let provider = |more: &str| format!("provider \"nspawn\" {{\n{more}\n}}\n");
    let key = format!("  private_key_file = \"{}\"\n", lab.private_key().display());
    let known = format!("  known_hosts_file = \"{}\"\n", lab.known_hosts().display());
    let host = configuration::host(lab.vps1(), "");
    let terraform = lab.terraform_without_provider_block("")?;
    let fails = |configuration: String| -> Result<String> {
        terraform.configure(&configuration)?;
        terraform.apply_fails()
    };

    // A wrong host key shows both fingerprints.
    lab.run(&format!(
        "ssh-keygen -q -t ed25519 -N '' -f {}/other",
        lab.folder().display()
    ))?
    .checked()?;
    let other = std::fs::read_to_string(lab.folder().join("other.pub"))?;
    let fingerprint = |file: &str| -> Result<String> {
        let line = lab.run(&format!("ssh-keygen -lf {file}"))?.checked()?;
        Ok(line
            .split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned())
    };
    let expected = fingerprint(&lab.folder().join("other.pub").display().to_string())?;
    let real = fingerprint(
        &lab.vps1()
            .root_folder()
            .join("etc/ssh/ssh_host_ed25519_key.pub")
            .display()
            .to_string(),
    )?;
    let pinned = configuration::host(lab.vps1(), &format!("  host_key = \"{}\"", other.trim()));
    assert_says(
        &fails(provider(&key) + &pinned)?,
        &["host_key", &expected, &real],
    )?;

    // An unknown one tells what to write.
    let empty = "  known_hosts_file = \"/dev/null\"\n";
    assert_says(
        &fails(provider(&(key.clone() + empty)) + &host)?,
        &["add this line to /dev/null", &real, "host_key"],
    )?;

    // A key that is refused lists what was tried.
    let wrong = format!(
        "  private_key_file = \"{}/other\"\n",
        lab.folder().display()
    );
    assert_says(
        &fails(provider(&(wrong + &known)) + &host)?,
        &["203.0.113.1", "other", "publickey"],
    )?;

    // Nobody is there.
    let absent = host.replace("203.0.113.1", "203.0.113.99") + "\n";
    let absent = absent.replace("address =", "timeouts = { create = \"3s\" }\n  address =");
    assert_says(
        &fails(provider(&(key.clone() + &known)) + &absent)?,
        &["203.0.113.99"],
    )?;

    // A host that can't be reached is an error at refresh, and never empties the state.
    terraform.configure(&(provider(&(key + &known)) + &host))?;
    terraform.apply()?;
    lab.vps1().power_off()?;
    let mut short = terraform;
    short.set_environment("NSPAWN_SSH_CONNECT_TIMEOUT", "2s");
    assert_says(&short.plan_fails()?, &["203.0.113.1", "-refresh=false"])?;
    ensure!(
        short.resource("nspawn_host.vps1")?["address"] == "203.0.113.1",
        "the state was emptied"
    );
    Ok(())
}

#[test]
fn sudo_that_asks_for_a_password_is_explained() -> Result<()> {
    let lab = Lab::start(Hosts::one().user(User::AdminWithPassword))?;
    let terraform = lab.terraform(&configuration::host(lab.vps1(), ""))?;
    assert_says(&terraform.apply_fails()?, &["admin", "sudo", "NOPASSWD"])
}
