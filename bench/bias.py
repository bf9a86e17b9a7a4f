#!/usr/bin/env python3
"""Is the sampled record true? Ten sites whose allocated bytes are known exactly, over many seeds.

    python3 bench/bias.py [--python P] [--seeds 20] [--mean BYTES] [--json FILE]

Each seed is one program (this file with --program SEED, under `heapkeeper run --sample`): ten functions, each
with one line that allocates at least 200 MB in all, of its own type and sizes (33 bytes to 60 KB, small, medium
and large blocks), called in shuffled portions, blocks dropped at once or kept for a while. Every allocation is
one request of sys.getsizeof(object) bytes, so the program knows the truth and prints it.

`heapkeeper report --json` then says what the record has for the line. A sampled total of T bytes at a mean
distance M has a standard error of sqrt(T * M). Asked for: every site of every seed within 4 standard errors of
the truth, and the sum over all sites and seeds within 1 %.
"""

import argparse
import json
import math
import os
import random
import statistics
import sys
import tempfile

import common
from common import Failed

WITHIN = 4.0
POOLED = 0.01
TARGET = 200_000_000

# ------------------------------------------------------------------------------ the measured program
#
# One line in each function allocates; nothing else on that line does. Sizes come from lists made before, so no
# integer is made in the loops, and ring indexes are small, hence cached.


def site_0(sizes, ring):
    slot = 0
    for size in sizes:
        ring[slot] = bytes(size)
        slot = slot + 1 if slot < 200 else 0


def site_1(sizes, ring):
    for size in sizes:
        bytes(size)


def site_2(sizes, ring):
    slot = 0
    for size in sizes:
        ring[slot] = bytes(size)
        slot = slot + 1 if slot < 100 else 0


def site_3(sizes, ring):
    for size in sizes:
        bytes(size)


def site_4(sizes, ring):
    slot = 0
    for size in sizes:
        ring[slot] = "x" * size
        slot = slot + 1 if slot < 200 else 0


def site_5(sizes, ring):
    for size in sizes:
        "y" * size


def site_6(sizes, ring):
    slot, one = 0, (None,)
    for size in sizes:
        ring[slot] = one * size
        slot = slot + 1 if slot < 150 else 0


def site_7(sizes, ring):
    one = (None,)
    for size in sizes:
        one * size


def site_8(sizes, ring):
    for size in sizes:
        bytes(size)


def site_9(sizes, ring):
    slot = 0
    for size in sizes:
        ring[slot] = bytes(size)
        slot = slot + 1 if slot < 250 else 0


# function, how an object of `size` is made, smallest and largest size
SITES = (
    (site_0, bytes, 32, 32),
    (site_1, bytes, 100, 100),
    (site_2, bytes, 700, 700),
    (site_3, bytes, 30, 450),
    (site_4, lambda size: "x" * size, 64, 64),
    (site_5, lambda size: "y" * size, 40, 3000),
    (site_6, lambda size: (None,) * size, 30, 30),
    (site_7, lambda size: (None,) * size, 21, 120),
    (site_8, bytes, 20000, 20000),
    (site_9, bytes, 100, 60000),
)


def program(seed):
    rnd = random.Random(seed)
    portions = []
    truth = {function.__name__: 0 for function, _, _, _ in SITES}
    for function, make, low, high in SITES:
        sizes = [rnd.randint(low, high) for _ in range(1000 if high < 20000 else 100)]
        weight = sum(sys.getsizeof(make(size)) for size in sizes)
        turns = math.ceil(TARGET * rnd.uniform(1.0, 1.3) / weight)
        truth[function.__name__] = turns * weight
        portions += [(function, sizes, [None] * 251, part) for part in split(turns, rnd)]
    rnd.shuffle(portions)
    for function, sizes, ring, turns in portions:
        for _ in range(turns):
            function(sizes, ring)
    print(json.dumps(truth))


def split(turns, rnd):
    """`turns` in a few random parts."""
    parts = []
    while turns:
        part = min(turns, max(1, int(turns * rnd.uniform(0.1, 0.6))))
        parts.append(part)
        turns -= part
    return parts


# -------------------------------------------------------------------------------------- the judgement


def one_seed(python, seed, mean, directory):
    """{site: (bytes by the record, true bytes)} for one run."""
    capture = os.path.join(directory, "bias-%d.hk" % seed)
    command = common.heapkeeper()
    truth = json.loads(common.run(
        [command, "run", "--sample=%d" % mean, "-o", capture, python, os.path.abspath(__file__), "--program", str(seed)],
    ).output)
    report = json.loads(common.run([command, "report", "--json", capture]).output)
    os.unlink(capture)
    recorded = dict.fromkeys(truth, 0)
    for site in report["sites"]:
        if site["function"] in recorded:
            recorded[site["function"]] += site["total_bytes"]
    if not any(recorded.values()):
        raise Failed("the report names none of the program's functions (state: %s)" % report.get("state"))
    return {name: (recorded[name], truth[name]) for name in truth}


def main():
    parser = argparse.ArgumentParser(description="Bias of the sampled record against known truth.")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--mean", type=int, default=512 * 1024, help="bytes between samples, default 524288")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--program", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.program is not None:
        program(options.program)
        return
    if common.heapkeeper() is None:
        common.refuse("%s/heapkeeper does not exist; run make" % common.build_dir())

    build = common.python_build(options.python)
    print("Python %s, %d seeds, mean distance %d bytes" % (build["version"], options.seeds, options.mean))
    runs = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        for seed in range(options.seeds):
            common.progress("seed %d" % seed)
            try:
                runs.append(one_seed(options.python, seed, options.mean, directory))
            except Failed as failure:
                common.refuse(str(failure), 1)
    common.progress("")

    outside, total_recorded, total_truth, all_errors = [], 0, 0, []
    print("%-8s%12s%10s%12s%12s" % ("site", "true MB", "bias %", "rms errors", "worst"))
    for name in runs[0]:
        errors = []
        for seed, run in enumerate(runs):
            recorded, truth = run[name]
            error = (recorded - truth) / math.sqrt(truth * options.mean)
            errors.append(error)
            if abs(error) > WITHIN:
                outside.append("%s, seed %d: %.1f standard errors (%d of %d bytes)" % (name, seed, error, recorded, truth))
        recorded = sum(run[name][0] for run in runs)
        truth = sum(run[name][1] for run in runs)
        total_recorded += recorded
        total_truth += truth
        all_errors += errors
        print("%-8s%12.0f%+10.2f%12.2f%+12.2f" % (
            name, truth / len(runs) / 1e6, 100 * (recorded / truth - 1),
            math.sqrt(statistics.fmean(error * error for error in errors)), max(errors, key=abs)))
    bias = total_recorded / total_truth - 1
    print("pooled: bias %+.2f %% (one standard error is %.2f %%), rms %.2f standard errors (1.00 if all is right)" % (
        100 * bias, 100 * math.sqrt(options.mean / total_truth),
        math.sqrt(statistics.fmean(error * error for error in all_errors))))
    print("%d of %d sites within %g standard errors" % (len(all_errors) - len(outside), len(all_errors), WITHIN))
    for text in outside:
        print("missed  " + text)
    if abs(bias) > POOLED:
        print("missed  pooled bias above %g %%" % (100 * POOLED))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"build": build, "mean": options.mean, "runs": runs, "bias": bias}, file, indent=1)
    sys.exit(1 if outside or abs(bias) > POOLED else 0)


if __name__ == "__main__":
    main()
