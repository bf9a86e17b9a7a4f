"""What `mprof plot` draws: what belongs into the picture (Picture), and the two who draw it, one as SVG and one by matplotlib.

A picture has a curve for each file and each child, and of a single file the calls of decorated functions: as brackets where each was
entered and left, or, in a flame, as boxes in the depth at which it ran; and a cross at the largest value. Times are seconds since the
first measurement of the file, sizes MiB.
"""

import math
import time
from html import escape

WIDTH, HEIGHT = 1260, 540
LEFT, RIGHT, TOP, BOTTOM = 84, 330, 52, 52
BRACKETS_SHOWN = 400  # more of them are no picture

STYLE = """<style>
svg { background: #ffffff; font: 13px system-ui, sans-serif; }
text { fill: #24292f; } .title { font-size: 15px; font-weight: 600; } .tick { fill: #57606a; font-size: 12px; }
.grid { stroke: #d8dee4; } .axis { stroke: #8c959f; } .most { stroke: #cf222e; stroke-dasharray: 5 4; }
path { fill: none; stroke-width: 1.6; stroke-linejoin: round; } .trend { stroke-width: 1; stroke-dasharray: 2 3; } .bracket { stroke-width: 2.4; }
.call rect { fill-opacity: 0.35; stroke-opacity: 0.7; } .call text { font-size: 11px; }
.s0 { stroke: #24292f; } .s1 { stroke: #0969da; } .s2 { stroke: #bf8700; } .s3 { stroke: #1a7f37; } .s4 { stroke: #8250df; } .s5 { stroke: #bc4c00; }
.s6 { stroke: #cf222e; } .s7 { stroke: #0a7d91; }
rect.s0, rect.s1 { fill: #0969da; } rect.s2 { fill: #bf8700; } rect.s3 { fill: #1a7f37; } rect.s4 { fill: #8250df; } rect.s5 { fill: #bc4c00; }
rect.s6 { fill: #cf222e; } rect.s7 { fill: #0a7d91; }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117; } text { fill: #e6edf3; } .tick { fill: #8d96a0; } .grid { stroke: #21262d; } .axis { stroke: #6e7681; } .most { stroke: #f85149; }
.s0 { stroke: #e6edf3; } .s1 { stroke: #4493f8; } .s2 { stroke: #d29922; } .s3 { stroke: #3fb950; } .s4 { stroke: #a371f7; } .s5 { stroke: #f0883e; }
.s6 { stroke: #f85149; } .s7 { stroke: #39c5cf; }
}
</style>
"""
CURVE_COLOURS = 8
PYLAB_COLOURS = "kbygmcr"


def trend(points):
    """(slope, constant, half of the slope's 95% interval or None) of the straight line nearest to (x, y) points; None: there is none.

    What memory was a moment ago it mostly still is, so measurements count for fewer than they are: by the correlation of each
    deviation with the one before it.
    """
    n = len(points)
    if n < 2:
        return None
    middle_x, middle_y = (sum(point[i] for point in points) / n for i in (0, 1))
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    if spread <= 0:
        return None
    slope = sum((x - middle_x) * (y - middle_y) for x, y in points) / spread
    constant = middle_y - slope * middle_x
    if n < 5:
        return slope, constant, None
    off = [y - constant - slope * x for x, y in points]
    squares = sum(d * d for d in off)
    again = max(0, min(0.98, sum(a * b for a, b in zip(off, off[1:])) / squares)) if squares > 0 else 0
    free = max(3, n * (1 - again) / (1 + again) - 2)  # degrees of freedom
    student = 1.96 + 2.37 / free + 2.8 / free ** 2
    return slope, constant, student * math.sqrt(squares / (n - 2) / spread * (1 + again) / (1 - again))


def _step(span, ticks):
    """1, 2 or 5 times a power of ten, so that there are at most so many steps in the span."""
    if not span > 1e-9:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / ticks))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * ticks >= span * 0.999999)


def _number(value, step):
    return "%.*f" % (max(0, -int(math.floor(math.log10(step) + 1e-9))), value + 0.0)


