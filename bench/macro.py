#!/usr/bin/env python3
"""Macro benchmark: thirteen Python programs on our heap, next to the interpreter's own and to peers.

    python3 bench/macro.py [--python P]... [--rounds N] [--workloads A,B] [--modes A,B] [--json FILE]
    python3 bench/macro.py --memory            peak resident sizes instead of times
    python3 bench/macro.py --chroot DIR ...    the interpreters of another system (needs root)

In each round every workload (in shuffled order) is run once in every mode (in shuffled order), each in a
fresh process: `workloads.py NAME` calls it three times. Measured are the CPU seconds (user + system) of
those calls, of the whole process from exec to exit, and the peak resident size (VmHWM). A figure is the
median over the rounds of the ratio to `stock` in the same round. The hash seed is the round's number, the
same for every mode.

Modes:
    stock       the interpreter's own allocator
    again       stock once more: how far from 1.00 this is, is the machine's noise
    heapkeeper  heapkeeper run --no-record
    recording   heapkeeper run --sample -o /dev/null
    guide       heapkeeper run --no-record --geometry guide: arenas of 256 KiB, pools of 4 KiB, classes every 8 bytes
    mimalloc, jemalloc, tcmalloc, glibc    PYTHONMALLOC=malloc, the library preloaded
    hook        stock behind functions that only delegate: the floor for any replacement (PEP 445)
    tracemalloc stock with -X tracemalloc=25
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys

import common
from common import Failed, Ratios
from workloads import WORKLOADS

DEFAULT_MODES = ("stock", "again", "heapkeeper", "recording", "guide", "mimalloc", "jemalloc")
OTHER_MODES = ("tcmalloc", "glibc", "hook", "tracemalloc")
OPTIONS = {  # of heapkeeper run
    "heapkeeper": ["--no-record"],
    "recording": ["--sample", "-o", "/dev/null"],
    "guide": ["--no-record", "--geometry", "guide"],
}
SLOWER = 1.03  # a row of ours whose whole interval lies above this is flagged
GOALS = {"heapkeeper": 0.95, "recording": 1.00}
LARGE_KIB = 64 * 1024  # from this peak on a workload's memory is judged by ratio, below it by difference
FRESH_MIB = {"build2m": 256}  # free memory to have ready before a run, at scale 1; others: 64
STARTUP_KIB = {"heapkeeper": 1024, "recording": 3072}

# Reads its own peak with next to no allocation of its own; everything else is `-c pass`.
STARTUP = "import posix; posix.write(1, posix.read(posix.open('/proc/self/status', 0), 4096))"


class Mode:
    """How a Python command line is turned into one that runs on a given allocator."""

    def __init__(self, name, python, root):
        self.name = name
        self.python = python
        self.prefix = ["chroot", root] if root else []
        self.environment = {}
        self.front = []
        self.flags = []
        self.problem = None  # why the mode cannot run here
        if name in OPTIONS:
            command = common.heapkeeper()
            if command is None:
                self.problem = "%s/heapkeeper does not exist; run make" % common.build_dir()
            self.front = [command or "", "run", *OPTIONS[name]]
        elif name == "tracemalloc":
            self.flags = ["-X", "tracemalloc=25"]
        elif name == "hook":
            library, self.problem = common.hook_library()
            self.environment["LD_PRELOAD"] = library or ""
        elif name == "glibc":
            self.environment["PYTHONMALLOC"] = "malloc"
        elif name in common.PEERS:
            library = common.peer_library(name, root)
            if library is None:
                self.problem = common.missing_peer(name, root)
            self.environment.update(PYTHONMALLOC="malloc", LD_PRELOAD=library or "")

    def run(self, arguments, seed):
        """Runs the interpreter with `arguments`; the preload reaches only the interpreter itself."""
        environment = common.clean_environment()
        environment["PYTHONHASHSEED"] = str(seed)
        setting = ["env"] + ["%s=%s" % pair for pair in sorted(self.environment.items())]
        command = [*self.prefix, *(setting if self.environment else []), *self.front, self.python,
                   *self.flags, *arguments]
        return common.run(command, environment)

    def workload(self, name, scale, repeat, seed):
        """One process of one workload: what it printed, plus the whole process's CPU seconds."""
        script = os.path.join(common.BENCH, "workloads.py")
        outcome = self.run([script, name, "--scale", repr(scale), "--repeat", str(repeat)], seed)
        result = json.loads(outcome.output)
        calls = [user + system for user, system in zip(result["user"], result["system"])]
        result.update(loop=sum(calls), best=min(calls), process=outcome.seconds)
        return result

    def check(self, result):
        """Says why the allocator in charge is not the one this mode is named after, or None."""
        wanted = "heapkeeper" if self.name in OPTIONS else self.name
        if wanted in common.PEERS or wanted == "heapkeeper":
            if result["preloads"] != [wanted]:
                return "the library is not mapped into the interpreter (mapped: %s)" % result["preloads"]
        elif result["preloads"]:
            return "an allocator is preloaded: %s" % result["preloads"]
        if self.environment.get("PYTHONMALLOC") and result["pymalloc_blocks"]:
            return "pymalloc still serves %d blocks" % result["pymalloc_blocks"]
        return None

    def startup_kib(self, seed):
        for line in self.run(["-c", STARTUP], seed).output.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
        raise Failed("no VmHWM in /proc/self/status")


