#!/usr/bin/env python3
"""CPython's own test suite on heapkeeper's heap, recording on, compared with the stock interpreter.

    tools/regrtest.py --quick | --near | --all | MODULE...   [--python P] [--chroot NAME] [--geometry NAME]
                      [--debug]

Every module runs in a process of its own (as `python -m test -jN` does), two at a time, with default
resources, a fixed --timeout, no standard input and a scratch directory; what it leaves running is
killed. Results are per test, from regrtest's --junit-xml; a crash, a time-out or a failure that names
no test is the pseudo-test "(module)", and a test that stock runs and we do not is "not run".

Stock's results are cached per build in ~/.cache/heapkeeper/regrtest (key: the interpreter's path,
version, size and time), so that only our side runs again; --stock-only fills the cache, and --lazy
(the default of --quick) runs stock only for modules in which something fails. A difference counts as
failed if it fails 3 times of 3 with us and 0 of 3 on stock. Tests that assert pymalloc's own numbers
stand in regrtest_known.json, with a reason each.

--runner puts other words before the interpreter than `build/heapkeeper run`; --chroot runs all of it
in a chroot of tools/chroots.sh. Exit: 0 nothing failed, 1 something did, 2 it cannot run here. The
closing line is "N passed, N failed".
"""

import argparse
import collections
import concurrent.futures
import fnmatch
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("HEAPKEEPER_BUILD") or TREE / "build")
KNOWN_FILE = Path(__file__).resolve().with_name("regrtest_known.json")
ATTEMPTS = 3

# Left out on both sides, because stock waits there for ever and the rest of the module would not be compared:
# (version, module, patterns), "" for any.
IGNORED = [
    ("", "test_socket", ["*VSOCK*"]),  # a virtual machine's vsock device that nobody serves
    ("3.11", "test_interpreters", ["*thread*"]),  # 3.11.7 deadlocks with an interpreter made in a thread
    ("3.11", "test__xxsubinterpreters", ["*thread*"]),
]

# The modules that ask most of a memory manager; a few minutes.
QUICK = """
    test_gc test_weakref test_dict test_list test_tuple test_set test_memoryview test_array test_sys
    test_capi test_tracemalloc test_pickle test_json test_generators test_coroutines test_exceptions
    test_frame test_fork1 test_thread test_threading test_mmap test_finalization
    test_interpreters|test__xxsubinterpreters
""".split()

# The 60 modules nearest to memory, threads and processes. `a|b`: the name changed between versions.
NEAR = """
    test_gc test_weakref test_weakset test_finalization test_tracemalloc test_sys test_capi
    test_dict test_list test_tuple test_set test_bytes test_memoryview test_array test_buffer
    test_deque test_pickle test_json test_copy test_descr test_generators test_coroutines
    test_asyncgen test_frame test_exceptions test_traceback test_ast test_re test_unicode|test_str
    test_long test_decimal test_ctypes test_mmap test_marshal test_sqlite|test_sqlite3 test_code

    test_thread test_threading test_threading_local test_threadsignals test_queue
    test_concurrent_futures test_asyncio test_context test_signal test_atexit test_faulthandler
    test_interpreters|test__xxsubinterpreters

    test_subprocess test_os test_posix|test_os.test_posix test_fork1 test_wait4 test_multiprocessing_fork
    test_multiprocessing_spawn test_multiprocessing_forkserver test_multiprocessing_main_handling
    test_resource test_embed test_cmd_line
""".split()

# Prints where we stand: the allocator in use, and whether our library is mapped.
PROBE = (
    "import sys; print(sys.getallocatedblocks() == 0, "
    "'libheapkeeper' in open('/proc/self/maps').read())"
)


class CannotRun(Exception):
    """Something is missing here; the message says what and how to get it."""


class NotUs(Exception):
    """The interpreter ran, but not on our heap or without a record: a failure, not an excuse."""


