"""The command `heapkeeper` from Python: where it is, and what it prints."""

import os
import shutil
import subprocess
import sys


def path():
    """That of this installation, or of the source tree; else the one on PATH. None: there is none."""
    here = os.path.dirname(os.path.abspath(__file__))
    places = [os.environ.get("HEAPKEEPER_BUILD"), os.path.dirname(os.environ.get("HEAPKEEPER_LIBRARY") or ""),
              os.path.normpath(os.path.join(here, "..", "..", "build")), os.path.dirname(sys.executable or "")]
    for place in filter(None, places):
        command = os.path.join(place, "heapkeeper")
        if os.path.isfile(command) and os.access(command, os.X_OK):
            return command
    return shutil.which("heapkeeper")


def run(*words, input=None):
    """Its output, as text. ValueError: it could not do it, and why; or there is no such command."""
    command = path()
    if command is None:
        raise ValueError("the command `heapkeeper` is neither beside %s nor on PATH" % (sys.executable or "this Python"))
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # it is none of the program's processes
    done = subprocess.run([command, *words], input=None if input is None else input.encode("utf-8", "surrogatepass"), env=environment,
                          stdin=subprocess.DEVNULL if input is None else None, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise ValueError(done.stderr.decode("utf-8", "replace").strip() or "heapkeeper %s ended with %d" % (words[0], done.returncode))
    return done.stdout.decode("utf-8", "replace")
