/* Walking a heap, and checking it.
 *
 * The rules, by the number that hk_heap_check returns:
 *   1  an arena belongs to the heap, arenas are in order of address and counted
 *   2  a pool of the heap says so, and is EMPTY exactly if its arena's bit says so; dirty pools are empty ones
 *   3  an EMPTY pool has no blocks
 *   4  a free list stays in its pool, hits blocks at their starts, below `carved`, each once
 *   5  free + allocated = carved: as many blocks on the list as the counts say
 *   6  a CURRENT pool is current[class]; a FULL one holds as many back as it has free ones, if any; a PARTIAL one some free, some allocated
 *   7  partial lists hold PARTIAL pools of their class, linked both ways, all of them
 *   8  used and dirty pools are counted
 *  10  a run is as long as it says: so many neighbours of the heap that are not empty and in no other use
 *   9  a pool's class is one that the heap uses, and a class that it does not use is served by the next that it does
 */
#include "heap/misuse.h"
#include "heap/threads.h"

#include <string.h>

#define BLOCKS_MAX (HK_POOL_SIZE / HK_STEP)

struct block_set {
    uint64_t bits[BLOCKS_MAX / 64];
};

/* Never 0, as it may become at any moment where threads allocate without the heap's lock. */
static uint32_t block_size_of(const struct hk_pool *pool)
{
    uint32_t size = __atomic_load_n(&pool->block_size, __ATOMIC_RELAXED);
    return size != 0 ? size : (uint32_t)HK_POOL_SIZE;
}

/* Marks the blocks of a list; returns their number, or -1 if the list is broken (rule 4). */
static int list_blocks(const struct hk_pool *pool, const void *list, struct block_set *set)
{
    const char *start = hk_pool_start(pool);
    size_t carved = pool->carved, size = block_size_of(pool);
    int count = 0;
    for (const void *block = list; block != NULL; block = *(void *const *)block) {
        size_t at = (size_t)((const char *)block - start);
        if (at >= carved || at % size != 0)
            return -1;
        size_t index = at / size;
        if (set->bits[index / 64] >> (index % 64) & 1)
            return -1;
        set->bits[index / 64] |= (uint64_t)1 << (index % 64);
        count++;
    }
    return count;
}

static int free_blocks(const struct hk_pool *pool, struct block_set *set)
{
    memset(set, 0, sizeof(*set));
    int count = list_blocks(pool, pool->free, set), other = list_blocks(pool, pool->other_free, set);
    return count < 0 || other < 0 ? -1 : count + other;
}

static void pool_visit(const hk_pool_info *info, const struct block_set *free_set, hk_visitor *visitor, void *argument)
{
    for (uint32_t i = 0; i < info->capacity; i++) {
        hk_block_state state = HK_BLOCK_ALLOCATED;
        if (i >= info->touched)
            state = HK_BLOCK_UNTOUCHED;
        else if (free_set->bits[i / 64] >> (i % 64) & 1)
            state = HK_BLOCK_FREE;
        visitor(info, (char *)info->start + (size_t)i * info->block_size, state, argument);
    }
}

/* What a visitor is shown of a pool. False: its free list is broken. */
static bool pool_describe(const struct hk_arena *arena, const struct hk_pool *pool, hk_pool_info *info, struct block_set *free_set)
{
    *info = (hk_pool_info){.start = hk_pool_start(pool), .size = HK_POOL_SIZE, .arena = arena->number};
    memset(free_set, 0, sizeof(*free_set));
    if (pool->place == HK_PLACE_RUN) {
        info->size = info->block_size = hk_pool_block_bytes(pool);
        info->capacity = info->allocated = info->touched = 1;
        info->state = HK_POOL_FULL;
    } else if (pool->place >= HK_PLACE_CURRENT) {
        uint32_t size = block_size_of(pool), allocated = hk_pool_allocated(pool), touched = pool->carved / size;
        info->block_size = size;
        info->capacity = (uint32_t)HK_POOL_SIZE / size;
        info->touched = touched < info->capacity ? touched : info->capacity;
        info->allocated = allocated < info->touched ? allocated : info->touched;
        info->state = info->allocated == info->capacity ? HK_POOL_FULL : HK_POOL_USED;
        return free_blocks(pool, free_set) >= 0;
    }
    return true;
}

