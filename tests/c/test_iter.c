/* Lazy iterators: against lists that are made eagerly; O(1) memory; what happens when they are asked at a wrong time. */
#include "runtime_helper.h"

static hk_object *number(int64_t value)
{
    hk_object *object = hk_int(runtime, value);
    assert_non_null(object);
    return object;
}

/* Takes the items over. */
static hk_object *tuple_of(int count, ...)
{
    hk_object *tuple = hk_tuple(runtime, (size_t)count);
    assert_non_null(tuple);
    va_list items;
    va_start(items, count);
    for (int i = 0; i < count; i++)
        hk_tuple_init(tuple, (size_t)i, va_arg(items, hk_object *));
    va_end(items);
    return tuple;
}

static hk_object *take(hk_object *iterator)
{
    hk_object *item;
    assert_int_equal(hk_iter_next(runtime, iterator, &item), HK_ITER_ITEM);
    assert_non_null(item);
    return item;
}

static void assert_next(hk_object *iterator, hk_object *wanted)
{
    hk_object *item = take(iterator);
    assert_true(hk_equal(item, wanted));
    give_up(item);
    give_up(wanted);
}

static void assert_end(hk_object *iterator)
{
    for (int i = 0; i < 3; i++) { /* for good */
        hk_object *item = hk_none();
        assert_int_equal(hk_iter_next(runtime, iterator, &item), HK_ITER_END);
        assert_null(item);
    }
    give_up(iterator);
}

static void assert_error(hk_object *iterator)
{
    hk_object *item = hk_none();
    assert_int_equal(hk_iter_next(runtime, iterator, &item), HK_ITER_ERROR);
    assert_null(item);
}

/* --- one by one --- */

static void test_range_gives_what_counting_gives_up_to_the_ends_of_int64(void **state)
{
    static const int64_t edges[] = {INT64_MIN, INT64_MIN + 1, INT64_MIN + 7, -9, -1, 0, 1, 2, 10, INT64_MAX - 5, INT64_MAX};
    static const int64_t steps[] = {INT64_MIN, -7, -2, -1, 1, 3, INT64_MAX};
    for (size_t i = 0; i < COUNT(edges); i++)
        for (size_t j = 0; j < COUNT(edges); j++)
            for (size_t k = 0; k < COUNT(steps); k++) {
                hk_object *range = hk_iter_range(runtime, edges[i], edges[j], steps[k]);
                __int128 value = edges[i], stop = edges[j], step = steps[k];
                for (int count = 0; count < 30 && (step > 0 ? value < stop : value > stop); count++, value += step)
                    assert_next(range, number((int64_t)value));
                if (step > 0 ? value >= stop : value <= stop)
                    assert_end(range);
                else
                    give_up(range);
            }
    assert_null(hk_iter_range(runtime, 0, 1, 0));
}

static void test_every_container_is_gone_through(void **state)
{
    hk_object *dict = hk_dict(runtime), *set = hk_set_new(runtime), *bytes = hk_bytes(runtime, "\xff\0z", 3);
    hk_object *str = hk_str(runtime, "a\xc3\xbc\xe2\x82\xac\xf0\x9f\x90\x8d\xff\xc3");
    static const char *const characters[] = {"a", "\xc3\xbc", "\xe2\x82\xac", "\xf0\x9f\x90\x8d", "\xff", "\xc3"};
    for (int i = 0; i < 5; i++) {
        assert_true(hk_dict_set(runtime, dict, number(i), number(i * i)));
        assert_true(hk_set_add(runtime, set, number(10 - i)));
    }
    hk_dict_delete(runtime, dict, number(2));
    hk_object *keys = hk_iter(runtime, dict), *items = hk_iter_items(runtime, dict), *members = hk_iter(runtime, set);
    for (int i = 0; i < 5; i++) {
        if (i != 2) {
            assert_next(keys, number(i));
            assert_next(items, tuple_of(2, number(i), number(i * i)));
        }
        assert_next(members, number(10 - i));
    }
    assert_end(keys);
    assert_end(items);
    assert_end(members);
    hk_object *over_bytes = hk_iter(runtime, bytes), *over_str = hk_iter(runtime, str);
    assert_next(over_bytes, number(255));
    assert_next(over_bytes, number(0));
    assert_next(over_bytes, number('z'));
    assert_end(over_bytes);
    for (size_t i = 0; i < COUNT(characters); i++)
        assert_next(over_str, hk_str(runtime, characters[i]));
    assert_end(over_str);
    assert_null(hk_iter(runtime, hk_none()));
    assert_null(hk_iter_list(runtime, hk_bool(true)));
    assert_error(hk_none()); /* no iterator */
    give_up(dict);
    give_up(set);
    give_up(bytes);
    give_up(str);
}

