/* Trial deletion (Christopher's algorithm, as CPython's collector has it: update_refs, subtract_refs, move_unreachable).
 *
 *      1. every candidate becomes white
 *      2. explain: its count starts as its number of references; for each reference that a candidate holds to a white
 *         object, one is taken off there. What is left came from outside
 *      3. reach: from each white object with something left, all that can be reached turns black (not white)
 *      4. what is white now is garbage: all references to it come from garbage
 *
 * Explaining goes through the objects in the order of their addresses. For that pass alone the byte of an object in the table of
 * counts says that it is white, too (CANDIDATE), so that a reference costs one look at one table. The bytes are 0
 * between scans.
 *
 * Reaching jumps about in memory. What is reached turns black and is put on the mark stack; taken off, it is asked for, and
 * waits in a ring until that has gone round. The stack has an end: when it is full, the older half turns grey, and their pools
 * are put into a queue, from where they come back pool by pool when the stack is empty. So it needs no memory, and in a
 * large heap objects that lie together are looked at together. There are no branches where a processor would have to
 * guess: whether a reference leads to something new is as good as random.
 *
 * Counts have 7 bits: an object with fewer than 128 references has exactly 0 left, or not. Of those with more (`many`) that
 * end at 0 the references from candidates are counted once more, in full; that takes another pass, and happens to one
 * in 128 of such objects, and to all of them that are garbage.
 *
 * Meanwhile it is added up, over the white objects, how many references they hold and how many there are to them. What holds
 * references to white objects is white. So if the sums are equal, what is white refers to nothing else (`closed`): it can be
 * freed without being looked at once more.
 *
 * A traverse function that names a reference that is not owned makes a count wrap: something is left, and the object
 * stays alive. One that forgets a reference does, too. So a wrong one leaks, and never frees what is in use. */
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

#define CANDIDATE 128u
#define LEFT 127u

#define NO_POOL UINT32_MAX

enum { STACK = 1024, RING = 32 };

struct scan {
    const struct hk_gc_model *model;
    struct hk_gc_array many; /* white objects with more references than a count has room for */
    bool failed, some_special;
    uint64_t held; /* references that the white objects hold, less those that there are to them: modulo 2^64 */

    hk_traversal visitor; /* into buffer */
    hk_object *buffer[256];

    hk_object *stack[STACK], *ring[RING];
    size_t top;
    unsigned turn, in_ring;
    uint32_t first, last; /* pools of the queue; NO_POOL: it is empty */
};

static void scan_begin(struct scan *scan, const struct hk_gc_model *model)
{
    scan->model = model;
    scan->many = (struct hk_gc_array){0};
    scan->failed = scan->some_special = false;
    scan->held = 0;
    scan->top = 0;
    scan->turn = scan->in_ring = 0;
    scan->first = scan->last = NO_POOL;
}

static const struct hk_gc_shape unknown = {.traversed = true};

static inline const struct hk_gc_shape *shape_of(const struct hk_gc_model *model, const hk_object *object)
{
    return model->shapes != NULL ? &model->shapes[object->type] : &unknown;
}

static inline bool is_special(const struct hk_gc_shape *shape, const hk_object *object)
{
    return shape->plain == 0 || object->flags != 0;
}

static inline uint32_t references_of(const struct hk_gc_model *model, const hk_object *object)
{
    return model->shapes != NULL ? object->references : model->count(object);
}

static inline __attribute__((always_inline)) void take_off(uint8_t *count, char *base, size_t span, const void *child)
{
    size_t distance = (uintptr_t)child - (uintptr_t)base;
    if (distance >= span)
        return;
    uint8_t *left = &count[distance >> HK_GRANULE_SHIFT];
    if (*left & CANDIDATE)
        *left = CANDIDATE | (uint8_t)((*left - 1u) & LEFT);
}

