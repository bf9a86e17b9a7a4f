/* Heaps under HK_LOCK_THREADS: each thread allocates from a member of its own. Blocks freed by other threads, threads
 * that end and their members' next owners, threads that allocate while they end, forks with threads at work,
 * statistics that add up when all is over, and blocks that meet heaps of the other kinds. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_free_each_others_blocks_and_all_comes_back),
        cmocka_unit_test(test_threads_that_come_take_over_from_those_that_went),
        cmocka_unit_test(test_destructors_of_other_keys_may_allocate_after_the_members_end),
        cmocka_unit_test(test_a_block_may_be_freed_through_a_heap_of_another_kind),
        cmocka_unit_test(test_a_thread_uses_many_heaps_and_a_destroyed_ones_successor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
