/* A hostile allocator: of a long program that uses every type, container, iterator, frame, weak reference and collection, the n-th
 * request for memory fails, or the n-th and the few or all that follow; for every n.
 *
 * Requests are those for objects and for memory beside them (object.c asks hk_fault), and those to the system for tables and
 * arenas (led through this file by the linker). The program is a row of steps. A step returns false if it was told that there
 * is no memory; it then has given up all that it had. Whatever failed:
 *
 *      a step that fails was made to, and does what it should when it is done again
 *      containers are as they were before the call that failed
 *      at the end nothing is left: no block, no weak reference, no frame, no mapping
 */
#include "runtime_helper.h"

#include "heapkeeper/bounded.h"

static struct {
    uint64_t requests; /* so far */
    uint64_t first, count; /* those that fail: the number of the first (from 1; 0: none), and how many */
    uint64_t failed;
    int64_t mapped; /* bytes of mappings that are not undone yet */
} faults;

bool hk_fault(void)
{
    uint64_t n = ++faults.requests;
    bool fails = faults.first != 0 && n >= faults.first && n - faults.first < faults.count;
    faults.failed += fails;
    return fails;
}

void *__real_hk_os_map(size_t size);
void *__wrap_hk_os_map(size_t size);
void *__wrap_hk_os_map(size_t size)
{
    void *start = hk_fault() ? NULL : __real_hk_os_map(size);
    faults.mapped += start != NULL ? (int64_t)size : 0;
    return start;
}

void __real_hk_os_unmap(void *start, size_t size);
void __wrap_hk_os_unmap(void *start, size_t size);
void __wrap_hk_os_unmap(void *start, size_t size)
{
    faults.mapped -= (int64_t)size;
    __real_hk_os_unmap(start, size);
}

bool __real_hk_os_commit(void *start, size_t size);
bool __wrap_hk_os_commit(void *start, size_t size);
bool __wrap_hk_os_commit(void *start, size_t size)
{
    return !hk_fault() && __real_hk_os_commit(start, size);
}

/* --- steps --- */

/* What a step holds; given up at its end, however it ends. */
struct scope {
    hk_object *held[64];
    int count;
};

static hk_object *hold(struct scope *scope, hk_object *object)
{
    if (object != NULL)
        scope->held[scope->count++] = object;
    return object;
}

static bool leave(struct scope *scope, bool result)
{
    while (scope->count > 0)
        hk_decref(runtime, scope->held[--scope->count]);
    return result;
}

#define STEP(name)                                                                                                       \
    static bool name##_in(struct scope *scope);                                                                         \
    static bool name(void)                                                                                               \
    {                                                                                                                    \
        struct scope scope = {.count = 0};                                                                               \
        bool result = name##_in(&scope);                                                                                 \
        return leave(&scope, result);                                                                                    \
    }                                                                                                                    \
    static bool name##_in(struct scope *scope)

/* In a step: false unless it worked. */
#define TRY(expression)                                                                                                  \
    do {                                                                                                                 \
        if (!(expression))                                                                                               \
            return false;                                                                                                \
    } while (0)
/* The same for what is to be held. */
#define HOLD(variable, expression) TRY((variable = hold(scope, expression)) != NULL)

STEP(numbers_and_strings)
{
    hk_object *a, *b, *c, *list, *text;
    HOLD(a, hk_int(runtime, 1 << 20));
    HOLD(b, hk_float(runtime, 0.5));
    HOLD(c, hk_str(runtime, "hello"));
    HOLD(text, hk_str_format(runtime, "%0*d", 40, 7));
    HOLD(list, hk_list(runtime));
    for (int i = 0; i < 20; i++)
        TRY(hk_list_append(runtime, list, i % 2 ? c : text));
    HOLD(text, hk_str_join(runtime, c, list));
    assert_int_equal(hk_str_size(text), 10 * 45 + 19 * 5);
    HOLD(text, hk_str_format(runtime, "%0*d", 100000, 7)); /* the C allocator's */
    HOLD(text, hk_bytes(runtime, "\0\1\2", 3));
    HOLD(text, hk_str_from(runtime, "\0\1\2", 3));
    assert_int_equal(hk_int_value(a), 1 << 20);
    return true;
}

