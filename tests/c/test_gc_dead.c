/* What a collection does with the dead, with graphs that are larger than its stack, and when it is started. */
#include "runtime_helper.h"

struct node {
    hk_object head;
    hk_object *next, *other, *third;
};

static hk_type node_type = {.name = "node", .size = sizeof(struct node), .pointers = 14};

static int destroyed;

static void count_destroyed(hk_runtime *unused, hk_object *self)
{
    destroyed++;
}

static hk_type leaf_type = {.name = "leaf", .size = sizeof(struct node), .flags = HK_TYPE_ACYCLIC, .destroy = count_destroyed};

static struct node *node_new(void)
{
    struct node *node = (struct node *)hk_new(runtime, &node_type);
    assert_non_null(node);
    return node;
}

static hk_object *leaf_new(void)
{
    hk_object *leaf = hk_new(runtime, &leaf_type);
    assert_non_null(leaf);
    return leaf;
}

/* Two nodes that keep each other alive; the first one's second and third places are free. */
static struct node *pair_new(void)
{
    struct node *node = node_new();
    node->next = (hk_object *)node_new();
    ((struct node *)node->next)->next = hk_incref(&node->head);
    return node;
}

static void test_last_references_of_the_dead_to_what_is_outside_are_given_up(void **state)
{
    hk_gc_disable(runtime);
    destroyed = 0;
    enum { N = 2000 };
    for (int i = 0; i < N; i++) {
        struct node *node = pair_new();
        node->other = leaf_new();
        if (i % 3 == 1)
            node->third = hk_incref(node->other);
        if (i % 3 == 2)
            node->third = hk_incref(node->next);
        hk_decref(runtime, &node->head);
    }
    assert_int_equal(hk_gc_collect(runtime, 0), 2 * N);
    assert_int_equal(destroyed, N);
}

static void test_shared_references_to_what_is_outside_are_counted_down(void **state)
{
    hk_gc_disable(runtime);
    hk_object *shared = leaf_new(), *immortal = hk_none();
    enum { N = 1000 };
    for (int i = 0; i < N; i++) {
        struct node *node = pair_new();
        node->other = hk_incref(shared);
        node->third = hk_incref(i % 2 ? shared : immortal);
        hk_decref(runtime, &node->head);
    }
    assert_int_equal(shared->references, 1 + N + N / 2);
    assert_int_equal(hk_gc_collect(runtime, 2), 2 * N);
    assert_int_equal(shared->references, 1);
    assert_true(hk_is_immortal(immortal));
    destroyed = 0;
    hk_decref(runtime, shared);
    assert_int_equal(destroyed, 1);
}

/* Old objects are outside of what a young collection looks at. Their finalizers run when it has freed the young ones. */
static int finalized;

/* What refers to nothing else is freed unread: one reference among thousands has to tell. */
static void test_one_reference_of_thousands_of_dead_to_the_living_is_given_up(void **state)
{
    hk_gc_disable(runtime);
    enum { N = 3000 };
    for (int kind = 0; kind < 3; kind++) {
        struct node *living = node_new();
        if (kind == 2)
            hk_gc_collect(runtime, 2); /* not looked at with the dead */
        for (int i = 0; i < N; i++) {
            struct node *node = pair_new();
            if (kind > 0 && i == N / 2)
                node->third = hk_incref(&living->head);
            hk_decref(runtime, &node->head);
        }
        assert_int_equal(living->head.references, kind > 0 ? 2 : 1);
        assert_int_equal(hk_gc_collect(runtime, 0), 2 * N);
        assert_int_equal(living->head.references, 1);
        hk_decref(runtime, &living->head);
        assert_int_equal(hk_gc_collect(runtime, 2), 0);
    }
}

static void make_and_collect(hk_runtime *one, hk_object *self)
{
    finalized++;
    for (int i = 0; i < 10; i++)
        hk_decref(one, &pair_new()->head);
    assert_int_equal(hk_gc_collect(one, 2), 0); /* one is under way */
}

static hk_type old_type = {.name = "old", .size = sizeof(struct node), .pointers = 14, .finalize = make_and_collect};

static void test_old_objects_whose_last_reference_was_a_young_dead_ones_are_finalized_after_it(void **state)
{
    hk_gc_disable(runtime);
    enum { N = 300 };
    static hk_object *old[N];
    for (int i = 0; i < N; i++) {
        old[i] = hk_new(runtime, &old_type);
        assert_non_null(old[i]);
        ((struct node *)old[i])->next = (hk_object *)node_new();
    }
    hk_gc_collect(runtime, 2);
    for (int i = 0; i < N; i++) {
        struct node *node = pair_new();
        node->other = old[i];
        hk_decref(runtime, &node->head);
    }
    finalized = 0;
    assert_int_equal(hk_gc_collect(runtime, 0), 2 * N);
    assert_int_equal(finalized, N);
    assert_int_equal(hk_gc_collect(runtime, 2), 20 * N);
}

