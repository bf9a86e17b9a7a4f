"""heapkeeper.memory_profiler in memory_profiler's place: its own test scripts, its functions, and what it does better."""

import os
import re
import shutil
import subprocess
import textwrap

import pytest
from conftest import BUILD, COMMAND, TREE, execute

PACKAGE = os.path.join(TREE, "python")
INSTEAD = os.path.join(PACKAGE, "heapkeeper", "instead")
ENVIRONMENT = {"PYTHONPATH": PACKAGE, "HEAPKEEPER_BUILD": BUILD}

# The original's scripts, as its Makefile and its continuous integration run them.
UNDER_IT = ("func", "loop", "mprofile", "as", "global", "precision_command_line", "gen", "unicode", "nested", "loop_decorated")
PLAIN = ("tracemalloc", "import", "memory_usage", "precision_import", "exception", "exit_code", "increment_display", "mprof", "async",
         "attributes", "stream_unicode")


@pytest.fixture(scope="session")
def scripts():
    done = subprocess.run([os.path.join(TREE, "tools", "memory-profiler.sh")], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=300)
    if done.returncode:
        pytest.skip(done.stderr.strip())
    return done.stdout.strip()


@pytest.fixture(params=["run --memory-profiler", "plain"])
def started(request, tmp_path):
    """Words in front of a Python's, and its environment: under heapkeeper, and in a process without it."""
    if request.param == "plain":
        return [], {"PYTHONPATH": INSTEAD + ":" + PACKAGE, "HEAPKEEPER_BUILD": BUILD}
    return [COMMAND, "run", "--memory-profiler", "-o", str(tmp_path / "capture")], {"HEAPKEEPER_BUILD": BUILD}


@pytest.mark.parametrize("name", UNDER_IT + PLAIN)
def test_the_originals_script_passes(scripts, started, python, tmp_path, name):
    prefix, environment = started
    shutil.copytree(scripts, str(tmp_path / "test"))
    exit_code = tmp_path / "test" / "test_exit_code.py"
    exit_code.write_text(exit_code.read_text().replace("assertRaisesRegexp", "assertRaisesRegex"))  # unittest's name since 3.12
    words = [python.path] + ["-m", "memory_profiler"] * (name in UNDER_IT) + ["test/test_%s.py" % name]
    done = execute(prefix + words, env=environment, cwd=str(tmp_path), timeout=300)
    assert done.status == 0, (done.out + done.err).decode(errors="replace")[-3000:]
    assert name == "async" or b"Traceback" not in done.out + done.err or name == "exit_code"
    if name in ("func", "loop", "loop_decorated", "nested", "import", "precision_import"):
        assert re.search(rb"^Line # +Mem usage +Increment +Occurrences +Line Contents\n=+\n", done.out, re.MULTILINE)
        assert len(re.findall(rb"^ +\d+ +[\d.]+ MiB +-?[\d.]+ MiB +\d+ ", done.out, re.MULTILINE)) >= 3


@pytest.fixture
def run(python, tmp_path):
    """Runs a program with the package on its path; what it printed."""

    def go(code, words=(), status=0, env=None, prefix=()):
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(code))
        done = execute([*prefix, python.path, *words, str(program)], env={**ENVIRONMENT, **(env or {})}, cwd=str(tmp_path))
        assert done.status == status, done.err.decode(errors="replace")[-3000:]
        return done

    return go


def test_importing_it_needs_neither_psutil_nor_matplotlib_nor_ipython(run):
    done = run("""
        import sys
        for name in "psutil", "matplotlib", "pylab", "numpy", "IPython":
            sys.modules[name] = None
        import heapkeeper.memory_profiler, heapkeeper.mprof
        print(len(heapkeeper.memory_profiler.memory_usage()))
    """)
    assert (done.out, done.err) == (b"1\n", b"")


def test_the_resident_size_is_the_kernels(run):
    done = run("""
        import os
        from heapkeeper.memory_profiler import memory_usage, _get_memory
        held = bytearray(os.urandom(1 << 20)) * 64
        for line in open("/proc/self/status"):
            if line.startswith("VmRSS"):
                kernel = int(line.split()[1]) / 1024
        print(kernel - memory_usage(os.getpid(), max_usage=True), kernel - _get_memory(-1, "psutil_pss"), kernel > 64)
        print(_get_memory(-1, "psutil_uss") <= _get_memory(-1, "psutil_pss") <= _get_memory(-1, "posix") + 0.1)
    """)
    off, pss, large, order = done.out.split()
    assert abs(float(off)) < 1 and float(pss) > -1 and (large, order) == (b"True", b"True")


