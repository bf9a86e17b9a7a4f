"""What the benchmarks share: running a child and measuring it, finding peers, the statistics, the machine.

A ratio is always taken between two runs of the same round, made one after the other in shuffled order, so
that a slow minute of the machine slows both. The figure reported is the median of those ratios; its 95 %
interval is a percentile bootstrap over the rounds.
"""

import argparse
import atexit
import glob
import json
import math
import mmap
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

BENCH = os.path.dirname(os.path.abspath(__file__))
TREE = os.path.dirname(BENCH)
LIBRARY_DIRS = ("/usr/local/lib", "/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/lib")

# name: (library patterns, what to install on Debian and Ubuntu)
PEERS = {
    "mimalloc": (("libmimalloc.so.[0-9]*", "libmimalloc.so"), "libmimalloc2.0 (Debian 12), libmimalloc3 (newer)"),
    "jemalloc": (("libjemalloc.so.2", "libjemalloc.so"), "libjemalloc2"),
    "tcmalloc": (("libtcmalloc_minimal.so.4", "libtcmalloc_minimal.so"), "libtcmalloc-minimal4 (Debian 12), libtcmalloc-minimal4t64 (newer)"),
}


class Failed(Exception):
    """A child did not do what it was started for; the text says what and shows its last words."""


def build_dir():
    return os.environ.get("HEAPKEEPER_BUILD", os.path.join(TREE, "build"))


def heapkeeper():
    """The command's path, or None where it has not been built."""
    path = os.path.join(build_dir(), "heapkeeper")
    return path if os.access(path, os.X_OK) else None


def peer_library(name, root=""):
    """Path of a peer's shared library as seen inside `root`, or None."""
    for pattern in PEERS[name][0]:
        for directory in LIBRARY_DIRS:
            found = sorted(glob.glob(root + directory + "/" + pattern))
            if found:
                return found[-1][len(root):]
    return None


