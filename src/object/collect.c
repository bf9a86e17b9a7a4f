/* Collections of a runtime: what is looked at, the order of events, and how the dead are freed. When, is plan.c's; which are
 * dead, src/gc's.
 *
 * Which pools a young collection looks at. New objects come from a heap's current pools only, so those that were current
 * since the last one are noted (pool_began) and hold all objects of generation 0. Pools in which a collection left
 * objects of generation 1 go to a second list. Making an object costs nothing for this.
 *
 * How the dead are freed. When a set of objects is proven dead, nothing needs an order any more: the references that they hold to
 * each other are not given up one by one. First all references to objects outside of the set are (that may run
 * finalizers and callbacks, which reach none of the set); then each object's destroy is called and its memory freed, pool after
 * pool. */
#include <string.h>

#include "object/runtime.h"

/* --- pools --- */

static bool note(struct hk_gc_pools *list, uint32_t pool, uint8_t mark)
{
    if (hk_gc_tables.logged[pool] & mark)
        return true;
    if (!hk_gc_pools_push(list, pool))
        return false;
    hk_gc_tables.logged[pool] |= mark;
    return true;
}

static void pool_began(hk_heap *heap, struct hk_pool *pool)
{
    hk_runtime *runtime = heap->listener;
    if (!note(&runtime->young, (uint32_t)(pool - hk_region.pools), HK_LOGGED_YOUNG))
        runtime->log_lost = true;
}

void hk_collect_made(hk_runtime *runtime, hk_object *object)
{
    size_t granule = hk_granule_of(object);
    hk_word_of(granule)->tracked |= hk_bit_of(granule);
    runtime->plan.made++;
    if (!(hk_gc_tables.logged[hk_pool_of(object) - hk_region.pools] & HK_LOGGED_YOUNG))
        pool_began(runtime->cyclic, hk_pool_of(object));
}

static void list_empty(struct hk_gc_pools *list, uint8_t mark)
{
    for (size_t i = 0; i < list->count; i++)
        hk_gc_tables.logged[list->items[i]] &= (uint8_t)~mark;
    list->count = 0;
}

/* After a collection of generation 0 or more: what is made from now on comes from these. */
static void young_restart(hk_runtime *runtime)
{
    list_empty(&runtime->young, HK_LOGGED_YOUNG);
    runtime->log_lost = false;
    for (int i = 1; i < HK_CLASSES; i++)
        if (runtime->cyclic->current[i] != &hk_no_pool)
            pool_began(runtime->cyclic, runtime->cyclic->current[i]);
}

/* Every pool of the runtime with objects in it. */
static bool all_pools(const hk_runtime *runtime, struct hk_gc_pools *pools)
{
    for (struct hk_arena *arena = runtime->cyclic->arenas; arena != NULL; arena = arena->next)
        for (uint64_t used = ~arena->empty; used != 0; used &= used - 1)
            if (!hk_gc_pools_push(pools, (uint32_t)((size_t)(arena - hk_region.arenas) * HK_ARENA_POOLS +
                                                    (unsigned)__builtin_ctzll(used))))
                return false;
    return true;
}

/* The pools for a collection of the generation. A list that is borrowed from the runtime is not freed. */
static bool pools_for(hk_runtime *runtime, int generation, struct hk_gc_pools *pools, bool *borrowed)
{
    *borrowed = generation == 0;
    if (generation == 0) {
        *pools = runtime->young;
        return true;
    }
    if (generation == 2)
        return all_pools(runtime, pools);
    for (size_t i = 0; i < runtime->middle.count; i++)
        if (!hk_gc_pools_push(pools, runtime->middle.items[i]))
            return false;
    for (size_t i = 0; i < runtime->young.count; i++)
        if (!(hk_gc_tables.logged[runtime->young.items[i]] & HK_LOGGED_MIDDLE) &&
            !hk_gc_pools_push(pools, runtime->young.items[i]))
            return false;
    return true;
}

/* --- the new --- */

