"""heapkeeper's mprof under the name of memory_profiler's; see memory_profiler.py beside it."""

import sys

import memory_profiler  # noqa: F401  (which finds the package)
from heapkeeper import mprof

if __name__ == "__main__":
    sys.exit(mprof.main())
sys.modules[__name__] = mprof
