"""`heapkeeper run --geometry`: the guide's arenas, pools and blocks under a real Python, what the report says of them, and
what an extension module's objects are aligned to."""

import json
import os
import re

import pytest

from conftest import COMMAND, execute, is_at_a_fixed_address

GUIDE = ("--geometry", "guide")
GUIDE_16 = ("--geometry", "guide,align=16")

# Allocates in every domain and every size class, in threads and in a child, and says what it found.
PROGRAM = """
    import json, os, re, subprocess, sys, threading
    def work(n):
        data = [{"name": "n%d" % i, "row": list(range(i % 40)), "text": "x" * (i % 700)} for i in range(n)]
        assert json.loads(json.dumps(data)) == data
        return data
    kept = work(20000)
    pid = os.fork()
    if pid == 0:
        work(1000)
        os._exit(7)
    assert os.waitpid(pid, 0)[1] == 7 << 8
    threads = [threading.Thread(target=work, args=(2000,)) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    blocks = [bytes(n) for n in range(1, 600)]
    assert all(len(b) == n for n, b in enumerate(blocks, 1))
    print(subprocess.check_output([sys.executable, "-c", "print('child')"]).decode().strip())
"""


def test_a_program_runs_in_the_guides_geometry_and_the_report_says_so(heapkeeper, every_python):
    done = heapkeeper.good(PROGRAM, python=every_python, options=("--sample=16K",) + GUIDE)
    assert done.out == b"child\n"
    report = heapkeeper.recorded(python=every_python)
    assert report["heap"]["geometry"] == {
        "name": "guide",
        "arena_bytes": 256 * 1024,
        "pool_bytes": 4096,
        "block_step": 8,
        "block_max": 512,
        "alignment": 8,
    }
    assert report["heap"]["pools"] == 64 * report["heap"]["arenas"]
    text = heapkeeper.text().decode()
    assert re.search(r"^HEAP +[\d ]+ arenas of 256 KiB · [\d ]+ pools of 4 KiB \(", text.replace("\u202f", " "), re.M)


def test_the_default_geometry_is_said_too(heapkeeper):
    heapkeeper.good("print(1)")
    assert heapkeeper.recorded()["heap"]["geometry"] == {
        "name": "default",
        "arena_bytes": 1 << 20,
        "pool_bytes": 16384,
        "block_step": 16,
        "block_max": 4096,
        "alignment": 8,
    }
    assert " of 1 MiB · " in heapkeeper.text().decode()
    heapkeeper.good("print(1)", options=("--sample=16K", "--geometry", "default"))
    assert heapkeeper.recorded()["heap"]["geometry"]["name"] == "default"


# What the statistics in the process say, by ctypes as heapkeeper.stats() has it.
STATS = """
import ctypes, json, os, subprocess, sys
library = ctypes.PyDLL(None)
library.hk_stats_json.restype = ctypes.c_size_t
buffer = ctypes.create_string_buffer(1 << 16)
library.hk_stats_json(buffer, ctypes.c_size_t(1 << 16))
geometry = json.loads(buffer.value)["geometry"]
print(json.dumps(geometry), flush=True)
"""


def test_children_and_execs_stay_in_the_geometry_and_can_say_which_it_is(heapkeeper):
    code = STATS + """
if len(sys.argv) == 1:
    subprocess.check_call([sys.executable, "-c", CODE, "child"])
    os.execv(sys.executable, [sys.executable, "-c", CODE, "exec"])
"""
    done = heapkeeper.good("CODE = %r\n%s" % (code, code), options=("--sample=16K",) + GUIDE_16)
    said = [json.loads(line) for line in done.out.splitlines()]
    assert [geometry["name"] for geometry in said] == ["guide"] * 3
    assert said[0] == {"name": "guide", "arena_bytes": 256 * 1024, "pool_bytes": 4096, "block_step": 8, "block_max": 512}
    assert heapkeeper.report()["heap"]["geometry"]["alignment"] == 16


