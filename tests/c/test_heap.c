/* The heap from outside, one thread: classes, contents, states, limits of sizes, and what is given back. */
#include "heap_helper.h"

#include <malloc.h>
#include <sys/mman.h>

/* A class of which a pool holds enough blocks to see its states. */
#define SIZE ((size_t)64)
#define CAPACITY (HK_POOL_SIZE / SIZE)

static uint64_t tags;

static int setup(void **state)
{
    *state = heap_new(HK_LOCK_HOST);
    return 0;
}

static int setup_frugal(void **state)
{
    int failed = setup(state);
    if (!failed)
        ((hk_heap *)*state)->is_frugal = true;
    return failed;
}

static int setup_locked(void **state)
{
    *state = heap_new(HK_LOCK_OWN);
    return 0;
}

static int teardown(void **state)
{
    hk_heap_destroy(*state);
    return 0;
}

/* ---- sizes ---- */

static size_t class_for(size_t size)
{
    for (int i = 1; i < HK_CLASSES; i++)
        if (hk_class_size[i] >= size)
            return hk_class_size[i];
    return 0;
}

static void test_size_classes_rise_and_the_last_is_the_largest_block(void **state)
{
    for (int i = 1; i < HK_CLASSES; i++) {
        assert_int_equal(hk_class_size[i] % HK_STEP, 0);
        assert_true(hk_class_size[i] > hk_class_size[i - 1]);
        if (hk_class_size[i] > HK_SMALL_MAX)
            assert_int_equal(hk_class_size[i] % 64, 0);
        else
            assert_int_equal(hk_class_size[i], i * HK_STEP);
    }
    assert_int_equal(hk_class_size[HK_CLASSES - 1], HK_BLOCK_MAX);
}

static void test_each_size_comes_from_the_smallest_class_that_holds_it(void **state)
{
    hk_heap *heap = *state;
    for (size_t size = 1; size <= HK_BLOCK_MAX; size++) {
        void *block = hk_malloc(heap, size);
        assert_ptr_equal(hk_heap_of(block), heap);
        assert_int_equal(hk_usable_size(block), class_for(size));
        hk_free(heap, block);
    }
    assert_in_order(heap);
    assert_int_equal(stats_of(heap).live_blocks, 0);
}

static void test_blocks_of_each_class_fill_their_pools_and_keep_apart(void **state)
{
    hk_heap *heap = *state;
    static struct shadow blocks[2 * HK_POOL_SIZE / HK_STEP];
    for (int i = 1; i < HK_CLASSES; i++) {
        size_t size = hk_class_size[i], count = 2 * (HK_POOL_SIZE / size);
        for (size_t k = 0; k < count; k++)
            shadow_fill(&blocks[k], hk_malloc(heap, size), size, tags++);
        hk_heap_stats s = stats_of(heap);
        assert_int_equal(s.live_blocks, count);
        assert_int_equal(s.pools_full, 2);
        assert_int_equal(s.untouched_bytes, 0);
        assert_in_order(heap);
        for (size_t k = 0; k < count; k++) {
            assert_true(is_intact(&blocks[k]));
            hk_free(heap, blocks[k].block);
        }
        assert_in_order(heap);
    }
}

static void test_every_size_up_to_20000_is_aligned_and_can_be_written_to_its_end(void **state)
{
    hk_heap *heap = *state;
    for (size_t size = 0; size <= 20000; size++) {
        unsigned char *block = hk_malloc(heap, size);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % alignment_of(size), 0);
        assert_true(usable(block) >= size);
        memset(block, 0xa5, hk_heap_of(block) != NULL ? usable(block) : size);
        hk_free(heap, block);
    }
    assert_in_order(heap);
    assert_int_equal(stats_of(heap).large_blocks, 0);
}

static void test_size_zero_gives_a_block_of_its_own(void **state)
{
    hk_heap *heap = *state;
    void *blocks[] = {hk_malloc(heap, 0), hk_calloc(heap, 0, 8), hk_calloc(heap, 8, 0), hk_realloc(heap, NULL, 0),
                      hk_aligned_alloc(heap, 64, 0), hk_realloc(heap, hk_malloc(heap, 100), 0)};
    for (size_t i = 0; i < COUNT(blocks); i++) {
        assert_non_null(blocks[i]);
        for (size_t k = 0; k < i; k++)
            assert_ptr_not_equal(blocks[i], blocks[k]);
    }
    for (size_t i = 0; i < COUNT(blocks); i++)
        hk_free(heap, blocks[i]);
    assert_int_equal(stats_of(heap).live_blocks, 0);
    assert_in_order(heap);
}

static void test_sizes_that_overflow_give_no_block_and_change_nothing(void **state)
{
    hk_heap *heap = *state;
    hk_heap_stats before = stats_of(heap);
    assert_null(hk_malloc(heap, (size_t)PTRDIFF_MAX + 1));
    assert_null(hk_malloc(heap, SIZE_MAX));
    assert_null(hk_calloc(heap, SIZE_MAX / 2, 3));
    assert_null(hk_calloc(heap, (size_t)1 << 32, (size_t)1 << 32));
    assert_null(hk_calloc(heap, 1, (size_t)PTRDIFF_MAX + 1));
    assert_null(hk_calloc(heap, SIZE_MAX, 1));
    assert_null(hk_realloc(heap, NULL, SIZE_MAX));
    for (size_t alignment = 1; alignment <= HK_ALIGNMENT_MAX; alignment *= 2)
        for (size_t less = 0; less < 40000; less += 4999)
            assert_null(hk_aligned_alloc(heap, alignment, SIZE_MAX - less));
    hk_heap_stats after = stats_of(heap);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_in_order(heap);
}

