"""Programs without Python on the malloc family: git, sqlite3, a compiler, C++, threads and forks give the same results as
without it, and their memory is in a capture. A Python with --native has a heap more."""

import glob
import os
import shutil
import subprocess

import pytest

from conftest import COMMAND, MALLOC_PRELOAD, TREE, check_sums, execute

OURS = [COMMAND, "run", "--native", "-o", "/dev/null"]


def need(program):
    path = shutil.which(program)
    if not path:
        pytest.skip("no " + program)
    return path


def same(words, env=None, **options):
    """Runs it without us and with us, recorded finely; what it says must be the same."""
    stock = execute(words, env=env, **options)
    ours = execute(OURS + ["--sample=4K"] + words, env=env, **options)
    assert ours.said == stock.said
    assert stock.status == 0, stock.err.decode()
    return stock


IDENTITY = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "c", "GIT_COMMITTER_EMAIL": "c@d",
    "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z", "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
}


def test_git_makes_the_same_repository_clone_and_log(tmp_path):
    git = need("git")
    environment = dict(IDENTITY, HOME=str(tmp_path))
    heads = []
    for name, prefix in (("stock", []), ("ours", OURS)):
        directory = tmp_path / name
        directory.mkdir()

        def run(*words, at=directory):
            done = execute(prefix + [git, *words], env=environment, cwd=str(at))
            assert done.status == 0, done.err.decode()
            return done.out

        run("init", "-q", "-b", "main")
        for i in range(12):
            for j in range(8):
                (directory / ("file%d" % j)).write_text("%d %d\n" % (i, j) * (50 + 30 * j))
            run("add", ".")
            run("commit", "-q", "-m", "commit %d" % i)
        run("gc", "-q", "--aggressive")
        run("fsck", "--strict")
        run("clone", "-q", "--no-local", ".", str(tmp_path / (name + "-clone")))
        heads.append((run("log", "-p", "--stat"), run("rev-parse", "HEAD", at=tmp_path / (name + "-clone"))))
    assert heads[0] == heads[1]


def test_sqlite_shell_answers_the_same():
    sqlite = need("sqlite3")
    script = b"""
        create table t(id integer primary key, name text, value real);
        with recursive c(x) as (select 1 union all select x + 1 from c where x < 40000)
            insert into t select x, printf('name %08d', (x * 7919) % 40000), x * 0.5 from c;
        create index i on t(name);
        select count(*), sum(value), min(name), max(name) from t;
        select name, count(*) from t where value > 100 group by substr(name, 1, 9) order by 1 limit 40;
        delete from t where id % 3 = 0; vacuum; pragma integrity_check;
    """
    assert b"ok" in same([sqlite, ":memory:"], input=script).out


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_compiler_makes_the_same_object_file(tmp_path, compiler):
    words = [need(compiler), "-O2", "-c", "-D_GNU_SOURCE", "-Iinclude", "-Isrc", "src/heap/stats.c", "-o"]
    objects = []
    for name, prefix in (("stock", []), ("ours", OURS)):
        path = tmp_path / name
        done = execute(prefix + words + [str(path)], cwd=TREE)
        assert (done.status, done.err) == (0, b"")
        objects.append(path.read_bytes())
    assert objects[0] == objects[1]


CXX = r"""
    #include <cstdint>
    #include <cstdio>
    #include <cstdlib>
    #include <map>
    #include <memory>
    #include <new>
    #include <string>
    #include <thread>
    #include <vector>
    struct alignas(128) Wide { char bytes[300]; };
    struct Counted { static int live; int x[5]; Counted() { live++; } ~Counted() { live--; } };
    int Counted::live = 0;
    static int handled = 0;
    static void handler() { if (++handled == 3) std::set_new_handler(nullptr); }
    static std::string early = std::string(1000, 'x'); // before main, and freed after it
    volatile std::size_t huge = SIZE_MAX / 4;
    int main()
    {
        for (int i = 0; i < 1000; i++) {
            Wide *wide = new Wide, *wides = new Wide[3];
            if ((std::uintptr_t)wide % 128 || (std::uintptr_t)wides % 128) return 1;
            delete wide;
            delete[] wides;
            Counted *one = new Counted, *many = new Counted[i % 50];
            delete one;
            delete[] many;
            ::operator delete(::operator new(i), (std::size_t)i);
            ::operator delete[](::operator new[](i), (std::size_t)i);
            ::operator delete(::operator new(i, std::align_val_t(64)), (std::size_t)i, std::align_val_t(64));
            ::operator delete[](::operator new[](i, std::align_val_t(4096), std::nothrow), std::align_val_t(4096), std::nothrow);
            ::operator delete(::operator new(i, std::nothrow), std::nothrow);
            ::operator delete[](::operator new[](i, std::nothrow), std::nothrow);
            std::free(::operator new(i)); // allowed nowhere, done somewhere
        }
        if (Counted::live) return 2;
        std::set_new_handler(handler);
        try { ::operator new(huge); return 3; } catch (const std::bad_alloc &) { }
        if (handled != 3) return 4;
        try { ::operator new[](huge, std::align_val_t(64)); return 5; } catch (const std::bad_alloc &) { }
        if (::operator new(huge, std::nothrow) || ::operator new[](huge, std::align_val_t(64), std::nothrow)) return 6;
        std::map<std::string, std::vector<std::string>> table;
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; t++)
            threads.emplace_back([t] {
                std::map<int, std::unique_ptr<std::string>> own;
                for (int i = 0; i < 20000; i++) own[i % 500] = std::make_unique<std::string>(i % 300, 'a' + t);
            });
        for (auto &thread : threads) thread.join();
        for (int i = 0; i < 20000; i++) table["key" + std::to_string(i % 997)].push_back(std::string(i % 90, 'v'));
        std::size_t sum = early.size();
        for (auto &pair : table) for (auto &value : pair.second) sum += value.size();
        std::printf("%zu %zu\n", table.size(), sum);
        return 0;
    }
"""


