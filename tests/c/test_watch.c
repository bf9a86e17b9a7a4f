/* Debug mode of a runtime: each misuse, committed in a child, is named with the object's type, where it was made and, if it is dead,
 * where it died; a program without mistakes runs as without; and without debug mode a misuse does what its function's header says. */
#include "runtime_helper.h"

#include <sys/wait.h>

struct node {
    hk_object head;
    hk_object *next, *other;
};

static hk_type node_type = {.name = "node", .size = sizeof(struct node), .pointers = 6};

static hk_runtime *watched(const char *name)
{
    return hk_runtime_create(
        &(hk_runtime_options){.size = sizeof(hk_runtime_options), .name = name, .manual_gc = true, .debug = HK_DEBUG_ON});
}

static hk_runtime *unwatched(void)
{
    return hk_runtime_create(&(hk_runtime_options){.size = sizeof(hk_runtime_options), .manual_gc = true, .debug = HK_DEBUG_OFF});
}

__attribute__((noinline)) hk_object *make_node(hk_runtime *one);
__attribute__((noinline)) void kill_node(hk_runtime *one, hk_object *node);

hk_object *make_node(hk_runtime *one)
{
    hk_object *node = hk_new(one, &node_type);
    __asm__ volatile("" ::: "memory"); /* no tail call: this function is to be seen in stacks */
    return node;
}

void kill_node(hk_runtime *one, hk_object *node)
{
    hk_decref(one, node);
    __asm__ volatile("" ::: "memory");
}

/* --- mistakes --- */

static void decref_twice(void)
{
    hk_runtime *one = watched("w");
    hk_object *node = make_node(one);
    kill_node(one, node);
    hk_decref(one, node);
}

static void incref_after_death(void)
{
    hk_runtime *one = watched("w");
    hk_object *node = make_node(one);
    kill_node(one, node);
    hk_incref(node);
    hk_gc_collect(one, 2);
}

static void write_after_death(void)
{
    hk_runtime *one = watched("w");
    struct node *node = (struct node *)make_node(one);
    kill_node(one, &node->head);
    node->other = NULL;
    hk_runtime_destroy(one);
}

static void hash_after_death(void)
{
    hk_runtime *one = watched("w");
    hk_object *node = make_node(one);
    kill_node(one, node);
    hk_hash(node);
}

static void one_reference_too_few(void)
{
    hk_runtime *one = watched("w");
    struct node *a = (struct node *)make_node(one), *b = (struct node *)make_node(one);
    b->next = hk_incref(&a->head);
    b->other = &a->head; /* no hk_incref */
    a->head.references--;
    hk_gc_collect(one, 2);
}

static void hold_the_dead(void)
{
    hk_runtime *one = watched("w");
    struct node *a = (struct node *)make_node(one), *b = (struct node *)make_node(one);
    b->next = &a->head; /* no hk_incref */
    kill_node(one, &a->head);
    hk_gc_collect(one, 2);
}

static void give_to_another_runtime(void)
{
    hk_runtime *one = watched("first"), *two = watched("second");
    hk_decref(two, make_node(one));
}

static void refer_to_another_runtime(void)
{
    hk_runtime *one = watched("first"), *two = watched("second");
    struct node *a = (struct node *)make_node(one), *b = (struct node *)hk_new(two, &node_type);
    b->next = &a->head;
    hk_gc_collect(two, 2);
}

static hk_type secret_type = {.name = "secret", .size = sizeof(struct node)};

static void refer_in_secret(void)
{
    hk_runtime *one = watched("w");
    struct node *secret = (struct node *)hk_new(one, &secret_type), *node = (struct node *)make_node(one);
    secret->other = hk_incref(&node->head);
    node->next = &secret->head; /* a cycle that no collection sees */
    hk_decref(one, &node->head);
    hk_gc_collect(one, 2);
    hk_runtime_destroy(one);
}

static void *use(void *one)
{
    make_node(one);
    return NULL;
}

static void use_by_two_threads(void)
{
    hk_runtime *one = watched("w");
    HK_FRAME(one, frame, 1);
    CHILD_CHECK(frame != NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, use, one);
    pthread_join(thread, NULL);
}

static hk_runtime *traversed;

static void make_in_traverse(const hk_object *self, hk_traversal *visitor)
{
    make_node(traversed);
}

