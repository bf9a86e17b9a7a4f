"""docs/tour.md and tour-objects.md: their commands still print what they show, and tools/tour.py notices if not."""

import os
import shutil
import subprocess
import sys

import pytest

from conftest import TREE, build_is_usable

TOOL = os.path.join(TREE, "tools", "tour.py")
TOUR = os.path.join(TREE, "docs", "tour.md")


def tour(*words, status=0):
    """Runs the tool: (what differs, what it complains of)."""
    done = subprocess.run([sys.executable, TOOL, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=600)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def usable():
    reason = build_is_usable()
    if reason:
        pytest.skip(reason)


def test_commands_of_the_tour_print_what_it_shows(every_python, usable):
    differences, complaints = tour("--check", "--python", every_python.path)
    assert differences == ""
    assert complaints == "" or shutil.which("cc") is None


CHANGES = {
    "Arenas, pools and blocks": ("392 allocated, 120 free", "391 allocated, 121 free"),
    "Size classes": ("list of 100              856      64", "list of 100              856      80"),
    "The life of a pool": ("0 empty, 0 used, 0 full", "0 empty, 1 used, 0 full"),
    "Fragmentation": ("#.#.#.#.#.#.#.#.\n```", "#.#.#.#.#.#.##..\n```"),
    "Large objects": ("4097 bytes: 1000 large", "4097 bytes:  900 large"),
    "The guide's geometry": ("███▃ ", "███▄ "),
    "A whole process": ("together ", "altogether "),
    "Line by line": ("keep  1 call", "kept  1 call"),
    "Over time": ("    dropped", "    gone"),
    "Habits": ("allocated\n```\n\nA million", "given back\n```\n\nA million"),
}


@pytest.mark.parametrize("old, new", [("the tuple, too     1", "the tuple, too     2"), ("unreachable: 2", "unreachable: 3")])
def test_changed_number_is_found_in_the_tour_of_the_objects(python, usable, tmp_path, old, new):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    with open(os.path.join(TREE, "docs", "tour-objects.md"), encoding="utf-8") as file:
        text = file.read()
    assert text.count(old) >= 2  # live in Python, and in C
    copy = tmp_path / "tour-objects.md"
    copy.write_text(text.replace(old, new), encoding="utf-8")
    differences, _ = tour("--check", "--python", python.path, copy, status=1)
    assert differences.count("\n  was  ") == text.count(old)


def test_changed_number_picture_or_word_is_found_in_its_chapter_alone(python, usable, tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    with open(TOUR, encoding="utf-8") as file:
        text = file.read()
    for old, new in CHANGES.values():
        assert old in text
        text = text.replace(old, new, 1)
    copy = tmp_path / "tour.md"
    copy.write_text(text, encoding="utf-8")
    differences, _ = tour("--check", "--python", python.path, copy, status=1)
    chapters = [line.split('"')[1] for line in differences.splitlines() if line.startswith("chapter ")]
    assert chapters == list(CHANGES)


# ---- how a page is compared ----


def page(tmp_path, output, command="cat said", said=None, mark=""):
    text = "## One\n\n```text said\n%s\n```\n\n%s\n```console\n$ %s\n%s\n```\n" % (said, mark, command, output)
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("mark, shown, printed, same", [
    ("", "pid 12 at 0x7f00 in  3 MiB", "pid 9999 at 0x7fff33 in 3 MiB", True),
    ("", "POOL 1.2 Python 3.9.1", "POOL 12.31 Python 3.15.0a1", True),
    ("", "12 345 blocks", "12345 blocks", True),
    ("", "12 blocks", "13 blocks", False),
    ("", "██░ 3", "█░░ 3", False),
    ("", "     1  ██▃ 12%", "     0  ██▃ 12%", True),
    ("", "     1  ██▃ 12%", "     1  ██▄ 12%", False),
    ("", "used", "full", False),
    ("", "one\ntwo", "one", False),
    ("", "one", "one\ntwo", False),
    ("", "-3", "3", False),
    ("<!-- about 5% -->", "1 000 blocks 1.00 MiB", "1049 blocks 1020 KiB", True),
    ("<!-- about 5% -->", "1 000 blocks", "1060 blocks", False),
    ("<!-- about 5% -->", "1.00 MiB", "1.10 MiB", False),
    ("<!-- about 5% -->", "4 pools", "14 pools", True),
    ("<!-- about 5% -->", "4 pools", "15 pools", False),
    ("<!-- about 5% -->", "████░░░░", "██████░░", True),
    ("<!-- about 5% -->", "████░░░░", "███████░", False),
    ("<!-- words -->", "raw 1 ██ 12 KiB", "raw 999 ░ 3.00 MiB", True),
    ("<!-- words -->", "raw 1", "mem 1", False),
    ("<!-- words -->", "raw 1 2", "raw 1", False),
    ("<!-- picture -->", "3 KiB \u28ff live\nmark 12 ms", "mark 1.2 s\n\n \u28c0 live 3.11 MiB", True),
    ("<!-- picture -->", "live 3 MiB", "dead 3 MiB", False),
    ("<!-- picture -->", "live", "live live", False),
])
def test_what_counts_as_the_same(tmp_path, mark, shown, printed, same):
    path = page(tmp_path, shown, said=printed, mark=mark)
    differences, _ = tour("--check", "--python", sys.executable, path, status=0 if same else 1)
    assert same or differences.startswith('chapter "One": `cat said`')


def test_outputs_are_put_in_their_place_and_nothing_else_is_changed(tmp_path):
    path = page(tmp_path, "old\noutput", said="new output at 0x12")
    before = path.read_text()
    tour("--python", sys.executable, path)
    after = before.replace("old\noutput", "new output at 0x12")
    assert path.read_text() == after
    path.write_text(after.replace("0x12\n```\n\n", "0x34\n```\n\n"))
    tour("--python", sys.executable, path)  # an address is no news
    assert path.read_text() == after.replace("0x12\n```\n\n", "0x34\n```\n\n") != after


def test_command_that_fails_is_named_and_the_page_stays_as_it_is(tmp_path):
    path = page(tmp_path, "old", command="echo gone; exit 3")
    before = path.read_text()
    for words in [], ["--check"]:
        _, complaints = tour("--python", sys.executable, *words, path, status=1)
        assert complaints == 'tour.py: chapter "One": `echo gone; exit 3` ended with status 3:\ngone\n\n'
    assert path.read_text() == before
