/* Iterators that go through others: map, filter, chain, slice, zip, enumerate, product, group. See iter.h.
 *
 * What a `next` needs room for it makes before it takes an item from its source, so that where there is no memory nothing has been
 * lost. At its end an iterator lets go what it goes through.
 *
 * All but product and group are of one structure, and have one `copy`. */
#include "heapkeeper/iter.h"
#include "heapkeeper/values.h"
#include "object/runtime.h"

struct adapter {
    hk_object head;
    hk_object *source; /* an iterator; of chain and zip a tuple of them; NULL: at the end */
    hk_object *closure;
    hk_object *inner;  /* of a lazy chain: the iterator over the present one */
    union {
        hk_iter_function *function;
        hk_iter_predicate *predicate;
        int64_t number; /* of enumerate: the next one */
        uint64_t skip;  /* of slice: items before the next one that is wanted */
        uint64_t given; /* of chain: iterators that have come to their end */
    };
    uint64_t left, gap; /* of slice: how many are still to be given, and how many to skip between them */
};

static int end(hk_runtime *runtime, struct adapter *adapter)
{
    HK_CLEAR(runtime, adapter->source);
    HK_CLEAR(runtime, adapter->closure);
    return HK_ITER_END;
}

static int take(hk_runtime *runtime, struct adapter *adapter, hk_object **item)
{
    *item = NULL;
    int got = adapter->source != NULL ? hk_iter_next(runtime, adapter->source, item) : HK_ITER_END;
    return got == HK_ITER_END ? end(runtime, adapter) : got;
}

static int map_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct adapter *map = (struct adapter *)self;
    hk_object *taken;
    int got = take(runtime, map, &taken);
    if (got != HK_ITER_ITEM)
        return got;
    *item = map->function(runtime, taken, map->closure);
    hk_decref(runtime, taken);
    return *item != NULL ? HK_ITER_ITEM : HK_ITER_ERROR;
}

static int filter_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct adapter *filter = (struct adapter *)self;
    int got, wanted = 0;
    while ((got = take(runtime, filter, item)) == HK_ITER_ITEM) {
        wanted = filter->predicate(runtime, *item, filter->closure);
        if (wanted > 0)
            return HK_ITER_ITEM;
        HK_CLEAR(runtime, *item);
        if (wanted < 0)
            return HK_ITER_ERROR;
    }
    return got;
}

/* Over a list or tuple: it holds the iterators from the start, so that a copy can have copies of them. */
static int chain_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct adapter *chain = (struct adapter *)self;
    size_t count = chain->source != NULL ? hk_tuple_count(chain->source) : 0;
    for (; chain->given < count; chain->given++) {
        int got = hk_iter_next(runtime, hk_tuple_get(chain->source, chain->given), item);
        if (got != HK_ITER_END)
            return got;
    }
    return end(runtime, chain);
}

/* Over anything else: it comes to know an iterable when it gets there. */
static int lazy_chain_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct adapter *chain = (struct adapter *)self;
    for (;;) {
        int got = chain->inner != NULL ? hk_iter_next(runtime, chain->inner, item) : HK_ITER_END;
        if (got != HK_ITER_END)
            return got;
        HK_CLEAR(runtime, chain->inner);
        hk_object *iterable;
        if ((got = take(runtime, chain, &iterable)) != HK_ITER_ITEM)
            return got;
        chain->inner = hk_iter(runtime, iterable);
        hk_decref(runtime, iterable);
        if (chain->inner == NULL)
            return HK_ITER_ERROR;
    }
}

static int slice_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct adapter *slice = (struct adapter *)self;
    if (slice->left == 0)
        return end(runtime, slice);
    int got;
    while ((got = take(runtime, slice, item)) == HK_ITER_ITEM && slice->skip > 0) {
        slice->skip--;
        HK_CLEAR(runtime, *item);
    }
    if (got == HK_ITER_ITEM) {
        slice->skip = slice->gap;
        slice->left -= slice->left != UINT64_MAX;
    }
    return got;
}

static int zip_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct adapter *zip = (struct adapter *)self;
    size_t count = zip->source != NULL ? hk_tuple_count(zip->source) : 0;
    if (count == 0)
        return end(runtime, zip);
    hk_object *row = hk_tuple(runtime, count), *taken;
    int got = row != NULL ? HK_ITER_ITEM : HK_ITER_ERROR;
    for (size_t i = 0; i < count && got == HK_ITER_ITEM; i++)
        if ((got = hk_iter_next(runtime, hk_tuple_get(zip->source, i), &taken)) == HK_ITER_ITEM)
            hk_tuple_init(row, i, taken);
    if (got != HK_ITER_ITEM)
        HK_CLEAR(runtime, row);
    *item = row;
    return got == HK_ITER_END ? end(runtime, zip) : got;
}

