"""Contract 9 and 10: who answers CPython's allocation functions, and whether stacks may be read.

What takes us out does so silently; the capture says so. And where all is well the report says that, too: these tests
fail if a fall-back passes for success.
"""

import textwrap

import pytest

import conftest
from conftest import COMMAND, check_real_path, check_sums, embedding_flags, execute, live_in

WORK = """
    def remember(): return [bytearray(1000) for _ in range(30000)]
    keep = remember()
"""
NAME = """
    import ctypes
    name = getattr(ctypes.pythonapi, "_PyMem_GetCurrentAllocatorName", None)
    if name is not None:
        name.restype = ctypes.c_char_p
        name = name()
    print(name.decode() if name else "another allocator")
"""


# --- all is well ---


def test_our_heap_whole_stacks_and_samples_on_every_python(heapkeeper, every_python):
    heapkeeper.good(WORK, python=every_python)
    report = heapkeeper.recorded(python=every_python)
    assert 20e6 < live_in(report, "remember") < 50e6
    stacks = [site["stack"] for site in report["sites"] if site["live_bytes"] > 1000000]
    assert all(stack[0]["function"] == "<module>" for stack in stacks)
    blind = sum(site["total_bytes"] for site in report["sites"] if site["blind"] and site["domain"] != "raw")
    assert blind < 0.04 * report["recorder"]["recorded_total_bytes"], "only what is allocated before the first frame"


def test_every_allocation_since_the_first_is_ours(heapkeeper, every_python):
    """Installed before main: no free of a block that was not ours, and as many bytes as the program asked for."""
    heapkeeper.good(WORK, python=every_python)
    report = heapkeeper.recorded(python=every_python)
    assert report["recorder"]["foreign_frees"] == report["recorder"]["libc_frees"] == 0
    assert report["allocated_bytes"] > 30000 * 1057


# --- what takes us out ---


@pytest.mark.parametrize("value", ["malloc", "malloc_debug", "debug", "pymalloc", "pymalloc_debug"])
def test_python_malloc_is_seen_and_named(heapkeeper, value):
    done = heapkeeper.good(textwrap.dedent(WORK) + textwrap.dedent(NAME), env={"PYTHONMALLOC": value})
    report = heapkeeper.report()
    assert report["watch"] == "replaced"
    assert report["watch_name"] in (done.out.decode().strip(), "another allocator")
    assert "ended" == report["state"]
    assert report["watch_name"].split()[0] in " ".join(report["notes"])
    check_sums(report)


@pytest.mark.parametrize("way", ["PYTHONMALLOC", "-X dev"])
def test_replacement_is_seen_on_every_python_and_named_where_it_has_a_name(heapkeeper, every_python, way):
    arguments = ["-c", textwrap.dedent(WORK) + textwrap.dedent(NAME)]
    if way == "-X dev":
        done = heapkeeper.good(["-X", "dev"] + arguments, python=every_python)
    else:
        done = heapkeeper.good(arguments, python=every_python, env={"PYTHONMALLOC": "malloc"})
    report = heapkeeper.report()
    assert report["watch"] == "replaced"
    # 3.12 cannot be asked any more when it has ended.
    assert report["watch_name"] == done.out.decode().strip() or every_python.version == (3, 12)
    assert report["watch_name"] in ("malloc", "debug", "pymalloc_debug", "another allocator")
    assert report["notes"]


def test_default_by_name_changes_nothing(heapkeeper):
    heapkeeper.good(WORK, env={"PYTHONMALLOC": ""})
    heapkeeper.recorded()


def test_pythonmalloc_default_is_seen_for_what_it_is(heapkeeper):
    """It asks for the defaults again: CPython then puts its own allocators in our place."""
    heapkeeper.good(WORK, env={"PYTHONMALLOC": "default"})
    report = heapkeeper.report()
    assert report["watch"] in ("ours", "replaced")
    if report["watch"] == "ours":
        heapkeeper.recorded()
    else:
        assert report["watch_name"]


TRACED = """
    import tracemalloc
    STARTS
    def remember(): return [bytearray(1000) for _ in range(30000)]
    keep = remember()
    assert not tracemalloc.is_tracing() or tracemalloc.get_traced_memory()[0] > 30000 * 1000
    STOPS
"""


def traced(heapkeeper, starts="", stops="", **rest):
    heapkeeper.good(TRACED.replace("STARTS", starts).replace("STOPS", stops), **rest)
    report = heapkeeper.report()
    assert (report["state"], report["stacks"], report["mode"]) == ("ended", "good", "sample")
    assert 20e6 < live_in(report, "remember") < 50e6, "recording goes on beneath it"
    check_sums(report)
    return report


