/* Heaps for threads: HK_LOCK_THREADS. Read pool.h first.
 *
 * What the user holds is a facade. It owns the arenas, and the pools that are empty; each thread that allocates has a
 * member of its own, a heap without arenas, which takes empty pools from the facade and gives them back as soon as
 * they are empty again. So a thread's malloc and its frees of its own blocks take no lock and use no atomic
 * instruction; the facade's lock is taken once for each 16 KiB; and no memory is stranded in threads that sleep,
 * but for what is free in the pools that they have in use, and less than 64 KiB of others' blocks on their way home.
 *
 * A block that its owner's thread frees goes onto the pool's free list. Others send it home: see remote.c.
 *
 * A member's life:
 *
 *      LIVE    belongs to one thread.
 *      IDLE    its thread has ended. It has no current pools (they became partial, full, or were given back). Threads
 *              take its pools one by one, when they free a block in them or need one of the class, and the next
 *              new thread takes it over with what is left.
 *      SHARED  one to a facade, for those who have no member of their own: threads that run the destructors of other
 *              keys after ours, or for which there was no memory. Used by anybody under idle_lock.
 *      FROZEN  after a fork, in the child: its thread does not exist there, and may have been in the midst of a
 *              change while the kernel copied page after page. Nothing in it is ever looked at again: its
 *              blocks stay valid, and what is freed of them is lost until the child execs or ends. (This is what other
 *              allocators do, too; only a lock on the fast path would do better.)
 *      ASIDE   one to a facade, always entered, without a block: for a signal handler that interrupted the shared one's user
 *              (interrupted.c).
 *
 * The free list of a member's pool is in `other_free`, so that the fast path of a heap under the host's lock, which
 * checks no owner, finds such a pool without free blocks and goes the slow way.
 *
 * A destroyed facade is kept with all of its members for the next one that is made, so that what threads remember of
 * facades (struct hk_thread) is true for ever.
 *
 * The malloc of a whole process is a facade, too, which hk_threads_process makes: the fast paths below on
 * this thread's hk_process_member, inlined into malloc and free, are the fastest way into it (hosts/malloc/family.h).
 *
 * Locks are taken in this order: idle_lock, the facade's lock, the region's. */
#ifndef HK_HEAP_THREADS_H
#define HK_HEAP_THREADS_H

#include "heap/pool.h"

enum hk_member_state { HK_MEMBER_LIVE, HK_MEMBER_IDLE, HK_MEMBER_SHARED, HK_MEMBER_FROZEN, HK_MEMBER_ASIDE };

/* Blocks of one owner, freed by another member's thread, that were not sent home yet: fewer than these. */
#define HK_BATCH 14
struct hk_batch {
    hk_heap *owner;
    uint32_t count, bytes;
    void *blocks[HK_BATCH];
};

#define HK_BATCHES 16
#define HK_BATCHES_BYTES (64u << 10) /* of all of a member's: fewer than these */
struct hk_member {
    hk_heap heap;
    struct hk_batch batches[HK_BATCHES]; /* by the owner's number */
    uint32_t batches_bytes;
};

struct hk_facade {
    hk_heap heap; /* its lock protects arenas, empty pools and the list of members */
    hk_lock idle_lock; /* protects members that are IDLE or SHARED, and their list */
    hk_heap *members; /* all, by next_member; only grows */
    uint16_t member_count;
    hk_heap *idle;    /* by next_idle */
    hk_heap *shared;
    struct hk_facade *next; /* all facades, also those that were destroyed */
    struct hk_facade *next_spare; /* of those that were destroyed */
    char *chunk;            /* where the next member is made */
    size_t chunk_left;
    hk_heap aside;
};

/* What a thread used last by hk_malloc(heap, ...). */
struct hk_mine {
    hk_heap *facade, *member;
};

struct hk_thread;

/* All that a thread has, in one, since thread-local storage is short: 64 bytes in the whole library. */
struct hk_local {
    struct hk_mine mine;
    struct hk_thread *thread; /* which facades it has a member of; NULL: none yet */
};
extern __thread struct hk_local hk_local;

