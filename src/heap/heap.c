/* The heap's slow paths and its public functions; those that ask of blocks and heaps, and realloc, are in realloc.c. The
 * structures and fast paths are in pool.h.
 *
 * The order of a slow malloc: blocks freed from outside come back first; then the current pool is carved further; then
 * a partial pool takes its place, the one that was opened last; then an empty pool. A free that is not the
 * fast path's is one of: a block of a pool that had none free, a block of another heap, or no block of ours.
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

/* Pools. */

static void partial_push(hk_heap *heap, struct hk_pool *pool)
{
    struct hk_pool **head = &heap->partial[pool->size_class];
    pool->place = HK_PLACE_PARTIAL;
    pool->previous = NULL;
    pool->next = *head;
    if (*head != NULL)
        (*head)->previous = pool;
    *head = pool;
}

static void partial_unlink(hk_heap *heap, struct hk_pool *pool)
{
    if (pool->previous != NULL)
        pool->previous->next = pool->next;
    else
        heap->partial[pool->size_class] = pool->next;
    if (pool->next != NULL)
        pool->next->previous = pool->previous;
}

/* Each free in a current pool means one allocation more than the growth of what is allocated. */
static void current_fold(struct hk_pool *pool)
{
    pool->heap->class_allocations[pool->size_class] += HK_CURRENT - pool->used;
    pool->used = HK_CURRENT;
}

void hk_heap_fold(hk_heap *heap)
{
    for (int i = 1; i < HK_CLASSES; i++)
        if (heap->current[i] != &hk_no_pool)
            current_fold(heap->current[i]);
}

/* A class that the heap does not use has the next one's pool, so that the fast path need not know. Classes that shared the
 * pool that was current until now lose it. */
static void current_set(hk_heap *heap, unsigned size_class, struct hk_pool *pool)
{
    struct hk_pool *old = heap->current[size_class];
    if (old != &hk_no_pool)
        for (unsigned i = size_class - 1; i > 0 && heap->current[i] == old; i--)
            heap->current[i] = &hk_no_pool;
    heap->current[size_class] = pool;
    if (hk_class_step(heap) == 2)
        heap->current[size_class - 1] = pool;
}

/* Adds untouched blocks to the free list, in the order of their addresses. */
static void pool_carve(hk_heap *heap, struct hk_pool *pool)
{
    uint32_t size = pool->block_size, end = (uint32_t)pool->capacity * size;
    uint32_t count = size >= HK_CARVE_BYTES ? 1 : HK_CARVE_BYTES / size;
    uint32_t from = pool->carved, to = from + count * size;
    if (to > end)
        to = end;
    char *start = hk_pool_start(pool);
    for (uint32_t at = from; at + size < to; at += size)
        *(void **)(start + at) = start + at + size;
    *(void **)(start + to - size) = NULL;
    *hk_pool_list(heap, pool) = start + from;
    pool->carved = to;
}

/* A class of few blocks in a frugal heap: blocks of a larger one serve, from its current pool, which is this one's, too, until
 * it is full. Each class that has a pool touches at least a page of it, and most classes of a small program have a
 * handful of blocks. So each class may begin; then it is not one of few blocks any more. NULL: it gets a pool of its own. */
static struct hk_pool *share_larger(hk_heap *heap, unsigned size_class)
{
    size_t size = hk_class_size[size_class], most = size + size / 2;
    unsigned i = size_class + 1;
    if (!heap->is_frugal || heap->begun[size_class])
        return NULL;
    while (i < HK_CLASSES && heap->current[i] == &hk_no_pool && hk_class_size[i] <= most)
        i++;
    struct hk_pool *pool = i < HK_CLASSES ? heap->current[i] : &hk_no_pool;
    if (pool == &hk_no_pool || pool->block_size > most || pool->block_size % HK_ALIGNMENT != 0) /* as classes between need */
        return NULL;
    if (*hk_pool_list(heap, pool) == NULL) {
        if (pool->carved == (uint32_t)pool->capacity * pool->block_size)
            return NULL;
        pool_carve(heap, pool);
    }
    heap->begun[size_class] = true;
    while (--i + hk_class_step(heap) > size_class)
        heap->current[i] = pool;
    return pool;
}

static void current_begin(hk_heap *heap, struct hk_pool *pool, uint32_t allocated)
{
    pool->used_before = allocated;
    pool->used = HK_CURRENT;
    pool->place = HK_PLACE_CURRENT;
    heap->class_pools_began[pool->size_class]++;
    current_set(heap, pool->size_class, pool);
    if (heap->pool_began != NULL)
        heap->pool_began(heap, pool);
}

