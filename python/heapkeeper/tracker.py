"""heapkeeper.Tracker: what a stretch of a program allocates, from inside the program, to the byte.

    >>> with heapkeeper.Tracker() as tracker:
    ...     table = [str(n) for n in range(1000)]
    >>> tracker.peak                                    # bytes, of what was allocated in the block
    57752
    >>> print(tracker.statistics()[0])
    example.py:2: live 48.3 KiB in 1001 blocks, allocated 56.6 KiB in 1002
    >>> (tracker.size, tracker.count)                   # what of it still lived at its end
    (57714, 1001)

It looks at what `heapkeeper run --exact` records, so it needs that, and its figures are those of the record. While a tracker is at
work a loop of nothing but allocations takes about twice as long, some 200 nanoseconds more each; else it costs nothing.

What these objects need themselves is in no statistics: lines of this file are left out.
"""

import functools
import inspect
import operator

__all__ = ["Difference", "Snapshot", "Statistic", "Tracker", "take_snapshot"]

KEYS = {"lineno": 0, "line": 0, "filename": 1, "file": 1, "function": 2, "traceback": 0}
ALL_FRAMES = 65535
OWN_FILE = inspect.currentframe().f_code.co_filename

_tracing = None  # the library's module of functions; found by tracing()


def tracing():
    """The library's functions in this process; RuntimeError: there is nothing that they could look at."""
    global _tracing
    if _tracing is None:
        import heapkeeper

        _tracing = heapkeeper._tracing_module()
    why = _tracing._why_not()
    if why is not None:
        raise RuntimeError("heapkeeper: " + why)
    return _tracing


def _format_size(size, signed=False):
    for unit in "B", "KiB", "MiB", "GiB":
        if abs(size) < 1024 or unit == "GiB":
            number = "%d" % size if unit == "B" else "%.1f" % size
            return "%s%s %s" % ("+" if signed and size >= 0 else "", number, unit)
        size /= 1024


def _blocks(count):
    return "%d block%s" % (count, "" if abs(count) == 1 else "s")


def _title(frames, key):
    """Of a statistic: its place as a line of text."""
    inner = frames[0]
    if key == "filename":
        return inner[0]
    if key == "function":
        return "%s (%s:%d)" % (inner[2], inner[0], inner[1])
    return "%s:%d" % (inner[0], inner[1])


class Statistic:
    """What one line, file, function or stack has: `size` bytes in `count` blocks live, and `allocated_size` and `allocated_count` were
    allocated in all while the tracker was at work (None of a snapshot that does not know).

    `frames` is a tuple of (file, line), innermost first; by function of one (file, first line, name).
    """

    __slots__ = ("key", "frames", "size", "count", "allocated_size", "allocated_count")

    def __init__(self, key, frames, size=0, count=0, allocated_size=None, allocated_count=None):
        self.key, self.frames = key, frames
        self.size, self.count = size, count
        self.allocated_size, self.allocated_count = allocated_size, allocated_count

    @property
    def filename(self):
        return self.frames[0][0]

    @property
    def lineno(self):
        return self.frames[0][1]

    @property
    def function(self):
        return self.frames[0][2] if self.key == "function" else None

    def __str__(self):
        text = "%s: live %s in %s" % (_title(self.frames, self.key), _format_size(self.size), _blocks(self.count))
        if self.allocated_size is not None:
            text += ", allocated %s in %d" % (_format_size(self.allocated_size), self.allocated_count)
        return text

    def __repr__(self):
        return "<heapkeeper.Statistic %s>" % self


class Difference:
    """How one line, file, function or stack differs between two snapshots: `size` and `count` of the newer, and `size_diff` and
    `count_diff` to the older."""

    __slots__ = ("key", "frames", "size", "size_diff", "count", "count_diff")

    def __init__(self, key, frames, size, size_diff, count, count_diff):
        self.key, self.frames = key, frames
        self.size, self.size_diff, self.count, self.count_diff = size, size_diff, count, count_diff

    filename, lineno, function = Statistic.filename, Statistic.lineno, Statistic.function

    def __str__(self):
        return "%s: %s (%s), %s (%+d)" % (_title(self.frames, self.key), _format_size(self.size), _format_size(self.size_diff, True),
                                          _blocks(self.count), self.count_diff)

    def __repr__(self):
        return "<heapkeeper.Difference %s>" % self


