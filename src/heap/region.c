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
 * Siblings are heaps under the same host's lock (CPython's MEM and OBJECT). While they are small, one that needs a pool takes any that
 * is in memory before one that is not: its own, or an empty one of the other's, with its arena if that is empty. What both may have
 * in memory is in siblings.c.
 *
 * Huge pages: a heap's first 48 MiB (a runtime's: 4) are marked against them (a system may have them on for all, and a small program
 * would pay 15 MB; a page of them more is 4 % of such a heap), later arenas are taken by twos, which are one huge page, and ask for it. Such a page is given back
 * whole where it can be, and stays marked for them; before a part of it is given back it is marked against
 * them for good, or khugepaged fills the hole again.
 */
#include "heap/pool.h"
#include "heap/slots.h"

#include <string.h>

#define MINIMUM_SPAN ((size_t)64 << 20)
#define DEFAULT_SPAN ((size_t)64 << 30)
#define HUGE_PAGE ((size_t)2 << 20)
#define HUGE_ARENAS (uint32_t)(HUGE_PAGE / HK_ARENA_SIZE) /* arenas to a huge page */
#define KEPT_DIRTY_POOLS (uint32_t)(((size_t)32 << 20) / HK_POOL_SIZE)
#define LENT_POOLS 32u

struct hk_region hk_region;
static hk_lock init_lock;

/* The table of pools begins so many bytes after a huge page. Kernels align reservations of such sizes, so that the first pool and its
 * descriptor had the low 28 bits of their addresses in common. AMD's first-level cache finds a line by its low 12 bits and a hash
 * of bits 12 to 27 (Lipp et al., "Take A Way", 2020), so the two evicted each other: 21 ns instead of 8 for a pair of malloc
 * and free. Now it is a line at the end of some later pool that meets its own descriptor. */
static size_t pools_skew(void)
{
    return 255 * hk_os_page_size();
}

static bool tables_init(size_t span)
{
    size_t arenas = span / HK_ARENA_SIZE;
    size_t pools_bytes = arenas * HK_ARENA_POOLS * sizeof(struct hk_pool) + pools_skew();
    char *pools = hk_os_reserve_zero(pools_bytes, HUGE_PAGE); /* what was never used is HK_PLACE_NONE */
    hk_region.pools = (struct hk_pool *)(pools + pools_skew());
    hk_region.arenas = hk_os_reserve_zero(arenas * sizeof(struct hk_arena), hk_os_page_size());
    hk_region.arenas_writable = 0;
    hk_region.owners = hk_os_reserve_zero(arenas * HK_ARENA_POOLS * HK_OWNER_BYTES, hk_os_page_size());
    hk_region.classes = (uint8_t *)(hk_region.owners + arenas * HK_ARENA_POOLS);
    if (pools != NULL && hk_region.arenas != NULL && hk_region.owners != NULL)
        return true;
    if (pools != NULL)
        hk_os_unmap(pools, pools_bytes);
    if (hk_region.arenas != NULL)
        hk_os_unmap(hk_region.arenas, arenas * sizeof(struct hk_arena));
    if (hk_region.owners != NULL)
        hk_os_unmap(hk_region.owners, arenas * HK_ARENA_POOLS * HK_OWNER_BYTES);
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

/* Whole pages of the tables; they may have been made writable further than the arenas that are left. */
static void owners_shrink(size_t keep, size_t old)
{
    size_t page = hk_os_page_size(), from = (keep + page - 1) / page * page;
    if (from >= old)
        return;
    hk_os_unmap(hk_region.owners + from, (old - from) * sizeof(hk_heap *));
    hk_os_unmap(hk_region.classes + from, old - from);
    if (hk_region.owners_writable > from)
        hk_region.owners_writable = from;
}

size_t hk_region_used(void)
{
    return __atomic_load_n(&hk_region.arena_next, __ATOMIC_RELAXED) * HK_ARENA_SIZE;
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
        owners_shrink(kept_pools, old_pools);
        hk_slots_shrink((uint32_t)keep, (uint32_t)(old / HK_ARENA_SIZE));
    }
    hk_lock_release(&hk_region.lock);
    return shrunk;
}

