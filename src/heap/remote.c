/* Blocks freed by those who do not hold what protects their heap: from outside the host's lock, or, of a thread's member,
 * by another thread.
 *
 * They wait in the heap's list `remote`, where whoever frees pushes, atomically, and its owner takes all at its next slow
 * path. Until then they count as allocated. A push takes the cache line of the list's head from another processor, and
 * its owner that of each block in turn. So threads send each other's blocks home in batches:
 *
 *      batch      the addresses of up to HK_BATCH blocks of one owner, in the member of the thread that freed them (HK_BATCHES of
 *                 them, by the owner's number; HK_BATCHES_BYTES of blocks in all). The blocks are not touched, nor are their
 *                 pools' descriptors, which their owner writes to
 *      carrier    a block in the list. Its first word is the next carrier, those that follow are addresses of blocks that come
 *                 home with it, as many as there is room for, at most HK_BATCH - 1; a NULL ends fewer
 *
 *      who frees a block of a member          what happens
 *      the owner's thread                     (threads.h)
 *      another thread                         into its batch for the owner, which is sent when it is full
 *      one that has no member of the facade   pushed alone
 *      (hk_free gives it one); or the facade
 *      has a limit
 *      a thread; owner IDLE                   the whole pool becomes the freeing thread's, under the facade's idle_lock
 *      anybody; owner SHARED, or IDLE and     freed into the pool under the facade's idle_lock
 *      the one who frees has no member
 *
 * What is left in batches is sent when their thread ends, trims the heap, or needs another pool. A thread that does none of
 * these keeps at most HK_BATCH - 1 blocks of each owner, and less than HK_BATCHES_BYTES, however many owners there are.
 *
 * A pool changes its owner only when that one's thread has ended, so a block that is sent to, or lies in the list of, a
 * former owner is sent on. */
#include "heap/threads.h"

#include <string.h>

/* How many other blocks a block of so many bytes can carry. */
static uint32_t room_in(size_t bytes)
{
    return bytes < HK_BATCH * sizeof(void *) ? (uint32_t)(bytes / sizeof(void *)) - 1 : HK_BATCH - 1;
}