# ------------------------------------------------------------------------------------ measuring


def prepare(names, python, root):
    """The modes that can run, checked by running one small workload in each; and notes on the others."""
    modes, notes = [], []
    for name in names:
        mode = Mode(name, python, root)
        if mode.problem is None:
            try:
                mode.problem = mode.check(mode.workload("int", 0.1, 1, 0))
            except Failed as failure:
                mode.problem = str(failure)
        if mode.problem:
            if name == "stock":
                common.refuse("stock Python does not run: %s" % mode.problem, 1)
            notes.append("skipped: %-10s %s" % (name, mode.problem))
        else:
            modes.append(mode)
    return modes, notes


def measure(modes, workloads, scales, rounds, repeat, settle):
    """results[row][mode name] = one measurement a round (None where there is none); and the failures.
    Interrupted, it returns what there is."""
    shuffle = random.Random(0)
    rows = [(name, scale) for scale in scales for name in workloads]
    results = {row: {mode.name: [None] * rounds for mode in modes} for row in rows}
    failures = []
    try:
        for number in range(rounds):
            for row in shuffle.sample(rows, len(rows)):
                common.progress("round %d of %d: %s" % (number + 1, rounds, row[0]))
                measure_row(shuffle.sample(modes, len(modes)), row, number, repeat, settle, results[row], failures)
    except KeyboardInterrupt:
        failures.append("interrupted; the figures are those of the rounds before")
    common.progress("")
    return results, failures


def measure_row(modes, row, number, repeat, settle, runs, failures):
    """One workload in every mode, one after the other."""
    checksum = None
    for mode in modes:
        try:
            if settle:
                common.settle(max(4, int(FRESH_MIB.get(row[0], 64) * row[1])))
            result = mode.workload(row[0], row[1], repeat, number)
        except Failed as failure:
            failures.append("%s in mode %s: %s" % (row[0], mode.name, failure))
            continue
        if checksum is not None and result["checksum"] != checksum:
            failures.append("%s in mode %s: checksum differs" % (row[0], mode.name))
            continue
        checksum = result["checksum"]
        runs[mode.name][number] = result


def ratios(results, mode, base, key):
    """Paired ratios of `key`, mode to base, per row."""
    table = {}
    for row, runs in results.items():
        pairs = zip(runs[mode], runs[base])
        table[row[0] if row[1] == 1.0 else "%s x%g" % row] = [
            one[key] / two[key] if one and two and two[key] else None for one, two in pairs]
    return Ratios(table)


# ------------------------------------------------------------------------------------ reporting


def cell(median, interval=None, flag=""):
    if median is None:
        return "%-22s" % "-"
    bounds = " [%.2f, %.2f]" % interval if interval else ""
    return "%-22s" % ("%.3f%s%s" % (median, bounds, flag))


