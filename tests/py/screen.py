"""A terminal for tests of what takes one over: keys go in, the last whole drawing comes out."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from conftest import COMMAND

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
UP, DOWN, RIGHT, LEFT, PAGE_DOWN, END = "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D", "\x1b[6~", "\x1b[F"


class Screen:
    def __init__(self, *words, rows=24, columns=100, env=None):
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns, tell=False)
        self.before = termios.tcgetattr(self.slave)
        clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        clean.update(TERM="xterm", LC_ALL="C.UTF-8", NO_COLOR="1", **(env or {}))
        self.process = subprocess.Popen([COMMAND, *map(str, words)], stdin=self.slave, stdout=self.slave, stderr=self.slave, env=clean,
                                        start_new_session=True)
        self.output = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def resize(self, rows, columns, tell=True):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("=HHHH", rows, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def read(self, seconds):
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            try:
                self.output += os.read(self.master, 65536).decode("utf-8", "replace")
            except OSError:
                return False
        return bool(ready)

    def lines(self):
        """Of the last drawing that was finished; the cursor's line begins with '>'."""
        frames = self.output.split("\x1b[H")
        whole = [frame for frame in frames if re.search(r"\x1b\[\d+;1H\x1b\[7m[^\x1b]*\x1b\[K\x1b\[0m", frame)]
        if not whole:
            return []
        body = re.sub(r"^\x1b\[7m", ">", whole[-1].replace("\r\n", "\n"), flags=re.M)
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", body).replace("\r", "").split("\n")

    def until(self, pattern, seconds=60):
        """Waits for a drawing with `pattern` in it; returns its lines."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if re.search(pattern, "\n".join(self.lines()), re.M):
                return self.lines()
            self.read(0.5)
        raise AssertionError("no %r in:\n%s" % (pattern, "\n".join(self.lines())))

    def press(self, keys, pattern=None):
        self.output = ""
        os.write(self.master, keys.encode())
        return self.until(pattern) if pattern else None

    def end(self, status=0):
        """Waits for its end; the terminal must be as it was."""
        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.2)
        while self.read(0.05):
            pass
        assert self.process.poll() == status, self.output[-500:]
        assert termios.tcgetattr(self.slave) == self.before, "the terminal is as it was"
        assert LEAVE in self.output, "and shows what it showed"
        return self.output
