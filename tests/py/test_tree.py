"""`heapkeeper tree`: the calls as a tree, as text, as JSON, and to move in."""

import json
import os
import re
import signal
import subprocess

import pytest

import capture_writer as cw
from conftest import COMMAND, recorded_exactly
from screen import DOWN, ENTER, LEFT, PAGE_DOWN, RIGHT, UP, Screen
from test_contract_hostile import has_control_bytes
from test_views import evil, show, table

pytestmark = pytest.mark.once

PROGRAM = """
    def helper(n):
        return [bytes(1000) for _ in range(n)]
    def one():
        return helper(2000)
    def two():
        return helper(300), bytearray(200000)
    def deep(n):
        return deep(n - 1) if n else helper(100)
    a, b, c = one(), two(), deep(30)
"""


def tree(capture, *words):
    return json.loads(show("tree", "--json", *words, capture).out.decode("utf-8"))


def children(rows, index):
    return [row for row in rows if row.get("parent") == index]


@pytest.fixture(scope="module")
def exact(tmp_path_factory, python):
    return recorded_exactly(tmp_path_factory, python, PROGRAM).output


@pytest.mark.parametrize("of, name", [("live", "live_bytes"), ("peak", "peak_bytes"), ("total", "total_bytes"), ("blocks", "live_bytes")])
@pytest.mark.parametrize("inverted", [(), ("--inverted",)])
def test_whole_is_the_tables_total_and_children_add_up(exact, of, name, inverted):
    rows = tree(exact, "--of", of, *inverted)["rows"]
    totals = table(exact)["totals"]
    assert rows[0]["bytes"] == totals[name] and rows[0]["blocks"] == totals[name.replace("bytes", "blocks")]
    for index, row in enumerate(rows):
        below = children(rows, index)
        assert row["bytes"] >= sum(child["bytes"] for child in below) + row["itself_bytes"] * (not inverted)
        if not inverted:
            assert row["bytes"] == sum(child["bytes"] for child in below) + row["itself_bytes"]
        assert all(child["depth"] == row["depth"] + 1 for child in below)
        figures = [child["blocks" if of == "blocks" else "bytes"] for child in below]
        assert figures == sorted(figures, reverse=True)


def test_callers_come_first_and_inverted_the_callees(exact):
    found = tree(exact)
    rows = found["rows"]
    one, = [row for row in rows if row["function"] == "one"]
    below = children(rows, rows.index(one))
    assert [row["function"] for row in below] == ["helper"] and 2000 * 1033 <= below[0]["bytes"] < 2000 * 1060
    inverted = tree(exact, "-i")["rows"]
    heaviest = children(inverted, 0)[0]
    assert heaviest["function"] in ("helper", "<listcomp>") and heaviest["bytes"] > 2400 * 1033
    deepest = max(row["depth"] for row in rows)
    assert deepest > 30 and max(row["depth"] for row in tree(exact, "--depth", "2")["rows"]) == 2


def test_text_is_indented_and_sums_up_what_is_small(exact):
    text = show("tree", "--min", "5", exact, env={"LC_ALL": "C.UTF-8"}).out.decode().splitlines()
    assert text[1].endswith("live, callers first, 5% or more")
    assert re.match(r" +live +share +blocks +itself", text[3]) and text[4].rstrip().endswith("all") and " 100% " in text[4]
    assert any(re.search(r"├ <module>  <string>:\d+$", line) for line in text)
    assert any(re.search(r"│ [├└] one  <string>:\d+$", line) for line in text)
    assert any(re.search(r"└ [\d ]+ others?$", line) for line in text)
    ascii_text = show("tree", "--min", "5", exact, env={"LC_ALL": "C"}).out
    assert all(byte < 128 for byte in ascii_text) and b"|-<module>" in ascii_text
    narrow = show("tree", "--min", "0", exact, env={"LC_ALL": "C.UTF-8", "COLUMNS": "80"}).out.decode()
    assert max(map(len, narrow.splitlines())) <= 80 and re.search(r"…\d+ deep", narrow), "deep calls have their number"


def test_share_leaves_out_frames_in_json_too(exact):
    assert all(row["bytes"] >= 0.1 * tree(exact)["rows"][0]["bytes"] for row in tree(exact, "--min", "10%")["rows"])
    assert len(tree(exact, "--min", "10")["rows"]) < len(tree(exact)["rows"])


@pytest.mark.parametrize("words", [("--min", "10"), ("--depth", "2"), ("--min", "3%", "--inverted"), ("--min", "10", "--of", "blocks"), ("--min", "100%")])
def test_what_is_left_out_of_the_json_is_summed_up_where_it_was(exact, words):
    rows, whole = tree(exact, *words)["rows"], tree(exact, *[word for word in words if word == "--inverted"])["rows"]
    nothing = {"branches": 0, "bytes": 0, "blocks": 0}
    assert any("others" in row for row in rows) and all(row.get("others", nothing)["bytes"] == 0 for row in whole)
    for index, row in enumerate(rows):
        others = row.get("others", nothing)
        below = children(rows, index)
        assert row["bytes"] == row["itself_bytes"] + sum(child["bytes"] for child in below) + others["bytes"]
        assert row["blocks"] >= sum(child["blocks"] for child in below) + others["blocks"] and ("others" not in row or others["branches"])
    branches = [found[0].get("others", nothing)["branches"] + len(children(found, 0)) for found in (rows, whole)]
    assert branches[0] == branches[1]


