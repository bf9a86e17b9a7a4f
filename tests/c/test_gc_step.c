/* Collections in steps: random programs with steps between everything that they do agree with the oracle; and what a round promises. */
#include "gc_oracle.h"

static void test_random_programs_in_steps_agree_with_the_oracle(void **state)
{
    for (int seed = 1; seed <= seeds(200); seed++)
        random_program((uint64_t)seed + 2000000, operations(), false, true);
}

static void test_two_runtimes_that_step_in_turn_agree_with_their_oracles(void **state)
{
    for (int seed = 1; seed <= seeds(60); seed++)
        random_pair((uint64_t)seed + 4000000, operations() / 4);
}

static void test_random_programs_with_finalizers_in_steps_agree_with_the_oracle(void **state)
{
    for (int seed = 1; seed <= seeds(200); seed++)
        random_program((uint64_t)seed + 3000000, operations(), true, true);
}

/* --- one round --- */

static hk_runtime *runtime;

static int begin(void **state)
{
    runtime = hk_runtime_create(&(hk_runtime_options){.size = sizeof(hk_runtime_options), .manual_gc = true});
    return runtime == NULL;
}

static int end(void **state)
{
    hk_gc_collect(runtime, 2);
    hk_free_lists_trim(runtime);
    hk_watch_let_go(runtime);
    hk_heap_stats stats = {.size = sizeof(stats)};
    hk_heap_get_stats(runtime->cyclic, &stats);
    bool clean = stats.live_blocks == 0 && hk_heap_check(NULL) == 0;
    hk_runtime_destroy(runtime);
    return !clean;
}

#define EACH(test) cmocka_unit_test_setup_teardown(test, begin, end)

static struct pair *pair_new(void)
{
    struct pair *pair = (struct pair *)hk_new(runtime, &pair_type);
    assert_non_null(pair);
    return pair;
}

static struct pair *self_cycle(void)
{
    struct pair *pair = pair_new();
    pair->a = hk_incref(&pair->head);
    return pair;
}

static hk_gc_step_stats step_stats(void)
{
    hk_gc_step_stats stats = {.size = sizeof(stats)};
    hk_gc_get_step_stats(runtime, &stats);
    return stats;
}

static int objects(void)
{
    int count = 0;
    hk_gc_get_objects(runtime, -1, count_object, &count);
    return count;
}

/* In the smallest steps; returns how many there were. */
static int round_of_steps(void)
{
    int steps = 1, result;
    for (; (result = hk_gc_step(runtime, 0)) == 0; steps++)
        assert_in_range(steps, 0, 10000000);
    assert_int_equal(result, 1);
    return steps;
}

static void test_a_round_frees_all_that_was_garbage_when_it_began(void **state)
{
    enum { N = 20000 };
    struct pair *stays = self_cycle(), *last = NULL;
    for (int i = 0; i < N; i++) { /* a chain of cycles: each dies with the one before */
        struct pair *pair = self_cycle();
        pair->b = (hk_object *)last;
        last = pair;
    }
    hk_decref(runtime, &last->head);
    assert_in_range(round_of_steps(), N / 512, INT32_MAX);
    assert_int_equal(objects(), 1);
    assert_int_equal(step_stats().freed, N);
    assert_int_equal(step_stats().largest_component, 1);
    assert_int_equal(step_stats().rounds, 1);
    hk_decref(runtime, &stays->head);
}

static void test_a_component_is_freed_in_one_step_and_its_size_is_reported(void **state)
{
    enum { N = 5000 };
    struct pair *first = pair_new(), *last = first;
    for (int i = 1; i < N; i++) {
        struct pair *pair = pair_new();
        last->a = &pair->head;
        pair->b = hk_incref(&last->head);
        last = pair;
    }
    hk_decref(runtime, &first->head);
    int most = 0, result;
    do {
        int before = objects();
        result = hk_gc_step(runtime, 0);
        most = before - objects() > most ? before - objects() : most;
    } while (result == 0);
    assert_int_equal(most, N);
    assert_int_equal(step_stats().largest_component, N);
    assert_int_equal(objects(), 0);
}

