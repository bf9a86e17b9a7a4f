"""`heapkeeper blocks`: what it says of a program that has ended, runs, or was killed, against what the program's own heap
says; and what it says when it cannot."""

import ctypes
import json
import os
import re
import signal
import struct
import subprocess
import sys
import textwrap

import pytest

import capture_writer as cw
from conftest import COMMAND, ENVIRONMENT, build_is_usable, clean_environment, execute

CLASSES = ("live", "free", "untouched", "tail", "empty", "metadata")

# Prints the heap's own statistics where nothing changes any more; then waits for its standard input to close.
PROGRAM = """
    import ctypes, os, sys
    library = ctypes.PyDLL(None)
    stats = library.hk_stats_json
    stats.restype, stats.argtypes = ctypes.c_size_t, [ctypes.c_char_p, ctypes.c_size_t]
    mark = library.hk_mark
    mark.restype, mark.argtypes = ctypes.c_uint64, [ctypes.c_char_p]
    write, read, buffer = os.write, os.read, ctypes.create_string_buffer(1 << 16)
    keep = [[str(i) * 3, i] for i in range(30000)]
    del keep[::2]
    more = [bytes(700) for i in range(1000)]
    mark(b"warm"); stats(buffer, 1 << 16); os.read
    mark(b"here")
    stats(buffer, 1 << 16)
    write(1, buffer.value + b"\\n")
    sys.stdin.read(1)
"""


class Blocks:
    def __init__(self, *arguments, status=0, env=None, **rest):
        done = execute([COMMAND, "blocks", *map(str, arguments)], env=dict({"LC_ALL": "C.UTF-8"}, **(env or {})), **rest)
        assert done.status == status, done.err.decode()
        self.text, self.error = done.out.decode(), done.err.decode()
        assert self.error == "" if status == 0 else re.fullmatch(r"heapkeeper: [^\n]+\n", self.error), self.error


def blocks(*arguments, **rest):
    data = json.loads(Blocks("--json", *arguments, **rest).text)
    assert data["format"] == "heapkeeper-blocks-1"
    check_sums(data)
    return data


def check_sums(data):
    """Classes, pools and heaps add up to the totals, however they are counted."""
    heaps, total = data["heaps"], data["total"]
    assert data["dropped_records"] == 0
    for heap in heaps + [total]:
        assert sum(heap[name + "_bytes"] for name in CLASSES) + heap["own_large_bytes"] == heap["mapped_bytes"]
    for key in total:
        assert sum(heap[key] for heap in heaps) == total[key], key
    for heap in heaps:
        assert sum(c["allocated"] * c["block_size"] for c in heap["classes"]) == heap["live_bytes"]
        assert sum(c["allocated"] for c in heap["classes"]) == heap["live_blocks"]
        assert sum(c["lost_bytes"] for c in heap["classes"]) == heap["free_bytes"] + heap["untouched_bytes"] + \
            heap["tail_bytes"]
    if data["arenas_left_out"] == 0:
        pools = [pool for arena in data["arenas"] for pool in arena["pools"]]
        for state in ("full", "used"):
            assert sum(pool["state"] == state for pool in pools) == total["pools_" + state]
        assert sum(pool["allocated"] for pool in pools) == total["live_blocks"]


class Program:
    """PROGRAM under heapkeeper, stopped where it waits; `stats` is what its heap says of itself there."""

    def __init__(self, heapkeeper, python, options=(), output=None):
        words = heapkeeper.command(PROGRAM, python, options=options, output=output)
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment())
        self.pid, self.capture = self.process.pid, heapkeeper.output
        line = self.process.stdout.readline()
        assert line, "it ended"
        self.stats = json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        self.process.kill()
        self.process.communicate()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def by_name(stats):
    return {heap["name"]: heap for heap in stats["heaps"]}


def assert_same(data, stats, slack=0):
    """Up to a few blocks that the program made between its own count and where it waits (a line to print)."""
    ours, theirs = by_name(data), by_name(stats)
    assert set(ours) == set(theirs)
    for name in ours:
        for key in ("live_blocks", "pools_used", "pools_full", "pools_empty", "arenas"):
            assert abs(ours[name][key] - theirs[name][key]) <= slack, (name, key)
        assert abs(ours[name]["live_bytes"] - theirs[name]["live_bytes"]) <= slack * 4096
        assert abs(ours[name]["mapped_bytes"] - theirs[name]["mapped_bytes"]) <= slack * 16384


