"""`heapkeeper table` and `heapkeeper export`: the same sums as the report's, in rows and in other tools' formats."""

import csv
import io
import json
import os
import re
import subprocess

import pytest

import capture_writer as cw
from conftest import COMMAND, check_real_path, execute, read_terminal, recorded_exactly
from test_contract_hostile import has_control_bytes

BY = ("line", "function", "file", "module", "domain", "size")
SORT = {"live": "live_bytes", "peak": "peak_bytes", "total": "total_bytes", "blocks": "live_blocks"}
COLUMNS = ("live_bytes", "live_blocks", "peak_bytes", "peak_blocks", "total_bytes", "total_blocks", "samples")
OF = ("live", "peak", "total")
PROGRAM = """
    def keep(n):
        return [bytes(1000) for _ in range(n)]
    def large(n):
        return bytearray(n)
    def two_lines(n):
        first = bytearray(n)
        second = bytearray(2 * n)
        return first, second
    def passing(n):
        for _ in range(n):
            bytes(300)
    kept = keep(700)
    peak = large(20 << 20)
    del peak
    passing(5000)
    other = large(1 << 20)
    pair = two_lines(50000)
"""


def show(*words, status=0, **options):
    done = execute([COMMAND, *map(str, words)], **options)
    assert done.status == status, done.err.decode(errors="replace")
    assert status or done.err == b""
    return done


def table(capture, *words):
    return json.loads(show("table", "--json", *words, capture).out.decode("utf-8"))


def export(capture, format, *words):
    return show("export", "--format", format, *words, capture).out


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, python):
    """The program's capture and its report, made once."""
    runner = recorded_exactly(tmp_path_factory, python, PROGRAM)
    report = runner.report()
    check_real_path(report, python=python, mode="exact")
    return runner.output, report


@pytest.fixture
def exact(recorded):
    return recorded[0]


@pytest.fixture
def report(recorded):
    return recorded[1]


@pytest.fixture
def shop(tmp_path):
    return str(cw.shop().write(tmp_path / "shop.hkc"))


@pytest.fixture
def mixed(tmp_path):
    return str(cw.database().write(tmp_path / "mixed.hkc"))


def evil(tmp_path):
    """Names that would break each format if they got through, and words that look like ours."""
    c = cw.shop()
    for name in (b"a\nb", b"a;b", b'a"b', b"a,b", b"\xff\xfe", b"back\\slash", b"\\x3b", b"=cmd()", b"ends 12", b"\x1b[2J\x9b31m",
                 b"\xe2\x80\xae", b"(other) 7", b"...", b" ", b"%s%n", b"\x00"[:0] + b"caf\xc3\xa9"):
        inner = c.code(name, file=b"/tmp/" + name + b".py", qualified_name=name)
        outer = c.code(name, file=b"", qualified_name=name)
        c.site(c.stack((outer, 1), (inner, 2)), live_bytes=1 << 20, live_blocks=3, total_bytes=2 << 20, total_blocks=9)
        c.site(c.stack((inner, 1), (outer, 2)), live_bytes=1 << 20, live_blocks=3, total_bytes=2 << 20, total_blocks=9)
    return str(c.write(tmp_path / "evil.hkc"))


def sums(rows):
    return {name: sum(row[name] for row in rows) for name in COLUMNS}


def plain(amounts):
    return {name: amounts[name] for name in COLUMNS}


def unescaped(text):
    """What stands for a name in collapsed stacks and CSV, back to its bytes."""
    return re.sub(rb"\\(\\|x([0-9a-f]{2}))", lambda m: bytes.fromhex(m.group(2).decode()) if m.group(2) else b"\\", text)


# ---- table ----


@pytest.mark.parametrize("by", BY)
def test_rows_of_every_grouping_add_up_to_the_reports_totals(exact, report, by):
    found = table(exact, "--by", by)
    assert found["by"] == by and found["others"]["rows"] == 0
    assert sums(found["rows"]) == plain(found["totals"]) == sums(
        [dict(site, samples=site["samples"]) for site in report["sites"]])
    for name in OF:
        assert found["totals"][name + "_bytes"] == report["recorder"]["sites_%s_bytes" % name]
    names = [row["name"] for row in found["rows"]]
    assert len(set(names)) == len(names) == found["totals"]["rows"]


