"""``heapkeeper run --lines``: chooses functions in the modules that the program executes, and shows their lines at its end.

The library loads this before the program begins (src/hosts/cpython/lines_auto.c), and calls what begin() returns with the code object
of each module."""

import atexit
import difflib
import fnmatch
import functools
import os
import sys
import types

from . import lines

_CO_FUNCTION = 0x3  # CO_OPTIMIZED | CO_NEWLOCALS: a function's code, not a class's or module's
_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STANDARD = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_PACKAGES = tuple(_STANDARD + name + os.sep for name in ("site-packages", "dist-packages"))
_LAMBDA = "<lambda>"  # is chosen only by patterns that say so
_MOST_NAMES = 20000  # that are remembered for "did you mean"


def _utf8(text):
    """What the environment or a file system names, as a source file does, whatever the locale is."""
    try:
        return os.fsencode(text).decode("utf-8", "surrogateescape")
    except UnicodeError:
        return text


def functions_in(code, prefix=""):
    """(qualified name, code object) of the functions in a module's code object, outer before inner."""
    for constant in code.co_consts:
        if not isinstance(constant, types.CodeType):
            continue
        name = prefix + constant.co_name
        if constant.co_flags & _CO_FUNCTION == _CO_FUNCTION:
            if not constant.co_name.startswith("<") or constant.co_name == _LAMBDA:
                yield name, constant
            yield from functions_in(constant, name + ".<locals>.")
        else:
            yield from functions_in(constant, name + ".")


class Pattern:
    """module.function, Class.method, function, file.py, file.py:function; * and ? as in a shell."""

    def __init__(self, text):
        self.text = text
        self.names = []  # of the functions that it has chosen
        self.file, colon, self.name = text.rpartition(":")
        if not colon and text.endswith(".py"):
            self.file, self.name = text, "*"
        while self.file.startswith("./"):
            self.file = self.file[2:]
        self.known_file = False

    def wants(self, filename, qualname, is_main):
        plain, filename = qualname.replace(".<locals>", ""), _utf8(filename)
        if qualname.endswith(_LAMBDA) and _LAMBDA not in self.text:
            return False
        if self.file:
            if not (fnmatch.fnmatchcase(filename, self.file) or fnmatch.fnmatchcase(filename, "*/" + self.file)):
                return False
            self.known_file = True
            return fnmatch.fnmatchcase(qualname, self.name) or fnmatch.fnmatchcase(plain, self.name)
        if filename.startswith(_STANDARD) and not filename.startswith(_PACKAGES) and (
                fnmatch.fnmatchcase(plain, self.text) or fnmatch.fnmatchcase(plain, "*." + self.text)):
            return False  # `put` is not each method of that name in the standard library
        whole = "%s.%s" % (os.path.splitext(filename)[0].replace("/__init__", "").strip("/").replace("/", "."), plain)
        return any(fnmatch.fnmatchcase(name, pattern) for name in [whole] + ["__main__." + plain] * is_main
                   for pattern in (self.text, "*." + self.text))


class Chooser:
    """Adds to a profile what the patterns want; without any, what is in the main script. beside: this is not the process that
    `heapkeeper run` has become, but another of the run, which only has a file to say something in."""

    def __init__(self, patterns, rss, beside):
        self.beside = beside
        self.shown = None  # the process that has shown it
        self.rss, self.profile = rss, lines.LineProfile(rss=rss)
        self.patterns = [Pattern(text) for text in patterns]
        self.names = set()  # with their files
        self.main = None
        for module in list(sys.modules.values()) if patterns else []:
            self.choose_in(module)

    def __call__(self, code):
        if not isinstance(code, types.CodeType) or code.co_name != "<module>" or code.co_filename.startswith(("<frozen ", _OURS)):
            return
        name = _main_name(2)
        is_main = name is not None and (self.main is None or name == "__mp_main__")
        if is_main:
            self.main = code.co_filename
        if self.patterns:
            self.choose(code)
        elif is_main:
            found = self.add(functions_in(code), lambda name: not name.endswith(_LAMBDA))
            if not found and not self.beside:  # all of it is at the top
                self.profile._add(code, "<module>")

    def choose(self, code):
        wanted = self.is_wanted(code.co_filename)
        self.add(functions_in(code), wanted)
        if any("<module>" in pattern.text for pattern in self.patterns) and wanted("<module>"):
            self.profile._add(code, "<module>")

    def is_wanted(self, filename):
        def wanted(name):
            if len(self.names) < _MOST_NAMES:
                self.names.add((name, filename))
            found = [pattern for pattern in self.patterns if pattern.wants(filename, name, filename == self.main)]
            for pattern in found:
                pattern.names.append(name)
            return bool(found)

        return wanted

    def choose_in(self, module):
        """In one that was there before us."""
        filename = getattr(module, "__file__", None)
        if not isinstance(filename, str) or filename.startswith(_OURS):
            return
        for value in list(vars(module).values()):
            if getattr(value, "__module__", None) != module.__name__ or not isinstance(value, (type, types.FunctionType)):
                continue
            for function in lines._functions_of(value):
                code = getattr(function, "__code__", function)
                if code.co_filename == filename:
                    self.add([(function.__qualname__, code)], self.is_wanted(filename))

    def add(self, functions, wanted):
        """What is inside of a chosen function is chosen with it."""
        count, inside = 0, "\0"
        for name, code in functions:
            if not name.startswith(inside) and wanted(name):
                self.profile._add(code, name)
                inside = name + ".<locals>."
                count += 1
        return count

    def near_names(self):
        """{as what a function may have been meant: file:function}"""
        found = {}
        for name, filename in sorted(self.names, reverse=True):
            plain, file = name.replace(".<locals>", ""), os.path.basename(filename)
            for meant in plain.split(".")[-1], plain, "%s.%s" % (os.path.splitext(file)[0], plain):
                found[meant] = "%s:%s" % (file, plain)
        return found

    def complaints(self, called):
        called = {function.qualname for function in called}
        near_names = None
        for pattern in self.patterns:
            if pattern.names:
                if not called.intersection(pattern.names):
                    names = ", ".join(pattern.names[:8]) + (" and %d more" % (len(pattern.names) - 8) if len(pattern.names) > 8 else "")
                    yield "--lines=%s: not called: %s" % (pattern.text, names)
                continue
            if pattern.file and not pattern.known_file:
                yield "--lines=%s: no file of that name was run" % pattern.text
                continue
            if pattern.file and (not pattern.name or pattern.name.isdigit()):
                yield "--lines=%s: after the colon stands the name of a function, as in %s:main; * is all" % (pattern.text, pattern.file)
                continue
            near_names = near_names or self.near_names()
            near = difflib.get_close_matches(pattern.name if pattern.file else pattern.text, sorted(near_names), 1, 0.75)
            there = near and "; there is %s" % near_names[near[0]]
            yield "--lines=%s: no function of that name was in what was run%s" % (pattern.text, there or "")