static void test_realloc_that_cannot_leaves_the_block_as_it_was(void **state)
{
    hk_heap *heap = *state;
    size_t sizes[] = {10, 700, HK_BLOCK_MAX + 1, 300000};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct shadow s;
        shadow_fill(&s, hk_malloc(heap, sizes[i]), sizes[i], tags++);
        assert_null(hk_realloc(heap, s.block, SIZE_MAX));
        assert_null(hk_realloc(heap, s.block, (size_t)PTRDIFF_MAX + 1));
        if (!IS_SANITIZED) /* which would end the program */
            assert_null(hk_realloc(heap, s.block, PTRDIFF_MAX - 100000));
        assert_true(is_intact(&s));
        hk_free(heap, s.block);
    }
    hk_heap_stats after = stats_of(heap);
    assert_int_equal(after.live_blocks + after.large_blocks + after.large_bytes, 0);
    assert_in_order(heap);
}

static void test_calloc_clears_blocks_that_were_used_before(void **state)
{
    hk_heap *heap = *state;
    static void *blocks[64];
    for (size_t size = 1; size <= 40000; size += size / 16 + 1) {
        for (size_t i = 0; i < COUNT(blocks); i++)
            memset(blocks[i] = hk_malloc(heap, size), 0xff, size);
        for (size_t i = 0; i < COUNT(blocks); i++)
            hk_free(heap, blocks[i]);
        for (size_t i = 0; i < COUNT(blocks); i++) {
            const unsigned char *bytes = blocks[i] = hk_calloc(heap, i % 2 ? size : 1, i % 2 ? 1 : size);
            for (size_t k = 0; k < size; k++)
                assert_int_equal(bytes[k], 0);
        }
        for (size_t i = 0; i < COUNT(blocks); i++)
            hk_free(heap, blocks[i]);
    }
    assert_in_order(heap);
}

static void test_aligned_blocks_are_aligned_whatever_their_size(void **state)
{
    hk_heap *heap = *state;
    static const size_t sizes[] = {0, 1, 16, 17, 100, 512, 513, 1000, 2048, 4095, 4096, 4097, 9000, 16384, 70000};
    for (size_t alignment = 1; alignment <= HK_ALIGNMENT_MAX; alignment *= 2) {
        struct shadow blocks[COUNT(sizes) * 8];
        for (size_t i = 0; i < COUNT(blocks); i++) {
            size_t size = sizes[i % COUNT(sizes)];
            void *block = hk_aligned_alloc(heap, alignment, size);
            assert_non_null(block);
            assert_int_equal((uintptr_t)block % alignment, 0);
            assert_true(usable(block) >= size);
            shadow_fill(&blocks[i], block, size, tags++);
        }
        for (size_t i = 0; i < COUNT(blocks); i++) {
            assert_true(is_intact(&blocks[i]));
            hk_free(heap, blocks[i].block);
        }
        assert_in_order(heap);
    }
    assert_int_equal(stats_of(heap).live_blocks, 0);
    assert_int_equal(stats_of(heap).large_blocks, 0);
}

static void test_alignments_that_are_no_power_of_two_or_too_large_are_refused(void **state)
{
    static const size_t alignments[] = {0,   3, 24, 48, 100, HK_ALIGNMENT_MAX - 1, HK_ALIGNMENT_MAX + 1, 2 * HK_ALIGNMENT_MAX,
                                        SIZE_MAX};
    for (size_t i = 0; i < COUNT(alignments); i++)
        assert_null(hk_aligned_alloc(*state, alignments[i], 64));
}

/* ---- contents ---- */

static void test_realloc_keeps_what_fits_across_small_medium_and_large(void **state)
{
    hk_heap *heap = *state;
    static const size_t sizes[] = {1, 15, 16, 17, 100, 511, 512, 513, 800, 1024, 2047, 2049, 4000, 4096, 4097, 8000,
                                   16384, 16385, 50000, 140000, 600000};
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t k = 0; k < COUNT(sizes); k++) {
            struct shadow s;
            shadow_fill(&s, hk_malloc(heap, sizes[i]), sizes[i], tags++);
            unsigned char *moved = hk_realloc(heap, s.block, sizes[k]);
            assert_non_null(moved);
            assert_true(usable(moved) >= sizes[k]);
            assert_true(shadow_holds(moved, sizes[i] < sizes[k] ? sizes[i] : sizes[k], s.tag));
            memset(moved, 1, sizes[k]);
            hk_free(heap, moved);
        }
    hk_heap_stats after = stats_of(heap);
    assert_int_equal(after.live_blocks + after.large_blocks + after.large_bytes, 0);
    assert_in_order(heap);
}

static void test_a_block_that_is_made_much_smaller_moves_to_a_smaller_class(void **state)
{
    hk_heap *heap = *state;
    for (size_t size = 128; size <= HK_BLOCK_MAX; size *= 2) {
        void *block = hk_malloc(heap, size);
        assert_ptr_equal(hk_realloc(heap, block, size - 1), block);
        block = hk_realloc(heap, block, size / 2);
        assert_int_equal(hk_usable_size(block), class_for(size / 2));
        hk_free(heap, block);
    }
}