static void test_list_may_change_and_dict_may_not_while_it_is_gone_through(void **state)
{
    hk_object *list = hk_list(runtime), *dict = hk_dict(runtime);
    assert_true(hk_list_append(runtime, list, hk_none()));
    hk_object *over_list = hk_iter(runtime, list);
    for (int i = 0; i < 100; i++) {
        assert_next(over_list, i == 0 ? hk_none() : number(i));
        assert_true(hk_list_append(runtime, list, number(i + 1)));
    }
    hk_list_clear(runtime, list);
    assert_end(over_list);
    assert_true(hk_dict_set(runtime, dict, number(1), hk_none()));
    hk_object *keys = hk_iter(runtime, dict), *items = hk_iter_items(runtime, dict);
    assert_true(hk_dict_set(runtime, dict, number(1), number(5))); /* a value may be replaced */
    assert_next(items, tuple_of(2, number(1), number(5)));
    assert_true(hk_dict_set(runtime, dict, number(2), hk_none()));
    assert_true(hk_dict_delete(runtime, dict, number(1))); /* as many as before, but others */
    assert_error(keys);
    assert_error(items);
    give_up(keys);
    give_up(items);
    give_up(list);
    give_up(dict);
}

static void test_slice_takes_nothing_behind_its_last_item(void **state)
{
    hk_object *range = hk_iter_range(runtime, 0, 100, 1), *slice = hk_iter_slice(runtime, range, 2, 9, 3);
    assert_next(slice, number(2));
    assert_next(slice, number(5));
    assert_next(slice, number(8));
    assert_end(slice);
    assert_next(range, number(9));
    assert_end(hk_iter_slice(runtime, range, 5, 5, 1));
    assert_end(hk_iter_slice(runtime, range, 6, 5, 1));
    assert_next(range, number(10));
    assert_null(hk_iter_slice(runtime, range, 0, 1, 0));
    hk_object *rest = hk_iter_slice(runtime, range, 88, SIZE_MAX, SIZE_MAX);
    assert_next(rest, number(99));
    assert_end(rest);
    give_up(range);
}

static hk_object *tens(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    return hk_int(runtime, hk_int_value(item) / 10);
}

static void test_groups_are_runs_and_end_when_the_next_one_begins(void **state)
{
    hk_object *range = hk_iter_range(runtime, 5, 32, 1), *groups = hk_iter_group(runtime, tens, NULL, range);
    hk_object *first = take(groups), *second = take(groups), *group = hk_tuple_get(second, 1), *item;
    assert_int_equal(hk_iter_next(runtime, hk_tuple_get(first, 1), &item), HK_ITER_END);
    give_up(first);
    assert_int_equal(hk_int_value(hk_tuple_get(second, 0)), 1);
    for (int i = 10; i < 20; i++)
        assert_next(group, number(i));
    assert_end(hk_incref(group));
    give_up(second);
    hk_object *third = take(groups), *fourth = take(groups); /* the third is skipped */
    assert_int_equal(hk_int_value(hk_tuple_get(third, 0)), 2);
    assert_int_equal(hk_int_value(hk_tuple_get(fourth, 0)), 3);
    assert_next(hk_tuple_get(fourth, 1), number(30));
    give_up(third);
    assert_end(groups);
    assert_end(hk_incref(hk_tuple_get(fourth, 1)));
    give_up(fourth);
    give_up(range);
    hk_object *copy;
    groups = hk_iter_group(runtime, NULL, NULL, hk_bool(false));
    assert_null(groups);
    hk_object *none = hk_tuple(runtime, 0);
    groups = hk_iter_group(runtime, NULL, NULL, none);
    assert_int_equal(hk_iter_copy(runtime, groups, &copy), HK_ITER_END);
    assert_end(groups);
    give_up(none);
}