class Curve:
    def __init__(self, label, points, slope):
        self.name, self.points = label, points
        self.trend = trend(points) if slope else None
        self.slope = ""
        if self.trend:
            self.slope = "slope %.5f" % self.trend[0]
            if self.trend[2] is not None:
                self.slope += " ± %.5f" % self.trend[2]
        self.label = label + " " * bool(self.slope) + self.slope


class Function:
    """Calls of one function: [(entered, memory, left, memory, depth), ...]."""

    def __init__(self, label, calls):
        self.calls = calls
        seconds = sum(call[2] - call[0] for call in calls)
        self.label = "%s %.3fs" % (label, seconds) if len(calls) == 1 else "%s %d calls, %.3fs" % (label, len(calls), seconds)
        self.name = label


class Picture:
    def __init__(self, title=None, slope=False, flame=False, window=None):
        self.title, self.slope, self.flame, self.window = title, slope, flame, window
        self.curves, self.functions, self.crosses = [], [], []

    def add(self, profile, labels, timestamps=True, children=True):
        """What a file holds (mprof.read_mprofile_file); ValueError if that is nothing."""
        points = list(zip(profile["timestamp"], profile["mem_usage"]))
        calls = profile["func_timestamp"]
        if not points:
            raise ValueError('%s has no measurements; it can be deleted with "mprof rm %s"' % (profile["filename"], profile["filename"]))
        for stamps in calls.values():
            for stamp in stamps:
                points += [(stamp[0], stamp[2]), (stamp[1], stamp[3])]
        points.sort()
        start = 0 if "label" in profile else points[0][0]
        label = profile.get("label") or time.strftime("%d / %m / %Y - start at %H:%M:%S", time.localtime(start)) + ".%03d" % (start % 1 * 1000)
        points = [(when - start, mib) for when, mib in points]
        self.curves.append(Curve(label, points, self.slope))
        if timestamps:
            self.crosses.append(max(points, key=lambda point: point[1]))
            self.functions += [Function(labels[name], [(s[0] - start, s[2], s[1] - start, s[3], s[4] if len(s) > 4 else 0) for s in stamps])
                               for name, stamps in calls.items()]
        largest = None
        for pid, measured in profile["children"].items() if children else ():
            points = [(when - start, mib) for mib, when in measured]
            self.curves.append(Curve("child %s" % pid, points, self.slope))
            largest = max([largest or points[0]] + points, key=lambda point: point[1])
        if largest:
            self.crosses.append(largest)

    # --- SVG ---

    def _axes(self):
        """(left, right, bottom, top) in seconds and MiB."""
        if self.window:
            left, right = self.window
        else:
            left = min(0, min(point[0] for curve in self.curves for point in curve.points))
            right = max(point[0] for curve in self.curves for point in curve.points)
        seen = [mib for curve in self.curves for when, mib in curve.points if left <= when <= right] or [0]
        low, high = min(seen), max(seen)
        space = (high - low or high or 1) * 0.06
        return left, right if right > left else left + 1, 0 if low < 0.4 * high else low - space, high + space

    def svg(self):
        """The picture as a file of its own."""
        left, right, bottom, top = self._axes()
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

        def x(when):
            return LEFT + (when - left) / (right - left) * wide

        def y(mib):
            return TOP + (top - mib) / (top - bottom) * high

        out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img">\n<title>%s</title>\n%s' %
               (WIDTH, HEIGHT, escape(_clean(self.title or "memory over time")), STYLE)]
        put = out.append
        if self.title:
            put('<text class="title" x="%d" y="30">%s</text>\n' % (LEFT, escape(_short(self.title, 110))))
        self._put_axes(put, x, y, left, right, bottom, top)
        put('<clipPath id="inside"><rect x="%d" y="%d" width="%d" height="%d"/></clipPath>\n<g clip-path="url(#inside)">\n' %
            (LEFT, TOP - 4, wide + 1, high + 8))
        legend = []
        if self.flame:
            self._put_boxes(put, x, high)
        for number, curve in enumerate(self.curves):
            colour = number % CURVE_COLOURS
            d = "".join("%s%.2f %.2f" % ("L" if i else "M", x(when), y(mib)) for i, (when, mib) in enumerate(curve.points))
            most = max(mib for _, mib in curve.points)
            put('<path class="s%d" d="%s"><title>%s, at most %.3f MiB</title></path>\n' % (colour, d, escape(curve.label), most))
            legend.append((colour, curve.name, ""))
            legend += [(None, curve.slope, "")] if curve.slope else []
            if curve.trend:
                ends = [curve.points[0][0], curve.points[-1][0]]
                put('<path class="trend s%d" d="M%.2f %.2fL%.2f %.2f"/>\n' %
                    ((colour,) + tuple(c for end in ends for c in (x(end), y(curve.trend[1] + curve.trend[0] * end)))))
        if not self.flame:
            for number, function in enumerate(self.functions):
                colour = (number + 1) % CURVE_COLOURS or 1
                self._put_brackets(put, function, colour, x, y)
                legend.append((colour, function.label, "bracket"))
        for when, mib in self.crosses:
            put('<path class="most" d="M%d %.2fH%dM%.2f %dV%d"><title>%.3f MiB at %.3f s</title></path>\n' %
                (LEFT, y(mib), WIDTH - RIGHT, x(when), TOP, HEIGHT - BOTTOM, mib, when))
        put("</g>\n")
        for row, (colour, label, kind) in enumerate(legend[:20]):
            at = TOP + 12 + 22 * row
            if colour is None:
                put('<text class="tick" x="%d" y="%d">%s</text>\n' % (WIDTH - RIGHT + 38, at - 4, escape(label)))
                continue
            shape = "M%d %dh-5v14h5" if kind else "M%d %dm-8 7h18"
            put('<path class="%s s%d" d="%s"/><text x="%d" y="%d">%s</text>\n' %
                (kind, colour, shape % (WIDTH - RIGHT + 22, at - 11), WIDTH - RIGHT + 38, at, escape(_short(label, 44))))
        if len(legend) > 20:
            put('<text class="tick" x="%d" y="%d">and %d more</text>\n' % (WIDTH - RIGHT + 38, TOP + 12 + 22 * 20, len(legend) - 20))
        put("</svg>\n")
        return "".join(out)

    @staticmethod
    def _put_axes(put, x, y, left, right, bottom, top):
        step = _step(top - bottom, 8)
        for i in range(math.ceil(bottom / step), math.floor(top / step) + 1):
            put('<line class="grid" x1="%d" x2="%d" y1="%.2f" y2="%.2f"/><text class="tick" text-anchor="end" x="%d" y="%.2f">%s</text>\n' %
                (LEFT, WIDTH - RIGHT, y(i * step), y(i * step), LEFT - 8, y(i * step) + 4, _number(i * step, step)))
        step = _step(right - left, 10)
        for i in range(math.ceil(left / step), math.floor(right / step) + 1):
            put('<line class="grid" x1="%.2f" x2="%.2f" y1="%d" y2="%d"/><text class="tick" text-anchor="middle" x="%.2f" y="%d">%s</text>\n' %
                (x(i * step), x(i * step), TOP, HEIGHT - BOTTOM, x(i * step), HEIGHT - BOTTOM + 18, _number(i * step, step)))
        put('<path class="axis" d="M%d %dV%dH%d"/>\n' % (LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT))
        put('<text text-anchor="middle" x="%d" y="%d">time (in seconds)</text>\n' % ((LEFT + WIDTH - RIGHT) // 2, HEIGHT - 10))
        put('<text text-anchor="middle" transform="translate(20 %d) rotate(-90)">memory used (in MiB)</text>\n' % ((TOP + HEIGHT - BOTTOM) // 2))

    @staticmethod
    def _put_brackets(put, function, colour, x, y):
        for entered, before, left, after, _ in function.calls[:BRACKETS_SHOWN]:
            put('<path class="bracket s%d" d="M%.2f %.2fh-6v24h6M%.2f %.2fh6v24h-6"><title>%s: %.3f to %.3f MiB in %.3f s</title></path>\n' %
                (colour, x(entered) + 6, y(before) - 12, x(left) - 6, y(after) - 12, escape(function.name), before, after, left - entered))

    def _put_boxes(self, put, x, high):
        calls = [(call, number, function) for number, function in enumerate(self.functions) for call in function.calls]
        depths = 1 + max([call[4] for call, _, _ in calls], default=0)
        each = high / (depths + 1)
        for (entered, before, left, after, depth), number, function in calls[:10 * BRACKETS_SHOWN]:
            at, wide = x(entered), max(1, x(left) - x(entered))
            name = _short(function.name, int(wide / 6.5)) if wide > 20 else ""
            put('<g class="call"><rect class="s%d" x="%.2f" y="%.2f" width="%.2f" height="%.2f"/><text x="%.2f" y="%.2f">%s</text>'
                '<title>%s: %.3f to %.3f MiB in %.3f s</title></g>\n' %
                ((number + 1) % CURVE_COLOURS or 1, at, HEIGHT - BOTTOM - each * (depth + 1), wide, each, at + 4,
                 HEIGHT - BOTTOM - each * (depth + 1) + 14, escape(name), escape(function.name), before, after, left - entered))


def _clean(text):
    """Without what no file of XML may hold."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _short(text, length):
    text = _clean(text)
    return text if len(text) <= length else text[:max(0, length - 1)] + "…"


# --- matplotlib ---


def draw_with_pylab(picture, pylab, index=0):
    """Adds it to matplotlib's current axes."""
    axes = pylab.gca()
    for number, curve in enumerate(picture.curves):
        colour = PYLAB_COLOURS[(index + number) % len(PYLAB_COLOURS)]
        when, mib = zip(*curve.points)
        axes.plot(when, mib, ("-" if picture.flame else "+-") + colour, label=curve.name + ("\n" + curve.slope if curve.slope else ""))
        if curve.trend:
            axes.plot(when, [curve.trend[1] + curve.trend[0] * at for at in when], "--", linewidth=0.5, color=colour)
    if picture.window:
        axes.set_xlim(picture.window)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    wide, high = (right - left) / 60, (top - bottom) / 20
    if picture.flame and picture.functions:
        boxes = axes.twinx()
        boxes.set_yticks([])
        boxes.set_ylim(0, 2 + max(call[4] for function in picture.functions for call in function.calls))
        for number, function in enumerate(picture.functions):
            for entered, _, end, _, depth in function.calls:
                boxes.fill_betweenx((depth, depth + 1), entered, end, color="C%d" % (number % 10), alpha=0.5, linewidth=1)
                boxes.text(entered, depth + 1, function.name, horizontalalignment="left", verticalalignment="top", clip_on=True)
        pylab.sca(axes)
    elif not picture.flame:
        for number, function in enumerate(picture.functions):
            for i, (entered, before, end, after, _) in enumerate(function.calls[:BRACKETS_SHOWN]):
                # Matplotlib shows no label that begins with an underscore.
                options = {"color": "C%d" % (number % 10), "linewidth": 2}
                axes.plot([entered + wide, entered, entered, entered + wide], [before + high, before + high, before - high, before - high],
                          label=" " + function.label if i == 0 else None, **options)
                axes.plot([end - wide, end, end, end - wide], [after + high, after + high, after - high, after - high], **options)
    for when, mib in picture.crosses:
        axes.axhline(mib, color="r", linestyle="--")
        axes.axvline(when, color="r", linestyle="--")


def show_with_pylab(picture, pylab, output=None):
    """The picture in a window, or, if `output` is given, in a file."""
    pylab.ioff()
    figure = pylab.figure(figsize=(14, 6), dpi=90)
    axes = figure.add_axes([0.1, 0.1, 0.8, 0.8] if picture.flame else [0.1, 0.1, 0.6, 0.75])
    draw_with_pylab(picture, pylab)
    axes.set_xlabel("time (in seconds)")
    axes.set_ylabel("memory used (in MiB)")
    axes.set_title(picture.title or "")
    axes.grid(True)
    if not picture.flame:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5)).get_frame().set_alpha(0.5)
    if output is None:
        pylab.show()
    else:
        pylab.savefig(output)
