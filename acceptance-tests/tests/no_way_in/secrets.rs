//! Secrets: where they may be, and everywhere else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use acceptance_tests::{
    Hosts, Lab, Terraform, configuration,
    images::Guest,
    promise::{Cases, Promise},
};
use anyhow::{Context, Result, ensure};

use super::needles::{Needles, ProcessWatch};

const PASSWORD: &str = "pass-c4n4ry-of-the-guests-root";
const PASSPHRASE: &str = "phrase-c4n4ry-of-the-private-key";
/// In a line of `customize`, which stands in the state, but in nobody's arguments.
const CUSTOMIZED: &str = "custom-c4n4ry-of-the-image";

/// A configuration whose secrets come from outside, so that Terraform itself keeps none in its files.
fn secretive(lab: &Lab, more: &str) -> Result<String> {
    // It lasts for some looks.
    let customize = format!("\n  customize = [\"sleep 1; : {CUSTOMIZED}\"]\n}}\n");
    let image = configuration::image(Guest::Debian)?.replace("\n}\n", &customize);
    ensure!(image.contains(CUSTOMIZED), "{image}");
    Ok(format!(
        "variable \"key\" {{\n  type = string\n  ephemeral = true\n  sensitive = true\n}}\n\
         variable \"passphrase\" {{\n  type = string\n  ephemeral = true\n  sensitive = true\n}}\n\
         variable \"password\" {{\n  type = string\n  ephemeral = true\n  sensitive = true\n}}\n\
         provider \"nspawn\" {{\n  private_key = var.key\n  passphrase = var.passphrase\n  known_hosts_file = \"{}\"\n}}\n{}{}{}",
        lab.known_hosts().display(),
        configuration::host(lab.vps1(), ""),
        image,
        configuration::container(
            "web",
            &format!("  root_password_wo = var.password\n  root_password_wo_version = 1\n{more}")
        )
    ))
}

fn make_key(lab: &Lab, name: &str) -> Result<PathBuf> {
    let path = lab.folder().join(name);
    let made = lab.run(&format!(
        "ssh-keygen -q -t ed25519 -N {PASSPHRASE} -C {name} -f {}",
        path.display()
    ))?;
    made.checked()?;
    Ok(path)
}

/// The secrets of a run that are known before it.
fn needles(keys: &[&Path]) -> Result<Needles> {
    let mut needles = Needles::default();
    needles.add_text("the root password", PASSWORD);
    needles.add_text("the passphrase", PASSPHRASE);
    for key in keys {
        let text = fs::read_to_string(key)?;
        // The first line of the body is the same in every key of this kind.
        let body = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('-') && line.len() > 20);
        for line in body {
            needles.add("a line of a private key", line);
        }
    }
    Ok(needles)
}

/// What each run has printed and logged.
struct Runs {
    terraform: Terraform,
    outputs: Vec<(String, String)>,
}

impl Runs {
    fn run(&mut self, what: &str, arguments: &[&str], succeeds: bool) -> Result<()> {
        let output = self.terraform.run(arguments)?;
        let plain = output
            .stderr
            .lines()
            .filter(|line| !line.contains("[TRACE]"));
        let plain: Vec<&str> = plain.collect();
        ensure!(output.success() == succeeds, "{what}: {}", plain.join("\n"));
        self.outputs
            .push((what.to_owned(), output.stdout + &output.stderr));
        Ok(())
    }

    fn with_key(&mut self, key: &str, passphrase: &str) {
        self.terraform.set_environment("TF_VAR_key", key);
        self.terraform
            .set_environment("TF_VAR_passphrase", passphrase);
    }

    /// Runs that fail in every way in which a secret is at hand.
    fn fail(&mut self, lab: &Lab, right: &str, wrong: &str) -> Result<()> {
        let apply = ["apply", "-input=false", "-auto-approve"];
        let slow = "  wait_for = { port = 9, timeout = \"3s\" }";
        let changed = secretive(lab, slow)?.replace("wo_version = 1", "wo_version = 2");
        self.terraform.configure(&changed)?;
        self.run("an update that fails", &apply, false)?;
        let other = secretive(lab, "")?
            .replace("container\" \"web\"", "container\" \"other\"")
            .replace("nspawn_image.debian.name\n", "\"never\"\n");
        self.terraform.configure(&other)?;
        self.run("a create that fails", &apply, false)?;
        self.terraform.configure(&secretive(lab, "")?)?;
        self.with_key(wrong, PASSPHRASE);
        self.run("a key that is refused", &["plan", "-input=false"], false)?;
        self.with_key(right, &format!("not-{PASSPHRASE}"));
        self.run("a wrong passphrase", &["plan", "-input=false"], false)?;
        self.with_key(&right.replace("BEGIN", "BEGUN"), PASSPHRASE);
        self.run("a key that is none", &["plan", "-input=false"], false)?;
        self.with_key(right, PASSPHRASE);
        self.misplace(lab, right)
    }

    /// Runs with the key where something else is wanted.
    fn misplace(&mut self, lab: &Lab, key: &str) -> Result<()> {
        let arguments = ["plan", "-input=false"];
        let plain = secretive(lab, "")?;
        let pinned = format!(
            "  host_key = file(\"{}\")\n  address = ",
            lab.folder().join("right").display()
        );
        for (what, wanted, misplaced) in [
            ("a key as a host's key", "  address = ", pinned.as_str()),
            (
                "a key as its path",
                "  private_key = ",
                "  private_key_file = ",
            ),
        ] {
            ensure!(plain.contains(wanted), "{plain}");
            self.terraform
                .configure(&plain.replacen(wanted, misplaced, 1))?;
            self.run(what, &arguments, false)?;
        }
        self.terraform.configure(&plain)?;
        let variable = "NSPAWN_SSH_PRIVATE_KEY_FILE";
        self.terraform.set_environment(variable, key);
        self.run("a key as its path in the environment", &arguments, false)?;
        self.terraform.set_environment(variable, "");
        Ok(())
    }
}

