/* The heap's structures and its fast paths. Read include/heapkeeper/heap.h first.
 *
 *      region   one reservation of addresses for the process, cut into arenas of 1 MiB (sizes: geometry.h)
 *      arena    64 pools; belongs to one heap; two bit maps say which pools are empty, and which of those are dirty
 *      pool     16 KiB of blocks of one class; everything known about it is in its descriptor, struct hk_pool,
 *               in a table beside the region: descriptor = region.pools[(address - region.base) >> HK_POOL_SHIFT]
 *
 * A pool's life, and which list it is in:
 *
 *      (none)  --arena is added-->  EMPTY      bit in arena->empty
 *      EMPTY   --needed-->          CURRENT    heap->current[class]: where the next block comes from
 *      CURRENT --last block goes--> FULL       in no list
 *      FULL    --blocks are freed-> PARTIAL    heap->partial[class], at its head, once a few are free
 *      FULL    --a block is freed-> CURRENT    where a pool has few blocks, and the current one has none free
 *      PARTIAL --chosen-->          CURRENT    the head, when the current pool has filled up
 *      PARTIAL --last block freed-> EMPTY      (the current pool stays, so a pair of malloc and free never
 *                                               makes a pool come and go)
 *
 * Why a full pool stays FULL until a few of its blocks are free: it would be chosen with one free block and be full
 * again at once, a slow path for every other call under random replacement. Of its `used`, all but so many are put
 * aside in `held` when the first is freed, so that the free that makes it enough, and only that, borrows. Enough is a
 * sixteenth of the pool; in a thread's member, where time matters more, an eighth: up to a tenth less time under random replacement.
 * Putting it at the tail of the list, to give it time, is as fast, but spreads a program over all its pools: 1 MB more in small ones.
 *
 * What a malloc counts: nothing. `used` is the number of allocated blocks minus one of a pool that is not CURRENT, so the
 * free that empties it, and only that, borrows. While CURRENT, `used` counts down from HK_CURRENT with each free. A pool
 * stops being CURRENT only when all of its blocks are allocated: then the allocations since it began are its
 * capacity, less what was allocated at that time (`used_before`), plus the frees meanwhile. At other times the blocks
 * allocated in a current pool are found by the length of its free list; there is one such pool per class.
 *
 * Blocks are carved from a pool a page at a time, so a small program touches few pages.
 */
#ifndef HK_HEAP_POOL_H
#define HK_HEAP_POOL_H

#include <string.h>

#include "base/os.h"
#include "heap/geometry.h"
#include "heapkeeper/heap.h"
#include "heapkeeper/record.h"

#define HK_CURRENT 0x80000000u
#define HK_HEAP_LIVE 0x70616568u
#define HK_HEAP_ENDED 0x72657665u /* destroyed: it has no blocks, says NULL, and waits for the next heap */
#define HK_LOCK_MEMBER ((hk_lock_mode)3) /* one thread's part of a heap under HK_LOCK_THREADS: see threads.h */

enum hk_pool_place {
    HK_PLACE_NONE, /* of nobody: never used yet, or its heap has ended */
    HK_PLACE_EMPTY, /* or inside a run, after its first pool: then the arena's bit does not say empty */
    HK_PLACE_CURRENT,
    HK_PLACE_PARTIAL,
    HK_PLACE_FULL,
    HK_PLACE_RUN, /* the first pool of a large block made of `used_before` pools; see runs.c */
};

