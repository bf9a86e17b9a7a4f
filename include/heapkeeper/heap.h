/* heapkeeper/heap.h: a private heap in CPython's shape, for any C program.
 *
 * The model, in the words of CPython's memory management (Objects/obmalloc.c; "Memory Management" in the C API
 * manual):
 *
 *   heap    one private heap; any number in a process. A heap owns
 *   arenas  64 pools each, contiguous, in one large reserved range of addresses; an arena is made of
 *   pools   16 KiB each; a pool holds blocks of one size class, and is used, full or empty;
 *   blocks  16 ... 4096 bytes in 52 size classes; a block is untouched (never handed out), free or allocated.
 *   Larger requests go to the C allocator and are counted as large blocks, or take whole pools (large_from_source).
 *
 * This is the default geometry. The library is also built in the one that CPython had until 3.7 (libheapkeeper-guide):
 * arenas of 256 KiB, pools of 4 KiB, blocks of 8 ... 512 bytes in 64 size classes. hk_get_geometry says which it is.
 *
 * All that is known of a pool is kept outside of it, so an empty pool is plain pages that can be given back, and
 * whose block a pointer is follows from its address: one subtraction, one comparison and one table entry.
 *
 * Unless a comment says otherwise: sizes are bytes; NULL means "no memory" and nothing was changed (errno is as the
 * C allocator left it); functions may be called from any thread if the heap was made with HK_LOCK_OWN or
 * HK_LOCK_THREADS, and by one thread at a time (whoever holds the program's own lock) if it was made with HK_LOCK_HOST.
 * A program with threads that forks must hold them off its heaps meanwhile, unless one of them was made with
 * HK_LOCK_THREADS: then those with a lock of their own may be in use, and the child may go on with them (what threads
 * that it does not have were using of a heap under HK_LOCK_THREADS stays valid, but is not used again). No function may be called from inside an allocation hook of the same
 * heap, or in a signal handler that may have interrupted another, except where "hook: yes" stands. A handler may fork,
 * though, if there is one thread and a heap of it was made with HK_LOCK_THREADS. */
#ifndef HEAPKEEPER_HEAP_H
#define HEAPKEEPER_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HK_API __attribute__((visibility("default")))
#else
#define HK_API
#endif

typedef struct hk_heap hk_heap;

/* Who serialises calls on a heap. */
typedef enum {
    HK_LOCK_OWN = 0,  /* the heap locks itself: any thread may allocate and free */
    HK_LOCK_HOST = 1, /* a lock of the program protects the heap (a GIL; or there is one thread). Only frees
                         through hk_free_remote may come from outside that lock */
    HK_LOCK_THREADS = 2, /* any thread may allocate and free, each from pools of its own without a lock; blocks may
                         be freed by any thread. For programs whose threads allocate at the same time. Costs
                         a thread 4 KiB, and up to one pool for each size class that it uses */
} hk_lock_mode;

/* Where a heap's pages come from. */
typedef enum {
    HK_SOURCE_SYSTEM = 0, /* anonymous memory, reserved by the library: the usual, and the fastest to free into */
    HK_SOURCE_BUFFER = 1, /* the program's buffer: a static array, shared memory, a region of a small system. The heap
                             lives inside, with all that is known of it, and asks nothing of the system */
    HK_SOURCE_FILE = 2,   /* a file of the program's, mapped shared: memory beyond the machine's, or that others may look
                             at. Room on the disk is taken before it is used: a full disk is NULL, not a signal.
                             The child of a fork shares it and must not use the heap */
    HK_SOURCE_HUGE_PAGES = 3, /* pages of 2 MiB that were set aside (vm.nr_hugepages); where there are none left,
                                 transparent huge pages are asked for. They are kept until the heap ends */
} hk_source;

/* Called when a heap's limit stands in the way of a request. `wanted`: bytes by which the heap would have to grow. It
 * may free blocks of this heap and make them smaller, trim, raise the limit, read statistics, and use other heaps;
 * what it allocates from any heap meanwhile is refused without asking if that heap is at its limit. True: try again.
 * It is then asked as often as it takes, but not more than 1000 times while the heap does not shrink. False: the
 * request returns NULL. It must return (not longjmp), and leave the block alone that hk_realloc was called with. Called by the
 * thread that made the request: under HK_LOCK_OWN without the heap's lock,
 * maybe by several threads at once; under HK_LOCK_HOST with the program's lock as the request was made. */
