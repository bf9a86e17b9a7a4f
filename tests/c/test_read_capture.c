/* The reader's foundations on captures made in memory: entries, strings, points and names stay
 * inside the file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "read/sites.h"

#define FILE_SIZE  32768
#define STRINGS_AT 16384
#define NODES_AT   20480

static union {
    uint8_t bytes[FILE_SIZE];
    struct hk_capture_header header;
} file;

static struct hk_capture_status *status(void)
{
    return (struct hk_capture_status *)(file.bytes + HK_CAPTURE_STATUS_OFFSET);
}

static int start(void **state)
{
    memset(&file, 0, sizeof file);
    memcpy(file.header.magic, HK_CAPTURE_MAGIC, 8);
    file.header.major = HK_CAPTURE_MAJOR;
    file.header.byte_order = HK_CAPTURE_BYTE_ORDER;
    file.header.header_size = sizeof file.header;
    file.header.state = HK_STATE_EXITED;
    file.header.sections[HK_SECTION_STRINGS] =
        (struct hk_capture_section){1, 0, STRINGS_AT, 100, 20};
    memcpy(file.bytes + STRINGS_AT, "\0one\0two\0unterminated", 22);
    file.header.sections[HK_SECTION_NODES] = (struct hk_capture_section){16, 0, NODES_AT, 10, 2};
    status()->now =
        (struct hk_capture_point){.sequence = 2, .time_ns = 5, .live_bytes = 7, .large_bytes = 1};
    return 0;
}

static struct hk_capture *open_file(void)
{
    struct hk_error error;
    struct hk_capture *capture = hk_capture_from_memory(file.bytes, sizeof file, "file", &error);
    if (!capture)
        fail_msg("%s", error.text);
    return capture;
}

static void refuse(size_t size)
{
    struct hk_error error = {""};
    assert_null(hk_capture_from_memory(file.bytes, size, "file", &error));
    assert_true(strlen(error.text) > 10);
    assert_null(strchr(error.text, '\n'));
}

static void test_strings_end_inside_their_section(void **state)
{
    struct hk_capture *c = open_file();
    assert_string_equal(hk_capture_string(c, 1), "one");
    assert_string_equal(hk_capture_string(c, 5), "two");
    assert_string_equal(hk_capture_string(c, 0), "");
    assert_string_equal(hk_capture_string(c, 9), ""); /* its NUL lies behind the count */
    assert_string_equal(hk_capture_string(c, 20), "");
    assert_string_equal(hk_capture_string(c, UINT32_MAX), "");
    hk_capture_close(c);
}

static void test_blobs_lie_inside_their_section(void **state)
{
    struct hk_capture *c = open_file();
    assert_memory_equal(hk_capture_blob(c, 1, 3), "one", 3);
    assert_non_null(hk_capture_blob(c, 1, 19));
    assert_null(hk_capture_blob(c, 1, 20));
    assert_null(hk_capture_blob(c, 19, UINT32_MAX));
    assert_null(hk_capture_blob(c, 0, 1));
    hk_capture_close(c);
}

