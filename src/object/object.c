/* Making and releasing objects.
 *
 * Neither tells the collector anything, for an object that dies before the next collection: see tables.h.
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

/* Exported, all of it, though nobody else has to do with it: where a program is linked with this library and has it preloaded as well,
 * the constructors of both run, and give the same types their numbers. */
hk_type *hk_types[1 << 16];
HK_API struct hk_gc_shape hk_shapes[1 << 16];
HK_API struct {
    uint32_t count; /* type 0 is none */
    uint32_t free_lists;
    hk_lock lock;
} hk_types_register;

/* --- types --- */

static struct hk_gc_shape shape_of(const hk_type *type)
{
    bool is_plain = type->traverse == NULL && type->clear == NULL && type->finalize == NULL && type->destroy == NULL;
    struct hk_gc_shape shape = {.scattered = type->pointers & ~(uint64_t)1, .traversed = type->traverse != NULL};
    if (is_plain && type->free_list == 0)
        shape.plain = type->flags & HK_TYPE_ACYCLIC ? HK_PLAIN_ACYCLIC : HK_PLAIN;
    if (shape.scattered != 0) {
        shape.first = (uint8_t)__builtin_ctzll(shape.scattered);
        shape.count = (uint8_t)__builtin_ctzll(~(shape.scattered >> shape.first)); /* bit 0 is 0, so there is one */
        shape.scattered &= ~((((uint64_t)1 << shape.count) - 1) << shape.first);
    }
    return shape;
}

/* The head of its objects; above it, where that has its flags, the class of its blocks, or 0: hk_new is to take the long way. In one
 * word, since another thread may be reading it. */
static uint64_t head_of(const hk_type *type, uint32_t number)
{
    uint64_t size_class = type->free_list == 0 && type->size <= HK_SMALL_MAX ? (type->size + HK_STEP - 1) / HK_STEP : 0;
    return 1 | (uint64_t)number << 32 | size_class << 48;
}

bool hk_type_ready(hk_type *type)
{
    hk_lock_take(&hk_types_register.lock);
    if (type->number == 0 && hk_types_register.count < UINT16_MAX) {
        uint32_t number = ++hk_types_register.count;
        hk_types[number] = type;
        if ((type->flags & HK_TYPE_FREE_LIST) && type->item_size == 0 && hk_types_register.free_lists + 1 < HK_FREE_LISTS)
            __atomic_store_n(&type->free_list, ++hk_types_register.free_lists, __ATOMIC_RELAXED);
        hk_shapes[number] = shape_of(type);
        __atomic_store_n(&type->head, head_of(type, number), __ATOMIC_RELEASE);
        __atomic_store_n(&type->number, number, __ATOMIC_RELEASE);
    }
    hk_lock_release(&hk_types_register.lock);
    return type->number != 0;
}

/* --- memory beside objects --- */

static void large_link(hk_runtime *runtime, struct hk_large *large)
{
    large->previous = &runtime->large;
    large->next = runtime->large.next;
    if (large->next != NULL)
        large->next->previous = large;
    runtime->large.next = large;
}

static void large_unlink(struct hk_large *large)
{
    large->previous->next = large->next;
    if (large->next != NULL)
        large->next->previous = large->previous;
}

static void *memory_malloc(hk_runtime *runtime, hk_heap *heap, size_t size)
{
    if (size <= HK_BLOCK_MAX) {
        void *block = hk_malloc_unlocked(heap, size);
        if (hk_region_has(block))
            return block;
        hk_free(heap, block); /* no addresses left in the region */
        return NULL;
    }
    struct hk_large *large = size > PTRDIFF_MAX ? NULL : hk_malloc(heap, size + sizeof(*large));
    if (large == NULL)
        return NULL;
    large->is_object = heap == runtime->acyclic;
    large_link(runtime, large);
    return large + 1;
}

static void memory_free(hk_heap *heap, void *memory)
{
    if (hk_region_has(memory)) {
        hk_free_unlocked(heap, memory);
    } else if (memory != NULL) {
        struct hk_large *large = (struct hk_large *)memory - 1;
        large_unlink(large);
        hk_free(heap, large);
    }
}

void *hk_memory(hk_runtime *runtime, size_t size)
{
    return hk_fault() ? NULL : memory_malloc(runtime, runtime->memory, size);
}

