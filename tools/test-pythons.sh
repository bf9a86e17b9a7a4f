#!/bin/bash
# The Python tests on every Python there is: pyenv's, the system's and those of the Debian chroots.
#
#   tools/test-pythons.sh [BUILD] [-o ONLY] [PYTEST ARGUMENT...]
#
# For each interpreter: a virtual environment with pytest (kept in ~/.cache/heapkeeper/venvs, in a chroot in its own
# /var/cache), `pytest tests/py` without the tests that are marked `once`, and the memory-related modules of CPython's own suite (tools/regrtest.py --quick),
# where the interpreter has one. Arguments for pytest leave the latter out; HEAPKEEPER_SUITE=0 does, too. ONLY is a
# pattern over the names that are printed, e.g. `-o 'sid*'`. Three interpreters at a time (JOBS=N): tests mostly wait.
#
# In a chroot the build of the host is used: it needs an older glibc than theirs. Where chroots cannot be made (not
# root, no mirror) a line says so and the others are run. Exit status: 0 nothing failed, 1 something did.
set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
cd "$here" || exit 1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/heapkeeper
chroots=$here/tools/chroots.sh

# "NAME CHROOT PYTHON", one interpreter a line; CHROOT is - for the host.
host_pythons() {
    local python version seen=" "
    for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3 /usr/bin/python3 "$(command -v python3)"; do
        [ -x "$python" ] || continue
        version=$("$python" -c 'import platform, sys
if (3, 9) <= sys.version_info[:2] <= (3, 15) and platform.python_implementation() == "CPython":
    print(platform.python_version(), sys._base_executable)' 2>/dev/null)
        [ -n "$version" ] || continue
        case $seen in *" ${version#* } "*) continue ;; esac
        seen="$seen${version#* } "
        case $python in
        /usr/bin/*) echo "system-${version% *} - ${version#* }" ;;
        *) echo "${version% *} - ${version#* }" ;;
        esac
    done
}

chroot_pythons() {
    local said status=0 name python version
    said=$(HEAPKEEPER_CHROOTS=${HEAPKEEPER_CHROOTS:-} "$chroots" setup 2>&1) || status=$?
    if [ $status != 0 ]; then
        printf '%s\n' "$said" | tail -n 3 >&2
        echo "test-pythons: the Debian chroots cannot be made here; Debian 13's and unstable's Pythons are left out" >&2
        return
    fi
    "$chroots" list | while read -r name python version; do
        echo "$name-$version $name $python"
    done
}

# Runs the words inside, or on the host.
in_place() {
    local chroot=$1
    shift
    if [ "$chroot" = - ]; then
        "$@"
    else
        "$chroots" exec "$chroot" -- "$@"
    fi
}

# An environment with pytest; greenlet for the tests that know it, where it can be had.
environment() {
    local name=$1 chroot=$2 python=$3 venv=$cache/venvs/$1
    [ "$chroot" = - ] || venv=/var/cache/heapkeeper-venvs/$name
    if ! in_place "$chroot" "$venv/bin/python" -c 'import pytest' 2>/dev/null; then
        in_place "$chroot" "$python" -m venv --clear "$venv" &&
            in_place "$chroot" "$venv/bin/python" -m pip install -q pytest || return 1
        in_place "$chroot" "$venv/bin/python" -m pip install -q --only-binary :all: greenlet >/dev/null 2>&1 || true
    fi >&2
    echo "$venv/bin/python"
}

# pytest in the interpreter's environment. Statuses as pytest's; 1: tests ran, and some failed.
pytest_of() { # NAME CHROOT PYTHON ARGUMENT...
    local name=$1 chroot=$2 python=$3 venv
    shift 3
    venv=$(environment "$name" "$chroot" "$python") || { echo "no virtual environment with pytest"; return 2; }
    in_place "$chroot" env HEAPKEEPER_BUILD="$here/$build" HEAPKEEPER_TEST_PYTHONS="$venv" \
        "$venv" -m pytest -o cache_dir="$logs/$name.cache" tests/py -q -ra -m 'not once' "$@"
}

# One interpreter, whole; the output is the log.
one() {
    local name=$1 chroot=$2 python=$3 rc=0 suite=0
    pytest_of "$@" || rc=$?
    if [ "${HEAPKEEPER_SUITE:-1}" != 0 ] && [ $# = 3 ]; then
        local place=()
        [ "$chroot" = - ] || place=(--chroot "$chroot")
        HEAPKEEPER_BUILD=$here/$build python3 tools/regrtest.py --quick --jobs 1 --python "$python" "${place[@]}" ||
            suite=$?
        [ $suite = 2 ] && echo "CPython's own suite: left out"
        [ $suite != 1 ] || rc=3
    fi
    return $rc
}

# One of the two, `one` or `again`, with a log of its own; says how it went in one line.
logged() {
    local how=$1 name=$2 log=$logs/$2.log started=$SECONDS rc=0 tests suite
    shift
    "$how" "$@" >>"$log" 2>&1 </dev/null || rc=$?
    tests=$(grep -aE '^[=]* ?[0-9]+ (passed|failed|skipped|error).* in [0-9.]+s' "$log" | tail -n 1 | tr -d =)
    suite=$(grep -aE '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1)
    [ $rc = 0 ] || { printf '\n--- %s: the end of %s\n' "$name" "$log"; tail -n 40 "$log"; } >&2
    printf '%-18s %-6s %5d s   pytest: %s   suite: %s\n' "$name" "$([ $rc = 0 ] && echo ok || echo FAILED)" \
        $((SECONDS - started)) "${tests:-none ran}" "${suite:-left out}" | tee "$logs/$name.verdict"
    [ $rc != 1 ] || printf '%s\0' "$@" >"$logs/$name.again"
}

# What failed before.
again() {
    echo "Once more, alone, what failed:"
    pytest_of "$@" --last-failed --last-failed-no-failures none
}

if [ "${1:-}" = --logged ]; then
    build=$2 logs=$3
    shift 3
    logged one "$@"
    exit 0
fi

build=${1:-build} only='*'
shift $(($# > 0))
if [ "${1:-}" = -o ]; then
    only=$2
    shift 2
fi
[ -e "$build/heapkeeper" ] || { echo "test-pythons: $build/heapkeeper is not there; run make first" >&2; exit 1; }
logs=$here/$build/test-pythons
rm -rf "$logs"
mkdir -p "$logs"

# Words of a line are passed on as words: no path here has a space but pytest's arguments may.
{
    host_pythons
    chroot_pythons
} | while read -r name chroot python; do
    # shellcheck disable=SC2254 # a pattern
    case $name in $only) printf '%s\0%s\0%s\0' "$name" "$chroot" "$python" ;; esac
done | xargs -0 -r -n 3 -P "${JOBS:-3}" bash -c 'exec "$0" --logged "${@:(-5):2}" "${@:(-3)}" "${@:1:$#-5}"' \
    "$0" "$@" "$build" "$logs"

# Programs that are killed at random moments, or compared with stock under a limit, share the machine with two other
# interpreters' tests and with whatever else runs: what fails is run once more when all the others have ended.
for failed in "$logs"/*.again; do
    [ -e "$failed" ] || continue
    mapfile -d '' -t words <"$failed"
    logged again "${words[@]}"
done

[ -n "$(ls "$logs"/*.verdict 2>/dev/null)" ] || { echo "test-pythons: no Python to test"; exit 1; }
printf '\nevery Python (logs: %s)\n' "$build/test-pythons"
sort -V "$logs"/*.verdict
# What failed by name, last: a log that is cut keeps its end. A test that passed when it was repeated stands here once.
(cd "$logs" && grep -aHE '^(FAILED|ERROR) ' -- *.log | cut -c 1-300)
failed=$(grep -c ' FAILED ' <(cat "$logs"/*.verdict))
echo "$(($(cat "$logs"/*.verdict | wc -l) - failed)) passed, $failed failed"
[ "$failed" = 0 ]
