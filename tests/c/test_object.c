/* Objects, references, weak references, finalizers: what dies when, and in which order. */
#include "heap_helper.h"

#include "heapkeeper/gc.h"
#include "object/runtime.h"

struct node { /* says its number when it dies */
    hk_object head;
    hk_object *left, *right;
    int number;
};

static int deaths[64], deaths_count;

static void note_death(hk_runtime *runtime, hk_object *self)
{
    if (deaths_count < (int)COUNT(deaths))
        deaths[deaths_count] = ((struct node *)self)->number;
    deaths_count++;
}

static hk_type node_type = {.name = "node", .size = sizeof(struct node), .pointers = 6, .destroy = note_death};

static struct node *node_new(hk_runtime *runtime, int number)
{
    struct node *node = (struct node *)hk_new(runtime, &node_type);
    assert_non_null(node);
    node->number = number;
    return node;
}

static hk_runtime *fresh(void)
{
    hk_runtime *runtime = hk_runtime_create(&(hk_runtime_options){.size = sizeof(hk_runtime_options), .manual_gc = true});
    assert_non_null(runtime);
    deaths_count = 0;
    return runtime;
}

static void end(hk_runtime *runtime)
{
    assert_int_equal(hk_heap_check(NULL), 0);
    hk_runtime_destroy(runtime);
    assert_int_equal(hk_heap_check(NULL), 0);
}

static void test_object_dies_with_its_last_reference_and_takes_along_what_only_it_keeps(void **state)
{
    hk_runtime *runtime = fresh();
    struct node *parent = node_new(runtime, 1), *child = node_new(runtime, 2), *shared = node_new(runtime, 3);
    parent->left = &child->head;
    parent->right = hk_incref(&shared->head);
    hk_incref(&parent->head);
    hk_decref(runtime, &parent->head);
    assert_int_equal(deaths_count, 0);
    hk_decref(runtime, &parent->head);
    assert_int_equal(deaths_count, 2);
    assert_int_equal(shared->head.references, 1);
    hk_decref(runtime, &shared->head);
    assert_int_equal(deaths_count, 3);
    end(runtime);
}

static void test_new_objects_are_zero_behind_their_head(void **state)
{
    hk_runtime *runtime = fresh();
    static hk_type wide = {.name = "wide", .size = 24, .item_size = 8};
    for (int round = 0; round < 3; round++)
        for (size_t count = 0; count < 500; count += 7) {
            hk_object *object = hk_new_items(runtime, &wide, count);
            assert_non_null(object);
            for (size_t i = sizeof(hk_object); i < 24 + 8 * count; i++)
                assert_int_equal(((char *)object)[i], 0);
            memset((char *)object + sizeof(hk_object), 0xee, 24 + 8 * count - sizeof(hk_object));
            hk_decref(runtime, object);
        }
    end(runtime);
}

static void test_immortal_object_survives_any_number_of_decrefs(void **state)
{
    hk_runtime *runtime = fresh();
    struct node *node = node_new(runtime, 1);
    hk_make_immortal(runtime, &node->head);
    for (int i = 0; i < 1000; i++)
        hk_decref(runtime, &node->head);
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
    assert_int_equal(deaths_count, 0);
    end(runtime);
    assert_int_equal(deaths_count, 1);
}

