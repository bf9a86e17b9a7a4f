"""memory_profiler's functions, classes and files, without psutil: a drop-in for the package of that name.

    from heapkeeper.memory_profiler import profile, memory_usage
    python -m heapkeeper.memory_profiler script.py
    heapkeeper run --memory-profiler script.py          the program's own `import memory_profiler` is this

The resident size is read from /proc (process_memory.py), by a process of its own where a function is looked at. Lines have what they
allocate and free of Python's memory, exactly, where heapkeeper's heap is in the process (lines.py); elsewhere, and where another
backend is asked for, a trace function measures the process at the ends of lines, as the original does, and a line on stderr
says so. Where the original goes wrong, this does not: coroutines and generators are measured while they run, what a line calls is
the line's own, and a function that raises costs no other child its life.
"""

import builtins
import importlib.util
import inspect
import io
import linecache
import logging
import os
import re
import subprocess
import sys
import time
import tracemalloc
import types
import warnings
from contextlib import contextmanager
from functools import wraps

from . import process_memory

__version__ = "0.61.0"  # of the package whose interface this is

_BACKENDS = process_memory.BACKENDS + ("tracemalloc",)


def choose_backend(new_backend=None):
    """The backend of that name; psutil's if none is named. ValueError: there is none of that name."""
    if new_backend is None:
        return _BACKENDS[0]
    if new_backend not in _BACKENDS:
        raise ValueError("memory_profiler: no backend %r; there are %s" % (new_backend, ", ".join(_BACKENDS)))
    return new_backend


# --- measuring ---


def _get_memory(pid, backend, timestamps=False, include_children=False, filename=None):
    """MiB at this moment, with the time if `timestamps`; of tracemalloc what the lines of `filename` have allocated."""
    if backend == "tracemalloc":
        if filename is None or filename == "<unknown>":
            raise RuntimeError("There is no access to source file of the profiled function")
        only = tracemalloc.Filter(True, filename)
        statistics = tracemalloc.take_snapshot().filter_traces([only]).statistics("filename")
        mib = sum(statistic.size for statistic in statistics) / process_memory.MIB
    else:
        pid = os.getpid() if pid == -1 else pid
        mib = process_memory.of_family(pid, backend) if include_children else process_memory.of_process(pid, backend)
    return (mib, time.time()) if timestamps else mib


def _get_child_memory(process, meminfo_attr=None, memory_metric=0):
    """(pid, MiB) of each child of a process (its pid, or an object that has one)."""
    pid = process if isinstance(process, int) else process.pid
    backend = "psutil_" + memory_metric if memory_metric in ("pss", "uss") else "psutil"
    return process_memory.of_children(os.getpid() if pid == -1 else pid, backend)


class MemTimer:
    """Measures a process until something is written to the other end of `pipe`; then sends what it found, and how often it did."""

    def __init__(self, monitor_pid, interval, pipe, backend, max_usage=False, *, timestamps=False, include_children=False):
        self.monitor_pid, self.interval, self.pipe, self.backend = monitor_pid, interval, pipe, backend
        self.max_usage, self.timestamps, self.include_children = max_usage, timestamps, include_children
        self.mem_usage = [_get_memory(monitor_pid, backend, timestamps, include_children)]
        self._process = self._thread = None

    def _arguments(self):
        return (self.pipe, self.monitor_pid, self.interval, self.backend, self.max_usage, self.timestamps, self.include_children,
                self.mem_usage[0])

    def start(self):
        if sys.executable:
            self._process = process_memory.start_sampler(*self._arguments())
        else:  # Python inside another program: it cannot be started again
            import threading

            self._thread = threading.Thread(target=process_memory.sample, args=self._arguments(), daemon=True)
            self._thread.start()

    def join(self, timeout=None):
        if self._thread:
            self._thread.join(timeout)
        else:
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                pass

    def terminate(self):
        if self._process:
            self._process.terminate()
            self._process.wait()