def test_tracemalloc_is_seen_and_we_go_on_beneath_it(heapkeeper, every_python):
    report = traced(heapkeeper, "tracemalloc.start(3)", python=every_python)
    assert report["watch"] == "ours_under_hook"


def test_tracemalloc_from_the_start_is_seen(heapkeeper):
    assert traced(heapkeeper, env={"PYTHONTRACEMALLOC": "1"})["watch"] == "ours_under_hook"


def test_tracemalloc_that_was_stopped_is_gone_from_the_report(heapkeeper):
    assert traced(heapkeeper, "tracemalloc.start()", "tracemalloc.stop()")["watch"] == "ours"


HOOKS = r"""
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stdlib.h>
    typedef struct { void *ctx; void *(*malloc)(void *, size_t); void *(*calloc)(void *, size_t, size_t);
                     void *(*realloc)(void *, void *, size_t); void (*free)(void *, void *); } table;
    static table old[3];
    static void *m(void *c, size_t n) { table *t = c; return t->malloc(t->ctx, n); }
    static void *z(void *c, size_t k, size_t n) { table *t = c; return t->calloc(t->ctx, k, n); }
    static void *r(void *c, void *p, size_t n) { table *t = c; return t->realloc(t->ctx, p, n); }
    static void f(void *c, void *p) { table *t = c; t->free(t->ctx, p); }
    void wrap(void)   /* what a memory profiler does: PEP 445 */
    {
        void (*get)(int, table *) = dlsym(RTLD_DEFAULT, "PyMem_GetAllocator");
        void (*set)(int, table *) = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
        for (int i = 0; i < 3; i++) {
            table mine = {&old[i], m, z, r, f};
            get(i, &old[i]);
            set(i, &mine);
        }
    }
    void unwrap(void)
    {
        void (*set)(int, table *) = dlsym(RTLD_DEFAULT, "PyMem_SetAllocator");
        for (int i = 0; i < 3; i++)
            set(i, &old[i]);
    }
"""


@pytest.mark.parametrize("ends", [False, True])
def test_another_profilers_hook_is_seen_while_it_is_there(heapkeeper, compile_c, ends):
    library = compile_c(HOOKS, shared=True, name="hooks.so")
    heapkeeper.good("""
        import ctypes
        hooks = ctypes.PyDLL(%r)
        hooks.wrap()
        def remember(): return [bytearray(1000) for _ in range(30000)]
        keep = remember()
        if %r: hooks.unwrap()
    """ % (library, ends))
    report = heapkeeper.report()
    assert report["watch"] == ("ours" if ends else "ours_under_hook")
    assert live_in(report, "remember") > 20e6


EMBEDDING = r"""
    #define PY_SSIZE_T_CLEAN
    #include <Python.h>
    #include <stdio.h>
    static int use(const char *name)
    {
        char code[256];
        snprintf(code, sizeof code, "def %s(): return [bytearray(1000) for _ in range(30000)]\nkeep = %s()\n", name, name);
        return PyRun_SimpleString(code);
    }
    int main(int count, char **words)
    {
        int way = count > 1 ? atoi(words[1]) : 0;
        if (way == 3) { /* PyPreConfig.allocator */
            PyPreConfig config;
            PyPreConfig_InitPythonConfig(&config);
            config.allocator = PYMEM_ALLOCATOR_MALLOC;
            if (PyStatus_Exception(Py_PreInitialize(&config)))
                return 1;
        }
        Py_Initialize();
        if (use("first"))
            return 2;
        if (way == 2) { /* a second life */
            Py_FinalizeEx();
            Py_Initialize();
            if (use("second"))
                return 3;
        }
        if (way == 4)
            return use("fourth"); /* without Py_Finalize */
        Py_Finalize();
        puts("done");
        return 0;
    }
"""


def embed(heapkeeper, compile_c, every_python, way):
    program = compile_c(EMBEDDING, *embedding_flags(every_python))
    environment = {"PYTHONHOME": every_python.base}
    stock = execute([program, str(way)], env=environment)
    ours = heapkeeper.run([str(way)], python=program, env=environment)
    assert ours.said == stock.said and ours.status == 0
    return heapkeeper.report()