static void explain_buffer(struct scan *scan)
{
    scan->held += (size_t)(scan->visitor.next - scan->buffer);
    for (hk_object **child = scan->buffer; child < scan->visitor.next; child++)
        take_off(hk_gc_tables.count, hk_region.base, hk_region.span, *child);
    scan->visitor.next = scan->buffer;
}

static void explain_full(hk_traversal *visitor)
{
    explain_buffer((struct scan *)((char *)visitor - offsetof(struct scan, visitor)));
}

static inline __attribute__((always_inline)) void explain(struct scan *scan, hk_object *object, size_t granule)
{
    uint8_t *count = hk_gc_tables.count;
    char *base = hk_region.base;
    size_t span = hk_region.span;
    const struct hk_gc_shape *shape = shape_of(scan->model, object);
    uint32_t references = references_of(scan->model, object);
    count[granule] = CANDIDATE | (uint8_t)((count[granule] + references) & LEFT);
    scan->some_special |= is_special(shape, object);
    if (__builtin_expect(references > LEFT, 0) && !hk_gc_array_push(&scan->many, object))
        scan->failed = true;
    uint64_t held = 0;
    void **place = (void **)object + shape->first, **end = place + shape->count;
    for (; place < end; place++) {
        take_off(count, base, span, *place);
        held += *place != NULL;
    }
    for (uint64_t bits = shape->scattered; bits != 0; bits &= bits - 1) {
        void *child = ((void **)object)[__builtin_ctzll(bits)];
        take_off(count, base, span, child);
        held += child != NULL;
    }
    scan->held += held - references;
    if (shape->traversed) {
        scan->model->traverse(object, &scan->visitor);
        if (scan->visitor.next > scan->buffer + 192)
            explain_buffer(scan);
    }
}

/* --- reaching --- */

static void enqueue(struct scan *scan, uint32_t pool)
{
    struct hk_gc_pool *entry = &hk_gc_tables.pools[pool];
    if (entry->queued)
        return;
    entry->queued = true;
    entry->next = NO_POOL;
    if (scan->first == NO_POOL)
        scan->first = pool;
    else
        hk_gc_tables.pools[scan->last].next = pool;
    scan->last = pool;
}

/* The older half of the stack turns grey. */
static __attribute__((noinline)) void spill(struct scan *scan)
{
    size_t half = scan->top / 2;
    for (size_t i = 0; i < half; i++) {
        size_t granule = hk_granule_of(scan->stack[i]);
        hk_gc_tables.grey[granule / 64] |= hk_bit_of(granule);
        enqueue(scan, (uint32_t)(granule / HK_POOL_GRANULES));
    }
    memmove(scan->stack, scan->stack + half, (scan->top - half) * sizeof(*scan->stack));
    scan->top -= half;
}

/* If the child is white, it turns black and is put on the stack, which has room; returns its top. */
static inline __attribute__((always_inline)) size_t reach_child(struct scan *scan, size_t top, uint64_t *whites, char *base,
                                                                size_t span, void *child)
{
    size_t distance = (uintptr_t)child - (uintptr_t)base;
    uint64_t inside = distance < span;
    size_t granule = (distance & -inside) >> HK_GRANULE_SHIFT;
    uint64_t *white = &whites[granule / 64], bit = *white >> granule % 64 & inside;
    *white &= ~(bit << granule % 64);
    scan->stack[top] = child;
    return top + bit;
}

static void reach_buffer(struct scan *scan)
{
    scan->held -= (size_t)(scan->visitor.next - scan->buffer);
    for (hk_object **child = scan->buffer; child < scan->visitor.next; child++) {
        if (scan->top == STACK)
            spill(scan);
        scan->top = reach_child(scan, scan->top, hk_gc_tables.white, hk_region.base, hk_region.span, *child);
    }
    scan->visitor.next = scan->buffer;
}

static void reach_full(hk_traversal *visitor)
{
    reach_buffer((struct scan *)((char *)visitor - offsetof(struct scan, visitor)));
}