def _measure_call(function, args, kw, interval, backend, **options):
    """Calls it beside a MemTimer: what it returned, the measurements and their number."""
    from multiprocessing import Pipe

    ours, its = Pipe()
    timer = MemTimer(os.getpid(), interval, its, backend, **options)
    timer.start()
    finished = False
    try:
        if timer._process:
            its.close()  # so that its end is seen here
        try:
            ours.recv()
        except EOFError:
            raise RuntimeError("memory_profiler: %s, which is to sample the memory, did not start" % sys.executable) from None
        returned = function(*args, **kw)
        ours.send(0)
        found, count = ours.recv(), ours.recv()
        finished = True
    finally:
        if not finished:
            timer.terminate()
        ours.close()
    timer.join()
    return returned, found, count


def _measure_process(pid, ended, interval, most, backend, timestamps, include_children, multiprocess, max_usage, stream):
    """Measures another process `most` times, or until it has `ended`."""
    found, count = [], 0
    while True:
        try:
            now = _get_memory(pid, backend, timestamps and not max_usage, include_children)
        except ProcessLookupError:
            if count == 0:
                raise
            break
        children = list(_get_child_memory(pid)) if multiprocess and not max_usage else ()
        if stream is not None and not max_usage:
            if now[0] > 0:  # of a zombie, 0
                stream.write("MEM {0:.6f} {1:.4f}\n".format(*now))
            for child, mib in children:
                stream.write("CHLD {0} {1:.6f} {2:.4f}\n".format(child, mib, time.time()))
        else:
            found.append([now] + [mib for _, mib in children] if multiprocess and not max_usage else now)
        count += 1
        if most == 1:
            break
        time.sleep(interval)
        if count % 50 == 0 and stream is not None:
            stream.flush()  # so that a file can be followed
        if count >= most or ended():
            break
    return max(found, default=-1) if max_usage else found


def memory_usage(proc=-1, interval=.1, timeout=None, timestamps=False, include_children=False, multiprocess=False, max_usage=False,
                 retval=False, stream=None, backend=None, max_iterations=None):
    """The memory of a process, or of this one while a function runs, in MiB, every `interval` seconds.

    proc: a pid (-1: this process), a subprocess.Popen, a function, or a tuple (function, args, kw). A process is measured once, or for
    `timeout` seconds, or, as a Popen, until it ends. A function is called again with a tenth of the interval until there are more
    than four measurements, but at most `max_iterations` times.

    timestamps: measurements are (MiB, time).  include_children: with the memory of children.  multiprocess: each measurement is a
    list, of the process and of each child.  max_usage: the largest only.  retval: (measurements, what the function
    returned).  stream: measurements are written to this file, as lines of an mprof file, and None is returned.
    backend: psutil (resident size), psutil_pss, psutil_uss.
    """
    backend = choose_backend(backend)
    timestamps = timestamps or stream is not None
    most = float("inf")
    if timeout is not None:
        most = max(1, int(round(timeout / interval)))

    if callable(proc):
        proc = (proc,)
    if isinstance(proc, (list, tuple)):
        if not 1 <= len(proc) <= 3:
            raise ValueError("memory_usage(): a function is given as (function, args, kw)")
        function, args, kw = tuple(proc) + ((), {})[len(proc) - 1:]
        if timeout is None and max_iterations is not None:
            most = max_iterations
        calls = 0
        while True:
            returned, found, count = _measure_call(function, args, kw, interval, backend, max_usage=max_usage, timestamps=timestamps,
                                                   include_children=include_children)
            calls += 1
            if count > 4 or calls == most or interval < 1e-6:
                break
            interval /= 10.
        if stream is not None:
            for mib, when in found:
                stream.write("MEM {0:.6f} {1:.4f}\n".format(mib, when))
        found = found[0] if max_usage else found
        result = (found, returned) if retval else found
    elif isinstance(proc, subprocess.Popen):
        result = _measure_process(proc.pid, lambda: proc.poll() is not None, interval, most, backend, timestamps, include_children,
                                  multiprocess, max_usage, stream)
    else:
        pid = int(proc)
        result = _measure_process(pid, lambda: pid != -1 and not process_memory.alive(pid), interval, most if timeout is not None else 1,
                                  backend, timestamps, include_children, multiprocess, max_usage, stream)
    return None if stream is not None else result


# --- time stamps of functions ---


def _source_of(function):
    try:
        return inspect.getsourcefile(function)
    except TypeError:
        return "<unknown>"


def _is_coroutine_function(function):
    return inspect.iscoroutinefunction(function)


