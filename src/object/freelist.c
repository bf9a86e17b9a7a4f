/* Free lists: objects that have died and are kept for reuse. Read the part of object.h about them.
 *
 * A kept object is an allocated block that the collector does not know. Its head is the link to the next one. That it is used
 * again is charged to the heap's budget as an allocation is; one that is due to be a sample comes from the heap, so the recorder
 * misses none. */
#include <string.h>

#include "heapkeeper/values.h"
#include "object/runtime.h"

/* What list, dict and set have unless it is changed; the number is CPython's for lists and dicts. */
#define USUAL_LIMIT 80
#define USUAL_KEEP 256

static struct hk_free_list *list_of(const hk_runtime *runtime, const hk_type *type)
{
    return (struct hk_free_list *)&runtime->free_lists[__atomic_load_n(&type->free_list, __ATOMIC_RELAXED)];
}

static hk_object *pop(struct hk_free_list *list)
{
    hk_object *object = list->first;
    memcpy(&list->first, object, sizeof(void *));
    list->count--;
    return object;
}

hk_object *hk_free_list_take(hk_runtime *runtime, const hk_type *type)
{
    struct hk_free_list *list = list_of(runtime, type);
    bool is_cyclic = !(type->flags & HK_TYPE_ACYCLIC);
    hk_heap *heap = is_cyclic ? runtime->cyclic : runtime->acyclic;
    if (list->first == NULL)
        return NULL;
    if (is_cyclic && runtime->plan.left <= 0) {
        hk_collect_automatic(runtime);
        if (list->first == NULL)
            return NULL;
    }
    if (heap->budget < (int64_t)type->size)
        return NULL;
    heap->budget -= type->size;
    hk_object *object = pop(list);
    list->reused++;
    if (type->reset == NULL)
        hk_zero_behind_head(object, type->size);
    *object = (hk_object){.references = 1, .type = (uint16_t)type->number};
    if (is_cyclic)
        hk_collect_made(runtime, object);
    return object;
}

bool hk_free_list_keep(hk_runtime *runtime, hk_object *object, const hk_type *type)
{
    struct hk_free_list *list = list_of(runtime, type);
    if (list->count >= list->limit) {
        list->passed += list->limit > 0;
        return false;
    }
    hk_object_unrecord(object);
    if (type->reset != NULL)
        type->reset(runtime, object, list->keep);
    else if (type->destroy != NULL)
        type->destroy(runtime, object);
    memcpy(object, &list->first, sizeof(void *));
    list->first = object;
    list->count++;
    list->taken++;
    return true;
}

static size_t trim(hk_runtime *runtime, struct hk_free_list *list, uint32_t limit)
{
    size_t given = 0;
    for (; list->count > limit; given++) {
        hk_object *object = pop(list);
        *object = (hk_object){.type = (uint16_t)list->type->number};
        if (list->type->reset != NULL && list->type->destroy != NULL)
            list->type->destroy(runtime, object);
        hk_object_free(runtime, object, list->type);
    }
    return given;
}

void hk_free_lists_untrack(const hk_runtime *runtime)
{
    for (int i = 1; i < HK_FREE_LISTS; i++) {
        const hk_object *object = runtime->free_lists[i].first;
        for (; object != NULL; memcpy(&object, object, sizeof(void *)))
            hk_gc_forget(object);
    }
}

size_t hk_free_lists_trim(hk_runtime *runtime)
{
    size_t given = 0;
    for (int i = 1; i < HK_FREE_LISTS; i++)
        given += trim(runtime, &runtime->free_lists[i], 0);
    return given;
}

bool hk_free_list_set(hk_runtime *runtime, hk_type *type, uint32_t limit, size_t keep_bytes)
{
    if (!hk_type_ready(type) || type->free_list == 0)
        return false;
    struct hk_free_list *list = list_of(runtime, type);
    if (keep_bytes < list->keep)
        trim(runtime, list, 0);
    list->type = type;
    list->limit = runtime->cyclic->is_debug ? 0 : limit;
    list->keep = keep_bytes;
    trim(runtime, list, list->limit);
    return true;
}

void hk_free_list_get_stats(const hk_runtime *runtime, const hk_type *type, hk_free_list_stats *stats)
{
    const struct hk_free_list *list = list_of(runtime, type);
    hk_free_list_stats now = {sizeof(now), list->limit, list->count, list->keep, list->reused, list->taken, list->passed};
    size_t size = stats->size < sizeof(now) ? stats->size : sizeof(now);
    now.size = stats->size;
    memcpy(stats, &now, size);
}

void hk_free_lists_begin(hk_runtime *runtime)
{
    hk_type *const usual[] = {&hk_list_type, &hk_dict_type, &hk_set_type};
    for (size_t i = 0; i < sizeof(usual) / sizeof(*usual); i++)
        hk_free_list_set(runtime, usual[i], USUAL_LIMIT, USUAL_KEEP);
}
