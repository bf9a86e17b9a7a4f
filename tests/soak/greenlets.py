"""Greenlets: many C stacks in one thread. Switched at every depth, out of generators and C callbacks, killed, left for
the collector, in several threads at once. Needs greenlet.
"""

import gc
import random
import threading

from greenlet import GreenletExit, getcurrent, greenlet

from common import Soak, churn, fail, insist, weight

GREENLETS, THREADS = 300, 3
soak = Soak()


def descend(hub, depth, turns):
    """Down `depth` frames, back to the hub `turns` times from there, and up again with everything intact."""
    kept = [depth, str(depth) * 4, (depth,) * (depth % 30)]
    if depth:
        result = descend(hub, depth - 1, turns)
    else:
        result = 0
        for turn in range(turns):
            objects, total = churn(random.Random(turn), 5)
            result += hub.switch(turn)
            insist(weight(objects) == total, "objects of a switched greenlet")
    insist(kept[1] == str(depth) * 4 and len(kept[2]) == depth % 30, "a greenlet frame's objects")
    return result + 1


def round_robin(rng):
    """Many at different depths, resumed in random order."""
    hub, alive = getcurrent(), {}
    for n in range(GREENLETS):
        depth, turns = rng.randrange(60), rng.randrange(1, 8)
        each = greenlet(descend)
        insist(each.switch(hub, depth, turns) == 0, "a greenlet's first turn")
        alive[each] = [depth, turns, 1]
    soak.check()
    while alive:
        each = rng.choice(list(alive))
        state = alive[each]
        got = each.switch(10)
        if each.dead:
            insist(state[2] == state[1] and got == 10 * state[1] + state[0] + 1, "a greenlet's result %r" % (got,))
            del alive[each]
        else:
            insist(got == state[2], "a greenlet's turn")
            state[2] += 1
    soak.count("greenlets", GREENLETS)


def from_generators():
    """A generator that switches away while it runs; a sort whose key does."""
    hub = getcurrent()

    def numbers():
        for n in range(50):
            hub.switch(n)
            yield n

    def body():
        return sum(numbers()) + sum(sorted(range(20), key=lambda n: hub.switch(n) or -n))

    each, turns = greenlet(body), 0
    got = each.switch()
    while not each.dead:
        turns += 1
        got = each.switch()
    insist(turns == 70 and got == 1225 + 190, "a switching generator: %d turns, %r" % (turns, got))
    soak.count("generators")


def endings(rng):
    """Killed, thrown into, dropped."""
    hub, ended = getcurrent(), []

    def body(n):
        objects, total = churn(rng, 10)
        try:
            hub.switch()
        except (GreenletExit, KeyError) as error:
            ended.append((n, type(error)))
            insist(weight(objects) == total, "objects of a greenlet that is ended")
            raise
        fail("a greenlet went on")

    for n in range(90):
        each = greenlet(body)
        each.switch(n)
        if n % 3 == 0:
            each.throw(GreenletExit)
        elif n % 3 == 1:
            try:
                each.throw(KeyError(n))
            except KeyError as error:
                insist(error.args == (n,), "what came out")
            else:
                fail("a KeyError stayed in")
        del each
    gc.collect()
    insist(len(ended) == 90, "%d of 90 greenlets ended" % len(ended))
    soak.count("ended", 90)


def nested():
    """A chain of greenlets, each the parent of the next."""

    def body(depth):
        if depth == 0:
            soak.check()
            return [0]
        return greenlet(body).switch(depth - 1) + [depth]

    insist(greenlet(body).switch(100) == list(range(101)), "a chain of greenlets")
    soak.count("nested")


def everything(seed):
    rng = random.Random(seed)
    round_robin(rng)
    from_generators()
    endings(rng)
    nested()


def in_threads():
    threads = [threading.Thread(target=everything, args=(soak.rounds * 10 + n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


while soak.going():
    everything(soak.rounds)
    in_threads()
    soak.settle()
soak.finish()