/* A pool is described under the heap's lock and shown without, so that the visitor may use the heap. */
void hk_heap_visit(hk_heap *heap, hk_visitor *visitor, void *argument)
{
    hk_pool_info info;
    struct block_set free_set;
    if (!hk_is_heap(heap, "hk_heap_visit"))
        return;
    if (visitor == NULL) {
        hk_misuse(NULL, "hk_heap_visit: the visitor is NULL");
        return;
    }
    hk_heap_take(heap);
    size_t inside = 0; /* pools left of a run, which is shown as one pool */
    for (struct hk_arena *arena = heap->arenas; arena != NULL && arena->heap == heap; arena = arena->next) {
        for (int i = 0; i < arena->pools && arena->heap == heap; i++) {
            if (inside > 0) {
                inside--;
                continue;
            }
            bool good = pool_describe(arena, &hk_arena_first_pool(arena)[i], &info, &free_set);
            inside = info.size / HK_POOL_SIZE - 1;
            hk_heap_release(heap);
            if (visitor(&info, NULL, HK_BLOCK_UNTOUCHED, argument) && good)
                pool_visit(&info, &free_set, visitor, argument);
            if (heap->magic != HK_HEAP_LIVE) {
                hk_misuse(heap, "hk_heap_visit: the visitor destroyed the heap");
                return;
            }
            hk_heap_take(heap);
        }
    }
    hk_heap_release(heap);
}

static bool is_frozen(const hk_heap *heap)
{
    return heap->mode == HK_LOCK_MEMBER && heap->state == HK_MEMBER_FROZEN;
}

/* The heap of a pool with blocks is the heap that has its arena, or a thread's member of that. */
static bool is_part_of(const hk_heap *heap, const hk_heap *whole)
{
    return whole->mode == HK_LOCK_THREADS ? heap->facade == whole : heap == whole;
}

static int pool_check(const hk_heap *whole, const struct hk_pool *pool, bool empty)
{
    const hk_heap *heap = pool->heap;
    if (empty ? heap != whole : !is_part_of(heap, whole))
        return 2;
    if (is_frozen(heap)) /* in the midst of a change, perhaps */
        return 0;
    if ((pool->place == HK_PLACE_EMPTY) != empty)
        return 2;
    if (empty)
        return pool->free != NULL || pool->other_free != NULL || pool->carved != 0 || pool->used != 0 ? 3 : 0;
    struct block_set free_set;
    int count = free_blocks(pool, &free_set);
    if (count < 0)
        return 4;
    if (pool->place == HK_PLACE_CURRENT && pool->used > HK_CURRENT)
        return 5;
    if (pool->size_class == 0 || pool->size_class >= HK_CLASSES ||
        (uint32_t)count + hk_pool_allocated(pool) != pool->carved / block_size_of(pool))
        return 5;
    if (pool->size_class % hk_class_step(heap) != 0 || pool->block_size != hk_class_size[pool->size_class])
        return 9;
    if ((pool->place == HK_PLACE_CURRENT) != (heap->current[pool->size_class] == pool))
        return 6;
    if (pool->place == HK_PLACE_FULL && (pool->held == 0) != (count == 0))
        return 6;
    if (pool->place != HK_PLACE_FULL && pool->held != 0)
        return 6;
    if (pool->place == HK_PLACE_PARTIAL && (count == 0 || hk_pool_allocated(pool) == 0))
        return 6;
    return 0;
}