static void push(hk_heap *heap, void **first, void **last)
{
    void *head = __atomic_load_n(&heap->remote, __ATOMIC_RELAXED);
    do
        *last = head;
    while (!__atomic_compare_exchange_n(&heap->remote, &head, first, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
}

void hk_remote_push(hk_heap *heap, void *block)
{
    void **carrier = block;
    if (HK_STEP > sizeof(void *) || hk_pool_block_bytes(hk_pool_find(block)) > sizeof(void *))
        carrier[1] = NULL;
    push(heap, carrier, carrier);
}

/* Of a member's list, a block may have changed its owner together with its pool. */
static void come_home(hk_heap *heap, void *block)
{
    hk_heap *owner = heap->mode == HK_LOCK_MEMBER ? hk_pool_owner(hk_pool_of(block)) : heap;
    if (owner != heap) {
        hk_remote_push(owner, block);
        return;
    }
    if (hk_recorder.came_home != NULL && heap->mode != HK_LOCK_MEMBER)
        hk_recorder.came_home(heap, block);
    hk_free_into(heap, block);
}

void hk_remote_drain(hk_heap *heap)
{
    void **carrier = __atomic_exchange_n(&heap->remote, NULL, __ATOMIC_ACQUIRE);
    while (carrier != NULL) {
        void **next = carrier[0];
        __builtin_prefetch(next);
        uint32_t room = room_in(hk_pool_block_bytes(hk_pool_find(carrier)));
        for (uint32_t i = 1; i <= room && carrier[i] != NULL; i++)
            come_home(heap, carrier[i]);
        come_home(heap, carrier);
        carrier = next;
    }
}

/* A block of a member without a thread is freed. True: it was done; false: a thread took the owner over meanwhile, or it cannot be
 * done now.
 * `mine`, if not NULL, takes the pool. */
static bool free_into_idle(hk_heap *mine, hk_heap *owner, void *block)
{
    struct hk_facade *facade = hk_facade_of(owner);
    struct hk_pool *pool = hk_pool_of(block);
    if (hk_lock_is_mine(&facade->idle_lock))
        return false; /* in a signal handler */
    hk_lock_take(&facade->idle_lock);
    owner = hk_pool_owner(pool); /* it may be another by now */
    bool may = owner->state == HK_MEMBER_IDLE || owner->state == HK_MEMBER_SHARED;
    bool moves = may && mine != NULL && owner->state == HK_MEMBER_IDLE && mine->facade == owner->facade;
    if (may)
        hk_remote_take(owner);
    if (moves)
        hk_pool_move(pool, mine);
    else if (may)
        hk_free_into(owner, block);
    hk_lock_release(&facade->idle_lock);
    if (moves)
        hk_free_into(mine, block);
    return may;
}

static bool is_without_thread(const hk_heap *owner)
{
    uint8_t state = __atomic_load_n(&owner->state, __ATOMIC_ACQUIRE);
    return state == HK_MEMBER_IDLE || state == HK_MEMBER_SHARED;
}

static void free_alone(hk_heap *mine, hk_heap *owner, void *block)
{
    if (!is_without_thread(owner) || !free_into_idle(mine, owner, block))
        hk_remote_push(hk_pool_owner(hk_pool_of(block)), block);
}

/* All blocks as one list of carriers. */
static void push_batch(struct hk_batch *batch)
{
    void **first = NULL, **last = NULL;
    while (batch->count > 0) {
        void **carrier = batch->blocks[--batch->count];
        uint32_t room = room_in(hk_threads_block_bytes(carrier)), count = room < batch->count ? room : batch->count;
        batch->count -= count;
        memcpy(carrier + 1, batch->blocks + batch->count, count * sizeof(void *));
        if (count < room)
            carrier[1 + count] = NULL;
        carrier[0] = first;
        first = carrier;
        last = last != NULL ? last : carrier;
    }
    push(batch->owner, first, last);
}

static void send(hk_heap *mine, struct hk_batch *batch)
{
    if (batch->count == 0)
        return;
    hk_member_of(mine)->batches_bytes -= batch->bytes;
    batch->bytes = 0;
    if (!is_without_thread(batch->owner)) {
        push_batch(batch);
        return;
    }
    while (batch->count > 0) {
        void *block = batch->blocks[--batch->count];
        hk_heap *owner = hk_threads_owner(block);
        if (owner == mine) /* with one before it, the pool became ours */
            hk_free_into(mine, block);
        else
            free_alone(mine, owner, block);
    }
}

/* `mine` is entered. */
void hk_threads_send_batches(hk_heap *mine)
{
    for (int i = 0; i < HK_BATCHES; i++)
        send(mine, &hk_member_of(mine)->batches[i]);
}

static void free_batched(hk_heap *mine, hk_heap *owner, void *block)
{
    struct hk_batch *batch = &hk_member_of(mine)->batches[owner->number % HK_BATCHES];
    if (batch->owner != owner) {
        send(mine, batch);
        batch->owner = owner;
    }
    uint32_t bytes = hk_threads_block_bytes(block);
    batch->blocks[batch->count++] = block;
    batch->bytes += bytes;
    hk_member_of(mine)->batches_bytes += bytes;
    if (batch->count == HK_BATCH)
        send(mine, batch);
    else if (hk_member_of(mine)->batches_bytes >= HK_BATCHES_BYTES)
        hk_threads_send_batches(mine);
}

void hk_threads_free_foreign(hk_heap *mine, hk_heap *owner, void *block)
{
    if (mine != NULL && mine->is_entered) {
        hk_interrupted_free(mine, block);
        return;
    }
    if (mine == NULL) {
        free_alone(NULL, owner, block);
        return;
    }
    hk_member_enter(mine);
    if (mine->facade != owner->facade || hk_heap_is_tight(mine) || is_without_thread(owner))
        free_alone(mine, owner, block);
    else
        free_batched(mine, owner, block);
    hk_member_leave(mine);
}
