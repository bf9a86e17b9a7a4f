"""`heapkeeper plot`: memory over time, in the terminal, as SVG, as PNG and as JSON."""

import json
import random
import re
import struct
import subprocess
import xml.etree.ElementTree
import zlib

import pytest

import capture_writer as cw
from conftest import COMMAND
from test_contract_hostile import has_control_bytes
from test_views import evil, show

pytestmark = pytest.mark.once

MIB = 1 << 20


def plot(*words):
    return json.loads(show("plot", "--json", *words).out.decode("utf-8"))


def pixels(data):
    """Rows of an 8-bit RGB picture whose rows have no filter; checks every chunk's sum on the way."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size:at + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 2)
    raw = zlib.decompress(chunks[b"IDAT"])
    assert len(raw) == height * (1 + 3 * width)
    rows = [raw[y * (1 + 3 * width):(y + 1) * (1 + 3 * width)] for y in range(height)]
    assert all(row[0] == 0 for row in rows)
    return [[row[1 + 3 * x:4 + 3 * x] for x in range(width)] for row in rows]


@pytest.fixture
def shop(tmp_path):
    c = cw.shop()
    c.points[29] = cw.point(time_ns=6_200_000_000, live_bytes=110 * MIB, rss_bytes=150 * MIB, name=c.string("half <way> & \"on\""))
    return str(c.write(tmp_path / "shop.hkc"))


def test_lines_are_the_points_of_the_capture(shop):
    found = plot(shop)
    lines = {line["name"]: line for line in found["lines"]}
    assert list(lines) == ["RSS", "mapped", "live"]
    live = lines["live"]
    assert len(live["bytes"]) == len(live["time_ns"]) == 60 and live["time_ns"] == sorted(live["time_ns"])
    assert live["bytes"][-1] == 153 * MIB and live["time_ns"][-1] == 12_400_000_000
    assert lines["RSS"]["bytes"] == [150 * MIB, 231 * MIB], "points that did not read it are none"
    assert found["notes"] == [{"time_ns": 6_200_000_000, "name": 'half <way> & "on"'}]


def test_text_has_axes_and_names_each_line_where_it_ends(shop):
    text = show("plot", shop, env={"LC_ALL": "C.UTF-8"}).out.decode()
    rows = text.splitlines()
    assert rows[0].startswith("shop.py") and "256 MiB ┤" in text and "0 B ┤" in text and "10 s" in text
    assert re.search(r"RSS 231 MiB$", text, re.M) and re.search(r"live 153 MiB$", text, re.M)
    names = [next(i for i, row in enumerate(rows) if row.endswith(name)) for name in ("RSS 231 MiB", "live 153 MiB")]
    assert names == sorted(names), "what is more stands higher"
    assert any("\u2800" < character < "\u2900" for character in text)
    ascii_text = show("plot", "--height", "8", shop, env={"LC_ALL": "C"}).out
    assert all(byte < 128 for byte in ascii_text) and b"l" in ascii_text
    assert len(show("plot", "--height", "8", shop).out.splitlines()) < len(rows)
    for width in 60, 80, 200:
        out = show("plot", shop, env={"LC_ALL": "C.UTF-8", "COLUMNS": str(width)}).out.decode()
        assert max(map(len, out.splitlines())) <= width


def test_svg_is_one_document_for_light_and_dark(shop, tmp_path):
    target = tmp_path / "plot.svg"
    assert show("plot", "-o", target, shop).out == b""
    text = target.read_text(encoding="utf-8")
    root = xml.etree.ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "prefers-color-scheme: dark" in text
    paths = [e for e in root.iter("{http://www.w3.org/2000/svg}path")]
    assert len(paths) == 4, "three lines, and the area below one"
    words = "".join(root.itertext())
    assert 'half <way> & "on"' in words and "live 153 MiB" in words and "256 MiB" in words
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "") and "<script" not in text
    x = [float(n) for n in re.findall(r"[ML]([\d.]+) ", paths[-1].get("d"))]
    assert x == sorted(x) and len(x) == 60


def test_png_is_a_picture_with_each_lines_colour(shop, tmp_path):
    target = tmp_path / "plot.png"
    show("plot", "-o", target, shop)
    rows = pixels(target.read_bytes())
    colours = {}
    for row in rows:
        for pixel in row:
            colours[pixel] = colours.get(pixel, 0) + 1
    assert max(colours, key=colours.get) == b"\xff\xff\xff"
    for wanted in (b"\x09\x69\xda", b"\xbf\x87\x00", b"\x8c\x95\x9f"):
        assert colours.get(wanted, 0) > 300
    assert show("plot", "--format", "png", shop).out == target.read_bytes()


def test_png_has_letters_without_their_accents_and_boxes_for_what_is_not_latin(tmp_path):
    def drawn(name):
        c = cw.shop()
        c.header["command_line"] = c.string("python3\x1f/srv/%s.py\x1f" % name)
        c.span(0, 12_000_000_000, name)
        return pixels(show("plot", "--format", "png", c.write(tmp_path / "x.hkc"), env={"LC_ALL": "C.UTF-8"}).out)

    assert drawn("Gr\u00f6\u00dfe-\u0141\u00f3d\u017a-\u010c\u0160\u017f") == drawn("Grose-Lodz-CSs")
    assert drawn("cafe\u0301") == drawn("cafe"), "an accent of its own"
    box = drawn("a\u6f22")
    assert box == drawn("a\u0436") != drawn("a") and box != drawn("a?")


def test_processes_of_a_run_are_drawn_together(heapkeeper):
    heapkeeper.good("""
        import os, time
        kept = bytearray(30 << 20)
        time.sleep(0.05)
        pid = os.fork()
        mine = bytearray(9 << 20)
        for _ in range(20):
            time.sleep(0.01)
            more = [bytes(1000) for _ in range(3000)]
        if pid:
            os.waitpid(pid, 0)
        else:
            os.kill(os.getpid(), 9)
    """, options=("--exact",))
    found = plot("--run", heapkeeper.output)
    assert found["run"] and len(found["lines"]) == 3 and found["lines"][-1]["name"] == "all"
    assert len({line["name"] for line in found["lines"]}) == 3
    most = [max(line["bytes"]) for line in found["lines"]]
    assert most[-1] > max(most[:-1]) and most[-1] <= sum(most[:-1])
    assert b"live in 2 processes" in show("plot", "--run", heapkeeper.output).out
    alone = plot(heapkeeper.output)
    assert [line["name"] for line in alone["lines"]] == ["RSS", "mapped", "live"]


def member(path, pid, seconds, megabytes, **header):
    """A process of cw's run that ended after so long."""
    c = cw.Capture(pid=pid, end_ns=int(seconds * 1e9), **header)
    c.points = [cw.point(time_ns=int(seconds * 1e9 * i / 10), live_bytes=megabytes * MIB) for i in range(11)]
    c.write(path)


