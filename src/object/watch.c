/* Debug mode of a runtime: each object is known, with where it was made and where it died, in the table that debug mode of the heap
 * has for its blocks (heap/debug.h). What that finds is misuse of memory; this, of references.
 *
 *      state of a record     the object
 *      HK_DEBUG_WATCHED      lives. It has HK_WATCHED among its flags, so that its release takes the long way, and is looked at
 *      HK_DEBUG_BURIED       is dead, and waits in a ring: filled with DD behind a head with one reference and type 0. So it dies
 *                            again with the next reference that is given up, and every function of type 0 reports
 *      (no record)           has left the ring: its memory is the heap's again
 *
 * All objects are checked before a full collection and at the end: counts against the references that are found, what these lead
 * to. At the end those that something refers to in secret are found by looking through the blocks of others, as if
 * each 8 bytes were a reference.
 *
 * A runtime that is not in debug mode has `watch` NULL, and pays for it where an object takes the long way only. In one that is, the
 * budget of the heap is used up by each object, so that all take it. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "heap/debug.h"
#include "object/runtime.h"

enum { RING = 1 << 14 };
#define RING_BYTES ((size_t)16 << 20)

struct hk_watch {
    hk_object *ring[RING];
    uint32_t first, count;
    size_t bytes;
    uint64_t serials;
    const void *self; /* the thread that used the runtime last, */
    uint32_t thread;  /* and its number */
    bool ended;
};

static const hk_object dead_head = {1, 0, HK_WATCHED};

/* --- reports --- */

/* Copies the object's record. False: there is none. */
static bool record_of(const hk_object *object, struct hk_debug_record *copy)
{
    struct hk_debug_shard *shard = hk_debug_shard_of(object);
    hk_lock_take(&shard->lock);
    const struct hk_debug_record *record = hk_debug_find(shard, object);
    bool known = record != NULL && record->state >= HK_DEBUG_WATCHED;
    if (known)
        *copy = *record;
    hk_lock_release(&shard->lock);
    return known;
}

static void report(const struct hk_debug_record *record, const void *changed, const char *found, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void report(const struct hk_debug_record *record, const void *changed, const char *found, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    hk_debug_report(&(struct hk_debug_finding){.what = text, .found = found, .record = record, .changed = changed});
}

static const char *name_of(const struct hk_debug_record *record)
{
    return hk_types[record->note]->name;
}

static const char *name_of_runtime(const hk_heap *heap)
{
    return heap->listener != NULL ? ((const hk_runtime *)heap->listener)->cyclic->name : heap->name;
}

static bool is_ours(const hk_runtime *runtime, const struct hk_debug_record *record)
{
    return record->heap == runtime->cyclic || record->heap == runtime->acyclic;
}

void hk_watch_misuse(const hk_runtime *runtime, const char *what)
{
    if (runtime->watch != NULL)
        report(NULL, NULL, NULL, "%s", what);
}

/* --- type 0: what is dead --- */

static void used(const hk_object *object, const char *what)
{
    struct hk_debug_record record;
    if (record_of(object, &record))
        report(&record, NULL, NULL, "use after free: %s a \"%s\" that has died", what, name_of(&record));
}

static void dead_traverse(const hk_object *self, hk_traversal *unused)
{
    used(self, "the references were wanted of");
}

static uint64_t dead_hash(const hk_object *self)
{
    used(self, "the hash was wanted of");
    return 0;
}

static bool dead_equal(const hk_object *self, const hk_object *other)
{
    used(self, "something was compared with");
    return false;
}

static hk_object *dead_iterate(hk_runtime *runtime, hk_object *self)
{
    used(self, "an iterator was wanted over");
    return NULL;
}

static int dead_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    used(self, "the next item was wanted of");
    return -1;
}

static size_t dead_memory(const hk_object *self)
{
    used(self, "the size was wanted of");
    return 0;
}

static hk_type dead_type = {.name = "dead object", .size = sizeof(hk_object), .traverse = dead_traverse, .hash = dead_hash,
                            .equal = dead_equal, .iterate = dead_iterate, .next = dead_next, .memory = dead_memory};