/* All of its blocks are allocated. */
static void current_end(hk_heap *heap, struct hk_pool *pool)
{
    current_fold(pool);
    heap->class_allocations[pool->size_class] += pool->capacity - pool->used_before;
    pool->used = pool->capacity - 1u;
    pool->place = HK_PLACE_FULL;
    current_set(heap, pool->size_class, &hk_no_pool);
}

/* How many blocks of a current pool are free is only known by walking its list, whose blocks are cold in most classes; and the
 * recorder asks this of every pool up to a hundred times a second. So the last answers are kept: a list that begins at the
 * same block, in a pool that was not carved, while in its class nothing was freed and no pool became current, and no heap was
 * made, is the same list. */
static struct pool_answer {
    const struct hk_pool *pool;
    const void *first;
    uint64_t frees; /* of the class, from some time on */
    uint32_t heaps_made, began, block_size, carved, allocated;
} answers[128];
static bool answers_taken; /* by a thread: another one walks, and so does a child forked meanwhile */

static uint32_t current_allocated(const struct hk_pool *pool, const char *first)
{
    const char *start = hk_pool_start(pool), *block = first;
    uint32_t handed_out = pool->carved / (pool->block_size | !pool->block_size), count = 0;
    while (count < handed_out && (uintptr_t)(block - start) <= HK_POOL_SIZE - sizeof(void *)) {
        block = *(void *const *)block;
        count++;
    }
    return handed_out - count;
}

uint32_t hk_pool_allocated(const struct hk_pool *pool)
{
    if (pool->place < HK_PLACE_CURRENT)
        return 0;
    if (pool->place != HK_PLACE_CURRENT)
        return pool->used + 1 + pool->held;
    const hk_heap *heap = pool->heap;
    struct pool_answer now = {
        .pool = pool,
        .first = pool->free != NULL ? pool->free : pool->other_free,
        .frees = heap->class_allocations[pool->size_class] + HK_CURRENT - pool->used,
        .heaps_made = __atomic_load_n(&hk_heaps_made, __ATOMIC_RELAXED),
        .began = heap->class_pools_began[pool->size_class],
        .block_size = pool->block_size,
        .carved = pool->carved,
    };
    if (heap->mode == HK_LOCK_MEMBER || __atomic_exchange_n(&answers_taken, true, __ATOMIC_ACQUIRE))
        return current_allocated(pool, now.first);
    struct pool_answer *answer = &answers[(uintptr_t)pool / sizeof *pool % 128];
    if (memcmp(answer, &now, offsetof(struct pool_answer, allocated)) != 0) {
        now.allocated = current_allocated(pool, now.first);
        *answer = now;
    }
    uint32_t allocated = answer->allocated;
    __atomic_store_n(&answers_taken, false, __ATOMIC_RELEASE);
    return allocated;
}

static void put_empty(hk_heap *heap, struct hk_pool *pool)
{
    if (heap->mode == HK_LOCK_MEMBER)
        hk_threads_put_empty(pool);
    else
        hk_pool_put_empty(pool);
}

static void pool_emptied(hk_heap *heap, struct hk_pool *pool)
{
    if (pool->place == HK_PLACE_FULL) { /* enough of its blocks are free */
        pool->used = pool->held - 1;
        pool->held = 0;
        partial_push(heap, pool);
        return;
    }
    partial_unlink(heap, pool);
    put_empty(heap, pool);
}

void hk_pool_emptied(struct hk_pool *pool)
{
    hk_heap *heap = pool->heap;
    if (heap->mode != HK_LOCK_MEMBER) {
        pool_emptied(heap, pool);
    } else if (heap->is_entered) {
        hk_interrupted_emptied(pool);
    } else {
        hk_member_enter(heap);
        pool_emptied(heap, pool);
        hk_member_leave(heap);
    }
}

static void pool_init(struct hk_pool *pool, uint8_t size_class)
{
    pool->size_class = size_class;
    pool->block_size = hk_class_size[size_class];
    pool->capacity = (uint16_t)(HK_POOL_SIZE / pool->block_size);
    pool->carved = 0;
}

