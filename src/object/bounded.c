/* Containers with a limit. See bounded.h.
 *
 * The dict: entries in an array, found by chains from hash buckets, and in a doubly linked list from the one to be evicted first
 * to the last. Links are indices, so the array can be moved. Array and buckets are one piece of memory, a power of two of each.
 *
 *      buckets   bucket -> entry -> entry ...      by hash, through `chain`
 *      order     first  <-> entry <-> ... last     through `before` and `after`
 *      free      entry -> entry ...                through `chain`
 *
 * The list: an array in which the first `gone` places have been evicted; they are filled again when the array has run to its end.
 *
 * A change goes like this: room for the new entry is made (which may fail), then others are evicted until it is within the limits
 * (which runs callbacks and finalizers; changes are refused meanwhile), then it comes in. */
#include <string.h>

#include "heapkeeper/bounded.h"
#include "heapkeeper/iter.h"
#include "heapkeeper/values.h"
#include "object/runtime.h"

#define NONE UINT32_MAX
#define SMALLEST 8

struct bounded { /* what both begin with */
    hk_object head;
    size_t max_entries, max_bytes; /* SIZE_MAX: no limit */
    size_t count, bytes;
    hk_evict_callback *callback;
    hk_weigh_function *weigh;
    void *argument;
    uint64_t hits, misses, evicted;
    hk_evict evict;
    bool is_evicting;
};

static bool bounded_init(struct bounded *bounded, const hk_bounds *bounds)
{
    if (bounded == NULL)
        return false;
    bounded->max_entries = bounds->max_entries != 0 ? bounds->max_entries : SIZE_MAX;
    bounded->max_bytes = bounds->max_bytes != 0 ? bounds->max_bytes : SIZE_MAX;
    bounded->callback = bounds->callback;
    bounded->weigh = bounds->weigh;
    bounded->argument = bounds->argument;
    bounded->evict = bounds->evict;
    return true;
}

static size_t weigh(const struct bounded *bounded, const hk_object *key, const hk_object *value)
{
    if (bounded->weigh != NULL)
        return bounded->weigh(key, value, bounded->argument);
    return (key != NULL ? hk_object_memory(key) : 0) + hk_object_memory(value);
}

/* Without what it has in place of the new entry. */
static bool is_room(const struct bounded *bounded, size_t entries, size_t bytes, size_t replaced)
{
    return bounded->count + entries <= bounded->max_entries && bounded->bytes - replaced <= bounded->max_bytes - bytes;
}

/* The entry is out of the container. Its references are given up. */
static void evicted(hk_runtime *runtime, struct bounded *bounded, hk_object *key, hk_object *value)
{
    bounded->evicted++;
    if (bounded->callback != NULL)
        bounded->callback(runtime, &bounded->head, key, value, bounded->argument);
    hk_xdecref(runtime, key);
    hk_decref(runtime, value);
}

/* --- the dict --- */

struct entry {
    uint64_t hash;
    hk_object *key; /* NULL: free */
    hk_object *value;
    size_t weight;
    uint32_t chain, before, after;
};

struct dict {
    struct bounded bounded;
    struct entry *entries;
    uint32_t capacity; /* of entries, and of buckets, which lie behind them */
    uint32_t free, first, last;
    uint32_t version; /* changes with the order */
};

static uint32_t *bucket_of(const struct dict *dict, uint64_t hash)
{
    return (uint32_t *)(dict->entries + dict->capacity) + (hash & (dict->capacity - 1));
}

static uint32_t find(const struct dict *dict, const hk_object *key, uint64_t hash)
{
    uint32_t found = dict->capacity > 0 ? *bucket_of(dict, hash) : NONE;
    while (found != NONE && !(dict->entries[found].hash == hash && hk_equal(dict->entries[found].key, key)))
        found = dict->entries[found].chain;
    return found;
}