/* The first so many of the table's entries can be written: whole pages of them. */
static bool entries_commit(uint32_t count)
{
    size_t page = hk_os_page_size(), from = hk_region.arenas_writable, to = (count * sizeof(struct hk_arena) + page - 1) & ~(page - 1);
    if (to <= from)
        return true;
    if (!hk_os_commit((char *)hk_region.arenas + from, to - from))
        return false;
    hk_region.arenas_writable = to;
    return true;
}

/* Arenas [index, index + count) can be read and written. */
static bool arenas_commit(uint32_t index, uint32_t count)
{
    return entries_commit(index + count) &&
           hk_os_commit(hk_region.pools + (size_t)index * HK_ARENA_POOLS,
                        (size_t)count * HK_ARENA_POOLS * sizeof(struct hk_pool)) &&
           hk_os_commit(hk_region.base + (size_t)index * HK_ARENA_SIZE, (size_t)count * HK_ARENA_SIZE) &&
           hk_slots_commit(index, count);
}

/* Bits `from` ... of at most `count` pools of one arena; `*n`: how many. */
static uint64_t bit_run(size_t from, uint32_t count, uint32_t *n)
{
    *n = count < HK_ARENA_POOLS - from ? count : (uint32_t)(HK_ARENA_POOLS - from);
    return (*n == 64 ? UINT64_MAX : ((uint64_t)1 << *n) - 1) << from;
}

/* Where the arena's dirty pools are counted. */
static uint32_t *dirty_count(hk_heap *heap, const struct hk_arena *arena)
{
    bool stays = arena->pages == HK_PAGES_HUGE || arena->pages == HK_PAGES_BUFFER;
    return stays ? &heap->staying_pools : &heap->dirty_pools;
}

/* Whoever still has a block of it has nobody's. */
static void arena_forget(struct hk_arena *arena)
{
    memset(hk_arena_first_pool(arena), 0, HK_ARENA_POOLS * sizeof(struct hk_pool));
    arena->heap = NULL;
}

static void arena_put_freed(struct hk_arena *arena)
{
    arena->freed = true;
    arena->previous = NULL;
    arena->next = hk_region.freed;
    if (arena->next != NULL)
        arena->next->previous = arena;
    hk_region.freed = arena;
    hk_region.freed_count++;
    hk_slots_discard((uint32_t)(arena - hk_region.arenas));
}

/* `count` neighbours that were never used, the first a multiple of `align`; NULL: none left. The lock is held. */
static struct hk_arena *arenas_next(uint32_t count, uint32_t align)
{
    while (hk_region.arena_next % align != 0 && hk_region.arena_next < hk_region.arena_limit) {
        if (arenas_commit(hk_region.arena_next, 1))
            arena_put_freed(&hk_region.arenas[hk_region.arena_next]);
        hk_region.arena_next++;
    }
    uint32_t index = hk_region.arena_next;
    if (index > hk_region.arena_limit || count > hk_region.arena_limit - index || !arenas_commit(index, count))
        return NULL;
    hk_region.arena_next = index + count;
    return &hk_region.arenas[index];
}

static void arenas_unlink_freed(struct hk_arena *first, uint32_t count)
{
    for (struct hk_arena *arena = first; arena < first + count; arena++) {
        if (arena->next != NULL)
            arena->next->previous = arena->previous;
        *(arena->previous != NULL ? &arena->previous->next : &hk_region.freed) = arena->next;
        arena->freed = false;
    }
    hk_region.freed_count -= count;
}

/* The same among those that heaps have left. */
static struct hk_arena *arenas_freed(uint32_t count, uint32_t align)
{
    if (hk_region.freed_count < count)
        return NULL;
    for (uint32_t i = 0; count > 1 && i + count <= hk_region.arena_next; i += align) {
        uint32_t n = 0;
        while (n < count && hk_region.arenas[i + n].freed)
            n++;
        if (n == count) {
            arenas_unlink_freed(&hk_region.arenas[i], count);
            return &hk_region.arenas[i];
        }
    }
    struct hk_arena *arena = count == 1 ? hk_region.freed : NULL;
    if (arena != NULL)
        arenas_unlink_freed(arena, 1);
    return arena;
}

static void arenas_number(hk_heap *heap)
{
    uint32_t number = 0;
    for (struct hk_arena *arena = heap->arenas; arena != NULL; arena = arena->next)
        arena->number = number++;
    heap->arena_count = number;
}

