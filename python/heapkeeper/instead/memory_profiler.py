"""heapkeeper's memory_profiler under the name of the package that it stands in for.

This directory is on the path of programs that run under `heapkeeper run --memory-profiler`, also of Pythons in which heapkeeper is
not installed: the package is loaded from where this file lies.
"""

import importlib.util
import os
import sys


def heapkeeper():
    """The package, of which this directory is a part."""
    if "heapkeeper" not in sys.modules:
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        spec = importlib.util.spec_from_file_location("heapkeeper", os.path.join(package, "__init__.py"), submodule_search_locations=[package])
        sys.modules["heapkeeper"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["heapkeeper"])
    return sys.modules["heapkeeper"]


heapkeeper()
from heapkeeper import memory_profiler  # noqa: E402

if __name__ == "__main__":
    sys.exit(memory_profiler.main())
sys.modules[__name__] = memory_profiler