static void random_step(hk_heap *heap, struct shadow *s, uint64_t *random)
{
    size_t size = random_size(random);
    if (s->block != NULL) {
        assert_true(is_intact(s));
        if (random_below(random, 3) != 0) {
            hk_free(heap, s->block);
            s->block = NULL;
            return;
        }
        unsigned char *moved = hk_realloc(heap, s->block, size);
        assert_non_null(moved);
        assert_true(shadow_holds(moved, size < s->size ? size : s->size, s->tag));
        shadow_fill(s, moved, size, tags++);
        return;
    }
    void *block = NULL;
    switch (random_below(random, 8)) {
    case 0:
        block = hk_calloc(heap, size, 1);
        for (size_t i = 0; i < size; i++)
            assert_int_equal(((unsigned char *)block)[i], 0);
        break;
    case 1: {
        size_t alignment = (size_t)1 << random_below(random, 15);
        block = hk_aligned_alloc(heap, alignment, size);
        assert_int_equal((uintptr_t)block % alignment, 0);
        break;
    }
    default:
        block = hk_malloc(heap, size);
    }
    assert_non_null(block);
    shadow_fill(s, block, size, tags++);
}

static void random_program(hk_heap *heap, uint64_t seed)
{
    enum { SLOTS = 3000 };
    static struct shadow slots[SLOTS];
    uint64_t random = seed;
    int steps = rounds(60000);
    memset(slots, 0, sizeof(slots));
    for (int i = 1; i <= steps; i++) {
        /* The part of the slots that is in use breathes, so that pools fill, empty and are used again. */
        uint64_t part = SLOTS / 8 + (uint64_t)(i / 4000 % 2) * (SLOTS - SLOTS / 8);
        random_step(heap, &slots[random_below(&random, part)], &random);
        if (i % 2000 != 0)
            continue;
        uint64_t live = 0;
        for (int k = 0; k < SLOTS; k++)
            live += slots[k].block != NULL;
        hk_heap_stats s = stats_of(heap);
        assert_int_equal(s.live_blocks + s.large_blocks, live);
        assert_in_order(heap);
        if (i % 10000 == 0)
            hk_heap_trim(heap);
    }
    for (int k = 0; k < SLOTS; k++)
        if (slots[k].block != NULL) {
            assert_true(is_intact(&slots[k]));
            hk_free(heap, slots[k].block);
        }
    hk_heap_stats s = stats_of(heap);
    assert_int_equal(s.live_blocks + s.live_bytes + s.large_blocks + s.large_bytes, 0);
    assert_in_order(heap);
}

static void test_contents_survive_random_programs(void **state)
{
    for (uint64_t seed = 1; seed <= 4; seed++)
        random_program(*state, seed);
}

/* ---- states ---- */

static hk_pool_info pool_found;
static const void *wanted_block;
static hk_block_state state_found;

static bool find_block(const hk_pool_info *pool, void *block, hk_block_state state, void *argument)
{
    if (block == NULL) {
        uintptr_t distance = (uintptr_t)wanted_block - (uintptr_t)pool->start;
        if (distance < pool->size)
            pool_found = *pool;
        return distance < pool->size;
    }
    if (block == wanted_block)
        state_found = state;
    return false;
}

static hk_pool_info pool_with(hk_heap *heap, const void *block)
{
    wanted_block = block;
    pool_found = (hk_pool_info){.start = NULL};
    hk_heap_visit(heap, find_block, NULL);
    assert_non_null(pool_found.start);
    return pool_found;
}

static hk_block_state state_of(hk_heap *heap, const void *block)
{
    assert_int_not_equal(pool_with(heap, block).state, HK_POOL_EMPTY);
    return state_found;
}

static void test_a_pool_is_empty_then_used_then_full(void **state)
{
    hk_heap *heap = *state;
    char *first = hk_malloc(heap, SIZE), *blocks[CAPACITY] = {first};
    char *last_of_pool = (char *)pool_with(heap, first).start + (CAPACITY - 1) * SIZE;
    assert_int_equal(state_of(heap, last_of_pool), HK_BLOCK_UNTOUCHED);
    for (size_t i = 1; i < CAPACITY; i++) {
        hk_pool_info pool = pool_with(heap, first);
        assert_int_equal(pool.state, HK_POOL_USED);
        assert_int_equal(pool.allocated, i);
        assert_int_equal(pool.capacity, CAPACITY);
        assert_int_equal(pool.block_size, SIZE);
        blocks[i] = hk_malloc(heap, SIZE);
        assert_int_equal(state_of(heap, blocks[i]), HK_BLOCK_ALLOCATED);
    }
    assert_int_equal(pool_with(heap, first).state, HK_POOL_FULL);
    assert_int_equal(state_of(heap, last_of_pool), HK_BLOCK_ALLOCATED);
    assert_int_equal(stats_of(heap).pools_full, 1);
    hk_free(heap, blocks[5]);
    assert_int_equal(pool_with(heap, first).state, HK_POOL_USED);
    assert_int_equal(state_of(heap, blocks[5]), HK_BLOCK_FREE);
    assert_int_equal(state_of(heap, blocks[6]), HK_BLOCK_ALLOCATED);
    assert_in_order(heap);
    for (size_t i = 0; i < CAPACITY; i++)
        if (i != 5)
            hk_free(heap, blocks[i]);
    assert_int_equal(stats_of(heap).live_blocks, 0);
    assert_in_order(heap);
}

