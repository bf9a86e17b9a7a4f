"""What the tests share: which interpreters there are, how a program is run under `heapkeeper run` and without it, a C
compiler, and `recorded`, which fails unless the real path ran: a program that fell back to CPython's own allocator
would pass most tests.

    HEAPKEEPER_BUILD          the build directory (default: build)
    HEAPKEEPER_TEST_PYTHON    the interpreter for tests that need one (default: the one that runs them)
    HEAPKEEPER_TEST_PYTHONS   those for tests that want all of them, separated by colons (default: the one above,
                              pyenv's and the system's)
"""

import functools
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("HEAPKEEPER_BUILD") or os.path.join(TREE, "build"))
ENVIRONMENT = {"PYTHONPATH": os.path.join(TREE, "python"), "HEAPKEEPER_BUILD": BUILD}  # in which `import heapkeeper` finds this one
COMMAND = os.path.join(BUILD, "heapkeeper")
PRELOAD = os.path.join(BUILD, "libheapkeeper-preload.so")
MALLOC_PRELOAD = os.path.join(BUILD, "libheapkeeper-malloc-preload.so")
LOW_PRELOAD = os.path.join(BUILD, "libheapkeeper-low-preload.so")
LIBRARY = os.path.join(BUILD, "libheapkeeper.so")
BOUND = 8 << 20

FIRST, LAST = (3, 9), (3, 15)


# --- interpreters ---


