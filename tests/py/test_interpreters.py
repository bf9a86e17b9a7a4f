"""Interpreters with their own GIL (3.12 on): a heap each, what they leave behind, hooks that stand before us, what a
record says of them."""

import textwrap

import pytest

from conftest import ENVIRONMENT, check_sums, live_in, total_in

API = """
import ctypes, json, threading
try:
    import _interpreters
    create, execute, destroy = _interpreters.create, _interpreters.exec, _interpreters.destroy
    legacy = lambda: create("legacy")
except ImportError:
    import _xxsubinterpreters as _interpreters
    create, execute, destroy = lambda: _interpreters.create(isolated=True), _interpreters.run_string, _interpreters.destroy
    legacy = lambda: _interpreters.create(isolated=False)

library = ctypes.PyDLL(None)

def stats():
    buffer = ctypes.create_string_buffer(1 << 18)
    length = library.hk_stats_json(buffer, ctypes.c_size_t(len(buffer)))
    assert 0 < length < len(buffer)
    return json.loads(buffer.value.decode())

def own_heaps():
    return [heap for heap in stats()["heaps"] if heap["name"].startswith("interpreter ")]

def run(code):
    made = create()
    assert not execute(made, code)
    destroy(made)

def together(count, work):
    errors = []
    def guarded(number):
        try: work(number)
        except BaseException as error: errors.append(repr(error))
    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not errors, errors
"""


@pytest.fixture
def own_gil(every_python):
    if every_python.version < (3, 12):
        pytest.skip("no interpreter has a GIL of its own before 3.12")
    return every_python


def program(code):
    return API + textwrap.dedent(code)


# --- where the interpreter's tables lie ---

# A call of either function ends the process from `arm` to `disarm`; CPython's own end calls them.
DEADLY = """
libc = ctypes.CDLL(None)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
places = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in ("PyMem_GetAllocator", "PyMem_SetAllocator")]
original = [ctypes.string_at(code, 16) for code in places]

def arm():
    for code in places:
        assert libc.mprotect(code & -4096, 8192, 7) == 0
        ctypes.memmove(code, bytes.fromhex("0f0b") + bytes(14), 16)      # ud2; on AArch64 udf

def disarm():
    for code, before in zip(places, original):
        ctypes.memmove(code, before, 16)
"""


@pytest.mark.parametrize("options", [["--sample=16K"], ["--exact"]], ids=["sampled", "exact"])
def test_no_hook_calls_what_may_give_the_gil_away(heapkeeper, own_gil, options):
    """From 3.13 on PyMem_GetAllocator and PyMem_SetAllocator do, where another thread is in them. 3.12 calls them itself for each
    interpreter."""
    if own_gil.version < (3, 13):
        pytest.skip("its functions keep the GIL")
    code = program("import heapkeeper" + DEADLY + textwrap.dedent("""
    arm()
    def work(number):
        for _ in range(5):
            run("keep = [str(i) * 9 for i in range(30000)]")
    together(3, work)
    with heapkeeper.LineProfile(together):
        together(3, work)
    keep = [bytes(1000) for i in range(100000)]
    disarm()
    print("well")
    """))
    done = heapkeeper.run(code, python=own_gil, options=options, env=ENVIRONMENT)
    assert (done.status, done.out) == (0, b"well\n"), done.err
    assert b"replaced" not in done.err


# --- a heap each ---


def test_each_interpreter_has_a_heap_and_those_with_the_main_gil_have_none(heapkeeper, own_gil):
    done = heapkeeper.good(program("""
        assert own_heaps() == []
        shared = legacy()
        execute(shared, "keep = [bytearray(100) for _ in range(10000)]")
        assert own_heaps() == []
        made = [create() for _ in range(3)]
        for each in made: execute(each, "keep = [bytearray(100) for _ in range(10000)]")
        heaps = own_heaps()
        assert sorted(heap["name"] for heap in heaps) == sorted("interpreter %d" % int(each) for each in made), heaps
        assert all(heap["live_blocks"] > 20000 for heap in heaps), heaps
        assert library.hk_heap_check(None) == 0
        for each in made + [shared]: destroy(each)
        print("good")
    """), python=own_gil)
    assert done.out == b"good\n"


