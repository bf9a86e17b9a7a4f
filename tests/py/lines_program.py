"""Generated functions, each run twice: once while an oracle (lines_oracle.py) writes down each allocation and where the program
is, once under heapkeeper.LineProfile. Prints where the two differ.

    lines_program.py ORACLE FUNCTIONS SEED        usage, by test_line_truth.py

Each line of a generated function first tells the oracle its number, `mark(7); x = bytes(100)`; what calls a function tells it again
afterwards. Nothing is allocated between that and the interpreter's own telling."""

import collections
import ctypes
import gc
import json
import random
import struct
import sys
import threading
import types

import heapkeeper

gc.disable()
oracle_path, how_many, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
library = ctypes.PyDLL(oracle_path)
library.oracle.restype = ctypes.py_object
oracle = library.oracle()
enter, mark, back, leave = oracle.enter, oracle.mark, oracle.back, oracle.leave
draw = random.Random(seed)
R = (1, 2, 3, 4)
MOST_LINES = 150
KEYS = ("a", "b", "c", "d", "e", "f")
ALLOCATED, FREED, RESIZED, ENTERED, MARKED, RETURNED_TO, LEFT = range(7)


@types.coroutine
def rest():
    yield


def drive(coroutine):
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        pass


# --- programs ---


class Source:
    """A function's text. Lines are written with @ for `mark(number)`, and # for `back(number)` behind a call."""

    def __init__(self, name, number, first, arguments=""):
        self.name, self.number, self.line = name, number, first
        self.lines = []

    def add(self, text, indent=1):
        text = text.replace("@", "mark(%d)" % self.line).replace("#", "back(%d)" % self.line).replace("FUNCTION", "%d" % self.number)
        self.lines.append("    " * indent + text)
        self.line += 1


def variable():
    return "v%d" % draw.randrange(4)


PLAIN = [
    lambda s: s.add("@; %s = bytes(%d)" % (variable(), draw.choice((10, 100, 700, 5000, 70000, 400000)))),
    lambda s: s.add("@; %s = bytearray(%d)" % (variable(), draw.choice((50, 600, 3000, 90000)))),
    lambda s: s.add("@; %s = None" % variable()),
    lambda s: s.add("@; w = bytearray(%d); w += bytes(%d); %s = w; w = None" % (draw.randrange(2000), draw.randrange(30000), variable())),
    lambda s: s.add("@; %s = bytes(%d) + bytes(%d)" % (variable(), draw.randrange(1, 600), draw.randrange(1, 60000))),
]
SLICE = lambda s: s.add("@; w = bytearray(%d); del w[%d:]; %s = w" % (draw.randrange(9000, 200000), draw.randrange(1, 9000), variable()))
OBJECTS = [
    lambda s: s.add("@; %s = [None] * %d" % (variable(), draw.randrange(1, 3000))),
    lambda s: s.add("@; %s = [bytes(%d) for q in R]" % (variable(), draw.randrange(1, 3000))),
    lambda s: s.add("@; %s = {k: bytes(%d) for k in KEYS}" % (variable(), draw.randrange(1, 300))),
    lambda s: s.add("@; %s = {(k, %d) for k in KEYS}" % (variable(), draw.randrange(9))),
    lambda s: s.add("@; %s = sum(len(bytes(%d)) for q in R)" % (variable(), draw.randrange(1, 3000))),
    lambda s: s.add("@; %s = (lambda n: bytes(n))(%d)" % (variable(), draw.randrange(1, 3000))),
    lambda s: s.add("@; %s = ''.join(map(str, R)) * %d" % (variable(), draw.randrange(1, 300))),
    lambda s: s.add("@; w = []; w.append(%d); w.extend(R); %s = w; w = None" % (draw.randrange(100), variable())),
    lambda s: s.add("@; w = KEYS.index; %s = [w(k) for k in KEYS]; w = None" % variable()),
    lambda s: s.add("@; %s = 1 << %d" % (variable(), draw.randrange(100, 90000))),
    lambda s: s.add("@; %s = [q * 1.5 for q in R]" % variable()),
    lambda s: s.add("@; %s = f'{KEYS!r:>%d}'" % (variable(), draw.randrange(30, 300))),
    lambda s: s.add("@; %s = sorted(KEYS, key=lambda k: k * %d)" % (variable(), draw.randrange(1, 9))),
]


def loop(s, simple):
    s.add("@; i = 0")
    s.add("while @ is None and i < %d:" % draw.randrange(1, 5))
    for _ in range(draw.randrange(1, 3)):
        text = Source("", s.number, s.line)
        draw.choice(simple)(text)
        s.lines.append("    " + text.lines[0])
        s.line += 1
    s.add("@; i += 1", 2)


def caught(s):
    s.add("try:")
    s.add("@; raise MemoryError", 2)
    s.add("except MemoryError:")
    s.add("@; %s = bytes(%d)" % (variable(), draw.randrange(4000)), 2)


