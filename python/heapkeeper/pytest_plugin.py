"""pytest on heapkeeper's heap: limits of memory as marks, a baseline that tests must not outgrow, a table of the biggest tests.

    @pytest.mark.limit_memory("24 MB")      the test may have so much allocated at once
    @pytest.mark.limit_leaks("1 MB")        and leave so much behind, by call stack

    pytest --heapkeeper                     or heapkeeper run -m pytest; docs/pytest.md has the options

The marks are pytest-memray's. What is counted are the blocks that Python allocates while the test's function runs, every one, by a
window of the exact record (tracker.py), and nothing of fixtures or of pytest. A window has the peak and the sums; with the
stacks at the peak for limit_memory; what still lives, after a collection of cycles, for limit_leaks.

What would fail for a leak, or for having outgrown its baseline, is run again, with function-scoped fixtures of its own. A leak is
what the first run leaves, and the second, and the third, if what the second left is still there after the third: caches that are
filled once, and what the next run or a fixture's end takes away, are none. How baselines are compared is told in pytest_baseline.py.
"""

import functools
import gc
import inspect
import os
import re
import shutil
import sys
from dataclasses import dataclass
from typing import Tuple

import pytest

import heapkeeper

from . import pytest_baseline

__all__ = ["Stack", "StackFrame"]

BY_CALL, ALL_FRAMES = 3, 65535
OWN_FILE = __file__
EXECED = "HEAPKEEPER_PYTEST"  # in the environment between our exec and what comes of it: the process that did it
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
MOST_ALLOCATIONS = 10
STRICT = "[XPASS(strict)]"  # what pytest says where a test passes that must not
# Modules whose data do not come from Python's allocators, so that they are not counted; nor from malloc.
PAST_PYTHON = ("numpy", "pyarrow", "polars", "torch", "tensorflow", "jax", "cv2")
PAST_MALLOC = ("pyarrow", "polars")

MARKS = {
    "limit_memory": "limit_memory(limit, *, current_thread_only=False): fail the test if it has more memory allocated at once; "
                    '"24 MB", by heapkeeper',
    "limit_leaks": "limit_leaks(location_limit, *, filter_fn=None, current_thread_only=False): fail the test if a call stack "
                   'leaves more memory behind; "1 MB", by heapkeeper',
}

_RUN = pytest.StashKey()
_PLAN = pytest.StashKey()


@dataclass
class StackFrame:
    """A frame of a call stack that allocated."""

    function: str
    filename: str
    lineno: int


@dataclass
class Stack:
    """What the filter_fn of limit_leaks is asked about: the frames of a call stack, the most recent first."""

    frames: Tuple[StackFrame, ...]


# --- options ---


def pytest_addoption(parser):
    group = parser.getgroup("heapkeeper", "memory, by heapkeeper")
    add = group.addoption
    add("--heapkeeper", action="store_true", default=None, dest="heapkeeper",
        help="run the tests on heapkeeper's heap, and show those with the highest peaks")
    add("--no-heapkeeper", action="store_false", dest="heapkeeper", help="leave limits and the baseline unchecked")
    add("--heapkeeper-top", type=_number, metavar="N", help="show so many tests (default 10; 0: all)")
    add("--hide-heapkeeper-summary", action="store_true", default=None, help="do not show them")
    add("--heapkeeper-stacks", type=_number, metavar="N",
        help="frames of each call stack where allocations are listed (default 1, of leaks 5)")
    add("--heapkeeper-baseline", metavar="FILE", help="fail tests that outgrew what FILE has; implies --heapkeeper")
    add("--heapkeeper-update", action="store_true", help="put what the tests have now into the baseline; implies --heapkeeper")
    add("--heapkeeper-tolerance", type=_percent, metavar="PERCENT",
        help="how much more than its baseline a test may have (default %g)" % pytest_baseline.TOLERANCE)
    add("--heapkeeper-repeats", type=_number, metavar="N",
        help="how often a test that would fail is run again first (default %d, and more where that is quick)" % pytest_baseline.REPEATS)
    parser.addini("heapkeeper", "as --heapkeeper", type="bool", default=False)
    parser.addini("heapkeeper_top", "as --heapkeeper-top", default="10")
    parser.addini("hide_heapkeeper_summary", "as --hide-heapkeeper-summary", type="bool", default=False)
    parser.addini("heapkeeper_stacks", "as --heapkeeper-stacks", default="1")
    parser.addini("heapkeeper_baseline", "as --heapkeeper-baseline, from the root directory, where heapkeeper is at work", default="")
    parser.addini("heapkeeper_tolerance", "as --heapkeeper-tolerance", default=str(pytest_baseline.TOLERANCE))
    parser.addini("heapkeeper_repeats", "as --heapkeeper-repeats", default=str(pytest_baseline.REPEATS))


