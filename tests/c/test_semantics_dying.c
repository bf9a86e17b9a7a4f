/* What CPython's test_finalization.py and test_weakref.py say of Python, said again of this runtime: test_finalization_NAME is the
 * first one's test_NAME, test_weakref_NAME the second one's. docs/semantics.md has the whole list, and where the two differ,
 * why. */
#include "semantics_helper.h"

/* --- test_finalization.py --- */

static void test_finalization_simple(void **state)
{
    struct thing *thing = thing_with_del(NULL);
    hk_object *weak = weak_to(thing, NULL, NULL);
    hk_decref(runtime, &thing->head);
    assert_int_equal(dels, 1);
    assert_true(is_dead(weak));
    hk_gc_collect(runtime, 2);
    assert_int_equal(dels, 1);
    hk_decref(runtime, weak);
}

static void test_finalization_simple_resurrect(void **state)
{
    struct thing *thing = thing_with_del(del_keeps);
    hk_object *weak = weak_to(thing, NULL, NULL);
    hk_decref(runtime, &thing->head);
    assert_int_equal(dels, 1);
    assert_ptr_equal(kept[0], thing);
    assert_false(is_dead(weak));
    kept_clear();
    assert_int_equal(dels, 1);
    assert_true(is_dead(weak));
    hk_decref(runtime, weak);
}

static hk_type acyclic_type = {.name = "acyclic", .size = sizeof(struct thing), .flags = HK_TYPE_ACYCLIC,
                               .finalize = thing_finalize};

static void test_finalization_non_gc(void **state)
{
    hk_object *object = hk_new(runtime, &acyclic_type);
    assert_false(hk_gc_is_tracked(runtime, object));
    give_up(object);
    assert_int_equal(dels, 1);
    assert_int_equal(live_blocks(), 0);
}

static void test_finalization_non_gc_resurrect(void **state)
{
    struct thing *thing = (struct thing *)hk_new(runtime, &acyclic_type);
    thing->del = del_keeps;
    give_up(&thing->head);
    assert_int_equal(kept_count, 1);
    kept_clear();
    assert_int_equal(dels, 1);
    assert_int_equal(live_blocks(), 0);
}

/* A chain that is closed, each with references to both neighbours. S: simple; R: is kept by its finalizer; B: breaks loose in it. */
static void check_links(const struct thing *self)
{
    assert_false(self->broken);
    const struct thing *left = (struct thing *)self->a, *right = (struct thing *)self->b;
    assert_ptr_equal(left->b, left->broken ? NULL : self);
    assert_ptr_equal(right->a, right->broken ? NULL : self);
}

static void del_checks(struct thing *self)
{
    check_links(self);
}

static void del_checks_and_keeps(struct thing *self)
{
    check_links(self);
    del_keeps(self);
}

static void del_checks_and_breaks(struct thing *self)
{
    check_links(self);
    del_breaks(self);
}

static void check_chain(const char *kinds)
{
    int count = (int)strlen(kinds), survivors = 0;
    struct thing *things[16];
    hk_object *weak[16];
    for (int i = 0; i < count; i++) {
        things[i] = thing_with_del(kinds[i] == 'S' ? del_checks : kinds[i] == 'R' ? del_checks_and_keeps : del_checks_and_breaks);
        weak[i] = weak_to(things[i], NULL, NULL);
        survivors += kinds[i] == 'R';
    }
    for (int i = 0; i < count; i++) {
        struct thing *left = things[(i + count - 1) % count];
        things[i]->a = hk_incref(&left->head);
        left->b = hk_incref(&things[i]->head);
    }
    for (int i = 0; i < count; i++)
        hk_decref(runtime, &things[i]->head);
    assert_int_equal(hk_gc_collect(runtime, 2), count);
    assert_int_equal(dels, count);
    assert_int_equal(kept_count, survivors);
    for (int i = 0; i < count; i++)
        assert_true(is_dead(weak[i]));
    kept_clear();
    hk_gc_collect(runtime, 2);
    assert_int_equal(dels, count);
    for (int i = 0; i < count; i++)
        hk_decref(runtime, weak[i]);
    assert_int_equal(live_blocks(), 0);
}

