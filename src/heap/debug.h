/* Debug mode: a layer over a heap that finds misuse of its blocks and says where they came from. docs/debug.md is the
 * user's page.
 *
 *      what the program gets            what the heap below holds
 *      block, `size` bytes              [ front guard, 16 bytes of FD ][ block ][ rear guard, 16 ... 31 bytes of FD ]
 *
 * All that is known of a block is kept outside of it, in a table by address (debug_blocks.c): no overflow can reach it, and
 * whether a pointer is a block at all is known before anything is read through it. Fill bytes are CPython's: CD fresh,
 * DD freed, FD guard.
 *
 *      state of a record     the block
 *      LIVE                  is the program's; guards are looked at when it is freed, reallocated or walked
 *      WAITING               freed and filled with DD; in the quarantine, where all of it is looked at on walk and when it
 *                            leaves: a change is a use after free
 *      (no record)           was never ours, or has left the quarantine; the last of those are remembered (`history`)
 *
 * Every finding ends the process: a report on stderr, then abort(). A heap in debug mode locks itself, whatever was asked for,
 * so quarantined blocks can be given back by any thread.
 *
 * Locks: a shard of the table, or the quarantine, or the sites; never two, and the heap below is not called under any of them.
 */
#ifndef HK_HEAP_DEBUG_H
#define HK_HEAP_DEBUG_H

#include "heap/pool.h"

#define HK_DEBUG_GUARD 16u
#define HK_DEBUG_FRESH 0xCD
#define HK_DEBUG_DEAD 0xDD
#define HK_DEBUG_FENCE 0xFD

extern bool hk_debug_on; /* there is, or was, a heap in debug mode */

/* --- debug.c: what heap.c calls for a heap in debug mode --- */

void hk_debug_start(void); /* for the process; before the first heap in debug mode */
void hk_debug_end(hk_heap *heap);   /* all of its blocks are forgotten, after a last look at them */
void *hk_debug_malloc(hk_heap *heap, size_t size);
void *hk_debug_calloc(hk_heap *heap, size_t size);
void *hk_debug_realloc(hk_heap *heap, void *block, size_t size);
void *hk_debug_aligned_alloc(hk_heap *heap, size_t alignment, size_t size);
void hk_debug_free(hk_heap *heap, void *block);

/* Whether the environment (HEAPKEEPER_DEBUG) or hk_debug_default asks for debug mode. */
bool hk_debug_wanted(void);

/* A block is given to a heap that is not in debug mode (NULL: to a function that knows no heap, which frees it). `how` says
 * in a report what was done ("freed"). False: it is of no heap in debug mode. */
bool hk_debug_stray(hk_heap *heap, void *block, const char *how);
bool hk_debug_knows(const void *block, size_t *size);

/* A block arrives by a function of the C allocator. In debug mode that is the misuse "wrong domain", and does not return; unless
 * `forgive`, then the block is freed. False: none of our blocks. */
bool hk_debug_foreign_free(void *block, const char *function, bool forgive);

void hk_debug_check_at_exit(void);
void hk_debug_fork_prepare(void);
void hk_debug_fork_release(void);

/* --- debug_blocks.c: the table --- */

/* The last two are not of blocks, but of a runtime's objects (object/watch.c), which nobody here looks at. */
enum hk_debug_state { HK_DEBUG_LIVE = 1, HK_DEBUG_WAITING, HK_DEBUG_WATCHED, HK_DEBUG_BURIED };

struct hk_debug_record {
    uintptr_t block; /* 0: free slot */
    hk_heap *heap;
    uint64_t size : 56, front_shift : 8; /* front guard: 1 << front_shift bytes */
    uint64_t serial : 56, state : 8;     /* of its allocation, counted over all heaps */
    uint32_t allocated, freed;           /* sites */
    uint32_t allocated_by, freed_by;     /* thread ids */
    uint32_t note, found;                /* of an object: its type's number; references to it that were found */
};

#define HK_DEBUG_SHARDS 64u

struct hk_debug_shard {
    hk_lock lock;
    uint32_t count, capacity;
    struct hk_debug_record *slots;
} __attribute__((aligned(64)));

