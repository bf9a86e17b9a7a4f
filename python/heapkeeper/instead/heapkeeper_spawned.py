"""The main module of a program under memory_profiler, in a process that multiprocessing has started anew (spawn, forkserver): such a
process runs the script once more, for its functions, and there the script's `@profile` is to be known. Nothing is measured here."""

import builtins
import contextlib
import io
import os
import sys


class _Nothing:
    """In the place of a profiler whose results nobody would see."""

    def __call__(self, func=None, **options):
        return self if func is None else func

    def timestamp(self, name="<block>"):
        return contextlib.nullcontext()

    def __enter__(self):
        pass

    def __exit__(self, *exception):
        pass

    enable = disable = enable_by_count = disable_by_count = __enter__


if __name__ == "__mp_main__":
    builtins.profile = _Nothing()
    __file__ = os.environ["HEAPKEEPER_SCRIPT"]  # memory_profiler.exec_with_profiler set it; runpy has put its own into sys.argv
    sys.argv[0] = __file__
    with io.open_code(__file__) as _script:
        exec(compile(_script.read(), __file__, "exec"))
