#!/usr/bin/env python3
"""What a record takes on disk of a program that allocates for a long time, beside memray's logs.

    python3 bench/hours.py [--python P] [--minutes M] [--peer-minutes M] [--venv DIR] [--json FILE] [--check]

The program calls the workloads of exact_workloads.py in turn, whole rounds of them, until its time is over; it runs under `heapkeeper run --exact`
for --minutes (30) and, beside it, under memray and memray --trace-python-allocators for --peer-minutes (3: a log of every event
grows with each of them). A file's size does not depend on how fast the machine is but by the rounds that are done, which are
printed; so are the bytes that a round adds. Of ours both sizes are given: while the program runs, and packed at its end.

Goal (--check): 32 MiB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import common
from exact import python_beside_peers

GOAL = 32  # MiB
SCRIPT = os.path.join(common.BENCH, "exact_workloads.py")


def size(path):
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


class Tool:
    """A program that runs for its minutes; the largest size that its file had before its end."""

    def __init__(self, name, words, path, minutes):
        self.name, self.path, self.minutes, self.largest = name, path, minutes, 0
        self.process = subprocess.Popen([*words, SCRIPT, "--minutes", str(minutes)], stdout=subprocess.PIPE, universal_newlines=True,
                                        env=common.clean_environment())

    def look(self):
        """False: it has ended."""
        self.largest = max(self.largest, size(self.path))
        return self.process.poll() is None

    def result(self):
        lines = [line for line in self.process.communicate()[0].splitlines() if line.startswith('{"rounds"')]
        if self.process.returncode or len(lines) != 1:
            raise common.Failed("%s: status %s" % (self.name, self.process.returncode))
        return {"rounds": json.loads(lines[0])["rounds"], "minutes": self.minutes, "running": self.largest, "file": size(self.path)}


def main():
    parser = argparse.ArgumentParser(description="What the record of a long run takes on disk.")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--venv", metavar="DIR", help="with memray; made if it is not there")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--peer-minutes", type=float, default=3)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="exit status 1 if the goal is missed")
    options = parser.parse_args()
    if common.heapkeeper() is None:
        common.refuse("%s/heapkeeper does not exist; run make" % common.build_dir())
    python, peers = python_beside_peers(options.python, options.venv)
    print("Python %s%s" % (common.python_build(python)["version"], "".join(", %s %s" % peer for peer in sorted(peers.items()) if peer[0] == "memray")))
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        path = {name: os.path.join(directory, name) for name in ("exact", "memray", "memray-python")}
        tools = [Tool("exact", [common.heapkeeper(), "run", "-q", "--exact", "-o", path["exact"], "--python", python], path["exact"], options.minutes)]
        if "memray" in peers:
            memray = [python, "-m", "memray", "run", "-f", "-q", "-o"]
            tools += [Tool("memray", [*memray, path["memray"]], path["memray"], options.peer_minutes),
                      Tool("memray-python", [*memray, path["memray-python"], "--trace-python-allocators"], path["memray-python"], options.peer_minutes)]
        else:
            print("left out: memray (it cannot be installed here)")
        while any([tool.look() for tool in tools]):  # a list: each is looked at
            time.sleep(1)
        for tool in tools:
            results[tool.name] = tool.result()
    print("%-15s%9s%9s%16s%12s%16s" % ("", "minutes", "rounds", "running, MiB", "file, MiB", "a round, KiB"))
    for name, found in results.items():
        print("%-15s%9g%9d%16.1f%12.1f%16.1f" % (name, found["minutes"], found["rounds"], found["running"] / 2 ** 20, found["file"] / 2 ** 20,
                                                found["file"] / 2 ** 10 / found["rounds"]))
    largest = max(results["exact"]["running"], results["exact"]["file"]) / 2 ** 20
    print("%-7s exact, the capture of %g minutes: %.1f MiB, goal <= %d" % ("met" if largest <= GOAL else "MISSED", options.minutes, largest, GOAL))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
    sys.exit(1 if options.check and largest > GOAL else 0)


if __name__ == "__main__":
    main()
