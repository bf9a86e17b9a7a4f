/* Collections of a runtime: which pools are looked at, and the order of events. When, is plan.c's; which objects are dead, src/gc's;
 * what is done with them, dead.c's.
 *
 * Which pools a young collection looks at. New objects come from a heap's current pools only, so those that were current
 * since the last one are noted (pool_began) and hold all objects of generation 0. Pools in which a collection left
 * objects of generation 1 go to a second list. Making an object costs nothing for this. */
#include <string.h>

#include "object/runtime.h"

/* So much of a heap is small: what a scan of it needs is kept for the next one (7 % of it), which is there soon, and would fault in each
 * page. */
#define KEPT_TABLES ((size_t)8 << 20)

/* --- pools --- */

static bool note(struct hk_gc_pools *list, uint32_t pool, uint8_t mark)
{
    if (hk_gc_tables.pools[pool].logged & mark)
        return true;
    if (!hk_gc_pools_push(list, pool))
        return false;
    hk_gc_tables.pools[pool].logged |= mark;
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
    struct hk_pool *pool = hk_pool_of(object);
    hk_gc_tables.tracked[granule / 64] |= hk_bit_of(granule);
    hk_gc_age(granule / 64, hk_bit_of(granule), 0);
    pool->is_noted = true;
    runtime->plan.left--;
    if (!(hk_gc_tables.pools[pool - hk_region.pools].logged & HK_LOGGED_YOUNG))
        pool_began(runtime->cyclic, pool);
}

