"""`heapkeeper run --exact`: every block at the line and the stack that asked for it, to the byte."""

import ast
import json
import os
import sys
import textwrap

import pytest

from conftest import COMMAND, TREE, check_real_path, code_at_addresses_of_dead_code, embedding_flags, execute, live_in, sites_in, total_in

EXACT = ("--exact",)
PROGRAM = os.path.join(TREE, "tests", "py", "exact_program.py")


@pytest.fixture
def exact(heapkeeper):
    """The report of a program's exact record."""

    def run(program, state="ended", capture=None, status=0, **options):
        done = heapkeeper.run(program, options=EXACT, **options)
        assert done.status == status, done.err.decode(errors="replace")[-3000:]
        report = heapkeeper.report(capture)
        check_real_path(report, state, options.get("python"), mode="exact")
        report["out"] = done.out
        return report

    return run


def lines(report, name):
    """{line: [bytes, blocks]} of what lives of a file's lines."""
    found = {}
    for site in report["sites"]:
        if os.path.basename(site["file"]) == name and site["live_blocks"]:
            line = found.setdefault(site["line"], [0, 0])
            line[0] += site["live_bytes"]
            line[1] += site["live_blocks"]
    return found


def functions():
    with open(PROGRAM) as file:
        return [node for node in ast.parse(file.read()).body if isinstance(node, ast.FunctionDef)]


def lines_of_functions():
    """Lines of the functions that allocate and free; of the module only definitions are left out, whose classes and
    dicts depend on addresses and on how many names there are."""
    return {line for node in functions() for line in range(node.lineno + 1, node.end_lineno + 1)}


def lines_of_loops():
    return {node.lineno for function in functions() for node in ast.walk(function) if isinstance(node, ast.For)}


@pytest.mark.parametrize("way, state, status", [("end", "ended", 0), ("kill", "killed", -9)])
def test_lines_equal_tracemallocs_to_the_byte(heapkeeper, exact, every_python, way, state, status):
    truth = {int(line): values for line, values in heapkeeper.stock([PROGRAM, "tracemalloc"], python=every_python).json.items()}
    report = exact([PROGRAM, way], python=every_python, state=state, status=status)
    ours, wanted = lines(report, "exact_program.py"), lines_of_functions()
    truth = {line: values for line, values in truth.items() if line in wanted}
    ours = {line: values for line, values in ours.items() if line in wanted}
    assert len(truth) > 10 and sum(size for size, _ in truth.values()) > 1 << 20
    # A frame of a function that has ended is kept with its code until 3.10; the killed one runs still.
    zombies = {line for line in truth if line not in ours} if every_python.version < (3, 11) else set()
    assert all(values[1] == 1 for line, values in truth.items() if line in zombies)
    # From 3.14 on small integers, those of loops here, have a free list: up to 100 lie in blocks that others asked for.
    pooled = lines_of_loops() & set(truth) if every_python.version >= (3, 14) else set()
    for line in pooled:
        assert abs(truth[line][1] - ours[line][1]) <= 100
    exempt = zombies | pooled
    assert {line: values for line, values in truth.items() if line not in exempt} == {
        line: values for line, values in ours.items() if line not in exempt}


CHURN = """
    def make(n):
        return [bytes(1000) for _ in range(n)]
    def shrink(data):
        del data[100:]
    def grow(data):
        data.extend(bytes(5000))
    def temporary(n):
        for _ in range(n):
            bytes(300)
    kept = make(500)
    kept = None
    kept = make(300)
    array = bytearray(3000)
    shrink(array)
    other = bytearray(100)
    grow(other)
    temporary(10000)
"""


