"""Run by the Python under test, with frames_probe preloaded; prints one JSON object. Standard library only, 3.9-3.15.

    frames_program.py stacks     stacks in the allocation hook against tracemalloc and sys._getframe
    frames_program.py lines N    the reader's lines against the interpreter's, every Nth file of the standard library
"""

import ctypes
import json
import sys

probe = ctypes.PyDLL(None)


class Stats(ctypes.Structure):
    _fields_ = [("calls", ctypes.c_uint64 * 3), ("walks", ctypes.c_uint64), ("frames", ctypes.c_uint64),
                ("bad_code", ctypes.c_uint64), ("bad_offset", ctypes.c_uint64), ("truncated", ctypes.c_uint64),
                ("in_jit", ctypes.c_uint64), ("no_state", ctypes.c_uint64 * 3), ("state_differs", ctypes.c_uint64),
                ("max_depth", ctypes.c_uint64), ("interpreters_announced", ctypes.c_uint64), ("self_tests", ctypes.c_int32), ("self_test_passed", ctypes.c_int32),
                ("self_test_why", ctypes.c_char * 120)]


class Kept(ctypes.Structure):
    _fields_ = [("file", ctypes.c_uint64), ("line", ctypes.c_int32), ("prologue", ctypes.c_int32)]


class Frame(ctypes.Structure):
    _fields_ = [("code", ctypes.c_void_p), ("offset", ctypes.c_int32)]


class Code(ctypes.Structure):
    _fields_ = [("filename", ctypes.c_void_p), ("name", ctypes.c_void_p), ("qualname", ctypes.c_void_p),
                ("linetable", ctypes.c_void_p), ("firstlineno", ctypes.c_int32), ("units", ctypes.c_uint32),
                ("first_traceable", ctypes.c_uint32)]


probe.probe_lookup.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
probe.probe_walk.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
probe.probe_code.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
probe.probe_string.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
probe.probe_string.restype = ctypes.c_size_t
probe.probe_facts.restype = ctypes.c_char_p
probe.probe_lines.argtypes = [ctypes.c_void_p] * 4

FRAMES = (Frame * 20000)()


def facts():
    out = (ctypes.c_int64 * 9)()
    why = probe.probe_facts(out).decode()
    names = "stacks minor version free_threaded debug source interpreter_size interpreter_id own_gil".split()
    return dict(zip(names, out), why=why)


def stats():
    s = Stats()
    probe.probe_stats(ctypes.byref(s))
    result = {name: getattr(s, name) for name, _ in Stats._fields_}
    result["calls"], result["no_state"] = list(s.calls), list(s.no_state)
    result["self_test_why"] = s.self_test_why.decode()
    return result


def ask_check(function):
    why = ctypes.create_string_buffer(200)
    return why.value.decode() if not function(why, ctypes.c_size_t(200)) else ""


# --- objects made in every kind of frame; each test adds (what, object) ------------------------------------------

kept = []


def keep(what, thing):
    kept.append((what, thing))
    return thing


def fresh():
    """An object that no free list holds: tracemalloc corrects its trace when a list hands one out, a hook is not called."""
    return bytearray(40)


def recursion(depth):
    if depth == 0:
        return keep("recursion", fresh())
    recursion(depth - 1)


def generator(n):
    for i in range(n):
        keep("generator", fresh())
        yield i


def delegating(n):
    yield from generator(n)
    keep("yield from, after", fresh())


def closures():
    cell = fresh()

    def inner():
        keep("closure", fresh())
        return cell
    keep("function", inner)
    inner()


class Plain:
    def __init__(self, depth=2):
        keep("__init__", fresh())
        if depth:
            self.child = Plain(depth - 1)
        self.data = keep("__init__, after", fresh())


class Derived(Plain):
    def __init__(self):
        super().__init__(1)
        keep("__init__ of a subclass", fresh())


class Meta(type):
    def __new__(mcs, name, bases, space):
        keep("metaclass __new__", fresh())
        return super().__new__(mcs, name, bases, space)

    def __init__(cls, name, bases, space):
        keep("metaclass __init__", fresh())

    def __call__(cls, *args):
        keep("metaclass __call__", fresh())
        return super().__call__(*args)


