"""Contract 11: neither a terminal nor a reader is attacked by what a program calls its files and functions."""

import json
import os
import re

import pytest

from conftest import COMMAND, clean_environment, execute
from test_contract_unchanged import in_terminal

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b31m\r\n\t\x00\x7f\u202e\u2028\u200b"
MARKUP = "<script>alert('&\"')</script>"
# Names that no source file can hold are given to code objects by replace().
PROGRAM = """
    def remember(n):
        blocks = []
        for _ in range(n):
            blocks.append(bytearray(5000))
        return blocks
    keep = []
    for file, name in (FILE_1, NAME_1), (FILE_2, NAME_2), ("/tmp/" + "x" * 5000, "y" * 5000), ("", ""), \\
                      ("caf\\u00e9/\\udcff\\ud800.py", "na\\u00efve\\udc80"), ("%s%n%d", "%s%n"), ("../../../etc/passwd", "x"):
        code = remember.__code__.replace(co_filename=file, co_name=name)
        if hasattr(code, "co_qualname"):
            code = code.replace(co_qualname=name)
        keep.append(type(remember)(code, {"range": range, "bytearray": bytearray})(4000))
"""
PROGRAM = (PROGRAM.replace("FILE_1", ascii("/tmp/" + ESCAPES + ".py")).replace("NAME_1", ascii("f" + ESCAPES))
           .replace("FILE_2", ascii(MARKUP + ".py")).replace("NAME_2", ascii(MARKUP)))


@pytest.fixture
def hostile(heapkeeper, every_python):
    heapkeeper.good(PROGRAM, python=every_python)
    heapkeeper.recorded(python=every_python)
    return heapkeeper


def has_control_bytes(text):
    return re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", text) or re.search("[\x80-\x9f\u202a-\u202e\u2066-\u2069]",
                                                                     text.decode("utf-8", "replace"))


def test_text_report_has_no_control_bytes(hostile):
    for options in ((), ("--top", "1000"), ("--color", "never")):
        text = hostile.text(None, *options)
        assert not has_control_bytes(text), has_control_bytes(text)
        text.decode("utf-8")
        assert b"owned" in text and b"script" in text, "they are there, and tame"


def test_on_a_terminal_only_our_own_colours_are_sent(hostile):
    status, seen = in_terminal([COMMAND, "report", "--color", "always", "--top", "1000", hostile.output],
                               clean_environment(TERM="xterm-256color"))
    assert status == 0 and b"owned" in seen
    assert not has_control_bytes(re.sub(rb"\x1b\[[0-9;]*m", b"", seen))
    assert b"\x1b[2J" not in seen and b"\x1b]" not in seen and b"\x07" not in seen


def test_json_report_is_valid_and_keeps_the_names(hostile):
    text = execute([COMMAND, "report", "--json", hostile.output]).out
    assert not has_control_bytes(text)
    report = json.loads(text.decode("utf-8"))
    names = {site["function"] for site in report["sites"]}
    assert any(MARKUP in name for name in names)
    assert any("owned" in name for name in names)


def test_hostile_arguments_and_directory_are_tamed_too(heapkeeper, tmp_path):
    directory = tmp_path / "d\x1b[31m\n<b>"
    directory.mkdir()
    script = directory / "s\x1b]0;owned\x07.py"
    script.write_text("keep = [bytearray(1000) for _ in range(20000)]\n")
    heapkeeper.good([str(script), ESCAPES.replace("\0", ""), MARKUP, "\udcff"], cwd=str(directory))
    heapkeeper.recorded()
    assert not has_control_bytes(heapkeeper.text())
    assert heapkeeper.report()["command_line"][-2] == MARKUP


def test_errors_about_hostile_paths_are_tamed(heapkeeper, tmp_path):
    for words in (["run", "x\x1b[31m\n.py"], ["report", "/nonexistent/\x1b]0;owned\x07"], ["\x1b[31m"],
                  ["run", "-o", "/nonexistent/\x1b[31m", "-c", "1"], ["run", "--\x1b[31m"]):
        done = execute([COMMAND] + words)
        assert done.status in (1, 2)
        assert done.err.count(b"\n") == 1 and not has_control_bytes(done.err)


def test_environment_values_are_not_in_the_capture(heapkeeper):
    secret = "correct-horse-battery-staple"
    heapkeeper.good("keep = [bytearray(1000) for _ in range(20000)]", env={"DATABASE_PASSWORD": secret})
    heapkeeper.recorded()
    with open(heapkeeper.output, "rb") as file:
        assert secret.encode() not in file.read()
    assert os.stat(heapkeeper.output).st_mode & 0o777 == 0o600