static void note_new(hk_runtime *runtime, uint32_t number, bool releasing)
{
    const struct hk_pool *pool = &hk_region.pools[number];
    if (pool->heap != runtime->cyclic || hk_gc_note_pool(pool) == 0 || !releasing)
        return;
    struct hk_gc_word *word = &hk_gc_tables.words[(size_t)number * HK_POOL_WORDS];
    for (size_t i = 0; i < HK_POOL_WORDS; i++)
        for (uint64_t bits = word[i].tracked; bits != 0; bits &= bits - 1) {
            size_t granule = (size_t)number * HK_POOL_GRANULES + i * 64 + (unsigned)__builtin_ctzll(bits);
            const hk_object *object = hk_granule_start(granule);
            if (object->references == 0 && !(word[i].white & hk_bit_of(granule)))
                hk_gc_forget(object); /* it is dying: somebody else's code is called by its release */
        }
}

/* The tables know all objects from here on, until one is made. */
static void note_all_new(hk_runtime *runtime)
{
    bool releasing = runtime->releasing != NULL || runtime->depth > 0;
    if (runtime->log_lost)
        for (struct hk_arena *arena = runtime->cyclic->arenas; arena != NULL; arena = arena->next)
            for (uint32_t i = 0; i < HK_ARENA_POOLS; i++)
                note_new(runtime, (uint32_t)(arena - hk_region.arenas) * HK_ARENA_POOLS + i, releasing);
    for (size_t i = 0; i < runtime->young.count; i++)
        note_new(runtime, runtime->young.items[i], releasing);
    hk_free_lists_untrack(runtime);
    if (releasing)
        hk_object_untrack_dead(runtime);
}

/* --- promotion --- */

static void age_set(struct hk_gc_word *word, uint64_t bits, int generation)
{
    word->age[0] = generation & 1 ? word->age[0] | bits : word->age[0] & ~bits;
    word->age[1] = generation & 2 ? word->age[1] | bits : word->age[1] & ~bits;
}

/* What was looked at and is not white goes to the next generation; then the lists are those of the time from now on. */
static void promote(hk_runtime *runtime, const struct hk_gc_pools *pools, int generation)
{
    int next = generation < 2 ? generation + 1 : 2;
    bool lost = false;
    for (size_t i = 0; i < pools->count; i++) {
        struct hk_gc_word *word = &hk_gc_tables.words[(size_t)pools->items[i] * HK_POOL_WORDS];
        uint64_t any = 0;
        for (size_t j = 0; j < HK_POOL_WORDS; j++) {
            uint64_t survivors = hk_gc_candidates(&word[j], generation) & ~word[j].white;
            age_set(&word[j], survivors, next);
            any |= survivors;
        }
        if (next == 1 && any != 0)
            lost |= !note(&runtime->middle, pools->items[i], HK_LOGGED_MIDDLE);
    }
    if (generation > 0)
        list_empty(&runtime->middle, HK_LOGGED_MIDDLE);
    young_restart(runtime);
    runtime->log_lost |= lost;
}

/* --- the dead --- */

static void weakrefs_of_dead(hk_runtime *runtime, const struct hk_gc_array *dead)
{
    for (size_t i = 0; i < dead->count; i++)
        if (((hk_object *)dead->items[i])->flags & HK_HAS_WEAKREFS)
            hk_weakrefs_clear(runtime, dead->items[i]);
}

static bool wants_finalizer(const hk_object *object)
{
    return hk_type_of(object)->finalize != NULL && !(object->flags & HK_FINALIZED);
}

/* Finalizers of the dead, each with all of them still whole. Returns the number that live on; -1: that could not be found out, and
 * they all do. */
static int64_t finalize_dead(hk_runtime *runtime, struct hk_gc_array *dead)
{
    size_t first = 0, count = dead->count;
    while (first < count && !wants_finalizer(dead->items[first]))
        first++;
    if (first == count)
        return 0;
    for (size_t i = 0; i < count; i++) {
        size_t granule = hk_granule_of(dead->items[i]);
        age_set(hk_word_of(granule), hk_bit_of(granule), 2); /* for those that live on */
        ((hk_object *)dead->items[i])->references++;
    }
    for (size_t i = first; i < count; i++)
        if (wants_finalizer(dead->items[i]))
            hk_object_finalize(runtime, dead->items[i], hk_type_of(dead->items[i]));
    for (size_t i = 0; i < count; i++)
        ((hk_object *)dead->items[i])->references--; /* may be 0 now: dead, whoever looks */
    int64_t saved = hk_gc_scan_again(&hk_native_model, dead);
    if (saved >= 0)
        weakrefs_of_dead(runtime, dead); /* those that finalizers have made */
    return saved;
}

