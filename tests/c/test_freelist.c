/* Free lists: what is kept and reused, and that it is as new; what the collector sees of it. */
#include "runtime_helper.h"

static hk_free_list_stats list_stats(const hk_type *type)
{
    hk_free_list_stats stats = {.size = sizeof(stats)};
    hk_free_list_get_stats(runtime, type, &stats);
    return stats;
}

struct holder {
    hk_object head;
    hk_object *left, *right;
    uint64_t number;
};

static int destroyed, reset;

static void holder_destroy(hk_runtime *unused, hk_object *self)
{
    destroyed++;
}

static void holder_reset(hk_runtime *unused, hk_object *self, size_t keep)
{
    struct holder *holder = (struct holder *)self;
    reset++;
    holder->left = holder->right = NULL;
    holder->number = 77; /* as if it were memory that it keeps */
}

static hk_type plain_type = {.name = "plain", .size = sizeof(struct holder), .flags = HK_TYPE_FREE_LIST, .pointers = 6,
                             .destroy = holder_destroy};
static hk_type reset_type = {.name = "reset", .size = sizeof(struct holder), .flags = HK_TYPE_FREE_LIST, .pointers = 6,
                             .destroy = holder_destroy, .reset = holder_reset};
static hk_type number_type = {.name = "number", .size = 24, .flags = HK_TYPE_FREE_LIST | HK_TYPE_ACYCLIC};

static struct holder *holder_new(hk_type *type)
{
    struct holder *holder = (struct holder *)hk_new(runtime, type);
    assert_non_null(holder);
    assert_null(holder->left);
    assert_null(holder->right);
    assert_int_equal(holder->head.references, 1);
    assert_true(hk_is(&holder->head, type));
    return holder;
}

static void test_dead_objects_are_used_again_up_to_the_limit(void **state)
{
    hk_type *const types[] = {&plain_type, &number_type};
    for (size_t t = 0; t < COUNT(types); t++) {
        assert_true(hk_free_list_set(runtime, types[t], 10, 0));
        hk_object *objects[30];
        destroyed = 0;
        for (int round = 0; round < 3; round++) {
            for (size_t i = 0; i < COUNT(objects); i++) {
                objects[i] = hk_new(runtime, types[t]);
                for (size_t byte = sizeof(hk_object); byte < types[t]->size; byte++)
                    assert_int_equal(((char *)objects[i])[byte], 0);
                if (types[t] == &number_type)
                    memset(objects[i] + 1, 0xee, types[t]->size - sizeof(hk_object));
                else
                    ((struct holder *)objects[i])->number = UINT64_MAX;
            }
            for (size_t i = 0; i < COUNT(objects); i++)
                for (size_t j = 0; j < i; j++)
                    assert_ptr_not_equal(objects[i], objects[j]);
            for (size_t i = 0; i < COUNT(objects); i++)
                give_up(objects[i]);
        }
        hk_free_list_stats stats = list_stats(types[t]);
        assert_int_equal(stats.limit, 10);
        assert_int_equal(stats.kept, 10);
        assert_in_range(stats.reused, 18, 20); /* now and then the heap's accounts want one of its own */
        assert_int_equal(stats.taken - stats.reused, 10);
        assert_int_equal(stats.taken + stats.passed, 90);
        if (types[t] == &plain_type)
            assert_int_equal(destroyed, 90);
        assert_int_equal(live_blocks_of(runtime), 10);
        assert_true(hk_free_list_set(runtime, types[t], 4, 0));
        assert_int_equal(list_stats(types[t]).kept, 4);
        assert_int_equal(hk_free_lists_trim(runtime), 4);
        assert_int_equal(live_blocks_of(runtime), 0);
    }
}

static void test_reset_takes_the_place_of_destroy_until_the_object_goes(void **state)
{
    destroyed = reset = 0;
    assert_true(hk_free_list_set(runtime, &reset_type, 1, 0));
    struct holder *first = holder_new(&reset_type), *second = holder_new(&reset_type);
    first->left = &holder_new(&reset_type)->head;
    give_up(&first->head); /* keeps one of the two */
    assert_int_equal(reset, 1);
    assert_int_equal(destroyed, 1);
    struct holder *again = holder_new(&reset_type);
    assert_int_equal(again->number, 77);
    give_up(&second->head);
    give_up(&again->head);
    assert_int_equal(reset, 2);
    assert_int_equal(destroyed, 2);
    assert_int_equal(hk_free_lists_trim(runtime), 1);
    assert_int_equal(destroyed, 3);
    give_up(&holder_new(&reset_type)->head); /* left for the runtime's end */
    hk_runtime_destroy(runtime);
    assert_int_equal(destroyed, 4);
    runtime = hk_runtime_create(NULL);
}

