/* The heap's figures: classes that sum to what is mapped, counts that agree with a walk and with what was asked for,
 * the same as text and JSON; and what the recorder is told. */
#include "heap_helper.h"

#include <ctype.h>

static int setup(void **state)
{
    *state = heap_new(HK_LOCK_HOST);
    return 0;
}

static int setup_locked(void **state)
{
    *state = heap_new(HK_LOCK_OWN);
    return 0;
}

static int teardown(void **state)
{
    memset(&hk_recorder, 0, sizeof(hk_recorder));
    hk_heap_destroy(*state);
    return 0;
}

/* ---- figures ---- */

static void test_a_new_heap_has_mapped_only_itself(void **state)
{
    hk_heap_stats s = stats_of(*state);
    assert_int_equal(s.mapped_bytes, s.metadata_bytes);
    assert_true(s.metadata_bytes > 0 && s.metadata_bytes < 65536);
    assert_int_equal(s.arenas + s.pools_used + s.pools_full + s.pools_empty, 0);
    assert_int_equal(s.allocated_bytes + s.allocated_blocks, 0);
}

static void test_classes_sum_to_mapped_and_agree_with_a_walk(void **state)
{
    hk_heap *heap = *state;
    static void *blocks[4000];
    uint64_t random = 11;
    for (int i = 1; i <= rounds(40000); i++) {
        uint64_t slot = random_below(&random, COUNT(blocks));
        hk_free(heap, blocks[slot]);
        blocks[slot] = i % 10000 < 7000 ? hk_malloc(heap, random_size(&random)) : NULL;
        if (i % 1000 == 0)
            assert_in_order(heap);
    }
    for (size_t i = 0; i < COUNT(blocks); i++) {
        hk_free(heap, blocks[i]);
        blocks[i] = NULL;
    }
    assert_in_order(heap);
    assert_int_equal(stats_of(heap).live_bytes, 0);
}

static void test_every_byte_and_block_that_was_asked_for_is_counted_once(void **state)
{
    hk_heap *heap = *state;
    uint64_t random = 5, bytes = 0, blocks = 0;
    void *kept[64] = {NULL};
    for (int i = 0; i < 30000; i++) {
        size_t size = random_size(&random) + 1;
        hk_free(heap, kept[i % 64]);
        kept[i % 64] = i % 3 ? hk_malloc(heap, size) : hk_calloc(heap, size, 1);
        bytes += size;
        blocks++;
        if (i % 512 == 0) {
            hk_heap_stats s = stats_of(heap);
            assert_int_equal(s.allocated_bytes, bytes);
            assert_int_equal(s.allocated_blocks, blocks);
        }
    }
    hk_free(heap, hk_aligned_alloc(heap, 4096, 20480));
    bytes += 20480;
    blocks++;
    hk_heap_fold(heap); /* moves counts, changes none */
    hk_heap_stats s = stats_of(heap);
    assert_int_equal(s.allocated_bytes, bytes);
    assert_int_equal(s.allocated_blocks, blocks);
    for (int i = 0; i < 64; i++)
        hk_free(heap, kept[i]);
    assert_int_equal(stats_of(heap).allocated_blocks, blocks);
}

static void test_large_blocks_are_counted_beside_what_is_mapped(void **state)
{
    hk_heap *heap = *state;
    hk_heap_stats before = stats_of(heap);
    size_t sizes[] = {HK_BLOCK_MAX + 1, 30000, 1000000}, sum = 0;
    void *blocks[COUNT(sizes)];
    for (size_t i = 0; i < COUNT(sizes); i++) {
        blocks[i] = hk_malloc(heap, sizes[i]);
        sum += hk_libc.usable_size(blocks[i]);
    }
    hk_heap_stats s = stats_of(heap);
    assert_int_equal(s.large_blocks, COUNT(sizes));
    assert_int_equal(s.large_bytes, sum);
    assert_int_equal(s.mapped_bytes, before.mapped_bytes);
    assert_int_equal(s.live_blocks, 0);
    blocks[0] = hk_realloc(heap, blocks[0], 500000);
    assert_int_equal(stats_of(heap).large_blocks, COUNT(sizes));
    blocks[0] = hk_realloc(heap, blocks[0], 10); /* into the heap */
    assert_int_equal(stats_of(heap).large_blocks, COUNT(sizes) - 1);
    assert_int_equal(stats_of(heap).live_blocks, 1);
    for (size_t i = 0; i < COUNT(sizes); i++)
        hk_free(heap, blocks[i]);
    s = stats_of(heap);
    assert_int_equal(s.large_blocks + s.large_bytes, 0);
}