LOAD = """
CODE = '''
kept = {}
for turn in range(2):
    kept[turn] = [bytearray(n) for n in range(0, 3000, 37)], [str(n) * (n % 7) for n in range(400)]
    cycle = [(n, [n], {n: kept}) for n in range(200)]
    cycle[0][1].append(cycle)
    del cycle
import gc
gc.collect()
try: kept["none"]
except KeyError: pass
'''
def cycles(number):
    for _ in range(5):
        run(CODE)
"""


def test_interpreters_run_at_the_same_time_in_threads_and_end(heapkeeper, own_gil):
    done = heapkeeper.good(program(LOAD + """
together(4, cycles)
assert library.hk_heap_check(None) == 0
assert 1 <= len(own_heaps()) <= 4, "heaps are used again"
assert all(heap["name"] == "interpreter (ended)" for heap in own_heaps())
print("good")
"""), python=own_gil)
    assert done.out == b"good\n"
    report = heapkeeper.report()
    if own_gil.version != (3, 12):  # which puts its own RAW functions in force for moments, while other threads allocate
        assert report["recorder"]["foreign_frees"] == 0
    check_sums(report)


def test_raw_functions_that_are_called_with_the_context_of_cpythons_own_serve(heapkeeper, every_python):
    """3.12 exchanges the RAW table for moments, with every interpreter it makes; a thread may see half of each."""
    done = heapkeeper.good(program("""
        class Table(ctypes.Structure):
            _fields_ = [("context", ctypes.c_void_p)] + [(name, ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, *rest))
                for name, *rest in (("malloc", ctypes.c_size_t), ("calloc", ctypes.c_size_t, ctypes.c_size_t),
                                    ("realloc", ctypes.c_void_p, ctypes.c_size_t), ("free", ctypes.c_void_p))]
        table = Table()
        ctypes.pythonapi.PyMem_GetAllocator(0, ctypes.byref(table))
        assert table.context
        blocks = [table.malloc(None, 100), table.calloc(None, 10, 10), table.malloc(None, 9000)]
        blocks = [table.realloc(None, block, 200) for block in blocks]
        assert all(blocks)
        for block in blocks: table.free(None, block)
        print("good")
    """), python=every_python)
    assert done.out == b"good\n"


# Counts the live blocks of all domains, below whatever serves them; for any number of interpreters at a time.
COUNTING = r"""
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stdlib.h>
    typedef struct { void *ctx; void *(*malloc)(void *, size_t); void *(*calloc)(void *, size_t, size_t);
                     void *(*realloc)(void *, void *, size_t); void (*free)(void *, void *); } table;
    static table old[3];
    long blocks;
    static void *count(void *p) { if (p) __atomic_add_fetch(&blocks, 1, 5); return p; }
    static void *m(void *c, size_t n) { table *t = c; return count(t->malloc(t->ctx, n)); }
    static void *z(void *c, size_t k, size_t n) { table *t = c; return count(t->calloc(t->ctx, k, n)); }
    static void *r(void *c, void *p, size_t n) { table *t = c; void *q = t->realloc(t->ctx, p, n); return p ? q : count(q); }
    static void f(void *c, void *p) { table *t = c; if (p) __atomic_sub_fetch(&blocks, 1, 5); t->free(t->ctx, p); }
    void start(void)
    {
        void (*get)(int, table *) = dlsym(RTLD_DEFAULT, "PyMem_GetAllocator");
        void (*set)(int, table *) = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
        for (int i = 1; i < 3; i++) {
            table mine = {&old[i], m, z, r, f};
            get(i, &old[i]);
            set(i, &mine);
        }
    }
    /* The same, but nobody can find the table that it calls. */
    static void *m2(void *c, size_t n) { return m(&old[(long)c], n); }
    static void *z2(void *c, size_t k, size_t n) { return z(&old[(long)c], k, n); }
    static void *r2(void *c, void *p, size_t n) { return r(&old[(long)c], p, n); }
    static void f2(void *c, void *p) { f(&old[(long)c], p); }
    void start_hidden(void)
    {
        void (*get)(int, table *) = dlsym(RTLD_DEFAULT, "PyMem_GetAllocator");
        void (*set)(int, table *) = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
        for (long i = 1; i < 3; i++) {
            table mine = {(void *)i, m2, z2, r2, f2};
            get((int)i, &old[i]);
            set((int)i, &mine);
        }
    }
"""