def _like(function, around):
    """`function` as one that enters the context manager around() while it runs: of its own kind, so that also a generator and a
    coroutine are in it from their first step to their last."""
    if _is_coroutine_function(function):
        async def wrapper(*args, **kw):
            with around():
                return await function(*args, **kw)
    elif inspect.isgeneratorfunction(function):
        def wrapper(*args, **kw):
            with around():
                return (yield from function(*args, **kw))
    elif inspect.isasyncgenfunction(function):
        async def wrapper(*args, **kw):
            with around():
                async for value in function(*args, **kw):
                    yield value
    else:
        def wrapper(*args, **kw):
            with around():
                return function(*args, **kw)
    return wraps(function)(wrapper)


class TimeStamper:
    """A profiler that notes memory and time when a decorated function is entered and left."""

    def __init__(self, backend, include_children=False):
        self.functions = {}  # function: [[on entry, on exit], ...], each (MiB, time)
        self.stack = {}      # function: [how deep it was, ...]
        self.backend, self.include_children = backend, include_children
        self.current_stack_level = -1

    def __call__(self, func=None, precision=None):
        if func is None:
            return lambda function: self(function, precision=precision)
        if not callable(func):
            raise ValueError("Value must be callable")
        self.add_function(func)
        return self.wrap_function(func)

    def add_function(self, func):
        self.functions.setdefault(func, [])
        self.stack.setdefault(func, [])

    def wrap_function(self, func):
        filename = _source_of(func)
        return _like(func, lambda: self._stamp(func, filename))

    def timestamp(self, name="<block>"):
        """A context manager that notes a stretch of code under a name."""
        def block():
            pass

        block.__module__, block.__name__, block.__qualname__ = "", name, name
        self.add_function(block)
        return self._stamp(block, _source_of(block))

    @contextmanager
    def _stamp(self, func, filename):
        def measure():
            return _get_memory(-1, self.backend, timestamps=True, include_children=self.include_children, filename=filename)

        import heapkeeper

        stamps = []
        self.functions[func].append(stamps)
        self.current_stack_level += 1
        self.stack[func].append(self.current_stack_level)
        stamps.append(measure())
        try:
            with heapkeeper.span(getattr(func, "__qualname__", "")):
                yield
        finally:
            self.current_stack_level -= 1
            stamps.append(measure())

    def show_results(self, stream=None):
        """A line for each call, as mprof's files have it: FUNC name MiB time MiB time depth."""
        stream = sys.stdout if stream is None else stream
        for func, calls in self.functions.items():
            name = "_".join(("%s.%s" % (func.__module__, func.__name__)).split())
            for stamps, level in zip(calls, self.stack[func]):
                if len(stamps) == 2:  # else it has not ended
                    stream.write("FUNC %s %.4f %.4f %.4f %.4f %d\n" % ((name,) + stamps[0] + stamps[1] + (level,)))


# --- lines ---


class CodeMap(dict):
    """What is known of lines: code object -> {line: (increment, memory, occurrences)}, in MiB. Code inside a function shares its."""

    def __init__(self, include_children, backend):
        dict.__init__(self)
        self.include_children, self.backend = include_children, backend
        self._toplevel = []

    def add(self, code, toplevel_code=None):
        if code in self:
            return
        if toplevel_code is None:
            filename = code.co_filename
            if not linecache.getlines(filename):  # also of a notebook's cell
                print("ERROR: Could not find file " + filename)
                return
            try:
                source, start = inspect.getsourcelines(code)
            except (OSError, TypeError, IndexError, SyntaxError):
                print("ERROR: Could not find the source of %s in %s" % (code.co_name, filename))
                return
            toplevel_code = code
            self._toplevel.append((filename, code, range(start, start + len(source))))
            self[code] = {}
        else:
            self[code] = self[toplevel_code]
        for inner in code.co_consts:
            if inspect.iscode(inner):
                self.add(inner, toplevel_code)

    def record(self, code, lineno, increment, memory, occurrences=1):
        before = self[code].get(lineno, (0, 0, 0))
        self[code][lineno] = (before[0] + increment, max(before[1], memory), before[2] + occurrences)

    def trace(self, code, lineno, prev_lineno):
        """Measures now, and charges to the line what came since `prev_lineno` ran."""
        memory = self.measure(code)
        self.record(code, lineno, memory - self[code].get(prev_lineno, (0, 0, 0))[1], memory)

    def measure(self, code):
        return _get_memory(-1, self.backend, include_children=self.include_children, filename=code.co_filename)

    def functions(self):
        """The code objects of the functions, without those inside them."""
        return [code for _, code, _ in self._toplevel]

    def items(self):
        """(file, ((line, what is known of it or None), ...)) of each function, if anything is."""
        for filename, code, lines in self._toplevel:
            if self[code]:
                yield filename, ((line, self[code].get(line)) for line in lines)