/* On a small stack of its own, so that recursion would be seen. */
static void *release_long_structures(void *argument)
{
    hk_runtime *runtime = fresh();
    int count = rounds(10 * 1000 * 1000);
    struct node *list = NULL, *tree = NULL, *cycle = NULL, *first = NULL;
    for (int i = 0; i < count; i++) {
        struct node *node = node_new(runtime, i);
        node->left = list != NULL ? &list->head : NULL;
        list = node;
    }
    hk_decref(runtime, &list->head);
    assert_int_equal(deaths_count, count);
    for (int i = 0; i < count; i++) { /* a comb: a leaf at each step */
        struct node *node = node_new(runtime, i);
        node->left = tree != NULL ? &tree->head : NULL;
        node->right = &node_new(runtime, i)->head;
        tree = node;
    }
    hk_decref(runtime, &tree->head);
    assert_int_equal(deaths_count, 3 * count);
    for (int i = 0; i < count; i++) {
        struct node *node = node_new(runtime, i);
        node->left = cycle != NULL ? &cycle->head : NULL;
        cycle = node;
        if (first == NULL)
            first = node;
    }
    first->left = &cycle->head;
    assert_int_equal(hk_gc_collect(runtime, 2), count);
    assert_int_equal(deaths_count, 4 * count);
    end(runtime);
    return NULL;
}

static void test_ten_million_objects_are_released_on_a_small_stack(void **state)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, IS_SANITIZED ? 512 << 10 : 128 << 10);
    assert_int_equal(pthread_create(&thread, &attributes, release_long_structures, NULL), 0);
    pthread_join(thread, NULL);
}

struct wide {
    hk_object head;
    hk_object *children[60];
};

static struct wide *wide_new(hk_runtime *runtime, int depth)
{
    static hk_type wide_type = {.name = "wide", .size = sizeof(struct wide), .pointers = (((uint64_t)1 << 60) - 1) << 1};
    struct wide *wide = (struct wide *)hk_new(runtime, &wide_type);
    assert_non_null(wide);
    for (int i = 0; depth > 0 && i < 60; i++)
        wide->children[i] = &wide_new(runtime, depth - 1)->head;
    return wide;
}

/* More of them than a release has room for at a time wait in a chain. */
static void test_plain_objects_with_many_children_are_released_with_all_of_them(void **state)
{
    hk_runtime *runtime = fresh();
    for (int depth = 0; depth <= 3; depth++) {
        hk_decref(runtime, &wide_new(runtime, depth)->head);
        assert_int_equal(stats_of(runtime->cyclic).live_blocks, 0);
    }
    end(runtime);
}

/* --- finalizers --- */

static int finalized;
static hk_object *saved;

static void finalize_and_count(hk_runtime *runtime, hk_object *self)
{
    finalized++;
}

static void finalize_and_save(hk_runtime *runtime, hk_object *self)
{
    finalized++;
    saved = hk_incref(self);
}

static hk_type counted_type = {.name = "counted", .size = sizeof(struct node), .pointers = 6, .finalize = finalize_and_count,
                               .destroy = note_death};
static hk_type saved_type = {.name = "saved", .size = sizeof(struct node), .pointers = 6, .finalize = finalize_and_save,
                             .destroy = note_death};

static void test_finalizer_runs_once_even_if_it_saves_the_object(void **state)
{
    hk_runtime *runtime = fresh();
    finalized = 0;
    hk_object *object = hk_new(runtime, &saved_type);
    hk_decref(runtime, object);
    assert_int_equal(finalized, 1);
    assert_int_equal(deaths_count, 0);
    assert_true(hk_gc_is_finalized(saved));
    hk_decref(runtime, saved);
    assert_int_equal(finalized, 1);
    assert_int_equal(deaths_count, 1);
    end(runtime);
}

static void test_cycle_that_a_finalizer_saves_lives_whole_and_dies_later_without_it(void **state)
{
    hk_runtime *runtime = fresh();
    finalized = 0;
    struct node *a = (struct node *)hk_new(runtime, &saved_type), *b = node_new(runtime, 2), *c = node_new(runtime, 3);
    a->left = &b->head;
    b->left = &c->head;
    c->left = &a->head;
    assert_int_equal(hk_gc_collect(runtime, 0), 3);
    assert_int_equal(finalized, 1);
    assert_int_equal(deaths_count, 0);
    assert_ptr_equal(((struct node *)((struct node *)((struct node *)saved)->left)->left)->left, saved);
    hk_decref(runtime, saved);
    assert_int_equal(hk_gc_collect(runtime, 2), 3);
    assert_int_equal(finalized, 1);
    assert_int_equal(deaths_count, 3);
    end(runtime);
}

