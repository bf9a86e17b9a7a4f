/* Heaps under HK_LOCK_THREADS: each thread allocates from a member of its own. Blocks freed by other threads, threads
 * that end and their members' next owners, blocks on their way to their owner, threads that allocate while they end, forks with
 * threads at work, statistics that add up when all is over, and blocks that meet heaps of the other kinds. */
#include "heap_helper.h"

#include <sched.h>

#include "heap/threads.h"

enum { THREADS = 4, SHELF = 1024 };

static struct shadow shelf[SHELF];
static hk_lock shelf_locks[SHELF];
static uint64_t broken; /* a line of this file */

struct worker {
    pthread_t thread;
    hk_heap *heap;
    uint64_t random;
    int steps;
    void *result;
};

static void check_at(bool good, int line)
{
    if (!good)
        __atomic_store_n(&broken, (uint64_t)line, __ATOMIC_RELAXED); /* where */
}
#define check(good) check_at(good, __LINE__)

static void shadow_make(hk_heap *heap, struct shadow *s, uint64_t *random)
{
    size_t size = random_size(random);
    unsigned char *block;
    switch (random_below(random, 8)) {
    case 0:
        block = hk_calloc(heap, 1, size);
        for (size_t i = 0; i < size; i++)
            check(block[i] == 0);
        break;
    case 1: {
        size_t alignment = (size_t)16 << random_below(random, 9);
        block = hk_aligned_alloc(heap, alignment, size);
        check((uintptr_t)block % alignment == 0);
        break;
    }
    default:
        block = hk_malloc(heap, size);
    }
    shadow_fill(s, block, size, random_next(random));
}

static void shadow_drop(hk_heap *heap, struct shadow *s, uint64_t *random)
{
    if (s->block == NULL)
        return;
    check(is_intact(s));
    if (random_below(random, 8) == 0) {
        size_t size = random_size(random), least = size < s->size ? size : s->size;
        s->block = hk_realloc(heap, s->block, size);
        check(shadow_holds(s->block, least, s->tag));
    }
    hk_free(heap, s->block);
}

/* Puts blocks onto the shelf and frees what lay there, whoever made it. */
static void *work(void *argument)
{
    struct worker *w = argument;
    for (int i = 0; i < w->steps; i++) {
        struct shadow mine, other;
        shadow_make(w->heap, &mine, &w->random);
        size_t place = random_below(&w->random, SHELF);
        hk_lock_take(&shelf_locks[place]);
        other = shelf[place];
        shelf[place] = mine;
        hk_lock_release(&shelf_locks[place]);
        shadow_drop(w->heap, &other, &w->random);
    }
    return NULL;
}

static void start(struct worker *w, hk_heap *heap, uint64_t seed, int steps, void *(*function)(void *))
{
    *w = (struct worker){.heap = heap, .random = seed, .steps = rounds(steps)};
    assert_int_equal(pthread_create(&w->thread, NULL, function, w), 0);
}

static void join(struct worker *w)
{
    assert_int_equal(pthread_join(w->thread, &w->result), 0);
}

static void run(hk_heap *heap, uint64_t seed, int steps, void *(*function)(void *))
{
    struct worker workers[THREADS];
    for (int i = 0; i < THREADS; i++)
        start(&workers[i], heap, seed + (uint64_t)i, steps, function);
    for (int i = 0; i < THREADS; i++)
        join(&workers[i]);
}

static void shelf_clear(hk_heap *heap)
{
    uint64_t random = 1;
    for (int i = 0; i < SHELF; i++) {
        shadow_drop(heap, &shelf[i], &random);
        shelf[i].block = NULL;
    }
}

static uint32_t members_of(hk_heap *heap)
{
    uint32_t count = 0;
    for (hk_heap *member = hk_threads_members(heap); member != NULL; member = member->next_member)
        count++;
    return count;
}

static void assert_all_is_free(hk_heap *heap)
{
    assert_int_equal(broken, 0);
    hk_heap_trim(heap);
    hk_heap_stats s = stats_of(heap);
    assert_int_equal(s.live_blocks, 0);
    assert_int_equal(s.large_blocks + s.large_bytes, 0);
    assert_int_equal(s.pools_used + s.pools_full, 0);
    assert_in_order(heap);
}

static void test_threads_free_each_others_blocks_and_all_comes_back(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_THREADS);
    run(heap, 1, 30000, work);
    assert_in_order(heap);
    shelf_clear(heap);
    assert_all_is_free(heap);
    hk_heap_destroy(heap);
}

