/* What CPython's test_gc.py says of Python, said again of this runtime: test_gc_NAME is its test_NAME. docs/semantics.md has the
 * whole list, and where the two differ, why. */
#include "semantics_helper.h"

static void test_gc_list(void **state)
{
    hk_object *list = hk_list(runtime);
    assert_true(hk_list_append(runtime, list, list));
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    hk_decref(runtime, list);
    assert_int_equal(hk_gc_collect(runtime, 2), 1);
}

static void test_gc_dict(void **state)
{
    hk_object *dict = hk_dict(runtime), *key = hk_int(runtime, 1);
    assert_true(hk_dict_set(runtime, dict, key, dict));
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    hk_decref(runtime, dict);
    assert_int_equal(hk_gc_collect(runtime, 2), 1);
}

static void test_gc_tuple(void **state)
{
    hk_object *list = hk_list(runtime), *tuple = hk_tuple(runtime, 1);
    hk_tuple_init(tuple, 0, hk_incref(list));
    assert_true(hk_list_append(runtime, list, tuple));
    hk_decref(runtime, tuple);
    hk_decref(runtime, list);
    assert_int_equal(hk_gc_collect(runtime, 2), 2);
}

static void test_gc_instance(void **state)
{
    struct thing *thing = loop_new();
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    hk_decref(runtime, &thing->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 1);
}

static void test_gc_method(void **state)
{
    struct thing *instance = thing_new(), *method = thing_new();
    instance->a = &method->head;
    method->a = hk_incref(&instance->head);
    hk_decref(runtime, &instance->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 2);
}

static void test_gc_function(void **state)
{
    hk_object *globals = hk_dict(runtime), *name = hk_str_intern(runtime, "f");
    struct thing *function = thing_new();
    function->a = hk_incref(globals);
    assert_true(hk_dict_set(runtime, globals, name, &function->head));
    hk_decref(runtime, &function->head);
    hk_decref(runtime, name);
    hk_decref(runtime, globals);
    assert_int_equal(hk_gc_collect(runtime, 2), 2);
}

/* `late` is referred to by `cyclic`, and from outside until the finalizer of `cyclic` gives that up, having made a weak reference to
 * `function`. So late dies of what the collection frees, and its finalizer asks for function. */
static struct thing *late;

static void late_asks(struct thing *self)
{
    say(is_dead(self->a) ? "gone" : "there");
}

static void cyclic_prepares(struct thing *self)
{
    hk_set(runtime, &late->a, weak_to(self->a, NULL, NULL));
    hk_decref(runtime, &late->head);
}

static void test_gc_function_tp_clear_leaves_consistent_state(void **state)
{
    struct thing *function = thing_new(), *cyclic = thing_with_del(cyclic_prepares);
    late = thing_with_del(late_asks);
    function->a = &cyclic->head;
    cyclic->a = &function->head;
    cyclic->b = hk_incref(&late->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 2);
    assert_said("gone");
    assert_int_equal(dels, 2);
}

static bool found_it(hk_object *object, void *argument)
{
    *(hk_object **)argument = object;
    return true;
}

static void test_gc_saveall(void **state)
{
    hk_object *list = hk_list(runtime), *found = NULL;
    assert_true(hk_list_append(runtime, list, list));
    hk_gc_garbage(runtime, found_it, &found);
    assert_null(found);
    hk_gc_set_save_all(runtime, true);
    hk_decref(runtime, list);
    assert_int_equal(hk_gc_collect(runtime, 2), 1);
    hk_gc_set_save_all(runtime, false);
    hk_gc_garbage(runtime, found_it, &found);
    assert_ptr_equal(found, list);
    assert_ptr_equal(hk_list_get(found, 0), list);
    hk_gc_garbage_clear(runtime);
    assert_int_equal(hk_gc_collect(runtime, 2), 1);
}

static void del_makes(struct thing *self)
{
    for (int i = 0; i < 10; i++)
        hk_decref(runtime, &loop_new()->head);
}