STEP(builders)
{
    hk_builder builder;
    hk_object *text;
    hk_builder_begin(&builder, runtime, 16);
    for (int i = 0; i < 300; i++)
        hk_builder_add(&builder, "0123456789", 10);
    HOLD(text, hk_builder_finish(&builder));
    assert_int_equal(hk_str_size(text), 3000);
    hk_builder_begin(&builder, runtime, 0);
    for (int i = 0; i < 40; i++)
        hk_builder_add_str(&builder, text);
    HOLD(text, hk_builder_finish(&builder));
    assert_int_equal(hk_str_size(text), 120000);
    return true;
}

STEP(interned)
{
    hk_object *list, *name, *again;
    HOLD(list, hk_list(runtime));
    for (int i = 0; i < 500; i++) { /* the table grows */
        char text[32];
        snprintf(text, sizeof(text), "name %d", i);
        HOLD(name, hk_str_intern(runtime, text));
        HOLD(again, hk_str_intern(runtime, text));
        assert_ptr_equal(name, again);
        bool added = hk_list_append(runtime, list, name);
        while (scope->count > 1)
            hk_decref(runtime, scope->held[--scope->count]);
        TRY(added);
    }
    return true;
}

STEP(lists)
{
    hk_object *list, *item;
    HOLD(list, hk_list(runtime));
    for (int i = 0; i < 300; i++) {
        size_t before = hk_list_count(list);
        item = hk_int(runtime, i * 1000);
        bool added = item != NULL && (i % 3 ? hk_list_append(runtime, list, item) : hk_list_insert(runtime, list, 0, item));
        hk_xdecref(runtime, item);
        assert_int_equal(hk_list_count(list), before + added);
        TRY(added);
    }
    for (int i = 0; i < 300; i++) { /* it gets smaller, if there is memory for that, or not */
        assert_true(hk_list_set(runtime, list, 0, hk_none()));
        hk_decref(runtime, hk_list_pop(runtime, list, hk_list_count(list) / 2));
    }
    assert_int_equal(hk_list_count(list), 0);
    for (int i = 0; i < 10; i++)
        TRY(hk_list_append(runtime, list, list)); /* a cycle */
    hk_list_clear(runtime, list);
    return true;
}

STEP(tuples)
{
    hk_object *small, *large, *pair;
    HOLD(small, hk_tuple(runtime, 7));
    HOLD(large, hk_tuple(runtime, 700));
    HOLD(pair, hk_tuple(runtime, 2));
    hk_tuple_init(pair, 0, hk_incref(small));
    hk_tuple_init(pair, 1, hk_incref(large));
    hk_tuple_init(large, 699, hk_incref(small));
    return true;
}

STEP(dicts_and_sets)
{
    hk_object *dict, *set, *again;
    HOLD(dict, hk_dict(runtime));
    HOLD(set, hk_set_new(runtime));
    for (int i = 0; i < 400; i++) {
        hk_object *key = i % 2 ? hk_int(runtime, i * 1000) : hk_str_format(runtime, "key %d", i);
        size_t before = hk_dict_count(dict), members = hk_set_count(set);
        bool added = key != NULL && hk_dict_set(runtime, dict, key, key);
        assert_int_equal(hk_dict_count(dict), before + added);
        if (key != NULL)
            assert_ptr_equal(hk_dict_get(dict, key), added ? key : NULL);
        bool added_too = added && hk_set_add(runtime, set, key);
        assert_int_equal(hk_set_count(set), members + added_too);
        if (added_too && i % 5 == 0)
            assert_true(hk_dict_delete(runtime, dict, key) && hk_set_remove(runtime, set, key));
        hk_xdecref(runtime, key);
        TRY(added_too);
    }
    assert_int_equal(hk_dict_count(dict), 320);
    HOLD(again, hk_dict(runtime));
    hk_object *key, *value;
    for (size_t position = 0; hk_dict_next(dict, &position, &key, &value);)
        TRY(hk_dict_set(runtime, again, key, value));
    assert_true(hk_equal(dict, again));
    hk_dict_clear(runtime, dict);
    return true;
}

struct node {
    hk_object head;
    hk_object *left, *right;
    void *memory;
};

static int nodes, finalizers, callbacks;
static hk_object *saved;

static void node_destroy(hk_runtime *unused, hk_object *self)
{
    nodes--;
    hk_memory_free(runtime, ((struct node *)self)->memory);
}