static void test_a_pool_is_empty_when_its_last_block_dies(void **state)
{
    hk_heap *heap = *state;
    static char *blocks[4 * CAPACITY];
    for (size_t i = 0; i < COUNT(blocks); i++)
        blocks[i] = hk_malloc(heap, SIZE);
    hk_pool_info first = pool_with(heap, blocks[0]);
    uint32_t empty = stats_of(heap).pools_empty;
    size_t freed = 0;
    for (size_t i = 0; i < COUNT(blocks) && freed < first.capacity; i++)
        if (blocks[i] >= (char *)first.start && blocks[i] < (char *)first.start + first.size) {
            assert_int_not_equal(pool_with(heap, blocks[i]).state, HK_POOL_EMPTY);
            hk_free(heap, blocks[i]);
            blocks[i] = NULL;
            freed++;
        }
    assert_int_equal(freed, first.capacity);
    assert_int_equal(pool_with(heap, first.start).state, HK_POOL_EMPTY);
    assert_int_equal(stats_of(heap).pools_empty, empty + 1);
    assert_in_order(heap);

    void *other = hk_malloc(heap, HK_BLOCK_MAX); /* an empty pool serves any class, the lowest first */
    assert_in_range((uintptr_t)other, (uintptr_t)first.start, (uintptr_t)first.start + first.size - 1);
    hk_free(heap, other);
    for (size_t i = 0; i < COUNT(blocks); i++)
        hk_free(heap, blocks[i]);
    assert_in_order(heap);
}

static void test_a_pool_that_was_full_is_used_again_in_any_order_of_frees(void **state)
{
    hk_heap *heap = *state;
    enum { BLOCKS = 8 * CAPACITY };
    static void *blocks[BLOCKS];
    uint64_t random = 3;
    for (int round = 0; round < rounds(60); round++) {
        for (int i = 0; i < BLOCKS; i++)
            if (blocks[i] == NULL)
                blocks[i] = hk_malloc(heap, SIZE);
        uint64_t pools = stats_of(heap).pools_full + stats_of(heap).pools_used;
        assert_true(pools <= BLOCKS / CAPACITY + 2);
        for (int i = 0; i < BLOCKS; i++)
            if (random_below(&random, 60) <= (uint64_t)round) {
                hk_free(heap, blocks[i]);
                blocks[i] = NULL;
            }
        assert_in_order(heap);
    }
    for (int i = 0; i < BLOCKS; i++) {
        hk_free(heap, blocks[i]);
        blocks[i] = NULL;
    }
    assert_int_equal(stats_of(heap).live_blocks, 0);
}

/* ---- giving back ---- */

static size_t resident_pages(void *start, size_t size)
{
    static unsigned char map[HK_ARENA_SIZE / 4096];
    size_t page = hk_os_page_size(), resident = 0;
    assert_int_equal(mincore(start, size, map), 0);
    for (size_t i = 0; i < size / page; i++)
        resident += map[i] & 1;
    return resident;
}

/* Also of those with which the budget ends, and the recorder looks up: nearly every one of this size. */
static void test_calloc_of_large_blocks_touches_none_of_their_pages(void **state)
{
    hk_heap *heap = *state;
    enum { BLOCKS = 16, LARGE = 8 << 20, LOOKED_AT = HK_ARENA_SIZE };
    void *blocks[BLOCKS];
    size_t resident = 0;
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = hk_calloc(heap, 1, LARGE);
        assert_non_null(blocks[i]);
        uintptr_t middle = ((uintptr_t)blocks[i] + LARGE / 2) & ~(uintptr_t)(hk_os_page_size() - 1);
        resident += resident_pages((void *)middle, LOOKED_AT);
    }
    if (!is_watched_by_tool()) /* whose calloc it is there */
        assert_true(resident < LOOKED_AT / hk_os_page_size());
    assert_int_equal(stats_of(heap).allocated_bytes, (uint64_t)BLOCKS * LARGE);
    for (int i = 0; i < BLOCKS; i++)
        hk_free(heap, blocks[i]);
}

static void test_trim_gives_empty_pools_back_and_keeps_the_rest(void **state)
{
    hk_heap *heap = *state;
    enum { BLOCKS = 40 * CAPACITY };
    static struct shadow blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++)
        shadow_fill(&blocks[i], hk_malloc(heap, SIZE), SIZE, tags++);
    for (int i = 0; i < BLOCKS - 1; i++)
        hk_free(heap, blocks[i].block);
    hk_heap_stats before = stats_of(heap);
    assert_true(before.empty_bytes > 0);
    assert_int_equal(hk_heap_trim(heap), before.empty_bytes);
    hk_heap_stats after = stats_of(heap);
    assert_int_equal(after.empty_bytes, 0);
    assert_int_equal(after.returned_bytes, before.returned_bytes + before.empty_bytes);
    assert_int_equal(after.mapped_bytes, before.mapped_bytes - before.empty_bytes);
    assert_int_equal(hk_heap_trim(heap), 0);
    assert_in_order(heap);

    char *first_pool = hk_pool_start(hk_pool_of(blocks[0].block));
    assert_int_equal(pool_with(heap, first_pool).state, HK_POOL_EMPTY);
    if (!is_under_valgrind())
        assert_int_equal(resident_pages(first_pool, HK_POOL_SIZE), 0);
    assert_true(is_intact(&blocks[BLOCKS - 1]));
    hk_free(heap, blocks[BLOCKS - 1].block);
}

