"""The contract's page on the capture file: where it lies, that it is safe, bounded and self-contained, and that it is
right whenever its process ends."""

import glob
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import textwrap
import time

import pytest

from conftest import (BOUND, COMMAND, check_real_path, check_sums, clean_environment, execute, live_in, sites_in,
                      total_in)

WORK = "keep = [bytearray(1000) for _ in range(20000)]"


# --- where ---


def default_run(heapkeeper, program=WORK, *options, **rest):
    """Without -o; what is asked of HEAPKEEPER_DIR and its like is in env."""
    done = execute([COMMAND, "run", "--sample=16K", *options] + heapkeeper.words(program), **rest)
    assert (done.status, done.err) == (0, b""), done.err.decode()
    return done


def captures_in(directory):
    return sorted(glob.glob(os.path.join(glob.escape(str(directory)), "*.hkc")))


def test_directory_that_is_named_is_made_and_used(heapkeeper, tmp_path):
    place = tmp_path / "a" / "b"
    default_run(heapkeeper, env={"HEAPKEEPER_DIR": str(place)})
    capture, = captures_in(place)
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(capture).st_mode) == 0o600
    heapkeeper.recorded(capture)


def test_runtime_directory_is_next(heapkeeper, tmp_path):
    tmp_path.chmod(0o700)
    default_run(heapkeeper, env={"HEAPKEEPER_DIR": None, "XDG_RUNTIME_DIR": str(tmp_path)})
    place = tmp_path / "heapkeeper"
    capture, = captures_in(place)
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o700
    heapkeeper.recorded(capture)


def test_shared_memory_is_next_and_report_without_a_file_shows_the_newest_run(heapkeeper):
    environment = {"HEAPKEEPER_DIR": None, "XDG_RUNTIME_DIR": None}
    place = "/dev/shm/heapkeeper-%d" % os.geteuid()
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm")
    before = set(captures_in(place))
    done = default_run(heapkeeper, WORK + "; import os; print(os.getpid())", env=environment)
    new = set(captures_in(place)) - before
    mine = [path for path in new if ".%d." % int(done.out) in path]
    try:
        assert len(mine) == 1
        heapkeeper.recorded(mine[0])
    finally:
        for path in mine:
            os.unlink(path)


def test_report_without_a_file_shows_the_newest_run(heapkeeper, tmp_path):
    environment = {"HEAPKEEPER_DIR": str(tmp_path)}
    for name in ("first", "second", "third"):
        default_run(heapkeeper, "def %s(): return [bytearray(1000) for _ in range(20000)]\nk = %s()" % (name, name),
                    env=environment)
    done = execute([COMMAND, "report"], env=environment)
    assert done.status == 0 and b"third" in done.out and b"second" not in done.out


def test_name_pid_start_and_a_count_are_in_the_files_name(heapkeeper, tmp_path):
    script = tmp_path / "my script.py"
    script.write_text("import os; print(os.getpid())")
    done = default_run(heapkeeper, [str(script)], env={"HEAPKEEPER_DIR": str(tmp_path)})
    capture, = captures_in(tmp_path)
    _, pid, seconds, count, suffix = os.path.basename(capture).rsplit(".", 4)
    assert (int(pid), int(count), suffix) == (int(done.out), 0, "hkc")
    assert abs(int(seconds) - time.time()) < 3600


