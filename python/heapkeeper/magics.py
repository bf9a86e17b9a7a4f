"""Magics for notebooks and IPython, 8 and later.

    %load_ext heapkeeper          %mprun, %memit, %heapkeeper
    %load_ext memory_profiler     %mprun and %memit, where heapkeeper stands in memory_profiler's place

%mprun and %memit are memory_profiler's. %%heapkeeper runs a cell and shows what it allocated as a flame graph: the page that
`heapkeeper flame` makes, put together here from the figures of a Tracker (or, in a kernel without heapkeeper, of tracemalloc), with
the stacks cut where the cell begins.
"""

import ast
import base64
import builtins
import html
import inspect
import io
import json
import linecache
import os
import platform
import struct
import sys
import time
import tracemalloc
from contextlib import contextmanager

from IPython.core.error import UsageError
from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.magic import Magics, line_cell_magic, magics_class

from . import command, memory_profiler, tracker

_GROUP = struct.Struct("QQII")  # bytes, blocks, site, domain: what the library collects by


# --- memory_profiler's ---


class MemitResult:
    """What %memit found: `mem_usage` of each repetition at most, and `baseline` before the first, in MiB."""

    def __init__(self, mem_usage, baseline, repeat, timeout, interval, include_children):
        self.mem_usage, self.baseline, self.repeat, self.timeout = mem_usage, baseline, repeat, timeout
        self.interval, self.include_children = interval, include_children

    def __str__(self):
        most = max(self.mem_usage)
        return "peak memory: %.02f MiB, increment: %.02f MiB" % (most, most - self.baseline)

    def _repr_pretty_(self, p, cycle):
        p.text("<MemitResult : " + str(self) + ">")


def _func_exec(stmt, ns):
    exec(stmt, ns)


@magics_class
class MemoryProfilerMagics(Magics):
    @line_cell_magic
    def mprun(self, parameter_s="", cell=None):
        """What a statement, or a cell, does to the memory in the lines of some functions.

            %mprun -f func1 -f func2 statement

            %%mprun -f func1 -f func2 [statement]
            code...

        -f FUNCTION  a function or method, as an expression without blanks; also one that a cell defines. Needed to see anything.
        -T FILE      the table into this file, too
        -r           returns the LineProfiler
        -c           with the memory of child processes
        """
        # Quotes in the statement are not the options'.
        options, statement = self.parse_options(parameter_s.replace('"', r"\"").replace("'", r"\'"), "rf:T:c", list_all=True)
        namespace = self.shell.user_ns
        if cell is not None:
            statement += "\n" + cell
        profiler = memory_profiler.LineProfiler(include_children="c" in options)
        for name in options.get("f", []):
            try:
                function = eval(name, namespace)
            except Exception as error:
                raise UsageError("Could not find function %r.\n%s: %s" % (name, type(error).__name__, error)) from None
            profiler.add_function(function)

        missing = object()
        before = vars(builtins).get("profile", missing)
        builtins.profile = profiler
        message = ""
        try:
            # Known to linecache under a name of its own: a function that it defines has a table, too.
            profiler.runctx(compile(statement, self.shell.compile.cache(statement), "exec"), namespace, namespace)
        except SystemExit:
            message = "*** SystemExit exception caught in code being profiled."
        except KeyboardInterrupt:
            message = "*** KeyboardInterrupt exception caught in code being profiled."
        finally:
            if before is missing:
                del builtins.profile
            else:
                builtins.profile = before

        table = io.StringIO()
        memory_profiler.show_results(profiler, table)
        text = table.getvalue().rstrip()
        if hasattr(self.shell, "kernel"):  # a notebook, which keeps what is printed
            print(text)
        else:
            from IPython.core.page import page

            page(text)
        if message:
            print(message)
        if options.get("T"):
            with open(options["T"][0], "w", encoding="utf-8") as file:
                file.write(text)
            print("\n*** Profile printout saved to text file %s. %s" % (options["T"][0], message))
        return profiler if "r" in options else None

    @line_cell_magic
    def memit(self, line="", cell=None):
        """How much memory the process has at most while a statement, or a cell, runs.

            %memit [options] statement

            %%memit [options] setup, which is not measured
            code...

        -r R  repeat so often, the best counts (default 1)
        -t T  no longer than so many seconds
        -i I  seconds between measurements (default 0.1)
        -c    with the memory of child processes
        -o    returns what was found
        -q    prints nothing
        """
        import gc

        options, statement = self.parse_options(line, "r:t:i:coq", posix=False, strict=False)
        setup = "pass"
        if cell is not None:
            setup, statement = statement, cell
        try:
            repeat, timeout = max(1, int(options.get("r", 1))), int(options.get("t", 0))
            interval = float(options.get("i", 0.1))
        except ValueError as error:
            raise UsageError("%%memit: %s" % error) from None
        gc.collect()
        namespace = self.shell.user_ns
        _func_exec(setup, namespace)
        baseline = memory_profiler.memory_usage()[0]
        found = [memory_profiler.memory_usage((_func_exec, (statement, namespace)), timeout=timeout if timeout > 0 else None,
                                              interval=interval, max_usage=True, max_iterations=1, include_children="c" in options)
                 for _ in range(repeat)]
        result = MemitResult(found, baseline, repeat, timeout if timeout > 0 else None, interval, "c" in options)
        if "q" not in options:
            print(result)
        return result if "o" in options else None

    @classmethod
    def register_magics(cls, ip):
        ip.register_magics(cls)


