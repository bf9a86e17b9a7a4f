/* The heap and threads: heaps that lock themselves under four threads that free each other's blocks; a heap that the
 * host's lock protects, with frees from outside of it; fork. */
#include "heap_helper.h"

#include <sched.h>

enum { THREADS = 4, SHELF = 512 };

/* Blocks change hands here: whoever puts one down takes one up. The tag is the block's first word, so that nothing but
 * the block itself need be handed over. */
static void *shelf[SHELF];

struct parcel {
    uint64_t tag;
    uint32_t size, sum;
    unsigned char bytes[];
};

static uint32_t parcel_sum(const struct parcel *p)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < p->size; i++)
        sum = sum * 31 + p->bytes[i];
    return sum;
}

static struct parcel *parcel_make(hk_heap *heap, uint64_t *random)
{
    uint32_t size = (uint32_t)random_size(random) % 6000;
    struct parcel *p = hk_malloc(heap, sizeof(*p) + size);
    if (p == NULL)
        abort();
    p->tag = random_next(random);
    p->size = size;
    for (uint32_t i = 0; i < size; i++)
        p->bytes[i] = (unsigned char)(p->tag >> (i % 8));
    p->sum = parcel_sum(p);
    return p;
}

static struct parcel *exchange(struct parcel *mine, uint64_t *random)
{
    return __atomic_exchange_n(&shelf[random_below(random, SHELF)], mine, __ATOMIC_ACQ_REL);
}

static void shelf_clear(hk_heap *heap)
{
    for (int i = 0; i < SHELF; i++) {
        hk_free(heap, shelf[i]);
        shelf[i] = NULL;
    }
}

struct worker {
    pthread_t thread;
    hk_heap *heap, *other; /* allocates from heap; frees through either */
    uint64_t random;
    int steps, broken;
    uint64_t allocated;
};

static void *work_shared(void *argument)
{
    struct worker *w = argument;
    for (int i = 0; i < w->steps; i++) {
        struct parcel *p = exchange(parcel_make(w->heap, &w->random), &w->random);
        w->allocated++;
        if (p == NULL)
            continue;
        w->broken += parcel_sum(p) != p->sum;
        if (i % 16 == 0) {
            p = hk_realloc(hk_heap_of(p) != NULL ? hk_heap_of(p) : w->heap, p, sizeof(*p) + p->size + 4000);
            if (p == NULL)
                abort();
            w->allocated++;
            w->broken += parcel_sum(p) != p->sum;
        }
        /* Each block through a heap that need not be its own: the owner is found by address. Large blocks are counted
         * by the heap they come from, so they go back there. */
        hk_heap *owner = hk_heap_of(p);
        hk_free(owner == NULL ? w->heap : i % 2 ? w->other : owner, p);
    }
    return NULL;
}

static void run_workers(struct worker *workers, hk_heap *heap, hk_heap *other, int steps, void *(*work)(void *))
{
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.heap = i % 2 ? other : heap, .other = i % 2 ? heap : other,
                                     .random = (uint64_t)i + 1, .steps = rounds(steps)};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(workers[i].broken, 0);
}

static void test_four_threads_free_each_others_blocks(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_OWN);
    struct worker workers[THREADS];
    uint64_t allocated = 0;
    run_workers(workers, heap, heap, 50000, work_shared);
    shelf_clear(heap);
    for (int i = 0; i < THREADS; i++)
        allocated += workers[i].allocated;
    hk_heap_stats s = stats_of(heap);
    assert_int_equal(s.live_blocks + s.large_blocks + s.large_bytes, 0);
    assert_true(s.allocated_blocks <= allocated && s.allocated_blocks >= allocated * 15 / 16); /* realloc in place */
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

static void test_two_heaps_free_each_others_blocks_and_never_wait_in_a_circle(void **state)
{
    hk_heap *one = heap_new(HK_LOCK_OWN), *two = heap_new(HK_LOCK_OWN);
    struct worker workers[THREADS];
    run_workers(workers, one, two, 50000, work_shared);
    shelf_clear(one);
    assert_int_equal(stats_of(one).live_blocks + stats_of(two).live_blocks, 0);
    /* What one counted as its own may have been counted off the other, but the sum is right. */
    assert_int_equal(stats_of(NULL).large_blocks + stats_of(NULL).large_bytes, 0);
    assert_in_order(one);
    assert_in_order(two);
    hk_heap_destroy(one);
    hk_heap_destroy(two);
}

static bool stop;

static void *work_looking(void *argument)
{
    hk_heap *heap = argument;
    static char text[16384];
    uintptr_t wrong = 0;
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
        wrong += hk_heap_check(heap) != 0;
        struct walk w = walk_heap(heap);
        wrong += w.wrong != 0;
        hk_heap_trim(heap);
        if (!IS_SANITIZED) { /* statistics read without a lock: harmless, but a race to a tool */
            hk_heap_stats s = stats_of(heap);
            wrong += s.mapped_bytes != sum_of_classes(&s);
            wrong += hk_stats_json(text, sizeof(text)) >= sizeof(text);
        }
    }
    return (void *)wrong;
}

static void test_a_heap_can_be_looked_at_and_trimmed_while_it_is_used(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_OWN);
    struct worker workers[THREADS];
    pthread_t looking;
    void *wrong;
    stop = false;
    assert_int_equal(pthread_create(&looking, NULL, work_looking, heap), 0);
    run_workers(workers, heap, heap, 20000, work_shared);
    __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
    pthread_join(looking, &wrong);
    assert_null(wrong);
    shelf_clear(heap);
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

