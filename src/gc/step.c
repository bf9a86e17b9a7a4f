/* Trial deletion in small steps (scan.c does it in one), while the program changes the graph between them and tells
 * nobody. A round:
 *
 *      whiten    every object of now becomes a suspect
 *      explain   as in scan.c: a suspect's count is its references, less those that suspects hold
 *      reach     from suspects with something left: what is reached is no suspect any more
 *      sift      the suspects that are left are counted. Explain and reach are done again for these alone, until that does
 *                not take many more out: it is the program's changes that leave living ones among them
 *      order     strongly connected components of the suspects (Tarjan's algorithm), in the order in which they refer to
 *                each other
 *      give      component by component, those first that others do not refer to: each is checked again, exactly, and freed
 *                at once, by the owner
 *
 * Nothing that lives is freed: what decides is the check, which is made on the graph as it is, between two things that the program
 * does. An object all of whose references come from the checked set, and that nothing else of the set with a reference from outside
 * reaches, is garbage, however the set was come by. So all that is found out before may be wrong.
 *
 * All that was garbage at the round's start is freed at its end. Garbage does not change, nor is there a reference to it
 * from what is none. So whenever it is looked at, its counts end at 0; what is reached is no garbage or has become it since;
 * and of its components, the order is right. The first to be given is referred to by itself only, and passes the check; those
 * that it refers to are then the first. (Finalizers and weak references may save some of it: that is none, then.)
 *
 * What is remembered of an object between steps is a suspect's or grey bit; where one dies these are cleared (hk_gc_forget),
 * and no new one gets any before the next round. So an address without its bit is not looked at. Nor is one in a pool that has become
 * another runtime's, which may have bits there.
 *
 * Counts are kept modulo 128 in the first pass, 127 in the second, and so on: references from outside that are overlooked because there
 * are a multiple of 128 are seen in the second. */
#include "gc/step.h"

#include <string.h>

#define CANDIDATE 128u
#define VALUE 127u

enum { IDLE, WHITEN, EXPLAIN, REACH, SIFT, ORDER, GIVE };
enum { PASSES = 4, UNITS = 32, BATCH = 512, RING = 8 };
#define DONE UINT32_MAX /* of first_seen: its component is complete */

/* --- objects and their bits --- */

static inline struct hk_gc_marks *marks_of(const void *object)
{
    return &hk_gc_tables.marks[hk_granule_of(object) / 64];
}

static inline bool is_suspect(const void *object)
{
    return hk_region_has(object) && (marks_of(object)->suspect & hk_bit_of(hk_granule_of(object))) != 0;
}

/* The pool is still the runtime's. */
static inline bool is_ours(const struct hk_gc_step *step, size_t pool)
{
    return __atomic_load_n(&hk_region.pools[pool].heap, __ATOMIC_RELAXED) == step->heap;
}

/* Of an address that has been kept since an earlier step. */
static inline bool is_there(const struct hk_gc_step *step, const void *object)
{
    return is_ours(step, hk_granule_of(object) / HK_POOL_GRANULES);
}

static bool is_late(const struct hk_gc_step *step)
{
    return hk_os_clock_ns() >= step->deadline;
}

static void hand_on(struct hk_gc_step *step)
{
    for (hk_object **child = step->buffer; child < step->visitor.next; child++)
        step->child(step, *child);
    step->visitor.next = step->buffer;
}

static void hand_on_full(hk_traversal *visitor)
{
    hand_on((struct hk_gc_step *)((char *)visitor - offsetof(struct hk_gc_step, visitor)));
}

/* Calls for each place of the object's shape, where there may be NULL, and for what its traverse function names. */
static inline __attribute__((always_inline)) void each_child(struct hk_gc_step *step, hk_object *object,
                                                             void (*child)(struct hk_gc_step *step, hk_object *child))
{
    if (step->model->shapes != NULL) {
        const struct hk_gc_shape *shape = &step->model->shapes[object->type];
        hk_object **place = (hk_object **)object + shape->first, **end = place + shape->count;
        for (; place < end; place++)
            child(step, *place);
        for (uint64_t bits = shape->scattered; bits != 0; bits &= bits - 1)
            child(step, ((hk_object **)object)[__builtin_ctzll(bits)]);
        if (!shape->traversed)
            return;
    }
    step->child = child;
    step->model->traverse(object, &step->visitor);
    hand_on(step);
}

