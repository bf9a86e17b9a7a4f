/* Where things are in the memory of the CPython that runs in this process, for 3.9 to 3.15, without
 * any Python header: one library serves every version, and programs that have no Python at all.
 *
 * Three sources, in this order:
 *   3.13-3.15  the table of debug offsets at the start of _PyRuntime, read at run time; only the
 *              *shape* of the table (which word means what) is fixed for a minor version and
 *              compiled in here, because the offsets themselves moved inside 3.13 and inside 3.14
 *   3.9-3.12   layout_table.h, generated from the versions' own headers by tools/layouts/gen.py
 *   otherwise  none: `stacks` is false and `why` says what the user is to be told. Nothing is
 *              guessed.
 *
 * All symbols are found by dlsym(RTLD_DEFAULT, ...), so a static interpreter and a shared libpython
 * look the same. A layout is written once, in the library's constructor, and only read from then
 * on; the self-test (hk_py_self_test) may later be answered by the caller with "stacks off", which
 * is the caller's own flag.
 */
#ifndef HK_HOSTS_CPYTHON_LAYOUT_H
#define HK_HOSTS_CPYTHON_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum hk_py_frame_kind {
    HK_PY_FRAMES_NONE = 0,
    HK_PY_FRAME_OBJECTS, /* 3.9, 3.10: a chain of PyFrameObject */
    HK_PY_FRAME_STRUCTS, /* 3.11 on: a chain of _PyInterpreterFrame */
};

enum hk_py_source { HK_PY_SOURCE_NONE = 0, HK_PY_SOURCE_TABLE, HK_PY_SOURCE_DEBUG_OFFSETS };

/* Offsets are bytes from the start of the object or structure; -1: there is no such field. */
typedef struct hk_py_layout {
    /* What was found. */
    bool present; /* a CPython is in this process */
    bool stacks;  /* all that a walk needs is known; false: only the facts up to `why` count */
    bool free_threaded; /* no allocator may be replaced there */
    bool debug;         /* Py_DEBUG or Py_REF_DEBUG: same offsets */
    bool trace_refs;    /* before 3.13 every object header is longer: no stacks */
    bool raw_may_walk;  /* 3.12 on: a thread state is this thread's own, so a RAW hook may walk */
    uint32_t version;   /* PY_VERSION_HEX; 0 when not present */
    int minor;          /* 9 for 3.9 */
    const char *why;    /* static text for the user; "" when `stacks` */
    enum hk_py_source source;

    /* Addresses. */
    const void *runtime; /* _PyRuntime */
    const void *code_type, *unicode_type, *bytes_type;
    const void *init_cleanup; /* code of the __init__ trampoline where exported (3.14 on) or NULL */
    void *(*thread_state)(void); /* 3.12 on: this thread's own; before: the lock holder's */
    void *(*thread_state_of_thread)(void); /* PyGILState_GetThisThreadState: with or without the lock */

    /* Thread state and interpreter. From 3.11 to 3.12 the thread state's frame pointer leads to a
     * structure that holds the innermost frame at cframe_current; else that is -1. */
    int32_t thread_interpreter, thread_frame, cframe_current;
    int32_t thread_trace, thread_profile, thread_tracing; /* 3.9 to 3.11: its functions, and whether one of them runs (int) */
    int32_t thread_use_tracing; /* 3.9: an int; 3.10, 3.11: a pointer to a structure that begins with an int, a byte */
    int32_t interpreter_tracing; /* 3.9: int, how many threads may have a trace function; 0: no such field */
    int32_t thread_executor; /* non-NULL while in JIT code; -1: no JIT to ask about */
    int32_t interpreter_id, interpreter_next;     /* int64; pointer */
    int32_t interpreter_gil, interpreter_own_gil; /* pointer to its lock; embedded lock (3.12 on) */
    uint64_t interpreter_size;    /* bytes; 0: not in the layout (use hk_py_interpreter_size) */
    int32_t runtime_interpreters; /* head of the list of interpreters in *runtime */
    int32_t runtime_main;         /* pointer to the main interpreter in *runtime; -1 from 3.13 on */
    int32_t runtime_finalizing;   /* pointer in *runtime: not NULL from the beginning of finalisation on; -1: unknown */
    uint64_t runtime_size;        /* bytes of *runtime as the symbol table says; 0: not known */

    /* The collector of cycles, from the start of its interpreter. */
    int32_t gc_generations; /* three heads of lists; 0: nothing is known of the collector */
    int32_t gc_counts;      /* how often each was collected; 3.15 on: a pointer to that (collections.c) */
    int32_t gc_counts_size; /* bytes */
    int32_t gc_collecting;  /* int: it is at work */
    int32_t gc_garbage;     /* pointer to a list */

    /* Frames. The instruction of a frame object is an int, in units of instruction_unit bytes (1 on
     * 3.9, 2 on 3.10); that of a frame structure is a pointer. */
    enum hk_py_frame_kind frames;
    int32_t frame_previous, frame_code, frame_instruction;
    int32_t instruction_unit;
    int32_t frame_owner;      /* char; -1: no such field */
    int32_t first_shim_owner; /* owners from here on are the interpreter's own frames */
    uintptr_t code_tag_mask;  /* bits of the code pointer that are tags (3.14 on) */
    bool has_init_trampoline; /* 3.13 on */

    /* Code objects. */
    int32_t code_size; /* bytes, for range checks */
    int32_t code_filename, code_name, code_qualname, code_linetable, code_firstlineno;
    int32_t code_bytes;           /* 3.9, 3.10: bytes object that holds the instructions */
    int32_t code_units;           /* 3.11 on: ob_size, the number of 2-byte code units */
    int32_t code_adaptive;        /* 3.11 on: the instructions themselves */
    int32_t code_first_traceable; /* 3.11 on: int, code units; before it: the prologue */

    /* Object header, str, bytes. The state is a 32-bit word of bit fields; the characters of a
     * compact string begin behind its header, which is shorter for ASCII. */
    int32_t object_type, type_flags;
    int32_t unicode_length, unicode_state;
    int32_t unicode_kind_shift, unicode_compact_shift, unicode_ascii_shift;
    int32_t unicode_ready_shift; /* -1: always ready (3.12 on) */
    int32_t unicode_ascii_size, unicode_compact_size;
    int32_t bytes_length, bytes_data;
} hk_py_layout;

