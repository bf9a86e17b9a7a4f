"""Memory line by line: what each line of chosen functions allocates, frees and needs, exactly.

    from heapkeeper import profile

    @profile
    def load(path):
        ...

and ``heapkeeper run program.py``; at its end the figures stand beside the source, on standard error. ``LineProfile`` is the same
for a part of a program:

    >>> with heapkeeper.LineProfile() as lines:
    ...     lines.add_function(load)
    ...     load("data.csv")
    >>> lines.functions()[0].lines[2].net
    8388704

A line is charged with what its thread allocates and frees while it runs, in Python's three domains and in what it calls;
what other threads do meanwhile changes nothing. Under ``heapkeeper run --native`` so it is with malloc's memory, in figures of
its own; ``LineProfile(rss=True)`` adds what the process's resident size changed by. No wrapper is put around a function: its code object is known to the library,
which is told by sys.monitoring (3.12 on) or a trace function that stands in no other tool's way.
"""

import _thread
import atexit
import functools
import inspect
import linecache
import os
import struct
import sys
import time
import types
from collections import namedtuple

__all__ = ["FunctionLines", "Line", "LineProfile", "profile", "why_not"]

_ROW = struct.Struct("QQQQQqqqq")  # struct hk_line
_MORE = struct.Struct("QQQQq")  # struct hk_line_more
_NATIVE, _RSS, _ENTRIES = 1, 2, 4  # HK_LINE_NATIVE, HK_LINE_RSS, HK_LINE_ENTRIES
_CODE_HAS_LINES = hasattr(types.CodeType, "co_lines")
_began = time.time()

_engine = None  # the library's functions


def _find_engine():
    global _engine
    if _engine is None:
        import heapkeeper

        _engine = heapkeeper._lines_module()
    return _engine


def why_not():
    """What stands in the way of a line profile in this process, as a sentence; None: nothing."""
    try:
        why = _find_engine().why_not()
    except RuntimeError as error:
        return str(error).replace("heapkeeper: ", "", 1)
    if why is None and sys.version_info >= (3, 12) and not _has_tool() and _free_tool() is None:
        return ("all places for tools in sys.monitoring are taken, by %s; a line profile needs one"
                % ", ".join(str(sys.monitoring.get_tool(tool)) for tool in range(6)))
    return why


# --- how the library is told: sys.monitoring, or the gate ---

# Held while functions are enabled and disabled: threads may have a profile each. Again by the same thread, as profiles end in collections
# of cycles and signal handlers may do anything.
_lock = _thread.RLock()
os.register_at_fork(after_in_child=_lock._at_fork_reinit)

# Code objects by their identity: those of two definitions may be equal.
_enabled = {}  # by how many profiles
_turning = set()  # those of which the turns of loops are counted; see LineProfile
_tool = None


def _free_tool():
    monitoring = sys.monitoring
    for tool in monitoring.PROFILER_ID, 3, 4, monitoring.COVERAGE_ID, monitoring.OPTIMIZER_ID, monitoring.DEBUGGER_ID:
        if monitoring.get_tool(tool) is None:
            return tool
    return None


def _has_tool():
    """It is still ours: a program may free all tools."""
    return _tool is not None and sys.monitoring.get_tool(_tool) == "heapkeeper"


def _set_unwinding(wanted):
    """That frames end by exceptions, which cannot be had of single code objects. set_events would have the interpreter allocate something
    for each code object that runs from then on, and the line that calls it be charged with that."""
    unwind, throw = sys.monitoring.events.PY_UNWIND, sys.monitoring.events.PY_THROW
    quietly = sys.version_info < (3, 15)  # which looks for each code object's data, and does not find it where nothing was allocated
    if not quietly or not _engine.set_quietly(sys.monitoring.get_events, _tool, _engine.on_leave, unwind.bit_length() - 1, throw.bit_length() - 1, wanted):
        sys.monitoring.set_events(_tool, unwind | throw if wanted else 0)


