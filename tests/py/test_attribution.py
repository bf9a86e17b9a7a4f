"""Whom a block is charged to where stacks come and go in unusual ways: threads, coroutines, greenlets, generators, interpreters.

Each program has functions worker0, worker1, ..., of which it is known how many blocks they keep, made by the function block,
however they got to run. Looked at are the record of `run --exact`, after SIGKILL, and heapkeeper.Tracker in the program."""

import ast
import json
import textwrap

import pytest

from conftest import ENVIRONMENT, check_real_path, execute

HEADER = 33  # bytes of a bytes object beside its contents

BLOCK = """
    import gc, os
    def block(size):
        return b"x" * size  # no call, for which a tuple may be made that a free list keeps
"""

THREADS = """
    import sys, threading
    kept = {}
    def allocate(number):
        for i in range(200):
            kept[number, i] = block(300 + number)
            if i % 2:
                del kept[number, i]
    def worker0():
        allocate(0)
    def worker1():
        allocate(1)
    def worker2():
        allocate(2)
    def main():
        sys.setswitchinterval(1e-5)
        threads = [threading.Thread(target=f) for f in (worker0, worker1, worker2)]
        for t in threads: t.start()
        for t in threads: t.join()
    EXPECTED = {0: 100, 1: 100, 2: 100}
"""

COROUTINES = """
    import asyncio
    kept = {}
    async def fetch(number, i):
        await asyncio.sleep(0)
        data = block(300 + number)
        await asyncio.sleep(0)
        return data
    async def numbers(count):
        for i in range(count):
            await asyncio.sleep(0)
            yield i, block(400)
    async def worker0():
        for i in range(40): kept[0, i] = await fetch(0, i)
    async def worker1():
        await asyncio.gather(*(worker2(i) for i in range(30)))
        for i in range(20): kept[1, i] = await fetch(1, i)
    async def worker2(i):
        kept[2, i] = await fetch(2, i)
    async def worker3():
        async for i, data in numbers(50):
            kept[3, i] = data if i % 5 == 0 else block(303)
    async def both():
        await asyncio.gather(worker0(), worker1(), worker3(), worker0())
    def main():
        asyncio.run(both())
    EXPECTED = {0: 40, 1: 20, 2: 30, 3: 50}
"""

GREENLETS = """
    import random
    from greenlet import greenlet, getcurrent
    kept, rng = {}, random.Random(5)
    def down(n, body):
        made = [n, str(n + 1000)]
        return down(n - 1, body) if n else body(made)
    def allocating(number):
        def body(made):
            for i in range(40):
                kept[number, i] = down(rng.randrange(60), lambda made: block(300 + number))
                hub.switch(i)
        return body
    def worker0(): down(rng.randrange(30, 90), allocating(0))
    def worker1(): down(rng.randrange(30, 90), allocating(1))
    def worker2(): down(rng.randrange(30, 90), allocating(2))
    def main():
        global hub
        hub, workers = getcurrent(), [greenlet(f) for f in (worker0, worker1, worker2)]
        def switch(made):
            for worker in workers: worker.switch()
        for _ in range(40):
            rng.shuffle(workers)
            down(rng.randrange(50), switch)
        kept["greenlets"] = workers
    EXPECTED = {0: 40, 1: 40, 2: 40}
"""

GENERATORS = """
    kept = {}
    def made(size):
        while True:
            yield block(size)
    def through(size):
        yield from made(size)
    def deep(n, source):
        return deep(n - 1, source) if n else next(source)
    def worker0(source):
        for i in range(40): kept[0, i] = next(source)
    def worker1(source):
        for i in range(30): kept[1, i] = deep(i, source)
    def worker2(source):
        def lazy(): yield from (data for data in source)
        for i, data in zip(range(20), lazy()): kept[2, i] = data
    def main():
        source = through(300)
        for _ in range(3):
            worker0(source), worker1(source)
        worker2(source)
    EXPECTED = {0: 40, 1: 30, 2: 20}
"""

