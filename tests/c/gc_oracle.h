/* Random programs make, link, unlink and drop objects; a plain reachability search over a shadow of the graph says which must live. None
 * may die that is reachable, and when all that is garbage has been collected none may live that is not. Weak references
 * are right, and may bring back what is unreachable and has not been collected; finalizers run once, and may save.
 *
 * Programs collect at random; or (stepped) in steps, between everything else that they do.
 *
 * HEAPKEEPER_SEEDS and HEAPKEEPER_OPERATIONS: how many programs each test makes, and how long each is. */
#ifndef HK_TESTS_GC_ORACLE_H
#define HK_TESTS_GC_ORACLE_H

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
    hk_object *weak; /* a weak reference to it; NULL: none */
    int called;      /* its callback */
};

struct world {
    hk_runtime *runtime;
    struct image images[MAX];
    int count;
    uint64_t random;
    bool finalizers, stepped;
    int kept[MAX], kept_count; /* made roots by finalizers since the oracle last looked */
};

/* Two, for programs with two runtimes: the one that acts. */
static struct world worlds[2], *acting = worlds;
#define world (*acting)

static void thing_traverse(const hk_object *self, hk_traversal *traversal)
{
    hk_visit(traversal, ((const struct thing *)self)->traversed);
}

static void thing_destroy(hk_runtime *runtime, hk_object *self)
{
    world.images[((struct thing *)self)->id].object = NULL;
}

static int from_environment(const char *name, int usual)
{
    const char *text = getenv(name);
    return text != NULL ? atoi(text) : usual;
}

static int seeds(int usual)
{
    return from_environment("HEAPKEEPER_SEEDS", rounds(usual));
}

static int operations(void)
{
    return from_environment("HEAPKEEPER_OPERATIONS", 6000);
}

static int below(int limit);
static bool count_object(hk_object *object, void *count)
{
    ++*(int *)count;
    return true;
}

