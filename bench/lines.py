#!/usr/bin/env python3
"""What a line profile costs: CPU time of a function under heapkeeper.LineProfile to the same function without it, beside memory_profiler.

    python3 bench/lines.py [--python P]... [--rounds N] [--venv DIR] [--json FILE] [--check]

In each round each case runs in one process of its own under `heapkeeper run`, which times it bare, profiled, and bare again, in
shuffled order, after all three have been warmed up. A ratio is that of two times of one round; what is printed is the median
over the rounds. `again` is bare to bare: how far it is from 1.00 is the machine's noise.

Cases:
    loop       four lines that allocate, in a loop: nothing but lines
    calls      a function whose lines call much that is not profiled: json, a recursion, a helper
    program    reads records, makes objects of them, sorts, groups, writes JSON; one function of the seven is profiled

`bare to stock` is the loop under heapkeeper run, without a profile, to the same Python alone: what the record itself costs.
memory_profiler, from PyPI in a virtual environment that is kept (--venv), runs the same cases in fewer turns; its ratio is by turn. It is
left out where it cannot be had.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time

CASES = ("loop", "calls", "program")
MODES = ("bare", "profiled", "again")
GOALS = {"loop": lambda version: 1.8 if version >= (3, 12) else 3.0, "program": lambda version: 1.3}


# --- what is measured ---


def loop(turns):
    for i in range(turns):
        a = [i]
        b = a + [i]
        c = b + [i]
        d = (a, b, c)
    return d


def helper(x):
    return [x] * 3


def tree(depth):
    return [tree(depth - 1), tree(depth - 1)] if depth else [1]


DATA = {"a": [1, 2, 3] * 10, "b": {"c": "d" * 20}}


def calls(turns):
    for i in range(turns):
        text = json.dumps(DATA)
        nodes = tree(4)
        for k in range(5):
            held = helper(k)
    return text, nodes, held


class Record:
    def __init__(self, key, name, amount):
        self.key, self.name, self.amount = key, name, amount


def read(turns):
    return ["%d;name-%d;%d" % (i % 97, i % 1009, i * 7 % 1000) for i in range(turns)]


def parse(rows):
    records = []
    for row in rows:
        key, name, amount = row.split(";")
        records.append(Record(int(key), name, int(amount)))
    return records


def order(records):
    return sorted(records, key=lambda r: (r.name, r.amount))


def group(records):
    groups = {}
    for record in records:
        groups.setdefault(record.key, []).append(record)
    return groups


def summarize(groups):
    summary = []
    for key, members in groups.items():
        amounts = [member.amount for member in members]
        total = sum(amounts)
        names = {member.name for member in members}
        summary.append({"key": key, "total": total, "mean": total / len(amounts), "names": len(names)})
    return summary


def write(summary):
    return json.dumps(summary)


def program(turns):
    return write(summarize(group(order(parse(read(turns))))))


TURNS = {"loop": 100000, "calls": 2000, "program": 40000}
PROFILED = {"loop": loop, "calls": calls, "program": summarize}
FUNCTIONS = {"loop": loop, "calls": calls, "program": program}
FEWER = {"loop": 500, "calls": 20, "program": 40}  # memory_profiler's turns are so many times fewer


def clocked(function, turns):
    begin = time.process_time()
    function(turns)
    return (time.process_time() - begin) / turns


def child(case, seed):
    import heapkeeper

    function, turns, draw = FUNCTIONS[case], TURNS[case], random.Random(seed)
    lines = heapkeeper.LineProfile(PROFILED[case])
    times = {mode: [] for mode in MODES}
    for turn in range(6):
        for mode in draw.sample(MODES, 3):
            if mode == "profiled":
                with lines:
                    took = clocked(function, turns)
            else:
                took = clocked(function, turns)
            if turn:
                times[mode].append(took)
    print(json.dumps({mode: statistics.median(of) for mode, of in times.items()}))


def child_stock():
    clocked(loop, TURNS["loop"])
    print(json.dumps(statistics.median(clocked(loop, TURNS["loop"]) for _ in range(5))))


def child_memory_profiler(case):
    import io

    import memory_profiler

    function, turns = FUNCTIONS[case], TURNS[case]
    bare = min(clocked(function, turns) for _ in range(3))
    globals()[PROFILED[case].__name__] = wrapped = memory_profiler.profile(PROFILED[case], stream=io.StringIO())
    called = wrapped if case != "program" else function
    print(json.dumps(clocked(called, max(turns // FEWER[case], 1)) / bare))


# --- measuring ---


def main():
    import common

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--python", action="append", help="an interpreter (default: this one); more than once")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--venv", help="a directory for memory_profiler")
    parser.add_argument("--json", help="write all figures to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 where a goal is missed")
    parser.add_argument("--no-peer", action="store_true", help="without memory_profiler")
    options = parser.parse_args()
    environment = dict(os.environ, PYTHONPATH=os.path.join(common.TREE, "python"), HEAPKEEPER_BUILD=common.build_dir(), PYTHONHASHSEED="0")
    missed, everything = [], {}

    def ask(words, **more):
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True, universal_newlines=True, **more)
        return json.loads(done.stdout)

    def peer(python, version):
        directory = options.venv or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "heapkeeper", "venvs",
                                                 "lines-%d.%d" % version)
        inside = os.path.join(directory, "bin", "python3")
        if not os.access(inside, os.X_OK):
            subprocess.run([python, "-m", "venv", directory], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            subprocess.run([inside, "-m", "pip", "install", "-q", "memory_profiler"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        there = subprocess.run([inside, "-c", "import memory_profiler"], stderr=subprocess.DEVNULL).returncode == 0
        return inside if there else None

    for python in options.python or [sys.executable]:
        version = tuple(ask([python, "-c", "import sys; print(list(sys.version_info[:2]))"]))
        figures = {case: {"profiled": [], "again": []} for case in CASES}
        stock = []
        for round_ in range(options.rounds):
            for case in random.Random(round_).sample(CASES, len(CASES)):
                times = ask([common.heapkeeper(), "run", "-q", "-o", "/dev/null", "--python", python, __file__, "--child", case, str(round_)])
                figures[case]["profiled"].append(times["profiled"] / times["bare"])
                figures[case]["again"].append(times["again"] / times["bare"])
                if case == "loop":
                    stock.append(times["bare"] / ask([python, __file__, "--child-stock"]))
        inside = None if options.no_peer else peer(python, version)
        print("%s  %d.%d, %d rounds, load %.1f; ratios of CPU time, medians (smallest to largest)" % ((python,) + version + (
            options.rounds, os.getloadavg()[0])))
        print("%-10s %24s %8s %18s" % ("case", "profiled to bare", "again", "memory_profiler"))
        for case in CASES:
            of = figures[case]["profiled"]
            theirs = "-"
            if inside:
                theirs = "%.1f" % ask([inside, __file__, "--child-memory-profiler", case])
            print("%-10s %8.2f (%.2f to %.2f) %8.2f %18s" % (case, statistics.median(of), min(of), max(of),
                                                             statistics.median(figures[case]["again"]), theirs))
            goal = GOALS[case](version) if case in GOALS else None
            if goal is not None and statistics.median(of) > goal:
                missed.append("%d.%d: %s %.2f, goal %.1f" % (version + (case, statistics.median(of), goal)))
        print("bare to stock: %.2f\n" % statistics.median(stock), flush=True)
        everything["%d.%d" % version] = figures
    for text in missed:
        print("missed: " + text)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(everything, file, indent=1)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["--child-stock"]:
        child_stock()
    elif sys.argv[1:2] == ["--child-memory-profiler"]:
        child_memory_profiler(sys.argv[2])
    else:
        sys.exit(main())