def test_live_peak_and_total_of_each_function(exact, every_python):
    report = exact(CHURN, python=every_python)
    size = 1000 + 33
    through, own = sites_in(report, "make")
    blocks = [site for site in through if site["live_bytes"] == 300 * size or site["live_blocks"] == 300]
    assert live_in(report, "make") >= 300 * size
    assert total_in(report, "make") >= 800 * size
    assert sum(site["peak_bytes"] for site in through) >= 500 * size
    assert live_in(report, "make") < 310 * size, "the first 500 are gone"
    assert blocks
    temporary = sites_in(report, "temporary")[1]
    assert sum(site["total_blocks"] for site in temporary) >= 10000
    assert sum(site["total_bytes"] for site in temporary) >= 10000 * 333
    assert sum(site["live_bytes"] for site in temporary) < 200


def test_a_block_that_grows_is_charged_to_who_asked_and_one_that_shrinks_stays(exact, every_python):
    report = exact(CHURN, python=every_python)
    assert live_in(report, "shrink") == 0
    grown = live_in(report, "grow")
    assert 5100 <= grown < 6500
    # bytearray(3000) asked for at the module's line has 100 bytes left; bytearray(100) has none there
    module = [site for site in report["sites"] if site["function"] == "<module>" and site["file"] == "<string>"]
    by_line = {site["line"]: 0 for site in module}
    for site in module:
        by_line[site["line"]] += site["live_bytes"]
    kept = [value for line, value in by_line.items() if line in (14, 16)]
    assert kept and all(value < 400 for value in kept), by_line


def test_what_the_end_of_the_interpreter_frees_is_not_counted(exact, every_python):
    report = exact("""
        def fill(): return {i: bytes(2000) for i in range(1000)}
        kept = fill()
        import atexit
        def late():
            global more
            more = bytes(100000)
        atexit.register(late)
    """, python=every_python)
    assert live_in(report, "fill") > 1000 * 2033
    assert 100033 <= live_in(report, "late") < 101000


def test_threads_are_told_apart_by_their_stacks(exact, every_python):
    report = exact("""
        import threading
        kept = []
        def allocate(n, size):
            out = [None] * n
            for i in range(n):
                out[i] = bytes(size)
            kept.append(out)
        def first(): allocate(3000, 100)
        def second(): allocate(2000, 200)
        def third():
            for _ in range(30): allocate(500, 50); kept.pop()
        threads = [threading.Thread(target=f) for f in (first, second, third)]
        for t in threads: t.start()
        for t in threads: t.join()
    """, python=every_python)

    def blocks(function, what):
        return sum(site[what] for site in sites_in(report, "allocate")[1]
                   if any(frame["function"] == function for frame in site["stack"]) and site["domain"] == "object")

    assert 3000 <= blocks("first", "live_blocks") <= 3010
    assert 2000 <= blocks("second", "live_blocks") <= 2010
    assert blocks("third", "total_blocks") >= 15000 and blocks("third", "live_blocks") < 1100


def test_code_that_dies_and_whose_address_returns(exact, every_python):
    """Each function is compiled anew, called once, and dropped; their code objects come to lie where others lay. A stack
    of one that was taken for another's would move its bytes to another file."""
    report = exact(code_at_addresses_of_dead_code(1500), python=every_python)
    if int(report["out"]) > 1300:
        pytest.skip("no address was used twice in this run")
    found = {}
    for site in report["sites"]:
        if site["file"].startswith("made-") and site["function"] == "work":
            found[site["file"]] = found.get(site["file"], 0) + site["live_bytes"]
    assert found == {"made-%d" % number: 1000 + number + 33 for number in range(1500)}


def test_code_with_the_addresses_of_dead_code_and_its_names(exact, every_python):
    """All that such a code object points to lies where the like of the dead one lay, but for the text of its file's name."""
    report = exact("""
        import types
        def work(n): return bytes(n)
        kept = []
        for number in range(500):
            code = work.__code__.replace(co_filename="made-%d" % number)
            kept.append(types.FunctionType(code, globals())(1000 + number))
            del code
    """, python=every_python)
    found = {site["file"]: site["live_bytes"] for site in report["sites"] if site["file"].startswith("made-")}
    assert found == {"made-%d" % number: 1000 + number + 33 for number in range(500)}


