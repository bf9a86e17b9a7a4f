"""heapkeeper: where every byte of this process went.

A thin face of the C library, by ctypes. Under ``heapkeeper run`` the library is in the process already and answers
for it; anywhere else ``active()`` is false and ``stats()`` is about a heap that nobody has used yet.

    >>> import heapkeeper
    >>> heapkeeper.active()
    True
    >>> heapkeeper.mark("warmed up")
    42817536
    >>> heapkeeper.stats()["mapped_bytes"]
    171966464
"""

import ctypes
import json
import os

__all__ = ["active", "library_path", "mark", "recording", "stats", "version"]

_NAME = "libheapkeeper.so"


def _candidates():
    """Where the library may lie, likeliest first: the wheel, a source tree's build directory, the system's."""
    here = os.path.dirname(os.path.abspath(__file__))
    yield os.path.join(here, _NAME)
    build = os.environ.get("HEAPKEEPER_BUILD") or os.path.join(here, "..", "..", "build")
    yield os.path.normpath(os.path.join(build, _NAME))
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
    size_t, chars = ctypes.c_size_t, ctypes.c_char_p
    library.hk_version.restype, library.hk_version.argtypes = chars, []
    library.hk_stats_json.restype = size_t
    library.hk_stats_json.argtypes = [chars, size_t]
    library.hk_mark.restype, library.hk_mark.argtypes = ctypes.c_uint64, [chars]
    library.hk_recording.restype, library.hk_recording.argtypes = ctypes.c_bool, []
    return library


_library, library_path, _preloaded = _open()
_declare(_library)

version = __version__ = _library.hk_version().decode()


def active():
    """Whether this process runs on heapkeeper's heap."""
    return _preloaded


def stats():
    """The heap's statistics at this moment, as a dict; all sizes in bytes. They add up to what is mapped."""
    size = 8192
    while True:
        buffer = ctypes.create_string_buffer(size)
        needed = _library.hk_stats_json(buffer, size)
        if needed < size:
            return json.loads(buffer.value.decode("utf-8", "replace"))
        size = needed + 1


def recording():
    """Whether allocations are being recorded at this moment."""
    return _library.hk_recording()


def mark(name):
    """Put a named mark on the record's timeline, with every figure of this moment.

    Returns the bytes that the program has asked for since its start, as the mark has them; 0 if nothing is recorded.
    """
    return _library.hk_mark(name.encode("utf-8", "replace"))
