/* The basic types: what Python's do, against plain models; nothing is left when all is given up. */
#include <sys/resource.h>

#include "runtime_helper.h"

/* --- numbers --- */

static void test_small_integers_exist_once_and_cost_nothing(void **state)
{
    for (int64_t value = -5; value <= 256; value++) {
        assert_ptr_equal(hk_int(runtime, value), hk_int(runtime, value));
        assert_int_equal(hk_int_value(hk_int(runtime, value)), value);
    }
    assert_int_equal(live_blocks(), 0);
    hk_object *a = hk_int(runtime, 257), *b = hk_int(runtime, 257);
    assert_ptr_not_equal(a, b);
    assert_true(hk_equal(a, b));
    give_up(a);
    give_up(b);
    assert_ptr_equal(hk_bool(true), hk_bool(true));
    assert_ptr_equal(hk_none(), hk_none());
}

static void test_numbers_of_equal_value_are_equal_and_hash_alike_across_types(void **state)
{
    const int64_t values[] = {0, 1, -1, 300, -300, INT64_MAX, INT64_MIN, (int64_t)1 << 53};
    for (size_t i = 0; i < COUNT(values); i++) {
        hk_object *integer = hk_int(runtime, values[i]), *real = hk_float(runtime, (double)values[i]);
        bool exact = values[i] != INT64_MAX; /* which no double is */
        assert_int_equal(hk_equal(integer, real), exact);
        if (exact)
            assert_int_equal(hk_hash(integer), hk_hash(real));
        give_up(integer);
        give_up(real);
    }
    hk_object *half = hk_float(runtime, 0.5), *minus_zero = hk_float(runtime, -0.0);
    assert_false(hk_equal(half, hk_int(runtime, 0)));
    assert_true(hk_equal(minus_zero, hk_int(runtime, 0)));
    assert_true(hk_equal(hk_bool(true), hk_int(runtime, 1)));
    assert_int_equal(hk_hash(hk_bool(true)), hk_hash(hk_int(runtime, 1)));
    assert_false(hk_equal(hk_none(), hk_int(runtime, 0)));
    give_up(half);
    give_up(minus_zero);
}

/* --- strings --- */

static void test_strings_hold_any_bytes_and_end_with_a_nul(void **state)
{
    const char bytes[] = "a\0b";
    hk_object *str = hk_str_from(runtime, bytes, 3);
    assert_int_equal(hk_str_size(str), 3);
    assert_memory_equal(hk_str_text(str), bytes, 4);
    give_up(str);
    str = hk_str(runtime, "gr\xc3\xbc\xc3\x9f dich");
    assert_int_equal(hk_str_size(str), 11);
    assert_int_equal(hk_str_length(str), 9);
    give_up(str);
    str = hk_str(runtime, "");
    assert_int_equal(hk_str_size(str), 0);
    assert_string_equal(hk_str_text(str), "");
    give_up(str);
    assert_null(hk_str_from(runtime, bytes, (size_t)1 << 33));
}

static void test_format_and_join_make_one_object(void **state)
{
    hk_object *str = hk_str_format(runtime, "%d-%s-%*d", 12, "middle", 200, 7);
    assert_int_equal(hk_str_size(str), 210);
    assert_int_equal(live_blocks(), 1);
    give_up(str);

    hk_object *list = hk_list(runtime), *comma = hk_str(runtime, ", ");
    hk_object *none = hk_str_join(runtime, comma, list);
    assert_string_equal(hk_str_text(none), "");
    give_up(none);
    for (int i = 0; i < 1000; i++) {
        hk_object *item = hk_str_format(runtime, "%d", i);
        assert_true(hk_list_append(runtime, list, item));
        give_up(item);
    }
    uint64_t before = live_blocks();
    hk_object *joined = hk_str_join(runtime, comma, list);
    if (!is_debug())
        assert_int_equal(live_blocks(), before + 1);
    assert_int_equal(hk_str_size(joined), 10 + 2 * 90 + 3 * 900 + 2 * 999);
    assert_memory_equal(hk_str_text(joined), "0, 1, 2, 3", 10);
    give_up(joined);
    assert_true(hk_list_append(runtime, list, hk_none()));
    assert_null(hk_str_join(runtime, comma, list));
    give_up(list);
    give_up(comma);
}

static void test_builder_keeps_every_piece(void **state)
{
    for (size_t expected = 0; expected < 30000; expected = expected * 3 + 1) {
        hk_builder builder;
        char want[20000];
        size_t size = 0;
        hk_builder_begin(&builder, runtime, expected);
        for (int i = 0; i < 1500; i++) {
            char piece[16];
            int length = snprintf(piece, sizeof(piece), "<%d>", i * i);
            hk_builder_add(&builder, piece, (size_t)length);
            memcpy(want + size, piece, (size_t)length);
            size += (size_t)length;
        }
        hk_object *str = hk_builder_finish(&builder);
        assert_int_equal(hk_str_size(str), size);
        assert_memory_equal(hk_str_text(str), want, size);
        give_up(str);
        assert_int_equal(live_blocks(), 0);
    }
}