# --- An interpreter and its two ways to run -----------------------------------------------------


class Interpreter:
    """One Python, perhaps in a chroot, with its stock results on disk."""

    def __init__(self, python, chroot, runner):
        self.prefix = [str(TREE / "tools/chroots.sh"), "exec", chroot, "--"] if chroot else []
        self.root = Path("/")
        if chroot:
            self.root = Path(ask([str(TREE / "tools/chroots.sh"), "path", chroot]).strip())
            if not (self.root / "bin/sh").exists():
                raise CannotRun(f"there is no chroot {chroot!r}; make it: tools/chroots.sh setup {chroot}")
        elif "/" not in python:
            python = shutil.which(python) or python
        self.python = python if self.prefix else os.path.abspath(python)
        self.runner = runner
        self.version = self.say("import sys; print(sys.version)")
        if not self.version:
            raise CannotRun(f"{python} does not run")
        path = self.root / self.say("import sys; print(sys.executable)").lstrip("/")
        stat = path.stat()
        what = f"{chroot}|{path.resolve()}|{stat.st_mtime_ns}|{stat.st_size}|{self.version}"
        short = self.version.split()[0]
        key = f"{short}{'-' + chroot if chroot else ''}-{hashlib.sha1(what.encode()).hexdigest()[:10]}"
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.cache = cache / "heapkeeper/regrtest" / key
        self.name = f"{self.python} ({short}{', ' + chroot if chroot else ''})"

    def say(self, code):
        return ask(self.prefix + [self.python, "-c", code]).strip()

    def command(self, ours, arguments):
        return self.prefix + (self.runner if ours else []) + [self.python] + arguments

    def modules(self):
        """Every test module of this build, as its own regrtest splits them."""
        listing = self.cache / "modules.txt"
        if not listing.exists():
            found = [line for line in ask(self.command(False, ["-m", "test", "--list-tests"])).split()
                     if re.fullmatch(r"[\w.]+", line)]
            if len(found) < 50:
                raise CannotRun(f"{self.name}: its test suite is not installed "
                                f"(Debian: the package libpython3.N-testsuite)")
            write(listing, "\n".join(found) + "\n")
        return listing.read_text().split()

    def select(self, names):
        """Those of `names` that this build has, and all parts of a split package."""
        chosen, absent, all_modules = [], [], self.modules()
        for alternatives in names:
            hits = [m for m in all_modules for a in alternatives.split("|")
                    if m == a or m.startswith((f"test.{a}.", f"{a}.")) or m == f"test.{a}"]
            if hits:
                chosen += hits
            else:
                absent.append(alternatives)
        return list(dict.fromkeys(chosen)), absent

    def stock_runs(self, module):
        return read_json(self.cache / f"stock/{module}.json.gz") or []

    def add_stock_run(self, module, run):
        write_json(self.cache / f"stock/{module}.json.gz", self.stock_runs(module) + [run])


def clean_environment():
    """The caller's environment without what would make a result depend on it."""
    dropped = ("PYTHON", "PIP_", "LD_", "HEAPKEEPER_", "VIRTUAL_ENV", "SSL_CERT", "CI")
    needed = ("HEAPKEEPER_CHROOTS",)
    return {k: v for k, v in os.environ.items() if k in needed or not k.startswith(dropped)}


def ask(command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          env=clean_environment(), timeout=120)
    return done.stdout


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_json(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    scratch.write_bytes(gzip.compress(json.dumps(data).encode()))
    scratch.replace(path)


def read_json(path):
    try:
        return json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError):
        return None


# --- One module, once -----------------------------------------------------------------------------


