/* The map of the heap: what is written, what a reader makes of it, of it damaged, and of the memory of a running
 * process, all against the heap's own statistics and a walk over it. */
#include "heap_helper.h"

#include <malloc.h>

#include "heap/map.h"
#include "read/heapmap.h"

#define BLOCKS   6000
#define MAP_AT   12288
#define MAP_SIZE ((size_t)1 << 20)

static struct {
    _Alignas(8) uint8_t bytes[MAP_AT + MAP_SIZE];
} file;
static uint64_t ready_bytes, ready_calls, ready_fails_at;

static struct hk_capture_map *map_in_file(void)
{
    return (struct hk_capture_map *)(file.bytes + MAP_AT);
}

static bool ready(uint64_t bytes)
{
    if (++ready_calls == ready_fails_at)
        return false;
    ready_bytes = bytes > ready_bytes ? bytes : ready_bytes;
    return true;
}

/* A capture that has nothing but the map. Returns the map's bytes. */
static uint32_t write_map(size_t capacity, bool bits)
{
    struct hk_capture_header *header = (struct hk_capture_header *)file.bytes;
    memset(&file, 0, sizeof file);
    memset(file.bytes + MAP_AT, 0xaa, MAP_SIZE);
    ready_bytes = ready_calls = 0;
    static struct hk_capture_map_class sums[HK_MAP_CLASSES];
    memset(sums, 0xaa, sizeof sums);
    uint32_t size = hk_heap_map_fill(map_in_file(), capacity, bits, ready, sums);
    map_in_file()->sequence = 2;
    memcpy(header->magic, HK_CAPTURE_MAGIC, 8);
    header->major = HK_CAPTURE_MAJOR;
    header->minor = HK_CAPTURE_MINOR;
    header->byte_order = HK_CAPTURE_BYTE_ORDER;
    header->header_size = sizeof *header;
    header->state = HK_STATE_EXITED;
    header->sections[HK_SECTION_MAP_A] = (struct hk_capture_section){1, 0, MAP_AT, capacity, size};
    return size;
}

static struct hk_heap_map *read_map(void)
{
    struct hk_error error;
    struct hk_capture *capture = hk_capture_from_memory(file.bytes, sizeof file, "map", &error);
    assert_non_null(capture);
    struct hk_heap_map *map = hk_heap_map_read(capture, &error);
    if (map == NULL)
        fail_msg("%s", error.text);
    hk_capture_close(capture);
    return map;
}

/* A heap in which every state occurs: fragmented classes, full, untouched, emptied pools, large blocks. */
struct world {
    hk_heap *heap;
    void *blocks[BLOCKS];
};

static void fill_heap(struct world *w, hk_heap *heap)
{
    uint64_t random = 7;
    assert_non_null(heap);
    w->heap = heap;
    for (int i = 0; i < BLOCKS; i++)
        w->blocks[i] = hk_malloc(w->heap, i % 100 == 0 ? 20000 : 1 + random_below(&random, i % 2 ? 64 : HK_BLOCK_MAX));
    for (int i = 0; i < BLOCKS; i++) {
        if (i < BLOCKS / 3 || random_below(&random, 2)) {
            hk_free(w->heap, w->blocks[i]);
            w->blocks[i] = NULL;
        }
    }
    /* Full pools of which one block is freed. */
    void *small[4000];
    for (size_t i = 0; i < COUNT(small); i++)
        small[i] = hk_malloc(heap, 48);
    for (size_t i = 0; i < COUNT(small); i++)
        if (i % 300 == 0)
            hk_free(heap, small[i]);
}

static void fill_world(struct world *w, hk_lock_mode mode)
{
    fill_heap(w, heap_new(mode));
}

static void empty_world(struct world *w)
{
    for (int i = 0; i < BLOCKS; i++)
        hk_free(w->heap, w->blocks[i]);
    hk_heap_destroy(w->heap);
}

static const struct hk_map_heap *only_heap(const struct hk_heap_map *map)
{
    assert_int_equal(map->heap_count, 1);
    return &map->heaps[0];
}