#[test]
fn secrets_stay_secret() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let vps = lab.vps1();
    let mut cases = Cases::of(Promise::IsNoWayIn)?;
    let (right, wrong) = (make_key(&lab, "right")?, make_key(&lab, "wrong")?);
    let public = fs::read_to_string(right.with_extension("pub"))?;
    vps.root(&format!(
        "echo '{}' >> /root/.ssh/authorized_keys",
        public.trim()
    ))?;
    let mut needles = needles(&[&right, &wrong])?;
    let mut in_arguments = needles.clone();
    in_arguments.add("a line of customize", CUSTOMIZED);
    let watch = ProcessWatch::start(&lab, &in_arguments)?;
    let (right, wrong) = (fs::read_to_string(right)?, fs::read_to_string(wrong)?);

    let mut terraform = lab.terraform_without_provider_block(&secretive(&lab, "")?)?;
    terraform.set_environment("TF_LOG", "trace");
    terraform.set_environment("TF_VAR_password", PASSWORD);
    let mut runs = Runs {
        terraform,
        outputs: Vec::new(),
    };
    runs.with_key(&right, PASSPHRASE);
    runs.run("a plan", &["plan", "-input=false", "-out=plan.bin"], true)?;
    runs.run(
        "an apply",
        &["apply", "-input=false", "-auto-approve"],
        true,
    )?;
    let hash = vps.root("cat /etc/nspawn-agent/secrets/web.1")?;
    ensure!(hash.starts_with("$6$"), "{hash}");
    needles.add_text("the hash of the root password", hash.trim());
    runs.fail(&lab, &right, &wrong)?;

    // Before the searches below, whose own arguments are seen, too.
    cases.case(
        "no secret in any process's arguments, nor in an environment on the host",
        || watch.end(),
    );
    let logs = |(_, text): &&(String, String)| text.contains("provider.terraform-provider-nspawn");
    let logged = runs.outputs.iter().filter(logs).count();
    ensure!(logged > 0, "the provider has logged nothing");
    for (what, text) in &runs.outputs {
        cases.case(
            format!("no secret in what is printed and logged at level trace: {what}"),
            || needles.assert_not_in("the log", text),
        );
    }
    cases.case(
        "no secret in the state, its backup and the plan's file",
        || not_in_files(&lab, runs.terraform.folder(), &needles),
    );
    cases.case("no secret in the host's journal", || {
        let journal = vps.root("journalctl --no-pager --output=export | tr -d '\\000'")?;
        ensure!(journal.contains("nspawn-agent"), "the journal is read");
        needles.assert_not_in("the journal", &journal)
    });
    cases.case(
        "on the host, only the hash of the password, for root alone",
        || only_the_hash_is_kept(&lab),
    );
    let destroy = ["destroy", "-input=false", "-auto-approve"];
    runs.run("a destroy", &destroy, true)?;
    cases.case(
        "no secret in what is printed and logged at level trace: a destroy",
        || {
            let (_, text) = runs.outputs.last().context("the destroy has run")?;
            needles.assert_not_in("the log", text)
        },
    );
    cases.case("after the destroy, not even the hash", || {
        let left = vps.root("ls -A /etc/nspawn-agent 2>/dev/null || true")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    });
    cases.finish()
}

fn not_in_files(lab: &Lab, folder: &Path, needles: &Needles) -> Result<()> {
    let mut states = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            states += usize::from(path.extension().is_some_and(|end| end == "tfstate"));
            needles.assert_not_in(&path.display().to_string(), &text)?;
        }
    }
    ensure!(states == 1, "there is a state");
    // A plan's file is packed; perl has what unpacks it.
    let unpack = "use IO::Uncompress::Unzip; my $u = IO::Uncompress::Unzip->new(\"plan.bin\"); \
         do { while ($u->read(my $b) > 0) { $b =~ tr/\\0-\\x08\\x80-\\xff//d; print $b } } while $u->nextStream > 0";
    let plan = lab.run(&format!("cd {}; perl -e '{unpack}'", folder.display()))?;
    let plan = plan.checked()?;
    ensure!(plan.contains("nspawn_container"), "the plan is read");
    needles.assert_not_in("the plan's file", &plan)
}

fn only_the_hash_is_kept(lab: &Lab) -> Result<()> {
    let vps = lab.vps1();
    let files_with = |needles: &str| {
        vps.root(&format!(
            "printf '%s\\n' '{needles}' > /root/needle; \
             grep -rlFf /root/needle /etc /run /usr/local /var/lib/nspawn-agent /var/log /tmp /var/tmp \
             --exclude-dir=systemd 2>/dev/null || true; rm /root/needle"
        ))
    };
    let found = files_with(&format!("{PASSWORD}\n{PASSPHRASE}"))?;
    ensure!(found.is_empty(), "{found}");
    let hash = vps.root("cat /etc/nspawn-agent/secrets/web.2")?;
    let found = files_with(hash.trim())?;
    let expected = [
        "/etc/nspawn-agent/secrets/web.2",
        "/var/lib/nspawn-agent/containers/web/upper/etc/shadow",
    ];
    ensure!(
        found.lines().all(|line| expected.contains(&line)),
        "{found}"
    );
    ensure!(found.contains(expected[0]), "{found}");
    ensure!(vps.root("stat -c '%a %u' /etc/nspawn-agent/secrets/web.2")? == "600 0\n");
    Ok(())
}