static void test_interned_strings_are_shared_while_somebody_holds_them(void **state)
{
    enum { N = 2000 };
    static hk_object *held[N];
    char name[32];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            snprintf(name, sizeof(name), "name %d", i);
            held[i] = hk_str_intern(runtime, name);
            hk_object *again = hk_str_intern(runtime, name);
            assert_ptr_equal(again, held[i]);
            give_up(again);
        }
        for (int i = 0; i < N; i += 3) { /* some die; the others are still found */
            give_up(held[i]);
            held[i] = NULL;
        }
        for (int i = 0; i < N; i++) {
            snprintf(name, sizeof(name), "name %d", i);
            if (held[i] == NULL)
                continue;
            hk_object *again = hk_str_intern(runtime, name);
            assert_ptr_equal(again, held[i]);
            give_up(again);
            give_up(held[i]);
        }
        assert_int_equal(live_blocks(), 0);
    }
}

/* --- sequences --- */

static void test_lists_do_what_an_array_does(void **state)
{
    hk_object *list = hk_list(runtime);
    static int64_t model[5000];
    size_t count = 0;
    uint64_t random = 11;
    for (int step = 0; step < rounds(30000); step++) {
        uint64_t kind = random_next(&random) % 100;
        size_t index = count > 0 ? random_next(&random) % count : 0;
        int64_t value = (int64_t)(random_next(&random) % 100000);
        bool growing = step / 3000 % 2 == 0;
        if (kind < (growing ? 60 : 20) && count < COUNT(model)) {
            hk_object *item = hk_int(runtime, value);
            if (kind % 2 == 0)
                index = count + kind % 3; /* past the end is at the end */
            assert_true(hk_list_insert(runtime, list, index, item));
            if (index > count)
                index = count;
            memmove(model + index + 1, model + index, (count - index) * sizeof(*model));
            model[index] = value;
            count++;
            give_up(item);
        } else if (kind < 80 && count > 0) {
            hk_object *item = hk_list_pop(runtime, list, index);
            assert_int_equal(hk_int_value(item), model[index]);
            count--;
            memmove(model + index, model + index + 1, (count - index) * sizeof(*model));
            give_up(item);
        } else if (count > 0) {
            hk_object *item = hk_int(runtime, value);
            assert_true(hk_list_set(runtime, list, index, item));
            model[index] = value;
            give_up(item);
        }
        assert_int_equal(hk_list_count(list), count);
        if (count > 0)
            assert_int_equal(hk_int_value(hk_list_get(list, index % count)), model[index % count]);
    }
    for (size_t i = 0; i < count; i++)
        assert_int_equal(hk_int_value(hk_list_get(list, i)), model[i]);
    assert_null(hk_list_get(list, count));
    assert_null(hk_list_pop(runtime, list, count));
    assert_false(hk_list_set(runtime, list, count, hk_none()));
    hk_list_clear(runtime, list);
    assert_int_equal(hk_list_count(list), 0);
    give_up(list);
}

static void test_tuples_of_any_length_are_equal_and_hash_alike_if_their_items_do(void **state)
{
    for (size_t count = 0; count < 2000; count = count * 2 + 1) {
        hk_object *a = hk_tuple(runtime, count), *b = hk_tuple(runtime, count);
        for (size_t i = 0; i < count; i++) {
            assert_ptr_equal(hk_tuple_get(a, i), hk_none());
            hk_tuple_init(a, i, hk_int(runtime, (int64_t)i * 1000));
            hk_tuple_init(b, i, hk_float(runtime, (double)i * 1000));
        }
        assert_null(hk_tuple_get(a, count));
        assert_true(hk_equal(a, b));
        assert_int_equal(hk_hash(a), hk_hash(b));
        give_up(a);
        give_up(b);
    }
    assert_null(hk_tuple(runtime, SIZE_MAX / 2));
}

static void test_cycles_through_containers_are_collected(void **state)
{
    hk_object *list = hk_list(runtime), *dict = hk_dict(runtime), *tuple = hk_tuple(runtime, 100), *set = hk_set_new(runtime);
    hk_tuple_init(tuple, 50, hk_incref(list));
    hk_list_append(runtime, list, dict);
    hk_dict_set(runtime, dict, hk_int(runtime, 1), tuple);
    hk_dict_set(runtime, dict, set, hk_none());
    hk_set_add(runtime, set, dict);
    give_up(list);
    give_up(dict);
    give_up(set);
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    give_up(tuple);
    assert_int_equal(hk_gc_collect(runtime, 2), 4);
    assert_int_equal(live_blocks(), 0);
}

