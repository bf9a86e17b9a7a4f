"""The standard library's tracemalloc on heapkeeper's record: the same functions and classes, at a fraction of the cost.

    from heapkeeper import tracemalloc

Snapshots, statistics, filters and their text are the standard library's own, of this Python; only what traces is another. Under
`heapkeeper run --tracemalloc` the standard module itself stands on heapkeeper's record, and nothing has to be imported.

Needs `heapkeeper run --exact`; start() says so otherwise. Differences are documented in docs/python.md; the chief one is that a
block that shrinks stays with the line that asked for it.
"""

import copyreg
import tracemalloc as _standard

import heapkeeper as _heapkeeper

globals().update({name: value for name, value in vars(_standard).items() if not name.startswith("__")})

_module = _heapkeeper._tracing_module()
globals().update({name: getattr(_module, name) for name in (
    "start", "stop", "is_tracing", "clear_traces", "get_traced_memory", "reset_peak", "get_traceback_limit", "get_tracemalloc_memory",
    "_get_traces", "_get_object_traceback")})

_KEYS = {"lineno": 0, "filename": 1, "traceback": 0}


def get_object_traceback(obj):
    """Get the traceback where the Python object *obj* was allocated: a Traceback, or None if it was not traced."""
    frames = _get_object_traceback(obj)
    return Traceback(frames) if frames is not None else None


class _CompactTraces(_standard._Traces):
    """Traces that are kept as sums by call site, until somebody looks at one."""

    def __init__(self, groups, limit):
        self._groups, self._limit = groups, limit

    @property
    def _traces(self):
        if "_list" not in self.__dict__:
            self._list = [trace for trace, count in _module._traces(self._groups, self._limit) for _ in range(count)]
        return self._list

    def __reduce__(self):  # as the standard library's, which every Python has
        return copyreg._reconstructor, (_standard._Traces, object, None), {"_traces": self._traces}


class Snapshot(_standard.Snapshot):
    """Snapshot of traces of memory blocks allocated by Python."""

    def _group_by(self, key_type, cumulative):
        traces = self.traces
        if type(traces) is not _CompactTraces or key_type not in _KEYS or (cumulative and key_type == "traceback"):
            return _standard.Snapshot._group_by(self, key_type, cumulative)
        frames = traces._limit if cumulative or key_type == "traceback" else 1
        stats = {}
        for place, size, count in _module._group(traces._groups, _KEYS[key_type], frames, cumulative, True):
            traceback = Traceback(place)
            stats[traceback] = Statistic(traceback, size, count)
        return stats

    def __reduce__(self):
        return copyreg._reconstructor, (_standard.Snapshot, object, None), self.__dict__


def take_snapshot():
    """Take a snapshot of traces of memory blocks allocated by Python."""
    if not is_tracing():
        raise RuntimeError("the tracemalloc module must be tracing memory allocations to take a snapshot")
    limit = get_traceback_limit()
    snapshot = Snapshot((), limit)
    snapshot.traces = _CompactTraces(_module._collect_traced(), limit)
    return snapshot
