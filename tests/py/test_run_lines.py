"""heapkeeper run --lines: figures beside the source of functions, in programs that know nothing of it."""

import json
import os
import re
import textwrap
import zipfile

import pytest
from conftest import COMMAND, execute
from screen import Screen

SHOP = """\
def put(n):
    shelf = bytes(n)
    return shelf


class Cart:
    def add(self, n):
        def inner():
            return bytes(n)
        return inner()

    @staticmethod
    def never():
        return None
"""

MAIN = """\
import shop


def work():
    kept = shop.put(50000)
    return shop.Cart().add(3000)


if __name__ == "__main__":
    work()
    print("done")
"""


@pytest.fixture
def run(tmp_path, python):
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "main.py").write_text(MAIN)

    def go(*options, program=("main.py",), python=python, status=0, **rest):
        words = [COMMAND, "run", "-o", "/dev/null", "--python", python.path, *options, *program]
        done = execute(words, cwd=str(tmp_path), **rest)
        assert done.status == status, done.err.decode(errors="replace")[-3000:]
        return done

    go.python = python.path
    return go


def table_of(done):
    """{function: {line: cells}} of the text on stderr, and its other lines."""
    tables, rest = {}, []
    for line in done.err.decode().splitlines():
        heading = re.match(r"(\S+): (\S+)  (\d+) calls?, net ", line)
        if heading:
            table = tables[heading.group(2)] = {}
        elif re.match(r" *\d+ ", line):
            table[int(line.split()[0])] = line
        elif line and not line.startswith("  Line"):
            rest.append(line)
    return tables, rest


def test_functions_of_the_main_script_are_shown_on_stderr_at_its_end(run, every_python):
    done = run("--lines", python=every_python)
    tables, rest = table_of(done)
    assert done.out == b"done\n" and list(tables) == ["work"] and rest == []
    assert tables["work"][5].split()[1] == "1" and re.search(r"\+4[89]\.\d KiB", tables["work"][5])
    assert tables["work"][5].endswith("    kept = shop.put(50000)")


@pytest.mark.parametrize("pattern, found", [
    ("put", ["put"]), ("shop.put", ["put"]), ("Cart.add", ["Cart.add"]), ("shop.Cart.*", ["Cart.add"]), ("shop.py", ["put", "Cart.add"]),
    ("shop.py:put", ["put"]), ("*:work", ["work"]), ("main.work,put", ["work", "put"]), ("Cart.add.inner", ["Cart.add.<locals>.inner"]),
    ("./shop.py:put", ["put"]), ("__main__.work", ["work"]), ("__main__.put", []),
])
def test_patterns_name_functions_of_any_module(run, pattern, found):
    tables, rest = table_of(run("--lines=" + pattern))
    assert sorted(tables) == sorted(found) and bool(rest) == (not found)


def test_an_unknown_function_or_file_is_said_in_a_line(run):
    tables, rest = table_of(run("--lines=Cart.ad,shops.py:put,other,put,Cart.never"))
    assert list(tables) == ["put"]
    assert rest == ["heapkeeper: --lines=Cart.ad: no function of that name was in what was run; there is shop.py:Cart.add",
                    "heapkeeper: --lines=shops.py:put: no file of that name was run",
                    "heapkeeper: --lines=other: no function of that name was in what was run", "heapkeeper: --lines=Cart.never: not called: Cart.never"]


def test_a_function_is_proposed_only_where_its_whole_name_is_near(run, tmp_path):
    (tmp_path / "guess.py").write_text("class Queue:\n    def join(self): pass\n    def touch(self): pass\nQueue()\n")
    for pattern in "os.path.join", "nosuch":
        done = run("--lines=" + pattern, program=("guess.py",))
        assert b"Queue" not in done.err and b"touch" not in done.err, done.err
    for pattern in "guess.Queue.joins", "Queue.jon", "joins":
        assert b"; there is guess.py:Queue.join\n" in run("--lines=" + pattern, program=("guess.py",)).err, pattern