/* --- dicts and sets --- */

static void test_dicts_do_what_a_list_of_pairs_in_order_does(void **state)
{
    enum { KEYS = 700 };
    hk_object *dict = hk_dict(runtime);
    static struct {
        int key;
        int64_t value;
    } model[KEYS];
    size_t count = 0;
    uint64_t random = 5;
    for (int step = 0; step < rounds(20000); step++) {
        int key = (int)(random_next(&random) % KEYS);
        int64_t value = (int64_t)(random_next(&random) % 1000);
        size_t at = 0;
        while (at < count && model[at].key != key)
            at++;
        /* Half of the keys are numbers, asked for as another type than they were put in. */
        hk_object *name = key % 2 ? hk_str_format(runtime, "key %d", key) : hk_int(runtime, key);
        hk_object *asked = key % 2 ? hk_incref(name) : hk_float(runtime, key);
        hk_object *found = hk_dict_get(dict, asked);
        assert_int_equal(found != NULL, at < count);
        if (found != NULL)
            assert_int_equal(hk_int_value(found), model[at].value);
        if (random_next(&random) % 5 < (step / 2000 % 2 ? 1 : 3)) {
            hk_object *object = hk_int(runtime, value);
            assert_true(hk_dict_set(runtime, dict, name, object));
            give_up(object);
            model[at].key = key;
            model[at].value = value;
            count += at == count;
        } else {
            assert_int_equal(hk_dict_delete(runtime, dict, asked), at < count);
            if (at < count) {
                count--;
                memmove(model + at, model + at + 1, (count - at) * sizeof(*model));
            }
        }
        assert_int_equal(hk_dict_count(dict), count);
        give_up(name);
        give_up(asked);
        if (step % 500 == 0) {
            hk_object *k, *v;
            size_t seen = 0;
            for (size_t position = 0; hk_dict_next(dict, &position, &k, &v); seen++)
                assert_int_equal(hk_int_value(v), model[seen].value);
            assert_int_equal(seen, count);
        }
    }
    hk_dict_clear(runtime, dict);
    assert_int_equal(hk_dict_count(dict), 0);
    assert_null(hk_dict_get(dict, hk_int(runtime, 2)));
    give_up(dict);
}

static void test_dict_of_each_width_of_index_finds_all_its_keys(void **state)
{
    hk_object *dict = hk_dict(runtime);
    int many = rounds(100000);
    for (int i = 0; i < many; i++) {
        hk_object *key = hk_int(runtime, (int64_t)i * 7919);
        assert_true(hk_dict_set(runtime, dict, key, key));
        give_up(key);
    }
    for (int i = 0; i < many; i++) {
        hk_object *key = hk_int(runtime, (int64_t)i * 7919);
        assert_true(hk_equal(hk_dict_get(dict, key), key));
        give_up(key);
    }
    give_up(dict);
}

struct alike { /* has the hash of another object */
    hk_object head;
    uint64_t hash;
};

static uint64_t alike_hash(const hk_object *self)
{
    return ((const struct alike *)self)->hash;
}

static hk_type alike_type = {.name = "alike", .size = sizeof(struct alike), .flags = HK_TYPE_ACYCLIC, .hash = alike_hash};

static void test_strings_of_any_length_are_told_from_keys_of_the_same_hash(void **state)
{
    enum { LENGTHS = 100 };
    char text[LENGTHS] = {0};
    hk_object *dict = hk_dict(runtime), *strings[LENGTHS], *others[LENGTHS];
    for (int i = 0; i < LENGTHS; i++) {
        strings[i] = hk_str_from(runtime, text, (size_t)i);
        others[i] = hk_new(runtime, &alike_type);
        ((struct alike *)others[i])->hash = hk_hash(strings[i]);
        hk_object *first = i % 2 ? strings[i] : others[i], *second = i % 2 ? others[i] : strings[i];
        assert_true(hk_dict_set(runtime, dict, first, first) && hk_dict_set(runtime, dict, second, second));
    }
    for (int i = 0; i < LENGTHS; i++) {
        hk_object *again = hk_str_from(runtime, text, (size_t)i);
        assert_ptr_equal(hk_dict_get(dict, again), strings[i]);
        assert_ptr_equal(hk_dict_get(dict, others[i]), others[i]);
        assert_true(hk_dict_delete(runtime, dict, i % 4 < 2 ? others[i] : again));
        assert_ptr_equal(hk_dict_get(dict, again), i % 4 < 2 ? strings[i] : NULL);
        assert_ptr_equal(hk_dict_get(dict, others[i]), i % 4 < 2 ? NULL : others[i]);
        give_up(again);
    }
    for (int i = 0; i < LENGTHS; i++) {
        give_up(strings[i]);
        give_up(others[i]);
    }
    give_up(dict);
}