void hk_memory_free(hk_runtime *runtime, void *memory)
{
    memory_free(runtime->memory, memory);
}

void *hk_memory_resize(hk_runtime *runtime, void *memory, size_t size)
{
    if (memory == NULL)
        return hk_memory(runtime, size);
    if (!hk_region_has(memory) && size > HK_BLOCK_MAX) {
        if (size > PTRDIFF_MAX || hk_fault())
            return NULL;
        struct hk_large *large = (struct hk_large *)memory - 1, *moved;
        large_unlink(large);
        moved = hk_realloc(runtime->memory, large, size + sizeof(*large));
        large_link(runtime, moved != NULL ? moved : large);
        return moved != NULL ? moved + 1 : NULL;
    }
    size_t had = hk_region_has(memory) ? hk_usable_size(memory) : SIZE_MAX;
    if (size <= had && size > had / 2 && had != SIZE_MAX)
        return memory;
    void *moved = hk_memory(runtime, size);
    if (moved != NULL) {
        memcpy(moved, memory, size < had ? size : had);
        hk_memory_free(runtime, memory);
    }
    return moved;
}

/* --- objects --- */

void hk_zero_behind_head(hk_object *object, size_t size)
{
    memset(object + 1, 0, size - sizeof(*object));
}

typedef uint64_t zeroes __attribute__((vector_size(16), may_alias));

static __attribute__((noinline)) hk_object *zero_much(hk_object *object, size_t size)
{
    memset((uint64_t *)object + 1, 0, size - 8);
    return object;
}

/* Blocks are multiples of 16. Returns the object. */
static inline __attribute__((always_inline)) hk_object *zero_behind_head(hk_object *object, size_t size)
{
    if (__builtin_expect(size > 256, 0))
        return zero_much(object, size);
    ((uint64_t *)object)[1] = 0;
    for (size_t at = 16; at < size; at += 16) {
        *(zeroes *)((char *)object + at) = (zeroes){0, 0};
        __asm__("" : "+r"(at)); /* a call, and the processor's instruction for it, which gcc would put here, take longer */
    }
    return object;
}

/* There was no block for an object in the region: it is one that the recorder is to know, or there is none. */
static __attribute__((noinline)) hk_object *not_here(hk_heap *heap, void *elsewhere, size_t size, uint16_t *flags)
{
    hk_free(heap, elsewhere);
    hk_object *object = size <= HK_BLOCK_MAX ? hk_malloc_due(heap, size) : NULL;
    *flags |= HK_SAMPLED;
    if (hk_region_has(object))
        return object;
    hk_free(heap, object);
    return NULL;
}

static __attribute__((noinline)) hk_object *object_new(hk_runtime *runtime, hk_type *type, size_t size, bool zeroed)
{
    if (type->number == 0 && !hk_type_ready(type))
        return NULL;
    bool cyclic = !(type->flags & HK_TYPE_ACYCLIC);
    if (cyclic && runtime->plan.made >= runtime->plan.young_limit)
        hk_collect_automatic(runtime);
    uint16_t flags = size > HK_BLOCK_MAX ? HK_LARGE : 0;
    hk_object *object;
    if (cyclic) {
        object = size <= HK_BLOCK_MAX ? hk_malloc_unlocked(runtime->cyclic, size) : NULL;
        if (!hk_region_has(object)) {
            object = not_here(runtime->cyclic, object, size, &flags);
            if (object == NULL)
                return NULL;
        }
        runtime->plan.made++;
    } else {
        object = memory_malloc(runtime, runtime->acyclic, size);
        if (object == NULL && (object = not_here(runtime->acyclic, NULL, size, &flags)) == NULL)
            return NULL;
    }
    object->references = 1;
    object->type = (uint16_t)type->number;
    object->flags = flags;
    return zeroed ? zero_behind_head(object, size) : object;
}

/* The long way, of an object that is not a block at hand since a sample is due. */
static __attribute__((noinline)) hk_object *object_due(hk_runtime *runtime, hk_type *type, size_t size, bool zeroed)
{
    runtime->heaps[type->flags & HK_TYPE_ACYCLIC]->budget += (int64_t)size;
    return object_new(runtime, type, size, zeroed);
}

/* First a block of a small class whose pool has one, while nothing is due, neither a collection nor a sample; otherwise the
 * long way. */
