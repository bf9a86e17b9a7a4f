/* The geometry, seen by walking a heap: how many pools are in an arena and blocks in a pool, in which states they are
 * from the first malloc to the last free, and what blocks are aligned to. Built once for each geometry; the pictures that
 * are drawn here are those of the guides to CPython's memory management. */
#include "heap_helper.h"

static hk_heap *new_heap(size_t alignment)
{
    hk_heap *heap = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options),
        .lock = HK_LOCK_HOST,
        .alignment = alignment,
    });
    assert_non_null(heap);
    return heap;
}

static hk_geometry geometry(void)
{
    hk_geometry g = {.size = sizeof(g)};
    hk_get_geometry(&g);
    return g;
}

/* ---- drawing ---- */

/* A pool is one character: '.' empty, 'u' used, 'F' full. So is a block: '.' untouched, 'o' free, '#' allocated. */
struct picture {
    char arenas[4][HK_ARENA_POOLS + 1];
    uint32_t arena_count;
    char pool[HK_POOL_SIZE / HK_STEP + 1]; /* the blocks of the one looked at */
    const void *looked_at;
    uint32_t seen;
};

static bool draw(const hk_pool_info *pool, void *block, hk_block_state state, void *argument)
{
    struct picture *p = argument;
    if (block != NULL) {
        size_t i = (size_t)((char *)block - (char *)pool->start) / pool->block_size;
        p->pool[i] = ".o#"[state];
        p->pool[i + 1] = 0;
        return false;
    }
    size_t number = p->seen++ % HK_ARENA_POOLS;
    if (number == 0)
        p->arena_count++;
    assert_int_equal(pool->arena, p->arena_count - 1);
    assert_int_equal(pool->size, HK_POOL_SIZE);
    p->arenas[p->arena_count - 1][number] = ".uF"[pool->state];
    return (uintptr_t)p->looked_at - (uintptr_t)pool->start < pool->size;
}

static struct picture picture_of(hk_heap *heap, const void *looked_at)
{
    struct picture p = {.looked_at = looked_at};
    hk_heap_visit(heap, draw, &p);
    assert_int_equal(p.seen % HK_ARENA_POOLS, 0);
    return p;
}

/* The text, repeated: times(3, "#") is "###". In a static buffer, of which there are four. */
static const char *times(size_t count, const char *text)
{
    static char buffers[4][HK_POOL_SIZE / HK_STEP + 1];
    static unsigned next;
    char *buffer = buffers[next++ % 4];
    size_t length = strlen(text);
    for (size_t i = 0; i < count; i++)
        memcpy(buffer + i * length, text, length);
    buffer[count * length] = 0;
    return buffer;
}

static const char *join(const char *a, const char *b, const char *c)
{
    static char buffer[HK_POOL_SIZE / HK_STEP + 1];
    snprintf(buffer, sizeof(buffer), "%s%s%s", a, b, c);
    return buffer;
}

/* ---- sizes ---- */

static void test_the_geometry_says_what_the_heap_does(void **state)
{
    hk_geometry g = geometry();
    assert_string_equal(g.name, HK_GEOMETRY_NAME);
    assert_int_equal(g.arena_bytes, HK_ARENA_SIZE);
    assert_int_equal(g.arena_bytes, g.pool_bytes * g.pools_per_arena);
    assert_int_equal(g.pools_per_arena, 64);
    assert_int_equal(hk_class_bytes(0), 0);
    assert_int_equal(hk_class_bytes(1), g.block_step);
    assert_int_equal(hk_class_bytes(g.classes), g.block_max);
    assert_int_equal(hk_class_bytes(g.classes + 1), 0);
    assert_int_equal(hk_class_bytes(UINT32_MAX), 0);
#ifdef HK_GEOMETRY_GUIDE
    assert_string_equal(g.name, "guide");
    assert_int_equal(g.arena_bytes, 256 * 1024);
    assert_int_equal(g.pool_bytes, 4096);
    assert_int_equal(g.classes, 64);
    assert_int_equal(g.block_step, 8);
    assert_int_equal(g.block_max, 512);
#endif
}

