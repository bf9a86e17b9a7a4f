#!/usr/bin/env python3
"""What recording every block costs the programs of pyperformance, beside memray: ratios of CPU time to the same Python.

    python3 bench/pyperf.py [--python P] [--rounds N] [--modes A,B] [--benchmarks A,B] [--seconds S] [--venv DIR] [--json FILE]
                            [--check] [--peer-rounds N] [--from FILE]

pyperformance comes from PyPI, with what its benchmarks need, into a virtual environment that is kept: --venv, default
~/.cache/heapkeeper/venvs/pyperf-VERSION. A benchmark whose needs cannot be had as wheels, or that fails without us, is left out
and named. Each script is run as pyperf's worker: one value to warm up, then three; the number of loops in a value is the one
that takes --seconds in stock Python. In each round every benchmark (in shuffled order) runs once in every mode (in shuffled order).
A process's figure is its smallest value, in CPU seconds; a ratio is taken to `stock` in the same round, what is printed is the median over the
rounds. memray runs in the first --peer-rounds of them (default: all). With --json every value is in the file as soon as it is there; --from prints
the table of such a file and measures nothing.

Modes: stock; again, stock once more: the machine's noise; exact: heapkeeper run --exact; sample; memray; memray-python, with
--trace-python-allocators, which is what exact records.
"""

import argparse
import glob
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile

import common
from common import Failed, Ratios

MODES = ("stock", "again", "exact", "sample", "memray", "memray-python")
GEOMEAN = 1.25  # goal, of exact
CLOCK = os.path.join(common.BENCH, "pyperf_clock")
FRESH_MIB = 64  # free memory to have ready before a process; see common.settle
WHICH = {"argparse": "many_optionals", "async_tree": "none", "networkx": "shortest_path", "pickle": "pickle",
         "sqlglot_v2": "parse"}  # of scripts that hold several and have to be told


def environment_with_pyperformance(python, directory):
    """(its interpreter, {name: script}, [what is left out]); made if it is not there."""
    version = common.python_build(python)["version"]
    directory = directory or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
                                          "heapkeeper", "venvs", "pyperf-" + version)
    inside, marker = os.path.join(directory, "bin", "python3"), os.path.join(directory, "left-out.json")

    def quietly(*words):
        return subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    if not os.path.exists(marker):
        if not (quietly(python, "-m", "venv", directory) and
                quietly(inside, "-m", "pip", "install", "-q", "setuptools<80", "wheel", "pyperformance")):
            common.refuse("pyperformance cannot be installed into %s" % directory, 1)
        quietly(inside, "-m", "pip", "install", "-q", "--only-binary", ":all:", "memray")
        left_out = []
        for needs in scripts_in(directory, "requirements.txt"):
            common.progress("what %s needs" % name_of(needs))
            if not quietly(inside, "-m", "pip", "install", "-q", "-r", needs):
                left_out.append(name_of(needs))
        with open(marker, "w") as file:
            json.dump(left_out, file)
    with open(marker) as file:
        left_out = json.load(file)
    found = {name_of(path): path for path in scripts_in(directory, "run_benchmark.py")}
    return inside, {name: path for name, path in found.items() if name not in left_out}, left_out


def scripts_in(directory, name):
    return sorted(glob.glob(os.path.join(glob.escape(directory), "lib", "python3*", "site-packages", "pyperformance", "data-files",
                                         "benchmarks", "bm_*", name)))


def name_of(path):
    return os.path.basename(os.path.dirname(path))[len("bm_"):]


def command(mode, python, script, directory, loops, values):
    words = [script, *[WHICH[name] for name in [name_of(script)] if name in WHICH], "--worker", "--worker-task=0", "--warmups", "1" if values > 1 else "0", "--values", str(values),
             "--loops", str(loops), "--output", os.path.join(directory, "result")]
    if mode in ("exact", "sample"):
        return [common.heapkeeper(), "run", "--" + mode, "-o", os.path.join(directory, "capture"), "--force", "--python", python, *words]
    if mode.startswith("memray"):
        return [python, "-m", "memray", "run", "-f", "-q", "-o", os.path.join(directory, "log"),
                *(["--trace-python-allocators"] if mode == "memray-python" else []), *words]
    return [python, *words]


def measure(mode, python, script, loops, seed, values=3):
    """The smallest value, seconds of a loop."""
    common.settle(FRESH_MIB)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        environment = dict(common.clean_environment(), PYTHONHASHSEED=str(seed), PYTHONPATH=CLOCK)
        common.run(command(mode, python, script, directory, loops, values), environment, timeout=900)
        with open(os.path.join(directory, "result")) as file:
            result = json.load(file)
        if mode in ("exact", "sample"):
            check_record(mode, os.path.join(directory, "capture"))
    values = [value for benchmark in result["benchmarks"] for run in benchmark["runs"] for value in run.get("values", [])]
    if not values:
        raise Failed("%s: pyperf says no values" % script)
    inner = max(dict(result.get("metadata", {}), **benchmark.get("metadata", {})).get("inner_loops", 1) for benchmark in result["benchmarks"])
    return min(values) * inner


def check_record(mode, capture):
    """A program that was not recorded would be fast."""
    text = subprocess.run([common.heapkeeper(), "report", "--color", "never", capture], stdout=subprocess.PIPE, universal_newlines=True).stdout
    if (" events" if mode == "exact" else " samples") not in text or "no Python stacks" in text:
        raise Failed("%s: not recorded as it should be:\n%s" % (mode, text[:600]))


