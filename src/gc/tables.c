/* The tables beside the region. See tables.h. */
#include "gc/tables.h"

#include <string.h>

#define ARENA_GRANULES (HK_ARENA_SIZE >> HK_GRANULE_SHIFT)

struct hk_gc_tables hk_gc_tables;
static hk_lock init_lock;

bool hk_gc_tables_init(void)
{
    hk_lock_take(&init_lock);
    if (hk_gc_tables.tracked == NULL && hk_region.span > 0) {
        size_t granules = hk_region.span >> HK_GRANULE_SHIFT, bits = granules / 8;
        size_t marks = granules / 64 * sizeof(struct hk_gc_marks), size = 5 * bits + 2 * granules + marks;
        size_t pools = (hk_region.span >> HK_POOL_SHIFT) * sizeof(struct hk_gc_pool);
        char *start = hk_os_reserve(size, hk_os_page_size()), *by_pool = hk_os_map(pools);
        if (start != NULL && by_pool != NULL)
            hk_gc_tables = (struct hk_gc_tables){.tracked = (uint64_t *)start,
                                                 .white = (uint64_t *)(start + bits),
                                                 .grey = (uint64_t *)(start + 2 * bits),
                                                 .age = (struct hk_gc_ages *)(start + 3 * bits),
                                                 .count = (uint8_t *)start + 5 * bits,
                                                 .step_count = (uint8_t *)start + 5 * bits + granules,
                                                 .marks = (struct hk_gc_marks *)(start + 5 * bits + 2 * granules),
                                                 .pools = (struct hk_gc_pool *)by_pool};
        else if (start != NULL)
            hk_os_unmap(start, size);
        else if (by_pool != NULL)
            hk_os_unmap(by_pool, pools);
    }
    hk_lock_release(&init_lock);
    return hk_gc_tables.tracked != NULL;
}

bool hk_gc_tables_commit(const void *start, size_t size)
{
    size_t granule = hk_granule_of(start), granules = size >> HK_GRANULE_SHIFT, bits = granules / 8;
    if (size > HK_ARENA_SIZE) /* the heap is large, as far as huge pages are concerned, and each full scan begins with fresh counts */
        hk_os_huge_pages(hk_gc_tables.count + granule, granules, true);
    return hk_os_commit(&hk_gc_tables.tracked[granule / 64], bits) && hk_os_commit(&hk_gc_tables.white[granule / 64], bits) &&
           hk_os_commit(&hk_gc_tables.grey[granule / 64], bits) && hk_os_commit(&hk_gc_tables.age[granule / 64], 2 * bits) &&
           hk_os_commit(hk_gc_tables.count + granule, granules) && hk_os_commit(hk_gc_tables.step_count + granule, granules) &&
           hk_os_commit(&hk_gc_tables.marks[granule / 64], granules / 64 * sizeof(struct hk_gc_marks));
}

static size_t first_granule(const struct hk_arena *arena)
{
    return (size_t)(arena - hk_region.arenas) * ARENA_GRANULES;
}

static void scan_discard(size_t granule, size_t granules)
{
    hk_os_discard(&hk_gc_tables.grey[granule / 64], granules / 8);
    hk_os_discard(hk_gc_tables.count + granule, granules);
}

static void step_discard(size_t granule, size_t granules)
{
    hk_os_discard(&hk_gc_tables.marks[granule / 64], granules / 64 * sizeof(struct hk_gc_marks));
    hk_os_discard(hk_gc_tables.step_count + granule, granules);
}

/* Of arenas that follow one another at once: a huge page that goes in parts comes back as small ones. */
static void each_run(const struct hk_heap *heap, void (*discard)(size_t granule, size_t granules))
{
    for (const struct hk_arena *first = heap->arenas, *last; first != NULL; first = last->next) {
        for (last = first; last->next == last + 1;)
            last++;
        discard(first_granule(first), (size_t)(last + 1 - first) * ARENA_GRANULES);
    }
}

void hk_gc_scan_discard(const struct hk_heap *heap)
{
    each_run(heap, scan_discard);
}

void hk_gc_step_discard(const struct hk_heap *heap)
{
    each_run(heap, step_discard);
}

void hk_gc_arena_clear(const struct hk_arena *arena)
{
    size_t word = first_granule(arena) / 64;
    hk_os_discard(&hk_gc_tables.tracked[word], ARENA_GRANULES / 8);
    hk_os_discard(&hk_gc_tables.white[word], ARENA_GRANULES / 8);
    hk_os_discard(&hk_gc_tables.age[word], ARENA_GRANULES / 4);
    scan_discard(first_granule(arena), ARENA_GRANULES);
    step_discard(first_granule(arena), ARENA_GRANULES);
    memset(hk_gc_tables.pools + (size_t)(arena - hk_region.arenas) * HK_ARENA_POOLS, 0,
           HK_ARENA_POOLS * sizeof(*hk_gc_tables.pools));
}

/* The first granules of all blocks of so many, up to `end`. Most pools have hundreds, so they are put down a word at a time. */
static void blocks_of(uint64_t *map, size_t step, size_t end)
{
    uint64_t every = 1; /* bit i: i is a multiple of step */
    for (size_t i = step; i < 64; i *= 2)
        every |= every << i;
    size_t first = 0, rest = 64 % step; /* of the word, the first that is one */
    for (size_t at = 0; at < end; at += 64, map++) {
        *map = first < 64 ? every << first : 0;
        if (end - at < 64)
            *map &= ((uint64_t)1 << (end - at)) - 1;
        first = first >= rest ? first - rest : first + step - rest;
    }
}

uint32_t hk_gc_note_pool(struct hk_pool *pool)
{
    uint64_t allocated[HK_POOL_WORDS] = {0};
    const char *start = hk_pool_start(pool);
    size_t step = pool->block_size >> HK_GRANULE_SHIFT, carved = pool->carved >> HK_GRANULE_SHIFT;
    if (pool->place < HK_PLACE_CURRENT || step == 0)
        return 0;
    blocks_of(allocated, step, carved);
    for (const char *block = *hk_pool_list(pool->heap, pool); block != NULL; block = *(char *const *)block) {
        size_t at = (size_t)(block - start) >> HK_GRANULE_SHIFT;
        allocated[at / 64] &= ~((uint64_t)1 << at % 64);
    }
    uint64_t *tracked = &hk_gc_tables.tracked[hk_granule_of(start) / 64];
    uint32_t count = 0;
    for (size_t i = 0; i < HK_POOL_WORDS; i++) {
        uint64_t fresh = allocated[i] & ~tracked[i];
        if (fresh == 0)
            continue;
        count += hk_gc_bits(fresh);
        tracked[i] |= fresh;
        hk_gc_age(hk_granule_of(start) / 64 + i, fresh, 0);
    }
    pool->is_noted |= count > 0;
    return count;
}