typedef bool hk_at_limit(hk_heap *heap, size_t wanted, void *argument);

/* Debug mode finds misuse of a heap's blocks (overflow, underflow, double free, use after free, a free into another heap)
 * and of functions, says on stderr what happened and where the block was allocated and freed, and aborts.
 * See docs/debug.md. A heap in debug mode is slower, takes more memory, and locks itself whatever `lock` says. */
typedef enum {
    HK_DEBUG_DEFAULT = 0, /* as hk_debug_default says, else as the environment: on if HEAPKEEPER_DEBUG is set and not 0 */
    HK_DEBUG_ON = 1,
    HK_DEBUG_OFF = 2,
} hk_debug_mode;

typedef struct {
    size_t size; /* sizeof(hk_heap_options): lets later versions add fields. 0: no heap is made */
    hk_lock_mode lock;
    const char *name; /* borrowed for the heap's life; shown in statistics; NULL: "heap" */
    size_t alignment; /* of its blocks: 0 or 16: 16, as malloc's. 8: only blocks whose requested size is a multiple of
                         16 are aligned to 16, others to 8 at least (which saves memory in the guide's geometry alone) */
    hk_source source;
    void *buffer;       /* HK_SOURCE_BUFFER: borrowed for the heap's life; any alignment. Not under HK_LOCK_THREADS */
    size_t buffer_size; /* bytes; what the heap needs for itself is taken off: 2 KiB and a pool's share of alignment */
    int file;           /* HK_SOURCE_FILE: a descriptor, open for reading and writing, borrowed for the heap's life.
                           The heap uses the file from its start on, and makes it longer as it grows */
    bool large_from_source; /* large blocks come from the heap's source, too, a pool's size at least, and hk_heap_destroy
                               frees them with all others. Always so in a buffer. Otherwise: the C allocator's */
    size_t limit_bytes;     /* mapped bytes and large blocks together, as statistics count them; 0: no limit */
    hk_at_limit *at_limit;  /* NULL: at its limit the heap says NULL */
    void *at_limit_argument;
    hk_debug_mode debug;
} hk_heap_options;

/* Makes a heap. options NULL: HK_LOCK_OWN. NULL: no memory or address space; or options that no heap can have: another
 * alignment, a buffer too small for a heap with one pool, a buffer under HK_LOCK_THREADS, a file that is not a regular one open
 * for reading and writing, a buffer or file that another heap is in, something that a later version has. Any thread. */
HK_API hk_heap *hk_heap_create(const hk_heap_options *options);

/* Ends a heap with all that is allocated in it, in time proportional to its arenas. Large blocks that are still
 * allocated are freed if they come from the heap's source; those of the C allocator are not. A buffer or file
 * is the program's again; what it holds is not defined. No other call on this heap, and no statistics or check of all
 * heaps, may be under way. NULL, a domain's heap, and a heap that was destroyed before, unless another was made since: nothing. What is
 * done with a destroyed heap or its blocks has no effect, unless another was made since (docs/heap.md, "Misuse"). */
HK_API void hk_heap_destroy(hk_heap *heap);

/* As in C, but: size 0 gives a block of its own; a block is aligned as hk_heap_options says. realloc may move within or between the
 * heap and the C allocator, and leaves the old block as it is when it returns NULL. */
HK_API void *hk_malloc(hk_heap *heap, size_t size);
HK_API void *hk_calloc(hk_heap *heap, size_t count, size_t size);
HK_API void *hk_realloc(hk_heap *heap, void *block, size_t size);
/* alignment: a power of two up to 16384; otherwise NULL. Freed like any block. */
HK_API void *hk_aligned_alloc(hk_heap *heap, size_t alignment, size_t size);
/* block: from any function above on the same heap, or NULL. */
HK_API void hk_free(hk_heap *heap, void *block);
/* Frees a block of any heap, from any thread, whatever locks are held: a heap under HK_LOCK_HOST takes it back at
 * its next slow path. hook: yes. Returns false if the block is in no heap (a large block, or foreign). */