static inline __attribute__((always_inline)) hk_object *object_make(hk_runtime *runtime, hk_type *type, uint64_t head,
                                                                    size_t size, size_t size_class, bool zeroed)
{
    bool cyclic = !(type->flags & HK_TYPE_ACYCLIC);
    hk_heap *heap = runtime->heaps[type->flags & HK_TYPE_ACYCLIC];
    struct hk_pool *pool = heap->current[size_class];
    hk_object *object = pool->free;
    if (__builtin_expect(object == NULL || (cyclic && runtime->plan.made >= runtime->plan.young_limit), 0))
        return object_new(runtime, type, size, zeroed);
    if (__builtin_expect((heap->budget -= (int64_t)size) < 0, 0))
        return object_due(runtime, type, size, zeroed);
    runtime->plan.made += cyclic;
    pool->free = *(void **)object;
    __builtin_prefetch(pool->free, 1); /* it is read by the next one, which would wait */
    head &= ~(uint64_t)0 >> 16;
    memcpy(object, &head, sizeof(head));
    return zeroed ? zero_behind_head(object, size) : object;
}

static inline __attribute__((always_inline)) hk_object *object_of_size(hk_runtime *runtime, hk_type *type, size_t size,
                                                                       bool zeroed)
{
    uint64_t head = __atomic_load_n(&type->head, __ATOMIC_RELAXED);
    if (hk_fault())
        return NULL;
    if (__builtin_expect(size > HK_SMALL_MAX || head == 0, 0))
        return object_new(runtime, type, size, zeroed);
    return object_make(runtime, type, head, size, (size + HK_STEP - 1) / HK_STEP, zeroed);
}

/* Of a type that is new, large, or has a free list. */
static __attribute__((noinline)) hk_object *new_other(hk_runtime *runtime, hk_type *type)
{
    hk_object *kept = type->flags & HK_TYPE_FREE_LIST ? hk_free_list_take(runtime, type) : NULL;
    return kept != NULL ? kept : object_of_size(runtime, type, type->size, true);
}

hk_object *hk_new(hk_runtime *runtime, hk_type *type)
{
    uint64_t head = __atomic_load_n(&type->head, __ATOMIC_RELAXED);
    if (hk_fault())
        return NULL;
    if (__builtin_expect(head >> 48 == 0, 0))
        return new_other(runtime, type);
    return object_make(runtime, type, head, type->size, head >> 48, true);
}

hk_object *hk_new_items(hk_runtime *runtime, hk_type *type, size_t count)
{
    size_t size;
    if (__builtin_mul_overflow(count, type->item_size, &size) || __builtin_add_overflow(size, type->size, &size))
        return NULL;
    return object_of_size(runtime, type, size, true);
}

hk_object *hk_new_raw(hk_runtime *runtime, hk_type *type, size_t size)
{
    return object_of_size(runtime, type, size, false);
}

static void untrack_chain(uint64_t chain, unsigned shift)
{
    while (chain != 0) {
        hk_object *object = (hk_object *)(uintptr_t)chain;
        uint64_t head;
        memcpy(&head, object, sizeof(head));
        hk_gc_forget(object);
        chain = head >> shift << (shift - 16);
    }
}

void hk_object_untrack_dead(hk_runtime *runtime)
{
    for (struct hk_releasing *releasing = runtime->releasing; releasing != NULL; releasing = releasing->outer)
        untrack_chain(releasing->chain, 16);
    untrack_chain(runtime->pending, 20);
}

size_t hk_object_memory(const hk_object *object)
{
    const hk_type *type = hk_type_of(object);
    const void *block = object->flags & HK_LARGE ? (const void *)((const struct hk_large *)object - 1) : object;
    size_t size = hk_usable_size(block);
    if (size == 0) /* the C allocator's; or static */
        size = object->flags & HK_LARGE ? hk_libc.usable_size((void *)(uintptr_t)block) : type->size;
    return size + (type->memory != NULL ? type->memory(object) : 0);
}

static inline void untrack(hk_runtime *runtime, hk_object *object)
{
    hk_gc_forget(object);
    runtime->plan.made--;
}

/* It is no more, as far as the recorder is concerned. */
static inline void unrecord(hk_object *object)
{
    if (__builtin_expect(object->flags & HK_SAMPLED, 0)) {
        object->flags &= (uint16_t)~HK_SAMPLED;
        hk_recorder.free(object);
    }
}

