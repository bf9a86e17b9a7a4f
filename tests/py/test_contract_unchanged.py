"""Contract 1 and 8: a program does under `heapkeeper run` what it does without, and the library says nothing.

Every program here is run both ways; exit status, stdout and stderr are compared byte for byte, and each test that
takes a capture insists that the real path ran.
"""

import os
import pty
import re
import select
import subprocess

import pytest

from conftest import COMMAND, PRELOAD, check_real_path, clean_environment, execute

ORDINARY = {
    "prints": "import sys; print('out', sys.argv, sys.flags); print('err', file=sys.stderr)",
    "raises": "def f(): raise ValueError('no')\nf()",
    "exits with 3": "import sys; sys.exit(3)",
    "exits with a message": "import sys; sys.exit('enough')",
    "leaves by _exit": "import os; print('lost'); os.write(1, b'kept'); os._exit(7)",
    "runs atexit": "import atexit; atexit.register(print, 'last words')",
    "reads its input": "import sys; print(sys.stdin.read().upper())",
    "dies by SIGTERM": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "dies by SIGKILL": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "is interrupted": "import os, signal; os.kill(os.getpid(), signal.SIGINT); [0 for _ in range(10**7)]",
    "aborts": "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()",
    "crashes": "import ctypes, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); ctypes.string_at(8)",
    "recurses too deeply": "def f(): return f() + 1\ntry: f()\nexcept RecursionError as e: print(type(e))",
    "runs out of memory": "try: 'x' * (1 << 62)\nexcept MemoryError as e: print(repr(e))",
    "warns": "import warnings; warnings.warn('careful'); open('/dev/null')",
    "is a syntax error": "def f(:",
}


KILLED = ("dies by SIGTERM", "dies by SIGKILL", "aborts", "crashes")


def compare(heapkeeper, python, kind):
    program = ["-X", "utf8", "-W", "always", "-c", ORDINARY[kind]]
    stock = heapkeeper.stock(program, python=python, input=b"some input")
    ours = heapkeeper.run(program, python=python, input=b"some input")
    assert ours.said == stock.said
    if kind != "is a syntax error":  # no frame ever ran: stacks are untested
        state = "killed" if kind in KILLED else heapkeeper.report()["state"]
        check_real_path(heapkeeper.report(), state, python)


@pytest.mark.parametrize("kind", ORDINARY)
def test_status_and_output_are_those_of_stock_when_it(heapkeeper, python, kind):
    compare(heapkeeper, python, kind)


@pytest.mark.parametrize("kind", ["raises", "runs atexit", "crashes"])
def test_status_and_output_are_those_of_stock_on_every_python_when_it(heapkeeper, every_python, kind):
    compare(heapkeeper, every_python, kind)


FORKS = """
    import os, sys, threading, warnings
    warnings.simplefilter("always")
    def threads(): print(len(os.listdir("/proc/self/task")), flush=True)
    threads()
    keep = [bytearray(1000) for _ in range(20000)]
    pid = os.fork()
    if pid == 0:
        more = [bytearray(1000) for _ in range(20000)]
        threads()
        os._exit(0)
    os.waitpid(pid, 0)
    threads()
"""


def test_fork_prints_no_warning_about_threads_and_there_is_one_thread(heapkeeper, every_python):
    done = heapkeeper.good(FORKS, python=every_python)
    assert done.out.split() == [b"1", b"1", b"1"]
    heapkeeper.recorded(python=every_python)
    assert done.said == heapkeeper.stock(FORKS, python=every_python).said


def test_glibc_still_takes_its_paths_for_one_thread(heapkeeper):
    """A thread that ever lived would have turned them off for good."""
    code = """
        import ctypes, os, sys
        keep = [bytearray(1000) for _ in range(20000)]
        if os.fork():
            os.wait()
        print(ctypes.c_bool.in_dll(ctypes.CDLL(None), "__libc_single_threaded").value)
    """
    if b"True" not in heapkeeper.stock(code).out:
        pytest.skip("this C library does not tell")
    assert heapkeeper.good(code).out.split() == [b"True", b"True"]
    heapkeeper.recorded()


