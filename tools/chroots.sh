#!/bin/sh
# chroots.sh: the newest Pythons, each in a Debian of its own.
#
#   tools/chroots.sh [setup] [NAME...]    make or complete the chroots (default: trixie sid); needs root
#   tools/chroots.sh exec NAME -- CMD...  run CMD inside, with this source tree at the same path
#   tools/chroots.sh list                 one line an interpreter: NAME PATH VERSION
#   tools/chroots.sh path NAME            the directory
#
# trixie is Debian 13: its python3.13 is static and PGO, the fair baseline for speed.
# sid is Debian unstable: python3.13, 3.14 and 3.15, as far as it has them on the day.
#
# A chroot is made by debootstrap under NAME.partial and renamed when it is whole, so an interrupted
# run leaves nothing that looks finished; a second run finds it whole and leaves it alone (remove the
# directory to get a newer sid).
# `exec` mounts /proc, /dev, /sys, /tmp and the source tree in a mount namespace of its own: the mounts
# vanish with the command, whatever ends it, and nobody else ever sees them.
#
# The mirror is the host's own (its apt sources), or $HEAPKEEPER_MIRROR. Where the chroots lie is
# $HEAPKEEPER_CHROOTS, default ~/.cache/heapkeeper/chroots. Exit status: 0 done, 1 failed, 2 cannot
# be done here (not root, no Debian mirror known, bad usage).

set -eu

tree=$(cd "$(dirname "$0")/.." && pwd -P)
self="$tree/tools/chroots.sh"
base=${HEAPKEEPER_CHROOTS:-${XDG_CACHE_HOME:-$HOME/.cache}/heapkeeper/chroots}
all_names="trixie sid"

say() { printf 'chroots: %s\n' "$*"; }
fail() { code=$1; shift; printf 'chroots: %s\n' "$*" >&2; exit "$code"; }

# What each chroot's interpreters are. A version that the archive does not carry (any more) is skipped.
pythons_of() {
    case $1 in
        trixie) echo "3.13" ;;
        sid) echo "3.13 3.14 3.15" ;;
        *) fail 2 "unknown chroot '$1'; known: $all_names" ;;
    esac
}

# What CPython's own tests look for (service names, time zones, certificates), and for ours readelf and a C compiler, whose programs
# are then made for that Debian's C library and with its Python's headers.
common_packages="ca-certificates netbase tzdata media-types binutils gcc libc6-dev"

packages_of_python() { echo "python$1 python$1-venv python$1-dev libpython$1-testsuite"; }

need_root() {
    [ "$(id -u)" -eq 0 ] && return
    fail 2 "this needs root (debootstrap, mount and chroot do). Run:  sudo HEAPKEEPER_CHROOTS='$base' $self $*"
}

