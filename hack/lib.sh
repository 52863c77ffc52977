# Shared by the scripts of this folder: paths, messages, what must be installed. Sourced, never run.
set -euo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cluster=$top/.cluster
skeg=${SKEG_BIN:-$top/target/release/skeg}
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

# A Go that can build what conformance/upstream/go.mod asks for. From 1.21 on, Go fetches the version that is wanted by itself;
# an older one, as Debian 12 has, is used to fetch it from the module proxy that it is set to, checked as any module is.
need_go() {
  need go golang-go
  local wanted has module dir own
  has=$(cd / && go env GOVERSION)
  if [ "$(printf '%s\n' go1.21 "$has" | sort -V | head -n 1)" = go1.21 ]; then return; fi
  wanted=go$(awk '$1 == "go" { print $2 }' "$top/conformance/upstream/go.mod")
  own=${XDG_CACHE_HOME:-$HOME/.cache}/skeg/$wanted
  if [ ! -x "$own/bin/go" ]; then
    say "fetching $wanted: $has is too old"
    module=golang.org/toolchain@v0.0.1-$wanted.$(go env GOOS)-$(go env GOARCH)
    dir=$(cd / && go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    [ -d "$dir" ] || die "no $wanted from the module proxy: install Go 1.21 or newer, then run this again"
    rm -rf "$own.new"; mkdir -p "$own.new"
    cp -r "$dir/." "$own.new"
    chmod -R u+w "$own.new"; chmod -R u+x "$own.new/bin" "$own.new/pkg/tool"
    # A module cannot hold others: theirs are kept under another name.
    find "$own.new" -name _go.mod -execdir cp _go.mod go.mod \;
    mv "$own.new" "$own"
  fi
  export PATH=$own/bin:$PATH
}

# What the published modules are told at link time, as a release of upstream's is.
upstream_flags="-s -w"
for stamp in gitVersion=$version gitMajor=1 gitMinor=36 gitTreeState=clean gitCommit=$version; do
  upstream_flags+=" -X k8s.io/component-base/version.$stamp"
done

# upstream NAME: the path of a program of upstream's, built from the published modules unless it is there.
upstream_bin=${UPSTREAM_BIN:-$top/target/conformance}
upstream() {
  local name=$1
  if [ ! -x "$upstream_bin/$name" ]; then
    need_go
    say "building $name"
    mkdir -p "$upstream_bin"
    case $name in
      etcd) (cd "$top/conformance/images/etcd" && CGO_ENABLED=0 go build -trimpath -o "$upstream_bin/etcd" go.etcd.io/etcd/server/v3) ;;
      *) (cd "$top/conformance/upstream" && CGO_ENABLED=0 go build -trimpath -o "$upstream_bin/$name" \
        -ldflags "$upstream_flags" "k8s.io/kubernetes/cmd/$name") ;;
    esac
  fi
  echo "$upstream_bin/$name"
}

build_skeg() {
  need_rust
  say "building target/release/skeg (the first time takes some minutes)"
  (cd "$top" && cargo build --release --locked --bin skeg)
}

# SKEG_NAME keeps a second cluster of the machine, started in a network namespace of its own, apart from the first: it names
# network namespaces, cgroups and the bridge that joins the nodes.
name=${SKEG_NAME:-skeg}
bridge=${name}0
subnet=10.88.0
registry_port=5035

# A process that has ended and is not reaped yet has no executable any more.
alive() { readlink "/proc/$1/exe" >/dev/null 2>&1; }
running() { [ -f "$cluster/run/$1.pid" ] && alive "$(cat "$cluster/run/$1.pid")"; }

# background NAME COMMAND...: starts a program that outlives this script.
background() {
  local program=$1; shift
  setsid -f sh -c 'echo $$ > "$0"; exec "$@"' "$cluster/run/$program.pid" "$@" >> "$cluster/logs/$program.log" 2>&1 < /dev/null
  for _ in $(seq 50); do [ -s "$cluster/run/$program.pid" ] && return; sleep .02; done
  die "$program did not start, see $cluster/logs/$program.log"
}

# wait_for PROGRAM SECONDS COMMAND...: until the command succeeds, or the program is gone, or time is up.
wait_for() {
  local program=$1 begun=$SECONDS limit=$2; shift 2
  until "$@" 2>/dev/null; do
    running "$program" || { tail -n 5 "$cluster/logs/$program.log" >&2; die "$program ended; its log is $cluster/logs/$program.log"; }
    [ $((SECONDS-begun)) -lt "$limit" ] || { "$@" || true; die "not ready after $limit s; logs are in $cluster/logs"; }
    sleep .1
  done
}

# stop NAME: asks a program to end, then makes it.
stop() {
  local pid; running "$1" || { rm -f "$cluster/run/$1.pid"; return 0; }
  pid=$(cat "$cluster/run/$1.pid"); kill "$pid"
  for _ in $(seq 150); do alive "$pid" || break; sleep .1; done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$cluster/run/$1.pid"
}