# --- %%heapkeeper ---


class _Figures:
    """Stacks of a stretch of code: {((name, file, line), ...), outermost first: [live bytes, live blocks, allocated bytes, blocks]}."""

    def __init__(self):
        self.stacks = {}
        self.peak = self.seconds = 0
        self.allocated_known = True
        self.source = ""

    def add(self, stack, at, size, count):
        figures = self.stacks.setdefault(stack, [0, 0, 0, 0])
        figures[at] += size
        figures[at + 1] += count

    def total(self, at):
        return sum(figures[at] for figures in self.stacks.values())


_NOT_KEPT = ("...", "", 0)


def _inside(stack):
    """The frames of a stack from the cell on. All, if it did not come through one: another thread's, or its outer frames were not
    kept, because the record is full; it then begins with "...", as in what `heapkeeper export` writes."""
    ours = [i for i, (_, file, _) in enumerate(stack) if file == __file__]
    if ours:
        return stack[ours[-1] + 1:] or (("(heapkeeper itself)", "", 0),)
    return stack if stack and "_bootstrap" in stack[0][0] else (_NOT_KEPT,) + stack


def _name_of_file(code):
    return os.path.basename(code) or "?"


class _ByTracker:
    """Exact, from heapkeeper's record."""

    def __enter__(self):
        self.tracker = tracker.Tracker().start()
        return self

    def __exit__(self, *exception):
        self.tracker.stop()

    def figures(self, found):
        found.peak, found.source = self.tracker.peak, "every block, by heapkeeper"
        snapshot, module = self.tracker.take_snapshot(), tracker.tracing()
        for groups, at in (snapshot._groups, 0), (snapshot._allocated, 2):
            sites = {}
            for size, count, site, domain in _GROUP.iter_unpack(groups):
                if count:
                    had = sites.get((site, domain), (0, 0))
                    sites[site, domain] = had[0] + size, had[1] + count
            for (site, domain), (size, count) in sites.items():
                group = _GROUP.pack(size, count, site, domain)
                ((lines, _, _),) = module._group(group, tracker.KEYS["lineno"], tracker.ALL_FRAMES, False, False)
                ((functions, _, _),) = module._group(group, tracker.KEYS["function"], tracker.ALL_FRAMES, False, False)
                names = [function[2] for function in functions] if len(functions) == len(lines) else [""] * len(lines)
                found.add(tuple((name, file, line) for name, (file, line) in zip(names, lines))[::-1], at, size, count)


class _ByTracemalloc:
    """What is left, from the standard library's tracemalloc; of frames it knows lines and no functions: the source's text stands there."""

    FRAMES = 64

    def __enter__(self):
        self.running = tracemalloc.is_tracing()
        if not self.running:
            tracemalloc.start(self.FRAMES)
        self.before = tracemalloc.take_snapshot() if self.running else None
        tracemalloc.reset_peak()
        self.base = tracemalloc.get_traced_memory()[0]
        return self

    def __exit__(self, *exception):
        self.peak = tracemalloc.get_traced_memory()[1] - self.base
        self.after = tracemalloc.take_snapshot()
        if not self.running:
            tracemalloc.stop()

    def figures(self, found):
        found.peak, found.allocated_known = max(0, self.peak), False
        found.source = "what is left, by tracemalloc: start the kernel with `heapkeeper run` for all that was allocated"
        if self.before is not None:
            found_here = self.after.compare_to(self.before, "traceback")
            rows = [(row.traceback, row.size_diff, row.count_diff) for row in found_here if row.size_diff > 0]
        else:
            rows = [(row.traceback, row.size, row.count) for row in self.after.statistics("traceback")]
        for traceback, size, count in rows:
            stack = tuple((linecache.getline(frame.filename, frame.lineno).strip() or _name_of_file(frame.filename), frame.filename, frame.lineno)
                          for frame in traceback)
            found.add(stack, 0, size, max(0, count))


