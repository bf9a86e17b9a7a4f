/* The reservation, its arenas, and which pools are empty.
 *
 * One range of addresses is reserved when the first heap is made: 64 GiB, or twice the memory if that is more,
 * halved until the kernel agrees (RLIMIT_AS, overcommit 2). If not even 64 MiB can be had there is no region, and every
 * block is the C allocator's. Arenas are committed one after another and never uncommitted; an arena of a heap
 * that was destroyed is reused.
 *
 * Empty pools are taken lowest address first, so that the high ones stay empty. They keep their pages until more than
 * 32 MiB plus half of what is in use is kept so; then the highest go back, down to half of that, in runs. Giving back
 * at once makes programs that build and drop in a loop slower than CPython (1.05, measured); keeping is most
 * of what this heap wins.
 *
 * Huge pages: a heap's first 8 MiB are marked against them (a system may have them on for all, and a small program
 * would pay 15 MB), later arenas ask for them. Before the first page of an arena is given back it is marked against
 * them for good, or khugepaged fills the hole again.
 */
#include "heap/pool.h"

#include <string.h>

#define MINIMUM_SPAN ((size_t)64 << 20)
#define DEFAULT_SPAN ((size_t)64 << 30)
#define FIRST_HUGE_ARENA 2
#define KEPT_DIRTY_POOLS 512

struct hk_region hk_region;
static hk_lock init_lock;

static bool tables_init(size_t span)
{
    size_t arenas = span / HK_ARENA_SIZE;
    size_t pools_bytes = arenas * HK_ARENA_POOLS * sizeof(struct hk_pool);
    hk_region.pools = hk_os_reserve(pools_bytes, hk_os_page_size());
    hk_region.arenas = hk_os_map(arenas * sizeof(struct hk_arena));
    if (hk_region.pools != NULL && hk_region.arenas != NULL)
        return true;
    if (hk_region.pools != NULL)
        hk_os_unmap(hk_region.pools, pools_bytes);
    if (hk_region.arenas != NULL)
        hk_os_unmap(hk_region.arenas, arenas * sizeof(struct hk_arena));
    return false;
}

static bool region_reserve(void)
{
    size_t span = DEFAULT_SPAN;
    while (span < 2 * hk_os_physical_memory())
        span *= 2;
    while (span > hk_os_address_limit() / 4) /* the rest is for stacks, files, the C allocator */
        span /= 2;
    for (; span >= MINIMUM_SPAN; span /= 2) {
        char *base = hk_os_reserve(span, HK_ARENA_SIZE);
        if (base == NULL)
            continue;
        if (tables_init(span)) {
            hk_region.base = base;
            hk_region.arena_limit = (uint32_t)(span / HK_ARENA_SIZE);
            __atomic_store_n(&hk_region.span, span, __ATOMIC_RELEASE);
            return true;
        }
        hk_os_unmap(base, span);
    }
    return false;
}

bool hk_region_init(void)
{
    hk_lock_take(&init_lock);
    bool good = hk_region.span != 0 || region_reserve();
    hk_lock_release(&init_lock);
    return good;
}

bool hk_region_shrink(size_t spare)
{
    hk_lock_take(&hk_region.lock);
    uint32_t keep = hk_region.arena_next + (uint32_t)(spare / HK_ARENA_SIZE);
    bool shrunk = hk_region.span != 0 && keep < hk_region.arena_limit;
    if (shrunk) {
        size_t span = (size_t)keep * HK_ARENA_SIZE, old = hk_region.span;
        size_t kept_pools = (size_t)keep * HK_ARENA_POOLS, old_pools = (size_t)hk_region.arena_limit * HK_ARENA_POOLS;
        hk_region.arena_limit = keep;
        hk_region.span = span;
        hk_os_unmap(hk_region.base + span, old - span);
        hk_os_unmap(hk_region.pools + kept_pools, (old_pools - kept_pools) * sizeof(struct hk_pool));
    }
    hk_lock_release(&hk_region.lock);
    return shrunk;
}

/* An arena that no heap has: a freed one, or the next one, committed. The region's lock is held. */
static struct hk_arena *arena_find(void)
{
    struct hk_arena *arena = hk_region.freed;
    if (arena != NULL) {
        hk_region.freed = arena->next;
        return arena;
    }
    if (hk_region.arena_next >= hk_region.arena_limit)
        return NULL;
    uint32_t index = hk_region.arena_next;
    if (!hk_os_commit(hk_region.pools + (size_t)index * HK_ARENA_POOLS, HK_ARENA_POOLS * sizeof(struct hk_pool)) ||
        !hk_os_commit(hk_region.base + (size_t)index * HK_ARENA_SIZE, HK_ARENA_SIZE))
        return NULL;
    hk_region.arena_next = index + 1;
    return &hk_region.arenas[index];
}

