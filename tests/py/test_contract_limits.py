"""Contract 3 and 7: limits on addresses, before and after start, and huge pages."""

import os
import shutil
import time
import textwrap

import pytest

from conftest import check_real_path, check_sums, live_in, sites_in

THREADS = """
    import resource, sys, threading
    threading.stack_size(8 << 20)
    keep = [bytearray(1000) for _ in range(20000)]
    limit = int(sys.argv[1])
    LOWER
    go, started = threading.Event(), 0
    threads = []
    for _ in range(50):
        thread = threading.Thread(target=go.wait)
        try: thread.start()
        except RuntimeError: break
        threads.append(thread)
    go.set()
    for thread in threads: thread.join()
    def afterwards(): return [bytearray(1000) for _ in range(20000)]
    keep += afterwards()
    size, peak = (next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(name))
                  for name in ("VmSize", "VmPeak"))
    print(len(threads), len(keep), size <= limit, peak > limit)
"""

LOWER = {
    "setrlimit": "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))",
    "setrlimit, soft only": "resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))",
    "prlimit": "resource.prlimit(0, resource.RLIMIT_AS, (limit, limit))",
    "setrlimit64": """
    import ctypes
    ctypes.CDLL(None).setrlimit64(resource.RLIMIT_AS, (ctypes.c_uint64 * 2)(limit, limit))""",
    "in steps": """
    for step in (64, 16, 4, 2, 1):
        resource.setrlimit(resource.RLIMIT_AS, (step * limit, resource.getrlimit(resource.RLIMIT_AS)[1]))""",
}


def lowering(heapkeeper, tmp_path, how, python=None, limit=4 << 30):
    script = tmp_path / "threads.py"
    script.write_text(textwrap.dedent(THREADS).replace("LOWER", textwrap.dedent(LOWER[how]).strip()))
    program = [str(script), str(limit)]
    stock = heapkeeper.stock(program, python=python)
    assert (stock.out, stock.status) == (b"50 40000 True False\n", 0)
    # "True": what was reserved at first was more than the limit allows.
    assert heapkeeper.good(program, python=python).out == b"50 40000 True True\n"
    report = heapkeeper.recorded(python=python)
    assert live_in(report, "afterwards") > 10 * 1000 * 1000


@pytest.mark.parametrize("megabytes", [200, 500, 1000])
def test_as_many_threads_as_on_stock_start_under_a_limit_too_low_for_fifty(heapkeeper, tmp_path, megabytes):
    script = tmp_path / "threads.py"
    script.write_text(textwrap.dedent(THREADS).replace("LOWER", LOWER["setrlimit"]))
    program = [str(script), str(megabytes << 20)]
    # Without arenas of malloc's for its threads: one takes as much as eight threads, and how many there are varies.
    env = {"MALLOC_ARENA_MAX": "1"}
    stock, ours = (int(run(program, env=env).out.split()[0]) for run in (heapkeeper.stock, heapkeeper.good))
    assert 0 < stock <= 50
    assert ours >= stock * 3 // 4
    heapkeeper.recorded()


@pytest.mark.parametrize("how", LOWER)
def test_fifty_threads_start_after_the_address_limit_was_lowered_by(heapkeeper, tmp_path, how):
    lowering(heapkeeper, tmp_path, how)


def test_fifty_threads_start_after_the_address_limit_was_lowered_on_every_python(heapkeeper, tmp_path, every_python):
    lowering(heapkeeper, tmp_path, "setrlimit", every_python)


