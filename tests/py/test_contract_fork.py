"""Contract 2: fork. Whose memory is whose, and who leaves a file."""

import collections
import json
import os
import textwrap

import pytest

from conftest import COMMAND, TREE, check_real_path, check_sums, execute, live_in, sites_in, total_in

# Of a child that allocated less than 64 MiB and ended well only a summary is kept; this makes it a large one.
LARGE = "[None for _ in range(80) if not bytearray(1 << 20)]"

FAMILY = """
    import os
    def of_the_parent(n): return [bytearray(1000) for _ in range(n)]
    def of_the_child(n): return [bytearray(2000) for _ in range(n)]
    before = of_the_parent(20000)
    pid = os.fork()
    if pid == 0:
        mine = of_the_child(20000)
        del before[:10000]
        LARGE
        os._exit(0)
    os.waitpid(pid, 0)
    after = of_the_parent(5000)
    print(pid)
""".replace("LARGE", LARGE)


def by_pid(heapkeeper):
    reports = [heapkeeper.report(capture) for capture in heapkeeper.captures]
    for report in reports:
        check_sums(report)
    found = {report["pid"]: report for report in reports}
    assert len(found) == len(reports)
    return found


def near(value, truth, samples):
    """Within 5 standard errors of an estimate that stands on so many samples."""
    return abs(value - truth) <= 5 * truth / max(samples, 1) ** 0.5


def test_child_whose_parent_has_ended_before_it_records_anything_knows_its_stacks(heapkeeper):
    """A daemon: the parent's capture is packed by then, and the child reads the parent's stacks from the old file."""
    heapkeeper.good("""
        import os
        def of_the_parent(n): return [bytearray(1000) for _ in range(n)]
        def of_the_child(n): return [bytearray(2000) for _ in range(n)]
        before = of_the_parent(20000)
        ended, kept = os.pipe()
        PARENT = os.getpid()
        if os.fork() == 0:
            os.close(kept)
            os.read(ended, 1)
            while os.getppid() == PARENT:
                pass
            mine = of_the_child(40000)
            LARGE
    """.replace("LARGE", LARGE))
    reports = by_pid(heapkeeper)
    child = next(report for report in reports.values() if report["parent_pid"] in reports)
    parent = reports[child["parent_pid"]]
    inherited = [site for site in sites_in(child, "of_the_parent")[0] if site["live_bytes"]]
    assert near(live_in(child, "of_the_parent"), 20000 * 1057, sum(s["samples_live"] for s in inherited))
    assert near(live_in(parent, "of_the_parent"), 20000 * 1057, 1000)
    assert live_in(child, "of_the_child") > 60 << 20


def test_child_has_a_capture_of_its_own_and_what_it_inherited_is_marked(heapkeeper, every_python):
    pid = int(heapkeeper.good(FAMILY, python=every_python).out)
    reports = by_pid(heapkeeper)
    assert len(reports) == 2
    child = reports.pop(pid)
    parent = reports.popitem()[1]
    check_real_path(parent, python=every_python)
    check_real_path(child, python=every_python)
    assert child["parent_pid"] == parent["pid"]
    rows = {row["pid"]: row for row in parent["processes"]}
    assert (rows[pid]["forked"], rows[parent["pid"]]["forked"]) == (True, False)

    inherited = [site for site in sites_in(child, "of_the_parent")[0] if site["live_bytes"]]
    assert inherited and all(site["inherited_bytes"] == site["live_bytes"] for site in inherited)
    assert near(live_in(child, "of_the_parent"), 10000 * 1057, sum(s["samples_live"] for s in inherited))
    assert total_in(child, "of_the_parent") == 0, "what the parent allocated is not of the child's total"

    own = sites_in(child, "of_the_child")[0]
    assert all(site["inherited_bytes"] == 0 for site in own)
    assert near(live_in(child, "of_the_child"), 20000 * 2057, sum(s["samples_live"] for s in own))

    assert sites_in(parent, "of_the_child")[0] == []
    assert all(site["inherited_bytes"] == 0 for site in parent["sites"])
    through = sites_in(parent, "of_the_parent")[0]
    assert near(live_in(parent, "of_the_parent"), 25000 * 1057, sum(s["samples_live"] for s in through))


