"""Runs a benchmark of pyperformance as its own script would run, with the process's CPU time for a clock: python pyperf_worker.py SCRIPT [WORDS ...]

What a machine does for others meanwhile, and what a benchmark waits for, is not in the figures then."""

import os
import runpy
import sys
import time

if __name__ == "__main__":
    time.perf_counter = time.process_time
    del sys.argv[0]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
