"""Contract 4: a block of Python's allocator that reaches libc, and a block of libc's that reaches Python's allocator.

Both work on stock CPython for requests over 512 bytes, which are malloc's there; programs rely on it.
"""

import shutil
import textwrap

import pytest

from conftest import check_real_path, check_sums

PRELUDE = """
    import ctypes, json, os, sys, threading
    c, api, word = ctypes.CDLL(None), ctypes.pythonapi, ctypes.c_size_t

    def get(library, name, result, *arguments):
        function = library[name]
        function.restype, function.argtypes = result, list(arguments)
        return function

    class Domain:
        def __init__(self, prefix):
            self.malloc = get(api, prefix + "Malloc", word, word)
            self.realloc = get(api, prefix + "Realloc", word, word, word)
            self.free = get(api, prefix + "Free", None, word)

    MEM, OBJ, RAW = Domain("PyMem_"), Domain("PyObject_"), Domain("PyMem_Raw")
    malloc, free = get(c, "malloc", word, word), get(c, "free", None, word)
    calloc, realloc = get(c, "calloc", word, word, word), get(c, "realloc", word, word, word)
    usable_size, aligned_alloc = get(c, "malloc_usable_size", word, word), get(c, "aligned_alloc", word, word, word)
    # Over 512 bytes all of it works on stock, too. Large ones are the C allocator's in our heap as well.
    SIZES = (1, 100, 512, 513, 2048, 100000, 3000000)
    STOCK = [size for size in SIZES if size > 512]

    def fill(p, size):
        assert p
        ctypes.memset(p, 0x5a, size)
        return p

    def is_filled(p, size): return ctypes.string_at(p, size) == b"\\x5a" * size

    def afterwards():
        keep = [bytearray(n % 3000) for n in range(60000)]
        return len(keep)
"""


def go(heapkeeper, code, stock=True, **rest):
    program = textwrap.dedent(PRELUDE) + textwrap.dedent(code) + "\nprint(afterwards())\n"
    if stock:
        done = heapkeeper.stock(program)
        assert done.status == 0, done.err.decode()
    done = heapkeeper.good(program, **rest)
    if stock:
        assert done.out == heapkeeper.stock(program).out
    report = heapkeeper.recorded(python=rest.get("python"))
    return done, report["recorder"]


def test_program_that_does_no_such_thing_is_not_blamed(heapkeeper, every_python):
    recorder = go(heapkeeper, """
        import sqlite3, json, re, subprocess, zlib, decimal, pickle, hashlib, ssl, socket
        sqlite3.connect(":memory:").execute("select 1").fetchall()
        zlib.compress(b"x" * 100000); decimal.Decimal("1.5") ** 100; pickle.loads(pickle.dumps(list(range(10000))))
        subprocess.run(["true"]); hashlib.sha256(b"x").hexdigest(); ssl.create_default_context()
        p = malloc(1000); free(realloc(p, 5000))
        p = MEM.malloc(1000); MEM.free(MEM.realloc(p, 50000))
        p = RAW.malloc(1000); RAW.free(RAW.realloc(p, 50000))
    """, stock=False, python=every_python)[1]
    assert (recorder["libc_frees"], recorder["foreign_frees"]) == (0, 0)


def test_interpreters_own_ways_are_not_taken_for_the_programs_mistakes(heapkeeper, every_python):
    """CPython allocates and frees around our back itself at times: in a forked child, when it makes interpreters."""
    heapkeeper.good("""
        import os, threading
        threading.Thread(target=print).start()
        interpreters = None
        for name in ("_interpreters", "_xxsubinterpreters"):
            try: interpreters = __import__(name)
            except ImportError: pass
        if interpreters:
            made = interpreters.create()
            interpreters.run_string(made, "x = [bytearray(n) for n in range(2000)]")
            interpreters.destroy(made)
        if os.fork() == 0:
            for _ in range(80): bytearray(1 << 20)
            threading.Thread(target=print).start()
            raise SystemExit
        os.wait()
    """, python=every_python)
    reports = [heapkeeper.report(capture) for capture in heapkeeper.captures]
    assert len(reports) == 2
    for report in reports:
        assert (report["recorder"]["libc_frees"], report["recorder"]["foreign_frees"]) == (0, 0)


def test_blocks_of_python_are_freed_by_libc(heapkeeper, every_python):
    recorder = go(heapkeeper, """
        for domain in (MEM, OBJ, RAW):
            for size in SIZES:
                free(fill(domain.malloc(size), size))
        for _ in range(2000):
            free(MEM.malloc(2048))
    """, stock=False, python=every_python)[1]
    assert recorder["libc_frees"] == 3 * 5 + 2000
    assert recorder["foreign_frees"] == 0


def test_large_blocks_of_python_are_freed_by_libc_as_on_stock(heapkeeper):
    recorder = go(heapkeeper, """
        for domain in (MEM, OBJ, RAW):
            for size in STOCK:
                p = fill(domain.malloc(size), size)
                assert usable_size(p) >= size
                p = realloc(p, size * 2)
                assert is_filled(p, size)
                free(p)
    """)[1]
    assert recorder["libc_frees"] == 3 * 2  # the realloc; what it gives is libc's


