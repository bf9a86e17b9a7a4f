"""The examples in C prove what their first lines claim, in both geometries, and compile as their reader would compile them:
with what pkg-config says of an installed tree."""

import glob
import json
import os
import re
import shutil
import subprocess

import pytest

from conftest import BUILD, COMMAND, TREE, clean_environment, execute

pytestmark = pytest.mark.once

EXAMPLES = os.path.join(TREE, "examples")
NAMES = sorted(os.path.basename(path)[:-2] for path in glob.glob(os.path.join(EXAMPLES, "*.c")))
TOOLS = os.path.join(TREE, "build", "tools")  # a Meson that the distribution does not have
PACKAGES = {"lua_heap": "lua5.4", "sqlite_heap": "sqlite3"}  # what they are about, besides heapkeeper
BOTH = pytest.mark.parametrize("geometry", ["", "_guide"])


def run_example(name, geometry, *words):
    done = execute([os.path.join(BUILD, "examples", name + geometry), *words])
    assert (done.status, done.err) == (0, b"")
    return done.out.decode()


def numbers(pattern, text):
    """The groups of the one place where the pattern stands."""
    found = re.findall(pattern, text)
    assert len(found) == 1, "%r in %r" % (pattern, text)
    return [int(group) for group in (found[0] if isinstance(found[0], tuple) else found)]


# --- what they say ---


@BOTH
def test_embed_shows_a_heap_whose_figures_add_up(geometry):
    out = run_example("embed", geometry)
    assert out.startswith("went it of byte every where says that heap a\n")
    for line in re.findall(r".* = \d+ bytes mapped", out):
        *classes, mapped = map(int, re.findall(r"\d+", line))
        assert sum(classes) == mapped


@BOTH
def test_buffer_keeps_the_newest_messages_and_most_of_the_array_is_theirs(geometry):
    out = run_example("buffer", geometry)
    sent, kept = numbers(r"^(\d+) messages sent, the newest (\d+) kept, intact\n", out)
    theirs, array, own = numbers(r"(\d+) of (\d+) bytes are theirs; the heap needs (\d+) for itself", out)
    assert 0 < kept < sent
    assert array * 0.6 < theirs < array - own
    assert out.endswith("a message of 1 MiB: refused\n")


@BOTH
def test_cache_fills_what_it_is_allowed_and_never_takes_more(geometry):
    out = run_example("limits", geometry)
    requests, hits, calls, dropped = numbers(
        r"(\d+) requests, (\d+) from the cache; at_limit was called (\d+) times and dropped (\d+) pages", out)
    most, allowed = numbers(r"took (\d+) bytes at most, of (\d+) allowed: within\n", out)
    assert 0 < hits < requests and 0 < calls <= dropped < requests
    assert allowed * 0.9 < most <= allowed


@BOTH
def test_heap_in_a_file_has_little_of_it_resident_and_all_of_it_intact(geometry, tmp_path):
    path = tmp_path / "heap"
    out = run_example("file_heap", geometry, str(path), "32")
    count, mib, file, resident = numbers(r"(\d+) records, (\d+) MiB, in a file of (\d+) MiB; (\d+) MiB were resident", out)
    assert numbers(r"(\d+) of them are as they were written", out) == [count]
    assert mib == 32 and mib <= file <= mib * 1.5
    assert path.stat().st_size >> 20 == file
    assert resident < mib / 2


@BOTH
def test_heap_in_a_file_on_a_full_disk_is_null_and_goes_on(geometry, tmp_path):
    command = os.path.join(BUILD, "examples", "file_heap" + geometry)
    script = 'mount -t tmpfs -o size=4m none "$1" && echo mounted && exec "$0" "$1/heap"'
    if not shutil.which("unshare"):
        pytest.skip("no unshare")
    done = execute(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, command, str(tmp_path)])
    if not done.out.startswith(b"mounted\n"):
        pytest.skip("no file system may be mounted here: " + done.err.decode()[-200:])
    assert (done.status, done.err) == (0, b"")
    out = done.out.decode()
    assert "the disk is full: hk_malloc says NULL\n" in out
    count, mib = numbers(r"(\d+) records, (\d+) MiB, in a file of \d+ MiB", out)
    assert count > 0 and 2 <= mib <= 4
    assert numbers(r"(\d+) of them are as they were written", out) == [count]