def test_a_program_may_fill_what_a_lowered_limit_leaves_and_gets_memory_errors_as_on_stock(heapkeeper):
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))
        keep = []
        try:
            while True: keep.append(bytearray(3000))
        except MemoryError:
            got = sum(map(len, keep)) >> 20
            del keep
        again = [bytearray(3000) for _ in range(10000)]
        print("full", len(again), got)
    """
    stock, ours = heapkeeper.stock(code), heapkeeper.run(code)
    full, again, got = ours.out.split()
    assert (full, again, ours.status, ours.err) == (b"full", b"10000", 0, b"")
    assert int(got) >= 0.75 * int(stock.out.split()[2])
    heapkeeper.recorded()


def test_limit_of_another_process_is_not_taken_for_ours(heapkeeper):
    code = """
        import os, resource, subprocess
        def size(): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
        keep = [bytearray(1000) for _ in range(20000)]
        before = size()
        child = subprocess.Popen(["sleep", "60"])
        resource.prlimit(child.pid, resource.RLIMIT_AS, (1 << 30, 1 << 30))
        child.kill()
        child.wait()
        resource.setrlimit(resource.RLIMIT_STACK, resource.getrlimit(resource.RLIMIT_STACK))
        print(size() > before - 10000, before > 32 << 20)
    """
    assert heapkeeper.good(code).out == b"True True\n"
    heapkeeper.recorded()


@pytest.mark.parametrize("kilobytes", [4000000, 1000000, 500000, 300000, 200000, 150000, 120000, 100000, 80000])
def test_program_runs_under_ulimit_v_as_far_as_stock_does(heapkeeper, kilobytes):
    code = "keep = [bytearray(1000) for _ in range(10000)]; print(len(keep))"
    shell = ["sh", "-c", 'ulimit -v %d; exec "$@"' % kilobytes, "sh"]
    stock = heapkeeper.stock(code, prefix=shell)
    if stock.status != 0:
        pytest.skip("too little for stock Python, too")
    ours = heapkeeper.run(code, prefix=shell)
    assert ours.said == stock.said
    report = heapkeeper.report()
    assert report["state"] == "ended"
    if kilobytes >= 500000:
        heapkeeper.recorded()
    else:  # on our heap, or all of it the C allocator's, or the report says why not
        assert report["watch"] == "ours" or report["watch"] == "refused" and report["watch_name"]
        check_sums(report)


@pytest.mark.parametrize("kilobytes", [8000, 20479, 20480, 24000])
@pytest.mark.parametrize("options", [[], ["--sample"], ["--native"], ["--geometry", "guide"], ["-o", "/dev/null"],
                                     ["-o", "/dev/null", "--sample"]], ids=" ".join)
def test_program_runs_under_ulimit_d_as_far_as_stock_does(heapkeeper, kilobytes, options):
    """What our tables may grow to does not count as data, and a limit that has no room for what they are from the start is the program's alone."""
    code = "keep = [bytearray(100) for _ in range(%d)]; print(len(keep))" % (10 if kilobytes < 24000 else 20000)
    shell = ["sh", "-c", 'ulimit -d %d; exec "$@"' % kilobytes, "sh"]
    stock = heapkeeper.stock(code, prefix=shell)
    if stock.status != 0:
        pytest.skip("too little for stock Python, too")
    ours = heapkeeper.run(code, prefix=shell, options=options)
    assert (ours.status, ours.out) == (0, stock.out)
    if kilobytes < 20480:
        assert ours.err.count(b"\n") == 1 and b"RLIMIT_DATA (ulimit -d) is %d KiB" % kilobytes in ours.err
    else:
        assert ours.err == b""
        if "/dev/null" not in options:
            check_real_path(heapkeeper.report(), python=heapkeeper.python, mode="sample" if "--sample" in options else "exact")


def test_a_table_of_many_stacks_grows_under_ulimit_d(heapkeeper):
    """The list of keys is made writable as it grows: where it may not, the program goes on."""
    code = """
        import resource
        def deep(n, way): return (deep(n - 1, way >> 1) if way & 1 else deep(n - 1, way >> 1)) if n else bytearray(600)
        for way in range(3000): deep(13, way)
        resource.setrlimit(resource.RLIMIT_DATA, (1, resource.RLIM_INFINITY))
        try:
            for way in range(8192): deep(13, way)
        except MemoryError:
            pass
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(sum(len(deep(13, way)) for way in range(8192)))
    """
    assert heapkeeper.run(code, options=["--exact"]).said == (0, b"4915200\n", b"")
    check_real_path(heapkeeper.report(), python=heapkeeper.python, mode="exact")