/* --- whiten --- */

/* The bytes of 64 objects: CANDIDATE where there is a bit. */
static void counts_begin(size_t word, uint64_t bits)
{
    for (unsigned i = 0; i < 8; i++, bits >>= 8) {
        uint64_t spread = (bits & 255) * 0x0101010101010101u & 0x8040201008040201u; /* a bit in the byte of each */
        spread = (spread + 0x7f7f7f7f7f7f7f7fu) & 0x8080808080808080u;
        memcpy(hk_gc_tables.step_count + word * 64 + 8 * i, &spread, 8);
    }
}

static void whiten_pool(struct hk_gc_step *step, uint32_t number)
{
    struct hk_pool *pool = &hk_region.pools[number];
    if (!is_ours(step, number))
        return;
    hk_gc_tables.pools[number].spilled = false;
    hk_gc_note_pool(pool);
    step->noted = true;
    for (size_t word = (size_t)number * HK_POOL_WORDS, end = word + HK_POOL_WORDS; word < end; word++) {
        struct hk_gc_marks *marks = &hk_gc_tables.marks[word];
        uint64_t suspects = hk_gc_candidates(word, 2);
        if ((marks->suspect | marks->grey | suspects) == 0)
            continue;
        marks->suspect = suspects;
        marks->grey = 0;
        counts_begin(word, suspects);
        uint32_t count = hk_gc_bits(suspects);
        step->candidates += count;
        step->candidate_bytes += (uint64_t)count * pool->block_size;
    }
}

static bool whiten(struct hk_gc_step *step)
{
    while (step->at < step->pools.count) {
        whiten_pool(step, step->pools.items[step->at++]);
        if (is_late(step))
            break;
    }
    return step->at == step->pools.count;
}

/* --- explain --- */

static unsigned modulus_of(const struct hk_gc_step *step)
{
    return 128 - step->pass;
}

static inline __attribute__((always_inline)) void take_off(struct hk_gc_step *step, hk_object *child)
{
    size_t distance = (uintptr_t)child - (uintptr_t)hk_region.base;
    if (distance >= hk_region.span)
        return;
    uint8_t *left = &hk_gc_tables.step_count[distance >> HK_GRANULE_SHIFT];
    unsigned value = *left & VALUE;
    if (*left & CANDIDATE)
        *left = (uint8_t)(CANDIDATE | ((value == 0 ? modulus_of(step) : value) - 1));
}

static void push_grey(struct hk_gc_step *step, hk_object *object)
{
    if (step->top < HK_GC_STEP_STACK) {
        step->stack[step->top++] = object;
        return;
    }
    hk_gc_tables.pools[hk_granule_of(object) / HK_POOL_GRANULES].spilled = true;
    step->spilled = true;
}

static void reached(struct hk_gc_step *step, hk_object *object)
{
    struct hk_gc_marks *marks = marks_of(object);
    marks->suspect &= ~hk_bit_of(hk_granule_of(object));
    marks->grey |= hk_bit_of(hk_granule_of(object));
    push_grey(step, object);
}

static void explain_object(struct hk_gc_step *step, hk_object *object, size_t granule)
{
    uint32_t references = step->model->count(object);
    unsigned modulus = modulus_of(step);
    uint8_t *left = &hk_gc_tables.step_count[granule];
    each_child(step, object, take_off);
    if (references == UINT32_MAX) {
        reached(step, object); /* it cannot die */
        return;
    }
    unsigned value = (*left & VALUE) + (references < modulus ? references : references % modulus);
    *left = (uint8_t)(CANDIDATE | (value < modulus ? value : value - modulus));
}

