/* What exact recording knows of a block, whichever lane it is of: exact.c for how it all goes together.
 *
 *      word      of a block in a pool, in the pool's side array (heap/slots.h): its site and its slack
 *      record    all that is known of a block, taken off it before it moves or dies
 *      life      of a block that is watched: was little allocated until it was freed?
 *
 * Under the lock of the block's lane (record/exact.h). */
#ifndef HK_HOSTS_CPYTHON_EXACT_BLOCKS_H
#define HK_HOSTS_CPYTHON_EXACT_BLOCKS_H

#include <sys/types.h>

#include "heap/slots.h"
#include "hosts/cpython/exact.h"
#include "record/exact.h"

struct hk_life {
    const void *block; /* NULL: none */
    uint64_t born;     /* bytes allocated in MEM and OBJECT by then */
    uint32_t site, weight;
    bool is_code; /* a code object lives in it, too */
};

struct hk_exact_block {
    size_t bytes;
    uint32_t site; /* HK_EXACT_NONE: not recorded */
    bool is_code;
    uint8_t age; /* see windows.h; only while one is open */
    struct hk_life life; /* weight 0: was not watched; so of the next */
    struct hk_exact_living living;
};

extern struct hk_exact_blocks {
    const uintptr_t *finalizing; /* not 0: the interpreter is being torn down */
    ptrdiff_t code_header; /* bytes of a code object's block before the object */
    bool stands_still; /* the figures do, for good: the interpreter has begun its finalisation */
} hk_exact_blocks;

void hk_exact_blocks_init(void);

static inline bool is_watched(const struct hk_exact_block *record)
{
    return record->life.weight != 0 || record->living.weight != 0;
}

static inline uint32_t watch_weight(size_t size)
{
    return 1 + (uint32_t)(size / HK_CAPTURE_LIFE_BYTES < UINT32_MAX ? size / HK_CAPTURE_LIFE_BYTES : UINT32_MAX - 1);
}

/* What is counted for a block of `size` bytes: as many as were asked for, if the word can say so. */
static inline size_t slack_of(const struct hk_pool *pool, size_t size)
{
    size_t slack = pool->block_size - size;
    return __builtin_expect(slack <= HK_SLOT_SLACK_MAX, 1) ? slack : HK_SLOT_SLACK_MAX;
}

static inline size_t bytes_of(const struct hk_pool *pool, uint32_t word)
{
    return pool->block_size - (word >> 1 & HK_SLOT_SLACK_MAX);
}

static inline struct hk_capture_counters *counters_of(uint32_t word)
{
    _Static_assert(sizeof(struct hk_capture_counters) == 1 << 6, "so that one shift makes a place of a word");
    return (struct hk_capture_counters *)((char *)(hk_exact.counters - 1) + (word >> HK_SLOT_SITE_SHIFT << 6));
}

static inline bool has_site(uint32_t word)
{
    return word >> HK_SLOT_SITE_SHIFT != 0;
}

static inline bool is_over(void)
{
    return *hk_exact_blocks.finalizing != 0;
}

/* Takes the record off the block. */
struct hk_exact_block hk_exact_block_take(const void *block);
/* Gives a block its record; returns the bytes to count, or -1: it cannot have one. */
ssize_t hk_exact_block_put(const void *block, size_t size, uint32_t site, uint8_t age);
/* The same of one that stays where it was after all. */
void hk_exact_block_restore(const void *block, const struct hk_exact_block *record);
uint32_t hk_exact_block_site(const void *block); /* HK_EXACT_NONE: not recorded */

/* Counts what is known: the block dies; it has become `moved`, which is smaller, and stays where it was charged. Of the main lane, whose
 * functions are called under the main GIL: until 3.11 a thread in a sub-interpreter cannot be seen to hold it. */
enum hk_exact_lane { HK_LANE_MAIN, HK_LANE_UNKNOWN };
void hk_exact_block_died(const struct hk_exact_block *record, enum hk_exact_lane lane);
void hk_exact_block_shrank(const struct hk_exact_block *had, const void *moved, size_t size, enum hk_exact_lane lane);

/* life, living: of weight 0: not as such. site: whose it is now. */
void hk_exact_block_watch(const void *block, const struct hk_life *life, uint32_t site, const struct hk_exact_living *living);
/* A block for which the heap's budget was used up has been recorded. */
void hk_exact_block_sample(hk_heap *heap, const void *block, size_t size, uint32_t site);

bool hk_exact_births_are_off(void); /* nothing is counted, also after another look */
bool hk_exact_holds_main(const void **state); /* this thread holds the main GIL. *state: what it may walk with; NULL: nothing */
void hk_exact_forget_stacks(void); /* all that the caches know is worthless from now on */
/* Under the main GIL: a block that held a code object is not used again before its instructions are forgotten. */
void hk_exact_quarantine(void *block);

/* exact.c: the functions that know how this interpreter's frames are found. */
const hk_allocator *hk_exact_main_table(int domain);

/* exact_apart.c: of a domain whose heap locks itself. */
hk_allocator hk_exact_apart_table(hk_heap *heap);

#endif
