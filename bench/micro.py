#!/usr/bin/env python3
"""Micro benchmark: malloc and free in C, one thread, our heap next to mimalloc, jemalloc, tcmalloc and glibc.

    python3 bench/micro.py [--rounds N] [--patterns A,B] [--peers A,B] [--json FILE] [--library SO]

In each round every pattern (in shuffled order) is run once on every allocator (in shuffled order), each in a
fresh process of the program micro.c: our heap through the public API (hk_malloc and hk_free of
libheapkeeper.so), the peers through malloc and free, preloaded. A figure is CPU nanoseconds for one block's
life (malloc, a write, free), or the median over the rounds of the ratio ours / peer; below 1 we are ahead.

Patterns: pair (malloc, free at once) of 32 bytes, 200 bytes, mixed sizes; 1 000 and 100 000 blocks freed in
LIFO, FIFO and random order, over and over; one block of 16 384 or of 1 048 576 replaced at random; two million
blocks built and dropped once, in order and at random. Mixed: 16 to 512 bytes, skewed to the small end.
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
OURS = "heapkeeper"
LARGE = ("bulkfifo", "bulkrandom", "steady1M")  # patterns that take much fresh memory


def build_program(directory):
    """Compiles micro.c; the same binary drives every allocator."""
    compiler = os.environ.get("CC", "cc")
    program = os.path.join(directory, "micro")
    source = os.path.join(common.BENCH, "micro.c")
    command = [*compiler.split(), "-O2", "-std=gnu11", "-D_GNU_SOURCE", "-o", program, source, "-ldl"]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as failure:
        common.refuse("cannot compile micro.c (%s); apt-get install gcc libc6-dev, or set CC" % failure)
    return program


class Allocator:
    def __init__(self, name, library, program):
        self.name = name
        self.arguments = [library] if name == OURS else []
        self.environment = common.clean_environment()
        if name in common.PEERS:
            self.environment["LD_PRELOAD"] = library
        self.program = program
        self.expected = os.path.basename(library) if library else "libc.so"

    def nanoseconds(self, pattern):
        """CPU nanoseconds for one block's life. Raises Failed if another allocator answered the call."""
        words = common.run([self.program, pattern, *self.arguments], self.environment).output.split()
        if self.expected.split(".so")[0] not in words[1]:
            raise Failed("%s: malloc came from %s, not %s" % (self.name, words[1], self.expected))
        return float(words[0])


def allocators(options, program):
    """Those that are here, ours first; says what is missing."""
    chosen = []
    if os.path.exists(options.library):
        chosen.append(Allocator(OURS, options.library, program))
    else:
        print("skipped: %s (%s does not exist; run make)" % (OURS, options.library))
    for name in options.peers:
        library = common.peer_library(name) if name in common.PEERS else ""
        if library is None:
            print("skipped: %s" % common.missing_peer(name))
        else:
            chosen.append(Allocator(name, library, program))
    working = []
    for one in chosen:
        try:
            one.nanoseconds("lifo1k")
            working.append(one)
        except Failed as failure:
            print("skipped: %s: %s" % (one.name, failure))
    return working


def measure(chosen, patterns, rounds, cold):
    times = {pattern: {one.name: [None] * rounds for one in chosen} for pattern in patterns}
    failures, shuffle = [], random.Random(0)
    for number in range(rounds):
        for pattern in shuffle.sample(patterns, len(patterns)):
            for one in shuffle.sample(chosen, len(chosen)):
                common.progress("round %d of %d: %s, %s" % (number + 1, rounds, pattern, one.name))
                if not cold and pattern in LARGE:
                    common.settle(512)
                try:
                    times[pattern][one.name][number] = one.nanoseconds(pattern)
                except Failed as failure:
                    failures.append("%s on %s: %s" % (pattern, one.name, failure))
    common.progress("")
    return times, failures


def report(times, names):
    """Prints nanoseconds, and ours / peer; returns the ratios for --json."""
    base = OURS if OURS in names else names[0]
    peers = [name for name in names if name != base]
    print("%-12s%s   %s / ..." % ("ns a block", "".join("%11s" % name for name in names), base))
    print("%-12s%s   %s" % ("", " " * 11 * len(names), "".join("%-20s" % name for name in peers)))
    tables = {}
    for peer in peers:
        tables[peer] = Ratios({
            pattern: [one / two if one and two else None for one, two in zip(row[base], row[peer])]
            for pattern, row in times.items()})
    for pattern, row in times.items():
        line = "%-12s" % pattern
        for name in names:
            good = [value for value in row[name] if value is not None]
            line += "%11.1f" % (statistics.median(good) if good else float("nan"))
        line += "   "
        for peer in peers:
            table = tables[peer]
            if pattern in table.rows:
                line += "%-20s" % ("%.2f [%.2f, %.2f]" % (table.median(pattern), *table.interval(pattern)))
            else:
                line += "%-20s" % "-"
        print(line.rstrip())
    line = "%-12s%s   " % ("geomean", " " * 11 * len(names))
    figures = {}
    for peer in peers:
        table = tables[peer]
        middle, interval = table.geomean(), table.geomean_interval()
        figures[peer] = {"geomean": middle, "interval": interval, "rows": {row: table.median(row) for row in table.rows}}
        line += "%-20s" % ("%.3f [%.2f, %.2f]" % (middle, *interval))
    print(line.rstrip())
    return figures


def main():
    parser = argparse.ArgumentParser(description="CPU nanoseconds of malloc and free, ours against peers.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--patterns", help="comma-separated; default: all")
    parser.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    parser.add_argument("--library", default=os.path.join(common.build_dir(), "libheapkeeper.so"))
    parser.add_argument("--cold", action="store_true", help="do not see to it that free memory is there (common.settle)")
    parser.add_argument("--check", action="store_true", help="exit 1 unless ours is ahead of every peer")
    parser.add_argument("--json", metavar="FILE", help="every measurement, to FILE")
    options = parser.parse_args()
    options.library = os.path.abspath(options.library)
    options.peers = options.peers.replace(",", " ").split()
    for peer in options.peers:
        if peer not in PEERS:
            parser.error("unknown peer '%s' (known: %s)" % (peer, " ".join(PEERS)))
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
        if not chosen:
            common.refuse("no allocator to measure")
        times, failures = measure(chosen, patterns, options.rounds, options.cold)
        names = [one.name for one in chosen]
        print("%d rounds, median [95 %% interval]" % options.rounds)
        figures = report(times, names)
    print(common.settled_note())
    for failure in failures:
        print("FAILED " + failure)
    behind = [peer for peer, figure in figures.items() if OURS in names and not figure["geomean"] < 1]
    for peer in behind:
        print("missed  not ahead of %s" % peer)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": common.machine(), "times": times, "ratios": figures, "failures": failures}, file, indent=1)
    sys.exit(1 if options.check and (behind or failures or OURS not in names) else 0)


if __name__ == "__main__":
    main()