static int enumerate_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct adapter *enumerate = (struct adapter *)self;
    hk_object *pair = hk_tuple(runtime, 2), *number = hk_int(runtime, enumerate->number), *taken;
    int got = pair != NULL && number != NULL ? take(runtime, enumerate, &taken) : HK_ITER_ERROR;
    if (got != HK_ITER_ITEM) {
        hk_xdecref(runtime, pair);
        hk_xdecref(runtime, number);
        return got;
    }
    hk_tuple_init(pair, 0, number);
    hk_tuple_init(pair, 1, taken);
    enumerate->number = (int64_t)((uint64_t)enumerate->number + 1);
    *item = pair;
    return HK_ITER_ITEM;
}

/* --- copies --- */

/* Copies of the iterators in a tuple; none stays none. */
static int copy_all(hk_runtime *runtime, hk_object *iterators, hk_object **copy)
{
    size_t count = hk_tuple_count(iterators);
    hk_object *all = hk_tuple(runtime, count), *one;
    int got = all != NULL ? HK_ITER_ITEM : HK_ITER_ERROR;
    for (size_t i = 0; i < count && got == HK_ITER_ITEM; i++)
        if (hk_tuple_get(iterators, i) != hk_none() &&
            (got = hk_iter_copy(runtime, hk_tuple_get(iterators, i), &one)) == HK_ITER_ITEM)
            hk_tuple_init(all, i, one);
    if (got != HK_ITER_ITEM)
        HK_CLEAR(runtime, all);
    *copy = all;
    return got;
}

static int copy_one(hk_runtime *runtime, hk_object *iterator, hk_object **copy)
{
    *copy = NULL;
    if (iterator == NULL)
        return HK_ITER_ITEM;
    return hk_is(iterator, &hk_tuple_type) ? copy_all(runtime, iterator, copy) : hk_iter_copy(runtime, iterator, copy);
}

static int adapter_copy(hk_runtime *runtime, hk_object *self, hk_object **copy)
{
    const struct adapter *adapter = (const struct adapter *)self;
    struct adapter *other = (struct adapter *)hk_new(runtime, hk_type_of(self));
    int got = other != NULL ? copy_one(runtime, adapter->source, &other->source) : HK_ITER_ERROR;
    if (got != HK_ITER_ITEM) {
        hk_xdecref(runtime, (hk_object *)other);
        return got;
    }
    other->closure = adapter->closure != NULL ? hk_incref(adapter->closure) : NULL;
    other->skip = adapter->skip; /* whichever of the union it is */
    other->left = adapter->left;
    other->gap = adapter->gap;
    *copy = &other->head;
    return HK_ITER_ITEM;
}

#define ADAPTER(type_name, function)                                                                                     \
    {.name = type_name, .size = sizeof(struct adapter), .pointers = 14, .next = function, .copy = adapter_copy}

static hk_type map_type = ADAPTER("map", map_next), filter_type = ADAPTER("filter", filter_next),
               chain_type = ADAPTER("chain", chain_next), slice_type = ADAPTER("slice", slice_next),
               zip_type = ADAPTER("zip", zip_next), enumerate_type = ADAPTER("enumerate", enumerate_next);
static hk_type lazy_chain_type = {.name = "chain", .size = sizeof(struct adapter), .pointers = 14, .next = lazy_chain_next};

/* Takes the source over; NULL: there is none. */
static struct adapter *adapter_new(hk_runtime *runtime, hk_type *type, hk_object *source, hk_object *closure)
{
    struct adapter *adapter = source != NULL ? (struct adapter *)hk_new(runtime, type) : NULL;
    if (adapter == NULL) {
        hk_xdecref(runtime, source);
        return NULL;
    }
    adapter->source = source;
    adapter->closure = closure != NULL ? hk_incref(closure) : NULL;
    return adapter;
}

hk_object *hk_iter_map(hk_runtime *runtime, hk_iter_function *function, hk_object *closure, hk_object *iterable)
{
    struct adapter *map = adapter_new(runtime, &map_type, hk_iter(runtime, iterable), closure);
    if (map != NULL)
        map->function = function;
    return (hk_object *)map;
}

hk_object *hk_iter_filter(hk_runtime *runtime, hk_iter_predicate *predicate, hk_object *closure, hk_object *iterable)
{
    struct adapter *filter = adapter_new(runtime, &filter_type, hk_iter(runtime, iterable), closure);
    if (filter != NULL)
        filter->predicate = predicate;
    return (hk_object *)filter;
}