/* --- threads and times --- */

void hk_watch_enter(hk_runtime *runtime, const char *function)
{
    struct hk_watch *watch = runtime->watch;
    if (runtime->visiting)
        report(NULL, NULL, NULL, "%s: called while objects are gone through, by a traverse function or one of hk_gc_get_objects", function);
    if (watch->self == __builtin_thread_pointer())
        return;
    uint32_t thread = (uint32_t)syscall(SYS_gettid);
    bool is_busy = runtime->collecting || runtime->calling > 0 || runtime->depth > 0 || runtime->frames.depth > 0;
    if (is_busy)
        report(NULL, NULL, NULL, "%s: wrong thread: runtime \"%s\" is used by thread %u while thread %u %s", function,
               runtime->cyclic->name, thread, watch->thread, runtime->frames.depth > 0 ? "has frames in it" : "is in it");
    watch->self = __builtin_thread_pointer();
    watch->thread = thread;
}

/* --- an object's life --- */

void hk_watch_made(hk_runtime *runtime, hk_object *object, const hk_type *type, size_t size)
{
    hk_heap *heap = hk_heap_of_type(runtime, type);
    struct hk_debug_shard *shard = hk_debug_shard_of(object);
    uint32_t site = hk_debug_site(heap->domain);
    heap->budget_start -= heap->budget; /* the next one comes here, too; what was used of it stays the same */
    heap->budget = 0;
    hk_lock_take(&shard->lock);
    struct hk_debug_record *record = hk_debug_insert(shard, object);
    if (record != NULL) {
        record->heap = heap;
        record->size = size;
        record->serial = ++runtime->watch->serials;
        record->state = HK_DEBUG_WATCHED;
        record->note = type->number;
        record->allocated = site;
        record->allocated_by = runtime->watch->thread;
        object->flags |= HK_WATCHED;
    }
    hk_lock_release(&shard->lock);
}

void hk_watch_release(hk_runtime *runtime, hk_object *object)
{
    struct hk_debug_record record;
    if (!record_of(object, &record))
        return;
    if (record.state == HK_DEBUG_BURIED)
        report(&record, NULL, "when a reference was given up", "use after free: a reference to a \"%s\" was given up that has died",
               name_of(&record));
    if (!is_ours(runtime, &record))
        report(&record, NULL, "when its last reference was given up", "wrong runtime: a \"%s\" of runtime \"%s\" was given to \"%s\"",
               name_of(&record), name_of_runtime(record.heap), runtime->cyclic->name);
    hk_watch_enter(runtime, "hk_decref");
}

static const unsigned char *first_changed(const hk_object *object, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)object;
    if (memcmp(bytes, &dead_head, sizeof(dead_head)) != 0)
        return bytes;
    for (size_t i = sizeof(dead_head); i < size; i++)
        if (bytes[i] != HK_DEBUG_DEAD)
            return bytes + i;
    return NULL;
}

static void look_at_dead(const hk_object *object, const struct hk_debug_record *record, const char *found)
{
    const unsigned char *changed = first_changed(object, record->size);
    if (changed == (const unsigned char *)object)
        report(record, changed, found, "use after free: the head was changed of a \"%s\" that has died (a reference was taken?)",
               name_of(record));
    if (changed != NULL)
        report(record, changed, found, "use after free: something was written into a \"%s\" that has died", name_of(record));
}

/* The oldest one's time is over. */
static void leave(hk_runtime *runtime, const char *found)
{
    struct hk_watch *watch = runtime->watch;
    hk_object *object = watch->ring[watch->first];
    struct hk_debug_record copy = {0};
    watch->first = (watch->first + 1) % RING;
    watch->count--;
    if (!record_of(object, &copy))
        return;
    look_at_dead(object, &copy, found);
    watch->bytes -= copy.size;
    struct hk_debug_shard *shard = hk_debug_shard_of(object);
    hk_lock_take(&shard->lock);
    hk_debug_remove(shard, hk_debug_find(shard, object));
    hk_lock_release(&shard->lock);
    hk_object_give_back(runtime, object, hk_types[copy.note]);
}