def test_what_has_ended_is_not_in_all_from_then_on(tmp_path):
    member(tmp_path / "run.hkc", 100, 2.3, 8)
    member(tmp_path / "run.hkc.101", 101, 2.1, 40)
    found = plot("--run", str(tmp_path / "run.hkc"))
    line = found["lines"][-1]
    assert line["name"] == "all" and line["bytes"][-1] == 8 * MIB
    assert all(size == (48 if when < 2.099e9 else 8) * MIB for when, size in zip(line["time_ns"], line["bytes"]) if not 2.099e9 <= when <= 2.101e9)


def test_a_run_of_one_process_is_one_line_with_one_slope(tmp_path):
    member(tmp_path / "run.hkc", 100, 2.3, 8)
    (line,) = plot("--run", "-s", str(tmp_path / "run.hkc"))["lines"]
    assert line["name"] == "shop.py 100" and "slope_error" in line
    assert show("plot", "--run", "-s", str(tmp_path / "run.hkc")).out.count(b"slope of") == 1


def test_small_children_that_were_folded_are_said_to_have_no_line(tmp_path):
    member(tmp_path / "run.hkc", 100, 2.3, 8)
    run_id = cw.Capture().header["run_id"].hex()
    (tmp_path / (run_id + ".children")).write_bytes(cw.child(7, "pip", peak=MIB, allocated=3 * MIB) +
                                                    cw.child(8, "test \x1b[31m", peak=9 * MIB, allocated=MIB))
    found = plot("--run", str(tmp_path / "run.hkc"))
    assert (found["left_out"], found["small_children"]) == (2, 2)
    text = show("plot", "--run", str(tmp_path / "run.hkc")).out.decode()
    assert "live in 1 process, not in 2 small children" in text
    assert "2 small children that ended cleanly: 4.00 MiB allocated, the largest peak 9.00 MiB (test ?[31m)" in text
    assert "live in 1 process, not in 2 small children" in show("plot", "--run", "--format", "svg", str(tmp_path / "run.hkc")).out.decode()
    alone = plot(str(tmp_path / "run.hkc"))
    assert (alone["left_out"], alone["small_children"]) == (0, 0)


