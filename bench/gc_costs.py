"""bench/gc.py --costs: how what a collection costs grows, what it un-shares after fork, what an object takes; and --pauses: how
long a program waits for steps, and for full collections.

The programs are gc/costs.c, gc/costs.py and gc/costs_bdwgc.c; gc/pauses.c. A figure is the least of the rounds for times, since
everything else on the machine only adds to them, and the median for sizes, which hardly differ.
"""

import os
import statistics

import common
from common import Failed

COUNTS = (10_000, 100_000, 1_000_000, 10_000_000)
GROWING = (1_000_000, 1_750_000, 3_062_500, 5_359_375, 9_378_906)
SHAPES = ("list", "tree", "cycle")
FIELDS = (1, 2, 3, 4, 6, 8)
FORKED = 1_000_000
FLAT = 1.5  # the most that an object of the largest heap may cost, for one of the cheapest
UNSHARED = 0.05
STACK = 64 << 10


class Costs:
    """Measures, prints, and keeps what was missed."""

    def __init__(self, ours, python, bdwgc, rounds):
        self.ours, self.python, self.bdwgc, self.rounds = ours, python, bdwgc, rounds
        self.missed, self.failures, self.figures = [], [], {}

    def ask(self, command, *words):
        """The numbers of its line in each round, a list for each place; None where it failed."""
        lines = []
        for number in range(self.rounds):
            common.progress("%s, round %d of %d" % (" ".join(map(str, words)), number + 1, self.rounds))
            try:
                lines.append([float(word) for word in common.run([*command, *map(str, words)], timeout=600).output.split()])
            except Failed as failure:
                self.failures.append(str(failure))
                return None
        common.progress("")
        self.figures[" ".join([os.path.basename(command[-1]), *map(str, words)])] = lines
        return list(zip(*lines))

    def scaling(self):
        print("full collection: ns of CPU an object, and of that at the cheapest size")
        print("%-22s" % "" + "".join("%16s" % format(count, ",") for count in COUNTS))
        for kind in ("near", "random"):
            rows = [self.ask(self.ours, "full", kind, count) for count in COUNTS]
            for place, what in enumerate(("all live", "all die")):
                times = [min(row[place]) if row else float("nan") for row in rows]
                least = min(times)
                print("%-22s" % ("%s, %s" % (kind, what)) +
                      "".join("%16s" % ("%.1f (%.2f)" % (time, time / least)) for time in times))
                if kind == "near" and max(times) > FLAT * least:
                    self.missed.append("full, near, %s: %.2f times the cheapest size, goal %.1f"
                                       % (what, max(times) / least, FLAT))
        print("near: references lead to objects made about the same time. random: anywhere, so that from where the heap's")
        print("tables do not fit into the caches any more each reference is a miss; that is the machine's share.\n")

    def growing(self):
        print("growing heap, automatic collections: the collector's whole CPU time. Full ones come each time that the heap has grown")
        print("by 75 %, so sizes 75 % apart see the same part of that")
        print("%-14s%12s%16s%14s" % ("objects", "seconds", "ns an object", "full ones"))
        times = []
        for count in GROWING:
            row = self.ask(self.ours, "growing", count)
            if row:
                times.append(1e9 * min(row[1]) / count)
                print("%-14s%12.3f%16.1f%14d" % (format(count, ","), min(row[1]), times[-1], row[2][0]))
        if times and max(times) > FLAT * min(times):
            self.missed.append("growing: %.2f times, goal %.1f" % (max(times) / min(times), FLAT))
        print()

    def forked(self):
        ours = self.ask(self.ours, "fork", FORKED)
        theirs = self.ask(self.python, "fork", FORKED) if self.python else None
        if not ours:
            return
        print("full collection in a forked child, %s live objects: KiB" % format(FORKED, ","))
        print("%-14s%14s%18s" % ("", "un-shared", "more of its own"))
        for name, row in (("heapkeeper", ours), ("cpython", theirs)):
            if row:
                print("%-14s%14.0f%18.0f" % (name, statistics.median(row[0]), statistics.median(row[1])))
        if theirs:
            part = statistics.median(ours[0]) / statistics.median(theirs[0])
            whole = statistics.median(ours[1]) / statistics.median(theirs[1])
            print("%-14s%14s%18s" % ("ratio", "%.1f %%" % (100 * part), "%.1f %%" % (100 * whole)))
            if part > UNSHARED:
                self.missed.append("fork: %.1f %% of CPython's, goal %.0f %%" % (100 * part, 100 * UNSHARED))
        print()

    def release(self):
        print("C stack that the release of 10,000,000 objects takes: bytes")
        for shape in SHAPES:
            row = self.ask(self.ours, "release", shape, 10_000_000)
            if row:
                print("%-14s%14.0f" % (shape, max(row[0])))
                if max(row[0]) > STACK:
                    self.missed.append("release, %s: %.0f bytes of stack, goal %d" % (shape, max(row[0]), STACK))
        print()

    def sizes(self):
        peers = [("heapkeeper", self.ours), ("cpython", self.python), ("bdwgc", self.bdwgc)]
        peers = [(name, command) for name, command in peers if command]
        print("resident bytes an object, by fields of 8 bytes")
        print("%-14s" % "fields" + "".join("%8d" % fields for fields in FIELDS))
        for name, command in peers:
            rows = [self.ask(command, "size", 8 * fields) for fields in FIELDS]
            print("%-14s" % name + "".join("%8.1f" % statistics.median(row[0]) if row else "%8s" % "-" for row in rows))
        print("cpython: of a class with __slots__, as the collector tracks it. bdwgc: GC_MALLOC; it knows no types.\n")

    def run(self):
        for part in (self.scaling, self.growing, self.forked, self.release, self.sizes):
            part()
        return {"figures": self.figures, "missed": self.missed, "failures": self.failures}


