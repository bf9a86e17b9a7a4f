/* An embedding program at its worst: many heaps of every kind at once, used by threads that free each other's blocks, change limits,
 * trim, walk and end heaps with blocks in them; callbacks that use the heap that they are called for. */
#include "heap_helper.h"

#include <sys/mman.h>

static const hk_lock_mode locks[] = {HK_LOCK_OWN, HK_LOCK_HOST, HK_LOCK_THREADS};
static const char *const lock_names[] = {"own", "host", "threads"};

/* ---- callbacks that use their heap ---- */

struct use {
    hk_heap *other;
    void *held[64];
    int calls, line; /* line: of the first thing that was not as it should be */
    bool says;
};

#define USE_CHECK(use, condition)                                                                                      \
    do {                                                                                                               \
        if (!(condition) && (use)->line == 0)                                                                          \
            (use)->line = __LINE__;                                                                                    \
    } while (0)

static bool count_blocks(const hk_pool_info *pool, void *block, hk_block_state state, void *argument)
{
    if (block != NULL && state == HK_BLOCK_ALLOCATED)
        ++*(uint64_t *)argument;
    return true;
}

/* All that is allowed: looks, trims, shrinks, frees one of the held, uses another heap that is at its limit itself. */
static bool use_at_limit(hk_heap *heap, size_t wanted, void *argument)
{
    struct use *use = argument;
    uint64_t walked = 0;
    int i = use->calls++ % 64;
    USE_CHECK(use, wanted > 0);
    USE_CHECK(use, hk_malloc(heap, 2 << 20) == NULL && hk_calloc(heap, 2, 1 << 20) == NULL);
    USE_CHECK(use, hk_aligned_alloc(heap, 4096, 2 << 20) == NULL && hk_realloc(heap, NULL, 2 << 20) == NULL);
    hk_heap_visit(heap, count_blocks, &walked);
    hk_heap_stats s = stats_of(heap);
    USE_CHECK(use, walked == s.live_blocks && hk_heap_check(heap) == 0);
    hk_heap_trim(heap);
    if (use->held[i] != NULL) {
        void *shrunk = hk_realloc(heap, use->held[i], 100);
        USE_CHECK(use, shrunk != NULL);
        hk_free(heap, shrunk);
        use->held[i] = NULL;
    }
    void *there = hk_malloc(use->other, 100);
    USE_CHECK(use, there != NULL && hk_malloc(use->other, 2 << 20) == NULL);
    hk_free(use->other, there);
    hk_heap *made = hk_heap_create(NULL);
    USE_CHECK(use, made != NULL && hk_malloc(made, 100) != NULL);
    hk_heap_destroy(made);
    hk_heap_set_limit(heap, s.limit_bytes);
    return use->says;
}

static void callback_that_uses_its_heap(hk_lock_mode lock, hk_source source, bool own_large)
{
    static char buffer[1 << 20];
    struct use use = {.says = true};
    struct use nobody = {.says = true};
    hk_heap_options options = {.size = sizeof(options), .lock = lock, .source = source, .large_from_source = own_large,
                               .limit_bytes = 1 << 20, .at_limit = use_at_limit, .at_limit_argument = &use, .buffer = buffer,
                               .buffer_size = sizeof(buffer), .file = memfd_create("embedder", 0)};
    hk_heap *heap = hk_heap_create(&options);
    options.at_limit_argument = &nobody;
    options.source = HK_SOURCE_SYSTEM;
    use.other = nobody.other = hk_heap_create(&options);
    assert_non_null(heap);
    assert_non_null(use.other);
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < 64; i++)
            if (use.held[i] == NULL)
                use.held[i] = hk_malloc(heap, 20000);
        void *block = hk_malloc(heap, 100);
        void *moved = block != NULL ? hk_realloc(heap, block, 30000) : NULL;
        hk_free(heap, moved != NULL ? moved : block);
        hk_free(heap, hk_calloc(heap, 3, 10000));
        hk_free(heap, hk_aligned_alloc(heap, 16384, 20000));
    }
    if (source != HK_SOURCE_BUFFER) /* which may be full without a limit */
        assert_true(use.calls > 0);
    if (use.line != 0)
        fail_msg("line %d, lock %s, source %d", use.line, lock_names[lock], (int)source);
    assert_int_equal(nobody.calls, 0);
    assert_in_order(heap);
    hk_heap_destroy(heap);
    hk_heap_destroy(use.other);
    close(options.file);
}