static inline __attribute__((always_inline)) void reach_children(struct scan *scan, hk_object *object, uint64_t *whites, char *base,
                                                                 size_t span)
{
    const struct hk_gc_shape *shape = shape_of(scan->model, object);
    if (__builtin_expect(scan->top > STACK - 64, 0))
        spill(scan);
    void **place = (void **)object + shape->first, **end = place + shape->count;
    size_t top = scan->top;
    uint64_t held = 0;
    for (; place < end; place++) {
        top = reach_child(scan, top, whites, base, span, *place);
        held += *place != NULL;
    }
    for (uint64_t bits = shape->scattered; bits != 0; bits &= bits - 1) {
        void *child = ((void **)object)[__builtin_ctzll(bits)];
        top = reach_child(scan, top, whites, base, span, child);
        held += child != NULL;
    }
    scan->top = top;
    scan->held -= held - references_of(scan->model, object);
    if (shape->traversed) {
        scan->model->traverse(object, &scan->visitor);
        reach_buffer(scan);
    }
}

/* What the objects on the stack refer to, and so on, until there are no more than `leave`, and for 0 none in the ring. */
static void reach(struct scan *scan, size_t leave)
{
    uint64_t *whites = hk_gc_tables.white;
    char *base = hk_region.base;
    size_t span = hk_region.span;
    while (scan->top > leave || (leave == 0 && scan->in_ring > 0)) {
        hk_object *object = scan->ring[scan->turn % RING];
        if (scan->top > 0) {
            hk_object *later = scan->stack[--scan->top];
            __builtin_prefetch(later);
            __builtin_prefetch((char *)later + 40); /* of which it has a part in the next line, often */
            if (scan->in_ring < RING) {
                scan->ring[(scan->turn + scan->in_ring++) % RING] = later;
                continue;
            }
            scan->ring[scan->turn++ % RING] = later;
        } else {
            scan->in_ring--;
            scan->turn++;
        }
        reach_children(scan, object, whites, base, span);
    }
}

/* Black objects of a word. */
static void reach_word(struct scan *scan, size_t word, uint64_t bits)
{
    for (; bits != 0; bits &= bits - 1) {
        if (scan->top == STACK)
            spill(scan);
        scan->stack[scan->top++] = hk_granule_start(word * 64 + (unsigned)__builtin_ctzll(bits));
    }
    reach(scan, 32);
}

/* Those white objects of a word that have something left; they turn black. */
static uint64_t roots_of(size_t word)
{
    uint64_t roots = 0;
    if (hk_gc_tables.white[word] == 0)
        return 0;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t left;
        memcpy(&left, hk_gc_tables.count + word * 64 + 8 * i, 8);
        left = ((left & 0x7f7f7f7f7f7f7f7fu) + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
        roots |= (left * 0x0102040810204080u >> 56) << 8 * i;
    }
    roots &= hk_gc_tables.white[word];
    hk_gc_tables.white[word] &= ~roots;
    return roots;
}

static void reach_pool(struct scan *scan, uint32_t pool)
{
    for (size_t word = (size_t)pool * HK_POOL_WORDS, end = word + HK_POOL_WORDS; word < end; word++) {
        uint64_t grey = hk_gc_tables.grey[word];
        hk_gc_tables.grey[word] = 0;
        if (grey != 0)
            reach_word(scan, word, grey);
    }
}

/* Until nothing is on the stack, in the ring or in the queue. */
static void reach_rest(struct scan *scan)
{
    for (;;) {
        reach(scan, 0);
        if (scan->first == NO_POOL)
            return;
        uint32_t pool = scan->first;
        scan->first = hk_gc_tables.pools[pool].next;
        hk_gc_tables.pools[pool].queued = false;
        reach_pool(scan, pool);
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

void *hk_gc_whites_next(struct hk_gc_whites *whites)
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
        whites->bits = hk_gc_tables.white[whites->word++];
    }
    unsigned bit = (unsigned)__builtin_ctzll(whites->bits);
    whites->bits &= whites->bits - 1;
    return hk_granule_start((whites->word - 1) * 64 + bit);
}