static void check_against_stats(const struct hk_heap_map *map, hk_heap *heap)
{
    const struct hk_map_sums *s = &only_heap(map)->sums;
    hk_heap_stats stats = stats_of(heap);
    assert_int_equal(map->dropped, 0);
    assert_string_equal(map->heaps[0].name, "test");
    assert_int_equal(s->arenas, stats.arenas);
    assert_int_equal(s->pools_used, stats.pools_used);
    assert_int_equal(s->pools_full, stats.pools_full);
    assert_int_equal(s->pools_empty + s->pools_returned, stats.pools_empty);
    assert_int_equal(s->allocated_blocks + s->own_large_blocks, stats.live_blocks);
    assert_int_equal(s->allocated_bytes + s->own_large_bytes, stats.live_bytes);
    assert_int_equal(s->own_large_bytes, stats.own_large_bytes);
    assert_int_equal(s->pools_large, stats.pools_large);
    assert_int_equal(s->free_bytes, stats.free_bytes);
    assert_int_equal(s->untouched_bytes, stats.untouched_bytes);
    assert_int_equal(s->tail_bytes, stats.tail_bytes);
    assert_int_equal(s->empty_bytes, stats.empty_bytes);
    assert_int_equal(s->returned_bytes, stats.returned_bytes);
    assert_int_equal(s->metadata_bytes, stats.metadata_bytes);
    assert_int_equal(s->mapped_bytes, stats.mapped_bytes);
    assert_int_equal(s->large_bytes, stats.large_bytes);
    assert_int_equal(s->large_blocks, stats.large_blocks);
}

/* The walk and the map go through pools in the same order. */
struct comparison {
    struct hk_heap_map *map;
    size_t pool; /* the next one */
    uint32_t block;
    char *signs;
    bool with_blocks;
    unsigned wrong, compared_blocks;
};

static bool compare_pool(const hk_pool_info *info, void *block, hk_block_state state, void *argument)
{
    static const char signs[] = {[HK_BLOCK_UNTOUCHED] = ' ', [HK_BLOCK_FREE] = '.', [HK_BLOCK_ALLOCATED] = '#'};
    struct comparison *c = argument;
    if (block != NULL) {
        if (c->signs != NULL) {
            c->wrong += c->signs[c->block++] != signs[state];
            c->compared_blocks++;
        }
        return false;
    }
    const struct hk_map_arena *arena = &c->map->arenas[c->pool / HK_ARENA_POOLS];
    struct hk_map_pool *p = &c->map->pools[c->pool];
    free(c->signs);
    c->signs = NULL;
    c->block = 0;
    c->wrong += (char *)info->start != (char *)(uintptr_t)arena->start + c->pool % HK_ARENA_POOLS * HK_POOL_SIZE;
    c->wrong += p->block_size != info->block_size || p->capacity != info->capacity || p->allocated != info->allocated;
    c->wrong += p->touched != info->touched;
    c->wrong += (p->state == HK_MAP_POOL_FULL) != (info->state == HK_POOL_FULL);
    c->wrong += (p->state == HK_MAP_POOL_USED) != (info->state == HK_POOL_USED);
    if (c->with_blocks && info->state != HK_POOL_EMPTY) {
        c->signs = hk_heap_map_blocks(c->map, arena, (uint32_t)(c->pool % HK_ARENA_POOLS));
        c->wrong += c->signs == NULL;
    }
    c->pool++;
    return true;
}

static void check_against_walk(struct hk_heap_map *map, hk_heap *heap, bool with_blocks)
{
    struct comparison c = {.map = map, .with_blocks = with_blocks};
    hk_heap_visit(heap, compare_pool, &c);
    free(c.signs);
    assert_int_equal(c.wrong, 0);
    assert_int_equal(c.pool, map->pool_count);
    assert_true(!with_blocks || c.compared_blocks > 1000);
}

/* Sums only: the walk shows a large block as one pool, the map as several. */
static void check_sums_of(struct world *w)
{
    struct hk_error error;
    write_map(MAP_SIZE, true);
    struct hk_heap_map *map = read_map(), *live = hk_heap_map_live(map, getpid(), &error);
    if (live == NULL)
        fail_msg("%s", error.text);
    assert_true(map->heaps[0].sums.own_large_blocks > 0);
    check_against_stats(map, w->heap);
    check_against_stats(live, w->heap);
    hk_heap_map_free(live);
    hk_heap_map_free(map);
}

static void test_large_blocks_of_a_heaps_own_pools_are_counted(void **state)
{
    struct world w;
    fill_heap(&w, hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = HK_LOCK_HOST, .name = "test",
                                                    .large_from_source = true}));
    check_sums_of(&w);
    empty_world(&w);
}

