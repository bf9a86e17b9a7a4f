"""Memory line by line, beyond Python's: malloc's under --native, and the process's resident size."""

import json
import re
import textwrap

import pytest
from conftest import COMMAND, ENVIRONMENT, execute

# Calls of every kind, small and large; what they came to, as malloc_usable_size has it, is the caller's to compare.
CHURN = """
    #include <malloc.h>
    #include <stdlib.h>
    #include <string.h>

    enum { HELD = 64 };
    static __thread void *held[HELD];

    /* sums: allocated, freed, blocks, freed blocks. */
    void churn(unsigned seed, int turns, unsigned long long *sums)
    {
        for (int i = 0; i < turns; i++) {
            seed = seed * 1103515245u + 12345u;
            unsigned at = seed >> 8 & (HELD - 1), kind = seed >> 16 & 7;
            size_t size = 1 + (seed >> 20) % (kind == 5 ? 200000 : 900);
            void *block = held[at];
            if (block != NULL && kind < 4) {
                size_t had = malloc_usable_size(block);
                void *moved = held[at] = realloc(block, size);
                size_t has = malloc_usable_size(moved);
                if (has < had) {
                    sums[1] += had - has;
                } else if (has > had || moved != block) {
                    sums[0] += has, sums[1] += had, sums[2]++, sums[3]++;
                }
                continue;
            }
            if (block != NULL) {
                sums[1] += malloc_usable_size(block), sums[3]++;
                free(block);
            }
            if (kind == 7) {
                held[at] = NULL;
                continue;
            }
            block = kind == 0   ? calloc(3, size)
                    : kind == 1 ? aligned_alloc(64, size)
                    : kind == 2 ? memalign(4096, size)
                    : kind == 3 ? realloc(NULL, size)
                                : malloc(size);
            held[at] = block;
            sums[0] += malloc_usable_size(block), sums[2]++;
        }
    }
    void empty(unsigned long long *sums)
    {
        for (int i = 0; i < HELD; i++) {
            if (held[i] != NULL)
                sums[1] += malloc_usable_size(held[i]), sums[3]++;
            free(held[i]);
            held[i] = NULL;
        }
    }
    void *grab(size_t size) { return memset(malloc(size), 1, size); }
    void *clear(size_t size) { return calloc(1, size); }
    void drop(void *block) { free(block); }
"""

PRELUDE = """\
    import ctypes, gc, json, sys, threading, heapkeeper
    gc.disable()
    library = ctypes.CDLL(sys.argv[1])
    library.grab.restype = library.clear.restype = ctypes.c_void_p
    library.grab.argtypes = library.clear.argtypes = [ctypes.c_size_t]
    library.drop.argtypes = [ctypes.c_void_p]
    grab, clear, drop = library.grab, library.clear, library.drop
    Sums = ctypes.c_ulonglong * 4
    def native(lines, function=0):
        f = lines.functions()[function]
        return {str(l.line - f.first_line): [l.native_allocated, l.native_freed, l.native_blocks, l.native_freed_blocks, l.native_net]
                for l in f.lines if l.hits}
    def show(**what):
        print(json.dumps(what))
"""


@pytest.fixture
def run(heapkeeper, tmp_path, compile_c):
    library = compile_c(CHURN, shared=True)

    def go(code, python=None, options=("--native",)):
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(code))
        done = heapkeeper.run([str(program), library], python=python, options=options, env=ENVIRONMENT)
        assert (done.status, done.err) == (0, b""), done.err.decode(errors="replace")[-3000:]
        return json.loads(done.out)

    return go


