/* Trial deletion (Christopher's algorithm, as CPython's collector has it: update_refs, subtract_refs, move_unreachable).
 *
 *      1. every candidate becomes white
 *      2. explain: its count starts as its number of references; for each reference that a candidate holds to a white
 *         object, one is taken off there. What is left came from outside
 *      3. reach: from each white object with something left, all that can be reached turns black (not white)
 *      4. what is white now is garbage: all references to it come from garbage
 *
 * Counts are bytes, modulo 256: an object with fewer than 256 references has exactly 0 left, or not. Of those with more
 * (`many`) that end at 0 the references from candidates are counted once more, in full; that takes another pass, and happens to
 * one in 256 of such objects, and to all of them that are garbage.
 *
 * A traverse function that names a reference that is not owned makes a count wrap: something is left, and the object
 * stays alive. One that forgets a reference does, too. So a wrong one leaks, and never frees what is in use.
 *
 * The mark stack grows by mapping. Objects are pushed by their traverse functions without a look, and looked at
 * when they are taken off.
 */
#include "gc/scan.h"

#include <string.h>

/* --- arrays --- */

static void *grow(void *items, size_t *capacity, size_t item_size)
{
    size_t more = *capacity == 0 ? 65536 / item_size : 2 * *capacity;
    void *bigger = hk_os_map(more * item_size);
    if (bigger == NULL)
        return NULL;
    if (items != NULL) {
        memcpy(bigger, items, *capacity * item_size);
        hk_os_unmap(items, *capacity * item_size);
    }
    *capacity = more;
    return bigger;
}

bool hk_gc_array_push(struct hk_gc_array *array, void *item)
{
    if (array->count == array->capacity) {
        void *items = grow(array->items, &array->capacity, sizeof(void *));
        if (items == NULL)
            return false;
        array->items = items;
    }
    array->items[array->count++] = item;
    return true;
}

void hk_gc_array_free(struct hk_gc_array *array)
{
    if (array->items != NULL)
        hk_os_unmap(array->items, array->capacity * sizeof(void *));
    memset(array, 0, sizeof(*array));
}

bool hk_gc_pools_push(struct hk_gc_pools *pools, uint32_t pool)
{
    if (pools->count == pools->capacity) {
        void *items = grow(pools->items, &pools->capacity, sizeof(uint32_t));
        if (items == NULL)
            return false;
        pools->items = items;
    }
    pools->items[pools->count++] = pool;
    return true;
}

void hk_gc_pools_free(struct hk_gc_pools *pools)
{
    if (pools->items != NULL)
        hk_os_unmap(pools->items, pools->capacity * sizeof(uint32_t));
    memset(pools, 0, sizeof(*pools));
}

/* --- the scan --- */

struct scan {
    const struct hk_gc_model *model;
    struct hk_gc_array many; /* white objects with 256 references or more */
    bool failed;

    hk_traversal visitor; /* during explain: into buffer. During reach: onto the stack */
    hk_object *buffer[256];
    struct hk_gc_array stack;
};

static void blacken_one(const void *object)
{
    size_t granule = hk_granule_of(object);
    hk_word_of(granule)->white &= ~hk_bit_of(granule);
}

bool hk_gc_is_white(const void *object)
{
    size_t granule = hk_granule_of(object);
    return hk_region_has(object) && (hk_word_of(granule)->white & hk_bit_of(granule)) != 0;
}

static void explain_buffer(struct scan *scan)
{
    for (hk_object **child = scan->buffer; child < scan->visitor.next; child++)
        if (hk_gc_is_white(*child))
            hk_gc_tables.count[hk_granule_of(*child)]--;
    scan->visitor.next = scan->buffer;
}

static void explain_full(hk_traversal *visitor)
{
    explain_buffer((struct scan *)((char *)visitor - offsetof(struct scan, visitor)));
}

/* A candidate: its own references are added, those that it holds are taken off. */
static void explain(struct scan *scan, void *object)
{
    size_t granule = hk_granule_of(object);
    uint32_t references = scan->model->count(object);
    if (references == UINT32_MAX) {
        blacken_one(object); /* what it refers to keeps a reference from outside, for ever */
        return;
    }
    hk_gc_tables.count[granule] += (uint8_t)references;
    if (references > UINT8_MAX && !hk_gc_array_push(&scan->many, object))
        scan->failed = true;
    scan->model->traverse(object, &scan->visitor);
    if (scan->visitor.next > scan->buffer + 192)
        explain_buffer(scan);
}

