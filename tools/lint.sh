#!/bin/bash
# What a reviewer should not have to say: layout, warnings, leftovers.
#
#   tools/lint.sh [--no-build]
#
# The layout is advice (versions of clang-format disagree with one another); the rest must hold.
# Exit status: 0 clean, 1 something to fix. A tool that is not installed is named and skipped.
set -u

here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here" || exit 1
status=0
say() { printf 'lint: %s\n' "$*"; }

mapfile -t sources < <(git ls-files '*.c' '*.h')
if command -v clang-format >/dev/null 2>&1 && [ ${#sources[@]} -gt 0 ]; then
    places=$(clang-format --dry-run "${sources[@]}" 2>&1 | grep -oE '^[^:]+\.[ch]:.*warning:' | cut -d: -f1 | sort | uniq -c)
    if [ -n "$places" ]; then
        say "advice: layout differs from .clang-format (places, file); clang-format -i FILE mends it"
        echo "$places"
    fi
else
    say "clang-format is not installed: layout not checked"
fi

if [ "${1:-}" != --no-build ]; then
    mkdir -p build
    make -s WERROR=1 build >build/lint.log 2>&1 || {
        grep -E 'error|warning' build/lint.log | head -20
        say "the build has warnings or fails; the log is build/lint.log"
        status=1
    }
fi

# A C file that no meson.build names is silently not built.
while read -r file; do
    directory=$(dirname "$file")
    name=$(basename "$file" .c)
    name=${name#test_} name=${name#fuzz_}
    grep -qE "'(test_|fuzz_)?$name(\.c)?'" "$directory/meson.build" 2>/dev/null || {
        say "$file is not named in $directory/meson.build"
        status=1
    }
done < <(git ls-files 'src/*.c' 'tests/*.c' 'examples/*.c')

python3 -m compileall -q python tests examples tools bench || { say "a Python file does not compile"; status=1; }

if command -v node >/dev/null 2>&1; then
    for file in $(git ls-files '*.js'); do
        node --check "$file" || { say "$file is no JavaScript"; status=1; }
    done
else
    say "node is not installed: JavaScript not checked"
fi

if command -v shellcheck >/dev/null 2>&1; then
    shellcheck -S warning .ci/run $(git ls-files 'tools/*.sh') || status=1
fi

# Text that belongs to one machine or to a registry, and would break or mislead elsewhere. The patterns are written so
# that they do not match themselves.
leftovers='(^|[^A-Za-z0-9_.])/(work|root)/|[a-z]\.deb[i]an\.org|pypi\.or[g]|pythonhosted\.or[g]|crates\.i[o]/|npmjs\.or[g]|proxy\.golan[g]'
if git grep -nIE "$leftovers" -- . ':!tools/lint.sh'; then
    say "leftovers: a machine's path or a registry's host (above)"
    status=1
fi
if git grep -nIE '[[:blank:]]+$' -- '*.c' '*.h' '*.py' '*.sh' '*.build' '*.js' '*.css' '*.html' Makefile; then
    say "trailing blanks (above)"
    status=1
fi

[ $status = 0 ] && say "clean"
exit $status
