#!/bin/sh
# Runs pytest and, where tests failed, those once more: what fails twice has failed. Programs that are killed at random
# moments, or compared with stock under a limit, share the machine with whatever else runs on it.
#
#   tools/pytest-twice.sh CACHE PYTHON ARGUMENT...     CACHE: a directory for what failed
set -u

cache=$1 python=$2
shift 2
"$python" -m pytest -o cache_dir="$cache" "$@"
status=$?
[ $status = 1 ] || exit $status # 1: tests ran, and some failed
echo "Once more, what failed:"
exec "$python" -m pytest -o cache_dir="$cache" --last-failed --last-failed-no-failures none "$@"