struct hk_arena *hk_arena_take(hk_heap *heap)
{
    hk_lock_take(&hk_region.lock);
    struct hk_arena *arena = arena_find();
    hk_lock_release(&hk_region.lock);
    if (arena == NULL)
        return NULL;

    size_t index = (size_t)(arena - hk_region.arenas);
    char *start = hk_region.base + index * HK_ARENA_SIZE;
    arena->heap = heap;
    arena->empty = UINT64_MAX;
    arena->dirty = 0;
    arena->number = heap->arena_count++;
    arena->huge = arena->number >= FIRST_HUGE_ARENA && !heap->is_watched;
    hk_os_huge_pages(start, HK_ARENA_SIZE, arena->huge);
    for (size_t i = 0; i < HK_ARENA_POOLS; i++) {
        struct hk_pool *pool = &hk_region.pools[index * HK_ARENA_POOLS + i];
        memset(pool, 0, sizeof(*pool));
        pool->heap = heap;
        pool->place = HK_PLACE_EMPTY;
    }

    struct hk_arena **link = &heap->arenas;
    while (*link != NULL && *link < arena)
        link = &(*link)->next;
    arena->next = *link;
    *link = arena;
    if (heap->maybe_empty == NULL || arena < heap->maybe_empty)
        heap->maybe_empty = arena;
    return arena;
}

struct hk_pool *hk_pool_take_empty(hk_heap *heap)
{
    struct hk_arena *arena = heap->maybe_empty;
    while (arena != NULL && arena->empty == 0)
        arena = arena->next;
    heap->maybe_empty = arena;
    if (arena == NULL && (arena = hk_arena_take(heap)) == NULL)
        return NULL;

    unsigned bit = (unsigned)__builtin_ctzll(arena->empty);
    arena->empty &= ~((uint64_t)1 << bit);
    if (arena->dirty & ((uint64_t)1 << bit)) {
        arena->dirty &= ~((uint64_t)1 << bit);
        heap->dirty_pools--;
    }
    heap->used_pools++;
    return &hk_region.pools[(size_t)(arena - hk_region.arenas) * HK_ARENA_POOLS + bit];
}

void hk_pool_put_empty(struct hk_pool *pool)
{
    hk_heap *heap = pool->heap;
    struct hk_arena *arena = hk_arena_of(pool);
    uint64_t bit = (uint64_t)1 << ((size_t)(pool - hk_region.pools) % HK_ARENA_POOLS);
    pool->place = HK_PLACE_EMPTY;
    pool->free = pool->locked_free = NULL;
    pool->used = 0;
    pool->allocations = 0;
    pool->block_size = 0;
    pool->carved = 0;
    pool->capacity = 0;
    arena->empty |= bit;
    arena->dirty |= bit;
    heap->used_pools--;
    heap->dirty_pools++;
    if (heap->maybe_empty == NULL || arena < heap->maybe_empty)
        heap->maybe_empty = arena;
    uint32_t limit = KEPT_DIRTY_POOLS + heap->used_pools / 2;
    if (heap->dirty_pools > limit)
        hk_heap_discard(heap, limit / 2);
}

/* Gives back the arena's dirty pools from the highest down, in runs, until `count` of them are gone. */
static uint32_t arena_discard(struct hk_arena *arena, uint32_t count)
{
    char *start = hk_region.base + (size_t)(arena - hk_region.arenas) * HK_ARENA_SIZE;
    uint32_t done = 0;
    if (arena->dirty != 0 && arena->huge) {
        arena->huge = false;
        hk_os_huge_pages(start, HK_ARENA_SIZE, false);
    }
    while (arena->dirty != 0 && done < count) {
        unsigned high = 63 - (unsigned)__builtin_clzll(arena->dirty);
        unsigned low = high;
        while (low > 0 && done + (high - low) + 1 < count && (arena->dirty >> (low - 1) & 1))
            low--;
        unsigned length = high - low + 1;
        uint64_t run = (length == 64 ? UINT64_MAX : (((uint64_t)1 << length) - 1)) << low;
        arena->dirty &= ~run;
        hk_os_discard(start + (size_t)low * HK_POOL_SIZE, length * HK_POOL_SIZE);
        done += length;
    }
    return done;
}

/* Highest arenas first; the list runs the other way, so it is gone through by number of what is left to keep. */
size_t hk_heap_discard(hk_heap *heap, uint32_t keep_dirty)
{
    size_t total = 0;
    uint32_t seen = 0;
    for (struct hk_arena *arena = heap->arenas; arena != NULL; arena = arena->next) {
        uint32_t dirty = (uint32_t)__builtin_popcountll(arena->dirty);
        uint32_t keep = seen >= keep_dirty ? 0 : keep_dirty - seen;
        if (dirty > keep)
            total += arena_discard(arena, dirty - keep);
        seen += dirty < keep ? dirty : keep;
    }
    heap->dirty_pools -= (uint32_t)total;
    return total * HK_POOL_SIZE;
}