static void test_end_of_a_runtime_finalizes_each_object_once(void **state)
{
    hk_runtime *runtime = fresh();
    finalized = 0;
    for (int i = 0; i < 10; i++) {
        struct node *node = (struct node *)hk_new(runtime, &counted_type);
        node->left = hk_incref(&node->head);
    }
    end(runtime);
    assert_int_equal(finalized, 10);
    assert_int_equal(deaths_count, 10);
}

/* --- weak references --- */

static int called;

static void count_call(hk_runtime *runtime, hk_object *weakref, void *argument)
{
    called++;
    assert_null(hk_weakref_get(weakref));
    assert_ptr_equal(argument, &called);
}

static void test_weak_reference_is_cleared_and_its_callback_called_when_the_object_dies(void **state)
{
    hk_runtime *runtime = fresh();
    called = 0;
    struct node *node = node_new(runtime, 1);
    hk_object *weak = hk_weakref_new(runtime, &node->head, count_call, &called);
    hk_object *other = hk_weakref_new(runtime, &node->head, NULL, NULL);
    hk_object *gone = hk_weakref_new(runtime, &node->head, count_call, &called);
    assert_int_equal(hk_weakref_count(runtime, &node->head), 3);
    hk_decref(runtime, gone); /* before its object: never called */
    hk_object *strong = hk_weakref_get(weak);
    assert_ptr_equal(strong, node);
    hk_decref(runtime, strong);
    assert_int_equal(called, 0);
    hk_decref(runtime, &node->head);
    assert_int_equal(called, 1);
    assert_null(hk_weakref_get(other));
    hk_decref(runtime, weak);
    hk_decref(runtime, other);
    end(runtime);
}

static void test_callback_of_a_weak_reference_that_is_garbage_itself_is_not_called(void **state)
{
    hk_runtime *runtime = fresh();
    called = 0;
    struct node *a = node_new(runtime, 1), *b = node_new(runtime, 2);
    a->left = &b->head;
    b->left = &a->head;
    a->right = hk_weakref_new(runtime, &b->head, count_call, &called); /* within the cycle */
    hk_object *outside = hk_weakref_new(runtime, &b->head, count_call, &called);
    assert_int_equal(hk_gc_collect(runtime, 2), 3);
    assert_int_equal(called, 1);
    assert_null(hk_weakref_get(outside));
    hk_decref(runtime, outside);
    end(runtime);
}

static void collect_in_callback(hk_runtime *runtime, hk_object *weakref, void *argument)
{
    called++;
    assert_int_equal(hk_gc_collect(runtime, 2), 0);
}

static void test_collection_in_a_callback_leaves_the_dying_object_alone(void **state)
{
    hk_runtime *runtime = fresh();
    called = 0;
    struct node *node = node_new(runtime, 1), *child = node_new(runtime, 2);
    node->left = &child->head;
    node->right = hk_incref(&child->head);
    hk_object *weak = hk_weakref_new(runtime, &node->head, collect_in_callback, NULL);
    hk_decref(runtime, &node->head);
    assert_int_equal(called, 1);
    assert_int_equal(deaths_count, 2);
    hk_decref(runtime, weak);
    end(runtime);
}

