"""Lines of code that Python's JIT runs may be 1 to 3 off: they have a ~, and `run --exact-lines` keeps the JIT off."""

import re

import pytest

import capture_writer as cw
import pages
from conftest import COMMAND, execute

PROGRAM = """kept = []
def work(n):
    total = 0
    for i in range(n):
        total += i
        if i % 3:
            kept.append((i, total))
        else:
            kept.append([i])
        kept.append({"a": str(i)})
    return total
for _ in range(20):
    work(5000)
"""


def with_jit(python):
    done = execute([python.path, "-c", "import sys; print(sys._jit.is_enabled())"], env={"PYTHON_JIT": "1"})
    if done.status != 0 or done.out != b"True\n":
        pytest.skip("this Python has no JIT")


def test_a_line_of_the_jit_has_a_tilde_in_every_text(tmp_path):
    c = cw.shop()
    c.sites[0].flags |= cw.JIT  # of remember_order, line 88
    path = c.write(tmp_path / "shop.hkc")
    table = execute([COMMAND, "table", path], env={"COLUMNS": "160"}).out.decode()
    assert ":~88 in Shop.remember_order" in table and ":52 in cache_put" in table and table.count("~") == 1
    by_function = execute([COMMAND, "table", "--by", "function", path]).out.decode()
    assert "~" not in by_function
    report = execute([COMMAND, "report", "--color", "never", path], env={"COLUMNS": "160"}).out.decode()
    assert ":~88 in Shop.remember_order" in report and "remember_order:~88" in report and "lines with ~ may be 1 to 3 off" in report
    rows = {row["function"]: row for row in execute([COMMAND, "table", "--json", path]).json["rows"]}
    assert rows["remember_order"]["jit"] is True and rows["cache_put"]["jit"] is False
    tree = execute([COMMAND, "tree", path], env={"COLUMNS": "160"}).out.decode()
    assert ":~88" in tree and ":52" in tree and tree.count("~") == 1
    jit = {row["function"]: row["jit"] for row in execute([COMMAND, "tree", "--json", path]).json["rows"]}
    assert jit["remember_order"] is True and jit["cache_put"] is False
    jit = {frame["function"]: frame["jit"] for frame in execute([COMMAND, "flame", "--json", path]).json["frames"]}
    assert jit["remember_order"] is True and jit["cache_put"] is False
    data = pages.Page(execute([COMMAND, "flame", "-o", "-", path]).out.decode()).data["flame-data"]
    frames = pages.unpack_flame(data)[0]
    assert [(frames[i][0], frames[i][3]) for i in pages.numbers(data["near"])] == [("Shop.remember_order", 88)]
    lines = execute([COMMAND, "lines", "/srv/shop/shop.py", path]).out.decode()
    assert re.search(r"  ~88  ", lines) and re.search(r"   52  ", lines)
    found = {line["line"]: line["jit"] for line in execute([COMMAND, "lines", "--json", "/srv/shop/shop.py", path]).json["lines"]}
    assert found == {52: False, 88: True}


def test_without_the_jit_there_is_no_tilde(tmp_path):
    path = cw.shop().write(tmp_path / "shop.hkc")
    for command in "table", "report":
        assert b"~" not in execute([COMMAND, command, path]).out


def test_exact_lines_is_told_to_python(heapkeeper):
    code = "import os; print(os.environ.get('PYTHON_JIT'))"
    assert heapkeeper.good(code, options=("--exact-lines",), env={"PYTHON_JIT": "1"}).out == b"0\n"
    assert heapkeeper.good(code, options=("--exact",), env={"PYTHON_JIT": "1"}).out == b"1\n"


def test_what_the_jit_allocates_is_marked_and_of_the_right_function(heapkeeper, tmp_path, every_python):
    with_jit(every_python)
    program = tmp_path / "jit.py"
    program.write_text(PROGRAM)
    figures = []
    for options in ("--exact",), ("--exact", "--exact-lines"):
        heapkeeper.good([str(program)], python=every_python, options=options, env={"PYTHON_JIT": "1"})
        rows = [row for row in execute([COMMAND, "table", "--json", heapkeeper.output]).json["rows"] if row.get("function") == "work"]
        blocks = {row["line"]: row["total_blocks"] for row in rows}
        if "--exact-lines" in options:
            assert not any(row["jit"] for row in rows) and set(blocks) <= {4, 5, 7, 9, 10}
        else:
            assert any(row["jit"] for row in rows)
        figures.append(sum(blocks.values()))
    assert abs(figures[0] - figures[1]) < 2000  # the function's are the same, but for what the JIT itself keeps