def test_parents_record_is_the_same_with_and_without_a_child(heapkeeper):
    """A child that wrote into its parent's file, or read it late, would show in exact totals."""
    code = """
        import ctypes, os, sys
        mark = ctypes.PyDLL(None).hk_mark
        mark.restype = ctypes.c_uint64
        def work(): return [bytearray(3000) for _ in range(10000)]
        start = mark(b"start")
        if sys.argv[1] == "fork" and os.fork() == 0:
            for _ in range(3):
                work()
            os._exit(0)
        keep = work()
        if sys.argv[1] == "fork":
            os.wait()
        print(start, mark(b"end"))
    """
    values = {}
    for way in ("alone", "fork"):
        done = heapkeeper.good(["-c", textwrap.dedent(code), way])
        start, end = map(int, done.out.split())
        report = heapkeeper.recorded()
        named = {point["name"]: point["allocated_bytes"] for point in report["timeline"] if point["name"]}
        assert named == {"start": start, "end": end}
        values[way] = end - start
    assert abs(values["fork"] - values["alone"]) < 65536  # os.fork and os.wait themselves; the child's work is 90 MB


AT_ONCE = {
    "os._exit": "os._exit(0)",
    "sys.exit": "sys.exit(0)",
    "exec of another program": "os.execv('/bin/true', ['true'])",
    "exec that fails": "exec_or_exit('/nonexistent')",
    "a signal": "os.kill(os.getpid(), 9)",
}


# What os.fork itself allocates in the child is some KiB: at this distance it is as good as never chosen. The parent
# allocates enough to be recorded nevertheless.
RARELY = ("--sample=64M",)
MUCH = "[None for _ in range(800) if not bytearray(1 << 20)]"


@pytest.mark.parametrize("way", AT_ONCE)
def test_child_that_ends_at_once_leaves_no_file(heapkeeper, way):
    code = """
        import os, sys
        MUCH
        def exec_or_exit(path):
            try: os.execv(path, ["x"])
            finally: os._exit(127)
        for _ in range(5):
            if os.fork() == 0:
                %s
            os.wait()
    """.replace("MUCH", MUCH) % AT_ONCE[way]
    heapkeeper.good(code, options=RARELY)
    assert heapkeeper.captures == [heapkeeper.output]
    heapkeeper.recorded()


def test_subprocesses_that_are_no_python_leave_no_file(heapkeeper):
    code = """
        import os, subprocess
        MUCH
        for _ in range(5):
            subprocess.run(["/bin/true"], check=True)
            subprocess.run(["sh", "-c", "/bin/true; /bin/true"], check=True)
            os.system("/bin/true")
            os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)
            try: subprocess.run(["/nonexistent/program"])  # the child of a vfork comes back to _exit
            except FileNotFoundError: pass
        def afterwards(): MUCH
        afterwards()
    """.replace("MUCH", MUCH)
    heapkeeper.good(code, options=RARELY)
    assert heapkeeper.captures == [heapkeeper.output]
    assert total_in(heapkeeper.recorded(), "afterwards") > 100 << 20


def test_child_that_runs_python_before_its_exec_leaves_a_file_only_if_it_recorded_something(heapkeeper):
    code = """
        import subprocess
        keep = [bytearray(1000) for _ in range(20000)]
        def in_the_child(): pass
        for _ in range(10):
            subprocess.run(["/bin/true"], check=True, preexec_fn=in_the_child)
            try: subprocess.run(["/nonexistent/program"], preexec_fn=in_the_child)
            except FileNotFoundError: pass
    """
    heapkeeper.good(code)
    heapkeeper.recorded()
    for report in by_pid(heapkeeper).values():
        assert report["recorder"]["recorded_total_bytes"] > 0