/* --- pipelines at random, against lists --- */

static uint64_t luck;

static int below(int limit)
{
    return (int)random_below(&luck, (uint64_t)limit);
}

static hk_object *twist(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    if (hk_is(item, &hk_int_type))
        return hk_int(runtime, hk_int_value(item) * 3 + hk_int_value(closure));
    return tuple_of(2, hk_incref(item), hk_incref(closure));
}

static int is_odd(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    return (int)(hk_hash(item) >> 7 & 1);
}

static hk_object *quarter(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    return hk_int(runtime, (int64_t)(hk_hash(item) >> 7 & 1));
}

static void push(hk_object *list, hk_object *taken_over)
{
    assert_true(hk_list_append(runtime, list, taken_over));
    give_up(taken_over);
}

static hk_object *item_again(hk_object *list, size_t index)
{
    return hk_incref(hk_list_get(list, index));
}

/* Half of the programs get an iterator without copies somewhere. */
static bool copies_wanted;

struct uncopied {
    hk_object head;
    hk_object *iterator;
};

static int uncopied_next(hk_runtime *unused, hk_object *self, hk_object **item)
{
    return hk_iter_next(runtime, ((struct uncopied *)self)->iterator, item);
}

static hk_type uncopied_type = {.name = "uncopied", .size = sizeof(struct uncopied), .pointers = 2, .next = uncopied_next};

/* And containers of the program's own. */
static hk_object *own_iterate(hk_runtime *unused, hk_object *self)
{
    return hk_iter(runtime, ((struct uncopied *)self)->iterator);
}

static hk_type own_type = {.name = "own", .size = sizeof(struct uncopied), .pointers = 2, .iterate = own_iterate};

static hk_object *wrapped(hk_type *type, hk_object *taken_over)
{
    struct uncopied *wrapper = (struct uncopied *)hk_new(runtime, type);
    assert_non_null(wrapper);
    wrapper->iterator = taken_over;
    return &wrapper->head;
}

static hk_object *source(hk_object *list)
{
    int start = below(40), stop = below(40), step = 1 + below(5);
    hk_object *container;
    switch (below(5)) {
    case 0:
        for (int i = start; i < stop; i += step)
            push(list, number(i));
        return hk_iter_range(runtime, start, stop, step);
    case 1:
        container = hk_list(runtime);
        break;
    case 2: {
        hk_object *dict = hk_dict(runtime);
        for (int i = 0; i < stop; i++) {
            hk_object *key = number(i * 7 % 41);
            if (hk_dict_get(dict, key) == NULL) {
                push(list, hk_incref(key));
                assert_true(hk_dict_set(runtime, dict, key, hk_none()));
            }
            give_up(key);
        }
        return dict;
    }
    case 3: {
        char text[] = "aabbbcabcccaa";
        text[stop % 13] = 0;
        for (const char *at = text; *at != 0; at++)
            push(list, hk_str_from(runtime, at, 1));
        return hk_str(runtime, text);
    }
    default:
        container = wrapped(&own_type, hk_list(runtime));
    }
    hk_object *plain = hk_is(container, &own_type) ? ((struct uncopied *)container)->iterator : container;
    for (int i = 0; i < stop; i++) {
        push(list, number(i / 3 % 4));
        push(plain, number(i / 3 % 4));
    }
    if (below(3) == 0 && !hk_is(container, &own_type)) { /* a tuple of the same */
        hk_object *tuple = hk_tuple(runtime, (size_t)stop);
        for (size_t i = 0; i < (size_t)stop; i++)
            hk_tuple_init(tuple, i, item_again(container, i));
        give_up(container);
        return tuple;
    }
    return container;
}

