#!/bin/bash
# Runs the tests and ends with the runners' own closing lines.
#
#   tools/test.sh BUILD all|c|py [ARGUMENT...]     arguments go to the runner (for `all`: to pytest)
#
# Exit status: 0 all passed, 1 a test failed or none ran.
set -u

build=${1:-build} which=${2:-all}
shift $(($# < 2 ? $# : 2))
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here" || exit 1
status=0

c_tests() {
    local log=$build/meson-logs/testlog.txt passed failed rc=0
    rm -f "$log"
    # Two at a time: more only makes timing-sensitive programs wait for one another.
    meson test -C "$build" --print-errorlogs --num-processes "${JOBS:-2}" "$@" || rc=$?
    [ -f "$log" ] || { echo "no C test ran"; return 1; }
    # Meson keeps each program's output in its log; what cmocka itself says of its tests stands there.
    grep -ahE '^\[  (PASSED|FAILED)  \] [0-9]+ test' "$log"
    passed=$(grep -ahoE '^\[  PASSED  \] [0-9]+' "$log" | awk '{ n += $4 } END { print n + 0 }')
    failed=$(grep -ahoE '^\[  FAILED  \] [0-9]+' "$log" | awk '{ n += $4 } END { print n + 0 }')
    echo "C: $passed passed, $failed failed"
    if [ "$passed" = 0 ]; then
        echo "no C test passed"
        rc=1
    fi
    return $rc
}

py_tests() {
    local python
    python=$(tools/bootstrap.sh --pytest-python)
    HEAPKEEPER_BUILD=$here/$build tools/pytest-twice.sh "$here/$build/pytest-cache" "$python" tests/py -q -ra "$@"
}

case $which in
c) c_tests "$@" || status=1 ;;
py) py_tests "$@" || status=1 ;;
all)
    c_tests || status=1
    py_tests "$@" || status=1
    ;;
*)
    echo "usage: tools/test.sh BUILD all|c|py [ARGUMENT...]" >&2
    exit 2
    ;;
esac
exit $status