@pytest.mark.parametrize("inner", ["default", "guide"])
def test_a_run_inside_a_run_has_the_geometry_it_asks_for(heapkeeper, tmp_path, inner):
    outer = "guide" if inner == "default" else "default"
    capture = str(tmp_path / "inner")
    words = [COMMAND, "run", "--geometry", inner, "-o", capture, heapkeeper.python.path, "-c",
             "import os; print(os.environ['LD_PRELOAD'].count('libheapkeeper'))"]
    done = execute([COMMAND, "run", "--geometry", outer, "-o", str(tmp_path / "outer"), *words])
    assert (done.status, done.out, done.err) == (0, b"1\n", b"")
    assert heapkeeper.report(capture)["heap"]["geometry"]["name"] == inner


def test_the_library_in_the_process_is_the_one_of_the_geometry(heapkeeper, every_python):
    code = "print({line.split('/')[-1].strip() for line in open('/proc/self/maps') if 'libheapkeeper' in line})"
    low = "low-" if is_at_a_fixed_address(every_python.path) else ""
    for options, infix in ((GUIDE, "guide-"), ((), "")):
        done = heapkeeper.good(code, python=every_python, options=("--sample=16K",) + options)
        assert done.out.decode() == "{'libheapkeeper-%s%spreload.so'}\n" % (infix, low)


@pytest.mark.parametrize("name", ["", "gide", "guides", "guid", "GUIDE", "guide,", "guide,align=", "guide,align=32",
                                  "guide,align=16,", "default,align=8", "default,", ",align=16", "guide align=16"])
def test_a_geometry_that_is_none_is_refused_in_one_line_that_names_those_there_are(heapkeeper, name):
    done = heapkeeper.run("print(1)", options=("--geometry", name))
    assert (done.status, done.out) == (2, b"")
    assert re.fullmatch(r"heapkeeper: run: --geometry=%s is none; there are default, guide, and guide,align=16 [^\n]*\n"
                        % re.escape(name), done.err.decode())
    assert heapkeeper.captures == []


@pytest.mark.parametrize("name", ["default", "default,align=16", "guide", "guide,align=8", "guide,align=16"])
def test_each_geometry_that_is_named_runs(heapkeeper, name):
    heapkeeper.good("print(1)", options=("--sample=16K", "--geometry=" + name))
    heapkeeper.recorded()


# --- extension modules ---