def _pack(numbers):
    """As src/view/flame.c packs them."""
    out = bytearray()
    for number in numbers:
        while number > 127:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    return base64.b64encode(bytes(out)).decode()


def _group_of(file):
    """What a colour stands for: a package, or a cell."""
    parts = file.replace("\\", "/").split("/")
    for mark in "site-packages", "dist-packages":
        if mark in parts:
            return parts[parts.index(mark) + 1].rpartition(".py")[0] or parts[parts.index(mark) + 1]
    if "ipykernel" in file or file.startswith("<ipython"):
        return "cells"
    return parts[-1].rpartition(".py")[0] or parts[-1]


class FlameGraph:
    """What a cell allocated: in a notebook the flame graph, elsewhere a few lines of text. `size` and `count` are what it left, `peak` what
    lived at most, `allocated` all bytes (None: not known); save(file) keeps the page."""

    def __init__(self, figures, title="cell", cells=None):
        self._figures, self._title = figures, title
        self._cells = cells or {}  # file of a cell: what a notebook calls it
        self.size, self.count, self.peak = figures.total(0), figures.total(1), figures.peak
        self.allocated = figures.total(2) if figures.allocated_known else None
        self.seconds = figures.seconds

    def data(self):
        """The page's figures, as src/view/flame.c has them."""
        strings, numbers, frames, frame_numbers = [], {}, [], {}
        nodes, children, leaves = [], {}, []

        def word(text):
            text = "".join(c if c.isprintable() else "\ufffd" for c in text[:1000])
            if text not in numbers:
                numbers[text] = len(strings)
                strings.append(text)
            return numbers[text]

        def frame(place):
            if place not in frame_numbers:
                name, file, line = place
                frame_numbers[place] = len(frame_numbers)
                frames.extend((word(name), word(self._cells.get(file) or _shortened(file)), word(_group_of(file)), max(0, line)))
            return frame_numbers[place]

        frame(("everything", "", 0))
        last = 0
        cut = {}
        for stack, values in self._figures.stacks.items():
            mine = cut.setdefault(_inside(stack), [0, 0, 0, 0])
            for i, value in enumerate(values):
                mine[i] += value
        for stack, (live, live_blocks, total, total_blocks) in cut.items():
            node = 0
            for place in stack:
                key = node, frame(place)
                if key not in children:
                    children[key] = len(children) + 1
                    nodes.extend((children[key] - node, key[1]))
                node = children[key]
            difference = node - last
            leaves.extend((2 * difference if difference >= 0 else -2 * difference - 1, live, live_blocks, 0, 0, total, total_blocks))
            last = node
        facts = ["at most " + tracker._format_size(self.peak), "left " + tracker._format_size(self.size)]
        if self.allocated is not None:
            facts.append("allocated " + tracker._format_size(self.allocated))
        return {"format": "heapkeeper-flame-1", "program": self._title, "python": platform.python_version(), "pid": 0,
                "state": self._figures.source, "facts": facts, "mode": "exact", "sample_bytes": 0, "duration_ns": int(self.seconds * 1e9),
                "peak_ns": 0, "moments_ns": [int(self.seconds * 1e9)], "timeline": [],
                "values": ["total", "live"] if self.allocated is not None else ["live"],
                "strings": strings, "frames": _pack(frames), "nodes": _pack(nodes), "leaves": _pack(leaves)}

    def page(self):
        """The whole page, of `heapkeeper flame`."""
        return command.run("flame", "--data", "-", "-o", "-", input=json.dumps(self.data()))

    def save(self, file):
        with open(file, "w", encoding="utf-8") as out:
            out.write(self.page())

    def __repr__(self):
        text = "%s at most, %s left in %d blocks" % (tracker._format_size(self.peak), tracker._format_size(self.size), self.count)
        if self.allocated is not None:
            text += ", %s allocated" % tracker._format_size(self.allocated)
        return "<heapkeeper: %s; %s>" % (text, self._figures.source)

    def _repr_html_(self):
        # A frame of its own: neither's style sheets and scripts reach the other.
        return ('<iframe srcdoc="%s" style="width: 100%%; height: 520px; border: 1px solid #8884" title="heapkeeper: flame graph"></iframe>' %
                html.escape(self.page(), quote=True))


