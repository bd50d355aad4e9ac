//! The lab keeps its own promises: what the other tests build on.

#[path = "lab/leftovers.rs"]
mod leftovers;
#[path = "lab/operator.rs"]
mod operator;

use std::{fs, time::Duration};

use acceptance_tests::{
    Flavour, Hosts, Lab, Snapshot, User, command::wait_until, images::Guest, servers::ECHO_PORT,
};
use anyhow::{Result, ensure};

#[test]
fn a_debian_13_host_is_a_server_in_a_cloud() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    lab.assert_ping("203.0.113.1");
    lab.assert_ping("2001:db8:1::1");
    let vps = lab.vps1();
    assert_eq!(vps.ssh("id -un; hostname")?.checked()?, "root\nvps1\n");
    assert!(
        vps.root("cat /etc/os-release")?
            .contains("VERSION_ID=\"13\"")
    );
    // Every address of the block is asked for on the server's own link.
    assert!(
        lab.client()
            .ping("203.0.113.9".parse()?, Duration::from_millis(500))
            .is_err()
    );
    vps.root("ip addr add 203.0.113.9/32 dev lo; ip addr add 2001:db8:1::9/128 dev lo")?;
    vps.root(
        "sysctl -qw net.ipv6.conf.eth0.proxy_ndp=1 net.ipv6.conf.all.forwarding=1; ip neigh add proxy 2001:db8:1::9 dev eth0",
    )?;
    lab.assert_ping("203.0.113.9");
    lab.assert_ping("2001:db8:1::9");
    let told = vps.root(&format!(
        "bash -c 'cat < /dev/tcp/198.51.100.2/{ECHO_PORT}'"
    ))?;
    assert_eq!(told, "203.0.113.1\n");
    Ok(())
}

#[test]
fn a_debian_12_host_lets_a_user_in_who_may_use_sudo() -> Result<()> {
    let lab = Lab::start(
        Hosts::one()
            .flavour(Flavour::Bookworm)
            .uplink("enp1s0")
            .user(User::Admin),
    )?;
    lab.assert_ping("203.0.113.1");
    lab.assert_ping("2001:db8:1::1");
    let vps = lab.vps1();
    assert_eq!(
        vps.ssh("id -un; sudo -n id -un; cat /etc/debian_version")?
            .checked()?
            .lines()
            .count(),
        3
    );
    assert!(
        vps.root("cat /etc/os-release")?
            .contains("VERSION_ID=\"12\"")
    );
    assert!(
        vps.root("ip -br addr show dev enp1s0")?
            .contains("203.0.113.1/32")
    );
    Ok(())
}

#[test]
fn sudo_may_ask_for_a_password() -> Result<()> {
    let lab = Lab::start(Hosts::one().user(User::AdminWithPassword))?;
    let output = lab.vps1().ssh("sudo -n true")?;
    assert!(
        output.stderr.contains("a password is required"),
        "{output:?}"
    );
    assert_eq!(
        lab.vps1()
            .ssh("echo admin | sudo -S -p '' id -un")?
            .checked()?,
        "root\n"
    );
    Ok(())
}

#[test]
fn two_hosts_reach_each_other() -> Result<()> {
    let lab = Lab::start(Hosts::two())?;
    for address in ["203.0.113.1", "192.0.2.1", "2001:db8:1::1", "2001:db8:2::1"] {
        lab.assert_ping(address);
        for vps in lab.servers() {
            let what = format!("{} reaches {address}", vps.name());
            wait_until(&what, Duration::from_secs(30), || {
                vps.root(&format!("ping -c1 -W2 {address}"))
            })?;
        }
    }
    Ok(())
}

#[test]
fn a_reboot_and_a_power_cut_leave_the_disk_and_nothing_else() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let vps = lab.vps1();
    let boot_id = || vps.root("cat /proc/sys/kernel/random/boot_id");
    let before = boot_id()?;
    vps.root(
        "touch /root/kept; ip link add br9 type bridge; sysctl -qw net.ipv4.ip_forward=1; sync -f /",
    )?;
    vps.reboot()?;
    let after = boot_id()?;
    assert_ne!(before, after);
    vps.root("test -e /root/kept; ! ip link show br9; test $(sysctl -n net.ipv4.ip_forward) = 0")?;
    vps.power_off_hard()?;
    assert!(
        lab.client()
            .ping("203.0.113.1".parse()?, Duration::from_millis(500))
            .is_err()
    );
    vps.power_on()?;
    vps.wait_until_up()?;
    assert_ne!(after, boot_id()?);
    vps.power_off()?;
    vps.power_on()?;
    vps.wait_until_up()
}

#[test]
fn a_power_cut_drops_what_was_not_brought_to_the_disk() -> Result<()> {
    let lab = Lab::start(Hosts::one().own_disks())?;
    let vps = lab.vps1();
    vps.root("echo kept > /root/kept; sync -f /; echo lost > /root/lost; rm /root/kept; echo new > /root/kept")?;
    vps.cut_power()?;
    vps.power_on()?;
    vps.wait_until_up()?;
    vps.root("test \"$(cat /root/kept)\" = kept; ! test -e /root/lost")?;
    let disk = lab.folder().join("vps1.disk").display().to_string();
    drop(lab);
    let left = fs::read_to_string("/proc/self/mounts")?.contains(disk.trim_end_matches(".disk"));
    ensure!(!left, "the disk is still mounted");
    Ok(())
}

