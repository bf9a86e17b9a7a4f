#!/usr/bin/env python3
"""Runs what the tours in docs/ show, and puts the real output back in its place; or checks that it is still there.

    tools/tour.py [--check] [--python PYTHON] [FILE...]          default: docs/tour.md and docs/tour-objects.md

A chapter begins at a heading of the second level. A fence whose first line names a file (```python count.py) is written
to that file. In a ```console fence a line that begins with "$ " is a command, and what follows it is its output. Each
chapter runs in a fresh directory, in which are its own files and those of the chapters before it. `heapkeeper` is the one
in the build directory ($HEAPKEEPER_BUILD, else build/), `python3` is PYTHON, and the terminal has 90 columns. A command that
fails ends it all. An output that differs in nothing that counts stays as it is. Where there is no C compiler, --check
leaves the chapters with C programs out, and says so.

What is compared by --check, command by command:

  - There must be as many lines as before.
  - A line's text must be the same, up to the amount of blank space in it and up to what differs with each run:
    addresses (0x...), a process's number ("pid 123"), Python's version ("Python 3.11.2"), the numbers of the pool that was
    asked for ("POOL 3.17") and of an arena in front of its row of pools.
  - Every number must be the same. Only in a fence under <!-- about N% --> may a number differ by N percent of the
    larger one, or by 10; sizes with a unit are compared in bytes. A picture made of blocks (bars, rows of pools) must
    be the same; under <!-- about N% -->, have as many of each sign, up to N percent of its length or 2.
  - In a fence under <!-- words --> a number may be any number and a picture any picture. For views of a whole Python
    process, in which nearly every number depends on the Python.
  - Of a fence under <!-- picture --> only the words of three letters and more are compared, wherever they stand, and the row of
    collections is not. For plots over time, and tables whose cells are empty or not as the Python is.

Exit status: 0 done, or all is the same; 1 something differs or fails; 2 the command line is wrong."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

TREE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.abspath(os.environ.get("HEAPKEEPER_BUILD") or os.path.join(TREE, "build"))
COLUMNS = "90"

LOOSE = -1.0  # of a fence: only the words count
PICTURE = "█░▁▂▃▄▅▆▇·"
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
NUMBER = re.compile(r"(\d{1,3}(?: \d{3})+(?!\d)|\d+(?:\.\d+)?)(?: (B|KiB|MiB|GiB)\b)?")
CHANGES = [(re.compile(r"0x[0-9a-f]+"), "0x"), (re.compile(r"\bpid \d+"), "pid"), (re.compile(r"Python \d\S*"), "Python"),
           (re.compile(r"^POOL \d+\.\d+"), "POOL"), (re.compile(r"^ +\d+(?=  [%s])" % PICTURE), "arena")]


class Problem(Exception):
    pass


# ---- the page ----


class Session:
    """A ```console fence: where its lines are, and how closely they are compared."""

    def __init__(self, chapter, first, tolerance):
        self.chapter, self.first, self.end, self.tolerance = chapter, first, None, tolerance
        self.commands = []  # [command, lines of output]


class Page:
    def __init__(self, text):
        self.lines = text.splitlines()
        self.steps = []  # (chapter, "file", name, text) or (chapter, "session", Session, None), in order
        chapter, tolerance, number = "(before the first chapter)", 0.0, 0
        while number < len(self.lines):
            line = self.lines[number]
            if line.startswith("## "):
                chapter = line[3:].strip()
            about = re.fullmatch(r"<!-- (?:about (\d+)%|words|picture) -->", line)
            if about:
                tolerance = int(about.group(1)) / 100 if about.group(1) else LOOSE if "picture" in line else None
            if line.startswith("```") and line != "```":
                end = self.lines.index("```", number + 1)
                self._add_fence(chapter, line[3:].split(), number + 1, end, tolerance)
                tolerance, number = 0.0, end
            number += 1

    def _add_fence(self, chapter, words, first, end, tolerance):
        body = self.lines[first:end]
        if words[0] == "console":
            session = Session(chapter, first, tolerance)
            session.end = end
            for line in body:
                if line.startswith("$ "):
                    session.commands.append([line[2:], []])
                elif session.commands:
                    session.commands[-1][1].append(line)
                else:
                    raise Problem("line %d: output without a command" % (first + 1))
            self.steps.append((chapter, "session", session, None))
        elif len(words) == 2:
            self.steps.append((chapter, "file", words[1], "\n".join(body) + "\n"))

    def with_outputs(self, outputs):
        """The text with each session's commands followed by these outputs."""
        lines, at = [], 0
        for session, told in outputs:
            lines += self.lines[at:session.first]
            for (command, shown), output in zip(session.commands, told):
                lines += ["$ " + command] + (shown if is_all_same(shown, output, session.tolerance) else output)
            at = session.end
        return "\n".join(lines + self.lines[at:]) + "\n"


# ---- running it ----


def environment(python, directory):
    """For the commands: nothing of the caller's that could change what they say."""
    programs = os.path.join(directory, "programs")
    os.mkdir(programs)
    os.symlink(os.path.join(BUILD, "heapkeeper"), os.path.join(programs, "heapkeeper"))
    os.symlink(python, os.path.join(programs, "python3"))
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR", "USER") if name in os.environ}
    return dict(kept, PATH=programs + ":" + os.environ.get("PATH", "/usr/bin:/bin"), COLUMNS=COLUMNS, LC_ALL="C.UTF-8",
                HEAPKEEPER_BUILD=BUILD, HEAPKEEPER_DIR=os.path.join(directory, "captures"),
                PYTHONPATH=os.path.join(TREE, "python"), PYTHONHASHSEED="0", PYTHONDONTWRITEBYTECODE="1",
                PYTHONNOUSERSITE="1", CPATH=os.path.join(TREE, "include"), LIBRARY_PATH=BUILD, LD_LIBRARY_PATH=BUILD,
                PKG_CONFIG_PATH=os.path.join(BUILD, "meson-uninstalled"))


