#!/bin/bash
# What a person would write by hand: containers with a public IPv4 address each, on an existing bridge.
# Usage: create.sh overlay|copy TREE COUNT     (on the server, as root)
set -eu
way=$1 tree=$2 count=$3
state=/var/lib/by-hand
mkdir -p $state /etc/systemd/nspawn
ip link add by-hand type bridge 2>/dev/null || true
ip link set by-hand up
ip -6 addr replace fe80::1/64 dev by-hand nodad
sysctl -qw net.ipv4.ip_forward=1

for ((i = 1; i <= count; i++)); do
  name=hand$i base=$(((16384 + i) * 65536)) address=203.0.113.$((100 + i))
  root=/var/lib/machines/$name
  mkdir -p $state/$name/network $root
  cat > $state/$name/network/10-host0.network <<END
[Match]
Name=host0
[Network]
Address=$address/32
LinkLocalAddressing=ipv6
IPv6AcceptRA=no
[Route]
Gateway=203.0.113.1
GatewayOnLink=yes
END
  ownership=off
  if [ "$way" = overlay ]; then
    mkdir -p $state/$name/{upper,work,lower}
    chown $base:$base $state/$name/{upper,work}
    mount --bind -o X-mount.idmap=b:0:$base:65536 "$tree" $state/$name/lower
    mount --make-private $state/$name/lower
    mount -t overlay overlay -o lowerdir=$state/$name/lower,upperdir=$state/$name/upper,workdir=$state/$name/work $root
  else
    cp -a "$tree/." $root
    ownership=chown
  fi
  cat > /etc/systemd/nspawn/$name.nspawn <<END
[Exec]
PrivateUsers=$base:65536
NotifyReady=yes
[Files]
PrivateUsersOwnership=$ownership
BindReadOnly=$state/$name/network:/run/systemd/network
[Network]
Bridge=by-hand
END
  ip route replace $address/32 dev by-hand
  ip neigh replace proxy $address dev eth0
  systemctl start --no-block systemd-nspawn@$name.service
done
