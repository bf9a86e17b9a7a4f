/* A library to preload into an unmodified Python: it wraps the interpreter's three allocation
 * domains before main, walks the stack inside every Nth allocation ($HK_PROBE_EVERY, default 1),
 * checks what it sees, and, while asked to, remembers the stack of each block.
 * tests/py/frames_program.py, run by that Python, asks through ctypes and compares with tracemalloc
 * and sys._getframe. Not part of any product.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hosts/cpython/frames.h"
#include "read/lines.h"

#define EXPORT __attribute__((visibility("default")))
#define DEPTH  20000
#define KEPT   96 /* frames kept of a recorded stack */
#define SLOTS  (1u << 17)

typedef struct { /* PyMemAllocatorEx, stable since 3.5 */
    void *ctx;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
} allocator;

struct probe_stats {
    uint64_t calls[3], walks, frames, bad_code, bad_offset, truncated, in_jit, no_state[3],
        state_differs;
    uint64_t max_depth, interpreters_announced;
    int32_t self_tests, self_test_passed;
    char self_test_why[120];
};

struct kept_frame {
    uint64_t file; /* FNV-1a of the name as UTF-8 */
    int32_t line;  /* 0: none */
    int32_t prologue;
};

struct kept_stack {
    const void *block;
    int32_t depth, frames;
    struct kept_frame frame[KEPT];
};

static allocator below[3];
static struct probe_stats stats;
static unsigned every = 1;
static atomic_int recording;
static struct kept_stack *slots;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread hk_py_frame *buffer;
static __thread int inside;

static void add(uint64_t *counter, uint64_t n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static uint64_t hash_bytes(const char *text, size_t length)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)text[i]) * 0x100000001b3u;
    return hash;
}

static struct kept_frame keep(const hk_py_layout *l, const hk_py_frame *frame)
{
    struct kept_frame kept = {0, 0, 0};
    hk_py_code info;
    if (!hk_py_code_info(l, frame->code, &info))
        return kept;
    char name[4096];
    kept.file = hash_bytes(name, hk_py_copy_string(l, info.filename, name, sizeof name));
    size_t length;
    const uint8_t *table = hk_py_bytes(l, info.linetable, &length);
    int line = table ? hk_line_of(l->minor, table, length, info.firstlineno, frame->offset) : -1;
    kept.line = line < 0 ? 0 : line;
    kept.prologue = frame->offset < (int32_t)info.first_traceable * 2;
    return kept;
}

static struct kept_stack *slot_of(const void *block)
{
    uint32_t at = (uint32_t)(((uintptr_t)block >> 4) * 2654435761u) % SLOTS;
    for (unsigned i = 0; i < 64; i++, at = (at + 1) % SLOTS)
        if (slots[at].block == block || slots[at].block == NULL)
            return &slots[at];
    return NULL;
}

static void remember(const hk_py_layout *l, const void *block, const hk_py_frame *frames, int n)
{
    pthread_mutex_lock(&lock);
    struct kept_stack *slot = slot_of(block);
    if (slot) {
        slot->block = block;
        slot->depth = n;
        slot->frames = n < KEPT ? n : KEPT;
        for (int i = 0; i < slot->frames; i++)
            slot->frame[i] = keep(l, &frames[i]);
    }
    pthread_mutex_unlock(&lock);
}

static void check_frames(const hk_py_layout *l, const hk_py_frame *frames, int n)
{
    for (int i = 0; i < n; i++) {
        hk_py_code info;
        if (!hk_py_code_info(l, frames[i].code, &info))
            add(&stats.bad_code, 1);
        else if (frames[i].offset < -1 || frames[i].offset >= (int32_t)info.units * 2 ||
                 (frames[i].offset > 0 && frames[i].offset % 2))
            add(&stats.bad_offset, 1);
    }
}

/* By interpreter id: 0 not seen, 1 shares the main interpreter's lock, 2 has its own. */
static int locks_seen[32];