struct hk_pool {
    void *free;           /* list of free blocks, linked through their first word; see hk_pool_list */
    uint32_t used;        /* see above */
    uint32_t block_size;
    hk_heap *heap;
    struct hk_pool *next, *previous; /* in heap->partial[class] */
    uint32_t carved;      /* bytes from the start that were handed out at least once */
    uint32_t used_before; /* blocks allocated when it became CURRENT */
    uint16_t capacity; /* blocks */
    uint8_t size_class : 7;
    bool is_noted : 1; /* for who keeps tables beside the heap; false when it begins with all of its blocks free */
    uint8_t place;     /* enum hk_pool_place */
    uint32_t held;  /* while FULL: allocated blocks that `used` does not count */
    void *other_free; /* of a heap that is not under the host's lock: its free blocks. Otherwise NULL */
};
_Static_assert(sizeof(struct hk_pool) == 64, "64 descriptors, those of an arena, are one page");

struct hk_arena {
    hk_heap *heap;
    uint64_t empty; /* bit i: pool i is empty */
    uint64_t dirty; /* of the empty ones: has pages in memory */
    struct hk_arena *next, *previous; /* in the heap's list: next; in the region's of freed ones: both */
    uint32_t number; /* in its heap, from 0 */
    uint8_t pools;   /* HK_ARENA_POOLS, or fewer: the last of a buffer */
    uint8_t pages;   /* enum hk_pages */
    bool huge;       /* huge pages were asked for (transparent ones) */
    bool freed;      /* in the region's list */
};

#define HK_OWNER_BYTES (sizeof(hk_heap *) + sizeof(uint8_t)) /* to a pool: owners, and classes behind it */

/* Where an arena's pages come from. Pages that cannot be given back are dirty for good. */
enum hk_pages {
    HK_PAGES_ANONYMOUS,
    HK_PAGES_FILE,
    HK_PAGES_HUGE,   /* explicit huge pages: stay */
    HK_PAGES_BUFFER, /* the embedder's: stay */
};

/* Addresses that are cut into arenas. There is the process's own, hk_region, and one in each buffer that is a heap. */
struct hk_region {
    char *base;
    size_t span;           /* bytes; 0: no region, every block is the C allocator's */
    struct hk_pool *pools; /* committed as arenas are taken */
    struct hk_arena *arenas; /* the same; all can be read */
    size_t arenas_writable; /* bytes of the process's region's */
    uint32_t arena_limit; /* that fit in span */
    uint32_t arena_next;  /* never used from here on */
    struct hk_arena *freed;
    uint32_t freed_count;
    hk_lock lock;
    /* Of the process's region, for pools of threads' members (threads.h): whose, and of which class, as in the
     * descriptor, but on lines that are rarely written, so that a thread that frees another's block does not wait for its
     * descriptor. */
    hk_heap **owners;
    uint8_t *classes;
    size_t owners_writable; /* entries of both; all can be read */
};

struct hk_heap {
    int64_t budget; /* bytes until the slow path looks up: a sample, a tick of the timeline; see budget.c */
    uint8_t mode;   /* hk_lock_mode */
    bool is_entered; /* of a member: its thread is in a slow path; see interrupted.c */
    uint32_t magic;  /* HK_HEAP_LIVE: it is a heap of a user's */
    struct hk_pool *current[HK_CLASSES];
    struct hk_pool *partial[HK_CLASSES]; /* heads */
    uint64_t class_allocations[HK_CLASSES];
    uint32_t class_pools_began[HK_CLASSES]; /* to be current, ever */
    bool begun[HK_CLASSES]; /* the class has had a pool, its own or, in a frugal heap, a larger one's */
    bool is_frugal;         /* a class of few blocks has no pool of its own: share_larger in pools.c */

    hk_heap *sibling; /* another heap under the same host's lock; or NULL */

    hk_lock lock; /* for HK_LOCK_OWN, and of a facade (threads.h) */
    bool is_debug;   /* debug.h; mode is HK_LOCK_OWN then */
    bool is_domain;  /* of one of the three domains, named after it */
    bool is_watched; /* holds the blocks that the recorder knows */
    int16_t domain;  /* of blocks allocated here, as the recorder numbers them */
    hk_heap **slot;   /* in the table of heaps (heaps.c); NULL: of a buffer */
    hk_heap *watched; /* where this heap's recorded blocks live: a heap under HK_LOCK_OWN; NULL: recording is off; the heap
                         itself: see hk_malloc_due */
    uint64_t mean_due; /* not 0: the request that was refused just now is a sample */
    const char *name;