static void arena_init(hk_heap *heap, struct hk_arena *arena)
{
    arena->heap = heap;
    arena->empty = arena->pools == HK_ARENA_POOLS ? UINT64_MAX : ((uint64_t)1 << arena->pools) - 1;
    arena->dirty = 0;
    if (arena->pages == HK_PAGES_HUGE || arena->pages == HK_PAGES_BUFFER) {
        arena->dirty = arena->empty;
        heap->staying_pools += arena->pools;
    }
    arena->number = heap->arena_count++;
    struct hk_pool *pools = hk_arena_first_pool(arena);
    for (size_t i = 0; i < arena->pools; i++) { /* all else is zero: never used, or forgotten */
        pools[i].heap = heap;
        pools[i].place = HK_PLACE_EMPTY;
    }
    struct hk_arena **link = &heap->arenas;
    while (*link != NULL && *link < arena)
        link = &(*link)->next;
    arena->next = *link;
    *link = arena;
    if (heap->maybe_empty == NULL || arena < heap->maybe_empty)
        heap->maybe_empty = arena;
}

void hk_arenas_init(hk_heap *heap, struct hk_arena *arenas, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        arena_init(heap, &arenas[i]);
}

/* Arenas for a heap from the process's region, `*count` of them; where only one was wanted and two would have been one
 * huge page, one will do. NULL: no memory. */
static struct hk_arena *arenas_find(uint32_t wanted, uint32_t *count, bool *huge)
{
    uint32_t align = *huge ? HUGE_ARENAS : 1;
    hk_lock_take(&hk_region.lock);
    struct hk_arena *arenas = arenas_freed(*count, align);
    if (arenas == NULL)
        arenas = arenas_next(*count, align);
    if (arenas == NULL && *huge) {
        *huge = false;
        *count = wanted;
        arenas = arenas_freed(*count, 1);
    }
    hk_lock_release(&hk_region.lock);
    return arenas;
}

bool hk_arenas_take(hk_heap *heap, uint32_t wanted)
{
    if (heap->own_region != NULL)
        return false; /* a buffer has all that it will have */
    uint32_t from = heap->huge_from != 0 ? heap->huge_from : HK_SMALL_ARENAS;
    bool huge = heap->source == HK_SOURCE_HUGE_PAGES ||
                (heap->source == HK_SOURCE_SYSTEM && heap->arena_count >= from && !heap->is_watched);
    uint32_t count = huge ? (wanted + HUGE_ARENAS - 1) / HUGE_ARENAS * HUGE_ARENAS : wanted;
    if (!hk_limit_allows(heap, count * hk_arena_metadata(heap)))
        return false;
    struct hk_arena *arenas = arenas_find(wanted, &count, &huge);
    if (arenas == NULL)
        return false;
    bool lost = false;
    char *start = hk_region.base + (size_t)(arenas - hk_region.arenas) * HK_ARENA_SIZE;
    if ((heap->arenas_added != NULL && !heap->arenas_added(heap, start, count * HK_ARENA_SIZE)) ||
        !hk_source_map(heap, arenas, count, huge, &lost)) {
        hk_lock_take(&hk_region.lock);
        for (uint32_t i = 0; i < count && !lost; i++)
            arena_put_freed(&arenas[i]);
        hk_lock_release(&hk_region.lock);
        return false;
    }
    hk_arenas_init(heap, arenas, count);
    return true;
}

void hk_arenas_give_up(hk_heap *heap)
{
    if (heap->own_region != NULL)
        return;
    hk_lock_take(&hk_region.lock);
    while (heap->arenas != NULL) {
        struct hk_arena *arena = heap->arenas;
        heap->arenas = arena->next;
        arena_forget(arena);
        if (hk_source_unmap(arena))
            arena_put_freed(arena);
    }
    hk_lock_release(&hk_region.lock);
}

void hk_pools_claim(hk_heap *heap, struct hk_pool *first, uint32_t count)
{
    size_t index = (size_t)(first - hk_region_of(heap)->pools);
    heap->used_pools += count;
    for (uint32_t n; count > 0; index += n, count -= n) {
        struct hk_arena *arena = &hk_region_of(heap)->arenas[index / HK_ARENA_POOLS];
        uint64_t run = bit_run(index % HK_ARENA_POOLS, count, &n);
        uint32_t dirty = hk_bit_count(arena->dirty & run);
        arena->empty &= ~run;
        arena->dirty &= ~run;
        *dirty_count(heap, arena) -= dirty;
    }
}

