#!/usr/bin/env python3
"""Writes src/hosts/cpython/layout_table.h: where CPython 3.9-3.12 keeps what a stack walk needs.

Usage: tools/layouts/gen.py PYTHON...  > src/hosts/cpython/layout_table.h

Every PYTHON is an interpreter with its headers installed. For each, a small C program is compiled against those
headers (with Py_BUILD_CORE, for the internal ones) that prints offsetof() of every field. Several micro versions
of one minor must agree: the table has one row a minor, and a difference is an error here rather than a wrong
stack there. 3.13 and later are refused: their offsets are read at run time.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

INCLUDES = """
#define Py_BUILD_CORE 1
#include <Python.h>
#include <frameobject.h>
#include <stddef.h>
#include <stdio.h>
#include "internal/pycore_interp.h"
#if PY_VERSION_HEX >= 0x030B0000
#include "internal/pycore_code.h"
#include "internal/pycore_frame.h"
#endif
#include "internal/pycore_runtime.h"
"""

OFFSET = "offsetof(%s, %s)"

# Fields of struct hk_py_layout and the C expression for each, per minor version.
COMMON = {
    "thread_interpreter": OFFSET % ("PyThreadState", "interp"),
    "interpreter_id": OFFSET % ("PyInterpreterState", "id"),
    "interpreter_next": OFFSET % ("PyInterpreterState", "next"),
    "code_size": "sizeof(PyCodeObject)",
    "code_filename": OFFSET % ("PyCodeObject", "co_filename"),
    "code_name": OFFSET % ("PyCodeObject", "co_name"),
    "code_firstlineno": OFFSET % ("PyCodeObject", "co_firstlineno"),
    "object_type": OFFSET % ("PyObject", "ob_type"),
    "type_flags": OFFSET % ("PyTypeObject", "tp_flags"),
    "unicode_length": OFFSET % ("PyASCIIObject", "length"),
    "unicode_state": OFFSET % ("PyASCIIObject", "state"),
    "unicode_kind_shift": "bit_of(kind)",
    "unicode_compact_shift": "bit_of(compact)",
    "unicode_ascii_shift": "bit_of(ascii)",
    "unicode_ascii_size": "sizeof(PyASCIIObject)",
    "unicode_compact_size": "sizeof(PyCompactUnicodeObject)",
    "bytes_length": OFFSET % ("PyVarObject", "ob_size"),
    "bytes_data": OFFSET % ("PyBytesObject", "ob_sval"),
    "runtime_interpreters": OFFSET % ("_PyRuntimeState", "interpreters.head"),
    "runtime_main": OFFSET % ("_PyRuntimeState", "interpreters.main"),
    "runtime_finalizing": OFFSET % ("_PyRuntimeState", "_finalizing"),
    "gc_generations": OFFSET % ("PyInterpreterState", "gc.generations"),
    "gc_counts": OFFSET % ("PyInterpreterState", "gc.generation_stats"),
    "gc_counts_size": "sizeof(((PyInterpreterState *)0)->gc.generation_stats)",
    "gc_collecting": OFFSET % ("PyInterpreterState", "gc.collecting"),
    "gc_garbage": OFFSET % ("PyInterpreterState", "gc.garbage"),
}

TRACE = {
    "thread_trace": OFFSET % ("PyThreadState", "c_tracefunc"),
    "thread_profile": OFFSET % ("PyThreadState", "c_profilefunc"),
    "thread_tracing": OFFSET % ("PyThreadState", "tracing"),
    "thread_use_tracing": OFFSET % ("PyThreadState", "cframe"),
}

FRAME_OBJECTS = {
    "frames": "HK_PY_FRAME_OBJECTS",
    "thread_frame": OFFSET % ("PyThreadState", "frame"),
    "cframe_current": "-1",
    "frame_previous": OFFSET % ("PyFrameObject", "f_back"),
    "frame_code": OFFSET % ("PyFrameObject", "f_code"),
    "frame_instruction": OFFSET % ("PyFrameObject", "f_lasti"),
    "frame_owner": "-1",
    "first_shim_owner": "0",
    "code_bytes": OFFSET % ("PyCodeObject", "co_code"),
    "code_qualname": "-1",
    "code_units": "-1",
    "code_adaptive": "-1",
    "code_first_traceable": "-1",
    "unicode_ready_shift": "bit_of(ready)",
}

FRAME_STRUCTS = {
    "frames": "HK_PY_FRAME_STRUCTS",
    "thread_frame": OFFSET % ("PyThreadState", "cframe"),
    "cframe_current": OFFSET % ("_PyCFrame", "current_frame"),
    "frame_previous": OFFSET % ("_PyInterpreterFrame", "previous"),
    "frame_code": OFFSET % ("_PyInterpreterFrame", "f_code"),
    "frame_instruction": OFFSET % ("_PyInterpreterFrame", "prev_instr"),
    "frame_owner": OFFSET % ("_PyInterpreterFrame", "owner"),
    "instruction_unit": "0",
    "code_bytes": "-1",
    "code_qualname": OFFSET % ("PyCodeObject", "co_qualname"),
    "code_linetable": OFFSET % ("PyCodeObject", "co_linetable"),
    "code_units": OFFSET % ("PyVarObject", "ob_size"),
    "code_adaptive": OFFSET % ("PyCodeObject", "co_code_adaptive"),
    "code_first_traceable": OFFSET % ("PyCodeObject", "_co_firsttraceable"),
}

NO_OWN_GIL = {"interpreter_gil": "-1", "interpreter_own_gil": "-1", "raw_may_walk": "false"}

VERSIONS = {
    (3, 9): {**COMMON, **FRAME_OBJECTS, **NO_OWN_GIL, "instruction_unit": "1", **TRACE,
             "interpreter_tracing": OFFSET % ("PyInterpreterState", "ceval.tracing_possible"),
             "thread_use_tracing": OFFSET % ("PyThreadState", "use_tracing"),
             "code_linetable": OFFSET % ("PyCodeObject", "co_lnotab")},
    (3, 10): {**COMMON, **FRAME_OBJECTS, **NO_OWN_GIL, "instruction_unit": "2", **TRACE,
              "code_linetable": OFFSET % ("PyCodeObject", "co_linetable")},
    # 3.11 has no frames of the interpreter's own: no owner is above "frame object" (2).
    (3, 11): {**COMMON, **FRAME_STRUCTS, **NO_OWN_GIL, "first_shim_owner": "FRAME_OWNED_BY_FRAME_OBJECT + 1",
              **TRACE,
              "unicode_ready_shift": "bit_of(ready)"},
    (3, 12): {**COMMON, **FRAME_STRUCTS, "first_shim_owner": "FRAME_OWNED_BY_CSTACK",
              **dict.fromkeys(TRACE, "-1"),
              "raw_may_walk": "true", "unicode_ready_shift": "-1",
              "interpreter_gil": OFFSET % ("PyInterpreterState", "ceval.gil"),
              "interpreter_own_gil": OFFSET % ("PyInterpreterState", "_gil")},
}

LITERAL = ("HK_PY_", "true", "false")

BIT_OF = """
static int lowest(unsigned word) { int i = 0; while (i < 32 && !(word >> i & 1)) i++; return i; }
#define bit_of(field) ({ union { PyASCIIObject o; unsigned char b[sizeof(PyASCIIObject)]; } u; \\
    __builtin_memset(&u, 0, sizeof u); u.o.state.field = ~0; unsigned w; \\
    __builtin_memcpy(&w, u.b + offsetof(PyASCIIObject, state), sizeof w); lowest(w); })