def test_large_blocks_and_their_growth(exact, every_python):
    report = exact("""
        def large(): return [bytes(10000 + i) for i in range(100)]
        def grown():
            data = bytearray()
            for _ in range(20000): data += b"0123456789"
            return data
        def freed():
            for _ in range(50): bytes(1 << 20)
        kept = large(), grown()
        freed()
    """, python=every_python)
    assert sum(10033 + i for i in range(100)) <= live_in(report, "large") < sum(10033 + i for i in range(100)) + 3000
    assert 200000 <= live_in(report, "grown") < 250000
    assert live_in(report, "freed") == 0 and total_in(report, "freed") >= 50 << 20


FAMILY = """
    import os
    def of_the_parent(n): return [bytes(1000) for _ in range(n)]
    def of_the_child(n): return [bytes(2000) for _ in range(n)]
    before = of_the_parent(20000)
    pid = os.fork()
    if pid == 0:
        mine = of_the_child(20000)
        del before[:10000]
        [None for _ in range(80) if not bytearray(1 << 20)]
        os._exit(0)
    for _ in range(5):
        of_the_parent(1000)  # meanwhile
    os.waitpid(pid, 0)
    after = of_the_parent(5000)
    print(pid)
"""


def near_blocks(report, function, size, count):
    """So many blocks of that size, and hardly anything else."""
    live = live_in(report, function)
    return count * size <= live < count * (size + 12) + 2000


def test_a_child_has_a_record_of_its_own(heapkeeper, every_python):
    pid = int(heapkeeper.good(FAMILY, python=every_python, options=EXACT).out)
    reports = {report["pid"]: report for report in map(heapkeeper.report, heapkeeper.captures)}
    assert len(reports) == 2
    child = reports.pop(pid)
    parent = reports.popitem()[1]
    check_real_path(parent, python=every_python, mode="exact")
    check_real_path(child, python=every_python, mode="exact")
    assert near_blocks(child, "of_the_parent", 1033, 10000)
    assert total_in(child, "of_the_parent") == 0
    assert near_blocks(child, "of_the_child", 2033, 20000)
    assert all(site["inherited_bytes"] == 0 for site in sites_in(child, "of_the_child")[0])
    assert sum(site["inherited_bytes"] for site in sites_in(child, "of_the_parent")[0]) == live_in(child, "of_the_parent")
    assert sites_in(parent, "of_the_child")[0] == []
    assert near_blocks(parent, "of_the_parent", 1033, 25000)
    assert total_in(parent, "of_the_parent") >= 30000 * 1033


@pytest.mark.parametrize("end", ["os._exit(0)", "os.execv('/bin/true', ['true'])", "os.kill(os.getpid(), 9)"])
def test_a_child_that_ends_at_once_leaves_no_file(heapkeeper, end):
    heapkeeper.good("""
        import os
        kept = [bytes(1000) for _ in range(5000)]
        for _ in range(5):
            if os.fork() == 0:
                %s
            os.wait()
    """ % end, options=EXACT)
    assert heapkeeper.captures == [heapkeeper.output]
    check_real_path(heapkeeper.report(), mode="exact")


