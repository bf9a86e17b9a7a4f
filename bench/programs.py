#!/usr/bin/env python3
"""Programs without Python (and one with numpy and pandas) on our malloc, next to glibc's and to peers.

    python3 bench/programs.py [--rounds N] [--programs A,B] [--modes A,B] [--scale S] [--json FILE]
    python3 bench/programs.py --redis DIR      where redis-server (built with MALLOC=libc) and redis-benchmark are
    python3 bench/programs.py --python P       a Python with numpy and pandas

In each round every program (in shuffled order) is run once in every mode (in shuffled order), in fresh processes, with the
mode's library preloaded into all of them. Measured are CPU seconds (user + system, children included; of redis the
seconds of the server) and the largest resident size of any one process. Figures are medians of ratios to `glibc` in the
same round. What a program writes must be the same in every mode, or the run ends.

    git      history of 150 commits made, repacked (gc), cloned, logged with patches
    sqlite   the shell on a script that fills, indexes, joins and deletes from a table of 1 M rows
    gcc      compiles eleven of this project's C files with -O2, one after another
    clang    the same files
    node     objects, strings, JSON and a sort
    redis    redis-server under redis-benchmark: set, lpush, lrange, hset, zadd
    pandas   numpy arrays and pandas frames: built, sorted, grouped, joined

Modes:
    glibc       no library
    again       glibc once more: how far from 1.00 this is, is the machine's noise
    heapkeeper  our malloc product, nothing recorded
    recording   the same, sampled into unnamed memory
    mimalloc, jemalloc, tcmalloc
"""

import argparse
import glob
import hashlib
import json
import os
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import common
from common import Failed, Ratios

MODES = ("glibc", "again", "heapkeeper", "recording", "mimalloc", "jemalloc")
GOAL = 1.00


class Mode:
    def __init__(self, name):
        self.name, self.environment, self.problem = name, {}, None
        if name in ("heapkeeper", "recording"):
            self.low = os.path.join(common.build_dir(), "libheapkeeper-malloc-low-preload.so")
            library = os.path.join(common.build_dir(), "libheapkeeper-malloc-preload.so")
            if not os.path.exists(library):
                self.problem = "%s does not exist; run make" % library
            self.environment = {"LD_PRELOAD": library, "HEAPKEEPER_NATIVE": "all"}
            if name == "recording":
                self.environment.update(HEAPKEEPER_MODE="sample", HEAPKEEPER_OUTPUT="/dev/null")
        elif name in common.PEERS:
            library = common.peer_library(name)
            self.problem = None if library else common.missing_peer(name)
            self.environment = {"LD_PRELOAD": library or ""}

    def for_program(self, program):
        """The environment; `run` chooses the library that lies low for programs that do."""
        environment = dict(common.clean_environment(), **self.environment)
        if program.lies_low and os.path.exists(getattr(self, "low", "")):
            environment["LD_PRELOAD"] = self.low
        return environment


def lies_low(path):
    with open(path, "rb") as file:
        return file.read(18)[16:18] == b"\2\0"  # ET_EXEC


# ------------------------------------------------------------------------------------- programs


class Program:
    name = None
    lies_low = False

    def __init__(self, options):
        self.options, self.scale = options, options.scale

    def problem(self):
        """Why it cannot run here, or None."""

    def prepare(self, directory):
        """Once: what all runs share."""

    def run(self, directory, environment):
        """In an empty directory; returns what must be the same in every mode. Children are measured by who calls."""

    def call(self, words, environment, directory, input=None, keep=True):
        done = subprocess.run(words, cwd=directory, env=environment, input=input, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=600)
        if done.returncode:
            raise Failed("%s: %s\n  exit status %d\n  %s" % (
                self.name, " ".join(words)[:200], done.returncode, done.stderr.decode(errors="replace")[-600:]))
        return done.stdout