static void test_finalization_self_cycle_simple(void **state)
{
    check_chain("S");
}

static void test_finalization_self_cycle_simple_resurrect(void **state)
{
    check_chain("R");
}

static void test_finalization_self_cycle_simple_suicide(void **state)
{
    check_chain("B");
}

static void test_finalization_homogenous(void **state)
{
    check_chain("SSS");
}

static void test_finalization_homogenous_resurrect(void **state)
{
    check_chain("RRR");
}

static void test_finalization_homogenous_suicidal(void **state)
{
    check_chain("BBB");
}

static void test_finalization_heterogenous_suicidal_one(void **state)
{
    check_chain("BSBS");
}

static void test_finalization_heterogenous_suicidal_two(void **state)
{
    check_chain("BBSS");
}

static void test_finalization_heterogenous_resurrect_one(void **state)
{
    check_chain("RSRS");
}

static void test_finalization_heterogenous_resurrect_two(void **state)
{
    check_chain("RSBRSB");
}

static void test_finalization_heterogenous_resurrect_three(void **state)
{
    check_chain("RRSSBB");
}

/* --- test_weakref.py --- */

static void test_weakref_basic_ref(void **state)
{
    struct thing *thing = thing_new();
    hk_object *weak = weak_to(thing, NULL, NULL), *strong = hk_weakref_get(weak);
    assert_ptr_equal(strong, thing);
    hk_decref(runtime, strong);
    assert_int_equal(thing->head.references, 1);
    hk_decref(runtime, &thing->head);
    assert_true(is_dead(weak));
    hk_decref(runtime, weak);
}

static void test_weakref_basic_callback(void **state)
{
    struct thing *thing = thing_new();
    hk_object *weak = weak_to(thing, say_argument, "called");
    hk_decref(runtime, &thing->head);
    assert_said("called");
    assert_true(is_dead(weak));
    hk_decref(runtime, weak);
}

static void test_weakref_multiple_callbacks(void **state)
{
    struct thing *thing = thing_new();
    hk_object *first = weak_to(thing, say_argument, "first"), *second = weak_to(thing, say_argument, "second");
    hk_decref(runtime, &thing->head);
    assert_said("second first");
    hk_decref(runtime, first);
    hk_decref(runtime, second);
}

static void say_whether_other_is_dead(hk_runtime *one, hk_object *weak, void *other)
{
    say(is_dead(*(hk_object **)other) ? "dead" : "alive");
}

static void test_weakref_multiple_selfref_callbacks(void **state)
{
    struct thing *thing = thing_new();
    hk_object *first, *second;
    first = weak_to(thing, say_whether_other_is_dead, &second);
    second = weak_to(thing, say_whether_other_is_dead, &first);
    hk_decref(runtime, &thing->head);
    assert_said("dead dead");
    hk_decref(runtime, first);
    hk_decref(runtime, second);
}

static void test_weakref_ref_reuse(void **state)
{
    struct thing *thing = thing_new();
    hk_object *first = weak_to(thing, NULL, NULL), *second = weak_to(thing, NULL, NULL);
    assert_ptr_not_equal(first, second);
    assert_int_equal(hk_weakref_count(runtime, &thing->head), 2);
    hk_decref(runtime, first);
    assert_int_equal(hk_weakref_count(runtime, &thing->head), 1);
    assert_false(is_dead(second));
    hk_decref(runtime, &thing->head);
    hk_decref(runtime, second);
}

