//! What has to go goes, whatever a guest or an administrator has made of the disk; what is others' stays.

use acceptance_tests::{
    Hosts, Terraform,
    configuration::{address, container},
    promise::{Cases, Promise},
};
use anyhow::{Result, ensure};

use crate::{Site, says};

/// Takes every block, those that are kept for the host's root included: an overlay's files are written in its name.
/// Without braces, which systemd-run(1) would fill.
const FILL: &str = "\
    number=0; size=1024
    while [ $size -gt 0 ]; do
        number=$((number + 1))
        fallocate -l \"$size\"M /room$number 2> /dev/null || size=$((size / 2))
    done
    ! head -c 4M /dev/zero > /last 2> /dev/null";

#[test]
fn what_has_to_go_goes() -> Result<()> {
    let site = Site::with(Hosts::one().own_disks())?;
    let terraform = site.terraform(&site.with_image("")?)?;
    let mut cases = Cases::of(Promise::TellsTheTruth)?;
    cases.case("removal: of a guest that has filled the disk", || {
        filled_disk(&site, &terraform)
    });
    cases.case("removal: one that can't be ended", || {
        hindered(&site, &terraform)
    });
    cases.case("removal: an administrator's files stay", || {
        files_of_others(&site, &terraform)
    });
    cases.case("removal: what held before holds afterwards", || {
        forwarding(&site, &terraform)
    });
    cases.finish()
}

/// It is stopped, and destroyed, though no file can be made any more.
fn filled_disk(site: &Site, terraform: &Terraform) -> Result<()> {
    terraform.configure(&site.with_image(&container("web", ""))?)?;
    terraform.apply()?;
    site.vps1().guest("web", FILL)?;
    site.root("! echo more 2> /dev/null > /root/more")?;
    terraform.configure(&site.with_image(&container("web", "  running = false"))?)?;
    terraform.apply()?;
    let state = site.root("systemctl show -P ActiveState systemd-nspawn@web")?;
    ensure!(state == "inactive\n", "{state}");
    terraform.configure(&site.with_image("")?)?;
    terraform.apply()?;
    site.root("echo more > /root/more; rm /root/more; ! ls -d /var/lib/nspawn-agent/containers/*")?;
    terraform.assert_plan_is_empty()
}

/// It is told, keeps nothing else from being healed, and ends by itself when nothing hinders it any more.
fn hindered(site: &Site, terraform: &Terraform) -> Result<()> {
    let folder = "/var/lib/nspawn-agent/containers/web";
    let db = container("db", "") + &address("db4", "203.0.113.3", "db");
    terraform.configure(&site.with_image(&(db.clone() + &container("web", "")))?)?;
    terraform.apply()?;
    site.root(&format!("mount --bind {folder} {folder}"))?;
    terraform.configure(&site.with_image(&db)?)?;
    let words = ["web is being removed", folder, "busy"];
    says(&terraform.apply_fails()?, &words)?;
    site.root("ip neigh del proxy 203.0.113.3 dev eth0")?;
    site.wait_for("ip neigh show proxy | grep -qF 203.0.113.3")?;
    site.answers_as("203.0.113.3", "db")?;
    // What comes back under that name is told why it can't, and the host's own drift says it, too.
    let both = site.with_image(&(db.clone() + &container("web", "")))?;
    terraform.configure(&both)?;
    says(&terraform.apply_fails()?, &words)?;
    site.wait_for("grep -qF 'web is being removed' /run/nspawn-agent/given-up.json")?;
    site.root(&format!("umount {folder}"))?;
    site.wait_for(&format!(
        "! ls -d {folder} /etc/nspawn-agent/removals/web.json"
    ))?;
    terraform.apply()?;
    terraform.assert_plan_is_empty()
}

fn files_of_others(site: &Site, terraform: &Terraform) -> Result<()> {
    let file = "/etc/systemd/nspawn/web.nspawn";
    terraform.configure(&site.with_image(&container("web", ""))?)?;
    terraform.apply()?;
    // What systemd holds is brought up to date, whoever has left it behind.
    let drop_in = "/etc/systemd/system/systemd-nspawn@web.service.d";
    let is_outdated = "systemctl show -P NeedDaemonReload systemd-nspawn@web";
    site.root(&format!("touch -d '+1 hour' {drop_in}/*"))?;
    ensure!(site.root(is_outdated)? == "yes\n");
    terraform.configure(&site.with_image(&container("web", "  labels = { a = \"b\" }"))?)?;
    terraform.apply()?;
    ensure!(site.root(is_outdated)? == "no\n");

    site.root(&format!("printf '[Exec]\\nBoot=yes\\n' > {file}"))?;
    terraform.configure(&site.with_image("")?)?;
    terraform.apply()?;
    site.root(&format!(
        "grep -q Boot {file}; rm {file}; rmdir /etc/systemd/nspawn"
    ))?;
    site.ends_clean(terraform)
}

/// Somebody turns forwarding off that was on before the host was made.
fn forwarding(site: &Site, terraform: &Terraform) -> Result<()> {
    let is_on = "[ \"$(cat /proc/sys/net/ipv4/ip_forward)\" = 1 ]";
    site.root("sysctl -qw net.ipv4.ip_forward=1")?;
    terraform.configure(&site.host(""))?;
    terraform.apply()?;
    site.root("sysctl -qw net.ipv4.ip_forward=0")?;
    site.wait_for(is_on)?;
    terraform.destroy()?;
    site.root(is_on)?;
    site.root("sysctl -qw net.ipv4.ip_forward=0")?;
    site.is_as_before()
}