WHAT_A_PROGRAM_SEES = r"""
    import json, locale, os, resource, signal, sys
    status = dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
    keep = [bytearray(1000) for _ in range(20000)]
    print(json.dumps({
        "descriptors": sorted((int(fd), os.path.exists("/proc/self/fd/" + fd)) for fd in os.listdir("/proc/self/fd")),
        "signals": [status[name] for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd")],
        "threads": status["Threads"], "umask": status.get("Umask"), "dumpable": status.get("CoreDumping"),
        "limits": [resource.getrlimit(i) for i in range(resource.RLIM_NLIMITS if hasattr(resource, "RLIM_NLIMITS")
                                                        else 10)],
        "handlers": [repr(signal.getsignal(s)) for s in signal.valid_signals()],
        "environment": {k: v for k, v in os.environ.items() if not k.startswith("HEAPKEEPER_") and k != "LD_PRELOAD"},
        "arguments": sys.argv, "executable": sys.executable, "path": sys.path, "directory": os.getcwd(),
        "children": open("/proc/self/task/%d/children" % os.getpid()).read(),
    }))
"""


def test_descriptors_signals_limits_and_environment_are_those_of_stock(heapkeeper, every_python):
    stock = heapkeeper.stock(WHAT_A_PROGRAM_SEES, python=every_python).json
    ours = heapkeeper.good(WHAT_A_PROGRAM_SEES, python=every_python).json
    assert ours == stock
    heapkeeper.recorded(python=every_python)


def test_run_becomes_the_program_same_pid_group_and_session(heapkeeper):
    code = "import os; print(os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0))"
    process = subprocess.Popen(heapkeeper.command(code), env=clean_environment(), stdout=subprocess.PIPE)
    said = [int(word) for word in process.communicate(timeout=60)[0].split()]
    assert said == [process.pid, os.getpid(), os.getpgrp(), os.getsid(0)]
    heapkeeper.recorded()


def test_no_descriptor_of_the_capture_stays_open(heapkeeper):
    code = """
        import os
        keep = [bytearray(1000) for _ in range(20000)]
        for fd in range(3, 1024):
            try: print(fd, os.readlink("/proc/self/fd/%d" % fd))
            except OSError: pass
        os.closerange(3, 4096)
        first = os.open("/dev/null", os.O_WRONLY)  # would receive what is meant for the capture
        more = [bytearray(1000) for _ in range(50000)]
        print(first)
    """
    done = heapkeeper.good(code)
    assert done.out.split() == [b"3"]
    assert heapkeeper.recorded()["allocated_bytes"] > 70 * 1000 * 1000


def test_program_that_closes_all_descriptors_and_changes_root_goes_on_being_recorded(heapkeeper):
    if os.geteuid() != 0:
        pytest.skip("only root may chroot")
    code = """
        import os
        os.mkdir("empty"); os.chroot("empty"); os.chdir("/"); os.closerange(3, 4096)
        def after(): return [bytearray(1000) for _ in range(50000)]
        keep = after()
        os.setgid(65534); os.setuid(65534)
        keep += after()
    """
    heapkeeper.good(code, cwd=str(heapkeeper.directory))
    report = heapkeeper.recorded()
    assert report["allocated_bytes"] > 100 * 1000 * 1000
    assert any(site["function"] in ("after", "<listcomp>") for site in report["sites"])


def in_terminal(words, environment, timeout=60):
    """Runs it on a terminal of its own; what appeared there."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(words[0], words, environment)
    seen = b""
    while select.select([terminal], [], [], timeout)[0]:
        try:
            more = os.read(terminal, 65536)
        except OSError:
            break
        if not more:
            break
        seen += more
    os.close(terminal)
    return os.waitpid(pid, 0)[1], seen.replace(b"\r\n", b"\n")


def test_on_a_terminal_run_says_one_line_and_elsewhere_nothing(heapkeeper):
    status, seen = in_terminal(heapkeeper.command("print('hello')"), clean_environment())
    assert status == 0
    first, hello = seen.splitlines()
    assert first.startswith(b"heapkeeper: ") and heapkeeper.output.encode() in first and b"heapkeeper report" in first
    assert hello == b"hello"
    done = heapkeeper.good("print('hello')")
    assert (done.out, done.err) == (b"hello\n", b"")


# --- nothing is printed by the library, whatever goes wrong ---

WORK = """
    import os, sys
    keep = [bytearray(1000) for _ in range(30000)]
    print("out", len(keep)); print("err", file=sys.stderr)