def _number(text):
    if not re.fullmatch(r"\d{1,6}", text):
        raise ValueError("%r is no number of 0 and more" % text)
    return int(text)


def _percent(text):
    if not re.fullmatch(r"\d{1,4}(\.\d+)?%?", text):
        raise ValueError("%r is no number of percent" % text)
    return float(text.rstrip("%"))


def _option(config, name):
    """Of the command line, which before pytest 9 is not everywhere yet when it is first asked for."""
    return getattr(config.option, name, getattr(config.known_args_namespace, name, None))


def _value(config, name, parse=None):
    """Of an option, else of the configuration file."""
    value = _option(config, name)
    if value is not None:
        return value
    value = config.getini(name)
    try:
        return parse(value) if parse else value
    except ValueError as error:
        raise pytest.UsageError("heapkeeper: %s: %s" % (name, error))


def _is_wanted(config):
    if _option(config, "heapkeeper") is False:
        return False
    return bool(_value(config, "heapkeeper") or _option(config, "heapkeeper_baseline") or _option(config, "heapkeeper_update"))


# --- onto the heap ---


def _command():
    """Path of the `heapkeeper` command: beside this Python, beside the library, or on PATH."""
    beside = os.path.dirname(heapkeeper.library_path or "")
    for path in os.path.join(os.path.dirname(sys.executable), "heapkeeper"), os.path.join(beside, "heapkeeper"):
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return shutil.which("heapkeeper")


def _owns_process(config):
    """Whether this process is that of `pytest ARGUMENTS`, and nobody else's that calls pytest."""
    started = os.path.basename(sys.argv[0]) in ("pytest", "py.test") or sys.argv[0].endswith(os.path.join("pytest", "__main__.py"))
    return started and sys.argv[1:] == [str(word) for word in config.invocation_params.args]


def _get_onto_the_heap(config):
    """Becomes `heapkeeper run` of this very command, unless that is what we are."""
    execed = os.environ.pop(EXECED, None) == str(os.getpid())
    if heapkeeper._is_loaded() or hasattr(config, "workerinput") or not _is_wanted(config):
        return
    if execed:
        raise pytest.UsageError("heapkeeper: `heapkeeper run` did not get this Python onto its heap; `heapkeeper report` says why")
    if not _owns_process(config):
        raise pytest.UsageError("heapkeeper: pytest was called by a program here, which would have to be started anew: start it with "
                                "`heapkeeper run`, or use --no-heapkeeper")
    command = _command()
    if command is None:
        raise pytest.UsageError("heapkeeper: the `heapkeeper` command was found neither beside %s nor on PATH" % sys.executable)
    with open("/proc/self/cmdline", "rb") as file:
        words = file.read().split(b"\0")[1:-1]
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)
    os.environ[EXECED] = str(os.getpid())
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command, [command, "run", "--exact", sys.executable] + words)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config):
    _get_onto_the_heap(early_config)
    yield


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    _get_onto_the_heap(config)  # for who names us in a conftest.py
    for text in MARKS.values():
        config.addinivalue_line("markers", text)
    config.pluginmanager.register(Keeper(config), "heapkeeper_keeper")