static hk_object *pipeline(int depth, hk_object *list);

static hk_object *pipeline_map(int depth, hk_object *list)
{
    hk_object *before = hk_list(runtime), *over = pipeline(depth, before), *closure = number(300 + below(9));
    for (size_t i = 0; i < hk_list_count(before); i++)
        push(list, twist(runtime, hk_list_get(before, i), closure));
    hk_object *made = hk_iter_map(runtime, twist, closure, over);
    give_up(before);
    give_up(over);
    give_up(closure);
    return made;
}

static hk_object *pipeline_filter(int depth, hk_object *list)
{
    hk_object *before = hk_list(runtime), *over = pipeline(depth, before);
    for (size_t i = 0; i < hk_list_count(before); i++)
        if (is_odd(runtime, hk_list_get(before, i), NULL))
            push(list, item_again(before, i));
    hk_object *made = hk_iter_filter(runtime, is_odd, NULL, over);
    give_up(before);
    give_up(over);
    return made;
}

static hk_object *operands(int depth, int count, hk_object **lists)
{
    hk_object *tuple = hk_tuple(runtime, (size_t)count);
    for (int i = 0; i < count; i++) {
        lists[i] = hk_list(runtime);
        hk_tuple_init(tuple, (size_t)i, pipeline(depth, lists[i]));
    }
    return tuple;
}

static hk_object *pipeline_several(int depth, hk_object *list, int kind)
{
    hk_object *lists[3];
    int count = below(4);
    size_t counts[3] = {1, 1, 1}, shortest = SIZE_MAX;
    hk_object *tuple = operands(depth, count, lists), *made;
    for (int i = 0; i < count; i++) {
        counts[i] = hk_list_count(lists[i]);
        shortest = counts[i] < shortest ? counts[i] : shortest;
    }
    if (kind == 0) {
        hk_object *lazily = copies_wanted || below(2) ? hk_incref(tuple) : hk_iter(runtime, tuple);
        made = hk_iter_chain(runtime, lazily);
        give_up(lazily);
        for (int i = 0; i < count; i++)
            for (size_t j = 0; j < counts[i]; j++)
                push(list, item_again(lists[i], j));
    } else if (kind == 1) {
        made = hk_iter_zip(runtime, tuple);
        for (size_t j = 0; count > 0 && j < shortest; j++) {
            hk_object *row = hk_tuple(runtime, (size_t)count);
            for (int i = 0; i < count; i++)
                hk_tuple_init(row, (size_t)i, item_again(lists[i], j));
            push(list, row);
        }
    } else {
        made = hk_iter_product(runtime, tuple);
        for (size_t all = 0; all < counts[0] * counts[1] * counts[2]; all++) {
            size_t at[3] = {all / counts[2] / counts[1], all / counts[2] % counts[1], all % counts[2]};
            hk_object *row = hk_tuple(runtime, (size_t)count);
            for (int i = 0; i < count; i++)
                hk_tuple_init(row, (size_t)i, item_again(lists[i], at[i]));
            push(list, row);
        }
    }
    for (int i = 0; i < count; i++)
        give_up(lists[i]);
    give_up(tuple);
    return made;
}

static hk_object *pipeline_enumerate(int depth, hk_object *list)
{
    hk_object *before = hk_list(runtime), *over = pipeline(depth, before);
    for (size_t i = 0; i < hk_list_count(before); i++)
        push(list, tuple_of(2, number((int64_t)i + 1000), item_again(before, i)));
    hk_object *made = hk_iter_enumerate(runtime, over, 1000);
    give_up(before);
    give_up(over);
    return made;
}