void hk_pools_release(hk_heap *heap, struct hk_pool *first, uint32_t count)
{
    size_t index = (size_t)(first - hk_region_of(heap)->pools);
    struct hk_arena *lowest = &hk_region_of(heap)->arenas[index / HK_ARENA_POOLS];
    heap->used_pools -= count;
    for (uint32_t n; count > 0; index += n, count -= n) {
        struct hk_arena *arena = &hk_region_of(heap)->arenas[index / HK_ARENA_POOLS];
        uint64_t run = bit_run(index % HK_ARENA_POOLS, count, &n);
        arena->empty |= run;
        arena->dirty |= run;
        *dirty_count(heap, arena) += n;
    }
    if (heap->maybe_empty == NULL || lowest < heap->maybe_empty)
        heap->maybe_empty = lowest;
    uint32_t limit = KEPT_DIRTY_POOLS + heap->used_pools / 2;
    if (heap->dirty_pools > limit)
        hk_heap_discard(heap, limit / 2);
}

/* The first arena with an empty pool that is in memory; NULL: there is none. */
static struct hk_arena *dirty_arena(const hk_heap *heap)
{
    struct hk_arena *arena = heap->maybe_empty;
    while (arena != NULL && arena->dirty == 0)
        arena = arena->next;
    return arena;
}

/* Such a pool of that arena, claimed. */
static struct hk_pool *dirty_pool_of(hk_heap *heap, struct hk_arena *arena)
{
    if (arena == NULL)
        return NULL;
    struct hk_pool *pool = hk_arena_first_pool(arena) + __builtin_ctzll(arena->dirty);
    hk_pools_claim(heap, pool, 1);
    return pool;
}

/* An empty pool that is in memory, where growing may be refused: by a limit, or a full disk. NULL: none. */
static struct hk_pool *dirty_pool_take(hk_heap *heap)
{
    if (heap->dirty_pools == 0 || (hk_heap_limit(heap) == 0 && heap->source != HK_SOURCE_FILE))
        return NULL;
    return dirty_pool_of(heap, dirty_arena(heap));
}

/* Nothing is in the arena, and it can be anybody's; if it is part of a huge page, nothing is in all of that. */
static bool may_be_given(const struct hk_arena *arena)
{
    if (!arena->huge)
        return arena->empty == UINT64_MAX && arena->pages == HK_PAGES_ANONYMOUS;
    const struct hk_arena *first = arena - (size_t)(arena - hk_region.arenas) % HUGE_ARENAS;
    for (uint32_t i = 0; i < HUGE_ARENAS; i++)
        if (first[i].heap != arena->heap || first[i].empty != UINT64_MAX || first[i].pages != HK_PAGES_ANONYMOUS)
            return false;
    return true;
}

/* Statistics may be read meanwhile: they stop at an arena that is not the heap's any more. */
void hk_arenas_give_empty(hk_heap *heap)
{
    struct hk_arena *given = NULL, **link = &heap->arenas;
    if (heap->own_region != NULL)
        return;
    while (*link != NULL) {
        struct hk_arena *arena = *link;
        if (!may_be_given(arena)) {
            link = &arena->next;
            continue;
        }
        *link = arena->next;
        arena->next = given;
        given = arena;
    }
    arenas_number(heap);
    heap->maybe_empty = heap->arenas;
    hk_lock_take(&hk_region.lock);
    while (given != NULL) {
        struct hk_arena *arena = given;
        given = arena->next;
        heap->dirty_pools -= hk_bit_count(arena->dirty);
        arena_forget(arena);
        if (hk_source_unmap(arena))
            arena_put_freed(arena);
    }
    hk_lock_release(&hk_region.lock);
}

/* The highest empty arena most of whose pools are in memory; NULL: there is none. */
static struct hk_arena *arena_to_lend(const hk_heap *heap)
{
    struct hk_arena *found = NULL;
    if (heap->dirty_pools < LENT_POOLS || heap->arena_count > HK_SMALL_ARENAS)
        return NULL;
    for (struct hk_arena *arena = heap->arenas; arena != NULL; arena = arena->next)
        if (arena->empty == UINT64_MAX && !arena->huge && arena->pages == HK_PAGES_ANONYMOUS && hk_bit_count(arena->dirty) >= LENT_POOLS)
            found = arena;
    return found;
}