def test_a_function_is_measured_also_while_it_holds_the_gil(run):
    """sum() over a range gives the GIL away to nobody who does not ask for it, and a function in C not at all."""
    done = run("""
        import ctypes
        from heapkeeper.memory_profiler import memory_usage
        libc = ctypes.PyDLL(None)                    # keeps the GIL
        mem, value = memory_usage((libc.usleep, (400_000,)), interval=.05, retval=True)
        print(len(mem), value)
    """)
    count, value = map(int, done.out.split())
    assert 7 <= count <= 12 and value == 0


def test_peak_of_a_function_is_seen_and_other_children_are_left_alone_when_it_raises(run):
    done = run("""
        import subprocess, time
        from heapkeeper.memory_profiler import memory_usage
        other = subprocess.Popen(["sleep", "100"])
        def f():
            block = b"x" * (100 << 20)
            time.sleep(.3)
            del block
            return 7
        before = memory_usage()[0]
        most, value = memory_usage(f, interval=.02, max_usage=True, retval=True)
        print(90 < most - before < 110, value)
        def g():
            raise KeyError("it")
        try:
            memory_usage(g)
        except KeyError as error:
            print(error, other.poll())
        other.kill()
    """)
    assert done.out.split() == [b"True", b"7", b"'it'", b"None"]


def test_children_are_added_or_listed(run):
    done = run("""
        import io, os, subprocess, sys, time
        from heapkeeper.memory_profiler import memory_usage
        code = "import time; block = b'x' * (64 << 20); print(flush=True); time.sleep(100)"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        child.stdout.readline()
        alone, both = memory_usage(-1)[0], memory_usage(-1, include_children=True)[0]
        print(64 < both - alone < 90)
        (listed,) = memory_usage(-1, multiprocess=True)
        print(len(listed), 64 < listed[1] < 90)
        def f(): time.sleep(.2)
        print(64 < max(memory_usage(f, include_children=True)) - alone < 80)   # without the sampler
        stream = io.StringIO()
        print(memory_usage(os.getpid(), interval=.05, timeout=.2, stream=stream, multiprocess=True))
        lines = stream.getvalue().splitlines()
        print([line.split()[0] for line in lines], {line.split()[1] for line in lines if line[0] == "C"} == {str(child.pid)})
        child.kill()
    """)
    assert done.out.decode().split("\n") == ["True", "2 True", "True", "None", "%s True" % (["MEM", "CHLD"] * 4), ""]


def test_a_popen_is_measured_until_it_ends(run):
    done = run("""
        import subprocess, sys
        from heapkeeper.memory_profiler import memory_usage
        found = memory_usage(subprocess.Popen(["sleep", ".3"]), interval=.05, timestamps=True)
        print(4 <= len(found) <= 7, all(mib > 0 for mib, _ in found[:-1]), found == sorted(found, key=lambda m: m[1]))
        try:
            memory_usage(999999999)
        except ProcessLookupError as error:
            print(error)
    """)
    assert done.out == b"True True True\nthere is no process 999999999\n"


def test_an_unknown_backend_is_named(run):
    done = run("""
        from heapkeeper.memory_profiler import choose_backend, memory_usage
        print([choose_backend(name) for name in (None, "psutil", "psutil_pss", "psutil_uss", "posix", "tracemalloc")])
        try:
            memory_usage(backend="psutl")
        except ValueError as error:
            print(error)
    """)
    assert done.out.decode().splitlines() == [
        "['psutil', 'psutil', 'psutil_pss', 'psutil_uss', 'posix', 'tracemalloc']",
        "memory_profiler: no backend 'psutl'; there are psutil, psutil_pss, psutil_uss, posix, tracemalloc"]


@pytest.mark.parametrize("prefix", [[], [COMMAND, "run", "-o", "/dev/null"]], ids=["plain", "heapkeeper"])
def test_coroutines_and_generators_are_profiled_and_stay_what_they_are(run, prefix):
    done = run("""
        import asyncio, inspect, io
        from heapkeeper.memory_profiler import profile
        out = io.StringIO()
        @profile(stream=out)
        async def fetch():
            block = bytearray(30 << 20)
            await asyncio.sleep(0)
            return len(block)
        @profile(stream=out)
        def numbers():
            block = bytearray(40 << 20)
            yield len(block)
        @profile(stream=out)
        async def stream():
            block = bytearray(50 << 20)
            yield len(block)
        async def main():
            return await fetch(), [n async for n in stream()]
        print(inspect.iscoroutinefunction(fetch), inspect.isgeneratorfunction(numbers), inspect.isasyncgenfunction(stream))
        print(asyncio.run(main()), list(numbers()))
        rows = [line.split() for line in out.getvalue().splitlines() if "bytearray" in line]
        print([round(float(row[3])) for row in rows])
    """, prefix=prefix)
    assert done.out.decode().splitlines() == ["True True True", "(31457280, [52428800]) [41943040]", "[30, 50, 40]"]


