/* The three line tables, by hand and with hostile bytes. Against real code objects:
 * tests/py/test_frames.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "read/lines.h"

#define LINE(minor, table, first, offset)                                                          \
    hk_line_of(minor, (const uint8_t *)(table), sizeof(table) - 1, first, offset)

static void test_lnotab_of_3_9_counts_the_last_pair_that_begins_before(void **state)
{
    /* lines 1; +6 bytes: 2; +6: 302 (127 + 127 + 46); +2: 300 */
    static const char table[] = "\x06\x01\x06\x7f\x00\x7f\x00\x2e\x02\xfe";
    assert_int_equal(LINE(9, table, 1, 0), 1);
    assert_int_equal(LINE(9, table, 1, 5), 1);
    assert_int_equal(LINE(9, table, 1, 6), 2);
    assert_int_equal(LINE(9, table, 1, 12), 302);
    assert_int_equal(LINE(9, table, 1, 14), 300);
    assert_int_equal(LINE(9, table, 1, 4000), 300);
    assert_int_equal(LINE(9, "", 7, 10), 7);
}

static void test_linetable_of_3_10_covers_the_bytes_that_follow(void **state)
{
    static const char table[] = "\x04\x02\x00\x05\x06\x01\x02\x80\x02\xff";
    assert_int_equal(LINE(10, table, 10, 0), 12);
    assert_int_equal(LINE(10, table, 10, 4), 18);
    assert_int_equal(LINE(10, table, 10, 10), -1); /* no line */
    assert_int_equal(LINE(10, table, 10, 12), 17);
    assert_int_equal(LINE(10, table, 10, 14), -1); /* not reached */
}

static void test_location_table_of_3_11_knows_every_form(void **state)
{
    static const uint8_t table[] = {
        0x80 | 0 << 3 | 1,  0x00,                /* short, 2 units, same line */
        0x80 | 11 << 3 | 0, 3,    9,             /* one line down */
        0x80 | 15 << 3 | 7,                      /* 8 units without a line */
        0x80 | 13 << 3 | 0, 0x09,                /* no columns, -4 */
        0x80 | 14 << 3 | 2, 0x48, 0x01, 0, 1, 2, /* long, 3 units, +36: 0x48 = 8 and more, 1 << 6 */
    };
    static const int expected[] = {20, 20, 21, -1, -1, -1, -1, -1, -1, -1, -1, 17, 53, 53, 53, -1};
    for (int unit = 0; unit < 16; unit++)
        assert_int_equal(hk_line_of(11, table, sizeof table, 20, unit * 2), expected[unit]);
    assert_int_equal(hk_line_of(15, table, sizeof table, 20, 4), 21);
}

static void test_a_frame_that_has_not_begun_is_at_the_first_line(void **state)
{
    for (int minor = 9; minor <= 15; minor++)
        assert_int_equal(LINE(minor, "\x02\x01", 33, -1), 33);
}

static void test_a_cut_table_ends_where_it_ends(void **state)
{
    static const uint8_t table[] = {0x80 | 14 << 3, 0x7f, 0x7f, 0x7f, 0x7f,
                                    0x7f,           0x7f, 0x7f, 0x7f, 0x7f};
    for (size_t n = 0; n <= sizeof table; n++) {
        uint8_t *copy = malloc(n ? n : 1); /* exactly as long, for the address sanitizer */
        memcpy(copy, table, n);
        for (int minor = 9; minor <= 15; minor++)
            for (int offset = -1; offset < 20; offset++)
                assert_true(hk_line_of(minor, copy, n, 1, offset) >= -1);
        free(copy);
    }
}

static void test_hostile_tables_give_a_line_or_none(void **state)
{
    srandom(7);
    for (int round = 0; round < 20000; round++) {
        size_t n = (size_t)random() % 200;
        uint8_t *table = malloc(n + 1);
        int kind = round % 4;
        for (size_t i = 0; i < n; i++)
            table[i] = kind == 0   ? 0xff
                       : kind == 1 ? 0x7f
                                   : (uint8_t)(random() >> (kind == 2 ? 0 : 3));
        int first = kind == 0 ? INT32_MAX : kind == 1 ? INT32_MIN : (int)random();
        for (int minor = 8; minor <= 16; minor++) {
            assert_true(hk_line_of(minor, table, n, first, (int)(random() % 3000)) >= -1);
            assert_true(hk_line_of(minor, table, n, first, INT32_MAX) >= -1);
            assert_true(hk_line_of(minor, table, n, first, INT32_MIN) >= -1);
        }
        free(table);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lnotab_of_3_9_counts_the_last_pair_that_begins_before),
        cmocka_unit_test(test_linetable_of_3_10_covers_the_bytes_that_follow),
        cmocka_unit_test(test_location_table_of_3_11_knows_every_form),
        cmocka_unit_test(test_a_frame_that_has_not_begun_is_at_the_first_line),
        cmocka_unit_test(test_a_cut_table_ends_where_it_ends),
        cmocka_unit_test(test_hostile_tables_give_a_line_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
