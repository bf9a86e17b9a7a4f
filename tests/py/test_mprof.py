"""heapkeeper.mprof: its files, its commands and its pictures."""

import glob
import json
import os
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree

import pytest
from conftest import BUILD, COMMAND, TREE, execute

PACKAGE = os.path.join(TREE, "python")
ENVIRONMENT = {"PYTHONPATH": PACKAGE, "HEAPKEEPER_BUILD": BUILD}

RECORDED = """\
CMDLINE python3 shop.py
FUNC shop.fill 20.0000 100.0500 44.0000 100.4500 0
FUNC shop.Cart.put 30.0000 100.1500 40.0000 100.3500 1
FUNC web.Cart.put 40.0000 100.3600 42.0000 100.3900 1
MEM 20.000000 100.0000
CHLD 77 5.500000 100.0010
MEM 30.500000 100.1000
CHLD 77 6.500000 100.1010
CHLD 78 9.250000 100.1020
MEM 36.000000 100.2000
MEM 50.125000 100.3000
MEM 44.000000 100.4000
"""


@pytest.fixture
def mprof(python, tmp_path):
    """Runs mprof in the test's directory."""

    def go(*words, status=0, **env):
        done = execute([python.path, "-m", "heapkeeper.mprof", *map(str, words)], env={**ENVIRONMENT, **env}, cwd=str(tmp_path))
        assert done.status == status, (done.out + done.err).decode(errors="replace")[-3000:]
        return done

    return go


@pytest.fixture
def recorded(tmp_path):
    (tmp_path / "mprofile_20260102030405.dat").write_text(RECORDED)
    return "mprofile_20260102030405.dat"


def read(tmp_path, name=None):
    sys.path.insert(0, PACKAGE)
    os.environ.setdefault("HEAPKEEPER_BUILD", BUILD)
    try:
        from heapkeeper import mprof
    finally:
        sys.path.remove(PACKAGE)
    (path,) = glob.glob(str(tmp_path / (name or "mprofile_*.dat")))
    return mprof.read_mprofile_file(path)


def test_run_notes_the_memory_and_the_calls_of_decorated_functions(mprof, tmp_path):
    (tmp_path / "p.py").write_text(textwrap.dedent("""
        import sys, time
        @profile
        def hold(n):
            block = b"x" * (n << 20)
            time.sleep(.4)
        hold(60)
        time.sleep(.2)
        sys.exit(3)
    """))
    done = mprof("run", "-T", ".05", "p.py")
    assert done.out.decode().splitlines()[:3] == ["mprof: Sampling memory every 0.05s", "running new process", "running as a Python program..."]
    found = read(tmp_path)
    assert found["cmd_line"].split()[-1] == "p.py"
    (call,) = found["func_timestamp"]["__main__.hold"]
    assert call[4] == 0 and 0.4 <= call[1] - call[0] < 5
    inside = [mib for mib, when in zip(found["mem_usage"], found["timestamp"]) if call[0] < when < call[1]]
    assert len(inside) >= 4 and 55 < max(inside) - call[2] < 70
    assert found["timestamp"] == sorted(found["timestamp"]) and not found["children"]
    peak = mprof("peak").out.decode()
    assert float(re.search(r"dat\t([\d.]+) MiB", peak).group(1)) == pytest.approx(max(found["mem_usage"]), abs=0.001)
    assert float(re.search(r"([\d.]+) MiB", mprof("peak", "--func", "hold").out.decode()).group(1)) >= max(inside) - 0.001
    mprof("run", "-E", "-o", "other.dat", "p.py", status=3)
    mprof("run", "-o", "other.dat", "p.py", status=0)