# --- marks ---


def parse_size(text):
    """Bytes; ValueError."""
    match = re.fullmatch(r"\s*(\+?\d*\.\d+|\+?\d+)\s*(?:([KMGTP]?)(?:i?B)|B)\s*", text, re.IGNORECASE) if isinstance(text, str) else None
    if match is None:
        raise ValueError("not a size")
    return float(match.group(1)) * UNITS[(match.group(2) or "").upper()]


def format_size(size):
    for unit in "", "Ki", "Mi", "Gi", "Ti", "Pi":
        if abs(size) < 1024 or unit == "Pi":
            return "%.1f%sB" % (size, unit)
        size /= 1024


class Limit:
    """A mark: `bytes`, and whether its window is of the test's thread alone."""

    def __init__(self, mark):
        self.name, values, first = mark.name, dict(mark.kwargs), "location_limit" if mark.name == "limit_leaks" else "limit"
        example = 'limit_leaks("1 MB")' if mark.name == "limit_leaks" else 'limit_memory("24 MB")'
        if len(mark.args) > 1 or (len(mark.args) == 1) == (first in values):
            raise ValueError("%s takes one size, as in %s" % (self.name, example))
        text = mark.args[0] if mark.args else values.pop(first)
        try:
            self.bytes = parse_size(text)
        except ValueError as error:
            raise ValueError("%s(%r): %s; expected is a number and a unit (B, KB, MB, GB, TB, PB), as in %s"
                             % (self.name, text, error, example))
        self.this_thread = bool(values.pop("current_thread_only", False))
        self.filter = values.pop("filter_fn", None) if self.name == "limit_leaks" else None
        if values:
            raise ValueError("%s has no argument %s" % (self.name, ", ".join(sorted(values))))
        if self.filter is not None and not callable(self.filter):
            raise ValueError("%s: filter_fn is %r, and not a function of a stack" % (self.name, self.filter))


# --- one run of a test ---


class Run:
    """Measures a function while it runs: the windows that its test needs, and what was in them."""

    def __init__(self, tracing, plan, with_stacks=False, keep=False):
        self.tracing, self.collects = tracing, plan.collects
        self.keep = keep  # the windows, frozen: what was left may be looked at later
        self.limits, self.with_stacks = plan.limits, with_stacks
        self.windows = {}  # by the mark that has one of its own, for one thread or with malloc's memory; "": of Python's, of all threads
        self.figures, self.peaks, self.groups_at_peak, self.groups_left = None, {}, {}, None

    def _window_of(self, name):
        return name if name in self.windows else ""

    def begin(self):
        self.figures, self.groups_left = None, None
        if self.collects:
            gc.collect()
        native = self.tracing._has_native()
        apart = [name for name, limit in self.limits.items() if limit.this_thread or native]
        stacks = self.with_stacks or ("limit_memory" in self.limits and "limit_memory" not in apart)
        for name in apart:
            self.windows[name] = self.tracing._open(False, name == "limit_memory", self.limits[name].this_thread, False, native)
        self.windows[""] = self.tracing._open(False, stacks, False, False)

    def end(self):
        tracing, windows = self.tracing, self.windows
        self.figures = tracing._sums(windows[""])
        self.peaks = {name: tracing._sums(window)[1] for name, window in windows.items()}
        if "limit_leaks" in self.limits:
            self.look_at_what_is_left()
        name = self._window_of("limit_memory")
        if self.with_stacks or ("limit_memory" in self.limits and self.peaks[name] >= self.limits["limit_memory"].bytes):
            self.groups_at_peak = {name: tracing._at_peak(windows[name]) for name in {"", name}}
        for window in windows.values():
            tracing._freeze(window)
        if not self.keep:
            self.close()

    def look_at_what_is_left(self):
        gc.collect()
        self.groups_left = self.tracing._collect(self.windows[self._window_of("limit_leaks")])

    def close(self):
        for window in self.windows.values():
            self.tracing._close(window)
        self.windows = {}

    def wrap(self, function):
        if inspect.iscoroutinefunction(function):
            @functools.wraps(function)
            async def measured(*arguments, **names):
                self.begin()
                try:
                    return await function(*arguments, **names)
                finally:
                    self.end()
        else:
            @functools.wraps(function)
            def measured(*arguments, **names):
                self.begin()
                try:
                    return function(*arguments, **names)
                finally:
                    self.end()
        return measured

    def _stacks(self, groups):
        """[(bytes, frames)], the largest first; a stack ends where the test begins. What measures is left out."""
        sums = {}
        for frames, size, _ in self.tracing._group(groups, BY_CALL, ALL_FRAMES, False, False):
            ours = next((i for i, (file, _, function) in enumerate(frames) if file == OWN_FILE and function == "measured"), len(frames))
            if ours > 0 and frames[0][0] != OWN_FILE:
                sums[frames[:ours]] = sums.get(frames[:ours], 0) + size
        return sorted(((size, frames) for frames, size in sums.items()), key=lambda pair: (-pair[0], pair[1]))

    def stacks_at_peak(self, name=""):
        return self._stacks(self.groups_at_peak[name if name in self.groups_at_peak else ""])

    def leaks(self, limit):
        """{frames: bytes} of what left more than the limit."""
        found = {}
        for size, frames in self._stacks(self.groups_left):
            if size < limit.bytes:
                break
            if limit.filter is None or limit.filter(Stack(tuple(StackFrame(function, file, line) for file, line, function in frames))):
                found[frames] = size
        return found


