/* Signal handlers that allocate or free though they interrupted their own thread inside the heap. As with glibc they must not:
 * the block that a handler gets may be the one that the interrupted call is about to return. But they do not wait for
 * ever, and a child that is forked in a handler may allocate, which many do until they exec or end:
 *
 *      the thread's member is_entered      it is in one of its slow paths, and all locks that it takes are taken there
 *      a lock is the thread's own          what has no member to be entered: the shared one, a thread's first call
 *
 * Then blocks come from the C allocator, as large ones do, and blocks that are freed wait in the lists that other threads
 * use (remote.c), which are changed by one instruction. Under a limit there is no memory. What goes on here is counted in the facade.
 *
 * A C allocator that is none of libc's may come here, too: the first time that tcmalloc is asked for a block's size it makes an
 * object with `new`, which is ours. What it gets meanwhile is its own and not counted, or it would be asked for its size.
 *
 * A handler that leaves by siglongjmp in the midst of all this leaves the C allocator's lock taken, as with glibc alone, and the thread entered:
 * its slow paths come here for good, and what they get may go uncounted. */
#include "heap/threads.h"

static __thread bool asking; /* the C allocator, from here */

void *hk_interrupted_malloc(hk_heap *member, size_t size)
{
    hk_heap *facade = hk_heap_whole(member);
    if (hk_heap_is_tight(facade))
        return NULL;
    if (asking)
        return hk_libc.malloc(size);
    asking = true;
    void *block = hk_libc.malloc(size > HK_BLOCK_MAX ? size : HK_BLOCK_MAX + 1);
    size_t usable = block != NULL ? hk_libc.usable_size(block) : 0;
    asking = false;
    if (block == NULL)
        return NULL;
    hk_large_count(facade, usable, 1);
    __atomic_add_fetch(&facade->large_allocations, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&facade->allocated_before, size, __ATOMIC_RELAXED);
    return block;
}

void hk_interrupted_free(hk_heap *member, void *block)
{
    struct hk_pool *pool = hk_pool_find(block);
    if (pool == NULL)
        hk_large_free(hk_heap_whole(member), block);
    else if (hk_threads_owner(block) != NULL)
        hk_remote_push(hk_threads_owner(block), block);
    else
        hk_free_remote(block);
}

/* The free is undone, and waits. */
void hk_interrupted_emptied(struct hk_pool *pool)
{
    void **block = pool->other_free;
    pool->other_free = *block;
    pool->used++;
    hk_remote_push(pool->heap, block);
}