static void test_the_sum_of_all_heaps_is_the_sum_of_each(void **state)
{
    hk_heap *heaps[3] = {*state, heap_new(HK_LOCK_OWN), heap_new(HK_LOCK_HOST)};
    hk_heap_stats sum = {.size = 0};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 1000 * (i + 1); k++)
            hk_malloc(heaps[i], 100 + (size_t)k % 500);
    for (int i = 0; i < 3; i++) {
        hk_heap_stats s = stats_of(heaps[i]);
        sum.mapped_bytes += s.mapped_bytes;
        sum.live_blocks += s.live_blocks;
        sum.allocated_bytes += s.allocated_bytes;
        sum.arenas += s.arenas;
    }
    hk_heap_stats all = stats_of(NULL);
    assert_int_equal(all.mapped_bytes, sum.mapped_bytes);
    assert_int_equal(all.live_blocks, sum.live_blocks);
    assert_int_equal(all.allocated_bytes, sum.allocated_bytes);
    assert_int_equal(all.arenas, sum.arenas);
    assert_int_equal(all.mapped_bytes, sum_of_classes(&all));
    hk_heap_destroy(heaps[1]);
    hk_heap_destroy(heaps[2]);
}

static void test_a_program_built_with_a_smaller_structure_is_served(void **state)
{
    unsigned char bytes[sizeof(hk_heap_stats)];
    hk_heap_stats *old = (hk_heap_stats *)(void *)bytes;
    memset(bytes, 0x5a, sizeof(bytes));
    old->size = offsetof(hk_heap_stats, live_bytes);
    hk_malloc(*state, 100);
    hk_heap_get_stats(*state, old);
    assert_int_equal(old->size, offsetof(hk_heap_stats, live_bytes));
    assert_int_equal(old->mapped_bytes, stats_of(*state).mapped_bytes);
    for (size_t i = old->size; i < sizeof(bytes); i++)
        assert_int_equal(bytes[i], 0x5a);
}

static bool count_pools(const hk_pool_info *pool, void *block, hk_block_state state, void *argument)
{
    assert_null(block);
    ++*(int *)argument;
    return false;
}

static void test_a_visitor_that_does_not_ask_for_blocks_sees_pools_only(void **state)
{
    int pools = 0;
    hk_malloc(*state, 100);
    hk_heap_visit(*state, count_pools, &pools);
    assert_int_equal(pools, HK_ARENA_POOLS);
}

/* ---- text and JSON ---- */

static const char *json_skip(const char *at);

static const char *json_string(const char *at)
{
    for (at++; *at != '"'; at++) {
        if ((unsigned char)*at < 0x20)
            return NULL;
        if (*at == '\\' && strchr("\"\\/bfnrtu", *++at) == NULL)
            return NULL;
    }
    return at + 1;
}

static const char *json_list(const char *at, char end, bool keys)
{
    at++;
    while (at != NULL && *at != end) {
        if (keys && (*at != '"' || (at = json_string(at)) == NULL || *at++ != ':'))
            return NULL;
        at = json_skip(at);
        if (at != NULL && *at == ',' && at[1] != end)
            at++;
        else if (at != NULL && *at != end)
            return NULL;
    }
    return at != NULL ? at + 1 : NULL;
}

/* Behind the value that starts at `at`; NULL: it is not JSON. */
static const char *json_skip(const char *at)
{
    if (*at == '{' || *at == '[')
        return json_list(at, *at == '{' ? '}' : ']', *at == '{');
    if (*at == '"')
        return json_string(at);
    const char *digits = at;
    while (isdigit((unsigned char)*at))
        at++;
    return at > digits ? at : NULL;
}

static uint64_t json_number(const char *object, const char *key)
{
    char wanted[64];
    snprintf(wanted, sizeof(wanted), "\"%s\":", key);
    const char *at = strstr(object, wanted);
    assert_non_null(at);
    return strtoull(at + strlen(wanted), NULL, 10);
}

