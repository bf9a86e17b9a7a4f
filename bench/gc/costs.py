"""Two measurements of costs.c on CPython: `fork N` and `size BYTES`."""

import gc
import os
import sys

FIELDS = "abcdefghijklmnopqrstuvwxyz"


def sharing():
    """Kilobytes that the process shares, and that it has alone."""
    shared = alone = 0
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            name, *words = line.split()
            if name in ("Shared_Clean:", "Shared_Dirty:"):
                shared += int(words[0])
            elif name in ("Private_Clean:", "Private_Dirty:"):
                alone += int(words[0])
    return shared, alone


class Vertex:
    __slots__ = ("next", "a", "b", "number")


def graph(count, random=1):
    """The ring of costs.c, whose references lead to objects made about the same time."""
    every = [Vertex() for _ in range(count)]
    reach = min(1000, count)
    for i, vertex in enumerate(every):
        start = 0 if i < reach // 2 else min(i - reach // 2, count - reach)
        vertex.next = every[(i + 1) % count]
        random = (random * 1103515245 + 12345) & 0x7FFFFFFF
        vertex.a = every[start + (random >> 8) % reach]
        random = (random * 1103515245 + 12345) & 0x7FFFFFFF
        vertex.b = every[start + (random >> 8) % reach]
        vertex.number = None
    return every[0]


def forked(count):
    gc.disable()
    first = graph(count)
    gc.collect()
    child = os.fork()
    if child == 0:
        sharing()
        before = sharing()
        gc.collect()
        after = sharing()
        print(before[0] - after[0], after[1] - before[1], flush=True)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return first if status == 0 else sys.exit(1)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def size(count):
    kind = type("Small", (), {"__slots__": tuple(FIELDS[:count // 8])})
    every = [None] * 1000000
    gc.disable()
    before = resident()
    for i in range(len(every)):
        every[i] = kind()
    print("%.1f" % ((resident() - before) / len(every)))


{"fork": forked, "size": size}[sys.argv[1]](int(sys.argv[2]))