MULTIPROCESSING = """
    import multiprocessing, os, sys
    def work(n):
        global keep
        LARGE
        keep = [bytearray(1000) for _ in range(30000)]
        return os.getpid(), sum(map(len, keep))
    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        with context.Pool(2) as pool:
            results = pool.map(work, range(6), chunksize=1)
            pool.close()
            pool.join()
        process = context.Process(target=work, args=(1,))
        process.start()
        process.join()
        print(process.pid, process.exitcode, *sorted({pid for pid, total in results if total == 30000000}))
""".replace("LARGE", LARGE)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_are_recorded(heapkeeper, tmp_path, method):
    check_multiprocessing(heapkeeper, tmp_path, method, heapkeeper.python)


@pytest.mark.parametrize("method", ["forkserver"])
def test_workers_of_multiprocessing_are_recorded_on_every_python(heapkeeper, tmp_path, method, every_python):
    check_multiprocessing(heapkeeper, tmp_path, method, every_python)


def check_multiprocessing(heapkeeper, tmp_path, method, python):
    script = tmp_path / "workers.py"
    script.write_text(textwrap.dedent(MULTIPROCESSING))
    process, status, *workers = map(int, heapkeeper.good([str(script), method], python=python).out.split())
    assert status == 0
    reports = by_pid(heapkeeper)
    assert len(workers) in (1, 2)
    for pid in workers + [process]:
        assert live_in(reports[pid], "work") > 20 * 1000 * 1000
        assert (reports[pid]["watch"], reports[pid]["stacks"]) == ("ours", "good")
    assert reports[process]["state"] == "ended"  # through os._exit
    runs = {row["pid"] for row in heapkeeper.report()["processes"]}
    assert runs == set(reports), "one run, shown together"


def test_child_of_a_raw_clone_is_told_from_its_parent(heapkeeper):
    """No handler of pthread_atfork runs: only the page that the kernel wipes tells."""
    code = """
        import ctypes, os, sys
        libc = ctypes.CDLL(None)
        def of_the_parent(n): return [bytearray(1000) for _ in range(n)]
        def of_the_child(n): return [bytearray(2000) for _ in range(n)]
        keep = of_the_parent(20000)
        pids = []
        for _ in range(3):
            pid = libc.syscall(56 if os.uname().machine == "x86_64" else 220, 17, 0, 0, 0, 0)  # clone, SIGCHLD
            if pid == 0:
                mine = of_the_child(20000)
                del keep[:5000]
                LARGE
                os._exit(0)
            pids.append(pid)
            keep += of_the_parent(2000)
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
        print(*pids)
    """.replace("LARGE", LARGE)
    children = [int(word) for word in heapkeeper.good(code).out.split()]
    reports = by_pid(heapkeeper)
    assert set(children) < set(reports) and len(reports) == 4
    for pid in children:
        child = reports.pop(pid)
        assert live_in(child, "of_the_child") > 30 * 1000 * 1000
        assert child["parent_pid"] in reports or child["parent_pid"] == min(reports)
        assert child["watch"] == "ours"
    parent = reports.popitem()[1]
    check_real_path(parent)
    assert sites_in(parent, "of_the_child")[0] == []
    assert near(live_in(parent, "of_the_parent"), 26000 * 1057,
                sum(s["samples_live"] for s in sites_in(parent, "of_the_parent")[0]))


