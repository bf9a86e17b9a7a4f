#!/bin/bash
# numpy's core tests on the heap, compared with stock Python: long doubles, scalars, arrays, text, buffers.
#
#   tools/numpy.sh [--python P] [--geometry NAME] [--build DIR] [TEST...]
#
# numpy, and what its tests need, come from the package index into a virtual environment in ~/.cache/heapkeeper/venvs (meson
# and ninja: mem_policy builds an extension). Tests are names of numpy's own, without test_ (default: those below). What
# fails on stock as well is no failure of ours; what stock runs and we do not is. (Some of numpy's tests skip themselves
# at random.) Exit status: 0 nothing failed, 1 something did, 2 it cannot run here.
set -u

here=$(cd "$(dirname "$0")/.." && pwd -P)
python=python3 build=$here/build
options=()
while [ $# -gt 0 ]; do
    case $1 in
    --python) python=$2; shift 2 ;;
    --geometry) options=(--geometry "$2"); shift 2 ;;
    --build) build=$2; shift 2 ;;
    -*) echo "usage: tools/numpy.sh [--python P] [--geometry NAME] [--build DIR] [TEST...]" >&2; exit 2 ;;
    *) break ;;
    esac
done
[ $# -gt 0 ] || set -- longdouble scalarmath multiarray dtype scalar_ctors print umath mem_overlap mem_policy strings

[ -x "$build/heapkeeper" ] || { echo "numpy: $build/heapkeeper is not there; build it: make" >&2; exit 2; }
version=$("$python" -c 'import platform; print(platform.python_version())') || exit 2
venv=${XDG_CACHE_HOME:-$HOME/.cache}/heapkeeper/venvs/numpy-$version
if ! "$venv/bin/python" -c 'import numpy, pytest, hypothesis, mesonbuild' 2>/dev/null; then
    "$python" -m venv --clear "$venv" && "$venv/bin/pip" install -q numpy pytest hypothesis meson ninja setuptools ||
        { echo "numpy: the virtual environment $venv cannot be made" >&2; exit 2; }
fi

scratch=$(mktemp -d /tmp/heapkeeper-numpy.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
core=$("$venv/bin/python" -c 'import numpy, os; print(os.path.join(os.path.dirname(numpy.__file__),
    "_core" if int(numpy.__version__.split(".")[0]) > 1 else "core", "tests"))')
files=()
for name; do
    [ -f "$core/test_$name.py" ] && files+=("$core/test_$name.py")
done

# One side: the outcome of each test, sorted, and the exit status of pytest.
side() {
    local name=$1
    shift
    (cd "$scratch" && PATH=$venv/bin:$PATH HEAPKEEPER_DIR=$scratch "$@" "$venv/bin/python" -m pytest -p no:cacheprovider --hypothesis-seed=0 \
        -o addopts= -v --tb=no -W ignore "${files[@]}") >"$scratch/$name.log" 2>&1 </dev/null
    echo $? >"$scratch/$name.status"
    sed -nE 's/^.*(test_[a-z_]+\.py::.*) (PASSED|SKIPPED|FAILED|ERROR|XFAIL|XPASS)( .*)?$/\1 \2/p' "$scratch/$name.log" |
        sort >"$scratch/$name"
    sed -E 's/ [A-Z]+$//' "$scratch/$name" | sort -u >"$scratch/$name.ran"
    grep -E ' (FAILED|ERROR)$' "$scratch/$name" | sed -E 's/ [A-Z]+$//' | sort -u >"$scratch/$name.failed"
}

side stock
side ours "$build/heapkeeper" run "${options[@]}" -o "$scratch/capture"
[ -s "$scratch/capture" ] && "$build/heapkeeper" report "$scratch/capture" 2>/dev/null | grep -E '^HEAP'
if [ "$(cat "$scratch/ours.status")" -gt 1 ]; then
    tail -n 20 "$scratch/ours.log"
    echo "numpy: the tests did not come to their end (exit status $(cat "$scratch/ours.status"))"
    exit 1
fi
{
    comm -13 "$scratch/stock.failed" "$scratch/ours.failed"
    comm -23 "$scratch/stock.ran" "$scratch/ours.ran" | sed 's/$/ (not run)/'
} >"$scratch/worse"
cat "$scratch/worse"
echo "numpy $("$venv/bin/python" -c 'import numpy; print(numpy.__version__)') on Python $version:" \
    "$(grep -c ' PASSED$' "$scratch/ours") passed, $(wc -l <"$scratch/worse") failed"
[ ! -s "$scratch/worse" ] && grep -q ' PASSED$' "$scratch/ours"