    int64_t budget_start; /* what budget was when it was last set */
    int64_t to_sample;    /* bytes to the next sample at that time */
    uint64_t sample_mean;
    uint64_t allocated_before; /* bytes requested before the budget was last set */
    uint32_t expiries;
    uint8_t alignment; /* of every block: 16, or 8 (geometry.h) */

    struct hk_region *own_region; /* of a heap in a buffer; NULL: hk_region */
    struct hk_arena *arenas; /* by address */
    struct hk_arena *maybe_empty; /* no arena before this one has an empty pool */
    uint32_t arena_count;
    uint32_t huge_from; /* it asks for huge pages when it has so many arenas; 0: HK_SMALL_ARENAS */
    uint32_t used_pools, dirty_pools; /* not empty; empty with pages in memory that could be given back */
    uint32_t staying_pools;           /* empty with pages that cannot */
    /* Of both siblings, in the one at the lower address; bytes. See siblings.c. */
    int64_t in_memory_most;  /* pools and C heap, as far as they had to be */
    int64_t c_heap;          /* what it has in memory */
    int64_t trimmed_at;      /* what they needed at most when it was trimmed */
    int64_t give_back_most;  /* that may be given back yet */
    uint32_t most_pools;     /* in memory, as far as they had to be */
    uint32_t idle_looked_at; /* pools in memory when no idle one was found, and a few */

    uint8_t source;   /* hk_source */
    bool is_closed;   /* every block is of its own pools: nothing is asked of the C allocator */
    int file;         /* of HK_SOURCE_FILE */
    hk_heap *next_buffer; /* see source.c */
    size_t metadata_bytes; /* of a buffer: all that is not pools; otherwise 0 */

    size_t limit; /* bytes mapped, large blocks included; 0: none */
    size_t refused; /* bytes that the limit stood against; see limit.c */
    hk_at_limit *at_limit;
    void *at_limit_argument;

    int64_t large_bytes, large_blocks; /* live; atomic, unless one thread at a time counts them */
    uint64_t large_allocations;

    /* Somebody keeps tables beside the heap (src/gc). NULL: nobody. */
    bool (*arenas_added)(hk_heap *heap, void *start, size_t size); /* false: no memory for it; they are not added */
    void (*pool_began)(hk_heap *heap, struct hk_pool *pool);       /* new blocks come from this pool now */
    void *listener;

    hk_heap *next_member, *next_idle; /* of a member, see threads.h */
    const struct hk_thread *thread;   /* of a member that is LIVE: whose it is; atomic */

    /* Other threads look at these with each block of its that they free, so they are not beside what is often written. */
    hk_heap *facade; /* of a member; else NULL */
    uint16_t number; /* of a member, in its facade */
    uint8_t state;   /* of a member: enum hk_member_state; atomic */

    /* Other threads write it: on a cache line of its own. */
    _Alignas(64) void *remote; /* blocks freed from outside the host's lock, or by another thread; atomic. See remote.c */
};

#define HK_SMALL_ARENAS (uint32_t)(((size_t)48 << 20) / HK_ARENA_SIZE) /* so many a heap has without huge pages, usually */

extern struct hk_region hk_region;
extern struct hk_pool hk_no_pool;                  /* stands for "no current pool"; never written */
extern const uint8_t hk_class_of_64[HK_BLOCK_MAX / 64 + 1]; /* class for sizes over HK_SMALL_MAX, by (size + 63) / 64 */
extern const uint16_t hk_class_size[HK_CLASSES];