def test_function_has_what_its_lines_have(exact):
    lines = [row for row in table(exact)["rows"] if row["function"] == "two_lines"]
    function, = [row for row in table(exact, "--by", "function")["rows"] if row["function"] == "two_lines"]
    assert len(lines) >= 2 and sums(lines) == plain(function) and 150000 <= function["live_bytes"] < 151000
    lines = [row for row in table(exact)["rows"] if row["function"] == "large"]
    function, = [row for row in table(exact, "--by", "function")["rows"] if row["function"] == "large"]
    assert sums(lines) == plain(function)
    assert (20 << 20) + (1 << 20) <= function["total_bytes"] < (21 << 20) + 5000
    assert 1 << 20 <= function["live_bytes"] < (1 << 20) + 5000
    assert 20 << 20 <= function["peak_bytes"] < (20 << 20) + 5000
    assert function["total_blocks"] >= 4 and 1 <= function["live_blocks"] <= 4


def test_domains_are_those_of_the_report(exact, report):
    domains = {row["name"]: row["total_bytes"] for row in table(exact, "--by", "domain")["rows"]}
    wanted = {name: domain["sites_total_bytes"] for name, domain in report["recorder"]["domains"].items()}
    assert domains == {name: wanted[name] for name in domains} and sum(domains.values()) == sum(wanted.values())


@pytest.mark.parametrize("sort, key", SORT.items())
def test_rows_are_sorted_by_what_was_asked_for(exact, sort, key):
    values = [row[key] for row in table(exact, "--sort", sort)["rows"]]
    assert len(values) > 10 and values == sorted(values, reverse=True) and values[0] > values[-1]


def test_limit_and_filter_move_rows_to_the_others_and_the_sums_stay(exact):
    everything = table(exact)
    for words in (["--limit", "3"], ["--filter", "passing"], ["--filter", "passing", "--limit", "1"], ["--filter", "no such"]):
        part = table(exact, *words)
        assert part["totals"] == everything["totals"]
        assert sums(part["rows"] + [part["others"]]) == plain(everything["totals"])
        assert len(part["rows"]) + part["others"]["rows"] == len(everything["rows"])
    assert len(table(exact, "--limit", "3")["rows"]) == 3
    assert table(exact, "--filter", "no such")["rows"] == []
    assert table(exact, "--limit", "0")["rows"] == everything["rows"]


@pytest.mark.parametrize("pattern, wanted", [
    ("passing", {"passing"}), ("pas*g", {"passing"}), ("p?ssing", {"passing"}), ("*passing*", {"passing"}),
    ("in large", {"large"}), ("in larg", {"large"}), ("<string>:* in large", {"large"}), ("PASSING", set()), ("passing?", set()), ("pas?g", set()),
])
def test_filter_finds_text_and_takes_stars_and_question_marks(exact, pattern, wanted):
    assert {row["function"] for row in table(exact, "--filter", pattern, "--by", "line")["rows"]} == wanted


def test_modules_are_named_by_their_paths(tmp_path):
    c = cw.shop()
    c.header["working_directory"] = c.string("/srv/shop")
    files = {"/usr/lib/python3.11/json/decoder.py": "json.decoder", "/usr/lib/python3.11/json/__init__.py": "json",
             "/v/lib/python3.13/site-packages/requests/adapters.py": "requests.adapters", "/srv/shop/web/views.py": "web.views",
             "/elsewhere/tool.py": "tool", "<frozen importlib._bootstrap>": "importlib._bootstrap", "<string>": "<string>",
             "/usr/lib/python3/dist-packages/yaml/__init__.py": "yaml"}
    for number, file in enumerate(files):
        code = c.code("f", file=file.encode())
        c.site(c.stack((code, 1)), live_bytes=number + 1, total_bytes=number + 1)
    rows = {row["name"]: row["live_bytes"] for row in table(c.write(tmp_path / "x.hkc"), "--by", "module")["rows"]}
    assert {name: rows.get(name) for name in files.values()} == {name: i + 1 for i, name in enumerate(files.values())}


def test_memory_of_a_library_is_its_modules_and_files_are_by_line(mixed):
    modules = {row["name"]: row for row in table(mixed, "--by", "module")["rows"]}
    assert modules["libsqlite3.so.0"]["total_bytes"] == 70 << 20
    assert "(native code)" in modules, "what was asked for outside any frame"
    through = [row for row in table(mixed)["rows"] if row.get("through")]
    assert [row["total_bytes"] for row in through] == [70 << 20]


