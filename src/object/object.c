/* Making objects; types; memory beside objects; the beginning and the end of a runtime.
 *
 * Making an object tells the collector nothing, since it may die before the next collection: see tables.h. */
#include <string.h>

#include "object/runtime.h"

/* Exported, all of it, though nobody else has to do with it: where a program is linked with this library and has it preloaded as well,
 * the constructors of both run, and give the same types their numbers. */
hk_type *hk_types[1 << 16];
HK_API struct hk_gc_shape hk_shapes[1 << 16];
HK_API struct {
    uint32_t plain, others; /* how many; plain ones have the numbers from 1 on, the others those from HK_NOT_PLAIN on */
    uint32_t free_lists;
    hk_lock lock;
} hk_types_register;

#define ZEROED_HERE 256 /* bytes of an object that are cleared faster in a loop than by memset */

/* --- types --- */

static bool is_plain(const hk_type *type)
{
    bool destroys = type->destroy != NULL && !(type->flags & HK_TYPE_DESTROYS_FLAGGED);
    return type->traverse == NULL && type->clear == NULL && type->finalize == NULL && !destroys && type->free_list == 0;
}

static struct hk_gc_shape shape_of(const hk_type *type)
{
    struct hk_gc_shape shape = {.scattered = type->pointers & ~(uint64_t)1, .traversed = type->traverse != NULL};
    shape.plain = is_plain(type);
    shape.cyclic = !(type->flags & HK_TYPE_ACYCLIC);
    if (shape.scattered != 0) {
        shape.first = (uint8_t)__builtin_ctzll(shape.scattered);
        shape.count = (uint8_t)__builtin_ctzll(~(shape.scattered >> shape.first)); /* bit 0 is 0, so there is one */
        shape.scattered &= ~((((uint64_t)1 << shape.count) - 1) << shape.first);
    }
    return shape;
}

/* The head of its objects; above it, where that has its flags, the class of its blocks, with a bit more if they are acyclic. Or 0 there:
 * hk_new is to take the long way. In one word, since another thread may be reading it. */
static uint64_t head_of(const hk_type *type, uint32_t number)
{
    uint64_t size_class = type->free_list == 0 && type->size <= ZEROED_HERE ? (type->size + HK_STEP - 1) / HK_STEP : 0;
    uint64_t acyclic = size_class != 0 && type->flags & HK_TYPE_ACYCLIC ? HK_HEAD_ACYCLIC : 0;
    return 1 | (uint64_t)number << 32 | size_class << 48 | acyclic;
}

/* 0: there is none left. */
static uint32_t number_for(const hk_type *type)
{
    if (is_plain(type))
        return hk_types_register.plain + 1 < HK_NOT_PLAIN ? ++hk_types_register.plain : 0;
    return hk_types_register.others < HK_NOT_PLAIN ? HK_NOT_PLAIN + hk_types_register.others++ : 0;
}