/* An empty arena goes from one sibling to the other. */
static void arena_lend(hk_heap *from, struct hk_arena *arena, hk_heap *to)
{
    uint64_t dirty = arena->dirty;
    uint32_t count = hk_bit_count(dirty);
    struct hk_arena **link = &from->arenas;
    while (*link != arena)
        link = &(*link)->next;
    *link = arena->next;
    from->maybe_empty = from->arenas;
    from->dirty_pools -= count;
    arenas_number(from);
    arena_init(to, arena);
    arena->dirty = dirty;
    to->dirty_pools += count;
    arenas_number(to);
}

/* Of two small siblings: a pool that is in memory. NULL: none, and there may be one more. */
static struct hk_pool *siblings_pool_take(hk_heap *heap)
{
    hk_heap *sibling = heap->sibling;
    if (sibling == NULL || heap->arena_count > HK_SMALL_ARENAS || hk_heap_limit(heap) != 0)
        return NULL;
    struct hk_arena *arena = dirty_arena(heap);
    if (arena == NULL && (arena = arena_to_lend(sibling)) != NULL)
        arena_lend(sibling, arena, heap);
    if (arena == NULL && hk_siblings_make_room(heap))
        arena = dirty_arena(heap);
    return dirty_pool_of(heap, arena);
}

/* The first empty pool has pages in memory. */
static bool first_is_dirty(const struct hk_arena *arena)
{
    return arena->dirty >> __builtin_ctzll(arena->empty) & 1;
}

struct hk_pool *hk_pool_take_empty(hk_heap *heap)
{
    struct hk_pool *pool = dirty_pool_take(heap);
    if (pool != NULL)
        return pool;
    struct hk_arena *arena = heap->maybe_empty;
    while (arena != NULL && arena->empty == 0)
        arena = arena->next;
    heap->maybe_empty = arena;
    if ((arena == NULL || !first_is_dirty(arena)) && (pool = siblings_pool_take(heap)) != NULL)
        return pool;
    if (arena == NULL) {
        if (!hk_arenas_take(heap, 1))
            return NULL;
        arena = heap->maybe_empty;
    }

    pool = hk_arena_first_pool(arena) + __builtin_ctzll(arena->empty);
    if (!first_is_dirty(arena) && (!hk_limit_allows(heap, HK_POOL_SIZE) || !hk_source_back(heap, hk_pool_start(pool), HK_POOL_SIZE)))
        return NULL;
    hk_pools_claim(heap, pool, 1);
    return pool;
}

void hk_pool_put_empty(struct hk_pool *pool)
{
    pool->place = HK_PLACE_EMPTY;
    pool->free = pool->other_free = NULL;
    pool->used = 0;
    pool->block_size = 0;
    pool->carved = 0;
    pool->capacity = 0;
    hk_pools_release(pool->heap, pool, 1);
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
    for (uint32_t i = 0; i < HUGE_ARENAS; i++)
        dirty += hk_bit_count(first[i].dirty);
    if (!hk_source_discard(first, arena_start(first), HUGE_PAGE))
        return 0;
    for (uint32_t i = 0; i < HUGE_ARENAS; i++)
        first[i].dirty = 0;
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

/* Gives back the arena's dirty pools from the highest down, in runs, until `count` of them are gone or the system
 * refuses: they stay dirty then. */
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
        if (!hk_source_discard(arena, start + (size_t)low * HK_POOL_SIZE, length * HK_POOL_SIZE))
            break;
        arena->dirty &= ~bit_run(low, length, &length);
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
        if (arena->pages == HK_PAGES_HUGE || arena->pages == HK_PAGES_BUFFER)
            continue;
        uint32_t dirty = hk_bit_count(arena->dirty);
        uint32_t keep = seen >= keep_dirty ? 0 : keep_dirty - seen;
        if (dirty > keep) {
            total += arena_discard(arena, dirty - keep);
            if (arena->empty == UINT64_MAX && arena->dirty == 0)
                hk_slots_discard((uint32_t)(arena - hk_region.arenas));
        }
        seen += dirty < keep ? dirty : keep;
    }
    heap->dirty_pools -= (uint32_t)total;
    return total * HK_POOL_SIZE;
}