static void test_a_callback_at_the_limit_may_use_its_heap_and_others(void **state)
{
    for (size_t i = 0; i < COUNT(locks); i++)
        for (int source = HK_SOURCE_SYSTEM; source <= HK_SOURCE_HUGE_PAGES; source++)
            for (int own_large = 0; own_large < 2; own_large++)
                if (source != HK_SOURCE_BUFFER || locks[i] != HK_LOCK_THREADS)
                    callback_that_uses_its_heap(locks[i], (hk_source)source, own_large);
}

/* ---- visitors that use their heap ---- */

struct visit {
    hk_heap *heap;
    uint64_t random;
    size_t freed, allocated;
};

static bool visit_inner(const hk_pool_info *pool, void *block, hk_block_state state, void *argument)
{
    struct visit *visit = argument;
    visit->allocated += block != NULL && state == HK_BLOCK_ALLOCATED;
    return true;
}

/* Frees what it is shown and allocates other sizes, so that pools before and behind it come and go. */
static bool visit_and_change(const hk_pool_info *pool, void *block, hk_block_state state, void *argument)
{
    struct visit *visit = argument;
    if (block == NULL) {
        struct visit inner = {.heap = visit->heap};
        if (random_below(&visit->random, 16) == 0) {
            hk_heap_trim(visit->heap);
            hk_heap_visit(visit->heap, visit_inner, &inner);
        }
        return true;
    }
    if (state == HK_BLOCK_ALLOCATED && *(const char *)block == 1) {
        hk_free(visit->heap, block);
        visit->freed++;
        char *made = hk_malloc(visit->heap, 1 + random_below(&visit->random, 3000));
        if (made != NULL)
            *made = 2; /* not to be freed when it is shown */
    }
    return true;
}

static void test_a_visitor_may_free_and_allocate(void **state)
{
    for (size_t i = 0; i < COUNT(locks); i++)
        for (int own_large = 0; own_large < 2; own_large++) {
            hk_heap *heap = hk_heap_create(&(hk_heap_options){
                .size = sizeof(hk_heap_options), .lock = locks[i], .large_from_source = own_large});
            size_t blocks = 0;
            uint64_t random = i;
            for (int k = 0; k < 3000; k++) {
                size_t size = 1 + random_below(&random, HK_BLOCK_MAX);
                *(char *)hk_malloc(heap, size) = 1;
                blocks++;
            }
            struct visit visit = {.heap = heap, .random = 1};
            hk_heap_visit(heap, visit_and_change, &visit);
            assert_int_equal(visit.freed, blocks);
            assert_in_order(heap);
            hk_heap_destroy(heap);
        }
}

/* ---- many heaps, many threads ---- */

enum { SHARED_HEAPS = 10, BOXES = 512, THREADS = 4 };

/* A block on its way from thread to thread: its first bytes say what it is. */
struct parcel {
    uint64_t tag;
    uint32_t size, heap;
};

static struct {
    hk_heap *heaps[SHARED_HEAPS];
    struct parcel *boxes[BOXES];
    int line;
} town;

#define TOWN_CHECK(condition)                                                                                          \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            __atomic_store_n(&town.line, __LINE__, __ATOMIC_RELAXED);                                                  \
    } while (0)

static unsigned char letter(uint64_t tag, size_t at)
{
    return (unsigned char)(tag * 31 + at);
}

static struct parcel *parcel_make(uint32_t heap, uint64_t *random)
{
    size_t size = sizeof(struct parcel) + random_size(random) % 9000;
    struct parcel *parcel = random_below(random, 8) == 0 ? hk_aligned_alloc(town.heaps[heap], 64, size)
                                                        : hk_malloc(town.heaps[heap], size);
    if (parcel == NULL)
        return NULL;
    *parcel = (struct parcel){random_next(random), (uint32_t)size, heap};
    for (size_t i = sizeof(*parcel); i < size; i++)
        ((unsigned char *)parcel)[i] = letter(parcel->tag, i);
    return parcel;
}

static void parcel_end(struct parcel *parcel, uint64_t *random)
{
    if (parcel == NULL)
        return;
    for (size_t i = sizeof(*parcel); i < parcel->size; i++)
        TOWN_CHECK(((unsigned char *)parcel)[i] == letter(parcel->tag, i));
    hk_heap *heap = town.heaps[parcel->heap];
    TOWN_CHECK(hk_heap_of(parcel) == heap || hk_heap_of(parcel) == NULL);
    if (random_below(random, 4) != 0 || !hk_free_remote(parcel))
        hk_free(heap, parcel);
}

static bool make_room(hk_heap *heap, size_t wanted, void *argument)
{
    uint64_t random = wanted;
    for (int i = 0; i < 50; i++) {
        struct parcel **box = &town.boxes[random_below(&random, BOXES)];
        parcel_end(__atomic_exchange_n(box, NULL, __ATOMIC_ACQ_REL), &random);
    }
    return random_below(&random, 4) != 0;
}