bool hk_type_ready(hk_type *type)
{
    hk_lock_take(&hk_types_register.lock);
    bool wants_list = (type->flags & HK_TYPE_FREE_LIST) && type->item_size == 0;
    if (type->number == 0 && wants_list && type->free_list == 0 && hk_types_register.free_lists + 1 < HK_FREE_LISTS)
        __atomic_store_n(&type->free_list, ++hk_types_register.free_lists, __ATOMIC_RELAXED);
    uint32_t number = type->number == 0 ? number_for(type) : 0;
    if (number != 0) {
        hk_types[number] = type;
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
        hk_large_free(heap, block); /* no addresses left in the region */
        return NULL;
    }
    struct hk_large *large = size > PTRDIFF_MAX ? NULL : hk_malloc(heap, size + sizeof(*large));
    if (large == NULL)
        return NULL;
    hk_plan_large(&runtime->plan, size);
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

/* Both sizes are those of large blocks. NULL: it is as it was. */
static void *large_resize(hk_runtime *runtime, hk_heap *heap, void *memory, size_t size)
{
    if (size > PTRDIFF_MAX || hk_fault())
        return NULL;
    struct hk_large *large = (struct hk_large *)memory - 1, *moved;
    large_unlink(large);
    hk_plan_large(&runtime->plan, size);
    moved = hk_realloc(heap, large, size + sizeof(*large));
    large_link(runtime, moved != NULL ? moved : large);
    return moved != NULL ? moved + 1 : NULL;
}

void *hk_memory_resize(hk_runtime *runtime, void *memory, size_t size)
{
    if (memory == NULL)
        return hk_memory(runtime, size);
    if (!hk_region_has(memory) && size > HK_BLOCK_MAX)
        return large_resize(runtime, runtime->memory, memory, size);
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
    if (__builtin_expect(size > ZEROED_HERE, 0))
        return zero_much(object, size);
    ((uint64_t *)object)[1] = 0;
    if (size <= 16)
        return object;
    *(zeroes *)((char *)object + 16) = (zeroes){0, 0};
    for (size_t at = 32; at < size; at += 16) {
        *(zeroes *)((char *)object + at) = (zeroes){0, 0};
        __asm__("" : "+r"(at)); /* a call, and the processor's instruction for it, which gcc would put here, take longer */
    }
    return object;
}

/* There was no block for an object in the region: it is one that the recorder is to know, or there is none. */
static __attribute__((noinline)) hk_object *not_here(hk_heap *heap, void *elsewhere, size_t size, uint16_t *flags)
{
    hk_large_free(heap, elsewhere);
    hk_object *object = size <= HK_BLOCK_MAX ? hk_malloc_due(heap, size) : NULL;
    *flags |= HK_SAMPLED;
    if (hk_region_has(object))
        return object;
    hk_large_free(heap, object);
    return NULL;
}

/* An object that the collector looks at and that is larger than a block: a run of pools (heap/runs.c), so that the tables have a
 * place for it. */
static hk_object *large_cyclic(hk_runtime *runtime, size_t size, uint16_t *flags)
{
    hk_heap *heap = runtime->cyclic;
    if (size > PTRDIFF_MAX)
        return NULL;
    hk_object *object = hk_run_malloc(heap, HK_POOL_SIZE, size);
    if (object == NULL && hk_heap_reclaim(heap))
        object = hk_run_malloc(heap, HK_POOL_SIZE, size);
    uint64_t mean;
    if (object != NULL && (heap->budget -= (int64_t)size) < 0 && hk_budget_expire(heap, &mean)) {
        hk_recorder.allocation(object, size, mean, heap->domain);
        *flags |= HK_SAMPLED;
    }
    if (object != NULL) {
        hk_plan_large(&runtime->plan, size);
        runtime->run_bytes += hk_pool_block_bytes(hk_pool_of(object));
    }
    return object;
}

static __attribute__((noinline)) hk_object *object_new(hk_runtime *runtime, hk_type *type, size_t size, bool zeroed)
{
    if (type->number == 0 && !hk_type_ready(type))
        return NULL;
    bool cyclic = !(type->flags & HK_TYPE_ACYCLIC);
    if (__builtin_expect(runtime->watch != NULL, 0))
        hk_watch_enter(runtime, "hk_new");
    if (cyclic && runtime->plan.left <= 0)
        hk_collect_automatic(runtime);
    uint16_t flags = size > HK_BLOCK_MAX ? HK_LARGE : 0;
    hk_object *object;
    if (cyclic && size > HK_BLOCK_MAX) {
        if ((object = large_cyclic(runtime, size, &flags)) == NULL)
            return NULL;
        hk_collect_made(runtime, object);
    } else if (cyclic) {
        object = hk_malloc_unlocked(runtime->cyclic, size);
        if (!hk_region_has(object)) {
            object = not_here(runtime->cyclic, object, size, &flags);
            if (object == NULL)
                return NULL;
        }
        runtime->plan.left--;
    } else {
        object = memory_malloc(runtime, runtime->acyclic, size);
        if (object == NULL && (object = not_here(runtime->acyclic, NULL, size, &flags)) == NULL)
            return NULL;
    }
    object->references = 1;
    object->type = (uint16_t)type->number;
    object->flags = flags;
    if (__builtin_expect(runtime->watch != NULL, 0))
        hk_watch_made(runtime, object, type, size);
    return zeroed ? zero_behind_head(object, size) : object;
}

/* The long way, of an object that is not a block at hand since a collection or a sample is due: what it was charged is taken back. */
static __attribute__((noinline)) hk_object *object_due(hk_runtime *runtime, hk_type *type, size_t size, bool counted, size_t budgeted, bool zeroed)
{
    runtime->plan.left += counted;
    hk_heap_of_type(runtime, type)->budget += (int64_t)budgeted;
    return object_new(runtime, type, size, zeroed);
}

/* First a block of a small class whose pool has one, while nothing is due, neither a collection nor a sample; otherwise the
 * long way. */
static inline __attribute__((always_inline)) hk_object *object_make(hk_runtime *runtime, hk_type *type, uint64_t head, size_t size,
                                                                    size_t size_class, bool cyclic, bool zeroed)
{
    hk_heap *heap = cyclic ? runtime->cyclic : runtime->acyclic;
    struct hk_pool *pool = heap->current[size_class];
    hk_object *object = pool->free;
    if (__builtin_expect(object == NULL, 0))
        return object_new(runtime, type, size, zeroed);
    if (__builtin_expect(cyclic && --runtime->plan.left < 0, 0))
        return object_due(runtime, type, size, cyclic, 0, zeroed);
    if (__builtin_expect((heap->budget -= (int64_t)size) < 0, 0))
        return object_due(runtime, type, size, cyclic, size, zeroed);
    pool->free = *(void **)object;
    __builtin_prefetch(pool->free, 1); /* it is read by the next one, which would wait */
    head = head << 16 >> 16;
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
    size_t size_class = (size + HK_STEP - 1) / HK_STEP;
    return type->flags & HK_TYPE_ACYCLIC ? object_make(runtime, type, head, size, size_class, false, zeroed)
                                         : object_make(runtime, type, head, size, size_class, true, zeroed);
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
    int64_t size_class = (int64_t)head >> 48;
    if (__builtin_expect(size_class == 0, 0))
        return new_other(runtime, type);
    size_t size = type->size;
    if (size > ZEROED_HERE)
        __builtin_unreachable(); /* see head_of */
    if (size_class < 0) /* HK_HEAD_ACYCLIC */
        return object_make(runtime, type, head, size, (size_t)(size_class & INT16_MAX), false, true);
    return object_make(runtime, type, head, size, (size_t)size_class, true, true);
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

hk_object *hk_object_resize_large(hk_runtime *runtime, hk_object *object, size_t size)
{
    return large_resize(runtime, runtime->acyclic, object, size);
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
    bool has_head = (object->flags & HK_LARGE) && !hk_region_has(object);
    const void *block = has_head ? (const void *)((const struct hk_large *)object - 1) : object;
    size_t size = hk_usable_size(block);
    if (size == 0) /* the C allocator's; or static */
        size = has_head ? hk_libc.usable_size((void *)(uintptr_t)block) : type->size;
    return size + (type->memory != NULL ? type->memory(object) : 0);
}

void hk_object_give_back(hk_runtime *runtime, hk_object *object, const hk_type *type)
{
    if (type->flags & HK_TYPE_ACYCLIC) {
        memory_free(runtime->acyclic, object);
        return;
    }
    const struct hk_pool *pool = hk_pool_of(object);
    if (pool->place == HK_PLACE_RUN)
        runtime->run_bytes -= hk_pool_block_bytes(pool);
    hk_free_unlocked(runtime->cyclic, object);
}

void hk_object_free(hk_runtime *runtime, hk_object *object, const hk_type *type)
{
    hk_object_unrecord(object);
    if (__builtin_expect(runtime->watch != NULL, 0))
        hk_watch_bury(runtime, object, type);
    else
        hk_object_give_back(runtime, object, type);
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

/* --- runtimes --- */

static bool arenas_added(hk_heap *heap, void *start, size_t size)
{
    return hk_gc_tables_commit(start, size);
}

/* Objects refer to each other across the heap, so that it is sooner too large for what the processor remembers of small pages than one
 * that is used in one place at a time. */
#define HUGE_FROM ((size_t)4 << 20)

static hk_heap *heap_create(const char *name, int domain, int debug)
{
    hk_heap *heap = hk_heap_create(&(hk_heap_options){
        .size = sizeof(hk_heap_options), .lock = HK_LOCK_HOST, .name = name, .debug = debug});
    if (heap != NULL) {
        heap->arenas_added = arenas_added;
        heap->huge_from = HUGE_FROM / HK_ARENA_SIZE;
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
    hk_immortals_begin();
    hk_large_expect();
    const char *name = options != NULL && options->name != NULL ? options->name : "runtime";
    bool says = options != NULL && options->size >= offsetof(hk_runtime_options, debug) + sizeof(options->debug);
    int debug = says ? options->debug : HK_DEBUG_DEFAULT;
    runtime->cyclic = heap_create(name, HK_DOMAIN_OBJECT, debug);
    runtime->acyclic = heap_create("acyclic", HK_DOMAIN_OBJECT, debug);
    runtime->memory = heap_create("memory", HK_DOMAIN_MEM, debug);
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
    runtime->acyclic->listener = runtime;
    hk_watch_begin(runtime);
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
    hk_object_unrecord(block);
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
    if (runtime->collecting || runtime->calling > 0 || runtime->depth > 0 || runtime->visiting) {
        hk_watch_misuse(runtime, "hk_runtime_destroy: called by a finalizer, a callback or another function that the runtime is calling");
        return;
    }
    hk_watch_end(runtime);
    hk_collect_end_runtime(runtime);
    hk_gc_garbage_clear(runtime);
    hk_free_lists_trim(runtime);
    for (int i = 1; i < HK_FREE_LISTS; i++)
        runtime->free_lists[i].limit = 0; /* what finalizers do from here on is not kept */
    end_objects(runtime);
    hk_watch_over(runtime);
    hk_gc_array_free(&runtime->garbage);
    hk_frames_end(&runtime->frames);
    while (runtime->large.next != NULL) {
        struct hk_large *large = runtime->large.next;
        large_unlink(large);
        hk_free(large->is_object ? runtime->acyclic : runtime->memory, large);
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
