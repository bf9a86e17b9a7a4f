"""`heapkeeper flame`: one page and one JSON document whose boxes add up to the report, whatever things are called."""

import json
import os
import subprocess
import textwrap

import pytest

import capture_writer as cw
import pages
from conftest import COMMAND, Runner, build_is_usable, check_real_path, execute
from test_contract_hostile import has_control_bytes

pytestmark = pytest.mark.once

FIGURES = ("live_bytes", "live_blocks", "peak_bytes", "peak_blocks", "total_bytes", "total_blocks")
PROGRAM = """
    def keep(n):
        return [bytes(1000) for _ in range(n)]
    def large(n):
        return bytearray(n)
    def deep(n, i):
        return keep(n) if i == 0 else deep(n, i - 1)
    kept = []
    for i in range(40):
        kept.append(deep(100, i))
    peak = large(20 << 20)
    del peak
    for i in range(3000):
        bytes(300)
"""


def show(*words, status=0, **options):
    done = execute([COMMAND, *map(str, words)], **options)
    assert done.status == status, done.err.decode(errors="replace")
    assert status or done.err == b""
    return done


def tree(capture):
    return json.loads(show("flame", "--json", capture).out.decode("utf-8"))


def page(capture, tmp_path):
    path = tmp_path / "page.html"
    show("flame", "-f", "-o", path, capture)
    return pages.Page(path.read_text(encoding="utf-8"))


def own_sums(nodes, figure):
    return sum(node["own"][figure] for node in nodes if "own" in node)


def names(document):
    return [frame["qualified_name"] for frame in document["frames"]]


@pytest.fixture(scope="module", params=["--exact", "--sample=4K"])
def recorded(request, tmp_path_factory, python):
    reason = build_is_usable()
    if reason:
        pytest.skip(reason)
    runner = Runner(tmp_path_factory.mktemp("flame"), python)
    runner.good(["-I", "-S", "-c", textwrap.dedent(PROGRAM)], options=(request.param,))
    report = runner.report()
    check_real_path(report, python=python, mode=request.param[2:].partition("=")[0])
    return runner.output, report


@pytest.fixture
def shop(tmp_path):
    return str(cw.shop().write(tmp_path / "shop.hkc"))


# ---- sums ----


def test_boxes_add_up_to_the_reports_totals_and_to_its_sites_at_every_mark(recorded):
    capture, report = recorded
    document = tree(capture)
    nodes, totals = document["nodes"], document["totals"]
    for of in ("live", "peak", "total"):
        assert totals[of + "_bytes"] == report["recorder"]["sites_%s_bytes" % of]
    for figure in FIGURES:
        assert totals[figure] == nodes[0][figure] == own_sums(nodes, figure) == sum(s[figure] for s in report["sites"])
    assert len(totals["live_bytes_at"]) == len(document["moments_ns"]) == max(1, len(report["marks"]))
    for i in range(len(report["marks"]) - 1):
        assert totals["live_bytes_at"][i] == sum(site["at_mark"][i] for site in report["sites"])
        assert totals["live_bytes_at"][i] == sum(node["own"]["live_bytes_at"][i] for node in nodes if "own" in node)
        assert document["moments_ns"][i] == report["marks"][i + 1]["time_ns"]
    assert totals["live_bytes_at"][-1] == totals["live_bytes"]


def test_every_box_holds_what_the_boxes_in_it_hold(recorded):
    nodes = tree(recorded[0])["nodes"]
    for figure in FIGURES:
        sums = [node.get("own", {}).get(figure, 0) for node in nodes]
        for i in range(len(nodes) - 1, 0, -1):
            sums[nodes[i]["parent"]] += sums[i]
        assert sums == [node[figure] for node in nodes]


def test_a_path_of_boxes_is_a_stack_of_the_program(recorded):
    document = tree(recorded[0])
    nodes, frames = document["nodes"], document["frames"]
    stacks = set()
    for node in nodes:
        if "own" in node:
            stack = []
            at = node
            while at is not nodes[0]:
                stack.append(frames[at["frame"]]["function"])
                at = nodes[at["parent"]]
            stacks.add(tuple(reversed(stack)))
    assert any(stack[:3] == ("<module>", "deep", "deep") and "keep" in stack[-2:] for stack in stacks)
    assert ("<module>", "large") in stacks