static void list_empty(struct hk_gc_pools *list, uint8_t mark)
{
    for (size_t i = 0; i < list->count; i++)
        hk_gc_tables.pools[list->items[i]].logged &= (uint8_t)~mark;
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
bool hk_collect_pools(const hk_runtime *runtime, struct hk_gc_pools *pools)
{
    for (struct hk_arena *arena = runtime->cyclic->arenas; arena != NULL; arena = arena->next)
        for (uint64_t used = ~arena->empty; used != 0; used &= used - 1)
            if (!hk_gc_pools_push(pools, (uint32_t)((size_t)(arena - hk_region.arenas) * HK_ARENA_POOLS +
                                                    (unsigned)__builtin_ctzll(used))))
                return false;
    return true;
}

/* The pools for a collection of the generation, in a list of their own: the others are those of the time from now on, soon. */
static bool pools_for(hk_runtime *runtime, int generation, struct hk_gc_pools *pools)
{
    pools->count = 0;
    if (generation == 2)
        return hk_collect_pools(runtime, pools);
    for (size_t i = 0; generation == 1 && i < runtime->middle.count; i++)
        if (!hk_gc_pools_push(pools, runtime->middle.items[i]))
            return false;
    for (size_t i = 0; i < runtime->young.count; i++)
        if ((generation == 0 || !(hk_gc_tables.pools[runtime->young.items[i]].logged & HK_LOGGED_MIDDLE)) &&
            !hk_gc_pools_push(pools, runtime->young.items[i]))
            return false;
    return true;
}

/* --- the new --- */

static void note_new(hk_runtime *runtime, uint32_t number, bool releasing)
{
    struct hk_pool *pool = &hk_region.pools[number];
    if (pool->heap != runtime->cyclic || hk_gc_note_pool(pool) == 0 || !releasing)
        return;
    for (size_t word = (size_t)number * HK_POOL_WORDS, end = word + HK_POOL_WORDS; word < end; word++)
        for (uint64_t bits = hk_gc_tables.tracked[word]; bits != 0; bits &= bits - 1) {
            size_t granule = word * 64 + (unsigned)__builtin_ctzll(bits);
            const hk_object *object = hk_granule_start(granule);
            if (object->references == 0 && !hk_gc_is_white(object))
                hk_gc_forget(object); /* it is dying: somebody else's code is called by its release */
        }
}

void hk_collect_untrack(hk_runtime *runtime)
{
    hk_free_lists_untrack(runtime);
    hk_watch_untrack(runtime);
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
    hk_collect_untrack(runtime);
    if (releasing)
        hk_object_untrack_dead(runtime);
}

/* --- promotion --- */

/* What was looked at and is not white goes to the next generation; then the lists are those of the time from now on. */
static void promote(hk_runtime *runtime, const struct hk_gc_pools *pools, int generation)
{
    int next = generation < 2 ? generation + 1 : 2;
    bool lost = false;
    for (size_t i = 0; i < pools->count; i++) {
        size_t word = (size_t)pools->items[i] * HK_POOL_WORDS;
        uint64_t any = 0;
        for (size_t end = word + HK_POOL_WORDS; word < end; word++) {
            uint64_t survivors = hk_gc_candidates(word, generation) & ~hk_gc_tables.white[word];
            hk_gc_age(word, survivors, next);
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

/* --- a collection --- */

static void call_back(hk_runtime *runtime, bool begins, int generation, uint64_t found)
{
    for (int i = 0; i < 8; i++)
        if (runtime->callbacks[i].function != NULL)
            runtime->callbacks[i].function(runtime, begins, generation, found, runtime->callbacks[i].argument);
}

uint64_t hk_collect_other_bytes(const hk_runtime *runtime)
{
    uint64_t pools = (uint64_t)runtime->acyclic->used_pools + runtime->memory->used_pools;
    int64_t large = runtime->acyclic->large_bytes + runtime->memory->large_bytes;
    return (pools << HK_POOL_SHIFT) + (uint64_t)large + runtime->run_bytes;
}

void hk_collect_save(hk_runtime *runtime, struct hk_dead *dead)
{
    for (size_t i = 0; i < dead->special.count; i++)
        if (hk_gc_array_push(&runtime->garbage, dead->special.items[i]))
            hk_incref(dead->special.items[i]);
    hk_dead_live_on(&dead->special);
    dead->count = 0;
}

/* Returns what was found; -1: no memory. */
static int64_t collect(hk_runtime *runtime, int generation, const struct hk_gc_pools *pools, hk_gc_stats *stats,
                       struct hk_gc_found *found, uint64_t *freed)
{
    struct hk_dead dead;
    runtime->visiting = true;
    bool good = hk_gc_scan(&hk_native_model, pools, generation, found);
    runtime->visiting = false;
    if (!good)
        return -1;
    if (!hk_dead_survey(pools, found, runtime->save_all, &dead)) {
        hk_gc_blacken(pools);
        return -1;
    }
    promote(runtime, pools, generation);
    uint64_t saved = hk_dead_prepare(runtime, &dead);
    if (runtime->save_all)
        hk_collect_save(runtime, &dead);
    *freed = dead.count;
    hk_dead_bury(runtime, pools, &dead);
    stats->candidates += found->candidates;
    stats->collected += *freed;
    stats->resurrected += saved;
    return (int64_t)found->white;
}

void hk_collect_tell(const hk_collection *collection)
{
    if (hk_recorder.collection != NULL)
        hk_recorder.collection(collection);
}

static int64_t collect_because(hk_runtime *runtime, int generation, hk_collection_cause cause)
{
    if (runtime->collecting || runtime->ending)
        return 0;
    if (generation > 2 || generation < 0 || runtime->log_lost)
        generation = 2;
    if (__builtin_expect(runtime->watch != NULL, 0)) {
        hk_watch_enter(runtime, "hk_gc_collect");
        if (generation == 2)
            hk_watch_check(runtime, false);
    }
    runtime->collecting = true;
    call_back(runtime, true, generation, 0);
    uint64_t start = hk_os_clock_ns(), freed = 0;
    struct hk_gc_found about = {0};
    hk_gc_stats *stats = &runtime->stats[generation];
    int64_t found = -1;
    note_all_new(runtime);
    if (pools_for(runtime, generation, &runtime->looked_at))
        found = collect(runtime, generation, &runtime->looked_at, stats, &about, &freed);
    if (found >= 0) {
        if (generation == 2 && runtime->cyclic->arena_count > KEPT_TABLES / HK_ARENA_SIZE)
            hk_gc_scan_discard(runtime->cyclic);
        if (generation == 2) {
            hk_step_trim(runtime);
            hk_free_lists_trim(runtime);
        }
        struct hk_plan_outcome outcome = {generation, about.candidates, about.candidate_bytes, freed,
                                          freed == 0 ? 0 : about.white_bytes};
        hk_plan_learn(&runtime->plan, &outcome, hk_collect_other_bytes(runtime));
    }
    uint64_t took = hk_os_clock_ns() - start;
    stats->collections++;
    stats->nanoseconds += took;
    if (took > stats->longest_nanoseconds)
        stats->longest_nanoseconds = took;
    hk_collect_tell(&(hk_collection){
        .generation = (uint32_t)generation,
        .cause = cause,
        .nanoseconds = took,
        .examined = about.candidates,
        .freed = freed,
        .uncollectable = found > 0 ? (uint64_t)found - freed : 0,
    });
    call_back(runtime, false, generation, found > 0 ? (uint64_t)found : 0);
    runtime->collecting = false;
    return found;
}

int64_t hk_gc_collect(hk_runtime *runtime, int generation)
{
    return collect_because(runtime, generation, HK_COLLECTION_EXPLICIT);
}

void hk_collect_automatic(hk_runtime *runtime)
{
    if (!runtime->enabled || runtime->collecting || runtime->ending)
        return;
    int generation = hk_plan_generation(&runtime->plan, hk_collect_other_bytes(runtime));
    hk_collection_cause cause = generation == 2 ? HK_COLLECTION_GROWTH : HK_COLLECTION_YOUNG;
    if (generation != HK_PLAN_NOTHING && collect_because(runtime, generation, cause) < 0)
        hk_plan_forget_made(&runtime->plan); /* no memory for it: not again at every object */
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
    hk_gc_pools_free(&runtime->looked_at);
    hk_gc_step_give_up(&runtime->step);
    hk_step_tell(runtime);
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
        return hk_plan_made(&runtime->plan) > 0 ? (uint32_t)hk_plan_made(&runtime->plan) : 0;
    return generation == 1 ? runtime->plan.collections : 0;
}

void hk_gc_get_stats(const hk_runtime *runtime, int generation, hk_gc_stats *stats)
{
    *stats = generation >= 0 && generation < HK_GENERATIONS ? runtime->stats[generation] : (hk_gc_stats){0};
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

/* Calls for the runtime's tracked objects, a word of them at a time; false: stop. Those that a collection has found dead, and is
 * busy with, are nobody's any more. */
typedef bool word_function(size_t word, uint64_t tracked, const struct hk_gc_ages *age, void *argument);

static void each_word(hk_runtime *runtime, word_function *function, void *argument)
{
    note_all_new(runtime);
    bool before = runtime->visiting;
    runtime->visiting = true;
    for (struct hk_arena *arena = runtime->cyclic->arenas; arena != NULL; arena = arena->next)
        for (uint64_t used = ~arena->empty; used != 0; used &= used - 1) {
            size_t pool = (size_t)(arena - hk_region.arenas) * HK_ARENA_POOLS + (unsigned)__builtin_ctzll(used);
            for (size_t word = pool * HK_POOL_WORDS; word < (pool + 1) * HK_POOL_WORDS; word++)
                if (!function(word, hk_gc_tables.tracked[word] & ~hk_gc_tables.white[word], &hk_gc_tables.age[word], argument)) {
                    runtime->visiting = before;
                    return;
                }
        }
    runtime->visiting = before;
}

static bool freeze_word(size_t word, uint64_t tracked, const struct hk_gc_ages *age, void *argument)
{
    hk_gc_age(word, tracked, 3);
    return true;
}

static bool unfreeze_word(size_t word, uint64_t tracked, const struct hk_gc_ages *age, void *argument)
{
    hk_gc_age(word, age->low & age->high & tracked, 2);
    return true;
}

static bool count_frozen(size_t word, uint64_t tracked, const struct hk_gc_ages *age, void *argument)
{
    *(uint64_t *)argument += hk_gc_bits(tracked & age->low & age->high);
    return true;
}

void hk_gc_freeze(hk_runtime *runtime)
{
    each_word(runtime, freeze_word, NULL);
    runtime->step.stop = true;
    hk_plan_forget_made(&runtime->plan);
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

static bool objects_of_word(size_t word, uint64_t tracked, const struct hk_gc_ages *age, void *argument)
{
    const struct each_object *each = argument;
    uint64_t low = each->generation & 1 ? age->low : ~age->low;
    uint64_t high = each->generation & 2 ? age->high : ~age->high;
    uint64_t bits = each->generation < 0 ? tracked : tracked & low & high;
    for (; bits != 0; bits &= bits - 1) {
        hk_object *object = hk_granule_start(word * 64 + (unsigned)__builtin_ctzll(bits));
        if ((each->target == NULL || refers_to(object, each->target)) && !each->function(object, each->argument))
            return false;
    }
    return true;
}

void hk_gc_get_objects(hk_runtime *runtime, int generation, hk_gc_object_function *function, void *argument)
{
    struct each_object each = {generation, function, argument, NULL};
    if (generation >= -1 && generation < HK_GENERATIONS)
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
