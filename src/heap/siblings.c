/* What two siblings may have in memory: heaps under the same host's lock (CPython's MEM and OBJECT), and the C allocator's heap that
 * their large blocks are in. While they are small, all three together have about as much as they needed at any one time.
 *
 *      pools     in memory: used ones, and empty ones with pages
 *      C heap    in memory: what it grew by until it is trimmed; from then on its large blocks, and what they or it grow by
 *      the most  of pools, and of pools and C heap together, ever. It rises only where nothing of what follows helps
 *
 * Where a heap takes a pool without pages, and they would have more than the most:
 *      1. current pools whose blocks were all freed are empty ones: a list that grows leaves one in each class
 *      2. the sibling's empty pools give their pages back
 *      3. the C heap is trimmed: what large blocks left lies between others
 * And where large blocks grow: empty pools give their pages back.
 *
 * Pages that were given back and are needed again are faulted in again. Where pools and large blocks take turns, that is so in each
 * turn. So it must be worth while, more so where they do not grow; and not more is given back than they have grown by: each page is
 * faulted in twice at most.
 */
#include "heap/pool.h"

#include <unistd.h>

enum {
    GIVEN_POOLS = 4, /* at a time */
    SMALL = 8 << 20, /* a program as large, or as small: what its start left counts more */
    LEAST = 128 << 10,
    PART = 8, /* of what they have in memory, or what is beyond SMALL of it, is worth while: */
    GROWING_MOST = 1 << 20,  /* where they grow */
    GIVEN_MOST = 5 << 18,    /* where large blocks grow */
    IN_TURNS_MOST = 3 << 19, /* where pools and large blocks take turns */
    PAD_PART = 4, /* of what is worth while, left at the C heap's end */
};

static uint32_t pools_in_memory(const hk_heap *first)
{
    const hk_heap *other = first->sibling;
    return first->used_pools + first->dirty_pools + first->staying_pools + other->used_pools + other->dirty_pools + other->staying_pools;
}

/* The one that keeps what both share. */
static hk_heap *first_sibling(hk_heap *heap)
{
    return heap < heap->sibling ? heap : heap->sibling;
}

static int64_t large_bytes(const hk_heap *first)
{
    return __atomic_load_n(&first->large_bytes, __ATOMIC_RELAXED) + __atomic_load_n(&first->sibling->large_bytes, __ATOMIC_RELAXED);
}

/* By how much the C heap's end moved since this was asked last. */
static int64_t c_heap_growth(void)
{
    static uintptr_t seen;
    uintptr_t end = (uintptr_t)sbrk(0), before = seen != 0 ? seen : end;
    seen = end;
    return (int64_t)(end - before);
}

/* Of so many pools, and the C heap. */
static int64_t in_memory(hk_heap *first, uint32_t pools)
{
    int64_t large = large_bytes(first);
    first->c_heap += c_heap_growth();
    first->c_heap = large > first->c_heap ? large : first->c_heap;
    return (int64_t)pools * (int64_t)HK_POOL_SIZE + first->c_heap;
}

/* At most so many of the heap's empty pools. Returns the bytes. */
static int64_t give(hk_heap *first, hk_heap *heap, int64_t pools)
{
    int64_t dirty = heap->dirty_pools;
    if (dirty == 0 || pools <= 0 || first->give_back_most <= 0)
        return 0;
    int64_t given = (int64_t)hk_heap_discard(heap, (uint32_t)(dirty > pools ? dirty - pools : 0));
    first->give_back_most -= given;
    return given;
}

static void raise_most(hk_heap *first, int64_t total)
{
    first->give_back_most += total - first->in_memory_most;
    first->in_memory_most = total;
}

static int64_t between(int64_t least, int64_t value, int64_t most)
{
    return value < least ? least : value > most ? most : value;
}

static bool trim_c_heap(hk_heap *first, int64_t total)
{
    int64_t growing = between(LEAST, (total - SMALL) / PART, GROWING_MOST), in_turns = between(LEAST, total / PART, IN_TURNS_MOST);
    int64_t free = first->c_heap - large_bytes(first);
    bool grows = total - free >= first->trimmed_at + growing;
    if (free < (grows ? growing : in_turns) || first->give_back_most <= 0)
        return false;
    first->trimmed_at = total - free > first->trimmed_at ? total - free : first->trimmed_at;
    first->give_back_most -= free;
    first->c_heap -= free;
    hk_libc.trim((size_t)growing / PAD_PART);
    c_heap_growth();
    return true;
}

/* True: the heap has one of them now. */
static bool retire_idle(hk_heap *first, hk_heap *heap, uint32_t pools)
{
    if (pools < first->idle_looked_at)
        return false;
    uint32_t own = hk_heap_retire_idle(heap);
    if (own + hk_heap_retire_idle(heap->sibling) == 0)
        first->idle_looked_at = pools + GIVEN_POOLS;
    return own != 0;
}

bool hk_siblings_make_room(hk_heap *heap)
{
    hk_heap *first = first_sibling(heap);
    uint32_t pools = pools_in_memory(first) + 1;
    int64_t total = in_memory(first, pools);
    if (pools > first->most_pools) {
        if (retire_idle(first, heap, pools))
            return true;
        if (heap->sibling->dirty_pools >= GIVEN_POOLS && give(first, heap->sibling, GIVEN_POOLS) != 0)
            return false;
        first->most_pools = pools;
    }
    if (total > first->in_memory_most && !trim_c_heap(first, total))
        raise_most(first, total);
    return false;
}

void hk_siblings_large_grew(hk_heap *heap)
{
    hk_heap *first = first_sibling(heap);
    int64_t total = in_memory(first, pools_in_memory(first)), more = total - first->in_memory_most;
    if (more < between(LEAST, total / PART, GIVEN_MOST) || heap->arena_count + heap->sibling->arena_count > HK_SMALL_ARENAS)
        return;
    more -= give(first, heap->sibling, more / (int64_t)HK_POOL_SIZE);
    more -= give(first, heap, more / (int64_t)HK_POOL_SIZE);
    if (more > 0)
        raise_most(first, first->in_memory_most + more);
}

void hk_siblings_large_left(hk_heap *heap, size_t bytes)
{
    hk_heap *first = first_sibling(heap);
    first->c_heap -= (int64_t)bytes;
    in_memory(first, 0);
}