_said = False


def _say_once(why):
    global _said
    if not _said:
        _said = True
        sys.stderr.write("memory_profiler: lines are measured by the resident size of the whole process: %s\n" % why)


class LineProfiler:
    """What lines do to the memory, while it is enabled, in the functions that it was given.

    Two ways: with heapkeeper's heap in the process a LineProfile, in all threads; else a trace function, in the thread that
    enabled it. Which it is is decided when it is enabled first.
    """

    def __init__(self, **kw):
        self.backend = choose_backend(kw.get("backend"))
        self.code_map = CodeMap(include_children=kw.get("include_children", False), backend=self.backend)
        self.max_mem = kw.get("max_mem")
        self.enable_count = 0
        self._exact = None  # a heapkeeper.LineProfile; False: there is none to be had
        self._running = []  # of the frames that run: [line, memory when it began]
        self._original_trace_function = None

    def __call__(self, func=None, precision=1):
        if func is None:
            return lambda function: self(function, precision=precision)
        self.add_function(func)
        return self.wrap_function(func)

    def add_function(self, func):
        code = getattr(inspect.unwrap(func) if callable(func) else func, "__code__", None)
        if code is None:
            warnings.warn("Could not extract a code object for the object %r" % (func,))
        else:
            self.code_map.add(code)
            if self._exact and code in self.code_map:
                self._exact.add_function(code)

    def _begin_exact(self):
        """A LineProfile of all functions so far, or False."""
        if self.backend != "psutil" or self.code_map.include_children or self.max_mem is not None:
            return False
        from . import lines

        why = lines.why_not()
        if why is not None:
            _say_once(why)
            return False
        return lines.LineProfile(*self.code_map.functions(), turns=True)

    def _take_exact(self):
        """The figures so far into the code map. The first line has what lived when the function was called first, as the original's."""
        for function in self._exact.functions():
            rows = {line.line: (line.net / process_memory.MIB, line.live_max / process_memory.MIB, line.hits)
                    for line in function.lines if line.hits}
            if function.calls and function.first_line not in rows:
                live = function.start_live / process_memory.MIB
                rows = {function.first_line: (live, live, function.calls), **rows}
            self.code_map[function.code].update(rows)

    def wrap_function(self, func):
        return _like(func, lambda: self)

    def runctx(self, cmd, globals, locals):
        with self:
            exec(cmd, globals, locals)
        return self

    def enable_by_count(self):
        if self.enable_count == 0:
            self.enable()
        self.enable_count += 1

    def disable_by_count(self):
        if self.enable_count > 0:
            self.enable_count -= 1
            if self.enable_count == 0:
                self.disable()

    def __enter__(self):
        self.enable_by_count()

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.disable_by_count()

    def enable(self):
        if self._exact is None:
            self._exact = self._begin_exact()
        if self._exact:
            self._exact.enable()
            return
        self._original_trace_function = sys.gettrace()
        sys.settrace(self.trace_memory_usage if self.max_mem is None else self.trace_max_mem)

    def disable(self):
        if self._exact:
            self._exact.disable()
            self._take_exact()
            return
        sys.settrace(self._original_trace_function)
        self._running.clear()

    def trace_memory_usage(self, frame, event, arg):
        """A line is charged what the memory grew by from its beginning to the next line's: with what it called."""
        code = frame.f_code
        if code in self.code_map and event in ("call", "line", "return"):
            memory = self.code_map.measure(code)
            if event == "call":
                self._running.append([frame.f_lineno, memory if self.code_map[code] else 0])
            elif self._running:
                line, before = self._running[-1]
                self.code_map.record(code, line, memory - before, memory)
                self._running[-1] = [frame.f_lineno, memory]
                if event == "return":
                    self._running.pop()
        if self._original_trace_function is not None:
            self._original_trace_function(frame, event, arg)
        return self.trace_memory_usage

    def trace_max_mem(self, frame, event, arg):
        """Into the debugger as soon as the memory exceeds what is allowed."""
        if event in ("line", "return") and frame.f_code in self.code_map:
            memory = self.code_map.measure(frame.f_code)
            if memory >= self.max_mem:
                import pdb

                sys.stdout.write("Current memory {0:.2f} MiB exceeded the maximum of {1:.2f} MiB\n".format(memory, self.max_mem))
                sys.stdout.write("Stepping into the debugger \n")
                debugger = pdb.Pdb()
                debugger.set_trace(frame)
                return debugger.trace_dispatch
        if self._original_trace_function is not None:
            self._original_trace_function(frame, event, arg)
        return self.trace_max_mem


