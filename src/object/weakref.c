/* Weak references. An object's are a list whose head stands in a table of the runtime, by the object's address, so that an
 * object without any has no room for them; a flag in its head says whether to look. A weak reference is known to the collector,
 * though it owns nothing, so that one that is garbage itself is seen to be: its callback is not called. */
#include <string.h>

#include "object/runtime.h"

struct hk_weakref {
    hk_object head;
    hk_object *object; /* NULL: dead */
    struct hk_weakref *next, **link; /* what points to this one: the list's head, or the one before */
    hk_weakref_callback *callback;
    void *argument;
};

static void weakref_destroy(hk_runtime *runtime, hk_object *self);

static hk_type weakref_type = {.name = "weakref", .size = sizeof(struct hk_weakref), .destroy = weakref_destroy};

bool hk_is_weakref(const hk_object *object)
{
    return weakref_type.number != 0 && object->type == weakref_type.number;
}

/* --- the table --- */

static size_t slot_of(const struct hk_weak_table *table, const hk_object *object)
{
    size_t mask = table->capacity - 1;
    size_t slot = ((uintptr_t)object >> HK_GRANULE_SHIFT) * 0x9E3779B97F4A7C15u >> 20 & mask;
    while (table->entries[slot].object != NULL && table->entries[slot].object != object)
        slot = (slot + 1) & mask;
    return slot;
}

static void links_repair(struct hk_weak_entry *entry)
{
    if (entry->first != NULL)
        entry->first->link = &entry->first;
}

static bool table_grow(struct hk_weak_table *table)
{
    struct hk_weak_table bigger = {.count = table->count, .capacity = table->capacity == 0 ? 128 : 2 * table->capacity};
    bigger.entries = hk_os_map(bigger.capacity * sizeof(*bigger.entries));
    if (bigger.entries == NULL)
        return false;
    for (size_t i = 0; i < table->capacity; i++)
        if (table->entries[i].object != NULL) {
            struct hk_weak_entry *entry = &bigger.entries[slot_of(&bigger, table->entries[i].object)];
            *entry = table->entries[i];
            links_repair(entry);
        }
    if (table->entries != NULL)
        hk_os_unmap(table->entries, table->capacity * sizeof(*table->entries));
    *table = bigger;
    return true;
}

/* The entry is emptied; those behind it, which it may have kept from their place, are put in anew. */
static void table_remove(struct hk_weak_table *table, size_t slot)
{
    size_t mask = table->capacity - 1;
    table->count--;
    table->entries[slot] = (struct hk_weak_entry){0};
    for (slot = (slot + 1) & mask; table->entries[slot].object != NULL; slot = (slot + 1) & mask) {
        struct hk_weak_entry moving = table->entries[slot];
        table->entries[slot] = (struct hk_weak_entry){0};
        struct hk_weak_entry *entry = &table->entries[slot_of(table, moving.object)];
        *entry = moving;
        links_repair(entry);
    }
}

/* --- lists --- */

static void unlink_one(struct hk_weakref *weakref)
{
    *weakref->link = weakref->next;
    if (weakref->next != NULL)
        weakref->next->link = weakref->link;
    weakref->next = NULL;
    weakref->link = NULL;
}

static void weakref_destroy(hk_runtime *runtime, hk_object *self)
{
    struct hk_weakref *weakref = (struct hk_weakref *)self;
    hk_object *object = weakref->object;
    if (weakref->link == NULL || runtime->ending)
        return;
    unlink_one(weakref);
    if (object == NULL)
        return; /* it was in a list that is being cleared */
    size_t slot = slot_of(&runtime->weak, object);
    if (runtime->weak.entries[slot].first == NULL) {
        table_remove(&runtime->weak, slot);
        object->flags &= (uint16_t)~HK_HAS_WEAKREFS;
    }
}

hk_object *hk_weakref_new(hk_runtime *runtime, hk_object *object, hk_weakref_callback *callback, void *argument)
{
    struct hk_weakref *weakref = (struct hk_weakref *)hk_new(runtime, &weakref_type);
    struct hk_weak_table *table = &runtime->weak;
    if (weakref == NULL)
        return NULL;
    if (4 * (table->count + 1) > 3 * table->capacity && !table_grow(table)) {
        hk_decref(runtime, &weakref->head);
        return NULL;
    }
    struct hk_weak_entry *entry = &table->entries[slot_of(table, object)];
    if (entry->object == NULL) {
        *entry = (struct hk_weak_entry){object, NULL};
        table->count++;
        object->flags |= HK_HAS_WEAKREFS;
    }
    weakref->object = object;
    weakref->callback = callback;
    weakref->argument = argument;
    weakref->next = entry->first;
    weakref->link = &entry->first;
    if (weakref->next != NULL)
        weakref->next->link = &weakref->next;
    entry->first = weakref;
    return &weakref->head;
}

hk_object *hk_weakref_get(hk_object *weakref)
{
    hk_object *object = ((struct hk_weakref *)weakref)->object;
    return object != NULL ? hk_incref(object) : NULL;
}

size_t hk_weakref_count(hk_runtime *runtime, const hk_object *object)
{
    size_t count = 0;
    if (object->flags & HK_HAS_WEAKREFS) {
        const struct hk_weakref *weakref = runtime->weak.entries[slot_of(&runtime->weak, object)].first;
        for (; weakref != NULL; weakref = weakref->next)
            count++;
    }
    return count;
}

void hk_weakrefs_take(hk_runtime *runtime, hk_object *object, struct hk_weakref **list)
{
    size_t slot = slot_of(&runtime->weak, object);
    struct hk_weakref *first = runtime->weak.entries[slot].first, *last = NULL;
    table_remove(&runtime->weak, slot);
    object->flags &= (uint16_t)~HK_HAS_WEAKREFS;
    for (struct hk_weakref *weakref = first; weakref != NULL; weakref = weakref->next) {
        weakref->object = NULL;
        last = weakref;
    }
    if (last == NULL)
        return;
    last->next = *list;
    if (*list != NULL)
        (*list)->link = &last->next;
    *list = first;
    first->link = list;
}

void hk_weakrefs_call(hk_runtime *runtime, struct hk_weakref **list)
{
    while (*list != NULL) {
        struct hk_weakref *weakref = *list;
        unlink_one(weakref);
        if (weakref->callback == NULL || (runtime->collecting && hk_gc_is_white(weakref)))
            continue;
        hk_incref(&weakref->head);
        runtime->calling++;
        weakref->callback(runtime, &weakref->head, weakref->argument);
        runtime->calling--;
        hk_decref(runtime, &weakref->head);
    }
}

void hk_weakrefs_clear(hk_runtime *runtime, hk_object *object)
{
    struct hk_weakref *list = NULL;
    hk_weakrefs_take(runtime, object, &list);
    hk_weakrefs_call(runtime, &list);
}
