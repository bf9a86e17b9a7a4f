#!/bin/sh
# tools/peaks.sh [COUNT [PYTHON]]: the peaks of COUNT (default 1000) random programs, by heapkeeper.tracemalloc and by CPython's own.
# Prints how many differ, and ends with 1 if one does.
set -eu
cd "$(dirname "$0")/.."
count=${1:-1000} python=${2:-python3} build=${HEAPKEEPER_BUILD:-$PWD/build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONHASHSEED=0
"$python" tests/py/peak_program.py standard "$count" >"$work/theirs"
PYTHONPATH=$PWD/python "$build/heapkeeper" run --exact -o /dev/null --python "$python" tests/py/peak_program.py ours "$count" >"$work/ours"
paste "$work/theirs" "$work/ours" | awk '
    $1 != $2 { differ++; if (differ <= 10) print "program " NR - 1 ": tracemalloc " $1 ", ours " $2 }
    END { print NR " programs, " differ + 0 " peaks differ"; exit NR == 0 || differ > 0 }'
