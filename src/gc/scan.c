/* Trial deletion (Christopher's algorithm, as CPython's collector has it: update_refs, subtract_refs, move_unreachable).
 *
 *      1. every candidate becomes white
 *      2. explain: its count starts as its number of references; for each reference that a candidate holds to a white
 *         object, one is taken off there. What is left came from outside
 *      3. reach: from each white object with something left, all that can be reached turns black (not white)
 *      4. what is white now is garbage: all references to it come from garbage
 *
 * Explaining goes through the objects in the order of their addresses. A reference takes one off in the table of counts, whatever
 * it leads to: the bytes of what is no candidate mean nothing, and nobody looks at them. The others begin at 0.
 *
 * Reaching jumps about in memory. What is reached turns black and is put on the mark stack; taken off, it is asked for, and
 * waits in a ring until that has gone round. The stack has an end: when it is full, the older half turns grey, and their pools
 * are put into a queue, from where they come back pool by pool when the stack is empty. So it needs no memory, and in a
 * large heap objects that lie together are looked at together. There are no branches where a processor would have to
 * guess: whether a reference leads to something new is as good as random.
 *
 * Counts have 8 bits: an object with fewer than 256 references has exactly 0 left, or not. Of those with more (`many`) that
 * end at 0 the references from candidates are counted once more, in full; that takes another pass, and happens to one
 * in 256 of such objects, and to all of them that are garbage.
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

#define NO_POOL UINT32_MAX

enum {
    STACK = 1024,
    RING = 16, /* 8: too short for what comes from memory; 32: that much more to fill where nothing does */
    AHEAD = 2048, /* bytes at which the objects to be explained are asked for */
};

struct scan {
    const struct hk_gc_model *model;
    struct hk_gc_array many; /* white objects with more references than a count has room for */
    bool failed, some_special;
    uint64_t held; /* references that the white objects hold, less those that there are to them: modulo 2^64 */

    hk_traversal visitor; /* into buffer */
    hk_object *buffer[256];

    hk_object *stack[STACK], *ring[RING]; /* the ring is full always: what waits for nothing is `nobody` */
    size_t top, turn;
    uint64_t nowhere; /* 0 */
    uint32_t first, last; /* pools of the queue; NO_POOL: it is empty */
};

static hk_object nobody; /* of type 0, which is none: refers to nothing */

static void scan_begin(struct scan *scan, const struct hk_gc_model *model)
{
    scan->model = model;
    scan->many = (struct hk_gc_array){0};
    scan->failed = scan->some_special = false;
    scan->held = 0;
    scan->top = scan->turn = 0;
    scan->nowhere = 0;
    for (size_t i = 0; i < RING; i++)
        scan->ring[i] = &nobody;
    scan->first = scan->last = NO_POOL;
}

static inline const struct hk_gc_shape *shape_of(const struct hk_gc_model *model, const hk_object *object)
{
    return &model->shapes[object->type];
}

static void explain_buffer(struct scan *scan)
{
    scan->held += (size_t)(scan->visitor.next - scan->buffer);
    for (hk_object **child = scan->buffer; child < scan->visitor.next; child++)
        if (hk_region_has(*child))
            hk_gc_tables.count[hk_granule_of(*child)]--;
    scan->visitor.next = scan->buffer;
}

static void explain_full(hk_traversal *visitor)
{
    explain_buffer((struct scan *)((char *)visitor - offsetof(struct scan, visitor)));
}

/* What one place of an object refers to; 1: to nothing. */
static inline __attribute__((always_inline)) uint64_t take_off(uint8_t *count, char *base, size_t span, const void *child)
{
    size_t distance = (uintptr_t)child - (uintptr_t)base;
    if (distance >= span)
        return child == NULL;
    count[distance >> HK_GRANULE_SHIFT]--;
    return 0;
}

