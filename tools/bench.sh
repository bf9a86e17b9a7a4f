#!/bin/bash
# Runs the benchmarks.
#
#   tools/bench.sh [micro | macro | memory | programs | gc | exact | bias | growing] [ARGUMENT...]
#
# Without a name: micro, macro and memory, which is long. Arguments go to the program (bench/NAME.py --help).
set -u

cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
which=${1:-all}
shift $(($# < 1 ? $# : 1))

one() {
    case $1 in
    memory) shift && "$python" bench/macro.py --memory "$@" ;;
    micro | macro | programs | gc | exact | bias | growing) name=$1 && shift && "$python" "bench/$name.py" "$@" ;;
    *)
        echo "bench: no benchmark '$1'; there are micro, macro, memory, programs, gc, exact, bias, growing" >&2
        return 2
        ;;
    esac
}

status=0
if [ "$which" = all ]; then
    for name in micro macro memory; do
        one $name || status=1
    done
else
    one "$which" "$@" || status=$?
fi
exit $status