/* However a program moves its only reference about between steps, what it leads to lives. */
static void test_what_moves_between_the_program_and_its_objects_during_a_round_lives(void **state)
{
    enum { N = 3000 };
    struct pair *holders[2] = {self_cycle(), NULL};
    struct pair *tree = pair_new();
    for (int i = 0; i < N; i++) {
        struct pair *pair = pair_new();
        pair->a = &tree->head;
        pair->b = hk_incref(&pair->head);
        tree = pair;
    }
    holders[1] = self_cycle();
    hk_object *moving = &tree->head;
    for (int round = 0; round < 4; round++)
        for (int i = 0, result = 0; result == 0; i++) {
            result = hk_gc_step(runtime, 0);
            assert_in_range(result, 0, 1);
            if (i % 3 == 0 && moving != NULL) {
                holders[i % 2]->b = moving;
                moving = NULL;
            } else if (moving == NULL) {
                for (int j = 0; j < 2; j++)
                    if (holders[j]->b != NULL) {
                        moving = holders[j]->b;
                        holders[j]->b = NULL;
                    }
            }
        }
    if (moving == NULL) {
        moving = holders[0]->b != NULL ? holders[0]->b : holders[1]->b;
        holders[0]->b = holders[1]->b = NULL;
    }
    int length = 0;
    for (struct pair *pair = (struct pair *)moving; pair->a != NULL; pair = (struct pair *)pair->a)
        length++;
    assert_int_equal(length, N);
    assert_int_equal(step_stats().freed, 0);
    hk_decref(runtime, moving);
    hk_decref(runtime, &holders[0]->head);
    hk_decref(runtime, &holders[1]->head);
    round_of_steps();
    round_of_steps();
    assert_int_equal(objects(), 0);
}

/* References from outside that are a multiple of what a pass counts with look like none; a large heap that hangs from there would be
 * checked in one piece. */
static void test_multiples_of_128_references_from_outside_are_seen(void **state)
{
    enum { N = 4000 };
    struct pair *hub = self_cycle(), *last = hub;
    for (int i = 1; i < N; i++) {
        struct pair *pair = pair_new();
        last->b = &pair->head;
        pair->a = hk_incref(&last->head);
        last = pair;
    }
    for (int i = 1; i < 256; i++)
        hk_incref(&hub->head);
    round_of_steps();
    assert_int_equal(step_stats().checked, 0);
    hk_make_immortal(runtime, &hub->head);
    round_of_steps();
    assert_int_equal(step_stats().checked, 0);
    hub->head.references = 3; /* the program's, its own, and the second's */
    hk_decref(runtime, &hub->head);
    round_of_steps();
    assert_int_equal(objects(), 0);
}

static void test_graphs_wider_than_the_stack_are_reached_whole(void **state)
{
    enum { N = 3 * HK_GC_STEP_STACK };
    hk_object *list = hk_list(runtime);
    for (int i = 0; i < N; i++) {
        struct pair *pair = pair_new(), *leaf = self_cycle();
        pair->a = &leaf->head;
        pair->b = hk_incref(list);
        assert_true(hk_list_append(runtime, list, &pair->head));
        hk_decref(runtime, &pair->head);
    }
    round_of_steps();
    assert_int_equal(runtime->step.pass, 0); /* the next would have found what the first had missed */
    assert_int_equal(step_stats().checked, 0);
    assert_int_equal(objects(), 2 * N + 1);
    hk_decref(runtime, list);
    round_of_steps();
    assert_int_equal(objects(), 0);
}

static void test_frozen_objects_are_not_looked_at_even_if_they_were_frozen_during_a_round(void **state)
{
    enum { N = 2000 };
    for (int i = 0; i < N; i++)
        hk_decref(runtime, &self_cycle()->head);
    for (int i = 0; i < 20; i++)
        assert_int_equal(hk_gc_step(runtime, 0), 0);
    hk_gc_freeze(runtime);
    round_of_steps();
    round_of_steps();
    assert_int_equal(hk_gc_frozen_count(runtime), N);
    hk_gc_unfreeze(runtime);
    round_of_steps();
    assert_int_equal(objects(), 0);
}

static void test_full_collections_during_a_round_leave_it_nothing_to_look_at(void **state)
{
    enum { N = 2000 };
    for (int steps = 1; steps < 200; steps += 9) { /* the collection comes in each phase */
        for (int i = 0; i < N; i++) {
            struct pair *pair = self_cycle();
            pair->b = &self_cycle()->head;
            hk_decref(runtime, &pair->head);
        }
        hk_gc_step_stats before = step_stats();
        int result = 0;
        for (int i = 0; result == 0 && i < steps; i++)
            result = hk_gc_step(runtime, 0);
        assert_true(hk_gc_collect(runtime, 2) >= 0);
        assert_int_equal(objects(), 0);
        while (result == 0)
            result = hk_gc_step(runtime, 0);
        assert_int_equal(result, 1);
        hk_gc_step_stats after = step_stats();
        assert_int_equal(after.checked - before.checked, after.freed - before.freed);
    }
}