LINES = """
    import sys, threading, time
    from memory_profiler import profile
    def noise():
        while not stop:
            kept.append(bytes(1 << 20))
            time.sleep(.001)
    @profile(precision=5)
    def f():
        a = bytearray(5_000_000)
        b = [bytes(100_000) for _ in range(30)]
        for i in range(3):
            a = a + bytes(1000)
            time.sleep(.05)
        del b
        return len(a)
    stop, kept = False, []
    thread = threading.Thread(target=noise)
    thread.start()
    print(f())
    stop = True
    thread.join()
    assert len(kept) > 10
"""


def test_under_heapkeeper_a_line_has_exactly_what_it_allocated_and_nothing_of_other_threads(run, tmp_path):
    done = run(LINES, prefix=[COMMAND, "run", "--memory-profiler", "-o", str(tmp_path / "capture")])
    assert done.err == b""
    rows = [line.split() for line in done.out.decode().splitlines() if " MiB " in line]
    found = {" ".join(words[6 if words[5].isdigit() else 5:]): (float(words[1]), float(words[3]), int(words[5])) for words in rows}
    mib = 1 << 20
    assert found["a = bytearray(5_000_000)"][1:] == (pytest.approx(5_000_057 / mib, abs=1e-4), 1)
    assert found["b = [bytes(100_000) for _ in range(30)]"][1] == pytest.approx(30 * 100_033 / mib, abs=1e-3)
    assert found["del b"][1] == pytest.approx(-30 * 100_033 / mib, abs=1e-3)
    assert found["for i in range(3):"][1:] == (pytest.approx(0, abs=1e-4), 4)
    assert found["a = a + bytes(1000)"][1:] == (pytest.approx(3000 / mib, abs=1e-4), 3)
    # Memory is what lived: before the first line, and with each line's own.
    assert found["a = bytearray(5_000_000)"][0] == pytest.approx(found["@profile(precision=5)"][0] + 5_000_057 / mib, abs=0.01)


LOOPS = """
    from memory_profiler import profile
    @profile
    def f():
        for i in range(300): c = bytearray(500)
        while i < 320: i += 1
        b = [bytearray(10) for i in range(50)]
        n = 0
        for k in range(7):
            n += k
            n -= k if k % 2 else 0
        for i in range(3):
            for k in range(4): n += 1
        s = sum(i for i in range(40))
        t = sum(i
                for i in range(20))
        return len(b)
    @profile
    def numbers():
        for i in range(5):
            yield i
        yield from (i for i in range(7))
    print(f(), sum(numbers()))
"""


def test_turns_of_loops_and_entries_of_generators_are_occurrences_as_the_trace_function_counts_them(run, tmp_path):
    found = []
    for prefix, env in (([COMMAND, "run", "--memory-profiler", "-o", str(tmp_path / "capture")], None), ([], {"PYTHONPATH": INSTEAD + ":" + PACKAGE})):
        done = run(LOOPS, prefix=prefix, env=env)
        found.append(re.findall(r"^ +\d+ +\S+ MiB +\S+ MiB +(\d+) +(.*)", done.out.decode(), re.M))
    ours, theirs = found
    assert ours == theirs and ("83", "s = sum(i for i in range(40))") in ours and ("301", "for i in range(300): c = bytearray(500)") in ours


def test_elsewhere_one_line_says_that_the_whole_process_is_measured(run):
    done = run(LINES, env={"PYTHONPATH": INSTEAD + ":" + PACKAGE})
    assert done.err.decode().startswith("memory_profiler: lines are measured by the resident size of the whole process: ")
    assert done.err.count(b"\n") == 1 and b"heapkeeper run" in done.err
    assert b"a = bytearray(5_000_000)" in done.out