# The first mirror in the host's apt sources whose suites are Debian's main archive; both formats of apt.
host_mirror() {
    if [ -n "${HEAPKEEPER_MIRROR:-}" ]; then echo "$HEAPKEEPER_MIRROR"; return; fi
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
        awk '
            function offer(uri) { if (!found && uri ~ /^(https?|file):.*\/debian\/?$/) { print uri; found = 1 } }
            /^[ \t]*#/ { next }
            /^deb[ \t]/ { for (i = 2; i <= NF; i++) if ($i ~ /:\//) { offer($i); break } }
            /^URIs:/ { for (i = 2; i <= NF; i++) offer($i) }'
}

install_debootstrap() {
    command -v debootstrap >/dev/null 2>&1 && return
    command -v apt-get >/dev/null 2>&1 || fail 2 "debootstrap is missing and there is no apt-get to install it with"
    say "installing debootstrap (apt-get install debootstrap)"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap debian-archive-keyring
}

# A keyring that knows the suite's key: a Debian made already is newer than the host may be.
keyring_for() {
    for ring in "$base/trixie/usr/share/keyrings/debian-archive-keyring.gpg" \
        "$base/trixie/usr/share/keyrings/debian-archive-keyring.pgp" \
        /usr/share/keyrings/debian-archive-keyring.gpg; do
        [ -e "$ring" ] && { echo "$ring"; return; }
    done
}

bootstrap() {
    name=$1 mirror=$2 root="$base/$1"
    ring=$(keyring_for)
    say "$name: debootstrap --variant=minbase from $mirror into $root (a minute or two)"
    rm -rf "$root.partial"
    mkdir -p "$base"
    debootstrap --variant=minbase ${ring:+--keyring="$ring"} "$name" "$root.partial" "$mirror" \
        >"$base/$name.log" 2>&1 || {
        tail -n 5 "$base/$name.log" >&2
        fail 1 "$name: debootstrap failed; the whole log is $base/$name.log"
    }
    mv "$root.partial" "$root"
}

# What a chroot borrows from its host each time: how to reach the network and whom to trust there.
configure() {
    root="$base/$1" mirror=$2
    echo "deb $mirror $1 main" >"$root/etc/apt/sources.list"
    rm -f "$root"/etc/apt/sources.list.d/*.sources
    {
        # A mirror that lags, or a snapshot, has an expired index; this is a test bed, not a server.
        echo 'Acquire::Check-Valid-Until "false";'
        echo 'Acquire::Check-Date "false";'
        echo 'Acquire::Languages "none";'
        echo 'APT::Install-Recommends "false";'
        if command -v apt-config >/dev/null 2>&1; then apt-config dump | grep -E '^Acquire::https?::Proxy' || :; fi
    } >"$root/etc/apt/apt.conf.d/90heapkeeper"
    echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/90heapkeeper"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    cp -L /etc/hosts "$root/etc/hosts"
    bundle=${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}
    if [ -r "$bundle" ]; then cp -L "$bundle" "$root/etc/heapkeeper-host-ca.crt"; fi
}

install_packages() {
    name=$1 root="$base/$1"
    inside "$name" apt-get update -qq
    wanted=$common_packages
    for version in $(pythons_of "$name"); do
        if [ -n "$(inside "$name" apt-cache madison "python$version" 2>/dev/null)" ]; then
            wanted="$wanted $(packages_of_python "$version")"
        else
            say "$name: has no python$version today; skipped"
        fi
    done
    missing=
    for package in $wanted; do
        [ "$(inside "$name" dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing="$missing $package"
    done
    [ -n "$missing" ] || { say "$name: every package is there"; return; }
    say "$name: installing$missing"
    # shellcheck disable=SC2086  # a list of words
    inside "$name" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing \
        >>"$base/$name.log" 2>&1 || {
        tail -n 5 "$base/$name.log" >&2
        fail 1 "$name: apt-get install failed; the whole log is $base/$name.log"
    }
    inside "$name" apt-get clean
}

# Runs in the mount namespace that `inside` made: mounts, then becomes the command.
enter() {
    root=$1; shift
    mount --rbind /dev "$root/dev"
    mount --rbind /proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --bind /tmp "$root/tmp"
    mkdir -p "$root$tree"
    mount --bind "$tree" "$root$tree"
    where=/
    case $PWD/ in "$tree"/* | /tmp/*) where=$PWD ;; esac
    # The host's own variables name paths that are not there inside.
    unset VIRTUAL_ENV PYTHONPATH PYTHONHOME LD_LIBRARY_PATH TMPDIR PIP_FIND_LINKS SSL_CERT_DIR XDG_RUNTIME_DIR || :
    if [ -r "$root/etc/heapkeeper-host-ca.crt" ]; then
        for variable in PIP_CERT SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE; do
            export "$variable=/etc/heapkeeper-host-ca.crt"
        done
    fi
    HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
    export HOME PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
    # shellcheck disable=SC2016  # expanded by the inner shell
    exec chroot "$root" /bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$where" "$@"
}

inside() {
    inside_name=$1; shift
    unshare --mount --propagation private -- "$self" --enter "$base/$inside_name" "$@"
}

setup() {
    need_root setup "$@"
    install_debootstrap
    mirror=$(host_mirror)
    [ -n "$mirror" ] ||
        fail 2 "no Debian mirror in /etc/apt/sources.list*; name one:  HEAPKEEPER_MIRROR=URL $self setup"
    for name in ${*:-$all_names}; do
        contents="$common_packages python $(pythons_of "$name")"
        if [ "$(cat "$base/$name/.heapkeeper" 2>/dev/null)" = "$contents" ]; then
            say "$name: is there"
            continue
        fi
        [ -x "$base/$name/usr/bin/dpkg" ] || bootstrap "$name" "$mirror"
        configure "$name" "$mirror"
        install_packages "$name"
        echo "$contents" >"$base/$name/.heapkeeper"
    done
    list
}

list() {
    for name in $all_names; do
        for python in "$base/$name"/usr/bin/python3.[0-9] "$base/$name"/usr/bin/python3.[0-9][0-9]; do
            [ -x "$python" ] || continue
            if [ "$(id -u)" -eq 0 ]; then
                version=$(inside "$name" "${python#"$base/$name"}" -c 'import platform; print(platform.python_version())')
            else
                version=${python##*/python}
            fi
            echo "$name ${python#"$base/$name"} $version"
        done
    done
}

case ${1:-setup} in
    --enter) shift; enter "$@" ;;
    exec)
        [ $# -ge 3 ] || fail 2 "usage: $0 exec NAME -- COMMAND..."
        name=$2; shift 2
        [ "$1" = -- ] && shift
        need_root exec "$name" -- "$@"
        [ -x "$base/$name/bin/sh" ] || fail 2 "there is no chroot '$name' in $base; make it:  $self setup $name"
        exec unshare --mount --propagation private -- "$self" --enter "$base/$name" "$@" ;;
    list) list ;;
    path) [ $# -eq 2 ] || fail 2 "usage: $0 path NAME"; echo "$base/$2" ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" ;;
    setup) shift || :; setup "$@" ;;
    -*) fail 2 "unknown option '$1'; see $0 --help" ;;
    *) setup "$@" ;;
esac
