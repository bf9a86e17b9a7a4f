/* The heap's slow paths and its public functions; those that ask of blocks and heaps, and realloc, are in realloc.c, what
 * becomes of pools in pools.c. The structures and fast paths are in pool.h.
 *
 * A malloc that is not the fast path's has a class without a free block, a budget that ran out, or a large size. A free that is
 * not the fast path's is one of: a block of a pool that had none free, a block of another heap, or no block of ours.
 */
#include "heap/debug.h"
#include "heap/misuse.h"
#include "heap/threads.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

struct hk_pool hk_no_pool;
struct hk_heap_recorder hk_recorder;
int (*hk_program_frames)(struct hk_program_frame *frames, int max);
struct hk_libc hk_libc = {malloc, calloc, realloc, free, malloc_usable_size, posix_memalign, malloc_trim};

/* The heap has no pool for a small block. */
static __attribute__((noinline)) void *malloc_without_pool(hk_heap *heap, size_t size, uint8_t size_class)
{
    struct hk_pool *pool = NULL;
    if (hk_heap_is_tight(heap)) {
        if (hk_heap_reclaim(heap))
            pool = hk_pool_with_free(heap, size_class);
        if (pool == NULL)
            pool = hk_pool_of_larger_class(heap, size_class);
        if (pool == NULL)
            return NULL; /* the limit refused, or there is nothing left */
        hk_limit_forget(heap);
    }
    if (pool == NULL) /* no addresses left: the C allocator may have some; whole words, as a block of ours has */
        return hk_large_malloc(heap, (size + (size == 0) + 7) & ~(size_t)7);
    void **list = hk_pool_list(heap, pool), *block = *list;
    *list = *(void **)block;
    return block;
}

static void *malloc_charged(hk_heap *heap, size_t size)
{
    if (size > HK_BLOCK_MAX)
        return hk_large_malloc(heap, size);
    uint8_t size_class = hk_class_for(heap, size);
    struct hk_pool *pool = heap->current[size_class];
    void **list = hk_pool_list(heap, pool), *block = *list;
    if (block == NULL) {
        pool = hk_pool_with_free(heap, size_class);
        if (pool == NULL)
            return malloc_without_pool(heap, size, size_class);
        list = hk_pool_list(heap, pool);
        block = *list;
    }
    *list = *(void **)block;
    return block;
}

static void *malloc_sampled(hk_heap *heap, size_t size, uint64_t mean)
{
    void *block;
    if (size > HK_BLOCK_MAX) {
        block = hk_large_malloc(heap, size);
    } else if (heap->watched == heap) {
        heap->mean_due = mean;
        return NULL;
    } else if (hk_lock_is_mine(&heap->watched->lock)) { /* a signal handler, see interrupted.c */
        return malloc_charged(heap, size);
    } else {
        hk_heap *watched = heap->watched;
        hk_lock_take(&watched->lock);
        block = malloc_charged(watched, size);
        hk_lock_release(&watched->lock);
    }
    if (block != NULL)
        hk_recorder.allocation(block, size, mean, heap->domain);
    return block;
}

void *hk_malloc_expired(hk_heap *heap, size_t size)
{
    uint64_t mean;
    void *block = hk_budget_expire(heap, &mean) ? malloc_sampled(heap, size, mean) : malloc_charged(heap, size);
    if (block == NULL)
        heap->allocated_before -= size;
    return block;
}

void *hk_malloc_due(hk_heap *heap, size_t size)
{
    uint64_t mean = heap->mean_due;
    void *block = mean != 0 ? malloc_charged(heap, size) : NULL;
    heap->mean_due = 0;
    if (block != NULL) {
        heap->allocated_before += size;
        hk_recorder.allocation(block, size, mean, heap->domain);
    }
    return block;
}

static void *malloc_slow(hk_heap *heap, size_t size)
{
    struct hk_pool *smallest = heap->current[1];
    if (size == 0 && smallest != &hk_no_pool)
        hk_pool_fold(smallest); /* costs no bytes, so no expiry would ever do it */
    heap->budget -= (int64_t)size;
    if (heap->budget < 0)
        return hk_malloc_expired(heap, size);
    void *block = malloc_charged(heap, size);
    if (block == NULL)
        heap->allocated_before -= size;
    return block;
}

