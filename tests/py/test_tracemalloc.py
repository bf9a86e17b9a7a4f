"""`heapkeeper run --tracemalloc`: `import tracemalloc` is the standard module on our record, and CPython's own tests say so."""

import collections
import fnmatch
import json
import os
import re
import textwrap

import pytest
from conftest import COMMAND, execute

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = ("--tracemalloc",)

with open(os.path.join(HERE, "tracemalloc_known.json")) as file:
    KNOWN = json.load(file)["known"]


def known(test, version, is_static):
    """The reason why this test of CPython's cannot pass, or None."""
    for entry in KNOWN:
        concerns = version in entry.get("versions", [version]) and (is_static or "if" not in entry)
        if concerns and fnmatch.fnmatchcase(test, entry["test"]) and test.split(".")[-1] not in entry.get("but", []):
            assert entry["reason"]
            return entry["reason"]
    return None


def results(text):
    """{Class.test: ok, FAIL, ERROR or skipped} of what unittest -v prints."""
    found = {}
    for name, where, rest in re.findall(r"^(test_\w+) \((\S+)\)(.*(?:\n(?!test_|=|-).*)?)", text, re.MULTILINE):
        words = where.split(".")
        kind = words[-2] if words[-1] == name else words[-1]
        outcome = re.search(r"\.\.\. .*?(ok|FAIL|ERROR|skipped|expected failure)", rest, re.DOTALL)
        found.setdefault(kind + "." + name, outcome.group(1) if outcome else "no outcome")
    for outcome, name, where in re.findall(r"^(FAIL|ERROR): (test_\w+) \((\S+?)\)", text, re.MULTILINE):
        words = where.split(".")
        found[(words[-2] if words[-1] == name else words[-1]) + "." + name] = outcome
    return found


def test_cpythons_own_tests_of_tracemalloc_pass_but_for_the_ones_that_are_listed(heapkeeper, tmp_path, every_python):
    present = execute([every_python.path, "-c", "import test.test_tracemalloc"])
    if present.status != 0:
        pytest.skip("this Python has no test suite")
    done = heapkeeper.run(["-m", "unittest", "-v", "test.test_tracemalloc"], python=every_python, options=OURS, cwd=str(tmp_path), timeout=300)
    text = done.err.decode()
    found, facts = results(text), ("%d.%d" % every_python.version, not every_python.is_shared)
    assert len(found) >= 47, text[-3000:]
    wrong = {test: outcome for test, outcome in found.items() if outcome not in ("ok", "skipped") and not known(test, *facts)}
    assert not wrong, text[-6000:]
    stale = {test for test, outcome in found.items() if outcome == "ok" and known(test, *facts)}
    assert not stale, "these pass by now: take them off the list"
    assert sum(outcome == "ok" for outcome in found.values()) >= 38, found


PROGRAM = """
    import json, sys, _tracemalloc, tracemalloc
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    kept = [bytes(1000) for _ in range(1000)]
    top = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, __file__)]).statistics("lineno")[0]
    print(json.dumps([tracemalloc.get_traceback_limit(), hasattr(_tracemalloc, "_look"), top.count, top.size, top.traceback[0].lineno,
                      tracemalloc.get_traced_memory()[0] > 1033000, tracemalloc.get_object_traceback(kept[7])[-1].lineno]))
"""


@pytest.mark.parametrize("way, limit", [("no", 1), ("-X tracemalloc", 1), ("-X tracemalloc=9", 9), ("PYTHONTRACEMALLOC", 12)])
def test_what_the_interpreter_was_told_to_trace_goes_on_in_our_record(heapkeeper, tmp_path, every_python, way, limit):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    words = way.split() if way.startswith("-X") else []
    environment = {"PYTHONTRACEMALLOC": "12"} if way == "PYTHONTRACEMALLOC" else {}
    done = heapkeeper.run(words + [str(program)], python=every_python, options=OURS, env=environment)
    assert done.status == 0, done.err.decode()[-3000:]
    frames, ours, count, size, line, enough, own = done.json
    assert (frames, ours, line, enough, own) == (limit, True, 5, True, 5)
    # Beside them: the list, its array, and from 3.13 on what the line took from free lists.
    assert 1000 <= count <= 1012 and 1033000 <= size < 1033000 + 12000
    assert heapkeeper.report()["watch"] == "ours", "nobody stands before us"


TRACK = """
    import ctypes, json, tracemalloc
    process = ctypes.CDLL(None)
    track, untrack = process.PyTraceMalloc_Track, process.PyTraceMalloc_Untrack
    track.argtypes, untrack.argtypes = [ctypes.c_uint, ctypes.c_size_t, ctypes.c_size_t], [ctypes.c_uint, ctypes.c_size_t]
    off = track(7, 4096, 1), untrack(7, 4096)
    tracemalloc.start(3)
    for i in range(1, 1001):
        assert track(7, i * 4096, 1000000) == 0
    for i in range(1, 1001, 2):
        assert untrack(7, i * 4096) == 0 == untrack(7, 0)
    assert track(7, 8192, 10) == 0 and track(8, 8192, 20) == 0
    size, peak = tracemalloc.get_traced_memory()
    own = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, 7)]).statistics("lineno")
    tracemalloc.clear_traces()
    print(json.dumps([off, size, peak, [(s.size, s.count, s.traceback[0].lineno) for s in own], tracemalloc.get_traced_memory()[0]]))
"""