/* Of an object what stands in its places; returns how many references that are. */
static inline __attribute__((always_inline)) uint64_t explain(struct scan *scan, hk_object *object, const struct hk_gc_shape *shape,
                                                              uint8_t *count, char *base, size_t span)
{
    uint64_t held = shape->count;
    void **place = (void **)object + shape->first, **end = place + held;
    for (; place < end; place++)
        held -= take_off(count, base, span, *place);
    for (uint64_t bits = shape->scattered; bits != 0; bits &= bits - 1)
        held += 1 - take_off(count, base, span, ((void **)object)[__builtin_ctzll(bits)]);
    if (shape->traversed) {
        scan->model->traverse(object, &scan->visitor);
        if (scan->visitor.next > scan->buffer + 192)
            explain_buffer(scan);
    }
    return held;
}

/* Those white objects that begin at these of 64 granules. */
static void explain_bits(struct scan *scan, size_t first, uint64_t bits)
{
    const struct hk_gc_shape *shapes = scan->model->shapes;
    char *base = hk_region.base, *start = hk_granule_start(first);
    size_t span = hk_region.span;
    uint8_t *count = hk_gc_tables.count, *left = count + first;
    uint64_t held = 0;
    bool some_special = false;
    for (; bits != 0; bits &= bits - 1) {
        size_t i = (size_t)__builtin_ctzll(bits);
        hk_object *object = (hk_object *)(start + (i << HK_GRANULE_SHIFT));
        const struct hk_gc_shape *shape = &shapes[object->type];
        uint32_t references = object->references;
        __builtin_prefetch((char *)object + AHEAD);
        left[i] += (uint8_t)references;
        some_special |= !shape->plain | (object->flags != 0);
        if (__builtin_expect(references > UINT8_MAX, 0) && !hk_gc_array_push(&scan->many, object))
            scan->failed = true;
        held += explain(scan, object, shape, count, base, span) - references;
    }
    scan->held += held;
    scan->some_special |= some_special;
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

/* If the child is white, it turns black and is put on the stack, which has room; returns its top. What lies outside of the region has
 * its white bits in `nowhere`: another thread's objects may be in the region's first word. */
static inline __attribute__((always_inline)) size_t reach_child(hk_object **stack, size_t top, uint64_t *whites, char *base,
                                                                size_t span, uint64_t *nowhere, void *child)
{
    size_t distance = (uintptr_t)child - (uintptr_t)base;
    uint64_t *white = &whites[distance >> (HK_GRANULE_SHIFT + 6)], word;
    stack[top] = child;
#if defined(__x86_64__)
    __asm__("cmpq %2, %1\n\tcmovae %3, %0" : "+r"(white) : "r"(distance), "r"(span), "r"(nowhere) : "cc");
    word = *white;
    __asm__("btrq %2, %0\n\tadcq $0, %1" : "+r"(word), "+r"(top) : "r"(distance >> HK_GRANULE_SHIFT) : "cc");
    *white = word;
#else
    uint64_t inside = -(uint64_t)(distance < span);
    white = (uint64_t *)((uintptr_t)nowhere ^ (((uintptr_t)nowhere ^ (uintptr_t)white) & inside));
    word = *white & ~hk_bit_of(distance >> HK_GRANULE_SHIFT);
    top += word != *white;
    *white = word;
#endif
    return top;
}

static void reach_buffer(struct scan *scan)
{
    scan->held -= (size_t)(scan->visitor.next - scan->buffer);
    for (hk_object **child = scan->buffer; child < scan->visitor.next; child++) {
        if (scan->top == STACK)
            spill(scan);
        scan->top = reach_child(scan->stack, scan->top, hk_gc_tables.white, hk_region.base, hk_region.span, &scan->nowhere, *child);
    }
    scan->visitor.next = scan->buffer;
}

static void reach_full(hk_traversal *visitor)
{
    reach_buffer((struct scan *)((char *)visitor - offsetof(struct scan, visitor)));
}

/* What the object's function names. */
static __attribute__((noinline)) size_t reach_traversed(struct scan *scan, size_t top, hk_object *object)
{
    scan->top = top;
    scan->model->traverse(object, &scan->visitor);
    reach_buffer(scan);
    return scan->top;
}

/* What the objects on the stack refer to, and so on, until there are no more than `leave`, and for 0 none in the ring. */
static void reach(struct scan *scan, size_t leave)
{
    uint64_t *whites = hk_gc_tables.white, held = 0;
    char *base = hk_region.base;
    size_t span = hk_region.span, top = scan->top;
    const struct hk_gc_shape *shapes = scan->model->shapes;
    hk_object **stack = scan->stack, **ring = scan->ring;
    size_t turn = scan->turn, idle = 0;
    for (;;) {
        hk_object *later = &nobody;
        if (top > leave) {
            later = stack[--top];
            __builtin_prefetch(later);
            __builtin_prefetch((char *)later + 40); /* of which it has a part in the next line, often */
            idle = 0;
        } else if (leave > 0 || idle++ == RING) {
            break;
        }
        hk_object *object = ring[turn % RING];
        ring[turn++ % RING] = later;
        if (__builtin_expect(top > STACK - 64, 0)) {
            scan->top = top;
            spill(scan);
            top = scan->top;
        }
        const struct hk_gc_shape *shape = &shapes[object->type];
        void **place = (void **)object + shape->first, **end = place + shape->count;
        held -= object->references;
        for (; place < end; place++) {
            top = reach_child(stack, top, whites, base, span, &scan->nowhere, *place);
            held += *place != NULL;
        }
        for (uint64_t bits = shape->scattered; bits != 0; bits &= bits - 1) {
            void *child = ((void **)object)[__builtin_ctzll(bits)];
            top = reach_child(stack, top, whites, base, span, &scan->nowhere, child);
            held += child != NULL;
        }
        if (shape->traversed)
            top = reach_traversed(scan, top, object);
    }
    scan->held -= held;
    scan->top = top;
    scan->turn = turn;
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
        left = ((((left & 0x7f7f7f7f7f7f7f7fu) + 0x7f7f7f7f7f7f7f7fu) | left) >> 7) & 0x0101010101010101u;
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
    for (void *object; (object = hk_gc_whites_next(&whites)) != NULL;)
        all_references(scan->model, object, &recount.visitor);
    recount_buffer(&recount);
    for (size_t i = 0; i < kept; i++)
        if (recount.explained[i] != scan->model->count(many->items[i]))
            hk_gc_tables.count[hk_granule_of(many->items[i])]++;
    hk_os_unmap(recount.explained, kept * sizeof(uint32_t));
}

static void reach_object(struct scan *scan, hk_object *object)
{
    size_t granule = hk_granule_of(object);
    if (hk_gc_is_white(object) && hk_gc_tables.count[granule] != 0) {
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
        for (size_t word = (size_t)pools->items[i] * HK_POOL_WORDS, end = word + HK_POOL_WORDS; word < end; word++)
            explain_bits(scan, word * 64, hk_gc_tables.white[word]);
    for (size_t i = 0; pools == NULL && i < objects->count; i++)
        explain_bits(scan, hk_granule_of(objects->items[i]), 1);
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

static uint64_t whiten(uint32_t pool, int generation)
{
    uint64_t count = 0;
    for (size_t word = (size_t)pool * HK_POOL_WORDS, end = word + HK_POOL_WORDS; word < end; word++) {
        uint64_t white = hk_gc_tables.white[word] = hk_gc_candidates(word, generation);
        if (white == 0)
            continue;
        count += hk_gc_bits(white);
        memset(hk_gc_tables.count + word * 64, 0, 64);
    }
    return count;
}

static uint64_t count_white(uint32_t pool)
{
    uint64_t count = 0;
    for (size_t word = (size_t)pool * HK_POOL_WORDS, end = word + HK_POOL_WORDS; word < end; word++)
        count += hk_gc_bits(hk_gc_tables.white[word]);
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
        uint64_t count = count_white(pools->items[i]);
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
        hk_gc_tables.count[hk_granule_of(found->items[i])] = 0;
    bool good = explain_and_reach(&scan, &whites);
    size_t kept = 0, count = found->count;
    for (size_t i = 0; i < count; i++) {
        size_t granule = hk_granule_of(found->items[i]);
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