def choose_loops(python, scripts, seconds):
    """{name: loops}, of the benchmarks that run."""
    chosen, failed = {}, []
    for name, script in scripts.items():
        common.progress("loops of %s" % name)
        try:
            loops, took = 1, measure("stock", python, script, 1, 0, values=1)
            if took < seconds / 2:
                loops = 2 ** max(0, round(math.log2(seconds / max(took, 1e-7))))
            chosen[name] = loops
        except Failed as failure:
            failed.append(name)
            sys.stderr.write("left out: %s: %s\n" % (name, str(failure).splitlines()[-1][:200]))
    return chosen, failed


def rounds(options, python, scripts, loops, modes, save):
    seconds = {mode: {name: [] for name in loops} for mode in modes}
    failures = {}
    for number in range(options.rounds):
        draw = random.Random(number)
        now = [mode for mode in modes if number < options.peer_rounds or not mode.startswith("memray")]
        for done, name in enumerate(draw.sample(sorted(loops), len(loops))):
            for mode in draw.sample(now, len(now)):
                common.progress("round %d, %d of %d, %s, %s" % (number + 1, done + 1, len(loops), name, mode))
                try:
                    value = measure(mode, python, scripts[name], loops[name], number)
                except Failed as failure:
                    failures.setdefault((mode, name), str(failure))
                    value = None
                seconds[mode][name].append(value)
            save(seconds, failures)
    common.progress("")
    return seconds, failures


def ratios_of(seconds, mode):
    return Ratios({name: [value and stock and value / stock for value, stock in zip(values, seconds["stock"][name])]
                   for name, values in seconds[mode].items()})


def print_table(seconds, modes):
    shown = [mode for mode in modes if mode != "stock"]
    ratios = {mode: ratios_of(seconds, mode) for mode in shown}
    ratios = {mode: rows for mode, rows in ratios.items() if rows.rows}
    shown = [mode for mode in shown if mode in ratios]
    print("%-26s%10s" % ("", "stock, ms") + "".join("%15s" % mode for mode in shown))
    for name in sorted(seconds["stock"]):
        stock = [value for value in seconds["stock"][name] if value]
        if stock:
            print("%-26s%10.2f" % (name, 1000 * statistics.median(stock)) + "".join(
                "%15.2f" % ratios[mode].median(name) if name in ratios[mode].rows else "%15s" % "-" for mode in shown))
    for mode in shown:
        rows = ratios[mode].rows
        print("%-14s geomean of %d: %.3f  %.3f to %.3f; worst %s" % (
            (mode, len(rows), ratios[mode].geomean()) + ratios[mode].geomean_interval() +
            (", ".join("%s %.2f" % (name, ratios[mode].median(name)) for name in sorted(rows, key=ratios[mode].median)[-3:]),)))
    return ratios


def main():
    parser = argparse.ArgumentParser(description="What exact recording costs pyperformance's benchmarks.")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--venv", metavar="DIR", help="with pyperformance and memray; made if it is not there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.25, help="that a value takes in stock Python, about")
    parser.add_argument("--modes", type=common.words(MODES), default=["stock", "again", "exact", "memray", "memray-python"])
    parser.add_argument("--benchmarks", metavar="A,B", help="default: all that run")
    parser.add_argument("--peer-rounds", type=int, metavar="N", help="so many rounds have memray, too")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--from", dest="saved", metavar="FILE", help="print what was saved there by --json")
    parser.add_argument("--check", action="store_true", help="exit status 1 if the goal is missed, or fewer than 40 ran")
    options = parser.parse_args()
    if options.saved:
        with open(options.saved) as file:
            saved = json.load(file)
        print(saved["machine"])
        sys.exit(0 if show(saved) or not options.check else 1)
    options.peer_rounds = options.rounds if options.peer_rounds is None else options.peer_rounds
    if common.heapkeeper() is None:
        common.refuse("%s/heapkeeper does not exist; run make" % common.build_dir())
    python, scripts, left_out = environment_with_pyperformance(options.python, options.venv)
    if options.benchmarks:
        wanted = options.benchmarks.replace(",", " ").split()
        for name in wanted:
            if name not in scripts:
                common.refuse("no benchmark %s (there are: %s)" % (name, " ".join(scripts)))
        scripts = {name: scripts[name] for name in wanted}
    modes = [mode for mode in MODES if mode == "stock" or mode in options.modes]
    saved = {"build": common.python_build(python), "machine": common.machine(), "rounds": options.rounds}
    saved["loops"], failed = choose_loops(python, scripts, options.seconds)
    saved["left out"] = sorted(left_out + failed)

    def save(seconds, failures):
        saved.update({"seconds": seconds, "failures": sorted([*key, text] for key, text in failures.items()), "load": os.getloadavg()[0]})
        if options.json:
            with open(options.json + ".new", "w") as file:
                json.dump(saved, file, indent=1)
            os.replace(options.json + ".new", options.json)

    print(saved["machine"])
    rounds(options, python, scripts, saved["loops"], modes, save)
    good = show(saved)
    print("load at the end: %.1f" % os.getloadavg()[0])
    sys.exit(1 if options.check and not good else 0)


def show(saved):
    """Prints it; True: the goal is met."""
    print("Python %s (%s), %d rounds" % (saved["build"]["version"], saved["build"]["kind"], saved["rounds"]))
    if saved["left out"]:
        print("left out: " + " ".join(saved["left out"]))
    ratios = print_table(saved["seconds"], list(saved["seconds"]))
    for mode, name, text in saved["failures"]:
        print("failed: %s, %s: %s" % (mode, name, text.splitlines()[-1][:150]))
    if "exact" not in ratios:
        return True
    value, count = ratios["exact"].geomean(), len(ratios["exact"].rows)
    good = value <= GEOMEAN and count >= 40
    print("%-7s exact, geomean: %.2f, goal <= %.2f; %d benchmarks, goal >= 40" % ("met" if good else "MISSED", value, GEOMEAN, count))
    return good


if __name__ == "__main__":
    main()