class Scratch:
    """A place for one module's files and captures, and the end of whatever it leaves running."""

    lock = threading.Lock()
    running = set()

    def __init__(self):
        self.top = Path(tempfile.mkdtemp(prefix="hkr-", dir="/tmp"))
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
        self.captures = Path(tempfile.mkdtemp(prefix="hkr-", dir=memory))
        # A tag that every child inherits, so that a stray one is found even in a session of its own.
        self.tag = f"HKR_JOB={self.top.name}"

    def __enter__(self):
        with self.lock:
            self.running.add(self)
        return self

    def environment(self):
        env = clean_environment()
        env.update(TMPDIR=str(self.top), HEAPKEEPER_DIR=str(self.captures), HKR_JOB=self.top.name)
        return env

    def kill_leftovers(self):
        tag = self.tag.encode()
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                with open(f"/proc/{entry}/environ", "rb") as f:
                    if tag in f.read().split(b"\0"):
                        os.kill(int(entry), signal.SIGKILL)
            except OSError:
                pass

    def __exit__(self, *_):
        self.kill_leftovers()
        shutil.rmtree(self.top, ignore_errors=True)
        shutil.rmtree(self.captures, ignore_errors=True)
        with self.lock:
            self.running.discard(self)


def run_module(interpreter, module, ours, timeout, log_directory):
    """Runs one module and returns its result as a plain dictionary (see `parse`)."""
    with Scratch() as scratch:
        xml = scratch.top / "junit.xml"
        arguments = ["-m", "test", "-v", "--timeout", str(timeout), "--junit-xml", str(xml),
                     "--tempdir", str(scratch.top)]
        for version, of_module, patterns in IGNORED:
            if interpreter.version.startswith(version) and module == of_module:
                arguments += [word for pattern in patterns for word in ("--ignore", pattern)]
        arguments.append(module)
        log = log_directory / f"{module}.{'ours' if ours else 'stock'}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with open(log, "wb") as out:
            child = subprocess.Popen(interpreter.command(ours, arguments), stdin=subprocess.DEVNULL,
                                     stdout=out, stderr=subprocess.STDOUT, cwd=scratch.top,
                                     env=scratch.environment(), start_new_session=True)
            try:
                code = child.wait(timeout + 60)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                code = "timeout"
        text = log.read_text(errors="replace")
        result = parse(module, code, xml, text)
        result["seconds"] = round(time.monotonic() - started, 1)
        result["captures"] = sum(1 for f in scratch.captures.rglob("*") if f.is_file())
        if result["failed"]:
            shutil.copy(log, log.with_suffix(f".{int(time.time())}.failed"))
        return result


def parse(module, code, xml, text):
    """{passed: [id], skipped: [id], failed: {id: why}} from the junit file, the exit and the log."""
    passed, skipped, failed = [], [], {}
    try:
        cases = list(ET.parse(xml).getroot().iter("testcase"))
    except (OSError, ET.ParseError):
        cases = []
    for case in cases:
        name = case.get("name") or ""
        trouble = case.find("failure") if case.find("failure") is not None else case.find("error")
        if trouble is not None:
            failed[name] = (trouble.get("message") or "").strip()[-300:]
        elif case.find("skipped") is not None:
            skipped.append(name)
        elif case.get("result") == "completed":
            passed.append(name)
    if code not in (0, 3, 4):  # 3: the environment changed, 4: it ran no test
        # Subtests fail in the log only.
        for line in re.findall(r"^(?:FAIL|ERROR): (\w+ \([\w.]+\))", text, re.M):
            failed.setdefault(test_id(line), "in the log")
        if code == "timeout" or re.search(r"^Timeout \(\d+:\d\d:\d\d\)!", text, re.M):
            failed["(module)"] = "timed out" + unfinished(text)
        elif code < 0:
            failed["(module)"] = f"killed by {signal.Signals(-code).name}" + unfinished(text)
        elif not failed:
            failed["(module)"] = f"exit status {code}" + unfinished(text)
    passed = [name for name in passed if name not in failed]
    return {"code": code, "passed": passed, "skipped": skipped, "failed": failed}