static void check_mode(hk_lock_mode mode)
{
    struct world w;
    struct hk_error error;
    fill_world(&w, mode);
    uint32_t size = write_map(MAP_SIZE, true);
    assert_true(size > 0);
    assert_int_equal(size, ready_bytes);
    for (size_t i = size; i < MAP_SIZE; i++)
        if (file.bytes[MAP_AT + i] != 0xaa)
            fail_msg("byte %zu behind the map was written", i);
    struct hk_heap_map *map = read_map();
    check_against_stats(map, w.heap);
    check_against_walk(map, w.heap, true);
    struct hk_heap_map *live = hk_heap_map_live(map, getpid(), &error);
    if (live == NULL)
        fail_msg("%s", error.text);
    check_against_stats(live, w.heap);
    check_against_walk(live, w.heap, true);
    hk_heap_map_free(live);
    hk_heap_map_free(map);
    empty_world(&w);
}

static void test_map_of_a_heap_under_the_hosts_lock_is_what_its_statistics_and_a_walk_say(void **state)
{
    check_mode(HK_LOCK_HOST);
}

static void test_map_of_a_heap_that_locks_itself_is_what_its_statistics_and_a_walk_say(void **state)
{
    check_mode(HK_LOCK_OWN);
}

static void test_map_of_a_heap_of_threads_is_what_its_statistics_and_a_walk_say(void **state)
{
    check_mode(HK_LOCK_THREADS);
}

/* Everything in it would be found in the process's region, where it is not. */
static void test_heap_in_a_buffer_is_left_out_of_the_map(void **state)
{
    static char buffer[512 * 1024];
    struct world w;
    hk_heap *other = hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = HK_LOCK_HOST, .name = "other",
                                                       .source = HK_SOURCE_BUFFER, .buffer = buffer,
                                                       .buffer_size = sizeof buffer});
    assert_non_null(hk_malloc(other, 100));
    fill_world(&w, HK_LOCK_HOST);
    write_map(MAP_SIZE, true);
    struct hk_heap_map *map = read_map();
    check_against_stats(map, w.heap);
    check_against_walk(map, w.heap, true);
    hk_heap_map_free(map);
    empty_world(&w);
    hk_heap_destroy(other);
}

/* ---- as JSON ---- */

/* The number behind the first `key` from `text` on. */
static uint64_t number_of(const char *text, const char *key)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *found = strstr(text, quoted);
    if (found == NULL)
        fail_msg("no %s in %s", key, text);
    return strtoull(found + strlen(quoted), NULL, 10);
}

static unsigned count_of(const char *text, const char *what)
{
    unsigned count = 0;
    for (const char *at = text; (at = strstr(at, what)) != NULL; at++)
        count++;
    return count;
}

static void test_blocks_as_json_are_what_the_statistics_say(void **state)
{
    static char text[1 << 20];
    struct world w;
    fill_world(&w, HK_LOCK_HOST);
    hk_heap_stats stats = stats_of(w.heap);
    size_t length = hk_blocks_json(text, sizeof text, true);
    assert_int_equal(length, strlen(text));
    assert_non_null(strstr(text, "\"name\":\"test\",\"domain\":"));
    for (const char *part = text; part != NULL; part = part == text ? strstr(text, "\"heaps\":[") : NULL) {
        assert_int_equal(number_of(part, "mapped_bytes"), stats.mapped_bytes);
        assert_int_equal(number_of(part, "live_bytes"), stats.live_bytes);
        assert_int_equal(number_of(part, "free_bytes"), stats.free_bytes);
        assert_int_equal(number_of(part, "untouched_bytes"), stats.untouched_bytes);
        assert_int_equal(number_of(part, "tail_bytes"), stats.tail_bytes);
        assert_int_equal(number_of(part, "empty_bytes"), stats.empty_bytes);
        assert_int_equal(number_of(part, "metadata_bytes"), stats.metadata_bytes);
        assert_int_equal(number_of(part, "returned_bytes"), stats.returned_bytes);
        assert_int_equal(number_of(part, "live_blocks"), stats.live_blocks);
        assert_int_equal(number_of(part, "large_bytes"), stats.large_bytes);
        assert_int_equal(number_of(part, "pools_empty"), stats.pools_empty);
    }
    assert_int_equal(count_of(text, "\"state\":\"full\""), stats.pools_full);
    assert_int_equal(count_of(text, "\"state\":\"used\""), stats.pools_used);
    assert_int_equal(count_of(text, "\"arena\":"), stats.arenas);
    empty_world(&w);
}

