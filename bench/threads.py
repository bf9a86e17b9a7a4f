#!/usr/bin/env python3
"""Threads benchmark: malloc and free in C by 1, 2 and 4 threads, our heap next to mimalloc, jemalloc, tcmalloc and glibc.

    python3 bench/threads.py [--rounds N] [--threads 1,2,4] [--patterns A,B] [--peers A,B] [--clock wall|cpu]
                             [--json FILE] [--library SO] [--check]

In each round every pattern on every number of threads (in shuffled order) is run once on every allocator (in shuffled
order), each in a fresh process of the program threads.c: our heap through the public API on a heap made with
HK_LOCK_THREADS, the peers through malloc and free, preloaded. A figure is nanoseconds for one block's life (malloc,
a write, free), or the median over the rounds of the ratio ours / peer; below 1 we are ahead. "again" is our heap a
second time, as if it were a peer: what it is off 1 is noise.

Patterns: larson, xmalloc, scratch, thrash, exchange; threads.c says what each does. Wall time is what a user sees,
but counts what else runs on the machine; on a busy one --clock cpu says more, except of waiting for locks.

--check: exit 1 unless the geometric mean is below 1 against every peer on one thread, and at most 1.10 against the best
one on two.
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
from common import Failed, Ratios

PEERS = ("mimalloc", "jemalloc", "tcmalloc", "glibc")
OURS, AGAIN = "heapkeeper", "again"
BOUND_AT_TWO = 1.10


def build_program(directory):
    """Compiles threads.c; the same binary drives every allocator. Loops begin on cache lines, so that they are as fast for
    ours as for theirs: by chance alone the one of `thrash` took half as long again on one side."""
    compiler = os.environ.get("CC", "cc")
    program = os.path.join(directory, "threads")
    command = [*compiler.split(), "-O2", "-falign-functions=64", "-falign-loops=64", "-std=gnu11", "-D_GNU_SOURCE",
               "-pthread", "-o", program, os.path.join(common.BENCH, "threads.c"), "-ldl"]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as failure:
        common.refuse("cannot compile threads.c (%s); apt-get install gcc libc6-dev, or set CC" % failure)
    return program


class Allocator:
    def __init__(self, name, library, program):
        self.name = name
        self.arguments = [library] if name in (OURS, AGAIN) else []
        self.environment = common.clean_environment()
        if name in common.PEERS:
            self.environment["LD_PRELOAD"] = library
        self.program = program
        self.expected = os.path.basename(library).split(".so")[0] if library else "libc"

    def measure(self, pattern, threads):
        """{"wall": ..., "cpu": ...} nanoseconds for one block's life. Raises Failed if another allocator answered."""
        words = common.run([self.program, pattern, str(threads), *self.arguments], self.environment).output.split()
        if self.expected not in words[2]:
            raise Failed("%s: malloc came from %s, not %s" % (self.name, words[2], self.expected))
        return {"wall": float(words[0]), "cpu": float(words[1])}


def allocators(options, program):
    """Those that are here, ours first and last; says what is missing."""
    chosen = []
    if os.path.exists(options.library):
        chosen.append(Allocator(OURS, options.library, program))
        chosen.append(Allocator(AGAIN, options.library, program))
    else:
        common.refuse("%s does not exist; run make" % options.library)
    for name in options.peers:
        library = common.peer_library(name) if name in common.PEERS else ""
        if library is None:
            print("skipped: %s" % common.missing_peer(name))
        else:
            chosen.append(Allocator(name, library, program))
    return chosen


def measure(chosen, rows, rounds):
    times = {row: {one.name: [None] * rounds for one in chosen} for row in rows}
    failures, shuffle = [], random.Random(0)
    for number in range(rounds):
        for row in shuffle.sample(rows, len(rows)):
            for one in shuffle.sample(chosen, len(chosen)):
                common.progress("round %d of %d: %s on %d, %s" % (number + 1, rounds, *row, one.name))
                try:
                    times[row][one.name][number] = one.measure(*row)
                except Failed as failure:
                    failures.append("%s on %d threads on %s: %s" % (*row, one.name, failure))
    common.progress("")
    return times, failures


def ratios(times, threads, peer, clock):
    """Ours / peer of all patterns on so many threads."""
    return Ratios({
        pattern: [one[clock] / two[clock] if one and two else None for one, two in zip(row[OURS], row[peer])]
        for (pattern, count), row in times.items() if count == threads})


