/* A word beside each block: which call site allocated it. Read pool.h first.
 *
 * The words of a pool lie in a table beside the region, so a block is what it was, and a free finds its site by its
 * address alone. Block i of a pool has a word of its own at index (offset in the pool) >> n, with 2^n the largest power of
 * two that is no larger than the block: no division. That leaves up to half of the words unused, so pools share pages,
 * by sixteen:
 *
 *      group      16 neighbouring pools; 64 KiB of the table (default geometry)
 *      row r      words 64 r ... 64 r + 63 of all 16 pools: one page, 256 bytes a pool
 *
 * A pool of 64-byte blocks has 256 words and touches rows 0 to 3, one of 512-byte blocks half of row 0. Only the smallest
 * blocks have words in the last rows, so a program pays 4 to 8 bytes a block.
 *
 *      word     bits 31..11  number of the site + 1; 0: not recorded (from before the start, after a stop)
 *               bits 10..1   slack: bytes of the block that were not asked for
 *               bit 0        a code object lives here: whoever frees it must be told
 *
 * The word of a free block is 0. Words are written by who allocates and frees, under what protects the block's
 * heap; RAW's heap: by the thread that has the block. */
#ifndef HK_HEAP_SLOTS_H
#define HK_HEAP_SLOTS_H

#include "heap/pool.h"

#define HK_SLOT_GROUP 16 /* pools */
#define HK_SLOT_ROW 64   /* words */
#define HK_SLOT_GROUP_BYTES (HK_POOL_SIZE / HK_STEP * HK_SLOT_GROUP * sizeof(uint32_t))

#define HK_SLOT_CODE 1u
#define HK_SLOT_SLACK_MAX 1023u
#define HK_SLOT_SITES ((1u << 21) - 1) /* numbers below this have a word */

/* NULL: no block has a word. */
extern char *hk_slots_base;

/* Makes the table; false: no address space. Before the region's arenas are used by who wants words, one thread. */
bool hk_slots_begin(void);

/* region.c: arenas [first, first + count) get words; false: no memory. True without a table. */
bool hk_slots_commit(uint32_t first, uint32_t count);
void hk_slots_discard(uint32_t arena);          /* nothing is allocated in it */
void hk_slots_shrink(uint32_t keep, uint32_t old); /* the region has so many arenas from now on */

uint64_t hk_slots_bytes(void); /* in memory, as the kernel says. Not cheap: some us for 100 MiB of heap */

/* Calls `visitor` for every allocated block whose word is not 0; bytes: as requested. Nothing else may be going on in the
 * heaps. hook: yes. */
typedef void hk_slots_visitor(uint32_t *word, size_t bytes, void *argument);
void hk_slots_visit(hk_slots_visitor *visitor, void *argument);

static inline uint32_t hk_slot_word(uint32_t site, size_t slack)
{
    return (site + 1) << 11 | (uint32_t)slack << 1;
}

/* Of the block of a pool of the region. */
static inline uint32_t *hk_slot_at(const struct hk_pool *pool, const void *block)
{
    uintptr_t distance = (uintptr_t)block - (uintptr_t)hk_region.base;
    unsigned shift = 31u - (unsigned)__builtin_clz(pool->block_size);
    uintptr_t index = (distance & (HK_POOL_SIZE - 1)) >> shift;
    uintptr_t row = index / HK_SLOT_ROW * (HK_SLOT_GROUP * HK_SLOT_ROW) + index % HK_SLOT_ROW;
    uintptr_t group = (distance >> HK_POOL_SHIFT) / HK_SLOT_GROUP, place = (distance >> HK_POOL_SHIFT) % HK_SLOT_GROUP;
    return (uint32_t *)(hk_slots_base + group * HK_SLOT_GROUP_BYTES) + place * HK_SLOT_ROW + row;
}

#endif
