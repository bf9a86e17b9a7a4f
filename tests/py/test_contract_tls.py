"""Contract 6: thread-local storage, late loading, and signal handlers that interrupt the recorder."""

import glob
import os
import re
import subprocess

import pytest

from conftest import BUILD, LIBRARY, PRELOAD, check_sums, embedding_flags, execute, live_in


def readelf(*words):
    return subprocess.run(["readelf", "-W", *words], stdout=subprocess.PIPE, check=True, universal_newlines=True).stdout


@pytest.mark.parametrize("path", sorted(glob.glob(os.path.join(BUILD, "libheapkeeper*.so"))), ids=os.path.basename)
def test_thread_local_storage_is_small_and_initial_exec(heapkeeper, path):
    sizes = [int(line.split()[5], 16) for line in readelf("-l", path).splitlines() if line.split()[:1] == ["TLS"]]
    assert sum(sizes) <= 64
    relocations = readelf("-r", path)
    assert "R_" in relocations
    assert not re.search(r"DTPMOD|DTPOFF|TLSDESC|TLS_DTPMOD", relocations)
    assert not re.search(r"UND.*__tls_get_addr", readelf("--dyn-syms", path))
    if sizes:
        assert re.search(r"TPOFF|TPREL", relocations), "initial-exec leaves this kind"


def test_library_can_be_loaded_late_also_by_a_program_full_of_threads(heapkeeper):
    code = """
        import ctypes, threading
        go = threading.Event()
        threads = [threading.Thread(target=go.wait) for _ in range(20)]
        for thread in threads: thread.start()
        library = ctypes.PyDLL(%r)
        library.hk_malloc.restype = library.hk_heap_create.restype = ctypes.c_void_p
        library.hk_malloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        library.hk_free.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        heap = library.hk_heap_create(None)
        blocks = [library.hk_malloc(heap, n) for n in range(1, 5000)]
        assert all(blocks)
        for block in blocks: library.hk_free(heap, block)
        go.set()
        for thread in threads: thread.join()
        print("good")
    """ % LIBRARY
    done = heapkeeper.stock(code)
    assert (done.status, done.out, done.err) == (0, b"good\n", b"")


def test_preload_library_that_is_opened_in_a_running_python_leaves_it_alone(heapkeeper, every_python):
    """Blocks of pymalloc are alive then: to take over would free them as if they were ours."""
    code = """
        import ctypes, os, threading
        before = [bytearray(n) for n in range(1, 3000)]
        library = ctypes.PyDLL(%r)
        assert library.hk_stats_json
        del before
        keep = [bytearray(n) for n in range(1, 3000)]
        pid = os.fork()
        if pid == 0:
            os._exit(len(keep) & 1)
        print(os.waitpid(pid, 0)[1] >> 8, len(os.listdir("/proc/self/task")))
    """ % PRELOAD
    done = heapkeeper.stock(code, python=every_python, env={"HEAPKEEPER_MODE": "sample",
                                                              "HEAPKEEPER_OUTPUT": str(heapkeeper.directory) + "/late"})
    assert (done.status, done.out, done.err) == (0, b"1 1\n", b"")


def test_calls_during_start_up_are_served_before_the_constructor_ran(heapkeeper, compile_c):
    """Another preload's constructor runs before or after ours, and dlsym itself may call calloc and free."""
    early = compile_c(r"""
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <malloc.h>
        #include <stdlib.h>
        #include <sys/resource.h>
        int early_is_good;
        __attribute__((constructor(101))) static void early(void)
        {
            struct rlimit limit;
            void *block = realloc(malloc(10), 5000);
            int size = malloc_usable_size(block) >= 5000;
            free(block);
            free(calloc(3, 5));
            dlsym(RTLD_DEFAULT, "no_such_name");
            dlopen("/no/such/library.so", RTLD_NOW);
            getrlimit(RLIMIT_AS, &limit);
            early_is_good = size && setrlimit(RLIMIT_AS, &limit) == 0 && prlimit(0, RLIMIT_AS, &limit, NULL) == 0;
        }
    """, "-ldl", shared=True)
    code = """
        import ctypes
        keep = [bytearray(1000) for _ in range(20000)]
        print(ctypes.c_int.in_dll(ctypes.CDLL(None), "early_is_good").value)
    """
    assert heapkeeper.good(code, env={"LD_PRELOAD": early}).out == b"1\n"
    heapkeeper.recorded()