def test_interpreters_with_their_own_lock(exact, every_python):
    if every_python.version < (3, 12):
        pytest.skip("no interpreter has a lock of its own before 3.12")
    report = exact("""
        import os, signal, threading, sys
        try:
            import _interpreters as interpreters
            make = lambda: interpreters.create("isolated")
        except ImportError:
            import _xxsubinterpreters as interpreters
            make = lambda: interpreters.create(isolated=True)
        run = getattr(interpreters, "run_string")
        code = '''
        def inside(n):
            out = [None] * n
            for i in range(n):
                out[i] = bytes(500)
            return out
        for _ in range(20): kept = inside(1000)
        for n in range(100): exec(compile("def f(): return bytes(50)", "x%d" % n, "exec")); f()
        '''
        def outside(n):
            out = [None] * n
            for i in range(n):
                out[i] = bytes(700)
            return out
        ids = [make() for _ in range(3)]
        threads = [threading.Thread(target=run, args=(i, code)) for i in ids]
        for t in threads: t.start()
        for _ in range(20): kept = outside(1000)
        for t in threads: t.join()
        os.kill(os.getpid(), signal.SIGKILL)  # from 3.14 on such interpreters end before the end begins
    """, python=every_python, state="killed", status=-9)
    inside = sites_in(report, "inside")[1]
    assert sum(site["total_bytes"] for site in inside if site["domain"] == "object") >= 3 * 20 * 1000 * 533
    assert 3 * 1000 * 533 <= live_in(report, "inside") < 3 * 1000 * 545 + 100000
    assert near_blocks(report, "outside", 733, 1000)


def test_memory_of_python_that_c_frees_is_counted_as_freed(exact, every_python):
    report = exact("""
        import ctypes
        api, libc = ctypes.PyDLL(None), ctypes.CDLL(None)
        for name in "PyMem_Malloc", "PyMem_RawMalloc":
            getattr(api, name).restype = ctypes.c_void_p
            getattr(api, name).argtypes = [ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]
        def mixed():
            for _ in range(200):
                libc.free(api.PyMem_Malloc(100))
                libc.free(api.PyMem_RawMalloc(200))
        mixed()
        kept = [[i] * 12 for i in range(20000)]  # so that what was freed from outside is taken back
    """, python=every_python)
    through = sites_in(report, "mixed")[0]
    assert total_in(report, "mixed") >= 200 * 300
    assert sum(site["live_bytes"] for site in through if site["domain"] in ("raw", "mem")) < 3000


def test_what_runs_is_as_without_us(heapkeeper, every_python):
    code = """
        import gc, sys, locale
        def f(depth):
            if depth: return f(depth - 1)
            return sorted(locals()), type(sys._getframe(1).f_locals).__name__
        print(f(40), gc.get_threshold(), len([x for x in gc.get_objects() if type(x).__name__ == "mark"]))
        try: [].pop()
        except IndexError as error: print(error)
        print(hash("x") != 0, sys.getrecursionlimit())
    """
    stock, ours = heapkeeper.stock(code, python=every_python), heapkeeper.run(code, python=every_python, options=EXACT)
    assert ours.said == stock.said


def test_the_text_says_exact_figures(heapkeeper, exact):
    exact("kept = [bytes(5000) for _ in range(3000)]")
    text = heapkeeper.text().decode()
    assert " events" in text and "±" not in text and "+-" not in text
    assert "samples" not in text


def test_a_program_without_python_is_recorded_by_samples_and_told_so(heapkeeper):
    done = execute(heapkeeper.command(["BEGIN { for (i = 0; i < 100000; i++) a[i] = i }"], python="/usr/bin/awk", options=EXACT))
    assert done.status == 0
    assert b"has no Python inside" in done.err
    assert heapkeeper.report()["mode"] == "sample"


def test_embedded_interpreters_are_recorded(heapkeeper, compile_c, every_python):
    program = compile_c("""
        #include <Python.h>
        int main(void)
        {
            Py_Initialize();
            PyRun_SimpleString("def inside(): return [bytes(900) for _ in range(2000)]\\nkept = inside()");
            return Py_FinalizeEx() < 0;
        }
    """, *embedding_flags(every_python))
    done = execute(heapkeeper.command([], python=program, options=EXACT))
    assert done.status == 0, done.err
    assert near_blocks(heapkeeper.report(), "inside", 933, 2000)


def threads_of(heapkeeper):
    done = execute([COMMAND, "table", "--by", "thread", "--json", heapkeeper.output])
    assert done.status == 0, done.err
    table = done.json
    for key in ("live_bytes", "live_blocks", "total_bytes", "peak_bytes"):
        assert table["totals"][key] == table["others"][key] + sum(row[key] for row in table["rows"])
    assert table["not_recorded"] == []
    return {row["name"]: row for row in table["rows"]}


