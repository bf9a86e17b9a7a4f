/* Signal handlers that interrupt a heap under HK_LOCK_THREADS and fork: at any instruction of its slow paths no lock is waited
 * for in vain, and a child that goes on has a heap in order. What they may do in the malloc product: test_malloc_signals.c. */
#include "heap_helper.h"

#include "heap/threads.h"
#include "stepping.h"

enum { BLOCKS = 24, PLACES = 1000 };

/* None of the C allocator: after the first thread a handler that interrupts that one cannot fork under glibc. */
static const size_t sizes[] = {4096, 2000, 64, 3000, 16, 4096, 800, 512};
static hk_heap *heap;
static struct shadow shadows[BLOCKS];

static size_t size_of(size_t i)
{
    size_t size = sizes[i % COUNT(sizes)];
    return size < HK_BLOCK_MAX ? size : HK_BLOCK_MAX;
}

static void check(bool good, int line)
{
    if (!good)
        _exit(line % 200 + 50);
}
#define CHECK(good) check(good, __LINE__)

static void make(size_t i)
{
    size_t size = size_of(i);
    shadows[i] = (struct shadow){.block = hk_malloc(heap, size), .size = size};
    CHECK(shadows[i].block != NULL);
}

static void walk(void)
{
    for (size_t i = 0; i < BLOCKS; i++)
        make(i);
    for (size_t i = 1; i < BLOCKS; i += 2)
        hk_free(heap, shadows[i].block);
    for (size_t i = 1; i < BLOCKS; i += 2)
        make(i);
    for (size_t i = 0; i < BLOCKS; i++)
        hk_free(heap, shadows[i].block);
}

/* A child that does not end at once. */
static void child_allocates(void)
{
    struct shadow mine[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        size_t size = size_of(i);
        mine[i].block = i % 3 == 0 ? hk_calloc(heap, 1, size) : hk_malloc(heap, size);
        CHECK(mine[i].block != NULL);
        shadow_fill(&mine[i], mine[i].block, size, i);
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        CHECK(is_intact(&mine[i]));
        hk_free(heap, mine[i].block);
    }
}

static void end_in_order(void)
{
    walk();
    hk_heap_trim(heap);
    hk_heap_stats s = stats_of(heap);
    CHECK(s.live_blocks == 0 && s.large_blocks == 0 && s.pools_used + s.pools_full == 0);
    CHECK(hk_heap_check(heap) == 0);
    _exit(0);
}

static void step_through_the_walk(void)
{
    heap = heap_new(HK_LOCK_THREADS);
    walk();
    step_prepare(0, child_allocates);
    step_begin();
    walk();
    step_end();
    step_prepare((stepping.step / PLACES) | 1, child_allocates);
    step_begin();
    walk();
    step_end();
    if (stepping.is_child)
        end_in_order();
    CHECK(step_went_well(PLACES / 2));
    end_in_order();
}

/* The same with what a thread that ended has left: its lock and its pools come into play. */
static void *leave_pools(void *argument)
{
    for (size_t i = 0; i < BLOCKS; i++)
        make(i);
    for (size_t i = 0; i < BLOCKS; i += 2)
        hk_free(heap, shadows[i].block);
    return argument;
}

static void step_through_a_legacy(void)
{
    pthread_t thread;
    heap = heap_new(HK_LOCK_THREADS);
    hk_free(heap, hk_malloc(heap, 1));
    for (long stride = 0; stride < 2; stride++) {
        CHECK(pthread_create(&thread, NULL, leave_pools, NULL) == 0 && pthread_join(thread, NULL) == 0);
        step_prepare(stride * 7, child_allocates);
        step_begin();
        for (size_t i = 1; i < BLOCKS; i += 2)
            hk_free(heap, shadows[i].block);
        step_end();
    }
    if (stepping.is_child)
        end_in_order();
    CHECK(step_went_well(50));
    end_in_order();
}

/* A thread's first call. */
static void *begin_stepped(void *argument)
{
    hk_heap *facade = argument;
    step_prepare(1, child_allocates);
    step_begin();
    void *block = hk_malloc(facade, 100);
    step_end();
    hk_free(facade, block);
    if (stepping.is_child)
        end_in_order();
    CHECK(step_went_well(50));
    return argument;
}

static void step_through_a_threads_first_call(void)
{
    pthread_t thread;
    heap = heap_new(HK_LOCK_THREADS);
    CHECK(pthread_create(&thread, NULL, begin_stepped, heap) == 0 && pthread_join(thread, NULL) == 0);
    end_in_order();
}

static void step(void (*body)(void))
{
    if (!CAN_STEP || is_under_valgrind()) /* which knows no trap flag */
        skip();
    assert_int_equal(in_process(body, 120), 0);
}

static void test_a_handler_forks_at_any_instruction_of_a_heap(void **state)
{
    step(step_through_the_walk);
}

static void test_a_handler_forks_while_blocks_of_an_ended_thread_are_freed(void **state)
{
    step(step_through_a_legacy);
}

static void test_a_handler_forks_in_a_threads_first_call(void **state)
{
    step(step_through_a_threads_first_call);
}

/* --- the lock itself --- */

static hk_lock lock;

static void *take_and_release(void *argument)
{
    hk_lock_take(&lock);
    *(int *)argument += 1;
    hk_lock_release(&lock);
    return NULL;
}

static void test_a_lock_knows_whose_it_is_also_while_others_wait(void **state)
{
    pthread_t threads[3];
    int count = 0;
    assert_false(hk_lock_is_mine(&lock));
    hk_lock_take(&lock);
    assert_true(hk_lock_is_mine(&lock));
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_create(&threads[i], NULL, take_and_release, &count);
    while (!(__atomic_load_n(&lock.word, __ATOMIC_RELAXED) & 1))
        sched_yield();
    assert_true(hk_lock_is_mine(&lock));
    hk_lock_take_to_fork(&lock);
    hk_lock_take_to_fork(&lock);
    assert_true(hk_lock_is_mine(&lock));
    hk_lock_release_forked(&lock);
    hk_lock_release_forked(&lock);
    assert_true(hk_lock_is_mine(&lock));
    assert_int_equal(count, 0);
    hk_lock_release(&lock);
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(count, 3);
    assert_int_equal(lock.word, 0);
    hk_lock_take_to_fork(&lock);
    assert_true(hk_lock_is_mine(&lock));
    hk_lock_release_forked(&lock);
    assert_int_equal(lock.word, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_lock_knows_whose_it_is_also_while_others_wait),
        cmocka_unit_test(test_a_handler_forks_at_any_instruction_of_a_heap),
        cmocka_unit_test(test_a_handler_forks_while_blocks_of_an_ended_thread_are_freed),
        cmocka_unit_test(test_a_handler_forks_in_a_threads_first_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