/* Needs memory, and does what it can without. Now and then it saves the object. */
static void node_finalize(hk_runtime *unused, hk_object *self)
{
    hk_object *list = hk_list(runtime);
    bool added = list != NULL && hk_list_append(runtime, list, self);
    hk_xdecref(runtime, list);
    if (++finalizers % 50 == 0 && added && saved == NULL)
        saved = hk_incref(self);
}

static hk_type node_type = {.name = "node", .size = sizeof(struct node), .pointers = 6, .finalize = node_finalize,
                            .destroy = node_destroy};
static hk_type leaf_type = {.name = "leaf", .size = sizeof(struct node), .pointers = 6, .destroy = node_destroy};
static hk_type items_type = {.name = "items", .size = 24, .item_size = 8};

static struct node *node_new(hk_type *type)
{
    struct node *node = (struct node *)hk_new(runtime, type);
    if (node == NULL)
        return NULL;
    nodes++;
    if ((node->memory = hk_memory(runtime, 40)) != NULL)
        return node;
    hk_decref(runtime, &node->head);
    return NULL;
}

static void called_back(hk_runtime *unused, hk_object *weakref, void *argument)
{
    callbacks++;
    hk_xdecref(runtime, hk_list(runtime)); /* needs memory, too */
    assert_null(hk_weakref_get(weakref));
}

STEP(weak_references)
{
    hk_object *weak[200] = {NULL}, *object[100] = {NULL};
    bool good = true;
    for (int i = 0; i < 100 && good; i++) { /* the table grows */
        object[i] = (hk_object *)node_new(i % 2 ? &node_type : &leaf_type);
        for (int j = 0; j < 2; j++)
            weak[2 * i + j] = object[i] != NULL ? hk_weakref_new(runtime, object[i], j ? called_back : NULL, NULL) : NULL;
        good = weak[2 * i] != NULL && weak[2 * i + 1] != NULL;
        if (object[i] != NULL)
            assert_int_equal(hk_weakref_count(runtime, object[i]), (weak[2 * i] != NULL) + (weak[2 * i + 1] != NULL));
    }
    callbacks = 0;
    for (int i = 0; i < 100; i++)
        hk_xdecref(runtime, object[i]);
    if (good)
        assert_int_equal(callbacks + (saved != NULL ? 1 : 0), 100);
    hk_object *revived = saved;
    saved = NULL;
    hk_xdecref(runtime, revived);
    for (int i = 0; i < 200; i++)
        hk_xdecref(runtime, weak[i]);
    return good;
}

/* A ring with a tail, and weak references into it. */
static bool ring(hk_type *type, int length)
{
    struct node *first = node_new(type), *last = first;
    hk_object *outside = first != NULL ? hk_weakref_new(runtime, &first->head, called_back, NULL) : NULL;
    bool good = outside != NULL;
    for (int i = 1; i < length && good; i++) {
        struct node *node = node_new(type);
        if ((good = node != NULL)) {
            last->left = &node->head;
            last = node;
            last->right = hk_weakref_new(runtime, &first->head, called_back, NULL);
            good = last->right != NULL;
        }
    }
    if (first != NULL && last != first)
        last->left = &first->head;
    else
        hk_xdecref(runtime, (hk_object *)first);
    hk_xdecref(runtime, outside);
    return good;
}

static bool collects(int generation)
{
    int before = nodes;
    int64_t found = hk_gc_collect(runtime, generation);
    if (found < 0)
        assert_int_equal(nodes, before); /* nothing was done */
    hk_object *revived = saved;
    saved = NULL;
    hk_xdecref(runtime, revived);
    return found >= 0;
}

STEP(cycles)
{
    for (int generation = 0; generation < 3; generation++) {
        TRY(ring(&leaf_type, 5) && ring(&node_type, 60));
        TRY(collects(generation));
    }
    hk_object *keep;
    HOLD(keep, hk_list(runtime));
    for (int i = 0; i < 30; i++) {
        TRY(ring(&leaf_type, 3));
        TRY(hk_list_append(runtime, keep, keep));
    }
    TRY(collects(0) && collects(1) && collects(2));
    struct node *hub = node_new(&leaf_type); /* with more references than a byte counts */
    TRY(hold(scope, (hk_object *)hub) != NULL);
    hk_object *spokes;
    HOLD(spokes, hk_list(runtime));
    for (int i = 0; i < 300; i++)
        TRY(hk_list_append(runtime, spokes, &hub->head));
    hub->left = hk_incref(spokes);
    leave(scope, true);
    TRY(collects(2));
    return true;
}