static void test_threads_that_come_take_over_from_those_that_went(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_THREADS);
    for (uint64_t i = 0; i < 40; i++)
        run(heap, 100 * i, 500, work);
    shelf_clear(heap);
    assert_true(members_of(heap) <= THREADS + 2); /* the main thread's, and the shared one */
    assert_all_is_free(heap);
    hk_heap_destroy(heap);
}

/* --- a thread's end --- */

static pthread_key_t late_key;

static void late_destructor(void *argument)
{
    struct worker *w = argument;
    w->steps = 200;
    work(w);
    if (w->result == NULL) { /* once more, in the next round of destructors: after every other key's */
        w->result = w;
        pthread_setspecific(late_key, w);
    }
}

static void *work_late(void *argument)
{
    work(argument);
    pthread_setspecific(late_key, argument);
    return NULL;
}

static void test_destructors_of_other_keys_may_allocate_after_the_members_end(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_THREADS);
    hk_malloc(heap, 1); /* our key comes first */
    assert_int_equal(pthread_key_create(&late_key, late_destructor), 0);
    run(heap, 7, 2000, work_late);
    pthread_key_delete(late_key);
    shelf_clear(heap);
    assert_int_equal(broken, 0);
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

/* --- other kinds of heaps --- */

static void test_a_block_may_be_freed_through_a_heap_of_another_kind(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_THREADS), *host = heap_new(HK_LOCK_HOST), *own = heap_new(HK_LOCK_OWN);
    hk_heap *all[] = {heap, host, own};
    for (int from = 0; from < 3; from++)
        for (int to = 0; to < 3; to++)
            for (int i = 0; i < 3000; i++) {
                void *block = hk_malloc(all[from], (size_t)i % 512);
                void *keep = hk_malloc(all[from], 40);
                assert_ptr_equal(hk_heap_of(block), all[from]);
                hk_free(all[to], block);
                hk_free(all[from], keep);
            }
    hk_heap_trim(host);
    assert_int_equal(stats_of(host).live_blocks + stats_of(own).live_blocks, 0);
    assert_all_is_free(heap);
    assert_in_order(host);
    assert_in_order(own);
    hk_heap_destroy(heap);
    hk_heap_destroy(host);
    hk_heap_destroy(own);
}

static void test_a_thread_uses_many_heaps_and_a_destroyed_ones_successor(void **state)
{
    hk_heap *heaps[6];
    for (int turn = 0; turn < 5; turn++) {
        for (size_t i = 0; i < COUNT(heaps); i++)
            heaps[i] = heap_new(HK_LOCK_THREADS);
        for (size_t i = 0; i < 480; i++) {
            unsigned char *block = hk_malloc(heaps[i % 6], i);
            memset(block, 0xab, i);
            if (i % 4)
                hk_free(heaps[i % 6], block);
        }
        for (size_t i = 0; i < COUNT(heaps); i++) {
            assert_int_equal(stats_of(heaps[i]).live_blocks, i % 2 ? 0 : 40);
            assert_int_equal(stats_of(heaps[i]).allocated_blocks, 80);
            assert_in_order(heaps[i]);
            hk_heap_destroy(heaps[i]);
        }
    }
}

/* --- blocks on their way home --- */

/* A thread that does what it is told, and is there until it is dismissed. */
struct other {
    pthread_t thread;
    pthread_barrier_t barrier;
    void (*job)(void *);
    void *argument;
};

static void *do_jobs(void *argument)
{
    struct other *o = argument;
    for (;;) {
        pthread_barrier_wait(&o->barrier);
        if (o->job == NULL)
            return NULL;
        o->job(o->argument);
        pthread_barrier_wait(&o->barrier);
    }
}

static void hire(struct other *o)
{
    assert_int_equal(pthread_barrier_init(&o->barrier, NULL, 2), 0);
    assert_int_equal(pthread_create(&o->thread, NULL, do_jobs, o), 0);
}

static void let_do(struct other *o, void (*job)(void *), void *argument)
{
    o->job = job;
    o->argument = argument;
    pthread_barrier_wait(&o->barrier);
    pthread_barrier_wait(&o->barrier);
}

static void dismiss(struct other *o)
{
    o->job = NULL;
    pthread_barrier_wait(&o->barrier);
    pthread_join(o->thread, NULL);
    pthread_barrier_destroy(&o->barrier);
}

struct load {
    hk_heap *heap;
    size_t count, size; /* of each block; 0: they differ, up to HK_BLOCK_MAX */
    void *blocks[40 * HK_BATCH];
};