def report_times(results, modes):
    """Prints the table of ratios; returns the figures for --json and the list of goals missed."""
    names = [mode.name for mode in modes if mode.name != "stock"]
    figures, missed = {}, []
    print("%-12s%9s  %s" % ("CPU, ratio", "stock s", "".join("%-22s" % name for name in names)))
    tables = {name: ratios(results, name, "stock", "loop") for name in names}
    for name in names:
        figures[name] = {"rows": {}}
    for row, runs in results.items():
        label = row[0] if row[1] == 1.0 else "%s x%g" % row
        stock = [run["loop"] for run in runs["stock"] if run]
        line = "%-12s%9.3f  " % (label, statistics.median(stock) if stock else float("nan"))
        for name in names:
            table = tables[name]
            if label not in table.rows:
                line += cell(None)
                continue
            median, interval = table.median(label), table.interval(label)
            slow = interval[0] > SLOWER and table.count(label) >= 3  # an interval of fewer says nothing
            line += cell(median, interval, " !" if slow else "")
            figures[name]["rows"][label] = {"median": median, "interval": interval}
            if slow and name in GOALS:
                missed.append("%s: %s is slower than stock, 95 %% interval [%.3f, %.3f]" % (name, label, *interval))
        print(line.rstrip())
    for title, key in (("geomean", "loop"), ("  best call", "best"), ("  process", "process"), ("  peak RSS", "peak_kib")):
        line = "%-12s%9s  " % (title, "")
        for name in names:
            table = ratios(results, name, "stock", key)
            middle, interval = table.geomean(), table.geomean_interval()
            figures[name][key] = {"geomean": middle, "interval": interval}
            line += cell(middle, interval)
        print(line.rstrip())
    for name in GOALS:
        if name not in figures:
            continue
        reached = figures[name]["loop"]["geomean"]
        if reached > GOALS[name]:
            missed.append("%s: geomean %.3f, goal %.2f" % (name, reached, GOALS[name]))
        for peer in common.PEERS:
            if peer in figures:
                against = ratios(results, name, peer, "loop")
                middle, interval = against.geomean(), against.geomean_interval()
                figures[name]["against_" + peer] = {"geomean": middle, "interval": interval}
                print("%s / %s: %.3f [%.3f, %.3f]" % (name, peer, middle, *interval))
                if name == "heapkeeper" and middle >= 1:
                    missed.append("heapkeeper is not ahead of %s (%.3f)" % (peer, middle))
    if "again" in figures:
        rows = [abs(row["median"] - 1) for row in figures["again"]["rows"].values()]
        if rows:
            print("noise (stock against itself): geomean off by %.1f %%, the worst row by %.1f %%" % (
                100 * abs(figures["again"]["loop"]["geomean"] - 1), 100 * max(rows)))
    return figures, missed


def median_peak(runs):
    peaks = [run["peak_kib"] for run in runs if run and run["peak_kib"]]
    return statistics.median(peaks) if peaks else None


