#!/bin/bash
# Runs the benchmarks, C first. `make bench ARGS=micro` or `ARGS=macro` runs one kind.
set -u

build=${1:-build} which=${2:-all}
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here" || exit 1
status=0
if [ "$which" != macro ] && [ -x "$build/bench/bench_micro" ]; then
    "$build/bench/bench_micro" || status=1
fi
if [ "$which" != micro ] && [ -f bench/macro.py ]; then
    "${PYTHON:-python3}" bench/macro.py || status=1
fi
exit $status
