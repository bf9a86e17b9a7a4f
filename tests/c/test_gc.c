/* The collector against an oracle (gc_oracle.h), and what gc.h says of generations, freezing, and looking at objects. */
#include "gc_oracle.h"

static void test_random_programs_agree_with_the_oracle(void **state)
{
    for (int seed = 1; seed <= seeds(300); seed++)
        random_program((uint64_t)seed, operations(), false, false);
}

static void test_random_programs_with_finalizers_agree_with_the_oracle(void **state)
{
    for (int seed = 1; seed <= seeds(300); seed++)
        random_program((uint64_t)seed + 1000000, operations(), true, false);
}

/* --- generations --- */

static hk_runtime *manual(void)
{
    hk_runtime *runtime = hk_runtime_create(&(hk_runtime_options){.size = sizeof(hk_runtime_options), .manual_gc = true});
    assert_non_null(runtime);
    return runtime;
}

static struct pair *self_cycle(hk_runtime *runtime)
{
    struct pair *pair = (struct pair *)hk_new(runtime, &pair_type);
    assert_non_null(pair);
    pair->a = hk_incref(&pair->head);
    return pair;
}

static int objects_in(hk_runtime *runtime, int generation)
{
    int count = 0;
    hk_gc_get_objects(runtime, generation, count_object, &count);
    return count;
}

static void test_survivors_move_to_the_next_generation_and_are_found_there(void **state)
{
    hk_runtime *runtime = manual();
    struct pair *pair = self_cycle(runtime);
    assert_int_equal(objects_in(runtime, 0), 1);
    assert_int_equal(hk_gc_collect(runtime, 0), 0);
    assert_int_equal(objects_in(runtime, 1), 1);
    assert_int_equal(hk_gc_collect(runtime, 0), 0);
    assert_int_equal(objects_in(runtime, 1), 1);
    assert_int_equal(hk_gc_collect(runtime, 1), 0);
    assert_int_equal(objects_in(runtime, 2), 1);
    hk_decref(runtime, &pair->head);
    assert_int_equal(hk_gc_collect(runtime, 1), 0);
    assert_int_equal(hk_gc_collect(runtime, 2), 1);
    assert_int_equal(objects_in(runtime, -1), 0);

    pair = self_cycle(runtime);
    assert_int_equal(hk_gc_collect(runtime, 0), 0);
    hk_decref(runtime, &pair->head);
    assert_int_equal(hk_gc_collect(runtime, 0), 0);
    assert_int_equal(hk_gc_collect(runtime, 1), 1);
    hk_runtime_destroy(runtime);
}

static void test_middle_generation_is_found_in_pools_that_nothing_new_comes_from(void **state)
{
    hk_runtime *runtime = manual();
    enum { N = 5000 }; /* a dozen pools */
    static struct pair *pairs[N];
    for (int i = 0; i < N; i++)
        pairs[i] = self_cycle(runtime);
    assert_int_equal(hk_gc_collect(runtime, 0), 0);
    assert_int_equal(hk_gc_collect(runtime, 0), 0);
    for (int i = 0; i < N; i++)
        hk_decref(runtime, &pairs[i]->head);
    assert_int_equal(hk_gc_collect(runtime, 0), 0);
    assert_int_equal(hk_gc_collect(runtime, 1), N);
    hk_runtime_destroy(runtime);
}

/* Counts have eight bits, those of steps seven: a multiple of 256 or 128 references looks like none that are left. */
static void test_objects_with_multiples_of_128_references_live_and_die_as_others_do(void **state)
{
    for (int count = 120; count < 1030; count += count < 132 || (count >= 250 && count < 260) ? 1 : 59) {
        hk_runtime *runtime = manual();
        struct pair *hub = self_cycle(runtime), *chain = self_cycle(runtime);
        for (int i = 1; i < count; i++) /* with its own, `count` references, all from the program */
            hk_incref(&hub->head);
        assert_int_equal(hk_gc_collect(runtime, 2), 0);
        assert_true(hk_gc_is_tracked(runtime, &hub->head));
        for (int i = 1; i < count; i++) { /* now from objects that the hub keeps alive */
            struct pair *pair = (struct pair *)hk_new(runtime, &pair_type);
            pair->a = &hub->head;
            pair->b = chain->b;
            chain->b = &pair->head;
        }
        hub->b = &chain->head;
        assert_int_equal(hk_gc_collect(runtime, 2), 0);
        hk_decref(runtime, &hub->head);
        assert_int_equal(hk_gc_collect(runtime, 2), count + 1);
        hk_runtime_destroy(runtime);
    }
}