static void test_weakref_getweakrefcount(void **state)
{
    struct thing *thing = thing_new();
    hk_object *weak[4];
    for (size_t i = 0; i < COUNT(weak); i++) {
        weak[i] = weak_to(thing, i % 2 ? say_argument : NULL, "called");
        assert_int_equal(hk_weakref_count(runtime, &thing->head), i + 1);
    }
    for (size_t i = 0; i < COUNT(weak); i++)
        hk_decref(runtime, weak[i]);
    assert_int_equal(hk_weakref_count(runtime, &thing->head), 0);
    assert_int_equal(hk_weakref_count(runtime, hk_int(runtime, 1)), 0);
    hk_decref(runtime, &thing->head);
    assert_said("");
}

static void collect_now(hk_runtime *one, hk_object *weak, void *argument)
{
    say("collected");
    assert_int_equal(hk_gc_collect(one, 2), 0);
}

static void test_weakref_sf_bug_840829(void **state)
{
    struct thing *c = thing_new(), *c1 = thing_new(), *c2 = thing_new();
    hk_object *weak = weak_to(c, collect_now, NULL);
    hk_decref(runtime, &c->head);
    hk_decref(runtime, weak);
    c1->a = &thing_new()->head;
    c2->a = &c1->head;
    weak = weak_to(c1->a, collect_now, NULL);
    hk_decref(runtime, &c2->head);
    assert_said("collected collected");
    hk_decref(runtime, weak);
    assert_int_equal(live_blocks(), 0);
}

static void test_weakref_callback_in_cycle(void **state)
{
    struct thing *j = loop_new(), *i = loop_new();
    i->b = &j->head;
    i->c = weak_to(j, say_argument, "called");
    hk_decref(runtime, &i->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 3);
    assert_said("");
}

static void test_weakref_callback_reachable_one_way(void **state)
{
    struct thing *c1 = thing_new(), *c2 = loop_new();
    c2->b = weak_to(c1, say_argument, "called"); /* given up before c1 is, and in the next round after it */
    c2->c = &c1->head;
    hk_decref(runtime, &c2->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 3);
    c1 = thing_new(), c2 = loop_new();
    c2->b = &c1->head;
    c2->c = weak_to(c1, say_argument, "called");
    hk_decref(runtime, &c2->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 3);
    assert_said("");
}

static void keep_argument(hk_runtime *one, hk_object *weak, void *object)
{
    say("kept");
    kept[kept_count++] = hk_incref(object);
}

static void test_weakref_callback_in_cycle_resurrection(void **state)
{
    struct thing *c1 = thing_new(), *c2 = thing_new();
    c1->a = &c2->head;
    c2->a = &c1->head;
    c1->b = weak_to(c2, keep_argument, c2);
    c2->b = weak_to(c1, keep_argument, c1);
    hk_object *outside = weak_to(c1, say_argument, "went away");
    assert_int_equal(hk_gc_collect(runtime, 2), 4);
    assert_said("went away");
    assert_int_equal(kept_count, 0);
    assert_true(is_dead(outside));
    hk_decref(runtime, outside);
}

static void test_weakref_callbacks_on_callback(void **state)
{
    struct thing *c = thing_new(), *d = thing_new();
    c->a = &d->head;
    d->a = &c->head;
    c->b = weak_to(d, say_argument, "of d");
    d->b = weak_to(c->b, say_argument, "of the weak reference");
    hk_object *external = weak_to(c->b, say_argument, "safe");
    assert_false(is_dead(external));
    assert_said("");
    assert_int_equal(hk_gc_collect(runtime, 2), 4);
    assert_said("safe");
    assert_true(is_dead(external));
    hk_decref(runtime, external);
}

static void test_weakref_gc_during_ref_creation(void **state)
{
    hk_gc_set_threshold(runtime, 0, 1);
    hk_gc_set_threshold(runtime, 1, 1);
    hk_gc_enable(runtime);
    struct thing *referenced = thing_new();
    for (int i = 0; i < 100; i++) {
        struct thing *a = loop_new();
        a->b = weak_to(referenced, NULL, NULL);
        hk_decref(runtime, &a->head); /* what the next weak reference is made of */
        hk_decref(runtime, weak_to(referenced, say_argument, "called"));
    }
    hk_gc_collect(runtime, 2);
    assert_int_equal(hk_weakref_count(runtime, &referenced->head), 0);
    hk_decref(runtime, &referenced->head);
    assert_said("");
}

