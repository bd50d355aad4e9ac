# Shared by the commands beside it; sourced, not run.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top" || exit 1
# Where cargo puts what it builds.
target=${CARGO_TARGET_DIR:-$top/target}

# program:package pairs; dpkg isn't asked, for a program may come from elsewhere.
needed=(
  debootstrap:debootstrap systemd-nspawn:systemd-container nft:nftables ip:iproute2 ping:iputils-ping
  setpriv:util-linux ssh:openssh-client sshd:openssh-server gpg:gnupg zstd:zstd xz:xz-utils tar:tar cc:gcc make:make perl:perl
  unshare:util-linux sysctl:procps
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
check_requirements() {
  local missing=() packages=() pair
  command -v cargo >/dev/null || missing+=("Rust 1.95 or newer: see https://rustup.rs")
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

# A tool of cargo's that apt doesn't have.
need_cargo_tool() {
  local program=$1
  command -v "$program" >/dev/null && return
  say "Installing with cargo: $program (takes some minutes, once)"
  cargo install --quiet --locked "$program"
}
