"""What tests had when somebody looked, in a file that is committed beside them, and how it is compared.

    {
     "format": "heapkeeper-baseline-1",
     "tests": {
      "tests/test_shop.py::test_put": {
       "3.11": {"allocated_blocks": 1204, "peak_bytes": 88012},
       "3.12": {"allocated_blocks": 1190, "peak_bytes": 87940}
      }
     }
    }

A line for each test and version of Python, in order, so that a change is one line in a diff.

Two figures of a test are compared: the most bytes that it had allocated at once, and how many blocks it allocated in all. Both are
exact, and of the test's function alone, run after a full collection of cycles, which also empties free lists. Still they are not
the same in every run: the first fills caches (compiled patterns, imports), other tests have filled some already, code that has run
often enough is specialised and allocates less, threads meet. So

    the baseline's are the highest of the runs that an update makes, but for the first
    a test's are the least of its runs: one, and if that is too much some more, up to MOST where they are quick

and a figure has grown if it is above the baseline's by more than the tolerance, and by more than a few bytes or blocks (SLACK), which
is what the length of a temporary directory's name makes.

An update leaves a line as it is while the figures are within the tolerance of it: a baseline does not creep upwards with growth that
was too small to be reported, and does not change without need.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass

FORMAT = "heapkeeper-baseline-1"
TOLERANCE = 3.0  # percent
REPEATS = 4
MOST, MOST_CPU_SECONDS, MOST_SECONDS = 20, 2.0, 30.0  # more repeats, while all together took less of both
SLACK = {"peak_bytes": 512, "allocated_blocks": 10}
VERSION = "%d.%d" % sys.version_info[:2]


class Error(Exception):
    """In one line."""


@dataclass
class Figures:
    peak_bytes: int
    allocated_blocks: int


class Seen:
    """The runs of one test."""

    def __init__(self, repeats):
        self.repeats, self.runs = repeats, []
        self.began, self.cpu_began = time.monotonic(), time.process_time()

    def add(self, sums):
        self.runs.append(Figures(sums[1], sums[3]))

    def may_go_on(self, update):
        """Whether the test may run again."""
        done = len(self.runs) - 1
        quick = time.process_time() - self.cpu_began < MOST_CPU_SECONDS and time.monotonic() - self.began < MOST_SECONDS
        return done < self.repeats or (not update and 0 < self.repeats and done < MOST and quick)

    def _of(self, choose, runs):
        return Figures(choose(run.peak_bytes for run in runs), choose(run.allocated_blocks for run in runs))

    def least(self):
        return self._of(min, self.runs)

    def highest(self):
        return self._of(max, self.runs[1:] or self.runs)


class Comparison:
    """`word`: new, same, grown or shrunk."""

    def __init__(self, then, now, runs, tolerance):
        self.then, self.now, self.runs, self.tolerance = then, now, runs, tolerance
        self.grown = [name for name in SLACK if then is not None and self._differs(name, 1)]
        self.has_grown = bool(self.grown)
        shrunk = then is not None and any(self._differs(name, -1) for name in SLACK)
        self.word = "new" if then is None else "grown" if self.grown else "shrunk" if shrunk else "same"

    def _differs(self, name, sign):
        then, now = getattr(self.then, name), getattr(self.now, name)
        return sign * (now - then) > max(then * self.tolerance / 100, SLACK[name])

    def text(self):
        texts = []
        for name in self.grown:
            then, now = getattr(self.then, name), getattr(self.now, name)
            more = "%.1f%% more" % (100 * (now - then) / then) if then else "more"
            if name == "peak_bytes":
                texts.append("had %d bytes allocated at its peak, %s than the %d" % (now, more, then))
            else:
                texts.append("allocated %d blocks, %s than the %d" % (now, more, then))
        return "Test %s of its baseline (%g%% are allowed; the least of %d run%s)" % (
            " and ".join(texts), self.tolerance, self.runs, "" if self.runs == 1 else "s")


class Baseline:
    def __init__(self, path, tolerance, update):
        self.path, self.tolerance, self.update = path, tolerance, update
        self.shown = os.path.relpath(path)
        if os.path.exists(path) and not os.path.isfile(path):  # a device may have no end
            raise Error("the baseline %s is no regular file" % self.shown)
        self.tests = self._read()  # by test: by version: Figures
        if update:
            self._try_to_write()
        self.collected = set()
        self.changes = None

    def _read(self):
        try:
            with open(self.path, encoding="utf-8") as file:
                content = json.load(file)
        except FileNotFoundError:
            if self.update:
                return {}
            raise Error("there is no baseline %s yet: --heapkeeper-update makes it" % self.shown)
        except (OSError, ValueError) as error:
            raise Error("the baseline %s cannot be read: %s; repair it, or remove it and use --heapkeeper-update" % (self.shown, error))
        try:
            if content["format"] != FORMAT:
                raise Error("the baseline %s is of the format %r, which this heapkeeper does not know" % (self.shown, content["format"]))
            return {test: {version: Figures(**{name: int(figures[name]) for name in SLACK}) for version, figures in versions.items()}
                    for test, versions in content["tests"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Error("the baseline %s is no baseline (%s: %s); repair it, or remove it and use --heapkeeper-update"
                        % (self.shown, type(error).__name__, error))

    def compare(self, test, seen):
        now = seen.highest() if self.update else seen.least()
        return Comparison(self.tests.get(test, {}).get(VERSION), now, len(seen.runs), self.tolerance)

    def _is_gone(self, test, partly, root):
        """Whether there is no such test any more, as far as this run can know."""
        file = test.split("::")[0]
        if not os.path.exists(os.path.join(root, file)):
            return True
        return not partly and test not in self.collected and any(other.split("::")[0] == file for other in self.collected)

    def write(self, results, partly, root):
        """results: by test its figures. partly: some tests were named, so that not all of their file were collected."""
        self.changes = changes = dict.fromkeys(("added", "changed", "kept", "removed"), 0)
        for test, result in results.items():
            if not result["passed"] or "baseline_peak" not in result:
                continue
            versions = self.tests.setdefault(test, {})
            if result["baseline"] == "same":
                changes["kept"] += 1
                continue
            changes["added" if VERSION not in versions else "changed"] += 1
            versions[VERSION] = Figures(result["baseline_peak"], result["baseline_blocks"])
        for test in [test for test in self.tests if self._is_gone(test, partly, root)]:
            del self.tests[test]
            changes["removed"] += 1
        self._replace(self._text())

    def _text(self):
        tests = []
        for test, versions in sorted(self.tests.items()):
            lines = ["   %s: %s" % (json.dumps(version), json.dumps(vars(figures), sort_keys=True))
                     for version, figures in sorted(versions.items(), key=lambda pair: [int(n) if n.isdigit() else 0 for n in pair[0].split(".")])]
            tests.append("  %s: {\n%s\n  }" % (json.dumps(test, ensure_ascii=False), ",\n".join(lines)))
        return '{\n "format": "%s",\n "tests": {\n%s\n }\n}\n' % (FORMAT, ",\n".join(tests)) if tests else \
            '{\n "format": "%s",\n "tests": {}\n}\n' % FORMAT

    def _try_to_write(self):
        """Before the tests run, and not after them."""
        try:
            with tempfile.NamedTemporaryFile(dir=os.path.dirname(self.path), prefix=".heapkeeper-"):
                pass
        except OSError as error:
            raise Error("the baseline %s cannot be written: %s" % (self.shown, error.strerror))

    def _replace(self, text):
        """The old file is there until the new one is whole."""
        directory, temporary = os.path.dirname(self.path), None
        try:
            handle, temporary = tempfile.mkstemp(dir=directory, prefix=".heapkeeper-")
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, self.path)
        except OSError as error:
            if temporary is not None and os.path.exists(temporary):
                os.unlink(temporary)
            raise Error("the baseline %s cannot be written: %s" % (self.shown, error.strerror))

    def summary_lines(self, results):
        if self.update:
            if self.changes is None:
                return ["Baseline %s: not written." % self.shown]
            return ["Baseline %s: %s." % (self.shown, ", ".join("%d %s" % (count, word) for word, count in self.changes.items()))]
        counts = {word: sum(result.get("baseline") == word for result in results.values()) for word in ("same", "grown", "shrunk", "new")}
        texts = ["%d within %g%%" % (counts["same"], self.tolerance), "%d grown" % counts["grown"]]
        if counts["shrunk"]:
            texts.append("%d shrunk" % counts["shrunk"])
        if counts["new"]:
            texts.append("%d not in it" % counts["new"])
        advice = " (--heapkeeper-update takes over what changed)" if counts["grown"] + counts["shrunk"] + counts["new"] else ""
        return ["Baseline %s: %s%s." % (self.shown, ", ".join(texts), advice)]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
