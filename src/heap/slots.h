/* A word beside each block: which call site allocated it. Read pool.h first.
 *
 * The words lie in two tables beside the region, so a block is what it was, and a free finds its site by its address alone:
 * a shift and an addition, no division.
 *
 *      blocks of 32 bytes and more    the word of the 32 bytes that the block begins in: 1/8 of the region
 *      smaller ones                   of the HK_STEP bytes: another table, of which only pages of their pools are touched
 *
 *      word     bits 31..12  number of the site + 1; 0: not recorded (from before the start, after a stop)
 *               bits 11..1   slack: bytes of the block that were not asked for
 *               bit 0        a code object lives here: whoever frees it must be told
 *
 * Beside each word is place for a byte, its block's age, where somebody wants to know which blocks were allocated since a moment
 * (hosts/cpython/windows.h). These tables are made when they are first needed.
 *
 * The word of a free block is 0. Words are written by who allocates and frees, under what protects the block's
 * heap; RAW's heap: by the thread that has the block. */
#ifndef HK_HEAP_SLOTS_H
#define HK_HEAP_SLOTS_H

#include "heap/pool.h"

#define HK_SLOT_SHIFT 5                          /* of blocks with at least so many bytes: 2^5 */
#define HK_SLOT_SMALL_SHIFT (HK_STEP == 8 ? 3 : 4) /* of smaller ones */

#define HK_SLOT_CODE 1u
#define HK_SLOT_SITE_SHIFT 12
#define HK_SLOT_SLACK_MAX 2047u /* a block of a frugal heap is half as large again as its class at most */
#define HK_SLOT_SITES ((1u << (32 - HK_SLOT_SITE_SHIFT)) - 1) /* numbers below this have a word */

/* By whether blocks are smaller than 2^HK_SLOT_SHIFT. NULL: no block has a word. */
extern char *hk_slots_base[2];

/* Makes the tables of words; false: no address space. Before the region's arenas are used by who wants words, one thread. */
bool hk_slots_begin(void);

/* Makes the tables of ages, all of them 0, or makes them 0 again; false: no memory. */
bool hk_ages_begin(void);
extern uint8_t *hk_ages_base[2]; /* as hk_slots_base */

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
    return (site + 1) << HK_SLOT_SITE_SHIFT | (uint32_t)slack << 1;
}

static inline uint32_t hk_slot_site(uint32_t word) /* of a word that has one */
{
    return (word >> HK_SLOT_SITE_SHIFT) - 1;
}

/* The age beside a word. */
static inline uint8_t *hk_age_of(const uint32_t *word)
{
    uintptr_t at = (uintptr_t)word - (uintptr_t)hk_slots_base[0], small = (uintptr_t)word - (uintptr_t)hk_slots_base[1];
    return small < at ? hk_ages_base[1] + small / sizeof *word : hk_ages_base[0] + at / sizeof *word;
}

/* Of the block of a pool of the region. */
static inline __attribute__((always_inline)) uint32_t *hk_slot_at(const struct hk_pool *pool, const void *block)
{
    uintptr_t distance = (uintptr_t)block - (uintptr_t)hk_region.base;
    if (__builtin_expect(pool->block_size < 1u << HK_SLOT_SHIFT, 0))
        return (uint32_t *)hk_slots_base[1] + (distance >> HK_SLOT_SMALL_SHIFT);
    return (uint32_t *)hk_slots_base[0] + (distance >> HK_SLOT_SHIFT);
}

#endif