static void reach_full(hk_traversal *visitor)
{
    struct scan *scan = (struct scan *)((char *)visitor - offsetof(struct scan, visitor));
    struct hk_gc_array *stack = &scan->stack;
    size_t used = (size_t)(visitor->next - (hk_object **)stack->items);
    void *items = grow(stack->items, &stack->capacity, sizeof(void *));
    if (items == NULL) { /* what is on the stack is lost, and the scan fails; what comes now goes anywhere */
        scan->failed = true;
        *visitor = (hk_traversal){scan->buffer, scan->buffer + 256, reach_full};
        return;
    }
    stack->items = items;
    visitor->next = (hk_object **)items + used;
    visitor->end = (hk_object **)items + stack->capacity;
}

/* Everything that the object reaches among the white turns black. */
static void reach(struct scan *scan, void *object)
{
    hk_traversal *visitor = &scan->visitor;
    hk_visit(visitor, object);
    while (!scan->failed && visitor->next > (hk_object **)scan->stack.items) {
        void *next = *--visitor->next;
        if (!hk_gc_is_white(next))
            continue;
        blacken_one(next);
        scan->model->traverse(next, visitor);
    }
}

/* --- objects with many references --- */

struct recount {
    hk_traversal visitor;
    hk_object *buffer[256];
    const struct hk_gc_array *objects; /* sorted by address */
    uint32_t *explained;
};

static void recount_buffer(struct recount *recount)
{
    for (hk_object **child = recount->buffer; child < recount->visitor.next; child++) {
        size_t low = 0, high = recount->objects->count;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if ((uintptr_t)recount->objects->items[middle] < (uintptr_t)*child)
                low = middle + 1;
            else
                high = middle;
        }
        if (low < recount->objects->count && recount->objects->items[low] == *child)
            recount->explained[low]++;
    }
    recount->visitor.next = recount->buffer;
}

static void recount_full(hk_traversal *visitor)
{
    recount_buffer((struct recount *)((char *)visitor - offsetof(struct recount, visitor)));
}

static void sort(void **items, size_t count)
{
    for (size_t gap = count / 2; gap > 0; gap /= 2) /* they come nearly in order */
        for (size_t i = gap; i < count; i++)
            for (size_t j = i; j >= gap && (uintptr_t)items[j - gap] > (uintptr_t)items[j]; j -= gap) {
                void *swap = items[j];
                items[j] = items[j - gap];
                items[j - gap] = swap;
            }
}

/* The white objects, one after another, whichever way they are given. */
struct whites {
    const struct hk_gc_pools *pools;
    const struct hk_gc_array *objects;
    size_t next, word, end;
    uint64_t bits;
};

static void *whites_next(struct whites *whites)
{
    if (whites->pools == NULL) {
        while (whites->next < whites->objects->count) {
            void *object = whites->objects->items[whites->next++];
            if (hk_gc_is_white(object))
                return object;
        }
        return NULL;
    }
    while (whites->bits == 0) {
        if (whites->word == whites->end) {
            if (whites->next == whites->pools->count)
                return NULL;
            whites->word = (size_t)whites->pools->items[whites->next++] * HK_POOL_WORDS;
            whites->end = whites->word + HK_POOL_WORDS;
        }
        whites->bits = hk_gc_tables.words[whites->word++].white;
    }
    unsigned bit = (unsigned)__builtin_ctzll(whites->bits);
    whites->bits &= whites->bits - 1;
    return hk_granule_start((whites->word - 1) * 64 + bit);
}

