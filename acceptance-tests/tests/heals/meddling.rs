//! What is done to a host behind the agent's back.

/// Something that is done to the host.
#[derive(Clone, Copy)]
pub struct Meddling {
    /// What it is.
    pub name: &'static str,
    /// How it is done. `$UPLINK` is the uplink's name.
    pub script: &'static str,
    /// A word by which the agent's journal names what it mended; none where nothing goes missing.
    pub told: Option<&'static str>,
    /// Words of the lines of `foreign` that go along with it: the kernel takes those of others as it takes ours.
    pub takes_foreign: &'static [&'static str],
    /// Whether a guest or the agent has to be started again, which takes its time.
    pub restarts: bool,
}

pub const fn of(name: &'static str, script: &'static str, told: &'static str) -> Meddling {
    Meddling {
        name,
        script,
        told: Some(told),
        takes_foreign: &[],
        restarts: false,
    }
}

const fn harmless(name: &'static str, script: &'static str) -> Meddling {
    Meddling {
        told: None,
        ..of(name, script, "")
    }
}

const fn taking_foreign(takes: &'static [&'static str], meddling: Meddling) -> Meddling {
    Meddling {
        takes_foreign: takes,
        ..meddling
    }
}

/// A proxy on the uplink.
const PROXY: &[&str] = &["198.18.0.9 "];
/// Routes over the bridge.
const ROUTES: &[&str] = &["198.18.2.0/24 ", "2001:db8:98::/64 "];
/// All lines of nftables.
const TABLES: &[&str] = &["table ", "\t", "}"];
const ALL: &[&str] = &[
    PROXY[0], ROUTES[0], ROUTES[1], TABLES[0], TABLES[1], TABLES[2],
];

const fn restarting(meddling: Meddling) -> Meddling {
    Meddling {
        restarts: true,
        ..meddling
    }
}

/// What the promise names.
pub const NAMED: &[Meddling] = &[
    taking_foreign(
        PROXY,
        of(
            "the uplink goes down and up",
            "ip link set $UPLINK down; ip link set $UPLINK up",
            "neighbour proxy for 2001:db8:1::2",
        ),
    ),
    // Debian 12's networkd sets the uplink down for a moment, and all proxies are gone.
    taking_foreign(
        PROXY,
        of(
            "networkctl reconfigure of the uplink",
            "networkctl reconfigure $UPLINK",
            "proxy_ndp",
        ),
    ),
    taking_foreign(
        PROXY,
        harmless(
            "systemctl restart systemd-networkd",
            "systemctl restart systemd-networkd",
        ),
    ),
    taking_foreign(
        ROUTES,
        of(
            "ip route flush dev br0",
            "ip route flush dev br0; ip -6 route flush dev br0",
            "the route to 203.0.113.2/32",
        ),
    ),
    taking_foreign(
        ROUTES,
        of(
            "the bridge is deleted",
            "ip link del br0",
            "the bridge br0 is missing",
        ),
    ),
    taking_foreign(
        TABLES,
        of("nft flush ruleset", "nft flush ruleset", "nftables table"),
    ),
    of(
        "sysctl -w net.ipv4.ip_forward=0",
        "sysctl -qw net.ipv4.ip_forward=0",
        "ip_forward",
    ),
    restarting(of(
        "a guest is restarted by hand",
        "systemctl restart systemd-nspawn@web.service",
        "vb-web",
    )),
    harmless(
        "systemd-machined is restarted",
        "systemctl restart systemd-machined",
    ),
    harmless(
        "systemd-machined is stopped and started",
        "systemctl stop systemd-machined; systemctl start systemd-machined",
    ),
    // The load and the listing by which the agent knows its own table later are two steps. Three tries of it stay
    // below the mends after which the agent takes its time.
    of(
        "a rule is added as soon as the table is loaded, four times",
        "for number in 1 2 3; do \
         until nft insert rule bridge nspawn_agent prerouting accept comment '\"evil\"'; do :; done; \
         while nft list chain bridge nspawn_agent prerouting | grep -q evil; do :; done; done; \
         nft insert rule bridge nspawn_agent prerouting accept comment '\"evil\"'",
        "the nftables table nspawn_agent",
    ),
    of(
        "a guest's forwarding entry is moved to another port",
        "bridge fdb replace $(bridge fdb show dev vb-web | awk '/static/ && !done { print $1; done = 1 }') dev vb-db master static",
        "forwarding entry",
    ),
    of(
        "a guest's fixed neighbour entry is replaced",
        "ip neigh replace 203.0.113.2 lladdr 02:00:00:00:00:77 dev br0 nud permanent",
        "neighbour entry of 203.0.113.2",
    ),
    of(
        "a guest's fixed neighbour entry is deleted",
        "ip neigh del 203.0.113.3 dev br0",
        "neighbour entry of 203.0.113.3",
    ),
    of(
        "one neighbour proxy is deleted",
        "ip neigh del proxy 203.0.113.2 dev $UPLINK",
        "neighbour proxy for 203.0.113.2",
    ),
];

