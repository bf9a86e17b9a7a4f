#!/usr/bin/env python3
"""What it costs to record every block, beside others who do: ratios of CPU time to the same Python without any of them.

    python3 bench/exact.py [--python P] [--rounds N] [--workloads A,B] [--modes A,B] [--venv DIR] [--json FILE] [--check]

In each round every workload of exact_workloads.py (in shuffled order) runs once in every mode (in shuffled order), each in
a process of its own: once to warm up, then --repeat times (the slow ones once). A process's figure is the median of the
CPU seconds of these calls, with all threads, without start and end; a ratio is taken to `stock` in the same round, and what is printed is
the median over the rounds. The hash seed is the round's number.

Modes:
    stock          the interpreter as it is
    again          stock once more: how far from 1.00 this is, is the machine's noise
    exact          heapkeeper run --exact: every block, whole stacks, counters in the file
    exact-native   heapkeeper run --exact --native: malloc's blocks, too
    sample         heapkeeper run --sample: one block in 512 KiB, whole stacks
    sample-native  heapkeeper run --sample --native
    tracemalloc1   tracemalloc.start(1): every block, the innermost frame
    tracemalloc25  tracemalloc.start(25)
    memray         memray run: every request of the allocators under Python's, whole stacks, a log of events
    memray-python  memray run --trace-python-allocators: what exact records
    scalene        scalene run: CPU and memory, sampled

memray and scalene come from PyPI into a virtual environment, which is kept: --venv, default
~/.cache/heapkeeper/venvs/bench-VERSION. Where that fails their rows are left out and named.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile

import common
from common import Failed, Ratios, geomean
from exact_workloads import PROGRAMS, WORKLOADS

MODES = ("stock", "again", "exact", "exact-native", "sample", "sample-native", "tracemalloc1", "tracemalloc25", "memray", "memray-python", "scalene")
OURS = ("exact", "exact-native", "sample", "sample-native")
PEERS = {"memray": "memray", "memray-python": "memray", "scalene": "scalene"}
SLOW = ("tracemalloc1", "tracemalloc25", "memray-python")
IDLE = ("fib",)  # hardly allocates: no lead can be had there
GEOMEAN, WORST, DEEP, LEAD = 1.30, 1.90, 1.60, 4.0  # goals: of exact; tracemalloc25 / exact, the smallest
REALISTIC = 1.40  # of the program that is no workload
FRESH_MIB = (64, 512)  # free memory to have ready before a workload, a program; see common.settle
SCRIPT = os.path.join(common.BENCH, "exact_workloads.py")


def python_beside_peers(python, directory):
    """(the interpreter of the environment, {peer: version}); makes the environment if it is not there."""
    version = common.python_build(python)["version"]
    directory = directory or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
                                          "heapkeeper", "venvs", "bench-" + version)
    inside = os.path.join(directory, "bin", "python3")
    if not os.access(inside, os.X_OK):
        made = subprocess.run([python, "-m", "venv", directory], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if made.returncode:
            return python, {}
        for peer in sorted(set(PEERS.values())):
            subprocess.run([inside, "-m", "pip", "install", "-q", "--only-binary", ":all:", peer],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    code = """
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try: found[name] = m.version(name)
    except m.PackageNotFoundError: pass