/* Of a group its key and its length. */
static hk_object *key_and_length(hk_runtime *unused, hk_object *pair, hk_object *closure)
{
    hk_object *list = hk_iter_list(runtime, hk_tuple_get(pair, 1));
    hk_object *length = number((int64_t)hk_list_count(list));
    give_up(list);
    return tuple_of(2, hk_incref(hk_tuple_get(pair, 0)), length);
}

static hk_object *pipeline_group(int depth, hk_object *list)
{
    hk_object *before = hk_list(runtime), *over = pipeline(depth, before);
    for (size_t i = 0, next; i < hk_list_count(before); i = next) {
        hk_object *key = quarter(runtime, hk_list_get(before, i), NULL);
        for (next = i + 1; next < hk_list_count(before); next++) {
            hk_object *other = quarter(runtime, hk_list_get(before, next), NULL);
            bool is_same = hk_equal(key, other);
            give_up(other);
            if (!is_same)
                break;
        }
        push(list, tuple_of(2, key, number((int64_t)(next - i))));
    }
    hk_object *groups = hk_iter_group(runtime, quarter, NULL, over);
    hk_object *made = hk_iter_map(runtime, key_and_length, NULL, groups);
    give_up(before);
    give_up(over);
    give_up(groups);
    return made;
}

static hk_object *pipeline_slice(int depth, hk_object *list)
{
    hk_object *before = hk_list(runtime), *over = pipeline(depth, before);
    size_t start = (size_t)below(10), stop = below(4) == 0 ? SIZE_MAX : (size_t)below(30), step = 1 + (size_t)below(4);
    for (size_t i = start; i < stop && i < hk_list_count(before); i += step)
        push(list, item_again(before, i));
    hk_object *made = hk_iter_slice(runtime, over, start, stop, step);
    give_up(before);
    give_up(over);
    return made;
}

static hk_object *pipeline(int depth, hk_object *list)
{
    hk_object *made;
    if (depth == 0)
        return source(list);
    switch (below(copies_wanted ? 8 : 9)) {
    case 0: made = pipeline_map(depth - 1, list); break;
    case 1: made = pipeline_filter(depth - 1, list); break;
    case 2: case 3: case 4: made = pipeline_several(below(2), list, below(3)); break;
    case 5: made = pipeline_enumerate(depth - 1, list); break;
    case 6: case 7: made = pipeline_slice(depth - 1, list); break;
    default: made = pipeline_group(depth - 1, list);
    }
    assert_non_null(made);
    return copies_wanted || below(5) != 0 ? made : wrapped(&uncopied_type, made);
}

static void assert_gives_from(hk_object *iterator, hk_object *list, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        assert_next(iterator, item_again(list, i));
}

static void test_pipelines_give_what_eager_lists_hold_and_so_do_their_copies(void **state)
{
    for (int seed = 0; seed < rounds(3000); seed++) {
        luck = (uint64_t)seed;
        copies_wanted = seed % 2;
        hk_object *list = hk_list(runtime), *made = pipeline(1 + below(4), list), *iterator = hk_iter(runtime, made), *copy;
        size_t count = hk_list_count(list), at = (size_t)below((int)count + 1);
        assert_gives_from(iterator, list, 0, at);
        if (copies_wanted) {
            assert_int_equal(hk_iter_copy(runtime, iterator, &copy), HK_ITER_ITEM);
            size_t further = at + (size_t)below((int)(count - at) + 1);
            assert_gives_from(copy, list, at, further);
            assert_gives_from(iterator, list, at, count);
            assert_gives_from(copy, list, further, count);
            assert_end(copy);
        } else {
            assert_gives_from(iterator, list, at, count);
        }
        assert_end(iterator);
        give_up(made);
        give_up(list);
        if (seed % 100 == 0)
            assert_int_equal(live_blocks(), 0);
    }
}

/* --- memory --- */

static hk_object *plus_one(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    return hk_int(runtime, hk_int_value(item) + hk_int_value(closure));
}