static void load_make(void *argument)
{
    struct load *l = argument;
    for (size_t i = 0; i < l->count; i++) {
        size_t size = l->size != 0 ? l->size : 1 + i * 97 % HK_BLOCK_MAX;
        l->blocks[i] = memset(hk_malloc(l->heap, size), (int)i, size);
    }
}

static void load_drop(void *argument)
{
    struct load *l = argument;
    for (size_t i = 0; i < l->count; i++)
        hk_free(l->heap, l->blocks[i]);
}

static void trim(void *heap)
{
    hk_heap_trim(heap);
}

/* Blocks that came back to this thread's member are free; those that are on their way are not. */
static uint64_t away(hk_heap *heap)
{
    hk_heap_trim(heap);
    assert_in_order(heap);
    return stats_of(heap).live_blocks;
}

static void test_full_batches_go_home_and_the_rest_waits(void **state)
{
    static const size_t sizes[] = {1, 24, 60, 130, HK_BLOCK_MAX, 0};
    hk_heap *heap = heap_new(HK_LOCK_THREADS);
    struct other other;
    hire(&other);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct load load = {.heap = heap, .count = 40 * HK_BATCH - 1, .size = sizes[i]};
        load_make(&load);
        let_do(&other, load_drop, &load);
        assert_int_equal(away(heap), load.count % HK_BATCH);
        let_do(&other, trim, heap);
        assert_int_equal(away(heap), 0);
    }
    dismiss(&other);
    assert_all_is_free(heap);
    hk_heap_destroy(heap);
}

static void test_a_silent_thread_keeps_few_bytes_of_however_many_others(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_THREADS);
    struct other owners[HK_BATCHES], other;
    static struct load loads[HK_BATCHES];
    hire(&other);
    for (size_t i = 0; i < COUNT(owners); i++) {
        loads[i] = (struct load){.heap = heap, .count = 3 * HK_BATCH - 1, .size = i % 4 == 0 ? 0 : HK_BLOCK_MAX / (i % 4)};
        hire(&owners[i]);
        let_do(&owners[i], load_make, &loads[i]);
        let_do(&other, load_drop, &loads[i]);
    }
    for (size_t i = 0; i < COUNT(owners); i++)
        let_do(&owners[i], trim, heap);
    assert_in_range(stats_of(heap).live_bytes, 1, HK_BATCHES_BYTES - 1);
    for (size_t i = 0; i < COUNT(owners); i++)
        dismiss(&owners[i]);
    dismiss(&other);
    assert_all_is_free(heap);
    hk_heap_destroy(heap);
}

/* A thread that saw the owner at work sends it blocks; meanwhile that one's thread ends. */
static void test_what_came_to_an_ended_thread_too_late_is_found_before_a_pool_is_taken(void **state)
{
    enum { SIZE = 256, POOLS = 3, BLOCKS = POOLS * HK_POOL_SIZE / SIZE };
    hk_heap *heap = heap_new(HK_LOCK_THREADS);
    static struct load load;
    struct other owner;
    load = (struct load){.heap = heap, .count = BLOCKS, .size = SIZE};
    hire(&owner);
    let_do(&owner, load_make, &load);
    dismiss(&owner);
    for (size_t i = 1; i < BLOCKS; i++)
        hk_remote_push(hk_pool_owner(hk_pool_of(load.blocks[i])), load.blocks[i]);
    load.blocks[BLOCKS] = load.blocks[0];
    load_make(&load);
    hk_heap_stats s = stats_of(heap);
    assert_int_equal(s.live_blocks, BLOCKS + 1);
    assert_int_equal(s.pools_used + s.pools_full, POOLS + 1);
    load.count++;
    load_drop(&load);
    assert_all_is_free(heap);
    hk_heap_destroy(heap);
}

static void test_all_that_describes_a_heap_for_threads_is_counted(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_THREADS);
    struct load load = {.heap = heap, .count = 1, .size = 50};
    struct other other;
    hire(&other);
    let_do(&other, load_make, &load);
    hk_heap_stats s = stats_of(heap);
    size_t bytes = sizeof(struct hk_facade), arena = sizeof(struct hk_arena);
    for (const hk_heap *member = hk_threads_members(heap); member != NULL; member = member->next_member)
        bytes += sizeof(struct hk_member);
    arena += HK_ARENA_POOLS * (sizeof(hk_region.pools[0]) + sizeof(hk_region.owners[0]) + sizeof(hk_region.classes[0]));
    assert_int_equal(s.metadata_bytes, bytes + s.arenas * arena);
    assert_int_equal(s.mapped_bytes + s.large_bytes, hk_heap_mapped(heap));
    let_do(&other, load_drop, &load);
    dismiss(&other);
    hk_heap_destroy(heap);
}