def test_no_error_of_the_loader_is_left_for_the_program(heapkeeper, compile_c, python):
    program = compile_c(r"""
        #include <Python.h>
        #include <dlfcn.h>
        #include <stdio.h>
        int main(void) { char *error = dlerror(); puts(error ? error : "none"); return Py_IsInitialized(); }
    """, *embedding_flags(python))
    assert heapkeeper.run([], python=program).out == execute([program]).out == b"none\n"


# --- signal handlers ---

HANDLER = r"""
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <errno.h>
    #include <signal.h>
    #include <stdbool.h>
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/time.h>

    static uint64_t (*mark)(const char *);
    static bool (*recording)(void);
    static size_t (*usable)(const void *);
    static volatile long calls, wrong;
    static int kind;

    static void handler(int signal)
    {
        int saved = errno;
        errno = 77;
        calls++;
        if (kind & 1) mark(calls % 64 == 0 ? "from a handler" : NULL);
        if (kind & 2) wrong += !recording();
        if (kind & 4) wrong += usable(&saved) != 0;
        wrong += errno != 77;
        errno = saved;
    }

    void start_signals(int what, int microseconds)
    {
        struct sigaction action;
        struct itimerval every = {{0, microseconds}, {0, microseconds}};
        mark = dlsym(RTLD_DEFAULT, "hk_mark");
        recording = dlsym(RTLD_DEFAULT, "hk_recording");
        usable = dlsym(RTLD_DEFAULT, "hk_usable_size");
        kind = what;
        memset(&action, 0, sizeof action);
        action.sa_handler = handler;
        action.sa_flags = SA_RESTART;
        sigaction(SIGPROF, &action, NULL);
        setitimer(ITIMER_PROF, &every, NULL);
    }
    long stop_signals(long *errors)
    {
        struct itimerval none = {{0, 0}, {0, 0}};
        setitimer(ITIMER_PROF, &none, NULL);
        *errors = wrong;
        return calls;
    }
"""


@pytest.mark.parametrize("kind", [1, 2, 7])
def test_signal_handler_that_interrupts_the_recorder_neither_hangs_nor_breaks_the_record(heapkeeper, compile_c, kind):
    """Nearly every allocation is recorded, so that the handler lands inside the recorder most of the time."""
    library = compile_c(HANDLER, shared=True)
    done = heapkeeper.good("""
        import ctypes, time
        signals = ctypes.CDLL(%r)
        signals.stop_signals.restype = ctypes.c_long
        signals.start_signals(%d, 500)
        def remember(keep, n):
            for i in range(n):
                keep.append(bytearray(i %% 700))
            if len(keep) > 40000:
                del keep[::2]
        keep = []
        until = time.process_time() + 2
        while time.process_time() < until:
            remember(keep, 1000)
        errors = ctypes.c_long()
        print(signals.stop_signals(ctypes.byref(errors)), errors.value)
    """ % (library, kind), options=("--sample=64",))
    calls, errors = map(int, done.out.split())
    assert calls > 100 and errors == 0  # the kernel's tick bounds how many there are
    report = heapkeeper.recorded()
    assert live_in(report, "remember") > 1000000
    if kind & 1:
        assert any(point["name"] == "from a handler" for point in report["timeline"])
        assert report["recorder"]["skipped"] > 0, "none ever landed inside the recorder"


def test_python_level_handlers_and_faulthandler_work_under_load(heapkeeper, every_python):
    code = """
        import faulthandler, os, signal, sys, time
        out = open(os.devnull, "w")
        faulthandler.register(signal.SIGUSR1, file=out, all_threads=True, chain=False)
        fired = [0]
        def handler(number, frame):
            fired[0] += 1
            frame.f_lineno, [bytearray(300) for _ in range(20)]
            os.kill(os.getpid(), signal.SIGUSR1)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        keep = []
        until = time.process_time() + 0.7
        while time.process_time() < until:
            keep.extend(bytearray(i % 500) for i in range(500))
            if len(keep) > 20000:
                del keep[::2]
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(fired[0] > 20)
    """
    assert heapkeeper.good(code, python=every_python, options=("--sample=64",)).out == b"True\n"
    check_sums(heapkeeper.recorded(python=every_python))
