/* The limit of a heap: bytes mapped, by the statistics' count, large blocks of the C allocator included.
 *
 * It is looked at where a heap grows: an arena, a pool whose pages are not in memory yet, a large block. So it costs the
 * fast paths nothing, and a heap at its limit still hands out what it has. First the heap gives its own empty
 * pools back; if that does not do, the request is refused, and the refusal noted for hk_malloc and its like, which ask
 * the embedder when they hold no lock any more. A callback that always says yes does not hang its program: it is not
 * asked for ever while the heap is as large as it was.
 */
#include "heap/misuse.h"
#include "heap/threads.h"

#define ASK_IN_VAIN 1000

static __thread bool asking; /* what a callback allocates does not ask again */

size_t hk_heap_mapped(const hk_heap *heap)
{
    size_t pools = (size_t)heap->used_pools + heap->dirty_pools + heap->staying_pools;
    int64_t large = __atomic_load_n(&heap->large_bytes, __ATOMIC_RELAXED);
    size_t tables = heap->metadata_bytes != 0 ? heap->metadata_bytes
                                              : heap->arena_count * hk_arena_metadata(heap) + hk_heap_structure(heap);
    for (const hk_heap *member = hk_threads_members(heap); member != NULL; member = member->next_member) {
        large += __atomic_load_n(&member->large_bytes, __ATOMIC_RELAXED);
        tables += hk_heap_structure(member);
    }
    return pools * HK_POOL_SIZE + tables + (large > 0 ? (size_t)large : 0);
}

bool hk_limit_allows(hk_heap *heap, size_t bytes)
{
    size_t limit = hk_heap_limit(heap);
    if (limit == 0)
        return true;
    size_t mapped = hk_heap_mapped(heap);
    if (mapped <= limit && bytes <= limit - mapped)
        return true;
    if (heap->dirty_pools > 0) {
        hk_heap_discard(heap, 0);
        mapped = hk_heap_mapped(heap);
        if (mapped <= limit && bytes <= limit - mapped)
            return true;
    }
    heap->refused = bytes;
    return false;
}

void hk_limit_forget(hk_heap *heap)
{
    hk_heap *whole = hk_heap_whole(heap);
    if (whole != heap)
        hk_lock_take(&whole->lock);
    whole->refused = 0;
    if (whole != heap)
        hk_lock_release(&whole->lock);
}

bool hk_limit_ask(hk_heap *heap, struct hk_asked *asked)
{
    if (heap->mode == HK_LOCK_THREADS && hk_lock_is_mine(&heap->lock))
        return false; /* a signal handler, see interrupted.c */
    hk_heap_take(heap);
    size_t wanted = heap->refused, mapped = hk_heap_mapped(heap);
    heap->refused = 0;
    hk_heap_release(heap);
    if (wanted == 0 || heap->at_limit == NULL || asking)
        return false;
    if (asked->mapped == 0 || mapped < asked->mapped) {
        asked->mapped = mapped;
        asked->in_vain = 0;
    } else if (++asked->in_vain == ASK_IN_VAIN) {
        return false;
    }
    asking = true;
    bool again = heap->at_limit(heap, wanted, heap->at_limit_argument);
    asking = false;
    if (heap->magic == HK_HEAP_LIVE)
        return again;
    hk_misuse(heap, "hk_at_limit: it destroyed its heap");
    return false;
}

void hk_heap_set_limit(hk_heap *heap, size_t bytes)
{
    if (hk_is_heap(heap, "hk_heap_set_limit"))
        __atomic_store_n(&heap->limit, bytes, __ATOMIC_RELAXED);
}