static void test_what_waits_goes_home_when_its_thread_ends(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_THREADS);
    struct load load = {.heap = heap, .count = HK_BATCH - 1, .size = 50};
    struct other other;
    hire(&other);
    load_make(&load);
    let_do(&other, load_drop, &load);
    assert_int_equal(away(heap), HK_BATCH - 1);
    dismiss(&other);
    assert_int_equal(away(heap), 0);
    assert_all_is_free(heap);
    hk_heap_destroy(heap);
}

static void test_what_waits_goes_home_before_its_thread_takes_another_pool(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_THREADS);
    struct load load = {.heap = heap, .count = HK_BATCH - 1, .size = 50}, growth = {.heap = heap, .count = 1, .size = 300};
    struct other other;
    hire(&other);
    load_make(&load);
    let_do(&other, load_drop, &load);
    let_do(&other, load_make, &growth);
    assert_int_equal(away(heap), 1);
    let_do(&other, load_drop, &growth);
    dismiss(&other);
    assert_all_is_free(heap);
    hk_heap_destroy(heap);
}

static void test_what_waits_is_freed_though_its_owner_has_ended(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_THREADS);
    struct load load = {.heap = heap, .count = HK_BATCH - 1, .size = 50}, growth = {.heap = heap, .count = 1, .size = 300};
    struct other owner;
    hire(&owner);
    let_do(&owner, load_make, &load);
    load_drop(&load);
    dismiss(&owner);
    load_make(&growth);
    assert_int_equal(stats_of(heap).live_blocks, 1); /* sent as the pool was taken, and nobody had to take them back */
    load_drop(&growth);
    assert_all_is_free(heap);
    hk_heap_destroy(heap);
}

static void test_what_waits_goes_home_though_its_owner_has_a_successor(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_THREADS);
    struct load load = {.heap = heap, .count = HK_BATCH - 1, .size = 50};
    struct other owner;
    hire(&owner);
    let_do(&owner, load_make, &load);
    load_drop(&load);
    dismiss(&owner);
    hire(&owner);
    let_do(&owner, load_make, &load);
    hk_heap_trim(heap);
    let_do(&owner, trim, heap);
    assert_int_equal(away(heap), HK_BATCH - 1);
    let_do(&owner, load_drop, &load);
    dismiss(&owner);
    assert_all_is_free(heap);
    hk_heap_destroy(heap);
}

static void test_owners_that_share_a_batch_get_theirs(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_THREADS);
    struct other owners[HK_BATCHES + 4];
    static struct load loads[HK_BATCHES + 4];
    for (size_t i = 0; i < COUNT(owners); i++) {
        loads[i] = (struct load){.heap = heap, .count = HK_BATCH + 3, .size = 16 * (1 + i)};
        hire(&owners[i]);
        let_do(&owners[i], load_make, &loads[i]);
    }
    for (size_t k = 0; k < HK_BATCH + 3; k++)
        for (size_t i = 0; i < COUNT(owners); i++)
            hk_free(heap, loads[i].blocks[k]);
    hk_heap_trim(heap);
    for (size_t i = 0; i < COUNT(owners); i++)
        let_do(&owners[i], trim, heap);
    assert_all_is_free(heap); /* with all owners still there */
    for (size_t i = 0; i < COUNT(owners); i++)
        dismiss(&owners[i]);
    hk_heap_destroy(heap);
}

static void drop_remotely(void *argument)
{
    struct load *l = argument;
    for (size_t i = 0; i < l->count; i++)
        check(hk_free_remote(l->blocks[i]));
}

static void test_what_is_freed_through_another_heap_or_from_a_hook_does_not_wait(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_THREADS), *another = heap_new(HK_LOCK_THREADS);
    struct load load = {.heap = heap, .count = HK_BATCH - 1, .size = 50};
    struct other other;
    hire(&other);
    load_make(&load);
    load.heap = another;
    let_do(&other, load_drop, &load);
    assert_int_equal(away(heap), 0);
    load.heap = heap;
    load_make(&load);
    let_do(&other, drop_remotely, &load);
    assert_int_equal(away(heap), 0);
    dismiss(&other);
    hk_heap_destroy(another);
    hk_heap_destroy(heap);
}

static void test_nothing_waits_where_memory_is_limited(void **state)
{
    hk_heap *heap = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options), .lock = HK_LOCK_THREADS, .name = "limited", .limit_bytes = 64 << 20});
    struct load load = {.heap = heap, .count = HK_BATCH - 1, .size = 50};
    struct other other;
    hire(&other);
    load_make(&load);
    let_do(&other, load_drop, &load);
    assert_int_equal(away(heap), 0);
    dismiss(&other);
    hk_heap_destroy(heap);
}