def test_native_memory_of_each_line_is_what_c_asked_for_and_freed(run, every_python):
    found = run("""
    def work():
        a = grab(100)
        b = grab(5000000)
        c = [clear(1000) for i in range(10)]
        drop(a), drop(b)
        for block in c: drop(block)
        return grab(300)
    work()
    with heapkeeper.LineProfile(work) as lines:
        kept = work()
    grab(7000)
    f = lines.functions()[0]
    show(lines=native(lines), sums=[f.native_net, f.native_allocated, f.native_freed, f.native_blocks, f.native_freed_blocks])
    """, every_python)
    lines = found["lines"]
    a, b = lines["1"][0], lines["2"][0]
    assert 100 <= a <= 128 and 5000000 <= b <= 5000000 + 8192
    assert lines["1"] == [a, 0, 1, 0, a] and lines["2"] == [b, 0, 1, 0, b]
    c = lines["3"][0]
    assert 10000 <= c <= 12800 and lines["3"] == [c, 0, 10, 0, c]
    assert lines["4"] == [0, a + b, 0, 2, -a - b] and lines["5"] == [0, c, 0, 10, -c]
    rest = lines["6"][0]
    assert 300 <= rest <= 384 and found["sums"] == [rest, a + b + c + rest, a + b + c, 13, 12]


def test_lines_have_the_sums_of_all_of_mallocs_family_in_every_thread(run, every_python):
    """And what other threads do meanwhile is theirs."""
    found = run("""
    def work(seed, sums):
        for i in range(20):
            library.churn(seed + i, 400, sums)
            library.empty(sums)
    def one(seed, sums):
        library.empty(Sums()) # the thread has its local memory of the library now, which is malloc's
        work(seed, sums)
    def beside():
        own = Sums()
        while not stop.is_set():
            library.churn(5, 100, own)
    all_sums = [Sums() for i in range(4)]
    stop = threading.Event()
    stranger = threading.Thread(target=beside)
    stranger.start()
    work(1, Sums())
    with heapkeeper.LineProfile(work) as lines:
        threads = [threading.Thread(target=one, args=(i, sums)) for i, sums in enumerate(all_sums[1:])]
        for thread in threads: thread.start()
        work(9, all_sums[0])
        for thread in threads: thread.join()
    stop.set()
    stranger.join()
    f = lines.functions()[0]
    show(found=[f.native_allocated, f.native_freed, f.native_blocks, f.native_freed_blocks], wanted=[sum(s[i] for s in all_sums) for i in range(4)],
         lines=native(lines))
    """, every_python)
    assert found["found"] == found["wanted"]
    assert found["lines"]["2"][0] > 0 and found["lines"]["2"][4] > 0 and found["lines"]["3"][0] == 0


def test_a_line_has_the_native_memory_of_what_it_calls_once(run):
    found = run("""
    def inner(n):
        held.append(grab(2000))
        return inner(n - 1) if n else None
    def outer():
        inner(4)
        def steps():
            yield grab(3000)
            yield grab(3000)
        for block in steps(): drop(block)
    held = []
    lines = heapkeeper.LineProfile(inner, outer)
    with lines:
        outer()
    inner(1), outer()
    show(inner=native(lines), outer=native(lines, 1))
    """)
    one = found["inner"]["1"][0] // 5
    assert 2000 <= one <= 2560 and found["inner"]["1"] == [5 * one, 0, 5, 0, 5 * one] and found["inner"]["2"] == [0, 0, 0, 0, 0]
    assert found["outer"]["1"] == [5 * one, 0, 5, 0, 5 * one]
    two = sum(found["outer"][at][0] for at in ("3", "4"))
    assert 6000 <= two <= 7680 and [sum(found["outer"][at][i] for at in ("3", "4", "5")) for i in range(5)] == [two, two, 2, 2, 0]


def test_data_of_arrays_is_native(run, every_python):
    if execute([every_python.path, "-c", "import numpy"]).status != 0:
        pytest.skip("numpy is not installed for this Python")
    found = run("""
    import numpy
    def work():
        table = numpy.zeros((1000, 1000))
        ones = numpy.ones(1000000)
        table = table + 1
        return ones
    work()
    with heapkeeper.LineProfile(work) as lines:
        kept = work()
    show(lines=native(lines))
    """, every_python)
    million = 8000000
    for at, (allocated, freed) in {"1": (1, 0), "2": (1, 0), "3": (1, 1), "4": (0, 0)}.items():
        assert abs(found["lines"][at][0] - allocated * million) < 100000 and abs(found["lines"][at][1] - freed * million) < 100000