@pytest.mark.parametrize("kilobytes", [300000, 500000, 1000000])
@pytest.mark.parametrize("ask", ["bytearray(size)", "b'x' * size", "grown(size)"])
def test_half_of_what_ulimit_v_allows_can_be_had_in_one_piece(heapkeeper, kilobytes, ask):
    """What was reserved and is not used yet is given back to whoever needs it."""
    code = """
        def grown(size):
            block = bytearray(5000)
            block.extend(bytes(size // 2 - 5000))
            return block
        size = %d
        piece = %s
        print(len(piece) >= size // 2, len([bytearray(1000) for _ in range(10000)]))
    """ % (kilobytes * 512, ask)
    shell = ["sh", "-c", 'ulimit -v %d; exec "$@"' % kilobytes, "sh"]
    for options in [], ["--sample"], ["--geometry", "guide"]:
        assert heapkeeper.run(code, prefix=shell, options=options).said == (0, b"True 10000\n", b"")


def overcommit():
    with open("/proc/sys/vm/overcommit_memory") as file:
        return int(file.read())


def test_program_runs_where_memory_may_not_be_overcommitted(heapkeeper):
    """vm.overcommit_memory=2 is the whole machine's: it is not changed unless HEAPKEEPER_TEST_OVERCOMMIT is set."""
    before, path = overcommit(), "/proc/sys/vm/overcommit_memory"
    if before != 2 and not (os.environ.get("HEAPKEEPER_TEST_OVERCOMMIT") and os.access(path, os.W_OK)):
        pytest.skip("vm.overcommit_memory is %d; HEAPKEEPER_TEST_OVERCOMMIT=1 as root sets it to 2 for this test" % before)
    try:
        if before != 2:
            with open(path, "w") as file:
                file.write("2")
        heapkeeper.good("keep = [bytearray(1000) for _ in range(20000)]; print(len(keep))")
    finally:
        if before != 2:
            with open(path, "w") as file:
                file.write(str(before))
    heapkeeper.recorded()


def test_program_runs_under_valgrind_as_without_us(heapkeeper):
    valgrind = shutil.which("valgrind")
    if not valgrind:
        pytest.skip("no valgrind")
    code = "keep = [bytearray(1000) for _ in range(3000)]; print(sum(map(len, keep)))"
    words = [valgrind, "-q", "--tool=none", heapkeeper.python.path, "-S", "-c", code]
    done = heapkeeper.run(words[1:], python=words[0], timeout=300)
    assert (done.status, done.out) == (0, b"3000000\n"), done.err.decode()
    assert b"heapkeeper" not in done.err
    report = heapkeeper.recorded()
    assert report["heap"]["live_blocks"] > 1000


# --- huge pages ---

SMAPS = r"""
    import ctypes, json, os, re, sys
    library = ctypes.PyDLL(None)
    library.hk_heap_of.restype = ctypes.c_void_p
    library.hk_heap_of.argtypes = [ctypes.c_void_p]
    library.hk_heap_trim.restype = ctypes.c_size_t
    library.hk_heap_trim.argtypes = [ctypes.c_void_p]
    ARENA, HUGE = 1 << 20, 2 << 20

    def flags():
        '''Start, end, VmFlags of each mapping.'''
        found, at = [], None
        for line in open("/proc/self/smaps"):
            span = re.match("([0-9a-f]+)-([0-9a-f]+) ", line)
            if span:
                at = [int(span[1], 16), int(span[2], 16)]
            elif line.startswith("VmFlags:"):
                found.append(at + [line.split()[1:]])
        return found

    def advice(maps, address):
        words = next(words for start, end, words in maps if start <= address < end)
        return "".join(word for word in ("hg", "nh") if word in words)

    # Not the one that a sampled object lies in.
    def heap_of_most(objects):
        heaps = [library.hk_heap_of(id(o)) for o in objects[1000:2000]]
        return max(set(heaps), key=heaps.count)

    def arenas(maps, objects, heap):
        '''The advice on each arena in which an object of this heap lies, by address.'''
        places = sorted({id(o) // ARENA * ARENA for o in objects if library.hk_heap_of(id(o)) == heap})
        return [advice(maps, place) for place in places]
"""