static void test_gc_del(void **state)
{
    hk_gc_set_threshold(runtime, 0, 1);
    hk_gc_enable(runtime);
    hk_decref(runtime, &thing_with_del(del_makes)->head);
    assert_int_equal(dels, 1);
    hk_gc_stats stats;
    hk_gc_get_stats(runtime, 0, &stats);
    assert_true(stats.collections > 0);
}

static void test_gc_get_count(void **state)
{
    hk_gc_collect(runtime, 2);
    assert_int_equal(hk_gc_get_count(runtime, 0), 0);
    assert_int_equal(hk_gc_get_count(runtime, 1), 0);
    hk_object *list = hk_list(runtime);
    assert_int_equal(hk_gc_get_count(runtime, 0), 1);
    hk_decref(runtime, list);
    assert_int_equal(hk_gc_get_count(runtime, 0), 0);
}

static void test_gc_collect_generations(void **state)
{
    hk_gc_collect(runtime, 2);
    hk_object *list = hk_list(runtime);
    hk_gc_collect(runtime, 0);
    assert_int_equal(hk_gc_get_count(runtime, 1), 1);
    hk_gc_collect(runtime, 1);
    assert_int_equal(hk_gc_get_count(runtime, 1), 0);
    hk_gc_collect(runtime, 2);
    assert_int_equal(hk_gc_get_count(runtime, 0), 0);
    assert_int_equal(hk_gc_get_count(runtime, 1), 0);
    hk_decref(runtime, list);
}

/* --- deep structures --- */

static void del_collects_sometimes(struct thing *self)
{
    if (dels % 17 == 0)
        hk_gc_collect(runtime, 2);
}

static void test_gc_trashcan(void **state)
{
    enum { N = 150 };
    hk_gc_enable(runtime);
    for (int round = 0; round < 2; round++) {
        hk_object *list = hk_list(runtime), *dict = hk_dict(runtime);
        for (int i = 0; i < N; i++) {
            hk_object *outer = hk_list(runtime), *ouch = &thing_with_del(del_collects_sometimes)->head;
            assert_true(hk_list_append(runtime, outer, list) && hk_list_append(runtime, outer, ouch));
            hk_decref(runtime, list);
            hk_decref(runtime, ouch);
            list = outer;
            outer = hk_dict(runtime);
            ouch = &thing_with_del(del_collects_sometimes)->head;
            assert_true(hk_dict_set(runtime, outer, hk_int(runtime, 1), dict));
            assert_true(hk_dict_set(runtime, outer, hk_int(runtime, 2), ouch));
            hk_decref(runtime, dict);
            hk_decref(runtime, ouch);
            dict = outer;
        }
        hk_decref(runtime, list);
        hk_decref(runtime, dict);
    }
    assert_int_equal(dels, 4 * N);
}

static void count_in(hk_runtime *one, hk_object *self)
{
    ++*(int *)((struct thing *)self)->name;
}

static hk_type counting_type = {.name = "counting", .size = sizeof(struct thing), .pointers = 14, .finalize = count_in};

/* A thread's own runtime. */
static void *release_nested(void *count)
{
    hk_runtime *mine = hk_runtime_create(NULL);
    for (int round = 0; mine != NULL && round < 50; round++) {
        hk_object *inner = NULL;
        for (int i = 0; i < 60; i++) {
            struct thing *outer = (struct thing *)hk_new(mine, &counting_type);
            outer->name = count;
            outer->a = inner;
            inner = hk_list(mine);
            hk_list_append(mine, inner, &outer->head);
            hk_decref(mine, &outer->head);
        }
        hk_decref(mine, inner);
    }
    hk_runtime_destroy(mine);
    return NULL;
}

static void test_gc_trashcan_threads(void **state)
{
    int counts[2] = {0};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, release_nested, &counts[i]), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(counts[i], 50 * 60);
    }
}

/* --- what is to be seen of it --- */

