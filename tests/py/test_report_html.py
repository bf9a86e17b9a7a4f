"""`heapkeeper report --html`: the text report's lists, sentences and figures in a page that needs nothing else."""

import json
import re

import pytest

import capture_writer as cw
import pages
from conftest import COMMAND, Runner, build_is_usable, execute
from test_contract_hostile import has_control_bytes

pytestmark = pytest.mark.once

MIB = 1 << 20


def show(*words, status=0, **options):
    done = execute([COMMAND, *map(str, words)], **options)
    assert done.status == status, done.err.decode(errors="replace")
    assert status or done.err == b""
    return done


def page(capture, tmp_path, *words):
    show("report", "--html", "-f", "-o", tmp_path / "page.html", *words, capture)
    return pages.Page((tmp_path / "page.html").read_text(encoding="utf-8"))


def words_of(found):
    return re.sub(r"\s+", " ", " ".join(found.text))


def text_report(capture, *words):
    done = show("report", "--color", "never", *words, capture, env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"})
    return done.out.decode("utf-8")


def rows_of_text(text):
    """The lists of the text report: (amount, share, place) of each row, in order."""
    return [match.groups() for match in re.finditer(r"^ {3,}\+?(\d[\d.]* [KMGT]?i?B) +(?:±\d+%)? +(<?[\d.]+%)  (\S.*?)  +\S+$", text, re.M)]


@pytest.fixture
def shop(tmp_path):
    return str(cw.shop().write(tmp_path / "shop.hkc"))


def test_page_has_the_rows_of_the_text_in_its_order(shop, tmp_path):
    words, rows = words_of(page(shop, tmp_path)), rows_of_text(text_report(shop))
    assert len(rows) >= 3
    at = words.index("Growing")
    for amount, share, place in rows:
        at = words.index(place, words.index(share, words.index(amount, at)))


def test_page_says_the_sentences_of_the_text(shop, tmp_path):
    words = words_of(page(shop, tmp_path))
    text = text_report(shop)
    for heading in ("HEAP", "OUTSIDE", "RECORDER", "NOTES"):
        match = re.search(r"^%s +(.*)$" % heading, text, re.M)
        assert match is None or re.sub(r"\s+", " ", match.group(1)) in words
    assert "main:140 › handle:61 › remember_order:88" in words
    for figure in ("peak 153 MiB", "live at the end 153 MiB", "peak resident size 233 MiB"):
        assert figure in words


def test_page_of_a_real_run_has_its_report_and_its_flame_graph(tmp_path, python):
    reason = build_is_usable()
    if reason:
        pytest.skip(reason)
    runner = Runner(tmp_path, python)
    runner.good(["-I", "-S", "-c", "keep = [bytes(1000) for _ in range(9000)]"], options=("--exact",))
    report = runner.report()
    found = page(runner.output, tmp_path)
    assert report["program"] in words_of(found)
    _, _, leaves = pages.unpack_flame(found.data["flame-data"])
    assert sum(figures[0] for figures in leaves.values()) == report["recorder"]["sites_live_bytes"]


def test_page_of_an_exact_run_says_how_long_blocks_of_a_line_live_and_how_large_they_were(shop, tmp_path, python):
    assert "freed soon" not in words_of(page(shop, tmp_path))  # sampled: nobody knows
    reason = build_is_usable()
    if reason:
        pytest.skip(reason)
    runner = Runner(tmp_path, python)
    runner.good(["-I", "-S", "-c", "keep = list(map(bytes, [1000] * 9000 + [123456]))"], options=("--exact",))
    line = max(runner.report()["lines"], key=lambda line: line["live_bytes"])
    words = words_of(page(runner.output, tmp_path))
    assert "freed soon largest block" in words
    assert re.search(r" %.0f%% 121 KiB " % (100 * line["temporary_share"]), words) and line["largest_bytes"] == 123456 + 33


def test_page_loads_nothing(shop, tmp_path):
    assert page(shop, tmp_path).loads == []
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) <= {"http://www.w3.org/2000/svg"}


def test_hostile_names_stay_names(tmp_path):
    found = page(str(pages.hostile().write(tmp_path / "c.hkc")), tmp_path, "--top", "40")
    ordinary = page(str(cw.shop().write(tmp_path / "s.hkc")), tmp_path)
    assert len(found.scripts) == len(ordinary.scripts)
    words = words_of(found)
    assert "</script><script>broken()</script>" in words and "a note" in words
    assert not has_control_bytes(words.encode())


def test_top_is_the_length_of_the_lists(tmp_path):
    c = cw.shop()
    for i in range(30):
        c.site(c.stack((c.code("f%d" % i), 1)), live_bytes=(40 + i) * MIB, total_bytes=(40 + i) * MIB, live_blocks=1, total_blocks=1)
    capture = str(c.write(tmp_path / "c.hkc"))
    words = words_of(page(capture, tmp_path, "--top", "5"))
    assert "in f29" in words and "in f20" not in words and "other lines" in words


def test_other_processes_of_the_run_are_in_a_table(tmp_path):
    for i, pid in enumerate((4242, 4243)):
        c = cw.shop()
        c.header.update(pid=pid, start_realtime_ns=c.header["start_realtime_ns"] + i)
        c.write(tmp_path / ("c%d.hkc" % pid))
    words = words_of(page(str(tmp_path / "c4242.hkc"), tmp_path))
    assert "Processes" in words and "4243" in words and "growing: +" in words
    assert "pid 4243" in words_of(page(str(tmp_path / "c4242.hkc"), tmp_path, "--pid", "4243"))


@pytest.mark.parametrize("name", [name for name, data in cw.corpus() if data])
def test_captures_of_the_corpus_become_pages(tmp_path, name):
    (tmp_path / "c.hkc").write_bytes(dict(cw.corpus())[name])
    page(str(tmp_path / "c.hkc"), tmp_path)


def test_capture_without_figures_is_a_short_page(tmp_path):
    words = words_of(page(str(cw.Capture().write(tmp_path / "c.hkc")), tmp_path))
    assert "No figures" in words and "Flame graph" not in words


def test_default_name_is_printed_and_never_written_over(shop, tmp_path):
    assert show("report", "--html", shop, cwd=tmp_path).out == b"shop.py-4242.report.html\n"
    assert b"--force" in show("report", "--html", shop, cwd=tmp_path, status=1).err
    show("report", "--html", "-f", shop, cwd=tmp_path)
    assert show("report", "--html", "-o", "-", shop).out.startswith(b"<!doctype html>")


def test_output_serves_text_and_json_too(shop, tmp_path):
    show("report", "-o", tmp_path / "r.txt", shop)
    assert "GROWING" in (tmp_path / "r.txt").read_text()
    show("report", "--json", "-o", tmp_path / "r.json", shop)
    assert json.loads((tmp_path / "r.json").read_text())["format"] == "heapkeeper-report-1"
    assert b"one of" in show("report", "--json", "--html", shop, status=2).err