static bool explain(struct hk_gc_step *step)
{
    for (; step->at < step->pools.count; step->at++, step->word = 0)
        while (step->word < HK_POOL_WORDS && is_ours(step, step->pools.items[step->at])) {
            size_t first = ((size_t)step->pools.items[step->at] * HK_POOL_WORDS + step->word++) * 64;
            uint64_t bits = hk_gc_tables.marks[first / 64].suspect;
            if (bits == 0)
                continue;
            for (; bits != 0; bits &= bits - 1) {
                size_t granule = first + (unsigned)__builtin_ctzll(bits);
                explain_object(step, hk_granule_start(granule), granule);
            }
            if (is_late(step))
                return false;
        }
    return true;
}

/* --- reach --- */

static inline __attribute__((always_inline)) void reach_child(struct hk_gc_step *step, hk_object *child)
{
    if (is_suspect(child))
        reached(step, child);
}

static void reach_from(struct hk_gc_step *step, hk_object *object)
{
    struct hk_gc_marks *marks = marks_of(object);
    uint64_t bit = hk_bit_of(hk_granule_of(object));
    if (!is_there(step, object) || !(marks->grey & bit))
        return; /* it has died */
    marks->grey &= ~bit;
    each_child(step, object, reach_child);
}

/* Until nothing is on the stack; false: it is late. As in scan.c, what is taken off is asked for, and waits in a ring. */
static bool drain(struct hk_gc_step *step)
{
    hk_object *ring[RING];
    unsigned turn = 0, in_ring = 0, units = 0;
    while (step->top > 0 || in_ring > 0) {
        hk_object *object = ring[turn % RING];
        if (step->top > 0) {
            hk_object *later = step->stack[--step->top];
            __builtin_prefetch(later);
            __builtin_prefetch((char *)later + 40);
            if (in_ring < RING) {
                ring[(turn + in_ring++) % RING] = later;
                continue;
            }
            ring[turn++ % RING] = later;
        } else {
            in_ring--;
            turn++;
        }
        reach_from(step, object);
        if (++units % UNITS == 0 && is_late(step)) {
            for (; in_ring > 0; in_ring--)
                push_grey(step, ring[turn++ % RING]);
            return false;
        }
    }
    return true;
}

/* Those suspects of a word that have something left. */
static uint64_t roots_of(size_t word)
{
    uint64_t roots = 0;
    if (hk_gc_tables.marks[word].suspect == 0)
        return 0;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t left;
        memcpy(&left, hk_gc_tables.step_count + word * 64 + 8 * i, 8);
        left = ((left & 0x7f7f7f7f7f7f7f7fu) + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
        roots |= (left * 0x0102040810204080u >> 56) << 8 * i;
    }
    return roots & hk_gc_tables.marks[word].suspect;
}

static void reach_word(struct hk_gc_step *step, size_t word)
{
    uint64_t bits = step->sweeping ? hk_gc_tables.marks[word].grey : roots_of(word);
    for (; bits != 0; bits &= bits - 1) {
        hk_object *object = hk_granule_start(word * 64 + (unsigned)__builtin_ctzll(bits));
        if (step->sweeping)
            push_grey(step, object);
        else
            reached(step, object);
    }
}

static bool reach_pools(struct hk_gc_step *step)
{
    for (; step->at < step->pools.count; step->at++, step->word = 0) {
        uint32_t pool = step->pools.items[step->at];
        if (!is_ours(step, pool))
            continue;
        if (step->sweeping && step->word == 0) {
            if (!hk_gc_tables.pools[pool].spilled)
                continue;
            hk_gc_tables.pools[pool].spilled = false;
        }
        bool at_end = step->word == HK_POOL_WORDS;
        while (step->word < HK_POOL_WORDS) {
            reach_word(step, (size_t)pool * HK_POOL_WORDS + step->word++);
            if (!drain(step))
                return false;
        }
        if (!at_end && is_late(step))
            return false; /* the pool is come back to, and is at its end */
    }
    return true;
}

