"""Threads fork while others allocate: children verify what they inherited, work, fork again, start threads, exec.

Each thread owns a table of churned objects that it changes all the time; a child sees every table as it was at the
fork (the GIL is held then), checks that no block in any of them was written over, changes its copy and ends.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings

from common import Soak, check, churn, fail, insist, weight

THREADS = 4
ROUND_FORKS = 12
CHILD_SECONDS = 120
warnings.simplefilter("ignore", DeprecationWarning)  # of fork() in a process with threads: what this is about

soak = Soak()
tables = [churn(random.Random(n)) for n in range(THREADS)]
stop = threading.Event()
guard = threading.Lock()


def wait_for(pid):
    """The child's status; a child that hangs fails the soak."""
    limit = time.monotonic() + CHILD_SECONDS
    pause = 0.0005
    while time.monotonic() < limit:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    os.kill(pid, signal.SIGABRT)
    fail("child %d hangs" % pid)


def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            fail("child: %r" % (error,))
        os._exit(0)
    status = wait_for(pid)
    insist(status == 0, "a child's status is %#x" % status)


def verify_inherited():
    check()
    for objects, total in list(tables):
        insist(weight(objects) == total, "an inherited table")


def child_works(seed):
    rng = random.Random(seed)
    verify_inherited()
    for n in range(THREADS):  # frees what the parent allocated, in the child only
        tables[n] = churn(rng, rng.randrange(50, 400))
    verify_inherited()
    kind = rng.randrange(6)
    if kind == 0:
        in_child(lambda: child_works(rng.randrange(6, 1000) * 7 + 1))
    elif kind == 1:
        other = [threading.Thread(target=lambda: weight(churn(random.Random(seed + 1), 500)[0])) for _ in range(3)]
        for thread in other:
            thread.start()
        for thread in other:
            thread.join()
    elif kind == 2:
        done = subprocess.run([sys.executable, "-I", "-S", "-c", "print(sum(map(len, map(str, range(3000)))))"],
                              stdout=subprocess.PIPE, check=True)
        insist(int(done.stdout) == 10890, "a program that a child started")
    elif kind == 3:
        os.execv("/bin/true", ["true"])
    verify_inherited()


def worker(number):
    rng = random.Random(number)
    while not stop.is_set():
        tables[number] = churn(rng, rng.randrange(100, 800))
        objects, total = tables[number]
        insist(weight(objects) == total, "a thread's own table")
        if rng.randrange(40) == 0:
            soak.check()


def forker(number):
    rng = random.Random(soak.rounds * 100 + number)
    for _ in range(ROUND_FORKS):
        tables[number] = churn(rng, rng.randrange(100, 800))
        seed = rng.randrange(1 << 30)
        in_child(lambda: child_works(seed))
        with guard:
            soak.count("forks")


def one_round():
    stop.clear()
    workers = [threading.Thread(target=worker, args=(n,)) for n in range(2)]
    forkers = [threading.Thread(target=forker, args=(n,)) for n in range(2, THREADS)]
    for thread in workers + forkers:
        thread.start()
    for thread in forkers:
        thread.join()
    stop.set()
    for thread in workers:
        thread.join()


def ends_by_itself():
    """A child of the main thread that ends as a program does: finalisers, exit handlers, the record's end."""
    pid = os.fork()
    if pid == 0:
        verify_inherited()
        sys.exit(0)
    insist(wait_for(pid) == 0, "a child that ended by itself")


while soak.going():
    one_round()
    ends_by_itself()
    soak.settle()
soak.finish()
