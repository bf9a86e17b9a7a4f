"""`heapkeeper diff`: what rose and what fell between two captures, or two moments of one."""

import json
import re
import subprocess
import textwrap

import pytest

import capture_writer as cw
from conftest import COMMAND, Runner, build_is_usable
from test_contract_hostile import has_control_bytes
from test_views import evil, show, table

COLUMNS = ("live_bytes", "live_blocks", "peak_bytes", "peak_blocks", "total_bytes", "total_blocks")
PROGRAM = """
    import sys
    n = int(sys.argv[1])
    def keep(n):
        return [bytes(1000) for _ in range(n)]
    def rises(n):
        return list(map(bytearray, [3000] * n))
    def falls(n):
        return list(map(bytearray, [5000] * (900 - n)))
    a, b, c = keep(500), rises(n), falls(n)
"""


def diff(*words):
    return json.loads(show("diff", "--json", *words).out.decode("utf-8"))


def row_of(found, function):
    row, = [row for row in found["rows"] if row["function"].split(".")[-1] == function]
    return row


@pytest.fixture(scope="module")
def pair(tmp_path_factory, python):
    reason = build_is_usable()
    if reason:
        pytest.skip(reason)
    paths = []
    for n in "100", "700":
        runner = Runner(tmp_path_factory.mktemp("diff"), python)
        runner.good(["-I", "-S", "-c", textwrap.dedent(PROGRAM), n], options=("--exact",))
        paths.append(runner.output)
    return paths


def test_threads_of_two_processes_are_told_by_their_names(pair, heapkeeper):
    main, = [row for row in diff("--by", "thread", *pair)["rows"] if row["name"].startswith("main")]
    assert main["name"] == "main" and main["before"]["live_bytes"] > 1 << 20 and main["after"]["live_bytes"] > 1 << 20
    for path in pair:
        assert diff("--by", "thread", path, path)["rows"] == [] == diff("--by", "thread", "--from", "end", path)["rows"]
    program = """
        import sys, threading
        kept = []
        for size in map(int, sys.argv[1:]):
            thread = threading.Thread(target=lambda: kept.append(bytearray(size)))
            thread.start()
            thread.join()
    """
    paths = []
    for sizes in ("1000000", "2000000"), ("7000000",):
        heapkeeper.good(["-c", textwrap.dedent(program), *sizes], options=("--exact",))
        paths.append(heapkeeper.output)
    found = diff("--by", "thread", *paths)
    assert [row["name"].rstrip("0123456789()- ") for row in found["rows"]].count("main") == 1
    others = [row for row in found["rows"] + [found["others"]] if row.get("name") != "main"]
    assert not any(re.search(r"\(\d+\)", row["name"]) for row in found["rows"])
    assert sum(row["change"]["live_bytes"] for row in others) in range(3_900_000, 4_100_000)
    assert found["totals"]["change"]["live_bytes"] == sum(row["change"]["live_bytes"] for row in found["rows"] + [found["others"]])


def test_record_that_has_no_rows_is_refused_with_the_reason(pair, heapkeeper):
    heapkeeper.good("pass", options=("--no-record",))
    off = heapkeeper.output
    heapkeeper.good("pass", options=("--sample",))
    sampled = heapkeeper.output
    for words in ([pair[0], off], [off, pair[0]], ["--from", "start", off]):
        assert b"run with --no-record" in show("diff", *words, status=1).err
    for words in ([pair[0], sampled], [sampled, pair[0]], ["--from", "start", sampled]):
        assert b"does not tell threads apart" in show("diff", "--by", "thread", *words, status=1).err


@pytest.mark.parametrize("by", ("line", "function", "file", "module", "domain"))
def test_rows_add_up_to_the_difference_of_both_tables(pair, by):
    before, after = (table(path, "--by", by)["totals"] for path in pair)
    for words in ((), ("--limit", "2"), ("--filter", "rises"), ("--sort", "total")):
        found = diff("--by", by, *words, *pair)
        parts = found["rows"] + [found["others"]]
        for name in COLUMNS:
            assert sum(row["before"][name] for row in parts) == found["totals"]["before"][name] == before[name]
            assert sum(row["after"][name] for row in parts) == found["totals"]["after"][name] == after[name]
            assert sum(row["change"][name] for row in parts) == found["totals"]["change"][name] == after[name] - before[name]
        assert all(row["change"][name] == row["after"][name] - row["before"][name] for row in parts for name in COLUMNS)