/* The pool is CURRENT no longer, however many of its blocks are allocated. */
static void current_retire(hk_heap *heap, struct hk_pool *pool)
{
    uint32_t allocated = hk_pool_allocated(pool);
    current_fold(pool);
    heap->class_allocations[pool->size_class] += (uint64_t)((int64_t)allocated - pool->used_before);
    current_set(heap, pool->size_class, &hk_no_pool);
    if (allocated == 0) {
        put_empty(heap, pool);
        return;
    }
    pool->used = allocated - 1;
    pool->place = HK_PLACE_FULL;
    if (allocated == pool->capacity)
        return;
    if (*hk_pool_list(heap, pool) == NULL)
        pool_carve(heap, pool);
    partial_push(heap, pool);
}

void hk_pool_move(struct hk_pool *pool, hk_heap *to)
{
    if (pool->place == HK_PLACE_PARTIAL)
        partial_unlink(pool->heap, pool);
    hk_threads_set_owner(pool, to);
    if (pool->place == HK_PLACE_PARTIAL)
        partial_push(to, pool);
}

void hk_heap_retire(hk_heap *heap)
{
    hk_remote_take(heap);
    for (int i = 1; i < HK_CLASSES; i++)
        if (heap->current[i] != &hk_no_pool)
            current_retire(heap, heap->current[i]);
}

/* The class's current pool, with a free block in it; NULL: no memory. */
static struct hk_pool *pool_with_free(hk_heap *heap, uint8_t size_class)
{
    hk_remote_take(heap);
    struct hk_pool *pool = heap->current[size_class];
    if (*hk_pool_list(heap, pool) != NULL)
        return pool;
    if (pool != &hk_no_pool) {
        if (pool->carved < (uint32_t)pool->capacity * pool->block_size) {
            pool_carve(heap, pool);
            return pool;
        }
        current_end(heap, pool);
    }
    pool = heap->partial[size_class];
    if (pool == NULL && heap->mode == HK_LOCK_MEMBER && hk_threads_take_partial(heap, size_class))
        pool = heap->partial[size_class];
    if (pool != NULL) {
        partial_unlink(heap, pool);
        current_begin(heap, pool, pool->used + 1);
    } else if ((pool = share_larger(heap, size_class)) == NULL) {
        pool = heap->mode == HK_LOCK_MEMBER ? hk_threads_take_empty(heap, size_class) : hk_pool_take_empty(heap);
        if (pool == NULL)
            return NULL;
        pool_init(pool, size_class);
        pool_carve(heap, pool);
        current_begin(heap, pool, 0);
        heap->begun[size_class] = true;
    }
    return pool;
}

/* What is free and does not look so: current pools stay current when their last block is freed, and blocks that were
 * freed from outside wait. True: there was something. */
bool hk_heap_reclaim(hk_heap *heap)
{
    bool some = __atomic_load_n(&heap->remote, __ATOMIC_RELAXED) != NULL;
    if (some)
        hk_remote_drain(heap);
    for (unsigned i = 1; i < HK_CLASSES; i++) {
        struct hk_pool *pool = heap->current[i];
        if (pool == &hk_no_pool || pool->size_class != i || hk_pool_allocated(pool) != 0)
            continue;
        current_retire(heap, pool);
        some = true;
    }
    return some;
}

/* A larger class that has a free block, where there are no more pools; NULL: none. */
static struct hk_pool *pool_of_larger_class(hk_heap *heap, uint8_t size_class)
{
    size_t alignment = hk_class_size[size_class] % HK_ALIGNMENT == 0 ? HK_ALIGNMENT : HK_STEP;
    for (unsigned i = size_class + hk_class_step(heap); i < HK_CLASSES; i += hk_class_step(heap)) {
        struct hk_pool *pool = heap->current[i];
        bool has = pool != &hk_no_pool && (*hk_pool_list(heap, pool) != NULL ||
                                           pool->carved < (uint32_t)pool->capacity * pool->block_size);
        if (hk_class_size[i] % alignment == 0 && (has || heap->partial[i] != NULL))
            return pool_with_free(heap, (uint8_t)i);
    }
    return NULL;
}