def test_run_lists_children_by_their_pids(mprof, tmp_path):
    (tmp_path / "p.py").write_text(textwrap.dedent("""
        import multiprocessing, time
        def work(n):
            block = b"x" * (n << 20)
            time.sleep(.8)
        if __name__ == "__main__":
            workers = [multiprocessing.get_context("fork").Process(target=work, args=(n,)) for n in (20, 40, 60, 80)]
            [w.start() for w in workers]
            print([w.pid for w in workers])
            [w.join() for w in workers]
    """))
    done = mprof("run", "-M", "-T", ".05", "p.py")
    found = read(tmp_path)
    pids = re.findall(r"\d+", done.out.decode().splitlines()[-1])
    assert sorted(pids) == sorted(found["children"])
    peaks = [max(mib for mib, _ in found["children"][pid]) for pid in pids]
    assert all(15 < later - earlier < 25 for earlier, later in zip(peaks, peaks[1:])), peaks
    text = mprof("peak").out.decode()
    assert all("Child %s\t\t\t%.3f MiB" % (pid, peak) in text for pid, peak in zip(pids, peaks))
    mprof("run", "-C", "-o", "sum.dat", "-T", ".05", "p.py")
    assert max(read(tmp_path, "sum.dat")["mem_usage"]) > 200


def test_attach_follows_a_process_by_its_number_until_it_ends(mprof, tmp_path):
    other = subprocess.Popen(["sleep", "1"])
    done = mprof("attach", "-T", ".05", other.pid)
    other.wait()
    assert b"attaching to existing process, using hint: %d" % other.pid in done.out
    found = read(tmp_path)
    assert found["cmd_line"] == "sleep 1\n" and 5 <= len(found["mem_usage"]) <= 25


def test_list_rm_and_clean_know_files_by_name_and_number(mprof, tmp_path):
    names = ["mprofile_2026010203040%d.dat" % i for i in range(4)]
    for name in names:
        (tmp_path / name).write_text(RECORDED)
    (tmp_path / "mprofile_20260102030403_ts.dat").write_text("")
    (tmp_path / "notes.dat").write_text("mine")
    assert mprof("list").out.decode().splitlines()[:2] == ["0 %s 03:04:00 02/01/2026" % names[0], "1 %s 03:04:01 02/01/2026" % names[1]]
    assert mprof("rm", "--dry-run", "0", "-1").out.decode().splitlines() == [
        "Files to be removed: ", names[0], names[3], "mprofile_20260102030403_ts.dat"]
    mprof("rm", "0")
    mprof("rm", "-1", names[2])
    assert sorted(os.listdir(str(tmp_path))) == [names[1], "notes.dat"]
    assert b"Invalid index (non-existing file): 5" in mprof("rm", "5", status=1).err
    mprof("clean")
    assert os.listdir(str(tmp_path)) == ["notes.dat"]


WORKERS = """
    import multiprocessing, os, time
    def work(n):
        for _ in range(2):
            kept = [bytes([7]) * (1 << 20) for _ in range(n)]
            time.sleep(.3)
    if __name__ == "__main__":
        workers = [multiprocessing.get_context("fork").Process(target=work, args=(n,)) for n in (40, 60, 80, 100)]
        [w.start() for w in workers]
        [w.join() for w in workers]
        print(*[w.pid for w in workers])
"""