static bool grow(hk_runtime *runtime, struct dict *dict)
{
    struct dict next = *dict;
    next.capacity = dict->capacity == 0 ? SMALLEST : 2 * dict->capacity;
    if (next.capacity > 1u << 30)
        return false;
    next.entries = hk_memory(runtime, next.capacity * (sizeof(struct entry) + sizeof(uint32_t)));
    if (next.entries == NULL)
        return false;
    memset(next.entries + next.capacity, 0xff, next.capacity * sizeof(uint32_t));
    for (uint32_t i = 0; i < dict->capacity; i++) {
        next.entries[i] = dict->entries[i];
        uint32_t *bucket = bucket_of(&next, next.entries[i].hash);
        next.entries[i].chain = *bucket;
        *bucket = i;
    }
    for (uint32_t i = dict->capacity; i < next.capacity; i++)
        next.entries[i] = (struct entry){.chain = i + 1 < next.capacity ? i + 1 : NONE};
    next.free = dict->capacity;
    hk_memory_free(runtime, dict->entries);
    *dict = next;
    return true;
}

static void order_out(struct dict *dict, uint32_t index)
{
    const struct entry *entry = &dict->entries[index];
    *(entry->before != NONE ? &dict->entries[entry->before].after : &dict->first) = entry->after;
    *(entry->after != NONE ? &dict->entries[entry->after].before : &dict->last) = entry->before;
    dict->version++;
}

static void order_last(struct dict *dict, uint32_t index)
{
    dict->entries[index].before = dict->last;
    dict->entries[index].after = NONE;
    *(dict->last != NONE ? &dict->entries[dict->last].after : &dict->first) = index;
    dict->last = index;
    dict->version++;
}

static void used(struct dict *dict, uint32_t index)
{
    if (dict->bounded.evict == HK_EVICT_UNUSED && dict->last != index) {
        order_out(dict, index);
        order_last(dict, index);
    }
}

/* Its references are the caller's now. */
static struct entry take_out(struct dict *dict, uint32_t index)
{
    struct entry entry = dict->entries[index];
    uint32_t *link = bucket_of(dict, entry.hash);
    while (*link != index)
        link = &dict->entries[*link].chain;
    *link = entry.chain;
    order_out(dict, index);
    dict->entries[index] = (struct entry){.chain = dict->free};
    dict->free = index;
    dict->bounded.count--;
    dict->bounded.bytes -= entry.weight;
    return entry;
}

/* Evicts until there is room; `kept` is not evicted. */
static void dict_evict(hk_runtime *runtime, struct dict *dict, size_t entries, size_t bytes, uint32_t kept)
{
    size_t replaced = kept != NONE ? dict->entries[kept].weight : 0;
    dict->bounded.is_evicting = true;
    while (!is_room(&dict->bounded, entries, bytes, replaced)) {
        uint32_t oldest = dict->first != kept ? dict->first : dict->entries[kept].after;
        struct entry entry = take_out(dict, oldest);
        evicted(runtime, &dict->bounded, entry.key, entry.value);
    }
    dict->bounded.is_evicting = false;
}

bool hk_bounded_dict_set(hk_runtime *runtime, hk_object *self, hk_object *key, hk_object *value)
{
    struct dict *dict = (struct dict *)self;
    size_t weight = weigh(&dict->bounded, key, value);
    uint64_t hash = hk_hash(key);
    uint32_t index = find(dict, key, hash);
    if (dict->bounded.is_evicting || weight > dict->bounded.max_bytes ||
        (index == NONE && dict->free == NONE && !grow(runtime, dict)))
        return false;
    dict_evict(runtime, dict, index == NONE, weight, index);
    if (index != NONE) {
        struct entry *entry = &dict->entries[index];
        dict->bounded.bytes += weight - entry->weight;
        entry->weight = weight;
        used(dict, index);
        hk_set(runtime, &entry->value, hk_incref(value));
        return true;
    }
    index = dict->free;
    uint32_t *bucket = bucket_of(dict, hash);
    dict->free = dict->entries[index].chain;
    dict->entries[index] = (struct entry){hash, hk_incref(key), hk_incref(value), weight, *bucket, NONE, NONE};
    *bucket = index;
    order_last(dict, index);
    dict->bounded.count++;
    dict->bounded.bytes += weight;
    return true;
}