extern struct hk_debug_shard hk_debug_shards[HK_DEBUG_SHARDS];

struct hk_debug_shard *hk_debug_shard_of(const void *block); /* not locked */
/* The shard is locked by the caller. */
struct hk_debug_record *hk_debug_find(struct hk_debug_shard *shard, const void *block);          /* NULL: none */
struct hk_debug_record *hk_debug_insert(struct hk_debug_shard *shard, const void *block); /* NULL: no memory */
void hk_debug_remove(struct hk_debug_shard *shard, struct hk_debug_record *record);

static inline char *hk_debug_below(const struct hk_debug_record *record)
{
    return (char *)record->block - ((size_t)1 << record->front_shift);
}

/* Bytes of the heap's block, for a front guard of this size. */
static inline size_t hk_debug_total(size_t front, size_t size)
{
    return front + (size + 2 * HK_DEBUG_GUARD - 1) / HK_DEBUG_GUARD * HK_DEBUG_GUARD;
}

static inline size_t hk_debug_rear(const struct hk_debug_record *record)
{
    return hk_debug_total(0, record->size) - record->size;
}

/* --- debug_sites.c: stacks --- */

#define HK_DEBUG_NO_SITE 0u
#define HK_DEBUG_TABLE_FULL 1u
#ifdef __SANITIZE_THREAD__ /* the innermost are the library's own, which are more where few functions are inlined */
#define HK_DEBUG_NATIVE_FRAMES 16
#else
#define HK_DEBUG_NATIVE_FRAMES 8
#endif
#define HK_DEBUG_HOST_FRAMES 16

/* Where the caller is, as a number; the same stack has the same number. Call it from a function whose caller is of
 * interest. */
uint32_t hk_debug_site(int domain);
/* The frames of a site: native ones first (return addresses), then the host's (with HK_DEBUG_HOST_BIT), each innermost
 * first. */
#define HK_DEBUG_HOST_BIT ((uint64_t)1 << 63)
int hk_debug_site_frames(uint32_t site, const uint64_t **frames);
void hk_debug_sites_begin(void);
void hk_debug_sites_fork_prepare(void);
void hk_debug_sites_fork_release(void);

/* A host with stacks of its own (Python). Neither may allocate from a heap. */
struct hk_debug_host {
    int (*walk)(int domain, uint64_t *frames, int max);
    size_t (*describe)(uint64_t frame, char *buffer, size_t capacity); /* as snprintf */
    void (*fork_prepare)(void);
    void (*fork_release)(void);
    const void *code; /* an address in the host's own code: native stacks are shown up to there */
};
extern const struct hk_debug_host *hk_debug_host; /* NULL: none */

/* --- debug_report.c --- */

/* What was found, at which block, and when. */
struct hk_debug_finding {
    const char *what;                     /* "double free" */
    const char *found;                    /* "when the block was freed"; NULL: not said */
    const struct hk_debug_record *record; /* the block; NULL: none of ours */
    const void *pointer;                  /* what was given, if it is not the block */
    const void *changed;                  /* first byte that is not what it should be; NULL: none */
    const char *advice;                   /* a last line; NULL: none */
};

extern bool hk_debug_dying; /* a report has begun: what is allocated from here on is not watched */
_Noreturn void hk_debug_report(const struct hk_debug_finding *finding);
const char *hk_debug_heap_name(const hk_heap *heap, char *buffer, size_t capacity); /* "object domain", "heap \"x\"" */

/* debug.c, for a report: a block that left the quarantine not long ago, by an address in it; NULL: not known. */
const struct hk_debug_record *hk_debug_remembered(const void *pointer);
/* debug_blocks.c, for a report, without locks: the record of the block that the address lies in or beside. */
const struct hk_debug_record *hk_debug_near(const void *pointer);

/* --- heap.c: the heap below --- */

void *hk_below_malloc(hk_heap *heap, size_t size);
void *hk_below_calloc(hk_heap *heap, size_t size);
void *hk_below_aligned(hk_heap *heap, size_t alignment, size_t size);
void hk_below_free(hk_heap *heap, void *block);

#endif