static void give_up_outside(hk_object *child, void *runtime)
{
    if (!hk_gc_is_white(child))
        hk_decref(runtime, child);
}

static void free_dead(hk_runtime *runtime, const struct hk_gc_array *dead)
{
    for (size_t i = 0; i < dead->count; i++)
        hk_object_each_child(dead->items[i], give_up_outside, runtime);
    for (size_t i = 0; i < dead->count; i++) {
        hk_object *object = dead->items[i];
        const hk_type *type = hk_type_of(object);
        hk_gc_forget(object);
        hk_object_bury(runtime, object, type);
    }
}

static void live_on(struct hk_gc_array *dead)
{
    for (size_t i = 0; i < dead->count; i++) {
        size_t granule = hk_granule_of(dead->items[i]);
        struct hk_gc_word *word = hk_word_of(granule);
        word->white &= ~hk_bit_of(granule);
        age_set(word, hk_bit_of(granule), 2);
    }
    dead->count = 0;
}

static void garbage_save(hk_runtime *runtime, struct hk_gc_array *dead)
{
    for (size_t i = 0; i < dead->count; i++)
        if (hk_gc_array_push(&runtime->garbage, dead->items[i]))
            hk_incref(dead->items[i]);
    live_on(dead);
}

/* --- a collection --- */

static void call_back(hk_runtime *runtime, bool begins, int generation, uint64_t found)
{
    for (int i = 0; i < 8; i++)
        if (runtime->callbacks[i].function != NULL)
            runtime->callbacks[i].function(runtime, begins, generation, found, runtime->callbacks[i].argument);
}

static uint64_t live_bytes(const hk_runtime *runtime)
{
    uint64_t pools = (uint64_t)runtime->cyclic->used_pools + runtime->acyclic->used_pools + runtime->memory->used_pools;
    int64_t large = runtime->acyclic->large_bytes + runtime->memory->large_bytes;
    return (pools << HK_POOL_SHIFT) + (uint64_t)large;
}

/* Scan, weak references, finalizers, free. Returns what was found; -1: no memory. */
static int64_t collect(hk_runtime *runtime, int generation, const struct hk_gc_pools *pools, hk_gc_stats *stats,
                       uint64_t *candidates, uint64_t *freed)
{
    struct hk_gc_array dead = {0};
    if (!hk_gc_scan(&hk_native_model, pools, generation, &dead, candidates)) {
        hk_gc_array_free(&dead);
        return -1;
    }
    promote(runtime, pools, generation);
    int64_t found = (int64_t)dead.count, saved = 0;
    weakrefs_of_dead(runtime, &dead);
    saved = finalize_dead(runtime, &dead);
    if (saved < 0) {
        saved = found;
        live_on(&dead);
    }
    if (runtime->save_all)
        garbage_save(runtime, &dead);
    *freed = dead.count;
    free_dead(runtime, &dead);
    stats->candidates += *candidates;
    stats->collected += *freed;
    stats->resurrected += (uint64_t)saved;
    hk_gc_array_free(&dead);
    return found;
}

int64_t hk_gc_collect(hk_runtime *runtime, int generation)
{
    struct hk_gc_pools pools = {0};
    bool borrowed = false;
    if (runtime->collecting || runtime->ending)
        return 0;
    if (generation > 2 || generation < 0 || runtime->log_lost)
        generation = 2;
    runtime->collecting = true;
    call_back(runtime, true, generation, 0);
    uint64_t start = hk_os_clock_ns(), candidates = 0, freed = 0;
    hk_gc_stats *stats = &runtime->stats[generation];
    int64_t found = -1;
    note_all_new(runtime);
    if (pools_for(runtime, generation, &pools, &borrowed))
        found = collect(runtime, generation, &pools, stats, &candidates, &freed);
    if (!borrowed)
        hk_gc_pools_free(&pools);
    if (found >= 0) {
        for (struct hk_arena *arena = runtime->cyclic->arenas; generation == 2 && arena != NULL; arena = arena->next)
            hk_gc_counts_discard(arena);
        if (generation == 2)
            hk_free_lists_trim(runtime);
        hk_plan_learn(&runtime->plan, generation, candidates, freed, live_bytes(runtime));
    }
    uint64_t took = hk_os_clock_ns() - start;
    stats->collections++;
    stats->nanoseconds += took;
    if (took > stats->longest_nanoseconds)
        stats->longest_nanoseconds = took;
    call_back(runtime, false, generation, found > 0 ? (uint64_t)found : 0);
    runtime->collecting = false;
    return found;
}

