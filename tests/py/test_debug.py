"""`heapkeeper run --debug`: bugs of a C extension are found and named, with the Python lines and the C functions where the block
was allocated and freed; a program without a bug is left alone."""

import os
import re
import signal

import pytest

from conftest import TREE

EXTENSION = r"""
    #define PY_SSIZE_T_CLEAN
    #include <Python.h>

    #define STAYS __attribute__((noinline, noclone))
    #define HERE __asm__ volatile("" ::: "memory") /* the caller stays in the stack */

    static char *block;

    STAYS static void *allocate_in_c(const char *domain, size_t size)
    {
        void *p = domain[0] == 'r' ? PyMem_RawMalloc(size) : domain[0] == 'm' ? PyMem_Malloc(size) : PyObject_Malloc(size);
        HERE;
        return p;
    }

    STAYS static void release_in_c(const char *domain, void *p)
    {
        if (domain[0] == 'r')
            PyMem_RawFree(p);
        else if (domain[0] == 'm')
            PyMem_Free(p);
        else if (domain[0] == 'o')
            PyObject_Free(p);
        else
            free(p);
        HERE;
    }

    STAYS static void *resize_in_c(const char *domain, void *p, size_t size)
    {
        p = domain[0] == 'r'   ? PyMem_RawRealloc(p, size)
            : domain[0] == 'm' ? PyMem_Realloc(p, size)
            : domain[0] == 'o' ? PyObject_Realloc(p, size)
                               : realloc(p, size);
        HERE;
        return p;
    }

    static PyObject *allocate(PyObject *module, PyObject *arguments)
    {
        const char *domain;
        Py_ssize_t size;
        if (!PyArg_ParseTuple(arguments, "sn", &domain, &size))
            return NULL;
        block = allocate_in_c(domain, (size_t)size);
        Py_RETURN_NONE;
    }

    static PyObject *use_malloc(PyObject *module, PyObject *unused)
    {
        block = malloc(700);
        Py_RETURN_NONE;
    }

    static PyObject *release(PyObject *module, PyObject *arguments)
    {
        const char *domain;
        Py_ssize_t at = 0;
        if (!PyArg_ParseTuple(arguments, "s|n", &domain, &at))
            return NULL;
        release_in_c(domain, block + at);
        Py_RETURN_NONE;
    }

    static PyObject *resize(PyObject *module, PyObject *arguments)
    {
        const char *domain;
        Py_ssize_t size;
        int keep = 0;
        if (!PyArg_ParseTuple(arguments, "sn|p", &domain, &size, &keep))
            return NULL;
        void *moved = resize_in_c(domain, block, (size_t)size);
        if (!keep)
            block = moved;
        Py_RETURN_NONE;
    }

    static PyObject *write_at(PyObject *module, PyObject *arguments)
    {
        Py_ssize_t at, count = 1;
        if (!PyArg_ParseTuple(arguments, "n|n", &at, &count))
            return NULL;
        memset(block + at, 0x41, (size_t)count);
        Py_RETURN_NONE;
    }

    static PyMethodDef methods[] = {
        {"allocate", allocate, METH_VARARGS, NULL}, {"release", release, METH_VARARGS, NULL},
        {"resize", resize, METH_VARARGS, NULL},     {"write_at", write_at, METH_VARARGS, NULL},
        {"use_malloc", use_malloc, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
    static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "seeded", NULL, -1, methods, NULL, NULL, NULL, NULL};

    PyMODINIT_FUNC PyInit_seeded(void)
    {
        return PyModule_Create(&definition);
    }
"""

# Of every program. The numbers of the lines are in the reports.
PRELUDE = """\
import sys
sys.path[:0] = %r
import heapkeeper, seeded, threading
def allocate(domain, size=40):
    seeded.allocate(domain, size)
def release(domain, at=0):
    seeded.release(domain, at)
def resize(domain, size, keep=False):
    seeded.resize(domain, size, keep)
def many():
    keep = [bytearray(200000) for i in range(10)]
    for i in range(150):
        keep[i %% 10] = bytearray(200000)
"""
ALLOCATE, RELEASE, RESIZE = 5, 7, 9