def test_usable_size_of_our_blocks_can_be_asked_and_used(heapkeeper):
    recorder = go(heapkeeper, """
        for domain in (MEM, OBJ, RAW):
            for size in SIZES:
                p = domain.malloc(size)
                assert size <= usable_size(p) < size + 8192, (size, usable_size(p))
                fill(p, usable_size(p))
                domain.free(p)
    """, stock=False)[1]
    assert recorder["libc_frees"] == 0


def test_libc_reallocates_our_blocks_up_and_down_and_to_nothing(heapkeeper):
    recorder = go(heapkeeper, """
        for domain in (MEM, OBJ, RAW):
            for size in SIZES:
                for new in (1, size // 2 + 1, size + 1, size * 3, 40000):
                    p = realloc(fill(domain.malloc(size), size), new)
                    assert is_filled(p, min(size, new))
                    fill(p, new)
                    free(p)
                assert realloc(domain.malloc(size), 0) == 0
    """, stock=False)[1]
    assert recorder["libc_frees"] == 3 * 5 * 6


def test_blocks_of_libc_are_freed_by_python(heapkeeper):
    go(heapkeeper, """
        for domain in (MEM, OBJ, RAW):
            for size in SIZES:
                domain.free(fill(malloc(size), size))
                domain.free(calloc(size, 2))
                domain.free(aligned_alloc(4096, 8192))
                p = domain.realloc(fill(malloc(size), size), size * 2)
                assert is_filled(p, size)
                domain.free(p)
    """)


def test_blocks_of_libc_that_python_frees_do_not_upset_the_counters(heapkeeper):
    done, recorder = go(heapkeeper, """
        stats = get(ctypes.PyDLL(None), "hk_stats_json", word, ctypes.c_char_p, word)
        buffer = ctypes.create_string_buffer(20000)
        for domain in (MEM, OBJ, RAW):
            for _ in range(500):
                domain.free(malloc(100))
                domain.free(malloc(1000000))
        stats(buffer, 20000)
        large = [heap["large_bytes"] for heap in json.loads(buffer.value)["heaps"]]
        assert all(0 <= bytes < 1 << 28 for bytes in large), large
    """, stock=False)
    assert heapkeeper.report()["heap"]["large_bytes"] < 1 << 28
    assert recorder["foreign_frees"] == 1500, "those that are smaller than any large block of ours are known"
    assert any("1 500" in note or "1500" in note for note in heapkeeper.report()["notes"])


def test_culprit_is_named(heapkeeper):
    """Not only counted: the report says which module's free it was."""
    go(heapkeeper, "for _ in range(100): free(MEM.malloc(2048))", stock=False)
    notes = " ".join(heapkeeper.report()["notes"])
    assert "100" in notes and "libffi" in notes


FREE_MANY = """
    #include <malloc.h>
    #include <stdlib.h>
    #include <string.h>
    /* Frees, moves and measures blocks of others, without any lock. */
    void free_many(void **blocks, int n) { for (int i = 0; i < n; i++) free(blocks[i]); }
    long move_many(void **blocks, int n, size_t size)
    {
        long wrong = 0;
        for (int i = 0; i < n; i++) {
            wrong += malloc_usable_size(blocks[i]) < size;
            char *moved = realloc(blocks[i], size * 2);
            for (size_t k = 0; k < size; k += 64)
                wrong += moved[k] != (char)i;
            free(moved);
        }
        return wrong;
    }
"""


def test_threads_without_the_interpreters_lock_free_our_blocks_while_python_allocates(heapkeeper, compile_c,
                                                                                      every_python):
    library = compile_c(FREE_MANY, shared=True)
    recorder = go(heapkeeper, """
        many = ctypes.CDLL(%r)   # CDLL: without the lock
        many.move_many.restype = ctypes.c_long
        many.move_many.argtypes = [ctypes.c_void_p, ctypes.c_int, word]
        many.free_many.argtypes = [ctypes.c_void_p, ctypes.c_int]
        N, SIZE = 2000, 1024
        wrong = []
        def worker(domain, rounds):
            for i in range(rounds):
                blocks = (word * N)(*(domain.malloc(SIZE) for _ in range(N)))
                for at, block in enumerate(blocks):
                    ctypes.memset(block, at & 255, SIZE)
                if i %% 2:
                    many.free_many(blocks, N)
                else:
                    wrong.append(many.move_many(blocks, N, SIZE))
        threads = [threading.Thread(target=worker, args=(domain, 4)) for domain in (MEM, OBJ, RAW)]
        for thread in threads:
            thread.start()
        churn = 0
        while any(thread.is_alive() for thread in threads):
            churn += len([bytearray(1000) for _ in range(500)])
        for thread in threads:
            thread.join()
        assert wrong == [0] * 6, wrong
    """ % library, stock=False, python=every_python)[1]
    assert recorder["libc_frees"] == 3 * 4 * 2000


