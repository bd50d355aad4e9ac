//! Every example of the documentation works, as it stands.

use std::{fs, path::PathBuf, time::Duration};

use acceptance_tests::{
    Hosts, Lab, Terraform, command::wait_until, images::Guest, namespace::Namespace,
};
use anyhow::{Context, Result, ensure};

fn example(path: &str) -> Result<String> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(path);
    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

/// A working directory with an example in it, and the keys where an example expects them: in the environment.
fn prepare(lab: &Lab, text: &str, guest: Guest, image: &str) -> Result<Terraform> {
    let mut terraform = lab.terraform_without_provider_block(text)?;
    if text.contains("required_providers") {
        fs::remove_file(terraform.folder().join("versions.tf"))?;
    }
    fs::copy(guest.tarball()?.path, terraform.folder().join(image))?;
    terraform.set_environment(
        "NSPAWN_SSH_PRIVATE_KEY",
        &fs::read_to_string(lab.private_key())?,
    );
    terraform.set_environment(
        "NSPAWN_SSH_KNOWN_HOSTS_FILE",
        &lab.known_hosts().display().to_string(),
    );
    Ok(terraform)
}

#[test]
fn the_examples_of_the_documentation() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    for path in [
        "provider/provider.tf",
        "resources/nspawn_host/resource.tf",
        "resources/nspawn_image/resource.tf",
        "resources/nspawn_container/resource.tf",
        "resources/nspawn_public_address/resource.tf",
    ] {
        let terraform = prepare(&lab, &example(path)?, Guest::Debian, "debian-13.tar.zst")?;
        terraform.apply().context(path)?;
        terraform.assert_plan_is_empty().context(path)?;
        terraform.destroy().context(path)?;
    }
    Ok(())
}

#[test]
fn the_quickstart() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = prepare(
        &lab,
        &example("quickstart/main.tf")?,
        Guest::Debian,
        "debian-13.tar.zst",
    )?;
    terraform.apply()?;
    for (address, name) in [
        ("203.0.113.2", "alpha"),
        ("2001:db8:1::2", "alpha"),
        ("203.0.113.3", "beta"),
        ("2001:db8:1::3", "beta"),
    ] {
        lab.answers_as(address, name)?;
    }
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}

#[test]
fn three_guests_on_two_hosts_form_an_etcd_cluster() -> Result<()> {
    let lab = Lab::start(Hosts::two())?;
    let terraform = prepare(
        &lab,
        &example("cluster/main.tf")?,
        Guest::Etcd,
        "debian-13-etcd.tar.zst",
    )?;
    terraform.apply()?;
    let etcdctl = "ETCDCTL_API=3 etcdctl --endpoints=http://203.0.113.11:2379,http://203.0.113.12:2379,http://192.0.2.11:2379";
    wait_until(
        "all three members are healthy",
        Duration::from_mins(1),
        || {
            lab.vps1()
                .guest("etcd-1", &format!("{etcdctl} endpoint health"))
        },
    )?;
    // On a busy machine they may be about to choose another leader.
    wait_until("a value is put", Duration::from_mins(1), || {
        lab.vps1()
            .guest("etcd-1", &format!("{etcdctl} put colour green"))
    })?;
    wait_until("the third member has it", Duration::from_mins(1), || {
        let read = lab.vps2().guest(
            "etcd-3",
            "ETCDCTL_API=3 etcdctl --endpoints=http://127.0.0.1:2379 get colour --print-value-only",
        )?;
        ensure!(read.trim() == "green", "the third member says {read:?}");
        Ok(())
    })?;
    terraform.assert_plan_is_empty()?;
    terraform.destroy()?;
    Ok(())
}

/// The account is stood in for (src/bin/account.rs): its "server" is one of the lab's. All else is the example as it stands.
#[test]
fn hetzner_without_an_account() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let text = example("hetzner/main.tf")?;
    let mirrored = text.replace(
        "suite   = ",
        &format!("mirror  = \"{}\"\n    suite   = ", lab.mirror_url()),
    );
    ensure!(mirrored != text, "the example has no debootstrap any more");
    let mut terraform = prepare(&lab, &mirrored, Guest::Debian, "unused")?;
    let account = lab.folder().join("account");
    fs::create_dir(&account)?;
    for name in ["hcloud", "tls"] {
        fs::copy(
            env!("CARGO_BIN_EXE_account"),
            account.join(format!("terraform-provider-{name}")),
        )?;
    }
    let overrides = format!(
        "dev_overrides {{\n \"hetznercloud/hcloud\" = \"{folder}\"\n \"hashicorp/tls\" = \"{folder}\"",
        folder = account.display()
    );
    let settings = fs::read_to_string(terraform.folder().join("terraform.rc"))?;
    terraform.write(
        "terraform.rc",
        &settings.replace("dev_overrides {", &overrides),
    )?;
    let network = "2001:db8:1:40::/64";
    for (name, value) in [
        ("ACCOUNT_SERVER", "203.0.113.1"),
        ("ACCOUNT_HOST_KEY", &lab.vps1().host_key()?),
        ("ACCOUNT_IPV4", "203.0.113.40"),
        ("ACCOUNT_IPV6_NETWORK", network),
        // The host's key comes from the graph alone.
        ("NSPAWN_SSH_KNOWN_HOSTS_FILE", "/dev/null"),
        (
            "TF_VAR_ssh_public_key",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEJ1dCB0aGlzIGlzIG5vdCBhIGtleSBhdCBhbGwu me",
        ),
    ] {
        terraform.set_environment(name, value);
    }
    // The cloud routes a floating IPv6 network to the server.
    Namespace::named(&format!("lab-{}-router", lab.id()))
        .ip(&format!("-6 route add {network} via 2001:db8:1::1"))?;

    terraform.plan()?;
    terraform.apply()?;
    for address in ["203.0.113.40", "2001:db8:1:40::1"] {
        lab.ping(address)?;
    }
    terraform.assert_plan_is_empty()?;
    terraform.set_environment("TF_VAR_live", "green");
    terraform.apply()?;
    let attached = lab.vps1().guest("green", "ip -o addr show dev host0")?;
    ensure!(
        attached.contains("203.0.113.40") && attached.contains("2001:db8:1:40::1"),
        "{attached}"
    );
    lab.ping("203.0.113.40")?;
    // Host, image, containers and addresses go and come with the server; the floating addresses move to it.
    let replaced = terraform.run(&["plan", "-input=false", "-replace=hcloud_server.server"])?;
    ensure!(
        replaced
            .checked()?
            .contains("7 to add, 2 to change, 7 to destroy"),
        "not all that is on the server is replaced with it"
    );
    terraform.destroy()?;
    Ok(())
}