def _main_name(depth):
    """As what the code is executed: "__main__", by the interpreter or by runpy; "__mp_main__", by a worker of multiprocessing; None: neither."""
    try:
        caller = sys._getframe(depth)
    except ValueError:
        return "__main__"
    if caller.f_code.co_name != "_run_code" or caller.f_globals.get("__name__") != "runpy":
        return None
    name = caller.f_locals.get("mod_name")
    return name if name in ("__main__", "__mp_main__") else None


def _write(functions, output):
    streams = {None: sys.stderr, "/dev/stderr": sys.stderr, "-": sys.stdout, "/dev/stdout": sys.stdout}
    try:
        if output in streams:
            from .lines_text import table

            stream = streams[output]
            if stream is None:
                raise ValueError("the stream is closed")
            encoding = getattr(stream, "encoding", None) or "utf-8"
            stream.write(table(functions, stream).encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
            return
        if output.endswith(".json"):
            from .lines_export import as_json as form
        elif output.endswith(".html"):
            from .lines_export import as_html as form
        else:
            from .lines_text import table as form
        with open(output, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(form(functions))
    except (OSError, ValueError, AttributeError) as error:  # of a stream: the program closed it
        if output is not None:
            lines._complain("--lines-output: %s; so it is shown here" % error)
            _write(functions, None)


def _show(chooser, pid, output):
    if os.getpid() != pid or chooser.shown == pid:  # a child of a fork; its end was seen before
        return
    chooser.shown = pid
    chooser.profile.disable()
    functions = chooser.profile.functions()
    called = [f for f in functions if f.calls or any(line.hits for line in f.lines)]
    if chooser.beside:
        if called:
            _write(called, output)
        return
    for text in chooser.complaints(called):
        lines._complain(text)
    if not chooser.patterns and not functions and getattr(sys, "last_type", None) is None:  # else Python has said what is wrong with it
        lines._complain("--lines: the program is no script of Python's; --lines=PATTERN names functions")
    if not chooser.patterns and functions and not called:
        lines._complain("--lines: no function of the main script was called")
    if output is None:
        shown = lines.profile.shown_at_exit(chooser.rss)
        called = [f for f in called if id(f.code) not in shown]
    if called or output is not None:
        _write(called, output)


def _beside(output):
    """The file of another process than the one that `run` has become."""
    root, extension = os.path.splitext(output)
    return "%s.%d%s" % (root, os.getpid(), extension)


def _has_files(output):
    return output is not None and output != "-" and (os.path.isfile(output) or not os.path.exists(output))


def _in_child(chooser, output):
    """Of a fork: figures of its own. Workers of multiprocessing end without atexit."""
    chooser.beside = True
    chooser.profile.reset()
    show = functools.partial(_show, chooser, os.getpid(), _beside(output))
    atexit.register(show)
    util = sys.modules.get("multiprocessing.util")
    if util is not None:  # it forgets what is to be done at the end before it calls what is told here
        util.register_after_fork(chooser, lambda chooser: util.Finalize(None, show, exitpriority=-100))


def begin():
    """A function that is to be called with each module's code object; None: nothing is profiled in this process."""
    output = os.environ.get("HEAPKEEPER_LINES_OUTPUT") or None
    patterns = [text for text in _utf8(os.environ.get("HEAPKEEPER_LINES", "")).split(",") if text]
    beside = os.environ.get("HEAPKEEPER_LINES_PID") != str(os.getpid())
    if beside and not _has_files(output):
        return None
    why = lines.why_not()
    if why is not None:
        lines._complain("--lines: " + why)
        return None
    chooser = Chooser(patterns, os.environ.get("HEAPKEEPER_LINES_RSS") == "1", beside)
    try:
        chooser.profile.enable()
    except RuntimeError as error:
        lines._complain("--lines: %s" % str(error).replace("heapkeeper: ", "", 1))
        return None
    atexit.register(_show, chooser, os.getpid(), _beside(output) if beside else output)
    if _has_files(output):
        os.register_at_fork(after_in_child=lambda: chooser.shown is None and _in_child(chooser, output))
    return chooser
