/* The flight recorder, as the heap and the hosts see it.
 *
 * The heap decides *that* something is recorded (a countdown of bytes in its slow path) and the
 * host knows *where* the program is (a stack of frames). The recorder keeps the tree of call
 * sites, their counters, the exact peak, the marks and the timeline, in the mapped capture file
 * (src/capture/format.h), valid at every instant. It knows nothing of Python: frames are (code,
 * offset) pairs, and a code can be asked to describe itself, or return addresses, which it turns
 * into modules and offsets.
 *
 * Threads: every function may be called from any thread, with any lock of the program's held.
 * One internal lock (a futex; never held while calling the program or the system allocator)
 * protects everything; a thread that is already inside the recorder (a signal handler that
 * interrupted it) is turned away and counted as `skipped`. Nothing here allocates from a heap:
 * memory is the file and anonymous mappings. errno is kept. All may be called inside an
 * allocation hook unless it says otherwise.
 */
#ifndef HK_RECORD_RECORD_H
#define HK_RECORD_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "capture/format.h"
#include "heapkeeper/record.h"

struct hk_frame {
    const void *code;
    int32_t offset; /* bytes into the code's instructions; < 0 before the first */
};

/* In `offset`: a frame of machine code, whose `code` is a return address. */
#define HK_FRAME_NATIVE INT32_MIN

/* What a code object is at this moment, cheap to get: if any field differs from what was seen
 * under the same address before, another code lives there now. */
struct hk_code_identity {
    uint64_t file, name; /* what stands for the names: hashes, since other names may lie where a dead code's did */
    const void *table;
    int32_t first_line;
    uint32_t size;
    uint32_t prologue; /* as struct hk_capture_code has it; says nothing of identity */
};

static inline bool hk_same_code(const struct hk_code_identity *a, const struct hk_code_identity *b)
{
    return a->file == b->file && a->name == b->name && a->table == b->table && a->first_line == b->first_line && a->size == b->size;
}

/* The host's side. All pointers may be called in a hook and must not allocate or lock. `stack`
 * may be NULL. */
/* Of a stack that is mostly the one before. Who asks has told ones only in this way since, and remembers `levels` of it, outermost first;
 * what lies at an address is the code that lay there. If told, `levels` are those of them that are this stack's, too, and the frames are
 * those inside of them; of these the innermost `enough`, if it is all that are remembered. */
struct hk_stack_known {
    uint32_t levels, enough;
    bool told;
};

struct hk_stack_source {
    /* Fills at most max frames, innermost first; returns their number. Sets HK_SITE_* bits in
     * *flags (CUT if there were more than max, JIT, BLIND if the thread has no stack to walk). known: NULL, or see there. */
    int (*stack)(int domain, struct hk_frame *frames, int max, uint8_t *flags, struct hk_stack_known *known);
    void (*identify)(const void *code, struct hk_code_identity *out);
    /* Copies a name as UTF-8 without NUL into buffer; returns its length (cut at capacity).
     * which: 0 file, 1 name, 2 qualified name (0: none). */
    size_t (*name)(const void *code, int which, char *buffer, size_t capacity);
    /* The code's line table: borrowed, valid now. */
    const uint8_t *(*line_table)(const void *code, size_t *size);
    bool (*is_trampoline)(const void *code);
    bool counts_lines; /* a frame's offset is no place in instructions, but lines after the code's first (HK_CODE_LINES) */
};

struct hk_record_options {
    enum hk_capture_mode mode;
    uint64_t sample_bytes; /* mean distance; 0: automatic */
    const char *path;      /* of the file: absolute; NULL: unnamed memory (nothing is kept) */
    bool path_is_new;      /* false: the file exists (made by `heapkeeper run`) and must have this
                              device and inode, our owner, and length 0; true: it is created
                              O_EXCL 0600 */
    uint64_t device, inode;
    uint64_t bound; /* bytes; 0: HK_CAPTURE_BOUND */
    uint8_t run_id[16];
    uint32_t exec_count;
    uint32_t forked;
    uint32_t is_first; /* the process that `heapkeeper run` became */
    uint32_t python_version, python_flags;
    uint32_t alignment; /* of mem's and object's blocks, bytes */
    /* Makes the path for a forked child's capture, into buffer; false: the child records into
     * unnamed memory. */
    bool (*child_path)(char *buffer, size_t capacity, uint32_t attempt);
    /* Fills the heap's part of a point (allocated, live, classes, pools, domains; in recorder_bytes what the heap keeps for the
     * recorder). Called with
     * the recorder's lock held; may be slow in proportion to the number of pools. */
    void (*fill_point)(struct hk_capture_point *point);
    bool host_counts; /* exact mode: by record/exact.h; otherwise the blocks are told as samples are, with a mean of 0 */
    /* With it: calls `visitor` with the site and the bytes of every block that has one, large ones apart. Called with the
     * recorder's lock held, in a child that has one thread. May be NULL. */
    void (*visit_blocks)(void (*visitor)(uint32_t site, size_t bytes));
    /* With it: no block has a site any more. */
    void (*forget_blocks)(void);
    /* Acts on HK_REQUEST_TRIM; returns bytes given back / 4096. May be NULL. */
    int32_t (*trim)(void);
};