hk_object *hk_iter_slice(hk_runtime *runtime, hk_object *iterable, size_t start, size_t stop, size_t step)
{
    struct adapter *slice = step > 0 ? adapter_new(runtime, &slice_type, hk_iter(runtime, iterable), NULL) : NULL;
    if (slice == NULL)
        return NULL;
    slice->skip = start;
    slice->gap = step - 1;
    slice->left = stop == SIZE_MAX ? UINT64_MAX : stop > start ? (stop - start - 1) / step + 1 : 0;
    return &slice->head;
}

hk_object *hk_iter_enumerate(hk_runtime *runtime, hk_object *iterable, int64_t first)
{
    struct adapter *enumerate = adapter_new(runtime, &enumerate_type, hk_iter(runtime, iterable), NULL);
    if (enumerate != NULL)
        enumerate->number = first;
    return (hk_object *)enumerate;
}

typedef hk_object *operand_function(hk_runtime *runtime, hk_object *iterable);

static bool is_sequence(const hk_object *iterable)
{
    return hk_is(iterable, &hk_tuple_type) || hk_is(iterable, &hk_list_type);
}

/* A tuple of what the function makes of each iterable. */
static hk_object *operands(hk_runtime *runtime, hk_object *iterables, operand_function *first, operand_function *others)
{
    hk_object *made = is_sequence(iterables) ? hk_tuple(runtime, hk_tuple_count(iterables)) : NULL;
    for (size_t i = 0; made != NULL && i < hk_tuple_count(made); i++) {
        hk_object *iterable = hk_tuple_get(iterables, i), *operand = NULL; /* NULL: somebody took it out meanwhile */
        if (iterable != NULL) {
            hk_incref(iterable);
            operand = (i == 0 ? first : others)(runtime, iterable);
            hk_decref(runtime, iterable);
        }
        if (operand != NULL)
            hk_tuple_init(made, i, operand);
        else
            HK_CLEAR(runtime, made);
    }
    return made;
}

hk_object *hk_iter_chain(hk_runtime *runtime, hk_object *iterables)
{
    if (!is_sequence(iterables))
        return (hk_object *)adapter_new(runtime, &lazy_chain_type, hk_iter(runtime, iterables), NULL);
    return (hk_object *)adapter_new(runtime, &chain_type, operands(runtime, iterables, hk_iter, hk_iter), NULL);
}

hk_object *hk_iter_zip(hk_runtime *runtime, hk_object *iterables)
{
    return (hk_object *)adapter_new(runtime, &zip_type, operands(runtime, iterables, hk_iter, hk_iter), NULL);
}

/* --- product: an odometer --- */

struct product {
    hk_object head;
    hk_object *operands; /* what each wheel is begun anew with; of the first, its iterator; NULL: at the end */
    hk_object *wheels;   /* the iterators at work, or none */
    hk_object *items;    /* what they have given last */
    uint64_t begun;      /* wheels from this one on are to be begun anew */
    bool is_started;     /* all stood at an item at least once */
};

/* In place of the item that is there; takes the new one over. */
static void put(hk_runtime *runtime, hk_object *tuple, size_t index, hk_object *item)
{
    hk_object *before = hk_tuple_get(tuple, index);
    hk_tuple_init(tuple, index, item);
    hk_decref(runtime, before);
}

static int product_end(hk_runtime *runtime, struct product *product)
{
    HK_CLEAR(runtime, product->operands);
    HK_CLEAR(runtime, product->wheels);
    HK_CLEAR(runtime, product->items);
    return HK_ITER_END;
}

static int wheel_begin(hk_runtime *runtime, struct product *product, size_t number)
{
    hk_object *operand = hk_tuple_get(product->operands, number), *wheel;
    if (number == 0 || hk_type_of(operand)->next == NULL)
        wheel = hk_iter(runtime, operand);
    else
        hk_iter_copy(runtime, operand, &wheel);
    if (wheel == NULL)
        return HK_ITER_ERROR;
    put(runtime, product->wheels, number, wheel);
    return HK_ITER_ITEM;
}

static int wheel_turn(hk_runtime *runtime, struct product *product, size_t number)
{
    hk_object *item;
    int got = hk_iter_next(runtime, hk_tuple_get(product->wheels, number), &item);
    if (got == HK_ITER_ITEM)
        put(runtime, product->items, number, item);
    return got;
}

