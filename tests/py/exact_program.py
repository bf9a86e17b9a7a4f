"""A deterministic program for tests/py/test_exact.py: lines that allocate, of which some is freed again.

    exact_program.py tracemalloc    says at its end as JSON what tracemalloc knows of its lines: {line: [bytes, blocks]}
    exact_program.py kill           kills itself there
    exact_program.py end            ends there

Kept blocks are of types without a free list (lists, tuples, floats, dicts, frames have one: such an object is
recorded where its memory was first asked for), and containers are made in advance.
"""

import gc
import json
import os
import sys
import tracemalloc

HOW = sys.argv[1]
if HOW == "tracemalloc":
    tracemalloc.start(1)

COUNT = 2000
KEPT = [None] * 16


class Slotted:
    __slots__ = ("first", "second")


def strings(out):
    for i in range(len(out)):
        out[i] = "name %d" % i


def bytes_of_all_sizes(out):
    for i in range(len(out)):
        out[i] = b"x" * (i % 700)


def instances(out):
    for i in range(len(out)):
        out[i] = Slotted()


def sets(out):
    for i in range(len(out)):
        out[i] = {1, 2, 3, i}
        out[i].update(range(20))


def arrays_that_grow(out):
    for i in range(len(out)):
        array = bytearray(i)
        array.extend(b"y" * (i % 300))
        out[i] = array


def one_array_that_grows_far(out):
    out[0] = bytearray()
    for i in range(20 * len(out)):
        out[0] += b"0123456789"


def large(out):
    for i in range(0, len(out), 10):
        out[i] = bytes(5000 + i)


def integers(out):
    for i in range(len(out)):
        out[i] = i * 1000003 + 10 ** 12


def joined(out):
    for i in range(len(out)):
        out[i] = ",".join("abc" for _ in (1, 2, 3))


def plain(out):
    for i in range(len(out)):
        out[i] = object()


def bottom(depth):
    if depth == 0:
        return bytearray(777)
    return bottom(depth - 1)


def deep(out):
    for i in range(0, len(out), 20):
        out[i] = bottom(i % 50)


def main():
    works = (strings, bytes_of_all_sizes, instances, sets, arrays_that_grow, one_array_that_grows_far, large, integers,
             joined, plain, deep)
    for number, work in enumerate(works):
        KEPT[number] = [None] * COUNT
        work(KEPT[number])
        if number % 3 != 1:
            for i in range(0, COUNT, 2):
                KEPT[number][i] = None


main()
gc.collect()
if HOW == "tracemalloc":
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, __file__)])
    tracemalloc.stop()
    print(json.dumps({line.traceback[0].lineno: (line.size, line.count) for line in snapshot.statistics("lineno")}))
elif HOW == "kill":
    os.kill(os.getpid(), 9)