/* Starts recording; not in a hook (constructor). False: no file could be made, *why says so
 * (static text); the library then goes on without a record. */
bool hk_record_start(const struct hk_record_options *options, const char **why);
bool hk_record_is_on(void); /* started, and not stopped by a full disk or a request */

void hk_record_set_source(const struct hk_stack_source *source); /* borrowed for ever */

/* The random numbers of this process follow from `seed`; before hk_record_start. Without: a new
 * one each run. */
void hk_record_seed(uint64_t seed);

/* Draws the distance in bytes to the next sample, for one heap: exponential with the current
 * mean (at least 1). The mean in force is written to *mean and is to be handed to
 * hk_record_allocation with the sample. The sample is the block that brings the bytes since the
 * draw to the distance *or beyond* (not only beyond), in the same bytes that
 * hk_record_allocation is told; what it went beyond is not carried over. */
uint64_t hk_record_draw(uint64_t *mean);

/* A block that the countdown chose. `block` stays in the recorder's table until hk_record_free.
 * In exact mode mean is 0 and each block stands for itself. */
void hk_record_allocation(const void *block, size_t bytes, uint64_t mean, int domain);
/* The block is freed (or moved: call this, then hk_record_allocation for what was asked for
 * anew). Of a block that is not in the table (large ones are asked for each time): nothing,
 * returns false. */
bool hk_record_free(const void *block);
/* The block is about to be moved, which may fail, and if it does not, its address may be another's at once: so it goes by another
 * name meanwhile, an odd address, and by its own again, or is freed by that name. False: it is not in the table. */
bool hk_record_rename(const void *block, const void *name);
/* The number of blocks in the table; a plain load: callers skip hk_record_free for unknown
 * blocks when 0. */
uint32_t hk_record_table_size(void);

/* To be called by slow paths after every 256 KiB of allocation or less: reads the clock, takes a
 * point, a mark, acts on requests when due; detects a fork (the child's first call makes its own
 * capture). */
void hk_record_tick(uint64_t allocated_bytes);
/* A full point now; name may be NULL. Returns its allocated_bytes, or 0. */
uint64_t hk_record_point(const char *name);

/* A collection of cycles has ended just now. */
void hk_record_collection(const hk_collection *collection);
/* Collections that have ended some time ago, as entries of the section in the order of time_ns; times are the monotonic clock's. False: not
 * now, all are to be told again later. Does not make a capture for a child. */
bool hk_record_collections(const struct hk_capture_collection *entries, unsigned count);

/* A span (heapkeeper/record.h): of a name, which is copied, or of a call of a code object of the source's, by whoever may walk its
 * stack. 0: it is not recorded. */
uint64_t hk_record_span_begin(const char *name, const void *code);
void hk_record_span_end(uint64_t span);
/* For calls that are mostly too short to be recorded: what their spans would begin with, without a lock; ns is 0 where nothing is
 * recorded. Then either it is recorded when it has ended, or left out. */
struct hk_record_moment {
    uint64_t ns; /* of the monotonic clock */
    uint64_t bytes;
};
struct hk_record_moment hk_record_moment_now(void);
void hk_record_span_late(struct hk_record_moment begin, const void *code);
void hk_record_span_left_out(void);

/* A native module was unloaded, or may have been: another may come to lie at its addresses. Two
 * stores; the map is read again when the next return address is looked up. */
void hk_record_modules_changed(void);

void hk_record_event(enum hk_event_kind kind, uint64_t value, const char *text);
void hk_record_set_watch(enum hk_capture_watch watch, const char *name);
void hk_record_set_stacks(enum hk_capture_stacks stacks, const char *why);
void hk_record_set_python(uint32_t version, uint32_t flags);
void hk_record_count_foreign(bool by_libc_name);

/* Bytes of the process that are in memory now, from /proc; 0: it cannot be read. Some microseconds; a record need not be at work. */
uint64_t hk_record_resident(void);

/* The program is done and its runtime begins to tear down: takes the last point and keeps every
 * figure as it is now; what is allocated and freed from here on is not the program's. For the
 * heap's free hooks: cheap when repeated. */
void hk_record_freeze(void);

/* At exit: last point (unless frozen), state EXITED, file cut after its last used page (or, if
 * small_child is not NULL and less than 64 MiB were allocated, its figures appended to that file as
 * one record and the capture removed). Does nothing in a process that only shares its parent's memory (vfork). Not in a
 * hook. */
void hk_record_exit(const char *small_child);

/* pthread_atfork: the parent's lock is taken around fork; the child starts unlocked and
 * detached. */
void hk_record_fork_prepare(void);
void hk_record_fork_parent(void);
void hk_record_fork_child(void);

/* Checks the recorder's own structures; for tests and debug builds. 0, or the number of a broken
 * rule. */
int hk_record_check(void);

#endif