@pytest.mark.parametrize("code, name", [
    ("from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)", "worker 101"),
    ("from multiprocessing.resource_tracker import main;main(4)", "resource_tracker 101"),
    ("import os", "-c 101"),
])
def test_what_multiprocessing_starts_has_a_name(tmp_path, code, name):
    c = cw.Capture(pid=101)
    c.header["command_line"] = c.string("\x1f".join(["python3", "-X", "dev", "-c", code, "--multiprocessing-fork"]))
    c.points = [cw.point(time_ns=i, live_bytes=MIB) for i in range(3)]
    c.write(tmp_path / "run.hkc")
    assert plot("--run", str(tmp_path / "run.hkc"))["lines"][0]["name"] == name


def test_a_long_name_is_cut_and_its_number_and_size_are_not(tmp_path):
    path = str(tmp_path / "run.hkc")
    c = cw.Capture(program="a_program_with_a_name_of_many_letters.py", pid=4194303)
    c.points = [cw.point(time_ns=i, live_bytes=153 * MIB) for i in range(3)]
    c.write(path)
    last = " 4194303 153 MiB"
    document = xml.etree.ElementTree.fromstring(show("plot", "--run", "--format", "svg", path).out)
    (text,) = [t for t in document.iter("{http://www.w3.org/2000/svg}text") if (t.text or "").endswith(last)]
    right = float(document.get("viewBox").split()[2])
    assert float(text.get("x")) + 7.5 * len(text.text) <= right, "13 pixels high, a letter is some 7 wide"
    assert any(line.endswith(last) for line in show("plot", "--run", path, env={"COLUMNS": "80"}).out.decode().splitlines())


def test_collections_are_marked_below(tmp_path):
    c = cw.shop()
    c.header["minor"] = 3
    c.collection(6_200_000_000, generation=2, duration_ns=5_000_000, longest_ns=5_000_000)
    c.collection(6_300_000_000, generation=0, count=50, duration_ns=50_000, longest_ns=2_000)
    path = c.write(tmp_path / "x.hkc")
    assert [e["generation"] for e in plot(path)["collections"]] == [2, 0]
    row, = [row for row in show("plot", path).out.decode().splitlines() if row.endswith(" collections")]
    assert row.count("^") == 1, "a quick one of the young is not worth a mark"
    assert b"collection of generation 2, 5 ms" in show("plot", "--format", "svg", path).out


def test_capture_without_points_says_so(tmp_path):
    c = cw.Capture()
    path = c.write(tmp_path / "x.hkc")
    assert b"no figures" in show("plot", path).out
    assert b"no figures" in show("plot", "--format", "svg", path).out
    pixels(show("plot", "--format", "png", path).out)
    assert plot(path)["seconds"] == 0


def test_running_process_is_drawn_up_to_now(heapkeeper):
    words = heapkeeper.command("import sys; kept = bytearray(9 << 20); print('ready', flush=True); sys.stdin.read()", options=("--exact",))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        found = plot(process.pid)
        process.stdin.close()
    assert found["state"] == "running" and found["pid"] == process.pid