static bool reach(struct hk_gc_step *step)
{
    if (!drain(step))
        return false;
    while (reach_pools(step)) {
        if (!step->spilled)
            return true;
        step->spilled = false;
        step->sweeping = true;
        step->at = step->word = 0;
    }
    return false;
}

/* --- sift --- */

/* Numbers the suspects of a pool; returns how many there are. */
static uint32_t number(struct hk_gc_step *step, uint32_t pool)
{
    uint32_t before = step->suspects;
    for (size_t word = (size_t)pool * HK_POOL_WORDS, end = word + HK_POOL_WORDS; word < end; word++) {
        struct hk_gc_marks *marks = &hk_gc_tables.marks[word];
        if (marks->suspect == 0)
            continue;
        marks->numbered = marks->suspect;
        marks->before = step->suspects;
        step->suspects += hk_gc_bits(marks->suspect);
        counts_begin(word, marks->suspect);
    }
    return step->suspects - before;
}

static bool sift(struct hk_gc_step *step)
{
    while (step->at < step->pools.count) {
        uint32_t pool = step->pools.items[step->at++];
        if (is_ours(step, pool) && number(step, pool) > 0)
            step->pools.items[step->kept++] = pool;
        if (is_late(step))
            break;
    }
    if (step->at < step->pools.count)
        return false;
    step->pools.count = step->kept;
    return true;
}

/* --- order --- */

/* The textbook, for each suspect v that is not seen:
 *
 *      visit(v): first_seen[v] = low[v] = ++seen; v waits
 *                for each w that v refers to:   not seen:  visit(w); low[v] = min(low[v], low[w])
 *                                               waits:     low[v] = min(low[v], first_seen[w])
 *                low[v] == first_seen[v]: all that wait from v on are a component
 *
 * `work` holds what visit has still to do: the w's, and below them v's number, marked, which means that they are done. (What is seen
 * is known by its number from then on: it may die.) */
enum { CHUNK_ITEMS = 8190 };

struct hk_gc_chunk {
    struct hk_gc_chunk *below;
    size_t count;
    uintptr_t items[CHUNK_ITEMS];
};

static void push_work(struct hk_gc_step *step, uintptr_t item)
{
    struct hk_gc_chunk *chunk = step->work;
    if (chunk == NULL || chunk->count == CHUNK_ITEMS) {
        chunk = step->spare != NULL ? step->spare : hk_os_map(sizeof(*chunk));
        step->spare = NULL;
        if (chunk == NULL) {
            step->failed = true;
            return;
        }
        chunk->below = step->work;
        chunk->count = 0;
        step->work = chunk;
    }
    chunk->items[chunk->count++] = item;
}

/* 0: there is none. */
static uintptr_t pop_work(struct hk_gc_step *step)
{
    struct hk_gc_chunk *chunk = step->work;
    if (chunk == NULL)
        return 0;
    uintptr_t item = chunk->items[--chunk->count];
    if (chunk->count == 0) {
        step->work = chunk->below;
        if (step->spare != NULL)
            hk_os_unmap(step->spare, sizeof(*chunk));
        step->spare = chunk;
    }
    return item;
}

static uint32_t number_of(const void *object)
{
    const struct hk_gc_marks *marks = marks_of(object);
    return marks->before + hk_gc_bits(marks->numbered & (hk_bit_of(hk_granule_of(object)) - 1));
}

static void lower(uint32_t *low, uint32_t value)
{
    if (value < *low)
        *low = value;
}

static inline __attribute__((always_inline)) void order_child(struct hk_gc_step *step, hk_object *child)
{
    if (!is_suspect(child))
        return;
    uint32_t first_seen = step->first_seen[number_of(child)];
    if (first_seen == 0)
        push_work(step, (uintptr_t)child);
    else if (first_seen != DONE)
        lower(&step->low[step->current], first_seen);
}

