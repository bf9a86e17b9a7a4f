/* What the files of CPython's host share; written at installation, but for `many` and the counter. */
#ifndef HK_HOSTS_CPYTHON_INTERNAL_H
#define HK_HOSTS_CPYTHON_INTERNAL_H

#include <string.h>

#include "heap/pool.h"
#include "hosts/cpython/domains.h"
#include "hosts/cpython/frames.h"

struct hk_arena_allocator { /* PyObjectArenaAllocator of PEP 445 */
    void *context;
    void *(*alloc)(void *context, size_t size);
    void (*free)(void *context, void *chunk, size_t size);
};

struct hk_python {
    /* Public C API of CPython, found by name. The shape of a table is PyMemAllocatorEx of PEP 445, as hk_allocator's. */
    void (*set_allocator)(int domain, const hk_allocator *table); /* declared without the const; it copies */
    void (*get_allocator)(int domain, hk_allocator *table);
    void (*set_arena_allocator)(struct hk_arena_allocator *table);
    const char *(*current_name)(void); /* not on 3.12 once finalised: takes a lock that is gone by then */
    int (*add_audit_hook)(int (*hook)(const char *, void *, void *), void *data);
    int (*is_initialized)(void);
    int (*is_finalizing)(void);
    int (*add_pending_call)(int (*function)(void *), void *argument);

    const hk_py_layout *layout; /* NULL: no interpreter */
    hk_heap *heaps[HK_DOMAINS], *watched[HK_DOMAINS], *interpreters; /* the last: shared, with a lock */
    size_t alignment; /* of the heaps other than RAW's */
    bool exact; /* every block is recorded: exact.c */
    bool many; /* interpreters with their own GIL exist or existed */
    int64_t frame_chunk_bytes;
};

extern struct hk_python hk_python;

static inline uintptr_t hk_word_at(const void *base, intptr_t offset)
{
    uintptr_t word;
    memcpy(&word, (const char *)base + offset, sizeof word);
    return word;
}

/* The functions of one domain's table, NAME_malloc and so on, by those that are told the domain: WAY_malloc and so on. */
#define HK_TABLE_FUNCTIONS(name, way, domain)                            \
    static void *name##_malloc(void *context, size_t size)               \
    {                                                                    \
        return way##_malloc(domain, context, size);                      \
    }                                                                    \
    static void *name##_calloc(void *context, size_t count, size_t size) \
    {                                                                    \
        return way##_calloc(domain, context, count, size);               \
    }                                                                    \
    static void *name##_realloc(void *context, void *block, size_t size) \
    {                                                                    \
        return way##_realloc(domain, context, block, size);              \
    }                                                                    \
    static void name##_free(void *context, void *block)                  \
    {                                                                    \
        way##_free(domain, context, block);                              \
    }

/* debug_frames.c: stacks of debug mode have Python's frames from now on. */
void hk_cpython_debug_begin(void);

/* domains.c: looks the functions up; false: there is no interpreter. */
bool hk_cpython_find(void);

/* tables.c: the interpreter's tables of allocator functions as they are now. `find` after ours were put there, before main; the
 * others in a hook, with or without the GIL, where a lock is held. `write`: a table that threads may be reading. */
void hk_cpython_tables_find(void);
void hk_cpython_get_table(int domain, hk_allocator *table);
void hk_cpython_put_table(int domain, const hk_allocator *table);
void hk_cpython_write_table(hk_allocator *to, const hk_allocator *table);

/* domains.c: no block of MEM or OBJECT was asked for yet, where that is waited for. */
bool hk_cpython_is_unsettled(void);

/* domains.c: the table that serves the domain while no interpreter has a GIL of its own. */
hk_allocator hk_cpython_table(int domain);

/* The interpreter's table of the domain calls us; false: another allocator or hook stands there. */
bool hk_cpython_table_is_ours(int domain);

/* Blocks of MEM and OBJECT come from our heaps, by our own tables or beneath a hook's. False: another allocator was put there
 * (PYTHONMALLOC, -X dev), which calls us no more, and whose blocks are none of ours. The GIL is held; not in a hook. */
bool hk_cpython_serves(void);
#define HK_CPYTHON_REPLACED "another allocator than heapkeeper's serves this Python: start it without PYTHONMALLOC, -X dev and PYTHONDEVMODE"

/* domains.c: for exact recording. RAW's free; the audited first calls stay where they are. */
void hk_cpython_raw_free(void *context, void *block);
void hk_cpython_raw_calloc_seen(size_t count, size_t size); /* perhaps an interpreter is being made */
void hk_cpython_set_tables(void); /* anew, after hk_cpython_exact_prepare */

/* recording.c */
void hk_cpython_freeze_if_finalizing(void);
/* Another allocator, or a hook, was last seen to stand where ours did: of Python's blocks perhaps none comes to us, and none dies here. */
bool hk_cpython_is_covered(void);
/* A thread that allocates in this domain and has a thread state: may its stack be walked? Asked until it may. */
bool hk_cpython_stacks_ready(int domain);

/* collections.c: the collections of cycles that Python makes. `begin` at ticks, with the main lock, until it has found the collector or
 * given up; `look` on slow paths of any thread; `end` when the program is over; `forked` in the child. */
void hk_cpython_collections_begin(void);
void hk_cpython_collections_look(void);
void hk_cpython_collections_end(void);
void hk_cpython_collections_forked(void);

/* interpreters.c. */
hk_heap *hk_cpython_heap_here(hk_heap *context); /* that this thread may use without a lock, or that has one */
bool hk_cpython_is_within_reach(const hk_heap *heap, const void *block); /* who may use `heap` may free it there */
void hk_cpython_become_many(void); /* an interpreter is about to be made. Any thread */
bool hk_cpython_is_many_table(const hk_allocator *table);
void hk_cpython_state_freed(const void *block); /* RAW frees a block of libc's: perhaps an interpreter's state */
void hk_cpython_interpreters_fork_prepare(void);
void hk_cpython_interpreters_fork_release(bool child);

#endif
