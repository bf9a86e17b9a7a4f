/* Layouts: each version's is found from its facts, and nothing is guessed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>

#include "python_world.h"

static hk_py_layout from(uint32_t version, const uint64_t *offsets)
{
    hk_py_layout layout;
    struct hk_py_facts facts = {.version = version, .debug_offsets = offsets};
    hk_py_layout_from(&layout, &facts);
    return layout;
}

static void test_a_process_without_python_has_no_layout(void **state)
{
    const hk_py_layout *layout = hk_py_layout_find();
    assert_false(layout->present);
    assert_false(layout->stacks);
    assert_string_equal(layout->why, "no Python in this process");
    assert_int_equal(hk_py_interpreter_id(layout, NULL), -1);
    assert_null(hk_py_this_thread_state(layout));
    assert_null(hk_py_locked_thread_state(layout));
}

static void test_every_version_from_3_9_to_3_15_has_stacks(void **state)
{
    static const int versions[] = WORLD_VERSIONS;
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        uint64_t word[128];
        world_debug_offsets(versions[i], word);
        hk_py_layout layout = from(world_version(versions[i]), versions[i] < 13 ? NULL : word);
        assert_true(layout.stacks);
        assert_string_equal(layout.why, "");
        assert_int_equal(layout.minor, versions[i]);
        assert_int_equal(layout.raw_may_walk, versions[i] >= 12);
        assert_int_equal(layout.source,
                         versions[i] < 13 ? HK_PY_SOURCE_TABLE : HK_PY_SOURCE_DEBUG_OFFSETS);
    }
}

static void test_offsets_are_read_from_the_running_interpreter(void **state)
{
    uint64_t word[128];
    world_debug_offsets(14, word);
    word[16] = 7784; /* as it moved inside 3.14 */
    word[6] = 225864;
    hk_py_layout layout = from(world_version(14), word);
    assert_true(layout.stacks);
    assert_int_equal(layout.interpreter_own_gil, 7784);
    assert_int_equal(hk_py_interpreter_size(&layout), 225864);
}

static void test_the_collector_is_where_each_version_has_it(void **state)
{
    static const int versions[] = WORLD_VERSIONS;
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        uint64_t word[128];
        int minor = versions[i];
        world_debug_offsets(minor, word);
        hk_py_layout l = from(world_version(minor), minor < 13 ? NULL : word);
        assert_true(l.gc_generations > 0);
        assert_int_equal(l.gc_garbage - l.gc_collecting, minor < 15 ? 8 : 16);
        assert_int_equal(l.gc_counts_size, minor < 15 ? 72 : 1120);
        assert_int_equal(l.gc_collecting - l.gc_counts, minor < 15 ? 72 : 8);
        assert_int_equal(l.gc_counts - l.gc_generations, minor < 14 ? 104 : 96); /* 3.14 has no pointer between */
        if (minor < 13)
            continue;
        word[minor == 13 ? 10 : 11] = word[6] - 100; /* beyond the interpreter's state */
        assert_int_equal(from(world_version(minor), word).gc_generations, 0);
    }
}

static void test_unknown_versions_and_prereleases_have_no_stacks_and_a_reason(void **state)
{
    uint64_t word[128];
    static const uint32_t versions[] = {0x020712F0, 0x030812F0, 0x031000F0, 0x040000F0,
                                        0x030C00A5, 0x030E00B3, 0};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        world_debug_offsets(14, word);
        word[1] = versions[i];
        hk_py_layout layout = from(versions[i], word);
        assert_false(layout.stacks);
        assert_true(strlen(layout.why) > 10);
    }
}

static void test_a_missing_table_of_offsets_means_no_stacks(void **state)
{
    hk_py_layout layout = from(world_version(13), NULL);
    assert_true(layout.present);
    assert_false(layout.stacks);
}

static void test_a_free_threaded_interpreter_is_recognised_and_refused(void **state)
{
    uint64_t word[128];
    world_debug_offsets(14, word);
    word[2] = 1;
    hk_py_layout layout = from(world_version(14), word);
    assert_true(layout.free_threaded);
    assert_false(layout.stacks);
}

static void test_trace_refs_builds_before_3_13_are_refused(void **state)
{
    hk_py_layout layout;
    struct hk_py_facts facts = {.version = world_version(11), .trace_refs = true};
    hk_py_layout_from(&layout, &facts);
    assert_false(layout.stacks);
    facts.trace_refs = false;
    facts.debug = true;
    hk_py_layout_from(&layout, &facts);
    assert_true(layout.stacks && layout.debug);
}

/* One word wrong at a time: either it is one that is not used, or the layout is refused or still in
 * bounds. */
static void test_a_table_of_another_shape_is_refused(void **state)
{
    for (int minor = 13; minor <= 15; minor++) {
        int refused = 0;
        for (int i = 3; i < 100; i++) {
            uint64_t word[128];
            world_debug_offsets(minor, word);
            word[i] = 1ull << 40;
            refused += !from(world_version(minor), word).stacks;
        }
        assert_in_range(refused, 20, 40);
        for (int shift = 1; shift < 4; shift++) { /* words inserted before the frames */
            uint64_t word[128], moved[128];
            world_debug_offsets(minor, word);
            memcpy(moved, word, sizeof moved);
            memmove(moved + 20 + shift, word + 20, (100 - 20) * sizeof *word);
            assert_false(from(world_version(minor), moved).stacks);
        }
    }
}

static void test_random_tables_are_refused_without_harm(void **state)
{
    srandom(1);
    for (int round = 0; round < 20000; round++) {
        uint64_t word[128];
        int minor = 13 + round % 3;
        for (int i = 0; i < 128; i++)
            word[i] = (uint64_t)random() >> (random() % 31);
        word[1] = world_version(minor);
        word[2] = 0;
        assert_false(from(world_version(minor), word).stacks);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_process_without_python_has_no_layout),
        cmocka_unit_test(test_every_version_from_3_9_to_3_15_has_stacks),
        cmocka_unit_test(test_offsets_are_read_from_the_running_interpreter),
        cmocka_unit_test(test_the_collector_is_where_each_version_has_it),
        cmocka_unit_test(test_unknown_versions_and_prereleases_have_no_stacks_and_a_reason),
        cmocka_unit_test(test_a_missing_table_of_offsets_means_no_stacks),
        cmocka_unit_test(test_a_free_threaded_interpreter_is_recognised_and_refused),
        cmocka_unit_test(test_trace_refs_builds_before_3_13_are_refused),
        cmocka_unit_test(test_a_table_of_another_shape_is_refused),
        cmocka_unit_test(test_random_tables_are_refused_without_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
