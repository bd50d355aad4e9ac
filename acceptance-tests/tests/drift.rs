//! A refresh sees drift in every part and names it; the next apply mends exactly that.

use acceptance_tests::{Hosts, Lab, configuration, images::Guest};
use anyhow::{Context, Result, ensure};

/// What somebody does to the host while our service can't put it back at once, and the word by which the plan names it.
const MEDDLING: [(&str, &str); 16] = [
    ("ip route del 203.0.113.2/32", "route"),
    ("ip -6 route del 2001:db8:1::2/128", "route"),
    ("ip neigh del proxy 203.0.113.2 dev eth0", "proxy"),
    ("sysctl -qw net.ipv4.ip_forward=0", "ip_forward"),
    ("ip link set br0 down", "br0"),
    ("nft flush ruleset", "nftables table"),
    (
        "echo '# meddled' >> /etc/systemd/nspawn/web.nspawn",
        "web.nspawn",
    ),
    (
        "echo '# meddled' >> /etc/systemd/system/systemd-nspawn@web.service.d/nspawn-agent.conf",
        "nspawn-agent.conf",
    ),
    // As a torn write leaves it: nobody's.
    (": > /etc/systemd/nspawn/web.nspawn", "web.nspawn"),
    (
        "rm -rf /var/lib/nspawn-agent/images/trees/*",
        "the files that the container web stands on were removed",
    ),
    ("systemctl stop systemd-nspawn@web.service", "status"),
    (
        "ip link del vb-web",
        "the interface vb-web of the container web",
    ),
    (
        "nsenter -n -t $(machinectl show --value -p Leader web) sh -c \
         'ip link set host0 down; ip link set host0 name eth7; ip link set eth7 up'",
        "host0 is gone inside the container web",
    ),
    (
        "nsenter -n -t $(machinectl show --value -p Leader web) ip link set host0 address 02:00:00:00:00:07",
        "host0 is gone inside the container web",
    ),
    (
        "printf x > /dev/shm/x; mv -T /dev/shm/x $(readlink -e /usr/local/lib/nspawn-agent/nspawn-agent)",
        // The provider puts it back before it can be told.
        "nspawn-agent.service",
    ),
    (
        "chmod 777 /etc/nspawn-agent",
        "others than root may write to /etc/nspawn-agent",
    ),
];

#[test]
fn drift_is_named_and_mended() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let terraform = lab.terraform(
        &(configuration::host(lab.vps1(), "")
            + &configuration::image(Guest::Debian)?
            + &configuration::container("web", "")
            + &configuration::address("web4", "203.0.113.2", "web")
            + &configuration::address("web6", "2001:db8:1::2", "web")),
    )?;
    terraform.apply()?;
    for (meddle, word) in MEDDLING {
        lab.vps1().root("systemctl stop nspawn-agent.service")?;
        lab.vps1().root(meddle)?;
        let plan = terraform.plan().context(meddle)?;
        ensure!(
            !plan.contains("No changes") && plan.contains(word),
            "{meddle}: {word:?} is not in\n{plan}"
        );
        ensure!(
            !plan.contains("to add, ") || plan.contains("0 to add"),
            "{meddle}: something would be made anew\n{plan}"
        );
        terraform.apply().context(meddle)?;
        terraform.assert_plan_is_empty().context(meddle)?;
        for address in ["203.0.113.2", "2001:db8:1::2"] {
            lab.ping(address).context(meddle)?;
            lab.answers_as(address, "web").context(meddle)?;
        }
    }
    terraform.destroy()?;
    Ok(())
}
