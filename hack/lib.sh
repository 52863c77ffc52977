# Shared by the scripts of this folder: paths, messages, what must be installed. Sourced, never run.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cluster=$top/.cluster
skeg=$top/target/release/skeg
version=v1.36.3
export PATH=$PATH:/usr/sbin:/sbin

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# need COMMAND PACKAGE: installs a Debian package when the command is missing.
need() {
  command -v "$1" >/dev/null 2>&1 && return
  install_packages "$2"
  command -v "$1" >/dev/null 2>&1 || die "'$1' is missing and the package $2 did not bring it"
}

install_packages() {
  command -v apt-get >/dev/null || die "install $* by hand: this script knows only apt-get"
  [ "$(id -u)" = 0 ] || die "installing $* takes root: run this as root, or install them first"
  say "installing $*"
  if [ -z "${apt_updated:-}" ]; then apt-get -q update >/dev/null; apt_updated=1; fi
  DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@" >/dev/null
}

# What a node needs to run containers.
need_node_packages() {
  [ "$(id -u)" = 0 ] || die "a node runs containers and programs the network: run this as root"
  need containerd containerd
  need runc runc
  need nft nftables
  need conntrack conntrack
  need ip iproute2
  need iptables iptables
  need nsenter util-linux
  need mount mount
  [ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || install_packages containernetworking-plugins
}

need_rust() {
  command -v cargo >/dev/null || { [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"; }
  command -v cargo >/dev/null || die "Rust is missing: install it with rustup (see https://rustup.rs), then run this again"
  need cc gcc
}

build_skeg() {
  need_rust
  say "building target/release/skeg (the first time takes some minutes)"
  (cd "$top" && cargo build --release --locked --bin skeg)
}