def test_what_ended_interpreters_leave_is_what_cpython_leaves(heapkeeper, compile_c, own_gil):
    """3.12 and 3.13 keep the strings that an interpreter interned. Counted by a hook with CPython's own allocator; on
    ours the heaps have as many."""
    library = compile_c(COUNTING, shared=True, name="counting.so")
    code = program("""
        CODE = "import json; keep = [str(n) for n in range(5000)], [bytearray(n) for n in range(2000)]; keep[0].append(keep)"
        def left():
            return sum(heap["live_blocks"] for heap in own_heaps())
        run(CODE)
        counting = ctypes.PyDLL(%r)
        if hasattr(library, "hk_stats_json"): before = left()
        counting.start()
        blocks = ctypes.c_long.in_dll(counting, "blocks")
        seen = blocks.value
        for _ in range(10): run(CODE)
        print((left() - before) / 10 if hasattr(library, "hk_stats_json") else (blocks.value - seen) / 10)
    """ % library)
    stock = float(heapkeeper.stock(code, python=own_gil).out)
    ours = float(heapkeeper.good(code, python=own_gil).out)
    assert abs(ours - stock) <= 3 + 0.01 * abs(stock)
    if own_gil.version >= (3, 14):
        assert ours == 0
    else:
        assert ours < 5000


def test_heaps_of_ended_interpreters_give_their_arenas_back(heapkeeper, own_gil):
    done = heapkeeper.good(program("""
        run("keep = [bytearray(400) for _ in range(100000)]")
        heap, = own_heaps()
        assert heap["allocated_bytes"] > 40e6
        assert heap["mapped_bytes"] < 2e6 and heap["returned_bytes"] < 3e6, heap
        run("keep = [bytearray(400) for _ in range(100000)]")
        heap, = own_heaps()
        assert heap["mapped_bytes"] < 2e6, heap
        print("good")
    """), python=own_gil)
    assert done.out == b"good\n"


def test_sixty_interpreters_at_a_time(heapkeeper, own_gil):
    done = heapkeeper.good(program("""
        made = [create() for _ in range(60)]
        def work(number):
            for each in made[number::4]: execute(each, "keep = [str(n) * 9 for n in range(1000)]")
        together(4, work)
        assert library.hk_heap_check(None) == 0
        assert len(own_heaps()) == 60
        for each in made: destroy(each)
        print("good")
    """), python=own_gil, options=("--no-record",))
    assert done.out == b"good\n"


# --- blocks that are freed where they were not made ---