static int is_third(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    return hk_int_value(item) % 3 == 0;
}

static hk_object *hundreds(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    return hk_int(runtime, hk_int_value(hk_tuple_get(item, 0)) / 100);
}

/* Replaces an iterable by an iterator over it. */
#define THROUGH(place, made)                                                                                             \
    do {                                                                                                                 \
        hk_object *made_here = made;                                                                                     \
        assert_non_null(made_here);                                                                                      \
        give_up(place);                                                                                                  \
        place = made_here;                                                                                               \
    } while (0)

static void test_a_million_items_go_through_every_adapter_in_the_memory_of_a_few(void **state)
{
    int64_t side = is_watched_by_tool() ? 100 : 1000;
    hk_object *at = tuple_of(2, hk_iter_range(runtime, 0, side, 1), hk_iter_range(runtime, 1000, 1000 + side, 1)), *item;
    THROUGH(at, hk_iter_product(runtime, at));
    at = tuple_of(2, hk_iter_range(runtime, 0, INT64_MAX, 1), at);
    THROUGH(at, hk_iter_zip(runtime, at));
    THROUGH(at, hk_iter_group(runtime, hundreds, NULL, at));
    THROUGH(at, hk_iter_map(runtime, key_and_length, NULL, at)); /* a list of 100 at a time */
    THROUGH(at, hk_iter_enumerate(runtime, at, 0));
    at = tuple_of(1, at);
    THROUGH(at, hk_iter_chain(runtime, at));
    THROUGH(at, hk_iter_slice(runtime, at, 0, SIZE_MAX, 2));
    int64_t count = 0;
    uint64_t before = 0;
    for (; hk_iter_next(runtime, at, &item) == HK_ITER_ITEM; give_up(item))
        if (++count == 2)
            before = live_blocks();
        else if (count > 2)
            assert_in_range(live_blocks(), before - 8, before + 8);
    assert_int_equal(count, side * side / 200);
    assert_in_range(before, 1, 60);
    assert_end(at);
}

static void test_ten_million_items_hold_three_blocks(void **state)
{
    hk_object *at = hk_iter_range(runtime, 1000, 1000 + rounds(10000000), 1), *item;
    THROUGH(at, hk_iter_map(runtime, plus_one, hk_int(runtime, 1), at));
    THROUGH(at, hk_iter_filter(runtime, is_third, NULL, at));
    uint64_t count = 0;
    while (hk_iter_next(runtime, at, &item) == HK_ITER_ITEM) {
        if (++count % 1000 == 0)
            assert_int_equal(live_blocks(), 4); /* and the item */
        give_up(item);
    }
    assert_int_equal(count, (uint64_t)(rounds(10000000) + 1000) / 3 - 333);
    assert_int_equal(live_blocks(), 1); /* what it went through is gone */
    assert_end(at);
}

/* --- at a wrong time --- */

static hk_object *asks_itself(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    assert_error(hk_list_get(closure, 0));
    hk_object *copy;
    assert_int_equal(hk_iter_copy(runtime, hk_list_get(closure, 0), &copy), HK_ITER_ERROR);
    return hk_incref(item);
}

static hk_object *drops_itself(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    hk_list_clear(runtime, closure);
    return hk_incref(item);
}

static void test_function_may_ask_its_own_iterator_in_vain_and_give_it_up(void **state)
{
    hk_object *list = hk_list(runtime), *range = hk_iter_range(runtime, 0, 3, 1);
    hk_object *map = hk_iter_map(runtime, asks_itself, list, range);
    push(list, hk_incref(map)); /* a cycle */
    assert_next(map, number(0));
    give_up(map);
    give_up(range);
    give_up(list);
    assert_int_equal(hk_gc_collect(runtime, 2), 2);
    list = hk_list(runtime);
    range = hk_iter_range(runtime, 0, 3, 1);
    map = hk_iter_map(runtime, drops_itself, list, range);
    push(list, map); /* the list alone has it */
    hk_object *item;
    assert_int_equal(hk_iter_next(runtime, map, &item), HK_ITER_ITEM);
    assert_int_equal(hk_int_value(item), 0);
    give_up(item);
    assert_next(range, number(1));
    give_up(range);
    give_up(list);
}