def test_without_native_there_are_no_figures_of_it(run):
    found = run("""
    def work():
        return grab(1000)
    with heapkeeper.LineProfile(work) as lines:
        work()
    f = lines.functions()[0]
    show(native=[f.native_net, f.lines[0].native_allocated, f.rss, f.has_native, f.has_rss])
    """, options=("--exact",))
    assert found["native"] == [None, None, None, False, False]


def test_resident_size_is_what_the_process_grew_by_while_a_line_ran(run, every_python):
    found = run("""
    def work():
        big = grab(64 << 20)
        idle = clear(64 << 20)
        drop(big)
        return idle
    with heapkeeper.LineProfile(work, rss=True) as lines:
        work()
    f = lines.functions()[0]
    show(rss={str(l.line - f.first_line): l.rss for l in f.lines}, sum=f.rss)
    """, every_python, options=("--exact",))
    mega = {at: round(bytes_ / (1 << 20)) for at, bytes_ in found["rss"].items()}
    assert all(abs(mega[at] - wanted) <= 4 for at, wanted in {"1": 64, "2": 0, "3": -64, "4": 0}.items()), mega
    assert found["sum"] == sum(found["rss"].values())


@pytest.fixture
def command(tmp_path, python, compile_c):
    (tmp_path / "main.py").write_text(textwrap.dedent("""\
        import ctypes, sys
        library = ctypes.CDLL(sys.argv[1])
        library.grab.restype, library.grab.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        def work():
            text = bytes(100000)
            block = library.grab(10000000)
            return text
        work()
    """))
    library = compile_c(CHURN, shared=True)

    def go(*options):
        done = execute([COMMAND, "run", "-o", "/dev/null", "--python", python.path, *options, "main.py", library], cwd=str(tmp_path))
        assert done.status == 0, done.err.decode(errors="replace")[-3000:]
        return done

    return go


def test_run_shows_native_and_resident_columns_where_they_are_asked_for(command):
    plain = command("--lines").err.decode()
    assert "Native" not in plain and "RSS" not in plain
    native = command("--native", "--lines").err.decode()
    assert re.search(r" Blocks +Native net +Native alloc\.  Source\n", native) and "RSS" not in native
    assert re.search(r"\n +6 +1 .* \+9\.5 MiB +9\.5 MiB      block = library", native)
    assert re.search(r"\n +5 +1 .* [12] +0 +0      text = bytes", native)
    assert re.search(r"; native: net \+9\.5 MiB, allocated 9\.5 MiB\n", native)
    both = command("--native", "--rss").err.decode()
    assert re.search(r" Native alloc\. +RSS  Source\n", both) and re.search(r"; resident size \+\d+\.\d MiB\n", both)
    assert re.search(r"\n +6 +1 .* 9\.5 MiB +\+\d+\.\d MiB      block = library", both)
    rss = command("--lines=work", "--rss").err.decode()
    assert re.search(r" Blocks +RSS  Source\n", rss) and "Native" not in rss


def test_json_and_html_have_the_same_columns(command, tmp_path):
    command("--native", "--rss", "--lines-output", "lines.json")
    function, = json.loads((tmp_path / "lines.json").read_text())["functions"]
    line = function["lines"][2]
    assert 10000000 <= line["native_net_bytes"] == line["native_allocated_bytes"] <= 10008192 and line["native_freed_bytes"] == 0
    assert (line["native_blocks"], line["native_freed_blocks"]) == (1, 0) and function["native_net_bytes"] == line["native_net_bytes"]
    assert function["rss_bytes"] == sum(each["rss_bytes"] for each in function["lines"]) and line["rss_bytes"] > 8000000
    command("--native", "--rss", "--lines-output", "lines.html")
    page = (tmp_path / "lines.html").read_text()
    assert re.findall(r"<th [^>]*>([^<]*)</th>", page)[-4:] == ["Native net", "Native alloc.", "RSS", "Source"]
    assert "malloc's memory" in page and "of the process, whichever thread it was" in page and "+9.5 MiB" in page
    command("--lines-output", "plain.json")
    function, = json.loads((tmp_path / "plain.json").read_text())["functions"]
    assert not any("native" in key or "rss" in key for key in list(function) + list(function["lines"][0]))