void hk_collect_automatic(hk_runtime *runtime)
{
    if (!runtime->enabled || runtime->collecting || runtime->ending)
        return;
    if (hk_gc_collect(runtime, hk_plan_generation(&runtime->plan, live_bytes(runtime))) < 0)
        runtime->plan.made = 0; /* no memory for it: not again at every object */
}

void hk_collect_begin_runtime(hk_runtime *runtime)
{
    runtime->cyclic->listener = runtime;
    runtime->cyclic->pool_began = pool_began;
}

void hk_collect_end_runtime(hk_runtime *runtime)
{
    runtime->ending = true;
    runtime->cyclic->pool_began = NULL;
    hk_gc_pools_free(&runtime->young);
    hk_gc_pools_free(&runtime->middle);
    runtime->log_lost = true;
}

/* --- the rest of gc.h --- */

void hk_gc_enable(hk_runtime *runtime)
{
    runtime->enabled = true;
}

void hk_gc_disable(hk_runtime *runtime)
{
    runtime->enabled = false;
}

bool hk_gc_is_enabled(const hk_runtime *runtime)
{
    return runtime->enabled;
}

void hk_gc_set_threshold(hk_runtime *runtime, int generation, uint32_t threshold)
{
    if (generation == 0 || generation == 1)
        hk_plan_set_threshold(&runtime->plan, generation, threshold);
}

uint32_t hk_gc_get_threshold(const hk_runtime *runtime, int generation)
{
    return generation == 0 || generation == 1 ? runtime->plan.threshold[generation] : 0;
}

void hk_gc_set_growth(hk_runtime *runtime, uint32_t percent)
{
    runtime->plan.growth = percent;
}

uint32_t hk_gc_get_growth(const hk_runtime *runtime)
{
    return runtime->plan.growth;
}

uint32_t hk_gc_get_count(const hk_runtime *runtime, int generation)
{
    if (generation == 0)
        return runtime->plan.made > 0 ? (uint32_t)runtime->plan.made : 0;
    return generation == 1 ? runtime->plan.collections : 0;
}

void hk_gc_get_stats(const hk_runtime *runtime, int generation, hk_gc_stats *stats)
{
    *stats = runtime->stats[generation];
}

bool hk_gc_add_callback(hk_runtime *runtime, hk_gc_callback *callback, void *argument)
{
    for (int i = 0; i < 8; i++)
        if (runtime->callbacks[i].function == NULL) {
            runtime->callbacks[i].function = callback;
            runtime->callbacks[i].argument = argument;
            return true;
        }
    return false;
}

bool hk_gc_remove_callback(hk_runtime *runtime, hk_gc_callback *callback, void *argument)
{
    for (int i = 0; i < 8; i++)
        if (runtime->callbacks[i].function == callback && runtime->callbacks[i].argument == argument) {
            runtime->callbacks[i].function = NULL;
            return true;
        }
    return false;
}

bool hk_gc_is_tracked(const hk_runtime *runtime, const hk_object *object)
{
    return hk_region_has(object) && hk_pool_of(object)->heap == runtime->cyclic;
}

bool hk_gc_is_finalized(const hk_object *object)
{
    return (object->flags & HK_FINALIZED) != 0;
}

/* --- all objects --- */

/* Calls for each word of the runtime's bit maps; false: stop. */
typedef bool word_function(struct hk_gc_word *word, size_t granule, void *argument);

static void each_word(hk_runtime *runtime, word_function *function, void *argument)
{
    note_all_new(runtime);
    for (struct hk_arena *arena = runtime->cyclic->arenas; arena != NULL; arena = arena->next)
        for (uint64_t used = ~arena->empty; used != 0; used &= used - 1) {
            size_t pool = (size_t)(arena - hk_region.arenas) * HK_ARENA_POOLS + (unsigned)__builtin_ctzll(used);
            for (size_t word = pool * HK_POOL_WORDS; word < (pool + 1) * HK_POOL_WORDS; word++)
                if (!function(&hk_gc_tables.words[word], word * 64, argument))
                    return;
        }
}