EXTENSION = r"""
    /* Objects and blocks whose types need 16 and 8 bytes of alignment. Compiled with -fsanitize=undefined, which looks at
     * every access through a pointer and ends the process at the first bad one. */
    #define PY_SSIZE_T_CLEAN
    #include <Python.h>
    #include <stdint.h>
    #include <stddef.h>

    typedef float Four __attribute__((vector_size(16))); /* loaded and stored by instructions that trap elsewhere */

    typedef struct { PyObject_HEAD long double value; } Wide;                          /* as numpy.longdouble */
    typedef struct { PyObject_HEAD Four vector; PyObject *link; } Vector;              /* tracked by the collector */
    typedef struct { PyObject_HEAD _Alignas(16) unsigned char bytes[20]; } Buffer;     /* read as a Four */
    typedef struct { PyObject_VAR_HEAD long double items[1]; } Array;                  /* as many as there are */
    typedef struct { PyObject_HEAD double d; int64_t i; void *p; } Narrow;             /* 8 is enough */
    typedef struct { PyObject_VAR_HEAD long double value; char tail[1]; } Tail;        /* an array of bytes at its end */

    static int vector_traverse(PyObject *self, visitproc visit, void *arg) { Py_VISIT(((Vector *)self)->link); return 0; }
    static int vector_clear(PyObject *self) { Py_CLEAR(((Vector *)self)->link); return 0; }
    static void vector_dealloc(PyObject *self) { PyObject_GC_UnTrack(self); vector_clear(self); Py_TYPE(self)->tp_free(self); }

    static PyTypeObject WideType = {PyVarObject_HEAD_INIT(NULL, 0) .tp_name = "Wide", .tp_basicsize = sizeof(Wide),
        .tp_flags = Py_TPFLAGS_DEFAULT};
    static PyTypeObject VectorType = {PyVarObject_HEAD_INIT(NULL, 0) .tp_name = "Vector", .tp_basicsize = sizeof(Vector),
        .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, .tp_traverse = vector_traverse, .tp_clear = vector_clear,
        .tp_dealloc = vector_dealloc};
    static PyTypeObject ArrayType = {PyVarObject_HEAD_INIT(NULL, 0) .tp_name = "Array",
        .tp_basicsize = offsetof(Array, items), .tp_itemsize = sizeof(long double), .tp_flags = Py_TPFLAGS_DEFAULT};
    static PyTypeObject NarrowType = {PyVarObject_HEAD_INIT(NULL, 0) .tp_name = "Narrow", .tp_basicsize = sizeof(Narrow),
        .tp_flags = Py_TPFLAGS_DEFAULT};
    static PyTypeObject TailType = {PyVarObject_HEAD_INIT(NULL, 0) .tp_name = "Tail",
        .tp_basicsize = offsetof(Tail, tail), .tp_itemsize = 1, .tp_flags = Py_TPFLAGS_DEFAULT};
    static PyTypeObject BufferType = {PyVarObject_HEAD_INIT(NULL, 0) .tp_name = "Buffer", .tp_basicsize = sizeof(Buffer),
        .tp_flags = Py_TPFLAGS_DEFAULT};

    /* Fills blocks of a domain as an array of each type, shrunk and grown; bad: what was written is not there. */
    #define FILL(type, malloc, realloc, free) do {                                                       \
        for (size_t n = 1; n <= 70; n++) {                                                               \
            type *block = malloc(n * sizeof(type));                                                      \
            for (size_t i = 0; i < n; i++) block[i] = (type)(i + 1);                                     \
            for (size_t has = n, to = 1; to <= 2 * n; has = to, to += 1 + n / 9) {                       \
                block = realloc(block, to * sizeof(type));                                               \
                for (size_t i = 0; i < has && i < to; i++) bad |= block[i] != (type)(i + 1);             \
                for (size_t i = 0; i < to; i++) block[i] = (type)(i + 1);                                \
            }                                                                                            \
            free(block);                                                                                 \
        }                                                                                                \
    } while (0)
    #define FILL_ALL(type) FILL(type, PyMem_Malloc, PyMem_Realloc, PyMem_Free);                          \
        FILL(type, PyObject_Malloc, PyObject_Realloc, PyObject_Free);                                    \
        FILL(type, PyMem_RawMalloc, PyMem_RawRealloc, PyMem_RawFree)

    /* Blocks of an odd multiple of 8, half of which may lie between multiples of 16, become such as may not. */
    static void shrink(void *(*allocate)(size_t), void *(*resize)(void *, size_t), void (*release)(void *))
    {
        for (size_t size = 24; size <= 504; size += 16) {
            long double *shrunk[8];
            for (int i = 0; i < 8; i++) shrunk[i] = allocate(size);
            for (int i = 0; i < 8; i++) shrunk[i] = resize(shrunk[i], size - 8);
            for (int i = 0; i < 8; i++) *shrunk[i] = 1;
            for (int i = 0; i < 8; i++) release(shrunk[i]);
        }
    }

    static PyObject *blocks(PyObject *self, PyObject *none)
    {
        int bad = 0;
        shrink(PyMem_Malloc, PyMem_Realloc, PyMem_Free);
        shrink(PyObject_Malloc, PyObject_Realloc, PyObject_Free);
        FILL_ALL(long double);
        FILL_ALL(int64_t);
        FILL_ALL(double);
        FILL_ALL(uintptr_t);
        return PyBool_FromLong(!bad);
    }

    static Four vector_of(Buffer *buffer, unsigned char fill)
    {
        memset(buffer->bytes, fill, sizeof(buffer->bytes));
        return *(Four *)buffer->bytes;
    }

    static PyObject *objects(PyObject *self, PyObject *arg)
    {
        Py_ssize_t n = PyLong_AsSsize_t(arg);
        PyObject *list = PyList_New(0);
        for (Py_ssize_t i = 0; i < n; i++) {
            Wide *wide = PyObject_New(Wide, &WideType);
            Vector *vector = PyObject_GC_New(Vector, &VectorType);
            Array *array = PyObject_NewVar(Array, &ArrayType, i % 40);
            Narrow *narrow = PyObject_New(Narrow, &NarrowType);
            wide->value = i;
            Buffer *buffer = PyObject_New(Buffer, &BufferType);
            vector->vector = (Four){(float)i, 1, 2, 3} * vector_of(buffer, (unsigned char)i);
            Py_INCREF(list); /* a cycle for the collector */
            vector->link = list;
            PyObject_GC_Track((PyObject *)vector);
            for (Py_ssize_t k = 0; k < i % 40; k++) array->items[k] = k;
            narrow->d = i, narrow->i = i, narrow->p = narrow;
            PyObject *made[] = {(PyObject *)wide, (PyObject *)vector, (PyObject *)array, (PyObject *)narrow, (PyObject *)buffer};
            for (int k = 0; k < 5; k++) { PyList_Append(list, made[k]); Py_DECREF(made[k]); }
        }
        return list;
    }

    /* How many of the objects with an odd tail of bytes are not aligned to 16. */
    static PyObject *tails(PyObject *self, PyObject *none)
    {
        long off = 0;
        PyObject *kept[400];
        for (int i = 0; i < 400; i++) {
            kept[i] = (PyObject *)PyObject_NewVar(Tail, &TailType, i);
            off += (uintptr_t)kept[i] % 16 != 0;
        }
        for (int i = 0; i < 400; i++) Py_DECREF(kept[i]);
        return PyLong_FromLong(off);
    }

    /* The sanitizer is awake. */
    static PyObject *provoke(PyObject *self, PyObject *none)
    {
        static _Alignas(16) char place[64];
        long double *volatile astray = (long double *)(place + 8);
        *astray = 1;
        Py_RETURN_NONE;
    }

    static PyMethodDef methods[] = {{"blocks", blocks, METH_NOARGS, NULL}, {"objects", objects, METH_O, NULL},
        {"tails", tails, METH_NOARGS, NULL}, {"provoke", provoke, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
    static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "aligned", NULL, -1, methods, NULL, NULL, NULL, NULL};

    PyMODINIT_FUNC PyInit_aligned(void)
    {
        PyTypeObject *types[] = {&WideType, &VectorType, &ArrayType, &NarrowType, &BufferType, &TailType};
        for (int i = 0; i < 6; i++)
            if (PyType_Ready(types[i]) < 0)
                return NULL;
        return PyModule_Create(&definition);
    }
"""

