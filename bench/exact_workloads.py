"""Ten small programs that allocate, for bench/exact.py: what does it cost to record every block?

    python3 exact_workloads.py [NAME ...] [--repeat N] [--tracemalloc FRAMES]
    python3 exact_workloads.py [NAME ...] --minutes M

runs each workload N times in this process, once more before to warm up, and prints one line of JSON:
{name: [CPU seconds of each call]}. Each takes 30 to 150 ms on a 2024 server core, keeps nothing, and returns a number
that depends on nothing but the code, which is compared with the first call's. With --minutes they are called in turn, whole rounds,
until the time is over, and the line is {"rounds": N}.

`stdlib` is no eleventh of them but a program as they are: imports most of the standard library, parses it, keeps the trees
and writes them out again. It takes some seconds, is called once, and has hundreds of thousands of different stacks.
`native` is another whose memory is mostly the C library's (sqlite, zlib, expat): for what --native costs.

Standard library only, CPython 3.9 and later.
"""

import ast
import gc
import importlib
import json
import os
import re
import sys
import time
import warnings

SOURCE = "\n".join(
    "def function_%d(first, second=%d, *rest, **named):\n"
    "    '''Text of number %d.'''\n"
    "    if first > second:\n"
    "        return [first * item + %d for item in rest if item]\n"
    "    return {key: (value, str(value)) for key, value in named.items()}\n" % (i, i, i, i) for i in range(120))

DOCUMENT = {
    "orders": [
        {"id": i, "name": "customer %d" % i, "lines": [{"sku": "s%d" % k, "price": k * 1.25, "gift": k % 2 == 0}
                                                       for k in range(5)], "note": None if i % 3 else "text " * 5}
        for i in range(150)]
}


def work_json():
    """Encodes and decodes a document."""
    total = 0
    for _ in range(40):
        text = json.dumps(DOCUMENT)
        total += len(json.loads(text)["orders"]) + len(text)
    return total


def work_ast():
    """Parses, walks and compiles source."""
    count = 0
    for _ in range(2):
        tree = ast.parse(SOURCE)
        count += sum(1 for _ in ast.walk(tree))
        compile(tree, "source", "exec")
    return count


class Point:
    def __init__(self, x, y):
        self.x = x
        self.y = y

    def plus(self, other):
        return Point(self.x + other.x, self.y + other.y)


def work_objs():
    """Instances that make instances; half of them stay for a while."""
    kept, step = [], Point(1000, 2000)
    for i in range(80000):
        point = Point(i + 1000, i).plus(step)
        if i % 2:
            kept.append(point)
    return kept[-1].x + len(kept)


def work_dictlist():
    """Builds and drops dicts and lists."""
    total = 0
    for i in range(60000):
        table = {"a": i, "b": [i, i + 1], "c": {"d": i}}
        table["e"] = [n for n in range(8)]
        total += len(table) + len(table["e"])
    return total


def work_str():
    """Strings: formatted, split, joined."""
    total = 0
    for i in range(80000):
        text = "item %d of the list" % (i + 1000)
        total += len("-".join(text.upper().split(" ")) + text[3:9])
    return total


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def work_fib():
    """Calls, and hardly an allocation: what is paid for nothing."""
    return fib(27)


def down(depth):
    if depth:
        return down(depth - 1)
    total = 0
    for i in range(8000):
        total += len([i, [str(i + 1000)]])
    return total