class Git(Program):
    name = "git"
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "c", "GIT_COMMITTER_EMAIL": "c@d",
                "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
                "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}

    def problem(self):
        return None if shutil.which("git") else "git is not installed; apt-get install git"

    def prepare(self, directory):
        """The commits, as a stream for fast-import."""
        draw, lines = random.Random(1), []
        files = {"dir%d/file%d" % (i % 7, i): ["line %d of %d" % (j, i) for j in range(200)] for i in range(60)}
        for commit in range(max(2, int(150 * self.scale))):
            text = "commit %d" % commit
            lines.append("commit refs/heads/main\ncommitter c <c@d> %d +0000\ndata %d\n%s" % (1500000000 + commit, len(text), text))
            for path in (draw.sample(sorted(files), 8) if commit else sorted(files)):
                files[path][draw.randrange(200)] = "changed in %d: %d" % (commit, draw.randrange(10 ** 9))
                content = "\n".join(files[path]) + "\n"
                lines.append("M 100644 inline %s\ndata %d\n%s" % (path, len(content), content))
            lines.append("")
        self.stream = "\n".join(lines).encode()

    def run(self, directory, environment):
        environment = dict(environment, **self.identity)
        here = os.path.join(directory, "r")
        self.call(["git", "init", "-q", "-b", "main", here], environment, directory)
        self.call(["git", "fast-import", "--quiet"], environment, here, self.stream)
        self.call(["git", "-c", "pack.threads=1", "gc", "-q"], environment, here)
        self.call(["git", "clone", "-q", "--no-local", here, here + "2"], environment, directory)
        return self.call(["git", "log", "-p", "--stat"], environment, here + "2")


class Sqlite(Program):
    name = "sqlite"

    def problem(self):
        return None if shutil.which("sqlite3") else "sqlite3 is not installed; apt-get install sqlite3"

    def prepare(self, directory):
        rows = int(1000000 * self.scale)
        self.lies_low = lies_low(shutil.which("sqlite3"))
        self.script = ("""
            create table t(id integer primary key, name text, value real);
            with recursive c(x) as (select 1 union all select x + 1 from c where x < %d)
                insert into t select x, printf('name %%08d', (x * 7919) %% %d), x * 0.5 from c;
            create index i on t(name);
            select count(*), sum(value), min(name), max(name) from t;
            select substr(name, 1, 10), count(*), group_concat(id) is null from t group by 1 order by 1 limit 50;
            select count(*) from t a join t b on a.name = b.name and a.id < b.id;
            delete from t where id %% 3 = 0;
            select name from t order by value desc limit 20;
        """ % (rows, rows)).encode()

    def run(self, directory, environment):
        return self.call(["sqlite3", ":memory:"], environment, directory, self.script)


class Gcc(Program):
    name = compiler = "gcc"
    sources = ("heap/heap.c", "heap/region.c", "heap/stats.c", "heap/check.c", "record/record.c", "record/timeline.c",
               "record/file.c", "read/capture.c", "read/growth.c", "hosts/cpython/layout.c", "view/text.c")

    def problem(self):
        return None if shutil.which(self.compiler) else "%s is not installed; apt-get install %s" % (self.compiler, self.compiler)

    def prepare(self, directory):
        self.lies_low = any(map(lies_low, glob.glob("/usr/lib/gcc/*/*/cc1"))) if self.compiler == "gcc" else False

    def run(self, directory, environment):
        digest = hashlib.sha256()
        for source in self.sources[:max(1, int(len(self.sources) * self.scale))]:
            self.call([self.compiler, "-O2", "-g", "-c", "-D_GNU_SOURCE", '-DHK_VERSION="0"', "-Iinclude", "-Isrc", "-w",
                       "src/" + source, "-o", os.path.join(directory, "o")], environment, common.TREE)
            with open(os.path.join(directory, "o"), "rb") as file:
                digest.update(file.read())
        return digest.digest()


class Clang(Gcc):
    name = compiler = "clang"


class Node(Program):
    name = "node"
    code = """
        let o = {}, n = %d;
        for (let i = 0; i < n; i++) { const k = 'k' + i %% 50000; o[k] = (o[k] || []).concat(i).slice(-4); }
        const text = JSON.stringify(o), back = JSON.parse(text);
        const keys = Object.keys(back).sort((a, b) => back[b][0] - back[a][0] || (a < b ? -1 : 1));
        const buffers = []; for (let i = 0; i < n / 10; i++) buffers.push(Buffer.from(keys[i %% keys.length] + i));
        console.log(keys.length, text.length, Buffer.concat(buffers).length);
    """

    def problem(self):
        return None if shutil.which("node") else "node is not installed; apt-get install nodejs"

    def prepare(self, directory):
        self.lies_low = lies_low(shutil.which("node"))

    def run(self, directory, environment):
        return self.call(["node", "-e", self.code % int(1500000 * self.scale)], environment, directory)