def test_memory_that_c_code_tells_of_is_traced_in_its_domain(heapkeeper, tmp_path, every_python):
    if not every_python.is_shared:
        pytest.skip("a static interpreter's own PyTraceMalloc_Track is found first")
    program = tmp_path / "track.py"
    program.write_text(textwrap.dedent(TRACK))
    theirs = heapkeeper.stock([str(program)], python=every_python)
    ours = heapkeeper.run([str(program)], python=every_python, options=OURS)
    assert (theirs.status, ours.status) == (0, 0), (theirs.err + ours.err).decode()[-3000:]
    off, size, peak, own, cleared = ours.json
    assert (off, own) == (theirs.json[0], theirs.json[3]) and sorted(own) == [[10, 1, 12], [499000000, 499, 9]]
    assert 499000030 <= size < 499100000 and 1000000000 <= peak < 1000100000 and cleared < 10000


def test_without_the_option_the_standard_tracemalloc_is_cpythons(heapkeeper, every_python):
    done = heapkeeper.run("""
        import json, _tracemalloc, tracemalloc
        tracemalloc.start()
        kept = [bytes(1000) for _ in range(1000)]
        print(json.dumps([hasattr(_tracemalloc, "_look"), tracemalloc.get_traced_memory()[0] > 1033000]))
    """, python=every_python, options=("--exact",))
    assert done.status == 0 and done.json == [False, True], done.err.decode()


def test_children_have_it_too_and_an_error_names_where_an_object_is_from(heapkeeper, tmp_path, every_python):
    program = tmp_path / "child.py"
    program.write_text("def make():\n    return open(__file__)\nmake()\n")
    done = heapkeeper.run("""
        import subprocess, sys
        done = subprocess.run([sys.executable, "-X", "tracemalloc=3", "-W", "always", %r], stderr=subprocess.PIPE)
        sys.stdout.write(done.stderr.decode())
    """ % str(program), python=every_python, options=OURS)
    assert b"ResourceWarning" in done.out and b"Object allocated at (most recent call last)" in done.out
    assert b'child.py", lineno 3' in done.out and b'child.py", lineno 2' in done.out


@pytest.mark.parametrize("options", [("--tracemalloc", "--sample"), ("--tracemalloc", "--no-record"), ("--tracemalloc", "--debug")])
def test_options_that_exclude_it_are_refused_by_name(heapkeeper, options):
    done = heapkeeper.run("pass", options=options)
    assert done.status == 2 and b"--tracemalloc" in done.err and options[1].encode() in done.err


NOT_BEGUN = """
    import gc, json, sys, tracemalloc
    gc.disable()
    def numbers(n):
        yield n
    async def wait(n):
        return n
    async def stream(n):
        yield n
    def closure(n):
        def inner():
            return n
        return inner
    def made():
        kept = []
        kept.append([numbers(1000) for _ in range(200)])
        kept.append([wait(1000) for _ in range(200)])
        kept.append([stream(1000) for _ in range(200)])
        kept.append([(i for i in range(3)) for _ in range(200)])
        kept.append([closure(7) for _ in range(200)])
        return kept
    tracemalloc.start()
    kept = made()
    snapshot = tracemalloc.take_snapshot()
    tracemalloc.stop()
    mine = snapshot.filter_traces([tracemalloc.Filter(True, __file__)]).statistics("lineno")
    print(json.dumps({s.traceback[0].lineno: [s.size, s.count] for s in mine}))
    for coroutine in kept[1]:
        coroutine.close()
"""


def test_what_a_frame_allocates_that_has_not_begun_is_its_callers(heapkeeper, tmp_path, every_python):
    """Generators and coroutines, and the cells of closures: from 3.11 on a frame of their own asks for them, which does not exist yet."""
    script = tmp_path / "not_begun.py"
    script.write_text(textwrap.dedent(NOT_BEGUN))
    theirs = json.loads(execute([every_python.path, str(script)]).out)
    done = heapkeeper.run([str(script)], python=every_python, options=OURS)
    ours = json.loads(done.out)
    at = {text.strip(): str(number) for number, text in enumerate(script.read_text().splitlines(), 1)}
    if every_python.version >= (3, 11):
        assert theirs == ours
    calls = [line for text, line in at.items() if text.startswith("kept.append")]
    assert all(ours[line][1] >= 200 for line in calls), ours
    table = execute([COMMAND, "table", "--json", "--by", "line", heapkeeper.output])
    rows = collections.Counter()
    for row in table.json["rows"]:
        if row["file"] == str(script):
            rows[str(row["line"])] += row["total_blocks"]
    assert all(rows[line] >= 200 for line in calls), rows
    starts = [line for text, line in at.items() if "numbers(n):" in text or text.startswith("async")]
    assert len(starts) == 3
    if every_python.version >= (3, 11):  # before, closing a coroutine that never began makes a traceback there
        assert all(rows[line] < 200 for line in starts), rows


def test_a_source_whose_name_is_no_utf8_is_named_as_the_system_has_it(heapkeeper, tmp_path, every_python):
    script = os.fsencode(tmp_path) + b"/na\xc3\xafve_\xff\xfe.py"
    with open(script, "wb") as file:
        file.write(textwrap.dedent(PROGRAM).replace("print(", "print(ascii(__file__), ascii(top.traceback[0].filename)) or print(").encode())
    words = ["-X", "tracemalloc", os.fsdecode(script)]
    theirs = execute([every_python.path] + words).out.splitlines()[0].split()
    ours = heapkeeper.run(words, python=every_python, options=OURS).out.splitlines()[0].split()
    assert ours == theirs and ours[0] == ours[1]
    for name in script, os.path.basename(script):
        found = execute([COMMAND, "lines", "--json", os.fsdecode(name), heapkeeper.output]).json
        assert found["source_state"] == "good" and max(line["live_blocks"] for line in found["lines"]) >= 1000