static void all_references(const struct hk_gc_model *model, const hk_object *object, hk_traversal *visitor)
{
    const struct hk_gc_shape *shape = shape_of(model, object);
    for (unsigned i = 0; i < shape->count; i++)
        hk_visit(visitor, ((hk_object **)object)[shape->first + i]);
    for (uint64_t bits = shape->scattered; bits != 0; bits &= bits - 1)
        hk_visit(visitor, ((hk_object **)object)[__builtin_ctzll(bits)]);
    if (shape->traversed)
        model->traverse(object, visitor);
}

/* Of the objects in `many` with nothing left, those that have something left after all get a count that says so. */
static void explain_many(struct scan *scan, struct hk_gc_whites whites)
{
    struct hk_gc_array *many = &scan->many;
    size_t kept = 0;
    for (size_t i = 0; i < many->count; i++)
        if ((hk_gc_tables.count[hk_granule_of(many->items[i])] & LEFT) == 0)
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
    for (void *object; (object = hk_gc_whites_next(&whites)) != NULL;)
        all_references(scan->model, object, &recount.visitor);
    recount_buffer(&recount);
    for (size_t i = 0; i < kept; i++)
        if (recount.explained[i] != scan->model->count(many->items[i]))
            hk_gc_tables.count[hk_granule_of(many->items[i])]++;
    hk_os_unmap(recount.explained, kept * sizeof(uint32_t));
}

/* Steps 2 and 3 for the objects of 64 granules. */
static void explain_word(struct scan *scan, size_t first)
{
    for (uint64_t bits = hk_gc_tables.white[first / 64]; bits != 0; bits &= bits - 1) {
        size_t granule = first + (unsigned)__builtin_ctzll(bits);
        explain(scan, hk_granule_start(granule), granule);
    }
}

static void reach_object(struct scan *scan, hk_object *object)
{
    size_t granule = hk_granule_of(object);
    if (hk_gc_is_white(object) && (hk_gc_tables.count[granule] & LEFT)) {
        hk_gc_tables.white[granule / 64] &= ~hk_bit_of(granule);
        reach_word(scan, granule / 64, hk_bit_of(granule));
    }
}

/* Steps 2 and 3 over the white objects, of pools or of an array. False: no memory; which are white means nothing then. */
static bool explain_and_reach(struct scan *scan, const struct hk_gc_whites *whites)
{
    const struct hk_gc_pools *pools = whites->pools;
    const struct hk_gc_array *objects = whites->objects;
    scan->visitor = (hk_traversal){scan->buffer, scan->buffer + 256, explain_full};
    for (size_t i = 0; pools != NULL && i < pools->count; i++)
        for (size_t word = 0; word < HK_POOL_WORDS; word++)
            explain_word(scan, (size_t)pools->items[i] * HK_POOL_GRANULES + word * 64);
    for (size_t i = 0; pools == NULL && i < objects->count; i++)
        explain(scan, objects->items[i], hk_granule_of(objects->items[i]));
    explain_buffer(scan);
    explain_many(scan, *whites);

    scan->visitor = (hk_traversal){scan->buffer, scan->buffer + 256, reach_full};
    for (size_t i = 0; pools != NULL && i < pools->count; i++)
        for (size_t word = (size_t)pools->items[i] * HK_POOL_WORDS, end = word + HK_POOL_WORDS; word < end; word++)
            reach_word(scan, word, roots_of(word));
    for (size_t i = 0; pools == NULL && i < objects->count; i++)
        reach_object(scan, objects->items[i]);
    reach_rest(scan);
    hk_gc_array_free(&scan->many);
    return !scan->failed;
}

uint64_t hk_gc_candidates(size_t word, int generation)
{
    uint64_t low = hk_gc_tables.age[word].low, high = hk_gc_tables.age[word].high;
    uint64_t older = generation == 0 ? low | high : generation == 1 ? high : low & high;
    return hk_gc_tables.tracked[word] & ~older;
}