static __attribute__((noinline)) void *malloc_slower(hk_heap *heap, size_t size)
{
    if (size > PTRDIFF_MAX)
        return NULL;
    if (heap->mode != HK_LOCK_MEMBER)
        return malloc_slow(heap, size);
    if (heap->is_entered)
        return hk_interrupted_malloc(heap, size);
    hk_member_enter(heap);
    void *block = malloc_slow(heap, size);
    hk_member_leave(heap);
    return block;
}

/* Requests for 512 bytes to 4 KiB all come here, so they have a fast path, too: of a heap under its host's lock, as the pools of
 * others have no list in `free`. */
HK_HOT void *hk_malloc_slow(hk_heap *heap, size_t size)
{
    if (size <= HK_SMALL_MAX || size > HK_BLOCK_MAX)
        return malloc_slower(heap, size);
    struct hk_pool *pool = heap->current[hk_class_of_64[(size + 63) / 64]];
    void *block = pool->free;
    if (block == NULL)
        return malloc_slower(heap, size);
    if (__builtin_expect((heap->budget -= (int64_t)size) < 0, 0))
        return hk_malloc_expired(heap, size);
    pool->free = *(void **)block;
    return block;
}

void *hk_member_malloc_expired(hk_heap *member, size_t size)
{
    if (member->is_entered) {
        member->budget += (int64_t)size;
        return hk_interrupted_malloc(member, size);
    }
    hk_member_enter(member);
    void *block = hk_malloc_expired(member, size);
    hk_member_leave(member);
    return block;
}

/* A block of a heap that locks itself. */
static void free_locked(hk_heap *owner, void *block)
{
    if (owner->is_watched)
        hk_recorder.free(block);
    if (__builtin_expect(hk_lock_is_mine(&owner->lock), 0)) { /* by a signal handler */
        hk_remote_push(owner, block);
        return;
    }
    if (hk_recorder.came_home != NULL)
        hk_recorder.came_home(owner, block);
    hk_lock_take(&owner->lock);
    hk_free_into(owner, block);
    hk_lock_release(&owner->lock);
}

/* A block of a thread's member, freed by who is none of these threads, or does not know it: nobody will tell of it later. */
static void free_of_thread(hk_heap *owner, void *block)
{
    if (hk_recorder.came_home != NULL)
        hk_recorder.came_home(owner, block);
    hk_threads_free_foreign(NULL, owner, block);
}

/* A block of a heap whose protection is not held. */
static void free_from_outside(hk_heap *owner, void *block)
{
    if (owner->mode == HK_LOCK_OWN || owner->mode == HK_LOCK_THREADS) /* the latter's large blocks */
        free_locked(owner, block);
    else if (owner->mode == HK_LOCK_MEMBER)
        free_of_thread(owner, block);
    else
        hk_remote_push(owner, block);
}

static void free_own(hk_heap *heap, void *block)
{
    if (heap->mode == HK_LOCK_MEMBER)
        hk_member_enter(heap);
    hk_free_into(heap, block);
    if (heap->mode == HK_LOCK_MEMBER)
        hk_member_leave(heap);
}

void hk_free_slow(hk_heap *heap, void *block)
{
    const struct hk_pool *pool = hk_pool_find(block);
    if (pool == NULL) {
        if (__builtin_expect(!hk_debug_on, 1) || !hk_debug_stray(heap, block, "freed"))
            hk_large_free(heap, block);
        return;
    }
    hk_heap *owner = hk_pool_owner(pool);
    if (heap->is_entered)
        hk_interrupted_free(heap, block);
    else if (owner == heap)
        free_own(heap, block);
    else if (owner == NULL)
        hk_misuse(block, "hk_free: the block is of no heap, or of one that was destroyed");
    else if (__builtin_expect(hk_debug_on, 0) && hk_debug_stray(heap, block, "freed"))
        return;
    else if (owner->mode == HK_LOCK_HOST && heap->mode == HK_LOCK_HOST)
        hk_free_into(owner, block); /* both are under the same host's lock */
    else if (owner->mode == HK_LOCK_MEMBER && heap->mode == HK_LOCK_MEMBER)
        hk_threads_free_foreign(heap, owner, block);
    else
        free_from_outside(owner, block);
}

bool hk_free_remote(void *block)
{
    if (hk_debug_on && hk_debug_stray(NULL, block, "freed by hk_free_remote"))
        return true;
    const struct hk_pool *pool = hk_pool_find(block);
    hk_heap *owner = pool != NULL ? hk_pool_owner(pool) : NULL;
    if (owner == NULL) {
        if (pool != NULL)
            hk_misuse(block, "hk_free_remote: the block is of no heap, or of one that was destroyed");
        return false;
    }
    free_from_outside(owner, block);
    return true;
}