static void test_what_is_kept_of_empty_pools_is_bounded(void **state)
{
    hk_heap *heap = *state;
    const size_t kept = (size_t)32 << 20; /* src/heap/region.c */
    size_t count = 3 * kept / SIZE;
    void **blocks = calloc(count, sizeof(*blocks));
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < count; i++)
            *(size_t *)(blocks[i] = hk_malloc(heap, SIZE)) = i;
        assert_int_equal(stats_of(heap).returned_bytes < HK_ARENA_SIZE * 2, 1);
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(*(size_t *)blocks[i], i);
            hk_free(heap, blocks[i]);
        }
        hk_heap_stats after = stats_of(heap);
        assert_true(after.empty_bytes <= kept + 2 * HK_POOL_SIZE);
        assert_true(after.empty_bytes >= kept / 4);
        assert_true(after.returned_bytes >= kept);
        assert_in_order(heap);
    }
    free(blocks);
    hk_heap_trim(heap);
    assert_int_equal(stats_of(heap).empty_bytes, 0);
}

static void test_a_destroyed_heap_leaves_its_arenas_to_the_next(void **state)
{
    uint32_t taken = 0;
    for (int round = 0; round < 50; round++) {
        hk_heap *heap = heap_new(round % 2 ? HK_LOCK_OWN : HK_LOCK_HOST);
        for (int i = 0; i < 3000; i++) {
            uint64_t *block = hk_calloc(heap, 1, 1000);
            assert_int_equal(block[0] | block[124], 0);
            memset(block, 0xff, 1000);
        }
        assert_in_order(heap);
        hk_heap_destroy(heap);
        if (round == 0)
            taken = hk_region.arena_next;
    }
    assert_int_equal(hk_region.arena_next, taken);
    hk_heap_destroy(NULL);
}

static void test_there_may_be_any_number_of_heaps(void **state)
{
    enum { HEAPS = 1200 }; /* more than a chunk of the table */
    static hk_heap *heaps[HEAPS];
    static void *blocks[HEAPS];
    hk_heap_stats before = stats_of(NULL);
    for (int i = 0; i < HEAPS; i++) {
        heaps[i] = heap_new(i % 2 ? HK_LOCK_OWN : HK_LOCK_HOST);
        blocks[i] = hk_malloc(heaps[i], 100);
        assert_ptr_equal(hk_heap_of(blocks[i]), heaps[i]);
    }
    assert_int_equal(stats_of(NULL).live_blocks, before.live_blocks + HEAPS);
    assert_int_equal(hk_heap_check(NULL), 0);
    for (int i = 0; i < HEAPS; i += 2)
        hk_heap_destroy(heaps[i]);
    assert_int_equal(stats_of(NULL).live_blocks, before.live_blocks + HEAPS / 2);
    for (int i = 1; i < HEAPS; i += 2) {
        hk_free(heaps[i], blocks[i]);
        hk_heap_destroy(heaps[i]);
    }
    hk_heap_stats after = stats_of(NULL);
    assert_memory_equal(&before, &after, sizeof(before));
}

/* ---- whose block ---- */

static void test_what_no_heap_owns_is_known_as_such(void **state)
{
    hk_heap *heap = *state;
    int on_the_stack;
    void *foreign = malloc(100), *large = hk_malloc(heap, HK_BLOCK_MAX + 1);
    void *nobodys[] = {&on_the_stack, foreign, large, NULL, (void *)1, hk_region.base - 1,
                       hk_region.base + hk_region.span, (void *)UINTPTR_MAX};
    for (size_t i = 0; i < COUNT(nobodys); i++) {
        assert_null(hk_heap_of(nobodys[i]));
        assert_int_equal(hk_usable_size(nobodys[i]), 0);
        assert_false(hk_free_remote(nobodys[i]));
    }
    hk_free(heap, NULL);
    hk_free(heap, large);
    free(foreign);
    assert_int_equal(stats_of(heap).large_blocks, 0);
}

static void test_a_block_of_another_heap_goes_back_to_it(void **state)
{
    hk_heap *mine = *state, *host = heap_new(HK_LOCK_HOST), *own = heap_new(HK_LOCK_OWN);
    for (int i = 0; i < 3000; i++) {
        hk_free(mine, hk_malloc(host, 200));
        hk_free(mine, hk_malloc(own, 200));
        hk_free(own, hk_malloc(mine, 200));
        hk_free(host, hk_malloc(mine, 200));
    }
    hk_malloc(host, HK_BLOCK_MAX); /* a slow path takes back what came from outside */
    hk_malloc(mine, HK_BLOCK_MAX);
    assert_int_equal(stats_of(own).live_blocks, 0);
    assert_int_equal(stats_of(host).live_blocks, 1);
    assert_int_equal(stats_of(mine).live_blocks, 1);
    assert_in_order(mine);
    assert_in_order(host);
    assert_in_order(own);
    hk_heap_destroy(own);
    hk_heap_destroy(host);
}

