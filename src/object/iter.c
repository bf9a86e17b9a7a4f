/* The protocol of iterators, those over the basic types, and range. See iter.h.
 *
 * An iterator over a container holds it, and a position; at its end it lets the container go. Each type is a `next`; they
 * share their structure, so one `copy` serves all.
 *
 * While an iterator is asked it carries a flag, and is held: its `next` may call the program's functions, which may ask it again (an
 * error) or give up the last reference to it. */
#include "heapkeeper/iter.h"
#include "heapkeeper/values.h"
#include "object/runtime.h"

/* --- the protocol --- */

int hk_iter_next(hk_runtime *runtime, hk_object *iterator, hk_object **item)
{
    const hk_type *type = hk_type_of(iterator);
    *item = NULL;
    if (type->next == NULL || (iterator->flags & HK_RUNNING) || runtime->iterating >= HK_ITER_DEPTH)
        return HK_ITER_ERROR;
    runtime->iterating++;
    hk_incref(iterator)->flags |= HK_RUNNING;
    int got = type->next(runtime, iterator, item);
    iterator->flags &= (uint16_t)~HK_RUNNING;
    runtime->iterating--;
    hk_decref(runtime, iterator);
    return got;
}

int hk_iter_copy(hk_runtime *runtime, hk_object *iterator, hk_object **copy)
{
    const hk_type *type = hk_type_of(iterator);
    *copy = NULL;
    if (type->next == NULL || (iterator->flags & HK_RUNNING) || runtime->iterating >= HK_ITER_DEPTH)
        return HK_ITER_ERROR;
    if (type->copy == NULL)
        return HK_ITER_END;
    runtime->iterating++;
    int got = type->copy(runtime, iterator, copy);
    runtime->iterating--;
    return got;
}

hk_object *hk_iter_list(hk_runtime *runtime, hk_object *iterable)
{
    hk_object *iterator = hk_iter(runtime, iterable), *list = iterator != NULL ? hk_list(runtime) : NULL, *item;
    int got = HK_ITER_ERROR;
    while (list != NULL && (got = hk_iter_next(runtime, iterator, &item)) == HK_ITER_ITEM) {
        bool added = hk_list_append(runtime, list, item);
        hk_decref(runtime, item);
        if (!added) {
            got = HK_ITER_ERROR;
            break;
        }
    }
    hk_xdecref(runtime, iterator);
    if (list != NULL && got == HK_ITER_ERROR)
        HK_CLEAR(runtime, list);
    return list;
}

/* --- containers --- */

struct over { /* a container */
    hk_object head;
    hk_object *container; /* NULL: at the end */
    size_t position;
    uint32_t version; /* of a dict or set */
};

static int over_end(hk_runtime *runtime, struct over *over)
{
    HK_CLEAR(runtime, over->container);
    return HK_ITER_END;
}

static int sequence_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct over *over = (struct over *)self;
    if (over->container == NULL)
        return HK_ITER_END;
    hk_object *found = hk_tuple_get(over->container, over->position);
    if (found == NULL)
        return over_end(runtime, over);
    over->position++;
    *item = hk_incref(found);
    return HK_ITER_ITEM;
}

static int key_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct over *over = (struct over *)self;
    hk_object *key;
    if (over->container == NULL)
        return HK_ITER_END;
    if (hk_dict_version(over->container) != over->version)
        return HK_ITER_ERROR;
    if (!hk_set_next(over->container, &over->position, &key))
        return over_end(runtime, over);
    *item = hk_incref(key);
    return HK_ITER_ITEM;
}

static int pair_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct over *over = (struct over *)self;
    hk_object *key, *value, *pair;
    size_t position = over->position;
    if (over->container == NULL)
        return HK_ITER_END;
    if ((pair = hk_tuple(runtime, 2)) == NULL) /* may run finalizers; from here on nothing does */
        return HK_ITER_ERROR;
    bool is_same = hk_dict_version(over->container) == over->version;
    if (!is_same || !hk_dict_next(over->container, &position, &key, &value)) {
        hk_decref(runtime, pair);
        return is_same ? over_end(runtime, over) : HK_ITER_ERROR;
    }
    over->position = position;
    hk_tuple_init(pair, 0, hk_incref(key));
    hk_tuple_init(pair, 1, hk_incref(value));
    *item = pair;
    return HK_ITER_ITEM;
}

/* Bytes of a code point, by its first one; of what is no UTF-8, one. */
static size_t code_point_size(const char *text, size_t left)
{
    unsigned char first = (unsigned char)*text;
    size_t size = first < 0xc0 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    for (size_t i = 1; i < size; i++)
        if (i >= left || ((unsigned char)text[i] & 0xc0) != 0x80)
            return 1;
    return size;
}