HK_API bool hk_free_remote(void *block);
/* Bytes the block may be used for: at least what was asked. 0 if no heap owns it. Any thread. hook: yes. */
HK_API size_t hk_usable_size(const void *block);
/* The heap that owns the block; NULL: none (large blocks of the C allocator have none). Any thread. hook: yes. */
HK_API hk_heap *hk_heap_of(const void *block);

/* Gives empty pools, and what the C allocator has free, back to the system. Under HK_LOCK_THREADS it does so with what this
 * thread and those that have ended have left; blocks freed by others, of which each may keep a few for a while before
 * they go back to the thread that allocated them, count as live until then. Returns the bytes of pools given
 * back: 0 for a buffer, and for huge pages, which stay. */
HK_API size_t hk_heap_trim(hk_heap *heap);

/* Changes the limit; 0: none. Below what is mapped already: nothing is lost, but the heap does not grow until it has
 * shrunk. Any thread, also from inside an hk_at_limit. hook: yes. */
HK_API void hk_heap_set_limit(hk_heap *heap, size_t bytes);

/* Statistics. Every mapped byte is in exactly one class:
 *   mapped = live + free + untouched + tails + empty + metadata
 * `returned` is address space whose pages went back to the system; it is not part of mapped. Large blocks are the C
 * allocator's: counted beside. */
typedef struct {
    size_t size; /* sizeof(hk_heap_stats), set by the caller */
    uint64_t mapped_bytes;
    uint64_t live_bytes;      /* in allocated blocks, as large as their size class */
    uint64_t free_bytes;      /* free blocks in used and full pools */
    uint64_t untouched_bytes; /* never handed out, in used pools */
    uint64_t tail_bytes;      /* behind the last block of a pool */
    uint64_t empty_bytes;     /* empty pools kept for reuse */
    uint64_t metadata_bytes;
    uint64_t returned_bytes;
    uint64_t live_blocks;
    uint64_t allocated_bytes; /* requested since the heap began */
    uint64_t allocated_blocks;
    uint64_t large_bytes; /* live large blocks, usable size */
    uint64_t large_blocks;
    uint32_t arenas;
    uint32_t pools_used, pools_full, pools_empty; /* used: at least one block allocated and one not */
    uint64_t own_large_bytes; /* of live: large blocks that come from the heap's own source */
    uint64_t own_large_blocks;
    uint64_t huge_page_bytes; /* in explicit huge pages */
    uint64_t limit_bytes;     /* 0: none; for all heaps: 0 */
    uint32_t pools_large;     /* that own large blocks are made of */
    uint32_t source;          /* hk_source; for all heaps: 0 */
} hk_heap_stats;

/* heap NULL: the sum of all heaps. Cost: proportional to the number of pools. Any thread; exact if nobody
 * allocates meanwhile. hook: yes. */
HK_API void hk_heap_get_stats(hk_heap *heap, hk_heap_stats *stats);

/* All heaps, and the process's totals, as text or JSON, NUL terminated. Returns the length it would have had, as
 * snprintf does. Any thread. hook: yes. */
HK_API size_t hk_stats_text(char *buffer, size_t capacity);
HK_API size_t hk_stats_json(char *buffer, size_t capacity);

/* All heaps, and for each its size classes with their pools and blocks by state, as JSON, NUL terminated; `arenas`: also each
 * arena with all of its pools. The keys are those of `heapkeeper blocks --json` (docs/command.md). Heaps in a buffer, and
 * those beyond the 256th, are left out. Returns the length that it would have had, as snprintf does; 0: no
 * memory. What it needs, 520 bytes an arena, it maps for the time of the call and takes from no heap. Any thread; it adds
 * up always, and is exact if nobody allocates meanwhile. hook: yes. */
HK_API size_t hk_blocks_json(char *buffer, size_t capacity, bool arenas);

/* The sizes that the library was built with, the same for all its heaps. */
typedef struct {
    size_t size; /* sizeof(hk_geometry), set by the caller */
    const char *name; /* "default" or "guide"; static */
    uint32_t arena_bytes, pool_bytes;
    uint32_t pools_per_arena;
    uint32_t classes;     /* size classes */
    uint32_t block_step;  /* small blocks: a class every so many bytes */
    uint32_t block_max;   /* the largest block of a pool; larger requests go to the C allocator */
} hk_geometry;

