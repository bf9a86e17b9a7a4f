/* Facades and their members: who belongs to which thread, and what happens at its end and at a fork. The model is in
 * threads.h; slow paths of malloc and free are those of heap.c and pools.c, the same for members as for other heaps.
 *
 * A thread knows its members by a record, struct hk_thread, which a key of pthreads hands to thread_end when the thread
 * ends. pthread_setspecific may itself call malloc; the record is in place before it does.
 */
#include "heap/threads.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define CHUNK_SIZE ((size_t)32 << 10) /* members and records are cut from chunks; pages not used cost nothing */
#define CACHE_LINE 64
#define THREAD_ENTRIES 31 /* facades that a thread has a member of; more are used through their shared member */

struct hk_thread {
    struct hk_thread *next; /* of the free ones */
    uint32_t count;
    bool is_taking; /* another member; a signal handler that comes meanwhile gets none */
    struct hk_mine entries[THREAD_ENTRIES];
};

hk_heap hk_no_member = {.current = {[0 ... HK_CLASSES - 1] = &hk_no_pool}, .mode = HK_LOCK_MEMBER};
hk_heap hk_counted_member = {.current = {[0 ... HK_CLASSES - 1] = &hk_no_pool}, .mode = HK_LOCK_MEMBER};
hk_heap *hk_process_heap;
struct hk_counted *(*hk_counted_here)(void);
bool hk_threads_host_forks;
__thread struct hk_local hk_local;
__thread hk_heap *hk_process_member = &hk_no_member;

static struct hk_thread ended; /* stands for "has none, and gets none any more" */
static bool slow; /* hk_process_member is nobody's member */

static struct {
    hk_lock lock;
    struct hk_facade *facades, *spares;
    struct hk_thread *free_records;
    char *chunk;
    size_t chunk_left;
    pthread_key_t key;
    bool is_ready, has_key;
} threads;

