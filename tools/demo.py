#!/usr/bin/env python3
"""The demonstration behind `make run`: a small shop with a leak, and what it costs to find it.

    python3 tools/demo.py [--python P] [--orders N] [--rounds N] [--without-tracemalloc]

examples/shop.py runs on the stock interpreter, on the stock interpreter under tracemalloc, and under
`heapkeeper run`, which records every block, or with --sample a sample. Everything that is printed is measured in these runs
or read from the report of the last record of every block.

Those that are close, stock and heapkeeper's two, take turns for some rounds: their ratios are the medians of the rounds'
ratios. tracemalloc is not close, slow, and runs once. CPU is user and system time of the process, as the kernel
counts it.

Exit status 1: the programs' outputs differ, or the report does not name the line that leaks and only that one. Which
it is, is read from the program: it carries the comment "# the leak".
"""

import argparse
import ast
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

TREE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHOP = os.path.join(TREE, "examples", "shop.py")
MARK = "# the leak"
FRAMES = 25
ROWS = {
    "stock": "stock",
    "tracemalloc": "stock + tracemalloc, %d frames" % FRAMES,
    "sampled": "heapkeeper run --sample",
    "exact": "heapkeeper run: every block",
}
BARS = 8
MIB = 1 << 20


class Failed(Exception):
    """What went wrong, in words for the user."""


# --- running and measuring ---


class Run:
    def __init__(self, cpu, peak_rss, output):
        self.cpu, self.peak_rss, self.output = cpu, peak_rss, output


def clean_environment(**extra):
    """Ours, without what would change an interpreter or an allocator."""
    names = ("PYTHON", "LD_PRELOAD", "HEAPKEEPER_", "MALLOC_", "GLIBC_TUNABLES")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return dict(kept, PYTHONHASHSEED="0", **extra)


def measure(words, **environment):
    """Runs a program to its end; CPU seconds and bytes of it alone."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                   env=clean_environment(**environment))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            last = err.read().decode(errors="replace").strip().splitlines()[-1:]
            raise Failed("%s ended with status %d: %s" % (" ".join(words), process.returncode, "".join(last)))
        return Run(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, out.read())


def read_report(command, capture):
    done = subprocess.run([command, "report", "--json", capture], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=clean_environment())
    if done.returncode != 0:
        raise Failed("heapkeeper report: %s" % done.stderr.decode(errors="replace").strip())
    return json.loads(done.stdout.decode("utf-8", "surrogateescape"))


def find_python(word):
    """(path, version) of the interpreter itself, which is not always what PATH has: that may be a script."""
    if shutil.which(word) is None:
        raise Failed("%s: no such Python; name another with --python" % word)
    question = "import platform, sys; print(sys.executable); print(platform.python_version())"
    done = subprocess.run([word, "-c", question], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, env=clean_environment())
    if done.returncode != 0:
        raise Failed("%s does not run: %s" % (word, done.stderr.strip()))
    path, version = done.stdout.splitlines()
    return path or shutil.which(word), version


class Progress:
    """One line on stderr that says what is being done; nothing where nobody looks."""

    def __init__(self, steps):
        self.steps, self.step, self.shown = steps, 0, sys.stderr.isatty()

    def next(self, text):
        self.step += 1
        if self.shown:
            print("\r\033[K[%d/%d] %s" % (self.step, self.steps, text), end="", file=sys.stderr, flush=True)

    def done(self):
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def run_all(options, python, command, directory):
    """{name: [Run, ...]} of stock, tracemalloc, heapkeeper's samples and its every block, and the report of the last of these."""
    program = [python, SHOP, "--orders", str(options.orders)]
    capture = os.path.join(directory, "shop.capture")
    sample = "--sample" + ("=" + options.sample if options.sample else "")
    turns = {
        "stock": program,
        "sampled": [command, "run", sample, "-o", "/dev/null"] + program,
        "exact": [command, "run", "--force", "-o", capture] + program,
    }
    runs = {name: [] for name in ("stock", "tracemalloc", "sampled", "exact")}
    progress = Progress(len(turns) * options.rounds + (not options.without_tracemalloc))
    try:
        measure([python, SHOP, "--orders", "1"])  # the modules are compiled, the files read
        for i in range(options.rounds):
            for name in list(turns) if i % 2 == 0 else list(turns)[::-1]:
                progress.next(ROWS[name])
                runs[name].append(measure(turns[name]))
            if i == options.rounds // 2 and not options.without_tracemalloc:
                progress.next(ROWS["tracemalloc"] + " (slow)")
                runs["tracemalloc"].append(measure(program, PYTHONTRACEMALLOC=str(FRAMES)))
    finally:
        progress.done()
    return runs, read_report(command, capture)