static void *work_making_heaps(void *argument)
{
    struct worker *w = argument;
    for (int i = 0; i < w->steps; i++) {
        hk_heap *heap = heap_new(i % 2 ? HK_LOCK_OWN : HK_LOCK_HOST);
        for (int k = 0; k < 300; k++) {
            uint64_t *block = hk_calloc(heap, 4, 200);
            w->broken += block[0] != 0 || block[99] != 0;
            memset(block, 0xff, 800);
            if (k % 2)
                hk_free(heap, block);
        }
        w->broken += disagreement(heap) != 0;
        hk_heap_destroy(heap);
    }
    return NULL;
}

static void test_threads_make_and_destroy_heaps_of_their_own(void **state)
{
    struct worker workers[THREADS];
    run_workers(workers, NULL, NULL, 500, work_making_heaps);
}

/* ---- a heap under the host's lock ---- */

static int outsiders_left;

static void *work_outside(void *argument)
{
    struct worker *w = argument;
    while (w->steps > 0) { /* the owner makes parcels until all are done */
        struct parcel *p = exchange(NULL, &w->random);
        if (p == NULL) {
            sched_yield();
            continue;
        }
        w->broken += parcel_sum(p) != p->sum;
        w->broken += !hk_free_remote(p);
        w->steps--;
    }
    __atomic_sub_fetch(&outsiders_left, 1, __ATOMIC_ACQ_REL);
    return NULL;
}

static struct parcel *small_parcel(hk_heap *heap, uint64_t *random)
{
    for (;;) {
        struct parcel *p = parcel_make(heap, random);
        if (hk_heap_of(p) == heap)
            return p;
        hk_free(heap, p);
    }
}

static void test_three_threads_free_from_outside_while_the_owner_allocates(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_HOST);
    struct worker workers[3];
    uint64_t random = 77;
    outsiders_left = 3;
    for (int i = 0; i < 3; i++) {
        workers[i] = (struct worker){.random = (uint64_t)i + 1, .steps = rounds(20000)};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work_outside, &workers[i]), 0);
    }
    while (__atomic_load_n(&outsiders_left, __ATOMIC_ACQUIRE) > 0) {
        struct parcel *p = small_parcel(heap, &random);
        void *nothing = NULL, **place = &shelf[random_below(&random, SHELF)];
        if (!__atomic_compare_exchange_n(place, &nothing, p, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
            hk_free(heap, p);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(workers[i].thread, NULL);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(workers[i].broken, 0);
        assert_int_equal(workers[i].steps, 0);
    }
    shelf_clear(heap);
    hk_heap_trim(heap); /* a slow path: takes back what was freed from outside */
    assert_int_equal(stats_of(heap).live_blocks, 0);
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

static void test_what_is_freed_from_outside_comes_back_at_the_next_slow_path(void **state)
{
    hk_heap *heap = heap_new(HK_LOCK_HOST);
    void *blocks[100];
    for (int i = 0; i < 100; i++)
        blocks[i] = hk_malloc(heap, 48);
    for (int i = 0; i < 100; i++)
        assert_true(hk_free_remote(blocks[i]));
    assert_int_equal(stats_of(heap).live_blocks, 100); /* until then they count as live */
    void *block = hk_malloc(heap, HK_BLOCK_MAX);
    assert_int_equal(stats_of(heap).live_blocks, 1);
    hk_free(heap, block);
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

/* ---- fork ---- */

static hk_heap *forked_heaps[2];
static struct shadow forked_blocks[2][500];

static void use_forked_heaps(void)
{
    for (int h = 0; h < 2; h++) {
        hk_heap *heap = forked_heaps[h];
        CHILD_CHECK(disagreement(heap) == 0);
        for (size_t i = 0; i < COUNT(forked_blocks[h]); i++) {
            struct shadow *s = &forked_blocks[h][i];
            CHILD_CHECK(is_intact(s));
            memset(s->block, 0, s->size);
            if (i % 3)
                hk_free(heap, s->block);
            hk_malloc(heap, s->size);
        }
        CHILD_CHECK(disagreement(heap) == 0);
        hk_heap_trim(heap);
        CHILD_CHECK(disagreement(heap) == 0);
        hk_heap_destroy(heap);
    }
    hk_heap *heap = heap_new(HK_LOCK_OWN);
    CHILD_CHECK(hk_malloc(heap, 100) != NULL);
}

static void test_a_forked_child_has_the_heap_to_itself(void **state)
{
    for (int h = 0; h < 2; h++) {
        forked_heaps[h] = heap_new(h ? HK_LOCK_OWN : HK_LOCK_HOST);
        for (size_t i = 0; i < COUNT(forked_blocks[h]); i++)
            shadow_fill(&forked_blocks[h][i], hk_malloc(forked_heaps[h], i * 13), i * 13, i);
    }
    in_child(use_forked_heaps);
    for (int h = 0; h < 2; h++) {
        for (size_t i = 0; i < COUNT(forked_blocks[h]); i++) {
            assert_true(is_intact(&forked_blocks[h][i]));
            hk_free(forked_heaps[h], forked_blocks[h][i].block);
        }
        assert_int_equal(stats_of(forked_heaps[h]).live_blocks, 0);
        assert_in_order(forked_heaps[h]);
        hk_heap_destroy(forked_heaps[h]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_four_threads_free_each_others_blocks),
        cmocka_unit_test(test_two_heaps_free_each_others_blocks_and_never_wait_in_a_circle),
        cmocka_unit_test(test_a_heap_can_be_looked_at_and_trimmed_while_it_is_used),
        cmocka_unit_test(test_threads_make_and_destroy_heaps_of_their_own),
        cmocka_unit_test(test_three_threads_free_from_outside_while_the_owner_allocates),
        cmocka_unit_test(test_what_is_freed_from_outside_comes_back_at_the_next_slow_path),
        cmocka_unit_test(test_a_forked_child_has_the_heap_to_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