/* What a heap of CPython's is: few pools for a program that has a few blocks of each of many sizes. */
static void test_a_frugal_heap_has_few_pools_for_few_blocks_of_many_sizes(void **state)
{
    hk_heap *frugal = *state, *plain = heap_new(HK_LOCK_HOST);
    void *blocks[HK_CLASSES][2];
    for (size_t i = HK_CLASSES - 1; i > 0; i--)
        for (size_t k = 0; k < 2; k++) {
            blocks[i][k] = hk_malloc(frugal, hk_class_size[i]);
            hk_malloc(plain, hk_class_size[i]);
            size_t usable = hk_usable_size(blocks[i][k]);
            assert_in_range(usable, hk_class_size[i], hk_class_size[i] + hk_class_size[i] / 2);
            assert_int_equal((uintptr_t)blocks[i][k] % alignment_of(hk_class_size[i]), 0);
            memset(blocks[i][k], (int)i, usable);
        }
    assert_in_order(frugal);
    assert_true(stats_of(frugal).pools_used * 2 <= stats_of(plain).pools_used);
    for (size_t i = 1; i < HK_CLASSES; i++)
        for (size_t k = 0; k < 2; k++) {
            assert_int_equal(*(unsigned char *)blocks[i][k], i);
            hk_free(frugal, blocks[i][k]);
        }
    assert_int_equal(stats_of(frugal).live_blocks, 0);
    hk_heap_destroy(plain);
}

/* In the guide's geometry 24 may share with 40, but 32, in between, needs an alignment that 40 does not have. */
static void test_a_class_between_two_that_share_keeps_its_alignment(void **state)
{
    hk_malloc(*state, 5 * HK_STEP);
    hk_malloc(*state, 3 * HK_STEP);
    for (int i = 0; i < 9; i++)
        assert_int_equal((uintptr_t)hk_malloc(*state, 4 * HK_STEP) % alignment_of(4 * HK_STEP), 0);
}

static void test_a_size_of_which_a_frugal_heap_gets_many_has_pools_of_its_own(void **state)
{
    hk_heap *heap = *state;
    size_t size = 4 * HK_STEP, count = 20 * HK_POOL_SIZE / size, own = 0;
    hk_malloc(heap, size + HK_ALIGNMENT); /* so that there is something to share */
    for (size_t i = 0; i < count; i++)
        own += hk_usable_size(hk_malloc(heap, size)) == size;
    assert_in_order(heap);
    assert_true(own < count);
    assert_true(own >= count / 2);
}

/* ---- siblings ---- */

static hk_heap *sibling_of(hk_heap *heap)
{
    hk_heap *sibling = heap_new(HK_LOCK_HOST);
    heap->sibling = sibling;
    sibling->sibling = heap;
    return sibling;
}

static void sibling_end(hk_heap *heap)
{
    hk_heap *sibling = heap->sibling;
    heap->sibling = sibling->sibling = NULL;
    assert_in_order(heap);
    assert_in_order(sibling);
    hk_heap_destroy(sibling);
}

enum { EACH = 16384 };

static size_t fill_pools(hk_heap *heap, void **blocks, size_t pools)
{
    size_t count = pools * (HK_POOL_SIZE / (HK_STEP * 32));
    assert_true(count <= EACH);
    for (size_t i = 0; i < count; i++)
        assert_non_null(blocks[i] = hk_malloc(heap, HK_STEP * 32));
    return count;
}

static void leave_empty_pools(hk_heap *heap, size_t pools)
{
    static void *blocks[EACH];
    size_t count = fill_pools(heap, blocks, pools);
    for (size_t i = 0; i < count; i++)
        hk_free(heap, blocks[i]);
    assert_true(stats_of(heap).empty_bytes >= (pools - 2) * HK_POOL_SIZE);
}

/* What two heaps under one lock have in memory is what one would have. */
static void test_a_heap_that_grows_takes_the_memory_of_its_siblings_empty_pools(void **state)
{
    static void *blocks[EACH];
    hk_heap *heap = *state, *sibling = sibling_of(heap);
    leave_empty_pools(sibling, 30);
    fill_pools(heap, blocks, 30);
    assert_true(stats_of(sibling).empty_bytes <= HK_POOL_SIZE);
    assert_true(stats_of(sibling).returned_bytes >= 28 * HK_POOL_SIZE);
    sibling_end(heap);
}

static uint64_t in_memory(hk_heap *heap)
{
    hk_heap_stats s = stats_of(heap);
    return s.mapped_bytes - s.metadata_bytes;
}

/* What is in memory is used before what is not, and with an arena that is empty it changes hands. */
static void test_an_empty_arena_in_memory_serves_the_sibling(void **state)
{
    static void *blocks[EACH];
    hk_heap *heap = *state, *sibling = sibling_of(heap);
    leave_empty_pools(sibling, 2 * HK_ARENA_POOLS + 8);
    uint64_t arenas = stats_of(sibling).arenas, returned = stats_of(sibling).returned_bytes;
    size_t count = fill_pools(heap, blocks, HK_ARENA_POOLS - 4);
    assert_int_equal(stats_of(sibling).arenas, arenas - 1);
    assert_true(stats_of(sibling).returned_bytes <= returned); /* it gave no pages back */
    assert_true(stats_of(heap).empty_bytes >= 3 * HK_POOL_SIZE);
    assert_in_order(heap);
    assert_in_order(sibling);
    for (size_t i = 0; i < count; i++)
        hk_free(heap, blocks[i]);
    leave_empty_pools(sibling, HK_ARENA_POOLS - 8);
    sibling_end(heap);
}