static hk_object *fails_at_two(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    return hk_int_value(item) == 2 ? NULL : hk_incref(item);
}

static int doubts_three(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    return hk_int_value(item) == 3 ? -1 : 1;
}

static void test_error_of_a_function_comes_through_and_the_iterator_goes_on(void **state)
{
    hk_object *at = hk_iter_range(runtime, 1, 6, 1);
    THROUGH(at, hk_iter_map(runtime, fails_at_two, NULL, at));
    THROUGH(at, hk_iter_filter(runtime, doubts_three, NULL, at));
    THROUGH(at, hk_iter_group(runtime, NULL, NULL, at));
    hk_object *pair = take(at);
    assert_int_equal(hk_int_value(hk_tuple_get(pair, 0)), 1);
    give_up(pair);
    assert_error(at);
    assert_error(at);
    pair = take(at);
    assert_int_equal(hk_int_value(hk_tuple_get(pair, 0)), 4);
    give_up(pair);
    assert_null(hk_iter_list(runtime, hk_none()));
    hk_object *rest = hk_iter_list(runtime, at);
    assert_int_equal(hk_list_count(rest), 1);
    give_up(rest);
    give_up(at);
    at = hk_iter_range(runtime, 1, 6, 1);
    THROUGH(at, hk_iter_map(runtime, fails_at_two, NULL, at));
    assert_null(hk_iter_list(runtime, at));
    give_up(at);
    hk_object *bad = tuple_of(2, hk_list(runtime), hk_none());
    assert_null(hk_iter_zip(runtime, bad));
    assert_null(hk_iter_product(runtime, bad));
    assert_null(hk_iter_zip(runtime, hk_none()));
    assert_null(hk_iter_chain(runtime, bad));
    hk_object *lazily = hk_iter(runtime, bad);
    at = hk_iter_chain(runtime, lazily);
    assert_int_equal(hk_iter_copy(runtime, at, &rest), HK_ITER_END);
    assert_error(at); /* at the second */
    give_up(lazily);
    assert_end(at);
    give_up(bad);
}

static void test_iterators_nest_only_so_deep(void **state)
{
    hk_object *at = hk_iter_range(runtime, 0, INT64_MAX, 1);
    for (int i = 1; i < HK_ITER_DEPTH; i++)
        THROUGH(at, hk_iter_enumerate(runtime, at, i));
    hk_object *item = take(at), *copy;
    give_up(item);
    assert_int_equal(hk_iter_copy(runtime, at, &copy), HK_ITER_ITEM);
    give_up(copy);
    for (int i = 0; i < 100000; i++) /* one more is an error; and any number are given up */
        THROUGH(at, hk_iter_slice(runtime, at, 0, SIZE_MAX, 1));
    assert_error(at);
    assert_int_equal(hk_iter_copy(runtime, at, &copy), HK_ITER_ERROR);
    give_up(at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(test_range_gives_what_counting_gives_up_to_the_ends_of_int64),
        EACH(test_every_container_is_gone_through),
        EACH(test_list_may_change_and_dict_may_not_while_it_is_gone_through),
        EACH(test_slice_takes_nothing_behind_its_last_item),
        EACH(test_groups_are_runs_and_end_when_the_next_one_begins),
        EACH(test_pipelines_give_what_eager_lists_hold_and_so_do_their_copies),
        EACH(test_a_million_items_go_through_every_adapter_in_the_memory_of_a_few),
        EACH(test_ten_million_items_hold_three_blocks),
        EACH(test_function_may_ask_its_own_iterator_in_vain_and_give_it_up),
        EACH(test_error_of_a_function_comes_through_and_the_iterator_goes_on),
        EACH(test_iterators_nest_only_so_deep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
