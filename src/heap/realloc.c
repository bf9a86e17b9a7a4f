/* What is done with a block that is there, or with a heap as a whole: public functions that need nothing of the slow paths
 * in heap.c but to call them. A block moves where its class is too small, or where a quarter is saved. */
#include "heap/debug.h"
#include "heap/misuse.h"
#include "heap/threads.h"

#include <string.h>

void *hk_realloc(hk_heap *heap, void *block, size_t size)
{
    if (!hk_is_heap(heap, "hk_realloc"))
        return NULL;
    if (block == NULL)
        return hk_malloc(heap, size);
    if (__builtin_expect(hk_debug_on, 0)) {
        if (heap->is_debug)
            return hk_debug_realloc(heap, block, size);
        hk_debug_stray(heap, block, "reallocated");
    }
    size_t old;
    struct hk_pool *pool = hk_pool_find(block);
    if (pool != NULL) {
        if (hk_pool_owner(pool) == NULL) {
            hk_misuse(block, "hk_realloc: the block is of no heap, or of one that was destroyed");
            return NULL;
        }
        old = hk_pool_block_bytes(pool);
        if (pool->block_size == 0 && hk_run_realloc(heap, pool, size))
            return block;
        bool aligned = HK_STEP == HK_ALIGNMENT || size % HK_ALIGNMENT != 0 || (uintptr_t)block % HK_ALIGNMENT == 0;
        if (size <= old && size > old - old / 4 && aligned)
            return block; /* CPython's rule: shrink only if a quarter is saved */
    } else {
        if (size > HK_BLOCK_MAX && !heap->is_closed)
            return hk_large_realloc(heap, block, size);
        old = hk_libc.usable_size(block);
    }
    void *moved = hk_malloc(heap, size);
    if (moved == NULL)
        return size <= old ? block : NULL;
    memcpy(moved, block, size < old ? size : old);
    hk_free(heap, block);
    return moved;
}

void *hk_aligned_any(hk_heap *heap, size_t alignment, size_t size)
{
    struct hk_asked asked = {0};
    void *block;
    if (alignment <= heap->alignment)
        return hk_malloc(heap, size);
    do
        block = heap->is_debug ? hk_debug_aligned_alloc(heap, alignment, size) : hk_below_aligned(heap, alignment, size);
    while (__builtin_expect(block == NULL, 0) && hk_limit_ask(heap, &asked));
    return block;
}

void *hk_aligned_alloc(hk_heap *heap, size_t alignment, size_t size)
{
    if (!hk_is_heap(heap, "hk_aligned_alloc"))
        return NULL;
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > HK_ALIGNMENT_MAX) {
        hk_misuse(NULL, "hk_aligned_alloc: an alignment of %zu is no power of two up to %u", alignment, HK_ALIGNMENT_MAX);
        return NULL;
    }
    return hk_aligned_any(heap, alignment, size);
}

size_t hk_usable_size(const void *block)
{
    size_t size;
    if (hk_debug_knows(block, &size))
        return size;
    const struct hk_pool *pool = hk_pool_find(block);
    return pool != NULL ? hk_pool_block_bytes(pool) : 0;
}

hk_heap *hk_heap_of(const void *block)
{
    const struct hk_pool *pool = hk_pool_find(block);
    hk_heap *owner = pool != NULL ? hk_pool_owner(pool) : NULL;
    return owner != NULL && owner->mode == HK_LOCK_MEMBER ? owner->facade : owner;
}

size_t hk_heap_trim(hk_heap *heap)
{
    if (!hk_is_heap(heap, "hk_heap_trim"))
        return 0;
    if (heap->mode == HK_LOCK_THREADS)
        hk_threads_settle(heap);
    hk_heap_take(heap);
    hk_remote_take(heap);
    if (hk_heap_is_tight(heap))
        hk_heap_reclaim(heap);
    size_t bytes = hk_heap_discard(heap, 0);
    hk_heap_release(heap);
    if (!heap->is_closed)
        hk_libc.trim(0);
    return bytes;
}

void hk_heap_rest(hk_heap *heap)
{
    hk_heap_retire(heap);
    hk_arenas_give_empty(heap);
    hk_heap_discard(heap, 0);
}

const char *hk_version(void)
{
    return HK_VERSION;
}
