/* What the collector knows about objects, beside the heap: tables that run parallel to the region, an entry for every 16
 * bytes (a granule; no object is smaller, and each begins on one). The address of an entry follows from the object's by
 * a subtraction and a shift.
 *
 *      tracked   1 bit    an object begins here that the collector looks at; see below
 *      white     1 bit    during a scan: a candidate that nothing has reached yet
 *      grey      1 bit    during a scan: reached, and waits for what it refers to being looked at
 *      age       2 bits   its generation; 3 is frozen. Where nothing is tracked: anything
 *      count     1 byte   during a scan: references that are left to explain; otherwise anything. See scan.c
 *      marks     3 bits   of a collection in steps, while a round is under way. See step.c
 *      step_count 1 byte  of the same
 *
 * A table each: the more objects a cache line is about, the better. Bits are looked at as words of 64.
 *
 * An object is not written down when it is made: most die before anybody asks. Those that live when a collection begins are found
 * by hk_gc_note_pool: what is allocated in a pool, and is not tracked yet, is new. So a tracked bit says that the tables
 * may know something of the object, and one that dies without it leaves nothing to clear. In a pool that is not noted none has one.
 *
 * 13 bits for 128: 10 % of the addresses, and of memory, where objects are; grey bits and counts are given back after a full
 * collection, but of a small heap. Steps take 9 % more, from their first use on, until a full collection. Parts are committed with the arenas whose objects they are about. A pool has 8 bytes more. */
#ifndef HK_GC_TABLES_H
#define HK_GC_TABLES_H

#include "heap/pool.h"

#define HK_GRANULE_SHIFT 4
#define HK_POOL_GRANULES (HK_POOL_SIZE >> HK_GRANULE_SHIFT)
#define HK_POOL_WORDS (HK_POOL_GRANULES / 64)

struct hk_gc_ages {
    uint64_t low, high;
};

struct hk_gc_marks {
    uint64_t suspect, grey; /* 0 in both where no object is; of pools that a round has not come to yet they mean nothing */
    uint64_t numbered;      /* those that were suspects when these were counted: */
    uint32_t before;        /* so many came before */
};

struct hk_gc_pool {
    uint32_t next;  /* in the scan's queue */
    uint8_t logged; /* HK_LOGGED_*: which lists of its runtime it is in */
    bool queued;
    bool spilled;   /* has grey objects, of steps, that are on no stack */
};
enum { HK_LOGGED_YOUNG = 1, HK_LOGGED_MIDDLE = 2 };

struct hk_gc_tables {
    uint64_t *tracked, *white, *grey; /* by granule / 64 */
    struct hk_gc_ages *age;
    uint8_t *count;
    struct hk_gc_marks *marks; /* by granule / 64 */
    uint8_t *step_count;
    struct hk_gc_pool *pools;
};

extern struct hk_gc_tables hk_gc_tables;

/* Reserves them for the whole region, which must exist. False: no addresses. */
bool hk_gc_tables_init(void);
/* Makes the entries of a part of the region usable; whole arenas. False: no memory. Any thread. */
bool hk_gc_tables_commit(const void *start, size_t size);
/* Gives what a scan alone needs of a heap's objects back to the system; the other, what a round of steps needs. */
void hk_gc_scan_discard(const struct hk_heap *heap);
void hk_gc_step_discard(const struct hk_heap *heap);
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

static inline uint64_t hk_bit_of(size_t granule)
{
    return (uint64_t)1 << (granule % 64);
}

/* How many bits are set: there may be no instruction for it. */
static inline uint32_t hk_gc_bits(uint64_t bits)
{
    bits -= bits >> 1 & 0x5555555555555555u;
    bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
    return (uint32_t)(((bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56);
}

/* The generation of these objects of a word. */
static inline void hk_gc_age(size_t word, uint64_t bits, int generation)
{
    struct hk_gc_ages *age = &hk_gc_tables.age[word];
    age->low = generation & 1 ? age->low | bits : age->low & ~bits;
    age->high = generation & 2 ? age->high | bits : age->high & ~bits;
}

/* Every object of the pool is tracked now; those that were not are of generation 0. Returns how many these are. */
uint32_t hk_gc_note_pool(struct hk_pool *pool);

/* These of a word are no objects any more, as far as steps are concerned. (Where there were none, nothing is written.) */
static inline void hk_gc_unmark(size_t word, uint64_t bits)
{
    struct hk_gc_marks *marks = &hk_gc_tables.marks[word];
    if ((marks->suspect | marks->grey) & bits) {
        marks->suspect &= ~bits;
        marks->grey &= ~bits;
    }
}

/* There is no object there any more, while none is white or marked: no collection is under way. True: it was tracked. */
static inline bool hk_gc_untrack(const void *object)
{
    size_t granule = hk_granule_of(object);
    uint64_t *tracked = &hk_gc_tables.tracked[granule / 64], before = *tracked;
    if ((before & hk_bit_of(granule)) == 0)
        return false;
    *tracked = before & ~hk_bit_of(granule);
    return true;
}

/* The same at any time. */
static inline void hk_gc_forget(const void *object)
{
    size_t granule = hk_granule_of(object);
    if (hk_gc_untrack(object)) {
        hk_gc_tables.white[granule / 64] &= ~hk_bit_of(granule);
        hk_gc_unmark(granule / 64, hk_bit_of(granule));
    }
}

#endif