CROSSING = r"""
    #include <stddef.h>
    #include <string.h>
    struct config { int main_obmalloc, fork, exec, threads, daemons, check_extensions, gil; };
    struct status { int type; const char *function, *message; int code; };
    extern struct status Py_NewInterpreterFromConfig(void **, const struct config *);
    extern void Py_EndInterpreter(void *), *PyThreadState_Get(void), *PyThreadState_Swap(void *);
    extern void *PyMem_Malloc(size_t), *PyMem_Realloc(void *, size_t), *PyObject_Malloc(size_t);
    extern void PyMem_Free(void *), PyObject_Free(void *);
    static unsigned char *filled(unsigned char *block, size_t size) { return memset(block, 0xA5, size); }
    static int is_filled(const unsigned char *block, size_t size)
    {
        for (size_t i = 0; i < size; i++)
            if (block[i] != 0xA5)
                return 0;
        return 1;
    }
    int cross(void)
    {
        void *first = PyThreadState_Get(), *other = NULL;
        struct config isolated = {0, 0, 0, 1, 0, 1, 2};
        unsigned char *ours[200], *its[200], *left[200], *large = filled(PyMem_Malloc(9000), 9000);
        for (int i = 0; i < 200; i++)
            ours[i] = filled(PyMem_Malloc(120), 120);
        if (Py_NewInterpreterFromConfig(&other, &isolated).type != 0 || other == NULL)
            return 1;
        for (int i = 0; i < 200; i++) {
            its[i] = filled(PyMem_Malloc(120), 120);
            left[i] = filled(PyObject_Malloc(200), 200);
            if (!is_filled(ours[i], 120))
                return 2;
            if (i % 2 == 0)
                PyMem_Free(ours[i]);
            else
                ours[i] = PyMem_Realloc(ours[i], i % 4 == 1 ? 500 : 60);
        }
        PyMem_Free(large);
        PyThreadState_Swap(first);
        for (int i = 0; i < 200; i++) {
            if (i % 2 == 1 && !is_filled(ours[i], 60))
                return 3;
            if (i % 2 == 0)
                PyMem_Free(its[i]);
            else
                its[i] = PyMem_Realloc(its[i], i % 4 == 1 ? 5000 : 130);
        }
        PyThreadState_Swap(other);
        Py_EndInterpreter(other);
        PyThreadState_Swap(first);
        for (int i = 0; i < 200; i++) {
            if (!is_filled(left[i], 200) || (i % 2 == 1 && !is_filled(its[i], 120)))
                return 4;
            PyObject_Free(left[i]);
            if (i % 2 == 1) {
                PyMem_Free(its[i]);
                PyMem_Free(ours[i]);
            }
        }
        return 0;
    }
"""


def test_blocks_are_freed_and_moved_by_other_interpreters_also_after_the_end_of_theirs(heapkeeper, compile_c, own_gil):
    """CPython never does so, a C extension may: nothing is lost, and the next interpreter takes in what came back."""
    crossing = compile_c(CROSSING, shared=True, name="crossing.so")
    done = heapkeeper.good(program("""
        crossing = ctypes.PyDLL(%r)
        for turn in range(5):
            assert crossing.cross() == 0
            assert library.hk_heap_check(None) == 0
        run("pass")
        heap, = own_heaps()
        if %r: assert heap["live_blocks"] == 0, heap
        print("good")
    """ % (crossing, own_gil.version >= (3, 14))), python=own_gil)
    assert done.out == b"good\n"
    assert heapkeeper.report()["recorder"]["foreign_frees"] == 0


# --- hooks before us ---


def test_tracemalloc_does_not_keep_interpreters_from_being_made(heapkeeper, own_gil):
    code = program("""
        import tracemalloc
        tracemalloc.start()
        made = create()
        assert not execute(made, "keep = [str(n) for n in range(20000)]")
        tracemalloc.stop()
        made2 = create()
        assert not execute(made2, "keep = [str(n) for n in range(20000)]")
        if hasattr(library, "hk_heap_check"):
            assert library.hk_heap_check(None) == 0
            assert len(own_heaps()) == 2 and all(heap["live_blocks"] > 20000 for heap in own_heaps()), own_heaps()
        destroy(made)
        destroy(made2)
        print("good")
    """)
    assert heapkeeper.good(code, python=own_gil).out == b"good\n"
    if own_gil.version >= (3, 13):  # 3.12's own allocator aborts: "free(): invalid pointer"
        assert heapkeeper.stock(code, python=own_gil).out == b"good\n"
    assert heapkeeper.report()["watch"] == "ours"