def test_page_holds_the_tree_of_the_json(recorded, tmp_path):
    document, found = tree(recorded[0]), page(recorded[0], tmp_path)
    data = found.data["flame-data"]
    frames, nodes, leaves = pages.unpack_flame(data)
    assert [(node["parent"], node["frame"]) for node in document["nodes"]] == nodes
    assert leaves == {i: [node["own"][f] for f in FIGURES] + node["own"]["live_bytes_at"]
                      for i, node in enumerate(document["nodes"]) if "own" in node}
    assert [(f["qualified_name"], f["line"]) for f in document["frames"]] == [(name, line) for name, _, _, line in frames]
    assert data["moments_ns"] == document["moments_ns"]
    times = [ms for ms, _ in data["timeline"]]
    assert times == sorted(times)


def test_sites_of_one_stack_in_several_domains_are_one_box(tmp_path):
    c = cw.shop()
    main, fill = c.code("main"), c.code("fill")
    node, again = c.stack((main, 3), (fill, 4)), c.stack((main, 3), (fill, 4))
    for domain, at in ((cw.RAW, node), (cw.MEM, node), (cw.OBJECT, again)):
        c.site(at, domain=domain, live_bytes=1000, live_blocks=1, total_bytes=5000, total_blocks=2)
    document = tree(c.write(tmp_path / "c.hkc"))
    box, = [node for node in document["nodes"] if document["frames"][node["frame"]]["function"] == "fill"]
    assert (box["own"]["live_bytes"], box["own"]["total_blocks"]) == (3000, 6)


def test_cut_stacks_are_beneath_dots_and_the_same_frames_elsewhere_are_not(tmp_path):
    c = cw.shop()
    main, fill = c.code("main"), c.code("fill")
    node = c.stack((main, 3), (fill, 4))
    c.site(node, flags=cw.CUT, live_bytes=100, total_bytes=100)
    c.site(node, domain=cw.RAW, live_bytes=10, total_bytes=10)
    c.site(0, flags=cw.OTHER, live_bytes=7, total_bytes=7)
    document = tree(c.write(tmp_path / "c.hkc"))
    nodes, frames = document["nodes"], document["frames"]
    by_path = {}
    for node in nodes[1:]:
        above = nodes[node["parent"]]
        by_path.setdefault((frames[above["frame"]]["function"], frames[node["frame"]]["function"]), []).append(node["live_bytes"])
    assert by_path[("", "...")] == [100] and by_path[("...", "main")] == [100] and by_path[("", "(other)")] == [7]
    assert sorted(by_path[("main", "fill")]) == [10, 100]


def test_native_frames_are_boxes_of_their_library(tmp_path):
    capture = str(cw.database().write(tmp_path / "c.hkc"))
    frames, _, _ = pages.unpack_flame(page(capture, tmp_path).data["flame-data"])
    assert "libsqlite3.so.0" in {group for _, _, group, _ in frames}
    assert "shop" in {group for _, _, group, _ in frames}
    assert any(frame.get("module") == "libsqlite3.so.0" for frame in tree(capture)["frames"])


def test_two_captures_are_compared_stack_by_stack_and_both_add_up(tmp_path):
    before, after = cw.shop(), cw.shop()
    before.sites[0].live_bytes = 10 << 20
    gone, new = before.code("gone"), after.code("new")
    before.site(before.stack((gone, 1)), live_bytes=5 << 20, total_bytes=6 << 20)
    after.site(after.stack((new, 1)), live_bytes=3 << 20, total_bytes=4 << 20)
    old, capture = str(before.write(tmp_path / "a.hkc")), str(after.write(tmp_path / "b.hkc"))
    document = json.loads(show("flame", "--json", "--before", old, capture).out)
    nodes, names_of = document["nodes"], [frame["function"] for frame in document["frames"]]
    found = {names_of[node["frame"]]: (node["live_bytes"], node["before"]["live_bytes"]) for node in nodes}
    assert found["gone"] == (0, 5 << 20) and found["new"] == (3 << 20, 0)
    assert found["remember_order"] == (after.sites[0].live_bytes, 10 << 20)
    for figure in ("live_bytes", "total_bytes"):
        assert nodes[0]["before"][figure] == document["before"][figure] == tree(old)["totals"][figure]
        assert nodes[0][figure] == tree(capture)["totals"][figure]
    assert show("flame", "--before", tmp_path / "none.hkc", capture, status=1).err.count(b"\n") == 1
    assert b"is the capture itself" in show("flame", "--before", old, "-f", "-o", old, capture, status=1).err
    show("flame", "--before", old, "-o", tmp_path / "p.html", capture)
    pages.unpack_flame(pages.Page((tmp_path / "p.html").read_text(encoding="utf-8")).data["flame-data"])