static hk_object *ref_from_del;

static void del_makes_ref(struct thing *self)
{
    ref_from_del = weak_to(self, say_argument, "called");
}

static void test_weakref_ref_created_during_del(void **state)
{
    struct thing *target = thing_with_del(del_makes_ref);
    hk_decref(runtime, &target->head);
    assert_said("called");
    assert_true(is_dead(ref_from_del));
    hk_decref(runtime, ref_from_del);
    target = thing_with_del(del_makes_ref);
    target->a = &target->head;
    assert_int_equal(hk_gc_collect(runtime, 2), 1);
    assert_said("called");
    assert_true(is_dead(ref_from_del));
    hk_decref(runtime, ref_from_del);
}

static void test_weakref_equality(void **state)
{
    hk_object *x = hk_str(runtime, "equal"), *y = hk_str(runtime, "equal");
    hk_object *a = weak_to(x, NULL, NULL), *b = weak_to(y, NULL, NULL), *d = weak_to(x, NULL, NULL);
    for (int round = 0; round < 2; round++) {
        assert_true(hk_equal(a, a));
        assert_false(hk_equal(a, b) || hk_equal(a, d) || hk_equal(a, x));
        for (int i = 0; i < 2 && round == 0; i++)
            hk_decref(runtime, i ? x : y);
        x = hk_none();
    }
    hk_object *const all[] = {a, b, d};
    for (size_t i = 0; i < COUNT(all); i++)
        hk_decref(runtime, all[i]);
}

static void test_weakref_hashing(void **state)
{
    hk_object *x = hk_str(runtime, "hashed"), *weak = weak_to(x, NULL, NULL);
    uint64_t before = hk_hash(weak);
    assert_true(before != hk_hash(x));
    hk_decref(runtime, x);
    assert_true(hk_hash(weak) == before);
    hk_decref(runtime, weak);
}

/* Each has a weak reference to the one before, whose callback asks for itself by another one. */
struct asks {
    hk_object *self;
};

static void ask_for_self(hk_runtime *one, hk_object *weak, void *argument)
{
    hk_object *self = hk_weakref_get(((struct asks *)argument)->self);
    say(self == NULL ? "-" : "+");
    hk_xdecref(one, self);
}

static void test_weakref_trashcan_16602(void **state)
{
    enum { N = 100 };
    static struct asks asks[N];
    struct thing *root = thing_with_del(NULL), *last = root;
    for (int i = 0; i < N; i++) { /* last -> next -> ...: all die with the first */
        struct thing *next = thing_with_del(NULL);
        asks[i].self = weak_to(next, NULL, NULL);
        next->b = weak_to(last, ask_for_self, &asks[i]);
        last->a = &next->head;
        last = next;
    }
    hk_decref(runtime, &root->head);
    assert_int_equal(dels, N + 1);
    for (const char *word = said_text; *word != '\0'; word += word[1] == ' ' ? 2 : 1)
        assert_int_equal(*word, '+'); /* the next one is still whole when the one before it dies */
    said_text[0] = '\0';
    for (int i = 0; i < N; i++)
        hk_decref(runtime, asks[i].self);
    assert_int_equal(live_blocks(), 0);
}

static void test_weakref_callback_gcs(void **state)
{
    struct thing *x = thing_with_del(NULL);
    hk_object *weak = weak_to(x, collect_now, NULL);
    hk_decref(runtime, &x->head);
    assert_said("collected");
    assert_int_equal(dels, 1);
    hk_decref(runtime, weak);
}

static int called;

static void count_call(hk_runtime *one, hk_object *weak, void *argument)
{
    called++;
}