def test_threads_have_sites_of_their_own(exact, heapkeeper, every_python):
    report = exact("""
        import ctypes, os, threading
        kept = []
        def work(n, name):
            ctypes.CDLL(None).prctl(15, name, 0, 0, 0)
            kept.append([bytes(1000) for _ in range(n)])
        threads = [threading.Thread(target=work, args=(1000 * (i + 1), b"worker-%d" % i)) for i in range(3)]
        for thread in threads: thread.start(); thread.join()
        work(500, b"first")
        print(os.getpid())
    """, python=every_python)
    pid = int(report["out"])
    rows = threads_of(heapkeeper)
    for i, name in enumerate(["worker-0", "worker-1", "worker-2"]):
        [row] = [row for key, row in rows.items() if key.startswith(name + " (")]
        assert 1033000 * (i + 1) <= row["live_bytes"] < 1033000 * (i + 1) + 50000
    assert rows["main (%d)" % pid]["live_bytes"] > 500 * 1033
    inside = [site for site in sites_in(report, "work")[0] if site["live_bytes"] > 500000]
    assert sorted(site["thread"].split(" ")[0] for site in inside) == ["main", "worker-0", "worker-1", "worker-2"]


def test_threads_that_come_and_go_share_their_sites_in_the_end(exact, heapkeeper, python):
    report = exact("""
        import threading
        kept = [None] * 300
        def work(i): kept[i] = bytes(5000)
        for i in range(300):
            thread = threading.Thread(target=work, args=(i,))
            thread.start()
            thread.join()
    """, python=python)
    rows = threads_of(heapkeeper)
    assert len(rows) == 64
    assert rows["(further threads)"]["live_bytes"] >= (300 - 62) * 5033
    assert live_in(report, "work") >= 300 * 5033


def test_a_forked_childs_thread_is_its_main_one(heapkeeper, every_python):
    pid = int(heapkeeper.good(FAMILY, python=every_python, options=EXACT).out)
    [child] = [path for path in heapkeeper.captures if heapkeeper.report(path)["pid"] == pid]
    table = execute([COMMAND, "table", "--by", "thread", "--json", child]).json
    [row] = [row for row in table["rows"] if row["name"] == "main (%d)" % pid]
    assert row["live_bytes"] > 30000000 * 0.9


def test_sampled_records_do_not_tell_threads_apart_and_say_so(heapkeeper):
    heapkeeper.good("pass", options=("--sample",))
    done = execute([COMMAND, "table", "--by", "thread", heapkeeper.output])
    assert done.status == 1 and b"does not tell threads apart" in done.err and done.err.count(b"\n") == 1


# --- it is the default ---

SOME = "kept = [bytes(5000) for _ in range(3000)]"


def test_every_block_is_the_default(heapkeeper, every_python):
    done = heapkeeper.good(SOME, python=every_python, options=())
    assert done.err == b""
    report = heapkeeper.report()
    check_real_path(report, python=every_python, mode="exact")
    assert not any("samples" in note for note in report["notes"])


@pytest.mark.parametrize("options, mode", [(("--debug",), "sample"), (("--native",), "exact"), (("--native-stacks",), "exact"),
                                           (("--native", "--sample"), "sample")])
def test_what_goes_with_samples_only_is_sampled_by_default(heapkeeper, options, mode):
    assert heapkeeper.good(SOME, options=options).err == b""
    check_real_path(heapkeeper.report(), mode=mode)


def test_a_program_without_python_is_sampled_by_default_and_nobody_is_told(heapkeeper):
    done = execute(heapkeeper.command(["BEGIN { for (i = 0; i < 100000; i++) a[i] = i }"], python="/usr/bin/awk", options=()))
    assert (done.status, done.err) == (0, b"")
    report = heapkeeper.report()
    assert report["mode"] == "sample" and not any("samples" in note for note in report["notes"])