# --- is the answer right? ---


def marked_line(path):
    """(function, line) of the line that carries the mark."""
    with open(path, encoding="utf-8") as file:
        source = file.read()
    marked = [i for i, text in enumerate(source.splitlines(), 1) if text.rstrip().endswith(MARK)]
    if len(marked) != 1:
        raise Failed('%s: %d lines end in "%s", not one' % (path, len(marked), MARK))
    inside = [node for node in ast.walk(ast.parse(source))
              if isinstance(node, ast.FunctionDef) and node.lineno <= marked[0] <= node.end_lineno]
    return max(inside, key=lambda node: node.lineno).name, marked[0]


def place(line):
    return "%s:%d in %s" % (os.path.basename(line["file"] or "?"), line["line"], line["function"])


def check_outputs(runs):
    outputs = {name: run.output for name in runs for run in runs[name]}
    for name, output in outputs.items():
        if output != outputs["stock"]:
            raise Failed("the program printed %r under %s, %r on the stock interpreter" % (
                output.decode(errors="replace"), name, outputs["stock"].decode(errors="replace")))


def answer(report):
    """The growing line. Fails unless the report names the one that is marked, and no other."""
    function, line = marked_line(SHOP)
    wanted = {"file": SHOP, "line": line, "function": function}
    growing = [found for found in report["lines"] if found["growing"]]
    right = [found for found in growing if (found["function"], found["line"]) == (function, line)
             and os.path.realpath(found["file"]) == os.path.realpath(SHOP)]
    if right and len(growing) == 1:
        return right[0]
    said = ", ".join(place(found) for found in growing) or "no line"
    why = ["its allocator: %s %s" % (report["watch"], report["watch_name"])] if report["watch"] != "ours" else []
    why += [note if isinstance(note, str) else json.dumps(note) for note in report["notes"]]
    raise Failed("wrong answer: %s leaks, and the report says that %s keeps growing%s" % (
        place(wanted), said, "".join("\n  " + text for text in why)))


# --- the screen ---


class Screen:
    """Text for stdout: colour on a terminal only, plain ASCII where the encoding has no more."""

    STYLES = {"bold": "1", "dim": "2", "red": "1;31", "green": "1;32"}

    def __init__(self):
        self.colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self.dot = " · " if self.utf8 else ", "
        self.bars = "▁▂▃▄▅▆▇█" if self.utf8 else "_.-:=+*#"

    def style(self, text, style):
        return "\033[%sm%s\033[0m" % (self.STYLES[style], text) if self.colour else text

    def print(self, text=""):
        text = text.rstrip()
        print(text if self.utf8 else text.encode("ascii", "replace").decode())

    def sparkline(self, values):
        most = max(values) or 1
        return "".join(self.bars[min(int(value / most * len(self.bars)), len(self.bars) - 1)] for value in values)


def count(number):
    return "{:,}".format(number).replace(",", " ")


def mib(size):
    return "%.0f MiB" % (size / MIB)


def over_time(line, report):
    """The line's live bytes at BARS moments, evenly in time. at_mark[i] is the value when the next span begins."""
    marks, values = report["marks"], line["at_mark"]
    ends = [mark["time_ns"] for mark in marks[1:]] + [report["duration_ns"]]
    points = [(0, 0)] + list(zip(ends, values))
    found = []
    for i in range(1, BARS + 1):
        moment = report["duration_ns"] * i / BARS
        after = next((k for k in range(1, len(points)) if points[k][0] >= moment), len(points) - 1)
        (t0, v0), (t1, v1) = points[after - 1], points[after]
        found.append(v1 if t1 == t0 else v0 + (v1 - v0) * min(1, (moment - t0) / (t1 - t0)))
    return found


def stack_of(line, report):
    """The call path over which most of the line's bytes came, outermost first."""
    same = ("file", "line", "function")
    sites = [site for site in report["sites"] if all(site[key] == line[key] for key in same)]
    frames = max(sites, key=lambda site: site["live_bytes"])["stack"]
    return " > ".join("%s:%d" % (f["function"], f["line"]) for f in frames if f["function"] != "<module>")