static void test_blocks_as_json_into_too_little_room_are_cut_and_say_how_much_they_need(void **state)
{
    static char whole[1 << 20], cut[1 << 20];
    struct world w;
    fill_world(&w, HK_LOCK_HOST);
    size_t length = hk_blocks_json(whole, sizeof whole, true), sums = hk_blocks_json(whole, sizeof whole, false);
    assert_in_range(sums, 1000, length / 2);
    for (size_t room = 0; room <= sums; room += 1 + sums / 50) {
        memset(cut, 0x55, sizeof cut);
        assert_int_equal(hk_blocks_json(cut, room, false), sums);
        assert_memory_equal(cut, whole, room ? room - 1 : 0);
        assert_true(room == 0 || cut[room - 1] == 0);
        assert_int_equal(cut[room], 0x55);
    }
    assert_int_equal(hk_blocks_json(NULL, 0, false), sums);
    empty_world(&w);
}

static void test_blocks_as_json_take_nothing_from_any_heap(void **state)
{
    static char text[1 << 20];
    struct world w;
    fill_world(&w, HK_LOCK_OWN);
    struct mallinfo2 before = mallinfo2();
    hk_heap_stats stats = stats_of(w.heap);
    hk_blocks_json(text, sizeof text, true);
    struct mallinfo2 after = mallinfo2();
    hk_heap_stats now = stats_of(w.heap);
    assert_memory_equal(&now, &stats, sizeof now);
    assert_int_equal(after.uordblks, before.uordblks);
    empty_world(&w);
}

static void test_without_bits_pools_are_known_and_blocks_of_used_ones_are_not(void **state)
{
    struct world w;
    fill_world(&w, HK_LOCK_HOST);
    write_map(MAP_SIZE, false);
    struct hk_heap_map *map = read_map();
    check_against_stats(map, w.heap);
    check_against_walk(map, w.heap, false);
    for (size_t i = 0; i < map->pool_count; i++) {
        char *signs = hk_heap_map_blocks(map, &map->arenas[i / HK_ARENA_POOLS], (uint32_t)(i % HK_ARENA_POOLS));
        assert_int_equal(signs != NULL, map->pools[i].state == HK_MAP_POOL_FULL);
        free(signs);
    }
    hk_heap_map_free(map);
    empty_world(&w);
}

static void test_where_room_is_short_arenas_are_left_out_and_sums_are_whole(void **state)
{
    struct world w;
    fill_world(&w, HK_LOCK_HOST);
    uint32_t whole = write_map(MAP_SIZE, false);
    struct hk_heap_map *all = read_map();
    size_t least = sizeof(struct hk_capture_map) + sizeof(struct hk_capture_map_heap) +
                   (HK_CLASSES - 1) * sizeof(struct hk_capture_map_class);
    assert_int_equal(write_map(least - 1, false), 0);
    for (size_t capacity = least; capacity < whole; capacity += 200) {
        uint32_t size = write_map(capacity, false);
        assert_in_range(size, 1, capacity);
        struct hk_heap_map *map = read_map();
        assert_int_equal(map->arena_count + map->arenas_left_out, all->arena_count);
        check_against_stats(map, w.heap);
        hk_heap_map_free(map);
    }
    hk_heap_map_free(all);
    empty_world(&w);
}

static void test_where_the_file_cannot_grow_there_is_no_map(void **state)
{
    struct world w;
    fill_world(&w, HK_LOCK_HOST);
    for (ready_fails_at = 1; ready_fails_at < 4; ready_fails_at++)
        assert_int_equal(write_map(MAP_SIZE, true), 0);
    ready_fails_at = 0;
    assert_true(write_map(MAP_SIZE, true) > 0);
    empty_world(&w);
}

static void use(struct hk_heap_map *map)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < map->arena_count; i++) {
        const struct hk_map_arena *arena = &map->arenas[i];
        assert_true(arena->heap < map->heap_count);
        assert_true(arena->first_pool + arena->pool_count <= map->pool_count);
        for (uint32_t k = 0; k < arena->pool_count; k++) {
            const struct hk_map_pool *p = &map->pools[arena->first_pool + k];
            assert_true(p->allocated <= p->touched && p->touched <= p->capacity);
            char *signs = hk_heap_map_blocks(map, arena, k);
            sum += signs != NULL ? strlen(signs) : 0;
            free(signs);
        }
    }
    for (size_t i = 0; i < map->class_count; i++)
        assert_true(map->classes[i].heap < map->heap_count);
    assert_true(sum < 1u << 30);
}