/* The layout of the interpreter in this process; never NULL. The first call looks for it (dlsym:
 * not in a hook, and before there are threads: call it in the constructor); later calls are one
 * load and may be made in a hook. */
const hk_py_layout *hk_py_layout_find(void);

/* What is needed to work out a layout, apart from looking symbols up. For tests. */
struct hk_py_facts {
    uint32_t version;
    const uint64_t *debug_offsets; /* start of _PyRuntime if it begins with the cookie, else NULL */
    bool debug, trace_refs;
};

/* Fills *layout's version, flags and offsets from facts; leaves addresses alone. Pure. */
void hk_py_layout_from(hk_py_layout *layout, const struct hk_py_facts *facts);

/* Bytes of one PyInterpreterState; 0 without a layout, before 3.12 (no interpreter has a lock of
 * its own there), and on 3.12 until the runtime is initialised. A RAW calloc(1, n) with size <= n <
 * size + 64 is a new interpreter being made, by a thread that has no thread state from 3.13 on and
 * has one on 3.12. May be called in a hook. */
uint64_t hk_py_interpreter_size(const hk_py_layout *layout);

/* The id of the thread state's interpreter; 0 is the main one. -1: unknown. May be called in a
 * hook. */
int64_t hk_py_interpreter_id(const hk_py_layout *layout, const void *thread_state);

/* True if the interpreter has a lock of its own (the main one always has; a legacy one shares the
 * main's). Before 3.12 every interpreter shares: true for the main one only. May be called in a
 * hook. */
bool hk_py_interp_has_own_gil(const hk_py_layout *layout, const void *thread_state);

/* True if an interpreter other than the main one has a lock of its own at this moment. The caller holds the main one's,
 * and the layout has stacks. Not in a hook. */
bool hk_py_some_have_own_gil(const hk_py_layout *layout);

#endif