/* Memory for good. The lock that protects the chunk is held. */
static void *cut(char **chunk, size_t *left, size_t size)
{
    size = (size + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
    if (*left < size) {
        *chunk = hk_os_map(CHUNK_SIZE);
        *left = *chunk != NULL ? CHUNK_SIZE : 0;
        if (*chunk == NULL)
            return NULL;
    }
    char *start = *chunk;
    *chunk += size;
    *left -= size;
    return start;
}

static void member_inherit(hk_heap *member)
{
    const hk_heap *facade = member->facade;
    member->name = facade->name;
    member->alignment = facade->alignment;
    member->domain = facade->domain;
    member->watched = facade->watched;
}

static void member_reset(hk_heap *member)
{
    struct hk_facade *facade = hk_facade_of(member);
    uint8_t state = member->state;
    uint16_t number = member->number;
    hk_heap *next_member = member->next_member, *next_idle = member->next_idle;
    memset(hk_member_of(member), 0, sizeof(struct hk_member));
    for (int i = 0; i < HK_CLASSES; i++)
        member->current[i] = &hk_no_pool;
    member->mode = HK_LOCK_MEMBER;
    member->facade = &facade->heap;
    member_inherit(member);
    member->state = state;
    member->number = number;
    member->next_member = next_member;
    member->next_idle = next_idle;
}

static hk_heap *member_make(struct hk_facade *facade, enum hk_member_state state)
{
    hk_lock_take(&facade->heap.lock);
    hk_heap *member = NULL;
    size_t refused = facade->heap.refused;
    if (hk_limit_allows(&facade->heap, sizeof(struct hk_member)))
        member = cut(&facade->chunk, &facade->chunk_left, sizeof(struct hk_member));
    facade->heap.refused = refused; /* nothing is: the shared member will do */
    if (member != NULL) {
        member->facade = &facade->heap;
        member->state = state;
        member->number = facade->member_count++;
        member->next_member = facade->members;
        member_reset(member);
        __atomic_store_n(&facade->members, member, __ATOMIC_RELEASE);
    }
    hk_lock_release(&facade->heap.lock);
    return member;
}

/* For a thread that has none: one whose thread has ended, or a new one. */
static hk_heap *member_take(struct hk_facade *facade, const struct hk_thread *thread)
{
    hk_lock_take(&facade->idle_lock);
    hk_heap *member = facade->idle;
    if (member != NULL) {
        __atomic_store_n(&facade->idle, member->next_idle, __ATOMIC_RELAXED);
        __atomic_store_n(&member->state, HK_MEMBER_LIVE, __ATOMIC_RELEASE);
    }
    hk_lock_release(&facade->idle_lock);
    if (member == NULL)
        member = member_make(facade, HK_MEMBER_LIVE);
    if (member != NULL)
        __atomic_store_n(&member->thread, thread, __ATOMIC_RELAXED);
    return member;
}

/* The thread has ended. */
static void member_put(hk_heap *member)
{
    struct hk_facade *facade = hk_facade_of(member);
    hk_member_enter(member);
    hk_threads_send_batches(member);
    hk_lock_take(&facade->idle_lock);
    hk_heap_retire(member);
    hk_member_leave(member);
    __atomic_store_n(&member->thread, NULL, __ATOMIC_RELAXED);
    __atomic_store_n(&member->state, HK_MEMBER_IDLE, __ATOMIC_RELEASE);
    member->next_idle = facade->idle;
    __atomic_store_n(&facade->idle, member, __ATOMIC_RELAXED);
    hk_lock_release(&facade->idle_lock);
}

/* Threads. */

static void record_free(struct hk_thread *thread)
{
    thread->count = 0;
    hk_lock_take(&threads.lock);
    thread->next = threads.free_records;
    threads.free_records = thread;
    hk_lock_release(&threads.lock);
}

static void thread_end(void *argument)
{
    struct hk_thread *thread = argument;
    hk_local.thread = &ended;
    hk_local.mine = (struct hk_mine){NULL, NULL};
    hk_process_member = &hk_no_member;
    for (uint32_t i = 0; i < thread->count; i++)
        member_put(thread->entries[i].member);
    record_free(thread);
}

static struct hk_thread *thread_begin(void)
{
    hk_local.thread = &ended; /* meanwhile, for signal handlers */
    __atomic_signal_fence(__ATOMIC_ACQ_REL);
    if (!threads.has_key)
        return &ended;
    hk_lock_take(&threads.lock);
    struct hk_thread *thread = threads.free_records;
    if (thread != NULL)
        threads.free_records = thread->next;
    else
        thread = cut(&threads.chunk, &threads.chunk_left, sizeof(*thread));
    hk_lock_release(&threads.lock);
    hk_local.thread = thread;
    if (thread == NULL)
        return &ended; /* for now */
    if (pthread_setspecific(threads.key, thread) != 0)
        thread_end(thread); /* nobody would tell us of its end */
    return hk_local.thread;
}

static hk_heap *use_now(hk_heap *facade, hk_heap *member)
{
    hk_local.mine = (struct hk_mine){facade, member};
    if (facade == hk_process_heap && hk_process_member != &hk_counted_member && !slow)
        hk_process_member = member;
    return member;
}

void hk_threads_go_slow(void)
{
    slow = true;
    hk_process_member = &hk_no_member;
}

bool hk_threads_count(void)
{
    if (hk_process_heap == NULL || hk_counted_here == NULL)
        return false;
    hk_process_member = &hk_counted_member;
    return true;
}

hk_heap *hk_threads_known(hk_heap *facade)
{
    for (uint32_t i = 0; hk_local.thread != NULL && i < hk_local.thread->count; i++)
        if (hk_local.thread->entries[i].facade == facade)
            return use_now(facade, hk_local.thread->entries[i].member);
    return NULL;
}

/* This thread's member of the facade; NULL: it has none and gets none. */
static hk_heap *member_of_this_thread(hk_heap *facade)
{
    struct hk_thread *thread = hk_local.thread != NULL ? hk_local.thread : thread_begin();
    hk_heap *member = hk_threads_known(facade);
    if (member != NULL)
        return member;
    if (thread == &ended || thread->count == THREAD_ENTRIES || thread->is_taking)
        return NULL;
    thread->is_taking = true;
    __atomic_signal_fence(__ATOMIC_ACQ_REL);
    member = member_take(hk_facade_of(facade), thread);
    if (member != NULL) {
        thread->entries[thread->count] = (struct hk_mine){facade, member};
        thread->count++;
        use_now(facade, member);
    }
    __atomic_signal_fence(__ATOMIC_ACQ_REL);
    thread->is_taking = false;
    return member;
}

hk_heap *hk_threads_member(hk_heap *facade)
{
    if (hk_local.mine.facade == facade)
        return hk_local.mine.member;
    int saved = errno;
    hk_heap *member = member_of_this_thread(facade);
    errno = saved;
    return member;
}

hk_heap *hk_threads_enter(hk_heap *facade)
{
    hk_heap *member = hk_threads_member(facade);
    if (member != NULL)
        return member;
    if (hk_lock_is_mine(&hk_facade_of(facade)->idle_lock) || hk_lock_is_mine(&facade->lock))
        return &hk_facade_of(facade)->aside;
    hk_lock_take(&hk_facade_of(facade)->idle_lock);
    return hk_facade_of(facade)->shared;
}

void hk_threads_leave(hk_heap *member)
{
    if (member->state == HK_MEMBER_SHARED)
        hk_lock_release(&hk_facade_of(member)->idle_lock);
}

/* Blocks and pools. */

/* A run's pools were never shown as anybody's, and what says so may not be writable yet (see owners_make_writable). */
void hk_threads_set_owner(struct hk_pool *pool, hk_heap *owner)
{
    hk_heap *shown = owner->mode == HK_LOCK_MEMBER ? owner : NULL, **place = &hk_region.owners[pool - hk_region.pools];
    __atomic_store_n(&pool->heap, owner, __ATOMIC_RELAXED);
    if (shown != __atomic_load_n(place, __ATOMIC_RELAXED))
        __atomic_store_n(place, shown, __ATOMIC_RELAXED);
}

static bool owners_make_writable(size_t index)
{
    size_t step = hk_os_page_size(); /* whole pages of both tables */
    size_t from = __atomic_load_n(&hk_region.owners_writable, __ATOMIC_ACQUIRE);
    if (index < from)
        return true;
    size_t to = index / step * step + step, limit = (size_t)hk_region.arena_limit * HK_ARENA_POOLS;
    if (to > limit)
        to = limit;
    if (!hk_os_commit(hk_region.owners + from, (to - from) * sizeof(hk_heap *)) ||
        !hk_os_commit(hk_region.classes + from, to - from))
        return false;
    while (from < to && !__atomic_compare_exchange_n(&hk_region.owners_writable, &from, to, false, __ATOMIC_RELEASE,
                                                     __ATOMIC_ACQUIRE))
        ; /* others may do the same at the same time */
    return true;
}

struct hk_pool *hk_threads_take_empty(hk_heap *member, uint8_t size_class)
{
    hk_heap *facade = member->facade;
    hk_threads_send_batches(member);
    hk_lock_take(&facade->lock);
    struct hk_pool *pool = hk_pool_take_empty(facade);
    if (pool != NULL && !owners_make_writable((size_t)(pool - hk_region.pools))) {
        hk_pool_put_empty(pool);
        pool = NULL;
    }
    if (pool != NULL) {
        hk_threads_set_owner(pool, member);
        __atomic_store_n(&hk_region.classes[pool - hk_region.pools], size_class, __ATOMIC_RELAXED);
    }
    hk_lock_release(&facade->lock);
    return pool;
}

void hk_threads_put_empty(struct hk_pool *pool)
{
    hk_heap *facade = pool->heap->facade;
    hk_lock_take(&facade->lock);
    hk_threads_set_owner(pool, facade);
    hk_pool_put_empty(pool);
    hk_lock_release(&facade->lock);
}

bool hk_threads_take_partial(hk_heap *member, uint8_t size_class)
{
    enum { LOOKED_AT = 8 };
    struct hk_facade *facade = hk_facade_of(member);
    struct hk_pool *pool = NULL;
    if (__atomic_load_n(&facade->idle, __ATOMIC_RELAXED) == NULL || member->state != HK_MEMBER_LIVE)
        return false;
    hk_lock_take(&facade->idle_lock);
    hk_heap *idle = facade->idle;
    for (int i = 0; i < LOOKED_AT && idle != NULL && pool == NULL; i++) {
        hk_remote_take(idle);
        pool = idle->partial[size_class];
        idle = idle->next_idle;
    }
    if (pool != NULL)
        hk_pool_move(pool, member);
    hk_lock_release(&facade->idle_lock);
    return pool != NULL;
}

void hk_threads_settle(hk_heap *heap)
{
    struct hk_facade *facade = hk_facade_of(heap);
    hk_heap *mine = hk_threads_known(heap);
    if (mine != NULL) {
        hk_member_enter(mine);
        hk_threads_send_batches(mine);
    }
    for (int pass = 0; pass < 2; pass++) { /* in the first, blocks may go to another whose pool they are in by now */
        hk_lock_take(&facade->idle_lock);
        for (hk_heap *member = facade->idle; member != NULL; member = member->next_idle)
            hk_heap_retire(member);
        hk_heap_retire(facade->shared);
        hk_lock_release(&facade->idle_lock);
        if (mine != NULL)
            hk_heap_retire(mine);
    }
    if (mine != NULL)
        hk_member_leave(mine);
}

void *hk_member_malloc_slow(hk_heap *member, size_t size)
{
    void *block = hk_member_malloc_medium(member, size);
    if (block != NULL)
        return block;
    if (member != &hk_no_member)
        return hk_malloc_slow(member, size);
    if (hk_process_heap == NULL)
        return NULL;
    member = hk_threads_enter(hk_process_heap);
    block = hk_malloc_slow(member, size);
    hk_threads_leave(member);
    return block;
}

void hk_member_free_slow(hk_heap *member, void *block)
{
    hk_heap *owner = hk_region_has(block) ? hk_threads_owner(block) : NULL; /* NULL: no member */
    if (owner == member && !member->is_entered) {
        hk_member_enter(member);
        hk_free_into(member, block);
        hk_member_leave(member);
        return;
    }
    if (owner != NULL && member == &hk_no_member)
        member = hk_threads_member(hk_process_heap); /* NULL: the thread ends */
    if (owner != NULL && owner != member)
        hk_threads_free_foreign(member, owner, block);
    else
        hk_free_slow(member != &hk_no_member ? member : hk_process_heap, block);
}

/* Facades. */

void hk_heaps_fork_prepare(void)
{
    hk_lock_take_to_fork(&hk_heaps_lock);
    struct hk_heap_cursor cursor = {0};
    for (hk_heap *heap; (heap = hk_heap_next(&cursor)) != NULL;)
        if (heap->mode == HK_LOCK_OWN)
            hk_lock_take_to_fork(&heap->lock);
}

void hk_heaps_fork_release(void)
{
    struct hk_heap_cursor cursor = {0};
    for (hk_heap *heap; (heap = hk_heap_next(&cursor)) != NULL;)
        if (heap->mode == HK_LOCK_OWN)
            hk_lock_release_forked(&heap->lock);
    hk_lock_release_forked(&hk_heaps_lock);
}

static void own_fork_prepare(void)
{
    hk_threads_fork_prepare();
    hk_heaps_fork_prepare();
    hk_lock_take_to_fork(&hk_region.lock);
    hk_lock_take_to_fork(&hk_buffers_lock);
}

static void own_fork_release(void)
{
    hk_lock_release_forked(&hk_buffers_lock);
    hk_lock_release_forked(&hk_region.lock);
    hk_heaps_fork_release();
}

static void own_fork_parent(void)
{
    hk_threads_fork_parent();
    own_fork_release();
}

static void own_fork_child(void)
{
    hk_threads_fork_child();
    own_fork_release();
}

static void threads_prepare(void)
{
    hk_lock_take(&threads.lock);
    bool first = !threads.is_ready;
    threads.is_ready = true;
    if (first)
        threads.has_key = pthread_key_create(&threads.key, thread_end) == 0;
    hk_lock_release(&threads.lock);
    if (first && !hk_threads_host_forks) /* may call malloc */
        pthread_atfork(own_fork_prepare, own_fork_parent, own_fork_child);
}

static void aside_init(struct hk_facade *facade)
{
    hk_heap *aside = &facade->aside;
    for (int i = 0; i < HK_CLASSES; i++)
        aside->current[i] = &hk_no_pool;
    aside->mode = HK_LOCK_MEMBER;
    aside->state = HK_MEMBER_ASIDE;
    aside->is_entered = true;
    aside->facade = &facade->heap;
    aside->alignment = HK_ALIGNMENT;
}

hk_heap *hk_threads_create(void)
{
    threads_prepare();
    hk_lock_take(&threads.lock);
    struct hk_facade *facade = threads.spares;
    if (facade != NULL)
        threads.spares = facade->next_spare;
    hk_lock_release(&threads.lock);
    if (facade != NULL)
        return &facade->heap;

    facade = hk_os_map(sizeof(*facade));
    if (facade == NULL)
        return NULL;
    facade->heap.mode = HK_LOCK_THREADS;
    aside_init(facade);
    facade->shared = member_make(facade, HK_MEMBER_SHARED);
    if (facade->shared == NULL) {
        hk_os_unmap(facade, sizeof(*facade));
        return NULL;
    }
    hk_lock_take(&threads.lock);
    facade->next = threads.facades;
    threads.facades = facade;
    hk_lock_release(&threads.lock);
    return &facade->heap;
}

void hk_threads_give_up(hk_heap *heap)
{
    struct hk_facade *facade = hk_facade_of(heap);
    for (const struct hk_arena *arena = heap->arenas; arena != NULL; arena = arena->next)
        for (size_t i = 0; i < arena->pools; i++)
            if (!(arena->empty >> i & 1))
                hk_threads_set_owner(&hk_arena_first_pool(arena)[i], heap);
    hk_arenas_give_up(heap);
    for (hk_heap *member = facade->members; member != NULL; member = member->next_member)
        member_reset(member);
    hk_lock lock = heap->lock;
    memset(heap, 0, sizeof(*heap));
    heap->mode = HK_LOCK_THREADS;
    heap->lock = lock;
    hk_heap_mark_ended(heap);
    hk_lock_take(&threads.lock);
    facade->next_spare = threads.spares;
    threads.spares = facade;
    hk_lock_release(&threads.lock);
}

hk_heap *hk_threads_process(const char *name)
{
    if (hk_process_heap == NULL)
        hk_process_heap = hk_heap_create(&(hk_heap_options){
            .size = sizeof(hk_heap_options), .lock = HK_LOCK_THREADS, .name = name, .debug = HK_DEBUG_OFF});
    return hk_process_heap;
}

void hk_threads_inherit(hk_heap *heap)
{
    for (hk_heap *member = hk_threads_members(heap); member != NULL; member = member->next_member)
        member_inherit(member);
}

/* Fork. */

void hk_threads_fork_prepare(void)
{
    hk_lock_take_to_fork(&threads.lock);
    for (struct hk_facade *facade = threads.facades; facade != NULL; facade = facade->next) {
        hk_lock_take_to_fork(&facade->idle_lock);
        hk_lock_take_to_fork(&facade->heap.lock);
    }
}

void hk_threads_fork_parent(void)
{
    for (struct hk_facade *facade = threads.facades; facade != NULL; facade = facade->next) {
        hk_lock_release_forked(&facade->heap.lock);
        hk_lock_release_forked(&facade->idle_lock);
    }
    hk_lock_release_forked(&threads.lock);
}

static bool is_of_this_thread(const hk_heap *member)
{
    return member->thread != NULL && member->thread == hk_local.thread;
}

void hk_threads_fork_child(void)
{
    for (struct hk_facade *facade = threads.facades; facade != NULL; facade = facade->next)
        for (hk_heap *member = facade->members; member != NULL; member = member->next_member)
            if (member->state == HK_MEMBER_LIVE && !is_of_this_thread(member))
                __atomic_store_n(&member->state, HK_MEMBER_FROZEN, __ATOMIC_RELEASE);
    hk_threads_fork_parent();
}