OVERFLOW = "heap buffer overflow: %s written behind a block of %s bytes (%s domain)"
UNDERFLOW = "heap buffer underflow: %s written in front of a block of %s bytes (%s domain)"
DOUBLE, AFTER = "double free of a block of %s bytes (%s domain)", "use after free: %s written into a freed block of %s bytes (%s domain)"
WRONG, TO_C = "wrong domain: a block of the %s domain was given to the %s domain", "wrong domain: a block of the %s domain was given to C's %s"
FREED, WALK, AT_END = "when the block was freed", "when all blocks were checked", "when all blocks were checked at the program's end"
ALLOCATED = ("allocate_in_c", "allocate", ALLOCATE)
RELEASED = ("release_in_c", "release", RELEASE)
RESIZED = ("resize_in_c", "resize", RESIZE)
# The call that found it, where it was one of the program's.
FOUND_BY = {FREED: RELEASED, "when it was freed": RELEASED, "when it was given to C's free": RELEASED,
            "when the block was reallocated": RESIZED, "when it was reallocated": RESIZED,
            "when it was given to C's realloc": RESIZED}

# name: (program, what, found, allocated, freed)
BUGS = {
    "overflow of an object": ("allocate('object'); seeded.write_at(40); release('object')",
                              OVERFLOW % ("1 byte", 40, "object"), FREED, ALLOCATED, None),
    "overflow in mem": ("allocate('mem', 100); seeded.write_at(100, 8); release('mem')",
                        OVERFLOW % ("8 bytes", 100, "mem"), FREED, ALLOCATED, None),
    "overflow in raw": ("allocate('raw', 13); seeded.write_at(14); release('raw')",
                        OVERFLOW % ("1 byte", 13, "raw"), FREED, ALLOCATED, None),
    "overflow of a large block": ("allocate('mem', 70000); seeded.write_at(70000); release('mem')",
                                  OVERFLOW % ("1 byte", 70000, "mem"), FREED, ALLOCATED, None),
    "overflow of nothing": ("allocate('object', 0); seeded.write_at(0); release('object')",
                            OVERFLOW % ("1 byte", 0, "object"), FREED, ALLOCATED, None),
    "overflow found by realloc": ("allocate('mem'); seeded.write_at(40); resize('mem', 80)",
                                  OVERFLOW % ("1 byte", 40, "mem"), "when the block was reallocated", ALLOCATED, None),
    "overflow after realloc": ("allocate('object'); resize('object', 99); seeded.write_at(99); release('object')",
                               OVERFLOW % ("1 byte", 99, "object"), FREED, RESIZED, None),
    "overflow found by a walk": ("allocate('object'); seeded.write_at(41); heapkeeper.debug_check()",
                                 OVERFLOW % ("1 byte", 40, "object"), WALK, ALLOCATED, None),
    "overflow found at the end": ("allocate('raw'); seeded.write_at(42)",
                                  OVERFLOW % ("1 byte", 40, "raw"), AT_END, ALLOCATED, None),
    "overflow in a thread": ("t = threading.Thread(target=allocate, args=('mem',)); t.start(); t.join(); "
                             "seeded.write_at(40); release('mem')",
                             OVERFLOW % ("1 byte", 40, "mem"), FREED, ALLOCATED, None),
    "underflow of an object": ("allocate('object'); seeded.write_at(-1); release('object')",
                               UNDERFLOW % ("1 byte", 40, "object"), FREED, ALLOCATED, None),
    "underflow in raw found by a walk": ("allocate('raw'); seeded.write_at(-16, 16); heapkeeper.debug_check()",
                                         UNDERFLOW % ("16 bytes", 40, "raw"), WALK, ALLOCATED, None),
    "double free of an object": ("allocate('object'); release('object'); release('object')",
                                 DOUBLE % (40, "object"), "when it was freed", ALLOCATED, RELEASED),
    "double free in mem, later": ("allocate('mem'); release('mem'); many(); release('mem')",
                                  DOUBLE % (40, "mem"), "when it was freed", ALLOCATED, RELEASED),
    "double free in raw": ("allocate('raw', 600); release('raw'); release('raw')",
                           DOUBLE % (600, "raw"), "when it was freed", ALLOCATED, RELEASED),
    "realloc after free": ("allocate('mem'); release('mem'); resize('mem', 80)",
                           DOUBLE % (40, "mem"), "when it was reallocated", ALLOCATED, RELEASED),
    "use after free": ("allocate('object'); release('object'); seeded.write_at(39); heapkeeper.debug_check()",
                       AFTER % ("1 byte", 40, "object"), WALK, ALLOCATED, RELEASED),
    "use after free, found by frees": ("allocate('mem'); release('mem'); seeded.write_at(0); many()",
                                       AFTER % ("1 byte", 40, "mem"), "when the freed block left the quarantine", ALLOCATED,
                                       RELEASED),
    "use after free, found at the end": ("allocate('raw'); release('raw'); seeded.write_at(0, 40)",
                                         AFTER % ("40 bytes", 40, "raw"), AT_END, ALLOCATED, RELEASED),
    "use after realloc": ("allocate('object'); resize('object', 41, keep=True); seeded.write_at(3); heapkeeper.debug_check()",
                          AFTER % ("1 byte", 40, "object"), WALK, ALLOCATED, RESIZED),
    "free inside of a block": ("allocate('object'); release('object', 16)",
                               "invalid free: the pointer is not the start of a block", "when it was freed", ALLOCATED, None),
    "malloc's block given to Python": ("seeded.use_malloc(); release('mem')",
                                       "foreign free: no heap in debug mode has such a block", "when it was freed", None, None),
    "mem's block freed as an object": ("allocate('mem'); release('object')", WRONG % ("mem", "object"), "when it was freed", ALLOCATED,
                                       None),
    "raw's block reallocated as mem": ("allocate('raw'); resize('mem', 90)", WRONG % ("raw", "mem"), "when it was reallocated",
                                       ALLOCATED, None),
    "mem's block given to C's free": ("allocate('mem'); release('c')", TO_C % ("mem", "free"), "when it was given to C's free",
                                      ALLOCATED, None),
    "a large block given to C's free": ("allocate('object', 5000); release('c')", TO_C % ("object", "free"),
                                        "when it was given to C's free", ALLOCATED, None),
    "raw's block given to C's realloc": ("allocate('raw'); resize('c', 90)", TO_C % ("raw", "realloc"),
                                         "when it was given to C's realloc", ALLOCATED, None),
}
# One of each kind, for every Python.
SOME = ["overflow of an object", "underflow in raw found by a walk", "double free in raw", "use after free, found at the end",
        "free inside of a block", "raw's block reallocated as mem", "a large block given to C's free"]