void hk_object_unrecord(hk_object *object)
{
    unrecord(object);
}

void hk_object_free(hk_runtime *runtime, hk_object *object, const hk_type *type)
{
    unrecord(object);
    if (type->flags & HK_TYPE_ACYCLIC)
        memory_free(runtime->acyclic, object);
    else
        hk_free_unlocked(runtime->cyclic, object);
}

void hk_object_bury(hk_runtime *runtime, hk_object *object, const hk_type *type)
{
    if ((type->flags & HK_TYPE_FREE_LIST) && hk_free_list_keep(runtime, object, type))
        return;
    if (type->destroy != NULL)
        type->destroy(runtime, object);
    hk_object_free(runtime, object, type);
}

void hk_object_traverse(const void *object, hk_traversal *visitor)
{
    const hk_type *type = hk_type_of(object);
    hk_object *const *words = object;
    for (uint64_t bits = type->pointers; bits != 0; bits &= bits - 1)
        hk_visit(visitor, words[__builtin_ctzll(bits)]);
    if (type->traverse != NULL)
        type->traverse(object, visitor);
}

static uint32_t native_count(const void *object)
{
    return hk_is_immortal(object) ? UINT32_MAX : ((const hk_object *)object)->references;
}

static void native_traverse(const void *object, hk_traversal *visitor)
{
    hk_type_of(object)->traverse(object, visitor);
}

const struct hk_gc_model hk_native_model = {hk_shapes, native_traverse, native_count};

void hk_make_immortal(hk_runtime *runtime, hk_object *object)
{
    object->references = HK_IMMORTAL;
}

/* --- release --- */

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
    unrecord(object);
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
    type->finalize(runtime, object);
    return --object->references != 0;
}

static void release_other(hk_runtime *runtime, hk_object *object);

/* Nothing but its references and its memory has to go. */
static inline bool is_plain(const hk_object *object)
{
    return hk_shapes[object->type].plain != HK_NOT_PLAIN && object->flags == 0;
}

/* As hk_free_unlocked, for a block that lies in the region. */
static inline __attribute__((always_inline)) void block_free(hk_heap *heap, void *block, char *base, struct hk_pool *pools)
{
    struct hk_pool *pool = &pools[(size_t)((char *)block - base) >> HK_POOL_SHIFT];
    void *next = pool->free;
    if (__builtin_expect(next == NULL, 0)) {
        hk_free_slow(heap, block);
        return;
    }
    *(void **)block = next;
    pool->free = block;
    if (__builtin_expect(hk_take_one(&pool->used), 0))
        hk_pool_emptied(pool);
}

/* Something dies that is not plain: somebody else's code may run. */
static __attribute__((noinline)) int32_t release_beside(hk_runtime *runtime, hk_object *object, hk_object *chain, int32_t died)
{
    struct hk_releasing releasing = {runtime->releasing, (uint64_t)(uintptr_t)chain};
    runtime->releasing = &releasing;
    runtime->plan.made -= died;
    release_other(runtime, object);
    runtime->releasing = releasing.outer;
    return 0;
}

/* A plain object is dead with no more ado. What it referred to, on a stack, is to lose a reference each. It is not in the cache,
 * often: what comes from the stack is asked for, and waits in a ring until that has gone round. Dead objects for which the
 * stack has no room wait in a chain, linked as above. */