class Plan:
    """What is wanted of a test."""

    def __init__(self, limits, collects):
        self.limits, self.collects = limits, collects or "limit_leaks" in limits


def _least(some, others):
    """Of two {frames: bytes} what both have."""
    return {frames: min(size, others[frames]) for frames, size in some.items() if frames in others}


class Problem:
    def __init__(self, text, title, body):
        self.text, self.section = text, ("heapkeeper-" + title, body) if body else None


def _list(title, stacks, frames_shown, most):
    lines = [title]
    for size, frames in stacks[:most]:
        lines.append("    - %s allocated here:" % format_size(size))
        lines += ["        %s:%s:%d" % (function, file, line) for file, line, function in frames[:frames_shown]]
        if len(frames) > frames_shown:
            lines.append("        ...")
    if most is not None and len(stacks) > most:
        lines.append("    ...and %d more" % (len(stacks) - most))
    return "\n".join(lines)


# --- the session ---


class Keeper:
    def __init__(self, config):
        self.config = config
        self.is_worker = hasattr(config, "workerinput")
        self.off = config.getoption("heapkeeper") is False
        self.tracing, self.why_not = None, None
        self._find_tracing()
        self.with_memray = config.pluginmanager.hasplugin("memray")
        self.summary = not self.off and bool(_value(config, "heapkeeper"))
        self.repeats = _value(config, "heapkeeper_repeats", _number)
        self.top, self.stacks = _value(config, "heapkeeper_top", _number), _value(config, "heapkeeper_stacks", _number)
        self.results = {}  # by test: its figures, as its report brought them
        self.baseline = None
        if not self.off and (self.tracing is not None or _is_wanted(config)):
            self._open_baseline()

    def _find_tracing(self):
        if self.off:
            return
        try:
            tracing = heapkeeper._tracing_module()
            self.why_not = tracing._why_not()
        except RuntimeError as error:
            self.why_not = str(error)
        if self.why_not is None:
            self.tracing = tracing
            tracing._close(tracing._open(False, True, False, False))  # what a window needs is made now, and no test's

    def _open_baseline(self):
        config, update = self.config, self.config.getoption("heapkeeper_update")
        named, ini = config.getoption("heapkeeper_baseline"), config.getini("heapkeeper_baseline")
        path = os.path.join(str(config.invocation_params.dir), named) if named else os.path.join(str(config.rootpath), ini) if ini else None
        if path is None:
            if update:
                raise pytest.UsageError("heapkeeper: --heapkeeper-update: of which baseline? Name it with --heapkeeper-baseline, or "
                                        "as heapkeeper_baseline in pytest's configuration file")
            return
        try:
            self.baseline = pytest_baseline.Baseline(path, _value(config, "heapkeeper_tolerance", _percent), update)
        except pytest_baseline.Error as error:
            raise pytest.UsageError("heapkeeper: %s" % error)
        if self.why_not is not None and not self.is_worker and not getattr(config.option, "tx", None):
            raise pytest.UsageError("heapkeeper: the baseline cannot be compared: %s" % self.why_not)

    # Before a test.

    def _plan(self, item):
        marks = [item.get_closest_marker(name) for name in MARKS]
        wrong = None
        try:
            limits = {mark.name: Limit(mark) for mark in marks if mark is not None}
        except ValueError as error:
            wrong = str(error)
        if wrong is not None:
            pytest.fail("heapkeeper: " + wrong, pytrace=False)
        if self.tracing is None and limits and not self.with_memray and not self.off:
            pytest.fail("heapkeeper: %s cannot be checked: %s" % (" and ".join(limits), self._advice()), pytrace=False)
        if self.tracing is None or not (limits or self.summary or self.baseline):
            return None
        return Plan(limits, self.baseline is not None)

    def _advice(self):
        if not heapkeeper._is_loaded():
            return ("this Python is not on heapkeeper's heap: start it with `pytest --heapkeeper`, or `heapkeeper run -m pytest` "
                    "(--no-heapkeeper: run without checks)")
        return self.why_not

    @pytest.hookimpl
    def pytest_runtest_setup(self, item):
        if isinstance(item, pytest.Function) and _PLAN not in item.stash:
            item.stash[_PLAN] = self._plan(item)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item):
        plan = item.stash.get(_PLAN, None)
        if plan is None:
            yield
            return
        item.stash[_RUN] = run = Run(self.tracing, plan, self.repeating, self.keeping)
        function = item.obj
        item.obj = run.wrap(function)
        try:
            yield
        finally:
            item.obj = function

    # After it.

    repeating = keeping = False

    def _phase(self, item, when):
        """Setup or call once more, with what plugins make of it; whether it passed."""
        hook = getattr(item.ihook, "pytest_runtest_" + when)
        call = pytest.CallInfo.from_call(lambda: hook(item=item), when=when, reraise=(pytest.exit.Exception, KeyboardInterrupt))
        return item.ihook.pytest_runtest_makereport(item=item, call=call).passed

    def _again(self, item, keep=False):
        """The test once more, with function-scoped fixtures of its own: the run, or None if it does not pass."""
        sections = len(item._report_sections)
        self.repeating, self.keeping = True, keep
        try:
            item.session._setupstate.teardown_exact(item.parent)
            if isinstance(item.parent, pytest.Class) and hasattr(item.cls, item.originalname or ""):
                vars(item).pop("_instance", None)  # of the class: a new one
                vars(item).pop("_obj", None)
            item._initrequest()
            passed = self._phase(item, "setup") and self._phase(item, "call")
        finally:
            self.repeating = self.keeping = False
            del item._report_sections[sections:]
        run = item.stash.get(_RUN, None)
        if passed and run is not None and run.figures is not None:
            return run
        if run is not None:
            run.close()
        return None

    def _memory_problem(self, run, limit):
        peak = run.peaks.get("limit_memory", run.figures[1])
        if peak < limit.bytes:
            return None
        verbose = self.config.getoption("verbose")
        body = None
        if verbose >= 0:
            body = _list("List of allocations:", run.stacks_at_peak("limit_memory"), self.stacks, None if verbose >= 2 else MOST_ALLOCATIONS)
        return Problem("Test was limited to %s but allocated %s" % (format_size(limit.bytes), format_size(peak)), "max-memory", body)

    def _leaks_problem(self, item, run, limit):
        found = run.leaks(limit)
        second = self._again(item, keep=True) if found and self.repeats > 0 else None
        try:
            if second is not None:
                found = _least(found, second.leaks(limit))
                third = self._again(item) if found and self.repeats > 1 else None
                if third is not None:
                    second.look_at_what_is_left()
                    found = _least(_least(found, third.leaks(limit)), second.leaks(limit))
        finally:
            if second is not None:
                second.close()
        if not found:
            return None
        stacks = sorted(((size, frames) for frames, size in found.items()), key=lambda pair: (-pair[0], pair[1]))
        text = "Test was allowed to leak %s per location but at least one location leaked more" % format_size(limit.bytes)
        return Problem(text, "leaked-memory", _list("List of leaked allocations:", stacks, max(self.stacks, 5), None))

    def _baseline_problem(self, item, run, figures):
        """Compares, and runs again as long as that may change something. What is compared goes into the figures."""
        seen = pytest_baseline.Seen(self.repeats)
        seen.add(run.figures)
        compared, stacks = self.baseline.compare(item.nodeid, seen), None
        while seen.may_go_on(self.baseline.update) and (self.baseline.update or compared.has_grown):
            again = self._again(item)
            if again is None:
                break
            seen.add(again.figures)
            compared, stacks = self.baseline.compare(item.nodeid, seen), again.stacks_at_peak()
        highest = seen.highest()
        figures.update(baseline_peak=highest.peak_bytes, baseline_blocks=highest.allocated_blocks, baseline=compared.word)
        if self.baseline.update or not compared.has_grown:
            return None
        body = _list("Allocated at the peak:", stacks, max(self.stacks, 5), MOST_ALLOCATIONS) if stacks else "It was not run again."
        return Problem(compared.text(), "baseline", body)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        outcome = yield
        run = item.stash.get(_RUN, None) if call.when == "call" and not self.repeating else None
        if run is None or run.figures is None:
            return
        report = outcome.get_result()
        _, peak, allocated, blocks = run.figures
        report.heapkeeper = figures = {"peak": peak, "allocated": allocated, "blocks": blocks,
                                       "uncounted": [name for name in PAST_PYTHON if name in sys.modules]}
        unexpected = report.longrepr if call.excinfo is None and report.outcome == "failed" else None  # passed, and xfail(strict=True)
        is_strict = isinstance(unexpected, str) and unexpected.startswith(STRICT)
        if report.outcome != "passed" and not is_strict:
            return
        try:
            problem = self._problem(item, run, figures)
        except (Exception, pytest.fail.Exception):  # of a filter_fn, or of tearing down fixtures to run again
            report.outcome, report.longrepr = "failed", item.repr_failure(pytest.ExceptionInfo.from_current())
            report.sections.append(("heapkeeper", "The test itself passed. This was raised when its memory was looked at: by a filter_fn, or when "
                                                  "its fixtures were torn down to run it again."))
            return
        if problem is None:
            return
        if is_strict:
            report.wasxfail = unexpected[len(STRICT):].strip()
        report.outcome, report.longrepr = ("skipped" if hasattr(report, "wasxfail") else "failed"), problem.text
        figures["is_problem"] = report.outcome == "failed"
        if problem.section is not None:
            report.sections.append(problem.section)

    def _problem(self, item, run, figures):
        limits, problem = item.stash[_PLAN].limits, None
        if "limit_memory" in limits:
            problem = self._memory_problem(run, limits["limit_memory"])
        if problem is None and "limit_leaks" in limits:
            problem = self._leaks_problem(item, run, limits["limit_leaks"])
        if problem is None and self.baseline is not None:
            problem = self._baseline_problem(item, run, figures)
        return problem

    @pytest.hookimpl(hookwrapper=True, trylast=True)
    def pytest_report_teststatus(self, report):
        outcome = yield
        if report.when == "call" and getattr(report, "heapkeeper", {}).get("is_problem"):
            outcome.force_result(("failed", "M", "MEMORY PROBLEMS"))

    # The end. Reports come from workers, too, so this is done by who shows them.

    def pytest_runtest_logreport(self, report):
        if not self.is_worker and hasattr(report, "heapkeeper"):
            self.results[report.nodeid] = dict(report.heapkeeper, passed=report.outcome == "passed")

    def pytest_itemcollected(self, item):
        if self.baseline is not None:
            self.baseline.collected.add(item.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        if self.is_worker and self.baseline is not None and self.baseline.update:
            self.config.workeroutput["heapkeeper_collected"] = sorted(self.baseline.collected)
        elif not self.is_worker and self.baseline is not None and self.baseline.update:
            try:
                self.baseline.write(self.results, any("::" in str(word) for word in self.config.args), str(self.config.rootpath))
            except pytest_baseline.Error as error:
                raise pytest.UsageError("heapkeeper: %s" % error)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        if self.baseline is not None:
            self.baseline.collected.update((getattr(node, "workeroutput", None) or {}).get("heapkeeper_collected", ()))

    def _uncounted_line(self, modules):
        if self.tracing is None or not self.tracing._has_native():
            return ("Not counted are the data of %s: they do not come from Python's allocators. (Marks count what comes from malloc under "
                    "`heapkeeper run --native -m pytest`.)" % _and(modules))
        past = [name for name in modules if name in PAST_MALLOC]
        return "The data of %s are in limits as far as malloc gives them%s; in the table and the baseline they are not." % (
            _and(modules), ", which of %s it does not" % _and(past) if past else "")

    def pytest_terminal_summary(self, terminalreporter):
        if self.is_worker:
            return
        show = self.summary and not _value(self.config, "hide_heapkeeper_summary")
        loaded = {name for result in self.results.values() for name in result["uncounted"]}
        uncounted = [name for name in PAST_PYTHON if name in loaded]
        if show or uncounted or self.baseline is not None:
            terminalreporter.write_sep("=", "heapkeeper")
        if show:
            for line in summary_lines(self.results, self.top, self.why_not if not self.results else None):
                terminalreporter.write_line(line)
        if self.baseline is not None:
            for line in self.baseline.summary_lines(self.results):
                terminalreporter.write_line(line)
        if uncounted:
            terminalreporter.write_line(self._uncounted_line(uncounted))


def _and(words):
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _iec(size):
    for unit in "B", "KiB", "MiB", "GiB", "TiB":
        if size < 1024 or unit == "TiB":
            return "%d B" % size if unit == "B" else "%.*f %s" % (2 if size < 10 else 1 if size < 100 else 0, size, unit)
        size /= 1024


def _thousands(number):
    return "{:,}".format(number).replace(",", " ")


def summary_lines(results, top, why_not):
    """The table of the tests with the highest peaks."""
    if not results:
        return ["No test was measured%s." % (": " + why_not if why_not else "")]
    order = sorted(results, key=lambda name: (-results[name]["peak"], name))
    shown = order[:top] if top else order
    rows = [("peak", "allocated", "blocks", "test")]
    rows += [(_iec(r["peak"]), _iec(r["allocated"]), _thousands(r["blocks"]), name) for name in shown for r in [results[name]]]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([row[i].rjust(widths[i]) for i in range(3)] + [row[3]]) for row in rows]
    if len(order) > len(shown):
        lines.append("and %d tests with lower peaks (--heapkeeper-top=0 shows all)" % (len(order) - len(shown)))
    return lines