static void test_weakref_no_memory_when_clearing(void **state)
{
    enum { N = 50 };
    hk_object *weak[N];
    struct thing *thing = thing_new();
    called = 0;
    for (int i = 0; i < N; i++)
        weak[i] = weak_to(thing, count_call, NULL);
    uint64_t before = 0, after = 0;
    hk_heap *const heaps[] = {runtime->cyclic, runtime->acyclic, runtime->memory};
    for (size_t i = 0; i < COUNT(heaps); i++)
        before += stats_of(heaps[i]).allocated_blocks;
    hk_decref(runtime, &thing->head);
    for (size_t i = 0; i < COUNT(heaps); i++)
        after += stats_of(heaps[i]).allocated_blocks;
    assert_int_equal(called, N);
    assert_int_equal(after, before);
    for (int i = 0; i < N; i++)
        hk_decref(runtime, weak[i]);
}

/* The order in which an object gives up its references is nobody's business: the callback is called, or the weak reference was
 * gone before. */
static void test_weakref_subclass_refs_with_cycle(void **state)
{
    for (int order = 0; order < 2; order++) {
        struct thing *owner = thing_new(), *object = thing_new();
        hk_object *weak = weak_to(object, say_argument, "called");
        owner->a = order ? weak : &object->head;
        owner->b = order ? &object->head : weak;
        hk_decref(runtime, &owner->head);
        assert_true(said_text[0] == '\0' || strcmp(said_text, "called") == 0);
        said_text[0] = '\0';
        assert_int_equal(live_blocks(), 0);
    }
}

static void test_weakref_finalize_order(void **state)
{
    struct thing *thing = thing_new();
    static const char *const names[] = {"f1", "f2", "f3", "f4", "f5"};
    hk_object *weak[5];
    for (int i = 0; i < 5; i++)
        weak[i] = weak_to(thing, say_argument, names[i]);
    hk_decref(runtime, weak[4]); /* given up: not called */
    hk_decref(runtime, weak[2]);
    hk_decref(runtime, &thing->head);
    assert_said("f4 f2 f1");
    for (int i = 0; i < 4; i++)
        if (i != 2)
            hk_decref(runtime, weak[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        QUIET(test_finalization_simple),
        QUIET(test_finalization_simple_resurrect),
        QUIET(test_finalization_non_gc),
        QUIET(test_finalization_non_gc_resurrect),
        QUIET(test_finalization_self_cycle_simple),
        QUIET(test_finalization_self_cycle_simple_resurrect),
        QUIET(test_finalization_self_cycle_simple_suicide),
        QUIET(test_finalization_homogenous),
        QUIET(test_finalization_homogenous_resurrect),
        QUIET(test_finalization_homogenous_suicidal),
        QUIET(test_finalization_heterogenous_suicidal_one),
        QUIET(test_finalization_heterogenous_suicidal_two),
        QUIET(test_finalization_heterogenous_resurrect_one),
        QUIET(test_finalization_heterogenous_resurrect_two),
        QUIET(test_finalization_heterogenous_resurrect_three),
        QUIET(test_weakref_basic_ref),
        QUIET(test_weakref_basic_callback),
        QUIET(test_weakref_multiple_callbacks),
        QUIET(test_weakref_multiple_selfref_callbacks),
        QUIET(test_weakref_ref_reuse),
        QUIET(test_weakref_getweakrefcount),
        QUIET(test_weakref_sf_bug_840829),
        QUIET(test_weakref_callback_in_cycle),
        QUIET(test_weakref_callback_reachable_one_way),
        QUIET(test_weakref_callback_in_cycle_resurrection),
        QUIET(test_weakref_callbacks_on_callback),
        QUIET(test_weakref_gc_during_ref_creation),
        QUIET(test_weakref_ref_created_during_del),
        QUIET(test_weakref_equality),
        QUIET(test_weakref_hashing),
        QUIET(test_weakref_trashcan_16602),
        QUIET(test_weakref_callback_gcs),
        QUIET(test_weakref_no_memory_when_clearing),
        QUIET(test_weakref_subclass_refs_with_cycle),
        QUIET(test_weakref_finalize_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