def hook_library():
    """(path, None) of hook.c, built in a directory that a chroot sees too; (None, why) without a compiler."""
    directory = tempfile.mkdtemp(prefix="heapkeeper-bench-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    library = os.path.join(directory, "hook.so")
    command = [*os.environ.get("CC", "cc").split(), "-O2", "-std=gnu11", "-D_GNU_SOURCE", "-shared", "-fPIC",
               os.path.join(BENCH, "hook.c"), "-o", library, "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as failure:
        return None, "cannot compile hook.c (%s)" % failure
    return library, None


def missing_peer(name, root=""):
    where = "chroot %s " % root if root else ""
    return "%s is not installed; %sapt-get install %s" % (name, where, PEERS[name][1])


def clean_environment():
    """The caller's environment without what would change an allocator or an interpreter."""
    keep = {}
    for name, value in os.environ.items():
        if name.startswith(("PYTHON", "LD_", "MALLOC_", "MIMALLOC_", "HEAPKEEPER_", "GLIBC_")):
            continue
        keep[name] = value
    keep.pop("VIRTUAL_ENV", None)
    return keep


class Outcome:
    """A finished child: its standard output, and its CPU seconds (user + system, children included)."""

    def __init__(self, output, seconds):
        self.output = output
        self.seconds = seconds


def run(command, environment=None, timeout=120):
    """Runs `command` to its end; raises Failed unless it exits 0 and the loader found every preload."""
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=clean_environment() if environment is None else environment,
        )
        timer = threading.Timer(timeout, child.kill)
        timer.start()
        try:
            output = child.stdout.read().decode(errors="replace")
            _, status, usage = os.wait4(child.pid, 0)
        finally:
            timer.cancel()
            child.stdout.close()
        child.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        errors.seek(0)
        words = errors.read().decode(errors="replace").strip()
    if child.returncode or "cannot be preloaded" in words:
        raise Failed("%s\n  exit status %d\n  %s" % (" ".join(command), child.returncode, words[-600:]))
    return Outcome(output, usage.ru_utime + usage.ru_stime)


# ------------------------------------------------------------------------------------- statistics


def geomean(values):
    values = [value for value in values if value > 0]
    return math.exp(sum(math.log(value) for value in values) / len(values)) if values else float("nan")


class Ratios:
    """Per-row lists of paired ratios; place i of every list comes from round i (None where it failed, or is still to come)."""

    DRAWS = 2000

    def __init__(self, rows):
        rounds = max((len(ratios) for ratios in rows.values()), default=0)
        self.rows = {name: list(ratios) + [None] * (rounds - len(ratios)) for name, ratios in rows.items() if any(r is not None for r in ratios)}

    @staticmethod
    def _median(ratios, picks=None):
        chosen = [ratios[i] for i in picks] if picks else ratios
        chosen = [ratio for ratio in chosen if ratio is not None]
        return statistics.median(chosen) if chosen else None

    def median(self, row):
        return self._median(self.rows[row])

    def count(self, row):
        return sum(ratio is not None for ratio in self.rows[row])

    def _bounds(self, drawn):
        drawn = sorted(value for value in drawn if value is not None and not math.isnan(value))
        if not drawn:
            return (float("nan"), float("nan"))
        return drawn[int(0.025 * (len(drawn) - 1))], drawn[math.ceil(0.975 * (len(drawn) - 1))]

    def interval(self, row):
        """The 95 % interval of a row's median."""
        ratios, draw = self.rows[row], random.Random(row)
        count = len(ratios)
        return self._bounds(
            self._median(ratios, [draw.randrange(count) for _ in range(count)]) for _ in range(self.DRAWS)
        )

    def geomean(self, picks=None):
        medians = [self._median(ratios, picks) for ratios in self.rows.values()]
        return geomean([median for median in medians if median is not None])

    def geomean_interval(self):
        """The 95 % interval of the geometric mean of the rows' medians; whole rounds are redrawn."""
        if not self.rows:
            return (float("nan"), float("nan"))
        count, draw = len(next(iter(self.rows.values()))), random.Random(0)
        return self._bounds(
            self.geomean([draw.randrange(count) for _ in range(count)]) for _ in range(self.DRAWS // 4)
        )


# ------------------------------------------------------------------------------------ the machine


def _read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def thp_mode():
    """always, madvise or never: the machine's setting for transparent huge pages."""
    text = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    return text[text.find("[") + 1:text.find("]")] if "[" in text else "unknown"


def machine():
    model = "unknown CPU"
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return "%s, %d CPUs, Linux %s, THP %s, load %.1f" % (
        model, os.cpu_count() or 0, os.uname().release, thp_mode(), os.getloadavg()[0])


PROBE = """
import json, sys, sysconfig
get = lambda name: str(sysconfig.get_config_var(name) or "")
arguments = get("CONFIG_ARGS")
print(json.dumps({
    "version": sys.version.split()[0],
    "shared": "libpython" in open("/proc/self/maps").read(),
    "debian": "/usr/share/python-wheels" in arguments,
    "pgo": "--enable-optimizations" in arguments,
    "free_threaded": get("Py_GIL_DISABLED") not in ("", "0"),
}))
"""


def python_build(python, prefix=()):
    """What an interpreter is: version, shared or static, PGO or not. Raises Failed if it does not run."""
    build = json.loads(run([*prefix, python, "-I", "-c", PROBE]).output)
    build["path"] = python
    # Debian builds with profiles and LTO without saying so in the configuration that it installs.
    tuned = "Debian's, PGO" if build["debian"] else "PGO" if build["pgo"] else "not PGO"
    build["kind"] = "%s, %s" % ("shared" if build["shared"] else "static", tuned)
    return build


HUGE = 2 << 20
LOCAL_SECONDS = 0.001  # a huge page that is there is cleared in 0.1 to 0.4 ms
_touch_seconds = []


def settle(mebibytes):
    """Makes the machine have that much free memory that costs nobody but its own kernel to take.

    A virtual machine may hand free memory back to its host, a huge page at a time (free page reporting does, every
    two seconds). Who touches it next waits for the host, 5 ms and more a huge page, whatever allocator it is; but
    small scattered free pages are never handed back, so the wait is an accident of who ran before, and it hits most
    those who use huge pages. So memory is taken and given back, until it comes at local speed, right before each
    measured process. On a machine of its own the first attempt does, in some 0.1 ms a MiB."""
    for _ in range(4):
        pages = mebibytes // 2
        memory = mmap.mmap(-1, pages * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        step = 4096 if thp_mode() == "never" else HUGE // 2  # a mapping need not begin on a huge page
        start = time.process_time()
        for offset in range(0, len(memory), step):
            memory[offset] = 1
        spent = (time.process_time() - start) / pages
        memory.close()
        _touch_seconds.append(spent)
        if spent < LOCAL_SECONDS:
            return


def settled_note():
    """What settle() met: how long 2 MiB took at worst and at best."""
    if not _touch_seconds:
        return "free memory was taken as it came (cold)"
    return "first touch of 2 MiB took %.2f to %.2f ms; such waits for a host were kept out of the measured processes" % (
        1000 * min(_touch_seconds), 1000 * max(_touch_seconds))


def words(known):
    """For argparse: a list of words, separated by commas, of which each is known."""

    def parse(text):
        chosen = [word for word in text.replace(",", " ").split() if word]
        for word in chosen:
            if word not in known:
                raise argparse.ArgumentTypeError("unknown: %s (known: %s)" % (word, " ".join(known)))
        return chosen

    return parse


def progress(text):
    """A line that overwrites itself on a terminal, nothing elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K" + text)
        sys.stderr.flush()


def refuse(text, status=2):
    sys.stderr.write("%s: %s\n" % (os.path.basename(sys.argv[0]), text))
    sys.exit(status)
