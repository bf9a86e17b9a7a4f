#!/bin/sh
# A Jupyter kernel for the tests of the magics (tests/py/test_magics.py): ipykernel and nbclient from PyPI in an environment of each
# Python's own, build/notebooks/3.N. The tests are skipped, and say so, where this did not run.
#
#   tools/notebooks.sh [PYTHON...]       install what is missing, for these (default: python3, and pyenv's)
#   tools/notebooks.sh --check PYTHON    exit 2 if it is missing
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
log=$here/build/notebooks.log
mkdir -p "$here/build"

check=
[ "${1:-}" != --check ] || { check=yes; shift; }
[ $# -gt 0 ] || set -- python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3
status=0
for python in "$@"; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.version_info >= (3, 9))' 2>/dev/null) || continue
    [ "${version#* }" = True ] || continue
    environment=$here/build/notebooks/${version% *}
    if ! "$environment/bin/python" -c 'import ipykernel, nbclient' 2>/dev/null && [ -z "$check" ]; then
        echo "heapkeeper: installing ipykernel and nbclient into build/notebooks/${version% *} with pip" >&2
        "$python" -m venv "$environment" >>"$log" 2>&1 && "$environment/bin/pip" install -q ipykernel nbclient nbconvert >>"$log" 2>&1 || true
    fi
    "$environment/bin/python" -c 'import ipykernel, nbclient' 2>/dev/null || {
        echo "heapkeeper: no ipykernel and nbclient in build/notebooks/${version% *}; tools/notebooks.sh $python installs them" >&2
        status=2
    }
done
exit $status
