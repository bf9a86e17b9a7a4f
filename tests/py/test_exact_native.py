"""`heapkeeper run --native` records every block of the C library's malloc, too: at the Python line that caused it, to the byte.

The truth is counted in C, beside each call: `churn` knows of each block how many bytes were asked for last and on whose behalf. A
block that is reallocated is charged with the whole to who asks for more; one that shrinks stays where it was charged."""

import json
import os
import textwrap

import pytest

from conftest import COMMAND, MALLOC_PRELOAD, check_real_path, code_at_addresses_of_dead_code, execute, live_in, sites_in, total_in

NATIVE = ("--native",)

CHURN = r"""
    #define _GNU_SOURCE
    #include <malloc.h>
    #include <pthread.h>
    #include <signal.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/time.h>

    enum { HELD = 512, SLOTS = 64 };
    struct held { void *block; size_t size; int slot; };
    static struct held held[HELD];
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct slot { long long live_bytes, live_blocks, total_bytes, total_blocks; } slots[SLOTS];

    struct slot *truth(void) { return slots; }

    static void count(int slot, long long bytes, long long blocks)
    {
        __atomic_add_fetch(&slots[slot].live_bytes, bytes, __ATOMIC_RELAXED);
        __atomic_add_fetch(&slots[slot].live_blocks, blocks, __ATOMIC_RELAXED);
        if (blocks <= 0)
            return;
        __atomic_add_fetch(&slots[slot].total_bytes, bytes, __ATOMIC_RELAXED);
        __atomic_add_fetch(&slots[slot].total_blocks, blocks, __ATOMIC_RELAXED);
    }

    static struct held take(unsigned at)
    {
        pthread_mutex_lock(&lock);
        struct held had = held[at];
        held[at] = (struct held){0};
        pthread_mutex_unlock(&lock);
        return had;
    }

    static void drop_held(struct held had)
    {
        if (had.block == NULL)
            return;
        free(had.block);
        count(had.slot, -(long long)had.size, -1);
    }

    static void put(unsigned at, struct held has)
    {
        pthread_mutex_lock(&lock);
        struct held other = held[at];
        held[at] = has;
        pthread_mutex_unlock(&lock);
        drop_held(other);
    }

    __attribute__((noinline)) static void *one(unsigned kind, size_t size)
    {
        void *block = NULL;
        switch (kind) {
        case 0: return calloc(1, size);
        case 1: return aligned_alloc(64, size);
        case 2: return posix_memalign(&block, 32, size) == 0 ? block : NULL;
        case 3: return realloc(NULL, size);
        case 4: return reallocarray(NULL, 1, size);
        case 5: return memalign(256, size);
        default: return malloc(size);
        }
    }

    void churn(int slot, unsigned seed, int turns)
    {
        for (int i = 0; i < turns; i++) {
            seed = seed * 1103515245u + 12345u;
            unsigned at = seed >> 8 & (HELD - 1), kind = seed >> 17 & 7, rare = seed >> 20 & 31;
            seed = seed * 1103515245u + 12345u;
            size_t size = (seed >> 8) % (rare == 0 ? 200000 : rare < 6 ? 5000 : 400);
            struct held had = take(at);
            if (had.block != NULL && kind < 3) {
                size += size == 0; /* else it is freed */
                void *moved = realloc(had.block, size);
                if (size < had.size) {
                    count(had.slot, (long long)size - (long long)had.size, 0);
                } else {
                    count(had.slot, -(long long)had.size, -1);
                    count(slot, (long long)size, 1);
                    had.slot = slot;
                }
                put(at, (struct held){moved, size, had.slot});
                continue;
            }
            drop_held(had);
            if (kind == 7)
                continue;
            void *block = one(kind, size);
            count(slot, (long long)size, 1);
            put(at, (struct held){block, size, slot});
        }
    }

    void empty(void)
    {
        for (unsigned i = 0; i < HELD; i++)
            drop_held(take(i));
    }

    void *grab(size_t size) { return memset(malloc(size), 1, size); }
    void drop(void *block) { free(block); }
    void spike(size_t size) { free(grab(size)); }

    /* In a thread that never sees Python. */
    static void *in_thread(void *argument) { churn(*(int *)argument, 7, 5000); return NULL; }
    void churn_in_thread(int slot)
    {
        pthread_t thread;
        pthread_create(&thread, NULL, in_thread, &slot);
        pthread_join(thread, NULL);
    }
    static void *free_it(void *block) { free(block); return NULL; }
    void drop_in_thread(void *block)
    {
        pthread_t thread;
        pthread_create(&thread, NULL, free_it, block);
        pthread_join(thread, NULL);
    }

    /* Two ways to the same call. */
    __attribute__((noinline)) static void *below(size_t size) { void *block = malloc(size); __asm__ volatile("" ::: "memory"); return block; }
    __attribute__((noinline)) void *left(size_t size) { void *block = below(size); __asm__ volatile("" ::: "memory"); return block; }
    __attribute__((noinline)) void *right(size_t size) { void *block = below(size); __asm__ volatile("" ::: "memory"); return block; }
    __attribute__((noinline)) void both(int n)
    {
        for (int i = 0; i < n; i++) {
            left(100);
            __asm__ volatile("" ::: "memory");
            right(200);
            __asm__ volatile("" ::: "memory");
        }
    }

    static void *signalled;
    static volatile unsigned signals;
    static void handler(int number)
    {
        free(signalled);
        signalled = malloc(333);
        signals++;
    }
    void begin_signals(void)
    {
        signal(SIGALRM, handler);
        setitimer(ITIMER_REAL, &(struct itimerval){{0, 200}, {0, 200}}, NULL);
    }
    unsigned end_signals(void)
    {
        setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
        return signals;
    }
"""

