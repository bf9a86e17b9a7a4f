/* What becomes of a heap's pools: which one its blocks come from, which ones wait, and when one is given back. Their states, and
 * what is counted when, are in pool.h.
 *
 * Where the next block of a class comes from: blocks freed from outside come back first; then the current pool is carved further;
 * then a partial pool takes its place, the one that was opened last; then, in a frugal heap, a larger class's; then an empty pool.
 */
#include "heap/misuse.h"
#include "heap/threads.h"

#include <string.h>

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

void hk_pool_fold(struct hk_pool *pool)
{
    pool->heap->class_allocations[pool->size_class] += HK_CURRENT - pool->used;
    pool->used = HK_CURRENT;
}

void hk_heap_fold(hk_heap *heap)
{
    for (int i = 1; i < HK_CLASSES; i++)
        if (heap->current[i] != &hk_no_pool)
            hk_pool_fold(heap->current[i]);
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
    hk_pool_fold(pool);
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
    pool->size_class = size_class & 127;
    pool->block_size = hk_class_size[size_class];
    pool->capacity = (uint16_t)(HK_POOL_SIZE / pool->block_size);
    pool->carved = 0;
    pool->is_noted = false;
}

/* The pool is CURRENT no longer, however many of its blocks are allocated. */
static void current_retire(hk_heap *heap, struct hk_pool *pool)
{
    uint32_t allocated = hk_pool_allocated(pool);
    hk_pool_fold(pool);
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

struct hk_pool *hk_pool_with_free(hk_heap *heap, uint8_t size_class)
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

/* All blocks that were ever handed out of the current pool are free. Most that are not are told by their counts. */
static bool is_idle(const hk_heap *heap, struct hk_pool *pool)
{
    uint32_t freed = HK_CURRENT - pool->used;
    if (freed == 0 || freed < pool->used_before)
        return false;
    uint32_t touched = pool->carved / pool->block_size, count = 0;
    for (const void *block = *hk_pool_list(heap, pool); block != NULL; block = *(void *const *)block)
        count++;
    return count == touched;
}

uint32_t hk_heap_retire_idle(hk_heap *heap)
{
    uint32_t before = heap->used_pools;
    for (unsigned i = 1; i < HK_CLASSES; i++) {
        struct hk_pool *pool = heap->current[i];
        if (pool != &hk_no_pool && pool->size_class == i && is_idle(heap, pool))
            current_retire(heap, pool);
    }
    return before - heap->used_pools;
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

struct hk_pool *hk_pool_of_larger_class(hk_heap *heap, uint8_t size_class)
{
    size_t alignment = hk_class_size[size_class] % HK_ALIGNMENT == 0 ? HK_ALIGNMENT : HK_STEP;
    for (unsigned i = size_class + hk_class_step(heap); i < HK_CLASSES; i += hk_class_step(heap)) {
        struct hk_pool *pool = heap->current[i];
        bool has = pool != &hk_no_pool && (*hk_pool_list(heap, pool) != NULL ||
                                           pool->carved < (uint32_t)pool->capacity * pool->block_size);
        if (hk_class_size[i] % alignment == 0 && (has || heap->partial[i] != NULL))
            return hk_pool_with_free(heap, (uint8_t)i);
    }
    return NULL;
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