/* The last wheel that has an item left turns; those behind it are to be begun anew. An iterator that has come to its end stays there,
 * so after an error this can be done again. */
static int turn(hk_runtime *runtime, struct product *product, size_t count)
{
    int got = HK_ITER_END;
    for (size_t i = count; i > 0 && got == HK_ITER_END; i--)
        if ((got = wheel_turn(runtime, product, i - 1)) == HK_ITER_ITEM)
            product->begun = i;
    return got;
}

static int product_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct product *product = (struct product *)self;
    if (product->operands == NULL)
        return HK_ITER_END;
    size_t count = hk_tuple_count(product->operands);
    hk_object *row = hk_tuple(runtime, count);
    int got = row != NULL ? HK_ITER_ITEM : HK_ITER_ERROR;
    if (got == HK_ITER_ITEM && product->is_started && product->begun == count)
        got = turn(runtime, product, count);
    while (got == HK_ITER_ITEM && product->begun < count) {
        got = wheel_begin(runtime, product, product->begun);
        if (got == HK_ITER_ITEM && (got = wheel_turn(runtime, product, product->begun)) == HK_ITER_ITEM)
            product->begun++;
    }
    if (got != HK_ITER_ITEM) {
        hk_xdecref(runtime, row);
        return got == HK_ITER_END ? product_end(runtime, product) : got;
    }
    product->is_started = true;
    for (size_t i = 0; i < count; i++)
        hk_tuple_init(row, i, hk_incref(hk_tuple_get(product->items, i)));
    *item = row;
    return HK_ITER_ITEM;
}

static hk_object *tuple_again(hk_runtime *runtime, const hk_object *tuple)
{
    size_t count = hk_tuple_count(tuple);
    hk_object *again = hk_tuple(runtime, count);
    for (size_t i = 0; again != NULL && i < count; i++)
        hk_tuple_init(again, i, hk_incref(hk_tuple_get(tuple, i)));
    return again;
}

static int product_copy(hk_runtime *runtime, hk_object *self, hk_object **copy);

static hk_type product_type = {.name = "product", .size = sizeof(struct product), .pointers = 14, .next = product_next,
                               .copy = product_copy};

/* The first wheel's iterator stands among the operands as well. */
static int product_copy_parts(hk_runtime *runtime, const struct product *product, struct product *other)
{
    int got = copy_all(runtime, product->wheels, &other->wheels);
    if (got != HK_ITER_ITEM)
        return got;
    other->items = tuple_again(runtime, product->items);
    other->operands = tuple_again(runtime, product->operands);
    if (other->items == NULL || other->operands == NULL)
        return HK_ITER_ERROR;
    other->begun = product->begun;
    other->is_started = product->is_started;
    if (hk_tuple_count(other->operands) == 0)
        return HK_ITER_ITEM;
    hk_object *first = hk_tuple_get(other->wheels, 0);
    if (first != hk_none())
        hk_incref(first);
    else if ((got = hk_iter_copy(runtime, hk_tuple_get(product->operands, 0), &first)) != HK_ITER_ITEM)
        return got;
    put(runtime, other->operands, 0, first);
    return HK_ITER_ITEM;
}

static int product_copy(hk_runtime *runtime, hk_object *self, hk_object **copy)
{
    const struct product *product = (const struct product *)self;
    struct product *other = (struct product *)hk_new(runtime, &product_type);
    if (other == NULL)
        return HK_ITER_ERROR;
    int got = product->operands != NULL ? product_copy_parts(runtime, product, other) : HK_ITER_ITEM;
    if (got == HK_ITER_ITEM)
        *copy = &other->head;
    else
        hk_decref(runtime, &other->head);
    return got;
}

/* What a wheel can be begun anew with, as often as need be. */
static hk_object *repeatable(hk_runtime *runtime, hk_object *iterable)
{
    hk_object *copy;
    if (hk_type_of(iterable)->next == NULL) {
        hk_object *iterator = hk_iter(runtime, iterable); /* is it any? */
        hk_xdecref(runtime, iterator);
        return iterator != NULL ? hk_incref(iterable) : NULL;
    }
    int got = hk_iter_copy(runtime, iterable, &copy);
    return got == HK_ITER_END ? hk_iter_list(runtime, iterable) : copy;
}

hk_object *hk_iter_product(hk_runtime *runtime, hk_object *iterables)
{
    struct product *product = (struct product *)hk_new(runtime, &product_type);
    if (product == NULL)
        return NULL;
    product->operands = operands(runtime, iterables, hk_iter, repeatable);
    size_t count = product->operands != NULL ? hk_tuple_count(product->operands) : 0;
    product->wheels = hk_tuple(runtime, count);
    product->items = hk_tuple(runtime, count);
    if (product->operands == NULL || product->wheels == NULL || product->items == NULL) {
        hk_decref(runtime, &product->head);
        return NULL;
    }
    return &product->head;
}

