#!/bin/bash
# The C tests under valgrind's memcheck: what a library that lays out memory by hand may read and write.
#
#   tools/valgrind.sh BUILD [TEST...]     TEST: a program's name without test_ (default: all but those in `slow` and `replaced`)
#
# One line each, with its seconds, then "N clean, N failed in N s". Exit status 1: one failed, or none ran. VALGRIND_SECONDS: for
# each (600).
set -u

build=${1:-build}
shift $(($# < 1 ? $# : 1))
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here" || exit 1
# A million stacks, hundreds of forks beside busy threads, whole simulated runs: hours there, and done by `make test`.
slow=' record_bound record_fork read_growth '
# They test the malloc that is preloaded into them, which valgrind replaces by its own.
replaced=' malloc_family malloc_signals '

command -v valgrind >/dev/null || { echo "valgrind is not installed" >&2; exit 1; }
output=$(mktemp) clean=0 failed=0
trap 'rm -f "$output"' EXIT
for program in "$build"/tests/c/test_*; do
    name=${program##*/test_}
    [ -f "$program" ] && [ -x "$program" ] || continue
    if [ $# -gt 0 ]; then
        [[ " $* " == *" $name "* ]] || continue
    elif [[ $slow$replaced == *" $name "* ]]; then
        continue
    fi
    started=$SECONDS
    timeout "${VALGRIND_SECONDS:-600}" valgrind -q --error-exitcode=1 --leak-check=no \
        --suppressions=tests/c/valgrind.supp "$program" >"$output" 2>&1
    status=$?
    if [ $status = 0 ]; then
        clean=$((clean + 1))
        echo "clean    $name ($((SECONDS - started)) s)"
    else
        failed=$((failed + 1))
        echo "FAILED   $name: $([ $status = 124 ] && echo 'no end in time' || echo "status $status")"
        grep -aE '^==|ERROR|LINE|FAILED' "$output" | head -40
    fi
done
echo "$clean clean, $failed failed in $SECONDS s"
[ $clean -gt 0 ] && [ $failed = 0 ]