static void test_an_older_object_keeps_a_younger_one_alive(void **state)
{
    hk_runtime *runtime = manual();
    struct pair *old = self_cycle(runtime);
    hk_gc_collect(runtime, 2);
    struct pair *young = self_cycle(runtime);
    old->b = &young->head;
    assert_int_equal(hk_gc_collect(runtime, 0), 0);
    assert_int_equal(hk_gc_collect(runtime, 1), 0);
    hk_decref(runtime, &old->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 2);
    hk_runtime_destroy(runtime);
}

static void test_frozen_objects_are_not_looked_at_until_they_are_thawed(void **state)
{
    hk_runtime *runtime = manual();
    for (int i = 0; i < 100; i++)
        hk_decref(runtime, &self_cycle(runtime)->head);
    hk_gc_freeze(runtime);
    assert_int_equal(hk_gc_frozen_count(runtime), 100);
    hk_decref(runtime, &self_cycle(runtime)->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 1);
    hk_gc_unfreeze(runtime);
    assert_int_equal(hk_gc_frozen_count(runtime), 0);
    assert_int_equal(hk_gc_collect(runtime, 2), 100);
    hk_runtime_destroy(runtime);
}

static void test_automatic_collections_bound_a_heap_of_garbage(void **state)
{
    hk_runtime *runtime = hk_runtime_create(NULL);
    struct pair *keep = self_cycle(runtime);
    for (int i = 0; i < rounds(300000); i++)
        hk_decref(runtime, &self_cycle(runtime)->head);
    assert_in_range(objects_in(runtime, -1), 1, HK_PLAN_YOUNG * 2);
    hk_gc_disable(runtime);
    int before = objects_in(runtime, -1), made = rounds(100000);
    for (int i = 0; i < made; i++)
        hk_decref(runtime, &self_cycle(runtime)->head);
    assert_int_equal(objects_in(runtime, -1), before + made);
    hk_decref(runtime, &keep->head);
    hk_runtime_destroy(runtime);
}

/* A release of many plain objects comes upon one with a finalizer, which collects and looks at all there are: those that are dead
 * and wait to be freed are none of them. */
struct wide {
    hk_object head;
    hk_object *parts[60];
};

static hk_type wide_type = {.name = "wide", .size = sizeof(struct wide), .pointers = (((uint64_t)1 << 60) - 1) << 1};
static int alive_seen;

static bool see_alive(hk_object *object, void *unused)
{
    assert_in_range(object->references, 1, 2);
    assert_true(hk_is(object, &wide_type) || hk_is(object, &pair_type) || strcmp(hk_type_of(object)->name, "looks") == 0);
    alive_seen++;
    return true;
}

static void look_around(hk_runtime *runtime, hk_object *self)
{
    hk_gc_collect(runtime, 2);
    hk_gc_get_objects(runtime, -1, see_alive, NULL);
}