"""


def ask(python, code):
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def offsets_of(python):
    """(minor, micro version string, {field: value as C text})"""
    version, include = ask(python, "import sys, sysconfig; print('%d.%d.%d' % sys.version_info[:3], "
                                   "sysconfig.get_path('include'))").split()
    minor = tuple(int(n) for n in version.split(".")[:2])
    if minor not in VERSIONS:
        sys.exit(f"gen.py: {python} is {version}: this table is for 3.9 to 3.12")
    fields = VERSIONS[minor]
    prints = "".join(f'    printf("{name} %ld\\n", (long)({text}));\n'
                     for name, text in fields.items() if not text.startswith(LITERAL))
    program = f"{INCLUDES}\n{BIT_OF}\nint main(void) {{\n{prints}    return 0;\n}}\n"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "offsets.c")
        source.write_text(program)
        subprocess.run(["gcc", "-w", "-I", include, "-I", include + "/internal", str(source),
                        "-o", folder + "/offsets"], check=True)
        lines = subprocess.run([folder + "/offsets"], check=True, capture_output=True, text=True).stdout
    values = {name: text for name, text in fields.items() if text.startswith(LITERAL)}
    values.update(line.split() for line in lines.splitlines())
    return minor, version, values


def main():
    rows, micros = {}, {}
    for python in sys.argv[1:]:
        minor, version, values = offsets_of(python)
        if rows.setdefault(minor, values) != values:
            different = [name for name in values if rows[minor].get(name) != values[name]]
            sys.exit(f"gen.py: {version} differs from {micros[minor]} in {', '.join(different)}")
        micros.setdefault(minor, []).append(version)
    missing = set(VERSIONS) - set(rows)
    if missing:
        sys.exit("gen.py: no interpreter given for " + ", ".join("%d.%d" % m for m in sorted(missing)))

    print("/* Where CPython 3.9-3.12 (64 bit) keeps what a stack walk needs.\n"
          " * Generated by tools/layouts/gen.py from the interpreters' own headers: do not edit. From:")
    for minor in sorted(rows):
        print(f" *   {minor[0]}.{minor[1]}: {', '.join(sorted(set(micros[minor])))}")
    print(" */\n/* clang-format off */\nstatic const hk_py_layout hk_py_layout_table[] = {")
    for minor in sorted(rows):
        print(f"    {{\n        .minor = {minor[1]},")
        for name, value in sorted(rows[minor].items()):
            print(f"        .{name} = {value},")
        print("    },")
    print("};")


main()