def work_deep():
    """Allocates at the bottom of 600 frames."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(2000)
    try:
        return sum(down(600) for _ in range(20))
    finally:
        sys.setrecursionlimit(limit)


def numbers(n):
    for i in range(n):
        yield str(i + 1000)


def pairs(source):
    for item in source:
        yield item, item + "x"


def work_gen():
    """Generators that feed each other."""
    return sum(len(a) + len(b) for a, b in pairs(numbers(150000)))


def work_regex():
    """Matches and substitutes."""
    text = "alpha=1, beta=22, gamma=333; " * 200
    found = 0
    for _ in range(70):
        found += len(re.findall(r"(\w+)=(\d+)", text))
        found += len(re.sub(r"[aeiou]+", lambda match: match.group().upper(), text))
    return found


def work_ctl():
    """Integers that come and go; from 3.14 on they have a free list."""
    a = 0
    for _ in range(120):
        for j in range(6000):
            a = (a + j) & 1023
    return a


WORKLOADS = {name[5:]: function for name, function in list(globals().items()) if name.startswith("work_")}

NOT_IMPORTED = ("antigravity", "this", "idlelib", "turtledemo", "turtle", "lib2to3", "test", "tests", "ensurepip", "pydoc_data", "tkinter",
                "site-packages", "dist-packages", "__phello__", "__pycache__", "msilib", "_pyrepl", "pip")


def modules_of_stdlib():
    """[(name, path)] in a fixed order."""
    top, found = os.path.dirname(os.__file__), []
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if name.isidentifier() and name not in NOT_IMPORTED)
        package = os.path.relpath(folder, top).replace(os.sep, ".")
        for name in sorted(names):
            if name.endswith(".py") and name[:-3].isidentifier() and name[:-3] not in NOT_IMPORTED and name != "__main__.py":
                whole = ("" if package == "." else package + ".") + name[:-3]
                found.append((whole[:-9] if whole.endswith(".__init__") else whole, os.path.join(folder, name)))
    return found


def program_stdlib():
    trees, size = [], 0
    for name, path in modules_of_stdlib():
        try:
            importlib.import_module(name)
        except Exception:  # of another system, or deprecated
            pass
        with open(path, "rb") as file:
            trees.append(ast.parse(file.read()))
    for tree in trees:
        size += len(ast.unparse(tree))
    return size


def program_native():
    """Most of its memory is asked for by C code: a database, many small compressions, XML."""
    import sqlite3
    import xml.etree.ElementTree
    import zlib
    base, size = sqlite3.connect(":memory:"), 0
    base.execute("create table t(id integer primary key, name text, value real)")
    base.executemany("insert into t(name, value) values(?, ?)", (("name %d" % (i * 7919 % 200000), i * 0.5) for i in range(200000)))
    base.execute("create index by_name on t(name)")
    for i in range(10000):
        size += len(base.execute("select * from t where name between ? and ? order by value", ("name %d" % i, "name %d0" % i)).fetchall())
    for i in range(10000):
        size += len(zlib.decompress(zlib.compress(b"text %d " % i * 20)))
    text = "<a>" + "<b c='1'>text<d/></b>" * 500 + "</a>"
    for _ in range(120):
        size += sum(1 for _ in xml.etree.ElementTree.fromstring(text).iter())
    return size


PROGRAMS = {"stdlib": program_stdlib, "native": program_native}


def main():
    words, repeat, frames, minutes = [], 5, 0, 0
    arguments = iter(sys.argv[1:])
    for word in arguments:
        if word == "--repeat":
            repeat = int(next(arguments))
        elif word == "--tracemalloc":
            frames = int(next(arguments))
        elif word == "--minutes":
            minutes = float(next(arguments))
        else:
            words.append(word)
    if frames:
        import tracemalloc
        tracemalloc.start(frames)
    if minutes:
        until, rounds = time.monotonic() + 60 * minutes, 0
        while time.monotonic() < until:
            for name in words or WORKLOADS:
                WORKLOADS[name]()
            rounds += 1
        return print(json.dumps({"rounds": rounds}), flush=True)
    seconds = {}
    for name in words or WORKLOADS:
        if name in PROGRAMS:
            warnings.simplefilter("ignore")
            start = time.process_time()
            PROGRAMS[name]()
            seconds[name] = [time.process_time() - start]
            continue
        work = WORKLOADS[name]
        expected, seconds[name] = work(), []
        for _ in range(repeat):
            gc.collect()
            start = time.process_time()
            result = work()
            seconds[name].append(time.process_time() - start)
            if result != expected:
                sys.exit("%s: %r instead of %r" % (name, result, expected))
    print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