PRELUDE = """\
    import ctypes, json, os, sys, threading
    library = ctypes.CDLL(sys.argv[1])
    for name in ("grab", "left", "right", "truth"):
        getattr(library, name).restype = ctypes.c_void_p
    library.grab.argtypes = library.left.argtypes = library.right.argtypes = [ctypes.c_size_t]
    library.drop.argtypes = library.drop_in_thread.argtypes = [ctypes.c_void_p]
    churn = library.churn
    def truth(count):
        slots = (ctypes.c_longlong * (4 * count)).from_address(library.truth())
        return [list(slots[4 * i:4 * i + 4]) for i in range(count)]
    def show(**what):
        os.write(1, json.dumps(what).encode())
"""


@pytest.fixture
def native(heapkeeper, tmp_path, compile_c):
    """native(code) -> report, with what the program showed. It records exactly, or the test fails."""
    library = compile_c(CHURN, shared=True, name="truth.so")

    def run(code, python=None, options=NATIVE, state="ended", status=0):
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(code))
        done = heapkeeper.run([str(program), library], python=python, options=options)
        assert (done.status, done.err) == (status, b""), done.err.decode(errors="replace")[-3000:]
        report = heapkeeper.report()
        check_real_path(report, state, python, mode="exact")
        report["shown"] = json.loads(done.out or b"null")
        return report

    return run


def asked_by_truth(report):
    """The native sites whose innermost frame of machine code lies in the library above."""
    return [site for site in report["sites"] if site["domain"] == "native" and site["stack"]
            and any(os.path.basename(frame.get("module") or "") == "truth.so" for frame in site["stack"])]


def by_function(report, sites=None):
    """{Python function that called C: [live bytes, live blocks, total bytes, total blocks]}"""
    found = {}
    for site in asked_by_truth(report) if sites is None else sites:
        python = [frame for frame in site["stack"] if not frame.get("module")]
        name = python[-1]["function"] if python else "(no Python)"
        row = found.setdefault(name, [0, 0, 0, 0])
        for i, key in enumerate(("live_bytes", "live_blocks", "total_bytes", "total_blocks")):
            row[i] += site[key]
    return found


LINES = """
    def zero(): churn(0, 1, 30000)
    def one(): churn(1, 2, 20000)
    def two(): churn(2, 3, 10000)
    def three():
        for i in range(300): churn(3, i, 30)
    zero(); one(); two(); three(); one()
"""


@pytest.mark.parametrize("way, state, status", [("", "ended", 0), ("os.kill(os.getpid(), 9)", "killed", -9)])
def test_native_blocks_of_each_caller_are_what_c_counted_to_the_byte(native, every_python, way, state, status):
    report = native(LINES + "    show(slots=truth(4))\n    %s\n" % way, every_python, state=state, status=status)
    found, wanted = by_function(report), report["shown"]["slots"]
    assert all(row[2] > 1000000 for row in wanted) and sum(row[1] > 10 for row in wanted) > 0
    assert {name: found[name] for name in ("zero", "one", "two", "three")} == dict(zip(("zero", "one", "two", "three"), wanted))