@pytest.mark.parametrize("geometry", ["default", "guide"])
def test_running_process_is_read_without_its_help(heapkeeper, every_python, geometry):
    with Program(heapkeeper, every_python, ("--sample=16K", "--geometry", geometry)) as program:
        data = blocks(program.pid)
        assert (data["source"], data["state"], data["pid"]) == ("process", "running", program.pid)
        assert data["note"] == ""
        assert_same(data, program.stats, slack=12)
        heap = by_name(data)["object"]
        assert heap["pool_size"] == (4096 if geometry == "guide" else 16384)
        # It is on its way to where it waits, or there: soon nothing moves.
        assert any(blocks(program.pid)["total"] == blocks(program.pid)["total"] for _ in range(50))


def test_capture_of_a_killed_process_has_the_heap_of_its_last_mark(heapkeeper, every_python):
    with Program(heapkeeper, every_python) as program:
        program.kill()
        data = blocks(program.capture)
        assert (data["source"], data["state"], data["final"]) == ("capture", "killed", False)
        assert_same(data, program.stats, slack=12)
        text = Blocks(program.capture).text
        assert "killed · the heap as it was after " in text


def test_capture_of_a_process_that_ended_has_the_heap_of_its_end(heapkeeper, every_python):
    heapkeeper.good("keep = [str(i) * 9 for i in range(20000)]", python=every_python)
    data, report = blocks(heapkeeper.output), heapkeeper.report()
    assert (data["source"], data["state"], data["final"]) == ("capture", "ended", True)
    heap = report["heap"]
    total = data["total"]
    assert total["live_blocks"] == heap["live_blocks"] > 20000
    assert total["live_bytes"] + total["large_bytes"] == report["live_bytes"]
    assert (total["pools_used"], total["pools_full"], total["pools_empty"], total["arenas"]) == \
        (heap["pools_used"], heap["pools_full"], heap["pools_empty"], heap["arenas"])


def test_program_whose_record_is_kept_nowhere_can_be_looked_at_while_it_runs(heapkeeper, python):
    with Program(heapkeeper, python, output="/dev/null") as program:
        data = blocks(program.pid)
        assert data["source"] == "process"
        assert_same(data, program.stats, slack=12)


def test_program_whose_capture_was_deleted_can_be_looked_at_while_it_runs(heapkeeper, python):
    with Program(heapkeeper, python) as program:
        os.unlink(program.capture)
        assert_same(blocks(program.pid), program.stats, slack=12)


def test_stored_map_of_a_running_process_is_that_of_its_last_mark(heapkeeper, python):
    with Program(heapkeeper, python) as program:
        for target in (program.pid, program.capture):
            data = blocks("--stored", target)
            assert (data["source"], data["state"]) == ("capture", "running")
            assert_same(data, program.stats, slack=12)


def forbid_reading_memory():
    """For a child: process_vm_readv answers EPERM, as where ptrace is restricted."""
    import platform
    number = {"x86_64": 310, "aarch64": 270}[platform.machine()]
    filters = struct.pack("HBBI", 0x20, 0, 0, 0) + struct.pack("HBBI", 0x15, 0, 1, number)
    filters += struct.pack("HBBI", 0x06, 0, 0, 0x00050001) + struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000)
    buffer = ctypes.create_string_buffer(filters, len(filters))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(4, ctypes.addressof(buffer))

    def apply():
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0

    apply.keep = buffer
    return apply


def test_where_memory_may_not_be_read_the_last_map_is_shown_and_a_line_says_why(heapkeeper, python):
    with Program(heapkeeper, python) as program:
        data = blocks(program.pid, preexec_fn=forbid_reading_memory())
        assert data["source"] == "capture"
        assert "may not be read" in data["note"] and "newest map of its capture" in data["note"]
        assert_same(data, program.stats, slack=12)
        text = Blocks(program.pid, preexec_fn=forbid_reading_memory()).text
        assert "Not as it is now: the memory of process %d may not be read" % program.pid in text


def test_forked_child_that_recorded_nothing_yet_is_shown_as_it_is(heapkeeper, python):
    program = """
        import os, sys
        child = os.fork()
        if child == 0:
            os.read(0, 1)
            os._exit(0)
        os.write(1, b"%d\\n" % child)
        os.read(0, 1)
    """
    words = heapkeeper.command(program, python)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment()) as process:
        child = int(process.stdout.readline())
        data = blocks(child)
        assert (data["source"], data["pid"]) == ("process", child)
        assert data["total"]["live_blocks"] > 1000
        process.stdin.write(b"xx")
        process.stdin.close()


# ---- what is not there ----


