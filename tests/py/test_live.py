"""`heapkeeper live`: the report of a running process, again and again."""

import contextlib
import json
import re
import subprocess

import pytest

import capture_writer as cw
from conftest import COMMAND, clean_environment
from screen import DOWN, ENTER, Screen
from test_views import show

pytestmark = pytest.mark.once

PROGRAM = """
    import sys
    kept = []
    def grow(n):
        kept.append(bytearray(n))
    print("ready", flush=True)
    for line in sys.stdin:
        grow(int(line))
        print("done", flush=True)
"""


@contextlib.contextmanager
def program(heapkeeper):
    """A process that allocates as much as it is told."""
    words = heapkeeper.command(PROGRAM, options=("--exact",))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"

        def tell(n):
            process.stdin.write(b"%d\n" % n)
            process.stdin.flush()
            assert process.stdout.readline() == b"done\n"
        process.tell = tell
        yield process
        if process.poll() is None:
            process.kill()


def test_without_a_terminal_reports_follow_until_the_end(heapkeeper):
    with program(heapkeeper) as process:
        process.tell(3 << 20)
        with subprocess.Popen([COMMAND, "live", "--interval", "0.1", str(process.pid)], stdout=subprocess.PIPE) as live:
            first = live.stdout.readline().decode()
            assert "running" in first
            process.stdin.close()
            rest = live.communicate(timeout=60)[0].decode()
    assert live.returncode == 0 and re.search(r"^-c .*ended|ended$", rest, re.M) and "grow" in rest


def test_json_is_one_document_after_another(heapkeeper):
    with program(heapkeeper) as process:
        process.tell(2 << 20)
        out = show("live", "--json", "--count", "2", "--interval", "0.05", process.pid).out.decode()
        text, documents = out, []
        while text.strip():
            document, end = json.JSONDecoder().raw_decode(text.lstrip())
            documents.append(document)
            text = text.lstrip()[end:]
        assert len(documents) == 2 and {d["format"] for d in documents} == {"heapkeeper-report-1"}
        assert all(d["state"] == "running" and d["pid"] == process.pid for d in documents)


def test_report_takes_a_process_id_as_the_other_views_do(heapkeeper, tmp_path):
    environment = {"HEAPKEEPER_DIR": str(tmp_path / "usual")}

    def report(pid, *words, status=0):
        return show("report", *words, pid, env=environment, status=status)

    for output in (), ("-o", "/dev/null"):
        words = [COMMAND, "run", *output, heapkeeper.python.path, "-c", "import sys; kept = bytearray(5 << 20); print(1, flush=True); sys.stdin.read()"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment(**environment)) as process:
            process.stdout.readline()
            found = json.loads(report(process.pid, "--json").out.decode())
            assert (found["pid"], found["state"]) == (process.pid, "running")
            assert json.loads(report(process.pid, "--json", "--pid", process.pid, status=1 if output else 0).out.decode() or "{}").get("pid") \
                == (None if output else process.pid)
            assert b"\nLARGEST" in report(process.pid).out and b"<html" in report(process.pid, "--html", "-o", "-").out
            process.stdin.close()
        wanted = show("table", process.pid, env=environment, status=1 if output else 0).err
        done = report(process.pid, status=1 if output else 0)
        assert done.err == wanted and (b" ended" in done.out or re.fullmatch(b"heapkeeper: there is no process %d, [^\n]+\n" % process.pid, wanted))
    with subprocess.Popen(["sleep", "600"]) as other:
        assert re.fullmatch(rb"heapkeeper: process %d does not run under heapkeeper: [^\n]+\n" % other.pid, report(other.pid, status=1).err)
        other.kill()


def test_ended_capture_is_reported_once(tmp_path):
    path = cw.shop().write(tmp_path / "x.hkc")
    assert show("live", path).out == show("report", path).out


def test_terminal_shows_what_is_new_and_q_leaves_it_as_it_was(heapkeeper):
    with program(heapkeeper) as process:
        with Screen("live", "--interval", "0.1", process.pid, rows=40) as screen:
            screen.until("running")
            assert ENTER in screen.output
            process.tell(200 << 20)
            screen.until(r"20\d MiB .*grow")
            screen.press("r" + DOWN)
            screen.press("q")
            screen.end()
        assert process.poll() is None


def test_terminal_says_that_the_process_has_ended(heapkeeper):
    with program(heapkeeper) as process:
        process.tell(30 << 20)
        with Screen("live", "--interval", "0.1", process.pid, rows=12) as screen:
            screen.until("running")
            process.kill()
            process.wait()
            lines = screen.until("has ended")
            assert len(lines) <= 12
            screen.press(DOWN, "has ended")
            screen.press("q")
            screen.end()


@pytest.mark.parametrize("words, wanted", [
    (["--interval", "0", "1"], b"0.05 to 3600 seconds"), (["--interval", "x", "1"], b"0.05 to 3600"), (["--count", "0", "1"], b"number of reports"),
    (["--top", "0", "1"], b"--top needs a number"), (["1", "2"], b"one process at a time"), (["--nonsense"], b"unknown option"),
])
def test_wrong_command_lines_are_one_line_and_status_2(words, wanted):
    done = show("live", *words, status=2)
    assert done.out == b"" and re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err) and wanted in done.err


def test_process_without_a_capture_is_told(tmp_path):
    done = show("live", 2 ** 31 - 1, status=1)
    assert done.out == b"" and re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err)