static bool freeze_word(struct hk_gc_word *word, size_t granule, void *argument)
{
    age_set(word, word->tracked, 3);
    return true;
}

static bool unfreeze_word(struct hk_gc_word *word, size_t granule, void *argument)
{
    age_set(word, word->age[0] & word->age[1] & word->tracked, 2);
    return true;
}

static bool count_frozen(struct hk_gc_word *word, size_t granule, void *argument)
{
    *(uint64_t *)argument += (unsigned)__builtin_popcountll(word->tracked & word->age[0] & word->age[1]);
    return true;
}

void hk_gc_freeze(hk_runtime *runtime)
{
    each_word(runtime, freeze_word, NULL);
    runtime->plan.made = 0;
}

void hk_gc_unfreeze(hk_runtime *runtime)
{
    each_word(runtime, unfreeze_word, NULL);
}

uint64_t hk_gc_frozen_count(const hk_runtime *runtime)
{
    uint64_t count = 0;
    each_word((hk_runtime *)runtime, count_frozen, &count);
    return count;
}

struct each_object {
    int generation;
    hk_gc_object_function *function;
    void *argument;
    const hk_object *target; /* of get_referrers; NULL: every object will do */
};

struct looking {
    const hk_object *target;
    bool seen;
};

static void look_at(hk_object *child, void *argument)
{
    struct looking *looking = argument;
    looking->seen |= child == looking->target;
}

static bool refers_to(const hk_object *object, const hk_object *target)
{
    struct looking looking = {.target = target};
    hk_object_each_child(object, look_at, &looking);
    return looking.seen;
}

static bool objects_of_word(struct hk_gc_word *word, size_t granule, void *argument)
{
    const struct each_object *each = argument;
    uint64_t low = each->generation & 1 ? word->age[0] : ~word->age[0];
    uint64_t high = each->generation & 2 ? word->age[1] : ~word->age[1];
    uint64_t bits = each->generation < 0 ? word->tracked : word->tracked & low & high;
    for (; bits != 0; bits &= bits - 1) {
        hk_object *object = hk_granule_start(granule + (unsigned)__builtin_ctzll(bits));
        if ((each->target == NULL || refers_to(object, each->target)) && !each->function(object, each->argument))
            return false;
    }
    return true;
}

void hk_gc_get_objects(hk_runtime *runtime, int generation, hk_gc_object_function *function, void *argument)
{
    struct each_object each = {generation, function, argument, NULL};
    each_word(runtime, objects_of_word, &each);
}

void hk_gc_get_referrers(hk_runtime *runtime, const hk_object *target, hk_gc_object_function *function, void *argument)
{
    struct each_object each = {-1, function, argument, target};
    each_word(runtime, objects_of_word, &each);
}

struct referents {
    hk_gc_object_function *function;
    void *argument;
    bool stopped;
};

static void referent(hk_object *child, void *argument)
{
    struct referents *referents = argument;
    referents->stopped = referents->stopped || !referents->function(child, referents->argument);
}

void hk_gc_get_referents(hk_runtime *runtime, const hk_object *object, hk_gc_object_function *function, void *argument)
{
    struct referents referents = {.function = function, .argument = argument};
    hk_object_each_child(object, referent, &referents);
}

void hk_gc_set_save_all(hk_runtime *runtime, bool save_all)
{
    runtime->save_all = save_all;
}

void hk_gc_garbage(hk_runtime *runtime, hk_gc_object_function *function, void *argument)
{
    for (size_t i = 0; i < runtime->garbage.count; i++)
        if (!function(runtime->garbage.items[i], argument))
            return;
}

void hk_gc_garbage_clear(hk_runtime *runtime)
{
    struct hk_gc_array garbage = runtime->garbage;
    runtime->garbage = (struct hk_gc_array){0};
    for (size_t i = 0; i < garbage.count; i++)
        hk_decref(runtime, garbage.items[i]);
    hk_gc_array_free(&garbage);
}
