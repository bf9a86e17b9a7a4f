"""A line profile as JSON, and as a page of HTML that needs nothing else."""

import html
import json
import sys

from .lines_text import cells, clean, columns, heading, is_seen, notes

_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --dim: #6b7178; --back: #ffffff; --line: #e3e6ea; --bar: #f4c58a; --hot: #8a4b00; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e6ea; --dim: #969ca4; --back: #16181b; --line: #2b2f34; --bar: #6b4a1e; --hot: #f0b367; }
}
body { margin: 2rem; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 0; } p { margin: .2rem 0 .6rem; color: var(--dim); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font: 13px/1.45 ui-monospace, monospace; }
th { text-align: right; font-weight: 600; color: var(--dim); border-bottom: 1px solid var(--line); padding: .2rem .7rem; }
td { text-align: right; white-space: pre; padding: 0 .7rem; }
th.source, td.source { text-align: left; padding-left: 1.4rem; }
td.bar { background: linear-gradient(to left, var(--bar) var(--share), transparent var(--share)); }
tr.quiet td { color: var(--dim); } tr.hot td.bar { color: var(--hot); font-weight: 600; }
@media print { body { margin: 0; } .scroll { overflow: visible; } }
"""

def _sizes(thing, function):
    found = {"net_bytes": thing.net, "allocated_bytes": thing.allocated, "freed_bytes": thing.freed, "peak_bytes": thing.peak,
             "blocks": thing.blocks, "freed_blocks": thing.freed_blocks}
    if function.has_native:
        found.update(native_net_bytes=thing.native_net, native_allocated_bytes=thing.native_allocated, native_freed_bytes=thing.native_freed,
                     native_blocks=thing.native_blocks, native_freed_blocks=thing.native_freed_blocks)
    if function.has_rss:
        found["rss_bytes"] = thing.rss
    return found


def _line(line, function, source):
    at = line.line - function.first_line
    return {"line": line.line, "source": source[at] if at < len(source) else None, "hits": line.hits, **_sizes(line, function),
            "live_bytes": line.live, "live_max_bytes": line.live_max}


def as_json(functions):
    found = []
    for function in functions:
        source = function.source()
        found.append({"qualified_name": function.qualname, "function": function.name, "file": function.filename,
                      "first_line": function.first_line, "last_line": function.last_line, "calls": function.calls, **_sizes(function, function),
                      "start_live_bytes": function.start_live, "source_changed": function.source_changed,
                      "lines": [_line(line, function, source) for line in function.lines]})
    return json.dumps({"format": "heapkeeper-line-profile-1", "program": sys.argv[:1], "python": "%d.%d.%d" % sys.version_info[:3],
                       "functions": found}, indent=1) + "\n"


def _row(function, number, line, text, most):
    shown, kind = cells(function, line) if line else (number,) + ("",) * (len(columns(function)) - 1), "quiet"
    row = ["<td>%s</td>" % cell for cell in shown]
    if line and is_seen(line):
        kind = "hot" if 2 * line.allocated >= most > 1 else ""
        row[3] = '<td class="bar" style="--share:%.1f%%">%s</td>' % (100 * line.allocated / most, shown[3])
    return '<tr class="%s">%s<td class="source">%s</td></tr>' % (kind, "".join(row), html.escape(clean(text)))


def _function(function):
    source, known = function.source(), {line.line: line for line in function.lines}
    most = max([line.allocated for line in function.lines] + [1])
    place, figures = heading(function)
    yield "<h2>%s</h2><p>%s</p>" % (html.escape(place), html.escape(figures))
    for note in notes(function, source):
        yield "<p>note: %s</p>" % html.escape(note)
    yield '<div class="scroll"><table><thead><tr>%s<th class="source">Source</th></tr></thead><tbody>' % "".join(
        '<th title="%s">%s</th>' % (html.escape(meaning), name) for name, meaning in columns(function))
    numbers = range(function.first_line, function.first_line + len(source)) if source else sorted(known)
    for number in numbers:
        yield _row(function, number, known.get(number), source[number - function.first_line] if source else "", most)
    yield "</tbody></table></div>"


def _said(functions):
    if any(function.has_native for function in functions):
        yield " Native: of malloc's memory, which C code allocated."
    if any(function.has_rss for function in functions):
        yield " RSS: of the process, whichever thread it was."


def as_html(functions):
    name = html.escape(clean(sys.argv[0] or "-c"))
    body = "\n".join(part for function in functions for part in _function(function)) or "<p>No function was profiled.</p>"
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
            'content="default-src \'none\'; style-src \'unsafe-inline\'; img-src data:"><meta name="viewport" content="width=device-width">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            "<title>%s: memory by line</title><style>%s</style></head>\n<body><h1>%s: memory by line</h1>\n"
            "<p>Bytes of Python's heap, of the thread that ran the line; with what it called. Bars: allocated.%s</p>\n%s\n</body></html>\n"
            % (name, _STYLE, name, "".join(_said(functions)), body))