def classes():
    class Made(metaclass=Meta):
        keep("class body", fresh())

        def __init__(self):
            keep("__init__ below a metaclass", fresh())

        def __del__(self):
            keep("__del__", fresh())

        @property
        def value(self):
            return keep("property", fresh())

        def __getattr__(self, name):
            return keep("__getattr__", fresh())

        def __lt__(self, other):
            keep("__lt__", fresh())
            return id(self) < id(other)
    for _ in range(3):
        Plain()
        Derived()
        made = Made()
        made.value, made.missing
        sorted([Made(), Made(), Made()])
        del made


def comprehensions():
    [keep("list comprehension", fresh()) for _ in range(3)]
    {keep("set comprehension", id(fresh())) for _ in range(3)}
    {i: keep("dict comprehension", fresh()) for i in range(3)}
    list(keep("generator expression", fresh()) for _ in range(3))
    [[keep("nested comprehension", fresh()) for _ in range(2)] for _ in range(2)]
    sorted([3, 1, 2], key=lambda n: keep("sort key", fresh()) and n)
    list(map(lambda n: keep("lambda below map", fresh()), range(3)))


def dynamic():
    space = {"keep": keep, "fresh": fresh}
    exec("def made():\n    pass\n    keep('exec', fresh())\nmade()\nkeep('exec, top', fresh())\n", space)
    eval("keep('eval', fresh())", space)
    exec(compile("\n\nkeep('a file name that is not ASCII', fresh())\n", "/tmp/\u00fc\u20ac\U0001f600.py", "exec"), space)
    exec(compile("keep('a surrogate in the file name', fresh())\n", "/tmp/\udc80.py", "exec"), space)
    import re
    re.sub("a", lambda m: keep("re.sub", fresh()) and "b", "aaa")
    json.loads('[{"a": 1}, {"b": 2}]', object_hook=lambda d: keep("json hook", fresh()))


def unwinding():
    for _ in range(3):
        try:
            try:
                raise ValueError(keep("raise", fresh()))
            finally:
                keep("finally", fresh())
        except ValueError as error:
            keep("except", fresh())
            keep("traceback", error.__traceback__.tb_frame)
    import contextlib

    @contextlib.contextmanager
    def manager():
        keep("with, enter", fresh())
        yield
        keep("with, exit", fresh())
    with manager():
        keep("with, body", fresh())


def coroutines():
    import asyncio

    async def leaf(n):
        await asyncio.sleep(0)
        keep("coroutine", fresh())
        return n

    async def ticks():
        for i in range(3):
            keep("async generator", fresh())
            yield i

    async def main():
        await asyncio.gather(*[leaf(i) for i in range(5)])
        async for _ in ticks():
            keep("async for", fresh())
        [keep("async comprehension", fresh()) async for _ in ticks()]
        await asyncio.get_running_loop().run_in_executor(None, lambda: keep("executor", fresh()))
    asyncio.run(main())


def threads():
    import threading

    def work():
        for i in range(50):
            keep("thread", fresh())
        recursion(20)
    crew = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in crew]
    [t.join() for t in crew]


class Dict(dict):
    """Unlike dict itself, never from a free list."""


def data():
    keep("dict", Dict((str(i), i) for i in range(100)))
    keep("tuple", tuple(range(300)))
    keep("str", "ab" * 1000)
    keep("int", 1 << 5000)
    keep("set", set(range(100)))
    keep("bytes", bytes(2000))
    grows = keep("bytearray that grew", bytearray())
    for i in range(1000):
        grows.append(i & 255)


def everything():
    for depth in (0, 1, 30, 80):
        recursion(depth)
    list(generator(5))
    list(delegating(5))
    closures()
    classes()
    comprehensions()
    dynamic()
    unwinding()
    coroutines()
    threads()
    data()


# --- comparisons --------------------------------------------------------------------------------------------------

def stored(text):
    """Bytes that surrogates stand for are themselves (PEP 383), other surrogates have no bytes."""
    return "".join("\ufffd" if 0xD800 <= ord(c) < 0xDC80 or 0xDD00 <= ord(c) < 0xE000 else c for c in text).encode("utf-8", "surrogateescape")


