#!/usr/bin/env python3
"""The soak: programs that strain what an allocator must bear, most of them in Python, minutes long, under `heapkeeper run`.

    python3 tools/soak.py [--minutes M] [--cycles N] [--geometry NAME] [--python P] [--build DIR] [--jobs N] [--keep DIR] [PROGRAM...]

Each program in tests/soak/ verifies its own results all the time, and asks the library now and then, in itself and
in forked children, whether every structure of the heap is valid and its statistics add up (tests/soak/common.py).
At its end the capture is read: the program ended by itself, our heap was in force and stacks were whole to the end,
sites sum to the totals, and the file is within its bound; the captures of forked children, as many as CHILDREN, too.

threads and threads_heap are C (tests/soak/threads.c), and check themselves: the first has its malloc from the heap under
`heapkeeper run`, the second a heap of its own, and no capture. In a sanitized build (make soak SAN=thread) that is the
one to run.

interpreters needs Python 3.12 or later; with --cycles N each of its eight threads makes, works and ends N interpreters,
however long that takes, and --minutes says nothing to it. greenlets needs greenlet: from P itself if it is there, else from a virtual
environment that is made for the run (HEAPKEEPER_SOAK_VENV: one that is kept). Where it cannot be had the program is skipped.

One line for each program, then "N passed, N failed, N skipped". Exit status 1: one failed, or none passed.
"""

import argparse
import concurrent.futures
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

TREE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAMS = os.path.join(TREE, "tests", "soak")
PYTHON_NAMES = ("fork_from_threads", "deep_recursion", "generators", "greenlets", "asyncio_load", "interpreters")
C_NAMES = ("threads", "threads_heap")
NAMES = PYTHON_NAMES + C_NAMES
BOUND = 8 << 20
GRACE = 300  # seconds a program may take beyond its time, for its last round on a busy machine
CHILDREN = 40
SHOWN = 3  # faults of one program that are printed
SAMPLE = "--sample=16K"


class Skipped(Exception):
    """Why a program cannot be run here."""


def environment(**extra):
    names = ("PYTHON", "LD_PRELOAD", "HEAPKEEPER_", "MALLOC_", "GLIBC_TUNABLES", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return dict(kept, PYTHONHASHSEED="0", PYTHONFAULTHANDLER="1", **extra)


# --- greenlet ---


def has_greenlet(python):
    return subprocess.run([python, "-c", "import greenlet"], env=environment(), stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, timeout=60).returncode == 0


def with_greenlet(python, directory):
    """A Python like this one that has greenlet."""
    if has_greenlet(python):
        return python
    venv = os.environ.get("HEAPKEEPER_SOAK_VENV") or os.path.join(directory, "venv")
    made = os.path.join(venv, "bin", "python3")
    if not os.path.exists(made) or not has_greenlet(made):
        for words in ([python, "-m", "venv", venv], [made, "-m", "pip", "install", "-q", "greenlet"]):
            done = subprocess.run(words, env=environment(PIP_DISABLE_PIP_VERSION_CHECK="1"), stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, universal_newlines=True, timeout=300)
            if done.returncode:
                last = (done.stdout.strip().splitlines() or ["no word"])[-1]
                raise Skipped("greenlet is not to be had: %s" % last)
    return made


# --- interpreters ---


def has_own_gil(python):
    """Interpreters with a GIL of their own."""
    return subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 12))"], env=environment(),
                          timeout=60).returncode == 0


# --- captures ---


def read_report(command, capture):
    done = subprocess.run([command, "report", "--json", capture], env=environment(), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=120)
    if done.returncode:
        raise ValueError("report: %s" % done.stderr.decode(errors="replace").strip())
    return json.loads(done.stdout.decode("utf-8", "surrogateescape"))


