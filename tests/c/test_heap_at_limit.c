/* A heap with a limit: what it refuses, and whom it asks before. */
#include "heap_program.h"

#include <sched.h>

#define LIMIT ((size_t)4 << 20)

static struct program program;
static const hk_lock_mode locks[] = {HK_LOCK_HOST, HK_LOCK_OWN, HK_LOCK_THREADS};

static hk_heap *limited(hk_lock_mode lock, bool large_from_source, size_t limit, hk_at_limit *at_limit, void *argument)
{
    hk_heap *heap = hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = lock, .name = "limited",
                                                      .large_from_source = large_from_source, .limit_bytes = limit,
                                                      .at_limit = at_limit, .at_limit_argument = argument});
    assert_non_null(heap);
    return heap;
}

static uint64_t mapped(hk_heap *heap)
{
    hk_heap_stats s = stats_of(heap);
    return s.mapped_bytes + s.large_bytes;
}

static void test_a_heap_never_maps_more_than_its_limit(void **state)
{
    for (int kind = 0; kind < 6; kind++) {
        hk_heap *heap = limited(locks[kind % 3], kind / 3, LIMIT, NULL, NULL);
        memset(&program, 0, sizeof(program));
        program.heap = heap;
        program.random = (uint64_t)kind + 1;
        program.largest = LIMIT / 4;
        for (int i = 0; i < rounds(60000) || (program.refused == 0 && i < 60000); i++) {
            program_step(&program, i / 1000 % 2 ? PROGRAM_SLOTS : 200);
            if (i % 64 == 0)
                assert_true(mapped(heap) <= LIMIT);
        }
        program_run(&program, 100);
        program_end(&program);
        assert_int_equal(program.wrong, 0);
        assert_true(program.refused > 0);
        hk_heap_destroy(heap);
    }
}

/* The C allocator gives more than was asked for, and what a realloc has moved cannot be refused any more. */
static void test_large_blocks_of_the_c_allocator_stay_within_the_limit_to_the_byte(void **state)
{
    static void *blocks[LIMIT / HK_BLOCK_MAX];
    const size_t step = is_watched_by_tool() ? 4040 : 40; /* each realloc copies there */
    for (size_t size = HK_BLOCK_MAX + 1; size < LIMIT / 2; size += size / 3 + 7) {
        hk_heap *heap = limited(locks[size % 3], false, LIMIT, NULL, NULL);
        size_t count = 0, last = size;
        while ((blocks[count] = hk_malloc(heap, size)) != NULL)
            count++;
        assert_true(mapped(heap) <= LIMIT);
        for (void *moved; (moved = hk_realloc(heap, blocks[count - 1], last + step)) != NULL; last += step) {
            blocks[count - 1] = moved;
            assert_true(mapped(heap) <= LIMIT);
        }
        assert_int_equal(stats_of(heap).large_blocks, count);
        while (count > 0)
            hk_free(heap, blocks[--count]);
        assert_int_equal(stats_of(heap).large_bytes, 0);
        assert_in_order(heap);
        hk_heap_destroy(heap);
    }
}

static void *allocate_one(void *heap)
{
    hk_free(heap, hk_malloc(heap, 100));
    return NULL;
}

static void test_a_thread_that_comes_when_the_limit_is_reached_stays_within(void **state)
{
    pthread_t thread;
    hk_heap *heap = limited(HK_LOCK_THREADS, true, LIMIT, NULL, NULL);
    while (hk_malloc(heap, HK_BLOCK_MAX) != NULL)
        ;
    hk_heap_set_limit(heap, (size_t)mapped(heap)); /* not a byte more */
    assert_int_equal(pthread_create(&thread, NULL, allocate_one, heap), 0);
    pthread_join(thread, NULL);
    assert_true(mapped(heap) <= stats_of(heap).limit_bytes);
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

static struct {
    hk_heap *heap;
    void *(*malloc)(size_t);
    uint32_t inside, refused, got;
} race;

/* Returns when the other thread has come here, too, or was refused. */
static void *malloc_together(size_t size)
{
    __atomic_add_fetch(&race.inside, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&race.inside, __ATOMIC_SEQ_CST) + __atomic_load_n(&race.refused, __ATOMIC_SEQ_CST) < 2)
        sched_yield();
    return race.malloc(size);
}

static void *allocate_half(void *argument)
{
    void *block = hk_malloc(race.heap, LIMIT / 2);
    __atomic_add_fetch(block != NULL ? &race.got : &race.refused, 1, __ATOMIC_SEQ_CST);
    return block;
}

static void test_threads_do_not_exceed_a_limit_together(void **state)
{
    pthread_t threads[2];
    race.heap = limited(HK_LOCK_THREADS, false, LIMIT, NULL, NULL);
    race.malloc = hk_libc.malloc;
    hk_libc.malloc = malloc_together;
    for (size_t i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, allocate_half, NULL), 0);
    for (size_t i = 0; i < COUNT(threads); i++) {
        void *block;
        pthread_join(threads[i], &block);
        hk_free(race.heap, block);
    }
    hk_libc.malloc = race.malloc;
    assert_int_equal(race.got, 1); /* two halves and what the heap needs for itself are more than the limit */
    assert_int_equal(stats_of(race.heap).large_bytes, 0);
    hk_heap_destroy(race.heap);
}