def test_lines_of_a_function_are_told_apart(native, python):
    report = native("""
        def work():
            a = library.grab(1000)
            b = [library.grab(100 + i) for i in range(50)]
            library.drop(a)
            return b, library.grab(5000000)
        kept = work()
    """)
    rows = {}
    for site in asked_by_truth(report):
        if "work" in site["function"] or any(frame["function"] == "work" for frame in site["stack"]):
            line = next(frame["line"] for frame in reversed(site["stack"]) if frame["function"] == "work")
            row = rows.setdefault(line, [0, 0, 0, 0])
            for i, key in enumerate(("live_bytes", "live_blocks", "total_bytes", "total_blocks")):
                row[i] += site[key]
    first = min(rows)
    wanted = sum(range(100, 150))
    assert {line - first: row for line, row in rows.items()} == {
        0: [0, 0, 1000, 1], 1: [wanted, 50, wanted, 50], 3: [5000000, 1, 5000000, 1]}


def test_what_threads_free_for_each_other_is_counted_where_it_was_allocated(native, every_python):
    report = native("""
        def zero(): churn(0, 1, 40000)
        def one(): churn(1, 2, 40000)
        def two(): churn(2, 3, 40000)
        def alone(): library.churn_in_thread(3)
        threads = [threading.Thread(target=f) for f in (zero, one, two, alone)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        show(slots=truth(4))
    """, every_python)
    found, wanted = by_function(report), report["shown"]["slots"]
    assert {name: found[name] for name in ("zero", "one", "two", "(no Python)")} == dict(
        zip(("zero", "one", "two", "(no Python)"), wanted))


def test_who_frees_may_be_anybody(native, python):
    report = native("""
        api = ctypes.pythonapi
        libc = ctypes.CDLL(None)
        for name in ("PyMem_RawFree", "PyMem_Free"):
            getattr(api, name).argtypes = [ctypes.c_void_p]
        libc.realloc.restype, libc.realloc.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t]
        def work(size):
            for i in range(100):
                library.drop_in_thread(library.grab(size))
                api.PyMem_RawFree(library.grab(size))
                api.PyMem_Free(library.grab(size))
                libc.realloc(library.grab(size), 0)
        for size in (50, 1000, 100000): work(size)
        show()
    """)
    assert by_function(report)["work"] == [0, 0, 400 * 101050, 1200]


def test_a_thread_that_waits_without_the_lock_is_told_by_its_line(native, every_python):
    report = native("""
        import sqlite3
        def fill():
            connection = sqlite3.connect(":memory:")
            connection.execute("create table t(a text)")
            connection.executemany("insert into t values(?)", (("x" * 500,) for _ in range(5000)))
            return connection
        kept = fill()
        show()
    """, every_python)
    live = sum(site["live_bytes"] for site in sites_in(report, "fill")[0] if site["domain"] == "native")
    assert 2500000 < live < 6000000


def test_a_forked_child_has_what_it_inherits_and_what_it_does(native, heapkeeper, every_python):
    program = """
        def parent(): churn(0, 1, 20000)
        def child(): churn(1, 5, 20000)
        def later(): churn(2, 6, 5000)
        parent()
        pid = os.fork()
        if pid == 0:
            child()
            kept = [bytearray(1 << 16) for _ in range(64)]
            slots = truth(2)
            with open(sys.argv[0] + ".child", "w") as file: json.dump([os.getpid(), slots], file)
            os._exit(0)
        os.waitpid(pid, 0)
        later()
        show(slots=truth(3))
    """
    report = native(program, every_python)
    found, slots = by_function(report), report["shown"]["slots"]
    assert {name: found[name] for name in ("parent", "later")} == {"parent": slots[0], "later": slots[2]}
    assert "child" not in found
    with open(os.path.join(os.path.dirname(heapkeeper.directory), "program.py.child")) as file:
        pid, slots = json.load(file)
    [child] = [report for report in map(heapkeeper.report, heapkeeper.captures) if report["pid"] == pid]
    check_real_path(child, python=every_python, mode="exact")
    found = by_function(child)
    assert found["child"] == slots[1]
    assert found["parent"] == slots[0][:2] + [0, 0], "what lives of it; nothing was allocated there since"
    inherited = sum(site["inherited_bytes"] for site in asked_by_truth(child) if site["function"] == "parent")
    assert inherited >= found["parent"][0]


