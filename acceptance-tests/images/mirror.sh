#!/bin/sh
# Makes a small, signed Debian mirror: what a bare VPS and debootstrap inside the lab need.
# Usage: mirror.sh OUT SUITE PACKAGE,PACKAGE…
set -eu
out=$1 suite=$2 packages=$3
arch=$(dpkg --print-architecture)
export LC_ALL=C

debootstrap --download-only --variant=minbase --include="$packages" \
    "$suite" "$out/download" "${NSPAWN_LAB_MIRROR:-http://deb.debian.org/debian}"
mkdir -p "$out/pool/main" "$out/dists/$suite/main/binary-$arch"
# apt's cache writes an epoch as "1%3a" into a file's name; a mirror leaves it out.
for deb in "$out"/download/var/cache/apt/archives/*.deb; do
    mv "$deb" "$out/pool/main/$(basename "$deb" | sed 's/_[0-9]*%3a/_/')"
done
rm -rf "$out/download"

cd "$out"
for deb in pool/main/*.deb; do
    dpkg-deb -f "$deb"
    printf 'Filename: %s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" \
        "$(sha256sum "$deb" | cut -d' ' -f1)"
done > "dists/$suite/main/binary-$arch/Packages"

cd "dists/$suite"
gzip -9nk "main/binary-$arch/Packages"
xz -k "main/binary-$arch/Packages"
{
    printf 'Origin: nspawn-lab\nLabel: nspawn-lab\nSuite: %s\nCodename: %s\nDate: %s\n' \
        "$suite" "$suite" "$(date -Ru)"
    printf 'Architectures: %s\nComponents: main\nSHA256:\n' "$arch"
    for file in "main/binary-$arch"/Packages*; do
        printf ' %s %s %s\n' "$(sha256sum "$file" | cut -d' ' -f1)" "$(stat -c %s "$file")" "$file"
    done
} > Release

# The key signs this mirror once and is thrown away; only its public half stays.
GNUPGHOME=$(mktemp -d)
export GNUPGHOME
gpg --batch --quiet --passphrase '' --quick-generate-key 'nspawn lab mirror' rsa3072 sign never
gpg --batch --quiet --export > "$out/lab-keyring.gpg"
gpg --batch --quiet --clearsign -o InRelease Release
gpg --batch --quiet --armor --detach-sign -o Release.gpg Release
gpgconf --kill all
rm -rf "$GNUPGHOME"