@pytest.fixture(scope="session")
def seeded(compile_c):
    """Directory of the extension for an interpreter."""
    known = {}

    def build(python):
        if python.path not in known:
            known[python.path] = os.path.dirname(compile_c(EXTENSION, "-I" + python.include, shared=True, name="seeded.so"))
        return known[python.path]

    return build


def run_script(heapkeeper, tmp_path, python, directory, code, **rest):
    script = tmp_path / "program.py"
    script.write_text(PRELUDE % ([directory, os.path.join(TREE, "python")],) + code + "\n")
    return script, heapkeeper.run([str(script)], python=python, options=("--debug",), **rest)


def stack(report, heading):
    """[(function, where), ...] of the stack under this heading."""
    found = re.search(r"^  %s by thread \d+:\n((?:      .*\n)*)" % heading, report, re.MULTILINE)
    assert found, report
    return [re.fullmatch(r" {6}(.*?)(?: \((.*)\))?", line).groups() for line in found.group(1).splitlines()]


def check_site(report, heading, script, site):
    function, python_function, line = site
    frames = stack(report, heading)
    assert frames[0][0] == function and frames[0][1].startswith("seeded.so+0x"), report
    assert (python_function, "%s:%d" % (script, line)) in frames, report


def check_bug(heapkeeper, tmp_path, python, seeded, name):
    program, what, found, allocated, freed = BUGS[name]
    script, done = run_script(heapkeeper, tmp_path, python, seeded(python), program)
    report = done.err.decode()
    assert done.status == -signal.SIGABRT, report
    assert report.startswith("heapkeeper: %s\n  found %s, by thread " % (what, found)), report
    if found in FOUND_BY:
        check_site(report, "found %s," % found, script, FOUND_BY[found])
    if allocated:
        check_site(report, "allocated", script, allocated)
    if freed:
        check_site(report, "freed", script, freed)
    else:
        assert "\n  freed by" not in report


