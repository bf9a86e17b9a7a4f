#!/bin/sh
# Makes sure that what the build and the tests need is here: a C compiler, Meson, Ninja, pkg-config, cmocka and a
# Python with pytest. elfutils' libdw, which gives native code its names, is installed too where that asks nobody
# anything; the build goes without it. Silent when all of it is there. Otherwise it installs what is missing with the system's package
# manager (as root, or by sudo where that asks for no password) and says so; where it may not, it prints the exact
# command and exits with 2.
#
#   tools/bootstrap.sh                   check, and install what is missing
#   tools/bootstrap.sh --check           check only: exit 2 if something is missing
#   tools/bootstrap.sh --pytest-python   print the Python that has pytest (empty: none)
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
venv=$here/build/venv
tools=$here/build/tools
log=$here/build/bootstrap.log

have() { command -v "$1" >/dev/null 2>&1; }

# The first Python, in this order, that can import pytest.
pytest_python() {
    for candidate in "${PYTHON:-}" "$venv/bin/python" python3 /usr/bin/python3; do
        [ -n "$candidate" ] && have "$candidate" || continue
        if "$candidate" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("pytest"))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

meson_is_new_enough() {
    have meson && meson --version 2>/dev/null |
        awk -F. '{ exit !($1 > 0 || $2 >= 61) }'
}

# One word for each thing that is missing.
missing() {
    have cc || have gcc || have clang || echo compiler
    # A compiler without the C library's headers is no compiler.
    if have cc && ! echo '#include <stdio.h>' | cc -E - >/dev/null 2>&1; then echo headers; fi
    meson_is_new_enough || echo meson
    have ninja || echo ninja
    if have pkg-config; then
        pkg-config --exists cmocka || echo cmocka
    else
        echo pkg-config
        [ -e /usr/include/cmocka.h ] || echo cmocka
    fi
    [ -n "$(pytest_python)" ] || echo pytest
}

# Package names: $1 is the package manager's family, the rest what is missing.
packages() {
    family=$1
    shift
    for thing in "$@"; do
        case $family:$thing in
        apt:compiler) echo gcc libc6-dev ;;
        apt:headers) echo libc6-dev ;;
        apt:ninja) echo ninja-build ;;
        apt:cmocka) echo libcmocka-dev ;;
        apt:libdw) echo libdw-dev ;;
        apt:pytest) echo python3-pytest ;;
        dnf:compiler) echo gcc glibc-devel ;;
        dnf:headers) echo glibc-devel ;;
        dnf:ninja) echo ninja-build ;;
        dnf:pkg-config) echo pkgconf-pkg-config ;;
        dnf:cmocka) echo libcmocka-devel ;;
        dnf:libdw) echo elfutils-devel ;;
        dnf:pytest) echo python3-pytest ;;
        pacman:compiler) echo gcc ;;
        pacman:headers) echo glibc ;;
        pacman:pkg-config) echo pkgconf ;;
        pacman:libdw) echo elfutils ;;
        pacman:pytest) echo python-pytest ;;
        *) echo "$thing" ;;
        esac
    done | tr '\n' ' '
}

# How to become root: nothing to do, sudo without a password, or no way.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        echo env
    elif have sudo && sudo -n true 2>/dev/null; then
        echo "sudo -n env"
    fi
}

# Where the distribution has no Meson that is new enough, or no pytest: a private environment in the build directory.
install_in_venv() {
    echo "heapkeeper: installing $* into build/venv with pip" >&2
    # Debian and Ubuntu keep the part of Python that makes environments in a package of its own.
    if [ "$family" = apt ]; then
        # shellcheck disable=SC2086
        $root DEBIAN_FRONTEND=noninteractive $install python3-venv >>"$log" 2>&1 </dev/null || true
    fi
    if python3 -m venv "$venv" >>"$log" 2>&1 && "$venv/bin/pip" install -q "$@" >>"$log" 2>&1; then
        # Only these names go before the system's: the environment's python3 must not become everybody's.
        mkdir -p "$tools"
        for tool in meson ninja; do
            [ ! -x "$venv/bin/$tool" ] || ln -sf "$venv/bin/$tool" "$tools/$tool"
        done
        return 0
    fi
    echo "heapkeeper: that did not work; the end of $log:" >&2
    tail -n 5 "$log" >&2
    return 1
}

case ${1:-} in
--pytest-python)
    pytest_python
    exit 0
    ;;
--check | '') ;;
*)
    echo "usage: tools/bootstrap.sh [--check | --pytest-python]" >&2
    exit 2
    ;;
esac

PATH=$tools:$PATH
lacking=$(missing | tr '\n' ' ')
# Wished for, and tried once.
wish=
if ! pkg-config --exists libdw 2>/dev/null && [ ! -e "$here/build/without-libdw" ] && [ -n "$(as_root)" ] &&
    { have apt-get || have dnf || have pacman; }; then
    wish=libdw
fi
[ -n "$lacking$wish" ] || exit 0
if [ "${1:-}" = --check ]; then
    [ -n "$lacking" ] || exit 0
    echo "heapkeeper: missing: $lacking" >&2
    exit 2
fi

if have apt-get; then
    family=apt
    refresh="apt-get update"
    install="apt-get install -y --no-install-recommends"
elif have dnf; then
    family=dnf
    refresh=
    install="dnf install -y"
elif have pacman; then
    family=pacman
    refresh=
    install="pacman -S --noconfirm"
else
    echo "heapkeeper: please install these, then run make again: $lacking" >&2
    exit 2
fi

# shellcheck disable=SC2086 # words on purpose, here and below
wanted=$(packages $family $lacking | sed 's/ *$//')
root=$(as_root)
if [ -z "$root" ]; then
    echo "heapkeeper: these are missing and need an administrator to install: $lacking" >&2
    echo "heapkeeper: run this, then make again:" >&2
    echo "    ${refresh:+sudo $refresh && }sudo $install $wanted" >&2
    exit 2
fi

mkdir -p "$here/build"
echo "heapkeeper: installing for the build: $wanted${wish:+ libdw (optional: names of native code)}" >&2
status=0
if [ -n "$refresh" ]; then
    # An unreachable extra source must not stop us: what counts is whether the install works.
    $root DEBIAN_FRONTEND=noninteractive $refresh >"$log" 2>&1 </dev/null || true
fi
[ -z "$wanted" ] || $root DEBIAN_FRONTEND=noninteractive $install $wanted >>"$log" 2>&1 </dev/null || status=$?
if [ -n "$wish" ]; then
    # shellcheck disable=SC2046
    $root DEBIAN_FRONTEND=noninteractive $install $(packages $family $wish) >>"$log" 2>&1 </dev/null || true
    pkg-config --exists libdw 2>/dev/null || touch "$here/build/without-libdw"
fi

left=$(missing | tr '\n' ' ')
pip_names=
case " $left" in *" meson "*) pip_names="meson" ;; esac
case " $left" in *" ninja "*) pip_names="$pip_names ninja" ;; esac
case " $left" in *" pytest "*) pip_names="$pip_names pytest" ;; esac
if [ -n "$pip_names" ]; then
    have python3 && install_in_venv $pip_names || true
    left=$(missing | tr '\n' ' ')
fi
if [ -n "$left" ]; then
    echo "heapkeeper: still missing: $left(the package manager ended with $status; the end of $log:)" >&2
    tail -n 5 "$log" >&2
    echo "heapkeeper: try:  ${refresh:+$refresh && }$install $wanted" >&2
    exit 2
fi