static void test_a_heap_at_its_limit_hands_out_what_is_freed(void **state)
{
    static void *blocks[LIMIT / 64];
    for (int kind = 0; kind < 6; kind++) {
        hk_heap *heap = limited(locks[kind % 3], kind / 3, LIMIT, NULL, NULL);
        size_t count = 0;
        while ((blocks[count] = hk_malloc(heap, 64)) != NULL)
            count++;
        assert_true(count * 64 > LIMIT * 9 / 10);
        assert_null(hk_malloc(heap, 100000));
        hk_free(heap, blocks[7]);
        assert_non_null(blocks[7] = hk_malloc(heap, 60));
        for (size_t i = 0; i < count / 2; i++)
            hk_free(heap, blocks[i]);
        assert_non_null(hk_malloc(heap, 500)); /* of another class */
        assert_non_null(hk_malloc(heap, LIMIT / 3)); /* large: the heap gives its empty pools back for it */
        assert_in_order(heap);
        hk_heap_stats s = stats_of(heap);
        assert_int_equal(s.limit_bytes, LIMIT);
        if (kind < 3) /* the large one is the C allocator's */
            assert_int_equal(s.large_blocks, 1);
        hk_heap_destroy(heap);
    }
}

static void test_a_limit_may_be_set_later_and_lifted(void **state)
{
    hk_heap *heap = limited(HK_LOCK_HOST, true, 0, NULL, NULL);
    assert_int_equal(stats_of(heap).limit_bytes, 0);
    assert_non_null(hk_malloc(heap, 2 * LIMIT));
    hk_heap_set_limit(heap, LIMIT);
    assert_null(hk_malloc(heap, 2 * LIMIT));
    assert_null(hk_malloc(heap, 10));
    hk_heap_set_limit(heap, 4 * LIMIT);
    assert_non_null(hk_malloc(heap, LIMIT));
    assert_null(hk_malloc(heap, 2 * LIMIT));
    hk_heap_set_limit(heap, 0);
    assert_non_null(hk_malloc(heap, 2 * LIMIT));
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

static void test_a_limit_too_small_for_anything_refuses_everything(void **state)
{
    for (size_t limit = 1; limit < 3 * HK_POOL_SIZE; limit += 997) {
        hk_heap *heap = limited(HK_LOCK_HOST, false, limit, NULL, NULL);
        void *block = hk_malloc(heap, 10);
        assert_true(block == NULL || mapped(heap) <= limit);
        assert_null(hk_malloc(heap, 4 * HK_POOL_SIZE));
        assert_null(hk_calloc(heap, 4, HK_POOL_SIZE));
        assert_null(hk_aligned_alloc(heap, 4096, 4 * HK_POOL_SIZE));
        assert_null(hk_realloc(heap, block, 4 * HK_POOL_SIZE));
        assert_in_order(heap);
        hk_heap_destroy(heap);
    }
}

/* ---- asking ---- */

struct cache {
    void *entries[4000];
    size_t count, calls, wanted;
    enum { EVICT, RAISE, ALLOCATE, LIE, REFUSE } answer;
};

static bool at_limit(hk_heap *heap, size_t wanted, void *argument)
{
    struct cache *cache = argument;
    cache->calls++;
    cache->wanted = wanted;
    switch (cache->answer) {
    case EVICT:
        if (cache->count == 0)
            return false;
        for (size_t i = 0; i < 64 && cache->count > 0; i++)
            hk_free(heap, cache->entries[--cache->count]);
        return true;
    case RAISE:
        hk_heap_set_limit(heap, stats_of(heap).limit_bytes + wanted);
        return true;
    case ALLOCATE:
        assert_null(hk_malloc(heap, LIMIT)); /* does not ask again */
        return false;
    case LIE:
        return true;
    case REFUSE:
        break;
    }
    return false;
}

static void test_who_is_asked_may_make_room(void **state)
{
    static struct cache cache;
    for (int kind = 0; kind < 6; kind++) {
        memset(&cache, 0, sizeof(cache));
        hk_heap *heap = limited(locks[kind % 3], kind / 3, LIMIT, at_limit, &cache);
        for (int i = 0; i < 3000; i++) {
            void *block = hk_malloc(heap, 3000 + (size_t)(i % 3) * 4000);
            assert_non_null(block);
            assert_true(cache.count < COUNT(cache.entries));
            cache.entries[cache.count++] = block;
        }
        assert_true(cache.calls > 0);
        assert_non_null(hk_calloc(heap, 1, LIMIT / 3));
        assert_non_null(hk_aligned_alloc(heap, 4096, LIMIT / 4));
        void *block = hk_malloc(heap, 10);
        assert_non_null(hk_realloc(heap, block, LIMIT / 5));
        assert_null(hk_malloc(heap, LIMIT));
        assert_int_equal(cache.count, 0); /* all was tried */
        assert_in_order(heap);
        hk_heap_destroy(heap);
    }
}

static void test_who_is_asked_may_raise_the_limit(void **state)
{
    struct cache cache = {.answer = RAISE};
    hk_heap *heap = limited(HK_LOCK_OWN, true, 1, at_limit, &cache);
    for (int i = 0; i < 1000; i++)
        assert_non_null(hk_malloc(heap, 1000));
    assert_true(cache.calls >= 1000 * 1000 / HK_POOL_SIZE / 2);
    assert_true(mapped(heap) <= stats_of(heap).limit_bytes);
    hk_heap_destroy(heap);
}

static void test_a_callback_that_allocates_is_not_asked_by_itself(void **state)
{
    struct cache cache = {.answer = ALLOCATE};
    hk_heap *heap = limited(HK_LOCK_OWN, false, LIMIT, at_limit, &cache);
    assert_null(hk_malloc(heap, LIMIT));
    assert_int_equal(cache.calls, 1);
    assert_true(cache.wanted >= LIMIT);
    hk_heap_destroy(heap);
}

static void test_a_callback_that_always_says_yes_ends(void **state)
{
    struct cache cache = {.answer = LIE};
    hk_heap *heap = limited(HK_LOCK_HOST, true, LIMIT, at_limit, &cache);
    assert_null(hk_malloc(heap, LIMIT));
    assert_true(cache.calls > 1 && cache.calls <= 1000);
    hk_heap_destroy(heap);
}

static void test_nobody_is_asked_about_sizes_that_cannot_be(void **state)
{
    struct cache cache = {.answer = LIE};
    hk_heap *heap = limited(HK_LOCK_HOST, false, LIMIT, at_limit, &cache);
    assert_null(hk_malloc(heap, SIZE_MAX));
    assert_null(hk_calloc(heap, SIZE_MAX, 2));
    assert_null(hk_aligned_alloc(heap, 64, SIZE_MAX));
    assert_null(hk_aligned_alloc(heap, 3, 10));
    void *block = hk_malloc(heap, 10);
    assert_null(hk_realloc(heap, block, SIZE_MAX));
    assert_int_equal(cache.calls, 0);
    hk_heap_destroy(heap);
}

static bool free_some(hk_heap *heap, size_t wanted, void *argument)
{
    void **shared = argument;
    for (int i = 0; i < 200; i++)
        hk_free(heap, __atomic_exchange_n(&shared[i], NULL, __ATOMIC_ACQ_REL));
    return true;
}

struct asking_thread {
    hk_heap *heap;
    void **shared;
    uint64_t random;
};

static void *ask_in_thread(void *argument)
{
    struct asking_thread *t = argument;
    for (int i = 0; i < rounds(20000); i++) {
        size_t size = random_size(&t->random);
        void *block = hk_malloc(t->heap, size);
        if (block != NULL)
            memset(block, 1, size);
        hk_free(t->heap, __atomic_exchange_n(&t->shared[random_below(&t->random, 200)], block, __ATOMIC_ACQ_REL));
    }
    return NULL;
}

static void several_threads_at_the_limit(hk_lock_mode lock)
{
    static void *shared[200];
    pthread_t threads[4];
    struct asking_thread arguments[4];
    hk_heap *heap = limited(lock, true, LIMIT / 8, free_some, shared);
    for (int i = 0; i < 4; i++) {
        arguments[i] = (struct asking_thread){heap, shared, (uint64_t)i};
        assert_int_equal(pthread_create(&threads[i], NULL, ask_in_thread, &arguments[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    free_some(heap, 0, shared);
    hk_heap_trim(heap);
    assert_int_equal(stats_of(heap).live_blocks, 0);
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

static void test_several_threads_may_be_at_the_limit_at_once(void **state)
{
    several_threads_at_the_limit(HK_LOCK_OWN);
    several_threads_at_the_limit(HK_LOCK_THREADS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_heap_never_maps_more_than_its_limit),
        cmocka_unit_test(test_large_blocks_of_the_c_allocator_stay_within_the_limit_to_the_byte),
        cmocka_unit_test(test_a_thread_that_comes_when_the_limit_is_reached_stays_within), /* while there was one thread */
        cmocka_unit_test(test_threads_do_not_exceed_a_limit_together),
        cmocka_unit_test(test_a_heap_at_its_limit_hands_out_what_is_freed),
        cmocka_unit_test(test_a_limit_may_be_set_later_and_lifted),
        cmocka_unit_test(test_a_limit_too_small_for_anything_refuses_everything),
        cmocka_unit_test(test_who_is_asked_may_make_room),
        cmocka_unit_test(test_who_is_asked_may_raise_the_limit),
        cmocka_unit_test(test_a_callback_that_allocates_is_not_asked_by_itself),
        cmocka_unit_test(test_a_callback_that_always_says_yes_ends),
        cmocka_unit_test(test_nobody_is_asked_about_sizes_that_cannot_be),
        cmocka_unit_test(test_several_threads_may_be_at_the_limit_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