static inline void *malloc_entered(hk_heap *heap, size_t size)
{
    return heap->mode == HK_LOCK_HOST ? hk_malloc_unlocked(heap, size) : hk_member_malloc(heap, size);
}

/* Fresh pages need no clearing, and are not touched. */
static void *calloc_large(hk_heap *heap, size_t size)
{
    void *block = hk_libc.calloc(1, size);
    uint64_t mean;
    if (block == NULL && hk_large_try_again(size))
        block = hk_libc.calloc(1, size);
    if (block == NULL)
        return NULL;
    hk_large_count(heap, hk_libc.usable_size(block), 1);
    heap->large_allocations++;
    if (__builtin_expect((heap->budget -= (int64_t)size) >= 0, 1))
        return block;
    if (heap->mode == HK_LOCK_MEMBER)
        hk_member_enter(heap);
    if (hk_budget_expire(heap, &mean))
        hk_recorder.allocation(block, size, mean, heap->domain);
    if (heap->mode == HK_LOCK_MEMBER)
        hk_member_leave(heap);
    return block;
}

void *hk_calloc_unlocked(hk_heap *heap, size_t count, size_t size)
{
    size_t total;
    if (__builtin_mul_overflow(count, size, &total))
        return NULL;
    if (total > HK_BLOCK_MAX && total <= PTRDIFF_MAX && !heap->is_entered && !hk_heap_is_tight(heap))
        return calloc_large(heap, total);
    void *block = malloc_entered(heap, total);
    return block != NULL ? hk_block_clear(block, total) : NULL;
}

/* Aligned blocks come from a class whose size is a multiple of the alignment: pools are aligned to theirs. */
static void *aligned_unlocked(hk_heap *heap, size_t alignment, size_t size)
{
    size += size == 0;
    size_t rounded = (size + alignment - 1) & ~(alignment - 1);
    if (rounded < size || rounded > PTRDIFF_MAX)
        return NULL;
    void *block;
    if (rounded <= HK_BLOCK_MAX) {
        int i = hk_class_for(heap, rounded);
        while (hk_class_size[i] % alignment != 0)
            i++; /* alignment <= rounded, and divides the last */
        block = malloc_entered(heap, hk_class_size[i]);
        if ((uintptr_t)block % alignment == 0)
            return block;
        /* No pools were left, and the C allocator, or a larger class, knew nothing of the alignment. */
        const struct hk_pool *pool = hk_pool_find(block);
        *(pool != NULL ? &heap->class_allocations[pool->size_class] : &heap->large_allocations) -= 1;
        heap->allocated_before -= hk_class_size[i];
        hk_free_slow(heap, block);
    }
    block = hk_large_aligned(heap, alignment, size);
    if (block == NULL)
        return NULL;
    uint64_t mean;
    if ((heap->budget -= (int64_t)size) < 0 && hk_budget_expire(heap, &mean))
        hk_recorder.allocation(block, size, mean, heap->domain);
    return block;
}

/* Public. */

/* There was no memory: if it was the limit that refused, the embedder may make room. */
static __attribute__((noinline)) void *malloc_again(hk_heap *heap, size_t size)
{
    struct hk_asked asked = {0};
    void *block = NULL;
    if (!hk_is_heap(heap, "hk_malloc"))
        return NULL;
    while (block == NULL && hk_limit_ask(heap, &asked)) {
        if (heap->is_debug) {
            block = hk_debug_malloc(heap, size);
            continue;
        }
        hk_heap *entered = hk_heap_enter(heap);
        block = hk_malloc_slow(entered, size);
        hk_heap_leave(entered);
    }
    return block;
}

void *hk_below_malloc(hk_heap *heap, size_t size)
{
    hk_heap *entered = hk_heap_enter(heap);
    void *block = hk_malloc_slow(entered, size);
    hk_heap_leave(entered);
    return block;
}

static __attribute__((noinline)) void *malloc_entering(hk_heap *heap, size_t size)
{
    return heap->is_debug ? hk_debug_malloc(heap, size) : hk_below_malloc(heap, size);
}

void *hk_below_calloc(hk_heap *heap, size_t size)
{
    hk_heap *entered = hk_heap_enter(heap);
    void *block = hk_calloc_unlocked(entered, 1, size);
    hk_heap_leave(entered);
    return block;
}