@BOTH
def test_requests_are_answered_alike_and_their_heaps_leave_nothing(geometry):
    out = run_example("requests", geometry)
    assert numbers(r"(\d+) requests of (\d+) blocks each, with the same answers\n", out) == [2000, 1500]
    assert "; 0 blocks left\n" in out


def program_on_runtime(name):
    """Its path; skips where the library that it is about was not there to build it, or is not here to run it."""
    path = os.path.join(BUILD, "examples", name)
    if name in PACKAGES and not os.path.exists(path):
        pytest.skip("built without " + PACKAGES[name])
    if name in PACKAGES and b"not found" in execute(["ldd", path]).out:
        pytest.skip("no %s here" % PACKAGES[name])
    return path


def run_on_runtime(name, *words, status=0, input=None):
    path = program_on_runtime(name)
    done = execute([path, *words], input=input)
    assert done.status == status, done.err.decode()
    return done


def frames_under_run(tmp_path, name, *words):
    """What a program prints under `heapkeeper run`, and the stacks of its objects and memory there, outermost first."""
    path, capture = program_on_runtime(name), str(tmp_path / "capture")
    done = execute([COMMAND, "run", "--sample=2K", "-o", capture, path, *words])
    assert (done.status, done.err) == (0, b"")
    report = execute([COMMAND, "report", "--json", capture])
    assert report.status == 0, report.err.decode()
    sites = [site for site in json.loads(report.out)["sites"] if site["domain"] in ("object", "mem")]
    stacks = [[(frame["function"], frame["file"], frame["line"]) for frame in site["stack"]] for site in sites]
    return done.out.decode(), stacks


def test_scheme_passes_its_own_tests_and_its_prompt_answers():
    done = run_on_runtime("scheme/scheme", os.path.join(EXAMPLES, "scheme", "tests.scm"))
    assert re.fullmatch(rb"\d+ checks passed\n", done.out)
    said = b"""(define (twice f) (lambda (x) (f (f x))))
        ((twice (twice (lambda (x) (* x
            3)))) 1)
        (car 5) 'after "an error" (vector 1 2.5 #t '(a . b))
        nowhere
        ("""
    done = run_on_runtime("scheme/scheme", input=said)
    assert done.out.decode().splitlines() == [
        "81", "error: car: not a pair: 5", "after", '"an error"', "#(1 2.5 #t (a . b))", "error: unbound: nowhere"]


def test_scheme_recurses_a_million_deep_on_a_small_c_stack_and_ends_endless_recursion_with_an_error():
    program = b"""(define (deep n) (if (= n 0) 0 (+ 1 (deep (- n 1)))))
        (deep 1000000)
        (define (endless n) (+ 1 (endless n)))
        (endless 1)
        (deep 1000)"""
    command = "ulimit -s 256 && ulimit -v 4000000 && exec " + os.path.join(BUILD, "examples", "scheme", "scheme")
    if "build-address" in BUILD:
        pytest.skip("a sanitizer needs addresses")
    done = execute(["sh", "-c", command], input=program)
    assert (done.status, done.out) == (0, b"1000000\nerror: out of memory\n1000\n")


def test_scheme_reports_an_error_in_a_file_and_what_cannot_be_read(tmp_path):
    for text, wanted in [("(+ 1 'a)", "not a number: a"), ("(f", "line 1: the end, and a ) is missing"),
                         ("(let ((x)) x)", "malformed: (x)"), ("\n\n" + "(" * 2000, "line 3: nested too deep"),
                         ("((lambda (x) x))", "lambda: wrong number of arguments: 0")]:
        path = tmp_path / "program.scm"
        path.write_text(text)
        done = run_on_runtime("scheme/scheme", str(path), status=1)
        assert done.err.decode() == "%s: %s\n" % (path, wanted)