/* They keep what both once had at a time, however the halves of it move. */
static void test_siblings_that_grow_in_turn_keep_what_both_once_had(void **state)
{
    static void *blocks[2][EACH];
    hk_heap *heap[2] = {*state, sibling_of(*state)};
    fill_pools(heap[0], blocks[0], 30);
    size_t each = fill_pools(heap[1], blocks[1], 30);
    uint64_t most = in_memory(heap[0]) + in_memory(heap[1]);
    for (int turn = 0; turn < 2; turn++)
        for (size_t i = 0; i < each; i++)
            hk_free(heap[turn], blocks[turn][i]);
    for (int turn = 0; turn < 6; turn++) {
        size_t count = fill_pools(heap[turn % 2], blocks[turn % 2], 30);
        uint64_t now = in_memory(heap[0]) + in_memory(heap[1]);
        assert_in_range(now, most - 3 * HK_POOL_SIZE, most);
        for (size_t i = 0; i < count; i++)
            hk_free(heap[turn % 2], blocks[turn % 2][i]);
    }
    sibling_end(heap[0]);
}

/* A list that grows leaves a current pool without a block in each class. */
static void test_a_heap_that_grows_uses_pools_whose_blocks_were_all_freed(void **state)
{
    hk_heap *heap = *state;
    void *block[HK_CLASSES];
    sibling_of(heap);
    for (size_t i = 1; i < HK_CLASSES; i++)
        block[i] = hk_malloc(heap, hk_class_size[i]);
    for (size_t i = 1; i < HK_CLASSES; i++)
        hk_free(heap, block[i]);
    uint64_t before = in_memory(heap);
    for (size_t i = 1; i < before / (HK_STEP * 32) * 7 / 8; i++)
        assert_non_null(hk_malloc(heap, HK_STEP * 32));
    assert_int_equal(in_memory(heap), before);
    sibling_end(heap);
}

/* What large blocks leave, and pools, is given back in each turn, but not for ever. */
static void test_a_program_whose_pools_and_large_blocks_take_turns_comes_to_rest(void **state)
{
    enum { TURNS = 40, LARGE = 44 };
    static void *blocks[EACH];
    void *large[LARGE];
    hk_heap *heap = *state;
    uint64_t returned = 0;
    int last = 0;
    sibling_of(heap);
    for (int turn = 0; turn < TURNS; turn++) {
        for (size_t i = 0; i < LARGE; i++)
            assert_non_null(large[i] = hk_malloc(heap, 100000));
        last = stats_of(heap).returned_bytes != returned ? turn : last;
        for (size_t i = 0; i < LARGE; i++)
            hk_free(heap, large[i]);
        size_t count = fill_pools(heap, blocks, ((size_t)2 << 20) / HK_POOL_SIZE);
        returned = stats_of(heap).returned_bytes;
        for (size_t i = 0; i < count; i++)
            hk_free(heap, blocks[i]);
    }
    assert_true(last < TURNS / 2);
    sibling_end(heap);
}

static int trims;

static int count_trim(size_t pad)
{
    (void)pad;
    trims++;
    return 0;
}

/* What large blocks leave in the C heap is in memory until it is trimmed. */
static void test_pools_that_grow_after_large_blocks_were_freed_trim_the_c_heap(void **state)
{
    static void *blocks[EACH];
    void *large[20];
    hk_heap *heap = *state;
    size_t grown = ((size_t)1 << 20) / HK_POOL_SIZE;
    int (*trim)(size_t) = hk_libc.trim;
    sibling_of(heap);
    hk_libc.trim = count_trim;
    trims = 0;
    for (int i = 0; i < 20; i++)
        large[i] = hk_malloc(heap, 100000);
    fill_pools(heap, blocks, grown);
    assert_int_equal(trims, 0); /* nothing was freed */
    for (int i = 0; i < 19; i++) /* the last one holds the end, or the C heap trims itself */
        hk_free(heap, large[i]);
    assert_int_equal(trims, 0); /* and now nothing grows */
    fill_pools(heap, blocks, grown);
    assert_int_equal(trims, 1);
    fill_pools(heap, blocks, grown);
    assert_int_equal(trims, 1); /* nothing more was freed */
    hk_libc.trim = trim;
    sibling_end(heap);
}

static void test_empty_pools_give_way_to_large_blocks_that_make_the_c_heap_grow(void **state)
{
    enum { GROWTH = 2 << 20, BLOCK = 100000, PAD = 256 << 10 };
    hk_heap *heap = *state;
    sibling_of(heap);
    hk_malloc(heap, BLOCK);
    leave_empty_pools(heap, 2 * GROWTH / HK_POOL_SIZE);
    uint64_t before = stats_of(heap).empty_bytes;
    for (int i = 0; i < GROWTH / BLOCK; i++)
        hk_malloc(heap, BLOCK);
    assert_in_range(before - stats_of(heap).empty_bytes, GROWTH / 2, GROWTH + PAD);
    sibling_end(heap);
}

