#!/usr/bin/env python3
"""What a record of every block takes and how fast it is read: memory for each live block, the capture's size, a snapshot by line.

    python3 bench/stacks.py [--python P] [--runs N] [--programs few,many] [--without-tracemalloc] [--json FILE] [--check]

Two programs (stacks_programs.py) that keep their blocks and then wait:

    few     1 000 000 blocks from ten lines
    many    2 100 000 blocks from 700 000 different stacks: six calls deep, ten lines in each, three blocks from each

Each runs without a record, with one (`heapkeeper run --exact`; many with --bound 256M) and under tracemalloc. Printed are

    bytes a block      resident size with the record, less that without, for each live block: words beside the blocks, tables, capture
    capture            what the capture takes on its file system
    snapshot by line   of the running process: `heapkeeper table --json PID`, the whole command, its output thrown away; and
                       tracemalloc.take_snapshot().statistics("lineno") in the process. The median of N, and the least of their CPU
                       time: the command is one thread, so on an idle machine they are the same, and what else runs only adds to it

Goals (--check): 12 bytes a block, 50 ms of CPU time; of many 90 bytes, 160 MiB, 200 ms.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import common

GOALS = {"few": {"bytes a block": 12, "snapshot, CPU ms": 50},
         "many": {"bytes a block": 90, "capture, MiB": 160, "snapshot, CPU ms": 200}}
BLOCKS = {"few": 1_000_000, "many": 2_100_000}
PATHS = 700_000
OPTIONS = {"few": [], "many": ["--bound", "256M"]}
FRAMES = {"few": 1, "many": 25}  # tracemalloc's

# ------------------------------------------------------------------------------------------- measuring


class Running:
    def __init__(self, words):
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=common.clean_environment())
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise common.Failed("%s: status %s" % (" ".join(words), self.process.returncode))
        self.said = json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.process.stdin.close()
        self.process.wait()


def snapshots(pid, runs):
    """The median of the command's wall time and the least of its CPU time, seconds; and its rows."""
    wall, cpu, document = [], [], None
    for _ in range(runs):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        with tempfile.TemporaryFile() as output:
            subprocess.run([common.heapkeeper(), "table", "--json", str(pid)], stdout=output, check=True)
            wall.append(time.perf_counter() - began)
            output.seek(0)
            document = document or json.load(output)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(wall), min(cpu), document


def measure(name, python, runs, with_tracemalloc):
    script = [python, "-S", os.path.join(common.BENCH, "stacks_programs.py"), name]  # what an installation's .pth files import has sites, too
    run = [common.heapkeeper(), "run", "-q"]
    found = {"blocks": BLOCKS[name]}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        with Running([*run, "--no-record", "-o", os.path.join(directory, "none"), *script]) as plain:
            found["stock seconds"] = plain.said["seconds"]
        capture = os.path.join(directory, "capture")
        with Running([*run, "--exact", *OPTIONS[name], "-o", capture, *script]) as recorded:
            wall, cpu, document = snapshots(recorded.process.pid, runs)
            found.update({"bytes a block": (recorded.said["resident"] - plain.said["resident"]) / BLOCKS[name],
                          "capture, MiB": os.stat(capture).st_blocks * 512 / 2 ** 20, "snapshot, ms": 1000 * wall,
                          "snapshot, CPU ms": 1000 * cpu, "seconds": recorded.said["seconds"]})
        ours = [row for row in document["rows"] if (row.get("file") or "").endswith(name + ".py") and row["live_blocks"] >= BLOCKS[name] // 20]
        found["sites"] = sum(row["sites"] for row in document["rows"])
        if sum(row["live_blocks"] for row in ours) < 0.999 * BLOCKS[name]: # some from free lists
            raise common.Failed("%s: %d of its blocks are in the table" % (name, sum(row["live_blocks"] for row in ours)))
        if name == "many" and sum(row["sites"] for row in ours) < 0.999 * PATHS:
            raise common.Failed("many: %d sites: stacks were cut" % sum(row["sites"] for row in ours))
    if with_tracemalloc:
        for frames in sorted({1, FRAMES[name]}):
            with Running([*script, str(frames)]) as traced, Running([*script]) as stock:
                found["tracemalloc(%d)" % frames] = {
                    "bytes a block": (traced.said["resident"] - stock.said["resident"]) / BLOCKS[name], "snapshot, ms": 1000 * traced.said["wall"],
                    "snapshot, CPU ms": 1000 * traced.said["cpu"], "seconds": traced.said["seconds"]}
    return found


def show(name, found):
    print("%s: %s blocks, %s sites" % (name, format(found["blocks"], ","), format(found["sites"], ",")))
    for title, row in [("heapkeeper", found)] + [(key, value) for key, value in found.items() if key.startswith("tracemalloc")]:
        print("    %-16s %6.1f bytes a block   snapshot by line %7.0f ms (CPU %.0f ms)%s   ran %.1f s (stock %.1f)" % (
            title, row["bytes a block"], row["snapshot, ms"], row["snapshot, CPU ms"],
            "   capture %.1f MiB" % row["capture, MiB"] if "capture, MiB" in row else "", row["seconds"], found["stock seconds"]))
    good = True
    for what, goal in GOALS[name].items():
        good &= found[what] <= goal
        print("    %-7s %s: %.1f, goal <= %g" % ("met" if found[what] <= goal else "MISSED", what, found[what], goal))
    return good


def main():
    parser = argparse.ArgumentParser(description="What a record of every block takes, and how fast it is read.")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--programs", type=common.words(list(GOALS)), default=list(GOALS))
    parser.add_argument("--without-tracemalloc", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a goal is missed")
    options = parser.parse_args()
    if common.heapkeeper() is None:
        common.refuse("%s/heapkeeper does not exist; run make" % common.build_dir())
    build = common.python_build(options.python)
    print(common.machine())
    print("Python %s (%s)" % (build["version"], build["kind"]))
    results, good = {}, True
    for name in options.programs:
        results[name] = measure(name, options.python, options.runs, not options.without_tracemalloc)
        good &= show(name, results[name])
    print("load at the end: %.1f" % os.getloadavg()[0])
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
    sys.exit(1 if options.check and not good else 0)


if __name__ == "__main__":
    main()