def test_libraries_that_one_line_calls_have_rows_of_their_own(tmp_path):
    c = cw.database()
    node = c.stack((c.code("main"), 140), (c.code("fill"), 12))
    c.site(c.node(node, c.module("/srv/lib/libz.so.1", base=0x7f2000000000), 0x6000), domain=cw.NATIVE, total_bytes=5 << 20,
           live_bytes=1 << 20)
    path = c.write(tmp_path / "x.hkc")
    for by in "line", "function":
        rows = {row["through"]: row["total_bytes"] for row in table(path, "--by", by)["rows"] if row.get("through")}
        assert rows == {"libsqlite3.so.0": 70 << 20, "libz.so.1": 5 << 20}
    assert len([row for row in table(path, "--by", "file")["rows"] if row["file"] == "/srv/shop/shop.py"]) == 1


def test_sizes_are_those_of_a_paths_average_block(tmp_path):
    c = cw.shop()
    path = c.write(tmp_path / "x.hkc")
    before = {row["name"]: row["total_bytes"] for row in table(path, "--by", "size")["rows"]}
    sizes = {"1 to 16 bytes": (16, 1), "17 to 32 bytes": (17, 1), "497 to 512 bytes": (1024, 2), "512 bytes to 1 KiB": (513, 1),
             "1 KiB to 2 KiB": (2 * 2048, 2), "512 KiB to 1 MiB": (1 << 20, 1), "1 MiB to 2 MiB": ((1 << 20) + 1, 1), "1 GiB to 2 GiB": (5 << 30, 3)}
    for bytes_, blocks in sizes.values():
        c.site(c.stack((c.code("f%d" % bytes_), 0)), total_bytes=bytes_, total_blocks=blocks)
    rows = {row["name"]: row["total_bytes"] for row in table(c.write(tmp_path / "y.hkc"), "--by", "size")["rows"]}
    for name, (bytes_, _) in sizes.items():
        assert rows[name] - before.get(name, 0) == bytes_, name


def test_what_cannot_be_told_apart_is_not_among_the_choices(exact, shop):
    found = table(exact)
    assert found["choices"] == list(BY) + ["thread"] and found["not_recorded"] == []
    found = table(shop)
    assert found["choices"] == list(BY) and found["not_recorded"] == ["thread"]
    refused = show("table", "--by", "thread", shop, status=1)
    assert refused.out == b"" and b"does not tell threads apart" in refused.err


def cells(line):
    """Columns of a row of text, which are two spaces apart."""
    return re.split(r" {2,}", line.strip())


def test_text_is_aligned_and_ends_with_others_and_total(exact):
    text = show("table", "--limit", "4", exact).out.decode().splitlines()
    head, rows = text[3], text[4:]
    assert text[1].startswith("every block was recorded") and text[2] == ""
    assert cells(head) == ["live", "share", "blocks", "peak", "blocks", "total", "blocks", "temp", "largest", "age", "line"]
    assert len(rows) == 6 and rows[4].endswith(" others") and rows[5].endswith("  total")
    end = head.index("line")
    assert all(row[end - 3] != " " and row[end - 2:end] == "  " and row[end] != " " for row in rows), "numbers end in one column"
    assert cells(rows[5])[1] == "100%"
    assert len(cells(rows[0])) == 11


def test_sampled_capture_says_so_and_how_sure_it_is(shop):
    text = show("table", shop, env={"LC_ALL": "C.UTF-8"}).out.decode()
    assert "estimates from 7 406 samples, one per 64.0 KiB" in text
    row, = [line for line in text.splitlines() if "remember_order" in line]
    assert "±3%" in row
    found = table(shop)
    assert (found["mode"], found["sample_bytes"]) == ("sample", 65536)
    ascii_text = show("table", shop, env={"LC_ALL": "C"}).out
    assert all(byte < 128 for byte in ascii_text) and b"+-3%" in ascii_text