/* The heap has no pool for a small block. */
static __attribute__((noinline)) void *malloc_without_pool(hk_heap *heap, size_t size, uint8_t size_class)
{
    struct hk_pool *pool = NULL;
    if (hk_heap_is_tight(heap)) {
        if (hk_heap_reclaim(heap))
            pool = pool_with_free(heap, size_class);
        if (pool == NULL)
            pool = pool_of_larger_class(heap, size_class);
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
        pool = pool_with_free(heap, size_class);
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
        current_fold(smallest); /* costs no bytes, so no expiry would ever do it */
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

/* The current pool has no free block, and one is about to come back. Were the block simply taken, a program that
 * allocates and frees at just this boundary would come here with every free: so there will be more than one. */
static void current_relieve(hk_heap *heap, struct hk_pool *pool)
{
    if (pool->carved < (uint32_t)pool->capacity * pool->block_size) {
        pool_carve(heap, pool);
        return;
    }
    struct hk_pool *other = heap->partial[pool->size_class];
    if (other == NULL)
        return;
    partial_unlink(heap, other);
    current_end(heap, pool);
    current_begin(heap, other, other->used + 1);
}

/* A pool of few blocks, FULL until now, becomes current at once where the current one has no free block either: under random
 * replacement the next malloc is a fast one then. */
static bool current_replace(hk_heap *heap, struct hk_pool *pool)
{
    struct hk_pool *old = heap->current[pool->size_class];
    if (old->size_class != pool->size_class || *hk_pool_list(heap, old) != NULL ||
        old->carved < (uint32_t)old->capacity * old->block_size)
        return false;
    current_end(heap, old);
    current_begin(heap, pool, pool->capacity);
    return true;
}

/* The first block of a FULL pool is freed: the pool waits for more, or is opened. */
static void full_begin_to_open(hk_heap *heap, struct hk_pool *pool)
{
    uint32_t part = heap->mode == HK_LOCK_MEMBER ? 8 : 16; /* memory matters more to a program under a host's lock */
    uint32_t enough = pool->capacity / part < 16 ? pool->capacity / part : 16;
    if (heap->mode != HK_LOCK_MEMBER && hk_recorder.pool_reopened != NULL)
        hk_recorder.pool_reopened(); /* before anything changes */
    if (enough <= 1 || hk_heap_is_tight(heap)) {
        if (!current_replace(heap, pool))
            partial_push(heap, pool);
        return;
    }
    pool->held = pool->capacity - enough;
    pool->used = enough - 1;
}

void hk_free_into(hk_heap *heap, void *block)
{
    struct hk_pool *pool = hk_pool_find(block);
    if (__builtin_expect(pool->place < HK_PLACE_CURRENT, 0)) { /* it was freed before, with the last ones of its pool */
        hk_misuse(block, "hk_free: the block is in an empty pool");
        return;
    }
    if (pool->place == HK_PLACE_RUN) {
        hk_large_forget(block);
        hk_run_free(pool);
        return;
    }
    void **list = hk_pool_list(heap, pool);
    if (*list == NULL && pool->place == HK_PLACE_CURRENT)
        current_relieve(heap, pool);
    if (*list == NULL && pool->place == HK_PLACE_FULL)
        full_begin_to_open(heap, pool);
    *(void **)block = *list;
    *list = block;
    if (hk_take_one(&pool->used))
        pool_emptied(heap, pool);
}

/* The blocks of the map, before the pool's list, in the order of their addresses. */
static void list_put(struct hk_pool *pool, const uint64_t *map)
{
    char *start = hk_pool_start(pool);
    void *next = *hk_pool_list(pool->heap, pool), **last = hk_pool_list(pool->heap, pool);
    for (size_t i = 0; i < HK_POOL_SIZE / 16 / 64; i++)
        for (uint64_t bits = map[i]; bits != 0; bits &= bits - 1) {
            void **block = (void **)(start + (i * 64 + (unsigned)__builtin_ctzll(bits)) * 16);
            *last = block;
            last = block;
        }
    *last = next;
}

void hk_pool_free_many(struct hk_pool *pool, const uint64_t *map, uint32_t count)
{
    hk_heap *heap = pool->heap;
    uint32_t allocated = pool->used + 1 + pool->held;
    if (pool->place == HK_PLACE_CURRENT) {
        list_put(pool, map);
        pool->used -= count;
        return;
    }
    if (pool->place == HK_PLACE_PARTIAL)
        partial_unlink(heap, pool);
    pool->held = 0;
    if (count == allocated) {
        put_empty(heap, pool);
        return;
    }
    list_put(pool, map);
    pool->used = allocated - count - 1;
    partial_push(heap, pool);
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

/* A block of a heap whose protection is not held. */
static void free_from_outside(hk_heap *owner, void *block)
{
    if (owner->mode == HK_LOCK_OWN || owner->mode == HK_LOCK_THREADS) /* the latter's large blocks */
        free_locked(owner, block);
    else if (owner->mode == HK_LOCK_MEMBER)
        hk_threads_free_foreign(NULL, owner, block);
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