static void test_gc_boom(void **state)
{
    struct thing *a = thing_with_del(del_breaks), *b = thing_with_del(del_breaks);
    a->a = &b->head;
    b->a = &a->head;
    assert_int_equal(hk_gc_collect(runtime, 2), 2);
    assert_int_equal(dels, 2);
    assert_int_equal(live_blocks(), 0);
}

static bool sum_up(hk_object *object, void *sum)
{
    *(int64_t *)sum = 10 * *(int64_t *)sum + hk_int_value(object);
    return true;
}

static int64_t sum_of_referents(hk_object *object)
{
    int64_t sum = 0;
    hk_gc_get_referents(runtime, object, sum_up, &sum);
    return sum;
}

static void test_gc_get_referents(void **state)
{
    hk_object *list = hk_list(runtime), *tuple = hk_tuple(runtime, 3), *dict = hk_dict(runtime), *text = hk_str(runtime, "a");
    for (int i = 0; i < 3; i++) {
        assert_true(hk_list_append(runtime, list, hk_int(runtime, 1 + 2 * i)));
        hk_tuple_init(tuple, (size_t)i, hk_int(runtime, 1 + 2 * i));
    }
    assert_true(hk_dict_set(runtime, dict, hk_int(runtime, 1), hk_int(runtime, 3)));
    assert_true(hk_dict_set(runtime, dict, hk_int(runtime, 5), hk_int(runtime, 7)));
    assert_int_equal(sum_of_referents(list), 135);
    assert_int_equal(sum_of_referents(tuple), 135);
    assert_int_equal(sum_of_referents(dict), 1357);
    assert_int_equal(sum_of_referents(hk_int(runtime, 1)), 0);
    assert_int_equal(sum_of_referents(text), 0);
    hk_object *const all[] = {list, tuple, dict, text};
    for (size_t i = 0; i < COUNT(all); i++)
        hk_decref(runtime, all[i]);
}

static void test_gc_is_tracked(void **state)
{
    hk_object *const untracked[] = {hk_none(), hk_bool(true), hk_int(runtime, 1), hk_int(runtime, 1 << 20), hk_float(runtime, 1.0),
                                    hk_str(runtime, "a"), hk_bytes(runtime, "a", 1)};
    hk_object *const tracked[] = {hk_list(runtime), hk_dict(runtime), hk_set_new(runtime), &thing_new()->head};
    for (size_t i = 0; i < COUNT(untracked); i++) {
        assert_false(hk_gc_is_tracked(runtime, untracked[i]));
        hk_decref(runtime, untracked[i]);
    }
    for (size_t i = 0; i < COUNT(tracked); i++) {
        assert_true(hk_gc_is_tracked(runtime, tracked[i]));
        hk_decref(runtime, tracked[i]);
    }
}

static void test_gc_is_finalized(void **state)
{
    assert_false(hk_gc_is_finalized(hk_int(runtime, 3)));
    struct thing *lazarus = thing_with_del(del_keeps);
    assert_false(hk_gc_is_finalized(&lazarus->head));
    hk_decref(runtime, &lazarus->head);
    assert_ptr_equal(kept[0], lazarus);
    assert_true(hk_gc_is_finalized(&lazarus->head));
    kept_clear();
}

/* --- garbage with weak references and finalizers that look at other garbage --- */

static hk_object *looked_at[2];

static void look_at_both(hk_runtime *one, hk_object *weak, void *argument)
{
    for (int i = 0; i < 2; i++)
        say(is_dead(looked_at[i]) ? "dead" : "alive");
}

static void test_gc_bug1055820b(void **state)
{
    struct thing *things[2] = {loop_new(), loop_new()};
    for (int i = 0; i < 2; i++)
        looked_at[i] = weak_to(things[i], look_at_both, NULL);
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    assert_said("");
    for (int i = 0; i < 2; i++)
        hk_decref(runtime, &things[i]->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 2);
    assert_said("dead dead dead dead");
    for (int i = 0; i < 2; i++)
        hk_decref(runtime, looked_at[i]);
}