/* The recorder as the heap sees it; all NULL until one is attached. */
struct hk_heap_recorder {
    uint64_t (*draw)(uint64_t *mean); /* NULL: no samples are wanted */
    void (*allocation)(const void *block, size_t size, uint64_t mean, int domain);
    bool (*free)(const void *block);
    bool (*rename)(const void *block, const void *name); /* of one that is about to be moved; NULL: it is forgotten */
    uint32_t (*table_size)(void);
    void (*came_home)(hk_heap *owner, void *block); /* a block is about to be freed that others than its owner freed */
    void (*foreign)(void); /* a block was freed or reallocated that came from nobody here */
    void (*pool_reopened)(void); /* a full pool got its first free block: the sign of a program being torn down */
    void (*tick)(hk_heap *heap, uint64_t allocated_bytes); /* of all heaps; what protects `heap` is held */
    void (*collection)(const hk_collection *collection); /* of cycles: it has ended just now */
};
extern struct hk_heap_recorder hk_recorder;

/* The frames of a program that keeps a stack of its own (src/object/frame.c), of the calling thread, innermost first: where each
 * is defined, and the line it is at. Returns how many, up to max. In a hook: yes. NULL: no program has any. */
struct hk_program_frame {
    const void *code; /* hk_code */
    uint32_t line;
};
extern int (*hk_program_frames)(struct hk_program_frame *frames, int max);

/* The C allocator; replaced by the next definitions where our own names are interposed. */
struct hk_libc {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void (*free)(void *);
    size_t (*usable_size)(void *);
    int (*memalign)(void **, size_t, size_t);
    int (*trim)(size_t);
};
extern struct hk_libc hk_libc;

/* What was allocated from heaps that have ended, by domain; while something is recorded. Atomic. */
struct hk_heaps_ended {
    uint64_t bytes[4], blocks;
};
extern struct hk_heaps_ended hk_heaps_ended;
extern uint32_t hk_heaps_made; /* ever; atomic */

/* heaps.c: all heaps. To go through them, in the order in which they were made unless some have ended:
 *     struct hk_heap_cursor cursor = {0};
 *     for (hk_heap *heap; (heap = hk_heap_next(&cursor)) != NULL;) */
extern hk_lock hk_heaps_lock; /* nothing is added or ends while it is held */
struct hk_heap_cursor {
    const void *chunk;
    uint32_t slot;
    bool is_past; /* the table: those in buffers follow */
    const hk_heap *buffer;
};
hk_heap *hk_heap_next(struct hk_heap_cursor *cursor); /* NULL: that was the last */
const void *hk_heap_chunks(void); /* the table of heaps, for who reads it from outside: format.h, hk_capture_live */
hk_heap *hk_heap_new(void);             /* zeroed; NULL: no memory */
/* What those see of a heap that has ended who still have a pointer to it. Otherwise it is zeroed, but for its mode. */
void hk_heap_mark_ended(hk_heap *heap);
void hk_heap_put_spare(hk_heap *heap);  /* its structure, when nothing is left in it and it is marked */
bool hk_heap_register(hk_heap *heap);   /* false: no memory */
bool hk_heap_unregister(hk_heap *heap); /* false: it is no heap (any more) */

/* source.c: buffers, files, huge pages. */
extern hk_lock hk_buffers_lock; /* of the list of buffers; held around a fork */
hk_heap *hk_buffer_heap(void *buffer, size_t size); /* a heap inside, without options yet; NULL: too small */
void hk_buffer_register(hk_heap *heap);
void hk_buffer_unregister(hk_heap *heap);
hk_heap *hk_buffer_heap_next(const hk_heap *heap); /* NULL: the first */
struct hk_pool *hk_buffer_pool_of(const void *block); /* NULL: in no buffer */
bool hk_buffer_overlaps(const void *buffer, size_t size); /* with one that is a heap */
/* False: as they were; or, `*lost`, not to be used any more. */
bool hk_source_map(hk_heap *heap, struct hk_arena *arenas, uint32_t count, bool huge, bool *lost);
bool hk_source_unmap(struct hk_arena *arena);           /* plain pages again; false: they are lost */
bool hk_source_back(hk_heap *heap, char *start, size_t size); /* can be written without a signal */
bool hk_source_discard(const struct hk_arena *arena, char *start, size_t size);