/// More of it.
pub const MORE: &[Meddling] = &[
    of(
        "one IPv6 neighbour proxy is deleted",
        "ip neigh del proxy 2001:db8:1::3 dev $UPLINK",
        "neighbour proxy for 2001:db8:1::3",
    ),
    of(
        "one route is deleted",
        "ip route del 203.0.113.3/32",
        "route to 203.0.113.3/32",
    ),
    of(
        "one IPv6 route is deleted",
        "ip -6 route del 2001:db8:1::2/128",
        "route to 2001:db8:1::2/128",
    ),
    of(
        "a route is made another's",
        "ip route change 203.0.113.2/32 dev br0 proto static",
        "route to 203.0.113.2/32",
    ),
    of(
        "the bridge's address is deleted",
        "ip addr del fe80::1/64 dev br0",
        "fe80::1/64",
    ),
    taking_foreign(
        ROUTES,
        of(
            "the bridge loses its addresses and routes",
            "ip -6 addr flush dev br0; ip route flush dev br0; ip -6 route flush dev br0",
            "fe80::1/64",
        ),
    ),
    taking_foreign(
        ROUTES,
        of(
            "the bridge is set down",
            "ip link set br0 down",
            "br0 is down",
        ),
    ),
    of(
        "the bridge's MTU is changed",
        "ip link set br0 mtu 1280",
        "MTU",
    ),
    of(
        "a port's flags are taken off",
        "bridge link set dev vb-web isolated off learning on flood on mcast_flood on",
        "vb-web has other flags",
    ),
    of(
        "a port's forwarding entry is deleted",
        "bridge fdb del $(bridge fdb show dev vb-db | awk '/static/ && !done { print $1; done = 1 }') dev vb-db master static",
        "forwarding entry",
    ),
    of(
        "a port is taken out of the bridge",
        "ip link set vb-web nomaster",
        "vb-web is not a port",
    ),
    of(
        "a port is put into another's bridge",
        "ip link set vb-db master foreign-br",
        "vb-db",
    ),
    of("a port is set down", "ip link set vb-db down", "vb-db"),
    of(
        "IPv6 forwarding is turned off",
        "sysctl -qw net.ipv6.conf.all.forwarding=0",
        "ipv6/conf/all/forwarding",
    ),
    of(
        "the bridge's forwarding is turned off",
        "sysctl -qw net.ipv4.conf.br0.forwarding=0 net.ipv6.conf.br0.forwarding=0",
        "br0/forwarding",
    ),
    of(
        "the uplink's proxy_ndp is turned off",
        "sysctl -qw net.ipv6.conf.$UPLINK.proxy_ndp=0",
        "proxy_ndp",
    ),
    of(
        "proxy_ndp of all is turned off",
        "sysctl -qw net.ipv6.conf.all.proxy_ndp=0",
        "all/proxy_ndp",
    ),
    of(
        "the uplink's proxy_delay is changed",
        "sysctl -qw net.ipv4.neigh.$UPLINK.proxy_delay=80",
        "proxy_delay",
    ),
    of(
        "the uplink's proxy_delay for IPv6 is changed",
        "sysctl -qw net.ipv6.neigh.$UPLINK.proxy_delay=80",
        "proxy_delay",
    ),
    of(
        "our nftables table is deleted",
        "nft delete table bridge nspawn_agent",
        "nftables table",
    ),
    of(
        "our nftables chains are flushed",
        "nft flush table bridge nspawn_agent",
        "nftables table",
    ),
    of(
        "somebody adds a rule to our nftables table",
        "chain=$(nft list table bridge nspawn_agent | awk '/hook/ { print name; exit } /chain/ { name = $2 }'); nft insert rule bridge nspawn_agent $chain accept",
        "nftables table",
    ),
    of(
        "our sysctl file is deleted",
        "rm /etc/sysctl.d/90-nspawn-agent.conf",
        "90-nspawn-agent.conf",
    ),
    of(
        "our sysctl file is changed",
        "echo 'net.ipv4.ip_forward = 0' >> /etc/sysctl.d/90-nspawn-agent.conf",
        "90-nspawn-agent.conf",
    ),
    of(
        "our file for networkd is deleted",
        "rm /etc/systemd/network/00-nspawn-agent-br0.network; networkctl reload",
        "00-nspawn-agent-br0.network",
    ),
    of(
        "our file for networkd is moved away",
        "mv /etc/systemd/network/00-nspawn-agent-br0.network /dev/shm/",
        "00-nspawn-agent-br0.network",
    ),
    of(
        "our file for networkd is changed",
        "sed -i s/Unmanaged=yes/Unmanaged=no/ /etc/systemd/network/00-nspawn-agent-br0.network",
        "00-nspawn-agent-br0.network",
    ),
    of(
        "the service's file is deleted",
        "rm /etc/systemd/system/nspawn-agent.service; systemctl daemon-reload",
        "nspawn-agent.service",
    ),
    of(
        "the service's file is changed",
        "sed -i /Restart/d /etc/systemd/system/nspawn-agent.service",
        "nspawn-agent.service",
    ),
    of(
        "the service is disabled",
        "systemctl disable nspawn-agent.service",
        "nspawn-agent.service does not start with the host",
    ),
    of(
        "a guest's settings are deleted",
        "rm /etc/systemd/nspawn/web.nspawn",
        "web.nspawn",
    ),
    of(
        "a guest's settings are changed",
        "echo Private=no >> /etc/systemd/nspawn/db.nspawn",
        "db.nspawn",
    ),
    of(
        "a guest's drop-in is deleted",
        "rm /etc/systemd/system/systemd-nspawn@web.service.d/nspawn-agent.conf",
        "systemd-nspawn@web.service.d",
    ),
    of(
        "a guest's drop-in is deleted with its folder",
        "rm -r /etc/systemd/system/systemd-nspawn@web.service.d; systemctl daemon-reload",
        "systemd-nspawn@web.service.d",
    ),
    of(
        "a drop-in is deleted again after its folder was made anew",
        "rm /etc/systemd/system/systemd-nspawn@web.service.d/nspawn-agent.conf",
        "systemd-nspawn@web.service.d",
    ),
    of(
        "a guest's drop-in is changed",
        "echo MemoryMax=1M >> /etc/systemd/system/systemd-nspawn@db.service.d/nspawn-agent.conf",
        "systemd-nspawn@db.service.d",
    ),
    of(
        "a guest is disabled",
        "machinectl disable web",
        "web does not start with the host",
    ),
    of(
        "the folder of all guests' links is deleted",
        "systemctl kill -s STOP nspawn-agent.service; rm -r /etc/systemd/system/machines.target.wants; \
         systemctl kill -s CONT nspawn-agent.service",
        "does not start with the host",
    ),
    of(
        "a guest's network file is changed",
        "echo '# changed' >> /run/nspawn-agent/network/web/10-nspawn-agent.network",
        "web",
    ),
    of(
        "a guest's network file is deleted",
        "rm /run/nspawn-agent/network/db/10-nspawn-agent.network",
        "db",
    ),
    of(
        "the agent's link is deleted",
        "rm /usr/local/lib/nspawn-agent/nspawn-agent",
        "program",
    ),
    of(
        "the agent's program is deleted",
        // Held still, for it would put things back before the folder is removed.
        "systemctl kill -s STOP nspawn-agent.service; rm -r /usr/local/lib/nspawn-agent; \
         systemctl kill -s CONT nspawn-agent.service",
        "program",
    ),
    of(
        "the agent's program is replaced under its own name",
        "printf '#!/bin/sh\\nexec sleep 1000\\n' > /dev/shm/other; chmod 755 /dev/shm/other; \
         mv -T /dev/shm/other \"$(readlink -e /usr/local/lib/nspawn-agent/nspawn-agent)\"",
        "program",
    ),
    of(
        "others may write to the agent's program, its folder and the service's file",
        "chmod 777 /usr/local/lib/nspawn-agent /etc/nspawn-agent \"$(readlink -e /usr/local/lib/nspawn-agent/nspawn-agent)\"; \
         chown nobody /etc/systemd/system/nspawn-agent.service",
        "others than root may write to /etc/nspawn-agent",
    ),
    of(
        "the note of what the filter holds is deleted",
        "rm /run/nspawn-agent/filter.json",
        "nftables table",
    ),
    harmless("systemd is executed anew", "systemctl daemon-reexec"),
    harmless("systemd's units are read anew", "systemctl daemon-reload"),
    of(
        "the bus is restarted, and a file deleted",
        // systemd's own services don't take to it; logins would hang from then on. dbus-daemon(1)
        "systemctl restart dbus.service systemd-logind.service; rm /etc/sysctl.d/90-nspawn-agent.conf",
        "90-nspawn-agent.conf",
    ),
    restarting(harmless(
        "the agent is killed",
        "systemctl kill -s KILL nspawn-agent.service",
    )),
    restarting(of(
        "the agent is killed, and a route deleted meanwhile",
        "systemctl kill -s KILL nspawn-agent.service; ip route del 203.0.113.2/32",
        "route to 203.0.113.2/32",
    )),
    taking_foreign(
        PROXY,
        restarting(of(
            "the agent is stopped, much goes missing, and it is started",
            "systemctl stop nspawn-agent.service; ip link set $UPLINK down; ip link set $UPLINK up; \
         nft delete table bridge nspawn_agent; rm /etc/systemd/nspawn/web.nspawn; systemctl start nspawn-agent.service",
            "web.nspawn",
        )),
    ),
    restarting(of(
        "a guest's init is killed",
        "kill -KILL $(machinectl show -p Leader --value web)",
        "vb-web",
    )),
    restarting(of(
        "a guest's systemd-nspawn is killed",
        "kill -KILL $(systemctl show -p MainPID --value systemd-nspawn@db.service)",
        "vb-db",
    )),
    restarting(of(
        "a guest is rebooted from inside",
        "systemd-run -q --machine=web --no-block --collect systemctl reboot; \
         until [ \"$(systemctl show -p SubState --value systemd-nspawn@web)\" != running ]; do :; done",
        "vb-web",
    )),
    restarting(of(
        "a guest is stopped and started by hand",
        "machinectl terminate web; until machinectl start web; do :; done",
        "vb-web",
    )),
    taking_foreign(
        ALL,
        of(
            "everything at once",
            "ip link set $UPLINK down; ip link set $UPLINK up; ip link del br0; nft flush ruleset; \
         sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0; rm /etc/sysctl.d/90-nspawn-agent.conf \
         /etc/systemd/nspawn/web.nspawn /etc/systemd/system/systemd-nspawn@db.service.d/nspawn-agent.conf",
            "web.nspawn",
        ),
    ),
    of(
        "somebody else's network changes all the time",
        "for number in $(seq 60); do ip link add storm type bridge; ip link del storm; done; ip neigh del proxy 203.0.113.3 dev $UPLINK",
        "neighbour proxy for 203.0.113.3",
    ),
    of(
        "the same thing goes missing five times",
        "for number in $(seq 4); do ip route del 203.0.113.2/32; until ip route show proto 78 | grep -q ^203.0.113.2; do :; done; done; ip route del 203.0.113.2/32",
        "route to 203.0.113.2/32",
    ),
];