/* Any thread. hook: yes. */
HK_API void hk_get_geometry(hk_geometry *geometry);
/* Bytes of a block of this class, 1 ... classes; otherwise 0. Any thread. hook: yes. */
HK_API size_t hk_class_bytes(uint32_t size_class);

/* Walking a heap. */
typedef enum { HK_POOL_EMPTY, HK_POOL_USED, HK_POOL_FULL } hk_pool_state;
typedef enum { HK_BLOCK_UNTOUCHED, HK_BLOCK_FREE, HK_BLOCK_ALLOCATED } hk_block_state;

typedef struct {
    void *start;
    size_t size;       /* of the pool; a large block from the heap's own source is shown as one full pool of one block */
    size_t block_size; /* 0: empty */
    uint32_t capacity, allocated;
    uint32_t touched;  /* blocks handed out at least once, or made ready to be: some at a time */
    uint32_t arena;    /* number of its arena in this heap */
    hk_pool_state state;
} hk_pool_info;

/* Called for each pool with block NULL, then, if it returned true, for each block of the pool (what it returns
 * then is not looked at), without the heap's lock. It may allocate from the heap and free into it: it is shown each pool as it
 * was when the walk came to it, so a block may be shown as allocated that it has freed. It must not destroy the heap. */
typedef bool hk_visitor(const hk_pool_info *pool, void *block, hk_block_state state, void *argument);
/* Under HK_LOCK_HOST it is called with the program's lock, and so is the visitor. Exact, as long as no other thread allocates
 * under HK_LOCK_THREADS: a pool that one uses meanwhile is shown about as it is. */
HK_API void hk_heap_visit(hk_heap *heap, hk_visitor *visitor, void *argument);

/* Checks every structure of the heap; NULL: of all heaps. 0, or the number of the rule that is broken (see src/heap/check.c);
 * -1: it is no heap, or was destroyed. Under HK_LOCK_THREADS no thread may use the heap meanwhile, or a rule may seem broken. */
HK_API int hk_heap_check(hk_heap *heap);

/* Debug mode for heaps that are made from now on with HK_DEBUG_DEFAULT (the domains' are made when they are first used).
 * Any thread. */
HK_API void hk_debug_default(bool on);
/* Looks at every block of every heap in debug mode, allocated or in quarantine; a finding is reported and aborts. Returns
 * their number; 0 without debug mode. Any thread. */
HK_API size_t hk_debug_check(void);

/* Domains: the C form of PEP 445. A domain is a replaceable table of functions; the default of each is a heap of
 * its own. RAW may be called without the program's lock; MEM and OBJECT only under it. */
typedef enum { HK_DOMAIN_RAW, HK_DOMAIN_MEM, HK_DOMAIN_OBJECT, HK_DOMAINS } hk_domain;

typedef struct {
    void *context; /* first argument of the four */
    void *(*malloc)(void *context, size_t size);
    void *(*calloc)(void *context, size_t count, size_t size);
    void *(*realloc)(void *context, void *block, size_t size);
    void (*free)(void *context, void *block);
} hk_allocator;

/* Copies the table in force; of a number that is no domain: NULLs. Any thread. */
HK_API void hk_get_allocator(hk_domain domain, hk_allocator *allocator);
/* Replaces it. As in PEP 445: before the first allocation freely; later the new one must wrap the old one, since
 * live blocks will be freed through it. Not while another thread allocates in the domain. A table with a NULL among its functions, and a
 * number that is no domain: nothing. */
HK_API void hk_set_allocator(hk_domain domain, const hk_allocator *allocator);

/* Of a number that is no domain: nothing is done, NULL is returned. */
HK_API void *hk_domain_malloc(hk_domain domain, size_t size);
HK_API void *hk_domain_calloc(hk_domain domain, size_t count, size_t size);
HK_API void *hk_domain_realloc(hk_domain domain, void *block, size_t size);
HK_API void hk_domain_free(hk_domain domain, void *block);

HK_API const char *hk_version(void); /* "MAJOR.MINOR.PATCH", static */

#ifdef __cplusplus
}
#endif
#endif