static void test_strings_that_differ_in_a_byte_are_not_equal(void **state)
{
    enum { LENGTHS = 100 };
    char text[LENGTHS];
    memset(text, 'x', sizeof(text));
    for (size_t length = 0; length < LENGTHS; length++) {
        hk_object *one = hk_str_from(runtime, text, length), *same = hk_str_from(runtime, text, length);
        assert_true(hk_equal(one, same));
        give_up(same);
        for (size_t at = 0; at < length; at++) {
            text[at] = 'y';
            hk_object *other = hk_str_from(runtime, text, length);
            assert_false(hk_equal(one, other));
            give_up(other);
            text[at] = 'x';
        }
        give_up(one);
    }
}

/* The table is never built anew for what comes and goes, so what is deleted is all over its indices. */
static void test_key_that_is_not_there_is_asked_for_when_all_entries_are_used(void **state)
{
    for (int filled = 0; filled < 200; filled++) {
        hk_object *dict = hk_dict(runtime);
        for (int i = 0; i < filled; i++)
            assert_true(hk_dict_set(runtime, dict, hk_int(runtime, i), hk_none()));
        for (int i = 0; i < filled; i++)
            assert_true(hk_dict_delete(runtime, dict, hk_int(runtime, i)));
        for (int i = 0; i < filled + 50; i++)
            assert_null(hk_dict_get(dict, hk_int(runtime, i)));
        give_up(dict);
    }
}

/* What one has left is used again: the system is not asked for it. */
static void test_one_large_dict_after_another_takes_no_new_pages(void **state)
{
    enum { KEYS = 30000, DICTS = 6, BESIDE = 8, BYTES = 256 << 10 };
    struct rusage before, after;
    for (int i = 0; i < DICTS; i++) {
        getrusage(RUSAGE_SELF, &before);
        hk_object *dict = hk_dict(runtime);
        for (int64_t number = 0; number < KEYS; number++) {
            hk_object *key = hk_int(runtime, number);
            assert_true(hk_dict_set(runtime, dict, key, key));
            give_up(key);
        }
        void *beside[BESIDE];
        for (int j = 0; j < BESIDE; j++) {
            beside[j] = hk_memory(runtime, BYTES);
            memset(beside[j], 1, BYTES);
        }
        for (int j = 0; j < BESIDE; j++)
            hk_memory_free(runtime, beside[j]);
        give_up(dict);
        getrusage(RUSAGE_SELF, &after);
    }
    if (!is_watched_by_tool() && !is_debug())
        assert_in_range(after.ru_minflt - before.ru_minflt, 0, 100); /* of a thousand that its memory has */
}

static void test_sets_know_their_members_and_equal_sets_are_equal(void **state)
{
    hk_object *a = hk_set_new(runtime), *b = hk_set_new(runtime);
    for (int i = 0; i < 1000; i++) {
        hk_object *x = hk_str_format(runtime, "%d", i), *y = hk_str_format(runtime, "%d", 999 - i);
        assert_true(hk_set_add(runtime, a, x) && hk_set_add(runtime, a, x) && hk_set_add(runtime, b, y));
        assert_true(hk_set_has(a, x));
        give_up(x);
        give_up(y);
    }
    assert_int_equal(hk_set_count(a), 1000);
    assert_true(hk_equal(a, b));
    hk_object *five = hk_str(runtime, "5");
    assert_true(hk_set_remove(runtime, a, five));
    assert_false(hk_set_remove(runtime, a, five));
    assert_false(hk_set_has(a, five));
    assert_false(hk_equal(a, b));
    give_up(five);
    give_up(a);
    give_up(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(test_one_large_dict_after_another_takes_no_new_pages), /* first: it may not find the C allocator used to more */
        EACH(test_small_integers_exist_once_and_cost_nothing),
        EACH(test_numbers_of_equal_value_are_equal_and_hash_alike_across_types),
        EACH(test_strings_hold_any_bytes_and_end_with_a_nul),
        EACH(test_format_and_join_make_one_object),
        EACH(test_builder_keeps_every_piece),
        EACH(test_interned_strings_are_shared_while_somebody_holds_them),
        EACH(test_lists_do_what_an_array_does),
        EACH(test_tuples_of_any_length_are_equal_and_hash_alike_if_their_items_do),
        EACH(test_cycles_through_containers_are_collected),
        EACH(test_dicts_do_what_a_list_of_pairs_in_order_does),
        EACH(test_dict_of_each_width_of_index_finds_all_its_keys),
        EACH(test_strings_of_any_length_are_told_from_keys_of_the_same_hash),
        EACH(test_strings_that_differ_in_a_byte_are_not_equal),
        EACH(test_key_that_is_not_there_is_asked_for_when_all_entries_are_used),
        EACH(test_sets_know_their_members_and_equal_sets_are_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
