"""`heapkeeper compare`: two programs, run in turn; their time, their memory, and the lines that differ."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from conftest import COMMAND, build_is_usable
from test_views import show

pytestmark = pytest.mark.once

JOIN = """\
words = [str(i) for i in range(4000)]
def f():
    return ",".join(words)
for _ in range(3):
    f()
"""
PLUS = """\
words = [str(i) for i in range(4000)]
def f():
    text, ends = "", []
    for word in words:
        text = text + "," + word
        ends.append(text[-3:])
    return text
f()
"""


@pytest.fixture
def programs(tmp_path, python):
    reason = build_is_usable()
    if reason:
        pytest.skip(reason)
    (tmp_path / "join.py").write_text(JOIN)
    (tmp_path / "plus.py").write_text(PLUS)
    return tmp_path, ["--python", python.path]


def left_behind(place):
    return [name for name in os.listdir(place) if name.startswith("heapkeeper-compare")]


def test_join_against_plus_shows_the_line_that_copies(programs):
    place, python = programs
    out = show("compare", *python, "--runs", "3", "--json", "--limit", "0", place / "join.py", place / "plus.py",
               env={"TMPDIR": str(place)}).out
    found = json.loads(out.decode())
    assert found["format"] == "heapkeeper-compare-1" and found["runs"] == 3
    for side in "a", "b":
        for key in ("time_ns", "peak_rss_bytes", "peak_bytes", "allocated_bytes", "allocated_blocks"):
            figure = found[side][key]
            assert len(figure["runs"]) == 3 and min(figure["runs"]) > 0 and figure["median"] == sorted(figure["runs"])[1]
    assert found["ratios"]["allocated_bytes"] > 5
    first = found["rows"][0]
    assert first["file"].endswith("plus.py") and first["function"] == "f" and first["line"] == 5
    assert first["change"]["total_bytes"] > 4000 * 4000
    change = sum(row["change"]["total_bytes"] for row in found["rows"])
    both = [found[side]["allocated_bytes"]["runs"] for side in ("a", "b")]
    assert change in [b - a for a in both[0] for b in both[1]], "rows add up to the difference of two runs"
    assert left_behind(place) == []


def test_text_has_medians_ratios_and_the_lines_that_differ(programs):
    place, python = programs
    text = show("compare", *python, "--runs", "2", "--by", "function", place / "join.py", place / "plus.py",
                env={"LC_ALL": "C.UTF-8"}).out.decode()
    lines = text.splitlines()
    assert lines[0].startswith("A  ") and lines[1].startswith("B  ") and lines[2] == "2 runs of each, in turn"
    assert re.search(r"[\d.]+×  allocated$", text, re.M) and re.search(r"×  time, without recording$", text, re.M)
    assert "by function, largest change of total first" in text and re.search(r"\+[\d.]+ [KM]iB .*in f$", text, re.M)


def test_arguments_are_separated_by_dashes(programs):
    place, python = programs
    (place / "n.py").write_text("import sys\nkept = bytearray(int(sys.argv[1]))\nassert sys.argv[2:] == ['--json', 'x']\n")
    found = json.loads(show("compare", *python, "-r", "1", "--json", place / "n.py", "1000000", "--json", "x", "--",
                            place / "n.py", "3000000", "--json", "x").out.decode())
    assert found["a"]["command"].endswith("n.py 1000000 --json x")
    assert found["b"]["peak_bytes"]["median"] - found["a"]["peak_bytes"]["median"] in range(1_999_000, 2_001_000)


@pytest.mark.parametrize("form", ["-c CODE", "-cCODE", "-m MODULE", "-mMODULE"])
def test_each_side_may_be_code_or_a_module(programs, form):
    place, python = programs
    small, large = ([word.replace("CODE", "x = bytearray(%d)" % size).replace("MODULE", "module%d" % size) for word in form.split()]
                    for size in (10_000_000, 30_000_000))
    for size in 10_000_000, 30_000_000:
        (place / ("module%d.py" % size)).write_text("x = bytearray(%d)\n" % size)
    (place / "large.py").write_text("x = bytearray(30_000_000)\n")
    for a, b in ((small, large), (small, ["large.py"]), (["module10000000.py"], large), (small + ["x"], ["--"] + large)):
        found = json.loads(show("compare", *python, "-r", "1", "--json", *a, *b, cwd=str(place)).out.decode())
        assert found["a"]["command"] == " ".join(a) and found["b"]["command"] == " ".join(word for word in b if word != "--")
        assert found["b"]["peak_bytes"]["median"] - found["a"]["peak_bytes"]["median"] in range(17_000_000, 23_000_000)


def test_side_that_fails_is_named(programs):
    place, python = programs
    for a, b, side in (("raise SystemExit(3)", "pass", "A"), ("pass", "raise SystemExit(3)", "B")):
        done = show("compare", *python, "-r", "1", "-c", a, "-c", b, status=1)
        assert done.err.decode() == "heapkeeper: compare: %s (-c) ended with status 3\n" % side


def test_samples_do_for_long_programs(programs):
    place, python = programs
    found = json.loads(show("compare", *python, "-r", "1", "--sample=16K", "--json", place / "join.py", place / "plus.py").out.decode())
    assert found["ratios"]["allocated_bytes"] > 3


@pytest.mark.parametrize("words, wanted", [
    ([], b"needs two programs"), (["a.py"], b"needs two programs"), (["a.py", "b.py", "c.py"], b"needs two programs"),
    (["a.py", "--"], b'behind "--"'), (["--", "a.py"], b'before "--"'), (["--runs", "0", "a", "b"], b"--runs is 1 to 1000"),
    (["--runs", "x", "a", "b"], b"--runs is 1 to 1000"), (["--by", "colour", "a", "b"], b"line, function, file, module, domain or size"),
    (["--limit", "x", "a", "b"], b"number of rows"), (["--nonsense", "a", "b"], b"unknown option"),
    (["--sample=abc", "a.py", "b.py"], b"--sample=abc is no number of bytes"), (["--sample=0", "a.py", "b.py"], b"is no number of bytes"),
    (["-c", "pass"], b"needs two programs"), (["-c"], b"needs two programs"), (["-c", "pass", "-m"], b"needs two programs"),
    (["-c", "pass", "-c", "pass", "x"], b"needs two programs"), (["a.py", "1", "--", "-m"], b"-m needs a module"),
    (["-c", "--", "b.py"], b"-c needs code"),
])
def test_wrong_command_lines_are_one_line_and_status_2(words, wanted):
    done = show("compare", *words, status=2)
    assert done.out == b"" and re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err) and wanted in done.err


def test_program_that_is_missing_fails_or_is_killed_ends_it_with_one_line(programs):
    place, python = programs
    (place / "fails.py").write_text("raise SystemExit(3)\n")
    (place / "dies.py").write_text("import os; os.kill(os.getpid(), 9)\n")
    for name, wanted in (("missing.py", b"cannot be found"), ("fails.py", b"ended with status 3"), ("dies.py", b"ended by signal 9")):
        for pair in (("join.py", name), (name, "join.py")):
            done = show("compare", *python, "-r", "1", place / pair[0], place / pair[1], status=1, env={"TMPDIR": str(place)})
            assert done.out == b"" and re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err) and wanted in done.err, done.err
    assert left_behind(place) == []


def test_interrupted_it_takes_its_captures_with_it(programs):
    place, python = programs
    (place / "waits.py").write_text("import sys, time\nopen(%r, 'w').close()\ntime.sleep(600)\n" % str(place / "started"))
    process = subprocess.Popen([COMMAND, "compare", *python, str(place / "waits.py"), str(place / "waits.py")],
                               env=dict(os.environ, TMPDIR=str(place)), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    end = time.monotonic() + 60
    while not (place / "started").exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM and left_behind(place) == []