def _key_of(key):
    if key not in KEYS:
        raise ValueError("there are statistics by lineno, filename, function and traceback, not by %r" % (key,))
    return {"line": "lineno", "file": "filename"}.get(key, key)


class Snapshot:
    """What lived at one moment, by call stack: compact, and unchanged by what comes after. `size` in bytes, `count` in blocks."""

    __slots__ = ("_groups", "_allocated", "_sums", "__weakref__")

    def __init__(self, groups, allocated=None):
        self._groups, self._allocated = groups, allocated
        self._sums = {}

    def _group(self, groups, key, frames, cumulative):
        if frames is not None and operator.index(frames) < 1:
            raise ValueError("heapkeeper: frames is how many of a stack tell it from others, 1 or more, or None, not %d" % frames)
        if key != "traceback" and not cumulative:
            frames = 1
        found = _tracing._group(groups, KEYS[key], min(frames or ALL_FRAMES, ALL_FRAMES), cumulative, False)
        return [entry for entry in found if entry[0][0][0] != OWN_FILE]

    def _total(self):
        if "total" not in self._sums:
            sums = self._group(self._groups, "filename", 1, False)
            self._sums["total"] = (sum(size for _, size, _ in sums), sum(count for _, _, count in sums))
        return self._sums["total"]

    @property
    def size(self):
        return self._total()[0]

    @property
    def count(self):
        return self._total()[1]

    def statistics(self, key="lineno", frames=None, cumulative=False):
        """A list of Statistic, the largest first.

        key: "lineno", "filename", "function" or "traceback". frames: that many innermost frames of a stack tell it from others (all).
        cumulative: with what was allocated in functions that were called from there; not by traceback.
        """
        key = _key_of(key)
        if cumulative and key == "traceback":
            raise ValueError("a traceback has no cumulative statistics")
        found = {}
        for place, size, count in self._group(self._groups, key, frames, cumulative):
            found[place] = Statistic(key, place, size, count)
        if self._allocated is not None:
            for statistic in found.values():
                statistic.allocated_size = statistic.allocated_count = 0
            for place, size, count in self._group(self._allocated, key, frames, cumulative):
                statistic = found.setdefault(place, Statistic(key, place))
                statistic.allocated_size, statistic.allocated_count = size, count
        return sorted(found.values(), key=lambda s: (-s.size, -(s.allocated_size or 0), s.frames))

    def diff(self, older, key="lineno", frames=None, cumulative=False):
        """A list of Difference of what this snapshot has more or less than an older one, the largest first."""
        if not isinstance(older, Snapshot):
            raise TypeError("heapkeeper: diff() is to an older Snapshot, not to %s" % type(older).__name__)
        new = {s.frames: s for s in self.statistics(key, frames, cumulative)}
        old = {s.frames: s for s in older.statistics(key, frames, cumulative)}
        key, none = _key_of(key), Statistic(key, ())
        found = []
        for place in {**new, **old}:
            has, had = new.get(place, none), old.get(place, none)
            if (has.size, has.count) != (had.size, had.count):
                found.append(Difference(key, place, has.size, has.size - had.size, has.count, has.count - had.count))
        return sorted(found, key=lambda d: (-abs(d.size_diff), -d.size, -abs(d.count_diff), d.frames))

    def __repr__(self):
        return "<heapkeeper.Snapshot: %s in %s>" % (_format_size(self.size), _blocks(self.count))


def take_snapshot():
    """What lives now of everything that was recorded since the process began. RuntimeError without `heapkeeper run --exact`."""
    return Snapshot(tracing()._collect())


