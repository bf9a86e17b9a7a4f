/* Making and releasing objects.
 *
 * A release that leads to further releases nests, up to 32 deep. What is released deeper waits in a chain, until the outermost
 * release is done and takes it from there. So a list of any length needs the C stack of 32 releases. The chain needs no memory:
 * an object that waits is dead in all but its memory and references, so its head has room for the link. Its 64 bits hold
 *
 *      16  type      4  flags      44  address of the next one, divided by 16
 *
 * Before that its finalizer has run, its weak references are cleared, and the collector no longer knows it: nothing looks at the
 * head any more. */
#include <string.h>

#include "object/runtime.h"

#define MAX_DEPTH 32

hk_type *hk_types[1 << 16];
static uint32_t types_count; /* type 0 is none */
static uint32_t free_lists_count;
static hk_lock types_lock;

/* --- types --- */

bool hk_type_ready(hk_type *type)
{
    hk_lock_take(&types_lock);
    if (type->number == 0 && types_count < UINT16_MAX) {
        hk_types[++types_count] = type;
        if ((type->flags & HK_TYPE_FREE_LIST) && type->item_size == 0 && free_lists_count + 1 < HK_FREE_LISTS)
            __atomic_store_n(&type->free_list, ++free_lists_count, __ATOMIC_RELAXED);
        __atomic_store_n(&type->number, types_count, __ATOMIC_RELEASE);
    }
    hk_lock_release(&types_lock);
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
    return memory_malloc(runtime, runtime->memory, size);
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
        if (size > PTRDIFF_MAX)
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

static inline void zero_behind_head(hk_object *object, size_t size)
{
    uint64_t *words = (uint64_t *)object;
    if (size > 128)
        memset(words + 1, 0, size - 8);
    else
        for (size_t i = 1; i < (size + 7) / 8; i++)
            words[i] = 0; /* sooner done than called */
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

static inline __attribute__((always_inline)) hk_object *object_new(hk_runtime *runtime, hk_type *type, size_t size,
                                                                        bool zeroed)
{
    if (__builtin_expect(type->number == 0, 0) && !hk_type_ready(type))
        return NULL;
    bool cyclic = !(type->flags & HK_TYPE_ACYCLIC);
    if (cyclic && __builtin_expect(runtime->plan.made >= runtime->plan.young_limit, 0))
        hk_collect_automatic(runtime);
    uint16_t flags = size > HK_BLOCK_MAX ? HK_LARGE : 0;
    hk_object *object;
    if (cyclic) {
        object = size <= HK_BLOCK_MAX ? hk_malloc_unlocked(runtime->cyclic, size) : NULL;
        if (__builtin_expect(!hk_region_has(object), 0)) {
            object = not_here(runtime->cyclic, object, size, &flags);
            if (object == NULL)
                return NULL;
        }
        runtime->plan.made++;
        size_t granule = hk_granule_of(object);
        hk_word_of(granule)->tracked |= hk_bit_of(granule);
    } else {
        object = memory_malloc(runtime, runtime->acyclic, size);
        if (__builtin_expect(object == NULL, 0) && (object = not_here(runtime->acyclic, NULL, size, &flags)) == NULL)
            return NULL;
    }
    if (zeroed)
        zero_behind_head(object, size);
    object->references = 1;
    object->type = (uint16_t)type->number;
    object->flags = flags;
    return object;
}

hk_object *hk_new(hk_runtime *runtime, hk_type *type)
{
    hk_object *kept = type->flags & HK_TYPE_FREE_LIST ? hk_free_list_take(runtime, type) : NULL;
    return kept != NULL ? kept : object_new(runtime, type, type->size, true);
}

hk_object *hk_new_items(hk_runtime *runtime, hk_type *type, size_t count)
{
    size_t size;
    if (__builtin_mul_overflow(count, type->item_size, &size) || __builtin_add_overflow(size, type->size, &size))
        return NULL;
    return object_new(runtime, type, size, true);
}

hk_object *hk_new_raw(hk_runtime *runtime, hk_type *type, size_t size)
{
    return object_new(runtime, type, size, false);
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

const struct hk_gc_model hk_native_model = {hk_object_traverse, native_count};

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

void hk_release(hk_runtime *runtime, hk_object *object)
{
    const hk_type *type = hk_type_of(object);
    if (type->finalize != NULL && !(object->flags & HK_FINALIZED) && hk_object_finalize(runtime, object, type))
        return;
    if (__builtin_expect(object->flags & HK_HAS_WEAKREFS, 0))
        hk_weakrefs_clear(runtime, object);
    if (!(type->flags & HK_TYPE_ACYCLIC))
        untrack(runtime, object);
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
