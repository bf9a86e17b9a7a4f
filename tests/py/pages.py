"""What the tests of pages share: what a page holds, read without a browser, and captures that are hard to draw."""

import base64
import html.parser
import json
import random

import capture_writer as cw

HOSTILE_NAMES = (
    b"</script><script>broken()</script>", b"<img src=x onerror=broken()>", b"<!--", b"-->", b"]]>", b"' onclick='broken()",
    b'" onclick="broken()', b"&lt;b&gt;", b"\xff\xfe", b"\x1b[2J\x9b31m", b"\xe2\x80\xaekcab", b"\\u003c", b"${broken()}",
    b"__proto__", b"constructor", b"caf\xc3\xa9 \xf0\x9f\x8d\xb0", b"%s%n", b"a" * 5000, b" ", b"/(/")


class Page(html.parser.HTMLParser):
    """Tags of a page, the JSON in it, and what a browser would load from elsewhere."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.scripts, self.loads, self.text, self.ids, self.data = [], [], [], set(), {}
        self.inside = []
        self.feed(text)
        self.close()
        assert not self.inside, "an element is not closed: %r" % self.inside

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if "id" in attributes:
            assert attributes["id"] not in self.ids, "two elements of one id"
            self.ids.add(attributes["id"])
        assert not any(name.startswith("on") for name in attributes), "a script in an attribute"
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attributes.get(name) or ""
            if value and not value.startswith(("#", "data:,")):
                self.loads.append((tag, value))
        if tag in ("script", "style"):
            self.inside.append((tag, attributes))
            self.scripts.append([attributes, ""])

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            (opened, attributes) = self.inside.pop()
            assert opened == tag
            if attributes.get("type") == "application/json":
                self.data[attributes["id"]] = json.loads(self.scripts[-1][1])

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1][1] += data
        else:
            self.text.append(data)


def numbers(packed):
    value = shift = 0
    for byte in base64.b64decode(packed, validate=True):
        value |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            yield value
            value = shift = 0
    assert shift == 0


def difference(value):
    return -(value + 1) // 2 if value % 2 else value // 2


def unpack_flame(data):
    """The page's tree: frames (name, file, group, line), nodes (parent, frame), leaves by node as lists of figures."""
    strings, read = data["strings"], iter(numbers(data["frames"]))
    frames = [(strings[name], strings[next(read)], strings[next(read)], next(read)) for name in read]
    nodes, read = [(0, 0)], iter(numbers(data["nodes"]))
    for back in read:
        nodes.append((len(nodes) - back, next(read)))
    assert all(parent < i or i == 0 for i, (parent, _) in enumerate(nodes))
    leaves, node, read = {}, 0, iter(numbers(data["leaves"]))
    for first in read:
        node += difference(first)
        figures = [next(read) for _ in range(6)]
        kib, at = 0, []
        for _ in data["moments_ns"][:-1]:
            kib += difference(next(read))
            at.append(kib << 10)
        assert node not in leaves and 0 <= node < len(nodes)
        leaves[node] = figures + at + [figures[0]]
        if "before" in data:
            leaves[node].append([next(read) for _ in range(3)])
    return frames, nodes, leaves


def hostile():
    """Names that would break a page, or a script, if they got through."""
    c = cw.shop()
    for name in HOSTILE_NAMES:
        inner = c.code(name, file=b"/tmp/" + name + b".py", qualified_name=name)
        outer = c.code(name, file=b"", qualified_name=name)
        c.site(c.stack((outer, 1), (inner, 2)), live_bytes=1 << 20, live_blocks=3, total_bytes=2 << 20, total_blocks=9)
    c.header["command_line"] = c.string(b"python3\x1f/srv/</title><script>broken()</script>.py\x1f")
    c.event(6_000_000_000, 5, "</script><script>broken()</script> a note")
    return c


def many(sites=100_000, depth=18, seed=7, spans=12):
    """A capture with `sites` stacks, as a large program has them: few frames outside, many inside."""
    c, choose = cw.Capture("large.py"), random.Random(seed)
    codes = [c.code("function_%d" % i, file="/srv/shop/part%d/module_%d.py" % (i % 40, i % 900), lines=40, first_line=1 + i % 700,
                    qualified_name="Class%d.function_%d" % (i % 2000, i)) for i in range(12_000)]
    levels = [[c.node(0, codes[0], 2)]]
    for level in range(1, depth):
        wide = min(sites // 4, 3 ** level)
        levels.append([c.node(choose.choice(levels[-1]), choose.choice(codes), 2 * choose.randrange(39)) for _ in range(wide)])
    inner = [node for nodes in levels[2:] for node in nodes]
    for _ in range(sites):
        node = c.node(choose.choice(inner), choose.choice(codes), 2 * choose.randrange(39))
        live = int(choose.paretovariate(0.9) * 200)
        site = c.site(node, live_bytes=live, live_blocks=1 + live // 100, total_bytes=live * 3, total_blocks=3 + live // 30,
                      peak_bytes=live + 50, peak_blocks=2 + live // 100, peak_serial=9, mark=spans - 1, samples_total=3)
        level = 0
        for i in range(spans):
            level += choose.randrange(3) * (live >> 10) // spans
            site.at_mark[i] = level
    total, live = sum(s.total_bytes for s in c.sites), sum(s.live_bytes for s in c.sites)
    end = 60_000_000_000
    c.marks = [(end * i // spans, total * i // spans) for i in range(spans)]
    for i in range(1, 200):
        c.points.append(cw.point(time_ns=end * i // 200, allocated_bytes=total * i // 200, live_bytes=live * i // 200,
                                 live_blocks=1000 * i, mark=i * spans // 200))
    c.now = cw.point(time_ns=end, allocated_bytes=total, allocated_blocks=3 * sites, live_bytes=live, live_blocks=sites,
                     samples=3 * sites, arenas=3, pools_used=1610, mark=spans - 1)
    c.header["end_ns"] = end
    c.status.update(peak_serial=9, peak_bytes=live, peak_ns=end, recorded_live_bytes=live, recorded_total_bytes=total, object=total)
    return c


if __name__ == "__main__":
    import sys
    many(int(sys.argv[2])).write(sys.argv[1])