def test_fork_while_threads_allocate_neither_hangs_nor_breaks_a_record(heapkeeper, every_python):
    code = """
        import os, sys, threading, warnings
        warnings.simplefilter("ignore")
        stop = False
        def churn():
            keep = []
            while not stop:
                keep.append(bytearray(700))
                if len(keep) > 3000:
                    del keep[::2]
        threads = [threading.Thread(target=churn) for _ in range(2)]
        for thread in threads:
            thread.start()
        def of_the_child(): return [bytearray(900) for _ in range(5000)]
        for i in range(12):
            pid = os.fork()
            if pid == 0:
                mine = of_the_child()
                LARGE
                os._exit(0 if i % 2 else 3)
            assert os.waitpid(pid, 0)[1] in (0, 3 << 8)
        stop = True
        for thread in threads:
            thread.join()
    """.replace("LARGE", LARGE)
    heapkeeper.good(code, python=every_python, options=("--sample=8K",))
    heapkeeper.recorded(python=every_python)
    reports = by_pid(heapkeeper)
    assert len(reports) == 13
    states = collections.Counter(report["state"] for report in reports.values())
    assert states == {"ended": 13}
    for report in reports.values():
        assert report["watch"] == "ours" and report["stacks"] == "good"
        if report["pid"] != heapkeeper.report()["pid"]:
            assert total_in(report, "of_the_child") > 2 * 1000 * 1000


def test_grandchildren_and_children_of_children_are_all_there(heapkeeper):
    code = """
        import os
        depth = 0
        def at_depth(): return [bytearray(1000) for _ in range(5000)]
        keep = at_depth()
        LARGE
        while depth < 4 and os.fork() == 0:
            depth += 1
            keep += at_depth()
            LARGE
        if depth < 4:
            os.wait()
    """.replace("LARGE", LARGE)
    heapkeeper.good(code)
    reports = by_pid(heapkeeper)
    assert len(reports) == 5
    chain = {report["parent_pid"]: report for report in reports.values()}
    report = heapkeeper.report()
    for depth in range(5):
        site_bytes = live_in(report, "at_depth")
        assert site_bytes > 0.7 * (depth + 1) * 5000 * 1057
        inherited = sum(site["inherited_bytes"] for site in sites_in(report, "at_depth")[0])
        assert (inherited > 0) == (depth > 0)
        report = chain.get(report["pid"])
    assert report is None


def test_small_children_that_ended_well_are_folded_into_one_summary(heapkeeper):
    """A test suite starts thousands of Pythons; the bound of a run is theirs together."""
    code = """
        import subprocess, sys
        keep = [bytearray(1000) for _ in range(20000)]
        for i in range(12):
            subprocess.run([sys.executable, "-c", "keep = [bytearray(1000) for _ in range(1000)]"], check=True)
        for i in range(3):
            subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    """
    heapkeeper.good(code)
    report = heapkeeper.recorded()
    assert report["small_children"]["count"] == 12
    assert report["small_children"]["allocated_bytes"] > 12 * 1000 * 1000
    assert report["small_children"]["largest_peak_bytes"] > 1000 * 1000
    assert len(report["processes"]) == 4, "those that were killed are kept whole"


def test_small_children_have_captures_and_curves_of_their_own_where_that_is_asked_for(heapkeeper):
    code = """
        import os, subprocess, sys
        for i in range(3):
            subprocess.run([sys.executable, "-c", "keep = [bytearray(1000) for _ in range(1000)]"], check=True)
        pid = os.fork()
        if pid == 0:
            more = [bytearray(1000) for _ in range(2000)]
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """
    heapkeeper.good(code, options=("--sample", "--keep-children"))
    report = heapkeeper.recorded()
    assert report["small_children"]["count"] == 0 and len(report["processes"]) == 5
    assert all(process["peak_bytes"] > 1000 * 1000 for process in report["processes"] if process["pid"] != report["pid"])
    plot = json.loads(execute([COMMAND, "plot", "--run", "--json", heapkeeper.output]).out)
    assert len(plot["lines"]) == 6 and plot["left_out"] == 0, "one of each, and all together"


def test_a_forked_child_has_a_file_after_256_kib_however_quickly_they_came(heapkeeper):
    """What is due by the clock is not yet when the child ends, a millisecond after the fork."""
    code = """
        import os, subprocess, sys
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        for i in range(20):
            pid = os.fork()
            if pid == 0:
                more = [bytearray(5000) for _ in range(100)]
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
    """
    heapkeeper.good(code, options=("--exact", "--keep-children"))
    children = [process for process in heapkeeper.report()["processes"] if process["forked"]]
    assert len(children) == 20 and all(child["peak_bytes"] > 500 * 1000 for child in children)


