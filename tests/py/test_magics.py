"""The magics in a real Jupyter kernel: run by nbclient, and their pictures looked at in a real browser.

tools/notebooks.sh installs the kernel, tools/browser.sh the browser; without them these tests are skipped, and each says so.
"""

import html
import json
import os
import re
import subprocess
import textwrap

import pages
import pytest
from conftest import BUILD, COMMAND, TREE, execute
from test_pages_browser import chromium, picture, visit  # noqa: F401  (fixtures)

PACKAGE = os.path.join(TREE, "python")

DRIVER = """
import json, sys, nbformat, nbclient
book = nbformat.v4.new_notebook()
book.cells = [nbformat.v4.new_code_cell(text) for text in json.load(sys.stdin)]
nbclient.NotebookClient(book, kernel_name="tested", timeout=300, allow_errors=True).execute()
nbformat.write(book, "book.ipynb")
json.dump([[dict(output) for output in cell.outputs] for cell in book.cells], sys.stdout)
"""


@pytest.fixture(scope="session")
def kernel_python(python):
    path = os.path.join(BUILD, "notebooks", "%d.%d" % python.version, "bin", "python")
    done = subprocess.run([os.path.join(TREE, "tools", "notebooks.sh"), "--check", python.path], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)
    if done.returncode or not os.path.exists(path):
        pytest.skip(done.stderr.strip() or "no build/notebooks")
    return path