def print_table(screen, options, version, runs):
    title = "shop.py, %s orders (Python %s)" % (count(options.orders), version)
    stock = [run.cpu for run in runs["stock"]]
    ratios = {name: statistics.median(run.cpu / cpu for run, cpu in zip(runs[name], stock)) for name in ("stock", "sampled", "exact")}
    if runs["tracemalloc"]:
        ratios["tracemalloc"] = runs["tracemalloc"][0].cpu / statistics.median(stock)
    tells = {"stock": "nothing", "tracemalloc": "lines", "sampled": "who grows", "exact": "all of this:"}
    width = max(40, len(title) + 2)
    screen.print(screen.style("%-*s  %5s  %10s   %s" % (width, title, "CPU", "peak RSS", "tells you"), "bold"))
    for name in ROWS:
        if name in ratios:
            peak = statistics.median(run.peak_rss for run in runs[name])
            screen.print("  %-*s %5.2fx  %10s   %s" % (width - 2, ROWS[name], ratios[name], mib(peak), tells[name]))
    screen.print()


def print_answer(screen, line, report):
    growth = "+%s, still growing" % mib(line["live_bytes"])
    screen.print("%s  %s  %s   %s" % (screen.style("GROWING", "red"), screen.style(place(line), "bold"), growth,
                                      screen.style(screen.sparkline(over_time(line, report)), "red")))
    flat = [other for other in report["lines"]
            if not other["growing"] and os.path.basename(other["file"] or "") == os.path.basename(line["file"])]
    largest = max(flat, key=lambda other: other["live_bytes"], default=None)
    beside = ""
    if largest:
        beside = "      (not: %s, %s:%d, %s, flat)" % (largest["function"], os.path.basename(largest["file"]),
                                                       largest["line"], mib(largest["live_bytes"]))
    screen.print("         %s%s" % (stack_of(line, report), screen.style(beside, "dim")))


def print_heap(screen, heap):
    parts = ("%s arenas" % count(heap["arenas"]),
             "%s pools (%s used, %s full, %s empty)" % tuple(
                 count(heap[key]) for key in ("pools", "pools_used", "pools_full", "pools_empty")),
             "%s live of %s" % (mib(heap["live_bytes"]), mib(heap["mapped_bytes"])))
    screen.print("%s     %s" % (screen.style("Heap", "bold"), screen.dot.join(parts)))


def print_how(screen, options, python, command):
    shown = os.path.relpath(command) if not os.path.relpath(command).startswith("..") else command
    screen.print("%s     %s" % (screen.style("Next", "bold"), screen.style(
        "%s run python3 YOUR.py     %s report" % (shown, shown), "green")))
    rounds = "one round" if options.rounds == 1 else "median of %d rounds" % options.rounds
    once = "" if options.without_tracemalloc else "; tracemalloc ran once"
    screen.print(screen.style("         %s; CPU: %s%s" % (python, rounds, once), "dim"))


def parse_arguments():
    parser = argparse.ArgumentParser(description="A shop with a leak: what it costs to find it.")
    parser.add_argument("--python", default="python3", metavar="P", help="the interpreter (default: python3 on PATH)")
    parser.add_argument("--orders", type=int, default=40_000, metavar="N", help="orders that the shop takes "
                        "(default: 40000; its cache is full after 7000)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of those that are close (default: 5)")
    parser.add_argument("--sample", metavar="BYTES", help="mean distance between samples (default: heapkeeper's)")
    parser.add_argument("--without-tracemalloc", action="store_true", help="leave out the slow one")
    options = parser.parse_args()
    if options.rounds < 1 or options.orders < 1:
        parser.error("--rounds and --orders are 1 or more")
    return options


def main():
    options = parse_arguments()
    build = os.path.abspath(os.environ.get("HEAPKEEPER_BUILD") or os.path.join(TREE, "build"))
    command = os.path.join(build, "heapkeeper")
    if not os.access(command, os.X_OK):
        raise Failed("%s is not there; run make" % os.path.relpath(command))
    python, version = find_python(options.python)
    with tempfile.TemporaryDirectory(prefix="heapkeeper-demo-") as directory:
        runs, report = run_all(options, python, command, directory)
    screen = Screen()
    print_table(screen, options, version, runs)
    check_outputs(runs)
    line = answer(report)
    print_answer(screen, line, report)
    print_heap(screen, report["heap"])
    print_how(screen, options, python, command)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        print("demo: %s" % failure, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