# ---- the page ----


def test_page_loads_nothing_and_forbids_it(shop, tmp_path):
    show("flame", "-o", tmp_path / "p.html", shop)
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    found = pages.Page(text)
    assert found.loads == []
    assert "default-src 'none'" in text and "http://" not in text and "https://" not in text


def test_hostile_names_stay_names(tmp_path):
    capture = str(pages.hostile().write(tmp_path / "c.hkc"))
    found = page(capture, tmp_path)
    clean = pages.Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    ordinary = page(str(cw.shop().write(tmp_path / "s.hkc")), tmp_path)
    assert len(found.scripts) == len(ordinary.scripts) and found.ids == ordinary.ids == clean.ids
    frames, _, _ = pages.unpack_flame(found.data["flame-data"])
    shown = {name for name, _, _, _ in frames}
    assert "</script><script>broken()</script>" in shown and "<!--" in shown and "__proto__" in shown
    assert not any(has_control_bytes(name.encode()) for name in shown)
    assert max(map(len, shown)) < 1100
    assert "</script><script>broken()</script>" in names(tree(capture))
    assert not has_control_bytes(show("flame", "--json", capture).out.replace(b"\n", b""))


def test_a_hundred_thousand_stacks_are_a_page_of_less_than_10_mib(tmp_path):
    capture = str(pages.many().write(tmp_path / "c.hkc"))
    show("flame", "-o", tmp_path / "p.html", capture)
    assert os.path.getsize(tmp_path / "p.html") < 10 << 20
    data = pages.Page((tmp_path / "p.html").read_text(encoding="utf-8")).data["flame-data"]
    _, nodes, leaves = pages.unpack_flame(data)
    assert len(leaves) > 90_000 and len(nodes) > len(leaves)


# ---- odd captures ----


def test_capture_without_sites_is_a_page_with_an_empty_tree(tmp_path):
    capture = str(cw.Capture().write(tmp_path / "c.hkc"))
    assert tree(capture)["totals"]["total_bytes"] == 0
    _, nodes, leaves = pages.unpack_flame(page(capture, tmp_path).data["flame-data"])
    assert nodes == [(0, 0)] and leaves == {}


def test_empty_file_and_cut_file_are_one_line_each_and_no_page(tmp_path):
    empty, cut = tmp_path / "empty.hkc", tmp_path / "cut.hkc"
    empty.write_bytes(b"")
    cut.write_bytes(cw.shop().bytes()[:5000])
    for capture in (empty, cut):
        done = show("flame", "-o", tmp_path / "p.html", capture, status=1)
        assert done.err.count(b"\n") == 1 and capture.name.encode() in done.err and done.out == b""
        assert not (tmp_path / "p.html").exists()


def test_capture_that_is_cut_in_its_sites_shows_the_rest(tmp_path):
    c = cw.shop()
    c.section_changes[cw.SITES] = {"count": 2}
    document = tree(c.write(tmp_path / "c.hkc"))
    assert document["totals"]["live_bytes"] == sum(site.live_bytes for site in c.sites[:2])


@pytest.mark.parametrize("name", [name for name, data in cw.corpus() if data])
def test_captures_of_the_corpus_become_pages(tmp_path, name):
    capture = tmp_path / "c.hkc"
    capture.write_bytes(dict(cw.corpus())[name])
    found = page(str(capture), tmp_path)
    pages.unpack_flame(found.data["flame-data"])
    assert json.loads(show("flame", "--json", capture).out)["format"] == "heapkeeper-flame-1"


