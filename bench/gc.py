#!/usr/bin/env python3
"""The runtime's collector: the same programs on heapkeeper's runtime, bdwgc, Lua 5.4 and CPython 3.13.

    python3 bench/gc.py [--rounds N] [--workloads A,B] [--peers A,B] [--python P] [--json FILE] [--check]
    python3 bench/gc.py --costs [--rounds N] [--python P] [--json FILE] [--check]      see gc_costs.py
    python3 bench/gc.py --pauses [--rounds N] [--json FILE] [--check]

The programs are gc/ours.c, gc/bdwgc.c, gc/work.lua and gc/work.py; what they do is described in gc/work.h, and all must
print the same checksum. In each round every workload runs once on every runtime, in shuffled order, each in a
process of its own, which measures its CPU seconds (all threads, without start and end of the process) and its peak
resident size. The table has the median over the rounds of the ratio ours / peer, with its 95 % interval; below 1
we are ahead. `again` is ours against itself: a difference smaller than that is none. Ratios of peak sizes stand under it.

bdwgc is run with its marker threads off (GC_MARKERS=1), which is its best in CPU time; `bdwgc-default` leaves them as they
come. Lua is run with its incremental collector, the default; `lua-generational` with the other.
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
import gc_costs
from common import Failed, Ratios

HERE = os.path.join(common.BENCH, "gc")
OURS = "heapkeeper"
WORKLOADS = ("trees", "trees-acyclic", "gcbench", "strings", "cycles", "cache")
ACYCLIC = ("trees", "trees-acyclic", "gcbench", "strings")
PEERS = ("bdwgc", "lua", "cpython")
MORE_PEERS = ("bdwgc-default", "lua-generational")
# Most a ratio of times may be: where nothing is cyclic, elsewhere, and the geomean of the latter.
GOALS = {"bdwgc": (0.5, 1.25, 1.0), "lua": (1.0, 1.0, 1.0), "cpython": (0.2, 0.2, 0.2)}


def compile_program(source, output, *arguments):
    command = [*os.environ.get("CC", "cc").split(), "-O2", "-std=gnu11", "-D_GNU_SOURCE", source, "-o", output, *arguments]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError as failure:
        return "cannot compile (%s); apt-get install gcc libc6-dev, or set CC" % failure
    except subprocess.CalledProcessError as failure:
        return "cannot compile %s: %s" % (os.path.basename(source), failure.stderr.strip().splitlines()[0])
    return None


class Runtime:
    """How a workload is run on one of them. `missing`: why it cannot be; None: it can."""

    def __init__(self, name, command, environment=None, missing=None, renamed=None):
        self.name = name
        self.command = command
        self.environment = dict(common.clean_environment(), **(environment or {}))
        self.missing = missing
        self.renamed = renamed or {}

    def measure(self, workload):
        """(checksum, CPU seconds, peak kilobytes)."""
        before, after = self.command
        words = common.run([*before, self.renamed.get(workload, workload), *after], self.environment).output.split()
        return words[0], float(words[1]), int(words[2])


def ours(directory, source="ours"):
    library = os.path.join(common.build_dir(), "libheapkeeper.so")
    if not os.path.exists(library):
        return Runtime(OURS, None, missing="%s does not exist; run make" % library)
    program = os.path.join(directory, source)
    why = compile_program(os.path.join(HERE, source + ".c"), program, "-I" + os.path.join(common.TREE, "include"),
                          os.path.abspath(library), "-Wl,-rpath," + os.path.dirname(os.path.abspath(library)))
    return Runtime(OURS, ([program], []), missing=why)


def peers(directory, python):
    """All there are, by name."""
    made = {}
    plain = {"trees-acyclic": "trees"}
    program = os.path.join(directory, "bdwgc")
    why = compile_program(os.path.join(HERE, "bdwgc.c"), program, "-lgc")
    why = why and why + "; apt-get install libgc-dev"
    made["bdwgc"] = Runtime("bdwgc", ([program], []), {"GC_MARKERS": "1"}, why, plain)
    made["bdwgc-default"] = Runtime("bdwgc-default", ([program], []), None, why, plain)
    script = os.path.join(HERE, "work.lua")
    for name, words in (("lua", []), ("lua-generational", ["generational"])):
        made[name] = Runtime(name, (["lua5.4", script], words), None, runs(["lua5.4", "-v"], "apt-get install lua5.4"), plain)
    why = runs([python, "-c", ""], "choose another with --python")
    made["cpython"] = Runtime("cpython", ([python, os.path.join(HERE, "work.py")], []), None, why, plain)
    return made


def runs(command, advice):
    try:
        common.run(command)
    except (OSError, Failed) as failure:
        return "%s (%s)" % (str(failure).splitlines()[0], advice)
    return None


def measure(runtimes, workloads, rounds):
    """seconds and kilobytes, [workload][runtime][round]; ours twice, the second time as `again`."""
    columns = [runtime.name for runtime in runtimes] + ["again"]
    seconds = {workload: {name: [None] * rounds for name in columns} for workload in workloads}
    peaks = {workload: {name: [None] * rounds for name in columns} for workload in workloads}
    sums, failures, shuffle = {}, [], random.Random(0)
    jobs = [(runtime.name, runtime) for runtime in runtimes] + [("again", runtimes[0])]
    for number in range(rounds):
        for workload in shuffle.sample(workloads, len(workloads)):
            for name, runtime in shuffle.sample(jobs, len(jobs)):
                common.progress("round %d of %d: %s, %s" % (number + 1, rounds, workload, name))
                try:
                    checksum, spent, peak = runtime.measure(workload)
                except Failed as failure:
                    failures.append("%s on %s: %s" % (workload, name, failure))
                    continue
                if sums.setdefault(workload, checksum) != checksum:
                    failures.append("%s on %s: checksum %s, not %s" % (workload, name, checksum, sums[workload]))
                seconds[workload][name][number] = spent
                peaks[workload][name][number] = peak
    common.progress("")
    return seconds, peaks, failures


def ratios(table, name):
    return Ratios({workload: [one / two if one and two else None for one, two in zip(row[OURS], row[name])]
                   for workload, row in table.items()})


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else float("nan")


def show(title, unit, table, columns, scale):
    """A table of medians of ours, and of ratios; returns these by peer."""
    print("%-14s%10s   %s / ..." % (title, unit, OURS))
    print(("%-14s%10s   %s" % ("", OURS, "".join("%-20s" % name for name in columns))).rstrip())
    tables = {name: ratios(table, name) for name in columns}
    for workload, row in table.items():
        line = "%-14s%10.3f   " % (workload, median(row[OURS]) / scale)
        for name in columns:
            one = tables[name]
            line += "%-20s" % ("%.2f [%.2f, %.2f]" % (one.median(workload), *one.interval(workload))
                               if workload in one.rows else "-")
        print(line.rstrip())
    for label, chosen in (("not cyclic", ACYCLIC), ("cyclic", [name for name in WORKLOADS if name not in ACYCLIC])):
        if any(workload in chosen for workload in table):
            figures = [common.geomean([tables[name].median(workload) for workload in tables[name].rows if workload in chosen])
                       for name in columns]
            print(("%-14s%10s   %s" % (label, "geomean", "".join("%-20s" % ("%.2f" % figure) for figure in figures))).rstrip())
    return {name: {workload: one.median(workload) for workload in one.rows} for name, one in tables.items()}


def missed(times, peaks):
    """Sentences about goals that were not reached."""
    found = []
    for name, (plain, cyclic, middle) in GOALS.items():
        for workload, ratio in times.get(name, {}).items():
            most = plain if workload in ACYCLIC else cyclic
            if ratio > most:
                found.append("%s: %.2f of %s's time, goal %.2f" % (workload, ratio, name, most))
        those = [ratio for workload, ratio in times.get(name, {}).items() if workload not in ACYCLIC]
        if those and common.geomean(those) > middle:
            found.append("cyclic: geomean %.2f of %s's time, goal %.2f" % (common.geomean(those), name, middle))
    for workload, ratio in peaks.get("bdwgc", {}).items():
        if ratio > 1:
            found.append("%s: %.2f of bdwgc's peak, goal 1.00" % (workload, ratio))
    return found


def costs(options):
    with tempfile.TemporaryDirectory() as directory:
        print(common.machine())
        runtime = ours(directory, "costs")
        if runtime.missing:
            common.refuse(runtime.missing)
        program = os.path.join(directory, "costs_bdwgc")
        no_bdwgc = compile_program(os.path.join(HERE, "costs_bdwgc.c"), program, "-lgc")
        no_python = runs([options.python, "-c", ""], "choose another with --python")
        for name, why in (("bdwgc", no_bdwgc and no_bdwgc + "; apt-get install libgc-dev"), ("cpython", no_python)):
            if why:
                print("left out: %s: %s" % (name, why))
        python = None if no_python else [options.python, os.path.join(HERE, "costs.py")]
        measured = gc_costs.Costs(runtime.command[0], python, None if no_bdwgc else [program], options.rounds)
        result = measured.run()
    finish(options, result["failures"], result["missed"], result)


def pauses(options):
    with tempfile.TemporaryDirectory() as directory:
        print(common.machine())
        runtime = ours(directory, "pauses")
        if runtime.missing:
            common.refuse(runtime.missing)
        result = gc_costs.Pauses(runtime.command[0], None, None, options.rounds).run()
    finish(options, result["failures"], result["missed"], result)


def finish(options, failures, short, everything):
    for failure in failures:
        print("FAILED  " + failure)
    for sentence in short:
        print("missed  " + sentence)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(dict(everything, machine=common.machine()), file, indent=1)
    sys.exit(1 if failures or (options.check and short) else 0)


def main():
    parser = argparse.ArgumentParser(description="The runtime's collector beside bdwgc, Lua and CPython.")
    parser.add_argument("--costs", action="store_true", help="how costs grow, after fork, bytes an object")
    parser.add_argument("--pauses", action="store_true", help="how long a program waits for steps, and for full collections")
    parser.add_argument("--rounds", type=int, help="default: 7; of --costs and --pauses: 3")
    parser.add_argument("--workloads", type=common.words(WORKLOADS), default=list(WORKLOADS), help="default: all")
    parser.add_argument("--peers", type=common.words(PEERS + MORE_PEERS), default=list(PEERS), help="default: " + ",".join(PEERS))
    parser.add_argument("--python", default="python3.13", help="CPython 3.13; default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="every measurement, to FILE")
    parser.add_argument("--check", action="store_true", help="exit 1 if a goal is missed")
    options = parser.parse_args()
    options.rounds = options.rounds if options.rounds is not None else 3 if options.costs or options.pauses else 7
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.costs:
        costs(options)
    if options.pauses:
        pauses(options)

    with tempfile.TemporaryDirectory() as directory:
        print(common.machine())
        runtime, known = ours(directory), peers(directory, options.python)
        if runtime.missing:
            common.refuse(runtime.missing)
        chosen = [runtime]
        for name in options.peers:
            if known[name].missing:
                print("left out: %s: %s" % (name, known[name].missing))
            else:
                chosen.append(known[name])
        seconds, peaks, failures = measure(chosen, options.workloads, options.rounds)
    columns = [one.name for one in chosen[1:]] + ["again"]
    print("%d rounds, medians [95 %% interval]; load now %.1f" % (options.rounds, os.getloadavg()[0]))
    times = show("CPU time", "seconds", seconds, columns, 1)
    print()
    sizes = show("peak size", "MiB", peaks, columns, 1024)
    finish(options, failures, missed(times, sizes), {"seconds": seconds, "kilobytes": peaks, "failures": failures})


if __name__ == "__main__":
    main()