def test_program_that_execs_itself_never_writes_over_its_earlier_captures(heapkeeper, tmp_path):
    """An auto-reloading server: the same pid, several times in the same second."""
    script = tmp_path / "reload.py"
    script.write_text(textwrap.dedent("""
        import os, sys
        generation = int(sys.argv[1])
        def work(): return [bytearray(1000) for _ in range(70000)]
        keep = work()
        if generation < 4:
            os.execv(sys.executable, [sys.executable, sys.argv[0], str(generation + 1)])
        print(os.getpid())
    """))
    for environment, output in (({"HEAPKEEPER_DIR": str(tmp_path / "default")}, []),
                                ({}, ["-o", str(tmp_path / "named" / "capture")])):
        os.makedirs(str(tmp_path / ("named" if output else "default")))
        done = default_run(heapkeeper, [str(script), "0"], *output, env=environment)
        found = glob.glob(str(tmp_path / ("named" if output else "default") / "*"))
        reports = [heapkeeper.report(path) for path in found]
        assert len(reports) == 5 and {report["pid"] for report in reports} == {int(done.out)}
        assert sorted(int(report["command_line"][-1]) for report in reports) == [0, 1, 2, 3, 4]
        assert all(live_in(report, "work") > 50e6 for report in reports)
        last, = [report for report in reports if report["command_line"][-1] == "4"]
        assert last["state"] == "ended"
        assert [r["state"] for r in reports if r is not last] == ["execed"] * 4
        assert len(last["processes"]) == 5


def test_output_is_made_absolute_and_follows_no_change_of_directory(heapkeeper, tmp_path):
    code = "import os, sys; os.chdir('/')\nif os.fork() == 0: k = [bytearray(1000) for _ in range(70000)]\nelse: os.wait()"
    place = tmp_path / "place"
    place.mkdir()
    execute([COMMAND, "run", "-o", "here", "--sample=16K"] + heapkeeper.words(code), cwd=str(place))
    main, child = sorted(os.listdir(str(place)))
    assert main == "here" and child.startswith("here.")
    for name in (main, child):
        heapkeeper.recorded(str(place / name))


def test_existing_file_is_not_written_over_without_force(heapkeeper, tmp_path):
    output = tmp_path / "capture"
    output.write_text("precious")
    done = heapkeeper.run(WORK, output=str(output))
    assert done.status == 1 and done.err.count(b"\n") == 1 and b"--force" in done.err
    assert output.read_text() == "precious"
    heapkeeper.good(WORK, output=str(output), options=("--sample=16K", "--force"))
    heapkeeper.recorded(str(output))