/* runs.c: large blocks of a heap's own pools. */
void *hk_run_malloc(hk_heap *heap, size_t alignment, size_t size);
void hk_run_free(struct hk_pool *pool);
bool hk_run_resize(struct hk_pool *pool, size_t size); /* in place */

/* limit.c */
bool hk_limit_allows(hk_heap *heap, size_t bytes); /* gives dirty pools back if need be. What protects the heap is held */
struct hk_asked {
    size_t mapped; /* the least that it was when asked before */
    uint32_t in_vain;
};
bool hk_limit_ask(hk_heap *heap, struct hk_asked *asked); /* after NULL: true: try again. Not held, unless by the host */
void hk_limit_forget(hk_heap *heap); /* what was refused was found elsewhere. The heap may be a member */
size_t hk_heap_mapped(const hk_heap *heap);        /* what a limit looks at */

/* region.c */
bool hk_region_init(void);
size_t hk_region_used(void); /* addresses that arenas have taken; they stay taken */
bool hk_region_shrink(size_t spare); /* gives back all but `spare` bytes of the unused addresses */
void hk_arenas_give_up(hk_heap *heap); /* all of them, with all that is allocated in them */
void hk_arenas_give_empty(hk_heap *heap); /* those without a block, with their pages */
struct hk_pool *hk_pool_take_empty(hk_heap *heap); /* EMPTY no more, otherwise as it was; NULL: no memory */
void hk_pool_put_empty(struct hk_pool *pool);
bool hk_arenas_take(hk_heap *heap, uint32_t wanted); /* neighbours; false: no memory */
void hk_arenas_init(hk_heap *heap, struct hk_arena *arenas, uint32_t count);
void hk_pools_claim(hk_heap *heap, struct hk_pool *first, uint32_t count); /* empty ones become used, by bits and counts */
void hk_pools_release(hk_heap *heap, struct hk_pool *first, uint32_t count); /* the reverse */
size_t hk_heap_discard(hk_heap *heap, uint32_t keep_dirty);

/* siblings.c. Of a small heap with a sibling, whose lock is held. */
bool hk_siblings_make_room(hk_heap *heap); /* for one more pool in memory; true: the heap has an empty one that is */
void hk_siblings_large_grew(hk_heap *heap); /* it has a large block more, or a larger one */
void hk_siblings_large_left(hk_heap *heap, size_t bytes); /* of the C heap, which gave these pages back */

/* heap.c: the slow paths. `*_unlocked`: whoever calls holds what protects the heap. */
void *hk_malloc_slow(hk_heap *heap, size_t size);    /* not charged to the budget yet */
void *hk_malloc_expired(hk_heap *heap, size_t size); /* charged, and the budget went below 0 */
/* A heap whose `watched` is itself refuses a small block that is a sample, so that its user comes to know: asks for it here, and
 * has to tell the recorder when it frees it. After any NULL; NULL: there is no memory. */
void *hk_malloc_due(hk_heap *heap, size_t size);
void hk_free_slow(hk_heap *heap, void *block);       /* any block, also of other heaps and the C allocator */
/* hk_aligned_alloc for any power of two; the C allocator serves what is beyond a pool's. */
void *hk_aligned_any(hk_heap *heap, size_t alignment, size_t size);
void *hk_calloc_unlocked(hk_heap *heap, size_t count, size_t size);
void hk_heap_rest(hk_heap *heap); /* whoever used it is gone: all that is empty goes back; it may be used again */