void hk_watch_bury(hk_runtime *runtime, hk_object *object, const hk_type *type)
{
    struct hk_watch *watch = runtime->watch;
    struct hk_debug_shard *shard = hk_debug_shard_of(object);
    uint32_t site = hk_debug_site(HK_DOMAIN_OBJECT);
    hk_lock_take(&shard->lock);
    struct hk_debug_record *record = hk_debug_find(shard, object);
    bool waits = record != NULL && !watch->ended && record->size < RING_BYTES / 4;
    size_t size = waits ? record->size : 0;
    if (waits) {
        record->state = HK_DEBUG_BURIED;
        record->freed = site;
        record->freed_by = watch->thread;
    } else if (record != NULL) {
        hk_debug_remove(shard, record);
    }
    hk_lock_release(&shard->lock);
    if (!waits) {
        hk_object_give_back(runtime, object, type);
        return;
    }
    memset(object, HK_DEBUG_DEAD, size);
    memcpy(object, &dead_head, sizeof(dead_head));
    while (watch->count == RING || (watch->count > 0 && watch->bytes + size > RING_BYTES))
        leave(runtime, "when it had waited long enough");
    watch->ring[(watch->first + watch->count++) % RING] = object;
    watch->bytes += size;
}

void hk_watch_let_go(hk_runtime *runtime)
{
    while (runtime->watch != NULL && runtime->watch->count > 0)
        leave(runtime, "when all that waited was let go");
}

void hk_watch_untrack(const hk_runtime *runtime)
{
    const struct hk_watch *watch = runtime->watch;
    for (uint32_t i = 0; watch != NULL && i < watch->count; i++) {
        const hk_object *object = watch->ring[(watch->first + i) % RING];
        if (hk_region_has(object))
            hk_gc_forget(object);
    }
}

/* --- all objects --- */

/* Those of the runtime that live, but for immortal ones. False: no memory to note them. */
static bool all_objects(hk_runtime *runtime, struct hk_gc_array *all)
{
    bool good = true;
    for (uint32_t s = 0; s < HK_DEBUG_SHARDS; s++) {
        struct hk_debug_shard *shard = &hk_debug_shards[s];
        hk_lock_take(&shard->lock);
        for (uint32_t i = 0; i < shard->capacity; i++) {
            struct hk_debug_record *record = &shard->slots[i];
            if (record->block != 0 && record->state == HK_DEBUG_WATCHED && is_ours(runtime, record)) {
                record->found = 0;
                good = good && hk_gc_array_push(all, (void *)record->block);
            }
        }
        hk_lock_release(&shard->lock);
    }
    return good;
}

struct checking {
    hk_runtime *runtime;
    const hk_object *holder;
    struct hk_gc_array named; /* what the holder says that it refers to */
};

static void count_child(hk_object *child, void *argument)
{
    struct checking *checking = argument;
    struct hk_debug_shard *shard = hk_debug_shard_of(child);
    hk_lock_take(&shard->lock);
    struct hk_debug_record *record = hk_debug_find(shard, child), copy = {0};
    if (record != NULL && record->state >= HK_DEBUG_WATCHED) {
        record->found++;
        copy = *record;
    }
    hk_lock_release(&shard->lock);
    if (copy.state == HK_DEBUG_BURIED)
        report(&copy, NULL, "when all objects were checked", "use after free: a \"%s\" refers to a \"%s\" that has died",
               hk_type_of(checking->holder)->name, name_of(&copy));
    if (copy.state == HK_DEBUG_WATCHED && !is_ours(checking->runtime, &copy))
        report(&copy, NULL, "when all objects were checked", "wrong runtime: a \"%s\" of runtime \"%s\" refers to a \"%s\" of \"%s\"",
               hk_type_of(checking->holder)->name, checking->runtime->cyclic->name, name_of(&copy), name_of_runtime(copy.heap));
}

