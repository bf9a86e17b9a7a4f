"""What `heapkeeper report` says of a capture: of whole ones, torn ones, and of files that are no captures.

The captures are written by capture_writer.py, field by field, so they can be what no recorder would write.
"""

import json
import os
import pty
import re
import struct
import subprocess
import sys

import pytest

import capture_writer as cw



from conftest import COMMAND, read_terminal


def report(*arguments, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HEAPKEEPER_", "LD_PRELOAD"))}
    clean.update({"LC_ALL": "C.UTF-8", "COLUMNS": "120"}, **environment)
    return subprocess.run([COMMAND, "report", *map(str, arguments)], stdout=subprocess.PIPE, env=clean,
                          stderr=subprocess.PIPE, encoding="utf-8", timeout=60)


def text_of(path, **environment):
    done = report(path, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def json_of(path, *arguments):
    done = report("--json", *arguments, path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refusal_of(path, *arguments):
    """One clear line on stderr, nothing on stdout, exit 1."""
    done = report(*arguments, path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"heapkeeper: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


def save(tmp_path, data, name="x.hkc"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.fixture
def shop(tmp_path):
    return save(tmp_path, cw.shop().bytes())


# ---- what a whole capture says ----


def test_head_names_program_python_state_and_totals(shop):
    head = text_of(shop).splitlines()
    assert head[0] == "shop.py · Python 3.13.0 · pid 4242 · 12.4 s · ended"
    assert head[1] == "peak 153 MiB · live at the end 153 MiB · allocated 3.00 GiB · peak RSS 233 MiB"


def section(text, heading):
    """Lines from the heading up to the next one."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(heading))
    end = next((i for i in range(start + 1, len(lines)) if re.match(r"[A-Z]", lines[i])), len(lines))
    return "\n".join(lines[start:end])


def test_growing_site_is_told_from_the_larger_cache(shop):
    growing = section(text_of(shop), "GROWING")
    assert re.search(r"\+30\.5 MiB .*shop\.py:88 in Shop\.remember_order +▁▂▂▃▄▄▅▆▆▇██", growing)
    assert "main:140 > handle:61 > remember_order:88" in growing
    assert "cache_put" not in growing


def test_largest_sites_are_listed_by_live_bytes_with_their_stacks(shop):
    largest = section(text_of(shop), "LARGEST")
    assert largest.index("cache_put") < largest.index("remember_order")
    assert "64.0 MiB" in largest and "main:140 > handle:55 > cache_put:52" in largest


def test_list_at_the_peak_is_shown_when_it_is_another(tmp_path):
    c = cw.shop()
    c.sites[0].peak_serial, c.sites[0].peak_bytes = 9, 500 * cw.MIB
    c.status["peak_bytes"] += 439 * cw.MIB
    at_peak = section(text_of(c.write(tmp_path / "x.hkc")), "AT PEAK")
    assert at_peak.index("remember_order") < at_peak.index("cache_put")
    assert "500 MiB" in at_peak


def test_peak_follows_the_serial_rule(tmp_path):
    c = cw.Capture()
    code = c.code("f")
    c.now = cw.point(time_ns=1000, allocated_bytes=10)
    c.site(c.stack((code, 1)), live_bytes=10, peak_bytes=70, peak_serial=5)  # saved at the peak
    c.site(c.stack((code, 2)), live_bytes=20, peak_bytes=80, peak_serial=4)  # of an older peak: unchanged since
    c.status["peak_serial"] = 5
    sites = {s["line"]: s for s in json_of(c.write(tmp_path / "x.hkc"))["sites"]}
    assert sites[1]["peak_bytes"] == 70
    assert sites[2]["peak_bytes"] == 20


def test_heap_is_told_in_the_words_of_the_guide_and_its_classes_sum(shop):
    heap = section(text_of(shop), "HEAP")
    assert "3 arenas · 1 904 pools (1 610 used, 120 full, 174 empty) · 1 490 000 blocks" in heap
    assert "162 MiB mapped = 141 MiB live + 12.0 MiB free in used pools + 8.00 MiB in empty pools" in heap
    h = json_of(shop)["heap"]
    assert h["live_bytes"] + h["free_in_used_pools_bytes"] + h["empty_pools_bytes"] + h["metadata_bytes"] + \
        h["frame_chunks_bytes"] == h["mapped_bytes"]
    assert h["unexplained_bytes"] == 0


def test_classes_that_do_not_sum_are_told(tmp_path):
    c = cw.shop()
    c.now = cw.point(time_ns=9, live_bytes=100, mapped_bytes=5000, allocated_bytes=1)
    path = c.write(tmp_path / "x.hkc")
    assert json_of(path)["heap"]["unexplained_bytes"] == 4900
    assert "classes and its total differ by 4.79 KiB" in text_of(path)


def test_outside_and_recorder_have_one_line_each(shop):
    text = text_of(shop)
    assert re.search(r"^OUTSIDE +55\.7 MiB to 75\.9 MiB of the 231 MiB RSS is outside the heap", text, re.M)
    assert re.search(r"^RECORDER +1\.10 MiB of memory · 7 406 samples · one per 64\.0 KiB · about 12 ms \(0\.1%", text, re.M)


def test_json_has_its_stable_keys(shop):
    d = json_of(shop)
    for key in ("state", "samples", "heap", "sites", "lines", "processes", "recorder", "timeline", "python",
                "watch", "stacks", "limits", "notes", "peak_bytes", "live_bytes", "allocated_bytes", "marks",
                "duration_ns", "program", "pid", "command_line", "mode"):
        assert key in d
    assert d["state"] == "ended" and d["samples"] == 7406 and d["python"]["version"] == "3.13.0"
    assert d["command_line"] == ["python3", "/srv/shop/shop.py", "--orders", "40000"]
    assert (d["watch"], d["stacks"], d["limits"], d["mode"]) == ("ours", "good", [], "sample")
    for key in ("function", "file", "line", "live_bytes", "peak_bytes", "total_bytes", "growing", "domain",
                "stack", "live_blocks", "total_blocks", "samples", "at_mark"):
        assert key in d["sites"][0]
    leak = next(s for s in d["sites"] if s["function"] == "remember_order")
    assert leak["growing"] and leak["line"] == 88 and leak["file"] == "/srv/shop/shop.py"
    assert [f["function"] for f in leak["stack"]] == ["<module>", "main", "handle", "remember_order"]
    assert len(leak["at_mark"]) == len(d["marks"]) == 12
    assert [s["function"] for s in d["sites"] if s["growing"]] == ["remember_order"]


def test_sites_sum_to_the_recorded_totals(shop):
    d = json_of(shop)
    assert sum(s["total_bytes"] for s in d["sites"]) == d["recorder"]["recorded_total_bytes"]
    assert sum(line["live_bytes"] for line in d["lines"]) == d["recorder"]["sites_live_bytes"]


def test_paths_to_one_line_are_merged_and_the_heaviest_is_shown(tmp_path):
    c = cw.Capture()
    main, helper, make = c.code("main"), c.code("helper"), c.code("make")
    again = c.code("make")  # the same function defined anew: another code object, the same line
    c.now = cw.point(time_ns=1000, allocated_bytes=10)
    c.site(c.stack((main, 1), (make, 7)), live_bytes=10, total_bytes=10)
    c.site(c.stack((main, 2), (helper, 3), (again, 7)), live_bytes=30, total_bytes=30)
    c.site(c.stack((main, 1), (make, 7)), live_bytes=5, total_bytes=5, domain=cw.MEM)
    path = c.write(tmp_path / "x.hkc")
    lines = json_of(path)["lines"]
    assert [(line["function"], line["line"], line["live_bytes"], line["sites"]) for line in lines] == [("make", 7, 45, 3)]
    assert "main:2 > helper:3 > make:7" in text_of(path)


def test_trampoline_frames_are_not_shown(tmp_path):
    c = cw.Capture()
    main, make = c.code("main"), c.code("make")
    flagged = c.code("shim", flags=1)
    init = c.code("__init__", file="__init__", table=b"")
    c.now = cw.point(time_ns=1000, allocated_bytes=10)
    c.site(c.stack((main, 4), (flagged, 1), (make, 7), (init, 1)), live_bytes=10)
    site = json_of(c.write(tmp_path / "x.hkc"))["sites"][0]
    assert [(f["function"], f["line"]) for f in site["stack"]] == [("main", 4), ("make", 7)]
    assert (site["function"], site["line"]) == ("make", 7)


def test_what_the_walk_saw_before_it_was_found_to_be_wrong_is_not_shown(tmp_path):
    c = cw.database()
    c.header["stacks"] = 2
    c.header["stacks_why"] = c.string("a frame's code is not what the interpreter says")
    r = json_of(c.write(tmp_path / "x.hkc"))
    frames = [frame for site in r["sites"] for frame in site["stack"]]
    assert frames and all(frame["function"].startswith("libsqlite3.so.0+") for frame in frames)
    assert sum(site["total_bytes"] for site in r["sites"]) == c.status["recorded_total_bytes"]


def test_frame_without_a_line_is_on_its_first_line(tmp_path):
    c = cw.Capture()
    begun, bare = c.code("begun", first_line=10), c.code("bare", first_line=20, table=b"")
    c.now = cw.point(time_ns=1000, allocated_bytes=10)
    c.site(c.node(0, begun, -1), live_bytes=2)
    c.site(c.node(0, bare, 8), live_bytes=1)
    assert [s["line"] for s in json_of(c.write(tmp_path / "x.hkc"))["sites"]] == [10, 20]


def test_report_of_a_program_without_python_has_no_word_of_python(tmp_path):
    path = cw.server().write(tmp_path / "server.hkc")
    text = text_of(path)
    assert text.startswith("server")
    assert "python" not in text.lower() and "frame stacks" not in text
    growing = section(text, "GROWING")
    assert "+0x401234" in growing and "server+0x401100 > server+0x401234" in growing
    assert "/srv/bin/server and 1 more are not on this system" in text


def test_native_line_is_named_by_the_program_and_not_by_the_c_library(tmp_path):
    lines = json_of(cw.server().write(tmp_path / "server.hkc"))["lines"]
    assert [(line["function"], line["module"], line["address"]) for line in lines] == [
        ("server+0x401456", "server", 0x401456), ("server+0x401234", "server", 0x401234)]


def test_memory_of_a_library_under_python_is_named_by_the_python_line(tmp_path):
    path = cw.database().write(tmp_path / "x.hkc")
    assert "shop.py:12 in fill [libsqlite3.so.0]" in section(text_of(path), "LARGEST")
    site = max(json_of(path)["sites"], key=lambda site: site["domain"] == "native")
    assert (site["function"], site["line"], site["through"]) == ("fill", 12, "libsqlite3.so.0")
    assert site["native"]["function"] == "libsqlite3.so.0+0x6000" and site["native"]["module"] == "libsqlite3.so.0"
    assert [frame["function"] for frame in site["stack"]] == [
        "main", "fill", "libsqlite3.so.0+0x70d0", "libsqlite3.so.0+0x6000"]


def test_python_line_and_native_memory_of_the_same_line_are_two_lines(tmp_path):
    c = cw.database()
    node = max(i for i, data in enumerate(c.nodes) if struct.unpack("=IIiI", data)[2] == 22)  # line 12
    c.site(node, live_bytes=1 << 20, total_bytes=1 << 20)
    lines = [line for line in json_of(c.write(tmp_path / "x.hkc"))["lines"] if line["line"] == 12]
    assert sorted(line.get("through", "") for line in lines) == ["", "libsqlite3.so.0"]


def test_leak_that_is_let_go_when_the_program_ends_is_found(tmp_path):
    """main() returns and everything is freed: what grew until then is told from the levels before."""
    c = cw.shop()
    for site in c.sites:
        site.peak_bytes, site.peak_serial = site.live_bytes, 9
        site.at_mark[11], site.born_in, site.live_bytes = 0, [0] * 16, 0
    c.now = cw.point(time_ns=12_400_000_000, allocated_bytes=3000 * cw.MIB, live_bytes=5 * cw.MIB)
    path = c.write(tmp_path / "x.hkc")
    assert [line["function"] for line in json_of(path)["lines"] if line["growing"]] == ["remember_order"]
    text = text_of(path)
    assert "rising until all was let go at the end" in text
    assert text.index("AT PEAK") < text.index("HEAP")


def test_run_without_growth_says_so_and_short_run_says_that(tmp_path):
    c = cw.shop()
    del c.sites[0]
    assert "nothing keeps growing" in text_of(c.write(tmp_path / "x.hkc"))
    c.marks = c.marks[:2]
    assert "Too short a run, or too uneven, to tell what grows." in text_of(c.write(tmp_path / "x.hkc"))


# ---- what became of the process ----


def test_state_is_ended_killed_or_running(tmp_path):
    c = cw.shop()
    assert json_of(c.write(tmp_path / "a.hkc"))["state"] == "ended"
    c.header.update(state=cw.RUNNING, pid=1 << 30)
    assert json_of(c.write(tmp_path / "a.hkc"))["state"] == "killed"
    c.header.update(pid=os.getpid(), start_ticks=cw.start_ticks(os.getpid()))
    assert json_of(c.write(tmp_path / "a.hkc"))["state"] == "running"
    assert "live now" in text_of(tmp_path / "a.hkc")
    c.header.update(boot_id=bytes(16))  # the same numbers in another boot are another process
    assert json_of(c.write(tmp_path / "a.hkc"))["state"] == "killed"
    c.header.update(boot_id=cw.boot_id(), start_ticks=1)  # a reused pid
    assert json_of(c.write(tmp_path / "a.hkc"))["state"] == "killed"


def test_process_that_went_on_as_another_program_is_execed(tmp_path):
    first, second = cw.shop(), cw.shop()
    first.header.update(state=cw.RUNNING)
    second.header.update(exec_count=1, start_realtime_ns=first.header["start_realtime_ns"] + 5)
    first.write(tmp_path / "a.hkc")
    second.write(tmp_path / "b.hkc")
    d = json_of(tmp_path / "a.hkc")
    assert d["state"] == "execed"
    assert [p["state"] for p in d["processes"]] == ["execed", "ended"]


def test_file_that_was_never_taken_over_says_nothing_was_recorded(tmp_path):
    assert "nothing recorded: the library was not loaded" in refusal_of(save(tmp_path, b""))
    c = cw.Capture(state=cw.EMPTY)
    assert "nothing recorded" in refusal_of(save(tmp_path, c.bytes()))


# ---- several processes ----


def family(tmp_path):
    for i, program in enumerate(["server.py", "worker.py", "worker.py"]):
        c = cw.shop()
        c.header.update(pid=100 + i, parent_pid=100 if i else 1, start_realtime_ns=c.header["start_realtime_ns"] + i,
                        forked=int(i > 0), state=cw.RUNNING if i == 2 else cw.EXITED,
                        command_line=c.string(f"python3\x1f/srv/{program}\x1f"))
        c.write(tmp_path / f"{program}.{100 + i}.1.0.hkc")
    other = cw.shop()
    other.header.update(run_id=bytes(16), pid=999)
    other.write(tmp_path / "other.999.1.0.hkc")


def test_processes_of_a_run_are_shown_together_and_the_first_one_whole(tmp_path):
    family(tmp_path)
    text = text_of("--json", HEAPKEEPER_DIR=str(tmp_path))
    d = json.loads(text)
    assert d["pid"] in (100, 999)
    path = tmp_path / "server.py.100.1.0.hkc"
    text = text_of(path)
    table = section(text, "PROCESSES")
    assert re.search(r"> +100 +ended +153 MiB +153 MiB +3\.00 GiB +server\.py", table)
    assert re.search(r"  +102 +killed .* worker\.py \(forked\)", table)
    assert "999" not in table
    assert [p["pid"] for p in json_of(path)["processes"]] == [100, 101, 102]


def test_what_grows_in_another_process_is_named_beside_it(tmp_path):
    family(tmp_path)
    path = tmp_path / "server.py.100.1.0.hkc"
    assert section(text_of(path), "PROCESSES").count("growing  +30.5 MiB  shop.py:88 in remember_order") == 2
    worker = json_of(path)["processes"][1]
    assert worker["growing"] == 1
    assert (worker["steepest"]["function"], worker["steepest"]["line"]) == ("remember_order", 88)


def test_another_process_of_the_run_can_be_asked_for(tmp_path):
    family(tmp_path)
    path = tmp_path / "server.py.100.1.0.hkc"
    assert json_of(path, "--pid", "102")["pid"] == 102
    assert "no process 4711 in the run" in refusal_of(path, "--pid", "4711")


def test_copy_of_a_capture_is_no_other_process(tmp_path):
    family(tmp_path)
    worker = tmp_path / "worker.py.101.1.0.hkc"
    early = cw.shop()  # copied while it ran, and before it got so far
    early.points = early.points[:3]
    early.now = None
    early.header.update(pid=101, parent_pid=100, start_realtime_ns=early.header["start_realtime_ns"] + 1, forked=1, state=cw.RUNNING,
                        end_ns=0, command_line=early.string("python3\x1f/srv/worker.py\x1f"))
    for name in "a.hkc", "z.hkc":
        early.write(tmp_path / name)
        (tmp_path / ("whole-" + name)).write_bytes(worker.read_bytes())
    for path, state in ((tmp_path / "server.py.100.1.0.hkc", "ended"), (worker, "ended"), (tmp_path / "a.hkc", "killed"), (tmp_path / "z.hkc", "killed")):
        found = {p["pid"]: p["state"] for p in json_of(path)["processes"]}
        assert len(json_of(path)["processes"]) == 3 and found == {100: "ended", 101: state, 102: "killed"}, path
    for name in "server.py.100.1.0.hkc", "worker.py.102.1.0.hkc", "other.999.1.0.hkc", "whole-a.hkc", "whole-z.hkc":
        (tmp_path / name).unlink()
    for i in range(30):
        early.write(tmp_path / ("%d.hkc" % i))
    newest = json.loads(text_of("--json", HEAPKEEPER_DIR=str(tmp_path)))
    assert newest["state"] == "ended" and [p["pid"] for p in newest["processes"]] == [101]
    for name in "one.hkc", "two.hkc":
        (tmp_path / "beside").mkdir(exist_ok=True)
        (tmp_path / "beside" / name).write_bytes(worker.read_bytes())
    assert "PROCESSES" not in text_of(tmp_path / "beside" / "two.hkc")


def test_processes_beside_a_named_capture_are_found(tmp_path):
    for name, pid in (("out", 1000), ("out.1001", 1001), ("out.1002.1", 1002), ("unrelated", 1003)):
        c = cw.shop()
        c.header.update(pid=pid)
        c.write(tmp_path / name)
    assert {p["pid"] for p in json_of(tmp_path / "out")["processes"]} == {1000, 1001, 1002}
    assert {p["pid"] for p in json_of(tmp_path / "out.1001")["processes"]} == {1000, 1001, 1002}


def test_small_children_are_counted_from_their_summary(tmp_path):
    c = cw.shop()
    c.write(tmp_path / "a.hkc")
    name = c.header["run_id"].hex() + ".children"
    (tmp_path / name).write_bytes(cw.child(7, "pip", peak=cw.MIB, allocated=3 * cw.MIB) +
                                  cw.child(8, "test \x1b[31m", peak=9 * cw.MIB, allocated=cw.MIB) + b"cut")
    children = json_of(tmp_path / "a.hkc")["small_children"]
    assert (children["count"], children["allocated_bytes"]) == (2, 4 * cw.MIB)
    text = text_of(tmp_path / "a.hkc")
    assert "and 2 small children that ended cleanly: 4.00 MiB allocated, the largest peak 9.00 MiB (test ?[31m)" in text


def test_newest_run_is_found_without_a_file(tmp_path):
    for i in range(3):
        c = cw.shop()
        c.header.update(pid=100 + i, run_id=bytes([i + 1] * 16),
                        start_realtime_ns=c.header["start_realtime_ns"] + (i * 7 % 3))
        c.write(tmp_path / f"p.{i}.hkc")
    done = report("--json", HEAPKEEPER_DIR=str(tmp_path))
    assert json.loads(done.stdout)["pid"] == 102


def test_no_capture_anywhere_is_one_clear_line(tmp_path):
    done = report(HEAPKEEPER_DIR=str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert re.fullmatch(r"heapkeeper: no capture found in .*; record one with .*\n", done.stderr)


# ---- what kept us out or blind ----


def test_what_kept_us_out_is_said(tmp_path):
    c = cw.shop()
    c.header.update(watch=3, watch_name=c.string("mimalloc"), watch_time_ns=2_000_000_000, stacks=2,
                    stacks_why=c.string("unknown version 3.19"), limits=31, limit_time_ns=3_000_000_000)
    c.site(0, flags=cw.OTHER, total_bytes=cw.MIB, live_bytes=1)
    c.event(1_000_000_000, 5, "hello \x1b]0;pwned\x07")
    c.event(1_000_000_000, 1, value=5)
    path = c.write(tmp_path / "x.hkc")
    notes = " ".join(section(text_of(path), "NOTES").split())
    for words in ("replaced by mimalloc, as was noticed after 2.00 s", "stacks are off: unknown version 3.19",
                  "table of sites was full after 3.00 s", "file system was full: recording stopped after 3.00 s",
                  "call tree was full", "space for names was full", "no memory for the recorder",
                  "After 1.00 s: hello ?]0;pwned?", "It forked 1 time."):
        assert words in notes
    d = json_of(path)
    assert d["watch"] == "replaced" and d["stacks"] == "off"
    assert d["limits"] == ["sites", "nodes", "strings", "disk", "memory"]


def test_limits_have_the_times_at_which_they_were_reached(tmp_path):
    c = cw.shop()
    c.header.update(limits=3)
    c.event(1_000_000_000, 3, value=2)
    c.event(2_500_000_000, 3, value=1)
    path = c.write(tmp_path / "x.hkc")
    assert "table of sites was full after 2.50 s" in " ".join(section(text_of(path), "NOTES").split())
    assert json_of(path)["limit_time_ns"] == 1_000_000_000


def test_recording_off_is_said(tmp_path):
    c = cw.shop()
    c.header.update(mode=cw.NONE, sample_bytes=0)
    c.sites, c.marks = [], []
    text = text_of(c.write(tmp_path / "x.hkc"))
    assert "recording off" in text and "the heap's own counters are all there is" in " ".join(text.split())


# ---- bad input ----


def test_missing_and_unreadable_files_are_refused(tmp_path, shop):
    assert "cannot be opened: No such file" in refusal_of(tmp_path / "absent")
    assert "not a regular file" in refusal_of(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(shop)
    assert "is a symbolic link" in refusal_of(link)
    if os.geteuid() != 0:
        shop.chmod(0)
        assert "Permission denied" in refusal_of(shop)


def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(str(tmp_path / "pipe"))
    assert "not a regular file" in refusal_of(tmp_path / "pipe")


def test_other_files_are_refused(tmp_path):
    assert "not a heapkeeper capture" in refusal_of(save(tmp_path, b"#!/bin/sh\necho\n"))
    assert "not a heapkeeper capture" in refusal_of(save(tmp_path, os.urandom(100_000)))
    with open(str(tmp_path / "long"), "wb") as f:
        f.truncate(1 << 33)
    assert "not a heapkeeper capture" in refusal_of(tmp_path / "long")


def test_every_truncation_is_refused_or_read(tmp_path):
    data = cw.shop(spans=5).bytes(spare=False)
    for size in list(range(1, 200, 7)) + list(range(200, len(data), 997)):
        done = report(save(tmp_path, data[:size]))
        assert done.returncode == 1
        assert re.fullmatch(r"heapkeeper: .*(truncated|not a heapkeeper capture).*\n", done.stderr), (size, done.stderr)


def test_newer_major_version_is_refused_and_newer_minor_is_read(tmp_path):
    c = cw.shop()
    c.header.update(major=2, minor=3)
    assert "written by a newer heapkeeper (format 2.3, this one reads up to 1.x); update heapkeeper" in \
        refusal_of(c.write(tmp_path / "x.hkc"))
    c.header.update(major=1, minor=9)
    assert json_of(c.write(tmp_path / "x.hkc"))["state"] == "ended"


def test_other_byte_order_is_refused(tmp_path):
    c = cw.shop()
    c.header.update(byte_order=0x04030201)
    assert "the other byte order" in refusal_of(c.write(tmp_path / "x.hkc"))


@pytest.mark.parametrize("change", [
    dict(offset=1 << 63), dict(offset=(1 << 64) - 8), dict(offset=12), dict(offset=8192),
    dict(count=1 << 62), dict(entry_size=0xffffffff), dict(count=100, capacity=1 << 60),
    dict(capacity=0, count=1)])
@pytest.mark.parametrize("kind", [cw.MARKS, cw.TIMELINE, cw.MODULES, cw.CODES, cw.NODES, cw.STRINGS, cw.SITES])
def test_hostile_sections_are_refused(tmp_path, kind, change):
    c = cw.shop()
    c.section_changes[kind] = change
    done = report("--json", c.write(tmp_path / "x.hkc"))
    assert done.returncode in (0, 1)
    if done.returncode:
        assert re.fullmatch(r"heapkeeper: .*(damaged|truncated).*\n", done.stderr)
    else:
        json.loads(done.stdout)


def test_overlapping_sections_are_refused(tmp_path):
    c = cw.shop()
    data = c.bytes()
    first = cw.HEADER.size + cw.SITES * cw.SECTION.size
    nodes = cw.HEADER.size + cw.NODES * cw.SECTION.size
    offset = struct.unpack_from("=Q", data, nodes + 8)[0]
    assert "overlap" in refusal_of(save(tmp_path, cw.patch(data, first + 8, struct.pack("=Q", offset))))


def test_longer_entries_of_a_newer_minor_are_read_by_their_stride(tmp_path):
    c = cw.shop()
    sections = c.sections

    def longer():
        s = sections()
        size, entries, capacity = s[cw.SITES]
        s[cw.SITES] = (size + 64, [e + b"\xee" * 64 for e in entries], capacity)
        return s
    c.sections = longer
    path = c.write(tmp_path / "x.hkc")
    assert {s["function"] for s in json_of(path)["sites"]} == {"remember_order", "cache_put", "(native code)"}


def test_unknown_sections_are_skipped(tmp_path):
    c = cw.shop()
    c.header["header_size"] += cw.SECTION.size  # a later writer's, with a slot more
    at = cw.HEADER.size + 16 * cw.SECTION.size
    data = cw.patch(c.bytes(), at, cw.SECTION.pack(99, 0, 1 << 60, 1 << 60, 1 << 60))
    assert json_of(save(tmp_path, data))["state"] == "ended"


def collected():
    c = cw.shop()
    c.header["minor"] = 3
    c.collection(10 ** 9, count=300, last_ns=2 * 10 ** 9, duration_ns=30_000_000, longest_ns=200_000, examined=600_000, freed=1_000)
    c.collection(3 * 10 ** 9, 2, cw.GROWTH, duration_ns=12_000_000, examined=50_000, freed=20_000, uncollectable=3)
    c.collection(4 * 10 ** 9, 1, duration_ns=1_000_000, examined=500)
    return c


def test_collections_are_summed_in_one_line_and_listed_for_programs(tmp_path):
    path = collected().write(tmp_path / "x.hkc")
    text = text_of(path)
    assert ("GC        302 collections (300 young, 1 middle, 1 full) · 43 ms (0.3% of the run) · longest 12 ms, after 3.00 s (growth) · "
            "freed 21 000 of 650 500 objects") in re.sub(r"\n +", " ", text)
    assert "3 objects found unreachable and kept" in re.sub(r"\n +", " ", text)
    d = json_of(path)
    assert d["gc"] == {"collections": 302, "duration_ns": 43_000_000, "longest_ns": 12_000_000, "longest_at_ns": 3 * 10 ** 9,
                       "examined": 650_500, "freed": 21_000, "uncollectable": 3}
    assert [(e["cause"], e["generation"], e["count"]) for e in d["collections"]] == [("young", 0, 300), ("growth", 2, 1), ("young", 1, 1)]
    assert d["collections"][0]["last_ns"] == 2 * 10 ** 9 and d["collections"][1]["freed"] == 20_000


def test_capture_without_collections_says_nothing_of_them(shop):
    assert "GC  " not in text_of(shop)
    assert json_of(shop)["collections"] == []


def test_collections_that_are_in_a_sum_already_or_make_no_sense_are_dropped(tmp_path):
    c = collected()
    c.collections.insert(1, cw.COLLECTION.pack(15 * 10 ** 8, 15 * 10 ** 8, 5, 5, 15 * 10 ** 8, 7, 7, 7, 1, 0, cw.YOUNG, 0))  # in the first
    for generation, cause, count, time in ((9, cw.YOUNG, 1, 5), (0, 99, 1, 5), (0, cw.EXPLICIT, 0, 5), (0, cw.EXPLICIT, 1, 3)):
        c.collection(time * 10 ** 9, generation, cause, count, examined=1 << 60)
    d = json_of(c.write(tmp_path / "x.hkc"))
    assert d["gc"]["collections"] == 302 and d["gc"]["examined"] == 650_500
    assert d["recorder"]["dropped_records"] == 5


def test_torn_points_are_dropped_and_counted(tmp_path):
    c = cw.shop()
    c.header.update(state=cw.RUNNING, pid=1 << 30)
    c.points[10] = cw.point(sequence=7, time_ns=1, live_bytes=1 << 60)
    last = c.points[-1]
    c.now = cw.point(sequence=9, time_ns=1 << 60, live_bytes=1 << 60)
    d = json_of(c.write(tmp_path / "x.hkc"))
    assert d["recorder"]["dropped_records"] == 2
    assert len(d["timeline"]) == 58
    assert d["last_point_ns"] == struct.unpack_from("=Q", last, 8)[0]
    assert d["peak_bytes"] < 1 << 40


def test_thinning_that_was_cut_short_leaves_no_point_twice(tmp_path):
    c = cw.shop()
    c.points[:20] = c.points[1:40:2]
    c.status["timeline_sequence"] = 5
    times = [p["time_ns"] for p in json_of(c.write(tmp_path / "x.hkc"))["timeline"]]
    assert times == sorted(set(times))


def test_site_with_a_node_that_is_not_there_is_dropped(tmp_path):
    c = cw.shop()
    c.site(123456, live_bytes=1 << 60)
    c.site(1, domain=77, live_bytes=1 << 60)
    d = json_of(c.write(tmp_path / "x.hkc"))
    assert d["recorder"]["dropped_records"] == 2
    assert d["recorder"]["sites_live_bytes"] < 1 << 40


def test_call_tree_with_a_loop_ends(tmp_path):
    c = cw.shop()
    code = c.code("f")
    node = c.node(0, code, 0)
    c.nodes[node] = cw.NODE.pack(node, code, 0, 1)  # its own caller
    c.nodes.append(cw.NODE.pack(node + 50, code, 0, 2))  # a caller that comes later
    c.site(node, live_bytes=5)
    c.site(node + 1, live_bytes=6)
    d = json_of(c.write(tmp_path / "x.hkc"))
    assert [len(s["stack"]) for s in d["sites"] if s["function"] == "f"] == [1, 1]


def test_hostile_names_reach_neither_terminal_nor_json(tmp_path):
    c = cw.shop()
    bad = c.code(b"evil\x1b[2J\x9b31m\xff\xe2\x80\xae\"\\\n", file=b"/tmp/\x07\x1b]0;x\x07.py")
    c.site(c.stack((bad, 1), (bad, 2)), live_bytes=1 << 40)
    c.header["command_line"] = c.string(b"\x1b[31mpython\x1f-m\x1fev\x1bil\r\n\x1f")
    path = c.write(tmp_path / "x.hkc")
    done = report("--json", path)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.stdout)
    assert json.loads(done.stdout)["sites"][0]["function"] == 'evil\x1b[2J\ufffd31m\ufffd\u202e"\\\n'
    for locale in ("C.UTF-8", "C"):
        done = subprocess.run([COMMAND, "report", str(path)], stdout=subprocess.PIPE, timeout=60,
                              env=dict(os.environ, LC_ALL=locale))
        assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80\xae", done.stdout)


def test_output_is_ascii_where_the_locale_is_not_utf8(shop):
    assert all(ord(c) < 128 for c in text_of(shop, LC_ALL="C"))


def terminal_output(path, **environment):
    """What a terminal of 100 columns gets."""
    import fcntl
    import termios
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("=HHHH", 40, 100, 0, 0))
    clean = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    clean.update({"LC_ALL": "C.UTF-8", "TERM": "xterm"}, **environment)
    child = subprocess.Popen([COMMAND, "report", str(path)], stdout=slave, env=clean)
    os.close(slave)
    output = read_terminal(master)
    assert child.wait(timeout=60) == 0
    return output


def test_colour_is_for_terminals_and_can_be_refused(shop):
    assert "\x1b[" not in text_of(shop)
    assert "\x1b[31m" in terminal_output(shop)
    assert "\x1b[" not in terminal_output(shop, NO_COLOR="1")


def test_lines_fit_the_terminal(shop):
    text = terminal_output(shop, NO_COLOR="1")
    assert max(map(len, text.splitlines())) <= 100


def test_closed_output_is_told(shop):
    with open("/dev/full", "w") as full:
        done = subprocess.run([COMMAND, "report", "--json", str(shop)], stdout=full, stderr=subprocess.PIPE,
                              encoding="utf-8", timeout=60)
    assert done.returncode == 1
    assert re.fullmatch(r"heapkeeper: the report could not be written: .*\n", done.stderr)


def test_capture_that_is_cut_while_it_is_read_does_not_kill_the_reader(tmp_path):
    """Cut and restored as fast as can be, while it is read again and again: an answer or a refusal, no signal."""
    path = cw.shop().write(tmp_path / "x.hkc")
    data = open(path, "rb").read()
    cutter = subprocess.Popen([sys.executable, "-c", (
        "import os, sys\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "while os.getppid() == int(sys.argv[2]):\n"
        "    os.truncate(sys.argv[1], 9000)\n"
        "    with open(sys.argv[1], 'r+b') as f: f.write(data)\n"), str(path), str(os.getpid())])
    try:
        for _ in range(40):
            assert report("--json", path).returncode in (0, 1)
    finally:
        cutter.kill()
        cutter.wait()
    assert data