static hk_type making_type = {.name = "making", .size = sizeof(struct node), .traverse = make_in_traverse};

static void make_while_traversed(void)
{
    traversed = watched("w");
    hk_new(traversed, &making_type);
    hk_gc_collect(traversed, 1);
}

static void destroy_runtime(hk_runtime *one, hk_object *self)
{
    hk_runtime_destroy(one);
}

static hk_type destroying_type = {.name = "destroying", .size = sizeof(struct node), .finalize = destroy_runtime};

static void destroy_in_finalizer(void)
{
    hk_runtime *one = watched("w");
    hk_decref(one, hk_new(one, &destroying_type));
}

static void pop_twice(void)
{
    static const hk_code code = {"counted", "counted.c", 17};
    hk_runtime *one = watched("w");
    hk_frame *frame = hk_frame_push(one, &code, 1);
    hk_frame_pop(frame);
    hk_frame_pop(frame);
}

static const struct {
    void (*commit)(void);
    const char *first; /* line of the report */
    bool has_object, is_dead;
} mistakes[] = {
    {decref_twice, "use after free: a reference to a \"node\" was given up that has died", true, true},
    {incref_after_death, "use after free: the head was changed of a \"node\" that has died (a reference was taken?)", true, true},
    {write_after_death, "use after free: something was written into a \"node\" that has died", true, true},
    {hash_after_death, "use after free: the hash was wanted of a \"node\" that has died", true, true},
    {one_reference_too_few, "reference count of a \"node\" too small: 1, and other objects have 2", true, false},
    {hold_the_dead, "use after free: a \"node\" refers to a \"node\" that has died", true, true},
    {give_to_another_runtime, "wrong runtime: a \"node\" of runtime \"first\" was given to \"second\"", true, false},
    {refer_to_another_runtime, "wrong runtime: a \"node\" of runtime \"second\" refers to a \"node\" of \"first\"", true, false},
    {refer_in_secret, "missing traverse: a \"node\" lives on, and byte 16 of a \"secret\", that refers to it, is in neither pointers nor "
                      "traverse", true, false},
    {use_by_two_threads, "hk_new: wrong thread: runtime \"w\" is used by thread ", false, false},
    {make_while_traversed, "hk_new: called while objects are gone through, by a traverse function or one of hk_gc_get_objects", false,
     false},
    {destroy_in_finalizer, "hk_runtime_destroy: called by a finalizer, a callback or another function that the runtime is calling",
     false, false},
    {pop_twice, "hk_frame_pop: a frame of \"counted\" (counted.c:17) was popped before", false, false},
};

static void test_each_mistake_ends_the_program_and_names_the_object_with_where_it_was_made(void **state)
{
    static char text[65536], expected[256];
    for (size_t i = 0; i < COUNT(mistakes); i++) {
        int status = run_child(mistakes[i].commit, text, sizeof(text));
        snprintf(expected, sizeof(expected), "heapkeeper: %s", mistakes[i].first);
        const char *made = strstr(text, "\n  allocated by thread "), *died = strstr(text, "\n  freed by thread ");
        bool good = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strncmp(text, expected, strlen(expected)) == 0 &&
                    strstr(text, "\n  found ") != NULL && (made != NULL) == mistakes[i].has_object &&
                    (died != NULL) == mistakes[i].is_dead;
        if (good && made != NULL)
            good = strstr(made, "make_node (") != NULL;
        if (good && died != NULL)
            good = strstr(died, "kill_node (") != NULL;
        if (!good)
            fail_msg("mistake %zu: status %x, and it said:\n%s\ninstead of:\n%s", i, (unsigned)status, text, expected);
    }
}

/* --- no mistakes --- */

static int64_t churn(hk_runtime *one)
{
    uint64_t random = 7;
    int64_t sum = 0;
    hk_object *list = hk_list(one);
    for (int i = 0; i < 30000; i++) { /* more than are kept dead */
        struct node *node = (struct node *)hk_new(one, &node_type);
        node->next = i % 3 ? hk_incref(&node->head) : hk_list(one);
        node->other = i % 5 ? hk_int(one, i) : hk_weakref_new(one, &node->head, NULL, NULL);
        if (random_next(&random) % 4 == 0)
            hk_list_append(one, list, &node->head);
        hk_decref(one, &node->head);
        if (i % 5000 == 0)
            sum += hk_gc_collect(one, i / 5000 % 3);
    }
    hk_object *text = hk_bytes(one, memset(malloc(1 << 16), 1, 1 << 16), 1 << 16);
    sum += (int64_t)hk_bytes_size(text) + (int64_t)hk_list_count(list);
    hk_decref(one, text);
    hk_decref(one, list);
    return sum + hk_gc_collect(one, 2);
}