class Pauses(Costs):
    OBJECTS, REQUESTS, BUDGET, EVERY = 2_000_000, 300_000, 1000, 100
    NAMES = ("median", "99th", "99.9th", "longest", "its wall", "young", "full at end")
    LONGEST = 2.0  # milliseconds, the 99.9th percentile of steps
    GARBAGE = 1.0  # for one live object, at most

    def run(self):
        print("%s live objects; each of %s requests replaces eight of them and makes eight that die at once; a step of %.1f ms"
              % (format(self.OBJECTS, ","), format(self.REQUESTS, ","), self.BUDGET / 1000))
        print("after %d requests, or full collections by themselves. Milliseconds of CPU that the program waits, medians of %d rounds"
              % (self.EVERY, self.rounds))
        print("%-8s" % "" + "".join("%12s" % name for name in self.NAMES))
        kinds = {}
        for number in range(self.rounds):
            for kind in ("steps", "full"):
                one = Costs(self.ours, None, None, 1)
                row = one.ask(self.ours, kind, self.OBJECTS, self.REQUESTS, self.BUDGET, self.EVERY)
                self.failures += one.failures
                if row:
                    kinds.setdefault(kind, []).append([place[0] for place in row])
        rows = {kind: [statistics.median(place) for place in zip(*lines)] for kind, lines in kinds.items()}
        for kind, row in rows.items():
            print("%-8s" % kind + "".join("%12.2f" % value for value in row[:7]))
        print("\n%-8s%12s%12s%12s%12s%12s%12s%12s" % ("", "waits", "rounds", "full ones", "garbage", "at the end", "collecting", "component"))
        for kind, row in rows.items():
            print("%-8s%12d%12d%12d%11.0f%%%11.0f%%%11.0f%%%12d" % (kind, *row[7:10], *(100 * value for value in row[10:13]), row[13]))
        print("garbage: at most, and at the end, of what is live. collecting: of all CPU time. component: the largest checked at once.")
        print("its wall: of the longest wait, with what else the machine did meanwhile. young: the longest young collection.\n")
        if "steps" in rows:
            row = rows["steps"]
            if row[2] > self.LONGEST:
                self.missed.append("steps: 99.9th percentile %.2f ms, goal %.1f" % (row[2], self.LONGEST))
            if row[10] > self.GARBAGE:
                self.missed.append("steps: garbage %.2f of what is live, goal %.1f" % (row[10], self.GARBAGE))
        return {"figures": kinds, "missed": self.missed, "failures": self.failures}