static void thing_finalize(hk_runtime *runtime, hk_object *self)
{
    int id = ((struct thing *)self)->id, count = 0;
    assert_false(world.images[id].finalized);
    world.images[id].finalized = true;
    if (below(8) == 0)
        assert_in_range(hk_gc_step(runtime, 1), 0, 1);
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

/* The same with room behind it: some are larger than a block. */
static hk_type roomy_type = {.name = "roomy", .size = sizeof(struct thing), .item_size = 1024, .pointers = 14,
                             .traverse = thing_traverse, .destroy = thing_destroy};
static hk_type roomy_careful_type = {.name = "careful, roomy", .size = sizeof(struct thing), .item_size = 1024, .pointers = 14,
                                     .traverse = thing_traverse, .finalize = thing_finalize, .destroy = thing_destroy};

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

/* It is cleared if the callback was called; and it was for what is dead, and for nothing else (but what a finalizer saved). */
static void oracle_weak(int id)
{
    const struct image *image = &world.images[id];
    if (image->weak == NULL)
        return;
    hk_object *object = hk_weakref_get(image->weak);
    assert_ptr_equal(object, image->called > 0 ? NULL : (hk_object *)image->object);
    assert_in_range(image->called, 0, 1);
    if (image->object == NULL)
        assert_int_equal(image->called, 1);
    else if (!world.finalizers)
        assert_int_equal(image->called, 0);
    hk_xdecref(world.runtime, object);
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
        oracle_weak(id);
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

/* Whose place can be taken; -1: none was found. */
static int dead_one(void)
{
    for (int tries = 0; tries < 16; tries++) {
        struct image *image = &world.images[below(MAX)];
        if (image->object != NULL || image->roots > 0)
            continue;
        hk_xdecref(world.runtime, image->weak);
        image->weak = NULL;
        return (int)(image - world.images);
    }
    return -1;
}

static void step_make(bool finalizers)
{
    int id = world.count;
    if (id < MAX)
        world.count++;
    else if ((id = dead_one()) < 0)
        return;
    bool careful = finalizers && below(4) == 0;
    struct thing *thing;
    if (below(16) == 0)
        thing = (struct thing *)hk_new_items(world.runtime, careful ? &roomy_careful_type : &roomy_type, (size_t)below(40));
    else
        thing = (struct thing *)hk_new(world.runtime, careful ? &careful_type : &plain_type);
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

static void weak_called(hk_runtime *runtime, hk_object *weakref, void *argument)
{
    struct image *image = argument;
    image->called++;
    assert_null(hk_weakref_get(weakref));
    if (below(8) == 0)
        assert_in_range(hk_gc_step(runtime, 1), 0, 1);
}

static void step_weak(void)
{
    int id = pick_reachable();
    if (id < 0 || world.images[id].weak != NULL)
        return;
    world.images[id].weak = hk_weakref_new(world.runtime, &world.images[id].object->head, weak_called, &world.images[id]);
    assert_non_null(world.images[id].weak);
}

/* Of anything: what is unreachable is not, then. */
static void step_revive(void)
{
    int id = world.count > 0 ? below(world.count) : -1;
    hk_object *object = id >= 0 && world.images[id].weak != NULL ? hk_weakref_get(world.images[id].weak) : NULL;
    if (object != NULL)
        world.images[id].roots++;
}

/* A root is swapped with a reference of an object: that is what steps may overlook, in either order. */
static void step_move(void)
{
    int from = pick_alive(), slot = below(SLOTS);
    if (from < 0)
        return;
    int to = world.images[from].slots[slot];
    if (to >= 0) {
        hk_incref(&world.images[to].object->head);
        world.images[to].roots++;
        world.images[from].slots[slot] = -1;
        hk_set(world.runtime, slot_of(world.images[from].object, slot), NULL);
    } else if ((to = pick_alive()) >= 0 && to != from) {
        world.images[to].roots--;
        world.images[from].slots[slot] = to;
        hk_set(world.runtime, slot_of(world.images[from].object, slot), &world.images[to].object->head);
    }
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

static void note_kept(void)
{
    while (world.kept_count > 0)
        world.images[world.kept[--world.kept_count]].roots++;
}

/* Rounds until two have freed and saved nothing: the first of them may have begun before the last change. */
static void step_to_the_end(void)
{
    hk_gc_step_stats before = {.size = sizeof(before)}, after = {.size = sizeof(after)};
    for (int idle = 0; idle < 2;) {
        hk_gc_get_step_stats(world.runtime, &before);
        int result;
        while ((result = hk_gc_step(world.runtime, (uint32_t)below(20))) == 0)
            ;
        assert_int_equal(result, 1);
        hk_gc_get_step_stats(world.runtime, &after);
        idle = after.freed == before.freed && after.resurrected == before.resurrected ? idle + 1 : 0;
        oracle(false);
        note_kept();
    }
}

static void collect_all(void)
{
    if (world.stepped) {
        step_to_the_end();
        return;
    }
    while (hk_gc_collect(world.runtime, 2) > 0)
        oracle(false);
    note_kept();
}

static void act(int kind)
{
    if (kind < 300)
        step_make(world.finalizers);
    else if (kind < 550)
        step_link();
    else if (kind < 600)
        step_move();
    else if (kind < 700)
        step_unlink();
    else if (kind < 950)
        step_drop();
    else if (kind < 970)
        step_weak();
    else if (kind < 990)
        step_revive();
    else if (kind < 992)
        step_hub();
    else if (kind < 997)
        hk_gc_collect(world.runtime, below(world.stepped ? 2 : 3));
    else
        oracle(false);
}

static void drop_everything(void)
{
    for (int id = 0; id < world.count; id++) {
        for (; world.images[id].roots > 0; world.images[id].roots--)
            hk_decref(world.runtime, &world.images[id].object->head);
        hk_object *weak = world.images[id].weak;
        world.images[id].weak = NULL;
        hk_xdecref(world.runtime, weak);
    }
}

static bool something_lives(void)
{
    for (int id = 0; id < world.count; id++)
        if (world.images[id].object != NULL)
            return true;
    return false;
}

static void world_begin(uint64_t seed, bool finalizers, bool stepped)
{
    memset(&world, 0, sizeof(world));
    world.random = seed;
    world.finalizers = finalizers;
    world.stepped = stepped;
    world.runtime = hk_runtime_create(NULL);
    assert_non_null(world.runtime);
    if (stepped && below(2))
        hk_gc_disable(world.runtime);
    hk_gc_set_threshold(world.runtime, 0, 1 + (uint32_t)below(200));
}

static void world_step(void)
{
    act(below(1000));
    note_kept();
    if (world.stepped && below(3) == 0)
        assert_in_range(hk_gc_step(world.runtime, (uint32_t)below(4)), 0, 1);
    note_kept();
}

static void world_end(void)
{
    oracle(false);
    /* Each collection may run finalizers that save; each saves once. */
    for (int i = 0; world.finalizers && !world.stepped && i < 3; i++) {
        hk_gc_collect(world.runtime, 2);
        oracle(false);
        note_kept();
    }
    collect_all();
    oracle(true);
    for (int i = 0; i == 0 || something_lives(); i++) {
        assert_in_range(i, 0, 100);
        drop_everything();
        collect_all();
    }
    hk_free_lists_trim(world.runtime);
    hk_watch_let_go(world.runtime);
    hk_heap_stats stats = {.size = sizeof(stats)};
    hk_heap_get_stats(world.runtime->cyclic, &stats);
    assert_int_equal(stats.live_blocks, 0);
    assert_int_equal(hk_heap_check(NULL), 0);
    hk_runtime_destroy(world.runtime);
}

static void random_program(uint64_t seed, int steps, bool finalizers, bool stepped)
{
    world_begin(seed, finalizers, stepped);
    for (int step = 0; step < steps; step++)
        world_step();
    world_end();
}

/* Two runtimes in one process, whose pools and rounds come between each other's. Now and then one ends, in the middle of a round of its
 * own or of the other's, and another begins. */
static inline void random_pair(uint64_t seed, int steps)
{
    uint64_t random = seed;
    for (int i = 0; i < 2; i++) {
        acting = &worlds[i];
        world_begin(seed * 2 + (uint64_t)i, i == 1, true);
    }
    for (int step = 0; step < steps; step++) {
        acting = &worlds[random_next(&random) % 2];
        for (int more = (int)(random_next(&random) % 8); more >= 0; more--)
            world_step();
        if (random_next(&random) % 500 != 0)
            continue;
        for (int id = 0; id < world.count; id++) /* finalizers of the end may ask who it was */
            world.images[id].weak = NULL;
        hk_runtime_destroy(world.runtime);
        world_begin(random_next(&random), random % 2, true);
    }
    for (int i = 0; i < 2; i++) {
        acting = &worlds[i];
        world_end();
    }
    acting = worlds;
}

#endif