@pytest.mark.parametrize("name", sorted(BUGS))
def test_a_bug_of_an_extension_is_found_with_both_sites(heapkeeper, tmp_path, python, seeded, name):
    check_bug(heapkeeper, tmp_path, python, seeded, name)


@pytest.mark.parametrize("name", SOME)
def test_one_of_each_kind_is_found_in_every_python(heapkeeper, tmp_path, every_python, seeded, name):
    check_bug(heapkeeper, tmp_path, every_python, seeded, name)


CLEAN = """
import asyncio, concurrent.futures, ctypes, decimal, gc, json, re, subprocess, os
text = json.dumps([{"n": i, "s": str(i) * (i % 50)} for i in range(3000)])
assert json.loads(text)[7]["n"] == 7
assert len(re.findall(r"\\d+", text)) > 3000
class Node:
    pass
for i in range(2000):
    a, b = Node(), Node(); a.other, b.other = b, a
gc.collect()
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert sum(pool.map(lambda n: len(bytearray(n * 100)), range(200))) == 1990000
async def nothing(n):
    await asyncio.sleep(0); return n
async def main():
    return sum(await asyncio.gather(*[nothing(n) for n in range(100)]))
assert asyncio.run(main()) == 4950
for domain in "raw", "mem", "object":
    for size in 0, 1, 40, 600, 5000, 2000000:
        allocate(domain, size); resize(domain, size + 1); resize(domain, size // 2); release(domain)
pid = os.fork()
if pid == 0:
    assert heapkeeper.debug_check() > 1000
    os._exit(7)
assert os.waitpid(pid, 0)[1] == 7 << 8
assert subprocess.run([sys.executable, "-c", "print(1)"], stdout=subprocess.PIPE).stdout == b"1\\n"
print(heapkeeper.debug_check() > 10000)
"""


def test_a_program_without_a_bug_is_left_alone(heapkeeper, tmp_path, every_python, seeded):
    script, done = run_script(heapkeeper, tmp_path, every_python, seeded(every_python), CLEAN)
    assert done.said == (0, b"True\n", b"")
    report = heapkeeper.report()
    assert (report["watch"], report["stacks"], report["state"]) == ("ours", "good", "ended")


def test_without_debug_nothing_is_looked_at(heapkeeper):
    code = "import sys; sys.path.insert(0, %r); import heapkeeper as h; print(h.debug_check())" % os.path.join(TREE, "python")
    assert heapkeeper.good(code).out == b"0\n"


def test_interpreters_with_their_own_gil_are_watched_as_well(heapkeeper, tmp_path, every_python, seeded):
    if every_python.version < (3, 12):
        pytest.skip("has no interpreters with their own GIL")
    name = "_interpreters" if every_python.version >= (3, 13) else "_xxsubinterpreters"
    code = "import %s as i\nfor n in range(20):\n    x = i.create(); i.%s(x, 'import json; a = [str(k) for k in range(5000)]'); i.destroy(x)\n" % (
        name, "exec" if every_python.version >= (3, 13) else "run_string")
    script, done = run_script(heapkeeper, tmp_path, every_python, seeded(every_python), code + "print(heapkeeper.debug_check() > 1000)")
    assert done.said == (0, b"True\n", b"")


def test_children_are_in_debug_mode_too(heapkeeper, tmp_path, python, seeded):
    code = "import subprocess; print(subprocess.run([sys.executable, '-c', %r], stderr=subprocess.PIPE).stderr.splitlines()[0])"
    child = PRELUDE % ([seeded(python), os.path.join(TREE, "python")],) + "allocate('mem'); release('mem'); release('mem')"
    script, done = run_script(heapkeeper, tmp_path, python, seeded(python), code % child)
    assert done.said == (0, b"b'heapkeeper: double free of a block of 40 bytes (mem domain)'\n", b"")
