/* Python stacks, walked through the interpreter's own structures.
 *
 * A walk reads frames only (three or four words each) and no code object, so it is about a
 * nanosecond a frame; what a code object says (names, first line, line table) is asked once per
 * code, when the recorder first sees it. Lines are the reader's work (src/read/lines.h). Nothing in
 * here allocates, locks, or calls into Python, except hk_py_public_check, so all of it may be
 * called in an allocation hook and in a signal handler.
 */
#ifndef HK_HOSTS_CPYTHON_FRAMES_H
#define HK_HOSTS_CPYTHON_FRAMES_H

#include "hosts/cpython/layout.h"
#include "record/record.h"

/* {code, offset}: offset is in bytes from the first instruction to the current one, for callers
 * too; -1: the frame has not begun its first instruction (its line is the code's first line).
 * Offsets into a function's prologue (making cells) occur and may have no line. */
typedef struct hk_frame hk_py_frame;

#define HK_PY_MAX_DEPTH 20000

/* The thread state if and only if this thread may walk with it now, else NULL. 3.12 on: this
 * thread's own state, NULL while detached from its interpreter. Before: the lock holder's state if
 * it is the one this thread registered for itself, else NULL; so a thread in a sub-interpreter of
 * 3.9-3.11 gets NULL. */
void *hk_py_this_thread_state(const hk_py_layout *layout);

/* This thread's own state, also while it has given the interpreter's lock away: nobody else changes its frames
 * then. NULL for a thread that has none. Not while the interpreter is finalising: it frees the states of other
 * threads. A thread that is in a sub-interpreter without the lock may get its state in the main interpreter, with the
 * frames up to the call into the other. */
void *hk_py_own_thread_state(const hk_py_layout *layout);

/* The same for a caller that holds the interpreter's lock for certain (MEM and OBJ hooks): no
 * check. */
static inline void *hk_py_locked_thread_state(const hk_py_layout *layout)
{
    return layout->thread_state ? layout->thread_state() : NULL;
}

/* Fills at most max frames, innermost first, and returns their number. *truncated (may be NULL) is
 * set if the chain went on, or if a pointer was found that cannot be one (the rest is given up).
 * The interpreter's own frames (entry shims, the clean-up frame of a Python __init__) are left out.
 * Thread: only the one that hk_py_this_thread_state answered. */
int hk_py_walk(const hk_py_layout *layout, const void *thread_state, hk_py_frame *out, int max,
               bool *truncated);
/* One frame: 1, and *out; 0: it is one of the interpreter's own; -1: it is none. */
int hk_py_frame_at(const hk_py_layout *layout, uintptr_t frame, hk_py_frame *out);

/* False: the thread has no frame at all. */
bool hk_py_has_frame(const hk_py_layout *layout, const void *thread_state);

/* True while the thread runs JIT code: the line of the innermost frame may then be off by 1-3, its
 * function is right. */
bool hk_py_in_jit(const hk_py_layout *layout, const void *thread_state);

/* --- code.c: what a code object says --- */

/* All pointers are borrowed from the code object and valid while it lives. */
typedef struct hk_py_code {
    const void *filename, *name; /* str objects */
    const void *qualname;        /* str object; NULL before 3.11 */
    const void *linetable;       /* bytes object; co_lnotab on 3.9 */
    int32_t firstlineno;
    uint32_t units; /* size in code units of 2 bytes */
    uint32_t
        first_traceable; /* in code units: instructions before it are the prologue; 0 before 3.11 */
} hk_py_code;

/* False if `code` is not a code object (any more); it must be readable memory. */
bool hk_py_code_info(const hk_py_layout *layout, const void *code, hk_py_code *out);

/* The same; what tells it from all others that may have lain there. */
bool hk_py_identify(const hk_py_layout *layout, const void *code, struct hk_code_identity *out);

/* True for the hidden code that cleans up after a Python __init__ (3.13 on): its attributes must
 * not be used. */
bool hk_py_is_trampoline(const hk_py_layout *layout, const void *code);

/* Copies a str object as UTF-8, NUL-terminated, cut between characters so that it fits; what stands
 * for bytes of a path (surrogateescape, PEP 383) becomes these bytes, other lone surrogates U+FFFD. Returns the bytes before the NUL; 0 if it is not a str or cap is 0. A
 * string may contain NULs. */
size_t hk_py_copy_string(const hk_py_layout *layout, const void *unicode, char *buffer, size_t cap);

/* The contents of a bytes object, borrowed; NULL and *length 0 if it is none. */
const uint8_t *hk_py_bytes(const hk_py_layout *layout, const void *object, size_t *length);

/* --- self-test --- */

/* Walks the thread's whole stack with every read checked first (process_vm_readv; where that is
 * forbidden, mincore): each frame runs a code object, each instruction is inside it, names are
 * strings and line tables bytes, the chain ends. For the first MEM/OBJ allocation that has a frame:
 * in the hook, once. False: `why` (NUL-terminated, cut to size) says what was wrong; the caller
 * then does without stacks. A stack without any frame is a success. */
bool hk_py_self_test(const hk_py_layout *layout, const void *thread_state, char *why, size_t size);

/* Compares a walk with what PyThreadState_GetFrame / PyFrame_GetBack / PyFrame_GetCode /
 * PyFrame_GetLasti say. These allocate: NOT in a hook or a signal handler. The caller holds the
 * interpreter's lock, has a Python frame, and the interpreter is initialised and not finalising:
 * from a function called by Python (ctypes.PyDLL), or from a pending call (Py_AddPendingCall). True
 * also when there is no frame to compare. */
bool hk_py_public_check(const hk_py_layout *layout, char *why, size_t size);

#endif