USE = """
    import gc, sys
    sys.path.insert(0, %r)
    import aligned
    assert aligned.blocks()
    for _ in range(5):
        kept = aligned.objects(3000)
        del kept
        gc.collect()
    print(aligned.tails())
"""


@pytest.fixture
def extension(compile_c, every_python):
    flags = ["-I" + every_python.include, "-fsanitize=undefined", "-fno-sanitize-recover=undefined", "-static-libubsan",
             "-fno-strict-aliasing"]
    return os.path.dirname(compile_c(EXTENSION, *flags, shared=True, name="aligned.so"))


def test_an_extension_under_the_sanitizer_is_silent_in_every_geometry(heapkeeper, every_python, extension):
    for options in ((), GUIDE, GUIDE_16):
        done = heapkeeper.good(USE % extension, python=every_python, options=("--sample=16K",) + options)
        off = int(done.out)
        # Only an object with a tail of bytes is ever at an odd multiple of 8, and only where blocks come in eights.
        assert (off > 50) == (options == GUIDE), (options, off)
        heapkeeper.recorded(python=every_python)


def test_the_sanitizer_is_awake_and_ends_the_process(heapkeeper, every_python, extension):
    done = heapkeeper.run(USE % extension + "\n    aligned.provoke()", python=every_python, options=GUIDE)
    assert done.status == 1
    assert done.err.count(b"runtime error: store to misaligned address") == 1, done.err
