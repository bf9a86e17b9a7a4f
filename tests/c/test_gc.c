/* The collector against an oracle: random programs make, link, unlink and drop objects; a plain reachability search over a
 * shadow of the graph says which must live. None may die that is reachable, and after a full collection none may live that is
 * not. */
#include "heap_helper.h"

#include "heapkeeper/gc.h"
#include "heapkeeper/values.h"
#include "object/runtime.h"

enum { SLOTS = 4, MAX = 4096 };

struct thing {
    hk_object head;
    hk_object *slots[3]; /* found by `pointers` */
    hk_object *traversed;
    int id;
};

struct pair { /* plain: nobody is called when one dies */
    hk_object head;
    hk_object *a, *b;
};

static hk_type pair_type = {.name = "pair", .size = sizeof(struct pair), .pointers = 6};

struct image {
    struct thing *object; /* NULL: dead */
    int slots[SLOTS];     /* ids; -1: none */
    int roots;            /* references that the program holds */
    bool saves;           /* its finalizer makes a root */
    bool finalized;
};

static struct world {
    hk_runtime *runtime;
    struct image images[MAX];
    int count;
    uint64_t random;
    int kept[MAX], kept_count; /* made roots by finalizers since the oracle last looked */
} world;

static void thing_traverse(const hk_object *self, hk_traversal *traversal)
{
    hk_visit(traversal, ((const struct thing *)self)->traversed);
}

static void thing_destroy(hk_runtime *runtime, hk_object *self)
{
    world.images[((struct thing *)self)->id].object = NULL;
}

static int below(int limit);
static bool count_object(hk_object *object, void *count);

static void thing_finalize(hk_runtime *runtime, hk_object *self)
{
    int id = ((struct thing *)self)->id, count = 0;
    assert_false(world.images[id].finalized);
    world.images[id].finalized = true;
    if (below(8) == 0) /* others may be dying, of whom the collector must not hear */
        hk_gc_collect(runtime, below(3));
    if (below(8) == 0)
        hk_gc_get_objects(runtime, -1, count_object, &count);
    if (world.images[id].saves) {
        hk_incref(self);
        world.kept[world.kept_count++] = id;
    }
}

static hk_type plain_type = {.name = "plain", .size = sizeof(struct thing), .pointers = 14, .traverse = thing_traverse,
                             .destroy = thing_destroy};
static hk_type careful_type = {.name = "careful", .size = sizeof(struct thing), .pointers = 14, .traverse = thing_traverse,
                               .finalize = thing_finalize, .destroy = thing_destroy};

static int below(int limit)
{
    return (int)(random_next(&world.random) % (uint64_t)limit);
}

static hk_object **slot_of(struct thing *thing, int slot)
{
    return slot < 3 ? &thing->slots[slot] : &thing->traversed;
}

/* What a slot refers to may have a plain object in between. */
static const struct thing *thing_of(const hk_object *child)
{
    while (child != NULL && hk_is(child, &pair_type))
        child = ((const struct pair *)child)->a;
    return (const struct thing *)child;
}

static int pick_alive(void)
{
    for (int tries = 0; tries < 50 && world.count > 0; tries++) {
        int id = below(world.count);
        if (world.images[id].roots > 0) /* what the program can get at: a root, or from one step further */
            return id;
    }
    return -1;
}

static int pick_reachable(void)
{
    int id = pick_alive();
    for (int steps = below(4); id >= 0 && steps > 0; steps--) {
        int next = world.images[id].slots[below(SLOTS)];
        if (next >= 0)
            id = next;
    }
    return id;
}

static void mark(bool *reached, int id)
{
    static int stack[MAX * SLOTS];
    int top = 0;
    stack[top++] = id;
    while (top > 0) {
        id = stack[--top];
        if (reached[id])
            continue;
        reached[id] = true;
        for (int slot = 0; slot < SLOTS; slot++)
            if (world.images[id].slots[slot] >= 0)
                stack[top++] = world.images[id].slots[slot];
    }
}

static void oracle(bool after_full)
{
    static bool reached[MAX];
    memset(reached, 0, sizeof(reached));
    for (int i = 0; i < world.kept_count; i++)
        world.images[world.kept[i]].roots++;
    world.kept_count = 0;
    for (int id = 0; id < world.count; id++)
        if (world.images[id].roots > 0)
            mark(reached, id);
    for (int id = 0; id < world.count; id++) {
        struct thing *thing = world.images[id].object;
        if (reached[id])
            assert_non_null(thing);
        else if (after_full)
            assert_null(thing);
        if (thing == NULL)
            continue;
        assert_int_equal(thing->id, id);
        for (int slot = 0; slot < SLOTS; slot++) {
            const struct thing *child = thing_of(*slot_of(thing, slot));
            assert_int_equal(child != NULL ? child->id : -1, world.images[id].slots[slot]);
        }
    }
}