static bool nothing(hk_object *object, void *argument)
{
    return true;
}

STEP(garbage_that_is_saved)
{
    hk_gc_set_save_all(runtime, true);
    bool good = ring(&leaf_type, 10) && collects(2);
    hk_gc_set_save_all(runtime, false);
    hk_gc_garbage(runtime, nothing, NULL);
    hk_gc_garbage_clear(runtime);
    TRY(good && collects(2));
    hk_gc_freeze(runtime);
    hk_gc_unfreeze(runtime);
    return true;
}

/* A collection in steps; what a failed one has begun is given up, and the next one does it all. */
STEP(collection_in_steps)
{
    hk_object *list;
    HOLD(list, hk_list(runtime));
    hk_gc_disable(runtime);
    bool good = true;
    for (int i = 0; i < 30 && good; i++)
        good = ring(i % 3 ? &leaf_type : &node_type, 2 + i) && hk_list_append(runtime, list, list);
    for (int result = 0; result == 0 && good;) {
        result = hk_gc_step(runtime, 5);
        good = result >= 0 && ring(&leaf_type, 3);
    }
    hk_list_clear(runtime, list);
    hk_gc_enable(runtime);
    hk_object *revived = saved;
    saved = NULL;
    hk_xdecref(runtime, revived);
    return good;
}

STEP(large_objects)
{
    hk_object *large, *text;
    HOLD(large, hk_new_items(runtime, &items_type, 5000));
    HOLD(large, hk_new_items(runtime, &items_type, 200000));
    hk_builder builder;
    hk_builder_begin(&builder, runtime, 5000);
    for (int i = 0; i < 2000; i++)
        hk_builder_add(&builder, "0123456789", 10);
    HOLD(text, hk_builder_finish(&builder));
    assert_int_equal(hk_str_size(text), 20000);
    return true;
}

STEP(objects_with_items)
{
    hk_object *items;
    for (size_t count = 0; count < 200; count += 50)
        HOLD(items, hk_new_items(runtime, &items_type, count));
    char *memory = NULL, *moved = NULL;
    for (size_t size = 10; size < 100000; size *= 3) {
        if ((moved = hk_memory_resize(runtime, memory, size)) == NULL)
            break;
        memory = moved;
        memset(memory, 7, size);
    }
    hk_memory_free(runtime, memory);
    return moved != NULL;
}

static bool recurse(int depth)
{
    HK_FRAME(runtime, frame, 5);
    if (frame == NULL)
        return false;
    frame->locals[0] = hk_str_format(runtime, "at depth %d", depth);
    frame->locals[1] = hk_list(runtime);
    if (frame->locals[0] == NULL || frame->locals[1] == NULL || !hk_list_append(runtime, frame->locals[1], frame->locals[0]))
        return false;
    return depth == 0 || recurse(depth - 1);
}

STEP(frames)
{
    bool good = recurse(300);
    assert_int_equal(hk_frame_depth(runtime), 0);
    return good;
}

static hk_object *plus(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    return hk_int(runtime, hk_int_value(item) + hk_int_value(closure));
}

static int is_even(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    return hk_int_value(item) % 2 == 0;
}

static hk_object *group_key(hk_runtime *unused, hk_object *item, hk_object *closure)
{
    return hk_int(runtime, hk_int_value(hk_tuple_get(hk_tuple_get(item, 1), 0)) / 1000);
}

/* To its end; an error is asked again, and must then go on or end. */
static bool run_out(hk_object *iterator, int *count)
{
    hk_object *item;
    bool good = true;
    int got;
    while ((got = hk_iter_next(runtime, iterator, &item)) != HK_ITER_END) {
        good &= got == HK_ITER_ITEM;
        ++*count;
        hk_xdecref(runtime, item);
        if (faults.count > 1000 && !good) /* nothing will work from here on */
            return false;
    }
    return good;
}