@pytest.mark.parametrize("seed", ["1", "20", "300"])
def test_scheme_runs_random_programs_right_and_live_memory_stays_flat(seed):
    """HEAPKEEPER_LONG: seconds, for the long run."""
    done = run_on_runtime("scheme/scheme", "--random", os.environ.get("HEAPKEEPER_LONG", "1"), seed)
    programs, first, most, last = numbers(
        r"(\d+) programs; live blocks after the first 500: (\d+), at most (\d+), at the end (\d+): flat\n", done.out.decode())
    assert programs >= 1500 and first <= last <= most <= first + 16


def test_scheme_functions_are_the_stacks_of_a_report(tmp_path):
    program = tmp_path / "program.scm"
    program.write_text("""(define (make n) (vector n (number->string n)))
(define (build n)
  (if (= n 0)
      '()
      (cons (make n)
            (build (- n 1)))))
(define all (build 5000))
(display (length all))
""")
    out, stacks = frames_under_run(tmp_path, "scheme/scheme", str(program))
    assert out == "5000"
    deepest = max(stacks, key=len)
    assert ("build", str(program), 5) in deepest
    assert any(stack[-1] == ("make", str(program), 1) for stack in stacks)


def test_scheme_runs_the_same_under_run_and_in_debug_mode():
    tests = os.path.join(EXAMPLES, "scheme", "tests.scm")
    stock = run_on_runtime("scheme/scheme", tests)
    for options in (["--sample=2K"], ["--no-record"], ["--debug"]):
        done = execute([COMMAND, "run", "-o", "/dev/null", *options, os.path.join(BUILD, "examples", "scheme", "scheme"), tests])
        assert (done.status, done.out) == (0, stock.out), done.err.decode()


@pytest.mark.parametrize("name", ["lua_heap", "sqlite_heap"])
def test_embedded_program_gives_on_our_memory_what_it_gives_on_the_c_allocators(name):
    out = run_on_runtime(name).out.decode()
    assert numbers(r"(\d+) bytes (?:said|of answers), on the C allocator and here: the same\n", out)[0] > 500
    served, left = numbers(r"(\d+) blocks were served; (\d+) left, of the stack of frames\n", out)
    assert served > 3000 and left <= 1  # how many is the library's matter, and differs by its version


def test_lua_functions_are_the_stacks_of_a_report(tmp_path):
    script = tmp_path / "script.lua"
    script.write_text("""local all = {}
local function remember(text)
    all[#all + 1] = text:rep(20)
end
function work(n)
    for i = 1, n do
        remember('word ' .. i)
        pcall(error, 'caught')
    end
    return n
end
print(work(3000) + 0)
local co = coroutine.wrap(function() remember('x') coroutine.yield(#all) end)
print(co())
""")
    out, stacks = frames_under_run(tmp_path, "lua_heap", str(script))
    assert out.startswith("3000\n3001\n")
    inner = [stack for stack in stacks if ("remember", str(script)[:59], 3) in stack or "remember" in [f[0] for f in stack]]
    assert inner and any([frame[0] for frame in stack][:3] == ["main chunk", "work", "remember"] for stack in inner)


def test_sql_statements_are_the_stacks_of_a_report(tmp_path):
    out, stacks = frames_under_run(tmp_path, "sqlite_heap")
    assert "the same\n" in out
    functions = {stack[0][0].split(" (")[0][:30] for stack in stacks if stack}
    assert any(name.startswith("WITH RECURSIVE n") for name in functions)
    assert any(name.startswith("SELECT a.name") for name in functions)


def test_leak_says_what_it_did():
    done = execute([os.path.join(BUILD, "examples", "leak"), "100"])
    assert re.match(rb"100 requests, \d+ bytes\n", done.out)