def test_what_cannot_be_shown_is_said_in_one_line(heapkeeper, tmp_path):
    assert "there is no process 999999999" in Blocks(999999999, status=1).error
    assert "does not run under heapkeeper" in Blocks(os.getpid(), status=1).error
    assert "cannot be opened" in Blocks(tmp_path / "nothing.hkc", status=1).error
    old = tmp_path / "old.hkc"
    cw.shop().write(old)
    assert "has no map of the heap: an older heapkeeper wrote it" in Blocks(old, status=1).error
    earlier = cw.shop()
    earlier.header["pid"] = os.getpid()
    earlier.write(tmp_path / "earlier.hkc")  # of a process that had this number before
    assert "does not run under heapkeeper" in Blocks(os.getpid(), status=1, env={"HEAPKEEPER_DIR": str(tmp_path)}).error
    empty = tmp_path / "empty.hkc"
    empty.write_bytes(b"")
    assert "nothing recorded" in Blocks(empty, status=1).error


def test_wrong_options_end_with_status_2_or_say_what_there_is(heapkeeper):
    heapkeeper.good("pass")
    capture = heapkeeper.output
    for words in (["--arena", "x"], ["--class", "0"], ["--pool", "7"], ["--pool", "0xzz"], ["--color", "red"], ["--what"],
                  [capture, "more"]):
        assert "blocks: " in Blocks(*words, capture, status=2).error
    assert 'there is no heap "nobody"; there are "raw", "mem", "object"' in Blocks("--heap", "nobody", capture,
                                                                                 status=1).error
    assert "there is no arena 999" in Blocks("--arena", 999, capture, status=1).error
    assert "has 64 pools" in Blocks("--pool", "0.64", capture, status=1).error
    assert "in no pool" in Blocks("--pool", "0x10", capture, status=1).error
    assert "no pool holds blocks of 999999 bytes" in Blocks("--class", 999999, capture, status=1).error


# ---- what a person sees ----


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    directory = tmp_path_factory.mktemp("picture")
    capture = str(directory / "capture")
    code = "keep = [[str(i) * 3, i] for i in range(60000)]\ndel keep[::2]\nmore = [bytes(5000) for i in range(9)]"
    done = execute([COMMAND, "run", "-o", capture, sys.executable, "-c", code])
    assert done.status == 0, done.err
    return capture


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("view", ["", "--heap=object", "--arena=5", "--pool=5.3", "--class=64", "--all"])
def test_no_line_is_wider_than_the_terminal(picture, columns, view):
    for locale in ("C.UTF-8", "C"):
        text = Blocks(picture, *view.split(), env={"COLUMNS": str(columns), "LC_ALL": locale}).text
        assert max(len(line) for line in text.splitlines()) <= columns
        assert "\033" not in text
        assert locale != "C" or text.isascii()


def test_default_view_has_heaps_classes_arenas_and_a_meaning(picture):
    text = Blocks(picture, env={"COLUMNS": "100"}).text
    assert "arenas of 1.00 MiB, 64 pools of 16.0 KiB each" in text
    data = blocks(picture)
    together = re.search(r"^together .*$", text, re.M).group(0)
    assert "{:,}".format(data["total"]["live_blocks"]).replace(",", " ") in together
    assert re.search(r"^ +64 B ", text, re.M) and re.search(r"^ +others ", text, re.M)
    assert re.search(r"^ +\d+ other sizes, which have few pools; --all shows each$", text, re.M)
    assert re.search(r"^object\n +\d+  [█▁▂▃▄▅▆▇· ]{64}  +\d+%$", text, re.M)
    assert "more arenas, " in text
    meaning = re.search(r"^MEANING   (.*)", text, re.M | re.S).group(1)
    assert meaning.startswith("Fragmented: ") and "pinned between blocks that are still allocated" in " ".join(meaning.split())
    assert re.sub(r"\s+", " ", meaning).strip() == data["meaning"]


def test_zoom_into_a_pool_shows_a_character_for_each_block(picture):
    data = blocks(picture)
    arena, pool = next((a["arena"], i) for a in data["arenas"] for i, p in enumerate(a["pools"])
                       if p["state"] == "used" and p["allocated"] > 10 and p["free"] > 10 and p["untouched"] == 0)
    found = data["arenas"][arena]
    detail = json.loads(Blocks("--json", "--pool", "%d.%d" % (arena, pool), picture).text)["pool"]
    assert detail["blocks"].count("#") == detail["allocated"]
    assert detail["blocks"].count(".") == detail["free"]
    assert len(detail["blocks"]) == detail["capacity"]
    text = Blocks("--pool", "%d.%d" % (arena, pool), picture).text
    drawn = "".join(re.findall(r"^ *\d+  ([#._]+)$", text, re.M))
    assert drawn == detail["blocks"].replace(" ", "_")
    address = found["start"] + pool * 16384 + 100
    assert "POOL %d.%d" % (arena, pool) in Blocks("--pool", hex(address), picture).text


