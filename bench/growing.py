#!/usr/bin/env python3
"""Does the report tell a leak from a cache? Twenty seeded programs, ten with a leak, five runs of each.

    python3 bench/growing.py [--python P] [--programs 0-19] [--seeds 5] [--json FILE]

A program (this file with --program N --seed S, under `heapkeeper run --sample`) is a request loop whose shape
is drawn from N: a start-up table; a cache of one of five kinds that is full before a third of the run is over
and churns from then on; garbage that dies at once; a bounded history. Programs 0 to 9 also have a leak, of one
of five kinds, of 10 to 50 MB in all, at an even pace to the end; the cache is larger than the leak. Programs
10 to 19 have none. S changes the order of events and every size.

Judged is `sites[].growing` of `heapkeeper report --json`. Missed: a run of 0 to 9 in which no site of the leak's
function is marked. False: a marked site anywhere else, in any run (counted once a run). Asked for: none missed,
at most one false.
"""

import argparse
import collections
import json
import os
import random
import sys
import tempfile

import common
from common import Failed

LEAKING = 10
PROGRAMS = 20

# ------------------------------------------------------------------------------- what caches are made of


class Entry:
    def __init__(self, key, size):
        self.key = key
        self.hits = 0
        self.body = bytes(size)


def make_bytes(key, size):
    return bytes(size)


def make_text(key, size):
    return "e%d " % key + "x" * size