def test_hostile_names_and_figures_are_drawn_without_harm(tmp_path):
    c = cw.shop()
    bad = "\x1b[2J\u202e<script>&\"'\ud800"
    c.header["command_line"] = c.string(b"/" + bad.encode("utf-8", "surrogatepass") + b"\x1f")
    c.header["executable"] = c.header["command_line"]
    for i, time in enumerate((5, (1 << 64) - 1, 0, 1 << 63)):
        c.points.append(cw.point(time_ns=time, live_bytes=(1 << 64) - 1, large_bytes=(1 << 63) + i, rss_bytes=1 << 63, mapped_bytes=1,
                                 name=c.string(bad.encode("utf-8", "surrogatepass"))))
    path = c.write(tmp_path / "x.hkc")
    for words in ([], ["--json"], ["--format", "svg"], ["--run"]):
        out = show("plot", *words, path).out
        assert not has_control_bytes(out) and (b"<script" not in out or "svg" not in words)
        out.decode("utf-8")
    xml.etree.ElementTree.fromstring(show("plot", "--format", "svg", path).out.decode("utf-8"))
    pixels(show("plot", "--format", "png", path).out)
    assert not has_control_bytes(show("plot", evil(tmp_path)).out)


@pytest.mark.parametrize("words, wanted", [
    (["a", "b"], b"one capture or process"), (["--format", "gif", "a"], b"text, svg, png or json"),
    (["-o", "x.gif", "a"], b".svg, .png, .json and .txt"), (["-o", "x", "a"], b"--format says"), (["--height", "2", "a"], b"4 to 200 rows"),
    (["--height", "x", "a"], b"4 to 200 rows"), (["--nonsense"], b"unknown option"),
])
def test_wrong_command_lines_are_one_line_and_status_2(words, wanted):
    done = show("plot", *words, status=2)
    assert done.out == b"" and re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err) and wanted in done.err


def test_files_are_not_written_over_unasked(shop, tmp_path):
    target = tmp_path / "plot.svg"
    target.write_text("mine")
    assert b"--force writes over it" in show("plot", "-o", target, shop, status=1).err and target.read_text() == "mine"
    show("plot", "-f", "-o", target, shop)
    assert target.read_text().startswith("<svg")
    assert b"the capture itself" in show("plot", "-f", "--format", "svg", "-o", shop, shop, status=1).err
    (tmp_path / "text").write_text("no capture")
    assert re.fullmatch(rb"heapkeeper: [^\n]+\n", show("plot", tmp_path / "text", status=1).err)
    with open("/dev/full", "w") as full:
        done = subprocess.run([COMMAND, "plot", shop], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1 and b"could not be written" in done.stderr


def test_a_slope_is_that_of_time_however_the_points_lie_and_its_interval_holds_the_truth(tmp_path):
    choose, inside = random.Random(5), 0
    for run in range(20):
        c = cw.shop()
        times = sorted([choose.uniform(0, 10) for _ in range(150)] + [choose.uniform(9, 10) for _ in range(150)]) + [10]
        c.points = [cw.point(time_ns=int(at * 1e9), live_bytes=int((50 + 3 * at + choose.gauss(0, 2)) * MIB)) for at in times]
        c.now, c.header["end_ns"] = c.points.pop(), 10_000_000_000
        path = str(c.write(tmp_path / ("line%d.hkc" % run)))
        live = plot("--slope", path)["lines"][2]
        inside += abs(live["slope_bytes_per_second"] - 3 * MIB) < live["slope_error"]
        assert live["slope_error"] < MIB
    assert inside >= 17
    assert not any("slope_error" in line for line in plot(path)["lines"])
    text = show("plot", "-s", path).out.decode()
    assert re.search(r"slope of live: \+[23]\.\d+ MiB/s ± [\d.]+ [KM]iB/s\n", text)
    show("plot", "-s", "-o", str(tmp_path / "line.svg"), path)
    root = xml.etree.ElementTree.parse(str(tmp_path / "line.svg")).getroot()
    trends = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("class", "").startswith("trend")]
    assert [path[0].text.split(":")[0] for path in trends] == ["slope of mapped", "slope of live"]


def test_a_slope_of_hostile_figures_does_no_harm(tmp_path):
    c = cw.shop()
    c.points = [cw.point(time_ns=at, live_bytes=size, rss_bytes=size) for at, size in
                ((0, 0), (1, 2**64 - 1), (1, 0), (2**63, 2**63), (2**64 - 1, 1))]
    path = str(c.write(tmp_path / "hostile.hkc"))
    for words in ([], ["--json"], ["-o", "-", "--format", "svg"]):
        done = show("plot", "--slope", *words, path)
        assert not has_control_bytes(done.out) and b"nan" not in done.out.lower().replace(b"nano", b"")