static void test_damaged_maps_are_refused_or_read_within_their_bounds(void **state)
{
    struct world w;
    struct hk_error error;
    uint64_t random = 3;
    fill_world(&w, HK_LOCK_HOST);
    uint32_t size = write_map(MAP_SIZE, true);
    uint8_t *whole = malloc(size);
    memcpy(whole, map_in_file(), size);
    for (int round = rounds(3000); round > 0; round--) {
        memcpy(map_in_file(), whole, size);
        for (uint64_t n = 1 + random_below(&random, 4); n > 0; n--) {
            uint64_t limit = round % 2 ? sizeof(struct hk_capture_map) : size;
            uint64_t at = random_below(&random, limit);
            file.bytes[MAP_AT + at] = (uint8_t)random_next(&random);
        }
        struct hk_capture *capture = hk_capture_from_memory(file.bytes, sizeof file, "map", &error);
        assert_non_null(capture);
        struct hk_heap_map *map = hk_heap_map_read(capture, &error);
        if (map != NULL) {
            use(map);
            struct hk_heap_map *live = hk_heap_map_live(map, getpid(), &error);
            if (live != NULL)
                use(live);
            hk_heap_map_free(live);
        }
        hk_heap_map_free(map);
        hk_capture_close(capture);
    }
    free(whole);
    empty_world(&w);
}

static void test_of_two_maps_the_newer_whole_one_is_read(void **state)
{
    struct hk_error error;
    write_map(MAP_SIZE / 2, false);
    struct hk_capture_header *header = (struct hk_capture_header *)file.bytes;
    struct hk_capture_section *a = &header->sections[HK_SECTION_MAP_A], *b = &header->sections[HK_SECTION_MAP_B];
    *b = *a;
    b->offset = MAP_AT + MAP_SIZE / 2;
    memcpy(file.bytes + b->offset, file.bytes + MAP_AT, a->count);
    struct hk_capture_map *first = map_in_file(), *second = (struct hk_capture_map *)(file.bytes + b->offset);
    static const struct {
        uint64_t first, second, time;
    } cases[] = {{2, 4, 22}, {6, 4, 11}, {7, 4, 22}, {2, 5, 11}};
    first->time_ns = 11;
    second->time_ns = 22;
    for (size_t i = 0; i < COUNT(cases); i++) {
        first->sequence = cases[i].first;
        second->sequence = cases[i].second;
        struct hk_heap_map *map = read_map();
        assert_int_equal(map->time_ns, cases[i].time);
        hk_heap_map_free(map);
    }
    first->sequence = second->sequence = 3;
    struct hk_capture *capture = hk_capture_from_memory(file.bytes, sizeof file, "map", &error);
    assert_null(hk_heap_map_read(capture, &error));
    assert_non_null(strstr(error.text, "no map of the heap"));
    hk_capture_close(capture);
}

static void test_a_process_that_is_not_there_is_an_error_with_a_reason(void **state)
{
    struct hk_error error;
    struct world w;
    fill_world(&w, HK_LOCK_HOST);
    write_map(MAP_SIZE, false);
    struct hk_heap_map *map = read_map();
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    assert_null(hk_heap_map_live(map, child, &error));
    assert_non_null(strstr(error.text, "has ended"));
    map->live.version = HK_MAP_LIVE_VERSION + 1;
    assert_null(hk_heap_map_live(map, getpid(), &error));
    assert_non_null(strstr(error.text, "another version"));
    map->live.version = 0;
    assert_null(hk_heap_map_live(map, getpid(), &error));
    assert_non_null(strstr(error.text, "no heap of ours"));
    hk_heap_map_free(map);
    empty_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map_of_a_heap_under_the_hosts_lock_is_what_its_statistics_and_a_walk_say),
        cmocka_unit_test(test_map_of_a_heap_that_locks_itself_is_what_its_statistics_and_a_walk_say),
        cmocka_unit_test(test_map_of_a_heap_of_threads_is_what_its_statistics_and_a_walk_say),
        cmocka_unit_test(test_large_blocks_of_a_heaps_own_pools_are_counted),
        cmocka_unit_test(test_heap_in_a_buffer_is_left_out_of_the_map),
        cmocka_unit_test(test_blocks_as_json_are_what_the_statistics_say),
        cmocka_unit_test(test_blocks_as_json_into_too_little_room_are_cut_and_say_how_much_they_need),
        cmocka_unit_test(test_blocks_as_json_take_nothing_from_any_heap),
        cmocka_unit_test(test_without_bits_pools_are_known_and_blocks_of_used_ones_are_not),
        cmocka_unit_test(test_where_room_is_short_arenas_are_left_out_and_sums_are_whole),
        cmocka_unit_test(test_where_the_file_cannot_grow_there_is_no_map),
        cmocka_unit_test(test_damaged_maps_are_refused_or_read_within_their_bounds),
        cmocka_unit_test(test_of_two_maps_the_newer_whole_one_is_read),
        cmocka_unit_test(test_a_process_that_is_not_there_is_an_error_with_a_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