def test_every_form_of_new_and_delete_works(tmp_path):
    (tmp_path / "program.cc").write_text(CXX)
    program = str(tmp_path / "program")
    subprocess.run([need("g++"), "-std=c++17", "-O1", "-pthread", "-w", "-o", program, str(tmp_path / "program.cc")],
                   check=True, timeout=120)
    same([program])


def test_node_gives_the_same():
    same([need("node"), "-e", "let o = {}; for (let i = 0; i < 2e5; i++) o['k' + i % 5000] = [i, 'v' + i];"
          "console.log(Object.keys(o).length, JSON.stringify(o).length)"])


KEEPER = r"""
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>
    #include <sys/wait.h>
    void *kept[20000];
    __attribute__((noinline)) void remember(void) { for (int i = 0; i < 20000; i++) memset(kept[i] = malloc(500), 1, 500); }
    int main(int argc, char **argv)
    {
        remember();
        if (argc > 1) {
            if (fork() == 0) { execvp(argv[1], argv + 1); _exit(9); }
            wait(NULL);
        }
        return 0;
    }
"""


def test_program_without_python_is_recorded_under_run(heapkeeper, compile_c):
    done = heapkeeper.run([], python=compile_c(KEEPER))
    assert (done.status, done.err) == (0, b"")
    report = heapkeeper.report()
    check_sums(report)
    assert (report["watch"], report["state"]) == ("not_python", "ended")
    assert report["heap"]["live_blocks"] >= 20000 and 8e6 < report["live_bytes"] < 14e6
    assert report["samples"] > 200


@pytest.mark.parametrize("native", [False, True])
def test_children_have_the_family_only_under_native(heapkeeper, compile_c, native):
    program = compile_c(KEEPER)
    done = heapkeeper.run([program], python=program, options=["--sample=16K"] + ["--native"] * native)
    assert (done.status, done.err) == (0, b"")
    # A small child is folded into the summary of the run.
    assert [os.path.basename(path) for path in heapkeeper.captures] == [os.path.basename(heapkeeper.output)]
    assert heapkeeper.report()["small_children"]["count"] == native


def test_native_python_has_a_heap_more_and_the_same_three_domains(heapkeeper, every_python):
    code = """
        import ctypes, zlib, sqlite3
        c = ctypes.CDLL(None)
        c.malloc.restype = ctypes.c_void_p
        def native():
            blocks = []
            for _ in range(5000): blocks.append(c.malloc(ctypes.c_size_t(1000)))
            return blocks
        def objects():
            blocks = []
            for _ in range(5000): blocks.append(bytearray(1000))
            return blocks
        keep = native(), objects()
        print(sum(map(len, keep)))
    """
    done = heapkeeper.good(code, python=every_python, options=["--sample=16K", "--native"])
    assert done.out == b"10000\n"
    report = heapkeeper.recorded(python=every_python)
    for name in ("native", "objects"):
        live = sum(line["live_bytes"] for line in report["lines"] if line["function"] == name)
        assert 4e6 < live < 7e6, (name, live)


def test_python_without_native_has_libcs_malloc(heapkeeper):
    code = """
        import ctypes
        c = ctypes.CDLL(None)
        c.malloc.restype = ctypes.c_void_p
        c.hk_heap_of.restype, c.hk_heap_of.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        print(c.hk_heap_of(c.malloc(100)))
    """
    assert heapkeeper.good(code).out == b"None\n"
    assert heapkeeper.good(code, options=["--native"]).out != b"None\n"


def test_debug_and_native_exclude_each_other():
    done = execute([COMMAND, "run", "--debug", "--native", "x"])
    assert done.status == 2 and b"exclude each other" in done.err


def test_debug_says_that_it_does_not_watch_a_program_without_python(python):
    true, python_command = need("true"), [python.path, "-c", ""]
    for words, said in (([true], b"heapkeeper: run: --debug: %s has no Python inside, and C's malloc has no debug mode: "
                         b"only Pythons that it starts are watched\n" % true.encode()), (python_command, b"")):
        assert execute([COMMAND, "run", "--debug", "-o", "/dev/null", *words]).said == (0, b"", said)


