/* The tables beside the region. See tables.h. */
#include "gc/tables.h"

#include <string.h>

#define ARENA_GRANULES (HK_ARENA_SIZE >> HK_GRANULE_SHIFT)

struct hk_gc_tables hk_gc_tables;
static hk_lock init_lock;

bool hk_gc_tables_init(void)
{
    hk_lock_take(&init_lock);
    if (hk_gc_tables.words == NULL && hk_region.span > 0) {
        size_t granules = hk_region.span >> HK_GRANULE_SHIFT, words = granules / 64 * sizeof(struct hk_gc_word);
        char *start = hk_os_reserve(words + granules, hk_os_page_size());
        uint8_t *logged = hk_os_map(hk_region.span >> HK_POOL_SHIFT);
        if (start != NULL && logged != NULL)
            hk_gc_tables = (struct hk_gc_tables){(struct hk_gc_word *)start, (uint8_t *)start + words, logged};
        else if (start != NULL)
            hk_os_unmap(start, words + granules);
        else if (logged != NULL)
            hk_os_unmap(logged, hk_region.span >> HK_POOL_SHIFT);
    }
    hk_lock_release(&init_lock);
    return hk_gc_tables.words != NULL;
}

bool hk_gc_tables_commit(const void *start, size_t size)
{
    size_t granule = hk_granule_of(start), granules = size >> HK_GRANULE_SHIFT;
    return hk_os_commit(hk_word_of(granule), granules / 64 * sizeof(struct hk_gc_word)) &&
           hk_os_commit(hk_gc_tables.count + granule, granules);
}

static size_t first_granule(const struct hk_arena *arena)
{
    return (size_t)(arena - hk_region.arenas) * ARENA_GRANULES;
}

void hk_gc_counts_discard(const struct hk_arena *arena)
{
    hk_os_discard(hk_gc_tables.count + first_granule(arena), ARENA_GRANULES);
}

void hk_gc_arena_clear(const struct hk_arena *arena)
{
    hk_os_discard(hk_word_of(first_granule(arena)), ARENA_GRANULES / 64 * sizeof(struct hk_gc_word));
    hk_gc_counts_discard(arena);
    memset(hk_gc_tables.logged + (size_t)(arena - hk_region.arenas) * HK_ARENA_POOLS, 0, HK_ARENA_POOLS);
}

uint32_t hk_gc_note_pool(const struct hk_pool *pool)
{
    uint64_t allocated[HK_POOL_WORDS] = {0};
    const char *start = hk_pool_start(pool);
    size_t step = pool->block_size >> HK_GRANULE_SHIFT, carved = pool->carved >> HK_GRANULE_SHIFT;
    if (pool->place < HK_PLACE_CURRENT || step == 0)
        return 0;
    for (size_t at = 0; at < carved; at += step)
        allocated[at / 64] |= (uint64_t)1 << at % 64;
    for (const char *block = *hk_pool_list(pool->heap, (struct hk_pool *)pool); block != NULL; block = *(char *const *)block) {
        size_t at = (size_t)(block - start) >> HK_GRANULE_SHIFT;
        allocated[at / 64] &= ~((uint64_t)1 << at % 64);
    }
    struct hk_gc_word *words = hk_word_of(hk_granule_of(start));
    uint32_t count = 0;
    for (size_t i = 0; i < HK_POOL_WORDS; i++) {
        count += (uint32_t)__builtin_popcountll(allocated[i] & ~words[i].tracked);
        words[i].tracked |= allocated[i];
    }
    return count;
}