static void test_what_waits_to_be_freed_is_not_seen_by_finalizers_and_collections(void **state)
{
    hk_runtime *runtime = manual();
    static hk_type looks = {.name = "looks", .size = sizeof(struct pair), .finalize = look_around};
    struct wide *top = (struct wide *)hk_new(runtime, &wide_type);
    for (int i = 0; i < 60; i++) {
        struct wide *wide = (struct wide *)hk_new(runtime, &wide_type);
        top->parts[i] = &wide->head;
        for (int j = 0; j < 60; j++)
            wide->parts[j] = hk_new(runtime, i % 20 == 19 && j == 59 ? &looks : j % 2 ? &wide_type : &pair_type);
    }
    struct pair *stays = self_cycle(runtime);
    hk_decref(runtime, &top->head);
    assert_in_range(alive_seen, 3, 3 * 3661);
    hk_decref(runtime, hk_list(runtime)); /* in its free list now */
    assert_int_equal(objects_in(runtime, -1), 1);
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    hk_decref(runtime, &stays->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 1);
    hk_watch_let_go(runtime);
    hk_heap_stats stats = {.size = sizeof(stats)};
    hk_heap_get_stats(runtime->cyclic, &stats);
    assert_int_equal(stats.live_blocks, 0);
    hk_runtime_destroy(runtime);
}

static bool remember_object(hk_object *object, void *place)
{
    *(hk_object **)place = object;
    return true;
}

static void test_referrers_and_referents_are_those_that_traverse_names(void **state)
{
    hk_runtime *runtime = manual();
    struct pair *a = self_cycle(runtime), *b = self_cycle(runtime);
    a->b = hk_incref(&b->head);
    hk_object *found = NULL;
    int count = 0;
    hk_gc_get_referrers(runtime, &a->head, remember_object, &found);
    assert_ptr_equal(found, a);
    hk_gc_get_referrers(runtime, &b->head, count_object, &count);
    assert_int_equal(count, 2);
    count = 0;
    hk_gc_get_referents(runtime, &a->head, count_object, &count);
    assert_int_equal(count, 2);
    hk_runtime_destroy(runtime);
}

static void test_saved_garbage_is_kept_and_can_be_given_up(void **state)
{
    hk_runtime *runtime = manual();
    hk_gc_set_save_all(runtime, true);
    for (int i = 0; i < 10; i++)
        hk_decref(runtime, &self_cycle(runtime)->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 10);
    int count = 0;
    hk_gc_garbage(runtime, count_object, &count);
    assert_int_equal(count, 10);
    assert_int_equal(objects_in(runtime, 2), 10);
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    hk_gc_set_save_all(runtime, false);
    hk_gc_garbage_clear(runtime);
    assert_int_equal(hk_gc_collect(runtime, 2), 10);
    hk_runtime_destroy(runtime);
}

struct calls {
    int begins, ends;
    uint64_t found;
};

static void note_collection(hk_runtime *runtime, bool begins, int generation, uint64_t found, void *argument)
{
    struct calls *calls = argument;
    calls->begins += begins;
    calls->ends += !begins;
    calls->found += found;
    assert_int_equal(hk_gc_collect(runtime, 2), 0); /* not from inside */
}

static void test_callbacks_are_told_of_each_collection(void **state)
{
    hk_runtime *runtime = manual();
    struct calls calls = {0};
    assert_true(hk_gc_add_callback(runtime, note_collection, &calls));
    hk_decref(runtime, &self_cycle(runtime)->head);
    hk_gc_collect(runtime, 0);
    hk_gc_collect(runtime, 2);
    assert_int_equal(calls.begins, 2);
    assert_int_equal(calls.ends, 2);
    assert_int_equal(calls.found, 1);
    assert_true(hk_gc_remove_callback(runtime, note_collection, &calls));
    hk_gc_collect(runtime, 2);
    assert_int_equal(calls.begins, 2);
    hk_runtime_destroy(runtime);
}

/* A reference that is owned and not named, and one that is named and not owned: the object is kept, not freed in use. */
static void wrong_traverse(const hk_object *self, hk_traversal *traversal)
{
    hk_visit(traversal, self);
}

