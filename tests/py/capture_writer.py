"""Writes capture files field by field, as src/capture/format.h draws them, without the recorder.

For tests of the reader: a capture here can be whole, cut, torn, hostile or from the future. `Capture` holds
what a process would have written; `bytes()` lays it out. Anything may be changed in between, and `patch`
changes bytes afterwards.
"""

import os
import struct
from dataclasses import dataclass, field

MARKS, TIMELINE, EVENTS, MODULES, CODES, NODES, STRINGS, SITES = range(1, 9)
EMPTY, RUNNING, EXITED = range(3)
NONE, SAMPLE, EXACT = range(3)
RAW, MEM, OBJECT, NATIVE = range(4)
OTHER, CUT, JIT, BLIND = 1, 2, 4, 8
NATIVE_CODE = 2
COLLECTIONS, THREADS, SPANS = 13, 14, 15
YOUNG, GROWTH, EXPLICIT, STEPS = range(1, 5)
MIB = 1 << 20

STATUS_OFFSET = 8192
HEADER = struct.Struct("=8sHHIII Q II Q 16s16s IIII QQQ II IIIIIIII QQQ 20Q")
SECTION = struct.Struct("=IIQQQ")
POINT_FIELDS = (
    "sequence time_ns allocated_bytes allocated_blocks live_bytes live_blocks large_bytes large_blocks "
    "mapped_bytes free_in_used_pools_bytes empty_pools_bytes returned_bytes metadata_bytes "
    "frame_chunks_bytes rss_bytes recorder_bytes recorder_ns samples arenas pools_used pools_full "
    "pools_empty mark name skipped"
).split()
POINT = struct.Struct("=17Q 8I 4Q 4Q 2Q")
STATUS_TAIL_FIELDS = (
    "peak_serial peak_bytes peak_ns recorded_live_bytes recorded_total_bytes raw mem object native "
    "peak_rss_bytes timeline_sequence marks_generation foreign_frees libc_frees spans_left_out"
).split()
STATUS_TAIL = struct.Struct("=15Q 7Q")
MARK = struct.Struct("=QQ")
EVENT = struct.Struct("=QIIQ")
CODE = struct.Struct("=IIIIIiII")
MODULE = struct.Struct("=QQQII32sQQQ")
NODE = struct.Struct("=IIiI")
SITE = struct.Struct("=IBBH 8Q II HHI 16I 16I 5Q")
COLLECTION = struct.Struct("=8QIBBH")
THREAD = struct.Struct("=IIQ")
SPAN = struct.Struct("=6I6Q")
CHILD = struct.Struct("=II5Q80s")
assert SITE.size == 256 and NODE.size == 16 and CHILD.size == 128


def boot_id():
    with open("/proc/sys/kernel/random/boot_id") as f:
        return bytes.fromhex(f.read().strip().replace("-", ""))


def start_ticks(pid):
    with open(f"/proc/{pid}/stat") as f:
        return int(f.read().rpartition(")")[2].split()[19])


def line_table(lines):
    """A location table of Python 3.11 or later: instruction i (offset 2 * i) is on line first_line + i."""
    return b"\xe8\x00" + b"\xe8\x02" * (lines - 1)


@dataclass
class Site:
    node: int = 0
    domain: int = OBJECT
    flags: int = 0
    live_bytes: int = 0
    live_blocks: int = 0
    peak_bytes: int = 0
    peak_blocks: int = 0
    total_bytes: int = 0
    total_blocks: int = 0
    peak_serial: int = 0
    inherited_bytes: int = 0
    samples_total: int = 0
    samples_live: int = 0
    mark: int = 0
    mark_generation: int = 0
    at_mark: list = field(default_factory=lambda: [0] * 16)  # KiB
    born_in: list = field(default_factory=lambda: [0] * 16)  # KiB

    def pack(self):
        return SITE.pack(
            self.node, self.domain, self.flags, 0, self.live_bytes, self.live_blocks, self.peak_bytes,
            self.peak_blocks, self.total_bytes, self.total_blocks, self.peak_serial, self.inherited_bytes,
            self.samples_total, self.samples_live, self.mark, self.mark_generation, 0,
            *self.at_mark, *self.born_in, 0, 0, 0, 0, 0)