def test_record_without_sites_has_a_total_of_nothing(heapkeeper):
    heapkeeper.good("kept = [0] * 100000", options=("--no-record",))
    assert b"recording was off" in show("table", heapkeeper.output).out
    found = table(heapkeeper.output)
    assert found["rows"] == [] and found["totals"]["total_bytes"] == 0 and any("off" in note for note in found["notes"])
    assert export(heapkeeper.output, "collapsed") == b""


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("sort", [*SORT, "temporary", "largest", "age"])
def test_rows_fit_a_terminal(exact, width, sort):
    import fcntl
    import pty
    import struct
    import termios
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("=HHHH", 40, width, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    child = subprocess.Popen([COMMAND, "table", "--sort", sort, exact], stdout=slave, env=dict(clean, LC_ALL="C.UTF-8", TERM="xterm"))
    os.close(slave)
    output = read_terminal(master)
    assert child.wait(timeout=60) == 0 and "\x1b[1m" in output
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()[3:]
    assert len(lines) > 10 and max(map(len, lines)) <= width


def test_a_running_process_is_found_by_its_number(heapkeeper):
    words = heapkeeper.command("import sys; kept = bytearray(3 << 20); print('ready', flush=True); sys.stdin.read()",
                               options=("--exact",))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        found = table(process.pid)
        stacks = export(process.pid, "collapsed")
        process.stdin.close()
    assert found["state"] == "running" and found["pid"] == process.pid
    assert found["totals"]["live_bytes"] > 3 << 20 and sums(found["rows"]) == plain(found["totals"])
    assert max(weight for _, weight in collapsed(stacks)) >= 3 << 20


# ---- export ----


def collapsed(text):
    """[(frames, weight)], read as flamegraph.pl does: the number is behind the last blank."""
    found = []
    for line in text.split(b"\n")[:-1]:
        match = re.fullmatch(rb"(.*\S) (\d+)", line)
        assert match, line
        assert not re.search(rb"\s\d+$", match.group(1)), "flamegraph.pl would take it for a second weight"
        found.append((match.group(1).split(b";"), int(match.group(2))))
    assert text == b"" or text.endswith(b"\n")
    return found


def check_speedscope(document):
    """The rules of https://www.speedscope.app/file-format-schema.json for a document of sampled profiles."""
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert set(document) <= {"$schema", "shared", "profiles", "name", "activeProfileIndex", "exporter"}
    assert set(document["shared"]) == {"frames"}
    frames = document["shared"]["frames"]
    for frame in frames:
        assert "name" in frame and set(frame) <= {"name", "file", "line", "col"}
        assert isinstance(frame["name"], str) and isinstance(frame.get("file", ""), str) and isinstance(frame.get("line", 1), int)
    assert 0 <= document["activeProfileIndex"] < len(document["profiles"])
    for profile in document["profiles"]:
        assert set(profile) == {"type", "name", "unit", "startValue", "endValue", "samples", "weights"}
        assert profile["type"] == "sampled" and profile["unit"] == "bytes" and isinstance(profile["name"], str)
        assert len(profile["samples"]) == len(profile["weights"])
        assert all(stack and all(0 <= index < len(frames) for index in stack) for stack in profile["samples"])
        assert all(weight > 0 for weight in profile["weights"])
        assert profile["endValue"] - profile["startValue"] == sum(profile["weights"])
    return document["profiles"][0]


@pytest.mark.parametrize("of", OF)
def test_stacks_add_up_to_the_reports_totals(exact, report, of):
    wanted = report["recorder"]["sites_%s_bytes" % of]
    stacks = collapsed(export(exact, "collapsed", "--of", of))
    assert sum(weight for _, weight in stacks) == wanted > 0
    document = json.loads(export(exact, "speedscope", "--of", of))
    profile = check_speedscope(document)
    assert sum(profile["weights"]) == wanted
    assert len(profile["weights"]) == len(stacks)


def test_stacks_are_outermost_first_and_name_their_lines(exact):
    stack, weight = max(collapsed(export(exact, "collapsed", "--of", "peak")), key=lambda pair: pair[1])
    assert [re.sub(rb":\d+", b"", frame) for frame in stack] == [b"<module> (<string>)", b"large (<string>)"]
    assert 20 << 20 <= weight < (20 << 20) + 5000
    document = json.loads(export(exact, "speedscope", "--of", "peak"))
    profile, frames = document["profiles"][0], document["shared"]["frames"]
    heaviest = profile["samples"][profile["weights"].index(max(profile["weights"]))]
    assert [(frames[i]["name"], frames[i]["file"]) for i in heaviest] == [("<module>", "<string>"), ("large", "<string>")]
    assert ["%s (%s:%d)" % (frames[i]["name"], frames[i]["file"], frames[i]["line"]) for i in heaviest] == [
        frame.decode() for frame in stack]


def test_csv_and_json_have_the_reports_sites(exact, report):
    keys = COLUMNS + ("line", "file", "function", "qualified_name", "domain")
    wanted = sorted(tuple(site[key] for key in keys) for site in report["sites"])
    lines = [json.loads(line) for line in export(exact, "json").decode().splitlines()]
    assert sorted(tuple(site[key] for key in keys) for site in lines) == wanted
    rows = list(csv.DictReader(io.StringIO(export(exact, "csv").decode(), newline="")))
    numbers = COLUMNS + ("line",)
    assert sorted(tuple(int(row[key]) if key in numbers else row[key] for key in keys) for row in rows) == wanted
    assert [int(row["live_bytes"]) for row in rows] == sorted((int(row["live_bytes"]) for row in rows), reverse=True)
    stacks = {frame["function"] for site in lines if site["function"] == "large" for frame in site["stack"]}
    assert stacks == {"<module>", "large"}


def test_hostile_names_keep_every_format_well_formed(tmp_path):
    path = evil(tmp_path)
    live = table(path)["totals"]["live_bytes"]
    stacks = collapsed(export(path, "collapsed"))
    assert sum(weight for _, weight in stacks) == live
    assert all(len(stack) == 2 for stack, weight in stacks if weight == 1 << 20), "no name became two frames"
    names = {unescaped(frame) for stack, weight in stacks if weight == 1 << 20 for frame in stack}
    for name in (b"a\nb", b"a;b", b'a"b', b"\xff\xfe", b"back\\slash", b"\\x3b", b"ends 12", b"\x1b[2J\x9b31m", b"\xe2\x80\xae"):
        assert name + b" (?)" in names, name

    profile = check_speedscope(json.loads(export(path, "speedscope").decode("utf-8")))
    assert sum(profile["weights"]) == live

    rows = list(csv.reader(io.StringIO(export(path, "csv").decode("utf-8"), newline=""), strict=True))
    assert {len(row) for row in rows} == {15} and sum(int(row[6]) for row in rows[1:]) == live
    assert {b'a"b', b"a;b", b"a\nb", b"=cmd()", b"a,b"} <= {unescaped(row[1].encode()) for row in rows}
    assert not [row for row in rows[1:] for field in row if field[:1] in ("=", "+", "-", "@")], "a spreadsheet's formula"

    sites = [json.loads(line) for line in export(path, "json").decode("utf-8").split("\n")[:-1]]
    assert sum(site["live_bytes"] for site in sites) == live and len(sites) == len(rows) - 1
    for words in (["table"], ["table", "--json"], ["export", "--format", "collapsed"], ["export", "--format", "csv"],
                  ["export", "--format", "json"], ["export", "--format", "speedscope"]):
        for locale in ("C.UTF-8", "C"):
            out = show(*words, path, env={"LC_ALL": locale}).out
            assert not has_control_bytes(out) and b"\xe2\x80\xae" not in out
    for by in BY:
        found = table(path, "--by", by, "--filter", "a\nb")
        assert sums(found["rows"] + [found["others"]]) == plain(found["totals"])


def test_names_of_a_real_program_that_no_format_expects(heapkeeper):
    heapkeeper.good("""
        def remember(n):
            return [bytearray(5000) for _ in range(n)]
        keep = []
        for name in "a;b", "a\\nb", 'a"b', "\\udcff\\ud800", "x\\\\y", "z 12":
            code = remember.__code__.replace(co_filename=name, co_name=name)
            if hasattr(code, "co_qualname"):
                code = code.replace(co_qualname=name)
            keep.append(type(remember)(code, {"range": range, "bytearray": bytearray})(50))
    """, options=("--exact",))
    live = table(heapkeeper.output)["totals"]["live_bytes"]
    stacks = collapsed(export(heapkeeper.output, "collapsed"))
    assert sum(weight for _, weight in stacks) == live
    assert {b"a;b", b"a\nb", b'a"b', b"x\\y", b"z 12"} <= {unescaped(frame).rpartition(b" (")[0] for stack, _ in stacks for frame in stack}
    assert sum(check_speedscope(json.loads(export(heapkeeper.output, "speedscope").decode()))["weights"]) == live
    assert sum(int(row["live_bytes"]) for row in csv.DictReader(io.StringIO(export(heapkeeper.output, "csv").decode()))) == live


def test_native_code_is_named_with_its_module(mixed):
    stacks = collapsed(export(mixed, "collapsed", "--of", "total"))
    stack, = [stack for stack, weight in stacks if weight == 70 << 20 and b"fill" in stack[1]]
    assert stack[-1].endswith(b"[libsqlite3.so.0]")
    check_speedscope(json.loads(export(mixed, "speedscope", "--of", "total")))
    assert [row["module"] for row in csv.DictReader(io.StringIO(export(mixed, "csv").decode())) if row["domain"] == "native"] == [
        "libsqlite3.so.0"]


def test_cut_stack_and_memory_without_a_stack_have_words_of_their_own(tmp_path):
    c = cw.shop()
    c.site(c.stack((c.code("inner"), 3)), flags=cw.CUT, live_bytes=1111, total_bytes=1111)
    c.site(0, flags=cw.OTHER, live_bytes=2222, total_bytes=2222)
    stacks = {weight: stack for stack, weight in collapsed(export(c.write(tmp_path / "x.hkc"), "collapsed"))}
    assert stacks[1111][0] == b"..." and stacks[1111][1].startswith(b"inner (")
    assert stacks[2222] == [b"(other)"]


# ---- files and errors ----


def test_output_goes_to_a_file_that_is_not_written_over_unasked(exact, tmp_path):
    target, wanted = tmp_path / "out", export(exact, "collapsed")
    assert show("export", "--format", "collapsed", "-o", target, exact).out == b"" and target.read_bytes() == wanted
    refused = show("export", "--format", "csv", "-o", target, exact, status=1)
    assert b"exists already; --force" in refused.err and target.read_bytes() == wanted
    show("export", "--format", "csv", "-f", "-o", target, exact)
    assert target.read_bytes() == export(exact, "csv")
    assert show("export", "--format", "collapsed", "--output", "-", exact).out == wanted
    show("export", "--format", "collapsed", "-o", "/dev/null", exact)


def test_capture_itself_is_never_written_over(exact):
    with open(exact, "rb") as file:
        before = file.read()
    assert b"the capture itself" in show("export", "--format", "csv", "--force", "-o", exact, exact, status=1).err
    with open(exact, "rb") as file:
        assert file.read() == before


@pytest.mark.parametrize("words", [["table"], ["table", "--json"], ["export", "--format", "csv"], ["export", "--format", "speedscope"]])
def test_closed_output_is_told(exact, words):
    with open("/dev/full", "w") as full:
        done = subprocess.run([COMMAND, *words, exact], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1 and re.fullmatch(rb"heapkeeper: [^\n]*could not be written: [^\n]*\n", done.stderr)


def test_file_that_cannot_be_written_is_told(exact, tmp_path):
    for target in (tmp_path / "no" / "such", tmp_path, "/dev/full"):
        done = show("export", "--format", "csv", "-o", target, exact, status=1)
        assert done.out == b"" and re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err)


@pytest.mark.parametrize("words", [["table"], ["table", "--json", "--by", "file"], ["export", "--format", "collapsed"],
                                   ["export", "--format", "speedscope"]])
def test_missing_cut_and_empty_captures_are_one_line_and_status_1(shop, tmp_path, words):
    with open(shop, "rb") as file:
        data = file.read()
    cut, empty, text = tmp_path / "cut", tmp_path / "empty", tmp_path / "text"
    cut.write_bytes(data[:9000])
    empty.write_bytes(b"")
    text.write_text("no capture")
    for target, wanted in ((cut, b"truncated"), (empty, b"nothing recorded"), (text, b"not a heapkeeper capture"),
                           (tmp_path / "missing", b"cannot be opened"), (tmp_path, b"not a regular file"), (2 ** 31 - 1, b"")):
        done = show(*words, target, status=1)
        assert done.out == b"" and re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err) and wanted in done.err
    done = show(*words, status=1, env={"HEAPKEEPER_DIR": str(tmp_path / "nothing")})
    assert done.out == b"" and re.fullmatch(rb"heapkeeper: [^\n]+\n", done.err)


def test_newest_run_is_taken_without_a_capture(shop, tmp_path):
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    cw.shop().write(place / "newest.hkc")
    env = {"HEAPKEEPER_DIR": str(place)}
    assert json.loads(show("table", "--json", env=env).out)["capture"] == str(place / "newest.hkc")
    assert show("export", "--format", "collapsed", env=env).out == export(shop, "collapsed")