def test_what_is_allocated_while_recording_is_stopped_is_not_counted_and_what_is_freed_then_is(native, python):
    report = native("""
        import mmap, struct
        start, stop, asked = 3, 4, 0
        with open(os.environ["HEAPKEEPER_CAPTURE"], "r+b") as file:
            box = memoryview(mmap.mmap(file.fileno(), 4096, offset=4096))
        def request(kind):
            global asked
            asked += 1
            struct.pack_into("=I", box, 8, kind)
            struct.pack_into("=I", box, 0, asked)
            while struct.unpack_from("=I", box, 4)[0] != asked:
                [bytearray(100000) for _ in range(10)]
        def zero(): churn(0, 1, 20000)
        def one(): churn(1, 2, 20000)
        def two(): churn(2, 3, 20000)
        zero()
        request(stop)
        one()
        library.empty()
        request(start)
        two()
        show(slots=truth(3))
    """)
    found, wanted = by_function(report), report["shown"]["slots"]
    assert found == {"zero": wanted[0], "two": wanted[2]} and wanted[0][:2] == [0, 0] and wanted[2][1] > 0


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", ["ctypes.PyDLL", "ctypes.CDLL"])
def test_the_peak_of_each_site_is_what_it_had_then_with_the_gil_and_without(native, every_python, kind, apart):
    report = native("""
        def before(): churn(0, 1, 20000)
        at = %s(sys.argv[1])
        at.grab.restype, at.grab.argtypes, at.drop.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
        def at_peak():
            if %s: at.drop(at.grab(100000000))
            else: at.spike(100000000)
        def after(): churn(1, 2, 20000)
        before()
        slots = truth(1)
        at_peak()
        after()
        show(slots=slots)
    """ % (kind, apart), every_python)
    peaks = {name: sum(site["peak_bytes"] for site in asked_by_truth(report) if site["function"] == name) for name in ("before", "at_peak", "after")}
    assert peaks == {"before": report["shown"]["slots"][0][0], "at_peak": 100000000, "after": 0}
    assert report["peak_bytes"] == sum(site["peak_bytes"] for site in report["sites"])


def test_handlers_of_signals_do_no_harm(native, python):
    report = native("""
        def work():
            for i in range(200): churn(0, i, 2000)
        library.begin_signals()
        work()
        signals = library.end_signals()
        library.empty()
        show(signals=signals)
    """)
    assert report["shown"]["signals"] > 20
    live = sum(site["live_bytes"] for site in asked_by_truth(report))
    skipped = sum(note.startswith("%s events" % word) for note in report["notes"] for word in note.split(" ")[:1])
    assert live == 333 or skipped, "one block of the handler's"


def test_whole_stacks_of_machine_code_are_told_apart(native, python):
    report = native("""
        def work(): library.both(1000)
        work()
        show()
    """, options=("--native-stacks",))
    rows = {}  # names need a library that not every system has
    for site in asked_by_truth(report):
        addresses = tuple(frame["address"] for frame in site["stack"] if frame.get("module"))
        rows[addresses] = rows.get(addresses, 0) + site["live_bytes"]
    assert sorted(rows.values()) == [100000, 200000]
    [left, right] = rows
    assert left[-1] == right[-1] and left[-2] != right[-2]


@pytest.mark.parametrize("allocator", ["malloc", "pymalloc"])
def test_where_pythons_allocator_is_another_lines_are_told_apart_all_the_same(heapkeeper, every_python, allocator):
    """Code objects die without our knowing, and others come to lie at their addresses."""
    done = heapkeeper.run(code_at_addresses_of_dead_code(600), python=every_python, options=NATIVE, env={"PYTHONMALLOC": allocator})
    assert (done.status, done.err) == (0, b"") and int(done.out) < 590
    report = heapkeeper.report()
    assert (report["mode"], report["watch"]) == ("exact", "replaced")
    found = {}
    for site in report["sites"]:
        python = [frame for frame in site["stack"] if not frame.get("module")]
        if python and python[-1]["file"].startswith("made-") and python[-1]["function"] == "work" and site["live_blocks"]:
            found[python[-1]["file"]] = found.get(python[-1]["file"], 0) + site["live_bytes"]
    assert {name: size for name, size in found.items() if size > 1000} == {"made-%d" % i: 1000 + i + 33 for i in range(600)}


