# Shared by the commands beside it; sourced, not run.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top" || exit 1
# Where cargo puts what it builds.
target=${CARGO_TARGET_DIR:-$top/target}

# program:package pairs; dpkg isn't asked, for a program may come from elsewhere.
needed=(
  debootstrap:debootstrap systemd-nspawn:systemd-container nft:nftables ip:iproute2 ping:iputils-ping
  setpriv:util-linux ssh:openssh-client sshd:openssh-server gpg:gnupg zstd:zstd xz:xz-utils tar:tar cc:gcc c++:g++ make:make
  unshare:util-linux sysctl:procps mkfs.ext4:e2fsprogs mount:mount
)

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Root, directly or through sudo; keeps PATH so that cargo and terraform are found.
if [ "$(id -u)" = 0 ]; then
  as_root=()
else
  as_root=(sudo --preserve-env env "PATH=$PATH:/usr/sbin:/sbin")
fi
export PATH="$PATH:/usr/sbin:/sbin"

# Says all that is missing at once, before anything takes time. Installs Debian packages by apt, after saying so.
# Its arguments are parts of the Rust toolchain that are needed, too.
check_requirements() {
  local missing=() packages=() pair part
  command -v cargo >/dev/null || missing+=("Rust 1.95 or newer: see https://rustup.rs")
  for part in "$@"; do
    cargo "$part" --version >/dev/null 2>&1 || missing+=("cargo $part: run \`rustup component add ${part/#fmt/rustfmt}\`")
  done
  if [ -n "${NSPAWN_TERRAFORM:-}" ]; then
    command -v "$NSPAWN_TERRAFORM" >/dev/null || missing+=("NSPAWN_TERRAFORM names $NSPAWN_TERRAFORM, which isn't there")
  elif command -v terraform >/dev/null; then
    export NSPAWN_TERRAFORM=terraform
  elif command -v tofu >/dev/null; then
    export NSPAWN_TERRAFORM=tofu
  else
    missing+=("Terraform 1.11 or OpenTofu 1.10, or newer: see https://developer.hashicorp.com/terraform/install or https://opentofu.org/docs/intro/install")
  fi
  [ "$(uname -s)" = Linux ] || missing+=("Linux: the lab is made of its namespaces")
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    missing+=("root, or sudo: the lab makes network namespaces and mounts")
  fi
  for pair in "${needed[@]}"; do
    command -v "${pair%%:*}" >/dev/null || packages+=("${pair#*:}")
  done
  # perl itself comes with perl-base, which lacks the modules.
  perl -MIO::Uncompress::Unzip -e1 2>/dev/null || packages+=(perl)
  if [ ${#packages[@]} -gt 0 ] && ! command -v apt-get >/dev/null; then
    missing+=("these programs, in a system without apt-get: ${packages[*]}")
  fi
  if [ ${#missing[@]} -gt 0 ]; then
    printf 'Missing on this machine:\n' >&2
    printf '  - %s\n' "${missing[@]}" >&2
    exit 1
  fi
  if [ ${#packages[@]} -gt 0 ]; then
    say "Installing with apt-get: ${packages[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
  fi
}

# A tool of cargo's that apt doesn't have. Not optimised, which takes a third of the time; so it stays in the target folder.
need_cargo_tool() {
  local program=$1
  export PATH="$PATH:$target/tools/bin"
  command -v "$program" >/dev/null && return
  say "Installing with cargo: $program, in $target/tools (takes some minutes, once)"
  CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --root "$target/tools" --target-dir "$target/tools/build" "$program"
  rm -rf "$target/tools/build"
}

# Always of the whole workspace, whatever is wanted of it: of one package, the libraries have other features, and cargo
# would build them anew.
build() { cargo build --locked --workspace "$@"; }
build_provider() { build --bin terraform-provider-nspawn "$@"; }

# The lab's disks and images, made once; and the provider that the lab's tests try.
prepare_lab() {
  say "The lab's disks and images (made once, kept in ${NSPAWN_LAB_CACHE:-/var/cache/nspawn-lab})"
  build --bin lab
  "${as_root[@]}" "$target/debug/lab" images
}

# A provider of a later release, to be upgraded to. Built before the one that is used, whose place in the target folder
# it takes: so neither is built twice.
build_later_provider() {
  say "Building the provider of a later release"
  build_provider --features terraform-provider-nspawn/later-release
  NSPAWN_LATER_PROVIDER_BINARY=$target/later-release/terraform-provider-nspawn
  export NSPAWN_LATER_PROVIDER_BINARY
  install -D "$target/debug/terraform-provider-nspawn" "$NSPAWN_LATER_PROVIDER_BINARY"
}

# The provider with an agent that can be killed at any step, for the kill sweep alone. The file's name is what Terraform
# looks for. Built before the one that is used: each takes the other's place in the target folder.
build_with_fault_points() {
  say "Build for the kill sweep"
  build_provider --features terraform-provider-nspawn/fault-points
  mkdir -p "$target/fault-points"
  cp "$target/debug/terraform-provider-nspawn" "$target/fault-points/"
  export NSPAWN_FAULT_PROVIDER_BINARY=$target/fault-points/terraform-provider-nspawn
}

# The advisory database is fetched from GitHub; where that can't be reached the check can't be made.
can_check_advisories() {
  [ -z "${NSPAWN_SKIP_ADVISORIES:-}" ] && timeout 60 cargo deny fetch db 2>/dev/null
}
check_advisories() {
  cargo deny --locked check advisories && cargo deny --locked --manifest-path fuzz/Cargo.toml check advisories
}
advisories_not_checked="not checked: advisories, for their database could not be fetched from here"

# Tests that make namespaces and mounts run as root; building does not.
run_tests_as_root() {
  if [ ${#as_root[@]} -gt 0 ]; then
    export "CARGO_TARGET_$(uname -m | tr a-z A-Z)_UNKNOWN_LINUX_GNU_RUNNER=${as_root[*]}"
  fi
}

# Where the tests of a run note which promises held.
collect_promises() {
  NSPAWN_PROMISES_REPORT=$target/promises
  export NSPAWN_PROMISES_REPORT
  "${as_root[@]}" rm -rf "$NSPAWN_PROMISES_REPORT"
}

# What doesn't fit into a test: notes how a command ended as a case of a promise.
promise_case() {
  local promise=$1 name=$2 file=$NSPAWN_PROMISES_REPORT/$1-$$
  shift 2
  mkdir -p "$NSPAWN_PROMISES_REPORT"
  printf 'begun\t%s\n' "$name" >> "$file"
  "$@" && printf 'held\t%s\nfinished\t\n' "$name" >> "$file"
}

# A case that can't be tried here: the table names it.
promise_untried() {
  mkdir -p "$NSPAWN_PROMISES_REPORT"
  printf 'begun\t%s\nheld\t%s\nuntried\t%s\nfinished\t\n' "$2" "$2" "$2" >> "$NSPAWN_PROMISES_REPORT/$1-$$"
}