def point(**fields):
    """A point; `domain_allocated` and `domain_live` are lists of 4. The classes are summed unless mapped."""
    f = dict.fromkeys(POINT_FIELDS, 0)
    allocated = fields.pop("domain_allocated", [0] * 4)
    live = fields.pop("domain_live", [0] * 4)
    f["sequence"] = 2
    f.update(fields)
    if "mapped_bytes" not in fields:
        f["mapped_bytes"] = (f["live_bytes"] + f["free_in_used_pools_bytes"] + f["empty_pools_bytes"]
                             + f["metadata_bytes"] + f["frame_chunks_bytes"])
    return POINT.pack(*(f[name] for name in POINT_FIELDS), *allocated, *live, 0, 0)


class Capture:
    def __init__(self, program="shop.py", **header):
        self.header = dict(
            magic=b"hkcaptur", major=1, minor=0, byte_order=0x01020304, page_size=4096,
            header_size=HEADER.size + 16 * SECTION.size, file_size=8 * MIB, state=EXITED, mode=SAMPLE,
            sample_bytes=512 * 1024, boot_id=boot_id(), run_id=bytes(range(1, 17)), pid=4242,
            parent_pid=1, exec_count=0, forked=0, start_realtime_ns=1_700_000_000_000_000_000,
            start_ticks=12345, end_ns=12_400_000_000, python_version=0x030D00F0, python_flags=0,
            command_line=0, executable=0, working_directory=0, watch=1, watch_name=0, stacks=1,
            stacks_why=0, limits=0, watch_time_ns=0, limit_time_ns=0, exit_status_known=0)
        self.strings = bytearray(1)
        self.interned = {}
        self.codes = [CODE.pack(0, 0, 0, 0, 0, 0, 0, 0)]
        self.nodes = [NODE.pack(0, 0, 0, 0)]
        self.depths = [0]
        self.sites = []
        self.points = []
        self.now = None
        self.marks = []
        self.events = []
        self.collections = []
        self.threads = []
        self.spans = []
        self.modules = []
        self.status = dict.fromkeys(STATUS_TAIL_FIELDS, 0)
        self.section_changes = {}
        self.header["command_line"] = self.string(f"python3\x1f/srv/shop/{program}\x1f--orders\x1f40000\x1f")
        self.header["executable"] = self.string("/usr/bin/python3.13")
        self.header["working_directory"] = self.string("/srv/shop")
        self.header.update(header)

    def string(self, text):
        data = text if isinstance(text, bytes) else text.encode()
        if data not in self.interned:
            self.interned[data] = len(self.strings)
            self.strings += data + b"\0"
        return self.interned[data]

    def code(self, name, file="/srv/shop/shop.py", first_line=1, lines=200, qualified_name=None, flags=0,
             table=None):
        table = line_table(lines) if table is None else table
        at = len(self.strings)
        self.strings += table + b"\0"
        self.codes.append(CODE.pack(
            self.string(file), self.string(name), self.string(qualified_name or name),
            at if table else 0, len(table), first_line, flags, 0))
        return len(self.codes) - 1

    def module(self, path, base=0x7f0000000000, size=0x10000, build_id=b"\x01" * 20, vaddr=0):
        """A native module; returns the code of its machine code."""
        text = self.string(path) if path else 0
        self.modules.append(MODULE.pack(base + 0x1000 & (1 << 64) - 1, base + size & (1 << 64) - 1, 0x1000, text, len(build_id), build_id, base,
                                        vaddr, size))
        self.codes.append(CODE.pack(text, 0, 0, 0, 0, 0, NATIVE_CODE, len(self.modules)))
        return len(self.codes) - 1

    def node(self, parent, code, offset):
        self.depths.append(self.depths[parent] + 1)
        self.nodes.append(NODE.pack(parent, code, offset, self.depths[-1]))
        return len(self.nodes) - 1

    def stack(self, *frames):
        """Frames are (code, line) from the outermost; lines count from the code's first line, 1."""
        node = 0
        for code, line in frames:
            node = self.node(node, code, 2 * (line - 1))
        return node

    def site(self, node, **fields):
        self.sites.append(Site(node=node, **fields))
        return self.sites[-1]

    def event(self, time_ns, kind, text="", value=0):
        self.events.append(EVENT.pack(time_ns, kind, self.string(text) if text else 0, value))

    def collection(self, time_ns, generation=0, cause=YOUNG, count=1, duration_ns=0, longest_ns=None, examined=0, freed=0,
                   uncollectable=0, last_ns=None, longest_at_ns=None):
        longest = duration_ns if longest_ns is None else longest_ns
        self.collections.append(COLLECTION.pack(
            time_ns, last_ns or time_ns, duration_ns, longest, longest_at_ns or time_ns, examined, freed, uncollectable, count,
            generation, cause, 0))

    def thread(self, id, name=""):
        self.threads.append(THREAD.pack(id, self.string(name) if name else 0, 0))

    def span(self, begin_ns, end_ns, name="", code=0, thread=4242, begin_bytes=0, end_bytes=0, begin_rss_bytes=0, end_rss_bytes=0,
             sequence=4, serial=None):
        """`end_ns` 0: it has not ended; serial 0: a free entry."""
        self.spans.append(SPAN.pack(sequence, len(self.spans) + 1 if serial is None else serial, self.string(name) if name else 0, code, thread, 0,
                                    begin_ns, end_ns, begin_bytes, end_bytes, begin_rss_bytes, end_rss_bytes))

    def sections(self):
        return {
            MARKS: (MARK.size, [MARK.pack(*m) for m in self.marks], 16),
            TIMELINE: (POINT.size, self.points, 512),
            EVENTS: (EVENT.size, self.events, 64),
            MODULES: (MODULE.size, self.modules, len(self.modules) + 4),
            CODES: (CODE.size, self.codes, len(self.codes) + 10),
            NODES: (NODE.size, self.nodes, len(self.nodes) + 10),
            STRINGS: (1, [bytes(self.strings)], len(self.strings) + 100),
            SITES: (SITE.size, [s.pack() for s in self.sites], len(self.sites) + 10),
            **({COLLECTIONS: (COLLECTION.size, self.collections, len(self.collections) + 10)} if self.collections else {}),
            **({THREADS: (THREAD.size, self.threads, 64)} if self.threads else {}),
            **({SPANS: (SPAN.size, self.spans, len(self.spans) + 10)} if self.spans else {}),
        }

    def bytes(self, spare=True):
        """The file; without `spare` no section has room for more than it holds, which makes it small."""
        table, body = [(0, 0, 0, 0)] * 16, {}
        at = STATUS_OFFSET + 4096
        for kind, (size, entries, capacity) in self.sections().items():
            count = len(self.strings) if kind == STRINGS else len(entries)
            if not spare:
                capacity = count
            entry = dict(entry_size=size, offset=at, capacity=max(capacity, count), count=count)
            entry.update(self.section_changes.get(kind, {}))
            table[kind] = (entry["entry_size"], entry["offset"], entry["capacity"], entry["count"])
            body[at] = b"".join(entries)
            unit = 4096 if spare else 8
            at = (at + size * max(capacity, count) + unit - 1) // unit * unit
        data = bytearray(at)
        header = HEADER.pack(*self.header.values(), *([0] * 20))
        header += b"".join(SECTION.pack(size, 0, offset, capacity, count)
                           for size, offset, capacity, count in table)
        data[:len(header)] = header
        status = (self.now or point(sequence=0)) + STATUS_TAIL.pack(*self.status.values(), *([0] * 7))
        data[STATUS_OFFSET:STATUS_OFFSET + len(status)] = status
        for offset, part in body.items():
            data[offset:offset + len(part)] = part
        return bytes(data)

    def write(self, path):
        with open(path, "wb") as f:
            f.write(self.bytes())
        os.chmod(path, 0o600)
        return path


