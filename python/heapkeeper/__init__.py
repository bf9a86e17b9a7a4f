"""heapkeeper: where every byte of this process went.

A thin face of the C library, by ctypes. Under ``heapkeeper run`` the library is in the process already and answers
for it; anywhere else ``active()`` is false, ``stats()`` is about a heap that nobody has used yet, and ``install()`` puts
what is allocated from then on into it (for notebooks; what is recorded needs ``heapkeeper run``).

    >>> import heapkeeper
    >>> heapkeeper.active()
    True
    >>> heapkeeper.mark("warmed up")
    42817536
    >>> heapkeeper.stats()["mapped_bytes"]
    171966464
"""

import ctypes
import functools
import inspect
import json
import mmap
import os
import sys
import tracemalloc as _standard_tracemalloc

from .lines import LineProfile, profile
from .tracker import Difference, Snapshot, Statistic, Tracker, must_run_when_called, take_snapshot

__all__ = [
    "Difference",
    "LineProfile",
    "Snapshot",
    "Statistic",
    "Tracker",
    "active",
    "blocks",
    "debug_check",
    "debugmallocstats",
    "getallocatedblocks",
    "install",
    "library_path",
    "mark",
    "profile",
    "recording",
    "span",
    "stats",
    "take_snapshot",
    "version",
]

_WITH_HOSTS = "libheapkeeper-preload.so"  # what `heapkeeper run` preloads; opened later, it keeps still
_NAME = "libheapkeeper.so"


def _candidates():
    """Where the library may lie, likeliest first: the wheel, a source tree's build directory, the system's."""
    here = os.path.dirname(os.path.abspath(__file__))
    build = os.environ.get("HEAPKEEPER_BUILD") or os.path.normpath(os.path.join(here, "..", "..", "build"))
    for name in _WITH_HOSTS, _NAME:
        yield os.path.join(here, name)
        yield os.path.join(build, name)
    yield _NAME


def _open():
    """The library that is in the process already, else one from disk: (library, path or None, preloaded)."""
    # PyDLL keeps the GIL during a call: nobody allocates meanwhile, so the figures are of one instant.
    process = ctypes.PyDLL(None)
    if hasattr(process, "hk_stats_json"):
        return process, None, True
    tried = []
    for path in _candidates():
        if os.path.isabs(path) and not os.path.exists(path):
            tried.append(path)
            continue
        try:
            return ctypes.PyDLL(path), path, False
        except OSError as error:
            tried.append(str(error))
    raise ImportError("%s was not found; tried: %s" % (_NAME, "; ".join(tried)))


def _declare(library):
    size_t, chars, pointer = ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p
    library.hk_version.restype, library.hk_version.argtypes = chars, []
    library.hk_stats_json.restype = size_t
    library.hk_stats_json.argtypes = [pointer, size_t]
    library.hk_mark.restype, library.hk_mark.argtypes = ctypes.c_uint64, [chars]
    library.hk_span_begin.restype, library.hk_span_begin.argtypes = ctypes.c_uint64, [chars]
    library.hk_span_end.restype, library.hk_span_end.argtypes = None, [ctypes.c_uint64]
    library.hk_recording.restype, library.hk_recording.argtypes = ctypes.c_bool, []
    library.hk_debug_check.restype, library.hk_debug_check.argtypes = size_t, []
    library.hk_stats_text.restype = size_t
    library.hk_stats_text.argtypes = [pointer, size_t]
    library.hk_blocks_json.restype = size_t
    library.hk_blocks_json.argtypes = [pointer, size_t, ctypes.c_bool]
    library.hk_heap_of.restype, library.hk_heap_of.argtypes = pointer, [pointer]
    if hasattr(library, "hk_python_install"):
        library.hk_python_install.restype, library.hk_python_install.argtypes = chars, []
        library.hk_python_lines.restype, library.hk_python_lines.argtypes = ctypes.py_object, []
        library.hk_python_tracing.restype, library.hk_python_tracing.argtypes = ctypes.py_object, []
    return library


_library, library_path, _preloaded = _open()
_declare(_library)

version = __version__ = _library.hk_version().decode()


_installed = False
_tracing = None


def active():
    """Whether Python's objects are in heapkeeper's heap; with install(), those that were made since."""
    return _installed or (_preloaded and _holds_objects())


def _is_loaded():
    """Under `heapkeeper run`, whoever serves Python there, or installed."""
    return _preloaded or _installed


_NOT_HELD = "heapkeeper is loaded, but Python's objects are not in its heap; `heapkeeper report` says why"


def _holds_objects():
    """Not where PYTHONMALLOC, -X dev or a build of Python keeps another allocator, though we are loaded."""
    probe = object()
    return bool(_library.hk_heap_of(id(probe)))


def install():
    """Put the objects that are made from now on into heapkeeper's heap, in a Python that runs already.

    Takes over what the mem and object domains request up to 512 bytes, as Python's own small-object allocator
    does; anything larger, the raw domain, and blocks from before stay where they are, and each block goes back to
    its owner. There is no way back. Does nothing if the process is on the heap already.

    RuntimeError, and nothing is changed: under `heapkeeper run` where Python was told to use another allocator, under tracemalloc, the debug hooks or another allocator, in a free-threaded or
    debug build, beside an interpreter with its own GIL, or without address space for the heap.
    """
    global _installed
    if active():
        return
    if _preloaded:
        raise RuntimeError("heapkeeper.install(): " + _NOT_HELD)
    if _standard_tracemalloc.is_tracing():
        raise RuntimeError("heapkeeper.install(): tracemalloc is tracing: call tracemalloc.stop() first")
    if not hasattr(_library, "hk_python_install"):
        raise RuntimeError("heapkeeper.install(): %s was not found beside %s" % (_WITH_HOSTS, library_path))
    problem = _library.hk_python_install()
    if problem is not None:
        raise RuntimeError("heapkeeper.install(): " + problem.decode())
    _installed = True


