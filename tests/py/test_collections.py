"""The collections of cycles that CPython makes by itself or is asked for: counted, and in their order, in the capture."""

import json
import os
import signal
import subprocess

import pytest

from conftest import COMMAND, execute
from test_interpreters import API

MODES = ["--sample", "--exact", "--no-record"]

# Many by themselves, then some of each generation on request. What is allocated at the end makes sure that the last ones are seen.
PROGRAM = """
import gc, json, sys

class Node:
    pass

def cycles(count):
    for _ in range(count):
        node = Node()
        node.itself = node

def collect(generation, times):
    for _ in range(times):
        cycles(10)
        gc.collect(generation)

def fill():
    return [bytearray(1000) for _ in range(3000)]

for _ in range(100):
    cycles(500)
gc.disable()
collect(0, 30)
filled = fill()
collect(1, 4)
filled = fill()
collect(2, 3)
filled = fill()
print(json.dumps(gc.get_stats()), flush=True)
"""


def plotted(capture):
    done = execute([COMMAND, "plot", "--json", capture])
    assert (done.status, done.err) == (0, b"")
    return json.loads(done.out)["collections"]


def sums(entries):
    return [[sum(entry[key] for entry in entries if entry["generation"] == generation) for key in ("count", "freed", "uncollectable")]
            for generation in range(3)]


def counted(stats):
    return [[generation[key] for key in ("collections", "collected", "uncollectable")] for generation in stats]


@pytest.mark.parametrize("mode", MODES)
def test_every_collection_is_in_the_plot_with_its_generation(heapkeeper, every_python, mode):
    stats = heapkeeper.good(PROGRAM, python=every_python, options=(mode,)).json
    assert sums(plotted(heapkeeper.output)) == counted(stats)
    report = heapkeeper.report()
    assert report["gc"]["collections"] == sum(generation["collections"] for generation in stats)
    assert report["gc"]["freed"] == sum(generation["collected"] for generation in stats)
    assert {entry["cause"] for entry in report["collections"]} == {"other"}
    assert not any("collections of cycles" in note for note in report["notes"])
    assert b"\nGC " in heapkeeper.text()


def test_what_was_collected_one_after_the_other_is_so_in_the_capture(heapkeeper, every_python):
    heapkeeper.good(PROGRAM, python=every_python)
    entries = heapkeeper.report()["collections"]
    assert [entry["time_ns"] for entry in entries] == sorted(entry["time_ns"] for entry in entries)
    assert all(entry["time_ns"] <= entry["longest_at_ns"] <= entry["last_ns"] for entry in entries)
    middle = [entry for entry in entries if entry["generation"] == 1][-4:]
    full = [entry for entry in entries if entry["generation"] == 2]
    first = max(i for i in range(len(full)) if sum(entry["count"] for entry in full[i:]) >= 3)
    assert middle[-1]["last_ns"] <= full[first]["time_ns"], "3 MB were allocated between them"


def test_pauses_are_known_where_the_collector_keeps_them(heapkeeper, every_python):
    stats = heapkeeper.good(PROGRAM, python=every_python).json
    found = heapkeeper.report()["gc"]
    if every_python.version < (3, 15):
        assert found["duration_ns"] == found["longest_ns"] == 0, "not known"
        assert b"longest" not in [line for line in heapkeeper.text().splitlines() if line.startswith(b"GC ")][0]
        return
    assert found["duration_ns"] == pytest.approx(1e9 * sum(generation["duration"] for generation in stats), rel=1e-3)
    assert found["examined"] == sum(generation["candidates"] for generation in stats)
    assert 0 < found["longest_ns"] < found["duration_ns"]


@pytest.mark.parametrize("mode", MODES)
def test_collections_of_a_killed_program_are_there(heapkeeper, every_python, mode):
    words = heapkeeper.command(PROGRAM + "sys.stdin.read()", python=every_python, options=(mode,))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        stats = json.loads(process.stdout.readline())
        assert sums(plotted(str(process.pid))) == counted(stats), "while it runs"
        process.send_signal(signal.SIGKILL)
    assert sums(plotted(heapkeeper.output)) == counted(stats)


def test_child_has_its_own_collections(heapkeeper, every_python):
    program = PROGRAM + """
import os
child = os.fork()
if child == 0:
    collect(1, 5)
    filled = fill()
    os.kill(os.getpid(), 9)  # else it would be folded into the summary of small children
os.waitpid(child, 0)
"""
    stats = heapkeeper.good(program, python=every_python).json
    parent, child = heapkeeper.captures
    assert sums(plotted(parent)) == counted(stats)
    assert [count for count, freed, kept in sums(plotted(child))] == [0, 5, 0]


@pytest.mark.parametrize("mode", MODES)
def test_program_sees_nothing_of_it(heapkeeper, every_python, mode):
    program = """
import gc
told = []
gc.callbacks.append(lambda phase, info: told.append((phase, info["generation"], info["collected"])))
gc.collect(); gc.collect(0)
del gc.callbacks[0]
kept = [[i] for i in range(100000)]
print(gc.callbacks, told, gc.get_threshold(), gc.get_debug(), gc.garbage, gc.isenabled(), [g["collections"] for g in gc.get_stats()])
"""
    stock = heapkeeper.stock(program, python=every_python)
    assert heapkeeper.run(program, python=every_python, options=(mode,)).said == stock.said


def test_collector_that_is_not_as_it_should_be_is_left_alone_and_the_report_says_so(heapkeeper, every_python):
    """HEAPKEEPER_TEST_BREAK_LAYOUT=6: its generations are looked for at a wrong place."""
    heapkeeper.good(PROGRAM, python=every_python, env={"HEAPKEEPER_TEST_BREAK_LAYOUT": "6"})
    report = heapkeeper.recorded(python=every_python)
    assert report["collections"] == [] and any("collections of cycles by Python are not recorded" in note for note in report["notes"])


@pytest.mark.parametrize("mode", MODES)
def test_collections_when_the_program_is_over_are_not_its(heapkeeper, every_python, mode):
    """The interpreter collects several times while it is torn down; the first time soon, and only an exact record sees every free."""
    stats = heapkeeper.good(PROGRAM.replace("gc.disable()", "gc.set_threshold(0)"), python=every_python, options=(mode,)).json
    found = sums(plotted(heapkeeper.output))
    if mode != "--exact":
        found[2][0] -= found[2][0] - stats[2]["collections"] == 1
    assert found == counted(stats)


@pytest.mark.parametrize("mode", MODES)
def test_what_other_interpreters_collect_is_not_the_programs(heapkeeper, every_python, mode):
    if every_python.version < (3, 12):
        pytest.skip("no interpreter has a GIL of its own before 3.12")
    work = PROGRAM.rpartition("print(json")[0]
    done = heapkeeper.good(API + work + """
run(%r)
together(2, lambda number: run(%r))
collect(2, 3)
filled = fill()
print(json.dumps(gc.get_stats()))
""" % (work, work), python=every_python, options=(mode,))
    assert sums(plotted(heapkeeper.output)) == counted(done.json)


def test_thousands_are_merged_and_none_is_lost(heapkeeper, every_python):
    program = PROGRAM.replace("collect(0, 30)", "[(collect(0, 3), bytearray(200000)) for _ in range(2000)]")
    stats = heapkeeper.good(program, python=every_python).json
    entries = plotted(heapkeeper.output)
    assert sums(entries) == counted(stats) and sum(entry["count"] for entry in entries) > 6000 > 10 * len(entries)
    assert os.path.getsize(heapkeeper.output) < 8 << 20
