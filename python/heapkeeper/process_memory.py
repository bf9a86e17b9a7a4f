"""The memory of a process and of its children, read from /proc: what psutil would say, without psutil.

Run as a program, this file is the sampler behind memory_profiler.memory_usage(): a process of its own, so that it samples also while
the code that is looked at holds the GIL. It imports nothing that takes long, and ends with the pipe that it was given:

    it sends 0                   it has begun
    it measures, waits, ...      until something comes from the other end; then once more
    it sends the measurements    (or, in a list, the largest), and how many there were

Messages are those of multiprocessing.connection: four bytes of length, the most significant first, and a pickle.
"""

import os
import re
import sys
import time

MIB = float(1 << 20)
PAGE = os.sysconf("SC_PAGE_SIZE")
BACKENDS = ("psutil", "psutil_pss", "psutil_uss", "posix")


def _read(pid, name):
    """A file of the process's; ProcessLookupError: there is no such process."""
    try:
        with open("/proc/%d/%s" % (pid, name), "rb") as file:
            return file.read()
    except FileNotFoundError:
        if os.path.exists("/proc/%d" % pid):
            raise
    except ProcessLookupError:
        pass
    raise ProcessLookupError("there is no process %d" % pid)


def resident(pid):
    """Bytes of the process that are in memory (RSS); 0 of a zombie."""
    return int(_read(pid, "statm").split()[1]) * PAGE


def _of_maps(pid, pattern):
    """The sum over the process's maps of the lines that begin so, in bytes."""
    try:
        text = _read(pid, "smaps_rollup")
    except FileNotFoundError:  # before Linux 4.14
        text = _read(pid, "smaps")
    return sum(int(kib) for kib in re.findall(pattern, text, re.MULTILINE)) * 1024


def proportional(pid):
    """Resident bytes, each page divided among those who share it (PSS)."""
    return _of_maps(pid, rb"^Pss:\s+(\d+)")


def unique(pid):
    """Resident bytes that no other process shares (USS)."""
    return _of_maps(pid, rb"^Private_\w+:\s+(\d+)")


_MEASURES = {"psutil": resident, "posix": resident, "psutil_pss": proportional, "psutil_uss": unique}


def _stat(pid):
    """The fields of /proc/PID/stat after the name, which may hold anything: state, parent, ..."""
    return _read(pid, "stat").rpartition(b")")[2].split()


def name(pid):
    """As ps has it: of a script the interpreter's."""
    return _read(pid, "comm").rstrip(b"\n").decode("utf-8", "replace")


def command_line(pid):
    """The words of its command line; none of a kernel thread or a zombie."""
    return [word.decode("utf-8", "replace") for word in _read(pid, "cmdline").split(b"\0")[:-1]]


def processes():
    return sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def children(pid):
    """Its children and theirs, each after its parent; zombies are left out."""
    below = {}
    for other in processes():
        try:
            state, parent = _stat(other)[:2]
        except OSError:
            continue  # has just ended
        if state not in (b"Z", b"X"):
            below.setdefault(int(parent), []).append(other)
    found = []
    waiting = [pid]
    while waiting:
        new = below.get(waiting.pop(0), [])
        found += new
        waiting += new
    return found


def alive(pid):
    """Whether it is there and no zombie."""
    try:
        return _stat(pid)[0] not in (b"Z", b"X")
    except OSError:
        return False


def of_process(pid, backend="psutil"):
    """MiB by the backend's measure. PSS and USS of somebody else's process need the right to trace it; without it, RSS."""
    try:
        return _MEASURES[backend](pid) / MIB
    except PermissionError:
        return resident(pid) / MIB


def of_children(pid, backend="psutil", ignored=()):
    """(pid, MiB) of each child, and theirs."""
    for child in children(pid):
        if child in ignored:
            continue
        try:
            mib = of_process(child, backend)
        except OSError:
            continue
        if mib > 0:  # else it is ending
            yield child, mib


def of_family(pid, backend="psutil", ignored=()):
    """MiB of the process and its children together."""
    return of_process(pid, backend) + sum(mib for _, mib in of_children(pid, backend, ignored))


def sample(pipe, pid, interval, backend, max_usage, timestamps, include_children, first, ignored=()):
    """The loop of the sampler; see above. `first` is a measurement from before it began."""
    found, count = [first], 1
    pipe.send(0)
    last = False
    while True:
        mib = of_family(pid, backend, ignored) if include_children else of_process(pid, backend)
        now = (mib, time.time()) if timestamps else mib
        if max_usage:
            found[0] = max(found[0], now)
        else:
            found.append(now)
        count += 1
        if last:
            break
        last = pipe.poll(interval)
    pipe.send(found)
    pipe.send(count)


class _Pipe:
    """What the sampler needs of a multiprocessing.connection.Connection, which takes longer to import than all the rest."""

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def send(self, value):
        import pickle

        data = pickle.dumps(value)
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[os.write(self.descriptor, data):]

    def poll(self, seconds):
        import select

        waiting = select.poll()
        waiting.register(self.descriptor, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))


def start_sampler(pipe, pid, interval, backend, max_usage, timestamps, include_children, first):
    """The sampler as a process of its own that writes to `pipe` (a Connection); a subprocess.Popen."""
    import subprocess

    numbers = [pipe.fileno(), pid, float(interval), int(max_usage), int(timestamps), int(include_children)]
    numbers += first if isinstance(first, tuple) else [first]
    # It is none of the program's: it neither allocates from the heap that is measured nor leaves a capture.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD" and not name.startswith("HEAPKEEPER_")}
    return subprocess.Popen([sys.executable, "-I", "-S", os.path.abspath(__file__), backend] + [repr(number) for number in numbers],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
                            pass_fds=[pipe.fileno()])


def _main(backend, descriptor, pid, interval, max_usage, timestamps, include_children, *first):
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program's affair, whose end ends the pipe
    first = tuple(float(number) for number in first)
    try:
        sample(_Pipe(int(descriptor)), int(pid), float(interval), backend, max_usage == "1", timestamps == "1", include_children == "1",
               first if timestamps == "1" else first[0], (os.getpid(),))
    except OSError:  # the program has gone
        sys.exit(1)


if __name__ == "__main__":
    _main(*sys.argv[1:])
