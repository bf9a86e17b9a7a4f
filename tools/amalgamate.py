#!/usr/bin/env python3
"""Makes one C file and one header of the library, to be put into a program's own sources.

    tools/amalgamate.py [DIRECTORY]          default: build/amalgamation

    heapkeeper.h    the public headers of the heap and the runtime, one after the other
    heapkeeper.c    the heap, the collector and the runtime: cc -std=c11 -O2 -c heapkeeper.c
                    (with clang also -fno-strict-aliasing, which gcc is told in the file)

The recorder, the hosts (CPython, malloc) and the reader are not in it. So a program that is made of it is not seen by
`heapkeeper run` in detail; otherwise it is the same code, in the order in which the build names it.

How. Headers are put where they are first included, and are not included again. The files of a room know nothing of each
other's static names, and some use the same: one that two files have is given the room's and the file's name in each (`report` of
debug.c becomes `report_in_heap_debug`). A macro ends with its file. Members of structures keep their names: a name behind `.` or `->`
is left alone, and so is one that is declared inside of a structure's braces."""

import os
import re
import sys

TREE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOMS = ["base", "heap", "gc", "object"]
PUBLIC = ["heap", "object", "gc", "frame", "values", "iter", "bounded"]

# What the build says on the command line.
HEAD = """#define _GNU_SOURCE
#define HK_VERSION "%s"
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wunused-function"
#else
#pragma GCC optimize("no-strict-aliasing")
#endif
#include "heapkeeper.h"
"""