/* Pools in which all, none and some objects die, of current, full and partial ones. */
static void test_dead_among_the_living_leave_a_heap_that_is_whole(void **state)
{
    hk_gc_disable(runtime);
    uint64_t random = 7;
    enum { N = 20000 };
    static hk_object *kept[N];
    int count = 0, expected = 0;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < N / 20; i++) {
            struct node *node = pair_new();
            if (round % 4 != 0 && (round % 4 == 1 || random_next(&random) % 2)) {
                kept[count++] = &node->head;
            } else {
                hk_decref(runtime, &node->head);
                expected += 2;
            }
        }
        if (round % 5 == 4) {
            assert_int_equal(hk_gc_collect(runtime, round % 2 ? 2 : 0), expected);
            assert_int_equal(hk_heap_check(NULL), 0);
            expected = 0;
        }
    }
    for (int i = 0; i < count; i++)
        hk_decref(runtime, kept[i]);
    assert_int_equal(hk_gc_collect(runtime, 2), 2 * count);
    assert_int_equal(live_blocks(), 0);
}

/* A callback looks for the dead in every way that there is. */
static hk_object *others[3];
static int alive, seen;

static bool is_node(hk_object *object, void *unused)
{
    seen += hk_is(object, &node_type);
    return true;
}

static void look_everywhere(hk_runtime *one, hk_object *weak, void *unused)
{
    for (size_t i = 0; i < COUNT(others); i++) {
        hk_object *object = hk_weakref_get(others[i]);
        alive += object != NULL;
        hk_xdecref(one, object);
    }
    hk_gc_get_objects(one, -1, is_node, NULL);
}

static void test_callbacks_find_nothing_that_dies_in_the_same_collection(void **state)
{
    struct node *nodes[3] = {pair_new(), pair_new(), pair_new()};
    alive = seen = 0;
    for (size_t i = 0; i < COUNT(nodes); i++)
        others[i] = hk_weakref_new(runtime, &nodes[i]->head, i == 1 ? NULL : look_everywhere, NULL);
    for (size_t i = 0; i < COUNT(nodes); i++)
        hk_decref(runtime, &nodes[i]->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 6);
    assert_int_equal(alive, 0);
    assert_int_equal(seen, 0);
    for (size_t i = 0; i < COUNT(nodes); i++)
        hk_decref(runtime, others[i]);
}

/* --- larger than the mark stack --- */

static hk_type wide_type = {.name = "wide", .size = 8 + 60 * 8, .pointers = (((uint64_t)1 << 60) - 1) << 1};

/* A tree with many branches, each leaf of which refers to the root. Returns how many objects it has. */
static int bush(hk_object *parent, hk_object *root, int depth)
{
    int count = 1;
    for (int i = 0; i < 60; i++) {
        hk_object *child = hk_new(runtime, depth > 1 ? &wide_type : &node_type);
        assert_non_null(child);
        ((hk_object **)parent)[1 + i] = child;
        if (depth > 1)
            count += bush(child, root, depth - 1);
        else
            ((struct node *)child)->next = hk_incref(root);
        count += depth == 1;
    }
    return count;
}

static void test_graphs_of_any_width_are_reached_whole(void **state)
{
    hk_gc_disable(runtime);
    hk_object *root = hk_new(runtime, &wide_type);
    int count = bush(root, root, 3);
    assert_int_equal(hk_gc_collect(runtime, 0), 0);
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    hk_decref(runtime, root);
    assert_int_equal(hk_gc_collect(runtime, 2), count);
}

static void test_lists_of_any_length_are_reached_whole(void **state)
{
    hk_gc_disable(runtime);
    hk_object *list = hk_list(runtime);
    enum { N = 100000 };
    for (int i = 0; i < N; i++) {
        struct node *node = node_new();
        node->next = hk_incref(list);
        assert_true(hk_list_append(runtime, list, &node->head));
        hk_decref(runtime, &node->head);
    }
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    hk_decref(runtime, list);
    assert_int_equal(hk_gc_collect(runtime, 2), N + 1);
}

/* --- when --- */

struct program { /* as the plan sees it */
    struct hk_plan plan;
    uint64_t live, garbage; /* objects of 48 bytes */
    uint64_t young;         /* of them, garbage since the last collection */
    int collections[3];
    uint64_t most;
};

static void program_collect(struct program *program, int generation, uint64_t made)
{
    uint64_t freed = generation == 2 ? program->garbage : program->young;
    uint64_t candidates = generation == 2 ? program->live + program->garbage : made;
    program->collections[generation]++;
    program->garbage -= freed;
    program->young = 0;
    struct hk_plan_outcome outcome = {generation, candidates, 48 * candidates, freed, 48 * freed};
    hk_plan_learn(&program->plan, &outcome, 0);
}

/* Makes objects, of which `die` of a hundred are garbage at once and as many more that older ones become garbage for as are needed for
 * the program to stay as large as it is. */
static void program_run(struct program *program, uint64_t objects, unsigned die)
{
    for (uint64_t i = 0; i < objects; i++) {
        if (program->plan.left <= 0) {
            int generation = hk_plan_generation(&program->plan, 0);
            if (generation != HK_PLAN_NOTHING)
                program_collect(program, generation, (uint64_t)hk_plan_made(&program->plan));
        }
        program->plan.left--;
        program->garbage++;
        program->young += i % 100 < die;
        if (program->live + program->garbage > program->most)
            program->most = program->live + program->garbage;
    }
}

