"""`heapkeeper export --format pprof` and `--format chrome`: other profilers' and trace viewers' formats."""

import gzip
import json
import os
import re
import shutil
import subprocess

import pytest

import capture_writer as cw
from conftest import recorded_exactly
from test_views import PROGRAM, evil, export, show, table

pytestmark = pytest.mark.once

TYPES = ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space", "peak_objects", "peak_space"]
NAMES = ["total_blocks", "total_bytes", "live_blocks", "live_bytes", "peak_blocks", "peak_bytes"]
OF = ("live", "peak", "total")


@pytest.fixture(scope="module")
def exact(tmp_path_factory, python):
    return recorded_exactly(tmp_path_factory, python, PROGRAM).output


# ---- pprof ----


def varint(data, at):
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7f) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def message(data):
    """{field: [values]} of a message in protobuf's wire format: numbers, and bytes."""
    fields, at = {}, 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            assert key & 7 == 2, "profile.proto has numbers and parts only"
            size, at = varint(data, at)
            value = data[at:at + size]
            assert len(value) == size
            at += size
        fields.setdefault(key >> 3, []).append(value)
    return fields


def packed(data):
    values, at = [], 0
    while at < len(data):
        value, at = varint(data, at)
        values.append(value)
    return values


def profile(data):
    """Types, default, and samples as (stack from the outermost in, values); every reference is checked."""
    p = message(gzip.decompress(data))
    strings = [text.decode("utf-8") for text in p[6]]
    assert strings[0] == "" and len(set(strings)) == len(strings)
    functions = {}
    for part in map(message, p.get(5, [])):
        assert set(part) == {1, 2, 4} and part[1][0] not in functions
        functions[part[1][0]] = (strings[part[2][0]], strings[part[4][0]])
    assert len(set(functions.values())) == len(functions)
    locations = {}
    for part in map(message, p.get(4, [])):
        line = message(part[4][0])
        locations[part[1][0]] = functions[line[1][0]] + (line.get(2, [0])[0],)
    samples = []
    for part in map(message, p.get(2, [])):
        values = packed(part[2][0])
        assert len(values) == 6
        samples.append(([locations[number] for number in packed(part[1][0])][::-1], values))
    types = [[strings[number[0]] for number in (message(part)[1], message(part)[2])] for part in p[1]]
    return types, strings[p[14][0]], samples, p


def test_pprof_adds_up_to_the_totals_of_every_figure(exact):
    types, default, samples, p = profile(export(exact, "pprof"))
    assert types == [[name, "bytes" if name.endswith("space") else "count"] for name in TYPES] and default == "inuse_space"
    totals = table(exact)["totals"]
    for index, name in enumerate(NAMES):
        assert sum(values[index] for _, values in samples) == totals[name] > 0
    assert p[12] == [1] and p[9][0] > 1_600_000_000 * 10 ** 9 and p[10][0] > 0
    for of, wanted in (("peak", "peak_space"), ("total", "alloc_space")):
        assert profile(export(exact, "pprof", "--of", of))[1] == wanted


def test_pprof_has_the_stacks_that_collapsed_has(exact):
    samples = profile(export(exact, "pprof"))[2]
    stack, values = max(samples, key=lambda sample: sample[1][5])
    assert [(name, file) for name, file, _ in stack] == [("<module>", "<string>"), ("large", "<string>")]
    assert 20 << 20 <= values[5] < (20 << 20) + 5000 and all(line > 0 for _, _, line in stack)


