"""`heapkeeper plot` and stretches of a program that have a name: calls of profiled functions, and what heapkeeper.span names."""

import json
import re
import textwrap
import xml.etree.ElementTree

import pytest

import capture_writer as cw
from conftest import ENVIRONMENT, execute
from test_contract_hostile import has_control_bytes
from test_plot import pixels, plot
from test_views import show

MIB = 1 << 20
SVG = "{http://www.w3.org/2000/svg}"
SECOND = 1_000_000_000


def spans(*words):
    return plot(*words)["spans"]


def by_name(found):
    names = {}
    for span in found:
        names.setdefault(span["name"], []).append(span)
    return names


# ---- made captures ----


@pytest.fixture
def named(tmp_path):
    c = cw.shop()
    c.header["minor"] = 6
    c.thread(4242, "python3")
    c.thread(4250, "worker <1>")
    load = c.code("load", file="/srv/shop/load.py", first_line=12, qualified_name="Shop.load")
    c.span(2 * SECOND, 8 * SECOND, code=load, begin_bytes=90 * MIB, end_bytes=120 * MIB, begin_rss_bytes=100 * MIB, end_rss_bytes=140 * MIB)
    c.span(3 * SECOND, 4 * SECOND, "parse")
    c.span(5 * SECOND, 0, "wait", thread=4250)
    c.span(4 * SECOND, 5 * SECOND, "parse")
    c.span(9 * SECOND, 10 * SECOND, "gone", serial=0)
    c.span(9 * SECOND, 10 * SECOND, "torn", sequence=7)
    c.status["spans_left_out"] = 3
    return str(c.write(tmp_path / "named.hkc"))


