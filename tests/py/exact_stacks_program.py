"""Random calls for tests/py/test_exact_stacks.py, 600 deep and more: recursion through functions, generators, coroutines,
C, classes, exec, exceptions and threads; every level allocates, before its callee and after it. At its end it says
what it saw of its own frames; the same without heapkeeper.

    exact_stacks_program.py SEED
"""

import collections
import random
import sys
import threading
import traceback

sys.setrecursionlimit(20000)
SEED = int(sys.argv[1])


class Seen(threading.local):
    def __init__(self):
        self.count = collections.Counter()
        self.kept = []  # frames that have ended, with what they held


here = Seen()


class Unwound(Exception):
    def __init__(self, levels):
        super().__init__(levels)
        self.levels = levels


class Maker:
    def __init__(self, rng, depth):
        self.made = bytes(rng.randrange(900)), go(rng, depth)


def plain(rng, depth):
    return go(rng, depth)


def spread(rng, depth):
    first = bytearray(rng.randrange(600))
    result = go(rng, depth // 2)
    return len(first) + result + go(rng, depth // 2)


def by_generator(rng, depth):
    def items():
        for share in range(3):
            yield bytes(rng.randrange(300))
            yield go(rng, depth // 3)
    total, source = 0, items()
    for item in source:
        total += 1 if isinstance(item, bytes) else item
        if rng.random() < 0.1:
            break
    return total + resumed_elsewhere(source, rng)


def resumed_elsewhere(source, rng):
    item = next(source, 0)
    return 1 if isinstance(item, bytes) else item


def by_delegation(rng, depth):
    def inner(n):
        yield str(n + 1000) + "x"
        if n:
            yield from inner(n - 1)
        else:
            yield go(rng, depth // 2)
    return sum(1 for _ in inner(rng.randrange(12)))


def by_coroutine(rng, depth):
    async def outer(n):
        made = [n, [n + 1000]]
        return await outer(n - 1) if n else go(rng, depth) + len(made)
    coroutine = outer(rng.randrange(8))
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value


def by_c(rng, depth):
    return sum(map(lambda n: go(rng, depth // 2) + len(str(n + 1000)), range(2)))


def by_sort(rng, depth):
    return sorted([3, 1], key=lambda n: go(rng, depth // 2))[0]


def by_class(rng, depth):
    return Maker(rng, depth).made[1]


def by_exec(rng, depth):
    names = {"go": go, "rng": rng, "depth": depth}
    exec(compile("made = [bytes(i) for i in range(5)]\nresult = go(rng, depth)", "made", "exec"), names)
    return names["result"]


def by_raising(rng, depth):
    try:
        go(rng, depth)
        raise Unwound(rng.randrange(60))
    except Unwound as error:
        if error.levels > 0:
            error.levels -= 1
            raise
        if rng.random() < 0.2:
            here.kept.append(error)
            here.count["frames in a traceback"] += len(traceback.extract_tb(error.__traceback__))
        return len([bytes(n) for n in range(7)])
    finally:
        bytearray(rng.randrange(200))


def looking(rng, depth):
    mine = locals()
    here.count["locals"] += type(mine) is dict and sorted(mine) == ["depth", "rng"]
    frame, level = sys._getframe(), 0
    while frame is not None and level < 40:
        here.count["names of a caller"] += len(sorted(frame.f_locals))
        frame, level = frame.f_back, level + 1
    here.count["depth"] += len(traceback.extract_stack(limit=30))
    return go(rng, depth)


def traced(rng, depth):
    def trace(frame, event, argument):
        here.count[event] += 1
        here.count["traced"] += len(frame.f_locals)
        return trace if rng.random() < 0.5 else None
    before = sys.gettrace()
    if before is None and rng.random() < 0.2:
        sys.settrace(trace)
    try:
        return go(rng, depth)
    finally:
        sys.settrace(before)


WAYS = [plain] * 40 + [spread, by_generator, by_delegation, by_coroutine, by_c, by_sort, by_class, by_exec, looking, traced,
                       by_raising]


def go(rng, depth):
    before = str(depth + 1000) + "y"
    if depth <= 0:
        made = [[i, [str(i + 1000)]] for i in range(4)]
        return len(made)
    result = rng.choice(WAYS)(rng, depth - 1) or 0
    after = str(depth + 2000), [before]
    return result % 1000 + len(after)


def main(seed, results):
    rng, total = random.Random(seed), 0
    for depth in (5, 17, 40, 300, 600, 1500):
        for _ in range(6):
            try:
                total += go(rng, depth)
            except Unwound:
                total += 1
            del here.kept[:-5]
    here.count["sum"] += total
    results.append(sorted(here.count.items()))


def deep_and_shallow():
    """Down without a request, which leaves frames without marks; then one at each level on the way up."""
    def down(n):
        if n:
            down(n - 1)
        here.kept.append(bytes(n))
    for _ in range(3):
        down(1200)
        del here.kept[5:]


results = [[] for _ in range(4)]
main(SEED, results[0])
deep_and_shallow()
threading.stack_size(64 << 20)
threads = [threading.Thread(target=main, args=(SEED + i, results[i])) for i in range(1, 4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(results)
