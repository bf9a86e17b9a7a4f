"""Deep stacks of `run --exact`: from 3.13 on a walk ends at a mark in a frame, before it is compared with the last one.
Both find what a walk of all frames finds, and nobody sees the marks."""

import os
import re

import pytest

from conftest import COMMAND, TREE, check_real_path, execute

EXACT = ("--exact",)
PROGRAM = os.path.join(TREE, "tests", "py", "exact_stacks_program.py")
COMPARE = {"HEAPKEEPER_TEST_COMPARE_STACKS": "1"}  # with each allocation


def compared(text):
    """(stacks, those that differ, those that were not walked to the end)."""
    match = re.search(r"stacks: (\d+) compared, (\d+) differ, (\d+) not walked", " ".join(text.decode().split()))
    return match and tuple(map(int, match.groups()))


@pytest.mark.parametrize("seed", [10, 20, 30])
def test_random_calls_have_the_stacks_of_a_plain_walk_and_see_no_marks(heapkeeper, every_python, seed):
    words = [PROGRAM, str(seed)]
    stock = heapkeeper.stock(words, python=every_python)
    ours = heapkeeper.run(words, python=every_python, options=EXACT, env=COMPARE)
    assert stock.status == 0, stock.err
    assert ours.said == stock.said
    text = heapkeeper.text()  # with all stacks it is 300 MB
    assert b"exact" in text or b" events" in text
    stacks, differ, shortened = compared(text)
    assert differ == 0
    assert stacks > 100000 and shortened > stacks / 2


def test_each_level_of_a_recursion_is_a_site_of_its_own_on_the_way_down_and_up(heapkeeper, every_python):
    heapkeeper.good("""
        import sys
        sys.setrecursionlimit(5000)
        kept = [None] * 1000
        def down(n):
            kept[n] = bytes(10000)
            if n:
                down(n - 1)
            kept[n + 300] = bytes(20000)
        down(249)
    """, python=every_python, options=EXACT)
    report = heapkeeper.report()
    check_real_path(report, python=every_python, mode="exact")
    found = {}
    for site in report["sites"]:
        if site["function"] == "down" and site["live_bytes"] > 10000:
            assert site["domain"] == "object"
            depth = sum(frame["function"] == "down" for frame in site["stack"])
            found.setdefault(depth, []).append((site["live_bytes"], site["live_blocks"]))
    assert {depth: sorted(sizes) for depth, sizes in found.items()} == {
        depth: [(10033, 1), (20033, 1)] for depth in range(1, 251)}


def test_more_stacks_than_the_cache_holds_keep_their_sites_in_any_order(heapkeeper, python):
    """40 000 stacks, four times: as they came first, the other way around, as chance wants it, and after so many code objects have died that all
    keys are worthless. Each of the lines that allocate has a size of its own: a stack that was taken for another would move bytes."""
    lines, callers = 400, 100
    heapkeeper.good("""
        import random
        kept = [None]
        def made(text, name):
            space = {"kept": kept}
            exec(compile(text, "many.py", "exec"), space)
            return space[name]
        leaf = made("def leaf(line, kept=kept):\\n" + "".join(
            " %%s line == %%d: kept[0] = bytes(%%d)\\n" %% ("elif" if line else "if", line, 100 + line) for line in range(%d)), "leaf")
        call = made("def call(caller, line, leaf):\\n" + "".join(
            " %%s caller == %%d: leaf(line)\\n" %% ("elif" if caller else "if", caller) for caller in range(%d)), "call")
        order = [(caller, line) for caller in range(%d) for line in range(%d)]
        def go():
            for caller, line in order:
                call(caller, line, leaf)
        def die():
            for number in range(200):
                made("def work(kept): kept[0] = bytes(5000)", "work")(kept)
        for prepare in int, order.reverse, lambda: random.Random(1).shuffle(order), die:
            prepare()
            go()
    """ % (lines, callers, callers, lines), python=python, options=EXACT)
    done = execute([COMMAND, "table", "--json", "--limit", "0", heapkeeper.output])
    assert done.status == 0, done.err
    rows = {row["line"]: row for row in done.json["rows"] if row["function"] == "leaf"}
    first = 0
    if python.version < (3, 11):  # the caches that the interpreter makes when a function is called for the 1024th time
        del rows[1], rows[2]
        first = 1
    assert {line - 2: (row["total_blocks"], row["total_bytes"]) for line, row in rows.items()} == {
        line: (4 * callers, 4 * callers * (100 + line + 33)) for line in range(first, lines)}
    assert all(row["sites"] == callers for row in rows.values())


