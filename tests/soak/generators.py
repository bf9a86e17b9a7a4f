"""Generators: thousands suspended at once, chains of `yield from`, pipelines, closed early, thrown into, left in
cycles for the collector, ended by another thread than began them; coroutines and asynchronous generators by hand.
"""

import gc
import queue
import random
import threading

from common import Soak, churn, insist, weight

CHAIN, SUSPENDED, PIPELINE = 300, 5000, 30
soak = Soak()
closed = []


def countdown(n):
    while n:
        kept = [n] * (n % 7 + 1)
        yield kept[0]
        insist(len(kept) == n % 7 + 1, "a generator's objects")
        n -= 1
    return "done"


def chain(depth, n):
    kept = (depth, str(depth))
    if depth:
        result = yield from chain(depth - 1, n)
    else:
        result = yield from countdown(n)
    insist(kept == (depth, str(depth)), "a chained generator's objects")
    return result


def chains():
    got, generator = 0, chain(CHAIN, 40)
    while True:
        try:
            got += next(generator)
        except StopIteration as end:
            insist(end.value == "done", "a chain's value")
            break
    insist(got == 40 * 41 // 2, "a chain's sum")
    soak.count("chains")


def many_suspended(rng):
    """Alive at once, advanced in random order, half of them never ended."""
    lengths = [rng.randrange(1, 9) for _ in range(SUSPENDED)]
    alive = [countdown(n) for n in lengths]
    sums = [0] * SUSPENDED
    for _ in range(4 * SUSPENDED):
        which = rng.randrange(SUSPENDED)
        sums[which] += next(alive[which], 0)
    soak.check()
    for which in range(0, SUSPENDED, 2):
        sums[which] += sum(alive[which])
        insist(sums[which] == lengths[which] * (lengths[which] + 1) // 2, "a suspended generator's sum")
    soak.count("suspended", SUSPENDED)


def stage(source, n):
    for value in source:
        yield (value + n) if n % 2 else bytes(8) and value


def pipelines():
    source = (n for n in range(300))
    for n in range(PIPELINE):
        source = stage(source, n)
    odd = sum(n for n in range(PIPELINE) if n % 2)
    insist(sum(source) == sum(range(300)) + 300 * odd, "a pipeline's sum")
    soak.count("pipelines")


def guarded(rng, name):
    objects, total = churn(rng, 30)
    try:
        while True:
            try:
                yield total
            except KeyError as error:
                objects, total = churn(rng, 20)
                insist(error.args == (name,), "what was thrown")
    finally:
        insist(weight(objects) == total, "a closed generator's objects")
        closed.append(name)


def closed_and_thrown_into(rng):
    del closed[:]
    alive = [guarded(rng, n) for n in range(400)]
    for n, generator in enumerate(alive):
        next(generator)
        if n % 3 == 0:
            generator.throw(KeyError(n))
        if n % 2:
            generator.close()
    insist(len(closed) == 200, "%d generators closed" % len(closed))
    alive.clear()
    del generator
    insist(len(closed) == 400, "%d generators closed or dropped" % len(closed))
    soak.count("closed", 400)


def cyclic(rng, n):
    me = yield
    objects, total = churn(rng, 10)
    try:
        yield me
    finally:
        insist(weight(objects) == total, "a collected generator's objects")
        closed.append(n)


def in_cycles(rng):
    """A suspended frame that holds its own generator: only the collector ends it."""
    del closed[:]
    for n in range(300):
        generator = cyclic(rng, n)
        next(generator)
        generator.send(generator)
        del generator
    gc.collect()
    insist(len(closed) == 300, "%d cyclic generators collected" % len(closed))
    soak.check()
    soak.count("cycles", 300)


def across_threads(rng):
    """Begun by one thread, advanced and ended by another, while both allocate."""
    work, results = queue.Queue(50), queue.Queue()

    def finisher():
        while True:
            item = work.get()
            if item is None:
                return
            length, generator = item
            results.put(length - sum(1 for _ in generator))
            soak.check() if length == 17 else None

    threads = [threading.Thread(target=finisher) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(600):
        length = rng.randrange(2, 40)
        generator = chain(n % 20, length)
        next(generator)
        work.put((length - 1, generator))
    del generator
    for _ in threads:
        work.put(None)
    for thread in threads:
        thread.join()
    insist([results.get() for _ in range(600)] == [0] * 600, "generators ended by another thread")
    soak.count("handed_over", 600)


class Turn:
    def __await__(self):
        return (yield self)


async def ticks(n):
    for value in range(n):
        await Turn()
        yield value, [value] * 5


async def consumer(n):
    total = 0
    async for value, kept in ticks(n):
        total += value + len(kept)
        await Turn()
    return total + sum([kept[0] async for _, kept in ticks(5)])


def coroutines():
    """A round-robin of hand-driven coroutines."""
    alive, ended = [consumer(n) for n in range(1, 80)], 0
    expected = sum(n * (n - 1) // 2 + 5 * n + 10 for n in range(1, 80))
    while alive:
        still = []
        for each in alive:
            try:
                each.send(None)
                still.append(each)
            except StopIteration as end:
                ended += end.value
        alive = still
    insist(ended == expected, "coroutines' sum %d, not %d" % (ended, expected))
    soak.count("coroutines", 79)


while soak.going():
    rng = random.Random(soak.rounds)
    chains()
    many_suspended(rng)
    pipelines()
    closed_and_thrown_into(rng)
    in_cycles(rng)
    across_threads(rng)
    coroutines()
    soak.settle()
soak.finish()