def make_list(key, size):
    return [key] * (size // 8)


def make_mapping(key, size):
    return {"key": key, "body": "m" * size, "tags": [key, size]}


def make_entry(key, size):
    return Entry(key, size)


MAKERS = (make_bytes, make_text, make_list, make_mapping, make_entry)


# A cache is a function put(key, value) over `slots` entries.


def cache_ring(slots, rnd):
    ring, place = [None] * slots, [0]

    def put(key, value):
        ring[place[0]] = value
        place[0] = (place[0] + 1) % slots
    return put


def cache_random(slots, rnd):
    table = {}

    def put(key, value):
        table[key if len(table) < slots else rnd.randrange(slots)] = value
    return put


def cache_lru(slots, rnd):
    table = collections.OrderedDict()

    def put(key, value):
        table[key] = value
        if len(table) > slots:
            table.popitem(last=False)
        elif key & 7 == 0 and table:
            table.move_to_end(next(iter(table)))
    return put


def cache_generations(slots, rnd):
    """Two generations: a full young one replaces the old one, as a two-handed TTL cache does, in eight shards."""
    shards = [({}, {}) for _ in range(8)]

    def put(key, value):
        young, old = shards[key & 7]
        young[key] = value
        if len(young) > slots // 16 + (key & 7) * slots // 256:
            shards[key & 7] = ({}, young)
    return put


def cache_deque(slots, rnd):
    queue = collections.deque(maxlen=slots)

    def put(key, value):
        queue.append(value)
    return put


CACHES = (cache_ring, cache_random, cache_lru, cache_generations, cache_deque)

# ------------------------------------------------------------------------------------ leaks
#
# A leak is a function leak_KIND(key, size): whatever it allocates stays.

kept_list = []
kept_table = {}
kept_chain = [None]


def leak_listeners(key, size):
    kept_list.append(bytes(size))


def leak_texts(key, size):
    kept_table[key] = "user %d " % key + "s" * size


def leak_closures(key, size):
    payload = bytearray(size)
    kept_list.append(lambda: payload)


def leak_chain(key, size):
    kept_chain[0] = (kept_chain[0], bytes(size))


def leak_entries(key, size):
    entry = Entry.__new__(Entry)
    entry.key = key
    entry.body = bytes(size)
    kept_table[key] = entry


LEAKS = (leak_listeners, leak_texts, leak_closures, leak_chain, leak_entries)


def garbage(rnd):
    parts = ["%d" % rnd.randrange(100000) for _ in range(8)]
    return {"joined": ",".join(parts), "sorted": sorted(parts)}


def program(number, seed):
    """Runs program `number`; says how much it leaked and how large the cache was."""
    shape = random.Random(1000 + number)
    rnd = random.Random(seed * 7919 + number)
    leak_bytes = int(10e6 * 5 ** (number / (LEAKING - 1))) if number < LEAKING else 0
    leak_size = shape.choice((150, 400, 1000, 3000))
    leak = LEAKS[number % len(LEAKS)]
    cache_bytes = int(max(leak_bytes, shape.uniform(10e6, 40e6)) * shape.uniform(1.3, 2.5))
    entry_size = shape.choice((700, 1500, 2500, 4000))
    make, make_cache = shape.choice(MAKERS), CACHES[number // 2 % len(CACHES)]
    warm = shape.uniform(0.08, 0.3)
    table_bytes = shape.uniform(2e6, 20e6)
    garbage_rate = shape.choice((1, 2, 4))

    table = {key: "constant %d " % key * 8 for key in range(int(table_bytes / 250))}
    history = collections.deque(maxlen=2000)
    slots = int(cache_bytes / entry_size)
    put = make_cache(slots, rnd)
    steps = int(slots / warm)
    leak_every = steps / (leak_bytes / leak_size) if leak_bytes else 0
    next_leak, leaked = leak_every, 0
    for step in range(steps):
        size = rnd.randrange(entry_size // 2, entry_size * 3 // 2)
        put(step, make(step, size))
        if step % garbage_rate == 0:
            history.append(garbage(rnd))
        while leak_bytes and step >= next_leak:
            size = rnd.randrange(leak_size // 2, leak_size * 3 // 2)
            leak(step * 64 + leaked % 64, size)
            leaked += size
            next_leak += leak_every
    print(json.dumps({
        "leak": leak.__name__ if leak_bytes else None, "leaked": leaked, "steps": steps,
        "cache": make_cache.__name__, "cache_bytes": slots * entry_size, "table": len(table)}))


# ------------------------------------------------------------------------------------- the judgement


def leak_call_line():
    """The line in program() that calls the leak: the keys that the leak keeps are made there, so it leaks too."""
    with open(os.path.abspath(__file__)) as source:
        return next(n for n, line in enumerate(source, 1) if line.strip() == "leak(step * 64 + leaked % 64, size)")


def is_right(site, said):
    if not said["leak"]:
        return False
    function = site["function"] or ""
    return said["leak"] in function or (function == "program" and site["line"] == leak_call_line())


def one_run(python, number, seed, directory):
    """(what the program said, the sites marked as growing) of one run."""
    capture = os.path.join(directory, "growing-%d-%d.hk" % (number, seed))
    command = common.heapkeeper()
    said = json.loads(common.run(
        [command, "run", "--sample", "-o", capture, python, os.path.abspath(__file__),
         "--program", str(number), "--seed", str(seed)]).output)
    report = json.loads(common.run([command, "report", "--json", capture]).output)
    os.unlink(capture)
    if not report["sites"]:
        raise Failed("the report has no sites (state: %s)" % report.get("state"))
    return said, [site for site in report["sites"] if site["growing"]]


def site_text(site):
    return "%s:%s in %s, %.1f MB live" % (
        os.path.basename(site["file"] or "?"), site["line"], site["function"], site["live_bytes"] / 1e6)


def numbers(text):
    """0-4,7 as a list."""
    chosen = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        chosen += range(int(low), int(high or low) + 1)
    if not chosen or not set(chosen) <= set(range(PROGRAMS)):
        raise ValueError
    return chosen


def main():
    parser = argparse.ArgumentParser(description="Leaks found and falsely found by `heapkeeper report`.")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--programs", type=numbers, default=list(range(PROGRAMS)), metavar="0-19")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--program", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.program is not None:
        program(options.program, options.seed)
        return
    if common.heapkeeper() is None:
        common.refuse("%s/heapkeeper does not exist; run make" % common.build_dir())

    build = common.python_build(options.python)
    print("Python %s, %d programs, %d runs each" % (build["version"], len(options.programs), options.seeds))
    missed, false, results = [], [], []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        for number in options.programs:
            found, wrong = 0, 0
            for seed in range(options.seeds):
                common.progress("program %d, run %d" % (number, seed))
                try:
                    said, marked = one_run(options.python, number, seed, directory)
                except Failed as failure:
                    common.refuse(str(failure), 1)
                right = [site for site in marked if is_right(site, said)]
                others = [site for site in marked if site not in right]
                found += bool(right)
                wrong += bool(others)
                if said["leak"] and not right:
                    missed.append("program %d, run %d: %s, %.1f MB" % (number, seed, said["leak"], said["leaked"] / 1e6))
                if others:
                    false.append("program %d, run %d: %s" % (number, seed, "; ".join(map(site_text, others))))
                results.append({"program": number, "seed": seed, "said": said, "marked": marked})
            common.progress("")
            leak = "%s, %.0f MB: found in %d of %d" % (
                said["leak"], said["leaked"] / 1e6, found, options.seeds) if said["leak"] else "no leak"
            print("%2d  %-18s %4.0f MB   %s%s" % (
                number, said["cache"], said["cache_bytes"] / 1e6, leak, "   FALSE in %d" % wrong if wrong else ""))
    leaking = sum(1 for result in results if result["said"]["leak"])
    print("missed %d of %d, false in %d of %d" % (len(missed), leaking, len(false), len(results)))
    for text in missed:
        print("missed  " + text)
    for text in false:
        print("false   " + text)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"build": build, "runs": results}, file, indent=1)
    sys.exit(1 if missed or len(false) > 1 else 0)


if __name__ == "__main__":
    main()