def run(chapter, command, variables, directory):
    done = subprocess.run(command, shell=True, cwd=directory, env=variables, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    text = done.stdout.decode("utf-8", "replace").replace(directory + "/", "")
    if done.returncode != 0:
        raise Problem('chapter "%s": `%s` ended with status %d:\n%s' % (chapter, command, done.returncode, text))
    return [line.rstrip() for line in text.splitlines()]


def needs_compiler(page):
    """The chapters that do."""
    return {chapter for chapter, kind, what, _ in page.steps if kind == "session"
            and any(command.startswith("cc ") for command, _ in what.commands)}


def outputs_of(page, python, left_out=()):
    """[(session, [the lines of each command])], run in order."""
    outputs, files = [], {}
    with tempfile.TemporaryDirectory(prefix="tour-") as top:
        variables, current, directory = environment(python, top), None, None
        for chapter, kind, what, text in page.steps:
            if chapter != current:
                current, directory = chapter, tempfile.mkdtemp(dir=top)
                for name, content in files.items():
                    write(os.path.join(directory, name), content)
            if kind == "file":
                files[what] = text
                write(os.path.join(directory, what), text)
            elif chapter not in left_out:
                outputs.append((what, [run(chapter, command, variables, directory) for command, _ in what.commands]))
    return outputs


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


# ---- comparing ----


def parts(line):
    """A line as (its text without numbers and pictures, its numbers in bytes or as they are, its picture's signs)."""
    for pattern, word in CHANGES:
        line = pattern.sub(word, line)
    picture = "".join(sign for sign in line if sign in PICTURE)
    line = "".join(" " if sign in PICTURE else sign for sign in line)
    numbers = [float(digits.replace(" ", "")) * UNITS.get(unit, 1) for digits, unit in NUMBER.findall(line)]
    text = NUMBER.sub(lambda match: "#" + (" of bytes" if match.group(2) else ""), line)
    return " ".join(text.split()), numbers, picture


def is_near(one, other, slack):
    return abs(one - other) <= slack


def is_same(old, new, tolerance):
    """Whether two lines say the same; tolerance None: in their words, 0: in all, else a share of each number."""
    (old_text, old_numbers, old_picture), (new_text, new_numbers, new_picture) = parts(old), parts(new)
    if old_text != new_text or len(old_numbers) != len(new_numbers):
        return False
    if tolerance is None:
        return True
    if tolerance == 0:
        return old_numbers == new_numbers and old_picture == new_picture
    signs = max(2, tolerance * len(old_picture))
    return all(is_near(a, b, max(10, tolerance * max(a, b))) for a, b in zip(old_numbers, new_numbers)) and all(
        is_near(old_picture.count(sign), new_picture.count(sign), signs) for sign in PICTURE)


def words_of(lines):
    """But for a plot's row of collections: on a busy machine one lasts long enough to be drawn."""
    text = " ".join(line for line in lines if not re.fullmatch(r"[ ^]*\^ collections", line))
    return sorted(re.findall(r"[^\W\d]{3,}", NUMBER.sub(" ", text)))


def is_all_same(old, new, tolerance):
    if tolerance == LOOSE:
        return words_of(old) == words_of(new)
    return len(old) == len(new) and all(is_same(a, b, tolerance) for a, b in zip(old, new))


def differences(outputs):
    """One line for each command whose output is not what the page has."""
    for session, told in outputs:
        for (command, old), new in zip(session.commands, told):
            place = 'chapter "%s": `%s`' % (session.chapter, command)
            if session.tolerance == LOOSE:
                if not is_all_same(old, new, LOOSE):
                    yield "%s:\n  was  %s\n  is   %s" % (place, " ".join(words_of(old)), " ".join(words_of(new)))
                continue
            wrong = next((i for i, pair in enumerate(zip(old, new)) if not is_same(*pair, session.tolerance)), None)
            if wrong is not None:
                yield "%s, line %d:\n  was  %s\n  is   %s" % (place, wrong + 1, old[wrong], new[wrong])
            elif len(old) != len(new):
                yield "%s: had %d lines, has %d" % (place, len(old), len(new))


# ---- the command ----


def tour(file, options):
    """Exit status."""
    with open(file, encoding="utf-8") as opened:
        page = Page(opened.read())
    left_out = needs_compiler(page) if options.check and shutil.which("cc") is None else ()
    for chapter in sorted(left_out):
        print('tour.py: no C compiler: not checked: chapter "%s"' % chapter, file=sys.stderr)
    outputs = outputs_of(page, os.path.abspath(options.python), left_out)
    if not options.check:
        write(file, page.with_outputs(outputs))
        return 0
    found = list(differences(outputs))
    for text in found:
        print(text)
    return 1 if found else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="More: the head of this file.")
    parser.add_argument("--check", action="store_true", help="change nothing; say what differs")
    parser.add_argument("--python", default="/usr/bin/python3", help="what `python3` is (default: %(default)s)")
    parser.add_argument("file", nargs="*", default=[os.path.join(TREE, "docs", name) for name in ("tour.md", "tour-objects.md")])
    options = parser.parse_args()
    try:
        return max([tour(file, options) for file in options.file])
    except (OSError, ValueError, Problem, subprocess.TimeoutExpired) as error:
        print("tour.py: %s" % error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