/* The bytes of 64 objects: CANDIDATE where there is a bit. */
static void counts_begin(uint8_t *count, uint64_t bits)
{
    for (unsigned i = 0; i < 8; i++, bits >>= 8) {
        uint64_t spread = (bits & 255) * 0x0101010101010101u & 0x8040201008040201u; /* a bit in the byte of each */
        spread = (spread + 0x7f7f7f7f7f7f7f7fu) & 0x8080808080808080u;
        memcpy(count + 8 * i, &spread, 8);
    }
}

static uint64_t whiten(uint32_t pool, int generation)
{
    uint64_t count = 0;
    for (size_t word = (size_t)pool * HK_POOL_WORDS, end = word + HK_POOL_WORDS; word < end; word++) {
        uint64_t white = hk_gc_tables.white[word] = hk_gc_candidates(word, generation);
        if (white == 0)
            continue;
        count += hk_gc_bits(white);
        counts_begin(hk_gc_tables.count + word * 64, white);
    }
    return count;
}

/* The counts of candidates are 0 again; returns how many of them are white. */
static uint64_t counts_end(uint32_t pool, int generation)
{
    uint64_t count = 0;
    for (size_t word = (size_t)pool * HK_POOL_WORDS, end = word + HK_POOL_WORDS; word < end; word++) {
        count += hk_gc_bits(hk_gc_tables.white[word]);
        if (hk_gc_candidates(word, generation) != 0)
            memset(hk_gc_tables.count + word * 64, 0, 64);
    }
    return count;
}

void hk_gc_blacken(const struct hk_gc_pools *pools)
{
    for (size_t i = 0; i < pools->count; i++)
        memset(&hk_gc_tables.white[(size_t)pools->items[i] * HK_POOL_WORDS], 0, HK_POOL_WORDS * sizeof(uint64_t));
}

bool hk_gc_scan(const struct hk_gc_model *model, const struct hk_gc_pools *pools, int generation, struct hk_gc_found *found)
{
    struct scan scan; /* the arrays are not cleared */
    scan_begin(&scan, model);
    struct hk_gc_whites whites = {.pools = pools};
    *found = (struct hk_gc_found){0};
    for (size_t i = 0; i < pools->count; i++) {
        uint64_t count = whiten(pools->items[i], generation);
        found->candidates += count;
        found->candidate_bytes += count * hk_region.pools[pools->items[i]].block_size;
    }
    bool good = explain_and_reach(&scan, &whites);
    for (size_t i = 0; i < pools->count; i++) {
        uint64_t count = counts_end(pools->items[i], generation);
        found->white += count;
        found->white_bytes += count * hk_region.pools[pools->items[i]].block_size;
    }
    found->all_plain = !scan.some_special;
    found->closed = scan.held == 0;
    if (!good)
        hk_gc_blacken(pools);
    return good;
}

int64_t hk_gc_scan_again(const struct hk_gc_model *model, struct hk_gc_array *found)
{
    struct scan scan; /* the arrays are not cleared */
    scan_begin(&scan, model);
    struct hk_gc_whites whites = {.objects = found};
    for (size_t i = 0; i < found->count; i++)
        hk_gc_tables.count[hk_granule_of(found->items[i])] = CANDIDATE;
    bool good = explain_and_reach(&scan, &whites);
    size_t kept = 0, count = found->count;
    for (size_t i = 0; i < count; i++) {
        size_t granule = hk_granule_of(found->items[i]);
        hk_gc_tables.count[granule] = 0;
        if (!good)
            hk_gc_tables.white[granule / 64] |= hk_bit_of(granule);
        else if (hk_gc_is_white(found->items[i]))
            found->items[kept++] = found->items[i];
    }
    if (!good)
        return -1;
    found->count = kept;
    return (int64_t)(count - kept);
}