static void test_lists_and_dicts_are_empty_when_they_are_used_again_and_have_their_memory(void **state)
{
    hk_object *list = hk_list(runtime), *dict = hk_dict(runtime), *set = hk_set_new(runtime), *big = hk_list(runtime);
    for (int i = 0; i < 4; i++) {
        assert_true(hk_list_append(runtime, list, hk_none()) && hk_set_add(runtime, set, hk_int(runtime, i)));
        assert_true(hk_dict_set(runtime, dict, hk_int(runtime, i), dict));
    }
    for (int i = 0; i < 1000; i++)
        assert_true(hk_list_append(runtime, big, hk_none()));
    hk_dict_clear(runtime, dict); /* it refers to itself */
    assert_true(hk_dict_set(runtime, dict, hk_int(runtime, 1), hk_none()));
    size_t list_bytes = hk_object_memory(list), dict_bytes = hk_object_memory(dict);
    give_up(list);
    give_up(dict);
    give_up(set);
    list = hk_list(runtime);
    dict = hk_dict(runtime);
    set = hk_set_new(runtime);
    assert_int_equal(hk_list_count(list) + hk_dict_count(dict) + hk_set_count(set), 0);
    assert_null(hk_dict_get(dict, hk_int(runtime, 1)));
    assert_false(hk_set_has(set, hk_int(runtime, 1)));
    assert_int_equal(hk_object_memory(list), list_bytes);
    assert_int_equal(hk_object_memory(dict), dict_bytes);
    for (int i = 0; i < 100; i++) {
        assert_true(hk_dict_set(runtime, dict, hk_int(runtime, i), hk_int(runtime, -i % 5)));
        assert_true(hk_set_add(runtime, set, hk_int(runtime, i)));
    }
    for (int i = 0; i < 100; i++)
        assert_ptr_equal(hk_dict_get(dict, hk_int(runtime, i)), hk_int(runtime, -i % 5));
    size_t small = hk_object_memory(list);
    give_up(big);
    big = hk_list(runtime);
    assert_true(hk_object_memory(big) < small); /* too much memory to keep */
    give_up(list);
    give_up(dict);
    give_up(set);
    give_up(big);
}

static void test_collections_see_reused_objects_as_new_ones(void **state)
{
    enum { MANY = 3000 };
    static struct holder *holders[MANY];
    hk_gc_disable(runtime);
    assert_true(hk_free_list_set(runtime, &plain_type, MANY, 0));
    for (int i = 0; i < MANY; i++)
        holders[i] = holder_new(&plain_type);
    assert_int_equal(hk_gc_collect(runtime, 1), 0);
    assert_int_equal(hk_gc_collect(runtime, 1), 0); /* no pool of theirs is looked at by a young collection now */
    for (int i = 0; i < MANY; i += 2)
        give_up(&holders[i]->head);
    assert_int_equal(list_stats(&plain_type).kept, MANY / 2);
    for (int i = 0; i < MANY; i += 2) {
        struct holder *holder = holder_new(&plain_type);
        assert_true(hk_gc_is_tracked(runtime, &holder->head));
        holder->left = &holder->head;
    }
    assert_in_range(list_stats(&plain_type).kept, 0, 2); /* now and then the heap's accounts want one of its own */
    assert_int_equal(hk_gc_collect(runtime, 0), MANY / 2);
    assert_in_range(list_stats(&plain_type).kept, MANY / 2, MANY / 2 + 2); /* garbage is kept as well */
    for (int i = 1; i < MANY; i += 2)
        give_up(&holders[i]->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    assert_int_equal(list_stats(&plain_type).kept, 0); /* a full one gives it back */
}

static void test_reuse_runs_collections_as_making_does(void **state)
{
    assert_true(hk_free_list_set(runtime, &plain_type, 100000, 0));
    for (int i = 0; i < 100000; i++) {
        struct holder *holder = holder_new(&plain_type);
        holder->left = &holder->head;
    }
    hk_gc_stats stats;
    hk_gc_get_stats(runtime, 0, &stats);
    assert_true(list_stats(&plain_type).reused > 0);
    assert_in_range(stats.collected, 90000, 100000);
    assert_in_range(live_blocks_of(runtime), 1, 10000);
    hk_gc_collect(runtime, 2);
}

static void test_only_types_that_say_so_and_have_no_items_have_a_list(void **state)
{
    static hk_type other = {.name = "other", .size = 16}, items = {.name = "items", .size = 16, .item_size = 8,
                                                                   .flags = HK_TYPE_FREE_LIST};
    assert_false(hk_free_list_set(runtime, &other, 10, 0));
    assert_false(hk_free_list_set(runtime, &items, 10, 0));
    assert_false(hk_free_list_set(runtime, &hk_tuple_type, 10, 0));
    assert_int_equal(list_stats(&other).limit, 0);
    static hk_type many[HK_FREE_LISTS];
    int have = 0;
    for (size_t i = 0; i < COUNT(many); i++) {
        many[i] = (hk_type){.name = "many", .size = 16, .flags = HK_TYPE_FREE_LIST};
        have += hk_free_list_set(runtime, &many[i], 5, 0);
        give_up(hk_new(runtime, &many[i]));
    }
    assert_in_range(have, 1, HK_FREE_LISTS - 1);
    assert_int_equal(list_stats(&many[0]).kept, 1);
    assert_int_equal(list_stats(&many[HK_FREE_LISTS - 1]).kept, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(test_dead_objects_are_used_again_up_to_the_limit),
        EACH(test_reset_takes_the_place_of_destroy_until_the_object_goes),
        EACH(test_lists_and_dicts_are_empty_when_they_are_used_again_and_have_their_memory),
        EACH(test_collections_see_reused_objects_as_new_ones),
        EACH(test_reuse_runs_collections_as_making_does),
        EACH(test_only_types_that_say_so_and_have_no_items_have_a_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