@pytest.mark.parametrize("times", [1, 2])
def test_hook_that_calls_the_table_in_its_context_goes_on_before_us(heapkeeper, compile_c, own_gil, times):
    library = compile_c(COUNTING, shared=True, name="counting.so")
    others = [compile_c(COUNTING, shared=True, name="other.so")] * (times - 1)
    done = heapkeeper.good(program("""
        for path in %r:
            counting = ctypes.PyDLL(path)
            counting.start()
        together(3, lambda number: run("keep = [str(n) for n in range(20000)]"))
        assert library.hk_heap_check(None) == 0
        assert 1 <= len(own_heaps()) <= 3
        print("good", ctypes.c_long.in_dll(counting, "blocks").value > 0)
    """ % ([library] + others,)), python=own_gil)
    assert done.out == b"good True\n"
    assert heapkeeper.report()["watch"] == "ours_under_hook"


def test_hook_that_hides_what_it_calls_is_passed_by_and_the_report_says_so(heapkeeper, compile_c, own_gil):
    library = compile_c(COUNTING, shared=True, name="counting.so")
    done = heapkeeper.good(program("""
        counting = ctypes.PyDLL(%r)
        counting.start_hidden()
        blocks = ctypes.c_long.in_dll(counting, "blocks")
        made = create()
        before = blocks.value
        execute(made, "keep = [str(n) for n in range(20000)]")
        assert blocks.value - before < 5000
        together(3, lambda number: run("keep = [str(n) for n in range(20000)]"))
        before = blocks.value
        keep = [str(n) for n in range(20000)]
        assert blocks.value - before >= 19000, "the main interpreter's it sees"
        heap, *others = own_heaps()
        assert heap["live_blocks"] > 20000 and 1 <= len(others) <= 3
        destroy(made)
        assert library.hk_heap_check(None) == 0
        print("good")
    """ % library), python=own_gil)
    assert done.out == b"good\n"
    report = heapkeeper.report()
    assert report["watch"] == "ours_under_hook"
    assert any("passes it by" in note for note in report["notes"])


# --- the record ---


def test_what_interpreters_allocate_is_attributed_to_their_functions(heapkeeper, own_gil):
    heapkeeper.good(API + """
CODE = '''
def NAME():
    return [bytearray(1000) for _ in range(COUNT)]
keep = NAME()
NAME()
'''
def work(number):
    execute(made[number], CODE.replace("NAME", "work_%d" % number).replace("COUNT", str(5000 * (number + 1))))
made = [create() for _ in range(3)]
together(3, work)
import os
os._exit(0)
""", python=own_gil)
    report = heapkeeper.report()
    assert (report["watch"], report["stacks"]) == ("ours", "good")
    for number in range(3):
        expected = 5000 * (number + 1) * 1057
        assert 0.7 * expected < live_in(report, "work_%d" % number) < 1.3 * expected
        assert 1.5 * expected < total_in(report, "work_%d" % number) < 2.5 * expected
    check_sums(report)
    assert any("own lock" in note for note in report["notes"])


# --- fork ---


def test_forked_child_of_a_program_with_interpreters_goes_on_as_without_us(heapkeeper, own_gil):
    code = program("""
        import os
        made = [create() for _ in range(2)]
        for each in made: execute(each, "keep = [str(n) for n in range(5000)]")
        for each in made: destroy(each)
        pid = os.fork()
        if pid == 0:
            run("keep = [str(n) for n in range(5000)]")
            together(2, lambda number: run("keep = [str(n) for n in range(5000)]"))
            assert not hasattr(library, "hk_heap_check") or library.hk_heap_check(None) == 0
            os._exit(7)
        run("keep = [str(n) for n in range(5000)]")
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """)
    assert heapkeeper.run(code, python=own_gil).said == heapkeeper.stock(code, python=own_gil).said == (0, b"7\n", b"")