def _shortened(file):
    here = os.getcwd() + os.sep
    return file[len(here):] if file.startswith(here) else file


@magics_class
class HeapkeeperMagics(Magics):
    @line_cell_magic
    def heapkeeper(self, line="", cell=None):
        """Runs a cell, or a statement, and shows what it allocated as a flame graph.

            %%heapkeeper [-o FILE]
            code...

            %heapkeeper statement

        -o FILE  the page into this file, too

        Every block that is allocated meanwhile counts, in all threads, with the stack from the cell on. This needs a kernel on
        heapkeeper (`heapkeeper run jupyter lab`); elsewhere tracemalloc is asked, which knows what is left and is slow.
        """
        options, rest = self.parse_options(line, "o:", posix=False)
        code = cell if cell is not None else rest
        found = _Figures()
        try:
            tracker.tracing()
            watch = _ByTracker()
        except RuntimeError:
            watch = _ByTracemalloc()
        cell_ = _Cell(self.shell, code, watch, found, options.get("o"))
        if cell_.awaits and cell is None:
            raise UsageError("%heapkeeper: await needs a cell of its own: %%heapkeeper")
        return cell_.run_async() if cell_.awaits else cell_.run()


class _Cell:
    """A cell that is run and looked at. `awaits`: it has an await outside of functions."""

    def __init__(self, shell, code, watch, found, file):
        self.shell, self.watch, self.found, self.file = shell, watch, found, file
        self.is_silent = code.rstrip().endswith(";")
        text = shell.transform_cell(code)
        self.name = shell.compile.cache(text)
        tree = shell.compile.ast_parse(text, self.name)
        # That of an expression at its end is a cell's value.
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        trees = [(tree, "exec")] + ([(ast.Expression(last.value), "eval")] if last else [])
        self.parts = [compile(tree, self.name, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT) for tree, mode in trees]
        self.awaits = any(part.co_flags & inspect.CO_COROUTINE for part in self.parts)

    def run(self):
        with self._shown():
            with self.watch:
                for part in self.parts:
                    value = eval(part, self.shell.user_ns)
            self._value(value)

    async def run_async(self):
        with self._shown():
            with self.watch:
                for part in self.parts:
                    value = eval(part, self.shell.user_ns)
                    if part.co_flags & inspect.CO_COROUTINE:
                        value = await value
            self._value(value)

    def _value(self, value):
        self.found.seconds = time.perf_counter() - self.began
        if value is not None and not self.is_silent:
            self.shell.displayhook(value)

    @contextmanager
    def _shown(self):
        self.began = time.perf_counter()
        try:
            yield
        finally:
            self.found.seconds = self.found.seconds or time.perf_counter() - self.began
            self._show()

    def _show(self):
        from IPython.display import display

        self.watch.figures(self.found)
        cells = dict(getattr(self.shell.compile, "_filename_map", {}))
        cells[self.name] = max(cells.values(), default=0) or self.shell.execution_count  # the cell that began last: this one
        graph = FlameGraph(self.found, "In[%s]" % cells[self.name], {cell: "In[%s]" % number for cell, number in cells.items()})
        if self.file:
            try:
                graph.save(self.file)
                print("The flame graph is in %s." % self.file)
            except OSError as error:
                print("heapkeeper: -o %s: %s; the flame graph is only shown here" % (self.file, error.strerror or error), file=sys.stderr)
        display(graph)


def _await_the_cell(lines):
    """As IPython transforms what is typed: a cell of %%heapkeeper that awaits is awaited itself."""
    if len(lines) != 1 or not lines[0].startswith("get_ipython().run_cell_magic('heapkeeper', "):
        return lines
    try:
        cell = ast.literal_eval(ast.parse(lines[0].strip()).body[0].value.args[2])
        code = compile(TransformerManager().transform_cell(cell), "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, IndexError, AttributeError):
        return lines  # who runs it will say so
    return ["await " + lines[0]] if code.co_flags & inspect.CO_COROUTINE else lines


def load_ipython_extension(ip):
    MemoryProfilerMagics.register_magics(ip)
    ip.register_magics(HeapkeeperMagics)
    if _await_the_cell not in ip.input_transformers_post:
        ip.input_transformers_post.append(_await_the_cell)