def test_the_three_domains_are_what_they_are_without_native(heapkeeper, every_python):
    code = """
        def objects(): return [bytes(1000 + i) for i in range(2000)]
        def arrays(): return [bytearray(3000) for i in range(200)]
        kept = objects(), arrays()
    """
    figures = []
    for options in (("--exact",), ("--exact", "--native")):
        heapkeeper.good(code, python=every_python, options=options)
        report = heapkeeper.report()
        check_real_path(report, python=every_python, mode="exact")
        figures.append({name: (live_in(report, name), total_in(report, name)) for name in ("objects", "arrays")})
    assert figures[0] == figures[1]


def test_tracker_and_tracemalloc_count_pythons_blocks(native, python):
    code = """
        import heapkeeper, heapkeeper.tracemalloc as tracemalloc
        tracemalloc.start()
        with heapkeeper.Tracker() as tracker:
            kept = [library.grab(1000) for _ in range(1000)], bytearray(300000)
        show(tracker=tracker.peak, traced=tracemalloc.get_traced_memory())
    """
    from conftest import BUILD, TREE
    code = "    import sys; sys.path.insert(0, %r); import os; os.environ['HEAPKEEPER_BUILD'] = %r\n" % (os.path.join(TREE, "python"), BUILD) + code[1:].replace("        ", "    ")
    shown = native(code)["shown"]
    assert 300000 < shown["tracker"] < 500000 and 300000 < shown["traced"][0] < 500000


ORACLE = r"""
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <malloc.h>
    #include <pthread.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>

    /* In front of malloc: what a thread asks for while it has said so, and what has become of it. A table of all blocks, under a lock. */
    enum { PLACES = 1 << 20 };
    static struct { void *block; size_t size; } table[PLACES];
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static __thread int on __attribute__((tls_model("initial-exec")));
    static long long figures[4]; /* live bytes and blocks, total bytes and blocks */
    static char early[1 << 16];
    static size_t early_used;
    static void *(*next_malloc)(size_t), *(*next_calloc)(size_t, size_t), *(*next_realloc)(void *, size_t);
    static void (*next_free)(void *);

    void oracle_on(int is_on) { on = is_on; }
    long long *oracle_figures(void) { return figures; }

    static void find(void)
    {
        static __thread int finding __attribute__((tls_model("initial-exec")));
        if (next_free != NULL || finding)
            return;
        finding = 1;
        next_malloc = dlsym(RTLD_NEXT, "malloc");
        next_calloc = dlsym(RTLD_NEXT, "calloc");
        next_realloc = dlsym(RTLD_NEXT, "realloc");
        next_free = dlsym(RTLD_NEXT, "free");
        finding = 0;
    }

    static void *from_early(size_t size)
    {
        void *at = early + early_used;
        early_used += (size + 31) & ~(size_t)15;
        return early_used <= sizeof early ? at : NULL;
    }

    static unsigned place(void *block)
    {
        unsigned at = (unsigned)((uintptr_t)block * 0x9e3779b97f4a7c15u >> 44);
        while (table[at].block != NULL && table[at].block != block)
            at = (at + 1) % PLACES;
        return at;
    }

    static void born(void *block, size_t size)
    {
        if (block == NULL || !on)
            return;
        pthread_mutex_lock(&lock);
        unsigned at = place(block);
        table[at].block = block;
        table[at].size = size + 1;
        figures[0] += size, figures[1]++, figures[2] += size, figures[3]++;
        pthread_mutex_unlock(&lock);
    }

    /* The size; -1: not one of ours. The place stays: only its size goes. */
    static long long dies(void *block)
    {
        long long size = -1;
        pthread_mutex_lock(&lock);
        unsigned at = place(block);
        if (block != NULL && table[at].block == block && table[at].size != 0) {
            size = (long long)table[at].size - 1;
            table[at].size = 0;
            figures[0] -= size, figures[1]--;
        }
        pthread_mutex_unlock(&lock);
        return size;
    }

    void *malloc(size_t size)
    {
        find();
        if (next_malloc == NULL)
            return from_early(size);
        void *block = next_malloc(size);
        born(block, size);
        return block;
    }
    void *calloc(size_t count, size_t size)
    {
        find();
        if (next_calloc == NULL)
            return from_early(count * size);
        void *block = next_calloc(count, size);
        born(block, count * size);
        return block;
    }
    void free(void *block)
    {
        if ((uintptr_t)block - (uintptr_t)early < sizeof early)
            return;
        find();
        dies(block);
        next_free(block);
    }
    void *realloc(void *block, size_t size)
    {
        find();
        long long had = block != NULL ? dies(block) : -1;
        void *moved = next_realloc(block, size);
        if (had >= 0 && size != 0 && (long long)size < had) { /* it shrinks: charged as it was */
            pthread_mutex_lock(&lock);
            unsigned at = place(moved);
            table[at].block = moved;
            table[at].size = size + 1;
            figures[0] += size, figures[1]++;
            pthread_mutex_unlock(&lock);
        } else if (size != 0) {
            born(moved, size);
        }
        return moved;
    }
"""