static void test_many_weak_references_come_and_go(void **state)
{
    hk_runtime *runtime = fresh();
    enum { N = 3000 };
    static struct node *nodes[N];
    static hk_object *weak[N][3];
    uint64_t random = 7;
    for (int i = 0; i < N; i++) {
        nodes[i] = node_new(runtime, i);
        for (int j = 0; j < 3; j++)
            weak[i][j] = hk_weakref_new(runtime, &nodes[i]->head, NULL, NULL);
    }
    for (int step = 0; step < 4 * N; step++) {
        int i = (int)(random_next(&random) % N), j = (int)(random_next(&random) % 4);
        if (j == 3 && nodes[i] != NULL) {
            hk_decref(runtime, &nodes[i]->head);
            nodes[i] = NULL;
        } else if (j < 3 && weak[i][j] != NULL) {
            hk_object *object = hk_weakref_get(weak[i][j]);
            assert_ptr_equal(object, nodes[i]);
            hk_xdecref(runtime, object);
            hk_decref(runtime, weak[i][j]);
            weak[i][j] = NULL;
        }
        if (nodes[i] != NULL)
            assert_int_equal(hk_weakref_count(runtime, &nodes[i]->head),
                             (weak[i][0] != NULL) + (weak[i][1] != NULL) + (weak[i][2] != NULL));
    }
    end(runtime);
}

/* --- memory beside objects --- */

static void test_memory_beside_objects_keeps_its_content_when_it_is_resized(void **state)
{
    hk_runtime *runtime = fresh();
    unsigned char *memory = NULL;
    size_t size = 0;
    uint64_t random = 3;
    for (int step = 0; step < 3000; step++) {
        size_t next = random_next(&random) % (step % 7 == 0 ? 100000 : 3000);
        unsigned char *moved = hk_memory_resize(runtime, memory, next);
        assert_non_null(moved);
        for (size_t i = 0; i < size && i < next; i++)
            assert_int_equal(moved[i], (unsigned char)(i * 31));
        for (size_t i = 0; i < next; i++)
            moved[i] = (unsigned char)(i * 31);
        memory = moved;
        size = next;
    }
    hk_memory_free(runtime, memory);
    assert_null(hk_memory(runtime, SIZE_MAX));
    assert_non_null(hk_memory(runtime, 1 << 20)); /* left for the runtime's end */
    end(runtime);
}

static void test_impossible_sizes_are_refused(void **state)
{
    hk_runtime *runtime = fresh();
    static hk_type items = {.name = "items", .size = 16, .item_size = 8};
    static hk_type bytes = {.name = "bytes", .size = 16, .item_size = 1, .flags = HK_TYPE_ACYCLIC};
    assert_null(hk_new_items(runtime, &items, SIZE_MAX / 4));
    assert_null(hk_new_items(runtime, &items, PTRDIFF_MAX / 8));
    assert_null(hk_new_items(runtime, &items, (size_t)1 << 40)); /* more than there are addresses for */
    assert_null(hk_new_items(runtime, &bytes, SIZE_MAX - 8));
    hk_object *large = hk_new_items(runtime, &bytes, 1 << 20);
    assert_non_null(large);
    hk_decref(runtime, large);
    assert_non_null(hk_new_items(runtime, &bytes, 1 << 20));
    end(runtime);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_object_dies_with_its_last_reference_and_takes_along_what_only_it_keeps),
        cmocka_unit_test(test_new_objects_are_zero_behind_their_head),
        cmocka_unit_test(test_immortal_object_survives_any_number_of_decrefs),
        cmocka_unit_test(test_ten_million_objects_are_released_on_a_small_stack),
        cmocka_unit_test(test_plain_objects_with_many_children_are_released_with_all_of_them),
        cmocka_unit_test(test_finalizer_runs_once_even_if_it_saves_the_object),
        cmocka_unit_test(test_cycle_that_a_finalizer_saves_lives_whole_and_dies_later_without_it),
        cmocka_unit_test(test_end_of_a_runtime_finalizes_each_object_once),
        cmocka_unit_test(test_weak_reference_is_cleared_and_its_callback_called_when_the_object_dies),
        cmocka_unit_test(test_callback_of_a_weak_reference_that_is_garbage_itself_is_not_called),
        cmocka_unit_test(test_collection_in_a_callback_leaves_the_dying_object_alone),
        cmocka_unit_test(test_many_weak_references_come_and_go),
        cmocka_unit_test(test_memory_beside_objects_keeps_its_content_when_it_is_resized),
        cmocka_unit_test(test_impossible_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