class Redis(Program):
    name = "redis"
    tests = ("set -r 200000 -d 100", "lpush -r 100000", "hset -r 100000", "zadd -r 100000")

    def find(self, name):
        return os.path.join(self.options.redis, name) if self.options.redis else None

    def problem(self):
        for name in ("redis-server", "redis-benchmark"):
            if not self.find(name) or not os.access(self.find(name), os.X_OK):
                return ("no redis-server that uses libc's malloc (Debian's links jemalloc): apt-get source redis, make MALLOC=libc "
                        "in it, and give its src directory as --redis")
        needed = subprocess.run(["ldd", self.find("redis-server")], stdout=subprocess.PIPE).stdout
        return "%s is linked to jemalloc" % self.find("redis-server") if b"jemalloc" in needed else None

    def run(self, directory, environment):
        path = os.path.join(directory, "socket")
        # The server alone is under the mode; its seconds count.
        server = subprocess.Popen([self.find("redis-server"), "--port", "0", "--unixsocket", path, "--save", "", "--appendonly",
                                   "no", "--daemonize", "no", "--dir", directory],
                                  env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(500):
                if os.path.exists(path):
                    break
                time.sleep(0.02)
            for words in self.tests:
                kind, *rest = words.split()
                self.client(["-t", kind, "-n", str(int(300000 * self.scale)), "-P", "32", "-q", *rest], path)
            answer = self.ask(path, b"DBSIZE\r\nLLEN mylist\r\n", 2)
        finally:
            server.terminate()
            _, status, usage = os.wait4(server.pid, 0)
            server.returncode = status
        if status:
            raise Failed("redis-server ended with status %d" % status)
        self.measured = usage.ru_utime + usage.ru_stime, usage.ru_maxrss
        return answer.split(b"\r\n")[1]  # of random keys only how many lists is certain

    def client(self, words, path):
        subprocess.run([self.find("redis-benchmark"), "-s", path, *words], check=True, stdout=subprocess.DEVNULL,
                       env=common.clean_environment(), timeout=600)

    def ask(self, path, question, lines):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(question)
            answer = b""
            while answer.count(b"\r\n") < lines:
                answer += connection.recv(4096)
        return answer


class Pandas(Program):
    name = "pandas"
    code = """
import numpy as np, pandas as pd
n = %d
draw = np.random.default_rng(1)
frame = pd.DataFrame({"key": draw.integers(0, 5000, n), "value": draw.random(n), "word": ["w%%d" %% (i %% 977) for i in range(n)]})
other = pd.DataFrame({"key": np.arange(5000), "weight": draw.random(5000)})
joined = frame.merge(other, on="key").assign(product=lambda f: f.value * f.weight)
grouped = joined.groupby(["word", joined.key %% 10]).agg({"product": ["sum", "mean", "max"], "value": "count"})
texts = frame.word.str.upper().str.cat(frame.key.astype(str), sep="-").value_counts()
total = 0.0
for i in range(3000):
    a = draw.random(200 + i %% 800); total += float(np.sort(a)[-1] + (a @ a))
print(grouped.shape, round(float(grouped.iloc[:, 0].sum()), 4), len(texts), round(total, 4), joined.sort_values("product").key.iloc[0])
"""

    def problem(self):
        python = self.options.python
        self.python = shutil.which(python) or python
        good = subprocess.run([self.python, "-c", "import numpy, pandas"], stderr=subprocess.DEVNULL).returncode == 0
        return None if good else "%s has no numpy and pandas; give one that has as --python" % python

    def prepare(self, directory):
        self.lies_low = lies_low(os.path.realpath(self.python))

    def run(self, directory, environment):
        environment = dict(environment, PYTHONHASHSEED="0", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        return self.call([self.python, "-c", self.code % int(300000 * self.scale)], environment, directory)


PROGRAMS = {kind.name: kind for kind in (Git, Sqlite, Gcc, Clang, Node, Redis, Pandas)}


# ------------------------------------------------------------------------------------- measuring


def measure(program, mode, directory):
    """(CPU seconds, largest resident size in KiB, what was written), in a process whose children are only the program's."""
    environment = mode.for_program(program)
    shutil.rmtree(directory, ignore_errors=True)
    os.mkdir(directory)
    common.settle(128)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            program.measured = None
            output = hashlib.sha256(program.run(directory, environment)).hexdigest()
            usage = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds, peak = program.measured or (usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
            os.write(writer, json.dumps([seconds, peak, output]).encode())
            status = 0
        except Exception as failure:  # to be said by the parent
            os.write(writer, json.dumps(str(failure)[:3000]).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    result = json.loads(text or '"it ended without a word"')
    if isinstance(result, str):
        raise Failed("%s in mode %s: %s" % (program.name, mode.name, result))
    return result


def usable(things):
    good = []
    for thing in things:
        problem = thing.problem() if callable(thing.problem) else thing.problem
        if problem:
            print("left out: %s: %s" % (thing.name, problem), flush=True)
        else:
            good.append(thing)
    return good


def table(title, programs, modes, values, reference, form):
    print("\n%-10s" % title + "".join("%16s" % mode.name for mode in modes) + "%12s" % "glibc")
    columns = {}
    for mode in modes:
        columns[mode.name] = Ratios({
            program.name: [a / b for a, b in zip(values[program.name, mode.name], values[program.name, reference])]
            for program in programs})
    for program in programs:
        cells = ""
        for mode in modes:
            low, high = columns[mode.name].interval(program.name)
            cells += "%16s" % ("%.3f %.2f-%.2f" % (columns[mode.name].median(program.name), low, high))
        print("%-10s" % program.name + cells + "%12s" % (form % statistics.median(values[program.name, reference])))
    print("%-10s" % "geomean" + "".join("%16s" % ("%.3f %.2f-%.2f" % (
        (columns[mode.name].geomean(),) + columns[mode.name].geomean_interval())) for mode in modes))
    return columns


def main():
    parser = argparse.ArgumentParser(description="Ratios of CPU time and peak memory to glibc's malloc, by program.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="size of each program's task, default 1")
    parser.add_argument("--programs", type=common.words(PROGRAMS), default=list(PROGRAMS))
    parser.add_argument("--modes", type=common.words(MODES + ("tcmalloc",)), default=list(MODES))
    parser.add_argument("--redis", default="", metavar="DIR", help="the src directory of a redis built with MALLOC=libc")
    parser.add_argument("--python", default="python3", help="a Python with numpy and pandas")
    parser.add_argument("--check", action="store_true", help="exit 1 if heapkeeper's geomean of time is over %.2f" % GOAL)
    parser.add_argument("--json", metavar="FILE", help="every measurement, to FILE")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if "glibc" not in options.modes:
        options.modes.insert(0, "glibc")
    print(common.machine(), flush=True)
    programs = usable([PROGRAMS[name](options) for name in options.programs])
    modes = usable([Mode(name) for name in options.modes])
    if not programs:
        common.refuse("none of the programs can be run")
    seconds, peaks, outputs = {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="heapkeeper-bench-") as place:
        for program in programs:
            program.prepare(place)
        for number in range(options.rounds):
            for program in random.Random(number).sample(programs, len(programs)):
                for mode in random.Random("%d %s" % (number, program.name)).sample(modes, len(modes)):
                    common.progress("round %d of %d: %s, %s" % (number + 1, options.rounds, program.name, mode.name))
                    try:
                        time_spent, peak, output = measure(program, mode, os.path.join(place, "run"))
                    except Failed as failure:
                        common.refuse(str(failure), 1)
                    if outputs.setdefault(program.name, output) != output:
                        common.refuse("%s in mode %s gives another result than before" % (program.name, mode.name), 1)
                    seconds.setdefault((program.name, mode.name), []).append(time_spent)
                    peaks.setdefault((program.name, mode.name), []).append(peak)
    common.progress("")
    others = [mode for mode in modes if mode.name != "glibc"]
    columns = table("CPU time", programs, others, seconds, "glibc", "%.2f s")
    table("peak RSS", programs, others, {key: [kib / 1024 for kib in all_] for key, all_ in peaks.items()}, "glibc", "%.0f MiB")
    print("\nresults identical in every mode; %d rounds; %s" % (options.rounds, common.settled_note()))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": common.machine(),
                       "seconds": {" ".join(key): value for key, value in seconds.items()},
                       "peak_kib": {" ".join(key): value for key, value in peaks.items()}}, file, indent=1)
    missed = "heapkeeper" in columns and columns["heapkeeper"].geomean() > GOAL
    sys.exit(1 if missed and options.check else 0)


if __name__ == "__main__":
    main()
