/* What the collector knows about objects, beside the heap: tables that run parallel to the region, an entry for every 16
 * bytes (a granule; no object is smaller, and each begins on one). The address of an entry follows from the object's by
 * a subtraction and a shift.
 *
 *      tracked   1 bit    an object begins here that the collector looks at; see below
 *      age[2]    1 bit    each: its generation, as two binary digits; 3 is frozen
 *      white     1 bit    during a scan: a candidate that nothing has reached yet
 *      count     1 byte   during a scan: references that are left to explain, modulo 256
 *
 * The bits of 64 granules stand together, so that freeing an object touches one cache line of them.
 *
 * An object is not written down when it is made: most die before anybody asks. Those that live when a collection begins are found
 * by hk_gc_note_pool: what is allocated in a pool, and is not tracked yet, is new. So a tracked bit says that the tables
 * may know something of the object, and one that dies without it, with the bits all 0, leaves nothing to clear.
 *
 * 12 bits for 128: 9 % of the addresses, and of memory, where objects are; the byte is given back after a full
 * collection. Parts are committed with the arenas whose objects they are about. */
#ifndef HK_GC_TABLES_H
#define HK_GC_TABLES_H

#include "heap/pool.h"

#define HK_GRANULE_SHIFT 4
#define HK_POOL_GRANULES (HK_POOL_SIZE >> HK_GRANULE_SHIFT)
#define HK_POOL_WORDS (HK_POOL_GRANULES / 64)

struct hk_gc_word { /* of 64 granules */
    uint64_t tracked, age[2], white;
};

struct hk_gc_tables {
    struct hk_gc_word *words;
    uint8_t *count;
    uint8_t *logged; /* by pool: HK_LOGGED_*; which lists of its runtime it is in */
};

enum { HK_LOGGED_YOUNG = 1, HK_LOGGED_MIDDLE = 2 };

extern struct hk_gc_tables hk_gc_tables;

/* Reserves them for the whole region, which must exist. False: no addresses. */
bool hk_gc_tables_init(void);
/* Makes the entries of a part of the region usable; whole arenas. False: no memory. Any thread. */
bool hk_gc_tables_commit(const void *start, size_t size);
/* Gives the counts of an arena's objects back to the system. */
void hk_gc_counts_discard(const struct hk_arena *arena);
/* Nothing in the arena is an object any more. */
void hk_gc_arena_clear(const struct hk_arena *arena);

static inline size_t hk_granule_of(const void *object)
{
    return ((uintptr_t)object - (uintptr_t)hk_region.base) >> HK_GRANULE_SHIFT;
}

static inline void *hk_granule_start(size_t granule)
{
    return hk_region.base + (granule << HK_GRANULE_SHIFT);
}

static inline struct hk_gc_word *hk_word_of(size_t granule)
{
    return &hk_gc_tables.words[granule / 64];
}

static inline uint64_t hk_bit_of(size_t granule)
{
    return (uint64_t)1 << (granule % 64);
}

/* Every object of the pool is tracked now; those that were not are of generation 0. Returns how many these are. */
uint32_t hk_gc_note_pool(const struct hk_pool *pool);

/* There is no object there any more. */
static inline void hk_gc_forget(const void *object)
{
    size_t granule = hk_granule_of(object);
    struct hk_gc_word *word = hk_word_of(granule);
    uint64_t bit = hk_bit_of(granule);
    if (word->tracked & bit) {
        word->tracked &= ~bit;
        word->age[0] &= ~bit;
        word->age[1] &= ~bit;
        word->white &= ~bit;
    }
}

#endif