def test_a_running_process_is_found_by_its_number(heapkeeper, tmp_path):
    words = heapkeeper.command("import sys; kept = bytearray(3 << 20); print('ready', flush=True); sys.stdin.read()",
                               options=("--exact",))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        document, data = tree(process.pid), page(process.pid, tmp_path).data["flame-data"]
        process.stdin.close()
    assert document["state"] == data["state"] == "running" and document["pid"] == process.pid
    assert document["totals"]["live_bytes"] >= 3 << 20
    assert max(node["own"]["live_bytes"] for node in document["nodes"] if "own" in node) >= 3 << 20


# ---- the command line ----


def test_default_name_is_beside_the_caller_and_is_printed(shop, tmp_path):
    done = show("flame", shop, cwd=tmp_path)
    assert done.out == b"shop.py-4242.flame.html\n" and (tmp_path / "shop.py-4242.flame.html").exists()
    again = show("flame", shop, cwd=tmp_path, status=1)
    assert b"--force" in again.err and again.err.count(b"\n") == 1
    show("flame", "--force", shop, cwd=tmp_path)


def test_default_name_has_no_characters_of_a_hostile_program(tmp_path):
    capture = str(pages.hostile().write(tmp_path / "c.hkc"))
    done = show("flame", capture, cwd=tmp_path)
    assert done.out == b"script_.py-4242.flame.html\n" and (tmp_path / done.out.decode().strip()).exists()


def test_output_may_be_standard_output_and_never_the_capture(shop, tmp_path):
    assert show("flame", "-o", "-", shop).out.startswith(b"<!doctype html>")
    assert b"is the capture itself" in show("flame", "-f", "-o", shop, shop, status=1).err
    assert show("flame", "--json", shop).out.startswith(b"{")
    show("flame", "--json", "-o", tmp_path / "t.json", shop)
    assert json.loads((tmp_path / "t.json").read_text())["nodes"]


@pytest.mark.parametrize("words", [["--nonsense"], ["a", "b"], ["-o"]])
def test_what_is_wrong_with_the_command_line_is_one_line(words):
    done = show("flame", *words, status=2)
    assert done.err.count(b"\n") == 1 and b"flame" in done.err


def test_page_that_cannot_be_written_is_no_page(shop, tmp_path):
    assert b"cannot be written" in show("flame", "-o", tmp_path / "no" / "p.html", shop, status=1).err
    if os.path.exists("/dev/full"):
        assert b"could not be written" in show("flame", "-o", "/dev/full", shop, status=1).err


@pytest.mark.once
def test_figures_from_elsewhere_become_a_page_and_stay_data(shop, tmp_path):
    made = tmp_path / "made.html"
    subprocess.run([COMMAND, "flame", "-o", str(made), str(shop)], check=True, stdout=subprocess.DEVNULL)
    data = pages.Page(made.read_text()).data["flame-data"]
    data["program"] = "</script><script>broken()</script><!--"
    (tmp_path / "data.json").write_text(json.dumps(data))
    done = execute([COMMAND, "flame", "--data", str(tmp_path / "data.json")])
    assert (done.status, done.err) == (0, b"")
    page = pages.Page(done.out.decode())
    assert page.data["flame-data"] == data and page.loads == []
    assert len(page.scripts) == len(pages.Page(made.read_text()).scripts)


@pytest.mark.once
@pytest.mark.parametrize("text, words, status, said", [
    (b"[1]", ["--data", "-"], 1, "flame: - has no object of JSON, which --data takes"),
    (b"{}", ["--data", "/nowhere/data.json"], 1, "flame: /nowhere/data.json: No such file or directory"),
    (b"{}", ["--data", "-", "--json"], 2, "flame: --data has the figures; it goes with -o and --force only"),
])
def test_figures_that_are_none_are_one_line(text, words, status, said):
    done = execute([COMMAND, "flame", *words], input=text)
    assert (done.status, done.out, done.err.decode()) == (status, b"", "heapkeeper: %s\n" % said)