static void note_child(hk_object *child, void *argument)
{
    hk_gc_array_push(&((struct checking *)argument)->named, child);
}

/* References that no object names. */
static bool has_others(const hk_object *object, const struct hk_debug_record *record)
{
    return !hk_is_immortal(object) && object->references > record->found;
}

/* What the block of the holder refers to without its type's saying so, if there is nothing else to explain the reference. */
static void look_for_secrets(struct checking *checking)
{
    struct hk_debug_record holder, record;
    const hk_object *object = checking->holder;
    if (hk_is_weakref(object) || !record_of(object, &holder))
        return;
    checking->named.count = 0;
    hk_object_each_child(object, note_child, checking);
    for (size_t at = sizeof(hk_object); at + sizeof(void *) <= holder.size; at += sizeof(void *)) {
        hk_object *child;
        memcpy(&child, (const char *)object + at, sizeof(child));
        if ((uintptr_t)child % 16 != 0 || child == NULL || !record_of(child, &record) || record.state != HK_DEBUG_WATCHED ||
            !is_ours(checking->runtime, &record) || !has_others(child, &record))
            continue;
        bool named = false;
        for (size_t i = 0; i < checking->named.count && !named; i++)
            named = checking->named.items[i] == child;
        if (!named)
            report(&record, NULL, "at the end of the runtime",
                   "missing traverse: a \"%s\" lives on, and byte %zu of a \"%s\", that refers to it, is in neither pointers nor traverse",
                   name_of(&record), at, name_of(&holder));
    }
}

void hk_watch_check(hk_runtime *runtime, bool at_end)
{
    struct checking checking = {.runtime = runtime};
    struct hk_gc_array all = {0};
    struct hk_debug_record record;
    if (runtime->watch == NULL || runtime->depth > 0 || runtime->releasing != NULL || runtime->calling > 0)
        return;
    for (uint32_t i = 0; i < runtime->watch->count; i++) {
        const hk_object *dead = runtime->watch->ring[(runtime->watch->first + i) % RING];
        if (record_of(dead, &record))
            look_at_dead(dead, &record, "when all objects were checked");
    }
    bool good = all_objects(runtime, &all);
    runtime->visiting = true;
    for (size_t i = 0; good && i < all.count; i++) {
        checking.holder = all.items[i];
        hk_object_each_child(checking.holder, count_child, &checking);
    }
    for (size_t i = 0; good && i < all.count; i++) {
        const hk_object *object = all.items[i];
        if (record_of(object, &record) && !hk_is_immortal(object) && object->references < record.found)
            report(&record, NULL, "when all objects were checked", "reference count of a \"%s\" too small: %u, and other objects have %u",
                   name_of(&record), object->references, record.found);
    }
    for (size_t i = 0; good && at_end && i < all.count; i++) {
        checking.holder = all.items[i];
        look_for_secrets(&checking);
    }
    runtime->visiting = false;
    hk_gc_array_free(&all);
    hk_gc_array_free(&checking.named);
}

/* --- the runtime --- */

void hk_runtime_check(hk_runtime *runtime)
{
    hk_watch_check(runtime, false);
}

void hk_watch_begin(hk_runtime *runtime)
{
    if (!runtime->cyclic->is_debug || (runtime->watch = hk_os_map(sizeof(struct hk_watch))) == NULL)
        return;
    hk_watch_enter(runtime, "hk_runtime_create");
    __atomic_store_n(&hk_types[0], &dead_type, __ATOMIC_RELEASE);
}

void hk_watch_end(hk_runtime *runtime)
{
    if (runtime->watch == NULL)
        return;
    hk_watch_enter(runtime, "hk_runtime_destroy");
    hk_watch_check(runtime, true);
    while (runtime->watch->count > 0)
        leave(runtime, "at the end of the runtime");
    runtime->watch->ended = true;
}

void hk_watch_over(hk_runtime *runtime)
{
    if (runtime->watch != NULL)
        hk_os_unmap(runtime->watch, sizeof(*runtime->watch));
    runtime->watch = NULL;
}
