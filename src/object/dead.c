/* How the dead of a collection are buried: the white objects of some pools.
 *
 *      1. weak references to all of them are cleared, then callbacks called
 *      2. finalizers, each with all of them still whole; if there was one, a second look takes out what lives on
 *      3. what they refer to outside of the set loses a reference
 *      4. destroy, for each that has it
 *      5. their memory is freed
 *
 * Nothing needs an order any more: the references that they hold to each other are not given up one by one, and those to the
 * outside may run finalizers and callbacks, which reach none of the set.
 *
 * Plain ones (object.c) skip 1, 2 and 4, and are freed while they are read, in the order of their addresses: a pool in which all
 * are dead in one step. Nobody else's code may run meanwhile, since the white bits of those that are freed still tell the references
 * of the others apart. So one that holds the last reference to something outside is not freed: its other references are
 * made NULL, and it waits in a chain for an ordinary release. Where the scan says that all the dead are plain and refer to each
 * other only (closed), they are not even read.
 *
 * The others (special) are put into an array: all the dead, if a finalizer is to run. */
#include <string.h>

#include "object/runtime.h"

/* --- plain ones --- */

/* References to the outside that wait until what they refer to has come into the cache. */
enum { OUTSIDE = 8 };

struct burying {
    char *start; /* of the pool */
    uint64_t waits[HK_POOL_WORDS]; /* bits of objects that hold a last reference */
    hk_object **places[OUTSIDE];
    uint16_t holders[OUTSIDE]; /* which object's: granules from the start */
    unsigned turn, count;
};

/* The place is NULL afterwards, or the reference is the last, and stays. */
static void give_up_first(struct burying *burying)
{
    unsigned first = burying->turn++ % OUTSIDE;
    hk_object **place = burying->places[first], *child = *place;
    burying->count--;
    if (hk_is_immortal(child))
        return;
    if (child->references == 1) {
        burying->waits[burying->holders[first] / 64] |= hk_bit_of(burying->holders[first]);
        return;
    }
    child->references--;
    *place = NULL;
}

static inline __attribute__((always_inline)) void give_up_place(struct burying *burying, hk_object **place, size_t holder)
{
    hk_object *child = *place;
    if (child == NULL || hk_gc_is_white(child))
        return;
    __builtin_prefetch(child, 1);
    if (burying->count == OUTSIDE)
        give_up_first(burying);
    burying->places[(burying->turn + burying->count) % OUTSIDE] = place;
    burying->holders[(burying->turn + burying->count++) % OUTSIDE] = (uint16_t)holder;
}

/* The object's references to the dead are NULL afterwards. */
static void forget_white(hk_object *object)
{
    const struct hk_gc_shape *shape = &hk_shapes[object->type];
    hk_object **first = (hk_object **)object + shape->first, **end = first + shape->count;
    for (hk_object **place = first; place < end; place++)
        if (hk_gc_is_white(*place))
            *place = NULL;
    for (uint64_t bits = shape->scattered; bits != 0; bits &= bits - 1)
        if (hk_gc_is_white(((hk_object **)object)[__builtin_ctzll(bits)]))
            ((hk_object **)object)[__builtin_ctzll(bits)] = NULL;
}

/* Returns those of the word's white objects that are plain. */
static uint64_t bury_word(struct burying *burying, size_t word, uint64_t white)
{
    uint64_t plain = 0;
    for (uint64_t bits = white; bits != 0; bits &= bits - 1) {
        size_t granule = word * 64 + (unsigned)__builtin_ctzll(bits);
        hk_object *object = (hk_object *)(burying->start + (granule << HK_GRANULE_SHIFT));
        __builtin_prefetch((char *)object + 1024);
        if (!hk_object_is_plain(object))
            continue;
        plain |= bits & -bits;
        const struct hk_gc_shape *shape = &hk_shapes[object->type];
        hk_object **place = (hk_object **)object + shape->first, **end = place + shape->count;
        for (; place < end; place++)
            give_up_place(burying, place, granule);
        for (uint64_t more = shape->scattered; more != 0; more &= more - 1)
            give_up_place(burying, (hk_object **)object + __builtin_ctzll(more), granule);
    }
    return plain;
}

/* The plain white objects of a pool. Those that have to wait are put before the chain, which is returned. */
static hk_object *bury_pool(uint32_t number, hk_object *chain)
{
    struct burying burying = {.start = hk_granule_start((size_t)number * HK_POOL_GRANULES)};
    uint64_t freed[HK_POOL_WORDS];
    uint32_t count = 0;
    for (size_t word = 0; word < HK_POOL_WORDS; word++) {
        uint64_t white = hk_gc_tables.white[(size_t)number * HK_POOL_WORDS + word];
        freed[word] = white != 0 ? bury_word(&burying, word, white) : 0;
        hk_gc_tables.tracked[(size_t)number * HK_POOL_WORDS + word] &= ~freed[word];
    }
    while (burying.count > 0)
        give_up_first(&burying);
    for (size_t word = 0; word < HK_POOL_WORDS; word++) {
        for (uint64_t bits = burying.waits[word]; bits != 0; bits &= bits - 1) {
            size_t granule = word * 64 + (unsigned)__builtin_ctzll(bits);
            hk_object *object = (hk_object *)(burying.start + (granule << HK_GRANULE_SHIFT));
            forget_white(object);
            chain = hk_object_chain(object, chain);
        }
        freed[word] &= ~burying.waits[word];
        count += hk_gc_bits(freed[word]);
    }
    if (count > 0)
        hk_pool_free_many(&hk_region.pools[number], freed, count);
    return chain;
}

