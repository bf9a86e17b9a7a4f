"""What the soak programs share: how long they go on, and what they ask of the heap they run on.

A program makes one `Soak` and works in rounds `while soak.going()`. `soak.check()` asks the library that is in the
process: hk_heap_check must find every structure valid, and the statistics must add up. `soak.settle()`, between
rounds, where nothing is under way, also compares what is live then with what was live early on: a round leaves nothing
behind. `soak.finish()` prints what was done as JSON. A failed check ends the process, forked child or not, with
status 3 and a line on stderr.

The library is called through PyDLL, which keeps the GIL: the heaps that it protects stand still meanwhile. The raw
heap does not (threads use it without the GIL), so its figures may be read in the middle of somebody's step, and are
read again where they do not add up.
"""

import ctypes
import gc
import json
import os
import sys
import time

ARENA_POOLS = 64
CLASSES = ("live_bytes", "free_bytes", "untouched_bytes", "tail_bytes", "empty_bytes", "metadata_bytes")
SUMMED = ("mapped_bytes", "live_bytes", "live_blocks", "returned_bytes", "arenas", "pools_used", "pools_full",
          "pools_empty")
MAY_MOVE = "raw"
RETRIES = 50
SLACK_BYTES, SLACK_SHARE = 8 << 20, 0.25
WARM_UP_SHARE = 0.2

_library = ctypes.PyDLL(None)


def fail(why):
    os.write(2, ("soak: pid %d: %s\n" % (os.getpid(), why)).encode(errors="replace"))
    os._exit(3)


def insist(condition, why):
    if not condition:
        fail("wrong result: %s" % (why,))


def stats():
    size = 64 << 10
    buffer = ctypes.create_string_buffer(size)
    needed = _library.hk_stats_json(buffer, ctypes.c_size_t(size))
    if not 0 < needed < size:
        fail("hk_stats_json returned %d" % needed)
    return json.loads(buffer.value.decode())


def heap_faults(heap, pool):
    """How a heap's figures contradict one another, in words; pool: bytes."""
    if heap["mapped_bytes"] != sum(heap[name] for name in CLASSES):
        yield "classes do not sum to mapped"
    pools = heap["pools_used"] + heap["pools_full"]
    in_pools = sum(heap[name] for name in ("live_bytes", "free_bytes", "untouched_bytes", "tail_bytes"))
    if in_pools != pools * pool:
        yield "%d pools with blocks, but %d bytes in them" % (pools, in_pools)
    if heap["empty_bytes"] + heap["returned_bytes"] != heap["pools_empty"] * pool:
        yield "%d empty pools, but %d + %d bytes" % (heap["pools_empty"], heap["empty_bytes"], heap["returned_bytes"])
    if pools + heap["pools_empty"] != heap["arenas"] * ARENA_POOLS:
        yield "arenas and pools disagree"
    if max(heap[name] for name in CLASSES) > 1 << 44:
        yield "a class wrapped round"


def stats_faults(figures):
    """[(heap, fault)] where the statistics do not add up."""
    pool = figures["geometry"]["pool_bytes"]
    faults = [(heap["name"], fault) for heap in figures["heaps"] for fault in heap_faults(heap, pool)]
    for name in SUMMED:
        total = sum(heap[name] for heap in figures["heaps"])
        if total != figures[name]:
            faults.append((MAY_MOVE, "%s: the heaps have %d, all of them %d" % (name, total, figures[name])))
    return faults


def check():
    """Every structure valid, all statistics add up; in any process and thread that has the GIL."""
    broken = _library.hk_heap_check(None)
    if broken:
        fail("hk_heap_check: rule %d" % broken)
    for _ in range(RETRIES):
        faults = stats_faults(stats())
        if not faults:
            return
        if not all(heap.startswith(MAY_MOVE) for heap, _fault in faults):
            break
    fail("statistics: %r" % (faults,))


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Soak:
    def __init__(self):
        if not hasattr(_library, "hk_heap_check"):
            fail("not under `heapkeeper run`")
        self.seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
        self.start = time.monotonic()
        self.checks = self.rounds = 0
        self.early = None
        self.counts = {}
        check()

    @property
    def elapsed(self):
        return time.monotonic() - self.start

    def going(self):
        return self.rounds == 0 or self.elapsed < self.seconds

    def count(self, what, number=1):
        self.counts[what] = self.counts.get(what, 0) + number

    def check(self):
        check()
        self.checks += 1

    def settle(self):
        """The end of a round. Checks, and nothing has piled up since the program warmed up."""
        self.rounds += 1
        gc.collect()
        self.check()
        figures = stats()
        now = (figures["live_bytes"] + figures["large_bytes"], figures["mapped_bytes"], resident())
        if self.early is None or self.elapsed < WARM_UP_SHARE * self.seconds:
            self.early = tuple(map(max, self.early or now, now))
        elif now[0] > self.early[0] * (1 + SLACK_SHARE) + SLACK_BYTES:
            fail("live, mapped and resident bytes rose from %r to %r" % (self.early, now))
        self.now = now

    def finish(self):
        self.check()
        print(json.dumps({"rounds": self.rounds, "checks": self.checks, "seconds": round(self.elapsed, 1),
                          "early": self.early, "late": self.now, "counts": self.counts}), flush=True)


def churn(random, size=200):
    """A mix of small and large objects whose sum is known: (objects, sum)."""
    lengths = [random.choice((3, 17, 60, 150, 400, 900, 2500, 7000)) + random.randrange(8) for _ in range(size)]
    return [bytes([length % 251]) * length for length in lengths], sum(lengths) + sum(n % 251 for n in lengths)


def weight(objects):
    """The sum that churn() knew, from the objects' first and last bytes."""
    for each in objects:
        insist(each[0] == each[-1] == len(each) % 251, "a block of %d bytes was written over" % len(each))
    return sum(len(each) + each[0] for each in objects)
