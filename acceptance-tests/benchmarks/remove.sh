#!/bin/bash
# Removes what create.sh has made. Usage: remove.sh COUNT
set -u
for ((i = 1; i <= $1; i++)); do
  name=hand$i address=203.0.113.$((100 + i))
  machinectl terminate $name
  while systemctl -q is-active systemd-nspawn@$name.service; do :; done
  umount /var/lib/machines/$name /var/lib/by-hand/$name/lower
  rm -rf /var/lib/machines/$name /var/lib/by-hand/$name /etc/systemd/nspawn/$name.nspawn
  ip route del $address/32 dev by-hand
  ip neigh del proxy $address dev eth0
done 2>/dev/null
ip link del by-hand
