#!/bin/sh
# memory_profiler's own test scripts, for tests/py/test_memory_profiler.py, which runs them against heapkeeper.memory_profiler:
# the source distribution, fetched with pip into build/memory_profiler (it is not part of this repository). Without it, or
# without a network, those tests are skipped, and say so.
#
#   tools/memory-profiler.sh             fetch it if it is not there; prints the directory of the scripts
#   tools/memory-profiler.sh --check     exit 2 if it is not there
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
directory=$here/build/memory_profiler
version=0.61.0
sum=4e5b73d7864a1d1292fb76a03e82a3e78ef934d06828a698d9dada76da2067b0
scripts=$directory/memory_profiler-$version/test

if [ ! -d "$scripts" ] && [ "${1:-}" != --check ]; then
    mkdir -p "$directory"
    python=$("$here/tools/bootstrap.sh" --pytest-python)
    "${python:-python3}" -m venv "$directory/venv" >"$directory/log" 2>&1 &&
        "$directory/venv/bin/pip" download -q --no-deps --no-binary :all: -d "$directory" "memory_profiler==$version" >>"$directory/log" 2>&1 &&
        echo "$sum  $directory/memory_profiler-$version.tar.gz" | sha256sum -c --quiet - >>"$directory/log" 2>&1 &&
        tar -xzf "$directory/memory_profiler-$version.tar.gz" -C "$directory" || true
fi
if [ -d "$scripts" ]; then
    echo "$scripts"
else
    echo "heapkeeper: memory_profiler's scripts are not in build/memory_profiler; tools/memory-profiler.sh fetches them" >&2
    exit 2
fi