static void test_json_is_well_formed_and_sums(void **state)
{
    static char text[16384];
    hk_heap *other = hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .name = "second"});
    for (size_t i = 0; i < 2000; i++) {
        hk_malloc(*state, i);
        hk_malloc(other, i);
    }
    size_t length = hk_stats_json(text, sizeof(text));
    assert_int_equal(length, strlen(text));
    const char *end = json_skip(text);
    assert_non_null(end);
    assert_int_equal(*end, 0);

    const char *first = strstr(text, "\"heaps\":["), *second;
    assert_non_null(first);
    assert_non_null(strstr(first, "{\"name\":\"test\","));
    second = strstr(first, "{\"name\":\"second\",");
    assert_non_null(second);
    static const char *const keys[] = {"mapped_bytes", "live_bytes", "free_bytes", "untouched_bytes", "tail_bytes",
                                       "empty_bytes", "metadata_bytes", "live_blocks", "allocated_bytes", "pools_used",
                                       "allocated_blocks", "large_bytes", "large_blocks", "arenas", "pools_full",
                                       "pools_empty", "returned_bytes"};
    for (size_t i = 0; i < COUNT(keys); i++)
        assert_int_equal(json_number(text, keys[i]), json_number(first, keys[i]) + json_number(second, keys[i]));
    uint64_t classes = 0;
    for (size_t i = 1; i <= 6; i++)
        classes += json_number(text, keys[i]);
    assert_int_equal(json_number(text, "mapped_bytes"), classes);
    assert_int_equal(json_number(text, "mapped_bytes"), stats_of(NULL).mapped_bytes);
    hk_heap_destroy(other);
}

static void test_json_stays_json_whatever_a_heap_is_called(void **state)
{
    static char text[16384];
    hk_heap *other = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options), .name = "the \"second\" \\ heap\n\x1f of \xc3\xa4 pro\xffgram \xc3"});
    hk_stats_json(text, sizeof(text));
    const char *end = json_skip(text);
    assert_non_null(end);
    assert_int_equal(*end, 0);
    assert_non_null(strstr(text, "the \\\"second\\\" \\\\ heap\\u000a\\u001f of \xc3\xa4 pro\\ufffdgram \\ufffd\","));
    hk_heap_destroy(other);
}

static void check_truncation(size_t (*print)(char *, size_t))
{
    static char whole[16384], part[16384];
    size_t length = print(whole, sizeof(whole));
    assert_int_equal(print(NULL, 0), length);
    for (size_t capacity = 1; capacity <= length + 2; capacity += 1 + length / 200) {
        memset(part, 'x', sizeof(part));
        assert_int_equal(print(part, capacity), length);
        size_t fits = capacity - 1 < length ? capacity - 1 : length;
        assert_memory_equal(part, whole, fits);
        assert_int_equal(part[fits], 0);
        assert_int_equal(part[capacity], 'x');
    }
}

static void test_text_and_json_are_cut_to_the_room_there_is(void **state)
{
    hk_malloc(*state, 100);
    check_truncation(hk_stats_text);
    check_truncation(hk_stats_json);
}

static void test_text_names_the_heaps_and_adds_up(void **state)
{
    static char text[16384];
    hk_malloc(*state, 100);
    hk_stats_text(text, sizeof(text));
    assert_non_null(strstr(text, "all heaps"));
    char *own = strstr(text, "test ");
    assert_non_null(own);
    unsigned long long live, rest, untouched, tails, empty, metadata, mapped;
    assert_int_equal(sscanf(strchr(own, '\n'), "%llu live + %llu free + %llu untouched + %llu tails + %llu empty + "
                                               "%llu metadata = %llu bytes mapped",
                            &live, &rest, &untouched, &tails, &empty, &metadata, &mapped), 7);
    assert_int_equal(live + rest + untouched + tails + empty + metadata, mapped);
    assert_int_equal(mapped, stats_of(*state).mapped_bytes);
}

/* ---- the recorder's side ---- */

enum { DISTANCE = 10000, RECORDED = 1 << 16 };
static const void *recorded[RECORDED];
static uint64_t recorded_count, recorded_frees, ticks, last_total;

static uint64_t fake_draw(uint64_t *mean)
{
    *mean = DISTANCE;
    return DISTANCE;
}

static void fake_allocation(const void *block, size_t size, uint64_t mean, int domain)
{
    assert_int_equal(mean, DISTANCE);
    assert_int_equal(domain, 7);
    if (recorded_count < RECORDED)
        recorded[recorded_count] = block;
    recorded_count++;
}

static bool fake_free(const void *block)
{
    for (uint64_t i = 0; i < recorded_count; i++)
        if (recorded[i] == block) {
            recorded[i] = NULL;
            recorded_frees++;
            return true;
        }
    return false;
}

static uint32_t fake_table_size(void)
{
    return (uint32_t)(recorded_count - recorded_frees);
}