hk_object *hk_bounded_dict_peek(const hk_object *self, const hk_object *key)
{
    const struct dict *dict = (const struct dict *)self;
    uint32_t index = find(dict, key, hk_hash(key));
    return index != NONE ? dict->entries[index].value : NULL;
}

hk_object *hk_bounded_dict_get(hk_object *self, const hk_object *key)
{
    struct dict *dict = (struct dict *)self;
    uint32_t index = find(dict, key, hk_hash(key));
    dict->bounded.hits += index != NONE;
    dict->bounded.misses += index == NONE;
    if (index == NONE)
        return NULL;
    used(dict, index);
    return dict->entries[index].value;
}

bool hk_bounded_dict_delete(hk_runtime *runtime, hk_object *self, const hk_object *key)
{
    struct dict *dict = (struct dict *)self;
    uint32_t index = dict->bounded.is_evicting ? NONE : find(dict, key, hk_hash(key));
    if (index == NONE)
        return false;
    struct entry entry = take_out(dict, index);
    hk_decref(runtime, entry.key);
    hk_decref(runtime, entry.value);
    return true;
}

size_t hk_bounded_dict_count(const hk_object *dict)
{
    return ((const struct bounded *)dict)->count;
}

static void dict_traverse(const hk_object *self, hk_traversal *traversal)
{
    const struct dict *dict = (const struct dict *)self;
    for (uint32_t i = 0; i < dict->capacity; i++) {
        hk_visit(traversal, dict->entries[i].key);
        hk_visit(traversal, dict->entries[i].value);
    }
}

static void dict_destroy(hk_runtime *runtime, hk_object *self)
{
    hk_memory_free(runtime, ((struct dict *)self)->entries);
}

static size_t dict_memory(const hk_object *self)
{
    return ((const struct dict *)self)->capacity * (sizeof(struct entry) + sizeof(uint32_t));
}

static hk_object *dict_iterate(hk_runtime *runtime, hk_object *self);

hk_type hk_bounded_dict_type = {.name = "bounded_dict", .size = sizeof(struct dict), .traverse = dict_traverse,
                                .destroy = dict_destroy, .iterate = dict_iterate, .memory = dict_memory};

hk_object *hk_bounded_dict(hk_runtime *runtime, const hk_bounds *bounds)
{
    struct dict *dict = (struct dict *)hk_new(runtime, &hk_bounded_dict_type);
    if (!bounded_init((struct bounded *)dict, bounds))
        return NULL;
    dict->free = dict->first = dict->last = NONE;
    return &dict->bounded.head;
}

static void dict_clear(hk_runtime *runtime, struct dict *dict)
{
    struct entry *entries = dict->entries;
    uint32_t capacity = dict->capacity;
    dict->entries = NULL;
    dict->capacity = 0;
    dict->free = dict->first = dict->last = NONE;
    dict->version++;
    for (uint32_t i = 0; i < capacity; i++) {
        hk_xdecref(runtime, entries[i].key);
        hk_xdecref(runtime, entries[i].value);
    }
    hk_memory_free(runtime, entries);
}

/* --- the list --- */

struct item {
    hk_object *object;
    size_t weight;
    uint64_t used; /* at this time, counted in uses */
};

struct list {
    struct bounded bounded;
    struct item *items;
    size_t gone, capacity; /* the first is items[gone] */
    uint64_t uses;
};

/* Room behind the last item. */
static bool list_reserve(hk_runtime *runtime, struct list *list)
{
    size_t end = list->gone + list->bounded.count;
    if (end < list->capacity)
        return true;
    if (list->gone > list->bounded.count / 2) {
        memmove(list->items, list->items + list->gone, list->bounded.count * sizeof(*list->items));
        list->gone = 0;
        return true;
    }
    size_t capacity = list->capacity + (list->capacity >> 1) + SMALLEST;
    struct item *items = hk_memory_resize(runtime, list->items, capacity * sizeof(*items));
    if (items == NULL)
        return false;
    list->items = items;
    list->capacity = capacity;
    return true;
}