def test_blocks_freed_by_libc_are_reused_and_not_lost(heapkeeper):
    """200 times 8 MB through free(): what the heap maps stays small."""
    done, recorder = go(heapkeeper, """
        for _ in range(200):
            for p in [MEM.malloc(2048) for _ in range(4000)]:
                free(p)
    """, stock=False)
    assert recorder["libc_frees"] == 800000
    assert heapkeeper.report()["heap"]["mapped_bytes"] < 300 << 20
    check_sums(heapkeeper.report())


EARLIER = """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stddef.h>
    long earlier_frees, earlier_reallocs;
    void free(void *block)
    {
        static void (*next)(void *);
        if (!next) next = dlsym(RTLD_NEXT, "free");
        __atomic_add_fetch(&earlier_frees, 1, __ATOMIC_RELAXED);
        next(block);
    }
    void *realloc(void *block, size_t size)
    {
        static void *(*next)(void *, size_t);
        if (!next) next = dlsym(RTLD_NEXT, "realloc");
        __atomic_add_fetch(&earlier_reallocs, 1, __ATOMIC_RELAXED);
        return next(block, size);
    }
"""


@pytest.mark.parametrize("separator", [":", " "])
def test_an_earlier_preload_is_kept_and_still_called(heapkeeper, compile_c, tmp_path, separator):
    library, second = compile_c(EARLIER, shared=True), compile_c("int second_is_here;", shared=True)
    code = """
        import ctypes, os
        keep = [bytearray(1000) for _ in range(20000)]
        process = ctypes.CDLL(None)
        process.free.argtypes = process.realloc.argtypes = None
        frees, reallocs = (ctypes.c_long.in_dll(process, "earlier_" + name) for name in ("frees", "reallocs"))
        process.malloc.restype = process.realloc.restype = ctypes.c_void_p
        before = frees.value, reallocs.value
        for _ in range(1000):
            process.free(ctypes.c_void_p(process.realloc(ctypes.c_void_p(process.malloc(10)), 50000)))
        print(frees.value - before[0] >= 1000, reallocs.value - before[1] >= 1000,
              ctypes.c_int.in_dll(process, "second_is_here").value, os.environ["LD_PRELOAD"])
    """
    done = heapkeeper.good(code, env={"LD_PRELOAD": library + separator + second})
    true, also, zero, preload = done.out.decode().split(None, 3)
    assert (true, also, zero) == ("True", "True", "0")
    words = preload.strip().replace(" ", ":").split(":")
    assert words[0].endswith(".so") and words[1:] == [library, second]
    heapkeeper.recorded()


def test_in_a_child_without_python_the_names_are_libcs(heapkeeper, compile_c, tmp_path):
    """Inactive: no reservation, no file, no thread; and each wrapper calls the next definition."""
    program = compile_c(r"""
        #define _GNU_SOURCE
        #include <malloc.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/resource.h>
        #include <unistd.h>
        int main(void)
        {
            struct rlimit limit;
            char line[512];
            long size = 0;
            for (int i = 1; i < 100000; i++) {
                char *p = malloc(i % 5000 + 1);
                if (malloc_usable_size(p) < (size_t)(i % 5000 + 1)) return 1;
                p = realloc(p, i % 9000 + 1);
                free(p);
            }
            free(NULL);
            getrlimit(RLIMIT_AS, &limit);
            if (setrlimit(RLIMIT_AS, &limit) || prlimit(0, RLIMIT_AS, NULL, &limit)) return 2;
            FILE *status = fopen("/proc/self/status", "r");
            while (fgets(line, sizeof line, status))
                if (strncmp(line, "VmSize:", 7) == 0) size = atol(line + 7);
            printf("%d\n", size < 64 << 10);
            fflush(stdout);
            _exit(5);
        }
    """)
    done = heapkeeper.run(["-c", program + "; exit $?"], python=shutil.which("sh"))
    assert (done.status, done.out, done.err) == (5, b"1\n", b"")
    assert heapkeeper.captures in ([], [heapkeeper.output])  # at most the empty file that the command made


def test_block_that_a_child_frees_by_libc_is_still_its_parents(heapkeeper):
    done, recorder = go(heapkeeper, """
        p = MEM.malloc(2048)
        pid = os.fork()
        if pid == 0:
            free(p)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        MEM.free(p)
    """, stock=False)
    assert recorder["libc_frees"] == 0
    check_real_path(heapkeeper.report())


def test_large_blocks_that_come_and_go_keep_their_pages(heapkeeper):
    """Blocks over 4096 bytes are glibc's, which gives the end of its heap back with each free unless it expects them."""
    code = """
        import resource
        def turn():
            return [bytearray(b"x") * 300000 for _ in range(8)]
        turn()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(200):
            turn()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    faults = int(heapkeeper.good(textwrap.dedent(code)).out)
    assert faults < 20000, faults  # eight blocks are 600 pages: 120000 if they came back each time