def test_source_in_an_archive_is_shown(run, tmp_path, every_python):
    with zipfile.ZipFile(str(tmp_path / "app.pyz"), "w") as archive:
        archive.writestr("__main__.py", "import inside\ndef f(): return inside.put(2000)  # main\nf()\n")
        archive.writestr("inside.py", "def put(n):\n    return bytes(n)  # inside\n")
    for words in (), ("--lines=put,f",):
        done = run("--lines", *words, program=("app.pyz",), python=every_python)
        assert b"# main" in done.err and b"cannot be read" not in done.err and (not words or b"# inside" in done.err), done.err


def test_a_line_is_no_function_and_a_table_that_cannot_be_written_is_shown(run, tmp_path):
    assert table_of(run("--lines=shop.py:3"))[1] == ["heapkeeper: --lines=shop.py:3: after the colon stands the name of a function, as in shop.py:main; * is all"]
    tables, rest = table_of(run("--lines=put", "--force", "--lines-output=/dev/full"))
    assert list(tables) == ["put"] and len(rest) == 1 and rest[0].startswith("heapkeeper: --lines-output: [Errno 28]"), rest


def test_the_table_goes_to_the_programs_own_streams_and_to_devices(run, tmp_path):
    for name in "-", "/dev/stdout":
        done = run("--lines=put", "--lines-output", name)
        assert done.err == b"" and done.out.startswith(b"done\n") and b"shelf = bytes(n)" in done.out, name
    done = run("--lines=put", "--lines-output", "/dev/stderr")
    assert list(table_of(done)[0]) == ["put"] and done.out == b"done\n"
    done = run("--lines=put", "--lines-output", "/dev/null")
    assert done.err == b"" and done.out == b"done\n"
    assert b"is a directory" in run("--lines", "--lines-output", ".", status=2).err.lower()
    (tmp_path / "parent.py").write_text("import subprocess, sys\nsubprocess.run([sys.executable, 'main.py'])\n")
    assert run("--lines=put", "--lines-output", "-", program=("parent.py",)).err.startswith(b"heapkeeper: --lines=put: no function")
    assert sorted(name for name in os.listdir(str(tmp_path)) if name.startswith("-")) == []
    words = [COMMAND, "run", "-q", "-o", "/dev/null", "--lines=put", "--lines-output", "-", "--python", run.python, "main.py"]
    done = execute(["/bin/sh", "-c", 'exec "$@" >&-', "sh"] + words, cwd=str(tmp_path))
    assert done.err.startswith(b"heapkeeper: --lines-output: the stream is closed; so it is shown here\n") and b"shelf = bytes(n)" in done.err, done.err


def test_a_lambda_is_chosen_where_a_pattern_says_so(run, tmp_path):
    (tmp_path / "small.py").write_text("double = lambda n: bytes(2 * n)\ndef f():\n    return double(3000)\nf()\n")
    for pattern, found in ("small.py:<lambda>", ["<lambda>"]), ("*.<lambda>", ["<lambda>"]), ("small.py", ["f"]), ("", ["f"]):
        assert list(table_of(run("--lines=" + pattern, program=("small.py",)))[0]) == found, pattern
    run("--lines=<lambda>", "--lines-output", "small.html", program=("small.py",))
    assert "&lt;lambda&gt;" in (tmp_path / "small.html").read_text()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_in_a_terminal_the_source_has_room_and_rows_are_not_broken(tmp_path, python, width):
    (tmp_path / "wide.py").write_text("def work():\n    the_kept_values = [bytes(100000 * n) for n in range(20)]  # %s\n"
                                      "    return the_kept_values\nwork()\n" % ("long " * 30))
    with Screen("run", "-q", "-o", "/dev/null", "--python", python.path, "--lines", "--native", "--rss", tmp_path / "wide.py", columns=width) as screen:
        while screen.process.poll() is None:
            screen.read(0.2)
        while screen.read(0):
            pass
        rows = screen.output.splitlines()
    row = [row for row in rows if "the_kept_values = [" in row]
    assert len(row) == 1 and 2 <= row[0].index("the_kept") <= max(width - 20, 52), rows
    assert ("no room for" in "".join(rows)) == (width < 130), rows
    assert width == 60 or all(len(row) <= width for row in rows if re.match(r" *\d+ ", row)), rows