def sum_faults(report):
    """Where a record does not add up, whatever became of its process."""
    recorder, heap = report["recorder"], report["heap"]
    for name, domain in recorder["domains"].items():
        if domain["sites_total_bytes"] != domain["recorded_total_bytes"]:
            yield "%s: sites have %d bytes of %d" % (name, domain["sites_total_bytes"], domain["recorded_total_bytes"])
    if sum(site["total_bytes"] for site in report["sites"]) != recorder["recorded_total_bytes"]:
        yield "the sites do not sum to the total"
    if heap["unexplained_bytes"] != 0:
        yield "%d mapped bytes in no class" % heap["unexplained_bytes"]
    if sum(domain["allocated_bytes"] for domain in heap["domains"].values()) != heap["allocated_bytes"]:
        yield "the domains do not sum to what was allocated"
    for name in ("dropped_records", "foreign_frees"):
        if recorder[name]:
            yield "%s: %d" % (name, recorder[name])


def main_faults(report, is_python=True):
    watch, stacks = ("ours", "good") if is_python else ("not_python", "untested")
    for name, wanted in (("state", "ended"), ("watch", watch), ("stacks", stacks), ("mode", "sample")):
        if report[name] != wanted:
            yield "%s is %r, not %r" % (name, report[name], wanted)
    if report["samples"] == 0:
        yield "no samples"
    yield from sum_faults(report)


def child_faults(command, capture, is_python):
    """A child may end in any way, but its record holds, and what stacks it has are good."""
    try:
        report = read_report(command, capture)
    except (ValueError, subprocess.TimeoutExpired) as error:
        yield str(error)
        return
    if is_python and (report["stacks"] != "good" or report["watch"] != "ours"):
        yield "stacks %r, watch %r" % (report["stacks"], report["watch"])
    yield from sum_faults(report)


# --- a program ---


class Outcome:
    def __init__(self, name):
        self.name, self.faults, self.skipped, self.facts = name, [], None, ""

    @property
    def line(self):
        if self.skipped:
            return "skipped  %-18s %s" % (self.name, self.skipped)
        return "%-8s %-18s %s" % ("FAILED" if self.faults else "passed", self.name, self.facts)


def text_of(file):
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def facts_of(counts):
    return "%.0f s, %d rounds, %d checks, %s" % (
        counts.get("seconds", 0), counts.get("rounds", 0), counts.get("checks", 0),
        " ".join("%s %d" % each for each in sorted(counts.get("counts", {}).items())))


