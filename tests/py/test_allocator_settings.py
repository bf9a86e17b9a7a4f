"""What a user can set about Python's allocators, row by row: who serves the program then, what `run` says of it on a
terminal before it begins, and what the report says afterwards."""

import os
import pty
import subprocess
import textwrap

import pytest

from conftest import COMMAND, check_sums, clean_environment, embedding_flags, execute, live_in, read_terminal

WORK = textwrap.dedent("""
    def remember(): return [bytearray(1000) for _ in range(30000)]
    keep = remember()
    print(len(keep))
""")


def watched(heapkeeper, python, words=(), env=None):
    done = heapkeeper.run(list(words) + ["-c", WORK], python=python, env=env)
    assert (done.status, done.out) == (0, b"30000\n"), done.err
    report = heapkeeper.report()
    assert report["state"] == "ended"
    check_sums(report)
    return report


OURS = {
    "nothing": ([], {}),
    "-I": (["-I"], {}),
    "-I, and PYTHONMALLOC, which it ignores": (["-I"], {"PYTHONMALLOC": "malloc"}),
    "-E -s, and PYTHONMALLOC, which it ignores": (["-E", "-s"], {"PYTHONMALLOC": "debug", "PYTHONDEVMODE": "1"}),
    "-sE, the same in one word": (["-sE"], {"PYTHONMALLOC": "malloc"}),
    "PYTHONMALLOC empty": ([], {"PYTHONMALLOC": ""}),
    "PYTHONMALLOCSTATS": ([], {"PYTHONMALLOCSTATS": "1"}),
    "PYTHON_PYMALLOC_HUGEPAGES": ([], {"PYTHON_PYMALLOC_HUGEPAGES": "1"}),
    "PYTHONDEVMODE empty": ([], {"PYTHONDEVMODE": ""}),
}
REPLACED = {
    "PYTHONMALLOC=" + name: ([], {"PYTHONMALLOC": name})
    for name in ("default", "debug", "malloc", "malloc_debug", "pymalloc", "pymalloc_debug")
}
REPLACED.update({"PYTHONDEVMODE=1": ([], {"PYTHONDEVMODE": "1"}), "-X dev": (["-X", "dev"], {}), "-Xdev": (["-Xdev"], {})})
BENEATH = {
    "PYTHONTRACEMALLOC": ([], {"PYTHONTRACEMALLOC": "5"}),
    "-X tracemalloc": (["-X", "tracemalloc"], {}),
    "-Xtracemalloc=3": (["-Xtracemalloc=3"], {}),
}


@pytest.mark.parametrize("row", OURS)
def test_ours(heapkeeper, every_python, row):
    words, env = OURS[row]
    report = watched(heapkeeper, every_python, words, env)
    assert (report["watch"], report["watch_name"], report["stacks"]) == ("ours", "", "good")
    assert live_in(report, "remember") > 20e6


@pytest.mark.parametrize("row", REPLACED)
def test_replaced_and_said(heapkeeper, every_python, row):
    words, env = REPLACED[row]
    report = watched(heapkeeper, every_python, words, env)
    assert report["watch"] == "replaced" and report["watch_name"]
    assert report["watch_name"].split()[0] in " ".join(report["notes"])
    assert report["recorder"]["foreign_frees"] == 0, "what had reached us before was freed through us"
    assert sum(site["total_bytes"] for site in report["sites"]) < 5e6


@pytest.mark.parametrize("row", BENEATH)
def test_beneath_tracemalloc(heapkeeper, every_python, row):
    words, env = BENEATH[row]
    report = watched(heapkeeper, every_python, words, env)
    assert (report["watch"], report["stacks"]) == ("ours_under_hook", "good")
    assert live_in(report, "remember") > 20e6


ISOLATED = r"""
    #include <Python.h>
    int main(void)
    {
        PyConfig config;
        PyConfig_InitIsolatedConfig(&config);
        if (PyStatus_Exception(Py_InitializeFromConfig(&config)))
            return 1;
        PyConfig_Clear(&config);
        if (PyRun_SimpleString("def remember(): return [bytearray(1000) for _ in range(30000)]\nkeep = remember()\n"))
            return 2;
        return Py_FinalizeEx();
    }
"""


def test_embedding_program_with_an_isolated_configuration_ignores_the_variable(heapkeeper, compile_c, every_python):
    program = compile_c(ISOLATED, *embedding_flags(every_python))
    done = heapkeeper.run([], python=program, env={"PYTHONMALLOC": "malloc"})
    if execute([program]).status != 0:
        pytest.skip("an isolated configuration does not find its library here")
    assert (done.status, done.err) == (0, b"")
    report = heapkeeper.report()
    assert report["watch"] == "ours" and live_in(report, "remember") > 20e6


# --- what `run` says ---


def said_on_a_terminal(heapkeeper, python, words, env):
    master, slave = pty.openpty()
    run = [COMMAND, "run", "-o", os.path.join(heapkeeper.directory, "terminal"), python.path, *words, "-c", "pass"]
    process = subprocess.Popen(run, env=clean_environment(**env), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=slave)
    os.close(slave)
    said = read_terminal(master)
    assert process.wait(60) == 0
    return said


@pytest.mark.parametrize("row", REPLACED)
def test_run_says_before_it_begins_that_little_will_be_recorded(heapkeeper, python, row):
    words, env = REPLACED[row]
    assert "little will be recorded" in said_on_a_terminal(heapkeeper, python, words, env)


@pytest.mark.parametrize("row", OURS)
def test_run_doubts_nothing_where_there_is_nothing_to_doubt(heapkeeper, python, row):
    words, env = OURS[row]
    assert "little will be recorded" not in said_on_a_terminal(heapkeeper, python, words, env)


def test_run_says_who_has_the_statistics_that_pythonmallocstats_asks_for(heapkeeper, python):
    said = said_on_a_terminal(heapkeeper, python, [], {"PYTHONMALLOCSTATS": "1"})
    assert "PYTHONMALLOCSTATS" in said and "heapkeeper" in said


@pytest.mark.parametrize("row", BENEATH)
def test_run_says_that_tracemalloc_stands_before_us(heapkeeper, python, row):
    words, env = BENEATH[row]
    assert "tracemalloc" in said_on_a_terminal(heapkeeper, python, words, env)