void *hk_below_aligned(hk_heap *heap, size_t alignment, size_t size)
{
    hk_heap *entered = hk_heap_enter(heap);
    void *block = aligned_unlocked(entered, alignment, size);
    hk_heap_leave(entered);
    return block;
}

void hk_below_free(hk_heap *heap, void *block)
{
    const struct hk_pool *pool = hk_pool_find(block);
    if (pool != NULL)
        free_from_outside(hk_pool_owner(pool), block);
    else
        hk_large_free(heap, block);
}

/* Only the owner's lock is taken, so that heaps never wait for each other in a circle. */
static __attribute__((noinline)) void free_entering(hk_heap *heap, void *block)
{
    hk_heap *member = heap->mode == HK_LOCK_THREADS ? hk_threads_member(heap) : NULL;
    if (heap->is_debug)
        hk_debug_free(heap, block);
    else if (member != NULL)
        hk_free_slow(member, block);
    else if (hk_debug_on && hk_debug_stray(heap, block, "freed"))
        return;
    else if (hk_pool_find(block) == NULL)
        hk_large_free(heap, block);
    else
        hk_free_remote(block);
}

/* The slow ends of hk_malloc, which it jumps to, so that it needs no frame of its own. */
static __attribute__((noinline)) void *malloc_slowly(hk_heap *heap, size_t size)
{
    if (heap == NULL)
        return malloc_again(heap, size);
    void *block = NULL;
    if (heap == hk_local.mine.facade) {
        hk_heap *member = hk_local.mine.member;
        block = hk_member_malloc_medium(member, size);
        if (block == NULL)
            block = hk_malloc_slow(member, size);
    } else {
        block = heap->mode == HK_LOCK_HOST ? hk_malloc_slow(heap, size) : malloc_entering(heap, size);
    }
    return block != NULL ? block : malloc_again(heap, size);
}

static __attribute__((noinline)) void *malloc_charged_already(hk_heap *part, size_t size)
{
    void *block = part->mode == HK_LOCK_MEMBER ? hk_member_malloc_expired(part, size) : hk_malloc_expired(part, size);
    return block != NULL ? block : malloc_again(hk_heap_whole(part), size);
}

/* part: the heap under a host's lock, or this thread's member of it. */
static inline __attribute__((always_inline)) void *malloc_from(hk_heap *part, hk_heap *heap, size_t size, bool is_host)
{
    if (__builtin_expect(size > HK_SMALL_MAX, 0))
        return malloc_slowly(heap, size);
    struct hk_pool *pool = part->current[(size + HK_STEP - 1) / HK_STEP];
    void **list = is_host ? &pool->free : &pool->other_free, *block = *list;
    if (__builtin_expect(block == NULL, 0))
        return malloc_slowly(heap, size);
    if (__builtin_expect((part->budget -= (int64_t)size) < 0, 0))
        return malloc_charged_already(part, size);
    *list = *(void **)block;
    return block;
}

void *hk_malloc(hk_heap *heap, size_t size)
{
    if (__builtin_expect(heap == NULL, 0))
        return malloc_slowly(heap, size);
    if (__builtin_expect(heap->mode == HK_LOCK_HOST, 1))
        return malloc_from(heap, heap, size, true);
    if (__builtin_expect(heap == hk_local.mine.facade, 1))
        return malloc_from(hk_local.mine.member, heap, size, false);
    return malloc_slowly(heap, size);
}

void hk_free(hk_heap *heap, void *block)
{
    if (__builtin_expect(heap == NULL, 0))
        hk_misuse_no_heap(heap, "hk_free");
    else if (__builtin_expect(heap->mode == HK_LOCK_HOST, 1))
        hk_free_unlocked(heap, block);
    else if (__builtin_expect(heap == hk_local.mine.facade, 1))
        hk_member_free(hk_local.mine.member, block);
    else
        free_entering(heap, block);
}

void *hk_calloc(hk_heap *heap, size_t count, size_t size)
{
    struct hk_asked asked = {0};
    size_t total;
    void *block;
    if (!hk_is_heap(heap, "hk_calloc") || __builtin_mul_overflow(count, size, &total))
        return NULL;
    do
        block = heap->is_debug ? hk_debug_calloc(heap, total) : hk_below_calloc(heap, total);
    while (__builtin_expect(block == NULL, 0) && hk_limit_ask(heap, &asked));
    return block;
}