def test_program_that_embeds_python_is_recorded(heapkeeper, compile_c, every_python):
    report = embed(heapkeeper, compile_c, every_python, 1)
    check_real_path(report, python=every_python)
    assert 20e6 < live_in(report, "first") < 50e6


def test_program_that_embeds_python_and_never_finalises_it_is_recorded(heapkeeper, compile_c, python):
    report = embed(heapkeeper, compile_c, python, 4)
    check_real_path(report)
    assert live_in(report, "fourth") > 20e6


def test_second_initialize_is_survived_and_said(heapkeeper, compile_c, every_python):
    """Whatever CPython does with its allocators then, the report says which state it left us in."""
    report = embed(heapkeeper, compile_c, every_python, 2)
    assert report["state"] == "ended"
    assert report["watch"] in ("ours", "replaced")
    if report["watch"] == "replaced":
        assert report["watch_name"] and report["notes"]
    else:
        assert live_in(report, "second") > 20e6, "\"ours\" is claimed and the second life was not recorded"
    check_sums(report)


def test_allocator_chosen_by_preconfig_is_seen(heapkeeper, compile_c, every_python):
    report = embed(heapkeeper, compile_c, every_python, 3)
    assert report["watch"] == "replaced"
    assert report["watch_name"] in ("malloc", "another allocator")


DLOPEN = r"""
    #include <dlfcn.h>
    #include <stdio.h>
    int main(int count, char **words)
    {
        void *library = dlopen(words[1], RTLD_NOW | RTLD_GLOBAL);
        if (!library) { puts(dlerror()); return 1; }
        void (*initialize)(void) = dlsym(library, "Py_Initialize");
        int (*run)(const char *, void *) = dlsym(library, "PyRun_SimpleStringFlags");
        int (*finalize)(void) = dlsym(library, "Py_FinalizeEx");
        initialize();
        int status = run("keep = [bytearray(1000) for _ in range(30000)]; print(len(keep))", 0);
        return finalize() || status;
    }
"""


def test_libpython_that_is_opened_late_is_left_alone_and_the_programs_malloc_recorded(heapkeeper, compile_c, python):
    """At the constructor there is no Python: it is a program like any other."""
    embedding_flags(python)
    program = compile_c(DLOPEN, "-ldl")
    words = ["%s/%s" % (python.library_directory, python.library)]
    environment = {"PYTHONHOME": python.base}
    stock = execute([program] + words, env=environment)
    ours = heapkeeper.run(words, python=program, env=environment)
    assert ours.said == stock.said and ours.status == 0
    report = heapkeeper.report()
    assert (report["watch"], report["state"]) == ("not_python", "ended")
    assert report["heap"]["live_blocks"] > 0


# --- the self-test ---


@pytest.mark.parametrize("what", ["1", "2", "3", "4"])
def test_broken_layout_turns_stacks_off_and_counters_go_on(heapkeeper, every_python, what):
    """HEAPKEEPER_TEST_BREAK_LAYOUT=N moves one of the offsets that a stack is read with."""
    if what == "3" and every_python.version < (3, 11):
        pytest.skip("before 3.11 the public interface does not say which instruction a frame is at")
    done = heapkeeper.good(WORK, python=every_python, env={"HEAPKEEPER_TEST_BREAK_LAYOUT": what})
    report = heapkeeper.report()
    assert (report["watch"], report["state"]) == ("ours", "ended")
    assert report["stacks"] == "off" and report["stacks_why"]
    assert any(report["stacks_why"] in note for note in report["notes"])
    assert report["samples"] > 100 and report["allocated_bytes"] > 30000 * 1057
    assert report["heap"]["live_blocks"] > 10000
    recorded = sum(site["total_bytes"] for site in report["sites"])
    assert recorded > 15e6 and all(site["stack"] == [] for site in report["sites"])
    check_sums(report)
    assert done.out == b""


def unsupported():
    for path in conftest.pyenv("3.[78].*"):
        found = conftest.interpreter(path)
        if found:
            return found
    return None


def test_version_that_is_not_known_is_counted_without_stacks(heapkeeper):
    old = unsupported()
    if not old:
        pytest.skip("no Python 3.7 or 3.8 here")
    code = "keep = [bytearray(1000) for _ in range(30000)]; print(len(keep))"
    stock = heapkeeper.stock(code, python=old)
    assert heapkeeper.run(code, python=old).said == stock.said
    report = heapkeeper.report()
    assert report["state"] == "ended"
    assert (report["watch"], report["stacks"]) == ("ours", "off")
    assert report["stacks_why"] and report["samples"] > 100
    check_sums(report)