def test_zoom_into_an_arena_has_a_row_for_each_pool(picture):
    text = Blocks("--arena", 3, picture).text
    assert len(re.findall(r"^ +\d+ +0x[0-9a-f]+ ", text, re.M)) == 64


def test_zoom_into_a_class_counts_its_pools_by_how_full_they_are(picture):
    text = Blocks("--class", 60, picture).text
    assert "CLASS 64" in text
    pools = sum(int(n.replace(" ", "")) for n in re.findall(r"^ +\d+(?:-\d+)?% +([\d ]*\d)  ", text, re.M))
    rows = [c for heap in blocks(picture)["heaps"] for c in heap["classes"] if c["block_size"] == 64]
    assert pools == sum(c["pools_used"] + c["pools_full"] for c in rows)


def test_colours_only_where_they_are_asked_for(picture):
    assert "\033[32m" in Blocks("--color=always", picture).text
    assert "\033" not in Blocks("--color=never", picture).text


# ---- heapkeeper.blocks(), from inside ----


def keys_of(data):
    """The shape: keys of every kind of dict in it."""
    arena = data["arenas"][0]
    return [set(part) for part in (data["total"], data["heaps"][0], data["heaps"][0]["classes"][0], arena,
                                   arena["pools"][0])]


@pytest.mark.parametrize("geometry", ["default", "guide"])
def test_blocks_from_inside_and_from_outside_are_the_same(heapkeeper, every_python, geometry):
    program = """
        import ctypes, os
        tell, buffer = ctypes.PyDLL(None).hk_blocks_json, ctypes.create_string_buffer(1 << 22)
        tell.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_bool]
        keep = [[str(i) * 3, i] for i in range(30000)]
        del keep[::2]
        for i in range(2):
            tell(buffer, 1 << 22, True)
        os.writev(1, [memoryview(buffer)[:len(buffer.value)], b"\\n"])
        os.read(0, 1)
    """
    words = heapkeeper.command(program, every_python, options=("--geometry", geometry))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment(**ENVIRONMENT)) as process:
        inside = json.loads(process.stdout.readline())
        outside = blocks(process.pid)
        process.stdin.close()
    check_sums(dict(inside, dropped_records=0))
    assert keys_of(inside) == keys_of(outside)
    for key in ("format", "state", "source", "pid"):
        assert inside[key] == outside[key], key
    assert [heap["name"] for heap in inside["heaps"]] == [heap["name"] for heap in outside["heaps"]]
    for ours, theirs in zip(inside["heaps"], outside["heaps"]):
        for key in ("name", "domain", "pool_size", "arena_pools"):
            assert ours[key] == theirs[key]
        assert {c["block_size"]: c["capacity"] for c in ours["classes"]} == {
            c["block_size"]: c["capacity"] for c in theirs["classes"]}
        for mine, its in zip(ours["classes"], theirs["classes"]):
            carved = 4096 // mine["block_size"]  # blocks that become free at a time
            for key, slack in ("pools_used", 2), ("pools_full", 2), ("allocated", 12), ("free", 12 + carved):
                assert abs(mine[key] - its[key]) <= slack, (ours["name"], mine["block_size"], key)
    assert_same(outside, inside, slack=12)
    assert [(a["start"], a["heap"], len(a["pools"])) for a in inside["arenas"]] == [
        (a["start"], a["heap"], len(a["pools"])) for a in outside["arenas"]]


def inside(heapkeeper, code, python=None, options=("--no-record",), **rest):
    """What `code` prints as JSON, run under heapkeeper with the package at hand and these functions."""
    helpers = """
        import heapkeeper, json
        def allocated(answer, domain, size):
            return sum(c["allocated"] for heap in answer["heaps"] if heap["domain"] == domain
                       for c in heap["classes"] if c["block_size"] == size)
    """
    text = textwrap.dedent(helpers) + textwrap.dedent(code)
    return heapkeeper.good(text, python=python, options=options, env=ENVIRONMENT, **rest).json