def test_dev_null_records_and_keeps_nothing_for_the_whole_family(heapkeeper, tmp_path):
    code = """
        import ctypes, os, subprocess, sys
        library = ctypes.CDLL(None)
        keep = [bytearray(1000) for _ in range(70000)]
        if os.fork() == 0:
            more = [bytearray(1000) for _ in range(70000)]
            os._exit(library.hk_recording())
        print(os.wait()[1] >> 8, library.hk_recording())
        sys.stdout.flush()
        child = "import ctypes; k = [bytearray(1000) for _ in range(70000)]; print(ctypes.CDLL(None).hk_recording())"
        subprocess.run([sys.executable, "-c", child], check=True)
    """
    environment = {"HEAPKEEPER_DIR": str(tmp_path / "place"), "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = heapkeeper.good(code, output="/dev/null", env=environment, cwd=str(tmp_path))
    assert done.out.split() == [b"1", b"1", b"1"]
    assert os.listdir(str(tmp_path)) in (["captures"], [])
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_old_runs_are_pruned_to_the_bound(heapkeeper, tmp_path):
    """256 MiB of captures; the oldest go first, whole files of other kinds and other people's never."""
    default_run(heapkeeper, env={"HEAPKEEPER_DIR": str(tmp_path)})
    model, = captures_in(tmp_path)
    (tmp_path / "precious.txt").write_bytes(b"x" * (1 << 20))
    for i in range(40):
        path = str(tmp_path / ("old.%d.%d.0.hkc" % (i + 2, 1000000 + i)))
        shutil.copy(model, path)
        with open(path, "r+b") as file:
            file.truncate(8 << 20)
            file.seek((8 << 20) - (7 << 20))
            file.write(b"\1" * (7 << 20))
        os.utime(path, (1000000 + i, 1000000 + i))
    default_run(heapkeeper, env={"HEAPKEEPER_DIR": str(tmp_path)})
    left = captures_in(tmp_path)
    assert sum(os.stat(path).st_blocks * 512 for path in left) <= 256 << 20
    assert (tmp_path / "precious.txt").exists()
    assert sum("old." not in path for path in left) >= 1


@pytest.mark.parametrize("options", [("--exact",), ("--sample=16K",), ("--exact", "--bound", "512M")])
def test_capture_is_no_longer_than_its_content_once_its_process_has_ended(heapkeeper, options):
    heapkeeper.good("""
        import time
        keep = [bytearray(100) for _ in range(1000)]
        while time.process_time() < 1:
            keep[0] = bytearray(100)
    """, options=options)
    ended = os.stat(heapkeeper.output)
    assert ended.st_size <= ended.st_blocks * 512 and stat.S_IMODE(ended.st_mode) == 0o600
    assert heapkeeper.report()["state"] == "ended"
    assert os.listdir(os.path.dirname(heapkeeper.output)) == [os.path.basename(heapkeeper.output)]


def test_limit_on_file_sizes_does_not_end_a_process_that_packs_its_capture(heapkeeper):
    heapkeeper.good("""
        import resource, signal, time
        keep = [bytearray(100) for _ in range(1000)]
        while time.process_time() < 1:
            keep[0] = bytearray(100)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    """, options=("--exact",))
    assert heapkeeper.report()["state"] == "ended"


def test_copy_that_a_killed_process_left_beside_a_capture_is_removed_later(heapkeeper, tmp_path):
    default_run(heapkeeper, env={"HEAPKEEPER_DIR": str(tmp_path)})
    capture, = captures_in(tmp_path)
    old, new, other = [tmp_path / name for name in (".%s.00000abc.new" % os.path.basename(capture), ".x.hkc.1.new", ".x.new")]
    for path in (old, new, other):
        path.write_bytes(b"hkcaptur")
    os.utime(str(old), (1000000, 1000000))
    os.utime(str(other), (1000000, 1000000))
    default_run(heapkeeper, env={"HEAPKEEPER_DIR": str(tmp_path)})
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)


# --- safe ---