def test_four_workers_are_drawn_as_the_capture_has_them_and_measured_as_the_kernel_does(mprof, python, tmp_path):
    (tmp_path / "p.py").write_text(textwrap.dedent(WORKERS))
    done = mprof("run", "-M", "-T", ".05", "-o", "rss.dat", COMMAND, "run", "-o", "capture", python.path, "p.py")
    pids = done.out.decode().split()[-4:]
    captures = {pid: json.loads(execute([COMMAND, "plot", "--json", "capture." + pid], cwd=str(tmp_path)).out) for pid in pids}
    live = {pid: next(line for line in plot["lines"] if line["name"] == "live") for pid, plot in captures.items()}

    mprof("plot", "-o", "capture.svg", "capture")
    curves, ticks, titles, _ = picture(tmp_path / "capture.svg")
    heights = [(y - 4, value) for y, value in ticks["end"]]
    drawn = {re.search(r"child (\d+)", label).group(1): points for label, points in curves[1:]}
    assert sorted(drawn) == sorted(pids) and curves[0][0].startswith("p.py, live, at most ")
    for pid, points in drawn.items():
        assert len(points) == len(live[pid]["bytes"])
        assert [value_at(heights, y) for _, y in points] == [pytest.approx(size / 2**20, abs=0.5) for size in live[pid]["bytes"]]
    peaks = dict(re.findall(r"Child (\d+)\t+([\d.]+) MiB", mprof("peak", "capture").out.decode()))
    assert {pid: float(peak) for pid, peak in peaks.items()} == {pid: pytest.approx(max(live[pid]["bytes"]) / 2**20, abs=0.001) for pid in pids}

    # The resident size that mprof saw from outside is what lived at most, and what every process has besides.
    resident = {pid: max(mib for mib, _ in read(tmp_path, "rss.dat")["children"][pid]) for pid in pids}
    reports = {pid: json.loads(execute([COMMAND, "report", "--json", "capture." + pid], cwd=str(tmp_path)).out) for pid in pids}
    besides = [resident[pid] - reports[pid]["peak_bytes"] / 2**20 for pid in pids]
    assert all(0 < rest < 40 for rest in besides) and max(besides) - min(besides) < 8, (resident, besides)
    mprof("plot", "-o", "rss.svg", "rss.dat")
    assert len(picture(tmp_path / "rss.svg")[0]) >= 5


def test_a_damaged_capture_is_one_clear_line(mprof, tmp_path):
    (tmp_path / "capture").write_bytes(b"hkcaptur" + bytes(100))
    done = mprof("plot", "-o", "p.svg", "capture", status=1)
    assert done.err.startswith(b"mprof plot: ") and b"capture" in done.err and done.err.count(b"\n") == 1


def test_functions_are_called_by_as_few_parts_of_their_names_as_tell_them_apart(mprof, recorded):
    assert b"50.125 MiB" in mprof("peak").out
    assert b"36.000 MiB" not in mprof("peak", "--func", "shop.Cart.put").out
    assert b"50.125 MiB" in mprof("peak", "--func", "shop.Cart.put").out
    assert b"42.000 MiB" in mprof("peak", "--func", "web.Cart.put", "0").out  # no sample fell into it; what it noted itself
    done = mprof("peak", "--func", "nothing", status=1)
    assert done.err.decode() == "mprof peak: %s has no function nothing; it has shop.Cart.put, shop.fill, web.Cart.put\n" % recorded


def picture(path):
    """The curves of a picture as (label, [(x, y), ...]), its ticks, its other titles."""
    root = xml.etree.ElementTree.parse(str(path)).getroot()
    space = "{http://www.w3.org/2000/svg}"
    curves, titles = [], []
    for element in root.iter(space + "path"):
        title = element.find(space + "title")
        if title is not None and ", at most " in title.text:
            curves.append((title.text, [tuple(map(float, pair.split())) for pair in re.split("[ML]", element.get("d"))[1:]]))
        elif title is not None:
            titles.append(title.text)
    titles += [group.find(space + "title").text for group in root.iter(space + "g") if group.find(space + "title") is not None]
    ticks = {}
    for text in root.iter(space + "text"):
        if text.get("class") == "tick" and re.fullmatch(r"[\d.]+", text.text):
            ticks.setdefault(text.get("text-anchor"), []).append((float(text.get("y" if text.get("text-anchor") == "end" else "x")), float(text.text)))
    root.remove(root.find(space + "style"))
    return curves, ticks, titles, "".join(root.itertext())


def value_at(ticks, place):
    """What an axis says of a place."""
    (a, of_a), (b, of_b) = ticks[0], ticks[-1]
    return of_a + (place - a) / (b - a) * (of_b - of_a)


