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
 * Huge pages: a heap's first 16 MiB are marked against them (a system may have them on for all, and a small program
 * would pay 15 MB), later arenas are taken by twos, which are one huge page, and ask for it. Such a page is given back
 * whole where it can be, and stays marked for them; before a part of it is given back it is marked against
 * them for good, or khugepaged fills the hole again.
 */
#include "heap/pool.h"

#include <string.h>

#define MINIMUM_SPAN ((size_t)64 << 20)
#define DEFAULT_SPAN ((size_t)64 << 30)
#define HUGE_PAGE ((size_t)2 << 20)
#define HUGE_ARENAS (uint32_t)(HUGE_PAGE / HK_ARENA_SIZE) /* arenas to a huge page */
#define FIRST_HUGE_ARENA (uint32_t)(((size_t)16 << 20) / HK_ARENA_SIZE)
#define KEPT_DIRTY_POOLS (uint32_t)(((size_t)32 << 20) / HK_POOL_SIZE)

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
        char *base = hk_os_reserve(span, HUGE_PAGE);
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
    size_t keep = hk_region.arena_next + spare / HK_ARENA_SIZE; /* `spare` may be all but unlimited */
    bool shrunk = hk_region.span != 0 && keep < hk_region.arena_limit;
    if (shrunk) {
        size_t span = keep * HK_ARENA_SIZE, old = hk_region.span;
        size_t kept_pools = keep * HK_ARENA_POOLS, old_pools = (size_t)hk_region.arena_limit * HK_ARENA_POOLS;
        hk_region.arena_limit = (uint32_t)keep;
        hk_region.span = span;
        hk_os_unmap(hk_region.base + span, old - span);
        hk_os_unmap(hk_region.pools + kept_pools, (old_pools - kept_pools) * sizeof(struct hk_pool));
    }
    hk_lock_release(&hk_region.lock);
    return shrunk;
}

/* Arenas [index, index + count) can be read and written. */
static bool arenas_commit(uint32_t index, uint32_t count)
{
    return hk_os_commit(hk_region.pools + (size_t)index * HK_ARENA_POOLS,
                        (size_t)count * HK_ARENA_POOLS * sizeof(struct hk_pool)) &&
           hk_os_commit(hk_region.base + (size_t)index * HK_ARENA_SIZE, (size_t)count * HK_ARENA_SIZE);
}

static void arena_put_freed(struct hk_arena *arena)
{
    arena->heap = NULL;
    arena->next = hk_region.freed;
    hk_region.freed = arena;
}

/* The next `count` arenas that were never used, aligned to their number; NULL: none left. The lock is held. */
static struct hk_arena *arenas_next(uint32_t count)
{
    while (hk_region.arena_next % count != 0 && hk_region.arena_next < hk_region.arena_limit) {
        if (arenas_commit(hk_region.arena_next, 1))
            arena_put_freed(&hk_region.arenas[hk_region.arena_next]);
        hk_region.arena_next++;
    }
    uint32_t index = hk_region.arena_next;
    if (index + count > hk_region.arena_limit || !arenas_commit(index, count))
        return NULL;
    hk_region.arena_next = index + count;
    return &hk_region.arenas[index];
}

static void arena_init(hk_heap *heap, struct hk_arena *arena, bool huge)
{
    size_t first = (size_t)(arena - hk_region.arenas) * HK_ARENA_POOLS;
    arena->heap = heap;
    arena->empty = UINT64_MAX;
    arena->dirty = 0;
    arena->number = heap->arena_count++;
    arena->huge = huge;
    for (size_t i = 0; i < HK_ARENA_POOLS; i++) {
        struct hk_pool *pool = &hk_region.pools[first + i];
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
}

/* Adds arenas to the heap: one, or the two of a huge page. False: no memory. */
static bool arenas_take(hk_heap *heap)
{
    bool huge = heap->arena_count >= FIRST_HUGE_ARENA && !heap->is_watched;
    uint32_t count = huge ? HUGE_ARENAS : 1;
    hk_lock_take(&hk_region.lock);
    struct hk_arena *arenas = NULL;
    if (!huge && hk_region.freed != NULL) {
        arenas = hk_region.freed;
        hk_region.freed = arenas->next;
    } else {
        arenas = arenas_next(count);
    }
    if (arenas == NULL && hk_region.freed != NULL) {
        arenas = hk_region.freed;
        hk_region.freed = arenas->next;
        huge = false;
        count = 1;
    }
    hk_lock_release(&hk_region.lock);
    if (arenas == NULL)
        return false;
    hk_os_huge_pages(hk_region.base + (size_t)(arenas - hk_region.arenas) * HK_ARENA_SIZE, count * HK_ARENA_SIZE, huge);
    for (uint32_t i = 0; i < count; i++)
        arena_init(heap, &arenas[i], huge);
    return true;
}

void hk_arenas_give_up(hk_heap *heap)
{
    hk_lock_take(&hk_region.lock);
    while (heap->arenas != NULL) {
        struct hk_arena *arena = heap->arenas;
        heap->arenas = arena->next;
        hk_os_discard(hk_region.base + (size_t)(arena - hk_region.arenas) * HK_ARENA_SIZE, HK_ARENA_SIZE);
        arena_put_freed(arena);
    }
    hk_lock_release(&hk_region.lock);
}

struct hk_pool *hk_pool_take_empty(hk_heap *heap)
{
    struct hk_arena *arena = heap->maybe_empty;
    while (arena != NULL && arena->empty == 0)
        arena = arena->next;
    heap->maybe_empty = arena;
    if (arena == NULL) {
        if (!arenas_take(heap))
            return NULL;
        arena = heap->maybe_empty;
    }

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
    pool->free = pool->other_free = NULL;
    pool->used = 0;
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

static char *arena_start(const struct hk_arena *arena)
{
    return hk_region.base + (size_t)(arena - hk_region.arenas) * HK_ARENA_SIZE;
}

/* If all of the huge page that the arena is a part of is empty: gives it back whole. Returns pools given back. */
static uint32_t huge_page_discard(struct hk_arena *arena)
{
    struct hk_arena *first = arena - (size_t)(arena - hk_region.arenas) % HUGE_ARENAS;
    uint32_t dirty = 0;
    for (uint32_t i = 0; i < HUGE_ARENAS; i++)
        if (first[i].heap != arena->heap || first[i].empty != UINT64_MAX || !first[i].huge)
            return 0;
    for (uint32_t i = 0; i < HUGE_ARENAS; i++) {
        dirty += (uint32_t)__builtin_popcountll(first[i].dirty);
        first[i].dirty = 0;
    }
    hk_os_discard(arena_start(first), HUGE_PAGE);
    return dirty;
}

/* Marks the huge page that the arena is a part of against being one, for good. */
static void huge_page_give_up(struct hk_arena *arena)
{
    struct hk_arena *first = arena - (size_t)(arena - hk_region.arenas) % HUGE_ARENAS;
    for (uint32_t i = 0; i < HUGE_ARENAS; i++)
        first[i].huge = false;
    hk_os_huge_pages(arena_start(first), HUGE_PAGE, false);
}

/* Gives back the arena's dirty pools from the highest down, in runs, until `count` of them are gone. */
static uint32_t arena_discard(struct hk_arena *arena, uint32_t count)
{
    char *start = arena_start(arena);
    uint32_t done = 0;
    if (arena->huge && (done = huge_page_discard(arena)) > 0)
        return done;
    if (arena->huge)
        huge_page_give_up(arena);
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
