"""The programs of bench/stacks.py: python3 stacks_programs.py few|many [FRAMES]. FRAMES: under tracemalloc.

They keep their blocks, print one line of JSON (CPU seconds, resident bytes, of tracemalloc also what a snapshot by line took) and wait for the
end of their input. They import next to nothing, so that the sites are theirs. CPython 3.9 and later."""

import sys
import time

kept = [None]


def few():
    """Blocks of 34 to 96 bytes, which is what most objects of a program have, from ten lines."""
    slots = [None] * 1_000_000
    kept[0] = slots
    code = ["def fill(slots):", "    at = 0", "    for i in range(len(slots) // 10):", "        size = 1 + i % 63"]
    code += ["        slots[at] = bytes(size); at += 1"] * 10
    space = {}
    exec(compile("\n".join(code), "few.py", "exec"), space)
    space["fill"](slots)


def many():
    """Each function calls the next from ten lines, the first from seven; the last one keeps a tuple. The whole of it three times."""
    code = ["def level6(kept):", "    kept[0] = kept[0], None"]
    for level in range(6):
        code += ["def level%d(kept):" % level] + ["    level%d(kept)" % (level + 1)] * (10 if level else 7)
    space = {}
    exec(compile("\n".join(code), "many.py", "exec"), space)
    for _ in range(3):
        space["level0"](kept)


def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


def main():
    frames = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    if frames:
        import tracemalloc
        tracemalloc.start(frames)
    began = time.process_time()
    {"few": few, "many": many}[sys.argv[1]]()
    said = {"seconds": time.process_time() - began, "resident": resident()}
    if frames:
        wall, cpu = time.perf_counter(), time.process_time()
        tracemalloc.take_snapshot().statistics("lineno")
        said.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
    print("{%s}" % ", ".join('"%s": %s' % pair for pair in said.items()), flush=True)
    sys.stdin.read()
    kept.clear()


if __name__ == "__main__":
    main()