def _callbacks():
    events = sys.monitoring.events
    return {events.LINE: _engine.on_line, events.PY_START: _engine.on_start, events.PY_RESUME: _engine.on_resume,
            events.PY_THROW: _engine.on_resume, events.PY_RETURN: _engine.on_leave, events.PY_YIELD: _engine.on_leave,
            events.PY_UNWIND: _engine.on_leave, events.JUMP: _engine.on_jump}


def _begin():
    """Before the first code object is enabled."""
    global _tool
    if sys.version_info < (3, 12):
        if not _engine.open_gate():
            raise RuntimeError("heapkeeper: this Python has no way to be told of lines (PEP 523)")
        return
    tool = _free_tool()
    if tool is None:
        raise RuntimeError("heapkeeper: " + why_not())
    sys.monitoring.use_tool_id(tool, "heapkeeper")
    _tool = tool
    _engine.set_no_more(sys.monitoring.DISABLE)
    for event, callback in _callbacks().items():
        sys.monitoring.register_callback(_tool, event, callback)
    _set_unwinding(True)


def _end():
    global _tool
    if sys.version_info < (3, 12):
        _engine.close_gate()
        return
    if not _has_tool():
        _tool = None
        return
    _set_unwinding(False)
    for event in _callbacks():
        sys.monitoring.register_callback(_tool, event, None)
    sys.monitoring.free_tool_id(_tool)
    _tool = None


def _watch(code, turns):
    if not _enabled:
        _begin()
    _enabled[id(code)] = _enabled.get(id(code), 0) + 1
    if turns:
        _turning.add(id(code))
    elif _enabled[id(code)] > 1:
        return
    if _tool is not None:
        events = sys.monitoring.events
        sys.monitoring.set_local_events(_tool, code, events.LINE | events.PY_START | events.PY_RESUME | events.PY_RETURN | events.PY_YIELD
                                        | (events.JUMP if id(code) in _turning else 0))


def _unwatch(code):
    _enabled[id(code)] -= 1
    if _enabled[id(code)]:
        return
    del _enabled[id(code)]
    _turning.discard(id(code))
    if _has_tool():
        sys.monitoring.set_local_events(_tool, code, 0)
    if not _enabled:
        _end()


# --- code objects ---


def _lines_of(code):
    """The numbers of the lines that have instructions."""
    if _CODE_HAS_LINES:
        return {line for _, _, line in code.co_lines() if line}
    import dis

    return {line for _, line in dis.findlinestarts(code) if line}