TOKEN = re.compile(r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[A-Za-z_]\w*|\d[\w.]*|->|\s+|.""", re.S)
WORD = re.compile(r"[A-Za-z_]\w*\Z")
INCLUDE = re.compile(r'^#include "([^"]+)"[^\n]*\n', re.M)
KEYWORDS = set("""auto break case char const continue default do double else enum extern float for goto if inline int long register
    restrict return short signed sizeof static struct switch typedef union unsigned void volatile while bool true false NULL
    __attribute__ __thread _Noreturn _Static_assert __asm__""".split())


def read(*path):
    with open(os.path.join(TREE, *path), encoding="utf-8") as file:
        return file.read()


def sources():
    """The rooms' C files, as paths from src/, in the build's order."""
    for room in ROOMS:
        for name in re.findall(r"'(\w+\.c)'", read("src", room, "meson.build")):
            yield room + "/" + name


def tokens(text):
    return TOKEN.findall(text)


def macros(text):
    return re.findall(r"^#[ \t]*define[ \t]+(\w+)", text, re.M)


def own_names(text):
    """What the file calls its own: static functions and variables, tags, types and enumerators at its outermost level."""
    text = re.sub(r"^#(?:[^\n\\]|\\.)*(?:\\\n(?:[^\n\\]|\\.)*)*\n", "\n", text, flags=re.M)
    words = [token for token in tokens(text) if not token.isspace() and not token.startswith(("/*", "//"))]
    names, statement, depth, in_enum = set(), [], 0, False
    for at, token in enumerate(words):
        if depth == 0:
            if token == "{":
                _take_names(statement, names)
                in_enum = "enum" in statement and "(" not in statement
            elif token == ";":
                _take_names(statement, names)
            statement = [] if token == ";" else statement + [token] if token not in "{}" else statement
        elif depth == 1 and in_enum and WORD.match(token) and words[at - 1] in "{,":
            names.add(token)
        if token in "([{":
            depth += token == "{"
        elif token == "}":
            depth -= 1
            if depth == 0:
                is_function = "(" in statement and "=" not in statement and "typedef" not in statement
                statement, in_enum = [] if is_function else statement, False
    return names


def _take_names(statement, names):
    for at, word in enumerate(statement[:-1]):
        if word in ("struct", "union", "enum") and at + 2 == len(statement) and WORD.match(statement[at + 1]):
            names.add(statement[at + 1]) # its body follows
    if "static" in statement:
        flat, depth = [], 0
        for word in statement:
            if word == "=":
                break
            depth -= word in ")]"
            if depth == 0:
                flat.append(word)
            depth += word in "(["
        for at, word in enumerate(flat):
            if WORD.match(word) and word not in KEYWORDS and at + 1 < len(flat) and flat[at + 1] in ("(", "[", ",") or (
                    WORD.match(word) and at + 1 == len(flat) and word not in KEYWORDS):
                names.add(word)
    if statement and statement[0] == "typedef" and WORD.match(statement[-1]):
        names.add(statement[-1])


def renamed(text, names, stem):
    """The text with each of these names followed by the file's, but for members."""
    out, previous, stack, pending, brackets = [], "", [], False, 0
    for token in tokens(text):
        if token.isspace() or token.startswith(("/*", "//")):
            out.append(token)
            continue
        if token in ("struct", "union"):
            pending = True
        elif token in ";()=,*" and pending:
            pending = False
        if token == "{":
            stack.append(pending)
            pending = False
        elif token == "}" and stack:
            stack.pop()
        brackets += (token == "[") - (token == "]")
        is_member = previous in (".", "->") or (
            stack and stack[-1] and brackets == 0 and previous not in ("struct", "union", "enum"))
        out.append(token + "_in_" + stem if token in names and not is_member else token)
        previous = token
    return "".join(out)


class Amalgam:
    def __init__(self):
        self.seen = {"heapkeeper/%s.h" % name for name in PUBLIC}

    def with_headers(self, text):
        """Its own includes replaced by what they name, the first time."""
        return INCLUDE.sub(lambda match: self._header(match.group(1)), text)

    def _header(self, name):
        if name in self.seen:
            return ""
        self.seen.add(name)
        folder = "include" if name.startswith("heapkeeper/") else "src"
        return "\n/* ==== %s ==== */\n\n%s\n" % (name, self.with_headers(read(folder, name)))

    def source(self):
        files = {path: read("src", path) for path in sources()}
        names = {path: own_names(text) for path, text in files.items()}
        owners = {}
        for path in files:
            for name in names[path] | set(macros(files[path])):
                owners.setdefault(name, set()).add(path)
        parts = []
        for path, text in files.items():
            stem = "_".join(path[:-2].split(os.sep)[-2:])  # room and file: two rooms may have a file of one name
            shared = {name for name in names[path] if len(owners[name]) > 1}
            body = renamed(INCLUDE.sub("", text), shared, stem)
            headers = "".join(self._header(name) for name in INCLUDE.findall(text))
            ends = "".join("#undef %s\n" % name for name in dict.fromkeys(macros(text)))
            parts.append("%s\n/* ==== src/%s ==== */\n\n%s%s" % (headers, path, body, ends))
        return "".join(parts)


def public_header():
    parts = []
    for name in PUBLIC:
        text = re.sub(r'^#include "heapkeeper/\w+\.h"\n', "", read("include", "heapkeeper", name + ".h"), flags=re.M)
        parts.append("/* ==== heapkeeper/%s.h ==== */\n\n%s" % (name, text))
    return "\n".join(parts)


def version():
    return re.search(r"version: '([\d.]+)'", read("meson.build")).group(1)


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def main():
    directory = sys.argv[1] if len(sys.argv) > 1 else os.path.join(TREE, "build", "amalgamation")
    os.makedirs(directory, exist_ok=True)
    title = "/* heapkeeper %s, made by tools/amalgamate.py. The licence is LICENSE's:\n *\n%s */\n" % (
        version(), "".join((" * " + line).rstrip() + "\n" for line in read("LICENSE").strip().splitlines()))
    write(os.path.join(directory, "heapkeeper.h"), title + public_header())
    write(os.path.join(directory, "heapkeeper.c"),
          title + HEAD % version() + Amalgam().source())
    return 0


if __name__ == "__main__":
    sys.exit(main())
