"""The workloads of work.h in Python. Objects have __slots__; the dict and the strings are Python's own."""

import os
import re
import sys
import time

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "work.h")) as file:
    globals().update((name, int(value)) for name, value in re.findall("([A-Z_]+) = ([0-9]+),", file.read()))

_random = 42


def below(limit):
    global _random
    _random = (_random * 1103515245 + 12345) & 0x7FFFFFFF
    return (_random >> 8) % limit


class Tree:
    __slots__ = ("left", "right")

    def __init__(self, left, right):
        self.left = left
        self.right = right


def tree_make(depth):
    if depth > 0:
        return Tree(tree_make(depth - 1), tree_make(depth - 1))
    return Tree(None, None)


def tree_check(tree):
    if tree.left is not None:
        return 1 + tree_check(tree.left) + tree_check(tree.right)
    return 1


def trees():
    total = tree_check(tree_make(TREES_DEPTH + 1))
    stays = tree_make(TREES_DEPTH)
    for depth in range(4, TREES_DEPTH + 1, 2):
        for _ in range(1 << (TREES_DEPTH - depth + 4)):
            total += tree_check(tree_make(depth))
    return total + tree_check(stays)


class Node:
    __slots__ = ("left", "right", "i", "j")

    def __init__(self, left=None, right=None):
        self.left = left
        self.right = right
        self.i = self.j = 0


def populate(depth, node):
    if depth <= 0:
        return
    node.left = Node()
    node.right = Node()
    populate(depth - 1, node.left)
    populate(depth - 1, node.right)


def bottom_up(depth):
    if depth <= 0:
        return Node()
    return Node(bottom_up(depth - 1), bottom_up(depth - 1))


def node_count(node):
    return 0 if node is None else 1 + node_count(node.left) + node_count(node.right)


def gcbench():
    total = 0
    bottom_up(BENCH_STRETCH)
    stays = Node()
    populate(BENCH_LONG_LIVED, stays)
    array = [1.0 / (i + 1) for i in range(BENCH_ARRAY)]
    for depth in range(4, BENCH_MAX + 1, 2):
        times = 2 * ((1 << (BENCH_STRETCH + 1)) - 1) // ((1 << (depth + 1)) - 1)
        for _ in range(times):
            populate(depth, Node())
        for _ in range(times):
            bottom_up(depth)
        total += times
    return total + node_count(stays) + (array[999] == 1.0 / 1000)


def strings():
    total = 0
    for _ in range(STRINGS_ROUNDS):
        table = {}
        for _ in range(STRINGS_STEPS):
            key = "key-%d" % below(STRINGS_KEYS)
            old = table.get(key)
            if old is None:
                table[key] = key
            elif len(old) > STRINGS_LONGEST:
                del table[key]
            else:
                table[key] = old + "," + key
        total += len("; ".join(list(table.values())))
    return total


class Vertex:
    __slots__ = ("next", "a", "b", "number")

    def __init__(self, number):
        self.number = number


def ring_make(count):
    vertices = [Vertex(i) for i in range(count)]
    for i in range(count):
        vertex = vertices[i]
        vertex.next = vertices[(i + 1) % count]
        vertex.a = vertices[below(count)]
        vertex.b = vertices[below(count)]
    return vertices[0]


def cycles():
    window, total = [None] * CYCLES_WINDOW, 0
    for _ in range(CYCLES_GRAPHS):
        ring = ring_make(2 + below(CYCLES_NODES - 1))
        total += ring.a.number + ring.next.b.number
        window[below(CYCLES_WINDOW)] = ring
    return total + sum(ring.a.number for ring in window if ring is not None)


class Page:
    __slots__ = ("a", "b", "c", "d")

    def __init__(self):
        self.a, self.b, self.c, self.d = Tree(None, None), Tree(None, None), Tree(None, None), Tree(None, None)


class Entry:
    __slots__ = ("previous", "next", "page", "key")

    def __init__(self, key):
        self.page = Page()
        self.key = key


class Request:
    __slots__ = ("other", "entry")

    def __init__(self, entry):
        self.entry = entry


def entry_unlink(entry):
    previous, following = entry.previous, entry.next
    previous.next, following.previous = following, previous
    entry.previous = entry.next = None


def entry_link(first, entry):
    following = first.next
    entry.previous, entry.next = first, following
    following.previous = first.next = entry


def cache():
    total = count = 0
    entries, first = [None] * CACHE_KEYS, Entry(CACHE_KEYS)
    first.previous = first.next = first
    for _ in range(CACHE_REQUESTS):
        key, other, third = below(CACHE_KEYS), below(CACHE_KEYS), below(CACHE_KEYS)
        key = key if key < other else other
        key = key if key < third else third
        entry = entries[key]
        if entry is not None:
            entry_unlink(entry)
            entry_link(first, entry)
            total += 1
        else:
            entry = entries[key] = Entry(key)
            entry_link(first, entry)
            count += 1
            if count > CACHE_ENTRIES:
                oldest = first.previous
                entry_unlink(oldest)
                entries[oldest.key] = None
                count -= 1
        request, response = Request(entry), Request(entry)
        request.other, response.other = response, request
        total += request.other.entry.key
    return total


def main():
    run = {"trees": trees, "gcbench": gcbench, "strings": strings, "cycles": cycles, "cache": cache}[sys.argv[1]]
    start = time.process_time()
    checksum = run()
    spent = time.process_time() - start
    with open("/proc/self/status") as status:
        peak = [line.split()[1] for line in status if line.startswith("VmHWM:")][0]
    print(checksum, "%.6f" % spent, peak)


if __name__ == "__main__":
    main()