def show_results(prof, stream=None, precision=1):
    """The table of a LineProfiler: for each function its source, and beside each line what is known of it."""
    stream = sys.stdout if stream is None else stream
    row = "{0:>6} {1:>12} {2:>12}  {3:>10}   {4:<}"
    mib = "{0:%d.%df} MiB" % (precision + 4, precision)
    header = row.format("Line #", "Mem usage", "Increment", "Occurrences", "Line Contents")
    for filename, lines in prof.code_map.items():
        for piece in "Filename: " + filename + "\n\n", header + "\n", "=" * len(header) + "\n":  # LogFile decides about each
            stream.write(piece)
        source = linecache.getlines(filename)
        for line, known in lines:
            text = source[line - 1] if line <= len(source) else "\n"
            cells = (mib.format(known[1]), mib.format(round(known[0], precision) + 0.0), known[2]) if known else ("", "", "")  # no "-0.0"
            stream.write(row.format(line, *cells, text))
        stream.write("\n\n")


def profile(func=None, stream=None, precision=1, backend="psutil"):
    """A decorator: each call of the function prints what its lines did to the memory."""
    backend = choose_backend(backend)
    if backend == "tracemalloc" and not tracemalloc.is_tracing():
        tracemalloc.start()
    if func is None:
        return lambda function: profile(function, stream=stream, precision=precision, backend=backend)

    @contextmanager
    def profiled():
        profiler = LineProfiler(backend=backend)
        profiler.add_function(func)
        with profiler:
            yield
        show_results(profiler, stream=stream, precision=precision)

    return _like(func, profiled)


class LogFile:
    """A file to print tables to, of which each piece goes to a logger; on request only rows whose increment is above zero."""

    def __init__(self, name=None, reportIncrementFlag=False):
        self.logger = logging.getLogger(name)
        self.reportIncrementFlag = reportIncrementFlag

    def write(self, msg, level=logging.INFO):
        increment = re.match(r"\s*\d+\s+\S+ MiB\s+(\S+) MiB", msg)
        if not self.reportIncrementFlag or "Filename:" in msg or "Line Contents" in msg or (increment and float(increment.group(1)) > 0):
            self.logger.log(level, msg)

    def flush(self):
        for handler in self.logger.handlers:
            handler.flush()


# --- whole programs ---


@contextmanager
def _as_the_program(profiler, backend, words):
    """Sets the stage for a program: its words, the builtin `profile`, and this module as the memory_profiler that it may import."""
    builtins.__dict__["profile"] = profiler
    sys.modules["memory_profiler"] = sys.modules[__name__]
    sys.argv = words
    sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "instead"))  # which multiprocessing's children get, too
    traced = choose_backend(backend) == "tracemalloc" and not tracemalloc.is_tracing()
    if traced:
        tracemalloc.start()
    try:
        yield
    finally:
        if traced:
            tracemalloc.stop()