"""


def by_hand(heapkeeper, python, **variables):
    """As `heapkeeper run` would start it, with something wrong about the environment."""
    variables = {"LD_PRELOAD": PRELOAD, "HEAPKEEPER_MODE": "sample", "HEAPKEEPER_SAMPLE": "4096", **variables}
    return execute(heapkeeper.words(WORK, python), env=variables)


WRONG = {
    "the directory is gone": {"HEAPKEEPER_CAPTURE_DIR": "/nonexistent/directory"},
    "the capture is a directory": {"HEAPKEEPER_CAPTURE": "/", "HEAPKEEPER_CAPTURE_ID": "1:2:3"},
    "the capture's identity is rubbish": {"HEAPKEEPER_CAPTURE": "/etc/passwd", "HEAPKEEPER_CAPTURE_ID": "x" * 5000},
    "the output cannot be written": {"HEAPKEEPER_OUTPUT": "/proc/nothing/here"},
    "the output is relative": {"HEAPKEEPER_OUTPUT": "../../x/y/z"},
    "a path is too long": {"HEAPKEEPER_OUTPUT": "/" + "a" * 9000, "HEAPKEEPER_CAPTURE_DIR": "/" + "b" * 9000},
    "the mode is unknown": {"HEAPKEEPER_MODE": "everything"},
    "the mode is not given": {"HEAPKEEPER_MODE": None},
    "the distance is rubbish": {"HEAPKEEPER_SAMPLE": "-1e9", "HEAPKEEPER_SEED": "\x1b[31m", "HEAPKEEPER_RUN": "zz"},
    "the distance is enormous": {"HEAPKEEPER_SAMPLE": "9" * 40},
    "another allocator is asked for": {"PYTHONMALLOC": "debug"},
    "malloc is asked for": {"PYTHONMALLOC": "malloc"},
    "development mode": {"PYTHONDEVMODE": "1"},
    "tracemalloc": {"PYTHONTRACEMALLOC": "5"},
}


@pytest.mark.parametrize("what", WRONG)
def test_library_says_nothing_when(heapkeeper, python, what):
    rest = {k: v for k, v in WRONG[what].items() if k.startswith("PYTHON")}
    stock = heapkeeper.stock(WORK, env=rest)
    assert by_hand(heapkeeper, python, **WRONG[what]).said == stock.said
    assert stock.status == 0


@pytest.mark.parametrize("what", ["no descriptors", "no address space", "no file size", "closed stderr", "no stack"])
def test_library_says_nothing_under_limits(heapkeeper, what):
    limit = {"no descriptors": "ulimit -n 6", "no address space": "ulimit -v 150000", "no file size": "ulimit -f 1",
             "closed stderr": "exec 2>&-", "no stack": "ulimit -s 256"}[what]
    shell = ["sh", "-c", limit + '; trap "" XFSZ; exec "$@"', "sh"]
    program = WORK if what != "no descriptors" else "keep = [bytearray(1000) for _ in range(30000)]; print(len(keep))"
    stock = heapkeeper.stock(program, prefix=shell)
    # The limit is set before the command: it must start the program nevertheless.
    ours = heapkeeper.run(program, prefix=shell)
    assert ours.said == stock.said
    assert stock.out


def test_other_programs_that_are_started_print_what_they_print(heapkeeper):
    code = """
        import subprocess, sys
        for words in (["echo", "hello"], ["sh", "-c", "echo err >&2; exit 3"], ["cat", "/nonexistent"],
                      [sys.executable, "-c", "import sys; sys.exit('python')"], ["awk", "BEGIN { print 1 }"]):
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            print(words[0].rsplit("/")[-1], done)
    """
    done = heapkeeper.good(code)
    assert done.said == heapkeeper.stock(code).said
    heapkeeper.recorded()


def test_library_has_no_way_to_print():
    """Not even where no test leads: it imports nothing that writes to a stream or a log. Debug mode, which is asked for,
    reports by write and ends by abort."""
    symbols = subprocess.run(["readelf", "-W", "--dyn-syms", PRELOAD], stdout=subprocess.PIPE, check=True,
                             universal_newlines=True).stdout
    imported = set(re.findall(r"UND (\w+)", symbols))
    assert "madvise" in imported
    assert not imported & {"printf", "puts", "putchar", "fprintf", "__fprintf_chk", "__printf_chk", "vfprintf", "perror",
                           "fputs", "fwrite", "syslog", "dprintf", "__dprintf_chk", "stderr", "stdout",
                           "__assert_fail", "error", "warn", "warnx", "err"}