@pytest.fixture
def notebook(kernel_python, tmp_path):
    """notebook(cell, ..., options=None): runs cells in a kernel, under `heapkeeper run` with these options unless they are None; the
    outputs of each cell."""

    def run(*cells, options=("--memory-profiler", "--bound", "256M")):
        words = [kernel_python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        if options is not None:
            words = [COMMAND, "run", *options, "-f", "-o", str(tmp_path / "capture")] + words
        spec = tmp_path / "share" / "kernels" / "tested"
        spec.mkdir(parents=True, exist_ok=True)
        (spec / "kernel.json").write_text(json.dumps({"argv": words, "display_name": "tested", "language": "python",
                                                      "env": {"PYTHONPATH": PACKAGE, "HEAPKEEPER_BUILD": BUILD}}))
        done = execute([kernel_python, "-c", DRIVER], input=json.dumps([textwrap.dedent(cell).strip() for cell in cells]).encode(),
                       env={"JUPYTER_PATH": str(tmp_path / "share"), "IPYTHONDIR": str(tmp_path / "ipython")}, cwd=str(tmp_path), timeout=400)
        assert done.status == 0, done.err.decode(errors="replace")[-3000:]
        return done.json

    return run


def text_of(outputs):
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


TABLE = """
    import json
    def table(n):
        rows = [{"key": str(i), "value": i * 1.5} for i in range(n)]
        text = json.dumps(rows)
        return rows, text
"""


def frame_of(output):
    """The page that a cell shows, and what it draws: (page, data, nodes with their frames, leaves)."""
    page = html.unescape(re.fullmatch(r'<iframe srcdoc="([^"]*)" style="[^"]*" title="[^"]*"></iframe>', output["data"]["text/html"]).group(1))
    data = pages.Page(page).data["flame-data"]
    frames, nodes, leaves = pages.unpack_flame(data)
    return page, data, [(parent, frames[frame]) for parent, frame in nodes], leaves


def test_a_cells_flame_graph_has_what_it_allocated_line_by_line(notebook, visit, tmp_path):  # noqa: F811
    outputs = notebook("%load_ext heapkeeper", TABLE, """
        %%heapkeeper -o page.html
        rows, text = table(30000)
        blocks = [bytes(1000) for _ in range(1000)]
        len(text)
    """, "len(rows), len(blocks), %s" % "text[:8]")
    assert outputs[2][0]["data"]["text/plain"].isdigit(), outputs[2]
    assert text_of(outputs[3]) == "(30000, 1000, '[{\"key\":')"
    shown = outputs[2][-1]
    assert re.search(r"[\d.]+ MiB at most, [\d.]+ MiB left in \d+ blocks, [\d.]+ MiB allocated; every block, by heapkeeper", text_of([shown]))
    page, data, nodes, leaves = frame_of(shown)
    assert pages.Page(page).loads == []
    path = tmp_path / "page.html"
    assert path.read_text() == page
    named = {}
    for node, (parent, (name, file, _, line)) in enumerate(nodes):
        own = leaves.get(node, [0] * 6)
        named.setdefault((name, file, line, nodes[parent][1][0] if node else None), [0, 0])
        named[name, file, line, nodes[parent][1][0] if node else None][0] += own[1]
        named[name, file, line, nodes[parent][1][0] if node else None][1] += own[4]
    # "everything" is the root's name; a comprehension is a frame of its own before 3.12.
    own = [value for (name, file, line, _), value in named.items() if file == "In[3]" and line == 2]
    assert sum(count for count, _ in own) == pytest.approx(1001, abs=3) and sum(size for _, size in own) >= 1000 * 1033
    rows = [value for (name, file, line, _), value in named.items() if file == "In[2]" and line == 3]
    assert sum(count for count, _ in rows) >= 30000 * 3
    assert ("table", "In[2]", 4, "<module>") in named and ("<module>", "In[3]", 1, "everything") in named
    assert not any(name.startswith("HeapkeeperMagics") for name, _, _, _ in named)

    shown_page = visit(path)
    shown_page.wait_for_function("window.heapkeeperFlame")
    assert shown_page.evaluate("heapkeeperFlame.total()") == sum(leaf[4] for leaf in leaves.values())
    assert [button.inner_text() for button in shown_page.query_selector_all("#flame-value button:visible")] == ["Live", "Allocated"]
    shown_page.keyboard.press("2")  # at the peak, which nobody knows here
    assert shown_page.evaluate("heapkeeperFlame.state.value") == "total"
    shown_page.keyboard.press("1")
    assert shown_page.evaluate("heapkeeperFlame.total()") == sum(leaf[0] for leaf in leaves.values())
    picture(shown_page, "magic-page")


def test_a_notebook_with_the_magics_in_a_browser(notebook, visit, kernel_python, tmp_path):  # noqa: F811
    notebook("%load_ext heapkeeper", TABLE, "%mprun -f table kept = table(20000)", "%memit bytearray(50_000_000)",
             "%%heapkeeper\nrows, text = table(30000)\nindex = {row['key']: row for row in rows}")
    done = execute([kernel_python, "-c", """
import html, json
book = json.load(open("book.ipynb"))
out = ["<!doctype html><meta charset=utf-8><link rel=icon href=data:,><title>book</title><body style='font: 14px sans-serif; width: 1100px'>"]
for cell in book["cells"]:
    out.append("<pre style='background:#eee;padding:6px'>" + html.escape("".join(cell["source"])) + "</pre>")
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "text/html" in data:
            out.append("".join(data["text/html"]))
        else:
            out.append("<pre>" + html.escape("".join(output.get("text") or data.get("text/plain") or repr(output))) + "</pre>")
open("book.html", "w").write("".join(out))
"""], cwd=str(tmp_path))
    assert done.status == 0, done.err
    page = visit(tmp_path / "book.html")
    frame = next(frame for frame in page.frames if frame != page.main_frame)
    frame.wait_for_function("window.heapkeeperFlame")
    assert frame.evaluate("heapkeeperFlame.boxes().length") > 3
    picture(page, "magic-notebook")


def test_mprun_shows_the_lines_of_functions_that_cells_define(notebook, tmp_path):
    outputs = notebook("%load_ext memory_profiler", TABLE, "%mprun -T table.txt -f table kept = table(20000)",
                       "result = %mprun -r -f table table(10)\ntype(result).__name__", """
        %%mprun -f table
        @profile
        def inner():
            return table(10)
        inner()
    """, "%mprun -f nobody 1", "'profile' in vars(__import__('builtins'))")
    shown = text_of(outputs[2])
    assert re.search(r"Line # +Mem usage +Increment +Occurrences +Line Contents\n=+\n", shown)
    rows = re.search(r"^ +3 +[\d.]+ MiB +([\d.]+) MiB +\d+ +rows = ", shown, re.MULTILINE)
    assert 1 < float(rows.group(1)) < 12
    assert "rows = [" in (tmp_path / "table.txt").read_text()
    assert text_of(outputs[3]).endswith("'LineProfiler'")
    assert "def inner():" in text_of(outputs[4]) and "def table(n):" in text_of(outputs[4])
    assert "Could not find function 'nobody'" in json.dumps(outputs[5])
    assert text_of(outputs[6]) == "False"


def test_memit_measures_lines_and_cells(notebook):
    outputs = notebook("%load_ext memory_profiler", "%memit x = bytes(range(256)) * 200_000", "%%memit -o -q n = 300_000\nx = b'x' * n * 200",
                       "_.baseline < max(_.mem_usage)", "%memit -r no 1")
    peak, increment = map(float, re.fullmatch(r"peak memory: ([\d.]+) MiB, increment: ([\d.]+) MiB\n", text_of(outputs[1])).groups())
    assert 45 < increment < 70 and peak > increment
    assert re.match(r"<MemitResult : peak memory: [\d.]+ MiB, increment: [\d.-]+ MiB>", text_of(outputs[2]))
    assert text_of(outputs[3]) == "True"
    assert "invalid literal" in json.dumps(outputs[4])


def test_an_error_in_a_cell_is_the_cells(notebook):
    outputs = notebook("%load_ext heapkeeper", "%%heapkeeper\nkept = bytes(5000)\n1 / 0", "%heapkeeper text = 'x' * 3_000_000", "len(kept), len(text)")
    kinds = [output["output_type"] for output in outputs[1]]
    assert kinds == ["display_data", "error"] and outputs[1][1]["ename"] == "ZeroDivisionError"
    assert re.search("2.9 MiB at most, 2.9 MiB left", text_of(outputs[2]))
    assert text_of(outputs[3]) == "(5000, 3000000)"


def test_a_cell_may_await_and_a_page_that_cannot_be_written_is_shown(notebook):
    outputs = notebook("%load_ext heapkeeper", """
        %%heapkeeper
        import asyncio
        async def work(n):
            await asyncio.sleep(0)
            return bytes(n)
        kept = await work(3_000_000)
        len(await asyncio.gather(work(10), work(20)))
    """, "len(kept)", "%%heapkeeper -o /nonexistent/page.html\nkept = bytes(5_000_000)", "%heapkeeper await work(5)", "%%heapkeeper\nawait work(7) +")
    assert text_of(outputs[1]).startswith("2"), outputs[1]
    assert re.search("2.9 MiB at most, 2.9 MiB left", text_of(outputs[1]))
    _, _, nodes, _ = frame_of(outputs[1][-1])
    assert ("work", "In[2]") in [frame[:2] for _, frame in nodes] and not any("run_async" in frame[0] for _, frame in nodes)
    assert text_of(outputs[2]) == "3000000"
    assert [output["output_type"] for output in outputs[3]] == ["stream", "display_data"]
    assert outputs[3][0]["text"] == "heapkeeper: -o /nonexistent/page.html: No such file or directory; the flame graph is only shown here\n"
    assert "await needs a cell of its own" in json.dumps(outputs[4])
    assert outputs[5][-1]["ename"] == "SyntaxError"


def test_a_cell_that_is_run_again_has_one_table_of_its_function(notebook):
    cell = "from heapkeeper import profile\n@profile\ndef f(n):\n    return bytes(n)\nf(1000)"
    outputs = notebook(cell, cell, cell.replace("bytes(n)", "bytes(2 * n)"), "import sys; profile.show(sys.stdout)\nlen(profile.results())")
    assert text_of(outputs[3]).count(": f  1 call, net") == 1 and "bytes(2 * n)" in text_of(outputs[3])


def test_without_heapkeeper_in_the_kernel_tracemalloc_is_asked_and_that_is_said(notebook):
    outputs = notebook("%load_ext heapkeeper", TABLE, "%%heapkeeper\nrows, text = table(30000)", "%mprun -f table kept = table(2000)",
                       "%memit 1", options=None)
    assert "what is left, by tracemalloc: start the kernel with `heapkeeper run`" in text_of(outputs[2])
    _, data, nodes, leaves = frame_of(outputs[2][-1])
    assert data["values"] == ["live"]
    assert any("rows = [{" in frame[0] and frame[1] == "In[2]" for _, frame in nodes)
    assert sum(leaf[0] for leaf in leaves.values()) > 5 << 20
    assert "memory_profiler: lines are measured by the resident size of the whole process" in text_of(outputs[3])
    assert "def table(n):" in text_of(outputs[3])
