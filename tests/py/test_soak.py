"""The soak programs, a second of each: what `tools/soak.py` runs for minutes works here at all."""

import os
import subprocess
import sys

import pytest

from conftest import BUILD, TREE, execute

sys.path.insert(0, os.path.join(TREE, "tools"))
import soak  # noqa: E402

pytestmark = pytest.mark.once

SCRIPT = os.path.join(TREE, "tools", "soak.py")


def run_soak(python, *words, build=BUILD, **options):
    return execute([sys.executable, SCRIPT, "--python", python, "--build", build, "--minutes", "0.02", *words],
                   timeout=300, **options)


@pytest.mark.parametrize("program", soak.C_NAMES)
def test_a_second_of_the_soak_in_c_passes(program):
    done = run_soak(sys.executable, program)
    lines = done.out.decode().splitlines()
    assert done.status == 0, lines
    assert lines[0].startswith("passed   %s " % program)
    assert " 0 checks" not in lines[0]


@pytest.mark.parametrize("program", soak.PYTHON_NAMES)
def test_a_second_of_the_soak_passes(heapkeeper, program):
    if program == "greenlets" and not soak.has_greenlet(heapkeeper.python.path):
        pytest.skip("%s has no greenlet" % heapkeeper.python.path)
    if program == "interpreters" and not soak.has_own_gil(heapkeeper.python.path):
        pytest.skip("no interpreter has a GIL of its own before 3.12")
    done = run_soak(heapkeeper.python.path, program)
    assert done.status == 0, done.out.decode()
    lines = done.out.decode().splitlines()
    assert lines[0].startswith("passed   %s " % program)
    assert lines[-1] == "1 passed, 0 failed, 0 skipped"


def test_a_second_of_the_soak_passes_in_the_guides_geometry(heapkeeper):
    done = run_soak(heapkeeper.python.path, "generators", "--geometry", "guide")
    assert done.status == 0, done.out.decode()


def test_a_program_without_our_heap_fails_the_soak(heapkeeper):
    script = os.path.join(soak.PROGRAMS, "generators.py")
    done = heapkeeper.stock([script, "0.1"])
    assert done.status == 3
    assert b"not under `heapkeeper run`" in done.err


def test_figures_that_do_not_add_up_fail_the_soak(heapkeeper):
    done = heapkeeper.run("""
        import sys
        sys.path.insert(0, %r)
        sys.argv[1:] = ["1"]
        import common
        common.check()
        true = common.stats
        def false():
            figures = true()
            figures["heaps"][1]["live_bytes"] += 16
            return figures
        common.stats = false
        common.check()
    """ % soak.PROGRAMS)
    assert done.status == 3
    assert b"classes do not sum to mapped" in done.err


def test_a_record_whose_sites_do_not_sum_is_a_fault(heapkeeper):
    heapkeeper.good("kept = [str(n) for n in range(50000)]")
    report = heapkeeper.report()
    assert list(soak.main_faults(report)) == []
    report["sites"][0]["total_bytes"] += 1
    report["state"] = "killed"
    assert sorted(soak.main_faults(report)) == ["state is 'killed', not 'ended'", "the sites do not sum to the total"]


def test_an_unknown_program_is_said(heapkeeper):
    done = subprocess.run([sys.executable, SCRIPT, "--build", BUILD, "no_such"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert b"no program 'no_such'; there are fork_from_threads" in done.stderr