/* pools.c. What protects the heap is held. */
struct hk_pool *hk_pool_with_free(hk_heap *heap, uint8_t size_class); /* the class's current one, with a free block; NULL: no memory */
struct hk_pool *hk_pool_of_larger_class(hk_heap *heap, uint8_t size_class); /* with a free block, where there are no more; NULL: none */
void hk_pool_emptied(struct hk_pool *pool); /* called by the fast paths */
void hk_heap_retire(hk_heap *heap); /* takes back remote frees; no pool stays CURRENT */
void hk_pool_move(struct hk_pool *pool, hk_heap *to); /* to another member of the same facade; not CURRENT, not EMPTY */
void hk_free_into(hk_heap *heap, void *block); /* a block of this heap, whose protection is held */
/* `count` blocks of the pool at once: bit i of the map is the one that begins 16 * i bytes from the pool's start. Of a heap that is
 * under its host's lock. */
void hk_pool_free_many(struct hk_pool *pool, const uint64_t *map, uint32_t count);
uint32_t hk_heap_retire_idle(hk_heap *heap); /* current pools whose blocks were all freed; returns how many */
bool hk_heap_reclaim(hk_heap *heap); /* pools that are free and do not look so; true: there were some */
/* Frees in the heap's current pools, or in this one, become allocations of their class: each means one more than what is allocated
 * has grown by. */
void hk_heap_fold(hk_heap *heap);
void hk_pool_fold(struct hk_pool *pool);

/* remote.c: blocks freed by those who do not hold what protects their heap. */
void hk_remote_push(hk_heap *heap, void *block);
void hk_remote_drain(hk_heap *heap); /* see hk_remote_take */

/* interrupted.c: for signal handlers that found the member entered. */
void *hk_interrupted_malloc(hk_heap *member, size_t size); /* not charged to the budget yet */
void hk_interrupted_free(hk_heap *member, void *block);
void hk_interrupted_emptied(struct hk_pool *pool);

/* large.c: what is larger than a pool's blocks. The protection of the heap is held, but for free and the reallocs. */
void *hk_large_malloc(hk_heap *heap, size_t size);
void *hk_large_aligned(hk_heap *heap, size_t alignment, size_t size);
void hk_large_expect(void); /* the C allocator is told of them, the first time */
void hk_large_free(hk_heap *heap, void *block); /* any block that lies in no pool, or NULL */
void *hk_large_realloc(hk_heap *heap, void *block, size_t size);           /* both are large, and the C allocator's */
/* The C allocator has failed. Where the process's addresses are limited (RLIMIT_AS), those that no arena has taken are needed more
 * by it: true, they are given back, and it is worth another try. Not for what could not be had
 * beside the arenas that are taken. */
bool hk_large_try_again(size_t size);
bool hk_run_realloc(hk_heap *heap, struct hk_pool *pool, size_t size);     /* in its place; false: it cannot be */
void hk_large_count(hk_heap *heap, size_t usable, int sign);
void hk_large_forget(const void *block); /* the recorder may know it */

/* heaps.c: the heap to work on, with what protects it held: the heap itself, or this thread's member of it. */
hk_heap *hk_heap_enter(hk_heap *heap);
void hk_heap_leave(hk_heap *entered);

/* budget.c */
bool hk_budget_expire(hk_heap *heap, uint64_t *mean); /* true: the allocation at hand is a sample */
uint64_t hk_heap_allocated_bytes(const hk_heap *heap);

/* The classes that the heap uses are the multiples of this. */
static inline unsigned hk_class_step(const hk_heap *heap)
{
    return HK_STEP < HK_ALIGNMENT && heap->alignment == HK_ALIGNMENT ? HK_ALIGNMENT / HK_STEP : 1;
}

/* The smallest class of the heap that holds size <= HK_BLOCK_MAX bytes. */
static inline uint8_t hk_class_for(const hk_heap *heap, size_t size)
{
    if (size > HK_SMALL_MAX)
        return hk_class_of_64[(size + 63) / 64];
    unsigned i = (unsigned)(size + (size == 0) + HK_STEP - 1) / HK_STEP, step = hk_class_step(heap);
    return (uint8_t)((i + step - 1) / step * step);
}

