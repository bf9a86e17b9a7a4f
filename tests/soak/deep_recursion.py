"""Deep stacks: in Python, through C, to the limit and back, in threads, with a fork at the bottom; and deep objects,
which are freed as deeply as they are nested.
"""

import functools
import os
import random
import sys
import threading
import warnings

from common import Soak, check, churn, fail, insist, weight

DEPTHS = (50, 900, 5000, 20000)
THREAD_STACK = 256 << 20
IS_PURE = sys.version_info >= (3, 11)  # a Python call that needs no C stack
warnings.simplefilter("ignore", DeprecationWarning)

soak = Soak()


def sink(depth, bottom):
    """Allocates on the way down and on the way up; the sum is known."""
    kept = [depth, str(depth) * 3, (depth,) * (depth % 40)]
    below = sink(depth - 1, bottom) if depth else bottom()
    insist(kept[0] == depth and kept[1] == str(depth) * 3 and len(kept[2]) == depth % 40, "a frame's objects")
    return below + depth


def at_bottom():
    objects, total = churn(random.Random(7), 100)
    insist(weight(objects) == total, "objects at the bottom")
    soak.check()
    return 0


def fork_at_bottom():
    pid = os.fork()
    if pid == 0:
        check()
        objects, total = churn(random.Random(8), 200)
        insist(weight(objects) == total, "objects of a child at the bottom")
        check()
        os._exit(0)
    insist(os.waitpid(pid, 0)[1] == 0, "a child forked at the bottom")
    return 0


def go_deep():
    for depth in DEPTHS:
        insist(sink(depth, at_bottom) == depth * (depth + 1) // 2, "a recursion %d deep" % depth)
    insist(sink(3000, fork_at_bottom) == 3000 * 3001 // 2, "a recursion that forks")
    soak.count("deep", len(DEPTHS) + 1)


def endless(depth, kept):
    kept[0] = depth
    return [depth, endless(depth + 1, kept)]


def to_the_limit():
    old, kept = sys.getrecursionlimit(), [0]
    sys.setrecursionlimit(4000)
    try:
        endless(0, kept)
        fail("no RecursionError")
    except RecursionError as error:
        insist(kept[0] > 2000, "the limit came at %d" % kept[0])
        frames, traceback = 0, error.__traceback__
        while traceback is not None:
            frames, traceback = frames + 1, traceback.tb_next
        insist(frames > 2000, "a traceback of %d frames" % frames)
        soak.check()
    finally:
        sys.setrecursionlimit(old)
    soak.count("limits")


class Node:
    def __init__(self, value, below):
        self.value, self.below = value, below

    def __eq__(self, other):
        return self.value == other.value and self.below == other.below

    __hash__ = None


@functools.lru_cache(maxsize=None)
def ways(n):
    return 1 if n < 2 else ways(n - 1) + ways(n - 2)


def by_key(depth):
    """Down through sorted(), map() and a comparison: a C frame between any two of Python's."""
    if depth == 0:
        soak.check()
        return 0
    return sorted([depth, 0], key=lambda n: n and by_key(depth - 1))[0] + next(map(lambda n: n, (1,)))


def through_c():
    insist(by_key(60) == 1, "a recursion through sorted()")
    one = two = None
    for n in range(150):
        one, two = Node(n, one), Node(n, two)
    insist(one == two, "a recursion through ==")
    ways.cache_clear()
    for n in range(0, 400, 20):
        ways(n)
    insist(ways(399) % 1000003 == WAYS_399, "a recursion through lru_cache")
    soak.count("through_c")


def fibonacci(n):
    a, b = 1, 1
    for _ in range(n - 1):
        a, b = b, a + b
    return b


WAYS_399 = fibonacci(399) % 1000003


def deep_objects():
    """Nested a hundred thousand deep in several types at once, and let go at the outermost."""
    node = None
    for n in range(100000):
        node = (node, [n], {"n": node} if n % 3 == 0 else None, Node(n, node) if n % 5 == 0 else None)
    insist(node[1] == [99999], "a nest of tuples")
    del node
    chain = None
    for n in range(100000):
        chain = [Node(n, chain)]
    insist(chain[0].value == 99999, "a nest of objects")
    chain = None
    soak.check()
    soak.count("nests")


def in_thread(work):
    threading.stack_size(THREAD_STACK)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


sys.setrecursionlimit(max(DEPTHS) + 2000)
while soak.going():
    if IS_PURE:
        go_deep()
    in_thread(go_deep)
    to_the_limit()
    through_c()
    in_thread(through_c)
    deep_objects()
    soak.settle()
soak.finish()
