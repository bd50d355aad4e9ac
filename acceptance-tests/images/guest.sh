#!/bin/sh
# Makes a guest image as a tarball, in each of the named compressions, each with its sha256 beside it.
# Usage: guest.sh OUT NAME PACKAGE,PACKAGE… MIRROR KEYRING NETWORKD(yes|no) COMPRESSION…
set -eu
out=$1 name=$2 packages=$3 mirror=$4 keyring=$5 networkd=$6
shift 6
export LC_ALL=C
tree=$out/tree

debootstrap --variant=minbase --include="$packages" --keyring="$keyring" trixie "$tree" "$mirror"
cat > "$tree/etc/systemd/system/hello.socket" <<UNIT
[Unit]
Description=Answers with the name of this machine and the address of its peer

[Socket]
ListenStream=7777
Accept=yes

[Install]
WantedBy=sockets.target
UNIT
cat > "$tree/etc/systemd/system/hello@.service" <<'UNIT'
[Unit]
Description=Answers with the name of this machine and the address of its peer
CollectMode=inactive-or-failed

[Service]
ExecStart=/bin/sh -c 'echo "$(uname -n) $REMOTE_ADDR"'
StandardOutput=socket
UNIT
systemctl --root="$tree" enable hello.socket
if [ "$networkd" = yes ]; then
    systemctl --root="$tree" enable systemd-networkd.service
else
    find "$tree/usr/lib/systemd" "$tree/usr/bin" \
        \( -name 'systemd-networkd*' -o -name networkctl \) -delete
fi
if [ -e "$tree/usr/lib/systemd/system/etcd.service" ]; then
    ln -sf /dev/null "$tree/etc/systemd/system/etcd.service"
fi
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer; do
    ln -sf /dev/null "$tree/etc/systemd/system/$unit"
done
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/usr/share/doc/* \
    "$tree"/usr/share/man/* "$tree"/usr/share/locale/* "$tree"/var/log/*.log
# debootstrap copies the name and the resolver of the machine that it runs on.
rm -f "$tree/etc/hostname" "$tree/etc/resolv.conf"

cd "$out"
tar --numeric-owner --xattrs --acls -C "$tree" -cf "$name.tar" .
for compression in "$@"; do
    case $compression in
        zst) zstd -q -T0 -6 "$name.tar" ;;
        xz) xz -k -T0 -1 "$name.tar" ;;
        gz) gzip -k -1 "$name.tar" ;;
    esac
    sha256sum "$name.tar.$compression" | cut -d' ' -f1 > "$name.tar.$compression.sha256"
done
rm -rf "$tree" "$name.tar"
