# Shared by the recipes beside this file; hack/images sources it, then one recipe, in a directory of its own ($work).
# A recipe makes directories under $work and packs each of them as an image of the archive .images/NAME.tar.

# pack DIR ARGS...: packs $work/DIR; the first image begins the archive, `--onto NAME` adds to it.
pack() {
  local root=$work/$1; shift
  (cd "$top" && cargo run --quiet --locked -p xtask -- pack-image --root "$root" --output "$work/$archive.tar" "$@")
}

# root DIR: an empty file system with what every image has.
root() {
  local root=$work/$1
  mkdir -p "$root"/{bin,dev,etc,proc,sys,root,home,var/run,var/tmp,usr/bin,usr/local/bin}
  mkdir -p -m 1777 "$root/tmp"; chmod 1777 "$root/tmp" "$root/var/tmp"
  cat > "$root/etc/passwd" <<'P'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
P
  cat > "$root/etc/group" <<'G'
root:x:0:
daemon:x:1:
bin:x:2:
mail:x:8:
www-data:x:33:
users:x:100:
nogroup:x:65534:
G
  printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
}

# debian DIR PACKAGE...: unpacks Debian packages with all they depend on, and leaves out what only people read.
debian() {
  local root=$work/$1 cache=$work/$1.deb deb; shift
  need apt-get apt; need dpkg-deb dpkg
  [ "$(id -u)" != 0 ] || [ -n "${apt_updated:-}" ] || { apt-get -q update >/dev/null; apt_updated=1; }
  mkdir -p "$root" "$cache/partial"; : > "$cache/status"
  apt-get -q -y --no-install-recommends --download-only -o Dir::State::status="$cache/status" \
    -o Dir::Cache::archives="$cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=root install "$@" >/dev/null
  for deb in "$cache"/*.deb; do dpkg-deb -x "$deb" "$root"; done
  rm -rf "$cache" "$root"/usr/share/{doc,man,locale,info,lintian,bash-completion,zoneinfo} "$root"/var/cache "$root"/usr/lib/*-linux-gnu/{gconv,perl*}
}

# programs FROM TO NAME...: copies programs of one file system into another, with the shared libraries that they need.
programs() {
  local from=$work/$1 to=$work/$2 name file lib real; shift 2
  for name in "$@"; do
    file=$(cd "$from" && find bin sbin usr/bin usr/sbin -name "$name" 2>/dev/null | head -1) || true
    [ -n "$file" ] || die "the packages of $from bring no $name"
    rm -f "$to/bin/$name"
    mkdir -p "$to/$(dirname "$file")"; cp -L "$from/$file" "$to/$file"
    LD_LIBRARY_PATH=$(find "$from" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:) ldd "$from/$file" | grep -oE '/[^ ]+' | sort -u > "$work/libraries"
    while read -r lib; do
      real=${lib#"$from"}
      mkdir -p "$to$(dirname "$real")"; cp -L "$lib" "$to$real"
    done < "$work/libraries"
  done
  # What the C library loads while it runs.
  find "$from" \( -name libnss_dns.so.2 -o -name libnss_files.so.2 -o -name libresolv.so.2 \) -printf '%P\n' | while read -r lib; do
    mkdir -p "$to/$(dirname "$lib")"; cp -L "$from/$lib" "$to/$lib"
  done
}

# busybox DIR: a shell and the usual small programs, as their authors wrote them. Debian's own build differs where upstream's
# tests look: its shell keeps variables from its children whose names are no identifiers, and its `wget -T` aborts. So it is
# built from the sources that Debian publishes, without Debian's changes, once for all images.
busybox() {
  local root=$work/$1 built=$top/target/busybox applet
  [ -x "$built" ] || build_busybox "$built"
  install -Dm755 "$built" "$root/bin/busybox"
  for applet in $("$root/bin/busybox" --list); do
    [ "$applet" = busybox ] || [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"
  done
}

build_busybox() { # file
  local dir=$work/busybox.src built=$1
  say "building busybox"
  need apt-get apt; need cc gcc; need make make; need bzip2 bzip2; need dpkg-source dpkg-dev
  mkdir -p "$dir"/{lists/partial,build} "$(dirname "$built")"
  apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' | sort -u > "$dir/sources.list"
  set -- -q -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$dir/lists" \
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root
  # tc needs kernel headers that newer systems do not have.
  (cd "$dir" && apt-get "$@" update && apt-get "$@" --download-only source busybox && tar -xf busybox_*.orig.tar.* -C build --strip-components=1 &&
    cd build && make defconfig && sed -i 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/; s/^CONFIG_TC=y/# CONFIG_TC is not set/' .config &&
    make oldconfig < <(yes '') && make -j"$(nproc)" busybox) > "$dir/log" 2>&1 || { tail -n 20 "$dir/log" >&2; die "busybox did not build"; }
  mv "$dir/build/busybox" "$built"
}

# go_program MODULE PACKAGE OUTPUT: builds a program of a Go module of this repository.
go_program() {
  need go golang-go
  say "building $2"
  (cd "$top/$1" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$3" "$2")
}

# module_dir MODULE PATH: where the sources of a dependency lie.
module_dir() { (cd "$top/$1" && go mod download "$2" && go list -m -f '{{.Dir}}' "$2"); }