def test_a_python_that_is_not_known_is_sampled_and_the_report_says_so(heapkeeper, python):
    done = heapkeeper.good(SOME, python=python, options=(), env={"HEAPKEEPER_TEST_BREAK_LAYOUT": "5"})
    assert done.err == b""
    report = heapkeeper.report()
    assert report["mode"] == "sample" and report["samples"] > 0
    assert any("by samples, not every block: stacks of this Python cannot be walked" in note for note in report["notes"])


def test_under_a_small_file_size_limit_the_sum_is_right(heapkeeper, python):
    command = heapkeeper.command(["-I", "-S", "-c", SOME], python=python, options=())
    done = execute(["bash", "-c", 'ulimit -f 1024; exec "$@"', "bash", *command])
    assert done.status == 0, done.err
    report = heapkeeper.report()
    check_real_path(report, python=python, mode="exact")
    assert os.path.getsize(heapkeeper.output) <= 1 << 20
    assert 3000 * 5033 < sum(site["live_bytes"] for site in report["sites"]) < 3000 * 5033 + (2 << 20)


def test_the_file_takes_what_its_sites_need(heapkeeper, python):
    heapkeeper.good(["-I", "-S", "-c", SOME], python=python, options=())
    status = os.stat(heapkeeper.output)
    assert status.st_blocks * 512 < 1 << 20 and status.st_size <= 64 << 20


def test_a_larger_bound_leaves_room_for_all_stacks(heapkeeper):
    """Some 30 000 stacks of a dozen frames each: too many for 1 MiB."""
    program = """
        import random
        choose = random.Random(3)
        def step(depth):
            if depth == 0:
                kept.append(bytearray(40))
            elif choose.random() < .5:
                step(depth - 1)
            else:
                step(depth - 1)
        kept = []
        for _ in range(30000):
            step(14)
    """
    cut = "The call tree was full: later stacks are cut to their innermost frames; `heapkeeper run --bound 256M` leaves them room."
    for bound, is_cut in (("1M", True), ("64M", False)):
        heapkeeper.good(program, options=("--exact", "--bound", bound))
        assert os.stat(heapkeeper.output).st_size <= int(bound[:-1]) << 20
        report = heapkeeper.report()
        check_real_path(report, mode="exact")  # sums included
        assert (cut in report["notes"]) == is_cut, (bound, report["notes"])


@pytest.mark.once
@pytest.mark.parametrize("bound", ["1K", "600M", "much", "-1M"])
def test_a_bound_that_is_none_is_said_so(bound):
    done = execute([COMMAND, "run", "--bound", bound, "true"])
    assert (done.status, done.err.decode()) == (2, "heapkeeper: run: --bound=%s is not 1M to 512M, bytes of a capture at most\n" % bound)


LIVES = """
    import sys
    kept = []
    def temporary():
        for i in range(20000):
            b"x" * (400 + i % 50)
    def keep():
        for i in range(20000):
            kept.append(b"x" * (400 + i % 50))
    def later():
        slots = [None] * 1000
        for i in range(20000):
            slots[i % 1000] = b"x" * (400 + i % 50)
    def large():
        for i in range(300):
            bytes(100000 + i)
    for _ in range(6):
        temporary(), keep(), later(), large()
    if len(sys.argv) > 1:
        import os
        os.kill(os.getpid(), 9)
"""


