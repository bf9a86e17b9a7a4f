"""The examples in C prove what their first lines claim, in both geometries, and compile as their reader would compile them:
with what pkg-config says of an installed tree."""

import glob
import os
import re
import shutil
import subprocess

import pytest

from conftest import BUILD, TREE, clean_environment, execute

EXAMPLES = os.path.join(TREE, "examples")
NAMES = sorted(os.path.basename(path)[:-2] for path in glob.glob(os.path.join(EXAMPLES, "*.c")))
TOOLS = os.path.join(TREE, "build", "tools")  # a Meson that the distribution does not have
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
    command = '%s -Wall -Wextra -Werror -O2 "$1" $(pkg-config --cflags --libs %s) -o "$2" && "$2"' % (compiler, library)
    done = subprocess.run(["sh", "-c", command, "sh", source, str(tmp_path / "program")], env=installed, timeout=120,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_example_compiles_in_c11_against_an_installed_tree(installed, tmp_path, name):
    assert compile_and_run(installed, tmp_path, "cc -std=c11 -pedantic", os.path.join(EXAMPLES, name + ".c")) != ""


@pytest.mark.parametrize("name", NAMES)
def test_example_says_what_it_shows_and_how_it_is_built(name):
    with open(os.path.join(EXAMPLES, name + ".c")) as file:
        head = file.read().split("*/")[0]
    libraries = "" if name == "leak" else r" \$\(pkg-config --cflags --libs heapkeeper\)"
    assert re.search(r"cc .*\b%s\.c%s.* -o %s\b" % (name, libraries, name), head)
    assert len(head.splitlines()) >= 3


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