static void check_programs_agree(void)
{
    hk_runtime *one = watched("w"), *other = unwatched();
    int64_t expected = churn(other);
    CHILD_CHECK(churn(one) == expected && hk_gc_collect(one, 2) == 0);
    CHILD_CHECK(one->watch != NULL && other->watch == NULL);
    hk_runtime_check(one);
    hk_runtime_destroy(one);
    hk_runtime_destroy(other);
    CHILD_CHECK(hk_heap_check(NULL) == 0);
}

static void test_program_without_mistakes_runs_as_without_debug_mode(void **state)
{
    static char text[65536];
    int status = run_child(check_programs_agree, text, sizeof(text));
    if (status != 0 || text[0] != '\0')
        fail_msg("status %x, and it said:\n%s", (unsigned)status, text);
}

static void *use_and_leave(void *one)
{
    hk_decref(one, make_node(one));
    return NULL;
}

static void check_threads_in_turn(void)
{
    hk_runtime *one = watched("w");
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, use_and_leave, one);
        pthread_join(thread, NULL);
        use_and_leave(one);
    }
    hk_runtime_destroy(one);
}

static void test_threads_may_use_a_runtime_in_turn(void **state)
{
    static char text[65536];
    int status = run_child(check_threads_in_turn, text, sizeof(text));
    if (status != 0 || text[0] != '\0')
        fail_msg("status %x, and it said:\n%s", (unsigned)status, text);
}

/* --- without debug mode --- */

static void test_without_debug_mode_popping_a_frame_twice_does_nothing(void **state)
{
    hk_runtime *one = unwatched();
    static const hk_code code = {"outer", "frames.c", 1};
    hk_frame *outer = hk_frame_push(one, &code, 1), *inner = hk_frame_push(one, &code, 2);
    outer->locals[0] = hk_list(one);
    hk_frame_pop(inner);
    hk_frame_pop(inner);
    assert_int_equal(hk_frame_depth(one), 1);
    assert_int_equal(outer->locals[0]->references, 1);
    hk_frame_pop(outer);
    hk_frame_pop(outer);
    hk_frame_pop(inner);
    assert_int_equal(hk_frame_depth(one), 0);
    hk_frame *deep = NULL; /* over the borders of chunks, and back: each is popped twice */
    for (int round = 0; round < 2; round++) {
        hk_frame *frames[1000];
        for (int i = 0; i < 1000; i++)
            assert_non_null(frames[i] = deep = hk_frame_push(one, &code, 10));
        for (int i = 999; i >= 0; i--) {
            hk_frame_pop(frames[i]);
            hk_frame_pop(frames[i]);
            assert_int_equal(hk_frame_depth(one), i);
        }
    }
    hk_runtime_destroy(one);
}

static void test_without_debug_mode_a_runtime_is_not_destroyed_by_its_own_finalizers(void **state)
{
    hk_runtime *one = unwatched();
    hk_decref(one, hk_new(one, &destroying_type));
    struct node *node = (struct node *)hk_new(one, &node_type);
    assert_non_null(node);
    node->next = hk_incref(&node->head);
    hk_decref(one, &node->head);
    assert_int_equal(hk_gc_collect(one, 2), 1);
    hk_runtime_check(one); /* nothing */
    hk_runtime_destroy(one);
    assert_int_equal(hk_heap_check(NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_mistake_ends_the_program_and_names_the_object_with_where_it_was_made),
        cmocka_unit_test(test_program_without_mistakes_runs_as_without_debug_mode),
        cmocka_unit_test(test_threads_may_use_a_runtime_in_turn),
        cmocka_unit_test(test_without_debug_mode_popping_a_frame_twice_does_nothing),
        cmocka_unit_test(test_without_debug_mode_a_runtime_is_not_destroyed_by_its_own_finalizers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