def fnv(text):
    h = 0xcbf29ce484222325
    for byte in stored(text):
        h = (h ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return h


def stack_in_hook(thing):
    """[(file hash, line, is prologue)], innermost first; the block may begin before the object (GC head, dict)."""
    out, depth = (Kept * 96)(), ctypes.c_int()
    for before in (0, 16, 32):
        n = probe.probe_lookup(id(thing) - before, out, ctypes.byref(depth))
        if n >= 0:
            return [(k.file, k.line, k.prologue) for k in out[:n]]
    return None


def compare_with_tracemalloc():
    """How many objects were compared, and what differs."""
    import asyncio, concurrent.futures.thread, contextlib, re, threading, tracemalloc  # noqa: E401, F401
    everything()
    kept.clear()
    tracemalloc.start(96)
    probe.probe_record(1)
    everything()
    probe.probe_record(0)
    same, lacking, wrong, kinds = 0, 0, [], set()
    for what, thing in kept:
        traced = tracemalloc.get_object_traceback(thing)
        if traced is None:
            continue
        ours = stack_in_hook(thing)
        if ours is None:
            lacking += 1
            continue
        theirs = [(fnv(f.filename), f.lineno) for f in reversed(list(traced))]
        whole = [(f, line) for f, line, _ in ours]
        begun = [(f, line) for f, line, prologue in ours if not prologue]
        if theirs in (whole, begun):
            same += 1
            kinds.add(what)
        else:
            wrong.append([what, [f"{f.filename}:{f.lineno}" for f in reversed(list(traced))],
                          [f"{f:x}:{line}" for f, line in whole]])
    tracemalloc.stop()
    return {"same": same, "lacking": lacking, "wrong": wrong[:5], "wrong_count": len(wrong), "kinds": sorted(kinds)}


def python_stack():
    frame, result = sys._getframe(1), []
    while frame:
        result.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return result


def walk_here():
    """What differs between the walk and sys._getframe, seen from one and the same caller."""
    truncated = ctypes.c_int()
    n = probe.probe_walk(FRAMES, 20000, ctypes.byref(truncated))
    walked = [(f.code, f.offset) for f in FRAMES[1:n]]
    real = python_stack()[1:]
    walked = [(code, -1 if offset < 0 else offset) for code, offset in walked]
    return [pair for pair in zip(walked, real) if pair[0] != pair[1]] or ([] if len(walked) == len(real) else
                                                                        [["length", len(walked), len(real)]])


def compare_with_getframe():
    wrong, seen = [], 0

    def check():
        nonlocal seen
        seen += 1
        wrong.extend(walk_here())

    def deep(n):
        return deep(n - 1) if n else check()

    def gen():
        check()
        yield 1
        check()

    async def coro():
        check()

    class Thing:
        def __init__(self):
            check()

        def __eq__(self, other):
            check()
            return True
    sys.setrecursionlimit(25000)
    for n in (0, 5, 500, 3000):
        deep(n)
    list(gen())
    list(g for g in gen())
    try:
        coro().send(None)
    except StopIteration:
        pass
    for _ in range(60):  # often enough to be specialised
        Thing()
    Thing() == Thing()
    sorted([1, 2], key=lambda n: check() or n)
    [check() for _ in range(2)]
    exec("check()", {"check": check})
    return {"seen": seen, "wrong": wrong[:5]}


def compare_code():
    """What hk_py_code_info and hk_py_copy_string say about some code objects and strings."""
    wrong = []
    here = [f.__code__ for f in globals().values() if hasattr(f, "__code__")]
    here += [m.__code__ for m in vars(json.JSONDecoder).values() if hasattr(m, "__code__")]
    for code in here:
        info = Code()
        if not probe.probe_code(id(code), ctypes.byref(info)):
            wrong.append(code.co_name)
            continue
        table = code.co_lnotab if sys.version_info < (3, 10) else code.co_linetable
        got = (info.filename, info.name, info.firstlineno, info.units * 2)
        if got != (id(code.co_filename), id(code.co_name), code.co_firstlineno, len(code.co_code)):
            wrong.append([code.co_name, got])
        if info.linetable != id(table):
            wrong.append([code.co_name, "line table"])
        if sys.version_info >= (3, 11) and info.qualname != id(code.co_qualname):
            wrong.append([code.co_name, "qualname"])
    for text in ("", "a", "abc" * 50, "\xe9", "\u20ac" * 9, "\U0001f600x", "a\0b", "\ud800", "\udc7f\udd00", "z\udcff\udc80z"):
        buffer = ctypes.create_string_buffer(b"#" * 300, 300)
        n = probe.probe_string(id(text), buffer, 300)
        if buffer.raw[:n + 1] != stored(text) + b"\0":
            wrong.append([ascii(text), buffer.raw[:n + 1].hex()])
    for thing in (1, b"x", None, [], 1.5):
        if probe.probe_code(id(thing), ctypes.byref(Code())) or probe.probe_string(id(thing), ctypes.create_string_buffer(9), 9):
            wrong.append(repr(thing))
    return {"seen": len(here), "wrong": wrong}


def sub_interpreters():
    """{kind: [id, what the probe saw in it: 1 shared lock, 2 own]} where this Python can make interpreters."""
    try:
        try:
            import _interpreters as interpreters
            make, run = interpreters.create, interpreters.exec
        except ImportError:
            import _xxsubinterpreters as interpreters

            def make(kind):
                return interpreters.create(isolated=(kind == "isolated"))
            run = interpreters.run_string
    except ImportError:
        return {}
    seen, locks = {}, (ctypes.c_int * 32)()
    for kind in ("legacy", "isolated"):
        number = make(kind)
        run(number, "def f(n):\n    return [bytes(1000)] * n\nf(5)")
        probe.probe_locks(locks)
        seen[kind] = [int(number), locks[int(number)]]
        interpreters.destroy(number)
    return seen


def lines(step):
    """Every code object in every `step`th file of the standard library."""
    import os
    import sysconfig
    import warnings
    warnings.simplefilter("ignore")
    files = []
    for folder, _, names in os.walk(sysconfig.get_path("stdlib")):
        if "site-packages" not in folder and "dist-packages" not in folder:
            files += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    files = sorted(files)[::step]
    objects, wrong, examples = 0, 0, []
    first, ours, theirs = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    for path in files:
        try:
            with open(path, "rb") as file:
                pending = [compile(file.read(), path, "exec", dont_inherit=True)]
        except (SyntaxError, ValueError):
            continue
        while pending:
            code = pending.pop()
            pending += [c for c in code.co_consts if hasattr(c, "co_code")]
            objects += 1
            n = probe.probe_lines(id(code), ctypes.byref(first), ctypes.byref(ours), ctypes.byref(theirs))
            if n:
                wrong += 1
                examples.append([path, code.co_name, code.co_firstlineno, first.value, ours.value, theirs.value])
            if objects % 17 == 0:
                wrong += bool(public_lines_differ(code, examples))
    return {"files": len(files), "objects": objects, "wrong": wrong, "examples": examples[:5]}


def public_lines_differ(code, examples):
    """The same through Python: co_positions (3.11), co_lines (3.10), dis.findlinestarts (3.9)."""
    import dis
    n = len(code.co_code)
    if hasattr(code, "co_positions"):
        real = [p[0] for p in code.co_positions()]
    elif hasattr(code, "co_lines"):
        real = [None] * (n // 2)
        for start, end, line in code.co_lines():
            real[start // 2:end // 2] = [line] * ((end - start) // 2)
    else:
        starts, real, line = dict(dis.findlinestarts(code)), [], code.co_firstlineno
        for offset in range(0, n, 2):
            line = starts.get(offset, line)
            real.append(line)
    table = bytes(code.co_lnotab if sys.version_info < (3, 10) else code.co_linetable)
    for unit, line in enumerate(real):
        mine = probe.probe_line(sys.version_info[1], table, ctypes.c_size_t(len(table)), code.co_firstlineno, unit * 2)
        if mine != (-1 if line is None else line):
            examples.append([code.co_filename, code.co_name, unit * 2, mine, line])
            return True
    return False


def main():
    if sys.argv[1] == "lines":
        result = lines(int(sys.argv[2]))
    else:
        result = {"facts": facts(), "self_test": ask_check(probe.probe_self_test),
                  "public_check": ask_check(probe.probe_public_check)}
        result["code"] = compare_code()
        result["getframe"] = compare_with_getframe()
        result["tracemalloc"] = compare_with_tracemalloc()
        result["stats"] = stats()
        result["sub_interpreters"] = sub_interpreters()
        result["interpreters_announced"] = stats()["interpreters_announced"]
    print(json.dumps(result))


main()