static void test_wrong_traverse_functions_leak_and_free_nothing_in_use(void **state)
{
    if (getenv("HEAPKEEPER_DEBUG") != NULL)
        skip(); /* which reports them */
    hk_runtime *runtime = manual();
    static hk_type forgets = {.name = "forgets", .size = sizeof(struct pair)};
    static hk_type invents = {.name = "invents", .size = sizeof(struct pair), .traverse = wrong_traverse};
    struct pair *a = (struct pair *)hk_new(runtime, &forgets), *b = self_cycle(runtime);
    a->a = &b->head;
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    struct pair *c = (struct pair *)hk_new(runtime, &invents);
    hk_incref(&c->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    assert_int_equal(c->head.references, 2);
    hk_runtime_destroy(runtime);
}

static void test_collection_writes_to_no_object_that_lives(void **state)
{
    hk_runtime *runtime = manual();
    enum { N = 2000 };
    static struct pair *pairs[N];
    static struct pair copies[N];
    for (int i = 0; i < N; i++) {
        pairs[i] = self_cycle(runtime);
        pairs[i]->b = i > 0 ? hk_incref(&pairs[i - 1]->head) : NULL;
    }
    for (int i = 0; i < N; i++)
        copies[i] = *pairs[i];
    for (int generation = 0; generation < 3; generation++)
        assert_int_equal(hk_gc_collect(runtime, generation), 0);
    for (int i = 0; i < N; i++)
        assert_memory_equal(pairs[i], &copies[i], sizeof(struct pair));
    hk_runtime_destroy(runtime);
}

/* --- larger than a block --- */

struct table { /* with `count` items behind it */
    hk_object head;
    size_t count;
    hk_object *items[];
};

static int tables_finalized;

static void table_traverse(const hk_object *self, hk_traversal *traversal)
{
    const struct table *table = (const struct table *)self;
    for (size_t i = 0; i < table->count; i++)
        hk_visit(traversal, table->items[i]);
}

static void table_finalize(hk_runtime *runtime, hk_object *self)
{
    tables_finalized++;
}

static hk_type table_type = {.name = "table", .size = sizeof(struct table), .item_size = 8, .traverse = table_traverse};
static hk_type last_words_type = {.name = "last words", .size = sizeof(struct table), .item_size = 8, .traverse = table_traverse,
                                  .finalize = table_finalize};

/* Refers to itself from every item. */
static struct table *table_cycle(hk_runtime *runtime, hk_type *type, size_t count)
{
    struct table *table = (struct table *)hk_new_items(runtime, type, count);
    assert_non_null(table);
    for (size_t i = 0; i < count; i++)
        assert_null(table->items[i]);
    table->count = count;
    for (size_t i = 0; i < count; i++)
        table->items[i] = hk_incref(&table->head);
    return table;
}

static uint64_t live_bytes(hk_runtime *runtime)
{
    hk_heap_stats stats = {.size = sizeof(stats)};
    hk_watch_let_go(runtime);
    hk_heap_get_stats(runtime->cyclic, &stats);
    return stats.live_bytes;
}

static void test_objects_larger_than_a_block_are_collected_as_others_are(void **state)
{
    static const size_t counts[] = {HK_BLOCK_MAX / 8 - 2, HK_BLOCK_MAX / 8 - 1, 5000, 100000, 700000};
    hk_runtime *runtime = manual();
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct table *table = table_cycle(runtime, &table_type, counts[i]);
        struct pair *pair = self_cycle(runtime);
        hk_set(runtime, &table->items[counts[i] - 1], &pair->head);
        pair->b = hk_incref(&table->head);
        assert_true(hk_gc_is_tracked(runtime, &table->head));
        assert_true(hk_object_memory(&table->head) >= counts[i] * 8);
        hk_object *weak = hk_weakref_new(runtime, &table->head, NULL, NULL);
        for (int generation = 0; generation < 3; generation++) {
            assert_int_equal(hk_gc_collect(runtime, generation), 0);
            assert_int_equal(objects_in(runtime, generation < 2 ? generation + 1 : 2), 3); /* with the weak reference */
        }
        hk_decref(runtime, &table->head);
        assert_int_equal(hk_gc_collect(runtime, 1), 0);
        assert_int_equal(hk_gc_collect(runtime, 2), 2);
        assert_null(hk_weakref_get(weak));
        hk_decref(runtime, weak);
        assert_int_equal(objects_in(runtime, -1), 0);
        assert_int_equal(live_bytes(runtime), 0);
        assert_int_equal(hk_heap_check(NULL), 0);

        table = table_cycle(runtime, &table_type, counts[i]); /* by counts alone; and in the youngest generation */
        for (size_t j = 0; j < counts[i]; j++)
            hk_set(runtime, &table->items[j], NULL);
        hk_decref(runtime, &table->head);
        assert_int_equal(live_bytes(runtime), 0);
        hk_decref(runtime, &table_cycle(runtime, &table_type, counts[i])->head);
        assert_int_equal(hk_gc_collect(runtime, 0), 1);
        hk_decref(runtime, &table_cycle(runtime, &last_words_type, counts[i])->head);
        while (hk_gc_step(runtime, 1000) == 0)
            ;
        assert_int_equal(tables_finalized, i + 1);
        assert_int_equal(live_bytes(runtime), 0);
    }
    hk_object *left = &table_cycle(runtime, &last_words_type, 3000)->head;
    assert_non_null(left);
    hk_runtime_destroy(runtime); /* finalizes it */
    assert_int_equal(tables_finalized, sizeof(counts) / sizeof(counts[0]) + 1);
}