def test_the_picture_has_what_the_file_has(mprof, recorded, tmp_path):
    mprof("plot", "-o", "p.svg", "-t", "a <title> & more")
    curves, ticks, titles, text = picture(tmp_path / "p.svg")
    assert [label.split(",")[0] for label, _ in curves[1:]] == ["child 77", "child 78"]
    heights = [(y - 4, value) for y, value in ticks["end"]]
    drawn = [(value_at(ticks["middle"], x), value_at(heights, y)) for x, y in curves[0][1]]
    expected = sorted([(0, 20), (.1, 30.5), (.2, 36), (.3, 50.125), (.4, 44), (.05, 20), (.45, 44), (.15, 30), (.35, 40), (.36, 40), (.39, 42)])
    assert drawn == [(pytest.approx(x, abs=0.002), pytest.approx(y, abs=0.1)) for x, y in expected]
    assert [value_at(heights, y) for _, y in curves[1][1]] == [pytest.approx(5.5, abs=0.1), pytest.approx(6.5, abs=0.1)]
    assert "a <title> & more" in text and "fill 0.400s" in text and "web.Cart.put 0.030s" in text
    assert "shop.Cart.put: 30.000 to 40.000 MiB in 0.200 s" in titles
    assert "50.125 MiB at 0.300 s" in titles and "9.250 MiB at 0.102 s" in titles
    mprof("plot", "-n", "-o", "p.svg")
    assert "fill" not in picture(tmp_path / "p.svg")[3]


def test_a_flame_has_a_box_for_each_call_and_a_window_cuts_time(mprof, recorded, tmp_path):
    mprof("plot", "--flame", "-o", "p.svg")
    assert len([title for title in picture(tmp_path / "p.svg")[2] if " MiB in " in title]) == 3
    mprof("plot", "-w", "0.1,0.2", "-o", "p.svg")
    ticks = picture(tmp_path / "p.svg")[1]["middle"]
    assert (ticks[0][1], ticks[-1][1]) == (0.1, 0.2)
    assert b"argument --window/-w: 'now' is not two numbers" in mprof("plot", "-w", "now", status=2).err
    done = mprof("plot", "-w", "1000,2000", "-o", "none.svg", status=1)
    assert b"--window 1000,2000: nothing was measured then; the measurements are from 0 to " in done.err and not (tmp_path / "none.svg").exists()


def test_the_slope_is_that_of_the_line_and_its_interval_holds_it(mprof, tmp_path):
    import random
    choose = random.Random(4)
    (tmp_path / "line.dat").write_text("".join("MEM %.6f %.4f\n" % (50 + 3 * i / 10 + choose.gauss(0, 1), 1000 + i / 10) for i in range(400)))
    mprof("plot", "-s", "-o", "p.svg", "line.dat")
    slope, off = map(float, re.search(r"slope ([\d.]+) ± ([\d.]+)", picture(tmp_path / "p.svg")[3]).groups())
    assert abs(slope - 3) < off < 0.05


def test_several_files_are_drawn_together_without_calls(mprof, recorded, tmp_path):
    (tmp_path / "second.dat").write_text(RECORDED.replace("50.125", "70.125"))
    mprof("plot", "-o", "p.svg", recorded, "second.dat")
    curves, _, _, text = picture(tmp_path / "p.svg")
    assert len(curves) == 6 and "fill" not in text