/* The pages of a block between two others that is freed now; -1: it had a mapping of its own, or is where no one knows. */
static int pages_left_of(hk_heap *heap, size_t size)
{
    size_t page = hk_os_page_size();
    char *block = hk_malloc(heap, size), *end = hk_malloc(heap, 100000);
    char *start = (char *)(((uintptr_t)block + page - 1) & ~(page - 1));
    memset(block, 1, size);
    bool within = block < (char *)sbrk(0) && end > block && end < (char *)sbrk(0);
    hk_free(heap, block);
    int left = within ? (int)resident_pages(start, size - 2 * page) : -1;
    hk_free(heap, end);
    return left;
}

static void test_a_large_block_keeps_its_pages_only_when_its_size_comes_back(void **state)
{
    enum { SIZE_OF_IT = 900 << 10 };
    hk_large_expect();     /* or such blocks have mappings of their own */
    mallopt(M_PERTURB, 0); /* Meson asks for it; it writes to what is freed */
    int first = pages_left_of(*state, SIZE_OF_IT);
    if (first < 0) /* a sanitizer's malloc, or valgrind's */
        skip();
    assert_int_equal(first, 0);
    assert_true(pages_left_of(*state, SIZE_OF_IT) > SIZE_OF_IT / 4096 / 2);
    assert_true(pages_left_of(*state, SIZE_OF_IT + 5000) > SIZE_OF_IT / 4096 / 2); /* nearly the same */
    assert_int_equal(pages_left_of(*state, SIZE_OF_IT * 3 / 2), 0);
}

static void test_version_is_three_numbers(void **state)
{
    int major, minor, patch, end = 0;
    assert_int_equal(sscanf(hk_version(), "%d.%d.%d%n", &major, &minor, &patch, &end), 3);
    assert_int_equal(hk_version()[end], 0);
}

#define FRUGAL(test) cmocka_unit_test_setup_teardown(test, setup_frugal, teardown)
#define HOST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define BOTH(test) HOST(test), cmocka_unit_test_setup_teardown(test, setup_locked, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size_classes_rise_and_the_last_is_the_largest_block),
        HOST(test_a_heap_that_grows_takes_the_memory_of_its_siblings_empty_pools),
        HOST(test_an_empty_arena_in_memory_serves_the_sibling),
        HOST(test_siblings_that_grow_in_turn_keep_what_both_once_had),
        HOST(test_a_heap_that_grows_uses_pools_whose_blocks_were_all_freed),
        HOST(test_a_program_whose_pools_and_large_blocks_take_turns_comes_to_rest),
        HOST(test_pools_that_grow_after_large_blocks_were_freed_trim_the_c_heap),
        HOST(test_empty_pools_give_way_to_large_blocks_that_make_the_c_heap_grow),
        HOST(test_a_large_block_keeps_its_pages_only_when_its_size_comes_back),
        BOTH(test_each_size_comes_from_the_smallest_class_that_holds_it),
        BOTH(test_blocks_of_each_class_fill_their_pools_and_keep_apart),
        BOTH(test_every_size_up_to_20000_is_aligned_and_can_be_written_to_its_end),
        BOTH(test_size_zero_gives_a_block_of_its_own),
        BOTH(test_sizes_that_overflow_give_no_block_and_change_nothing),
        BOTH(test_realloc_that_cannot_leaves_the_block_as_it_was),
        BOTH(test_calloc_clears_blocks_that_were_used_before),
        BOTH(test_aligned_blocks_are_aligned_whatever_their_size),
        BOTH(test_alignments_that_are_no_power_of_two_or_too_large_are_refused),
        BOTH(test_realloc_keeps_what_fits_across_small_medium_and_large),
        BOTH(test_a_block_that_is_made_much_smaller_moves_to_a_smaller_class),
        BOTH(test_contents_survive_random_programs),
        BOTH(test_a_pool_is_empty_then_used_then_full),
        BOTH(test_a_pool_is_empty_when_its_last_block_dies),
        BOTH(test_a_pool_that_was_full_is_used_again_in_any_order_of_frees),
        BOTH(test_calloc_of_large_blocks_touches_none_of_their_pages),
        BOTH(test_trim_gives_empty_pools_back_and_keeps_the_rest),
        HOST(test_what_is_kept_of_empty_pools_is_bounded),
        cmocka_unit_test(test_a_destroyed_heap_leaves_its_arenas_to_the_next),
        HOST(test_there_may_be_any_number_of_heaps),
        BOTH(test_what_no_heap_owns_is_known_as_such),
        BOTH(test_a_block_of_another_heap_goes_back_to_it),
        FRUGAL(test_a_frugal_heap_has_few_pools_for_few_blocks_of_many_sizes),
        FRUGAL(test_a_class_between_two_that_share_keeps_its_alignment),
        FRUGAL(test_a_size_of_which_a_frugal_heap_gets_many_has_pools_of_its_own),
        FRUGAL(test_every_size_up_to_20000_is_aligned_and_can_be_written_to_its_end),
        FRUGAL(test_calloc_clears_blocks_that_were_used_before),
        FRUGAL(test_aligned_blocks_are_aligned_whatever_their_size),
        FRUGAL(test_realloc_keeps_what_fits_across_small_medium_and_large),
        FRUGAL(test_contents_survive_random_programs),
        FRUGAL(test_trim_gives_empty_pools_back_and_keeps_the_rest),
        cmocka_unit_test(test_version_is_three_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
