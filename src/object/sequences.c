/* Tuple and list. Both keep their items in memory beside the object, but for tuples of up to 32, which hold them in the
 * object itself; so no object is larger than the collector takes. */
#include <string.h>

#include "heapkeeper/values.h"
#include "object/runtime.h"

#define INLINE_MAX 32

struct sequence { /* tuple and list */
    hk_object head;
    uint32_t unused;
    size_t count, capacity;
    hk_object **items;
    hk_object *in_object[]; /* of a tuple */
};

static void sequence_traverse(const hk_object *self, hk_traversal *traversal)
{
    const struct sequence *sequence = (const struct sequence *)self;
    for (size_t i = 0; i < sequence->count; i++)
        hk_visit(traversal, sequence->items[i]);
}

static void sequence_destroy(hk_runtime *runtime, hk_object *self)
{
    struct sequence *sequence = (struct sequence *)self;
    if (sequence->items != sequence->in_object)
        hk_memory_free(runtime, sequence->items);
}

static void list_reset(hk_runtime *runtime, hk_object *self, size_t keep)
{
    struct sequence *list = (struct sequence *)self;
    list->count = 0;
    if (list->capacity * sizeof(hk_object *) > keep) {
        hk_memory_free(runtime, list->items);
        list->items = NULL;
        list->capacity = 0;
    }
}

static size_t sequence_memory(const hk_object *self)
{
    const struct sequence *sequence = (const struct sequence *)self;
    size_t count = sequence->capacity > 0 ? sequence->capacity : sequence->count; /* a tuple's is as long as it is */
    return sequence->items != NULL && sequence->items != sequence->in_object ? count * sizeof(hk_object *) : 0;
}

static uint64_t tuple_hash(const hk_object *self)
{
    const struct sequence *tuple = (const struct sequence *)self;
    uint64_t hash = tuple->count;
    for (size_t i = 0; i < tuple->count; i++)
        hash = hk_hash_mix(hash * 0x9fb21c651e98df25u + hk_hash(tuple->items[i]));
    return hash;
}

static bool sequence_equal(const hk_object *self, const hk_object *other)
{
    const struct sequence *a = (const struct sequence *)self, *b = (const struct sequence *)other;
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (!hk_equal(a->items[i], b->items[i]))
            return false;
    return true;
}

hk_type hk_tuple_type = {.name = "tuple", .size = sizeof(struct sequence), .item_size = sizeof(hk_object *),
                         .traverse = sequence_traverse, .destroy = sequence_destroy, .hash = tuple_hash,
                         .equal = sequence_equal, .memory = sequence_memory};
hk_type hk_list_type = {.name = "list", .size = sizeof(struct sequence), .flags = HK_TYPE_FREE_LIST, .traverse = sequence_traverse,
                        .destroy = sequence_destroy, .equal = sequence_equal, .memory = sequence_memory, .reset = list_reset};

/* --- tuples --- */

hk_object *hk_tuple(hk_runtime *runtime, size_t count)
{
    size_t size;
    if (__builtin_mul_overflow(count, sizeof(hk_object *), &size))
        return NULL;
    hk_object **items = count > INLINE_MAX ? hk_memory(runtime, size) : NULL;
    if (count > INLINE_MAX && items == NULL)
        return NULL;
    struct sequence *tuple = (struct sequence *)hk_new_items(runtime, &hk_tuple_type, items == NULL ? count : 0);
    if (tuple == NULL) {
        hk_memory_free(runtime, items);
        return NULL;
    }
    tuple->items = items != NULL ? items : tuple->in_object;
    for (size_t i = 0; i < count; i++)
        tuple->items[i] = hk_none();
    tuple->count = count;
    return &tuple->head;
}

void hk_tuple_init(hk_object *tuple, size_t index, hk_object *item)
{
    ((struct sequence *)tuple)->items[index] = item; /* none was there, which is not counted */
}

size_t hk_tuple_count(const hk_object *tuple)
{
    return ((const struct sequence *)tuple)->count;
}

hk_object *hk_tuple_get(const hk_object *tuple, size_t index)
{
    const struct sequence *sequence = (const struct sequence *)tuple;
    return index < sequence->count ? sequence->items[index] : NULL;
}

/* --- lists --- */

hk_object *hk_list(hk_runtime *runtime)
{
    return hk_new(runtime, &hk_list_type);
}

size_t hk_list_count(const hk_object *list)
{
    return hk_tuple_count(list);
}

hk_object *hk_list_get(const hk_object *list, size_t index)
{
    return hk_tuple_get(list, index);
}

/* Room for `count` items; CPython's growth (Objects/listobject.c). Gives memory back when less than half is needed. */
static bool resize(hk_runtime *runtime, struct sequence *list, size_t count)
{
    if (count <= list->capacity && count >= list->capacity / 2)
        return true;
    size_t capacity = count == 0 ? 0 : (count + (count >> 3) + 6) & ~(size_t)3;
    if (capacity > PTRDIFF_MAX / sizeof(hk_object *))
        return false;
    if (capacity == 0) {
        hk_memory_free(runtime, list->items);
        list->items = NULL;
    } else {
        hk_object **items = hk_memory_resize(runtime, list->items, capacity * sizeof(*items));
        if (items == NULL)
            return count <= list->capacity; /* it could not be made smaller */
        list->items = items;
    }
    list->capacity = capacity;
    return true;
}

bool hk_list_insert(hk_runtime *runtime, hk_object *self, size_t index, hk_object *item)
{
    struct sequence *list = (struct sequence *)self;
    if (!resize(runtime, list, list->count + 1))
        return false;
    if (index > list->count)
        index = list->count;
    memmove(list->items + index + 1, list->items + index, (list->count - index) * sizeof(*list->items));
    list->items[index] = hk_incref(item);
    list->count++;
    return true;
}

bool hk_list_append(hk_runtime *runtime, hk_object *self, hk_object *item)
{
    struct sequence *list = (struct sequence *)self;
    if (list->count == list->capacity && !resize(runtime, list, list->count + 1))
        return false;
    list->items[list->count++] = hk_incref(item);
    return true;
}

bool hk_list_set(hk_runtime *runtime, hk_object *self, size_t index, hk_object *item)
{
    struct sequence *list = (struct sequence *)self;
    if (index >= list->count)
        return false;
    hk_set(runtime, &list->items[index], hk_incref(item));
    return true;
}

hk_object *hk_list_pop(hk_runtime *runtime, hk_object *self, size_t index)
{
    struct sequence *list = (struct sequence *)self;
    if (index >= list->count)
        return NULL;
    hk_object *item = list->items[index];
    list->count--;
    memmove(list->items + index, list->items + index + 1, (list->count - index) * sizeof(*list->items));
    resize(runtime, list, list->count);
    return item;
}

/* The list is empty before the first item is given up: a finalizer may look at it. */
void hk_list_clear(hk_runtime *runtime, hk_object *self)
{
    struct sequence *list = (struct sequence *)self;
    hk_object **items = list->items;
    size_t count = list->count;
    list->items = NULL;
    list->count = list->capacity = 0;
    for (size_t i = 0; i < count; i++)
        hk_decref(runtime, items[i]);
    hk_memory_free(runtime, items);
}
