"""Interpreters with their own GIL, eight at a time, are made, work and end (3.12 on).

    interpreters.py [SECONDS [CYCLES]]    with CYCLES: each of the eight threads makes as many, however long it takes

Each works on a buffer of the main interpreter (3.13 on), on strings and bytes that it was given, with cycles for its
collector, exceptions, a large block, and now and then with threads of its own, a bare Py_EndInterpreter with work left
undone, and a queue (3.14 on). When all have ended the heaps are checked, and what the interpreters have left is
compared: nothing at all from 3.14 on, on 3.12 and 3.13 what CPython itself leaves, as much for each.
"""

import gc
import sys
import threading

from common import Soak, fail, insist, stats

THREADS, ROUND_CYCLES = 8, 10

try:
    import _interpreters
except ImportError:
    import _xxsubinterpreters as _interpreters
try:
    from concurrent import interpreters
except ImportError:
    interpreters = None

HAS_EXEC = hasattr(_interpreters, "exec")  # 3.13 on
LEAVES_NOTHING = sys.version_info >= (3, 14)

WORK = """
if view is not None:
    assert len(view) == 4096 and view[0] == seed % 251
    for at in range(0, 4096, 64):
        view[at] = (at + seed) % 251
assert text == "text of %d" % seed and blob == bytes([seed % 256]) * 3000
kept = {n: [bytearray(size) for size in range(0, 2500, 41 + n)] for n in range(3)}
names = [str(n) * (n % 7) for n in range(seed % 600)]
ring = [(n, [n], {n: names}) for n in range(200)]
ring[0][1].append(ring)
del ring
class Node: pass
for n in range(200):
    node = Node()
    node.self, node.payload = node, bytes(n)
import gc
gc.collect()
for n in range(30):
    try: raise KeyError(n, names)
    except KeyError as error: kept[n] = error
large = bytearray(300000 + seed)
large += bytes(100000)
assert sum(map(len, names)) == sum(len(str(n)) * (n % 7) for n in range(seed % 600))
"""
THREADED = """
import threading
def churn(number):
    for turn in range(20):
        mine = [bytes([number]) * (turn * 13 + n) for n in range(100)]
        assert all(each.count(number) == len(each) for each in mine)
workers = [threading.Thread(target=churn, args=(n,)) for n in range(3)]
for each in workers: each.start()
for each in workers: each.join()
"""
QUEUED = """
total = 0
while (item := queue.get()) is not None:
    total += len(item)
    queue_back.put((len(item), item[:10]))
queue_back.put(total)
"""


def create():
    return _interpreters.create() if HAS_EXEC else _interpreters.create(isolated=True)


def execute(made, code, shared=None):
    if HAS_EXEC:
        wrong = _interpreters.exec(made, code, shared or {})
        insist(wrong is None, wrong)
    else:
        _interpreters.run_string(made, code, shared or {})


def cycle(number):
    buffer = bytearray(4096)
    buffer[0] = number % 251
    made = create()
    if HAS_EXEC:
        execute(made, "import _interpreters")  # 3.13 shares buffers with who knows their type only
    view = memoryview(buffer) if HAS_EXEC else None
    execute(made, WORK, {"view": view, "seed": number, "text": "text of %d" % number, "blob": bytes([number % 256]) * 3000})
    if number % 5 == 0:
        execute(made, THREADED)
    _interpreters.destroy(made)
    insist(view is None or all(buffer[at] == (at + number) % 251 for at in range(0, 4096, 64)), "the shared buffer")


def queued_cycle(number):
    made, queue, back = interpreters.create(), interpreters.create_queue(), interpreters.create_queue()
    made.prepare_main(queue=queue, queue_back=back)
    worker = threading.Thread(target=made.exec, args=(QUEUED,))
    worker.start()
    items = [bytes([n % 251]) * n for n in range(0, 400, 7)] + ["word %d" % number]
    for item in items:
        queue.put(item)
        insist(back.get() == (len(item), item[:10]), "what came back of a queue")
    queue.put(None)
    insist(back.get() == sum(map(len, items)), "the sum of a queue")
    worker.join()
    made.close()


def work(first, count):
    try:
        for number in range(first, first + count):
            cycle(number)
            if interpreters is not None and number % 10 == 0:
                queued_cycle(number)
    except BaseException as error:
        fail("cycle: %r" % (error,))


def left_behind():
    """Of the interpreters' heaps: (blocks, bytes); of all others: bytes, without the sampled blocks where interpreters leave some: those
    are in one heap with the main interpreter's."""
    figures = stats()
    own = [heap for heap in figures["heaps"] if heap["name"].startswith("interpreter ")]
    blocks, live = sum(heap["live_blocks"] for heap in own), sum(heap["live_bytes"] for heap in own)
    sampled = 0 if LEAVES_NOTHING else sum(heap["live_bytes"] for heap in figures["heaps"] if heap["name"].endswith(", sampled"))
    return blocks, live, figures["live_bytes"] + figures["large_bytes"] - live - sampled, len(own)


def settle(soak, early):
    gc.collect()
    soak.check()
    soak.rounds += 1
    blocks, live, rest, heaps = left_behind()
    insist(heaps <= 2 * THREADS, "%d heaps for %d interpreters at a time" % (heaps, THREADS))
    if LEAVES_NOTHING:
        insist(blocks == 0, "%d blocks of interpreters that ended" % blocks)
    if early is not None:
        insist(rest < early * 1.25 + (4 << 20), "the main interpreter's bytes rose from %d to %d" % (early, rest))
    soak.early = soak.early or (early, blocks, live)
    soak.now = (rest, blocks, live)
    soak.counts.update(heaps=heaps, left_blocks=blocks, left_bytes=live, others_bytes=rest)
    return early or rest


def main():
    if sys.version_info < (3, 12):
        fail("before 3.12 no interpreter has a GIL of its own")
    soak = Soak()
    wanted = int(sys.argv[2]) if len(sys.argv) > 2 else None
    done, early = 0, None
    while done < wanted if wanted else soak.going():
        count = min(ROUND_CYCLES, wanted - done) if wanted else ROUND_CYCLES
        workers = [threading.Thread(target=work, args=(10000 * n + done, count)) for n in range(THREADS)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()
        done += count
        soak.count("cycles", count * THREADS)
        early = settle(soak, early)
    soak.finish()


main()