/* This thread's member of the process's facade; &hk_no_member until it has one, and after it has ended. */
extern __thread hk_heap *hk_process_member;
extern hk_heap hk_no_member;     /* has no blocks; never written */
extern hk_heap hk_counted_member; /* another such, in the place of a thread's own: see struct hk_counted */
extern hk_heap *hk_process_heap; /* NULL: not made yet */

/* What a thread allocates by malloc and frees, bytes as malloc_usable_size has them. In a thread that is counted hk_process_member is
 * &hk_counted_member, so that each call goes the slow way, where it is counted (hosts/malloc/family_count.c); nobody else pays. A block that grows
 * counts as freed and allocated, one that shrinks as partly freed. */
struct hk_counted {
    uint64_t allocated, freed, blocks, freed_blocks;
};
/* Whoever counts sets it before the first thread begins. This thread's; NULL: it is not counted (any more). In a hook. */
extern struct hk_counted *(*hk_counted_here)(void);
bool hk_threads_count(void); /* this thread, from now on. False: malloc is not ours. Not in a hook */

/* No thread has a way into the process's facade that is not the slow one, from now on: somebody wants to see every block. While there is one
 * thread; not in a hook. */
void hk_threads_go_slow(void);

/* Makes the facade that is the malloc of this process, or returns it; NULL: no memory. In the constructor or at the
 * first malloc, before there are threads. It calls pthread_key_create and pthread_atfork (unless
 * hk_threads_host_forks is set), of which the latter may call malloc where there are many handlers. */
hk_heap *hk_threads_process(const char *name);

hk_heap *hk_threads_create(void); /* a facade; the caller fills in what is in hk_heap_options */
void hk_threads_give_up(hk_heap *facade); /* with all that is allocated in it */
void hk_threads_inherit(hk_heap *facade); /* its members take on the settings that the facade has now */

/* The heap to use for a call of this thread: its member, or the shared one with the lock held, which hk_threads_leave
 * gives back. */
hk_heap *hk_threads_enter(hk_heap *facade);
void hk_threads_leave(hk_heap *member);
hk_heap *hk_threads_member(hk_heap *facade); /* this thread's; NULL: it gets none */
hk_heap *hk_threads_known(hk_heap *facade);  /* the member that this thread already has; NULL: none */

/* remote.c. A block of a member, freed by a thread that is not known to be its owner. mine: the thread's own; NULL: unknown. */
void hk_threads_free_foreign(hk_heap *mine, hk_heap *owner, void *block);
void hk_threads_send_batches(hk_heap *mine); /* of this thread */

void hk_threads_set_owner(struct hk_pool *pool, hk_heap *owner); /* owner: a member, or the facade */
struct hk_pool *hk_threads_take_empty(hk_heap *member, uint8_t size_class); /* for blocks of the class */
void hk_threads_put_empty(struct hk_pool *pool);

/* Moves a pool that is PARTIAL, of the class, from a member whose thread has ended, to `member`. False: none. */
bool hk_threads_take_partial(hk_heap *member, uint8_t size_class);

/* All that can be given back without waiting for a thread becomes empty pools. */
void hk_threads_settle(hk_heap *facade);

/* Around fork: every lock of every facade is held while the child is made. A host that has handlers of its own sets
 * hk_threads_host_forks before the first facade is made and calls these, prepare before it takes any lock of heaps
 * and of the region. */
extern bool hk_threads_host_forks;
void hk_threads_fork_prepare(void);
void hk_threads_fork_parent(void);
void hk_threads_fork_child(void);
/* The list of heaps, and every heap that locks itself: after those, before the region's. Who has some of these locks already has them once more. */
void hk_heaps_fork_prepare(void);
void hk_heaps_fork_release(void);

/* Slow paths of the inline functions; member may be &hk_no_member, which stands for the process's facade. */
void *hk_member_malloc_slow(hk_heap *member, size_t size);
void *hk_member_malloc_expired(hk_heap *member, size_t size); /* as hk_malloc_expired */
void hk_member_free_slow(hk_heap *member, void *block);

