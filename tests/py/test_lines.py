"""`heapkeeper lines`: the source of a file with what each line allocated."""

import json
import os
import pathlib
import re

import pytest

import capture_writer as cw
from test_contract_hostile import has_control_bytes
from test_views import evil, show, table

COLUMNS = ("live_bytes", "live_blocks", "peak_bytes", "peak_blocks", "total_bytes", "total_blocks")
SOURCE = """\
kept = []

def keep(n):
\tfor _ in range(n):
\t\tkept.append(bytes(1000))

def pass_by(n):
    return [bytes(300) for _ in range(n)]



keep(800)
pass_by(500)
"""


def lines(*words):
    return json.loads(show("lines", "--json", *words).out.decode("utf-8"))


def at_line(found, number):
    line, = [line for line in found["lines"] if line["line"] == number]
    return line


@pytest.fixture
def program(heapkeeper):
    path = pathlib.Path(heapkeeper.directory) / "some_program.py"
    path.write_text(SOURCE)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    heapkeeper.good([str(path)], options=("--exact",))
    return path, heapkeeper.output


def test_lines_add_up_to_the_files_row_of_the_table(program):
    path, capture = program
    found = lines("some_program.py", capture)
    row, = [row for row in table(capture, "--by", "file")["rows"] if row["file"] == str(path)]
    for name in COLUMNS:
        assert sum(line[name] for line in found["lines"]) == found["totals"][name] == row[name]
    assert found["file"] == found["source_path"] == str(path) and found["source_state"] == "good"
    kept = at_line(found, 5)
    assert kept["source"] == "\t\tkept.append(bytes(1000))" and kept["function"] == "keep"
    assert 800 * 1033 <= kept["live_bytes"] < 800 * 1033 + 10000 and kept["live_blocks"] >= 800
    assert at_line(found, 8)["total_bytes"] > 500 * 333 and at_line(found, 8)["live_bytes"] == 0


def test_text_shows_the_lines_with_figures_and_some_around_them(program):
    text = show("lines", "some_program.py", program[1]).out.decode()
    body = text.splitlines()
    assert body[1].endswith("every block was recorded")
    column = body[3].index("line")
    numbers = [int(line[column:].split()[0]) for line in body[4:-1] if line[column:].strip()[:1].isdigit()]
    assert numbers == sorted(numbers) and {3, 4, 5, 7, 8} <= set(numbers)
    assert "…" in text or "..." in text or len(numbers) >= 8
    assert re.search(r"5                  kept\.append\(bytes\(1000\)\)\n", text), "tabs are spread to blanks"
    assert body[-1].endswith("total of the file")
    everything = show("lines", "--all", "some_program.py", program[1], env={"LC_ALL": "C"}).out.decode()
    assert len(everything.splitlines()) == len(SOURCE.splitlines()) + 5
    bare = show("lines", "--context", "0", "some_program.py", program[1], env={"LC_ALL": "C"}).out.decode()
    assert "def pass_by" in bare and "keep(800)" not in bare.replace("def keep", "")
    assert len(lines("--all", "some_program.py", program[1])["lines"]) == len(SOURCE.splitlines())


def test_source_that_changed_shrank_or_went_is_said_above_it(program):
    path, capture = program
    path.write_text(SOURCE + "# later\n")
    assert lines(path, capture)["source_state"] == "changed"
    assert b"written after the run began" in show("lines", path, capture).out
    path.write_text("one = 1\n")
    found = lines(path, capture)
    assert found["source_state"] == "shorter" and "source" not in at_line(found, 5)
    assert b"has 1 lines, fewer than ran" in show("lines", path, capture).out
    os.unlink(path)
    found = lines("some_program.py", capture)
    assert found["source_state"] == "missing" and at_line(found, 5)["function"] == "keep"
    text = show("lines", "some_program.py", capture).out.decode()
    assert "not here any more: %s" % path in text and re.search(r" 5  keep\n", text)
    os.mkdir(path)
    assert lines("some_program.py", capture)["source_state"] == "unreadable"
    os.rmdir(path)
    os.mkfifo(path)
    assert lines("some_program.py", capture)["source_state"] == "unreadable", "nobody waits for a pipe"


def test_file_is_found_by_its_path_its_end_and_where_it_lies(program):
    path, capture = program
    for word in (path, "some_program.py", path.parent.name + "/some_program.py"):
        assert lines(word, capture)["file"] == str(path)
    assert lines(os.path.relpath(path), capture)["file"] == str(path)
    assert lines("<frozen importlib._bootstrap>", capture)["source_state"] == "no_file"
    assert lines("importlib._bootstrap", capture)["file"] == "<frozen importlib._bootstrap>"
    refused = show("lines", "ome_program.py", capture, status=1)
    assert b'no code of "ome_program.py" was recorded; there is ' in refused.err


def test_several_files_that_may_be_meant_are_named(tmp_path):
    c = cw.shop()
    for file in ("/srv/a/models.py", "/srv/b/models.py", "/srv/notmodels.py"):
        c.site(c.stack((c.code("f", file=file), 1)), live_bytes=10, total_bytes=20)
    path = c.write(tmp_path / "x.hkc")
    refused = show("lines", "models.py", path, status=2)
    assert refused.err == b'heapkeeper: lines: "models.py" may be /srv/a/models.py, /srv/b/models.py; write more of the path\n'
    assert lines("b/models.py", path)["totals"]["total_bytes"] == 20


def test_file_that_ran_and_allocated_nothing_says_so(tmp_path):
    c = cw.shop()
    c.code("f", file="/srv/idle.py")
    path = c.write(tmp_path / "x.hkc")
    assert b"no line of it allocated anything" in show("lines", "idle.py", path).out
    assert lines("idle.py", path)["lines"] == []


def test_sampled_lines_say_how_sure_they_are(tmp_path):
    path = cw.shop().write(tmp_path / "x.hkc")
    text = show("lines", "shop.py", path, env={"LC_ALL": "C"}).out.decode()
    assert re.search(r"61\.0 MiB +\+-3% .* 88  Shop\.remember_order\n", text)


@pytest.mark.parametrize("words, wanted", [
    ([], b"needs a source file"), (["a", "b", "c"], b"one file and one capture"), (["--context", "x", "a"], b"number of lines"),
    (["--color", "red", "a"], b"auto, always or never"), (["--none", "a"], b"unknown option"),
])
def test_wrong_command_lines_are_one_line_and_status_2(words, wanted):
    done = show("lines", *words, status=2)
    assert done.out == b"" and re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err) and wanted in done.err


def test_hostile_names_and_hostile_source_do_not_reach_the_terminal(tmp_path):
    path = evil(tmp_path)
    done = show("lines", "\x1b[2J\udc9b31m.py", path)
    assert not has_control_bytes(done.out)
    assert not has_control_bytes(show("lines", "nothing\x1b[2J", path, status=1).err[:-1])
    source = tmp_path / "harm.py"
    source.write_bytes(b"x = '\x1b[2J\x9b31m\xe2\x80\xae\x00\xff'\r\n" * 3)
    c = cw.shop()
    c.site(c.stack((c.code("f", file=str(source)), 2)), live_bytes=10, total_bytes=20)
    capture = c.write(tmp_path / "harm.hkc")
    for words in (["--all"], ["--json"]):
        out = show("lines", *words, source, capture).out
        assert not has_control_bytes(out) and b"\xe2\x80\xae" not in out.replace(b"\\u202e", b"") or words == ["--json"]
        assert not has_control_bytes(out)