static void look_at_young(struct thing *self)
{
    say(is_dead(looked_at[0]) ? "dead" : "alive");
}

static void weak_looks_at_young(hk_runtime *one, hk_object *weak, void *argument)
{
    look_at_young(NULL);
}

/* An old one is kept by a young one's cycle; with that one, another dies that has a weak reference without a callback. */
static void old_dies_with_young(struct thing *old)
{
    hk_gc_collect(runtime, 2);
    struct thing *young = loop_new(), *other = loop_new();
    young->b = &old->head;
    looked_at[0] = weak_to(other, NULL, NULL);
    hk_decref(runtime, &young->head);
    hk_decref(runtime, &other->head);
    hk_gc_enable(runtime);
    hk_gc_stats stats;
    do {
        assert_said("");
        hk_decref(runtime, &loop_new()->head);
        hk_gc_get_stats(runtime, 0, &stats);
    } while (stats.collections == 0);
    assert_said("dead");
    hk_decref(runtime, looked_at[0]);
}

static void test_gc_bug1055820c(void **state)
{
    struct thing *old = thing_new();
    hk_object *weak = weak_to(old, weak_looks_at_young, NULL);
    old_dies_with_young(old);
    hk_decref(runtime, weak);
}

static void test_gc_bug1055820d(void **state)
{
    old_dies_with_young(thing_with_del(look_at_young));
    assert_int_equal(dels, 1);
}

static void test_gc_bug21435(void **state)
{
    struct thing *a = thing_new(), *b = thing_with_del(del_breaks);
    b->b = &thing_new()->head;
    a->a = &b->head;
    b->a = &a->head;
    assert_int_equal(hk_gc_collect(runtime, 2), 3);
    assert_int_equal(dels, 1);
}

/* Of a type whose references nobody is told of. */
static void untold_destroy(hk_runtime *one, hk_object *self)
{
    hk_xdecref(one, ((struct thing *)self)->a);
}

static hk_type untold_type = {.name = "untold", .size = sizeof(struct thing), .destroy = untold_destroy};

static void test_gc_trash_weakref_clear(void **state)
{
    struct thing *a = loop_new(), *y = (struct thing *)hk_new(runtime, &untold_type), *z = thing_new();
    y->a = &z->head;
    a->b = &y->head;
    a->c = weak_to(z, say_argument, "called");
    hk_object *longer = hk_list(runtime);
    assert_true(hk_list_append(runtime, longer, a->c) && hk_list_append(runtime, longer, longer));
    hk_decref(runtime, longer);
    hk_decref(runtime, &a->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 4);
    assert_said("");
    assert_int_equal(live_blocks(), 0);
}

static void del_speaks(struct thing *self)
{
    say("__del__");
}

static void test_gc_main_module_at_shutdown(void **state)
{
    hk_runtime *other = hk_runtime_create(NULL);
    struct thing *thing = (struct thing *)hk_new(other, &del_type);
    hk_object *list = hk_list(other);
    thing->del = del_speaks;
    assert_true(hk_list_append(other, list, &thing->head) && hk_list_append(other, list, list));
    hk_decref(other, &thing->head);
    hk_decref(other, list);
    assert_said("");
    hk_runtime_destroy(other);
    assert_said("__del__");
}

/* --- statistics and lists of objects --- */

static void test_gc_get_stats(void **state)
{
    hk_gc_stats before[3], after[3];
    for (int i = 0; i < 3; i++)
        hk_gc_get_stats(runtime, i, &before[i]);
    hk_gc_collect(runtime, 0);
    hk_decref(runtime, &loop_new()->head);
    hk_gc_collect(runtime, 2);
    for (int i = 0; i < 3; i++)
        hk_gc_get_stats(runtime, i, &after[i]);
    assert_int_equal(after[0].collections, before[0].collections + 1);
    assert_int_equal(after[1].collections, before[1].collections);
    assert_int_equal(after[2].collections, before[2].collections + 1);
    assert_int_equal(after[2].collected, before[2].collected + 1);
    hk_gc_get_stats(runtime, 3, &after[0]);
    hk_gc_get_stats(runtime, -1, &after[1]);
    assert_int_equal(after[0].collections + after[1].collections, 0);
}