def test_modules_and_code_are_main_scripts_too(run, every_python):
    assert list(table_of(run("--lines", program=("-m", "main"), python=every_python))[0]) == ["work"]
    done = run("--lines", program=("-c", "def f():\n    return bytes(5000)\nf()\n"), python=every_python)
    assert "f" in table_of(done)[0]
    flat = run("--lines", program=("-c", "x = bytes(5000)"), python=every_python)
    assert list(table_of(flat)[0]) == ["<module>"]


def test_json_and_html_have_the_same_figures(run, tmp_path):
    run("--lines=put,work", "--lines-output", "lines.json")
    document = json.loads((tmp_path / "lines.json").read_text())
    assert document["format"] == "heapkeeper-line-profile-1"
    put = [f for f in document["functions"] if f["function"] == "put"][0]
    assert (put["calls"], put["first_line"], put["net_bytes"]) == (1, 1, put["lines"][1]["net_bytes"])
    assert put["lines"][1]["source"] == "    shelf = bytes(n)" and 49900 < put["lines"][1]["net_bytes"] <= 50033
    assert put["lines"][1]["hits"] == 1 and 1 <= put["lines"][1]["blocks"] <= 2 and not put["source_changed"]
    assert b"exists already; --force" in run("--lines", "--lines-output", "lines.json", status=2).err
    assert b"cannot be made: No such file or directory" in run("--lines", "--lines-output", "nowhere/lines.json", status=2).err
    done = run("--lines=put", "--lines-output", "lines.html")
    page = (tmp_path / "lines.html").read_text()
    assert done.err == b"" and "shelf = bytes(n)" in page and re.search(r"\+48\.\d KiB", page) and "http" not in page.replace("http-equiv", "")
    run("--lines=put", "--lines-output", "lines.txt")
    assert re.search(r"\+48\.\d KiB.*shelf = bytes", (tmp_path / "lines.txt").read_text())


def test_source_that_was_changed_since_is_said(run, tmp_path):
    (tmp_path / "self.py").write_text(textwrap.dedent("""\
        import os, time
        def f():
            os.utime(__file__, (time.time() + 9, time.time() + 9))
        f()
    """))
    _, rest = table_of(run("--lines", program=("self.py",)))
    assert rest == ["note: its source was changed after the program began: the text may not be what ran"]
    (tmp_path / "gone.py").write_text("import os\ndef f():\n    os.unlink(__file__)\nf()\n")
    tables, rest = table_of(run("--lines", program=("gone.py",)))
    assert len(rest) == 1 and rest[0].startswith("note: its source cannot be read") and tables["f"][3].split()[1] == "1"


def test_children_say_nothing_but_write_files_of_their_own(run, tmp_path, python):
    (tmp_path / "parent.py").write_text(textwrap.dedent("""\
        import os, subprocess, sys
        def f():
            return bytes(5000)
        def call():
            subprocess.run([sys.executable, "main.py"], check=True)
        f(), call()
        if os.fork() == 0:
            f()
            sys.exit()
        os.wait()
    """))
    done = run("--lines", program=("parent.py",))
    assert sorted(table_of(done)[0]) == ["call", "f"] and table_of(done)[1] == []
    run("--lines=work,f", "--lines-output=out.json", program=("parent.py",))
    files = sorted(name for name in os.listdir(str(tmp_path)) if name.startswith("out"))
    assert len(files) == 3 and files[2] == "out.json" and all(re.fullmatch(r"out\.\d+\.json", name) for name in files[:2]), files
    assert sorted(list(functions_of(tmp_path / name).items()) for name in files) == [[("f", 1)], [("f", 1)], [("work", 1)]], files


def functions_of(path):
    return {f["function"]: f["calls"] for f in json.loads(path.read_text())["functions"]}