def run_program(outcome, command, options, python, directory):
    capture = os.path.join(directory, "capture.hk")
    seconds, cycles = options.minutes * 60, options.cycles
    under_us = [command, "run", SAMPLE, "--geometry", options.geometry, "-o", capture]
    words = {
        "threads_heap": [os.path.join(options.build, "tests", "soak", "threads_heap"), "%g" % seconds],
        "threads": [*under_us, os.path.join(options.build, "tests", "soak", "threads"), "%g" % seconds],
    }.get(outcome.name, [*under_us, python, os.path.join(PROGRAMS, outcome.name + ".py"), "%g" % seconds])
    is_counted = cycles is not None and outcome.name == "interpreters"
    words += ["%d" % cycles] if is_counted else []
    start = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(words, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            status = process.wait(None if is_counted else seconds + GRACE)
        except subprocess.TimeoutExpired:
            process.send_signal(6)  # the fault handler says where every thread is
            process.wait()
            status = "still running after %d s" % (seconds + GRACE)
        said, errors = text_of(out), text_of(err)
    if status != 0 or errors:
        outcome.faults.append("status %s after %.0f s%s" % (status, time.monotonic() - start, errors and "\n" + errors))
    facts = {}
    if status == 0:
        try:
            facts = json.loads(said)
        except ValueError:
            outcome.faults.append("it did not finish: %r" % said[-200:])
    outcome.facts = facts_of(facts)
    if outcome.name != "threads_heap":
        read_captures(outcome, command, capture)


def read_captures(outcome, command, capture):
    is_python = outcome.name in PYTHON_NAMES
    children = sorted(path for path in glob.glob(glob.escape(capture) + ".*") if path[len(capture) + 1:].isdigit())
    too_large = [path for path in [capture] + children if os.path.exists(path) and os.path.getsize(path) > BOUND]
    outcome.faults.extend("%s is larger than %d bytes" % (path, BOUND) for path in too_large)
    checked = children[::max(1, -(-len(children) // CHILDREN))]
    for child in checked:
        outcome.faults.extend("%s: %s" % (os.path.basename(child), fault)
                              for fault in child_faults(command, child, is_python))
    try:
        report = read_report(command, capture)
    except (ValueError, subprocess.TimeoutExpired) as error:
        outcome.faults.append(str(error))
        return
    # 3.12 puts its own RAW functions in force for moments, as it makes interpreters while other threads allocate.
    exchanges = outcome.name == "interpreters" and report["python"]["version"].startswith("3.12.")
    outcome.faults.extend(fault for fault in main_faults(report, is_python) if not (exchanges and fault.startswith("foreign_frees")))
    outcome.facts += "; %d sites, %d samples, capture %.1f MiB" % (
        len(report["sites"]), report["samples"], os.path.getsize(capture) / (1 << 20))
    family = report["small_children"]["count"] + len(children)
    if family:
        used = sum(os.stat(path).st_blocks * 512 for path in children) / (1 << 20)
        outcome.facts += "; %d children recorded, %d in files (%.0f MiB), %d of them read" % (
            family, len(children), used, len(checked))


def soak(name, options, directory):
    outcome = Outcome(name)
    own = os.path.join(directory, name)
    os.makedirs(own)
    command = os.path.join(options.build, "heapkeeper")
    try:
        python = with_greenlet(options.python, own) if name == "greenlets" else options.python
        if name == "interpreters" and not has_own_gil(python):
            raise Skipped("before Python 3.12 no interpreter has a GIL of its own")
        run_program(outcome, command, options, python, own)
    except Skipped as why:
        outcome.skipped = str(why)
    except (OSError, subprocess.SubprocessError) as error:
        outcome.faults.append(repr(error))
    print(outcome.line, flush=True)
    for fault in outcome.faults[:SHOWN]:
        print("         %s" % fault.replace("\n", "\n         "), flush=True)
    if len(outcome.faults) > SHOWN:
        print("         and %d more" % (len(outcome.faults) - SHOWN), flush=True)
    if not options.keep and not outcome.faults:
        shutil.rmtree(own)
    return outcome


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=5, metavar="M", help="for each program (default 5)")
    parser.add_argument("--cycles", type=int, metavar="N", help="of interpreters: as many in each thread, not minutes")
    parser.add_argument("--geometry", default="default", metavar="NAME", help="as of heapkeeper run (default: default)")
    parser.add_argument("--python", default=sys.executable, metavar="P", help="the interpreter (default: this one)")
    parser.add_argument("--build", default=os.path.join(TREE, "build"), metavar="DIR", help="where heapkeeper is")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="programs at a time (default 1)")
    parser.add_argument("--keep", metavar="DIR", help="keep all captures in DIR; else only those of failures stay")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(NAMES))
    options = parser.parse_args()
    for name in options.programs:
        if name not in NAMES:
            parser.error("no program %r; there are %s" % (name, ", ".join(NAMES)))
    options.programs = options.programs or list(NAMES)
    options.build = os.path.abspath(options.build)
    if not os.path.exists(os.path.join(options.build, "heapkeeper")):
        parser.error("%s has no heapkeeper; build it, or name its directory by --build" % options.build)
    return options


def main():
    options = parse()
    directory = options.keep or tempfile.mkdtemp(prefix="heapkeeper-soak-")
    os.makedirs(directory, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(max(1, options.jobs)) as pool:
        outcomes = list(pool.map(lambda name: soak(name, options, directory), options.programs))
    skipped = sum(bool(each.skipped) for each in outcomes)
    failed = sum(bool(each.faults) for each in outcomes)
    passed = len(outcomes) - failed - skipped
    if not options.keep and not failed:
        shutil.rmtree(directory)
    elif failed:
        print("the failures' captures are in %s" % directory)
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