def test_the_share_of_temporary_blocks_and_the_largest_are_known(exact, heapkeeper, tmp_path, every_python):
    program = tmp_path / "lives.py"
    program.write_text(textwrap.dedent(LIVES))
    report = exact([str(program)], python=every_python)
    done = execute([COMMAND, "table", "--json", "--by", "function", "--sort", "temporary", heapkeeper.output])
    rows = {row["function"]: row for row in json.loads(done.out)["rows"] if row["file"] == str(program)}
    assert {name: rows[name]["largest_bytes"] for name in ("temporary", "large")} == {"temporary": 449 + 33, "large": 100299 + 33}
    assert 8000 <= rows["later"]["largest_bytes"] < 8100
    # 52 MiB of blocks: some 900 of them are watched. What is left over are integers, and what a loop freed last.
    assert rows["temporary"]["temporary_share"] > 0.95 and rows["large"]["temporary_share"] > 0.95
    for name in "keep", "later":
        shares = [site["temporary_share"] for site in sites_in(report, name)[1] if site["largest_bytes"] == 482]
        assert shares and all(share < 0.02 for share in shares), (name, shares)
    totals = json.loads(done.out)["totals"]
    assert totals["largest_bytes"] >= 100332 and 0.3 < totals["temporary_share"] < 0.9
    text = execute([COMMAND, "table", "--sort", "largest", heapkeeper.output]).out.decode()
    assert "temp" in text and "largest" in text and "share" not in text.split("line\n")[0]


def test_a_killed_program_and_a_forked_child_know_how_long_blocks_lived(heapkeeper, tmp_path):
    program = tmp_path / "lives.py"
    program.write_text(textwrap.dedent(LIVES).replace("for _ in range(6):", "import os\nif os.fork() == 0: kept.clear()\nfor _ in range(6):"))
    assert heapkeeper.run([str(program), "kill"], options=EXACT).status == -9
    for _ in range(100):
        if len(heapkeeper.captures) == 2 and all(heapkeeper.report(path)["state"] == "killed" for path in heapkeeper.captures):
            break
    for path in heapkeeper.captures:
        report = heapkeeper.report(path)
        watched = [site["temporary_share"] for site in sites_in(report, "temporary")[1] if site["total_blocks"] >= 100000]
        assert watched and max(watched) > 0.95
    assert len(heapkeeper.captures) == 2


def test_what_a_record_does_not_know_is_refused_in_one_line(heapkeeper):
    heapkeeper.good("kept = [bytes(100) for _ in range(10000)]")
    for word in "temporary", "largest":
        done = execute([COMMAND, "table", "--sort", word, heapkeeper.output])
        assert done.status == 1 and b"does not know how long blocks live" in done.err and done.err.count(b"\n") == 1
    assert b"temporary_share" not in execute([COMMAND, "table", "--json", heapkeeper.output]).out


def test_totals_of_a_killed_process_are_those_of_all_that_was_recorded(exact, heapkeeper):
    """The last point of the timeline is some ms old then: what was allocated since is in the sites."""
    report = exact("""
        import os, signal
        def burst():
            return [bytes(5000) for _ in range(20000)]
        kept = burst()
        os.kill(os.getpid(), signal.SIGKILL)
    """, state="killed", status=-9)
    for total in "live_bytes", "peak_bytes", "allocated_bytes":
        assert report[total] >= 0.99 * 20000 * 5033, total
    recorded = sum(site["live_bytes"] for site in report["sites"])
    assert 0.99 * recorded <= report["live_bytes"] < 1.1 * recorded
    behind = report["allocated_bytes"] - report["heap"]["allocated_bytes"]
    text = heapkeeper.text().decode()
    assert ("all this at the last point of the timeline" in text) == (behind > 0), text


def test_what_a_sub_interpreter_frees_is_counted(exact, every_python):
    if every_python.version >= (3, 13):
        pytest.skip("interpreters of 3.13 on are made in other ways: test_interpreters.py")
    report = exact("""
        import os, signal, _xxsubinterpreters
        other = _xxsubinterpreters.create()
        for _ in range(4):
            _xxsubinterpreters.run_string(other, "import sys\\ndef fill(): return [bytes(5000) for _ in range(500)]\\nsys.keep = fill()\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    """, python=every_python, state="killed", status=-9)
    inside = sites_in(report, "fill")[0]
    assert sum(site["total_blocks"] for site in inside) >= 2000
    assert 500 <= sum(site["live_blocks"] for site in inside) <= 505