print(json.dumps(found))"""
    return inside, json.loads(common.run([inside, "-c", code, *sorted(set(PEERS.values()))]).output)


def command(mode, python, name, repeat, directory):
    log = os.path.join(directory, "log")
    if os.path.exists(log):
        os.unlink(log)
    words = [name, "--repeat", str(1 if mode in SLOW else repeat)]
    if mode in OURS:
        return [common.heapkeeper(), "run", *("--" + option for option in mode.split("-")), "-o", os.path.join(directory, "capture"), "--force", "--python", python,
                SCRIPT, *words]
    if mode.startswith("tracemalloc"):
        return [python, SCRIPT, *words, "--tracemalloc", mode[len("tracemalloc"):]]
    if mode.startswith("memray"):
        return [python, "-m", "memray", "run", "-f", "-q", "-o", log,
                *(["--trace-python-allocators"] if mode == "memray-python" else []), SCRIPT, *words]
    if mode == "scalene":
        return [python, "-m", "scalene", "run", "-o", log, SCRIPT, "---", *words]
    return [python, SCRIPT, *words]


def measure(mode, python, name, repeat, seed, directory):
    common.settle(FRESH_MIB[name in PROGRAMS])
    environment = dict(common.clean_environment(), PYTHONHASHSEED=str(seed))
    output = common.run(command(mode, python, name, repeat, directory), environment, timeout=600).output
    said = [line for line in output.splitlines() if line.startswith('{"%s"' % name)]
    if len(said) != 1:
        raise Failed("%s, %s: no figures in what it said: %s" % (mode, name, output[-300:]))
    if mode in OURS:
        check_record(mode, os.path.join(directory, "capture"))
    return statistics.median(json.loads(said[0])[name])


def check_record(mode, capture):
    """A program that was not recorded would be fast."""
    text = subprocess.run([common.heapkeeper(), "report", "--color", "never", capture], stdout=subprocess.PIPE,
                          universal_newlines=True).stdout
    os.unlink(capture)
    wanted = " events" if mode.startswith("exact") else " samples"
    if wanted not in text or "no Python stacks" in text:
        raise Failed("%s: not recorded as it should be:\n%s" % (mode, text[:600]))


def rounds(options, python, modes):
    """{mode: {workload: [seconds]}}"""
    seconds = {mode: {name: [] for name in options.workloads} for mode in modes}
    failures = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        for number in range(options.rounds):
            draw = random.Random(number)
            for name in draw.sample(options.workloads, len(options.workloads)):
                for mode in draw.sample(modes, len(modes)):
                    common.progress("round %d, %s, %s" % (number + 1, name, mode))
                    try:
                        value = measure(mode, python, name, options.repeat, number, directory)
                    except Failed as failure:
                        if mode in ("stock", "again", *OURS):
                            common.refuse(str(failure), 1)
                        failures.setdefault((mode, name), str(failure))
                        value = None
                    seconds[mode][name].append(value)
    common.progress("")
    return seconds, failures


def ratios_of(seconds, mode, names=WORKLOADS, base="stock"):
    return Ratios({name: [value and value / stock for value, stock in zip(values, seconds[base][name])]
                   for name, values in seconds[mode].items() if name in names})


def print_table(options, seconds, modes):
    names = options.workloads
    print("%-14s" % "" + "".join("%9s" % name for name in names) + "%9s  %s" % ("geomean", "95 %"))
    print("%-14s" % "stock, ms" + "".join("%9.0f" % (1000 * statistics.median(seconds["stock"][name])) for name in names))
    for mode in modes:
        if mode != "stock":
            print_row(mode, seconds, names, mode, "stock", 2)
    for mode in modes:
        base = mode.split("-")[0]
        if mode.endswith("-native") and base in modes:
            print_row("native: " + base, seconds, names, mode, base, 3)


def print_row(title, seconds, names, mode, base, digits):
    ratios, small = ratios_of(seconds, mode, names, base), ratios_of(seconds, mode, base=base)
    cells = ["%9.*f" % (digits, ratios.median(name)) if name in ratios.rows else "%9s" % "-" for name in names]
    mean = "%9.*f  %.*f to %.*f" % (digits, small.geomean(), digits, small.geomean_interval()[0], digits,
                                    small.geomean_interval()[1]) if small.rows else ""
    print("%-14s" % title + "".join(cells) + mean)


def judge(seconds, version):
    """Prints what is asked of exact; False: missed."""
    ours = ratios_of(seconds, "exact")
    marks = version >= (3, 13)  # earlier the cost grows with the depth
    held = [name for name in ours.rows if marks or name != "deep"]
    rows = {name: ours.median(name) for name in held}
    worst = max(rows, key=rows.get, default="")
    goals = [("geomean" + ("" if marks else " without deep"), geomean(rows.values()), "<=", GEOMEAN),
             ("worst (%s)" % worst, rows[worst], "<=", WORST)] if rows else []
    programs = ratios_of(seconds, "exact", PROGRAMS)
    goals += [(name, programs.median(name), "<=", REALISTIC) for name in programs.rows]
    if "deep" in ours.rows and marks:
        goals.append(("600 frames", ours.median("deep"), "<=", DEEP))
    if "tracemalloc25" in seconds:
        theirs = ratios_of(seconds, "tracemalloc25")
        leads = {name: theirs.median(name) / ours.median(name) for name in held if name in theirs.rows and name not in IDLE}
        if leads:
            least = min(leads, key=leads.get)
            goals.append(("least lead over tracemalloc25 (%s)" % least, leads[least], ">=", LEAD))
    good = True
    for what, value, sign, goal in goals:
        met = value <= goal if sign == "<=" else value >= goal
        good &= met
        print("%-7s exact, %s: %.2f, goal %s %.2f" % ("met" if met else "MISSED", what, value, sign, goal))
    if not marks and "deep" in ours.rows:
        print("        exact, 600 frames: %.1f; before 3.13 it grows with the depth" % ours.median("deep"))
    return good


def main():
    parser = argparse.ArgumentParser(description="What exact recording costs, beside others.")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--venv", metavar="DIR", help="with memray and scalene; made if it is not there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3, help="timed calls in a process")
    parser.add_argument("--workloads", type=common.words([*WORKLOADS, *PROGRAMS]), default=[*WORKLOADS, *PROGRAMS])
    parser.add_argument("--modes", type=common.words(MODES), default=list(MODES))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a goal is missed")
    options = parser.parse_args()
    if common.heapkeeper() is None:
        common.refuse("%s/heapkeeper does not exist; run make" % common.build_dir())
    python, peers = options.python, {}
    if any(mode in PEERS for mode in options.modes):
        python, peers = python_beside_peers(options.python, options.venv)
    modes = [mode for mode in MODES if mode == "stock" or mode in options.modes and PEERS.get(mode, "") in ("", *peers)]
    build = common.python_build(python)
    print(common.machine())
    print("Python %s (%s), %d rounds%s" % (build["version"], build["kind"], options.rounds,
                                           "".join(", %s %s" % peer for peer in sorted(peers.items()))))
    for mode in options.modes:
        if mode not in modes:
            print("left out: %s (%s cannot be installed here)" % (mode, PEERS[mode]))
    seconds, failures = rounds(options, python, modes)
    print_table(options, seconds, modes)
    for (mode, name), text in failures.items():
        print("failed: %s, %s: %s" % (mode, name, text.splitlines()[-1][:150]))
    good = "exact" not in modes or judge(seconds, tuple(map(int, build["version"].split(".")[:2])))
    print(common.settled_note())
    print("load at the end: %.1f" % os.getloadavg()[0])
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"build": build, "peers": peers, "seconds": seconds}, file, indent=1)
    sys.exit(1 if options.check and not good else 0)


if __name__ == "__main__":
    main()