static hk_object *list_take_out(struct list *list, size_t index)
{
    struct item *at = &list->items[list->gone + index], item = *at;
    list->bounded.count--;
    list->bounded.bytes -= item.weight;
    if (index == 0)
        list->gone++;
    else
        memmove(at, at + 1, (list->bounded.count - index) * sizeof(*at));
    return item.object;
}

static size_t first_to_go(const struct list *list)
{
    const struct item *items = list->items + list->gone;
    size_t first = 0;
    for (size_t i = 1; list->bounded.evict == HK_EVICT_UNUSED && i < list->bounded.count; i++)
        if (items[i].used < items[first].used)
            first = i;
    return first;
}

static void list_evict(hk_runtime *runtime, struct list *list, size_t entries, size_t bytes)
{
    list->bounded.is_evicting = true;
    while (!is_room(&list->bounded, entries, bytes, 0))
        evicted(runtime, &list->bounded, NULL, list_take_out(list, first_to_go(list)));
    list->bounded.is_evicting = false;
}

bool hk_bounded_list_append(hk_runtime *runtime, hk_object *self, hk_object *item)
{
    struct list *list = (struct list *)self;
    size_t weight = weigh(&list->bounded, NULL, item);
    if (list->bounded.is_evicting || weight > list->bounded.max_bytes || !list_reserve(runtime, list))
        return false;
    list_evict(runtime, list, 1, weight);
    list->items[list->gone + list->bounded.count++] = (struct item){hk_incref(item), weight, ++list->uses};
    list->bounded.bytes += weight;
    return true;
}

hk_object *hk_bounded_list_peek(const hk_object *self, size_t index)
{
    const struct list *list = (const struct list *)self;
    return index < list->bounded.count ? list->items[list->gone + index].object : NULL;
}

hk_object *hk_bounded_list_get(hk_object *self, size_t index)
{
    struct list *list = (struct list *)self;
    bool is_there = index < list->bounded.count;
    list->bounded.hits += is_there;
    list->bounded.misses += !is_there;
    if (is_there)
        list->items[list->gone + index].used = ++list->uses;
    return hk_bounded_list_peek(self, index);
}

hk_object *hk_bounded_list_pop(hk_runtime *runtime, hk_object *self, size_t index)
{
    struct list *list = (struct list *)self;
    return index < list->bounded.count && !list->bounded.is_evicting ? list_take_out(list, index) : NULL;
}

size_t hk_bounded_list_count(const hk_object *list)
{
    return ((const struct bounded *)list)->count;
}

static void list_traverse(const hk_object *self, hk_traversal *traversal)
{
    const struct list *list = (const struct list *)self;
    for (size_t i = 0; i < list->bounded.count; i++)
        hk_visit(traversal, list->items[list->gone + i].object);
}

static void list_destroy(hk_runtime *runtime, hk_object *self)
{
    hk_memory_free(runtime, ((struct list *)self)->items);
}

static size_t list_memory(const hk_object *self)
{
    return ((const struct list *)self)->capacity * sizeof(struct item);
}

static hk_object *list_iterate(hk_runtime *runtime, hk_object *self);

hk_type hk_bounded_list_type = {.name = "bounded_list", .size = sizeof(struct list), .traverse = list_traverse,
                                .destroy = list_destroy, .iterate = list_iterate, .memory = list_memory};

hk_object *hk_bounded_list(hk_runtime *runtime, const hk_bounds *bounds)
{
    struct list *list = (struct list *)hk_new(runtime, &hk_bounded_list_type);
    return bounded_init((struct bounded *)list, bounds) ? &list->bounded.head : NULL;
}

static void list_clear(hk_runtime *runtime, struct list *list, size_t count)
{
    struct item *items = list->items, *first = items + list->gone;
    list->items = NULL;
    list->gone = list->capacity = 0;
    for (size_t i = 0; i < count; i++)
        hk_decref(runtime, first[i].object);
    hk_memory_free(runtime, items);
}

/* --- both --- */

