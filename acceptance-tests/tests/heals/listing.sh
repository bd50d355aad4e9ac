# Functions for a server with the guests "web" and "db" whose uplink is $UPLINK.

# All that is nspawn-agent's, without the numbers that the kernel chooses.
ours() {
    ip -4 route show proto 78
    ip -6 route show proto 78
    ip -6 route show fe80::/64 dev br0
    ip neigh show proxy dev "$UPLINK" | grep -v 198.18 | sort
    ip -o -6 addr show dev br0 | grep -o 'fe80::1/64 scope link'
    for link in br0 vb-db vb-web; do ip -d link show dev "$link"; done | sed -E 's/^[0-9]+: //; s/@if[0-9]+//' |
        grep -oE '^(br0|vb-[a-z]+):|master br0|mtu [0-9]+|state [A-Z]+|alias .*|(isolated|learning|flood|mcast_flood|bcast_flood|neigh_suppress) (on|off)'
    ip -d link show dev br0 | grep -oE 'link/ether [0-9a-f:]+|stp_state [0-9]|mcast_snooping [0-9]'
    ip neigh show dev br0 nud permanent | grep -v 'ff0[0-9a-f]:' | sort
    bridge fdb show br br0 | grep -E '^(..:){5}.. dev vb-.* static' | sort
    nft list table bridge nspawn_agent | tr ',{}' '\n' | sed -E 's/^[[:space:]]+//; s/[[:space:]]+$//' | sort
    (
        cd /proc/sys/net
        grep . ipv4/ip_forward ipv6/conf/all/forwarding ipv6/conf/all/proxy_ndp "ipv6/conf/$UPLINK/proxy_ndp" \
            "ipv4/neigh/$UPLINK/proxy_delay" "ipv6/neigh/$UPLINK/proxy_delay" ipv4/conf/br0/forwarding ipv6/conf/br0/forwarding
    )
    cksum /etc/sysctl.d/90-nspawn-agent.conf /etc/systemd/network/00-nspawn-agent-br0.network \
        /etc/systemd/system/nspawn-agent.service /etc/systemd/nspawn/web.nspawn /etc/systemd/nspawn/db.nspawn \
        /etc/systemd/system/systemd-nspawn@web.service.d/nspawn-agent.conf \
        /etc/systemd/system/systemd-nspawn@db.service.d/nspawn-agent.conf \
        /run/nspawn-agent/network/web/10-nspawn-agent.network /run/nspawn-agent/network/db/10-nspawn-agent.network
    readlink -e /etc/systemd/system/multi-user.target.wants/nspawn-agent.service \
        /etc/systemd/system/machines.target.wants/systemd-nspawn@web.service \
        /etc/systemd/system/machines.target.wants/systemd-nspawn@db.service \
        /usr/local/lib/nspawn-agent/nspawn-agent
    stat -L -c '%n %s' /usr/local/lib/nspawn-agent/nspawn-agent
    stat -L -c '%n %U %a' /usr/local/lib/nspawn-agent /usr/local/lib/nspawn-agent/nspawn-agent /etc/nspawn-agent \
        /etc/systemd/system/nspawn-agent.service
    systemctl is-active nspawn-agent.service systemd-nspawn@web.service systemd-nspawn@db.service
}

# Fails when a part of such a listing says why it is not there: it would be equal to itself ever after.
is_whole() {
    if grep -nE '[Nn]o such|[Cc]annot|does not exist|Error|^(inactive|failed|activating)$' "$1" >&2; then return 1; fi
}

# All that is somebody else's and stands beside it.
foreign() {
    ip neigh show proxy | grep 198.18 || true
    ip -4 route show proto 99 || true
    ip -6 route show proto 99 || true
    ip -o addr show dev foreign0 | sed -E 's/^[0-9]+: //'
    ip -d link show dev foreign-br | grep -oE 'foreign-br|mtu [0-9]+|state [A-Z]+'
    for table in 'inet foreign' 'bridge foreign' 'ip filter' 'ip nat' 'ip6 filter'; do nft list table $table; done
    cat /etc/systemd/nspawn/foreign.nspawn /etc/systemd/nspawn/stranger.nspawn
    machinectl show -p Leader -p State stranger
    systemctl show -p InvocationID -p ActiveState systemd-nspawn@stranger.service
    stat -c '%n %u' /var/lib/machines/stranger
    ip -o addr show dev ve-stranger | sed -E 's/^[0-9]+: //'
    ping -n -q -c 1 -W 5 198.18.9.2 | grep received
    sysctl net.ipv4.conf.foreign0.forwarding
}

# Without an address of the kernel's, which would give it one when both were asked for at once.
bring_up() { ip link set "$1" addrgenmode none; ip link set "$1" up; }