static void test_young_collections_that_free_most_stay_small_and_do_the_work(void **state)
{
    struct program program = {.live = 100000};
    hk_plan_init(&program.plan);
    program_collect(&program, 2, 0);
    program_run(&program, 1000000, 95);
    assert_int_equal(program.plan.worthwhile[0], HK_PLAN_YOUNG);
    assert_true(program.collections[0] + program.collections[1] > 400);
    assert_in_range(program.collections[2], 0, 3);
}

static void test_young_collections_that_free_little_leave_the_work_to_full_ones(void **state)
{
    struct program program = {.live = 100000};
    hk_plan_init(&program.plan);
    program_collect(&program, 2, 0);
    program_run(&program, 2000000, 20);
    assert_in_range(program.collections[0] + program.collections[1], 1, 40);
    assert_true(program.collections[2] >= 15);
    /* The bound: 1 + growth times what survived, and the young. */
    assert_true(program.most <= 100000 + 100000 / 100 * HK_PLAN_GROWTH + 2 * HK_PLAN_YOUNG);
}

static void test_the_work_of_full_collections_over_a_growing_heap_is_linear(void **state)
{
    struct program program = {0};
    hk_plan_init(&program.plan);
    uint64_t work = 0;
    int fulls = 0;
    for (uint64_t i = 0; i < 20000000; i++) {
        if (program.plan.left <= 0) {
            int generation = hk_plan_generation(&program.plan, 0);
            if (generation != HK_PLAN_NOTHING) {
                program_collect(&program, generation, (uint64_t)hk_plan_made(&program.plan));
                work += generation == 2 ? program.live : 0;
                fulls += generation == 2;
            }
        }
        program.plan.left--;
        program.live++;
    }
    assert_in_range(fulls, 5, 25);
    assert_true(work <= 20000000 / 100 * (100 + 100 * 100 / HK_PLAN_GROWTH));
}

static void test_without_full_collections_young_ones_are_not_put_off_for_ever(void **state)
{
    struct program program = {.live = 100000};
    hk_plan_init(&program.plan);
    program.plan.growth = 0;
    program_run(&program, 1000000, 0);
    assert_int_equal(program.collections[2], 0);
    assert_true(program.collections[0] + program.collections[1] >= 1000000 / (int)(HK_PLAN_YOUNG * HK_PLAN_STRETCH));
}

static void test_steps_keep_young_collections_small_and_leave_the_rest_to_rounds(void **state)
{
    struct program program = {.live = 100000};
    hk_plan_init(&program.plan);
    program_collect(&program, 2, 0);
    program_run(&program, 50000, 20);
    assert_true(program.plan.worthwhile[0] > HK_PLAN_YOUNG);
    int middle = program.collections[1];
    uint64_t young = 0;
    hk_plan_begin_round(&program.plan);
    for (int round = 0; round < 50; round++) {
        int64_t before = (int64_t)hk_plan_object_bytes(&program.plan);
        uint64_t looked_at = 48 * (program.live + program.garbage);
        int collections = program.collections[0];
        program_run(&program, 20000, 20);
        young += (uint64_t)(program.collections[0] - collections);
        hk_plan_freed(&program.plan, program.garbage);
        program.garbage = program.young = 0;
        hk_plan_learn_round(&program.plan, looked_at, (int64_t)hk_plan_object_bytes(&program.plan) - before, 0);
        assert_in_range(hk_plan_object_bytes(&program.plan), 48 * 95000, 48 * 105000);
    }
    assert_in_range(young, 50 * 20000 / HK_PLAN_YOUNG - 50, 50 * 20000 / HK_PLAN_YOUNG);
    assert_int_equal(program.collections[1], middle);
    assert_int_equal(program.collections[2], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(test_last_references_of_the_dead_to_what_is_outside_are_given_up),
        EACH(test_one_reference_of_thousands_of_dead_to_the_living_is_given_up),
        EACH(test_shared_references_to_what_is_outside_are_counted_down),
        EACH(test_old_objects_whose_last_reference_was_a_young_dead_ones_are_finalized_after_it),
        EACH(test_dead_among_the_living_leave_a_heap_that_is_whole),
        EACH(test_callbacks_find_nothing_that_dies_in_the_same_collection),
        EACH(test_graphs_of_any_width_are_reached_whole),
        EACH(test_lists_of_any_length_are_reached_whole),
        cmocka_unit_test(test_young_collections_that_free_most_stay_small_and_do_the_work),
        cmocka_unit_test(test_young_collections_that_free_little_leave_the_work_to_full_ones),
        cmocka_unit_test(test_the_work_of_full_collections_over_a_growing_heap_is_linear),
        cmocka_unit_test(test_without_full_collections_young_ones_are_not_put_off_for_ever),
        cmocka_unit_test(test_steps_keep_young_collections_small_and_leave_the_rest_to_rounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