STEP(iterators)
{
    hk_object *range, *map, *filter, *letters, *pair, *product, *copy, *parts, *chain, *slice, *numbered, *groups, *list;
    HOLD(range, hk_iter_range(runtime, 1000, 1012, 1));
    HOLD(map, hk_iter_map(runtime, plus, hk_int(runtime, 200), range));
    HOLD(filter, hk_iter_filter(runtime, is_even, NULL, map));
    HOLD(letters, hk_str(runtime, "abc"));
    HOLD(pair, hk_tuple(runtime, 2));
    hk_tuple_init(pair, 0, hk_incref(filter));
    hk_tuple_init(pair, 1, hk_incref(letters));
    HOLD(product, hk_iter_product(runtime, pair));
    int got = hk_iter_copy(runtime, product, &copy);
    TRY(got == HK_ITER_ITEM);
    hold(scope, copy);
    HOLD(parts, hk_tuple(runtime, 2));
    hk_tuple_init(parts, 0, hk_incref(product));
    hk_tuple_init(parts, 1, hk_incref(copy));
    HOLD(chain, hk_iter_chain(runtime, parts));
    HOLD(slice, hk_iter_slice(runtime, chain, 1, SIZE_MAX, 2));
    HOLD(numbered, hk_iter_enumerate(runtime, slice, 1000));
    got = hk_iter_copy(runtime, numbered, &copy);
    TRY(got == HK_ITER_ITEM);
    hold(scope, copy);
    HOLD(groups, hk_iter_group(runtime, group_key, NULL, numbered));
    int count = 0;
    TRY(run_out(groups, &count));
    assert_int_equal(count, 1);
    HOLD(list, hk_iter_list(runtime, copy));
    assert_int_equal(hk_list_count(list), 18);
    return true;
}

STEP(iterators_over_containers)
{
    hk_object *dict, *items, *keys, *lazily, *both, *zip, *bytes, *list;
    HOLD(dict, hk_dict(runtime));
    for (int i = 0; i < 10; i++)
        TRY(hk_dict_set(runtime, dict, hk_int(runtime, i), hk_int(runtime, i)));
    HOLD(items, hk_iter_items(runtime, dict));
    HOLD(keys, hk_iter(runtime, dict));
    HOLD(bytes, hk_bytes(runtime, "0123456789", 10));
    HOLD(both, hk_tuple(runtime, 3));
    hk_tuple_init(both, 0, hk_incref(items));
    hk_tuple_init(both, 1, hk_incref(keys));
    hk_tuple_init(both, 2, hk_incref(bytes));
    HOLD(zip, hk_iter_zip(runtime, both));
    HOLD(list, hk_list(runtime));
    TRY(hk_list_append(runtime, list, zip));
    HOLD(lazily, hk_iter(runtime, list));
    HOLD(lazily, hk_iter_chain(runtime, lazily));
    int count = 0;
    TRY(run_out(lazily, &count));
    assert_int_equal(count, 10);
    return true;
}

static void evicted(hk_runtime *unused, hk_object *container, hk_object *key, hk_object *value, void *argument)
{
    hk_xdecref(runtime, hk_float(runtime, 1));
}

STEP(bounded)
{
    hk_object *dict, *list, *keys;
    hk_bounded_stats stats = {.size = sizeof(stats)};
    HOLD(dict, hk_bounded_dict(runtime, &(hk_bounds){.size = sizeof(hk_bounds), .max_entries = 20, .callback = evicted}));
    HOLD(list, hk_bounded_list(runtime, &(hk_bounds){.size = sizeof(hk_bounds), .max_bytes = 2000, .evict = HK_EVICT_UNUSED}));
    for (int i = 0; i < 60; i++) {
        hk_object *key = hk_str_format(runtime, "%d", i);
        hk_bounded_get_stats(dict, &stats);
        uint64_t entries = stats.entries, gone = stats.evicted;
        bool added = key != NULL && hk_bounded_dict_set(runtime, dict, key, key);
        hk_bounded_get_stats(dict, &stats);
        assert_int_equal(stats.entries + stats.evicted, entries + gone + added);
        if (!added)
            assert_int_equal(stats.evicted, gone); /* for nothing */
        size_t before = hk_bounded_list_count(list);
        bool added_too = added && hk_bounded_list_append(runtime, list, key);
        if (!added_too)
            assert_int_equal(hk_bounded_list_count(list), before);
        hk_xdecref(runtime, key);
        TRY(added_too);
    }
    HOLD(keys, hk_iter_list(runtime, dict));
    assert_int_equal(hk_list_count(keys), 20);
    hk_bounded_clear(runtime, list);
    return true;
}