/* --- group --- */

struct grouper {
    hk_object head;
    hk_object *source; /* NULL: at the end */
    hk_object *closure;
    hk_object *item, *key; /* taken, and given to no group yet; NULL: none is */
    hk_object *present;    /* key of the group that was given last; NULL: none was */
    hk_iter_function *function;
    uint64_t serial; /* of that group */
};

struct group {
    hk_object head;
    hk_object *grouper; /* NULL: at the end */
    uint64_t serial;
};

/* Sees to it that an item is there. */
static int look_ahead(hk_runtime *runtime, struct grouper *grouper)
{
    hk_object *item;
    if (grouper->item != NULL)
        return HK_ITER_ITEM;
    int got = grouper->source != NULL ? hk_iter_next(runtime, grouper->source, &item) : HK_ITER_END;
    if (got == HK_ITER_END)
        HK_CLEAR(runtime, grouper->source);
    if (got != HK_ITER_ITEM)
        return got;
    hk_object *key = grouper->function != NULL ? grouper->function(runtime, item, grouper->closure) : hk_incref(item);
    if (key == NULL) {
        hk_decref(runtime, item);
        return HK_ITER_ERROR;
    }
    grouper->item = item;
    grouper->key = key;
    return HK_ITER_ITEM;
}

static int group_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct group *group = (struct group *)self;
    struct grouper *grouper = (struct grouper *)group->grouper;
    if (grouper == NULL)
        return HK_ITER_END;
    if (grouper->head.flags & HK_RUNNING)
        return HK_ITER_ERROR;
    grouper->head.flags |= HK_RUNNING;
    int got = group->serial == grouper->serial ? look_ahead(runtime, grouper) : HK_ITER_END;
    if (got == HK_ITER_ITEM && hk_equal(grouper->key, grouper->present)) {
        *item = grouper->item;
        grouper->item = NULL;
        HK_CLEAR(runtime, grouper->key);
    } else if (got == HK_ITER_ITEM) {
        got = HK_ITER_END;
    }
    grouper->head.flags &= (uint16_t)~HK_RUNNING;
    if (got == HK_ITER_END)
        HK_CLEAR(runtime, group->grouper);
    return got;
}

static hk_type group_type = {.name = "group", .size = sizeof(struct group), .pointers = 2, .next = group_next};

static int grouper_next(hk_runtime *runtime, hk_object *self, hk_object **item)
{
    struct grouper *grouper = (struct grouper *)self;
    hk_object *pair = hk_tuple(runtime, 2);
    struct group *group = pair != NULL ? (struct group *)hk_new(runtime, &group_type) : NULL;
    int got = group != NULL ? HK_ITER_ITEM : HK_ITER_ERROR;
    while (got == HK_ITER_ITEM && (got = look_ahead(runtime, grouper)) == HK_ITER_ITEM) {
        if (grouper->present == NULL || !hk_equal(grouper->key, grouper->present))
            break;
        HK_CLEAR(runtime, grouper->item); /* of the present group, which nobody has gone through */
        HK_CLEAR(runtime, grouper->key);
    }
    if (got != HK_ITER_ITEM) {
        hk_xdecref(runtime, pair);
        hk_xdecref(runtime, (hk_object *)group);
        return got;
    }
    hk_set(runtime, &grouper->present, hk_incref(grouper->key));
    group->grouper = hk_incref(self);
    group->serial = ++grouper->serial;
    hk_tuple_init(pair, 0, hk_incref(grouper->key));
    hk_tuple_init(pair, 1, &group->head);
    *item = pair;
    return HK_ITER_ITEM;
}

static hk_type grouper_type = {.name = "grouper", .size = sizeof(struct grouper), .pointers = 62, .next = grouper_next};

hk_object *hk_iter_group(hk_runtime *runtime, hk_iter_function *function, hk_object *closure, hk_object *iterable)
{
    hk_object *source = hk_iter(runtime, iterable);
    struct grouper *grouper = source != NULL ? (struct grouper *)hk_new(runtime, &grouper_type) : NULL;
    if (grouper == NULL) {
        hk_xdecref(runtime, source);
        return NULL;
    }
    grouper->source = source;
    grouper->closure = closure != NULL ? hk_incref(closure) : NULL;
    grouper->function = function;
    return &grouper->head;
}