/* It is empty before the first entry is given up: a finalizer may look at it. */
void hk_bounded_clear(hk_runtime *runtime, hk_object *container)
{
    struct bounded *bounded = (struct bounded *)container;
    size_t count = bounded->count;
    if (bounded->is_evicting)
        return;
    bounded->count = bounded->bytes = 0;
    if (hk_is(container, &hk_bounded_dict_type))
        dict_clear(runtime, (struct dict *)container);
    else
        list_clear(runtime, (struct list *)container, count);
}

void hk_bounded_limit(hk_runtime *runtime, hk_object *container, size_t max_entries, size_t max_bytes)
{
    struct bounded *bounded = (struct bounded *)container;
    if (bounded->is_evicting)
        return;
    bounded->max_entries = max_entries != 0 ? max_entries : SIZE_MAX;
    bounded->max_bytes = max_bytes != 0 ? max_bytes : SIZE_MAX;
    if (hk_is(container, &hk_bounded_dict_type))
        dict_evict(runtime, (struct dict *)container, 0, 0, NONE);
    else
        list_evict(runtime, (struct list *)container, 0, 0);
}

void hk_bounded_get_stats(const hk_object *container, hk_bounded_stats *stats)
{
    const struct bounded *bounded = (const struct bounded *)container;
    hk_bounded_stats now = {sizeof(now), bounded->count, bounded->bytes, bounded->hits, bounded->misses, bounded->evicted};
    size_t size = stats->size < sizeof(now) ? stats->size : sizeof(now);
    now.size = stats->size;
    memcpy(stats, &now, size);
}

/* --- going through --- */

struct iterator {
    hk_object head;
    hk_object *container; /* NULL: at the end */
    size_t next;
    uint32_t version;
};

static int dict_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct iterator *iterator = (struct iterator *)self;
    const struct dict *dict = (const struct dict *)iterator->container;
    if (dict == NULL)
        return HK_ITER_END;
    if (dict->version != iterator->version)
        return HK_ITER_ERROR;
    if (iterator->next == NONE) {
        HK_CLEAR(runtime, iterator->container);
        return HK_ITER_END;
    }
    *item = hk_incref(dict->entries[iterator->next].key);
    iterator->next = dict->entries[iterator->next].after;
    return HK_ITER_ITEM;
}

static int list_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct iterator *iterator = (struct iterator *)self;
    hk_object *found = iterator->container != NULL ? hk_bounded_list_peek(iterator->container, iterator->next++) : NULL;
    if (found == NULL) {
        HK_CLEAR(runtime, iterator->container);
        return HK_ITER_END;
    }
    *item = hk_incref(found);
    return HK_ITER_ITEM;
}

static int iterator_copy(hk_runtime *runtime, hk_object *self, hk_object **copy)
{
    const struct iterator *iterator = (const struct iterator *)self;
    struct iterator *other = (struct iterator *)hk_new(runtime, hk_type_of(self));
    if (other == NULL)
        return HK_ITER_ERROR;
    other->container = iterator->container != NULL ? hk_incref(iterator->container) : NULL;
    other->next = iterator->next;
    other->version = iterator->version;
    *copy = &other->head;
    return HK_ITER_ITEM;
}

static hk_type dict_iterator = {.name = "bounded_dict_iterator", .size = sizeof(struct iterator), .pointers = 2,
                                .next = dict_next, .copy = iterator_copy};
static hk_type list_iterator = {.name = "bounded_list_iterator", .size = sizeof(struct iterator), .pointers = 2,
                                .next = list_next, .copy = iterator_copy};

static struct iterator *iterate(hk_runtime *runtime, hk_type *type, hk_object *container)
{
    struct iterator *iterator = (struct iterator *)hk_new(runtime, type);
    if (iterator != NULL)
        iterator->container = hk_incref(container);
    return iterator;
}

static hk_object *dict_iterate(hk_runtime *runtime, hk_object *self)
{
    struct iterator *iterator = iterate(runtime, &dict_iterator, self);
    if (iterator != NULL) {
        iterator->next = ((struct dict *)self)->first;
        iterator->version = ((struct dict *)self)->version;
    }
    return (hk_object *)iterator;
}

static hk_object *list_iterate(hk_runtime *runtime, hk_object *self)
{
    return (hk_object *)iterate(runtime, &list_iterator, self);
}
