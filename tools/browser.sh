#!/bin/sh
# A browser for the tests of the pages (tests/py/test_pages_browser.py): Chromium by the system's package manager, and
# Playwright from PyPI in an environment of its own, build/browser. The tests are skipped, and say so, where this did not run.
#
#   tools/browser.sh             install what is missing
#   tools/browser.sh --check     exit 2, and say what is missing
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
environment=$here/build/browser
log=$here/build/browser.log
mkdir -p "$here/build"

chromium() {
    for name in "${HEAPKEEPER_CHROMIUM:-}" chromium chromium-browser google-chrome; do
        [ -z "$name" ] || command -v "$name" >/dev/null 2>&1 || continue
        [ -z "$name" ] || { command -v "$name"; return; }
    done
}

missing() {
    [ -n "$(chromium)" ] || echo "Chromium"
    "$environment/bin/python" -c 'import playwright' 2>/dev/null || echo "Playwright in build/browser"
}

lacking=$(missing)
[ -n "$lacking" ] || exit 0
if [ "${1:-}" != --check ]; then
    : >"$log"
    root=
    [ "$(id -u)" = 0 ] || root="sudo -n"
    if [ -z "$(chromium)" ] && command -v apt-get >/dev/null 2>&1; then
        echo "heapkeeper: installing chromium for the tests of pages" >&2
        $root env DEBIAN_FRONTEND=noninteractive apt-get update >>"$log" 2>&1 </dev/null || true
        $root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium fonts-dejavu-core \
            >>"$log" 2>&1 </dev/null || true
    fi
    python=$("$here/tools/bootstrap.sh" --pytest-python)
    if ! "$environment/bin/python" -c 'import playwright' 2>/dev/null && [ -n "$python" ]; then
        echo "heapkeeper: installing playwright into build/browser with pip" >&2
        "$python" -m venv "$environment" >>"$log" 2>&1 && "$environment/bin/pip" install -q playwright >>"$log" 2>&1 || true
    fi
    lacking=$(missing)
    [ -n "$lacking" ] || exit 0
fi
echo "heapkeeper: no browser for the tests of pages; missing:" $lacking >&2
exit 2