def function(number, first, callable_, simple):
    """(name, text, how it is called, how many lines that runs) of a function that may call those before it."""
    kind = draw.choice(("plain", "plain", "recursive", "generator", "coroutine")) if callable_ is not None else "plain"
    if sys.version_info < (3, 11):  # frames are objects there, and come from a free list or do not; StopIteration is made for tracing
        kind, callable_ = {"recursive": "generator", "coroutine": "plain"}.get(kind, kind), callable_ and []
    name = "f%d" % number
    s, cost = Source(name, number, first), 0
    s.add({"plain": "def %s():", "recursive": "def %s(depth=3):", "generator": "def %s():", "coroutine": "async def %s():"}[kind] % name, 0)
    s.add("enter(FUNCTION); @; v0 = v1 = v2 = v3 = None")
    for _ in range(draw.randrange(3, 9)):
        what = draw.random()
        if what < 0.12:
            loop(s, simple)
        elif what < 0.2 and callable_ is not None:
            caught(s)
        elif what < 0.45 and callable_:
            other, how, more = draw.choice(callable_)
            cost += more
            s.add("@; %s = %s; #" % (variable(), how % other))
        elif what < 0.6 and kind == "generator":
            s.add("@; leave(); yield v0; enter(FUNCTION); mark(%d)" % s.line)
        elif what < 0.6 and kind == "coroutine":
            s.add("@; w = rest(); leave(); await w; enter(FUNCTION); mark(%d); w = None" % s.line)
        else:
            draw.choice(simple)(s)
    if kind == "recursive":
        s.add("@; v1 = %s(depth - 1) if depth else None; #" % name)
        draw.choice(simple)(s)
    if kind == "generator":
        s.add("@; leave(); yield v1; enter(FUNCTION); mark(%d)" % s.line)
    s.add("@; v2 = None")
    s.add("@; leave(); return v0")
    return name, "\n".join(s.lines) + "\n", {"generator": "list(%s())", "coroutine": "drive(%s())"}.get(kind, "%s()"), \
        (cost + len(s.lines)) * (4 if kind == "recursive" else 1)


def fill_list_of_tuples():
    made = [tuple([None] * size) for size in (1, 2, 3) for _ in range(500)]
    del made


# --- truth ---

Figures = collections.namedtuple("Figures", "net allocated freed blocks")


def truth(data):
    """{function: {line: Figures}} of what was written down: what happens belongs to the newest line of each function that runs in the
    thread, of a recursion to the innermost."""
    found = collections.defaultdict(lambda: collections.defaultdict(lambda: [0, 0, 0]))
    stacks = collections.defaultdict(list)

    def charge(stack, allocated, freed, blocks):
        seen = set()
        for function, line in reversed(stack):
            if function in seen or line is None:
                continue
            seen.add(function)
            figures = found[function][line]
            figures[0] += allocated
            figures[1] += freed
            figures[2] += blocks

    for thread, kind, size, had in struct.iter_unpack("QQQQ", data):
        stack = stacks[thread]
        if kind == ENTERED:
            stack.append([size, None])
        elif kind in (MARKED, RETURNED_TO):
            if stack:
                stack[-1][1] = size
        elif kind == LEFT:
            if stack:
                stack.pop()
        elif kind == ALLOCATED:
            charge(stack, size, 0, 1)
        elif kind == FREED:
            charge(stack, 0, had, 0)
        elif size < had:
            charge(stack, 0, had - size, 0)
        else:
            charge(stack, size, had, 1)
    return {function: {line: Figures(a - f, a, f, b) for line, (a, f, b) in lines.items()} for function, lines in found.items()}


def measured(profile, numbers):
    return {numbers[f.name]: {l.line: Figures(l.net, l.allocated, l.freed, l.blocks) for l in f.lines} for f in profile.functions()}


def differences(title, true, seen, times=1):
    nothing = Figures(0, 0, 0, 0)
    for function, lines in seen.items():
        for line, figures in lines.items():
            expected = Figures(*(times * n for n in true.get(function, {}).get(line, nothing)))
            if figures != expected:
                yield "%s f%d line %d: %s, truth %s" % (title, function, line, tuple(figures), tuple(expected))


def main():
    names, lines, found, compared, in_threads = {}, 1, [], 0, 0
    text, numbers, callable_, plain = "", {}, [], []
    alone = PLAIN + [SLICE] * (sys.version_info >= (3, 11))  # before, threads share one slice, which is in use or not
    for number in range(how_many):
        is_plain = number % 5 == 0
        some = [known for known in callable_ if known[2] < MOST_LINES][-12:]
        name, source, how, cost = function(number, lines, None if is_plain else some, alone if is_plain else PLAIN + [SLICE] + OBJECTS)
        if is_plain:
            plain.append(name)
        callable_.append((name, how, cost))
        numbers[name] = number
        text += source
        lines += source.count("\n")
    with open("generated.py", "w") as file:
        file.write(text)
    exec(compile(text, "generated.py", "exec"), globals(), names)
    globals().update(names)
    calls = {name: how for name, how, _ in callable_}

    def how_to(name):
        return compile(calls[name] % name, "call", "eval")

    def run(code, times=1):
        for _ in range(times):
            eval(code)

    every = heapkeeper.LineProfile(*(names[name] for name in calls))
    for name in calls:
        code = how_to(name)
        with every:
            run(code, 3)
            every.reset()
            run(code)
            seen = measured(every, numbers)
        run(code, 3)
        oracle.begin()
        run(code)
        true = truth(oracle.end())
        found += differences(name, true, seen)
        compared += sum(len(of) for of in true.values())

    # The same in threads, with one that is not profiled and allocates all the time. Only what has no free lists, which threads share.
    if sys.version_info < (3, 11):  # arguments are packed into tuples, of which there is a list: it is not to be empty, nor full
        fill_list_of_tuples()
    for name in plain:
        code, stop = how_to(name), threading.Event()
        run(code, 2)
        oracle.begin()
        run(code)
        true = truth(oracle.end())
        sys.setswitchinterval(1e-5)

        def noise():
            while not stop.is_set():
                bytes(3000), bytearray(90000)

        threads = [threading.Thread(target=run, args=(code, 5)) for _ in range(3)]
        other = threading.Thread(target=noise)
        with every:
            run(code, 2)
            every.reset()
            other.start()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seen = measured(every, numbers)
        stop.set()
        other.join()
        found += differences("threads", true, seen, 15)
        in_threads += sum(len(of) for of in true.values())
    print(json.dumps({"differences": found, "compared": compared, "compared_in_threads": in_threads}))


main()