/* Of the objects in `many` whose count says 0, those that have something left after all get a count that says so. */
static void explain_many(struct scan *scan, struct whites whites)
{
    struct hk_gc_array *many = &scan->many;
    size_t kept = 0;
    for (size_t i = 0; i < many->count; i++)
        if (hk_gc_tables.count[hk_granule_of(many->items[i])] == 0)
            many->items[kept++] = many->items[i];
    many->count = kept;
    if (kept == 0)
        return;
    sort(many->items, kept);
    struct recount recount = {.objects = many, .explained = hk_os_map(kept * sizeof(uint32_t))};
    if (recount.explained == NULL) {
        scan->failed = true;
        return;
    }
    recount.visitor = (hk_traversal){recount.buffer, recount.buffer + 256, recount_full};
    for (void *object; (object = whites_next(&whites)) != NULL;)
        scan->model->traverse(object, &recount.visitor);
    recount_buffer(&recount);
    for (size_t i = 0; i < kept; i++)
        if (recount.explained[i] != scan->model->count(many->items[i]))
            hk_gc_tables.count[hk_granule_of(many->items[i])] = 1;
    hk_os_unmap(recount.explained, kept * sizeof(uint32_t));
}

/* Steps 2 and 3 over the white objects. False: no memory; which are white means nothing then. */
static bool explain_and_reach(struct scan *scan, struct whites whites)
{
    struct whites again = whites;
    scan->visitor = (hk_traversal){scan->buffer, scan->buffer + 256, explain_full};
    for (void *object; (object = whites_next(&whites)) != NULL;)
        explain(scan, object);
    explain_buffer(scan);
    explain_many(scan, again);

    scan->visitor = (hk_traversal){NULL, NULL, reach_full};
    for (void *object; !scan->failed && (object = whites_next(&again)) != NULL;)
        if (hk_gc_tables.count[hk_granule_of(object)] != 0)
            reach(scan, object);
    hk_gc_array_free(&scan->stack);
    hk_gc_array_free(&scan->many);
    return !scan->failed;
}

uint64_t hk_gc_candidates(const struct hk_gc_word *word, int generation)
{
    uint64_t low = word->age[0], high = word->age[1];
    uint64_t older = generation == 0 ? low | high : generation == 1 ? high : low & high;
    return word->tracked & ~older;
}

static uint64_t whiten(uint32_t pool, int generation)
{
    uint64_t count = 0;
    struct hk_gc_word *word = &hk_gc_tables.words[(size_t)pool * HK_POOL_WORDS];
    for (size_t i = 0; i < HK_POOL_WORDS; i++) {
        word[i].white = hk_gc_candidates(&word[i], generation);
        count += (unsigned)__builtin_popcountll(word[i].white);
    }
    if (count > 0)
        memset(hk_gc_tables.count + (size_t)pool * HK_POOL_GRANULES, 0, HK_POOL_GRANULES);
    return count;
}

static void blacken(const struct hk_gc_pools *pools)
{
    for (size_t i = 0; i < pools->count; i++)
        for (size_t word = 0; word < HK_POOL_WORDS; word++)
            hk_gc_tables.words[(size_t)pools->items[i] * HK_POOL_WORDS + word].white = 0;
}

bool hk_gc_scan(const struct hk_gc_model *model, const struct hk_gc_pools *pools, int generation,
                struct hk_gc_array *found, uint64_t *candidates)
{
    struct scan scan = {.model = model};
    struct whites whites = {.pools = pools};
    *candidates = 0;
    for (size_t i = 0; i < pools->count; i++)
        *candidates += whiten(pools->items[i], generation);
    bool good = explain_and_reach(&scan, whites);
    for (void *object; good && (object = whites_next(&whites)) != NULL;)
        good = hk_gc_array_push(found, object);
    if (!good) {
        blacken(pools);
        found->count = 0;
    }
    return good;
}

int64_t hk_gc_scan_again(const struct hk_gc_model *model, struct hk_gc_array *found)
{
    struct scan scan = {.model = model};
    struct whites whites = {.objects = found};
    for (size_t i = 0; i < found->count; i++)
        hk_gc_tables.count[hk_granule_of(found->items[i])] = 0;
    if (!explain_and_reach(&scan, whites)) {
        for (size_t i = 0; i < found->count; i++)
            hk_word_of(hk_granule_of(found->items[i]))->white |= hk_bit_of(hk_granule_of(found->items[i]));
        return -1;
    }
    size_t kept = 0, count = found->count;
    for (size_t i = 0; i < count; i++)
        if (hk_gc_is_white(found->items[i]))
            found->items[kept++] = found->items[i];
    found->count = kept;
    return (int64_t)(count - kept);
}