@pytest.mark.once
def test_spans_lie_in_rows_of_their_thread_below_those_they_are_in(named):
    found = plot(named)
    rows = {(s["name"], s["begin_ns"] // SECOND): (s["row"], s["thread"], s["end_ns"] // 10**8, s["ended"]) for s in found["spans"]}
    assert rows == {("Shop.load", 2): (0, "main thread", 80, True), ("parse", 3): (1, "main thread", 40, True),
                    ("parse", 4): (1, "main thread", 50, True), ("wait", 5): (2, "worker <1>", 124, False)}
    load = found["spans"][0]
    assert (load["file"], load["line"]) == ("load.py", 12) and "file" not in found["spans"][1]
    assert (load["begin_live_bytes"], load["end_rss_bytes"]) == (90 * MIB, 140 * MIB)
    assert found["spans_left_out"] == 3 and found["seconds"] == 12.4
    assert plot("--run", named)["spans"] == []


@pytest.mark.once
def test_text_draws_each_span_over_its_time_and_lists_the_names(named):
    text = show("plot", named, env={"LC_ALL": "C.UTF-8", "COLUMNS": "110"}).out.decode()
    rows = text.splitlines()
    load = next(row for row in rows if "├ Shop.load ─" in row)
    axis = next(row for row in rows if "└┬" in row)
    width = len(axis) - axis.index("└") - 1
    start, end = (load.index(edge) - axis.index("└") - 1 for edge in "├┤")
    assert abs(start - width * 2 / 12.4) <= 1 and abs(end + 1 - width * 8 / 12.4) <= 1 and load.rstrip().endswith("main thread")
    parse = rows[rows.index(load) + 1]
    assert parse.count("├") == 2 and load.index("├") < parse.index("├") < parse.rindex("┤") < load.index("┤")
    wait = rows[rows.index(load) + 2]
    assert "├ wait ─" in wait and "┤" not in wait and wait.rstrip().endswith("worker <1>")
    assert re.search(r"^ +wait +7\.40 s +live .* to 153 MiB, not ended$", text, re.M)
    assert re.search(r"^ +parse +2 times, 2\.00 s +live 0 B to 0 B$", text, re.M) and "3 short ones are left out" in text
    assert text.index("Shop.load  ") < text.index("parse   "), "longest first"
    for width in 60, 90:
        out = show("plot", named, env={"LC_ALL": "C", "COLUMNS": str(width)}).out
        assert all(byte < 128 for byte in out) and b"[ " in out
        assert max(len(row) for row in out.decode().splitlines() if "[" in row) <= width


@pytest.mark.once
def test_svg_has_a_flame_below_and_brackets_on_the_line_of_what_lives(named, tmp_path):
    show("plot", "-o", tmp_path / "plot.svg", named)
    root = xml.etree.ElementTree.parse(str(tmp_path / "plot.svg")).getroot()
    groups = [g for g in root.iter(SVG + "g") if g.get("class", "").startswith("span")]
    titles = [g.find(SVG + "title").text for g in groups]
    assert titles[0] == "Shop.load (load.py:12): 6.00 s, live 90.0 MiB to 120 MiB, RSS 100 MiB to 140 MiB" and len(groups) == 4
    assert [g.get("class") for g in groups].count("span open") == 1 and "not ended" in titles[3]
    boxes = [{k: float(g.find(SVG + "rect").get(k)) for k in ("x", "y", "width", "height")} for g in groups]
    bottom = float(root.get("viewBox").split()[3])
    axis = max(float(line.get("y2")) for line in root.iter(SVG + "line") if line.get("class") == "axis")
    assert all(axis < box["y"] and box["y"] + box["height"] <= bottom for box in boxes)
    assert boxes[1]["y"] > boxes[0]["y"] and boxes[0]["x"] < boxes[1]["x"] < boxes[1]["x"] + boxes[1]["width"] <= boxes[2]["x"] + 0.2
    brackets = [p for p in root.iter(SVG + "path") if p.get("class", "").startswith("bracket")]
    assert len(brackets) == 4 and [p.get("d").count("M") for p in brackets] == [2, 2, 2, 1], "one that has not ended does not close"
    labels = [g.find(SVG + "text").text for g in groups]
    assert labels[0] == "Shop.load" and labels[3] == "wait (not ended)"
    words = "".join(root.itertext())
    assert "worker <1>" in words and "3 short ones are left out" in words


@pytest.mark.once
def test_png_grows_by_its_flame(named, shop_without, tmp_path):
    with_spans, without = (pixels(show("plot", "--format", "png", path).out) for path in (named, shop_without))
    assert len(with_spans) > len(without) and len(with_spans[0]) == len(without[0])
    below = {pixel for row in with_spans[len(without):] for pixel in row}
    assert len(below) > 3 and b"\x09\x69\xda" in below


@pytest.fixture
def shop_without(tmp_path):
    return str(cw.shop().write(tmp_path / "shop.hkc"))


@pytest.mark.once
def test_a_recursions_time_is_told_once(tmp_path):
    c = cw.shop()
    c.header["minor"] = 6
    for depth in range(5):
        c.span(depth * SECOND, (11 - depth) * SECOND, "deeper")
    c.span(5 * SECOND, 6 * SECOND, "deeper", thread=4250)
    text = show("plot", c.write(tmp_path / "c.hkc")).out.decode()
    assert re.search(r"^ +deeper +6 times, 12\.0 s ", text, re.M), text


@pytest.mark.once
def test_a_capture_of_before_is_drawn_as_before(shop_without):
    found = plot(shop_without)
    assert found["spans"] == [] and found["spans_left_out"] == 0
    assert b"left out" not in show("plot", shop_without).out


@pytest.mark.once
def test_hostile_spans_are_drawn_without_harm(tmp_path):
    c = cw.shop()
    c.header["minor"] = 6
    bad = "\x1b[2J\u202e<script>&\"'%s%n"
    evil = c.code(bad, file=b"/\xff\x1b]0;x\x07/../" + b"a" * 5000, first_line=-5)
    for i in range(3000):
        c.span(i, i * 4_000_000 + 1, bad + str(i % 700), thread=i % 100)
    for begin, end in ((0, 0), ((1 << 64) - 1, 0), (1 << 63, (1 << 64) - 1), (0, (1 << 64) - 1), (5, 5)):
        c.span(begin, end, code=evil, begin_bytes=(1 << 64) - 1, end_bytes=1 << 63, begin_rss_bytes=1, end_rss_bytes=(1 << 64) - 1)
    c.span(1, 2, code=0xffffffff)
    c.status["spans_left_out"] = (1 << 64) - 1
    path = str(c.write(tmp_path / "hostile.hkc"))
    for words in ([], ["--json"], ["--format", "svg"], ["--run"]):
        for locale in "C.UTF-8", "C":
            out = show("plot", *words, path, env={"LC_ALL": locale}).out
            assert not has_control_bytes(out) and (b"<script" not in out or "svg" not in words)
            assert b"\xe2\x80\xae" not in out
    root = xml.etree.ElementTree.fromstring(show("plot", "--format", "svg", path).out.decode("utf-8"))
    assert float(root.get("viewBox").split()[3]) < 1200, "rows are bounded"
    pixels(show("plot", "--format", "png", path).out)
    found = plot(path)
    assert len(found["spans"]) <= 2000 and max(span["row"] for span in found["spans"]) < 24
    json.dumps(found)


# ---- programs ----


@pytest.fixture
def run(heapkeeper, tmp_path):
    """Runs a program from a file; its capture."""

    def go(code, options=("--exact",), status=0):
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(code))
        done = heapkeeper.run([str(program)], options=options, env=ENVIRONMENT)
        assert done.status == status, done.err.decode(errors="replace")[-3000:]
        return heapkeeper.output

    return go


@pytest.mark.parametrize("mode", ["--exact", "--sample"])
def test_what_a_program_names_is_nested_and_has_what_lived_then(run, mode):
    capture = run("""
        import heapkeeper, threading, time
        kept = []
        with heapkeeper.span("outer"):
            with heapkeeper.span("grow"):
                kept.append(bytearray(20 << 20))
                time.sleep(0.03)
            with heapkeeper.span("shrink"):
                kept.clear()
                time.sleep(0.03)

        @heapkeeper.span("work")
        def work(depth):
            if depth:
                work(depth - 1)

        thread = threading.Thread(target=work, args=(3,))
        thread.start()
        thread.join()
    """, options=(mode,))
    found = by_name(spans(capture))
    (outer,), (grow,), (shrink,) = found["outer"], found["grow"], found["shrink"]
    assert all(span["ended"] for spans_ in found.values() for span in spans_)
    assert outer["begin_ns"] <= grow["begin_ns"] < grow["end_ns"] <= shrink["begin_ns"] < shrink["end_ns"] <= outer["end_ns"]
    assert (outer["row"], grow["row"], shrink["row"]) == (0, 1, 1) and outer["thread"] == "main thread"
    near = 4 * MIB if mode == "--sample" else MIB  # one small block that is sampled stands for some hundred KiB
    assert abs(grow["end_live_bytes"] - grow["begin_live_bytes"] - 20 * MIB) < near
    assert abs(shrink["begin_live_bytes"] - shrink["end_live_bytes"] - 20 * MIB) < near
    assert grow["end_rss_bytes"] > 19 * MIB and grow["begin_rss_bytes"] > 0
    work = found["work"]
    assert sorted(span["row"] for span in work) == [2, 3, 4, 5] and {span["thread"] for span in work} != {"main thread"}


PROFILED = """
    import time
    from heapkeeper import profile

    @profile
    def outer():
        kept = inner(10)
        time.sleep(0.002)
        return kept

    @profile
    def inner(n):
        return [bytearray(1 << 20) for _ in range(n)]

    @profile
    def numbers():
        for i in range(3):
            yield i
            time.sleep(0.002)

    @profile
    def quick():
        pass
"""


def test_calls_of_profiled_functions_are_spans(run):
    capture = run(PROFILED + """
    kept = outer()
    for _ in numbers():
        pass
    for _ in range(20000):
        quick()
    try:
        inner(None)
    except TypeError:
        pass
    """)
    found = plot(capture)
    names = by_name(found["spans"])
    (outer,), inner, numbers = names["outer"], names["inner"], names["numbers"]
    assert outer["file"].endswith(".py") and outer["line"] > 3 and all(span["ended"] for span in found["spans"])
    assert len(inner) == 2 and inner[0]["row"] == outer["row"] + 1 and outer["begin_ns"] <= inner[0]["begin_ns"] < inner[0]["end_ns"] <= outer["end_ns"]
    assert 9 * MIB < inner[0]["end_live_bytes"] - inner[0]["begin_live_bytes"] < 11 * MIB
    assert len(numbers) == 4, "a generator's stretches: three that yield, and the last"
    assert len(names["quick"]) < 2000 and found["spans_left_out"] + len(found["spans"]) == 1 + 2 + 4 + 20000


def test_a_long_call_of_a_function_that_was_quick_is_found(run):
    capture = run("""
        import time
        from heapkeeper import profile

        @profile
        def mostly_quick(i):
            time.sleep(0.05 if i == 900 else 0)
            return bytearray(5 << 20) if i == 900 else None

        kept = [mostly_quick(i) for i in range(1000)]
    """)
    def growth(span):
        return span["end_live_bytes"] - span["begin_live_bytes"]
    long = max(spans(capture), key=growth)  # on a busy machine another call may last as long
    assert long["name"] == "mostly_quick" and long["end_ns"] - long["begin_ns"] >= 50_000_000
    assert 4 * MIB < growth(long) < 6 * MIB


def test_spans_of_a_killed_program_are_there_and_have_not_ended(run):
    capture = run(PROFILED + """
    import heapkeeper, os, signal
    with heapkeeper.span("done"):
        pass
    with heapkeeper.span("first"):
        @profile
        def last():
            os.kill(os.getpid(), signal.SIGKILL)
        last()
    """, status=-9)
    found = by_name(spans(capture))
    assert found["done"][0]["ended"] and not found["first"][0]["ended"] and not found["last"][0]["ended"]
    assert b"not ended" in show("plot", capture).out


def test_a_child_has_spans_of_its_own(run):
    capture = run("""
        import heapkeeper, os, time
        with heapkeeper.span("parent"):
            pid = os.fork()
            if pid == 0:
                with heapkeeper.span("child"):
                    kept = [bytes(1000) for _ in range(100000)]
                    time.sleep(0.02)
            else:
                os.waitpid(pid, 0)
        if pid:
            print(pid)
    """, options=("--exact",))
    found = by_name(spans(capture))
    assert list(found) == ["parent"] and found["parent"][0]["ended"]
    children = [line for line in plot("--run", capture)["lines"] if line["name"] != "all"]
    child = next(name for name in (line["name"].split()[-1] for line in children) if name != str(plot(capture)["pid"]))
    found = by_name(spans("%s.%s" % (capture, child)))
    assert list(found) == ["child"] and found["child"][0]["ended"]


def test_without_a_record_a_span_is_nothing(run):
    capture = run("""
        import asyncio, heapkeeper

        @heapkeeper.span("work")
        async def work():
            await asyncio.sleep(0)
            return 5

        with heapkeeper.span("a") as named:
            assert asyncio.run(work()) == 5 and work.__name__ == "work" and repr(named) == "<heapkeeper.span 'a'>"
        try:
            with heapkeeper.span("b"):
                raise KeyError
        except KeyError:
            pass
    """, options=("--no-record",))


def test_coroutines_that_take_turns_lie_beside_one_another(run):
    capture = run("""
        import asyncio, heapkeeper

        @heapkeeper.span("turn")
        async def turn():
            await asyncio.sleep(0.02)

        async def both():
            await asyncio.gather(turn(), turn())

        asyncio.run(both())
    """)
    assert [span["row"] for span in by_name(spans(capture))["turn"]] == [0, 1]


def test_memory_profilers_functions_and_blocks_are_spans(run):
    capture = run("""
        import time
        from memory_profiler import TimeStamper, profile

        @profile
        def lines():
            time.sleep(0.002)
            return [0] * 1000

        stamper = TimeStamper("psutil")

        @stamper
        def stamped():
            with stamper.timestamp("block"):
                return [0] * 1000

        lines()
        stamped()
    """, options=("--memory-profiler",))
    found = by_name(spans(capture))
    assert {"lines", "stamped", "block"} <= set(found) and found["block"][0]["row"] == found["stamped"][0]["row"] + 1


@pytest.mark.once
def test_mprof_takes_a_captures_spans_for_calls(named, python):
    code = "import json, sys; from heapkeeper import mprof; print(json.dumps(mprof.read_mprofile_file(sys.argv[1])['func_timestamp']))"
    calls = execute([python.path, "-c", code, named], env=ENVIRONMENT).json
    assert {name: len(stamps) for name, stamps in calls.items()} == {"Shop.load": 1, "parse": 2, "wait": 1}
    assert calls["Shop.load"] == [[2.0, 8.0, 90.0, 120.0, 0]]