@pytest.mark.parametrize("options", [("--no-record",), ("--sample=16K",), ("--no-record", "--geometry=guide")])
def test_objects_made_and_dropped_are_seen_in_their_class_alone(heapkeeper, every_python, options):
    before, full, half, sizes = inside(heapkeeper, """
        keep = [None] * 10000
        answers = [heapkeeper.blocks()]
        for i in range(10000):
            keep[i] = bytes(420)                   # with its head of 33 bytes: 453 to 456
        answers.append(heapkeeper.blocks())
        for i in range(0, 10000, 2):
            keep[i] = None
        answers.append(heapkeeper.blocks())
        step = 8 if answers[0]["heaps"][0]["pool_size"] == 4096 else 16
        size = (33 + 420 + step - 1) // step * step
        sizes = [size - step, size, size + step]
        print(json.dumps([[allocated(a, "object", s) for s in sizes] for a in answers] + [sizes]))
    """, every_python, options)
    # A size of which there are few blocks shares the pools of the next: until there are many.
    assert 9900 <= full[1] - before[1] <= 10020, sizes
    assert 4900 <= half[1] - before[1] <= 5020, sizes
    for neighbour in 0, 2:
        assert abs(full[neighbour] - before[neighbour]) <= 100, sizes


def test_blocks_and_stats_of_one_moment_agree(heapkeeper, every_python):
    blocks, stats = inside(heapkeeper, """
        import ctypes
        keep = [[str(i) * 3, i, bytes(700)] for i in range(30000)]
        del keep[::2]
        library = ctypes.PyDLL(None)
        room = [ctypes.create_string_buffer(1 << 20), ctypes.create_string_buffer(1 << 16)]
        calls = (library.hk_blocks_json, (room[0], 1 << 20, True)), (library.hk_stats_json, (room[1], 1 << 16))
        for function, arguments in calls * 2:      # the second time, with all caches filled
            function.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_bool][:len(arguments)]
            function(*arguments)
        print("[%s,%s]" % tuple(buffer.value.decode() for buffer in room))
    """, every_python)
    check_sums(dict(blocks, dropped_records=0))
    assert_same(blocks, stats, slack=3)
    for key in ("large_bytes", "large_blocks", "arenas", "pools_full"):
        assert blocks["total"][key] == stats[key]
    assert blocks["total"]["live_blocks"] > 45000


def test_answer_lies_in_no_heap_until_it_is_made(heapkeeper):
    first, second = inside(heapkeeper, """
        answers = [0, 0]
        heapkeeper.blocks(arenas=True)
        for i in 0, 1:
            answer = heapkeeper.blocks(arenas=True)
            answers[i] = answer["total"]["large_bytes"], answer["total"]["live_bytes"]
            del answer
        print(json.dumps(answers))
    """)
    assert first[0] == second[0]
    assert abs(first[1] - second[1]) < 4096


def test_heap_that_needs_more_room_than_the_first_buffer_is_told_whole(heapkeeper):
    answer = inside(heapkeeper, """
        keep = [bytes(3000) for i in range(40000)]
        print(json.dumps(heapkeeper.blocks(arenas=True)))
    """)
    assert len(answer["arenas"]) == answer["total"]["arenas"] > 100
    assert "arenas" not in inside(heapkeeper, "print(json.dumps(heapkeeper.blocks()))")


def test_blocks_after_install_are_those_since_then(python):
    code = """if True:
        import heapkeeper, json
        heapkeeper.install()
        keep = [bytes(420) for i in range(10000)]
        print(json.dumps([c for heap in heapkeeper.blocks()["heaps"] for c in heap["classes"] if c["block_size"] == 464]))
    """
    reason = build_is_usable()
    if reason:
        pytest.skip(reason)
    done = execute([python.path, "-c", code], env=ENVIRONMENT)
    assert done.status == 0, done.err
    assert sum(c["allocated"] for c in done.json) >= 10000


def test_without_heapkeeper_blocks_says_what_to_do(python):
    done = execute([python.path, "-c", "import heapkeeper; heapkeeper.blocks()"], env=ENVIRONMENT)
    assert done.status == 1
    assert done.err.decode().splitlines()[-1] == (
        "RuntimeError: heapkeeper.blocks(): this process does not run on heapkeeper's heap: start it with `heapkeeper run`, "
        "or call heapkeeper.install() first")


def test_where_another_allocator_has_pythons_objects_blocks_says_so(heapkeeper):
    code = "import heapkeeper; heapkeeper.blocks()"
    done = heapkeeper.run(code, env=dict(ENVIRONMENT, PYTHONMALLOC="pymalloc"))
    assert done.status == 1
    assert "heapkeeper is loaded, but Python's objects are not in its heap" in done.err.decode().splitlines()[-1]