def test_id(words):
    """'test_a (test.test_m.C.test_a)' (3.11 on) and 'test_a (test.test_m.C)' (before) alike."""
    name, place = re.fullmatch(r"(\w+) \(([\w.]+)\)", words).groups()
    if not name.startswith("test"):
        return words
    return place if place.endswith("." + name) else f"{place}.{name}"


def unfinished(text):
    """The test that was running at the end of the log, for a reader."""
    started = re.findall(r"^(test\w* \([\w.]+\)) ?\.\.\. ?(ok|FAIL|ERROR|skipped|expected)?", text, re.M)
    return f" in {test_id(started[-1][0])}" if started and not started[-1][1] else ""


# --- The comparison ---------------------------------------------------------------------------------


def load_known(version):
    """[(pattern, reason)] of the known differences that hold for this version."""
    entries = json.loads(KNOWN_FILE.read_text())["known"]
    minor = ".".join(version.split(".")[:2])
    return [(e["test"], e["reason"]) for e in entries if minor in e.get("versions", [minor])]


def is_known(known, module, test):
    return any(fnmatch.fnmatchcase(test, p) or fnmatch.fnmatchcase(f"{module}::{test}", p)
               for p, _ in known)


def troubles(run, stock):
    """What this run of ours did worse than stock: {id: why}."""
    found = dict(run["failed"])
    if stock and "(module)" not in found:
        seen = set(run["passed"]) | set(found)
        found.update({name: "passes on stock, not run with us" for name in stock["passed"] if name not in seen})
    return found


class Comparison:
    """Runs the chosen modules on both sides and keeps what is worse with us."""

    def __init__(self, interpreter, options):
        self.interpreter = interpreter
        self.options = options
        self.known = load_known(interpreter.version)
        self.logs = Path(options.logs or interpreter.cache / "logs")
        self.print_lock = threading.Lock()
        self.done = 0
        self.ours = {}
        self.counted, self.shared, self.listed, self.flaky = {}, {}, {}, {}

    def run(self, module, ours):
        result = run_module(self.interpreter, module, ours, self.options.timeout, self.logs)
        if not ours:
            self.interpreter.add_stock_run(module, result)
        return result

    def stock(self, module):
        runs = self.interpreter.stock_runs(module)
        return runs[0] if runs else None

    def report(self, module, side, result, total):
        with self.print_lock:
            self.done += 1
            what = f"{len(result['passed'])} ok"
            if result["failed"]:
                names = sorted(result["failed"])
                what += f", {len(names)} failed: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            print(f"[{self.done}/{total}] {side:5} {module}: {what} ({result['seconds']} s)", flush=True)

    def in_parallel(self, modules, function):
        """Longest first, as far as stock's times are known, so that the last one is not alone."""
        def seconds(module):
            stock = self.stock(module)
            return -(stock["seconds"] if stock else 30)
        with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool:
            for future in [pool.submit(function, m) for m in sorted(modules, key=seconds)]:
                future.result()

    def run_stock(self, modules):
        missing = [m for m in modules if not self.interpreter.stock_runs(m)]
        self.done = 0
        def one(module):
            self.report(module, "stock", self.run(module, False), len(missing))
        if missing:
            print(f"stock: {len(missing)} of {len(modules)} modules are not in {self.interpreter.cache}",
                  flush=True)
        self.in_parallel(missing, one)

    def run_ours(self, modules):
        self.done = 0
        def one(module):
            saved = self.logs / f"{module}.ours.json.gz"
            result = read_json(saved) if self.options.resume else None
            if result is None:
                result = self.run(module, True)
                write_json(saved, result)
            self.ours[module] = result
            self.report(module, "ours", result, len(modules))
        self.in_parallel(modules, one)

    def judge(self, module):
        """Repeats a module that was worse with us until it is certain whether it is."""
        found = troubles(self.ours[module], self.stock(module))
        self.listed.update({f"{module}::{t}": w for t, w in found.items() if is_known(self.known, module, t)})
        open_tests = {t: w for t, w in found.items() if not is_known(self.known, module, t)}
        def failed_on_stock():
            return {t for run in self.interpreter.stock_runs(module) for t in run["failed"]}
        def drop(tests, where):
            where.update({f"{module}::{t}": open_tests.pop(t) for t in list(open_tests) if t in tests})
        drop(failed_on_stock(), self.shared)
        for _ in range(1, ATTEMPTS):
            if open_tests:
                again = troubles(self.run(module, True), self.stock(module))
                drop(set(open_tests) - set(again), self.flaky)
        while open_tests and len(self.interpreter.stock_runs(module)) < ATTEMPTS:
            self.run(module, False)
            drop(failed_on_stock(), self.shared)
            # A test that one of stock's runs did not run either is no difference.
            ran = [set(r["passed"]) | set(r["failed"]) for r in self.interpreter.stock_runs(module)]
            drop({t for t in open_tests if t.startswith("test") and not all(t in r for r in ran)
                  and "not run" in open_tests[t]}, self.shared)
        self.counted.update({f"{module}::{t}": w for t, w in open_tests.items()})

    def judge_all(self):
        worse = [m for m, run in self.ours.items() if troubles(run, self.stock(m))]
        if worse:
            print(f"looking again at {len(worse)} modules: {' '.join(worse)}", flush=True)
        self.in_parallel(worse, self.judge)