static void fake_tick(hk_heap *heap, uint64_t allocated)
{
    assert_true(allocated >= last_total);
    last_total = allocated;
    ticks++;
}

static hk_heap *watch(hk_heap *heap)
{
    hk_heap *watched = heap_new(HK_LOCK_OWN);
    watched->is_watched = true;
    heap->watched = watched;
    heap->domain = 7;
    recorded_count = recorded_frees = ticks = last_total = 0;
    hk_recorder = (struct hk_heap_recorder){.draw = fake_draw, .allocation = fake_allocation, .free = fake_free,
                                            .table_size = fake_table_size, .tick = fake_tick};
    return watched;
}

static void test_the_recorder_gets_one_block_for_each_distance_and_each_of_its_frees(void **state)
{
    hk_heap *heap = *state, *watched = watch(heap);
    static void *blocks[2000];
    uint64_t random = 21, bytes = 0, in_watched = 0;
    for (int i = 0; i < 40000; i++) {
        size_t size = random_size(&random) % 9000 + 1;
        uint64_t slot = random_below(&random, COUNT(blocks));
        hk_free(heap, blocks[slot]);
        if (i % 7 == 0) /* these are charged as much as they take */
            blocks[slot] = hk_aligned_alloc(heap, 64, size = (size + 63) / 64 * 64 > 1000 ? 20480 : 512);
        else
            blocks[slot] = i % 5 ? hk_malloc(heap, size) : hk_calloc(heap, 1, size);
        memset(blocks[slot], 0x11, size);
        bytes += size;
    }
    /* Every distance is the same here, so the number of samples is what it must be; each starts where the last was. */
    uint64_t most = bytes / DISTANCE;
    assert_true(recorded_count <= most && recorded_count > most / 2);
    for (uint64_t i = 0; i < recorded_count; i++)
        in_watched += recorded[i] != NULL && hk_heap_of(recorded[i]) == watched;
    assert_int_equal(stats_of(watched).live_blocks, in_watched);
    assert_int_equal(stats_of(heap).allocated_bytes + stats_of(watched).allocated_bytes, bytes);
    assert_true(ticks >= recorded_count);
    assert_in_order(heap);
    assert_in_order(watched);
    for (size_t i = 0; i < COUNT(blocks); i++) {
        hk_free(heap, blocks[i]);
        blocks[i] = NULL;
    }
    assert_int_equal(recorded_frees, recorded_count);
    assert_int_equal(stats_of(watched).live_blocks + stats_of(heap).live_blocks, 0);
    hk_heap_destroy(watched);
}

static void test_a_recorded_block_that_is_moved_is_freed_once(void **state)
{
    hk_heap *heap = *state, *watched = watch(heap);
    for (int i = 0; i < 3000; i++) {
        void *block = hk_malloc(heap, 300);
        block = hk_realloc(heap, block, 3000);
        block = hk_realloc(heap, block, 30000);
        block = hk_realloc(heap, block, 60000);
        block = hk_realloc(heap, block, 20);
        hk_free(heap, block);
    }
    assert_true(recorded_count > 3000);
    assert_int_equal(recorded_frees, recorded_count);
    assert_int_equal(stats_of(watched).live_blocks + stats_of(heap).live_blocks, 0);
    assert_int_equal(stats_of(heap).large_blocks + stats_of(heap).large_bytes, 0);
    hk_heap_destroy(watched);
}

#define HOST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define BOTH(test) HOST(test), cmocka_unit_test_setup_teardown(test, setup_locked, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_a_new_heap_has_mapped_only_itself),
        BOTH(test_classes_sum_to_mapped_and_agree_with_a_walk),
        BOTH(test_every_byte_and_block_that_was_asked_for_is_counted_once),
        BOTH(test_large_blocks_are_counted_beside_what_is_mapped),
        HOST(test_the_sum_of_all_heaps_is_the_sum_of_each),
        HOST(test_a_program_built_with_a_smaller_structure_is_served),
        BOTH(test_a_visitor_that_does_not_ask_for_blocks_sees_pools_only),
        HOST(test_json_is_well_formed_and_sums),
        HOST(test_json_stays_json_whatever_a_heap_is_called),
        HOST(test_text_and_json_are_cut_to_the_room_there_is),
        BOTH(test_text_names_the_heaps_and_adds_up),
        BOTH(test_the_recorder_gets_one_block_for_each_distance_and_each_of_its_frees),
        BOTH(test_a_recorded_block_that_is_moved_is_freed_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