def exec_with_profiler(filename, profiler, backend, passed_args=[]):
    """Runs a script as __main__, with the builtin `profile`."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(filename)))
    module = types.ModuleType("__main__")
    # A process that multiprocessing starts anew runs the module of this name, which knows the builtin, too.
    os.environ["HEAPKEEPER_SCRIPT"] = os.path.abspath(filename)
    spec = importlib.util.spec_from_loader("heapkeeper_spawned", None)
    vars(module).update(__file__=filename, __builtins__=builtins, __spec__=spec, profile=profiler)
    with io.open_code(os.path.abspath(filename)) as file:
        source = file.read()
    with _as_the_program(profiler, backend, [filename] + list(passed_args)):
        sys.modules["__main__"] = module  # functions and classes of the script are pickled by that name
        exec(compile(source, filename, "exec"), vars(module))


def run_module_with_profiler(module, profiler, backend, passed_args=[]):
    """Runs a module as `python -m` does, with the builtin `profile`."""
    from runpy import run_module

    sys.path.insert(0, os.getcwd())
    with _as_the_program(profiler, backend, [module] + list(passed_args)):
        run_module(module, run_name="__main__", init_globals={"profile": profiler}, alter_sys=True)


def _find_script(script_name):
    """The script of that name, here or on PATH."""
    if os.path.isfile(script_name):
        return script_name
    for folder in os.getenv("PATH", os.defpath).split(os.pathsep):
        if folder and os.path.isfile(os.path.join(folder, script_name)):
            return os.path.join(folder, script_name)
    sys.stderr.write("Could not find script %s\n" % script_name)
    raise SystemExit(1)


def _write_results(profiler, args, output):
    """Whether the file took them; if not, that is said in a line."""
    try:
        try:
            if args.timestamp:
                profiler.show_results(stream=output)
            else:
                show_results(profiler, precision=args.precision, stream=output)
            output.flush()
        finally:
            if output is not sys.stdout:
                output.close()  # here, where its error is known what to do with
    except OSError as error:
        sys.stderr.write("memory_profiler: %s cannot be written: %s\n" % (args.out_filename or "standard output", error.strerror))
        if output is sys.stdout:  # else Python fails once more, at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        return False
    return True


def main():
    from argparse import ArgumentParser, REMAINDER

    parser = ArgumentParser(prog="memory_profiler", usage="python -m heapkeeper.memory_profiler script_file.py")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--pdb-mmem", dest="max_mem", metavar="MAXMEM", type=float, help="step into the debugger when memory exceeds MAXMEM")
    parser.add_argument("--precision", type=int, default=3, help="digits after the point (default 3)")
    parser.add_argument("-o", dest="out_filename", help="append the results to this file")
    parser.add_argument("--timestamp", action="store_true", help="when decorated functions were entered and left, in place of lines")
    parser.add_argument("--include-children", action="store_true", help="with the memory of child processes")
    parser.add_argument("--backend", choices=_BACKENDS, default=_BACKENDS[0], help="what is measured (default %(default)s: the resident size)")
    parser.add_argument("program", nargs=REMAINDER, help="a script or a module, and its arguments")
    args = parser.parse_args()
    if not args.program:
        print("A program to run must be provided. Use -h for help")
        return 1

    if args.timestamp:
        profiler = TimeStamper(args.backend, include_children=args.include_children)
    else:
        profiler = LineProfiler(max_mem=args.max_mem, backend=args.backend, include_children=args.include_children)
    target, words = args.program[0], args.program[1:]
    script = _find_script(target) if target.endswith(".py") else None
    output = sys.stdout
    if args.out_filename is not None:
        try:
            output = open(args.out_filename, "a")
        except OSError as error:
            sys.stderr.write("memory_profiler: %s cannot be written: %s\n" % (args.out_filename, error.strerror))
            return 1
    try:
        if script:
            exec_with_profiler(script, profiler, args.backend, words)
        else:
            run_module_with_profiler(target, profiler, args.backend, words)
    finally:  # and the program's own end, if it raised, is as it would be
        written = _write_results(profiler, args, output)
    return 0 if written else 1


def load_ipython_extension(ip):
    """%load_ext memory_profiler: %mprun and %memit."""
    from . import magics

    magics.MemoryProfilerMagics.register_magics(ip)


def __getattr__(name):
    if name in ("MemitResult", "MemoryProfilerMagics", "_func_exec"):  # which need IPython
        from . import magics

        return getattr(magics, name)
    raise AttributeError("module %r has no attribute %r" % (__name__, name))


if __name__ == "__main__":
    from heapkeeper import memory_profiler  # the one that a program imports

    sys.exit(memory_profiler.main())