static void test_a_caller_of_an_earlier_version_gets_as_much_as_it_has_room_for(void **state)
{
    union {
        hk_geometry g;
        unsigned char bytes[sizeof(hk_geometry)];
    } small;
    memset(&small, 0xaa, sizeof(small));
    small.g.size = offsetof(hk_geometry, pool_bytes);
    hk_get_geometry(&small.g);
    assert_int_equal(small.g.arena_bytes, HK_ARENA_SIZE);
    for (size_t i = offsetof(hk_geometry, pool_bytes); i < sizeof(small); i++)
        assert_int_equal(small.bytes[i], 0xaa);
}

static void test_a_pool_holds_as_many_blocks_as_fit_into_it(void **state)
{
    hk_heap *heap = new_heap(HK_STEP);
    void *blocks[HK_CLASSES] = {NULL};
    for (uint32_t i = 1; i < HK_CLASSES; i++)
        blocks[i] = hk_malloc(heap, hk_class_bytes(i));
    for (uint32_t i = 1; i < HK_CLASSES; i++) {
        struct picture p = picture_of(heap, blocks[i]);
        assert_int_equal(strlen(p.pool), HK_POOL_SIZE / hk_class_bytes(i));
        assert_int_equal((char *)blocks[i] - hk_pool_start(hk_pool_of(blocks[i])), 0);
    }
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

/* ---- a life ---- */

static void test_pools_and_blocks_pass_through_their_states(void **state)
{
    hk_heap *heap = new_heap(HK_STEP);
    enum { SIZE = 64, CAPACITY = HK_POOL_SIZE / SIZE };
    static char *blocks[CAPACITY + 1];
    assert_int_equal(picture_of(heap, NULL).arena_count, 0);

    for (size_t i = 0; i < CAPACITY; i++) {
        blocks[i] = hk_malloc(heap, SIZE);
        struct picture p = picture_of(heap, blocks[0]);
        assert_int_equal(p.arena_count, 1);
        assert_string_equal(p.arenas[0], join(i + 1 < CAPACITY ? "u" : "F", times(HK_ARENA_POOLS - 1, "."), ""));
        size_t touched = strcspn(p.pool, ".");
        assert_string_equal(p.pool, join(times(i + 1, "#"), times(touched - i - 1, "o"), times(CAPACITY - touched, ".")));
    }

    blocks[CAPACITY] = hk_malloc(heap, SIZE); /* the next pool */
    assert_string_equal(picture_of(heap, NULL).arenas[0], join("Fu", times(HK_ARENA_POOLS - 2, "."), ""));
    for (size_t i = 0; i < CAPACITY; i += 2)
        hk_free(heap, blocks[i]);
    struct picture half = picture_of(heap, blocks[0]);
    assert_string_equal(half.arenas[0], join("uu", times(HK_ARENA_POOLS - 2, "."), ""));
    assert_string_equal(half.pool, times(CAPACITY / 2, "o#"));

    for (size_t i = 1; i < CAPACITY; i += 2)
        hk_free(heap, blocks[i]);
    struct picture empty = picture_of(heap, blocks[0]);
    assert_string_equal(empty.arenas[0], join(".u", times(HK_ARENA_POOLS - 2, "."), ""));
    assert_string_equal(empty.pool, ""); /* no blocks any more: it may serve another size next */
    char *other = hk_malloc(heap, 2 * SIZE);
    assert_ptr_equal(other, blocks[0]);
    struct picture again = picture_of(heap, other);
    assert_int_equal(strlen(again.pool), CAPACITY / 2);
    assert_int_equal(again.pool[0], '#');

    hk_free(heap, other);
    hk_free(heap, blocks[CAPACITY]);
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

static void test_an_arena_is_64_pools_and_then_there_is_a_second(void **state)
{
    hk_heap *heap = new_heap(HK_STEP);
    enum { PER_POOL = HK_POOL_SIZE / HK_BLOCK_MAX };
    for (int i = 0; i < HK_ARENA_POOLS * PER_POOL; i++)
        assert_ptr_equal(hk_heap_of(hk_malloc(heap, HK_BLOCK_MAX)), heap);
    struct picture full = picture_of(heap, NULL);
    assert_int_equal(full.arena_count, 1);
    assert_string_equal(full.arenas[0], times(64, "F"));
    hk_malloc(heap, HK_BLOCK_MAX);
    struct picture two = picture_of(heap, NULL);
    assert_int_equal(two.arena_count, 2);
    assert_int_equal(two.arenas[0][0], 'F');
    assert_in_order(heap);
    hk_heap_destroy(heap);
}

/* Where addresses are alike from bit 0 to bit 19, the cache of some processors holds one of the two lines at a time. */
static void test_the_first_pools_are_not_placed_like_their_descriptors(void **state)
{
    for (size_t i = 0; i < 32; i++) {
        uintptr_t pool = (uintptr_t)hk_region.base + i * HK_POOL_SIZE, descriptor = (uintptr_t)&hk_region.pools[i];
        assert_int_not_equal(pool >> 12 & 0xff, descriptor >> 12 & 0xff);
    }
}

static void test_the_largest_block_is_of_a_pool_and_the_next_byte_makes_it_the_systems(void **state)
{
    hk_heap *heap = new_heap(HK_STEP);
    void *largest = hk_malloc(heap, HK_BLOCK_MAX), *larger = hk_malloc(heap, HK_BLOCK_MAX + 1);
    assert_ptr_equal(hk_heap_of(largest), heap);
    assert_null(hk_heap_of(larger));
    assert_int_equal(stats_of(heap).large_blocks, 1);
    hk_free(heap, largest);
    hk_free(heap, larger);
    hk_heap_destroy(heap);
}

/* ---- alignment ---- */

enum { EACH = 67 }; /* blocks of each size: over the end of a pool for the larger ones */

static void check_alignment(size_t asked_for, size_t otherwise)
{
    hk_heap *heap = new_heap(asked_for);
    static struct shadow blocks[4][EACH];
    uint64_t tag = 0;
    for (size_t size = 1; size <= 600; size++) {
        size_t wanted = size % 16 == 0 || size > HK_BLOCK_MAX ? 16 : otherwise;
        for (int i = 0; i < EACH; i++) {
            void *made[] = {hk_malloc(heap, size), hk_calloc(heap, size, 1), hk_realloc(heap, hk_malloc(heap, 1), size),
                            hk_realloc(heap, hk_malloc(heap, size + 8), size)};
            for (size_t k = 0; k < COUNT(made); k++) {
                assert_int_equal((uintptr_t)made[k] % wanted, 0);
                shadow_fill(&blocks[k][i], made[k], size, tag++);
            }
            void *aligned = hk_aligned_alloc(heap, 16, size);
            assert_int_equal((uintptr_t)aligned % 16, 0);
            hk_free(heap, aligned);
        }
        for (int k = 0; k < 4; k++)
            for (int i = 0; i < EACH; i++) {
                assert_true(is_intact(&blocks[k][i]));
                hk_free(heap, blocks[k][i].block);
            }
        assert_in_order(heap);
    }
    assert_int_equal(stats_of(heap).live_blocks, 0);
    hk_heap_destroy(heap);
}

static void test_every_size_is_aligned_to_16_unless_8_is_asked_for(void **state)
{
    check_alignment(0, 16);
    check_alignment(16, 16);
}

static void test_where_8_is_asked_for_sizes_that_are_multiples_of_16_are_aligned_to_16(void **state)
{
    check_alignment(8, HK_STEP);
}

static void test_a_heap_of_16_uses_every_second_class_of_eight_bytes(void **state)
{
    hk_heap *heap = new_heap(16), *dense = new_heap(8);
    for (size_t size = 0; size <= HK_SMALL_MAX; size++) {
        size_t least = size == 0 ? 1 : size;
        void *block = hk_malloc(heap, size), *closer = hk_malloc(dense, size);
        assert_int_equal(hk_usable_size(block), (least + 15) / 16 * 16);
        assert_int_equal(hk_usable_size(closer), (least + HK_STEP - 1) / HK_STEP * HK_STEP);
    }
    assert_in_order(heap);
    assert_in_order(dense);
    hk_heap_destroy(heap);
    hk_heap_destroy(dense);
}

static void test_an_alignment_other_than_8_and_16_makes_no_heap(void **state)
{
    static const size_t wrong[] = {1, 2, 4, 12, 32, 4096, SIZE_MAX, 256 + 8};
    for (size_t i = 0; i < COUNT(wrong); i++)
        assert_null(hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .alignment = wrong[i]}));
}