static void visit(struct hk_gc_step *step, hk_object *object)
{
    step->current = number_of(object);
    step->first_seen[step->current] = step->low[step->current] = ++step->seen;
    step->waiting++;
    step->order[step->mapped - step->waiting] = object;
    step->numbers[step->mapped - step->waiting] = step->current;
    step->path[step->path_length++] = step->current;
    push_work(step, (uintptr_t)step->current << 1 | 1);
    each_child(step, object, order_child);
}

/* All that wait from that number on go to the front; it comes last, marked. */
static void complete(struct hk_gc_step *step, uint32_t number)
{
    uint32_t one;
    do {
        uint32_t place = step->mapped - step->waiting--;
        one = step->numbers[place];
        step->first_seen[one] = DONE;
        step->order[step->ordered++] = (void *)((uintptr_t)step->order[place] | (one == number));
    } while (one != number);
}

static void leave(struct hk_gc_step *step, uint32_t number)
{
    step->path_length--;
    if (step->path_length > 0)
        lower(&step->low[step->path[step->path_length - 1]], step->low[number]);
    if (step->low[number] == step->first_seen[number])
        complete(step, number);
}

static void do_work(struct hk_gc_step *step, uintptr_t item)
{
    hk_object *object = (hk_object *)item;
    if (item & 1) {
        leave(step, (uint32_t)(item >> 1));
        return;
    }
    if (!is_there(step, object) || !is_suspect(object))
        return; /* it has died */
    uint32_t first_seen = step->first_seen[number_of(object)];
    if (first_seen == 0)
        visit(step, object);
    else if (first_seen != DONE)
        lower(&step->low[step->path[step->path_length - 1]], first_seen);
}

static bool order_works(struct hk_gc_step *step)
{
    unsigned units = 0;
    for (uintptr_t item; (item = pop_work(step)) != 0;) {
        do_work(step, item);
        if (step->failed || (++units % UNITS == 0 && is_late(step)))
            return false;
    }
    return true;
}

/* False: it is late, or there is no memory. */
static bool order(struct hk_gc_step *step)
{
    if (!order_works(step))
        return false;
    for (; step->at < step->pools.count; step->at++, step->word = 0)
        while (step->word < HK_POOL_WORDS && is_ours(step, step->pools.items[step->at])) {
            size_t word = (size_t)step->pools.items[step->at] * HK_POOL_WORDS + step->word;
            for (uint64_t bits = hk_gc_tables.marks[word].suspect; bits != 0; bits &= bits - 1) {
                hk_object *object = hk_granule_start(word * 64 + (unsigned)__builtin_ctzll(bits));
                if (step->first_seen[number_of(object)] != 0)
                    continue;
                visit(step, object);
                if (!order_works(step))
                    return false; /* the word is come back to */
            }
            step->word++;
            if (is_late(step))
                return false;
        }
    return true;
}

static bool order_begin(struct hk_gc_step *step)
{
    size_t count = step->suspects;
    step->mapped = step->suspects;
    step->first_seen = hk_os_map(count * sizeof(uint32_t));
    step->low = hk_os_map(count * sizeof(uint32_t));
    step->order = hk_os_map(count * sizeof(void *));
    step->numbers = hk_os_map(count * sizeof(uint32_t));
    step->path = hk_os_map(count * sizeof(uint32_t));
    step->seen = step->ordered = step->waiting = step->path_length = 0;
    return step->first_seen != NULL && step->low != NULL && step->order != NULL && step->numbers != NULL &&
           step->path != NULL;
}

static void unmap(void *memory, size_t size)
{
    if (memory != NULL)
        hk_os_unmap(memory, size);
}

static void order_end(struct hk_gc_step *step)
{
    unmap(step->first_seen, step->mapped * sizeof(uint32_t));
    unmap(step->low, step->mapped * sizeof(uint32_t));
    unmap(step->order, step->mapped * sizeof(void *));
    unmap(step->numbers, step->mapped * sizeof(uint32_t));
    unmap(step->path, step->mapped * sizeof(uint32_t));
    step->first_seen = step->low = step->numbers = step->path = NULL;
    step->order = NULL;
    while (step->work != NULL) {
        struct hk_gc_chunk *chunk = step->work;
        step->work = chunk->below;
        hk_os_unmap(chunk, sizeof(*chunk));
    }
    unmap(step->spare, sizeof(*step->spare));
    step->spare = NULL;
}