static inline bool hk_region_has(const void *block)
{
    return (uintptr_t)block - (uintptr_t)hk_region.base < hk_region.span;
}

static inline struct hk_pool *hk_pool_of(const void *block)
{
    return &hk_region.pools[((uintptr_t)block - (uintptr_t)hk_region.base) >> HK_POOL_SHIFT];
}

/* How many pools a map has. The compiler's own is a call into the farthest corner of our code. */
static inline uint32_t hk_bit_count(uint64_t bits)
{
    bits -= bits >> 1 & 0x5555555555555555;
    bits = (bits & 0x3333333333333333) + (bits >> 2 & 0x3333333333333333);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0f;
    return (uint32_t)(bits * 0x0101010101010101 >> 56);
}

/* The heap that the pool belongs to, which another thread may be changing; NULL: it has ended. */
static inline hk_heap *hk_pool_owner(const struct hk_pool *pool)
{
    return __atomic_load_n(&pool->heap, __ATOMIC_RELAXED);
}

/* The pool of a block that may be in a buffer; NULL: no heap's. */
static inline struct hk_pool *hk_pool_find(const void *block)
{
    return hk_region_has(block) ? hk_pool_of(block) : hk_buffer_pool_of(block);
}

static inline struct hk_region *hk_region_of(const hk_heap *heap)
{
    return heap != NULL && heap->own_region != NULL ? heap->own_region : &hk_region;
}

static inline char *hk_pool_start(const struct hk_pool *pool)
{
    const struct hk_region *region = hk_region_of(pool->heap);
    return region->base + ((size_t)(pool - region->pools) << HK_POOL_SHIFT);
}

static inline struct hk_arena *hk_arena_of(const struct hk_pool *pool)
{
    const struct hk_region *region = hk_region_of(pool->heap);
    return &region->arenas[(size_t)(pool - region->pools) / HK_ARENA_POOLS];
}

/* Of an arena that is a heap's. */
static inline struct hk_pool *hk_arena_first_pool(const struct hk_arena *arena)
{
    const struct hk_region *region = hk_region_of(arena->heap);
    return &region->pools[(size_t)(arena - region->arenas) * HK_ARENA_POOLS];
}

/* What the block may be used for. */
static inline size_t hk_pool_block_bytes(const struct hk_pool *pool)
{
    /* Neither changes while the block lives, as `place` may. */
    return pool->block_size == 0 ? (size_t)pool->used_before << HK_POOL_SHIFT : pool->block_size;
}

/* Of a thread's member (threads.h): the heap that has its arenas, limit and large blocks. */
static inline hk_heap *hk_heap_whole(hk_heap *heap)
{
    return heap->facade != NULL ? heap->facade : heap;
}

/* The bytes of what is known of one of its arenas. */
static inline size_t hk_arena_metadata(const hk_heap *heap)
{
    size_t owner = heap->mode == HK_LOCK_THREADS ? HK_OWNER_BYTES : 0;
    return HK_ARENA_POOLS * (sizeof(struct hk_pool) + owner) + sizeof(struct hk_arena);
}

/* Which any thread may change. */
static inline size_t hk_heap_limit(const hk_heap *heap)
{
    return __atomic_load_n(&heap->limit, __ATOMIC_RELAXED);
}

/* Of a heap that may run out while the system has not. It leaves nothing lying about. */
static inline bool hk_heap_is_tight(hk_heap *heap)
{
    const hk_heap *whole = hk_heap_whole(heap);
    return whole->is_closed || hk_heap_limit(whole) != 0;
}

/* Around the slow paths of a member. It is not entered already: that was asked before. */
static inline void hk_member_enter(hk_heap *member)
{
    __atomic_store_n(&member->is_entered, true, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_ACQ_REL);
}