#[test]
fn a_snapshot_equals_itself_and_sees_changes() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let vps = lab.vps1();
    // As systemd names the unit of a path.
    vps.root(r"printf one > '/etc/with\x2dbackslash'")?;
    // The machine-wide sysctls are shared with the labs of other tests.
    let before = Snapshot::take(vps)?.without_shared();
    for section in before.names() {
        if !["bridge", "machines", "nftables", "neighbours"].contains(&section) {
            assert!(
                before.section(section).count() >= 2,
                "section {section} is empty"
            );
        }
    }
    // Logins, and services that come and go, change nothing.
    vps.ssh("hostnamectl; true")?.checked()?;
    let same = before.differences(&Snapshot::take(vps)?.without_shared());
    assert!(same.is_empty(), "{same}");
    vps.root(
        "ip link add br9 type bridge; ip route add 203.0.113.77/32 dev lo; sysctl -qw net.ipv4.ip_forward=1
         ip neigh add proxy 203.0.113.77 dev eth0; nft add table inet mine; mkdir /var/lib/machines/x
         echo x > /etc/x; printf two > '/etc/with\\x2dbackslash'; mount -t tmpfs tmpfs /mnt
         printf '[Service]\\nExecStart=sleep inf\\n' > /etc/systemd/system/x.service
         systemctl daemon-reload; systemctl start x",
    )?;
    let differences = before.differences(&Snapshot::take(vps)?).to_string();
    for expected in [
        "+ links: br9",
        "+ routes: 203.0.113.77 dev lo",
        "- sysctl-network: net.ipv4.ip_forward = 0",
        "+ neighbours: 203.0.113.77 dev eth0 proxy",
        "+ nftables: table inet mine",
        "+ machines: /var/lib/machines/x drwx",
        "+ files-etc: /etc/x -rw",
        r"+ files-etc: /etc/with\x2dbackslash -rw",
        "+ mounts: /mnt tmpfs",
        "+ unit-files: x.service",
        "+ units: x.service loaded active running",
    ] {
        assert!(
            differences.contains(expected),
            "{expected} is missing in\n{differences}"
        );
    }
    Ok(())
}

/// How long apt or debootstrap may take on a busy machine.
const INSTALLED: Duration = Duration::from_mins(10);

#[test]
fn a_bare_host_installs_from_the_labs_mirror() -> Result<()> {
    let lab = Lab::start(Hosts::one().flavour(Flavour::Bare))?;
    let vps = lab.vps1();
    vps.root("! command -v systemd-nspawn; ! command -v debootstrap; ! command -v nft")?;
    vps.root_within(
        "apt-get update && apt-get install -y systemd-container debootstrap nftables",
        INSTALLED,
    )?;
    vps.root("command -v systemd-nspawn; command -v debootstrap; command -v nft")?;
    let mirror = lab.mirror_url();
    vps.root_within(
        &format!("debootstrap --variant=minbase trixie /var/lib/machines/x {mirror}"),
        INSTALLED,
    )?;
    fs::write(lab.files().join("hello"), "hello\n")?;
    assert_eq!(
        vps.root(&format!("wget -qO- {}", lab.file_url("hello")))?,
        "hello\n"
    );
    assert!(
        vps.root(&format!("wget -qO- {}", lab.file_url("../id_ed25519")))
            .is_err()
    );
    Ok(())
}

#[test]
fn the_guests_images_boot() -> Result<()> {
    let lab = Lab::start(Hosts::one())?;
    let vps = lab.vps1();
    for (name, image) in [
        ("a", Guest::Debian),
        ("b", Guest::WithoutNetworkd),
        ("c", Guest::Etcd),
    ] {
        let tarball = image.tarball()?;
        let sum = format!(
            "echo '{}  {}' | sha256sum -c",
            tarball.sha256,
            tarball.path.display()
        );
        lab.run(&sum)?.checked()?;
        let to = vps.root_folder().join("root/image.tar.zst");
        fs::copy(&tarball.path, to)?;
        vps.root(&format!(
            "mkdir -p /var/lib/machines/{name} && tar -C /var/lib/machines/{name} -xf /root/image.tar.zst
             systemctl start systemd-nspawn@{name}"
        ))?;
        let answer = wait_until("the guest answers", Duration::from_mins(1), || {
            vps.guest(
                name,
                "systemctl is-system-running --wait && bash -c 'cat < /dev/tcp/127.0.0.1/7777'",
            )
        })?;
        assert_eq!(answer, format!("running\n{name} 127.0.0.1\n"));
    }
    vps.guest("a", "systemctl is-active systemd-networkd")?;
    vps.guest("b", "! systemctl cat systemd-networkd")?;
    vps.guest("c", "etcd --version && etcdctl version")?;
    Ok(())
}