static void step_make(bool finalizers)
{
    if (world.count == MAX)
        return;
    int id = world.count++;
    bool careful = finalizers && below(4) == 0;
    struct thing *thing = (struct thing *)hk_new(world.runtime, careful ? &careful_type : &plain_type);
    assert_non_null(thing);
    thing->id = id;
    world.images[id] = (struct image){.object = thing, .slots = {-1, -1, -1, -1}, .roots = 1,
                                        .saves = careful && below(3) == 0};
}

static void step_link(void)
{
    int from = pick_reachable(), to = pick_reachable();
    if (from < 0 || to < 0)
        return;
    int slot = below(SLOTS);
    world.images[from].slots[slot] = to;
    hk_object *child = hk_incref(&world.images[to].object->head);
    for (int pairs = below(3); pairs > 0; pairs--) {
        struct pair *pair = (struct pair *)hk_new(world.runtime, &pair_type);
        assert_non_null(pair);
        pair->a = child;
        child = &pair->head;
    }
    hk_set(world.runtime, slot_of(world.images[from].object, slot), child);
}

static void step_unlink(void)
{
    int from = pick_reachable(), slot = below(SLOTS);
    if (from < 0)
        return;
    world.images[from].slots[slot] = -1;
    hk_set(world.runtime, slot_of(world.images[from].object, slot), NULL);
}

static void step_drop(void)
{
    int id = pick_alive();
    if (id < 0)
        return;
    world.images[id].roots--;
    hk_decref(world.runtime, &world.images[id].object->head);
}

/* A hub with more references than a byte counts, which then becomes garbage with them, or does not. */
static void step_hub(void)
{
    int hub = pick_alive();
    if (hub < 0 || world.count + 300 > MAX)
        return;
    for (int i = 0; i < 255 + below(4); i++) {
        step_make(false);
        int id = world.count - 1;
        world.images[id].slots[0] = hub;
        world.images[id].object->slots[0] = hk_incref(&world.images[hub].object->head);
        int before = i == 0 ? hub : id - 1;
        world.images[before].slots[3] = id;
        world.images[id].roots = 0;
        hk_set(world.runtime, &world.images[before].object->traversed, &world.images[id].object->head);
    }
}

static void random_program(uint64_t seed, int steps, bool finalizers)
{
    memset(&world, 0, sizeof(world));
    world.random = seed;
    world.runtime = hk_runtime_create(NULL);
    assert_non_null(world.runtime);
    hk_gc_set_threshold(world.runtime, 0, 1 + (uint32_t)below(200));
    for (int step = 0; step < steps; step++) {
        int kind = below(1000);
        if (kind < 300)
            step_make(finalizers);
        else if (kind < 600)
            step_link();
        else if (kind < 700)
            step_unlink();
        else if (kind < 990)
            step_drop();
        else if (kind < 992)
            step_hub();
        else if (kind < 997)
            hk_gc_collect(world.runtime, below(3));
        else
            oracle(false);
        for (int i = 0; i < world.kept_count; i++)
            world.images[world.kept[i]].roots++;
        world.kept_count = 0;
    }
    oracle(false);
    /* Each collection may run finalizers that save; each saves once. */
    for (int i = 0; finalizers && i < 3; i++) {
        hk_gc_collect(world.runtime, 2);
        oracle(false);
    }
    while (hk_gc_collect(world.runtime, 2) > 0)
        oracle(false);
    oracle(true);
    for (int id = 0; id < world.count; id++)
        for (; world.images[id].roots > 0; world.images[id].roots--)
            hk_decref(world.runtime, &world.images[id].object->head);
    while (hk_gc_collect(world.runtime, 2) > 0 || world.kept_count > 0)
        while (world.kept_count > 0)
            hk_decref(world.runtime, &world.images[world.kept[--world.kept_count]].object->head);
    for (int id = 0; id < world.count; id++)
        assert_null(world.images[id].object);
    hk_heap_stats stats = {.size = sizeof(stats)};
    hk_heap_get_stats(world.runtime->cyclic, &stats);
    assert_int_equal(stats.live_blocks, 0);
    assert_int_equal(hk_heap_check(NULL), 0);
    hk_runtime_destroy(world.runtime);
}

static void test_random_programs_agree_with_the_oracle(void **state)
{
    for (int seed = 1; seed <= rounds(300); seed++)
        random_program((uint64_t)seed, 6000, false);
}

static void test_random_programs_with_finalizers_agree_with_the_oracle(void **state)
{
    for (int seed = 1; seed <= rounds(300); seed++)
        random_program((uint64_t)seed + 1000000, 6000, true);
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

static bool count_object(hk_object *object, void *count)
{
    ++*(int *)count;
    return true;
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

/* Counts have seven bits: a multiple of 128 references looks like none that are left. */
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
