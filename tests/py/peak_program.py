"""Random programs; prints the peak of each as tracemalloc has it, in bytes, one a line.

    python3 peak_program.py standard COUNT [SEED]                            by CPython's own tracemalloc
    heapkeeper run --exact python3 peak_program.py ours COUNT [SEED]         by heapkeeper.tracemalloc

CPython's tracemalloc is the oracle: it counts in another way what the same program asks for. The two cannot share a process, since what
tracemalloc keeps of its traces is allocated from the heap beneath it, and would be counted.
"""

import gc
import json
import random
import sys

class Thing:
    def __init__(self, value):
        self.value = value


class Slotted:
    __slots__ = ("a", "b")


def recursion(depth, size):
    kept = bytes(size)
    return recursion(depth - 1, size // 2 + 1) if depth else len(kept)


def numbers(count):
    for i in range(count):
        yield i * 1234567


OPERATIONS = [
    lambda r, kept: kept.append(bytes(r.randrange(3000))),
    lambda r, kept: kept.append(bytes(r.randrange(1, 300000))),
    lambda r, kept: kept.append(bytearray(r.randrange(100, 4000))),
    lambda r, kept: kept.append([r.random() for _ in range(r.randrange(50))]),
    lambda r, kept: kept.append({str(i): i for i in range(r.randrange(40))}),
    lambda r, kept: kept.append(set(range(r.randrange(100)))),
    lambda r, kept: kept.append("x" * r.randrange(2000) + chr(r.randrange(32, 5000))),
    lambda r, kept: kept.append(tuple(numbers(r.randrange(60)))),
    lambda r, kept: kept.append(1 << r.randrange(5000)),
    lambda r, kept: kept.append([Thing(i) for i in range(r.randrange(20))]),
    lambda r, kept: kept.append([Slotted() for i in range(r.randrange(20))]),
    lambda r, kept: kept.append(json.loads(json.dumps(list(range(r.randrange(50)))))),
    lambda r, kept: kept and kept.pop(r.randrange(len(kept))),
    lambda r, kept: kept and kept.pop(),
    lambda r, kept: kept.__delitem__(slice(r.randrange(len(kept) + 1), None)),
    lambda r, kept: recursion(r.randrange(20), r.randrange(2000)),
    lambda r, kept: sum(numbers(r.randrange(100))),
    lambda r, kept: [b.extend(bytes(r.randrange(3000))) for b in kept if type(b) is bytearray],
    lambda r, kept: [b.__delitem__(slice(r.randrange(2000), None)) for b in kept if type(b) is bytearray],
    lambda r, kept: [d.clear() for d in kept if type(d) is dict and r.random() < 0.5],
    lambda r, kept: sorted([str(i) for i in range(r.randrange(200))]),
    lambda r, kept: "".join([chr(r.randrange(40, 200)) for _ in range(r.randrange(300))]).encode().decode(),
    lambda r, kept: eval(compile("[%d for _ in range(%d)]" % (r.randrange(9999), r.randrange(99)), "<made>", "eval")),
]


def run(seed):
    r, kept = random.Random(seed), []
    for _ in range(r.randrange(10, 120)):
        r.choice(OPERATIONS)(r, kept)


def main(whose, count, seed):
    if whose == "ours":
        from heapkeeper import tracemalloc
    else:
        import tracemalloc
    tracemalloc.start()
    gc.disable()
    peaks = [0] * count
    for i in range(count):
        run(seed + i)  # the first time fills caches and free lists
        gc.collect()
        tracemalloc.clear_traces()
        run(seed + i)
        peaks[i] = tracemalloc.get_traced_memory()[1]
    print("\n".join(map(str, peaks)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