def test_a_log_file_leaves_out_rows_without_growth_on_request(run):
    done = run("""
        import logging, sys
        from heapkeeper.memory_profiler import LogFile, profile
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(name)s|%(message)s")
        @profile(stream=LogFile("all"))
        def f():
            "5 MiB of text are no row"
            a = bytearray(20 << 20)
            del a
        @profile(stream=LogFile("some", True))
        def g():
            "5 MiB of text are no row"
            a = bytearray(20 << 20)
            del a
        f(), g()
    """)
    lines = done.out.decode().splitlines()
    assert any(line.startswith("all|") and "del a" in line for line in lines)
    some = [line for line in lines if line.startswith("some|")]
    assert any("a = bytearray" in line for line in some) and not any("del a" in line for line in some)
    assert any("Filename:" in line for line in some) and any("Line Contents" in line for line in some)


def test_time_stamps_have_depth_memory_and_time_of_calls_that_raise_too(run):
    done = run("""
        import io
        from heapkeeper.memory_profiler import TimeStamper
        stamper = TimeStamper("psutil")
        @stamper
        def outer():
            with stamper.timestamp("a block"):
                inner()
        @stamper
        def inner():
            raise KeyError
        for _ in range(2):
            try:
                outer()
            except KeyError:
                pass
        stamper.show_results()
    """)
    lines = [line.split() for line in done.out.decode().splitlines()]
    assert sorted((words[1], words[6]) for words in lines) == [(".a_block", "1")] * 2 + [("__main__.inner", "2")] * 2 + [
        ("__main__.outer", "0")] * 2
    assert all(words[0] == "FUNC" and float(words[3]) <= float(words[5]) for words in lines)


def test_a_program_under_it_is_main_pickles_and_ends_with_its_own_status(run, tmp_path):
    done = run("""
        import pickle, sys
        class Thing: pass
        assert isinstance(pickle.loads(pickle.dumps(Thing())), Thing)
        @profile
        def f():
            return 1
        f()
        print(__name__, sys.argv[1:], __file__)
        sys.exit(5)
    """, words=["-m", "heapkeeper.memory_profiler", "--precision", "4", "-o", str(tmp_path / "table.txt")], status=5)
    assert done.out.startswith(b"__main__ [] ")
    assert re.search(r"Increment.*\n=+\n(.*\n)+ +7 +\d+\.\d{4} MiB +-?\d+\.\d{4} MiB +1 +return 1\n", (tmp_path / "table.txt").read_text())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("given", ["", "from memory_profiler import profile"], ids=["builtin", "imported"])
def test_children_of_multiprocessing_know_profile_however_they_are_started(run, method, given):
    done = run("""
        import multiprocessing, sys
        %s
        @profile
        def outside(n):
            return n
        @profile
        def work(n):
            return len(bytearray(n << 20))
        if __name__ == "__main__":
            outside(1)
            with multiprocessing.get_context("%s").Pool(2) as pool:
                print(sum(pool.map(work, [1, 2, 3])))
    """ % (given, method), words=["-m", "heapkeeper.memory_profiler", "--timestamp"])
    assert b"6291456\n" in done.out
    assert given or b"FUNC __main__.outside " in done.out


@pytest.mark.parametrize("words, said", [
    (["nowhere.py"], "Could not find script nowhere.py"),
    (["-o", "/nowhere/table", "program.py"], "memory_profiler: /nowhere/table cannot be written: No such file or directory"),
])
def test_what_cannot_be_done_is_one_line(run, words, said):
    done = run("", words=["-m", "heapkeeper.memory_profiler", *words], status=1)
    assert done.err.decode().strip() == said


@pytest.mark.parametrize("words", [[], ["--timestamp"]], ids=["lines", "timestamp"])
@pytest.mark.parametrize("where", ["-o", ">"])
def test_results_that_cannot_be_written_are_one_line_and_the_program_runs_to_its_end(python, tmp_path, words, where):
    (tmp_path / "program.py").write_text("@profile\ndef f(): return 1\nf()\nopen('done', 'w').close()\n")
    words = [python.path, "-m", "heapkeeper.memory_profiler", *words] + ["-o", "/dev/full"] * (where == "-o") + ["program.py"]
    with open(os.devnull if where == "-o" else "/dev/full", "w") as out:
        done = subprocess.run(words, stdout=out, stderr=subprocess.PIPE, cwd=str(tmp_path), env=dict(os.environ, **ENVIRONMENT), timeout=100)
    said = "/dev/full" if where == "-o" else "standard output"
    lines = [line for line in done.stderr.decode().splitlines() if "resident size" not in line]  # which says what is measured
    assert (done.returncode, lines) == (1, ["memory_profiler: %s cannot be written: No space left on device" % said])
    assert (tmp_path / "done").exists()