def report_memory(results, modes, startup):
    """Prints peak resident sizes: ratio for large programs, difference for small ones."""
    names = [mode.name for mode in modes if mode.name != "stock"]
    figures, missed = {name: {"rows": {}} for name in names}, []
    large = {name: [] for name in names}
    small = {name: [] for name in names}
    print("%-14s%10s  %s" % ("peak RSS", "stock MiB", "".join("%-22s" % name for name in names)))

    def line(label, stock, peaks):
        text = "%-14s%10.1f  " % (label, stock / 1024)
        for name in names:
            peak = peaks.get(name)
            if peak is None:
                text += "%-22s" % "-"
                continue
            figures[name]["rows"][label] = {"stock_kib": stock, "kib": peak}
            text += "%-22s" % ("%+.2f MiB  %.3f" % ((peak - stock) / 1024, peak / stock))
        print(text.rstrip())

    medians = {name: statistics.median(values) for name, values in startup.items() if values}
    line("-c pass", medians["stock"], medians)
    for name, bound in STARTUP_KIB.items():
        if name in medians and medians[name] - medians["stock"] > bound:
            missed.append("%s: start-up takes %+.2f MiB, goal +%d" % (
                name, (medians[name] - medians["stock"]) / 1024, bound // 1024))
    for row, runs in results.items():
        label = row[0] if row[1] == 1.0 else "%s x%g" % row
        stock = median_peak(runs["stock"])
        if stock is None:
            print("%-14s no VmHWM (is /proc mounted?)" % label)
            continue
        peaks = {name: median_peak(runs[name]) for name in names}
        line(label, stock, peaks)
        for name, peak in peaks.items():
            if peak is not None:
                if stock >= LARGE_KIB:
                    large[name].append(peak / stock)
                else:
                    small[name].append((peak - stock, label))
    text = {">= 64 MiB": "geomean", "< 64 MiB": "worst"}
    for title in text:
        out = "%-14s%10s  " % (title, text[title])
        for name in names:
            if title == ">= 64 MiB":
                middle = common.geomean(large[name])
                figures[name]["large_geomean"] = middle
                out += "%-22s" % ("%.3f" % middle)
                if name == "heapkeeper" and middle > 1.03:
                    missed.append("heapkeeper: peak RSS of large programs %.3f, goal 1.03" % middle)
            else:
                worst = max(small[name], default=(0, "-"))
                figures[name]["small_worst_kib"] = worst[0]
                out += "%-22s" % ("%+.2f MiB %s" % (worst[0] / 1024, worst[1]))
                if name == "heapkeeper" and worst[0] > 1024:
                    missed.append("heapkeeper: %s takes %+.2f MiB, goal +1" % (worst[1], worst[0] / 1024))
        print(out.rstrip())
    return figures, missed


def bench_python(python, options):
    """All of it for one interpreter; returns what goes into --json and the goals missed."""
    build = common.python_build(python, ["chroot", options.chroot] if options.chroot else [])
    print("\nPython %s  %s%s  (%s)" % (build["version"], options.chroot, python, build["kind"]))
    modes, notes = prepare(options.modes, python, options.chroot)
    for note in notes:
        print(note, flush=True)
    startup = {mode.name: [] for mode in modes}
    if options.memory:
        for number in range(max(options.rounds, 5)):
            for mode in modes:
                startup[mode.name].append(mode.startup_kib(number))
    repeat = 1 if options.memory else options.repeat
    results, failures = measure(
        modes, options.workloads, options.scale, options.rounds, repeat, not (options.memory or options.cold))
    if options.memory:
        figures, missed = report_memory(results, modes, startup)
    else:
        print("%d rounds, %d calls a process, median ratio to stock [95 %% interval], ! = above %.2f" % (
            options.rounds, repeat, SLOWER))
        figures, missed = report_times(results, modes)
    if not options.memory:
        print(common.settled_note())
    for failure in failures:
        print("FAILED " + failure)
    for miss in missed:
        print("missed  " + miss)
    raw = {"%s x%g" % row: runs for row, runs in results.items()}
    return {"build": build, "figures": figures, "startup_kib": startup, "skipped": notes, "failures": failures,
            "missed": missed, "runs": raw}, bool(missed or failures)


# ----------------------------------------------------------------------------------- command line


def enter_namespace(root):
    """Starts over in a mount namespace where `root` has /proc, /sys, /dev, /tmp and this tree at its path."""
    if os.environ.get("HEAPKEEPER_BENCH_MOUNTED") == root:
        return
    if os.geteuid() != 0:
        common.refuse("--chroot needs root; or run this script inside the chroot")
    script = (
        'for d in proc sys dev tmp; do mount --rbind "/$d" "$1/$d" || exit 1; done; '
        'mkdir -p "$1$2" && mount --bind "$2" "$1$2" || exit 1; shift 2; exec "$@"')
    os.environ["HEAPKEEPER_BENCH_MOUNTED"] = root
    command = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, "sh", root, common.TREE,
               sys.executable, os.path.abspath(__file__), *sys.argv[1:]]
    os.execvp(command[0], command)


def main():
    parser = argparse.ArgumentParser(
        description="Ratios of CPU time and peak memory to stock Python.",
        epilog="modes: %s; and on request: %s" % (" ".join(DEFAULT_MODES), " ".join(OTHER_MODES)))
    parser.add_argument("--python", action="append", help="an interpreter (repeatable; default: python3 on PATH)")
    parser.add_argument("--rounds", type=int, help="default 9 (5 with --memory)")
    parser.add_argument("--repeat", type=int, default=3, help="calls of a workload in one process, default 3")
    parser.add_argument("--scale", type=float, action="append", help="default 1 (1 and 4 with --memory)")
    parser.add_argument("--workloads", type=common.words(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--modes", type=common.words(DEFAULT_MODES + OTHER_MODES), default=list(DEFAULT_MODES))
    parser.add_argument("--memory", action="store_true", help="peak resident sizes instead of times")
    parser.add_argument("--chroot", default="", metavar="DIR", help="the interpreters are inside DIR")
    parser.add_argument("--cold", action="store_true", help="do not see to it that free memory is there (common.settle)")
    parser.add_argument("--check", action="store_true", help="exit 1 if a goal is missed")
    parser.add_argument("--json", metavar="FILE", help="every measurement, to FILE")
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 5 if options.memory else 9
    if options.rounds < 1 or options.repeat < 1:
        parser.error("--rounds and --repeat must be at least 1")
    options.scale = options.scale or ([1.0, 4.0] if options.memory else [1.0])
    if "stock" not in options.modes:
        options.modes.insert(0, "stock")
    if options.chroot:
        options.chroot = os.path.abspath(options.chroot)
        enter_namespace(options.chroot)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(common.machine(), flush=True)
    pythons, bad, everything = options.python or ["python3"], False, []
    for python in pythons:
        try:
            result, missed = bench_python(python, options)
        except (Failed, OSError) as failure:
            common.refuse("%s cannot be measured: %s" % (python, failure), 1)
        everything.append(result)
        bad = bad or missed
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": common.machine(), "pythons": everything}, file, indent=1)
    sys.exit(1 if bad and options.check else 0)


if __name__ == "__main__":
    main()