def _nested(code):
    """The code objects in this one, at any depth, itself first."""
    found = [code]
    for code in found:
        found.extend(constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return found


def _functions_of(thing):
    """The functions that are meant by whatever a user may give."""
    if isinstance(thing, (types.FunctionType, types.CodeType)):
        return [inspect.unwrap(thing) if isinstance(thing, types.FunctionType) else thing]
    if isinstance(thing, (staticmethod, classmethod, types.MethodType)):
        return _functions_of(thing.__func__)
    if isinstance(thing, property):
        return [f for part in (thing.fget, thing.fset, thing.fdel) if part is not None for f in _functions_of(part)]
    if isinstance(thing, (functools.partial, functools.partialmethod, functools.cached_property)):
        return _functions_of(thing.func)
    if isinstance(thing, type):
        return [f for value in vars(thing).values() if not _is_elsewhere(value, thing) and _can_be_profiled(value)
                for f in _functions_of(value) if getattr(f, "__module__", thing.__module__) == thing.__module__]
    if isinstance(thing, types.ModuleType):
        return [f for value in vars(thing).values() if getattr(value, "__module__", None) == thing.__name__ and _can_be_profiled(value)
                for f in _functions_of(value)]
    if hasattr(thing, "__wrapped__"):
        return _functions_of(inspect.unwrap(thing))
    if isinstance(getattr(thing, "__code__", None), types.CodeType):
        return [thing.__code__]
    raise TypeError("heapkeeper: %r has no Python code whose lines could be profiled" % (thing,))


def _is_elsewhere(value, owner):
    """A class that is named in another and was not written there."""
    return isinstance(value, type) and (value.__module__, value.__qualname__) != (owner.__module__, "%s.%s" % (owner.__qualname__, value.__name__))


def _can_be_profiled(thing):
    try:
        return bool(_functions_of(thing))
    except TypeError:
        return False


def _is_cell(filename):
    """Of a notebook, or IPython's."""
    return "ipykernel" in filename or filename.startswith("<ipython")


class _Entry:
    """A function in a profile."""

    def __init__(self, function, name=None, rss=False, turns=False):
        if isinstance(function, types.CodeType):
            code, self.module = function, None
            self.qualname = name or getattr(code, "co_qualname", code.co_name)
        else:
            code, self.module, self.qualname = function.__code__, function.__module__, function.__qualname__
        self.code, self.turns = code, turns
        self.codes = _nested(code)
        self.numbers = sorted(set().union(*(_lines_of(c) for c in self.codes if c.co_filename == code.co_filename)) | {code.co_firstlineno})
        self.first, self.last = code.co_firstlineno, max(self.numbers[-1], code.co_firstlineno)
        self.native, self.rss = _find_engine().has_native(), rss
        self.table = _engine.table(self.first, self.last, (_NATIVE if self.native else 0) | (_RSS if rss else 0) | (_ENTRIES if turns else 0))
        for each in self.codes:
            _engine.add(self.table, each, each is code)

    def replaces(self, other):
        """It is another definition of the same: executed again, or in another cell of a notebook."""
        file, others = self.code.co_filename, other.code.co_filename
        is_another = self.code == other.code if file == others else _is_cell(file) and _is_cell(others)
        return is_another and self.code is not other.code and (self.module, self.qualname) == (other.module, other.qualname)

    def enable(self):
        for code in self.codes:
            _watch(code, self.turns)
        _engine.enable(self.table)

    def disable(self):
        _engine.disable(self.table)
        for code in self.codes:
            _unwatch(code)


# --- results ---

_LINE = namedtuple("_LINE", "line hits net allocated freed peak blocks freed_blocks live live_max first_live "
                            "native_net native_allocated native_freed native_blocks native_freed_blocks rss")


class Line(_LINE):
    """The figures of one line; sizes are bytes.

    line        its number in the file
    hits        how often it was come to
    net         what was allocated less what was freed while it ran, with what it called
    allocated, freed, blocks, freed_blocks
    peak        the most that lived above what lived when the line began, of all its visits
    live        what lived in Python's heap after it, at its last visit; live_max: at most; first_live: when it began first
    native_net, native_allocated, native_freed, native_blocks, native_freed_blocks
                the same of what C code allocated by malloc and its family; None: not under --native
    rss         what the process's resident size rose by while it ran, whoever did it; None: was not asked for
    """

    __slots__ = ()


class FunctionLines:
    """A function's figures, as they were when they were asked for; see Line. `has_native` and `has_rss` say what there is. `peak` is above what lived when a call began;
    `start_live` what lived when the first call began, None: it was not called."""

    def __init__(self, entry):
        self.code, self.module, self.qualname = entry.code, entry.module, entry.qualname
        self.name, self.filename = entry.code.co_name, entry.code.co_filename
        self.first_line, self.last_line = entry.first, entry.last
        self.has_native, self.has_rss = entry.native, entry.rss
        self.calls, self.peak, start, data, more = _engine.figures(entry.table)
        self.start_live = start if start >= 0 else None
        rows = list(_ROW.iter_unpack(data))
        beside = list(_MORE.iter_unpack(more)) if more is not None else [(None,) * 5] * len(rows)
        self.lines = [self._line(number, rows[number - entry.first], beside[number - entry.first])
                      for number in entry.numbers if entry.first <= number <= entry.last]
        for what in "net", "allocated", "freed", "blocks", "freed_blocks":
            setattr(self, what, sum(getattr(line, what) for line in self.lines))
            what = "native_" + what
            setattr(self, what, sum(getattr(line, what) for line in self.lines) if self.has_native else None)
        self.rss = sum(line.rss for line in self.lines) if self.has_rss else None

    def _line(self, number, row, more):
        hits, allocated, freed, blocks, freed_blocks, peak, live, live_max, first_live = row
        got, gave, native_blocks, native_freed_blocks, rss = more
        native = (got - gave, got, gave, native_blocks, native_freed_blocks) if self.has_native else (None,) * 5
        return Line(number, hits, allocated - freed, allocated, freed, peak, blocks, freed_blocks, live, live_max, first_live, *native,
                    rss if self.has_rss else None)

    def _module_globals(self):
        """For linecache, which asks the module's loader for what is no file: what is in an archive."""
        modules = [sys.modules.get(self.module)] + list(sys.modules.values()) if not os.path.exists(self.filename) else ()
        return next((vars(module) for module in modules if getattr(module, "__file__", None) == self.filename), None)

    def source(self):
        """The lines of the function's text, from first_line on; [] where it cannot be read."""
        linecache.checkcache(self.filename)
        lines = linecache.getlines(self.filename, self._module_globals())
        if len(lines) < self.last_line:
            return []
        try:
            block = inspect.getblock(lines[self.first_line - 1:])
        except Exception:  # text that is not the function's (any more)
            block = []
        return [line.rstrip("\r\n") for line in lines[self.first_line - 1:max(self.last_line, self.first_line - 1 + len(block))]]

    @property
    def source_changed(self):
        """The file was written after this program began: its text may not be what ran."""
        try:
            return os.stat(self.filename).st_mtime > _began
        except OSError:
            return False

    def __repr__(self):
        return "<heapkeeper.FunctionLines of %s, %d calls>" % (self.qualname, self.calls)


class LineProfile:
    """A profile of some functions, line by line, while it is enabled. There may be many at a time, also of the same function, in any threads.
    rss: with what the process's resident size changes by, which is read at each line, some microseconds.
    turns: hits are what memory_profiler's occurrences are: with each turn of a loop that is on one line, as always before Python 3.12 (an int may
    be charged to the line as allocated and freed at each), and each time that a generator or coroutine goes on in it."""

    def __init__(self, *functions, rss=False, turns=False):
        self._entries = {}  # by the identity of their code objects
        self._rss, self._turns = bool(rss), bool(turns)
        self._depth = 0
        for function in functions:
            self.add_function(function)

    def add_function(self, function):
        """Also a method, property, class (all its functions), partial, code object. Returns it. TypeError: there is no Python code."""
        _need()
        for found in _functions_of(function):
            self._add(found)
        return function

    def _add(self, function, name=None):
        """The entry of a function or code object, if it is a new one."""
        code = function if isinstance(function, types.CodeType) else function.__code__
        with _lock:
            if id(code) in self._entries:
                return None
            entry = self._entries[id(code)] = _Entry(function, name, self._rss, self._turns)
            if self._depth:
                entry.enable()
            return entry

    def _remove(self, entry):
        with _lock:
            del self._entries[id(entry.code)]
            if self._depth:
                entry.disable()

    @property
    def enabled(self):
        return self._depth > 0

    def enable(self):
        """From now on, in all threads. RuntimeError where nothing can be measured. Enabled twice it is to be disabled twice."""
        with _lock:
            _need()
            self._depth += 1
            if self._depth == 1:
                for entry in self._entries.values():
                    entry.enable()

    def disable(self):
        with _lock:
            if self._depth == 0:
                raise RuntimeError("heapkeeper: this line profile is not enabled")
            self._depth -= 1
            if self._depth == 0:
                for entry in self._entries.values():
                    entry.disable()

    def __enter__(self):
        self.enable()
        return self

    def __exit__(self, *exception):
        self.disable()

    def __del__(self):
        if self._depth and sys is not None and not sys.is_finalizing():  # None: modules are being taken down
            self._depth = 1
            self.disable()

    def reset(self):
        """All figures are 0."""
        for entry in list(self._entries.values()):
            _engine.reset(entry.table)

    def functions(self):
        """[FunctionLines] in the order in which they were added."""
        return [FunctionLines(entry) for entry in list(self._entries.values())]

    def show(self, stream=None, color=None):
        """The figures beside the source, to stream (default: standard error)."""
        show(self.functions(), stream, color)


def _need():
    why = why_not()
    if why is not None:
        raise RuntimeError("heapkeeper: " + why)


def show(functions, stream=None, color=None):
    """Figures beside the source. color: True, False; None: if stream is a terminal and NO_COLOR is not set."""
    from .lines_text import table

    stream = sys.stderr if stream is None else stream
    stream.write(table(functions, stream, color))
    stream.flush()


def _complain(text):
    try:
        print("heapkeeper: " + text, file=sys.stderr, flush=True)
    except (AttributeError, OSError, ValueError):  # the program closed it
        pass


# --- the decorator ---


class _Profile:
    """Before a function: what its lines allocate and free is shown beside its source at the end of the program.

        @profile
        def load(path): ...

        @profile(stream=open("lines.txt", "w"), rss=True)
        def store(path): ...

    The figures are the sums of all calls. profile.show() shows them earlier, profile.results() has them as objects, profile.reset()
    begins anew. A function that is defined again, as by a notebook's cell, takes the place of the one before. Without heapkeeper in the process one line on standard error says so, and the program runs as it is.

    precision and backend are taken, and change nothing: memory_profiler has them.
    """

    def __init__(self):
        self._profiles = []  # (stream, rss, LineProfile)
        self._pid = None
        self._warned = False

    def __call__(self, func=None, stream=None, precision=None, backend=None, rss=False):
        if stream is not None and not hasattr(stream, "write"):
            raise TypeError("heapkeeper: @profile(stream=%r): a stream is an open file, as in stream=open(\"lines.txt\", \"w\")" % (stream,))
        if func is None:
            return functools.partial(self, stream=stream, rss=rss)
        why = why_not()
        if why is None:
            self._add(self._of(stream, bool(rss)), func)
        elif not self._warned:
            self._warned = True
            _complain("@profile measures nothing: %s" % why)
        return func

    def _add(self, profile_, function):
        for found in _functions_of(function):
            new = profile_._add(found)
            for _, _, lines in self._profiles if new is not None else ():
                for old in [old for old in lines._entries.values() if new.replaces(old)]:
                    lines._remove(old)

    def _of(self, stream, rss):
        for known, with_rss, lines in self._profiles:
            if known is stream and with_rss == rss:
                return lines
        if not self._profiles:
            self._pid = os.getpid()
            atexit.register(self._at_exit)
        lines = LineProfile(rss=rss)
        lines.enable()
        self._profiles.append((stream, rss, lines))
        return lines

    def _at_exit(self):
        for own, _, lines in self._profiles if os.getpid() == self._pid else ():  # not in a child of a fork
            try:
                lines.show(own)
            except (OSError, ValueError, AttributeError) as error:  # of a stream that the program closed; there are others
                if own is not None:
                    _complain("@profile: its table cannot be written: %s" % error)

    def shown_at_exit(self, rss):
        """The identities of the code objects of which a table was shown, or will be, on standard error; with the resident size, if that is wanted."""
        return {code for own, with_rss, lines in self._profiles if own is None and with_rss >= rss and os.getpid() == self._pid
                for code in lines._entries}

    def show(self, stream=None, color=None):
        """Every decorated function, to stream, or each to its own (default: standard error)."""
        for own, _, lines in self._profiles:
            lines.show(own if stream is None else stream, color)

    def results(self):
        """[FunctionLines] of every decorated function."""
        return [function for _, _, lines in self._profiles for function in lines.functions()]

    def reset(self):
        for _, _, lines in self._profiles:
            lines.reset()

    def __repr__(self):
        return "<heapkeeper.profile>"


profile = _Profile()