def test_greenlets_have_stacks_of_their_own(heapkeeper, python):
    """Greenlets move a thread from one stack to another, and take the interpreter's own frames out meanwhile."""
    pytest.importorskip("greenlet")
    heapkeeper.good("""
        import random
        from greenlet import greenlet, getcurrent
        rng, main, kept = random.Random(5), getcurrent(), {}
        def down(n, body):
            made = [n, str(n + 1000)]
            return down(n - 1, body) if n else body(made)
        def allocating(number):
            def body(made):
                for i in range(40):
                    kept[number, i] = down(rng.randrange(60), lambda made: bytes(10000 + number))
                    main.switch(i)
            return body
        first = {}
        for number in range(5):
            exec("def worker%d(): down(rng.randrange(30, 90), allocating(%d))" % (number, number), globals(), first)
        workers = [greenlet(first["worker%d" % number]) for number in range(5)]
        def switch(made):
            for worker in workers: worker.switch()
        for _ in range(40):
            rng.shuffle(workers)
            down(rng.randrange(50), switch)
    """, python=python, options=EXACT)
    report = heapkeeper.report()
    check_real_path(report, python=python, mode="exact")
    blocks = {}
    for site in report["sites"]:
        if site["live_blocks"] and site["live_bytes"] / site["live_blocks"] > 10000 and site["function"] == "<lambda>":
            names = [frame["function"] for frame in site["stack"]]
            [worker] = [name for name in names if name.startswith("worker")]
            assert names[0] == worker and site["live_bytes"] == site["live_blocks"] * (10033 + int(worker[6:]))
            blocks[worker] = blocks.get(worker, 0) + site["live_blocks"]
    assert blocks == {"worker%d" % number: 40 for number in range(5)}


def test_what_looks_into_frames_sees_what_is_there_without_us(heapkeeper, every_python):
    code = """
        import bdb, gc, inspect, io, pdb, sys, traceback
        class K:
            def __init__(self, n): self.value = bytes(n) and deep(n)
        def look():
            out, frame = [], sys._getframe()
            while frame:
                out.append((frame.f_code.co_name, sorted(frame.f_locals) if frame.f_back else len(frame.f_locals) > 5))
                frame = frame.f_back
            return out[:3], len(out), [sorted(i.frame.f_locals) for i in inspect.stack()[1:5]]
        def deep(n):
            made = [n, str(n + 1000)]
            if n % 50 == 49:
                return K(n - 1).value
            if n:
                return deep(n - 1)
            exec("made.append(1)")
            eval("[bytes(x) for x in range(30)]")
            debugger = pdb.Pdb(stdin=io.StringIO("up\\nup\\np sorted(locals())\\np n\\nargs\\nwhere 3\\ncontinue\\n"),
                               stdout=io.StringIO(), nosigint=True)
            debugger.set_trace(sys._getframe())
            made.append(bytes(10))
            sys.settrace(None)
            return look(), sorted(locals()), vars() is not None, len(traceback.extract_stack())
        def failing(n):
            made = bytes(n)
            return failing(n - 1) if n else [][0]
        sys.setrecursionlimit(3000)
        print(deep(300))
        try:
            failing(200)
        except IndexError:
            last = sys.exc_info()[2]
            while last.tb_next: last = last.tb_next
            print(sorted(last.tb_frame.f_locals), len(traceback.format_exc()))
            print([type(x).__name__ for x in gc.get_referents(last.tb_frame) if not isinstance(x, (dict, type(last.tb_frame)))])
        print(len([x for x in gc.get_objects() if type(x) is object]))
    """
    stock = heapkeeper.stock(code, python=every_python)
    assert stock.status == 0, stock.err
    assert heapkeeper.run(code, python=every_python, options=EXACT).said == stock.said