def test_memory_without_a_stack_is_below_the_whole(tmp_path):
    path = cw.shop().write(tmp_path / "x.hkc")
    rows = tree(path)["rows"]
    assert {row["function"] for row in children(rows, 0)} == {"<module>", "(native code)"}
    assert rows[0]["bytes"] == sum(row["bytes"] for row in children(rows, 0)) == table(path)["totals"]["live_bytes"]


def test_empty_capture_and_killed_process_have_a_tree(heapkeeper, tmp_path):
    assert [row["bytes"] for row in tree(cw.Capture().write(tmp_path / "x.hkc"))["rows"]] == [0]
    words = heapkeeper.command("def f():\n    return bytearray(5 << 20)\nx = f(); import os; os.kill(os.getpid(), 9)", options=("--exact",))
    subprocess.run(words, timeout=60)
    found = tree(heapkeeper.output)
    assert found["state"] == "killed" and [row for row in found["rows"] if row["function"] == "f"][0]["bytes"] > 5 << 20


@pytest.mark.parametrize("words, wanted", [
    (["a", "b"], b"one capture or process"), (["--of", "size", "a"], b"live, peak, total or blocks"), (["--depth", "x", "a"], b"number of calls"),
    (["--min", "120", "a"], b"0% to 100%"), (["--min", "-1", "a"], b"0% to 100%"), (["--min", "nan", "a"], b"0% to 100%"),
    (["--color", "red", "a"], b"auto, always or never"), (["--nonsense"], b"unknown option"),
])
def test_wrong_command_lines_are_one_line_and_status_2(words, wanted):
    done = show("tree", *words, status=2)
    assert done.out == b"" and re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err) and wanted in done.err


def test_hostile_names_do_not_reach_the_terminal(tmp_path):
    path = evil(tmp_path)
    for words in ([], ["-i"], ["--json"], ["--min", "0"]):
        out = show("tree", *words, path).out
        assert not has_control_bytes(out) and b"\xe2\x80\xae" not in out
    with Screen("tree", path) as screen:
        screen.until("callers first")
        screen.press("e")
        screen.press("iq")
        assert "\x1b[2J" not in screen.end() and "\u202e" not in screen.output


# ---- in a terminal ----


def cursor(lines):
    line, = [line for line in lines if line.startswith(">")]
    return line


def test_arrows_open_and_close_and_q_leaves_the_terminal_as_it_was(exact):
    with Screen("tree", exact) as screen:
        lines = screen.until("callers first")
        assert ENTER in screen.output and cursor(lines).rstrip().endswith("▾ all")
        lines = screen.press("c", r"^>.*all")
        assert not any("one" in line.split() for line in lines)
        lines = screen.press(DOWN, r"^>.*<module>")
        screen.press(RIGHT, r"^>.*▾ <module>")
        lines = screen.press(RIGHT, r"^>.*(one|two|deep)")
        lines = screen.press(LEFT, r"^>.*▾ <module>")
        lines = screen.press(LEFT, r"^>.*▸ <module>")
        screen.press(UP, r"^>.*all")
        screen.press(PAGE_DOWN)
        screen.press("q")
        screen.end()


def test_search_finds_what_is_closed(exact):
    with Screen("tree", exact) as screen:
        screen.until("callers first")
        screen.press("c", r"^>.*all")
        screen.press("/helpr\x7fer\r", r"^>.*helper  <string>")
        first = screen.lines()
        screen.press("n", r"^>.*helper")
        assert cursor(screen.lines()) != cursor(first) or screen.lines() != first
        screen.press("/no such thing\r", "not found")
        screen.press("/x\x1b")
        screen.press("q")
        screen.end()


def test_inverting_and_the_figure_are_switched(exact):
    with Screen("tree", exact) as screen:
        screen.until("callers first")
        lines = screen.press("i", "callees first")
        assert "itself" not in "\n".join(lines)
        screen.press("s", r"^ +peak +share")
        screen.press("s", r"^ +total +share")
        screen.press("i", "callers first")
        screen.press("\x03")
        screen.end()


def test_resized_terminal_is_drawn_anew(exact):
    with Screen("tree", exact, rows=24, columns=100) as screen:
        screen.until("callers first")
        screen.output = ""
        screen.resize(12, 60)
        lines = screen.until("callers first")
        assert len(lines) <= 12 and max(map(len, lines[:-1])) <= 60
        screen.press("q")
        screen.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT])
def test_terminal_is_as_it_was_after_a_signal(exact, number):
    with Screen("tree", exact) as screen:
        screen.until("callers first")
        screen.process.send_signal(number)
        screen.end(status=-number)


def test_stopped_it_gives_the_terminal_back_and_takes_it_again(exact):
    with Screen("tree", exact) as screen:
        screen.until("callers first")
        screen.output = ""
        screen.press("\x1a")
        while "\x1b[?1049l" not in screen.output:
            assert screen.read(30)
        assert os.waitpid(screen.process.pid, os.WUNTRACED)[1] & 0xff == 0x7f
        screen.output = ""
        screen.process.send_signal(signal.SIGCONT)
        screen.until("callers first")
        assert ENTER in screen.output
        screen.press("q")
        screen.end()


def test_piped_it_is_text(exact):
    out = subprocess.run([COMMAND, "tree", exact], stdout=subprocess.PIPE, timeout=60, env=dict(os.environ, TERM="xterm")).stdout
    assert b"\x1b[?1049h" not in out and b"callers first" in out