/* The white objects of a pool, which have nothing to give up. */
static void free_pool(uint32_t number)
{
    const uint64_t *white = &hk_gc_tables.white[(size_t)number * HK_POOL_WORDS];
    uint64_t *tracked = &hk_gc_tables.tracked[(size_t)number * HK_POOL_WORDS];
    uint32_t count = 0;
    for (size_t word = 0; word < HK_POOL_WORDS; word++) {
        tracked[word] &= ~white[word];
        count += hk_gc_bits(white[word]);
    }
    if (count > 0)
        hk_pool_free_many(&hk_region.pools[number], white, count);
}

static hk_object *bury_plain(const struct hk_gc_pools *pools, bool closed)
{
    hk_object *chain = NULL;
    for (size_t i = 0; i < pools->count; i++)
        if (closed)
            free_pool(pools->items[i]);
        else
            chain = bury_pool(pools->items[i], chain);
    for (size_t i = 0; i < pools->count; i++) {
        size_t word = (size_t)pools->items[i] * HK_POOL_WORDS;
        for (size_t end = word + HK_POOL_WORDS; word < end; word++) {
            hk_gc_tables.white[word] &= hk_gc_tables.tracked[word];
            hk_gc_unmark(word, ~hk_gc_tables.tracked[word]);
        }
    }
    return chain;
}

/* --- special ones --- */

static bool wants_finalizer(const hk_object *object)
{
    return hk_type_of(object)->finalize != NULL && !(object->flags & HK_FINALIZED);
}

static void weakrefs_clear(hk_runtime *runtime, const struct hk_gc_array *special)
{
    struct hk_weakref *cleared = NULL;
    for (size_t i = 0; i < special->count; i++)
        if (((hk_object *)special->items[i])->flags & HK_HAS_WEAKREFS)
            hk_weakrefs_take(runtime, special->items[i], &cleared);
    hk_weakrefs_call(runtime, &cleared);
}

/* Returns how many of them, which are all the dead, live on. If that could not be found out, they all do. */
static uint64_t finalize(hk_runtime *runtime, struct hk_gc_array *all)
{
    size_t count = all->count;
    for (size_t i = 0; i < count; i++) {
        size_t granule = hk_granule_of(all->items[i]);
        hk_gc_age(granule / 64, hk_bit_of(granule), 2); /* for those that live on */
        ((hk_object *)all->items[i])->references++;
    }
    for (size_t i = 0; i < count; i++)
        if (wants_finalizer(all->items[i]))
            hk_object_finalize(runtime, all->items[i], hk_type_of(all->items[i]));
    for (size_t i = 0; i < count; i++)
        ((hk_object *)all->items[i])->references--; /* may be 0 now: dead, whoever looks */
    int64_t saved = hk_gc_scan_again(&hk_native_model, all);
    if (saved < 0) {
        hk_dead_live_on(all);
        return count;
    }
    weakrefs_clear(runtime, all); /* those that finalizers have made */
    return (uint64_t)saved;
}

static void give_up_outside(hk_object *child, void *runtime)
{
    if (!hk_gc_is_white(child))
        hk_decref(runtime, child);
}

/* Leaves those that are still special. */
static void drop_plain(struct hk_gc_array *special)
{
    size_t kept = 0;
    for (size_t i = 0; i < special->count; i++)
        if (!hk_object_is_plain(special->items[i]))
            special->items[kept++] = special->items[i];
    special->count = kept;
}

static void destroy(hk_runtime *runtime, const struct hk_gc_array *special)
{
    for (size_t i = 0; i < special->count; i++) {
        hk_object *object = special->items[i];
        hk_gc_forget(object);
        hk_object_bury(runtime, object, hk_type_of(object));
    }
}

/* --- the whole --- */

bool hk_dead_survey(const struct hk_gc_pools *pools, const struct hk_gc_found *found, bool all, struct hk_dead *dead)
{
    *dead = (struct hk_dead){.count = found->white};
    if (found->white == 0 || (found->all_plain && !all)) {
        dead->closed = found->closed;
        return true;
    }
    bool good = true;
    for (int again = 0; good && again < 2; again++) {
        struct hk_gc_whites whites = {.pools = pools};
        for (hk_object *object; good && (object = hk_gc_whites_next(&whites)) != NULL;) {
            dead->finalizers |= wants_finalizer(object);
            if (all || !hk_object_is_plain(object))
                good = hk_gc_array_push(&dead->special, object);
        }
        if (all || !dead->finalizers)
            break;
        all = true;
        dead->special.count = 0;
    }
    dead->is_all = all;
    if (!good)
        hk_gc_array_free(&dead->special);
    return good;
}

uint64_t hk_dead_prepare(hk_runtime *runtime, struct hk_dead *dead)
{
    uint64_t saved = 0;
    weakrefs_clear(runtime, &dead->special);
    if (dead->finalizers)
        saved = finalize(runtime, &dead->special);
    dead->count -= saved;
    return saved;
}

void hk_dead_live_on(struct hk_gc_array *all)
{
    for (size_t i = 0; i < all->count; i++) {
        size_t granule = hk_granule_of(all->items[i]);
        hk_gc_tables.white[granule / 64] &= ~hk_bit_of(granule);
        hk_gc_age(granule / 64, hk_bit_of(granule), 2);
    }
    all->count = 0;
}

void hk_dead_bury(hk_runtime *runtime, const struct hk_gc_pools *pools, struct hk_dead *dead)
{
    drop_plain(&dead->special);
    for (size_t i = 0; i < dead->special.count; i++)
        hk_object_each_child(dead->special.items[i], give_up_outside, runtime);
    hk_object *chain = dead->count > dead->special.count ? bury_plain(pools, dead->closed) : NULL;
    destroy(runtime, &dead->special);
    hk_gc_array_free(&dead->special);
    if (chain != NULL)
        hk_object_release_chain(runtime, chain);
}
