/* Large blocks: the C allocator's, counted by what they can hold; or, of a heap that asks it for nothing, runs of the heap's own
 * pools (runs.c). Counters of a heap that any thread may use without a lock for it are atomic; a heap under the host's lock,
 * and a thread's member, pay only plain stores.
 *
 * A block of the C allocator that was never ours may come to be freed here, too (a program that mixes malloc and
 * PyMem_Free). Where it is smaller than any of ours it is known for what it is, and not counted. */
#include "heap/threads.h"

static bool small_ones_exist; /* large blocks in name only: the region was full, or the alignment too large */

static bool is_foreign(size_t usable)
{
    return usable <= HK_BLOCK_MAX && !__atomic_load_n(&small_ones_exist, __ATOMIC_RELAXED);
}

static void large_add(hk_heap *heap, int64_t bytes, int64_t blocks)
{
    if (heap->mode == HK_LOCK_HOST || heap->mode == HK_LOCK_MEMBER) {
        __atomic_store_n(&heap->large_bytes, heap->large_bytes + bytes, __ATOMIC_RELAXED);
        __atomic_store_n(&heap->large_blocks, heap->large_blocks + blocks, __ATOMIC_RELAXED);
    } else {
        __atomic_add_fetch(&heap->large_bytes, bytes, __ATOMIC_RELAXED);
        __atomic_add_fetch(&heap->large_blocks, blocks, __ATOMIC_RELAXED);
    }
}

void hk_large_count(hk_heap *heap, size_t usable, int sign)
{
    if (usable <= HK_BLOCK_MAX)
        __atomic_store_n(&small_ones_exist, true, __ATOMIC_RELAXED);
    large_add(heap, sign * (int64_t)usable, sign);
}

void hk_large_forget(const void *block)
{
    if (hk_recorder.table_size != NULL && hk_recorder.table_size() != 0)
        hk_recorder.free(block);
}

void hk_large_free(hk_heap *heap, void *block)
{
    if (block == NULL)
        return;
    size_t usable = hk_libc.usable_size(block);
    if (is_foreign(usable)) {
        if (hk_recorder.foreign != NULL)
            hk_recorder.foreign();
    } else {
        hk_large_forget(block);
        hk_large_count(heap, usable, -1);
    }
    hk_libc.free(block);
}

/* A large block of the heap's own pools. */
static void *run_malloc(hk_heap *heap, size_t alignment, size_t size)
{
    hk_heap *whole = hk_heap_whole(heap);
    void *run = NULL;
    for (int attempt = 0; run == NULL && (attempt == 0 || (attempt == 1 && hk_heap_reclaim(heap))); attempt++) {
        if (whole != heap)
            hk_lock_take(&whole->lock);
        run = hk_run_malloc(whole, alignment, size);
        if (whole != heap)
            hk_lock_release(&whole->lock);
    }
    return run;
}

/* The limit has room for a large block of the C allocator. */
static bool is_large_allowed(hk_heap *heap, size_t size)
{
    hk_heap *whole = hk_heap_whole(heap);
    if (whole->limit == 0)
        return true;
    if (whole != heap)
        hk_lock_take(&whole->lock);
    bool allowed = hk_limit_allows(whole, size);
    if (whole != heap)
        hk_lock_release(&whole->lock);
    return allowed;
}

/* From the C allocator, or of a heap that asks it for nothing: from its own pools. */
void *hk_large_malloc(hk_heap *heap, size_t size)
{
    if (hk_heap_whole(heap)->is_closed)
        return run_malloc(heap, HK_POOL_SIZE, size);
    void *block = is_large_allowed(heap, size) ? hk_libc.malloc(size) : NULL;
    if (block != NULL) {
        hk_large_count(heap, hk_libc.usable_size(block), 1);
        heap->large_allocations++;
    }
    return block;
}

void *hk_large_aligned(hk_heap *heap, size_t alignment, size_t size)
{
    if (hk_heap_whole(heap)->is_closed)
        return run_malloc(heap, alignment, size);
    void *block;
    if (!is_large_allowed(heap, size) || hk_libc.memalign(&block, alignment, size) != 0)
        return NULL;
    hk_large_count(heap, hk_libc.usable_size(block), 1);
    heap->large_allocations++;
    return block;
}

/* Charges the heap for size bytes; true: they are a sample. */
static bool charge(hk_heap *heap, size_t size, uint64_t *mean)
{
    hk_heap *entered = hk_heap_enter(heap);
    entered->budget -= (int64_t)size;
    bool sampled = entered->budget < 0 && hk_budget_expire(entered, mean);
    entered->large_allocations++;
    hk_heap_leave(entered);
    return sampled;
}

/* The limit has room for so many bytes more, after asking the embedder. */
static bool may_grow(hk_heap *heap, size_t bytes)
{
    struct hk_asked asked = {0};
    bool allowed;
    do {
        hk_heap *entered = hk_heap_enter(heap);
        allowed = is_large_allowed(entered, bytes);
        hk_heap_leave(entered);
    } while (!allowed && hk_limit_ask(heap, &asked));
    return allowed;
}

/* Both sizes are large: the C allocator may grow in place or move pages. Counted as a free and an allocation. */
void *hk_large_realloc(hk_heap *heap, void *block, size_t size)
{
    if (size > PTRDIFF_MAX)
        return NULL;
    size_t usable = hk_libc.usable_size(block);
    bool foreign = is_foreign(usable);
    int64_t before = foreign ? 0 : (int64_t)usable;
    uint64_t mean;
    if (size > usable && !may_grow(heap, size - usable))
        return NULL;
    bool sampled = charge(heap, size, &mean);
    hk_large_forget(block);
    void *moved = hk_libc.realloc(block, size);
    if (moved == NULL && size <= usable)
        moved = block; /* it holds as much already */
    if (moved == NULL)
        return NULL;
    int64_t after = (int64_t)hk_libc.usable_size(moved);
    if (foreign) { /* it becomes ours */
        if (hk_recorder.foreign != NULL)
            hk_recorder.foreign();
    }
    large_add(heap, after - before, foreign);
    if (sampled)
        hk_recorder.allocation(moved, size, mean, heap->domain);
    return moved;
}

/* A large block of the heap's own stays one, in its place. */
bool hk_run_realloc(hk_heap *heap, struct hk_pool *pool, size_t size)
{
    if (size <= HK_BLOCK_MAX || size > PTRDIFF_MAX || pool->heap != heap)
        return false;
    hk_heap_take(heap);
    bool resized = hk_run_resize(pool, size);
    hk_heap_release(heap);
    uint64_t mean;
    if (resized && charge(heap, size, &mean)) {
        hk_large_forget(hk_pool_start(pool));
        hk_recorder.allocation(hk_pool_start(pool), size, mean, heap->domain);
    }
    return resized;
}