static int character_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct over *over = (struct over *)self;
    if (over->container == NULL)
        return HK_ITER_END;
    size_t left = hk_str_size(over->container) - over->position;
    if (left == 0)
        return over_end(runtime, over);
    const char *text = hk_str_text(over->container) + over->position;
    size_t size = code_point_size(text, left);
    if ((*item = hk_str_from(runtime, text, size)) == NULL)
        return HK_ITER_ERROR;
    over->position += size;
    return HK_ITER_ITEM;
}

static int byte_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct over *over = (struct over *)self;
    if (over->container == NULL)
        return HK_ITER_END;
    if (over->position == hk_bytes_size(over->container))
        return over_end(runtime, over);
    *item = hk_int(runtime, ((const unsigned char *)hk_bytes_data(over->container))[over->position++]); /* immortal */
    return HK_ITER_ITEM;
}

static int over_copy(hk_runtime *runtime, hk_object *self, hk_object **copy)
{
    const struct over *over = (const struct over *)self;
    struct over *other = (struct over *)hk_new(runtime, hk_type_of(self));
    if (other == NULL)
        return HK_ITER_ERROR;
    other->container = over->container != NULL ? hk_incref(over->container) : NULL;
    other->position = over->position;
    other->version = over->version;
    *copy = &other->head;
    return HK_ITER_ITEM;
}

#define OVER(type_name, function)                                                                                        \
    {.name = type_name, .size = sizeof(struct over), .pointers = 2, .next = function, .copy = over_copy}

static hk_type sequence_iterator = OVER("sequence_iterator", sequence_next), key_iterator = OVER("key_iterator", key_next),
               item_iterator = OVER("item_iterator", pair_next), str_iterator = OVER("str_iterator", character_next),
               bytes_iterator = OVER("bytes_iterator", byte_next);

static hk_object *over_new(hk_runtime *runtime, hk_type *type, hk_object *container)
{
    struct over *over = (struct over *)hk_new(runtime, type);
    if (over != NULL) {
        over->container = hk_incref(container);
        over->version = type == &key_iterator || type == &item_iterator ? hk_dict_version(container) : 0;
    }
    return (hk_object *)over;
}

hk_object *hk_iter(hk_runtime *runtime, hk_object *iterable)
{
    const hk_type *type = hk_type_of(iterable);
    if (type->next != NULL)
        return hk_incref(iterable);
    if (type->iterate != NULL)
        return type->iterate(runtime, iterable);
    if (hk_is(iterable, &hk_list_type) || hk_is(iterable, &hk_tuple_type))
        return over_new(runtime, &sequence_iterator, iterable);
    if (hk_is(iterable, &hk_dict_type) || hk_is(iterable, &hk_set_type))
        return over_new(runtime, &key_iterator, iterable);
    if (hk_is(iterable, &hk_str_type))
        return over_new(runtime, &str_iterator, iterable);
    if (hk_is(iterable, &hk_bytes_type))
        return over_new(runtime, &bytes_iterator, iterable);
    return NULL;
}

hk_object *hk_iter_items(hk_runtime *runtime, hk_object *dict)
{
    return over_new(runtime, &item_iterator, dict);
}

/* --- range --- */

struct range {
    hk_object head;
    int64_t next, step;
    uint64_t left;
};

static int range_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct range *range = (struct range *)self;
    if (range->left == 0)
        return HK_ITER_END;
    if ((*item = hk_int(runtime, range->next)) == NULL)
        return HK_ITER_ERROR;
    range->left--;
    range->next = (int64_t)((uint64_t)range->next + (uint64_t)range->step); /* behind the last one it may wrap */
    return HK_ITER_ITEM;
}

static int range_copy(hk_runtime *runtime, hk_object *self, hk_object **copy);

static hk_type range_type = {.name = "range", .size = sizeof(struct range), .flags = HK_TYPE_ACYCLIC, .next = range_next,
                             .copy = range_copy};

static int range_copy(hk_runtime *runtime, hk_object *self, hk_object **copy)
{
    const struct range *range = (const struct range *)self;
    struct range *other = (struct range *)hk_new(runtime, &range_type);
    if (other == NULL)
        return HK_ITER_ERROR;
    other->next = range->next;
    other->step = range->step;
    other->left = range->left;
    *copy = &other->head;
    return HK_ITER_ITEM;
}

hk_object *hk_iter_range(hk_runtime *runtime, int64_t start, int64_t stop, int64_t step)
{
    struct range *range = step != 0 ? (struct range *)hk_new(runtime, &range_type) : NULL;
    if (range == NULL)
        return NULL;
    uint64_t distance = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
    uint64_t size = step > 0 ? (uint64_t)step : -(uint64_t)step;
    bool is_empty = step > 0 ? start >= stop : start <= stop;
    range->next = start;
    range->step = step;
    range->left = is_empty ? 0 : (distance - 1) / size + 1;
    return &range->head;
}