def _text(function, *rest):
    """What a function of the library prints into a buffer. The buffer is not of the heap that is being measured."""
    size = 16384
    while True:
        with mmap.mmap(-1, size) as buffer:
            needed = function(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), size, *rest)
            if needed < size:
                return buffer[:needed].decode("utf-8", "replace")
        size = needed + 4096  # other threads may allocate before it is asked again


def stats():
    """The heap's statistics at this moment, as a dict; all sizes in bytes. They add up to what is mapped."""
    return json.loads(_text(_library.hk_stats_json))


def blocks(arenas=False):
    """The heap at this moment: pools and blocks by state for each heap and size class, as dicts and lists; sizes in bytes.

    The keys are those of ``heapkeeper blocks --json``, without the ones that need a capture: ``total`` and, in ``heaps``, each
    heap's sums with its ``classes``; with `arenas` also every arena with its pools. They add up as those of stats() do.

        >>> [c["allocated"] for heap in heapkeeper.blocks()["heaps"] if heap["name"] == "object"
        ...                 for c in heap["classes"] if c["block_size"] == 32]
        [10466]

    The answer lies in the heap itself once it has been made: the next one counts it. RuntimeError if Python's objects are
    not in heapkeeper's heap.
    """
    if not _is_loaded():
        raise RuntimeError("heapkeeper.blocks(): this process does not run on heapkeeper's heap: start it with "
                           "`heapkeeper run`, or call heapkeeper.install() first")
    if not _holds_objects():
        raise RuntimeError("heapkeeper.blocks(): " + _NOT_HELD)
    text = _text(_library.hk_blocks_json, arenas)
    if not text:
        raise MemoryError("heapkeeper.blocks(): no memory for a map of the heap")
    return json.loads(text)


def getallocatedblocks():
    """What sys.getallocatedblocks() is for: the number of blocks that Python has allocated at this moment.

    sys's own counts only what CPython's allocator holds, and stands still on another heap. Here heapkeeper's blocks,
    large ones included, are added to it; without heapkeeper both are the same.
    """
    figures = stats()
    return sys.getallocatedblocks() + figures["live_blocks"] + figures["large_blocks"] if active() else sys.getallocatedblocks()


def debugmallocstats(file=None):
    """What sys._debugmallocstats() is for: every heap's arenas, pools and blocks, to file (default: sys.stderr)."""
    print(_text(_library.hk_stats_text), end="", file=sys.stderr if file is None else file)


def debug_check():
    """Look at every block that C code could have damaged, under ``heapkeeper run --debug``: their number; 0 without it.

    What is found is reported on stderr, with where the block was allocated and freed, and ends the process (abort).
    """
    return _library.hk_debug_check()


def _tracing_module():
    """The library's functions behind Tracker and heapkeeper.tracemalloc; RuntimeError: this library has none."""
    global _tracing
    if _tracing is None:
        if not hasattr(_library, "hk_python_tracing"):
            raise RuntimeError("heapkeeper: %s was not found beside %s" % (_WITH_HOSTS, library_path))
        _tracing = _library.hk_python_tracing()
    return _tracing


def _lines_module():
    """The library's functions behind heapkeeper.lines; RuntimeError: this library has none."""
    if _installed and not _preloaded:
        raise RuntimeError("heapkeeper: install() came after the program began: lines free what Python's own allocator has from before, too, and it "
                           "does not tell sizes; start the program (or `jupyter lab`) with `heapkeeper run`")
    if not _preloaded or not hasattr(_library, "hk_python_lines"):
        raise RuntimeError("heapkeeper: this process does not run on heapkeeper's heap: start it with `heapkeeper run`")
    return _library.hk_python_lines()


def recording():
    """Whether allocations are being recorded at this moment."""
    return _library.hk_recording()


def _encoded(name, who):
    if not isinstance(name, str):
        raise TypeError("heapkeeper.%s: a name is a str, not %s" % (who, type(name).__name__))
    return name.encode("utf-8", "replace")


def mark(name):
    """Put a named mark on the record's timeline, with every figure of this moment.

    Returns the bytes that the program has asked for since its start, as the mark has them; 0 if nothing is recorded.
    """
    return _library.hk_mark(_encoded(name, "mark"))


class span:
    """A stretch of the program that `heapkeeper plot` is to show, in the thread that begins it.

        with heapkeeper.span("load"):
            rows = load()

        @heapkeeper.span("train")
        def train(): ...

    Both moments are recorded with what lives and the resident size; spans in spans are drawn above one another. Nothing happens if nothing is
    recorded. The longest are kept where there are very many.
    """

    def __init__(self, name):
        self.name = name
        self._encoded = _encoded(name, "span")
        self._begun = []

    def __enter__(self):
        self._begun.append(_library.hk_span_begin(self._encoded))
        return self

    def __exit__(self, *exception):
        _library.hk_span_end(self._begun.pop())

    def __call__(self, function):
        if inspect.iscoroutinefunction(function):
            @functools.wraps(function)
            async def spanned(*arguments, **names):
                with span(self.name):
                    return await function(*arguments, **names)
        else:
            must_run_when_called(function, "heapkeeper.span")

            @functools.wraps(function)
            def spanned(*arguments, **names):
                with span(self.name):
                    return function(*arguments, **names)
        return spanned

    def __repr__(self):
        return "<heapkeeper.span %r>" % self.name


def load_ipython_extension(ip):
    """%load_ext heapkeeper: the magics %heapkeeper, %mprun and %memit."""
    from . import magics

    magics.load_ipython_extension(ip)