/* --- give --- */

/* The next components, from the end, as many as make a batch, without those that have died since. False: there are no more. */
static bool give(struct hk_gc_step *step)
{
    uint32_t end = step->ordered, component = 0;
    step->largest = 0;
    while (step->ordered > 0) {
        uintptr_t item = (uintptr_t)step->order[step->ordered - 1];
        if (item & 1) { /* a component's last, which is met first */
            if (end - step->ordered >= BATCH)
                break;
            component = 0;
        }
        step->order[--step->ordered] = (void *)(item & ~(uintptr_t)1);
        if (++component > step->largest)
            step->largest = component;
    }
    step->batch = (struct hk_gc_array){.items = step->order + step->ordered};
    for (uint32_t i = step->ordered; i < end; i++) {
        void *object = step->order[i];
        if (!is_there(step, object) || !is_suspect(object))
            continue;
        marks_of(object)->suspect &= ~hk_bit_of(hk_granule_of(object));
        step->batch.items[step->batch.count++] = object;
    }
    return end > 0;
}

/* --- rounds --- */

static void phase_begin(struct hk_gc_step *step, int phase)
{
    step->phase = phase;
    step->at = step->kept = step->word = 0;
    step->sweeping = false;
}

void hk_gc_step_begin(struct hk_gc_step *step)
{
    step->visitor = (hk_traversal){step->buffer, step->buffer + 256, hand_on_full};
    step->pass = 0;
    step->failed = step->stop = step->spilled = false;
    step->candidates = step->candidate_bytes = 0;
    step->suspects = UINT32_MAX;
    step->top = 0;
    step->ordered = 0;
    phase_begin(step, WHITEN);
}

void hk_gc_step_give_up(struct hk_gc_step *step)
{
    order_end(step);
    hk_gc_pools_free(&step->pools);
    step->phase = IDLE;
    step->stop = false;
}

/* The suspects are counted: the next pass, or their order, or nothing more to do. */
static void after_sift(struct hk_gc_step *step, uint32_t before)
{
    if (step->suspects > 0 && step->pass + 1 < PASSES && (step->pass == 0 || step->suspects < before / 8 * 7)) {
        step->pass++;
        phase_begin(step, EXPLAIN);
    } else {
        phase_begin(step, ORDER);
        step->failed = step->suspects > 0 && !order_begin(step);
    }
}

/* One phase, as far as it gets. */
static bool go_on(struct hk_gc_step *step)
{
    switch (step->phase) {
    case WHITEN:
        return whiten(step);
    case EXPLAIN:
        return explain(step);
    case REACH:
        return reach(step);
    case SIFT:
        return sift(step);
    case ORDER:
        return order(step);
    default:
        return true;
    }
}

enum hk_gc_step_result hk_gc_step_on(struct hk_gc_step *step, uint64_t deadline)
{
    step->deadline = deadline;
    for (;;) {
        if (!step->failed && !go_on(step) && !step->failed)
            return HK_GC_STEP_LATE;
        if (step->failed)
            return HK_GC_STEP_FAILED;
        switch (step->phase) {
        case WHITEN:
            phase_begin(step, EXPLAIN);
            return HK_GC_STEP_NOTED;
        case EXPLAIN:
            phase_begin(step, REACH);
            break;
        case REACH:
            phase_begin(step, SIFT);
            step->sifted = step->suspects;
            step->suspects = 0;
            break;
        case SIFT:
            after_sift(step, step->sifted);
            break;
        case ORDER:
            phase_begin(step, GIVE);
            break;
        default:
            return give(step) ? HK_GC_STEP_BATCH : HK_GC_STEP_END;
        }
    }
}
