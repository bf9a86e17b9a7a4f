/* Releasing objects. Like making one, that tells the collector nothing of a young object.
 *
 * Most types are plain: none of their functions is called when an object dies. What dies with a plain object is found and
 * freed in one loop (release_plain). The release of any other nests, up to 32 deep; what is released deeper waits
 * in a chain, until the outermost release is done and takes it from there. So a list of any length needs the C stack of 32 releases.
 * Neither chain needs memory: an object that waits is dead in all but its memory and references, so its head has room for
 * the link. Its 64 bits hold, in the chain of release_plain, whose objects have no flags, and in the other:
 *
 *      16  type                 48  address of the next one
 *      16  type      4  flags   44  address of the next one, divided by 16
 *
 * Before that its finalizer has run, its weak references are cleared, and the collector no longer knows it: nothing looks at the
 * head any more. */
#include <string.h>

#include "object/runtime.h"

#define MAX_DEPTH 32

static inline void untrack(hk_runtime *runtime, hk_object *object)
{
    hk_gc_forget(object);
    runtime->plan.left++;
}

/* What the object refers to, one by one. The function may do anything to the children: of the object the traverse function has
 * read all that is in the buffer, and no more. */
struct each_child {
    hk_traversal traversal;
    hk_child_function *function;
    void *argument;
    hk_object *buffer[32];
};

static void each_child_full(hk_traversal *traversal)
{
    struct each_child *each = (struct each_child *)traversal;
    for (hk_object **child = each->buffer; child < traversal->next; child++)
        __builtin_prefetch(*child, 1); /* they lie anywhere: waited for together */
    for (hk_object **child = each->buffer; child < traversal->next; child++)
        each->function(*child, each->argument);
    traversal->next = each->buffer;
}

void hk_object_each_child(const hk_object *object, hk_child_function *function, void *argument)
{
    struct each_child each; /* the buffer is not cleared */
    each.traversal = (hk_traversal){each.buffer, each.buffer + 32, each_child_full};
    each.function = function;
    each.argument = argument;
    hk_object_traverse(object, &each.traversal);
    each_child_full(&each.traversal);
}

static void give_up_child(hk_object *child, void *runtime)
{
    hk_decref(runtime, child);
}

/* Steps 3 to 5 of an object's death (object.h). */
static void drop(hk_runtime *runtime, hk_object *object, const hk_type *type)
{
    if (type->clear != NULL) {
        type->clear(runtime, object);
    } else if (type->traverse != NULL) {
        hk_object_each_child(object, give_up_child, runtime);
    } else {
        hk_object **words = (hk_object **)object;
        for (uint64_t bits = type->pointers; bits != 0; bits &= bits - 1)
            hk_xdecref(runtime, words[__builtin_ctzll(bits)]);
    }
    hk_object_bury(runtime, object, type);
}

static void pending_push(hk_runtime *runtime, hk_object *object)
{
    hk_object_unrecord(object);
    uint64_t head = object->type | (uint64_t)(object->flags & 15) << 16 | runtime->pending << 16;
    memcpy(object, &head, sizeof(head));
    runtime->pending = (uint64_t)(uintptr_t)object;
}

static hk_object *pending_pop(hk_runtime *runtime)
{
    hk_object *object = (hk_object *)(uintptr_t)runtime->pending;
    uint64_t head;
    memcpy(&head, object, sizeof(head));
    runtime->pending = head >> 20 << 4;
    object->references = 0;
    object->type = (uint16_t)head;
    object->flags = head >> 16 & 15;
    return object;
}

bool hk_object_finalize(hk_runtime *runtime, hk_object *object, const hk_type *type)
{
    object->flags |= HK_FINALIZED;
    object->references++;
    runtime->calling++;
    type->finalize(runtime, object);
    runtime->calling--;
    return --object->references != 0;
}

static void release_other(hk_runtime *runtime, hk_object *object);

/* The collector no longer knows it. Outside of collections, in a program that does not step, that is one bit. */
static inline __attribute__((always_inline)) void forget(const hk_runtime *runtime, const hk_object *object)
{
    if (__builtin_expect(runtime->collecting || runtime->step_stats.steps > 0, 0))
        hk_gc_forget(object);
    else
        hk_gc_untrack(object);
}

/* The memory of a plain object. In a pool that is not noted the collector knows none. */
static inline __attribute__((always_inline)) void bury(hk_runtime *runtime, hk_object *object, char *base, struct hk_pool *pools)
{
    struct hk_pool *pool = &pools[(size_t)((char *)object - base) >> HK_POOL_SHIFT];
    if (pool->is_noted)
        forget(runtime, object);
    if (__builtin_expect(pool->free == NULL, 0))
        hk_free_slow(pool->heap, object);
    else
        hk_pool_free(pool->heap, pool, object); /* which would read its heap before it knows that it need not */
}

/* Something dies that is not plain: somebody else's code may run. */
static __attribute__((noinline)) void release_beside(hk_runtime *runtime, hk_object *object, hk_object *chain)
{
    struct hk_releasing releasing = {runtime->releasing, (uint64_t)(uintptr_t)chain};
    runtime->releasing = &releasing;
    release_other(runtime, object);
    runtime->releasing = releasing.outer;
}