def patch(data, offset, value):
    return data[:offset] + value + data[offset + len(value):]


def child(pid, name, peak=0, allocated=0, duration_ns=0):
    return CHILD.pack(pid, 0, 0, duration_ns, peak, allocated, 0, name.encode())


def growing(site, spans, kib_a_span):
    """Every span allocates `kib_a_span` that stays."""
    for i in range(spans):
        site.at_mark[i] = (i + 1) * kib_a_span
        site.born_in[i] = kib_a_span
    site.mark = spans - 1
    site.live_bytes = spans * kib_a_span * 1024
    return site


def flat(site, spans, kib, turnover=1):
    """Full after the first span; what lives at the end was allocated in the last `turnover` spans."""
    for i in range(spans):
        site.at_mark[i] = kib
    for i in range(spans - turnover, spans):
        site.born_in[i] = kib // turnover
    site.mark = spans - 1
    site.live_bytes = kib * 1024
    return site


def shop(spans=12, seconds=12.4):
    """The example of the report: a cache that is large and flat, a smaller leak that grows."""
    c = Capture()
    main, handle = c.code("main"), c.code("handle")
    remember = c.code("remember_order", qualified_name="Shop.remember_order")
    cache, module = c.code("cache_put"), c.code("<module>")
    end = int(seconds * 1e9)
    leak = c.stack((module, 190), (main, 140), (handle, 61), (remember, 88))
    large = c.stack((module, 190), (main, 140), (handle, 55), (cache, 52))
    growing(c.site(leak, live_blocks=420_000, total_bytes=70 * MIB, total_blocks=450_000,
                   samples_total=1400, samples_live=1220), spans, 61 * 1024 // spans)
    flat(c.site(large, live_blocks=121_000, total_bytes=3000 * MIB, total_blocks=9_000_000,
                samples_total=6000, samples_live=128), spans, 64 * 1024, turnover=3)
    c.site(0, domain=RAW, flags=BLIND, live_bytes=2 * MIB, live_blocks=40, total_bytes=3 * MIB,
           total_blocks=80, samples_total=6, samples_live=4)
    c.header["sample_bytes"] = 64 * 1024
    total = sum(s.total_bytes for s in c.sites)
    live = sum(s.live_bytes for s in c.sites)
    c.marks = [(end * i // spans, total * i // spans) for i in range(spans)]
    for i in range(1, 60):
        grown = 61 * MIB * i // 60
        c.points.append(point(time_ns=end * i // 60, allocated_bytes=total * i // 60,
                              live_bytes=80 * MIB + grown, live_blocks=1_000_000 + 8_000 * i,
                              free_in_used_pools_bytes=12 * MIB, empty_pools_bytes=8 * MIB,
                              metadata_bytes=MIB, mark=i * spans // 60))
    c.now = point(time_ns=end, allocated_bytes=total, allocated_blocks=9_450_080, live_bytes=141 * MIB,
                  live_blocks=1_490_000, large_bytes=12 * MIB, large_blocks=31,
                  free_in_used_pools_bytes=12 * MIB, empty_pools_bytes=8 * MIB, metadata_bytes=MIB,
                  frame_chunks_bytes=256 * 1024, returned_bytes=4 * MIB, rss_bytes=231 * MIB,
                  recorder_bytes=1_150_000, recorder_ns=12_000_000, samples=7406, arenas=3,
                  pools_used=1610, pools_full=120, pools_empty=174, mark=spans - 1)
    c.status.update(peak_serial=9, peak_bytes=live, peak_ns=end, recorded_live_bytes=live,
                    recorded_total_bytes=total, peak_rss_bytes=233 * MIB,
                    raw=3 * MIB, object=total - 3 * MIB)
    return c


def server(spans=12):
    """A C program: a cache that is large and flat, and a leak; whole stacks."""
    c = Capture()
    c.header.update(minor=1, python_version=0, watch=4, stacks=0)
    c.header["command_line"] = c.string("/srv/bin/server\x1f--port\x1f8080\x1f")
    program, libc = c.module("/srv/bin/server", base=0x400000, vaddr=0x400000), c.module("/srv/lib/libc.so.6")
    leak = c.node(c.node(c.node(0, libc, 0x2724a), program, 0x1100), program, 0x1234)
    cache = c.node(c.node(c.node(0, program, 0x1180), program, 0x1456), libc, 0x8123)
    growing(c.site(leak, domain=NATIVE, live_blocks=9_000, total_bytes=70 * MIB, total_blocks=10_000,
                   samples_total=1400, samples_live=1220), spans, 61 * 1024 // spans)
    flat(c.site(cache, domain=NATIVE, live_blocks=121_000, total_bytes=3000 * MIB, total_blocks=9_000_000,
                samples_total=6000, samples_live=128), spans, 64 * 1024, turnover=3)
    total = sum(s.total_bytes for s in c.sites)
    live = sum(s.live_bytes for s in c.sites)
    end = 12_400_000_000
    c.marks = [(end * i // spans, total * i // spans) for i in range(spans)]
    c.now = point(time_ns=end, allocated_bytes=total, allocated_blocks=9_010_000, live_bytes=live, live_blocks=130_000,
                  metadata_bytes=MIB, rss_bytes=160 * MIB, recorder_bytes=1_150_000, samples=7400, arenas=3,
                  pools_used=1610, mark=spans - 1, domain_allocated=[0, 0, 0, total], domain_live=[0, 0, 0, live])
    c.status.update(peak_serial=9, peak_bytes=live, peak_ns=end, recorded_live_bytes=live, recorded_total_bytes=total,
                    peak_rss_bytes=160 * MIB, native=total)
    return c


def database(spans=12):
    """A Python program whose line makes sqlite ask for memory, under --native."""
    c = shop(spans)
    c.header["minor"] = 1
    main, fill = c.code("main"), c.code("fill")
    sqlite = c.module("/srv/lib/libsqlite3.so.0", base=0x7f1000000000)
    node = c.node(c.node(c.stack((main, 140), (fill, 12)), sqlite, 0x70d0), sqlite, 0x6000)
    flat(c.site(node, domain=NATIVE, live_blocks=9_000, total_bytes=70 * MIB, total_blocks=10_000,
                samples_total=140, samples_live=120), spans, 65 * 1024)
    c.status["recorded_total_bytes"] += 70 * MIB
    c.status["native"] = 70 * MIB
    return c


def corpus():
    """Small files for the fuzzer to start from, by name: one for each thing the reader has to tell apart."""
    small = shop(spans=6)
    small.points = small.points[::12]
    yield "shop", small.bytes(spare=False)
    yield "empty", b""
    yield "bare", Capture().bytes(spare=False)
    running = shop(spans=9)
    running.points = running.points[::20]
    running.header.update(state=RUNNING, limits=31, stacks=2, watch=3, python_flags=15)
    running.header["watch_name"] = running.string("tracemalloc")
    running.header["stacks_why"] = running.string("the self-test failed")
    for site in running.sites:
        site.mark_generation, site.mark, site.flags = 65535, 14, 15
    running.status.update(marks_generation=2, foreign_frees=3, libc_frees=4)
    running.event(5_000_000_000, 4, value=1)
    running.event(6_000_000_000, 5, "a note")
    running.event(7_000_000_000, 1, value=77)
    yield "blind", running.bytes(spare=False)
    for minor in (9, 10, 12):
        old = shop(spans=4)
        old.points = []
        old.header["python_version"] = 3 << 24 | minor << 16 | 0xf0
        yield f"python3{minor}", old.bytes(spare=False)
    collected = server(spans=4)
    collected.header["minor"] = 3
    collected.collection(1_000_000, count=200, last_ns=9_000_000, duration_ns=5_000_000, longest_ns=80_000, examined=400_000)
    collected.collection(2_000_000, 2, GROWTH, duration_ns=12_000_000, examined=1 << 20, freed=5, uncollectable=2)
    collected.collection(3_000_000, 2, STEPS, count=0)
    collected.collection(1, 255, 255, count=1 << 31, duration_ns=(1 << 64) - 1, examined=(1 << 64) - 1, freed=1 << 63)
    collected.collection(1 << 63, 3, EXPLICIT, count=(1 << 32) - 1, duration_ns=(1 << 64) - 1, last_ns=(1 << 64) - 1)
    yield "collections", collected.bytes(spare=False)
    named = shop(spans=4)
    named.points = named.points[::20]
    named.header["minor"] = 6
    named.thread(4242, "python3")
    named.thread(4243, "worker")
    named.status["spans_left_out"] = 12
    named.span(0, 12_000_000_000, "outer", begin_bytes=1 << 20, end_bytes=140 << 20, begin_rss_bytes=1 << 23, end_rss_bytes=1 << 28)
    for i in range(20):
        named.span(i * 500_000_000, (i + 1) * 500_000_000, code=1 + i % 3, thread=4242 + i % 11, begin_bytes=80 << 20, end_bytes=90 << 20)
    named.span(6_000_000_000, 0, "open", begin_bytes=100 << 20)
    named.span(1, 5, "torn", sequence=3)
    named.span(1, 5, "free", serial=0)
    named.span(9, 5, "backwards")
    named.span(1 << 63, (1 << 64) - 1, code=0xffffffff, begin_bytes=(1 << 64) - 1, end_rss_bytes=(1 << 64) - 1, begin_rss_bytes=1, thread=0)
    named.spans.append(SPAN.pack(2, 0xffffffff, 0xffffffff, 0, 5, 0, 0, 0, 0, 0, 0, 0))
    yield "spans", named.bytes(spare=False)
    hostile = shop(spans=4)
    hostile.points = [point(sequence=3, time_ns=1)]
    hostile.nodes += [NODE.pack(0xffffffff, 0xffffffff, -5, 0), NODE.pack(2, 1, 0x7fffffff, 9)]
    hostile.site(len(hostile.nodes) - 1, live_bytes=1 << 63, total_bytes=(1 << 64) - 1)
    hostile.site(9999, live_bytes=1)
    hostile.code("\x1b[31mred\x07", file=b"/\xff\xfe\xe2\x80\xae.py", table=b"\x80" * 7)
    yield "hostile", hostile.bytes(spare=False)
    yield "native", server(spans=4).bytes(spare=False)
    mixed = database(spans=4)
    mixed.points = []
    yield "native-python", mixed.bytes(spare=False)
    lost = server(spans=4)
    lost.header["python_version"] = 0x030D00F0
    made = lost.module("", base=0)
    for code in (lost.module("/\x1b[2J (deleted)", base=(1 << 64) - 0x1000, vaddr=(1 << 64) - 1), made):
        lost.site(lost.node(lost.node(len(lost.nodes) - 1, code, -1), 1, 0x7fffffff), domain=NATIVE, live_bytes=1 << 40)
    lost.codes.append(CODE.pack(7, 7, 7, 0xffff, 0xffffffff, -1, NATIVE_CODE | 1, 0xffffffff))
    lost.codes.append(CODE.pack(0xffffffff, 0, 0, 0, 0, 0, NATIVE_CODE, 0xffffffff))
    for code in (len(lost.codes) - 2, len(lost.codes) - 1):
        lost.site(lost.node(len(lost.nodes) - 1, code, 5), domain=NATIVE, live_bytes=1 << 40)
    yield "native-hostile", lost.bytes(spare=False)


if __name__ == "__main__":
    import sys
    if os.path.isdir(sys.argv[1]):
        for name, data in corpus():
            with open(os.path.join(sys.argv[1], name), "wb") as f:
                f.write(data)
    else:
        shop().write(sys.argv[1])