class Interpreter:
    def __init__(self, path):
        self.path = path
        facts = subprocess.run([path, "-I", "-c", FACTS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               universal_newlines=True, timeout=60, check=True).stdout
        vars(self).update(json.loads(facts))
        self.version = tuple(self.version)
        self.name = "%d.%d" % self.version + ("" if self.is_shared else "-static")

    @property
    def can_be_replaced(self):
        return FIRST <= self.version <= LAST and self.is_cpython and not self.free_threaded and not self.debug


FACTS = """
import json, platform, sys, sysconfig
get = sysconfig.get_config_var
print(json.dumps({
    "version": sys.version_info[:2], "full_version": platform.python_version(), "base": sys.base_prefix,
    "is_cpython": platform.python_implementation() == "CPython", "free_threaded": bool(get("Py_GIL_DISABLED")),
    "debug": hasattr(sys, "gettotalrefcount"), "is_shared": "/libpython3" in open("/proc/self/maps").read(),
    "include": sysconfig.get_path("include"), "library_directory": get("LIBDIR"), "library": get("LDLIBRARY"),
}))
"""


@functools.lru_cache(maxsize=None)
def interpreter(path):
    try:
        return Interpreter(path)
    except (OSError, subprocess.SubprocessError):
        return None


@functools.lru_cache(maxsize=None)
def current():
    return interpreter(os.environ.get("HEAPKEEPER_TEST_PYTHON") or sys.executable)


def pyenv(pattern):
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    return sorted(glob.glob(os.path.join(root, "versions", pattern, "bin", "python3")))


@functools.lru_cache(maxsize=None)
def all_interpreters():
    """One of each version and build, the current one first."""
    named = os.environ.get("HEAPKEEPER_TEST_PYTHONS")
    paths = named.split(":") if named else [current().path] + pyenv("3.*") + ["/usr/bin/python3"]
    found = {}
    for path in paths:
        python = interpreter(path) if os.path.exists(path) else None
        if python and python.can_be_replaced:
            found.setdefault(python.name, python)
    return tuple(found.values())


def pytest_generate_tests(metafunc):
    if "every_python" in metafunc.fixturenames:
        metafunc.parametrize("every_python", all_interpreters(), ids=lambda python: python.name, scope="session")


@pytest.fixture(scope="session")
def python():
    if not current().can_be_replaced:
        pytest.skip("%s is no interpreter whose allocator is replaced" % current().path)
    return current()


# --- programs ---


def clean_environment(**extra):
    """Ours without what Python, a preload or an earlier run left in it; None removes a name."""
    names = ("PYTHON", "HEAPKEEPER", "LD_PRELOAD", "VIRTUAL_ENV", "MALLOC_", "GLIBC_", "ASAN_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    environment["PYTHONHASHSEED"] = "0"
    environment.update(extra)
    return {name: value for name, value in environment.items() if value is not None}


class Done:
    """A program that ended: status as subprocess has it, out and err in bytes."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    @property
    def said(self):
        return (self.status, self.out, self.err)

    @property
    def json(self):
        return json.loads(self.out)


def execute(words, env=None, input=None, timeout=120, **options):
    pipes = {} if input is not None else {"stdin": subprocess.DEVNULL}
    process = subprocess.Popen(words, env=clean_environment(**(env or {})), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True,
                               **{**({"stdin": subprocess.PIPE} if input is not None else {}), **pipes, **options})
    try:
        out, err = process.communicate(input, timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail("still running after %d s: %r\nout: %r\nerr: %r" % (timeout, words, out[-2000:], err[-2000:]))
    return Done(process.returncode, out, err)


class Runner:
    """Runs Python programs, given as code (text) or as words, under `heapkeeper run` and without it.

    Every run records to a file of its own in the test's directory; `captures` are those of the newest run."""

    def __init__(self, directory, python):
        self.directory, self.python, self.count = str(directory), python, 0
        self.output = None

    def words(self, program, python=None):
        python = getattr(python or self.python, "path", python or self.python)
        code = textwrap.dedent(program) if isinstance(program, str) else None
        return [python, "-c", code] if code is not None else [python] + list(program)

    def command(self, program, python=None, options=("--sample=16K",), output=None):
        self.count += 1
        self.output = output or os.path.join(self.directory, "capture-%d" % self.count)
        return [COMMAND, "run", *options, "-o", self.output] + self.words(program, python)

    def run(self, program, python=None, options=("--sample=16K",), output=None, prefix=(), **rest):
        return execute(list(prefix) + self.command(program, python, options, output), **rest)

    def stock(self, program, python=None, prefix=(), **rest):
        return execute(list(prefix) + self.words(program, python), **rest)

    def good(self, program, **rest):
        """Runs it and insists that it ended well and without a word on stderr."""
        done = self.run(program, **rest)
        assert (done.status, done.err) == (0, b""), done.err.decode(errors="replace")[-3000:]
        return done

    @property
    def captures(self):
        """The files of the newest run: the first process's, then the others'."""
        others = [path for path in glob.glob(glob.escape(self.output) + ".*") if not path.endswith(".children")]
        return [path for path in [self.output] if os.path.exists(path)] + sorted(others)

    def report(self, capture=None, **rest):
        done = execute([COMMAND, "report", "--json", capture or self.output], **rest)
        assert done.status == 0, done.err.decode()
        assert done.err == b""
        return json.loads(done.out.decode("utf-8", "surrogateescape"))

    def text(self, capture=None, *options, **rest):
        done = execute([COMMAND, "report", *options, capture or self.output], **rest)
        assert done.status == 0, done.err.decode()
        return done.out

    def recorded(self, capture=None, state="ended", python=None):
        """The report, of which the real path can be seen: our heap, whole stacks, samples."""
        report = self.report(capture)
        check_real_path(report, state, python or self.python)
        return report


def check_real_path(report, state="ended", python=None, mode="sample"):
    assert (report["watch"], report["watch_name"]) == ("ours", "")
    assert (report["stacks"], report["stacks_why"]) == ("good", "")
    assert report["state"] == state
    # The last point may be some milliseconds old when a process is killed, and its first, before main; its sites are not.
    assert report["mode"] == mode and sum(site["samples"] for site in report["sites"]) > 0
    assert state == "killed" or report["heap"]["live_blocks"] > 0 and report["heap"]["arenas"] > 0
    if hasattr(python, "full_version"):
        assert report["python"]["version"] == python.full_version
    check_sums(report)


def check_sums(report):
    """What a record promises at any moment: sites sum to the totals, classes to what is mapped."""
    recorder, heap = report["recorder"], report["heap"]
    assert recorder["dropped_records"] == 0
    for name, domain in recorder["domains"].items():
        assert domain["sites_total_bytes"] == domain["recorded_total_bytes"], name
    assert recorder["sites_total_bytes"] == recorder["recorded_total_bytes"]
    assert sum(site["total_bytes"] for site in report["sites"]) == recorder["recorded_total_bytes"]
    assert heap["unexplained_bytes"] == 0
    assert sum(domain["allocated_bytes"] for domain in heap["domains"].values()) == heap["allocated_bytes"]


def sites_in(report, function):
    """The sites whose stack goes through the function, and of them the ones that are in it."""
    through = [site for site in report["sites"] if any(frame["function"] == function for frame in site["stack"])]
    return through, [site for site in through if site["function"] == function]


def live_in(report, function):
    return sum(site["live_bytes"] for site in sites_in(report, function)[0])


def total_in(report, function):
    return sum(site["total_bytes"] for site in sites_in(report, function)[0])


def code_at_addresses_of_dead_code(count):
    """A program: `work` of file made-N, for N below count, keeps 1000 + N bytes, and its code dies, so that another's lies there. It prints
    at how many addresses they were."""
    return """
        kept, addresses = [], set()
        template = "def work(n):\\n" + "    pass\\n" * 3 + "    return bytes(n)\\n"
        for number in range(%d):
            names = {}
            exec(compile(template, "made-%%d" %% number, "exec"), names)
            addresses.add(id(names["work"].__code__))
            kept.append(names["work"](1000 + number))
            del names
        print(len(addresses))
    """ % count


def read_terminal(master):
    """All that was written to a pseudo-terminal until its last writer closed it; closes it, too."""
    output = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        output += part
    os.close(master)
    return output.decode().replace("\r\n", "\n")


def is_at_a_fixed_address(program):
    """Not position-independent: it lies below 4 GiB, and gets a library that does."""
    with open(program, "rb") as file:
        header = file.read(18)
    return header[:4] == b"\x7fELF" and header[16] == 2  # ET_EXEC


def library_for(program):
    """Path of the library that `heapkeeper run` preloads into it."""
    low = is_at_a_fixed_address(program) and os.path.exists(LOW_PRELOAD)
    return os.path.realpath(LOW_PRELOAD if low else PRELOAD)


def build_is_usable():
    """Of a build that cannot be used here, why; one that is not there is an error and no reason to skip."""
    with open(PRELOAD, "rb") as file:
        text = file.read()
    if any(tool in text for tool in (b"libasan.so", b"libtsan.so", b"libubsan.so")):
        return "a sanitizer's library cannot be preloaded into a plain Python"
    return None


def recorded_exactly(tmp_path_factory, python, program):
    """A Runner that has run the program under exact recording, for the tests of a module. Few sites: no start-up files."""
    reason = build_is_usable()
    if reason:
        pytest.skip(reason)
    runner = Runner(tmp_path_factory.mktemp("exact"), python)
    runner.good(["-I", "-S", "-c", textwrap.dedent(program)], options=("--exact",))
    return runner


@pytest.fixture
def heapkeeper(tmp_path, python):
    reason = build_is_usable()
    if reason:
        pytest.skip(reason)
    directory = tmp_path / "captures"
    directory.mkdir()
    return Runner(directory, python)


# --- C ---


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory):
    """compile_c(source, *flags, shared=False) -> path of the product."""
    compiler = next((found for found in map(shutil.which, ("cc", "gcc", "clang")) if found), None)

    def build(source, *flags, shared=False, name=None):
        if not compiler:
            pytest.skip("no C compiler")
        directory = tmp_path_factory.mktemp("c")
        path = str(directory / (name or ("product.so" if shared else "product")))
        (directory / "source.c").write_text(textwrap.dedent(source))
        words = [compiler, "-O1", "-g", "-Wall", "-pthread", "-o", path, str(directory / "source.c")]
        if shared:
            words += ["-shared", "-fPIC"]
        done = subprocess.run(words + list(flags), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              universal_newlines=True, timeout=120)
        if done.returncode != 0 and re.search(r"cannot find -l|Python.h: No such file", done.stdout):
            pytest.skip("lacks what it is to be linked with: " + done.stdout.strip().splitlines()[-1])
        assert done.returncode == 0, done.stdout
        return path

    return build


def embedding_flags(python):
    """For a C program that embeds this interpreter's shared library."""
    if not python.is_shared:
        pytest.skip("%s has no shared library to link with" % python.path)
    return ["-I" + python.include, "-L" + python.library_directory, "-Wl,-rpath," + python.library_directory,
            "-lpython%d.%d" % python.version, "-ldl"]