static void test_gc_freeze(void **state)
{
    struct thing *thing = loop_new();
    hk_gc_freeze(runtime);
    assert_int_equal(hk_gc_frozen_count(runtime), 1);
    hk_decref(runtime, &thing->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    hk_gc_unfreeze(runtime);
    assert_int_equal(hk_gc_frozen_count(runtime), 0);
    assert_int_equal(hk_gc_collect(runtime, 2), 1);
}

static hk_object *sought;

static bool count_sought(hk_object *object, void *count)
{
    *(int *)count += object == sought;
    return true;
}

static int times_in(int generation)
{
    int count = 0;
    hk_gc_get_objects(runtime, generation, count_sought, &count);
    return count;
}

static void test_gc_get_objects_generations(void **state)
{
    sought = hk_list(runtime);
    assert_true(hk_list_append(runtime, sought, sought));
    for (int step = 0; step < 4; step++) {
        int is_in = step < 2 ? step : 2;
        for (int generation = 0; generation < 3; generation++)
            assert_int_equal(times_in(generation), generation == is_in);
        hk_gc_collect(runtime, is_in);
    }
    hk_decref(runtime, sought);
}

static void test_gc_get_objects_arguments(void **state)
{
    sought = hk_list(runtime);
    assert_int_equal(times_in(-1), 1);
    for (int wrong = 3; wrong < 1000; wrong = 2 * wrong + 1)
        assert_int_equal(times_in(wrong), 0);
    assert_int_equal(times_in(-1000), 0);
    assert_int_equal(times_in(1000), 0);
    hk_decref(runtime, sought);
}

static struct {
    int begun, ended, generation;
    uint64_t found;
} told[2];

static void tell(hk_runtime *one, bool begins, int generation, uint64_t found, void *argument)
{
    int which = *(int *)argument;
    told[which].begun += begins;
    told[which].ended += !begins;
    told[which].generation = generation;
    told[which].found = found;
}

static void test_gc_callbacks_collect(void **state)
{
    int which[2] = {0, 1};
    memset(told, 0, sizeof(told));
    for (int i = 0; i < 2; i++)
        assert_true(hk_gc_add_callback(runtime, tell, &which[i]));
    hk_decref(runtime, &loop_new()->head);
    for (int generation = 1; generation < 3; generation++) {
        hk_gc_collect(runtime, generation);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(told[i].begun, generation);
            assert_int_equal(told[i].ended, generation);
            assert_int_equal(told[i].generation, generation);
            assert_int_equal(told[i].found, generation == 1);
        }
    }
    for (int i = 0; i < 2; i++)
        assert_true(hk_gc_remove_callback(runtime, tell, &which[i]));
    assert_false(hk_gc_remove_callback(runtime, tell, &which[0]));
}

/* b refers to a twice, and a's count is one too low for that. */
static void test_gc_refcount_errors(void **state)
{
    if (is_debug())
        skip(); /* which reports them */
    hk_object *a = hk_list(runtime), *b = hk_list(runtime);
    for (int i = 0; i < 2; i++)
        assert_true(hk_list_append(runtime, b, a));
    hk_decref(runtime, a);
    a->references--;
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    assert_int_equal(hk_list_count(a), 0);
    assert_ptr_equal(hk_list_get(b, 1), a);
    a->references++;
    hk_decref(runtime, b);
}

static void test_gc_indirect_calls_with_gc_disabled(void **state)
{
    hk_gc_stats stats;
    for (int i = 0; i < 10000; i++)
        hk_decref(runtime, &loop_new()->head);
    hk_gc_get_stats(runtime, 0, &stats);
    assert_int_equal(stats.collections, 0);
    hk_gc_enable(runtime);
    hk_decref(runtime, &loop_new()->head);
    uint64_t collections = 0;
    for (int i = 0; i < 3; i++) {
        hk_gc_get_stats(runtime, i, &stats);
        collections += stats.collections;
    }
    assert_int_equal(collections, 1);
}