# Somebody else's things: they are set up, or what of them went missing is put back.
set_up_foreign() {
    ip link show dev foreign0 > /dev/null 2>&1 || ip link add foreign0 type veth peer name foreign1
    for link in foreign0 foreign1; do bring_up "$link"; done
    ip addr replace 198.18.0.1/24 dev foreign0
    ip link show dev foreign-br > /dev/null 2>&1 || ip link add foreign-br type bridge
    bring_up foreign-br
    # It has had a port, as it will when ours is put into it: a bridge keeps traces of that, once the kernel has seen
    # its carrier come (a route of its own for multicast) and go.
    ip link set foreign1 master foreign-br
    timeout 10 sh -c 'until ip -6 route show table local dev foreign-br | grep -q ff00; do sleep 0.05; done'
    ip link set foreign1 nomaster
    timeout 10 sh -c 'until ip link show dev foreign-br | grep -q NO-CARRIER; do sleep 0.05; done'
    ip neigh replace proxy 198.18.0.9 dev "$UPLINK"
    ip route replace 198.18.1.0/24 dev foreign0 proto 99
    ip -6 route replace 2001:db8:99::/64 dev foreign0 proto 99
    mkdir -p /etc/systemd/nspawn
    printf '[Exec]\nBoot=yes\n' > /etc/systemd/nspawn/foreign.nspawn
    # As Docker and ufw set theirs up with iptables-nft; both let the bridge pass.
    nft -f - <<'END'
table inet foreign
delete table inet foreign
table inet foreign {
    set banned { type ipv4_addr; elements = { 198.18.7.7 } }
    chain input { type filter hook input priority 10; policy accept; ip saddr @banned drop; }
}
table bridge foreign
delete table bridge foreign
table bridge foreign {
    chain forward { type filter hook forward priority 10; policy accept; ether saddr 02:00:00:00:00:99 drop; }
}
table ip nat
delete table ip nat
table ip nat {
    chain DOCKER { return; }
    chain POSTROUTING { type nat hook postrouting priority 100; policy accept; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }
    chain PREROUTING { type nat hook prerouting priority -100; policy accept; fib daddr type local jump DOCKER; }
}
table ip filter
delete table ip filter
table ip filter {
    chain DOCKER-USER { iifname "br0" accept; oifname "br0" accept; return; }
    chain ufw-before-forward { ct state related,established accept; return; }
    chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; jump ufw-before-forward; }
}
table ip6 filter
delete table ip6 filter
table ip6 filter {
    chain ufw6-before-forward { iifname "br0" accept; oifname "br0" accept; return; }
    chain FORWARD { type filter hook forward priority 0; policy drop; jump ufw6-before-forward; }
}
END
}

# Somebody else's guest, with a link and user ids of its own. $1: a tarball
start_stranger() {
    # systemd-networkd would give both ends of the link addresses of its own choice, and masquerade.
    ln -sf /dev/null /etc/systemd/network/80-container-ve.network
    networkctl reload
    mkdir -p -m 755 /var/lib/machines/stranger /etc/systemd/nspawn
    tar -C /var/lib/machines/stranger -xf "$1"
    mkdir -p /var/lib/machines/stranger/etc/systemd/network
    ln -sf /dev/null /var/lib/machines/stranger/etc/systemd/network/80-container-host0.network
    printf '[Exec]\nPrivateUsers=pick\nBoot=yes\n[Network]\nVirtualEthernet=yes\n' > /etc/systemd/nspawn/stranger.nspawn
    systemctl start systemd-nspawn@stranger
    ip addr add 198.18.9.1/24 dev ve-stranger
    bring_up ve-stranger
    guest=$(machinectl show --value -p Leader stranger)
    nsenter -n -t "$guest" sh -c 'ip link set host0 addrgenmode none; ip link set host0 up; ip addr add 198.18.9.2/24 dev host0'
    timeout 60 sh -c 'until ping -n -q -c 1 -W 1 198.18.9.2 > /dev/null; do :; done'
    timeout 60 sh -c 'until systemctl -q --machine=stranger is-active multi-user.target 2> /dev/null; do sleep 0.1; done'
}

# Somebody else's routes over the bridge, once that is there.
set_up_foreign_on_bridge() {
    ip route replace 198.18.2.0/24 dev br0 proto 99
    ip -6 route replace 2001:db8:98::/64 dev br0 proto 99
}

milliseconds() { echo $(($(date +%s%N) / 1000000)); }

# Meddles with the function "meddle", and waits until all of ours is as in /dev/shm/ours for $SETTLE ms. Prints
# for how many milliseconds it was not, from the first look that saw it: until the look that found all of it
# began, and until that look had ended, which takes its time on a busy machine.
measure() {
    meddle > /dev/shm/meddled 2>&1 || { cat /dev/shm/meddled; return 1; }
    begun=$(milliseconds); bad=; good=; dark='0 0'
    while :; do
        before=$(milliseconds)
        ours > /dev/shm/now 2>&1 || true
        after=$(milliseconds)
        if cmp -s /dev/shm/ours /dev/shm/now; then
            if [ -z "$good" ]; then good=$after; least=$before; fi
            if [ -n "$bad" ]; then dark="$((least - bad)) $((good - bad))"; fi
            if [ $((after - good)) -ge "$SETTLE" ]; then break; fi
        else
            bad=${bad:-$before}; good=
            if [ $((after - begun)) -ge 60000 ]; then diff /dev/shm/ours /dev/shm/now; return 1; fi
        fi
    done
    echo "dark $dark"
}