/* With collections that come by themselves. */
STEP(churn)
{
    hk_object *keep;
    HOLD(keep, hk_list(runtime));
    for (int i = 0; i < 400; i++) {
        hk_object *list = hk_list(runtime), *dict = hk_dict(runtime);
        bool good = list != NULL && dict != NULL && hk_list_append(runtime, list, dict) &&
                    hk_dict_set(runtime, dict, hk_int(runtime, 1), list) && (i % 20 != 0 || hk_list_append(runtime, keep, list));
        hk_xdecref(runtime, list);
        hk_xdecref(runtime, dict);
        TRY(good);
    }
    assert_int_equal(hk_list_count(keep), 20);
    return true;
}

static const struct {
    const char *name;
    bool (*function)(void);
} steps[] = {
#define ROW(name) {#name, name}
    ROW(numbers_and_strings), ROW(builders), ROW(interned), ROW(lists), ROW(tuples), ROW(dicts_and_sets), ROW(weak_references),
    ROW(cycles), ROW(garbage_that_is_saved), ROW(collection_in_steps), ROW(large_objects), ROW(objects_with_items), ROW(frames), ROW(iterators),
    ROW(iterators_over_containers), ROW(bounded), ROW(churn),
#undef ROW
};

/* --- the program --- */

static uint64_t frames_blocks(void)
{
    return runtime->frames.spare != NULL; /* a chunk that is kept */
}

static void assert_nothing_is_left(void)
{
    assert_true(hk_gc_collect(runtime, 2) >= 0);
    while (hk_gc_collect(runtime, 2) > 0 || saved != NULL) {
        hk_object *revived = saved;
        saved = NULL;
        hk_xdecref(runtime, revived);
    }
    if (!is_debug()) /* where freed blocks wait */
        assert_int_equal(live_blocks(), frames_blocks());
    assert_int_equal(nodes, 0);
    assert_int_equal(runtime->weak.count, 0);
    assert_int_equal(runtime->interned.count, 0);
    assert_int_equal(runtime->iterating, 0);
    assert_int_equal(hk_heap_check(NULL), 0);
}

/* The whole program once. Returns how many requests failed. */
static uint64_t program(uint64_t first, uint64_t count)
{
    int64_t mapped = faults.mapped;
    faults.requests = faults.failed = 0;
    faults.first = first;
    faults.count = count;
    finalizers = 0;
    runtime = hk_runtime_create(NULL);
    if (runtime == NULL) {
        assert_true(faults.failed > 0);
        faults.first = 0;
        runtime = hk_runtime_create(NULL);
    }
    assert_non_null(runtime);
    hk_gc_set_threshold(runtime, 0, 100);
    for (size_t i = 0; i < COUNT(steps); i++) {
        uint64_t failed = faults.failed;
        bool good = steps[i].function();
        if (!good && faults.failed == failed)
            fail_msg("request %u: %s failed by itself", (unsigned)first, steps[i].name);
        if (good)
            continue;
        faults.first = 0; /* from here on there is memory again */
        if (!steps[i].function())
            fail_msg("request %u: %s does not work any more", (unsigned)first, steps[i].name);
    }
    uint64_t failed = faults.failed;
    faults.first = 0;
    assert_nothing_is_left();
    if (first % 7 == 0)
        assert_true(ring(&node_type, 20)); /* something for the end */
    hk_runtime_destroy(runtime);
    assert_int_equal(nodes, 0);
    saved = NULL;
    if (mapped != 0 && !is_debug()) /* after the first time what is kept for ever is there */
        assert_int_equal(faults.mapped, mapped);
    return failed;
}

/* `step`: of requests one in so many, unless HEAPKEEPER_EVERY_CALL is set. */
static void each_request(uint64_t count, uint64_t step)
{
    uint64_t tried = 0;
    step = getenv("HEAPKEEPER_EVERY_CALL") != NULL ? 1 : is_watched_by_tool() ? 37 * step : step;
    program(0, 0);
    program(0, 0);
    uint64_t requests = faults.requests;
    for (uint64_t n = 1; n <= requests; n += step, tried++)
        program(n, count);
    assert_true(requests > 3000);
    print_message("%u requests, %u of them made to fail\n", (unsigned)requests, (unsigned)tried);
}

static void test_any_request_may_fail(void **state)
{
    each_request(1, 1);
}

static void test_any_three_requests_in_a_row_may_fail(void **state)
{
    each_request(3, 4);
}

static void test_all_requests_from_any_one_on_may_fail(void **state)
{
    each_request(UINT64_MAX, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_request_may_fail),
        cmocka_unit_test(test_any_three_requests_in_a_row_may_fail),
        cmocka_unit_test(test_all_requests_from_any_one_on_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