/* --- resurrection --- */

static void test_gc_resurrection_only_happens_once_per_object(void **state)
{
    struct thing *lazarus = thing_with_del(del_keeps);
    lazarus->a = &lazarus->head;
    hk_gc_collect(runtime, 2);
    assert_int_equal(dels, 1);
    assert_int_equal(kept_count, 1);
    kept_clear();
    assert_int_equal(hk_gc_collect(runtime, 2), 1);
    assert_int_equal(dels, 1);
    assert_int_equal(live_blocks(), 0);
}

static void test_gc_resurrection_is_transitive(void **state)
{
    struct thing *lazarus = thing_with_del(del_keeps), *cargo = loop_new();
    lazarus->a = &cargo->head;
    cargo->b = &lazarus->head;
    hk_gc_collect(runtime, 2);
    assert_int_equal(kept_count, 1);
    assert_ptr_equal(((struct thing *)kept[0])->a, cargo);
    assert_ptr_equal(cargo->a, cargo);
    assert_ptr_equal(cargo->b, lazarus);
    kept_clear();
    assert_int_equal(hk_gc_collect(runtime, 2), 2);
}

static uint64_t collected(void)
{
    hk_gc_stats stats;
    hk_gc_get_stats(runtime, 2, &stats);
    return stats.collected;
}

static void test_gc_resurrection_does_not_block_cleanup_of_other_objects(void **state)
{
    enum { N = 100 };
    for (int round = 0; round < 3; round++) {
        uint64_t before = collected();
        for (int i = 0; i < N && round != 1; i++)
            hk_decref(runtime, &loop_new()->head);
        if (round > 0) {
            struct thing *z = thing_with_del(del_keeps);
            z->a = &z->head;
        }
        assert_int_equal(hk_gc_collect(runtime, 2), (round != 1 ? N : 0) + (round > 0));
        assert_int_equal(collected() - before, round != 1 ? N : 0);
    }
    uint64_t before = collected();
    kept_clear();
    assert_int_equal(hk_gc_collect(runtime, 2), 2);
    assert_int_equal(collected() - before, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        QUIET(test_gc_list),
        QUIET(test_gc_dict),
        QUIET(test_gc_tuple),
        QUIET(test_gc_instance),
        QUIET(test_gc_method),
        QUIET(test_gc_function),
        QUIET(test_gc_function_tp_clear_leaves_consistent_state),
        QUIET(test_gc_saveall),
        QUIET(test_gc_del),
        QUIET(test_gc_get_count),
        QUIET(test_gc_collect_generations),
        QUIET(test_gc_trashcan),
        QUIET(test_gc_trashcan_threads),
        QUIET(test_gc_boom),
        QUIET(test_gc_get_referents),
        QUIET(test_gc_is_tracked),
        QUIET(test_gc_is_finalized),
        QUIET(test_gc_bug1055820b),
        QUIET(test_gc_bug1055820c),
        QUIET(test_gc_bug1055820d),
        QUIET(test_gc_bug21435),
        QUIET(test_gc_trash_weakref_clear),
        QUIET(test_gc_main_module_at_shutdown),
        QUIET(test_gc_get_stats),
        QUIET(test_gc_freeze),
        QUIET(test_gc_get_objects_generations),
        QUIET(test_gc_get_objects_arguments),
        QUIET(test_gc_callbacks_collect),
        QUIET(test_gc_refcount_errors),
        QUIET(test_gc_indirect_calls_with_gc_disabled),
        QUIET(test_gc_resurrection_only_happens_once_per_object),
        QUIET(test_gc_resurrection_is_transitive),
        QUIET(test_gc_resurrection_does_not_block_cleanup_of_other_objects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