@pytest.mark.parametrize("text, said", [
    ("MEM 1.0 2.0\nMEM one 2.0\nMEM 1.0 2.0\n", "line 2 is b'MEM one 2.0"),
    ("MEM 1.0 2.0\nMEM 1.0\nMEM 1.0 2.0\n", "line 2 is b'MEM 1.0"),
    ("MEM 1.0 2.0\nFUNC f 1 2 3\nMEM 1.0 2.0\n", "line 2 is"),
    ("MEM 1.0 2.0\nMEM nan inf\n", "bad.dat is damaged: line 2 is b'MEM nan inf"),
    ("MEM 1e999 -5\n", "bad.dat is damaged: line 1 is b'MEM 1e999 -5"),
    ("MEM 1e308 2.0\nMEM -1e308 3.0\n", "bad.dat is damaged: line 1 is b'MEM 1e308"),
    ("MEM 1.0 2.0\nCHLD 12 -inf 2.0\n", "bad.dat is damaged: line 2 is b'CHLD 12 -inf"),
    ("MEM 1.0 2.0\nFUNC f 1.0 2.0 nan 3.0 0\n", "bad.dat is damaged: line 2 is b'FUNC f"),
    ("\x00\x01\x02\n", "is no file of mprof's"),
    ("import os\n", "is no file of mprof's"),
    ("\n", "line 1 is empty"),
    ("", "has no measurements"),
    ("CMDLINE nothing\n", "has no measurements"),
], ids=range(13))
@pytest.mark.parametrize("command", ["peak", "plot"])
def test_a_damaged_file_is_one_clear_line(mprof, tmp_path, command, text, said):
    (tmp_path / "bad.dat").write_text(text)
    done = mprof(command, "bad.dat", status=1)
    assert done.err.decode().startswith("mprof %s: bad.dat" % command) and said in done.err.decode()
    assert done.err.count(b"\n") == 1
    assert os.listdir(str(tmp_path)) == ["bad.dat"], "and no picture that is none"


def test_a_file_that_is_still_being_written_is_read_up_to_its_last_line(mprof, tmp_path):
    (tmp_path / "half.dat").write_text("CMDLINE x\nMEM 1.5 2.0\nMEM 9999.")
    assert b"1.500 MiB" in mprof("peak", "half.dat").out


def test_a_file_with_blanks_in_names_and_without_depths_is_read(mprof, tmp_path):
    (tmp_path / "old.dat").write_text("MEM 1.5 2.0\nFUNC .a block 1.0 2.0 3.0 4.0\nFUNC .b block 1.0 2.0 5.0 4.0 0\n")
    found = read(tmp_path, "old.dat")
    assert found["func_timestamp"] == {".a block": [[2, 4, 1, 3]], ".b block": [[2, 4, 1, 5, 0]]}


@pytest.mark.parametrize("words, said", [
    (["run", "./nowhere"], "mprof run: ./nowhere: No such file or directory"),
    (["attach", "999999999"], "mprof run: there is no process 999999999"),
    (["attach", "a-name-of-nobody"], "mprof run: no process has a name with 'a-name-of-nobody' in it"),
    (["plot"], "mprof plot: No input file found."),
    (["run", "-o", "/dev/full", "true"], "mprof run: /dev/full: No space left on device"),
    (["plot", "nowhere.dat"], "mprof plot: Input file not found: nowhere.dat"),
    (["rm", "nowhere.dat"], "mprof rm: File nowhere.dat not found"),
])
def test_what_cannot_be_done_is_one_line(mprof, words, said):
    done = mprof(*words, status=1)
    assert said.replace("mprof run: ", "") in done.err.decode() and done.err.count(b"\n") == 1


def test_without_matplotlib_a_plot_goes_to_an_svg_and_says_so(mprof, recorded, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "pylab.py").write_text("raise ImportError\n")
    done = mprof("plot", PYTHONPATH=PACKAGE + ":" + str(tmp_path / "none"))
    assert done.out.decode().splitlines() == ["Using last profile data.", "The plot is in mprofile_20260102030405.svg."]
    assert picture(tmp_path / "mprofile_20260102030405.svg")[0]
    done = mprof("plot", "-o", "p.png", status=1, PYTHONPATH=PACKAGE + ":" + str(tmp_path / "none"))
    assert done.err.decode() == "mprof plot: matplotlib is needed for p.png, and is not installed; without it, -o FILE.svg\n"