static void test_what_waits_for_a_destroyed_heap_is_forgotten(void **state)
{
    struct other owner;
    hire(&owner);
    for (int i = 0; i < 3; i++) { /* the same facade again */
        hk_heap *heap = heap_new(HK_LOCK_THREADS);
        struct load load = {.heap = heap, .count = HK_BATCH - 1, .size = 50};
        let_do(&owner, load_make, &load);
        load_drop(&load);
        if (i > 0) {
            hk_heap_trim(heap);
            let_do(&owner, trim, heap);
            assert_int_equal(away(heap), 0);
            load.count = HK_BATCH - 2;
            let_do(&owner, load_make, &load);
            load_drop(&load);
        }
        hk_heap_destroy(heap);
    }
    dismiss(&owner);
}

/* --- fork --- */

static struct load forked;
static bool stop;

static void use_in_child(void)
{
    CHILD_CHECK(hk_heap_check(forked.heap) == 0);
    for (size_t i = 0; i < forked.count; i++)
        CHILD_CHECK(shadow_holds(forked.blocks[i], 1, i)); /* other threads' */
    load_drop(&forked);
    hk_heap_trim(forked.heap); /* sends what waits for threads that are no more */
    CHILD_CHECK(hk_heap_check(forked.heap) == 0);
    load_make(&forked);
    if (!IS_SANITIZED) { /* thread sanitizer allows no threads there */
        struct other other;
        hire(&other);
        let_do(&other, load_drop, &forked);
        dismiss(&other);
        hk_heap_trim(forked.heap);
    }
    CHILD_CHECK(hk_heap_check(forked.heap) == 0);
}

/* Its batches hold blocks of a thread that is no more. */
static void use_after_drop(void)
{
    hk_heap_trim(forked.heap);
    load_make(&forked);
    use_in_child();
}

static void *work_on(void *argument)
{
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE))
        work(argument);
    return NULL;
}

static void test_a_child_forked_among_threads_at_work_has_a_heap(void **state)
{
    struct worker workers[2];
    struct other other;
    forked = (struct load){.heap = heap_new(HK_LOCK_THREADS), .count = 3 * HK_BATCH - 1, .size = 50};
    stop = false;
    hire(&other);
    for (uint64_t i = 0; i < COUNT(workers); i++)
        start(&workers[i], forked.heap, i, 100, work_on);
    for (int i = 0; i < (IS_SANITIZED ? 3 : 30); i++) {
        let_do(&other, load_make, &forked);
        in_child(use_in_child);
        load_drop(&forked);
        in_child(use_after_drop);
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
    for (size_t i = 0; i < COUNT(workers); i++)
        join(&workers[i]);
    dismiss(&other);
    shelf_clear(forked.heap);
    assert_all_is_free(forked.heap);
    hk_heap_destroy(forked.heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_free_each_others_blocks_and_all_comes_back),
        cmocka_unit_test(test_threads_that_come_take_over_from_those_that_went),
        cmocka_unit_test(test_destructors_of_other_keys_may_allocate_after_the_members_end),
        cmocka_unit_test(test_a_block_may_be_freed_through_a_heap_of_another_kind),
        cmocka_unit_test(test_a_thread_uses_many_heaps_and_a_destroyed_ones_successor),
        cmocka_unit_test(test_full_batches_go_home_and_the_rest_waits),
        cmocka_unit_test(test_a_silent_thread_keeps_few_bytes_of_however_many_others),
        cmocka_unit_test(test_what_came_to_an_ended_thread_too_late_is_found_before_a_pool_is_taken),
        cmocka_unit_test(test_all_that_describes_a_heap_for_threads_is_counted),
        cmocka_unit_test(test_what_waits_goes_home_when_its_thread_ends),
        cmocka_unit_test(test_what_waits_goes_home_before_its_thread_takes_another_pool),
        cmocka_unit_test(test_what_waits_is_freed_though_its_owner_has_ended),
        cmocka_unit_test(test_what_waits_goes_home_though_its_owner_has_a_successor),
        cmocka_unit_test(test_owners_that_share_a_batch_get_theirs),
        cmocka_unit_test(test_what_is_freed_through_another_heap_or_from_a_hook_does_not_wait),
        cmocka_unit_test(test_nothing_waits_where_memory_is_limited),
        cmocka_unit_test(test_what_waits_for_a_destroyed_heap_is_forgotten),
        cmocka_unit_test(test_a_child_forked_among_threads_at_work_has_a_heap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