def must_run_when_called(function, who):
    """TypeError, unless it is something to call that has done its work when the call is over."""
    name = getattr(function, "__qualname__", None) or repr(function)
    if not callable(function):
        raise TypeError("%s: goes before a function, not before %s%s" % (who, name, "; put it below @classmethod and @staticmethod"
                                                                         if isinstance(function, (classmethod, staticmethod)) else ""))
    for code in function, type(function).__call__:
        if inspect.isgeneratorfunction(code) or inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            raise TypeError("%s: %s does not run while it is called: use `with` inside it" % (who, name))


class Tracker:
    """Tracks what is allocated from start() to stop(): `with Tracker() as tracker`, or `@tracker` before a function, which is
    then tracked while it runs.

    Trackers may be nested and overlap; each has what was allocated while it was at work, in all threads. What lived
    before is not in its figures, nor is that it was freed. After stop() they are those of that moment.
    """

    __slots__ = ("_window", "_depth", "_last", "_snapshot", "__weakref__")

    def __init__(self):
        self._window = None
        self._depth = 0
        self._last = None  # what the library said at its end; it belongs to no other tracker, as a Snapshot would
        self._snapshot = None

    def start(self):
        if self._window is not None:
            raise RuntimeError("heapkeeper: this tracker is at work already")
        tracing()
        self._last = self._snapshot = None
        self._window = _tracing._open()
        return self

    def stop(self):
        if self._window is None:
            raise RuntimeError("heapkeeper: this tracker is not at work")
        self._last = _tracing._look(self._window)
        _tracing._close(self._window)
        self._window = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *exception):
        self.stop()

    def __del__(self):
        if getattr(self, "_window", None) is not None:
            _tracing._close(self._window)

    def __reduce__(self):
        raise TypeError("heapkeeper: a tracker cannot be copied; what take_snapshot() returns can")

    def __call__(self, function):
        """Decorator: the function is tracked while it runs; the figures are those of its last call that ended. Of calls inside
        calls the outermost counts."""
        must_run_when_called(function, "heapkeeper.Tracker")

        @functools.wraps(function)
        def tracked(*arguments, **names):
            if self._depth == 0:
                self.start()
            self._depth += 1
            try:
                return function(*arguments, **names)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.stop()

        return tracked

    @property
    def is_tracking(self):
        return self._window is not None

    def _figures(self):
        return _tracing._figures(self._window) if self._window is not None else (self._last or (0, 0))[:2]

    @property
    def size(self):
        """Bytes of the blocks that were allocated while it was at work and live (now, or at its stop)."""
        return self._figures()[0]

    @property
    def peak(self):
        """The most bytes of such blocks that lived at once. Exact; what threads without Python's lock allocate at that very instant
        is added when the lock is next held."""
        return self._figures()[1]

    def reset_peak(self):
        """The peak becomes what lives now."""
        if self._window is None:
            raise RuntimeError("heapkeeper: this tracker is not at work")
        _tracing._reset_peak(self._window)

    @property
    def count(self):
        """The number of those blocks."""
        return self.take_snapshot().count

    def take_snapshot(self):
        """What lives now of what was allocated while it was at work; after stop() as it was then."""
        if self._window is not None:
            return Snapshot(*_tracing._look(self._window)[2:])
        if self._last is None:
            raise RuntimeError("heapkeeper: this tracker has not been at work yet")
        if self._snapshot is None:
            self._snapshot = Snapshot(*self._last[2:])
        return self._snapshot

    def statistics(self, key="lineno", frames=None, cumulative=False):
        """take_snapshot().statistics(...)"""
        return self.take_snapshot().statistics(key, frames, cumulative)

    def __repr__(self):
        if self._window is None and self._last is None:
            return "<heapkeeper.Tracker: not started>"
        size, peak = self._figures()
        return "<heapkeeper.Tracker: %s %s, at most %s>" % (_format_size(size), "live" if self.is_tracking else "left",
                                                            _format_size(peak))