/* Thousands of objects would have to be made before anybody looked. */
static void test_few_large_objects_are_enough_to_start_a_collection(void **state)
{
    if (getenv("HEAPKEEPER_DEBUG") != NULL)
        skip(); /* what is dead waits */
    hk_runtime *runtime = hk_runtime_create(NULL);
    uint64_t most = 0;
    for (int i = 0; i < rounds(1000); i++) {
        struct table *table = table_cycle(runtime, &table_type, 1);
        hk_object *list = hk_list(runtime);
        assert_true(list != NULL && hk_list_append(runtime, list, list));
        hk_set(runtime, &table->items[0], list); /* garbage: a list, and a megabyte beside it */
        for (int j = 0; j < 200000 && i % 2; j += 1000)
            for (int k = 0; k < 1000; k++)
                assert_true(hk_list_append(runtime, list, hk_none()));
        hk_decref(runtime, &table->head);
        hk_decref(runtime, &table_cycle(runtime, &table_type, i % 2 ? 1 : 131072)->head);
        uint64_t bytes = live_bytes(runtime) + (uint64_t)runtime->memory->large_bytes;
        most = bytes > most ? bytes : most;
    }
    assert_in_range(most, 1 << 20, 12 << 20);
    hk_runtime_destroy(runtime);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_programs_agree_with_the_oracle),
        cmocka_unit_test(test_random_programs_with_finalizers_agree_with_the_oracle),
        cmocka_unit_test(test_survivors_move_to_the_next_generation_and_are_found_there),
        cmocka_unit_test(test_middle_generation_is_found_in_pools_that_nothing_new_comes_from),
        cmocka_unit_test(test_objects_with_multiples_of_128_references_live_and_die_as_others_do),
        cmocka_unit_test(test_an_older_object_keeps_a_younger_one_alive),
        cmocka_unit_test(test_frozen_objects_are_not_looked_at_until_they_are_thawed),
        cmocka_unit_test(test_automatic_collections_bound_a_heap_of_garbage),
        cmocka_unit_test(test_what_waits_to_be_freed_is_not_seen_by_finalizers_and_collections),
        cmocka_unit_test(test_referrers_and_referents_are_those_that_traverse_names),
        cmocka_unit_test(test_saved_garbage_is_kept_and_can_be_given_up),
        cmocka_unit_test(test_callbacks_are_told_of_each_collection),
        cmocka_unit_test(test_wrong_traverse_functions_leak_and_free_nothing_in_use),
        cmocka_unit_test(test_collection_writes_to_no_object_that_lives),
        cmocka_unit_test(test_objects_larger_than_a_block_are_collected_as_others_are),
        cmocka_unit_test(test_few_large_objects_are_enough_to_start_a_collection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