def test_the_familys_heap_is_not_in_debug_mode_when_the_environment_asks_for_it(compile_c):
    environment = {"HEAPKEEPER_DEBUG": "1"}
    done = execute(OURS + ["--sample=4K", compile_c(KEEPER)], env=environment)
    assert (done.status, done.err) == (0, b"")


@pytest.mark.parametrize("name", ["jemalloc", "mimalloc", "tcmalloc_minimal"])
def test_a_malloc_that_was_preloaded_before_serves_the_large_blocks(compile_c, name):
    found = [path for pattern in ("/usr/lib/*/lib%s.so.*", "/usr/lib/lib%s.so.*") for path in glob.glob(pattern % name)]
    if not found:
        pytest.skip("no " + name)
    program = compile_c(KEEPER)
    for sample in ("none", "sample"):
        done = execute([program], env={"LD_PRELOAD": MALLOC_PRELOAD + ":" + found[0], "HEAPKEEPER_NATIVE": "all",
                                       "HEAPKEEPER_MODE": sample, "HEAPKEEPER_OUTPUT": "/dev/null"})
        assert (done.status, done.err) == (0, b"")


# As tcmalloc: what it needs to tell a block's size it makes when it is first asked, with an allocation that the program may replace.
ALLOCATES_TO_TELL_A_SIZE = r"""
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stddef.h>
    #include <stdlib.h>
    extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
    extern void __libc_free(void *);
    void *malloc(size_t size) { return __libc_malloc(size); }
    void *calloc(size_t count, size_t size) { return __libc_calloc(count, size); }
    void *realloc(void *block, size_t size) { return __libc_realloc(block, size); }
    void *memalign(size_t alignment, size_t size) { return __libc_memalign(alignment, size); }
    void free(void *block) { __libc_free(block); }
    size_t malloc_usable_size(void *block)
    {
        static void *(*volatile allocate)(size_t) = malloc;
        static size_t (*next)(void *);
        static void *object;
        if (object == NULL)
            object = allocate(40);
        if (next == NULL)
            *(void **)&next = dlsym(RTLD_NEXT, "malloc_usable_size");
        return next(block);
    }
"""


def test_a_malloc_that_allocates_to_tell_a_blocks_size_may_come_behind_ours(compile_c):
    behind = compile_c(ALLOCATES_TO_TELL_A_SIZE, "-fno-builtin", "-ldl", shared=True)
    large = compile_c("#include <stdlib.h>\nint main(void) { for (int i = 0; i < 100; i++) free(malloc(100000)); return 0; }", "-fno-builtin")
    for program in compile_c(KEEPER), large:
        for sample in ("none", "sample"):
            done = execute([program], env={"LD_PRELOAD": MALLOC_PRELOAD + ":" + behind, "HEAPKEEPER_NATIVE": "all",
                                           "HEAPKEEPER_MODE": sample, "HEAPKEEPER_OUTPUT": "/dev/null"})
            assert (done.status, done.err) == (0, b"")


ASKS_DURING_THE_LOOKUP = r"""
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <errno.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>
    static const char *said = "it was not asked\n";
    static void ask(void)
    {
        char *small = malloc(100);
        if (small == NULL)
            return;
        memset(small, 1, 100);
        for (size_t size = 16300; size < 17000; size++) {
            errno = 0;
            if (malloc(size) != NULL || errno != ENOMEM) {
                said = "more than there is\n";
                return;
            }
        }
        char *next = malloc(1000);
        void *aligned = NULL;
        said = next == NULL || posix_memalign(&aligned, 16, 1000) != 0 ? "nothing is left\n" : next < small + 100 ? "overlap\n" : "good\n";
    }
    void *dlsym(void *handle, const char *name)
    {
        static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
        static void *(*next)(void *, const char *);
        static int is_asked;
        for (int i = 0; i < 3 && next == NULL; i++)
            *(void **)&next = dlvsym(RTLD_NEXT, "dlsym", versions[i]);
        if (!is_asked++)
            ask();
        return next(handle, name);
    }
    __attribute__((destructor)) static void say(void)
    {
        write(1, said, strlen(said));
    }
"""


def test_calls_while_the_next_definitions_are_looked_up_get_what_there_is_and_no_more(compile_c):
    asks = compile_c(ASKS_DURING_THE_LOOKUP, "-ldl", "-fno-builtin", "-Wno-unused-result", shared=True)
    done = execute([compile_c("int main(void) { return 0; }")], env={"LD_PRELOAD": MALLOC_PRELOAD + ":" + asks, "HEAPKEEPER_NATIVE": "all"})
    assert done.said == (0, b"good\n", b"")


def test_the_capture_is_pythons_and_not_of_the_script_that_starts_it(heapkeeper, tmp_path, python):
    script = tmp_path / "python3"  # as a version manager has it
    script.write_text("#!/usr/bin/env sh\nexec '%s' \"$@\"\n" % python.path)
    script.chmod(0o755)
    heapkeeper.good("keep = [bytearray(1000) for _ in range(5000)]", python=str(script), options=["--sample=16K", "--native"])
    assert heapkeeper.captures == [heapkeeper.output]
    heapkeeper.recorded(python=python)
