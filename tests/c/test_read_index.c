/* Tables of numbers: what was put is found again, once, whatever its hash; and nothing else is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "read/index.h"

/* The place of `value` among those that are kept; a new one is put. */
static uint32_t place_of(struct hk_index *index, uint64_t **values, size_t *count, size_t *room, uint64_t value, uint64_t hash)
{
    struct hk_probe probe = hk_index_probe(index, hash);
    while (hk_index_next(&probe))
        if ((*values)[probe.number] == value)
            return probe.number;
    hk_index_put(&probe, *count);
    *values = hk_array_room(*values, *count, room, sizeof **values);
    (*values)[*count] = value;
    return (uint32_t)(*count)++;
}

static void check(uint64_t (*hash)(uint64_t), size_t different)
{
    struct hk_index index = {.size = 0};
    uint64_t *values = NULL;
    size_t count = 0, room = 0;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < different; i++)
            assert_int_equal(place_of(&index, &values, &count, &room, i * 7919, hash(i * 7919)), i);
    assert_int_equal(count, different);
    assert_true(count <= room && index.used == count && index.used * 2 <= index.size);
    hk_index_free(&index);
    assert_null(index.slots);
    free(values);
}

static uint64_t as_it_is(uint64_t value)
{
    return value;
}

static uint64_t high_bits_only(uint64_t value)
{
    return value << 40;
}

static uint64_t always_equal(uint64_t value)
{
    return value - value;
}

static uint64_t few(uint64_t value)
{
    return UINT64_MAX - value % 5;
}

static void finds_what_was_put(void **state)
{
    (void)state;
    check(as_it_is, 100000);
    check(high_bits_only, 100000);
    check(always_equal, 2000);
    check(few, 2000);
}

static void an_end_is_part_of_a_texts_hash(void **state)
{
    (void)state;
    assert_true(hk_hash_text(hk_hash_text(HK_HASH, "ab"), "c") != hk_hash_text(hk_hash_text(HK_HASH, "a"), "bc"));
    assert_true(hk_hash_text(HK_HASH, NULL) == hk_hash_text(HK_HASH, ""));
    assert_true(hk_hash_text(HK_HASH, "a") != hk_hash_text(HK_HASH, ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_was_put),
        cmocka_unit_test(an_end_is_part_of_a_texts_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