def smaps(heapkeeper, code, **rest):
    if not os.path.exists("/sys/kernel/mm/transparent_hugepage"):
        pytest.skip("a kernel without transparent huge pages")
    return heapkeeper.good(textwrap.dedent(SMAPS) + textwrap.dedent(code), **rest)


def test_huge_pages_are_asked_for_only_after_a_heaps_first_8_mib(heapkeeper, every_python):
    done = smaps(heapkeeper, """
        objects = [tuple([None] * 20) for _ in range(500000)]   # 100 MB in pools
        print(json.dumps(arenas(flags(), objects, heap_of_most(objects))))
    """, python=every_python)
    advice = done.json
    assert len(advice) > 60
    assert set(advice[:8]) == {"nh"}
    assert advice == sorted(advice, reverse=True) and advice[-1] == "hg", "against them first, for them later"
    assert advice.count("hg") > len(advice) // 3
    heapkeeper.recorded(python=every_python)


HOLES = """
    def resident(at):
        with open("/proc/self/pagemap", "rb") as file:
            file.seek(at // 4096 * 8)
            entries = file.read(HUGE // 4096 * 8)
        return sum(entries[i + 7] >> 7 for i in range(0, len(entries), 8))

    # Of each page of 2 MiB with objects of the heap: pages in memory, and what is asked for.
    def look():
        maps = flags()
        return {at: (resident(at), advice(maps, at)) for at in places}

    objects = [tuple([None] * 20) for _ in range(500000)]
    heap = heap_of_most(objects)
    mine = [id(o) for o in objects if library.hk_heap_of(id(o)) == heap]
    places = sorted({at // HUGE * HUGE for at in mine} - {min(mine) // HUGE * HUGE})
    before = look()
    kept = objects[KEPT]
    del objects
    returned = library.hk_heap_trim(heap)
    after = look()
    more = [tuple([None] * 20) for _ in range(400000)]
    again = look()
    print(json.dumps([returned] + [[before[at], after[at], again[at]] for at in places]))
"""


@pytest.mark.parametrize("kept", [":200000", "200000:", "::4000", "100000:400000", "::100000"])
def test_no_huge_page_where_a_hole_was_punched(heapkeeper, kept):
    """khugepaged would fill it again. Where all of a huge page went back there is nothing for it to fill."""
    done = smaps(heapkeeper, HOLES.replace("KEPT", kept))
    returned, *pages = done.json
    assert returned > 10 << 20
    punched = [(after, again) for before, after, again in pages if before[0] == 512 and 0 < after[0] < 512]
    gone = [after for before, after, again in pages if before[0] == 512 and after[0] == 0]
    assert punched or gone
    for after, again in punched:
        assert after[1] == "nh"
        assert again[1] == "nh", "for good"
    heapkeeper.recorded()


def test_small_program_has_no_huge_page(heapkeeper):
    done = smaps(heapkeeper, """
        objects = [object() for _ in range(1000)]
        mine = id(objects[0])
        for start, end, words in flags():
            if start <= mine < end:
                print(json.dumps(words))
    """)
    assert "nh" in done.json and "hg" not in done.json
    heapkeeper.recorded()


# --- the kernel's out-of-memory killer ---


def read(path):
    with open(path) as file:
        return file.read()