def test_small_forked_children_are_folded_however_much_their_parent_had_allocated(heapkeeper):
    code = """
        import os
        for i in range(100):
            keep = [bytearray(1000) for _ in range(1000)]
        for i in range(5):
            pid = os.fork()
            if pid == 0:
                more = [bytearray(1000) for _ in range(2000)]
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
    """
    heapkeeper.good(code)
    report = heapkeeper.recorded()
    assert report["allocated_bytes"] > 64 << 20
    assert report["small_children"]["count"] == 5
    assert 5 * 2000 * 1000 < report["small_children"]["allocated_bytes"] < 5 * 64 << 20
    assert len(report["processes"]) == 1


def test_fork_and_first_allocation_stay_quick_with_many_sites(heapkeeper):
    """The child copies what it needs once, at its first event: the number of events does not multiply it."""
    code = """
        import json, os, time
        sources = "\\n".join("def f%d(n): return bytes(n)" % i for i in range(3000))
        space = {}
        exec(compile(sources, "many.py", "exec"), space)
        keep = [space["f%d" % i](2000) for i in range(3000) for _ in range(3)]
        def of_the_child(): return [bytearray(900) for _ in range(20000)]
        if os.fork() == 0:
            mine = of_the_child()
            LARGE
            os._exit(0)
        os.wait()
    """.replace("LARGE", LARGE)
    heapkeeper.good(code, options=("--sample=512",))
    parent = heapkeeper.recorded()
    child, = (heapkeeper.report(path) for path in heapkeeper.captures[1:])
    check_sums(child)
    inherited = {site["function"] for site in child["sites"] if site["inherited_bytes"]}
    assert len([name for name in inherited if name.startswith("f")]) > 2500
    assert len(parent["sites"]) > 2500
    assert live_in(child, "of_the_child") > 15 * 1000 * 1000
    json.dumps(child)


def test_heaps_of_an_embedding_program_are_whole_in_a_child_forked_while_threads_use_them(heapkeeper, compile_c):
    """As without us, where one of them was made with HK_LOCK_THREADS."""
    program = compile_c(r"""
        #include <heapkeeper/heap.h>
        #include <dlfcn.h>
        #include <pthread.h>
        #include <stdint.h>
        #include <stdlib.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static hk_heap *heap;
        static void *(*get)(hk_heap *, size_t);
        static void (*put)(hk_heap *, void *);
        static volatile int over;
        static void *work(void *argument)
        {
            for (unsigned i = 0; !over; i++) put(heap, get(heap, i * 37 % 6000));
            return NULL;
        }
        int main(void)
        {
            hk_heap *(*make)(const hk_heap_options *) = (hk_heap *(*)(const hk_heap_options *))dlsym(RTLD_DEFAULT, "hk_heap_create");
            get = (void *(*)(hk_heap *, size_t))dlsym(RTLD_DEFAULT, "hk_malloc");
            put = (void (*)(hk_heap *, void *))dlsym(RTLD_DEFAULT, "hk_free");
            make(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = HK_LOCK_THREADS});
            heap = make(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = HK_LOCK_OWN});
            pthread_t thread[3];
            for (int i = 0; i < 3; i++) pthread_create(&thread[i], NULL, work, NULL);
            for (int i = 0; i < 200; i++) {
                pid_t pid = fork();
                if (pid == 0) {
                    alarm(20);
                    for (unsigned k = 0; k < 500; k++) put(heap, get(heap, k * 37 % 6000));
                    _exit(0);
                }
                int status;
                if (waitpid(pid, &status, 0) != pid || status != 0) return 1;
            }
            over = 1;
            for (int i = 0; i < 3; i++) pthread_join(thread[i], NULL);
            return 7;
        }
    """, "-I" + os.path.join(TREE, "include"), "-pthread")
    assert execute([COMMAND, "run", "-o", "/dev/null", program]).said == (7, b"", b"")