def test_largest_changes_come_first_whichever_way_they_went(pair):
    found = diff("--by", "function", *pair)
    assert [row["function"] for row in found["rows"][:2]] == ["falls", "rises"]
    sizes = [abs(row["change"]["live_bytes"]) for row in found["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    changes = [row["change"]["live_bytes"] for row in found["rows"][:2]]
    assert -3_100_000 < changes[0] < -3_000_000 and 1_800_000 < changes[1] < 1_900_000
    assert all(any(row["change"].values()) for row in found["rows"]), "what did not change is in the others"


def test_capture_compared_with_itself_has_no_rows(pair):
    found = diff(pair[0], pair[0])
    assert found["rows"] == [] and not any(found["totals"]["change"].values())
    text = show("diff", pair[0], pair[0]).out.decode()
    assert re.search(r"0 B +0 .* others\n", text)


def test_what_only_one_has_stands_beside_nothing(tmp_path):
    one, two = cw.shop(), cw.shop()
    one.site(one.stack((one.code("gone"), 3)), live_bytes=5000, live_blocks=2, total_bytes=6000, total_blocks=3)
    two.site(two.stack((two.code("born"), 3)), live_bytes=9000, live_blocks=4, total_bytes=9000, total_blocks=4)
    found = diff(one.write(tmp_path / "a.hkc"), two.write(tmp_path / "b.hkc"))
    assert {row["function"]: (row["before"]["live_bytes"], row["after"]["live_bytes"]) for row in found["rows"]} == {
        "gone": (5000, 0), "born": (0, 9000)}
    text = show("diff", tmp_path / "a.hkc", tmp_path / "b.hkc").out.decode().splitlines()
    assert re.match(r" +\+8\.79 KiB .* born$", text[5]) and re.match(r" +-4\.88 KiB .* gone$", text[6])


def test_sampled_changes_have_their_standard_error(tmp_path):
    found = diff(cw.shop().write(tmp_path / "a.hkc"), cw.shop().write(tmp_path / "b.hkc"))
    error = found["others"]["standard_error"]["live_bytes"]
    live = found["totals"]["after"]["live_bytes"]
    assert 0.9 * (2 * 65536 * live) ** 0.5 < error < 1.1 * (2 * 65536 * live) ** 0.5
    text = show("diff", "--from", "50%", tmp_path / "a.hkc", env={"LC_ALL": "C"}).out.decode()
    assert re.search(r"\+30\.5 MiB +\+-1\.23 MiB .*remember_order\n", text), text


# ---- moments ----


def test_two_moments_of_one_capture_are_what_its_marks_say(tmp_path):
    path = cw.shop(spans=12, seconds=12.0).write(tmp_path / "x.hkc")
    found = diff("--from", "25%", "--to", "75%", path)
    assert (found["before"]["time_ns"], found["after"]["time_ns"]) == (3_000_000_000, 9_000_000_000)
    assert found["moments_ns"] == [i * 1_000_000_000 for i in range(13)]
    row, = found["rows"]
    span = 61 * 1024 // 12 * 1024
    assert row["function"] == "remember_order" and row["change"]["live_bytes"] == 6 * span
    assert (row["before"]["live_bytes"], row["after"]["live_bytes"]) == (3 * span, 9 * span)
    assert found["totals"]["change"]["live_bytes"] == 6 * span
    for word in "@3", "3s", "3000ms", "0.05min", "@3.4", "25%", "26.3%":
        assert diff("--from", word, path)["before"]["time_ns"] == 3_000_000_000, word
    for late in "1h", "9999999999999999s":
        assert diff("--from", "@3", "--to", late, path)["after"]["time_ns"] == 12_000_000_000


def test_from_the_start_to_the_end_is_exactly_what_is_live(pair):
    found = diff("--from", "start", "--to", "end", pair[0])
    assert found["totals"]["change"]["live_bytes"] == table(pair[0])["totals"]["live_bytes"]
    assert {row["name"]: row["after"]["live_bytes"] for row in found["rows"]} == {
        row["name"]: row["live_bytes"] for row in table(pair[0])["rows"] if row["live_bytes"]}


def test_a_killed_process_shows_what_rose_before_it_died(heapkeeper):
    words = heapkeeper.command("""
        kept = []
        def swallow():
            kept.append(bytearray(100_000))
        import itertools
        for i in itertools.count():
            swallow()
            if i == 1500:
                print("large", flush=True)
    """, options=("--exact",))
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"large\n"
        process.kill()
    found = diff("--from", "20%", heapkeeper.output)
    assert found["after"]["state"] == "killed"
    assert found["rows"][0]["function"] == "swallow" and found["rows"][0]["change"]["live_bytes"] > 20 << 20


# ---- errors ----


@pytest.mark.parametrize("words, wanted", [
    ([], b"needs two captures"), (["a"], b"needs two captures"), (["a", "b", "c"], b"two captures at most"),
    (["--from", "start", "a", "b"], b"second one"), (["--from", "1%", "--sort", "blocks", "a"], b"only what was live"),
    (["--by", "colour", "a", "b"], b"line, function, file, module, domain, size or thread"), (["--sort", "size", "a", "b"], b"live, peak, total or blocks"),
    (["--limit", "x", "a", "b"], b"number of rows"), (["--nonsense"], b"unknown option"),
])
def test_wrong_command_lines_are_one_line_and_status_2(words, wanted):
    done = show("diff", *words, status=2)
    assert done.out == b"" and re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err) and wanted in done.err


@pytest.mark.parametrize("word", ["", "3", "30", "-1%", "101%", "noon", "@", "@-1", "@nan", "3x", "\x1b[2J%"])
def test_moments_that_are_none_name_those_there_are(pair, word):
    done = show("diff", "--from", word, pair[0], status=2)
    assert re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err) and b"write start, end" in done.err and not has_control_bytes(done.err[:-1])


def test_moments_in_the_wrong_order_are_told(pair):
    assert b"is later than" in show("diff", "--from", "end", "--to", "start", pair[0], status=2).err


def test_missing_and_damaged_captures_are_told(pair, tmp_path):
    (tmp_path / "text").write_text("no capture")
    for words in ([pair[0], tmp_path / "missing"], [tmp_path / "missing", pair[0]], [pair[0], tmp_path / "text"],
                  ["--from", "1%", tmp_path / "text"]):
        done = show("diff", *words, status=1)
        assert done.out == b"" and re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err)


def test_hostile_names_do_not_reach_the_terminal(tmp_path):
    path, other = evil(tmp_path), str(cw.shop().write(tmp_path / "x.hkc"))
    for words in ([path, other], [other, path], ["--from", "10%", path]):
        for form in ([], ["--json"], ["--by", "file"]):
            out = show("diff", *form, *words).out
            assert not has_control_bytes(out) and b"\xe2\x80\xae" not in out


def test_closed_output_is_told(pair):
    with open("/dev/full", "w") as full:
        done = subprocess.run([COMMAND, "diff", *pair], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1 and b"could not be written" in done.stderr