/* Blocks as they come to be under random replacement, in a heap of either alignment. */
static void test_random_programs_leave_a_heap_of_either_alignment_in_order(void **state)
{
    enum { SLOTS = 2000 };
    static struct shadow slots[SLOTS];
    for (size_t alignment = 8; alignment <= 16; alignment += 8) {
        hk_heap *heap = new_heap(alignment);
        uint64_t random = alignment;
        memset(slots, 0, sizeof(slots));
        for (int i = 1; i <= rounds(60000); i++) {
            struct shadow *s = &slots[random_below(&random, SLOTS)];
            if (s->block != NULL)
                assert_true(is_intact(s));
            size_t size = random_below(&random, 530);
            if (s->block != NULL && random_below(&random, 2) == 0) {
                hk_free(heap, s->block);
                s->block = NULL;
                continue;
            }
            void *block = s->block != NULL ? hk_realloc(heap, s->block, size) : hk_malloc(heap, size);
            size_t wanted = size > 0 && size % 16 == 0 ? 16 : alignment;
            assert_int_equal((uintptr_t)block % wanted, 0);
            shadow_fill(s, block, size, (uint64_t)i);
            if (i % 5000 == 0)
                assert_in_order(heap);
        }
        hk_heap_destroy(heap);
    }
}

static void test_domains_align_raw_blocks_to_16_and_the_others_as_small_as_the_classes_are(void **state)
{
    for (size_t size = 1; size <= HK_SMALL_MAX; size++)
        for (int domain = 0; domain < HK_DOMAINS; domain++) {
            size_t step = domain == HK_DOMAIN_RAW ? 16 : HK_STEP;
            void *block = hk_domain_malloc((hk_domain)domain, size);
            assert_int_equal(hk_usable_size(block), (size + step - 1) / step * step);
            assert_int_equal((uintptr_t)block % (size % 16 == 0 ? 16 : step), 0);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_geometry_says_what_the_heap_does),
        cmocka_unit_test(test_a_caller_of_an_earlier_version_gets_as_much_as_it_has_room_for),
        cmocka_unit_test(test_a_pool_holds_as_many_blocks_as_fit_into_it),
        cmocka_unit_test(test_pools_and_blocks_pass_through_their_states),
        cmocka_unit_test(test_an_arena_is_64_pools_and_then_there_is_a_second),
        cmocka_unit_test(test_the_first_pools_are_not_placed_like_their_descriptors),
        cmocka_unit_test(test_the_largest_block_is_of_a_pool_and_the_next_byte_makes_it_the_systems),
        cmocka_unit_test(test_every_size_is_aligned_to_16_unless_8_is_asked_for),
        cmocka_unit_test(test_where_8_is_asked_for_sizes_that_are_multiples_of_16_are_aligned_to_16),
        cmocka_unit_test(test_a_heap_of_16_uses_every_second_class_of_eight_bytes),
        cmocka_unit_test(test_an_alignment_other_than_8_and_16_makes_no_heap),
        cmocka_unit_test(test_random_programs_leave_a_heap_of_either_alignment_in_order),
        cmocka_unit_test(test_domains_align_raw_blocks_to_16_and_the_others_as_small_as_the_classes_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
