"""The figures of a line profile as text, beside the source."""

import os

from .tracker import _format_size

_WIDTHS = (6, 9, 12, 11, 11, 11, 9)
_WIDTH_MORE = 14
_SOURCE = 24  # columns of a terminal that are kept for the source, if figures must go for them
_FIRST_TO_GO = "Blocks", "Freed", "Native alloc.", "Peak", "Allocated"
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


def _row(row, widths):
    return "".join(str(cell).rjust(width) for cell, width in zip(row, widths))


def _layout(rows, width):
    """(places of the columns that are shown, their widths): all of them, so wide as always; in a terminal of so many columns no wider than
    need be, and without some where the source had no room."""
    places = list(range(len(rows[0])))
    if not width:
        return places, _WIDTHS + (_WIDTH_MORE,) * (len(places) - len(_WIDTHS))
    need = [max(len(str(row[place])) for row in rows) + (2 if place else 0) for place in places]
    for name in _FIRST_TO_GO:
        if sum(need[place] for place in places) + 2 + _SOURCE > width and name in rows[0]:
            places.remove(rows[0].index(name))
    return places, [need[place] for place in places]


def _cut(text, room, mark):
    return text if len(text) <= room else text[:room - len(mark)] + mark


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


def _function(function, color, width, mark):
    paint = (lambda text, how: how + text + _PLAIN) if color else (lambda text, how: text)
    place, figures = heading(function)
    source = function.source()
    yield paint(place, _BOLD) + "  " + figures
    for note in notes(function, source):
        yield paint("note: " + note, _DIM)
    most = max([line.allocated for line in function.lines] + [1])
    known = {line.line: line for line in function.lines}
    last = function.first_line + len(source) - 1 if source else function.last_line
    head = [name for name, _ in columns(function)]
    numbers = [number for number in range(function.first_line, last + 1) if source or (number in known and known[number].hits)]
    rows = [head] + [cells(function, known[number]) if number in known else (number,) + ("",) * (len(head) - 1) for number in numbers]
    places, widths = _layout(rows, width)
    if len(places) < len(head):
        yield paint("note: %d columns have no room for %s; in a file (--lines-output) or a pipe there is" % (
            width, ", ".join(name for place, name in enumerate(head) if place not in places)), _DIM)
    rows = [_row([row[place] for place in places], widths) for row in rows]
    yield paint(rows[0] + "  Source", _DIM)
    for number, row in zip(numbers, rows[1:]):
        line = known.get(number)
        text = clean(source[number - function.first_line]) if source else ""
        if width:
            text = _cut(text, max(width - len(row) - 2, _SOURCE), mark)
        if line and 2 * line.allocated >= most > 1:
            row = paint(row, _HOT)
        elif not line or not line.hits:
            row = paint(row, _DIM)
        yield (row + "  " + text).rstrip()


def _width_of(stream):
    """Columns of a terminal; None: it is none."""
    if not (hasattr(stream, "isatty") and stream.isatty()):
        return None
    try:
        return int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(stream.fileno()).columns or 80
    except (AttributeError, OSError, ValueError):
        return 80


def table(functions, stream=None, color=None):
    color = _wants_color(stream) if color is None else color
    mark = "\u2026" if "utf" in (getattr(stream, "encoding", None) or "").lower() else "..."
    return "".join("\n".join(_function(function, color, _width_of(stream), mark)) + "\n\n" for function in functions)