INTERPRETERS = """
    import re, threading
    def fill(number):
        out = [None] * 300
        for _ in range(3):
            for i in range(300):
                out[i] = block(300 + number)
        return out
    def worker0():
        return fill(0)
    def worker1():
        return fill(1)
    def main():
        global kept, ids
        try:
            import _interpreters as interpreters
            ids = [interpreters.create("isolated") for _ in range(2)]
        except ImportError:
            import _xxsubinterpreters as interpreters
            ids = [interpreters.create(isolated=True) for _ in range(2)]
        with open(__file__) as file:
            text = re.sub(r"(?m)^import.*", "", file.read().split("def main")[0])  # its lines are ours
        code = "exec(compile(%r, %r, 'exec')); kept = worker1()" % (text, __file__)
        threads = [threading.Thread(target=interpreters.run_string, args=(i, code)) for i in ids]
        for t in threads: t.start()
        kept = worker0()
        for t in threads: t.join()
    EXPECTED = {0: 300, 1: 600}
"""

PROGRAMS = {"threads": THREADS, "coroutines": COROUTINES, "greenlets": GREENLETS, "generators": GENERATORS, "interpreters": INTERPRETERS}

EXACT = """
    if __name__ == "__main__":
        import signal
        main()
        gc.collect()
        os.kill(os.getpid(), signal.SIGKILL)
"""
TRACKER = """
    if __name__ == "__main__":
        import heapkeeper, json
        with heapkeeper.Tracker() as tracker:
            main()
            gc.collect()
            found = tracker.statistics("traceback")
        print(json.dumps([[s.frames, s.size, s.count] for s in found]), flush=True)
        os._exit(0)
"""


def functions_by_line(text):
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.update(dict.fromkeys(range(node.body[0].lineno, node.end_lineno + 1), node.name))
    return found


def add(found, names, size, count):
    """Blocks of a stack with these functions, innermost first, to those of their worker."""
    if not count or names[:1] != ["block"]:
        return
    workers = [name for name in names if name.startswith("worker")]
    assert workers, "blocks of nobody's: %s" % names
    has = found.setdefault(int(workers[0][6:]), [0, 0])
    has[0] += size
    has[1] += count


def from_record(heapkeeper, program, python):
    done = heapkeeper.run([program], python=python, options=("--exact",))
    assert done.status == -9, done.err.decode(errors="replace")[-3000:]
    report, found = heapkeeper.report(), {}
    check_real_path(report, "killed", python, mode="exact")
    for site in report["sites"]:
        add(found, [frame["function"] for frame in reversed(site["stack"])], site["live_bytes"], site["live_blocks"])
    return found


def from_tracker(heapkeeper, program, python):
    done = heapkeeper.run([program], python=python, options=("--exact",), env=ENVIRONMENT)
    assert done.status == 0, done.err.decode(errors="replace")[-3000:]
    with open(program) as file:
        functions = functions_by_line(file.read())
    found = {}
    for frames, size, count in json.loads(done.out):
        add(found, [functions.get(line, "") for name, line in frames if name == program], size, count)
    return found


@pytest.mark.parametrize("how", ["record", "tracker"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_blocks_are_charged_to_who_asked_for_them(heapkeeper, tmp_path, every_python, name, how):
    if name == "interpreters" and every_python.version < (3, 12):
        pytest.skip("no interpreter has a lock of its own before 3.12")
    if name == "greenlets" and execute([every_python.path, "-c", "import greenlet"]).status != 0:
        pytest.skip("%s has no greenlet" % every_python.path)
    program = str(tmp_path / "program.py")
    text = "".join(map(textwrap.dedent, (BLOCK, PROGRAMS[name], EXACT if how == "record" else TRACKER)))
    with open(program, "w") as file:
        file.write(text)
    found = (from_record if how == "record" else from_tracker)(heapkeeper, program, every_python)
    names = {}
    exec(text[text.index("EXPECTED"):text.index("if __name__")], names)
    assert {number: count for number, (_, count) in found.items()} == names["EXPECTED"]
    for number, (size, count) in found.items():
        if name == "generators":
            assert size == count * (300 + HEADER)
        elif number != 3:  # whose blocks are of two sizes
            assert size == count * (300 + number + HEADER)
        else:
            assert size == 10 * (400 + HEADER) + 40 * (303 + HEADER)