static inline struct hk_member *hk_member_of(hk_heap *heap)
{
    return (struct hk_member *)heap;
}

/* The bytes of a heap's structure. */
static inline size_t hk_heap_structure(const hk_heap *heap)
{
    return heap->mode == HK_LOCK_MEMBER    ? sizeof(struct hk_member)
           : heap->mode == HK_LOCK_THREADS ? sizeof(struct hk_facade)
                                           : sizeof(*heap);
}

/* The member whose block it is; NULL: none's. The block is in the region. */
static inline hk_heap *hk_threads_owner(const void *block)
{
    return __atomic_load_n(&hk_region.owners[hk_pool_of(block) - hk_region.pools], __ATOMIC_RELAXED);
}

/* Of a member's block; read where others rarely write. */
static inline uint32_t hk_threads_block_bytes(const void *block)
{
    return hk_class_size[__atomic_load_n(&hk_region.classes[hk_pool_of(block) - hk_region.pools], __ATOMIC_RELAXED)];
}

static inline struct hk_facade *hk_facade_of(hk_heap *heap)
{
    return (struct hk_facade *)(heap->facade != NULL ? heap->facade : heap);
}

/* The first of a heap's members; the others follow by next_member. NULL: the heap is not a facade. */
static inline hk_heap *hk_threads_members(const hk_heap *heap)
{
    return heap->mode == HK_LOCK_THREADS ? __atomic_load_n(&((const struct hk_facade *)heap)->members, __ATOMIC_ACQUIRE) : NULL;
}

/* The fast paths. NULL, or false: the slow one is to be asked. */
static inline __attribute__((always_inline)) void *hk_member_malloc_fast(hk_heap *member, size_t size)
{
    if (__builtin_expect(size > HK_SMALL_MAX, 0))
        return NULL;
    struct hk_pool *pool = member->current[(size + HK_STEP - 1) / HK_STEP];
    void *block = pool->other_free;
    if (__builtin_expect(block == NULL, 0))
        return NULL;
    if (__builtin_expect((member->budget -= (int64_t)size) < 0, 0))
        return hk_member_malloc_expired(member, size);
    pool->other_free = *(void **)block;
    return block;
}

/* As the fast path, of a size over HK_SMALL_MAX: where the slow ones begin. NULL: they go on. */
static inline void *hk_member_malloc_medium(hk_heap *member, size_t size)
{
    if (size <= HK_SMALL_MAX || size > HK_BLOCK_MAX)
        return NULL;
    struct hk_pool *pool = member->current[hk_class_of_64[(size + 63) / 64]];
    void *block = pool->other_free;
    if (block == NULL)
        return NULL;
    if ((member->budget -= (int64_t)size) < 0)
        return hk_member_malloc_expired(member, size);
    pool->other_free = *(void **)block;
    return block;
}

static inline __attribute__((always_inline)) bool hk_member_free_fast(hk_heap *member, void *block)
{
    uintptr_t distance = (uintptr_t)block - (uintptr_t)hk_region.base;
    if (__builtin_expect(distance >= hk_region.span, 0))
        return false;
    if (__builtin_expect(__atomic_load_n(&hk_region.owners[distance >> HK_POOL_SHIFT], __ATOMIC_RELAXED) != member, 0))
        return false;
    struct hk_pool *pool = &hk_region.pools[distance >> HK_POOL_SHIFT];
    void *next = pool->other_free;
    if (__builtin_expect(next == NULL, 0))
        return false;
    *(void **)block = next;
    pool->other_free = block;
    if (__builtin_expect(hk_take_one(&pool->used), 0))
        hk_pool_emptied(pool);
    return true;
}

static inline __attribute__((always_inline)) void *hk_member_malloc(hk_heap *member, size_t size)
{
    void *block = hk_member_malloc_fast(member, size);
    return __builtin_expect(block != NULL, 1) ? block : hk_member_malloc_slow(member, size);
}

static inline __attribute__((always_inline)) void hk_member_free(hk_heap *member, void *block)
{
    if (__builtin_expect(!hk_member_free_fast(member, block), 0))
        hk_member_free_slow(member, block);
}

#endif