def test_links_and_files_of_others_are_refused(heapkeeper, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(victim)
    fifo = tmp_path / "fifo"
    os.mkfifo(str(fifo))
    for output in (link, fifo, tmp_path):
        for options in ((), ("--force",)):
            done = heapkeeper.run(WORK, output=str(output), options=options)
            assert done.status == 1 and done.err.count(b"\n") == 1, (output, options)
    assert victim.read_text() == "precious" and link.is_symlink()


def test_place_of_another_user_is_not_used(heapkeeper, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    runtime = tmp_path / "runtime"
    (runtime / "heapkeeper").mkdir(parents=True)
    os.chown(str(runtime / "heapkeeper"), 12345, 12345)
    os.chmod(str(runtime / "heapkeeper"), 0o777)
    done = default_run(heapkeeper, "import os; print(os.environ['HEAPKEEPER_CAPTURE'])",
                       env={"XDG_RUNTIME_DIR": str(runtime)})
    assert os.listdir(str(runtime / "heapkeeper")) == []
    assert not done.out.startswith(str(runtime).encode())
    os.unlink(done.out.decode().strip())


def test_handed_file_is_taken_only_by_the_process_it_was_made_for(heapkeeper, tmp_path):
    """A file that somebody put in its place, or a child that inherits the variable, does not take it."""
    code = """
        import os, sys
        path = os.environ["HEAPKEEPER_CAPTURE"]
        keep = [bytearray(1000) for _ in range(20000)]
        os.rename(path, path + "-moved")
        open(path, "w").close()   # of length 0, as it was
        os.execv(sys.executable, [sys.executable, "-c", "keep = [bytearray(1000) for _ in range(70000)]"])
    """
    heapkeeper.good(code)
    assert os.stat(heapkeeper.output).st_size == 0, "another inode: not written to"
    others = [path for path in heapkeeper.captures if path != heapkeeper.output]
    assert len(others) == 1 or others == []
    report = heapkeeper.report(heapkeeper.output + "-moved")
    assert report["samples"] > 0


def test_mode_is_private_whatever_the_umask(heapkeeper, tmp_path):
    place = tmp_path / "place"
    code = "import os, sys; os.umask(0)\nif os.fork() == 0: k = [bytearray(1000) for _ in range(70000)]\nelse: os.wait()"
    default_run(heapkeeper, code, env={"HEAPKEEPER_DIR": str(place)}, preexec_fn=lambda: os.umask(0))
    files = captures_in(place)
    assert len(files) == 2
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in files} == {0o600}


# --- bounded ---


def test_million_distinct_stacks_still_sum_up_within_8_mib_and_a_heavy_line_is_named(heapkeeper):
    code = """
        def known_before(): return [bytearray(900) for _ in range(20000)]
        source = "\\n".join("def outer%d(f): return f()" % i for i in range(1000))
        source += "\\n" + "\\n".join("def inner%d(): return bytes(300)" % i for i in range(1000))
        space = {}
        exec(compile(source, "many.py", "exec"), space)
        outer = [space["outer%d" % i] for i in range(1000)]
        inner = [space["inner%d" % i] for i in range(1000)]
        keep = []
        for turn in range(4):
            keep += known_before()
            for f in outer[turn * 250:turn * 250 + 250]:
                for g in inner:
                    f(g)
    """
    # -S: what an environment imports at its start may fill the tree by itself.
    heapkeeper.good(["-S", "-c", textwrap.dedent(code)], options=("--sample=64",), timeout=300)
    assert os.stat(heapkeeper.output).st_size <= BOUND
    report = heapkeeper.recorded()  # sites sum to totals, per domain
    assert report["samples"] > 900000
    assert set(report["limits"]) & {"sites", "nodes"}, "the bound was not hit"
    assert any(site["stack_cut"] or site["other"] for site in report["sites"])
    inner = sum(site["total_bytes"] for site in report["sites"] if site["function"].startswith("inner"))
    assert 0.99 < (inner + report["recorder"]["other_bytes"]) / (1000000 * 333) < 1.2
    heavy = max((site for site in report["sites"] if not site["other"]), key=lambda site: site["live_bytes"])
    assert any(frame["function"] == "known_before" for frame in heavy["stack"])
    assert 0.8 < live_in(report, "known_before") / (80000 * 957) < 1.2


def test_many_files_and_long_names_stay_within_the_bound(heapkeeper):
    code = """
        keep = []
        for i in range(30000):
            code = compile("x = bytes(%d)" % (600 + i % 50), "/a/long/directory/name" * 5 + "/%d.py" % i, "exec")
            exec(code)
    """
    heapkeeper.good(code, options=("--sample=256",), timeout=300)
    assert os.stat(heapkeeper.output).st_size <= BOUND
    report = heapkeeper.recorded()
    assert "sites" in report["limits"]
    # What came after the bound is in "(other)", and the report says what share that is.
    assert 0 < report["recorder"]["other_bytes"] < report["recorder"]["recorded_total_bytes"]
    assert report["recorder"]["other_bytes"] == sum(site["total_bytes"] for site in report["sites"] if site["other"])
    assert any("other" in note for note in report["notes"])


def full_disk(heapkeeper, code, size, tmp_path, mode="--sample=256"):
    """On a tmpfs of that size, in a mount namespace of its own; the captures are copied out."""
    place, out = tmp_path / "small", tmp_path / "out"
    place.mkdir()
    out.mkdir()
    script = 'mount -t tmpfs -o size=%s none "$0" || exit 77; dir=$0; "$@"; rc=$?; cp "$dir"/* "%s"; exit $rc' % (size, out)
    words = ["unshare", "-rm", "sh", "-c", script, str(place), COMMAND, "run", mode, "-o",
             str(place / "capture")] + heapkeeper.words(code)
    if not shutil.which("unshare") or execute(["unshare", "-rm", "true"]).status != 0:
        pytest.skip("no mount namespace can be made here")
    done = execute(words)
    if done.status == 77:
        pytest.skip("no tmpfs can be mounted here")
    return done, str(out / "capture")


@pytest.mark.parametrize("mode", ["--sample=256", "--exact"])
def test_full_disk_stops_the_record_and_not_the_program(heapkeeper, tmp_path, mode):
    code = """
        source = "\\n".join("def f%d(): return bytearray(700)" % i for i in range(20000))
        space = {}
        exec(compile(source, "many.py", "exec"), space)
        keep = [space["f%d" % i]() for i in range(20000)]
        print(len(keep))
    """
    done, capture = full_disk(heapkeeper, code, "1m", tmp_path, mode)
    assert (done.status, done.out, done.err) == (0, b"20000\n", b"")
    report = heapkeeper.report(capture)
    assert report["limits"] and "disk" in report["limits"] and report["limit_time_ns"] > 0
    assert report["samples"] > 100 and report["live_bytes"] > 100_000
    assert report["last_point_ns"] >= report["limit_time_ns"]
    assert any("full" in note for note in report["notes"])
    for view in "table", "tree":
        assert b", when the file system was full" in execute([COMMAND, view, capture]).out
    check_sums(report)


def test_no_room_from_the_start_is_one_line(heapkeeper, tmp_path):
    done, _ = full_disk(heapkeeper, "print('never')", "64k", tmp_path)
    assert done.status == 1 and done.out == b""
    assert [line for line in done.err.splitlines() if line.startswith(b"heapkeeper: ")]
    assert b"space" in done.err


def test_limit_on_file_sizes_kills_nobody(heapkeeper):
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n" + WORK + """
if __import__("os").fork() == 0:
    k = [bytearray(1000) for _ in range(70000)]
else:
    print(__import__("os").wait()[1])
"""
    assert heapkeeper.good(code).out == b"0\n"
    heapkeeper.recorded()


def test_capture_that_is_removed_or_cut_meanwhile_harms_nobody(heapkeeper):
    done = heapkeeper.run("""
        import os
        path = os.environ["HEAPKEEPER_CAPTURE"]
        keep = [bytearray(1000) for _ in range(20000)]
        os.unlink(path)
        open(path, "w").write("another file of that name")
        keep += [bytearray(1000) for _ in range(20000)]
    """)
    assert (done.status, done.err) == (0, b"")
    with open(heapkeeper.output) as file:
        assert file.read() == "another file of that name"


def test_capture_is_cut_to_its_used_length(heapkeeper):
    heapkeeper.good(WORK)
    status = os.stat(heapkeeper.output)
    assert status.st_size < BOUND // 4 * 3  # sites are the last of it,
    assert status.st_blocks * 512 < BOUND // 8  # and what was not used takes no room
    heapkeeper.recorded()


# --- self-contained ---


def test_capture_is_read_whole_where_nothing_of_the_program_is_left(heapkeeper, tmp_path):
    directory = tmp_path / "gone"
    directory.mkdir()
    (directory / "library.py").write_text("def remember(n):\n\n\n    return [\n        bytearray(1000) for _ in range(n)]\n")
    (directory / "program.py").write_text("import library\n\nkeep = library.remember(20000)\n")
    heapkeeper.good([str(directory / "program.py")])
    here = heapkeeper.recorded()
    shutil.rmtree(str(directory))
    moved = tmp_path / "elsewhere"
    shutil.move(heapkeeper.output, str(moved))
    there = execute([COMMAND, "report", "--json", str(moved)], cwd="/", env={"PATH": "/nonexistent", "HOME": None})
    report = there.json
    check_real_path(report)
    site = max(sites_in(report, "remember")[0], key=lambda site: site["live_bytes"])
    frames = [(os.path.basename(frame["file"]), frame["function"], frame["line"]) for frame in site["stack"]]
    assert ("program.py", "<module>", 3) in frames
    assert ("library.py", "remember") in [frame[:2] for frame in frames]
    assert site["line"] in (4, 5)
    assert [s["total_bytes"] for s in report["sites"]] == [s["total_bytes"] for s in here["sites"]]


def test_header_says_who_when_and_how(heapkeeper, every_python, tmp_path):
    before = time.time_ns()
    code = "import os; print(os.getpid(), os.getppid()); " + WORK
    done = heapkeeper.good(["-c", code, "an argument", ""], python=every_python, cwd=str(tmp_path))
    report = heapkeeper.recorded(python=every_python)
    pid, parent = map(int, done.out.split())
    assert (report["pid"], report["parent_pid"]) == (pid, parent)
    assert before <= report["start_realtime_ns"] <= time.time_ns()
    assert report["command_line"] == [every_python.path, "-c", code, "an argument", ""]
    assert os.path.realpath(report["working_directory"]) == os.path.realpath(str(tmp_path))
    assert os.path.samefile(report["python"]["executable"], every_python.path)
    with open(heapkeeper.output, "rb") as file:
        header = file.read(4096)
    assert header[:8] == b"hkcaptur"
    major, minor, order, page = struct.unpack_from("<HHII", header, 8)
    assert (major, order, page) == (1, 0x01020304, os.sysconf("SC_PAGESIZE"))


# --- right whenever its process ends ---

CHURN = r"""
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <time.h>
    #include <unistd.h>
    /* Allocates and frees for ever, counts what it asks for, and says so through a pipe, every 64 KiB or so. With
     * `marks` a point is put on the timeline each time. It holds the GIL: nobody else allocates meanwhile. */
    struct word { uint64_t kind, total, now_ns, marked; };
    static uint64_t clock_ns(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
    }
    static void say(int fd, uint64_t kind, uint64_t total, uint64_t marked)
    {
        struct word word = {kind, total, clock_ns(), marked};
        if (write(fd, &word, sizeof word) != sizeof word)
            _exit(9);
    }
    void churn(int fd, int marks, unsigned seed)
    {
        void *(*get[2])(size_t) = {dlsym(RTLD_DEFAULT, "PyMem_Malloc"), dlsym(RTLD_DEFAULT, "PyObject_Malloc")};
        void (*put[2])(void *) = {dlsym(RTLD_DEFAULT, "PyMem_Free"), dlsym(RTLD_DEFAULT, "PyObject_Free")};
        uint64_t (*mark)(const char *) = dlsym(RTLD_DEFAULT, "hk_mark");
        static struct { void *block; int domain; } kept[20000];
        uint64_t total = 0, said = 0, number = 0;
        say(fd, 0, 0, mark("start"));
        for (;;) {
            int slot = rand_r(&seed) % 20000, domain = rand_r(&seed) & 1;
            size_t size = rand_r(&seed) % 100 == 0 ? rand_r(&seed) % 60000 : rand_r(&seed) % 2000;
            if (kept[slot].block) put[kept[slot].domain](kept[slot].block);
            kept[slot].block = get[domain](size);
            kept[slot].domain = domain;
            total += size;
            if (total - said < 65536) continue;
            said = total;
            number++;
            if (marks && number % 50 == 0) {
                char name[32];
                snprintf(name, sizeof name, "mark %lu", (unsigned long)number);
                say(fd, number, total, mark(name));
            } else {
                say(fd, 0, total, 0);
            }
        }
    }
"""


class Said:
    """What the program said through the pipe until it was killed."""

    def __init__(self, data):
        words = [struct.unpack_from("<4Q", data, at) for at in range(0, len(data) // 32 * 32, 32)]
        (_, _, self.start_ns, self.start), self.words = words[0], words[1:]
        self.total, self.last_ns = self.words[-1][1:3]
        self.marks = {"mark %d" % kind: (total, marked) for kind, total, _, marked in self.words if kind}


def kill_at_random(heapkeeper, library, seed, marks):
    code = """
        import ctypes
        ctypes.PyDLL(%r).churn(1, %d, %d)
    """ % (library, marks, seed)
    process = subprocess.Popen(heapkeeper.command(code), env=clean_environment(), stdout=subprocess.PIPE)
    chance = random.Random(seed)
    wanted = 32 * chance.randrange(100, 4000)
    data = b""
    while len(data) < wanted:  # what it has done decides, not the clock
        data += os.read(process.stdout.fileno(), wanted - len(data)) or pytest.fail("it ended: %r" % data[-100:])
    process.send_signal(signal.SIGKILL)
    data += process.stdout.read()
    assert process.wait() == -signal.SIGKILL
    return Said(data)


@pytest.mark.parametrize("marks", [True, False], ids=["with marks", "without marks"])
def test_after_sigkill_the_record_is_right_to_the_last_moment(heapkeeper, compile_c, marks):
    """Ten times each way: totals are exact, and the last point is at most 1 s or 512 KiB of allocation old."""
    library = compile_c(CHURN, shared=True)
    for seed in range(10):
        said = kill_at_random(heapkeeper, library, seed + (100 if marks else 0), marks)
        report = heapkeeper.recorded(state="killed")
        points = {point["name"]: point for point in report["timeline"] if point["name"]}
        assert points["start"]["allocated_bytes"] == said.start > 0
        seen = set(points) & set(said.marks)
        for name in seen:
            total, marked = said.marks[name]
            assert points[name]["allocated_bytes"] == marked == said.start + total, "its own counter, to the byte"
        # The last mark may have been cut off by the kill before it was said.
        assert bool(seen) == marks and len(set(points) - seen) <= 2
        # The last point. What it says must have been true at some moment between then and the end.
        recorded = report["allocated_bytes"] - said.start
        last_ns = report["last_point_ns"] - points["start"]["time_ns"] + said.start_ns
        assert recorded <= said.total + 65536 + 60000
        assert said.total - recorded <= 512 << 10 or said.last_ns - last_ns <= 10 ** 9
        # And sites within their error. They are of the last moment, the heap's figures of the last point: what was
        # allocated since may be live, too.
        live = report["recorder"]["recorded_live_bytes"]
        heap_live = report["heap"]["live_bytes"] + report["heap"]["large_bytes"]
        since = max(0, said.total - recorded)
        assert 0.5 * heap_live < live < 1.5 * (heap_live + since)


def test_sites_of_a_killed_process_are_within_four_standard_errors(heapkeeper):
    code = """
        import os
        def first(row):
            for i in range(250): row[i] = bytes(700)
        def second(row):
            for i in range(250): row[i] = bytes(3000)
        rows = [[None] * 250 for _ in range(240)]
        for i in range(0, 240, 2):
            first(rows[i])
            second(rows[i + 1])
        os.kill(os.getpid(), 9)
    """
    assert heapkeeper.run(code).status == -9
    report = heapkeeper.recorded(state="killed")
    for name, size in (("first", 733), ("second", 3033)):
        through = sites_in(report, name)[0]
        samples = sum(site["samples"] for site in through)
        truth = 30000 * size
        assert abs(total_in(report, name) - truth) < 4 * truth / samples ** 0.5
        assert abs(live_in(report, name) - truth) < 4 * truth / samples ** 0.5


def test_report_reads_a_running_program(heapkeeper):
    code = """
        import sys
        def remember(): return [bytearray(1000) for _ in range(20000)]
        keep = remember()
        print("ready", flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(heapkeeper.command(code), env=clean_environment(), stdout=subprocess.PIPE,
                               stdin=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        report = heapkeeper.recorded(state="running")
        assert live_in(report, "remember") > 15e6
        assert b"running" in heapkeeper.text()
    finally:
        process.stdin.close()
        assert process.wait() == 0
    heapkeeper.recorded(state="ended")