/* A heap of the thread's own, which ends with all that is in it. */
static void short_life(uint64_t *random)
{
    hk_heap *heap = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options), .lock = locks[random_below(random, 3)], .large_from_source = random_below(random, 2),
        .limit_bytes = random_below(random, 2) ? 1 << 20 : 0});
    if (heap == NULL)
        return;
    for (int i = 0; i < 300; i++) {
        size_t size = random_size(random) % HK_BLOCK_MAX;
        void *block = hk_malloc(heap, size);
        if (block != NULL)
            memset(block, 1, size);
        if (random_below(random, 2))
            hk_free(heap, block);
    }
    TOWN_CHECK(hk_heap_check(heap) == 0);
    hk_heap_destroy(heap);
}

static void odd_job(uint64_t *random)
{
    hk_heap *heap = town.heaps[random_below(random, SHARED_HEAPS)];
    struct visit visit = {.heap = heap};
    switch (random_below(random, 5)) {
    case 0:
        hk_heap_set_limit(heap, random_below(random, 3) == 0 ? 0 : (1 << 20) + random_below(random, 4 << 20));
        break;
    case 1:
        hk_heap_trim(heap);
        break;
    case 2:
        if (!IS_SANITIZED) /* under HK_LOCK_THREADS it reads what threads are changing, by design */
            hk_heap_visit(heap, visit_inner, &visit);
        break;
    case 3:
        if (!IS_SANITIZED)
            (void)stats_of(heap);
        break;
    default:
        short_life(random);
    }
}

static void *live_in_town(void *argument)
{
    uint64_t random = (uint64_t)(uintptr_t)argument;
    for (int i = 0; i < rounds(60000); i++) {
        struct parcel **box = &town.boxes[random_below(&random, BOXES)];
        struct parcel *made = random_below(&random, 2) ? parcel_make((uint32_t)random_below(&random, SHARED_HEAPS), &random) : NULL;
        parcel_end(__atomic_exchange_n(box, made, __ATOMIC_ACQ_REL), &random);
        if (random_below(&random, 300) == 0)
            odd_job(&random);
    }
    return NULL;
}

static hk_heap *shared_heap(int i, char *buffer, size_t buffer_size, int file)
{
    static const hk_source sources[] = {HK_SOURCE_SYSTEM, HK_SOURCE_SYSTEM, HK_SOURCE_FILE, HK_SOURCE_HUGE_PAGES, HK_SOURCE_BUFFER};
    hk_source source = sources[i / 2];
    return hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options), .lock = i % 2 && source != HK_SOURCE_BUFFER ? HK_LOCK_THREADS : HK_LOCK_OWN,
        .source = source, .large_from_source = i / 2 == 1 || i / 2 == 2, .limit_bytes = 2 << 20, .at_limit = make_room,
        .buffer = buffer, .buffer_size = buffer_size, .file = file});
}

static void test_many_heaps_of_all_kinds_are_shared_by_threads_and_end_with_blocks_in_them(void **state)
{
    static char buffers[2][1 << 20];
    for (int round = 0; round < 3; round++) {
        int files[SHARED_HEAPS];
        pthread_t threads[THREADS];
        for (int i = 0; i < SHARED_HEAPS; i++) {
            files[i] = memfd_create("town", 0);
            town.heaps[i] = shared_heap(i, buffers[i % 2], sizeof(buffers[0]), files[i]);
            assert_non_null(town.heaps[i]);
        }
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, live_in_town, (void *)(uintptr_t)(round * THREADS + i)), 0);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(town.line, 0);
        uint64_t random = 1;
        for (int i = 0; i < BOXES; i++) { /* half of what is left ends with its heap; not the C allocator's */
            if (i % 2 || hk_heap_of(town.boxes[i]) == NULL)
                parcel_end(town.boxes[i], &random);
            town.boxes[i] = NULL;
        }
        for (int i = 0; i < SHARED_HEAPS; i++) {
            hk_heap_trim(town.heaps[i]);
            assert_in_order(town.heaps[i]);
            hk_heap_destroy(town.heaps[i]);
            close(files[i]);
        }
        assert_int_equal(hk_heap_check(NULL), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_callback_at_the_limit_may_use_its_heap_and_others),
        cmocka_unit_test(test_a_visitor_may_free_and_allocate),
        cmocka_unit_test(test_many_heaps_of_all_kinds_are_shared_by_threads_and_end_with_blocks_in_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