static void test_shorter_entries_are_filled_with_zeros_and_longer_ones_cut(void **state)
{
    struct hk_capture_node node;
    uint32_t values[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    memcpy(file.bytes + NODES_AT, values, sizeof values);
    file.header.sections[HK_SECTION_NODES].entry_size = 12;
    struct hk_capture *c = open_file();
    assert_true(hk_capture_entry(c, HK_SECTION_NODES, 1, &node, sizeof node));
    assert_int_equal(node.parent, 4);
    assert_int_equal(node.depth, 0);
    assert_false(hk_capture_entry(c, HK_SECTION_NODES, 2, &node, sizeof node));
    assert_int_equal(node.parent, 0);
    hk_capture_close(c);

    file.header.sections[HK_SECTION_NODES].entry_size = 24;
    file.header.sections[HK_SECTION_NODES].count = 1;
    c = open_file();
    assert_true(hk_capture_entry(c, HK_SECTION_NODES, 0, &node, sizeof node));
    assert_int_equal(node.depth, 4);
    hk_capture_close(c);
}

static void test_entries_too_short_to_mean_anything_are_refused(void **state)
{
    file.header.sections[HK_SECTION_NODES] =
        (struct hk_capture_section){1, 0, NODES_AT, 8000, 8000};
    refuse(sizeof file);
}

static void test_file_of_every_length_is_read_or_refused(void **state)
{
    for (size_t size = 1; size < NODES_AT + 32; size += size < 400 ? 1 : 97)
        refuse(size);
    struct hk_error error;
    hk_capture_close(hk_capture_from_memory(file.bytes, NODES_AT + 32, "file", &error));
}

static void test_current_point_that_is_torn_gives_way_to_the_timeline(void **state)
{
    struct hk_capture_point points[3] = {{.sequence = 2, .time_ns = 1, .live_bytes = 10},
                                         {.sequence = 3, .time_ns = 2, .live_bytes = 20},
                                         {.sequence = 2, .time_ns = 3, .live_bytes = 30}};
    memcpy(file.bytes + 24576, points, sizeof points);
    file.header.sections[HK_SECTION_TIMELINE] =
        (struct hk_capture_section){sizeof points[0], 0, 24576, 3, 3};
    status()->now.sequence = 1;
    struct hk_capture *c = open_file();
    assert_true(c->has_now);
    assert_int_equal(c->now.live_bytes, 30);
    assert_int_equal(c->point_count, 2);
    assert_int_equal(c->dropped, 2);
    assert_int_equal(hk_capture_peak(c), 30);
    hk_capture_close(c);
}

static void test_program_is_named_by_its_script_or_module(void **state)
{
    static const struct {
        const char *words, *name;
    } cases[] = {
        {"python3\x1f/srv/x.py\x1f-m\x1f", "x.py"},
        {"python3\x1f-m\x1fhttp.server\x1f", "http.server"},
        {"python3\x1f-X\x1f"
         "dev\x1f-u\x1fy.py\x1f",
         "y.py"},
        {"python3\x1f-c\x1fpass\x1f", "-c"},
        {"/usr/bin/python3\x1f", "python3"},
        {"", "(program unknown)"},
    };
    char name[64];
    file.header.python_version = 0x030d00f0;
    file.header.sections[HK_SECTION_STRINGS].count = 90;
    file.header.command_line = 30;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        strcpy((char *)file.bytes + STRINGS_AT + 30, cases[i].words);
        struct hk_capture *c = open_file();
        assert_string_equal(hk_capture_program(c, name, sizeof name), cases[i].name);
        hk_capture_close(c);
    }
}

static void test_empty_file_was_never_taken_over(void **state)
{
    struct hk_error error;
    struct hk_capture *c = hk_capture_from_memory("", 0, "file", &error);
    assert_non_null(c);
    assert_int_equal(c->life, HK_LIFE_EMPTY);
    hk_capture_close(c);
}

static void test_capture_without_sites_has_none(void **state)
{
    struct hk_capture *c = open_file();
    struct hk_sites *s = hk_sites_read(c);
    assert_int_equal(s->site_count, 0);
    assert_int_equal(s->line_count, 0);
    hk_sites_free(s);
    hk_capture_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_strings_end_inside_their_section, start),
        cmocka_unit_test_setup(test_blobs_lie_inside_their_section, start),
        cmocka_unit_test_setup(test_shorter_entries_are_filled_with_zeros_and_longer_ones_cut,
                               start),
        cmocka_unit_test_setup(test_entries_too_short_to_mean_anything_are_refused, start),
        cmocka_unit_test_setup(test_file_of_every_length_is_read_or_refused, start),
        cmocka_unit_test_setup(test_current_point_that_is_torn_gives_way_to_the_timeline, start),
        cmocka_unit_test_setup(test_program_is_named_by_its_script_or_module, start),
        cmocka_unit_test_setup(test_empty_file_was_never_taken_over, start),
        cmocka_unit_test_setup(test_capture_without_sites_has_none, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