# --- how they are compiled ---


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """An environment in which pkg-config finds heapkeeper, and an installed tree in which it lies."""
    root = str(tmp_path_factory.mktemp("installed"))
    path = TOOLS + os.pathsep + os.environ["PATH"]
    for tool in ("meson", "pkg-config", "cc"):
        if not shutil.which(tool, path=path):
            pytest.skip("no " + tool)
    done = execute(["meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", root], env={"PATH": path})
    assert done.status == 0, done.err.decode()
    [config] = glob.glob(os.path.join(root, "**", "heapkeeper.pc"), recursive=True)
    return clean_environment(PKG_CONFIG_PATH=os.path.dirname(config), PKG_CONFIG_SYSROOT_DIR=root,
                             LD_LIBRARY_PATH=os.path.dirname(os.path.dirname(config)))


def compile_and_run(installed, tmp_path, compiler, source, library="heapkeeper"):
    """As a shell would do it."""
    flags = "$(pkg-config --cflags --libs %s)" % library
    other = PACKAGES.get(os.path.basename(source)[:-2])
    if other:  # it lies where it always does
        flags += " $(env -u PKG_CONFIG_SYSROOT_DIR pkg-config --cflags --libs %s)" % other
    command = '%s -Wall -Wextra -Werror -O2 "$1" %s -o "$2" && "$2"' % (compiler, flags)
    done = subprocess.run(["sh", "-c", command, "sh", source, str(tmp_path / "program")], env=installed, timeout=120,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_example_compiles_in_c11_against_an_installed_tree(installed, tmp_path, name):
    if name in PACKAGES and not os.path.exists(os.path.join(BUILD, "examples", name)):
        pytest.skip("no " + PACKAGES[name])
    assert compile_and_run(installed, tmp_path, "cc -std=c11 -pedantic", os.path.join(EXAMPLES, name + ".c")) != ""


@pytest.mark.parametrize("name", NAMES)
def test_example_says_what_it_shows_and_how_it_is_built(name):
    with open(os.path.join(EXAMPLES, name + ".c")) as file:
        head = file.read().split("*/")[0]
    libraries = "" if name == "leak" else r" \$\(pkg-config --cflags --libs heapkeeper\)"
    assert re.search(r"cc .*\b%s\.c%s.* -o %s\b" % (name, libraries, name), head)
    assert len(head.splitlines()) >= 3


def test_scheme_is_built_as_its_head_says(installed, tmp_path):
    with open(os.path.join(EXAMPLES, "scheme", "scheme.h")) as file:
        [command] = re.findall(r"cc .*-o scheme", file.read())
    shutil.copytree(os.path.join(EXAMPLES, "scheme"), tmp_path / "scheme")
    done = subprocess.run(["sh", "-c", command + " -Wall && ./scheme tests.scm"], cwd=tmp_path / "scheme", env=installed,
                          timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    assert done.returncode == 0 and re.fullmatch(r"\d+ checks passed\n", done.stdout), done.stdout


CPP = """
#include <heapkeeper/heap.h>
#include <cstdio>

static bool at_limit(hk_heap *, std::size_t, void *) { return false; }

int main()
{
    hk_heap_options options = {};
    options.size = sizeof(options);
    options.lock = HK_LOCK_THREADS;
    options.limit_bytes = 1 << 20;
    options.at_limit = at_limit;
    hk_heap *heap = hk_heap_create(&options);
    int *number = static_cast<int *>(hk_malloc(heap, sizeof(int)));
    *number = 7;
    std::printf("%d %s\\n", *number, hk_heap_of(number) == heap ? "here" : "elsewhere");
    hk_heap_destroy(heap);
}
"""


@pytest.mark.parametrize("standard", ["c++11", "c++20"])
@pytest.mark.parametrize("library", ["heapkeeper", "heapkeeper-guide"])
def test_header_is_good_c_plus_plus(installed, tmp_path, standard, library):
    if not shutil.which("c++"):
        pytest.skip("no C++ compiler")
    source = tmp_path / "program.cc"
    source.write_text(CPP)
    assert compile_and_run(installed, tmp_path, "c++ -pedantic -std=" + standard, str(source), library) == "7 here\n"
