/* Large blocks of a heap that asks the C allocator for nothing: runs of empty pools, one after another.
 *
 * First fit by address, as for single pools. A run may go on from one arena into the next where both are the heap's and
 * neighbours. Its first pool says how many there are (`used_before`, and HK_PLACE_RUN); those behind it look as
 * if they were empty, but the arena's bits say that they are not: so a run costs one descriptor whatever its length.
 */
#include "heap/pool.h"

static bool is_next(const struct hk_arena *arena, const struct hk_arena *next)
{
    return next == arena + 1 && arena->pools == HK_ARENA_POOLS;
}

/* The first of `count` empty pools in a row, at a multiple of alignment; NULL: there are none. in_memory: dirty ones. */
static struct hk_pool *run_find(const hk_heap *heap, uint32_t count, size_t alignment, bool in_memory)
{
    const struct hk_arena *previous = NULL;
    struct hk_pool *first = NULL;
    uint32_t found = 0;
    for (const struct hk_arena *arena = heap->maybe_empty; arena != NULL; previous = arena, arena = arena->next) {
        struct hk_pool *pools = hk_arena_first_pool(arena);
        if (previous == NULL || !is_next(previous, arena))
            found = 0;
        uint64_t usable = in_memory ? arena->dirty : arena->empty;
        if (usable == UINT64_MAX && found > 0 && found + HK_ARENA_POOLS < count) {
            found += HK_ARENA_POOLS;
            continue;
        }
        for (uint32_t i = 0; i < arena->pools; i++) {
            if (!(usable >> i & 1)) {
                found = 0;
                continue;
            }
            if (found == 0 && (uintptr_t)hk_pool_start(&pools[i]) % alignment != 0)
                continue;
            if (found++ == 0)
                first = &pools[i];
            if (found == count)
                return first;
        }
    }
    return NULL;
}

/* Bytes of the pools that are not in memory. */
static size_t run_growth(const hk_heap *heap, const struct hk_pool *first, uint32_t count)
{
    size_t index = (size_t)(first - hk_region_of(heap)->pools), growth = 0;
    for (size_t i = index; i < index + count; i++)
        if (!(hk_region_of(heap)->arenas[i / HK_ARENA_POOLS].dirty >> (i % HK_ARENA_POOLS) & 1))
            growth += HK_POOL_SIZE;
    return growth;
}

/* The pools may be used. To make room under a limit, some of these very pools may be given back, which makes what is
 * needed more: so it is asked again, until nothing is left to give back. */
static bool run_take(hk_heap *heap, struct hk_pool *first, uint32_t count)
{
    uint32_t dirty;
    do {
        dirty = heap->dirty_pools;
        if (!hk_limit_allows(heap, run_growth(heap, first, count)))
            return false;
    } while (heap->dirty_pools != dirty);
    if (!hk_source_back(heap, hk_pool_start(first), (size_t)count * HK_POOL_SIZE))
        return false;
    hk_pools_claim(heap, first, count);
    return true;
}

/* Pools for so many bytes; 0: more than there can be. */
static uint32_t pools_for(size_t size)
{
    size_t pools = size / HK_POOL_SIZE + (size % HK_POOL_SIZE != 0);
    return pools <= UINT32_MAX - HK_ARENA_POOLS ? (uint32_t)pools + (pools == 0) : 0;
}

void *hk_run_malloc(hk_heap *heap, size_t alignment, size_t size)
{
    uint32_t count = pools_for(size);
    if (count == 0)
        return NULL;
    struct hk_pool *first = NULL;
    if (hk_heap_limit(heap) != 0 || heap->source == HK_SOURCE_FILE) /* growing may be refused */
        first = run_find(heap, count, alignment, true);
    if (first == NULL)
        first = run_find(heap, count, alignment, false);
    if (first == NULL && heap->own_region == NULL) {
        uint32_t more = alignment > HK_POOL_SIZE ? (uint32_t)(alignment / HK_POOL_SIZE) : 0;
        if (hk_arenas_take(heap, (count + more + HK_ARENA_POOLS - 1) / HK_ARENA_POOLS))
            first = run_find(heap, count, alignment, false);
    }
    if (first == NULL || !run_take(heap, first, count))
        return NULL;
    first->place = HK_PLACE_RUN;
    first->used_before = count;
    first->used = 0;
    first->capacity = 1;
    heap->large_allocations++;
    return hk_pool_start(first);
}

void hk_run_free(struct hk_pool *pool)
{
    uint32_t count = pool->used_before;
    pool->place = HK_PLACE_EMPTY;
    pool->used_before = 0;
    pool->capacity = 0;
    hk_pools_release(pool->heap, pool, count);
}

/* True if the pools behind the run, so many of them, are the heap's and empty. */
static bool is_room_behind(const struct hk_pool *pool, uint32_t count)
{
    const struct hk_region *region = hk_region_of(pool->heap);
    size_t index = (size_t)(pool - region->pools) + pool->used_before;
    for (size_t i = index; i < index + count; i++) {
        const struct hk_arena *arena = &region->arenas[i / HK_ARENA_POOLS];
        if (i / HK_ARENA_POOLS >= region->arena_limit || arena->heap != pool->heap ||
            !(arena->empty >> (i % HK_ARENA_POOLS) & 1))
            return false;
    }
    return true;
}

bool hk_run_resize(struct hk_pool *pool, size_t size)
{
    uint32_t count = pools_for(size), old = pool->used_before;
    if (count == 0)
        return false;
    if (count > old && (!is_room_behind(pool, count - old) || !run_take(pool->heap, pool + old, count - old)))
        return false;
    pool->used_before = count;
    if (count < old)
        hk_pools_release(pool->heap, pool + count, old - count);
    return true;
}