LIBRARIES = """
    import ctypes, json, os, sys, zlib, sqlite3, bz2, lzma, hashlib, xml.parsers.expat
    try: import numpy
    except ImportError: numpy = None
    oracle = ctypes.CDLL(None)
    oracle.oracle_figures.restype = ctypes.c_void_p
    on = oracle.oracle_on
    kept = []
    def work():
        on(1)
        pack = [zlib.compressobj(level) for level in (1, 6, 9)]
        data = [p.compress(os.urandom(100000)) for p in pack[:2]]
        pack[0].flush()
        base = sqlite3.connect(":memory:")
        base.execute("create table t(id integer primary key, a text, b blob)")
        base.executemany("insert into t values(null, ?, ?)", (("x%d" % i, bytes(i)) for i in range(1500)))
        base.execute("create index i on t(a)")
        base.execute("delete from t where id % 3 = 0")
        crypt = [lzma.LZMACompressor(preset=1), bz2.BZ2Compressor(), hashlib.sha256()]
        lzma.compress(b"abc" * 10000, preset=2)
        parser = xml.parsers.expat.ParserCreate()
        parser.Parse(b"<a>" + b"<b c='d'>text</b>" * 2000 + b"</a>")
        arrays = [numpy.zeros(1000 * i) for i in range(30)] if numpy else []
        more = [a * 2 for a in arrays]
        kept.append((pack[1:], base, crypt[:1], arrays, parser))
        del pack, base, crypt, parser, more, arrays
        on(0)
    work(); work()
    figures = list((ctypes.c_longlong * 4).from_address(oracle.oracle_figures()))
    os.write(1, json.dumps(figures).encode())
"""


@pytest.mark.parametrize("way", ["", "os.kill(os.getpid(), 9)"])
def test_libraries_ask_for_what_an_oracle_in_front_of_malloc_saw(heapkeeper, compile_c, tmp_path, every_python, way):
    oracle, output = compile_c(ORACLE, shared=True, name="oracle.so"), str(tmp_path / "capture")
    done = execute([every_python.path, "-c", textwrap.dedent(LIBRARIES + "    %s\n" % way)], env={
        "LD_PRELOAD": oracle + ":" + MALLOC_PRELOAD, "HEAPKEEPER_NATIVE": "all", "HEAPKEEPER_MODE": "exact", "HEAPKEEPER_OUTPUT": output})
    assert (done.status, done.err) == (-9 if way else 0, b"")
    [capture] = [str(path) for path in tmp_path.iterdir() if path.name.startswith("capture.")]
    report = heapkeeper.report(capture)
    check_real_path(report, "killed" if way else "ended", every_python, mode="exact")
    sites = [site for site in sites_in(report, "work")[0] if site["domain"] == "native"]
    found = [sum(site[key] for site in sites) for key in ("live_bytes", "live_blocks", "total_bytes", "total_blocks")]
    assert done.json[3] > 1500 and done.json[0] > 500000
    assert found == done.json


def test_a_program_without_python_is_sampled_under_native(heapkeeper):
    done = execute(heapkeeper.command(["BEGIN { for (i = 0; i < 100000; i++) a[i] = i }"], python="/usr/bin/awk", options=NATIVE))
    assert (done.status, done.err) == (0, b"")
    assert heapkeeper.report()["mode"] == "sample"


def test_views_show_the_domain(native, heapkeeper, python):
    native("""
        def caller(): return list(map(library.grab, [1000] * 3000))
        kept = caller()
        show()
    """)

    def said(*words):
        done = execute([COMMAND, *words, heapkeeper.output])
        assert (done.status, done.err) == (0, b""), done.err
        return done.out.decode()

    row = next(row for row in json.loads(said("table", "--by", "domain", "--json"))["rows"] if row["name"] == "native")
    assert row["live_bytes"] >= 3000000 and row["live_blocks"] >= 3000
    assert "[truth.so]" in said("table") and "caller" in said("table")
    tree = said("tree", "--text")
    assert ("grab" in tree or "truth.so+0x" in tree) and "caller" in tree
    assert "caller" in said("export", "--format", "collapsed", "-o", "-")