@pytest.mark.parametrize("words", ["--lines", "--lines=f", "--lines=pool.py"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_of_multiprocessing_write_files_of_their_own_however_they_are_started(run, tmp_path, method, words):
    (tmp_path / "pool.py").write_text(textwrap.dedent("""\
        import multiprocessing
        def f(n):
            kept.append(bytes(n))
        kept = []
        if __name__ == "__main__":
            context = multiprocessing.get_context("%s")
            f(1000)
            workers = [context.Process(target=f, args=(n,)) for n in (200_000, 300_000)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
    """ % method))
    done = run(words, "--lines-output=out.json", program=("pool.py",))
    assert done.err == b""
    found = [json.loads(path.read_text())["functions"] for path in tmp_path.glob("out.*.json")]
    assert functions_of(tmp_path / "out.json") == {"f": 1}
    assert [[(f["function"], f["calls"]) for f in functions] for functions in found] == [[("f", 1)], [("f", 1)]]
    # Not net: a collection of cycles may begin in that line, as well, and frees what is older.
    assert sorted(f["allocated_bytes"] // 100_000 for functions in found for f in functions) == [2, 3]


def test_a_python_that_is_not_on_the_heap_says_so_at_its_end(run, python):
    done = run("--lines", env={"PYTHONMALLOC": "malloc"})
    assert done.out == b"done\n" and done.err.decode().splitlines() == [
        "heapkeeper: --lines: nothing was profiled: this Python does not run on heapkeeper's heap; `heapkeeper report` says why"]
    assert run("--lines", program=("main.py",)).err.count(b"heapkeeper:") == 0
    assert b"heapkeeper:" not in execute([COMMAND, "run", "-o", "/dev/null", "--lines", python.path, "--version"]).err


def test_names_are_utf8_in_every_locale_and_a_script_that_cannot_be_compiled_is_pythons_to_tell(run, tmp_path):
    (tmp_path / "name.py").write_text("def gr\u00f6\u00dfe(): return bytes(3000)\ngr\u00f6\u00dfe()\n", encoding="utf-8")
    for pattern in "gr\u00f6\u00dfe", "name.py:gr\u00f6*":
        done = run("--lines=" + pattern, program=("name.py",), env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
        assert b"1 call, net" in done.err and b"no function" not in done.err, done.err
    (tmp_path / "bad.py").write_text("def f(:\n")
    done = run("--lines", program=("bad.py",), status=1)
    assert b"SyntaxError" in done.err and b"heapkeeper" not in done.err


def test_a_program_that_frees_all_tools_or_profiles_the_same_function_ends_in_peace(run, tmp_path, every_python):
    (tmp_path / "tools.py").write_text(textwrap.dedent("""\
        import sys
        def f():
            return bytes(5000)
        f()
        for tool in range(6) if hasattr(sys, "monitoring") else ():
            sys.monitoring.set_events(tool, 0) if sys.monitoring.get_tool(tool) else None
            sys.monitoring.free_tool_id(tool)
    """))
    tables, rest = table_of(run("--lines=f", program=("tools.py",), python=every_python))
    assert list(tables) == ["f"] and rest == []
    (tmp_path / "twice.py").write_text("from heapkeeper import profile\n@profile\ndef f():\n    return bytes(5000)\nf()\n")
    done = run("--lines=f", program=("twice.py",), python=every_python)
    assert b"ignored" not in done.err and b"Traceback" not in done.err and list(table_of(done)[0]) == ["f"], done.err
    assert done.err.count(b"1 call, net") == 1  # @profile's table; that of --lines would be the same


def test_what_cannot_be_is_said_before_the_program_begins(run):
    assert b"--lines and --debug exclude each other" in run("--lines", "--debug", status=2).err
    assert b"write --lines=shop.put, in one word" in run("--lines", program=("shop.put", "main.py"), status=2).err
    assert b"no Python inside" in execute([COMMAND, "run", "-o", "/dev/null", "--lines", "/bin/true"]).err


def test_interpreters_with_their_own_lock_go_on_beside_it(run, tmp_path, every_python):
    if every_python.version < (3, 13):
        pytest.skip("interpreters of their own are made by an internal module")
    (tmp_path / "many.py").write_text(textwrap.dedent("""\
        import _interpreters, threading
        def work(n):
            x = [bytes(n) for i in range(100)]
            return len(x)
        def other():
            interpreter = _interpreters.create()
            _interpreters.exec(interpreter, "x = [bytes(100) for i in range(20000)]; y = sum(len(b) for b in x)")
            _interpreters.destroy(interpreter)
        threads = [threading.Thread(target=other) for i in range(3)]
        for thread in threads: thread.start()
        for i in range(200): work(1000)
        for thread in threads: thread.join()
        print(work(10))
    """))
    done = run("--lines=work", program=("many.py",), python=every_python)
    tables, rest = table_of(done)
    assert done.out == b"100\n" and rest == [] and tables["work"][3].split()[1] == "201"