def report(times, names, counts, clock):
    """Prints nanoseconds, and ours / peer; returns {threads: {peer: geomean}}."""
    peers = [name for name in names if name != OURS]
    figures = {}
    for threads in counts:
        tables = {peer: ratios(times, threads, peer, clock) for peer in peers}
        print("\n%-12s%s   ours / ..." % ("%d thread%s" % (threads, "s" * (threads > 1)), "".join("%11s" % n for n in names)))
        print("%-12s%s   %s" % ("ns, " + clock, " " * 11 * len(names), "".join("%-20s" % peer for peer in peers)))
        for (pattern, count), row in times.items():
            if count != threads:
                continue
            line = "%-12s" % pattern
            for name in names:
                good = [value[clock] for value in row[name] if value]
                line += "%11.1f" % (statistics.median(good) if good else float("nan"))
            line += "   "
            for table in tables.values():
                shown = "%.2f [%.2f, %.2f]" % (table.median(pattern), *table.interval(pattern)) if pattern in table.rows else "-"
                line += "%-20s" % shown
            print(line.rstrip())
        figures[threads] = {peer: table.geomean() for peer, table in tables.items()}
        line = "%-12s%s   " % ("geomean", " " * 11 * len(names))
        for peer, table in tables.items():
            line += "%-20s" % ("%.3f [%.2f, %.2f]" % (table.geomean(), *table.geomean_interval()))
        print(line.rstrip())
    return figures


def missed(figures):
    """What of the goals was not reached, in words."""
    for peer, ratio in figures.get(1, {}).items():
        if peer != AGAIN and not ratio < 1:
            yield "1 thread: %.3f of %s, not ahead" % (ratio, peer)
    others = {peer: ratio for peer, ratio in figures.get(2, {}).items() if peer != AGAIN}
    if others:
        best = max(others, key=others.get)
        if not others[best] <= BOUND_AT_TWO:
            yield "2 threads: %.3f of the best, %s; bound %.2f" % (others[best], best, BOUND_AT_TWO)


def main():
    parser = argparse.ArgumentParser(description="malloc and free by several threads, ours against peers.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", default="1,2,4", help="default: %(default)s")
    parser.add_argument("--patterns", help="comma-separated; default: all")
    parser.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--library", default=os.path.join(common.build_dir(), "libheapkeeper.so"))
    parser.add_argument("--check", action="store_true", help="exit 1 unless the goals are reached")
    parser.add_argument("--json", metavar="FILE", help="every measurement, to FILE")
    options = parser.parse_args()
    options.library = os.path.abspath(options.library)
    options.peers = options.peers.replace(",", " ").split()
    for peer in options.peers:
        if peer not in PEERS:
            parser.error("unknown peer '%s' (known: %s)" % (peer, " ".join(PEERS)))
    try:
        counts = [int(word) for word in options.threads.replace(",", " ").split()]
    except ValueError:
        counts = []
    if not counts or any(n < 1 or n > 64 or (n > 1 and n % 2) for n in counts):
        parser.error("--threads takes 1 and even numbers up to 64")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")

    with tempfile.TemporaryDirectory() as directory:
        program = build_program(directory)
        known = common.run([program]).output.split()
        patterns = options.patterns.replace(",", " ").split() if options.patterns else known
        for pattern in patterns:
            if pattern not in known:
                parser.error("unknown pattern '%s' (known: %s)" % (pattern, " ".join(known)))
        print(common.machine())
        chosen = allocators(options, program)
        rows = [(pattern, count) for count in counts for pattern in patterns]
        times, failures = measure(chosen, rows, options.rounds)
    print("%d rounds, median [95 %% interval]" % options.rounds, end="")
    figures = report(times, [one.name for one in chosen], counts, options.clock)
    for failure in failures:
        print("FAILED " + failure)
    short = list(missed(figures))
    for words in short:
        print("missed  " + words)
    if options.json:
        with open(options.json, "w") as file:
            rows = [{"pattern": row[0], "threads": row[1], "times": times[row]} for row in times]
            json.dump({"machine": common.machine(), "rows": rows, "geomeans": figures, "failures": failures}, file, indent=1)
    sys.exit(1 if options.check and (short or failures) else 0)


if __name__ == "__main__":
    main()