# --- The command --------------------------------------------------------------------------------------


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     epilog="The file's head says how it works.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="the whole suite")
    which.add_argument("--near", action="store_true", help="the 60 modules nearest to memory, threads, processes")
    which.add_argument("--quick", action="store_true", help="the modules about memory; a few minutes")
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    parser.add_argument("--python", default="python3", help="the interpreter (in the chroot, with --chroot)")
    parser.add_argument("--chroot", help="a chroot of tools/chroots.sh: trixie, sid")
    parser.add_argument("--runner", help="what stands before the interpreter; default: build/heapkeeper run")
    parser.add_argument("--geometry", help="the heap's: passed on to build/heapkeeper run")
    parser.add_argument("--debug", action="store_true", help="debug mode: passed on to build/heapkeeper run")
    parser.add_argument("-j", "--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=int, default=900, metavar="S", help="per module (default: 900)")
    parser.add_argument("--stock-only", action="store_true", help="fill the cache, then stop")
    parser.add_argument("--lazy", action="store_true", help="run stock only where something fails")
    parser.add_argument("--resume", action="store_true", help="keep our results of an interrupted run")
    parser.add_argument("--logs", help="where the logs go; default: beside the cache")
    parser.add_argument("--json", help="write the verdict there")
    parser.add_argument("--list", action="store_true", help="print the chosen modules and stop")
    options = parser.parse_args()
    if not (options.all or options.near or options.quick or options.modules):
        parser.error("say --quick, --near, --all or name modules")
    if options.runner and (options.geometry or options.debug):
        parser.error("--geometry and --debug are for build/heapkeeper run; put it into --runner")
    options.lazy = options.lazy or options.quick
    return options


def check_that_it_is_us(interpreter, options):
    """A run that silently was on pymalloc would prove nothing."""
    if not options.runner and not os.access(BUILD / "heapkeeper", os.X_OK):
        raise CannotRun(f"{BUILD}/heapkeeper is not there; build it: make")
    with Scratch() as scratch:
        done = subprocess.run(interpreter.command(True, ["-c", PROBE]), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, env=scratch.environment(), timeout=120)
        captures = sum(1 for f in scratch.captures.rglob("*") if f.is_file())
    replaced, mapped = (done.stdout.split() + ["False", "False"])[:2]
    print(f"runner: {shlex.join(interpreter.runner)}: allocator replaced: {replaced}, "
          f"library mapped: {mapped}, captures: {captures}", flush=True)
    if not options.runner and (replaced, mapped, captures > 0) != ("True", "True", True):
        raise NotUs(f"heapkeeper did not take over or did not record: {done.stderr.strip()[-300:]}")


def summary(comparison, options):
    def show(title, tests):
        if tests:
            print(f"\n{title}: {len(tests)}")
            for test, why in sorted(tests.items()):
                print(f"  {test}: {(why.splitlines() or [''])[-1][:160]}")
    reasons = dict(comparison.known)
    listed = {t: next((reasons[p] for p in reasons if fnmatch.fnmatchcase(t.split("::")[1], p)
                       or fnmatch.fnmatchcase(t, p)), w) for t, w in comparison.listed.items()}
    show("known differences (regrtest_known.json)", listed)
    show("fails on stock as well", comparison.shared)
    show("failed once, not 3 of 3", comparison.flaky)
    show("FAILED 3 of 3 with us, 0 of 3 on stock", comparison.counted)
    totals = collections.Counter(captures=sum(r["captures"] for r in comparison.ours.values()),
                                 seconds=round(sum(r["seconds"] for r in comparison.ours.values())),
                                 passed=sum(len(r["passed"]) for r in comparison.ours.values()))
    stock = [comparison.stock(m) for m in comparison.ours]
    stock_seconds = round(sum(r["seconds"] for r in stock if r))
    print(f"\n{comparison.interpreter.name}: {len(comparison.ours)} modules, {totals['seconds']} s with us"
          f" ({stock_seconds} s on stock, {sum(1 for r in stock if r)} modules), "
          f"{totals['captures']} captures written; logs: {comparison.logs}")
    if options.json:
        write(Path(options.json), json.dumps({
            "interpreter": comparison.interpreter.name, "passed": totals["passed"],
            "failed": comparison.counted, "known": listed, "stock": comparison.shared,
            "flaky": comparison.flaky, "modules": len(comparison.ours)}, indent=1) + "\n")
    print(f"{totals['passed']} passed, {len(comparison.counted)} failed", flush=True)
    return 1 if comparison.counted else 0


def main():
    options = parse_arguments()
    runner = shlex.split(options.runner) if options.runner else [str(BUILD / "heapkeeper"), "run"]
    if options.geometry:
        runner += ["--geometry", options.geometry]
    if options.debug:
        runner += ["--debug"]
    interpreter = Interpreter(options.python, options.chroot, runner)
    names = QUICK if options.quick else NEAR if options.near else options.modules
    modules, absent = (interpreter.modules(), []) if options.all else interpreter.select(names)
    print(f"{interpreter.name}: {len(modules)} modules"
          + (f"; this version has no {', '.join(absent)}" if absent else ""), flush=True)
    if options.list:
        print("\n".join(modules))
        return 0
    comparison = Comparison(interpreter, options)
    if options.stock_only:
        comparison.run_stock(modules)
        runs = [comparison.stock(m) for m in modules]
        print(f"{sum(len(r['passed']) for r in runs)} passed, 0 failed"
              f"  (stock alone; {sum(len(r['failed']) for r in runs)} fail on it)")
        return 0
    check_that_it_is_us(interpreter, options)
    if not options.lazy:
        comparison.run_stock(modules)
    comparison.run_ours(modules)
    comparison.judge_all()
    return summary(comparison, options)


def end_everything(*_):
    for scratch in list(Scratch.running):
        scratch.kill_leftovers()
        shutil.rmtree(scratch.top, ignore_errors=True)
        shutil.rmtree(scratch.captures, ignore_errors=True)
    os._exit(130)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, end_everything)
    signal.signal(signal.SIGTERM, end_everything)
    try:
        sys.exit(main())
    except CannotRun as problem:
        print(f"regrtest: {problem}", file=sys.stderr)
        sys.exit(2)
    except NotUs as problem:
        print(f"regrtest: {problem}\n0 passed, 1 failed")
        sys.exit(1)