static __attribute__((noinline)) void release_plain(hk_runtime *runtime, hk_object *dead, hk_object *chain)
{
    enum { STACK = 128, RING = 8 };
    hk_object *stack[STACK + 64], *ring[RING];
    size_t top = 0, turn = 0, in_ring = 0;
    int32_t died = 0;
    char *base = hk_region.base;
    struct hk_pool *pools = hk_region.pools;
    for (;;) {
        if (dead != NULL && __builtin_expect(top > STACK, 0)) {
            chain = hk_object_chain(dead, chain);
        } else if (dead != NULL) {
            const struct hk_gc_shape *shape = &hk_shapes[dead->type];
            hk_object **place = (hk_object **)dead + shape->first, **end = place + shape->count;
            for (; place < end; place++) {
                stack[top] = *place;
                top += *place != NULL;
            }
            for (uint64_t bits = shape->scattered; bits != 0; bits &= bits - 1) {
                stack[top] = ((hk_object **)dead)[__builtin_ctzll(bits)];
                top += stack[top] != NULL;
            }
            if (shape->plain == HK_PLAIN) {
                died++;
                hk_gc_forget(dead);
                block_free(runtime->cyclic, dead, base, pools);
            } else {
                block_free(runtime->acyclic, dead, base, pools);
            }
        }
        hk_object *next;
        dead = NULL;
        if (top > 0) {
            hk_object *later = stack[--top];
            __builtin_prefetch(later, 1);
            if (in_ring < RING) {
                ring[(turn + in_ring++) % RING] = later;
                continue;
            }
            next = ring[turn % RING];
            ring[turn++ % RING] = later;
        } else if (in_ring > 0) {
            in_ring--;
            next = ring[turn++ % RING];
        } else if (chain != NULL) {
            uint64_t head;
            dead = chain;
            memcpy(&head, dead, sizeof(head));
            chain = (hk_object *)(uintptr_t)(head >> 16);
            dead->type = (uint16_t)head;
            continue;
        } else {
            break;
        }
        if (hk_is_immortal(next) || --next->references != 0)
            continue;
        if (__builtin_expect(is_plain(next), 1))
            dead = next;
        else
            died = release_beside(runtime, next, chain, died);
    }
    runtime->plan.made -= died;
}

static void release_other(hk_runtime *runtime, hk_object *object)
{
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
    if (__builtin_expect(!is_plain(object), 0)) {
        release_other(runtime, object);
        return;
    }
    const struct hk_gc_shape *shape = &hk_shapes[object->type];
    hk_object **place = (hk_object **)object + shape->first, **end = place + shape->count;
    while (place < end && *place == NULL)
        place++;
    if (place < end || shape->scattered != 0) {
        release_plain(runtime, object, NULL);
        return;
    }
    if (shape->plain == HK_PLAIN) {
        runtime->plan.made--;
        hk_gc_forget(object);
        block_free(runtime->cyclic, object, hk_region.base, hk_region.pools);
    } else {
        block_free(runtime->acyclic, object, hk_region.base, hk_region.pools);
    }
}

void hk_object_release_chain(hk_runtime *runtime, hk_object *chain)
{
    release_plain(runtime, NULL, chain);
}

/* --- runtimes --- */

static bool arenas_added(hk_heap *heap, void *start, size_t size)
{
    return hk_gc_tables_commit(start, size);
}

static hk_heap *heap_create(const char *name, int domain)
{
    hk_heap *heap = hk_heap_create(&(hk_heap_options){.size = sizeof(hk_heap_options), .lock = HK_LOCK_HOST, .name = name});
    if (heap != NULL) {
        heap->arenas_added = arenas_added;
        heap->domain = (int16_t)domain;
    }
    return heap;
}

/* Blocks that the recorder knows. Objects stay where the collector and the end of the runtime find them; memory beside objects has
 * a heap for them, as Python's domains do. */
static void record(hk_runtime *runtime)
{
    if (hk_recorder.draw == NULL)
        return;
    hk_heap *watched = hk_heap_create(
        &(hk_heap_options){.size = sizeof(hk_heap_options), .name = "memory, sampled", .debug = HK_DEBUG_OFF});
    if (watched != NULL) {
        watched->is_watched = true;
        watched->domain = HK_DOMAIN_MEM;
    }
    runtime->memory->watched = watched;
    runtime->cyclic->watched = runtime->cyclic;
    runtime->acyclic->watched = runtime->acyclic;
}

static bool unrecord_visited(const hk_pool_info *pool, void *block, hk_block_state state, void *unused)
{
    if (block != NULL && state == HK_BLOCK_ALLOCATED)
        hk_recorder.free(block);
    return true;
}

static void record_end(hk_runtime *runtime)
{
    hk_heap *watched = runtime->memory->watched;
    if (watched != NULL)
        hk_heap_visit(watched, unrecord_visited, NULL);
    hk_heap_destroy(watched);
}

