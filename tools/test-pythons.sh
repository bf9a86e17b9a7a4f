#!/bin/bash
# Runs the Python tests once on every Python that is there: pyenv's 3.9 and later, the system's, and those in the
# chroots that tools/chroots.sh makes (it is called to make them when we are root; it says so when it cannot).
#
#   tools/test-pythons.sh BUILD [--no-chroots] [PYTEST-ARGUMENT...]
#
# pytest runs under one Python and the tests start another, $HEAPKEEPER_TEST_PYTHON. In a chroot, pytest is that
# system's own. Exit status: 0 all passed, 1 a test failed or no Python was there.
set -u

build=${1:-build}
shift $(($# < 1 ? $# : 1))
chroots=yes
if [ "${1:-}" = --no-chroots ]; then
    chroots=no
    shift
fi
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here" || exit 1
runner=$(tools/bootstrap.sh --pytest-python)
status=0
ran=0
results=()

note() { # NAME EXIT-STATUS OUTPUT-FILE
    local closing
    closing=$(tail -n 1 "$3" | sed 's/^=* *//; s/ *=*$//')
    results+=("$(printf '%-28s %s' "$1" "$closing")")
    if [ "$2" != 0 ]; then
        status=1
    fi
    ran=$((ran + 1))
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

for python in "$HOME"/.pyenv/versions/3.*/bin/python3 /usr/bin/python3 /usr/local/bin/python3; do
    [ -x "$python" ] || continue
    version=$("$python" -c 'import sys; print(sys.version_info >= (3, 9) and sys.version.split()[0] or "")' 2>/dev/null)
    [ -n "$version" ] || continue
    echo "== Python $version, $python"
    HEAPKEEPER_BUILD=$here/$build HEAPKEEPER_TEST_PYTHON=$python \
        "$runner" -m pytest tests/py -q -p no:cacheprovider "$@" 2>&1 | tee "$log"
    note "$version ($(dirname "$(dirname "$python")" | sed "s|$HOME|~|"))" "${PIPESTATUS[0]}" "$log"
done

if [ $chroots = yes ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "== chroots: not root, so the Pythons of Debian 13 and unstable are not tested"
    elif ! tools/chroots.sh setup; then
        echo "== chroots: could not be made here, so the Pythons of Debian 13 and unstable are not tested"
    else
        while read -r name python version; do
            echo "== Python $version, chroot $name"
            # shellcheck disable=SC2016 # for the inner shell
            tools/chroots.sh exec "$name" -- sh -c '
                python3 -c "import pytest" 2>/dev/null || {
                    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
                        --no-install-recommends python3-pytest; } >/tmp/heapkeeper-chroot.log 2>&1 ||
                    { tail -n 3 /tmp/heapkeeper-chroot.log; echo "pytest could not be installed"; exit 1; }
                build=$1 python=$2
                shift 2
                cd "$(dirname "$build")" || exit 1
                HEAPKEEPER_BUILD=$build HEAPKEEPER_TEST_PYTHON=$python \
                    exec python3 -m pytest tests/py -q -p no:cacheprovider "$@"
            ' sh "$here/$build" "$python" "$@" </dev/null 2>&1 | tee "$log"
            note "$version (chroot $name)" "${PIPESTATUS[0]}" "$log"
        done < <(tools/chroots.sh list)
    fi
fi

echo "== Pythons"
printf '%s\n' "${results[@]}"
if [ $ran = 0 ]; then
    echo "no Python was there to test"
    status=1
fi
exit $status
