"""`make run`: the demonstration names the line that leaks, and fails when the report does not."""

import os
import stat
import sys

import pytest

from conftest import COMMAND, TREE, execute

sys.path.insert(0, os.path.join(TREE, "tools"))
import demo  # noqa: E402

pytestmark = pytest.mark.once

SCRIPT = os.path.join(TREE, "tools", "demo.py")
SHORT = ("--orders", "20000", "--rounds", "1", "--sample", "64K", "--without-tracemalloc")


def run_demo(python, *words, **env):
    return execute([sys.executable, SCRIPT, "--python", python.path, *words], env=dict(env, PYTHONIOENCODING="utf-8"))


@pytest.fixture
def altered(heapkeeper, tmp_path):
    """A build directory whose command is ours, but for what a line of Python does to `words` or to the report `r`."""

    def make(before="pass", change="pass"):
        command = tmp_path / "heapkeeper"
        command.write_text(
            "#!%s\nimport json, os, subprocess, sys\nwords = sys.argv[1:]\n%s\n"
            "if words[0] == 'run':\n    os.execv(%r, ['heapkeeper'] + words)\n"
            "r = json.loads(subprocess.run([%r] + words, stdout=subprocess.PIPE).stdout)\n%s\nprint(json.dumps(r))\n"
            % (sys.executable, before, COMMAND, COMMAND, change))
        command.chmod(stat.S_IRWXU)
        return str(tmp_path)

    return make


def test_the_leak_is_named_with_its_stack_and_the_cache_beside_it(heapkeeper):
    done = run_demo(heapkeeper.python, *SHORT)
    out = done.out.decode()
    assert (done.status, done.err) == (0, b""), out + done.err.decode()
    function, line = demo.marked_line(demo.SHOP)
    lines = out.splitlines()
    answer = next(i for i, text in enumerate(lines) if text.startswith("GROWING"))
    assert "shop.py:%d in %s " % (line, function) in lines[answer]
    stack = lines[answer + 1].split("(not:")[0].split(" > ")
    assert [frame.split(":")[0].strip() for frame in stack] == ["main", "handle", "remember_order"]
    assert "(not: render_page, shop.py:" in lines[answer + 1] and lines[answer + 1].endswith("flat)")
    assert any(text.startswith("Heap ") and "pools (" in text for text in lines)
    assert "\033" not in out


def test_another_answer_is_a_failure(heapkeeper, altered):
    change = "for line in r['lines']: line['growing'] = line['function'] == 'render_page'"
    done = run_demo(heapkeeper.python, *SHORT, HEAPKEEPER_BUILD=altered(change=change))
    assert done.status == 1 and b"GROWING" not in done.out
    assert b"demo: wrong answer: shop.py:" in done.err and b"in render_page keeps growing" in done.err


def test_a_second_growing_line_is_a_failure(heapkeeper, altered):
    change = "for line in r['lines']: line['growing'] |= line['function'] == 'render_page'"
    done = run_demo(heapkeeper.python, *SHORT, HEAPKEEPER_BUILD=altered(change=change))
    assert done.status == 1 and b"demo: wrong answer" in done.err


def test_a_program_that_prints_something_else_is_a_failure(heapkeeper, altered):
    before = "if '--orders' in words: words[-1] = '19999'"
    done = run_demo(heapkeeper.python, *SHORT, HEAPKEEPER_BUILD=altered(before=before))
    assert done.status == 1 and b"demo: the program printed" in done.err


def test_what_is_missing_is_said_in_one_line(tmp_path, python):
    done = run_demo(python, *SHORT, HEAPKEEPER_BUILD=str(tmp_path))
    assert done.status == 1 and done.err.endswith(b"run make\n") and done.err.count(b"\n") == 1
    done = execute([sys.executable, SCRIPT, "--python", "no-such-python"])
    assert done.status == 1 and b"no-such-python" in done.err and done.err.count(b"\n") == 1


def test_the_shop_prints_the_same_every_time(python):
    outputs = {execute([python.path, demo.SHOP, "--orders", "300"], env={"PYTHONHASHSEED": seed}).out
               for seed in ("1", "2")}
    assert len(outputs) == 1 and outputs.pop().startswith(b"300 orders, ")