static hk_object nobody = {.references = HK_IMMORTAL};

/* A plain object is dead with no more ado. What it referred to, on a stack, is to lose a reference each. It is not in the cache,
 * often: what comes from the stack is asked for, and waits in a ring until that has gone round; where nothing else does, `nobody`
 * waits. Dead objects for which the stack has no room wait in a chain, linked as above; taken from there one has a reference to lose
 * once more, as the first has, and loses it at once. */
static __attribute__((noinline)) void release_plain(hk_runtime *runtime, hk_object *first, hk_object *chain)
{
    enum { STACK = 128, RING = 8 };
    hk_object *stack[STACK + 64], *ring[RING];
    size_t top = 0, turn = 0, rounds = RING;
    char *base = hk_region.base;
    struct hk_pool *pools = hk_region.pools;
    for (size_t i = 0; i < RING; i++)
        ring[i] = &nobody;
    ring[0] = first;
    for (;;) {
        hk_object *later = &nobody;
        uint64_t head;
        if (top > 0) {
            later = stack[--top];
            __builtin_prefetch(later, 1);
            rounds = RING;
        } else if (rounds-- == 0) {
            if (chain == NULL)
                break;
            ring[turn] = chain;
            memcpy(&head, chain, sizeof(head));
            *chain = (hk_object){.references = 1, .type = (uint16_t)head};
            chain = (hk_object *)(uintptr_t)(head >> 16);
            rounds = RING;
        }
        hk_object *dead = ring[turn];
        ring[turn] = later;
        turn = (turn + 1) % RING;
        memcpy(&head, dead, sizeof(head)); /* see hk_object */
        if ((uint32_t)head != 1) {
            if ((uint32_t)head < HK_IMMORTAL)
                dead->references--;
            continue;
        }
        uint64_t type = head >> 32; /* below its flags */
        if (__builtin_expect(type >= HK_NOT_PLAIN, 0)) {
            dead->references = 0;
            release_beside(runtime, dead, chain);
            continue;
        }
        if (__builtin_expect(top > STACK, 0)) {
            chain = hk_object_chain(dead, chain);
            continue;
        }
        const struct hk_gc_shape *shape = &hk_shapes[type];
        __asm__("" : "+r"(shape)); /* or gcc works it out twice */
        runtime->plan.left += shape->cyclic;
        hk_object **end = (hk_object **)dead + shape->first + shape->count;
        __asm__("" : "+r"(end));
        for (ptrdiff_t place = -(ptrdiff_t)shape->count; place != 0; place++) {
            __asm__("" : "+r"(place)); /* one register counts and says where */
            stack[top] = end[place];
            top += end[place] != NULL;
        }
        for (uint64_t bits = shape->scattered; bits != 0; bits &= bits - 1) {
            stack[top] = ((hk_object **)dead)[__builtin_ctzll(bits)];
            top += stack[top] != NULL;
        }
        bury(runtime, dead, base, pools);
    }
}

static void release_other(hk_runtime *runtime, hk_object *object)
{
    if (__builtin_expect(object->flags & HK_WATCHED, 0))
        hk_watch_release(runtime, object);
    const hk_type *type = hk_type_of(object);
    if (type->finalize != NULL && !(object->flags & HK_FINALIZED) && hk_object_finalize(runtime, object, type))
        return;
    if (!(type->flags & HK_TYPE_ACYCLIC))
        untrack(runtime, object);
    if (__builtin_expect(object->flags & HK_HAS_WEAKREFS, 0)) {
        struct hk_releasing releasing = {runtime->releasing, 0}; /* a callback may lead to a collection, which is to see no garbage here */
        runtime->releasing = &releasing;
        hk_weakrefs_clear(runtime, object);
        runtime->releasing = releasing.outer;
    }
    if (runtime->depth == MAX_DEPTH) {
        pending_push(runtime, object);
        return;
    }
    runtime->depth++;
    drop(runtime, object, type);
    runtime->depth--;
    while (runtime->depth == 0 && runtime->pending != 0) {
        runtime->depth = 1;
        object = pending_pop(runtime);
        drop(runtime, object, hk_type_of(object));
        runtime->depth = 0;
    }
}

void hk_release(hk_runtime *runtime, hk_object *object)
{
    if (__builtin_expect(!hk_object_is_plain(object), 0)) {
        release_other(runtime, object);
        return;
    }
    const struct hk_gc_shape *shape = &hk_shapes[object->type];
    hk_object **place = (hk_object **)object + shape->first, **end = place + shape->count;
    while (place < end && *place == NULL)
        place++;
    if (place < end || shape->scattered != 0) {
        object->references = 1;
        release_plain(runtime, object, NULL);
        return;
    }
    runtime->plan.left += shape->cyclic;
    bury(runtime, object, hk_region.base, hk_region.pools);
}

void hk_object_release_chain(hk_runtime *runtime, hk_object *chain)
{
    release_plain(runtime, &nobody, chain);
}
