"""The figures of a line profile as text, beside the source."""

import os
import shutil

from .tracker import _format_size

_WIDTHS = (6, 9, 12, 11, 11, 11, 9)
_WIDTH_MORE = 14
_BOLD, _DIM, _HOT, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[33m", "\x1b[0m"


def clean(text):
    """Without what a terminal would act on."""
    return "".join(c if c.isprintable() else "?" for c in text.expandtabs(4))


def _wants_color(stream):
    return hasattr(stream, "isatty") and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _size(bytes_, signed=False):
    return _format_size(bytes_, signed) if bytes_ else "0"


_COLUMNS = (("Line", "its number in the file"), ("Hits", "how often it was come to"), ("Net", "allocated less freed while it ran"),
            ("Allocated", "bytes that were asked for"), ("Freed", "bytes that were given back"),
            ("Peak", "the most that lived above what lived when it began, of all visits"), ("Blocks", "that were allocated"))
_NATIVE_COLUMNS = (("Native net", "the same of what C code allocated by malloc"), ("Native alloc.", "bytes that malloc gave"))
_RSS_COLUMNS = (("RSS", "what the process's resident size rose by while it ran, whoever did it"),)


def columns(function):
    """(name, meaning) of what is shown for a line."""
    return _COLUMNS + (_NATIVE_COLUMNS if function.has_native else ()) + (_RSS_COLUMNS if function.has_rss else ())


def cells(function, line):
    """A line's, as text; empty where it did not run."""
    if not is_seen(line):
        return (line.line,) + ("",) * (len(columns(function)) - 1)
    found = (line.line, line.hits or "", _size(line.net, True), _size(line.allocated), _size(line.freed), _size(line.peak), line.blocks)
    if function.has_native:
        found += (_size(line.native_net, True), _size(line.native_allocated))
    return found + ((_size(line.rss, True),) if function.has_rss else ())


def is_seen(line):
    return bool(line.hits or line.allocated or line.freed or line.native_allocated or line.native_freed or line.rss)


def _row(row):
    return "".join(str(cell).rjust(width) for cell, width in zip(row, _WIDTHS + (_WIDTH_MORE,) * (len(row) - len(_WIDTHS))))


def heading(function):
    calls = "%d call%s" % (function.calls, "" if function.calls == 1 else "s")
    figures = "%s, net %s, allocated %s in %d block%s, peak %s" % (
        calls, _size(function.net, True), _size(function.allocated), function.blocks, "" if function.blocks == 1 else "s",
        _size(function.peak))
    if function.has_native:
        figures += "; native: net %s, allocated %s" % (_size(function.native_net, True), _size(function.native_allocated))
    if function.has_rss:
        figures += "; resident size %s" % _size(function.rss, True)
    return "%s: %s" % (clean(function.filename), clean(function.qualname)), figures


def notes(function, source):
    if not function.calls and not any(line.hits for line in function.lines):
        yield "it was not called"
    if not source:
        yield "its source cannot be read: %s" % clean(function.filename)
    elif function.source_changed:
        yield "its source was changed after the program began: the text may not be what ran"


def _function(function, color, width):
    paint = (lambda text, how: how + text + _PLAIN) if color else (lambda text, how: text)
    place, figures = heading(function)
    source = function.source()
    yield paint(place, _BOLD) + "  " + figures
    for note in notes(function, source):
        yield paint("note: " + note, _DIM)
    yield paint(_row([name for name, _ in columns(function)]) + "  Source", _DIM)
    most = max([line.allocated for line in function.lines] + [1])
    known = {line.line: line for line in function.lines}
    last = function.first_line + len(source) - 1 if source else function.last_line
    for number in range(function.first_line, last + 1):
        line = known.get(number)
        if not source and (line is None or not line.hits):
            continue
        text = clean(source[number - function.first_line]) if source else ""
        row = _row(cells(function, line) if line else (number,) + ("",) * (len(columns(function)) - 1))
        if width:
            text = text[:max(width - len(row) - 2, 20)]
        if line and 2 * line.allocated >= most > 1:
            row = paint(row, _HOT)
        elif not line or not line.hits:
            row = paint(row, _DIM)
        yield (row + "  " + text).rstrip()


def table(functions, stream=None, color=None):
    color = _wants_color(stream) if color is None else color
    width = shutil.get_terminal_size().columns if hasattr(stream, "isatty") and stream.isatty() else None
    return "".join("\n".join(_function(function, color, width)) + "\n\n" for function in functions)