static void see(int domain, const void *block)
{
    add(&stats.calls[domain], 1);
    if (!block || inside)
        return;
    if (!atomic_load_explicit(&recording, memory_order_relaxed) && stats.calls[domain] % every)
        return;
    const hk_py_layout *l = hk_py_layout_find();
    void *state = hk_py_this_thread_state(l);
    if (domain != 0 && l->stacks && state != hk_py_locked_thread_state(l)) {
        add(&stats.state_differs, 1);
        state = hk_py_locked_thread_state(l);
    }
    if (!state) {
        add(&stats.no_state[domain], 1);
        return;
    }
    int64_t id = hk_py_interpreter_id(l, state);
    if (id >= 0 && id < 32)
        locks_seen[id] = 1 + hk_py_interp_has_own_gil(l, state);
    inside = 1;
    if (!buffer)
        buffer = mmap(NULL, DEPTH * sizeof *buffer, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool truncated;
    int n = hk_py_walk(l, state, buffer, DEPTH, &truncated);
    if (n > 0 && domain != 0 && stats.self_tests == 0) {
        stats.self_tests = 1;
        stats.self_test_passed =
            hk_py_self_test(l, state, stats.self_test_why, sizeof stats.self_test_why);
    }
    add(&stats.walks, 1);
    add(&stats.frames, (uint64_t)n);
    add(&stats.truncated, truncated);
    add(&stats.in_jit, hk_py_in_jit(l, state));
    if ((uint64_t)n > stats.max_depth)
        stats.max_depth = (uint64_t)n;
    check_frames(l, buffer, n);
    if (atomic_load_explicit(&recording, memory_order_relaxed))
        remember(l, block, buffer, n);
    inside = 0;
}

static void *our_malloc(void *domain, size_t size)
{
    int d = (int)(intptr_t)domain;
    void *block = below[d].malloc(below[d].ctx, size);
    see(d, block);
    return block;
}

static void *our_calloc(void *domain, size_t count, size_t size)
{
    int d = (int)(intptr_t)domain;
    void *block = below[d].calloc(below[d].ctx, count, size);
    const hk_py_layout *l = hk_py_layout_find();
    if (d == 0 && count == 1 && size > 100000 && size - hk_py_interpreter_size(l) < 64 &&
        (l->minor == 12 || !hk_py_this_thread_state(l)))
        add(&stats.interpreters_announced, 1);
    see(d, block);
    return block;
}

static void *our_realloc(void *domain, void *old, size_t size)
{
    int d = (int)(intptr_t)domain;
    void *block = below[d].realloc(below[d].ctx, old, size);
    see(d, block);
    return block;
}

static void our_free(void *domain, void *block)
{
    int d = (int)(intptr_t)domain;
    below[d].free(below[d].ctx, block);
}

__attribute__((constructor)) static void install(void)
{
    const hk_py_layout *l = hk_py_layout_find();
    void (*get)(int, allocator *), (*set)(int, allocator *);
    void *found[2] = {dlsym(RTLD_DEFAULT, "PyMem_GetAllocator"),
                      dlsym(RTLD_DEFAULT, "PyMem_SetAllocator")};
    if (!l->present || !found[0] || !found[1])
        return;
    memcpy(&get, &found[0], sizeof get);
    memcpy(&set, &found[1], sizeof set);
    const char *text = getenv("HK_PROBE_EVERY");
    if (text && atoi(text) > 0)
        every = (unsigned)atoi(text);
    slots = mmap(NULL, SLOTS * sizeof *slots, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int d = 0; d < 3; d++) {
        allocator ours = {(void *)(intptr_t)d, our_malloc, our_calloc, our_realloc, our_free};
        get(d, &below[d]);
        set(d, &ours);
    }
}

/* What was seen, appended to the file that $HK_PROBE_STATS names: for programs that ask nothing. */
__attribute__((destructor)) static void write_stats(void)
{
    const char *path = getenv("HK_PROBE_STATS");
    FILE *file = path && stats.walks ? fopen(path, "a") : NULL;
    if (!file)
        return;
    fprintf(file,
            "walks %lu frames %lu depth %lu bad code %lu bad offset %lu truncated %lu jit %lu "
            "no state %lu %lu %lu differs %lu self-test %d %s\n",
            stats.walks, stats.frames, stats.max_depth, stats.bad_code, stats.bad_offset,
            stats.truncated, stats.in_jit, stats.no_state[0], stats.no_state[1], stats.no_state[2],
            stats.state_differs, stats.self_test_passed, stats.self_test_why);
    fclose(file);
}

/* --- asked by the Python program, with the interpreter's lock held (ctypes.PyDLL) --- */

EXPORT void probe_stats(struct probe_stats *out)
{
    *out = stats;
}

EXPORT void probe_locks(int out[32])
{
    memcpy(out, locks_seen, sizeof locks_seen);
}

EXPORT void probe_record(int on)
{
    atomic_store(&recording, on);
}

/* Frames of the block's stack, innermost first, or -1 if the block was not seen. */
EXPORT int probe_lookup(const void *block, struct kept_frame *out, int *depth)
{
    pthread_mutex_lock(&lock);
    struct kept_stack *slot = slot_of(block);
    int n = slot && slot->block == block ? slot->frames : -1;
    if (n >= 0) {
        memcpy(out, slot->frame, (size_t)n * sizeof *out);
        *depth = slot->depth;
    }
    pthread_mutex_unlock(&lock);
    return n;
}

EXPORT int probe_walk(hk_py_frame *out, int max, int *truncated)
{
    const hk_py_layout *l = hk_py_layout_find();
    bool more;
    int n = hk_py_walk(l, hk_py_this_thread_state(l), out, max, &more);
    *truncated = more;
    return n;
}

EXPORT int probe_self_test(char *why, size_t size)
{
    const hk_py_layout *l = hk_py_layout_find();
    return hk_py_self_test(l, hk_py_this_thread_state(l), why, size);
}

EXPORT int probe_public_check(char *why, size_t size)
{
    return hk_py_public_check(hk_py_layout_find(), why, size);
}

EXPORT int probe_code(const void *code, hk_py_code *out)
{
    return hk_py_code_info(hk_py_layout_find(), code, out);
}

EXPORT size_t probe_string(const void *unicode, char *buffer_, size_t cap)
{
    return hk_py_copy_string(hk_py_layout_find(), unicode, buffer_, cap);
}

/* stacks, minor, version, free-threaded, debug, source, interpreter size, id and own lock of this
 * thread's interpreter */
EXPORT const char *probe_facts(int64_t out[9])
{
    const hk_py_layout *l = hk_py_layout_find();
    void *state = l->thread_state ? l->thread_state() : NULL;
    int64_t facts[9] = {l->stacks,
                        l->minor,
                        l->version,
                        l->free_threaded,
                        l->debug,
                        l->source,
                        (int64_t)hk_py_interpreter_size(l),
                        hk_py_interpreter_id(l, state),
                        hk_py_interp_has_own_gil(l, state)};
    memcpy(out, facts, sizeof facts);
    return l->why;
}

EXPORT int probe_line(int minor, const uint8_t *table, size_t length, int firstlineno, int offset)
{
    return hk_line_of(minor, table, length, firstlineno, offset);
}

/* Lines of all n code units of a code object: ours, and the interpreter's. Returns how many
 * differ. */
EXPORT int probe_lines(void *code, int *first_wrong, int *ours, int *theirs)
{
    const hk_py_layout *l = hk_py_layout_find();
    void *found = dlsym(RTLD_DEFAULT, "PyCode_Addr2Line");
    int (*addr2line)(void *, int);
    memcpy(&addr2line, &found, sizeof found);
    hk_py_code info;
    if (!found || !hk_py_code_info(l, code, &info))
        return -1;
    size_t length;
    const uint8_t *table = hk_py_bytes(l, info.linetable, &length);
    int wrong = 0;
    for (int offset = -2; offset < (int)info.units * 2; offset += 2) {
        int mine = hk_line_of(l->minor, table, length, info.firstlineno, offset);
        int its = addr2line(code, offset);
        if (mine == its)
            continue;
        if (wrong++ == 0) {
            *first_wrong = offset;
            *ours = mine;
            *theirs = its;
        }
    }
    return wrong;
}
