#!/bin/sh
# Makes the root of a VPS, as a provider's stock image would be.
# Usage: root.sh OUT SUITE PACKAGE,PACKAGE… MIRROR [KEYRING]
set -eu
out=$1 suite=$2 packages=$3 mirror=$4 keyring=${5-}
export LC_ALL=C

debootstrap --variant=minbase --include="$packages" ${keyring:+--keyring="$keyring"} \
    "$suite" "$out" "$mirror"
# Timers of the distribution would change files and units behind a test's back.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    fstrim.timer systemd-tmpfiles-clean.timer; do
    ln -sf /dev/null "$out/etc/systemd/system/$unit"
done
systemctl --root="$out" enable systemd-networkd.service ssh.service
rm -rf "$out"/var/cache/apt/archives/*.deb "$out"/var/lib/apt/lists/* "$out"/usr/share/doc/* \
    "$out"/usr/share/man/* "$out"/usr/share/locale/* "$out"/etc/ssh/ssh_host_*