/* The first of a run, or inside one, of which `*inside` pools are left. -1: neither. */
static int run_check(const hk_heap *heap, const struct hk_pool *pool, bool empty, uint32_t *inside)
{
    if (*inside > 0) {
        --*inside;
        return pool->heap != heap || pool->place != HK_PLACE_EMPTY || empty ? 10 : 0;
    }
    if (pool->place != HK_PLACE_RUN)
        return -1;
    *inside = pool->used_before - 1;
    return pool->heap != heap || pool->used_before == 0 || pool->used != 0 || pool->capacity != 1 ||
                   pool->free != NULL || pool->other_free != NULL || empty
               ? 10
               : 0;
}

static int arenas_check(const hk_heap *heap, uint32_t *partial)
{
    uint32_t arenas = 0, used = 0, dirty = 0, staying = 0, inside = 0;
    for (const struct hk_arena *arena = heap->arenas; arena != NULL; arena = arena->next) {
        if (arena->heap != heap || (arena->next != NULL && arena->next <= arena))
            return 1;
        if (arena->dirty & ~arena->empty)
            return 2;
        if (arena->pools == 0 || arena->pools > HK_ARENA_POOLS || arena->freed)
            return 1;
        bool stays = arena->pages == HK_PAGES_HUGE || arena->pages == HK_PAGES_BUFFER;
        const struct hk_pool *pools = hk_arena_first_pool(arena);
        for (int i = 0; i < arena->pools; i++) {
            bool empty = arena->empty >> i & 1;
            int broken = run_check(heap, &pools[i], empty, &inside);
            if (broken < 0)
                broken = pool_check(heap, &pools[i], empty);
            if (broken)
                return broken;
            *partial += pools[i].place == HK_PLACE_PARTIAL && !is_frozen(pools[i].heap);
        }
        arenas++;
        used += arena->pools - hk_bit_count(arena->empty);
        *(stays ? &staying : &dirty) += hk_bit_count(arena->dirty);
        if (inside > 0 && arena->next != arena + 1)
            return 10;
    }
    if (arenas != heap->arena_count)
        return 1;
    return used != heap->used_pools || dirty != heap->dirty_pools || staying != heap->staying_pools ? 8 : 0;
}

/* Counts the pools in the heap's lists off `partial`. */
static int lists_check(const hk_heap *heap, uint32_t *partial)
{
    for (unsigned i = 1; i < HK_CLASSES; i++) {
        const struct hk_pool *previous = NULL;
        if (i % hk_class_step(heap) != 0 && heap->current[i] != heap->current[i + 1])
            return 9;
        for (const struct hk_pool *pool = heap->partial[i]; pool != NULL; pool = pool->next) {
            if (pool->place != HK_PLACE_PARTIAL || pool->size_class != i || pool->previous != previous ||
                pool->heap != heap || *partial == 0)
                return 7;
            previous = pool;
            --*partial;
        }
    }
    return 0;
}

static int heap_check(const hk_heap *heap)
{
    uint32_t partial = 0;
    int broken = arenas_check(heap, &partial);
    if (broken == 0)
        broken = lists_check(heap, &partial);
    for (const hk_heap *member = hk_threads_members(heap); member != NULL && broken == 0; member = member->next_member)
        if (!is_frozen(member))
            broken = lists_check(member, &partial);
    if (broken)
        return broken;
    return partial != 0 ? 7 : 0;
}

int hk_heap_check(hk_heap *heap)
{
    if (heap == NULL) {
        int first = 0;
        struct hk_heap_cursor cursor = {0};
        for (hk_heap *each; first == 0 && (each = hk_heap_next(&cursor)) != NULL;)
            first = hk_heap_check(each);
        return first;
    }
    if (!hk_is_heap(heap, "hk_heap_check"))
        return -1;
    hk_heap_take(heap);
    int broken = heap_check(heap);
    hk_heap_release(heap);
    return broken;
}