hk_runtime *hk_runtime_create(const hk_runtime_options *options)
{
    hk_runtime *runtime = hk_os_map(sizeof(*runtime));
    if (runtime == NULL)
        return NULL;
    const char *name = options != NULL && options->name != NULL ? options->name : "runtime";
    runtime->cyclic = heap_create(name, HK_DOMAIN_OBJECT);
    runtime->acyclic = heap_create("acyclic", HK_DOMAIN_OBJECT);
    runtime->memory = heap_create("memory", HK_DOMAIN_MEM);
    if (runtime->cyclic == NULL || runtime->acyclic == NULL || runtime->memory == NULL || !hk_gc_tables_init()) {
        hk_heap_destroy(runtime->cyclic);
        hk_heap_destroy(runtime->acyclic);
        hk_heap_destroy(runtime->memory);
        hk_os_unmap(runtime, sizeof(*runtime));
        return NULL;
    }
    runtime->heaps[0] = runtime->cyclic;
    runtime->heaps[HK_TYPE_ACYCLIC] = runtime->acyclic;
    hk_plan_init(&runtime->plan);
    runtime->enabled = options == NULL || !options->manual_gc;
    hk_collect_begin_runtime(runtime);
    hk_free_lists_begin(runtime);
    record(runtime);
    return runtime;
}

/* The end: nothing is released by counts any more, so that finalizers can use what they reach. */
static void end_object(hk_runtime *runtime, hk_object *object)
{
    const hk_type *type = hk_type_of(object);
    object->references = HK_IMMORTAL;
    if (type->finalize != NULL && !(object->flags & HK_FINALIZED) && !hk_gc_array_push(&runtime->garbage, object))
        hk_object_finalize(runtime, object, type);
}

static bool end_visited(const hk_pool_info *pool, void *block, hk_block_state state, void *runtime)
{
    if (block != NULL && state == HK_BLOCK_ALLOCATED)
        end_object(runtime, block);
    return true;
}

static bool destroy_visited(const hk_pool_info *pool, void *block, hk_block_state state, void *runtime)
{
    if (block == NULL || state != HK_BLOCK_ALLOCATED)
        return true;
    if (hk_type_of(block)->destroy != NULL)
        hk_type_of(block)->destroy(runtime, block);
    unrecord(block);
    return true;
}

static void end_objects(hk_runtime *runtime)
{
    hk_heap_visit(runtime->cyclic, end_visited, runtime);
    hk_heap_visit(runtime->acyclic, end_visited, runtime);
    for (struct hk_large *large = runtime->large.next; large != NULL; large = large->next)
        if (large->is_object)
            end_object(runtime, (hk_object *)(large + 1));
    for (size_t i = 0; i < runtime->garbage.count; i++) {
        hk_object *object = runtime->garbage.items[i];
        hk_object_finalize(runtime, object, hk_type_of(object));
    }
    hk_heap_visit(runtime->cyclic, destroy_visited, runtime);
    hk_heap_visit(runtime->acyclic, destroy_visited, runtime);
    for (struct hk_large *large = runtime->large.next; large != NULL; large = large->next)
        if (large->is_object)
            destroy_visited(NULL, large + 1, HK_BLOCK_ALLOCATED, runtime);
}

void hk_runtime_destroy(hk_runtime *runtime)
{
    if (runtime == NULL)
        return;
    hk_collect_end_runtime(runtime);
    hk_gc_garbage_clear(runtime);
    hk_free_lists_trim(runtime);
    for (int i = 1; i < HK_FREE_LISTS; i++)
        runtime->free_lists[i].limit = 0; /* what finalizers do from here on is not kept */
    end_objects(runtime);
    hk_gc_array_free(&runtime->garbage);
    hk_frames_end(&runtime->frames);
    while (runtime->large.next != NULL) {
        struct hk_large *large = runtime->large.next;
        large_unlink(large);
        hk_free(runtime->memory, large);
    }
    for (struct hk_arena *arena = runtime->cyclic->arenas; arena != NULL; arena = arena->next)
        hk_gc_arena_clear(arena);
    record_end(runtime);
    hk_heap_destroy(runtime->cyclic);
    hk_heap_destroy(runtime->acyclic);
    hk_heap_destroy(runtime->memory);
    if (runtime->interned.items != NULL)
        hk_os_unmap(runtime->interned.items, runtime->interned.capacity * sizeof(*runtime->interned.items));
    if (runtime->weak.entries != NULL)
        hk_os_unmap(runtime->weak.entries, runtime->weak.capacity * sizeof(*runtime->weak.entries));
    hk_os_unmap(runtime, sizeof(*runtime));
}