def test_go_tool_pprof_shows_the_profile(exact, tmp_path):
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go") or shutil.which("/usr/lib/go/bin/go")
    if not go:
        pytest.skip("there is no go tool here")
    path = tmp_path / "profile.pb.gz"
    show("export", "--format", "pprof", "-o", path, exact)
    done = subprocess.run([go, "tool", "pprof", "-top", "-unit=B", "-sample_index=peak_space", str(path)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=900, env=dict(os.environ, HOME=str(tmp_path), GOFLAGS="-mod=mod")
                          if "HOME" not in os.environ else None)
    text = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert "Type: peak_space" in text and re.search(r"%\s+large$", text, re.M) and re.search(r"%\s+<module>$", text, re.M)
    total = re.search(r"([\d.]+)B total", text)
    assert total and abs(float(total.group(1)) - table(exact)["totals"]["peak_bytes"]) < 1


def test_pprof_of_a_sampled_capture_has_its_period_and_of_native_code_its_module(tmp_path):
    p = profile(export(cw.shop().write(tmp_path / "a.hkc"), "pprof"))[3]
    assert p[12] == [64 * 1024]
    samples = profile(export(cw.database().write(tmp_path / "b.hkc"), "pprof"))[2]
    assert any(frame[1] == "libsqlite3.so.0" for stack, _ in samples for frame in stack)


def test_pprof_of_hostile_and_of_empty_captures_is_well_formed(tmp_path):
    types, _, samples, _ = profile(export(evil(tmp_path), "pprof"))
    assert sum(values[3] for _, values in samples) == table(tmp_path / "evil.hkc")["totals"]["live_bytes"]
    assert not any(ord(character) < 32 for stack, _ in samples for frame in stack for character in frame[0] + frame[1])
    assert profile(export(cw.Capture().write(tmp_path / "x.hkc"), "pprof"))[2] == []
    c = cw.shop()
    c.site(len(c.nodes) - 1, live_bytes=(1 << 64) - 1, total_bytes=(1 << 64) - 1)
    assert max(max(values) for _, values in profile(export(c.write(tmp_path / "y.hkc"), "pprof"))[2]) <= 2 ** 63 - 1


# ---- chrome ----


def trace(data):
    """A document of the trace-event format: each event has what its phase needs, each sample a frame, each frame its caller."""
    document = json.loads(data.decode("utf-8"))
    assert set(document) <= {"traceEvents", "displayTimeUnit", "samples", "stackFrames", "otherData"}
    needed = {"M": {"args"}, "C": {"ts", "args"}, "i": {"ts", "s"}, "X": {"ts", "dur"}}
    for event in document["traceEvents"]:
        assert {"ph", "name", "pid", "tid"} | needed[event["ph"]] <= set(event)
        assert isinstance(event["name"], str) and event.get("ts", 0) >= 0 and event.get("s", "p") in ("g", "p", "t")
        assert event["ph"] != "C" or all(isinstance(value, int) for value in event["args"].values())
    for key, frame in document["stackFrames"].items():
        assert set(frame) <= {"name", "category", "parent"} and isinstance(frame["name"], str)
        assert "parent" not in frame or int(frame["parent"]) < int(key) and str(frame["parent"]) in document["stackFrames"]
    for sample in document["samples"]:
        assert {"name", "pid", "tid", "ts", "sf", "weight", "cpu"} == set(sample) and str(sample["sf"]) in document["stackFrames"]
    return document


@pytest.mark.parametrize("of", OF)
def test_samples_of_a_trace_weigh_the_totals(exact, of):
    document = trace(export(exact, "chrome", "--of", of))
    assert sum(sample["weight"] for sample in document["samples"]) == table(exact)["totals"][of + "_bytes"]
    heaviest = max(document["samples"], key=lambda sample: sample["weight"])
    frame = document["stackFrames"][str(heaviest["sf"])]
    if of == "peak":
        assert re.fullmatch(r"large:\d+", frame["name"]) and frame["category"] == "<string>"
        assert re.fullmatch(r"<module>:\d+", document["stackFrames"][str(frame["parent"])]["name"])


def test_trace_has_the_timeline_as_counters(tmp_path):
    c = cw.shop()
    c.header["minor"] = 3
    c.points[29] = cw.point(time_ns=6_200_000_000, live_bytes=110 << 20, rss_bytes=150 << 20, name=c.string("half way"))
    c.collection(6_200_000_000, generation=2, duration_ns=5_000_000, longest_ns=5_000_000)
    document = trace(export(c.write(tmp_path / "x.hkc"), "chrome"))
    memory = [event for event in document["traceEvents"] if event["name"] == "memory"]
    assert len(memory) == 60 and [event["ts"] for event in memory] == sorted(event["ts"] for event in memory)
    assert memory[-1]["args"]["live"] == 153 << 20 and memory[-1]["ts"] == 12_400_000
    assert [event["ts"] for event in document["traceEvents"] if event["name"] == "half way"] == [6_200_000]
    collection, = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert (collection["ts"], collection["dur"], collection["args"]["generation"]) == (6_195_000, 5000, 2)
    assert document["traceEvents"][0]["args"] == {"name": "shop.py"}


def test_trace_of_hostile_and_of_empty_captures_is_well_formed(tmp_path):
    path = evil(tmp_path)
    assert sum(sample["weight"] for sample in trace(export(path, "chrome"))["samples"]) == table(path)["totals"]["live_bytes"]
    assert trace(export(cw.Capture().write(tmp_path / "x.hkc"), "chrome"))["samples"] == []


def test_unknown_format_names_those_there_are(exact):
    assert b"collapsed, speedscope, pprof, chrome, csv or json" in show("export", "--format", "svg", exact, status=2).err
    assert b"collapsed, speedscope, pprof, chrome, csv or json" in show("export", exact, status=2).err