static void test_saved_garbage_is_kept_by_steps_too(void **state)
{
    for (int i = 0; i < 10; i++)
        hk_decref(runtime, &self_cycle()->head);
    hk_gc_set_save_all(runtime, true);
    round_of_steps();
    int count = 0;
    hk_gc_garbage(runtime, count_object, &count);
    assert_int_equal(count, 10);
    assert_int_equal(objects(), 10);
    hk_gc_set_save_all(runtime, false);
    hk_gc_garbage_clear(runtime);
    round_of_steps();
    assert_int_equal(objects(), 0);
}

/* A heap grows, and makes garbage that young collections do not find: without steps, full ones start by themselves. */
static uint64_t fulls_of_a_program(bool stepped)
{
    enum { OLD = 4000 };
    static struct pair *old[OLD];
    hk_gc_stats before, after;
    struct pair *live = NULL;
    memset(old, 0, sizeof(old));
    hk_gc_get_stats(runtime, 2, &before);
    for (int i = 0; i < 300000; i++) {
        struct pair *pair = self_cycle(), **place = &old[i % OLD];
        if (*place != NULL)
            hk_decref(runtime, &(*place)->head);
        *place = pair;
        pair = pair_new();
        pair->a = (hk_object *)live;
        live = pair;
        if (stepped && i % 5000 == 0)
            round_of_steps();
    }
    hk_gc_get_stats(runtime, 2, &after);
    hk_decref(runtime, &live->head);
    for (int i = 0; i < OLD; i++)
        hk_decref(runtime, &old[i]->head);
    return after.collections - before.collections;
}

static void test_rounds_stand_for_full_collections(void **state)
{
    hk_gc_enable(runtime);
    hk_gc_set_threshold(runtime, 1, 0);
    assert_int_equal(fulls_of_a_program(true), 0);
    hk_gc_collect(runtime, 2);
    assert_in_range(fulls_of_a_program(false), 1, 100);
}

/* --- the dead of a collection are seen by nobody --- */

struct knot {
    hk_object head;
    hk_object *gone, *looks, *other;
};

static int seen_count, referrers_seen;

static void look(hk_runtime *unused, hk_object *self)
{
    hk_gc_get_objects(runtime, -1, count_object, &seen_count);
    hk_gc_get_referrers(runtime, self, count_object, &referrers_seen);
}

static void ignore(hk_runtime *unused, hk_object *self)
{
}

static hk_type knot_type = {.name = "knot", .size = sizeof(struct knot), .pointers = 14, .destroy = ignore};
static hk_type leaf_type = {.name = "leaf", .size = 64, .flags = HK_TYPE_ACYCLIC};
static hk_type looks_type = {.name = "looks", .size = 64, .flags = HK_TYPE_ACYCLIC, .finalize = look};

static struct knot *knot_new(void)
{
    struct knot *knot = (struct knot *)hk_new(runtime, &knot_type);
    assert_non_null(knot);
    knot->gone = hk_new(runtime, &leaf_type);
    knot->looks = hk_new(runtime, &looks_type);
    return knot;
}

/* When the finalizer of the second runs, the first is freed already, and the reference to it still stands there. */
static void test_finalizers_do_not_see_the_dead_whose_references_are_given_up(void **state)
{
    for (int stepped = 0; stepped < 2; stepped++) {
        struct pair *stays = self_cycle();
        struct knot *a = knot_new(), *b = knot_new();
        a->other = &b->head;
        b->other = hk_incref(&a->head);
        hk_decref(runtime, &a->head);
        seen_count = referrers_seen = 0;
        if (stepped)
            round_of_steps();
        else
            assert_int_equal(hk_gc_collect(runtime, 2), 2);
        assert_int_equal(seen_count, 2); /* the one that stays, twice */
        assert_int_equal(referrers_seen, 0);
        hk_decref(runtime, &stays->head);
        hk_gc_collect(runtime, 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_programs_in_steps_agree_with_the_oracle),
        cmocka_unit_test(test_random_programs_with_finalizers_in_steps_agree_with_the_oracle),
        cmocka_unit_test(test_two_runtimes_that_step_in_turn_agree_with_their_oracles),
        EACH(test_a_round_frees_all_that_was_garbage_when_it_began),
        EACH(test_a_component_is_freed_in_one_step_and_its_size_is_reported),
        EACH(test_what_moves_between_the_program_and_its_objects_during_a_round_lives),
        EACH(test_multiples_of_128_references_from_outside_are_seen),
        EACH(test_graphs_wider_than_the_stack_are_reached_whole),
        EACH(test_frozen_objects_are_not_looked_at_even_if_they_were_frozen_during_a_round),
        EACH(test_full_collections_during_a_round_leave_it_nothing_to_look_at),
        EACH(test_saved_garbage_is_kept_by_steps_too),
        EACH(test_rounds_stand_for_full_collections),
        EACH(test_finalizers_do_not_see_the_dead_whose_references_are_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