static inline void hk_member_leave(hk_heap *member)
{
    __atomic_signal_fence(__ATOMIC_ACQ_REL);
    __atomic_store_n(&member->is_entered, false, __ATOMIC_RELAXED);
}

/* What protects a heap's arenas and its limit; not for members. */
static inline void hk_heap_take(hk_heap *heap)
{
    if (heap->mode != HK_LOCK_HOST)
        hk_lock_take(&heap->lock);
}

static inline void hk_heap_release(hk_heap *heap)
{
    if (heap->mode != HK_LOCK_HOST)
        hk_lock_release(&heap->lock);
}

/* Takes back what was freed from outside; what protects the heap is held. */
static inline void hk_remote_take(hk_heap *heap)
{
    if (__atomic_load_n(&heap->remote, __ATOMIC_RELAXED) != NULL)
        hk_remote_drain(heap);
}

/* The pool's list of free blocks. A heap that locks itself, or that belongs to a thread, keeps it in another field, so that the fast path, which
 * takes no lock, finds such a pool without free blocks and goes the slow way: that is its only check of the owner. */
static inline void **hk_pool_list(const hk_heap *heap, struct hk_pool *pool)
{
    return heap->mode == HK_LOCK_HOST ? &pool->free : &pool->other_free;
}

/* The pool's allocated blocks; of a current one counted from its free list. May be called while another thread
 * changes the pool: it is then off by what happens meanwhile, but reads only the pool. */
uint32_t hk_pool_allocated(const struct hk_pool *pool);

/* Takes one off; true if it was 0. In one instruction that leaves the borrow, which compilers do not find. */
static inline bool hk_take_one(uint32_t *number)
{
#if defined(__x86_64__)
    bool borrow;
    __asm__("subl $1, %0" : "+m"(*number), "=@ccb"(borrow));
    return borrow;
#else
    return (*number)-- == 0;
#endif
}

static inline __attribute__((always_inline)) void *hk_malloc_unlocked(hk_heap *heap, size_t size)
{
    if (__builtin_expect(size > HK_SMALL_MAX, 0))
        return hk_malloc_slow(heap, size);
    struct hk_pool *pool = heap->current[(size + HK_STEP - 1) / HK_STEP];
    void *block = pool->free;
    if (__builtin_expect(block == NULL, 0))
        return hk_malloc_slow(heap, size);
    if (__builtin_expect((heap->budget -= (int64_t)size) < 0, 0))
        return hk_malloc_expired(heap, size);
    pool->free = *(void **)block;
    return block;
}

/* Clears a new block, which may be written to the next multiple of 8. */
static inline void *hk_block_clear(void *block, size_t size)
{
    if (size > 64)
        return memset(block, 0, size);
    for (uint64_t *word = block, *end = word + (size + 7) / 8; word < end; word++)
        *word = 0; /* sooner done than called */
    return block;
}

static inline __attribute__((always_inline)) void hk_pool_free(hk_heap *heap, struct hk_pool *pool, void *block)
{
    void *next = pool->free;
    /* NULL: the pool or its carved part was full, or it is under a lock. Looked at before the block is written to. */
    if (__builtin_expect(next == NULL, 0)) {
        hk_free_slow(heap, block);
        return;
    }
    *(void **)block = next;
    pool->free = block;
    if (__builtin_expect(hk_take_one(&pool->used), 0))
        hk_pool_emptied(pool);
}

static inline __attribute__((always_inline)) void hk_free_unlocked(hk_heap *heap, void *block)
{
    uintptr_t distance = (uintptr_t)block - (uintptr_t)hk_region.base;
    if (__builtin_expect(distance >= hk_region.span, 0)) {
        hk_free_slow(heap, block);
        return;
    }
    hk_pool_free(heap, &hk_region.pools[distance >> HK_POOL_SHIFT], block);
}

#endif