def write(path, text):
    with open(path, "w") as file:
        file.write(str(text))


@pytest.fixture
def small_group():
    """Makes a control group that may have so many bytes of memory; gives its directory and how often it killed."""
    if not os.environ.get("HEAPKEEPER_TEST_OOM"):
        pytest.skip("the kernel may let a process wait for minutes at its limit before it kills it; HEAPKEEPER_TEST_OOM=1 runs this")
    made = []

    def limit(directory, size):
        if os.path.exists(directory + "/memory.limit_in_bytes"):
            write(directory + "/memory.limit_in_bytes", size)
            if os.path.exists(directory + "/memory.memsw.limit_in_bytes"):
                write(directory + "/memory.memsw.limit_in_bytes", size)
            return lambda: int(dict(line.split() for line in read(directory + "/memory.oom_control").splitlines())["oom_kill"])
        write(directory + "/memory.max", size)
        if os.path.exists(directory + "/memory.swap.max"):
            write(directory + "/memory.swap.max", 0)
        return lambda: int(dict(line.split() for line in read(directory + "/memory.events").splitlines())["oom_kill"])

    def make(size):
        why = "no control group of memory is mounted"
        for line in read("/proc/mounts").splitlines():
            _, mount, kind, options = line.split()[:4]
            if kind not in ("cgroup", "cgroup2") or (kind == "cgroup" and "memory" not in options.split(",")):
                continue
            directory = "%s/heapkeeper-test-%d-%d" % (mount, os.getpid(), len(made))
            try:
                os.mkdir(directory)
                made.append(directory)
                return directory, limit(directory, size)
            except (OSError, KeyError) as error:
                why = "no control group can be made: %s" % error
        pytest.skip(why)

    yield make
    for directory in made:
        for _ in range(100):  # until the kernel has forgotten the process
            try:
                os.rmdir(directory)
                break
            except OSError:
                time.sleep(0.02)


@pytest.mark.parametrize("where", ["on the disk", "in memory"])
def test_what_the_kernel_kills_for_its_memory_leaves_an_exact_record_that_names_the_line(heapkeeper, tmp_path, small_group, every_python,
                                                                                        where):
    directory, kills = small_group(96 << 20)
    code = """
        import os
        said = os.open(%r, os.O_WRONLY | os.O_CREAT)
        def steady():
            return [bytes(1000) for _ in range(5000)]
        def grow():
            kept = []
            while True:
                kept.append(bytes(3000))
                os.pwrite(said, b"%%20d" %% len(kept), 0)
        others = steady()
        grow()
    """ % str(tmp_path / "said")
    inside = ("sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', directory)
    output = None if where == "on the disk" else "/dev/shm/heapkeeper-test-%d" % os.getpid()
    try:
        done = heapkeeper.run(code, python=every_python, options=("--exact",), prefix=inside, output=output, timeout=900)
        assert (done.status, kills()) == (-9, 1), done.err
        report = heapkeeper.report()
        check_real_path(report, "killed", every_python, mode="exact")
        text = heapkeeper.text(None, "--color", "never").decode()
    finally:
        if output:
            os.unlink(output)
    count = int(read(str(tmp_path / "said")))
    line, = {site["line"] for site in sites_in(report, "grow")[1] if site["live_blocks"] >= count}
    grown = [site for site in sites_in(report, "grow")[1] if site["line"] == line and site["domain"] == "object"]
    largest = max(grown, key=lambda site: site["live_bytes"])
    assert count > 10000 and largest["live_blocks"] in (count, count + 1)
    assert largest["live_bytes"] == largest["live_blocks"] * 3033 == largest["total_bytes"]
    # Not that it is called growing: the kernel lets a process wait at its limit for as long as it ran, and time is one of the two clocks.
    assert 5000 * 1033 <= live_in(report, "steady") < 5000 * 1050
    assert "<string>:%d in grow" % line in text and "killed" in text
